use super::*;
use crate::pg::timeline::History;
use crate::pg::wal::{Found, Sought};
use crate::units::{Class, Explain};

const SIZE: u32 = 1 << 20;
const MB: u64 = 1 << 20;

fn size() -> SegmentSize {
    SegmentSize::new(SIZE).unwrap()
}

/// Minute `m` of the story.
fn at(m: i64) -> Timestamp {
    Timestamp(1_700_000_000_000_000 + m * 60_000_000)
}

/// Segment `no` is written in minute `no`: it holds one transaction, number 1000 + no, in its middle.
fn segment(timeline: u32, no: u64) -> ArchivedSegment {
    let commit = Lsn(no * MB + MB / 2);
    let (time, xid) = (at(no as i64), 1000 + no as u32);
    ArchivedSegment {
        timeline: TimelineId(timeline),
        no: SegmentNo(no),
        last_record: Some(Lsn(no * MB + 0xF_0000)),
        tail_record: Some(Lsn(no * MB + 0xF_FF00)),
        continuation_ends: Some(Lsn(no * MB + 0x100)),
        transactions: Some(TransactionEnds {
            min_time: time,
            max_time: time,
            first_time: time,
            last_time: time,
            min_xid: xid,
            max_xid: xid,
            last_lsn: commit,
        }),
        open_tail_may_hold_commit: false,
        restore_points: Vec::new(),
        restore_points_cut: false,
        valid_until: Lsn((no + 1) * MB),
        fault: None,
        unfinished: false,
    }
}

/// A snapshot from the middle of segment `no` to its last quarter.
fn snapshot(id: &str, timeline: u32, no: u64) -> Candidate {
    Candidate {
        id: id.into(),
        number: no,
        start_timeline: TimelineId(timeline),
        start_lsn: Lsn(no * MB + MB / 4),
        stop_timeline: TimelineId(timeline),
        stop_lsn: Lsn(no * MB + MB * 3 / 4),
        stopped_at: Timestamp(at(no as i64).0 + 30_000_000),
        wal_inside: false,
        next_xid: Some((7 << 32) + 1000 + no),
    }
}

fn point(name: &str, lsn: u64) -> RestorePoint {
    RestorePoint { name: name.into(), lsn: Lsn(lsn), end_lsn: Lsn(lsn + 100), time: at((lsn / MB) as i64) }
}

fn archive(runs: &[(u32, std::ops::RangeInclusive<u64>)], histories: &[(u32, &str)]) -> Archive {
    Archive {
        segment_size: size(),
        segments: runs.iter().flat_map(|(t, run)| run.clone().map(|no| segment(*t, no))).collect(),
        timelines: histories.iter().map(|(t, text)| History::parse(TimelineId(*t), text.as_bytes()).unwrap()).collect(),
        unusable: BTreeMap::new(),
        unusable_histories: BTreeMap::new(),
    }
}

fn wanted(target: Target) -> Wanted {
    Wanted { target, inclusive: true, timeline: TargetTimeline::Latest, action: TargetAction::Pause }
}

/// As the archive would: transaction 1000 + n commits in the middle of segment n, on every timeline.
fn find(segments: &[SegmentName], sought: Sought<'_>) -> Result<Option<Found>, SearchError> {
    for name in segments {
        let no = name.no(size()).unwrap().0;
        if matches!(sought, Sought::Xid(xid) if xid as u32 == 1000 + no as u32) {
            let start = Lsn(no * MB + MB / 2);
            return Ok(Some(Found { start, end: Lsn(start.0 + 50), time: at(no as i64), committed: true }));
        }
    }
    Ok(None)
}

fn run(archive: &Archive, candidates: &[Candidate], wanted: &Wanted) -> Result<RecoveryChoice, TargetError> {
    choose(archive, candidates, wanted, &mut find)
}

/// (snapshot, server's target, timeline told, action) of a choice; the error's words otherwise.
fn said(chosen: Result<RecoveryChoice, TargetError>) -> String {
    match chosen {
        Ok(c) => match c.settings {
            Some(s) => format!("{} {:?} {:?} {:?}", c.snapshot, s.target, s.timeline, s.action),
            None => format!("{} as itself", c.snapshot),
        },
        Err(e) => format!("{:?}: {e}", e.class()),
    }
}

fn lsn(no: u64, offset: u64) -> Lsn {
    Lsn(no * MB + offset)
}

/// One timeline, segments 2 to 12, snapshots in 3 and 7.
fn plain_story() -> (Archive, Vec<Candidate>) {
    (archive(&[(1, 2..=12)], &[]), vec![snapshot("a", 1, 3), snapshot("b", 1, 7)])
}

#[test]
fn every_target_finds_its_snapshot() {
    let (mut archive, snapshots) = plain_story();
    archive.segments[4].restore_points = vec![point("once", 6 * MB + 77), point("twice", 6 * MB + 99)];
    archive.segments[8].restore_points = vec![point("twice", 10 * MB + 99)];
    let micros = |m: i64, s: i64| Timestamp(at(m).0 + s);
    for (target, expected) in [
        (Target::End, "b Lsn(0/CF0000) Current Promote"),
        (Target::Immediate, "b Immediate Current Pause"),
        // Time: the snapshot was consistent before it, and a transaction ended later.
        (Target::Time(at(9)), "b Time(2023-11-14T22:22:20Z) Current Pause"),
        (Target::Time(micros(7, 30_000_000)), "b Time(2023-11-14T22:20:50Z) Current Pause"),
        (Target::Time(micros(7, 29_999_999)), "a Time(2023-11-14T22:20:49.999999Z) Current Pause"),
        (Target::Time(micros(12, -1)), "b Time(2023-11-14T22:25:19.999999Z) Current Pause"),
        // LSN: from the stop on.
        (Target::Lsn(lsn(7, MB * 3 / 4)), "b Lsn(0/7C0000) Current Pause"),
        (Target::Lsn(lsn(7, MB * 3 / 4 - 1)), "a Lsn(0/7BFFFF) Current Pause"),
        (Target::Lsn(lsn(12, 0xF_0000)), "b Lsn(0/CF0000) Current Pause"),
        (Target::Xid(1009), "b Xid(1009) Current Pause"),
        (Target::Xid((7 << 32) + 1005), "a Xid(30064772077) Current Pause"),
        (Target::Xid(1007), "a Xid(1007) Current Pause"),
        (Target::Name("once".into()), "a Name(\"once\") Current Pause"),
        // The newest snapshot that can reach a restore point of this name, and the first that the server meets from there.
        (Target::Name("twice".into()), "b Name(\"twice\") Current Pause"),
    ] {
        let target_words = format!("{target}");
        assert_eq!(said(run(&archive, &snapshots, &wanted(target))), expected, "{target_words}");
    }
    let chosen = run(&archive, &snapshots, &wanted(Target::Name("twice".into()))).unwrap();
    assert!(chosen.warnings[0].contains("2 times"), "{:?}", chosen.warnings);
    let window = chosen.window.unwrap();
    assert_eq!((window.from_lsn, window.to_lsn, window.to_time), (lsn(7, MB * 3 / 4), lsn(13, 0), Some(at(12))));
}

#[test]
fn what_the_server_would_find_out_is_said_before() {
    let (mut archive, snapshots) = plain_story();
    archive.segments[1].restore_points = vec![point("early", 3 * MB + 99)];
    for (target, class, words) in [
        // An LSN before the backup's end, and before its start too.
        (Target::Lsn(lsn(3, MB / 2)), Class::Refused, "lies before the first point that can be reached: 0/3C0000"),
        (Target::Lsn(lsn(1, 0)), Class::Refused, "the end of snapshot a"),
        // A transaction or name that lies between start and stop, or before the start.
        (
            Target::Xid(1003),
            Class::Absent,
            "transaction 1003 is not in the WAL that can be replayed, which reaches from 0/3C0000 to 0/D00000",
        ),
        (Target::Name("early".into()), Class::Absent, "restore point \"early\" is not in the WAL"),
        (Target::Xid(1002), Class::Absent, "not in the WAL"),
        (Target::Name("never".into()), Class::Absent, "not in the WAL"),
        // A time before the backup's end: with no commit in between the server would accept it silently.
        (Target::Time(at(3)), Class::Refused, "lies before the first point that can be reached"),
        (Target::Time(at(0)), Class::Refused, "lies before the first point that can be reached"),
        // Past the end of WAL, by a little and by much.
        (Target::Time(at(12)), Class::Refused, "lies behind the archive's end on timeline 1: its last transaction ended at"),
        (Target::Time(at(99)), Class::Refused, "lies behind the archive's end"),
        (Target::Lsn(lsn(12, 0xF_0001)), Class::Refused, "its last record starts at 0/CF0000"),
        (Target::Lsn(lsn(99, 0)), Class::Refused, "lies behind the archive's end"),
        (Target::Xid(1099), Class::Absent, "not in the WAL"),
    ] {
        let error = run(&archive, &snapshots, &wanted(target)).unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(run(&archive, &snapshots, &wanted(Target::Time(at(12)))).unwrap_err().cure().unwrap().contains("without one"));
    assert!(matches!(run(&archive, &[], &wanted(Target::End)), Err(TargetError::NoSnapshot)));
}

#[test]
fn an_epoch_must_be_the_right_one() {
    let (archive, mut snapshots) = plain_story();
    let epoch = |n: u64| Target::Xid((n << 32) + 1009);
    assert!(said(run(&archive, &snapshots, &wanted(epoch(7)))).starts_with("b Xid(30064772081)"));
    for wrong in [1, 6, 8] {
        let error = run(&archive, &snapshots, &wanted(epoch(wrong))).unwrap_err();
        assert_eq!(error.class(), Class::Usage, "{error}");
        assert!(error.cure().unwrap().contains("if 30064772081 is meant"), "{error}");
    }
    // Just behind the turn of an epoch, and just before it.
    snapshots.iter_mut().for_each(|s| s.next_xid = Some((8 << 32) - 5));
    assert!(said(run(&archive, &snapshots, &wanted(epoch(8)))).starts_with("b Xid"));
    assert!(run(&archive, &snapshots, &wanted(epoch(7))).is_err());
    snapshots.iter_mut().for_each(|s| s.next_xid = Some((7 << 32) + 5));
    assert!(said(run(&archive, &snapshots, &wanted(epoch(7)))).starts_with("b Xid"));
    // Nobody knows.
    snapshots.iter_mut().for_each(|s| s.next_xid = None);
    let error = run(&archive, &snapshots, &wanted(epoch(7))).unwrap_err();
    assert!(error.cure().unwrap().ends_with("--target-xid 1009"), "{error}");
    assert!(said(run(&archive, &snapshots, &wanted(Target::Xid(1009)))).starts_with("b Xid(1009)"));
}

#[test]
fn exclusive_means_before() {
    let (archive, snapshots) = plain_story();
    let exclusive = |target| said(run(&archive, &snapshots, &Wanted { inclusive: false, ..wanted(target) }));
    assert!(exclusive(Target::Time(at(12))).starts_with("b Time"), "a transaction of that very time ends it");
    assert!(exclusive(Target::Time(snapshots[1].stopped_at)).starts_with("a Time"));
    assert!(exclusive(Target::Xid(1009)).starts_with("b Xid(1009)"));
    assert!(exclusive(Target::Lsn(lsn(9, 0))).starts_with("b Lsn"));
    assert!(exclusive(Target::Name("x".into())).starts_with("Usage"));
    assert!(exclusive(Target::End).starts_with("Usage"));
    let chosen = run(&archive, &snapshots, &Wanted { inclusive: false, ..wanted(Target::Xid(1009)) }).unwrap();
    assert!(!chosen.settings.unwrap().inclusive);
}

#[test]
fn a_gap_is_an_error_and_never_an_end() {
    // Segment 10 is missing.
    let archive = archive(&[(1, 2..=9), (1, 11..=12)], &[]);
    let snapshots = [snapshot("a", 1, 3), snapshot("b", 1, 7)];
    for target in [Target::End, Target::Time(at(11)), Target::Lsn(lsn(11, 0)), Target::Xid(1011), Target::Name("x".into())] {
        let error = run(&archive, &snapshots, &wanted(target)).unwrap_err();
        let words = error.to_string();
        assert!(words.contains("00000001000000000000000A is missing") && words.contains("00000001000000000000000B behind it"), "{words}");
        assert!(error.cure().unwrap().contains("before 0/A00000"), "{:?}", error.cure());
    }
    for (target, expected) in [
        (Target::Time(Timestamp(at(9).0 - 1)), "b Time"),
        (Target::Lsn(lsn(9, 0xF_0000)), "b Lsn(0/9F0000)"),
        (Target::Xid(1008), "b Xid(1008)"),
        (Target::Immediate, "b Immediate"),
    ] {
        let chosen = run(&archive, &snapshots, &wanted(target.clone()));
        // The server must not read ahead into the gap.
        assert!(chosen.as_ref().is_ok_and(|c| c.settings.as_ref().is_some_and(|s| s.gap_behind)), "{target}");
        assert!(said(chosen).starts_with(expected), "{target}");
    }
    // A snapshot behind the gap serves again.
    let later = [snapshots[0].clone(), snapshot("c", 1, 11)];
    let chosen = run(&archive, &later, &wanted(Target::End));
    assert!(chosen.as_ref().is_ok_and(|c| c.settings.as_ref().is_some_and(|s| !s.gap_behind)));
    assert!(said(chosen).starts_with("c Lsn(0/CF0000)"));
}

#[test]
fn damage_on_the_way_is_an_error() {
    let (mut archive, snapshots) = plain_story();
    archive.segments[7].fault = Some("a record's CRC is wrong".into());
    archive.segments[7].valid_until = lsn(9, 0x8_0000);
    archive.segments[7].last_record = Some(lsn(9, 0x7_0000));
    archive.segments[7].transactions = None;
    for target in [Target::End, Target::Time(at(10)), Target::Lsn(lsn(9, 0x7_0001)), Target::Xid(1010)] {
        let error = run(&archive, &snapshots, &wanted(target)).unwrap_err();
        assert_eq!(error.class(), Class::Corrupt);
        assert!(error.to_string().contains("000000010000000000000009 is damaged at 0/980000"), "{error}");
    }
    assert!(said(run(&archive, &snapshots, &wanted(Target::Lsn(lsn(9, 0x7_0000))))).starts_with("b Lsn"));
    // In the only segment that the snapshot needs, before its stop.
    let (mut archive, snapshots) = plain_story();
    archive.segments[5].fault = Some("torn".into());
    archive.segments[5].valid_until = lsn(7, MB / 2);
    assert_eq!(run(&archive, &snapshots[1..], &wanted(Target::Immediate)).unwrap_err().class(), Class::Corrupt);
}

fn rot(archive: &mut Archive, timeline: u32, no: u64) {
    let name = SegmentName::new(TimelineId(timeline), SegmentNo(no), size());
    archive.segments.retain(|s| s.name(size()) != name);
    archive.unusable.insert(name, "rotten".into());
}

#[test]
fn a_rotten_segment_is_damage_and_no_end() {
    // The last one, one in the middle, and one behind a gap.
    for (rotten, gone, expected) in [
        (12, None, "00000001000000000000000C is damaged at 0/C00000, on the way to the end of the archive: rotten"),
        (10, None, "00000001000000000000000A is damaged at 0/A00000"),
        (12, Some(11), "00000001000000000000000B is missing on the way to the end of the archive, and 00000001000000000000000C behind it"),
    ] {
        let (mut archive, snapshots) = plain_story();
        rot(&mut archive, 1, rotten);
        archive.segments.retain(|s| Some(s.no.0) != gone);
        let error = run(&archive, &snapshots, &wanted(Target::End)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        let cure = error.cure().unwrap();
        assert!(cure.contains("a target before"), "{cure}");
        assert_eq!(gone.is_none(), cure.contains("copy of the repository"), "{cure}");
        for target in [Target::Lsn(lsn(12, 5)), Target::Time(at(11)), Target::Xid(1012), Target::Name("x".into())] {
            assert!(run(&archive, &snapshots, &wanted(target)).is_err());
        }
        // Before it all is well, and the server must not read ahead into it.
        let chosen = run(&archive, &snapshots, &wanted(Target::Lsn(lsn(9, 5)))).unwrap();
        assert!(chosen.settings.unwrap().gap_behind);
    }
    // One that the newest snapshot needs: the one before it can't get over it either.
    let (mut archive, snapshots) = plain_story();
    rot(&mut archive, 1, 7);
    assert_eq!(run(&archive, &snapshots, &wanted(Target::End)).unwrap_err().class(), Class::Corrupt);
    let chosen = run(&archive, &snapshots, &wanted(Target::Lsn(lsn(5, 0)))).unwrap();
    assert_eq!(chosen.snapshot, "a");
    let chosen = run(&archive, &snapshots, &wanted(Target::Immediate)).unwrap();
    assert!(chosen.warnings.iter().any(|w| w.contains("snapshot b was passed over: WAL segment 000000010000000000000007")), "{chosen:?}");
    assert_eq!(run(&archive, &snapshots[1..], &wanted(Target::Immediate)).unwrap_err().class(), Class::Corrupt);
    // Another line's copy bears on nothing.
    let (mut archive, snapshots) = forked();
    rot(&mut archive, 1, 9);
    let two = Wanted { timeline: TargetTimeline::Number(TimelineId(2)), ..wanted(Target::End) };
    assert!(!run(&archive, &snapshots, &two).unwrap().settings.unwrap().gap_behind);
}

#[test]
fn a_rotten_segment_behind_a_snapshot_with_its_own_wal_is_not_passed_over() {
    let own = [Candidate { wal_inside: true, ..snapshot("w", 1, 5) }];
    for rotten in [5, 6] {
        let mut archive = archive(&[], &[]);
        rot(&mut archive, 1, rotten);
        let error = run(&archive, &own, &wanted(Target::End)).unwrap_err();
        assert!(error.cure().unwrap().contains("--target-immediate"), "{error}");
        assert_eq!(said(run(&archive, &own, &wanted(Target::Immediate))), "w as itself");
    }
    // It lies before the stop: all that it held is in the snapshot.
    let mut archive = archive(&[], &[]);
    rot(&mut archive, 1, 4);
    let long = [Candidate { start_lsn: lsn(4, 0), ..own[0].clone() }];
    assert_eq!(said(run(&archive, &long, &wanted(Target::End))), "w as itself");
}

#[test]
fn a_history_that_can_t_be_used_is_no_reason_to_stay_behind() {
    let mut archive = archive(&[(1, 2..=9), (2, 8..=12)], &[]);
    let snapshots = [snapshot("a", 1, 3), snapshot("b", 1, 7)];
    archive.unusable_histories.insert(TimelineId(2), "rotten".into());
    let on = |timeline| run(&archive, &snapshots, &Wanted { timeline, ..wanted(Target::End) });
    for timeline in [TargetTimeline::Latest, TargetTimeline::Number(TimelineId(2))] {
        let error = on(timeline).unwrap_err();
        assert_eq!((error.class(), error.to_string().contains("history of timeline 2 can't be used")), (Class::Corrupt, true), "{error}");
        let cure = error.cure().unwrap();
        assert!(cure.contains("00000002.history") && cure.ends_with("--target-timeline: 1"), "{cure}");
    }
    for timeline in [TargetTimeline::Current, TargetTimeline::Number(TimelineId(1))] {
        let chosen = on(timeline).unwrap();
        assert!(chosen.warnings.iter().any(|w| w.contains("00000002.history can't be used (rotten)")), "{:?}", chosen.warnings);
        assert!(
            chosen.warnings.iter().any(|w| w.contains("the archive has WAL of timeline 2, which this restore")),
            "{:?}",
            chosen.warnings
        );
    }
    // A snapshot behind the switch needs no way to it.
    let behind = [snapshot("c", 2, 10)];
    assert!(said(run(&archive, &behind, &wanted(Target::End))).starts_with("c Lsn"));
}

#[test]
fn a_snapshot_that_waits_for_wal_is_passed_over() {
    let (mut archive, snapshots) = plain_story();
    let waiting = snapshot("c", 1, 13);
    let all = [&snapshots[..], std::slice::from_ref(&waiting)].concat();
    let chosen = run(&archive, &all, &wanted(Target::End)).unwrap();
    assert_eq!(chosen.snapshot, "b");
    assert!(chosen.warnings[0].contains("snapshot c was passed over: it waits for WAL segment 00000001000000000000000D"));
    let error = run(&archive, std::slice::from_ref(&waiting), &wanted(Target::Immediate)).unwrap_err();
    assert!(matches!(&error, TargetError::WaitsForWal { later: None, .. }), "{error}");
    assert!(error.cure().unwrap().contains("wait until"));
    archive.segments.push(segment(1, 14));
    let error = run(&archive, std::slice::from_ref(&waiting), &wanted(Target::Immediate)).unwrap_err();
    assert!(error.cure().unwrap().contains("lost"), "{error}");
    // A stop exactly on a boundary needs only the segment before.
    let boundary = Candidate { stop_lsn: lsn(13, 0), ..snapshot("d", 1, 12) };
    assert_eq!(said(run(&archive, std::slice::from_ref(&boundary), &wanted(Target::Immediate))), "d Lsn(0/CF0000) Current Pause");
}

#[test]
fn nothing_behind_the_stop_is_no_reason_to_fail() {
    // The archive ends with the segment in which the backup stopped, and its last record lies before that stop.
    let (mut archive, snapshots) = plain_story();
    archive.segments.retain(|s| s.no.0 <= 7);
    archive.segments.last_mut().unwrap().last_record = Some(lsn(7, MB / 2));
    for target in [Target::Immediate, Target::End] {
        assert!(said(run(&archive, &snapshots, &wanted(target))).starts_with("b Lsn(0/780000)"));
    }
    assert!(said(run(&archive, &snapshots, &wanted(Target::Time(at(8))))).contains("no transaction ended behind snapshot b"));
}

#[test]
fn the_last_complete_record_may_begin_in_an_earlier_segment() {
    let (mut archive, snapshots) = plain_story();
    let lie = |no: u64, last: Option<Lsn>, ends: Option<Lsn>, tail: Option<Lsn>| {
        let mut s = segment(1, no);
        (s.last_record, s.continuation_ends, s.tail_record) = (last, ends, tail);
        s
    };
    archive.segments.truncate(8);
    let end = |archive: &Archive| said(run(archive, &snapshots, &wanted(Target::End)));
    // A record over three segments that ends in the last, where another begins that doesn't end.
    archive.segments.extend([lie(10, None, None, None), lie(11, None, Some(lsn(11, 99)), Some(lsn(11, 104)))]);
    assert!(end(&archive).starts_with("b Lsn(0/9FFF00)"), "{}", end(&archive));
    // It never ends: the last one before it.
    archive.segments.pop();
    assert!(end(&archive).starts_with("b Lsn(0/9F0000)"), "{}", end(&archive));
}

/// 1 until 0/880000, then 2; another clone left 1 at 0/580000 and is 3. Snapshots on all.
fn forked() -> (Archive, Vec<Candidate>) {
    let histories = [(2, "1\t0/880000\tpromoted\n"), (3, "1\t0/580000\trehearsal\n")];
    let mut archive = archive(&[(1, 2..=9), (2, 8..=12), (3, 5..=6)], &histories);
    archive.segments.iter_mut().filter(|s| s.timeline.0 == 2).for_each(|s| s.restore_points = vec![point("new", s.no.0 * MB + 5)]);
    (archive, vec![snapshot("a", 1, 3), snapshot("b", 1, 7), snapshot("c", 2, 10)])
}

#[test]
fn timelines_are_followed_over_switches_and_never_guessed() {
    let (archive, snapshots) = forked();
    let on = |timeline, target: Target, from: &[Candidate]| said(run(&archive, from, &Wanted { timeline, ..wanted(target) }));
    let number = |n| TargetTimeline::Number(TimelineId(n));
    // `latest` counts 1, 2, 3 and lands on a clone's line, which doesn't lead on from the newest snapshots: refused.
    let error = run(&archive, &snapshots, &wanted(Target::End)).unwrap_err();
    assert_eq!(error.cure().unwrap(), "choose by --target-timeline: 2", "{error}");
    let error = run(&archive, &snapshots[1..2], &wanted(Target::End)).unwrap_err();
    assert!(error.to_string().contains("timeline 3 does not lead on from snapshot b (timeline 1, consistent at 0/7C0000)"), "{error}");
    assert_eq!(error.cure().unwrap(), "choose by --target-timeline: 1, 2");
    assert_eq!(on(TargetTimeline::Current, Target::End, &snapshots), "c Lsn(0/CF0000) Current Promote");
    assert_eq!(on(TargetTimeline::Current, Target::End, &snapshots[..2]), "b Lsn(0/9F0000) Current Promote");
    // Over the switch: the child's copy of segment 8 holds both parts.
    assert_eq!(on(number(2), Target::End, &snapshots[..2]), "b Lsn(0/CF0000) Number(timeline 2) Promote");
    assert_eq!(on(number(2), Target::Name("new".into()), &snapshots[..2]), "b Name(\"new\") Number(timeline 2) Pause");
    assert_eq!(on(number(2), Target::Time(at(9)), &snapshots), "b Time(2023-11-14T22:22:20Z) Number(timeline 2) Pause");
    assert_eq!(on(number(3), Target::End, &snapshots), "a Lsn(0/6F0000) Number(timeline 3) Promote");
    assert_eq!(on(number(1), Target::End, &snapshots), "b Lsn(0/9F0000) Current Promote");
    assert!(on(number(7), Target::End, &snapshots).contains("no history of timeline 7"));
    assert!(on(number(3), Target::End, &snapshots[1..]).contains("timeline 3 does not lead on from snapshot c"));
    // Which newer line is left aside is said.
    let chosen = run(&archive, &snapshots, &Wanted { timeline: number(1), ..wanted(Target::End) }).unwrap();
    let both = "WAL of timeline 2 (left timeline 1 at 0/880000) and timeline 3 (left timeline 1 at 0/580000), which";
    assert!(chosen.warnings.iter().any(|w| w.contains(both)), "{:?}", chosen.warnings);
    // And which other line there is, where the newest is followed.
    let chosen = run(&archive, &snapshots[..1], &wanted(Target::End)).unwrap();
    assert_eq!((chosen.timeline, chosen.next_timeline), (TimelineId(3), TimelineId(4)));
    assert_eq!(chosen.others.iter().map(|o| o.timeline.0).collect::<Vec<_>>(), [2]);
    assert!(chosen.warnings.is_empty() && chosen.explanation[1].ends_with("from the snapshot's 1: the latest"), "{chosen:?}");
    assert_eq!(chosen.explanation[2], "other lines in the archive, not followed: timeline 2 (left timeline 1 at 0/880000)");
}

#[test]
fn what_is_read_ahead_is_the_segment_behind_the_stop() {
    let archive = archive(&[(1, 2..=9)], &[]);
    let snapshots = [snapshot("a", 1, 3)];
    let ahead = |target: Target| run(&archive, &snapshots, &wanted(target)).unwrap().read_ahead.map(|name| name.no(size()).unwrap().0);
    assert_eq!(ahead(Target::End), None);
    assert_eq!(ahead(Target::Lsn(Lsn(5 * MB + 7))), Some(6));
    assert_eq!(ahead(Target::Time(Timestamp(at(6).0 - 1))), Some(7));
    assert_eq!(ahead(Target::Xid(1007)), Some(8));
    assert_eq!(ahead(Target::Immediate), Some(4));
}

#[test]
fn a_child_whose_first_segment_is_missing_is_a_gap() {
    let (mut archive, snapshots) = forked();
    archive.segments.retain(|s| (s.timeline.0, s.no.0) != (2, 8));
    let asked = Wanted { timeline: TargetTimeline::Number(TimelineId(2)), ..wanted(Target::End) };
    let error = run(&archive, &snapshots[..2], &asked).unwrap_err();
    assert!(error.to_string().contains("000000020000000000000008 is missing"), "{error}");
}

#[test]
fn a_standby_can_cross_a_switch_during_the_backup() {
    let (archive, _) = forked();
    let crossing = Candidate { stop_timeline: TimelineId(2), stop_lsn: lsn(9, MB / 2), ..snapshot("s", 1, 7) };
    let on = |timeline| said(run(&archive, std::slice::from_ref(&crossing), &Wanted { timeline, ..wanted(Target::End) }));
    assert_eq!(on(TargetTimeline::Current), "s Lsn(0/CF0000) Number(timeline 2) Promote");
    assert!(on(TargetTimeline::Number(TimelineId(1))).contains("does not lead on"));
}

#[test]
fn a_snapshot_with_its_own_wal_needs_no_archive() {
    let own = Candidate { wal_inside: true, ..snapshot("w", 1, 5) };
    let alone = std::slice::from_ref(&own);
    let nothing = archive(&[], &[]);
    assert_eq!(said(run(&nothing, alone, &wanted(Target::End))), "w as itself");
    let chosen = run(&nothing, alone, &wanted(Target::Immediate)).unwrap();
    assert!(chosen.settings.is_none() && chosen.warnings[0].contains("read-write"), "{:?}", chosen.warnings);
    assert!(said(run(&nothing, alone, &wanted(Target::Time(at(9))))).contains("waits for WAL segment"));
    // An archive that goes on from it is used.
    let whole = archive(&[(1, 5..=8)], &[]);
    assert!(said(run(&whole, alone, &wanted(Target::End))).starts_with("w Lsn(0/8F0000)"));
    // WAL that can't be reached from it is not passed over in silence.
    let later = archive(&[(1, 8..=9)], &[]);
    let error = run(&later, alone, &wanted(Target::End)).unwrap_err();
    assert!(matches!(&error, TargetError::Gap { as_itself: true, .. }) && error.cure().unwrap().contains("--target-immediate"), "{error}");
    assert_eq!(said(run(&later, alone, &wanted(Target::Immediate))), "w as itself");
    // Archived in part: behind, and nothing beyond.
    let behind = archive(&[(1, 4..=5)], &[]);
    let long = Candidate { stop_lsn: lsn(7, 5), ..own.clone() };
    assert_eq!(said(run(&behind, std::slice::from_ref(&long), &wanted(Target::End))), "w as itself");
}

#[test]
fn a_clock_that_went_back_during_a_backup_is_noticed() {
    let (mut archive, _) = plain_story();
    // From segment 3 to 7; a transaction in 5 claims to have ended later than the stop.
    let long = Candidate { stop_lsn: lsn(7, MB * 3 / 4), stopped_at: at(8), ..snapshot("long", 1, 3) };
    archive.segments[3].transactions.as_mut().unwrap().max_time = at(60);
    assert!(said(run(&archive, std::slice::from_ref(&long), &wanted(Target::Time(at(9))))).contains("lies before the first point"));
    let older = Candidate { number: 1, ..snapshot("old", 1, 2) };
    assert!(said(run(&archive, &[older, long], &wanted(Target::Time(at(9))))).starts_with("old Time"));
}

#[test]
fn records_over_two_segments_are_read_and_no_segment_twice() {
    let (mut archive, snapshots) = plain_story();
    archive.segments[8].open_tail_may_hold_commit = true;
    let mut asked = Vec::new();
    let mut find = |names: &[SegmentName], sought: Sought<'_>| {
        asked.push(names.iter().map(|n| n.no(size()).unwrap().0).collect::<Vec<_>>());
        let hit = sought == Sought::Name("cut") && names.len() == 2;
        Ok(hit.then_some(Found { start: lsn(10, 0xF_FF00), end: lsn(11, 0x100), time: at(10), committed: true }))
    };
    let chosen = choose(&archive, &snapshots, &wanted(Target::Name("cut".into())), &mut find);
    assert!(said(chosen).starts_with("b Name"));
    assert!(said(choose(&archive, &snapshots, &wanted(Target::Name("none".into())), &mut find)).contains("not in the WAL"));
    assert_eq!(asked, [vec![10, 11], vec![10, 11]]);
}

/// The folder that is restored in place has a last segment of its own, in which its server was when it ended.
#[test]
fn the_targets_own_last_segment_is_the_end() {
    let own = |timeline: u32, no: u64| ArchivedSegment {
        last_record: Some(lsn(no, 0x1_0000)),
        tail_record: None,
        valid_until: lsn(no, 0x1_0100),
        unfinished: true,
        ..segment(timeline, no)
    };
    let mut archive = archive(&[(1, 3..=5)], &[]);
    let early = snapshot("a", 1, 3);
    let end = |archive: &Archive| run(archive, std::slice::from_ref(&early), &wanted(Target::End));
    archive.segments.push(own(1, 6));
    let choice = end(&archive).unwrap();
    assert_eq!(choice.settings.unwrap().target, RecoveryTarget::Lsn(lsn(6, 0x1_0000)));
    assert_eq!(choice.window.unwrap().to_lsn, lsn(6, 0x1_0100));
    // Where the archive goes on behind it, it is a gap.
    archive.segments.push(segment(1, 7));
    assert!(matches!(end(&archive), Err(TargetError::Gap { .. })));
    archive.segments.pop();
    // A snapshot whose end lies behind what it holds is not reached by it.
    let late = Candidate { stop_lsn: lsn(6, 0x2_0000), ..snapshot("b", 1, 5) };
    let error = run(&archive, &[late], &wanted(Target::End)).unwrap_err();
    assert!(matches!(error, TargetError::WaitsForWal { .. }), "{error}");
}
