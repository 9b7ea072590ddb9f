//! To which point can a cluster be restored, from which snapshot, along which timeline, and what is the server told?
//!
//! All of it is decided before a byte is written, from what the log and the archive say; the server never finds out that
//! a target can't be met, and never takes a gap for the end (postgres.md §9, access/transam/xlogrecovery.c):
//! - a snapshot serves a target if it was consistent before it; the newest that does is taken;
//! - a time is reached only if a transaction ended *later* in the archive: else the server replays all and fails. Then
//!   the way is to restore to the end;
//! - to the end means: to the start of the last complete record, inclusive. All rows are there, and a gap or damage on
//!   the way makes the server fail where without a target it would promote silently.
//!
//! Nothing here reads: WAL is searched by a function of the caller, for transaction ids and for the rare restore point
//! whose record lies across two segments.
//!
//! - `line.rs`: the segments from a snapshot on along a timeline, as far as they reach
//! - `search.rs`: transaction ids and restore points
//! - `choose.rs`: the choice
//! - `failure.rs`: why there is none

mod choose;
mod failure;
mod line;
mod search;
#[cfg(test)]
mod tests;

pub use choose::choose;
pub use failure::TargetError;
pub use search::{Find, SearchError};

use std::collections::BTreeMap;

use crate::pg::recovery::{RecoveryTarget, TargetAction, TargetTimeline};
use crate::pg::timeline::TimelineTree;
use crate::pg::wal::{RestorePoint, TransactionEnds};
use crate::units::{Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId, Timestamp};

/// A live snapshot of the cluster (of one system identifier).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// The number of its COMMIT: "newest" goes by the order of the log.
    pub number: u64,
    /// The timeline at its start.
    pub start_timeline: TimelineId,
    /// Where replay starts.
    pub start_lsn: Lsn,
    /// The timeline at its stop; another one only where a standby followed a switch.
    pub stop_timeline: TimelineId,
    /// Where it is consistent: nothing before can be reached.
    pub stop_lsn: Lsn,
    /// When it was consistent, by the database's clock where that is known.
    pub stopped_at: Timestamp,
    /// Its own WAL, from start to stop, lies in it.
    pub wal_inside: bool,
    /// The next transaction id of its pg_control, with its epoch; `None` if it isn't known.
    pub next_xid: Option<u64>,
}

/// A segment of the archive: what was recorded when it was pushed. Partial segments are none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchivedSegment {
    /// The timeline in its name.
    pub timeline: TimelineId,
    /// Its number.
    pub no: SegmentNo,
    /// The last record that starts and ends in it.
    pub last_record: Option<Lsn>,
    /// The record that its end cuts off: whole once the next segment is there.
    pub tail_record: Option<Lsn>,
    /// Where the rest of the record of the segment before ends, if it does so here.
    pub continuation_ends: Option<Lsn>,
    /// The transactions that end in it.
    pub transactions: Option<TransactionEnds>,
    /// Can the record that its end cuts off end a transaction or be a restore point? It is in no segment's facts.
    pub open_tail_may_hold_commit: bool,
    /// Its restore points, in order.
    pub restore_points: Vec<RestorePoint>,
    /// There are more restore points than are listed.
    pub restore_points_cut: bool,
    /// Up to here its WAL is valid.
    pub valid_until: Lsn,
    /// Why it isn't valid to its end.
    pub fault: Option<String>,
    /// It is not in the archive, but the target's own last, in which the server was when it ended: the end of WAL, and
    /// no damage.
    pub unfinished: bool,
}

impl ArchivedSegment {
    fn name(&self, size: SegmentSize) -> SegmentName {
        SegmentName::new(self.timeline, self.no, size)
    }
}

/// The archive of one cluster, of one system identifier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Archive {
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// Its whole segments, in any order, each once.
    pub segments: Vec<ArchivedSegment>,
    /// Its history files.
    pub timelines: TimelineTree,
    /// Segments that were archived and of which no object can be used, and why: nobody knows what lay in them.
    pub unusable: BTreeMap<SegmentName, String>,
    /// Timelines that had a history file which can't be used, and why: where they lead is not known.
    pub unusable_histories: BTreeMap<TimelineId, String>,
}

/// What is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// All that the archive holds.
    End,
    /// As early as the snapshot allows.
    Immediate,
    /// A time: all that was committed until then (exclusive: before).
    Time(Timestamp),
    /// The first record that starts here or later (exclusive: what is before it).
    Lsn(Lsn),
    /// The end of this transaction (exclusive: what is before it). WAL holds the low 32 bits alone: an epoch above them
    /// must be the right one, else another transaction would be taken.
    Xid(u64),
    /// A restore point.
    Name(String),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::End => write!(f, "the end of the archive"),
            Target::Immediate => write!(f, "the end of the backup"),
            Target::Time(time) => write!(f, "{time}"),
            Target::Lsn(lsn) => write!(f, "{lsn}"),
            Target::Xid(xid) => write!(f, "transaction {xid}"),
            Target::Name(name) => write!(f, "restore point {name:?}"),
        }
    }
}

/// A target with its circumstances.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Where to stop.
    pub target: Target,
    /// With what lies at the target (time, LSN, transaction).
    pub inclusive: bool,
    /// Along which timeline.
    pub timeline: TargetTimeline,
    /// What the server does then; at the end of the archive it always promotes.
    pub action: TargetAction,
}

/// What postgresql.auto.conf has to say, but for restore_command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetSettings {
    /// Where to stop; never [`RecoveryTarget::End`].
    pub target: RecoveryTarget,
    /// See [`Wanted`].
    pub inclusive: bool,
    /// The timeline that was checked, by number, so that one that appears meanwhile changes nothing.
    pub timeline: TargetTimeline,
    /// See [`Wanted`].
    pub action: TargetAction,
    /// The archive lacks a segment somewhere behind the target, or has one that can't be used. From 15 on the server reads ahead of what it replays
    /// (recovery_prefetch), and would fail at a segment that it doesn't need.
    pub gap_behind: bool,
}

/// What can be reached from a snapshot along a timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// The timeline.
    pub timeline: TimelineId,
    /// The snapshot's stop.
    pub from_lsn: Lsn,
    /// The end of the last consecutive segment.
    pub to_lsn: Lsn,
    /// The snapshot's stop.
    pub from_time: Timestamp,
    /// The last end of a transaction behind it: times before this one can be reached.
    pub to_time: Option<Timestamp>,
}

/// What is restored, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveryChoice {
    /// The snapshot's id.
    pub snapshot: String,
    /// The timeline that recovery follows.
    pub timeline: TimelineId,
    /// What the server is told; `None`: nothing, and no recovery.signal.
    ///
    /// So it is for a snapshot that holds its own WAL and is restored as itself. With its backup_label and its WAL in
    /// pg_wal the server does what it does after a crash, from the label's checkpoint to the end of that WAL, as with a
    /// copy by `pg_basebackup -X`: it needs no archive, and it can't stop too early, since a label of method "streamed"
    /// makes it fail if the backup's end is not reached. A recovery.signal would demand a restore_command and an archive
    /// that answers. An offline snapshot has no label and begins at its shutdown checkpoint.
    pub settings: Option<TargetSettings>,
    /// What was chosen and why, a line each.
    pub explanation: Vec<String>,
    /// What deserves a look, a line each.
    pub warnings: Vec<String>,
    /// What could be reached from this snapshot; none where the archive isn't used.
    pub window: Option<Window>,
    /// The other ends of the archive's timelines, which this restore doesn't follow.
    pub others: Vec<OtherLine>,
    /// The number that the server takes when it is promoted: the first behind the timeline without a history.
    pub next_timeline: TimelineId,
    /// The segment behind the one in which the server stops, if the archive lists it: read ahead, and not needed.
    pub read_ahead: Option<SegmentName>,
}

/// A timeline from which no other one leads on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OtherLine {
    /// Its number.
    pub timeline: TimelineId,
    /// Which one it left, and where; `None` if that isn't known.
    pub left: Option<(TimelineId, Lsn)>,
}

impl std::fmt::Display for OtherLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.left {
            Some((parent, at)) => write!(f, "timeline {} (left timeline {parent} at {at})", self.timeline),
            None => write!(f, "timeline {}", self.timeline),
        }
    }
}
