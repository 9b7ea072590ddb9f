//! The old images of what has changed in a leaf, where a store answers late: read together, before the first is needed.

use super::leaf::LeafCopy;
use crate::backup::BackupError;
use crate::codec::Way;
use crate::repo::pack::{Held, Place};
use crate::repo::structure::{ChunkRef, Extent, LEAF};
use crate::units::{ChunkId, Class, Explain, ShortId};

/// The bytes of an extent, and their id; none of zeros.
pub(super) struct Piece {
    pub bytes: Vec<u8>,
    pub id: Option<ChunkId>,
}

impl LeafCopy<'_, '_> {
    /// So many extents are in memory at once, and as many old ones.
    pub(super) fn at_once(&self) -> usize {
        if self.shared.copy.packs.pace().reads > 1 { LEAF } else { 1 }
    }

    /// Fetches what these extents, which come next, will be patched against. What can't be had is asked for by itself once
    /// more, when its turn comes, and then told.
    pub(super) fn fetch_old(&mut self, pieces: &[Piece], before: &[Extent]) -> Result<(), BackupError> {
        self.held = Held::new();
        let copy = self.shared.copy;
        if copy.packs.pace().reads <= 1 {
            return Ok(());
        }
        let first = self.extents.len();
        let known = |at: usize| match before.get(first + at) {
            Some(Extent::Chunk(chunk)) => Some(*chunk),
            _ => None,
        };
        copy.packs.tables_ahead((0..pieces.len()).filter_map(|at| Some(known(at)?.place.pack)));
        let Some(opening) = copy.opening else { return Ok(()) };
        let mut wanted = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            let (Some(id), Some(chunk)) = (&piece.id, known(at)) else { continue };
            if chunk.id == id.short() && chunk.len as usize == piece.bytes.len() {
                continue;
            }
            wanted.extend(self.old_of(first + at, &chunk)?);
        }
        // With one there is nothing to do together.
        if wanted.len() > 1 {
            self.held = match copy.packs.hold(opening, &wanted) {
                Err(e) if matches!(e.class(), Class::Unreachable | Class::Denied) => return Err(e.into()),
                other => other.unwrap_or_default(),
            };
        }
        Ok(())
    }

    /// What the extent with this number will be patched against, if its pages are going to be read.
    fn old_of(&self, number: usize, before: &ChunkRef) -> Result<Option<(ShortId, Place)>, BackupError> {
        let copy = self.shared.copy;
        let Some(parent) = copy.writer.stored_at(before.id, before.place)? else { return Ok(None) };
        let (id, place) = parent.reference.map_or((before.id, before.place), |(reference, _)| (reference.id.short(), reference.place));
        let hashed = self.known.0.get(number).and_then(Option::as_ref).is_some_and(|hashes| hashes.id.short() == id);
        let spared = copy.way == Way::Alone && hashed && copy.writer.trusts(place.pack);
        Ok((!spared).then_some((id, place)))
    }
}
