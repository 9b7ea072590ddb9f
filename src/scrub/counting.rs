//! A store that counts what is read of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::{Backend, Create, Listed, ObjectName, SessionTag, StoreError};

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

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
