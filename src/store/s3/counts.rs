//! How many requests there were.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::store::{RequestKind, Requests};

/// Counted while requests run.
#[derive(Default)]
pub(super) struct Counts {
    by_kind: [AtomicU64; RequestKind::ALL.len()],
    repeated: AtomicU64,
    answered: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
}

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

    /// So many bytes of an object came.
    pub(super) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn so_far(&self) -> Requests {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Requests {
            by_kind: self.by_kind.each_ref().map(read),
            repeated: read(&self.repeated),
            sent: read(&self.sent),
            received: read(&self.received),
        }
    }
}
