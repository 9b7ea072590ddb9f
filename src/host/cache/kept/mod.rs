//! What a host that can't read keeps of its own newest snapshot: hashes of pages, names and attributes.
//!
//! Another host reads these in the repository. This one has sealed them to a key that it hasn't got, so it keeps them here:
//! one file a snapshot, written beside the backup, complete before the COMMIT. Damaged, lost, or of another snapshot than
//! the one that is built upon, it is not used: then more is read and stored, and the snapshot is the same.
//!
//! - `file.rs`: [`KeptFile`], [`KeptWriter`]: values under keys, each with a keyed checksum, bound to a snapshot
//! - `pages.rs`: [`LeafHashes`]: hashes of the pages of the chunks that a leaf's patches may refer to
//!
//! Both are keyed by secrets out of this host's state: who has the cache alone can neither guess at pages nor plant
//! hashes (docs/decisions/015-page-hashes.md).

mod file;
mod pages;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;

use zeroize::Zeroizing;

use crate::units::{Digest16, RepositoryId};

#[cfg(any(test, feature = "fuzzing"))]
pub use file::probe;
pub use file::{KeptFile, KeptWriter, Lookup};
pub use pages::{ExtentHashes, HASH, LeafHashes, PageHasher};

/// How a file is called: the snapshot's id, and this.
const SUFFIX: &str = ".kept";

/// The snapshot that a file is about. A file is valid for it alone.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The repository.
    pub repository: RepositoryId,
    /// The cluster's name.
    pub cluster: &'a str,
    /// The snapshot's id.
    pub snapshot: &'a str,
    /// The content digest of its root.
    pub digest: Digest16,
    /// The cluster's page size, in bytes.
    pub page_size: u32,
}

/// Keys the checksums of files.
pub struct KeptKey(Zeroizing<[u8; 32]>);

impl KeptKey {
    /// Out of a secret of this host's state.
    pub fn derive(secret: &[u8; 32]) -> Self {
        KeptKey(Zeroizing::new(blake3::derive_key("pgcairn 1 what a host keeps of its snapshot", secret)))
    }
}

/// What a value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum What {
    /// A chunk of names and attributes, or a snapshot's meta chunk: its bytes, by the first 16 bytes of its id.
    Content = 1,
    /// [`LeafHashes`], by the file's path and the leaf's number.
    Leaf = 2,
}

/// Removes what is kept of other snapshots than `snapshot`, and what was left unfinished, unless a backup that runs is
/// writing it. It may fail: then it lies there until the next time.
pub fn remove_others(folder: &Path, snapshot: &str) {
    let own = format!("{snapshot}{SUFFIX}");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let stale = name.to_str().is_some_and(|name| name != own && (name.ends_with(SUFFIX) || name.ends_with(file::UNFINISHED)));
        if stale && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
