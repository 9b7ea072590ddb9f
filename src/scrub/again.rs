//! What was found damaged is read a second time, from the store: what fails twice may be told to the log, so that nobody relies
//! on it. And where the same chunks were stored anew meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::failure::ScrubError;
use super::findings::Findings;
use super::needed::needed_of;
use super::packs::BadBlobs;
use crate::crypt::{Opening, Sealing};
use crate::repo::log::{DamagedBlobs, DamagedPlaces, Fold};
use crate::repo::pack::{BlobFault, Held, Packs, pack_name};
use crate::repo::write::is_of_one_pack;
use crate::repo::{PackRef, RepoError};
use crate::store::Backend;
use crate::units::{Cancel, ChunkId, PackId, SessionId, ShortId};

/// Blobs that are looked at again.
const MOST: usize = 100_000;

/// What it takes to look again.
pub(super) struct Again<'a> {
    pub backend: &'a Arc<dyn Backend>,
    pub sealing: &'a Sealing,
    pub opening: Option<&'a Opening>,
    pub fold: &'a Fold,
    pub bad: &'a BadBlobs,
    pub findings: &'a Findings,
    pub cancel: &'a Cancel,
}

impl Again<'_> {
    /// The places that are damaged the second time, too, but for those that the log lists already.
    pub fn look(&self) -> Result<DamagedPlaces, ScrubError> {
        let mut places = DamagedPlaces::new();
        for pack in self.bad.tables().iter().filter_map(|(session, id)| self.pack(*session, *id)) {
            self.cancel.check()?;
            if !self.fold.is_damaged(&pack.session, &pack.id, u32::MAX) && fails(self.alone(&pack).table(pack.id).map(|_| ()))? {
                places.entry(pack.session).or_default().insert(pack.id, DamagedBlobs::All);
            }
        }
        let packs = self.all();
        let mut blobs: Vec<_> = self.bad.blobs().into_iter().collect();
        blobs.sort_unstable();
        for (session, id, blob) in blobs.into_iter().take(MOST) {
            self.cancel.check()?;
            let Some(pack) = self.pack(session, id).filter(|_| !self.fold.is_damaged(&session, &id, blob)) else { continue };
            if fails(self.read(&packs, &pack, blob))? {
                let row = places.entry(session).or_default().entry(id).or_insert_with(|| DamagedBlobs::Blobs(BTreeSet::new()));
                if let DamagedBlobs::Blobs(blobs) = row {
                    blobs.insert(blob);
                }
            }
        }
        Ok(places)
    }

    fn read(&self, packs: &Packs, pack: &PackRef, blob: u32) -> Result<(), RepoError> {
        packs.add([*pack]);
        let table = packs.table(pack.id)?;
        let Some(row) = table.rows().get(blob as usize) else { return Ok(()) };
        let sealed = packs.stored_bytes(pack.id, row.offset.into(), row.len as usize)?;
        match packs.check_blob(self.opening, pack.id, blob, &sealed, &Held::new()) {
            Err(BlobFault::Own(e)) => Err(e),
            // Another blob's fault, which is looked at by itself.
            Err(BlobFault::Reference { .. }) | Ok(()) => Ok(()),
        }
    }

    /// Says of damaged blobs, and of packs that are lost, which snapshot has stored the same chunks anew.
    pub fn stored_anew(&self, there: &[PackRef]) -> Result<(), ScrubError> {
        let (bad, unread) = (self.bad.blobs(), self.bad.tables());
        let lost = needed_of(self.backend, self.sealing, self.fold, &unread, self.cancel)?;
        let mut wanted: HashMap<ChunkId, (PackRef, u32)> = HashMap::new();
        for (session, id, blob) in bad.iter().take(MOST) {
            let Some(pack) = self.pack(*session, *id) else { continue };
            let Some(table) = whole(self.alone(&pack).table(*id))? else { continue };
            let chunks = table.rows().get(*blob as usize).map(|row| row.chunks.as_slice()).unwrap_or_default();
            wanted.extend(chunks.iter().map(|(chunk, _)| (*chunk, (pack, *blob))));
        }
        if wanted.is_empty() && lost.is_empty() {
            return Ok(());
        }
        let mut healed: BTreeMap<(String, u32), String> = BTreeMap::new();
        let mut found: BTreeMap<(SessionId, PackId), Anew> = BTreeMap::new();
        for pack in there.iter().filter(|pack| !unread.contains(&(pack.session, pack.id))) {
            self.cancel.check()?;
            let Some(snapshot) = self.snapshot_of(pack) else { continue };
            let Some(table) = whole(self.alone(pack).table(pack.id))? else { continue };
            for (blob, row) in table.rows().iter().enumerate() {
                if bad.contains(&(pack.session, pack.id, blob as u32)) || self.fold.is_damaged(&pack.session, &pack.id, blob as u32) {
                    continue;
                }
                for (lost, number) in row.chunks.iter().filter_map(|(chunk, _)| wanted.get(chunk)) {
                    healed.insert((pack_name(lost.session, lost)?.to_string(), *number), snapshot.to_owned());
                }
                for (lost, chunks) in &lost {
                    // A patch of what is lost as well heals nothing.
                    if row.references.iter().any(|reference| reference.place.pack == lost.1) {
                        continue;
                    }
                    for (chunk, _) in row.chunks.iter().filter(|(chunk, _)| chunks.contains(&chunk.short())) {
                        let anew = found.entry(*lost).or_default();
                        anew.chunks.insert(chunk.short());
                        anew.snapshots.insert(snapshot.to_owned());
                    }
                }
            }
        }
        for ((object, blob), snapshot) in healed {
            let why = format!("blob {blob} is healed by snapshot {snapshot}, which stored the same anew: prune lets older ones use that");
            self.findings.note(&object, &why);
        }
        for ((session, id), anew) in found {
            let Some(pack) = self.pack(session, id) else { continue };
            let needed = lost.get(&(session, id)).map_or(0, HashSet::len);
            self.findings.note(pack_name(session, &pack)?.as_str(), &anew.words(needed));
        }
        Ok(())
    }

    /// The snapshot whose session has stored the pack.
    fn snapshot_of(&self, pack: &PackRef) -> Option<&str> {
        let stored = self.fold.commits.values().find(|c| c.session == pack.session && c.set.contains(&pack.session, &pack.id));
        stored.map(|c| c.summary.id.as_str())
    }

    fn pack(&self, session: SessionId, id: PackId) -> Option<PackRef> {
        let f = self.fold.pack(&session, &id)?;
        Some(PackRef { session, id, hash: f.hash, size: f.size, tail: f.tail })
    }

    /// A directory of all packs, in which nothing is remembered.
    fn all(&self) -> Packs {
        let packs = Packs::new(Arc::clone(self.backend), self.sealing.clone());
        let ids = self.fold.sessions.iter().flat_map(|(session, s)| s.packs.keys().map(move |id| (*session, *id)));
        packs.add(ids.filter_map(|(session, id)| self.pack(session, id)));
        packs
    }

    /// Of this pack alone.
    fn alone(&self, pack: &PackRef) -> Packs {
        let packs = Packs::new(Arc::clone(self.backend), self.sealing.clone());
        packs.add([*pack]);
        packs
    }
}

/// What of a pack that is lost was stored anew, and by which snapshots.
#[derive(Default)]
struct Anew {
    chunks: HashSet<ShortId>,
    snapshots: BTreeSet<String>,
}

impl Anew {
    /// In words; so many chunks are needed.
    fn words(&self, needed: usize) -> String {
        let by = self.snapshots.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
        let stored = if self.snapshots.len() == 1 { "which stored the same anew" } else { "which stored the same anew together" };
        match needed.saturating_sub(self.chunks.len()) {
            0 => format!(
                "all {needed} chunks that snapshots need of it are healed by snapshot {by}, {stored}: prune lets older ones use that"
            ),
            lost => format!(
                "{} of {needed} chunks that snapshots need of it are healed by snapshot {by}, {stored}: prune lets older ones use that; the other {lost} are nowhere else",
                self.chunks.len()
            ),
        }
    }
}

/// Is what was read damaged, and not just away?
fn fails(read: Result<(), RepoError>) -> Result<bool, RepoError> {
    match read {
        Ok(()) => Ok(false),
        Err(e) if is_of_one_pack(&e) => Ok(true),
        // A disk that can't read a sector is found again, and is no proof: bytes may come back.
        Err(RepoError::Store(crate::store::StoreError::Io { .. })) => Ok(false),
        Err(e) => Err(e),
    }
}

fn whole<T>(read: Result<T, RepoError>) -> Result<Option<T>, RepoError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(e) if is_of_one_pack(&e) => Ok(None),
        Err(RepoError::Store(crate::store::StoreError::Io { .. })) => Ok(None),
        Err(e) => Err(e),
    }
}
