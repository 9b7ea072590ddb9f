//! Extents of relation forks.

use std::sync::PoisonError;

use super::old::Piece;
use super::work::{FileWork, LeafResult, unless_damaged};
use super::{Shared, pages};
use crate::backup::BackupError;
use crate::chunk::{EXTENT, is_zero};
use crate::codec::{self, Patching, Way};
use crate::crypt::ChunkRole;
use crate::host::cache::kept::{ExtentHashes, LeafHashes};
use crate::repo::pack::{Held, Reference};
use crate::repo::structure::{ChunkRef, Extent, FileData, LEAF, Needs, put_leaf, read_leaf};
use crate::repo::write::{NewChunk, NewPages, Quiet, Stored};
use crate::units::{ChunkId, Class, Explain};

/// Copies one leaf of a file.
pub(super) fn copy(shared: &Shared<'_>, work: &FileWork, leaf: usize) -> Result<(), BackupError> {
    let copy = shared.copy;
    let Some(file) = work.open(copy)? else {
        set(work, leaf, LeafResult::Only(Vec::new(), Needs::default()));
        work.leaf_is_done();
        return Ok(());
    };
    let start = leaf as u64 * LEAF as u64 * EXTENT as u64;
    let end = (start + LEAF as u64 * EXTENT as u64).min(work.job.attributes.size);
    let before = before(shared, work, leaf)?;
    let known = copy.kept.map(|kept| kept.leaf(&work.job.shown, leaf)).unwrap_or_default();
    let hashes = LeafHashes::default();
    let (needs, extents, held) = (Needs::default(), Vec::new(), Held::new());
    let mut out = LeafCopy { shared, work, level: None, needs, extents, known, hashes, read: None, held };
    let mut offset = start;
    let mut ended = false;
    while offset < end && !ended {
        let mut pieces = Vec::new();
        while offset < end && !ended && pieces.len() < out.at_once() {
            copy.cancel.check().map_err(BackupError::Cancelled)?;
            let wanted = (end - offset).min(EXTENT as u64) as usize;
            let mut bytes = vec![0; wanted];
            let got = file.read_at(&mut bytes, offset).map_err(|e| work.error(e))?;
            bytes.truncate(got);
            if let Some(how) = &work.job.pages {
                pages::check(shared, work, file.as_ref(), how, offset, &mut bytes)?;
            }
            file.done_with(offset, got as u64);
            shared.has_read(got as u64);
            if !bytes.is_empty() {
                let id = (!is_zero(&bytes)).then(|| copy.writer.sealing().chunk_id(ChunkRole::Content, &bytes));
                pieces.push(Piece { bytes, id });
            }
            ended = got < wanted;
            offset += wanted as u64;
        }
        out.fetch_old(&pieces, &before)?;
        for piece in &pieces {
            copy.cancel.check().map_err(BackupError::Cancelled)?;
            out.extent(piece, before.get(out.extents.len()))?;
        }
    }
    let LeafCopy { extents, needs, hashes, .. } = out;
    if let Some(kept) = copy.kept {
        kept.keep_leaf(&work.job.shown, leaf, &hashes);
    }
    let result =
        if work.leaf_count() == 1 { LeafResult::Only(extents, needs) } else { LeafResult::Stored(put_leaf(copy.writer, extents, needs)?) };
    set(work, leaf, result);
    work.leaf_is_done();
    Ok(())
}

fn set(work: &FileWork, leaf: usize, result: LeafResult) {
    if let Some(slot) = work.leaves.lock().unwrap_or_else(PoisonError::into_inner).get_mut(leaf) {
        *slot = Some(result);
    }
}

/// What the parent has for this leaf.
fn before(shared: &Shared<'_>, work: &FileWork, leaf: usize) -> Result<Vec<Extent>, BackupError> {
    let Some(before) = &work.before else { return Ok(Vec::new()) };
    match &before.entry.data {
        FileData::Single { id, place, .. } if leaf == 0 => {
            Ok(vec![Extent::Chunk(ChunkRef { id: *id, place: *place, len: before.entry.len.min(EXTENT as u64) as u32 })])
        }
        FileData::Tree { .. } => match work.before_leaves(shared.copy)?.get(leaf) {
            // A tree that was cut by content has other boundaries: its extents are no help.
            Some((_, tree)) => Ok(unless_damaged(read_leaf(shared.copy.packs, *tree))?),
            None => Ok(Vec::new()),
        },
        _ => Ok(Vec::new()),
    }
}

/// A leaf that is being copied.
pub(super) struct LeafCopy<'s, 'a> {
    pub shared: &'s Shared<'a>,
    work: &'s FileWork,
    level: Option<i32>,
    needs: Needs,
    pub extents: Vec<Extent>,
    /// Where this host can't read: what the parent's extents may be patched against, and what these may be.
    pub known: LeafHashes,
    hashes: LeafHashes,
    /// Hashes of a reference that was read.
    read: Option<ExtentHashes>,
    /// References that were read together.
    pub held: Held,
}

impl LeafCopy<'_, '_> {
    fn extent(&mut self, Piece { bytes, id }: &Piece, before: Option<&Extent>) -> Result<(), BackupError> {
        let Some(id) = *id else {
            self.extents.push(Extent::Zeros(bytes.len() as u32));
            self.hashes.0.push(None);
            return Ok(());
        };
        let stored = self.store(&id, bytes, before)?;
        stored.add_to(&mut self.needs);
        let hashes = self.hashes_of(&id, bytes, &stored);
        self.hashes.0.push(hashes);
        self.extents.push(Extent::Chunk(ChunkRef { id: id.short(), place: stored.place, len: bytes.len() as u32 }));
        Ok(())
    }

    fn store(&mut self, id: &ChunkId, bytes: &[u8], before: Option<&Extent>) -> Result<Stored, BackupError> {
        let copy = self.shared.copy;
        let before = match before {
            Some(Extent::Chunk(chunk)) => Some(*chunk),
            _ => None,
        };
        if let Some(chunk) = before.filter(|c| c.id == id.short() && c.len as usize == bytes.len())
            && let Some(stored) = copy.writer.stored_at(chunk.id, chunk.place)?
        {
            return Ok(stored);
        }
        if let Some(stored) = copy.writer.find(ChunkRole::Content, id)? {
            return Ok(stored);
        }
        let quiet = before.map_or(Quiet::New, |chunk| (copy.quiet)(chunk.place.pack));
        if let Some(chunk) = before
            && let Some(stored) = self.patch(id, bytes, &chunk, quiet)?
        {
            return Ok(stored);
        }
        let level = match self.level {
            Some(level) => level,
            None => *self.level.insert(codec::choose_level(bytes)?),
        };
        let frame = codec::encode_whole(bytes, level)?;
        Ok(copy.writer.put_quiet(ChunkRole::Content, NewChunk { id: *id, plain: bytes, frame, reference: None }, quiet)?)
    }

    /// Stores the extent as a patch of the whole chunk behind the parent's extent, if that is small enough and may be
    /// relied on.
    fn patch(&mut self, id: &ChunkId, bytes: &[u8], before: &ChunkRef, quiet: Quiet) -> Result<Option<Stored>, BackupError> {
        let copy = self.shared.copy;
        let Some(parent) = copy.writer.stored_at(before.id, before.place)? else { return Ok(None) };
        let (place, sealed) = match parent.reference {
            Some((reference, len)) => (reference.place, len),
            None => (before.place, parent.bytes),
        };
        let table = copy.packs.table(place.pack)?;
        let Some((row, whole, _)) = table.find(place).filter(|(row, _, _)| row.references.is_empty()) else { return Ok(None) };
        debug_assert_eq!(row.role, ChunkRole::Content);
        let reference = (Reference { id: whole, place }, sealed);
        // Where nothing is known of the old pages they are read, this once.
        let spares = copy.way == Way::Alone && self.known_hashes(&whole).is_some() && copy.writer.trusts(place.pack);
        let Some(opening) = copy.opening.filter(|_| !spares) else { return self.patch_blind(id, bytes, reference, quiet) };
        let held = self.held.get(&place).filter(|chunk| chunk.id() == whole).cloned();
        let old = match held.map_or_else(|| copy.packs.content(opening, whole.short(), place), Ok) {
            Ok(chunk) => chunk,
            // Of others each would be waited for as long, and what is stored then is not stored either.
            Err(e) if matches!(e.class(), Class::Unreachable | Class::Denied) => return Err(e.into()),
            Err(e) => {
                copy.progress.warn(&format!("{}: the old pages can't be read, storing the extent whole: {e}", self.work.job.shown));
                return Ok(None);
            }
        };
        self.read = copy.kept.and_then(|kept| kept.hash(&whole, old.bytes()));
        let how = Patching { page_size: copy.page_size as usize, way: Way::AgainstOld, level: codec::DENSE, whole_len: sealed as usize };
        let Some(frame) = codec::encode_patch(bytes, old.bytes(), how)? else { return Ok(None) };
        let reference = Some((reference.0, sealed, old.bytes()));
        Ok(Some(copy.writer.put_quiet(ChunkRole::Content, NewChunk { id: *id, plain: bytes, frame, reference }, quiet)?))
    }

    /// The same where this host can't read the old pages: by their hashes it knows which have changed, and stores these alone.
    /// It can't look into the reference either, so that must be of an uploader that is trusted.
    fn patch_blind(&self, id: &ChunkId, bytes: &[u8], reference: (Reference, u32), quiet: Quiet) -> Result<Option<Stored>, BackupError> {
        let copy = self.shared.copy;
        let Some(before) = self.known_hashes(&reference.0.id) else { return Ok(None) };
        let Some(kept) = copy.kept.filter(|_| copy.writer.trusts(reference.0.place.pack)) else { return Ok(None) };
        let pages = kept.changed(bytes, before);
        let page_size = copy.page_size as usize;
        let how = Patching { page_size, way: Way::Alone, level: codec::DENSE, whole_len: reference.1 as usize };
        let Some(frame) = codec::encode_pages(bytes, &pages, how)? else { return Ok(None) };
        let patch = NewPages { id: *id, plain: bytes, frame, reference, pages: &pages, page_size };
        Ok(Some(copy.writer.put_pages(patch, quiet)?))
    }

    /// The hashes of the parent's extent that is next, if they are of this chunk.
    fn known_hashes(&self, reference: &ChunkId) -> Option<&ExtentHashes> {
        self.known.0.get(self.extents.len())?.as_ref().filter(|hashes| hashes.id == *reference)
    }

    /// What this extent may be patched against next time: itself if it is stored whole, else what it is a patch of.
    fn hashes_of(&mut self, id: &ChunkId, bytes: &[u8], stored: &Stored) -> Option<ExtentHashes> {
        let kept = self.shared.copy.kept?;
        let read = self.read.take();
        match stored.reference {
            None => kept.hash(id, bytes),
            Some((reference, _)) => read.filter(|hashes| hashes.id == reference.id).or_else(|| self.known_hashes(&reference.id).cloned()),
        }
    }
}
