//! The log over a backend, sealed under the table key.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::crypt::{CryptError, Sealing, seal};
use crate::repo::log::{self, LogStore, SealFailure, Sealed, Sealer, StoreFailure};
use crate::store::{Backend, Covered, Create, ObjectName, SessionTag, StoreError, seen_through};
use crate::units::Hash32;

/// A backend as the log sees it.
pub(super) struct BackendLog {
    backend: Arc<dyn Backend>,
    tag: SessionTag,
    /// Objects that are read from beneath what was put over them.
    dug: Mutex<BTreeSet<ObjectName>>,
    /// What the last listing showed besides.
    covered: Mutex<Option<Vec<Covered>>>,
    /// Entries of a log that is far away, as they were read: the lists that a reader passed over lie in them.
    lately: Mutex<Lately>,
}

/// The newest that were read, at most [`Lately::MOST`] bytes.
#[derive(Default)]
struct Lately {
    entries: HashMap<String, Vec<u8>>,
    bytes: usize,
}

impl Lately {
    const MOST: usize = 2 << 20;

    fn keep(&mut self, name: &str, bytes: &[u8]) {
        if self.bytes + bytes.len() > Self::MOST {
            *self = Lately::default();
        }
        self.bytes += bytes.len();
        self.entries.insert(name.to_owned(), bytes.to_vec());
    }
}

impl BackendLog {
    pub(super) fn new(backend: Arc<dyn Backend>, tag: SessionTag) -> Self {
        BackendLog { backend, tag, dug: Mutex::default(), covered: Mutex::default(), lately: Mutex::default() }
    }

    fn dug(&self) -> MutexGuard<'_, BTreeSet<ObjectName>> {
        self.dug.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_object(&self, name: &ObjectName, limit: usize) -> Result<Option<Vec<u8>>, StoreError> {
        match self.backend.read(name, limit as u64) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::TooLarge { .. }) => self.backend.read_range(name, 0, limit + 1).map(Some),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// An object whose name says what its hash is.
    fn read_hashed(&self, name: &ObjectName, hash: Hash32, limit: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let other = |e: &StoreError| e.is_absent();
        let wanted = || match self.read_object(name, limit)? {
            Some(bytes) if *blake3::hash(&bytes).as_bytes() == hash.0 => Ok(bytes),
            _ => Err(StoreError::Absent { store: self.backend.describe(), name: name.clone() }),
        };
        match seen_through(self.backend.as_ref(), name, other, wanted) {
            // Whoever asks says what is wrong with it.
            Err(e) if e.is_absent() => self.read_object(name, limit),
            other => other.map(Some),
        }
    }
}

fn failure(error: StoreError) -> StoreFailure {
    StoreFailure(Box::new(error))
}

fn name_of(name: &str) -> Result<ObjectName, StoreFailure> {
    ObjectName::new(name).map_err(|e| failure(e.into()))
}

impl LogStore for BackendLog {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<log::Created, StoreFailure> {
        match self.backend.create(&name_of(name)?, &[bytes], &self.tag).map_err(failure)? {
            Create::Created => Ok(log::Created::Created),
            Create::Same | Create::Other => Ok(log::Created::Exists),
        }
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        let object = name_of(name)?;
        let hash = name.strip_prefix("body/").and_then(|hash| hash.parse::<Hash32>().ok());
        match hash {
            Some(hash) => self.read_hashed(&object, hash, limit),
            None => self.read_object(&object, limit).inspect(|read| {
                if let Some(bytes) = read.as_ref().filter(|_| self.is_far()) {
                    self.lately.lock().unwrap_or_else(PoisonError::into_inner).keep(name, bytes);
                }
            }),
        }
        .map_err(failure)
    }

    fn lately(&self, name: &str) -> Option<Vec<u8>> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner).entries.get(name).cloned()
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        let folder = name_of(prefix.trim_end_matches('/'))?;
        let mut all: BTreeSet<String> =
            self.backend.list_sorted(Some(&folder)).map_err(failure)?.into_iter().map(|object| object.name.to_string()).collect();
        // Nothing of the log is ever deleted by us: what was, is there, or its place is a hole.
        let covered = self.backend.covered(&folder).map_err(failure)?;
        all.extend(covered.iter().filter(|covered| covered.deleted).map(|covered| covered.name.to_string()));
        *self.covered.lock().unwrap_or_else(PoisonError::into_inner) = Some(covered);
        Ok(all.into_iter().collect())
    }

    fn dig(&self, prefix: &str) -> Result<bool, StoreFailure> {
        let listed = self.covered.lock().unwrap_or_else(PoisonError::into_inner).take();
        let covered = match listed {
            Some(covered) => covered,
            None => self.backend.covered(&name_of(prefix.trim_end_matches('/'))?).map_err(failure)?,
        };
        let mut anew = false;
        for covered in covered {
            if self.dug().insert(covered.name.clone()) {
                self.backend.choose(&covered.name, Some(&covered.oldest));
                anew = true;
            }
        }
        Ok(anew)
    }

    fn fill_in(&self) {
        std::mem::take(&mut *self.dug()).iter().for_each(|name| self.backend.choose(name, None));
    }

    fn is_far(&self) -> bool {
        self.backend.pace().reads > 1
    }
}

/// Seals entries and bodies under the table key.
pub(super) struct TableSealer(pub Sealing);

impl Sealer for TableSealer {
    fn seal(&self, plain: &[u8], aad: &[u8]) -> Result<Sealed, SealFailure> {
        let sealed = self.0.seal_table(aad, plain.to_vec()).map_err(|e| SealFailure::Failed(e.to_string()))?;
        Ok(Sealed { salt: sealed.salt, nonce: sealed.nonce, ciphertext: sealed.bytes })
    }

    fn open(&self, sealed: &Sealed, aad: &[u8]) -> Result<Vec<u8>, SealFailure> {
        let opened =
            seal::open_salted(self.0.table_key(), &sealed.salt, &sealed.nonce, aad, sealed.ciphertext.clone(), "an entry of the log");
        opened.map_err(|e| match e {
            CryptError::NotAuthentic { .. } => SealFailure::NotAuthentic,
            other => SealFailure::Failed(other.to_string()),
        })
    }
}

/// Marks what this process leaves unfinished outside of sessions, so that a later run on this machine can tell whether
/// it is still at work: `proc_<machine>_<boot>_<pid>_<start time>`.
pub fn process_tag() -> Result<SessionTag, StoreError> {
    let tag = format!("proc_{}_{}_{}", here(), std::process::id(), started(std::process::id()).unwrap_or(0));
    Ok(SessionTag::new(tag)?)
}

/// Is this the mark of a process of this machine that has ended?
pub(super) fn is_of_the_dead(tag: &SessionTag) -> bool {
    let words: Vec<&str> = tag.as_str().split('_').collect();
    let ["proc", machine, boot, pid, start] = words.as_slice() else { return false };
    let here = here();
    let Some((this_machine, this_boot)) = here.split_once('_') else { return false };
    // A machine without an id can't be told from others.
    if *machine != this_machine || !std::fs::exists("/etc/machine-id").unwrap_or(false) {
        return false;
    }
    let (Ok(pid), Ok(start)) = (pid.parse::<u32>(), start.parse::<u64>()) else { return false };
    *boot != this_boot || started(pid) != Some(start)
}

/// This machine and boot, hashed.
fn here() -> String {
    let short = |bytes: &[u8]| crate::units::ids::hex(blake3::hash(bytes).as_bytes().first_chunk::<8>().unwrap_or(&[0; 8]));
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let boot = crate::host::machine::boot_id().unwrap_or_default();
    format!("{}_{}", short(&machine), short(boot.as_bytes()))
}

/// When a process started, in clock ticks since boot (proc(5), `stat`, field 22).
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, in parentheses, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = process_tag().unwrap();
        assert!(!is_of_the_dead(&own));
        let words: Vec<&str> = own.as_str().split('_').collect();
        let tag = |words: [&str; 5]| SessionTag::new(words.join("_")).unwrap();
        if !std::fs::exists("/etc/machine-id").unwrap() {
            return;
        }
        assert!(is_of_the_dead(&tag([words[0], words[1], words[2], words[3], "1"])), "the number was given to another process");
        assert!(is_of_the_dead(&tag([words[0], words[1], "0123456789abcdef", words[3], words[4]])), "before a boot");
        assert!(!is_of_the_dead(&tag([words[0], "0123456789abcdef", words[2], words[3], "1"])), "of another machine nothing is known");
        assert!(!is_of_the_dead(&SessionTag::new("00112233445566778899aabbccddeeff").unwrap()));
    }
}
