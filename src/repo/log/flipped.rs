//! Tests: bits that are flipped on the way from the store.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::testing::*;
use super::*;

/// A store from which each object comes with a wrong bit the first time, and so does the first listing.
struct Flipping<'a> {
    inner: &'a MemoryStore,
    seen: Mutex<BTreeSet<String>>,
    /// Of the last character of a name in a listing.
    bit: u8,
}

impl LogStore for Flipping<'_> {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreFailure> {
        self.inner.create(name, bytes)
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        let mut found = self.inner.read(name, limit)?;
        if self.seen.lock().unwrap().insert(name.to_owned())
            && let Some(bytes) = &mut found
        {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        Ok(found)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        let mut names = self.inner.list(prefix)?;
        if self.seen.lock().unwrap().insert(prefix.to_owned()) {
            let middle = names.len() / 2;
            let last = names[middle].pop().unwrap();
            names[middle].push(char::from(last as u8 ^ self.bit));
        }
        Ok(names)
    }
}

#[test]
fn what_is_appended_behind_an_entry_that_came_wrong_counts() {
    let (scene, mut view) = Scene::new();
    scene.snapshot(&mut view, "s1", 1);
    scene.append(&mut view, evidence("the last one"));
    let flipping = Flipping { inner: &scene.store, seen: Mutex::default(), bit: 0x40 };
    let log = log_in(&flipping, &scene.owner);
    let mut read = log.read().unwrap();
    assert_eq!((&read.fold, read.newest), (&view.fold, view.newest));
    assert!(read.is_sound() && read.fold.alarms.is_empty());

    // One more by another host, which comes wrong, too, and one behind it.
    scene.append(&mut view, evidence("by another"));
    let head = log.append(&mut read, &host(), &evidence("behind it")).unwrap();
    let all = scene.read();
    assert_eq!((all.newest, head.number), (head, view.newest.number + 1), "once");
    assert!(all.is_sound() && all.fold.alarms.is_empty(), "{:?}", all.fold.alarms);

    let kept = log.keep(&read).unwrap();
    let fresh = Flipping { inner: &scene.store, seen: Mutex::default(), bit: 0x40 };
    assert_eq!(log_in(&fresh, &scene.owner).resume(&kept).unwrap().unwrap().newest, head);
}

#[test]
fn a_name_that_came_wrong_in_a_listing_is_no_hole() {
    let (scene, mut view) = Scene::new();
    for what in ["one", "two", "three", "four", "five"] {
        scene.append(&mut view, evidence(what));
    }
    // No number, one that is there, one behind the end.
    for bit in [0x40, 0x01, 0x08] {
        let flipping = Flipping { inner: &scene.store, seen: Mutex::default(), bit };
        let read = log_in(&flipping, &scene.owner).read().unwrap();
        assert_eq!((&read.fold, read.newest), (&view.fold, view.newest), "{bit}");
        assert!(read.is_sound(), "{bit}");
    }
}
