//! Packs: what chunks are stored in. A pack is built in memory, sealed, and stored by one create; it can be read from
//! any end without an index.
//!
//! - `table.rs`: what stands where in a pack, as bytes and as values
//! - `build.rs`: [`PackBuilder`] collects blobs and closes
//! - `read.rs`: [`Packs`] finds packs by id, fetches tables, opens blobs
//! - `fetch.rs`: many chunks of content, with what they are patches of: which bytes are read at once
//! - `ahead.rs`: tables and nodes of the structure, many at once before they are needed one by one
//!
//! ```text
//! pack   = header 40 | sealed blobs | tail
//! header = magic "PGCNPCK" 0x01 | domain id 16 | pack id 16
//! tail   = table nonce 24 | sealed table | envelopes, 129 each | salt 32 | trailer 32
//! trailer = sealed table's length u32 | number of envelopes u16 | zero u16 | pack id 16 | magic "PGCNEND" 0x01
//! ```
//! The table is sealed under subkey(table key, salt), as are blobs of role structure; content blobs are sealed under the
//! key in the envelope that their row names.

mod ahead;
mod build;
mod fetch;
mod read;
mod table;

use crate::units::{ChunkId, PackId};

pub use build::{FinishedPack, NewBlob, PackBuilder, SealedBlob};
pub use fetch::Held;
pub use read::{BlobFault, KeptRanges, LoadedTable, Packs, VerifiedChunk, pack_name};
pub use table::{PackTable, Row};

/// Where a chunk lies: (pack, number of the blob in the pack, position in the blob's group).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The pack.
    pub pack: PackId,
    /// Which blob of it, from 0.
    pub blob: u32,
    /// Which chunk of the blob, from 0.
    pub position: u16,
}

/// A chunk that a patch was made against: always stored whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reference {
    /// Its id.
    pub id: ChunkId,
    /// Where it lay when the patch was made.
    pub place: Place,
}

/// Magic number of a pack.
const MAGIC: &[u8; 8] = b"PGCNPCK\x01";
/// Magic number at a pack's end.
const END: &[u8; 8] = b"PGCNEND\x01";
const HEADER: usize = 40;
const TRAILER: usize = 32;
/// Largest pack that is read: far above what is written, and what a host can hold.
pub const MAX_PACK: u64 = 1 << 30;
/// Largest tail that is read.
pub const MAX_TAIL: u32 = 64 << 20;
/// Largest blob, sealed.
pub const MAX_BLOB: u32 = 17 << 20;
/// Largest plain content of a blob.
pub const MAX_PLAIN: u32 = 16 << 20;

/// The associated data of a blob: what it is, in which domain, under which key, made of which chunks and references.
fn blob_aad(domain: &crate::units::DomainId, key: &[u8; 16], row: &Row) -> Vec<u8> {
    let mut aad = crate::repo::bytes::Writer(Vec::with_capacity(80 + row.chunks.len() * 36 + row.references.len() * 32));
    aad.bytes(b"pgcairn 1 blob").bytes(&domain.0).u8(row.role as u8).u8(row.kind).bytes(key);
    aad.u16(row.chunks.len() as u16);
    for (id, len) in &row.chunks {
        aad.bytes(&id.0).u32(*len);
    }
    aad.u16(row.references.len() as u16);
    for reference in &row.references {
        aad.bytes(&reference.id.0);
    }
    aad.0
}

fn table_aad(domain: &crate::units::DomainId, pack: &PackId) -> Vec<u8> {
    [b"pgcairn 1 table".as_slice(), &domain.0, &pack.0].concat()
}

/// The size that an object of `len` bytes is padded to: Padmé (Nikitin et al., PETS 2019), at most 12 % more, 1–2 %
/// for packs, and only O(log log n) bits of the length are told.
pub fn padme(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let e = 63 - len.leading_zeros();
    let s = 32 - e.leading_zeros();
    let mask = (1u64 << (e - s.min(e))) - 1;
    (len + mask) & !mask
}

#[cfg(test)]
mod tests {
    use super::padme;

    #[test]
    fn padding_is_little_and_never_less() {
        for len in (0..100_000u64).chain([1 << 24, (1 << 24) + 1, 987_654_321, (1 << 40) - 1]) {
            let padded = padme(len);
            assert!(padded >= len && padded as f64 <= len as f64 * 1.12 + 1.0, "{len} -> {padded}");
            assert_eq!(padme(padded), padded);
        }
        assert_eq!(padme(9), 10);
    }
}
