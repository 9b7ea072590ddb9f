//! What can go wrong between this host and a repository.

use super::config::SecretError;
use super::lock::LockError;
use super::paths::PathsError;
use super::state::StateError;
use crate::crypt::CryptError;
use crate::crypt::sign::SignError;
use crate::repo::RepoError;
use crate::repo::format::FormatError;
use crate::repo::log::LogError;
use crate::store::StoreError;
use crate::units::{Cancelled, Class, Explain};

/// What was done with an opened repository could not be done: by who only reads what is there, and by who stores it anew.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// This host can't.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store, or what is in it.
    #[error(transparent)]
    Repo(#[from] RepoError),
}

impl From<StoreError> for RepositoryError {
    fn from(e: StoreError) -> Self {
        RepositoryError::Repo(e.into())
    }
}

impl From<Cancelled> for RepositoryError {
    fn from(e: Cancelled) -> Self {
        RepositoryError::Repo(e.into())
    }
}

impl Explain for RepositoryError {
    fn class(&self) -> Class {
        match self {
            RepositoryError::Host(e) => e.class(),
            RepositoryError::Log(e) => e.class(),
            RepositoryError::Repo(e) => e.class(),
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            RepositoryError::Host(e) => e.cure(),
            RepositoryError::Log(e) => e.cure(),
            RepositoryError::Repo(e) => e.cure(),
        }
    }
}

/// What to do about a host key that two hosts have.
const ENROL_ITSELF: &str = "if this is a copy of another host, enrol it by itself: `pgcairn key forget-host --yes` here, then `key add-host` on the owner's machine and `key accept` here (or give the passphrase once); if no other host has this key (this machine, or its state folder, was set back or moved), say so once: `pgcairn key claim-host --yes`; if you know of neither, somebody else has the key: `pgcairn key remove-host`";

/// A repository can't be opened or written by this host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The repository.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The format object.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Keys.
    #[error(transparent)]
    Crypt(#[from] CryptError),
    /// A public key.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Folders of this host.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// Locks.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A passphrase or key file can't be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Nothing of ours is there.
    #[error("there is no repository at {place}")]
    NoRepository {
        /// Where.
        place: String,
    },
    /// It was begun and not finished.
    #[error("the repository at {place} was not finished: its init was interrupted")]
    Unfinished {
        /// Where.
        place: String,
    },
    /// It is there already.
    #[error("there is a repository at {place} already")]
    Exists {
        /// Where.
        place: String,
    },
    /// There is no slot that this program can read.
    #[error("there is no key slot of the repository at {place} in its folder key{}", if *others > 0 { format!(" (but {others} objects that are none)") } else { String::new() })]
    NoSlot {
        /// Where.
        place: String,
        /// What else lies among the slots.
        others: usize,
    },
    /// Other files lie there.
    #[error("{place} is not empty, and no repository")]
    NotEmpty {
        /// Where.
        place: String,
    },
    /// Another repository than this host knows at this place.
    #[error("the repository at {place} is not the one that this host knows there")]
    Another {
        /// Where.
        place: String,
    },
    /// A key is needed.
    #[error("this host has no key for the repository at {place}")]
    NoKey {
        /// Where.
        place: String,
    },
    /// A key file that is none, or not whole.
    #[error("{place} can't be used")]
    BadKeyFile {
        /// The file.
        place: String,
        /// What is wrong with it.
        source: CryptError,
    },
    /// A file that `key add-host` should have written.
    #[error("{} is no file that `pgcairn key add-host` wrote: {problem}", path.display())]
    BadGrant {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is none of what was named.
    #[error("{what}")]
    NoSuch {
        /// What.
        what: String,
        /// The cure.
        cure: &'static str,
    },
    /// The owner's key is needed, and nothing that opens a slot was given.
    #[error("this is the owner's to do, and nothing was given that opens a key slot")]
    NoSecret,
    /// What was given opens a slot, or is a text, of before a rotation.
    #[error("what was given opens keys of before a rotation: content key {key} is not among them")]
    OldSecret {
        /// A key that is missing.
        key: crate::units::KeyId,
    },
    /// The host's key may not do it.
    #[error("this host's key can't {what}")]
    NoRight {
        /// What was to be done.
        what: &'static str,
    },
    /// The host can't read content.
    #[error("this host's key can't read here: it holds nothing that opens content")]
    CannotRead,
    /// Another holder of this host's key has begun a session, or this host has forgotten that it did.
    #[error(
        "a session of {at} ({purpose} {session}, log/{number}, on machine {}) was begun with this host's key, and not out of this host's state folder: the folder was copied to another host, or set back to an older state",
        machine.get(..8).unwrap_or(machine)
    )]
    UsedElsewhere {
        /// The session.
        session: crate::units::SessionId,
        /// What for.
        purpose: String,
        /// The number of its BEGIN.
        number: u64,
        /// When that was written.
        at: crate::units::Timestamp,
        /// The machine that it names.
        machine: String,
    },
    /// The host can't write, and must.
    #[error("{what}")]
    Refused {
        /// What stands against it.
        what: String,
        /// The cure.
        cure: String,
    },
}

impl Explain for HostError {
    fn class(&self) -> Class {
        match self {
            HostError::Store(e) => e.class(),
            HostError::Repo(e) => e.class(),
            HostError::Log(e) => e.class(),
            HostError::Format(e) => e.class(),
            HostError::Crypt(e) => e.class(),
            HostError::Sign(e) => e.class(),
            HostError::State(e) => e.class(),
            HostError::Paths(e) => e.class(),
            HostError::Lock(e) => e.class(),
            HostError::Secret(e) => e.class(),
            HostError::NoSlot { .. } => Class::Corrupt,
            HostError::BadGrant { .. } => Class::Usage,
            HostError::BadKeyFile { .. } => Class::Corrupt,
            HostError::NoRepository { .. } | HostError::NoSuch { .. } => Class::Absent,
            HostError::Exists { .. } => Class::Conflict,
            HostError::UsedElsewhere { .. } => Class::Refused,
            HostError::Unfinished { .. } | HostError::NotEmpty { .. } | HostError::Another { .. } | HostError::Refused { .. } => {
                Class::Refused
            }
            HostError::NoKey { .. }
            | HostError::NoSecret
            | HostError::OldSecret { .. }
            | HostError::NoRight { .. }
            | HostError::CannotRead => Class::Denied,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            HostError::Store(e) => e.cure(),
            HostError::Repo(e) => e.cure(),
            HostError::Log(e) => e.cure(),
            HostError::Format(e) => e.cure(),
            HostError::Crypt(e) => e.cure(),
            HostError::Sign(e) => e.cure(),
            HostError::State(e) => e.cure(),
            HostError::Paths(e) => e.cure(),
            HostError::Lock(e) => e.cure(),
            HostError::Secret(e) => e.cure(),
            HostError::NoRepository { place } if place.starts_with("s3://") => {
                Some("check bucket, prefix and endpoint; `pgcairn init` makes a new repository".into())
            }
            HostError::NoRepository { .. } => Some("check the path, and that its disk is mounted; `pgcairn init` makes a new repository".into()),
            HostError::NoSlot { .. } => Some(
                "bring the objects of key/ back from a copy of the repository; a host that is enrolled needs none".into(),
            ),
            HostError::Unfinished { .. } => Some("run `pgcairn init` again with the same options: it starts over".into()),
            HostError::Exists { .. } => Some("use it as it is, or choose another place".into()),
            HostError::NotEmpty { .. } => Some("choose an empty or new folder".into()),
            HostError::Another { .. } => {
                Some("is it the right place, and the right disk mounted? If it was replaced on purpose, remove the pin that `pgcairn -v` names".into())
            }
            HostError::NoKey { .. } => Some(
                "give the passphrase (PGCAIRN_PASSPHRASE, --passphrase-file, --passphrase-command) or --key-file once; the host then gets a key of its own"
                    .into(),
            ),
            HostError::BadKeyFile { .. } => Some("give the file that `pgcairn init`, `key add` or `key export` wrote, whole".into()),
            HostError::BadGrant { .. } => Some("copy it once more from where it was made, whole".into()),
            HostError::NoSuch { cure, .. } => Some((*cure).into()),
            HostError::NoSecret => Some(
                "give a passphrase (PGCAIRN_PASSPHRASE, passphrase-file, passphrase-command), a key file (key-file) or key-command of the repository: this host's own key is not enough"
                    .into(),
            ),
            HostError::OldSecret { .. } => Some("give the passphrase, key file or export of after the last `pgcairn key rotate`".into()),
            HostError::NoRight { .. } => Some("ask the owner of the repository for the right".into()),
            HostError::CannotRead => Some(
                "run it on a host that reads; or here, with a passphrase or key file of the repository and a state folder of its own (PGCAIRN_STATE_DIR); or let the owner make this host a reader, too: key add-host --role reader"
                    .into(),
            ),
            HostError::UsedElsewhere { .. } => Some(ENROL_ITSELF.into()),
            HostError::Refused { cure, .. } => Some(cure.clone()),
        }
    }
}
