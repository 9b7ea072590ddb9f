//! A backend in memory, for the tests of the layers above: honest unless it is told to be otherwise.

#![allow(clippy::unwrap_used)]

use super::{Backend, Covered, Create, Listed, ObjectName, RequestKind, Requests, SessionTag, StoreError, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// See the module.
#[derive(Default)]
pub(crate) struct MemoryStore {
    objects: Mutex<BTreeMap<ObjectName, Vec<u8>>>,
    unreachable: AtomicBool,
    ages: Mutex<BTreeMap<ObjectName, Duration>>,
    unsettled: Mutex<BTreeSet<ObjectName>>,
    /// Every content that an object has had, if they are kept; and which of them is read.
    kept: Option<Mutex<BTreeMap<ObjectName, Vec<Vec<u8>>>>>,
    chosen: Mutex<BTreeMap<ObjectName, usize>>,
    /// What was asked of it, if it counts that as a service does.
    asked: Option<Mutex<Requests>>,
}

impl MemoryStore {
    fn objects(&self) -> Result<MutexGuard<'_, BTreeMap<ObjectName, Vec<u8>>>, StoreError> {
        if self.unreachable.load(Ordering::SeqCst) {
            return Err(StoreError::Unreachable { what: self.describe(), source: io::Error::from(io::ErrorKind::TimedOut) });
        }
        Ok(self.objects.lock().unwrap())
    }

    /// One that keeps what is overwritten and deleted.
    #[allow(dead_code, reason = "for the layers above")]
    pub fn with_versions() -> Self {
        MemoryStore { kept: Some(Mutex::default()), ..MemoryStore::default() }
    }

    /// One that counts what it is asked, as a service that wants to be paid for it.
    #[allow(dead_code, reason = "for the layers above")]
    pub fn paid() -> Self {
        MemoryStore { asked: Some(Mutex::default()), ..MemoryStore::default() }
    }

    fn ask(&self, kind: RequestKind, sent: usize) {
        if let Some(asked) = &self.asked {
            let mut asked = asked.lock().unwrap();
            asked.by_kind[kind as usize] += 1;
            asked.sent += sent as u64;
        }
    }

    /// Puts an object over whatever has the name, behind everybody's back.
    #[allow(dead_code, reason = "for the layers above")]
    pub fn put_over(&self, name: &ObjectName, bytes: &[u8]) {
        self.objects.lock().unwrap().insert(name.clone(), bytes.to_vec());
        self.keep(name, bytes);
    }

    fn keep(&self, name: &ObjectName, bytes: &[u8]) {
        if let Some(kept) = &self.kept {
            kept.lock().unwrap().entry(name.clone()).or_default().push(bytes.to_vec());
        }
    }

    fn get<T>(&self, name: &ObjectName, then: impl FnOnce(&[u8]) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.ask(RequestKind::Get, 0);
        if let (Some(kept), Some(chosen)) = (&self.kept, self.chosen.lock().unwrap().get(name)) {
            return then(&kept.lock().unwrap()[name][*chosen]);
        }
        match self.objects()?.get(name) {
            Some(bytes) => then(bytes),
            None => Err(StoreError::Absent { store: self.describe(), name: name.clone() }),
        }
    }

    /// From now on nothing is answered, or all is again.
    #[allow(dead_code, reason = "for the layers above")]
    pub fn set_unreachable(&self, unreachable: bool) {
        self.unreachable.store(unreachable, Ordering::SeqCst);
    }

    /// What was deleted, and may be there again after a crash.
    #[allow(dead_code, reason = "for the layers above")]
    pub fn unsettled(&self) -> Vec<ObjectName> {
        self.unsettled.lock().unwrap().iter().cloned().collect()
    }

    /// Lets an object be so old; of others nothing is said.
    #[allow(dead_code, reason = "for the layers above")]
    pub fn set_age(&self, name: &ObjectName, age: Duration) {
        self.ages.lock().unwrap().insert(name.clone(), age);
    }

    /// Changes an object behind everybody's back; `false` if it isn't there.
    #[allow(dead_code, reason = "for the layers above")]
    pub fn tamper(&self, name: &ObjectName, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.objects.lock().unwrap().get_mut(name).map(change).is_some()
    }
}

impl Backend for MemoryStore {
    fn create(&self, name: &ObjectName, parts: &[&[u8]], _session: &SessionTag) -> Result<Create, StoreError> {
        let bytes = parts.concat();
        self.ask(RequestKind::Put, bytes.len());
        let mut objects = self.objects()?;
        match objects.get(name) {
            Some(there) if *there == bytes => Ok(Create::Same),
            Some(_) => Ok(Create::Other),
            None => {
                self.keep(name, &bytes);
                objects.insert(name.clone(), bytes);
                Ok(Create::Created)
            }
        }
    }

    fn read(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError> {
        self.get(name, |bytes| match bytes.len() as u64 {
            size if size > max => Err(StoreError::TooLarge { name: name.clone(), size, max }),
            _ => Ok(bytes.to_vec()),
        })
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.get(name, |bytes| {
            let short = || StoreError::Short { name: name.clone(), offset, len, size: bytes.len() as u64 };
            let start = usize::try_from(offset).map_err(|_| short())?;
            let end = start.checked_add(len).ok_or_else(short)?;
            bytes.get(start..end).map(<[u8]>::to_vec).ok_or_else(short)
        })
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.get(name, |bytes| Ok(bytes.len() as u64))
    }

    fn list(&self, folder: Option<&ObjectName>, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.ask(RequestKind::List, 0);
        let below =
            |name: &ObjectName| folder.is_none_or(|f| name.as_str().strip_prefix(f.as_str()).is_some_and(|rest| rest.starts_with('/')));
        let all: Vec<Listed> = self
            .objects()?
            .iter()
            .filter(|(name, _)| below(name))
            .map(|(name, bytes)| Listed { name: name.clone(), size: bytes.len() as u64 })
            .collect();
        all.into_iter().try_for_each(each)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.ask(RequestKind::Delete, 0);
        if self.objects()?.remove(name).is_some() {
            self.unsettled.lock().unwrap().insert(name.clone());
        }
        Ok(())
    }

    fn settle_deletions(&self, folder: &ObjectName) -> Result<(), StoreError> {
        self.unsettled.lock().unwrap().retain(|name| name.as_str().rsplit_once('/').is_none_or(|(of, _)| of != folder.as_str()));
        Ok(())
    }

    fn age(&self, name: &ObjectName, _session: &SessionTag) -> Result<Option<Duration>, StoreError> {
        self.get(name, |_| Ok(self.ages.lock().unwrap().get(name).copied()))
    }

    fn rereads(&self) -> bool {
        self.kept.is_some()
    }

    fn durable_once_read(&self) -> bool {
        self.asked.is_some()
    }

    fn requests(&self) -> Option<Requests> {
        self.asked.as_ref().map(|asked| *asked.lock().unwrap())
    }

    fn versions(&self, name: &ObjectName) -> Result<Vec<Version>, StoreError> {
        let Some(kept) = &self.kept else { return Ok(Vec::new()) };
        let count = kept.lock().unwrap().get(name).map_or(0, Vec::len);
        Ok((0..count).map(|number| Version::new(number.to_string())).collect())
    }

    fn covered(&self, folder: &ObjectName) -> Result<Vec<Covered>, StoreError> {
        let Some(kept) = &self.kept else { return Ok(Vec::new()) };
        let (kept, objects) = (kept.lock().unwrap(), self.objects()?);
        let below = kept.iter().filter(|(name, _)| name.as_str().starts_with(&format!("{folder}/")));
        let covered = below.filter(|(name, all)| all.len() > 1 || !objects.contains_key(*name));
        let oldest = |(name, all): (&ObjectName, &Vec<Vec<u8>>)| Covered {
            name: name.clone(),
            oldest: Version::new("0"),
            size: all[0].len() as u64,
            since: 0,
            deleted: !objects.contains_key(name),
        };
        Ok(covered.map(oldest).collect())
    }

    fn choose(&self, name: &ObjectName, version: Option<&Version>) {
        let mut chosen = self.chosen.lock().unwrap();
        match version {
            Some(version) => _ = chosen.insert(name.clone(), version.id().parse().unwrap()),
            None => _ = chosen.remove(name),
        }
    }

    fn chosen(&self) -> Vec<ObjectName> {
        self.chosen.lock().unwrap().keys().cloned().collect()
    }

    fn prove(&self, _: &SessionTag) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    fn describe(&self) -> String {
        "the repository in memory".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::LocalStore;
    use super::*;
    use proptest::prelude::*;

    fn outcome<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
        match result {
            Ok(value) => format!("{value:?}"),
            Err(StoreError::Absent { .. }) => "absent".to_owned(),
            Err(StoreError::TooLarge { .. }) => "too large".to_owned(),
            Err(StoreError::Short { .. }) => "short".to_owned(),
            Err(e) => panic!("{e}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// The two backends can't be told apart.
        #[test]
        fn memory_behaves_as_a_directory(calls in prop::collection::vec((0u8..6, 0usize..4, 0u64..6, 0usize..6), 1..40)) {
            let scratch = tempfile::tempdir().unwrap();
            let local = LocalStore::create(scratch.path()).unwrap();
            let memory = MemoryStore::default();
            let tag = SessionTag::new("test").unwrap();
            let names = ["log/0", "log/1", "pack/s/a", "pgcairn"].map(|n| ObjectName::new(n).unwrap());
            let folder = ObjectName::new("log").unwrap();
            for (call, name, number, len) in calls {
                let name = &names[name];
                let both = |f: &dyn Fn(&dyn Backend) -> String| (f(&local), f(&memory));
                let (a, b) = match call {
                    0 => both(&|s| outcome(s.create(name, &[&vec![b'x'; len], b"y"], &tag))),
                    1 => both(&|s| outcome(s.read(name, number))),
                    2 => both(&|s| outcome(s.read_range(name, number, len))),
                    3 => both(&|s| outcome(s.size(name))),
                    4 => both(&|s| outcome(s.delete(name))),
                    _ => both(&|s| outcome(s.list_sorted((len > 2).then_some(&folder)))),
                };
                prop_assert_eq!(a, b);
            }
        }
    }
}
