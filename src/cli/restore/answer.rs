//! What `restore` says in the end.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::announce::Announced;
use super::delta::Kept;
use super::reach::Reached;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::{answered, json};
use crate::pg::recovery::{TargetAction, TargetTimeline};
use crate::repo::log::LiveCommit;
use crate::restore::target::{OtherLine, Target, Wanted};
use crate::restore::{ArchiveMode, Recovery, RestoreOptions, RestorePlan, Restored};
use crate::units::{ByteSize, Lsn, TimelineId, counted, show};

/// A restore that is done.
pub(super) struct Done<'a> {
    pub commit: &'a LiveCommit,
    pub plan: &'a RestorePlan,
    pub restored: Restored,
    pub wanted: &'a Wanted,
    pub reached: &'a Reached,
    pub options: &'a RestoreOptions,
    pub key: Option<&'a Path>,
    pub kept: Kept,
    pub fork: &'a Announced,
}

#[derive(Serialize)]
struct Answer<'a> {
    version: u32,
    snapshot: &'a str,
    to: String,
    bytes: u64,
    written_bytes: u64,
    files: u64,
    seconds: f64,
    target: Option<TargetJson>,
    archive_mode: &'static str,
    start_command: String,
    config_files: Option<ConfigJson>,
    key_folder: Option<String>,
    in_place: bool,
    removed: usize,
    wal_pushed: &'a [String],
    wal_saved: Option<String>,
    announced: Option<AnnouncedJson>,
}

#[derive(Serialize)]
struct AnnouncedJson {
    timeline: TimelineId,
    log: u64,
}

/// Copies of configuration files that lay outside the data directory.
#[derive(Serialize)]
struct ConfigJson {
    folder: String,
    files: usize,
}

#[derive(Serialize)]
struct TargetJson {
    #[serde(rename = "type")]
    kind: &'static str,
    value: Option<String>,
    inclusive: bool,
    timeline: Option<TimelineId>,
    latest: bool,
    other_timelines: Vec<OtherJson>,
    action: &'static str,
}

#[derive(Serialize)]
struct OtherJson {
    timeline: TimelineId,
    parent: Option<TimelineId>,
    switch_lsn: Option<Lsn>,
}

fn target(done: &Done<'_>) -> Option<TargetJson> {
    done.reached.settings()?;
    let (kind, value) = match &done.wanted.target {
        Target::End => ("end", None),
        Target::Immediate => ("immediate", None),
        Target::Time(time) => ("time", Some(time.to_string())),
        Target::Lsn(lsn) => ("lsn", Some(lsn.to_string())),
        Target::Xid(xid) => ("xid", Some(xid.to_string())),
        Target::Name(name) => ("name", Some(name.clone())),
    };
    let action = match done.wanted.action {
        TargetAction::Pause => "pause",
        TargetAction::Promote => "promote",
        TargetAction::Shutdown => "shutdown",
    };
    let others = done.reached.choice().map(|c| c.others.as_slice()).unwrap_or_default().iter();
    let other = |o: &OtherLine| OtherJson { timeline: o.timeline, parent: o.left.map(|l| l.0), switch_lsn: o.left.map(|l| l.1) };
    Some(TargetJson {
        kind,
        value,
        inclusive: done.wanted.inclusive,
        timeline: done.reached.timeline(),
        latest: done.wanted.timeline == TargetTimeline::Latest,
        other_timelines: others.map(other).collect(),
        action,
    })
}

/// How the server is started. Options go through a shell twice: ours, and that of pg_ctl.
fn start_command(plan: &RestorePlan) -> String {
    let target = quoted(&plan.target.display().to_string());
    match plan.configuration.as_ref().and_then(|c| c.config_file.as_ref()) {
        Some(file) => {
            let option = format!("-c {}", quoted(&format!("config_file={}", file.display())));
            format!("pg_ctl -D {target} -o {} start", quoted(&option))
        }
        None => format!("pg_ctl -D {target} start"),
    }
}

fn quoted(text: &str) -> String {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+=:,@".contains(&b));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Says what was done.
pub(super) fn say(context: &Context, done: &Done<'_>) -> Result<(), Failure> {
    let out = &mut io::stdout().lock();
    answered(if context.settings.json { write_json(out, done) } else { write_text(out, done) })?;
    Ok(())
}

fn write_json(out: &mut dyn Write, done: &Done<'_>) -> io::Result<()> {
    let Restored { bytes, written_bytes, files, seconds } = done.restored;
    json::write(
        out,
        &Answer {
            version: 1,
            snapshot: &done.commit.summary.id,
            to: done.plan.target.display().to_string(),
            bytes,
            written_bytes,
            files,
            seconds,
            target: target(done),
            archive_mode: if done.options.archive_mode == ArchiveMode::Off { "off" } else { "preserve" },
            start_command: start_command(done.plan),
            config_files: done.plan.configuration.as_ref().map(|c| ConfigJson { folder: c.folder.display().to_string(), files: c.copies }),
            key_folder: done.key.map(|k| k.display().to_string()),
            in_place: done.plan.in_place.is_some(),
            removed: done.plan.in_place.as_ref().map_or(0, |p| p.strangers.len()),
            wal_pushed: &done.kept.pushed,
            wal_saved: done.kept.saved.as_ref().map(|p| p.display().to_string()),
            announced: match *done.fork {
                Announced::Noted { timeline, number } => Some(AnnouncedJson { timeline, log: number }),
                Announced::NotNeeded | Announced::Not { .. } => None,
            },
        },
    )
}

fn write_text(out: &mut dyn Write, done: &Done<'_>) -> io::Result<()> {
    let to = done.plan.target.display();
    let r = &done.restored;
    writeln!(
        out,
        "restored {} to {to}: {} in {}, in {:.1} s",
        done.commit.summary.id,
        ByteSize(r.bytes),
        counted(r.files, "file", "files"),
        r.seconds
    )?;
    if let Some(in_place) = &done.plan.in_place {
        let (written, removed) = (ByteSize(r.written_bytes), in_place.strangers.len());
        writeln!(
            out,
            "in place: {written} differed and were written, {} not in the snapshot and removed",
            counted(removed, "file or folder was", "files and folders were")
        )?;
    }
    if let Some(saved) = &done.kept.saved {
        writeln!(out, "WAL that is not in the archive: {}", saved.display())?;
    }
    for space in &done.plan.tablespaces {
        let name = space.name.clone().unwrap_or_else(|| space.oid.to_string());
        writeln!(out, "tablespace {name}: {}", space.place.display())?;
    }
    if let Some(c) = &done.plan.configuration {
        let (copies, folder) = (c.copies, c.folder.display());
        writeln!(
            out,
            "configuration: {} outside the data directory, to {folder}; the originals are untouched",
            counted(copies, "file that lay", "files that lay")
        )?;
    }
    writeln!(out, "start it:  {}", start_command(done.plan))?;
    match &done.options.recovery {
        Recovery::Target { .. } if done.wanted.target == Target::End => {
            writeln!(out, "it will replay WAL to the last complete record of the archive, and then be open for writing")?;
        }
        Recovery::Target { .. } => writeln!(out, "it will replay WAL to {}, and then {}", done.wanted.target, then(done.wanted.action))?,
        Recovery::Standby { .. } => writeln!(out, "it will be a standby, fed by the archive; set primary_conninfo to stream")?,
        Recovery::AsItself => writeln!(out, "it will replay the WAL that the snapshot holds, and then be open for writing")?,
        Recovery::None => writeln!(out, "no recovery settings were written: set restore_command and recovery.signal before you start it")?,
    }
    match done.options.archive_mode {
        ArchiveMode::Off => writeln!(
            out,
            "archiving is off in it (archive_mode = off at the end of postgresql.auto.conf); remove that line to turn it on, once no other server archives this cluster"
        ),
        ArchiveMode::Preserve => {
            match done.fork {
                Announced::NotNeeded => {}
                Announced::Noted { timeline, number } => {
                    writeln!(out, "its new timeline, {timeline}, is announced in the repository (log/{number}): archiving goes on")?;
                }
                Announced::Not { timeline } => writeln!(
                    out,
                    "if the line that it leaves was archived within the last hour, its new timeline is refused until you say: pgcairn archive accept-fork --timeline {timeline} --reason TEXT"
                )?,
            }
            writeln!(out, "archiving is as in the cluster's own configuration: on, if it was on there")
        }
    }
}

fn then(action: TargetAction) -> &'static str {
    match action {
        TargetAction::Pause => {
            "pause, open for reading: look at it, then say SELECT pg_wal_replay_resume() to open it for writing, or restore again to another target"
        }
        TargetAction::Promote => "be open for writing on a new timeline",
        TargetAction::Shutdown => "shut down",
    }
}

/// Says what would be done.
pub(super) fn show_plan(context: &Context, plan: &RestorePlan, commit: &LiveCommit, lines: &[String]) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Planned<'a> {
        version: u32,
        dry_run: bool,
        snapshot: &'a str,
        to: String,
        bytes: u64,
        files: u64,
        explanation: &'a [String],
        warnings: &'a [String],
        in_place: bool,
        removed: Vec<String>,
    }
    let out = &mut io::stdout().lock();
    let (snapshot, to) = (commit.summary.id.as_str(), plan.target.display().to_string());
    let (bytes, files, warnings) = (plan.bytes, plan.files, plan.warnings.as_slice());
    if context.settings.json {
        let in_place = plan.in_place.is_some();
        let removed = plan.in_place.iter().flat_map(|p| &p.strangers).map(|path| show(path)).collect();
        let planned = Planned { version: 1, dry_run: true, snapshot, to, bytes, files, explanation: lines, warnings, in_place, removed };
        answered(json::write(out, &planned))?;
        return Ok(());
    }
    let write = |out: &mut dyn Write| {
        for line in lines {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "{plan}")
    };
    answered(write(out))?;
    Ok(())
}
