//! A snapshot as JSON (`list`, `backup`, `show`) and as texts for people.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::repo::log::{Fold, Summary};
use crate::retain;
use crate::units::{Lsn, SegmentName, TimelineId};

/// A snapshot as `list --json` shows it.
#[derive(Serialize)]
pub struct SnapshotJson<'a> {
    id: &'a str,
    cluster: &'a str,
    kind: &'a str,
    started_at: String,
    finished_at: String,
    start_lsn: Option<Lsn>,
    stop_lsn: Option<Lsn>,
    timeline: Option<TimelineId>,
    pg_version: &'a str,
    /// As text: it exceeds what many readers of JSON can hold in a number.
    system_identifier: String,
    cluster_bytes: u64,
    read_bytes: u64,
    changed_bytes: u64,
    new_bytes: u64,
    files: u64,
    damaged_pages: u64,
    parent: Option<&'a str>,
    waits_for: Option<SegmentName>,
    labels: &'a BTreeMap<String, String>,
    held: Option<&'a str>,
    evidence: Option<EvidenceJson<'a>>,
}

/// What a verify or a rehearsal last found.
#[derive(Serialize)]
pub struct EvidenceJson<'a> {
    what: &'a str,
    ok: bool,
    at: String,
    detail: &'a str,
    log: u64,
}

impl<'a> SnapshotJson<'a> {
    /// From what the log says, and what the archive lacks.
    pub fn new(summary: &'a Summary, waits_for: Option<SegmentName>) -> Self {
        let wal = summary.wal.as_ref();
        SnapshotJson {
            id: &summary.id,
            cluster: &summary.cluster,
            kind: &summary.kind,
            started_at: summary.started_at.to_string(),
            finished_at: summary.finished_at.to_string(),
            start_lsn: wal.map(|w| w.start_lsn),
            stop_lsn: wal.map(|w| w.stop_lsn),
            timeline: wal.map(|w| w.timeline),
            pg_version: &summary.pg_version,
            system_identifier: summary.system_identifier.to_string(),
            cluster_bytes: summary.cluster_bytes,
            read_bytes: summary.read_bytes,
            changed_bytes: summary.changed_bytes,
            new_bytes: summary.new_bytes,
            files: summary.files,
            damaged_pages: summary.damaged_pages,
            parent: summary.parent.as_deref(),
            waits_for,
            labels: &summary.labels,
            held: None,
            evidence: None,
        }
    }

    /// With what the log says of it besides its COMMIT.
    pub fn with_notes(self, fold: &'a Fold) -> Self {
        let held = fold.holds.get(self.id).map(|hold| hold.reason.as_str());
        let evidence = retain::newest(fold, self.id).map(|(what, e)| EvidenceJson {
            what,
            ok: e.ok,
            at: e.at.to_string(),
            detail: &e.detail,
            log: e.number,
        });
        SnapshotJson { held, evidence, ..self }
    }
}

/// `team=db, why=release`.
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    let each = |(key, value): (&String, &String)| format!("{key}={value}");
    labels.iter().map(each).collect::<Vec<_>>().join(", ")
}

/// What a verify or a rehearsal last found, for people: `good 2026-11-24 (verify: read 100 %)`.
pub fn evidence(fold: &Fold, id: &str) -> Option<String> {
    let (what, found) = retain::newest(fold, id)?;
    let day: String = found.at.to_string().chars().take(10).collect();
    Some(format!("{} {day} ({what}: {})", if found.ok { "good" } else { "BAD" }, found.detail))
}

/// How long it took, for people: `8 s`, `4 min`.
pub fn duration(summary: &Summary) -> String {
    super::progress::for_people(summary.finished_at.seconds_since(summary.started_at).max(0.0).round() as u64)
}
