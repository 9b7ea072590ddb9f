//! Faults: what is left after a kill at any step, after a power failure, and what is said when disks fail.
//!
//! - `shim.c`, `trace.rs`: every step by which the real program changes files is seen, and it dies before a chosen one
//! - `disk.rs`: what of these steps is durable, and what a power failure leaves
//! - `world.rs`: the machine that this happens to
//! - `crash.rs`: the stories: init, backup, push, restore, forget, prune
//! - `keys.rs`: the same of the key commands
//! - `disks.rs`: disks that are full, fail or can't be written
//! - `host.rs`: state and cache lost or damaged; odd names, umasks, outputs; two at once
//! - `online.rs`: a server at work

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod disk;
mod disks;
mod host;
mod keys;
mod notes;
mod online;
mod trace;
mod world;
