//! `stats`: where the space goes.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::context::Context;
use super::contract::Exit;
use super::failure::Failure;
use super::fronts::CatalogFronts;
use super::output::requests::RequestsJson;
use super::output::table::{Align, Table};
use super::output::{answered, json, one_line};
use super::tail::OpenedTail;
use crate::archive::Archive;
use crate::host::access::Opened;
use crate::look::{self, Amount, Stats};
use crate::repo::log::Fold;
use crate::store::Requests;
use crate::units::ByteSize;
use crate::units::ids::hex;

#[derive(Serialize)]
struct Answer<'a> {
    version: u32,
    stored: Stored,
    raw: Raw,
    /// Plain bytes of all that is stored, by what it takes.
    ratio: Option<f64>,
    live: u64,
    dead: u64,
    reclaimable: u64,
    condemned: u64,
    unneeded: u64,
    orphans: u64,
    by_codec: &'a BTreeMap<String, Amount>,
    by_relation_kind: &'a BTreeMap<&'static str, Amount>,
    by_cluster: &'a BTreeMap<String, ClusterJson>,
    snapshots: SnapshotsJson,
    /// What this very run has asked of the store, where that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<RequestsJson>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Stored {
    chunks: u64,
    structure: u64,
    wal: u64,
    log: u64,
}

#[derive(Serialize)]
struct Raw {
    chunks: u64,
    wal: u64,
}

#[derive(Serialize)]
struct SnapshotsJson {
    count: u64,
    /// What restoring all of them would give.
    bytes: u64,
}

/// What one cluster takes. Chunks that several share are of whoever stored them.
#[derive(Serialize, Default, Clone, Debug, PartialEq)]
struct ClusterJson {
    packs: u64,
    wal: u64,
    wal_raw: u64,
}

struct Counted {
    stats: Stats,
    clusters: BTreeMap<String, ClusterJson>,
    requests: Option<Requests>,
}

pub(super) fn run(context: &Context) -> Result<Exit, Failure> {
    let opened = context.open_to_look()?;
    context.read_whole(&opened)?;
    let fold = opened.view().fold.clone();
    let mut stats = look::stats(&opened, &fold, &context.reporter, &context.cancel)?;
    let mut clusters: BTreeMap<String, ClusterJson> = BTreeMap::new();
    for (cluster, packs) in &stats.by_cluster {
        let name = if cluster.is_empty() { "none" } else { cluster };
        clusters.entry(name.to_owned()).or_default().packs += packs;
    }
    let names = names(context, &fold, &opened);
    for ((key, identifier), stored) in &stats.wal {
        let of = match (names.get(key), identifier.parse()) {
            (Some(name), Ok(system_identifier)) => {
                let of = clusters.entry(name.clone()).or_default();
                let tail = OpenedTail::new(&opened, name)?;
                let archive = Archive::read(&tail.site(), system_identifier, &CatalogFronts::of(&opened), &context.cancel)?;
                of.wal_raw = of.wal_raw.saturating_add(archive.plain());
                of
            }
            _ => {
                stats.warnings.push(format!(
                    "wal/{key}/{identifier} is of a cluster whose name is not known here: say --cluster to have it counted as its"
                ));
                clusters.entry(format!("wal/{key}")).or_default()
            }
        };
        of.wal = of.wal.saturating_add(*stored);
    }
    let counted = Counted { stats, clusters, requests: opened.backend.requests() };
    let out = &mut io::stdout().lock();
    answered(if context.settings.json { json::write(out, &answer(&counted)) } else { write_text(out, &counted) })?;
    Ok(Exit::DONE)
}

/// Names of clusters by their keys.
fn names(context: &Context, fold: &Fold, opened: &Opened) -> BTreeMap<String, String> {
    let of_log = fold.clusters.keys().cloned().chain(fold.commits.values().map(|c| c.summary.cluster.clone()));
    let here = context.settings.chosen_cluster().into_iter().chain(context.cluster_if_one().ok().flatten().map(|c| c.name));
    of_log.chain(here).map(|name| (hex(&opened.sealing.cluster_key(&name)), name)).collect()
}

impl Counted {
    fn wal(&self) -> Amount {
        let raw = self.clusters.values().map(|c| c.wal_raw).fold(0, u64::saturating_add);
        Amount { stored: self.stats.wal_stored(), raw }
    }

    fn stored(&self) -> u64 {
        [self.stats.chunks.stored, self.stats.structure, self.wal().stored, self.stats.log].into_iter().fold(0, u64::saturating_add)
    }

    fn ratio(&self) -> Option<f64> {
        let raw = self.stats.chunks.raw.saturating_add(self.wal().raw);
        (self.stored() > 0).then(|| (raw as f64 / self.stored() as f64 * 100.0).round() / 100.0)
    }
}

fn answer(counted: &Counted) -> Answer<'_> {
    let stats = &counted.stats;
    Answer {
        version: 1,
        stored: Stored { chunks: stats.chunks.stored, structure: stats.structure, wal: counted.wal().stored, log: stats.log },
        raw: Raw { chunks: stats.chunks.raw, wal: counted.wal().raw },
        ratio: counted.ratio(),
        live: stats.live,
        dead: stats.dead,
        reclaimable: stats.reclaimable,
        condemned: stats.condemned,
        unneeded: stats.unneeded,
        orphans: stats.orphans,
        by_codec: &stats.by_codec,
        by_relation_kind: &stats.by_relation_kind,
        by_cluster: &counted.clusters,
        snapshots: SnapshotsJson { count: stats.snapshots.0, bytes: stats.snapshots.1 },
        requests: counted.requests.map(RequestsJson::from),
        warnings: &stats.warnings,
    }
}

fn write_text(out: &mut dyn Write, counted: &Counted) -> io::Result<()> {
    let stats = &counted.stats;
    let size = |bytes: u64| ByteSize(bytes).to_string();
    let smaller =
        |amount: &Amount| if amount.stored == 0 { String::new() } else { format!("{:.1}", amount.raw as f64 / amount.stored as f64) };
    let table = |title: &'static str, rows: Vec<(String, Amount)>| {
        let mut table =
            Table::new([(title, Align::Left), ("stored", Align::Right), ("plain", Align::Right), ("times smaller", Align::Right)]);
        rows.into_iter().for_each(|(name, amount)| {
            table.row([
                name,
                size(amount.stored),
                if amount.raw == 0 { String::new() } else { size(amount.raw) },
                if amount.raw == 0 { String::new() } else { smaller(&amount) },
            ])
        });
        table
    };
    let plain = |stored| Amount { stored, raw: 0 };
    let kinds = vec![
        ("chunks".to_owned(), stats.chunks),
        ("structure".to_owned(), plain(stats.structure)),
        ("WAL".to_owned(), counted.wal()),
        ("log and keys".to_owned(), plain(stats.log)),
    ];
    table("kind", kinds).write(out)?;
    let (count, bytes) = stats.snapshots;
    let ratio = counted.ratio().map(|ratio| format!(", {ratio} times smaller than what is in it")).unwrap_or_default();
    writeln!(
        out,
        "{} in all{ratio}; {} of {} together",
        size(counted.stored()),
        crate::units::counted(count, "snapshot", "snapshots"),
        size(bytes)
    )?;
    writeln!(out)?;
    table("codec", stats.by_codec.iter().map(|(name, amount)| (name.clone(), *amount)).collect()).write(out)?;
    writeln!(out)?;
    table("needed for", stats.by_relation_kind.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect()).write(out)?;
    writeln!(out)?;
    let mut table = Table::new([("cluster", Align::Left), ("packs", Align::Right), ("WAL", Align::Right)]);
    counted.clusters.iter().for_each(|(name, of)| table.row([name.clone(), size(of.packs), size(of.wal)]));
    table.write(out)?;
    writeln!(out)?;
    let mut line = |name: &str, bytes: u64, what: &str| writeln!(out, "{name:<12}{:>8}  {what}", size(bytes));
    line("live", stats.live, "in packs that snapshots name")?;
    line("  unneeded", stats.unneeded, "of it in blobs that no snapshot needs any more")?;
    line("dead", stats.dead, "in packs that no snapshot names")?;
    line("  reclaimable", stats.reclaimable, "of dead and orphans: what pgcairn prune takes now")?;
    if stats.condemned > 0 {
        line("  condemned", stats.condemned, "of dead: condemned, to go when runs that were under way then have ended")?;
    }
    if stats.orphans > 0 {
        line("orphans", stats.orphans, "in packs that the log doesn't list (yet)")?;
    }
    if let Some(requests) = counted.requests {
        writeln!(out, "counting took {requests}")?;
    }
    for warning in &stats.warnings {
        writeln!(out, "note  {}", one_line(warning))?;
    }
    out.flush()
}
