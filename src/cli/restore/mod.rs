//! `restore`: a data directory out of the repository, and what its server is told.
//!
//! - `args.rs`: the arguments, and what is wanted by them
//! - `reach.rs`: snapshots and archive of the cluster, and the choice among them
//! - `delta.rs`: in place: what stands there, and its WAL that the archive doesn't have
//! - `command.rs`: the restore_command, and the key that it will find
//! - `announce.rs`: the new timeline of a cluster that is restored in its own place, said in the log beforehand
//! - `answer.rs`: what is said in the end

mod announce;
mod answer;
mod args;
mod command;
mod delta;
mod reach;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

pub(super) use args::Args;

use super::context::{Context, Here};
use super::contract::Exit;
use super::failure::Failure;
use super::fronts::CatalogFronts;
use super::tail::OpenedTail;
use crate::archive::{self, Archive, GetContext};
use crate::host::access::{Need, OpenSession, Opened};
use crate::host::lock::FileLock;
use crate::host::machine::MachineId;
use crate::host::{HostError, service_variables};
use crate::pg::wal::WalFileName;
use crate::repo::RepoError;
use crate::repo::log::{Begin, LiveCommit, LogError, Void};
use crate::repo::pack::Place;
use crate::repo::structure::Snapshot;
use crate::repo::write::Uploaded;
use crate::restore::{self, ArchiveMode, Recovery, RestoreError, RestoreOptions, RestorePlan};
use crate::units::ids::hex;
use crate::units::{Progress, SegmentName, Timestamp};
use answer::Done;
use command::GetCommand;
use reach::Reached;

/// How long the trial of the restore_command may take.
const TRIAL: Duration = Duration::from_secs(120);
/// Between two occasions for a sign of life.
const OFTEN: Duration = Duration::from_secs(30);

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let wanted = args.wanted()?;
    let cluster = context.cluster_if_one()?;
    let here = context.here(cluster.as_ref(), Need::Read)?;
    let opened = context.open(&here, Need::Read)?;
    opened.read_whole_where_damaged()?;
    say_age(context, &opened, args)?;
    let stands_there = delta::stands_there(args)?;
    // What was pushed, saved and said of a folder must hold until it is written to.
    let mut lock = match &stands_there {
        Some((target, _)) if !args.dry_run => Some(lock(context, target)?),
        _ => None,
    };
    let mut target = match stands_there {
        Some((path, existing)) => Some(delta::Target::look(context, &opened, args, path, existing)?),
        None => None,
    };
    let (here, opened) = if args.dry_run { (here, opened) } else { delta::open_to_push(context, here, opened, target.as_ref())? };
    let opened = Arc::new(opened);
    if let Some(target) = target.as_mut().filter(|_| !args.dry_run) {
        target.push(context, &here, &opened, &reach::cluster_of(context, &opened, args)?.name)?;
    }
    let own_wal = target.as_ref().map(|target| target.own_segments(!args.dry_run)).unwrap_or_default();
    let reached = reach::reach(context, &opened, args, &wanted, &own_wal)?;
    let commit = reached.commit.clone();
    let opening = opened.reader()?;
    let place = Place {
        pack: commit.root.place.pack,
        blob: commit.root.place.blob,
        position: u16::try_from(commit.root.place.position).unwrap_or(u16::MAX),
    };
    let packs = {
        let view = opened.view();
        opened.packs_of(&view.fold, &commit)?
    };
    // In place little may differ, and only the tables of that are needed.
    if target.is_none() && !args.dry_run {
        packs.all_tables_ahead();
    }
    let snapshot = Snapshot::open(&packs, opening, commit.root.chunk.short(), place, commit.root.digest)
        .map_err(|e| vanished(&opened, &reached, e.into()))?;
    let own = cluster.as_ref().and_then(|c| c.pgdata.as_deref());
    let mut get = GetCommand::find(context, &here, &opened, args, &commit)?;
    let existing = target.as_ref().map(|target| target.existing.clone());
    let options = RestoreOptions { in_place: existing, ..options(context, &opened, args, &reached, &get, own)? };
    if !matches!(options.recovery, Recovery::Target { .. } | Recovery::Standby { .. }) {
        get.is_not_needed();
    }
    get.check(context, &opened, &crate::restore::resolve(&args.to)?)?;
    let mut plan = restore::prepare(&snapshot, &options).map_err(|e| vanished(&opened, &reached, e))?;
    let mut lines = reached.lines();
    if args.dry_run {
        lines.extend(target.iter().flat_map(delta::Target::lines));
        answer::show_plan(context, &plan, &commit, &lines)?;
        return Ok(Exit::DONE);
    }
    lines.iter().for_each(|line| context.reporter.info(line));
    reached.warnings().iter().chain(&plan.warnings).for_each(|line| context.reporter.warn(line));
    if let Some(target) = &mut target {
        target.save(context, &mut plan, &reached)?;
    }
    if lock.is_none() {
        if let Some(parent) = plan.target.parent() {
            restore::make_folders(parent, plan.owner)?;
        }
        lock = Some(self::lock(context, &plan.target)?);
    }
    // The session is held as long as files are written: nothing of the snapshot can be swept meanwhile.
    let session = begin(context, &opened, &here, &reached)?;
    let fork = announce::announce(context, &opened, &reached, &options, &plan, is_own_place(own, &args.to));
    let jobs = context.settings.jobs.get();
    let ready =
        alive(context, session.as_deref(), || restore::write(&plan, &snapshot, &packs, opening, jobs, &context.reporter, &context.cancel))
            .map_err(|e| vanished(&opened, &reached, e))?;
    // Before pg_control: a server that can start finds what it needs to recover.
    get.place_key(context, &opened, &plan.target)?;
    let restored = ready.complete()?;
    drop(lock);
    let trial = try_command(context, &opened, &plan, &options, &commit);
    if let Some(session) = session.and_then(Arc::into_inner) {
        // A session that can't be ended now is ended when its lock is found free.
        let _ = session.abort();
    }
    opened.settle(&here.place(&context.reporter));
    context.reporter.phase("", None);
    let done = Done {
        commit: &commit,
        plan: &plan,
        restored,
        wanted: &wanted,
        reached: &reached,
        options: &options,
        key: get.key_folder(),
        kept: target.map(|target| target.kept).unwrap_or_default(),
        fork: &fork,
    };
    match trial {
        // One document is the answer, and the failure is one.
        Err(e) if context.settings.json => Err(e),
        trial => {
            answer::say(context, &done)?;
            trial.map(|()| Exit::DONE)
        }
    }
}

/// How old what the repository says is; with `--expect`, that it is not older than what is known.
fn say_age(context: &Context, opened: &Opened, args: &Args) -> Result<(), Failure> {
    let view = opened.view();
    if let Some(head) = &args.expect {
        opened.log().check_remembered(&view, head)?;
    }
    let age = Timestamp::now().seconds_since(view.fold.newest_time).max(0.0) as u64;
    let (newest, time) = (view.newest.number, view.fold.newest_time.for_people());
    context
        .reporter
        .info(&format!("the repository's newest entry is log/{newest} of {time}, {} ago", super::output::progress::for_people(age)));
    Ok(())
}

/// What isn't there may have gone since the log was read, with the COMMIT that is restored: where this restore could not be
/// announced, no prune waits for it. That is another answer than damage.
fn vanished(opened: &Opened, reached: &Reached, error: RestoreError) -> Failure {
    let may_be = match &error {
        RestoreError::Repo(RepoError::Store(e)) => e.is_absent(),
        RestoreError::Repo(RepoError::UnknownPack { .. }) => true,
        _ => false,
    };
    if !may_be || opened.refresh().is_err() {
        return error.into();
    }
    let view = opened.view();
    if view.fold.commits.contains_key(&reached.number) {
        return error.into();
    }
    let id = &reached.commit.summary.id;
    let announced = "a host that can write to the repository announces its restores, and prunes wait for them";
    if view.fold.commits_of(id).next().is_some() {
        return Failure::refused(
            format!("a prune ran meanwhile: snapshot {id} lies in other packs now, and what was still to be read has been removed"),
            format!("run the same again, with --delta if the folder is no longer empty; {announced}"),
        );
    }
    Failure::refused(
        format!(
            "snapshot {id} was forgotten while it was being restored, and a prune that ran meanwhile has removed what was still to be read"
        ),
        format!("restore a newer snapshot (`pgcairn list`), with --delta if the folder is no longer empty; {announced}"),
    )
}

/// A session that reads, if this host can write one. Whatever keeps it from being announced, a restore goes on: only that
/// the snapshot is no longer there is an answer.
fn begin(context: &Context, opened: &Arc<Opened>, here: &Here, reached: &Reached) -> Result<Option<Arc<OpenSession>>, Failure> {
    let (Some(_), Some(state)) = (&opened.signer, &here.state) else { return Ok(None) };
    let begin = |machine: MachineId| {
        let begin = Begin { purpose: "restore".into(), machine: hex(machine.as_bytes()), reads: Some(reached.number), ..Begin::default() };
        OpenSession::begin(opened, &state.locks(), begin)
    };
    let unannounced = match MachineId::of_this_machine(state).map(begin) {
        Ok(Ok(session)) => return Ok(Some(Arc::new(session))),
        Ok(Err(HostError::Log(LogError::Void { void: Void::Rule(why), kind }))) => {
            return Err(HostError::Log(LogError::Void { void: Void::Rule(why), kind }).into());
        }
        Ok(Err(e)) => e.to_string(),
        Err(e) => e.to_string(),
    };
    context.reporter.warn(&format!("this restore can't be announced in the repository ({unannounced}); it goes on without"));
    Ok(None)
}

/// Does `work`, and lets the session give signs of life meanwhile: after an hour without any it would be ended by others.
fn alive<T>(context: &Context, session: Option<&OpenSession>, work: impl FnOnce() -> T) -> T {
    let Some(session) = session else { return work() };
    std::thread::scope(|scope| {
        let (done, ended) = channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(OFTEN) == Err(RecvTimeoutError::Timeout) {
                if let Err(e) = session.told(Uploaded::Idle) {
                    context.reporter.detail(&format!("no sign of life of the restore's session: {e}"));
                }
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// The lock that keeps a second restore away from the same target.
fn lock(context: &Context, target: &Path) -> Result<FileLock, Failure> {
    let lock = FileLock::for_target(target)?;
    if lock.was_orphan() {
        context.reporter.warn(&format!("{} was left behind by a restore that was killed", lock.path().display()));
    }
    Ok(lock)
}

fn options(
    context: &Context,
    opened: &Opened,
    args: &Args,
    reached: &Reached,
    get: &GetCommand,
    own: Option<&Path>,
) -> Result<RestoreOptions, Failure> {
    let recovery = if args.no_recovery {
        Recovery::None
    } else if args.standby {
        Recovery::Standby { restore_command: get.line()? }
    } else {
        match reached.settings() {
            Some(settings) => Recovery::Target { restore_command: get.line()?, settings: settings.clone() },
            None => Recovery::AsItself,
        }
    };
    let mut archive_mode = match args.archive_mode {
        Some(mode) => mode.into(),
        None if args.standby || is_own_place(own, &args.to) => ArchiveMode::Preserve,
        None => ArchiveMode::Off,
    };
    if archive_mode == ArchiveMode::Preserve && recovery == Recovery::AsItself && is_archived_behind(context, opened, &reached.commit)? {
        // On the same timeline it would write segments anew that the archive has otherwise.
        if args.archive_mode.is_some() {
            return Err(Failure::refused(
                "the archive has WAL behind this snapshot, and the server would write the same segments anew: none of them could be archived",
                "leave --archive-mode preserve out, or restore to the end of the archive",
            ));
        }
        context.reporter.warn(
            "the archive has WAL behind this snapshot, and the server will write the same segments anew: archiving is switched off in it",
        );
        archive_mode = ArchiveMode::Off;
    }
    Ok(RestoreOptions {
        snapshot: reached.commit.summary.id.clone(),
        to: args.to.clone(),
        in_place: None,
        tablespaces: args.tablespace.clone(),
        tablespace_root: args.tablespace_root.clone(),
        recovery,
        archive_mode,
        config_files: args.config_files.into(),
        settings: args.recovery_option.clone(),
        wal_ranges: reached.commit.summary.wal.as_ref().map(|w| w.ranges.clone()).unwrap_or_default().iter().map(args::range).collect(),
    })
}

/// Is that the cluster's own data directory, by the configuration?
fn is_own_place(own: Option<&Path>, to: &Path) -> bool {
    own.is_some_and(|own| restore::resolve(own).ok().is_some_and(|own| restore::resolve(to).is_ok_and(|to| to == own)))
}

/// Does the archive hold anything of what a server would write behind this snapshot?
fn is_archived_behind(context: &Context, opened: &Opened, commit: &LiveCommit) -> Result<bool, Failure> {
    let Some(wal) = &commit.summary.wal else { return Ok(false) };
    let cluster = commit.summary.cluster_id();
    let tail = OpenedTail::new(opened, &cluster.name)?;
    let archive = Archive::read(&tail.site(), cluster.system_identifier, &CatalogFronts::of(opened), &context.cancel)?;
    let timeline = wal.ranges.last().map_or(wal.timeline, |range| range.timeline);
    let stop = wal.segment_size.segment_of(wal.stop_lsn);
    Ok(archive.segments.values().any(|entry| entry.facts.timeline == timeline && entry.facts.no >= stop))
}

/// Has the archive this segment?
fn has(opened: &Opened, commit: &LiveCommit, name: SegmentName) -> Result<bool, Failure> {
    let cluster = commit.summary.cluster_id();
    let tail = OpenedTail::new(opened, &cluster.name)?;
    let get = GetContext { site: tail.site(), opening: opened.reader()?, system_identifier: cluster.system_identifier };
    Ok(archive::fetch(&get, &WalFileName::Segment(name))?.is_some())
}

/// Runs the restore_command once, as the server's user will.
fn try_command(
    context: &Context,
    opened: &Opened,
    plan: &RestorePlan,
    options: &RestoreOptions,
    commit: &LiveCommit,
) -> Result<(), Failure> {
    use restore::check::Tried;
    let command = match &options.recovery {
        Recovery::Target { restore_command, .. } | Recovery::Standby { restore_command } => restore_command,
        Recovery::AsItself | Recovery::None => return Ok(()),
    };
    let Some(wal) = &commit.summary.wal else { return Ok(()) };
    let first = SegmentName::new(wal.timeline, wal.segment_size.segment_of(wal.start_lsn), wal.segment_size);
    context.reporter.phase("trying restore_command", None);
    let of_service = if opened.backend.folder().is_none() { service_variables(std::env::vars_os()) } else { Vec::new() };
    let attempt = |environment: &[_]| restore::check::try_restore_command(command, &plan.target, &first.to_string(), environment, TRIAL);
    let mut tried = attempt(&[])?;
    if matches!(tried, Tried::Failed { .. }) && !of_service.is_empty() {
        // Credentials that this process has from its environment: the server may be given the same.
        let again = attempt(&of_service)?;
        if !matches!(again, Tried::Failed { .. }) {
            let names: Vec<String> = of_service.iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
            context.reporter.warn(&format!(
                "restore_command works with {} of this environment, and not without: start the server with them, or put credentials into .aws \
                 in the home of the server's user",
                names.join(", ")
            ));
            tried = again;
        }
    }
    let (how, said) = match tried {
        Tried::Brought(_) => return Ok(()),
        // A snapshot that holds its own WAL need not have it in the archive.
        Tried::Absent { .. } if !has(opened, commit, first)? => return Ok(()),
        Tried::Absent { code, said } => (format!("exit {code}, as if {first} were not in the archive, which it is"), said),
        Tried::Failed { how, said } => (how, said),
    };
    let cure = if said.contains(&no_room()) {
        "make room there: the server needs it for WAL as well. Nothing has to be restored again, the server can be started then".into()
    } else {
        format!(
            "give that user what it needs (the repository readable; credentials, if it is a bucket; a key: a key file or a state folder), or \
             another --restore-command; it is: {command}"
        )
    };
    let said = if said.trim().is_empty() { String::new() } else { format!(": {}", said.trim()) };
    Err(Failure::refused(
        format!("all files are restored, but restore_command does not work for the owner of {} ({how}{said})", plan.target.display()),
        cure,
    ))
}

/// How a full disk is called by a command whose words are all that is known of it.
fn no_room() -> String {
    let text = std::io::Error::from_raw_os_error(nix::libc::ENOSPC).to_string();
    text.split(" (").next().unwrap_or(&text).to_owned()
}
