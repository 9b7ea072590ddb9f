//! The store at a URL, and the object that says which repository lies there.

use std::path::PathBuf;
use std::sync::Arc;

use crate::host::HostError;
use crate::host::config::{RepositorySettings, RepositoryUrl};
use crate::host::paths::StateDir;
use crate::host::state::Pin;
use crate::repo::format::{self, Format};
use crate::store::s3::Watch;
use crate::store::{Backend, LocalStore, ObjectName, S3Store, StoreError, seen_through};
use crate::units::{Progress, RepositoryId};

/// Where a repository lies and what this host has to do with it.
pub struct Place<'a> {
    /// URL and key sources.
    pub repository: &'a RepositorySettings,
    /// Who is told while the store is asked again, and may end that.
    pub watch: &'a Watch,
    /// The state folder; none where it can't be had, and the command only looks.
    pub state: Option<&'a StateDir>,
    /// The folder of this host's caches, if there is one.
    pub cache: Option<PathBuf>,
    /// Told of details.
    pub progress: &'a dyn Progress,
}

/// What a command needs of a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// To look at it.
    Read,
    /// To append to its log: a host without a key is enrolled.
    Write,
}

/// The object that says what this is; it must say `known`, if that is known.
pub(super) fn read_format(backend: &dyn Backend, place: &str, known: Option<RepositoryId>) -> Result<Format, HostError> {
    let name = ObjectName::new(format::NAME).map_err(StoreError::from)?;
    let is_damage = |e: &HostError| match e {
        HostError::Store(e) => e.is_absent() || matches!(e, StoreError::TooLarge { .. }),
        HostError::Format(_) | HostError::Another { .. } => true,
        _ => false,
    };
    let read = || {
        let format = Format::decode(&backend.read(&name, 4096)?)?;
        let other = known.is_some_and(|known| known != format.repository);
        if other { Err(HostError::Another { place: place.to_owned() }) } else { Ok(format) }
    };
    match seen_through(backend, &name, is_damage, read) {
        Err(HostError::Store(e)) if e.is_absent() => Err(HostError::NoRepository { place: place.into() }),
        Err(HostError::Store(StoreError::NoFolder { .. })) => Err(HostError::NoRepository { place: place.into() }),
        other => other,
    }
}

/// The format object as it was first stored, if that was another one. It is what is read from then on.
pub(super) fn oldest_format(backend: &dyn Backend, newest: &Format) -> Result<Option<Format>, HostError> {
    let name = ObjectName::new(format::NAME).map_err(StoreError::from)?;
    let Some(oldest) = backend.versions(&name)?.into_iter().next() else { return Ok(None) };
    backend.choose(&name, Some(&oldest));
    match Format::decode(&backend.read(&name, 4096)?) {
        Ok(format) if format.repository != newest.repository => Ok(Some(format)),
        _ => {
            backend.choose(&name, None);
            Ok(None)
        }
    }
}

/// Which repository lies at a URL, by its own word.
///
/// # Errors
/// If there is none.
pub fn repository_at(repository: &RepositorySettings, watch: &Watch) -> Result<RepositoryId, HostError> {
    let store = open_store(repository, watch)?;
    Ok(read_format(store.as_ref(), &repository.url.to_string(), None)?.repository)
}

/// Opens the store at a URL.
pub(super) fn open_store(repository: &RepositorySettings, watch: &Watch) -> Result<Arc<dyn Backend>, HostError> {
    match &repository.url {
        RepositoryUrl::Local(path) => match LocalStore::open(path) {
            Err(StoreError::NoFolder { .. }) => Err(HostError::NoRepository { place: repository.url.to_string() }),
            other => Ok(Arc::new(other?)),
        },
        RepositoryUrl::S3 { .. } => open_bucket(repository, watch),
    }
}

/// Opens the store in a bucket.
pub(super) fn open_bucket(repository: &RepositorySettings, watch: &Watch) -> Result<Arc<dyn Backend>, HostError> {
    let bad = |problem: String| {
        HostError::from(StoreError::S3Setting {
            what: format!("using {}", repository.url),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, problem),
        })
    };
    let settings = repository.in_bucket().map_err(|e| bad(e.to_string()))?.ok_or_else(|| bad("it is no bucket".to_owned()))?;
    Ok(Arc::new(S3Store::open(settings, watch.clone())?))
}

/// The format object as this host has read it before, where reading it again would tell nothing: it never changes, and the
/// entry of the log that this host remembers, which is looked at each time, is an entry of this very repository.
pub(super) fn known_format(place: &Place<'_>, pin: Option<&Pin>, need: Need) -> Result<Option<Format>, HostError> {
    let Some((state, pin)) = place.state.zip(pin).filter(|_| counts_requests(place)) else { return Ok(None) };
    let proved = need == Need::Read || place.repository.bucket.single_writer == Some(true) || state.is_proved(&place.repository.url);
    let kept = state.kept_format(&place.repository.url).and_then(|bytes| Format::decode(&bytes).ok());
    let Some(format) = kept.filter(|format| proved && format.repository == pin.repository) else { return Ok(None) };
    let known = state.repository(format.repository);
    Ok((known.host_keys()?.is_some() && known.seen()?.newest().is_some()).then_some(format))
}

/// Is each request to the store paid for, or far away?
pub(super) fn counts_requests(place: &Place<'_>) -> bool {
    place.repository.url.folder().is_none()
}
