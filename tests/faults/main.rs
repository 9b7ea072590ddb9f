//! Faults: what is left after a kill at any step, after a power failure, and what is said when disks fail.
//!
//! - `shim.c`, `trace.rs`: every step by which the real program changes files is seen, and it dies before a chosen one
//! - `disk.rs`: what of these steps is durable, and what a power failure leaves
//! - `world.rs`: the machine that this happens to
//! - `crash.rs`: the stories: init, backup, push, restore

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod disk;
mod trace;
mod world;
