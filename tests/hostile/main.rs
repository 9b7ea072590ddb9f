//! Repositories that are not what they were: damaged, swapped, set back, foreign, and written by somebody who means harm.
//! No server is needed: the cluster is a made-up data directory of a stopped server, its WAL that of a real one.
//!
//! - `world.rs`: the cluster, a repository of it with an object of every kind, and the commands
//! - `damage.rs`: every kind of object times every damage times every command
//! - `exchanged.rs`: objects in each other's place, another repository, yesterday's copy
//! - `planted.rs`: what somebody can do who writes to the store and holds no key
//! - `stolen.rs`: what somebody can do who holds a writer's keys, too

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod exchanged;
mod planted;
mod stolen;
mod world;
