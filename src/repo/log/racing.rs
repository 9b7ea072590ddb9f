//! Tests: several writers at once, and answers that never came.

use std::collections::{BTreeMap, BTreeSet};

use super::testing::*;
use super::*;

const EACH: usize = 200;

fn append_many(store: &dyn LogStore, name: &str, count: usize) -> Vec<Head> {
    let owner = owner();
    let log = log_in(store, owner.public());
    let mut view = log.read().unwrap();
    (0..count).map(|i| log.append(&mut view, &host(), &evidence(&format!("{name} {i}"))).unwrap()).collect()
}

/// One order, nothing lost, nothing twice.
fn check(store: &dyn LogStore, heads: &[Head]) {
    let owner = owner();
    let view = log_in(store, owner.public()).read().unwrap();
    assert!(view.is_sound() && view.fold.alarms.is_empty(), "{:?}", view.fold.alarms);
    assert_eq!(view.newest.number as usize, heads.len());
    let numbers: BTreeSet<u64> = heads.iter().map(|h| h.number).collect();
    assert_eq!(numbers, (1..=heads.len() as u64).collect());
    for head in heads {
        let bytes = store.read(&entry_name(head.number), ENTRY_LIMIT).unwrap().unwrap();
        assert_eq!(read::hash(&bytes), head.hash);
    }
}

fn race(store: &(dyn LogStore + Sync)) {
    let owner = owner();
    log_in(store, owner.public()).create(&owner, first_keys()).unwrap();
    let heads: Vec<Head> = std::thread::scope(|scope| {
        let threads: Vec<_> = ["a", "b"].map(|name| scope.spawn(move || append_many(store, name, EACH))).into();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    check(store, &heads);
}

#[test]
fn two_threads_in_memory_get_one_order() {
    race(&MemoryStore::default());
}

#[test]
fn two_threads_in_a_folder_get_one_order() {
    let folder = tempfile::tempdir().unwrap();
    race(&FolderStore(folder.path().to_owned()));
}

/// Requests of one writer, each of which takes a while, as over a network.
struct Slow<'a> {
    inner: &'a MemoryStore,
    takes: std::time::Duration,
    creates: std::sync::atomic::AtomicU32,
    reads: std::sync::atomic::AtomicU32,
}

impl LogStore for Slow<'_> {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreFailure> {
        self.creates.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::thread::sleep(self.takes);
        self.inner.create(name, bytes)
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::thread::sleep(self.takes);
        self.inner.read(name, limit)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        self.inner.list(prefix)
    }
}

/// A log that is far away: a read waits until all that it takes are there.
struct Far<'a> {
    inner: &'a MemoryStore,
    /// So many reads are waited for, for half a minute.
    together: usize,
    reads: std::sync::Mutex<usize>,
    changed: std::sync::Condvar,
    /// What was read, by name.
    lately: std::sync::Mutex<BTreeMap<String, Vec<u8>>>,
}

impl LogStore for Far<'_> {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreFailure> {
        self.inner.create(name, bytes)
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        let mut reads = self.reads.lock().unwrap();
        *reads += 1;
        self.changed.notify_all();
        let half_a_minute = std::time::Duration::from_secs(30);
        let (reads, out) = self.changed.wait_timeout_while(reads, half_a_minute, |reads| *reads < self.together).unwrap();
        drop(reads);
        assert!(!out.timed_out(), "{name} is asked for alone");
        let read = self.inner.read(name, limit)?;
        if let Some(bytes) = &read {
            self.lately.lock().unwrap().insert(name.to_owned(), bytes.clone());
        }
        Ok(read)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        self.inner.list(prefix)
    }

    fn lately(&self, name: &str) -> Option<Vec<u8>> {
        self.lately.lock().unwrap().get(name).cloned()
    }

    fn is_far(&self) -> bool {
        true
    }
}

/// Who reads a log that is far away for the first time waits for it once, and reads no entry twice: not for the lists that
/// it passed over either.
#[test]
fn a_log_that_is_far_away_is_read_at_once() {
    let (scene, mut view) = Scene::new();
    let commits: Vec<u64> = (1..=5).map(|n| scene.snapshot(&mut view, &format!("s{n}"), n)).collect();
    // All entries, and the absence of another.
    let all = view.newest.number as usize + 2;
    let (reads, lately) = (std::sync::Mutex::default(), std::sync::Mutex::default());
    let far = Far { inner: &scene.store, together: all, reads, changed: std::sync::Condvar::new(), lately };
    let log = log_in(&far, &scene.owner);
    let read = log.read_of(None).unwrap();
    assert_eq!((read.newest, *far.reads.lock().unwrap()), (view.newest, all));
    let packs = log.packs_named(&read.fold, &read.fold.commits[&commits[4]]).unwrap();
    assert_eq!((packs.len(), *far.reads.lock().unwrap()), (1, all));
    // What is at hand is believed by its hash alone.
    for (_, bytes) in far.lately.lock().unwrap().iter_mut() {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
    }
    assert_eq!(log.packs_named(&read.fold, &read.fold.commits[&commits[4]]).unwrap(), packs);
    assert!(*far.reads.lock().unwrap() > all);
}

/// What sixteen writers pay for each entry while all append without a pause: creates and reads, sorted.
fn costs(each: usize, takes: std::time::Duration) -> (Vec<u32>, Vec<u32>) {
    let store = MemoryStore::default();
    log_in(&store, owner().public()).create(&owner(), first_keys()).unwrap();
    let write = |name: usize| {
        let slow = Slow { inner: &store, takes, creates: 0.into(), reads: 0.into() };
        let owner = owner();
        let log = log_in(&slow, owner.public());
        let mut view = log.read().unwrap();
        let one = |i| {
            slow.creates.store(0, std::sync::atomic::Ordering::Relaxed);
            slow.reads.store(0, std::sync::atomic::Ordering::Relaxed);
            log.append(&mut view, &host(), &evidence(&format!("{name} {i}"))).unwrap();
            (slow.creates.load(std::sync::atomic::Ordering::Relaxed), slow.reads.load(std::sync::atomic::Ordering::Relaxed))
        };
        (0..each).map(one).collect::<Vec<_>>()
    };
    let write = &write;
    let all: Vec<(u32, u32)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|name| scope.spawn(move || write(name))).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(log_in(&store, owner().public()).read().unwrap().newest.number as usize, 16 * each);
    let (mut creates, mut reads): (Vec<u32>, Vec<u32>) = all.into_iter().unzip();
    creates.sort();
    reads.sort();
    (creates, reads)
}

/// The figures of decision 017: `cargo test --lib sixteen_writers -- --nocapture`.
#[test]
fn what_an_entry_costs_sixteen_writers_is_bounded() {
    let began = std::time::Instant::now();
    let (creates, reads) = costs(20, std::time::Duration::from_millis(1));
    let figures = |of: &[u32]| {
        let mean = f64::from(of.iter().sum::<u32>()) / of.len() as f64;
        format!("{mean:.1}, median {}, 99 % {}, most {}", of[of.len() / 2], of[of.len() * 99 / 100], of[of.len() - 1])
    };
    println!("{} entries in {:?}; creates {}; reads {}", creates.len(), began.elapsed(), figures(&creates), figures(&reads));
    // Each create that is lost is an entry of somebody else's; without any luck it would be all of the others' 300.
    assert!(creates[creates.len() - 1] <= 150, "{}", figures(&creates));
    // Those who wait find several entries at once: no more reads than entries, an absence and a read-back for each attempt.
    assert!(reads[reads.len() - 1] <= 4 * 150 + 300, "{}", figures(&reads));
}

const FOLDER: &str = "PGCAIRN_TEST_RACE_FOLDER";

/// Does nothing unless the test below runs it in a process of its own.
#[test]
fn as_a_process_of_its_own() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        for head in append_many(&FolderStore(folder.into()), &std::process::id().to_string(), EACH / 2) {
            println!("head={head}");
        }
    }
}

#[test]
fn three_processes_in_a_folder_get_one_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore(folder.path().to_owned());
    let owner = owner();
    log_in(&store, owner.public()).create(&owner, first_keys()).unwrap();
    let start = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "repo::log::racing::as_a_process_of_its_own", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut heads = vec![];
    for process in [start(), start(), start()] {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        heads.extend(text.lines().filter_map(|line| line.split_once("head=")?.1.parse::<Head>().ok()));
    }
    assert_eq!(heads.len(), EACH / 2 * 3);
    check(&store, &heads);
}

#[test]
fn a_lost_race_is_judged_again() {
    let (scene, mut view) = Scene::new();
    let session = scene.append(&mut view, Kind::Begin(begin("shop"))).session();
    let mut other = view.clone();
    // Another process aborts the session; our view doesn't know it yet.
    scene.append(&mut other, Kind::Abort(Abort { session }));
    let late = scene.log().append(&mut view, &host(), &Kind::Commit(Box::new(commit(session, "s1", 1))));
    assert!(matches!(late, Err(LogError::Void { void: Void::Rule("R5 the session is not open"), .. })), "{late:?}");
    assert_eq!(view.newest, other.newest);
}

/// A view is not read to the end before an entry is offered; what it refuses is asked of the newest.
#[test]
fn what_an_older_view_refuses_the_newest_may_allow() {
    let (scene, mut view) = Scene::new();
    let (mut other, mut third) = (view.clone(), view.clone());
    let session = scene.append(&mut other, Kind::Begin(begin("shop"))).session();
    let commit = Kind::Commit(Box::new(commit(session, "s1", 1)));
    let head = scene.log().append(&mut view, &host(), &commit).unwrap();
    assert_eq!((head.number, scene.read().newest), (view.newest.number, view.newest));
    assert!(view.fold.commits.contains_key(&head.number));

    // Whether it is still wanted is asked again, too; and what the newest doesn't want isn't written.
    let asked = std::cell::Cell::new(0);
    let mut wanted = |view: &LogView| {
        asked.set(asked.get() + 1);
        view.newest.number == head.number
    };
    let log = scene.log();
    let stored = log.append_if(&mut third, &host(), &evidence("late"), &mut wanted).unwrap().unwrap();
    assert_eq!((stored.number, asked.get()), (head.number + 1, 2));
    assert_eq!(log.append_if(&mut other, &host(), &evidence("never"), &mut |_| false).unwrap(), None);
    assert_eq!(scene.read().newest.number, stored.number);
}

#[test]
fn an_answer_that_never_came_is_settled_by_reading_back() {
    for faults in [
        vec![Fault::AnswerLost],
        vec![Fault::RequestLost],
        vec![Fault::RequestLost, Fault::RequestLost],
        vec![Fault::AnswerLost, Fault::RequestLost],
    ] {
        let (scene, mut view) = Scene::new();
        *scene.store.faults.lock().unwrap() = faults.clone();
        assert_eq!(scene.append(&mut view, evidence("once")).number, 1, "{faults:?}");
        let read = scene.read();
        assert!(read.newest.number == 1 && read.fold == view.fold, "{faults:?}");
    }
    let (scene, mut view) = Scene::new();
    *scene.store.faults.lock().unwrap() = vec![Fault::RequestLost; 3];
    let unsure = scene.log().append(&mut view, &host(), &evidence("never"));
    assert!(matches!(unsure, Err(LogError::Unsure { number: 1, source: Some(_) })), "{unsure:?}");
    assert_eq!(view.newest.number, 0);
}

#[test]
fn what_can_be_read_but_is_not_durable_is_no_entry_yet() {
    let (scene, mut view) = Scene::new();
    *scene.store.faults.lock().unwrap() = vec![Fault::NotDurable; 3];
    let unsure = scene.log().append(&mut view, &host(), &evidence("in memory alone"));
    assert!(matches!(&unsure, Err(LogError::Unsure { number: 1, source: Some(s) }) if s.class() == Class::Failed), "{unsure:?}");
    assert_eq!(view.newest.number, 0);
    // Made durable by a later attempt, it counts.
    let (scene, mut view) = Scene::new();
    *scene.store.faults.lock().unwrap() = vec![Fault::NotDurable];
    assert_eq!(scene.append(&mut view, evidence("once")).number, 1);
}

#[test]
fn a_refusal_is_certain_and_an_answer_outweighs_silence() {
    let (scene, mut view) = Scene::new();
    *scene.store.faults.lock().unwrap() = vec![Fault::Full; 3];
    let refused = scene.log().append(&mut view, &host(), &evidence("no room"));
    assert!(matches!(&refused, Err(LogError::Store(s)) if s.to_string() == "no room"), "{refused:?}");
    // What isn't durable must not pass for a lost answer, whatever came before or after.
    for faults in [[Fault::NotDurable, Fault::RequestLost, Fault::RequestLost], [Fault::RequestLost, Fault::NotDurable, Fault::NotDurable]]
    {
        let (scene, mut view) = Scene::new();
        *scene.store.faults.lock().unwrap() = faults.to_vec();
        let unsure = scene.log().append(&mut view, &host(), &evidence("in memory alone"));
        assert!(matches!(&unsure, Err(e @ LogError::Unsure { .. }) if e.class() == Class::Failed), "{unsure:?}");
    }
}

#[test]
fn a_store_that_gives_one_number_twice_fools_nobody() {
    let (scene, mut view) = Scene::new();
    *scene.store.faults.lock().unwrap() = vec![Fault::Liar];
    let head = scene.append(&mut view, evidence("behind another's"));
    assert_eq!(head.number, 2);
    assert_eq!(scene.read().fold, view.fold);
}

#[test]
fn a_log_is_created_once() {
    let (scene, _) = Scene::new();
    assert!(matches!(scene.log().create(&owner(), first_keys()), Err(LogError::Exists)));
    let empty = Scene { store: MemoryStore::default(), owner: owner().public().clone() };
    let wrong: [(&crate::crypt::sign::SigningKey, Vec<KeyOp>); 4] =
        [(&owner(), first_keys()[1..].to_vec()), (&owner(), first_keys()[..1].to_vec()), (&host(), first_keys()), (&owner(), vec![])];
    for (signer, keys) in wrong {
        assert!(empty.log().create(signer, keys).is_err());
        assert!(empty.store.objects.lock().unwrap().is_empty());
    }
    empty.log().create(&owner(), first_keys()).unwrap();
}
