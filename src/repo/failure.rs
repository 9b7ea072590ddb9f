//! What can go wrong with a repository.

use super::bytes::Malformed;
use crate::codec::CodecError;
use crate::crypt::CryptError;
use crate::store::{ObjectName, StoreError};
use crate::units::{Cancelled, Class, Explain, PackId};

/// A repository didn't give or take what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Sealed bytes don't open.
    #[error("{object} can't be opened")]
    Crypt {
        /// Which object.
        object: String,
        /// Why.
        source: CryptError,
    },
    /// A frame doesn't decode.
    #[error("{object} can't be decoded")]
    Codec {
        /// Which object.
        object: String,
        /// Why.
        source: CodecError,
    },
    /// Bytes are not what they must be.
    #[error("{object} is damaged: {why}")]
    Corrupt {
        /// Which object.
        object: String,
        /// What is wrong.
        why: String,
    },
    /// A manifest or patch names a pack that no entry of the log lists.
    #[error("pack {pack} is named, and the log lists no such pack")]
    UnknownPack {
        /// Its id.
        pack: PackId,
    },
    /// Bytes can't be encoded.
    #[error(transparent)]
    Encode(#[from] CodecError),
    /// A rule of ours doesn't hold.
    #[error("internal error: {0}")]
    Internal(&'static str),
    /// A key could not be made or used.
    #[error(transparent)]
    Key(#[from] CryptError),
    /// A stored pack could not be told of: the session can't go on.
    #[error("{0}")]
    Told(Box<dyn Explain + Send + Sync>),
    /// It was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl RepoError {
    /// An object is damaged.
    pub fn corrupt(object: &ObjectName, why: &str) -> Self {
        RepoError::Corrupt { object: object.to_string(), why: why.into() }
    }

    /// Is it the object that is damaged or gone, and not the store that failed or a key that is missing?
    pub fn is_damage(&self) -> bool {
        use StoreError as S;
        match self {
            RepoError::Store(e) => matches!(e, S::Absent { .. } | S::Short { .. } | S::TooLarge { .. }),
            RepoError::Crypt { source, .. } => source.class() == Class::Corrupt,
            RepoError::Codec { .. } | RepoError::Corrupt { .. } => true,
            _ => false,
        }
    }

    /// A rule of ours doesn't hold.
    pub fn internal(what: &'static str) -> Self {
        RepoError::Internal(what)
    }
}

const LOST: &str = "bring the object back from another copy of the repository; `pgcairn verify` names what else is hit, and what is not";

impl From<Malformed> for RepoError {
    fn from(e: Malformed) -> Self {
        RepoError::Corrupt { object: "a structure node".into(), why: e.0.into() }
    }
}

impl Explain for RepoError {
    fn class(&self) -> Class {
        match self {
            // What a snapshot needs and isn't there is damage; "absent" is an answer about snapshots.
            RepoError::Store(e) if e.is_absent() => Class::Corrupt,
            RepoError::Store(e) => e.class(),
            RepoError::Key(e) => e.class(),
            RepoError::Told(e) => e.class(),
            RepoError::Crypt { source, .. } => source.class(),
            RepoError::Codec { .. } | RepoError::Corrupt { .. } | RepoError::UnknownPack { .. } => Class::Corrupt,
            RepoError::Internal(_) | RepoError::Cancelled(_) | RepoError::Encode(_) => Class::Failed,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            RepoError::Store(e) if e.is_absent() => Some(LOST.into()),
            RepoError::Store(e) => e.cure(),
            RepoError::Key(e) => e.cure(),
            RepoError::Told(e) => e.cure(),
            RepoError::Crypt { source, .. } if source.class() != Class::Corrupt => source.cure(),
            RepoError::Crypt { .. } => Some(LOST.into()),
            RepoError::Codec { .. } | RepoError::Corrupt { .. } | RepoError::UnknownPack { .. } => Some(LOST.into()),
            _ => None,
        }
    }
}
