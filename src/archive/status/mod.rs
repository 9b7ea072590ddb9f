//! What an archive adds up to: gaps, live lines, and how far each snapshot can be brought. Pure: values in, values out, so
//! that nothing of it is ever stored and believed later.
//!
//! - `line.rs`: one timeline's segments as runs
//! - `gaps.rs`: what is missing, and what of it is acknowledged
//! - `live.rs`: which lines the cluster, or a copy of it, still writes
//! - `reach.rs`: [`Reach`]: from a snapshot along one timeline to the end of what is there
//! - `report.rs`: [`Status`], the answer of `archive status`

mod gaps;
mod line;
mod live;
mod reach;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::list::Archive;
use crate::pg::timeline::TimelineTree;
use crate::repo::log::{Fold, Summary, WalMode, WalRange};
use crate::units::{Lsn, SegmentName, SegmentSize, TimelineId, Timestamp};
use line::Line;

pub use reach::{Blocked, Reach};
pub use report::{GapStatus, Lag, ParentStatus, Status, TimelineStatus, Waiting, Window};

/// What a live snapshot says of its WAL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotSpan {
    /// Its id.
    pub id: String,
    /// Its place in the log: later is newer.
    pub order: u64,
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// The timeline on which it starts.
    pub timeline: TimelineId,
    /// The redo point from which it is recovered.
    pub start_lsn: Lsn,
    /// Where it is consistent.
    pub stop_lsn: Lsn,
    /// When it was that, by the database's clock; a later time is on the safe side.
    pub stop_time: Timestamp,
    /// From start to stop.
    pub ranges: Vec<WalRange>,
    /// The size of its cluster's segments.
    pub segment_size: SegmentSize,
    /// It holds that WAL itself.
    pub wal_copied: bool,
}

impl SnapshotSpan {
    /// Of a snapshot that came by this COMMIT; `None` for a dump. Takes the time at which the backup was finished for the stop's.
    pub fn of(commit: u64, summary: &Summary) -> Option<Self> {
        let wal = summary.wal.as_ref()?;
        Some(SnapshotSpan {
            id: summary.id.clone(),
            order: commit,
            system_identifier: summary.system_identifier,
            timeline: wal.timeline,
            start_lsn: wal.start_lsn,
            stop_lsn: wal.stop_lsn,
            stop_time: summary.finished_at,
            ranges: wal.ranges.clone(),
            segment_size: wal.segment_size,
            wal_copied: wal.mode == WalMode::Copy,
        })
    }

    /// The timeline on which it stops: another one only on a standby that followed a switch.
    pub fn stop_timeline(&self) -> TimelineId {
        self.ranges.last().map_or(self.timeline, |range| range.timeline)
    }
}

/// Segments of which somebody knows that they are missing, damaged, or have a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acknowledged {
    /// The first.
    pub from: SegmentName,
    /// The last, on the same timeline.
    pub to: SegmentName,
    /// The number of the NOTE that says so.
    pub note: u64,
    /// Why.
    pub reason: String,
}

impl Acknowledged {
    fn covers(&self, segment: SegmentName) -> bool {
        segment.timeline == self.from.timeline && (self.from..=self.to).contains(&segment)
    }
}

/// What the log knows that bears on one archive.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Known {
    /// Live snapshots, in the order of the log.
    pub snapshots: Vec<SnapshotSpan>,
    /// Acknowledged gaps.
    pub acknowledged: Vec<Acknowledged>,
    /// Timelines that were announced or accepted as the cluster's, with the numbers of the notes.
    pub forks: Vec<(TimelineId, u64)>,
    /// The first byte of the highest segment expired of each timeline: what lies before is no gap.
    pub expired: BTreeMap<TimelineId, Lsn>,
}

impl Known {
    /// Why a segment isn't as it should be, if somebody knows it. `head`: the newest entry that its pusher had seen. One that
    /// was pushed behind the note filled the gap that was meant: what befalls it afterwards is nobody's knowledge.
    fn acknowledged(&self, segment: SegmentName, head: Option<u64>) -> Option<String> {
        let known = |a: &&Acknowledged| a.covers(segment) && head.is_none_or(|head| head < a.note);
        self.acknowledged.iter().find(known).map(|a| a.reason.clone())
    }

    /// Out of the log's fold.
    pub fn of(fold: &Fold, cluster: &str, system_identifier: u64) -> Self {
        let id = crate::repo::log::ClusterId { name: cluster.to_owned(), system_identifier };
        let superseded = fold.superseded();
        let commits = fold.commits.iter().filter(|(number, c)| c.summary.cluster_id() == id && !superseded.contains(number));
        let gaps = fold.gaps.get(&id).into_iter().flatten();
        let forks = fold.forks.get(&id).into_iter().flatten();
        Known {
            // Of two COMMITs of a snapshot, one of which replaces the other, one counts.
            snapshots: commits
                .map(|(_, c)| (c.first, &c.summary))
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .filter_map(|(order, s)| SnapshotSpan::of(order, s))
                .collect(),
            acknowledged: gaps.map(|g| Acknowledged { from: g.from, to: g.to, note: g.number, reason: g.reason.clone() }).collect(),
            forks: forks.map(|f| (f.timeline, f.number)).collect(),
            expired: fold.expired.get(&id).into_iter().flatten().map(|(timeline, e)| (*timeline, e.highest)).collect(),
        }
    }
}

/// An archive, arranged for questions.
pub struct Lines<'a> {
    archive: &'a Archive,
    /// The timelines' histories.
    pub tree: TimelineTree,
    lines: BTreeMap<TimelineId, Line>,
}

impl<'a> Lines<'a> {
    /// Arranges it.
    pub fn new(archive: &'a Archive) -> Self {
        let mut lines: BTreeMap<TimelineId, Line> = BTreeMap::new();
        for ((timeline, _), entry) in &archive.segments {
            lines.entry(*timeline).or_default().push(&entry.facts);
        }
        lines.values_mut().for_each(Line::finish);
        Lines { archive, tree: archive.tree(), lines }
    }

    fn line(&self, timeline: TimelineId) -> Option<&Line> {
        self.lines.get(&timeline)
    }

    /// All timelines of which there is a segment or a history.
    fn timelines(&self) -> BTreeSet<TimelineId> {
        self.lines.keys().copied().chain(self.tree.timelines()).collect()
    }

    /// Is `ancestor` on the way to `timeline`, or the same?
    fn descends(&self, timeline: TimelineId, ancestor: TimelineId) -> bool {
        self.tree.ancestry(timeline).iter().any(|branch| branch.timeline == ancestor)
    }
}
