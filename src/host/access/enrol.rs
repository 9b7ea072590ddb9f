//! A host gets a key of its own: by a KEY entry, signed with the owner's key that a slot gave.

use std::collections::BTreeSet;

use super::opened::Opened;
use crate::crypt::sign::SigningKey;
use crate::crypt::{Root, secret};
use crate::host::HostError;
use crate::host::state::{HostKeys, IdKeys, Secret32};
use crate::repo::log::{KeyOp, Keys, Kind, Role};

/// The name by which people know this host.
pub(super) fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(200).collect();
    if name.is_empty() { "host".into() } else { name }
}

/// What this host keeps.
pub(super) fn host_keys(root: &Root, seed: &[u8; 32]) -> HostKeys {
    HostKeys {
        repository: root.repository,
        domain: root.domain,
        owner_key: *root.owner_public().as_bytes(),
        signing_seed: Secret32::new(*seed),
        ids: IdKeys::Domain(Secret32::new(*root.id_key.expose())),
        table_key: Secret32::new(*root.table_key.expose()),
        content_secrets: content_secrets(root),
    }
}

/// What opens content, the newest first.
pub(in crate::host) fn content_secrets(root: &Root) -> Vec<Secret32> {
    let mut secrets: Vec<Secret32> = root.contents().map(|content| Secret32::new(*content.expose())).collect();
    secrets.reverse();
    secrets
}

/// The KEY operation that enrols a host.
pub(super) fn host_op(key: &SigningKey, roles: &[Role]) -> KeyOp {
    KeyOp::Host { public: key.public().clone(), name: host_name(), roles: roles.iter().copied().collect::<BTreeSet<_>>(), clusters: None }
}

/// Enrols this host as writer and reader for all clusters. The key is kept in the state first: an entry for a key that
/// is lost does no harm, a key in use that is lost does.
pub(super) fn enrol(opened: &mut Opened, root: &Root) -> Result<(), HostError> {
    let Some(state) = opened.state.clone() else {
        return Err(HostError::Refused {
            what: "this host has no state folder to keep a key in".into(),
            cure: "set PGCAIRN_STATE_DIR to a folder that only this user can enter".into(),
        });
    };
    let _lock = state.lock_enrolment()?;
    let seed = match state.host_keys()? {
        // Another process of this host was faster.
        Some(keys) => *keys.signing_seed.expose(),
        None => secret::random()?,
    };
    if state.host_keys()?.is_none() {
        state.create_host_keys(&host_keys(root, &seed))?;
    }
    let key = SigningKey::from_seed(&seed);
    {
        let mut view = opened.view();
        opened.log().advance(&mut view)?;
        if view.fold.keys.get(&key.id()).is_none() {
            let keys = Keys { keys: vec![host_op(&key, &[Role::Writer, Role::Reader])] };
            opened.log().append(&mut view, &root.owner, &Kind::Key(keys))?;
            view.follow(key.id());
        }
    }
    opened.signer = Some(key);
    Ok(())
}
