//! Finding packs, fetching their tables, opening blobs. Every chunk that leaves here has had its id re-computed.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use super::ahead::Blocks;
use super::fetch::Held;
use super::{END, FinishedPack, MAX_PACK, MAX_TAIL, PackTable, Place, Row, TRAILER, blob_aad, table_aad};
use crate::codec;
use crate::crypt::envelope::{self, Envelope};
use crate::crypt::{ChunkRole, CryptError, Opening, Sealing, Secret, seal};
use crate::repo::bytes::{Malformed, Reader};
use crate::repo::{PackRef, RepoError};
use crate::store::{self, Backend, ObjectName, Pace};
use crate::units::{ChunkId, KeyId, PackId, SessionId, ShortId};

/// What is said of a blob whose sealed bytes are others.
const NOT_ITS_HASH: &str = "a blob's bytes have not the hash that the table says";
/// What is said of a patch of several chunks.
const SEVERAL: &str = "a blob has several references";
/// Tables that are kept in memory, in bytes.
pub(super) const KEPT_TABLES: usize = 32 << 20;

/// The bytes of a chunk whose id has been re-computed.
#[derive(Clone)]
pub struct VerifiedChunk {
    pub(super) id: ChunkId,
    bytes: Arc<Vec<u8>>,
}

impl VerifiedChunk {
    /// Its id.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A table with what is needed to open the pack's blobs.
pub struct LoadedTable {
    pack: PackId,
    table: PackTable,
    subkey: Secret,
    /// With the key in it, and whose that is, once it was opened.
    envelopes: Vec<(Envelope, OnceLock<(Secret, KeyId)>)>,
    /// The envelopes as they came twice.
    agreed: OnceLock<Vec<Envelope>>,
}

fn envelopes_of(table: &LoadedTable) -> Vec<Envelope> {
    table.envelopes.iter().map(|(envelope, _)| envelope.clone()).collect()
}

impl LoadedTable {
    /// Its rows.
    pub fn rows(&self) -> &[Row] {
        &self.table.rows
    }

    /// The envelope with the key of a blob of content, as it came; see [`Packs::envelope_to_copy`].
    pub fn envelope(&self, row: &Row) -> Option<&Envelope> {
        self.envelopes.get(usize::from(row.envelope?)).map(|(envelope, _)| envelope)
    }

    /// About how much memory it takes: its rows can hold few chunks or many.
    fn weight(&self) -> usize {
        self.table.rows.iter().map(|row| 160 + 36 * row.chunks.len() + 64 * row.references.len()).sum::<usize>()
            + self.envelopes.len() * 200
    }

    /// The row and the id of the chunk at `place`.
    pub fn find(&self, place: Place) -> Option<(&Row, ChunkId, u32)> {
        let row = self.table.rows.get(place.blob as usize)?;
        let (id, len) = row.chunks.get(usize::from(place.position))?;
        Some((row, *id, *len))
    }
}

/// Keeps ranges of packs, which never change, in a cache.
pub trait KeptRanges: Send + Sync {
    /// The range of this object, if it is kept.
    fn get(&self, object: &str, offset: u64, len: u32) -> Option<Vec<u8>>;

    /// Keeps a range.
    fn put(&self, object: &str, offset: u64, bytes: &[u8]);
}

/// The packs that a reader knows of: those that one COMMIT names, or that one session may name, each id once. To the log
/// a pack is (session, id): whose pack an id means is settled by whoever fills this.
pub struct Packs {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) pace: Pace,
    pub(super) sealing: Sealing,
    pub(super) directory: RwLock<HashMap<PackId, PackRef>>,
    tables: Mutex<Kept>,
    /// Tables that are being read: who wants one of them, too, waits for it.
    being_read: Mutex<HashMap<PackId, Arc<Mutex<()>>>>,
    pub(super) blocks: Mutex<Blocks>,
    pub(super) ranges: Option<Arc<dyn KeptRanges>>,
    /// Chunks of this session that a tree is read by.
    of_tree: Mutex<HashSet<ChunkId>>,
}

#[derive(Default)]
struct Kept {
    tables: HashMap<PackId, Arc<LoadedTable>>,
    order: VecDeque<PackId>,
    weight: usize,
}

/// The name of a pack's object.
pub fn pack_name(session: SessionId, pack: &PackRef) -> Result<ObjectName, RepoError> {
    Ok(format!("pack/{session}/{}-{}", pack.id, pack.hash).parse::<ObjectName>().map_err(crate::store::StoreError::from)?)
}

impl Packs {
    /// Knows no pack yet.
    pub fn new(backend: Arc<dyn Backend>, sealing: Sealing) -> Self {
        let (directory, tables, being_read) = (RwLock::default(), Mutex::default(), Mutex::default());
        let (blocks, of_tree) = (Mutex::default(), Mutex::default());
        Packs { pace: backend.pace(), backend, sealing, directory, tables, being_read, blocks, ranges: None, of_tree }
    }

    /// How the store is asked best.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Looks into a cache first, for tables, nodes and what trees are read by.
    #[must_use]
    pub fn with_kept(mut self, ranges: Option<Arc<dyn KeptRanges>>) -> Self {
        self.ranges = ranges;
        self
    }

    /// A chunk of content that is going to be stored holds names, attributes or a meta chunk: trees are read by it.
    pub fn is_of_tree(&self, id: ChunkId) {
        if self.ranges.is_some() {
            self.of_tree.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        }
    }

    /// Keeps of a pack that was just stored what the next backup will read.
    pub(in crate::repo) fn keep_stored(&self, name: &ObjectName, pack: &FinishedPack) {
        let Some(ranges) = &self.ranges else { return };
        let of_tree = self.of_tree.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = |offset: usize, len: usize| {
            if let Some(bytes) = offset.checked_add(len).and_then(|end| pack.bytes.get(offset..end)) {
                ranges.put(name.as_str(), offset as u64, bytes);
            }
        };
        keep(pack.bytes.len().saturating_sub(pack.tail as usize), pack.tail as usize);
        for row in &pack.table.rows {
            if row.role == ChunkRole::Structure || row.chunks.iter().any(|(id, _)| of_tree.contains(id)) {
                keep(row.offset as usize, row.len as usize);
            }
        }
    }

    /// A range of a pack, opened: out of the cache; where that hasn't it as it should be, as `first` reads it; and where that isn't
    /// what it should be, by itself, and from beneath whatever lies over it.
    fn opened_range<T>(
        &self,
        (name, offset, len): (&ObjectName, u64, u32),
        first: impl FnOnce() -> Result<Vec<u8>, RepoError>,
        open: impl Fn(Vec<u8>) -> Result<T, RepoError>,
    ) -> Result<T, RepoError> {
        let ranges = self.ranges.as_deref();
        if let Some(kept) = ranges.and_then(|ranges| ranges.get(name.as_str(), offset, len))
            && let Ok(opened) = open(kept)
        {
            return Ok(opened);
        }
        let open_and_keep = |bytes: Vec<u8>| match ranges {
            None => open(bytes),
            Some(ranges) => {
                let opened = open(bytes.clone())?;
                ranges.put(name.as_str(), offset, &bytes);
                Ok(opened)
            }
        };
        match first().and_then(open_and_keep) {
            Err(e) if e.is_damage() && self.backend.rereads() => {
                self.seen_through(name, || open_and_keep(self.backend.read_range(name, offset, len as usize)?))
            }
            other => other,
        }
    }

    /// Makes packs known.
    pub fn add(&self, packs: impl IntoIterator<Item = PackRef>) {
        let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        directory.extend(packs.into_iter().map(|p| (p.id, p)));
    }

    /// What is known of a pack.
    ///
    /// # Errors
    /// [`RepoError::UnknownPack`].
    pub fn known(&self, id: PackId) -> Result<PackRef, RepoError> {
        let directory = self.directory.read().unwrap_or_else(PoisonError::into_inner);
        directory.get(&id).copied().ok_or(RepoError::UnknownPack { pack: id })
    }

    /// Puts a table that is known already (its pack was just stored, or it comes from elsewhere and was checked).
    pub(super) fn keep(&self, id: PackId, table: Arc<LoadedTable>) {
        let mut kept = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let weight = table.weight();
        if kept.tables.insert(id, table).is_none() {
            kept.order.push_back(id);
            kept.weight += weight;
        }
        while kept.weight > KEPT_TABLES && kept.order.len() > 1 {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some(table) = kept.tables.remove(&oldest) {
                kept.weight = kept.weight.saturating_sub(table.weight());
            }
        }
    }

    /// The table of a pack, from memory or by one ranged read.
    ///
    /// # Errors
    /// If the pack isn't known, isn't there, or its tail is damaged.
    pub fn table(&self, id: PackId) -> Result<Arc<LoadedTable>, RepoError> {
        if let Some(table) = self.table_at_hand(id) {
            return Ok(table);
        }
        let gate = Arc::clone(self.being_read().entry(id).or_default());
        let _waits = gate.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = self.table_at_hand(id) {
            return Ok(table);
        }
        let read = self.read_table(id).inspect(|table| self.keep(id, Arc::clone(table)));
        self.being_read().remove(&id);
        read
    }

    fn being_read(&self) -> MutexGuard<'_, HashMap<PackId, Arc<Mutex<()>>>> {
        self.being_read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table of a pack, if it is in memory.
    pub(super) fn table_at_hand(&self, id: PackId) -> Option<Arc<LoadedTable>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).tables.get(&id).map(Arc::clone)
    }

    /// The table of a pack by one ranged read.
    pub(super) fn read_table(&self, id: PackId) -> Result<Arc<LoadedTable>, RepoError> {
        let pack = self.known(id)?;
        let name = pack_name(pack.session, &pack)?;
        if pack.size > MAX_PACK || u64::from(pack.tail) > pack.size || pack.tail > MAX_TAIL {
            return Err(RepoError::corrupt(&name, "the log gives it an impossible size"));
        }
        let tail_at = pack.size - u64::from(pack.tail);
        let first = || Ok(self.backend.read_range(&name, tail_at, pack.tail as usize)?);
        let open = |tail: Vec<u8>| self.open_tail(id, &tail, tail_at).map_err(|e| e.at(&name));
        Ok(Arc::new(self.opened_range((&name, tail_at, pack.tail), first, open)?))
    }

    fn open_tail(&self, id: PackId, tail: &[u8], blobs_end: u64) -> Result<LoadedTable, TailError> {
        let (front, trailer) = tail.split_at_checked(tail.len().saturating_sub(TRAILER)).ok_or(Malformed("too short"))?;
        let mut from = Reader::new(trailer);
        let (table_len, envelopes, zero) = (from.u32()? as usize, from.u16()?, from.u16()?);
        if from.array::<16>()? != id.0 || from.array::<8>()? != *END || zero != 0 {
            return Err(Malformed("its trailer is not that of this pack").into());
        }
        let mut from = Reader::new(front);
        let (nonce, sealed) = (from.array()?, from.bytes(table_len)?.to_vec());
        let count = from.count(envelopes.into(), envelope::LEN)?;
        let envelopes_ = (0..count).map(|_| Ok((Envelope(from.array()?), OnceLock::new()))).collect::<Result<Vec<_>, Malformed>>()?;
        let salt = from.array()?;
        from.end()?;
        let subkey = seal::subkey(self.sealing.table_key(), &salt);
        let plain = seal::open(&subkey, &nonce, &table_aad(&self.sealing.domain, &id), sealed, "the table of a pack")?;
        let table = PackTable::decode(&plain, envelopes, blobs_end)?;
        Ok(LoadedTable { pack: id, table, subkey, envelopes: envelopes_, agreed: OnceLock::new() })
    }

    /// The envelope with the key of a blob of content, to be copied. Of a pack's tail envelopes alone are proved by nothing but
    /// that they open: where a bit may be flipped on the way, they are taken as they came twice.
    ///
    /// # Errors
    /// If the table can't be read again, or comes otherwise each time.
    pub fn envelope_to_copy(&self, table: &LoadedTable, row: &Row) -> Result<Option<Envelope>, RepoError> {
        let Some(number) = row.envelope.map(usize::from) else { return Ok(None) };
        if !self.backend.rereads() {
            return Ok(table.envelopes.get(number).map(|(envelope, _)| envelope.clone()));
        }
        if table.agreed.get().is_none() {
            let mut before = envelopes_of(table);
            for attempt in 0.. {
                let again = envelopes_of(&*self.read_table(table.pack)?);
                let same = again.len() == before.len() && again.iter().zip(&before).all(|(a, b)| a.0 == b.0);
                before = again;
                match attempt {
                    _ if same => break,
                    0..3 => {}
                    _ => return Err(RepoError::corrupt(&self.name(table.pack)?, "its envelopes come otherwise each time")),
                }
            }
            let _ = table.agreed.set(before);
        }
        Ok(table.agreed.get().and_then(|all| all.get(number)).cloned())
    }

    /// The key of a blob of content, and whose envelope it was in.
    fn key_of(&self, opening: &Opening, table: &LoadedTable, row: &Row, name: &ObjectName) -> Result<(Secret, KeyId), RepoError> {
        let crypt = |source: CryptError| RepoError::Crypt { object: name.to_string(), source };
        let none = || RepoError::corrupt(name, "a blob has no envelope");
        let number = row.envelope.map(usize::from).ok_or_else(none)?;
        let (envelope, opened) = table.envelopes.get(number).ok_or_else(none)?;
        if let Some(found) = opened.get() {
            return Ok(found.clone());
        }
        let open = |envelope: &Envelope| Ok((opening.open_envelope(envelope)?, envelope.key_id()?));
        let found = match open(envelope) {
            // Again, as a bit may have been flipped on the way: nothing else has proved it.
            Err(_) if self.backend.rereads() => {
                let again = self.read_table(table.pack)?;
                again.envelopes.get(number).ok_or_else(none).and_then(|(envelope, _)| open(envelope).map_err(crypt))?
            }
            other => other.map_err(crypt)?,
        };
        Ok(opened.get_or_init(|| found).clone())
    }

    /// See [`store::seen_through`].
    pub(super) fn seen_through<T>(&self, name: &ObjectName, attempt: impl FnMut() -> Result<T, RepoError>) -> Result<T, RepoError> {
        store::seen_through(self.backend.as_ref(), name, RepoError::is_damage, attempt)
    }

    /// One node of the structure: needs the table key alone.
    ///
    /// # Errors
    /// If it isn't there or not what `id` names.
    pub fn node(&self, id: ShortId, place: Place) -> Result<VerifiedChunk, RepoError> {
        let table = self.table(place.pack)?;
        let name = self.name(place.pack)?;
        let (row, found, _) = table.find(place).ok_or_else(|| RepoError::corrupt(&name, "a node names a blob that it hasn't"))?;
        if found.short() != id || row.role != ChunkRole::Structure || row.chunks.len() != 1 {
            return Err(RepoError::corrupt(&name, "another chunk lies where a node of the structure is expected"));
        }
        self.opened_range(
            (&name, row.offset.into(), row.len),
            || self.small(place.pack, row),
            |sealed| {
                let plain = self.open_node(&table, row, sealed, &name)?;
                self.checked(&name, ChunkRole::Structure, found, plain)
            },
        )
    }

    fn open_node(&self, table: &LoadedTable, row: &Row, sealed: Vec<u8>, name: &ObjectName) -> Result<Vec<u8>, RepoError> {
        let frame = seal::open(&table.subkey, &row.nonce, &blob_aad(&self.sealing.domain, &[0; 16], row), sealed, "a structure node")
            .map_err(|source| RepoError::Crypt { object: name.to_string(), source })?;
        codec::decode(row.kind, &frame, row.plain_len(), None).map_err(|source| RepoError::Codec { object: name.to_string(), source })
    }

    /// Is this blob of a pack whole? `sealed` are its bytes as they lie in the pack. It is opened and decoded, its
    /// reference fetched unless it is `held`, and the id of each of its chunks computed. Without what opens content, of
    /// content the hash of its sealed bytes alone is compared with the table.
    ///
    /// # Errors
    /// What is wrong, with the blob or with its reference.
    pub fn check_blob(&self, opening: Option<&Opening>, pack: PackId, blob: u32, sealed: &[u8], held: &Held) -> Result<(), BlobFault> {
        let table = self.table(pack)?;
        let name = self.name(pack)?;
        let row = table.rows().get(blob as usize).ok_or_else(|| RepoError::corrupt(&name, "it has no such blob"))?;
        if !row.is_sealed_as(sealed) {
            return Err(RepoError::corrupt(&name, NOT_ITS_HASH).into());
        }
        let plain = match row.role {
            ChunkRole::Structure => self.open_node(&table, row, sealed.to_vec(), &name)?,
            ChunkRole::Content => {
                let Some(opening) = opening else { return Ok(()) };
                let mut references = HashMap::new();
                if row.references.len() > 1 {
                    return Err(RepoError::corrupt(&name, SEVERAL).into());
                }
                for r in &row.references {
                    if let Some(chunk) = held.get(&r.place) {
                        references.insert(r.place, chunk.clone());
                        continue;
                    }
                    let chunk =
                        self.content(opening, r.id.short(), r.place).map_err(|source| BlobFault::Reference { place: r.place, source })?;
                    references.insert(r.place, chunk);
                }
                self.open_blob(opening, &table, row, sealed, &references, &name)?
            }
        };
        let mut rest = plain.as_slice();
        for (id, len) in &row.chunks {
            let (chunk, behind) =
                rest.split_at_checked(*len as usize).ok_or_else(|| RepoError::corrupt(&name, "a blob is shorter than its chunks"))?;
            if self.sealing.chunk_id(row.role, chunk) != *id {
                return Err(RepoError::corrupt(&name, "a chunk's content is not what its id says").into());
            }
            rest = behind;
        }
        Ok(())
    }

    /// As [`Packs::content`], of a chunk by which a tree is read: it is kept in the cache, if there is one.
    ///
    /// # Errors
    /// As there.
    pub fn tree_content(&self, opening: &Opening, id: ShortId, place: Place) -> Result<VerifiedChunk, RepoError> {
        let table = self.table(place.pack)?;
        let own = table.find(place).filter(|(row, found, _)| {
            found.short() == id && row.role == ChunkRole::Content && row.chunks.len() == 1 && row.references.is_empty()
        });
        let Some((row, found, _)) = own.filter(|_| self.ranges.is_some()) else { return self.content(opening, id, place) };
        let name = self.name(place.pack)?;
        let first = || Ok(self.backend.read_range(&name, row.offset.into(), row.len as usize)?);
        self.opened_range((&name, row.offset.into(), row.len), first, |sealed| {
            let plain = self.open_blob(opening, &table, row, &sealed, &HashMap::new(), &name)?;
            self.checked(&name, ChunkRole::Content, found, plain)
        })
    }

    /// A chunk of content of which this host has kept the bytes: they are taken only if they are what `id` names.
    ///
    /// # Errors
    /// If they are not.
    pub fn kept(&self, id: ShortId, bytes: Vec<u8>) -> Result<VerifiedChunk, RepoError> {
        let found = self.sealing.chunk_id(ChunkRole::Content, &bytes);
        if found.short() != id {
            return Err(RepoError::Corrupt { object: "a chunk in the cache".into(), why: "it is not what its id says".into() });
        }
        Ok(VerifiedChunk { id: found, bytes: bytes.into() })
    }

    pub(super) fn open_blob(
        &self,
        opening: &Opening,
        table: &LoadedTable,
        row: &Row,
        sealed: &[u8],
        references: &HashMap<Place, VerifiedChunk>,
        name: &ObjectName,
    ) -> Result<Vec<u8>, RepoError> {
        let crypt = |source: CryptError| RepoError::Crypt { object: name.to_string(), source };
        let (key, key_id) = self.key_of(opening, table, row, name)?;
        let frame =
            seal::open(&key, &row.nonce, &blob_aad(&self.sealing.domain, &key_id.0, row), sealed.to_vec(), "a blob").map_err(crypt)?;
        let reference = match row.references.as_slice() {
            [] => None,
            [one] => {
                let chunk = references
                    .get(&one.place)
                    .filter(|c| c.id == one.id)
                    .ok_or_else(|| RepoError::corrupt(name, "a patch's reference is itself a patch, or another chunk"))?;
                Some(chunk.bytes())
            }
            _ => return Err(RepoError::corrupt(name, SEVERAL)),
        };
        codec::decode(row.kind, &frame, row.plain_len(), reference).map_err(|source| RepoError::Codec { object: name.to_string(), source })
    }

    pub(super) fn checked(&self, name: &ObjectName, role: ChunkRole, id: ChunkId, plain: Vec<u8>) -> Result<VerifiedChunk, RepoError> {
        if self.sealing.chunk_id(role, &plain) != id {
            return Err(RepoError::corrupt(name, "a chunk's content is not what its id says"));
        }
        Ok(VerifiedChunk { id, bytes: plain.into() })
    }

    /// Stored bytes of a known pack, as they lie there: nothing about them is checked.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn stored_bytes(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, RepoError> {
        Ok(self.backend.read_range(&self.name(pack)?, offset, len)?)
    }

    /// The sealed bytes of a blob, compared with the hash that the table says. Where they come otherwise they are read again, as a
    /// bit may have been flipped on the way, and from beneath whatever lies over them.
    ///
    /// # Errors
    /// If they can't be read, or are not what the table says.
    pub fn sealed_blob(&self, pack: PackId, row: &Row) -> Result<Vec<u8>, RepoError> {
        let name = self.name(pack)?;
        self.seen_through(&name, || {
            let sealed = self.backend.read_range(&name, row.offset.into(), row.len as usize)?;
            if row.is_sealed_as(&sealed) { Ok(sealed) } else { Err(RepoError::corrupt(&name, NOT_ITS_HASH)) }
        })
    }

    /// The object's name of a known pack.
    ///
    /// # Errors
    /// [`RepoError::UnknownPack`].
    pub fn name(&self, pack: PackId) -> Result<ObjectName, RepoError> {
        let known = self.known(pack)?;
        pack_name(known.session, &known)
    }
}

/// What is wrong with a blob.
#[derive(Debug)]
pub enum BlobFault {
    /// The blob itself.
    Own(RepoError),
    /// The chunk that it is a patch of.
    Reference {
        /// Where that lies.
        place: Place,
        /// What is wrong with it.
        source: RepoError,
    },
}

impl From<RepoError> for BlobFault {
    fn from(e: RepoError) -> Self {
        BlobFault::Own(e)
    }
}

/// Why a tail can't be read.
enum TailError {
    Malformed(Malformed),
    Crypt(CryptError),
}

impl From<Malformed> for TailError {
    fn from(e: Malformed) -> Self {
        TailError::Malformed(e)
    }
}

impl From<CryptError> for TailError {
    fn from(e: CryptError) -> Self {
        TailError::Crypt(e)
    }
}

impl TailError {
    fn at(self, name: &ObjectName) -> RepoError {
        match self {
            TailError::Malformed(e) => RepoError::corrupt(name, e.0),
            TailError::Crypt(source) => RepoError::Crypt { object: name.to_string(), source },
        }
    }
}
