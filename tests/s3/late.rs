//! What comes late: requests that a network has kept, signals, and objects that come back.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::s3::proxy::{Fault, Operation};
use crate::support::s3::{on, ordinary};
use crate::support::wait_until;
use crate::world::{Cluster, World, digest, noise};

/// A PUT that the network has kept arrives after a prune has deleted the object: it must not be taken for live, and the next
/// prune finds it.
#[test]
fn what_comes_back_after_a_prune_is_pruned_again() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 3);
        let world = World::new(&service, "60s");
        let data = world.data(&cluster, "data");
        let back_up = |seed| {
            std::fs::write(data.join("noise"), noise(seed, 900_000)).unwrap();
            world.backup(&data).ok().json()["id"].as_str().unwrap().to_owned()
        };
        let prune = || (0..3).for_each(|_| drop(world.run(&["prune", "--max-rewrite", "1000000000"]).ok()));
        let first = back_up(1);
        let all = world.bucket.list("pg/");
        let objects: Vec<(String, Vec<u8>)> = all.into_iter().map(|key| (key.clone(), world.bucket.get(&key).unwrap())).collect();
        let second = back_up(2);
        let wanted = digest(&data);
        world.run(&["forget", "--keep-min", "0", &first]).ok();
        prune();
        let left = world.bucket.list("pg/");
        let gone: Vec<_> = objects.into_iter().filter(|(key, _)| !left.contains(key)).collect();
        assert!(gone.iter().any(|(key, _)| key.contains("/pack/")), "{left:?}");

        gone.iter().for_each(|(key, bytes)| drop(world.bucket.put(key, bytes.clone())));
        world.is_whole();
        // The same content again: it is stored anew, not found in what came back.
        let third = back_up(1);
        let again = digest(&data);
        prune();
        let left = world.bucket.list("pg/");
        for (key, _) in &gone {
            assert!(!left.contains(key), "{key} came back and stays");
        }
        world.restores(&second, &wanted);
        world.restores(&third, &again);
        world.is_whole();
    });
}

/// What a trial of the store has left, as a run was killed in it or a request came late, is nobody's business.
#[test]
fn what_a_trial_left_is_in_nobody_s_way() {
    ordinary(|s3| {
        let service = s3.seaweed();
        let world = World::before_init(&service, "60s");
        world.bucket.put("pg/tmp/probe-00112233445566778899aabbccddeeff", "x");
        world.init().ok();
        let verified = world.run(&["verify"]).ok();
        assert!(!verified.stderr.contains("probe"), "{}", verified.report());
    });
}

/// The answer to a create is lost, and then another process does the same: both see one object.
#[test]
fn a_push_whose_answer_was_lost_is_done_once() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 2);
        let world = World::new(&service, "2s");
        let data = world.data(&cluster, "data");
        world.backup(&data).ok();
        // It is stored, and every answer says otherwise: the push must not claim that it is done, nor another that it can't be.
        world.proxy.plan(|seen| match seen.operation {
            Operation::Create if seen.key.contains("/wal/") => Fault::ErrorAfter(500, "InternalError"),
            _ => Fault::None,
        });
        world.push(&data, &cluster.wal[0]).code(1);
        world.proxy.calm();
        let (outcome, bytes) = world.get(cluster.name(0));
        outcome.ok();
        assert!(bytes == std::fs::read(&cluster.wal[0]).ok());
        let stored = world.bucket.list("pg/wal/");
        world.push(&data, &cluster.wal[0]).ok();
        assert_eq!(world.bucket.list("pg/wal/"), stored);
        // Other bytes under this name are still refused.
        let other = world.folder.join(cluster.name(0));
        std::fs::copy(&cluster.wal[1], &other).unwrap();
        world.push(&data, &other).code(1);
        world.is_whole();
    });
}

/// No answer to a COMMIT ever comes: it was stored, and the backup finds that out, or it was not, and there is no snapshot.
#[test]
fn a_commit_without_an_answer_is_a_whole_snapshot_or_none() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        let world = World::new(&service, "2s");
        let data = world.data(&cluster, "data");
        let first = world.backup(&data).ok().json()["id"].as_str().unwrap().to_owned();
        for done in [true, false] {
            std::fs::write(data.join("noise"), noise(5 + u64::from(done), 80_000)).unwrap();
            let wanted = digest(&data);
            let begin = std::sync::OnceLock::new();
            world.proxy.plan(move |seen| match seen.operation {
                // The first is BEGIN.
                Operation::Create if seen.key.contains("/log/") && begin.get_or_init(|| seen.key.clone()) != &seen.key => {
                    if done {
                        Fault::ErrorAfter(500, "InternalError")
                    } else {
                        Fault::Error(500, "InternalError")
                    }
                }
                _ => Fault::None,
            });
            let outcome = world.backup(&data);
            world.proxy.calm();
            let listed = world.snapshots();
            if done {
                // It is settled by reading the log.
                assert_eq!(outcome.ok().json()["id"], *listed[1]);
                world.restores(&listed[1], &wanted);
            } else {
                assert_eq!(outcome.code(1).json()["error"]["class"], "unreachable");
                assert_eq!(listed.len(), 1, "{listed:?}");
            }
            // The next one goes on, whatever became of it.
            let next = world.backup(&data).ok().json()["id"].as_str().unwrap().to_owned();
            world.restores(&next, &wanted);
            world.run(&["forget", "--keep-min", "0", &next]).ok();
            for id in listed.iter().filter(|id| **id != first) {
                world.run(&["forget", "--keep-min", "0", id]).ok();
            }
            world.run(&["prune"]).ok();
            world.is_whole();
        }
    });
}

/// AWS answers 409 to creates that meet, time and again where many do.
#[test]
fn a_storm_of_conflicts_passes() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        let world = World::new(&service, "120s");
        let data = world.data(&cluster, "data");
        world.proxy.plan(|seen| match seen.operation {
            Operation::Create if seen.nth < 4 => Fault::Error(409, "ConditionalRequestConflict"),
            _ => Fault::None,
        });
        world.backup(&data).ok();
        world.push(&data, &cluster.wal[0]).ok();
        world.proxy.calm();
        world.is_whole();
    });
}

/// Bytes that are flipped on the way back are read again: ours don't become another's, and nothing is called damaged that isn't.
#[test]
fn a_flipped_bit_of_what_is_compared_is_read_again() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        let world = World::new(&service, "20s");
        let data = world.data(&cluster, "data");
        world.backup(&data).ok();
        // The object is created and the answer lost; what is read back to compare has a wrong bit the first time.
        world.proxy.plan(|seen| match seen.operation {
            Operation::Create if seen.key.contains("/wal/") && seen.nth == 0 => Fault::ResetAfterRequest,
            Operation::Get if seen.key.contains("/wal/") && seen.nth == 0 => Fault::FlipAnswer(3000),
            _ => Fault::None,
        });
        world.push(&data, &cluster.wal[0]).ok();
        let flipped = world.proxy.records().iter().filter(|r| matches!(r.fault, Fault::FlipAnswer(_))).count();
        assert!(flipped > 0, "nothing was read back");
        world.proxy.calm();
        let (outcome, bytes) = world.get(cluster.name(0));
        outcome.ok();
        assert!(bytes == std::fs::read(&cluster.wal[0]).ok());
        assert_eq!(world.bucket.list("pg/wal/").len(), 1);
    });
}

/// A signal ends a command that waits for an answer or for its next attempt.
#[test]
fn a_signal_ends_what_waits() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        let world = World::new(&service, "600s");
        let data = world.data(&cluster, "data");
        world.backup(&data).ok();
        for (fault, signal) in [(Fault::Hang, Signal::SIGTERM), (Fault::Error(503, "SlowDown"), Signal::SIGINT)] {
            world.proxy.forget();
            let met = fault.clone();
            world.proxy.plan(move |seen| if seen.operation == Operation::Create && seen.nth == 0 { met.clone() } else { Fault::None });
            let stuck = fault.clone();
            if signal == Signal::SIGINT {
                world.proxy.plan(move |seen| if seen.operation == Operation::Create { stuck.clone() } else { Fault::None });
            }
            std::fs::write(data.join("noise"), noise(9, 90_000)).unwrap();
            let mut command = world.command(&["backup", "--offline", "--pgdata", data.to_str().unwrap()]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            wait_until("the fault", || world.proxy.records().iter().any(|r| r.fault == fault));
            kill(Pid::from_raw(child.id() as i32), signal).unwrap();
            let signalled = Instant::now();
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            let status = child.wait().unwrap();
            // Half a minute would be the end of the attempt.
            assert!(signalled.elapsed() < Duration::from_secs(20), "{fault:?}: {:?}", signalled.elapsed());
            assert!(!status.success() && said.contains("interrupted"), "{fault:?}: {status}\n{said}");
            world.proxy.calm();
        }
        // The next one goes on.
        world.backup(&data).ok();
        world.run(&["prune"]).ok();
        world.is_whole();
    });
}

/// A backup whose packs are never stored, up to where one waits.
fn waiting_backup(world: &World, data: &std::path::Path, seed: u64) -> Child {
    std::fs::write(data.join("noise"), noise(seed, 90_000)).unwrap();
    world.proxy.forget();
    world.proxy.plan(|seen| if seen.operation == Operation::Create && seen.key.contains("/pack/") { Fault::Hang } else { Fault::None });
    let mut command = world.command(&["backup", "--offline", "--pgdata", data.to_str().unwrap()]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("a pack", || world.proxy.records().iter().any(|r| r.fault == Fault::Hang));
    child
}

/// After a signal the log says that the session has ended, as it does on a disk; if the service lets it, and else it ends, too.
#[test]
fn a_signal_during_a_backup_is_told_to_the_log() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        let world = World::new(&service, "600s");
        let data = world.data(&cluster, "data");
        world.backup(&data).ok();
        let end = |mut child: Child| {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            (child.wait().unwrap(), said)
        };
        let signal = |child: &Child, signal| kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let died = |seed| {
            world.proxy.calm();
            std::fs::write(data.join("noise"), noise(seed, 90_000)).unwrap();
            world.backup(&data).ok().stderr.contains("ended session")
        };
        for (seed, which) in [(20, Signal::SIGTERM), (21, Signal::SIGINT)] {
            let child = waiting_backup(&world, &data, seed);
            let entries = world.bucket.list("pg/log/").len();
            signal(&child, which);
            let (status, said) = end(child);
            assert!(!status.success() && said.contains("interrupted"), "{status}\n{said}");
            assert_eq!(world.bucket.list("pg/log/").len(), entries + 1, "ABORT alone");
            assert!(!died(seed + 10), "the next one found it open");
        }

        // Nothing is answered any more.
        for twice in [false, true] {
            let child = waiting_backup(&world, &data, 40 + u64::from(twice));
            world.proxy.plan(|_| Fault::Hang);
            world.proxy.forget();
            let signalled = Instant::now();
            signal(&child, Signal::SIGTERM);
            if twice {
                wait_until("the end of the session", || !world.proxy.records().is_empty());
                signal(&child, Signal::SIGTERM);
            }
            let (status, said) = end(child);
            assert_eq!(status.signal(), twice.then_some(Signal::SIGTERM as i32), "{status}\n{said}");
            // Some seconds; without a bound it were ten minutes.
            assert!(signalled.elapsed() < Duration::from_secs(60), "{:?}", signalled.elapsed());
            assert!(died(50 + u64::from(twice)), "the next one ends it");
        }
        world.run(&["prune"]).ok();
        world.is_whole();
    });
}

/// A large object over a slow line is no failure; one that is never answered is noticed as soon as a small one.
#[test]
fn an_upload_is_given_up_when_it_stalls_and_not_when_it_is_slow() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        // An answer is waited for 5 s, and what is sent may stand still for 10.
        let world = World::new(&service, "1s");
        let data = world.data(&cluster, "data");
        let back_up = |seed, fault: Fault| {
            std::fs::write(data.join("noise"), noise(seed, 24 << 20)).unwrap();
            world.proxy.forget();
            let met = fault.clone();
            let pack = |key: &str| key.contains("/pack/");
            world.proxy.plan(move |seen| if seen.operation == Operation::Create && pack(&seen.key) { met.clone() } else { Fault::None });
            let began = Instant::now();
            let outcome = world.backup(&data);
            let took = began.elapsed();
            world.proxy.calm();
            let largest = world.proxy.records().into_iter().filter(|r| r.fault == fault).filter_map(|r| r.seen.length).max();
            assert!(largest > Some(16 << 20), "{largest:?}");
            (outcome, took)
        };
        let (slow, took) = back_up(1, Fault::Slowly(Duration::from_millis(100)));
        slow.ok();
        assert!(took > Duration::from_secs(15), "it was not slow: {took:?}");
        let put = world.proxy.records().into_iter().filter(|r| r.seen.key.contains("/pack/") && r.seen.operation == Operation::Create);
        assert!(put.clone().all(|r| r.seen.nth == 0), "none was sent again");
        let (stuck, took) = back_up(2, Fault::Hang);
        assert_eq!(stuck.code(1).json()["error"]["class"], "unreachable");
        // Three minutes, going by its length.
        assert!(took < Duration::from_secs(60), "{took:?}");
        world.backup(&data).ok();
        world.is_whole();
    });
}
