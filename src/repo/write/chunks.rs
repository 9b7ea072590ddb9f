//! Finding or storing chunks and nodes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::quiet::Quiet;
use super::upload::{OnStored, Uploader};
use crate::codec::{self, FrameKind};
use crate::crypt::{ChunkRole, Opening, Sealing};
use crate::repo::pack::{NewBlob, PackBuilder, Packs, Place, Reference, SealedBlob};
use crate::repo::structure::{MAX_NEEDS_NODE, MAX_NODE, Needs, Node, NodeSink};
use crate::repo::{PackRef, RepoError};
use crate::store::{Backend, SessionTag};
use crate::units::{ChunkId, Class, Explain, PackId, SessionId, ShortId};

/// A pack is closed when it has grown to this size.
const PACK_SIZE: usize = 16 << 20;
/// Blobs are sorted into packs of their own once a session has stored so much content: a small one makes one pack.
const APART: usize = 4 << 20;
/// Chunks of this session that are remembered for deduplication within it (70 bytes each).
const MOST_FRESH: usize = 1 << 20;
/// Of this many plain zstd blobs one is decoded again before it is stored.
const SAMPLE: u64 = 64;

/// A chunk that is stored, and what it takes to read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Where it lies.
    pub place: Place,
    /// Sealed bytes of its blob.
    pub bytes: u32,
    /// The whole chunk that its blob is a patch of, with that one's sealed bytes.
    pub reference: Option<(Reference, u32)>,
}

impl Stored {
    /// Adds what it takes to read it.
    pub fn add_to(&self, needs: &mut Needs) {
        needs.add(self.place.pack, self.bytes.into());
        if let Some((reference, bytes)) = &self.reference {
            needs.add(reference.place.pack, (*bytes).into());
        }
    }
}

/// Where chunks that others have stored may lie: the host's index. What it says is checked against the pack's table.
pub trait Known: Send + Sync {
    /// Places that may hold the chunk.
    fn places(&self, id: &ChunkId) -> Vec<Place>;
}

/// A chunk that is to be stored.
pub struct NewChunk<'a> {
    /// Its id, by the writer's [`Sealing::chunk_id`].
    pub id: ChunkId,
    /// Its bytes.
    pub plain: &'a [u8],
    /// Its frame.
    pub frame: codec::Frame,
    /// If the frame is a patch: of what, its sealed bytes, and its plain bytes (to decode again).
    pub reference: Option<(Reference, u32, &'a [u8])>,
}

/// A patch that is to be stored, made without its reference: of pages that are known to be the only changed ones.
pub struct NewPages<'a> {
    /// Its id, by the writer's [`Sealing::chunk_id`].
    pub id: ChunkId,
    /// Its bytes.
    pub plain: &'a [u8],
    /// Its frame.
    pub frame: codec::Frame,
    /// Of what it is a patch, and that one's sealed bytes.
    pub reference: (Reference, u32),
    /// The numbers of the pages in it, ascending.
    pub pages: &'a [u32],
    /// The size of a page, in bytes.
    pub page_size: usize,
}

/// What a session has stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Plain bytes of content that the repository did not have.
    pub plain: u64,
    /// Bytes of packs.
    pub packs: u64,
}

/// What a writer needs to know.
pub struct WriterSetup {
    /// Where packs are stored.
    pub backend: Arc<dyn Backend>,
    /// Where packs are read.
    pub packs: Arc<Packs>,
    /// Names and seals.
    pub sealing: Sealing,
    /// Opens, if this host may read.
    pub opening: Option<Opening>,
    /// Whose packs these are.
    pub session: SessionId,
    /// Marks unfinished files.
    pub tag: SessionTag,
    /// Packs that a COMMIT of this session may name, except its own.
    pub nameable: HashSet<PackId>,
    /// Those of them whose uploader is trusted: the others' blobs are opened and hashed before they are relied on.
    pub trusted: HashSet<PackId>,
    /// Where chunks may lie already.
    pub known: Box<dyn Known>,
    /// Places that the log lists as damaged: nobody relies on them.
    pub is_damaged: Box<dyn Fn(Place) -> bool + Send + Sync>,
}

/// Decodes a frame again.
type Check<'c> = dyn Fn(&[u8]) -> Result<(), RepoError> + 'c;

/// Finds or stores chunks; shared by all threads of a session.
pub struct ChunkWriter {
    setup: WriterSetup,
    /// By [`Quiet`]; until there is enough to be sorted, all is in the first.
    content: [Mutex<Option<PackBuilder>>; Quiet::COUNT],
    structure: Mutex<Option<PackBuilder>>,
    sorts: bool,
    apart: AtomicBool,
    fresh: Mutex<HashMap<ChunkId, Stored>>,
    uploader: Uploader,
    outside: Mutex<BTreeSet<PackId>>,
    plain: AtomicU64,
    sampled: AtomicU64,
}

impl ChunkWriter {
    /// A writer for an open session. `on_stored` is called for each stored pack, by the thread that stores.
    ///
    /// # Errors
    /// If there are no random numbers or threads.
    pub fn start(setup: WriterSetup, on_stored: OnStored) -> Result<Self, RepoError> {
        let uploader = Uploader::start(Arc::clone(&setup.backend), Arc::clone(&setup.packs), setup.session, setup.tag.clone(), on_stored)?;
        Ok(ChunkWriter {
            content: Default::default(),
            structure: Mutex::default(),
            sorts: true,
            apart: AtomicBool::new(false),
            setup,
            fresh: Mutex::default(),
            outside: Mutex::default(),
            uploader,
            plain: AtomicU64::new(0),
            sampled: AtomicU64::new(0),
        })
    }

    /// All content into the same packs, however quiet: to compare.
    #[must_use]
    pub fn unsorted(mut self) -> Self {
        self.sorts = false;
        self
    }

    /// Names chunks.
    pub fn sealing(&self) -> &Sealing {
        &self.setup.sealing
    }

    /// A chunk of content that is going to be stored holds what trees are read by.
    pub fn is_of_tree(&self, id: ChunkId) {
        self.setup.packs.is_of_tree(id);
    }

    /// May a COMMIT of this session name the pack?
    pub fn may_name(&self, pack: PackId) -> bool {
        self.setup.nameable.contains(&pack)
    }

    /// Is the pack's uploader trusted, so that what its table says of its blobs is taken without opening them?
    pub fn trusts(&self, pack: PackId) -> bool {
        self.setup.trusted.contains(&pack)
    }

    /// Where the chunk lies already, if that can be relied on.
    ///
    /// # Errors
    /// Only those of the store; a place that doesn't hold what the index said is passed over.
    pub fn find(&self, role: ChunkRole, id: &ChunkId) -> Result<Option<Stored>, RepoError> {
        if let Some(stored) = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Ok(Some(*stored));
        }
        for place in self.setup.known.places(id) {
            if !self.may_name(place.pack) {
                continue;
            }
            if let Some(stored) = self.rely_on(role, id, place)? {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    /// Checks a place by the pack's table, and by the content where the uploader isn't trusted.
    fn rely_on(&self, role: ChunkRole, id: &ChunkId, place: Place) -> Result<Option<Stored>, RepoError> {
        let table = match self.setup.packs.table(place.pack) {
            Ok(table) => table,
            Err(e) if is_of_one_pack(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        match table.find(place) {
            Some((row, found, _)) if found == *id && row.role == role => {}
            _ => return Ok(None),
        }
        let Some(stored) = self.stored_at(id.short(), place)? else { return Ok(None) };
        if self.setup.trusted.contains(&place.pack) && stored.reference.is_none_or(|(r, _)| self.setup.trusted.contains(&r.place.pack)) {
            return Ok(Some(stored));
        }
        let seen = match (role, &self.setup.opening) {
            (ChunkRole::Structure, _) => self.setup.packs.node(id.short(), place),
            (ChunkRole::Content, Some(opening)) => self.setup.packs.content(opening, id.short(), place),
            (ChunkRole::Content, None) => return Ok(None),
        };
        match seen {
            Ok(chunk) if chunk.id() == *id => Ok(Some(stored)),
            Ok(_) => Ok(None),
            Err(e) if is_of_one_pack(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What it takes to read the chunk `id` at a place that the parent names: `None` if it can't be relied on, since another
    /// chunk lies there, a pack may not be named, or a place is damaged.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn stored_at(&self, id: ShortId, place: Place) -> Result<Option<Stored>, RepoError> {
        match self.look_at(id, place) {
            Err(e) if is_of_one_pack(&e) => Ok(None),
            other => other,
        }
    }

    fn look_at(&self, wanted: ShortId, place: Place) -> Result<Option<Stored>, RepoError> {
        if !self.may_name(place.pack) || (self.setup.is_damaged)(place) {
            return Ok(None);
        }
        let table = self.setup.packs.table(place.pack)?;
        let Some((row, _, _)) = table.find(place).filter(|(_, found, _)| found.short() == wanted) else { return Ok(None) };
        let reference = match row.references.as_slice() {
            [] => None,
            [one] => {
                if !self.may_name(one.place.pack) || (self.setup.is_damaged)(one.place) {
                    return Ok(None);
                }
                let theirs = self.setup.packs.table(one.place.pack)?;
                match theirs.find(one.place) {
                    Some((r, id, _)) if id == one.id && r.references.is_empty() => Some((*one, r.len)),
                    _ => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(Stored { place, bytes: row.len, reference }))
    }

    /// Stores a chunk that was not found, and of whose place nothing is known.
    ///
    /// # Errors
    /// As [`ChunkWriter::put_quiet`].
    pub fn put(&self, role: ChunkRole, chunk: NewChunk<'_>) -> Result<Stored, RepoError> {
        self.put_quiet(role, chunk, Quiet::New)
    }

    /// Stores a chunk that was not found. `quiet` says how long what it replaces had been there.
    ///
    /// # Errors
    /// If it can't be sealed or stored, or what was sealed does not decode to what it was made of.
    pub fn put_quiet(&self, role: ChunkRole, chunk: NewChunk<'_>, quiet: Quiet) -> Result<Stored, RepoError> {
        let NewChunk { id, plain, frame, reference } = chunk;
        let kind = frame.kind;
        // Of plain zstd a sample is decoded again, of everything cleverer all.
        let again =
            !matches!(kind, FrameKind::Stored | FrameKind::Zstd) || self.sampled.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLE);
        let check = |frame: &[u8]| self.check(role, &id, kind, frame, plain, reference.map(|(_, _, plain)| plain));
        let named = reference.map(|(reference, len, _)| (reference, len));
        self.store(role, (id, plain), frame, named, quiet, again.then_some(&check))
    }

    /// Stores a patch that was made without its reference. Before it can be stored, the pages in it are decoded again and
    /// compared: the others are the caller's word.
    ///
    /// # Errors
    /// As [`ChunkWriter::put_quiet`].
    pub fn put_pages(&self, patch: NewPages<'_>, quiet: Quiet) -> Result<Stored, RepoError> {
        let NewPages { id, plain, frame, reference, pages, page_size } = patch;
        if frame.kind != FrameKind::Patch {
            return Err(RepoError::internal("pages alone are no patch"));
        }
        let check = |frame: &[u8]| check_pages(frame, plain, pages, page_size);
        self.store(ChunkRole::Content, (id, plain), frame, Some(reference), quiet, Some(&check))
    }

    fn store(
        &self,
        role: ChunkRole,
        (id, plain): (ChunkId, &[u8]),
        frame: codec::Frame,
        reference: Option<(Reference, u32)>,
        quiet: Quiet,
        check: Option<&Check<'_>>,
    ) -> Result<Stored, RepoError> {
        let references = reference.iter().map(|(reference, _)| *reference).collect();
        let blob = NewBlob { role, kind: frame.kind.into(), frame: frame.bytes, chunks: vec![(id, plain.len() as u32)], references };
        let builder = match role {
            ChunkRole::Content => self.builder_of(quiet),
            ChunkRole::Structure => &self.structure,
        };
        let (place, bytes) = self.add(builder, blob, check)?;
        if role == ChunkRole::Content {
            self.plain.fetch_add(plain.len() as u64, Ordering::Relaxed);
        }
        let stored = Stored { place, bytes, reference };
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh.len() < MOST_FRESH {
            fresh.insert(id, stored);
        }
        Ok(stored)
    }

    /// Bad memory and errors of a codec are found here, on the host that has the truth, and not at restore.
    fn check(
        &self,
        role: ChunkRole,
        id: &ChunkId,
        kind: FrameKind,
        frame: &[u8],
        plain: &[u8],
        reference: Option<&[u8]>,
    ) -> Result<(), RepoError> {
        let object = || "a chunk that was just encoded".to_owned();
        let decoded = codec::decode(kind.into(), frame, plain.len() as u32, reference)
            .map_err(|source| RepoError::Codec { object: object(), source })?;
        if self.setup.sealing.chunk_id(role, &decoded) != *id {
            return Err(RepoError::Corrupt { object: object(), why: "it decodes to other bytes: is this host's memory sound?".into() });
        }
        Ok(())
    }

    /// Takes a blob of content over from another pack as it is: its first chunk is at the returned place. What it was a patch
    /// of must be named in its row where that lies now.
    ///
    /// # Errors
    /// If its bytes have not the hash that its row says, or a pack can't be stored.
    pub fn copy(&self, blob: &SealedBlob, quiet: Quiet) -> Result<Place, RepoError> {
        let mut pack = self.builder_of(quiet).lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.open_pack(&mut pack)?.copy(blob)?;
        self.close_if_full(pack)?;
        Ok(place)
    }

    fn builder_of(&self, quiet: Quiet) -> &Mutex<Option<PackBuilder>> {
        let [new, days, week, long] = &self.content;
        match quiet {
            _ if !self.apart.load(Ordering::Relaxed) => new,
            Quiet::New => new,
            Quiet::Days => days,
            Quiet::Week => week,
            Quiet::Long => long,
        }
    }

    fn open_pack<'p>(&self, pack: &'p mut Option<PackBuilder>) -> Result<&'p mut PackBuilder, RepoError> {
        match pack {
            Some(pack) => Ok(pack),
            None => Ok(pack.insert(PackBuilder::new(&self.setup.sealing)?)),
        }
    }

    /// Stores the pack if it has grown enough, and notes when there is enough to be sorted.
    fn close_if_full(&self, mut pack: MutexGuard<'_, Option<PackBuilder>>) -> Result<(), RepoError> {
        let size = pack.as_ref().map_or(0, PackBuilder::size);
        if self.sorts && size >= APART && !pack.as_ref().is_some_and(PackBuilder::is_of_structure) {
            self.apart.store(true, Ordering::Relaxed);
        }
        match pack.take_if(|_| size >= PACK_SIZE) {
            Some(full) => {
                drop(pack);
                self.uploader.send(full.finish()?)
            }
            None => Ok(()),
        }
    }

    /// Seals a blob into the open pack. It is decoded again, where that is wanted, before anybody can close the pack: what
    /// is stored has been checked.
    fn add(&self, builder: &Mutex<Option<PackBuilder>>, blob: NewBlob, check: Option<&Check<'_>>) -> Result<(Place, u32), RepoError> {
        let mut open = builder.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = (blob.frame.len() + crate::crypt::seal::TAG) as u32;
        let pack = self.open_pack(&mut open)?;
        let place = pack.add(blob)?;
        if let Some(check) = check {
            let checked = pack.reopen(place).map_err(RepoError::from).and_then(|frame| check(&frame));
            if checked.is_err() {
                pack.take_back();
            }
            checked?;
        }
        self.close_if_full(open)?;
        Ok((place, bytes))
    }

    /// Packs that hold needs too many for their entries: a snapshot needs these, too.
    pub fn outside(&self) -> BTreeSet<PackId> {
        self.outside.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes and stores what is open; the session's packs.
    ///
    /// # Errors
    /// If one couldn't be stored.
    pub fn finish(self) -> Result<(Vec<PackRef>, Totals), RepoError> {
        let plain = self.plain.load(Ordering::Relaxed);
        for builder in self.content.into_iter().chain([self.structure]) {
            let pack = builder.into_inner().unwrap_or_else(PoisonError::into_inner);
            if let Some(pack) = pack.filter(|pack| !pack.is_empty()) {
                self.uploader.send(pack.finish()?)?;
            }
        }
        let packs = self.uploader.finish()?;
        let total = packs.iter().map(|p| p.size).sum();
        Ok((packs, Totals { plain, packs: total }))
    }
}

/// A patch that was made without its reference holds the pages that it should, as they are.
fn check_pages(frame: &[u8], plain: &[u8], pages: &[u32], page_size: usize) -> Result<(), RepoError> {
    let object = || "a patch that was just encoded".to_owned();
    let stored = codec::stored_pages(frame, plain.len()).map_err(|source| RepoError::Codec { object: object(), source })?;
    let stored = stored.ok_or(RepoError::internal("a patch of pages alone needs their old images"))?;
    let as_they_are = |page: &codec::StoredPage| {
        let start = (page.number as usize).saturating_mul(page_size);
        let end = start.saturating_add(page_size).min(plain.len());
        plain.get(start..end) == Some(page.bytes.as_slice())
    };
    if !stored.iter().map(|page| page.number).eq(pages.iter().copied()) || !stored.iter().all(as_they_are) {
        return Err(RepoError::Corrupt { object: object(), why: "it decodes to other pages: is this host's memory sound?".into() });
    }
    Ok(())
}

/// Does the error concern one object alone, so that the chunk can be stored anew instead?
pub fn is_of_one_pack(e: &RepoError) -> bool {
    match e {
        RepoError::Store(e) => matches!(e.class(), Class::Absent | Class::Corrupt),
        RepoError::Crypt { .. } | RepoError::Codec { .. } | RepoError::Corrupt { .. } | RepoError::UnknownPack { .. } => true,
        _ => false,
    }
}

impl NodeSink for ChunkWriter {
    fn put_node(&self, node: &Node) -> Result<(ChunkId, Place, u32), RepoError> {
        let most = if matches!(node, Node::Needs(_)) { MAX_NEEDS_NODE } else { MAX_NODE };
        let mut bytes = Vec::new();
        for inline in [64, 16, 2] {
            bytes = node.encode(inline, &mut |needs| {
                let (id, place, _) = self.put_node(&Node::Needs(needs.clone()))?;
                self.outside.lock().unwrap_or_else(PoisonError::into_inner).insert(place.pack);
                Ok::<_, RepoError>((id.short(), place))
            })?;
            if bytes.len() <= most {
                break;
            }
        }
        if bytes.len() > most {
            return Err(RepoError::internal("a node of the structure is larger than anyone would read"));
        }
        let id = self.setup.sealing.chunk_id(ChunkRole::Structure, &bytes);
        let stored = match self.find(ChunkRole::Structure, &id)? {
            Some(stored) => stored,
            None => {
                let frame = codec::encode_whole(&bytes, codec::DENSE)?;
                self.put(ChunkRole::Structure, NewChunk { id, plain: &bytes, frame, reference: None })?
            }
        };
        Ok((id, stored.place, stored.bytes))
    }
}
