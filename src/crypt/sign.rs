//! Signatures: Ed25519, verified strictly, each bound to what it is for.
//!
//! What is signed is `"pgcairn 1 " ‖ context ‖ 0x00 ‖ parts`, so that a signature made for one purpose is worth
//! nothing for another. Contexts are fixed ASCII words without a zero byte (`log entry`); the parts are put one after
//! the other without lengths, so a caller's layout must itself say where each ends.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::fmt;

use ed25519_dalek::Signer as _;

use crate::units::ids::{hex, unhex};
use crate::units::{Class, Explain, KeyId};

/// Length of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// A signature's bytes.
pub type Signature = [u8; SIGNATURE_LEN];

/// Why a key or a signature is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The bytes are no Ed25519 public key, or one of small order, under which signatures prove nothing.
    #[error("not a usable Ed25519 public key")]
    PublicKey,
    /// The signature was not made by this key over these bytes.
    #[error("the signature of key {0} does not verify")]
    Signature(KeyId),
}

impl Explain for SignError {
    fn class(&self) -> Class {
        Class::Corrupt
    }
}

/// The key id of a public key: the first 16 bytes of its BLAKE3 hash.
pub fn key_id(public: &[u8]) -> KeyId {
    let mut id = [0; KeyId::LEN];
    blake3::Hasher::new().update(public).finalize_xof().fill(&mut id);
    KeyId(id)
}

fn message(context: &'static [u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut message = Vec::with_capacity(11 + context.len() + parts.iter().map(|p| p.len()).sum::<usize>());
    message.extend_from_slice(b"pgcairn 1 ");
    message.extend_from_slice(context);
    message.push(0);
    for part in parts {
        message.extend_from_slice(part);
    }
    message
}

/// A secret key that signs. Wiped when dropped; never printed.
pub struct SigningKey {
    // Boxed, so that moving the key leaves no copies behind; the inner type wipes itself when dropped.
    secret: Box<ed25519_dalek::SigningKey>,
    public: PublicKey,
}

impl SigningKey {
    /// From the 32 bytes of its seed, which come from the system's random source.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let secret = Box::new(ed25519_dalek::SigningKey::from_bytes(seed));
        let public = PublicKey::from_verifying(secret.verifying_key());
        SigningKey { secret, public }
    }

    /// The seed, to be kept in the state or in a slot.
    pub fn seed(&self) -> &[u8; 32] {
        self.secret.as_bytes()
    }

    /// The other half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The id of the other half.
    pub fn id(&self) -> KeyId {
        self.public.id
    }

    /// Signs `parts`, one after the other, for `context`.
    pub fn sign(&self, context: &'static [u8], parts: &[&[u8]]) -> Signature {
        self.secret.sign(&message(context, parts)).to_bytes()
    }
}

impl Clone for SigningKey {
    fn clone(&self) -> Self {
        SigningKey::from_seed(self.seed())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id)
    }
}

/// A public key that verifies. Never one of small order.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: ed25519_dalek::VerifyingKey,
    id: KeyId,
}

impl PublicKey {
    /// From its 32 bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, SignError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| SignError::PublicKey)?;
        // A point has several encodings; only the one that we would write is accepted, so that one key has one id.
        if key.is_weak() || key.to_edwards().compress().as_bytes() != bytes {
            return Err(SignError::PublicKey);
        }
        Ok(Self::from_verifying(key))
    }

    fn from_verifying(key: ed25519_dalek::VerifyingKey) -> Self {
        let id = key_id(key.as_bytes());
        PublicKey { key, id }
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// The first 16 bytes of the BLAKE3 hash of its bytes.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Was `signature` made by this key's other half over `parts` for `context`?
    pub fn verify(&self, context: &'static [u8], parts: &[&[u8]], signature: &Signature) -> Result<(), SignError> {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        self.key.verify_strict(&message(context, parts), &signature).map_err(|_| SignError::Signature(self.id))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex(self.as_bytes()))
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex(self.as_bytes()))
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(d)?;
        let bytes = unhex(&text).and_then(|b| <[u8; 32]>::try_from(b).ok());
        let bytes = bytes.ok_or_else(|| serde::de::Error::custom("a public key has 64 lower-case hex digits"))?;
        PublicKey::from_bytes(&bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_known_seed_gives_the_known_key() {
        // RFC 8032, section 7.1, TEST 1.
        let seed: [u8; 32] = unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap().try_into().unwrap();
        let key = SigningKey::from_seed(&seed);
        assert_eq!(hex(key.public().as_bytes()), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(key.id(), KeyId::from_slice(&blake3::hash(key.public().as_bytes()).as_bytes()[..16]).unwrap());
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.id()));
        let plain = ed25519_dalek::SigningKey::from_bytes(&seed).sign(b"pgcairn 1 log entry\0abc").to_bytes();
        assert_eq!(key.sign(b"log entry", &[b"a", b"bc"]), plain);
    }

    #[test]
    fn weak_and_odd_keys_are_refused() {
        let identity = {
            let mut b = [0; 32];
            b[0] = 1;
            b
        };
        let mut not_reduced = [0xff; 32];
        not_reduced[0] = 0xee; // p + 1: another encoding of the identity
        not_reduced[31] = 0x7f;
        for bytes in [[0; 32], identity, not_reduced, [2; 32]] {
            assert!(PublicKey::from_bytes(&bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn only_the_same_bytes_for_the_same_purpose_verify(seed: [u8; 32], text: Vec<u8>, at: prop::sample::Index, bit in 0..8u32) {
            let key = SigningKey::from_seed(&seed);
            let signature = key.sign(b"log entry", &[&text]);
            let public: PublicKey = serde_json::from_str(&serde_json::to_string(key.public()).unwrap()).unwrap();
            prop_assert_eq!(public.verify(b"log entry", &[&text], &signature), Ok(()));
            prop_assert!(public.verify(b"wal object", &[&text], &signature).is_err());
            let mut other = signature;
            other[at.index(64)] ^= 1 << bit;
            prop_assert!(public.verify(b"log entry", &[&text], &other).is_err());
            let mut longer = text.clone();
            longer.push(0);
            prop_assert!(public.verify(b"log entry", &[&longer], &signature).is_err());
        }
    }
}
