//! A server that recovers, in a store that wants to be paid for each request: it looks before it sends.

use crate::archive::PushError;
use crate::archive::testing::{World, segment};
use crate::crypt::sign::SigningKey;
use crate::store::memory::MemoryStore;
use crate::store::{Backend, RequestKind, Requests};
use crate::units::{Class, Explain};

const THIRD: &str = "000000010000000000000003";
const FOURTH: &str = "000000010000000000000004";

/// A primary, and a standby with a key of its own; both push out of the same folder.
fn world() -> (World, SigningKey) {
    let world = World::in_store(MemoryStore::paid());
    let standby = SigningKey::from_seed(&[2; 32]);
    world.enrol(&standby);
    world.append();
    world.refresh();
    (world, standby)
}

fn recovers(world: &World, signal: &str) {
    std::fs::write(world.path(signal), "").unwrap();
}

/// What was asked since.
fn since(world: &World, before: Requests) -> (u64, u64) {
    let now = world.store.requests().unwrap();
    (now.of(RequestKind::Put) - before.of(RequestKind::Put), now.sent - before.sent)
}

fn asked(world: &World) -> Requests {
    world.store.requests().unwrap()
}

#[test]
fn what_the_primary_has_pushed_is_not_sent_again() {
    for signal in ["standby.signal", "recovery.signal"] {
        let (world, standby) = world();
        let bytes = segment(1, 3, 1);
        let before = asked(&world);
        let first = world.push(THIRD, &bytes).unwrap();
        assert_eq!(since(&world, before), (1, first.stored), "a primary sends at once");
        recovers(&world, signal);
        let before = asked(&world);
        let again = world.push_as(&standby, THIRD, &bytes).unwrap();
        assert!(again.already_there && again.object == first.object && again.warnings == first.warnings, "{again:?}");
        assert_eq!(since(&world, before), (0, 0), "{signal}: nothing is sent");
        // What the primary has not pushed is.
        let new = world.push_as(&standby, FOURTH, &segment(1, 4, 1)).unwrap();
        assert_eq!(since(&world, before), (1, new.stored), "{signal}");
        assert!(!new.already_there && new.stored > 0);
        assert_eq!(world.got(FOURTH).unwrap().unwrap(), segment(1, 4, 1));
    }
}

/// Without the look the same comes of it; only the bytes are sent once for nothing.
#[test]
fn one_that_was_promoted_finds_out_by_the_answer() {
    let (world, standby) = world();
    let bytes = segment(1, 3, 1);
    world.push(THIRD, &bytes).unwrap();
    let before = asked(&world);
    assert!(world.push_as(&standby, THIRD, &bytes).unwrap().already_there);
    assert_eq!(since(&world, before).0, 1);
}

#[test]
fn other_bytes_under_the_primary_s_name_are_an_error_for_whoever_looks() {
    let (world, standby) = world();
    world.push(THIRD, &segment(1, 3, 1)).unwrap();
    recovers(&world, "standby.signal");
    let mut other = segment(1, 3, 1);
    other[100_000] = 1;
    let before = asked(&world);
    let error = world.push_as(&standby, THIRD, &other).unwrap_err();
    assert!(matches!(error, PushError::OtherBytes { own: false, .. }) && error.class() == Class::Refused, "{error}");
    assert_eq!(since(&world, before), (0, 0));
    assert!(world.store.size(&world.object(THIRD, 1)).is_err(), "nor is it stored behind it");
    assert_eq!(world.got(THIRD).unwrap().unwrap(), segment(1, 3, 1));
}

/// What is there and can't be relied on doesn't count as pushed.
#[test]
fn what_is_rotten_or_planted_is_sent_all_the_same() {
    for damage in ["rotten", "planted"] {
        let (world, standby) = world();
        let bytes = segment(1, 3, 1);
        let object = world.object(THIRD, 0);
        match damage {
            "rotten" => {
                world.push(THIRD, &bytes).unwrap();
                assert!(world.store.tamper(&object, |bytes| *bytes.last_mut().unwrap() ^= 1));
            }
            _ => world.plant(&object, b"rubbish"),
        }
        recovers(&world, "standby.signal");
        let pushed = world.push_as(&standby, THIRD, &bytes).unwrap();
        assert_eq!((pushed.object.as_str(), pushed.already_there), (world.object(THIRD, 1).as_str(), false), "{damage}");
        assert_eq!(world.got(THIRD).unwrap().unwrap(), bytes, "{damage}");
    }
}

#[test]
fn a_store_that_can_not_be_asked_has_nothing() {
    let (world, standby) = world();
    world.push(THIRD, &segment(1, 3, 1)).unwrap();
    recovers(&world, "standby.signal");
    world.store.set_unreachable(true);
    let error = world.push_as(&standby, THIRD, &segment(1, 3, 1)).unwrap_err();
    assert_eq!(error.class(), Class::Unreachable, "{error}");
}
