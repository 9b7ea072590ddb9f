//! Building a pack: blobs are sealed as they come, the table at the end.

use std::sync::Arc;

use super::{END, HEADER, MAGIC, MAX_BLOB, MAX_PLAIN, PackTable, Place, Reference, Row, TRAILER, blob_aad, padme, table_aad};
use crate::crypt::envelope::{self, Envelope};
use crate::crypt::{ChunkRole, CryptError, Sealing, Secret, seal, secret};
use crate::units::{ChunkId, Hash32, PackId};

/// A blob that is to be stored.
pub struct NewBlob {
    /// What its chunks are.
    pub role: ChunkRole,
    /// Number of the frame's kind.
    pub kind: u8,
    /// The frame.
    pub frame: Vec<u8>,
    /// The chunks that it decodes to, with their plain lengths.
    pub chunks: Vec<(ChunkId, u32)>,
    /// What is needed to decode it.
    pub references: Vec<Reference>,
}

/// A pack under construction.
pub struct PackBuilder {
    id: PackId,
    sealing: Sealing,
    key: Secret,
    envelope: Envelope,
    salt: [u8; seal::SALT],
    table_subkey: Secret,
    bytes: Vec<u8>,
    rows: Vec<Row>,
    table_bytes: usize,
    /// Envelopes of the blobs of content: this pack's own, if any blob is sealed here, and those that travelled with theirs.
    envelopes: Vec<Envelope>,
}

/// A blob of content as it lies in another pack, which is to lie in this one, too.
pub struct SealedBlob {
    /// Its row there, with its references where they lie now.
    pub row: Row,
    /// Holds its key.
    pub envelope: Envelope,
    /// Its sealed bytes.
    pub sealed: Vec<u8>,
}

/// A pack that is ready to be stored.
pub struct FinishedPack {
    /// Its id.
    pub id: PackId,
    /// All of it.
    pub bytes: Arc<Vec<u8>>,
    /// BLAKE3 of all of it.
    pub hash: Hash32,
    /// Bytes from the beginning of the sealed table's nonce to the end.
    pub tail: u32,
    /// What is in it.
    pub table: PackTable,
}

impl PackBuilder {
    /// An empty pack with a key of its own.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn new(sealing: &Sealing) -> Result<Self, CryptError> {
        let id = PackId(secret::random()?);
        let (key, envelope) = sealing.object_key()?;
        let salt = seal::draw_salt(sealing.table_key(), &[b"pack", &id.0])?;
        let mut bytes = Vec::with_capacity(1 << 20);
        for part in [MAGIC.as_slice(), &sealing.domain.0, &id.0] {
            bytes.extend_from_slice(part);
        }
        debug_assert_eq!(bytes.len(), HEADER);
        Ok(PackBuilder {
            id,
            sealing: sealing.clone(),
            key,
            envelope,
            salt,
            table_subkey: seal::subkey(sealing.table_key(), &salt),
            bytes,
            rows: Vec::new(),
            table_bytes: 4,
            envelopes: Vec::new(),
        })
    }

    /// The pack's id.
    pub fn id(&self) -> PackId {
        self.id
    }

    /// How large it would be if it were finished now, padding apart.
    pub fn size(&self) -> usize {
        let envelopes = self.envelopes.len().max(1) * envelope::LEN;
        self.bytes.len() + self.table_bytes + envelopes + TRAILER + seal::NONCE + seal::SALT
    }

    /// Has it nodes alone?
    pub fn is_of_structure(&self) -> bool {
        self.envelopes.is_empty()
    }

    /// Has it no blob?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Seals a blob into the pack; the first of its chunks is at the returned place, the others at the positions behind.
    ///
    /// # Errors
    /// If the frame is too large, or the operating system has no random numbers.
    pub fn add(&mut self, blob: NewBlob) -> Result<Place, CryptError> {
        let NewBlob { role, kind, mut frame, chunks, references } = blob;
        if frame.len() + seal::TAG > MAX_BLOB as usize
            || chunks.is_empty()
            || chunks.len() > usize::from(u16::MAX)
            || references.len() > usize::from(u16::MAX)
            || chunks.iter().map(|(_, len)| u64::from(*len)).sum::<u64>() > u64::from(MAX_PLAIN)
        {
            return Err(CryptError::Malformed { what: "a blob", why: "too large" });
        }
        let (key, key_id, envelope) = match role {
            ChunkRole::Content => {
                let number = Self::number_of(&mut self.envelopes, &self.envelope)?;
                (&self.key, self.sealing.public.id().0, Some(number))
            }
            ChunkRole::Structure => (&self.table_subkey, [0; 16], None),
        };
        let offset = self.bytes.len() as u32;
        let len = (frame.len() + seal::TAG) as u32;
        let mut row = Row { offset, len, kind, role, envelope, nonce: [0; 24], hash: [0; 16], chunks, references };
        row.nonce = seal::seal_in_place(key, &blob_aad(&self.sealing.domain, &key_id, &row), &mut frame)?;
        row.hash.copy_from_slice(&blake3::hash(&frame).as_bytes()[..16]);
        Ok(self.push(row, &frame))
    }

    /// Takes a blob of content over from another pack, byte for byte, with its nonce and its envelope: neither pack nor place
    /// are bound by its sealing. Only the bytes that the row's hash names are taken, so that damage isn't spread by who
    /// can't open content.
    ///
    /// # Errors
    /// If the bytes are not those that were stored, or the row is none of content.
    pub fn copy(&mut self, blob: &SealedBlob) -> Result<Place, CryptError> {
        let SealedBlob { row, envelope, sealed } = blob;
        if row.role != ChunkRole::Content || sealed.len() != row.len as usize || sealed.len() > MAX_BLOB as usize {
            return Err(CryptError::Malformed { what: "a blob", why: "none of content, or of another length" });
        }
        if blake3::hash(sealed).as_bytes().first_chunk::<16>() != Some(&row.hash) {
            return Err(CryptError::NotAuthentic { what: "a blob whose bytes have not the hash that the table says" });
        }
        let number = Self::number_of(&mut self.envelopes, envelope)?;
        let row = Row { offset: self.bytes.len() as u32, envelope: Some(number), ..row.clone() };
        Ok(self.push(row, sealed))
    }

    /// The number of an envelope of this pack, which is put into it if it isn't there.
    fn number_of(envelopes: &mut Vec<Envelope>, envelope: &Envelope) -> Result<u16, CryptError> {
        let number = match envelopes.iter().position(|there| there.0 == envelope.0) {
            Some(number) => number,
            None => {
                envelopes.push(envelope.clone());
                envelopes.len() - 1
            }
        };
        let full = CryptError::Malformed { what: "a pack", why: "too many envelopes" };
        u16::try_from(number).ok().filter(|n| *n < super::table::NO_ENVELOPE).ok_or(full)
    }

    fn push(&mut self, row: Row, sealed: &[u8]) -> Place {
        self.bytes.extend_from_slice(sealed);
        self.table_bytes += 56 + 36 * row.chunks.len() + 54 * row.references.len();
        self.rows.push(row);
        Place { pack: self.id, blob: (self.rows.len() - 1) as u32, position: 0 }
    }

    /// Opens a blob of this pack again, out of the sealed bytes: what was stored is checked on the host that has the
    /// truth.
    ///
    /// # Errors
    /// [`CryptError::NotAuthentic`]: memory or the processor is broken.
    pub fn reopen(&self, place: Place) -> Result<Vec<u8>, CryptError> {
        let broken = CryptError::NotAuthentic { what: "a blob that was just sealed" };
        let Some(row) = self.rows.get(place.blob as usize) else { return Err(broken) };
        let Some(sealed) = self.bytes.get(row.offset as usize..(row.offset + row.len) as usize) else { return Err(broken) };
        let (key, key_id) = match row.role {
            ChunkRole::Content => (&self.key, self.sealing.public.id().0),
            ChunkRole::Structure => (&self.table_subkey, [0; 16]),
        };
        seal::open(key, &row.nonce, &blob_aad(&self.sealing.domain, &key_id, row), sealed.to_vec(), "a blob that was just sealed")
    }

    /// Takes the last blob out again: it proved wrong.
    pub fn take_back(&mut self) {
        if let Some(row) = self.rows.pop() {
            self.bytes.truncate(row.offset as usize);
            self.table_bytes -= 56 + 36 * row.chunks.len() + 54 * row.references.len();
        }
    }

    /// Closes the pack: seals the table, pads.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn finish(mut self) -> Result<FinishedPack, CryptError> {
        let table = PackTable { rows: std::mem::take(&mut self.rows) };
        let mut plain = table.encode();
        let envelopes = self.envelopes.len() as u16;
        let fixed = seal::NONCE + seal::TAG + usize::from(envelopes) * envelope::LEN + seal::SALT + TRAILER;
        let size = self.bytes.len() + plain.len() + fixed;
        let padding = padme(size as u64) as usize - size;
        plain.resize(plain.len() + padding, 0);
        let nonce = seal::seal_in_place(&self.table_subkey, &table_aad(&self.sealing.domain, &self.id), &mut plain)?;
        let blobs_end = self.bytes.len();
        self.bytes.extend_from_slice(&nonce);
        self.bytes.extend_from_slice(&plain);
        for envelope in &self.envelopes {
            self.bytes.extend_from_slice(&envelope.0);
        }
        self.bytes.extend_from_slice(&self.salt);
        self.bytes.extend_from_slice(&(plain.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&envelopes.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&self.id.0);
        self.bytes.extend_from_slice(END);
        let hash = Hash32(*blake3::hash(&self.bytes).as_bytes());
        Ok(FinishedPack { id: self.id, tail: (self.bytes.len() - blobs_end) as u32, hash, bytes: Arc::new(self.bytes), table })
    }
}
