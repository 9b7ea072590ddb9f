//! Space comes back, and nothing that is kept is lost: on real servers, with many processes at once, killed at any moment.
//!
//! - `world.rs`: what of a snapshot is forgotten; small clusters that are stopped, and what they hold
//! - `space.rs`: packs and WAL of forgotten snapshots go, what is kept restores
//! - `crowd.rs`: prunes against writers, and kills

#[path = "../support/mod.rs"]
mod support;

mod crowd;
mod space;
mod world;
