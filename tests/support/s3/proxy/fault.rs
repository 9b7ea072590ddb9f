//! What can happen to a request.

use std::time::Duration;

use super::{Operation, Seen};

/// What a request meets. Places in bodies are counted in bytes, modulo the body's length where it was told: any number is a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It reaches the service late.
    Delay(Duration),
    /// Its body reaches the service slowly: so long a pause before each piece of 128 KiB.
    Slowly(Duration),
    /// The answer comes late.
    DelayAnswer(Duration),
    /// The connection is reset; the service was not asked.
    ResetBefore,
    /// The connection is reset, and the service's ended, after so many bytes of the request's body.
    ResetInRequest(u64),
    /// The service has done it; the connection is reset instead of an answer.
    ResetAfterRequest,
    /// As that, but the connection ends in good order.
    CloseAfterRequest,
    /// The connection is reset after so many bytes of the answer's body.
    ResetInAnswer(u64),
    /// The connection ends in good order after so many bytes of the answer's body, though it was to be longer.
    CutAnswer(u64),
    /// Answered with this error (`SlowDown`); the service was not asked.
    Error(u16, &'static str),
    /// The service has done it; answered with this error instead.
    ErrorAfter(u16, &'static str),
    /// The service is asked twice; the second answer counts.
    Twice,
    /// The connection is reset now, and the service is asked so much later.
    Later(Duration),
    /// Of a list: the first answer that the same list ever had here.
    Stale,
    /// Of a list: without what was first written less than so long ago.
    StaleBy(Duration),
    /// A bit of the answer's body is wrong.
    FlipAnswer(u64),
    /// A bit of the request's body is wrong.
    FlipRequest(u64),
    /// No answer for as long as the client waits.
    Hang,
}

/// The fault of one request among those of a seed.
pub fn seeded(seed: u64, per_mille: u64, seen: &Seen) -> Fault {
    let mut random = Random(seed ^ mixed(&format!("{:?}", seen.operation), seen.index));
    if random.below(1000) >= per_mille {
        return Fault::None;
    }
    let place = random.next();
    let pause = Duration::from_millis(random.below(200));
    let busy = if random.below(2) == 0 { (503, "SlowDown") } else { (500, "InternalError") };
    let everywhere = [
        Fault::Delay(pause),
        Fault::DelayAnswer(pause),
        Fault::ResetBefore,
        Fault::ResetAfterRequest,
        Fault::CloseAfterRequest,
        Fault::ResetInAnswer(place),
        Fault::CutAnswer(place),
        Fault::Error(busy.0, busy.1),
        Fault::ErrorAfter(busy.0, busy.1),
        Fault::Twice,
    ];
    let uploads = [Fault::ResetInRequest(place), Fault::FlipRequest(place), Fault::Later(pause)];
    let here = match seen.operation {
        // AWS's answer to creates that meet; the service was not asked, so that another may come first.
        Operation::Create => [&uploads[..], &[Fault::Error(409, "ConditionalRequestConflict")]].concat(),
        operation if operation.writes() => uploads.to_vec(),
        Operation::Get | Operation::GetVersion => vec![Fault::FlipAnswer(place)],
        Operation::List => vec![Fault::Stale, Fault::StaleBy(10 * pause), Fault::FlipAnswer(place)],
        _ => vec![],
    };
    let all = [&everywhere[..], &here[..]].concat();
    all[random.below(all.len() as u64) as usize].clone()
}

/// One number out of a request and how often it was seen.
pub(super) fn mixed(identity: &str, nth: u64) -> u64 {
    let hash = blake3::hash(identity.as_bytes());
    let first = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    Random(first ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next()
}

/// A part of a duration, by a random number.
pub(super) fn share(whole: Duration, random: u64) -> Duration {
    whole * (random % 1000) as u32 / 1000
}

/// SplitMix64: few lines, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}
