//! Which lines are still written. Two of them mean that a copy of the cluster was promoted and archives beside it.
//!
//! ```text
//! a line is ended  by a child that took over behind its last segment
//!                  by a line that it is no ancestor's and that began after its last transaction ended
//!                  by a line with a higher number that was accepted as the cluster's
//! ```
//! When a line began is not written anywhere: it is at the latest when the first transaction of its own ended. Until
//! there is one, and as long as a line is idle, nothing proves that two are written at once.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::BTreeSet;

use super::{Known, Lines};
use crate::units::{SegmentNo, TimelineId, Timestamp};

/// The live timelines.
pub(super) fn live(lines: &Lines<'_>, known: &Known) -> BTreeSet<TimelineId> {
    lines.lines.keys().copied().filter(|timeline| !is_ended(lines, known, *timeline)).collect()
}

fn is_ended(lines: &Lines<'_>, known: &Known, timeline: TimelineId) -> bool {
    let accepted_instead = |accepted: &TimelineId| timeline < *accepted && !lines.descends(timeline, *accepted);
    let others = || lines.lines.keys().copied().filter(|other| *other != timeline);
    known.accepted.iter().any(accepted_instead)
        || others().any(|other| took_over(lines, timeline, other))
        || others().any(|other| began_later(lines, timeline, other))
}

/// Does `other` descend from `timeline`, which has nothing behind the segment in which it was left?
fn took_over(lines: &Lines<'_>, timeline: TimelineId, other: TimelineId) -> bool {
    let Some((size, last)) = lines.archive.segment_size.zip(lines.line(timeline).and_then(|l| l.last())) else { return false };
    let left = lines.tree.ancestry(other).into_iter().find(|branch| branch.timeline == timeline && other != timeline);
    left.and_then(|branch| branch.end).is_some_and(|end| last <= size.segment_of(end))
}

/// Did `other` begin after the last transaction of `timeline`?
fn began_later(lines: &Lines<'_>, timeline: TimelineId, other: TimelineId) -> bool {
    if lines.descends(timeline, other) {
        return false;
    }
    let last = lines.line(timeline).and_then(|line| line.latest_of_all());
    let begin = beginning(lines, other);
    begin.zip(last).is_some_and(|(begin, last)| begin > last)
}

/// When the timeline's first own transaction ended, as far as segments' facts tell; a later time rather than an earlier.
fn beginning(lines: &Lines<'_>, timeline: TimelineId) -> Option<Timestamp> {
    let size = lines.archive.segment_size?;
    let switch = lines.tree.history(timeline)?.parent()?.switch;
    let first: SegmentNo = size.segment_of(switch);
    let own = lines.archive.segments.range((timeline, first)..=(timeline, SegmentNo(u64::MAX)));
    own.filter_map(|((_, no), entry)| {
        let ends = entry.facts.transactions?;
        // The first segment begins as a copy of the parent's.
        if *no > first { Some(ends.first_time) } else { (ends.last_lsn >= switch).then_some(ends.last_time) }
    })
    .next()
}
