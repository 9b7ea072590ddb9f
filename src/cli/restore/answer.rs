//! What a restore says at its end.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::args::Args;
use super::choice::{Chosen, timeline_words};
use crate::cli::output::{one_line, progress};
use crate::pg::recovery::TargetAction;
use crate::restore::target::Target;
use crate::restore::{ArchiveMode, Recovery, RestoreOptions, RestorePlan, Restored};
use crate::units::ByteSize;

/// All that the answer is made of.
pub(super) struct Answer<'a> {
    pub args: &'a Args,
    pub chosen: &'a Chosen<'a>,
    pub plan: &'a RestorePlan,
    pub options: &'a RestoreOptions,
}

#[derive(Serialize)]
pub(super) struct Json<'a> {
    version: u32,
    snapshot: &'a str,
    to: String,
    bytes: u64,
    written_bytes: u64,
    seconds: f64,
    target: Option<TargetJson>,
    start_command: String,
    dry_run: bool,
    files: u64,
    timeline: Option<u32>,
    archive_mode: &'static str,
    explanation: &'a [String],
    warnings: Vec<&'a String>,
}

#[derive(Serialize)]
struct TargetJson {
    kind: &'static str,
    value: Option<String>,
    inclusive: bool,
    timeline: String,
    action: &'static str,
}

impl<'a> Answer<'a> {
    /// For scripts; nothing was done yet where `restored` is none.
    pub fn json(&self, restored: Option<&Restored>) -> Json<'a> {
        Json {
            version: 1,
            snapshot: self.chosen.listed.commit.summary.id.as_str(),
            to: self.plan.target.display().to_string(),
            bytes: self.plan.bytes,
            written_bytes: restored.map_or(0, |r| r.written_bytes),
            seconds: restored.map_or(0.0, |r| r.seconds),
            target: self.target(),
            start_command: start_command(&self.plan.target),
            dry_run: restored.is_none(),
            files: restored.map_or(self.plan.files, |r| r.files),
            timeline: self.chosen.timeline.map(|t| t.0),
            archive_mode: if self.options.archive_mode == ArchiveMode::Off { "off" } else { "preserve" },
            explanation: &self.chosen.explanation,
            warnings: self.chosen.warnings.iter().chain(&self.plan.warnings).collect(),
        }
    }

    fn target(&self) -> Option<TargetJson> {
        let wanted = self.args.wanted();
        let (kind, value) = match &wanted.target {
            Target::End => return None,
            Target::Immediate => ("immediate", None),
            Target::Time(time) => ("time", Some(time.to_string())),
            Target::Lsn(lsn) => ("lsn", Some(lsn.to_string())),
            Target::Xid(xid) => ("xid", Some(xid.to_string())),
            Target::Name(name) => ("name", Some(name.clone())),
        };
        let action = match wanted.action {
            TargetAction::Pause => "pause",
            TargetAction::Promote => "promote",
            TargetAction::Shutdown => "shutdown",
        };
        Some(TargetJson { kind, value, inclusive: wanted.inclusive, timeline: timeline_words(wanted.timeline), action })
    }

    /// The plan, for `--dry-run`.
    pub fn write_plan(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "This would be done; nothing was written.")?;
        self.write_explanation(out)?;
        write!(out, "{}", self.plan)?;
        self.write_archiving(out)
    }

    /// For people.
    pub fn write_text(&self, out: &mut dyn Write, restored: &Restored) -> io::Result<()> {
        let plan = self.plan;
        writeln!(
            out,
            "restored {} to {}: {} files, {}, in {}",
            self.chosen.listed.commit.summary.id,
            plan.target.display(),
            restored.files,
            ByteSize(restored.bytes),
            progress::for_people(restored.seconds.round() as u64)
        )?;
        self.write_explanation(out)?;
        for space in &plan.tablespaces {
            writeln!(out, "  tablespace {} is at {}", space.name.as_deref().unwrap_or("?"), space.place.display())?;
        }
        writeln!(out, "start the server: {}", start_command(&plan.target))?;
        self.write_how_to_go_on(out)?;
        self.write_archiving(out)
    }

    fn write_explanation(&self, out: &mut dyn Write) -> io::Result<()> {
        self.chosen.explanation.iter().try_for_each(|line| writeln!(out, "  {}", one_line(line)))
    }

    fn write_how_to_go_on(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.options.recovery {
            Recovery::Target { settings, .. } => match settings.action {
                TargetAction::Pause => writeln!(
                    out,
                    "at the target the server pauses and can be read: `SELECT pg_wal_replay_resume();` opens it for good; for another target, restore again"
                ),
                TargetAction::Promote => writeln!(out, "at the target the server opens by itself, on a new timeline"),
                TargetAction::Shutdown => {
                    writeln!(out, "at the target the server shuts down; recovery.signal stays, and starting it again goes on from there")
                }
            },
            Recovery::Standby { .. } => writeln!(out, "it stays a standby until it is promoted; primary_conninfo is yours to set"),
            Recovery::AsItself => writeln!(out, "the server opens by itself"),
            Recovery::None => writeln!(out, "no recovery settings were written"),
        }
    }

    fn write_archiving(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.options.archive_mode {
            ArchiveMode::Off => writeln!(
                out,
                "archiving is off in what was restored (archive_mode = off in postgresql.auto.conf): to turn it on, `ALTER SYSTEM RESET archive_mode` and restart"
            ),
            ArchiveMode::Preserve => writeln!(
                out,
                "archiving is as it was configured in the cluster, into its own archive: to turn it off, `ALTER SYSTEM SET archive_mode = off` before it is started elsewhere"
            ),
        }?;
        out.flush()
    }
}

fn start_command(target: &Path) -> String {
    let path = target.display().to_string();
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    let path = if plain { path } else { format!("'{}'", path.replace('\'', r"'\''")) };
    format!("pg_ctl -D {path} start")
}
