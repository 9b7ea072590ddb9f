//! Keys and their derivation, the one sealing function, envelopes, key slots, signatures. Bytes in, bytes out.
//!
//! - `secret.rs`: 32 secret bytes, wiped when dropped; derivation; randomness straight from the operating system
//! - `seal.rs`: XChaCha20-Poly1305, the one function that encrypts; subkeys by salt for what lies under a shared key
//! - `keys.rs`: the domain's keys and what a role holds of them: [`Sealing`] writes, [`Opening`] reads too
//! - `envelope.rs`: an object's own key, sealed to the domain's public key by HPKE
//! - `slot.rs`: the root, sealed under a passphrase, a key file, a key that a command unwraps, or nothing
//! - `root_text.rs`: the root and key files as texts
//! - `sign.rs`: Ed25519 signatures
//!
//! What every byte means is written in format-spec.md, "Keys" and "Sealing".

pub mod envelope;
pub mod keys;
pub mod root_text;
pub mod seal;
pub mod secret;
pub mod sign;
pub mod slot;

use crate::units::{Class, Explain};

pub use keys::{ChunkRole, ContentSecret, Opening, Root, Sealing};
pub use secret::Secret;

/// What can go wrong with keys and sealed bytes.
#[derive(Debug, thiserror::Error)]
pub enum CryptError {
    /// The bytes were not sealed under this key with these associated data, or were changed since.
    #[error("{what} does not open: damaged, or sealed under another key")]
    NotAuthentic {
        /// What was to be opened.
        what: &'static str,
    },
    /// The bytes have not the form that they must have.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It was written by a newer program.
    #[error("{what} uses {feature} {number}, which this version does not know")]
    Unknown {
        /// What was read.
        what: &'static str,
        /// Which of its fields.
        feature: &'static str,
        /// Its value.
        number: u32,
    },
    /// It is sealed to a content key that is not at hand.
    #[error("it is sealed to content key {key}, which this host does not hold: the key was rotated after the host got its own")]
    NoContentKey {
        /// The key's id.
        key: crate::units::KeyId,
    },
    /// A command that gives the key of a slot gave none.
    #[error("key-command gave no key: {0}")]
    Command(String),
    /// The passphrase or key file opens no slot.
    #[error("the passphrase or key file does not open this repository")]
    WrongKey,
    /// No random numbers, or no memory for the key derivation.
    #[error("{0}")]
    System(String),
}

impl Explain for CryptError {
    fn class(&self) -> Class {
        match self {
            CryptError::NotAuthentic { .. } | CryptError::Malformed { .. } => Class::Corrupt,
            CryptError::Unknown { .. } => Class::Refused,
            CryptError::WrongKey | CryptError::NoContentKey { .. } => Class::Denied,
            CryptError::Command(_) => Class::Failed,
            CryptError::System(_) => Class::Failed,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            CryptError::Unknown { .. } => Some("use a newer pgcairn".into()),
            CryptError::NotAuthentic { .. } | CryptError::Malformed { .. } => {
                Some("bring the object back from a copy of the repository, or an older version of it".into())
            }
            CryptError::NoContentKey { .. } => Some(
                "run a command here once with a passphrase or key file of the repository, or `pgcairn key accept` with a file that `pgcairn key add-host` made since"
                    .into(),
            ),
            CryptError::Command(_) => Some("run the command by hand, as this user, with `/bin/sh -c` and the wrapped key on its standard input".into()),
            CryptError::WrongKey => Some(
                "give the right one by PGCAIRN_PASSPHRASE, --passphrase-file, --passphrase-command, --key-file or --key-command; without it nothing can be read"
                    .into(),
            ),
            _ => None,
        }
    }
}
