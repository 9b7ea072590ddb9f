//! Which lists are read, and reading more of them later.
//!
//! Entries are small, and everybody reads all of them. Their lists (packs and sets of packs, segments) are as large as what
//! others have stored, and most hosts need none but their own. So a view is *whole* or *of one host*: then it holds the lists
//! of that host's key, takes for granted that others' lists say nothing that would make their entries void, and knows where
//! they lie. Sessions, keys, snapshots and their WAL are the same in both, as long as every writer keeps the rules; what a
//! host appends itself is judged by lists that it has read (decision 017).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;

use serde::{Deserialize, Serialize};

use super::body;
use super::entry::{self, ENTRY_LIMIT, Said};
use super::fold::{Fold, LiveCommit};
use super::kind::{Kind, NewPacks, PackFacts, PackSet, Role};
use super::read::{Damage, Log, LogView, MissingBody, hash};
use super::{LogError, StoreFailure, body_name, entry_name};
use crate::store::at_once;
use crate::units::{Hash32, KeyId, PackId, SessionId};

/// Requests at a time.
pub(super) const AT_ONCE: usize = 64;

/// So many requests are worth another thread where an answer comes at once.
const A_THREAD: usize = 4;

/// Where a list lies that was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAt {
    /// The number of its entry.
    pub entry: u64,
    /// The hash of the entry's bytes.
    pub hash: Hash32,
}

/// Lists that were not read, and belong to no session or snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnreadLists {
    /// Of CONDEMN and SWEEP, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<ListAt>,
    /// Of EXPIRE-WAL: cluster name → where, in order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub wal: BTreeMap<String, Vec<ListAt>>,
}

impl UnreadLists {
    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.wal.is_empty()
    }
}

/// Whose lists a view holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reads {
    /// Everybody's.
    pub all: bool,
    /// Nothing was taken for granted yet.
    exact: bool,
    /// This key's.
    key: Option<KeyId>,
    /// What was expired of these clusters.
    clusters: BTreeSet<String>,
}

impl Reads {
    pub fn everything() -> Self {
        Reads { all: true, exact: true, key: None, clusters: BTreeSet::new() }
    }

    pub fn of(key: Option<KeyId>) -> Self {
        Reads { all: false, exact: true, key, clusters: BTreeSet::new() }
    }

    /// Is the list of an entry of this key read as it comes?
    pub fn wants(&self, kind: &Kind, signer: &KeyId) -> bool {
        let own = self.all || self.key.as_ref() == Some(signer);
        match kind {
            Kind::Progress(_) | Kind::Commit(_) | Kind::Condemn(_) | Kind::Sweep(_) | Kind::Audit(_) => own,
            Kind::ExpireWal(expire) => own || self.clusters.contains(&expire.cluster),
            _ => true,
        }
    }

    /// May the body that an entry of this key names be wanted? (What isn't fetched beforehand is fetched when it is wanted.)
    pub fn may_want(&self, signer: &KeyId) -> bool {
        self.all || self.key.as_ref() == Some(signer)
    }
}

/// Has an entry of this kind a list by which it can be void?
pub(super) fn has_list(kind: &Kind) -> bool {
    matches!(kind, Kind::Progress(_) | Kind::Commit(_) | Kind::Condemn(_) | Kind::Sweep(_) | Kind::ExpireWal(_) | Kind::Audit(_))
}

impl LogView {
    /// Does it hold everybody's lists, and was every entry judged by them?
    pub fn is_whole(&self) -> bool {
        self.reads.all
    }

    /// Is it such as is read for this key?
    pub fn is_of(&self, key: Option<KeyId>) -> bool {
        self.reads.all || self.reads.key == key
    }

    /// Is the host whose lists it holds a maintainer, who needs everybody's?
    pub fn needs_all(&self) -> bool {
        !self.reads.all && self.own_maintainer()
    }

    fn own_maintainer(&self) -> bool {
        let key = self.reads.key.and_then(|key| self.fold.keys.get(&key));
        key.is_some_and(|key| key.is_active() && key.roles.contains(&Role::Maintainer))
    }

    /// From now on this key's lists are read. It must have appended nothing yet.
    pub fn follow(&mut self, key: KeyId) {
        if !self.reads.all || self.reads.key.is_none() {
            let exact = self.reads.exact && (!self.reads.all || self.newest.number == 0);
            self.reads =
                Reads { all: self.reads.all && self.newest.number > 0, exact, key: Some(key), clusters: self.reads.clusters.clone() };
        }
        self.widen();
    }

    /// A maintainer's view is whole, if nothing was passed over so far.
    pub(super) fn widen(&mut self) {
        if !self.reads.all && self.reads.exact && self.own_maintainer() {
            self.reads.all = true;
        }
    }

    /// Something was taken for granted.
    pub(super) fn granted(&mut self) {
        self.reads.exact = false;
    }
}

impl Log<'_> {
    /// Reads objects, many at a time, in the order of their names.
    pub(super) fn fetch(&self, names: &[String], limit: usize) -> Vec<Result<Option<Vec<u8>>, StoreFailure>> {
        let threads = if self.store.is_far() { names.len() } else { names.len().div_ceil(A_THREAD) }.min(AT_ONCE);
        let mut found = Vec::with_capacity(names.len());
        let done: Result<(), Infallible> = at_once(names, threads, |name| self.store.read(name, limit), &mut |at, read| {
            found.push((at, read));
            Ok(())
        });
        match done {
            Ok(()) => {}
        }
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(_, read)| read).collect()
    }

    /// The bodies that these entries name and the view will want, fetched beforehand. One that can't be had is asked for again
    /// when its turn comes.
    pub(super) fn bodies_of<'b>(&self, view: &LogView, entries: impl Iterator<Item = &'b [u8]>) -> HashMap<Hash32, Vec<u8>> {
        let named = |bytes: &[u8]| {
            let parts = entry::split(bytes).ok().filter(|parts| view.reads.may_want(&parts.header.signer))?;
            let plain = self.sealer.open(&parts.sealed, &parts.header.associated_data()).ok()?;
            body::name_in(&plain)
        };
        let hashes: Vec<Hash32> = entries.filter_map(named).collect();
        if hashes.len() < 2 {
            return HashMap::new();
        }
        let names: Vec<String> = hashes.iter().map(body_name).collect();
        let read = self.fetch(&names, body::OBJECT_LIMIT);
        hashes.into_iter().zip(read).filter_map(|(hash, read)| Some((hash, read.ok()??))).collect()
    }

    /// Reads lists, many at a time, and hands them on in the order of their entries.
    ///
    /// # Errors
    /// If the store can't be read, or hasn't what it had.
    pub(super) fn lists(&self, at: &BTreeSet<ListAt>, each: &mut dyn FnMut(u64, Kind)) -> Result<(), LogError> {
        let at: Vec<ListAt> = at.iter().copied().collect();
        for part in at.chunks(AT_ONCE) {
            let names: Vec<String> = part.iter().map(|list| entry_name(list.entry)).collect();
            let mut kinds = Vec::new();
            let lately: Vec<Option<Vec<u8>>> = names.iter().map(|name| self.store.lately(name)).collect();
            let lacking: Vec<String> = names.into_iter().zip(&lately).filter(|(_, at_hand)| at_hand.is_none()).map(|(n, _)| n).collect();
            let mut fetched = self.fetch(&lacking, ENTRY_LIMIT).into_iter();
            for (list, at_hand) in part.iter().zip(lately) {
                let read = match at_hand {
                    Some(bytes) => Some(bytes),
                    None => fetched.next().transpose()?.flatten(),
                };
                kinds.push((list.entry, self.kind_of(list, read)?));
            }
            let named: Vec<Option<Hash32>> = kinds.iter_mut().map(|(_, kind)| body::named_by(kind)).collect();
            let names: Vec<String> = named.iter().flatten().map(body_name).collect();
            let mut bodies = self.fetch(&names, body::OBJECT_LIMIT).into_iter();
            for ((number, mut kind), named) in kinds.into_iter().zip(named) {
                if let Some(hash) = named {
                    let missing = || LogError::MissingBody(MissingBody { number, hash });
                    let object = bodies.next().ok_or_else(missing)??.filter(|b| self::hash(b) == hash).ok_or_else(missing)?;
                    // Not of its entry, or no list: void for those who read everything; here it lists nothing.
                    let Some(sealed) = body::split(&object, &self.repository, number) else { continue };
                    match self.sealer.open(&sealed, &body::body_data(&self.repository, number)) {
                        Ok(list) if body::move_in(&mut kind, &list).is_ok() => {}
                        Ok(_) | Err(super::SealFailure::NotAuthentic) => continue,
                        Err(failure) => return Err(failure.into()),
                    }
                }
                each(number, kind);
            }
        }
        Ok(())
    }

    fn kind_of(&self, list: &ListAt, read: Option<Vec<u8>>) -> Result<Kind, LogError> {
        let gone = || LogError::Damaged(Damage::Absent { first: list.entry, last: list.entry });
        let mut bytes = read.ok_or_else(gone)?;
        // Twice, as a bit may have been flipped on the way.
        if hash(&bytes) != list.hash {
            bytes = self.store.read(&entry_name(list.entry), ENTRY_LIMIT)?.ok_or_else(gone)?;
        }
        let found = hash(&bytes);
        if found != list.hash {
            return Err(LogError::Changed { number: list.entry, remembered: list.hash, found });
        }
        let changed = || LogError::Damaged(Damage::Changed(list.entry));
        let parts = entry::split(&bytes).map_err(|_| changed())?;
        let plain = self.sealer.open(&parts.sealed, &parts.header.associated_data())?;
        match entry::decode_plain(&plain) {
            Ok(Said::Known(_, kind)) => Ok(kind),
            _ => Err(changed()),
        }
    }

    /// Reads lists into a view.
    fn load(&self, view: &mut LogView, at: &BTreeSet<ListAt>) -> Result<(), LogError> {
        let fold = &mut view.fold;
        let at = &fold.with_those_before(at);
        self.lists(at, &mut |number, kind| fold.fill(number, &kind))?;
        fold.have_read(at);
        Ok(())
    }

    /// What was expired of a cluster's WAL, now and from now on.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn know_wal(&self, view: &mut LogView, cluster: &str) -> Result<(), LogError> {
        if view.reads.all || view.reads.clusters.contains(cluster) {
            return Ok(());
        }
        let at: BTreeSet<ListAt> = view.fold.unread.wal.get(cluster).into_iter().flatten().copied().collect();
        self.load(view, &at)?;
        view.reads.clusters.insert(cluster.to_owned());
        Ok(())
    }

    /// What backups by these keys have stored, and what their live COMMITs name. Of what a maintainer among them has stored anew
    /// only what snapshots under this system identifier need: it did so for everybody.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn know_keys(&self, view: &mut LogView, keys: &[KeyId], system_identifier: u64) -> Result<(), LogError> {
        let of_system = |c: &LiveCommit| c.summary.system_identifier == system_identifier;
        let commits = view.fold.commits.values().filter(|c| keys.contains(&c.key) && (c.replaces.is_none() || of_system(c)));
        let sets: BTreeSet<ListAt> = commits.flat_map(|c| c.unread.iter().copied()).collect();
        self.load(view, &sets)?;
        let named: BTreeSet<SessionId> =
            view.fold.commits.values().filter(|c| of_system(c)).flat_map(|c| c.set.iter()).map(|(session, _)| *session).collect();
        let sessions = view.fold.sessions.iter().filter(|(id, s)| keys.contains(&s.key) && (s.cluster.is_some() || named.contains(id)));
        let lists: BTreeSet<ListAt> = sessions.flat_map(|(_, s)| s.unread.iter()).copied().collect();
        self.load(view, &lists)
    }

    /// What was condemned and swept behind an entry, of packs that are in lists known here.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn know_condemned(&self, view: &mut LogView, behind: u64) -> Result<(), LogError> {
        let at: BTreeSet<ListAt> = view.fold.unread.packs.iter().filter(|list| list.entry > behind).copied().collect();
        self.load(view, &at)
    }

    /// What these live COMMITs name, and what its sessions have listed of it.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn know_commits(&self, view: &mut LogView, numbers: &BTreeSet<u64>) -> Result<(), LogError> {
        let commits = |fold: &Fold| numbers.iter().filter_map(|n| fold.commits.get(n)).cloned().collect::<Vec<_>>();
        let sets = commits(&view.fold).iter().flat_map(|c| c.unread.iter().copied()).collect();
        self.load(view, &sets)?;
        let sessions: BTreeSet<SessionId> = commits(&view.fold).iter().flat_map(|c| c.set.iter()).map(|(session, _)| *session).collect();
        let lists = sessions.iter().filter_map(|id| view.fold.sessions.get(id)).flat_map(|s| s.unread.iter()).copied().collect();
        self.load(view, &lists)
    }

    /// The packs that a live COMMIT names, with what their sessions listed of them: one that was swept is missing.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn packs_named(&self, fold: &Fold, commit: &LiveCommit) -> Result<Vec<(SessionId, PackId, PackFacts)>, LogError> {
        let mut set = commit.set.clone();
        self.lists(&commit.unread.iter().copied().collect(), &mut |_, kind| take_set(&mut set, &kind))?;
        let sessions: BTreeSet<SessionId> = set.iter().map(|(session, _)| *session).collect();
        let unread = sessions.iter().filter_map(|id| fold.sessions.get(id)).flat_map(|s| s.unread.iter()).copied().collect();
        let mut more: BTreeMap<SessionId, NewPacks> = BTreeMap::new();
        self.lists(&unread, &mut |_, kind| {
            if let Some((session, packs)) = new_packs_of(&kind) {
                more.entry(session).or_default().extend(packs);
            }
        })?;
        let facts = |session: &SessionId, pack: &PackId| {
            fold.pack(session, pack).or_else(|| more.get(session)?.get(pack)).map(|facts| (*session, *pack, *facts))
        };
        Ok(set.iter().filter_map(|(session, pack)| facts(session, pack)).collect())
    }
}

/// A set with what one more COMMIT of its chain says: the first has all of it, each that replaces another what changes.
fn take_set(set: &mut PackSet, kind: &Kind) {
    let Kind::Commit(commit) = kind else { return };
    let Some(lists) = commit.lists.get() else { return };
    *set = if commit.replaces.is_some() { set.minus(&lists.less) } else { PackSet::default() };
    for (session, pack) in lists.set.iter() {
        set.insert(*session, *pack);
    }
}

/// The packs that PROGRESS or COMMIT adds to its session's list.
fn new_packs_of(kind: &Kind) -> Option<(SessionId, &NewPacks)> {
    match kind {
        Kind::Progress(progress) => Some((progress.session, progress.packs.get()?)),
        Kind::Commit(commit) => Some((commit.session, &commit.lists.get()?.new)),
        _ => None,
    }
}

impl Fold {
    /// Takes a list in that was passed over. The order of entries is gone for it: what was condemned meanwhile counts as
    /// condemned, unless a live COMMIT names it.
    fn fill(&mut self, number: u64, kind: &Kind) {
        if let Some((session, packs)) = new_packs_of(kind)
            && let Some(session) = self.sessions.get_mut(&session)
            && packs.iter().all(|(id, facts)| session.packs.get(id).is_none_or(|known| known == facts))
        {
            session.packs.extend(packs);
        }
        match kind {
            Kind::Commit(_) => {
                // Its own, and those of COMMITs that replace it.
                let of_it = |live: &&mut LiveCommit| live.unread.iter().any(|list| list.entry == number);
                self.commits.values_mut().filter(of_it).for_each(|live| take_set(&mut live.set, kind));
            }
            Kind::Condemn(packs) => {
                for (session, pack) in packs.packs.get().into_iter().flat_map(PackSet::iter) {
                    if self.pack(session, pack).is_some() && !self.is_named(session, pack) {
                        self.condemned.entry(*session).or_default().insert(*pack, number);
                    }
                }
            }
            Kind::Sweep(packs) => {
                for (session, pack) in packs.packs.get().into_iter().flat_map(PackSet::iter) {
                    if !self.is_named(session, pack) {
                        self.sweep(session, pack);
                    }
                }
            }
            Kind::ExpireWal(expire) => self.apply_expire(expire),
            _ => {}
        }
    }

    /// These lists, and those on which they build: what a COMMIT says of another's set comes after that set.
    fn with_those_before(&self, at: &BTreeSet<ListAt>) -> BTreeSet<ListAt> {
        let mut all = at.clone();
        loop {
            let before = all.len();
            for commit in self.commits.values() {
                if let Some(last) = commit.unread.iter().rposition(|list| all.contains(list)) {
                    all.extend(commit.unread.iter().take(last));
                }
            }
            if all.len() == before {
                return all;
            }
        }
    }

    /// These lists are no longer unread.
    fn have_read(&mut self, at: &BTreeSet<ListAt>) {
        self.unread.packs.retain(|list| !at.contains(list));
        self.unread.wal.values_mut().for_each(|lists| lists.retain(|list| !at.contains(list)));
        self.unread.wal.retain(|_, lists| !lists.is_empty());
        for session in self.sessions.values_mut() {
            session.unread.retain(|list| !at.contains(list));
        }
        for commit in self.commits.values_mut() {
            commit.unread.retain(|list| !at.contains(list));
        }
    }
}
