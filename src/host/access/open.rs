//! Opening a repository: whose it is, which keys open it, how far its log goes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::enrol;
use super::log_store::{BackendLog, TableSealer, process_tag};
use super::unlock::unlock;
use crate::crypt::keys::ContentPublic;
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::crypt::{ContentSecret, CryptError, Opening, Sealing, Secret, secret};
use crate::host::HostError;
use crate::host::config::{RepositorySettings, RepositoryUrl};
use crate::host::paths::StateDir;
use crate::host::state::{Head, HostKeys, IdKeys, Pin, RepositoryState, Secret32};
use crate::repo::PackRef;
use crate::repo::format::{self, Format};
use crate::repo::log::{self, Log, LogView};
use crate::repo::pack::Packs;
use crate::store::s3::Watch;
use crate::store::{Backend, LocalStore, ObjectName, S3Store, StoreError, seen_through};
use crate::units::ids::unhex;
use crate::units::{Class, Explain, Hash32, KeyId, Progress, RepositoryId, SessionId};

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

/// A repository that is open.
pub struct Opened {
    /// Its objects.
    pub backend: Arc<dyn Backend>,
    /// Where it lies, for people.
    pub shown: String,
    /// What it is.
    pub format: Format,
    /// The owner's key, pinned or from a slot.
    pub owner: PublicKey,
    /// What this host holds to write.
    pub sealing: Sealing,
    /// What this host holds to read.
    pub opening: Option<Opening>,
    /// This host's own key, if it is enrolled.
    pub signer: Option<SigningKey>,
    /// What another state folder would need to open it as this one does.
    pub keys: HostKeys,
    /// What this host remembers of it.
    pub state: Option<RepositoryState>,
    /// The folder of this host's caches, if there is one.
    pub cache_folder: Option<PathBuf>,
    parts: LogParts,
    view: Mutex<LogView>,
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
fn oldest_format(backend: &dyn Backend, newest: &Format) -> Result<Option<Format>, HostError> {
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

/// The format object as this host has read it before, where reading it again would tell nothing: it never changes, and the
/// entry of the log that this host remembers, which is looked at each time, is an entry of this very repository.
fn known_format(place: &Place<'_>, pin: Option<&Pin>, need: Need) -> Result<Option<Format>, HostError> {
    let Some((state, pin)) = place.state.zip(pin).filter(|_| counts_requests(place)) else { return Ok(None) };
    let proved = need == Need::Read || place.repository.bucket.single_writer == Some(true) || state.is_proved(&place.repository.url);
    let kept = state.kept_format(&place.repository.url).and_then(|bytes| Format::decode(&bytes).ok());
    let Some(format) = kept.filter(|format| proved && format.repository == pin.repository) else { return Ok(None) };
    let known = state.repository(format.repository);
    Ok((known.host_keys()?.is_some() && known.seen()?.newest().is_some()).then_some(format))
}

/// Is each request to the store paid for, or far away?
fn counts_requests(place: &Place<'_>) -> bool {
    place.repository.url.folder().is_none()
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

/// What a host's keys are good for. The public key that content is sealed to is the log's to say.
fn role_of(keys: &HostKeys) -> Result<(Sealing, Option<Opening>), HostError> {
    let secret = |kept: &Secret32| Secret::new(*kept.expose());
    let contents: Vec<ContentSecret> = keys.content_secrets.iter().map(|s| ContentSecret::new(secret(s))).collect::<Result<_, _>>()?;
    let (table_key, public) = (secret(&keys.table_key), contents.first().map_or(ContentPublic([0; 32]), ContentSecret::public));
    let sealing = match &keys.ids {
        IdKeys::Domain(key) => Sealing::new(keys.domain, public, &secret(key), &table_key),
        IdKeys::Structure(key) => Sealing::of_structure(keys.domain, public, &secret(key), &table_key),
    };
    let opening = (!contents.is_empty()).then(|| Opening::new(sealing.clone(), contents));
    Ok((sealing, opening))
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

/// What it takes to read and write the log.
pub(super) struct LogParts {
    store: BackendLog,
    sealer: TableSealer,
    repository: RepositoryId,
    owner: PublicKey,
}

impl LogParts {
    pub(super) fn new(backend: &Arc<dyn Backend>, sealing: &Sealing, format: &Format, owner: &PublicKey) -> Result<Self, HostError> {
        let store = BackendLog::new(Arc::clone(backend), process_tag()?);
        Ok(LogParts { store, sealer: TableSealer(sealing.clone()), repository: format.repository, owner: owner.clone() })
    }

    pub(super) fn log(&self) -> Log<'_> {
        Log::new(&self.store, &self.sealer, self.repository, &self.owner)
    }
}

/// All of an opened repository but its log.
pub(super) struct Role {
    pub backend: Arc<dyn Backend>,
    pub shown: String,
    pub format: Format,
    pub owner: PublicKey,
    pub sealing: Sealing,
    pub opening: Option<Opening>,
    pub signer: Option<SigningKey>,
    pub keys: HostKeys,
    pub state: Option<RepositoryState>,
    pub cache_folder: Option<PathBuf>,
}

/// The file in which the fold is kept: no part of the catalog, so that pushes and gets need none. What a host now and then
/// needs of everybody's lists has another one.
fn kept_log(cache: Option<&Path>, repository: RepositoryId, more: bool) -> Option<PathBuf> {
    cache.map(|c| c.join(repository.to_string()).join(if more { "log-whole" } else { "log" }))
}

/// What was kept of the log, read on to its end, and the entry with which that began, which was looked at again; `None` if it
/// is of no use, and the store's own word decides.
fn resume(log: &Log<'_>, kept: Option<&Path>) -> Result<Option<(LogView, log::Head)>, HostError> {
    match kept.and_then(crate::host::cache_file::read).map(|bytes| log.resume_after(&bytes)) {
        Some(Ok(view)) => Ok(view),
        Some(Err(log::LogError::Store(e))) => Err(log::LogError::Store(e).into()),
        Some(Err(_)) | None => Ok(None),
    }
}

/// Reads the log, and of lists those of this host's key: from what was kept, else from its beginning; compares with what this
/// host remembers.
fn load(
    log: &Log<'_>,
    own: Option<KeyId>,
    shown: &str,
    state: Option<&RepositoryState>,
    kept: Option<&Path>,
) -> Result<LogView, HostError> {
    // Before the log is read: another process of this host may append and remember meanwhile.
    let remembered = state.map(RepositoryState::seen).transpose()?.and_then(|seen| seen.newest());
    let (view, proven) = match resume(log, kept)?.filter(|(view, _)| view.is_of(own) && !view.needs_all()) {
        Some((view, proven)) => (view, Some(proven)),
        None => (
            log.read_of(own).map_err(|e| match e {
                log::LogError::NotThere => HostError::Unfinished { place: shown.into() },
                other => HostError::from(other),
            })?,
            None,
        ),
    };
    // Mostly it is the entry with which the reading began: that was looked at just now.
    let newest = remembered.map(|newest| log::Head { number: newest.number, hash: newest.hash });
    let Some(newest) = newest.filter(|newest| proven != Some(*newest)) else { return Ok(view) };
    match log.check_remembered(&view, &newest) {
        // Somebody deleted or covered the newest entries: what they were may lie beneath.
        Err(log::LogError::SetBack { .. } | log::LogError::Changed { .. }) if log.dig()? => {
            let view = log.read()?;
            log.check_remembered(&view, &newest)?;
            Ok(view)
        }
        other => other.map(|()| view).map_err(HostError::from),
    }
}

impl Opened {
    pub(super) fn of(parts: LogParts, view: LogView, role: Role) -> Self {
        let Role { backend, shown, format, owner, sealing, opening, signer, keys, state, cache_folder } = role;
        let view = Mutex::new(view);
        let mut opened = Opened { backend, shown, format, owner, sealing, opening, signer, keys, state, cache_folder, parts, view };
        opened.take_sealing_keys();
        opened
    }

    /// The keys that content was sealed to are the log's to say, and which of them is used now: the owner signed that.
    fn take_sealing_keys(&mut self) {
        let (newest, all): (_, Vec<_>) = {
            let view = self.view();
            let keys = &view.fold.keys;
            (keys.sealing_key().and_then(usable), keys.sealing.iter().map(|key| key.id).collect())
        };
        if let Some(public) = newest {
            self.sealing.public = public;
        }
        if let Some(opening) = &mut self.opening {
            opening.sealing.public = self.sealing.public;
            opening.know_keys(all);
        }
    }

    /// The key to which content is sealed now, if this host reads and lacks its secret: what is written now it could not read.
    pub fn lacks_newest_key(&self) -> Option<crate::units::KeyId> {
        let newest = self.view().fold.keys.sealing_key().map(|key| key.id)?;
        self.opening.as_ref().is_some_and(|opening| !opening.opens(&newest)).then_some(newest)
    }

    /// Refuses where this host reads, and could not read what it would write: its increments would be blind.
    ///
    /// # Errors
    /// [`CryptError::NoContentKey`].
    pub fn reads_what_it_writes(&self) -> Result<(), HostError> {
        self.lacks_newest_key().map_or(Ok(()), |key| Err(CryptError::NoContentKey { key }.into()))
    }

    /// Refuses where this host can't name content, although its key may write: it has not taken the keys of its new role yet.
    ///
    /// # Errors
    /// [`HostError::Refused`].
    pub fn names_what_it_writes(&self) -> Result<(), HostError> {
        if self.sealing.names_content() {
            return Ok(());
        }
        Err(HostError::Refused {
            what: "this host holds a maintainer's keys alone, and can't write a cluster's".into(),
            cure: "take the file of its new role by `pgcairn key accept`".into(),
        })
    }

    /// Takes the content keys of after a rotation out of a slot, where what opens one is at hand. Else all goes on without.
    fn renew(&mut self, place: &Place<'_>) {
        let renewed = unlock(place, self.backend.as_ref(), &self.format, &self.shown, true).and_then(|root| {
            if root.owner_public() != &self.owner {
                return Err(HostError::Another { place: self.shown.clone() });
            }
            self.keys.content_secrets = enrol::content_secrets(&root);
            self.opening = role_of(&self.keys)?.1;
            self.take_sealing_keys();
            match (&self.state, self.lacks_newest_key()) {
                (Some(state), None) => Ok(state.replace_host_keys(&self.keys)?),
                _ => Ok(()),
            }
        });
        match renewed {
            Err(e) => place.progress.warn(&format!("the content key was rotated, and this host has not got the new one: {e}")),
            Ok(()) if self.lacks_newest_key().is_none() => place.progress.info("this host has got the new content key"),
            Ok(()) => {}
        }
    }

    /// The log.
    pub fn log(&self) -> Log<'_> {
        self.parts.log()
    }

    /// What the log says, as far as it was read. Hold it for moments only.
    pub fn view(&self) -> MutexGuard<'_, LogView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the lists of everybody, for who forgets, prunes, verifies or counts. A maintainer has them already.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn read_whole(&self) -> Result<(), HostError> {
        if self.view().is_whole() {
            return Ok(());
        }
        let kept = kept_log(self.cache_folder.as_deref(), self.format.repository, true);
        let whole = match resume(&self.log(), kept.as_deref())?.map(|(view, _)| view).filter(LogView::is_whole) {
            Some(view) => view,
            None => self.log().read()?,
        };
        let mut view = self.view();
        self.log().check_remembered(&whole, &view.newest)?;
        *view = whole;
        Ok(())
    }

    /// Is any place listed as damaged? Then which snapshots rely on it is in lists that may not have been read: they are now.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn read_whole_where_damaged(&self) -> Result<(), HostError> {
        let damaged = !self.view().fold.damaged.is_empty();
        if damaged { self.read_whole() } else { Ok(()) }
    }

    /// Reads what was expired of a cluster's WAL, and goes on doing so.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn know_wal(&self, cluster: &str) -> Result<(), HostError> {
        Ok(self.log().know_wal(&mut self.view(), cluster)?)
    }

    /// Reads the packs that these live COMMITs name, for who looks at many of them.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn know_commits(&self, numbers: &BTreeSet<u64>) -> Result<(), HostError> {
        Ok(self.log().know_commits(&mut self.view(), numbers)?)
    }

    /// The packs that a snapshot relies on: whose pack an id means is what its COMMIT says. One that the log has struck is
    /// missing.
    ///
    /// # Errors
    /// If lists that it takes can't be read.
    pub fn packs_of(&self, fold: &log::Fold, commit: &log::LiveCommit) -> Result<Packs, HostError> {
        let packs = Packs::new(Arc::clone(&self.backend), self.sealing.clone());
        let named = self.log().packs_named(fold, commit)?;
        packs.add(named.into_iter().map(|(session, id, f)| PackRef { session, id, hash: f.hash, size: f.size, tail: f.tail }));
        Ok(packs)
    }

    /// What is written now must be sealed to the key that the log names last: one that this program can't use is a newer
    /// program's.
    fn check_sealing_key(&self) -> Result<(), HostError> {
        if self.view().fold.keys.sealing_key().and_then(usable).is_some() {
            return Ok(());
        }
        Err(HostError::Refused {
            what: "what is written to this repository is sealed to a kind of key that this version does not know".into(),
            cure: "use a newer pgcairn".into(),
        })
    }

    /// The entry with this number, as it lies in the store.
    pub fn head_of(&self, number: u64) -> Option<log::Head> {
        let name = ObjectName::new(log::entry_name(number)).ok()?;
        let bytes = self.backend.read(&name, log::ENTRY_LIMIT as u64).ok()?;
        Some(log::Head { number, hash: Hash32(*blake3::hash(&bytes).as_bytes()) })
    }

    /// Reads the log on to its end.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn refresh(&self) -> Result<(), HostError> {
        let mut view = self.view();
        self.log().advance(&mut view)?;
        Ok(())
    }

    /// Says where the log isn't whole: what is read may then not be all that there is.
    fn warn_of_doubt(&self, place: &Place<'_>) {
        if let Some(doubt) = self.view().doubt() {
            let cure = doubt.cure().map(|cure| format!("; {cure}")).unwrap_or_default();
            place.progress.warn(&format!("{doubt}: there may be more than what is seen{cure}"));
        }
    }

    /// Keeps what was seen, in state and cache.
    pub(super) fn remember(&self, place: &Place<'_>) -> Result<(), HostError> {
        let more;
        let (kept, newest, clusters) = {
            let view = self.view();
            let clusters: Vec<_> = view.fold.clusters.iter().map(|(n, c)| (n.clone(), c.number, c.system_identifier)).collect();
            let own = self.signer.as_ref().map(|s| s.id());
            more = view.is_whole() && !own.and_then(|own| view.fold.keys.get(&own)).is_some_and(|key| key.may(log::Role::Maintainer, None));
            (self.log().keep(&view), view.newest, clusters)
        };
        if let (Some(path), Some(kept)) = (kept_log(self.cache_folder.as_deref(), self.format.repository, more), kept) {
            crate::host::cache_file::write(&path, &kept);
        }
        let Some(state) = &self.state else { return Ok(()) };
        let seen = state.seen()?;
        let up_to_date = seen.newest().is_some_and(|n| n.number >= newest.number)
            && clusters.iter().all(|(name, begin, _)| seen.cluster(name).is_some_and(|c| c.begin >= *begin));
        if up_to_date {
            return Ok(());
        }
        let updated = state.update(|seen| {
            seen.advance(Head { number: newest.number, hash: newest.hash })?;
            for (name, begin, system_identifier) in &clusters {
                seen.remember_begin(name, *begin, *system_identifier);
            }
            Ok::<(), crate::host::state::StateError>(())
        });
        match updated {
            Err(e) if !e.is_about_writing() => Err(e.into()),
            Err(e) => {
                place.progress.detail(&format!("what was seen of the repository can't be kept: {e}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Remembers which repository lies at this URL.
    pub(super) fn pin(&self, place: &Place<'_>) -> Result<(), HostError> {
        if let Some(state) = place.state {
            let pin = Pin { repository: self.format.repository, owner_key: *self.owner.as_bytes() };
            state.remember_pin(&place.repository.url, &pin)?;
        }
        Ok(())
    }

    /// Is this host's key what it must be for the need?
    fn ready(self, place: &Place<'_>, need: Need) -> Result<Opened, HostError> {
        self.remember(place)?;
        let active = self.signer.as_ref().is_some_and(|s| self.view().fold.keys.get(&s.id()).is_some_and(log::Key::is_active));
        if need == Need::Write && !active {
            return Err(HostError::NoRight { what: "write here: it was revoked, or never enrolled" });
        }
        if need == Need::Write {
            self.check_sealing_key()?;
        }
        Ok(self)
    }

    /// The host's key, for appending.
    ///
    /// # Errors
    /// If it has none.
    pub fn key(&self) -> Result<&SigningKey, HostError> {
        self.signer.as_ref().ok_or(HostError::NoRight { what: "write here: it is not enrolled" })
    }

    /// What opens content.
    ///
    /// # Errors
    /// If this host may not read.
    pub fn reader(&self) -> Result<&Opening, HostError> {
        self.opening.as_ref().ok_or(HostError::CannotRead)
    }

    /// The secret that keys joint chunks.
    ///
    /// # Errors
    /// If there is no state to keep it in.
    pub fn joint_secret(&self) -> Result<[u8; 32], HostError> {
        let state = self.state.as_ref().ok_or(HostError::NoRight { what: "write here: it has no state folder" })?;
        Ok(*state.small_file_secret()?.expose())
    }

    /// Keeps what was seen after something was appended; what can't be kept is no error then.
    pub fn settle(&self, place: &Place<'_>) {
        if let Err(e) = self.remember(place) {
            place.progress.warn(&format!("what was seen of the repository can't be kept: {e}"));
        }
    }
}

/// A sealing key that this program can use.
fn usable(key: &log::SealingKey) -> Option<ContentPublic> {
    let bytes = if key.algorithm == 1 { unhex(&key.public)? } else { return None };
    bytes.try_into().ok().map(ContentPublic)
}

/// A session's packs as references.
pub(super) fn pack_refs(id: SessionId, session: &log::Session) -> Vec<PackRef> {
    session.packs.iter().map(|(pack, f)| PackRef { session: id, id: *pack, hash: f.hash, size: f.size, tail: f.tail }).collect()
}
