//! Opening a repository: whose it is, which keys open it, how far its log goes.

use std::path::PathBuf;
use std::sync::Arc;

use super::enrol;
use super::opened::{LogParts, Opened, Role, kept_log, load, role_of};
use super::stored::{Need, Place, counts_requests, known_format, oldest_format, open_store, read_format};
use super::unlock::unlock;
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::crypt::{Opening, Sealing, secret};
use crate::host::HostError;
use crate::host::state::{HostKeys, Pin, RepositoryState};
use crate::repo::format::{self, Format};
use crate::store::{Backend, ObjectName, StoreError};
use crate::units::{Class, Explain};

/// Opens a repository with what this host has: its own key, else a slot.
///
/// # Errors
/// If it isn't there, isn't the one that this host knows, no key opens it, or its log can't be trusted.
pub fn open(place: &Place<'_>, need: Need) -> Result<Opened, HostError> {
    let backend = open_store(place.repository, place.watch)?;
    let pin = place.state.map(|s| s.pin(&place.repository.url)).transpose()?.flatten();
    if let Some(format) = known_format(place, pin.as_ref(), need)? {
        match open_as(place, need, Arc::clone(&backend), format, pin.clone()) {
            // Whatever else is wrong, the object itself says whose fault it is.
            Err(e) if !matches!(e.class(), Class::Unreachable | Class::Denied | Class::Usage) => {}
            other => return other,
        }
    }
    let format = read_format(backend.as_ref(), &place.repository.url.to_string(), pin.as_ref().map(|pin| pin.repository))?;
    let opened = open_as(place, need, backend, format, pin)?;
    if let Some(state) = place.state.filter(|_| counts_requests(place)) {
        // Without it the object is read again.
        let _ = state.keep_format(&place.repository.url, &opened.format.encode());
    }
    Ok(opened)
}

fn open_as(place: &Place<'_>, need: Need, backend: Arc<dyn Backend>, format: Format, pin: Option<Pin>) -> Result<Opened, HostError> {
    let url = &place.repository.url;
    let shown = url.to_string();
    if need == Need::Write && format.read_only_features != 0 {
        return Err(format::FormatError::Features(format.read_only_features).into());
    }
    if need == Need::Write {
        prove_once(place, backend.as_ref(), &format)?;
    }
    let state = place.state.map(|s| s.repository(format.repository));
    let kept = state.as_ref().map(RepositoryState::host_keys).transpose()?.flatten();
    let cache = place.cache.clone();
    if let Some(keys) = kept {
        let mut opened = with_host_keys(Arc::clone(&backend), shown.clone(), format, &keys, state, cache)?;
        opened.warn_of_doubt(place);
        if opened.lacks_newest_key().is_some() && place.repository.secret.is_some() {
            opened.renew(place);
        }
        let unknown = opened.signer.as_ref().is_some_and(|s| opened.view().fold.keys.get(&s.id()).is_none());
        if need == Need::Write && unknown && place.repository.secret.is_some() {
            // Its key was kept, and then the enrolment was interrupted; or the folder was written for a restore.
            let root = unlock(place, backend.as_ref(), &format, &shown, false)?;
            enrol::enrol(&mut opened, &root)?;
        }
        return opened.ready(place, need);
    }
    // What this host knows of it must be of the owner that a slot names: the pin, or the entry seen last, which `load`
    // looks for in a log that this owner began.
    let seen = state.as_ref().map(RepositoryState::seen).transpose()?.is_some_and(|seen| seen.newest().is_some());
    let known = state.as_ref().is_some_and(RepositoryState::is_known);
    let clear = pin.is_some() || seen || !known;
    let (format, root) = match unlock(place, backend.as_ref(), &format, &shown, clear) {
        // Where this host knows nothing, the format object may be one of another repository, put over the right one.
        Err(e @ HostError::NoSlot { .. }) => {
            let oldest = oldest_format(backend.as_ref(), &format)?.ok_or(e)?;
            let root = unlock(place, backend.as_ref(), &oldest, &shown, clear)?;
            (oldest, root)
        }
        other => (format, other?),
    };
    let state = place.state.map(|s| s.repository(format.repository));
    if pin.as_ref().is_some_and(|pin| pin.owner_key != *root.owner_public().as_bytes()) {
        return Err(HostError::Another { place: shown });
    }
    let owner = root.owner_public().clone();
    let (role, keys) = ((root.sealing(), Some(root.opening())), enrol::host_keys(&root, &secret::random()?));
    let mut opened = assemble(backend, shown, format, owner, role, None, keys, state, cache)?;
    opened.warn_of_doubt(place);
    opened.remember(place)?;
    match need {
        Need::Write => {
            opened.check_sealing_key()?;
            enrol::enrol(&mut opened, &root)?;
            opened.pin(place)?;
        }
        // Who only looks can go on without; the next time it is again the first.
        Need::Read => {
            if let Err(e) = opened.pin(place) {
                match &e {
                    HostError::State(s) if s.is_about_writing() => {
                        place.progress.detail(&format!("which repository lies at {} can't be kept: {e}", opened.shown));
                    }
                    _ => return Err(e),
                }
            }
        }
    }
    Ok(opened)
}

/// Before this host writes to a service for the first time: does that let nobody overwrite? The operating system's word
/// is proved by `init` alone.
fn prove_once(place: &Place<'_>, backend: &dyn Backend, format: &Format) -> Result<(), HostError> {
    let url = &place.repository.url;
    let alone = place.repository.bucket.single_writer == Some(true);
    let Some(state) = place.state.filter(|state| url.folder().is_none() && !alone && !state.is_proved(url)) else { return Ok(()) };
    backend.prove_at(&ObjectName::new(format::NAME).map_err(StoreError::from)?, &format.encode())?;
    Ok(state.remember_proved(url)?)
}

/// Opens a repository with keys that the state doesn't have yet.
pub(in crate::host) fn open_with(place: &Place<'_>, keys: &HostKeys) -> Result<Opened, HostError> {
    let shown = place.repository.url.to_string();
    let backend = open_store(place.repository, place.watch)?;
    let format = read_format(backend.as_ref(), &shown, Some(keys.repository))?;
    let pin = place.state.map(|s| s.pin(&place.repository.url)).transpose()?.flatten();
    if pin.is_some_and(|pin| pin.repository != keys.repository || pin.owner_key != keys.owner_key) {
        return Err(HostError::Another { place: shown });
    }
    let state = place.state.map(|s| s.repository(format.repository));
    let opened = with_host_keys(backend, shown, format, keys, state, place.cache.clone())?;
    opened.warn_of_doubt(place);
    Ok(opened)
}

/// Remembers which repository lies at this URL, and how far its log goes.
pub(in crate::host) fn remember_pin(opened: &Opened, place: &Place<'_>) -> Result<(), HostError> {
    opened.remember(place)?;
    opened.pin(place)
}

pub(super) fn with_host_keys(
    backend: Arc<dyn Backend>,
    shown: String,
    format: Format,
    keys: &HostKeys,
    state: Option<RepositoryState>,
    cache: Option<PathBuf>,
) -> Result<Opened, HostError> {
    if keys.repository != format.repository || keys.domain != format.domain {
        return Err(HostError::Another { place: shown });
    }
    let owner = PublicKey::from_bytes(&keys.owner_key)?;
    let signer = SigningKey::from_seed(keys.signing_seed.expose());
    assemble(backend, shown, format, owner, role_of(keys)?, Some(signer), keys.clone(), state, cache)
}

#[allow(clippy::too_many_arguments)]
fn assemble(
    backend: Arc<dyn Backend>,
    shown: String,
    format: Format,
    owner: PublicKey,
    (sealing, opening): (Sealing, Option<Opening>),
    signer: Option<SigningKey>,
    keys: HostKeys,
    state: Option<RepositoryState>,
    cache: Option<PathBuf>,
) -> Result<Opened, HostError> {
    let parts = LogParts::new(&backend, &sealing, &format, &owner)?;
    let own = signer.as_ref().map(SigningKey::id);
    let view = load(&parts.log(), own, &shown, state.as_ref(), kept_log(cache.as_deref(), format.repository, false).as_deref())?;
    Ok(Opened::of(parts, view, Role { backend, shown, format, owner, sealing, opening, signer, keys, state, cache_folder: cache }))
}
