//! Prunes against writers and kills: what was acknowledged restores, and nobody's run is wasted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{self, Load, Repository, Server, TestDir, copy_tree, full};
use crate::world::{forget, noise, prune, restores, small_cluster, snapshots};

/// Numbers that are the same in each run, unless `PGCAIRN_TEST_SEED` says otherwise.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let seed = std::env::var("PGCAIRN_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        println!("PGCAIRN_TEST_SEED={seed}");
        Dice(seed)
    }

    fn below(&mut self, n: u64) -> u64 {
        // splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

fn spawn(repository: &Repository, arguments: &[&str]) -> Child {
    let mut command = repository.host.command(repository.arguments(arguments));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn killed_after(mut child: Child, delay: Duration) -> Option<std::process::Output> {
    std::thread::sleep(delay);
    if child.try_wait().unwrap().is_none() {
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    }
    let output = child.wait_with_output().unwrap();
    output.status.code().is_some().then_some(output)
}

/// The moment of the kill is drawn; whatever it hits, what must hold afterwards holds. Forgets are killed as well, and most
/// prunes commit again.
#[test]
fn a_prune_that_is_killed_at_any_moment_is_finished_by_the_next() {
    support::on(18, |pg| {
        let (_folder, data) = small_cluster(pg);
        let repository = Repository::init();
        let mut dice = Dice::new();
        let mut kept: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let (mut killed, mut forgets, mut seed) = (0, 0, 0);
        let rounds = if full() { 1000 } else { 50 };
        for round in 0..rounds {
            seed += 1;
            let bytes = [noise(seed, 100_000), noise(seed / 3, 60_000)].concat();
            std::fs::write(data.join("noise"), &bytes).unwrap();
            let backup = repository.run(["backup", "--json", "--offline", "--pgdata", data.to_str().unwrap()]).ok().json();
            kept.insert(backup["id"].as_str().unwrap().to_owned(), bytes);
            while kept.len() > 2 {
                let id = kept.keys().nth(dice.below(kept.len() as u64 - 1) as usize).unwrap().clone();
                let delay = Duration::from_micros(dice.below(60_000));
                if killed_after(spawn(&repository, &["forget", &id]), delay).is_none() {
                    forgets += 1;
                    repository.run(["forget", &id]);
                }
                assert!(!snapshots(&repository).contains(&id), "{id} was forgotten, or is by the second forget");
                kept.remove(&id);
            }
            for _ in 0..2 {
                let delay = Duration::from_micros(dice.below(150_000));
                killed += u32::from(killed_after(spawn(&repository, &rewriting(&mut dice)), delay).is_none());
            }
            if dice.below(10) == 0 {
                finished(&repository);
                repository.run(["verify"]).ok();
            }
            if round % 100 == 99 {
                kept.iter().for_each(|(id, bytes)| restores(&repository, id, "main", bytes));
            }
        }
        finished(&repository);
        assert_eq!(snapshots(&repository).len(), kept.len());
        kept.iter().for_each(|(id, bytes)| restores(&repository, id, "main", bytes));
        let verified = repository.run(["verify", "--json", "--read-data"]).ok().json();
        assert_eq!(verified["ok"], true);
        println!("{rounds} rounds: {killed} prunes and {forgets} forgets killed");
        assert!(killed > 3, "the prunes were faster than their killer");
    });
}

/// What many killed ones have left can be more than one may copy by default; then a second has nothing to do.
fn finished(repository: &Repository) {
    repository.run(["prune", "--max-rewrite", "1000000000"]).ok();
    prune(repository);
}

/// A prune that copies as much as it likes, or by default.
fn rewriting(dice: &mut Dice) -> Vec<&'static str> {
    if dice.below(3) > 0 { vec!["prune", "--json", "--max-rewrite", "1000000000"] } else { vec!["prune", "--json"] }
}

/// Writers of one host with a data directory each, that have much in common, so that they adopt each other's packs.
struct Writer {
    cluster: String,
    data: PathBuf,
    bytes: Vec<u8>,
    running: Option<(Child, Option<Duration>)>,
}

#[test]
fn prunes_and_eight_writers_at_once_lose_nothing() {
    support::on(18, |pg| {
        let (folder, data) = small_cluster(pg);
        let repository = Repository::init();
        let mut dice = Dice::new();
        let mut writers: Vec<Writer> = (0..8)
            .map(|n| {
                let own = folder.join(format!("data{n}"));
                copy_tree(&data, &own);
                Writer { cluster: format!("c{n}"), data: own, bytes: Vec::new(), running: None }
            })
            .collect();
        // Snapshots that were acknowledged: their cluster and bytes.
        let mut kept: BTreeMap<String, (String, Vec<u8>)> = BTreeMap::new();
        // Snapshots of which forget said that they are gone.
        let mut gone: Vec<String> = Vec::new();
        let mut prunes: Vec<Child> = Vec::new();
        let (mut done, mut killed, mut pruned, mut prunes_killed, mut forgotten) = (0, 0, 0, 0, 0);
        let mut again: (u64, u64) = (0, 0);
        // Not killed: what it says of its re-commit is counted.
        let count = |output: &std::process::Output, again: &mut (u64, u64)| {
            succeeded("prune", output);
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            again.0 += answer["rewritten"]["snapshots"].as_u64().unwrap();
            again.1 += answer["rewritten"]["emptied"]["objects"].as_u64().unwrap();
        };
        let rounds = if full() { 2000 } else { 200 };
        for round in 0..rounds {
            // Two of them begin with other content, some of it old.
            for _ in 0..2 {
                let n = dice.below(8) as usize;
                let writer = &mut writers[n];
                if writer.running.is_none() {
                    writer.bytes = [noise(dice.below(6), 70_000), noise(1000 + dice.below(round + 3), 100_000)].concat();
                    std::fs::write(writer.data.join("noise"), &writer.bytes).unwrap();
                    let words = [
                        "backup",
                        "--json",
                        "--jobs",
                        "1",
                        "--cluster",
                        &writer.cluster,
                        "--offline",
                        "--pgdata",
                        writer.data.to_str().unwrap(),
                    ];
                    let kill_after = (dice.below(4) == 0).then(|| Duration::from_millis(dice.below(300)));
                    writer.running = Some((spawn(&repository, &words), kill_after));
                }
            }
            if prunes.len() < 2 {
                prunes.push(spawn(&repository, &rewriting(&mut dice)));
            }
            // By id, while the very snapshot may be committed again: one in eight is killed.
            while kept.len() > 12 || (!kept.is_empty() && dice.below(3) == 0) {
                let id = kept.keys().nth(dice.below(kept.len() as u64) as usize).unwrap().clone();
                let forget = spawn(&repository, &["forget", "--keep-min", "0", &id]);
                if dice.below(8) == 0 {
                    let _ = killed_after(forget, Duration::from_micros(dice.below(60_000)));
                } else {
                    let output = forget.wait_with_output().unwrap();
                    // 3: another entry came between, and it was spared.
                    assert!(matches!(output.status.code(), Some(0 | 3)), "forget: {}", String::from_utf8_lossy(&output.stderr));
                    gone.extend((output.status.code() == Some(0)).then(|| id.clone()));
                    forgotten += 1;
                }
                kept.remove(&id);
            }
            for writer in &mut writers {
                let Some((mut child, kill_after)) = writer.running.take() else { continue };
                if let Some(delay) = kill_after {
                    match killed_after(child, delay) {
                        None => killed += 1,
                        Some(output) => taken(&output, writer, &mut kept),
                    }
                } else if child.try_wait().unwrap().is_some() || dice.below(3) == 0 {
                    taken(&child.wait_with_output().unwrap(), writer, &mut kept);
                    done += 1;
                } else {
                    writer.running = Some((child, None));
                }
            }
            for mut prune in std::mem::take(&mut prunes) {
                if dice.below(8) == 0 {
                    let _ = kill(Pid::from_raw(prune.id() as i32), Signal::SIGKILL);
                    prune.wait().unwrap();
                    prunes_killed += 1;
                } else if prune.try_wait().unwrap().is_some() || dice.below(2) == 0 {
                    count(&prune.wait_with_output().unwrap(), &mut again);
                    pruned += 1;
                } else {
                    prunes.push(prune);
                }
            }
        }
        for writer in &mut writers {
            if let Some((child, _)) = writer.running.take() {
                taken(&child.wait_with_output().unwrap(), writer, &mut kept);
            }
        }
        prunes.into_iter().for_each(|child| count(&child.wait_with_output().unwrap(), &mut again));
        println!(
            "{rounds} rounds: {done} backups and {killed} killed; {pruned} prunes and {prunes_killed} killed, {} snapshots committed again out of {} emptied packs; {forgotten} forgotten, {} kept",
            again.0,
            again.1,
            kept.len()
        );
        finished(&repository);
        let verified = repository.run(["verify", "--json", "--read-data"]).ok().json();
        assert_eq!(verified["ok"], true, "{verified}");
        let there = snapshots(&repository);
        assert!(kept.keys().all(|id| there.contains(id)));
        let back: Vec<_> = gone.iter().filter(|id| there.contains(id)).collect();
        assert!(back.is_empty() && !gone.is_empty(), "forgotten, and there: {back:?}");
        kept.iter().for_each(|(id, (cluster, bytes))| restores(&repository, id, cluster, bytes));
        // All is forgotten but what a kill hid the answer of.
        for id in &there {
            forget(&repository, id, false);
        }
        prune(&repository);
        assert_eq!(crate::world::packs(&repository), 0);
        let target = TestDir::new();
        repository.try_restore(&target.join("data"), &[]).1.code(4);
    });
}

fn succeeded(what: &str, output: &std::process::Output) {
    assert!(output.status.success(), "{what}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// A backup that nobody killed must have succeeded.
fn taken(output: &std::process::Output, writer: &Writer, kept: &mut BTreeMap<String, (String, Vec<u8>)>) {
    succeeded("backup", output);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    kept.insert(answer["id"].as_str().unwrap().to_owned(), (writer.cluster.clone(), writer.bytes.clone()));
}

/// Backups and pushes of a server at work, while prunes go on: what is kept reaches the end.
#[test]
fn a_server_at_work_is_backed_up_and_pruned_at_once() {
    support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        server.pgbench_init(1);
        let mut taken: Vec<String> = Vec::new();
        let load = Load::start(&server, &["-c", "2", "--rate=200"]);
        for round in 0..if full() { 30 } else { 5 } {
            let prunes: Vec<Child> = (0..2).map(|_| spawn(&repository, &["prune"])).collect();
            // What goes while it is looked at is no damage.
            let verify = spawn(&repository, &["verify", "--read-data"]);
            let backup = repository.backup(&server, &[]);
            succeeded("verify", &verify.wait_with_output().unwrap());
            taken.push(backup["id"].as_str().unwrap().to_owned());
            prunes.into_iter().for_each(|child| succeeded("prune", &child.wait_with_output().unwrap()));
            if taken.len() > 2 {
                // Of the older one all goes, or all but its window.
                forget(&repository, &taken[taken.len() - 3], round % 2 == 0);
            }
        }
        drop(load);
        let sums = server.pgbench_sums();
        let last = server.switch_wal();
        server.await_archived(&last);
        prune(&repository);
        repository.run(["verify"]).ok();
        let status = repository.run(["archive", "status", "--json"]).ok().json();
        assert_eq!(status["waiting"].as_array().unwrap().len(), 0, "{status}");
        let kept = snapshots(&repository);
        assert!(kept.len() < taken.len() && kept.contains(&taken[taken.len() - 1]));
        for id in &kept {
            let target = TestDir::new();
            let to = target.join("data");
            // The newest two reach the end, the others themselves.
            let to_the_end = taken[taken.len() - 2..].contains(id);
            let how: &[&str] = if to_the_end { &[id] } else { &[id, "--target-immediate", "--target-action", "promote"] };
            let (host, _) = repository.restore(&to, how);
            support::verify_backup(pg, &to);
            let mut restored = Server::build(pg).host(&host).over(&to);
            restored.start();
            support::wait_until("the end of recovery", || restored.sql("postgres", "select pg_is_in_recovery()") == "f");
            if to_the_end {
                assert_eq!(restored.pgbench_sums(), sums);
            }
        }
    });
}
