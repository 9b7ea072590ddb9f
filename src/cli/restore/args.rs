//! Arguments of `restore`.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::cli::failure::Failure;
use crate::look::SnapshotName;
use crate::pg::backup_manifest;
use crate::pg::recovery::{TargetAction, TargetTimeline};
use crate::repo::log;
use crate::restore::target::{Target, Wanted};
use crate::restore::{ArchiveMode, ConfigFiles};
use crate::units::{Lsn, TimelineId, Timestamp};

/// Arguments of `restore`.
#[derive(clap::Args, Debug)]
#[command(group = clap::ArgGroup::new("target").args(["target_time", "target_lsn", "target_xid", "target_name", "target_immediate"]))]
pub(in crate::cli) struct Args {
    /// An id, the beginning of one, latest, or latest~N (default: the newest that reaches the target)
    pub snapshot: Option<SnapshotName>,
    /// The data directory to make
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// In place: over this cluster's data directory, whose server is stopped, or what an interrupted restore left
    #[arg(long)]
    pub delta: bool,
    /// With --delta: WAL in its pg_wal that the archive lacks is moved aside, not pushed
    #[arg(long, requires = "delta")]
    pub no_push: bool,
    /// Up to this time, with a zone: "2026-11-24 13:30:00+01"
    #[arg(long, value_name = "TIME")]
    pub target_time: Option<Timestamp>,
    /// Up to this position in WAL
    #[arg(long, value_name = "LSN")]
    pub target_lsn: Option<Lsn>,
    /// Up to the commit of this transaction
    #[arg(long, value_name = "XID")]
    pub target_xid: Option<u64>,
    /// Up to this restore point
    #[arg(long, value_name = "NAME")]
    pub target_name: Option<String>,
    /// As soon as the cluster is consistent
    #[arg(long)]
    pub target_immediate: bool,
    /// Along which timeline: latest, current (the snapshot's), or a number
    #[arg(long, value_name = "TIMELINE", value_parser = timeline)]
    pub target_timeline: Option<TargetTimeline>,
    /// Stop just before the target
    #[arg(long, requires = "target")]
    pub target_exclusive: bool,
    /// What the server does at the target
    #[arg(long, value_enum, requires = "target")]
    pub target_action: Option<Action>,
    /// Put a tablespace elsewhere; may be repeated
    #[arg(long, value_name = "OID_OR_NAME=DIR", value_parser = tablespace)]
    pub tablespace: Vec<(String, PathBuf)>,
    /// Put all other tablespaces below this folder, each in one named by its oid
    #[arg(long, value_name = "DIR")]
    pub tablespace_root: Option<PathBuf>,
    /// Write no recovery settings
    #[arg(long, conflicts_with_all = ["target", "standby", "target_timeline", "restore_command"])]
    pub no_recovery: bool,
    /// Make a standby
    #[arg(long, conflicts_with = "target")]
    pub standby: bool,
    /// Is archiving on in what is restored? (default: off; preserve for a standby and in the cluster's own place)
    #[arg(long, value_enum)]
    pub archive_mode: Option<Archiving>,
    /// Fetch WAL by this command, where the server runs elsewhere
    #[arg(long, value_name = "CMD")]
    pub restore_command: Option<String>,
    /// A further setting for postgresql.auto.conf; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub recovery_option: Vec<(String, String)>,
    /// Where configuration files go that lay outside the data directory: to DIR.config, or into it
    #[arg(long, value_enum, default_value_t, value_name = "beside|inside", hide_possible_values = true, hide_default_value = true)]
    pub config_files: ConfigPlace,
    /// Refuse a repository that is older than this entry of its log
    #[arg(long, value_name = "NUMBER:HASH")]
    pub expect: Option<log::Head>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What the server does at the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(in crate::cli) enum Action {
    /// Stay read-only until pg_wal_replay_resume()
    Pause,
    /// Open for writing on a new timeline
    Promote,
    /// Shut down
    Shutdown,
}

/// Where configuration files go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(in crate::cli) enum ConfigPlace {
    /// To DIR.config
    #[default]
    Beside,
    /// Into the data directory
    Inside,
}

impl From<ConfigPlace> for ConfigFiles {
    fn from(place: ConfigPlace) -> Self {
        match place {
            ConfigPlace::Beside => ConfigFiles::Beside,
            ConfigPlace::Inside => ConfigFiles::Inside,
        }
    }
}

/// Is archiving on?
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(in crate::cli) enum Archiving {
    /// archive_mode = off
    Off,
    /// As in the cluster's configuration
    Preserve,
}

impl From<Archiving> for ArchiveMode {
    fn from(archiving: Archiving) -> Self {
        match archiving {
            Archiving::Off => ArchiveMode::Off,
            Archiving::Preserve => ArchiveMode::Preserve,
        }
    }
}

impl Args {
    /// The point that is wanted.
    pub fn wanted(&self) -> Result<Wanted, Failure> {
        let target = if let Some(time) = self.target_time {
            Target::Time(time)
        } else if let Some(lsn) = self.target_lsn {
            Target::Lsn(lsn)
        } else if let Some(xid) = self.target_xid {
            Target::Xid(xid)
        } else if let Some(name) = &self.target_name {
            Target::Name(name.clone())
        } else if self.target_immediate {
            Target::Immediate
        } else {
            Target::End
        };
        let action = match self.target_action {
            Some(Action::Promote) => TargetAction::Promote,
            Some(Action::Shutdown) => TargetAction::Shutdown,
            Some(Action::Pause) => TargetAction::Pause,
            None if target == Target::End => TargetAction::Promote,
            None => TargetAction::Pause,
        };
        if self.target_exclusive && matches!(target, Target::Name(_) | Target::Immediate) {
            return Err(Failure::usage("--target-exclusive has no meaning for this target", "leave it out"));
        }
        Ok(Wanted { target, inclusive: !self.target_exclusive, timeline: self.target_timeline.unwrap_or(TargetTimeline::Latest), action })
    }
}

fn timeline(text: &str) -> Result<TargetTimeline, String> {
    match text {
        "latest" => Ok(TargetTimeline::Latest),
        "current" => Ok(TargetTimeline::Current),
        number => match number.parse() {
            Ok(number) if number > 0 => Ok(TargetTimeline::Number(TimelineId(number))),
            _ => Err("latest, current or a timeline's number is expected".into()),
        },
    }
}

fn tablespace(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((which, folder)) if !which.is_empty() && !folder.is_empty() => Ok((which.to_owned(), folder.into())),
        _ => Err("a tablespace such as 16400=/srv/fast or fast=/srv/fast is expected".into()),
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'));
    match text.split_once('=') {
        Some((name, value)) if is_name(name.trim()) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("a setting such as recovery_prefetch=off is expected".into()),
    }
}

/// A COMMIT's range as the manifest takes it.
pub(super) fn range(range: &log::WalRange) -> backup_manifest::WalRange {
    backup_manifest::WalRange { timeline: range.timeline, start: range.first, end: range.last }
}
