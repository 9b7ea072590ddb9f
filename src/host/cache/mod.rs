//! The cache: what makes a host fast and may be deleted at any time.
//!
//! `<cache-dir>/<repository id>/` holds the catalog (`catalog.redb`) and the chunk index (`index/`). Nothing in it is
//! believed: every value and row carries a checksum that is verified when it is read, what is damaged is discarded with
//! a [`CacheWarning`], and a catalog that is busy is done without. What a caller gets is either what was once put
//! there, or nothing. Nothing from here may reach a COMMIT without its own check (ids re-computed).
//!
//! - `catalog.rs`: [`Catalog`], blobs by kind and key, opened for milliseconds
//! - `index/`: [`ChunkIndex`] and [`IndexWriter`], rows of chunks in sorted, immutable, mapped files
//! - `ranges.rs`: [`RangeFile`], what a backup reads of packs each time
//! - `kept/`: what a host that can't read keeps of its own newest snapshot

pub mod catalog;
pub mod index;
pub mod kept;
mod ranges;

use std::fmt;
use std::path::{Path, PathBuf};

use super::files::create_private_folder;
use crate::units::RepositoryId;

pub use catalog::{Busy, Catalog, Kind};
pub use index::{ChunkIndex, IndexWriter, Row};
pub use ranges::RangeFile;

/// A part of the cache was damaged or couldn't be used, and was discarded. Work goes on without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheWarning {
    /// The file.
    pub path: PathBuf,
    /// What was wrong.
    pub problem: String,
}

impl CacheWarning {
    fn new(path: &Path, problem: impl fmt::Display) -> Self {
        CacheWarning { path: path.to_path_buf(), problem: problem.to_string() }
    }
}

impl fmt::Display for CacheWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the cache file {} was discarded: {}", self.path.display(), self.problem)
    }
}

/// Names are the user's, and may differ in case alone.
fn file_name_of(cluster: &str) -> String {
    blake3::hash(cluster.as_bytes()).to_hex().chars().take(16).collect()
}

/// The cache of one repository.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache of `repository` in `cache_dir` ([`super::cache_dir`]); `None` if its folder can't be made.
    pub fn of(cache_dir: &Path, repository: RepositoryId) -> Option<Self> {
        let folder = cache_dir.join(repository.to_string());
        create_private_folder(&folder.join("index"), None).ok()?;
        // So that backup programs leave it out (bford.info/cachedir).
        let tag = cache_dir.join("CACHEDIR.TAG");
        if !tag.exists() {
            let _ =
                std::fs::write(&tag, "Signature: 8a477f597d28d172789f06886806bc55\n# pgcairn's cache; it may be deleted at any time.\n");
        }
        Some(Cache { folder })
    }

    /// The catalog.
    pub fn catalog(&self) -> Catalog {
        Catalog::at(&self.folder)
    }

    /// The folder of the chunk index.
    pub fn index_folder(&self) -> PathBuf {
        self.folder.join("index")
    }

    /// The folder of what a host that can't read keeps of a cluster's newest snapshot.
    pub fn kept_folder(&self, cluster: &str) -> PathBuf {
        self.folder.join("kept").join(file_name_of(cluster))
    }

    /// The ranges of packs that backups of a cluster read.
    pub fn ranges(&self, cluster: &str) -> RangeFile {
        RangeFile::open(self.folder.join("ranges").join(file_name_of(cluster)))
    }

    /// Opens the chunk index as it is now.
    pub fn index(&self) -> (ChunkIndex, Vec<CacheWarning>) {
        ChunkIndex::open(&self.index_folder())
    }
}
