//! Copying files into the repository: many threads, one small unit of work each.
//!
//! A *folder* is split into parts of at most 128 files by their names; each part's files into tasks: a leaf (up to 32
//! extents) of a relation fork, a whole stream, or all small files of the part together. Whoever finishes a part's last
//! task stores the part's node. So nothing waits for a whole folder, and memory is bounded by the queue.
//!
//! - `work.rs`: parts and files with what is still to be done on them
//! - `leaf.rs`: extents of relation forks: zeros, pages, hash, parent, index, patch
//! - `old.rs`: old images, read together where a store answers late
//! - `pages.rs`: are pages what they should be?
//! - `stream.rs`: all else that is large: FastCDC
//! - `joint.rs`: small files of a part in joint chunks

mod joint;
mod leaf;
mod old;
mod pages;
mod stream;
mod work;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::BackupError;
use super::damage::Damage;
use super::kept::Kept;
use super::parent::{Parent, ParentFolder};
use super::source::FileSource;
use crate::codec::Way;
use crate::crypt::Opening;
use crate::repo::pack::Packs;
use crate::repo::structure::{Attributes, Child, Instance, Needs, put_folder, split};
use crate::repo::write::{ChunkWriter, Quiet, is_of_one_pack};
use crate::units::{Cancel, Lsn, PackId, Progress, show};

use work::{FileWork, PartWork, Task};

/// How pages of a file are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Name of the fork, for messages.
    pub fork: &'static str,
    /// Block number of the file's first page within the fork.
    pub first_block: u32,
}

/// A file that is to be copied.
#[derive(Clone, Debug)]
pub struct FileJob {
    /// Name and attributes, taken just now.
    pub attributes: Attributes,
    /// Where it is on this host.
    pub path: PathBuf,
    /// Path relative to the data directory, for messages.
    pub shown: String,
    /// It is a relation fork, cut into extents of pages.
    pub pages: Option<Pages>,
    /// Tells whether the file's bytes are whole: the server may be in the middle of writing it.
    pub check: Option<fn(&[u8]) -> bool>,
}

/// Everything that all threads of a copy share.
pub struct Copy<'a> {
    /// Files come from here.
    pub source: &'a dyn FileSource,
    /// Chunks go there.
    pub writer: &'a ChunkWriter,
    /// Chunks of the parent are read here.
    pub packs: &'a Packs,
    /// Opens them, if this host may read.
    pub opening: Option<&'a Opening>,
    /// What stands in for the old pages where this host may not.
    pub kept: Option<&'a Kept>,
    /// How changed pages are stored, where that can be chosen.
    pub way: Way,
    /// The snapshot before.
    pub parent: Option<&'a Parent<'a>>,
    /// Packs in which a damaged place lies.
    pub damaged_packs: &'a HashSet<PackId>,
    /// How long what the parent has in a pack had been there.
    pub quiet: &'a (dyn Fn(PackId) -> Quiet + Sync),
    /// Keys the ids of joint chunks.
    pub joint_secret: &'a [u8; 32],
    /// Who reads.
    pub instance: Instance,
    /// Page size of the cluster, in bytes.
    pub page_size: u32,
    /// Are page checksums verified?
    pub checksums: bool,
    /// Pages as new as this are rewritten by WAL; `Lsn(u64::MAX)` for a stopped cluster.
    pub start_lsn: Lsn,
    /// FastCDC for everything.
    pub cdc_for_all: bool,
    /// Damage goes there.
    pub damage: &'a Damage,
    /// Asked to stop?
    pub cancel: &'a Cancel,
    /// Told of bytes.
    pub progress: &'a dyn Progress,
    /// Threads.
    pub jobs: usize,
}

/// What came of copying.
#[derive(Debug, Default)]
pub struct Copied {
    /// The folders, in the order in which they were given.
    pub folders: Vec<Child>,
    /// What all files need.
    pub needs: Needs,
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes that were read.
    pub read: u64,
    /// Number of files.
    pub files: u64,
}

/// Counters of all threads.
#[derive(Default)]
pub(super) struct Counters {
    read: AtomicU64,
}

pub(super) struct Shared<'a> {
    copy: &'a Copy<'a>,
    counters: Counters,
    needs: Mutex<Needs>,
    failure: Mutex<Option<BackupError>>,
    folders: Mutex<Vec<FolderState>>,
}

struct FolderState {
    parts: Vec<Option<Child>>,
    missing: usize,
    done: Option<Child>,
}

/// Takes folders one after the other; copies what has been queued while the next is listed.
pub struct Feed<'s, 'a> {
    shared: &'s Shared<'a>,
    queue: SyncSender<Task>,
}

impl Copy<'_> {
    /// Runs `walk`, which feeds folders, with threads that copy; waits for all.
    ///
    /// # Errors
    /// The first that any thread met.
    pub fn run(&self, walk: impl FnOnce(&mut Feed<'_, '_>) -> Result<(), BackupError>) -> Result<Copied, BackupError> {
        let shared = Shared {
            copy: self,
            counters: Counters::default(),
            needs: Mutex::default(),
            failure: Mutex::default(),
            folders: Mutex::default(),
        };
        let (queue, tasks) = sync_channel::<Task>(self.jobs * 4);
        let tasks = Arc::new(Mutex::new(tasks));
        let walked = std::thread::scope(|scope| {
            for number in 0..self.jobs {
                let (tasks, shared) = (Arc::clone(&tasks), &shared);
                std::thread::Builder::new()
                    .name(format!("copy {number}"))
                    .spawn_scoped(scope, move || shared.work(&tasks))
                    .map_err(|e| BackupError::Io { what: "starting a thread".into(), source: e })?;
            }
            // Only the workers hold the queue's other end: when all of them have ended, feeding fails instead of waiting.
            drop(tasks);
            let mut feed = Feed { shared: &shared, queue };
            walk(&mut feed)
        });
        if let Some(error) = shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        walked?;
        let mut copied = Copied {
            needs: shared.needs.into_inner().unwrap_or_else(PoisonError::into_inner),
            read: shared.counters.read.into_inner(),
            ..Copied::default()
        };
        for folder in shared.folders.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let child = folder.done.ok_or(BackupError::Internal("a folder was not finished"))?;
            copied.files += u64::from(child.files);
            copied.bytes += child.bytes;
            copied.folders.push(child);
        }
        Ok(copied)
    }
}

impl Feed<'_, '_> {
    /// The next folder: its files, sorted by name. `path` is relative to the data directory.
    ///
    /// # Errors
    /// If copying has failed, here or before.
    pub fn folder(&mut self, path: &[u8], files: Vec<FileJob>) -> Result<(), BackupError> {
        let copy = self.shared.copy;
        let mut before = match copy.parent {
            Some(parent) => match parent.folder(path) {
                Err(e) if is_of_one_pack(&e) => {
                    copy.progress.warn(&format!("the parent's folder {:?} can't be read, all its files are read: {e}", show(path)));
                    ParentFolder::new()
                }
                other => other?,
            },
            None => ParentFolder::new(),
        };
        let lengths = split(files.iter().map(|f| f.attributes.name.as_slice()));
        let number = self.shared.open_folder(lengths.len().max(1));
        if lengths.is_empty() {
            return self.shared.finish_part(number, 0, &PartWork::new(number, 0, Vec::new()));
        }
        let mut files = files.into_iter();
        for (part, len) in lengths.into_iter().enumerate() {
            let works: Vec<FileWork> = files
                .by_ref()
                .take(len)
                .map(|job| {
                    let before = before.remove(&job.attributes.name);
                    FileWork::new(job, before, copy)
                })
                .collect();
            self.part(Arc::new(PartWork::new(number, part, works)))?;
        }
        Ok(())
    }

    fn part(&mut self, part: Arc<PartWork>) -> Result<(), BackupError> {
        let tasks = work::tasks_of(&part, self.shared.copy)?;
        if tasks.is_empty() {
            return self.shared.finish_part(part.folder, part.number, &part);
        }
        for task in tasks {
            if self.queue.send(task).is_err() {
                return Err(self.shared.take_failure());
            }
        }
        Ok(())
    }
}

impl Shared<'_> {
    fn open_folder(&self, parts: usize) -> usize {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        folders.push(FolderState { parts: vec![None; parts], missing: parts, done: None });
        folders.len() - 1
    }

    /// What each thread does.
    fn work(&self, tasks: &Mutex<Receiver<Task>>) {
        loop {
            let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(task) = task else { return };
            if let Err(error) = self.one(task) {
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                // What says that something else has failed is worth less than that.
                match failure.as_ref() {
                    Some(before) if !before.is_internal() => {}
                    _ => *failure = Some(error),
                }
                return;
            }
            if self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                return;
            }
        }
    }

    fn one(&self, task: Task) -> Result<(), BackupError> {
        self.copy.cancel.check().map_err(BackupError::Cancelled)?;
        let part = match task {
            Task::Leaf { part, file, leaf } => {
                leaf::copy(self, &part.files[file], leaf)?;
                part
            }
            Task::Stream { part, file } => {
                stream::copy(self, &part.files[file])?;
                part
            }
            Task::Joint { part } => {
                joint::copy(self, &part)?;
                part
            }
        };
        if part.one_less() { self.finish_part(part.folder, part.number, &part) } else { Ok(()) }
    }

    fn finish_part(&self, folder: usize, number: usize, part: &PartWork) -> Result<(), BackupError> {
        let mut needs = Needs::default();
        let child = work::store_part(self, part, &mut needs)?;
        let complete = {
            let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
            let state = &mut folders[folder];
            state.parts[number] = Some(child);
            state.missing -= 1;
            (state.missing == 0).then(|| std::mem::take(&mut state.parts).into_iter().flatten().collect::<Vec<_>>())
        };
        if let Some(parts) = complete {
            let done = put_folder(self.copy.writer, parts, &mut needs)?;
            self.folders.lock().unwrap_or_else(PoisonError::into_inner)[folder].done = Some(done);
        }
        self.needs.lock().unwrap_or_else(PoisonError::into_inner).join(&needs);
        Ok(())
    }

    fn take_failure(&self) -> BackupError {
        // Every worker that ends early has left its error before it let go of the queue; the caller reports that one.
        BackupError::Internal("copying has failed")
    }

    fn has_read(&self, bytes: u64) {
        self.counters.read.fetch_add(bytes, Ordering::Relaxed);
        self.copy.progress.advance(bytes);
    }
}
