//! The rule: which lines of the archive a new timeline would leave behind, and whether they are still written. Pure.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::time::Duration;

use crate::pg::timeline::{History, TimelineTree};
use crate::repo::log::{Fork, ForkState};
use crate::units::{KeyId, Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId, Timestamp};

/// A line without a push for so long is taken to have ended.
pub(in crate::archive) const RECENT: Duration = Duration::from_secs(3600);
/// Whole segments that a line may have behind the point at which another one took over: at a failover the old primary had
/// written a little that its standby never got, and may still have archived it.
pub(in crate::archive) const TOLERATED: u64 = 1;

/// The newest segment of a timeline of the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::archive) struct Newest {
    pub timeline: TimelineId,
    pub no: SegmentNo,
    pub size: SegmentSize,
}

impl Newest {
    pub fn name(&self) -> SegmentName {
        SegmentName::new(self.timeline, self.no, self.size)
    }

    /// How many whole segments there are from `lsn` on, if none is missing.
    pub fn beyond(&self, lsn: Lsn) -> u64 {
        self.no.0.saturating_sub(self.size.segment_before(lsn).0)
    }
}

/// The lines that go on beside `new`, a timeline of which the archive has nothing yet: each has more than one whole segment
/// behind the point at which `new` leaves it, or leaves the way to it.
///
/// `new` is judged by where it leaves what the archive holds, and by nothing before: a timeline that was let in once, be it a
/// fork, may have children.
pub(in crate::archive) fn left_behind<'a>(new: &History, lines: &'a [Newest], tree: &TimelineTree) -> Vec<&'a Newest> {
    let of = |timeline| lines.iter().find(|line| line.timeline == timeline);
    let known = |timeline| of(timeline).is_some() || tree.history(timeline).is_some();
    let joint = new.entries.iter().enumerate().rev().find(|(i, e)| known(e.parent) && same_ancestors(new, *i, tree.history(e.parent)));
    let beside = |line: &&Newest| match joint {
        None => true,
        Some((_, at)) => goes_on(line, at.parent, at.switch, of(at.parent), tree),
    };
    let others = lines.iter().filter(|line| line.timeline != new.timeline && !descends(tree, line.timeline, new.timeline));
    others.filter(beside).collect()
}

/// Is the ancestor at this place of the new history the archive's timeline of that number? Histories may be cut off at
/// their old end.
fn same_ancestors(new: &History, place: usize, known: Option<&History>) -> bool {
    let Some(known) = known else { return true };
    let before = new.entries.get(..place).unwrap_or_default();
    before.iter().rev().zip(known.entries.iter().rev()).all(|(a, b)| (a.parent, a.switch) == (b.parent, b.switch))
}

fn descends(tree: &TimelineTree, timeline: TimelineId, ancestor: TimelineId) -> bool {
    tree.ancestry(timeline).iter().any(|branch| branch.timeline == ancestor)
}

/// Does the line go on past `point`, at which a new timeline leaves `parent`?
fn goes_on(line: &Newest, parent: TimelineId, point: Lsn, stored: Option<&Newest>, tree: &TimelineTree) -> bool {
    if line.timeline == parent {
        return line.beyond(point) > TOLERATED;
    }
    let size = line.size;
    match tree.ancestry(line.timeline).iter().find(|branch| branch.timeline == parent).and_then(|branch| branch.end) {
        Some(left) => {
            // Whoever left the parent long before its end in the archive had gone before; that was judged then.
            let newest = stored.map_or(u64::MAX, |n| size.segment_of(n.size.start_of(n.no)).0);
            let end = size.segment_before(point).0.min(newest);
            size.segment_before(left).0.saturating_add(TOLERATED) >= end && line.beyond(point.min(left)) > TOLERATED
        }
        // Of a line without a history nobody knows where it comes from.
        None => line.timeline > parent && tree.history(line.timeline).is_none() && line.beyond(point) > TOLERATED,
    }
}

/// What tells when a line was last pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LastPush {
    /// For how long the store has had its newest segment, by the store's clock alone.
    pub stored: Option<Duration>,
    /// When that was pushed, by its pusher's clock, signed.
    pub signed: Option<Timestamp>,
}

/// Less than an hour before `now`, or later?
pub(in crate::archive) fn is_recent(pushed_at: Timestamp, now: Timestamp) -> bool {
    u128::try_from(now.0.saturating_sub(pushed_at.0)).map_or(true, |micros| micros < RECENT.as_micros())
}

impl LastPush {
    /// Was that within the last hour? A clock that is wrong must lead to a refusal, never to a fork: so one of two witnesses
    /// is enough, what lies in the future is as good as now, and so is what nobody knows.
    pub fn is_recent(&self, now: Timestamp) -> bool {
        let witnesses = [self.stored.map(|age| age < RECENT), self.signed.map(|at| is_recent(at, now))];
        witnesses.contains(&Some(true)) || witnesses == [None, None]
    }
}

/// Does the note say that the cluster's new timeline is this one, pushed by this key?
pub(super) fn is_known(note: &Fork, new: &History, pusher: &KeyId) -> bool {
    note.timeline == new.timeline
        && match (note.state, &note.begins) {
            (ForkState::Accepted, _) => true,
            (ForkState::Announced, None) => false,
            (ForkState::Announced, Some(at)) => {
                let fits = new.parent().is_some_and(|p| p.parent == at.parent && (at.from..=at.to).contains(&p.switch));
                fits && at.key.is_none_or(|key| key == *pusher)
            }
        }
}
