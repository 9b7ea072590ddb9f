//! Killed, or without power, before each step.
//!
//! A story is a machine, a command, and what must hold whenever it is interrupted. The command is run once to its end,
//! which gives its steps; then, for each step that is chosen, the machine is set back, the command killed before that
//! step (SIGKILL to all of its processes), and looked at as it is; and then once more as it would be had the power
//! failed at that moment. The short form takes of each kind of step at each kind of place the first and the last; the
//! full form all.

use std::any::Any;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disk::{self, Loss, Tree};
use crate::support::{Postgres, TestDir, full, on};
use crate::trace::{Op, Step};
use crate::world::{Cluster, World, difference, same_cluster};

/// Something that can be interrupted.
pub(crate) trait Story {
    /// What it is called.
    fn name(&self) -> &'static str;
    /// Brings the machine to where the command begins.
    fn prepare(&self, world: &World);
    /// The command.
    fn command(&self, world: &World) -> Command;
    /// What must hold after an interruption; `done`: the command had said that it has succeeded.
    fn holds(&self, world: &World, done: bool);
    /// What another process writes, which the command runs with an empty environment.
    fn is_of_others(&self, _: &Path) -> bool {
        false
    }
}

/// Interrupts a story everywhere; how many steps, at least, there must be.
pub(crate) fn interrupt(story: &dyn Story, at_least: usize) {
    let world = World::new();
    story.prepare(&world);
    let before = world.scan();
    let whole = whole_run(story, &world, &before);
    let steps = if full() { most(&whole, &world.disk()) } else { chosen(&whole, &world.disk()) };
    let places: BTreeSet<String> = steps.iter().map(|s| s.place(&world.disk())).collect();
    println!("{}: {} steps, {} of them chosen, of {} kinds", story.name(), whole.len(), steps.len(), places.len());
    let mut tried = 0;
    let mut failures = Vec::new();
    let mut states = BTreeSet::new();
    // One number past the last: the command ends, and then the power fails.
    let end = whole.last().map_or(1, |last| last.number + 1);
    for number in steps.iter().map(|step| step.number).chain([end]) {
        let losses = losses(number, number == end);
        world.set(&before);
        let mut disk = world.durable();
        let (outcome, done) = world.under(story.command(&world), Some(number), "");
        let finished = outcome.status.success();
        assert!(finished || done.last().is_some_and(|s| s.op == Op::Killed), "{}: not killed\n{}", story.name(), outcome.report());
        done.iter().for_each(|step| disk.apply(step));
        let place = done.last().filter(|s| s.op == Op::Killed).map_or("the end".to_owned(), |s| s.place(&world.disk()));
        for loss in losses {
            // A state that was looked at before needs no second look.
            let tree = disk.after(loss);
            if !states.insert(fingerprint(&tree, finished)) {
                continue;
            }
            if loss != Loss::Nothing {
                world.set(&tree);
            }
            tried += 1;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| story.holds(&world, finished))) {
                failures.push(failure(story, &world, &tree, &format!("before step {number} ({place}), {loss:?}"), &*panic));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {tried} states of {}:\n{}", failures.len(), story.name(), failures.join("\n"));
    println!("{}: killed at {} steps, {tried} states looked at", story.name(), steps.len() + 1);
    assert!(places.len() >= at_least, "{}: only {} kinds of places: {places:#?}", story.name(), places.len());
}

/// What failed, and where the state is kept in which it did.
fn failure(story: &dyn Story, world: &World, tree: &Tree, case: &str, panic: &(dyn Any + Send)) -> String {
    let kept = world.elsewhere(&format!("failed/{}", case.replace(['/', ' '], "_")));
    disk::write(&kept, tree);
    let why = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
    format!("{}, interrupted {case}, on {}, kept in {}: {}", story.name(), world.disk().display(), kept.display(), why.unwrap_or_default())
}

fn fingerprint(tree: &Tree, finished: bool) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[u8::from(finished)]);
    for (path, item) in tree {
        let (kind, bytes) = match item {
            disk::Item::Folder(_) => (0, &b""[..]),
            disk::Item::File(_, bytes) => (1, bytes.as_slice()),
            disk::Item::Link(target) => (2, target.as_encoded_bytes()),
        };
        let path = path.as_os_str().as_encoded_bytes();
        hasher.update(&(path.len() as u64).to_le_bytes()).update(path).update(&[kind]);
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    *hasher.finalize().as_bytes()
}

/// The command, not interrupted: its steps. That they are all of them is proved by doing them once more, on a copy.
fn whole_run(story: &dyn Story, world: &World, before: &Tree) -> Vec<Step> {
    world.set(before);
    let mut disk = world.durable();
    let (outcome, steps) = world.under(story.command(world), None, "");
    outcome.ok();
    steps.iter().for_each(|step| disk.apply(step));
    let seen = |tree: Tree| -> Tree { tree.into_iter().filter(|(path, _)| !story.is_of_others(path)).collect() };
    if let Some(difference) = disk::first_difference(&seen(disk.after(Loss::Nothing)), &seen(world.scan())) {
        panic!("{}: the shim missed a step: {difference}", story.name());
    }
    story.holds(world, true);
    steps
}

/// After a kill, and after power failures: other ones at other steps, the same in each run; in the end the worst. The full
/// form tries more, and others with another `PGCAIRN_TEST_SEED`.
fn losses(number: u64, end: bool) -> Vec<Loss> {
    let seed = std::env::var("PGCAIRN_TEST_SEED").ok().and_then(|seed| seed.parse::<u64>().ok()).unwrap_or(0);
    let drawn = Loss::Some(seed.wrapping_mul(1_000_003).wrapping_add(number));
    match number % 4 {
        _ if full() => vec![Loss::Nothing, Loss::All, drawn],
        _ if end => vec![Loss::Nothing, Loss::All],
        0 => vec![Loss::Nothing, Loss::All],
        1 => vec![Loss::Nothing, Loss::Bytes],
        _ => vec![Loss::Nothing, drawn],
    }
}

/// All; of very many one in three, and what the short form takes.
fn most(steps: &[Step], root: &Path) -> Vec<Step> {
    let chosen: BTreeSet<u64> = chosen(steps, root).iter().map(|step| step.number).collect();
    steps.iter().filter(|step| steps.len() < 200 || step.number.is_multiple_of(3) || chosen.contains(&step.number)).cloned().collect()
}

/// The first of each kind, and the last where it makes something durable or takes a name.
fn chosen(steps: &[Step], root: &Path) -> Vec<Step> {
    let mut of_kind: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for step in steps {
        let both = matches!(step.op, Op::Fsync | Op::Syncfs | Op::Link | Op::Rename | Op::Unlink);
        let kind = of_kind.entry(step.place(root)).or_insert((step.number, step.number));
        kind.1 = if both { step.number } else { kind.1 };
    }
    let numbers: BTreeSet<u64> = of_kind.values().flat_map(|(first, last)| [*first, *last]).collect();
    steps.iter().filter(|step| numbers.contains(&step.number)).cloned().collect()
}

struct Init<'a>(&'a Cluster);

impl Story for Init<'_> {
    fn name(&self) -> &'static str {
        "init"
    }

    fn prepare(&self, _: &World) {}

    fn command(&self, world: &World) -> Command {
        world.command([OsStr::new("init"), OsStr::new("--key-file"), world.path("key").as_os_str()])
    }

    fn holds(&self, world: &World, done: bool) {
        let again = world.init();
        if done {
            again.code(1).says("already");
        } else if !again.status.success() {
            // It was born, and only the answer is missing.
            again.code(1).says("already");
        }
        let [data, _] = &self.0.states;
        world.run(world.backup_of(data)).ok();
        world.is_sound();
        let all = world.snapshots();
        assert_eq!(all.len(), 1);
        world.restores_as(&all[0], data);
    }
}

/// A repository with one snapshot and the WAL of its time.
pub(crate) fn one_snapshot(world: &World, cluster: &Cluster) {
    world.init().ok();
    world.run(world.backup_of(&cluster.states[0])).ok();
    crate::support::Outcome::of(world.push(&cluster.states[0], &cluster.wal[0])).ok();
}

struct Backup<'a>(&'a Cluster);

impl Story for Backup<'_> {
    fn name(&self) -> &'static str {
        "backup"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
    }

    fn command(&self, world: &World) -> Command {
        world.command(world.backup_of(&self.0.states[1]))
    }

    fn holds(&self, world: &World, done: bool) {
        let [first, second] = &self.0.states;
        let there = world.snapshots();
        assert!(there.len() <= 2 && there.len() > usize::from(done), "{there:?}");
        world.run(world.backup_of(second)).ok();
        let all = world.snapshots();
        assert!(all.len() == there.len() + 1 && all.starts_with(&there), "{there:?}, {all:?}");
        world.is_sound();
        world.restores_as(&all[0], first);
        // What is listed is whole, whether its backup was heard of or not.
        all[1..].iter().for_each(|id| world.restores_as(id, second));
        world.has_wal(&self.0.wal[..1]);
    }
}

struct Push<'a>(&'a Cluster);

impl Story for Push<'_> {
    fn name(&self) -> &'static str {
        "archive-push"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
    }

    fn command(&self, world: &World) -> Command {
        world.push(&self.0.states[1], &self.0.wal[1])
    }

    fn holds(&self, world: &World, done: bool) {
        let [first, second] = &self.0.states;
        let wal = &self.0.wal;
        world.has_wal(&wal[..1 + usize::from(done)]);
        // The server tries again, and goes on with the next.
        for file in &wal[1..] {
            crate::support::Outcome::of(world.push(second, file)).ok();
        }
        world.has_wal(wal);
        world.run(world.backup_of(second)).ok();
        let all = world.snapshots();
        world.restores_as(&all[0], first);
        world.restores_as(&all[1], second);
    }
}

struct Restore<'a>(&'a Cluster, Cell<u32>);

impl Story for Restore<'_> {
    fn name(&self) -> &'static str {
        "restore"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
    }

    fn command(&self, world: &World) -> Command {
        let to = world.path("server/data");
        world.command(["--jobs", "1", "restore", "--no-recovery", "--to", to.to_str().unwrap()])
    }

    fn holds(&self, world: &World, done: bool) {
        let [first, second] = &self.0.states;
        let to = world.path("server/data");
        let startable = to.join("global/pg_control").exists();
        assert!(startable || !done, "it said that it was done");
        if startable {
            same_cluster(first, &to);
        }
        self.1.set(self.1.get() + 1);
        let text = to.to_str().unwrap();
        if self.1.get().is_multiple_of(2) {
            let _ = std::fs::remove_dir_all(&to);
            world.run(["restore", "--no-recovery", "--to", text]).ok();
        } else {
            world.run(["restore", "--delta", "--no-recovery", "--to", text]).ok();
        }
        same_cluster(first, &to);
        // Next to nothing is written to the repository: a look now and then.
        if done || full() || self.1.get().is_multiple_of(8) {
            world.run(world.backup_of(second)).ok();
            world.is_sound();
            world.restores_as("latest", second);
            world.restores_as("latest~1", first);
            world.has_wal(&self.0.wal[..1]);
        }
    }
}

/// In place, over a later state of the cluster: what its pg_wal alone has must not be lost.
struct Delta<'a> {
    cluster: &'a Cluster,
    /// Segments of the target that are nowhere else.
    unarchived: Vec<PathBuf>,
    count: Cell<u32>,
}

impl Delta<'_> {
    fn new(cluster: &Cluster) -> Delta<'_> {
        let wal = cluster.states[1].join("pg_wal");
        let archived = |name: &OsStr| cluster.wal.iter().any(|file| file.file_name() == Some(name));
        let all = std::fs::read_dir(wal).unwrap().map(|e| e.unwrap());
        // The last one alone: those behind it are made in advance.
        let mut names: Vec<PathBuf> = all.filter(|e| e.path().is_file() && !archived(&e.file_name())).map(|e| e.path()).collect();
        names.sort();
        names.truncate(1);
        Delta { cluster, unarchived: names, count: Cell::new(0) }
    }
}

impl Story for Delta<'_> {
    fn name(&self) -> &'static str {
        "restore --delta"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.cluster);
        for file in &self.cluster.wal[1..] {
            crate::support::Outcome::of(world.push(&self.cluster.states[1], file)).ok();
        }
        std::fs::create_dir(world.path("server")).unwrap();
        crate::support::copy_tree(&self.cluster.states[1], &world.path("server/data"));
    }

    fn command(&self, world: &World) -> Command {
        let to = world.path("server/data");
        world.command(["--jobs", "1", "restore", "--delta", "--no-recovery", "--to", to.to_str().unwrap()])
    }

    fn holds(&self, world: &World, done: bool) {
        let [first, second] = &self.cluster.states;
        let to = world.path("server/data");
        if to.join("global/pg_control").exists() {
            let (new, old) = (difference(first, &to, second), difference(second, &to, second));
            assert!(new.is_none() || (old.is_none() && !done), "a mixture can be started: {new:?}, and {old:?}");
        } else {
            assert!(!done, "it said that it was done");
        }
        crate::support::Outcome::of(self.command(world)).ok();
        assert_eq!(difference(first, &to, second), None);
        for mark in ["pgcairn.restore", "pgcairn.restore.pgcairn", "global/pg_control.pgcairn-aside"] {
            assert!(!to.join(mark).exists(), "{mark} is left");
        }
        for segment in &self.unarchived {
            let name = segment.file_name().unwrap();
            let bytes = std::fs::read(segment).unwrap();
            let got = world.elsewhere("got").join("segment");
            let _ = std::fs::remove_file(&got);
            let fetched = world.run([OsStr::new("archive-get"), name, got.as_os_str()]).status.success();
            let archived = fetched && std::fs::read(&got).unwrap() == bytes;
            let saved = files_named(&world.path("server"), name)
                .into_iter()
                .any(|path| path.to_string_lossy().contains("wal-saved") && std::fs::read(path).unwrap() == bytes);
            assert!(archived || saved, "{} is lost", name.display());
        }
        world.has_wal(&self.cluster.wal);
        self.count.set(self.count.get() + 1);
        if done || full() || self.count.get().is_multiple_of(8) {
            world.run(world.backup_of(second)).ok();
            world.is_sound();
            world.restores_as("latest", second);
            world.restores_as("latest~1", first);
        }
    }
}

/// By a host that has nothing but the key file: what the server will need to fetch WAL is there before it can start.
struct Elsewhere<'a>(&'a Cluster);

impl Story for Elsewhere<'_> {
    fn name(&self) -> &'static str {
        "restore elsewhere"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
        std::fs::create_dir(world.path("other")).unwrap();
    }

    fn command(&self, world: &World) -> Command {
        let (to, key) = (world.path("server/data"), world.path("key"));
        let words = ["--key-file", key.to_str().unwrap(), "--jobs", "1", "restore", "--delta", "--standby", "--to", to.to_str().unwrap()];
        world.command_of(&world.path("other"), words)
    }

    /// The trial of restore_command.
    fn is_of_others(&self, path: &Path) -> bool {
        path.starts_with("server/data.pgcairn")
    }

    fn holds(&self, world: &World, done: bool) {
        let [first, _] = &self.0.states;
        let to = world.path("server/data");
        assert!(!done || to.join("global/pg_control").exists(), "it said that it was done");
        for again in [false, true] {
            if again {
                crate::support::Outcome::of(self.command(world)).ok();
            }
            if !to.join("global/pg_control").exists() {
                continue;
            }
            assert!(to.join("standby.signal").exists());
            let data: Tree = disk::scan(&to).into_iter().filter(|(path, _)| path != Path::new("standby.signal")).collect();
            let bare = world.elsewhere("bare");
            disk::write(&bare, &data);
            same_cluster(first, &bare);
            // As the server will, with next to nothing in its environment.
            let conf = std::fs::read_to_string(to.join("postgresql.auto.conf")).unwrap();
            let line = conf
                .lines()
                .rev()
                .find_map(|line| line.strip_prefix("restore_command = '")?.strip_suffix('\''))
                .expect("a restore_command");
            let got = world.elsewhere("got").join("segment");
            let _ = std::fs::remove_file(&got);
            let name = self.0.wal[0].file_name().unwrap().to_str().unwrap();
            let line = line.replace("''", "'").replace("%f", name).replace("%p", got.to_str().unwrap());
            let mut shell = Command::new("sh");
            shell.args(["-c", &line]).env_clear().current_dir(&to);
            crate::support::Outcome::of(shell).ok();
            assert!(std::fs::read(&got).unwrap() == std::fs::read(&self.0.wal[0]).unwrap());
        }
    }
}

/// One of two snapshots is forgotten; of a session that the log doesn't know lies a pack about.
struct Prune<'a>(&'a Cluster, Cell<u32>);

impl Prune<'_> {
    fn freed(outcome: crate::support::Outcome) -> u64 {
        outcome.ok().json()["freed"].as_u64().unwrap()
    }
}

impl Story for Prune<'_> {
    fn name(&self) -> &'static str {
        "prune"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
        for file in &self.0.wal[1..] {
            crate::support::Outcome::of(world.push(&self.0.states[1], file)).ok();
        }
        world.run(world.backup_of(&self.0.states[1])).ok();
        world.forget(&world.snapshots()[0]);
        let junk = world.path("repository/pack").join("ee".repeat(16));
        std::fs::create_dir(&junk).unwrap();
        std::fs::write(junk.join(format!("{}-{}", "ab".repeat(16), "cd".repeat(32))), b"junk").unwrap();
    }

    fn command(&self, world: &World) -> Command {
        world.command(["--jobs", "1", "prune"])
    }

    fn holds(&self, world: &World, done: bool) {
        let second = &self.0.states[1];
        assert_eq!(world.snapshots().len(), 1);
        // A deletion need not be durable: what comes back after a power failure goes again.
        Self::freed(world.run(["prune", "--json"]));
        assert_eq!(Self::freed(world.run(["prune", "--json"])), 0);
        let stats = world.run(["stats", "--json"]).ok().json();
        assert_eq!([&stats["dead"], &stats["orphans"], &stats["reclaimable"]], [0, 0, 0], "{stats}");
        world.is_sound();
        world.restores_as("latest", second);
        self.1.set(self.1.get() + 1);
        if !(done || full() || self.1.get().is_multiple_of(8)) {
            return;
        }
        world.run(world.backup_of(second)).ok();
        world.restores_as("latest", second);
        // What lies before all that is kept is refused, and it is said what to do.
        world.run(world.backup_of(&self.0.states[0])).code(1).says("--cluster");
    }
}

/// A prune that empties a mostly dead pack: what is left of it in the one snapshot is copied, and that committed again.
struct Recommit {
    /// What was backed up first and is forgotten, and what stays.
    first: PathBuf,
    second: PathBuf,
    count: Cell<u32>,
    _folder: TestDir,
}

impl Recommit {
    fn new(cluster: &Cluster) -> Recommit {
        let folder = TestDir::new();
        let with = |name: &str, bytes: &[u8]| {
            let data = folder.join(name);
            crate::support::copy_tree(&cluster.states[0], &data);
            std::fs::write(data.join("noise"), bytes).unwrap();
            std::fs::set_permissions(data.join("noise"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            data
        };
        let mut noise = vec![0; 3_000_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let (first, second) = (with("first", &noise), with("second", &noise[..70_000]));
        Recommit { first, second, count: Cell::new(0), _folder: folder }
    }
}

impl Story for Recommit {
    fn name(&self) -> &'static str {
        "prune that re-commits"
    }

    fn prepare(&self, world: &World) {
        world.init().ok();
        for data in [&self.first, &self.second] {
            world.run(world.backup_of(data)).ok();
        }
        world.forget(&world.snapshots()[0]);
        let would = world.run(["prune", "--json", "--dry-run", "--max-rewrite", "100000000"]).ok().json();
        assert!(would["rewritten"]["emptied"]["bytes"].as_u64() > Some(3_000_000), "{would}");
    }

    fn command(&self, world: &World) -> Command {
        world.command(["--jobs", "1", "prune", "--max-rewrite", "100000000"])
    }

    fn holds(&self, world: &World, done: bool) {
        let there = world.snapshots();
        assert_eq!(there.len(), 1, "its id is its own, however often it was committed");
        self.count.set(self.count.get() + 1);
        let at_length = done || full() || self.count.get().is_multiple_of(8);
        if at_length {
            // Before anybody has done it again.
            world.restores_as(&there[0], &self.second);
        }
        let prune = || world.run(["prune", "--json", "--max-rewrite", "100000000"]).ok().json();
        let finished = prune();
        assert!(!done || finished["rewritten"]["snapshots"] == 0, "{finished}");
        let again = prune();
        assert_eq!((&again["freed"], &again["rewritten"]["emptied"]["objects"]), (&0.into(), &0.into()), "{again}");
        let stats = world.run(["stats", "--json"]).ok().json();
        assert_eq!([&stats["dead"], &stats["orphans"], &stats["reclaimable"]], [0, 0, 0], "{stats}");
        assert!(stats["unneeded"].as_u64().unwrap() < 100_000, "the pack was not emptied: {stats}");
        assert_eq!(world.snapshots(), there);
        world.is_sound();
        world.restores_as(&there[0], &self.second);
        if at_length {
            world.run(world.backup_of(&self.first)).ok();
            world.restores_as("latest", &self.first);
            world.restores_as("latest~1", &self.second);
        }
    }
}

/// By a policy: of four snapshots two go, one is held.
struct Forget<'a>(&'a Cluster, Cell<u32>);

impl Story for Forget<'_> {
    fn name(&self) -> &'static str {
        "forget"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
        for file in &self.0.wal[1..] {
            crate::support::Outcome::of(world.push(&self.0.states[1], file)).ok();
        }
        for _ in 0..3 {
            world.run(world.backup_of(&self.0.states[1])).ok();
        }
        world.run(["hold", "add", &world.snapshots()[0], "--reason", "law"]).ok();
    }

    fn command(&self, world: &World) -> Command {
        world.command(["forget", "--keep-last", "1"])
    }

    fn holds(&self, world: &World, done: bool) {
        let [first, second] = &self.0.states;
        let there = world.snapshots();
        assert!(there.len() >= 2 && (there.len() == 2 || !done), "{there:?}");
        crate::support::Outcome::of(self.command(world)).ok();
        let after = world.snapshots();
        assert_eq!(after, [there[0].clone(), there[there.len() - 1].clone()], "the one that is held, and the newest");
        let held = world.run(["hold", "list", "--json"]).ok().json();
        assert_eq!(held["holds"][0]["snapshot"], after[0].as_str(), "{held}");
        self.1.set(self.1.get() + 1);
        world.run(["prune"]).ok();
        world.restores_as(&after[1], second);
        if done || full() || self.1.get().is_multiple_of(4) {
            world.restores_as(&after[0], first);
            // From the start of the one that is held on: a stop leaves a segment early, too.
            world.has_wal(&self.0.wal[2..]);
            world.run(world.backup_of(second)).ok();
        }
        world.is_sound();
    }
}

fn files_named(folder: &Path, name: &OsStr) -> Vec<PathBuf> {
    let below = disk::scan(folder).into_keys().filter(|path| path.file_name() == Some(name));
    below.map(|path| folder.join(path)).collect()
}

fn story(pg: &Postgres, make: impl for<'c> Fn(&'c Cluster) -> Box<dyn Story + 'c>, at_least: usize) {
    let cluster = Cluster::build(pg);
    interrupt(make(&cluster).as_ref(), at_least);
}

#[test]
fn init_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Init(cluster)), 15));
}

#[test]
fn backup_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Backup(cluster)), 30));
}

#[test]
fn archive_push_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Push(cluster)), 8));
}

#[test]
fn restore_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Restore(cluster, Cell::new(0))), 20));
}

#[test]
fn restore_in_place_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Delta::new(cluster)), 20));
}

#[test]
fn restore_elsewhere_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Elsewhere(cluster)), 20));
}

#[test]
fn prune_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Prune(cluster, Cell::new(0))), 8));
}

#[test]
fn prune_that_commits_again_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Recommit::new(cluster)), 8));
}

#[test]
fn forget_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Forget(cluster, Cell::new(0))), 8));
}

/// Could any of this fail? Without fsyncs a push that was acknowledged is lost.
#[test]
fn what_is_not_durable_is_noticed() {
    on(18, |pg| {
        let (cluster, world) = (Cluster::build(pg), World::new());
        one_snapshot(&world, &cluster);
        let mut disk = world.durable();
        let (outcome, steps) = world.under(world.push(&cluster.states[1], &cluster.wal[1]), None, "");
        outcome.ok();
        steps.iter().filter(|step| !matches!(step.op, Op::Fsync | Op::Syncfs)).for_each(|step| disk.apply(step));
        world.has_wal(&cluster.wal[..2]);
        for loss in [Loss::All, Loss::Bytes, Loss::Names] {
            world.set(&disk.after(loss));
            let lost = catch_unwind(AssertUnwindSafe(|| world.has_wal(&cluster.wal[1..2])));
            assert!(lost.is_err(), "{loss:?}");
            world.has_wal(&cluster.wal[..1]);
        }
        world.set(&disk.after(Loss::Nothing));
        world.has_wal(&cluster.wal[..2]);
    });
}
