//! Files of this host: not the store's, but rotten at times.

use crate::host::{cache, state};
use crate::repo::log::probe;

/// A state file with a checksum that fits, whichever it is.
pub fn state(data: &[u8]) {
    state::probe(data);
}

/// A file of the chunk index with a checksum that fits.
pub fn index(data: &[u8]) {
    cache::index::probe(data);
}

/// A file of page hashes, with checksums that fit.
pub fn page_hashes(data: &[u8]) {
    cache::kept::probe(data);
}

/// The log's fold as it is kept.
pub fn kept_log(data: &[u8]) {
    let root = super::sealed::root();
    probe::kept(&root.owner, root.repository, data);
}
