//! A bit of a listing is flipped on its way: one file's name becomes another's, or none. Nothing else is concluded for that.

use std::sync::Arc;

use crate::archive::list::NoCache;
use crate::archive::testing::{SYSTEM, World, segment};
use crate::archive::{Archive, GetContext, GetError, Glance, Site, StoredNames, fetch, stored};
use crate::pg::wal::WalFileName;
use crate::store::troubled::Troubled;
use crate::store::{Backend, ObjectName, Pace};
use crate::units::Cancel;

const GAP: &str = "000000010000000000000005";
const BEHIND_VOID: &str = "000000010000000000000004";

/// Two timelines; of one segment the first object is void; one is missing, which only the very last shows.
fn world() -> World {
    let world = World::new();
    world.plant(&world.object(BEHIND_VOID, 0), b"rubbish");
    for no in [3u64, 4, 6] {
        world.push(&format!("0000000100000000{no:08X}"), &segment(1, no, 1)).unwrap();
    }
    world
}

fn with_a_child(world: &World) {
    world.wait(60);
    world.push("00000002.history", b"1\t0/620000\tno recovery target specified\n").unwrap();
    world.push("000000020000000000000006", &segment(1, 6, 1)).unwrap();
    world.push("000000020000000000000007", &segment(2, 7, 1)).unwrap();
}

/// The objects of the archive, and what their names may become; of the long ones in front of the last part a sample.
fn flips(world: &World) -> Vec<(ObjectName, Option<ObjectName>)> {
    let folder = ObjectName::new("wal").unwrap();
    let mut all = Vec::new();
    for name in world.store.list_sorted(Some(&folder)).unwrap().into_iter().map(|listed| listed.name) {
        let before = name.as_str().rsplit_once('/').unwrap().0;
        for (n, other) in Troubled::flips(&name).into_iter().enumerate() {
            if n % 23 == 0 || other.as_ref().is_none_or(|other| other.as_str().starts_with(before)) {
                all.push((name.clone(), other));
            }
        }
    }
    all
}

fn before(world: &World) -> Arc<Troubled> {
    Troubled::paced(Arc::clone(&world.store) as _, Some(Pace::OF_A_DISK))
}

fn site<'a>(world: &'a World, store: &'a Troubled) -> Site<'a> {
    Site { backend: store, ..world.site() }
}

/// What a restore is told, in a word.
fn told(world: &World, store: &Troubled, file: &str) -> String {
    let file: WalFileName = file.parse().unwrap();
    match fetch(&GetContext { site: site(world, store), ..world.get() }, &file) {
        Ok(Some(fetched)) => format!("{} bytes", fetched.bytes.len()),
        Ok(None) => "absent".into(),
        Err(GetError::Gap { .. }) => "missing".into(),
        Err(e) => format!("{e:?}"),
    }
}

#[test]
fn a_restore_is_told_the_same() {
    for child in [false, true] {
        let world = world();
        if child {
            with_a_child(&world);
        }
        let store = before(&world);
        let wanted = [
            (GAP, "missing"),
            (BEHIND_VOID, "1048576 bytes"),
            ("000000010000000000000007", "absent"),
            ("000000020000000000000008", "absent"),
            ("00000002.history", if child { "40 bytes" } else { "absent" }),
            ("00000003.history", "absent"),
        ];
        for (file, told_of) in wanted {
            assert_eq!(told(&world, &store, file), told_of, "{file}");
        }
        let flips = flips(&world);
        assert!(flips.len() > 500, "{}", flips.len());
        for (object, other) in flips {
            for (file, told_of) in wanted {
                store.list_once_as(object.clone(), other.clone());
                assert_eq!(told(&world, &store, file), told_of, "{file}, where {object} is listed as {other:?}");
            }
        }
    }
}

#[test]
fn an_archive_adds_up_to_the_same() {
    let world = world();
    with_a_child(&world);
    let store = before(&world);
    let read = || Archive { stored: 0, ..Archive::read(&site(&world, &store), SYSTEM, &NoCache, &Cancel::new()).unwrap() };
    let wanted = read();
    assert!(wanted.segments.len() == 5 && wanted.histories.len() == 1);
    for (object, other) in flips(&world) {
        store.list_once_as(object.clone(), other.clone());
        assert_eq!(read(), wanted, "{object} is listed as {other:?}");
    }
}

#[test]
fn a_glance_sees_the_same() {
    let world = world();
    with_a_child(&world);
    let store = before(&world);
    let names = ["000000010000000000000003", BEHIND_VOID, GAP, "000000020000000000000007", "000000020000000000000008"];
    let read = || {
        let mut glance = Glance::default();
        names.map(|name| glance.segment(&site(&world, &store), SYSTEM, name.parse().unwrap(), &NoCache).unwrap().is_some())
    };
    assert_eq!(read(), [true, true, false, true, false]);
    for (object, other) in flips(&world) {
        store.list_once_as(object.clone(), other.clone());
        assert_eq!(read(), [true, true, false, true, false], "{object} is listed as {other:?}");
    }
}

/// Of what is to go nothing is taken for another: least of all for a newer timeline, so that the newest seems to be left.
#[test]
fn who_deletes_sees_nothing_that_is_not_there() {
    let world = world();
    with_a_child(&world);
    let store = before(&world);
    let read = || stored(&site(&world, &store), SYSTEM, &NoCache, &Cancel::new()).unwrap();
    let wanted = read();
    assert_eq!((wanted.objects.len(), wanted.histories.len()), (6, 1));
    for (object, other) in flips(&world) {
        store.list_once_as(object.clone(), other.clone());
        let StoredNames { objects, histories } = read();
        let case = format!("{object} is listed as {other:?}");
        assert!(objects.iter().all(|found| wanted.objects.contains(found)), "{case}: {objects:?}");
        assert!(objects.len() + 2 >= wanted.objects.len(), "{case}");
        assert!(histories.iter().all(|(timeline, history)| wanted.histories.get(timeline) == Some(history)), "{case}");
    }
}
