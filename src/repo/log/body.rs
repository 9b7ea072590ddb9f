//! Bodies: lists that are too long for an entry, each an object of its own, stored before the entry that names it.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `PGCNBDY\x01` |
//! | 8 | 16 | repository id |
//! | 24 | 8 | number of the entry, little-endian |
//! | 32 | 32 | salt |
//! | 64 | 24 | nonce |
//! | 88 | 4 | length *n* of the sealed list, little-endian |
//! | 92 | *n* | sealed list: canonical JSON of what would stand in the entry's `inline` |
//!
//! Its name is `body/<BLAKE3 of all its bytes>`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::entry::{associated_data, take};
use super::kind::*;
use super::{Sealed, TAG_LEN};
use crate::repo::json::{self, JsonError};
use crate::units::{Hash32, RepositoryId};

const MAGIC: &[u8; 8] = b"PGCNBDY\x01";
const HEADER_LEN: usize = 92;

/// The longest list in a body, before it is sealed: 64 MiB.
pub const BODY_LIMIT: usize = 64 << 20;

/// The longest body object.
pub(super) const OBJECT_LIMIT: usize = HEADER_LEN + BODY_LIMIT + TAG_LEN;

/// What a sealed body is bound to.
pub(super) fn body_data(repository: &RepositoryId, number: u64) -> Vec<u8> {
    associated_data(b"log body", repository, number)
}

/// Writes a body object.
pub(super) fn encode(repository: &RepositoryId, number: u64, sealed: &Sealed) -> Option<Vec<u8>> {
    let length = u32::try_from(sealed.ciphertext.len()).ok()?;
    let mut out = Vec::with_capacity(HEADER_LEN + sealed.ciphertext.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(repository.as_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&sealed.salt);
    out.extend_from_slice(&sealed.nonce);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&sealed.ciphertext);
    (out.len() <= OBJECT_LIMIT).then_some(out)
}

/// The body that an entry's plain text names, found without reading it: a hint.
pub(super) fn name_in(plain: &[u8]) -> Option<Hash32> {
    const FIELD: &[u8] = b"{\"body\":\"";
    let at = plain.windows(FIELD.len()).position(|window| window == FIELD)?;
    let digits = plain.get(at.checked_add(FIELD.len())?..)?.get(..64)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Takes a body object of this entry apart; `None` if it is none.
pub(super) fn split(bytes: &[u8], repository: &RepositoryId, number: u64) -> Option<Sealed> {
    let mut rest = bytes;
    let is_ours = take::<8>(&mut rest)? == *MAGIC
        && take::<16>(&mut rest)? == *repository.as_bytes()
        && u64::from_le_bytes(take(&mut rest)?) == number;
    let (salt, nonce) = (take(&mut rest)?, take(&mut rest)?);
    let length = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
    (is_ours && length == rest.len() && length >= TAG_LEN).then(|| Sealed { salt, nonce, ciphertext: rest.to_vec() })
}

fn hash_of<T>(held: &Held<T>) -> Option<Hash32> {
    match held {
        Held::Inline(_) => None,
        Held::Body(hash) => Some(*hash),
    }
}

fn list_of<T: Serialize>(held: &Held<T>) -> Option<Result<Vec<u8>, JsonError>> {
    held.get().map(json::to_canonical)
}

fn read<T: Serialize + DeserializeOwned>(held: &mut Held<T>, list: &[u8]) -> Result<(), JsonError> {
    *held = Held::Inline(json::from_canonical(list, BODY_LIMIT)?);
    Ok(())
}

/// The only list of a KEY entry.
fn ends_of(op: &mut KeyOp) -> Option<&mut Held<Vec<WalEnd>>> {
    match op {
        KeyOp::WalEnd { ends, .. } => Some(ends),
        _ => None,
    }
}

/// Evaluates `$do` with the list, whatever it lists, of the kinds that have one.
macro_rules! with_list {
    ($kind:expr, $held:ident => $do:expr, else $none:expr) => {
        match $kind {
            Kind::Progress(Progressed { packs: $held, .. }) => $do,
            Kind::Commit(commit) => {
                let Commit { lists: $held, .. } = &mut **commit;
                $do
            }
            Kind::Condemn(Packs { packs: $held }) | Kind::Sweep(Packs { packs: $held }) | Kind::Audit(Audit { packs: $held }) => $do,
            Kind::ExpireWal(ExpireWal { objects: $held, .. }) => $do,
            Kind::Damaged(Damaged { places: $held }) => $do,
            Kind::Key(keys) => match keys.keys.iter_mut().find_map(ends_of) {
                Some($held) => $do,
                None => $none,
            },
            Kind::Begin(_) | Kind::Abort(_) | Kind::Forget(_) | Kind::Note(_) => $none,
        }
    };
}

/// The body that an entry names.
pub(super) fn named_by(kind: &mut Kind) -> Option<Hash32> {
    with_list!(kind, held => hash_of(held), else None)
}

/// The canonical JSON of an entry's inline list; `None` if the kind has no list, or not in the entry.
pub(super) fn list(kind: &mut Kind) -> Option<Result<Vec<u8>, JsonError>> {
    with_list!(kind, held => list_of(held), else None)
}

/// The entry as if its list were in a body, wherever it is.
pub(super) fn without_list(mut kind: Kind) -> Kind {
    with_list!(&mut kind, held => *held = Held::Body(Hash32([0; 32])), else ());
    kind
}

/// Lets the entry name a body instead of its list.
pub(super) fn move_out(kind: &mut Kind, hash: Hash32) {
    with_list!(kind, held => *held = Held::Body(hash), else ());
}

/// Puts the list from a body into the entry.
pub(super) fn move_in(kind: &mut Kind, list: &[u8]) -> Result<(), &'static str> {
    let read = with_list!(kind, held => read(held, list), else Ok(()));
    read.map_err(|_| "its body/ object holds no list of its kind")?;
    kind.check()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{PackId, SessionId};
    use proptest::prelude::*;

    #[test]
    fn lists_move_out_and_in() {
        let set: PackSet = [(SessionId([1; 16]), PackId([2; 16])), (SessionId([1; 16]), PackId([1; 16]))].into_iter().collect();
        let inline = Kind::Sweep(Packs { packs: Held::Inline(set) });
        let mut kind = inline.clone();
        let list = list(&mut kind).unwrap().unwrap();
        move_out(&mut kind, Hash32([5; 32]));
        assert_eq!(named_by(&mut kind), Some(Hash32([5; 32])));
        assert!(move_in(&mut kind.clone(), b"{}").is_err() && move_in(&mut kind.clone(), b"[]").is_err());
        move_in(&mut kind, &list).unwrap();
        assert_eq!(kind, inline);
        assert_eq!(super::list(&mut Kind::Abort(Abort { session: SessionId([1; 16]) })), None);
        let revoke = || KeyOp::Revoke { key: crate::units::KeyId([1; 16]) };
        let end = |timeline: u32| WalEnd {
            cluster: "shop".into(),
            system_identifier: 1,
            last: crate::units::SegmentName { timeline: crate::units::TimelineId(timeline), log: 0, seg: 1 },
        };
        let ends = KeyOp::WalEnd { key: crate::units::KeyId([2; 16]), ends: Held::Inline(vec![end(1), end(2)]) };
        let inline = Kind::Key(Keys { keys: vec![revoke(), ends] });
        let mut kind = inline.clone();
        let list = super::list(&mut kind).unwrap().unwrap();
        move_out(&mut kind, Hash32([6; 32]));
        assert_eq!(named_by(&mut kind), Some(Hash32([6; 32])));
        assert!(kind.check().is_ok());
        move_in(&mut kind, &list).unwrap();
        assert_eq!(kind, inline);
        let twice = json::to_canonical(&vec![end(1), end(1)]).unwrap();
        move_out(&mut kind, Hash32([6; 32]));
        assert!(move_in(&mut kind, &twice).is_err());
        assert_eq!(super::list(&mut Kind::Key(Keys { keys: vec![revoke()] })), None);
    }

    proptest! {
        #[test]
        fn bodies_survive(number: u64, salt: [u8; 32], nonce: [u8; 24], ciphertext in proptest::collection::vec(any::<u8>(), 16..300)) {
            let repository = RepositoryId([4; 16]);
            let sealed = Sealed { salt, nonce, ciphertext };
            let bytes = encode(&repository, number, &sealed).unwrap();
            prop_assert_eq!(split(&bytes, &repository, number), Some(sealed));
            prop_assert_eq!(split(&bytes, &RepositoryId([5; 16]), number), None);
            prop_assert_eq!(split(&bytes, &repository, number ^ 1), None);
            prop_assert_eq!(split(&bytes[1..], &repository, number), None);
        }

        #[test]
        fn any_bytes_are_taken_apart_without_harm(bytes: Vec<u8>) {
            let _ = split(&[MAGIC.as_slice(), &[4; 16], &bytes].concat(), &RepositoryId([4; 16]), 0);
        }
    }
}
