//! A backend before another one that fails where a test wants it, and lists what a test makes of a listing (tests).

#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Backend, Covered, Create, Listed, ObjectName, Pace, Requests, SessionTag, StoreError, Version};

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Create,
    /// Of a whole object, of a range, or of its length.
    Read,
    Delete,
}

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    Unreachable,
    Denied,
    Absent,
}

impl Failure {
    fn of(self, store: &str, name: &ObjectName) -> StoreError {
        match self {
            Failure::Unreachable => {
                StoreError::Unreachable { what: format!("{name} in {store}"), source: io::Error::from(io::ErrorKind::TimedOut) }
            }
            Failure::Denied => {
                StoreError::Denied { what: format!("{name} in {store}"), source: io::Error::from(io::ErrorKind::PermissionDenied) }
            }
            Failure::Absent => StoreError::Absent { store: store.to_owned(), name: name.clone() },
        }
    }
}

type Rule = dyn Fn(Call, &ObjectName) -> Option<Failure> + Send + Sync;
type Ranges = dyn Fn(&ObjectName, u64, usize) -> Option<Failure> + Send + Sync;
type Lister = dyn Fn(usize, Option<&ObjectName>, &mut Vec<Listed>) + Send + Sync;

/// See the module.
pub(crate) struct Troubled {
    inner: Arc<dyn Backend>,
    pace: Option<Pace>,
    rule: Mutex<Arc<Rule>>,
    ranges: Mutex<Arc<Ranges>>,
    lister: Mutex<Arc<Lister>>,
    calls: Mutex<Vec<(Call, ObjectName)>>,
    lists: Mutex<Vec<Option<ObjectName>>>,
    flip: Mutex<Option<(ObjectName, usize)>>,
}

impl Troubled {
    /// Before that one, and faithful until it is told otherwise; asked as a service of such a pace, if one is named.
    pub fn paced(inner: Arc<dyn Backend>, pace: Option<Pace>) -> Arc<Troubled> {
        Arc::new(Troubled {
            inner,
            pace,
            rule: Mutex::new(Arc::new(|_, _| None)),
            ranges: Mutex::new(Arc::new(|_, _, _| None)),
            lister: Mutex::new(Arc::new(|_, _, _| {})),
            calls: Mutex::default(),
            lists: Mutex::default(),
            flip: Mutex::default(),
        })
    }

    /// From now on calls fail as this says.
    pub fn fail(&self, rule: impl Fn(Call, &ObjectName) -> Option<Failure> + Send + Sync + 'static) {
        *self.rule.lock().unwrap() = Arc::new(rule);
    }

    /// From now on readings of ranges, by offset and length, fail as this says.
    pub fn fail_ranges(&self, rule: impl Fn(&ObjectName, u64, usize) -> Option<Failure> + Send + Sync + 'static) {
        *self.ranges.lock().unwrap() = Arc::new(rule);
    }

    /// From now on what is listed is changed so; told how many listings of that folder there were since.
    pub fn list_so(&self, lister: impl Fn(usize, Option<&ObjectName>, &mut Vec<Listed>) + Send + Sync + 'static) {
        self.lists.lock().unwrap().clear();
        *self.lister.lock().unwrap() = Arc::new(lister);
    }

    /// The next listing in which the object is shows it under another name, or not at all, as one does that came damaged.
    pub fn list_once_as(&self, object: ObjectName, other: Option<ObjectName>) {
        let done = AtomicBool::new(false);
        self.list_so(move |_, folder, listed| {
            let there = listed.iter().any(|l| l.name == object);
            if there && !done.swap(true, Ordering::SeqCst) {
                // What isn't of the folder is passed over by whoever lists it.
                let below = |name: &ObjectName| folder.is_none_or(|f| name.as_str().starts_with(&format!("{f}/")));
                match other.as_ref().filter(|other| below(other)) {
                    Some(other) => listed.iter_mut().filter(|l| l.name == object).for_each(|l| l.name = other.clone()),
                    None => listed.retain(|l| l.name != object),
                }
            }
        });
    }

    /// The next reading of the whole object has this bit wrong (from the lowest of its first byte).
    pub fn read_once_flipped(&self, object: ObjectName, bit: usize) {
        *self.flip.lock().unwrap() = Some((object, bit));
    }

    /// All that a name may become by one flipped bit: names, or none.
    pub fn flips(name: &ObjectName) -> Vec<Option<ObjectName>> {
        let bytes = name.as_str().as_bytes();
        let flipped = |at: usize| {
            let mut bytes = bytes.to_vec();
            bytes[at / 8] ^= 1 << (at % 8);
            String::from_utf8(bytes).ok().and_then(|text| ObjectName::new(text).ok())
        };
        let mut all: Vec<_> = (0..bytes.len() * 8).filter_map(flipped).map(Some).collect();
        all.push(None);
        all
    }

    /// Faithful again.
    pub fn calm(&self) {
        self.fail(|_, _| None);
        self.fail_ranges(|_, _, _| None);
        self.list_so(|_, _, _| {});
    }

    /// What was asked so far, or since [`Troubled::forget`].
    pub fn asked(&self, call: Call) -> Vec<ObjectName> {
        self.calls.lock().unwrap().iter().filter(|(c, _)| *c == call).map(|(_, name)| name.clone()).collect()
    }

    pub fn forget(&self) {
        self.calls.lock().unwrap().clear();
    }

    fn call<T>(&self, call: Call, name: &ObjectName, then: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.calls.lock().unwrap().push((call, name.clone()));
        let rule = Arc::clone(&self.rule.lock().unwrap());
        match rule(call, name) {
            Some(failure) => Err(failure.of(&self.describe(), name)),
            None => then(),
        }
    }
}

impl Backend for Troubled {
    fn create(&self, name: &ObjectName, parts: &[&[u8]], session: &SessionTag) -> Result<Create, StoreError> {
        self.call(Call::Create, name, || self.inner.create(name, parts, session))
    }

    fn read(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = self.call(Call::Read, name, || self.inner.read(name, max))?;
        if let Some((_, bit)) = self.flip.lock().unwrap().take_if(|(object, _)| object == name) {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        Ok(bytes)
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let rule = Arc::clone(&self.ranges.lock().unwrap());
        match rule(name, offset, len) {
            Some(failure) => Err(failure.of(&self.describe(), name)),
            None => self.call(Call::Read, name, || self.inner.read_range(name, offset, len)),
        }
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.call(Call::Read, name, || self.inner.size(name))
    }

    fn list(&self, folder: Option<&ObjectName>, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut listed = self.inner.list_sorted(folder)?;
        let nth = {
            let mut lists = self.lists.lock().unwrap();
            lists.push(folder.cloned());
            lists.iter().filter(|of| of.as_ref() == folder).count() - 1
        };
        let lister = Arc::clone(&self.lister.lock().unwrap());
        lister(nth, folder, &mut listed);
        listed.into_iter().try_for_each(each)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.call(Call::Delete, name, || self.inner.delete(name))
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

    /// The way to it is long.
    fn rereads(&self) -> bool {
        true
    }

    fn versions(&self, name: &ObjectName) -> Result<Vec<Version>, StoreError> {
        self.inner.versions(name)
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

    fn pace(&self) -> Pace {
        self.pace.unwrap_or_else(|| self.inner.pace())
    }

    fn requests(&self) -> Option<Requests> {
        self.inner.requests()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
