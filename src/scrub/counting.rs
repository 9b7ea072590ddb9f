//! A store that counts what is read of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::store::{Backend, Covered, Create, Listed, Locks, ObjectName, Pace, Requests, SessionTag, Start, StoreError, Version};

/// See the module.
pub struct Counting {
    inner: Arc<dyn Backend>,
    read: AtomicU64,
}

impl Counting {
    /// Nothing was read yet.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Counting { inner, read: AtomicU64::new(0) }
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: Result<Vec<u8>, StoreError>) -> Result<Vec<u8>, StoreError> {
        if let Ok(bytes) = &bytes {
            self.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        bytes
    }
}

impl Backend for Counting {
    fn create(&self, name: &ObjectName, parts: &[&[u8]], session: &SessionTag) -> Result<Create, StoreError> {
        self.inner.create(name, parts, session)
    }

    fn read(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError> {
        self.count(self.inner.read(name, max))
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.count(self.inner.read_range(name, offset, len))
    }

    fn read_start(&self, name: &ObjectName, most: usize) -> Result<Start, StoreError> {
        let start = self.inner.read_start(name, most)?;
        self.read.fetch_add(start.bytes.len() as u64, Ordering::Relaxed);
        Ok(start)
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.inner.size(name)
    }

    fn list(&self, folder: Option<&ObjectName>, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.inner.list(folder, each)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.inner.delete(name)
    }

    fn settle_deletions(&self, folder: &ObjectName) -> Result<(), StoreError> {
        self.inner.settle_deletions(folder)
    }

    fn age(&self, name: &ObjectName, session: &SessionTag) -> Result<Option<Duration>, StoreError> {
        self.inner.age(name, session)
    }

    fn prove(&self, session: &SessionTag) -> Result<Vec<String>, StoreError> {
        self.inner.prove(session)
    }

    fn prove_at(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), StoreError> {
        self.inner.prove_at(name, bytes)
    }

    fn versions(&self, name: &ObjectName) -> Result<Vec<Version>, StoreError> {
        self.inner.versions(name)
    }

    fn rereads(&self) -> bool {
        self.inner.rereads()
    }

    fn durable_once_read(&self) -> bool {
        self.inner.durable_once_read()
    }

    fn covered(&self, folder: &ObjectName) -> Result<Vec<Covered>, StoreError> {
        self.inner.covered(folder)
    }

    fn choose(&self, name: &ObjectName, version: Option<&Version>) {
        self.inner.choose(name, version);
    }

    fn chosen(&self) -> Vec<ObjectName> {
        self.inner.chosen()
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.inner.locks()
    }

    fn leftovers(&self) -> Result<Vec<(SessionTag, PathBuf)>, StoreError> {
        self.inner.leftovers()
    }

    fn remove_leftovers(&self, of: &SessionTag) -> Result<usize, StoreError> {
        self.inner.remove_leftovers(of)
    }

    fn remove_empty_pack_folders(&self, may_go: &dyn Fn(&str) -> bool) -> Result<usize, StoreError> {
        self.inner.remove_empty_pack_folders(may_go)
    }

    fn folder(&self) -> Option<&Path> {
        self.inner.folder()
    }

    fn pace(&self) -> Pace {
        self.inner.pace()
    }

    fn requests(&self) -> Option<Requests> {
        self.inner.requests()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
