//! Key commands, killed before each step: nobody is locked out, nothing is half done for ever, and doing it again finishes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::crash::{Story, interrupt, one_snapshot};
use crate::support::{Outcome, Postgres, on};
use crate::world::{Cluster, World};

/// A key command of the owner.
fn owners(world: &World, arguments: &[&str]) -> Command {
    let key = world.path("key");
    let mut all = vec!["key"];
    all.extend(arguments);
    all.extend(["--with-key-file", key.to_str().unwrap()]);
    world.command(all)
}

/// A command of another host, whose home is on the same disk.
fn other(world: &World, arguments: &[String]) -> Outcome {
    let home = world.path("other");
    std::fs::create_dir_all(&home).unwrap();
    Outcome::of(world.command_of(&home, arguments))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn list(world: &World) -> serde_json::Value {
    world.run(["key", "list", "--json"]).ok().json()
}

/// Daily work goes on; and, looked at now and then, what is there is whole and restores with the key file alone.
fn work_goes_on(world: &World, cluster: &Cluster, done: bool) {
    Outcome::of(world.push(&cluster.states[1], &cluster.wal[1])).ok();
    world.run(world.backup_of(&cluster.states[1])).ok();
    if world.at_length(done) {
        world.restores_as("latest", &cluster.states[1]);
        world.restores_as("latest~1", &cluster.states[0]);
        world.has_wal(&cluster.wal[..2]);
        world.is_sound();
    }
}

struct Rotate<'a>(&'a Cluster);

impl Story for Rotate<'_> {
    fn name(&self) -> &'static str {
        "key rotate"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
        let second = text(&world.path("second"));
        Outcome::of(owners(world, &["add", "--key-file", &second])).ok();
    }

    fn command(&self, world: &World) -> Command {
        owners(world, &["rotate", "--with-key-file", &text(&world.path("second"))])
    }

    fn holds(&self, world: &World, done: bool) {
        let before = list(world)["content_keys"].as_array().unwrap().len();
        assert!(before == 2 || (before == 1 && !done));
        // Before anybody has done it again.
        world.run(world.backup_of(&self.0.states[1])).ok();
        world.restores_as("latest", &self.0.states[1]);
        Outcome::of(self.command(world)).ok();
        let after = list(world);
        let keys = after["content_keys"].as_array().unwrap();
        assert!(keys.len() == before || keys.len() == before + 1, "{after}");
        assert!(keys.len() >= 2 && keys.iter().all(|key| key["held"] == true), "{after}");
        assert_eq!(after["slots"].as_array().unwrap().len(), 2, "{after}");
        if !world.at_length(done) {
            return;
        }
        // Either slot opens all of it, also what is written now.
        world.run(world.backup_of(&self.0.states[0])).ok();
        world.is_sound();
        let (home, to) = (world.elsewhere("fresh"), world.elsewhere("to"));
        std::fs::remove_dir_all(&to).unwrap();
        let arguments = ["--key-file", &text(&world.path("second")), "restore", "--no-recovery", "--to", &text(&to)];
        Outcome::of(world.command_of(&home, arguments)).ok();
        let _ = std::fs::remove_dir_all(&home);
        world.restores_as("latest~2", &self.0.states[0]);
    }
}

struct Add<'a>(&'a Cluster);

impl Story for Add<'_> {
    fn name(&self) -> &'static str {
        "key add"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
    }

    fn command(&self, world: &World) -> Command {
        owners(world, &["add", "--key-file", &text(&world.path("second"))])
    }

    fn holds(&self, world: &World, done: bool) {
        let again = Outcome::of(self.command(world));
        if done || !again.status.success() {
            again.code(2).says("opens a key slot of this repository already");
        }
        assert_eq!(list(world)["slots"].as_array().unwrap().len(), 2);
        let home = world.elsewhere("fresh");
        Outcome::of(world.command_of(&home, ["--key-file", &text(&world.path("second")), "verify"])).ok();
        std::fs::remove_dir_all(&home).unwrap();
        work_goes_on(world, self.0, done);
    }
}

struct AddHost<'a>(&'a Cluster);

fn grant(world: &World) -> PathBuf {
    world.path("home/grant")
}

impl Story for AddHost<'_> {
    fn name(&self) -> &'static str {
        "key add-host"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
    }

    fn command(&self, world: &World) -> Command {
        owners(world, &["add-host", "--role", "writer,reader", "--name", "db2", &text(&grant(world))])
    }

    fn holds(&self, world: &World, done: bool) {
        let count = || list(world)["hosts"].as_array().unwrap().iter().filter(|host| host["name"] == "db2").count();
        let before = count();
        assert!(before == 1 || !done);
        assert!(before == 0 || grant(world).exists(), "an entry for a key that nobody has");
        Outcome::of(self.command(world)).ok();
        assert_eq!(count(), 1);
        other(world, &["key".into(), "accept".into(), text(&grant(world))]).ok();
        other(world, &world.backup_of(&self.0.states[0])).ok();
        work_goes_on(world, self.0, done);
    }
}

struct RemoveHost<'a>(&'a Cluster);

impl Story for RemoveHost<'_> {
    fn name(&self) -> &'static str {
        "key remove-host"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
        Outcome::of(AddHost(self.0).command(world)).ok();
        other(world, &["key".into(), "accept".into(), text(&grant(world))]).ok();
        let mut push = world.command_of(&world.path("other"), ["archive-push", &text(&self.0.wal[1])]);
        push.current_dir(&self.0.states[1]);
        Outcome::of(push).ok();
    }

    fn command(&self, world: &World) -> Command {
        owners(world, &["remove-host", "db2"])
    }

    fn holds(&self, world: &World, done: bool) {
        let host = || {
            let all = list(world)["hosts"].as_array().unwrap().clone();
            all.into_iter().find(|host| host["name"] == "db2").unwrap()
        };
        assert!(!done || host()["wal_ended"] == true);
        // What it had archived counts at every moment.
        world.has_wal(&self.0.wal[..2]);
        Outcome::of(self.command(world)).ok();
        assert_eq!(host()["wal_ended"], true);
        world.has_wal(&self.0.wal[..2]);
        other(world, &world.backup_of(&self.0.states[1])).code(1).says("revoked");
        world.run(world.backup_of(&self.0.states[1])).ok();
        if world.at_length(done) {
            world.is_sound();
            world.restores_as("latest~1", &self.0.states[0]);
        }
    }
}

struct Remove<'a>(&'a Cluster);

impl Remove<'_> {
    /// The slot of the second key file: its id is noted outside the machine's disk.
    fn slot(world: &World) -> String {
        std::fs::read_to_string(world.elsewhere("slots").join("second")).unwrap()
    }
}

impl Story for Remove<'_> {
    fn name(&self) -> &'static str {
        "key remove"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
        let second = text(&world.path("second"));
        let added = Outcome::of(owners(world, &["add", "--key-file", &second, "--json"])).ok().json();
        let id = added["slot"].as_str().unwrap_or_else(|| panic!("{added}"));
        std::fs::write(world.elsewhere("slots").join("second"), id).unwrap();
    }

    fn command(&self, world: &World) -> Command {
        owners(world, &["remove", &Self::slot(world)])
    }

    fn holds(&self, world: &World, done: bool) {
        let there = |id: &str| list(world)["slots"].as_array().unwrap().iter().any(|slot| slot["slot"] == id);
        let before = there(&Self::slot(world));
        assert!(!(done && before));
        let again = Outcome::of(self.command(world));
        if before {
            again.ok()
        } else {
            again.code(4).says("there is no key slot")
        };
        assert!(!there(&Self::slot(world)));
        // The other one opens everything; what was removed opens nothing.
        let home = world.elsewhere("fresh");
        Outcome::of(world.command_of(&home, ["--key-file", &text(&world.path("second")), "verify"])).code(1);
        std::fs::remove_dir_all(&home).unwrap();
        work_goes_on(world, self.0, done);
    }
}

struct Accept<'a>(&'a Cluster);

impl Story for Accept<'_> {
    fn name(&self) -> &'static str {
        "key accept"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
        Outcome::of(AddHost(self.0).command(world)).ok();
        std::fs::create_dir_all(world.path("other")).unwrap();
    }

    fn command(&self, world: &World) -> Command {
        world.command_of(&world.path("other"), ["key", "accept", &text(&grant(world))])
    }

    fn holds(&self, world: &World, done: bool) {
        if done {
            other(world, &world.backup_of(&self.0.states[0])).ok();
        }
        // As whoever was interrupted does, with the file that is still there.
        Outcome::of(self.command(world)).ok();
        other(world, &world.backup_of(&self.0.states[0])).ok();
        let hosts = list(world)["hosts"].as_array().unwrap().len();
        assert_eq!(hosts, 2, "it has enrolled nobody else");
        work_goes_on(world, self.0, done);
    }
}

fn story(pg: &Postgres, make: impl for<'c> Fn(&'c Cluster) -> Box<dyn Story + 'c>, at_least: usize) {
    let cluster = Cluster::build(pg);
    interrupt(make(&cluster).as_ref(), at_least);
}

#[test]
fn key_rotate_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Rotate(cluster)), 10));
}

#[test]
fn key_add_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Add(cluster)), 8));
}

#[test]
fn key_add_host_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(AddHost(cluster)), 8));
}

#[test]
fn key_remove_host_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(RemoveHost(cluster)), 5));
}

#[test]
fn key_remove_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Remove(cluster)), 5));
}

#[test]
fn key_accept_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Accept(cluster)), 5));
}
