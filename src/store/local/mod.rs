//! A directory as a store.
//!
//! An object is a file below the repository's folder, under its own name. It is written to `tmp/`, made durable, and
//! gets its name by a hard link, which never overwrites; so no reader sees a part of an object, and of two writers one
//! wins. Files are 0600, folders 0700, whatever the umask; where root works in a folder of another user, what it makes
//! belongs to that user.
//!
//! - `open.rs`: whose folder it is, and what must be proved before anything is trusted to it
//! - `create.rs`: the order of steps that makes an object durable
//! - `read.rs`: reading, listing, deleting, leftovers
//! - `mounts.rs`: how the folder is mounted (NFS)
//! - `fs.rs`: the few calls to the operating system, replaceable in tests

mod create;
pub mod fs;
mod mounts;
mod open;
mod read;

use super::{Backend, Create, Listed, ObjectName, SessionTag, StoreError};
use fs::{FileSystem, RealFs};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A store in a directory.
pub struct LocalStore<F: FileSystem = RealFs> {
    fs: F,
    root: PathBuf,
    /// Device and inode of the folder that was opened: an unmounted disk leaves another folder in its place.
    identity: (u64, u64),
    /// To whom new files are given: the folder's user and group, if root works for them.
    owner: Option<(u32, u32)>,
    /// Folders whose own entries, up to the root, are known to be durable.
    durable: Mutex<HashSet<PathBuf>>,
    /// An fsync has failed.
    failed: AtomicBool,
}

impl<F: FileSystem> LocalStore<F> {
    /// The repository's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path_of(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Is the folder that was opened still in its place?
    fn check_root(&self) -> Result<(), StoreError> {
        match self.fs.stat(&self.root) {
            Ok(stat) if stat.identity() == self.identity => Ok(()),
            Ok(_) => Err(StoreError::Replaced { path: self.root.clone() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(StoreError::Replaced { path: self.root.clone() }),
            Err(e) => Err(StoreError::from_io(format!("looking at {}", self.root.display()), e)),
        }
    }

    /// What an error on the way to an object means: absence is believed only while the repository's folder is there.
    fn understand(&self, what: &str, name: &ObjectName, error: io::Error) -> StoreError {
        match error.kind() {
            io::ErrorKind::NotFound => match self.check_root() {
                Ok(()) => StoreError::Absent { store: self.describe(), name: name.clone() },
                Err(e) => e,
            },
            // How an open that must not follow symbolic links says that it found one.
            _ if error.raw_os_error() == Some(nix::libc::ELOOP) => StoreError::NotAFile { path: self.path_of(name) },
            _ => StoreError::from_io(format!("{what} {}", self.path_of(name).display()), error),
        }
    }

    /// Remembers a failed fsync for the rest of the run.
    fn not_durable(&self, path: &Path, source: io::Error) -> StoreError {
        self.failed.store(true, Ordering::SeqCst);
        StoreError::NotDurable { what: path.display().to_string(), source }
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: FileSystem> Backend for LocalStore<F> {
    fn create(&self, name: &ObjectName, parts: &[&[u8]], session: &SessionTag) -> Result<Create, StoreError> {
        self.create_object(name, parts, session)
    }

    fn read(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError> {
        self.read_object(name, max)
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.read_part(name, offset, len)
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        Ok(self.open_object(name)?.1)
    }

    fn list(&self, folder: Option<&ObjectName>, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.list_folder(folder, each)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.delete_object(name)
    }

    fn settle_deletions(&self, folder: &ObjectName) -> Result<(), StoreError> {
        self.settle_folder(folder)
    }

    fn age(&self, name: &ObjectName, session: &SessionTag) -> Result<Option<Duration>, StoreError> {
        self.age_of(name, session)
    }

    fn prove(&self, session: &SessionTag) -> Result<Vec<String>, StoreError> {
        self.prove_exclusive(session).map(|()| Vec::new())
    }

    fn leftovers(&self) -> Result<Vec<(SessionTag, PathBuf)>, StoreError> {
        self.unfinished()
    }

    fn remove_leftovers(&self, of: &SessionTag) -> Result<usize, StoreError> {
        self.remove_unfinished(of)
    }

    fn remove_empty_pack_folders(&self, may_go: &dyn Fn(&str) -> bool) -> Result<usize, StoreError> {
        self.remove_empty_folders(may_go)
    }

    fn folder(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn describe(&self) -> String {
        format!("the repository in {}", self.root.display())
    }
}
