//! One of many deletions fails, while others are under way.

use super::*;
use crate::store::Pace;
use crate::store::troubled::{Call, Failure, Troubled};

/// A repository behind a store that fails where it is told to, and so many snapshots with a pack of their own, of which each third
/// stays.
fn crowded(reads: usize, snapshots: u8) -> (World, Arc<Troubled>, usize) {
    let store = Arc::new(MemoryStore::default());
    let pace = Pace { reads, ..Pace::OF_A_DISK };
    let troubled = Troubled::paced(Arc::clone(&store) as _, Some(pace));
    let world = World { host: Host::new(Arc::clone(&troubled) as _), store };
    let mut live = 0;
    let all: Vec<u64> = (0..snapshots).map(|n| world.snapshot(&format!("s{n}"), 5 + u64::from(n), n + 1, &[]).1).collect();
    for (n, number) in all.iter().enumerate() {
        if n % 3 == 0 { live += 1 } else { world.forget(*number, false) }
    }
    (world, troubled, live)
}

/// What every live snapshot names is there; how many packs that are.
fn live_packs(world: &World) -> usize {
    let view = world.host.opened.view();
    let mut count = 0;
    for commit in view.fold.commits.values() {
        for (session, pack) in commit.set.iter() {
            let name = listing::object(*session, *pack, facts(*pack).hash);
            assert!(world.store.size(&ObjectName::new(&name).unwrap()).is_ok(), "{name} is gone, and {} needs it", commit.summary.id);
            count += 1;
        }
    }
    count
}

fn forgotten_packs(world: &World) -> Vec<ObjectName> {
    let view = world.host.opened.view();
    let named: BTreeSet<String> = view
        .fold
        .commits
        .values()
        .flat_map(|c| c.set.iter().map(|(s, p)| listing::object(*s, *p, facts(*p).hash)).collect::<Vec<_>>())
        .collect();
    let packs = world.store.list_sorted(Some(&ObjectName::new("pack").unwrap())).unwrap();
    packs.into_iter().map(|l| l.name).filter(|name| !named.contains(name.as_str())).collect()
}

/// One more prune finds nothing, and writes nothing. (What a run deleted that then failed was not said to be deleted: so it needn't
/// be durable.)
fn is_done(world: &World, archive: Option<&Fake>) {
    let head = world.head();
    assert_eq!((world.prune(archive, false).freed(), world.head()), (0, head));
}

#[test]
fn a_pack_that_can_not_be_deleted_is_named_and_the_next_prune_finishes() {
    for reads in [1, 8] {
        for (failure, class) in [(Failure::Denied, Class::Denied), (Failure::Unreachable, Class::Unreachable)] {
            let (world, store, live) = crowded(reads, 30);
            let forgotten = forgotten_packs(&world);
            assert_eq!(forgotten.len(), 20);
            let bad = forgotten[9].clone();
            let name = bad.clone();
            store.fail(move |call, asked| (call == Call::Delete && *asked == name).then_some(failure));
            let error = world.try_prune(None, false, Some(minutes(0))).unwrap_err();
            assert!(error.to_string().contains(bad.as_str()) && error.class() == class, "{error}");
            world.host.opened.refresh().unwrap();
            assert_eq!(live_packs(&world), live);
            let left = forgotten_packs(&world);
            assert!(left.contains(&bad) && left.len() < 20, "{reads} at once: {} are left", left.len());

            // As long as that lasts, nothing else comes of it; what is lost by then stays lost, and no more.
            let again = world.try_prune(None, false, Some(minutes(0))).unwrap_err();
            assert!(again.to_string().contains(bad.as_str()), "{again}");
            assert_eq!(live_packs(&world), live);

            store.calm();
            let left = forgotten_packs(&world).len() as u64;
            let report = world.prune(None, false);
            assert_eq!((report.orphans.objects, report.deleted.objects), (left, left), "{reads} at once");
            assert_eq!((world.packs(), live_packs(&world)), (live, live));
            is_done(&world, None);
        }
    }
}

#[test]
fn wal_that_can_not_be_deleted_is_named_and_the_next_prune_finishes() {
    for reads in [1, 8] {
        for (failure, class) in [(Failure::Denied, Class::Denied), (Failure::Unreachable, Class::Unreachable)] {
            let (world, store, _) = crowded(reads, 1);
            let archive = Fake::new(&world.store, 0..30);
            world.snapshot("last", 25, 99, &[]);
            let first = world.host.opened.view().fold.commits.keys().next().copied().unwrap();
            world.forget(first, false);
            let bad = Fake::object(11);
            let name = bad.clone();
            store.fail(move |call, asked| (call == Call::Delete && *asked == name).then_some(failure));
            let error = world.try_prune(Some(&archive), false, Some(minutes(0))).unwrap_err();
            assert!(error.to_string().contains(bad.as_str()) && error.class() == class, "{error}");
            let there = archive.there();
            assert!(there.contains(&11) && (25..30).all(|no| there.contains(&no)) && there.len() < 30, "{there:?}");

            store.calm();
            let report = world.prune(Some(&archive), false);
            assert_eq!(report.wal[&(shop(), TimelineId(1))].amount.objects, there.len() as u64 - 5, "{reads} at once");
            assert_eq!(archive.there(), (25..30).collect::<Vec<_>>());
            is_done(&world, Some(&archive));
        }
    }
}

/// A deletion whose answer was lost has happened: the next prune doesn't stumble over it.
#[test]
fn a_deletion_whose_answer_was_lost_is_no_trouble() {
    let (world, store, live) = crowded(8, 12);
    let bad = forgotten_packs(&world)[3].clone();
    let (name, inner) = (bad.clone(), Arc::clone(&world.store));
    store.fail(move |call, asked| {
        let lost = call == Call::Delete && *asked == name;
        if lost {
            inner.delete(asked).unwrap();
        }
        lost.then_some(Failure::Unreachable)
    });
    let error = world.try_prune(None, false, Some(minutes(0))).unwrap_err();
    assert!(error.to_string().contains(bad.as_str()), "{error}");
    store.calm();
    world.prune(None, false);
    assert_eq!((world.packs(), live_packs(&world)), (live, live));
    is_done(&world, None);
}

/// A name of a listing that came damaged is no leftover: nothing is condemned for it, and nothing is said to be deleted.
#[test]
fn a_name_that_came_damaged_is_no_orphan() {
    let (world, store, live) = crowded(1, 4);
    world.prune(None, false);
    is_done(&world, None);
    for name in world.store.list_sorted(Some(&ObjectName::new("pack").unwrap())).unwrap().into_iter().map(|l| l.name) {
        for other in Troubled::flips(&name).into_iter().step_by(5) {
            store.list_once_as(name.clone(), other.clone());
            let head = world.head();
            let report = world.prune(None, false);
            let case = format!("{name} is listed as {other:?}");
            assert_eq!(
                (report.orphans, report.deleted, report.warnings.len(), world.head()),
                (Amount::default(), Amount::default(), 0, head),
                "{case}"
            );
            assert_eq!((world.packs(), live_packs(&world)), (live, live), "{case}");
        }
    }
    // What is left over is found all the same, by a listing that hides something else.
    let (_, number) = world.snapshot("late", 20, 50, &[]);
    put(&world.store, &listing::object(SessionId([0xcc; 16]), PackId([9; 16]), Hash32([9; 32])), 700);
    let hidden = forgotten_packs(&world)[0].clone();
    store.list_once_as(hidden, None);
    assert_eq!(world.prune(None, false).deleted.objects, 0);
    assert_eq!(world.prune(None, false).deleted, Amount { objects: 1, bytes: 700 });
    world.forget(number, false);
    assert_eq!(world.prune(None, false).deleted.objects, 1);
}
