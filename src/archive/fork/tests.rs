use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::archive::testing::{SYSTEM, World, segment};
use crate::crypt::sign::SigningKey;
use crate::repo::log::{Fork, ForkPoint, ForkState};

const T: fn(u32) -> TimelineId = TimelineId;

/// The byte at this offset in this segment of 1 MiB.
fn at(segment: u64, offset: u64) -> Lsn {
    Lsn(segment << 20 | offset)
}

fn history(timeline: u32, entries: &[(u32, Lsn)]) -> History {
    let entry = |(parent, switch): &(u32, Lsn)| HistoryEntry { parent: T(*parent), switch: *switch, reason: String::new() };
    History { timeline: T(timeline), entries: entries.iter().map(entry).collect() }
}

type Entries<'a> = &'a [(u32, Lsn)];

/// Which lines are left behind by `new`, in an archive of these newest segments and histories?
fn left(new: (u32, Entries<'_>), newest: &[(u32, u64)], histories: &[(u32, Entries<'_>)]) -> Vec<u32> {
    let size = SegmentSize::new(1 << 20).unwrap();
    let newest: Vec<Newest> = newest.iter().map(|(t, no)| Newest { timeline: T(*t), no: SegmentNo(*no), size }).collect();
    let tree = histories.iter().map(|(t, entries)| history(*t, entries)).collect();
    left_behind(&history(new.0, new.1), &newest, &tree).iter().map(|line| line.timeline.0).collect()
}

#[test]
fn a_line_is_left_behind_by_more_than_one_whole_segment() {
    let two: Entries<'_> = &[(1, at(50, 256))];
    for (newest, expected) in [(49, false), (50, false), (51, false), (52, true), (90, true)] {
        assert_eq!(left((2, two), &[(1, newest)], &[]), if expected { vec![1] } else { vec![] }, "{newest}");
    }
    // On a boundary the segment behind it is whole.
    for (newest, expected) in [(49, false), (50, false), (51, true)] {
        assert_eq!(left((2, &[(1, at(50, 0))]), &[(1, newest)], &[]), if expected { vec![1] } else { vec![] }, "{newest}");
    }
    assert_eq!(left((2, two), &[], &[]), [0; 0], "an empty archive");
    assert_eq!(left((5, &[(1, at(9, 1)), (4, at(20, 1))]), &[(5, 30)], &[]), [0; 0], "its own segments");
}

#[test]
fn what_the_archive_holds_decides_where_a_timeline_begins() {
    let two: (u32, Entries<'_>) = (2, &[(1, at(100, 256))]);
    // The cluster failed over to 2; a copy that was restored to 1 before, and got a number of its own.
    assert_eq!(left((3, &[(1, at(50, 8))]), &[(1, 100), (2, 130)], &[two]), [1, 2]);
    // The next failover continues 2; whatever became of 1.
    assert_eq!(left((3, &[(1, at(100, 256)), (2, at(130, 8))]), &[(1, 180), (2, 130)], &[two]), [0; 0]);
    // A copy of 2.
    assert_eq!(left((3, &[(1, at(100, 256)), (2, at(110, 8))]), &[(1, 100), (2, 130)], &[two]), [2]);
    // The old primary of 1 had gone on without its archive, and is promoted: 2 is the cluster.
    assert_eq!(left((3, &[(1, at(110, 8))]), &[(1, 100), (2, 130)], &[two]), [2]);
    // 2 was a copy that came in, and 1 fails over.
    assert_eq!(left((3, &[(1, at(200, 8))]), &[(1, 200), (2, 130)], &[two]), [0; 0]);
    // Both promoted at about the same place, and 2 went on.
    assert_eq!(left((3, &[(1, at(101, 8))]), &[(1, 100), (2, 103)], &[two]), [2]);
    // A child of an accepted fork is judged by the fork alone.
    assert_eq!(left((4, &[(1, at(50, 8)), (3, at(60, 8))]), &[(1, 150), (3, 60)], &[(3, &[(1, at(50, 8))])]), [0; 0]);
    // A copy's copy, of which the archive knows nothing: by where it left 1.
    assert_eq!(left((3, &[(1, at(50, 8)), (2, at(60, 8))]), &[(1, 150)], &[]), [1]);
    // Its 2 is another 2 than the archive's.
    assert_eq!(left((3, &[(1, at(50, 8)), (2, at(60, 8))]), &[(1, 100), (2, 130)], &[two]), [1, 2]);
    // Only the parent's history is there yet.
    assert_eq!(left((3, &[(1, at(100, 256)), (2, at(100, 512))]), &[(1, 100)], &[two]), [0; 0]);
}

#[test]
fn what_nobody_knows_is_left_behind() {
    assert_eq!(left((2, &[]), &[(1, 50)], &[]), [1], "it comes from nowhere");
    assert_eq!(left((4, &[(3, at(60, 8))]), &[(1, 50)], &[]), [1], "from a line that the archive doesn't have");
    // Line 2 has lost its history.
    assert_eq!(left((3, &[(1, at(50, 8))]), &[(1, 50), (2, 90)], &[]), [2]);
    // The archive began with 5; 3 was its ancestor, of which nothing shows, or was shown by 5's history.
    assert_eq!(left((3, &[(1, at(50, 8))]), &[(5, 90)], &[]), [5]);
    let five: (u32, Entries<'_>) = (5, &[(1, at(50, 8)), (3, at(60, 8))]);
    assert_eq!(left((3, &[(1, at(50, 8))]), &[(5, 90)], &[five]), [0; 0], "a lost history is brought back");
}

#[test]
fn one_witness_is_enough_and_the_future_is_now() {
    let now = Timestamp(1_700_000_000_000_000);
    let (old, new) = (Duration::from_secs(3600), Duration::from_secs(3599));
    let (earlier, later) = (Timestamp(now.0 - 3_600_000_000), Timestamp(now.0 + 86_400_000_000));
    for (stored, signed, recent) in [
        (None, None, true),
        (Some(old), None, false),
        (Some(new), None, true),
        (None, Some(earlier), false),
        (None, Some(Timestamp(earlier.0 + 1)), true),
        (None, Some(later), true),
        (Some(old), Some(earlier), false),
        (Some(new), Some(earlier), true),
        (Some(old), Some(later), true),
        (Some(Duration::ZERO), Some(Timestamp(i64::MIN)), true),
        (Some(old), Some(Timestamp(i64::MIN)), false),
        (Some(old), Some(Timestamp(i64::MAX)), true),
    ] {
        assert_eq!(LastPush { stored, signed }.is_recent(now), recent, "{stored:?} {signed:?}");
    }
}

fn note(timeline: u32, begins: Option<ForkPoint>) -> Fork {
    let state = if begins.is_some() { ForkState::Announced } else { ForkState::Accepted };
    Fork { number: 1, timeline: T(timeline), state, begins, reason: "x".into() }
}

#[test]
fn a_note_means_one_timeline() {
    let (key, other) = (SigningKey::from_seed(&[1; 32]).id(), SigningKey::from_seed(&[2; 32]).id());
    let point = |key| ForkPoint { parent: T(1), from: at(40, 0), to: at(50, 0), key };
    let new = history(2, &[(1, at(45, 8))]);
    assert!(is_known(&note(2, None), &new, &other) && !is_known(&note(3, None), &new, &key));
    assert!(is_known(&note(2, Some(point(Some(key)))), &new, &key));
    assert!(!is_known(&note(2, Some(point(Some(key)))), &new, &other), "another host's");
    assert!(is_known(&note(2, Some(point(None))), &new, &other));
    assert!(!is_known(&note(3, Some(point(None))), &new, &key), "another number");
    for (parent, switch) in [(1, at(39, 0xF_FFFF)), (1, Lsn(at(50, 0).0 + 1))] {
        assert!(!is_known(&note(2, Some(point(None))), &history(2, &[(parent, switch)]), &key), "{switch}");
    }
    assert!(!is_known(&note(3, Some(point(None))), &history(3, &[(2, at(45, 8))]), &key), "another parent");
    assert!(!is_known(&note(2, Some(point(None))), &history(2, &[]), &key), "from nowhere");
}

proptest! {
    /// Promotions one after the other, each at the end of what its parent has: none leaves a line behind. One that begins
    /// before the newest line's end does.
    #[test]
    fn failovers_pass_and_copies_do_not(steps in prop::collection::vec((2u64..50, 0u64..3), 1..8), back in 2u64..40) {
        let (mut entries, mut newest, mut histories) = (Vec::new(), Vec::new(), Vec::new());
        let mut end = 10;
        for (timeline, (length, lag)) in (1u32..).zip(&steps) {
            end += length;
            // What is archived of the line: up to the switch, one more, or some less.
            newest.push((timeline, end + 1 - lag));
            entries.push((timeline, at(end, 8)));
            histories.push((timeline + 1, entries.clone()));
        }
        let (new, known) = histories.split_last().unwrap();
        let known: Vec<(u32, Entries<'_>)> = known.iter().map(|(t, e)| (*t, e.as_slice())).collect();
        prop_assert_eq!(left((new.0, &new.1), &newest, &known), Vec::<u32>::new());
        let all: Vec<(u32, Entries<'_>)> = histories.iter().map(|(t, e)| (*t, e.as_slice())).collect();
        let (last, length) = (new.0, steps.last().unwrap().0);
        let mut copy = new.1.clone();
        copy.pop();
        copy.push((last - 1, at(end - back.min(length), 8)));
        newest.push((last, end + 2));
        let found = left((last + 1, &copy), &newest, &all);
        prop_assert!(found.contains(&last), "{:?}", found);
    }
}

/// Segments 3 to 12 of timeline 1 are there.
fn filled() -> World {
    let world = World::new();
    for no in 3..13u64 {
        world.push(&name(1, no), &segment(1, no, 1)).unwrap();
    }
    world
}

fn name(timeline: u32, no: u64) -> String {
    format!("{timeline:08X}00000000{no:08X}")
}

fn noted(world: &World, note: Fork) {
    world.forks.lock().unwrap().push((SYSTEM, note));
    world.append();
}

const COPY: &[u8] = b"1\t0/600100\tno recovery target specified\n";
const FAILOVER: &[u8] = b"1\t0/C80100\tno recovery target specified\n";

#[test]
fn a_promoted_copy_is_refused_with_its_cures() {
    let world = filled();
    let error = world.push("00000002.history", COPY).unwrap_err();
    let PushError::Fork { leaves, line, newest, .. } = &error else { panic!("{error}") };
    assert_eq!((*leaves, *line, newest.to_string()), (Some((T(1), Lsn(0x60_0100))), T(1), name(1, 12)));
    use crate::units::{Class, Explain};
    let cure = error.cure().unwrap();
    assert!(error.class() == Class::Refused && cure.contains("--cluster NEW") && cure.contains("accept-fork --timeline 2"), "{cure}");
    assert!(error.to_string().contains("timeline 2 leaves timeline 1 at 0/600100"), "{error}");
    // Its first segment is no better, with its history beside it or not, nor on a boundary.
    for beside in [true, false] {
        if !beside {
            std::fs::remove_file(world.path("00000002.history")).unwrap();
        }
        for header in [1, 2] {
            let error = world.push(&name(2, 6), &segment(header, 6, 1)).unwrap_err();
            assert!(matches!(error, PushError::Fork { .. }), "{beside} {header}: {error}");
        }
    }
    assert!(world.got("00000002.history").unwrap().is_none() && world.got(&name(2, 6)).unwrap().is_none());
    // The original goes on.
    world.push(&name(1, 13), &segment(1, 13, 1)).unwrap();
}

/// A name is nobody's proof: whoever can write to the store can put something there.
#[test]
fn a_planted_segment_before_it_lets_nothing_in() {
    let world = filled();
    world.plant(&world.object(&name(2, 5), 0), b"whatever");
    for beside in [true, false] {
        let error = world.push(&name(2, 6), &segment(2, 6, 1)).unwrap_err();
        assert!(matches!(error, PushError::Fork { .. }), "{error}");
        if beside {
            std::fs::write(world.path("00000002.history"), COPY).unwrap();
        }
    }
    // What was rightly pushed and has rotted stops nobody of its line: another one of it counts.
    noted(&world, note(2, None));
    for no in 6..9 {
        world.push(&name(2, no), &segment(2, no, 1)).unwrap();
    }
    world.forks.lock().unwrap().clear();
    world.append();
    world.refresh();
    assert!(world.store.tamper(&world.object(&name(2, 8), 0), |bytes| bytes[300] ^= 1));
    world.push(&name(2, 9), &segment(2, 9, 1)).unwrap();
    world.push(&name(2, 10), &segment(2, 10, 1)).unwrap();
}

#[test]
fn a_failover_passes_with_what_comes_late() {
    let world = filled();
    world.push("00000002.history", FAILOVER).unwrap();
    world.push(&format!("{}.partial", name(1, 12)), &segment(1, 12, 1)).unwrap();
    world.push(&name(2, 12), &segment(1, 12, 1)).unwrap();
    world.push(&name(2, 13), &segment(2, 13, 1)).unwrap();
    world.push(&name(1, 13), &segment(1, 13, 1)).unwrap();
    // And the next one.
    world.push("00000003.history", b"1\t0/C80100\tx\n2\t0/E00100\tx\n").unwrap();
    world.push(&name(3, 14), &segment(2, 14, 1)).unwrap();
    // A copy of 1 has no place any more, nor has a segment of another timeline 2.
    assert!(matches!(world.push("00000004.history", COPY), Err(PushError::Fork { .. })));
    assert!(matches!(world.push(&name(2, 6), &segment(1, 6, 1)), Err(PushError::BeforeBeginning { .. })));
}

#[test]
fn a_first_segment_may_come_before_its_history() {
    let world = filled();
    world.push(&name(2, 12), &segment(1, 12, 1)).unwrap();
    for no in 13..20 {
        world.push(&name(2, no), &segment(2, no, 1)).unwrap();
    }
    // Whatever became of the old line since.
    for no in 13..20 {
        world.push(&name(1, no), &segment(1, no, 1)).unwrap();
    }
    world.push("00000002.history", FAILOVER).unwrap();
    world.push("00000002.history", FAILOVER).unwrap();
}

/// A server that was promoted while archiving was off has no history to archive, and archives its segments later.
#[test]
fn a_first_segment_brings_the_history_that_was_left_out() {
    let world = filled();
    std::fs::write(world.path("00000002.history"), FAILOVER).unwrap();
    // Not that of a beginning which was never in this archive.
    world.push(&name(2, 13), &segment(2, 13, 1)).unwrap();
    assert_eq!(world.got("00000002.history").unwrap(), None);
    let pushed = world.push(&name(2, 12), &segment(1, 12, 1)).unwrap();
    assert!(pushed.warnings.iter().any(|w| w.contains("00000002.history")), "{:?}", pushed.warnings);
    assert_eq!(world.got("00000002.history").unwrap().as_deref(), Some(FAILOVER));
    // Once.
    let again = world.push(&name(2, 12), &segment(1, 12, 1)).unwrap();
    assert!(again.already_there && again.warnings.iter().all(|w| !w.contains("history")), "{:?}", again.warnings);
    assert!(world.push("00000002.history", FAILOVER).unwrap().already_there);
}

#[test]
fn an_old_line_has_no_say() {
    let world = filled();
    world.wait(59);
    assert!(matches!(world.push("00000002.history", COPY), Err(PushError::Fork { .. })));
    world.wait(1);
    world.push("00000002.history", COPY).unwrap();
}

#[test]
fn clocks_that_are_off_refuse() {
    let world = filled();
    let newest = world.object(&name(1, 12), 0);
    // The store has it for a minute only, and the copy's clock is a day ahead.
    world.store.set_age(&newest, Duration::from_secs(60));
    world.wait(24 * 60);
    assert!(matches!(world.push("00000002.history", COPY), Err(PushError::Fork { .. })));
    // It is a day behind, and the store's files were touched long ago.
    world.wait(-48 * 60);
    world.store.set_age(&newest, Duration::from_secs(86_400));
    assert!(matches!(world.push("00000002.history", COPY), Err(PushError::Fork { .. })));
    world.wait(48 * 60);
    world.push("00000002.history", COPY).unwrap();
}

#[test]
fn what_was_accepted_stays_so() {
    let world = filled();
    assert!(world.push("00000002.history", COPY).is_err());
    // Of another history of the cluster's name.
    world.forks.lock().unwrap().push((5, note(2, None)));
    world.append();
    assert!(world.push("00000002.history", COPY).is_err());
    noted(&world, note(2, None));
    world.push("00000002.history", COPY).unwrap();
    for no in 6..9 {
        world.push(&name(2, no), &segment(if no == 6 { 1 } else { 2 }, no, 1)).unwrap();
    }
    // Its children are judged by what it has itself.
    world.push("00000003.history", b"1\t0/600100\tx\n2\t0/800100\tx\n").unwrap();
    assert!(matches!(world.push("00000004.history", b"1\t0/700100\tx\n"), Err(PushError::Fork { .. })));
}

#[test]
fn what_was_announced_passes_once_and_for_one_host() {
    let world = filled();
    let other = SigningKey::from_seed(&[2; 32]);
    world.enrol(&other);
    world.append();
    let point = ForkPoint { parent: T(1), from: Lsn(0x50_0000), to: Lsn(0x70_0000), key: Some(world.host.id()) };
    noted(&world, note(2, Some(point)));
    assert!(matches!(world.push_as(&other, "00000002.history", COPY), Err(PushError::Fork { .. })));
    assert!(matches!(world.push("00000002.history", b"1\t0/800100\tx\n"), Err(PushError::Fork { .. })));
    world.push("00000002.history", COPY).unwrap();
    world.push(&name(2, 6), &segment(1, 6, 1)).unwrap();
    assert!(matches!(world.push("00000003.history", COPY), Err(PushError::Fork { .. })));
}

#[test]
fn damaged_and_void_segments_are_told_apart() {
    // The newest is rotten: somebody pushed it all the same.
    let world = filled();
    assert!(world.store.tamper(&world.object(&name(1, 12), 0), |bytes| bytes[300] ^= 1));
    assert!(matches!(world.push("00000002.history", COPY), Err(PushError::Fork { .. })));
    // What a key without a right signed is none of the line.
    let world = World::new();
    world.push(&name(1, 5), &segment(1, 5, 1)).unwrap();
    let thief = SigningKey::from_seed(&[9; 32]);
    world.enrol(&thief);
    world.append();
    world.refresh();
    for no in 6..10 {
        world.push_as(&thief, &name(1, no), &segment(1, no, 1)).unwrap();
    }
    assert!(matches!(world.push("00000002.history", b"1\t0/500100\tx\n"), Err(PushError::Fork { .. })));
    world.revoke(&thief, &name(2, 1));
    world.append();
    world.refresh();
    world.push("00000002.history", b"1\t0/500100\tx\n").unwrap();
}
