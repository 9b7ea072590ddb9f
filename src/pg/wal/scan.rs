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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::fixtures;
    use crate::pg::wal::build::WalBuilder;
    use crate::units::TimelineId;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const SEGMENTS: std::ops::RangeInclusive<u64> = 0x18..=0x1C;

    fn segment(major: u16, no: u64) -> (SegmentHeader, Vec<u8>) {
        let bytes = fixtures::file(major, &format!("0000000100000000000000{no:02X}"));
        (SegmentHeader::parse(&bytes).unwrap(), bytes)
    }

    fn facts(major: u16, no: u64) -> SegmentFacts {
        let (header, bytes) = segment(major, no);
        SegmentFacts::of(&header, &bytes)
    }

    /// A line of pg_waldump: resource manager, length, xid, start, start of the one before, description.
    struct Told {
        rmgr: String,
        len: u64,
        xid: u32,
        start: u64,
        what: String,
    }

    fn told(major: u16) -> Vec<Told> {
        let text = fixtures::text(major, "records.txt");
        let line = |l: &str| {
            let f: Vec<&str> = l.split('|').collect();
            Told {
                rmgr: f[0].to_owned(),
                len: f[1].parse().unwrap(),
                xid: f[2].parse().unwrap(),
                start: f[3].parse::<Lsn>().unwrap().0,
                what: f[5].trim().to_owned(),
            }
        };
        text.lines().map(line).collect()
    }

    /// Bytes of WAL to positions: without the headers of pages.
    fn data_end(start: u64, len: u64) -> u64 {
        let mut at = start;
        let mut left = len;
        while left > 0 {
            if at.is_multiple_of(8192) {
                at += if at.is_multiple_of(MIB) { 40 } else { 24 };
            }
            let here = left.min(8192 - at % 8192);
            at += here;
            left -= here;
        }
        at
    }

    fn end_of(start: u64, len: u64) -> u64 {
        data_end(start, len).next_multiple_of(8)
    }

    #[test]
    fn facts_agree_with_pg_waldump() {
        for major in [15, 18, 19] {
            let told = told(major);
            for no in SEGMENTS {
                let (begin, end) = (no * MIB, (no + 1) * MIB);
                let facts = facts(major, no);
                let inside: Vec<&Told> = told.iter().filter(|t| (begin..end).contains(&t.start)).collect();
                let whole: Vec<&Told> = inside.iter().copied().filter(|t| end_of(t.start, t.len) <= end).collect();
                let cut_off = told.iter().find(|t| t.start < begin && end_of(t.start, t.len) > begin);
                assert_eq!(facts.first_record.map(|l| l.0), inside.first().map(|t| t.start), "{major} {no:x}");
                assert_eq!(facts.last_record.map(|l| l.0), whole.last().map(|t| t.start), "{major} {no:x}");
                assert_eq!(facts.tail_record.map(|l| l.0), inside.iter().find(|t| end_of(t.start, t.len) > end).map(|t| t.start));
                assert_eq!(facts.continued_in, cut_off.is_some());
                let rest_ends = cut_off.map(|t| end_of(t.start, t.len)).filter(|e| *e <= end);
                assert_eq!(facts.continuation_ends.map(|l| l.0), rest_ends, "{major} {no:x}");
                assert_eq!(facts.switch, whole.iter().any(|t| t.what == "SWITCH"));
                assert_eq!((facts.valid_until, facts.stop), (Lsn(end), None));
                assert!(!facts.open_tail_may_hold_commit);
                assert_eq!(facts.restore_points.len(), whole.iter().filter(|t| t.what == "RESTORE_POINT").count());
                ends_agree(facts.commits, &whole);
            }
        }
    }

    fn ends_agree(ends: Option<TransactionEnds>, told: &[&Told]) {
        let told: Vec<(u32, u64, Timestamp)> = told
            .iter()
            .filter(|t| t.rmgr == "Transaction" && (t.what.starts_with("COMMIT") || t.what.starts_with("ABORT")))
            .map(|t| {
                let (_, rest) = t.what.split_once(' ').unwrap();
                let (xid, time) = rest.split_once(": ").map_or((t.xid, rest), |(xid, time)| (xid.parse().unwrap(), time));
                (xid, t.start, format!("{time} UTC").parse().unwrap())
            })
            .collect();
        let expected = told.first().map(|first| TransactionEnds {
            min_time: told.iter().map(|t| t.2).min().unwrap(),
            max_time: told.iter().map(|t| t.2).max().unwrap(),
            first_time: first.2,
            last_time: told.last().unwrap().2,
            min_xid: told.iter().map(|t| t.0).min().unwrap(),
            max_xid: told.iter().map(|t| t.0).max().unwrap(),
            last_lsn: Lsn(told.last().unwrap().1),
        });
        assert_eq!(ends, expected);
    }

    #[test]
    fn restore_points_have_the_position_that_the_function_returned() {
        let facts = facts(15, 0x18);
        let [point] = facts.restore_points.as_slice() else { panic!("one restore point") };
        // pg_create_restore_point said 0/1808CB0.
        assert_eq!((point.name.as_str(), point.lsn, point.end_lsn), ("before the flood", Lsn(0x180_8C48), Lsn(0x180_8CB0)));
    }

    #[test]
    fn a_record_may_fill_a_segment_and_more() {
        let facts = facts(15, 0x19);
        assert!(facts.continued_in);
        assert_eq!((facts.first_record, facts.last_record, facts.tail_record, facts.continuation_ends), (None, None, None, None));
        assert_eq!(facts.valid_until, Lsn(0x1A0_0000));
    }

    #[test]
    fn a_switch_of_timeline_inside_is_followed() {
        let bytes = fixtures::file(15, "000000020000000000000018");
        let facts = SegmentFacts::of(&SegmentHeader::parse(&bytes).unwrap(), &bytes);
        assert_eq!((facts.stop, facts.switch), (None, true));
        assert_eq!(facts.restore_points.last().unwrap().name, "rp_t2");
    }

    #[test]
    fn damage_ends_the_valid_part_at_the_record_before() {
        let (header, bytes) = segment(15, 0x18);
        let told = told(15);
        for (i, record) in told.iter().enumerate().take_while(|(_, t)| t.start < 0x180_8D30) {
            let at = (record.start - 0x180_0000) as usize;
            let mut damaged = bytes.clone();
            damaged[at + 30] ^= 4;
            let facts = SegmentFacts::of(&header, &damaged);
            let stop = facts.stop.unwrap();
            assert!(matches!(stop.why, WalFault::Crc { .. }), "{:?}", stop);
            assert_eq!(stop.at, Lsn(record.start));
            let before = i.checked_sub(1).map(|b| &told[b]);
            assert_eq!(facts.last_record.map(|l| l.0), before.map(|b| b.start));
            assert_eq!(facts.valid_until, Lsn(before.map_or(0x180_0000, |b| end_of(b.start, b.len))));
            assert_eq!(facts.tail_record, None);
        }
    }

    #[test]
    fn each_end_of_wal_has_its_reason() {
        let (header, bytes) = segment(15, 0x18);
        let stop = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            SegmentFacts::of(&header, &bytes).stop.map(|s| (s.at.0 - 0x180_0000, s.why))
        };
        let record = 0x8828; // A commit.
        assert_eq!(stop(&|b| b.truncate(0x8000)), Some((0x8000, WalFault::Truncated)));
        assert_eq!(stop(&|b| b.truncate(0xA001)), Some((0xA000, WalFault::Truncated)));
        assert_eq!(stop(&|b| b[record..].fill(0)), Some((0x8828, WalFault::Zeros)));
        assert_eq!(stop(&|b| b[record..record + 4].fill(0)), Some((0x8828, WalFault::Length { found: 0 })));
        assert_eq!(stop(&|b| b[record] = 23), Some((0x8828, WalFault::Length { found: 23 })));
        assert_eq!(stop(&|b| b[record + 3] = 0x41), Some((0x8828, WalFault::Length { found: 0x4100_0022 })));
        assert_eq!(stop(&|b| b[record + 8] ^= 8), Some((0x8828, WalFault::Previous { found: Lsn(0x180_80C0) })));
        // In the middle of the long record: it is the record that is not valid.
        let long = 0x8D30;
        assert_eq!(stop(&|b| b[0x20000..].fill(0)), Some((long, WalFault::Zeros)));
        assert_eq!(stop(&|b| b[0x20000] ^= 1), Some((long, WalFault::Magic { expected: 0xD110, found: 0xD111 })));
        assert_eq!(stop(&|b| b[0x20002] = 3), Some((long, WalFault::Flags { found: 3 })));
        assert_eq!(stop(&|b| b[0x20002] = 0x11), Some((long, WalFault::Flags { found: 0x11 })));
        assert_eq!(stop(&|b| b[0x20008] = 1), Some((long, WalFault::Address { found: Lsn(0x182_0001) })));
        assert!(matches!(stop(&|b| b[0x20002] = 0), Some((_, WalFault::Continuation { found: 0, .. }))));
        assert!(matches!(stop(&|b| b[0x20010] ^= 1), Some((_, WalFault::Continuation { .. }))));
        let older = WalFault::Timeline { before: TimelineId(2), found: TimelineId(1) };
        assert_eq!(stop(&|b| b[0x1E004] = 2), Some((long, older)));
        // Given up after a crash: the next record follows at once, and there is none here.
        assert!(matches!(stop(&|b| b[0x20002] = 8), Some((0x20018, _))));
    }

    fn built(builder: WalBuilder) -> Vec<SegmentFacts> {
        let of = |segment: &Vec<u8>| SegmentFacts::of(&SegmentHeader::parse(segment).unwrap(), segment);
        builder.segments().iter().map(of).collect()
    }

    #[test]
    fn an_open_tail_says_whether_it_may_end_a_transaction() {
        // A commit has 34 bytes: with 32 left its header is there, with 16 not even that.
        for (left, kind, may) in [(32, "commit", true), (16, "commit", true), (8, "other", true), (32, "point", true), (32, "other", false)]
        {
            let mut wal = WalBuilder::new();
            wal.fill_to(left);
            let (start, end) = match kind {
                "commit" => wal.commit(9, 1),
                "point" => wal.restore_point("split", 1),
                _ => wal.record(10, 0, 9, &[1; 100]),
            };
            let facts = built(wal);
            assert_eq!((facts[0].tail_record, facts[0].valid_until), (Some(start), Lsn(6 << 20)), "{left} {kind}");
            assert_eq!(facts[0].open_tail_may_hold_commit, may, "{left} {kind}");
            assert_eq!((facts[0].commits, facts[1].commits, facts[1].restore_points.len()), (None, None, 0));
            assert_eq!((facts[1].continued_in, facts[1].continuation_ends), (true, Some(end)));
        }
    }

    #[test]
    fn a_record_may_end_with_its_segment() {
        let mut wal = WalBuilder::new();
        wal.fill_to(0);
        let (start, _) = wal.commit(9, 1);
        let facts = built(wal);
        assert_eq!((facts[0].tail_record, facts[0].stop, facts[0].open_tail_may_hold_commit), (None, None, false));
        assert_eq!((facts[1].first_record, facts[1].continued_in), (Some(start), false));
        assert_eq!(start, Lsn((6 << 20) + 40));
    }

    #[test]
    fn a_record_given_up_after_a_crash_is_passed_over() {
        let mut wal = WalBuilder::new();
        wal.fill_to(64);
        let (last, _) = wal.commit(8, 1);
        let (lost, _) = wal.record(10, 0, 9, &[1; 9000]);
        wal.lose(6 << 20);
        wal.page_header(8, 0);
        wal.set_prev(last);
        let (start, end) = wal.commit(10, 2);
        let facts = built(wal);
        assert_eq!((facts[0].last_record, facts[0].tail_record), (Some(last), Some(lost)));
        assert_eq!((facts[1].first_record, facts[1].continued_in, facts[1].commits.unwrap().min_xid), (Some(start), false, 10));
        assert_eq!((facts[1].valid_until, facts[1].stop.unwrap().why), (end, WalFault::Zeros));
    }

    #[test]
    fn xids_are_ordered_on_their_circle() {
        let mut wal = WalBuilder::new();
        for (xid, time) in [(u32::MAX - 1, 5), (0, 4), (3, 9), (u32::MAX, 7)] {
            wal.commit(xid, time);
        }
        let ends = built(wal)[0].commits.unwrap();
        assert_eq!((ends.min_xid, ends.max_xid), (u32::MAX - 1, 3));
        let at = |micros| Timestamp::from_postgres(micros);
        assert_eq!((ends.min_time, ends.max_time, ends.first_time, ends.last_time), (at(4), at(9), at(5), at(7)));
    }

    proptest! {
        #[test]
        fn every_record_of_any_length_is_met(
            lengths in proptest::collection::vec(prop_oneof![0usize..300, 7000usize..9000, 100_000usize..1_500_000], 1..40), switch_at in 0usize..40,
        ) {
            let mut wal = WalBuilder::new();
            let mut records = Vec::new();
            for (i, length) in lengths.iter().enumerate() {
                records.push(wal.record(10, 0, 3, &vec![i as u8 | 1; *length]));
                if i == switch_at {
                    records.push(wal.switch(3));
                }
            }
            let end = wal.at();
            let facts = built(wal);
            for (no, facts) in (5u64..).zip(&facts) {
                let segment = no << 20..(no + 1) << 20;
                let last = end.min(segment.end);
                prop_assert_eq!(facts.valid_until, Lsn(last));
                prop_assert_eq!(facts.stop.is_some(), end < segment.end);
                let inside = |(start, _): &&(Lsn, Lsn)| segment.contains(&start.0);
                prop_assert_eq!(facts.first_record, records.iter().find(inside).map(|r| r.0));
                prop_assert_eq!(facts.last_record, records.iter().filter(inside).rfind(|r| r.1.0 <= segment.end).map(|r| r.0));
                prop_assert_eq!(facts.tail_record, records.iter().find(inside_and_past(&segment)).map(|r| r.0));
                let cut = records.iter().find(|r| r.0.0 < segment.start && r.1.0 > segment.start);
                prop_assert_eq!(facts.continued_in, cut.is_some());
                prop_assert_eq!(facts.continuation_ends, cut.map(|r| r.1).filter(|e| e.0 <= segment.end));
            }
        }
    }

    fn inside_and_past(segment: &std::ops::Range<u64>) -> impl Fn(&&(Lsn, Lsn)) -> bool {
        let segment = segment.clone();
        move |(start, end)| segment.contains(&start.0) && end.0 > segment.end
    }

    proptest! {
        #[test]
        fn the_size_of_pieces_does_not_matter(
            cuts in proptest::collection::vec(1usize..300_000, 1..12), no in 0x18u64..0x1D, major in proptest::sample::select(&[15u16, 19][..]),
        ) {
            let (header, bytes) = segment(major, no);
            let mut scan = SegmentScan::new(&header);
            let mut rest = &bytes[..];
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                scan.feed(piece);
                rest = after;
            }
            scan.feed(rest);
            scan.feed(b"behind the end");
            prop_assert_eq!(scan.finish(), SegmentFacts::of(&header, &bytes));
        }

        #[test]
        fn a_changed_record_and_all_behind_it_are_not_valid(changes in proptest::collection::vec((40usize..0x8D30, any::<u8>()), 1..20)) {
            // Behind 8D30 lies the record that the segment's end cuts off: its CRC can't be known here.
            let (header, mut bytes) = segment(15, 0x18);
            let mut changed = Vec::new();
            for (at, to) in changes {
                if bytes[at] != to {
                    changed.push(0x180_0000 + at as u64);
                }
                bytes[at] = to;
            }
            let facts = SegmentFacts::of(&header, &bytes);
            // Nothing covers what pads page headers and the ends of records.
            let covered = |at: u64| !(20..24).contains(&(at % 8192));
            let told = told(15);
            let hit = told.iter().find(|t| changed.iter().any(|at| (t.start..data_end(t.start, t.len)).contains(at) && covered(*at)));
            if let Some(hit) = hit {
                prop_assert!(facts.stop.is_some_and(|stop| stop.at.0 <= hit.start), "{:?} {:x}", facts.stop, hit.start);
                prop_assert!(facts.valid_until.0 <= hit.start);
                prop_assert!(facts.last_record.is_none_or(|last| last.0 < hit.start));
                prop_assert_eq!(facts.tail_record, None);
            }
        }
    }
}
