use proptest::prelude::*;

use crate::archive::list::{Archive, NoCache};
use crate::archive::testing::{SYSTEM, World, entry, segment};
use crate::archive::{GetError, Got, get};
use crate::crypt::sign::SigningKey;
use crate::repo::log::Expired;
use crate::store::Backend;
use crate::units::{Cancel, Class, Explain, Lsn, SegmentSize, TimelineId};

fn name(timeline: u32, no: u64) -> String {
    format!("{timeline:08X}{:08X}{:08X}", no >> 12, no & 0xfff)
}

/// Timeline 1 from 3 to 8, timeline 2 from 6 (switch in 6) to 9, without those listed.
fn world(missing: &[&str]) -> World {
    let world = World::new();
    for (timeline, no) in (3..=8).map(|no| (1, no)).chain((6..=9).map(|no| (2, no))) {
        if !missing.contains(&name(timeline, no).as_str()) {
            // The old line ended long before: this is no fork.
            world.wait(60);
            world.push(&name(timeline, no), &segment(timeline, no, 1)).unwrap();
        }
    }
    if !missing.contains(&"00000002.history") {
        world.push("00000002.history", b"1\t0/600100\tno recovery target specified\n").unwrap();
    }
    world
}

#[derive(Debug, PartialEq)]
enum Is {
    There,
    Absent,
    Gap,
}

fn outcome(world: &World, name: &str) -> Is {
    match world.got(name) {
        Ok(Some(_)) => Is::There,
        Ok(None) => Is::Absent,
        Err(GetError::Gap { .. }) => Is::Gap,
        Err(e) => panic!("{name}: {e:?}"),
    }
}

#[test]
fn absent_is_only_what_nothing_lies_behind() {
    let whole = world(&[]);
    for (name, is) in [
        (name(1, 3), Is::There),
        (name(1, 9), Is::Absent),
        (name(1, 0x2000), Is::Absent),
        (name(2, 10), Is::Absent),
        (name(2, 6), Is::There),
        // Behind the archive's beginning lies the archive.
        (name(1, 2), Is::Gap),
        // Timeline 2 began in segment 6: it never had these.
        (name(2, 5), Is::Absent),
        (name(2, 3), Is::Absent),
        (name(3, 1), Is::Absent),
        ("00000002.history".into(), Is::There),
        ("00000003.history".into(), Is::Absent),
        ("00000001.history".into(), Is::Absent),
        (format!("{}.partial", name(1, 9)), Is::Absent),
        (format!("{}.00000028.backup", name(1, 4)), Is::Absent),
    ] {
        assert_eq!(outcome(&whole, &name), is, "{name}");
    }
}

#[test]
fn a_gap_is_never_an_absence() {
    let gap = world(&[&name(1, 5), &name(2, 7), &name(2, 8)]);
    assert_eq!(outcome(&gap, &name(1, 5)), Is::Gap);
    assert_eq!(outcome(&gap, &name(2, 7)), Is::Gap);
    assert_eq!(outcome(&gap, &name(2, 8)), Is::Gap);
    // The parent's tail, up to where the child left it.
    let tail = world(&[&name(1, 5), &name(1, 6), &name(1, 7), &name(1, 8)]);
    assert_eq!(outcome(&tail, &name(1, 5)), Is::Gap);
    assert_eq!(outcome(&tail, &name(1, 6)), Is::Absent);
    // The child's copy of the segment of the switch.
    assert_eq!(outcome(&world(&[&name(2, 6)]), &name(2, 6)), Is::Gap);
    // Without the history it isn't known that timeline 2 never had segment 5.
    assert_eq!(outcome(&world(&["00000002.history"]), &name(2, 5)), Is::Gap);
}

#[test]
fn a_lost_history_is_no_absence() {
    let lost = |name: &str, by: &str, world: &World| match world.got(name) {
        Err(e @ GetError::Gap { .. }) => {
            assert!(e.to_string().ends_with(&format!("{by} behind it is there")), "{e}");
            assert!(e.class() != Class::Absent && e.cure().unwrap().contains(name), "{e}");
        }
        other => panic!("{other:?}"),
    };
    // Timeline 2 began with a copy of timeline 1's segment 6.
    let begun = world(&["00000002.history", &name(2, 6)]);
    assert_eq!(outcome(&begun, "00000002.history"), Is::Absent);
    begun.push(&name(2, 6), &segment(1, 6, 1)).unwrap();
    lost("00000002.history", &name(2, 6), &begun);
    assert_eq!(outcome(&begun, "00000003.history"), Is::Absent);
    begun.push("00000002.history", b"1\t0/600100\tno recovery target specified\n").unwrap();
    assert_eq!(outcome(&begun, "00000002.history"), Is::There);
    // A history was made from its parent's.
    begun.wait(60);
    begun.push("00000004.history", b"1\t0/600100\tx\n3\t0/900100\tx\n").unwrap();
    lost("00000003.history", "00000004.history", &begun);
    assert_eq!(outcome(&begun, "00000001.history"), Is::Absent);
    assert_eq!(outcome(&begun, "00000005.history"), Is::Absent);
    // A first segment that nobody can read may have been such a copy.
    let rotten = world(&[]);
    rotten.plant(&rotten.object(&name(5, 9), 0), b"rubbish");
    assert!(matches!(rotten.got("00000005.history"), Err(GetError::Unusable { .. })));
    assert_eq!(outcome(&rotten, "00000003.history"), Is::Absent);
}

#[test]
fn an_empty_archive_is_empty() {
    let world = World::new();
    for name in [&name(1, 3), "00000002.history", "000000010000000000000003.partial"] {
        assert_eq!(outcome(&world, name), Is::Absent);
    }
}

#[test]
fn whatever_is_no_proof_is_an_error() {
    let bad = world(&[]);
    for wrong in ["", "x", "RECOVERYXLOG", "../x", "000000010000000000000003.1"] {
        assert!(matches!(bad.got(wrong), Err(GetError::Name(_))), "{wrong}");
    }
    bad.store.set_unreachable(true);
    for name in [name(1, 9), name(1, 3)] {
        assert_eq!(bad.got(&name).unwrap_err().class(), Class::Unreachable);
    }
    bad.store.set_unreachable(false);
    // Not the destination's fault either.
    let error = get(&bad.get(), &name(1, 3), std::path::Path::new("/nonexistent/x")).unwrap_err();
    assert!(matches!(error, GetError::Write { .. }) && error.class() != Class::Absent);
    // The log was set back.
    bad.append();
    bad.refresh();
    bad.store.delete(&entry(1)).unwrap();
    assert!(bad.got(&name(1, 9)).is_err() && bad.got(&name(1, 3)).is_err());
}

#[test]
fn rubbish_is_no_absence_and_a_void_object_no_gap() {
    let world = world(&[]);
    // Planted or rotten, it can't be told.
    world.plant(&world.object(&name(1, 9), 0), b"rubbish");
    assert!(matches!(world.got(&name(1, 9)), Err(GetError::Unusable { .. })));
    assert!(world.got(&name(1, 10)).is_ok_and(|got| got.is_none()));
    assert!(matches!(world.got(&name(1, 2)), Err(GetError::Gap { .. })));
    // What a revoked key stored behind its end doesn't count, and hides nothing.
    let thief = SigningKey::from_seed(&[9; 32]);
    world.enrol(&thief);
    world.append();
    world.refresh();
    for no in [10, 11] {
        world.push_as(&thief, &name(2, no), &segment(2, no, 1)).unwrap();
    }
    world.revoke(&thief, &name(2, 9));
    world.append();
    assert_eq!(outcome(&world, &name(2, 10)), Is::Absent);
    world.push(&name(2, 10), &segment(2, 10, 1)).unwrap();
    assert_eq!(outcome(&world, &name(2, 10)), Is::There);
    assert_eq!(outcome(&world, &name(2, 11)), Is::Absent);
}

#[test]
fn another_clusters_archive_is_not_looked_into() {
    let world = world(&[]);
    let mut ctx = world.get();
    ctx.system_identifier = 5;
    assert_eq!(get(&ctx, &name(1, 3), &world.path("x")).unwrap(), Got::Absent);
    ctx = world.get();
    ctx.site.cluster = "other";
    assert_eq!(get(&ctx, &name(1, 3), &world.path("x")).unwrap(), Got::Absent);
}

#[test]
fn an_object_under_another_name_is_not_that_file() {
    let world = world(&[&name(1, 5)]);
    let bytes = world.store.read(&world.object(&name(1, 4), 0), 1 << 30).unwrap();
    world.plant(&world.object(&name(1, 5), 0), &bytes);
    assert!(matches!(world.got(&name(1, 5)), Err(GetError::Unusable { .. })));
}

#[test]
fn a_log_older_than_the_wal_is_said_and_no_obstacle() {
    let world = World::new();
    world.append();
    world.refresh();
    world.push(&name(1, 3), &segment(1, 3, 1)).unwrap();
    world.store.delete(&entry(1)).unwrap();
    // A host that never saw entry 1: a copy of the repository, made while it was written to.
    world.refresh();
    let Got::Delivered { warnings, .. } = get(&world.get(), &name(1, 3), &world.path("x")).unwrap() else { panic!() };
    assert!(warnings.iter().any(|w| w.contains("log/1")), "{warnings:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any flipped bit: the right bytes, or an error; never an absence, never other bytes.
    #[test]
    fn no_damage_reaches_the_server(at: prop::sample::Index, bit in 0..8u32) {
        let world = World::new();
        let bytes = segment(1, 3, 1);
        world.push(&name(1, 3), &bytes).unwrap();
        let tampered = world.store.tamper(&world.object(&name(1, 3), 0), |object| {
            let at = at.index(object.len());
            object[at] ^= 1 << bit;
        });
        prop_assert!(tampered);
        match world.got(&name(1, 3)) {
            Ok(got) => prop_assert_eq!(got, Some(bytes)),
            Err(e) => prop_assert!(e.class() != Class::Absent, "{}", e),
        }
    }

    #[test]
    fn no_truncation_reaches_the_server(keep: prop::sample::Index) {
        let world = World::new();
        world.push(&name(1, 3), &segment(1, 3, 1)).unwrap();
        let tampered = world.store.tamper(&world.object(&name(1, 3), 0), |object| object.truncate(keep.index(object.len())));
        prop_assert!(tampered);
        let error = world.got(&name(1, 3)).unwrap_err();
        prop_assert!(error.class() != Class::Absent, "{}", error);
    }
}

#[test]
fn what_has_expired_is_no_end_of_wal() {
    let world = world(&[&name(1, 3), &name(1, 4), &name(1, 8)]);
    let expired = |timeline: u32, highest: u64| {
        let size = crate::units::SegmentSize::new(1 << 20).unwrap();
        let highest = size.start_of(crate::units::SegmentNo(highest));
        let row = crate::repo::log::Expired { highest, segment_size: size, ancestry: Vec::new() };
        world.expired.lock().unwrap().push((crate::archive::testing::SYSTEM, crate::units::TimelineId(timeline), row));
    };
    assert_eq!(outcome(&world, &name(1, 8)), Is::Absent);
    // It expires while it is looked for, after the log was read.
    *world.just_read.lock().unwrap() = true;
    expired(1, 8);
    world.append();
    assert!(matches!(world.got(&name(1, 8)), Err(GetError::Expired { .. })));
    for no in [3, 4, 8] {
        let error = world.got(&name(1, no)).unwrap_err();
        assert!(matches!(error, GetError::Expired { .. }) && error.class() == Class::Refused, "{error:?}");
    }
    // What was pushed again is there; behind it, and where the timeline never was, all is as ever.
    assert_eq!(outcome(&world, &name(1, 5)), Is::There);
    assert_eq!(outcome(&world, &name(1, 9)), Is::Absent);
    assert_eq!(outcome(&world, &name(2, 3)), Is::Absent);
    expired(2, 6);
    world.append();
    world.refresh();
    assert_eq!(outcome(&world, &name(2, 3)), Is::Absent, "timeline 2 began in segment 6");
    assert_eq!(outcome(&world, &name(2, 6)), Is::There);
}

/// Somebody has put junk over WAL, or deleted it, and the store keeps what was there. What the log lists as expired is gone.
#[test]
fn what_was_put_over_wal_is_seen_through() {
    let world = World::in_store(crate::store::memory::MemoryStore::with_versions());
    for no in 3..=6 {
        world.push(&name(1, no), &segment(1, no, 1)).unwrap();
    }
    let object = |no| world.object(&name(1, no), 0);
    let whole = world.store.read(&object(4), 1 << 30).unwrap();
    world.store.put_over(&object(3), b"junk");
    // The front is as it was, what follows is not.
    let front = crate::repo::wal::FRONT.min(whole.len() / 2);
    world.store.put_over(&object(4), &[&whole[..front], vec![7; whole.len() - front].as_slice()].concat());
    for no in [5, 6] {
        world.store.delete(&object(no)).unwrap();
    }
    for no in 3..=6 {
        assert_eq!(outcome(&world, &name(1, no)), Is::There, "{no}");
    }
    assert_eq!(outcome(&world, &name(1, 7)), Is::Absent);
    assert_eq!(world.store.chosen(), [3, 4, 5, 6].map(object));
    let archive = || {
        [3, 4, 5, 6].map(object).iter().for_each(|name| world.store.choose(name, None));
        Archive::read(&world.site(), SYSTEM, &NoCache, &Cancel::new()).unwrap()
    };
    let all = archive();
    assert_eq!((all.segments.len(), all.damaged.len()), (4, 0));
    assert_eq!(all.segments.values().map(|e| e.stored).max(), Some(whole.len() as u64), "its length, not the junk's");

    let row = Expired { highest: Lsn(5 << 20), segment_size: SegmentSize::new(1 << 20).unwrap(), ancestry: Vec::new() };
    world.expired.lock().unwrap().push((SYSTEM, TimelineId(1), row));
    world.append();
    assert_eq!(archive().segments.len(), 3, "5 is gone, 6 is not");
    [5, 6].map(object).iter().for_each(|name| world.store.choose(name, None));
    assert!(matches!(world.got(&name(1, 5)), Err(GetError::Expired { .. })));
    assert_eq!(outcome(&world, &name(1, 6)), Is::There);
}
