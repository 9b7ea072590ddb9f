//! `prune`: space comes back.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;

use super::args::values;
use super::context::{Context, Here};
use super::contract::Exit;
use super::failure::Failure;
use super::fronts::CatalogFronts;
use super::output::progress::for_people;
use super::output::{answered, json, one_line};
use super::tail::OpenedTail;
use crate::archive::{self, ContentOf, StoredObject};
use crate::host::StateDir;
use crate::host::access::{Need, Opened};
use crate::host::machine::{MachineId, boot_id, since_boot};
use crate::prune::{
    self, Amount, Clock, Content, Histories, Kept, KeptWal, Options, PruneError, Report, Setting, Stored, WalArchive, WalLine, Why,
};
use crate::recommit;
use crate::repo::log::{Branch, ClusterId, Fold};
use crate::units::ids::hex;
use crate::units::{ByteSize, Cancel, TimelineId};

/// Arguments of `prune`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Change nothing, and say what would be done
    #[arg(long)]
    dry_run: bool,
    /// The most bytes that are stored anew to empty packs of which little is needed (default: 5 % of the repository)
    #[arg(long, value_name = "BYTES", value_parser = values::byte_size)]
    max_rewrite: Option<u64>,
    /// Run as root all the same
    #[arg(long)]
    allow_root: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    if !args.dry_run {
        context.refuse_root("prune", args.allow_root)?;
    }
    let need = if args.dry_run { Need::Read } else { Need::Write };
    let cluster = context.cluster_if_one()?;
    let here = context.here(cluster.as_ref(), need)?;
    let opened = Arc::new(context.open(&here, need)?);
    let report = prune_here(context, args, &here, &opened);
    if !args.dry_run {
        opened.settle(&here.place(&context.reporter));
    }
    let report = report?;
    crate::units::Progress::phase(&context.reporter, "", None);
    let out = &mut io::stdout().lock();
    answered(if context.settings.json { json::write(out, &answer(&report)) } else { write_text(out, &report) })?;
    // Damage that nobody asked for must not end in a cron job's silence.
    Ok(if report.damaged > 0 { Exit::LOOK } else { Exit::DONE })
}

fn prune_here(context: &Context, args: &Args, here: &Here, opened: &Arc<Opened>) -> Result<Report, Failure> {
    let state: &StateDir = here.state_to_write()?;
    let machine_id = MachineId::of_this_machine(state)?;
    let machine = hex(machine_id.as_bytes());
    let fronts = CatalogFronts::of(opened);
    let clusters = clusters(&opened.view().fold);
    let archives: Vec<Archived<'_>> =
        clusters.into_iter().map(|cluster| Archived { opened, cluster, fronts: &fronts, cancel: &context.cancel }).collect();
    let archives: Vec<&dyn WalArchive> = archives.iter().map(|a| a as &dyn WalArchive).collect();
    let trust_writers = context.cluster_if_one()?.map(|c| c.trust_writers).unwrap_or_default();
    let emptying = recommit::Setting {
        opened,
        state,
        machine: *machine_id.as_bytes(),
        trust_writers: &trust_writers,
        sort_blobs: true,
        cancel: &context.cancel,
        progress: &context.reporter,
    };
    let clock = boot_id().zip(since_boot().ok()).map(|(boot, since)| Clock { boot, since });
    let setting = Setting {
        opened,
        state,
        machine: &machine,
        clock,
        emptying: Some(&emptying),
        archives: &archives,
        cancel: &context.cancel,
        progress: &context.reporter,
    };
    Ok(prune::run(&setting, &Options { dry_run: args.dry_run, max_rewrite: args.max_rewrite })?)
}

/// All clusters that ever began a backup, under each of their system identifiers. WAL of others has no snapshot, and stays.
fn clusters(fold: &Fold) -> BTreeSet<ClusterId> {
    let begun = fold.sessions.values().filter_map(|s| s.cluster.clone());
    begun.chain(fold.commits.values().map(|c| c.summary.cluster_id())).collect()
}

/// A cluster's archive, as a prune asks for it.
struct Archived<'a> {
    opened: &'a Opened,
    cluster: ClusterId,
    fronts: &'a CatalogFronts,
    cancel: &'a Cancel,
}

impl WalArchive for Archived<'_> {
    fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    fn list(&self) -> Result<(Vec<Stored>, Histories), PruneError> {
        let tail = OpenedTail::new(self.opened, &self.cluster.name).map_err(PruneError::archive)?;
        let stored = archive::stored(&tail.site(), self.cluster.system_identifier, self.fronts, self.cancel);
        let stored = stored.map_err(PruneError::archive)?;
        let objects = stored.objects.into_iter().map(|o| Stored { object: o.object, file: o.file, size: o.size }).collect();
        let ancestry = |history: &archive::HistoryFacts| {
            let branches = history.lines.iter().rev().map(|line| Branch { timeline: line.parent, lsn: line.switch });
            (!history.is_cut()).then(|| branches.collect())
        };
        Ok((objects, stored.histories.iter().map(|(timeline, history)| (*timeline, ancestry(history))).collect()))
    }

    fn content(&self, object: &Stored, fresh: bool) -> Result<Content, PruneError> {
        let tail = OpenedTail::new(self.opened, &self.cluster.name).map_err(PruneError::archive)?;
        let stored = StoredObject { object: object.object.clone(), file: object.file, size: object.size };
        let cache: Option<&dyn archive::FrontCache> = if fresh { None } else { Some(self.fronts) };
        if fresh {
            // It is about to be deleted, and another one may be pushed under its name.
            self.fronts.forget(&stored.object);
        }
        let content = archive::content_of(&tail.site(), self.cluster.system_identifier, &stored, cache);
        Ok(match content.map_err(PruneError::archive)? {
            ContentOf::Is(content, size) => Content::Is(content, size),
            ContentOf::Gone => Content::Gone,
            ContentOf::Unreadable => Content::Unreadable,
        })
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    version: u32,
    dry_run: bool,
    /// Bytes that came back, or would.
    freed: u64,
    sessions: SessionsJson,
    packs: PacksJson,
    /// Mostly dead packs that were emptied.
    rewritten: RewrittenJson,
    wal: Vec<WalJson<'a>>,
    wal_kept: Vec<KeptJson<'a>>,
    unfinished: u64,
    damaged: u64,
    warnings: &'a [String],
    log: Option<HeadJson>,
}

#[derive(Serialize)]
struct SessionsJson {
    ended: Vec<String>,
    waiting_for: Vec<WaitingJson>,
}

#[derive(Serialize)]
struct WaitingJson {
    session: String,
    purpose: String,
    cluster: Option<String>,
    machine: String,
    begun_at: String,
    why: String,
}

#[derive(Serialize)]
struct PacksJson {
    condemned: Amount,
    orphans: Amount,
    swept: Amount,
    deleted: Amount,
    waiting: Amount,
}

#[derive(Serialize)]
struct RewrittenJson {
    emptied: Amount,
    copied_bytes: u64,
    snapshots: u64,
    healed_chunks: u64,
}

#[derive(Serialize)]
struct WalJson<'a> {
    cluster: &'a str,
    system_identifier: String,
    timeline: TimelineId,
    objects: u64,
    bytes: u64,
    first: Option<String>,
    last: Option<String>,
}

#[derive(Serialize)]
struct KeptJson<'a> {
    cluster: &'a str,
    system_identifier: String,
    timeline: Option<TimelineId>,
    why: &'static str,
}

#[derive(Serialize)]
struct HeadJson {
    number: u64,
    hash: String,
}

fn answer(report: &Report) -> Answer<'_> {
    let waiting = report.waiting_for.iter().map(|w| WaitingJson {
        session: w.session.to_string(),
        purpose: w.purpose.clone(),
        cluster: w.cluster.clone(),
        machine: w.machine.clone(),
        begun_at: w.begun_at.to_string(),
        why: why_waits(w.why),
    });
    let wal = report.wal.iter().map(|((cluster, timeline), line)| WalJson {
        cluster: &cluster.name,
        system_identifier: cluster.system_identifier.to_string(),
        timeline: *timeline,
        objects: line.amount.objects,
        bytes: line.amount.bytes,
        first: line.first.map(|name| name.to_string()),
        last: line.last.map(|name| name.to_string()),
    });
    let kept = report.kept.iter().map(|kept| KeptJson {
        cluster: &kept.cluster.name,
        system_identifier: kept.cluster.system_identifier.to_string(),
        timeline: kept.timeline,
        why: why_kept(kept.why),
    });
    Answer {
        version: 1,
        dry_run: report.dry_run,
        freed: report.freed(),
        sessions: SessionsJson { ended: report.ended.iter().map(ToString::to_string).collect(), waiting_for: waiting.collect() },
        packs: PacksJson {
            condemned: report.condemned,
            orphans: report.orphans,
            swept: report.swept,
            deleted: report.deleted,
            waiting: report.waiting,
        },
        rewritten: RewrittenJson {
            emptied: report.emptied,
            copied_bytes: report.copied,
            snapshots: report.recommitted,
            healed_chunks: report.healed,
        },
        wal: wal.collect(),
        wal_kept: kept.collect(),
        unfinished: report.unfinished,
        damaged: report.damaged,
        warnings: &report.warnings,
        log: report.head.map(|head| HeadJson { number: head.number, hash: head.hash.to_string() }),
    }
}

fn why_waits(why: Why) -> String {
    match why {
        Why::Alive => "its process lives".into(),
        Why::Foreign(still) => format!(
            "it is another machine's or user's, and was seen to stand still for {}; after an hour a prune ends it",
            for_people(still.as_secs())
        ),
        Why::Timeless => "it is another machine's, and this system does not tell how long it has stood still: a prune there ends it".into(),
    }
}

fn why_kept(why: Kept) -> &'static str {
    match why {
        Kept::NoSnapshot => "there is no snapshot that could use it (yet)",
        Kept::NoHistory => "its history file is not in the archive, or damaged",
        Kept::LongHistory => "its history is longer than what is recorded of it",
        Kept::NoRight => "this host's key is no maintainer's of this cluster",
        Kept::NotReached => "it is the newest timeline, and no snapshot leads to it yet",
    }
}

fn write_text(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let amount = |a: &Amount| format!("{} ({})", a.objects, ByteSize(a.bytes));
    let (ended, would) = if report.dry_run { ("would end", "would be ") } else { ("ended", "") };
    for session in &report.ended {
        writeln!(out, "{ended} session {session}, which is dead")?;
    }
    for w in &report.waiting_for {
        let of = w.cluster.as_ref().map(|c| format!(" of {}", one_line(c))).unwrap_or_default();
        writeln!(
            out,
            "waiting for session {} ({}{of}, since {}): {}",
            w.session,
            one_line(&w.purpose),
            w.begun_at.for_people(),
            why_waits(w.why)
        )?;
    }
    if report.emptied.objects > 0 || report.healed > 0 {
        let healed = if report.healed > 0 { format!("; damaged places given up for whole ones: {}", report.healed) } else { String::new() };
        writeln!(
            out,
            "mostly dead packs {would}emptied: {}, by storing {} anew for {}{healed}",
            amount(&report.emptied),
            ByteSize(report.copied),
            crate::units::counted(report.recommitted, "snapshot", "snapshots")
        )?;
    }
    if report.condemned.objects > 0 {
        let orphans =
            if report.orphans.objects > 0 { format!(", {} of them leftovers in no list", amount(&report.orphans)) } else { String::new() };
        writeln!(out, "packs {would}condemned: {}{orphans}", amount(&report.condemned))?;
    }
    if report.swept.objects > 0 {
        writeln!(out, "packs {would}deleted: {}", amount(&report.deleted))?;
    }
    if report.waiting.objects > 0 {
        writeln!(out, "packs condemned and waiting for a session: {}", amount(&report.waiting))?;
    }
    for ((cluster, timeline), line) in &report.wal {
        writeln!(out, "WAL of {} on timeline {timeline} {would}expired: {}{}", cluster.name, amount(&line.amount), from_to(line))?;
    }
    for KeptWal { cluster, timeline, why } in &report.kept {
        let on = timeline.map(|t| format!(" on timeline {t}")).unwrap_or_default();
        writeln!(out, "WAL of {cluster}{on} stays: {}", why_kept(*why))?;
    }
    if report.unfinished > 0 {
        writeln!(out, "unfinished files {would}removed: {}", report.unfinished)?;
    }
    for warning in &report.warnings {
        writeln!(out, "note  {}", one_line(warning))?;
    }
    match report.freed() {
        0 => writeln!(out, "nothing to free"),
        freed => writeln!(out, "{} {would}freed", ByteSize(freed)),
    }?;
    out.flush()
}

fn from_to(line: &WalLine) -> String {
    match (line.first, line.last) {
        (Some(first), Some(last)) if first != last => format!(", {first} to {last}"),
        (Some(first), _) => format!(", {first}"),
        _ => String::new(),
    }
}
