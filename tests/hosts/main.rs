//! Many hosts in one repository.
//!
//! - `clones.rs`: what clones of a cluster share
//! - `copied.rs`: two holders of one host key
//! - `race.rs`: sixteen processes append to one log at once
//! - `small.rs`: a small host beside large ones

#[path = "../support/mod.rs"]
mod support;
#[path = "../hostile/world.rs"]
#[allow(dead_code)]
mod world;

mod clones;
mod copied;
mod race;
mod small;
