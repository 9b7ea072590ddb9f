//! Space comes back: what no snapshot needs is condemned, swept, and deleted; WAL that none needs expires.
//!
//! In come an open repository (table key, no key to content) and, for WAL, what an archive's folders hold; out go entries of the
//! log, deletions, and a [`Report`]. No lock, no clock: the log alone decides (format-spec.md, R8 to R10 and R14), any number
//! of writers and other prunes may run, and whoever is killed at any point is followed by one that finds all of it again.
//!
//! - `plan.rs`: which packs are condemned and swept, by the fold and a listing (pure) · `listing.rs`: the packs that are stored
//! - `sessions.rs`: sessions that are dead, and those that are waited for
//! - `run.rs` has mostly dead packs emptied first (`recommit`), so that what that frees goes in the same run
//! - `packs.rs`: CONDEMN, SWEEP, delete
//! - `need.rs`: which WAL is needed (pure) · `wal.rs`: EXPIRE-WAL, delete; [`WalArchive`] is what it asks of an archive
//! - `run.rs`: the order of all that · `report.rs`: what was done, or would be · `failure.rs`
//!
//! Deleted is only what a valid SWEEP or EXPIRE-WAL of this very run lists. What a killed prune has swept and not deleted is in
//! no list of the log any more, as if it had never been listed: the next run condemns and sweeps it once more as an orphan
//! (R8 lets it), which costs two entries after a crash, and spares every run a second reading of the log.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod failure;
mod listing;
mod need;
mod packs;
mod plan;
mod report;
mod run;
mod sessions;
#[cfg(test)]
mod tests;
mod wal;

pub use failure::{ArchiveFailure, PruneError};
pub use listing::Listing;
pub use need::{Histories, Kept, Lines, Way};
pub use plan::{PackPlan, plan};
pub use report::{Amount, KeptWal, Report, Waiting, WalLine, Why};
pub use run::{Options, Setting, run};
pub use sessions::Clock;
pub use wal::{Content, Stored, WalArchive};
