//! Many hosts in one repository.
//!
//! - `race.rs`: sixteen processes append to one log at once

#[path = "../support/mod.rs"]
mod support;

mod race;
