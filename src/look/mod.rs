//! Questions about a repository, answered as values.
//!
//! In comes what the log adds up to (and, for one snapshot in full, an open repository), out go values that the command
//! line renders. Nothing is written.
//!
//! - `snapshots.rs`: the live snapshots in the order of the log · `name.rs`: which one a user means
//! - `waiting.rs`: which WAL a snapshot still waits for · `full.rs`: all that is known of one
//! - `relations.rs`: which relations its files belong to

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod full;
mod name;
mod relations;
mod snapshots;
#[cfg(test)]
pub(crate) mod testing;
mod waiting;

pub use full::{Full, LookError, facts, full};
pub use name::{NameError, SnapshotName, resolve};
pub use relations::{databases, relation_names};
pub use snapshots::{Listed, clusters, snapshots};
pub use waiting::{segments_needed, waits_for};
