//! The whole of it, in order: log, listing, slots, packs, trees. WAL has a room of its own, which the caller asks.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::again::Again;
use super::blind::BlindCheck;
use super::counting::Counting;
use super::failure::{ScrubError, damage};
use super::findings::Findings;
use super::keys;
use super::listing::{Compared, Listing, Tally};
use super::memo::Memo;
use super::packs::{BadBlobs, PackCheck, spread};
use super::share::Share;
use super::state::Trees;
use super::tree::TreeCheck;
use crate::crypt::slot::Unlock;
use crate::host::access::Opened;
use crate::repo::format::{self, Format};
use crate::repo::log::{Damage, DamagedPlaces, Fold, LogView, body_name, entry_name};
use crate::repo::pack::pack_name;
use crate::repo::{PackRef, RepoError};
use crate::store::{Backend, ObjectName, StoreError, seen_through};
use crate::units::{Cancel, Progress};

/// What is verified, and how.
pub struct Setup<'a> {
    /// The repository.
    pub opened: &'a Opened,
    /// Its store.
    pub store: Arc<Counting>,
    /// What opens a slot, if that is at hand.
    pub unlock: Option<&'a Unlock>,
    /// How much of the payload is read.
    pub read: Share,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
    /// Asked to stop.
    pub cancel: &'a Cancel,
}

/// What was found.
pub struct Report {
    /// What is damaged.
    pub findings: Findings,
    /// Objects that are stored, of all kinds.
    pub stored: Tally,
    /// Packs that the log lists, and those of them of which every byte was read.
    pub packs: (usize, usize),
    /// Live snapshots walked.
    pub snapshots: usize,
    /// Packs that no entry lists: what a killed run left. No damage.
    pub orphans: Tally,
    /// WAL by cluster key and system identifier, as they stand in names.
    pub wal: BTreeMap<(String, String), Tally>,
    /// Places that were found damaged twice, by this run alone, and that the log doesn't list yet.
    pub damaged: DamagedPlaces,
    /// What needs a look and is no damage.
    pub warnings: Vec<String>,
    /// This host can't open content: names, attributes and content were not looked at.
    pub blind: bool,
    /// The log as it was read.
    pub view: LogView,
}

/// Verifies all but WAL objects.
///
/// # Errors
/// If nothing can be said: the store or the log can't be read.
pub fn verify(setup: &Setup<'_>) -> Result<Report, ScrubError> {
    let Setup { opened, progress, cancel, .. } = *setup;
    let (findings, mut warnings) = (Findings::default(), Vec::new());
    progress.phase("reading the log", None);
    // From its beginning: a kept fold is a cache.
    let mut view = opened.log().read()?;
    progress.phase("listing", None);
    let backend: Arc<dyn Backend> = Arc::clone(&setup.store) as _;
    let mut listing = Listing::read(backend.as_ref(), cancel)?;
    listing.dig(backend.as_ref(), &view.fold)?;
    let mut compared = listing.compare(backend.as_ref(), &view.fold, &findings)?;
    // What is missing may have been swept since, and what nobody listed may be listed now.
    opened.log().advance(&mut view)?;
    listing.count_rest(&view.fold, &mut compared);
    note_format(opened, backend.as_ref(), &findings)?;
    note_log(&view, &findings, &mut warnings);
    note_packs(&view.fold, &compared, &findings)?;
    let fold = &view.fold;
    keys::check(opened, &listing.slots, &listing.doubtful_slots, setup.unlock, &findings, &mut warnings)?;
    let (opening, sealing, bad) = (opened.opening.as_ref(), &opened.sealing, BadBlobs::default());
    let there: Vec<_> = compared.there.iter().filter(|p| fold.pack(&p.session, &p.id).is_some()).copied().collect();
    let missing = compared.missing.iter().filter(|p| fold.pack(&p.session, &p.id).is_some());
    missing.for_each(|pack| bad.insert_table(pack.session, pack.id));
    let check = PackCheck { backend: &backend, sealing, opening, fold, findings: &findings, bad: &bad, progress, cancel };
    let read = check.run(&there, setup.read)?;
    let memo = Memo::default();
    progress.phase("walking snapshots", Some(fold.commits.values().map(|c| c.summary.cluster_bytes).fold(0, u64::saturating_add)));
    let trees = Trees { backend: &backend, sealing, fold, findings: &findings, bad: &bad, memo: &memo, progress, cancel };
    spread(backend.pace(), || {
        fold.commits.iter().try_for_each(|(number, commit)| {
            cancel.check()?;
            match opening {
                Some(opening) => TreeCheck { trees, opening }.run(*number, commit),
                None => BlindCheck { trees }.run(*number, commit),
            }
        })
    })?;
    check.nodes_of_suspects(&there)?;
    let again = Again { backend: &backend, sealing, opening, fold, bad: &bad, findings: &findings, cancel };
    let damaged = again.look()?;
    again.stored_anew(&there)?;
    warnings.extend(leftovers(&listing, &compared));
    forget_swept(opened, &view, &findings)?;
    Ok(Report {
        stored: listing.all,
        packs: (there.len() + compared.missing.len(), read),
        snapshots: fold.commits.len(),
        orphans: compared.orphans,
        wal: listing.wal,
        damaged,
        findings,
        warnings,
        blind: opening.is_none(),
        view,
    })
}

/// A host that keeps the format object doesn't read it when it opens the repository, and one that has nothing needs it.
fn note_format(opened: &Opened, backend: &dyn Backend, findings: &Findings) -> Result<(), ScrubError> {
    let name = ObjectName::new(format::NAME).map_err(StoreError::from)?;
    let read = || match Format::decode(&backend.read(&name, 4096)?) {
        Ok(format) if format == opened.format => Ok(()),
        Ok(_) => Err(RepoError::corrupt(&name, "it is of another repository")),
        Err(e) => Err(RepoError::corrupt(&name, &e.to_string())),
    };
    if let Err(e) = seen_through(backend, &name, RepoError::is_damage, read) {
        let found = damage(e, name.as_str())?;
        findings.note(&found.object, &found.problem);
    }
    Ok(())
}

/// What the log is not.
fn note_log(view: &LogView, findings: &Findings, warnings: &mut Vec<String>) {
    for damage in &view.damage {
        let object = entry_name(damage.number());
        match damage {
            Damage::Changed(_) => {
                findings.note(&object, "it is not what was written: neither a key that the log knows nor the next entry vouches for it")
            }
            Damage::Absent { .. } => findings.note(&object, &damage.to_string()),
        }
    }
    for missing in &view.missing {
        let why = format!("{} names it, and it is not there or has other bytes", entry_name(missing.number));
        findings.note(&body_name(&missing.hash), &why);
    }
    let newest = view.newest.number;
    for (number, alarm) in &view.fold.alarms {
        if *number == newest && view.ends_unsigned() {
            findings.note(&entry_name(newest), &format!("{}: planted, or the rotten form of an entry that counted", alarm.why));
        } else if !view.doubtful.iter().any(|(doubtful, _)| doubtful == number) {
            let signer = alarm.signer.map(|key| format!(", key {key}")).unwrap_or_default();
            warnings.push(format!("{} is void ({}{signer}): who wrote it, and why?", entry_name(*number), alarm.why));
        }
    }
    for (number, commit) in &view.doubtful {
        let why = "this COMMIT does not count, perhaps only because of damage before it";
        findings.note(&entry_name(*number), why);
        findings.hit_snapshot(&entry_name(*number), &commit.summary.id);
    }
    if let Some(unknown) = &view.fold.unknown {
        let (entry, kind) = (entry_name(unknown.number), &unknown.kind);
        warnings.push(format!("{entry} says {kind:?}, which this version does not know: use a newer pgcairn to verify"));
    }
}

/// What was swept while it was looked at is no damage: a pack that the log listed then, and lists no longer.
fn forget_swept(opened: &Opened, view: &LogView, findings: &Findings) -> Result<(), ScrubError> {
    let mut now = view.clone();
    opened.log().advance(&mut now)?;
    let mut swept = HashSet::new();
    for (session, pack) in view.fold.sessions.iter().flat_map(|(id, s)| s.packs.keys().map(move |pack| (id, pack))) {
        if now.fold.pack(session, pack).is_none() {
            let facts =
                view.fold.pack(session, pack).map(|f| PackRef { session: *session, id: *pack, hash: f.hash, size: f.size, tail: f.tail });
            swept.extend(facts.map(|pack| pack_name(*session, &pack)).transpose()?.map(|name| name.as_str().to_owned()));
        }
    }
    findings.forget(|object| swept.contains(object));
    Ok(())
}

/// Packs that are listed and not there.
fn note_packs(fold: &Fold, compared: &Compared, findings: &Findings) -> Result<(), ScrubError> {
    for pack in compared.missing.iter().filter(|p| fold.pack(&p.session, &p.id).is_some()) {
        findings.note(pack_name(pack.session, pack)?.as_str(), "it is not there");
    }
    Ok(())
}

/// What lies there and doesn't matter.
fn leftovers(listing: &Listing, compared: &Compared) -> Vec<String> {
    const MOST: usize = 5;
    let strangers = &listing.strangers;
    let mut said = Vec::new();
    if !strangers.is_empty() {
        let shown: Vec<&str> = strangers.iter().take(MOST).map(String::as_str).collect();
        let more = if strangers.len() > MOST { format!(" and {} more", strangers.len() - MOST) } else { String::new() };
        said.push(format!("objects that this version does not know: {}{more}", shown.join(", ")));
    }
    if compared.unlisted.objects > 0 {
        said.push(format!("{} packs of runs that have not ended were not verified", compared.unlisted.objects));
    }
    said
}
