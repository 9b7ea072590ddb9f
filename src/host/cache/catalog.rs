//! The catalog: blobs by kind and key, in redb.
//!
//! redb believes its file: flipped bits gave silently wrong rows, panics, and can give endless recursion. So each value
//! carries a checksum over its key and itself; a panic inside is caught and the file discarded; and a process that
//! dies inside leaves a mark, by which the file is discarded when that happened twice in a row. An older value may come
//! back for a key that was written several times (a lost commit): callers keep values that stand on their own.
//!
//! One process is inside at a time, for milliseconds, under a lock file of ours; who isn't let in for two seconds works
//! without the catalog.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, StorageBackend, TableDefinition, TableError};

use super::CacheWarning;

/// What a blob is: part of its key, so that kinds don't meet.
pub type Kind = u8;

const BLOBS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("blobs");

/// redb's own cache, in bytes.
const REDB_CACHE: usize = 16 << 20;

/// How long to wait for another process.
const PATIENCE: Duration = Duration::from_secs(2);

/// So many deaths inside, one after the other, condemn the file: one may be a `kill -9`.
const DEATHS: u64 = 2;

const CHECK_LEN: usize = 16;

/// The catalog can't be had now: held by others, or its folder can't be used. Work goes on without it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the catalog is busy")]
pub struct Busy;

/// The catalog's place. Every call opens the file, does its work and closes it.
#[derive(Debug)]
pub struct Catalog {
    file: PathBuf,
    lock: PathBuf,
    warnings: Mutex<Vec<CacheWarning>>,
}

thread_local! {
    static CONTAINED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Is this thread inside the catalog, where a panic is caught? A panic hook asks, and stays silent.
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

/// How an operation ended that reached the file.
enum Outcome<T> {
    Done(T),
    Damaged(String),
    Failed,
}

impl Catalog {
    /// The catalog in a folder that exists.
    pub fn at(folder: &Path) -> Self {
        Catalog { file: folder.join("catalog.redb"), lock: folder.join("catalog.lock"), warnings: Mutex::default() }
    }

    /// The blob under `kind` and `key`.
    pub fn get(&self, kind: Kind, key: &[u8; 32]) -> Result<Option<Vec<u8>>, Busy> {
        Ok(self.get_many(kind, std::slice::from_ref(key))?.pop().flatten())
    }

    /// The blobs under each of `keys`, in their order, with one opening of the file.
    pub fn get_many(&self, kind: Kind, keys: &[[u8; 32]]) -> Result<Vec<Option<Vec<u8>>>, Busy> {
        let found = self.inside(false, |db| read(db, kind, keys))?;
        let Some(found) = found else { return Ok(vec![None; keys.len()]) };
        if found.damaged > 0 {
            self.warn(CacheWarning::new(&self.file, format!("{} of its values are not what was written", found.damaged)));
            // The other values may be good, but a file that returns wrong bytes is at its end.
            self.discard()?;
        }
        Ok(found.values)
    }

    /// Puts blobs, replacing those under the same kind and key, all or none.
    pub fn put_many(&self, blobs: &[(Kind, [u8; 32], &[u8])]) -> Result<(), Busy> {
        self.inside(true, |db| {
            write(db, |table| {
                for (kind, key, value) in blobs {
                    let key = full_key(*kind, key);
                    table.insert(key.as_slice(), checked(&key, value).as_slice())?;
                }
                Ok(())
            })
        })?;
        Ok(())
    }

    /// Removes the blob under `kind` and `key`; that there is none is fine.
    pub fn remove(&self, kind: Kind, key: &[u8; 32]) -> Result<(), Busy> {
        self.inside(true, |db| write(db, |table| table.remove(full_key(kind, key).as_slice()).map(drop)))?;
        Ok(())
    }

    /// What was discarded since this was last asked.
    pub fn take_warnings(&self) -> Vec<CacheWarning> {
        self.warnings.lock().map_or_else(|_| Vec::new(), |mut list| std::mem::take(&mut *list))
    }

    fn warn(&self, warning: CacheWarning) {
        if let Ok(mut list) = self.warnings.lock() {
            list.push(warning);
        }
    }

    /// Does `work` with the open database. `None` if there is nothing in it: no file (and `create` is not set), or one
    /// that had to be discarded.
    fn inside<T>(&self, create: bool, work: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<Option<T>, Busy> {
        let gate = Gate::enter(&self.lock)?;
        if gate.deaths >= DEATHS {
            self.throw_away("processes died while they used it".into());
        }
        // A second round for the writer whose file was just discarded.
        for round in 0..2 {
            if !create && !self.file.exists() {
                gate.leave();
                return Ok(None);
            }
            match contained(|| open(&self.file).and_then(|db| work(&db))) {
                Outcome::Done(value) => {
                    gate.leave();
                    return Ok(Some(value));
                }
                Outcome::Failed => {
                    gate.leave();
                    return Err(Busy);
                }
                Outcome::Damaged(problem) => self.throw_away(problem),
            }
            if !create || round > 0 {
                break;
            }
        }
        gate.leave();
        if create { Err(Busy) } else { Ok(None) }
    }

    fn discard(&self) -> Result<(), Busy> {
        let gate = Gate::enter(&self.lock)?;
        let _ = std::fs::remove_file(&self.file);
        gate.leave();
        Ok(())
    }

    /// Within the gate.
    fn throw_away(&self, problem: String) {
        self.warn(CacheWarning::new(&self.file, problem));
        let _ = std::fs::remove_file(&self.file);
    }
}

/// The right to be inside, alone. Its file is empty unless somebody is, or died there: one byte for each death in a row.
struct Gate {
    file: File,
    deaths: u64,
}

impl Gate {
    fn enter(path: &Path) -> Result<Self, Busy> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(|_| Busy)?;
            match file.try_lock() {
                Ok(()) => {
                    let found = file.metadata().map_err(|_| Busy)?;
                    // Deleted and made anew while we waited (somebody cleared the cache): that one counts.
                    if !std::fs::metadata(path).is_ok_and(|named| named.ino() == found.ino() && named.dev() == found.dev()) {
                        continue;
                    }
                    file.write_all(b"!").map_err(|_| Busy)?;
                    return Ok(Gate { file, deaths: found.len() });
                }
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => std::thread::sleep(pause),
                Err(_) => return Err(Busy),
            }
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    fn leave(self) {
        let _ = self.file.set_len(0);
    }
}

/// Runs `work`, in which redb may panic on a damaged file.
fn contained<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Outcome<T> {
    CONTAINED.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(false);
    match result {
        Ok(Ok(value)) => Outcome::Done(value),
        Ok(Err(error)) => match &error {
            // The disk is full, or the file system went away: nothing is known against the file.
            redb::Error::Io(e) if !matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => Outcome::Failed,
            redb::Error::DatabaseAlreadyOpen => Outcome::Failed,
            _ => Outcome::Damaged(error.to_string()),
        },
        Err(_) => Outcome::Damaged("its structure is broken".into()),
    }
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(Database::builder().set_cache_size(REDB_CACHE).create_with_backend(Unsynced(file))?)
}

/// The file as redb sees it, without fsync: a dozen of them for each call, 50 ms on a common disk, would buy nothing.
/// A killed process loses nothing by it, and what a power failure tears is found and discarded like any damage.
/// Nor are there locks: [`Gate`] has seen to it.
#[derive(Debug)]
struct Unsynced(File);

impl StorageBackend for Unsynced {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// What a reading found.
struct Found {
    values: Vec<Option<Vec<u8>>>,
    damaged: usize,
}

fn read(db: &Database, kind: Kind, keys: &[[u8; 32]]) -> Result<Found, redb::Error> {
    let mut found = Found { values: Vec::with_capacity(keys.len()), damaged: 0 };
    let transaction = db.begin_read()?;
    let table = match transaction.open_table(BLOBS) {
        Err(TableError::TableDoesNotExist(_)) => {
            found.values.resize(keys.len(), None);
            return Ok(found);
        }
        result => result?,
    };
    for key in keys {
        let key = full_key(kind, key);
        let value = match table.get(key.as_slice())? {
            None => None,
            Some(stored) => match unchecked(&key, stored.value()) {
                None => {
                    found.damaged += 1;
                    None
                }
                value => value,
            },
        };
        found.values.push(value);
    }
    Ok(found)
}

type Blobs<'txn> = redb::Table<'txn, &'static [u8], &'static [u8]>;

fn write(db: &Database, change: impl FnOnce(&mut Blobs<'_>) -> Result<(), redb::StorageError>) -> Result<(), redb::Error> {
    let mut transaction = db.begin_write()?;
    // Opening after a kill is then quick, whatever the file's size.
    transaction.set_quick_repair(true);
    change(&mut transaction.open_table(BLOBS)?)?;
    transaction.commit()?;
    Ok(())
}

fn full_key(kind: Kind, key: &[u8; 32]) -> [u8; 33] {
    let mut full = [kind; 33];
    full[1..].copy_from_slice(key);
    full
}

fn check(key: &[u8; 33], value: &[u8]) -> [u8; CHECK_LEN] {
    let mut out = [0; CHECK_LEN];
    blake3::Hasher::new().update(key).update(value).finalize_xof().fill(&mut out);
    out
}

fn checked(key: &[u8; 33], value: &[u8]) -> Vec<u8> {
    [check(key, value).as_slice(), value].concat()
}

fn unchecked(key: &[u8; 33], stored: &[u8]) -> Option<Vec<u8>> {
    let (sum, value) = stored.split_first_chunk::<CHECK_LEN>()?;
    (check(key, value) == *sum).then(|| value.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn key(n: u32) -> [u8; 32] {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    fn value(n: u32) -> Vec<u8> {
        let mut out = vec![0; 10 + (n as usize * 37) % 3000];
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    fn put(catalog: &Catalog, numbers: std::ops::Range<u32>) -> Result<(), Busy> {
        let blobs: Vec<_> = numbers.map(|n| (1, key(n), value(n))).collect();
        catalog.put_many(&blobs.iter().map(|(kind, key, value)| (*kind, *key, value.as_slice())).collect::<Vec<_>>())
    }

    #[test]
    fn blobs_are_kept_by_kind_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::at(dir.path());
        assert_eq!(catalog.get(1, &key(1)), Ok(None));
        assert!(!catalog.file.exists(), "looking creates nothing");
        put(&catalog, 0..50).unwrap();
        catalog.put_many(&[(2, key(1), b"other kind"), (1, key(2), b"")]).unwrap();
        assert_eq!(catalog.get(1, &key(1)), Ok(Some(value(1))));
        assert_eq!(catalog.get(2, &key(1)).unwrap().as_deref(), Some(b"other kind".as_slice()));
        assert_eq!(catalog.get_many(1, &[key(2), key(99), key(3)]), Ok(vec![Some(vec![]), None, Some(value(3))]));
        catalog.remove(1, &key(1)).unwrap();
        catalog.remove(1, &key(1)).unwrap();
        assert_eq!(catalog.get(1, &key(1)), Ok(None));
        assert!(catalog.take_warnings().is_empty());
        assert_eq!(std::fs::metadata(&catalog.lock).unwrap().len(), 0);
    }

    #[test]
    fn damage_is_never_a_wrong_value_and_never_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::at(dir.path());
        for batch in 0..10 {
            put(&catalog, batch * 40..batch * 40 + 40).unwrap();
        }
        let keys: Vec<_> = (0..400).map(key).collect();
        let good = std::fs::read(&catalog.file).unwrap();
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !panic_is_contained() {
                hook(info)
            }
        }));
        let mut noticed = 0;
        for round in 0..150u64 {
            let mut bad = good.clone();
            let spot = blake3::hash(&round.to_le_bytes());
            let spot = u64::from_le_bytes(spot.as_bytes()[..8].try_into().unwrap()) as usize % good.len();
            match round % 5 {
                0..=2 => bad[spot] ^= 1 << (round % 8),
                // The places on which all else hangs: the header and the first pages.
                3 => bad[round as usize * 7 % 12_288] ^= 1 << (round % 8),
                _ => {
                    let page = spot / 4096 * 4096;
                    bad[page..(page + 4096).min(good.len())].fill(0);
                }
            }
            std::fs::write(&catalog.file, &bad).unwrap();
            let found = catalog.get_many(1, &keys).unwrap();
            for (n, found) in found.iter().enumerate() {
                assert!(found.is_none() || found.as_deref() == Some(&value(n as u32)), "round {round}: a wrong value for {n}");
            }
            // And it can be written to, as it is or begun anew.
            put(&catalog, 1000..1001).unwrap();
            assert_eq!(catalog.get(1, &key(1000)), Ok(Some(value(1000))), "round {round}");
            noticed += usize::from(!catalog.take_warnings().is_empty());
        }
        assert!(noticed > 10, "the damage was not where it matters: {noticed}");
        for length in [0, 1, 100, 4096, good.len() / 2, good.len() - 1] {
            std::fs::write(&catalog.file, &good[..length]).unwrap();
            let found = catalog.get_many(1, &keys).unwrap();
            assert!(found.iter().enumerate().all(|(n, found)| found.as_ref().is_none_or(|found| *found == value(n as u32))));
        }
        let _ = std::panic::take_hook();
    }

    #[test]
    fn a_value_under_another_key_is_not_believed() {
        let stored = checked(&full_key(1, &key(1)), b"value");
        assert_eq!(unchecked(&full_key(1, &key(1)), &stored).as_deref(), Some(b"value".as_slice()));
        assert_eq!(unchecked(&full_key(1, &key(2)), &stored), None);
        assert_eq!(unchecked(&full_key(2, &key(1)), &stored), None);
        assert_eq!(unchecked(&full_key(1, &key(1)), &stored[..15]), None);
    }

    #[test]
    fn a_file_in_which_processes_die_is_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::at(dir.path());
        put(&catalog, 0..3).unwrap();
        let die = || drop(Gate::enter(&catalog.lock).unwrap());
        die();
        assert_eq!(catalog.get(1, &key(1)), Ok(Some(value(1))), "one death may be a kill");
        die();
        die();
        assert_eq!(catalog.get(1, &key(1)), Ok(None));
        assert_eq!(catalog.take_warnings().len(), 1);
        put(&catalog, 0..3).unwrap();
        assert_eq!(catalog.get(1, &key(1)), Ok(Some(value(1))));
    }

    #[test]
    fn busy_is_said_and_a_lost_folder_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::at(dir.path());
        let gate = Gate::enter(&catalog.lock).unwrap();
        assert_eq!(put(&catalog, 0..1), Err(Busy));
        gate.leave();
        put(&catalog, 0..1).unwrap();
        let gone = Catalog::at(&dir.path().join("gone"));
        assert_eq!(put(&gone, 0..1), Err(Busy));
        assert_eq!(gone.get(1, &key(1)), Err(Busy));
    }

    const CHILD: &str = "PGCAIRN_TEST_CATALOG";
    const EACH: u32 = 10;

    /// What each of the eight does: ten puts of its own, each an opening of its own.
    fn work(catalog: &Catalog, who: u32) {
        for n in who * EACH..(who + 1) * EACH {
            while put(catalog, n..n + 1).is_err() {}
            while catalog.get(1, &key(n)).map(|found| assert_eq!(found, Some(value(n)))).is_err() {}
        }
    }

    #[test]
    fn threads_and_processes_at_once_lose_nothing() {
        if let Some(child) = std::env::var_os(CHILD) {
            let who = std::env::var("PGCAIRN_TEST_WHO").unwrap().parse().unwrap();
            return work(&Catalog::at(Path::new(&child)), who);
        }
        let dir = tempfile::tempdir().unwrap();
        let this = std::thread::current().name().unwrap().to_owned();
        let child = |who: u32| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", &this]).env(CHILD, dir.path()).env("PGCAIRN_TEST_WHO", who.to_string());
            command.stdout(std::process::Stdio::null()).spawn().unwrap()
        };
        let mut children: Vec<_> = (0..4).map(child).collect();
        std::thread::scope(|scope| {
            for who in 4..8 {
                let folder = dir.path();
                scope.spawn(move || work(&Catalog::at(folder), who));
            }
        });
        assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
        let catalog = Catalog::at(dir.path());
        for n in 0..8 * EACH {
            assert_eq!(catalog.get(1, &key(n)), Ok(Some(value(n))), "{n}");
        }
        assert!(catalog.take_warnings().is_empty());
    }
}
