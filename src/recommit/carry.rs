//! Copying blobs of content into new packs, each once, however many snapshots need it.

use std::collections::{HashMap, HashSet};

use super::live::Named;
use super::plan::{Work, said};
use super::writing::Writing;
use crate::crypt::{ChunkRole, CryptError};
use crate::repo::RepoError;
use crate::repo::log::Fold;
use crate::repo::pack::{LoadedTable, Place, Reference, Row, SealedBlob};
use crate::repo::write::{Quiet, Stored, is_of_one_pack};
use crate::units::{Cancel, PackId, Progress, SessionId};

/// Neighbouring blobs are read together if no more than this lies between them.
const GAP: u64 = 64 << 10;
/// The most that is read at once.
const WINDOW: u64 = 8 << 20;

/// A blob that is not what its table says, and stays where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadBlob {
    /// The pack's object.
    pub object: String,
    /// The blob's number.
    pub blob: u32,
    /// What is wrong.
    pub why: String,
}

/// A blob of a pack.
type Key = (SessionId, PackId, u32);

struct Moved {
    /// Of its first chunk.
    place: Place,
    bytes: u32,
    reference: Option<(Reference, u32)>,
}

/// What was copied so far, by this run's sessions together.
pub(super) struct Carried<'a> {
    fold: &'a Fold,
    work: &'a Work,
    chosen: HashSet<(SessionId, PackId)>,
    moved: HashMap<Key, Moved>,
    stays: HashSet<Key>,
    pub bad: Vec<BadBlob>,
    pub bytes: u64,
    pub blobs: u64,
}

impl<'a> Carried<'a> {
    pub fn new(fold: &'a Fold, work: &'a Work) -> Self {
        let chosen = work.emptied().map(|p| (p.session, p.id)).collect();
        Carried { fold, work, chosen, moved: HashMap::new(), stays: HashSet::new(), bad: Vec::new(), bytes: 0, blobs: 0 }
    }

    /// Is the pack that this id means to be emptied?
    pub fn empties(&self, writing: &Writing, pack: PackId) -> bool {
        writing.packs.known(pack).is_ok_and(|known| self.chosen.contains(&(known.session, known.id)))
    }

    /// Copies all live blobs of the chosen packs, and the patches elsewhere that have to travel with them: pack by pack,
    /// whole chunks first.
    pub fn all(&mut self, writing: &Writing, cancel: &Cancel, progress: &dyn Progress) -> Result<(), RepoError> {
        let packs = &self.work.live.packs;
        let chosen: HashSet<usize> = self.work.chosen.iter().copied().collect();
        let draggers = self.work.live.drags.keys().filter(|(of, _)| chosen.contains(of)).map(|(_, from)| *from);
        let others: HashSet<usize> = draggers.filter(|from| !chosen.contains(from)).collect();
        for patches in [false, true] {
            let also = others.iter().filter(|_| patches);
            let mut order: Vec<&Named> = self.work.chosen.iter().chain(also).filter_map(|n| packs.get(*n)).collect();
            order.sort_by_key(|named| (self.fold.sessions.get(&named.pack.session).map(|s| s.begin), named.pack.id));
            for named in order {
                cancel.check()?;
                // Another session's pack of this id: its blobs are copied when they are met.
                if writing.packs.known(named.pack.id).is_ok_and(|known| known.session == named.pack.session) {
                    self.pack(writing, named, patches, progress)?;
                }
            }
        }
        Ok(())
    }

    fn pack(&mut self, writing: &Writing, named: &Named, patches: bool, progress: &dyn Progress) -> Result<(), RepoError> {
        let id = named.pack.id;
        let table = match writing.packs.table(id) {
            Ok(table) => table,
            // Told when a snapshot needs it.
            Err(e) if is_of_one_pack(&e) => return Ok(()),
            Err(e) => return Err(e),
        };
        let all = self.chosen.contains(&(named.pack.session, id));
        let wanted = |row: &Row| {
            let drags = row.references.iter().any(|r| self.empties(writing, r.place.pack));
            row.role == ChunkRole::Content && row.references.is_empty() != patches && (all || drags)
        };
        let mut blobs: Vec<(u32, &Row)> = table.rows().iter().enumerate().map(|(blob, row)| (blob as u32, row)).collect();
        blobs.retain(|(blob, row)| named.live.get(*blob) && wanted(row));
        blobs.sort_by_key(|(_, row)| row.offset);
        let mut rest = blobs.as_slice();
        while let Some((run, behind)) = next_run(rest) {
            let (start, end) = run.iter().fold((u64::MAX, 0), |(start, end), (_, row)| {
                (start.min(row.offset.into()), end.max(u64::from(row.offset) + u64::from(row.len)))
            });
            // If it can't be read together, each is tried alone.
            let bytes = match writing.packs.stored_bytes(id, start, (end - start) as usize) {
                Err(e) if !is_of_one_pack(&e) && !is_of_a_disk(&e) => return Err(e),
                read => read.ok(),
            };
            for (blob, row) in run {
                let from = (u64::from(row.offset) - start) as usize;
                let sealed = bytes.as_ref().and_then(|b| b.get(from..from + row.len as usize)).map(<[u8]>::to_vec);
                self.carry(writing, &table, Place { pack: id, blob: *blob, position: 0 }, sealed)?;
                progress.advance(row.len.into());
            }
            rest = behind;
        }
        Ok(())
    }

    /// Where a blob lies that this run has copied, for a chunk at this place; `None` if it hasn't, or not where this session
    /// may name it.
    pub fn get(&self, writing: &Writing, place: Place) -> Result<Option<Stored>, RepoError> {
        let Some(moved) = self.moved.get(&(writing.session_of(place.pack)?, place.pack, place.blob)) else { return Ok(None) };
        if !writing.may_name(moved.place.pack) || moved.reference.is_some_and(|(r, _)| !writing.may_name(r.place.pack)) {
            return Ok(None);
        }
        let place = Place { position: place.position, ..moved.place };
        Ok(Some(Stored { place, bytes: moved.bytes, reference: moved.reference }))
    }

    /// Copies a blob, unless it was copied before. `None` if it isn't what its table says: then it is named, and stays.
    pub fn copy(&mut self, writing: &Writing, place: Place) -> Result<Option<Stored>, RepoError> {
        let table = writing.packs.table(place.pack)?;
        self.carry(writing, &table, place, None)
    }

    fn carry(
        &mut self,
        writing: &Writing,
        table: &LoadedTable,
        place: Place,
        sealed: Option<Vec<u8>>,
    ) -> Result<Option<Stored>, RepoError> {
        if let Some(stored) = self.get(writing, place)? {
            return Ok(Some(stored));
        }
        let session = writing.session_of(place.pack)?;
        let key = (session, place.pack, place.blob);
        let Some(row) = table.rows().get(place.blob as usize).filter(|_| !self.stays.contains(&key)) else { return Ok(None) };
        let reference = match row.references.as_slice() {
            [] => None,
            [one] => match self.reference(writing, one)? {
                Some(reference) => Some(reference),
                None => {
                    self.stays.insert(key);
                    return Ok(None);
                }
            },
            _ => return self.stay(writing, key, "it has several references"),
        };
        if let Some(stored) = left_over(writing, row)? {
            self.moved.insert(key, Moved { place: stored.place, bytes: stored.bytes, reference: stored.reference });
            return self.get(writing, place);
        }
        let sealed = match sealed.filter(|sealed| row.is_sealed_as(sealed)) {
            Some(sealed) => sealed,
            None => match writing.packs.sealed_blob(place.pack, row) {
                Ok(sealed) => sealed,
                Err(e) if is_of_one_pack(&e) || is_of_a_disk(&e) => return self.stay(writing, key, &said(&e)),
                Err(e) => return Err(e),
            },
        };
        let envelope = match writing.packs.envelope_to_copy(table, row) {
            Ok(Some(envelope)) => envelope,
            Ok(None) => return self.stay(writing, key, "it has no envelope"),
            Err(e) if is_of_one_pack(&e) || is_of_a_disk(&e) => return self.stay(writing, key, &said(&e)),
            Err(e) => return Err(e),
        };
        let references = reference.iter().map(|(reference, _)| *reference).collect();
        let blob = SealedBlob { row: Row { references, ..row.clone() }, envelope, sealed };
        let there = match writing.writer.copy(&blob, self.quiet(key)) {
            Ok(there) => there,
            Err(RepoError::Key(CryptError::NotAuthentic { .. })) => {
                return self.stay(writing, key, "its bytes have not the hash that the table says");
            }
            Err(e) => return Err(e),
        };
        writing.stored(there.pack);
        self.bytes += u64::from(row.len);
        self.blobs += 1;
        self.moved.insert(key, Moved { place: there, bytes: row.len, reference });
        self.get(writing, place)
    }

    /// What a patch refers to, where it lies from now on.
    fn reference(&mut self, writing: &Writing, old: &Reference) -> Result<Option<(Reference, u32)>, RepoError> {
        let table = match writing.packs.table(old.place.pack) {
            Ok(table) => table,
            Err(e) if is_of_one_pack(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        let Some((row, id, _)) = table.find(old.place) else { return Ok(None) };
        if id != old.id || !row.references.is_empty() {
            return Ok(None);
        }
        if !self.empties(writing, old.place.pack) {
            return Ok(writing.may_name(old.place.pack).then_some((*old, row.len)));
        }
        let moved = self.carry(writing, &table, old.place, None)?;
        Ok(moved.map(|stored| (Reference { id: old.id, place: stored.place }, stored.bytes)))
    }

    /// What is copied is sorted, too: what only older snapshots need will go with them.
    fn quiet(&self, (session, pack, blob): Key) -> Quiet {
        match self.work.live.of(session, pack) {
            Some(named) if named.current.get(blob) => Quiet::in_fold(self.fold, &session),
            _ => Quiet::Days,
        }
    }

    fn stay(&mut self, writing: &Writing, key: Key, why: &str) -> Result<Option<Stored>, RepoError> {
        let object = writing.packs.name(key.1)?.to_string();
        self.bad.push(BadBlob { object, blob: key.2, why: why.into() });
        self.stays.insert(key);
        Ok(None)
    }
}

/// A copy that an interrupted run has left, in a place on which this session may rely.
fn left_over(writing: &Writing, row: &Row) -> Result<Option<Stored>, RepoError> {
    let [(id, _)] = row.chunks.as_slice() else { return Ok(None) };
    let found = writing.writer.find(ChunkRole::Content, id)?;
    // What others may refer to is whole.
    Ok(found.filter(|stored| stored.reference.is_none() || !row.references.is_empty()))
}

/// A disk that can't read a sector says nothing about others.
fn is_of_a_disk(e: &RepoError) -> bool {
    matches!(e, RepoError::Store(crate::store::StoreError::Io { .. }))
}

/// Blobs of a pack, with their numbers.
type Rows<'r, 't> = &'r [(u32, &'t Row)];

/// The first blobs that one request fetches, and the others.
fn next_run<'r, 't>(blobs: Rows<'r, 't>) -> Option<(Rows<'r, 't>, Rows<'r, 't>)> {
    let (_, first) = blobs.first()?;
    let (start, mut end, mut count) = (u64::from(first.offset), u64::from(first.offset), 0);
    for (_, row) in blobs {
        let (from, to) = (u64::from(row.offset), u64::from(row.offset) + u64::from(row.len));
        if count > 0 && (from > end + GAP || to - start > WINDOW) {
            break;
        }
        end = end.max(to);
        count += 1;
    }
    blobs.split_at_checked(count)
}
