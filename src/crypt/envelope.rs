//! An object's own key, sealed to the domain's public key: HPKE (RFC 9180), base mode,
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305; all context in `info`, no associated data.
//!
//! ```text
//!   0   1  algorithm: 1
//!   1  16  key id of the public key
//!  17  32  encapsulated key
//!  49  48  the sealed key
//!  97  32  commitment: derive_key("pgcairn 1 envelope commitment", key)
//! ```
//! `info` = "pgcairn 1 envelope" | algorithm u8 | domain id 16 | key id 16. An envelope travels with its blobs from pack to
//! pack, so it binds no pack.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use subtle::ConstantTimeEq;

use super::keys::{ContentPublic, ContentSecret};
use super::{CryptError, Secret};
use crate::units::{DomainId, KeyId};

/// Bytes of an envelope of algorithm 1.
pub const LEN: usize = 129;
/// HPKE with X25519.
pub const ALGORITHM: u8 = 1;
const COMMITMENT: &str = "pgcairn 1 envelope commitment";
const WHAT: &str = "a key envelope";

/// A sealed key, as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope(pub [u8; LEN]);

fn info(domain: DomainId, key: KeyId) -> Vec<u8> {
    [b"pgcairn 1 envelope".as_slice(), &[ALGORITHM], &domain.0, &key.0].concat()
}

/// Seals `key` for whoever holds the secret behind `to`.
///
/// # Errors
/// If the public key is unusable.
pub fn seal(key: &Secret, domain: DomainId, to: &ContentPublic) -> Result<Envelope, CryptError> {
    let unusable = |_| CryptError::Malformed { what: "the public key of the repository", why: "HPKE refuses it" };
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&to.0).map_err(unusable)?;
    let (encapsulated, sealed) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        &info(domain, to.id()),
        key.expose(),
        b"",
    )
    .map_err(unusable)?;
    let commitment = key.derive(COMMITMENT);
    let all = [&[ALGORITHM], to.id().0.as_slice(), &encapsulated.to_bytes(), &sealed, commitment.expose()].concat();
    all.try_into().map(Envelope).map_err(|_| CryptError::Malformed { what: WHAT, why: "unexpected length" })
}

impl Envelope {
    /// Which public key it was sealed to.
    ///
    /// # Errors
    /// [`CryptError::Unknown`] for another algorithm.
    pub fn key_id(&self) -> Result<KeyId, CryptError> {
        match self.0 {
            [ALGORITHM, ref rest @ ..] => {
                rest.first_chunk::<16>().map(|id| KeyId(*id)).ok_or(CryptError::Malformed { what: WHAT, why: "too short" })
            }
            [other, ..] => Err(CryptError::Unknown { what: WHAT, feature: "algorithm", number: other.into() }),
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`CryptError::NotAuthentic`] if it was sealed to another key or changed, or commits to another key.
    pub fn open(&self, domain: DomainId, with: &ContentSecret) -> Result<Secret, CryptError> {
        let id = self.key_id()?;
        let damaged = CryptError::NotAuthentic { what: WHAT };
        let (Some(encapsulated), Some(sealed), Some(commitment)) = (self.0.get(17..49), self.0.get(49..97), self.0.get(97..LEN)) else {
            return Err(damaged);
        };
        if id != with.public().id() {
            return Err(damaged);
        }
        let bad = |_| CryptError::NotAuthentic { what: WHAT };
        let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(with.expose()).map_err(bad)?;
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).map_err(bad)?;
        let key = zeroize::Zeroizing::new(
            hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                &OpModeR::Base,
                &secret,
                &encapsulated,
                &info(domain, id),
                sealed,
                b"",
            )
            .map_err(bad)?,
        );
        let key = Secret::new(key.as_slice().try_into().map_err(|_| CryptError::NotAuthentic { what: WHAT })?);
        if bool::from(key.derive(COMMITMENT).expose().as_slice().ct_eq(commitment)) { Ok(key) } else { Err(damaged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_opens_for_its_key_and_domain_alone() {
        let (mine, other) = (ContentSecret::random().unwrap(), ContentSecret::random().unwrap());
        let key = Secret::new([5; 32]);
        let envelope = seal(&key, DomainId([1; 16]), &mine.public()).unwrap();
        assert_eq!(envelope.open(DomainId([1; 16]), &mine).unwrap().expose(), key.expose());
        assert!(envelope.open(DomainId([2; 16]), &mine).is_err());
        assert!(envelope.open(DomainId([1; 16]), &other).is_err());
        for at in 0..LEN {
            let mut changed = envelope.clone();
            changed.0[at] ^= 1;
            assert!(changed.open(DomainId([1; 16]), &mine).is_err(), "byte {at}");
        }
    }
}
