//! The chunk index: where each chunk lies, as the tables of packs tell.
//!
//! Rows stand in a few sorted files that are written once and never changed, mapped into memory; a file also lists the
//! packs that it covers, so that what is missing can be read again from their tables. Rows hold no verdict: whether a
//! pack may be relied on is the caller's question. A row that is missing costs a chunk stored twice; a wrong one is
//! prevented by the file's checksum, verified when it is opened, and the row's own, verified at each hit.
//!
//! - `row.rs`: [`Row`] and its 64 bytes
//! - `file.rs`: one file: layout, writing, opening
//! - `writer.rs`: [`IndexWriter`], and merging files

mod file;
mod row;
mod writer;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::CacheWarning;
use crate::units::{ChunkId, PackId};
use file::IndexFile;
pub use row::Row;
pub use writer::{IndexWriter, merge};

/// How a file is called: 16 digits that grow, so that newer files sort last, and a random part.
const SUFFIX: &str = ".chunks";

/// The index as it was when it was opened. Files merged or removed since stay readable.
#[derive(Debug, Default)]
pub struct ChunkIndex {
    /// Newest first.
    files: Vec<IndexFile>,
    damaged_rows: AtomicUsize,
}

impl ChunkIndex {
    /// Opens all files of a folder. Damaged ones are removed and named in the warnings; a folder that can't be read is
    /// an empty index.
    pub fn open(folder: &Path) -> (Self, Vec<CacheWarning>) {
        let mut warnings = Vec::new();
        // A merge replaces files while we open them: what it took away is in a newer file, so look again.
        for _ in 0..5 {
            match Self::open_once(folder, &mut warnings) {
                Some(index) => return (index, warnings),
                None => continue,
            }
        }
        (ChunkIndex::default(), warnings)
    }

    fn open_once(folder: &Path, warnings: &mut Vec<CacheWarning>) -> Option<Self> {
        let mut files = Vec::new();
        for path in file::list(folder).into_iter().rev() {
            match IndexFile::open(&path) {
                Ok(file) => files.push(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
                Err(e) => {
                    if e.kind() == io::ErrorKind::InvalidData {
                        let _ = std::fs::remove_file(&path);
                    }
                    warnings.push(CacheWarning::new(&path, e));
                }
            }
        }
        Some(ChunkIndex { files, damaged_rows: AtomicUsize::new(0) })
    }

    /// All rows of a chunk, those of newer files first.
    pub fn lookup(&self, id: &ChunkId) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for file in &self.files {
            let damaged = file.lookup(id, |row| {
                if !rows.contains(&row) {
                    rows.push(row);
                }
            });
            self.damaged_rows.fetch_add(damaged, Ordering::Relaxed);
        }
        rows
    }

    /// The packs whose tables are in the index. One that is missing here has to be read (again).
    pub fn packs(&self) -> BTreeSet<PackId> {
        self.files.iter().flat_map(IndexFile::packs).collect()
    }

    /// How many rows there are, equal ones of several files counted apart.
    pub fn len(&self) -> usize {
        self.files.iter().map(|file| file.rows()).sum()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many files there are: past [`IndexWriter::MERGE_ABOVE`], [`merge`] pays.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Rows met so far whose checksum didn't match; they were passed over.
    pub fn damaged_rows(&self) -> usize {
        self.damaged_rows.load(Ordering::Relaxed)
    }
}

/// Arbitrary bytes as a file of the index, its checksum and perhaps its counts made to fit (`crate::fuzzing`).
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn probe(data: &[u8]) {
    file::probe(data);
}

#[cfg(test)]
mod tests;
