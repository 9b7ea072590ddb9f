//! A store that counts what is read of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::store::{Backend, Create, Listed, ObjectName, Pace, Requests, SessionTag, StoreError, Version};

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

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.inner.size(name)
    }

    fn list(&self, folder: Option<&ObjectName>, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.inner.list(folder, each)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.inner.delete(name)
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

    fn read_version(&self, name: &ObjectName, version: &Version, max: u64) -> Result<Vec<u8>, StoreError> {
        self.count(self.inner.read_version(name, version, max))
    }

    fn read_range_of_version(&self, name: &ObjectName, version: &Version, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.count(self.inner.read_range_of_version(name, version, offset, len))
    }

    fn leftovers(&self) -> Result<Vec<(SessionTag, PathBuf)>, StoreError> {
        self.inner.leftovers()
    }

    fn remove_leftovers(&self, of: &SessionTag) -> Result<usize, StoreError> {
        self.inner.remove_leftovers(of)
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
