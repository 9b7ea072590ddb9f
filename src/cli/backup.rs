//! `backup`: a snapshot of a cluster. Its id is the answer; the summary is for people, on stderr.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::args::values;
use super::context::{Context, Here};
use super::contract::Exit;
use super::failure::Failure;
use super::output::snapshot::{SnapshotJson, duration};
use super::output::{answered, json};
use crate::backup::run::{Options, Outcome, Setting, run as take};
use crate::backup::source::Disk;
use crate::host::StateDir;
use crate::host::access::{self, Need, Opened};
use crate::host::config::{Chunker, ClusterKeys, ClusterSettings, RepositoryUrl, WalMode};
use crate::host::machine::MachineId;
use crate::pg::conninfo::{Conninfo, Surroundings};
use crate::pg::facts::DamagedPage;
use crate::repo::log::{self, Head};
use crate::store::LocalStore;
use crate::units::ids::hex;
use crate::units::{ByteSize, Progress};

/// Damaged pages that are named one by one; `show` names all.
const NAMED: usize = 20;

/// Arguments of `backup`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Data directory [default: the server says it]
    #[arg(long, value_name = "DIR")]
    pgdata: Option<PathBuf>,
    /// How to connect: libpq's words or URL [default: PGHOST, PGPORT, PGUSER and so on]
    #[arg(long, value_name = "CONNINFO")]
    dsn: Option<String>,
    /// Something to find the snapshot by; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    labels: Vec<(String, String)>,
    /// Where the WAL that the snapshot needs comes from: archive (waited for) or copy (stored with it) [default: archive]
    #[arg(long, value_name = "MODE")]
    wal: Option<WalMode>,
    /// How long it is waited for [default: 10min]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    wal_timeout: Option<Duration>,
    /// Begin with an immediate checkpoint (the default)
    #[arg(long, conflicts_with = "spread")]
    fast: bool,
    /// Wait for a checkpoint that is spread over time
    #[arg(long)]
    spread: bool,
    /// Read all files, also those that look unchanged
    #[arg(long)]
    verify_unchanged: bool,
    /// The cluster was replaced on purpose (pg_upgrade, initdb): it has another system identifier
    #[arg(long)]
    new_history: bool,
    /// Of a cleanly stopped data directory; its WAL is stored with it
    #[arg(long, conflicts_with = "dsn")]
    offline: bool,
    /// How relation files are cut: extents, or cdc to compare [default: extents]
    #[arg(long, value_name = "HOW")]
    chunker: Option<Chunker>,
    /// Run as root all the same
    #[arg(long)]
    allow_root: bool,
}

impl Args {
    pub(super) fn cluster_keys(&self) -> ClusterKeys {
        ClusterKeys {
            pgdata: self.pgdata.clone(),
            dsn: self.dsn.clone(),
            chunker: self.chunker,
            wal: self.wal,
            wal_timeout: self.wal_timeout,
            ..ClusterKeys::default()
        }
    }

    fn options(&self, cluster: &ClusterSettings, jobs: usize) -> Result<Options, Failure> {
        let labels: BTreeMap<String, String> = self.labels.iter().cloned().collect();
        if labels.len() < self.labels.len() {
            return Err(Failure::usage("a label is given twice", "give each label one value"));
        }
        if labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > values::MAX_LABELS {
            return Err(Failure::usage("the labels are too long", format!("all together may have {} bytes", values::MAX_LABELS)));
        }
        Ok(Options {
            cluster: cluster.name.clone(),
            pgdata: cluster.pgdata.clone(),
            labels,
            wal: match cluster.wal {
                WalMode::Archive => log::WalMode::Archive,
                WalMode::Copy => log::WalMode::Copy,
            },
            wal_timeout: cluster.wal_timeout,
            fast: !self.spread,
            verify_unchanged: self.verify_unchanged,
            new_history: self.new_history,
            cdc_for_all: cluster.chunker == Chunker::Cdc,
            trust_writers: cluster.trust_writers.clone(),
            jobs,
        })
    }
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    context.refuse_root("backup", args.allow_root)?;
    let cluster = context.settings.cluster_to_write(None)?;
    let options = args.options(&cluster, context.settings.jobs.get())?;
    let dsn = cluster.dsn.as_deref().unwrap_or_default();
    let server = if args.offline { None } else { Some(Conninfo::parse(dsn, &Surroundings::of_process())?) };
    let here = context.here(Some(&cluster), Need::Write)?;
    let state = here.state_to_write()?;
    let opened = Arc::new(context.open(&here, Need::Write)?);
    let machine = MachineId::of_this_machine(state)?;
    clean_up(context, &here, &opened, state, &machine)?;
    let setting = Setting {
        opened: &opened,
        state,
        machine: *machine.as_bytes(),
        source: &Disk,
        server: server.as_ref(),
        cancel: &context.cancel,
        progress: &context.reporter,
    };
    let outcome = take(&setting, &options)?;
    opened.settle(&here.place(&context.reporter));
    say(context, &outcome);
    let out = &mut io::stdout().lock();
    answered(if context.settings.json { json::write(out, &Answer::of(&outcome)) } else { writeln!(out, "{}", outcome.summary.id) })?;
    Ok(if outcome.damaged.is_empty() && outcome.waits_for.is_none() { Exit::DONE } else { Exit::WARNINGS })
}

/// What runs of this machine that were killed have left.
fn clean_up(context: &Context, here: &Here, opened: &Opened, state: &StateDir, machine: &MachineId) -> Result<(), Failure> {
    access::end_dead_sessions(opened, &state.locks(), &hex(machine.as_bytes()), &context.reporter)?;
    let RepositoryUrl::Local(path) = &here.repository.url;
    let removed = LocalStore::open(path).map_err(Into::into).and_then(|store| access::remove_leftovers(opened, &store));
    if let Err(error) = removed {
        context.reporter.warn(&format!("unfinished files of killed runs can't be removed: {error}"));
    }
    Ok(())
}

/// The summary, and what needs a look.
fn say(context: &Context, outcome: &Outcome) {
    let (s, reporter) = (&outcome.summary, &context.reporter);
    let ratio = s.changed_bytes as f64 / (s.new_bytes.max(1)) as f64;
    reporter.info(&format!(
        "snapshot {} of cluster {}: {} in {} files, {} read, {} new, stored in {} (1:{ratio:.1}), {}",
        s.id,
        s.cluster,
        ByteSize(s.cluster_bytes),
        s.files,
        ByteSize(s.read_bytes),
        ByteSize(s.changed_bytes),
        ByteSize(s.new_bytes),
        duration(s),
    ));
    if let Some(wal) = &s.wal {
        reporter.info(&format!("WAL {} to {}, timeline {}; log {}", wal.start_lsn, wal.stop_lsn, wal.timeline, outcome.head));
    }
    for path in &outcome.left_out {
        reporter.info(&format!("not stored, being neither file, folder nor a tablespace's link: {path}"));
    }
    for page in outcome.damaged.iter().take(NAMED) {
        reporter.warn(&format!("damaged page: {} fork {} block {}: {}", page.path, page.fork, page.block, page.why));
    }
    if outcome.damaged.len() > NAMED {
        reporter.warn(&format!("{} damaged pages more: pgcairn show {}", outcome.damaged.len() - NAMED, s.id));
    }
    if let Some(segment) = outcome.waits_for {
        reporter.warn(&format!("the snapshot can't be restored before WAL segment {segment} is in the archive: look at archive_command"));
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    version: u32,
    #[serde(flatten)]
    snapshot: SnapshotJson<'a>,
    log: Head,
    damaged: &'a [DamagedPage],
    left_out: &'a [String],
}

impl<'a> Answer<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        Answer {
            version: 1,
            snapshot: SnapshotJson::new(&outcome.summary, outcome.waits_for),
            log: outcome.head,
            damaged: &outcome.damaged,
            left_out: &outcome.left_out,
        }
    }
}
