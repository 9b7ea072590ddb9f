//! How many requests there were.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::store::{RequestKind, Requests};

/// Counted while requests run.
#[derive(Default)]
pub(super) struct Counts {
    by_kind: [AtomicU64; RequestKind::ALL.len()],
    repeated: AtomicU64,
    answered: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    /// Readings of little: how many, and microseconds.
    little: [AtomicU64; 2],
    /// Readings of much: bytes, and microseconds.
    much: [AtomicU64; 2],
}

/// Little is at most so many bytes: what counts is the way there and back.
const LITTLE: u64 = 64 << 10;
/// Much is at least so many.
const MUCH: u64 = 1 << 20;

impl Counts {
    /// A request is sent, with so many bytes of body.
    pub(super) fn request(&self, kind: RequestKind, bytes: u64, again: bool) {
        if let Some(count) = self.by_kind.get(kind as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        if again {
            self.repeated.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The service answered, whatever it said.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Has it ever?
    pub(super) fn was_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// So many bytes of an object came, after so long.
    pub(super) fn received(&self, bytes: u64, after: Duration) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        let (sums, amount) = match bytes {
            ..=LITTLE => (&self.little, 1),
            MUCH.. => (&self.much, bytes),
            _ => return,
        };
        let [amounts, micros] = sums;
        amounts.fetch_add(amount, Ordering::Relaxed);
        micros.fetch_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX >> 20), Ordering::Relaxed);
    }

    pub(super) fn so_far(&self) -> Requests {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let ([times, waited], [bytes, took]) = (self.little.each_ref().map(read), self.much.each_ref().map(read));
        Requests {
            by_kind: self.by_kind.each_ref().map(read),
            repeated: read(&self.repeated),
            sent: read(&self.sent),
            received: read(&self.received),
            latency: waited.checked_div(times).map(Duration::from_micros),
            rate: bytes.saturating_mul(1_000_000).checked_div(took),
        }
    }
}
