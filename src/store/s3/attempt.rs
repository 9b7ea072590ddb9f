//! Which failures are worth another attempt, until when, and what is said of the rest.

use std::error::Error;
use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::S3Store;
use super::blame::{is_of_credentials, login_of_proxy, with_proxy, without_credentials};
use super::gate::Place;
use super::settings::S3Settings;
use crate::store::{RequestKind, StoreError};
use crate::units::with_causes;

/// Until a service has answered once in this run, an address that is wrong is likelier than a passing failure.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// So long an answer is waited for, besides the time that bytes take.
const ANSWER: Duration = Duration::from_secs(30);

/// The same at least, however short the retry time.
const SHORTEST_ANSWER: Duration = Duration::from_secs(5);

/// For so long credentials are tried whose time is over. Those that are handed out anew are asked for some 10 s before their end
/// by this host's clock, which may be as slow as that; others stay as they are.
const EXPIRED: Duration = Duration::from_secs(10);

/// So long a user waits without being told why, and again between two messages.
const QUIET: Duration = Duration::from_secs(10);

/// How an attempt ended that didn't give what was asked for.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The service answered.
    Refused(Refusal),
    /// Nobody knows, or the service says that it may be otherwise the next time.
    Passing {
        /// What happened.
        why: String,
        /// It is asked too much.
        too_much: bool,
    },
    /// No credentials could be had that the service takes, and the next time there may be some.
    Credentials {
        /// What happened.
        why: String,
        /// There were some, and their time is over.
        expired: bool,
    },
}

/// An answer that another attempt doesn't change.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There is no such object, or it was deleted (404).
    Absent,
    /// There is one, and none was demanded; or not the one that was named (412).
    Condition,
    /// The object ends before the range (416).
    Range,
    /// Anything else.
    Failed(StoreError),
}

impl Refusal {
    /// For requests to which none of these is an answer that is expected.
    pub(super) fn into_error(self, what: &str) -> StoreError {
        let unexpected = |text: &str| StoreError::Io { what: what.to_owned(), source: io::Error::other(text.to_owned()) };
        match self {
            Refusal::Failed(error) => error,
            Refusal::Absent => unexpected("the service answers that there is none"),
            Refusal::Condition => unexpected("the service says that a condition doesn't hold"),
            Refusal::Range => unexpected("the service says that the object is shorter"),
        }
    }
}

/// So long a service may be silent before another attempt is made: not much longer than anybody wants to try.
fn silence(settings: &S3Settings) -> Duration {
    ANSWER.min(settings.retry_time.max(SHORTEST_ANSWER))
}

/// So long credentials may take: less than the attempt for which they are looked up, so that they are what is blamed.
pub(super) fn silence_of_credentials(settings: &S3Settings) -> Duration {
    silence(settings) * 4 / 5
}

impl S3Store {
    pub(super) fn silence(&self) -> Duration {
        silence(&self.settings)
    }

    /// Asks until there is an answer: `attempt` makes the request anew each time.
    pub(super) fn ask<T, F>(&self, kind: RequestKind, what: &str, size: Size, attempt: impl FnMut() -> F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Trouble>> + Send + 'static,
    {
        self.ask_by(&mut Patience::new(self, what), kind, size, attempt)
    }

    /// As [`S3Store::ask`], as one of several requests that share their patience.
    pub(super) fn ask_by<T, F>(
        &self,
        patience: &mut Patience<'_>,
        kind: RequestKind,
        size: Size,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Trouble>> + Send + 'static,
    {
        loop {
            if self.is_stopped() {
                return Err(Refusal::Failed(StoreError::Interrupted { what: patience.what.to_owned() }));
            }
            let place = self.gate.enter();
            self.counts.request(kind, size.sent(), patience.attempts > 0);
            let limit = time_for(self.silence(), size, patience.attempts, patience.left());
            let future = attempt();
            let timed = async move {
                match tokio::time::timeout(limit, future).await {
                    Ok(answer) => answer,
                    Err(_) => Err(Trouble::Passing { why: format!("no answer within {} s", limit.as_secs()), too_much: false }),
                }
            };
            let failed = |source| Refusal::Failed(StoreError::Io { what: patience.what.to_owned(), source });
            let Some(answer) = self.runtime.run_unless(|| self.is_stopped(), timed).map_err(failed)? else {
                return Err(Refusal::Failed(StoreError::Interrupted { what: patience.what.to_owned() }));
            };
            match answer {
                Ok(answer) => {
                    self.answered(&place);
                    return Ok(answer);
                }
                Err(Trouble::Refused(refusal)) => {
                    self.answered(&place);
                    return Err(refusal);
                }
                Err(Trouble::Passing { why, too_much }) => {
                    if too_much {
                        place.refused();
                    }
                    drop(place);
                    patience.wait(why, too_much).map_err(Refusal::Failed)?;
                }
                Err(Trouble::Credentials { why, expired }) => {
                    drop(place);
                    patience.wait_for_credentials(why, expired).map_err(Refusal::Failed)?;
                }
            }
        }
    }

    fn answered(&self, place: &Place<'_>) {
        place.answered();
        self.counts.answered();
    }
}

/// How many bytes go with a request.
#[derive(Clone, Copy)]
pub(super) enum Size {
    /// None that count.
    Small,
    /// So many are sent.
    Sent(u64),
    /// At most so many come.
    Received(u64),
}

impl Size {
    fn sent(self) -> u64 {
        if let Size::Sent(bytes) = self { bytes } else { 0 }
    }
}

/// So many bytes a second a line brings on that is no worse than slow.
const SLOW: u64 = 128 << 10;

/// How long an attempt may take: what a line needs for so many bytes that is eight times slower than slow, more each time,
/// but no longer than it will be tried at all. What comes and goes is watched besides, piece by piece: this is only the end of
/// what can be meant.
fn time_for(silence: Duration, size: Size, attempts: u32, left: Duration) -> Duration {
    let bytes = match size {
        Size::Small => 0,
        Size::Sent(bytes) | Size::Received(bytes) => bytes.min(1 << 30).saturating_mul(8),
    };
    let base = silence.saturating_add(Duration::from_secs(bytes / SLOW));
    base.saturating_mul(1 << attempts.min(2)).min(left).max(base)
}

/// After how long an upload has stalled of which nothing goes on, or to which no answer comes, at the `attempt`th attempt: as
/// long as for an answer, and the same again at most for what lies in the buffers of this machine, which nobody sees going on.
pub(super) fn stalled_after(silence: Duration, bytes: u64, attempt: u32) -> Duration {
    let buffered = Duration::from_secs(bytes / SLOW).min(silence);
    silence.saturating_add(buffered).saturating_mul(1 << attempt.saturating_sub(1).min(2))
}

/// How long a thing has been tried.
pub(super) struct Patience<'a> {
    store: &'a S3Store,
    what: &'a str,
    /// The first failure.
    since: Option<Instant>,
    told: Instant,
    attempts: u32,
}

impl<'a> Patience<'a> {
    pub(super) fn new(store: &'a S3Store, what: &'a str) -> Self {
        let now = Instant::now();
        Patience { store, what, since: None, told: now, attempts: 0 }
    }

    /// It went on since the last failure.
    pub(super) fn progressed(&mut self) {
        self.since = None;
        self.attempts = 0;
    }

    /// For how long it will be tried.
    fn limit(&self) -> Duration {
        let limit = self.store.settings.retry_time;
        if self.store.counts.was_answered() { limit } else { limit.min(FIRST_ANSWER) }
    }

    /// For how long it will still be tried.
    fn left(&self) -> Duration {
        self.limit().saturating_sub(self.since.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// If there shall be none.
    pub(super) fn wait(&mut self, why: String, too_much: bool) -> Result<(), StoreError> {
        self.wait_within(self.limit(), why, too_much, |what, source| StoreError::Unreachable { what, source })
    }

    /// The same, where the service isn't what fails.
    fn wait_for_credentials(&mut self, why: String, expired: bool) -> Result<(), StoreError> {
        let limit = self.limit();
        if expired {
            self.wait_within(limit.min(EXPIRED), why, false, |what, source| StoreError::ExpiredCredentials { what, source })
        } else {
            self.wait_within(limit, why, false, |what, source| StoreError::NoCredentials { what, source })
        }
    }

    fn wait_within(
        &mut self,
        limit: Duration,
        why: String,
        too_much: bool,
        at_end: fn(String, io::Error) -> StoreError,
    ) -> Result<(), StoreError> {
        self.attempts += 1;
        let pause = pause(self.attempts, too_much);
        let tried = self.since.get_or_insert_with(Instant::now).elapsed();
        if tried + pause > limit {
            let times = self.attempts;
            let what = format!("{}, tried {times} times in {} s", self.what, tried.as_secs());
            return Err(at_end(what, io::Error::other(why)));
        }
        if self.told.elapsed() + pause > QUIET {
            self.told = Instant::now() + pause;
            let left = limit.saturating_sub(tried).as_secs();
            (self.store.watch.notice)(&format!("{}: {why}; it is tried again for at most {left} s more", self.what));
        }
        let until = Instant::now() + pause;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if self.store.is_stopped() {
                return Err(StoreError::Interrupted { what: self.what.to_owned() });
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }
}

/// The pause before another attempt: random, up to a bound that doubles, so that those who failed together don't come
/// back together ("full jitter").
fn pause(attempts: u32, too_much: bool) -> Duration {
    let first: u64 = if too_much { 400 } else { 100 };
    let most = first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LONGEST_PAUSE.as_millis() as u64);
    let mut random = [0; 8];
    // No randomness: the whole pause.
    let part = getrandom::fill(&mut random).map_or(u64::MAX, |()| u64::from_ne_bytes(random));
    let millis = (u128::from(most) * u128::from(part)) >> 64;
    Duration::from_millis(millis as u64).max(Duration::from_millis(5))
}

/// What an error of the client means for `what`.
pub(super) fn understand<E>(error: SdkError<E, HttpResponse>, what: &str) -> Trouble
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let passing = |why: String| Trouble::Passing { why, too_much: false };
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            let meta = context.err().meta();
            answer(status, meta.code(), meta.message(), what)
        }
        SdkError::ResponseError(context) => {
            let status = context.raw().status().as_u16();
            passing(format!("an answer ({status}) that can't be understood"))
        }
        SdkError::TimeoutError(_) => passing("no answer in time".to_owned()),
        SdkError::DispatchFailure(failure) => {
            let text = failure.as_connector_error().map_or_else(|| "the request could not be sent".to_owned(), |e| chain(e));
            let source = || io::Error::other(text.clone());
            if text.contains("invalid peer certificate") {
                return Trouble::Refused(Refusal::Failed(StoreError::NotTrusted { what: what.to_owned(), source: source() }));
            }
            if failure.is_user() {
                return Trouble::Refused(Refusal::Failed(StoreError::S3Setting { what: what.to_owned(), source: source() }));
            }
            if is_of_credentials(&text) {
                return without_credentials(text, what);
            }
            if text.contains("proxy authorization required") {
                return Trouble::Refused(Refusal::Failed(login_of_proxy(what)));
            }
            passing(with_proxy(text, |name| std::env::var_os(name).is_some()))
        }
        other => {
            let text = chain(&other);
            if is_of_credentials(&text) {
                return without_credentials(text, what);
            }
            Trouble::Refused(Refusal::Failed(StoreError::S3Setting { what: what.to_owned(), source: io::Error::other(text) }))
        }
    }
}

/// What a status and the code in the answer's body mean.
/// (Source: Amazon S3 API Reference, "Error responses"; what other services send, tried.)
fn answer(status: u16, code: Option<&str>, message: Option<&str>, what: &str) -> Trouble {
    let said = match (code, message) {
        (Some(code), Some(message)) => format!("the service answers {status} {code}: {}", short(message)),
        (Some(code), None) => format!("the service answers {status} {code}"),
        (None, _) => format!("the service answers {status}"),
    };
    let refused = |refusal| Trouble::Refused(refusal);
    let failed = |make: fn(String, io::Error) -> StoreError| {
        Trouble::Refused(Refusal::Failed(make(what.to_owned(), io::Error::other(said.clone()))))
    };
    let passing = |too_much| Trouble::Passing { why: said.clone(), too_much };
    match (status, code.unwrap_or_default()) {
        // The client has set its clock by the date of this answer.
        (_, "RequestTimeTooSkewed" | "RequestExpired") => passing(false),
        (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired") => Trouble::Credentials { why: said, expired: true },
        (_, "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" | "RequestTimeout" | "IncompleteBody") => {
            passing(false)
        }
        (_, "SlowDown" | "Throttling" | "ThrottlingException" | "TooManyRequests" | "RequestLimitExceeded") => passing(true),
        (_, "QuotaExceeded" | "XMinioStorageFull" | "StorageFull") | (507, _) => failed(|what, source| StoreError::Full { what, source }),
        (_, "NoSuchBucket") => failed(|what, source| StoreError::NoBucket { what, source }),
        (301 | 307 | 308, _) | (_, "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            failed(|what, source| StoreError::S3Setting { what, source })
        }
        // A balancer whose service is away answers so, too: only S3's own word says that an object is not there.
        // (`NotFound` is what the client makes of no body at all.)
        (404, "" | "NotFound") => Trouble::Passing { why: format!("{said}, and not as S3 does"), too_much: false },
        (404, _) => refused(Refusal::Absent),
        (412, _) => refused(Refusal::Condition),
        (416, _) => refused(Refusal::Range),
        // Rights given to a credential that the service doesn't know would change nothing.
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "InvalidClientTokenId" | "UnrecognizedClientException") => {
            failed(|what, source| StoreError::WrongCredentials { what, source })
        }
        (401 | 403, _) => failed(|what, source| StoreError::Denied { what, source }),
        // Two created one name at the same time, and neither is known to have won.
        (409, "ConditionalRequestConflict" | "OperationAborted") => passing(false),
        (407, _) => refused(Refusal::Failed(login_of_proxy(what))),
        (408, _) => passing(false),
        (429 | 503, _) => passing(true),
        (501, _) => failed(|what, source| StoreError::NotOffered { what, source }),
        (500.., _) => passing(false),
        // An answer that is none: it was cut off, or came with a flipped bit.
        (200..=299, _) => Trouble::Passing { why: format!("an answer ({status}) that can't be understood"), too_much: false },
        _ => failed(|what, source| StoreError::Io { what, source }),
    }
}

/// A text of the service's in one line of bounded length.
fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

/// An error of the client with its causes: what a service said may be in it.
pub(super) fn chain(error: &dyn Error) -> String {
    with_causes(error).chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Class, Explain};

    #[test]
    fn answers_are_told_apart() {
        let kind = |status, code| match answer(status, code, Some("text"), "x") {
            Trouble::Passing { too_much: false, .. } => "again",
            Trouble::Passing { too_much: true, .. } => "later",
            Trouble::Credentials { expired: true, .. } => "expired",
            Trouble::Credentials { expired: false, .. } => "no credentials",
            Trouble::Refused(Refusal::Absent) => "absent",
            Trouble::Refused(Refusal::Condition) => "condition",
            Trouble::Refused(Refusal::Range) => "range",
            Trouble::Refused(Refusal::Failed(StoreError::WrongCredentials { .. })) => "credentials",
            Trouble::Refused(Refusal::Failed(e)) => match e.class() {
                Class::Denied => "denied",
                Class::Unreachable => "unreachable",
                Class::Refused => "refused",
                Class::Failed => "failed",
                Class::Usage => "setting",
                other => panic!("{other:?}"),
            },
        };
        for (status, code, expected) in [
            (404, Some("NoSuchKey"), "absent"),
            (404, None, "again"),
            (404, Some("NotFound"), "again"),
            (404, Some("NoSuchVersion"), "absent"),
            (404, Some("NoSuchBucket"), "unreachable"),
            (412, Some("PreconditionFailed"), "condition"),
            (409, Some("ConditionalRequestConflict"), "again"),
            (409, Some("BucketNotEmpty"), "failed"),
            (416, Some("InvalidRange"), "range"),
            (403, Some("AccessDenied"), "denied"),
            (403, None, "denied"),
            (403, Some("InvalidAccessKeyId"), "credentials"),
            (403, Some("SignatureDoesNotMatch"), "credentials"),
            (400, Some("InvalidToken"), "credentials"),
            (403, Some("RequestTimeTooSkewed"), "again"),
            (400, Some("BadDigest"), "again"),
            (400, Some("ExpiredToken"), "expired"),
            (400, Some("InvalidArgument"), "failed"),
            (407, None, "unreachable"),
            (429, None, "later"),
            (503, Some("SlowDown"), "later"),
            (503, None, "later"),
            (500, Some("InternalError"), "again"),
            (502, None, "again"),
            (504, None, "again"),
            (501, Some("NotImplemented"), "refused"),
            (301, Some("PermanentRedirect"), "setting"),
            (507, None, "failed"),
            (200, None, "again"),
        ] {
            assert_eq!(kind(status, code), expected, "{status} {code:?}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_are_random() {
        for attempts in 1..100 {
            for too_much in [false, true] {
                let pause = pause(attempts, too_much);
                assert!(pause <= LONGEST_PAUSE && pause >= Duration::from_millis(5));
            }
        }
        let many: std::collections::BTreeSet<Duration> = (0..50).map(|_| pause(10, false)).collect();
        assert!(many.len() > 40);
        let late = (0..200).map(|_| pause(12, false)).max().unwrap();
        assert!(late > Duration::from_secs(10), "{late:?}");
    }

    #[test]
    fn time_is_given_for_what_is_sent() {
        let seconds = Duration::from_secs;
        for (silence, size, attempts, left, expected) in [
            (30, Size::Small, 0, 600, 30),
            (30, Size::Sent(64 << 20), 0, 600, 30 + 8 * 512),
            (30, Size::Small, 9, 600, 120),
            (30, Size::Small, 9, 50, 50),
            (30, Size::Small, 9, 0, 30),
            (5, Size::Small, 0, 2, 5),
            (5, Size::Sent(64 << 20), 1, 2, 5 + 8 * 512),
        ] {
            assert_eq!(time_for(seconds(silence), size, attempts, seconds(left)), seconds(expected), "{silence} {attempts} {left}");
        }
        let _ = time_for(ANSWER, Size::Sent(u64::MAX), u32::MAX, Duration::MAX);
        for (silence, bytes, attempt, expected) in [
            (30, 0, 1, 30),
            (30, 1 << 20, 1, 38),
            (30, 64 << 20, 1, 60),
            (30, 64 << 20, 2, 120),
            (30, u64::MAX, 9, 240),
            (5, 64 << 20, 1, 10),
        ] {
            assert_eq!(stalled_after(seconds(silence), bytes, attempt), seconds(expected), "{bytes} {attempt}");
        }
        let _ = stalled_after(Duration::MAX, u64::MAX, u32::MAX);
        assert!(time_for(ANSWER, Size::Received(64 << 20), 0, seconds(600)) > seconds(3600), "a slow line isn't cut off");
    }
}
