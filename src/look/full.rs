//! All that is known of one snapshot: its COMMIT, and the facts of its cluster that only a reader sees.

use super::snapshots::Listed;
use super::tree::{facts_in, open_snapshot};
use crate::host::HostError;
use crate::host::access::Opened;
use crate::pg::facts::ClusterFacts;
use crate::repo::RepoError;
use crate::repo::log::{Fold, Summary};
use crate::units::{Class, Explain, KeyId};

/// Why a snapshot can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// This host can't.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The repository.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A snapshot has no such file or folder.
    #[error("snapshot {snapshot} has no file or folder {path}")]
    NoPath {
        /// Its id.
        snapshot: String,
        /// The path.
        path: String,
    },
    /// A folder where a file is wanted.
    #[error("{path:?} is a folder", path = if .path.is_empty() { "the data directory" } else { .path })]
    IsFolder {
        /// The path.
        path: String,
    },
    /// The facts are not what a backup writes.
    #[error("snapshot {snapshot}: what it says of its cluster can't be read")]
    Facts {
        /// Its id.
        snapshot: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl Explain for LookError {
    fn class(&self) -> Class {
        match self {
            LookError::Host(e) => e.class(),
            LookError::Repo(e) => e.class(),
            LookError::Facts { .. } => Class::Corrupt,
            LookError::NoPath { .. } => Class::Absent,
            LookError::IsFolder { .. } => Class::Usage,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            LookError::Host(e) => e.cure(),
            LookError::Repo(e) => e.cure(),
            LookError::NoPath { .. } => Some("paths are below the data directory: `pgcairn ls SNAPSHOT` shows what is there".into()),
            LookError::IsFolder { .. } => Some("name a file in it: `pgcairn ls SNAPSHOT FOLDER` shows them".into()),
            LookError::Facts { .. } => Some("was it written by a newer pgcairn? Else restore from another snapshot".into()),
        }
    }
}

/// One snapshot in full.
#[derive(Clone, Debug)]
pub struct Full {
    /// The number of its COMMIT.
    pub number: u64,
    /// Who signed it.
    pub key: KeyId,
    /// What that key is called, if it is a host's.
    pub host: Option<String>,
    /// What the COMMIT says.
    pub summary: Summary,
    /// What the snapshot says of its cluster; `None` if this host can't read it.
    pub facts: Option<ClusterFacts>,
    /// Why it is held, if it is.
    pub held: Option<String>,
    /// Packs that it relies on.
    pub packs: usize,
}

/// Reads what is known of one snapshot.
///
/// # Errors
/// If the snapshot can't be read by a host that reads.
pub fn full(opened: &Opened, fold: &Fold, listed: &Listed<'_>) -> Result<Full, LookError> {
    let commit = listed.commit;
    let facts = opened.opening.is_some().then(|| facts(opened, fold, listed)).transpose()?;
    Ok(Full {
        number: listed.number,
        key: commit.key,
        host: fold.keys.get(&commit.key).map(|key| key.name.clone()),
        summary: commit.summary.clone(),
        facts,
        held: fold.holds.get(&commit.summary.id).map(|hold| hold.reason.clone()),
        packs: if commit.unread.is_empty() {
            commit.set.len()
        } else {
            opened.log().packs_named(fold, commit).map_err(HostError::from)?.len()
        },
    })
}

/// What a snapshot says of its cluster.
///
/// # Errors
/// If it can't be read.
pub fn facts(opened: &Opened, fold: &Fold, listed: &Listed<'_>) -> Result<ClusterFacts, LookError> {
    let packs = opened.packs_of(fold, listed.commit)?;
    facts_in(&open_snapshot(&packs, opened.reader()?, listed)?, listed.id())
}
