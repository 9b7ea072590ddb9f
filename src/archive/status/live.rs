//! Which lines are still written. Two of them mean that a copy of the cluster was promoted and archives beside it.
//!
//! ```text
//! a line is ended  by a child that took over: one whole segment behind the point at most
//!                  by a line that was announced or accepted as the cluster's before, by all that its own pushers knew of
//!                    the log when they pushed (no clock has a part in that), and that has a higher number
//!                  by a line that it is no ancestor's and whose first push came after its own last one; where it isn't
//!                    signed when that was: that began after its last transaction ended
//! of the others    those are live that had a push in the last hour; if that is none or one, the one that was pushed last
//! ```
//! As long as a line is idle nothing proves that two are written at once.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::BTreeSet;

use super::{Known, Lines};
use crate::archive::SegmentRecord;
use crate::archive::fork::{Newest, TOLERATED, is_recent};
use crate::archive::list::Entry;
use crate::units::{SegmentNo, TimelineId, Timestamp};

/// The live timelines.
pub(super) fn live(lines: &Lines<'_>, known: &Known, now: Timestamp) -> BTreeSet<TimelineId> {
    let open: BTreeSet<TimelineId> = lines.lines.keys().copied().filter(|timeline| !is_ended(lines, known, *timeline)).collect();
    if open.len() < 2 {
        return open;
    }
    let recent: BTreeSet<TimelineId> = open.iter().copied().filter(|t| lines.last_push(*t).is_none_or(|at| is_recent(at, now))).collect();
    match recent.len() {
        0 => open.into_iter().max_by_key(|timeline| lines.last_push(*timeline)).into_iter().collect(),
        _ => recent,
    }
}

fn is_ended(lines: &Lines<'_>, known: &Known, timeline: TimelineId) -> bool {
    let others = || lines.lines.keys().copied().filter(|other| *other != timeline);
    known.forks.iter().any(|note| noted_instead(lines, timeline, *note))
        || others().any(|other| took_over(lines, timeline, other))
        || others().any(|other| began_later(lines, timeline, other))
}

/// Does another line stand in the log as the cluster's, and did nobody push this one who had read that?
fn noted_instead(lines: &Lines<'_>, timeline: TimelineId, (noted, number): (TimelineId, u64)) -> bool {
    let there = lines.line(noted).is_some() || lines.tree.history(noted).is_some();
    let unaware = lines.newest(timeline).is_some_and(|entry| entry.head < number);
    there && unaware && timeline < noted && !lines.descends(timeline, noted)
}

/// Does `other` descend from `timeline`, which has next to nothing behind the point at which it was left?
fn took_over(lines: &Lines<'_>, timeline: TimelineId, other: TimelineId) -> bool {
    let Some(newest) = lines.newest(timeline).map(|e| Newest { timeline, no: e.facts.no, size: e.facts.size }) else { return false };
    let left = lines.tree.ancestry(other).into_iter().find(|branch| branch.timeline == timeline && other != timeline);
    left.and_then(|branch| branch.end).is_some_and(|end| newest.beyond(end) <= TOLERATED)
}

/// Did `other` begin after the end of `timeline`?
fn began_later(lines: &Lines<'_>, timeline: TimelineId, other: TimelineId) -> bool {
    if lines.descends(timeline, other) {
        return false;
    }
    if let Some((first, last)) = lines.first_push(other).zip(lines.last_push(timeline)) {
        return first > last;
    }
    let last = lines.line(timeline).and_then(|line| line.latest_of_all());
    let begin = beginning(lines, other);
    begin.zip(last).is_some_and(|(begin, last)| begin > last)
}

impl Lines<'_> {
    fn newest(&self, timeline: TimelineId) -> Option<&Entry<SegmentRecord>> {
        self.segments(timeline).next_back().map(|(_, entry)| entry)
    }

    fn segments(&self, timeline: TimelineId) -> impl DoubleEndedIterator<Item = (SegmentNo, &Entry<SegmentRecord>)> {
        let all = (timeline, SegmentNo(0))..=(timeline, SegmentNo(u64::MAX));
        self.archive.segments.range(all).map(|((_, no), entry)| (*no, entry))
    }

    /// When its newest segment was pushed, by the pusher's clock.
    pub(super) fn last_push(&self, timeline: TimelineId) -> Option<Timestamp> {
        self.newest(timeline)?.pushed_at
    }

    /// When its history was pushed, or its first segment, whichever came first: if it left another timeline. The archive
    /// doesn't know the beginning of one that didn't.
    fn first_push(&self, timeline: TimelineId) -> Option<Timestamp> {
        self.tree.history(timeline)?.parent()?;
        let history = self.archive.histories.get(&timeline)?.pushed_at?;
        let segment = self.segments(timeline).next().and_then(|(_, entry)| entry.pushed_at);
        Some(segment.map_or(history, |segment| segment.min(history)))
    }
}

/// When the timeline's first own transaction ended, as far as segments' facts tell; a later time rather than an earlier.
fn beginning(lines: &Lines<'_>, timeline: TimelineId) -> Option<Timestamp> {
    let size = lines.archive.segment_size?;
    let switch = lines.tree.history(timeline)?.parent()?.switch;
    let first: SegmentNo = size.segment_of(switch);
    let own = lines.segments(timeline).filter(|(no, _)| *no >= first);
    own.filter_map(|(no, entry)| {
        let ends = entry.facts.transactions?;
        // The first segment begins as a copy of the parent's.
        if no > first { Some(ends.first_time) } else { (ends.last_lsn >= switch).then_some(ends.last_time) }
    })
    .next()
}
