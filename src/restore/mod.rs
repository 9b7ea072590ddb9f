//! From the repository into a data directory.
//!
//! What enters: a snapshot, packs and a key, and what the user wants. What leaves: a data directory from which a server
//! recovers, or nothing that a server would start from.
//!
//! - `target/`: which snapshot and timeline reach a point in time, and what the server is told (pure)
//! - `plan.rs`, `place.rs`, `warnings.rs`: what will be done, checked before a byte is written
//! - `configuration.rs`: configuration files that lay outside the data directory
//! - `write/`: folders and files, by several threads
//! - `folders.rs`: the folders written to; nothing gets outside them, whatever a manifest says
//! - `finish.rs`: label, links, settings, durability, manifest, and pg_control last
//! - `check.rs`: does the restore_command work for the server's user?
//! - `crc.rs`: checksums of files that are written out of order

pub mod check;
mod configuration;
pub mod crc;
mod failure;
mod finish;
pub mod folders;
mod place;
pub mod plan;
pub mod target;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod warnings;
pub mod write;

use std::collections::BTreeMap;
use std::time::Instant;

pub use configuration::{ConfigFiles, ConfigurationPlan};
pub use failure::RestoreError;
pub use place::{make_folders, resolve};
pub use plan::{ArchiveMode, Recovery, RestoreOptions, RestorePlan, TablespacePlan, facts_of, prepare};

use crate::crypt::Opening;
use crate::repo::pack::Packs;
use crate::repo::structure::Snapshot;
use crate::units::{Cancel, Progress};
use folders::{Folders, Rights};

/// What came of a restore.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Restored {
    /// Bytes of the files, holes included.
    pub bytes: u64,
    /// Bytes that were really written.
    pub written_bytes: u64,
    /// Files written, those that we made among them not counted.
    pub files: u64,
    /// Time that it took.
    pub seconds: f64,
}

/// Carries a plan out. Whoever calls holds a lock beside the target.
///
/// # Errors
/// Whatever keeps it from being whole. What was written until then stays, without pg_control: no server starts from it.
pub fn execute(
    plan: &RestorePlan,
    snapshot: &Snapshot<'_>,
    packs: &Packs,
    opening: &Opening,
    jobs: usize,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Restored, RestoreError> {
    let begun = Instant::now();
    cancel.check()?;
    // Between plan and lock somebody else may have come.
    place::check_free(&plan.target)?;
    for space in &plan.tablespaces {
        place::check_free(&space.place)?;
    }
    let spaces: BTreeMap<_, _> = plan.tablespaces.iter().map(|t| (t.oid, t.place.clone())).collect();
    let folders = Folders::open(&plan.target, &spaces, plan.owner)?;
    progress.phase("writing files", Some(plan.bytes));
    let writing = write::Writing {
        snapshot,
        packs,
        opening,
        folders: &folders,
        fate: &|path| finish::fate(plan, path),
        wanted_folders: &finish::wanted_folders(plan),
        jobs,
        progress,
        cancel,
    };
    let written = writing.run()?;
    let done = Restored { bytes: written.bytes, written_bytes: written.written_bytes, files: written.files.len() as u64, seconds: 0.0 };
    progress.phase("making it durable", None);
    let mut finish = finish::Finish { plan, folders: &folders, written, rights: finish::rights_of_new(top_rights(snapshot)) };
    finish.settle()?;
    cancel.check()?;
    finish.complete()?;
    Ok(Restored { seconds: begun.elapsed().as_secs_f64(), ..done })
}

/// The data directory's own rights, as found.
fn top_rights(snapshot: &Snapshot<'_>) -> Rights {
    let top = snapshot.meta().folders.iter().find(|f| f.path.is_empty());
    match top {
        Some(top) => Rights { mode: top.mode, uid: top.uid, gid: top.gid },
        None => Rights { mode: 0o700, uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() },
    }
}
