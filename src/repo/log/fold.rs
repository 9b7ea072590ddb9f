//! The fold: all that the entries so far add up to, as a few tables, and what each valid entry changes in them.
//!
//! [`Fold::step`] is the only door: it judges an entry ([`super::judge`]) and applies it if it is valid. By the log
//! alone: never by a clock, nor by what lies in the store. The rules are numbered as in format-spec.md, "The log".

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::judge::{self, Void};
use super::kind::*;
use super::lists::{ListAt, UnreadLists};
use super::rights::{Key, KeyTable};
use super::wal::{ClusterId, Expired, Need};
use crate::units::{Digest16, Hash32, KeyId, PackId, SegmentName, SessionId, TimelineId, Timestamp};

/// The form of a kept fold; another one is thrown away and computed anew.
pub const FOLD_VERSION: u32 = 7;

/// What stands around an entry's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The entry's number.
    pub number: u64,
    /// BLAKE3 of its bytes.
    pub hash: Hash32,
    /// Whose signature it bears.
    pub signer: KeyId,
    /// When it was written, by its writer's clock: shown, never relied on.
    pub time: Timestamp,
}

impl At {
    /// The id of the session that this entry opens if it is a BEGIN.
    pub fn session(&self) -> SessionId {
        let mut id = [0; SessionId::LEN];
        id.iter_mut().zip(self.hash.0).for_each(|(to, from)| *to = from);
        SessionId(id)
    }
}

/// A session: open, or ended by COMMIT or ABORT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The number of its BEGIN.
    pub begin: u64,
    /// When that was written.
    pub begun_at: Timestamp,
    /// Who opened it. Its packs count as this key's.
    pub key: KeyId,
    /// What for.
    pub purpose: String,
    /// The machine on which it runs.
    pub machine: String,
    /// Its lock file there.
    pub lock: Option<String>,
    /// The cluster that it may commit.
    pub cluster: Option<ClusterId>,
    /// Not yet ended.
    pub open: bool,
    /// The entry that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// The number of its last sign of life, BEGIN or PROGRESS.
    pub alive: u64,
    /// Its list: its own packs from PROGRESS and COMMIT.
    pub packs: NewPacks,
    /// The WAL that it needs while it is open.
    pub need: Option<Need>,
    /// Parts of its list that were not read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<ListAt>,
}

/// A live COMMIT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveCommit {
    /// Who signed it.
    pub key: KeyId,
    /// The session that it ended.
    pub session: SessionId,
    /// The snapshot.
    pub summary: Summary,
    /// The root of its tree.
    pub root: Root,
    /// The packs that it relies on.
    pub set: PackSet,
    /// The WAL that it needs.
    pub need: Option<Need>,
    /// The COMMIT that it replaced.
    pub replaces: Option<u64>,
    /// The number of the COMMIT by which the snapshot came: the first of a chain of replacements, its own if it replaced none.
    /// Snapshots are ordered by it: stored anew they are no newer.
    pub first: u64,
    /// Where what is missing of its set lies, in order: of a COMMIT that replaces another, that one's list before its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<ListAt>,
}

/// The system identifier under which a cluster was last backed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewestBegin {
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// The number of the BEGIN.
    pub number: u64,
}

/// A hold on a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The number of the NOTE.
    pub number: u64,
    /// Why.
    pub reason: String,
}

/// An acknowledged gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// The number of the NOTE.
    pub number: u64,
    /// The first missing segment.
    pub from: SegmentName,
    /// The last.
    pub to: SegmentName,
    /// Why.
    pub reason: String,
}

/// A timeline that somebody announced or accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// The number of the NOTE.
    pub number: u64,
    /// The new timeline.
    pub timeline: TimelineId,
    /// Announced or accepted.
    pub state: ForkState,
    /// Where it will begin, if it is announced.
    pub begins: Option<ForkPoint>,
    /// Why.
    pub reason: String,
}

/// What verify or a rehearsal last found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The number of the NOTE.
    pub number: u64,
    /// When it was written.
    pub at: Timestamp,
    /// Was it fine?
    pub ok: bool,
    /// The report.
    pub detail: String,
}

/// An entry that changed nothing, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alarm {
    /// The key id in its header: unproven if `why` says that it is not signed.
    pub signer: Option<KeyId>,
    /// What is wrong with it.
    pub why: String,
}

/// The first entry that this program doesn't understand and must.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unknown {
    /// Its number.
    pub number: u64,
    /// Its kind.
    pub kind: String,
}

/// All that the entries so far add up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fold {
    /// [`FOLD_VERSION`].
    pub version: u32,
    /// Keys and their rights.
    pub keys: KeyTable,
    /// All sessions.
    pub sessions: BTreeMap<SessionId, Session>,
    /// The live COMMITs by number.
    pub commits: BTreeMap<u64, LiveCommit>,
    /// Condemned packs: session → pack → CONDEMN's number. Each waits for the open sessions with a smaller one.
    pub condemned: BTreeMap<SessionId, BTreeMap<PackId, u64>>,
    /// Expired WAL.
    pub expired: BTreeMap<ClusterId, BTreeMap<TimelineId, Expired>>,
    /// Places not to rely on; packs leave it when they are swept.
    pub damaged: DamagedPlaces,
    /// The number of the newest DAMAGED; 0: there was none.
    pub damaged_in: u64,
    /// The newest BEGIN of a backup by cluster name.
    pub clusters: BTreeMap<String, NewestBegin>,
    /// What COMMITs said about the archive: a hint as of then.
    pub ledgers: BTreeMap<ClusterId, Vec<LedgerRun>>,
    /// Holds by snapshot id.
    pub holds: BTreeMap<String, Hold>,
    /// Acknowledged gaps.
    pub gaps: BTreeMap<ClusterId, Vec<Gap>>,
    /// Announced and accepted timelines.
    pub forks: BTreeMap<ClusterId, Vec<Fork>>,
    /// Snapshot id → `verify`, `rehearsal` → the newest finding.
    pub evidence: BTreeMap<String, BTreeMap<String, Evidence>>,
    /// Void entries.
    pub alarms: BTreeMap<u64, Alarm>,
    /// While this is set nothing is appended or deleted.
    pub unknown: Option<Unknown>,
    /// When the newest valid entry was written, by its writer's clock.
    pub newest_time: Timestamp,
    /// Lists that were not read, of other entries than those of sessions.
    #[serde(default, skip_serializing_if = "UnreadLists::is_empty")]
    pub unread: UnreadLists,
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Valid,
    /// It changes nothing.
    Void(Void),
}

impl Fold {
    /// The fold before `log/0`, which this key must sign.
    pub fn new(owner: Key) -> Self {
        Fold {
            version: FOLD_VERSION,
            keys: KeyTable::new(owner),
            sessions: BTreeMap::new(),
            commits: BTreeMap::new(),
            condemned: BTreeMap::new(),
            expired: BTreeMap::new(),
            damaged: BTreeMap::new(),
            damaged_in: 0,
            clusters: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            holds: BTreeMap::new(),
            gaps: BTreeMap::new(),
            forks: BTreeMap::new(),
            evidence: BTreeMap::new(),
            alarms: BTreeMap::new(),
            unknown: None,
            newest_time: Timestamp(0),
            unread: UnreadLists::default(),
        }
    }

    /// Judges an entry and, if it is valid, applies it; if not, keeps an alarm. Lists must be inline.
    pub fn step(&mut self, at: &At, kind: &Kind) -> Verdict {
        match self.judge(at, kind) {
            Ok(()) => {
                self.apply(at, kind);
                Verdict::Valid
            }
            Err(void) => {
                self.alarm(at.number, Some(at.signer), void.to_string());
                Verdict::Void(void)
            }
        }
    }

    /// The same of an entry whose list is not read, or can't be judged by others' that weren't: what lists say is taken for
    /// granted.
    pub(super) fn step_granted(&mut self, at: &At, kind: &Kind, read: bool) -> Verdict {
        let judged = judge::rights(self, at, kind).and_then(|()| judge::rules_without_lists(self, at, kind));
        match judged {
            Ok(()) => {
                self.apply(at, kind);
                if !read {
                    self.pass_over(at, kind);
                }
                Verdict::Valid
            }
            Err(void) => {
                self.alarm(at.number, Some(at.signer), void.to_string());
                Verdict::Void(void)
            }
        }
    }

    /// Remembers where the list of an entry lies.
    fn pass_over(&mut self, at: &At, kind: &Kind) {
        let list = ListAt { entry: at.number, hash: at.hash };
        let session = match kind {
            Kind::Progress(progress) => &progress.session,
            Kind::Commit(commit) => &commit.session,
            Kind::Condemn(_) | Kind::Sweep(_) => return self.unread.packs.push(list),
            Kind::ExpireWal(expire) => return self.unread.wal.entry(expire.cluster.clone()).or_default().push(list),
            _ => return,
        };
        if let Some(session) = self.sessions.get_mut(session) {
            session.unread.push(list);
        }
    }

    /// Is the entry valid on this fold?
    pub fn judge(&self, at: &At, kind: &Kind) -> Result<(), Void> {
        judge::rights(self, at, kind)?;
        judge::rules(self, at, kind)
    }

    /// Keeps that an entry is void.
    pub fn alarm(&mut self, number: u64, signer: Option<KeyId>, why: String) {
        self.alarms.insert(number, Alarm { signer, why });
    }

    /// Is there such a session, and is it open?
    pub fn is_open(&self, session: &SessionId) -> bool {
        self.sessions.get(session).is_some_and(|s| s.open)
    }

    /// The CONDEMN of a condemned pack.
    pub fn condemned_at(&self, session: &SessionId, pack: &PackId) -> Option<u64> {
        self.condemned.get(session)?.get(pack).copied()
    }

    /// Does a live COMMIT name it?
    pub fn is_named(&self, session: &SessionId, pack: &PackId) -> bool {
        self.commits.values().any(|c| c.set.contains(session, pack))
    }

    /// What is known of a pack in its session's list.
    pub fn pack(&self, session: &SessionId, pack: &PackId) -> Option<&PackFacts> {
        self.sessions.get(session)?.packs.get(pack)
    }

    /// Is this blob listed as damaged?
    pub fn is_damaged(&self, session: &SessionId, pack: &PackId, blob: u32) -> bool {
        match self.damaged.get(session).and_then(|packs| packs.get(pack)) {
            Some(DamagedBlobs::All) => true,
            Some(DamagedBlobs::Blobs(blobs)) => blobs.contains(&blob),
            None => false,
        }
    }

    /// Live COMMITs that another live one replaces: what is left to be forgotten of them is their numbers.
    pub fn superseded(&self) -> BTreeSet<u64> {
        self.commits.values().filter_map(|c| c.replaces).filter(|number| self.commits.contains_key(number)).collect()
    }

    /// R5, for an open session: may it name this pack in its COMMIT (apart from packs that the COMMIT itself lists as new)?
    pub fn may_name(&self, namer: &SessionId, session: &SessionId, pack: &PackId) -> bool {
        let (Some(by), Some(of)) = (self.sessions.get(namer), self.sessions.get(session)) else { return false };
        if !of.packs.contains_key(pack) {
            return false;
        }
        namer == session || (!of.open && self.condemned_at(session, pack).is_none_or(|at| at > by.begin))
    }

    /// Open sessions that began before the entry `number`: what a pack condemned there waits for.
    pub fn open_before(&self, number: u64) -> impl Iterator<Item = &SessionId> {
        self.sessions.iter().filter(move |(_, s)| s.open && s.begin < number).map(|(id, _)| id)
    }

    /// The live COMMITs of a snapshot: two while one of them replaces the other.
    pub fn commits_of<'a>(&'a self, snapshot: &'a str) -> impl Iterator<Item = (u64, &'a LiveCommit)> {
        self.commits.iter().filter(move |(_, c)| c.summary.id == snapshot).map(|(n, c)| (*n, c))
    }

    /// All packs on which a COMMIT relies that isn't in the fold yet; `None` if it can't be valid.
    pub fn set_of(&self, commit: &Commit) -> Option<PackSet> {
        judge::set_of(self, commit, commit.lists.get()?).ok().map(Cow::into_owned)
    }

    /// The content digest of a live COMMIT.
    pub fn digest_of(&self, commit: u64) -> Option<Digest16> {
        self.commits.get(&commit).map(|c| c.root.digest)
    }

    /// What a valid entry changes.
    pub(super) fn apply(&mut self, at: &At, kind: &Kind) {
        self.newest_time = at.time;
        match kind {
            Kind::Key(keys) => self.keys.apply(at.number, keys),
            Kind::Begin(begin) => self.apply_begin(at, begin),
            Kind::Progress(progress) => self.apply_progress(at, progress),
            Kind::Commit(commit) => self.apply_commit(at, commit),
            Kind::Abort(abort) => self.end_session(&abort.session, at.number),
            Kind::Forget(forget) => self.apply_forget(forget),
            Kind::Condemn(packs) => {
                for (session, pack) in packs.packs.get().into_iter().flat_map(PackSet::iter) {
                    self.condemned.entry(*session).or_default().insert(*pack, at.number);
                }
            }
            Kind::Sweep(packs) => packs.packs.get().into_iter().flat_map(PackSet::iter).for_each(|(s, p)| self.sweep(s, p)),
            Kind::ExpireWal(expire) => self.apply_expire(expire),
            Kind::Note(note) => self.apply_note(at, note),
            Kind::Audit(_) => {}
            Kind::Damaged(damaged) => {
                self.damaged_in = at.number;
                self.apply_damaged(damaged);
            }
        }
    }

    fn apply_begin(&mut self, at: &At, begin: &Begin) {
        let cluster = begin.cluster_id();
        let need = match (begin.reads, begin.floor, &cluster) {
            (Some(commit), _, _) => self.commits.get(&commit).and_then(|c| c.need.clone()),
            (None, Some(start), Some(cluster)) => Some(Need { cluster: cluster.clone(), start, window: Vec::new() }),
            _ => None,
        };
        if let Some(cluster) = cluster.as_ref().filter(|_| begin.purpose == "backup") {
            let newest = NewestBegin { system_identifier: cluster.system_identifier, number: at.number };
            self.clusters.insert(cluster.name.clone(), newest);
        }
        let session = Session {
            begin: at.number,
            begun_at: at.time,
            key: at.signer,
            purpose: begin.purpose.clone(),
            machine: begin.machine.clone(),
            lock: begin.lock.clone(),
            cluster,
            open: true,
            ended: None,
            alive: at.number,
            packs: NewPacks::new(),
            need,
            unread: Vec::new(),
        };
        self.sessions.insert(at.session(), session);
    }

    fn apply_progress(&mut self, at: &At, progress: &Progressed) {
        if let Some(session) = self.sessions.get_mut(&progress.session) {
            session.alive = at.number;
            session.packs.extend(progress.packs.get().into_iter().flatten());
        }
    }

    fn apply_commit(&mut self, at: &At, commit: &Commit) {
        let passed_over = CommitLists::default();
        let lists = commit.lists.get().unwrap_or(&passed_over);
        let (set, unread) = self.set_to_apply(at, commit);
        if let Some(session) = self.sessions.get_mut(&commit.session) {
            session.packs.extend(&lists.new);
        }
        self.end_session(&commit.session, at.number);
        for (session, pack) in set.iter() {
            self.reprieve(session, pack);
        }
        let replaced = commit.replaces.and_then(|number| self.commits.get(&number));
        let first = replaced.map_or(at.number, |replaced| replaced.first);
        let need = match replaced {
            // The same snapshot: it needs what the replaced one needs now, be it a window.
            Some(replaced) => replaced.need.clone(),
            None => {
                let cluster = commit.summary.cluster_id();
                commit.summary.wal.as_ref().map(|wal| Need { cluster, start: wal.start(), window: Vec::new() })
            }
        };
        if !lists.ledger.is_empty() {
            self.ledgers.entry(commit.summary.cluster_id()).or_default().extend(lists.ledger.iter().cloned());
        }
        let live = LiveCommit {
            key: at.signer,
            session: commit.session,
            summary: commit.summary.clone(),
            root: commit.root,
            set,
            need,
            replaces: commit.replaces,
            first,
            unread,
        };
        self.commits.insert(at.number, live);
    }

    /// The set of a valid COMMIT as far as it is known, and the lists that it takes besides, in order.
    fn set_to_apply(&self, at: &At, commit: &Commit) -> (PackSet, Vec<ListAt>) {
        let replaced = commit.replaces.and_then(|number| self.commits.get(&number));
        let before = replaced.map(|replaced| replaced.unread.as_slice()).unwrap_or_default();
        if let Some(lists) = commit.lists.get().filter(|_| before.is_empty()) {
            // Judged before, or taken for granted.
            return (self.set_of(commit).unwrap_or_else(|| lists.set.clone()), Vec::new());
        }
        let list = ListAt { entry: at.number, hash: at.hash };
        let set = replaced.map(|replaced| replaced.set.clone()).unwrap_or_default();
        (set, before.iter().copied().chain([list]).collect())
    }

    /// R5, R6: what a session needs of the WAL ends with it; its list stays.
    fn end_session(&mut self, session: &SessionId, number: u64) {
        if let Some(session) = self.sessions.get_mut(session) {
            session.open = false;
            session.ended = Some(number);
            session.need = None;
        }
    }

    fn reprieve(&mut self, session: &SessionId, pack: &PackId) {
        if let Some(packs) = self.condemned.get_mut(session) {
            packs.remove(pack);
            if packs.is_empty() {
                self.condemned.remove(session);
            }
        }
    }

    /// R9: no longer condemned, and out of its session's list for ever.
    pub(super) fn sweep(&mut self, session: &SessionId, pack: &PackId) {
        self.reprieve(session, pack);
        if let Some(session) = self.sessions.get_mut(session) {
            session.packs.remove(pack);
        }
        if let Some(packs) = self.damaged.get_mut(session) {
            packs.remove(pack);
            if packs.is_empty() {
                self.damaged.remove(session);
            }
        }
    }

    fn apply_forget(&mut self, forget: &Forget) {
        if forget.window {
            if let Some(commit) = self.commits.get_mut(&forget.commit)
                && let Some((need, wal)) = commit.need.as_mut().zip(commit.summary.wal.as_ref())
            {
                need.window = wal.ranges.clone();
            }
        } else if let Some(gone) = self.commits.remove(&forget.commit)
            && self.commits_of(&gone.summary.id).next().is_none()
        {
            self.evidence.remove(&gone.summary.id);
        }
    }

    pub(super) fn apply_expire(&mut self, expire: &ExpireWal) {
        let Some(objects) = expire.objects.get() else { return };
        let cluster = ClusterId { name: expire.cluster.clone(), system_identifier: expire.system_identifier };
        let segments = objects.keys().filter_map(|name| name.no(expire.segment_size));
        let Some(highest) = segments.max().map(|no| expire.segment_size.start_of(no)) else { return };
        if let Some(runs) = self.ledgers.get_mut(&cluster) {
            runs.retain(|run| run.last.timeline != expire.timeline || !objects.contains_key(&run.last));
        }
        let timelines = self.expired.entry(cluster).or_default();
        let highest = timelines.get(&expire.timeline).map_or(highest, |before| before.highest.max(highest));
        let row = Expired { highest, segment_size: expire.segment_size, ancestry: expire.ancestry.clone() };
        timelines.insert(expire.timeline, row);
    }

    fn apply_note(&mut self, at: &At, note: &Note) {
        let number = at.number;
        match note.clone() {
            Note::Gap { cluster: name, system_identifier, from, to, reason } => {
                let cluster = ClusterId { name, system_identifier };
                self.gaps.entry(cluster).or_default().push(Gap { number, from, to, reason });
            }
            Note::Fork { cluster: name, system_identifier, timeline, state, begins, reason } => {
                let cluster = ClusterId { name, system_identifier };
                self.forks.entry(cluster).or_default().push(Fork { number, timeline, state, begins, reason });
            }
            Note::Hold { snapshot, reason } => {
                self.holds.insert(snapshot, Hold { number, reason });
            }
            Note::Unhold { snapshot } => {
                self.holds.remove(&snapshot);
            }
            Note::Evidence { snapshot, what, ok, detail } => {
                if self.commits_of(&snapshot).next().is_some() {
                    self.evidence.entry(snapshot).or_default().insert(what, Evidence { number, at: at.time, ok, detail });
                }
            }
        }
    }

    fn apply_damaged(&mut self, damaged: &Damaged) {
        for (session, packs) in damaged.places.get().into_iter().flatten() {
            for (pack, blobs) in packs {
                let unread = self.sessions.get(session).is_some_and(|s| !s.unread.is_empty());
                if !unread && self.pack(session, pack).is_none() && !self.is_named(session, pack) {
                    continue;
                }
                let row = self.damaged.entry(*session).or_default().entry(*pack).or_insert_with(|| DamagedBlobs::Blobs(BTreeSet::new()));
                match (row, blobs) {
                    (DamagedBlobs::Blobs(known), DamagedBlobs::Blobs(more)) => known.extend(more),
                    (row @ DamagedBlobs::Blobs(_), DamagedBlobs::All) => *row = DamagedBlobs::All,
                    (DamagedBlobs::All, _) => {}
                }
            }
        }
    }
}
