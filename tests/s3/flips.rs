//! A bit of one answer is wrong: each answer of each command in turn. No command fails for it, and what it says is true.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::support::s3::proxy::{Fault, Operation, Seen};
use crate::support::s3::{Service, on};
use crate::support::{Outcome, full};
use crate::world::{Cluster, Dice, World, digest, first_seed, noise};

/// A command, and what it says or brings, as text that doesn't change from run to run.
struct Command {
    name: &'static str,
    run: fn(&Scene<'_>) -> String,
}

/// A repository with two snapshots and three segments.
struct Scene<'a> {
    world: World,
    cluster: &'a Cluster,
    /// How often a command was run.
    runs: AtomicU64,
    /// How many answers it had.
    answers: Mutex<Option<u64>>,
}

/// A slot holds 64 former keys.
const MOST_ROTATIONS: usize = 60;

const COMMANDS: [Command; 22] = [
    Command { name: "restore latest", run: |scene| scene.restored("latest") },
    Command { name: "restore latest~1", run: |scene| scene.restored("latest~1") },
    Command { name: "archive-get", run: |scene| scene.got() },
    Command { name: "archive-get of what isn't there", run: |scene| scene.absent() },
    Command { name: "archive-push", run: |scene| scene.pushed() },
    Command { name: "backup", run: |scene| scene.backed_up() },
    Command { name: "prune", run: |scene| scene.pruned() },
    Command { name: "verify", run: |scene| scene.verified() },
    Command { name: "list", run: |scene| scene.told(&["list", "--json"]) },
    Command { name: "archive status", run: |scene| scene.told(&["archive", "status", "--json"]) },
    Command { name: "stats", run: |scene| scene.counted() },
    Command { name: "ls", run: |scene| scene.told(&["ls", "latest", "--json"]) },
    Command { name: "cat", run: |scene| scene.told(&["cat", "latest", "global/pg_control"]) },
    Command { name: "diff", run: |scene| scene.told(&["diff", "latest~1", "latest", "--json"]) },
    Command { name: "show", run: |scene| scene.told(&["show", "latest", "--json"]) },
    Command { name: "restore --delta", run: |scene| scene.restored_in_place() },
    Command { name: "hold", run: |scene| scene.held() },
    Command { name: "key add-host", run: |scene| scene.enrolled() },
    Command { name: "forget", run: |scene| scene.told(&["forget", "--keep-last", "1", "--keep-min", "1", "--dry-run", "--json"]) },
    Command { name: "key add and remove", run: |scene| scene.slots_changed() },
    Command { name: "key rotate", run: |scene| scene.rotated() },
    Command { name: "key list", run: |scene| scene.told(&["key", "list", "--json"]) },
];

impl<'a> Scene<'a> {
    fn new(service: &Service, cluster: &'a Cluster) -> Scene<'a> {
        let world = World::new(service, "60s");
        let data = world.data(cluster, "data");
        for number in 0..2 {
            std::fs::write(data.join("noise"), [noise(1, 60_000), noise(2 + number, 60_000)].concat()).unwrap();
            world.backup(&data).ok();
        }
        cluster.wal[..3].iter().for_each(|segment| drop(world.push(&data, segment).ok()));
        Scene { world, cluster, runs: AtomicU64::new(0), answers: Mutex::default() }
    }

    /// The command has ended: what is asked from now on is asked to see what came of it.
    fn ended(&self) {
        self.world.proxy.calm();
        let answers = || self.world.proxy.records().iter().filter(|r| reads(r.seen.operation)).count() as u64;
        self.answers.lock().unwrap().get_or_insert_with(answers);
    }

    /// Runs a command while this is done to requests.
    fn run(&self, command: &Command, plan: impl Fn(&Seen) -> Fault + Send + Sync + 'static) -> (String, u64) {
        *self.answers.lock().unwrap() = None;
        self.world.proxy.forget();
        self.world.proxy.plan(plan);
        let told = (command.run)(self);
        self.ended();
        (told, self.answers.lock().unwrap().unwrap_or_default())
    }

    /// By a host that has the key file alone: it reads everything anew.
    fn told(&self, arguments: &[&str]) -> String {
        self.by_a_stranger(arguments).ok().stdout
    }

    fn by_a_stranger(&self, arguments: &[&str]) -> Outcome {
        let (host, key) = (self.world.repository.host.another(), self.world.repository.key_file());
        self.world.repository.run_on(&host, [&["--key-file", key.to_str().unwrap()], arguments].concat())
    }

    fn restored(&self, snapshot: &str) -> String {
        let (outcome, found) = self.world.restore(snapshot);
        outcome.ok();
        format!("{found:?}")
    }

    fn restored_in_place(&self) -> String {
        let data = self.world.folder.join("in-place");
        if !data.exists() {
            crate::support::copy_tree(&self.cluster.data, &data);
        }
        std::fs::write(data.join("noise"), noise(self.runs.fetch_add(1, Ordering::SeqCst), 150_000)).unwrap();
        self.by_a_stranger(&["restore", "--delta", "--no-push", "--no-recovery", "--to", data.to_str().unwrap()]).ok();
        format!("{:?}", digest(&data))
    }

    fn held(&self) -> String {
        self.world.run(&["hold", "add", "latest", "--reason", "law"]).ok();
        let told = self.told(&["hold", "list", "--json"]);
        self.world.run(&["hold", "remove", "latest"]).ok();
        serde_json::from_str::<serde_json::Value>(&told).unwrap()["holds"].as_array().unwrap().len().to_string()
    }

    /// Another host is let in, and takes what it was given.
    fn enrolled(&self) -> String {
        let number = self.runs.fetch_add(1, Ordering::SeqCst);
        let (key, grant) = (self.world.repository.key_file(), self.world.folder.join(format!("grant-{number}")));
        let (key, grant, name) = (key.to_str().unwrap(), grant.to_str().unwrap(), format!("db{number}"));
        self.world.run(&["key", "add-host", "--role", "writer,reader", "--name", &name, grant, "--with-key-file", key]).ok();
        let host = self.world.repository.host.another();
        self.world.repository.run_on(&host, ["key", "accept", grant]).ok();
        let told = self.world.repository.run_on(&host, ["list", "--json"]).ok().json();
        told["snapshots"].as_array().unwrap().len().to_string()
    }

    fn got(&self) -> String {
        let to = self.world.folder.join("got");
        let _ = std::fs::remove_file(&to);
        self.by_a_stranger(&["archive-get", self.cluster.name(1), to.to_str().unwrap()]).ok();
        blake3::hash(&std::fs::read(&to).unwrap()).to_string()
    }

    fn absent(&self) -> String {
        let to = self.world.folder.join("absent");
        let outcome = self.by_a_stranger(&["archive-get", self.cluster.name(3), to.to_str().unwrap()]).code(1);
        assert!(!to.exists());
        format!("{:?}", outcome.status)
    }

    /// Where a host must be known that reads everything anew.
    fn forget_the_cache(&self) {
        let _ = std::fs::remove_dir_all(self.world.repository.host.home().join(".cache"));
    }

    /// What is archived already.
    fn pushed(&self) -> String {
        let data = self.world.data(self.cluster, "data");
        self.forget_the_cache();
        self.world.push(&data, &self.cluster.wal[1]).ok();
        self.world.bucket.list("pg/wal/").join(" ")
    }

    fn backed_up(&self) -> String {
        let data = self.world.data(self.cluster, "data");
        let number = self.runs.fetch_add(1, Ordering::SeqCst);
        std::fs::write(data.join("noise"), [noise(1, 60_000), noise(100 + number, 30_000)].concat()).unwrap();
        let id = self.world.backup_by(&self.world.repository.host.another(), &data).ok().json()["id"].as_str().unwrap().to_owned();
        self.ended();
        self.world.restores(&id, &digest(&data));
        self.world.run(&["forget", "--keep-min", "0", &id]).ok();
        String::new()
    }

    fn pruned(&self) -> String {
        self.forget_the_cache();
        let told = self.world.run(&["prune", "--json"]).ok().json();
        self.ended();
        assert_eq!(self.world.snapshots().len(), 2);
        told["freed"].to_string()
    }

    /// Another slot, and it is removed again.
    fn slots_changed(&self) -> String {
        let second = self.world.folder.join(format!("second-{}", self.runs.fetch_add(1, Ordering::SeqCst)));
        let (key, second) = (self.world.repository.key_file(), second.to_str().unwrap().to_owned());
        let key = key.to_str().unwrap();
        let added = self.world.run(&["key", "add", "--key-file", &second, "--with-key-file", key, "--json"]).ok().json();
        let id = added["slot"].as_str().unwrap();
        self.world.run(&["key", "remove", id, "--with-key-file", key, "--json"]).ok();
        self.ended();
        self.one_slot_opens()
    }

    fn rotated(&self) -> String {
        let key = self.world.repository.key_file();
        self.world.run(&["key", "rotate", "--with-key-file", key.to_str().unwrap(), "--json"]).ok();
        self.ended();
        self.one_slot_opens()
    }

    fn one_slot_opens(&self) -> String {
        let told = self.by_a_stranger(&["key", "list", "--json"]).ok().json();
        format!("{} {}", told["slots"].as_array().unwrap().len(), self.restored("latest"))
    }

    fn counted(&self) -> String {
        let mut told = self.by_a_stranger(&["stats", "--json"]).ok().json();
        // There is one more.
        told["requests"].take();
        told.to_string()
    }

    fn verified(&self) -> String {
        let told = self.by_a_stranger(&["verify", "--read-data", "--json"]).ok().json();
        format!("{} {}", told["ok"], told["errors"])
    }
}

fn reads(operation: Operation) -> bool {
    matches!(operation, Operation::Get | Operation::GetVersion | Operation::List | Operation::ListVersions)
}

/// How often the command was tried, and how often an answer came wrong in it.
fn try_all(service: &Service, cluster: &Cluster, command: &Command, seed: u64) -> (usize, usize) {
    let scene = Scene::new(service, cluster);
    // The first may do what is done once only.
    scene.run(command, |_| Fault::None);
    let (wanted, count) = scene.run(command, |_| Fault::None);
    let mut dice = Dice(seed);
    let (mut tried, mut met) = (0, 0);
    let mut kinds: BTreeSet<String> = BTreeSet::new();
    // The short form takes some of many, others with another seed.
    let (step, times) = if full() { (1, if count > 60 { 1 } else { 4 }) } else { (count.div_ceil(8), 1) };
    let chosen = (dice.below(step)..count).step_by(step as usize);
    let most = if command.name == "key rotate" { MOST_ROTATIONS } else { usize::MAX };
    for nth in chosen.flat_map(|nth| std::iter::repeat_n(nth, times)).take(most) {
        let (place, seen_so_far) = (dice.below(1 << 40), AtomicU64::new(0));
        let (told, _) = scene.run(command, move |seen| match reads(seen.operation) && seen_so_far.fetch_add(1, Ordering::SeqCst) == nth {
            true => Fault::FlipAnswer(place),
            false => Fault::None,
        });
        let flipped = scene.world.proxy.records().into_iter().find(|record| record.fault == Fault::FlipAnswer(place));
        let what = flipped.as_ref().map(|r| format!("{:?} of {}", r.seen.operation, r.seen.key));
        assert!(told == wanted, "{}, seed {seed}, answer {nth} of {count} ({what:?}):\n{told}\ninstead of\n{wanted}", command.name);
        kinds.extend(flipped.as_ref().map(|r| format!("{:?} {}", r.seen.operation, r.seen.key.split('/').nth(1).unwrap_or_default())));
        tried += 1;
        met += usize::from(flipped.is_some());
    }
    println!("{}: {count} answers, {met} wrong in turn: {kinds:?}", command.name);
    (tried, met)
}

#[test]
fn an_answer_with_a_flipped_bit_makes_no_command_fail() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 4);
        let seed = first_seed();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut all = (0, 0);
            while let Some(command) = COMMANDS.get(next.fetch_add(1, Ordering::SeqCst)) {
                let (tried, met) = try_all(&service, &cluster, command, seed);
                all = (all.0 + tried, all.1 + met);
            }
            all
        };
        let told: Vec<(usize, usize)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().expect("all of a command's answers")).collect()
        });
        let (tried, met) = told.into_iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        println!("{} commands, run {tried} times; {met} times an answer came wrong", COMMANDS.len());
        // Which of them asks how often is not the same in each run.
        assert!(met > tried * 9 / 10, "{met} of {tried}");
    });
}
