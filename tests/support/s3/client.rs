//! A raw S3 client: one request, signed by hand, one answer. What an SDK would never send, it sends.

use std::io::{BufReader, Read, Result, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use super::http::{Head, read_body};
use super::sign::{Keys, Signed, encode_path, encode_query, now, sha256};

/// A request; sent by [`Client::send`].
#[derive(Debug, Clone)]
pub struct Request {
    pub method: &'static str,
    /// `/bucket/key`, not encoded.
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    beside: Vec<(String, String)>,
    payload: Option<String>,
    host: Option<String>,
    time: Option<String>,
    signed: bool,
}

impl Request {
    pub fn new(method: &'static str, path: impl Into<String>) -> Request {
        let (query, headers, body) = (Vec::new(), Vec::new(), Vec::new());
        Request { method, path: path.into(), query, headers, body, beside: Vec::new(), payload: None, host: None, time: None, signed: true }
    }

    pub fn get(path: impl Into<String>) -> Request {
        Request::new("GET", path)
    }

    pub fn put(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Request {
        Request::new("PUT", path).body(body)
    }

    pub fn query(mut self, name: &str, value: &str) -> Request {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A header that isn't signed, as those of the connection.
    pub fn header_beside(mut self, name: &str, value: &str) -> Request {
        self.beside.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    /// Create, don't overwrite.
    pub fn if_absent(self) -> Request {
        self.header("if-none-match", "*")
    }

    /// Another `x-amz-content-sha256` than the body's.
    pub fn claiming(mut self, payload: &str) -> Request {
        self.payload = Some(payload.to_owned());
        self
    }

    /// Another `host` than the one it is sent to.
    pub fn host(mut self, host: &str) -> Request {
        self.host = Some(host.to_owned());
        self
    }

    /// Another time than now: `20130524T000000Z`.
    pub fn at(mut self, time: &str) -> Request {
        self.time = Some(time.to_owned());
        self
    }

    pub fn unsigned(mut self) -> Request {
        self.signed = false;
        self
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of an error: `NoSuchKey`.
    pub fn code(&self) -> String {
        elements(&self.text(), "Code").next().unwrap_or_default()
    }

    /// It must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert!(self.status == status, "{status} was expected\n{} {:?}\n{}", self.status, self.headers, self.text());
        self
    }
}

/// The contents of all elements of this name in a piece of XML, entities resolved. Not for elements within themselves.
pub fn elements(xml: &str, name: &str) -> impl Iterator<Item = String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let parts: Vec<&str> = xml.split(&open).skip(1).filter_map(|rest| Some(rest.split_once(&close)?.0)).collect();
    let resolved = |text: &str| {
        let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&amp;", "&")];
        entities.iter().fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character))
    };
    parts.into_iter().map(resolved).collect::<Vec<_>>().into_iter()
}

/// The authorities that a client believes.
#[derive(Debug, Clone)]
pub struct Trust(Arc<rustls::ClientConfig>);

impl Trust {
    /// Those of a PEM file, no others.
    pub fn file(pem: &Path) -> Trust {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(pem).expect("a PEM file") {
            roots.add(certificate.expect("a certificate")).expect("an authority");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Trust(Arc::new(builder.expect("versions of TLS").with_root_certificates(roots).with_no_client_auth()))
    }
}

/// An identity at an endpoint.
#[derive(Debug, Clone)]
pub struct Client {
    secure: bool,
    address: String,
    keys: Keys,
    region: String,
    trust: Option<Trust>,
}

impl Client {
    pub fn new(endpoint: &str, keys: Keys, region: &str) -> Client {
        let (scheme, address) = endpoint.split_once("://").expect("a URL");
        Client { secure: scheme == "https", address: address.to_owned(), keys, region: region.to_owned(), trust: None }
    }

    pub fn trusting(mut self, trust: Trust) -> Client {
        self.trust = Some(trust);
        self
    }

    /// The same identity at another endpoint (a proxy's).
    pub fn at(&self, endpoint: &str) -> Client {
        let moved = Client::new(endpoint, self.keys.clone(), &self.region);
        Client { trust: self.trust.clone(), ..moved }
    }

    /// The same endpoint with other keys.
    pub fn with_keys(&self, keys: Keys) -> Client {
        Client { keys, ..self.clone() }
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Answer {
        self.try_send(request).unwrap_or_else(|e| panic!("{} {} at {}: {e}", request.method, request.path, self.address))
    }

    /// As [`Client::send`]; the error of a connection that breaks.
    pub fn try_send(&self, request: &Request) -> Result<Answer> {
        self.connect()?.send(request)
    }

    pub fn try_get(&self, path: &str) -> Result<Answer> {
        self.try_send(&Request::get(path))
    }

    /// A connection for several requests.
    pub fn connect(&self) -> Result<Connection<'_>> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = if self.secure {
            let trust = self.trust.clone().expect("an authority for HTTPS");
            let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host).to_owned();
            let name = ServerName::try_from(host).expect("a name");
            let session = rustls::ClientConnection::new(trust.0, name).map_err(std::io::Error::other)?;
            Box::new(rustls::StreamOwned::new(session, stream))
        } else {
            Box::new(stream)
        };
        Ok(Connection { client: self, stream: BufReader::new(stream) })
    }

    /// Head and body as they are sent, for tests that send them piece by piece.
    pub fn bytes(&self, request: &Request) -> (Vec<u8>, Vec<u8>) {
        let mut head = Vec::new();
        self.head(request).write(&mut head).expect("room");
        (head, request.body.clone())
    }

    fn head(&self, request: &Request) -> Head {
        let payload = request.payload.clone().unwrap_or_else(|| sha256(&request.body));
        let time = request.time.clone().unwrap_or_else(now);
        let mut headers = vec![
            ("host".to_owned(), request.host.clone().unwrap_or_else(|| self.address.clone())),
            ("x-amz-content-sha256".to_owned(), payload.clone()),
            ("x-amz-date".to_owned(), time.clone()),
        ];
        headers.extend(request.headers.iter().cloned());
        let query = encode_query(&request.query);
        let target = format!("{}{}{query}", encode_path(&request.path), if query.is_empty() { "" } else { "?" });
        if request.signed {
            let (path, query, region) = (request.path.as_str(), request.query.as_slice(), self.region.as_str());
            let signed = Signed { method: request.method, path, query, headers: &headers, payload: &payload, time: &time, region };
            headers.push(("authorization".to_owned(), signed.authorization(&self.keys)));
        }
        headers.extend(request.beside.iter().cloned());
        if !headers.iter().any(|(name, _)| ["content-length", "transfer-encoding"].contains(&name.as_str())) {
            headers.push(("content-length".to_owned(), request.body.len().to_string()));
        }
        Head { start: format!("{} {target} HTTP/1.1", request.method), headers }
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A connection that is kept.
pub struct Connection<'a> {
    client: &'a Client,
    stream: BufReader<Box<dyn Stream>>,
}

impl Connection<'_> {
    /// One request and its whole answer.
    pub fn send(&mut self, request: &Request) -> Result<Answer> {
        let to = self.stream.get_mut();
        let (mut bytes, body) = self.client.bytes(request);
        bytes.extend(body);
        to.write_all(&bytes)?;
        to.flush()?;
        let head = loop {
            let head = Head::read(&mut self.stream)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            if head.status()? >= 200 {
                break head;
            }
        };
        let mut body = Vec::new();
        read_body(&mut self.stream, head.answer_framing(request.method)?, |piece| {
            body.extend(piece);
            Ok(())
        })?;
        Ok(Answer { status: head.status()?, headers: head.headers, body })
    }
}
