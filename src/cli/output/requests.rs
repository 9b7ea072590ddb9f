//! What a run has asked of a store that counts.

use serde::Serialize;

use crate::store::{RequestKind, Requests};

/// Requests by kind, and bytes of objects.
#[derive(Serialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct RequestsJson {
    total: u64,
    get: u64,
    put: u64,
    list: u64,
    delete: u64,
    lock: u64,
    /// Of the total, those that were sent because one before had failed.
    repeated: u64,
    sent: u64,
    received: u64,
}

impl From<Requests> for RequestsJson {
    fn from(requests: Requests) -> Self {
        RequestsJson {
            total: requests.total(),
            get: requests.of(RequestKind::Get),
            put: requests.of(RequestKind::Put),
            list: requests.of(RequestKind::List),
            delete: requests.of(RequestKind::Delete),
            lock: requests.of(RequestKind::Lock),
            repeated: requests.repeated,
            sent: requests.sent,
            received: requests.received,
        }
    }
}
