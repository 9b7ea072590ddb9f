//! Key slots: the root, sealed under a passphrase, a key file, or nothing at all.
//!
//! ```text
//!   0   8  magic "PGCNKEY" 0x01
//!   8   1  kind: 1 passphrase, 2 key file, 3 clear
//!   9   1  role: 1 the whole root
//!  10   2  zero
//!  12   4  argon2id memory in KiB    (kind 1, else 0)
//!  16   4  argon2id passes           (kind 1, else 0)
//!  20   4  argon2id lanes            (kind 1, else 0)
//!  24  16  repository id
//!  40  16  slot id, random
//!  56  32  salt
//!  88  32  commitment: derive_key("pgcairn 1 slot commitment", wrapping key)
//! 120  24  nonce
//! 144 240  sealed root: 224 bytes and the tag; associated data = bytes 0..120
//! ```
//! Sealed root: repository id 16 | domain id 16 | owner's seed 32 | content secret 32 | id key 32 | table key 32 |
//! owner's public key 32 | content public key 32: opening checks that the halves match.
//!
//! The wrapping key is argon2id(passphrase, salt), or derive_key("pgcairn 1 key file", 32 bytes of the file) keyed over the
//! salt, or derive_key("pgcairn 1 clear", salt). All integers are little-endian.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::keys::{ContentSecret, Root};
use super::sign::SigningKey;
use super::{CryptError, Secret, seal, secret};
use crate::units::{DomainId, RepositoryId};

/// Bytes of a slot.
pub const LEN: usize = 384;
const MAGIC: &[u8; 8] = b"PGCNKEY\x01";
const HEADER: usize = 120;
const ROOT: usize = 224;
const WHAT: &str = "a key slot";
const COMMITMENT: &str = "pgcairn 1 slot commitment";

/// Cost of deriving a key from a passphrase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kdf {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Kdf {
    /// What `init` uses: 256 MiB, 3 passes, 4 lanes.
    pub const STRONG: Kdf = Kdf { memory_kib: 256 << 10, passes: 3, lanes: 4 };
    /// The least that is accepted, for tests: 64 MiB, 1 pass.
    pub const TEST: Kdf = Kdf { memory_kib: 64 << 10, passes: 1, lanes: 1 };

    /// A slot is untrusted input: neither so weak that it invites guessing nor so strong that it exhausts the host.
    fn is_acceptable(self) -> bool {
        (64 << 10..=4 << 20).contains(&self.memory_kib) && (1..=16).contains(&self.passes) && (1..=16).contains(&self.lanes)
    }
}

/// What opens a slot.
pub enum Unlock {
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// The 32 bytes of a key file.
    KeyFile(Secret),
    /// Nothing: the repository is not encrypted.
    Clear,
}

impl Unlock {
    fn kind(&self) -> u8 {
        match self {
            Unlock::Passphrase(_) => 1,
            Unlock::KeyFile(_) => 2,
            Unlock::Clear => 3,
        }
    }
}

/// A slot as it is stored.
#[derive(Clone)]
pub struct Slot {
    bytes: [u8; LEN],
}

/// The kinds of slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotKind {
    /// Opened by a passphrase.
    Passphrase,
    /// Opened by a key file.
    KeyFile,
    /// Opened by anyone.
    Clear,
}

impl Slot {
    /// Seals `root`. `kdf` matters for a passphrase alone.
    ///
    /// # Errors
    /// If there are no random numbers or no memory for the derivation.
    pub fn seal(root: &Root, unlock: &Unlock, kdf: Kdf) -> Result<(Slot, [u8; 16]), CryptError> {
        let kdf = if matches!(unlock, Unlock::Passphrase(_)) { kdf } else { Kdf { memory_kib: 0, passes: 0, lanes: 0 } };
        let id: [u8; 16] = secret::random()?;
        let salt: [u8; 32] = secret::random()?;
        let wrapping = wrapping_key(unlock, kdf, &salt)?;
        let header = [
            MAGIC.as_slice(),
            &[unlock.kind(), 1, 0, 0],
            &kdf.memory_kib.to_le_bytes(),
            &kdf.passes.to_le_bytes(),
            &kdf.lanes.to_le_bytes(),
            &root.repository.0,
            &id,
            &salt,
            wrapping.derive(COMMITMENT).expose(),
        ]
        .concat();
        let mut sealed = encode_root(root);
        let nonce = seal::seal_in_place(&wrapping, &header, &mut sealed)?;
        let bytes = [header.as_slice(), &nonce, &sealed].concat();
        let bytes = bytes.try_into().map_err(|_| CryptError::Malformed { what: WHAT, why: "unexpected length" })?;
        Ok((Slot { bytes }, id))
    }

    /// Reads a stored slot; it is not opened yet.
    ///
    /// # Errors
    /// If it is none, of an unknown kind, or its costs are outside the accepted range.
    pub fn parse(bytes: &[u8]) -> Result<Slot, CryptError> {
        let malformed = |why| CryptError::Malformed { what: WHAT, why };
        if !bytes.starts_with(MAGIC) {
            return Err(malformed("wrong magic number"));
        }
        let slot = Slot { bytes: bytes.try_into().map_err(|_| malformed("wrong length"))? };
        let kind = slot.kind()?;
        if slot.bytes[9] != 1 {
            return Err(CryptError::Unknown { what: WHAT, feature: "role", number: slot.bytes[9].into() });
        }
        if kind == SlotKind::Passphrase && !slot.kdf().is_acceptable() {
            return Err(malformed("its key derivation costs are outside the accepted range (64 MiB to 4 GiB, 1 to 16 passes)"));
        }
        Ok(slot)
    }

    /// The stored form.
    pub fn as_bytes(&self) -> &[u8; LEN] {
        &self.bytes
    }

    /// What opens it.
    ///
    /// # Errors
    /// [`CryptError::Unknown`].
    pub fn kind(&self) -> Result<SlotKind, CryptError> {
        match self.bytes[8] {
            1 => Ok(SlotKind::Passphrase),
            2 => Ok(SlotKind::KeyFile),
            3 => Ok(SlotKind::Clear),
            other => Err(CryptError::Unknown { what: WHAT, feature: "kind", number: other.into() }),
        }
    }

    /// Its derivation cost.
    pub fn kdf(&self) -> Kdf {
        let word = |at: usize| u32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]]);
        Kdf { memory_kib: word(12), passes: word(16), lanes: word(20) }
    }

    /// Is its passphrase cheaper to guess than `init` makes it (256 MiB, 3 passes)? Only tests should have such slots.
    pub fn is_weak(&self) -> bool {
        let kdf = self.kdf();
        self.bytes[8] == 1 && (kdf.memory_kib < Kdf::STRONG.memory_kib || kdf.passes < Kdf::STRONG.passes)
    }

    /// The repository that it says it belongs to (authentic only once it is open).
    pub fn repository(&self) -> RepositoryId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.bytes[24..40]);
        RepositoryId(id)
    }

    /// Opens it: `None` if it is of another kind or `unlock` is not the right one.
    ///
    /// # Errors
    /// If the wrapping key is right and what it opens is wrong all the same, or memory is short.
    pub fn open(&self, unlock: &Unlock) -> Result<Option<Root>, CryptError> {
        if self.bytes[8] != unlock.kind() {
            return Ok(None);
        }
        let mut salt = [0; 32];
        salt.copy_from_slice(&self.bytes[56..88]);
        let wrapping = wrapping_key(unlock, self.kdf(), &salt)?;
        if !bool::from(wrapping.derive(COMMITMENT).expose().as_slice().ct_eq(&self.bytes[88..HEADER])) {
            return Ok(None);
        }
        let mut nonce = [0; seal::NONCE];
        nonce.copy_from_slice(&self.bytes[HEADER..144]);
        let plain = seal::open(&wrapping, &nonce, &self.bytes[..HEADER], self.bytes[144..].to_vec(), WHAT)?;
        let root = decode_root(&Zeroizing::new(plain))?;
        if root.repository != self.repository() {
            return Err(CryptError::Malformed { what: WHAT, why: "it names another repository than the root that it seals" });
        }
        Ok(Some(root))
    }
}

fn wrapping_key(unlock: &Unlock, kdf: Kdf, salt: &[u8; 32]) -> Result<Secret, CryptError> {
    match unlock {
        Unlock::Passphrase(passphrase) => {
            let out_of = |e: argon2::Error| CryptError::System(format!("the key derivation failed: {e}"));
            let params = argon2::Params::new(kdf.memory_kib, kdf.passes, kdf.lanes, Some(32)).map_err(out_of)?;
            let mut key = Zeroizing::new([0; 32]);
            argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
                .hash_password_into(passphrase.as_bytes(), salt, key.as_mut())
                .map_err(out_of)?;
            Ok(Secret::new(*key))
        }
        Unlock::KeyFile(secret) => Ok(secret.derive("pgcairn 1 key file").keyed(&[salt])),
        Unlock::Clear => Ok(Secret::new(*salt).derive("pgcairn 1 clear")),
    }
}

fn encode_root(root: &Root) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ROOT + seal::TAG);
    for part in [
        root.repository.0.as_slice(),
        &root.domain.0,
        root.owner.seed().as_slice(),
        root.content.expose(),
        root.id_key.expose(),
        root.table_key.expose(),
        root.owner_public().as_bytes(),
        &root.content.public().0,
    ] {
        bytes.extend_from_slice(part);
    }
    bytes
}

fn decode_root(bytes: &[u8]) -> Result<Root, CryptError> {
    let malformed = |why| CryptError::Malformed { what: "the root in a key slot", why };
    let (ids, keys) = bytes.split_at_checked(32).ok_or(malformed("too short"))?;
    let (keys, rest) = keys.as_chunks::<32>();
    let ([owner, content, id_key, table_key, owner_public, content_public], []) = (keys, rest) else {
        return Err(malformed("wrong length"));
    };
    let id = |range: std::ops::Range<usize>| ids.get(range).and_then(|b| <[u8; 16]>::try_from(b).ok()).ok_or(malformed("too short"));
    let root = Root {
        repository: RepositoryId(id(0..16)?),
        domain: DomainId(id(16..32)?),
        owner: SigningKey::from_seed(owner),
        content: ContentSecret::new(Secret::new(*content))?,
        id_key: Secret::new(*id_key),
        table_key: Secret::new(*table_key),
    };
    if root.owner_public().as_bytes() != owner_public || root.content.public().0 != *content_public {
        return Err(malformed("its secret and public halves don't match"));
    }
    Ok(root)
}

/// The text of a key file: one line, `pgcairn-key-1:` and 64 hex digits.
pub fn key_file_text(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(format!("pgcairn-key-1:{}\n", crate::units::ids::hex(secret.expose())))
}

/// Reads the text of a key file.
///
/// # Errors
/// If it is none.
pub fn parse_key_file(text: &str) -> Result<Secret, CryptError> {
    let malformed = CryptError::Malformed { what: "the key file", why: "a line \"pgcairn-key-1:\" with 64 hex digits is expected" };
    let digits = text.trim_end_matches(['\r', '\n']).strip_prefix("pgcairn-key-1:");
    let bytes = digits.and_then(crate::units::ids::unhex).map(Zeroizing::new);
    bytes.and_then(|b| <[u8; 32]>::try_from(b.as_slice()).ok()).map(Secret::new).ok_or(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Unlock {
        Unlock::Passphrase(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn a_slot_opens_with_its_key_alone() {
        let root = Root::random().unwrap();
        let file = Secret::random().unwrap();
        for (unlock, wrong) in [
            (passphrase("right"), passphrase("wrong")),
            (Unlock::KeyFile(file), Unlock::KeyFile(Secret::random().unwrap())),
            (Unlock::Clear, passphrase("right")),
        ] {
            let (slot, _) = Slot::seal(&root, &unlock, Kdf::TEST).unwrap();
            let slot = Slot::parse(slot.as_bytes()).unwrap();
            let opened = slot.open(&unlock).unwrap().unwrap();
            assert_eq!(opened.owner_public(), root.owner_public());
            assert_eq!(opened.table_key.expose(), root.table_key.expose());
            assert!(slot.open(&wrong).unwrap().is_none());
            assert_eq!(slot.is_weak(), matches!(unlock, Unlock::Passphrase(_)));
        }
    }

    #[test]
    fn a_changed_slot_does_not_open() {
        let root = Root::random().unwrap();
        let unlock = Unlock::KeyFile(Secret::new([3; 32]));
        let (slot, _) = Slot::seal(&root, &unlock, Kdf::TEST).unwrap();
        for at in 0..LEN {
            let mut bytes = *slot.as_bytes();
            bytes[at] ^= 1;
            let opened = Slot::parse(&bytes).map(|s| s.open(&unlock));
            assert!(!matches!(opened, Ok(Ok(Some(_)))), "byte {at}");
        }
        assert!(Slot::parse(&slot.as_bytes()[..LEN - 1]).is_err());
    }

    #[test]
    fn costs_are_capped_before_they_are_paid() {
        let root = Root::random().unwrap();
        let (slot, _) = Slot::seal(&root, &passphrase("p"), Kdf::TEST).unwrap();
        for (at, value) in [(12, 1 << 10), (12, u32::MAX), (16, 17), (16, 0), (20, 0), (20, 1000)] {
            let mut bytes = *slot.as_bytes();
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            assert!(matches!(Slot::parse(&bytes), Err(CryptError::Malformed { .. })));
        }
    }

    #[test]
    fn key_files_are_text() {
        let secret = Secret::new([0xab; 32]);
        let text = key_file_text(&secret);
        assert_eq!(parse_key_file(&text).unwrap().expose(), secret.expose());
        assert!(parse_key_file("pgcairn-key-1:00").is_err() && parse_key_file("").is_err());
    }
}
