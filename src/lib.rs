//! pgcairn: deduplicating, encrypted backups for PostgreSQL.
//!
//! The layers, lowest first; each may use those above it in this list and none below:
//!
//! | layer | what it is |
//! |---|---|
//! | [`units`] | LSNs, segment names, ids, sizes, times, progress |
//! | [`crypt`], [`chunk`], [`codec`], [`store`] | keys and sealing; cutting; frames; where objects lie |
//! | [`repo`] | what a repository is: log, packs, structure nodes, WAL objects, sessions |
//! | [`host`] | what this machine keeps and says: configuration, paths, state, cache, locks |
//! | [`pg`] | what PostgreSQL is (needs only `units`) |
//! | [`backup`], [`archive`], [`restore`], [`look`], [`retain`], [`scrub`], [`recommit`] | what users ask for |
//! | [`prune`], [`health`] | space comes back; is all of it sound (above some of these) |
//! | [`cli`] | arguments, output, exit codes |
//!
//! The repository's format is described in `format-spec.md`.

#![forbid(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

pub mod archive;
pub mod backup;
pub mod chunk;
pub mod cli;
pub mod codec;
pub mod crypt;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod host;
pub mod look;
pub mod pg;
pub mod prune;
pub mod recommit;
pub mod repo;
pub mod restore;
pub mod retain;
pub mod scrub;
pub mod store;
pub mod units;
