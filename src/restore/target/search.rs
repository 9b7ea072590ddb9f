//! Transaction ids and restore points, looked up in WAL.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;

use super::line::Line;
use super::{ArchivedSegment, Target, TargetError};
use crate::pg::wal::{Found, Sought};
use crate::units::{Class, Explain, Lsn, SegmentName};

/// Why WAL could not be searched: any layer's error, with its class and cure.
#[derive(Debug)]
pub struct SearchError {
    /// Its class.
    pub class: Class,
    /// Its cure.
    pub cure: Option<String>,
    source: Box<dyn Error + Send + Sync>,
}

impl SearchError {
    /// From an error that explains itself.
    pub fn new<E: Explain + Send + Sync + 'static>(error: E) -> Self {
        SearchError { class: error.class(), cure: error.cure(), source: Box::new(error) }
    }
}

impl fmt::Display for SearchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for SearchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

/// Reads consecutive whole segments of the archive, in that order, and searches them: `pg::wal::find`.
pub type Find<'f> = dyn FnMut(&[SegmentName], Sought<'_>) -> Result<Option<Found>, SearchError> + 'f;

/// Searches runs of segments, each once, however many snapshots are tried.
pub(super) struct Search<'s, 'f> {
    pub find: &'s mut Find<'f>,
    /// By all segments that were read: how a record that is cut off goes on depends on the line.
    seen: HashMap<Vec<SegmentName>, Option<Found>>,
}

impl<'s, 'f> Search<'s, 'f> {
    pub fn new(find: &'s mut Find<'f>) -> Self {
        Search { find, seen: HashMap::new() }
    }

    /// The first match on the line that starts at `from` or behind it.
    pub fn first(&mut self, line: &Line<'_>, from: Lsn, target: &Target) -> Result<Option<Found>, TargetError> {
        for at in line.from(from)..line.segments.len() {
            // A match in the first segment can lie before `from`, and another behind it: only of restore points, which are
            // listed.
            let Some(segment) = line.segments.get(at) else { break };
            let listed = match target {
                Target::Name(name) => segment.restore_points.iter().find(|p| p.name == *name && p.lsn >= from),
                _ => None,
            };
            if let Some(p) = listed {
                return Ok(Some(Found { start: p.lsn, end: p.end_lsn, time: p.time, committed: true }));
            }
            if let Some(found) = self.in_segment(line, at, segment, target)?.filter(|f| f.start >= from) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Reads a segment if it may hold what no list says.
    fn in_segment(&mut self, line: &Line<'_>, at: usize, segment: &ArchivedSegment, target: &Target) -> Result<Option<Found>, TargetError> {
        let sought = match target {
            Target::Xid(xid) => Sought::Xid(*xid),
            Target::Name(name) => Sought::Name(name),
            _ => return Ok(None),
        };
        let inside = match target {
            Target::Xid(xid) => segment.transactions.is_some_and(|t| may_hold(t.min_xid, t.max_xid, *xid as u32)),
            _ => segment.restore_points_cut,
        };
        if !inside && !segment.open_tail_may_hold_commit {
            return Ok(None);
        }
        // With the segments in which the record at its end goes on.
        let behind = line.segments.get(at + 1..).unwrap_or_default();
        let more = match segment.open_tail_may_hold_commit {
            true => behind.iter().position(|s| s.continuation_ends.is_some()).map_or(behind.len(), |p| p + 1),
            false => 0,
        };
        let run = line.segments.get(at..=at + more).unwrap_or_default();
        let names: Vec<SegmentName> = run.iter().map(|s| s.name(line.size)).collect();
        if let Some(found) = self.seen.get(&names) {
            return Ok(*found);
        }
        let found = (self.find)(&names, sought).map_err(|source| TargetError::Search { target: target.to_string(), source })?;
        self.seen.insert(names, found);
        Ok(found)
    }
}

/// Does the id lie between two others in the circle of 2³²? 0 for an end that isn't known.
fn may_hold(min: u32, max: u32, xid: u32) -> bool {
    min == 0 || max == 0 || xid.wrapping_sub(min) <= max.wrapping_sub(min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{SegmentNo, SegmentSize, TimelineId, Timestamp};

    fn segment(timeline: u32, no: u64) -> ArchivedSegment {
        ArchivedSegment {
            timeline: TimelineId(timeline),
            no: SegmentNo(no),
            last_record: None,
            tail_record: None,
            continuation_ends: Some(Lsn(no << 20 | 0x100)),
            transactions: None,
            open_tail_may_hold_commit: no == 7,
            restore_points: Vec::new(),
            restore_points_cut: false,
            valid_until: Lsn((no + 1) << 20),
            fault: None,
            unfinished: false,
        }
    }

    #[test]
    fn a_record_that_is_cut_off_goes_on_as_its_line_does() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let (cut, old, new) = (segment(1, 7), segment(1, 8), segment(2, 8));
        let line = |second| Line {
            size,
            segments: vec![&cut, second],
            end: Lsn(9 << 20),
            exact: false,
            missing: SegmentName::new(TimelineId(1), SegmentNo(9), size),
            later: None,
            damaged: None,
        };
        let mut reads = 0;
        // On timeline 1 alone the record ends the transaction.
        let mut find = |names: &[SegmentName], _: Sought<'_>| {
            reads += 1;
            let start = Lsn(7 << 20 | 0xF_0000);
            let hit = names.last().is_some_and(|last| last.timeline == TimelineId(1));
            Ok(hit.then_some(Found { start, end: Lsn(8 << 20 | 0x100), time: Timestamp(5), committed: true }))
        };
        let mut search = Search::new(&mut find);
        let mut first = |second| search.first(&line(second), Lsn(7 << 20), &Target::Xid(9)).unwrap().is_some();
        assert_eq!([first(&new), first(&old), first(&new), first(&old)], [false, true, false, true]);
        assert_eq!(reads, 2);
    }

    #[test]
    fn ids_are_a_circle() {
        for (min, max, xid, expected) in [
            (10, 20, 10, true),
            (10, 20, 20, true),
            (10, 20, 9, false),
            (10, 20, 21, false),
            (u32::MAX - 1, 5, 4, true),
            (u32::MAX - 1, 5, u32::MAX, true),
            (u32::MAX - 1, 5, 6, false),
            (0, 0, 7, true),
            (7, 7, 7, true),
        ] {
            assert_eq!(may_hold(min, max, xid), expected, "{min} {max} {xid}");
        }
    }
}
