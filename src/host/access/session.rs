//! A session: a run that writes. Opened by BEGIN, ended by COMMIT or ABORT; dropped without either, it says so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::log_store::is_of_the_dead;
use super::opened::{Opened, pack_refs};
use crate::crypt::secret;
use crate::host::HostError;
use crate::host::lock::{FileLock, LockState, SessionLocks};
use crate::repo::PackRef;
use crate::repo::log::{Abort, Begin, Commit, Head, Held, Kind, LogError, LogView, NewPacks, PackFacts, PackSet, Progressed, Session};
use crate::repo::write::Uploaded;
use crate::store::SessionTag;
use crate::units::ids::{hex, unhex};
use crate::units::{Class, Explain, KeyId, PackId, Progress, SessionId};

/// A sign of life is appended at least this often.
const ALIVE: Duration = Duration::from_secs(9 * 60);
/// PROGRESS lists packs after this many bytes at first, then at twice as many, and so on up to [`MOST_UNLISTED`].
const FIRST_UNLISTED: u64 = 8 << 20;
/// So long after a signal it is tried to say in the log that a session has ended: what waits for this process (a service
/// manager, a person) is more patient, and where it isn't, the next run finds the lock free.
const PARTING: Duration = Duration::from_secs(8);
/// The most that a killed run has to store again.
const MOST_UNLISTED: u64 = 2 << 30;

/// An open session of this process.
pub struct OpenSession {
    opened: Arc<Opened>,
    id: SessionId,
    begin: u64,
    lock: Option<FileLock>,
    told: Mutex<Told>,
    ended: bool,
}

/// What PROGRESS has told so far.
struct Told {
    unlisted: NewPacks,
    bytes: u64,
    next: u64,
    last: Instant,
}

/// Packs that a session may name besides its own.
#[derive(Debug, Default)]
pub struct Adopted {
    /// All of them.
    pub packs: HashMap<PackId, PackRef>,
    /// Those whose uploader this host trusts.
    pub trusted: HashSet<PackId>,
}

impl OpenSession {
    /// Appends BEGIN and reads it back. `begin`'s lock is set here.
    ///
    /// # Errors
    /// If it would be void, or can't be written.
    pub fn begin(opened: &Arc<Opened>, locks: &SessionLocks, mut begin: Begin) -> Result<Self, HostError> {
        let name: [u8; 16] = secret::random()?;
        let lock = locks.hold(&name, opened.format.repository)?;
        begin.lock = Some(hex(&name));
        opened.begins(&hex(&name))?;
        let head = match append(opened, &Kind::Begin(begin)) {
            Ok(head) => head,
            Err(e) => {
                // It may have been written all the same: then the free lock tells the next run that it is dead.
                lock.leave();
                return Err(e);
            }
        };
        let told = Told { unlisted: NewPacks::new(), bytes: 0, next: FIRST_UNLISTED, last: Instant::now() };
        Ok(OpenSession {
            opened: Arc::clone(opened),
            id: head.session(),
            begin: head.number,
            lock: Some(lock),
            told: Mutex::new(told),
            ended: false,
        })
    }

    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The number of its BEGIN.
    pub fn number(&self) -> u64 {
        self.begin
    }

    /// Marks its unfinished files.
    pub fn tag(&self) -> SessionTag {
        self.id.into()
    }

    /// What a COMMIT of this session may name (R5): packs in the lists of ended sessions that are not condemned, or were
    /// condemned after this session's BEGIN.
    ///
    /// Those of this host's key and of trusted ones; of others' only what was stored for the same system identifier: for clones
    /// of the cluster, which share most of it. [`Opened::know_packs`] has read what lists that takes.
    ///
    /// A place holds a pack's id alone, so each id must mean one pack: the parent's, else one by a trusted key, and if
    /// several sessions list the same id otherwise (nobody does so but to shadow another's pack), none.
    pub fn adopted(&self, trust_writers: &[KeyId], parent: Option<&PackSet>) -> Adopted {
        let view = self.opened.view();
        let fold = &view.fold;
        let own = self.opened.signer.as_ref().map(|s| s.id());
        let trusts = |key: &KeyId| Some(*key) == own || trust_writers.contains(key);
        // Who commits others' snapshots again names what they name.
        let backup = fold.sessions.get(&self.id).filter(|s| s.purpose == "backup");
        let system = backup.and_then(system_of);
        // What was condemned up to there is not known: but nothing that a live COMMIT names.
        let unread = fold.unread.packs.last().map(|list| list.entry);
        let vouched = unread.map(|_| fold.commits.values().filter(|c| trusts(&c.key)).flat_map(|c| c.set.iter()).collect::<HashSet<_>>());
        let mut all: HashMap<PackId, Vec<(PackRef, bool)>> = HashMap::new();
        for (id, session) in fold.sessions.iter().filter(|(_, s)| !s.open && s.unread.is_empty()) {
            let trusted = trusts(&session.key);
            if !trusted && !(view.is_whole() && (backup.is_none() || (system.is_some() && system_of(session) == system))) {
                continue;
            }
            let known = unread.is_none_or(|unread| session.ended.is_some_and(|ended| ended > unread));
            for pack in pack_refs(*id, session) {
                let vouched = || vouched.as_ref().is_some_and(|vouched| vouched.contains(&(id, &pack.id)));
                if fold.may_name(&self.id, id, &pack.id) && (known || vouched()) {
                    all.entry(pack.id).or_default().push((pack, trusted));
                }
            }
        }
        let mut adopted = Adopted::default();
        for (id, mut packs) in all {
            if packs.len() > 1 {
                match parent.and_then(|set| set.iter().find(|(_, p)| **p == id)) {
                    Some((session, _)) => packs.retain(|(pack, _)| pack.session == *session),
                    None => packs.retain(|(_, trusted)| *trusted),
                }
            }
            if let [(pack, trusted)] = packs.as_slice() {
                adopted.packs.insert(id, *pack);
                if *trusted {
                    adopted.trusted.insert(id);
                }
            }
        }
        adopted
    }

    /// Told of each stored pack, and now and then of none: appends PROGRESS when it is time.
    ///
    /// # Errors
    /// If it can't be appended: the session was aborted by somebody else, for example.
    pub fn told(&self, what: Uploaded<'_>) -> Result<(), HostError> {
        let due = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if let Uploaded::Pack(pack) = what {
                told.unlisted.insert(pack.id, PackFacts { hash: pack.hash, size: pack.size, tail: pack.tail });
                told.bytes += pack.size;
            }
            told.bytes >= told.next || told.last.elapsed() >= ALIVE
        };
        match if due { self.list_all() } else { Ok(()) } {
            // The store is away: there will be another occasion, and the session is not ended by silence alone.
            Err(e) if e.class() == Class::Unreachable => Ok(()),
            other => other,
        }
    }

    /// Lists what no PROGRESS has listed yet.
    ///
    /// # Errors
    /// If it can't be appended; what was to be listed is kept for the next time.
    pub fn list_all(&self) -> Result<(), HostError> {
        let (packs, bytes) = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.last = Instant::now();
            told.next = (told.bytes.saturating_mul(2)).clamp(FIRST_UNLISTED, MOST_UNLISTED);
            (std::mem::take(&mut told.unlisted), std::mem::take(&mut told.bytes))
        };
        match append(&self.opened, &Kind::Progress(Progressed { session: self.id, packs: Held::Inline(packs.clone()) })) {
            Ok(_) => Ok(()),
            Err(e) => {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                told.unlisted.extend(packs);
                told.bytes += bytes;
                Err(e)
            }
        }
    }

    /// The packs that no PROGRESS has listed.
    pub fn unlisted(&self) -> NewPacks {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).unlisted.clone()
    }

    /// Ends the session with a snapshot.
    ///
    /// # Errors
    /// If it can't be appended; the session is then aborted.
    pub fn commit(mut self, commit: Commit) -> Result<Head, HostError> {
        match append(&self.opened, &Kind::Commit(Box::new(commit))) {
            Ok(head) => {
                self.ended = true;
                Ok(head)
            }
            // That it can be read is no proof that it is durable, where the store says that it is not.
            Err(e) if !was_lost(&e) => Err(e),
            Err(e) => match self.committed() {
                // The answer was lost, the entry is there.
                Some(head) => {
                    self.ended = true;
                    Ok(head)
                }
                None => Err(e),
            },
        }
    }

    /// The COMMIT of this session, if it is in the log.
    fn committed(&self) -> Option<Head> {
        self.opened.refresh().ok()?;
        let number = self.opened.view().fold.commits.iter().find(|(_, c)| c.session == self.id).map(|(n, _)| *n)?;
        self.opened.head_of(number)
    }

    /// Ends the session without a snapshot.
    ///
    /// # Errors
    /// If it can't be appended; then it ends when the next run finds its lock free.
    pub fn abort(mut self) -> Result<(), HostError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), HostError> {
        self.ended = true;
        self.opened.backend.part(PARTING);
        if !self.unlisted().is_empty() {
            // So that the next run can use what is stored, and a prune can free it.
            let _ = self.list_all();
        }
        append(&self.opened, &Kind::Abort(Abort { session: self.id })).map(|_| ())
    }
}

impl Drop for OpenSession {
    /// A session that is given up, by an error or a panic, is aborted; if that fails too, its lock file stays, so that
    /// its end is found by the next run.
    fn drop(&mut self) {
        if !self.ended
            && self.end().is_err()
            && let Some(lock) = self.lock.take()
        {
            lock.leave();
        }
    }
}

fn system_of(session: &Session) -> Option<u64> {
    session.cluster.as_ref().map(|cluster| cluster.system_identifier)
}

impl Opened {
    /// Reads the lists that a backup of this cluster builds upon: those of trusted keys, and what was condemned since sessions
    /// of theirs and of this host's died. Has a key that isn't trusted stored anything under the same system identifier, all:
    /// which of its sessions have ended, so that a COMMIT may name their packs, is certain for those alone who judge every entry.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn know_packs(&self, trust_writers: &[KeyId], system_identifier: u64) -> Result<(), HostError> {
        let own = self.signer.as_ref().map(|s| s.id());
        let trusts = |key: &KeyId| Some(*key) == own || trust_writers.contains(key);
        let mut view = self.view();
        if view.is_whole() {
            return Ok(());
        }
        let of_clones = view.fold.sessions.values().any(|s| {
            let stored = !s.packs.is_empty() || !s.unread.is_empty();
            !trusts(&s.key) && !s.open && stored && system_of(s) == Some(system_identifier)
        });
        if of_clones && self.opening.is_some() {
            drop(view);
            return self.read_whole();
        }
        self.log().know_keys(&mut view, trust_writers, system_identifier)?;
        let newest = view.fold.commits.iter().filter(|(_, c)| trusts(&c.key)).map(|(number, _)| *number).max();
        let died = view.fold.sessions.values().filter(|s| !s.open && trusts(&s.key) && !s.packs.is_empty());
        let oldest = died.filter_map(|s| s.ended).filter(|ended| newest.is_none_or(|newest| *ended > newest)).min();
        oldest.map_or(Ok(()), |oldest| Ok(self.log().know_condemned(&mut view, oldest)?))
    }
}

/// Did only an answer of the store get lost?
fn was_lost(e: &HostError) -> bool {
    match e {
        HostError::Log(LogError::Unsure { source, .. }) => source.as_ref().is_none_or(|s| s.class() == Class::Unreachable),
        e => e.class() == Class::Unreachable,
    }
}

/// Appends an entry with the host's key.
///
/// # Errors
/// If this host has no key, the entry would be void, or it can't be written.
pub fn append(opened: &Opened, kind: &Kind) -> Result<Head, HostError> {
    let key = opened.key()?;
    let mut view = opened.view();
    Ok(opened.log().append(&mut view, key, kind)?)
}

/// As [`append`], but only if `still` says so of all that the log adds up to below the entry; `None`: it said no.
///
/// # Errors
/// As there.
pub fn append_if(opened: &Opened, kind: &Kind, still: &mut dyn FnMut(&LogView) -> bool) -> Result<Option<Head>, HostError> {
    let key = opened.key()?;
    let mut view = opened.view();
    Ok(opened.log().append_if(&mut view, key, kind, still)?)
}

/// Ends sessions of this machine whose process is dead (their lock is free), and removes what they left unfinished.
///
/// # Errors
/// If the log or the locks can't be read.
pub fn end_dead_sessions(opened: &Opened, locks: &SessionLocks, machine: &str, progress: &dyn Progress) -> Result<(), HostError> {
    let own = opened.signer.as_ref().map(|s| s.id());
    let open: BTreeMap<SessionId, Vec<u8>> = {
        let view = opened.view();
        let ours = view.fold.sessions.iter().filter(|(_, s)| s.open && s.machine == machine && Some(s.key) == own);
        ours.filter_map(|(id, s)| Some((*id, unhex(s.lock.as_deref()?)?))).collect()
    };
    for (session, lock) in open {
        if locks.probe(&lock)? != LockState::Free {
            continue;
        }
        match append(opened, &Kind::Abort(Abort { session })) {
            // Another run of this machine was faster.
            Err(_) if !opened.view().fold.is_open(&session) => {}
            other => drop(other?),
        }
        locks.clear(&lock)?;
        progress.info(&format!("ended session {session} of this machine, which had died; what it had stored is used again"));
    }
    clear_locks(opened, locks)
}

/// Removes the locks of dead processes whose session has ended, or never began.
///
/// # Errors
/// If the log or the folder of locks can't be read or changed.
pub fn clear_locks(opened: &Opened, locks: &SessionLocks) -> Result<(), HostError> {
    let dead = locks.dead(opened.format.repository)?;
    if dead.is_empty() {
        return Ok(());
    }
    // The log as it is after they died.
    opened.refresh()?;
    let open: HashSet<Vec<u8>> = {
        let view = opened.view();
        view.fold.sessions.values().filter(|s| s.open).filter_map(|s| unhex(s.lock.as_deref()?)).collect()
    };
    for lock in dead.into_iter().filter(|lock| !open.contains(lock)) {
        locks.clear(&lock)?;
    }
    Ok(())
}

/// Whose unfinished files are left for nothing: of sessions that have ended, and of processes of this machine that are dead.
///
/// # Errors
/// If the store can't be read.
pub fn leftovers(opened: &Opened) -> Result<HashSet<SessionTag>, HostError> {
    let ended: HashSet<String> = {
        let view = opened.view();
        view.fold.sessions.iter().filter(|(_, s)| !s.open).map(|(id, _)| id.to_string()).collect()
    };
    let tags = opened.backend.leftovers()?.into_iter().map(|(tag, _)| tag);
    Ok(tags.filter(|tag| ended.contains(tag.as_str()) || is_of_the_dead(tag)).collect())
}

/// Removes the unfinished files that [`leftovers`] finds.
///
/// # Errors
/// If the store can't be read.
pub fn remove_leftovers(opened: &Opened) -> Result<(), HostError> {
    for tag in leftovers(opened)? {
        opened.backend.remove_leftovers(&tag)?;
    }
    Ok(())
}
