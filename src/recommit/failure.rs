//! What ends a re-commit. Whatever it is, the repository is as sound as before, and the next run goes on.

use crate::host::HostError;
use crate::repo::RepoError;
use crate::repo::log::LogError;
use crate::units::{Cancelled, Class, Explain};

/// Packs can't be emptied.
#[derive(Debug, thiserror::Error)]
pub enum RecommitError {
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

impl From<Cancelled> for RecommitError {
    fn from(e: Cancelled) -> Self {
        RecommitError::Repo(e.into())
    }
}

impl Explain for RecommitError {
    fn class(&self) -> Class {
        match self {
            RecommitError::Host(e) => e.class(),
            RecommitError::Log(e) => e.class(),
            RecommitError::Repo(e) => e.class(),
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            RecommitError::Host(e) => e.cure(),
            RecommitError::Log(e) => e.cure(),
            RecommitError::Repo(e) => e.cure(),
        }
    }
}
