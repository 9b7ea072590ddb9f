//! What a backup builds on: the snapshot before, the packs that may be relied on, the places that may not.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::BackupError;
use super::kept::Kept;
use super::parent::Parent;
use super::run::{Found, Options, Setting};
use crate::codec::Way;
use crate::host::access::{Adopted, KnownChunks, OpenSession, Opened};
use crate::host::cache::Cache;
use crate::pg::control_file::{ControlFile, DataChecksums};
use crate::pg::facts::ClusterFacts;
use crate::repo::RepoError;
use crate::repo::log::{ClusterId, DamagedBlobs, LiveCommit, Place as LogPlace};
use crate::repo::pack::{Packs, Place, pack_name};
use crate::repo::structure::{Contents, Snapshot};
use crate::repo::write::{ChunkWriter, Quiet, WriterSetup, is_of_one_pack};
use crate::store::{ObjectName, StoreError};
use crate::units::ids::unhex;
use crate::units::{KeyId, PackId, SessionId, counted};

/// Of so many sessions one is ours: then ours are listed one by one.
const OTHERS: usize = 8;

/// The newest live snapshot of this cluster, by a key that is trusted.
pub(super) fn newest_parent(opened: &Opened, cluster: &ClusterId, trust_writers: &[KeyId]) -> Option<(u64, LiveCommit)> {
    let own = opened.signer.as_ref().map(|s| s.id());
    let view = opened.view();
    let fits = |c: &LiveCommit| {
        c.summary.cluster_id() == *cluster && c.summary.kind == "physical" && (Some(c.key) == own || trust_writers.contains(&c.key))
    };
    // By the snapshot's place in the log: an old one that was stored anew is no newer for it.
    view.fold.commits.iter().filter(|(_, c)| fits(c)).max_by_key(|(n, c)| (c.first, **n)).map(|(n, c)| (*n, c.clone()))
}

/// Is the newest snapshot of this cluster no parent since a key that isn't trusted has stored it anew? Its id, and that key.
pub(super) fn passed_over(opened: &Opened, cluster: &ClusterId, trust_writers: &[KeyId]) -> Option<(String, KeyId)> {
    let own = opened.signer.as_ref().map(|s| s.id());
    let view = opened.view();
    let theirs = view.fold.commits.iter().filter(|(_, c)| c.summary.cluster_id() == *cluster && c.summary.kind == "physical");
    let (number, newest) = theirs.max_by_key(|(_, c)| c.first)?;
    let is_foreign = Some(newest.key) != own && !trust_writers.contains(&newest.key);
    (*number != newest.first && is_foreign).then(|| (newest.summary.id.clone(), newest.key))
}

/// Packs that aren't there any more, or have another length, are relied on by nobody: what was in them is stored anew.
pub(super) fn drop_missing(setting: &Setting<'_>, adopted: &mut Adopted) -> Result<(), BackupError> {
    let before = adopted.packs.len();
    let mut names: HashMap<ObjectName, (PackId, u64)> = HashMap::new();
    for pack in adopted.packs.values() {
        names.insert(pack_name(pack.session, pack)?, (pack.id, pack.size));
    }
    let backend = setting.opened.backend.as_ref();
    // A second time before anything is called lost: a name may have come damaged.
    for _ in 0..if backend.rereads() { 2 } else { 1 } {
        if names.is_empty() {
            break;
        }
        for folder in folders_of(setting, adopted) {
            let folder = ObjectName::new(folder).map_err(|e| RepoError::from(StoreError::from(e)))?;
            let list = backend.list(Some(&folder), &mut |object| {
                if names.get(&object.name).is_some_and(|(_, size)| *size == object.size) {
                    names.remove(&object.name);
                }
                Ok(())
            });
            list.map_err(RepoError::from)?;
        }
    }
    let lost: Vec<PackId> = names.values().map(|(id, _)| *id).collect();
    for id in &lost {
        adopted.packs.remove(id);
        adopted.trusted.remove(id);
    }
    if !lost.is_empty() {
        // Who restores reads them where they are kept. Here they are not relied upon all the same: nobody knows for how long.
        let folder = ObjectName::new("pack").map_err(|e| RepoError::from(StoreError::from(e)))?;
        let covered = setting.opened.backend.covered(&folder).map_err(RepoError::from)?;
        let kept = covered.iter().filter(|covered| names.get(&covered.name).is_some_and(|(_, size)| *size == covered.size)).count();
        let older = match lost.len() - kept.min(lost.len()) {
            0 => "the store keeps them as older versions, so that older snapshots can be restored; `pgcairn verify` says more".to_owned(),
            _ if kept > 0 => format!("the store keeps {kept} of them as older versions; older snapshots may be damaged"),
            _ => "older snapshots may be damaged".to_owned(),
        };
        setting.progress.warn(&format!(
            "of {before} packs {} missing in the repository or cut off: this backup stores anew what it needs of them; {older}",
            counted(lost.len(), "is", "are")
        ));
    }
    Ok(())
}

/// The folders in which these packs lie: all packs at once, unless most are others'.
fn folders_of(setting: &Setting<'_>, adopted: &Adopted) -> Vec<String> {
    let ours: BTreeSet<SessionId> = adopted.packs.values().map(|pack| pack.session).collect();
    let all = setting.opened.view().fold.sessions.len();
    if ours.len().saturating_mul(OTHERS) < all {
        ours.iter().map(|session| format!("pack/{session}")).collect()
    } else {
        vec!["pack".into()]
    }
}

pub(super) fn start_writer(
    setting: &Setting<'_>,
    sorts: bool,
    session: &Arc<OpenSession>,
    adopted: &Adopted,
    packs: &Arc<Packs>,
    damaged: &Arc<DamagedPlaces>,
) -> Result<ChunkWriter, BackupError> {
    let opened = setting.opened;
    let cache = opened.cache_folder.as_ref().and_then(|c| Cache::of(c, opened.format.repository));
    let known = KnownChunks::over(cache.as_ref(), packs, adopted, setting.progress)?;
    let setup = WriterSetup {
        backend: Arc::clone(&opened.backend),
        packs: Arc::clone(packs),
        sealing: opened.sealing.clone(),
        opening: opened.opening.clone(),
        session: session.id(),
        tag: session.tag(),
        nameable: adopted.packs.keys().copied().collect(),
        trusted: adopted.trusted.clone(),
        known: Box::new(known),
        is_damaged: {
            let damaged = Arc::clone(damaged);
            Box::new(move |place| damaged.contains(place))
        },
    };
    let theirs = Arc::clone(session);
    let writer = ChunkWriter::start(setup, Box::new(move |what| theirs.told(what).map_err(|e| RepoError::Told(Box::new(e)))))?;
    Ok(if sorts { writer } else { writer.unsorted() })
}

/// The parent's tree, opened; none if it can't be read (then all is read and found by id).
pub(super) fn open_parent<'a>(
    setting: &'a Setting<'_>,
    options: &Options,
    packs: &'a Packs,
    parent: Option<&LiveCommit>,
    kept: Option<&'a Kept>,
    found: &Found,
) -> Result<Option<Parent<'a>>, BackupError> {
    let Some(commit) = parent else { return Ok(None) };
    // Names, attributes and the meta chunk: out of the repository, or as far as this host has kept them itself.
    let own = setting.opened.opening.as_ref().map(|opening| opening as &dyn Contents);
    let Some(contents) = own.or_else(|| kept.and_then(Kept::contents)) else { return Ok(None) };
    let root = commit.root;
    let open = || -> Result<Parent<'a>, RepoError> {
        let snapshot = Snapshot::open(packs, contents, root.chunk.short(), place_of(root.place), root.digest)?;
        let facts = serde_json::from_value::<ClusterFacts>(snapshot.meta().extra.clone()).ok();
        let same = facts.as_ref().is_some_and(|f| is_comparable(f, &found.control));
        // More damaged pages than are named: nothing is known to be whole.
        let all_named = facts.as_ref().is_some_and(|f| f.damaged.len() as u64 >= commit.summary.damaged_pages);
        let damaged = facts.map(|f| f.damaged.into_iter().map(|page| page.path).collect()).unwrap_or_default();
        Parent::new(snapshot, commit.summary.started_at, same && all_named && !options.verify_unchanged, damaged)
    };
    match open() {
        Ok(parent) => Ok(Some(parent)),
        Err(e) if !is_of_one_pack(&e) => Err(e.into()),
        Err(e) => {
            setting.progress.warn(&format!("snapshot {} can't be read as parent, all files are read: {e}", commit.summary.id));
            Ok(None)
        }
    }
}

/// Checksums switched, or another build: nothing is unchanged.
fn is_comparable(then: &ClusterFacts, now: &ControlFile) -> bool {
    let control = unhex(&then.control_file).map(|mut bytes| {
        bytes.resize(crate::pg::control_file::FILE_SIZE, 0);
        bytes
    });
    let Some(Ok(then)) = control.as_deref().map(ControlFile::parse) else { return false };
    let known = !matches!(now.data_checksums(), DataChecksums::Unknown(_));
    known && then.data_checksum_version == now.data_checksum_version && then.build_values() == now.build_values()
}

fn place_of(place: LogPlace) -> Place {
    Place { pack: place.pack, blob: place.blob, position: u16::try_from(place.position).unwrap_or(u16::MAX) }
}

/// The damaged places that the log lists.
pub(super) struct DamagedPlaces {
    pub blobs: HashSet<(PackId, u32)>,
    pub packs: HashSet<PackId>,
    pub whole: HashSet<PackId>,
}

impl DamagedPlaces {
    pub fn of(opened: &Opened) -> Self {
        let view = opened.view();
        let mut places = DamagedPlaces { blobs: HashSet::new(), packs: HashSet::new(), whole: HashSet::new() };
        for (pack, blobs) in view.fold.damaged.values().flatten() {
            places.packs.insert(*pack);
            match blobs {
                DamagedBlobs::All => drop(places.whole.insert(*pack)),
                DamagedBlobs::Blobs(numbers) => places.blobs.extend(numbers.iter().map(|n| (*pack, *n))),
            }
        }
        places
    }

    pub fn contains(&self, place: Place) -> bool {
        self.whole.contains(&place.pack) || self.blobs.contains(&(place.pack, place.blob))
    }
}

/// How long what lies in the packs of a session has been there, for each session that the log knows.
pub(super) struct Ages(HashMap<SessionId, Quiet>);

impl Ages {
    pub fn of(opened: &Opened) -> Self {
        let view = opened.view();
        Ages(view.fold.sessions.keys().map(|id| (*id, Quiet::in_fold(&view.fold, id))).collect())
    }

    /// Of the pack that this id means.
    pub fn of_pack(&self, packs: &Packs, pack: PackId) -> Quiet {
        packs.known(pack).ok().and_then(|known| self.0.get(&known.session).copied()).unwrap_or(Quiet::New)
    }
}

/// What the copy builds on.
pub(super) struct Basis<'a> {
    pub packs: &'a Packs,
    pub damaged: &'a DamagedPlaces,
    pub ages: &'a Ages,
    pub parent: Option<&'a LiveCommit>,
    /// Where this host can't read, or had better not.
    pub kept: Option<&'a Kept>,
    /// How changed pages are stored, where that can be chosen.
    pub way: Way,
}
