//! Opening a repository: whose it is, which keys open it, how far its log goes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::enrol;
use super::log_store::{BackendLog, TableSealer, process_tag};
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::crypt::slot::{self, Slot, SlotKind, Unlock};
use crate::crypt::{ContentSecret, CryptError, Opening, Root, Sealing, Secret, secret};
use crate::host::HostError;
use crate::host::config::{RepositorySettings, RepositoryUrl, SecretSource};
use crate::host::paths::StateDir;
use crate::host::state::{Head, HostKeys, Pin, RepositoryState};
use crate::repo::PackRef;
use crate::repo::format::{self, Format};
use crate::repo::log::{self, Log, LogView};
use crate::repo::pack::Packs;
use crate::store::{Backend, LocalStore, ObjectName, StoreError};
use crate::units::ids::hex;
use crate::units::{Explain, Hash32, PackId, Progress, RepositoryId, SessionId};

/// Where a repository lies and what this host has to do with it.
pub struct Place<'a> {
    /// URL and key sources.
    pub repository: &'a RepositorySettings,
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

/// The object that says what this is.
pub(super) fn read_format(backend: &dyn Backend, place: &str) -> Result<Format, HostError> {
    let name = ObjectName::new(format::NAME).map_err(crate::store::StoreError::from)?;
    match backend.read(&name, 4096) {
        Ok(bytes) => Ok(Format::decode(&bytes)?),
        Err(e) if e.is_absent() => Err(HostError::NoRepository { place: place.into() }),
        Err(crate::store::StoreError::NoFolder { .. }) => Err(HostError::NoRepository { place: place.into() }),
        Err(e) => Err(e.into()),
    }
}

/// Opens the store at a URL.
pub(super) fn open_store(url: &RepositoryUrl) -> Result<LocalStore, HostError> {
    let RepositoryUrl::Local(path) = url;
    match LocalStore::open(path) {
        Err(crate::store::StoreError::NoFolder { .. }) => Err(HostError::NoRepository { place: url.to_string() }),
        other => Ok(other?),
    }
}

/// Opens a repository with what this host has: its own key, else a slot.
///
/// # Errors
/// If it isn't there, isn't the one that this host knows, no key opens it, or its log can't be trusted.
pub fn open(place: &Place<'_>, need: Need) -> Result<Opened, HostError> {
    let url = &place.repository.url;
    let shown = url.to_string();
    let backend: Arc<dyn Backend> = Arc::new(open_store(url)?);
    let format = read_format(backend.as_ref(), &shown)?;
    let pin = place.state.map(|s| s.pin(url)).transpose()?.flatten();
    if pin.as_ref().is_some_and(|pin| pin.repository != format.repository) {
        return Err(HostError::Another { place: shown });
    }
    if need == Need::Write && format.read_only_features != 0 {
        return Err(format::FormatError::Features(format.read_only_features).into());
    }
    let state = place.state.map(|s| s.repository(format.repository));
    let kept = state.as_ref().map(RepositoryState::host_keys).transpose()?.flatten();
    let cache = place.cache.clone();
    if let Some(keys) = kept {
        let mut opened = with_host_keys(Arc::clone(&backend), shown.clone(), format, &keys, state, cache)?;
        opened.warn_of_doubt(place);
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
    let root = unlock(place, backend.as_ref(), &format, &shown, clear)?;
    if pin.as_ref().is_some_and(|pin| pin.owner_key != *root.owner_public().as_bytes()) {
        return Err(HostError::Another { place: shown });
    }
    let owner = root.owner_public().clone();
    let mut opened = assemble(
        backend,
        shown,
        format,
        owner,
        root.sealing(),
        Some(root.opening()),
        None,
        enrol::host_keys(&root, &secret::random()?),
        state,
        cache,
    )?;
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

fn with_host_keys(
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
    let (id_key, table_key) = (Secret::new(*keys.id_key.expose()), Secret::new(*keys.table_key.expose()));
    let content = keys.content_secret.as_ref().map(|s| ContentSecret::new(Secret::new(*s.expose()))).transpose()?;
    let owner = PublicKey::from_bytes(&keys.owner_key)?;
    let signer = SigningKey::from_seed(keys.signing_seed.expose());
    let Some(content) = content else {
        return Err(HostError::Refused {
            what: "this host is enrolled to write only, which this version does not support".into(),
            cure: "use a newer pgcairn".into(),
        });
    };
    let opening = Opening::new(format.domain, content, &id_key, &table_key);
    let sealing = opening.sealing.clone();
    assemble(backend, shown, format, owner, sealing, Some(opening), Some(signer), keys.clone(), state, cache)
}

#[allow(clippy::too_many_arguments)]
fn assemble(
    backend: Arc<dyn Backend>,
    shown: String,
    format: Format,
    owner: PublicKey,
    sealing: Sealing,
    opening: Option<Opening>,
    signer: Option<SigningKey>,
    keys: HostKeys,
    state: Option<RepositoryState>,
    cache: Option<PathBuf>,
) -> Result<Opened, HostError> {
    let parts = LogParts::new(&backend, &sealing, &format, &owner)?;
    let view = load(&parts.log(), &shown, state.as_ref(), kept_log(cache.as_deref(), format.repository).as_deref())?;
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
        let store = BackendLog { backend: Arc::clone(backend), tag: process_tag()? };
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

/// The file in which the fold is kept: no part of the catalog, so that pushes and gets need none.
fn kept_log(cache: Option<&Path>, repository: RepositoryId) -> Option<PathBuf> {
    cache.map(|c| c.join(repository.to_string()).join("log"))
}

/// Reads the log: from what was kept, else from its beginning; compares with what this host remembers.
fn load(log: &Log<'_>, shown: &str, state: Option<&RepositoryState>, kept: Option<&Path>) -> Result<LogView, HostError> {
    let kept = kept.and_then(crate::host::cache_file::read);
    let resumed = match kept.map(|bytes| log.resume(&bytes)) {
        Some(Ok(view)) => view,
        // What was kept is a cache: the store's own word, read whole, decides.
        Some(Err(log::LogError::Store(e))) => return Err(log::LogError::Store(e).into()),
        Some(Err(_)) | None => None,
    };
    let view = match resumed {
        Some(view) => view,
        None => log.read().map_err(|e| match e {
            log::LogError::NotThere => HostError::Unfinished { place: shown.into() },
            other => other.into(),
        })?,
    };
    if let Some(newest) = state.map(RepositoryState::seen).transpose()?.and_then(|seen| seen.newest()) {
        log.check_remembered(&view, &log::Head { number: newest.number, hash: newest.hash })?;
    }
    Ok(view)
}

/// The passphrase or key file behind a configured secret.
///
/// # Errors
/// If it can't be read, or breaks the rules.
pub fn unlock_with(source: &SecretSource) -> Result<Unlock, HostError> {
    match source {
        SecretSource::KeyFile(_) => {
            let bytes = source.read_key_file()?;
            let text = std::str::from_utf8(&bytes).map_err(|_| crate::crypt::CryptError::WrongKey)?;
            Ok(Unlock::KeyFile(slot::parse_key_file(text)?))
        }
        _ => {
            let passphrase = source.read_passphrase()?;
            let text = String::from_utf8(passphrase.as_bytes().to_vec())
                .map_err(|_| HostError::Refused { what: "the passphrase is no UTF-8".into(), cure: "choose another one".into() })?;
            Ok(Unlock::Passphrase(Zeroizing::new(text)))
        }
    }
}

/// Slots that are tried: each may cost a key derivation.
const MOST_SLOTS: usize = 32;

/// Opens a slot. One in clear only where `clear` allows it and no secret is given: where this host knows the repository,
/// the caller must be able to tell whether what opens is the same one, else a store could pass off another.
fn unlock(place: &Place<'_>, backend: &dyn Backend, format: &Format, shown: &str, clear: bool) -> Result<Root, HostError> {
    let folder = ObjectName::new("key").map_err(crate::store::StoreError::from)?;
    let mut slots = Vec::new();
    let mut others = 0;
    for object in backend.list_sorted(Some(&folder))? {
        let parsed = match backend.read(&object.name, 65536) {
            Ok(bytes) => Slot::parse(&bytes),
            // No slot, and no reason not to try the others.
            Err(StoreError::TooLarge { .. }) => Err(CryptError::WrongKey),
            Err(e) => return Err(e.into()),
        };
        match parsed {
            Ok(slot) if slot.repository() == format.repository => slots.push(slot),
            // A slot of a newer kind may lie beside one that we know; and anybody who can write to the store may have
            // put something here.
            _ => others += 1,
        }
    }
    if slots.is_empty() {
        let first = ObjectName::new(log::entry_name(0)).map_err(StoreError::from)?;
        return Err(match backend.size(&first) {
            Err(e) if e.is_absent() => HostError::Unfinished { place: shown.into() },
            _ => HostError::NoSlot { place: shown.into(), others },
        });
    }
    // Cheap ones first: one that was planted may cost gigabytes and minutes.
    slots.sort_by_key(|slot| u64::from(slot.kdf().memory_kib) * u64::from(slot.kdf().passes));
    let unlock = match &place.repository.secret {
        Some(source) => unlock_with(source)?,
        None if clear && slots.iter().any(|s| s.kind().is_ok_and(|k| k == SlotKind::Clear)) => Unlock::Clear,
        None => return Err(HostError::NoKey { place: shown.into() }),
    };
    let mut failed = None;
    for slot in slots.iter().take(MOST_SLOTS) {
        let opened = match slot.open(&unlock) {
            Ok(opened) => opened,
            Err(e) => {
                failed.get_or_insert(e);
                continue;
            }
        };
        if let Some(root) = opened {
            if root.repository != format.repository || root.domain != format.domain {
                return Err(HostError::Another { place: shown.into() });
            }
            if slot.is_weak() {
                place.progress.warn(&format!("the passphrase of {shown} is cheap to guess: its key slot was made with --test-kdf"));
            }
            return Ok(root);
        }
    }
    if slots.len() > MOST_SLOTS {
        place.progress.warn(&format!("there are {} key slots, of which {MOST_SLOTS} were tried: were some of them planted?", slots.len()));
    }
    Err(failed.unwrap_or(CryptError::WrongKey).into())
}

/// The owner's key, if the configured secret opens a slot; `None` where no secret is configured. For what this host's own
/// key has no right to.
///
/// # Errors
/// If the secret opens no slot, or one of another owner's.
pub fn owner_key(place: &Place<'_>, opened: &Opened) -> Result<Option<SigningKey>, HostError> {
    if place.repository.secret.is_none() {
        return Ok(None);
    }
    let root = unlock(place, opened.backend.as_ref(), &opened.format, &opened.shown, false)?;
    if *root.owner_public() != opened.owner {
        return Err(HostError::Another { place: opened.shown.clone() });
    }
    Ok(Some(root.owner))
}

impl Opened {
    pub(super) fn of(parts: LogParts, view: LogView, role: Role) -> Self {
        let Role { backend, shown, format, owner, sealing, opening, signer, keys, state, cache_folder } = role;
        let view = Mutex::new(view);
        Opened { backend, shown, format, owner, sealing, opening, signer, keys, state, cache_folder, parts, view }
    }

    /// The log.
    pub fn log(&self) -> Log<'_> {
        self.parts.log()
    }

    /// What the log says, as far as it was read. Hold it for moments only.
    pub fn view(&self) -> MutexGuard<'_, LogView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The packs that a snapshot relies on: whose pack an id means is what its COMMIT says.
    pub fn packs_of(&self, fold: &log::Fold, commit: &log::LiveCommit) -> Packs {
        let packs = Packs::new(Arc::clone(&self.backend), self.sealing.clone());
        packs.add(refs_in(fold, &commit.set));
        packs
    }

    /// What is written now must be sealed to the key that the log names last: one that this program can't use is a newer
    /// program's.
    fn check_sealing_key(&self) -> Result<(), HostError> {
        let ours = hex(&self.sealing.public.0);
        match self.view().fold.keys.sealing_key() {
            Some(key) if key.algorithm == 1 && key.public == ours => Ok(()),
            _ => Err(HostError::Refused {
                what: "what is written to this repository is sealed to a key that this host does not have".into(),
                cure: "use a newer pgcairn, or enrol this host again".into(),
            }),
        }
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
        let (kept, newest, clusters) = {
            let view = self.view();
            let clusters: Vec<_> = view.fold.clusters.iter().map(|(n, c)| (n.clone(), c.number, c.system_identifier)).collect();
            (self.log().keep(&view), view.newest, clusters)
        };
        if let (Some(path), Some(kept)) = (kept_log(self.cache_folder.as_deref(), self.format.repository), kept) {
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
        self.opening.as_ref().ok_or(HostError::NoRight { what: "read here" })
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

/// The packs of a set as references; one that the log has struck is missing.
pub(super) fn refs_in(fold: &log::Fold, set: &log::PackSet) -> Vec<PackRef> {
    let one = |session: &SessionId, pack: &PackId| {
        let f = fold.pack(session, pack)?;
        Some(PackRef { session: *session, id: *pack, hash: f.hash, size: f.size, tail: f.tail })
    };
    set.iter().filter_map(|(session, pack)| one(session, pack)).collect()
}

/// A session's packs as references.
pub(super) fn pack_refs(id: SessionId, session: &log::Session) -> Vec<PackRef> {
    session.packs.iter().map(|(pack, f)| PackRef { session: id, id: *pack, hash: f.hash, size: f.size, tail: f.tail }).collect()
}
