//! Eight writers on two hosts, a maintainer that prunes and commits again, kills at random moments, and a network with faults:
//! what was acknowledged restores, and nobody's run fails because a pack was swept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::s3::on;
use crate::support::s3::proxy::{Fault, seeded};
use crate::support::{Host, TestDir, full};
use crate::world::{Cluster, Dice, World, first_seed, noise};

/// The host that made the repository; the other one has no right to prune.
const MAINTAINER: usize = 0;

/// A writer of a cluster of its own; it has much in common with the others, so that packs are adopted.
struct Writer {
    cluster: String,
    data: PathBuf,
    bytes: Vec<u8>,
    running: Option<Child>,
}

struct Crowd {
    world: World,
    other: Host,
    /// Snapshots that were acknowledged: their cluster and bytes.
    kept: BTreeMap<String, (String, Vec<u8>)>,
    /// Snapshots of which forget said that they are gone.
    gone: Vec<String>,
    told: Told,
}

#[derive(Debug, Default)]
struct Told {
    backups: u64,
    killed: u64,
    prunes: u64,
    prunes_killed: u64,
    committed_again: u64,
    forgotten: u64,
}

impl Crowd {
    fn spawn(&self, host: usize, arguments: &[&str]) -> Child {
        let host = if host == MAINTAINER { &self.world.repository.host } else { &self.other };
        let mut command = host.command(self.world.repository.arguments(arguments));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A backup that nobody killed must have succeeded.
    #[track_caller]
    fn taken(&mut self, output: &Output, writer: &Writer) {
        let answer = answer("backup", output);
        self.told.backups += 1;
        self.kept.insert(answer["id"].as_str().unwrap().to_owned(), (writer.cluster.clone(), writer.bytes.clone()));
    }

    #[track_caller]
    fn pruned(&mut self, output: &Output) {
        self.told.committed_again += answer("prune", output)["rewritten"]["snapshots"].as_u64().unwrap();
        self.told.prunes += 1;
    }

    /// By id, while the very snapshot may be committed again.
    fn forget(&mut self, dice: &mut Dice) {
        let id = self.kept.keys().nth(dice.below(self.kept.len() as u64) as usize).unwrap().clone();
        let forget = self.spawn(0, &["forget", "--keep-min", "0", &id]);
        if dice.below(8) == 0 {
            let _ = killed_after(forget, Duration::from_millis(dice.below(200)));
        } else {
            let output = forget.wait_with_output().unwrap();
            // 3: another entry came between, and it was spared.
            assert!(matches!(output.status.code(), Some(0 | 3)), "forget: {}", String::from_utf8_lossy(&output.stderr));
            self.gone.extend((output.status.code() == Some(0)).then(|| id.clone()));
            self.told.forgotten += 1;
        }
        self.kept.remove(&id);
    }

    #[track_caller]
    fn restores(&self, id: &str, cluster: &str, bytes: &[u8]) {
        let target = TestDir::new();
        let to = target.join("data");
        let (_, outcome) = self.world.repository.try_restore(&to, &[id, "--cluster", cluster, "--no-recovery"]);
        outcome.ok();
        assert!(std::fs::read(to.join("noise")).unwrap() == bytes, "snapshot {id} came back otherwise");
    }
}

#[track_caller]
fn answer(what: &str, output: &Output) -> serde_json::Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Its output, if it was faster than the kill.
fn killed_after(mut child: Child, delay: Duration) -> Option<Output> {
    let until = Instant::now() + delay;
    while Instant::now() < until && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    if child.try_wait().unwrap().is_none() {
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    }
    let output = child.wait_with_output().unwrap();
    output.status.code().is_some().then_some(output)
}

/// Few faults, and none that may make a command fail: flipped bytes may pass for damage.
fn honest(seed: u64, world: &World) {
    world.proxy.plan(move |seen| match seeded(seed, 15, seen) {
        Fault::FlipAnswer(_) => Fault::None,
        other => other,
    });
}

#[test]
fn a_crowd_of_writers_and_a_pruning_maintainer_lose_nothing() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        let world = World::new(&service, "120s");
        let other = world.repository.host.another();
        let mut crowd = Crowd { world, other, kept: BTreeMap::new(), gone: Vec::new(), told: Told::default() };
        let seed = first_seed();
        let mut dice = Dice(seed);
        let mut writers: Vec<Writer> = (0..8)
            .map(|n| {
                let data = crowd.world.data(&cluster, &format!("data{n}"));
                Writer { cluster: format!("c{n}"), data, bytes: Vec::new(), running: None }
            })
            .collect();
        // The other host is enrolled by its first command that writes.
        let (key, data) = (crowd.world.repository.key_file(), writers[1].data.clone());
        let words =
            ["--key-file", key.to_str().unwrap(), "--cluster", "c1", "backup", "--json", "--offline", "--pgdata", data.to_str().unwrap()];
        let began = Instant::now();
        answer("backup", &crowd.spawn(1, &words).wait_with_output().unwrap());
        let usual = u64::try_from(began.elapsed().as_millis()).unwrap();
        honest(seed, &crowd.world);
        let began = Instant::now();
        let mut prunes: Vec<Child> = Vec::new();
        let rounds = if full() { 400 } else { 16 };
        for round in 0..rounds {
            for _ in 0..3 {
                let n = dice.below(8) as usize;
                let writer = &mut writers[n];
                if writer.running.is_none() {
                    writer.bytes = [noise(dice.below(6), 70_000), noise(1000 + dice.below(round + 3), 100_000)].concat();
                    std::fs::write(writer.data.join("noise"), &writer.bytes).unwrap();
                    let (data, cluster) = (writer.data.to_str().unwrap(), writer.cluster.as_str());
                    let words = ["--jobs", "1", "--cluster", cluster, "backup", "--json", "--offline", "--pgdata", data];
                    // What dies elsewhere counts as alive for an hour, and nothing would be swept meanwhile.
                    let may_die = n % 2 == MAINTAINER && dice.below(3) == 0;
                    let child = crowd.spawn(n % 2, &words);
                    if !may_die {
                        writer.running = Some(child);
                        continue;
                    }
                    // Somewhere in it, however fast this machine is; the others go on meanwhile.
                    match killed_after(child, Duration::from_millis(dice.below(usual))) {
                        None => crowd.told.killed += 1,
                        Some(output) => crowd.taken(&output, writer),
                    }
                }
            }
            if prunes.is_empty() {
                prunes.push(crowd.spawn(0, &["prune", "--json", "--max-rewrite", "1000000000"]));
            }
            while crowd.kept.len() > 6 || (!crowd.kept.is_empty() && dice.below(4) == 0) {
                crowd.forget(&mut dice);
            }
            for writer in &mut writers {
                let Some(mut child) = writer.running.take() else { continue };
                if child.try_wait().unwrap().is_some() || dice.below(3) == 0 {
                    crowd.taken(&child.wait_with_output().unwrap(), writer);
                } else {
                    writer.running = Some(child);
                }
            }
            for prune in std::mem::take(&mut prunes) {
                match dice.below(6) {
                    0 => match killed_after(prune, Duration::from_millis(dice.below(500))) {
                        None => crowd.told.prunes_killed += 1,
                        Some(output) => crowd.pruned(&output),
                    },
                    1..=2 => crowd.pruned(&prune.wait_with_output().unwrap()),
                    _ => prunes.push(prune),
                }
            }
        }
        for writer in &mut writers {
            if let Some(child) = writer.running.take() {
                crowd.taken(&child.wait_with_output().unwrap(), writer);
            }
        }
        prunes.into_iter().for_each(|prune| crowd.pruned(&prune.wait_with_output().unwrap()));
        let counts = crowd.world.proxy.counts();
        println!("{rounds} rounds in {:?}: {:?}; {} requests, {} faults", began.elapsed(), crowd.told, counts.total(), counts.faults);
        crowd.world.proxy.calm();

        let there = crowd.world.snapshots();
        assert!(crowd.kept.keys().all(|id| there.contains(id)), "{:?} of {there:?}", crowd.kept.keys());
        let back: Vec<_> = crowd.gone.iter().filter(|id| there.contains(id)).collect();
        assert!(back.is_empty() && !crowd.gone.is_empty(), "forgotten, and there: {back:?}");
        crowd.world.is_whole();
        // Then nothing is left that no snapshot needs.
        (0..2).for_each(|_| drop(crowd.world.run(&["prune"]).ok()));
        let again = crowd.world.run(&["prune", "--json"]).ok().json();
        assert_eq!((&again["freed"], &again["sessions"]["waiting_for"]), (&0.into(), &serde_json::json!([])), "{again}");
        crowd.kept.iter().for_each(|(id, (cluster, bytes))| crowd.restores(id, cluster, bytes));
        assert!(counts.faults > 0 && crowd.told.killed > 0);
    });
}
