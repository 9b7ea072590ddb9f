//! What a new snapshot needs is locked against deletion for as many days as the snapshot itself.
//!
//! Whatever is stored is locked with the request that stores it, for [`LockSpan::fresh`]. What was stored long ago and is
//! needed still has its lock prolonged when that ends before the new snapshot's: each object once in a
//! quarter of that time, so that a daily backup prolongs a few of all. What is locked until when is remembered in the cache; where it isn't
//! known the store is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::opened::Opened;
use crate::host::HostError;
use crate::host::cache_file;
use crate::repo::log::{PackFacts, entry_name};
use crate::repo::pack::pack_name;
use crate::repo::{PackRef, RepoError, format};
use crate::store::{Backend, LockSpan, Locks, ObjectName, StoreError, at_once, list_twice};
use crate::units::{Explain, Progress, Timestamp};

/// Requests at once.
const AT_ONCE: usize = 16;

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Locked {
    /// Objects that the snapshot needs.
    pub needed: usize,
    /// Those of them whose lock was prolonged.
    pub prolonged: usize,
    /// Those that are not locked for long enough.
    pub failed: usize,
    /// Why not, of one of them.
    pub why: Option<String>,
    /// Objects of which an older version was locked, since something lies over it, or they were deleted.
    pub covered: Vec<ObjectName>,
}

/// Locks what the snapshot of the COMMIT with this number needs, `wal` included; `None` where no locks are configured.
///
/// # Errors
/// If it can't be said what it needs: the store can't be listed. Not for an object that can't be locked.
pub fn lock_snapshot(opened: &Opened, commit: u64, wal: Vec<ObjectName>, progress: &dyn Progress) -> Result<Option<Locked>, HostError> {
    let Some(locks) = opened.backend.locks() else { return Ok(None) };
    let now = u64::try_from(Timestamp::now().0 / 1_000_000).unwrap_or(0);
    let span = LockSpan::of(locks.days());
    let (least, until) = (now.saturating_add(span.least), now.saturating_add(span.fresh));
    let mut known = read_known(known_path(opened).as_ref());
    known.extend(locks.take_stored());
    let needed = needed(opened, commit, wal)?;
    known.retain(|name, _| needed.contains(name));
    let due: Vec<&ObjectName> = needed.iter().filter(|name| known.get(*name).is_none_or(|until| *until < least)).collect();
    progress.phase("locking", None);
    let mut locked = Locked { needed: needed.len(), covered: dig(opened, &due)?, ..Locked::default() };
    let work = Work { locks, known: &known, least, until };
    let mut outcomes = Vec::with_capacity(due.len());
    at_once(&due, AT_ONCE, |name| work.one(name), &mut |at, outcome| {
        outcomes.push((due.get(at).map(|name| (*name).clone()), outcome));
        Ok::<_, HostError>(())
    })?;
    for (name, outcome) in outcomes {
        match outcome {
            Ok((until, prolonged)) => {
                locked.prolonged += usize::from(prolonged);
                known.extend(name.map(|name| (name, until)));
            }
            // Not there: WAL that is still awaited; of what else is missing restore and verify tell.
            Err(e) if e.is_absent() => {}
            Err(e) => {
                locked.failed += 1;
                locked.why.get_or_insert(e.to_string());
            }
        }
    }
    write_known(known_path(opened), &known);
    Ok(Some(locked))
}

/// Until when an object is locked now, and was that done here?
type Outcome = Result<(u64, bool), StoreError>;

/// What is locked already is not looked at again: all that is due.
struct Work<'a> {
    locks: &'a dyn Locks,
    known: &'a BTreeMap<ObjectName, u64>,
    least: u64,
    until: u64,
}

impl Work<'_> {
    fn one(&self, name: &ObjectName) -> Outcome {
        let ask = || Ok::<_, StoreError>(self.locks.locked_until(name)?.filter(|until| *until >= self.least));
        if !self.known.contains_key(name)
            && let Some(until) = ask()?
        {
            return Ok((until, false));
        }
        match self.locks.lock(name, self.until) {
            Ok(()) => Ok((self.until, true)),
            Err(e) if e.is_absent() => Err(e),
            // Another host may have locked it for longer meanwhile, and no lock can be shortened.
            Err(e) => ask().ok().flatten().map(|until| (until, false)).ok_or(e),
        }
    }
}

/// Every object without which the snapshot can't be restored by a host that has nothing but a passphrase.
fn needed(opened: &Opened, commit: u64, wal: Vec<ObjectName>) -> Result<BTreeSet<ObjectName>, HostError> {
    let (newest, packs) = {
        let view = opened.view();
        let commit = view.fold.commits.get(&commit);
        let named = commit.map(|commit| opened.log().packs_named(&view.fold, commit)).transpose()?.unwrap_or_default();
        let of = |(session, id, f): (_, _, PackFacts)| PackRef { session, id, hash: f.hash, size: f.size, tail: f.tail };
        (view.newest.number, named.into_iter().map(of).collect::<Vec<_>>())
    };
    let mut names: BTreeSet<ObjectName> = wal.into_iter().collect();
    for pack in packs {
        names.insert(pack_name(pack.session, &pack).map_err(named)?);
    }
    let name = |text: String| ObjectName::new(text).map_err(StoreError::from);
    names.insert(name(format::NAME.to_owned())?);
    for number in 0..=newest {
        names.insert(name(entry_name(number))?);
    }
    names.extend(keys_and_bodies(opened.backend.as_ref())?);
    Ok(names)
}

/// All slots, and all bodies of the log. Listed twice: what came under a damaged name would not be locked, and what that name
/// stands for isn't there.
fn keys_and_bodies(backend: &dyn Backend) -> Result<BTreeSet<ObjectName>, StoreError> {
    let mut names = BTreeSet::new();
    for folder in ["key", "body"] {
        names.extend(list_twice(backend, &ObjectName::new(folder)?)?.either.into_iter().map(|listed| listed.name));
    }
    Ok(names)
}

fn named(error: RepoError) -> HostError {
    match error {
        RepoError::Store(e) => e.into(),
        other => HostError::Refused { what: other.to_string(), cure: other.cure().unwrap_or_default() },
    }
}

/// A thief may have put junk over what is to be locked: what lies beneath is.
fn dig(opened: &Opened, due: &[&ObjectName]) -> Result<Vec<ObjectName>, HostError> {
    let folders: BTreeSet<&str> = due.iter().filter_map(|name| Some(name.as_str().rsplit_once('/')?.0)).collect();
    let mut dug = Vec::new();
    for folder in folders {
        let folder = ObjectName::new(folder).map_err(StoreError::from)?;
        for covered in opened.backend.covered(&folder)?.into_iter().filter(|covered| due.contains(&&covered.name)) {
            opened.backend.choose(&covered.name, Some(&covered.oldest));
            dug.push(covered.name);
        }
    }
    Ok(dug)
}

fn known_path(opened: &Opened) -> Option<PathBuf> {
    opened.cache_folder.as_ref().map(|cache| cache.join(opened.format.repository.to_string()).join("locks"))
}

/// What was remembered; nothing where that was damaged.
fn read_known(path: Option<&PathBuf>) -> BTreeMap<ObjectName, u64> {
    let Some(bytes) = path.and_then(|path| cache_file::read(path)) else { return BTreeMap::new() };
    parse_known(&bytes).unwrap_or_default()
}

fn parse_known(bytes: &[u8]) -> Option<BTreeMap<ObjectName, u64>> {
    let (sum, text) = bytes.split_first_chunk::<32>()?;
    if blake3::hash(text) != *sum {
        return None;
    }
    let line = |line: &str| {
        let (until, name) = line.split_once(' ')?;
        Some((ObjectName::new(name).ok()?, until.parse().ok()?))
    };
    std::str::from_utf8(text).ok()?.lines().map(line).collect()
}

fn write_known(path: Option<PathBuf>, known: &BTreeMap<ObjectName, u64>) {
    let Some(path) = path else { return };
    cache_file::write(&path, &known_bytes(known));
}

fn known_bytes(known: &BTreeMap<ObjectName, u64>) -> Vec<u8> {
    let text: String = known.iter().map(|(name, until)| format!("{until} {name}\n")).collect();
    [blake3::hash(text.as_bytes()).as_bytes().as_slice(), text.as_bytes()].concat()
}

impl Locked {
    /// What a person should hear of it; `None` if all is well.
    pub fn complaint(&self) -> Option<String> {
        if self.failed > 0 {
            let why = self.why.as_deref().unwrap_or_default();
            return Some(format!(
                "the snapshot is stored, and {} of {} objects that it needs are not locked for long enough: {why}; the writer's policy in \
                 docs/s3.md has what it takes",
                self.failed, self.needed
            ));
        }
        let first = self.covered.first()?;
        Some(format!(
            "something was put over {first} or it was deleted, as {} of the objects that the snapshot needs: what lies beneath was locked; \
             `pgcairn verify` tells more",
            self.covered.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Shelf {
        until: Mutex<BTreeMap<ObjectName, Option<u64>>>,
        asked: AtomicUsize,
        locked: AtomicUsize,
        refuses: bool,
    }

    impl Locks for Shelf {
        fn days(&self) -> u32 {
            10
        }

        fn bucket(&self) -> Result<crate::store::BucketLocks, StoreError> {
            Ok(crate::store::BucketLocks { versioning: true, object_lock: true })
        }

        fn take_stored(&self) -> Vec<(ObjectName, u64)> {
            Vec::new()
        }

        fn locked_until(&self, name: &ObjectName) -> Result<Option<u64>, StoreError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let found = self.until.lock().unwrap().get(name).copied();
            found.ok_or_else(|| StoreError::Absent { store: "shelf".into(), name: name.clone() })
        }

        fn lock(&self, name: &ObjectName, until: u64) -> Result<(), StoreError> {
            self.locked.fetch_add(1, Ordering::Relaxed);
            let mut all = self.until.lock().unwrap();
            match all.get_mut(name) {
                None => Err(StoreError::Absent { store: "shelf".into(), name: name.clone() }),
                Some(there) if self.refuses || there.is_some_and(|there| there > until) => {
                    Err(StoreError::Denied { what: "locking".into(), source: std::io::Error::other("403") })
                }
                Some(there) => {
                    *there = Some(until);
                    Ok(())
                }
            }
        }
    }

    #[test]
    fn only_what_ends_too_early_is_prolonged() {
        let name = |text: &str| ObjectName::new(text).unwrap();
        let names = ["log/0", "log/1", "log/2", "log/3", "log/4"].map(name);
        let shelf = Shelf::default();
        for (name, until) in names.iter().zip([None, Some(50), Some(150), Some(900)]) {
            shelf.until.lock().unwrap().insert(name.clone(), until);
        }
        let known = BTreeMap::from([(names[1].clone(), 50), (names[3].clone(), 50)]);
        let work = Work { locks: &shelf, known: &known, least: 100, until: 200 };
        let one = |at: usize| work.one(&names[at]);
        assert_eq!(one(0).unwrap(), (200, true), "not locked at all");
        assert_eq!(one(1).unwrap(), (200, true), "remembered to end early: not asked");
        assert_eq!(one(2).unwrap(), (150, false), "unknown, and long enough");
        assert_eq!(one(3).unwrap(), (900, false), "prolonged by another host");
        assert!(one(4).unwrap_err().is_absent());
        let asked = shelf.asked.load(Ordering::Relaxed);
        assert_eq!((asked, shelf.locked.load(Ordering::Relaxed)), (4, 3));
        let refusing = Shelf { refuses: true, until: Mutex::new(shelf.until.lock().unwrap().clone()), ..Shelf::default() };
        let refused = Work { locks: &refusing, least: 160, ..work };
        assert!(matches!(refused.one(&names[2]), Err(StoreError::Denied { .. })));
    }

    #[test]
    fn all_keys_and_bodies_are_locked_whatever_bit_of_a_listing_is_flipped() {
        use crate::store::memory::MemoryStore;
        use crate::store::troubled::Troubled;
        use crate::store::{Pace, SessionTag};

        let memory = std::sync::Arc::<MemoryStore>::default();
        let names = ["key/00112233", "body/0a1b", "body/0a1c"].map(|text| ObjectName::new(text).unwrap());
        for name in &names {
            let _ = memory.create(name, &[b"x"], &SessionTag::new("test").unwrap()).unwrap();
        }
        let store = Troubled::paced(memory as _, Some(Pace::OF_A_DISK));
        for name in &names {
            for other in Troubled::flips(name) {
                store.list_once_as(name.clone(), other.clone());
                let found = keys_and_bodies(store.as_ref()).unwrap();
                assert!(names.iter().all(|name| found.contains(name)), "{name} is listed as {other:?}: {found:?}");
            }
        }
    }

    #[test]
    fn what_is_not_locked_is_complained_of() {
        assert_eq!(Locked { needed: 9, prolonged: 3, ..Locked::default() }.complaint(), None);
        let failed = Locked { needed: 9, failed: 2, why: Some("403".into()), ..Locked::default() };
        assert!(failed.complaint().unwrap().contains("2 of 9 objects"));
        let covered = Locked { covered: vec![ObjectName::new("log/1").unwrap()], ..Locked::default() };
        assert!(covered.complaint().unwrap().contains("log/1"));
    }

    proptest! {
        #[test]
        fn what_is_known_survives_and_damage_is_noticed(known in prop::collection::btree_map("[a-z]{1,8}/[0-9a-f]{1,20}", any::<u64>(), 0..20), at: usize, by in 1u8..) {
            let known: BTreeMap<ObjectName, u64> = known.into_iter().map(|(name, until)| (ObjectName::new(name).unwrap(), until)).collect();
            let mut bytes = known_bytes(&known);
            prop_assert_eq!(parse_known(&bytes), Some(known));
            let at = at % bytes.len();
            bytes[at] ^= by;
            prop_assert_eq!(parse_known(&bytes), None);
        }
    }
}
