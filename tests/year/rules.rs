//! Attempts to break the rules of forgetting: what must not go doesn't, whoever tries.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgcairn::host::access;
use pgcairn::repo::log::{Abort, Begin, Kind};

use crate::clock;
use crate::cluster::Cluster;
use crate::mixed;
use crate::support::{Host, Outcome, Repository, TestDir, ordinary};

/// A small cluster, and what was backed up: ids, the oldest first, with what each holds.
struct World {
    repository: Repository,
    cluster: Cluster,
    taken: Vec<(String, std::collections::BTreeMap<PathBuf, blake3::Hash>)>,
    _folder: TestDir,
}

impl World {
    /// With a backup on each of so many days.
    fn new(days: u32) -> World {
        let folder = TestDir::new();
        let cluster = Cluster::new(folder.path(), 2);
        let mut world = World { repository: Repository::init(), cluster, taken: Vec::new(), _folder: folder };
        (0..days).for_each(|day| world.back_up(day));
        world
    }

    fn try_at(&self, host: &Host, now: i64, arguments: &[&str]) -> Outcome {
        let mut command: Command = host.command(self.repository.arguments(arguments));
        clock::set(&mut command, now);
        Outcome::of(command)
    }

    fn at(&self, day: u32, arguments: &[&str]) -> Outcome {
        self.try_at(&self.repository.host, clock::at(day, 10_000), arguments)
    }

    fn back_up(&mut self, day: u32) {
        self.cluster.work(clock::at(day, 0));
        let data = self.cluster.data();
        let made = self.at(day, &["backup", "--json", "--offline", "--pgdata", data.to_str().unwrap()]).ok().json();
        self.taken.push((made["id"].as_str().unwrap().to_owned(), self.cluster.hashes()));
    }

    /// Which of the backups are there, by their numbers.
    fn there(&self, day: u32) -> Vec<usize> {
        let listed = self.at(day, &["list", "--json"]).ok().json();
        let ids: Vec<&str> = listed["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
        (0..self.taken.len()).filter(|n| ids.contains(&self.taken[*n].0.as_str())).collect()
    }

    fn restores(&self, n: usize) {
        let (target, key) = (TestDir::new(), self.repository.key_file());
        let (id, files) = &self.taken[n];
        let to = target.join("data");
        let arguments = ["--key-file", key.to_str().unwrap(), "restore", id, "--no-recovery", "--to", to.to_str().unwrap()];
        self.try_at(&Host::new(), clock::at(300, 0), &arguments).ok();
        for (path, hash) in files.iter().filter(|(path, _)| *path != Path::new("postgresql.conf")) {
            assert!(blake3::hash(&std::fs::read(to.join(path)).unwrap()) == *hash, "{} of {id} came back otherwise", path.display());
        }
    }

    /// The packs by when they were stored, the newest last.
    fn packs(&self) -> Vec<PathBuf> {
        let (opened, _) = mixed::opened(self.repository.path(), self.repository.host.home());
        let view = opened.view();
        let mut sessions: Vec<_> = view.fold.sessions.iter().collect();
        sessions.sort_by_key(|(_, s)| s.begin);
        let folders = sessions.into_iter().map(|(id, _)| self.repository.path().join(format!("pack/{id}")));
        let files = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
        folders.flat_map(files).collect()
    }
}

/// Newer ones rely on a pack that has rotted: none of them pushes out the last good one, by no policy and not by its id.
#[test]
fn the_only_good_snapshot_outlives_newer_ones_that_are_damaged() {
    ordinary(|| {
        let mut world = World::new(2);
        world.back_up(2);
        let rotten = world.packs().pop().unwrap();
        let mut bytes = std::fs::read(&rotten).unwrap();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 1;
        std::fs::write(&rotten, bytes).unwrap();
        world.at(3, &["verify", "--read-data"]).code(1);
        for policy in [["--keep-last", "1"], ["--keep-daily", "1"], ["--keep-within", "1h"]] {
            world.at(3, &["forget", policy[0], policy[1]]).ok();
            let there = world.there(3);
            assert!(there.contains(&1), "{policy:?}: {there:?}");
            world.at(3, &["prune"]);
            world.restores(1);
        }
        let id = world.taken[1].0.clone();
        world.at(3, &["forget", &id]).code(1).says("keep-min");
        world.at(3, &["forget", &id, "--keep-min", "0"]).code(1).says("found good");
        assert!(world.there(3).contains(&1));
        world.restores(1);
    });
}

/// A second host with every right floods the cluster with snapshots: in an hour; with a clock that runs through the days to
/// come; with one that lies in the past.
#[test]
fn a_burst_of_junk_pushes_out_nothing() {
    ordinary(|| {
        let world = World::new(4);
        let (host, junk, key) = (Host::new(), TestDir::new(), world.repository.key_file());
        // Of the same cluster by its name and identifier, and full of rubbish.
        let mut other = Cluster::new(junk.path(), 1);
        other.segment = world.cluster.segment + 10;
        other.work(clock::at(3, 0));
        let data = other.data();
        let flood = |now: i64| {
            let arguments = ["--key-file", key.to_str().unwrap(), "backup", "--offline", "--pgdata", data.to_str().unwrap()];
            world.try_at(&host, now, &arguments).ok();
        };
        for n in 0..6 {
            flood(clock::at(3, 20_000 + 60 * n));
            flood(clock::at(10 + n as u32, 0));
            flood(clock::at(0, 100 * n - 86_400 * n));
        }
        for policy in [["--keep-last", "3"], ["--keep-daily", "3"], ["--keep-hourly", "3"]] {
            world.try_at(&world.repository.host, clock::at(3, 30_000), &["forget", policy[0], policy[1]]).ok();
            assert!(world.there(3).ends_with(&[1, 2, 3]), "{policy:?}: {:?}", world.there(3));
        }
        world.at(3, &["prune"]).ok();
        [1, 2, 3].into_iter().for_each(|n| world.restores(n));
    });
}

/// What is held stays, whatever policy comes, by whatever name it is called, and however often it is pruned.
#[test]
fn a_hold_outlasts_all_policies() {
    ordinary(|| {
        let mut world = World::new(2);
        let id = world.taken[0].0.clone();
        world.at(1, &["hold", "add", &id, "--reason", "lawsuit"]).ok();
        let policies: [&[&str]; 6] = [
            &["--keep-last", "1"],
            &["--keep-daily", "1", "--keep-weekly", "0"],
            &["--keep-within", "1h"],
            &["--keep-label", "no=such"],
            &["--keep-last", "1", "--pitr-window", "1d"],
            &["--keep-last", "1", "--keep-min", "0"],
        ];
        for (policy, day) in policies.into_iter().zip(2..) {
            world.back_up(day);
            world.at(day, &[&["forget"], policy].concat()).ok();
            world.at(day, &["prune", "--max-rewrite", "1000000000"]).ok();
            assert_eq!(world.there(day)[0], 0, "{policy:?}");
        }
        for min in ["0", "1"] {
            world.at(9, &["forget", &id, "--keep-min", min]).code(1).says("is held: lawsuit");
        }
        world.restores(0);
        world.at(9, &["hold", "remove", &id]).ok();
        world.at(9, &["forget", "--keep-last", "1"]).ok();
        assert!(!world.there(9).contains(&0));
    });
}

/// A session is open on a machine that nobody here can look at: what it may still name stays until it has ended.
#[test]
fn a_prune_waits_for_another_machine() {
    ordinary(|| {
        let world = World::new(3);
        let (opened, _) = mixed::opened(world.repository.path(), world.repository.host.home());
        let begin = Begin { purpose: "trial".into(), machine: "another".into(), ..Begin::default() };
        let session = access::append(&opened, &Kind::Begin(begin)).unwrap().session();
        let before = world.packs();
        world.at(3, &["forget", "--keep-last", "1"]).ok();
        for _ in 0..3 {
            let pruned = world.at(3, &["prune", "--json", "--max-rewrite", "0"]).ok().json();
            assert_eq!(pruned["packs"]["deleted"]["objects"], 0, "{pruned}");
            assert_eq!(pruned["sessions"]["waiting_for"][0]["machine"], "another", "{pruned}");
            assert!(pruned["packs"]["waiting"]["objects"].as_u64() > Some(0), "{pruned}");
        }
        assert_eq!(world.packs(), before);
        opened.refresh().unwrap();
        access::append(&opened, &Kind::Abort(Abort { session })).unwrap();
        let pruned = world.at(3, &["prune", "--json", "--max-rewrite", "0"]).ok().json();
        assert!(pruned["packs"]["deleted"]["objects"].as_u64() > Some(0), "{pruned}");
        world.restores(2);
    });
}
