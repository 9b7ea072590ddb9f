//! A client's connection: requests one after the other, and what the fault makes of each.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::super::client::elements;
use super::super::http::{Framing, Head, invalid, read_body};
use super::{Fault, Operation, Record, Seen, Shared};

/// A dead peer must not keep a thread for ever; long, as slow answers are answers.
const PATIENCE: Duration = Duration::from_secs(300);

/// Bodies are handed on in pieces of this length at most.
const PIECE: usize = 128 << 10;

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Keep,
    Close,
    Reset,
}

/// Serves a client until its connection ends.
pub(super) fn serve(shared: &Shared, client: TcpStream) {
    let number = shared.number();
    let client = Arc::new(client);
    let _ = client.set_nodelay(true);
    let _ = client.set_read_timeout(Some(PATIENCE));
    shared.state().connections.insert(number, Arc::clone(&client));
    let mut exchange = Exchange { shared, number, client: BufReader::with_capacity(PIECE, &*client), upstream: None };
    let end = loop {
        match exchange.next() {
            Ok(Next::Keep) => {}
            Ok(end) => break end,
            // Either side went away in the middle: so do we.
            Err(_) => break Next::Reset,
        }
    };
    {
        let mut state = shared.state();
        state.connections.remove(&number);
        state.idle.remove(&number);
    }
    if end == Next::Reset {
        let _ = SockRef::from(&*client).set_linger(Some(Duration::ZERO));
    } else {
        let _ = client.shutdown(Shutdown::Write);
        drain(&client);
    }
}

/// Reads what a client still sends: a socket that is closed over unread bytes resets the connection, answer and all.
fn drain(client: &TcpStream) {
    let _ = client.set_read_timeout(Some(Duration::from_secs(2)));
    let mut from = client;
    let mut rest = [0; 64 << 10];
    while matches!(from.read(&mut rest), Ok(read) if read > 0) {}
}

struct Exchange<'a> {
    shared: &'a Shared,
    number: u64,
    client: BufReader<&'a TcpStream>,
    upstream: Option<BufReader<TcpStream>>,
}

/// A request under way.
struct Request {
    number: u64,
    head: Head,
    framing: Framing,
    fault: Fault,
    record: Record,
}

impl Request {
    /// Lets others know how far it is: always before the client can know it.
    fn tell(&self, shared: &Shared) {
        let Record { status, served, up, down, .. } = self.record;
        shared.update(self.number, |record| (record.status, record.served, record.up, record.down) = (status, served, up, down));
    }
}

impl Exchange<'_> {
    fn next(&mut self) -> Result<Next> {
        self.shared.state().idle.insert(self.number, true);
        let Some(head) = Head::read(&mut self.client)? else { return Ok(Next::Close) };
        self.shared.state().idle.insert(self.number, false);
        let (seen, fault, latency) = self.shared.look(&head);
        let framing = head.request_framing()?;
        let record = Record { seen, fault: fault.clone(), status: None, served: None, up: 0, down: 0 };
        let number = self.shared.begin(record.clone());
        let mut request = Request { number, head, framing, fault, record };
        std::thread::sleep(latency);
        self.meet(&mut request)
    }

    fn meet(&mut self, request: &mut Request) -> Result<Next> {
        match request.fault {
            Fault::ResetBefore => return Ok(Next::Reset),
            Fault::Error(status, code) => {
                self.read_whole(request)?;
                return self.answer_error(request, status, code);
            }
            Fault::Hang => return self.hang(),
            Fault::Later(pause) => {
                let bytes = self.read_whole(request)?;
                let upstream = self.shared.upstream.clone();
                let method = request.record.seen.method().to_owned();
                std::thread::spawn(move || {
                    std::thread::sleep(pause);
                    let mut upstream = BufReader::new(connect(&upstream)?);
                    upstream.get_mut().write_all(&bytes)?;
                    read_answer(&mut upstream, &method)
                });
                return Ok(Next::Reset);
            }
            Fault::Twice => {
                let bytes = self.read_whole(request)?;
                let method = request.record.seen.method().to_owned();
                let upstream = self.upstream()?;
                upstream.get_mut().write_all(&bytes)?;
                let first = read_answer(upstream, &method)?;
                if !first.0.keeps_alive() {
                    self.upstream = None;
                }
                self.upstream()?.get_mut().write_all(&bytes)?;
            }
            _ => {
                if let Fault::Delay(pause) = request.fault {
                    std::thread::sleep(pause);
                }
                if let Some(next) = self.hand_on(request)? {
                    return Ok(next);
                }
            }
        }
        self.hand_back(request)
    }

    /// The whole request as it is sent to the service, read from the client.
    fn read_whole(&mut self, request: &mut Request) -> Result<Vec<u8>> {
        let mut head = request.head.clone();
        if expects_leave(&head) {
            // The header stays, as it may be signed: the service gives its leave in vain.
            self.client.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body: Vec<u8> = Vec::new();
        read_body(&mut self.client, request.framing, |piece| {
            body.extend(piece);
            Ok(())
        })?;
        request.record.up = body.len() as u64;
        request.tell(self.shared);
        if request.framing == Framing::Chunked {
            head.remove("transfer-encoding");
            head.set("content-length", &body.len().to_string());
        }
        let mut whole = Vec::new();
        head.write(&mut whole)?;
        whole.extend(body);
        Ok(whole)
    }

    /// Hands the request on, as it comes. An end where that is all.
    fn hand_on(&mut self, request: &mut Request) -> Result<Option<Next>> {
        self.upstream()?;
        let (shared, client) = (self.shared, &mut self.client);
        let Some(upstream) = &mut self.upstream else { return Err(ErrorKind::NotConnected.into()) };
        request.head.write(upstream.get_mut())?;
        if expects_leave(&request.head) && request.framing != Framing::Length(0) {
            let leave = Head::read(upstream)?.ok_or(ErrorKind::UnexpectedEof)?;
            if leave.status()? != 100 {
                // Refused without its body: the client doesn't send it, or sends it in vain.
                let next = self.hand_back_as(request, leave)?;
                return Ok(Some(if next == Next::Keep { Next::Close } else { next }));
            }
            leave.write(client.get_mut())?;
        }
        let length = if let Framing::Length(length) = request.framing { length } else { 0 };
        let stop = if let Fault::ResetInRequest(place) = request.fault { Some(within(place, length)) } else { None };
        let flip = if let Fault::FlipRequest(place) = request.fault { Some(within(place, length)) } else { None };
        let mut refused = false;
        let framing = request.framing;
        let sent = read_body(client, framing, |piece| {
            if let Fault::Slowly(pause) = request.fault {
                std::thread::sleep(pause);
            }
            let piece = part(piece, request.record.up, stop, flip);
            request.record.up += piece.len() as u64;
            request.tell(shared);
            if !refused && write_piece(upstream.get_mut(), &piece, framing).is_err() {
                // It has answered before it had all, and reads no more. Its answer may lie there.
                refused = true;
            }
            if stop == Some(request.record.up) { Err(ErrorKind::ConnectionReset.into()) } else { Ok(()) }
        });
        if stop.is_some() {
            self.upstream = None;
            return Ok(Some(Next::Reset));
        }
        sent?;
        if framing == Framing::Chunked && !refused {
            let _ = upstream.get_mut().write_all(b"0\r\n\r\n");
        }
        Ok(None)
    }

    /// Hands the service's answer back.
    fn hand_back(&mut self, request: &mut Request) -> Result<Next> {
        let upstream = self.upstream.as_mut().ok_or(ErrorKind::NotConnected)?;
        let head = loop {
            let head = Head::read(upstream)?.ok_or(ErrorKind::UnexpectedEof)?;
            if head.status()? != 100 {
                break head;
            }
        };
        self.hand_back_as(request, head)
    }

    fn hand_back_as(&mut self, request: &mut Request, mut head: Head) -> Result<Next> {
        let clock = self.shared.state().clock;
        if !clock.is_zero() {
            head.set("Date", &date(clock));
        }
        request.record.served = Some(head.status()?);
        request.tell(self.shared);
        let seen = &request.record.seen;
        if seen.operation.writes() && head.status()? == 200 {
            let written = format!("{}/{}", seen.bucket, seen.key);
            self.shared.state().written.entry(written).or_insert_with(Instant::now);
        }
        let method = request.record.seen.method().to_owned();
        let framing = head.answer_framing(&method)?;
        let keeps = head.keeps_alive() && framing != Framing::UntilClosed;
        let next = match request.fault {
            Fault::ResetAfterRequest => Ok(Next::Reset),
            Fault::CloseAfterRequest => Ok(Next::Close),
            Fault::ErrorAfter(status, code) => self.answer_error(request, status, code),
            _ if request.record.seen.operation == Operation::List => self.hand_back_list(request, head, framing),
            _ => {
                if let Fault::DelayAnswer(pause) = request.fault {
                    std::thread::sleep(pause);
                }
                self.hand_back_body(request, &head, framing)
            }
        };
        // Where the answer's body was not read to its end, the connection is of no more use.
        let whole = matches!(next, Ok(Next::Keep)) && !matches!(request.fault, Fault::ErrorAfter(..));
        if !keeps || !whole {
            self.upstream = None;
        }
        match next {
            Ok(Next::Keep) if !keeps && !matches!(request.fault, Fault::ErrorAfter(..)) => Ok(Next::Close),
            other => other,
        }
    }

    fn hand_back_body(&mut self, request: &mut Request, head: &Head, framing: Framing) -> Result<Next> {
        let (shared, client) = (self.shared, &mut self.client);
        let Some(upstream) = &mut self.upstream else { return Err(ErrorKind::NotConnected.into()) };
        let length = if let Framing::Length(length) = framing { length } else { 0 };
        let stop = match request.fault {
            Fault::ResetInAnswer(place) | Fault::CutAnswer(place) => Some(within(place, length)),
            _ => None,
        };
        let flip = if let Fault::FlipAnswer(place) = request.fault { Some(within(place, length)) } else { None };
        let cut = if matches!(request.fault, Fault::CutAnswer(_)) { Next::Close } else { Next::Reset };
        if stop.is_some() && framing == Framing::Length(0) {
            return Ok(cut); // there is no body to cut: no answer at all
        }
        request.record.status = Some(head.status()?);
        request.tell(self.shared);
        head.write(client.get_mut())?;
        if stop == Some(0) {
            return Ok(cut);
        }
        let done = read_body(upstream, framing, |piece| {
            let piece = part(piece, request.record.down, stop, flip);
            request.record.down += piece.len() as u64;
            request.tell(shared);
            write_piece(client.get_mut(), &piece, framing)?;
            if stop == Some(request.record.down) { Err(Error::other("enough")) } else { Ok(()) }
        });
        if stop == Some(request.record.down) {
            return Ok(cut);
        }
        done?;
        if framing == Framing::Chunked {
            client.get_mut().write_all(b"0\r\n\r\n")?;
        }
        Ok(Next::Keep)
    }

    /// Lists are small: whole, and remembered.
    fn hand_back_list(&mut self, request: &mut Request, mut head: Head, framing: Framing) -> Result<Next> {
        let upstream = self.upstream.as_mut().ok_or(ErrorKind::NotConnected)?;
        let mut body = whole_body(upstream, framing)?;
        head.remove("transfer-encoding");
        head.set("content-length", &body.len().to_string());
        if head.status()? == 200 {
            let mut state = self.shared.state();
            let target = request.record.seen.target().to_owned();
            let oldest = state.lists.entry(target).or_insert_with(|| (head.clone(), body.clone()));
            match request.fault {
                Fault::Stale => (head, body) = oldest.clone(),
                Fault::StaleBy(age) => {
                    let bucket = &request.record.seen.bucket;
                    let young = |key: &str| state.written.get(&format!("{bucket}/{key}")).is_some_and(|at| at.elapsed() < age);
                    body = without(&body, young);
                    head.set("content-length", &body.len().to_string());
                }
                _ => {}
            }
        }
        if let Fault::DelayAnswer(pause) = request.fault {
            std::thread::sleep(pause);
        }
        let framing = Framing::Length(body.len() as u64);
        self.hand_back_bytes(request, &head, &body, framing)
    }

    /// An answer whose body is at hand.
    fn hand_back_bytes(&mut self, request: &mut Request, head: &Head, body: &[u8], framing: Framing) -> Result<Next> {
        let length = body.len() as u64;
        let flip = if let Fault::FlipAnswer(place) = request.fault { Some(within(place, length)) } else { None };
        let (stop, next) = match (&request.fault, framing) {
            (Fault::ResetInAnswer(place), _) => (within(*place, length), Next::Reset),
            (Fault::CutAnswer(place), _) => (within(*place, length), Next::Close),
            _ => (length, Next::Keep),
        };
        (request.record.status, request.record.down) = (Some(head.status()?), stop);
        request.tell(self.shared);
        let client = self.client.get_mut();
        head.write(client)?;
        client.write_all(&part(body, 0, Some(stop), flip))?;
        Ok(next)
    }

    /// An answer of ours, as S3 writes errors. The request has been read.
    fn answer_error(&mut self, request: &mut Request, status: u16, code: &str) -> Result<Next> {
        let xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>by the proxy</Message></Error>");
        let body = if request.record.seen.method() == "HEAD" { "" } else { xml.as_str() };
        let mut head = Head { start: format!("HTTP/1.1 {status} {code}"), headers: Vec::new() };
        head.set("Content-Type", "application/xml");
        head.set("Content-Length", &body.len().to_string());
        head.set("Date", &date(self.shared.state().clock));
        (request.record.status, request.record.down) = (Some(status), body.len() as u64);
        request.tell(self.shared);
        let client = self.client.get_mut();
        head.write(client)?;
        client.write_all(body.as_bytes())?;
        Ok(Next::Keep)
    }

    /// Waits for the client to give up.
    fn hang(&mut self) -> Result<Next> {
        self.client.get_ref().set_read_timeout(Some(Duration::from_millis(100)))?;
        loop {
            if self.shared.stopped.load(Ordering::SeqCst) {
                return Ok(Next::Reset);
            }
            match self.client.fill_buf() {
                Ok([]) => return Ok(Next::Close),
                Ok(bytes) => {
                    let read = bytes.len();
                    self.client.consume(read);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The connection to the service: the one at hand, unless the service has ended it.
    fn upstream(&mut self) -> Result<&mut BufReader<TcpStream>> {
        if self.upstream.as_ref().is_some_and(|upstream| is_over(upstream.get_ref())) {
            self.upstream = None;
        }
        match &mut self.upstream {
            Some(upstream) => Ok(upstream),
            none => Ok(none.insert(BufReader::with_capacity(PIECE, connect(&self.shared.upstream)?))),
        }
    }
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn is_over(stream: &TcpStream) -> bool {
    let mut byte = [0];
    let waits = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut byte));
    let open = matches!(&waits, Err(e) if e.kind() == ErrorKind::WouldBlock);
    !open || stream.set_nonblocking(false).is_err()
}

/// The time of a clock that is so far ahead, as HTTP writes it.
fn date(ahead: jiff::SignedDuration) -> String {
    (jiff::Timestamp::now() + ahead).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Will the client wait for leave to send its body (RFC 9110, 10.1.1)?
fn expects_leave(head: &Head) -> bool {
    head.get("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue"))
}

fn read_answer(upstream: &mut BufReader<TcpStream>, method: &str) -> Result<(Head, Vec<u8>)> {
    let head = loop {
        let head = Head::read(upstream)?.ok_or(ErrorKind::UnexpectedEof)?;
        if head.status()? >= 200 {
            break head;
        }
    };
    let body = whole_body(upstream, head.answer_framing(method)?)?;
    Ok((head, body))
}

fn whole_body(from: &mut impl BufRead, framing: Framing) -> Result<Vec<u8>> {
    let mut body: Vec<u8> = Vec::new();
    read_body(from, framing, |piece| {
        body.extend(piece);
        if body.len() > 64 << 20 { Err(invalid("an answer that is too large to keep")) } else { Ok(()) }
    })?;
    Ok(body)
}

fn write_piece(to: &mut impl Write, piece: &[u8], framing: Framing) -> Result<()> {
    if piece.is_empty() {
        return Ok(());
    }
    if framing != Framing::Chunked {
        return to.write_all(piece);
    }
    to.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
    to.write_all(piece)?;
    to.write_all(b"\r\n")
}

/// A list without the objects whose keys are such.
fn without(list: &[u8], left_out: impl Fn(&str) -> bool) -> Vec<u8> {
    let text = String::from_utf8_lossy(list);
    let mut parts = text.split("<Contents>");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (_, after) = part.split_once("</Contents>").unwrap_or((part, ""));
        let hidden = elements(part, "Key").next().is_some_and(|key| left_out(&key));
        if !hidden {
            kept.push_str("<Contents>");
        }
        kept.push_str(if hidden { after } else { part });
    }
    kept.into_bytes()
}

/// A place in a body of this length; of an unknown one, any.
fn within(place: u64, length: u64) -> u64 {
    // Of what comes in chunks the length isn't known: somewhere in its front.
    place % if length == 0 { 512 } else { length }
}

/// Of a piece that begins at this offset: what is before the stop, with the wrong bit if that lies in it.
fn part(piece: &[u8], offset: u64, stop: Option<u64>, flip: Option<u64>) -> Cow<'_, [u8]> {
    let before = stop.map_or(u64::MAX, |stop| stop.saturating_sub(offset));
    let piece = &piece[..piece.len().min(usize::try_from(before).unwrap_or(usize::MAX))];
    let at = flip.and_then(|place| place.checked_sub(offset)).and_then(|at| usize::try_from(at).ok());
    let Some(at) = at.filter(|at| *at < piece.len()) else { return Cow::Borrowed(piece) };
    let mut wrong = piece.to_vec();
    // Another one in every place.
    wrong[at] ^= 1 << ((offset + at as u64) % 8);
    Cow::Owned(wrong)
}
