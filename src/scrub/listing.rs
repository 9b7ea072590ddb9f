//! What the store lists, beside what the log says must be there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::failure::ScrubError;
use super::findings::Findings;
use crate::repo::PackRef;
use crate::repo::log::{Fold, entry_name};
use crate::repo::pack::pack_name;
use crate::store::{Backend, Listed, ObjectName, StoreError, list_twice};
use crate::units::{Cancel, Hash32, PackId, SessionId};

/// Objects, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What is stored, in few bytes an object.
#[derive(Default)]
pub(super) struct Listing {
    /// All objects.
    pub all: Tally,
    /// Key slots.
    pub slots: Vec<ObjectName>,
    /// Those that not every listing shows: names that came damaged may be among them.
    pub doubtful_slots: BTreeSet<ObjectName>,
    /// Packs, by session, id and hash: sizes.
    packs: HashMap<(SessionId, PackId, Hash32), u64>,
    /// WAL by cluster key and system identifier, as they stand in names.
    pub wal: BTreeMap<(String, String), Tally>,
    /// Names that no program of this version gives.
    pub strangers: Vec<String>,
}

impl Listing {
    pub fn read(backend: &dyn Backend, cancel: &Cancel) -> Result<Self, ScrubError> {
        let mut listing = Listing::default();
        let mut cancelled = Ok(());
        let listed = backend.list(None, &mut |listed| {
            cancelled = cancel.check();
            if cancelled.is_err() {
                return Err(crate::store::StoreError::Absent { store: String::new(), name: listed.name });
            }
            listing.take(listed);
            Ok(())
        });
        cancelled?;
        listed?;
        if backend.rereads() {
            let twice = list_twice(backend, &folder("key")?)?;
            let first: BTreeSet<ObjectName> = std::mem::take(&mut listing.slots).into_iter().collect();
            let sure = |name: &ObjectName| first.contains(name) && twice.both.iter().any(|l| l.name == *name);
            let mut all: BTreeSet<ObjectName> = twice.either.iter().map(|l| l.name.clone()).collect();
            all.extend(first.iter().cloned());
            listing.doubtful_slots = all.iter().filter(|name| !sure(name)).cloned().collect();
            listing.slots.extend(all);
        }
        listing.slots.sort();
        listing.strangers.sort();
        Ok(listing)
    }

    fn take(&mut self, listed: Listed) {
        let Listed { name, size } = listed;
        self.all.add(size);
        let parts: Vec<&str> = name.as_str().split('/').collect();
        match parts.as_slice() {
            ["pgcairn"] => {}
            ["key", _] => self.slots.push(name.clone()),
            ["log", number] if number.parse().is_ok_and(|n: u64| entry_name(n) == name.as_str()) => {}
            ["body", hash] if hash.parse::<Hash32>().is_ok() => {}
            ["pack", session, pack] => match pack_of(session, pack) {
                Some(key) => _ = self.packs.insert(key, size),
                None => self.strangers.push(name.to_string()),
            },
            ["wal", cluster, identifier, _, _] => {
                self.wal.entry(((*cluster).to_owned(), (*identifier).to_owned())).or_default().add(size);
            }
            _ => self.strangers.push(name.to_string()),
        }
    }

    /// Packs that are listed by the log, and gone or of another length: where the store keeps what was overwritten or
    /// deleted, that is looked at from now on. Slots, too, if there is no other.
    pub fn dig(&mut self, backend: &dyn Backend, fold: &Fold) -> Result<(), ScrubError> {
        let as_listed = |listing: &Self, (session, pack): (SessionId, &PackRef)| {
            listing.packs.get(&(session, pack.id, pack.hash)).is_some_and(|size| *size == pack.size)
        };
        if !backend.rereads() {
            return Ok(());
        }
        if listed_packs(fold).any(|(session, pack)| !as_listed(self, (session, &pack))) {
            for covered in backend.covered(&folder("pack")?)? {
                let parts: Vec<&str> = covered.name.as_str().split('/').collect();
                let ["pack", session, pack] = parts.as_slice() else { continue };
                let Some(key) = pack_of(session, pack) else { continue };
                let wanted = fold.pack(&key.0, &key.1).filter(|f| f.hash == key.2 && self.packs.get(&key) != Some(&f.size));
                if wanted.is_some_and(|f| f.size == covered.size) {
                    backend.choose(&covered.name, Some(&covered.oldest));
                    self.packs.insert(key, covered.size);
                }
            }
        }
        if self.slots.is_empty() {
            for covered in backend.covered(&folder("key")?)? {
                backend.choose(&covered.name, Some(&covered.oldest));
                self.slots.push(covered.name);
            }
        }
        Ok(())
    }

    /// Compares with what the log lists.
    ///
    /// A listing may be an old one, on services that promise no more: what it lacks is looked at by its name.
    pub fn compare(&mut self, backend: &dyn Backend, fold: &Fold, findings: &Findings) -> Result<Compared, ScrubError> {
        let mut compared = Compared::default();
        for (session, pack) in listed_packs(fold) {
            let reference = PackRef { session, id: pack.id, hash: pack.hash, size: pack.size, tail: pack.tail };
            let name = pack_name(session, &reference)?;
            let listed = self.packs.remove(&(session, pack.id, pack.hash));
            // A length may have come damaged as well as a name.
            let size = match listed.filter(|size| *size == pack.size).map_or_else(|| backend.size(&name), Ok) {
                Ok(size) => Some(size),
                Err(e) if e.is_absent() => None,
                Err(e) => return Err(e.into()),
            };
            match size {
                Some(size) if size == pack.size => {}
                // Its blobs may be there all the same.
                Some(size) => findings.note(name.as_str(), &format!("it has {size} bytes, and the log says {}", pack.size)),
                None => {
                    compared.missing.push(reference);
                    continue;
                }
            }
            compared.there.push(reference);
        }
        Ok(compared)
    }

    /// What is left after [`Listing::compare`], by a log that was read after the listing: whoever stored it may have begun
    /// since.
    pub fn count_rest(&self, fold: &Fold, compared: &mut Compared) {
        for ((session, pack, _), size) in &self.packs {
            if fold.pack(session, pack).is_some() {
                continue;
            }
            // An open session tells of its packs a little later.
            if fold.is_open(session) { compared.unlisted.add(*size) } else { compared.orphans.add(*size) }
        }
    }
}

/// The packs of all sessions as the log lists them.
fn listed_packs(fold: &Fold) -> impl Iterator<Item = (SessionId, PackRef)> {
    fold.sessions.iter().flat_map(|(id, session)| {
        session.packs.iter().map(move |(pack, f)| (*id, PackRef { session: *id, id: *pack, hash: f.hash, size: f.size, tail: f.tail }))
    })
}

/// What became of the packs that the log lists.
#[derive(Default)]
pub(super) struct Compared {
    /// They are there, perhaps of another size.
    pub there: Vec<PackRef>,
    /// They are not.
    pub missing: Vec<PackRef>,
    /// Packs in no list, of sessions that have ended.
    pub orphans: Tally,
    /// Packs in no list yet, of open sessions.
    pub unlisted: Tally,
}

fn folder(name: &str) -> Result<ObjectName, StoreError> {
    Ok(ObjectName::new(name)?)
}

fn pack_of(session: &str, pack: &str) -> Option<(SessionId, PackId, Hash32)> {
    let (id, hash) = pack.split_once('-')?;
    Some((session.parse().ok()?, id.parse().ok()?, hash.parse().ok()?))
}
