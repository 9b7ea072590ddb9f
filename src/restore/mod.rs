//! From the repository into a data directory.
//!
//! What enters: a snapshot, packs and a key, and what the user wants. What leaves: a data directory from which a server
//! recovers, or nothing that a server would start from.
//!
//! - `target/`: which snapshot and timeline reach a point in time, and what the server is told (pure)
//! - `plan.rs`, `place.rs`, `sizes.rs`, `warnings.rs`: what will be done, checked before a byte is written
//! - `configuration.rs`: configuration files that lay outside the data directory
//! - `existing.rs`, `running.rs`, `rescue/`, `strangers.rs`: in place: whose folder it is, that no server runs on it, its WAL
//!   that nobody else has, what is not in the snapshot
//! - `marker.rs`: what says that a restore hasn't ended, so that it can be continued
//! - `write/`: folders and files, by several threads
//! - `durable.rs`: files made durable one by one, on old kernels
//! - `folders.rs`: the folders written to; nothing gets outside them, whatever a manifest says
//! - `finish.rs`: label, links, settings, durability, manifest, pg_control last, and the marker off
//! - `check.rs`: does the restore_command work for the server's user?
//! - `crc.rs`: checksums of files that are written out of order

pub mod check;
mod configuration;
pub mod crc;
mod durable;
mod existing;
mod failure;
mod finish;
pub mod folders;
mod marker;
mod place;
pub mod plan;
pub mod rescue;
mod running;
mod sizes;
mod strangers;
pub mod target;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_in_place;
mod warnings;
pub mod write;

use std::path::Path;
use std::time::Instant;

pub use configuration::{ConfigFiles, ConfigurationPlan};
pub use existing::Existing;
pub use failure::RestoreError;
pub use marker::{MARKER, Marker};
pub use place::{make_folders, resolve};
pub use plan::{ArchiveMode, InPlace, Recovery, RestoreOptions, RestorePlan, TablespacePlan, facts_of, prepare};
pub use running::check_stopped;

use crate::crypt::Opening;
use crate::repo::pack::Packs;
use crate::repo::structure::Snapshot;
use crate::units::{Cancel, Progress};
use finish::Finish;
use folders::{Folders, Rights};

/// Where pg_control lies while a restore in place is under way, in `global`.
const SET_ASIDE: &str = "pg_control.pgcairn-aside";

/// What came of a restore.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Restored {
    /// Bytes of the files, holes included.
    pub bytes: u64,
    /// Bytes that were really written: no holes, and in place nothing that was there already.
    pub written_bytes: u64,
    /// Files of the snapshot, those that we made among them not counted.
    pub files: u64,
    /// Time that it took.
    pub seconds: f64,
}

/// All files are written and durable, and no server can start from them yet. Dropped, it is an interrupted restore.
#[must_use]
pub struct Ready<'a> {
    finish: Finish<'a>,
    restored: Restored,
    begun: Instant,
}

/// Writes all files of a plan; whoever calls holds a lock beside the target. From the first byte to
/// [`Ready::complete`] the target has the marker and no pg_control: it can be continued in place, and not be started.
///
/// # Errors
/// Whatever keeps it from being whole. What was written until then stays.
pub fn write<'a>(
    plan: &'a RestorePlan,
    snapshot: &Snapshot<'_>,
    packs: &Packs,
    opening: &Opening,
    jobs: usize,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Ready<'a>, RestoreError> {
    let begun = Instant::now();
    cancel.check()?;
    let folders = take_over(plan, top_rights(snapshot))?;
    if plan.in_place.is_some() {
        progress.phase("removing what is not in the snapshot", None);
        let expected = expected(plan, snapshot)?;
        strangers::remove_all(&folders, &expected.find(&folders)?)?;
        cancel.check()?;
    }
    progress.phase("writing files", Some(plan.bytes));
    let writing = write::Writing {
        snapshot,
        packs,
        opening,
        folders: &folders,
        fate: &|path| finish::fate_in(plan, path),
        wanted_folders: &finish::wanted_folders(plan),
        jobs,
        progress,
        cancel,
    };
    let written = writing.run()?;
    let restored = Restored { bytes: written.bytes, written_bytes: written.written_bytes, files: written.files.len() as u64, seconds: 0.0 };
    progress.phase("making it durable", None);
    let mut finish = Finish { plan, folders, written, rights: finish::rights_of_new(top_rights(snapshot)) };
    finish.settle()?;
    cancel.check()?;
    Ok(Ready { finish, restored, begun })
}

impl Ready<'_> {
    /// Makes it a data directory: what the server needs besides must lie in its place by now.
    ///
    /// # Errors
    /// Those of the operating system; it is then still unfinished, or whole with the marker left.
    pub fn complete(self) -> Result<Restored, RestoreError> {
        self.finish.complete()?;
        Ok(Restored { seconds: self.begun.elapsed().as_secs_f64(), ..self.restored })
    }
}

/// [`write()`] and [`Ready::complete`].
///
/// # Errors
/// Those of the two.
pub fn execute(
    plan: &RestorePlan,
    snapshot: &Snapshot<'_>,
    packs: &Packs,
    opening: &Opening,
    jobs: usize,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Restored, RestoreError> {
    write(plan, snapshot, packs, opening, jobs, progress, cancel)?.complete()
}

/// Opens the folders and makes them ours: the marker first, then pg_control is set aside. Each step is durable before
/// the next.
fn take_over(plan: &RestorePlan, top: Rights) -> Result<Folders, RestoreError> {
    let spaces = plan.spaces();
    // Between plan and lock somebody else may have come.
    match &plan.in_place {
        None => std::iter::once(&plan.target).chain(spaces.values()).try_for_each(|place| place::check_free(place))?,
        Some(in_place) => {
            running::check_stopped(&plan.target)?;
            in_place.existing.check_unchanged(&plan.target)?;
        }
    }
    let mut folders = Folders::open(&plan.target, &spaces, plan.owner)?;
    if plan.in_place.is_some() {
        folders = folders.in_place(&plan.version_folder());
    }
    folders.replace(b"", MARKER, &Marker::of(plan).encode(), finish::rights_of_new(top))?;
    if let Some(InPlace { existing, .. }) = &plan.in_place {
        if existing.has_control {
            folders.set_aside(b"global", "pg_control", SET_ASIDE)?;
        }
        if let Err(error) = check_nobody_came(&plan.target, existing) {
            if existing.has_control {
                folders.set_aside(b"global", SET_ASIDE, "pg_control")?;
            }
            if existing.marker.is_none() {
                folders.remove_file(MARKER)?;
            }
            return Err(error);
        }
    }
    Ok(folders)
}

/// From now on no server can start. One that read pg_control just before runs, and has written its postmaster.pid before
/// that; or it has ended already, and what it wrote lies in pg_wal: unknown to the plan, it would be removed as a stranger.
fn check_nobody_came(target: &Path, existing: &Existing) -> Result<(), RestoreError> {
    running::check_stopped(target)?;
    existing.check_no_server_ran(target, SET_ASIDE)
}

fn expected(plan: &RestorePlan, snapshot: &Snapshot<'_>) -> Result<strangers::Expected, RestoreError> {
    let made = write::folders_of(snapshot, &finish::wanted_folders(plan))?;
    Ok(strangers::Expected::of(snapshot, &|path| finish::fate_in(plan, path), made.keys())?.with_links(&plan.facts.left_out))
}

/// What a restore in place will remove. Nothing is touched.
fn strangers_of(plan: &RestorePlan, snapshot: &Snapshot<'_>) -> Result<Vec<Vec<u8>>, RestoreError> {
    let there = plan.spaces().into_iter().filter(|(_, place)| place.is_dir()).collect();
    let folders = Folders::open(&plan.target, &there, None)?.in_place(&plan.version_folder());
    let mut strangers = expected(plan, snapshot)?.find(&folders)?;
    // What is made anew in any case is no news.
    let own = |path: &[u8]| {
        let below = |folder: &[u8]| path.strip_prefix(folder);
        let link = below(b"pg_tblspc/").is_some_and(|name| !name.contains(&b'/'));
        let made = plan.configuration.as_ref().is_some_and(|c| c.makes(path));
        made || finish::fate_in(plan, path) != write::Fate::Write || link || below(b"pg_wal/archive_status/").is_some()
    };
    strangers.retain(|path| !own(path));
    Ok(strangers)
}

/// The data directory's own rights, as found.
fn top_rights(snapshot: &Snapshot<'_>) -> Rights {
    let top = snapshot.meta().folders.iter().find(|f| f.path.is_empty());
    match top {
        Some(top) => Rights { mode: top.mode, uid: top.uid, gid: top.gid },
        None => Rights { mode: 0o700, uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() },
    }
}
