//! `pg_filenode.map`: which files hold the catalogs that can't be looked up in the catalog (utils/cache/relmapper.c).
//!
//! ```text
//! magic        u32   0       0x00592717
//! mappings     i32   4       how many are used
//! (oid, file)  u32s  8       62 of them up to 15, 64 from 16 on
//! CRC-32C      u32   504     up to 15, then 4 bytes of padding: 512 in all
//!                    520     from 16 on: 524 in all
//! ```
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::bytes::u32_at;
use crate::units::{Class, Explain};

/// `RELMAPPER_FILEMAGIC`
const MAGIC: u32 = 0x0059_2717;

/// What is wrong with a `pg_filenode.map`. Up to 15 the server writes it in place: read it again before it is damage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilenodeMapError {
    /// Neither 512 bytes (up to 15) nor 524 (from 16 on).
    #[error("pg_filenode.map has {len} bytes, not 512 or 524")]
    Length {
        /// Its length in bytes.
        len: usize,
    },
    /// Not the file's magic number.
    #[error("pg_filenode.map begins with {found:08x}, not 00592717")]
    Magic {
        /// The number found.
        found: u32,
    },
    /// More mappings than there is room for.
    #[error("pg_filenode.map claims {found} mappings")]
    Mappings {
        /// The number claimed.
        found: u32,
    },
    /// The checksum doesn't fit.
    #[error("pg_filenode.map is damaged or half-written: its CRC-32C is {stored:08x}, computed {computed:08x}")]
    Checksum {
        /// In the file.
        stored: u32,
        /// Over its bytes.
        computed: u32,
    },
}

impl Explain for FilenodeMapError {
    fn class(&self) -> Class {
        Class::Corrupt
    }
}

/// Is this a whole `pg_filenode.map`?
///
/// # Errors
/// What is wrong with it.
pub fn check_filenode_map(bytes: &[u8]) -> Result<(), FilenodeMapError> {
    let len = bytes.len();
    let (room, crc_at) = match len {
        512 => (62, 504),
        524 => (64, 520),
        _ => return Err(FilenodeMapError::Length { len }),
    };
    let field = |at| u32_at(bytes, at).ok_or(FilenodeMapError::Length { len });
    let (magic, mappings, stored) = (field(0)?, field(4)?, field(crc_at)?);
    if magic != MAGIC {
        return Err(FilenodeMapError::Magic { found: magic });
    }
    if mappings > room {
        return Err(FilenodeMapError::Mappings { found: mappings });
    }
    let computed = crc32c::crc32c(bytes.get(..crc_at).unwrap_or_default());
    if computed != stored {
        return Err(FilenodeMapError::Checksum { stored, computed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::fixtures;

    #[test]
    fn maps_of_real_servers_are_whole_and_any_change_is_seen() {
        for major in [14, 15, 17, 18, 19] {
            let map = fixtures::file(major, "pg_filenode.map");
            assert_eq!(check_filenode_map(&map), Ok(()));
            let crc_end = if major < 16 { 508 } else { 524 };
            for at in 0..crc_end {
                let mut changed = map.clone();
                changed[at] ^= 0x40;
                assert!(check_filenode_map(&changed).is_err(), "{at}");
            }
            assert_eq!(check_filenode_map(&map[1..]), Err(FilenodeMapError::Length { len: map.len() - 1 }));
        }
    }
}
