//! Notes in the log, their commands killed before each step: said or not said, never in part, and done again they stand once.

use std::process::Command;

use crate::crash::{Story, interrupt, one_snapshot};
use crate::support::{Outcome, Postgres, full, on, skip};
use crate::world::{Cluster, World};

/// The snapshots that are held.
fn held(world: &World) -> Vec<String> {
    let listed = world.run(["hold", "list", "--json"]).ok().json();
    listed["holds"].as_array().unwrap().iter().map(|hold| hold["snapshot"].as_str().unwrap().to_owned()).collect()
}

/// The next backup; and, looked at now and then, all that is there restores.
fn goes_on(world: &World, cluster: &Cluster, done: bool) {
    world.run(world.backup_of(&cluster.states[1])).ok();
    if world.at_length(done) {
        world.restores_as("latest", &cluster.states[1]);
        world.restores_as("latest~1", &cluster.states[0]);
        world.is_sound();
    }
}

/// A snapshot that is held, or is no longer.
struct Hold<'a> {
    cluster: &'a Cluster,
    add: bool,
}

impl Story for Hold<'_> {
    fn name(&self) -> &'static str {
        if self.add { "hold add" } else { "hold remove" }
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.cluster);
        if !self.add {
            world.run(["hold", "add", "latest", "--reason", "law"]).ok();
        }
    }

    fn command(&self, world: &World) -> Command {
        match self.add {
            true => world.command(["hold", "add", "latest", "--reason", "law"]),
            false => world.command(["hold", "remove", "latest"]),
        }
    }

    fn holds(&self, world: &World, done: bool) {
        let is_held = !held(world).is_empty();
        assert!(!done || is_held == self.add);
        let id = world.snapshots()[0].clone();
        if is_held {
            world.run(["forget", &id]).code(1).says("held");
        }
        Outcome::of(self.command(world)).ok();
        assert_eq!(held(world), if self.add { vec![id.clone()] } else { Vec::new() });
        goes_on(world, self.cluster, done);
        let forgotten = world.run(["forget", &id]);
        if self.add {
            forgotten.code(1).says("held")
        } else {
            forgotten.ok()
        };
    }
}

struct AcceptFork<'a>(&'a Cluster);

impl Story for AcceptFork<'_> {
    fn name(&self) -> &'static str {
        "archive accept-fork"
    }

    fn prepare(&self, world: &World) {
        one_snapshot(world, self.0);
    }

    fn command(&self, world: &World) -> Command {
        world.command(["archive", "accept-fork", "--timeline", "2", "--reason", "it takes over", "--json"])
    }

    fn holds(&self, world: &World, done: bool) {
        let again = Outcome::of(self.command(world)).ok().json();
        assert!(!done || again["already"] == true, "{again}");
        let once_more = Outcome::of(self.command(world)).ok().json();
        assert_eq!((&once_more["already"], &once_more["log"]["number"]), (&true.into(), &again["log"]["number"]), "it stands once");
        // Nothing else is let in by it, and nothing is an alarm.
        world.run(["archive", "status"]).ok();
        goes_on(world, self.0, done);
    }
}

fn story(pg: &Postgres, make: impl for<'c> Fn(&'c Cluster) -> Box<dyn Story + 'c>, at_least: usize) {
    let cluster = Cluster::build(pg);
    interrupt(make(&cluster).as_ref(), at_least);
}

#[test]
fn hold_add_is_interrupted_anywhere() {
    on(18, |pg| story(pg, |cluster| Box::new(Hold { cluster, add: true }), 5));
}

/// The steps are those of `hold add`: one entry of the log.
#[test]
fn hold_remove_is_interrupted_anywhere() {
    if !full() {
        return skip("a part of make test-full");
    }
    on(18, |pg| story(pg, |cluster| Box::new(Hold { cluster, add: false }), 5));
}

/// The steps are those of `hold add`: one entry of the log.
#[test]
fn archive_accept_fork_is_interrupted_anywhere() {
    if !full() {
        return skip("a part of make test-full");
    }
    on(18, |pg| story(pg, |cluster| Box::new(AcceptFork(cluster)), 5));
}
