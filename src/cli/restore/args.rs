//! Arguments of `restore`.

use std::path::PathBuf;

use crate::look::SnapshotName;
use crate::pg::recovery::{TargetAction, TargetTimeline};
use crate::repo::log::Head;
use crate::restore::ArchiveMode;
use crate::restore::target::{Target, Wanted};
use crate::units::{Lsn, TimelineId, Timestamp};

/// Arguments of `restore`.
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("target").multiple(false)))]
pub(in crate::cli) struct Args {
    /// An id, the beginning of one, latest, latest~N [default: the newest that reaches the target]
    pub snapshot: Option<SnapshotName>,
    /// The data directory to make: an empty folder, or none yet
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Recover to this time, with its zone: 2026-11-24T13:30:00Z, "2026-11-24 13:30:00+01"
    #[arg(long, value_name = "TIME", group = "target")]
    pub target_time: Option<Timestamp>,
    /// Recover to this position of WAL
    #[arg(long, value_name = "LSN", group = "target")]
    pub target_lsn: Option<Lsn>,
    /// Recover to the end of this transaction
    #[arg(long, value_name = "XID", group = "target")]
    pub target_xid: Option<u64>,
    /// Recover to this restore point
    #[arg(long, value_name = "NAME", group = "target")]
    pub target_name: Option<String>,
    /// Recover to the end of the backup, and no further
    #[arg(long, group = "target")]
    pub target_immediate: bool,
    /// Along which timeline: latest, current, or its number [default: latest]
    #[arg(long, value_name = "TIMELINE", value_parser = timeline)]
    pub target_timeline: Option<TargetTimeline>,
    /// Without what lies at the target
    #[arg(long, requires = "target")]
    pub target_exclusive: bool,
    /// What the server does at the target: pause, promote, shutdown [default: pause]
    #[arg(long, value_name = "ACTION", value_parser = action, requires = "target")]
    pub target_action: Option<TargetAction>,
    /// Put a tablespace elsewhere; may be given several times
    #[arg(long = "tablespace", value_name = "OID_OR_NAME=DIR", value_parser = mapping)]
    pub tablespaces: Vec<(String, PathBuf)>,
    /// Put all other tablespaces below this folder, each to its oid
    #[arg(long, value_name = "DIR")]
    pub tablespace_root: Option<PathBuf>,
    /// Leave the recovery settings out: you write them
    #[arg(long, conflicts_with_all = ["standby", "target_action", "target_exclusive"])]
    pub no_recovery: bool,
    /// Make a standby
    #[arg(long, conflicts_with_all = ["target", "target_timeline"])]
    pub standby: bool,
    /// Does what is restored archive: off, preserve (as it did) [default: off, but for a standby and in the cluster's own pgdata]
    #[arg(long, value_name = "MODE", value_parser = archive_mode)]
    pub archive_mode: Option<ArchiveMode>,
    /// The restore_command to write, where the server runs elsewhere
    #[arg(long, value_name = "COMMAND")]
    pub restore_command: Option<String>,
    /// A further setting for the restored server; may be given several times
    #[arg(long = "recovery-option", value_name = "NAME=VALUE", value_parser = setting)]
    pub recovery_options: Vec<(String, String)>,
    /// Refuse a repository whose log has not this entry, which `backup` has printed
    #[arg(long, value_name = "NUMBER:HASH", value_parser = head)]
    pub expect: Option<Head>,
    /// Check everything, print what would be done, write nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl Args {
    /// Did the user name a target?
    pub fn has_target(&self) -> bool {
        self.target_time.is_some()
            || self.target_lsn.is_some()
            || self.target_xid.is_some()
            || self.target_name.is_some()
            || self.target_immediate
    }

    /// Did the user write restore_command?
    pub fn has_own_command(&self) -> bool {
        self.restore_command.is_some()
    }

    /// What is wanted of recovery.
    pub fn wanted(&self) -> Wanted {
        let target = match (self.target_time, self.target_lsn, self.target_xid, &self.target_name) {
            (Some(time), ..) => Target::Time(time),
            (_, Some(lsn), ..) => Target::Lsn(lsn),
            (_, _, Some(xid), _) => Target::Xid(xid),
            (_, _, _, Some(name)) => Target::Name(name.clone()),
            _ if self.target_immediate => Target::Immediate,
            _ => Target::End,
        };
        Wanted {
            target,
            inclusive: !self.target_exclusive,
            timeline: self.target_timeline.unwrap_or(TargetTimeline::Latest),
            action: self.target_action.unwrap_or(TargetAction::Pause),
        }
    }
}

fn timeline(text: &str) -> Result<TargetTimeline, String> {
    match text {
        "latest" => Ok(TargetTimeline::Latest),
        "current" => Ok(TargetTimeline::Current),
        number => match number.parse::<u32>() {
            Ok(number) if number > 0 => Ok(TargetTimeline::Number(TimelineId(number))),
            _ => Err("latest, current or a timeline's number is expected".into()),
        },
    }
}

fn action(text: &str) -> Result<TargetAction, String> {
    match text {
        "pause" => Ok(TargetAction::Pause),
        "promote" => Ok(TargetAction::Promote),
        "shutdown" => Ok(TargetAction::Shutdown),
        _ => Err("pause, promote or shutdown is expected".into()),
    }
}

fn archive_mode(text: &str) -> Result<ArchiveMode, String> {
    match text {
        "off" => Ok(ArchiveMode::Off),
        "preserve" => Ok(ArchiveMode::Preserve),
        _ => Err("off or preserve is expected".into()),
    }
}

fn head(text: &str) -> Result<Head, String> {
    text.parse::<Head>().map_err(str::to_owned)
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

fn mapping(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => Ok((name.to_owned(), PathBuf::from(folder))),
        _ => Err("OID_OR_NAME=DIR is expected".into()),
    }
}
