//! What a repository is: a log that decides, packs that hold chunks, nodes that name them, WAL objects, key slots.
//!
//! Knows nothing of PostgreSQL but that some bytes are pages. In come keys, a store and bytes; out come snapshots' trees,
//! verified chunks and WAL files.
//!
//! - `format.rs`: the object that says what this is
//! - `json.rs`, `bytes.rs`: how values are written
//! - `log/`: entries, bodies, judging and folding, appending
//! - `pack/`: packs: built, found, read
//! - `structure/`: the manifest tree of a snapshot
//! - `wal.rs`: WAL objects
//! - `write/`: finding or storing chunks
//! - `failure.rs`: what can go wrong

pub mod bytes;
mod failure;
pub mod format;
pub mod json;
pub mod log;
pub mod pack;
pub mod structure;
pub mod wal;
pub mod write;

pub use failure::RepoError;

use crate::units::{Hash32, PackId, SessionId};

/// A pack as the log lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackRef {
    /// The session that stored it.
    pub session: SessionId,
    /// Its id.
    pub id: PackId,
    /// BLAKE3 of the whole object.
    pub hash: Hash32,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of its tail: table, envelopes, salt, trailer.
    pub tail: u32,
}
