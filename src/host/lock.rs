//! Locks that prove a process alive or dead.
//!
//! A lock is a file with an advisory lock (`flock`) on it: the kernel ends the lock with the process, whatever kills it,
//! so a file whose lock is free has lost its owner. That holds on this machine alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::files::{Owner, create_private_folder};
use super::paths::StateDir;
use crate::units::ids::{hex, unhex};
use crate::units::{Class, Explain, RepositoryId, class_of_io, cure_of_io};

/// Why a lock wasn't had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A living process holds it.
    #[error("{} is held by another process", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file can't be made or looked at.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Explain for LockError {
    fn class(&self) -> Class {
        match self {
            LockError::Held { .. } => Class::Conflict,
            LockError::Io { source, .. } => match class_of_io(source) {
                Class::Absent => Class::Failed,
                class => class,
            },
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            LockError::Held { .. } => Some("wait until it has ended".into()),
            LockError::Io { source, .. } => cure_of_io(source),
        }
    }
}

/// An exclusive lock on a file that exists for nothing else; removed when dropped.
#[derive(Debug)]
pub struct FileLock {
    path: PathBuf,
    file: File,
    orphan: bool,
    stays: bool,
}

impl FileLock {
    /// Takes the lock at once or says that it is held.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        Self::acquire_for(path, None)
    }

    /// Takes the lock, waiting at most `patience` for its holder.
    pub fn acquire_within(path: &Path, patience: Duration) -> Result<Self, LockError> {
        wait(patience, || Self::acquire(path))
    }

    fn acquire_for(path: &Path, owner: Option<Owner>) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.to_path_buf(), source };
        loop {
            let (file, orphan) = open_or_create(path, owner).map_err(failed)?;
            lock_now(&file, path)?;
            // The holder before us removes the file when it ends: we may have locked one that has no name any more,
            // and a third process would create and lock the next one.
            if same_file(&file, path).map_err(failed)? {
                return Ok(FileLock { path: path.to_path_buf(), file, orphan, stays: false });
            }
        }
    }

    /// Was the file left behind by a process that died?
    pub fn was_orphan(&self) -> bool {
        self.orphan
    }

    /// Lets the lock go and leaves its file: to whoever looks, its owner is dead.
    pub fn leave(mut self) {
        self.stays = true;
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Removed while it is still locked; whoever opened it meanwhile sees that it has no name and starts over.
        if !self.stays {
            let _ = std::fs::remove_file(&self.path);
        }
        let _ = self.file.unlock();
    }
}

fn open_or_create(path: &Path, owner: Option<Owner>) -> io::Result<(File, bool)> {
    loop {
        match OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW).open(path) {
            Ok(file) => return Ok((file, true)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Err(_) => {}
        }
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => {
                if let Some(owner) = owner {
                    fchown(&file, Some(owner.uid), Some(owner.gid))?;
                }
                return Ok((file, false));
            }
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            Err(_) => {}
        }
    }
}

fn lock_now(file: &File, path: &Path) -> Result<(), LockError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(LockError::Held { path: path.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(LockError::Io { path: path.to_path_buf(), source }),
    }
}

/// Is `path` the name of `file`?
fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok(named.dev() == ours.dev() && named.ino() == ours.ino()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Repeats `attempt` while the lock is held, at most for `patience`.
pub(super) fn wait<T>(patience: Duration, mut attempt: impl FnMut() -> Result<T, LockError>) -> Result<T, LockError> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match attempt() {
            Err(LockError::Held { .. }) if start.elapsed() < patience => std::thread::sleep(pause),
            result => return result,
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// The name of the lock inside a restore's target, where its parent can't be written.
pub const LOCK_IN_TARGET: &str = ".pgcairn-lock";

impl FileLock {
    /// The lock of a restore's target: `DIR.pgcairn-lock` beside it, links in `DIR` resolved; [`LOCK_IN_TARGET`] inside
    /// it where the parent can't be written.
    pub fn for_target(target: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: target.to_path_buf(), source };
        let resolved = resolved(target).map_err(failed)?;
        let mut name = resolved.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?.to_owned();
        name.push(".pgcairn-lock");
        let beside = resolved.with_file_name(name);
        // Where only the lock of another user can't be opened, one inside would lock nobody out.
        let inside = resolved.is_dir() && beside.symlink_metadata().is_err() && beside.parent().is_some_and(cannot_be_written);
        Self::acquire(&if inside { resolved.join(LOCK_IN_TARGET) } else { beside })
    }
}

fn cannot_be_written(folder: &Path) -> bool {
    use nix::unistd::AccessFlags;
    matches!(nix::unistd::eaccess(folder, AccessFlags::W_OK | AccessFlags::X_OK), Err(nix::Error::EACCES | nix::Error::EROFS))
}

/// The path without links; its last part need not be there yet.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Ok(parent.canonicalize()?.join(name))
        }
        result => result,
    }
}

/// What a look at another's lock shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockState {
    /// Its owner lives.
    Held,
    /// The file is there and its lock free: the owner is dead.
    Free,
    /// There is no such file: nothing is proven.
    Missing,
}

/// The locks of sessions on this machine, `<state-dir>/locks/<hex>`.
#[derive(Clone, Debug)]
pub struct SessionLocks {
    folder: PathBuf,
    owner: Option<Owner>,
}

impl StateDir {
    /// The locks of this machine's sessions.
    pub fn locks(&self) -> SessionLocks {
        SessionLocks { folder: self.path().join("locks"), owner: self.owner() }
    }
}

impl SessionLocks {
    /// Creates and holds the lock of the session `id` of a repository, until dropped. To be had before the session's
    /// BEGIN can be seen, and durable: after a power failure the file proves that its owner is dead.
    pub fn hold(&self, id: &[u8], of: RepositoryId) -> Result<FileLock, LockError> {
        let path = self.path(id);
        let failed = |source| LockError::Io { path: path.clone(), source };
        create_private_folder(&self.folder, self.owner).map_err(failed)?;
        // Locked before it has its name: at no time is there a file under that name with a free lock.
        let temporary = self.folder.join(format!("new-{}-{}", std::process::id(), hex(id)));
        let mut lock = FileLock::acquire_for(&temporary, self.owner)?;
        // So that a file that stays for nothing can be told from those of other repositories.
        (&lock.file).write_all(of.to_string().as_bytes()).and_then(|()| lock.file.sync_all()).map_err(failed)?;
        // Ids of sessions are never used twice, so nobody races us for the name.
        if path.try_exists().map_err(failed)? {
            return Err(LockError::Held { path });
        }
        std::fs::rename(&temporary, &path).map_err(failed)?;
        lock.path.clone_from(&path);
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(lock)
    }

    /// Looks at the lock of the session `id` without disturbing it.
    pub fn probe(&self, id: &[u8]) -> Result<LockState, LockError> {
        let path = self.path(id);
        let failed = |source| LockError::Io { path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(LockState::Missing),
            Err(e) => return Err(failed(e)),
        };
        // Shared, so that two who look at once don't take each other for the owner.
        match file.try_lock_shared() {
            Ok(()) => Ok(LockState::Free),
            Err(TryLockError::WouldBlock) => Ok(LockState::Held),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The sessions of a repository whose owner is dead, and whose file is there. Half-made files of dead processes are
    /// removed on the way.
    pub fn dead(&self, of: RepositoryId) -> Result<Vec<Vec<u8>>, LockError> {
        let failed = |source| LockError::Io { path: self.folder.clone(), source };
        let entries = match std::fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut dead = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(pid) = name.strip_prefix("new-").and_then(|rest| rest.split('-').next()) {
                // Its process may be about to lock it.
                if !Path::new("/proc").join(pid).exists() && Path::new("/proc/self").exists() {
                    let _ = std::fs::remove_file(self.folder.join(name));
                }
            } else if let Some(id) = unhex(name)
                && self.path(&id) == self.folder.join(name)
                && self.probe(&id)? == LockState::Free
                && std::fs::read(self.folder.join(name)).is_ok_and(|text| text == of.to_string().as_bytes())
            {
                dead.push(id);
            }
        }
        Ok(dead)
    }

    /// Removes the file of a session whose owner is dead and whose end is in the log.
    pub fn clear(&self, id: &[u8]) -> Result<(), LockError> {
        if self.probe(id)? != LockState::Free {
            return Ok(());
        }
        match std::fs::remove_file(self.path(id)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LockError::Io { path: self.path(id), source }),
            _ => Ok(()),
        }
    }

    fn path(&self, id: &[u8]) -> PathBuf {
        self.folder.join(hex(id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::env::FixedEnv;
    use super::*;
    use crate::units::Quiet;

    fn locks() -> (tempfile::TempDir, SessionLocks) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&dir.path().join("state")), &FixedEnv::empty(dir.path()), &Quiet).unwrap();
        (dir, state.locks())
    }

    #[test]
    fn a_session_lock_tells_alive_dead_and_unknown() {
        let (_dir, locks) = locks();
        assert_eq!(locks.probe(b"id").unwrap(), LockState::Missing);
        let lock = locks.hold(b"id", RepositoryId([7; 16])).unwrap();
        assert_eq!(locks.probe(b"id").unwrap(), LockState::Held);
        assert!(matches!(locks.hold(b"id", RepositoryId([7; 16])), Err(LockError::Held { .. })));
        assert_eq!(std::fs::read_dir(&locks.folder).unwrap().count(), 1, "no temporary names are left");
        locks.clear(b"id").unwrap();
        assert_eq!(locks.probe(b"id").unwrap(), LockState::Held, "a living session's file stays");
        // What a killed process leaves: the file, without its lock.
        lock.file.unlock().unwrap();
        assert_eq!(locks.probe(b"id").unwrap(), LockState::Free);
        assert_eq!(locks.probe(b"id").unwrap(), LockState::Free, "looking leaves no trace");
        locks.clear(b"id").unwrap();
        assert_eq!(locks.probe(b"id").unwrap(), LockState::Missing);
        drop(lock);
        let lock = locks.hold(b"id", RepositoryId([7; 16])).unwrap();
        drop(lock);
        assert_eq!(locks.probe(b"id").unwrap(), LockState::Missing);
    }

    #[test]
    fn files_of_the_dead_are_found_by_their_repository() {
        let (_dir, locks) = locks();
        let (ours, theirs) = (RepositoryId([7; 16]), RepositoryId([8; 16]));
        assert_eq!(locks.dead(ours).unwrap(), [b""; 0]);
        let _alive = locks.hold(b"alive", ours).unwrap();
        locks.hold(b"gone", ours).unwrap().leave();
        locks.hold(b"other", theirs).unwrap().leave();
        let half = locks.folder.join("new-4294967295-00");
        std::fs::write(&half, b"").unwrap();
        let unborn = locks.folder.join(format!("new-{}-00", std::process::id()));
        std::fs::write(&unborn, b"").unwrap();
        std::fs::write(locks.folder.join("stranger"), b"").unwrap();
        assert_eq!(locks.dead(ours).unwrap(), [b"gone"]);
        assert_eq!(locks.dead(theirs).unwrap(), [b"other"]);
        assert!(!half.exists() && unborn.exists() && locks.folder.join("stranger").exists());
        locks.clear(b"gone").unwrap();
        assert_eq!(locks.dead(ours).unwrap(), [b""; 0]);
    }

    #[test]
    fn a_file_lock_excludes_and_names_orphans() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let lock = FileLock::acquire(&path).unwrap();
        assert!(!lock.was_orphan());
        assert!(matches!(FileLock::acquire(&path), Err(LockError::Held { .. })));
        drop(lock);
        assert!(!path.exists());
        std::fs::write(&path, b"").unwrap();
        assert!(FileLock::acquire(&path).unwrap().was_orphan());
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(matches!(FileLock::acquire(&path), Err(LockError::Io { .. })), "a link is not followed");
    }

    #[test]
    fn many_threads_never_hold_a_lock_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let lock = FileLock::acquire_within(&path, Duration::from_secs(60)).unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }

    #[test]
    fn a_target_is_locked_beside_it_whatever_its_spelling() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let lock = FileLock::for_target(&link).unwrap();
        assert_eq!(lock.path(), dir.path().canonicalize().unwrap().join("real.pgcairn-lock"));
        assert!(matches!(FileLock::for_target(&real), Err(LockError::Held { .. })));
        let new = FileLock::for_target(&dir.path().join("new")).unwrap();
        assert!(new.path().ends_with("new.pgcairn-lock"));
        assert!(FileLock::for_target(Path::new("/")).is_err());
        assert!(matches!(FileLock::for_target(&dir.path().join("a/b")), Err(LockError::Io { .. })));
    }
}
