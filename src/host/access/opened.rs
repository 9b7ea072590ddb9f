//! A repository that is open: its log, read to the end, and what this host may do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::enrol;
use super::log_store::{BackendLog, TableSealer, process_tag};
use super::stored::{Need, Place};
use super::unlock::unlock;
use crate::crypt::keys::ContentPublic;
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::crypt::{ContentSecret, CryptError, Opening, Sealing, Secret};
use crate::host::HostError;
use crate::host::state::{Head, HostKeys, IdKeys, Pin, RepositoryState, Secret32};
use crate::repo::PackRef;
use crate::repo::format::Format;
use crate::repo::log::{self, Log, LogView};
use crate::repo::pack::Packs;
use crate::store::{Backend, ObjectName};
use crate::units::ids::unhex;
use crate::units::{Explain, Hash32, KeyId, RepositoryId, SessionId};

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

/// What a host's keys are good for. The public key that content is sealed to is the log's to say.
pub(super) fn role_of(keys: &HostKeys) -> Result<(Sealing, Option<Opening>), HostError> {
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
pub(super) fn kept_log(cache: Option<&Path>, repository: RepositoryId, more: bool) -> Option<PathBuf> {
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
pub(super) fn load(
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
    pub(super) fn renew(&mut self, place: &Place<'_>) {
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
    pub(super) fn check_sealing_key(&self) -> Result<(), HostError> {
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
    pub(super) fn warn_of_doubt(&self, place: &Place<'_>) {
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
    pub(super) fn ready(self, place: &Place<'_>, need: Need) -> Result<Opened, HostError> {
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
