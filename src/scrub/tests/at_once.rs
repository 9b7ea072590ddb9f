//! A store that answers late is asked for much at once: damage in several places is found as well as one read after the other.

use super::*;
use crate::store::Pace;
use crate::store::troubled::{Call, Failure, Troubled};

/// Six snapshots with packs of their own; all but the first have a patch of what lies in the first one's.
fn world() -> World {
    let world = World::new();
    ["one", "two", "three", "four", "five", "six"].into_iter().zip(50u8..).for_each(|(id, first)| _ = world.snapshot(id, first, Lie::None));
    world
}

/// As a host verifies it whose store is asked for so many things at once; with what was asked of it.
fn verify_at_once(
    world: &World,
    reads: usize,
    rule: impl Fn(Call, &ObjectName) -> Option<Failure> + Send + Sync + 'static,
) -> (Result<Vec<Finding>, ScrubError>, BTreeSet<ObjectName>) {
    let pace = if reads > 1 { Pace::of_a_service(reads) } else { Pace::OF_A_DISK };
    let store = Troubled::paced(Arc::clone(&world.store) as _, Some(pace));
    let opened = world.host.again(Arc::clone(&store) as _).unwrap();
    store.fail(rule);
    store.forget();
    let cancel = Cancel::new();
    let counting = Arc::new(Counting::new(Arc::clone(&store) as _));
    let setup = Setup { opened: &opened, store: counting, unlock: None, read: ALL, progress: &Quiet, cancel: &cancel };
    let report = verify(&setup);
    let findings = report.map(|r| r.findings.take().into_iter().filter(|f| f.object != "key/").collect());
    (findings, store.asked(Call::Read).into_iter().collect())
}

/// Where a chunk of these bytes lies: the pack's name and the place of its blob there.
fn blob_of(world: &World, plain: &[u8]) -> (ObjectName, usize) {
    let opened = &world.host.opened;
    opened.refresh().unwrap();
    let fold = opened.view().fold.clone();
    let id = opened.sealing.chunk_id(ChunkRole::Content, plain);
    for commit in fold.commits.values() {
        let packs = opened.packs_of(&fold, commit).unwrap();
        for (_, pack) in commit.set.iter() {
            let table = packs.table(*pack).unwrap();
            if let Some(row) = table.rows().iter().find(|row| row.chunks[0].0 == id) {
                return (packs.name(*pack).unwrap(), row.offset as usize + 3);
            }
        }
    }
    panic!("no such chunk")
}

fn named(findings: &[Finding]) -> Vec<(&str, Vec<&str>)> {
    findings.iter().map(|f| (f.object.as_str(), f.snapshots.iter().map(String::as_str).collect())).collect()
}

#[test]
fn damage_in_several_places_is_named_with_its_snapshots_and_the_rest_is_read() {
    let world = world();
    let all = world.packs();
    assert!(all.len() >= 6, "{all:?}");
    // The first page of `two`, what the patches of all refer to, all of `four`, and the table of the pack of `five`.
    let (damaged, at) = blob_of(&world, &page(51));
    let (reference, of) = blob_of(&world, &page(100));
    let (missing, _) = blob_of(&world, &page(53));
    let (cut, _) = blob_of(&world, &page(54));
    let hit: BTreeSet<&ObjectName> = [&damaged, &reference, &missing, &cut].into();
    assert_eq!(hit.len(), 4);
    assert!(verify_at_once(&world, 16, |_, _| None).0.unwrap().is_empty());
    world.store.tamper(&damaged, |bytes| bytes[at] ^= 1);
    world.store.tamper(&reference, |bytes| bytes[of] ^= 1);
    world.store.delete(&missing).unwrap();
    world.store.tamper(&cut, |bytes| {
        let at = bytes.len() - 100;
        bytes[at] ^= 1;
    });

    let (one_by_one, _) = verify_at_once(&world, 1, |_, _| None);
    let one_by_one = one_by_one.unwrap();
    for reads in [2, 16, 64] {
        let (found, asked) = verify_at_once(&world, reads, |_, _| None);
        let found = found.unwrap();
        let objects: BTreeSet<&str> = found.iter().map(|f| f.object.as_str()).collect();
        assert_eq!(objects, hit.iter().map(|name| name.as_str()).collect(), "{reads} at once: {found:?}");
        assert_eq!(named(&found), named(&one_by_one), "{reads} at once: {found:?}\none by one: {one_by_one:?}");
        let of = |name: &ObjectName| found.iter().find(|f| f.object == name.as_str()).unwrap();
        assert_eq!(named(&[of(&damaged).clone()])[0].1, ["two"]);
        // Of `four` and `five` nothing can be read that would lead there.
        assert_eq!(named(&[of(&reference).clone()])[0].1, ["one", "six", "three", "two"]);
        assert_eq!(files(of(&reference)), ["base/1"].into());
        assert!(of(&missing).problem.starts_with("it is not there") && of(&missing).snapshots.contains("four"));
        assert!(of(&cut).snapshots.contains("five"), "{:?}", of(&cut));
        assert!(all.iter().all(|pack| asked.contains(pack)), "{reads} at once: a pack was passed over");
    }
}

/// What doesn't answer says nothing of what it holds: no pack is called missing, and all that was begun comes to an end.
#[test]
fn a_store_that_answers_for_all_but_one_ends_it() {
    let world = world();
    let silent = world.packs()[3].clone();
    for reads in [1, 16] {
        for (failure, class) in [(Failure::Unreachable, Class::Unreachable), (Failure::Denied, Class::Denied)] {
            let name = silent.clone();
            let error = verify_at_once(&world, reads, move |call, asked| (call == Call::Read && *asked == name).then_some(failure)).0;
            let error = error.unwrap_err();
            assert!(error.class() == class && error.to_string().contains(silent.as_str()), "{reads}: {error}");
        }
        assert!(verify_at_once(&world, reads, |_, _| None).0.unwrap().is_empty());
    }
}

/// A listing in which a bit was flipped on the way shows another name, or none: that is no damage, and nothing is missing.
#[test]
fn a_name_that_came_damaged_is_no_finding() {
    use crate::crypt::Root;
    use crate::crypt::slot::{Lock, Slot};

    let world = World::new();
    world.snapshot("one", 0, Lie::None);
    let root = Root { repository: world.host.opened.format.repository, ..Root::random().unwrap() };
    let slot = Slot::seal(&root, &Lock::Clear).unwrap();
    let name: ObjectName = "key/00112233445566778899aabbccddeeff".parse().unwrap();
    world.store.put_over(&name, slot.as_bytes());
    let store = Troubled::paced(Arc::clone(&world.store) as _, Some(Pace::OF_A_DISK));
    let opened = world.host.again(Arc::clone(&store) as _).unwrap();
    let cancel = Cancel::new();
    let verify = || {
        let counting = Arc::new(Counting::new(Arc::clone(&store) as _));
        let setup = Setup { opened: &opened, store: counting, unlock: None, read: Share::None, progress: &Quiet, cancel: &cancel };
        let report = verify(&setup).unwrap();
        named(&report.findings.take()).into_iter().map(|(object, _)| object.to_owned()).collect::<Vec<_>>()
    };
    // The slot is none of this world's keys, and says so; nothing else is wrong.
    let wanted = verify();
    let objects: Vec<ObjectName> = world.packs().into_iter().chain([name]).collect();
    for object in objects {
        for other in Troubled::flips(&object).into_iter().step_by(5) {
            store.list_once_as(object.clone(), other.clone());
            assert_eq!(verify(), wanted, "{object} is listed as {other:?}");
        }
        // A length that came damaged.
        let short = object.clone();
        let done = std::sync::atomic::AtomicBool::new(false);
        store.list_so(move |_, _, listed| {
            if !done.swap(true, std::sync::atomic::Ordering::SeqCst) {
                listed.iter_mut().filter(|l| l.name == short).for_each(|l| l.size ^= 16);
            }
        });
        assert_eq!(verify(), wanted, "{object}");
    }
}
