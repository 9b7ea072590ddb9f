//! Tests: views of one host. What they read, what they take for granted, and that what they append holds for everybody.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::testing::*;
use super::*;
use crate::crypt::sign::SigningKey;
use crate::units::{KeyId, Lsn, PackId, SegmentSize, TimelineId};

/// A store that remembers what was read, and how much at a time.
#[derive(Default)]
struct Counting {
    inner: MemoryStore,
    read: Mutex<Vec<String>>,
    at_once: Mutex<(usize, usize)>,
}

impl Counting {
    fn bodies(&self) -> usize {
        self.read.lock().unwrap().iter().filter(|name| name.starts_with("body/")).count()
    }

    fn reset(&self) {
        self.read.lock().unwrap().clear();
    }

    fn total(&self) -> usize {
        self.read.lock().unwrap().len()
    }
}

impl LogStore for Counting {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreFailure> {
        self.inner.create(name, bytes)
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        {
            let mut at_once = self.at_once.lock().unwrap();
            at_once.0 += 1;
            at_once.1 = at_once.1.max(at_once.0);
        }
        self.read.lock().unwrap().push(name.to_owned());
        std::thread::yield_now();
        let read = self.inner.read(name, limit);
        self.at_once.lock().unwrap().0 -= 1;
        read
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        self.inner.list(prefix)
    }
}

/// A small writer, and a large one, who are no maintainers.
fn small() -> SigningKey {
    key(10)
}

fn large() -> SigningKey {
    key(11)
}

const WRITES: [Role; 2] = [Role::Writer, Role::Reader];

struct World {
    store: Counting,
    owner: crate::crypt::sign::PublicKey,
}

impl World {
    fn new() -> World {
        let world = World { store: Counting::default(), owner: owner().public().clone() };
        let keys = [first_keys(), vec![enrol(&small(), &WRITES, None), enrol(&large(), &WRITES, None)]].concat();
        world.log().create(&owner(), keys).unwrap();
        world
    }

    fn log(&self) -> Log<'_> {
        log_in(&self.store, &self.owner)
    }

    fn of(&self, key: &SigningKey) -> LogView {
        self.log().read_of(Some(key.id())).unwrap()
    }

    fn append(&self, view: &mut LogView, key: &SigningKey, kind: Kind) -> Head {
        self.log().append(view, key, &kind).unwrap()
    }

    /// A snapshot of so many new packs, numbered from `first`, and of those of `more` besides.
    fn snapshot(&self, key: &SigningKey, cluster: &str, id: &str, packs: std::ops::Range<u32>, more: &PackSet) -> u64 {
        let mut view = self.of(key);
        let session = self.append(&mut view, key, Kind::Begin(begin(cluster))).session();
        let (old, new) = (packs.start..packs.start + (packs.end - packs.start) / 2, packs);
        let listed = |range: std::ops::Range<u32>| range.map(|n| (pack(n), facts(7))).collect::<NewPacks>();
        self.append(&mut view, key, Kind::Progress(Progressed { session, packs: Held::Inline(listed(old.clone())) }));
        let mut commit = commit(session, id, 0);
        commit.summary.cluster = cluster.into();
        commit.root.place.pack = pack(new.start);
        let set = new.clone().map(|n| (session, pack(n))).chain(more.iter().map(|(s, p)| (*s, *p))).collect();
        commit.lists = Held::Inline(CommitLists { new: listed(old.end..new.end), set, less: PackSet::default(), ledger: Vec::new() });
        self.append(&mut view, key, Kind::Commit(Box::new(commit))).number
    }
}

fn pack(n: u32) -> PackId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    PackId(id)
}

/// So many that a list of them lies in a body.
const MANY: u32 = 400;

fn large_tenant(world: &World, snapshots: u32) -> Vec<u64> {
    let mut before = PackSet::default();
    let one = |n: u32| {
        let number = world.snapshot(&large(), "large", &format!("l{n}"), n * 1_000..n * 1_000 + MANY, &before);
        before = world.of(&large()).fold.commits[&number].set.clone();
        number
    };
    (0..snapshots).map(one).collect()
}

#[test]
fn a_small_host_reads_no_list_of_a_large_one() {
    let world = World::new();
    world.snapshot(&small(), "small", "s0", 1..3, &PackSet::default());
    large_tenant(&world, 4);
    world.snapshot(&small(), "small", "s1", 3..5, &PackSet::default());
    world.store.reset();
    let view = world.of(&small());
    assert_eq!(world.store.bodies(), 0);
    assert!(view.is_sound() && view.fold.alarms.is_empty() && !view.is_whole(), "{:?}", view.fold.alarms);
    // All is there but lists: its own, too.
    let whole = world.log().read().unwrap();
    assert!(world.store.bodies() >= 8);
    assert_eq!(view.newest, whole.newest);
    assert_eq!(view.fold.commits.keys().collect::<Vec<_>>(), whole.fold.commits.keys().collect::<Vec<_>>());
    for (number, commit) in &view.fold.commits {
        let theirs = &whole.fold.commits[number];
        assert_eq!((&commit.summary, &commit.need, commit.root), (&theirs.summary, &theirs.need, theirs.root));
        assert_eq!(commit.set == theirs.set, commit.key == small().id());
    }
    // And it is kept in little: whatever the large one has.
    let kept = world.log().keep(&view).unwrap().len();
    large_tenant_goes_on(&world);
    let mut grown = view.clone();
    world.store.reset();
    world.log().advance(&mut grown).unwrap();
    assert_eq!(world.store.bodies(), 0);
    assert!(world.log().keep(&grown).unwrap().len() < kept + 4_000, "{kept}");
    let resumed = world.log().resume(&world.log().keep(&grown).unwrap()).unwrap().unwrap();
    assert!(resumed.fold == grown.fold && resumed.is_of(Some(small().id())) && !resumed.is_of(Some(large().id())));
}

fn large_tenant_goes_on(world: &World) {
    world.snapshot(&large(), "large", "more", 90_000..90_000 + 4 * MANY, &PackSet::default());
}

#[test]
fn what_is_named_is_read_when_it_is_wanted() {
    let world = World::new();
    let numbers = large_tenant(&world, 3);
    let whole = world.log().read().unwrap();
    let view = world.of(&small());
    world.store.reset();
    for number in &numbers {
        let named = world.log().packs_named(&view.fold, &view.fold.commits[number]).unwrap();
        let expected = world.log().packs_named(&whole.fold, &whole.fold.commits[number]).unwrap();
        assert_eq!(named, expected);
    }
    assert_eq!(world.log().packs_named(&view.fold, &view.fold.commits[&numbers[2]]).unwrap().len(), 3 * MANY as usize);
    // All at once, and then they are in the view.
    let mut view = view;
    world.log().know_commits(&mut view, &numbers.iter().copied().collect()).unwrap();
    world.store.reset();
    assert_eq!(world.log().packs_named(&view.fold, &view.fold.commits[&numbers[2]]).unwrap().len(), 3 * MANY as usize);
    assert_eq!(world.store.total(), 0);
    for number in &numbers {
        assert_eq!(view.fold.commits[number].set, whole.fold.commits[number].set);
    }
    for (id, session) in &view.fold.sessions {
        assert_eq!(session, &whole.fold.sessions[id]);
    }
    // A list that is gone or changed is no list.
    let fresh = world.of(&small());
    let names: Vec<String> = world.store.inner.objects.lock().unwrap().keys().filter(|n| n.starts_with("body/")).cloned().collect();
    names.iter().for_each(|name| world.store.inner.flip(name, 100));
    let lost = world.log().packs_named(&fresh.fold, &fresh.fold.commits[&numbers[0]]);
    assert!(matches!(lost, Err(LogError::MissingBody(_))), "{lost:?}");
}

/// The maintainer stores a snapshot anew: half of its packs, and others instead of the rest.
fn replace(world: &World, number: u64, first: u32) -> u64 {
    let mut view = world.of(&host());
    let old = view.fold.commits[&number].clone();
    let session = world.append(&mut view, &host(), Kind::Begin(begin("anew"))).session();
    let less: PackSet = old.set.iter().step_by(2).map(|(s, p)| (*s, *p)).collect();
    let new: NewPacks = (first..first + MANY).map(|n| (pack(n), facts(7))).collect();
    let set = new.keys().map(|p| (session, *p)).collect();
    let mut anew = commit(session, "unused", 0);
    (anew.summary, anew.root) = (old.summary, Root { place: Place { pack: pack(first), ..old.root.place }, ..old.root });
    (anew.lists, anew.replaces) = (Held::Inline(CommitLists { new, set, less, ledger: Vec::new() }), Some(number));
    let anew = world.append(&mut view, &host(), Kind::Commit(Box::new(anew))).number;
    world.append(&mut view, &host(), Kind::Forget(Forget { commit: number, window: false }));
    anew
}

#[test]
fn a_set_that_was_changed_again_and_again_is_put_together_in_order() {
    let world = World::new();
    let numbers = large_tenant(&world, 2);
    let again = replace(&world, numbers[1], 50_000);
    let last = replace(&world, again, 60_000);
    let whole = world.log().read().unwrap();
    assert_eq!(whole.fold.commits[&last].set.iter().count(), MANY as usize + MANY as usize / 2 + MANY as usize / 2);
    let fresh = || world.of(&small());
    let all = [numbers[0], last];
    for number in all {
        let view = fresh();
        let named = |view: &LogView| world.log().packs_named(&view.fold, &view.fold.commits[&number]).unwrap();
        assert_eq!(named(&view), named(&whole), "{number}");
    }
    // Each list builds on the one before, and neither of those before is live any more.
    assert_eq!(fresh().fold.commits[&last].unread.len(), 3);
    let same = |view: &LogView, number: u64| assert_eq!(view.fold.commits[&number].set, whole.fold.commits[&number].set, "{number}");
    for order in [[numbers[0], last], [last, numbers[0]]] {
        let mut view = fresh();
        for number in order {
            world.log().know_commits(&mut view, &BTreeSet::from([number])).unwrap();
            same(&view, number);
        }
        order.iter().for_each(|number| same(&view, *number));
    }
    for order in [[host(), large()], [large(), host()]] {
        let mut view = fresh();
        order.iter().for_each(|key| world.log().know_keys(&mut view, &[key.id()], u64::MAX - 5).unwrap());
        all.iter().for_each(|number| same(&view, *number));
    }
    // Kept, resumed, and then changed once more.
    let mut view = fresh();
    world.log().know_commits(&mut view, &BTreeSet::from([last])).unwrap();
    let mut view = world.log().resume(&world.log().keep(&view).unwrap()).unwrap().unwrap();
    let more = replace(&world, last, 70_000);
    world.log().advance(&mut view).unwrap();
    world.log().know_commits(&mut view, &BTreeSet::from([more])).unwrap();
    assert_eq!(view.fold.commits[&more].set, world.log().read().unwrap().fold.commits[&more].set);
}

#[test]
fn a_maintainer_reads_all_and_so_does_who_is_made_one() {
    let world = World::new();
    let numbers = large_tenant(&world, 2);
    let bodies = || {
        world.store.reset();
        let of = |key: &SigningKey| (world.of(key).is_whole(), world.store.bodies() > 0);
        (of(&host()), of(&small()))
    };
    let (maintainer, writer) = bodies();
    assert_eq!((maintainer, writer.0), ((true, true), false));
    let mut view = world.of(&small());
    let keys = Kind::Key(Keys { keys: vec![enrol(&small(), &ALL, None)] });
    world.log().append(&mut world.log().read().unwrap(), &owner(), &keys).unwrap();
    world.log().advance(&mut view).unwrap();
    assert!(view.needs_all() && !view.is_whole());
    assert!(world.of(&small()).is_whole());
    // What only all lists decide is judged by all lists, whoever appends it.
    let mut partial = view.clone();
    let named = view.fold.commits[&numbers[0]].session;
    let set: PackSet = [(named, pack(0))].into_iter().collect();
    let condemn = Kind::Condemn(Packs { packs: Held::Inline(set) });
    let named = world.log().append(&mut partial, &small(), &condemn);
    assert!(matches!(named, Err(LogError::Void { void: Void::Rule("R8 a live COMMIT names a pack"), .. })), "{named:?}");
    assert!(partial.is_whole());
}

#[test]
fn packs_of_trusted_keys_are_named_once_their_lists_are_read() {
    let world = World::new();
    let numbers = large_tenant(&world, 2);
    let mut view = world.of(&small());
    let session = world.append(&mut view, &small(), Kind::Begin(begin("clone"))).session();
    let (theirs, set) = {
        let whole = world.log().read().unwrap();
        let commit = &whole.fold.commits[&numbers[1]];
        (commit.session, commit.set.clone())
    };
    let mut shares = commit(session, "c", 200);
    shares.summary.cluster = "clone".into();
    let Held::Inline(lists) = &mut shares.lists else { unreachable!() };
    set.iter().for_each(|(session, pack)| lists.set.insert(*session, *pack));
    let shares = Kind::Commit(Box::new(shares));
    // What wasn't read can't be named.
    let unread = world.log().append(&mut view, &small(), &shares);
    assert!(matches!(unread, Err(LogError::Void { void: Void::Rule(why), .. }) if why.starts_with("R5")), "{unread:?}");
    world.log().know_keys(&mut view, &[large().id()], u64::MAX - 5).unwrap();
    assert_eq!(view.fold.sessions[&theirs].packs.len(), MANY as usize);
    let head = world.append(&mut view, &small(), shares);
    // All others say so, too.
    for other in [world.log().read().unwrap(), world.of(&large()), world.of(&host())] {
        assert!(other.fold.commits.contains_key(&head.number) && other.fold.alarms.is_empty());
    }
}

#[test]
fn of_a_trusted_maintainer_only_what_concerns_the_own_cluster_is_read() {
    let world = World::new();
    let others = large_tenant(&world, 2);
    let own = world.snapshot(&small(), "small", "s0", 50_000..50_004, &PackSet::default());
    let mut maintainer = world.log().read().unwrap();
    // It stores both anew; ours is of another system identifier here.
    let again = |view: &mut LogView, number: u64, id: &str, first: u32, count: u32| {
        let begin = Begin { purpose: "prune".into(), machine: "m".into(), ..Begin::default() };
        let session = world.append(view, &host(), Kind::Begin(begin)).session();
        let replaced = view.fold.commits[&number].clone();
        let new: NewPacks = (first..first + count).map(|n| (pack(n), facts(9))).collect();
        let (set, less) = (new.keys().map(|pack| (session, *pack)).collect(), replaced.set.clone());
        let mut root = replaced.root;
        root.place.pack = pack(first);
        assert_eq!(replaced.summary.id, id);
        let lists = Held::Inline(CommitLists { new, set, less, ledger: Vec::new() });
        let commit = Commit { session, summary: replaced.summary, root, lists, replaces: Some(number) };
        world.append(view, &host(), Kind::Commit(Box::new(commit))).number
    };
    let (theirs, ours) = (again(&mut maintainer, others[1], "l1", 60_000, MANY), again(&mut maintainer, own, "s0", 70_000, 4));
    let mut view = world.of(&small());
    assert!(!view.fold.commits[&ours].unread.is_empty());
    world.store.reset();
    // All clusters of this test have one system identifier: asked for another one, nothing that was stored anew is read.
    world.log().know_keys(&mut view, &[host().id()], 1).unwrap();
    assert_eq!((world.store.total(), !view.fold.commits[&ours].unread.is_empty()), (0, true));
    world.log().know_keys(&mut view, &[host().id()], u64::MAX - 5).unwrap();
    let whole = world.log().read().unwrap();
    for number in [ours, theirs] {
        assert_eq!(view.fold.commits[&number], whole.fold.commits[&number]);
        assert_eq!(view.fold.sessions[&view.fold.commits[&number].session], whole.fold.sessions[&whole.fold.commits[&number].session]);
    }
}

#[test]
fn what_was_condemned_is_known_when_it_is_asked_for() {
    let world = World::new();
    let number = world.snapshot(&small(), "small", "s0", 0..2 * MANY, &PackSet::default());
    let mut view = world.of(&small());
    let set = view.fold.commits[&number].set.clone();
    let mut maintainer = world.log().read().unwrap();
    world.append(&mut maintainer, &host(), Kind::Forget(Forget { commit: number, window: false }));
    let condemned: PackSet = set.iter().take(MANY as usize).map(|(s, p)| (*s, *p)).collect();
    let swept: PackSet = condemned.iter().take(10).map(|(s, p)| (*s, *p)).collect();
    let condemn = world.append(&mut maintainer, &host(), Kind::Condemn(Packs { packs: Held::Inline(condemned.clone()) }));
    world.append(&mut maintainer, &host(), Kind::Sweep(Packs { packs: Held::Inline(swept.clone()) }));
    world.store.reset();
    world.log().advance(&mut view).unwrap();
    assert_eq!((world.store.bodies(), view.fold.unread.packs.len()), (0, 2));
    world.log().know_condemned(&mut view, condemn.number).unwrap();
    assert_eq!((view.fold.unread.packs.len(), view.fold.condemned.len()), (1, 0), "the SWEEP alone");
    world.log().know_condemned(&mut view, 0).unwrap();
    assert!(view.fold.unread.is_empty());
    let session = *set.iter().next().unwrap().0;
    let listed: BTreeSet<PackId> = view.fold.sessions[&session].packs.keys().copied().collect();
    assert!(swept.iter().all(|(_, pack)| !listed.contains(pack)));
    let whole = world.log().read().unwrap();
    for (session, pack) in set.iter().filter(|(s, p)| !swept.contains(s, p)) {
        assert_eq!(view.fold.condemned_at(session, pack), whole.fold.condemned_at(session, pack));
    }
}

fn expire(cluster: &str, segments: std::ops::Range<u64>) -> Kind {
    let name = |no| crate::units::SegmentName::new(TimelineId(1), crate::units::SegmentNo(no), SegmentSize::DEFAULT);
    Kind::ExpireWal(ExpireWal {
        cluster: cluster.into(),
        system_identifier: u64::MAX - 5,
        timeline: TimelineId(1),
        segment_size: SegmentSize::DEFAULT,
        ancestry: vec![],
        objects: Held::Inline(segments.map(|no| (name(no), BTreeSet::from([crate::units::Hash32([1; 32])]))).collect()),
    })
}

#[test]
fn what_was_expired_is_read_of_the_own_cluster_alone_and_before_it_is_relied_upon() {
    let world = World::new();
    let mut maintainer = world.log().read().unwrap();
    world.append(&mut maintainer, &host(), expire("small", 1..300));
    world.append(&mut maintainer, &host(), expire("large", 1..300));
    world.store.reset();
    let mut view = world.of(&small());
    assert_eq!((world.store.bodies(), view.fold.expired.len(), view.fold.unread.wal.len()), (0, 0, 2));
    // R16 stands in the way of a BEGIN that needs what is gone.
    let too_old = world.log().append(&mut view, &small(), &Kind::Begin(begin("small")));
    assert!(matches!(too_old, Err(LogError::Void { void: Void::Rule(why), .. }) if why.starts_with("R16")), "{too_old:?}");
    assert_eq!((world.store.bodies(), view.fold.expired.len()), (1, 1));
    assert_eq!(view.fold.expired, { maintainer.fold.expired.clone().into_iter().filter(|(id, _)| id.name == "small").collect() });
    // From now on it is followed.
    world.append(&mut maintainer, &host(), expire("small", 300..900));
    world.append(&mut maintainer, &host(), expire("large", 300..900));
    world.store.reset();
    world.log().advance(&mut view).unwrap();
    assert_eq!(world.store.bodies(), 1);
    assert_eq!(view.fold.expired.values().flat_map(|t| t.values()).map(|e| e.highest).max(), Some(Lsn(899 << 24)));
}

#[test]
fn what_others_lists_would_make_void_ends_nothing_for_those_who_read_all() {
    let world = World::new();
    let mut view = world.log().read().unwrap();
    // A thief of the large one's key commits what it may not name.
    let session = world.append(&mut view, &large(), Kind::Begin(begin("large"))).session();
    let mut void = commit(session, "x", 9);
    void.summary.cluster = "large".into();
    let Held::Inline(lists) = &mut void.lists else { unreachable!() };
    lists.set.insert(SessionId([5; 16]), pack(1));
    let plain = entry::encode_plain(crate::units::Timestamp(0), &Kind::Commit(Box::new(void))).unwrap();
    let scene = Scene { store: MemoryStore::default(), owner: world.owner.clone() };
    scene.force(&large(), 2, view.newest.hash, &plain);
    world.store.inner.put("log/2", scene.store.get("log/2"));
    let (whole, partial) = (world.log().read().unwrap(), world.of(&small()));
    assert!(whole.fold.is_open(&session) && whole.fold.alarms.contains_key(&2));
    // The small one takes it for granted, and so names nothing of that session: its list was never read.
    assert!(!partial.fold.is_open(&session) && !partial.fold.sessions[&session].unread.is_empty());
    // What it appends holds for all.
    let number = world.snapshot(&small(), "small", "s0", 1..3, &PackSet::default());
    assert!(world.log().read().unwrap().fold.commits.contains_key(&number));
}

#[test]
fn who_is_far_behind_reads_many_at_once_and_at_most_sixty_four() {
    let world = World::new();
    let behind = world.of(&small());
    let mut view = world.of(&small());
    (0..300).for_each(|n| _ = world.append(&mut view, &small(), evidence(&n.to_string())));
    for read in [true, false] {
        *world.store.at_once.lock().unwrap() = (0, 0);
        let mut late = behind.clone();
        if read {
            late = world.of(&small());
        } else {
            world.log().advance(&mut late).unwrap();
        }
        assert_eq!(late.newest, view.newest);
        assert_eq!(late.fold, view.fold);
        let most = world.store.at_once.lock().unwrap().1;
        assert!(most <= 64, "{most}");
    }
    // Who isn't behind asks once.
    world.store.reset();
    world.log().advance(&mut view).unwrap();
    assert_eq!(world.store.total(), 1);
    let id: KeyId = small().id();
    assert!(view.is_of(Some(id)));
}
