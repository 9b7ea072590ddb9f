//! What a prune has done, or would do.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::need::Kept;
use crate::repo::log::{ClusterId, Head};
use crate::units::{SegmentName, SessionId, TimelineId, Timestamp};

/// Objects, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    /// One more.
    pub fn add(&mut self, bytes: u64) {
        self.objects = self.objects.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Why an open session isn't ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Its process lives on this machine.
    Alive,
    /// It is another machine's (or user's), and stands still only since so long, as far as this host has seen: after an hour
    /// it is ended.
    Foreign(Duration),
    /// It is another's, and this system can't tell how long it has stood still.
    Timeless,
}

/// An open session: what was condemned behind its beginning waits for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// The session.
    pub session: SessionId,
    /// What it does.
    pub purpose: String,
    /// For which cluster.
    pub cluster: Option<String>,
    /// Whose machine.
    pub machine: String,
    /// When it began, by its clock.
    pub begun_at: Timestamp,
    /// Why it isn't ended.
    pub why: Why,
}

/// WAL that expired on one timeline.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WalLine {
    /// Objects and their bytes.
    pub amount: Amount,
    /// The first.
    pub first: Option<SegmentName>,
    /// The last.
    pub last: Option<SegmentName>,
}

/// WAL of which nothing expires, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptWal {
    /// Whose.
    pub cluster: ClusterId,
    /// The timeline; `None`: all of it.
    pub timeline: Option<TimelineId>,
    /// Why.
    pub why: Kept,
}

/// What was done; in a dry run, what would be.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Report {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Sessions that were dead and are ended.
    pub ended: Vec<SessionId>,
    /// Sessions that are waited for.
    pub waiting_for: Vec<Waiting>,
    /// Mostly dead packs that were emptied; they are among those condemned.
    pub emptied: Amount,
    /// Bytes of blobs that were copied out of them.
    pub copied: u64,
    /// Snapshots that were committed again for it.
    pub recommitted: u64,
    /// Chunks at damaged places that got the places where they were stored anew.
    pub healed: u64,
    /// Packs condemned.
    pub condemned: Amount,
    /// Of these, packs that no list names.
    pub orphans: Amount,
    /// Packs swept, and so deleted.
    pub swept: Amount,
    /// Packs that are condemned, and wait for a session.
    pub waiting: Amount,
    /// Objects of packs deleted.
    pub deleted: Amount,
    /// WAL expired.
    pub wal: BTreeMap<(ClusterId, TimelineId), WalLine>,
    /// WAL that stays whole.
    pub kept: Vec<KeptWal>,
    /// Unfinished files removed.
    pub unfinished: u64,
    /// What it came upon that is damaged, and left as it is: blobs, snapshots and objects of WAL. The warnings name them.
    pub damaged: u64,
    /// What needs a look.
    pub warnings: Vec<String>,
    /// The newest entry of the log.
    pub head: Option<Head>,
}

impl Report {
    /// All bytes that came back.
    pub fn freed(&self) -> u64 {
        self.wal.values().map(|line| line.amount.bytes).fold(self.deleted.bytes, u64::saturating_add)
    }
}
