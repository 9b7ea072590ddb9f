//! This host's keys for one repository.
//!
//! Version 1 of the file has grown: `former_secrets` came with rotations, and `structure_id_key` in place of `id_key` with
//! hosts that are maintainers alone. A program that doesn't know them refuses the file.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::checked;
use super::secret::Secret32;
use crate::units::{DomainId, Hash32, RepositoryId};

/// What this host holds of a repository's keys, in the state alone: no slot in the store has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostKeys {
    /// The repository.
    pub repository: RepositoryId,
    /// Its domain.
    pub domain: DomainId,
    /// The owner's public key (Ed25519): pinned, only this key's KEY entries are believed.
    pub owner_key: [u8; 32],
    /// The seed of this host's signing key (Ed25519).
    pub signing_seed: Secret32,
    /// What names chunks.
    pub ids: IdKeys,
    /// The domain's table key.
    pub table_key: Secret32,
    /// What opens content (X25519), where this host is enrolled to read: the newest first, then those that rotations
    /// replaced.
    pub content_secrets: Vec<Secret32>,
}

/// What a host holds of the domain's id key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IdKeys {
    /// All of it, as writers and readers do.
    Domain(Secret32),
    /// The key of structure ids alone: a maintainer who neither writes nor reads.
    Structure(Secret32),
}

/// The form on disk. Unknown fields are refused: what they mean would be lost when the file is written again.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk<'a> {
    version: u32,
    repository: RepositoryId,
    domain: DomainId,
    owner_key: Hash32,
    signing_seed: &'a str,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    id_key: Option<&'a str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    structure_id_key: Option<&'a str>,
    table_key: &'a str,
    #[serde(borrow)]
    content_secret: Option<&'a str>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    former_secrets: Vec<&'a str>,
}

impl HostKeys {
    /// The longest file, in bytes.
    pub(super) const LIMIT: usize = 65_536;

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let (seed, table_key) = (self.signing_seed.to_hex(), self.table_key.to_hex());
        let (id_key, structure) = match &self.ids {
            IdKeys::Domain(key) => (Some(key.to_hex()), None),
            IdKeys::Structure(key) => (None, Some(key.to_hex())),
        };
        let contents: Vec<_> = self.content_secrets.iter().map(Secret32::to_hex).collect();
        let mut contents = contents.iter().map(|text| text.as_str());
        let form = OnDisk {
            version: 1,
            repository: self.repository,
            domain: self.domain,
            owner_key: Hash32(self.owner_key),
            signing_seed: &seed,
            id_key: id_key.as_ref().map(|text| text.as_str()),
            structure_id_key: structure.as_ref().map(|text| text.as_str()),
            table_key: &table_key,
            content_secret: contents.next(),
            former_secrets: contents.collect(),
        };
        checked::encode(&form, 0)
    }

    pub(super) fn decode(file: &[u8]) -> Result<Self, String> {
        let form: OnDisk<'_> = checked::decode(file)?;
        if form.version != 1 {
            return Err(format!("it has version {}, and version 1 is known", form.version));
        }
        let ids = match (form.id_key, form.structure_id_key) {
            (Some(key), None) => IdKeys::Domain(Secret32::from_hex(key)?),
            (None, Some(key)) => IdKeys::Structure(Secret32::from_hex(key)?),
            _ => return Err("it needs one of id_key and structure_id_key".into()),
        };
        if form.content_secret.is_none() && !form.former_secrets.is_empty() {
            return Err("it has former content secrets, and no newest one".into());
        }
        Ok(HostKeys {
            repository: form.repository,
            domain: form.domain,
            owner_key: form.owner_key.0,
            signing_seed: Secret32::from_hex(form.signing_seed)?,
            ids,
            table_key: Secret32::from_hex(form.table_key)?,
            content_secrets: form
                .content_secret
                .into_iter()
                .chain(form.former_secrets)
                .map(Secret32::from_hex)
                .collect::<Result<_, _>>()?,
        })
    }
}
