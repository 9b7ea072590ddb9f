//! Hashes of the pages of a leaf's extents: how a host that can't read finds changed pages.
//!
//! ```text
//! leaf   = extent …
//! extent = 0 | 1, chunk id 32, length u32, hash 16 for each page of it (the last may be shorter)
//! ```
//! What stands under an extent are the pages of the chunk that a patch of it refers to: the extent itself if it is stored
//! whole, else the one that its blob is a patch of. They are named by that chunk's id, so that hashes are never taken for
//! those of another content, whatever has happened since.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use zeroize::Zeroizing;

use crate::units::ChunkId;

/// Bytes of a page's hash. An old page is taken for a new one of the same hash: 16 bytes make that as unlikely as two
/// chunks of one id.
pub const HASH: usize = 16;
/// The most extents of a leaf.
const MAX_EXTENTS: usize = 32;
/// The longest chunk whose pages are hashed, in bytes.
const MAX_CHUNK: usize = 256 << 10;

/// The pages of one chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtentHashes {
    /// The chunk.
    pub id: ChunkId,
    /// Its plain length, in bytes.
    pub len: u32,
    /// Of each page.
    pub pages: Vec<[u8; HASH]>,
}

/// The chunks that a leaf's extents, by their number, may be patched against.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeafHashes(pub Vec<Option<ExtentHashes>>);

impl LeafHashes {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for extent in &self.0 {
            match extent {
                None => out.push(0),
                Some(ExtentHashes { id, len, pages }) => {
                    out.push(1);
                    out.extend_from_slice(&id.0);
                    out.extend_from_slice(&len.to_le_bytes());
                    out.extend_from_slice(pages.as_flattened());
                }
            }
        }
        out
    }

    /// Reads what [`LeafHashes::encode`] wrote; `None` if it is none, for pages of this size.
    pub fn decode(bytes: &[u8], page_size: usize) -> Option<Self> {
        let mut extents = Vec::new();
        let mut rest = bytes;
        while let Some((kind, more)) = rest.split_first() {
            if extents.len() == MAX_EXTENTS {
                return None;
            }
            rest = more;
            extents.push(match kind {
                0 => None,
                1 => {
                    let (id, more) = rest.split_first_chunk::<32>()?;
                    let (len, more) = more.split_first_chunk::<4>()?;
                    let len = u32::from_le_bytes(*len);
                    if len as usize > MAX_CHUNK || page_size == 0 {
                        return None;
                    }
                    let (hashes, more) = more.split_at_checked((len as usize).div_ceil(page_size) * HASH)?;
                    rest = more;
                    Some(ExtentHashes { id: ChunkId(*id), len, pages: hashes.as_chunks::<HASH>().0.to_vec() })
                }
                _ => return None,
            });
        }
        Some(LeafHashes(extents))
    }
}

/// Hashes pages, by a key of this host.
pub struct PageHasher {
    key: Zeroizing<[u8; 32]>,
    page_size: usize,
}

impl PageHasher {
    /// Out of a secret of this host's state. `page_size` is in bytes, and not zero.
    pub fn derive(secret: &[u8; 32], page_size: u32) -> Self {
        PageHasher { key: Zeroizing::new(blake3::derive_key("pgcairn 1 hashes of pages", secret)), page_size: page_size.max(1) as usize }
    }

    fn hash(&self, page: &[u8]) -> [u8; HASH] {
        blake3::keyed_hash(&self.key, page).as_bytes().first_chunk().copied().unwrap_or([0; HASH])
    }

    /// The pages of a chunk that is stored whole; `None` if it is too long to be patched.
    pub fn of(&self, id: &ChunkId, bytes: &[u8]) -> Option<ExtentHashes> {
        (bytes.len() <= MAX_CHUNK).then(|| ExtentHashes {
            id: *id,
            len: bytes.len() as u32,
            pages: bytes.chunks(self.page_size).map(|page| self.hash(page)).collect(),
        })
    }

    /// The numbers of the pages of `new` that are not those of the chunk at the same place, to their last byte.
    pub fn changed(&self, new: &[u8], before: &ExtentHashes) -> Vec<u32> {
        // A page is the reference's only if it ends where that one ends: a shorter last page may be the beginning of a longer
        // one, which its hash doesn't say.
        let same = |number: usize, page: &[u8]| {
            let start = number.saturating_mul(self.page_size);
            let there = (before.len as usize).saturating_sub(start).min(self.page_size);
            there == page.len() && before.pages.get(number).is_some_and(|hash| *hash == self.hash(page))
        };
        new.chunks(self.page_size).enumerate().filter(|(number, page)| !same(*number, page)).map(|(number, _)| number as u32).collect()
    }
}
