//! One timeline's segments, in order: runs without a gap, and the latest time in a part of them.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use crate::archive::SegmentRecord;
use crate::units::{Lsn, SegmentNo, Timestamp};

/// Segments whose latest time is kept together.
const BLOCK: usize = 256;

struct Place {
    no: SegmentNo,
    latest: Option<Timestamp>,
    /// Where its WAL ends to be valid, if that is before its end.
    fault: Option<Lsn>,
}

/// A run of consecutive segments that replay gets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub last: SegmentNo,
    /// Why it ends there although more may follow: its last segment is valid up to here only.
    pub fault: Option<Lsn>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Line {
    places: Vec<Place>,
    /// By place: where its run ends.
    ends: Vec<usize>,
    /// The latest time of each block of places.
    blocks: Vec<Option<Timestamp>>,
}

impl Line {
    /// Takes the next segment; they come in order.
    pub fn push(&mut self, record: &SegmentRecord) {
        let latest = record.transactions.map(|t| t.max_time);
        let fault = record.fault.as_ref().map(|_| record.valid_until);
        self.places.push(Place { no: record.no, latest, fault });
    }

    /// To be called once, when all have come.
    pub fn finish(&mut self) {
        let mut end = self.places.len().saturating_sub(1);
        let mut ends = Vec::with_capacity(self.places.len());
        let mut behind: Option<SegmentNo> = None;
        for (i, place) in self.places.iter().enumerate().rev() {
            if place.fault.is_some() || behind != Some(place.no.next()) {
                end = i;
            }
            ends.push(end);
            behind = Some(place.no);
        }
        ends.reverse();
        self.ends = ends;
        self.blocks = self.places.chunks(BLOCK).map(|block| block.iter().filter_map(|p| p.latest).max()).collect();
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn first(&self) -> Option<SegmentNo> {
        self.places.first().map(|p| p.no)
    }

    pub fn last(&self) -> Option<SegmentNo> {
        self.places.last().map(|p| p.no)
    }

    /// The first that is `from` or behind it.
    pub fn at_or_behind(&self, from: SegmentNo) -> Option<SegmentNo> {
        self.places.get(self.places.partition_point(|p| p.no < from)).map(|p| p.no)
    }

    /// The last before `no`.
    pub fn before(&self, no: SegmentNo) -> Option<SegmentNo> {
        let at = self.places.partition_point(|p| p.no < no).checked_sub(1)?;
        self.places.get(at).map(|p| p.no)
    }

    /// Whatever lies between two neighbours: the first and the last missing.
    pub fn holes(&self) -> impl Iterator<Item = (SegmentNo, SegmentNo)> {
        let pairs = self.places.iter().zip(self.places.iter().skip(1));
        pairs.filter(|(a, b)| a.no.next() < b.no).map(|(a, b)| (a.no.next(), SegmentNo(b.no.0.saturating_sub(1))))
    }

    /// The run from this segment on; `None` if it isn't there.
    pub fn run(&self, from: SegmentNo) -> Option<Run> {
        let at = self.places.binary_search_by_key(&from, |p| p.no).ok()?;
        let last = self.places.get(*self.ends.get(at)?)?;
        Some(Run { last: last.no, fault: last.fault })
    }

    /// The latest end of a transaction in these segments.
    pub fn latest(&self, first: SegmentNo, last: SegmentNo) -> Option<Timestamp> {
        let from = self.places.partition_point(|p| p.no < first);
        let to = self.places.partition_point(|p| p.no <= last);
        let mut latest = None;
        let mut at = from;
        while at < to {
            if at.is_multiple_of(BLOCK) && at + BLOCK <= to {
                latest = latest.max(self.blocks.get(at / BLOCK).copied().flatten());
                at += BLOCK;
            } else {
                latest = latest.max(self.places.get(at).and_then(|p| p.latest));
                at += 1;
            }
        }
        latest
    }

    /// The latest of all.
    pub fn latest_of_all(&self) -> Option<Timestamp> {
        self.blocks.iter().copied().flatten().max()
    }

    /// Segments that replay doesn't get through.
    pub fn faults(&self) -> impl Iterator<Item = (SegmentNo, Lsn)> {
        self.places.iter().filter_map(|p| Some((p.no, p.fault?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(places: &[(u64, Option<i64>, bool)]) -> Line {
        let mut line = Line::default();
        for (no, latest, fault) in places {
            line.places.push(Place { no: SegmentNo(*no), latest: latest.map(Timestamp), fault: fault.then_some(Lsn(*no)) });
        }
        line.finish();
        line
    }

    #[test]
    fn runs_end_at_gaps_and_faults() {
        let line = line(&[(3, None, false), (4, None, false), (6, None, false), (7, None, true), (8, None, false)]);
        let run = |no| line.run(SegmentNo(no)).map(|r| (r.last.0, r.fault.map(|l| l.0)));
        assert_eq!(
            [2, 3, 4, 5, 6, 7, 8, 9].map(run),
            [None, Some((4, None)), Some((4, None)), None, Some((7, Some(7))), Some((7, Some(7))), Some((8, None)), None]
        );
        assert_eq!(line.holes().collect::<Vec<_>>(), [(SegmentNo(5), SegmentNo(5))]);
        assert_eq!((line.before(SegmentNo(6)), line.at_or_behind(SegmentNo(5))), (Some(SegmentNo(4)), Some(SegmentNo(6))));
        assert_eq!((line.before(SegmentNo(3)), line.at_or_behind(SegmentNo(9))), (None, None));
    }

    proptest! {
        #[test]
        fn the_latest_is_the_latest(times in prop::collection::vec(prop::option::of(0i64..1000), 1..1200), a: prop::sample::Index, b: prop::sample::Index) {
            let line = line(&times.iter().enumerate().map(|(i, t)| (i as u64, *t, false)).collect::<Vec<_>>());
            let (a, b) = (a.index(times.len()), b.index(times.len()));
            let expected = times.get(a..=b).and_then(|part| part.iter().flatten().max()).copied();
            prop_assert_eq!(line.latest(SegmentNo(a as u64), SegmentNo(b as u64)).map(|t| t.0), expected);
        }
    }
}
