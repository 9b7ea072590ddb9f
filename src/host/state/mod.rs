//! What this host keeps of a repository and can't rebuild: `<state-dir>/<repository id>/`.
//!
//! - `host.json` ([`HostKeys`]): this host's keys, by which it works without a passphrase
//! - `seen.json` ([`Seen`]): how far the log was seen, its KEY entries, and what must not be forgotten between runs
//! - `<state-dir>/pins/<BLAKE3 of the URL>.json` ([`Pin`]): which repository, of which owner, lies at a URL
//!
//! All are 0600, replaced whole under a short lock, and carry a checksum: a file that isn't what was written is an error
//! that names it and the cure; it is never silently begun anew, since that would forget what a store can be caught by.
//!
//! A grant ([`Grant`]) has the same form, and is carried from the owner to the host that it is for.
//!
//! Files: `checked.rs` the form on disk · `own.rs` [`OwnSessions`], a part of `seen.json` · `secret.rs` [`Secret32`] · `host_keys.rs`, `seen.rs`, `pin.rs`, `grant.rs` as above

mod checked;
mod grant;
mod host_keys;
mod own;
mod pin;
mod secret;
mod seen;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{Owner, create_private_folder, read_bounded, replace};
use super::lock::{FileLock, LockError, wait};
use super::paths::StateDir;
use crate::units::{Class, Explain, RepositoryId, class_of_io, cure_of_io};

pub use grant::Grant;
pub use host_keys::{HostKeys, IdKeys};
pub use own::OwnSessions;
pub use pin::Pin;
pub use secret::Secret32;
pub use seen::{ClusterSeen, Diverged, FirstSight, Head, KeyEntry, Seen};

/// How long a process waits for another that changes the state; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long enrolment, which talks to the repository, may keep others waiting.
const ENROLMENT_PATIENCE: Duration = Duration::from_secs(300);

/// What is wrong with the state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file isn't what was written.
    #[error("the state file {} is damaged: {problem}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file can't be read or written.
    #[error("cannot {verb} the state file {}", path.display())]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process doesn't let go.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The host has keys for this repository already.
    #[error("this host already has keys for this repository, in {}", path.display())]
    HasKeys {
        /// The file.
        path: PathBuf,
    },
    /// The URL is pinned to another repository or owner.
    #[error("at {url} this host knows repository {known}, and {found} is there now")]
    OtherRepository {
        /// The URL.
        url: String,
        /// The repository pinned.
        known: RepositoryId,
        /// The one found; the same id means that its owner's key differs.
        found: RepositoryId,
        /// The pin's file.
        path: PathBuf,
    },
    /// The log went another way than the one that was seen.
    #[error(transparent)]
    Diverged(#[from] Diverged),
    /// The operating system gives no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(String),
}

impl StateError {
    /// The state could not be written, and nothing else is wrong.
    pub fn is_about_writing(&self) -> bool {
        matches!(self, StateError::Io { verb: "write", .. } | StateError::Lock(_))
    }
}

impl Explain for StateError {
    fn class(&self) -> Class {
        match self {
            StateError::Corrupt { .. } => Class::Corrupt,
            StateError::Io { source, .. } => match class_of_io(source) {
                Class::Absent => Class::Failed,
                class => class,
            },
            StateError::Lock(error) => error.class(),
            StateError::HasKeys { .. } => Class::Conflict,
            StateError::OtherRepository { .. } => Class::Refused,
            StateError::Diverged(error) => error.class(),
            StateError::Random(_) => Class::Failed,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            StateError::Corrupt { path, .. } => Some(format!(
                "bring {} back from a backup of this host, or remove it: the host then needs the passphrase once more, and no longer knows how far it had read the log",
                path.display()
            )),
            StateError::HasKeys { .. } => Some("`pgcairn key forget-host --yes` removes them, if others are meant".into()),
            StateError::OtherRepository { path, .. } => Some(format!(
                "check the URL and that the right storage is mounted; if the other repository is meant, remove {}",
                path.display()
            )),
            StateError::Io { source, .. } => cure_of_io(source),
            StateError::Lock(error) => error.cure(),
            StateError::Diverged(error) => error.cure(),
            _ => None,
        }
    }
}

/// The state of one repository.
#[derive(Clone, Debug)]
pub struct RepositoryState {
    id: RepositoryId,
    folder: PathBuf,
    owner: Option<Owner>,
}

impl StateDir {
    /// The state of the repository `id`. Nothing is created until something is written.
    pub fn repository(&self, id: RepositoryId) -> RepositoryState {
        RepositoryState { id, folder: self.path().join(id.to_string()), owner: self.owner() }
    }
}

impl RepositoryState {
    /// The repository.
    pub fn id(&self) -> RepositoryId {
        self.id
    }

    /// Does this host know anything of this repository? Then a slot in clear is not to be trusted.
    pub fn is_known(&self) -> bool {
        self.host_path().exists() || self.seen_path().exists()
    }

    /// This host's keys, if it is enrolled.
    pub fn host_keys(&self) -> Result<Option<HostKeys>, StateError> {
        let path = self.host_path();
        let Some(bytes) = read(&path, HostKeys::LIMIT)? else { return Ok(None) };
        let keys = HostKeys::decode(&bytes).map_err(|problem| StateError::Corrupt { path: path.clone(), problem })?;
        if keys.repository != self.id {
            return Err(StateError::Corrupt { path, problem: format!("it is of repository {}", keys.repository) });
        }
        Ok(Some(keys))
    }

    /// Keeps this host's keys; an error if there are some already.
    pub fn create_host_keys(&self, keys: &HostKeys) -> Result<(), StateError> {
        let _lock = self.lock()?;
        let path = self.host_path();
        if path.exists() {
            return Err(StateError::HasKeys { path });
        }
        write(&path, &keys.encode(), self.owner)
    }

    /// Keeps this host's keys in place of those there are.
    pub fn replace_host_keys(&self, keys: &HostKeys) -> Result<(), StateError> {
        let _lock = self.lock()?;
        write(&self.host_path(), &keys.encode(), self.owner)
    }

    /// Forgets this host's keys and what it has seen, the keys first: killed in between, it has none.
    ///
    /// # Errors
    /// If they can't be removed.
    pub fn forget(&self) -> Result<(), StateError> {
        let _lock = self.lock()?;
        for path in [self.host_path(), self.seen_path()] {
            let removed = match std::fs::remove_file(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other.and_then(|()| std::fs::File::open(&self.folder)?.sync_all()),
            };
            removed.map_err(|source| StateError::Io { verb: "write", path, source })?;
        }
        Ok(())
    }

    /// Where this host's keys lie, for people.
    pub fn keys_path(&self) -> PathBuf {
        self.host_path()
    }

    /// Held while this host is being enrolled, so that two processes don't enrol it twice: look for keys once more
    /// after it is had.
    pub fn lock_enrolment(&self) -> Result<FileLock, StateError> {
        let path = self.folder.join("enrolment.lock");
        create_private_folder(&self.folder, self.owner).map_err(|source| StateError::Io { verb: "write", path: path.clone(), source })?;
        Ok(FileLock::acquire_within(&path, ENROLMENT_PATIENCE)?)
    }

    /// What was seen of the repository; empty if nothing was.
    pub fn seen(&self) -> Result<Seen, StateError> {
        let path = self.seen_path();
        match read(&path, Seen::LIMIT)? {
            None => Ok(Seen::default()),
            Some(bytes) => Seen::decode(&bytes).map_err(|problem| StateError::Corrupt { path, problem }),
        }
    }

    /// Reads what was seen, lets `change` change it, and writes it if it did, alone among all processes. The methods
    /// of [`Seen`] only ever go forward, so the order in which processes come here doesn't matter.
    pub fn update<T, E: From<StateError>>(&self, change: impl FnOnce(&mut Seen) -> Result<T, E>) -> Result<T, E> {
        let _lock = self.lock()?;
        let mut seen = self.seen()?;
        let before = seen.clone();
        let answer = change(&mut seen)?;
        if seen != before {
            write(&self.seen_path(), &seen.encode(), self.owner)?;
        }
        Ok(answer)
    }

    /// The secret that ids of small-file chunks depend on; drawn when it is first asked for.
    pub fn small_file_secret(&self) -> Result<Secret32, StateError> {
        if let Some(secret) = self.seen()?.small_file_secret() {
            return Ok(secret.clone());
        }
        self.update(|seen| seen.small_file_secret_or_new().map_err(|e| StateError::Random(e.to_string())))
    }

    fn host_path(&self) -> PathBuf {
        self.folder.join("host.json")
    }

    fn seen_path(&self) -> PathBuf {
        self.folder.join("seen.json")
    }

    fn lock(&self) -> Result<FileLock, StateError> {
        lock_folder(&self.folder, self.owner)
    }
}

/// The short lock of a folder of state files.
fn lock_folder(folder: &Path, owner: Option<Owner>) -> Result<FileLock, StateError> {
    let path = folder.join("lock");
    create_private_folder(folder, owner).map_err(|source| StateError::Io { verb: "write", path: path.clone(), source })?;
    Ok(wait(PATIENCE, || FileLock::acquire(&path))?)
}

fn read(path: &Path, limit: usize) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, StateError> {
    match read_bounded(path, limit) {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(StateError::Corrupt { path: path.to_path_buf(), problem: e.to_string() }),
        Err(source) => Err(StateError::Io { verb: "read", path: path.to_path_buf(), source }),
        Ok(bytes) => Ok(bytes),
    }
}

fn write(path: &Path, bytes: &[u8], owner: Option<Owner>) -> Result<(), StateError> {
    replace(path, bytes, owner).map_err(|source| StateError::Io { verb: "write", path: path.to_path_buf(), source })
}

/// Arbitrary bytes as a state file of each kind, as they are and with a checksum that fits (`crate::fuzzing`).
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn probe(data: &[u8]) {
    for file in [data.to_vec(), checked::around(data)] {
        if let Ok(seen) = Seen::decode(&file) {
            assert_eq!(Seen::decode(&seen.encode()).map(|again| again.newest()), Ok(seen.newest()));
        }
        if let Ok(keys) = HostKeys::decode(&file) {
            assert_eq!(HostKeys::decode(&keys.encode()).map(|again| again.repository), Ok(keys.repository));
        }
        if let Ok(grant) = Grant::decode(&file) {
            assert_eq!(Grant::decode(&grant.encode()), Ok(grant));
        }
        pin::probe(&file);
    }
}

#[cfg(test)]
mod tests;
