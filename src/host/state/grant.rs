//! What the owner hands to a host, in a file: its keys and what they are for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::checked;
use super::host_keys::{HostKeys, IdKeys};
use super::secret::Secret32;
use super::seen::Head;
use crate::repo::log::Role;
use crate::units::{DomainId, Hash32, KeyId, RepositoryId};

/// Keys for a host, as the owner's machine wrote them. Nothing of it is in the store; the file is to be deleted once the
/// host has taken it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The repository.
    pub repository: RepositoryId,
    /// Its domain.
    pub domain: DomainId,
    /// The owner's public key (Ed25519), which the host pins.
    pub owner_key: [u8; 32],
    /// The host's key.
    pub host_key: KeyId,
    /// Its seed; none where the host has it already, and gets more rights or newer keys.
    pub signing_seed: Option<Secret32>,
    /// What names chunks, as far as the roles need it.
    pub ids: IdKeys,
    /// The domain's table key.
    pub table_key: Secret32,
    /// What opens content, for a reader; the newest first.
    pub content_secrets: Vec<Secret32>,
    /// What people call the host.
    pub name: String,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// For which clusters; `None`: for all.
    pub clusters: Option<BTreeSet<String>>,
    /// The newest entry of the log that the owner had seen: an older log is none.
    pub newest: Head,
}

const NOTE: &str = "SECRET: keys of a pgcairn repository. Give it to the host by `pgcairn key accept FILE`, and delete it everywhere else.";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk<'a> {
    note: String,
    grant: u32,
    repository: RepositoryId,
    domain: DomainId,
    owner_key: Hash32,
    host_key: KeyId,
    name: String,
    roles: BTreeSet<Role>,
    clusters: Option<BTreeSet<String>>,
    newest: Head,
    #[serde(borrow)]
    signing_seed: Option<&'a str>,
    #[serde(borrow)]
    id_key: Option<&'a str>,
    #[serde(borrow)]
    structure_id_key: Option<&'a str>,
    table_key: &'a str,
    #[serde(borrow)]
    content_secrets: Vec<&'a str>,
}

impl Grant {
    /// The longest file, in bytes.
    pub const LIMIT: usize = 65_536;

    /// The file's bytes.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let text = |secret: &Secret32| secret.to_hex();
        let (id_key, structure) = match &self.ids {
            IdKeys::Domain(key) => (Some(text(key)), None),
            IdKeys::Structure(key) => (None, Some(text(key))),
        };
        let (seed, table_key) = (self.signing_seed.as_ref().map(text), text(&self.table_key));
        let contents: Vec<_> = self.content_secrets.iter().map(text).collect();
        let form = OnDisk {
            note: NOTE.into(),
            grant: 1,
            repository: self.repository,
            domain: self.domain,
            owner_key: Hash32(self.owner_key),
            host_key: self.host_key,
            name: self.name.clone(),
            roles: self.roles.clone(),
            clusters: self.clusters.clone(),
            newest: self.newest,
            signing_seed: seed.as_ref().map(|text| text.as_str()),
            id_key: id_key.as_ref().map(|text| text.as_str()),
            structure_id_key: structure.as_ref().map(|text| text.as_str()),
            table_key: &table_key,
            content_secrets: contents.iter().map(|text| text.as_str()).collect(),
        };
        checked::encode(&form, Self::LIMIT)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(file: &[u8]) -> Result<Self, String> {
        let form: OnDisk<'_> = checked::decode(file)?;
        if form.grant != 1 {
            return Err(format!("it is a grant of form {}, and form 1 is known", form.grant));
        }
        let secret = |text: Option<&str>| text.map(Secret32::from_hex).transpose();
        let ids = match (secret(form.id_key)?, secret(form.structure_id_key)?) {
            (Some(key), None) => IdKeys::Domain(key),
            (None, Some(key)) => IdKeys::Structure(key),
            _ => return Err("it needs one of id_key and structure_id_key".into()),
        };
        Ok(Grant {
            repository: form.repository,
            domain: form.domain,
            owner_key: form.owner_key.0,
            host_key: form.host_key,
            signing_seed: secret(form.signing_seed)?,
            ids,
            table_key: Secret32::from_hex(form.table_key)?,
            content_secrets: form.content_secrets.into_iter().map(Secret32::from_hex).collect::<Result<_, _>>()?,
            name: form.name,
            roles: form.roles,
            clusters: form.clusters,
            newest: form.newest,
        })
    }

    /// What the host keeps of it, with the seed that it has or is given; and what it could open before, still.
    pub fn host_keys(&self, seed: Secret32, before: Option<&HostKeys>) -> HostKeys {
        let mut content_secrets = self.content_secrets.clone();
        let known = before.into_iter().flat_map(|keys| &keys.content_secrets);
        known.for_each(|secret| {
            if !content_secrets.contains(secret) {
                content_secrets.push(secret.clone());
            }
        });
        let ids = match (&self.ids, before.map(|keys| &keys.ids)) {
            (IdKeys::Structure(_), Some(wider @ IdKeys::Domain(_))) => wider.clone(),
            (ids, _) => ids.clone(),
        };
        HostKeys {
            repository: self.repository,
            domain: self.domain,
            owner_key: self.owner_key,
            signing_seed: seed,
            ids,
            table_key: self.table_key.clone(),
            content_secrets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(seed: bool, contents: u8) -> Grant {
        Grant {
            repository: RepositoryId([1; 16]),
            domain: DomainId([2; 16]),
            owner_key: [3; 32],
            host_key: KeyId([4; 16]),
            signing_seed: seed.then(|| Secret32::new([5; 32])),
            ids: if contents > 0 { IdKeys::Domain(Secret32::new([6; 32])) } else { IdKeys::Structure(Secret32::new([6; 32])) },
            table_key: Secret32::new([7; 32]),
            content_secrets: (0..contents).map(|n| Secret32::new([n; 32])).collect(),
            name: "db2".into(),
            roles: [Role::Reader].into(),
            clusters: Some(["shop".to_owned()].into()),
            newest: Head { number: 9, hash: Hash32([8; 32]) },
        }
    }

    #[test]
    fn a_grant_is_read_as_it_was_written() {
        for one in [grant(true, 0), grant(false, 1), grant(true, 65)] {
            let file = one.encode();
            assert!(file.len() < Grant::LIMIT);
            assert_eq!(Grant::decode(&file).unwrap(), one);
            for at in [0, 20, file.len() / 2, file.len() - 3] {
                let mut changed = file.to_vec();
                changed[at] ^= 1;
                assert!(Grant::decode(&changed).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn more_is_added_to_what_a_host_has() {
        let before = grant(true, 2).host_keys(Secret32::new([5; 32]), None);
        let after = grant(false, 0).host_keys(Secret32::new([5; 32]), Some(&before));
        assert_eq!(after, before, "a grant takes nothing away: a revocation does");
        let more = grant(false, 3).host_keys(Secret32::new([5; 32]), Some(&before));
        assert_eq!(more.content_secrets.len(), 3);
    }
}
