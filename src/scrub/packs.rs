//! Packs by themselves: every table, and all bytes of those that were chosen.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

use rayon::prelude::*;

use super::failure::{Damage, ScrubError, damage};
use super::findings::Findings;
use super::share::Share;
use crate::crypt::{ChunkRole, Opening, Sealing};
use crate::repo::log::{Fold, LiveCommit, PackSet};
use crate::repo::pack::{BlobFault, Held, LoadedTable, MAX_PACK, Packs, Place};
use crate::repo::{PackRef, RepoError};
use crate::store::{Backend, ObjectName, Pace, seen_through};
use crate::units::{Cancel, PackId, Progress, SessionId};

/// Packs up to this size are read in one go.
const WHOLE: u64 = 64 << 20;
/// Larger ones are hashed so many bytes at a time.
const WINDOW: u64 = 8 << 20;
/// Packs in memory at once, in bytes.
const MEMORY: u64 = 128 << 20;

/// References that are held for a pack, in plain bytes, about, and their number.
const REFERENCES: u64 = 8 << 20;
const AHEAD: usize = 64;

/// What is said of a pack whose bytes were changed.
const ROTTEN: &str = "its bytes have not the hash that its name says";

/// Blobs that were read and are not what they must be; packs that are not there, or whose tables can't be read.
#[derive(Default)]
pub(super) struct BadBlobs(RwLock<HashSet<(SessionId, PackId, u32)>>, RwLock<HashSet<(SessionId, PackId)>>);

impl BadBlobs {
    pub fn contains(&self, session: SessionId, place: Place) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&(session, place.pack, place.blob))
    }

    fn any_of(&self, pack: &PackRef) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().any(|(session, id, _)| *session == pack.session && *id == pack.id)
    }

    /// All of them.
    pub fn blobs(&self) -> HashSet<(SessionId, PackId, u32)> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Packs that are not there, or whose tables can't be read.
    pub fn tables(&self) -> HashSet<(SessionId, PackId)> {
        self.1.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The pack is not there, or its table can't be read.
    pub fn insert_table(&self, session: SessionId, pack: PackId) {
        self.1.write().unwrap_or_else(PoisonError::into_inner).insert((session, pack));
    }

    fn insert(&self, session: SessionId, pack: PackId, blob: u32) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert((session, pack, blob));
    }
}

/// The packs of a set, as the log lists them.
pub(super) fn refs_of(fold: &Fold, set: &PackSet) -> Vec<PackRef> {
    let one = |(session, pack): (&SessionId, &PackId)| {
        let f = fold.pack(session, pack)?;
        Some(PackRef { session: *session, id: *pack, hash: f.hash, size: f.size, tail: f.tail })
    };
    set.iter().filter_map(one).collect()
}

/// What it takes to read packs.
pub(super) struct PackCheck<'a> {
    pub backend: &'a Arc<dyn Backend>,
    pub sealing: &'a Sealing,
    /// What opens content, where this host may.
    pub opening: Option<&'a Opening>,
    pub fold: &'a Fold,
    pub findings: &'a Findings,
    pub bad: &'a BadBlobs,
    pub progress: &'a dyn Progress,
    pub cancel: &'a Cancel,
}

impl PackCheck<'_> {
    /// Tables of all, all bytes of a share; how many were read whole.
    pub fn run(&self, there: &[PackRef], share: Share) -> Result<usize, ScrubError> {
        spread(self.backend.pace(), || self.all(there, share))
    }

    fn all(&self, there: &[PackRef], share: Share) -> Result<usize, ScrubError> {
        let packs = self.directory(there);
        self.progress.phase("reading tables", Some(there.iter().map(|p| u64::from(p.tail)).sum()));
        there.par_iter().try_for_each(|pack| {
            self.cancel.check()?;
            let own = self.as_seen_by(&packs, there, pack);
            if let Err(e) = own.as_ref().unwrap_or(&packs).table(pack.id) {
                self.bad.insert_table(pack.session, pack.id);
                self.note(e, &own.as_ref().unwrap_or(&packs).name(pack.id)?)?;
            }
            self.progress.advance(pack.tail.into());
            Ok::<(), ScrubError>(())
        })?;
        let chosen = share.choose(there.to_vec(), |pack| format!("{}/{}", pack.session, pack.id));
        if chosen.is_empty() {
            return Ok(0);
        }
        self.progress.phase("reading packs", Some(chosen.iter().map(|p| p.size).fold(0, u64::saturating_add)));
        let memory = Memory::of(MEMORY);
        chosen.par_iter().try_for_each(|pack| {
            self.cancel.check()?;
            let own = self.as_seen_by(&packs, there, pack);
            self.whole(own.as_ref().unwrap_or(&packs), pack, &memory)
        })?;
        Ok(chosen.len())
    }

    /// Of packs in which a walk has met damage that no blob is known to have: every node is looked at, so that the log can be told
    /// of which.
    pub fn nodes_of_suspects(&self, there: &[PackRef]) -> Result<(), ScrubError> {
        for pack in there {
            let packs = self.directory_of(pack);
            let name = packs.name(pack.id)?;
            if !self.findings.has(name.as_str()) || self.bad.any_of(pack) {
                continue;
            }
            let Ok(table) = packs.table(pack.id) else { continue };
            for (number, _) in table.rows().iter().enumerate().filter(|(_, row)| row.role == ChunkRole::Structure) {
                self.cancel.check()?;
                self.blob(&packs, pack, &name, &table, number as u32, (None, &Held::new()))?;
            }
        }
        Ok(())
    }

    /// Of this pack alone: nodes refer to no others.
    fn directory_of(&self, pack: &PackRef) -> Packs {
        let packs = Packs::new(Arc::clone(self.backend), self.sealing.clone());
        packs.add([*pack]);
        packs
    }

    /// All packs by id. Where several sessions list an id, it is the pack under which the newest snapshot names it.
    fn directory(&self, there: &[PackRef]) -> Packs {
        let packs = Packs::new(Arc::clone(self.backend), self.sealing.clone());
        packs.add(there.iter().copied());
        self.fold.commits.values().for_each(|commit: &LiveCommit| packs.add(refs_of(self.fold, &commit.set)));
        packs
    }

    /// A directory in which the pack's id means this pack, where that of all doesn't serve.
    fn as_seen_by(&self, packs: &Packs, there: &[PackRef], pack: &PackRef) -> Option<Packs> {
        let is_it = packs.known(pack.id).is_ok_and(|known| known.session == pack.session);
        (!is_it).then(|| {
            let own = self.directory(there);
            own.add([*pack]);
            own
        })
    }

    /// Reads all of a pack.
    fn whole(&self, packs: &Packs, pack: &PackRef, memory: &Memory) -> Result<(), ScrubError> {
        let name = packs.name(pack.id)?;
        if pack.size > MAX_PACK {
            return Ok(()); // said by its table
        }
        // Plain, and as they come.
        let patches =
            packs.pace().reads > 1 && packs.table(pack.id).is_ok_and(|table| table.rows().iter().any(|row| !row.references.is_empty()));
        let _lease = memory.take(pack.size.min(WHOLE) + if patches { 2 * REFERENCES } else { 0 });
        let read = seen_through(self.backend.as_ref(), &name, RepoError::is_damage, || match self.hashed(&name, pack) {
            Ok((hash, _)) if hash != pack.hash.0 && self.backend.rereads() => Err(RepoError::corrupt(&name, ROTTEN)),
            other => other,
        });
        let (hash, bytes) = match read {
            Ok(read) => read,
            // Of all that lies there nothing has the hash: then blob by blob.
            Err(RepoError::Corrupt { why, .. }) if why == ROTTEN => match self.hashed(&name, pack) {
                Ok(read) => read,
                Err(e) => return self.note(e, &name),
            },
            Err(e) => return self.note(e, &name),
        };
        let rotten = hash != pack.hash.0;
        if rotten {
            self.findings.note(name.as_str(), ROTTEN);
        }
        // A table that can't be read was found before.
        let Ok(table) = packs.table(pack.id) else { return Ok(()) };
        let (mut held, mut until) = (Held::new(), 0);
        for (number, row) in (0u32..).zip(table.rows()) {
            if number.is_multiple_of(64) {
                self.cancel.check()?;
            }
            if number >= until && !row.references.is_empty() {
                (held, until) = self.references_from(packs, &table, number);
            }
            self.blob(packs, pack, &name, &table, number, (bytes.as_deref(), &held))?;
        }
        if rotten && !self.bad.any_of(pack) {
            self.findings.note(name.as_str(), "all blobs in it are whole");
        }
        Ok(())
    }

    /// What the next blobs of a pack are patches of, read together where the store answers late, and the number of the first
    /// blob behind these. Where one of them can't be read, nothing is held: each is then read by itself, and it is found out
    /// which one it is.
    fn references_from(&self, packs: &Packs, table: &LoadedTable, from: u32) -> (Held, u32) {
        let Some(opening) = self.opening.filter(|_| packs.pace().reads > 1) else { return (Held::new(), u32::MAX) };
        let rows = || (from..).zip(table.rows().iter().skip(from as usize));
        packs.tables_ahead(rows().flat_map(|(_, row)| &row.references).take(AHEAD).map(|of| of.place.pack));
        let (mut wanted, mut bytes, mut until) = (BTreeMap::new(), 0u64, from);
        for (number, row) in rows() {
            if bytes > REFERENCES || wanted.len() >= AHEAD {
                break;
            }
            // A blob with several is refused.
            if let [of] = row.references.as_slice() {
                let len = packs.table(of.place.pack).ok().and_then(|t| t.find(of.place).map(|(row, _, _)| row.plain_len()));
                bytes = bytes.saturating_add(len.unwrap_or(0).into());
                wanted.insert(of.place, of.id.short());
            }
            until = number + 1;
        }
        let wanted: Vec<_> = wanted.into_iter().map(|(place, id)| (id, place)).collect();
        (packs.hold(opening, &wanted).unwrap_or_default(), until)
    }

    /// The hash of a pack's bytes, and these if they are few.
    fn hashed(&self, name: &ObjectName, pack: &PackRef) -> Result<([u8; 32], Option<Vec<u8>>), RepoError> {
        if pack.size <= WHOLE {
            let bytes = self.backend.read_range(name, 0, pack.size as usize)?;
            self.progress.advance(pack.size);
            return Ok((*blake3::hash(&bytes).as_bytes(), Some(bytes)));
        }
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        while at < pack.size {
            self.cancel.check()?;
            let len = WINDOW.min(pack.size - at);
            hasher.update(&self.backend.read_range(name, at, len as usize)?);
            self.progress.advance(len);
            at += len;
        }
        Ok((*hasher.finalize().as_bytes(), None))
    }

    fn blob(
        &self,
        packs: &Packs,
        pack: &PackRef,
        name: &ObjectName,
        table: &LoadedTable,
        number: u32,
        (bytes, held): (Option<&[u8]>, &Held),
    ) -> Result<(), ScrubError> {
        let Some(row) = table.rows().get(number as usize) else { return Ok(()) };
        let read;
        let sealed = match bytes {
            Some(bytes) => bytes.get(row.offset as usize..(row.offset as usize).saturating_add(row.len as usize)).unwrap_or_default(),
            None => match self.backend.read_range(name, row.offset.into(), row.len as usize) {
                Ok(bytes) => {
                    read = bytes;
                    &read
                }
                Err(e) => return self.note(e.into(), name),
            },
        };
        match packs.check_blob(self.opening, pack.id, number, sealed, held) {
            Ok(()) => Ok(()),
            Err(BlobFault::Own(e)) => self.note_blob(e, pack.session, name, pack.id, number),
            Err(BlobFault::Reference { place, source }) => {
                // Its reference was swept, since no snapshot needs the patch any more: if one did, its tree would tell.
                let Ok(of) = packs.known(place.pack) else { return Ok(()) };
                self.note_blob(source, of.session, &packs.name(place.pack)?, place.pack, place.blob)
            }
        }
    }

    fn note_blob(&self, e: RepoError, session: SessionId, name: &ObjectName, pack: PackId, blob: u32) -> Result<(), ScrubError> {
        let Damage { object, problem } = damage(e, name.as_str())?;
        self.bad.insert(session, pack, blob);
        self.findings.note(&object, &format!("blob {blob}: {problem}"));
        Ok(())
    }

    fn note(&self, e: RepoError, name: &ObjectName) -> Result<(), ScrubError> {
        let Damage { object, problem } = damage(e, name.as_str())?;
        self.findings.note(&object, &problem);
        Ok(())
    }
}

/// Runs `work`, which spreads over rayon's threads, on as many as the store answers at once: they wait for it most of the time.
pub(super) fn spread<R: Send>(pace: Pace, work: impl FnOnce() -> R + Send) -> R {
    let pool = (pace.reads > 1).then(|| rayon::ThreadPoolBuilder::new().num_threads(pace.reads).build());
    match pool {
        Some(Ok(pool)) => pool.install(work),
        // With those that there are it takes longer.
        Some(Err(_)) | None => work(),
    }
}

/// So many bytes for all threads together.
struct Memory {
    all: u64,
    free: Mutex<u64>,
    returned: Condvar,
}

/// Bytes taken; given back when it is dropped.
struct Lease<'a> {
    of: &'a Memory,
    bytes: u64,
}

impl Memory {
    fn of(bytes: u64) -> Self {
        Memory { all: bytes, free: Mutex::new(bytes), returned: Condvar::new() }
    }

    /// Waits until so many bytes are free. Who holds some must not wait for a task that may want others: nothing below
    /// spreads work over rayon's threads.
    fn take(&self, bytes: u64) -> Lease<'_> {
        let bytes = bytes.min(self.all);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.returned.wait_while(free, |free| *free < bytes).unwrap_or_else(PoisonError::into_inner);
        *free -= bytes;
        Lease { of: self, bytes }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        *self.of.free.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.of.returned.notify_all();
    }
}
