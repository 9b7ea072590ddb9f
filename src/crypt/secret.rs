//! 32 secret bytes, and where random ones come from.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::CryptError;

/// 32 secret bytes: wiped from memory when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: [u8; 32]) -> Self {
        Secret(bytes)
    }

    /// Fresh ones.
    ///
    /// # Errors
    /// If the operating system has none to give.
    pub fn random() -> Result<Self, CryptError> {
        Ok(Secret(random()?))
    }

    /// The bytes, for a primitive.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Another key out of this one: BLAKE3 in key derivation mode with a context of ours.
    pub fn derive(&self, context: &'static str) -> Secret {
        Secret(blake3::derive_key(context, &self.0))
    }

    /// Another key out of this one and public bytes: BLAKE3 keyed by it.
    pub fn keyed(&self, parts: &[&[u8]]) -> Secret {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        Secret(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Random bytes from the operating system, never from a generator in this process: a virtual machine that is resumed
/// twice must not repeat them.
///
/// # Errors
/// If the operating system has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], CryptError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| CryptError::System(format!("no random numbers from the operating system: {e}")))?;
    Ok(bytes)
}
