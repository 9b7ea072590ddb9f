//! This host's keys for one repository.

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
    /// The domain's id key.
    pub id_key: Secret32,
    /// The domain's table key.
    pub table_key: Secret32,
    /// What opens content (X25519), where this host is enrolled to read.
    pub content_secret: Option<Secret32>,
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
    id_key: &'a str,
    table_key: &'a str,
    #[serde(borrow)]
    content_secret: Option<&'a str>,
}

impl HostKeys {
    /// The longest file, in bytes.
    pub(super) const LIMIT: usize = 65_536;

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let (seed, id_key, table_key) = (self.signing_seed.to_hex(), self.id_key.to_hex(), self.table_key.to_hex());
        let content = self.content_secret.as_ref().map(Secret32::to_hex);
        let form = OnDisk {
            version: 1,
            repository: self.repository,
            domain: self.domain,
            owner_key: Hash32(self.owner_key),
            signing_seed: &seed,
            id_key: &id_key,
            table_key: &table_key,
            content_secret: content.as_ref().map(|text| text.as_str()),
        };
        checked::encode(&form, 0)
    }

    pub(super) fn decode(file: &[u8]) -> Result<Self, String> {
        let form: OnDisk<'_> = checked::decode(file)?;
        if form.version != 1 {
            return Err(format!("it has version {}, and version 1 is known", form.version));
        }
        Ok(HostKeys {
            repository: form.repository,
            domain: form.domain,
            owner_key: form.owner_key.0,
            signing_seed: Secret32::from_hex(form.signing_seed)?,
            id_key: Secret32::from_hex(form.id_key)?,
            table_key: Secret32::from_hex(form.table_key)?,
            content_secret: form.content_secret.map(Secret32::from_hex).transpose()?,
        })
    }
}
