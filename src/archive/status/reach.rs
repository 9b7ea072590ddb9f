//! How far a snapshot can be brought along a timeline (postgres.md, "Restorable window").
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::{Lines, SnapshotSpan};
use crate::pg::timeline::{Branch, SegmentRun};
use crate::units::{Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId, Timestamp};

/// From a snapshot along one timeline to the end of what is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reach {
    /// The timeline.
    pub timeline: TimelineId,
    /// The stop LSN: nothing before can be a target.
    pub from_lsn: Lsn,
    /// Behind the last byte that replay gets to.
    pub to_lsn: Lsn,
    /// When the snapshot stopped.
    pub from_time: Timestamp,
    /// The latest end of a transaction behind the stop; a target time must lie before it, since the server stops only
    /// when it meets a later one. `None` if there is none.
    pub to_time: Option<Timestamp>,
    /// Where the last complete record starts: the target of a restore to the end. `None` if no WAL of the archive is
    /// needed or known.
    pub last_record: Option<Lsn>,
    /// The segments on the way, by the timeline whose copy is read.
    pub runs: Vec<SegmentRun>,
    /// Where the way ends: this segment is not there. `None` if the last one has a fault.
    pub next: Option<SegmentName>,
}

/// Why a snapshot can't be recovered along a timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// The timeline is none that the snapshot is on.
    NotOnTheWay,
    /// This segment, which its recovery needs, is not there.
    Missing(SegmentName),
    /// A segment that it needs holds valid WAL only up to here.
    Fault(Lsn),
}

impl Lines<'_> {
    /// From the snapshot along `timeline`.
    ///
    /// # Errors
    /// Why it can't be recovered along it at all.
    pub fn reach(&self, snapshot: &SnapshotSpan, timeline: TimelineId) -> Result<Reach, Blocked> {
        let size = snapshot.segment_size;
        let branches = self.way(snapshot, timeline).ok_or(Blocked::NotOnTheWay)?;
        let needed = size.segment_before(snapshot.stop_lsn);
        let mut walked = self.walk(&branches, size.segment_of(snapshot.start_lsn), size);
        let blocked = match (walked.fault, walked.end()) {
            (Some(at), _) if at < snapshot.stop_lsn => Some(Blocked::Fault(at)),
            (_, Some(last)) if last >= needed => None,
            _ => Some(walked.next.map_or(Blocked::NotOnTheWay, Blocked::Missing)),
        };
        match blocked {
            Some(blocked) if !snapshot.wal_copied => return Err(blocked),
            // WAL of its own brings a snapshot to its stop. A server that is to get further reads the archive from the
            // start on.
            Some(_) => (walked.runs, walked.fault) = (Vec::new(), None),
            None => {}
        }
        let latest = walked.runs.iter().filter_map(|run| {
            let first = run.first.max(size.segment_of(snapshot.stop_lsn));
            self.line(run.timeline)?.latest(first, run.last)
        });
        let to_time = latest.max().filter(|latest| *latest > snapshot.stop_time);
        let end = walked.fault.or_else(|| walked.end().map(|last| size.end_of(last)));
        Ok(Reach {
            timeline,
            from_lsn: snapshot.stop_lsn,
            to_lsn: end.map_or(snapshot.stop_lsn, |end| end.max(snapshot.stop_lsn)),
            from_time: snapshot.stop_time,
            to_time,
            last_record: self.last_record(&walked.runs),
            runs: walked.runs,
            next: walked.next,
        })
    }

    /// The timelines along which a snapshot might be recovered: its own, and all that descend from it behind its stop.
    pub fn timelines_of(&self, snapshot: &SnapshotSpan) -> Vec<TimelineId> {
        let own = snapshot.stop_timeline();
        let mut all = self.timelines();
        all.insert(own);
        all.into_iter().filter(|timeline| *timeline == own || self.way(snapshot, *timeline).is_some()).collect()
    }

    /// The branches from the snapshot's start to `timeline`.
    fn way(&self, snapshot: &SnapshotSpan, timeline: TimelineId) -> Option<Vec<Branch>> {
        let (start, stop) = (snapshot.timeline, snapshot.stop_timeline());
        // A snapshot proves its own way, whether histories are archived or not.
        let mut branches: Vec<Branch> = match timeline == stop {
            true => own_way(snapshot),
            false => self.tree.ancestry(timeline),
        };
        let at = branches.iter().position(|b| b.timeline == start && b.end.is_none_or(|end| snapshot.start_lsn <= end))?;
        branches.drain(..at);
        let on_the_way = branches.iter().any(|b| b.timeline == stop && b.end.is_none_or(|end| snapshot.stop_lsn <= end));
        on_the_way.then_some(branches)
    }

    fn walk(&self, branches: &[Branch], start: SegmentNo, size: SegmentSize) -> Walked {
        let mut walked = Walked { runs: Vec::new(), next: None, fault: None };
        let mut next = start;
        for branch in branches {
            let behind = branch.end.map(|end| size.segment_of(end));
            if behind.is_some_and(|behind| behind <= next) {
                continue;
            }
            let line = self.line(branch.timeline).filter(|_| self.archive.segment_size == Some(size));
            let Some(run) = line.and_then(|line| line.run(next)) else {
                walked.next = Some(SegmentName::new(branch.timeline, next, size));
                return walked;
            };
            let last = behind.map_or(run.last, |behind| run.last.min(SegmentNo(behind.0.saturating_sub(1))));
            walked.runs.push(SegmentRun { timeline: branch.timeline, first: next, last });
            next = last.next();
            if last == run.last && run.fault.is_some() {
                walked.fault = run.fault;
                return walked;
            }
            if behind.is_none_or(|behind| next < behind) {
                walked.next = Some(SegmentName::new(branch.timeline, next, size));
                return walked;
            }
        }
        walked
    }

    /// The start of the last record that is complete at the end of these runs.
    fn last_record(&self, runs: &[SegmentRun]) -> Option<Lsn> {
        // The rest of a record ends in a segment behind: then it began in the nearest one before that it is cut off by.
        let mut rest_ends = false;
        for run in runs.iter().rev() {
            for (_, entry) in self.archive.segments.range((run.timeline, run.first)..=(run.timeline, run.last)).rev() {
                let facts = &entry.facts;
                if rest_ends && facts.tail_record.is_some() {
                    return facts.tail_record;
                }
                if facts.last_record.is_some() {
                    return facts.last_record;
                }
                rest_ends |= facts.continuation_ends.is_some();
            }
        }
        None
    }
}

/// From the start of a snapshot to its stop, as its ranges say.
fn own_way(snapshot: &SnapshotSpan) -> Vec<Branch> {
    let count = snapshot.ranges.len();
    if count == 0 {
        return vec![Branch { timeline: snapshot.timeline, begin: Lsn(0), end: None }];
    }
    let branch = |(i, range): (usize, &crate::repo::log::WalRange)| Branch {
        timeline: range.timeline,
        begin: range.first,
        end: (i + 1 < count).then_some(range.last),
    };
    snapshot.ranges.iter().enumerate().map(branch).collect()
}

struct Walked {
    runs: Vec<SegmentRun>,
    next: Option<SegmentName>,
    fault: Option<Lsn>,
}

impl Walked {
    fn end(&self) -> Option<SegmentNo> {
        self.runs.last().map(|run| run.last)
    }
}
