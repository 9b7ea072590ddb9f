//! The segments that a server would read from a snapshot on, along a timeline, as far as they follow each other.

use std::collections::HashMap;

use super::{Archive, ArchivedSegment, Candidate};
use crate::pg::timeline::Branch;
use crate::pg::wal::TransactionEnds;
use crate::units::{Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId, Timestamp};

/// The archive's segments by timeline and number.
pub(super) struct Index<'a> {
    pub archive: &'a Archive,
    segments: HashMap<(TimelineId, SegmentNo), &'a ArchivedSegment>,
}

/// A way through WAL.
pub(super) struct Line<'a> {
    pub size: SegmentSize,
    /// Consecutive, from the one that holds the start.
    pub segments: Vec<&'a ArchivedSegment>,
    /// Up to here their WAL is valid.
    pub end: Lsn,
    /// Nothing behind `end` is there; else the segment in which it lies is there to its end.
    pub exact: bool,
    /// The first that isn't there.
    pub missing: SegmentName,
    /// The first behind it that is, be it unusable: WAL went on.
    pub later: Option<SegmentName>,
    /// Why the way ends here, if WAL itself is damaged.
    pub damaged: Option<Damage>,
}

/// A segment in which WAL can't be replayed to its end.
#[derive(Clone, Debug)]
pub(super) struct Damage {
    pub segment: SegmentName,
    pub no: SegmentNo,
    /// Up to here it can.
    pub at: Lsn,
    pub why: String,
    /// The segment is what was pushed; else its objects are rotten.
    pub as_pushed: bool,
}

impl<'a> Index<'a> {
    pub fn new(archive: &'a Archive) -> Self {
        let segments = archive.segments.iter().map(|s| ((s.timeline, s.no), s)).collect();
        Index { archive, segments }
    }

    /// The way from a snapshot's start along `to`, which must descend from it.
    pub fn line(&self, from: &Candidate, to: TimelineId) -> Line<'a> {
        let size = self.archive.segment_size;
        let mut branches = self.archive.timelines.ancestry(to);
        let first = branches.iter().position(|b| b.timeline == from.start_timeline).unwrap_or(0);
        branches.drain(..first);
        let (mut segments, mut damaged, mut unfinished) = (Vec::new(), None, None);
        let mut no = size.segment_of(from.start_lsn);
        while let Some(segment) = owner(&branches, no, size).and_then(|t| self.segments.get(&(t, no)).copied()) {
            segments.push(segment);
            if segment.unfinished {
                unfinished = Some(segment.valid_until);
                break;
            }
            no = no.next();
            if segment.fault.is_some() {
                damaged = Some(segment);
                break;
            }
        }
        let damaged = damaged.map(|s: &ArchivedSegment| Damage {
            segment: s.name(size),
            no: s.no,
            at: s.valid_until,
            why: s.fault.clone().unwrap_or_default(),
            as_pushed: true,
        });
        let missing = SegmentName::new(owner(&branches, no, size).unwrap_or(to), no, size);
        let damaged = damaged.or_else(|| self.rotten(missing, no).filter(|_| unfinished.is_none()));
        let end = damaged.as_ref().map_or(unfinished.unwrap_or(size.start_of(no)), |d| d.at);
        let exact = damaged.is_some() || unfinished.is_some();
        let whole = self.archive.segments.iter().map(|s| (s.no, s.timeline));
        let rotten = self.archive.unusable.keys().filter_map(|name| Some((name.no(size)?, name.timeline)));
        let later = whole.chain(rotten).filter(|(at, timeline)| *at > no && owner(&branches, *at, size) == Some(*timeline)).min();
        let later = later.map(|(no, timeline)| SegmentName::new(timeline, no, size));
        Line { size, segments, end, exact, missing, later, damaged }
    }

    /// A segment that was archived and can't be used is damage, and no end of WAL.
    fn rotten(&self, segment: SegmentName, no: SegmentNo) -> Option<Damage> {
        let why = self.archive.unusable.get(&segment)?;
        Some(Damage { segment, no, at: self.archive.segment_size.start_of(no), why: why.clone(), as_pushed: false })
    }
}

/// The timeline whose copy of a segment is read: the child owns the segment of the switch, since its copy holds both
/// parts.
fn owner(branches: &[Branch], no: SegmentNo, size: SegmentSize) -> Option<TimelineId> {
    let begun = |b: &&Branch| size.segment_of(b.begin) <= no;
    branches.iter().rev().find(begun).or(branches.first()).map(|b| b.timeline)
}

impl Line<'_> {
    /// Is all WAL up to `lsn` (not included) there?
    pub fn reaches(&self, lsn: Lsn) -> bool {
        let until = if self.exact { lsn } else { self.size.end_of(self.size.segment_before(lsn)) };
        !self.segments.is_empty() && self.end >= until
    }

    /// Will the server fail if it reads ahead of what it replays?
    pub fn ends_badly(&self) -> bool {
        self.later.is_some() || self.damaged.as_ref().is_some_and(|d| !d.as_pushed)
    }

    /// Where the last complete record starts.
    pub fn last_record(&self) -> Option<Lsn> {
        let mut ends_behind = false;
        for segment in self.segments.iter().rev() {
            if ends_behind {
                if segment.tail_record.is_some() {
                    return segment.tail_record;
                }
                continue;
            }
            if segment.last_record.is_some() {
                return segment.last_record;
            }
            ends_behind = segment.continuation_ends.is_some();
        }
        None
    }

    /// The latest end of a transaction behind `lsn`.
    pub fn last_time(&self, lsn: Lsn) -> Option<Timestamp> {
        let here = self.size.segment_of(lsn);
        let ends = self.segments.iter().filter_map(|s| Some((s.no, s.transactions?))).filter(|(_, t)| t.last_lsn >= lsn);
        // In the segment of `lsn` itself only the last is known to lie behind it.
        ends.map(|(no, t)| if no == here { t.last_time } else { t.max_time }).max()
    }

    /// The ends of transactions before the segment in which `lsn` lies.
    pub fn ends_before(&self, lsn: Lsn) -> impl Iterator<Item = TransactionEnds> {
        let here = self.size.segment_before(lsn);
        self.segments.iter().take_while(move |s| s.no < here).filter_map(|s| s.transactions)
    }

    /// The number of the first segment in which something behind `lsn` can lie.
    pub fn from(&self, lsn: Lsn) -> usize {
        let here = self.size.segment_of(lsn);
        self.segments.partition_point(|s| s.no < here)
    }
}
