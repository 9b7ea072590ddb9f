//! Hosts and their rights: enrolling by a grant, revoking by two entries.

use std::collections::BTreeSet;

use super::open::Owner;
use crate::crypt::keys::structure_id_key;
use crate::crypt::secret;
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::host::HostError;
use crate::host::access::{Opened, content_secrets};
use crate::host::state::{Grant, Head, IdKeys, Secret32};
use crate::repo::log::{self, Held, Key, KeyOp, Keys, Kind, Role, WalEnd};
use crate::units::KeyId;

/// Who is to be enrolled, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// What people call the host; or the id of an enrolled key.
    pub name: String,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// For which clusters; `None`: a new host for all, one that is enrolled for those that it has.
    pub clusters: Option<BTreeSet<String>>,
}

/// The key that is meant by a name, a key id, or the beginning of one: of a host that is not revoked, if there is such.
///
/// # Errors
/// If there is none or several.
pub fn find_host(opened: &Opened, name: &str) -> Result<(KeyId, Key), HostError> {
    let view = opened.view();
    let hosts: Vec<(&KeyId, &Key)> = view.fold.keys.iter().filter(|(_, key)| !key.owner).collect();
    let by_name: Vec<_> = hosts.iter().filter(|(_, key)| key.name == name).collect();
    let by_id: Vec<_> = hosts.iter().filter(|(id, _)| name.len() >= 4 && id.to_string().starts_with(name)).collect();
    let found = if by_name.is_empty() { by_id } else { by_name };
    let active: Vec<_> = found.iter().filter(|(_, key)| key.is_active()).collect();
    let cure = "`pgcairn key list` names them; a key's id, or its beginning, can be given as well";
    match (active.as_slice(), found.as_slice()) {
        ([(id, key)], _) | ([], [(id, key)]) => Ok((**id, (*key).clone())),
        ([], []) => Err(HostError::NoSuch { what: format!("there is no host {name} among the keys"), cure }),
        _ => {
            let ids: Vec<String> = found.iter().map(|(id, _)| id.to_string()).collect();
            Err(HostError::Refused {
                what: format!("several keys are called {name}: {}", ids.join(", ")),
                cure: "give the key's id".into(),
            })
        }
    }
}

/// A grant: for a new host with a key of its own, or, if one of that name is enrolled, with more rights or newer keys for it.
///
/// # Errors
/// If several hosts have that name, or rights would end.
pub fn grant(opened: &Opened, owner: &Owner, enrolment: &Enrolment) -> Result<Grant, HostError> {
    let known = match find_host(opened, &enrolment.name) {
        Ok((id, key)) if key.is_active() => Some((id, key)),
        Ok(_) | Err(HostError::NoSuch { .. }) => None,
        Err(e) => return Err(e),
    };
    let mut roles = enrolment.roles.clone();
    let mut clusters = enrolment.clusters.clone();
    let (seed, host_key, name) = match &known {
        // Rights end by a revocation alone: what it has, it keeps.
        Some((id, key)) => {
            roles.extend(&key.roles);
            clusters = match (&clusters, &key.clusters) {
                (Some(new), Some(old)) => Some(new.union(old).cloned().collect()),
                (_, old) => old.clone(),
            };
            (None, *id, key.name.clone())
        }
        None => {
            let seed: [u8; 32] = secret::random()?;
            (Some(Secret32::new(seed)), SigningKey::from_seed(&seed).id(), enrolment.name.clone())
        }
    };
    let root = &owner.root;
    let reads = roles.contains(&Role::Reader);
    let ids = match reads || roles.contains(&Role::Writer) {
        true => IdKeys::Domain(Secret32::new(*root.id_key.expose())),
        false => IdKeys::Structure(Secret32::new(*structure_id_key(&root.id_key).expose())),
    };
    let newest = opened.view().newest;
    Ok(Grant {
        repository: root.repository,
        domain: root.domain,
        owner_key: *root.owner_public().as_bytes(),
        host_key,
        signing_seed: seed,
        ids,
        table_key: Secret32::new(*root.table_key.expose()),
        content_secrets: if reads { content_secrets(root) } else { Vec::new() },
        name,
        roles,
        clusters,
        newest: Head { number: newest.number, hash: newest.hash },
    })
}

/// Appends the KEY entry of a grant, unless it stands already.
///
/// # Errors
/// If the grant is of another repository, its key was revoked, or it can't be appended.
pub fn enrol(opened: &Opened, owner: &Owner, grant: &Grant) -> Result<Option<log::Head>, HostError> {
    if grant.repository != opened.format.repository || grant.owner_key != *opened.owner.as_bytes() {
        return Err(HostError::Another { place: opened.shown.clone() });
    }
    let mut view = opened.view();
    opened.log().advance(&mut view)?;
    let known = view.fold.keys.get(&grant.host_key).cloned();
    let public: PublicKey = match (&known, &grant.signing_seed) {
        (Some(key), _) if key.roles == grant.roles && key.clusters == grant.clusters && key.is_active() => return Ok(None),
        (Some(key), _) => key.public.clone(),
        (None, Some(seed)) => SigningKey::from_seed(seed.expose()).public().clone(),
        (None, None) => return Err(HostError::NoSuch { what: format!("key {} is not enrolled", grant.host_key), cure: "make a new file" }),
    };
    let op = KeyOp::Host { public, name: grant.name.clone(), roles: grant.roles.clone(), clusters: grant.clusters.clone() };
    Ok(Some(opened.log().append(&mut view, &owner.root.owner, &Kind::Key(Keys { keys: vec![op] }))?))
}

/// Ends a host's rights: all that it appends from here on is void. `None` if they had ended.
///
/// # Errors
/// If it can't be appended.
pub fn revoke(opened: &Opened, owner: &Owner, key: KeyId) -> Result<Option<log::Head>, HostError> {
    let mut view = opened.view();
    opened.log().advance(&mut view)?;
    if view.fold.keys.get(&key).is_some_and(|key| !key.is_active()) {
        return Ok(None);
    }
    Ok(Some(opened.log().append(&mut view, &owner.root.owner, &Kind::Key(Keys { keys: vec![KeyOp::Revoke { key }] }))?))
}

/// Lists the last segments of a revoked host that are accepted, read after the revocation. What the log says then: another
/// owner may have been first, and has read at another moment.
///
/// # Errors
/// If it can't be appended.
pub fn end_wal(opened: &Opened, owner: &Owner, key: KeyId, ends: Vec<WalEnd>) -> Result<Vec<WalEnd>, HostError> {
    let mut view = opened.view();
    opened.log().advance(&mut view)?;
    let stand = |view: &log::LogView| view.fold.keys.get(&key).and_then(|key| key.wal_ends.clone());
    if let Some(ends) = stand(&view) {
        return Ok(ends);
    }
    let op = KeyOp::WalEnd { key, ends: Held::Inline(ends.clone()) };
    let appended = opened.log().append(&mut view, &owner.root.owner, &Kind::Key(Keys { keys: vec![op] }));
    match (appended, stand(&view)) {
        (_, Some(ends)) => Ok(ends),
        (Ok(_), None) => Ok(ends),
        (Err(e), None) => Err(e.into()),
    }
}
