//! Questions about a repository, answered as values.
//!
//! In comes what the log adds up to (and, for one snapshot in full, an open repository), out go values that the command
//! line renders. Nothing is written.
//!
//! - `snapshots.rs`: the live snapshots in the order of the log · `name.rs`: which one a user means
//! - `waiting.rs`: which WAL a snapshot still waits for · `full.rs`: all that is known of one
//! - `tree.rs`: the files of a snapshot by their paths · `path.rs`: how these are shown and given
//! - `relations.rs`: which relations its files belong to
//! - `files.rs`: `ls` and `cat` · `diff.rs`: what changed between two snapshots
//! - `stats.rs`: where the space goes · `kinds.rs`: of what kind a file is

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod diff;
mod files;
mod full;
mod kinds;
mod name;
mod path;
mod relations;
mod snapshots;
mod stats;
#[cfg(test)]
pub(crate) mod testing;
mod tree;
mod waiting;

pub use diff::{Changed, Diff, Side, diff};
pub use files::{Bytes, Entries, Entry, EntryKind, cat, list};
pub use full::{Full, LookError, facts, full};
pub use name::{NameError, SnapshotName, resolve};
pub use path::{parse_path, show_path};
pub use relations::{databases, relation_names};
pub use snapshots::{Listed, clusters, snapshots};
pub use stats::{Amount, Stats, needed_alone, stats};
pub use tree::{Found, Tree, open_snapshot};
pub use waiting::{segments_needed, waits_for};
