//! The units of work.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Shared, sparse};
use crate::chunk::FilePlace;
use crate::crypt::ChunkRole;
use crate::repo::RepoError;
use crate::repo::pack::{MAX_PLAIN, Place};
use crate::repo::structure::{Attributes, ChunkRef, Extent, TreeRef};
use crate::restore::RestoreError;
use crate::restore::crc::Crc;
use crate::restore::folders::{Opened, Rights, join};
use crate::units::ShortId;

/// Chunks fetched at once, in plain bytes.
pub(super) const BATCH: u64 = 8 << 20;

/// Takes a chunk: its number among the wanted, and its bytes.
type Each<'e> = dyn FnMut(usize, &[u8]) -> Result<(), RestoreError> + 'e;

/// Something to do.
pub(super) enum Task {
    /// The leaf of a long file.
    Leaf { file: Arc<LongFile>, number: usize, offset: u64, len: u64, tree: TreeRef },
    /// Files of one chunk each, in one folder.
    Singles { folder: Arc<OpenFolder>, files: Vec<(SmallFile, ShortId, Place)> },
    /// All small files of a part.
    Joint { folder: Arc<OpenFolder>, chunks: Arc<[ChunkRef]>, files: Vec<(SmallFile, u16, u32)> },
}

/// A folder in which files are created.
pub(super) struct OpenFolder {
    pub fd: OwnedFd,
    pub path: Vec<u8>,
}

/// A file that is written in one go.
pub(super) struct SmallFile {
    pub name: Vec<u8>,
    pub rights: Rights,
    pub mtime: i64,
    pub len: u64,
}

impl SmallFile {
    pub fn new(attributes: Attributes, len: u64) -> Self {
        let rights = Rights { mode: attributes.mode, uid: attributes.uid, gid: attributes.gid };
        SmallFile { name: attributes.name, rights, mtime: attributes.mtime, len }
    }
}

/// A file that several threads write.
pub(super) struct LongFile {
    file: File,
    /// How much of it was there before; what is behind is a hole.
    before: u64,
    path: Vec<u8>,
    mtime: i64,
    leaves: Mutex<Vec<Crc>>,
    left: AtomicUsize,
}

impl LongFile {
    /// Creates it at its full length, all a hole; or opens the one that is there, and gives it that length.
    pub fn create(shared: &Shared<'_>, folder: &OpenFolder, small: SmallFile, leaves: usize) -> Result<Self, RestoreError> {
        let (Opened { file, before }, path) = small.open(shared, folder)?;
        file.set_len(small.len).map_err(RestoreError::io(format!("making {} long", shared.shown(&path))))?;
        let leaves_done = Mutex::new(vec![Crc::default(); leaves]);
        Ok(LongFile { file, before: before.min(small.len), path, mtime: small.mtime, leaves: leaves_done, left: AtomicUsize::new(leaves) })
    }

    /// The bytes that lie there, if there were so many before.
    fn old(&self, at: u64, len: u32) -> Option<Vec<u8>> {
        if at.saturating_add(len.into()) > self.before {
            return None;
        }
        read_old(&self.file, at, len.into())
    }
}

/// Bytes of a file that was there: what can't be read, or is longer than any chunk, is written anew.
fn read_old(file: &File, at: u64, len: u64) -> Option<Vec<u8>> {
    let len = usize::try_from(len).ok().filter(|_| len <= MAX_PLAIN.into())?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
}

impl SmallFile {
    pub fn open(&self, shared: &Shared<'_>, folder: &OpenFolder) -> Result<(Opened, Vec<u8>), RestoreError> {
        let path = join(&folder.path, &self.name);
        let opened = shared.writing.folders.open_or_create(folder.fd.as_fd(), &self.name, &path, self.rights)?;
        Ok((opened, path))
    }

    /// Creates and writes it; one that holds these bytes already is left as it is.
    fn write(&self, shared: &Shared<'_>, folder: &OpenFolder, bytes: &[u8]) -> Result<(), RestoreError> {
        let (opened, path) = self.open(shared, folder)?;
        if bytes.len() as u64 != self.len {
            return Err(RestoreError::corrupt(&path, format!("it should have {} bytes, and has {}", self.len, bytes.len())));
        }
        let same = opened.before == self.len && read_old(&opened.file, 0, self.len).is_some_and(|old| old == bytes);
        let written = if same { 0 } else { self.fill(shared, &opened, &path, bytes)? };
        shared.advance(self.len, written);
        shared.finished(path, self.mtime, Crc::of(bytes));
        Ok(())
    }

    fn fill(&self, shared: &Shared<'_>, opened: &Opened, path: &[u8], bytes: &[u8]) -> Result<u64, RestoreError> {
        let Opened { file, before } = opened;
        let emptied = if *before > 0 { file.set_len(0) } else { Ok(()) };
        let written = emptied.and_then(|()| file.set_len(self.len)).and_then(|()| sparse::write(file, bytes, 0, 0));
        written.map_err(RestoreError::io(format!("writing {}", shared.shown(path))))
    }

    /// Is it there already, as the chunk of this id? Told by hashing what lies there.
    fn is_there(&self, shared: &Shared<'_>, folder: &OpenFolder, id: ShortId) -> Result<bool, RestoreError> {
        let path = join(&folder.path, &self.name);
        if self.len == 0 || !shared.writing.folders.may_replace(&path) {
            return Ok(false);
        }
        let (Opened { file, before }, path) = self.open(shared, folder)?;
        let Some(old) = (before == self.len).then(|| read_old(&file, 0, self.len)).flatten() else { return Ok(false) };
        if !shared.is_chunk(id, &old) {
            return Ok(false);
        }
        shared.advance(self.len, 0);
        shared.finished(path, self.mtime, Crc::of(&old));
        Ok(true)
    }

    /// Makes it so many zeros: one hole.
    pub fn write_zeros(&self, shared: &Shared<'_>, folder: &OpenFolder) -> Result<(), RestoreError> {
        let (Opened { file, before }, path) = self.open(shared, folder)?;
        let emptied = if before > 0 { file.set_len(0) } else { Ok(()) };
        let long = emptied.and_then(|()| if self.len > 0 { file.set_len(self.len) } else { Ok(()) });
        long.map_err(RestoreError::io(format!("making {} long", shared.shown(&path))))?;
        shared.advance(self.len, 0);
        shared.finished(path, self.mtime, Crc::zeros(self.len));
        Ok(())
    }
}

impl Shared<'_> {
    pub(super) fn shown(&self, path: &[u8]) -> String {
        self.writing.folders.shown(path)
    }

    pub(super) fn one(&self, task: Task) -> Result<(), RestoreError> {
        match task {
            Task::Leaf { file, number, offset, len, tree } => self.leaf(&file, number, offset, len, tree),
            Task::Singles { folder, files } => {
                let files = self.lacking(&folder, files)?;
                let wanted: Vec<_> = files.iter().map(|(_, id, place)| (*id, *place)).collect();
                self.fetch(&wanted, &mut |at, bytes| match files.get(at) {
                    Some((file, _, _)) => file.write(self, &folder, bytes),
                    None => Err(RestoreError::Internal("a chunk that nobody wanted")),
                })
            }
            Task::Joint { folder, chunks, files } => self.joint(&folder, &chunks, &files),
        }
    }

    /// Those of the files that aren't there already.
    fn lacking(
        &self,
        folder: &OpenFolder,
        files: Vec<(SmallFile, ShortId, Place)>,
    ) -> Result<Vec<(SmallFile, ShortId, Place)>, RestoreError> {
        let mut lacking = Vec::with_capacity(files.len());
        for file in files {
            if !file.0.is_there(self, folder, file.1)? {
                lacking.push(file);
            }
        }
        Ok(lacking)
    }

    /// Are these bytes the chunk of this id? The hash is keyed: nobody makes others that pass for it.
    fn is_chunk(&self, id: ShortId, bytes: &[u8]) -> bool {
        self.writing.opening.sealing.chunk_id(ChunkRole::Content, bytes).short() == id
    }

    /// Fetches chunks, each once; the first error of `each` is the result.
    fn fetch(&self, wanted: &[(ShortId, Place)], each: &mut Each<'_>) -> Result<(), RestoreError> {
        let mut failed = None;
        let mut seen = 0;
        let fetched = self.writing.packs.contents(self.writing.opening, wanted, &mut |at, chunk| {
            seen += 1;
            each(at, chunk.bytes()).map_err(|e| {
                failed = Some(e);
                RepoError::internal("a chunk could not be written")
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        fetched?;
        if seen == wanted.len() { Ok(()) } else { Err(RestoreError::Internal("a chunk was wanted and did not come")) }
    }

    fn leaf(&self, file: &LongFile, number: usize, offset: u64, len: u64, tree: TreeRef) -> Result<(), RestoreError> {
        let extents = self.writing.snapshot.leaf(tree)?;
        let sum = extents.iter().fold(0u64, |sum, e| sum.saturating_add(e.len().into()));
        if sum != len {
            return Err(RestoreError::corrupt(&file.path, "a leaf of it has not the length that its tree says"));
        }
        let mut crcs: Vec<Crc> = Vec::with_capacity(extents.len());
        let mut chunks: Vec<(usize, u64, ChunkRef)> = Vec::with_capacity(extents.len());
        let mut at = offset;
        for (index, extent) in extents.iter().enumerate() {
            match extent {
                Extent::Zeros(len) => {
                    let zeroed = sparse::zero(&file.file, at, (*len).into(), file.before);
                    let written = zeroed.map_err(RestoreError::io(format!("writing {}", self.shown(&file.path))))?;
                    self.advance((*len).into(), written);
                    crcs.push(Crc::zeros((*len).into()));
                }
                Extent::Chunk(chunk) => match file.old(at, chunk.len).filter(|old| self.is_chunk(chunk.id, old)) {
                    Some(old) => {
                        self.advance(chunk.len.into(), 0);
                        crcs.push(Crc::of(&old));
                    }
                    None => {
                        chunks.push((index, at, *chunk));
                        crcs.push(Crc::default());
                    }
                },
            }
            at += u64::from(extent.len());
        }
        let mut rest = chunks.as_slice();
        while !rest.is_empty() {
            self.writing.cancel.check()?;
            let (batch, behind) = rest.split_at(batch_of(rest.iter().map(|(_, _, chunk)| chunk.len)));
            self.batch(file, batch, &mut crcs)?;
            rest = behind;
        }
        self.leaf_done(file, number, crcs.into_iter().fold(Crc::default(), Crc::then));
        Ok(())
    }

    fn batch(&self, file: &LongFile, batch: &[(usize, u64, ChunkRef)], crcs: &mut [Crc]) -> Result<(), RestoreError> {
        let wanted: Vec<_> = batch.iter().map(|(_, _, chunk)| (chunk.id, chunk.place)).collect();
        self.fetch(&wanted, &mut |i, bytes| {
            let Some((index, at, chunk)) = batch.get(i) else { return Err(RestoreError::Internal("a chunk that nobody wanted")) };
            if bytes.len() as u64 != u64::from(chunk.len) {
                return Err(RestoreError::corrupt(&file.path, "a chunk of it has not the length that its leaf says"));
            }
            let written = sparse::write(&file.file, bytes, *at, file.before);
            let written = written.map_err(RestoreError::io(format!("writing {}", self.shown(&file.path))))?;
            self.advance(chunk.len.into(), written);
            if let Some(crc) = crcs.get_mut(*index) {
                *crc = Crc::of(bytes);
            }
            Ok(())
        })
    }

    fn leaf_done(&self, file: &LongFile, number: usize, crc: Crc) {
        if let Some(slot) = file.leaves.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number) {
            *slot = crc;
        }
        if file.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let leaves = std::mem::take(&mut *file.leaves.lock().unwrap_or_else(PoisonError::into_inner));
            self.finished(file.path.clone(), file.mtime, leaves.into_iter().fold(Crc::default(), Crc::then));
        }
    }

    /// Small files that lie together: each chunk is decoded once, and let go before the next.
    fn joint(&self, folder: &OpenFolder, chunks: &[ChunkRef], files: &[(SmallFile, u16, u32)]) -> Result<(), RestoreError> {
        for (number, chunk) in chunks.iter().enumerate() {
            let here = || files.iter().filter(|(_, chunk, _)| usize::from(*chunk) == number);
            if here().next().is_none() {
                continue;
            }
            self.writing.cancel.check()?;
            self.fetch(&[(chunk.id, chunk.place)], &mut |_, bytes| {
                for (file, _, offset) in here() {
                    let bytes = slice_of(bytes, *offset, file.len)
                        .ok_or_else(|| RestoreError::corrupt(&join(&folder.path, &file.name), "it lies outside the chunk that holds it"))?;
                    file.write(self, folder, bytes)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// A small file's bytes in its chunk.
pub(super) fn slice_of(chunk: &[u8], offset: u32, len: u64) -> Option<&[u8]> {
    FilePlace { chunk: 0, offset, len: u32::try_from(len).ok()? }.of(chunk)
}

/// How many of these chunks are fetched at once: at least one.
pub(super) fn batch_of(lengths: impl Iterator<Item = u32>) -> usize {
    let mut sum = 0u64;
    lengths
        .take_while(|len| {
            let first = sum == 0;
            sum = sum.saturating_add((*len).into());
            first || sum <= BATCH
        })
        .count()
        .max(1)
}
