//! Plans on generated logs; whole runs over a repository in memory.

mod partial;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::crypt::sign::SigningKey;
use crate::host::access::testing::Host;
use crate::host::access::{OpenSession, append};
use crate::pg::wal::WalFileName;
use crate::repo::log::*;
use crate::store::memory::MemoryStore;
use crate::store::{Backend, ObjectName, SessionTag};
use crate::units::*;

const SYSTEM: u64 = 77;
const MACHINE: &str = "0123abcd";

fn shop() -> ClusterId {
    ClusterId { name: "shop".into(), system_identifier: SYSTEM }
}

fn lsn(segment: u64) -> Lsn {
    SegmentSize::DEFAULT.start_of(SegmentNo(segment))
}

fn begin(floor: (u32, u64)) -> Begin {
    Begin {
        purpose: "backup".into(),
        cluster: Some("shop".into()),
        system_identifier: Some(SYSTEM),
        machine: MACHINE.into(),
        floor: Some(WalPosition { timeline: TimelineId(floor.0), lsn: lsn(floor.1) }),
        ..Begin::default()
    }
}

/// A COMMIT from one segment to the next on a timeline.
fn commit(session: SessionId, id: &str, at: (u32, u64), ancestry: &[Branch], new: NewPacks, set: PackSet) -> Commit {
    let timeline = TimelineId(at.0);
    let (start, stop) = (lsn(at.1), Lsn(lsn(at.1 + 1).0 + 100));
    let wal = SnapshotWal {
        timeline,
        start_lsn: start,
        stop_lsn: stop,
        segment_size: SegmentSize::DEFAULT,
        ranges: vec![WalRange { timeline, first: start, last: stop }],
        ancestry: ancestry.to_vec(),
        mode: WalMode::Archive,
    };
    let root = set.iter().next().map(|(_, pack)| *pack).unwrap_or(PackId([0; 16]));
    Commit {
        session,
        summary: Summary {
            id: id.into(),
            kind: "physical".into(),
            cluster: "shop".into(),
            system_identifier: SYSTEM,
            started_at: Timestamp(1_700_000_000_000_000),
            finished_at: Timestamp(1_700_000_060_000_000),
            wal: Some(wal),
            pg_version: "18.1".into(),
            cluster_bytes: 1,
            read_bytes: 1,
            changed_bytes: 1,
            new_bytes: 1,
            files: 1,
            damaged_pages: 0,
            parent: None,
            labels: BTreeMap::new(),
        },
        root: Root { chunk: ChunkId([1; 32]), place: Place { pack: root, blob: 0, position: 0 }, digest: Digest16([1; 16]) },
        lists: Held::Inline(CommitLists { new, set, less: PackSet::default(), ledger: Vec::new() }),
        replaces: None,
    }
}

fn facts(pack: PackId) -> PackFacts {
    PackFacts { hash: Hash32([pack.0[0]; 32]), size: 1000, tail: 100 }
}

/// A log without a store: the fold alone, appended to by the owner.
struct Model {
    fold: Fold,
    owner: KeyId,
    number: u64,
    sessions: Vec<SessionId>,
    stored: BTreeSet<(SessionId, PackId)>,
}

impl Model {
    fn new() -> Model {
        let owner = SigningKey::from_seed(&[7; 32]);
        let mut model = Model {
            fold: Fold::new(Key::owner(owner.public().clone())),
            owner: owner.id(),
            number: 0,
            sessions: Vec::new(),
            stored: BTreeSet::new(),
        };
        // Of nobody.
        model.sessions.push(SessionId([0xee; 16]));
        model
    }

    fn at(&self) -> At {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&(self.number + 1).to_le_bytes());
        At { number: self.number + 1, hash: Hash32(hash), signer: self.owner, time: Timestamp(1) }
    }

    fn step(&mut self, kind: &Kind) -> bool {
        let at = self.at();
        self.number += 1;
        self.fold.step(&at, kind) == Verdict::Valid
    }

    fn begin(&mut self, floor: (u32, u64)) -> Option<SessionId> {
        let id = self.at().session();
        self.step(&Kind::Begin(begin(floor))).then(|| {
            self.sessions.push(id);
            id
        })
    }

    fn listing(&self) -> Listing {
        self.stored.iter().fold(Listing::default(), |l, (s, p)| l.with(*s, *p, Hash32([p.0[0]; 32]), 1000))
    }

    fn plan(&self) -> PackPlan {
        plan(&self.fold, &self.listing())
    }

    fn allows(&self, kind: &Kind) -> bool {
        self.fold.judge(&self.at(), kind).is_ok()
    }

    /// One operation out of three numbers.
    fn act(&mut self, (what, a, b): (u8, u8, u8)) {
        let session = self.sessions[usize::from(a) % self.sessions.len()];
        let pack = PackId([b % 4 + 1; 16]);
        match what % 9 {
            0 => _ = self.begin((1, 1)),
            1 => {
                self.stored.insert((session, pack));
            }
            2 => {
                if self.stored.contains(&(session, pack)) {
                    let packs = NewPacks::from([(pack, facts(pack))]);
                    self.step(&Kind::Progress(Progressed { session, packs: Held::Inline(packs) }));
                }
            }
            3 | 4 => {
                // Names what it stored, and of others whatever it may.
                let own: Vec<PackId> = self.stored.iter().filter(|(s, _)| *s == session).map(|(_, p)| *p).collect();
                let listed = self.fold.sessions.get(&session).map(|s| s.packs.clone()).unwrap_or_default();
                let new: NewPacks = own.iter().filter(|p| !listed.contains_key(*p)).map(|p| (*p, facts(*p))).collect();
                let mut set: PackSet = own.iter().map(|p| (session, *p)).collect();
                let mut ids: BTreeSet<PackId> = own.into_iter().collect();
                for (other, theirs) in &self.fold.sessions {
                    for pack in theirs.packs.keys() {
                        if *other != session && self.fold.may_name(&session, other, pack) && (b & 16 > 0) && ids.insert(*pack) {
                            set.insert(*other, *pack);
                        }
                    }
                }
                if !set.is_empty() {
                    let id = format!("s{}", self.number);
                    self.step(&Kind::Commit(Box::new(commit(session, &id, (1, 1), &[], new, set))));
                }
            }
            5 => _ = self.step(&Kind::Abort(Abort { session })),
            6 => {
                let commit = self.fold.commits.keys().nth(usize::from(b) % 3).copied();
                if let Some(commit) = commit {
                    self.step(&Kind::Forget(Forget { commit, window: false }));
                }
            }
            7 => {
                let plan = self.plan();
                if !plan.condemn.is_empty() {
                    assert!(self.step(&Kind::Condemn(Packs { packs: Held::Inline(plan.condemn) })));
                }
            }
            _ => _ = self.sweep(),
        }
    }

    fn sweep(&mut self) -> bool {
        let plan = self.plan();
        if plan.sweep.is_empty() {
            return false;
        }
        assert!(self.step(&Kind::Sweep(Packs { packs: Held::Inline(plan.sweep.clone()) })));
        plan.sweep.iter().for_each(|(s, p)| _ = self.stored.remove(&(*s, *p)));
        true
    }
}

proptest! {
    #[test]
    fn a_plan_is_valid_and_takes_all_that_no_snapshot_needs(acts in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..60)) {
        let mut model = Model::new();
        for act in acts {
            model.act(act);
            let plan = model.plan();
            let all: Vec<(SessionId, PackId)> =
                [&plan.condemn, &plan.sweep, &plan.waiting].iter().flat_map(|set| set.iter()).map(|(s, p)| (*s, *p)).collect();
            for commit in model.fold.commits.values() {
                prop_assert!(all.iter().all(|(s, p)| !commit.set.contains(s, p)), "a live COMMIT names it");
                // What the program relies on: no live snapshot is without a pack.
                for (session, pack) in commit.set.iter() {
                    prop_assert!(model.stored.contains(&(*session, *pack)), "{session} {pack} is gone");
                }
            }
            let entry = |set: &PackSet| Packs { packs: Held::Inline(set.clone()) };
            prop_assert!(plan.condemn.is_empty() || model.allows(&Kind::Condemn(entry(&plan.condemn))));
            prop_assert!(plan.sweep.is_empty() || model.allows(&Kind::Sweep(entry(&plan.sweep))));
            for (session, pack) in &model.stored {
                let live = model.fold.is_named(session, pack);
                let taken = all.contains(&(*session, *pack));
                prop_assert!(live || taken || model.fold.is_open(session), "{} {} is forgotten", session, pack);
            }
        }
        // Once nobody is at work a prune takes all, and the next one finds nothing.
        for session in model.sessions.clone() {
            model.step(&Kind::Abort(Abort { session }));
        }
        model.act((7, 0, 0));
        model.sweep();
        prop_assert_eq!(model.plan(), PackPlan::default());
        prop_assert!(model.stored.iter().all(|(s, p)| model.fold.is_named(s, p)));
    }

    /// What is expired by the plan is allowed by the rules, and leaves the next backup's BEGIN valid.
    #[test]
    fn what_expires_is_needed_by_nothing_and_no_later_backup_is_refused(
        commits in proptest::collection::vec((1u32..4, 0u64..40, any::<bool>(), any::<bool>()), 0..6),
        open in proptest::option::of((1u32..4, 0u64..40)),
        later in 0u64..10,
    ) {
        // 1 was left in segment 10 for 2, 2 in 20 for 3; 4 left 1 in segment 15.
        let branch = |timeline, segment| Branch { timeline: TimelineId(timeline), lsn: Lsn(lsn(segment).0 + 8) };
        let ancestry = |timeline: u32| match timeline {
            1 => vec![],
            2 => vec![branch(1, 10)],
            3 => vec![branch(2, 20), branch(1, 10)],
            _ => vec![branch(1, 15)],
        };
        let histories: Histories = (2..5).map(|t| (TimelineId(t), Some(ancestry(t)))).collect();
        let mut model = Model::new();
        let mut newest = None;
        for (i, (timeline, segment, window, forget)) in commits.into_iter().enumerate() {
            let session = model.begin((timeline, segment)).unwrap();
            let pack = PackId([1; 16]);
            let commit = commit(session, &format!("s{i}"), (timeline, segment), &ancestry(timeline), NewPacks::from([(pack, facts(pack))]), [(session, pack)].into_iter().collect());
            prop_assert!(model.step(&Kind::Commit(Box::new(commit))));
            let number = model.number;
            if window {
                model.step(&Kind::Forget(Forget { commit: number, window: true }));
            }
            if forget {
                model.step(&Kind::Forget(Forget { commit: number, window: false }));
            } else {
                newest = Some((timeline, segment));
            }
        }
        if let Some(floor) = open {
            model.begin(floor);
        }
        let lines = match Lines::of(&model.fold, &shop(), &BTreeSet::new()) {
            Ok(lines) => lines,
            Err(why) => {
                prop_assert_eq!((why, newest), (Kept::NoSnapshot, None));
                return Ok(());
            }
        };
        let size = SegmentSize::DEFAULT;
        let mut expired = Vec::new();
        for timeline in 1..5 {
            let Ok(way) = lines.way(TimelineId(timeline), &histories, TimelineId(4)) else { continue };
            for no in (0..50).map(SegmentNo).filter(|no| !way.needs(*no, size)) {
                let expire = ExpireWal {
                    cluster: "shop".into(),
                    system_identifier: SYSTEM,
                    timeline: TimelineId(timeline),
                    segment_size: size,
                    ancestry: way.ancestry.clone(),
                    objects: Held::Inline([(SegmentName::new(TimelineId(timeline), no, size), [Hash32([1; 32])].into())].into()),
                };
                prop_assert!(model.allows(&Kind::ExpireWal(expire.clone())), "{} {:?}", timeline, no);
                expired.push(expire);
            }
        }
        for expire in expired {
            prop_assert!(model.step(&Kind::ExpireWal(expire)));
        }
        let (timeline, segment) = newest.unwrap();
        prop_assert!(model.begin((timeline, segment + later)).is_some(), "the next backup is refused");
    }
}

#[test]
fn wal_of_a_cluster_without_a_snapshot_stays_until_it_goes_on_under_another_identifier() {
    let mut model = Model::new();
    assert_eq!(Lines::of(&model.fold, &shop(), &BTreeSet::new()).unwrap_err(), Kept::NoSnapshot);
    model.begin((1, 5)).unwrap();
    assert_eq!(Lines::of(&model.fold, &shop(), &BTreeSet::new()).unwrap_err(), Kept::NoSnapshot);
    // pg_upgrade: another identifier, of which there is no snapshot yet.
    let id = model.at().session();
    let upgraded = Begin { system_identifier: Some(78), ..begin((1, 1)) };
    assert!(model.step(&Kind::Begin(upgraded)));
    assert_eq!(Lines::of(&model.fold, &shop(), &BTreeSet::new()).unwrap_err(), Kept::NoSnapshot);
    let pack = PackId([1; 16]);
    let mut first = commit(id, "s", (1, 1), &[], NewPacks::from([(pack, facts(pack))]), [(id, pack)].into_iter().collect());
    first.summary.system_identifier = 78;
    assert!(model.step(&Kind::Commit(Box::new(first))));
    let old = Lines::of(&model.fold, &shop(), &BTreeSet::new()).unwrap();
    let way = old.way(TimelineId(1), &BTreeMap::new(), TimelineId(1)).unwrap();
    // A backup of the old one is open all the same.
    assert!(!way.needs(SegmentNo(4), SegmentSize::DEFAULT) && way.needs(SegmentNo(5), SegmentSize::DEFAULT));
    assert_eq!(old.way(TimelineId(2), &BTreeMap::new(), TimelineId(2)).unwrap_err(), Kept::NoHistory);
}

/// An archive of segments on timeline 1, whose content ids are their numbers.
struct Fake {
    cluster: ClusterId,
    store: Arc<MemoryStore>,
    /// Segments, and whether their metadata can be read.
    segments: Mutex<BTreeMap<u64, bool>>,
    /// What is pushed under a name between EXPIRE-WAL and deletion.
    pushed_again: AtomicBool,
}

impl Fake {
    fn new(store: &Arc<MemoryStore>, segments: std::ops::Range<u64>) -> Fake {
        let fake = Fake {
            cluster: shop(),
            store: Arc::clone(store),
            segments: Mutex::new(segments.map(|no| (no, true)).collect()),
            pushed_again: AtomicBool::new(false),
        };
        for no in fake.segments.lock().unwrap().keys() {
            put(store, Fake::object(*no).as_str(), 16);
        }
        fake
    }

    fn name(no: u64) -> SegmentName {
        SegmentName::new(TimelineId(1), SegmentNo(no), SegmentSize::DEFAULT)
    }

    fn object(no: u64) -> ObjectName {
        ObjectName::new(format!("wal/ab/77/0000000100000000/{}", Fake::name(no))).unwrap()
    }

    fn there(&self) -> Vec<u64> {
        self.segments.lock().unwrap().keys().copied().filter(|no| self.store.size(&Fake::object(*no)).is_ok()).collect()
    }
}

impl WalArchive for Fake {
    fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    fn list(&self) -> Result<(Vec<Stored>, Histories), PruneError> {
        let stored = |no| Stored { object: Fake::object(no), file: WalFileName::Segment(Fake::name(no)), size: 16 };
        Ok((self.there().into_iter().map(stored).collect(), BTreeMap::new()))
    }

    fn content(&self, object: &Stored, fresh: bool) -> Result<Content, PruneError> {
        let no = self.segments.lock().unwrap().keys().copied().find(|no| Fake::object(*no) == object.object).unwrap();
        if !self.segments.lock().unwrap()[&no] {
            return Ok(Content::Unreadable);
        }
        let other = fresh && self.pushed_again.load(Ordering::SeqCst);
        Ok(Content::Is(Hash32([no as u8 + u8::from(other); 32]), Some(SegmentSize::DEFAULT)))
    }
}

fn put(store: &MemoryStore, name: &str, len: usize) {
    let _ = store.create(&ObjectName::new(name).unwrap(), &[&vec![0; len]], &SessionTag::new("test").unwrap()).unwrap();
}

struct World {
    store: Arc<MemoryStore>,
    host: Host,
}

impl World {
    fn new() -> World {
        let store = Arc::new(MemoryStore::default());
        World { host: Host::new(Arc::clone(&store) as _), store }
    }

    fn begin(&self, floor: u64) -> OpenSession {
        OpenSession::begin(&self.host.opened, &self.host.state.locks(), begin((1, floor))).unwrap()
    }

    /// Stores a pack.
    fn upload(&self, session: SessionId, number: u8) -> (PackId, PackFacts) {
        let pack = PackId([number; 16]);
        put(&self.store, &listing::object(session, pack, facts(pack).hash), 1000);
        (pack, facts(pack))
    }

    /// A snapshot of a pack of its own, and of others.
    fn snapshot(&self, id: &str, start: u64, number: u8, others: &[(SessionId, u8)]) -> (SessionId, u64) {
        let session = self.begin(start);
        let id_of = session.id();
        let new = NewPacks::from([self.upload(id_of, number)]);
        let mut set: PackSet = [(id_of, PackId([number; 16]))].into_iter().collect();
        others.iter().for_each(|(s, n)| set.insert(*s, PackId([*n; 16])));
        let head = session.commit(commit(id_of, id, (1, start), &[], new, set)).unwrap();
        (id_of, head.number)
    }

    fn forget(&self, commit: u64, window: bool) {
        append(&self.host.opened, &Kind::Forget(Forget { commit, window })).unwrap();
    }

    fn packs(&self) -> usize {
        self.store.list_sorted(Some(&ObjectName::new("pack").unwrap())).unwrap().len()
    }

    fn head(&self) -> u64 {
        self.host.opened.refresh().unwrap();
        self.host.opened.view().newest.number
    }

    fn prune(&self, archive: Option<&Fake>, dry_run: bool) -> Report {
        self.try_prune(archive, dry_run, Some(minutes(0))).unwrap()
    }

    fn try_prune(&self, archive: Option<&Fake>, dry_run: bool, clock: Option<Clock>) -> Result<Report, PruneError> {
        let archives: Vec<&dyn WalArchive> = archive.into_iter().map(|a| a as &dyn WalArchive).collect();
        let setting = Setting {
            opened: &self.host.opened,
            state: &self.host.state,
            machine: MACHINE,
            clock,
            emptying: None,
            archives: &archives,
            cancel: &Cancel::new(),
            progress: &Quiet,
        };
        run(&setting, &Options { dry_run, max_rewrite: None })
    }

    /// A dry run says what a run then does; and a second run does nothing.
    fn prune_twice(&self, archive: Option<&Fake>) -> Report {
        let before = (self.head(), self.packs(), archive.map(Fake::there));
        let would = self.prune(archive, true);
        assert_eq!((self.head(), self.packs(), archive.map(Fake::there)), before, "a dry run changed something");
        let did = self.prune(archive, false);
        assert_eq!(
            (would.condemned, would.orphans, would.swept, would.deleted, would.waiting, &would.wal, &would.ended),
            (did.condemned, did.orphans, did.swept, did.deleted, did.waiting, &did.wal, &did.ended)
        );
        assert!(self.store.unsettled().is_empty(), "reported as deleted, and not durably: {:?}", self.store.unsettled());
        let head = self.head();
        let again = self.prune(archive, false);
        assert_eq!((again.freed(), self.head()), (0, head), "a second prune found something: {again:?}");
        did
    }
}

fn minutes(minutes: u64) -> Clock {
    Clock { boot: "a".into(), since: Duration::from_secs(60 * (1000 + minutes)) }
}

#[test]
fn forgotten_packs_go_and_shared_ones_stay() {
    let world = World::new();
    let (first, number) = world.snapshot("a", 5, 1, &[]);
    let (second, _) = world.snapshot("b", 6, 2, &[(first, 1)]);
    let (third, third_number) = world.snapshot("c", 7, 3, &[(second, 2)]);
    assert_eq!(world.prune_twice(None).freed(), 0);
    world.forget(number, false);
    assert_eq!(world.prune_twice(None).freed(), 0, "another snapshot names it");
    world.forget(third_number, false);
    let report = world.prune_twice(None);
    assert_eq!((report.deleted, world.packs()), (Amount { objects: 1, bytes: 1000 }, 2));
    // It is out of its session's list.
    assert!(world.host.opened.view().fold.sessions[&third].packs.is_empty());
}

#[test]
fn what_is_condemned_waits_for_whoever_was_at_work() {
    let world = World::new();
    let (first, number) = world.snapshot("a", 5, 1, &[]);
    let (_, _) = world.snapshot("b", 6, 2, &[]);
    let writer = world.begin(6);
    world.forget(number, false);
    let report = world.prune_twice(None);
    assert_eq!((report.condemned.objects, report.swept.objects, report.waiting.objects), (1, 0, 1));
    assert_eq!(report.waiting_for.iter().map(|w| (w.session, w.why)).collect::<Vec<_>>(), [(writer.id(), Why::Alive)]);
    // The one who began before may still name it, and then it lives on.
    let id = writer.id();
    let new = NewPacks::from([world.upload(id, 9)]);
    let set = [(id, PackId([9; 16])), (first, PackId([1; 16]))].into_iter().collect();
    writer.commit(commit(id, "c", (1, 6), &[], new, set)).unwrap();
    assert_eq!(world.prune_twice(None).freed(), 0);
    assert_eq!(world.packs(), 3);
}

#[test]
fn leftovers_of_dead_sessions_and_of_nobody_go() {
    let world = World::new();
    world.snapshot("a", 5, 1, &[]);
    // Killed: its lock file stays, free; one pack was listed, another not.
    let dead = world.begin(6);
    let id = dead.id();
    let listed = world.upload(id, 2);
    append(&world.host.opened, &Kind::Progress(Progressed { session: id, packs: Held::Inline(NewPacks::from([listed])) })).unwrap();
    world.upload(id, 3);
    world.upload(SessionId([0xcc; 16]), 4);
    put(&world.store, "pack/what", 5);
    let alive = world.begin(6);
    let alive_id = alive.id();
    world.upload(alive_id, 5);
    let lock = world.host.opened.view().fold.sessions[&id].lock.clone().unwrap();
    std::mem::forget(dead);
    // A process that forgets its lock holds it all the same: what a kill leaves is made here.
    let path = world.host.state.path().join("locks").join(lock);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    let report = world.prune(None, false);
    assert_eq!((report.ended, report.condemned.objects, report.orphans.objects), (vec![id], 3, 2));
    assert!(!path.exists());
    assert_eq!((report.waiting.objects, report.warnings.len()), (3, 1), "the living one is waited for");
    drop(alive);
    let report = world.prune_twice(None);
    // Its own pack is an orphan by now.
    assert_eq!((report.deleted.objects, world.packs()), (4, 2), "{report:?}");
}

#[test]
fn what_was_swept_and_not_deleted_is_found_again() {
    let world = World::new();
    let (session, number) = world.snapshot("a", 5, 1, &[]);
    world.snapshot("b", 6, 2, &[]);
    world.forget(number, false);
    let packs = || Packs { packs: Held::Inline([(session, PackId([1; 16]))].into_iter().collect()) };
    append(&world.host.opened, &Kind::Condemn(packs())).unwrap();
    append(&world.host.opened, &Kind::Sweep(packs())).unwrap();
    // Killed here.
    let report = world.prune_twice(None);
    assert_eq!((report.orphans.objects, report.deleted.objects, world.packs()), (1, 1, 1));
}

#[test]
fn foreign_sessions_are_ended_after_an_hour_without_a_sign() {
    let world = World::new();
    world.snapshot("a", 5, 1, &[]);
    let foreign = |purpose: &str| {
        let begin = Begin { purpose: purpose.into(), machine: "another".into(), ..Begin::default() };
        append(&world.host.opened, &Kind::Begin(begin)).unwrap().session()
    };
    let session = foreign("restore");
    let at = |clock: Option<Clock>| world.try_prune(None, false, clock).unwrap();
    let waits = |report: &Report| report.waiting_for.iter().map(|w| w.why).collect::<Vec<_>>();
    assert_eq!(waits(&at(None)), [Why::Timeless]);
    assert_eq!(waits(&at(Some(minutes(0)))), [Why::Foreign(Duration::ZERO)]);
    assert_eq!(waits(&at(Some(minutes(59)))), [Why::Foreign(Duration::from_secs(59 * 60))]);
    // A dry run neither ends it nor forgets when it was seen.
    let would = world.try_prune(None, true, Some(minutes(60))).unwrap();
    assert_eq!(would.ended, [session]);
    assert!(world.host.opened.view().fold.is_open(&session));
    // A sign of life, and another boot: the hour begins anew.
    append(&world.host.opened, &Kind::Progress(Progressed { session, packs: Held::Inline(NewPacks::new()) })).unwrap();
    assert_eq!(waits(&at(Some(minutes(61)))), [Why::Foreign(Duration::ZERO)]);
    let rebooted = |minutes: u64| Some(Clock { boot: "b".into(), since: Duration::from_secs(60 * minutes) });
    assert_eq!(waits(&at(rebooted(200))), [Why::Foreign(Duration::ZERO)]);
    assert_eq!(waits(&at(rebooted(259))), [Why::Foreign(Duration::from_secs(59 * 60))]);
    assert_eq!(at(rebooted(260)).ended, [session]);
    assert!(!world.host.opened.view().fold.is_open(&session));
}

/// While others were judged it gave a sign of life, behind what this prune has read of the log.
#[test]
fn a_sign_of_life_that_comes_late_counts() {
    let world = World::new();
    world.snapshot("a", 5, 1, &[]);
    let begin = Begin { purpose: "restore".into(), machine: "another".into(), ..Begin::default() };
    let session = append(&world.host.opened, &Kind::Begin(begin)).unwrap().session();
    world.try_prune(None, false, Some(minutes(0))).unwrap();
    let stale = world.host.again(Arc::clone(&world.store) as _).unwrap();
    append(&world.host.opened, &Kind::Progress(Progressed { session, packs: Held::Inline(NewPacks::new()) })).unwrap();
    let setting = Setting {
        opened: &stale,
        state: &world.host.state,
        machine: MACHINE,
        clock: Some(minutes(90)),
        emptying: None,
        archives: &[],
        cancel: &Cancel::new(),
        progress: &Quiet,
    };
    let mut report = Report::default();
    let ended = super::sessions::end_dead(&setting, false, &mut report).unwrap();
    assert!(ended.is_empty() && stale.view().fold.is_open(&session), "{report:?}");
    assert_eq!(report.waiting_for.iter().map(|w| (w.session, w.why)).collect::<Vec<_>>(), [(session, Why::Foreign(Duration::ZERO))]);
    // Its hour begins with that.
    assert!(world.try_prune(None, false, Some(minutes(91))).unwrap().ended.is_empty());
}

#[test]
fn wal_expires_up_to_the_oldest_snapshot_and_between_windows() {
    let world = World::new();
    let archive = Fake::new(&world.store, 0..30);
    let report = world.prune_twice(Some(&archive));
    assert_eq!((report.kept.len(), archive.there().len()), (1, 30), "no snapshot, nothing expires");
    let (_, first) = world.snapshot("a", 5, 1, &[]);
    let (_, second) = world.snapshot("b", 12, 2, &[]);
    let (_, third) = world.snapshot("c", 20, 3, &[]);
    world.prune_twice(Some(&archive));
    assert_eq!(archive.there(), (5..30).collect::<Vec<_>>());
    // Each of two is to keep what makes it consistent, and no more.
    world.forget(first, true);
    world.forget(second, true);
    let report = world.prune_twice(Some(&archive));
    assert_eq!(archive.there(), [5, 6, 12, 13].into_iter().chain(20..30).collect::<Vec<_>>());
    assert_eq!(report.wal[&(shop(), TimelineId(1))].amount, Amount { objects: 11, bytes: 176 });
    // The newest keeps all behind its start, whatever it needs: the next backup begins there.
    world.forget(third, true);
    assert_eq!(world.prune_twice(Some(&archive)).wal, BTreeMap::new());
    drop(world.begin(22));
    world.forget(first, false);
    world.prune_twice(Some(&archive));
    assert_eq!(archive.there(), [12, 13].into_iter().chain(20..30).collect::<Vec<_>>());
}

#[test]
fn what_a_restore_reads_stays_until_it_has_ended() {
    let world = World::new();
    let archive = Fake::new(&world.store, 0..30);
    let (_, number) = world.snapshot("a", 5, 1, &[]);
    world.snapshot("b", 12, 2, &[]);
    let begin = Begin { purpose: "restore".into(), machine: MACHINE.into(), reads: Some(number), ..Begin::default() };
    let reader = OpenSession::begin(&world.host.opened, &world.host.state.locks(), begin).unwrap();
    world.forget(number, false);
    let report = world.prune_twice(Some(&archive));
    assert_eq!((report.deleted.objects, report.waiting.objects, archive.there()), (0, 1, (5..30).collect()));
    drop(reader);
    let report = world.prune_twice(Some(&archive));
    assert_eq!((report.deleted.objects, archive.there()), (1, (12..30).collect()));
}

#[test]
fn wal_that_changed_meanwhile_or_cannot_be_read_stays() {
    let world = World::new();
    let archive = Fake::new(&world.store, 0..8);
    world.snapshot("a", 5, 1, &[]);
    archive.segments.lock().unwrap().insert(2, false);
    archive.pushed_again.store(true, Ordering::SeqCst);
    let report = world.prune(Some(&archive), false);
    assert_eq!((report.freed(), archive.there().len()), (0, 8), "another content lies there");
    archive.pushed_again.store(false, Ordering::SeqCst);
    let report = world.prune_twice(Some(&archive));
    assert_eq!(archive.there(), [2, 5, 6, 7]);
    assert!(report.warnings[0].contains("1 object of WAL") && report.damaged == 1, "{:?}", report.warnings);
}

#[test]
fn nothing_goes_while_the_log_is_in_doubt() {
    let world = World::new();
    let (_, number) = world.snapshot("a", 5, 1, &[]);
    world.snapshot("b", 6, 2, &[]);
    world.forget(number, false);
    // The newest entry may be the rotten form of a COMMIT.
    let next = world.head() + 1;
    put(&world.store, &entry_name(next), 200);
    let refused = world.try_prune(None, false, None).unwrap_err();
    assert!(refused.to_string().contains("no valid signature"), "{refused}");
    assert_eq!((world.packs(), refused.class()), (2, Class::Refused));
}
