//! WAL objects: one file of the archive each, self-contained, durable by one create.
//!
//! ```text
//!   0   8  magic "PGCNWAL" 0x01
//!   8  16  repository id
//!  24  16  id of the key that signed
//!  40   8  number of the newest log entry that the pusher had seen
//!  48  32  its hash
//!  80   4  length of the sealed metadata
//!  84  12  zero
//!  96 129  envelope of the object's key
//! 225  32  salt of the metadata
//! 257  24  nonce of the metadata
//! 281   …  sealed metadata
//!   …  64  signature
//!   …   …  parts: sealed frames back to back, to the end
//! ```
//! Metadata are JSON under subkey(table key, salt): lengths and keyed hash of the plain file, kinds, nonces and lengths
//! of the parts, BLAKE3 of all parts as they lie here, and facts of the layer above. The signature covers everything
//! before it, the cluster's key, the system identifier and the name, so the first few kilobytes prove the whole object.
//! A part is at most 4 MiB of the file; parts are compressed, sealed and opened side by side.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::RepoError;
use super::bytes::{Malformed, Reader, Writer};
use crate::codec;
use crate::crypt::envelope::{self, Envelope};
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::crypt::{CryptError, Opening, Sealing, seal};
use crate::store::{ObjectName, StoreError};
use crate::units::ids::hex;
use crate::units::{Hash32, KeyId, RepositoryId};

const MAGIC: &[u8; 8] = b"PGCNWAL\x01";
const HEAD: usize = 281;
const SIGNATURE: usize = 64;
const CONTEXT: &[u8] = b"wal object";
/// Plain bytes of a part.
pub const PART: usize = 4 << 20;
/// The largest file: a segment of 1 GiB.
pub const MAX_FILE: u64 = 1 << 30;
/// The largest sealed metadata.
pub const MAX_META: u32 = 1 << 20;
/// Names that are tried for one file: each void object before it takes one.
pub const MAX_VARIANTS: u32 = 100;
/// One read of this many bytes from the front nearly always holds all metadata.
pub const FRONT: usize = 8 << 10;
/// The largest object: parts are stored as they are where they don't shrink.
pub const MAX_OBJECT: u64 = MAX_FILE + (16 << 20);

/// Which file of which archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalAddress {
    /// The keyed hash of the cluster's name.
    pub cluster: [u8; 16],
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// The file's name as PostgreSQL gives it.
    pub name: String,
}

impl WalAddress {
    /// The folder of all files of this cluster and system identifier.
    ///
    /// # Errors
    /// Never for values that came from a cluster.
    pub fn root(cluster: &[u8; 16], system_identifier: u64) -> Result<ObjectName, StoreError> {
        Ok(format!("wal/{}/{system_identifier}", hex(cluster)).parse::<ObjectName>()?)
    }

    /// The folder in which this file lies: the first 16 digits of a segment's name, or `history`.
    ///
    /// # Errors
    /// If the name can't be part of an object's.
    pub fn folder(&self) -> Result<ObjectName, StoreError> {
        let folder = if self.name.ends_with(".history") { "history" } else { self.name.get(..16).unwrap_or("other") };
        Ok(format!("wal/{}/{}/{folder}", hex(&self.cluster), self.system_identifier).parse::<ObjectName>()?)
    }

    /// The object's name; `variant` 1 and up stand behind objects that proved void.
    ///
    /// # Errors
    /// If the name can't be part of an object's.
    pub fn object(&self, variant: u32) -> Result<ObjectName, StoreError> {
        let folder = self.folder()?;
        let text = match variant {
            0 => format!("{folder}/{}", self.name),
            n => format!("{folder}/{}.{n}", self.name),
        };
        Ok(text.parse::<ObjectName>()?)
    }
}

/// One part of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalPart {
    /// Plain bytes.
    pub plain: u32,
    /// Sealed bytes.
    pub stored: u32,
    /// Kind of its frame.
    pub kind: u8,
    /// Of its sealing, in hex.
    pub nonce: String,
}

/// What is known of a WAL file without reading it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalMeta {
    /// Keyed BLAKE3 of the plain file: decides "the same bytes again".
    pub content: Hash32,
    /// Its length.
    pub len: u64,
    /// Its parts, in order.
    pub parts: Vec<WalPart>,
    /// BLAKE3 of all parts as they are stored.
    pub parts_hash: Hash32,
    /// What the layer above knows of the file.
    pub facts: serde_json::Value,
}

/// The authenticated front of an object.
#[derive(Clone, PartialEq, Debug)]
pub struct WalFront {
    /// Who signed.
    pub signer: KeyId,
    /// The newest log entry that the pusher had seen.
    pub head: (u64, Hash32),
    /// The metadata.
    pub meta: WalMeta,
    envelope: Envelope,
    signed: Vec<u8>,
    signature: [u8; SIGNATURE],
    parts_at: u64,
}

/// What goes into an object besides the file's bytes.
pub struct WalOrigin<'a> {
    /// The repository that it is for.
    pub repository: RepositoryId,
    /// Who signs.
    pub signer: &'a SigningKey,
    /// The newest log entry that the pusher has seen.
    pub head: (u64, Hash32),
    /// Which file.
    pub address: &'a WalAddress,
    /// What the layer above knows of the file.
    pub facts: serde_json::Value,
}

/// The keyed hash of a file's plain bytes.
pub fn content_id(sealing: &Sealing, plain: &[u8]) -> Hash32 {
    Hash32(*sealing.wal_hasher().update(plain).finalize().as_bytes())
}

fn meta_aad(sealing: &Sealing, name: &str) -> Vec<u8> {
    [b"pgcairn 1 wal meta".as_slice(), &sealing.domain.0, name.as_bytes()].concat()
}

fn part_aad(sealing: &Sealing, content: &Hash32, index: usize, count: usize, kind: u8, plain: u32) -> Vec<u8> {
    let mut aad = Writer::default();
    aad.bytes(b"pgcairn 1 wal part").bytes(&sealing.domain.0).bytes(&content.0);
    aad.u32(index as u32).u32(count as u32).u8(kind).u32(plain);
    aad.0
}

/// Builds the object of a file; the pieces are to be stored one behind the other.
///
/// # Errors
/// If the file is too long, or the operating system has no random numbers.
pub fn encode(sealing: &Sealing, origin: WalOrigin<'_>, plain: &[u8], level: i32) -> Result<Vec<Vec<u8>>, RepoError> {
    if plain.len() as u64 > MAX_FILE {
        return Err(RepoError::internal("a WAL file of more than 1 GiB"));
    }
    let content = content_id(sealing, plain);
    let (key, envelope) = sealing.object_key()?;
    let pieces: Vec<&[u8]> = plain.chunks(PART).collect();
    let sealed = pieces
        .par_iter()
        .enumerate()
        .map(|(index, piece)| {
            let frame = codec::encode_whole(piece, level)?;
            let kind = u8::from(frame.kind);
            let aad = part_aad(sealing, &content, index, pieces.len(), kind, piece.len() as u32);
            let mut bytes = frame.bytes;
            let nonce = seal::seal_in_place(&key, &aad, &mut bytes)?;
            let part = WalPart { plain: piece.len() as u32, stored: bytes.len() as u32, kind, nonce: hex(&nonce) };
            Ok((part, bytes))
        })
        .collect::<Result<Vec<_>, RepoError>>()?;
    let (parts, bodies): (Vec<WalPart>, Vec<Vec<u8>>) = sealed.into_iter().unzip();
    let mut hasher = blake3::Hasher::new();
    for body in &bodies {
        hasher.update(body);
    }
    let parts_hash = Hash32(*hasher.finalize().as_bytes());
    let meta = WalMeta { content, len: plain.len() as u64, parts, parts_hash, facts: origin.facts };
    let meta = serde_json::to_vec(&meta).map_err(|_| RepoError::internal("metadata that are no JSON"))?;
    if meta.len() + seal::TAG > MAX_META as usize {
        return Err(RepoError::internal("the metadata of a WAL file are longer than anyone would read"));
    }
    let sealed_meta = sealing.seal_table(&meta_aad(sealing, &origin.address.name), meta)?;
    let mut front = Writer::default();
    front.bytes(MAGIC).bytes(&origin.repository.0).bytes(&origin.signer.id().0);
    front.u64(origin.head.0).bytes(&origin.head.1.0).u32(sealed_meta.bytes.len() as u32).bytes(&[0; 12]);
    front.bytes(&envelope.0).bytes(&sealed_meta.salt).bytes(&sealed_meta.nonce).bytes(&sealed_meta.bytes);
    let signature = origin.signer.sign(CONTEXT, &[&front.0, &address_bytes(origin.address)]);
    front.bytes(&signature);
    let mut all = vec![front.0];
    all.extend(bodies);
    Ok(all)
}

fn address_bytes(address: &WalAddress) -> Vec<u8> {
    let mut bytes = Writer::default();
    bytes.bytes(&address.cluster).u64(address.system_identifier).bytes(address.name.as_bytes());
    bytes.0
}

/// How much of the object must be read before [`WalFront::decode`] can succeed.
///
/// # Errors
/// If this is no WAL object.
pub fn front_len(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut from = Reader::new(bytes);
    if from.array::<8>()? != *MAGIC {
        return Err(Malformed("wrong magic number"));
    }
    from.bytes(72)?;
    let meta = from.u32()?;
    if meta > MAX_META {
        return Err(Malformed("its metadata are too long"));
    }
    Ok(HEAD + meta as usize + SIGNATURE)
}

impl WalFront {
    /// Reads the front of an object and opens its metadata. The signature is checked by [`WalFront::verify`].
    ///
    /// # Errors
    /// If it is malformed, of another repository, or its metadata don't open.
    pub fn decode(sealing: &Sealing, repository: RepositoryId, name: &str, object: &ObjectName, bytes: &[u8]) -> Result<Self, RepoError> {
        let corrupt = |e: Malformed| RepoError::corrupt(object, e.0);
        let len = front_len(bytes).map_err(corrupt)?;
        let bytes = bytes.get(..len).ok_or_else(|| RepoError::corrupt(object, "it ends too early"))?;
        let parse = || -> Result<_, Malformed> {
            let mut from = Reader::new(bytes);
            from.bytes(8)?;
            let (of, signer) = (RepositoryId(from.array()?), KeyId(from.array()?));
            let head = (from.u64()?, Hash32(from.array()?));
            let (meta_len, zero) = (from.u32()?, from.array::<12>()?);
            let envelope = Envelope(from.array::<{ envelope::LEN }>()?);
            let (salt, nonce) = (from.array()?, from.array()?);
            let sealed = from.bytes(meta_len as usize)?.to_vec();
            if zero != [0; 12] {
                return Err(Malformed("a reserved field is not zero"));
            }
            Ok((of, signer, head, envelope, salt, nonce, sealed, from.array::<SIGNATURE>()?))
        };
        let (of, signer, head, envelope, salt, nonce, sealed, signature) = parse().map_err(corrupt)?;
        if of != repository {
            return Err(RepoError::corrupt(object, "it belongs to another repository"));
        }
        let plain = seal::open_salted(sealing.table_key(), &salt, &nonce, &meta_aad(sealing, name), sealed, "the metadata of a WAL file")
            .map_err(|source| RepoError::Crypt { object: object.to_string(), source })?;
        let meta: WalMeta = serde_json::from_slice(&plain).map_err(|_| RepoError::corrupt(object, "its metadata are malformed"))?;
        let sum = meta.parts.iter().fold(0u64, |sum, p| sum + u64::from(p.plain));
        if meta.len > MAX_FILE || sum != meta.len || meta.parts.iter().any(|p| p.plain as usize > PART || p.stored as usize > PART + 1024) {
            return Err(RepoError::corrupt(object, "its lengths don't add up"));
        }
        let signed = bytes.get(..len - SIGNATURE).unwrap_or_default().to_vec();
        Ok(WalFront { signer, head, meta, envelope, signed, signature, parts_at: len as u64 })
    }

    /// Did `key` sign this object for this address?
    pub fn verify(&self, key: &PublicKey, address: &WalAddress) -> bool {
        key.id() == self.signer && key.verify(CONTEXT, &[&self.signed, &address_bytes(address)], &self.signature).is_ok()
    }

    /// Where the parts begin in the object.
    pub fn parts_at(&self) -> u64 {
        self.parts_at
    }

    /// Stored bytes of all parts.
    pub fn parts_len(&self) -> u64 {
        self.meta.parts.iter().map(|p| u64::from(p.stored)).sum()
    }

    /// The object's whole size.
    pub fn object_len(&self) -> u64 {
        self.parts_at + self.parts_len()
    }

    /// The plain file out of the stored parts, every byte of it checked.
    ///
    /// # Errors
    /// If anything is not as it was when it was pushed.
    pub fn open(&self, opening: &Opening, object: &ObjectName, parts: &[u8]) -> Result<Vec<u8>, RepoError> {
        let crypt = |source: CryptError| RepoError::Crypt { object: object.to_string(), source };
        if blake3::hash(parts).as_bytes() != &self.meta.parts_hash.0 {
            return Err(RepoError::corrupt(object, "its content is not what was signed"));
        }
        let key = opening.open_envelope(&self.envelope).map_err(crypt)?;
        let mut from = Reader::new(parts);
        let mut pieces = Vec::with_capacity(self.meta.parts.len());
        for part in &self.meta.parts {
            pieces.push((part, from.bytes(part.stored as usize).map_err(|e| RepoError::corrupt(object, e.0))?));
        }
        from.end().map_err(|e| RepoError::corrupt(object, e.0))?;
        let count = pieces.len();
        let plain = pieces
            .par_iter()
            .enumerate()
            .map(|(index, (part, sealed))| {
                let nonce = crate::units::ids::unhex(&part.nonce)
                    .and_then(|n| <[u8; seal::NONCE]>::try_from(n).ok())
                    .ok_or_else(|| RepoError::corrupt(object, "a nonce is malformed"))?;
                let aad = part_aad(&opening.sealing, &self.meta.content, index, count, part.kind, part.plain);
                let frame = seal::open(&key, &nonce, &aad, sealed.to_vec(), "a part of a WAL file").map_err(crypt)?;
                codec::decode(part.kind, &frame, part.plain, None).map_err(|source| RepoError::Codec { object: object.to_string(), source })
            })
            .collect::<Result<Vec<Vec<u8>>, RepoError>>()?
            .concat();
        if content_id(&opening.sealing, &plain) != self.meta.content {
            return Err(RepoError::corrupt(object, "the file's bytes are not those that were pushed"));
        }
        Ok(plain)
    }
}
