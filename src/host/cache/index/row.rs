//! A row: one chunk in one blob of one pack.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 32 | chunk id |
//! | 32 | 16 | pack id |
//! | 48 | 4 | blob number in the pack, little-endian as all numbers here |
//! | 52 | 2 | position in the blob's group |
//! | 54 | 1 | frame kind |
//! | 55 | 1 | flags, the caller's |
//! | 56 | 4 | plain length of the chunk |
//! | 60 | 4 | CRC-32C of the 60 bytes before |

use crate::units::{ChunkId, PackId};

/// Where a chunk lies. Rows sort by chunk, then place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Row {
    /// The chunk.
    pub id: ChunkId,
    /// The pack.
    pub pack: PackId,
    /// The number of the blob in the pack.
    pub blob: u32,
    /// The chunk's position in the blob's group.
    pub position: u16,
    /// The frame kind of the blob.
    pub frame_kind: u8,
    /// For the caller: what else the pack's table says of it.
    pub flags: u8,
    /// The chunk's length in bytes.
    pub plain_len: u32,
}

/// Bytes of a row.
pub(super) const ROW_LEN: usize = 64;

impl Row {
    pub(super) fn encode(&self) -> [u8; ROW_LEN] {
        let mut out = [0; ROW_LEN];
        out[..32].copy_from_slice(&self.id.0);
        out[32..48].copy_from_slice(&self.pack.0);
        out[48..52].copy_from_slice(&self.blob.to_le_bytes());
        out[52..54].copy_from_slice(&self.position.to_le_bytes());
        out[54] = self.frame_kind;
        out[55] = self.flags;
        out[56..60].copy_from_slice(&self.plain_len.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` if the checksum doesn't match.
    pub(super) fn decode(bytes: &[u8; ROW_LEN]) -> Option<Row> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (id, rest) = body.split_first_chunk::<32>()?;
        let (pack, rest) = rest.split_first_chunk::<16>()?;
        let (blob, rest) = rest.split_first_chunk::<4>()?;
        let (position, rest) = rest.split_first_chunk::<2>()?;
        let ([frame_kind, flags], rest) = rest.split_first_chunk::<2>()?;
        let (plain_len, _) = rest.split_first_chunk::<4>()?;
        Some(Row {
            id: ChunkId(*id),
            pack: PackId(*pack),
            blob: u32::from_le_bytes(*blob),
            position: u16::from_le_bytes(*position),
            frame_kind: *frame_kind,
            flags: *flags,
            plain_len: u32::from_le_bytes(*plain_len),
        })
    }
}
