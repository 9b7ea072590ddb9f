//! `restore`: a snapshot into a data directory, told where recovery has to stop.
//!
//! - `args.rs`: what can be asked · `choice.rs`: which snapshot, timeline and target that comes to
//! - `command.rs`: the restore_command, and the key that its user needs · `alive.rs`: a session that lasts as long as the
//!   restore · `answer.rs`: what is said at the end

mod alive;
mod answer;
mod args;
mod choice;
mod command;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(super) use args::Args;

use super::context::{Context, Here};
use super::contract::Exit;
use super::failure::Failure;
use super::output::{answered, json};
use alive::Reading;
use answer::Answer;
use choice::Chosen;
use command::{FetchCommand, Reader};

use crate::host::access::{Need, Opened};
use crate::host::config::ClusterSettings;
use crate::host::lock::FileLock;
use crate::look;
use crate::pg::backup_manifest::WalRange;
use crate::repo::log::Summary;
use crate::repo::structure::Snapshot;
use crate::restore::check::{Tried, try_restore_command};
use crate::restore::{self, ArchiveMode, Recovery, RestoreOptions, RestorePlan, Restored};
use crate::units::{Progress, Timestamp};

/// How long the restore_command may take for one file when it is tried.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let configured = context.cluster_if_one()?;
    let here = context.here(configured.as_ref(), Need::Read)?;
    let opened = Arc::new(context.open(&here, Need::Read)?);
    say_how_new(context, args, &opened)?;
    // Held for moments only: the restore reads the log on.
    let fold = opened.view().fold.clone();
    let chosen = choice::choose(context, args, &opened, &fold)?;
    let summary = &chosen.listed.commit.summary;
    let snapshot = look::open(&opened, &chosen.listed)?;
    let reader = Reader::of(&args.to, &snapshot)?;
    let fetch = FetchCommand::find(context, args, &here, &opened, summary, &reader)?;
    let options = options(args, &chosen, &fetch, configured.as_ref(), summary)?;
    let plan = restore::prepare(&snapshot, &options)?;
    let answer = Answer { args, chosen: &chosen, plan: &plan, options: &options };
    for line in chosen.warnings.iter().chain(&plan.warnings) {
        context.reporter.warn(line);
    }
    let out = &mut io::stdout().lock();
    if args.dry_run {
        answered(if context.settings.json { json::write(out, &answer.json(None)) } else { answer.write_plan(out) })?;
        return Ok(Exit::DONE);
    }
    let restored = carry_out(context, &here, &opened, &chosen, &plan, &snapshot)?;
    fetch.give_key(context, &opened, &reader)?;
    let works = fetch.is_used_by(&options.recovery) && !args.has_own_command();
    let works = !works || try_command(context, &fetch, &chosen, &plan)?;
    answered(if context.settings.json { json::write(out, &answer.json(Some(&restored))) } else { answer.write_text(out, &restored) })?;
    Ok(if works { Exit::DONE } else { Exit::LOOK })
}

/// A store that is set back is noticed by who remembers, or by who is told: the age is said, and `--expect` refuses.
fn say_how_new(context: &Context, args: &Args, opened: &Opened) -> Result<(), Failure> {
    let view = opened.view();
    if let Some(expected) = &args.expect {
        opened.log().check_remembered(&view, expected)?;
    }
    let age = Timestamp::now().seconds_since(view.fold.newest_time).max(0.0) as u64;
    context.reporter.info(&format!(
        "newest entry of the log: {} of {}, {} ago",
        view.newest.number,
        view.fold.newest_time.for_people(),
        super::output::progress::for_people(age)
    ));
    Ok(())
}

fn options(
    args: &Args,
    chosen: &Chosen<'_>,
    fetch: &FetchCommand,
    configured: Option<&ClusterSettings>,
    summary: &Summary,
) -> Result<RestoreOptions, Failure> {
    let recovery = match &chosen.settings {
        _ if args.no_recovery => Recovery::None,
        _ if args.standby => Recovery::Standby { restore_command: fetch.line() },
        Some(settings) => Recovery::Target { restore_command: fetch.line(), settings: settings.clone() },
        None => Recovery::AsItself,
    };
    let ranges = summary.wal.iter().flat_map(|w| &w.ranges);
    Ok(RestoreOptions {
        archive_mode: archive_mode(args, configured)?,
        to: args.to.clone(),
        tablespaces: args.tablespaces.clone(),
        tablespace_root: args.tablespace_root.clone(),
        recovery,
        settings: args.recovery_options.clone(),
        wal_ranges: ranges.map(|r| WalRange { timeline: r.timeline, start: r.first, end: r.last }).collect(),
    })
}

/// A copy elsewhere must not push into the archive of its original; the cluster itself, or its standby, goes on.
fn archive_mode(args: &Args, configured: Option<&ClusterSettings>) -> Result<ArchiveMode, Failure> {
    if let Some(mode) = args.archive_mode {
        return Ok(mode);
    }
    let own = match configured.and_then(|c| c.pgdata.as_deref()) {
        Some(pgdata) => restore::resolve(pgdata).ok() == Some(restore::resolve(&args.to)?),
        None => false,
    };
    Ok(if own || args.standby { ArchiveMode::Preserve } else { ArchiveMode::Off })
}

/// Writes, under a lock beside the target and with a session that says which snapshot is read.
fn carry_out(
    context: &Context,
    here: &Here,
    opened: &Arc<Opened>,
    chosen: &Chosen<'_>,
    plan: &RestorePlan,
    snapshot: &Snapshot<'_>,
) -> Result<Restored, Failure> {
    let lock = lock_target(context, &plan.target)?;
    let reading = Reading::begin(context, here, opened, chosen.listed.number)?;
    let jobs = context.settings.jobs.get();
    let restored = reading.during(context, || {
        restore::execute(plan, snapshot, &opened.packs, opened.reader()?, jobs, &context.reporter, &context.cancel).map_err(Failure::from)
    });
    opened.settle(&here.place(&context.reporter));
    drop(lock);
    restored
}

fn lock_target(context: &Context, target: &Path) -> Result<FileLock, Failure> {
    if let Some(parent) = target.parent() {
        // As the restore would make it; where it can't, the lock says so.
        drop(std::fs::create_dir_all(parent));
    }
    let lock = FileLock::for_target(target)?;
    if lock.was_orphan() {
        context.reporter.warn(&format!("{} was left behind by a restore that was killed", lock.path().display()));
    }
    Ok(lock)
}

/// Tries the restore_command as the server will call it. What it can't do is said; the data directory is whole.
fn try_command(context: &Context, fetch: &FetchCommand, chosen: &Chosen<'_>, plan: &RestorePlan) -> Result<bool, Failure> {
    context.reporter.phase("trying restore_command", None);
    match try_restore_command(&fetch.line(), &plan.target, &chosen.probe, PATIENCE)? {
        Tried::Brought(_) => Ok(true),
        Tried::Absent { .. } => Ok(true),
        Tried::Failed { how, said } => {
            context.reporter.warn(&format!("restore_command does not work for the owner of {}: {how}", plan.target.display()));
            said.lines().for_each(|line| context.reporter.warn(&format!("  {line}")));
            context.reporter.warn(fetch.cure());
            Ok(false)
        }
    }
}
