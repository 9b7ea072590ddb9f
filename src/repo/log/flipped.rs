//! Tests: bits that are flipped on the way from the store.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::testing::*;
use super::*;

/// A store from which each object comes with a wrong bit the first time.
struct Flipping<'a> {
    inner: &'a MemoryStore,
    seen: Mutex<BTreeSet<String>>,
}

impl LogStore for Flipping<'_> {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreFailure> {
        self.inner.create(name, bytes)
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        let mut found = self.inner.read(name, limit)?;
        if name != "log/0"
            && self.seen.lock().unwrap().insert(name.to_owned())
            && let Some(bytes) = &mut found
        {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        Ok(found)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        self.inner.list(prefix)
    }
}

#[test]
fn what_is_appended_behind_an_entry_that_came_wrong_counts() {
    let (scene, mut view) = Scene::new();
    scene.snapshot(&mut view, "s1", 1);
    scene.append(&mut view, evidence("the last one"));
    let flipping = Flipping { inner: &scene.store, seen: Mutex::default() };
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
    let fresh = Flipping { inner: &scene.store, seen: Mutex::default() };
    assert_eq!(log_in(&fresh, &scene.owner).resume(&kept).unwrap().unwrap().newest, head);
}
