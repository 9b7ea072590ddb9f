//! The rules of the log, explored exhaustively on the real fold: all interleavings of small cases, in which processes stall,
//! die and repeat themselves.
//!
//! A [`World`] is a [`Fold`] and what surrounds it: what lies in the store, what each process is about to do. [`explore`] goes
//! through every state that can be reached, breadth first, and asks in each whether something is lost:
//!
//! - P1: every live snapshot is restorable: each blob that it relies on lies in the store.
//! - P2: every acknowledged COMMIT is in the fold.
//! - P3: no wasted run: an open session never finds its COMMIT void, nor a blob gone of the snapshot that it reads.
//! - P4: WAL that was acknowledged, and that a live snapshot or an open session needs, is in the store.
//!
//! A *control* breaks one rule, by judging on a doctored fold or by a process that misbehaves, and must lose the property that
//! is named. Each configuration must reach the events listed for it, so that none is empty.
//!
//! Entries are numbered, so no state would ever come twice; two folds are one state if they agree in all that a verdict on a
//! later entry depends on ([`Key::fold`]): a condemned pack in the open sessions that it waits for, not in numbers.
//!
//! - `packs.rs`: writers, a reader, whoever forgets, condemns, sweeps · `archive.rs`: WAL that is pushed, needed and expired

mod archive;
mod packs;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::LazyLock;

use super::judge::Void;
use super::testing::{Scene, host};
use super::*;
use crate::units::{KeyId, PackId, SegmentSize, Timestamp};

/// All rules hold; a control switches one off.
#[derive(Clone)]
struct Rules {
    /// R1: after a lost race the entry is judged again.
    revalidate: bool,
    /// R3: nothing is uploaded before BEGIN.
    begin_first: bool,
    /// R3: a reader names its snapshot.
    reads: bool,
    /// R5: what was condemned before BEGIN may not be named.
    not_condemned: bool,
    /// R8: a pack is not condemned while its session is open.
    not_open: bool,
    /// R9: a SWEEP waits for the sessions that were open at CONDEMN.
    sweep_waits: bool,
    /// R9: a SWEEP strikes the pack from its session's list.
    strikes: bool,
    /// R10: only what a logged SWEEP names is deleted.
    sweep_logged: bool,
    /// R12: a COMMIT's set has the packs of patches' references.
    names_reference: bool,
    /// R13: a window has all its timelines.
    whole_window: bool,
    /// R14: void if a live COMMIT needs it.
    for_snapshots: bool,
    /// R14: even if that is a window.
    for_windows: bool,
    /// R14: void if an open session needs it.
    for_sessions: bool,
    /// R14: nothing is expired on a timeline whose history file isn't there.
    with_history: bool,
    /// R14: deletes compare the content id.
    by_content: bool,
    /// R15.
    history_stays: bool,
    /// R16: BEGIN is void if it needs what was expired.
    begin_judged: bool,
    /// R16: on descendants, too.
    begin_tree: bool,
    /// Instead, the writer looks whether all of it lies in the store.
    begin_looks: bool,
    /// R16: COMMIT is void below its session's floor.
    start_above: bool,
    /// R16: but may start on a descendant of that timeline.
    start_after: bool,
}

const ALL: Rules = Rules {
    revalidate: true,
    begin_first: true,
    reads: true,
    not_condemned: true,
    not_open: true,
    sweep_waits: true,
    strikes: true,
    sweep_logged: true,
    names_reference: true,
    whole_window: true,
    for_snapshots: true,
    for_windows: true,
    for_sessions: true,
    with_history: true,
    by_content: true,
    history_stays: true,
    begin_judged: true,
    begin_tree: true,
    begin_looks: false,
    start_above: true,
    start_after: true,
};

/// Of all segments.
fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).expect("1 MiB is a segment's size")
}

/// A session, and the snapshot that it commits: `A1`.
type Name = [u8; 2];
/// A pack of a session: `A1.2` is the second.
type Pack = (Name, u8);

static SIGNER: LazyLock<KeyId> = LazyLock::new(|| host().id());
static START: LazyLock<Fold> = LazyLock::new(|| Scene::new().1.fold);

fn session_id(name: Name) -> SessionId {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&name);
    SessionId(id)
}

fn name_of(id: &SessionId) -> Name {
    [id.0[0], id.0[1]]
}

fn pack_id(pack: Pack) -> PackId {
    let mut id = [0; 16];
    (id[0], id[1], id[2]) = (pack.0[0], pack.0[1], pack.1);
    PackId(id)
}

fn word(name: Name) -> String {
    name.iter().map(|b| char::from(*b)).filter(|c| *c != '0').collect()
}

fn pack_word(pack: Pack) -> String {
    format!("{}.{}", word(pack.0), pack.1)
}

/// A log: its fold, and the next entry's number.
#[derive(Clone)]
struct Told {
    fold: Fold,
    next: u64,
}

impl Told {
    fn new() -> Self {
        Told { fold: START.clone(), next: 1 }
    }

    fn at(&self, kind: &Kind, name: Name) -> At {
        let mut hash = [0; 32];
        if matches!(kind, Kind::Begin(_)) {
            hash[..2].copy_from_slice(&name);
        }
        At { number: self.next, hash: Hash32(hash), signer: *SIGNER, time: Timestamp(0) }
    }

    /// Is it valid, by the rules that hold here?
    fn judge(&self, kind: &Kind, name: Name, rules: &Rules) -> Result<(), Void> {
        let (fold, kind) = doctored(&self.fold, kind, rules);
        fold.judge(&self.at(&kind, name), &kind)
    }

    /// The log after an entry that was judged here.
    fn with(&self, kind: &Kind, name: Name, rules: &Rules) -> Self {
        let mut told = self.clone();
        let lists = told.fold.sessions.clone();
        told.fold.apply(&self.at(kind, name), kind);
        if let (Kind::Sweep(_), false) = (kind, rules.strikes) {
            told.fold.sessions = lists;
        }
        told.next += 1;
        told
    }

    /// `None` where it would be void.
    fn append(&self, kind: &Kind, name: Name, rules: &Rules) -> Option<Self> {
        self.judge(kind, name, rules).ok().map(|()| self.with(kind, name, rules))
    }

    fn is_open(&self, name: Name) -> bool {
        self.fold.is_open(&session_id(name))
    }

    fn knows(&self, name: Name) -> bool {
        self.fold.sessions.contains_key(&session_id(name))
    }

    fn number_of(&self, snapshot: Name) -> u64 {
        self.fold.commits_of(&word(snapshot)).next().map_or(u64::MAX, |(number, _)| number)
    }

    /// Live snapshots, in order of their names.
    fn live(&self) -> Vec<Name> {
        let mut names: Vec<Name> = self.fold.commits.values().map(|c| name_of(&c.session)).collect();
        names.sort_unstable();
        names
    }
}

/// What a control judges on: the fold without what the rule would have looked at.
fn doctored<'a>(fold: &'a Fold, kind: &'a Kind, rules: &Rules) -> (Cow<'a, Fold>, Cow<'a, Kind>) {
    let (mut fold, mut kind) = (Cow::Borrowed(fold), Cow::Borrowed(kind));
    match kind.as_ref() {
        Kind::Begin(_) if !rules.begin_judged => fold.to_mut().expired.clear(),
        Kind::Begin(_) if !rules.begin_tree => {
            fold.to_mut().expired.values_mut().flat_map(|t| t.values_mut()).for_each(|row| row.ancestry.clear());
        }
        Kind::Commit(_) if !rules.not_condemned => fold.to_mut().condemned.clear(),
        Kind::Commit(commit) if !rules.start_above => {
            let start = commit.summary.wal.as_ref().map(SnapshotWal::start);
            let session = fold.to_mut().sessions.get_mut(&commit.session);
            if let (Some(need), Some(start)) = (session.and_then(|s| s.need.as_mut()), start) {
                need.start = start;
            }
        }
        Kind::Commit(commit) if !rules.start_after => {
            let mut commit = commit.clone();
            commit.summary.wal.iter_mut().for_each(|wal| wal.ancestry.clear());
            kind = Cow::Owned(Kind::Commit(commit));
        }
        Kind::Condemn(_) if !rules.not_open => fold.to_mut().sessions.values_mut().for_each(|s| s.open = false),
        Kind::Sweep(_) if !rules.sweep_waits => fold.to_mut().sessions.values_mut().for_each(|s| s.open = false),
        Kind::ExpireWal(_) => {
            if !rules.for_snapshots || !rules.for_windows {
                let ignored = |need: &Need| !rules.for_snapshots || !need.window.is_empty();
                let commits = fold.to_mut().commits.values_mut();
                commits.filter(|c| c.need.as_ref().is_some_and(ignored)).for_each(|c| c.need = None);
            }
            if !rules.for_sessions {
                fold.to_mut().sessions.values_mut().for_each(|s| s.need = None);
            }
        }
        _ => {}
    }
    (fold, kind)
}

/// A state, as bytes that are equal for states that behave alike.
#[derive(Default)]
struct Key(Vec<u8>);

impl Key {
    fn num(&mut self, n: u64) -> &mut Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.num(bytes.len() as u64).0.extend(bytes);
        self
    }

    fn pack(&mut self, pack: Pack) -> &mut Self {
        self.0.extend([pack.0[0], pack.0[1], pack.1]);
        self
    }

    fn need(&mut self, need: Option<&Need>) {
        let Some(need) = need else { return self.0.push(0) };
        self.num(need.start.timeline.0.into()).num(need.start.lsn.0).num(need.window.len() as u64);
        for range in &need.window {
            self.num(range.timeline.0.into()).num(range.first.0).num(range.last.0);
        }
    }

    /// All that a verdict depends on.
    fn fold(&mut self, fold: &Fold) {
        self.num(fold.sessions.len() as u64);
        for (id, session) in &fold.sessions {
            self.bytes(&id.0).num(session.open.into()).num(session.packs.len() as u64);
            session.packs.keys().for_each(|pack| _ = self.bytes(&pack.0));
            self.need(session.need.as_ref());
        }
        let mut commits: Vec<&LiveCommit> = fold.commits.values().collect();
        commits.sort_by(|a, b| a.summary.id.cmp(&b.summary.id));
        self.num(commits.len() as u64);
        for commit in commits {
            self.bytes(commit.summary.id.as_bytes()).num(commit.set.len() as u64);
            commit.set.iter().for_each(|(session, pack)| _ = self.bytes(&session.0).bytes(&pack.0));
            self.need(commit.need.as_ref());
        }
        for (session, packs) in &fold.condemned {
            for (pack, at) in packs {
                self.bytes(&session.0).bytes(&pack.0);
                fold.open_before(*at).for_each(|waits| _ = self.bytes(&waits.0));
            }
        }
        self.num(u64::MAX);
        for (timeline, row) in fold.expired.values().flatten() {
            self.num(timeline.0.into()).num(row.highest.0).num(row.ancestry.len() as u64);
            row.ancestry.iter().for_each(|b| _ = self.num(b.timeline.0.into()).num(b.lsn.0));
        }
    }

    fn digest(&self) -> u128 {
        let mut digest = [0; 16];
        blake3::Hasher::new().update(&self.0).finalize_xof().fill(&mut digest);
        u128::from_le_bytes(digest)
    }
}

/// A fold and what surrounds it.
trait World: Clone {
    /// Who takes part, and by which rules.
    type Case;
    fn start(case: &Self::Case) -> Self;
    /// What may happen next, in words.
    fn steps(&self, case: &Self::Case) -> Vec<(String, Self)>;
    /// The property that doesn't hold here.
    fn wrong(&self, case: &Self::Case) -> Option<String>;
    fn key(&self, key: &mut Key);

    fn digest(&self) -> u128 {
        let mut key = Key::default();
        self.key(&mut key);
        key.digest()
    }
}

/// What came of exploring.
struct Explored {
    states: usize,
    /// The property that broke first, with the shortest way there.
    wrong: Option<(String, Vec<String>)>,
    /// All that happened somewhere.
    events: HashSet<String>,
}

impl Explored {
    /// Did something happen whose words contain this?
    fn saw(&self, words: &str) -> bool {
        self.events.iter().any(|event| event.contains(words))
    }
}

/// More states than any case has: one that never ends is a mistake of the case.
const LIMIT: usize = 2_000_000;

fn explore<W: World>(case: &W::Case) -> Explored {
    let start = W::start(case);
    let root = start.digest();
    let mut came_from: HashMap<u128, (u128, u32)> = HashMap::from([(root, (root, 0))]);
    let (mut numbers, mut labels) = (HashMap::<String, u32>::new(), Vec::<String>::new());
    let mut todo = VecDeque::from([(root, start)]);
    while let Some((at, world)) = todo.pop_front() {
        if let Some(wrong) = world.wrong(case) {
            let (mut way, mut at) = (Vec::new(), at);
            while at != root {
                let (before, label) = came_from[&at];
                way.push(labels[label as usize].clone());
                at = before;
            }
            way.reverse();
            return Explored { states: came_from.len(), wrong: Some((wrong, way)), events: numbers.into_keys().collect() };
        }
        for (label, next) in world.steps(case) {
            let number = *numbers.entry(label).or_insert_with_key(|label| {
                labels.push(label.clone());
                labels.len() as u32 - 1
            });
            let digest = next.digest();
            if let std::collections::hash_map::Entry::Vacant(vacant) = came_from.entry(digest) {
                vacant.insert((at, number));
                todo.push_back((digest, next));
            }
        }
        assert!(came_from.len() < LIMIT, "more than {LIMIT} states");
    }
    Explored { states: came_from.len(), wrong: None, events: numbers.into_keys().collect() }
}

/// Nothing is lost, and it went everywhere that it was meant to; `states` are those of the rules' own model, counted there.
fn holds<W: World>(case: &W::Case, sees: &[&str], states: usize) {
    let explored = explore::<W>(case);
    assert!(explored.wrong.is_none(), "{:?}", explored.wrong);
    for event in sees {
        assert!(explored.saw(event), "never reached: {event}");
    }
    assert_eq!(explored.states, states);
}

/// A rule is broken, and this property is lost.
fn loses<W: World>(property: &str, what: &str, case: &W::Case) {
    let explored = explore::<W>(case);
    let (wrong, way) = explored.wrong.unwrap_or_else(|| panic!("{what}: nothing is lost in {} states", explored.states));
    assert!(wrong.starts_with(property) && !way.is_empty(), "{what}: {wrong}\n{}", way.join("\n"));
}
