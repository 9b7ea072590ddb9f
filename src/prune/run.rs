//! A prune from its first look to its last deletion.

use std::collections::{BTreeSet, HashSet};

use super::failure::PruneError;
use super::listing::Listing;
use super::packs;
use super::report::{Amount, Report};
use super::sessions::{self, Clock};
use super::wal::{self, WalArchive};
use crate::host::HostError;
use crate::host::access::{Opened, leftovers, remove_leftovers};
use crate::host::paths::StateDir;
use crate::recommit;
use crate::repo::log::Role;
use crate::units::{Cancel, Progress, counted};

/// What it takes.
pub struct Setting<'a> {
    /// The repository.
    pub opened: &'a Opened,
    /// The state folder: where the locks of this machine's sessions lie.
    pub state: &'a StateDir,
    /// This machine, as BEGIN names it.
    pub machine: &'a str,
    /// The time since boot; `None` where the system doesn't tell its boots apart.
    pub clock: Option<Clock>,
    /// How mostly dead packs are emptied; none: they stay.
    pub emptying: Option<&'a recommit::Setting<'a>>,
    /// The archives of all clusters under all system identifiers.
    pub archives: &'a [&'a dyn WalArchive],
    /// Asked to stop?
    pub cancel: &'a Cancel,
    /// Told of everything.
    pub progress: &'a dyn Progress,
}

/// How.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Change nothing, and say what would be done.
    pub dry_run: bool,
    /// The most bytes that are stored anew to empty packs of which little is live; `None`: 5 % of what is stored.
    pub max_rewrite: Option<u64>,
}

/// Prunes.
///
/// # Errors
/// What was done until then stands, and is not repeated by the next run.
pub fn run(setting: &Setting<'_>, options: &Options) -> Result<Report, PruneError> {
    let mut report = Report { dry_run: options.dry_run, ..Report::default() };
    setting.opened.read_whole()?;
    may_prune(setting, options.dry_run)?;
    let ended = sessions::end_dead(setting, options.dry_run, &mut report)?;
    // Before the listing: what that frees is condemned in the same run.
    if let Some(emptying) = setting.emptying {
        empty(emptying, options, &mut report)?;
    }
    setting.progress.phase("listing packs", None);
    let backend = setting.opened.backend.as_ref();
    let mut listing = Listing::read(backend, setting.cancel)??;
    setting.opened.refresh()?;
    let unknown = listing.has_unknown(&setting.opened.view().fold);
    if unknown && backend.rereads() {
        let again = Listing::read(backend, setting.cancel)??;
        listing.confirm(&setting.opened.view().fold, &again);
    }
    may_prune(setting, options.dry_run)?;
    if listing.strangers > 0 {
        report.warnings.push(format!(
            "among the packs, with names that this version does not give: {}",
            counted(listing.strangers, "object, which stays", "objects, which stay")
        ));
    }
    if options.dry_run {
        let (fold, next) = {
            let view = setting.opened.view();
            (view.fold.clone(), view.newest.number.saturating_add(1))
        };
        packs::foresee(fold, &ended, next, &listing, &mut report);
    } else {
        setting.progress.phase("condemning packs", None);
        packs::reclaim(setting, &mut listing, &mut report)?;
    }
    for archive in setting.archives {
        wal::expire(setting, *archive, &ended, options.dry_run, &mut report)?;
    }
    report.unfinished = unfinished(setting, options.dry_run)?;
    if !options.dry_run {
        // Of sessions that have ended, or are in no log: what they had stored is gone.
        let open: BTreeSet<String> = {
            let view = setting.opened.view();
            view.fold.sessions.iter().filter(|(_, s)| s.open).map(|(id, _)| id.to_string()).collect()
        };
        setting.opened.backend.remove_empty_pack_folders(&|session| !open.contains(session))?;
    }
    report.head = Some(setting.opened.view().newest);
    Ok(report)
}

/// Empties mostly dead packs, and gives what was damaged the places where it was stored anew.
fn empty(setting: &recommit::Setting<'_>, options: &Options, report: &mut Report) -> Result<(), PruneError> {
    let skipped = if options.dry_run {
        let plan = recommit::plan(setting, options.max_rewrite)?;
        plan.emptied.iter().for_each(|pack| report.emptied.add(pack.size));
        report.copied = plan.copies();
        report.recommitted = if plan.is_empty() { 0 } else { plan.snapshots.len() as u64 };
        report.healed = plan.healed.chunks as u64;
        plan.skipped
    } else {
        let done = recommit::empty(setting, options.max_rewrite)?;
        report.emptied = Amount { objects: done.emptied.len() as u64, bytes: done.emptied_bytes };
        report.copied = done.copied.1;
        report.recommitted = done.replaced.len() as u64;
        report.healed = done.healed as u64;
        report.damaged += done.bad.len() as u64;
        report.warnings.extend(
            done.bad.iter().map(|bad| format!("{}: blob {} is not what its table says, and stays: {}", bad.object, bad.blob, bad.why)),
        );
        done.skipped
    };
    report.damaged += skipped.iter().filter(|s| s.damaged).map(|s| &s.snapshot).collect::<BTreeSet<_>>().len() as u64;
    let told: BTreeSet<String> =
        skipped.into_iter().map(|s| format!("snapshot {} keeps its packs as they are: {}", s.snapshot, s.why)).collect();
    report.warnings.extend(told);
    Ok(())
}

/// Has this host the right, and is nothing in doubt by which too much could go?
fn may_prune(setting: &Setting<'_>, dry_run: bool) -> Result<(), PruneError> {
    let view = setting.opened.view();
    let key = setting.opened.signer.as_ref().and_then(|s| view.fold.keys.get(&s.id()));
    if !dry_run && !key.is_some_and(|key| key.may(Role::Maintainer, None)) {
        return Err(HostError::NoRight { what: "prune: it is no maintainer's" }.into());
    }
    view.may_delete()?;
    if view.ends_unsigned() {
        return Err(PruneError::Refused {
            what: format!(
                "the newest entry of the log, log/{}, bears no valid signature: it may be the rotten form of one that names packs",
                view.newest.number
            ),
            cure: "bring it back from a copy of the repository; if it is rubbish, the next backup's entries will prove it, and then prune"
                .into(),
        });
    }
    Ok(())
}

/// Unfinished files of sessions that have ended and of dead processes.
fn unfinished(setting: &Setting<'_>, dry_run: bool) -> Result<u64, PruneError> {
    let dead: HashSet<_> = leftovers(setting.opened)?.into_iter().collect();
    let count = setting.opened.backend.leftovers()?.into_iter().filter(|(tag, _)| dead.contains(tag)).count();
    if !dry_run {
        remove_leftovers(setting.opened)?;
    }
    Ok(count as u64)
}
