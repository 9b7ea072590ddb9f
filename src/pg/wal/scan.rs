//! What an archive has to know of a segment without reading it again: one pass, at the speed of the CRC.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::header::SegmentHeader;
use super::record::{Meaning, TransactionEnd};
use super::walk::{Event, WalFault, WalStop, Walk};
use crate::units::{Lsn, Timestamp};

/// A restore point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestorePoint {
    /// Its name, at most 63 bytes.
    pub name: String,
    /// Where its record starts.
    pub lsn: Lsn,
    /// Where its record ends: what `pg_create_restore_point` returned.
    pub end_lsn: Lsn,
    /// When it was made, by the server's clock.
    pub time: Timestamp,
}

/// The transactions that end in a segment, rolled back or committed: at each of them the server can stop for a target
/// time or xid. Times are of the server's clock and not quite monotonic in the order of LSNs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionEnds {
    /// The earliest.
    pub min_time: Timestamp,
    /// The latest.
    pub max_time: Timestamp,
    /// The first in the order of LSNs.
    pub first_time: Timestamp,
    /// The last in the order of LSNs.
    pub last_time: Timestamp,
    /// The oldest transaction id, in the circular order of ids; 0 if none was known.
    pub min_xid: u32,
    /// The youngest; 0 if none was known.
    pub max_xid: u32,
    /// Where the last of them starts.
    pub last_lsn: Lsn,
}

impl TransactionEnds {
    fn one(end: &TransactionEnd, lsn: Lsn) -> Self {
        let (time, xid) = (end.time, end.xid);
        TransactionEnds { min_time: time, max_time: time, first_time: time, last_time: time, min_xid: xid, max_xid: xid, last_lsn: lsn }
    }

    fn add(&mut self, end: &TransactionEnd, lsn: Lsn) {
        self.min_time = self.min_time.min(end.time);
        self.max_time = self.max_time.max(end.time);
        self.last_time = end.time;
        self.last_lsn = lsn;
        if end.xid == 0 {
            return;
        }
        // TransactionIdPrecedes: ids are a circle of 2^32.
        let older = |a: u32, b: u32| b == 0 || a.wrapping_sub(b) as i32 <= 0;
        if older(end.xid, self.min_xid) {
            self.min_xid = end.xid;
        }
        if self.max_xid == 0 || older(self.max_xid, end.xid) {
            self.max_xid = end.xid;
        }
    }
}

/// The facts about one segment. "Whole" records start and end in it, and their CRC is right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentFacts {
    /// The first record that starts here.
    pub first_record: Option<Lsn>,
    /// The start of the last whole record.
    pub last_record: Option<Lsn>,
    /// Does the segment begin with the rest of a record of the segment before?
    pub continued_in: bool,
    /// Where that rest ends: `None` if there is none, or if it fills the segment.
    pub continuation_ends: Option<Lsn>,
    /// The start of a record that the segment's end cuts off.
    pub tail_record: Option<Lsn>,
    /// Was the segment left early, by `pg_switch_wal`, archive_timeout or a backup? The rest of it is void.
    pub switch: bool,
    /// The transactions that end here.
    pub commits: Option<TransactionEnds>,
    /// The restore points, in order.
    pub restore_points: Vec<RestorePoint>,
    /// Can the record cut off by the segment's end be one that ends a transaction, or a restore point? It is then in
    /// no segment's facts.
    pub open_tail_may_hold_commit: bool,
    /// Up to here the segment is valid: its end, if nothing is wrong with it, else the end of the last whole record.
    pub valid_until: Lsn,
    /// Why it isn't valid to its end. A segment that the server finished is.
    pub stop: Option<WalStop>,
}

/// A pass over one segment, which comes in pieces of any size.
pub struct SegmentScan {
    walk: Walk,
    end: Lsn,
    page_size: usize,
    /// The beginning of a page whose end is still to come.
    partial: Vec<u8>,
    facts: SegmentFacts,
}

impl SegmentScan {
    /// For the segment whose first page says this.
    pub fn new(header: &SegmentHeader) -> Self {
        let end = header.segment_size.end_of(header.segment_size.segment_of(header.start()));
        let facts = SegmentFacts {
            first_record: None,
            last_record: None,
            continued_in: header.page.is_continuation(),
            continuation_ends: None,
            tail_record: None,
            switch: false,
            commits: None,
            restore_points: Vec::new(),
            open_tail_may_hold_commit: false,
            valid_until: header.start(),
            stop: None,
        };
        SegmentScan { walk: Walk::new(header), end, page_size: header.page_size as usize, partial: Vec::new(), facts }
    }

    /// Takes the next bytes of the segment; what comes behind its end is not looked at.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let missing = self.page_size.saturating_sub(self.partial.len());
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            self.partial.extend_from_slice(head);
            bytes = rest;
            if self.partial.len() < self.page_size {
                return;
            }
            let page = std::mem::take(&mut self.partial);
            self.page(&page);
        }
        let pages = bytes.chunks_exact(self.page_size);
        self.partial.extend_from_slice(pages.remainder());
        for page in pages {
            self.page(page);
        }
    }

    fn page(&mut self, page: &[u8]) {
        if self.facts.stop.is_some() || self.walk.next() >= self.end {
            return;
        }
        let facts = &mut self.facts;
        let walked = self.walk.page(page, &mut |event| facts.note(event));
        facts.stop = walked.err();
    }

    /// The facts, once all bytes have come.
    pub fn finish(self) -> SegmentFacts {
        let mut facts = self.facts;
        if facts.stop.is_none() && self.walk.next() < self.end {
            facts.stop = Some(WalStop { at: self.walk.next(), why: WalFault::Truncated });
        }
        facts.valid_until = if facts.stop.is_some() { self.walk.valid_until() } else { self.end };
        if let Some(open) = self.walk.open().filter(|_| facts.stop.is_none()) {
            facts.tail_record = Some(open.start);
            facts.first_record = facts.first_record.or(Some(open.start));
            facts.open_tail_may_hold_commit = open.header.is_none_or(|h| h.is_end_of_transaction() || h.is_restore_point());
        }
        facts
    }
}

impl SegmentFacts {
    /// The facts about a whole segment's bytes.
    pub fn of(header: &SegmentHeader, segment: &[u8]) -> Self {
        let mut scan = SegmentScan::new(header);
        scan.feed(segment);
        scan.finish()
    }

    fn note(&mut self, event: Event<'_>) {
        let record = match event {
            Event::ContinuationEnds(end) => {
                self.continuation_ends = Some(end);
                return;
            }
            Event::Record(record) => record,
        };
        self.first_record = self.first_record.or(Some(record.start));
        self.last_record = Some(record.start);
        match record.meaning() {
            Meaning::Other => {}
            Meaning::Switch => self.switch = true,
            Meaning::RestorePoint { name, time } => {
                self.restore_points.push(RestorePoint { name, lsn: record.start, end_lsn: record.end, time });
            }
            Meaning::End(end) => match &mut self.commits {
                Some(ends) => ends.add(&end, record.start),
                None => self.commits = Some(TransactionEnds::one(&end, record.start)),
            },
        }
    }
}
