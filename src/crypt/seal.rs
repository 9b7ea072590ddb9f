//! The one sealing function: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03).
//!
//! ```text
//! nonce = first 24 bytes of BLAKE3(keyed by derive(key, "pgcairn 1 nonce"), random 32 | u64 length of aad | aad | plain)
//! bytes = XChaCha20-Poly1305(key, nonce, aad, plain), tag of 16 bytes at the end
//! ```
//!
//! The random bytes come from the operating system for each call. That the nonce is a keyed hash over them *and* all
//! that is sealed means that even a machine whose random numbers repeat (a cloned kernel) repeats only equal
//! ciphertexts, never a nonce under two contents.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::{CryptError, Secret, secret};

/// Bytes that sealing adds at the end.
pub const TAG: usize = 16;
/// Bytes of a nonce.
pub const NONCE: usize = 24;
/// Bytes of a salt.
pub const SALT: usize = 32;

const NONCE_CONTEXT: &str = "pgcairn 1 nonce";
const SALT_CONTEXT: &str = "pgcairn 1 salt";
const SUBKEY_CONTEXT: &str = "pgcairn 1 subkey";

/// Seals `plain` in place: the buffer becomes the ciphertext with its tag.
///
/// # Errors
/// If the operating system has no random numbers.
pub fn seal_in_place(key: &Secret, aad: &[u8], plain: &mut Vec<u8>) -> Result<[u8; NONCE], CryptError> {
    let nonce = draw_nonce(key, aad, plain)?;
    let cipher = XChaCha20Poly1305::new(key.expose().into());
    cipher
        .encrypt_in_place(&XNonce::from(nonce), aad, plain)
        .map_err(|_| CryptError::Malformed { what: "a frame", why: "too long to be sealed" })?;
    Ok(nonce)
}

/// Opens what [`seal_in_place`] sealed.
///
/// # Errors
/// [`CryptError::NotAuthentic`] if key, nonce, associated data or bytes are not those of the sealing.
pub fn open(key: &Secret, nonce: &[u8; NONCE], aad: &[u8], mut sealed: Vec<u8>, what: &'static str) -> Result<Vec<u8>, CryptError> {
    let cipher = XChaCha20Poly1305::new(key.expose().into());
    cipher.decrypt_in_place(&XNonce::from(*nonce), aad, &mut sealed).map_err(|_| CryptError::NotAuthentic { what })?;
    Ok(sealed)
}

/// A fresh salt for an object under a key that many objects share.
///
/// # Errors
/// If the operating system has no random numbers.
pub fn draw_salt(key: &Secret, parts: &[&[u8]]) -> Result<[u8; SALT], CryptError> {
    let random: [u8; 32] = secret::random()?;
    let mut all: Vec<&[u8]> = vec![&random];
    all.extend_from_slice(parts);
    Ok(*key.derive(SALT_CONTEXT).keyed(&all).expose())
}

/// The key for one object: out of the shared key and the object's salt.
pub fn subkey(key: &Secret, salt: &[u8; SALT]) -> Secret {
    key.derive(SUBKEY_CONTEXT).keyed(&[salt])
}

/// What sealing under a shared key gives.
pub struct Salted {
    /// Names the subkey.
    pub salt: [u8; SALT],
    /// Of the ciphertext.
    pub nonce: [u8; NONCE],
    /// Ciphertext and tag.
    pub bytes: Vec<u8>,
}

/// Seals one object under a key that many objects share, with a salt of its own.
///
/// # Errors
/// If the operating system has no random numbers.
pub fn seal_salted(key: &Secret, aad: &[u8], mut plain: Vec<u8>) -> Result<Salted, CryptError> {
    let salt = draw_salt(key, &[&(aad.len() as u64).to_le_bytes(), aad, &plain])?;
    let nonce = seal_in_place(&subkey(key, &salt), aad, &mut plain)?;
    Ok(Salted { salt, nonce, bytes: plain })
}

/// Opens what [`seal_salted`] sealed.
///
/// # Errors
/// [`CryptError::NotAuthentic`].
pub fn open_salted(
    key: &Secret,
    salt: &[u8; SALT],
    nonce: &[u8; NONCE],
    aad: &[u8],
    sealed: Vec<u8>,
    what: &'static str,
) -> Result<Vec<u8>, CryptError> {
    open(&subkey(key, salt), nonce, aad, sealed, what)
}

fn draw_nonce(key: &Secret, aad: &[u8], plain: &[u8]) -> Result<[u8; NONCE], CryptError> {
    let random: [u8; 32] = secret::random()?;
    Ok(nonce_of(key, &random, aad, plain))
}

fn nonce_of(key: &Secret, random: &[u8; 32], aad: &[u8], plain: &[u8]) -> [u8; NONCE] {
    let mut hasher = blake3::Hasher::new_keyed(key.derive(NONCE_CONTEXT).expose());
    hasher.update(random).update(&(aad.len() as u64).to_le_bytes()).update(aad).update(plain);
    let mut nonce = [0; NONCE];
    hasher.finalize_xof().fill(&mut nonce);
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_nonce_depends_on_everything() {
        let key = Secret::new([1; 32]);
        let base = nonce_of(&key, &[2; 32], b"aad", b"plain");
        assert_ne!(base, nonce_of(&Secret::new([9; 32]), &[2; 32], b"aad", b"plain"));
        assert_ne!(base, nonce_of(&key, &[3; 32], b"aad", b"plain"));
        assert_ne!(base, nonce_of(&key, &[2; 32], b"aa", b"dplain"));
        assert_eq!(base, nonce_of(&key, &[2; 32], b"aad", b"plain"));
    }

    proptest! {
        #[test]
        fn sealed_bytes_open_and_only_unchanged(plain: Vec<u8>, aad: Vec<u8>, flip: prop::sample::Index) {
            let key = Secret::new([7; 32]);
            let sealed = seal_salted(&key, &aad, plain.clone()).unwrap();
            prop_assert_eq!(sealed.bytes.len(), plain.len() + TAG);
            let open = |bytes: Vec<u8>, aad: &[u8]| open_salted(&key, &sealed.salt, &sealed.nonce, aad, bytes, "it");
            prop_assert_eq!(open(sealed.bytes.clone(), &aad).unwrap(), plain);
            let mut changed = sealed.bytes.clone();
            let at = flip.index(changed.len());
            changed[at] ^= 1;
            prop_assert!(open(changed, &aad).is_err());
            let mut other = aad.clone();
            other.push(0);
            prop_assert!(open(sealed.bytes.clone(), &other).is_err());
        }
    }
}
