//! `archive-get`: for `restore_command`. Exit code 1 says that the server has reached the end of WAL, and nothing else
//! may end with it.

use std::path::{Path, PathBuf};

use super::clusters;
use super::context::Context;
use super::contract::Exit;
use super::failure::Failure;
use super::tail::OpenedTail;
use crate::archive::{self, GetContext, Got};
use crate::backup::checks::read_control;
use crate::backup::source::Disk;
use crate::host::access::{Need, Opened};
use crate::repo::log::ClusterId;
use crate::repo::wal::WalAddress;
use crate::units::Progress;

/// Arguments of `archive-get`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The file's name: %f in restore_command
    name: String,
    /// Where it goes: %p in restore_command
    dest: PathBuf,
    /// Whose WAL is wanted, where the cluster's name stood for several [default: the newest]
    #[arg(long, value_name = "N")]
    system_identifier: Option<u64>,
    /// For pg_rewind, which asks backwards: fetch nothing ahead, remember nothing
    #[arg(long)]
    rewind: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let cluster = context.settings.cluster(None)?;
    let here = context.here(Some(&cluster), Need::Read)?;
    let opened = context.open(&here, Need::Read)?;
    let system_identifier = identifier(&opened, &cluster.name, args.system_identifier, cluster.pgdata.as_deref())?;
    let tail = OpenedTail::just_opened(&opened, &cluster.name)?;
    let get = GetContext { site: tail.site(), opening: opened.reader()?, system_identifier };
    match archive::get(&get, &args.name, &args.dest)? {
        Got::Delivered { warnings, .. } => {
            for warning in &warnings {
                context.reporter.warn(warning);
            }
            Ok(Exit::DONE)
        }
        Got::Absent => {
            context.reporter.detail(&format!("{} is not in the archive, nor anything behind it", args.name));
            Ok(Exit::ABSENT)
        }
    }
}

/// Whose WAL is wanted: by the flag, the newest backup, or, before the first, the data directory or the archive itself.
/// Of a cluster that the repository doesn't know nothing is absent: its name may be misspelt.
fn identifier(opened: &Opened, cluster: &str, given: Option<u64>, pgdata: Option<&Path>) -> Result<u64, Failure> {
    let newest = opened.view().fold.clusters.get(cluster).map(|begin| begin.system_identifier);
    let own = || read_control(&Disk, pgdata.unwrap_or(Path::new("."))).ok().map(|(control, _)| control.system_identifier);
    let wanted = match given.or(newest).or_else(own) {
        Some(wanted) => wanted,
        None => clusters::only_identifier(opened, cluster)?.ok_or_else(|| clusters::unknown(cluster))?,
    };
    let id = ClusterId { name: cluster.to_owned(), system_identifier: wanted };
    let in_log = newest == Some(wanted) || opened.view().fold.sessions.values().any(|s| s.cluster.as_ref() == Some(&id));
    if in_log || has_wal(opened, &id)? {
        Ok(wanted)
    } else {
        Err(Failure::refused(
            format!("the repository holds nothing of cluster {cluster} with system identifier {wanted}"),
            "check --cluster and --system-identifier; `pgcairn list` shows which clusters there are",
        ))
    }
}

/// Is there any file of it in the archive?
fn has_wal(opened: &Opened, cluster: &ClusterId) -> Result<bool, Failure> {
    let root = WalAddress::root(&opened.sealing.cluster_key(&cluster.name), cluster.system_identifier)?;
    Ok(!opened.backend.list_sorted(Some(&root))?.is_empty())
}
