//! What stands where in a pack.
//!
//! ```text
//! table = number of blobs u32 | rows | zeros (padding)
//! row   = offset u32 | sealed length u32 | frame kind u8 | role u8 | envelope u16 (0xffff: the table key)
//!       | chunks u16 | references u16 | nonce 24 | hash 16 | chunks × (id 32, plain length u32)
//!       | references × (id 32, pack id 16, blob u32, position u16)
//! ```
//! `hash` is the first 16 bytes of BLAKE3 over the sealed bytes: a maintainer who can't open content copies only blobs
//! that match it.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::{HEADER, MAX_BLOB, MAX_PLAIN, Place, Reference};
use crate::crypt::ChunkRole;
use crate::repo::bytes::{Malformed, Reader, Writer};
use crate::units::{ChunkId, PackId};

const ROW: usize = 56;
const CHUNK: usize = 36;
const REFERENCE: usize = 54;
/// In place of an envelope's number: sealed under the table key and the pack's salt.
pub(super) const NO_ENVELOPE: u16 = u16::MAX;

/// One blob of a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Where its sealed bytes begin in the pack.
    pub offset: u32,
    /// Length of its sealed bytes.
    pub len: u32,
    /// Number of the frame's kind; codecs know what it means.
    pub kind: u8,
    /// What its chunks are.
    pub role: ChunkRole,
    /// Which envelope holds its key; `None`: the table key.
    pub envelope: Option<u16>,
    /// Of its sealing.
    pub nonce: [u8; 24],
    /// First 16 bytes of BLAKE3 over the sealed bytes.
    pub hash: [u8; 16],
    /// Its chunks with their plain lengths, at least one.
    pub chunks: Vec<(ChunkId, u32)>,
    /// The whole chunks that it needs to be decoded.
    pub references: Vec<Reference>,
}

impl Row {
    /// Length of what it decodes to.
    pub fn plain_len(&self) -> u32 {
        self.chunks.iter().map(|(_, len)| *len).fold(0, u32::saturating_add)
    }

    /// Are these its sealed bytes, by their hash?
    pub fn is_sealed_as(&self, sealed: &[u8]) -> bool {
        blake3::hash(sealed).as_bytes().first_chunk::<16>() == Some(&self.hash)
    }
}

/// The table of a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackTable {
    /// Its blobs, in the order of their numbers.
    pub rows: Vec<Row>,
}

impl PackTable {
    /// As bytes, without padding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(self.rows.len() as u32);
        for row in &self.rows {
            out.u32(row.offset).u32(row.len).u8(row.kind).u8(row.role as u8).u16(row.envelope.unwrap_or(NO_ENVELOPE));
            out.u16(row.chunks.len() as u16).u16(row.references.len() as u16).bytes(&row.nonce).bytes(&row.hash);
            for (id, len) in &row.chunks {
                out.bytes(&id.0).u32(*len);
            }
            for r in &row.references {
                out.bytes(&r.id.0).bytes(&r.place.pack.0).u32(r.place.blob).u16(r.place.position);
            }
        }
        out.0
    }

    /// Reads a table and checks that its blobs lie between header and tail and its numbers are sane.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong.
    pub fn decode(bytes: &[u8], envelopes: u16, blobs_end: u64) -> Result<PackTable, Malformed> {
        let mut from = Reader::new(bytes);
        let count = from.u32()? as usize;
        let count = from.count(count, ROW + CHUNK)?;
        let mut rows = Vec::with_capacity(count);
        for _ in 0..count {
            rows.push(Self::decode_row(&mut from, envelopes, blobs_end)?);
        }
        if from.bytes(from.left())?.iter().any(|b| *b != 0) {
            return Err(Malformed("its padding is not zero"));
        }
        Ok(PackTable { rows })
    }

    fn decode_row(from: &mut Reader<'_>, envelopes: u16, blobs_end: u64) -> Result<Row, Malformed> {
        let (offset, len, kind, role) = (from.u32()?, from.u32()?, from.u8()?, from.u8()?);
        let (envelope, chunks, references) = (from.u16()?, from.u16()?, from.u16()?);
        let (nonce, hash) = (from.array()?, from.array()?);
        let role = ChunkRole::from_number(role).ok_or(Malformed("a blob has an unknown role"))?;
        let envelope = (envelope != NO_ENVELOPE).then_some(envelope);
        if (offset as usize) < HEADER || u64::from(offset) + u64::from(len) > blobs_end || !(16..=MAX_BLOB).contains(&len) {
            return Err(Malformed("a blob lies outside the pack"));
        }
        if envelope.is_some_and(|e| e >= envelopes) || envelope.is_some() != (role == ChunkRole::Content) {
            return Err(Malformed("a blob names no envelope of the pack"));
        }
        let chunks = from.count(chunks.into(), CHUNK)?;
        if chunks == 0 {
            return Err(Malformed("a blob holds no chunk"));
        }
        let chunks = (0..chunks).map(|_| Ok((ChunkId(from.array()?), from.u32()?))).collect::<Result<Vec<_>, Malformed>>()?;
        let references = from.count(references.into(), REFERENCE)?;
        let references = (0..references)
            .map(|_| {
                let id = ChunkId(from.array()?);
                Ok(Reference { id, place: Place { pack: PackId(from.array()?), blob: from.u32()?, position: from.u16()? } })
            })
            .collect::<Result<Vec<_>, Malformed>>()?;
        let row = Row { offset, len, kind, role, envelope, nonce, hash, chunks, references };
        if row.plain_len() > MAX_PLAIN {
            return Err(Malformed("a blob decodes to too much"));
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_row() -> impl Strategy<Value = Row> {
        let chunk = (any::<[u8; 32]>(), 0u32..1000).prop_map(|(id, len)| (ChunkId(id), len));
        let reference = (any::<[u8; 32]>(), any::<[u8; 16]>(), any::<u32>(), any::<u16>())
            .prop_map(|(id, pack, blob, position)| Reference { id: ChunkId(id), place: Place { pack: PackId(pack), blob, position } });
        let lists = (prop::collection::vec(chunk, 1..4), prop::collection::vec(reference, 0..3));
        (40u32..1000, 16u32..1000, any::<u8>(), any::<bool>(), any::<[u8; 24]>(), any::<[u8; 16]>(), lists).prop_map(
            |(offset, len, kind, content, nonce, hash, (chunks, references))| Row {
                offset,
                len,
                kind,
                role: if content { ChunkRole::Content } else { ChunkRole::Structure },
                envelope: content.then_some(0),
                nonce,
                hash,
                chunks,
                references,
            },
        )
    }

    proptest! {
        #[test]
        fn tables_survive(rows in prop::collection::vec(any_row(), 0..20), padding in 0usize..50) {
            let table = PackTable { rows };
            let mut bytes = table.encode();
            bytes.resize(bytes.len() + padding, 0);
            prop_assert_eq!(PackTable::decode(&bytes, 1, 1 << 20), Ok(table));
        }

        #[test]
        fn damaged_tables_are_errors_and_never_panics(rows in prop::collection::vec(any_row(), 1..5), at: prop::sample::Index, to: u8, cut: prop::sample::Index) {
            let mut bytes = PackTable { rows }.encode();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = PackTable::decode(&bytes, 1, 1 << 20);
            let _ = PackTable::decode(&bytes[..cut.index(bytes.len())], 1, 1 << 20);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = PackTable::decode(&bytes, 3, 1 << 20);
        }
    }

    #[test]
    fn a_blob_outside_the_pack_is_refused() {
        let row = Row {
            offset: 40,
            len: 100,
            kind: 0,
            role: ChunkRole::Structure,
            envelope: None,
            nonce: [0; 24],
            hash: [0; 16],
            chunks: vec![(ChunkId([0; 32]), 84)],
            references: vec![],
        };
        let bytes = PackTable { rows: vec![row] }.encode();
        assert!(PackTable::decode(&bytes, 0, 140).is_ok());
        assert!(PackTable::decode(&bytes, 0, 139).is_err());
        assert!(PackTable::decode(&1_000_000u32.to_le_bytes(), 0, 1 << 20).is_err());
    }
}
