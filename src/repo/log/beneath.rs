//! Tests: a log over which somebody put other objects, or of which he deleted some, in a store that keeps what was there.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use proptest::prelude::*;

use super::testing::*;
use super::*;

/// What was stored first, and what lies over it now.
struct Kept {
    now: MemoryStore,
    oldest: Mutex<BTreeMap<String, Vec<u8>>>,
    dug: AtomicBool,
    digs: AtomicU32,
}

impl Kept {
    fn of(store: MemoryStore) -> Kept {
        let oldest = Mutex::new(store.objects.lock().unwrap().clone());
        Kept { now: store, oldest, dug: AtomicBool::new(false), digs: AtomicU32::new(0) }
    }
}

impl LogStore for Kept {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreFailure> {
        self.now.create(name, bytes)
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        let oldest = self.oldest.lock().unwrap().get(name).filter(|_| self.dug.load(Ordering::Relaxed)).cloned();
        if oldest.is_some() { Ok(oldest) } else { self.now.read(name, limit) }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        let mut all: std::collections::BTreeSet<String> = self.now.list(prefix)?.into_iter().collect();
        all.extend(self.oldest.lock().unwrap().keys().filter(|name| name.starts_with(prefix)).cloned());
        Ok(all.into_iter().collect())
    }

    fn dig(&self, _: &str) -> Result<bool, StoreFailure> {
        self.digs.fetch_add(1, Ordering::Relaxed);
        Ok(!self.dug.swap(true, Ordering::Relaxed))
    }

    fn fill_in(&self) {
        self.dug.store(false, Ordering::Relaxed);
    }
}

/// What a thief does to an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Done {
    Nothing,
    Junk,
    Deleted,
    /// Another entry with a signature of a host that he has the key of, behind the right predecessor.
    Signed,
}

/// A log of entries 0 to 5, two snapshots and a note.
fn scene() -> (Scene, LogView) {
    let (scene, mut view) = Scene::new();
    scene.snapshot(&mut view, "s1", 1);
    scene.snapshot(&mut view, "s2", 2);
    scene.append(&mut view, evidence("fine"));
    (scene, view)
}

fn vandalise(scene: Scene, done: &[Done]) -> Kept {
    let Scene { store, owner: public } = scene;
    let kept = Kept::of(store);
    let scene =
        Scene { store: MemoryStore { objects: Mutex::new(kept.oldest.lock().unwrap().clone()), ..MemoryStore::default() }, owner: public };
    for (number, done) in done.iter().enumerate() {
        let name = entry_name(number as u64);
        match done {
            Done::Nothing => {}
            Done::Junk => kept.now.put(&name, vec![b'x'; 200 * number]),
            Done::Deleted => drop(kept.now.remove(&name)),
            Done::Signed => {
                let before = number.checked_sub(1).map_or(Hash32([0; 32]), |n| read::hash(&scene.store.get(&entry_name(n as u64))));
                let key = if number == 0 { owner() } else { host() };
                scene.force(&key, number as u64, before, b"{}");
                let forged = scene.store.get(&name);
                scene.store.put(&name, kept.oldest.lock().unwrap()[&name].clone());
                kept.now.put(&name, forged);
            }
        }
    }
    kept
}

fn any_done() -> impl Strategy<Value = Done> {
    prop_oneof![3 => Just(Done::Nothing), 1 => Just(Done::Junk), 1 => Just(Done::Deleted), 1 => Just(Done::Signed)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_is_put_over_it_the_log_reads_as_it_was(done in prop::collection::vec(any_done(), 6), resumed: bool) {
        let (scene, view) = scene();
        // What a host can't notice who sees this for the first time.
        prop_assume!(done[..5].iter().any(|d| *d != Done::Nothing) || done[5] != Done::Signed || resumed);
        let owner = scene.owner.clone();
        let untouched = done.iter().all(|d| *d == Done::Nothing);
        let remembered = scene.log().keep(&view).unwrap();
        let kept = vandalise(scene, &done);
        let log = log_in(&kept, &owner);
        let read = if resumed { log.resume(&remembered).unwrap().unwrap() } else { log.read().unwrap() };
        prop_assert_eq!((&read.fold, read.newest), (&view.fold, view.newest));
        prop_assert!(read.is_sound() && read.fold.alarms.is_empty());
        prop_assert!(!untouched || kept.digs.load(Ordering::Relaxed) == 0, "nothing is asked for nothing");
    }
}

/// An older content that is worse than what is there is not taken: somebody has brought a rotten entry back from a copy.
#[test]
fn what_was_mended_stays_mended() {
    let (scene, view) = scene();
    let owner = scene.owner.clone();
    let rotten = vandalise(scene, &[Done::Nothing, Done::Nothing, Done::Nothing, Done::Nothing, Done::Nothing, Done::Nothing]);
    for number in [1, 3] {
        rotten.oldest.lock().unwrap().insert(entry_name(number), b"rotten".to_vec());
    }
    let log = log_in(&rotten, &owner);
    assert_eq!(log.read().unwrap().newest, view.newest);
    rotten.now.put("log/2", b"rotten, too".to_vec());
    rotten.oldest.lock().unwrap().remove("log/2");
    let read = log.read().unwrap();
    assert_eq!(read.damage, [Damage::Changed(2)]);
    assert!(!rotten.dug.load(Ordering::Relaxed), "and goes on to be read");
}
