//! HTTP/1.1, as much as S3 needs: heads, and the three ways in which a body's end is told (RFC 9112).

use std::io::{BufRead, Error, ErrorKind, Read, Result, Write};

const LARGEST_HEAD: u64 = 64 << 10;

/// The head of a request or of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The first line.
    pub start: String,
    /// Names as they were sent.
    pub headers: Vec<(String, String)>,
}

/// How the body's end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    UntilClosed,
}

pub fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, what.into())
}

impl Head {
    /// The next head; none where the connection ends before its first byte.
    pub fn read(from: &mut impl BufRead) -> Result<Option<Head>> {
        let mut from = from.take(LARGEST_HEAD);
        let start = line(&mut from)?;
        if start.is_empty() {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let text = line(&mut from)?;
            match text.trim_end_matches(['\r', '\n']) {
                "" if text.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
                "" => break,
                header => {
                    let (name, value) = header.split_once(':').ok_or_else(|| invalid(header))?;
                    headers.push((name.to_owned(), value.trim().to_owned()));
                }
            }
        }
        Ok(Some(Head { start: start.trim_end().to_owned(), headers }))
    }

    /// The value of the first header of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Sets a header in place of all of that name.
    pub fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    pub fn write(&self, to: &mut impl Write) -> Result<()> {
        let mut text = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        to.write_all(format!("{text}\r\n").as_bytes())
    }

    /// The status of an answer.
    pub fn status(&self) -> Result<u16> {
        let status = self.start.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| invalid(&self.start))
    }

    /// How a request's body ends.
    pub fn request_framing(&self) -> Result<Framing> {
        self.framing(Framing::Length(0))
    }

    /// How the body of an answer to a request of this method ends.
    pub fn answer_framing(&self, method: &str) -> Result<Framing> {
        let status = self.status()?;
        if method == "HEAD" || status < 200 || matches!(status, 204 | 304) {
            return Ok(Framing::Length(0));
        }
        self.framing(Framing::UntilClosed)
    }

    fn framing(&self, otherwise: Framing) -> Result<Framing> {
        if self.get("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            return Ok(Framing::Chunked);
        }
        match self.get("content-length") {
            Some(length) => Ok(Framing::Length(length.parse().map_err(|_| invalid(length))?)),
            None => Ok(otherwise),
        }
    }

    /// May the connection be used again?
    pub fn keeps_alive(&self) -> bool {
        !self.get("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }
}

/// A line with its end; empty at the end of the connection.
fn line(from: &mut impl BufRead) -> Result<String> {
    let mut bytes = Vec::new();
    from.read_until(b'\n', &mut bytes)?;
    if !bytes.is_empty() && bytes.last() != Some(&b'\n') {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    String::from_utf8(bytes).map_err(|_| invalid("a line that is not UTF-8"))
}

/// Hands a body on piece by piece, without what its framing adds. `each` may end it by an error.
pub fn read_body(from: &mut impl BufRead, framing: Framing, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    match framing {
        Framing::Length(length) => pieces(from, Some(length), &mut each),
        Framing::UntilClosed => pieces(from, None, &mut each),
        Framing::Chunked => loop {
            let head = line(from)?;
            let digits = head.split(';').next().unwrap_or_default().trim();
            let length = u64::from_str_radix(digits, 16).map_err(|_| invalid(&head))?;
            if length == 0 {
                // Trailers, up to an empty line.
                while !line(from)?.trim_end().is_empty() {}
                return Ok(());
            }
            pieces(from, Some(length), &mut each)?;
            if !line(from)?.trim_end().is_empty() {
                return Err(invalid("a chunk that is longer than it says"));
            }
        },
    }
}

fn pieces(from: &mut impl BufRead, length: Option<u64>, each: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut left = length.unwrap_or(u64::MAX);
    while left > 0 {
        let available = from.fill_buf()?;
        if available.is_empty() {
            return if length.is_none() { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
        let taken = available.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        each(&available[..taken])?;
        from.consume(taken);
        left -= taken as u64;
    }
    Ok(())
}
