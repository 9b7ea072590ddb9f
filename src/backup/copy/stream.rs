//! Files that are cut by content: FastCDC.

use std::io::{self, Read};
use std::sync::PoisonError;

use super::Shared;
use super::work::FileWork;
use crate::backup::BackupError;
use crate::backup::source::SourceFile;
use crate::chunk::{Cdc, CdcSizes, is_zero};
use crate::codec;
use crate::crypt::ChunkRole;
use crate::repo::structure::{ChunkRef, Extent, FileEntry, LEAF, Leaf, Needs, file_of_extents, file_of_leaves, put_leaf};
use crate::repo::write::NewChunk;

/// Reads a file up to the size that it had when it was found.
struct UpTo<'f> {
    file: &'f dyn SourceFile,
    offset: u64,
    end: u64,
}

impl Read for UpTo<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = (self.end - self.offset).min(buffer.len() as u64) as usize;
        let got = self.file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), self.offset)?;
        self.file.done_with(self.offset, got as u64);
        self.offset += got as u64;
        if got < wanted {
            self.end = self.offset;
        }
        Ok(got)
    }
}

/// Copies a whole file.
pub(super) fn copy(shared: &Shared<'_>, work: &FileWork) -> Result<(), BackupError> {
    let copy = shared.copy;
    let Some(file) = work.open(copy)? else { return Ok(()) };
    let reader = UpTo { file, offset: 0, end: work.job.attributes.size };
    let (mut extents, mut needs, mut leaves) = (Vec::new(), Needs::default(), Vec::<Leaf>::new());
    let (mut len, mut level) = (0, None::<i32>);
    let mut chunks = Cdc::new(reader, CdcSizes::DEFAULT);
    while let Some((_, chunk)) = chunks.next_chunk().map_err(|e| work.error(e))? {
        copy.cancel.check().map_err(BackupError::Cancelled)?;
        shared.has_read(chunk.len() as u64);
        len += chunk.len() as u64;
        if extents.len() == LEAF {
            leaves.push(put_leaf(copy.writer, std::mem::take(&mut extents), std::mem::take(&mut needs))?);
        }
        if is_zero(chunk) {
            extents.push(Extent::Zeros(chunk.len() as u32));
            continue;
        }
        let id = copy.writer.sealing().chunk_id(ChunkRole::Content, chunk);
        let stored = match copy.writer.find(ChunkRole::Content, &id)? {
            Some(stored) => stored,
            None => {
                let level = match level {
                    Some(level) => level,
                    None => *level.insert(codec::choose_level(chunk)?),
                };
                let frame = codec::encode_whole(chunk, level)?;
                copy.writer.put(ChunkRole::Content, NewChunk { id, plain: chunk, frame, reference: None })?
            }
        };
        stored.add_to(&mut needs);
        extents.push(Extent::Chunk(ChunkRef { id: id.short(), place: stored.place, len: chunk.len() as u32 }));
    }
    let data = if leaves.is_empty() {
        file_of_extents(copy.writer, extents, needs)?
    } else {
        leaves.push(put_leaf(copy.writer, extents, needs)?);
        file_of_leaves(copy.writer, leaves)?
    };
    *work.data.lock().unwrap_or_else(PoisonError::into_inner) = Some(FileEntry { len, data });
    Ok(())
}
