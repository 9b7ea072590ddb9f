//! The units of work: tasks become pieces, a chunk each with the place where its bytes go, and all pieces of several tasks
//! are fetched together.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::{BATCH, Shared, sparse};
use crate::chunk::FilePlace;
use crate::crypt::ChunkRole;
use crate::repo::RepoError;
use crate::repo::pack::{MAX_PLAIN, Place};
use crate::repo::structure::{Attributes, ChunkRef, Extent, TreeRef};
use crate::restore::RestoreError;
use crate::restore::crc::Crc;
use crate::restore::folders::{Opened, Rights, join};
use crate::units::ShortId;

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

impl Task {
    /// Bytes of its files, about.
    pub fn bytes(&self) -> u64 {
        let sum = |lengths: &mut dyn Iterator<Item = u64>| lengths.fold(0, u64::saturating_add);
        match self {
            Task::Leaf { len, .. } => *len,
            Task::Singles { files, .. } => sum(&mut files.iter().map(|(file, _, _)| file.len)),
            Task::Joint { chunks, .. } => sum(&mut chunks.iter().map(|chunk| chunk.len.into())),
        }
    }
}

/// A chunk that is fetched.
struct Piece {
    id: ShortId,
    place: Place,
    /// Its plain length, as its file or leaf says.
    len: u64,
    goes: Goes,
}

/// Where a chunk's bytes go.
enum Goes {
    /// Into a long file: the number of its leaf in the work, that of the extent in the leaf, the offset in the file.
    Extent(usize, usize, u64),
    /// They are a file.
    Single(Arc<OpenFolder>, SmallFile),
    /// Files lie in it, from these offsets on.
    Joint(Arc<OpenFolder>, Vec<(SmallFile, u32)>),
}

/// A leaf under work.
struct LeafWork {
    file: Arc<LongFile>,
    number: usize,
    offset: u64,
    len: u64,
    /// Bytes that were really written.
    written: u64,
    /// Checksums of its extents, from the one with this number to before that one.
    crcs: Vec<(usize, usize, Crc)>,
}

impl LeafWork {
    /// Extents come in nearly their order: most stretches only grow.
    fn add(&mut self, index: usize, bytes: &[u8]) {
        match self.crcs.last_mut() {
            Some((_, end, crc)) if *end == index => {
                *end = index + 1;
                *crc = crc.and(bytes);
            }
            _ => self.crcs.push((index, index + 1, Crc::of(bytes))),
        }
    }

    fn crc(mut self) -> Crc {
        self.crcs.sort_unstable_by_key(|(first, _, _)| *first);
        self.crcs.into_iter().fold(Crc::default(), |sum, (_, _, crc)| sum.then(crc))
    }
}

/// What several tasks need.
#[derive(Default)]
struct Work {
    leaves: Vec<LeafWork>,
    pieces: Vec<Piece>,
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

    /// Has the kernel begin to write this stretch to the disk, and waits for nothing: else all of it would be written at the
    /// end, while nothing else is done. What that does besides is to forget what is on the disk already. It is no more than
    /// advice; how it went is learned by the sync at the end.
    fn begin_writing(&self, offset: u64, len: u64) {
        if let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) {
            let _ = posix_fadvise(&self.file, offset, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
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

    /// Does these tasks: what they need is fetched together.
    pub(super) fn all(&self, tasks: Vec<Task>) -> Result<(), RestoreError> {
        self.writing.packs.nodes_ahead(tasks.iter().filter_map(|task| match task {
            Task::Leaf { tree, .. } => Some(tree.place),
            _ => None,
        }));
        let mut work = Work::default();
        for task in tasks {
            match task {
                Task::Leaf { file, number, offset, len, tree } => self.add_leaf(&mut work, file, number, offset, len, tree)?,
                Task::Singles { folder, files } => {
                    let singles = self.lacking(&folder, files)?.into_iter().map(|(file, id, place)| {
                        let len = file.len;
                        Piece { id, place, len, goes: Goes::Single(Arc::clone(&folder), file) }
                    });
                    work.pieces.extend(singles);
                }
                Task::Joint { folder, chunks, files } => work.pieces.extend(joint_pieces(&folder, &chunks, files)),
            }
        }
        let Work { mut leaves, pieces } = work;
        let mut rest = pieces.as_slice();
        while !rest.is_empty() {
            self.writing.cancel.check()?;
            let (batch, behind) = rest.split_at(batch_of(rest.iter().map(|piece| piece.len), self.size.batch.max(BATCH)));
            let wanted: Vec<_> = batch.iter().map(|piece| (piece.id, piece.place)).collect();
            self.fetch(&wanted, &mut |at, bytes| match batch.get(at) {
                Some(piece) => self.put(piece, bytes, &mut leaves),
                None => Err(RestoreError::Internal("a chunk that nobody wanted")),
            })?;
            rest = behind;
        }
        leaves.into_iter().for_each(|leaf| self.leaf_done(leaf));
        Ok(())
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

    /// What is lacking of a leaf. Zeros are written here, and what is there already is left as it is.
    fn add_leaf(
        &self,
        work: &mut Work,
        file: Arc<LongFile>,
        number: usize,
        offset: u64,
        len: u64,
        tree: TreeRef,
    ) -> Result<(), RestoreError> {
        let extents = self.writing.snapshot.leaf(tree)?;
        let sum = extents.iter().fold(0u64, |sum, e| sum.saturating_add(e.len().into()));
        if sum != len {
            return Err(RestoreError::corrupt(&file.path, "a leaf of it has not the length that its tree says"));
        }
        let mut crcs = Vec::new();
        let mut at = offset;
        for (index, extent) in extents.iter().enumerate() {
            let there = match extent {
                Extent::Zeros(len) => {
                    let zeroed = sparse::zero(&file.file, at, (*len).into(), file.before);
                    let written = zeroed.map_err(RestoreError::io(format!("writing {}", self.shown(&file.path))))?;
                    self.advance((*len).into(), written);
                    Some(Crc::zeros((*len).into()))
                }
                Extent::Chunk(chunk) => file.old(at, chunk.len).filter(|old| self.is_chunk(chunk.id, old)).map(|old| {
                    self.advance(chunk.len.into(), 0);
                    Crc::of(&old)
                }),
            };
            match (there, extent) {
                (Some(crc), _) => crcs.push((index, index + 1, crc)),
                (None, Extent::Chunk(chunk)) => {
                    let goes = Goes::Extent(work.leaves.len(), index, at);
                    work.pieces.push(Piece { id: chunk.id, place: chunk.place, len: chunk.len.into(), goes });
                }
                (None, Extent::Zeros(_)) => {}
            }
            at += u64::from(extent.len());
        }
        work.leaves.push(LeafWork { file, number, offset, len, written: 0, crcs });
        Ok(())
    }

    /// Writes a chunk where it goes.
    fn put(&self, piece: &Piece, bytes: &[u8], leaves: &mut [LeafWork]) -> Result<(), RestoreError> {
        match &piece.goes {
            Goes::Extent(leaf, index, at) => {
                let leaf = leaves.get_mut(*leaf).ok_or(RestoreError::Internal("a chunk of a leaf that nobody has"))?;
                let file = &leaf.file;
                if bytes.len() as u64 != piece.len {
                    return Err(RestoreError::corrupt(&file.path, "a chunk of it has not the length that its leaf says"));
                }
                let written = sparse::write(&file.file, bytes, *at, file.before);
                let written = written.map_err(RestoreError::io(format!("writing {}", self.shown(&file.path))))?;
                self.advance(piece.len, written);
                leaf.written = leaf.written.saturating_add(written);
                leaf.add(*index, bytes);
                Ok(())
            }
            Goes::Single(folder, file) => file.write(self, folder, bytes),
            Goes::Joint(folder, files) => files.iter().try_for_each(|(file, offset)| {
                let bytes = slice_of(bytes, *offset, file.len)
                    .ok_or_else(|| RestoreError::corrupt(&join(&folder.path, &file.name), "it lies outside the chunk that holds it"))?;
                file.write(self, folder, bytes)
            }),
        }
    }

    fn leaf_done(&self, leaf: LeafWork) {
        let (file, number) = (Arc::clone(&leaf.file), leaf.number);
        if leaf.written > 0 {
            file.begin_writing(leaf.offset, leaf.len);
        }
        let crc = leaf.crc();
        if let Some(slot) = file.leaves.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number) {
            *slot = crc;
        }
        if file.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let leaves = std::mem::take(&mut *file.leaves.lock().unwrap_or_else(PoisonError::into_inner));
            self.finished(file.path.clone(), file.mtime, leaves.into_iter().fold(Crc::default(), Crc::then));
        }
    }
}

/// The chunks in which small files lie together; one in which none lies is left out.
fn joint_pieces(folder: &Arc<OpenFolder>, chunks: &[ChunkRef], files: Vec<(SmallFile, u16, u32)>) -> Vec<Piece> {
    let mut in_chunk: BTreeMap<u16, Vec<(SmallFile, u32)>> = BTreeMap::new();
    for (file, chunk, offset) in files {
        in_chunk.entry(chunk).or_default().push((file, offset));
    }
    let piece = |(number, files): (u16, Vec<(SmallFile, u32)>)| {
        let chunk = chunks.get(usize::from(number))?;
        let goes = Goes::Joint(Arc::clone(folder), files);
        Some(Piece { id: chunk.id, place: chunk.place, len: chunk.len.into(), goes })
    };
    in_chunk.into_iter().filter_map(piece).collect()
}

/// A small file's bytes in its chunk.
pub(super) fn slice_of(chunk: &[u8], offset: u32, len: u64) -> Option<&[u8]> {
    FilePlace { chunk: 0, offset, len: u32::try_from(len).ok()? }.of(chunk)
}

/// How many chunks of these lengths are fetched together, of at most so many bytes: at least one.
pub(super) fn batch_of(lengths: impl Iterator<Item = u64>, most: u64) -> usize {
    let mut sum = 0u64;
    lengths
        .take_while(|len| {
            let first = sum == 0;
            sum = sum.saturating_add(*len);
            first || sum <= most
        })
        .count()
        .max(1)
}
