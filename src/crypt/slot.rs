//! Key slots: the root, sealed under a passphrase, a key file, a key that a command unwraps, or nothing at all.
//!
//! ```text
//!   0   8  magic "PGCNKEY" 0x01
//!   8   1  kind: 1 passphrase, 2 key file, 3 clear, 4 command
//!   9   1  role: 1 the whole root
//!  10   2  f, number of former content secrets, 0 to 64
//!  12   4  argon2id memory in KiB    (kind 1; kind 4: w, length of the wrapped key, 1 to 16,384; else 0)
//!  16   4  argon2id passes           (kind 1, else 0)
//!  20   4  argon2id lanes            (kind 1, else 0)
//!  24  16  repository id
//!  40  16  slot id, random
//!  56  32  salt
//!  88  32  commitment: derive_key("pgcairn 1 slot commitment", wrapping key)
//! 120  24  nonce
//! 144   s  sealed root: 224 bytes, 32 for each former content secret, and the tag; s = 240 + 32 f
//!   …   w  the wrapped key            (kind 4)
//! ```
//! Associated data of the root: bytes 0..120, and the wrapped key. Sealed root: repository id 16 | domain id 16 | owner's
//! seed 32 | content secret 32 | id key 32 | table key 32 | owner's public key 32 | content public key 32 | former content
//! secrets, the oldest first: opening checks that the halves match.
//!
//! The wrapping key is argon2id(passphrase, salt), or derive_key("pgcairn 1 key file", 32 bytes of the file) keyed over the
//! salt, or derive_key("pgcairn 1 clear", salt), or derive_key("pgcairn 1 wrapped key", the 32 bytes that were wrapped)
//! keyed over the salt. All integers are little-endian.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::keys::{MOST_FORMER, Root};
use super::root_text::{ROOT, decode_root, encode_root};
pub use super::root_text::{key_file_text, parse_key_file};
use super::{CryptError, Secret, seal, secret};
use crate::units::RepositoryId;

/// Bytes of the shortest slot.
pub const LEN: usize = 384;
/// Bytes of the longest wrapped key.
pub const MOST_WRAPPED: usize = 16_384;
/// Bytes of the longest slot.
pub const MOST: usize = LEN + 32 * MOST_FORMER + MOST_WRAPPED;
const MAGIC: &[u8; 8] = b"PGCNKEY\x01";
const HEADER: usize = 120;
const SEALED: usize = HEADER + seal::NONCE;
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

/// A function that unwraps: given a slot's wrapped key it gives the key.
pub type Unwrap = Box<dyn Fn(&[u8]) -> Result<Secret, CryptError> + Send + Sync>;

/// What opens a slot.
pub enum Unlock {
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// The 32 bytes of a key file.
    KeyFile(Secret),
    /// Nothing: the repository is not encrypted.
    Clear,
    /// Something outside, to which the wrapped key is given: a command.
    Command(Unwrap),
    /// No slot is needed: the root itself.
    Root(Box<Root>),
}

/// What seals a new slot.
pub enum Lock<'a> {
    /// A passphrase, and its cost.
    Passphrase(&'a str, Kdf),
    /// The 32 bytes of a key file.
    KeyFile(&'a Secret),
    /// Nothing.
    Clear,
    /// 32 bytes, and the same as something outside has wrapped them.
    Wrapped {
        /// The key.
        key: &'a Secret,
        /// The wrapped key, 1 to [`MOST_WRAPPED`] bytes.
        wrapped: &'a [u8],
    },
}

impl Lock<'_> {
    fn kind(&self) -> u8 {
        match self {
            Lock::Passphrase(..) => 1,
            Lock::KeyFile(_) => 2,
            Lock::Clear => 3,
            Lock::Wrapped { .. } => 4,
        }
    }

    fn wrapping_key(&self, salt: &[u8; 32]) -> Result<Secret, CryptError> {
        match self {
            Lock::Passphrase(passphrase, kdf) => stretched(passphrase, *kdf, salt),
            Lock::KeyFile(secret) => Ok(secret.derive("pgcairn 1 key file").keyed(&[salt])),
            Lock::Clear => Ok(Secret::new(*salt).derive("pgcairn 1 clear")),
            Lock::Wrapped { key, .. } => Ok(key.derive("pgcairn 1 wrapped key").keyed(&[salt])),
        }
    }
}

/// A slot as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    kind: SlotKind,
    former: usize,
    kdf: Kdf,
    repository: RepositoryId,
    id: [u8; 16],
    salt: [u8; 32],
    commitment: [u8; 32],
    nonce: [u8; seal::NONCE],
    bytes: Vec<u8>,
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
    /// Opened by a key that a command unwraps.
    Command,
}

/// Takes bytes off the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], CryptError> {
        let (front, rest) = self.0.split_first_chunk::<N>().ok_or(malformed("wrong length"))?;
        self.0 = rest;
        Ok(front)
    }

    fn number(&mut self) -> Result<u32, CryptError> {
        Ok(u32::from_le_bytes(*self.take()?))
    }
}

fn malformed(why: &'static str) -> CryptError {
    CryptError::Malformed { what: WHAT, why }
}

impl Slot {
    /// Seals `root`.
    ///
    /// # Errors
    /// If there are no random numbers or no memory for the derivation, or the wrapped key is empty or too long.
    pub fn seal(root: &Root, lock: &Lock<'_>) -> Result<Slot, CryptError> {
        let (numbers, wrapped): ([u32; 3], &[u8]) = match lock {
            Lock::Passphrase(_, kdf) => ([kdf.memory_kib, kdf.passes, kdf.lanes], &[]),
            Lock::KeyFile(_) | Lock::Clear => ([0; 3], &[]),
            Lock::Wrapped { wrapped, .. } => ([u32::try_from(wrapped.len()).unwrap_or(u32::MAX), 0, 0], wrapped),
        };
        let former = u16::try_from(root.former.len()).map_err(|_| malformed("too many former keys"))?;
        let id: [u8; 16] = secret::random()?;
        let salt: [u8; 32] = secret::random()?;
        let wrapping = lock.wrapping_key(&salt)?;
        let header = [
            MAGIC.as_slice(),
            &[lock.kind(), 1],
            &former.to_le_bytes(),
            &numbers.map(u32::to_le_bytes).concat(),
            &root.repository.0,
            &id,
            &salt,
            wrapping.derive(COMMITMENT).expose(),
        ]
        .concat();
        let mut sealed = encode_root(root);
        let nonce = seal::seal_in_place(&wrapping, &[header.as_slice(), wrapped].concat(), &mut sealed)?;
        Slot::parse(&[header.as_slice(), &nonce, &sealed, wrapped].concat())
    }

    /// Reads a stored slot; it is not opened yet.
    ///
    /// # Errors
    /// If it is none, of an unknown kind, or its costs are outside the accepted range.
    pub fn parse(bytes: &[u8]) -> Result<Slot, CryptError> {
        let mut at = Bytes(bytes);
        if at.take().ok() != Some(MAGIC) {
            return Err(malformed("wrong magic number"));
        }
        let [kind, role] = *at.take()?;
        let former = usize::from(u16::from_le_bytes(*at.take()?));
        let kdf = Kdf { memory_kib: at.number()?, passes: at.number()?, lanes: at.number()? };
        let (repository, id, salt, commitment) = (RepositoryId(*at.take()?), *at.take()?, *at.take()?, *at.take()?);
        let nonce = *at.take()?;
        let kind = match kind {
            1 => SlotKind::Passphrase,
            2 => SlotKind::KeyFile,
            3 => SlotKind::Clear,
            4 => SlotKind::Command,
            other => return Err(CryptError::Unknown { what: WHAT, feature: "kind", number: other.into() }),
        };
        if role != 1 {
            return Err(CryptError::Unknown { what: WHAT, feature: "role", number: role.into() });
        }
        if former > MOST_FORMER {
            return Err(malformed("too many former keys"));
        }
        let wrapped = if kind == SlotKind::Command { usize::try_from(kdf.memory_kib).unwrap_or(usize::MAX) } else { 0 };
        if wrapped > MOST_WRAPPED || (kind == SlotKind::Command && wrapped == 0) {
            return Err(malformed("its wrapped key is empty or too long"));
        }
        if at.0.len() != ROOT + 32 * former + seal::TAG + wrapped {
            return Err(malformed("wrong length"));
        }
        if kind == SlotKind::Passphrase && !kdf.is_acceptable() {
            return Err(malformed("its key derivation costs are outside the accepted range (64 MiB to 4 GiB, 1 to 16 passes)"));
        }
        Ok(Slot { kind, former, kdf, repository, id, salt, commitment, nonce, bytes: bytes.to_vec() })
    }

    /// The stored form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What opens it.
    pub fn kind(&self) -> SlotKind {
        self.kind
    }

    /// Its derivation cost; of a passphrase alone, else `None`.
    pub fn kdf(&self) -> Option<Kdf> {
        (self.kind == SlotKind::Passphrase).then_some(self.kdf)
    }

    /// What trying it costs: KiB times passes.
    pub fn cost(&self) -> u64 {
        self.kdf().map_or(0, |kdf| u64::from(kdf.memory_kib) * u64::from(kdf.passes))
    }

    /// Is its passphrase cheaper to guess than `init` makes it (256 MiB, 3 passes)? Only tests should have such slots.
    pub fn is_weak(&self) -> bool {
        self.kdf().is_some_and(|kdf| kdf.memory_kib < Kdf::STRONG.memory_kib || kdf.passes < Kdf::STRONG.passes)
    }

    /// The repository that it says it belongs to (authentic only once it is open).
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// Its id.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// How many content keys it holds besides the newest, as its header says.
    pub fn former_keys(&self) -> usize {
        self.former
    }

    /// The wrapped key of a slot by command; of others empty.
    pub fn wrapped(&self) -> &[u8] {
        self.bytes.get(SEALED + ROOT + 32 * self.former + seal::TAG..).unwrap_or(&[])
    }

    /// Opens it: `None` if it is of another kind or `unlock` is not the right one.
    ///
    /// # Errors
    /// If the wrapping key is right and what it opens is wrong all the same, or memory is short, or a command fails.
    pub fn open(&self, unlock: &Unlock) -> Result<Option<Root>, CryptError> {
        match self.wrapping_key(unlock)? {
            Some(wrapping) => self.open_with(&wrapping),
            None => Ok(None),
        }
    }

    /// The same root, or a later one, under what opens this slot: a new slot with an id of its own. `None` as for
    /// [`Self::open`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn seal_again(&self, root: &Root, unlock: &Unlock) -> Result<Option<Slot>, CryptError> {
        if self.open(unlock)?.is_none() {
            return Ok(None);
        }
        let key;
        let lock = match unlock {
            Unlock::Passphrase(passphrase) => Lock::Passphrase(passphrase, self.kdf),
            Unlock::KeyFile(secret) => Lock::KeyFile(secret),
            Unlock::Clear => Lock::Clear,
            Unlock::Command(unwrap) => {
                key = unwrap(self.wrapped())?;
                Lock::Wrapped { key: &key, wrapped: self.wrapped() }
            }
            Unlock::Root(_) => return Ok(None),
        };
        Slot::seal(root, &lock).map(Some)
    }

    fn wrapping_key(&self, unlock: &Unlock) -> Result<Option<Secret>, CryptError> {
        let key;
        let lock = match (unlock, self.kind) {
            (Unlock::Passphrase(passphrase), SlotKind::Passphrase) => Lock::Passphrase(passphrase, self.kdf),
            (Unlock::KeyFile(secret), SlotKind::KeyFile) => Lock::KeyFile(secret),
            (Unlock::Clear, SlotKind::Clear) => Lock::Clear,
            (Unlock::Command(unwrap), SlotKind::Command) => {
                key = unwrap(self.wrapped())?;
                Lock::Wrapped { key: &key, wrapped: self.wrapped() }
            }
            _ => return Ok(None),
        };
        lock.wrapping_key(&self.salt).map(Some)
    }

    fn open_with(&self, wrapping: &Secret) -> Result<Option<Root>, CryptError> {
        if !bool::from(wrapping.derive(COMMITMENT).expose().as_slice().ct_eq(&self.commitment)) {
            return Ok(None);
        }
        let cut = |range: std::ops::Range<usize>| self.bytes.get(range).ok_or(malformed("wrong length"));
        let sealed = cut(SEALED..SEALED + ROOT + 32 * self.former + seal::TAG)?;
        let associated = [cut(0..HEADER)?, self.wrapped()].concat();
        let plain = Zeroizing::new(seal::open(wrapping, &self.nonce, &associated, sealed.to_vec(), WHAT)?);
        let root = decode_root(&plain)?;
        if root.repository != self.repository {
            return Err(malformed("it names another repository than the root that it seals"));
        }
        Ok(Some(root))
    }
}

fn stretched(passphrase: &str, kdf: Kdf, salt: &[u8; 32]) -> Result<Secret, CryptError> {
    let out_of = |e: argon2::Error| CryptError::System(format!("the key derivation failed: {e}"));
    let params = argon2::Params::new(kdf.memory_kib, kdf.passes, kdf.lanes, Some(32)).map_err(out_of)?;
    let mut key = Zeroizing::new([0; 32]);
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut())
        .map_err(out_of)?;
    Ok(Secret::new(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Unlock {
        Unlock::Passphrase(Zeroizing::new(text.to_owned()))
    }

    /// A command that undoes a xor.
    fn command(with: u8) -> Unlock {
        Unlock::Command(Box::new(move |wrapped| {
            let key: Vec<u8> = wrapped.iter().map(|b| b ^ with).collect();
            key.try_into().map(Secret::new).map_err(|_| CryptError::Command("no".into()))
        }))
    }

    #[test]
    fn a_slot_opens_with_its_key_alone() {
        let root = Root::random().unwrap();
        let (file, key) = (Secret::random().unwrap(), Secret::new([0x0f; 32]));
        let cases = [
            (Lock::Passphrase("right", Kdf::TEST), passphrase("right"), passphrase("wrong")),
            (Lock::KeyFile(&file), Unlock::KeyFile(file.clone()), Unlock::KeyFile(Secret::random().unwrap())),
            (Lock::Clear, Unlock::Clear, passphrase("right")),
            (Lock::Wrapped { key: &key, wrapped: &[0xf0; 32] }, command(0xff), command(0xfe)),
        ];
        for (lock, unlock, wrong) in cases {
            let slot = Slot::seal(&root, &lock).unwrap();
            let slot = Slot::parse(slot.as_bytes()).unwrap();
            let opened = slot.open(&unlock).unwrap().unwrap();
            assert_eq!(opened.owner_public(), root.owner_public());
            assert_eq!(opened.table_key.expose(), root.table_key.expose());
            assert!(slot.open(&wrong).unwrap().is_none() && slot.seal_again(&root, &wrong).unwrap().is_none());
            assert_eq!(slot.is_weak(), matches!(unlock, Unlock::Passphrase(_)));
            // After a rotation, under the same secret.
            let later = slot.seal_again(&root.rotated().unwrap(), &unlock).unwrap().unwrap();
            let again = Slot::parse(later.as_bytes()).unwrap().open(&unlock).unwrap().unwrap();
            assert_eq!(again.former[0].expose(), root.content.expose());
            assert!(later.id() != slot.id() && later.kdf() == slot.kdf() && later.wrapped() == slot.wrapped());
            assert_eq!(later.as_bytes().len(), slot.as_bytes().len() + 32);
        }
    }

    #[test]
    fn a_changed_slot_does_not_open() {
        let root = Root::random().unwrap().rotated().unwrap();
        let key = Secret::new([3; 32]);
        for (lock, unlock) in
            [(Lock::KeyFile(&key), Unlock::KeyFile(key.clone())), (Lock::Wrapped { key: &key, wrapped: &[2; 32] }, command(1))]
        {
            let slot = Slot::seal(&root, &lock).unwrap();
            for at in 0..slot.as_bytes().len() {
                let mut bytes = slot.as_bytes().to_vec();
                bytes[at] ^= 1;
                let opened = Slot::parse(&bytes).map(|s| s.open(&unlock));
                assert!(!matches!(opened, Ok(Ok(Some(_)))), "byte {at}");
            }
            assert!(Slot::parse(&slot.as_bytes()[..slot.as_bytes().len() - 1]).is_err());
        }
        for wrapped in [vec![], vec![0; MOST_WRAPPED + 1]] {
            assert!(Slot::seal(&root, &Lock::Wrapped { key: &key, wrapped: &wrapped }).is_err());
        }
        let most = Slot::seal(&root, &Lock::Wrapped { key: &key, wrapped: &vec![7; MOST_WRAPPED] }).unwrap();
        assert!(most.as_bytes().len() <= MOST && most.wrapped().len() == MOST_WRAPPED);
    }

    #[test]
    fn costs_are_capped_before_they_are_paid() {
        let root = Root::random().unwrap();
        let slot = Slot::seal(&root, &Lock::Passphrase("p", Kdf::TEST)).unwrap();
        for (at, value) in [(12, 1 << 10), (12, u32::MAX), (16, 17), (16, 0), (20, 0), (20, 1000)] {
            let mut bytes = slot.as_bytes().to_vec();
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            assert!(matches!(Slot::parse(&bytes), Err(CryptError::Malformed { .. })));
        }
    }
}
