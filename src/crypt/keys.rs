//! The domain's keys, and what a role holds of them.
//!
//! ```text
//! root = owner's signing seed | content secrets (X25519): the newest, and those that it replaced | id key | table key
//!        a reader holds content secrets, id key, table key; a writer id key, table key (the public key that content is
//!        sealed to stands in the log); a maintainer the structure's id key (derived), table key
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

/// How many content secrets a root can have besides the newest: so many rotations a repository lives through.
pub const MOST_FORMER: usize = 64;

/// All that a repository's owner holds.
#[derive(Clone, Debug)]
pub struct Root {
    /// The repository that it is the root of.
    pub repository: RepositoryId,
    /// The domain that content is named and sealed under.
    pub domain: DomainId,
    /// Signs KEY entries and whatever else.
    pub owner: SigningKey,
    /// Opens content: the newest of the secrets.
    pub content: ContentSecret,
    /// Those before it, the oldest first: what was sealed before a rotation opens with them. At most [`MOST_FORMER`].
    pub former: Vec<ContentSecret>,
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
            former: Vec::new(),
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
        Opening::new(self.sealing(), self.contents().cloned().collect())
    }

    /// All content secrets, the oldest first.
    pub fn contents(&self) -> impl Iterator<Item = &ContentSecret> {
        self.former.iter().chain([&self.content])
    }

    /// The same root with a fresh content secret, to which all that is written from then on will be sealed.
    ///
    /// # Errors
    /// If there are [`MOST_FORMER`] former ones already, or no random numbers.
    pub fn rotated(&self) -> Result<Root, CryptError> {
        if self.former.len() >= MOST_FORMER {
            return Err(CryptError::System(format!("the content key was rotated {MOST_FORMER} times, and format 1 has room for no more")));
        }
        let former = self.contents().cloned().collect();
        Ok(Root { content: ContentSecret::random()?, former, ..self.clone() })
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
    names_content: bool,
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
            names_content: true,
        }
    }

    /// What a maintainer holds who neither reads nor writes clusters: from the key of structure ids alone. It can't name
    /// content, so it can confirm no guess of what is stored; the ids of content that it computes are nobody's.
    pub fn of_structure(domain: DomainId, public: ContentPublic, structure_ids: &Secret, table_key: &Secret) -> Self {
        let nobody = structure_ids.derive("pgcairn 1 no content ids");
        Sealing {
            domain,
            public,
            content_ids: nobody.clone(),
            structure_ids: structure_ids.clone(),
            wal_ids: nobody,
            table_key: table_key.clone(),
            names: table_key.derive("pgcairn 1 cluster names"),
            names_content: false,
        }
    }

    /// Can it compute ids of content and WAL, as it takes to write a cluster's?
    pub fn names_content(&self) -> bool {
        self.names_content
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

/// The key of structure ids, which is all of the id key that a mere maintainer gets.
pub fn structure_id_key(id_key: &Secret) -> Secret {
    id_key.derive("pgcairn 1 id structure")
}

/// What a reader holds.
#[derive(Clone, Debug)]
pub struct Opening {
    /// It can do all that a writer can.
    pub sealing: Sealing,
    contents: Vec<ContentSecret>,
    lacking: Vec<KeyId>,
}

impl Opening {
    /// From the keys of a role; the secrets in any order.
    pub fn new(sealing: Sealing, contents: Vec<ContentSecret>) -> Self {
        Opening { sealing, contents, lacking: Vec::new() }
    }

    /// Told of the keys that content was ever sealed to: those without a secret here are then known as lacking, and not
    /// taken for damage.
    pub fn know_keys(&mut self, ids: impl IntoIterator<Item = KeyId>) {
        self.lacking = ids.into_iter().filter(|id| !self.opens(id)).collect();
    }

    /// Does it hold the secret of this key?
    pub fn opens(&self, key: &KeyId) -> bool {
        self.contents.iter().any(|content| content.public().id() == *key)
    }

    /// Opens an object's envelope.
    ///
    /// # Errors
    /// [`CryptError::NotAuthentic`]; [`CryptError::NoContentKey`] if it is sealed to a key of the repository whose secret
    /// isn't here.
    pub fn open_envelope(&self, envelope: &envelope::Envelope) -> Result<Secret, CryptError> {
        let id = envelope.key_id()?;
        match self.contents.iter().find(|content| content.public().id() == id) {
            Some(content) => envelope.open(self.sealing.domain, content),
            None if self.lacking.contains(&id) => Err(CryptError::NoContentKey { key: id }),
            None => Err(CryptError::NotAuthentic { what: "a key envelope" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_sealed_before_rotations_opens() {
        let first = Root::random().unwrap();
        let mut root = first.clone();
        let mut sealed = vec![root.sealing().object_key().unwrap()];
        for _ in 0..MOST_FORMER {
            root = root.rotated().unwrap();
            sealed.push(root.sealing().object_key().unwrap());
        }
        assert!(root.rotated().is_err());
        for (key, envelope) in &sealed {
            assert_eq!(root.opening().open_envelope(envelope).unwrap().expose(), key.expose());
        }
        let mut old = first.opening();
        assert!(old.open_envelope(&sealed[0].1).is_ok());
        assert!(matches!(old.open_envelope(&sealed[1].1), Err(CryptError::NotAuthentic { .. })));
        old.know_keys(root.contents().map(|c| c.public().id()));
        assert!(matches!(old.open_envelope(&sealed[1].1), Err(CryptError::NoContentKey { key }) if key == sealed[1].1.key_id().unwrap()));
    }

    #[test]
    fn a_mere_maintainer_names_structure_and_no_content() {
        let root = Root::random().unwrap();
        let whole = root.sealing();
        let narrow = Sealing::of_structure(root.domain, whole.public, &structure_id_key(&root.id_key), &root.table_key);
        assert_eq!(narrow.chunk_id(ChunkRole::Structure, b"node"), whole.chunk_id(ChunkRole::Structure, b"node"));
        assert_ne!(narrow.chunk_id(ChunkRole::Content, b"page"), whole.chunk_id(ChunkRole::Content, b"page"));
        assert_ne!(narrow.wal_hasher().finalize(), whole.wal_hasher().finalize());
        assert_eq!(narrow.cluster_key("main"), whole.cluster_key("main"));
        assert!(whole.names_content() && !narrow.names_content());
    }
}
