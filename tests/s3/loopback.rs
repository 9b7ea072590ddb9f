//! Small services on loopback that answer what a test says, and remember what they were asked: an S3 that knows nothing, those
//! that hand out credentials, proxies.

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::s3::http::{Head, read_body};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub head: Head,
    pub body: String,
}

impl Asked {
    /// The first line, without the protocol's name.
    pub fn line(&self) -> &str {
        self.head.start.trim_end_matches(" HTTP/1.1")
    }

    /// The access key of the signature; empty where there is none.
    pub fn who(&self) -> &str {
        let credential = self.head.get("authorization").and_then(|v| v.split_once("Credential=")).map(|(_, rest)| rest);
        credential.and_then(|rest| rest.split_once('/')).map(|(who, _)| who).unwrap_or_default()
    }

    /// The region for which it was signed.
    pub fn region(&self) -> &str {
        let credential = self.head.get("authorization").and_then(|v| v.split_once("Credential=")).map(|(_, rest)| rest);
        credential.and_then(|rest| rest.split('/').nth(2)).unwrap_or_default()
    }
}

/// Status, `name: value` lines, body.
pub type Answered = (u16, &'static str, String);

/// Listens until the test's process ends.
pub struct Small {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Small {
    pub fn start(answer: impl Fn(&Asked) -> Answered + Send + Sync + 'static) -> Small {
        Self::listen(move |asked, stream| {
            let (status, headers, body) = answer(asked);
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).is_ok()
        })
    }

    /// As S3 answers somebody who may nothing: enough to see with what a request came.
    pub fn denying() -> Small {
        Self::start(|_| (403, "", error("AccessDenied")))
    }

    /// Accepts, reads whatever comes, and never answers.
    pub fn silent() -> Small {
        Self::accept(|_, stream| {
            // Until the other side goes away.
            let _ = std::io::copy(&mut &stream, &mut std::io::sink());
        })
    }

    /// A proxy that makes tunnels: all to one address, whatever was asked for.
    pub fn tunnels_to(upstream: &str) -> Small {
        let upstream = upstream.to_owned();
        Self::listen(move |asked, stream| {
            if !asked.head.start.starts_with("CONNECT ") {
                let _ = stream.write_all(b"HTTP/1.1 405 X\r\ncontent-length: 0\r\n\r\n");
                return false;
            }
            let Ok(other) = TcpStream::connect(&upstream) else { return false };
            let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
            let (mut back, mut to) = (other.try_clone().unwrap(), stream.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut back, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
            let mut other = other;
            let _ = std::io::copy(stream, &mut other);
            let _ = other.shutdown(std::net::Shutdown::Both);
            false
        })
    }

    /// `each` says if the connection goes on.
    fn listen(each: impl Fn(&Asked, &mut TcpStream) -> bool + Send + Sync + 'static) -> Small {
        Self::accept(move |all, mut stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while let Ok(Some(head)) = Head::read(&mut reader) {
                let mut body = Vec::new();
                let whole = read_body(&mut reader, head.request_framing().unwrap(), |piece| {
                    body.extend_from_slice(piece);
                    Ok(())
                });
                if whole.is_err() {
                    return;
                }
                let one = Asked { head, body: String::from_utf8_lossy(&body).into_owned() };
                all.lock().unwrap().push(one.clone());
                if !each(&one, &mut stream) {
                    return;
                }
            }
        })
    }

    /// A thread for each connection.
    fn accept(serve: impl Fn(&Mutex<Vec<Asked>>, TcpStream) + Send + Sync + 'static) -> Small {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (serve, asked) = (Arc::new(serve), Arc::new(Mutex::new(Vec::new())));
        let all = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (serve, all) = (Arc::clone(&serve), Arc::clone(&all));
                std::thread::spawn(move || serve(&all, stream));
            }
        });
        Small { address, asked }
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The same, and begins anew.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// As S3 writes errors.
pub fn error(code: &str) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>no</Message></Error>")
}
