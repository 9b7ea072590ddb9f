//! Files that are cut by content: FastCDC.

use std::io::{self, Read};
use std::sync::PoisonError;

use super::work::FileWork;
use super::{Shared, pages};
use crate::backup::BackupError;
use crate::backup::source::SourceFile;
use crate::chunk::{Cdc, CdcSizes, is_zero};
use crate::codec;
use crate::crypt::ChunkRole;
use crate::repo::structure::{ChunkRef, Extent, FileEntry, LEAF, Leaf, Needs, file_of_extents, file_of_leaves, put_leaf};
use crate::repo::write::NewChunk;

/// Reads a file up to the size that it had when it was found, a stretch of whole pages at a time, judged on the way.
struct UpTo<'s, 'a> {
    shared: &'s Shared<'a>,
    work: &'s FileWork,
    file: &'s dyn SourceFile,
    offset: u64,
    end: u64,
    stretch: Vec<u8>,
    at: usize,
}

/// Bytes that are read at once: whole pages of any size.
const STRETCH: u64 = 256 << 10;

impl UpTo<'_, '_> {
    fn next_stretch(&mut self) -> Result<(), BackupError> {
        let wanted = (self.end - self.offset).min(STRETCH) as usize;
        self.stretch.resize(wanted, 0);
        self.at = 0;
        let got = self.file.read_at(&mut self.stretch, self.offset).map_err(|e| self.work.error(e))?;
        self.stretch.truncate(got);
        if let Some(how) = &self.work.job.pages {
            pages::check(self.shared, self.work, self.file, how, self.offset, &mut self.stretch)?;
        }
        self.file.done_with(self.offset, got as u64);
        self.offset += got as u64;
        if got < wanted {
            self.end = self.offset;
        }
        Ok(())
    }
}

impl Read for UpTo<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.stretch.len() && self.offset < self.end {
            self.next_stretch().map_err(io::Error::other)?;
        }
        let rest = self.stretch.get(self.at..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        self.at += len;
        Ok(len)
    }
}

/// Copies a whole file.
pub(super) fn copy(shared: &Shared<'_>, work: &FileWork) -> Result<(), BackupError> {
    let copy = shared.copy;
    let Some(file) = work.open(copy)? else { return Ok(()) };
    let (end, stretch) = (work.job.attributes.size, Vec::new());
    let reader = UpTo { shared, work, file: file.as_ref(), offset: 0, end, stretch, at: 0 };
    let (mut extents, mut needs, mut leaves) = (Vec::new(), Needs::default(), Vec::<Leaf>::new());
    let (mut len, mut level) = (0, None::<i32>);
    let mut chunks = Cdc::new(reader, CdcSizes::DEFAULT);
    while let Some((_, chunk)) = chunks.next_chunk().map_err(|e| e.downcast().unwrap_or_else(|e| work.error(e)))? {
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
    work.leaf_is_done();
    *work.data.lock().unwrap_or_else(PoisonError::into_inner) = Some(FileEntry { len, data });
    Ok(())
}
