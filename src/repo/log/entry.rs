//! The bytes of an entry.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `PGCNLOG\x01` |
//! | 8 | 16 | repository id |
//! | 24 | 8 | number, little-endian |
//! | 32 | 32 | hash of the entry before; zeros in entry 0 |
//! | 64 | 16 | key id of the signer |
//! | 80 | 32 | salt |
//! | 112 | 24 | nonce |
//! | 136 | 4 | length *n* of the sealed body, little-endian |
//! | 140 | *n* | sealed body |
//! | 140 + *n* | 64 | signature over all before it, context `log entry` |
//!
//! The body is canonical JSON of less than 16 KiB: `{"at":…,"entry":{"kind":…,…}}`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::kind::{KINDS, Kind};
use super::{Sealed, TAG_LEN};
use crate::crypt::sign::{SIGNATURE_LEN, Signature, SigningKey};
use crate::repo::json::{self, JsonError};
use crate::units::{Hash32, KeyId, RepositoryId, Timestamp};

const MAGIC: &[u8; 8] = b"PGCNLOG\x01";
const HEADER_LEN: usize = 140;

/// What an entry's signature is made for.
pub(super) const CONTEXT: &[u8] = b"log entry";

/// The longest body before it is sealed.
pub const PLAIN_LIMIT: usize = 16 * 1024 - 1;

/// The longest entry.
pub const ENTRY_LIMIT: usize = HEADER_LEN + PLAIN_LIMIT + TAG_LEN + SIGNATURE_LEN;

/// An entry's header in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub repository: RepositoryId,
    pub number: u64,
    pub before: Hash32,
    pub signer: KeyId,
}

/// An entry taken apart; nothing of it is proven yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    pub header: Header,
    pub sealed: Sealed,
    pub signed: &'a [u8],
    pub signature: Signature,
}

/// What a sealed entry or body is bound to.
pub(super) fn associated_data(role: &[u8], repository: &RepositoryId, number: u64) -> Vec<u8> {
    [b"pgcairn 1 ", role, b"\0", repository.as_bytes(), &number.to_le_bytes()].concat()
}

impl Header {
    /// What the sealed body of this entry is bound to.
    pub fn associated_data(&self) -> Vec<u8> {
        associated_data(CONTEXT, &self.repository, self.number)
    }
}

/// Writes an entry.
pub(super) fn encode(header: &Header, sealed: &Sealed, key: &SigningKey) -> Option<Vec<u8>> {
    let length = u32::try_from(sealed.ciphertext.len()).ok()?;
    let mut out = Vec::with_capacity(HEADER_LEN + sealed.ciphertext.len() + SIGNATURE_LEN);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(header.repository.as_bytes());
    out.extend_from_slice(&header.number.to_le_bytes());
    out.extend_from_slice(header.before.as_bytes());
    out.extend_from_slice(header.signer.as_bytes());
    out.extend_from_slice(&sealed.salt);
    out.extend_from_slice(&sealed.nonce);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&sealed.ciphertext);
    let signature = key.sign(CONTEXT, &[&out]);
    out.extend_from_slice(&signature);
    (out.len() <= ENTRY_LIMIT).then_some(out)
}

/// Takes `N` bytes off the front.
pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// Takes an entry apart. The reason is for an alarm.
pub(super) fn split(bytes: &[u8]) -> Result<Parts<'_>, &'static str> {
    if bytes.len() > ENTRY_LIMIT {
        return Err("it is too long for an entry");
    }
    let (signed, signature) = bytes.split_last_chunk::<SIGNATURE_LEN>().ok_or("it is too short for an entry")?;
    let mut rest = signed;
    let parts = (|| {
        let magic = take::<8>(&mut rest)?;
        let header = Header {
            repository: RepositoryId(take(&mut rest)?),
            number: u64::from_le_bytes(take(&mut rest)?),
            before: Hash32(take(&mut rest)?),
            signer: KeyId(take(&mut rest)?),
        };
        let (salt, nonce) = (take(&mut rest)?, take(&mut rest)?);
        let length = u32::from_le_bytes(take(&mut rest)?);
        let sealed = Sealed { salt, nonce, ciphertext: rest.to_vec() };
        Some((magic, length, Parts { header, sealed, signed, signature: *signature }))
    })();
    let (magic, length, parts) = parts.ok_or("it is too short for an entry")?;
    if magic != *MAGIC {
        return Err("it doesn't begin like an entry");
    }
    if usize::try_from(length).ok() != Some(parts.sealed.ciphertext.len()) || parts.sealed.ciphertext.len() < TAG_LEN {
        return Err("its length is not what its header says");
    }
    Ok(parts)
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    at: Timestamp,
    entry: Kind,
}

/// What an entry's body says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    Known(Timestamp, Kind),
    /// Of an unknown kind that says `"must":false`.
    Ignorable(Timestamp),
    /// Of an unknown kind, or of a known one with something that this program doesn't know.
    Unknown(String),
}

/// A body's canonical JSON, however long it is.
pub(super) fn encode_plain(at: Timestamp, kind: &Kind) -> Result<Vec<u8>, JsonError> {
    json::to_canonical(&Plain { at, entry: kind.clone() })
}

/// Reads a body. An error means: not well-formed.
pub(super) fn decode_plain(bytes: &[u8]) -> Result<Said, &'static str> {
    let value = json::value_from_canonical(bytes, PLAIN_LIMIT).map_err(|_| "its body is not canonical JSON")?;
    let entry = value.get("entry").ok_or("its body has no entry")?;
    let name = entry.get("kind").and_then(Value::as_str).ok_or("its body names no kind")?.to_owned();
    let at = value.get("at").and_then(Value::as_u64).and_then(|at| i64::try_from(at).ok()).ok_or("its body has no time")?;
    if !KINDS.contains(&name.as_str()) {
        let ignorable = entry.get("must") == Some(&Value::Bool(false));
        return Ok(if ignorable { Said::Ignorable(Timestamp(at)) } else { Said::Unknown(name) });
    }
    // What can't be decoded may be what a newer program added: this one can't say that it is void.
    let Ok(plain) = serde_json::from_value::<Plain>(value) else { return Ok(Said::Unknown(name)) };
    if json::to_canonical(&plain).as_deref() != Ok(bytes) {
        return Err("its body is not what an encoder writes");
    }
    plain.entry.check()?;
    Ok(Said::Known(plain.at, plain.entry))
}

#[cfg(test)]
mod tests {
    use super::super::kind::*;
    use super::*;
    use crate::units::SessionId;
    use proptest::prelude::*;

    fn header(number: u64) -> Header {
        Header { repository: RepositoryId([1; 16]), number, before: Hash32([2; 32]), signer: KeyId([3; 16]) }
    }

    #[test]
    fn bodies_are_read_in_one_form_only() {
        let abort = Kind::Abort(Abort { session: SessionId([7; 16]) });
        let plain = encode_plain(Timestamp(5), &abort).unwrap();
        let id = "07".repeat(16);
        assert_eq!(plain, format!(r#"{{"at":5,"entry":{{"kind":"ABORT","session":"{id}"}}}}"#).into_bytes());
        assert_eq!(decode_plain(&plain), Ok(Said::Known(Timestamp(5), abort)));
        let unknown = |name: &str| Ok(Said::Unknown(name.to_owned()));
        for (text, said) in [
            (format!(r#"{{"at":5,"entry":{{"kind":"ABORT","session":"{id}","x":1}}}}"#), unknown("ABORT")),
            (format!(r#"{{"at":5,"entry":{{"kind":"ABORT","must":false,"session":"{id}"}}}}"#), unknown("ABORT")),
            (format!(r#"{{"at":5,"entry":{{"kind":"ABORT","session":"{id}"}},"x":1}}"#), unknown("ABORT")),
            (r#"{"at":5,"entry":{"kind":"REPACK","x":[1]}}"#.to_owned(), unknown("REPACK")),
            (r#"{"at":5,"entry":{"kind":"REPACK","must":true}}"#.to_owned(), unknown("REPACK")),
            (r#"{"at":5,"entry":{"kind":"REPACK","must":false}}"#.to_owned(), Ok(Said::Ignorable(Timestamp(5)))),
            (r#"{"at":5,"entry":{"commit":1,"kind":"FORGET","window":false}}"#.to_owned(), Err("its body is not what an encoder writes")),
            (r#"{"at":5,"entry":{"commit":1,"commit":1,"kind":"FORGET"}}"#.to_owned(), Err("its body is not canonical JSON")),
            (r#"{"at":5,"entry":{"kind":"FORGET","commit":1}}"#.to_owned(), Err("its body is not canonical JSON")),
            (r#"{"entry":{"commit":1,"kind":"FORGET"}}"#.to_owned(), Err("its body has no time")),
            (r#"{"at":5,"entry":{"keys":[],"kind":"KEY"}}"#.to_owned(), Err("no keys are listed")),
        ] {
            // Keys that the table above has out of order are put right where that isn't the case's point.
            let sorted = serde_json::from_str::<Value>(&text).ok().filter(|_| said.is_ok()).and_then(|v| json::to_canonical(&v).ok());
            assert_eq!(decode_plain(&sorted.unwrap_or(text.clone().into_bytes())), said, "{text}");
        }
    }

    proptest! {
        #[test]
        fn entries_survive(number: u64, salt: [u8; 32], nonce: [u8; 24], body in proptest::collection::vec(any::<u8>(), 16..300), at: prop::sample::Index, bit in 0..8u32) {
            let key = SigningKey::from_seed(&[9; 32]);
            let sealed = Sealed { salt, nonce, ciphertext: body };
            let bytes = encode(&header(number), &sealed, &key).unwrap();
            let parts = split(&bytes).unwrap();
            prop_assert_eq!((&parts.header, &parts.sealed), (&header(number), &sealed));
            prop_assert!(key.public().verify(CONTEXT, &[parts.signed], &parts.signature).is_ok());
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            let refused = split(&flipped).is_ok_and(|p| key.public().verify(CONTEXT, &[p.signed], &p.signature).is_ok());
            prop_assert!(!refused);
            prop_assert!(split(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_are_taken_apart_without_harm(bytes: Vec<u8>) {
            let _ = split(&bytes);
            let _ = split(&[MAGIC.as_slice(), &bytes].concat());
            let _ = decode_plain(&bytes);
        }
    }
}
