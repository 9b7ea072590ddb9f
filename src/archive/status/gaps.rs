//! What is missing of each timeline.
//!
//! Between the first and the last segment of a timeline all must be there. Along the way to a descendant that has
//! segments, once anything of the way is there, all behind it must be: up to the segment in which a timeline was left,
//! which its child owns, and from there on the child's. What lies before the first segment of a way was never archived;
//! what was expired is no gap, nor is WAL that lies in a snapshot.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::BTreeMap;

use super::{Acknowledged, Known, Lines};
use crate::units::{SegmentNo, SegmentSize, TimelineId};

/// A run of missing segments, both ends included, and why, if that is acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Gap {
    pub from: SegmentNo,
    pub to: SegmentNo,
    pub acknowledged: Option<String>,
}

type Ranges = Vec<(SegmentNo, SegmentNo)>;

/// The gaps of every timeline, in order.
pub(super) fn gaps(lines: &Lines<'_>, known: &Known) -> BTreeMap<TimelineId, Vec<Gap>> {
    let Some(size) = lines.archive.segment_size else { return BTreeMap::new() };
    let mut missing: BTreeMap<TimelineId, Ranges> = BTreeMap::new();
    for (timeline, line) in &lines.lines {
        missing.entry(*timeline).or_default().extend(line.holes());
        along(lines, *timeline, size, &mut missing);
    }
    let finish = |(timeline, ranges): (TimelineId, Ranges)| {
        let floor = known.expired.get(&timeline).map(|highest| size.segment_of(*highest).next());
        let gaps: Vec<Gap> =
            merge(ranges, floor).into_iter().flat_map(|(from, to)| cut(timeline, from, to, size, &known.acknowledged)).collect();
        (timeline, gaps)
    };
    missing.into_iter().map(finish).filter(|(_, gaps)| !gaps.is_empty()).collect()
}

/// What is missing on the way to `timeline`, up to its own first segment.
fn along(lines: &Lines<'_>, timeline: TimelineId, size: SegmentSize, missing: &mut BTreeMap<TimelineId, Ranges>) {
    let mut begun = false;
    for branch in lines.tree.ancestry(timeline) {
        let begin = size.segment_of(branch.begin);
        // The segment in which it was left is the child's.
        let behind = branch.end.map(|end| size.segment_of(end));
        let line = lines.line(branch.timeline);
        let first = line.and_then(|l| l.at_or_behind(begin)).filter(|no| behind.is_none_or(|behind| *no < behind));
        let ranges = missing.entry(branch.timeline).or_default();
        match (first, behind) {
            (Some(first), _) => {
                if begun && begin < first {
                    ranges.push((begin, before(first)));
                }
                if let Some((last, behind)) = behind.and_then(|behind| Some((line?.before(behind)?, behind)))
                    && last.next() < behind
                {
                    ranges.push((last.next(), before(behind)));
                }
                begun = true;
            }
            (None, Some(behind)) if begun && begin < behind => ranges.push((begin, before(behind))),
            _ => {}
        }
    }
}

fn before(no: SegmentNo) -> SegmentNo {
    SegmentNo(no.0.saturating_sub(1))
}

/// Ranges in order, without overlap, and nothing before `floor`.
fn merge(mut ranges: Ranges, floor: Option<SegmentNo>) -> Ranges {
    ranges.sort_unstable();
    let mut merged = Ranges::new();
    for (from, to) in ranges {
        let from = floor.map_or(from, |floor| from.max(floor));
        match merged.last_mut() {
            _ if to < from => {}
            Some((_, last)) if from <= last.next() => *last = (*last).max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// One gap, in pieces that are acknowledged or not.
fn cut(timeline: TimelineId, from: SegmentNo, to: SegmentNo, size: SegmentSize, acknowledged: &[Acknowledged]) -> Vec<Gap> {
    let notes: Vec<_> = acknowledged
        .iter()
        .filter(|a| a.from.timeline == timeline)
        .filter_map(|a| Some((a.from.no(size)?, a.to.no(size)?, &a.reason)))
        .collect();
    let mut pieces = Vec::new();
    let mut at = from;
    while at <= to {
        let covering = notes.iter().filter(|(first, last, _)| *first <= at && at <= *last).max_by_key(|(_, last, _)| *last);
        let (end, reason) = match covering {
            Some((_, last, reason)) => ((*last).min(to), Some((*reason).clone())),
            None => {
                let next = notes.iter().map(|(first, ..)| *first).filter(|first| *first > at).min();
                (next.map_or(to, before).min(to), None)
            }
        };
        pieces.push(Gap { from: at, to: end, acknowledged: reason });
        at = end.next();
    }
    pieces
}
