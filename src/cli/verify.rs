//! `verify`: is everything there, and whole?

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::context::Context;
use super::contract::Exit;
use super::evidence;
use super::failure::Failure;
use super::output::{answered, json, one_line};
use crate::archive::status::Known;
use crate::archive::{self, GetContext, LogTail, Rights, Site, TailFailure};
use crate::crypt::{Opening, secret};
use crate::host::access::{self, Need, Opened};
use crate::host::config::SecretSource;
use crate::look::show_path;
use crate::pg::wal::WalFileName;
use crate::repo::RepoError;
use crate::repo::log::{ClusterId, Damaged, Held, Kind, LogView, Role};
use crate::scrub::{self, Counting, Finding, Percent, Report, Share};
use crate::units::ids::hex;
use crate::units::{ByteSize, Progress, counted};

/// Arguments of `verify`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Read the payload, too: all of it, or a share that is drawn anew each time [--read-data=5]
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, require_equals = true, default_missing_value = "100")]
    read_data: Option<Percent>,
    /// Draw the same share as another run
    #[arg(long, value_name = "N", requires = "read_data")]
    seed: Option<u64>,
}

/// What is said of an object that is whole as an older version alone.
const COVERED: &str = "something was put over it, or it was deleted, and an older version of it is read: find out who did that; then delete the newer \
                       versions, or the delete marker, so that everybody can read it";

/// Files of a damaged object that people are shown.
const SHOWN: usize = 20;

#[derive(Serialize)]
struct Answer<'a> {
    version: u32,
    ok: bool,
    objects: u64,
    bytes_read: u64,
    snapshots: usize,
    packs: usize,
    packs_read: usize,
    wal_files: usize,
    wal_files_read: usize,
    seed: Option<u64>,
    orphans: OrphansJson,
    leftovers: usize,
    errors: Vec<ErrorJson<'a>>,
    /// Of files and WAL nothing was looked at but where they lie: this host can't open content.
    blind: bool,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct OrphansJson {
    objects: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    object: &'a str,
    problem: &'a str,
    snapshots: &'a BTreeSet<String>,
    files: Vec<String>,
}

/// What was found, of all objects.
struct Verified {
    report: Report,
    findings: Vec<Finding>,
    warnings: Vec<String>,
    wal: (usize, usize),
    /// Gaps in the archive, as far as no snapshot needs what is missing to be consistent.
    gaps: usize,
    /// Unfinished files of runs that were killed, or still go on.
    leftovers: usize,
    bytes_read: u64,
    seed: Option<u64>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let cluster = context.cluster_if_one()?;
    let here = context.here(cluster.as_ref(), Need::Read)?;
    let opened = context.open(&here, Need::Read)?;
    let mut verified = verify(context, args, &opened)?;
    verified.warnings.extend(note_damage(&opened, &verified.report));
    let share = args.read_data.map_or_else(|| "objects only".to_owned(), |percent| format!("read {percent}"));
    // Who can't open content has not seen that it is whole.
    if !verified.report.blind {
        evidence::note(context, &here, &opened, &verified.report.view, &share, &verified.findings);
    }
    let out = &mut io::stdout().lock();
    answered(if context.settings.json { json::write(out, &answer(&verified)) } else { write_text(out, &verified) })?;
    Ok(if verified.findings.is_empty() { Exit::DONE } else { Exit::DAMAGED })
}

fn verify(context: &Context, args: &Args, opened: &Opened) -> Result<Verified, Failure> {
    let seed = match (args.read_data, args.seed) {
        (None, _) => None,
        (Some(_), Some(seed)) => Some(seed),
        (Some(Percent::ALL), None) => None,
        // Numbers that people can copy.
        (Some(_), None) => Some(u64::from(u32::from_le_bytes(secret::random().map_err(RepoError::from)?))),
    };
    let read = args.read_data.map_or(Share::None, |percent| Share::Some(percent, seed.unwrap_or(0)));
    let store = Arc::new(Counting::new(Arc::clone(&opened.backend)));
    let repository = context.settings.repository(context.cluster_if_one()?.as_ref())?;
    let unlock = repository.secret.as_ref().and_then(|source| unlock(context, source));
    let setup = scrub::Setup {
        opened,
        store: Arc::clone(&store),
        unlock: unlock.as_ref(),
        read,
        progress: &context.reporter,
        cancel: &context.cancel,
    };
    let mut report = scrub::verify(&setup)?;
    let mut warnings = std::mem::take(&mut report.warnings);
    if report.blind {
        warnings.push(
            "this host can't open content: names and attributes of files, their content, and what is in WAL were not looked at, nor is anything noted in the log; run verify on a host that reads, too"
                .into(),
        );
    }
    let (mut wal, mut gaps) = ((0, 0), 0);
    for (cluster, known_as) in archives(context, &report, opened) {
        let Some(id) = known_as else {
            warnings.push(format!("{cluster} holds WAL of a cluster whose name is not known here: say --cluster to have it verified"));
            continue;
        };
        let checked = check_wal(context, opened, &store, &report.view, &id, read)?;
        wal = (wal.0 + checked.files.0, wal.1 + checked.files.1);
        warnings.extend(checked.warnings);
        gaps += checked.gaps;
        for problem in checked.problems {
            report.findings.note(&problem.object, &problem.problem);
            problem.snapshots.iter().for_each(|snapshot| report.findings.hit_snapshot(&problem.object, snapshot));
        }
    }
    for name in opened.backend.chosen() {
        report.findings.note(name.as_str(), COVERED);
    }
    let findings = std::mem::take(&mut report.findings).take();
    let leftovers = opened.backend.leftovers().map_err(RepoError::from)?.len();
    Ok(Verified { report, findings, warnings, wal, gaps, leftovers, bytes_read: store.bytes_read(), seed })
}

/// Tells the log of places that were found damaged twice, if this host may: nothing relies on them any more, and the next
/// backup stores anew what the cluster still has of them.
fn note_damage(opened: &Opened, report: &Report) -> Option<String> {
    let places: usize = report.damaged.values().map(BTreeMap::len).sum();
    let key = opened.signer.as_ref().filter(|_| places > 0)?;
    let mut view = opened.view();
    let may = |role| view.fold.keys.get(&key.id()).is_some_and(|k| k.is_active() && k.may(role, None));
    if !may(Role::Reader) && !may(Role::Maintainer) {
        return Some("this host may not tell the log of the damage: run verify where a reader or maintainer is enrolled".into());
    }
    let damaged = Kind::Damaged(Damaged { places: Held::Inline(report.damaged.clone()) });
    Some(match opened.log().append(&mut view, key, &damaged) {
        Ok(_) => format!(
            "read twice and damaged both times, in {}: the log says so now, and the next backup stores anew what the cluster still has of it",
            counted(places, "pack", "packs")
        ),
        Err(e) => format!("the log can't be told of the damage: {}", crate::units::with_causes(&e)),
    })
}

/// What opens a slot, if it can be had: a host with a key of its own needs none.
fn unlock(context: &Context, source: &SecretSource) -> Option<crate::crypt::slot::Unlock> {
    match access::unlock_with(source) {
        Ok(unlock) => Some(unlock),
        Err(e) => {
            context.reporter.warn(&format!("whether a key slot opens is not tried: {}", crate::units::with_causes(&e)));
            None
        }
    }
}

/// The archives to look at: those that are stored, and those of clusters with snapshots, even if nothing is stored.
fn archives(context: &Context, report: &Report, opened: &Opened) -> BTreeMap<String, Option<ClusterId>> {
    let fold = &report.view.fold;
    let mut names: BTreeSet<String> = fold.clusters.keys().cloned().collect();
    names.extend(fold.commits.values().map(|c| c.summary.cluster.clone()));
    names.extend(context.settings.chosen_cluster());
    names.extend(context.cluster_if_one().ok().flatten().map(|c| c.name));
    let key_of: BTreeMap<String, String> = names.into_iter().map(|name| (hex(&opened.sealing.cluster_key(&name)), name)).collect();
    let mut archives = BTreeMap::new();
    for (key, identifier) in report.wal.keys() {
        let id = key_of.get(key).zip(identifier.parse().ok());
        let id = id.map(|(name, system_identifier)| ClusterId { name: name.clone(), system_identifier });
        archives.insert(format!("wal/{key}/{identifier}"), id);
    }
    for commit in fold.commits.values().filter(|c| c.summary.wal.is_some()) {
        let id = commit.summary.cluster_id();
        archives.insert(format!("wal/{}/{}", hex(&opened.sealing.cluster_key(&id.name)), id.system_identifier), Some(id));
    }
    archives
}

fn check_wal(
    context: &Context,
    opened: &Opened,
    store: &Counting,
    view: &LogView,
    id: &ClusterId,
    read: Share,
) -> Result<archive::WalChecked, Failure> {
    let tail = FreshTail { opened, view: Mutex::new(view.clone()), cluster: &id.name };
    let site = Site { backend: store, repository: opened.format.repository, sealing: &opened.sealing, cluster: &id.name, tail: &tail };
    // Without what opens content, no file is read.
    let (nothing, read) = (Opening::new(opened.sealing.clone(), Vec::new()), if opened.opening.is_some() { read } else { Share::None });
    let get = GetContext { site, opening: opened.opening.as_ref().unwrap_or(&nothing), system_identifier: id.system_identifier };
    let known = Known::of(&view.fold, &id.name, id.system_identifier);
    let choose = |files: Vec<WalFileName>| read.choose(files, |file| format!("{}/{}/{file}", id.name, id.system_identifier));
    let jobs = context.settings.jobs.get();
    Ok(archive::check(&get, &known, &choose, jobs, &context.reporter, &context.cancel)?)
}

/// The log as it was read from its beginning.
struct FreshTail<'a> {
    opened: &'a Opened,
    view: Mutex<LogView>,
    cluster: &'a str,
}

impl LogTail for FreshTail<'_> {
    fn known(&self) -> Rights {
        Rights::of(&self.view.lock().unwrap_or_else(PoisonError::into_inner), self.cluster)
    }

    fn read_on(&self) -> Result<Rights, TailFailure> {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        self.opened.log().advance(&mut view).map_err(|e| TailFailure(Box::new(e)))?;
        Ok(Rights::of(&view, self.cluster))
    }
}

fn answer(verified: &Verified) -> Answer<'_> {
    let one = |finding: &'_ Finding| -> Vec<String> { finding.files.iter().map(|path| show_path(path)).collect() };
    Answer {
        version: 1,
        ok: verified.findings.is_empty(),
        objects: verified.report.stored.objects,
        bytes_read: verified.bytes_read,
        snapshots: verified.report.snapshots,
        packs: verified.report.packs.0,
        packs_read: verified.report.packs.1,
        wal_files: verified.wal.0,
        wal_files_read: verified.wal.1,
        seed: verified.seed,
        orphans: OrphansJson { objects: verified.report.orphans.objects, bytes: verified.report.orphans.bytes },
        leftovers: verified.leftovers,
        errors: verified
            .findings
            .iter()
            .map(|f| ErrorJson { object: &f.object, problem: &f.problem, snapshots: &f.snapshots, files: one(f) })
            .collect(),
        blind: verified.report.blind,
        warnings: &verified.warnings,
    }
}

fn write_text(out: &mut dyn Write, verified: &Verified) -> io::Result<()> {
    for finding in &verified.findings {
        writeln!(out, "damaged  {}", one_line(&finding.object))?;
        writeln!(out, "    {}", one_line(&finding.problem))?;
        if finding.snapshots.is_empty() {
            writeln!(out, "    no snapshot is hit")?;
        } else {
            let snapshots: Vec<&str> = finding.snapshots.iter().map(String::as_str).collect();
            writeln!(out, "    snapshots: {}", one_line(&snapshots.join(", ")))?;
        }
        for path in finding.files.iter().take(SHOWN) {
            let all = if path.ends_with(b"/") { "all of " } else { "" };
            writeln!(out, "    {all}{}", show_path(path))?;
        }
        if let Some(more) = finding.files.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            writeln!(out, "    and {more} more files (--json lists all)")?;
        }
    }
    for warning in &verified.warnings {
        writeln!(out, "note     {}", one_line(warning))?;
    }
    let report = &verified.report;
    if report.orphans.objects > 0 {
        let text = "that no entry of the log lists, left by runs that were killed: no damage";
        writeln!(out, "note     {} {text} ({})", counted(report.orphans.objects, "pack", "packs"), ByteSize(report.orphans.bytes))?;
    }
    if verified.leftovers > 0 {
        let text = "in tmp/, of runs that were killed or still go on: no damage";
        writeln!(out, "note     {} {text}", counted(verified.leftovers, "unfinished file", "unfinished files"))?;
    }
    let (packs, packs_read) = report.packs;
    let (wal, wal_read) = verified.wal;
    writeln!(
        out,
        "{} ({}): {}, {} ({packs_read} read whole), {} ({wal_read} read whole); {} read",
        counted(report.stored.objects, "object", "objects"),
        ByteSize(report.stored.bytes),
        counted(report.snapshots, "snapshot", "snapshots"),
        counted(packs, "pack", "packs"),
        counted(wal, "WAL file", "WAL files"),
        ByteSize(verified.bytes_read)
    )?;
    if let Some(seed) = verified.seed {
        writeln!(out, "the share was drawn by --seed {seed}")?;
    }
    // A gap is for `archive status` to alarm of; but it isn't "all".
    let all = if verified.gaps > 0 { "all else" } else { "all" };
    match verified.findings.len() {
        0 if report.blind => writeln!(out, "{all} is there; what can be looked at without a key to content is whole")?,
        0 if packs_read == packs && wal_read == wal => writeln!(out, "{all} is there, and all of it is whole")?,
        0 => writeln!(out, "{all} is there; what was read is whole")?,
        1 => writeln!(out, "1 object is damaged or missing")?,
        n => writeln!(out, "{n} objects are damaged or missing")?,
    }
    if verified.findings.iter().any(|f| !f.snapshots.is_empty()) {
        writeln!(out, "what is not named here can be restored; bring objects back from a copy of the repository under their names")?;
    }
    out.flush()
}
