//! What goes, what stays and why, as JSON and for people.

use std::io::{self, Write};

use serde::Serialize;

use super::whole::Whole;
use super::{Cluster, Wish};
use crate::archive::status::Window;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::table::{Align, Table};
use crate::cli::output::{answered, json};
use crate::retain::{Carried, Decision, Wal};
use crate::units::{ByteSize, Progress};

#[derive(Serialize)]
struct Answer<'a> {
    version: u32,
    dry_run: bool,
    clusters: Vec<ClusterJson<'a>>,
    freed: FreedJson,
}

#[derive(Serialize)]
struct ClusterJson<'a> {
    cluster: &'a str,
    /// In words; `null` if snapshots were named.
    policy: Option<String>,
    snapshots: Vec<SnapshotJson<'a>>,
    kept: usize,
    forgotten: usize,
    /// Those that keep less WAL than before.
    narrowed: usize,
    /// Others changed the log meanwhile: these stay as they are.
    spared: &'a [String],
    restorable: &'a [Window],
}

#[derive(Serialize)]
struct SnapshotJson<'a> {
    id: &'a str,
    action: &'static str,
    started_at: String,
    finished_at: String,
    good: bool,
    flaws: Vec<String>,
    /// Every rule that keeps it.
    reasons: Vec<String>,
    /// `full`: from its start on; `window`: from its start to its stop; `null`: none.
    wal: Option<&'static str>,
    /// It keeps less WAL than before.
    narrowed: bool,
    odd_time: Option<&'static str>,
}

#[derive(Serialize)]
struct FreedJson {
    packs: u64,
    wal: u64,
    exact: Option<u64>,
}

/// Writes it.
pub(super) fn write(context: &Context, dry_run: bool, planned: &[Cluster], whole: &Whole) -> Result<(), Failure> {
    let out = &mut io::stdout().lock();
    if planned.is_empty() {
        context.reporter.info("there are no snapshots yet");
    }
    let verbose = dry_run || context.settings.verbose;
    answered(if context.settings.json {
        json::write(out, &answer(dry_run, planned, whole))
    } else {
        text(out, dry_run, verbose, planned, whole)
    })?;
    Ok(())
}

fn answer<'a>(dry_run: bool, planned: &'a [Cluster], whole: &'a Whole) -> Answer<'a> {
    let clusters = planned.iter().map(|cluster| ClusterJson {
        cluster: &cluster.name,
        policy: policy(cluster),
        snapshots: cluster.plan.decisions.iter().map(snapshot).collect(),
        kept: cluster.plan.staying().count(),
        forgotten: cluster.carried.as_ref().map_or_else(|| cluster.plan.going().count(), |carried| carried.forgotten.len()),
        narrowed: narrowed(cluster),
        spared: cluster.carried.as_ref().map_or(&[], |carried| &carried.spared),
        restorable: windows(cluster, whole),
    });
    let freed = FreedJson { packs: whole.packs, wal: whole.wal, exact: whole.exact };
    Answer { version: 1, dry_run, clusters: clusters.collect(), freed }
}

/// How many are gone; before anything was done, how many would go.
fn went(cluster: &Cluster) -> usize {
    let gone = |carried: &Carried| cluster.plan.going().filter(|d| !carried.spared.contains(&d.id)).count();
    cluster.carried.as_ref().map_or_else(|| cluster.plan.going().count(), gone)
}

/// As many keep less WAL now, or would.
fn narrowed(cluster: &Cluster) -> usize {
    let wanted = cluster.plan.decisions.iter().filter(|d| d.narrows);
    wanted.filter(|d| cluster.carried.as_ref().is_none_or(|carried| !carried.spared.contains(&d.id))).count()
}

fn policy(cluster: &Cluster) -> Option<String> {
    match &cluster.wish {
        Wish::Policy(policy) => Some(policy.to_string()),
        Wish::Named { .. } => None,
    }
}

fn windows<'a>(cluster: &Cluster, whole: &'a Whole) -> &'a [Window] {
    whole.restorable.get(&cluster.name).map(Vec::as_slice).unwrap_or_default()
}

fn action(decision: &Decision) -> &'static str {
    if decision.stays() { "keep" } else { "forget" }
}

fn snapshot(decision: &Decision) -> SnapshotJson<'_> {
    SnapshotJson {
        id: &decision.id,
        action: action(decision),
        started_at: decision.started_at.to_string(),
        finished_at: decision.finished_at.to_string(),
        good: decision.flaws.is_empty(),
        flaws: decision.flaws.iter().map(ToString::to_string).collect(),
        reasons: decision.keeps.iter().map(ToString::to_string).collect(),
        wal: match decision.wal {
            Wal::None => None,
            Wal::Full => Some("full"),
            Wal::Window => Some("window"),
        },
        narrowed: decision.narrows,
        odd_time: decision.odd_time,
    }
}

fn text(out: &mut dyn Write, dry_run: bool, verbose: bool, planned: &[Cluster], whole: &Whole) -> io::Result<()> {
    for cluster in planned {
        match policy(cluster) {
            Some(policy) => writeln!(out, "cluster {}: {policy}", cluster.name)?,
            None => writeln!(out, "cluster {}", cluster.name)?,
        }
        table(cluster, verbose).write(out)?;
        let go = went(cluster);
        let stay = cluster.plan.decisions.len().saturating_sub(go);
        let narrowed = narrowed(cluster);
        let less = if narrowed > 0 {
            format!("; {narrowed} of these keep just the WAL that makes them consistent from now on")
        } else {
            String::new()
        };
        writeln!(out, "{go} {}, {stay} stay{less}", if dry_run { "would go" } else { "forgotten" })?;
        for window in windows(cluster, whole) {
            let to = window.to_time.map(|to| format!(" to {}", to.for_people())).unwrap_or_default();
            match window.to_lsn > window.from_lsn {
                true => writeln!(
                    out,
                    "restorable from {} on: {}{to}, timeline {}",
                    window.snapshot,
                    window.from_time.for_people(),
                    window.timeline
                )?,
                false if verbose => writeln!(out, "restorable as itself: {}, {}", window.snapshot, window.from_time.for_people())?,
                false => {}
            }
        }
        writeln!(out)?;
    }
    let exact = whole.exact.map(|bytes| format!("; counted to the blob, {} of content", ByteSize(bytes))).unwrap_or_default();
    writeln!(
        out,
        "prune {} {}: about {} in packs, {} of WAL{exact}",
        if dry_run { "would give back" } else { "gives back" },
        ByteSize(whole.packs.saturating_add(whole.wal)),
        ByteSize(whole.packs),
        ByteSize(whole.wal)
    )?;
    out.flush()
}

fn table(cluster: &Cluster, verbose: bool) -> Table {
    use Align::Left;
    let mut table = Table::new([("", Left), ("snapshot", Left), ("started", Left), ("WAL", Left), ("why", Left)]);
    for decision in cluster.plan.decisions.iter().filter(|d| verbose || !d.stays() || d.narrows) {
        let reasons =
            if decision.stays() { decision.keeps.iter().map(ToString::to_string).collect() } else { vec![goes(cluster).to_owned()] };
        let flaws = decision.flaws.iter().map(|flaw| format!("not good: {flaw}"));
        let why: Vec<String> = reasons.into_iter().chain(flaws).chain(decision.odd_time.map(str::to_owned)).collect();
        let wal = match (decision.wal, decision.narrows) {
            (Wal::None, _) => "",
            (Wal::Full, _) => "all behind it",
            (Wal::Window, true) => "its own, from now on",
            (Wal::Window, false) => "its own",
        };
        table.row([action(decision).into(), decision.id.clone(), decision.started_at.for_people(), wal.into(), why.join("; ")]);
    }
    table
}

fn goes(cluster: &Cluster) -> &'static str {
    match cluster.wish {
        Wish::Policy(_) => "no rule keeps it",
        Wish::Named { .. } => "named",
    }
}
