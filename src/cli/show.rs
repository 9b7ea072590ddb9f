//! `show`: one snapshot in full.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::archived::Archived;
use super::clusters;
use super::context::Context;
use super::contract::Exit;
use super::failure::Failure;
use super::output::snapshot::{SnapshotJson, duration, evidence, labels};
use super::output::{answered, json, one_line};
use crate::look::{self, Full, SnapshotName};
use crate::pg::facts::{ClusterFacts, DamagedPage, MissingFile, TablespaceFact};
use crate::pg::relations::DatabaseFact;
use crate::repo::log::{Fold, WalMode};
use crate::units::{ByteSize, SegmentName, counted};

/// The setting that names libraries without which the server doesn't start.
const PRELOAD: &str = "shared_preload_libraries";

/// Arguments of `show`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// An id, the beginning of one, latest, or latest~N
    snapshot: SnapshotName,
}

/// What the snapshot itself says is `null` on a host that can't read it.
#[derive(Serialize)]
struct Answer<'a> {
    version: u32,
    #[serde(flatten)]
    snapshot: SnapshotJson<'a>,
    tablespaces: Option<Vec<TablespaceJson<'a>>>,
    wal: Option<WalJson>,
    commit: u64,
    written_by: &'a str,
    offline: Option<bool>,
    from_standby: Option<bool>,
    data_directory: Option<&'a str>,
    block_size: Option<u32>,
    segment_size: Option<u32>,
    architecture: Option<&'a str>,
    configuration: Option<ConfigurationJson<'a>>,
    databases: Option<&'a [DatabaseFact]>,
    preload_libraries: Option<&'a str>,
    tls: Option<BTreeMap<&'a str, &'a str>>,
    left_out: Option<&'a [String]>,
    damaged: Option<&'a [DamagedPage]>,
}

#[derive(Serialize)]
struct TablespaceJson<'a> {
    oid: u32,
    name: Option<&'a str>,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a str>,
}

/// Configuration files that lay outside the data directory.
#[derive(Serialize)]
struct ConfigurationJson<'a> {
    files: Vec<&'a str>,
    missing: &'a [MissingFile],
}

#[derive(Serialize)]
struct WalJson {
    first: SegmentName,
    last: SegmentName,
    mode: WalMode,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let opened = context.open_to_look()?;
    let (full, databases, fold) = {
        let view = opened.view();
        let listed = clusters::find(context, &view, &args.snapshot)?;
        (look::full(&opened, &view.fold, &listed)?, look::databases(&opened, &view.fold, &listed), view.fold.clone())
    };
    let waits_for = Archived::of(&opened, &context.cancel).waits_for(&full.summary)?;
    let out = &mut io::stdout().lock();
    let written = if context.settings.json {
        json::write(out, &answer(&full, &fold, &databases, waits_for))
    } else {
        write_text(out, &full, &fold, &databases, waits_for)
    };
    answered(written)?;
    Ok(Exit::DONE)
}

/// The first and the last segment that it needs to be consistent.
fn wal_of(full: &Full) -> Option<WalJson> {
    let wal = full.summary.wal.as_ref()?;
    let (first, last) = (wal.ranges.first()?, wal.ranges.last()?);
    let size = wal.segment_size;
    Some(WalJson {
        first: SegmentName::new(first.timeline, size.segment_of(first.first), size),
        last: SegmentName::new(last.timeline, size.segment_before(last.last), size),
        mode: wal.mode,
    })
}

fn answer<'a>(full: &'a Full, fold: &'a Fold, databases: &'a [DatabaseFact], waits_for: Option<SegmentName>) -> Answer<'a> {
    let facts = full.facts.as_ref();
    let tablespace =
        |t: &'a TablespaceFact| TablespaceJson { oid: t.oid, name: t.name.as_deref(), path: &t.path, path_bytes: t.path_bytes.as_deref() };
    Answer {
        version: 1,
        snapshot: SnapshotJson::new(&full.summary, waits_for).with_notes(fold),
        tablespaces: facts.map(|f| f.tablespaces.iter().map(tablespace).collect()),
        wal: wal_of(full),
        commit: full.number,
        written_by: full.host.as_deref().unwrap_or_default(),
        offline: facts.map(|f| f.offline),
        from_standby: facts.map(|f| f.from_standby),
        data_directory: facts.map(|f| f.data_directory.as_str()),
        block_size: facts.map(|f| f.block_size),
        segment_size: facts.map(|f| f.segment_size.bytes()),
        architecture: facts.map(|f| f.architecture.as_str()),
        configuration: facts
            .and_then(|f| f.configuration.as_ref())
            .map(|c| ConfigurationJson { files: c.files.iter().map(|f| f.path.as_str()).collect(), missing: &c.missing }),
        databases: facts.map(|_| databases),
        preload_libraries: facts.and_then(|f| f.settings.get(PRELOAD)).map(String::as_str),
        tls: facts.map(tls),
        left_out: facts.map(|f| f.left_out.as_slice()),
        damaged: facts.map(|f| f.damaged.as_slice()),
    }
}

fn write_text(out: &mut dyn Write, full: &Full, fold: &Fold, databases: &[DatabaseFact], waits_for: Option<SegmentName>) -> io::Result<()> {
    let s = &full.summary;
    let mut line = |name: &str, text: &str| writeln!(out, "{name:<15}{}", one_line(text));
    line("snapshot", &s.id)?;
    line("cluster", &format!("{} (system identifier {})", s.cluster, s.system_identifier))?;
    line("server", &format!("PostgreSQL {}{}", s.pg_version, full.facts.as_ref().map(how).unwrap_or_default()))?;
    if let Some(facts) = &full.facts {
        line("data directory", &facts.data_directory)?;
    }
    line("started", &s.started_at.for_people())?;
    line("finished", &format!("{} ({})", s.finished_at.for_people(), duration(s)))?;
    line("size", &format!("{} in {}", ByteSize(s.cluster_bytes), counted(s.files, "file", "files")))?;
    line("read", &ByteSize(s.read_bytes).to_string())?;
    line("changed", &ByteSize(s.changed_bytes).to_string())?;
    line("stored", &format!("{} new; it relies on {}", ByteSize(s.new_bytes), counted(full.packs, "pack", "packs")))?;
    if let (Some(wal), Some(range)) = (&s.wal, wal_of(full)) {
        line("WAL", &format!("{} to {}, timeline {}", wal.start_lsn, wal.stop_lsn, wal.timeline))?;
        let place = if wal.mode == WalMode::Copy { "in the snapshot" } else { "in the archive" };
        line("segments", &format!("{} to {}, {place}", range.first, range.last))?;
    }
    if let Some(segment) = waits_for {
        line("waits for", &segment.to_string())?;
    }
    line("parent", s.parent.as_deref().unwrap_or("none"))?;
    if !s.labels.is_empty() {
        line("labels", &labels(&s.labels))?;
    }
    if let Some(reason) = &full.held {
        line("held", reason)?;
    }
    if let Some(found) = evidence(fold, &s.id) {
        line("verified", &found)?;
    }
    line("written by", &format!("{} in log/{}", full.host.as_deref().unwrap_or("an unknown key"), full.number))?;
    match &full.facts {
        Some(facts) => write_facts(&mut line, facts, databases)?,
        None => line("more", "what the snapshot says of its cluster can't be read by this host: nothing in its keys opens content")?,
    }
    out.flush()
}

/// What the snapshot itself says, and the log doesn't.
fn write_facts(line: &mut dyn FnMut(&str, &str) -> io::Result<()>, facts: &ClusterFacts, databases: &[DatabaseFact]) -> io::Result<()> {
    for t in &facts.tablespaces {
        line("tablespace", &format!("{} {} at {}", t.oid, t.name.as_deref().unwrap_or("?"), t.path))?;
    }
    for d in databases {
        let extensions: Vec<String> = d.extensions.iter().map(|e| format!("{} {}", e.name, e.version)).collect();
        let more = d.unknown.map_or_else(|| format!(": {}", extensions.join(", ")), |why| format!(" ({})", why.words()));
        line("database", &format!("{} {}{more}", d.oid, d.name))?;
    }
    if let Some(libraries) = facts.settings.get(PRELOAD).filter(|libraries| !libraries.is_empty()) {
        line("preloads", libraries)?;
    }
    for (name, path) in tls(facts) {
        line("TLS", &format!("{name} {path} (the file is not in the snapshot, unless it lies in the data directory)"))?;
    }
    for c in facts.configuration.iter() {
        for file in &c.files {
            line("configuration", &file.path)?;
        }
        for file in &c.missing {
            line("configuration", &format!("{} is not in the snapshot: {}", file.path, file.why))?;
        }
    }
    for path in &facts.left_out {
        line("left out", path)?;
    }
    for page in &facts.damaged {
        line("damaged page", &format!("{} fork {} block {}: {}", page.path, page.fork, page.block, page.why))?;
    }
    Ok(())
}

/// Names of TLS files, where TLS is on.
fn tls(facts: &ClusterFacts) -> BTreeMap<&str, &str> {
    let on = facts.settings.get("ssl").is_some_and(|ssl| ssl == "on");
    let files = facts.settings.iter().filter(|(name, path)| on && name.starts_with("ssl_") && !path.is_empty());
    files.map(|(name, path)| (name.as_str(), path.as_str())).collect()
}

/// Machine, and how it was taken.
fn how(facts: &ClusterFacts) -> String {
    let how = match (facts.offline, facts.from_standby) {
        (true, _) => ", taken of a stopped cluster",
        (false, true) => ", taken of a standby",
        (false, false) => "",
    };
    format!(", {}{how}", facts.architecture)
}
