//! `list`: the snapshots, newest last.

use std::io::{self, Write};

use serde::Serialize;

use super::archived::Archived;
use super::context::Context;
use super::contract::Exit;
use super::failure::Failure;
use super::output::snapshot::{SnapshotJson, duration, evidence, labels};
use super::output::table::{Align, Table};
use super::output::{answered, json, one_line};
use crate::look::{self, Listed};
use crate::repo::log::Fold;
use crate::units::{ByteSize, Progress, SegmentName};

#[derive(Serialize)]
struct Answer<'a> {
    version: u32,
    snapshots: Vec<SnapshotJson<'a>>,
    /// Void entries of the log, with -v.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alarms: Vec<AlarmJson<'a>>,
}

#[derive(Serialize)]
struct AlarmJson<'a> {
    log: u64,
    why: &'a str,
    key: Option<String>,
}

pub(super) fn run(context: &Context) -> Result<Exit, Failure> {
    let opened = context.open_to_look()?;
    let fold = opened.view().fold.clone();
    let cluster = context.settings.chosen_cluster();
    let all = look::snapshots(&fold, cluster.as_deref());
    let mut archived = Archived::of(&opened, &context.cancel);
    let mut rows = Vec::new();
    for listed in &all {
        rows.push((listed, archived.waits_for(&listed.commit.summary)?));
    }
    let alarms: Vec<AlarmJson<'_>> = if context.settings.verbose { alarms(&fold) } else { Vec::new() };
    let out = &mut io::stdout().lock();
    if context.settings.json {
        let snapshots = rows.iter().map(|(s, waits)| SnapshotJson::new(&s.commit.summary, *waits).with_notes(&fold)).collect();
        answered(json::write(out, &Answer { version: 1, snapshots, alarms }))?;
        return Ok(Exit::DONE);
    }
    if rows.is_empty() {
        let whose = cluster.map(|name| format!(" of cluster {name}")).unwrap_or_default();
        context.reporter.info(&format!("no snapshots{whose} yet"));
    }
    answered(write_table(out, &fold, &rows).and_then(|()| write_alarms(out, &alarms)))?;
    Ok(Exit::DONE)
}

/// What was appended and didn't count: by mistake, or by somebody who had no right to it.
fn alarms(fold: &Fold) -> Vec<AlarmJson<'_>> {
    let alarms = fold.alarms.iter();
    alarms.map(|(log, alarm)| AlarmJson { log: *log, why: &alarm.why, key: alarm.signer.map(|key| key.to_string()) }).collect()
}

fn write_alarms(out: &mut dyn Write, alarms: &[AlarmJson<'_>]) -> io::Result<()> {
    for alarm in alarms {
        let key = alarm.key.as_ref().map(|key| format!(", key {key}")).unwrap_or_default();
        writeln!(out, "ALARM: log/{} is void ({}{key}): who wrote it, and why?", alarm.log, one_line(alarm.why))?;
    }
    out.flush()
}

fn write_table(out: &mut dyn Write, fold: &Fold, rows: &[(&Listed<'_>, Option<SegmentName>)]) -> io::Result<()> {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("snapshot", Left),
        ("cluster", Left),
        ("started", Left),
        ("took", Right),
        ("size", Right),
        ("new", Right),
        ("start LSN", Left),
        ("timeline", Right),
        ("verified", Left),
        ("labels", Left),
        ("waits for", Left),
    ]);
    for (listed, waits) in rows {
        let s = &listed.commit.summary;
        let wal = s.wal.as_ref();
        table.row([
            s.id.clone(),
            s.cluster.clone(),
            s.started_at.for_people(),
            duration(s),
            ByteSize(s.cluster_bytes).to_string(),
            ByteSize(s.new_bytes).to_string(),
            wal.map(|w| w.start_lsn.to_string()).unwrap_or_default(),
            wal.map(|w| w.timeline.to_string()).unwrap_or_default(),
            evidence(fold, &s.id).unwrap_or_default(),
            labels(&s.labels),
            waits.map(|segment| segment.to_string()).unwrap_or_default(),
        ]);
    }
    table.write(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::testing::{fold_of, snapshot, wal};
    use crate::repo::log::{Evidence, WalMode};
    use crate::units::{KeyId, Timestamp};

    fn example() -> crate::repo::log::Fold {
        let mut first = snapshot("20261124-133000-7f3a", "shop");
        first.labels.insert("why".into(), "release".into());
        let mut second = snapshot("20261125-133000-0001", "shop");
        second.wal = Some(wal(&[(1, 0x300_0028, 0x300_0130)], WalMode::Archive));
        second.parent = Some("20261124-133000-7f3a".into());
        fold_of([(5, first), (8, second)])
    }

    #[test]
    fn people_see_a_table() {
        let fold = example();
        let all = look::snapshots(&fold, None);
        let waits = "000000010000000000000003".parse().ok();
        let mut out = Vec::new();
        write_table(&mut out, &fold, &[(&all[0], None), (&all[1], waits)]).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("60 s  1.1 GB") && lines[1].ends_with("why=release"), "{text}");
        assert!(lines[2].contains("0/3000028") && lines[2].ends_with("000000010000000000000003"), "{text}");
    }

    #[test]
    fn findings_and_void_entries_are_seen() {
        let mut fold = example();
        let found = Evidence { number: 11, at: Timestamp(0), ok: false, detail: "read 100 %: pack/a: blob 3".into() };
        fold.evidence.entry("20261125-133000-0001".into()).or_default().insert("verify".into(), found);
        fold.alarm(9, Some(KeyId([7; 16])), "its key\nis no maintainer".into());
        let all = look::snapshots(&fold, None);
        let mut out = Vec::new();
        write_table(&mut out, &fold, &[(&all[0], None), (&all[1], None)]).unwrap();
        write_alarms(&mut out, &alarms(&fold)).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("BAD 1970-01-01 (verify: read 100 %: pack/a: blob 3)"), "{text}");
        let alarm = format!("ALARM: log/9 is void (its key is no maintainer, key {}): who wrote it, and why?\n", KeyId([7; 16]));
        assert!(text.ends_with(&alarm), "{text}");
        let json = serde_json::to_value(SnapshotJson::new(&all[1].commit.summary, None).with_notes(&fold)).unwrap();
        assert_eq!((&json["evidence"]["ok"], &json["evidence"]["log"]), (&false.into(), &11.into()));
    }

    #[test]
    fn scripts_see_the_fields_of_the_contract() {
        let fold = example();
        let all = look::snapshots(&fold, None);
        let waits = "000000010000000000000003".parse().ok();
        let value = serde_json::to_value(SnapshotJson::new(&all[1].commit.summary, waits)).unwrap();
        let expected = serde_json::json!({
            "id": "20261125-133000-0001", "cluster": "shop", "kind": "physical",
            "started_at": "1970-01-01T00:00:01Z", "finished_at": "1970-01-01T00:01:01Z",
            "start_lsn": "0/3000028", "stop_lsn": "0/3000130", "timeline": 1, "pg_version": "18.1",
            "system_identifier": "7301234567890123456", "cluster_bytes": 1_100_000_000u64, "read_bytes": 2,
            "changed_bytes": 3, "new_bytes": 4, "files": 5, "damaged_pages": 0, "parent": "20261124-133000-7f3a",
            "waits_for": "000000010000000000000003", "labels": {}, "held": null, "evidence": null,
        });
        assert_eq!(value, expected);
    }
}
