//! Many hosts in one repository.
//!
//! - `copied.rs`: two holders of one host key
//! - `race.rs`: sixteen processes append to one log at once

#[path = "../support/mod.rs"]
mod support;
#[path = "../hostile/world.rs"]
#[allow(dead_code)]
mod world;

mod copied;
mod race;
