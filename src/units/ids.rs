//! Fixed-size ids: bytes inside, lower-case hex outside.

use std::fmt;
use std::str::FromStr;

/// A text that should have been an id in hex and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {name}: {digits} lower-case hex digits are expected")]
pub struct ParseIdError {
    text: String,
    name: &'static str,
    digits: usize,
}

/// Writes `bytes` as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(char::from(DIGITS[usize::from(b >> 4)]));
        out.push(char::from(DIGITS[usize::from(b & 15)]));
    }
    out
}

/// Reads lower-case hex; `None` if the length is odd or a character is none of `0-9a-f`.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// From a slice of exactly the right length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                unhex(text)
                    .and_then(|bytes| Self::from_slice(&bytes))
                    .ok_or_else(|| ParseIdError { text: text.chars().take(80).collect(), name: $what, digits: 2 * $len })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&hex(&self.0))
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// The id of a chunk: keyed BLAKE3 of its content (format-spec.md, "Chunk ids").
    ChunkId, 32, "a chunk id"
}
id! {
    /// A BLAKE3 hash of an object's bytes.
    Hash32, 32, "a hash"
}
id! {
    /// The first 16 bytes of a chunk id, as structure nodes name chunks.
    ShortId, 16, "a short chunk id"
}
id! {
    /// A content digest of a part of a snapshot: over names, lengths and chunk ids, without places.
    Digest16, 16, "a content digest"
}
id! {
    /// A pack's id: random.
    PackId, 16, "a pack id"
}
id! {
    /// A session's id: the first 16 bytes of the hash of its BEGIN entry.
    SessionId, 16, "a session id"
}
id! {
    /// A repository's id: random.
    RepositoryId, 16, "a repository id"
}
id! {
    /// The id of a domain, the keys that chunks are named and sealed under: random.
    DomainId, 16, "a domain id"
}
id! {
    /// The id of a public key: the first 16 bytes of its BLAKE3 hash.
    KeyId, 16, "a key id"
}
id! {
    /// A key slot's id: random.
    SlotId, 16, "a key slot's id"
}

impl ChunkId {
    /// The form in which structure nodes name this chunk.
    pub fn short(&self) -> ShortId {
        let mut short = [0; 16];
        short.copy_from_slice(&self.0[..16]);
        ShortId(short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse_as_hex() {
        let id = PackId(std::array::from_fn(|i| i as u8 * 17));
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "00", "00112233445566778899AABBCCDDEEFF", "00112233445566778899aabbccddeefg", "é".repeat(16).as_str()] {
            assert!(bad.parse::<PackId>().is_err(), "{bad}");
        }
    }
}
