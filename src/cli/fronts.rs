//! Fronts of WAL objects, kept in the catalog: what a look at the archive would otherwise read of every segment again.
//!
//! One blob holds the fronts of one folder of the archive (256 segments of 16 MiB), so that a look opens the catalog a few
//! times and not once a segment. What comes out is judged like what comes out of the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::archive::FrontCache;
use crate::host::access::Opened;
use crate::host::cache::Cache;
use crate::host::cache::catalog::{Catalog, Kind};
use crate::repo::bytes::{Malformed, Reader, Writer};
use crate::store::ObjectName;

/// The kind of these blobs.
const FRONTS: Kind = 1;
/// Fronts longer than this are read from the store each time.
const LONGEST: usize = 64 << 10;

/// The fronts of one folder: by the object's name, its size and the bytes.
type Folder = BTreeMap<String, (u64, Vec<u8>)>;

/// The catalog as the archive takes it. What was put is written when it is dropped.
pub(super) struct CatalogFronts {
    catalog: Option<Catalog>,
    folders: Mutex<HashMap<String, Folder>>,
    changed: Mutex<BTreeSet<String>>,
}

impl CatalogFronts {
    /// Of this host's cache for the repository; without one, nothing is kept.
    pub(super) fn of(opened: &Opened) -> Self {
        let cache = opened.cache_folder.as_ref().and_then(|c| Cache::of(c, opened.format.repository));
        CatalogFronts { catalog: cache.map(|c| c.catalog()), folders: Mutex::default(), changed: Mutex::default() }
    }

    /// The object is no longer there, or is to be looked at anew: another one may come under its name.
    pub(super) fn forget(&self, object: &ObjectName) {
        let (folder, name) = split(object);
        if self.with(folder, |kept| kept.remove(name)).flatten().is_some() {
            self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
        }
    }

    fn with<T>(&self, folder: &str, work: impl FnOnce(&mut Folder) -> T) -> Option<T> {
        let catalog = self.catalog.as_ref()?;
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = folders.entry(folder.to_owned()).or_insert_with(|| {
            let blob = catalog.get(FRONTS, &key(folder)).ok().flatten().unwrap_or_default();
            decode(&blob).unwrap_or_default()
        });
        Some(work(kept))
    }
}

fn key(folder: &str) -> [u8; 32] {
    *blake3::hash(folder.as_bytes()).as_bytes()
}

/// Folder and last part of a name.
fn split(object: &ObjectName) -> (&str, &str) {
    let name = object.as_str();
    name.rsplit_once('/').unwrap_or(("", name))
}

fn encode(folder: &Folder) -> Vec<u8> {
    let mut out = Writer::default();
    out.u32(folder.len() as u32);
    for (name, (size, front)) in folder {
        out.u16(name.len() as u16).bytes(name.as_bytes()).u64(*size).u32(front.len() as u32).bytes(front);
    }
    out.0
}

fn decode(blob: &[u8]) -> Result<Folder, Malformed> {
    let mut from = Reader::new(blob);
    let count = from.u32()? as usize;
    let count = from.count(count, 14)?;
    let mut folder = Folder::new();
    for _ in 0..count {
        let len = from.u16()?;
        let name = String::from_utf8_lossy(from.bytes(len.into())?).into_owned();
        let (size, len) = (from.u64()?, from.u32()?);
        folder.insert(name, (size, from.bytes(len as usize)?.to_vec()));
    }
    Ok(folder)
}

impl FrontCache for CatalogFronts {
    fn get(&self, object: &ObjectName, size: u64) -> Option<Vec<u8>> {
        let (folder, name) = split(object);
        self.with(folder, |kept| kept.get(name).filter(|(s, _)| *s == size).map(|(_, front)| front.clone())).flatten()
    }

    fn put(&self, object: &ObjectName, size: u64, front: &[u8]) {
        let (folder, name) = split(object);
        if front.len() <= LONGEST && self.with(folder, |kept| kept.insert(name.to_owned(), (size, front.to_vec()))).is_some() {
            self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
        }
    }
}

impl Drop for CatalogFronts {
    fn drop(&mut self) {
        let Some(catalog) = &self.catalog else { return };
        let folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let blobs: Vec<([u8; 32], Vec<u8>)> = changed.iter().filter_map(|name| Some((key(name), encode(folders.get(name)?)))).collect();
        let blobs: Vec<(Kind, [u8; 32], &[u8])> = blobs.iter().map(|(key, blob)| (FRONTS, *key, blob.as_slice())).collect();
        if !blobs.is_empty() {
            // A busy catalog keeps nothing this time.
            let _ = catalog.put_many(&blobs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn folders_survive(folder in prop::collection::btree_map("[A-Z0-9.]{1,30}", (any::<u64>(), prop::collection::vec(any::<u8>(), 0..50)), 0..20)) {
            prop_assert_eq!(decode(&encode(&folder)), Ok(folder));
        }

        #[test]
        fn any_blob_is_read_without_panic(blob: Vec<u8>) {
            let _ = decode(&blob);
        }
    }

    #[test]
    fn what_was_put_is_there_in_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let fronts = || CatalogFronts { catalog: Some(Catalog::at(folder.path())), folders: Mutex::default(), changed: Mutex::default() };
        let object: ObjectName = "wal/ab/7/0000000100000000/000000010000000000000003".parse().unwrap();
        assert_eq!(fronts().get(&object, 9), None);
        fronts().put(&object, 9, b"front");
        assert_eq!(fronts().get(&object, 9), Some(b"front".to_vec()));
        assert_eq!(fronts().get(&object, 8), None, "another object of that name");
        fronts().forget(&object);
        assert_eq!(fronts().get(&object, 9), None);
    }
}
