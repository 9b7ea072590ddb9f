//! A restore that began before its snapshot was committed again, or forgotten.

use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::story::Story;
use crate::support::{Host, TestDir, ordinary, wait_until};
use crate::world::tree;

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// A restore, stopped (SIGSTOP) once it has announced itself and before it has ended; none if it was too fast.
fn stopped_restore(story: &Story, id: &str, to: &Path) -> Option<Child> {
    let next = story.world.repository().join(format!("log/{}", story.head().number + 1));
    let mut command = story.world.host.command(["--repo", story.world.repository().to_str().unwrap(), "--jobs", "1"]);
    command.args(["restore", id, "--no-recovery", "--to", to.to_str().unwrap()]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // No condition can be awaited any closer: it must be hit between its BEGIN and its end.
    while !next.exists() {
        std::thread::yield_now();
    }
    signal(&child, Signal::SIGSTOP);
    let state = format!("/proc/{}/stat", child.id());
    wait_until("the restore to stop", || std::fs::read_to_string(&state).is_ok_and(|s| s.contains(") T ") || s.contains(") Z ")));
    if to.join("global/pg_control").exists() || std::fs::read_to_string(&state).is_ok_and(|s| s.contains(") Z ")) {
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGCONT);
        assert!(child.wait_with_output().unwrap().status.success());
        return None;
    }
    Some(child)
}

/// While it stands still its snapshot is committed again, the old COMMIT forgotten, and pruned twice; then the snapshot is
/// forgotten altogether, and pruned once more.
#[test]
fn a_restore_that_began_before_goes_on() {
    ordinary(|| {
        let story = Story::new();
        let (id, expected) = story.world.snapshots[0].clone();
        let (old, before) = (story.packs_of_session(0)[0], story.digests());
        let (target, child) = (0..20)
            .find_map(|_| {
                let target = TestDir::new();
                let child = stopped_restore(&story, &id, &target.join("data"))?;
                Some((target, child))
            })
            .expect("a restore that is caught at work");
        let prune = || story.world.run(["prune", "--json", "--max-rewrite", "1000000000"]).ok().json();
        let first = prune();
        assert_eq!(first["rewritten"]["snapshots"], 2, "{first}");
        assert_eq!(story.digests(), before);
        let second = prune();
        for report in [&first, &second] {
            assert_eq!(report["sessions"]["waiting_for"][0]["purpose"], "restore", "{report}");
        }
        assert!(story.path_of(&old).exists(), "what it reads was swept");
        story.world.run(["forget", &id]).ok();
        prune();
        assert!(story.path_of(&old).exists(), "what it reads was swept");
        signal(&child, Signal::SIGCONT);
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert!(tree(&target.join("data")) == expected, "it restored something else");
        let last = prune();
        assert!(last["packs"]["deleted"]["objects"].as_u64() > Some(0), "{last}");
        assert!(!story.path_of(&old).exists(), "nobody reads it any more");
        let mut story = story;
        story.world.snapshots.remove(0);
        story.assert_whole();
    });
}

/// A restore by a host that has nothing but the key file, and can't announce itself: stopped (SIGSTOP) before it has written
/// anything but its marker, or soon after; none if it was too fast.
fn stopped_unannounced(story: &Story, host: &Host, id: &str, to: &Path) -> Option<Child> {
    let mut command = host.command(["--repo", story.world.repository().to_str().unwrap(), "--jobs", "1", "--json"]);
    command.args(["--key-file", story.world.key().to_str().unwrap()]);
    command.args(["restore", id, "--no-recovery", "--to", to.to_str().unwrap()]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let marker = to.join(pgcairn::restore::MARKER);
    while !marker.exists() && !to.join("global/pg_control").exists() {
        std::thread::yield_now();
    }
    signal(&child, Signal::SIGSTOP);
    let state = format!("/proc/{}/stat", child.id());
    wait_until("the restore to stop", || std::fs::read_to_string(&state).is_ok_and(|s| s.contains(") T ") || s.contains(") Z ")));
    if std::fs::read_to_string(&state).is_ok_and(|s| s.contains(") Z ")) || to.join("global/pg_control").exists() {
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGCONT);
        child.wait_with_output().unwrap();
        return None;
    }
    Some(child)
}

/// What it reads goes meanwhile: it ends with an error that says so, and with what to do; no server can start from the folder;
/// and what is said to be done works.
#[test]
fn what_is_restored_unannounced_may_go() {
    ordinary(|| {
        for forgotten in [true, false] {
            let caught = (0..20).find_map(|_| {
                let (story, host, target) = (Story::new(), Host::new(), TestDir::new());
                let id = story.world.snapshots[0].0.clone();
                let child = stopped_unannounced(&story, &host, &id, &target.join("data"))?;
                if forgotten {
                    story.world.run(["forget", &id]).ok();
                }
                let pruned = story.world.run(["prune", "--json", "--max-rewrite", "1000000000"]).ok().json();
                assert!(pruned["packs"]["deleted"]["objects"].as_u64() > Some(0), "{pruned}");
                signal(&child, Signal::SIGCONT);
                let ended = child.wait_with_output().unwrap();
                // Or it had read all of it before it was stopped.
                (!ended.status.success()).then_some((story, host, target, ended))
            });
            let (story, host, target, ended) = caught.expect("a restore that is caught at work");
            let (id, expected) = story.world.snapshots[0].clone();
            let data = target.join("data");
            assert!(!data.join("global/pg_control").exists());
            let error = serde_json::from_slice::<serde_json::Value>(&ended.stdout).unwrap()["error"].clone();
            assert_eq!(error["class"], "refused", "{error}");
            let (what, cure) = (error["what"].as_str().unwrap(), error["cure"].as_str().unwrap());
            assert!(what.contains("prune ran meanwhile") || what.contains("a prune that ran meanwhile"), "{what}");
            assert!(what.contains(&id) && cure.contains("--delta"), "{what}: {cure}");
            // The cure.
            let (again, expected) = if forgotten {
                assert!(cure.contains("newer snapshot"), "{cure}");
                story.world.snapshots[1].clone()
            } else {
                (id, expected)
            };
            let key = story.world.key();
            let more = ["--key-file", key.to_str().unwrap(), "restore", &again, "--delta", "--no-recovery", "--to", data.to_str().unwrap()];
            story.world.run_on(&host, &story.world.repository(), more).ok();
            assert!(tree(&data) == expected, "it restored something else");
        }
    });
}
