//! A host takes what its owner granted it.

use std::path::Path;

use crate::crypt::sign::SigningKey;
use crate::host::HostError;
use crate::host::access::{Opened, Place, open_with, remember_pin};
use crate::host::files::read_bounded;
use crate::host::state::{Grant, HostKeys, StateError};
use crate::repo::log;
use crate::units::RepositoryId;

/// What came of accepting.
pub struct Accepted {
    /// The repository, open with the new keys.
    pub opened: Opened,
    /// Had the host keys before?
    pub renewed: bool,
}

/// Reads a grant's file.
///
/// # Errors
/// If it can't be read, or isn't what was written.
pub fn read_grant(path: &Path) -> Result<Grant, HostError> {
    let malformed = |problem: String| HostError::BadGrant { path: path.to_path_buf(), problem };
    match read_bounded(path, Grant::LIMIT) {
        Ok(Some(bytes)) => Grant::decode(&bytes).map_err(malformed),
        Ok(None) => Err(malformed("there is no such file".into())),
        Err(e) => Err(malformed(e.to_string())),
    }
}

/// Takes a grant into this host's state, once the repository has shown that it is the owner's, and that the key is enrolled.
///
/// # Errors
/// If it is of another repository, the host has other keys, the log is older than the grant, or the key isn't enrolled.
pub fn accept(place: &Place<'_>, grant: &Grant) -> Result<Accepted, HostError> {
    let Some(state) = place.state else {
        return Err(HostError::Refused {
            what: "this host has no state folder to keep keys in".into(),
            cure: "set PGCAIRN_STATE_DIR to a folder that only this user can enter".into(),
        });
    };
    let repository = state.repository(grant.repository);
    let _lock = repository.lock_enrolment()?;
    let before = repository.host_keys()?;
    let keys = keys_of(grant, before.as_ref(), grant.repository, &repository.keys_path())?;
    let opened = open_with(place, &keys)?;
    let key = opened.view().fold.keys.get(&grant.host_key).cloned();
    match key {
        Some(key) if key.is_active() => {}
        Some(_) => return Err(HostError::NoRight { what: "be used: it was revoked" }),
        None => {
            return Err(HostError::NoRight {
                what: "be used: it is not enrolled; run `pgcairn key add-host` once more with the same file",
            });
        }
    }
    {
        let view = opened.view();
        opened.log().check_remembered(&view, &log::Head { number: grant.newest.number, hash: grant.newest.hash })?;
    }
    match &before {
        None => repository.create_host_keys(&keys)?,
        Some(known) if *known == keys => {}
        Some(_) => repository.replace_host_keys(&keys)?,
    }
    let newest = grant.newest;
    repository.update(|seen| Ok::<(), StateError>(seen.advance(newest)?))?;
    remember_pin(&opened, place)?;
    Ok(Accepted { opened, renewed: before.is_some() })
}

fn keys_of(grant: &Grant, before: Option<&HostKeys>, repository: RepositoryId, path: &Path) -> Result<HostKeys, HostError> {
    if let Some(seed) = &grant.signing_seed
        && SigningKey::from_seed(seed.expose()).id() != grant.host_key
    {
        return Err(HostError::Refused { what: "the file's key is not that of its seed".into(), cure: "have it made again".into() });
    }
    match (before, &grant.signing_seed) {
        (Some(known), _) if known.owner_key != grant.owner_key => Err(HostError::Refused {
            what: format!("this host knows another owner of repository {repository}"),
            cure: "is the file genuine? Where it is, run `pgcairn key forget-host --yes` first".into(),
        }),
        (Some(known), _) if SigningKey::from_seed(known.signing_seed.expose()).id() == grant.host_key => {
            Ok(grant.host_keys(known.signing_seed.clone(), Some(known)))
        }
        (Some(_), _) => Err(StateError::HasKeys { path: path.to_path_buf() }.into()),
        (None, Some(seed)) => Ok(grant.host_keys(seed.clone(), None)),
        (None, None) => Err(HostError::Refused {
            what: format!("the file adds to key {}, which this host does not have", grant.host_key),
            cure: "take it to the host that it was made for, or have one made under a new name".into(),
        }),
    }
}
