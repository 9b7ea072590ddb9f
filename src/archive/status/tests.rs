use super::*;
use crate::archive::list::{DamagedFile, Entry};
use crate::archive::{HistoryFacts, HistoryLine, SegmentRecord, Transactions};
use crate::units::{Hash32, KeyId, SegmentNo};

const SYSTEM: u64 = 7;
/// By the clock of who asks.
const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

/// The byte at this offset in this segment.
fn at(segment: u64, offset: u64) -> Lsn {
    Lsn(segment << 20 | offset)
}

fn name(timeline: u32, no: u64) -> SegmentName {
    SegmentName::new(TimelineId(timeline), SegmentNo(no), size())
}

fn entry<F>(facts: F) -> Entry<F> {
    Entry { facts, variant: 0, stored: 1000, content: Hash32([0; 32]), plain: 1 << 20, signer: KeyId([0; 16]), pushed_at: None, head: 0 }
}

/// A segment in which transactions ended at these times.
fn record(timeline: u32, no: u64, times: Option<(i64, i64)>) -> SegmentRecord {
    SegmentRecord {
        timeline: TimelineId(timeline),
        no: SegmentNo(no),
        size: size(),
        start: at(no, 0),
        major: 18,
        header_timeline: TimelineId(timeline),
        first_record: Some(at(no, 0x28)),
        last_record: Some(at(no, 0xF0000)),
        tail_record: None,
        continued_in: false,
        continuation_ends: None,
        switch: false,
        transactions: times.map(|(first, last)| Transactions {
            min_time: Timestamp(first),
            max_time: Timestamp(last),
            first_time: Timestamp(first),
            last_time: Timestamp(last),
            min_xid: 1,
            max_xid: 2,
            last_lsn: at(no, 0xE0000),
        }),
        open_tail_may_hold_commit: false,
        restore_points: vec![],
        restore_points_cut: false,
        valid_until: at(no + 1, 0),
        fault: None,
    }
}

/// Segments by timeline; in segment n of timeline t transactions ended from 100n + t to 100n + t + 50.
fn archive(segments: &[(u32, &[u64])], histories: &[(u32, &[(u32, Lsn)])]) -> Archive {
    let mut archive = Archive { segment_size: Some(size()), ..Archive::empty("shop", SYSTEM) };
    for (timeline, numbers) in segments {
        for no in *numbers {
            let begin = 100 * *no as i64 + i64::from(*timeline);
            archive.segments.insert((TimelineId(*timeline), SegmentNo(*no)), entry(record(*timeline, *no, Some((begin, begin + 50)))));
        }
    }
    for (timeline, lines) in histories {
        let line = |(parent, switch): &(u32, Lsn)| HistoryLine { parent: TimelineId(*parent), switch: *switch, reason: String::new() };
        let facts = HistoryFacts { timeline: TimelineId(*timeline), lines: lines.iter().map(line).collect() };
        archive.histories.insert(TimelineId(*timeline), entry(facts));
    }
    archive
}

fn range(timeline: u32, first: Lsn, last: Lsn) -> WalRange {
    WalRange { timeline: TimelineId(timeline), first, last }
}

fn snapshot(id: &str, order: u64, ranges: &[WalRange]) -> SnapshotSpan {
    let (first, last) = (ranges[0], ranges[ranges.len() - 1]);
    SnapshotSpan {
        id: id.into(),
        order,
        system_identifier: SYSTEM,
        timeline: first.timeline,
        start_lsn: first.first,
        stop_lsn: last.last,
        stop_time: Timestamp(100 * (last.last.0 >> 20) as i64 + 25),
        ranges: ranges.to_vec(),
        segment_size: size(),
        wal_copied: false,
    }
}

fn copied(span: SnapshotSpan) -> SnapshotSpan {
    SnapshotSpan { wal_copied: true, ..span }
}

fn known(snapshots: &[SnapshotSpan]) -> Known {
    Known { snapshots: snapshots.to_vec(), ..Known::default() }
}

fn gaps(status: &Status) -> Vec<(String, String, bool)> {
    let all = status.timelines.iter().flat_map(|t| &t.gaps);
    all.map(|g| (g.from.to_string(), g.to.to_string(), g.acknowledged.is_some())).collect()
}

fn gap(timeline: u32, from: u64, to: u64, acknowledged: bool) -> (String, String, bool) {
    (name(timeline, from).to_string(), name(timeline, to).to_string(), acknowledged)
}

fn live(status: &Status) -> Vec<u32> {
    status.live().map(|t| t.0).collect()
}

/// Snapshot, timeline, stop, end, latest.
fn windows(status: &Status) -> Vec<(&str, u32, Lsn, Lsn, Option<i64>)> {
    status.restorable.iter().map(|w| (w.snapshot.as_str(), w.timeline.0, w.from_lsn, w.to_lsn, w.to_time.map(|t| t.0))).collect()
}

#[test]
fn one_line_without_a_gap() {
    let status =
        Status::of(&archive(&[(1, &[3, 4, 5, 6])], &[]), &known(&[snapshot("a", 1, &[range(1, at(3, 40), at(4, 256))])]), NOW, None);
    assert_eq!(gaps(&status), []);
    assert_eq!(windows(&status), [("a", 1, at(4, 256), at(7, 0), Some(651))]);
    assert_eq!((live(&status), status.alarms(), status.waiting.len()), (vec![1], false, 0));
    let timeline = &status.timelines[0];
    assert_eq!((timeline.first, timeline.last, timeline.segments), (Some(name(1, 3)), Some(name(1, 6)), 4));
}

#[test]
fn the_json_is_what_scripts_rely_on() {
    let archive = archive(&[(1, &[3, 5]), (2, &[6])], &[(2, &[(1, at(6, 256))])]);
    let mut known = known(&[snapshot("a", 1, &[range(1, at(5, 40), at(5, 256))])]);
    known.acknowledged.push(Acknowledged { from: name(1, 4), to: name(1, 4), note: 9, reason: "disk full".into() });
    let json = serde_json::to_value(Status::of(&archive, &known, NOW, Some((TimelineId(2), at(8, 5))))).unwrap();
    let expected = serde_json::json!({
        "version": 1,
        "cluster": "shop",
        "timelines": [
            { "timeline": 1, "parent": null, "first": "000000010000000000000003", "last": "000000010000000000000005", "segments": 2,
              "live": false, "gaps": [{ "from": "000000010000000000000004", "to": "000000010000000000000004", "acknowledged": "disk full", "next_snapshot": "a" }] },
            { "timeline": 2, "parent": { "timeline": 1, "switch_lsn": "0/600100" }, "first": "000000020000000000000006",
              "last": "000000020000000000000006", "segments": 1, "live": true, "gaps": [] },
        ],
        "restorable": [
            { "timeline": 1, "snapshot": "a", "from_lsn": "0/500100", "to_lsn": "0/600000", "from_time": "1970-01-01T00:00:00.000525Z", "to_time": "1970-01-01T00:00:00.000551Z" },
            { "timeline": 2, "snapshot": "a", "from_lsn": "0/500100", "to_lsn": "0/700000", "from_time": "1970-01-01T00:00:00.000525Z", "to_time": "1970-01-01T00:00:00.000652Z" },
        ],
        "waiting": [],
        "damaged": [],
        "lag": { "bytes": (1 << 20) + 5, "segments": 1 },
    });
    assert_eq!(json, expected);
}

#[test]
fn a_gap_cuts_windows_whether_it_is_acknowledged_or_not() {
    let archive = archive(&[(1, &[3, 4, 7, 8])], &[]);
    let mut known = known(&[
        snapshot("a", 1, &[range(1, at(3, 40), at(4, 256))]),
        snapshot("b", 2, &[range(1, at(7, 40), at(7, 256))]),
        snapshot("c", 3, &[range(1, at(4, 40), at(5, 256))]),
    ]);
    let status = Status::of(&archive, &known, NOW, None);
    assert_eq!(gaps(&status), [gap(1, 5, 6, false)]);
    assert!(status.alarms());
    let cut = [("a", 1, at(4, 256), at(5, 0), Some(451)), ("b", 1, at(7, 256), at(9, 0), Some(851))];
    assert_eq!(windows(&status), cut);
    assert_eq!(status.waiting, [Waiting { snapshot: "c".into(), segment: Some(name(1, 5)) }]);
    known.acknowledged.push(Acknowledged { from: name(1, 4), to: name(1, 6), note: 9, reason: "known".into() });
    let status = Status::of(&archive, &known, NOW, None);
    assert_eq!(gaps(&status), [gap(1, 5, 6, true)]);
    assert_eq!((windows(&status), status.alarms()), (cut.to_vec(), false));
    assert_eq!(status.timelines[0].gaps[0].next_snapshot.as_deref(), Some("b"));
}

#[test]
fn a_gap_that_is_acknowledged_in_part_is_cut_in_pieces() {
    let archive = archive(&[(1, &[3, 12])], &[]);
    let note = |from, to| Acknowledged { from: name(1, from), to: name(1, to), note: 9, reason: "known".into() };
    for (notes, expected) in [
        (vec![], vec![gap(1, 4, 11, false)]),
        (vec![note(1, 20)], vec![gap(1, 4, 11, true)]),
        (vec![note(4, 5), note(8, 9)], vec![gap(1, 4, 5, true), gap(1, 6, 7, false), gap(1, 8, 9, true), gap(1, 10, 11, false)]),
        (vec![note(6, 11)], vec![gap(1, 4, 5, false), gap(1, 6, 11, true)]),
        (vec![note(4, 8), note(7, 11)], vec![gap(1, 4, 8, true), gap(1, 9, 11, true)]),
        (vec![note(13, 20)], vec![gap(1, 4, 11, false)]),
    ] {
        let known = Known { acknowledged: notes.clone(), ..Known::default() };
        assert_eq!(gaps(&Status::of(&archive, &known, NOW, None)), expected, "{notes:?}");
    }
    let other = Acknowledged { from: name(2, 4), to: name(2, 11), note: 9, reason: "another timeline".into() };
    assert_eq!(gaps(&Status::of(&archive, &Known { acknowledged: vec![other], ..Known::default() }, NOW, None)), [gap(1, 4, 11, false)]);
}

#[test]
fn gaps_between_a_line_and_its_child() {
    let two: &[(u32, &[(u32, Lsn)])] = &[(2, &[(1, at(6, 256))])];
    let boundary: &[(u32, &[(u32, Lsn)])] = &[(2, &[(1, at(6, 0))])];
    for (segments, histories, expected) in [
        (vec![(1, &[3, 4, 5][..]), (2, &[6, 7][..])], two, vec![]),
        (vec![(1, &[3, 4, 5, 6]), (2, &[6, 7])], two, vec![]),
        // The parent's tail, the child's head, both.
        (vec![(1, &[3]), (2, &[6, 7])], two, vec![gap(1, 4, 5, false)]),
        (vec![(1, &[3, 4, 5]), (2, &[8])], two, vec![gap(2, 6, 7, false)]),
        (vec![(1, &[3]), (2, &[8])], two, vec![gap(1, 4, 5, false), gap(2, 6, 7, false)]),
        (vec![(1, &[3, 4]), (2, &[6])], boundary, vec![gap(1, 5, 5, false)]),
        (vec![(1, &[3, 4, 5]), (2, &[6])], boundary, vec![]),
        // The parent's copy of the child's segment doesn't fill the gap.
        (vec![(1, &[3, 4, 5, 6, 7]), (2, &[7])], two, vec![gap(2, 6, 6, false)]),
        // Nothing of the parent is archived: the archive begins on timeline 2.
        (vec![(2, &[8, 9])], two, vec![]),
        (vec![(1, &[7, 8]), (2, &[8, 9])], two, vec![]),
        // Nothing of the child is there yet.
        (vec![(1, &[3])], two, vec![]),
        // Without a history nothing is known of the way.
        (vec![(1, &[3]), (2, &[6])], &[], vec![]),
    ] {
        let status = Status::of(&archive(&segments, histories), &Known::default(), NOW, None);
        assert_eq!(gaps(&status), expected, "{segments:?}");
    }
    // A timeline in the middle of which nothing is there.
    let three: &[(u32, &[(u32, Lsn)])] = &[(2, &[(1, at(6, 256))]), (3, &[(1, at(6, 256)), (2, at(9, 256))])];
    let status = Status::of(&archive(&[(1, &[4, 5]), (3, &[9])], three), &Known::default(), NOW, None);
    assert_eq!(gaps(&status), [gap(2, 6, 8, false)]);
    assert_eq!(status.timelines.iter().map(|t| t.timeline.0).collect::<Vec<_>>(), [1, 2, 3]);
    // Two children of one parent: one gap of it.
    let siblings: &[(u32, &[(u32, Lsn)])] = &[(2, &[(1, at(6, 256))]), (3, &[(1, at(8, 256))])];
    let status = Status::of(&archive(&[(1, &[3]), (2, &[6]), (3, &[8])], siblings), &Known::default(), NOW, None);
    assert_eq!(gaps(&status), [gap(1, 4, 7, false)]);
}

#[test]
fn what_was_expired_is_no_gap() {
    let archive = archive(&[(1, &[3, 7, 9])], &[]);
    let known = Known { expired: [(TimelineId(1), at(5, 0))].into(), ..Known::default() };
    assert_eq!(gaps(&Status::of(&archive, &known, NOW, None)), [gap(1, 6, 6, false), gap(1, 8, 8, false)]);
}

#[test]
fn windows_follow_the_tree() {
    let tree: &[(u32, &[(u32, Lsn)])] = &[(2, &[(1, at(6, 256))]), (3, &[(1, at(5, 256))]), (4, &[(1, at(6, 256)), (2, at(8, 0))])];
    let archive = archive(&[(1, &[3, 4, 5, 6, 7]), (2, &[6, 7, 8]), (3, &[5]), (4, &[8, 9])], tree);
    let a = snapshot("a", 1, &[range(1, at(3, 40), at(4, 256))]);
    let b = snapshot("b", 2, &[range(1, at(6, 40), at(6, 200))]);
    let late = snapshot("late", 3, &[range(1, at(6, 40), at(6, 300))]);
    let status = Status::of(&archive, &known(&[a, b, late]), NOW, None);
    assert_eq!(
        windows(&status),
        [
            ("a", 1, at(4, 256), at(8, 0), Some(751)),
            ("a", 2, at(4, 256), at(9, 0), Some(852)),
            ("a", 3, at(4, 256), at(6, 0), Some(553)),
            ("a", 4, at(4, 256), at(10, 0), Some(954)),
            ("b", 1, at(6, 200), at(8, 0), Some(751)),
            ("b", 2, at(6, 200), at(9, 0), Some(852)),
            ("b", 4, at(6, 200), at(10, 0), Some(954)),
            // It stops behind the point where timeline 2 left: only its own line leads on.
            ("late", 1, at(6, 300), at(8, 0), Some(751)),
        ]
    );
    let lines = Lines::new(&archive);
    let reach = lines.reach(&status_span(), TimelineId(4)).unwrap();
    let runs: Vec<_> = reach.runs.iter().map(|r| (r.timeline.0, r.first.0, r.last.0)).collect();
    assert_eq!(runs, [(1, 3, 5), (2, 6, 7), (4, 8, 9)]);
    assert_eq!((reach.next, reach.last_record), (Some(name(4, 10)), Some(at(9, 0xF0000))));
    assert_eq!(lines.reach(&status_span(), TimelineId(9)), Err(Blocked::NotOnTheWay));
}

fn status_span() -> SnapshotSpan {
    snapshot("a", 1, &[range(1, at(3, 40), at(4, 256))])
}

#[test]
fn a_stop_segment_that_only_the_child_has() {
    // Promoted within segment 6, behind the stop: timeline 1's copy of it exists as .partial alone.
    let archive = archive(&[(1, &[4, 5]), (2, &[6, 7])], &[(2, &[(1, at(6, 256))])]);
    let span = snapshot("a", 1, &[range(1, at(5, 40), at(6, 200))]);
    let status = Status::of(&archive, &known(&[span]), NOW, None);
    assert_eq!(windows(&status), [("a", 2, at(6, 200), at(8, 0), Some(752))]);
    assert_eq!(status.waiting, []);
}

#[test]
fn a_standbys_snapshot_may_cross_a_switch() {
    let archive = archive(&[(1, &[4, 5]), (2, &[6, 7, 8])], &[(2, &[(1, at(6, 256))])]);
    let span = snapshot("a", 1, &[range(1, at(4, 40), at(6, 256)), range(2, at(6, 256), at(7, 256))]);
    let status = Status::of(&archive, &known(std::slice::from_ref(&span)), NOW, None);
    assert_eq!(windows(&status), [("a", 2, at(7, 256), at(9, 0), Some(852))]);
    // Its own ranges prove the way, without the history.
    let mut without = archive;
    without.histories.clear();
    assert_eq!(windows(&Status::of(&without, &known(&[span]), NOW, None)), [("a", 2, at(7, 256), at(9, 0), Some(852))]);
}

#[test]
fn islands_are_restorable_as_themselves_and_no_gaps() {
    let span = copied(snapshot("a", 1, &[range(1, at(3, 40), at(4, 256))]));
    let status = Status::of(&Archive::empty("shop", SYSTEM), &known(std::slice::from_ref(&span)), NOW, None);
    assert_eq!(windows(&status), [("a", 1, at(4, 256), at(4, 256), None)]);
    assert!(!status.alarms() && status.waiting.is_empty() && status.timelines.is_empty());
    // An archive that begins behind its start doesn't lead on from it, be it before its stop: restore takes the snapshot's
    // WAL or the archive's, and never the one after the other.
    let status = Status::of(&archive(&[(1, &[9])], &[]), &known(std::slice::from_ref(&span)), NOW, None);
    assert_eq!((windows(&status), gaps(&status)), (vec![("a", 1, at(4, 256), at(4, 256), None)], vec![]));
    let status = Status::of(&archive(&[(1, &[4, 5])], &[]), &known(std::slice::from_ref(&span)), NOW, None);
    assert_eq!(windows(&status), [("a", 1, at(4, 256), at(4, 256), None)]);
    let boundary = [copied(snapshot("b", 2, &[range(1, at(3, 40), at(5, 0))]))];
    let status = Status::of(&archive(&[(1, &[5])], &[]), &known(&boundary), NOW, None);
    assert_eq!(windows(&status), [("b", 1, at(5, 0), at(5, 0), None)]);
    let status = Status::of(&archive(&[(1, &[3, 4, 5])], &[]), &known(&boundary), NOW, None);
    assert_eq!(windows(&status), [("b", 1, at(5, 0), at(6, 0), Some(551))]);
    // Nor does one with a hole or a fault before the stop, whatever descends from there.
    let two: &[(u32, &[(u32, Lsn)])] = &[(2, &[(1, at(6, 256))])];
    let long = [copied(snapshot("c", 3, &[range(1, at(3, 40), at(5, 256))]))];
    for broken in [4, 5] {
        let mut archive = archive(&[(1, &[3, 4, 5]), (2, &[6, 7])], two);
        assert_eq!(windows(&Status::of(&archive, &known(&long), NOW, None)).len(), 2);
        let facts = &mut archive.segments.get_mut(&(TimelineId(1), SegmentNo(broken))).unwrap().facts;
        (facts.fault, facts.valid_until) = (Some("crc".into()), at(broken, 40));
        assert_eq!(windows(&Status::of(&archive, &known(&long), NOW, None)), [("c", 1, at(5, 256), at(5, 256), None)]);
        archive.segments.remove(&(TimelineId(1), SegmentNo(broken)));
        let status = Status::of(&archive, &known(&long), NOW, None);
        assert_eq!((windows(&status), status.waiting.len()), (vec![("c", 1, at(5, 256), at(5, 256), None)], 0));
    }
}

#[test]
fn a_stop_on_a_boundary_needs_only_the_segment_before() {
    let span = snapshot("a", 1, &[range(1, at(3, 40), at(5, 0))]);
    let status = Status::of(&archive(&[(1, &[3, 4])], &[]), &known(&[span]), NOW, None);
    assert_eq!(windows(&status), [("a", 1, at(5, 0), at(5, 0), None)]);
    assert_eq!(status.waiting, []);
}

#[test]
fn a_fault_ends_a_window() {
    let mut archive = archive(&[(1, &[3, 4, 5, 6])], &[]);
    let facts = &mut archive.segments.get_mut(&(TimelineId(1), SegmentNo(5))).unwrap().facts;
    (facts.fault, facts.valid_until) = (Some("crc".into()), at(5, 4000));
    let spans = [snapshot("a", 1, &[range(1, at(3, 40), at(4, 256))]), snapshot("b", 2, &[range(1, at(4, 40), at(5, 5000))])];
    let status = Status::of(&archive, &known(&spans), NOW, None);
    assert_eq!(windows(&status), [("a", 1, at(4, 256), at(5, 4000), Some(551))]);
    assert_eq!(status.waiting, [Waiting { snapshot: "b".into(), segment: None }]);
    assert_eq!(gaps(&status), []);
    assert_eq!((status.timelines[0].faults.len(), status.alarms()), (1, true));
}

#[test]
fn the_unfinished_end_of_a_line_that_was_left_there_is_no_fault() {
    let faults = |ones: &[u64], broken: u64, until: Lsn| {
        let mut archive = archive(&[(1, ones), (2, &[6, 7])], &[(2, &[(1, at(6, 4000))])]);
        let facts = &mut archive.segments.get_mut(&(TimelineId(1), SegmentNo(broken))).unwrap().facts;
        (facts.fault, facts.valid_until) = (Some("zeros".into()), until);
        let status = Status::of(&archive, &Known::default(), NOW, None);
        let first = status.timelines.iter().find(|t| t.timeline == TimelineId(1)).unwrap();
        (first.faults.len(), first.live)
    };
    assert_eq!(faults(&[4, 5, 6], 6, at(6, 4000)), (0, false));
    assert_eq!(faults(&[4, 5, 6], 6, at(6, 5000)), (0, false), "what comes behind was left");
    assert_eq!(faults(&[4, 5, 6], 6, at(6, 3999)), (1, false), "what is missing leads to the child");
    assert_eq!(faults(&[4, 5, 6], 5, at(5, 4000)), (1, false));
    assert_eq!(faults(&[4, 5, 6, 7], 6, at(6, 4000)), (1, false), "the line went on");
}

#[test]
fn the_last_record_may_begin_segments_before_the_last() {
    let mut archive = archive(&[(1, &[3, 4, 5, 6])], &[]);
    let facts = |no: u64, archive: &mut Archive, last, tail, ends| {
        let facts = &mut archive.segments.get_mut(&(TimelineId(1), SegmentNo(no))).unwrap().facts;
        (facts.last_record, facts.tail_record, facts.continuation_ends) = (last, tail, ends);
    };
    let span = snapshot("a", 1, &[range(1, at(3, 40), at(3, 256))]);
    let last = |archive: &Archive| Lines::new(archive).reach(&span, TimelineId(1)).unwrap().last_record;
    facts(4, &mut archive, Some(at(4, 100)), Some(at(4, 200)), None);
    facts(5, &mut archive, None, None, None);
    // A record over three segments, of which the end is there, or not.
    facts(6, &mut archive, None, None, Some(at(6, 300)));
    assert_eq!(last(&archive), Some(at(4, 200)));
    facts(6, &mut archive, None, None, None);
    assert_eq!(last(&archive), Some(at(4, 100)));
    facts(6, &mut archive, Some(at(6, 400)), Some(at(6, 500)), None);
    assert_eq!(last(&archive), Some(at(6, 400)));
}

#[test]
fn a_promotion_ends_the_parent() {
    let two: &[(u32, &[(u32, Lsn)])] = &[(2, &[(1, at(6, 256))])];
    let status = |segments: &[(u32, &[u64])]| live(&Status::of(&archive(segments, two), &Known::default(), NOW, None));
    assert_eq!(status(&[(1, &[4, 5]), (2, &[6, 7])]), [2]);
    assert_eq!(status(&[(1, &[4, 5, 6]), (2, &[6])]), [2]);
    // Only its history is there yet.
    assert_eq!(status(&[(1, &[4, 5])]), [1]);
    // A line of which more was written than was recovered, before the restore.
    let mut restored = archive(&[(1, &[4, 5, 6, 7]), (2, &[6, 7])], two);
    for no in [6, 7] {
        let facts = &mut restored.segments.get_mut(&(TimelineId(2), SegmentNo(no))).unwrap().facts;
        facts.transactions = record(2, no, Some((if no == 6 { 602 } else { 5100 }, 5000 + 100 * (no as i64 - 5)))).transactions;
    }
    assert_eq!(live(&Status::of(&restored, &Known::default(), NOW, None)), [2]);
    // A copy was promoted at 9, and the old line goes on.
    assert_eq!(status(&[(1, &[4, 5, 6, 7, 8, 9, 10, 11]), (2, &[6, 9])]), [1, 2]);
}

#[test]
fn two_live_lines_are_an_alarm_until_one_is_accepted() {
    let tree: &[(u32, &[(u32, Lsn)])] = &[(2, &[(1, at(6, 256))]), (3, &[(1, at(7, 256))])];
    let archive = archive(&[(1, &[5, 6, 7, 8, 9, 10]), (2, &[6, 7, 8, 9, 10])], tree);
    let mut known = Known::default();
    let status = Status::of(&archive, &known, NOW, None);
    assert_eq!((live(&status), status.alarms()), (vec![1, 2], true));
    known.forks.push((TimelineId(2), 1));
    let status = Status::of(&archive, &known, NOW, None);
    assert_eq!((live(&status), status.alarms()), (vec![2], false));
    // A second copy of the abandoned line is an alarm again.
    let mut more = archive;
    for no in 7..12 {
        more.segments.insert((TimelineId(3), SegmentNo(no)), entry(record(3, no, Some((100 * no as i64 + 3, 100 * no as i64 + 60)))));
    }
    assert_eq!(live(&Status::of(&more, &known, NOW, None)), [2, 3]);
}

/// Segments that were pushed when (minutes from `NOW`) by somebody who knew the log up to an entry.
fn pushed(archive: &mut Archive, timeline: u32, segments: &[(u64, i64)], head: u64) {
    for (no, minutes) in segments {
        let mut entry = entry(record(timeline, *no, None));
        (entry.pushed_at, entry.head) = (Some(Timestamp(NOW.0 + minutes * 60_000_000)), head);
        archive.segments.insert((TimelineId(timeline), SegmentNo(*no)), entry);
    }
}

/// Timeline 2 left 1 in segment 6 and was pushed from `first` on.
fn forked_at(first: i64) -> Archive {
    let mut archive = archive(&[], &[(2, &[(1, at(6, 256))])]);
    archive.histories.get_mut(&TimelineId(2)).unwrap().pushed_at = Some(Timestamp(NOW.0 + first * 60_000_000));
    archive
}

#[test]
fn pushes_tell_who_is_live() {
    // Segments of 1, those of 2, and who is live.
    type Pushes<'a> = &'a [(u64, i64)];
    let table: [(&str, Pushes<'_>, Pushes<'_>, &[u32]); 9] = [
        ("a restore in place", &[(6, -60), (20, -51)], &[(6, -49), (7, -40)], &[2]),
        ("a failover", &[(5, -60), (6, -51)], &[(6, -49)], &[2]),
        ("what comes late of it", &[(5, -60), (6, -51), (7, -1)], &[(6, -49), (7, -40)], &[2]),
        ("both are pushed", &[(6, -60), (20, -51), (21, -3)], &[(6, -49), (7, -2)], &[1, 2]),
        ("by one more than may come late", &[(6, -60), (7, -51), (8, -3)], &[(6, -49), (7, -2)], &[1, 2]),
        ("by clocks of tomorrow", &[(6, -60), (20, -51), (21, 1500)], &[(6, -49), (7, 1400)], &[1, 2]),
        ("the copy was stopped", &[(6, -300), (30, -3)], &[(6, -49), (7, -45)], &[1, 2]),
        ("the copy was stopped an hour ago", &[(6, -300), (30, -3)], &[(6, -70), (7, -61)], &[1]),
        ("both are idle, the copy for longer", &[(6, -300), (30, -70)], &[(6, -90), (7, -80)], &[1]),
    ];
    for (what, one, two, expected) in table {
        let mut archive = forked_at(two[0].1 - 1);
        pushed(&mut archive, 1, one, 0);
        pushed(&mut archive, 2, two, 0);
        let status = Status::of(&archive, &Known::default(), NOW, None);
        assert_eq!(live(&status), expected, "{what}");
        let last = one.iter().map(|(_, at)| Timestamp(NOW.0 + at * 60_000_000)).next_back();
        assert_eq!(status.timelines[0].last_pushed_at, last, "{what}");
    }
}

/// No clock tells what was pushed after a note, but what the pusher had read.
#[test]
fn a_note_ends_the_line_of_who_did_not_know_it() {
    let known = Known { forks: vec![(TimelineId(2), 7)], ..Known::default() };
    for (head, expected) in [(6, &[2][..]), (7, &[1, 2]), (9, &[1, 2])] {
        let mut archive = forked_at(-50);
        pushed(&mut archive, 1, &[(6, -60), (20, -2)], head);
        pushed(&mut archive, 2, &[(6, -49), (7, -3)], 7);
        assert_eq!(live(&Status::of(&archive, &known, NOW, None)), expected, "{head}");
    }
    // It is accepted, and didn't come yet.
    let mut alone = archive(&[], &[]);
    pushed(&mut alone, 1, &[(6, -60), (20, -2)], 6);
    assert_eq!(live(&Status::of(&alone, &known, NOW, None)), [1]);
}

#[test]
fn damage_is_an_alarm_and_a_gap() {
    let mut archive = archive(&[(1, &[3, 5])], &[]);
    let file = crate::pg::wal::WalFileName::Segment(name(1, 4));
    archive.damaged.push(DamagedFile { file, object: "wal/x".into(), why: "rotten".into(), head: Some(5) });
    let status = Status::of(
        &archive,
        &Known { acknowledged: vec![Acknowledged { from: name(1, 4), to: name(1, 4), note: 9, reason: "x".into() }], ..Known::default() },
        NOW,
        None,
    );
    assert!(!status.alarms() && status.open_gaps().next().is_none());
    assert_eq!(status.damaged[0].acknowledged.as_deref(), Some("x"));
    assert!(Status::of(&archive, &Known::default(), NOW, None).alarms());
    // A history is not something to live without.
    let file = crate::pg::wal::WalFileName::History(TimelineId(1));
    archive.damaged = vec![DamagedFile { file, object: "wal/x".into(), why: "rotten".into(), head: Some(5) }];
    assert!(Status::of(&archive, &acknowledged(1, 4, 4), NOW, None).alarms());
}

fn acknowledged(timeline: u32, from: u64, to: u64) -> Known {
    let acknowledged = Acknowledged { from: name(timeline, from), to: name(timeline, to), note: 9, reason: "x".into() };
    Known { acknowledged: vec![acknowledged], ..Known::default() }
}

#[test]
fn what_is_amiss_can_be_acknowledged() {
    let mut archive = archive(&[(1, &[3, 6, 7, 8])], &[]);
    archive.segments.get_mut(&(TimelineId(1), SegmentNo(6))).unwrap().facts.fault = Some("a page is wrong".into());
    let file = crate::pg::wal::WalFileName::Segment(name(1, 9));
    archive.damaged.push(DamagedFile { file, object: "wal/x".into(), why: "rotten".into(), head: Some(5) });
    let status = |known: &Known| Status::of(&archive, known, NOW, None);
    let none = status(&Known::default());
    assert!(none.alarms());
    for (from, to, amiss) in
        [(4, 5, true), (4, 6, true), (6, 6, true), (5, 6, true), (9, 9, true), (4, 7, false), (3, 4, false), (8, 9, false)]
    {
        assert_eq!(none.is_amiss(name(1, from), name(1, to)), amiss, "{from} {to}");
    }
    assert!(!none.is_amiss(name(2, 4), name(2, 5)));
    assert!(status(&acknowledged(1, 4, 5)).alarms());
    let known = status(&acknowledged(1, 4, 9));
    assert!(!known.alarms());
    assert_eq!(known.timelines[0].faults[0].acknowledged.as_deref(), Some("x"));
}

/// What a note says is known is what lay there when it was written, and not what came after it.
#[test]
fn a_note_does_not_silence_what_was_pushed_behind_it() {
    let mut archive = archive(&[(1, &[3, 4, 5])], &[]);
    let file = crate::pg::wal::WalFileName::Segment(name(1, 6));
    archive.segments.get_mut(&(TimelineId(1), SegmentNo(4))).unwrap().facts.fault = Some("a page is wrong".into());
    for (head, silent) in [(8, true), (9, false), (20, false)] {
        archive.segments.get_mut(&(TimelineId(1), SegmentNo(4))).unwrap().head = head;
        archive.damaged.clear();
        let status = Status::of(&archive, &acknowledged(1, 4, 6), NOW, None);
        assert_eq!((status.alarms(), status.timelines[0].faults[0].acknowledged.is_some()), (!silent, silent), "{head}");
        archive.segments.get_mut(&(TimelineId(1), SegmentNo(4))).unwrap().head = 0;
        archive.damaged.push(DamagedFile { file, object: "wal/x".into(), why: "rotten".into(), head: Some(head) });
        let status = Status::of(&archive, &acknowledged(1, 4, 6), NOW, None);
        assert_eq!((status.alarms(), status.damaged[0].acknowledged.is_some()), (!silent, silent), "{head}");
        // It can be acknowledged in its turn.
        assert!(status.is_amiss(name(1, 6), name(1, 6)));
        let mut known = acknowledged(1, 4, 6);
        known.acknowledged.push(Acknowledged { note: 21, reason: "rotten, too".into(), ..known.acknowledged[0].clone() });
        assert!(!Status::of(&archive, &known, NOW, None).alarms());
    }
    // It doesn't say when it was pushed.
    archive.damaged[0].head = None;
    assert!(!Status::of(&archive, &acknowledged(1, 4, 6), NOW, None).alarms());
}

#[test]
fn a_lost_history_is_an_alarm() {
    let mut archive = archive(&[(1, &[3, 4, 5]), (2, &[5, 6])], &[]);
    assert!(!Status::of(&archive, &Known { forks: vec![(TimelineId(2), 1)], ..Known::default() }, NOW, None).alarms());
    archive.segments.get_mut(&(TimelineId(2), SegmentNo(5))).unwrap().facts.header_timeline = TimelineId(1);
    let status = Status::of(&archive, &Known { forks: vec![(TimelineId(2), 1)], ..Known::default() }, NOW, None);
    assert!(status.alarms());
    assert_eq!((status.lost[0].file.as_str(), status.lost[0].shown_by.as_str()), ("00000002.history", "000000020000000000000005"));
}

#[test]
fn lag_counts_from_the_end_of_the_way_to_the_server() {
    let archive = archive(&[(1, &[3, 4, 5]), (2, &[6])], &[(2, &[(1, at(6, 256))]), (3, &[(1, at(5, 0))])]);
    let lag =
        |timeline, lsn| Status::of(&archive, &Known::default(), NOW, Some((TimelineId(timeline), lsn))).lag.map(|l| (l.bytes, l.segments));
    assert_eq!(lag(2, at(7, 100)), Some((100, 0)));
    assert_eq!(lag(2, at(9, 100)), Some(((2 << 20) + 100, 2)));
    assert_eq!(lag(2, at(6, 100)), Some((0, 0)));
    // Nothing of timeline 3 is there: from its parent's last.
    assert_eq!(lag(3, at(5, 100)), Some((100, 0)));
    assert_eq!(Status::of(&Archive::empty("shop", SYSTEM), &Known::default(), NOW, Some((TimelineId(1), at(3, 0)))).lag, None);
}

#[test]
fn snapshots_of_another_system_identifier_are_left_out() {
    let mut span = snapshot("a", 1, &[range(1, at(3, 40), at(4, 256))]);
    span.system_identifier = 8;
    let status = Status::of(&archive(&[(1, &[3, 4])], &[]), &known(&[span]), NOW, None);
    assert!(status.restorable.is_empty() && status.waiting.is_empty());
}
