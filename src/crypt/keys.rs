//! The domain's keys, and what a role holds of them.
//!
//! ```text
//! root = owner's signing seed | content secret (X25519) | id key | table key
//!        a reader holds content secret, id key, table key; a writer content public key, id key, table key
//! chunk id = BLAKE3(keyed by derive(id key, "pgcairn 1 id content" or "… id structure" or "… id wal"), content)
//! ```

use std::fmt;

use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, Serializable};

use super::sign::{PublicKey, SigningKey, key_id};
use super::{CryptError, Secret, envelope, seal, secret};
use crate::units::{ChunkId, DomainId, KeyId, RepositoryId};

/// What a chunk is: ids of different roles never meet, so that a page can't pose as a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ChunkRole {
    /// Bytes of the cluster, names and attributes of its files.
    Content = 1,
    /// A node of a snapshot's manifest tree.
    Structure = 2,
}

impl ChunkRole {
    /// The role with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(ChunkRole::Content),
            2 => Some(ChunkRole::Structure),
            _ => None,
        }
    }
}

/// The public half of the key that content is sealed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentPublic(pub [u8; 32]);

impl ContentPublic {
    /// Its id.
    pub fn id(&self) -> KeyId {
        key_id(&self.0)
    }
}

/// The secret half: opens content. A writer that can't read does not hold it.
#[derive(Clone)]
pub struct ContentSecret {
    secret: Secret,
    public: ContentPublic,
}

impl ContentSecret {
    /// From its 32 bytes.
    ///
    /// # Errors
    /// If they are no X25519 key.
    pub fn new(secret: Secret) -> Result<Self, CryptError> {
        let private = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(secret.expose())
            .map_err(|_| CryptError::Malformed { what: "a content key", why: "not an X25519 key" })?;
        let public = X25519HkdfSha256::sk_to_pk(&private).to_bytes();
        Ok(ContentSecret { secret, public: ContentPublic(public.into()) })
    }

    /// A fresh one.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn random() -> Result<Self, CryptError> {
        ContentSecret::new(Secret::random()?)
    }

    /// Its public half.
    pub fn public(&self) -> ContentPublic {
        self.public
    }

    /// The bytes, for a primitive or a slot.
    pub fn expose(&self) -> &[u8; 32] {
        self.secret.expose()
    }
}

impl fmt::Debug for ContentSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentSecret({})", self.public.id())
    }
}

/// All that a repository's owner holds.
#[derive(Debug)]
pub struct Root {
    /// The repository that it is the root of.
    pub repository: RepositoryId,
    /// The domain that content is named and sealed under.
    pub domain: DomainId,
    /// Signs KEY entries and whatever else.
    pub owner: SigningKey,
    /// Opens content.
    pub content: ContentSecret,
    /// Names chunks.
    pub id_key: Secret,
    /// Seals tables, nodes, log entries, bodies.
    pub table_key: Secret,
}

impl Root {
    /// A new owner, in a new domain.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn random() -> Result<Self, CryptError> {
        Ok(Root {
            repository: RepositoryId(secret::random()?),
            domain: DomainId(secret::random()?),
            owner: SigningKey::from_seed(&secret::random()?),
            content: ContentSecret::random()?,
            id_key: Secret::random()?,
            table_key: Secret::random()?,
        })
    }

    /// The owner's public key.
    pub fn owner_public(&self) -> &PublicKey {
        self.owner.public()
    }

    /// What it takes to write.
    pub fn sealing(&self) -> Sealing {
        Sealing::new(self.domain, self.content.public(), &self.id_key, &self.table_key)
    }

    /// What it takes to read and write.
    pub fn opening(&self) -> Opening {
        Opening { sealing: self.sealing(), content: self.content.clone() }
    }
}

/// What a writer holds: it can seal content, name it, read tables and structure, and not open content.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// Blobs are bound to it.
    pub domain: DomainId,
    /// Content keys are sealed to it.
    pub public: ContentPublic,
    content_ids: Secret,
    structure_ids: Secret,
    wal_ids: Secret,
    table_key: Secret,
    names: Secret,
}

impl Sealing {
    /// From the keys of a role.
    pub fn new(domain: DomainId, public: ContentPublic, id_key: &Secret, table_key: &Secret) -> Self {
        Sealing {
            domain,
            public,
            content_ids: id_key.derive("pgcairn 1 id content"),
            structure_ids: id_key.derive("pgcairn 1 id structure"),
            wal_ids: id_key.derive("pgcairn 1 id wal"),
            table_key: table_key.clone(),
            names: table_key.derive("pgcairn 1 cluster names"),
        }
    }

    /// The id of a chunk.
    pub fn chunk_id(&self, role: ChunkRole, content: &[u8]) -> ChunkId {
        let key = match role {
            ChunkRole::Content => &self.content_ids,
            ChunkRole::Structure => &self.structure_ids,
        };
        ChunkId(*blake3::keyed_hash(key.expose(), content).as_bytes())
    }

    /// A hasher for the id of a WAL file's content.
    pub fn wal_hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(self.wal_ids.expose())
    }

    /// The hash under which a cluster's name appears in the names of objects.
    pub fn cluster_key(&self, cluster: &str) -> [u8; 16] {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::keyed_hash(self.names.expose(), cluster.as_bytes()).as_bytes()[..16]);
        key
    }

    /// The shared key for tables, nodes, entries and bodies; only ever used through a salt.
    pub fn table_key(&self) -> &Secret {
        &self.table_key
    }

    /// A fresh key for one object, and its envelope.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn object_key(&self) -> Result<(Secret, envelope::Envelope), CryptError> {
        let key = Secret::random()?;
        let envelope = envelope::seal(&key, self.domain, &self.public)?;
        Ok((key, envelope))
    }

    /// Seals something small under the table key with a salt of its own.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn seal_table(&self, aad: &[u8], plain: Vec<u8>) -> Result<seal::Salted, CryptError> {
        seal::seal_salted(&self.table_key, aad, plain)
    }
}

/// What a reader holds.
#[derive(Clone, Debug)]
pub struct Opening {
    /// It can do all that a writer can.
    pub sealing: Sealing,
    content: ContentSecret,
}

impl Opening {
    /// From the keys of a role.
    pub fn new(domain: DomainId, content: ContentSecret, id_key: &Secret, table_key: &Secret) -> Self {
        Opening { sealing: Sealing::new(domain, content.public(), id_key, table_key), content }
    }

    /// Opens an object's envelope.
    ///
    /// # Errors
    /// [`CryptError::NotAuthentic`].
    pub fn open_envelope(&self, envelope: &envelope::Envelope) -> Result<Secret, CryptError> {
        envelope.open(self.sealing.domain, &self.content)
    }
}
