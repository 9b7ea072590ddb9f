//! Writing a snapshot's files: several threads, in small units, out of order.
//!
//! One thread walks the manifest and hands out tasks; the others fetch, decode and write. A long file is created once,
//! at its full length, and its leaves (at most 32 extents, 8 MiB) are written by whoever takes them, those of several files
//! in turn; stretches of zeros are left as holes. Small files come many at a time, so that neighbours in a pack are fetched together.
//!
//! Of a store that answers late, many tasks are done together: what they need is read at once, in ranges of which each
//! brings neighbours, and opened as it comes. Some threads more than there are cores then wait for bytes. What is in memory
//! is what the tasks under work hold: about 16 MiB a thread of a disk; of a service at most 192 MiB in all (with more
//! than ten jobs 16 MiB a thread), and what is kept of tables and nodes, 64 MiB.
//!
//! In place, what lies there already is hashed and compared with the chunks' ids, and only what differs is fetched and
//! written.
//!
//! Nothing is fsynced here: that is done once at the end, for all. The kernel is only told to begin writing, leaf by leaf, so
//! that the disk works meanwhile and little is left for the end. The checksum of each file is made on the way.
//!
//! - `task.rs`: the units of work, and doing them
//! - `walk.rs`: the manifest, read and cut into tasks
//! - `turns.rs`: leaves of several long files in turn
//! - `sparse.rs`: zeros as holes

mod sparse;
mod task;
#[cfg(test)]
mod tests;
mod turns;
mod walk;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::RestoreError;
use super::crc::Crc;
use super::folders::Folders;
use crate::crypt::Opening;
use crate::repo::pack::Packs;
use crate::repo::structure::Snapshot;
use crate::store::Pace;
use crate::units::{Cancel, Progress};

use task::Task;
pub(super) use walk::folders_of;

/// Chunks fetched at once of a disk, in plain bytes.
const BATCH: u64 = 8 << 20;
/// Of a service: what all threads together hold of chunks, sealed and as references, in bytes.
const MEMORY: u64 = 192 << 20;
/// The most of it that one thread asks for at once.
const MOST_AT_ONCE: u64 = 32 << 20;
/// Folders and files that may be open for tasks that wait or are done.
const OPEN: usize = 400;
/// Long files that are written at once.
const MOST_FILES: usize = 16;

/// How much is done by whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Size {
    /// Threads.
    threads: usize,
    /// Batches that wait.
    queue: usize,
    /// Tasks of a batch.
    tasks: usize,
    /// Plain bytes of a batch, about.
    batch: u64,
    /// Long files that are written in turn, at least one. Of a service, one: neighbours of one batch are read together.
    files: usize,
}

impl Size {
    fn of(jobs: usize, pace: Pace) -> Self {
        let jobs = jobs.max(1);
        if pace.reads <= 1 {
            return Size { threads: jobs, queue: jobs * 2, tasks: 1, batch: 0, files: jobs.min(MOST_FILES) };
        }
        // While as many as there are cores open what has come, others wait for more. Sealed bytes and references: twice.
        let threads = jobs + 2;
        let batch = (MEMORY / 2 / threads as u64).clamp(BATCH, MOST_AT_ONCE);
        Size { threads, queue: 1, tasks: (OPEN / (threads + 2)).max(1), batch, files: 1 }
    }
}

/// A file that is written: what a backup_manifest says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrittenFile {
    /// Relative to the data directory, tablespaces as `pg_tblspc/<oid>/…`.
    pub path: Vec<u8>,
    /// Last modification as it was found, ns since 1970.
    pub mtime: i64,
    /// Checksum and length.
    pub crc: Crc,
}

/// What came of writing.
#[derive(Debug, Default)]
pub struct Written {
    /// The files, in no order.
    pub files: Vec<WrittenFile>,
    /// The contents of files that were to be kept back instead of written.
    pub kept: BTreeMap<Vec<u8>, Kept>,
    /// Paths of all folders, parents first.
    pub folders: Vec<Vec<u8>>,
    /// Bytes of the files, holes included.
    pub bytes: u64,
    /// Bytes that were really written.
    pub written_bytes: u64,
}

/// A file that was kept back.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Its rights.
    pub rights: super::folders::Rights,
}

/// What to do with a path of the snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is written.
    Write,
    /// It is not restored.
    Drop,
    /// Its content is handed to the caller, who writes it anew.
    Keep,
}

/// Everything that all threads of a restore share.
pub struct Writing<'a> {
    /// The manifest.
    pub snapshot: &'a Snapshot<'a>,
    /// Chunks come from here.
    pub packs: &'a Packs,
    /// Opens them.
    pub opening: &'a Opening,
    /// Files go there.
    pub folders: &'a Folders,
    /// What to do with a file, by its path.
    pub fate: &'a (dyn Fn(&[u8]) -> Fate + Sync),
    /// Folders that must be there whether the snapshot names them or not.
    pub wanted_folders: &'a [Vec<u8>],
    /// Threads.
    pub jobs: usize,
    /// Told of bytes.
    pub progress: &'a dyn Progress,
    /// Asked to stop?
    pub cancel: &'a Cancel,
}

/// What the threads fill.
struct Shared<'a> {
    writing: &'a Writing<'a>,
    size: Size,
    files: Mutex<Vec<WrittenFile>>,
    failure: Mutex<Option<RestoreError>>,
    bytes: AtomicU64,
    written: AtomicU64,
}

impl Writing<'_> {
    /// Writes all folders and files.
    ///
    /// # Errors
    /// The first that any thread met; what was written until then stays.
    pub fn run(&self) -> Result<Written, RestoreError> {
        let size = Size::of(self.jobs, self.packs.pace());
        let shared = Shared {
            writing: self,
            size,
            files: Mutex::default(),
            failure: Mutex::default(),
            bytes: AtomicU64::new(0),
            written: AtomicU64::new(0),
        };
        let (queue, tasks) = sync_channel::<Vec<Task>>(size.queue);
        let tasks = Arc::new(Mutex::new(tasks));
        let walked = std::thread::scope(|scope| {
            for number in 0..size.threads {
                let (tasks, shared) = (Arc::clone(&tasks), &shared);
                std::thread::Builder::new()
                    .name(format!("restore {number}"))
                    .spawn_scoped(scope, move || shared.work(&tasks))
                    .map_err(RestoreError::io("starting a thread"))?;
            }
            // Only the workers hold the queue's other end: when all of them have ended, sending fails instead of waiting.
            drop(tasks);
            walk::Walk::new(&shared, queue).run()
        });
        if let Some(error) = shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let walked = walked?;
        Ok(Written {
            files: shared.files.into_inner().unwrap_or_else(PoisonError::into_inner),
            kept: walked.kept,
            folders: walked.folders,
            bytes: shared.bytes.into_inner(),
            written_bytes: shared.written.into_inner(),
        })
    }
}

impl Shared<'_> {
    /// What each thread does.
    fn work(&self, tasks: &Mutex<Receiver<Vec<Task>>>) {
        loop {
            let tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(tasks) = tasks else { return };
            let done = self.writing.cancel.check().map_err(RestoreError::from).and_then(|()| self.all(tasks));
            if let Err(error) = done {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
            if self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                return;
            }
        }
    }

    fn finished(&self, path: Vec<u8>, mtime: i64, crc: Crc) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).push(WrittenFile { path, mtime, crc });
    }

    /// So many bytes of a file are done; `written` of them were no holes.
    fn advance(&self, bytes: u64, written: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.written.fetch_add(written, Ordering::Relaxed);
        self.writing.progress.advance(bytes);
    }
}
