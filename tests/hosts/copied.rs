//! A state folder that was copied to another host, or set back with its machine: noticed, and each cure works.

use std::fs;
use std::path::Path;

use crate::support::{Host, Outcome, copy_tree, ordinary};
use crate::world::{NEXT_SEGMENT, SEGMENTS, World};

const TOLD: &str = "was begun with this host's key, and not out of this host's state folder";

/// Another machine to which a host's home was copied.
fn copy_of(host: &Host) -> Host {
    let copy = Host::new();
    copy_tree(&host.home().join(".local"), &copy.home().join(".local"));
    copy
}

fn set_back(host: &Host, to: &Host) {
    fs::remove_dir_all(host.home().join(".local")).unwrap();
    copy_tree(&to.home().join(".local"), &host.home().join(".local"));
}

fn run(world: &World, host: &Host, arguments: &[&str]) -> Outcome {
    world.run_on(host, &world.repository(), arguments)
}

fn backup(world: &World, host: &Host) -> Outcome {
    world.run_on(host, &world.repository(), world.backup_arguments())
}

fn push(world: &World, host: &Host, name: &str) -> Outcome {
    run(world, host, &["archive-push", world.wal(name).to_str().unwrap()])
}

fn entries(world: &World) -> usize {
    fs::read_dir(world.repository().join("log")).unwrap().count()
}

/// Enrols a host that has forgotten its keys by the owner's file.
#[track_caller]
fn enrol(world: &World, host: &Host, name: &str) {
    run(world, host, &["key", "forget-host", "--yes"]).ok();
    let (grant, key) = (world.folder.join(format!("{name}.grant")), world.key());
    let (grant, key) = (grant.to_str().unwrap(), key.to_str().unwrap());
    run(world, &world.host, &["--key-file", key, "key", "add-host", "--role", "writer,reader", "--name", name, grant]).ok();
    run(world, host, &["key", "accept", grant]).ok();
}

#[test]
fn the_second_of_two_hosts_with_one_key_is_told_to_enrol_itself() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let copy = copy_of(&world.host);
        // The original goes on; the copy comes second.
        world.backup();
        let before = entries(&world);
        backup(&world, &copy).code(1).says(TOLD).says("key claim-host").says("key forget-host --yes");
        backup(&world, &copy).code(1).says(TOLD);
        run(&world, &copy, &["check"]).code(1).prints("host_key");
        assert_eq!(entries(&world), before, "it wrote nothing");
        // WAL is never kept from the archive, and looking and restoring go on.
        push(&world, &copy, SEGMENTS[0]).ok().says(TOLD);
        run(&world, &copy, &["list"]).ok().prints(&world.snapshots[1].0);
        // Enrolled by itself it backs up; the original never noticed.
        enrol(&world, &copy, "copy");
        assert!(!backup(&world, &copy).ok().stderr.contains(TOLD));
        assert!(!push(&world, &copy, SEGMENTS[1]).ok().stderr.contains(TOLD));
        world.backup();
        assert!(!run(&world, &world.host, &["check"]).stdout.contains("host_key"));
    });
}

#[test]
fn a_copy_that_comes_first_makes_the_original_the_second_and_it_can_claim_its_key() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let copy = copy_of(&world.host);
        backup(&world, &copy).ok();
        backup(&world, &world.host).code(1).says(TOLD);
        run(&world, &world.host, &["key", "claim-host"]).code(2).says("--yes").says(TOLD);
        backup(&world, &world.host).code(1).says(TOLD);
        run(&world, &world.host, &["key", "claim-host", "--yes"]).ok().prints("counts as this host's own");
        world.backup();
        run(&world, &world.host, &["key", "claim-host", "--yes"]).ok().prints("nothing to claim");
        // The claim and a backup: now it is the copy that is told.
        backup(&world, &copy).code(1).says(TOLD);
        enrol(&world, &copy, "copy");
        backup(&world, &copy).ok();
        world.backup();
    });
}

#[test]
fn a_machine_that_was_set_back_is_told_and_goes_on_when_it_says_so() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let image = copy_of(&world.host);
        world.backup();
        push(&world, &world.host, SEGMENTS[0]).ok();
        set_back(&world.host, &image);
        backup(&world, &world.host).code(1).says(TOLD);
        push(&world, &world.host, SEGMENTS[1]).ok().says(TOLD);
        run(&world, &world.host, &["key", "claim-host", "--yes"]).ok();
        world.backup();
        assert!(!push(&world, &world.host, NEXT_SEGMENT).ok().stderr.contains(TOLD));
        // Set back to a state in which nothing was missed, nothing is said.
        set_back(&world.host, &copy_of(&world.host));
        world.backup();
    });
}

#[test]
fn a_copy_that_only_restores_stops_nobody_and_is_spoken_of() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let copy = copy_of(&world.host);
        let target = crate::support::TestDir::new();
        run(&world, &copy, &["restore", "--no-recovery", "--to", target.join("data").to_str().unwrap()]).ok();
        backup(&world, &world.host).ok().says(TOLD).says("restore");
        assert!(!push(&world, &world.host, SEGMENTS[0]).ok().stderr.contains(TOLD));
        run(&world, &world.host, &["check"]).prints("warning  host_key");
        run(&world, &world.host, &["key", "claim-host", "--yes"]).ok();
        assert!(!backup(&world, &world.host).ok().stderr.contains(TOLD));
    });
}

/// Runs as in a container: the host's name and machine id are as they are each time.
#[track_caller]
fn in_container(world: &World, host: &Host, machine: &str, arguments: &[String]) -> Outcome {
    let mut all = vec!["--repo".to_owned(), world.repository().to_str().unwrap().to_owned()];
    all.extend(arguments.iter().cloned());
    let id = world.folder.join("machine-id");
    fs::write(&id, machine).unwrap();
    let mut line = String::from("mount --bind \"$ID\" /etc/machine-id && hostname \"$NAME\" && exec \"$@\"");
    if !Path::new("/etc/machine-id").exists() {
        line = String::from("hostname \"$NAME\" && exec \"$@\"");
    }
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--uts", "sh", "-c", &line, "sh"]).arg(host.program()).args(&all);
    command.env_clear().envs(host.environment()).env("ID", &id).env("NAME", format!("pod-{}", machine.get(..4).unwrap_or("none")));
    command.current_dir(host.home());
    Outcome::of(command)
}

/// May this user make namespaces?
fn has_namespaces() -> bool {
    let tried = std::process::Command::new("unshare").args(["--user", "--map-root-user", "--mount", "--uts", "true"]).output();
    tried.is_ok_and(|output| output.status.success())
}

#[test]
fn containers_with_one_state_volume_are_one_host() {
    ordinary(|| {
        if !has_namespaces() {
            return crate::support::skip("user namespaces can't be made here");
        }
        let mut world = World::empty();
        world.backup();
        let mut warned = 0;
        // Each run has another name and machine id, or none; all have the state volume.
        for machine in ["1111", "2222", "", "3333", "4444", "1111", "5555"] {
            let id = if machine.is_empty() { String::new() } else { machine.repeat(8) };
            let mut arguments = world.backup_arguments();
            arguments.push("--allow-root".into());
            let done = in_container(&world, &world.host, &id, &arguments).ok();
            assert!(!done.stderr.contains(TOLD), "{}", done.report());
            warned += usize::from(done.stderr.contains("was last used on another machine"));
        }
        assert!(warned <= 2, "a machine whose id changes each time is no news: {warned}");
        world.backup();
    });
}
