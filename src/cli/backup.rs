//! `backup`: a snapshot of a cluster.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::args::values;
use super::context::Context;
use super::contract::Exit;
use super::failure::Failure;
use super::output::requests::RequestsJson;
use super::output::snapshot::{SnapshotJson, duration};
use super::output::{answered, json, one_line};
use super::tail::OpenedTail;
use crate::archive;
use crate::backup::run::{Options, Outcome, Setting, run as back_up};
use crate::backup::source::Disk;
use crate::backup::wal::ArchiveFailure;
use crate::codec::Way;
use crate::host::HostError;
use crate::host::access::{Need, Opened, end_dead_sessions, remove_leftovers};
use crate::host::config::{Chunker, ClusterKeys, Price, WalMode};
use crate::host::machine::MachineId;
use crate::pg::conninfo::{Conninfo, Surroundings};
use crate::repo::log::{self, ClusterId, Head};
use crate::store::Requests;
use crate::units::ids::hex;
use crate::units::{ByteSize, Explain, Hash32, Progress, SegmentName, counted};

/// Arguments of `backup`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The data directory (default: the server says it)
    #[arg(long, value_name = "DIR")]
    pgdata: Option<PathBuf>,
    /// The server: libpq's words or URL (default: PGHOST and so on)
    #[arg(long, value_name = "CONNINFO")]
    dsn: Option<String>,
    /// What to call the snapshot; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::label)]
    label: Vec<(String, String)>,
    /// Where the WAL that it needs will be: archive, or copy (into the snapshot)
    #[arg(long, value_name = "archive|copy")]
    wal: Option<WalMode>,
    /// How long its WAL is waited for
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    wal_timeout: Option<Duration>,
    /// extents, or cdc for everything
    #[arg(long, value_name = "extents|cdc")]
    chunker: Option<Chunker>,
    /// Keys whose packs are relied on besides this host's
    #[arg(long, value_name = "KEY,...", value_delimiter = ',', value_parser = values::key_id)]
    trust_writers: Option<Vec<crate::units::KeyId>>,
    /// Start with an immediate checkpoint (the default)
    #[arg(long, conflicts_with = "spread")]
    fast: bool,
    /// Spread the checkpoint at the start, to go easy on the server
    #[arg(long)]
    spread: bool,
    /// Read every file, whatever size and times say
    #[arg(long)]
    verify_unchanged: bool,
    /// The cluster has another system identifier than before (after pg_upgrade or initdb)
    #[arg(long)]
    new_history: bool,
    /// A data directory whose server was stopped cleanly
    #[arg(long, conflicts_with_all = ["dsn", "wal", "wal_timeout", "spread"])]
    offline: bool,
    /// Run as root all the same
    #[arg(long)]
    allow_root: bool,
}

impl Args {
    /// The policy flags.
    pub(super) fn cluster_keys(&self) -> ClusterKeys {
        ClusterKeys {
            pgdata: self.pgdata.clone(),
            dsn: self.dsn.clone(),
            chunker: self.chunker,
            wal: self.wal,
            wal_timeout: self.wal_timeout,
            trust_writers: self.trust_writers.clone(),
            ..ClusterKeys::default()
        }
    }

    fn labels(&self) -> Result<BTreeMap<String, String>, Failure> {
        let labels: BTreeMap<String, String> = self.label.iter().cloned().collect();
        if labels.len() < self.label.len() {
            return Err(Failure::usage("a label is given twice", "give each label one value"));
        }
        if labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > values::MAX_LABELS {
            return Err(Failure::usage("the labels are too long", format!("all together may have {} bytes", values::MAX_LABELS)));
        }
        Ok(labels)
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    version: u32,
    #[serde(flatten)]
    snapshot: SnapshotJson<'a>,
    log: HeadJson,
    left_out: &'a [String],
    notes: &'a [String],
    /// Where the store counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<RequestsJson>,
    /// How changed extents were stored, and why so.
    codec: CodecJson<'a>,
}

#[derive(Serialize)]
struct CodecJson<'a> {
    name: &'static str,
    why: &'a str,
}

#[derive(Serialize)]
struct HeadJson {
    number: u64,
    hash: String,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    context.refuse_root("backup", args.allow_root)?;
    let labels = args.labels()?;
    let cluster = context.settings.cluster_to_write(None)?;
    let server = if args.offline { None } else { Some(conninfo(cluster.dsn.as_deref(), context)?) };
    if !cluster.retention.is_policy() {
        context.reporter.info(&format!(
            "no retention policy is configured for cluster {}: its snapshots stay until they are forgotten by id (keep-daily and so on; see pgcairn forget --help)",
            cluster.name
        ));
    }
    let here = context.here(Some(&cluster), Need::Write)?;
    let opened = Arc::new(context.open(&here, Need::Write)?);
    opened.names_what_it_writes()?;
    opened.reads_what_it_writes()?;
    let state = here.state_to_write()?;
    let machine = MachineId::of_this_machine(state)?;
    // Before sessions of this machine are ended: a copy's may be the original's, which runs.
    if let Some(elsewhere) = opened.backs_up_here_alone()? {
        let error = HostError::from(elsewhere);
        context.reporter.warn(&format!("{error}; {}", error.cure().unwrap_or_default()));
    }
    if let Some(before) = opened.is_on(&hex(machine.as_bytes()))? {
        context.reporter.warn(&format!(
            "this host's state folder was last used on another machine ({}): if that one is still in use with it, enrol this one by itself (docs/many-hosts.md)",
            before.get(..8).unwrap_or(&before)
        ));
    }
    tidy(context, &opened, state, &machine)?;
    let options = Options {
        cluster: cluster.name.clone(),
        pgdata: cluster.pgdata.clone(),
        labels,
        wal: if cluster.wal == WalMode::Copy { log::WalMode::Copy } else { log::WalMode::Archive },
        wal_timeout: cluster.wal_timeout,
        fast: !args.spread,
        verify_unchanged: args.verify_unchanged,
        new_history: args.new_history,
        cdc_for_all: cluster.chunker == Chunker::Cdc,
        trust_writers: cluster.trust_writers.clone(),
        sort_blobs: true,
        jobs: context.settings.jobs.get(),
        egress_price: here.repository.bucket.egress_price.map_or(0.0, Price::dollars),
        is_amazon: here.repository.bucket.endpoint.as_deref().is_none_or(|endpoint| endpoint.contains(".amazonaws.com")),
    };
    let setting = Setting {
        opened: &opened,
        state,
        machine: machine.0,
        source: &Disk,
        archived: &|cluster, segment| archived(&opened, cluster, segment),
        server: server.as_ref(),
        cancel: &context.cancel,
        progress: &context.reporter,
    };
    let outcome = back_up(&setting, &options);
    opened.settle(&here.place(&context.reporter));
    let outcome = outcome?;
    context.reporter.phase("", None);
    let requests = opened.backend.requests();
    let out = &mut io::stdout().lock();
    answered(if context.settings.json { write_json(out, &outcome, requests) } else { write_text(out, &outcome, requests) })?;
    Ok(say_what_needs_a_look(context, &outcome))
}

/// The content of a segment that counts in the archive.
fn archived(opened: &Opened, cluster: &ClusterId, segment: SegmentName) -> Result<Option<Hash32>, ArchiveFailure> {
    let failed = |e| ArchiveFailure(Box::new(e));
    let tail = OpenedTail::new(opened, &cluster.name).map_err(failed)?;
    let found = archive::segment(&tail.site(), cluster.system_identifier, segment);
    found.map(|entry| entry.map(|entry| entry.content)).map_err(failed)
}

fn conninfo(dsn: Option<&str>, context: &Context) -> Result<Conninfo, Failure> {
    let conninfo = Conninfo::parse(dsn.unwrap_or_default(), &Surroundings::of_process())?;
    context.reporter.detail(&format!("server: {conninfo:?}"));
    Ok(conninfo)
}

/// Ends what died on this machine before, and removes what it left unfinished.
fn tidy(context: &Context, opened: &Opened, state: &crate::host::StateDir, machine: &MachineId) -> Result<(), Failure> {
    end_dead_sessions(opened, &state.locks(), &hex(machine.as_bytes()), &context.reporter)?;
    remove_leftovers(opened)?;
    Ok(())
}

fn write_json(out: &mut dyn Write, outcome: &Outcome, requests: Option<Requests>) -> io::Result<()> {
    let Head { number, hash } = outcome.head;
    json::write(
        out,
        &Answer {
            version: 1,
            snapshot: SnapshotJson::new(&outcome.summary, outcome.waits_for),
            log: HeadJson { number, hash: hash.to_string() },
            left_out: &outcome.left_out,
            notes: &outcome.notes,
            requests: requests.map(RequestsJson::from),
            codec: CodecJson {
                name: if outcome.codec.way == Way::Alone { "pages-alone" } else { "pages-against-old" },
                why: &outcome.codec.why,
            },
        },
    )
}

fn write_text(out: &mut dyn Write, outcome: &Outcome, requests: Option<Requests>) -> io::Result<()> {
    let s = &outcome.summary;
    let ratio = if s.new_bytes > 0 { s.cluster_bytes as f64 / s.new_bytes as f64 } else { 0.0 };
    writeln!(out, "{}", s.id)?;
    writeln!(
        out,
        "  {} in {}; {} read, {} of it new, stored in {} (1 : {ratio:.0}), in {}",
        ByteSize(s.cluster_bytes),
        counted(s.files, "file", "files"),
        ByteSize(s.read_bytes),
        ByteSize(s.changed_bytes),
        ByteSize(s.new_bytes),
        duration(s)
    )?;
    if let Some(wal) = &s.wal {
        writeln!(out, "  from {} to {} on timeline {}", wal.start_lsn, wal.stop_lsn, wal.timeline)?;
    }
    if let Some(requests) = requests {
        writeln!(out, "  {requests}")?;
        writeln!(out, "  changed extents as {} (-v says why)", outcome.codec.word())?;
    }
    for note in &outcome.notes {
        writeln!(out, "  {}", one_line(note))?;
    }
    writeln!(out, "  log {} (restore --expect refuses a repository that is older)", outcome.head)
}

/// Damaged pages, WAL still awaited: done, and exit code 3.
fn say_what_needs_a_look(context: &Context, outcome: &Outcome) -> Exit {
    for path in &outcome.left_out {
        context.reporter.info(&format!("not stored: {}", one_line(path)));
    }
    for page in &outcome.damaged {
        let (path, fork, block, why) = (one_line(&page.path), &page.fork, page.block, &page.why);
        context.reporter.warn(&format!("damaged page: {path}, fork {fork}, block {block}: {why}; it is stored as it was read"));
    }
    if let Some(segment) = outcome.waits_for {
        context.reporter.warn(&format!(
            "the snapshot is stored, and can't be restored before WAL segment {segment} is in the archive: pgcairn check says why it is not, or the server's log"
        ));
    }
    if let Some(why) = &outcome.unlocked {
        context.reporter.warn(why);
    }
    if outcome.damaged.is_empty() && outcome.waits_for.is_none() && outcome.unlocked.is_none() { Exit::DONE } else { Exit::LOOK }
}
