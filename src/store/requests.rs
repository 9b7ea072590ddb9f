//! How many requests a store was sent.

use std::fmt;
use std::time::Duration;

use crate::units::ByteSize;

/// What is asked of a service; services price these apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RequestKind {
    /// An object is read, whole or in part.
    Get,
    /// An object is stored.
    Put,
    /// A page of names.
    List,
    /// An object is deleted.
    Delete,
    /// A lock is put on an object, or prolonged.
    Lock,
}

impl RequestKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [RequestKind; 5] = [RequestKind::Get, RequestKind::Put, RequestKind::List, RequestKind::Delete, RequestKind::Lock];

    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            RequestKind::Get => "get",
            RequestKind::Put => "put",
            RequestKind::List => "list",
            RequestKind::Delete => "delete",
            RequestKind::Lock => "lock",
        }
    }
}

/// How many requests there were, those that were repeated included, and what went with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Requests {
    /// By [`RequestKind`], in the order of [`RequestKind::ALL`].
    pub by_kind: [u64; RequestKind::ALL.len()],
    /// How many of them were sent because one before had failed.
    pub repeated: u64,
    /// Bytes of objects sent.
    pub sent: u64,
    /// Bytes of objects received.
    pub received: u64,
    /// From a request for little to its answer, on average.
    pub latency: Option<Duration>,
    /// Bytes a second of requests for much.
    pub rate: Option<u64>,
}

impl Requests {
    /// Those of one kind.
    pub fn of(&self, kind: RequestKind) -> u64 {
        self.by_kind.get(kind as usize).copied().unwrap_or(0)
    }

    /// All.
    pub fn total(&self) -> u64 {
        self.by_kind.iter().sum()
    }
}

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests (", self.total())?;
        for (at, kind) in RequestKind::ALL.into_iter().filter(|k| self.of(*k) > 0).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}", self.of(kind), kind.word())?;
        }
        write!(f, "), {} sent, {} received", ByteSize(self.sent), ByteSize(self.received))?;
        if self.repeated > 0 { write!(f, ", {} repeated", self.repeated) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_told_in_a_line() {
        let mut requests = Requests { sent: 1_500_000, ..Requests::default() };
        for (at, kind) in RequestKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
        requests.by_kind[0] = 7;
        requests.by_kind[1] = 3;
        let text = requests.to_string();
        assert!(text.starts_with("10 requests (7 get, 3 put), ") && !text.contains("repeated"), "{text}");
        requests.repeated = 2;
        assert!(requests.to_string().ends_with(", 2 repeated"));
        assert_eq!((requests.of(RequestKind::Put), requests.total()), (3, 10));
    }
}
