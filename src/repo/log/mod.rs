//! The log: one order of all that happens in a repository, without locks, without clocks, and nothing ever deleted.
//!
//! Entry *n* is the object `log/<n>`, created if it is absent, naming the hash of the one before: whoever wins a number
//! has applied all below it. Every reader judges every entry by the log alone and comes to the same tables.
//!
//! What enters: objects of a [`LogStore`], a [`Sealer`] for their bodies, the pinned owner's key. What leaves: a
//! [`LogView`], that is a [`Fold`] and how far it goes; appended entries.
//!
//! - `kind.rs`: what an entry says · `form.rs`: when that is well-formed · `wal.rs`: positions in WAL, and what is needed of it
//! - `entry.rs`: the bytes of an entry · `body.rs`: lists that are too long for one
//! - `fold.rs`: the tables and what changes them · `judge.rs`: what is void · `rights.rs`: keys and roles
//! - `model/` (tests): the rules explored exhaustively on the real fold, and each one broken
//! - `lists.rs`: whose lists a view holds, and reading more of them
//! - `read.rs`: from objects to a fold; void or damaged · `append.rs`: judge, create, judge again after a lost race

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::fmt;
use std::str::FromStr;

use crate::units::{Class, Explain, Hash32, SessionId};

mod append;
#[cfg(test)]
mod beneath;
mod body;
mod entry;
#[cfg(test)]
mod flipped;
mod fold;
mod form;
#[cfg(test)]
mod golden;
mod judge;
mod kind;
mod lists;
#[cfg(test)]
mod lists_tests;
#[cfg(test)]
mod model;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod probe;
#[cfg(test)]
mod racing;
mod read;
mod rights;
#[cfg(test)]
mod tampering;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod trust;
mod wal;

pub use body::BODY_LIMIT;
pub use entry::{ENTRY_LIMIT, PLAIN_LIMIT};
pub use fold::*;
pub use form::is_cluster_name;
pub use judge::Void;
pub use kind::*;
pub use lists::{ListAt, UnreadLists};
pub use read::{Damage, Log, LogView, MissingBody};
pub use rights::{Key, KeyTable, SealingKey};
pub use wal::{Branch, ClusterId, Expired, Need, SnapshotWal, WalMode, WalPosition, WalRange};

/// What the log needs of a place where objects lie. Calls may come from several threads at once.
pub trait LogStore: Sync {
    /// Creates an object unless there is one of that name; durable when it returns. After an error the object may be
    /// there all the same.
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreFailure>;

    /// An object's bytes, `None` if it is proven not to be there. Of one that is longer than `limit`, the first
    /// `limit + 1` bytes.
    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure>;

    /// The names of all objects that begin with `prefix`, in any order; those too that were deleted, where the store shows
    /// that.
    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure>;

    /// From now on the oldest content is read of every object whose name begins with `prefix`, where the store keeps
    /// several, and of those that were deleted. Is there any of which that wasn't so before?
    fn dig(&self, prefix: &str) -> Result<bool, StoreFailure> {
        let _ = prefix;
        Ok(false)
    }

    /// Ends what [`LogStore::dig`] began.
    fn fill_in(&self) {}

    /// The bytes of an object that was read a moment ago, where they are at hand. For who knows what their hash must be.
    fn lately(&self, name: &str) -> Option<Vec<u8>> {
        let _ = name;
        None
    }

    /// Does an answer take a while, however little is asked? Then what can be asked at once is.
    fn is_far(&self) -> bool {
        false
    }
}

/// What came of creating an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there now, with these bytes.
    Created,
    /// There was one already, perhaps with these very bytes.
    Exists,
}

/// What a store said when it failed.
#[derive(Debug)]
pub struct StoreFailure(pub Box<dyn Explain + Send + Sync>);

impl fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for StoreFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl Explain for StoreFailure {
    fn class(&self) -> Class {
        self.0.class()
    }

    fn cure(&self) -> Option<String> {
        self.0.cure()
    }
}

/// Something sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// From which the subkey was derived.
    pub salt: [u8; 32],
    /// The nonce.
    pub nonce: [u8; 24],
    /// Ciphertext and tag: 16 bytes longer than the plain text.
    pub ciphertext: Vec<u8>,
}

/// How much longer sealed bytes are.
pub const TAG_LEN: usize = 16;

/// Seals and opens under the table key.
pub trait Sealer: Sync {
    /// Seals `plain`, bound to `aad`.
    fn seal(&self, plain: &[u8], aad: &[u8]) -> Result<Sealed, SealFailure>;

    /// Opens what was sealed with the same `aad`.
    fn open(&self, sealed: &Sealed, aad: &[u8]) -> Result<Vec<u8>, SealFailure>;
}

/// Why something can't be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealFailure {
    /// The bytes were not sealed under this key for this place.
    #[error("it was not sealed under this repository's table key for this place")]
    NotAuthentic,
    /// The key is not at hand: nothing is said about the bytes.
    #[error("the table key is not at hand")]
    NoKey,
    /// Sealing failed, for want of random bytes for example.
    #[error("{0}")]
    Failed(String),
}

/// An entry's number and hash; the newest one stands for all before it. As text `number:hash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The entry's number.
    pub number: u64,
    /// BLAKE3 of its bytes.
    pub hash: Hash32,
}

impl Head {
    /// The id of the session, if this entry is its BEGIN.
    pub fn session(&self) -> SessionId {
        let mut id = [0; SessionId::LEN];
        id.iter_mut().zip(self.hash.0).for_each(|(to, from)| *to = from);
        SessionId(id)
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.hash)
    }
}

impl FromStr for Head {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = |text: &str| {
            let (number, hash) = text.split_once(':')?;
            Some(Head { number: number.parse().ok()?, hash: hash.parse().ok()? })
        };
        parse(text).ok_or("an entry of the log is written NUMBER:HASH, with 64 hex digits")
    }
}

/// The name of entry `number`.
pub fn entry_name(number: u64) -> String {
    format!("log/{number}")
}

/// The name of a body.
pub fn body_name(hash: &Hash32) -> String {
    format!("body/{hash}")
}

/// What can go wrong with the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The store failed.
    #[error("the log can't be reached")]
    Store(#[from] StoreFailure),
    /// There is no `log/0`.
    #[error("there is no log: this is no repository, or its init was interrupted")]
    NotThere,
    /// There is a `log/0` already.
    #[error("there is a log already")]
    Exists,
    /// `log/0` is not what the owner signed.
    #[error("log/0 is not this owner's: {0}")]
    First(String),
    /// An entry is not the one that was remembered.
    #[error("log/{number} has the hash {found}, and {remembered} was remembered: the repository's history was changed")]
    Changed {
        /// The entry's number.
        number: u64,
        /// What it was.
        remembered: Hash32,
        /// What it is.
        found: Hash32,
    },
    /// The log ends before an entry that was remembered.
    #[error("the log ends at {newest}, and {remembered} was remembered: the repository was set back")]
    SetBack {
        /// What was remembered.
        remembered: Head,
        /// Where it ends.
        newest: u64,
    },
    /// Entries are damaged or gone.
    #[error("the log is damaged: {0}")]
    Damaged(Damage),
    /// A body can't be had.
    #[error("body/{} of log/{} can't be had", .0.hash, .0.number)]
    MissingBody(MissingBody),
    /// An entry that this program doesn't understand.
    #[error("log/{} says {:?}, which this program doesn't know", .0.number, .0.kind)]
    Unknown(Unknown),
    /// The entry would be void.
    #[error("{kind} is not allowed: {void}")]
    Void {
        /// What was to be appended.
        kind: &'static str,
        /// Why not.
        void: Void,
    },
    /// The entry can't be written in this form.
    #[error("{kind} can't be written: {why}")]
    Form {
        /// What was to be appended.
        kind: &'static str,
        /// Why not.
        why: String,
    },
    /// Sealing or opening failed.
    #[error("an entry of the log can't be sealed or opened")]
    Seal(#[from] SealFailure),
    /// Others were always faster.
    #[error("others appended to the log {0} times, and were faster each time")]
    Busy(u32),
    /// It is not known whether the entry is there.
    #[error("it is not known whether log/{number} was written")]
    Unsure {
        /// Its number.
        number: u64,
        /// What the store said.
        source: Option<StoreFailure>,
    },
}

impl Explain for LogError {
    fn class(&self) -> Class {
        match self {
            LogError::Store(failure) => failure.class(),
            LogError::NotThere => Class::Absent,
            LogError::Exists => Class::Conflict,
            LogError::First(_) | LogError::Changed { .. } | LogError::SetBack { .. } => Class::Corrupt,
            LogError::Damaged(_) | LogError::MissingBody(_) => Class::Corrupt,
            LogError::Unknown(_) => Class::Refused,
            LogError::Void { void: Void::Right(_), .. } => Class::Denied,
            LogError::Void { .. } => Class::Refused,
            LogError::Seal(SealFailure::NotAuthentic) => Class::Corrupt,
            LogError::Seal(SealFailure::NoKey) => Class::Denied,
            LogError::Seal(SealFailure::Failed(_)) | LogError::Form { .. } => Class::Failed,
            LogError::Busy(_) => Class::Conflict,
            LogError::Unsure { source, .. } => source.as_ref().map_or(Class::Unreachable, Explain::class),
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            LogError::Store(failure) => failure.cure(),
            LogError::Unknown(_) => Some("use a newer pgcairn; reading goes on with this one".into()),
            LogError::Damaged(damage) => Some(damage.cure()),
            LogError::MissingBody(missing) => Some(format!("bring body/{} back from a copy of the repository", missing.hash)),
            LogError::Changed { .. } | LogError::SetBack { .. } => {
                Some("find out who restored or replaced the repository; what it holds may be older than what was stored".into())
            }
            LogError::Unsure { source, .. } => source
                .as_ref()
                .and_then(Explain::cure)
                .or_else(|| Some("run it again when the repository answers: it finds out, and goes on from there".into())),
            LogError::First(_) | LogError::Seal(SealFailure::NotAuthentic) => {
                Some("bring log/0 back from a copy of the repository; is it the right repository, and the right slot?".into())
            }
            LogError::Void { kind: "BEGIN", void: Void::Rule(why) } if why.starts_with("R16") => Some(
                "the data directory is older than all WAL that was kept: let its server go on until it has passed what has expired, or back it up \
                 under a name of its own (--cluster NAME)"
                    .into(),
            ),
            LogError::Busy(_) => Some("run it again; if that lasts, `pgcairn list` and the times of the objects in log/ show who appends so much".into()),
            LogError::Void { void: Void::Right(_), .. } => Some("use a key with that right: key list shows who has which".into()),
            _ => None,
        }
    }
}
