//! Faults between the program and the service: each kind by itself, and at places that are drawn.
//!
//! Whatever happened: what was acknowledged restores byte for byte, nothing that failed is half there, and no entry of the log
//! is void. What networks and services do to a request doesn't make a command fail, either: it is asked again. One fault may:
//! the same bytes that were flipped on the way time and again, which may pass for damage.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::s3::proxy::{Fault, Operation, Seen};
use crate::support::s3::{S3, Service, on};
use crate::support::{Host, Outcome, full};
use crate::world::{Cluster, Dice, World, digest, first_seed, noise};

type Digest = BTreeMap<PathBuf, blake3::Hash>;

/// A repository through many runs, and what must hold of it.
struct Story<'a> {
    cluster: &'a Cluster,
    world: World,
    other: Host,
    seed: u64,
    /// Snapshots that were acknowledged and not forgotten.
    kept: BTreeMap<String, Digest>,
    /// Segments that were acknowledged.
    pushed: BTreeSet<usize>,
    next: usize,
    told: Told,
}

/// Runs and faults in numbers.
#[derive(Debug, Default)]
struct Told {
    runs: BTreeMap<&'static str, u64>,
    failed: BTreeMap<String, u64>,
    faults: u64,
    requests: u64,
}

impl<'a> Story<'a> {
    fn begin(service: &Service, cluster: &'a Cluster, seed: u64) -> Story<'a> {
        let world = World::before_init(service, "60s");
        let other = world.repository.host.another();
        let mut story =
            Story { cluster, world, other, seed, kept: BTreeMap::new(), pushed: BTreeSet::new(), next: 0, told: Told::default() };
        loop {
            story.faulty(100);
            let outcome = story.world.init();
            if outcome.status.success() {
                break;
            }
            story.excuse("init", &outcome);
            story.calm("init");
            // It may have got so far that there is a repository.
            story.world = World::before_init(service, "60s");
            story.other = story.world.repository.host.another();
            story.seed += 1_000_000_000;
        }
        story.calm("init");
        story.world.snapshots();
        story
    }

    /// From now on so many of 1,000 requests meet a fault.
    fn faulty(&mut self, per_mille: u64) {
        self.world.proxy.forget();
        self.world.proxy.seeded(self.seed, per_mille);
    }

    fn calm(&mut self, what: &'static str) {
        self.world.proxy.calm();
        let counts = self.world.proxy.counts();
        self.told.faults += counts.faults;
        self.told.requests += counts.total();
        *self.told.runs.entry(what).or_default() += 1;
    }

    /// A failure must have a reason that repeating doesn't help against: something that came with a flipped bit more than once.
    #[track_caller]
    fn excuse(&mut self, what: &str, outcome: &Outcome) {
        let mut flipped: BTreeMap<String, u32> = BTreeMap::new();
        for record in self.world.proxy.records().into_iter().filter(|r| matches!(r.fault, Fault::FlipAnswer(_))) {
            *flipped.entry(record.seen.key).or_default() += 1;
        }
        flipped.retain(|_, times| *times > 1);
        assert!(!flipped.is_empty(), "seed {}: {what} failed\n{}", self.seed, outcome.report());
        assert!(!outcome.stderr.contains("panicked"), "seed {}\n{}", self.seed, outcome.report());
        println!(
            "seed {}: {what} failed, and these came wrong more than once: {flipped:?}\n{}{}",
            self.seed, outcome.stderr, outcome.stdout
        );
        *self.told.failed.entry(what.to_owned()).or_default() += 1;
    }

    /// One command with faults, and what must hold after it.
    fn run(&mut self, seed: u64) {
        self.seed = seed;
        let mut dice = Dice(seed);
        let rate = [20, 60, 150, 300][dice.below(4) as usize];
        match dice.below(10) {
            // Of a cluster that was never backed up nothing can be asked.
            _ if self.kept.is_empty() => self.back_up(&mut dice, rate),
            0..=2 => self.back_up(&mut dice, rate),
            3..=4 => self.push(rate),
            5 => self.get(&mut dice, rate),
            6 => self.restore(&mut dice, rate),
            7..=8 => self.prune(&mut dice, rate),
            _ => self.verify(rate),
        }
    }

    fn back_up(&mut self, dice: &mut Dice, rate: u64) {
        let data = self.world.data(self.cluster, "data");
        // Part of it may lie there already.
        let bytes = [noise(dice.below(4), 60_000), noise(100 + dice.below(1000), 90_000)].concat();
        std::fs::write(data.join("noise"), bytes).unwrap();
        let wanted = digest(&data);
        self.faulty(rate);
        let by_other = dice.below(3) == 0;
        let outcome = if by_other { self.world.backup_by(&self.other, &data) } else { self.world.backup(&data) };
        let before: BTreeSet<String> = self.kept.keys().cloned().collect();
        if outcome.status.success() {
            let id = outcome.json()["id"].as_str().unwrap().to_owned();
            self.kept.insert(id.clone(), wanted.clone());
            self.calm("backup");
            assert!(self.world.snapshots().contains(&id), "seed {}: {id} isn't listed", self.seed);
        } else {
            self.excuse("backup", &outcome);
            self.calm("backup");
            // If there is one all the same, it is whole.
            for id in self.world.snapshots().into_iter().filter(|id| !before.contains(id)) {
                self.world.restores(&id, &wanted);
                self.kept.insert(id, wanted.clone());
            }
        }
    }

    fn push(&mut self, rate: u64) {
        let data = self.world.data(self.cluster, "data");
        // Before a first backup, and after the last, one again that was acknowledged.
        let again = self.next >= self.cluster.wal.len();
        let segment = if again { self.seed as usize % self.cluster.wal.len() } else { self.next };
        self.faulty(rate);
        let outcome = self.world.push(&data, &self.cluster.wal[segment]);
        if outcome.status.success() {
            self.calm("push");
            self.pushed.insert(segment);
            self.next += usize::from(!again);
            self.has(segment);
        } else {
            assert!(outcome.status.code().is_some_and(|code| code <= 125), "{}", outcome.report());
            self.excuse("push", &outcome);
            self.calm("push");
            if !self.pushed.contains(&segment) {
                let (outcome, bytes) = self.world.get(self.cluster.name(segment));
                match outcome.status.code() {
                    Some(0) => self.is(segment, bytes),
                    _ => assert!(bytes.is_none() && outcome.code(1).status.code() == Some(1)),
                }
            }
        }
    }

    #[track_caller]
    fn has(&self, segment: usize) {
        let (outcome, bytes) = self.world.get(self.cluster.name(segment));
        outcome.ok();
        self.is(segment, bytes);
    }

    #[track_caller]
    fn is(&self, segment: usize, bytes: Option<Vec<u8>>) {
        let wanted = std::fs::read(&self.cluster.wal[segment]).unwrap();
        assert!(bytes == Some(wanted), "seed {}: {} came back otherwise", self.seed, self.cluster.name(segment));
    }

    fn get(&mut self, dice: &mut Dice, rate: u64) {
        let segment = dice.below(self.cluster.wal.len() as u64) as usize;
        self.faulty(rate);
        let (outcome, bytes) = self.world.get(self.cluster.name(segment));
        match (outcome.status.code(), self.pushed.contains(&segment)) {
            (Some(0), _) => self.is(segment, bytes),
            (Some(1), there) => assert!(!there && bytes.is_none(), "seed {}: it was archived\n{}", self.seed, outcome.report()),
            _ => {
                assert!(bytes.is_none() && outcome.status.code() > Some(125), "seed {}\n{}", self.seed, outcome.report());
                self.excuse("get", &outcome);
            }
        }
        self.calm("get");
    }

    fn restore(&mut self, dice: &mut Dice, rate: u64) {
        let id = self.kept.keys().nth(dice.below(self.kept.len() as u64) as usize).unwrap().clone();
        self.faulty(rate);
        let (outcome, found) = self.world.restore(&id);
        if outcome.status.success() {
            assert!(found == self.kept[&id], "seed {}: {id} came back otherwise", self.seed);
        } else {
            assert!(!found.contains_key(&PathBuf::from("global/pg_control")), "seed {}\n{}", self.seed, outcome.report());
            self.excuse("restore", &outcome);
        }
        self.calm("restore");
    }

    fn prune(&mut self, dice: &mut Dice, rate: u64) {
        self.faulty(rate);
        if self.kept.len() > 2 {
            let id = self.kept.keys().nth(dice.below(self.kept.len() as u64) as usize).unwrap().clone();
            let outcome = self.world.run(&["forget", "--keep-min", "0", &id]);
            if outcome.stderr.contains("found good") {
                self.calm("forget");
            } else if outcome.status.success() {
                self.kept.remove(&id);
                self.calm("forget");
                assert!(!self.world.snapshots().contains(&id), "seed {}: {id} was forgotten", self.seed);
            } else {
                self.excuse("forget", &outcome);
                self.calm("forget");
                if !self.world.snapshots().contains(&id) {
                    self.kept.remove(&id);
                }
            }
            self.faulty(rate);
        }
        let outcome = self.world.run(&["prune", "--json", "--max-rewrite", "1000000000"]);
        if !outcome.status.success() {
            self.excuse("prune", &outcome);
        }
        self.calm("prune");
        self.keeps_all();
    }

    fn verify(&mut self, rate: u64) {
        self.faulty(rate);
        let outcome = self.world.run(&["verify", "--json", "--read-data"]);
        if !outcome.status.success() {
            self.excuse("verify", &outcome);
        }
        self.calm("verify");
    }

    #[track_caller]
    fn keeps_all(&self) {
        let there = self.world.snapshots();
        assert!(self.kept.keys().all(|id| there.contains(id)), "seed {}: {:?} of {there:?}", self.seed, self.kept.keys());
    }

    /// Everything that was acknowledged, and nothing else.
    fn end(self) -> Told {
        self.keeps_all();
        assert_eq!(self.world.snapshots().len(), self.kept.len());
        self.world.is_whole();
        self.kept.iter().for_each(|(id, wanted)| self.world.restores(id, wanted));
        self.pushed.iter().for_each(|segment| self.has(*segment));
        // A prune without faults leaves nothing that no snapshot needs.
        self.world.run(&["prune"]).ok();
        let again = self.world.run(&["prune", "--json"]).ok().json();
        assert_eq!(again["freed"], 0, "{again}");
        self.world.is_whole();
        self.told
    }
}

#[test]
fn runs_with_faults_at_places_that_are_drawn_lose_nothing() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 12);
        let first = first_seed();
        let (stories, runs) = if full() { (60, 50) } else { (5, 40) };
        let began = Instant::now();
        // More at once than cores: most of the time is spent waiting.
        let next = std::sync::atomic::AtomicU64::new(0);
        let story = || {
            let mut told = Vec::new();
            loop {
                let number = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                if number >= stories {
                    return told;
                }
                let base = first * 1_000_000 + number * 1_000;
                let mut story = Story::begin(&service, &cluster, base);
                (1..=runs).for_each(|run| story.run(base + run));
                told.push(story.end());
            }
        };
        let told: Vec<Told> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(story)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a story")).collect()
        });
        let mut all = Told::default();
        for one in told {
            one.runs.into_iter().for_each(|(what, n)| *all.runs.entry(what).or_default() += n);
            one.failed.into_iter().for_each(|(what, n)| *all.failed.entry(what).or_default() += n);
            all.faults += one.faults;
            all.requests += one.requests;
        }
        let commands: u64 = all.runs.values().sum();
        println!("{commands} commands in {:?}: {all:?}", began.elapsed());
        assert!(all.faults > commands, "faults must be met");
    });
}

/// Faults that a network and a service have, one kind at a time.
const ALONE: [(&str, Fault); 17] = [
    ("late request", Fault::Delay(Duration::from_millis(300))),
    ("late answer", Fault::DelayAnswer(Duration::from_millis(300))),
    ("reset before", Fault::ResetBefore),
    ("reset in a request", Fault::ResetInRequest(1000)),
    ("reset after", Fault::ResetAfterRequest),
    ("closed after", Fault::CloseAfterRequest),
    ("reset in an answer", Fault::ResetInAnswer(700)),
    ("answer cut", Fault::CutAnswer(700)),
    ("500", Fault::Error(500, "InternalError")),
    ("503", Fault::Error(503, "SlowDown")),
    ("500, and done", Fault::ErrorAfter(500, "InternalError")),
    ("503, and done", Fault::ErrorAfter(503, "SlowDown")),
    ("409", Fault::Error(409, "ConditionalRequestConflict")),
    ("twice", Fault::Twice),
    ("done later", Fault::Later(Duration::from_millis(300))),
    ("a bit of a request", Fault::FlipRequest(500)),
    ("old lists", Fault::StaleBy(Duration::from_secs(2))),
];

/// Which requests can meet it.
fn meets(fault: &Fault, seen: &Seen) -> bool {
    match fault {
        Fault::ResetInRequest(_) | Fault::FlipRequest(_) => seen.operation.writes(),
        Fault::Later(_) => seen.operation.writes() || seen.operation.deletes(),
        Fault::Error(409, _) => seen.operation == Operation::Create,
        Fault::StaleBy(_) => seen.operation == Operation::List,
        _ => true,
    }
}

/// Each command, with two of three requests that can meet the fault meeting it once: all succeed.
fn with_one_kind(service: &Service, cluster: &Cluster, name: &str, fault: &Fault) {
    let world = World::before_init(service, "60s");
    let planned = fault.clone();
    // Not the same one when it is asked again.
    world.proxy.plan(move |seen| if meets(&planned, seen) && seen.nth == 0 && seen.index % 3 != 1 { planned.clone() } else { Fault::None });
    let told = |outcome: Outcome| {
        assert!(outcome.status.success(), "{name}\n{}", outcome.report());
        outcome
    };
    told(world.init());
    let data = world.data(cluster, "data");
    std::fs::write(data.join("noise"), noise(1, 80_000)).unwrap();
    let first = told(world.backup(&data)).json()["id"].as_str().unwrap().to_owned();
    std::fs::write(data.join("noise"), noise(2, 80_000)).unwrap();
    let wanted = digest(&data);
    let second = told(world.backup(&data)).json()["id"].as_str().unwrap().to_owned();
    told(world.push(&data, &cluster.wal[0]));
    let (outcome, bytes) = world.get(cluster.name(0));
    told(outcome);
    assert!(bytes == std::fs::read(&cluster.wal[0]).ok());
    told(world.run(&["forget", "--keep-min", "0", &first]));
    told(world.run(&["prune"]));
    told(world.run(&["verify", "--read-data"]));
    let (outcome, found) = world.restore(&second);
    told(outcome);
    assert!(found == wanted, "{name}");
    let met = world.proxy.records().iter().filter(|r| r.fault == *fault).count();
    assert!(met > 0, "{name}: none met it");
    world.proxy.calm();
    assert_eq!(world.snapshots(), [second]);
    world.is_whole();
}

#[test]
fn each_kind_of_fault_alone_is_got_over() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        let next = std::sync::atomic::AtomicUsize::new(0);
        let work = || {
            while let Some((name, fault)) = ALONE.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                with_one_kind(&service, &cluster, name, fault);
            }
        };
        std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(work))));
    });
}

/// What never passes: each command ends in time, and says what is the matter.
#[test]
fn what_does_not_pass_is_said() {
    on(18, |pg, s3: &S3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        let world = World::new(&service, "1s");
        let data = world.data(&cluster, "data");
        world.backup(&data).ok();
        world.push(&data, &cluster.wal[0]).ok();
        let name = cluster.name(0);
        let cases = [
            (Fault::ResetBefore, "unreachable"),
            (Fault::ResetAfterRequest, "unreachable"),
            (Fault::CutAnswer(0), "unreachable"),
            (Fault::ResetInAnswer(1), "unreachable"),
            (Fault::Error(500, "InternalError"), "unreachable"),
            (Fault::Error(503, "SlowDown"), "unreachable"),
            (Fault::Error(404, ""), "unreachable"),
            (Fault::Hang, "unreachable"),
            (Fault::Error(403, "AccessDenied"), "denied"),
        ];
        for (fault, class) in cases {
            let met = fault.clone();
            world.proxy.plan(move |_| met.clone());
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let began = Instant::now();
                    let outcome = world.run(&["list", "--json"]).code(1);
                    // A second of trying, and five for the one that is never answered; the rest is for a slow machine.
                    assert!(began.elapsed() < Duration::from_secs(25), "{fault:?}: {:?}", began.elapsed());
                    assert_eq!(outcome.json()["error"]["class"], class, "{fault:?}\n{}", outcome.report());
                });
                scope.spawn(|| world.push(&data, &cluster.wal[0]).code(1));
                scope.spawn(|| {
                    let (outcome, bytes) = world.get(name);
                    assert!(outcome.status.code() > Some(125) && bytes.is_none(), "{fault:?}\n{}", outcome.report());
                });
            });
        }
        world.proxy.calm();
        world.is_whole();
    });
}
