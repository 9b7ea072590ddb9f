//! A backend in memory that is asked as a service is (tests): how many reads there were, and how many ran at once.

#![allow(clippy::unwrap_used)]

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::memory::MemoryStore;
use super::{Backend, Create, Listed, ObjectName, Pace, SessionTag, StoreError};

/// See the module.
pub(crate) struct Observed {
    inner: MemoryStore,
    pace: Pace,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: usize,
    seen: Seen,
    /// Reads and writes of at least so many bytes wait until so many run.
    hold: Option<(usize, usize)>,
}

/// What was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seen {
    /// Reads, of whole objects and of ranges.
    pub reads: usize,
    /// Bytes that they brought.
    pub bytes: u64,
    /// The most requests that ran at once.
    pub at_once: usize,
}

impl Observed {
    pub fn new(pace: Pace) -> Self {
        Observed { inner: MemoryStore::default(), pace, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Forgets what was seen. From now on requests for at least `bytes` wait until `count` of them run at once; if so many
    /// never come, for half a minute.
    pub fn hold(&self, bytes: usize, count: usize) {
        let mut state = self.state.lock().unwrap();
        (state.hold, state.seen) = (Some((bytes, count)), Seen::default());
    }

    pub fn seen(&self) -> Seen {
        self.state.lock().unwrap().seen
    }

    fn request<T>(&self, bytes: usize, call: impl FnOnce() -> T) -> T {
        let mut state = self.state.lock().unwrap();
        match state.hold {
            Some((least, count)) if bytes >= least => {
                state.running += 1;
                state.seen.at_once = state.seen.at_once.max(state.running);
                self.changed.notify_all();
                let enough = |state: &mut State| state.seen.at_once < count;
                state = self.changed.wait_timeout_while(state, Duration::from_secs(30), enough).unwrap().0;
                state.running -= 1;
            }
            _ => {}
        }
        drop(state);
        call()
    }

    fn count(&self, bytes: Result<Vec<u8>, StoreError>) -> Result<Vec<u8>, StoreError> {
        let seen = &mut self.state.lock().unwrap().seen;
        seen.reads += 1;
        seen.bytes += bytes.as_ref().map_or(0, |b| b.len() as u64);
        bytes
    }
}

impl Backend for Observed {
    fn create(&self, name: &ObjectName, parts: &[&[u8]], session: &SessionTag) -> Result<Create, StoreError> {
        self.request(parts.iter().map(|p| p.len()).sum(), || self.inner.create(name, parts, session))
    }

    fn read(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError> {
        self.count(self.request(0, || self.inner.read(name, max)))
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.count(self.request(len, || self.inner.read_range(name, offset, len)))
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.inner.size(name)
    }

    fn list(&self, folder: Option<&ObjectName>, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.inner.list(folder, each)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.request(0, || self.inner.delete(name))
    }

    fn prove(&self, session: &SessionTag) -> Result<Vec<String>, StoreError> {
        self.inner.prove(session)
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
