//! Reading: whole objects and ranges, from the middle of a body that broke off too, of the version that was chosen.

use std::future::Future;
use std::time::{Duration, Instant};

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;

use super::attempt::{Patience, Refusal, Size, Trouble, chain, understand};
use super::{S3Store, date::DateOfAnswer};
use crate::store::{ObjectName, RequestKind, Start, StoreError, Version};

/// So many bytes of an attempt that broke off count as progress, after which the time to try begins anew. With less than
/// that at a time a pack would take for ever.
const PROGRESS: usize = 64 << 10;

/// What is known of an object without its bytes.
pub(super) struct Look {
    pub(super) size: u64,
    /// By the service's clock at both ends.
    pub(super) age: Option<Duration>,
}

/// What an attempt at reading gave.
struct Piece {
    bytes: Vec<u8>,
    /// The whole object's length.
    size: u64,
    tag: Option<String>,
    /// Why there is no more of it.
    broken: Option<String>,
}

/// Which object it was of which some bytes came.
struct Whose {
    tag: String,
    size: u64,
}

impl Piece {
    /// Whatever the condition said.
    fn is_of_another(&self, first: &Whose) -> bool {
        self.size != first.size || self.tag.as_ref().is_some_and(|tag| *tag != first.tag)
    }
}

const REPLACED: &str = "the object was replaced while it was read";

/// Which bytes.
#[derive(Clone, Copy)]
enum Span {
    /// The whole object, if it has at most so many.
    Whole(u64),
    /// So many from an offset.
    Part(u64, usize),
    /// The first, at most so many, and not none.
    First(usize),
}

impl S3Store {
    pub(super) fn read_whole(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError> {
        Ok(self.fetch(name, Span::Whole(max))?.bytes)
    }

    pub(super) fn read_part(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        if len == 0 {
            let size = self.look_at(name)?.size;
            let short = StoreError::Short { name: name.clone(), offset, len, size };
            return if offset <= size { Ok(Vec::new()) } else { Err(short) };
        }
        Ok(self.fetch(name, Span::Part(offset, len))?.bytes)
    }

    pub(super) fn read_first(&self, name: &ObjectName, most: usize) -> Result<Start, StoreError> {
        match self.fetch(name, Span::First(most.max(1))) {
            // An empty object has no first byte.
            Err(StoreError::Short { size: 0, .. }) => Ok(Start { bytes: Vec::new(), size: 0 }),
            other => other,
        }
    }

    fn fetch(&self, name: &ObjectName, span: Span) -> Result<Start, StoreError> {
        let what = format!("reading {name} in {}", self.settings.place());
        let version = self.layers.chosen_of(name);
        let mut patience = Patience::new(self, &what);
        let mut got: Vec<u8> = Vec::new();
        // Of whose object `got` is the beginning.
        let mut first: Option<Whose> = None;
        // Whole, and not as its checksum says.
        let mut wrong: Option<Vec<u8>> = None;
        loop {
            let (had, asked) = (got.len() as u64, Instant::now());
            let piece = self.ask_by(&mut patience, RequestKind::Get, Size::Received(span.most()), || {
                self.get(name, span, had, first.as_ref().map(|first| first.tag.clone()), version.as_ref(), &what)
            });
            let piece = match piece {
                // Another object has this name now than the one whose first part was read; not every service looks at If-Match.
                Ok(piece) if first.as_ref().is_some_and(|first| piece.is_of_another(first)) => {
                    (got, first) = (Vec::new(), None);
                    patience.wait(REPLACED.to_owned(), false)?;
                    continue;
                }
                Err(Refusal::Condition | Refusal::Range) if had > 0 => {
                    (got, first) = (Vec::new(), None);
                    patience.wait(REPLACED.to_owned(), false)?;
                    continue;
                }
                Ok(piece) => piece,
                Err(Refusal::Absent) => return Err(self.absent(name)),
                Err(Refusal::Range) => return Err(self.too_short(name, span)?),
                Err(other) => return Err(other.into_error(&what)),
            };
            self.counts.received(piece.bytes.len() as u64, asked.elapsed());
            let (size, wanted) = (piece.size, span.length_in(piece.size, name)?);
            let much = piece.bytes.len() >= PROGRESS;
            if got.is_empty() {
                got = piece.bytes
            } else {
                got.extend_from_slice(&piece.bytes)
            }
            match piece.broken {
                None if got.len() as u64 == wanted => return Ok(Start { bytes: got, size }),
                None => {
                    let problem = format!("{} of {wanted} bytes came, of an object of {size}", got.len());
                    (got, first) = (Vec::new(), None);
                    patience.wait(problem, false)?;
                }
                // All came and doesn't agree with its checksum, or more than that: from the beginning. The same a second
                // time: so it lies there, and whoever opens it says what is wrong with it.
                Some(why) if got.len() as u64 >= wanted => {
                    let whole = got.len() as u64 == wanted;
                    if whole && wrong.as_ref() == Some(&got) {
                        return Ok(Start { bytes: got, size });
                    }
                    wrong = whole.then_some(got);
                    (got, first) = (Vec::new(), None);
                    patience.wait(why, false)?;
                }
                Some(why) => {
                    first = piece.tag.map(|tag| Whose { tag, size });
                    if first.is_none() {
                        got.clear();
                    } else if much {
                        patience.progressed();
                    }
                    patience.wait(why, false)?;
                }
            }
        }
    }

    /// One GET, of what is still missing.
    fn get(
        &self,
        name: &ObjectName,
        span: Span,
        had: u64,
        tag: Option<String>,
        version: Option<&Version>,
        what: &str,
    ) -> impl Future<Output = Result<Piece, Trouble>> + Send + 'static {
        let range = match span {
            Span::Whole(_) if had == 0 => None,
            Span::Whole(_) => Some(format!("bytes={had}-")),
            Span::Part(offset, len) => {
                let (from, to) = (offset.saturating_add(had), offset.saturating_add(len as u64).saturating_sub(1));
                Some(format!("bytes={from}-{to}"))
            }
            Span::First(most) => Some(format!("bytes={had}-{}", most.saturating_sub(1))),
        };
        let ranged = range.is_some();
        let request = self.get_request(name, version).set_range(range).set_if_match(tag);
        let (what, name, kept) = (what.to_owned(), name.clone(), self.layers.keeper());
        let silence = self.silence();
        async move {
            let sent = tokio::time::timeout(silence, request.send()).await;
            let sent = sent.map_err(|_| Trouble::Passing { why: format!("no answer within {} s", silence.as_secs()), too_much: false })?;
            let answer = sent.map_err(|e| understand(e, &what))?;
            kept.note(answer.version_id());
            let size = size_of(&answer, ranged)
                .ok_or_else(|| Trouble::Passing { why: "an answer that doesn't say how long the object is".to_owned(), too_much: false })?;
            // Nothing longer than was asked for is taken.
            let wanted = match span.length_in(size, &name) {
                Ok(wanted) => wanted.saturating_sub(had),
                Err(_) => return Ok(Piece { bytes: Vec::new(), size, tag: None, broken: None }),
            };
            Ok(take_body(answer, size, wanted, silence).await)
        }
    }

    fn get_request(&self, name: &ObjectName, version: Option<&Version>) -> GetObjectFluentBuilder {
        let request = self.client.get_object().bucket(&self.settings.bucket).key(self.key(name.as_str()));
        request.set_version_id(version.map(|v| v.id().to_owned()))
    }

    /// The service says that nothing of the range is in the object.
    fn too_short(&self, name: &ObjectName, span: Span) -> Result<StoreError, StoreError> {
        let size = self.look_at(name)?.size;
        Ok(match span {
            Span::Part(offset, len) => StoreError::Short { name: name.clone(), offset, len, size },
            Span::First(len) => StoreError::Short { name: name.clone(), offset: 0, len, size },
            Span::Whole(max) => StoreError::TooLarge { name: name.clone(), size, max },
        })
    }

    /// How long the object is, and how old. Not by HEAD: its answers have no body, so that a bucket that is missing and
    /// an object that is missing look the same.
    pub(super) fn look_at(&self, name: &ObjectName) -> Result<Look, StoreError> {
        let what = format!("looking at {name} in {}", self.settings.place());
        let version = self.layers.chosen_of(name);
        let one = |range: Option<&str>| {
            let request = self.get_request(name, version.as_ref()).set_range(range.map(str::to_owned));
            let (what, date) = (what.clone(), DateOfAnswer::default());
            let ranged = range.is_some();
            async move {
                let sent = request.customize().interceptor(date.clone()).send().await;
                let answer = sent.map_err(|e| understand(e, &what))?;
                let size = size_of(&answer, ranged);
                let age = answer.last_modified().and_then(|then| date.since(then.secs()));
                Ok((size, age))
            }
        };
        let found = match self.ask(RequestKind::Get, &what, Size::Small, || one(Some("bytes=0-0"))) {
            // An empty object has no first byte.
            Err(Refusal::Range) => self.ask(RequestKind::Get, &what, Size::Small, || one(None)),
            other => other,
        };
        match found {
            Ok((Some(size), age)) => Ok(Look { size, age }),
            Ok((None, _)) => Err(Refusal::Range.into_error(&what)),
            Err(Refusal::Absent) => Err(self.absent(name)),
            Err(other) => Err(other.into_error(&what)),
        }
    }
}

impl Span {
    /// The most bytes that can come.
    fn most(self) -> u64 {
        match self {
            Span::Whole(max) => max,
            Span::Part(_, len) | Span::First(len) => len as u64,
        }
    }

    /// How many bytes of an object of this size are asked for.
    fn length_in(self, size: u64, name: &ObjectName) -> Result<u64, StoreError> {
        match self {
            Span::Whole(max) if size > max => Err(StoreError::TooLarge { name: name.clone(), size, max }),
            Span::Whole(_) => Ok(size),
            Span::Part(offset, len) if offset.checked_add(len as u64).is_none_or(|end| end > size) => {
                Err(StoreError::Short { name: name.clone(), offset, len, size })
            }
            Span::Part(_, len) => Ok(len as u64),
            Span::First(most) => Ok(size.min(most as u64)),
        }
    }
}

/// The whole object's length: behind the `/` of Content-Range, if a range was asked for.
fn size_of(answer: &GetObjectOutput, ranged: bool) -> Option<u64> {
    if ranged {
        return answer.content_range()?.rsplit_once('/')?.1.trim().parse().ok();
    }
    answer.content_length().and_then(|n| u64::try_from(n).ok())
}

/// Reads the body, and at most one byte more than is wanted.
async fn take_body(answer: GetObjectOutput, size: u64, wanted: u64, silence: Duration) -> Piece {
    let tag = answer.e_tag().map(str::to_owned);
    let mut body = answer.body;
    let mut bytes = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0).min(64 << 20));
    let mut broken = None;
    loop {
        match tokio::time::timeout(silence, body.next()).await {
            Err(_) => broken = Some(format!("nothing came for {} s", silence.as_secs())),
            Ok(Some(Err(e))) => broken = Some(chain(&e)),
            Ok(Some(Ok(more))) => {
                bytes.extend_from_slice(&more);
                if bytes.len() as u64 > wanted {
                    broken = Some("more bytes came than the object has".to_owned());
                } else {
                    continue;
                }
            }
            Ok(None) => {}
        }
        return Piece { bytes, size, tag, broken };
    }
}
