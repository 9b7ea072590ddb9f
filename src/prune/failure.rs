//! Why a prune can't go on. What it had done until then stands; the next one goes on from there.

use std::fmt;

use crate::host::HostError;
use crate::host::lock::LockError;
use crate::host::state::StateError;
use crate::recommit::RecommitError;
use crate::repo::log::LogError;
use crate::store::StoreError;
use crate::units::{Cancelled, Class, Explain};

/// Why a prune ended early.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// This host or its repository.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The locks of this machine's sessions.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// What this host remembers.
    #[error(transparent)]
    State(#[from] StateError),
    /// Packs can't be emptied.
    #[error(transparent)]
    Recommit(#[from] RecommitError),
    /// A cluster's archive can't be read.
    #[error(transparent)]
    Archive(ArchiveFailure),
    /// It was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// It must not go on.
    #[error("{what}")]
    Refused {
        /// What stands against it.
        what: String,
        /// The cure.
        cure: String,
    },
}

/// What the layer of archives said.
#[derive(Debug)]
pub struct ArchiveFailure(pub Box<dyn Explain + Send + Sync>);

impl fmt::Display for ArchiveFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for ArchiveFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl PruneError {
    /// What an archive said.
    pub fn archive(e: impl Explain + Send + Sync + 'static) -> Self {
        PruneError::Archive(ArchiveFailure(Box::new(e)))
    }
}

impl Explain for PruneError {
    fn class(&self) -> Class {
        match self {
            PruneError::Host(e) => e.class(),
            PruneError::Log(e) => e.class(),
            PruneError::Store(e) => e.class(),
            PruneError::Lock(e) => e.class(),
            PruneError::State(e) => e.class(),
            PruneError::Recommit(e) => e.class(),
            PruneError::Archive(e) => e.0.class(),
            PruneError::Cancelled(_) => Class::Failed,
            PruneError::Refused { .. } => Class::Refused,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            PruneError::Host(e) => e.cure(),
            PruneError::Log(e) => e.cure(),
            PruneError::Store(e) => e.cure(),
            PruneError::Lock(e) => e.cure(),
            PruneError::State(e) => e.cure(),
            PruneError::Recommit(e) => e.cure(),
            PruneError::Archive(e) => e.0.cure(),
            PruneError::Cancelled(_) => Some("run it again: it goes on from there".into()),
            PruneError::Refused { cure, .. } => Some(cure.clone()),
        }
    }
}
