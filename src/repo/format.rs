//! The object `pgcairn`: what this is, and who may touch it.
//!
//! ```text
//!   0  16  magic "pgcairn store" 0x0d 0x0a 0x00
//!  16   4  format version: 1
//!  20   4  zero
//!  24   8  compatible features: may be ignored
//!  32   8  read-only compatible features: who doesn't know one must not write
//!  40   8  incompatible features: who doesn't know one must not read either
//!  48  16  repository id
//!  64  16  domain id
//!  80  16  zero
//!  96  32  BLAKE3 of bytes 0..96
//! ```
//! In clear and not authentic: what it says is believed only once a key slot or the host's own state says the same.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::bytes::{Malformed, Reader, Writer};
use crate::units::{Class, DomainId, Explain, RepositoryId};

/// The object's name.
pub const NAME: &str = "pgcairn";
/// Bytes of the object.
pub const LEN: usize = 128;
const MAGIC: &[u8; 16] = b"pgcairn store\r\n\0";
const VERSION: u32 = 1;

/// What the format object says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    /// The repository.
    pub repository: RepositoryId,
    /// The domain of its chunks.
    pub domain: DomainId,
    /// Features that concern writers, of which this program knows none.
    pub read_only_features: u64,
}

/// Why a format object is not accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// No repository of ours.
    #[error("the object \"pgcairn\" is not that of a repository: {0}")]
    Malformed(&'static str),
    /// A newer format.
    #[error("this repository has format {0}; this program reads format 1")]
    Version(u32),
    /// A feature that must be understood.
    #[error("this repository uses features that this program does not know (bits {0:#x})")]
    Features(u64),
}

impl From<Malformed> for FormatError {
    fn from(e: Malformed) -> Self {
        FormatError::Malformed(e.0)
    }
}

impl Explain for FormatError {
    fn class(&self) -> Class {
        match self {
            FormatError::Malformed(_) => Class::Corrupt,
            _ => Class::Refused,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            FormatError::Malformed(_) => Some("bring the object pgcairn back from a copy of the repository; is the path right?".into()),
            _ => Some("use a newer pgcairn".into()),
        }
    }
}

impl Format {
    /// As bytes.
    pub fn encode(&self) -> [u8; LEN] {
        let mut out = Writer::default();
        out.bytes(MAGIC).u32(VERSION).u32(0).u64(0).u64(self.read_only_features).u64(0);
        out.bytes(&self.repository.0).bytes(&self.domain.0).bytes(&[0; 16]);
        let hash = blake3::hash(&out.0);
        out.bytes(hash.as_bytes());
        let mut bytes = [0; LEN];
        bytes.iter_mut().zip(out.0).for_each(|(to, from)| *to = from);
        bytes
    }

    /// Reads a format object.
    ///
    /// # Errors
    /// If it is none, of a newer format, or uses features that even a reader must know.
    pub fn decode(bytes: &[u8]) -> Result<Format, FormatError> {
        let mut from = Reader::new(bytes);
        if from.array::<16>()? != *MAGIC {
            return Err(FormatError::Malformed("wrong magic number"));
        }
        let (version, _, _) = (from.u32()?, from.u32()?, from.u64()?);
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let (read_only_features, incompatible) = (from.u64()?, from.u64()?);
        let (repository, domain) = (RepositoryId(from.array()?), DomainId(from.array()?));
        let (_, hash) = (from.array::<16>()?, from.array::<32>()?);
        from.end()?;
        if bytes.get(..96).map(blake3::hash).is_none_or(|h| h.as_bytes() != &hash) {
            return Err(FormatError::Malformed("its checksum is wrong"));
        }
        if incompatible != 0 {
            return Err(FormatError::Features(incompatible));
        }
        Ok(Format { repository, domain, read_only_features })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(at: usize, to: u8) -> Vec<u8> {
        let mut bytes = Format { repository: RepositoryId([1; 16]), domain: DomainId([2; 16]), read_only_features: 0 }.encode();
        bytes[at] = to;
        let hash = blake3::hash(&bytes[..96]);
        bytes[96..].copy_from_slice(hash.as_bytes());
        bytes.to_vec()
    }

    #[test]
    fn newer_formats_and_features_are_refused_by_older_programs() {
        assert_eq!(Format::decode(&changed(16, 2)), Err(FormatError::Version(2)));
        assert_eq!(Format::decode(&changed(40, 4)), Err(FormatError::Features(4)));
        assert_eq!(Format::decode(&changed(32, 1)).unwrap().read_only_features, 1);
        assert!(Format::decode(&changed(24, 0xff)).is_ok());
    }

    #[test]
    fn damage_is_seen() {
        let bytes = Format { repository: RepositoryId([1; 16]), domain: DomainId([2; 16]), read_only_features: 0 }.encode();
        assert!(Format::decode(&bytes).is_ok());
        for at in 0..LEN {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert!(Format::decode(&damaged).is_err(), "byte {at}");
        }
        assert!(Format::decode(&bytes[..LEN - 1]).is_err());
    }
}
