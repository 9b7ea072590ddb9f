//! Signatures: Ed25519, verified strictly.
use std::fmt;

use ed25519_dalek::{Signer, VerifyingKey};

use super::{CryptError, Secret, keys::key_id};
use crate::units::KeyId;

/// Signs.
#[derive(Clone)]
pub struct SigningKey(Secret);

/// Verifies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// id
    pub fn id(&self) -> KeyId {
        key_id(&self.0)
    }
}

impl SigningKey {
    /// random
    pub fn random() -> Result<Self, CryptError> {
        Ok(SigningKey(Secret::random()?))
    }
    /// from seed
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        SigningKey(Secret::new(*seed))
    }
    /// seed
    pub fn seed(&self) -> &[u8; 32] {
        self.0.expose()
    }
    /// public
    pub fn public(&self) -> PublicKey {
        PublicKey(ed25519_dalek::SigningKey::from_bytes(self.0.expose()).verifying_key().to_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}
