//! Why there is no snapshot.

use std::io;

use super::wal::ArchiveFailure;
use crate::codec::CodecError;
use crate::host::HostError;
use crate::pg::connection::PgConnError;
use crate::repo::RepoError;
use crate::repo::log::LogError;
use crate::units::{Cancelled, Class, Explain, class_of_io, cure_of_io};

/// A backup ended without a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or folder.
    #[error("{what}")]
    Io {
        /// What was done to what.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The repository.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// This host's state, locks and cache.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveFailure),
    /// The server.
    #[error(transparent)]
    Server(#[from] PgConnError),
    /// A frame.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// It could be done and must not.
    #[error("{what}")]
    Refused {
        /// What stands against it.
        what: String,
        /// The cure.
        cure: String,
    },
    /// The data directory is not what it must be.
    #[error("{what}: {why}")]
    Cluster {
        /// What was looked at.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// It was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A rule of ours doesn't hold.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl BackupError {
    /// Does it only say that something else has failed?
    pub fn is_internal(&self) -> bool {
        matches!(self, BackupError::Internal(_) | BackupError::Repo(RepoError::Internal(_)))
    }

    /// A refusal with its cure.
    pub fn refused(what: impl Into<String>, cure: impl Into<String>) -> Self {
        BackupError::Refused { what: what.into(), cure: cure.into() }
    }
}

impl Explain for BackupError {
    fn class(&self) -> Class {
        match self {
            BackupError::Io { source, .. } => match class_of_io(source) {
                Class::Absent => Class::Failed,
                class => class,
            },
            BackupError::Repo(e) => e.class(),
            BackupError::Log(e) => e.class(),
            BackupError::Host(e) => e.class(),
            BackupError::Archive(e) => e.class(),
            BackupError::Server(e) => e.class(),
            BackupError::Refused { .. } => Class::Refused,
            BackupError::Codec(_) | BackupError::Cluster { .. } | BackupError::Cancelled(_) | BackupError::Internal(_) => Class::Failed,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            BackupError::Repo(e) => e.cure(),
            BackupError::Log(e) => e.cure(),
            BackupError::Host(e) => e.cure(),
            BackupError::Archive(e) => e.cure(),
            BackupError::Server(e) => e.cure(),
            BackupError::Refused { cure, .. } => Some(cure.clone()),
            BackupError::Io { source, .. } if class_of_io(source) == Class::Denied => {
                Some("run this as the operating system user of the server".into())
            }
            BackupError::Io { source, .. } => cure_of_io(source),
            _ => None,
        }
    }
}
