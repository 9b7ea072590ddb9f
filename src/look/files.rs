//! `ls` and `cat`: what files a snapshot has, and the bytes of one.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::LookError;
use super::tree::{Found, Tree, join, parent_of};
use crate::crypt::Opening;
use crate::repo::RepoError;
use crate::repo::pack::{Packs, Place, VerifiedChunk};
use crate::repo::structure::{Extent, FileData, Snapshot, StoredFile};
use crate::units::{Cancel, ShortId, Timestamp};

/// Chunks fetched at once, in plain bytes.
const BATCH: u64 = 8 << 20;
/// Zeros are handed out so many at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A file.
    File,
    /// A folder.
    Folder,
}

/// A file or folder of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Below the data directory.
    pub path: Vec<u8>,
    /// File or folder.
    pub kind: EntryKind,
    /// A file's length; what lies in a folder and below it, without folders of its own.
    pub size: u64,
    /// When it was last written to, where that is known.
    pub mtime: Option<Timestamp>,
    /// Which relation it belongs to, where that is known.
    pub relation: Option<String>,
}

/// Where entries go; to break ends the listing.
pub type Entries<'f> = dyn FnMut(Entry) -> ControlFlow<()> + 'f;

/// What lies at a path: a file itself, what is in a folder, or all below it; sorted by name, folders before what is in
/// them.
///
/// # Errors
/// If there is no such path, or it can't be read.
pub fn list(tree: &Tree<'_>, path: &[u8], recursive: bool, cancel: &Cancel, each: &mut Entries<'_>) -> Result<(), LookError> {
    match tree.find(path)? {
        Found::Folder => _ = folder(tree, path, recursive, cancel, each)?,
        Found::File(file) => _ = each(file_entry(tree, path.to_vec(), &file)),
        Found::Kept(bytes) => _ = each(kept_entry(path.to_vec(), &bytes)),
    }
    Ok(())
}

fn folder(tree: &Tree<'_>, path: &[u8], recursive: bool, cancel: &Cancel, each: &mut Entries<'_>) -> Result<ControlFlow<()>, LookError> {
    cancel.check().map_err(RepoError::from)?;
    let mut entries: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    for file in tree.files_in(path)? {
        let inner = join(path, &file.attributes.name);
        entries.insert(inner.clone(), file_entry(tree, inner, &file));
    }
    for (kept, bytes) in tree.kept().iter().filter(|(kept, _)| parent_of(kept) == path) {
        entries.insert(kept.clone(), kept_entry(kept.clone(), bytes));
    }
    for inner in tree.folders_in(path) {
        let size = tree.children(inner).iter().map(|child| child.bytes).fold(0, u64::saturating_add);
        let entry = Entry { path: inner.to_vec(), kind: EntryKind::Folder, size, mtime: None, relation: None };
        entries.insert(inner.to_vec(), entry);
    }
    for entry in entries.into_values() {
        let below = (recursive && entry.kind == EntryKind::Folder).then(|| entry.path.clone());
        if each(entry).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if let Some(below) = below
            && folder(tree, &below, recursive, cancel, each)?.is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn file_entry(tree: &Tree<'_>, path: Vec<u8>, file: &StoredFile) -> Entry {
    let relation = tree.relation(&path);
    Entry { path, kind: EntryKind::File, size: file.entry.len, mtime: Some(Timestamp(file.attributes.mtime.div_euclid(1000))), relation }
}

fn kept_entry(path: Vec<u8>, bytes: &[u8]) -> Entry {
    Entry { path, kind: EntryKind::File, size: bytes.len() as u64, mtime: None, relation: None }
}

/// Where the bytes of a file go; to break ends it.
pub type Bytes<'f> = dyn FnMut(&[u8]) -> ControlFlow<()> + 'f;

/// The bytes of the file at a path, in order, each chunk verified before it is handed out.
///
/// # Errors
/// If there is no such file, it is a folder, or it can't be read. What was handed out until then was right.
pub fn cat(tree: &Tree<'_>, packs: &Packs, opening: &Opening, path: &[u8], cancel: &Cancel, out: &mut Bytes<'_>) -> Result<(), LookError> {
    let file = match tree.find(path)? {
        Found::Folder => return Err(LookError::IsFolder { path: super::show_path(path) }),
        Found::Kept(bytes) => {
            _ = out(&bytes);
            return Ok(());
        }
        Found::File(file) => file,
    };
    let wrong = |why: &str| RepoError::Corrupt { object: super::show_path(path), why: why.into() };
    let mut stream = Stream { packs, opening, cancel, out, left: file.entry.len, waiting: Vec::new(), bytes: 0 };
    match &file.entry.data {
        FileData::Empty | FileData::Folder => {}
        FileData::Zeros => _ = stream.zeros(file.entry.len)?,
        FileData::Single { id, place, .. } => _ = stream.chunk(*id, *place, file.entry.len)?,
        FileData::Joint { chunk, offset } => {
            let chunk = file.joint.get(usize::from(*chunk)).ok_or_else(|| wrong("it lies in a chunk that the part hasn't"))?;
            let bytes = packs.content(opening, chunk.id, chunk.place)?;
            let slice = slice(bytes.bytes(), *offset, file.entry.len).ok_or_else(|| wrong("it lies outside the chunk that holds it"))?;
            _ = stream.put(slice);
        }
        FileData::Tree { .. } => extents(tree.snapshot, &file, &mut stream)?,
    }
    let ended = stream.flush()?;
    if ended.is_continue() && stream.left != 0 {
        return Err(wrong("it has not the length that its entry says").into());
    }
    Ok(())
}

fn extents(snapshot: &Snapshot<'_>, file: &StoredFile, stream: &mut Stream<'_, '_>) -> Result<(), LookError> {
    for (_, leaf) in snapshot.leaves(&file.entry)? {
        for extent in snapshot.leaf(leaf)? {
            let flow = match extent {
                Extent::Zeros(len) => stream.zeros(len.into())?,
                Extent::Chunk(chunk) => stream.chunk(chunk.id, chunk.place, chunk.len.into())?,
            };
            if flow.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A small file's bytes in its chunk.
pub(super) fn slice(chunk: &[u8], offset: u32, len: u64) -> Option<&[u8]> {
    let start = offset as usize;
    chunk.get(start..start.checked_add(usize::try_from(len).ok()?)?)
}

/// A file on its way out.
struct Stream<'a, 'f> {
    packs: &'a Packs,
    opening: &'a Opening,
    cancel: &'a Cancel,
    out: &'a mut Bytes<'f>,
    left: u64,
    waiting: Vec<(ShortId, Place)>,
    bytes: u64,
}

impl Stream<'_, '_> {
    fn chunk(&mut self, id: ShortId, place: Place, len: u64) -> Result<ControlFlow<()>, RepoError> {
        if self.bytes > 0 && self.bytes.saturating_add(len) > BATCH && self.flush()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.waiting.push((id, place));
        self.bytes = self.bytes.saturating_add(len);
        Ok(ControlFlow::Continue(()))
    }

    fn zeros(&mut self, len: u64) -> Result<ControlFlow<()>, RepoError> {
        if self.flush()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let mut left = len;
        while left > 0 {
            self.cancel.check()?;
            let some = left.min(ZEROS.len() as u64);
            if self.put(ZEROS.get(..some as usize).unwrap_or_default()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            left -= some;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Fetches what waits, and hands it out in order.
    fn flush(&mut self) -> Result<ControlFlow<()>, RepoError> {
        self.cancel.check()?;
        let wanted = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        let mut chunks: Vec<Option<VerifiedChunk>> = vec![None; wanted.len()];
        self.packs.contents(self.opening, &wanted, &mut |at, chunk| {
            if let Some(slot) = chunks.get_mut(at) {
                *slot = Some(chunk.clone());
            }
            Ok(())
        })?;
        for chunk in chunks {
            let chunk = chunk.ok_or(RepoError::internal("a chunk was wanted and did not come"))?;
            if self.put(chunk.bytes()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn put(&mut self, bytes: &[u8]) -> ControlFlow<()> {
        // More than the entry says is noticed at the end.
        self.left = self.left.checked_sub(bytes.len() as u64).unwrap_or(u64::MAX);
        (self.out)(bytes)
    }
}
