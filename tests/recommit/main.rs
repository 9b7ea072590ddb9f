//! Mostly dead packs are emptied by committing again: every snapshot stays what it was, by its bytes, its id and its digest.
//! No server is needed: the cluster is a made-up data directory of a stopped server.
//!
//! - `story.rs`: the cluster that changes, the repository of it, and what a prune does besides
//! - `emptied.rs`: packs are emptied, by who can read and who can't; what is damaged stays
//! - `healed.rs`: damage that a later backup has stored anew
//! - `killed.rs`: killed anywhere, and run again
//! - `reading.rs`: a restore that began before goes on

#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "a part of it serves")]
#[path = "../hostile/world.rs"]
mod world;

mod emptied;
mod healed;
mod killed;
mod reading;
mod story;
