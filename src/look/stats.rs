//! Where the space goes: by what the log lists, what the tables of packs say, and what the trees of live snapshots need.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rayon::prelude::*;

use super::kinds::kind_of;
use super::snapshots::{Listed, snapshots};
use super::tree::{Tree, join, open_snapshot};
use super::{LookError, show_path};
use crate::codec::FrameKind;
use crate::crypt::ChunkRole;
use crate::host::access::Opened;
use crate::repo::log::Fold;
use crate::repo::pack::{Packs, Place, Row};
use crate::repo::structure::{Extent, FileData, StoredFile, read_leaf};
use crate::repo::{PackRef, RepoError};
use crate::store::agreed;
use crate::units::{Cancel, Digest16, PackId, Progress, SessionId};

/// Bytes as they are stored, and plain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Amount {
    /// Stored.
    pub stored: u64,
    /// Before they were made smaller.
    pub raw: u64,
}

impl Amount {
    fn add(&mut self, row: &Row) {
        self.stored = self.stored.saturating_add(row.len.into());
        self.raw = self.raw.saturating_add(row.plain_len().into());
    }
}

/// Where the space goes. Bytes, all of them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Stats {
    /// Blobs of content.
    pub chunks: Amount,
    /// All else in packs: nodes, tables, envelopes, padding.
    pub structure: u64,
    /// Entries, bodies, key slots, the format object.
    pub log: u64,
    /// WAL objects by cluster key and system identifier as they stand in names: stored bytes.
    pub wal: BTreeMap<(String, String), u64>,
    /// Packs that no entry of the log lists.
    pub orphans: u64,
    /// Packs that live snapshots name.
    pub live: u64,
    /// Packs that the log lists and no live snapshot names.
    pub dead: u64,
    /// What a prune would take now: dead packs and orphans whose session has ended, but for those that are condemned and wait
    /// for a session that was open then.
    pub reclaimable: u64,
    /// Of the dead, packs that are condemned already.
    pub condemned: u64,
    /// Content in live packs that no live snapshot needs.
    pub unneeded: u64,
    /// Content by the codec of its blob.
    pub by_codec: BTreeMap<String, Amount>,
    /// Content that live snapshots need, by what its file is; of a chunk that several need, the newest snapshot's.
    pub by_relation_kind: BTreeMap<&'static str, Amount>,
    /// Packs by the cluster of the session that stored them.
    pub by_cluster: BTreeMap<String, u64>,
    /// Live snapshots, and the bytes that restoring all of them would give.
    pub snapshots: (u64, u64),
    /// What could not be counted.
    pub warnings: Vec<String>,
}

/// Counts.
///
/// # Errors
/// If store or packs can't be read.
pub fn stats(opened: &Opened, fold: &Fold, progress: &dyn Progress, cancel: &Cancel) -> Result<Stats, LookError> {
    let mut stats = Stats::default();
    progress.phase("listing", None);
    list(opened, fold, &mut stats)?;
    packs(opened, fold, &mut stats, progress, cancel)?;
    let all = snapshots(fold, None);
    stats.snapshots = (all.len() as u64, all.iter().map(|s| s.commit.summary.cluster_bytes).fold(0, u64::saturating_add));
    progress.phase("walking snapshots", Some(stats.snapshots.1));
    let mut needed = Needed::default();
    for listed in all.iter().rev() {
        cancel.check().map_err(RepoError::from)?;
        walk(opened, fold, listed, &mut needed, &mut stats, progress, cancel)?;
    }
    let needed: u64 = stats.by_relation_kind.values().map(|a| a.stored).sum();
    stats.unneeded = stats.unneeded.saturating_sub(needed);
    Ok(stats)
}

/// Stored bytes of content that the snapshots `going` need and `staying` don't, with what could not be counted.
///
/// # Errors
/// If store or packs can't be read.
pub fn needed_alone(
    opened: &Opened,
    fold: &Fold,
    staying: &[Listed<'_>],
    going: &[Listed<'_>],
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(u64, Vec<String>), LookError> {
    let all = staying.iter().chain(going);
    progress.phase("walking snapshots", Some(all.map(|s| s.commit.summary.cluster_bytes).fold(0, u64::saturating_add)));
    let (mut stats, mut needed) = (Stats::default(), Needed::default());
    let mut count = |snapshots: &[Listed<'_>], stats: &mut Stats| -> Result<u64, LookError> {
        for listed in snapshots {
            cancel.check().map_err(RepoError::from)?;
            walk(opened, fold, listed, &mut needed, stats, progress, cancel)?;
        }
        Ok(stats.by_relation_kind.values().map(|a| a.stored).fold(0, u64::saturating_add))
    };
    let before = count(staying, &mut stats)?;
    let after = count(going, &mut stats)?;
    Ok((after.saturating_sub(before), stats.warnings))
}

/// What a listing adds up to.
#[derive(Default, PartialEq, Eq)]
struct Sums {
    wal: BTreeMap<(String, String), u64>,
    orphans: u64,
    reclaimable: u64,
    log: u64,
}

/// All objects by their names: as two listings in a row have it, where a bit may be flipped on the way.
fn list(opened: &Opened, fold: &Fold, stats: &mut Stats) -> Result<(), LookError> {
    let sums = agreed(opened.backend.as_ref(), || sums(opened, fold))?;
    (stats.wal, stats.orphans, stats.log) = (sums.wal, sums.orphans, sums.log);
    stats.reclaimable = stats.reclaimable.saturating_add(sums.reclaimable);
    Ok(())
}

fn sums(opened: &Opened, fold: &Fold) -> Result<Sums, LookError> {
    let listed_in_log = |session: &str, pack: &str| {
        let (session, id) = pack_of(session, pack)?;
        fold.pack(&session, &id)
    };
    let mut sums = Sums::default();
    opened
        .backend
        .list(None, &mut |listed| {
            let parts: Vec<&str> = listed.name.as_str().split('/').collect();
            match parts.as_slice() {
                ["wal", cluster, identifier, ..] => {
                    let sum = sums.wal.entry(((*cluster).to_owned(), (*identifier).to_owned())).or_default();
                    *sum = sum.saturating_add(listed.size);
                }
                ["pack", session, pack] if listed_in_log(session, pack).is_none() => {
                    sums.orphans = sums.orphans.saturating_add(listed.size);
                    if let Some((session, pack)) = pack_of(session, pack).filter(|(session, _)| !fold.is_open(session))
                        && !waits(fold, &session, &pack)
                    {
                        sums.reclaimable = sums.reclaimable.saturating_add(listed.size);
                    }
                }
                ["pack", ..] => {}
                _ => sums.log = sums.log.saturating_add(listed.size),
            }
            Ok(())
        })
        .map_err(RepoError::from)?;
    Ok(sums)
}

/// Session and pack of an object's name.
fn pack_of(session: &str, pack: &str) -> Option<(SessionId, PackId)> {
    Some((session.parse().ok()?, pack.split('-').next()?.parse().ok()?))
}

/// Is it condemned, and a session that was open then still is?
fn waits(fold: &Fold, session: &SessionId, pack: &PackId) -> bool {
    fold.condemned_at(session, pack).is_some_and(|at| fold.open_before(at).next().is_some())
}

/// Packs that the log lists, and their tables.
fn packs(opened: &Opened, fold: &Fold, stats: &mut Stats, progress: &dyn Progress, cancel: &Cancel) -> Result<(), LookError> {
    let live: HashSet<(SessionId, PackId)> = fold.commits.values().flat_map(|c| c.set.iter()).map(|(s, p)| (*s, *p)).collect();
    let mut all = Vec::new();
    for (id, session) in &fold.sessions {
        let cluster = session.cluster.as_ref().map_or("", |c| c.name.as_str());
        for (pack, facts) in &session.packs {
            let is_live = live.contains(&(*id, *pack));
            let condemned = fold.condemned_at(id, pack).is_some();
            *stats.by_cluster.entry(cluster.to_owned()).or_default() += facts.size;
            let sum = if is_live { &mut stats.live } else { &mut stats.dead };
            *sum = sum.saturating_add(facts.size);
            if !is_live && condemned {
                stats.condemned = stats.condemned.saturating_add(facts.size);
            }
            if !is_live && !session.open && !waits(fold, id, pack) {
                stats.reclaimable = stats.reclaimable.saturating_add(facts.size);
            }
            all.push((PackRef { session: *id, id: *pack, hash: facts.hash, size: facts.size, tail: facts.tail }, is_live));
        }
    }
    progress.phase("reading tables", Some(all.iter().map(|(p, _)| u64::from(p.tail)).sum()));
    let counted = all
        .par_iter()
        .map(|(pack, is_live)| {
            cancel.check().map_err(RepoError::from)?;
            // One pack each: an id may stand in several lists.
            let packs = Packs::new(Arc::clone(&opened.backend), opened.sealing.clone());
            packs.add([*pack]);
            progress.advance(pack.tail.into());
            Ok(match packs.table(pack.id) {
                Ok(table) => Ok((pack.size, *is_live, by_kind(table.rows()))),
                Err(e) if is_of_the_object(&e) => Err(format!("pack {} was not counted: {e}", pack.id)),
                Err(e) => return Err(e),
            })
        })
        .collect::<Result<Vec<_>, RepoError>>()?;
    for counted in counted {
        let (size, is_live, kinds) = match counted {
            Ok(counted) => counted,
            Err(warning) => {
                stats.warnings.push(warning);
                continue;
            }
        };
        let mut content = Amount::default();
        for (kind, amount) in kinds {
            let sum = stats.by_codec.entry(codec_name(kind)).or_default();
            (sum.stored, sum.raw) = (sum.stored.saturating_add(amount.stored), sum.raw.saturating_add(amount.raw));
            (content.stored, content.raw) = (content.stored.saturating_add(amount.stored), content.raw.saturating_add(amount.raw));
        }
        (stats.chunks.stored, stats.chunks.raw) =
            (stats.chunks.stored.saturating_add(content.stored), stats.chunks.raw.saturating_add(content.raw));
        stats.structure = stats.structure.saturating_add(size.saturating_sub(content.stored));
        if is_live {
            stats.unneeded = stats.unneeded.saturating_add(content.stored);
        }
    }
    Ok(())
}

fn by_kind(rows: &[Row]) -> BTreeMap<u8, Amount> {
    let mut kinds: BTreeMap<u8, Amount> = BTreeMap::new();
    rows.iter().filter(|row| row.role == ChunkRole::Content).for_each(|row| kinds.entry(row.kind).or_default().add(row));
    kinds
}

fn codec_name(kind: u8) -> String {
    match FrameKind::try_from(kind) {
        Ok(FrameKind::Stored) => "stored".into(),
        Ok(FrameKind::Zstd) => "zstd".into(),
        Ok(FrameKind::Patch) => "patch".into(),
        Ok(FrameKind::Pages) => "pages".into(),
        Ok(FrameKind::TuplePatch) => "tuple-patch".into(),
        Ok(FrameKind::Wal) => "wal".into(),
        Err(_) => format!("kind-{kind}"),
    }
}

/// Is it about what is stored, so that the rest can be counted?
fn is_of_the_object(e: &RepoError) -> bool {
    use crate::units::{Class, Explain};
    matches!(e.class(), Class::Corrupt)
}

/// Blobs and subtrees that were counted.
#[derive(Default)]
struct Needed {
    /// By pack, a bit a blob.
    blobs: HashMap<(SessionId, PackId), Vec<u64>>,
    /// Content digests of parts and leaves with the pack in which they lie: a moved one names other places.
    nodes: HashSet<(SessionId, PackId, u32, Digest16)>,
}

impl Needed {
    /// Is it the first time?
    fn blob(&mut self, session: SessionId, place: Place) -> bool {
        let bits = self.blobs.entry((session, place.pack)).or_default();
        let (word, bit) = ((place.blob / 64) as usize, 1u64 << (place.blob % 64));
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        let Some(word) = bits.get_mut(word) else { return false };
        let first = *word & bit == 0;
        *word |= bit;
        first
    }

    fn node(&mut self, packs: &Packs, place: Place, digest: Digest16) -> Result<bool, RepoError> {
        Ok(self.nodes.insert((packs.known(place.pack)?.session, place.pack, place.blob, digest)))
    }
}

fn walk(
    opened: &Opened,
    fold: &Fold,
    listed: &Listed<'_>,
    needed: &mut Needed,
    stats: &mut Stats,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(), LookError> {
    let packs = opened.packs_of(fold, listed.commit)?;
    let mut counting = Counting { packs: &packs, needed, stats };
    let counted = counting.snapshot(opened, listed, progress, cancel);
    counting.unless_damaged(counted, || format!("snapshot {}", listed.id()))
}

struct Counting<'a> {
    packs: &'a Packs,
    needed: &'a mut Needed,
    stats: &'a mut Stats,
}

impl Counting<'_> {
    /// What is damaged is not counted, and said; the rest is counted all the same.
    fn unless_damaged(&mut self, counted: Result<(), LookError>, what: impl Fn() -> String) -> Result<(), LookError> {
        match counted {
            Err(LookError::Repo(e)) if is_of_the_object(&e) => {
                self.stats.warnings.push(format!("{} was not counted: {e}", what()));
                Ok(())
            }
            other => other,
        }
    }

    fn snapshot(&mut self, opened: &Opened, listed: &Listed<'_>, progress: &dyn Progress, cancel: &Cancel) -> Result<(), LookError> {
        let snapshot = open_snapshot(self.packs, opened.reader()?, listed)?;
        let tree = Tree::of(&snapshot, listed.id())?;
        self.blob(snapshot.meta_chunk().place, "other")?;
        for path in tree.folders() {
            cancel.check().map_err(RepoError::from)?;
            let counted = self.folder(&tree, path, progress);
            self.unless_damaged(counted, || format!("{} of snapshot {}", show_path(path), listed.id()))?;
        }
        for (_, child) in snapshot.annexes()? {
            for part in snapshot.parts(&child)? {
                self.part(&tree, b"(annex)", &part)?;
            }
        }
        Ok(())
    }

    fn folder(&mut self, tree: &Tree<'_>, path: &[u8], progress: &dyn Progress) -> Result<(), LookError> {
        for child in tree.children(path) {
            if self.needed.node(self.packs, child.place, child.digest)? {
                for part in tree.snapshot.parts(child)? {
                    if part.place == child.place || self.needed.node(self.packs, part.place, part.digest)? {
                        self.part(tree, path, &part)?;
                    }
                }
            }
            progress.advance(child.bytes);
        }
        Ok(())
    }

    fn part(&mut self, tree: &Tree<'_>, path: &[u8], part: &crate::repo::structure::Child) -> Result<(), LookError> {
        let (attributes, files) = tree.snapshot.part(part)?;
        self.blob(attributes.place, "other")?;
        if let Some(file) = files.first() {
            for chunk in file.joint.iter() {
                self.blob(chunk.place, "other")?;
            }
        }
        for file in &files {
            let kind = kind_of(&join(path, &file.attributes.name), &tree.names);
            self.file(tree, file, kind)?;
        }
        Ok(())
    }

    fn file(&mut self, tree: &Tree<'_>, file: &StoredFile, kind: &'static str) -> Result<(), LookError> {
        match &file.entry.data {
            FileData::Single { place, .. } => self.blob(*place, kind)?,
            FileData::Tree { .. } => {
                for (_, leaf) in tree.snapshot.leaves(&file.entry)? {
                    if !self.needed.node(self.packs, leaf.place, leaf.digest)? {
                        continue;
                    }
                    for extent in read_leaf(self.packs, leaf)? {
                        if let Extent::Chunk(chunk) = extent {
                            self.blob(chunk.place, kind)?;
                        }
                    }
                }
            }
            FileData::Empty | FileData::Zeros | FileData::Joint { .. } | FileData::Folder => {}
        }
        Ok(())
    }

    /// A blob is needed, and what it is a patch of.
    fn blob(&mut self, place: Place, kind: &'static str) -> Result<(), RepoError> {
        if !self.needed.blob(self.packs.known(place.pack)?.session, place) {
            return Ok(());
        }
        let table = self.packs.table(place.pack)?;
        let Some(row) = table.rows().get(place.blob as usize) else { return Ok(()) };
        self.stats.by_relation_kind.entry(kind).or_default().add(row);
        for reference in &row.references {
            self.blob(reference.place, kind)?;
        }
        Ok(())
    }
}

impl Stats {
    /// Stored bytes of WAL, of all clusters.
    pub fn wal_stored(&self) -> u64 {
        self.wal.values().copied().fold(0, u64::saturating_add)
    }
}
