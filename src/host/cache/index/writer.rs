//! Writing index files, and merging many into one.

use std::collections::BTreeSet;
use std::fs::{OpenOptions, TryLockError};
use std::io;
use std::iter::Peekable;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::file::{self, IndexFile};
use super::{ChunkIndex, Row};
use crate::units::PackId;

/// Collects rows of packs for one file. Whoever folds very many packs writes a file every few hundred thousand rows.
#[derive(Debug, Default)]
pub struct IndexWriter {
    rows: Vec<Row>,
    packs: BTreeSet<PackId>,
}

impl IndexWriter {
    /// With more files than this a look-up gets slow.
    pub const MERGE_ABOVE: usize = 8;

    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds all rows of a pack's table. The pack counts as covered, also if there are none.
    pub fn add_pack(&mut self, pack: PackId, rows: impl IntoIterator<Item = Row>) {
        self.packs.insert(pack);
        self.rows.extend(rows.into_iter().filter(|row| row.pack == pack));
    }

    /// Rows so far; each takes 64 bytes.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Is there nothing to write?
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// Writes what was collected as one file of the index in `folder`, sorted, durable, whole or not at all; merges
    /// where there are too many files by then. Writes nothing if nothing was collected.
    pub fn write(mut self, folder: &Path) -> io::Result<Option<PathBuf>> {
        self.rows.sort_unstable();
        self.rows.dedup();
        let path = file::write(folder, self.rows.iter().copied(), self.packs.iter().copied())?;
        if file::list(folder).len() > Self::MERGE_ABOVE {
            // Merged or not, the index is right; the next writer tries again.
            let _ = merge(folder, |_| true);
        }
        Ok(path)
    }
}

/// Merges the files of an index into one, leaving out packs that `keep` doesn't want. `false` if another process is
/// merging just now. Who has the index open keeps reading what it opened.
pub fn merge(folder: &Path, keep: impl Fn(&PackId) -> bool) -> io::Result<bool> {
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join("merge.lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(e)) => return Err(e),
    }
    let (index, _) = ChunkIndex::open(folder);
    let packs: BTreeSet<PackId> = index.packs().into_iter().filter(&keep).collect();
    let rows = Merged::new(index.files.iter().map(IndexFile::iter)).filter(|row| keep(&row.pack));
    file::write(folder, rows, packs.into_iter())?;
    for file in &index.files {
        match std::fs::remove_file(file.path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(true)
}

/// Several ascending streams as one, equal rows once.
struct Merged<I: Iterator<Item = Row>> {
    streams: Vec<Peekable<I>>,
}

impl<I: Iterator<Item = Row>> Merged<I> {
    fn new(streams: impl Iterator<Item = I>) -> Self {
        Merged { streams: streams.map(Iterator::peekable).collect() }
    }
}

impl<I: Iterator<Item = Row>> Iterator for Merged<I> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        let least = self.streams.iter_mut().filter_map(|stream| stream.peek().copied()).min()?;
        for stream in &mut self.streams {
            while stream.next_if_eq(&least).is_some() {}
        }
        Some(least)
    }
}
