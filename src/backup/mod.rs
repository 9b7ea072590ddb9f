//! From a cluster into the repository.
//!
//! What enters: a data directory, a server (or none, if it is stopped), an open session. What leaves: a COMMIT, or an
//! ABORT and a server that is out of backup mode.
//!
//! - `source.rs`: the files, behind a trait
//! - `scan.rs`: what of a data directory is copied, folder by folder
//! - `parent.rs`: what the snapshot before proves
//! - `copy/`: reading, cutting, storing · `annex/`: what is recorded beside the data directory
//! - `price.rs`: what old pages cost, and which codec is worth it
//! - `damage.rs`: pages that are wrong · `kept.rs`: what a host that can't read keeps of its own snapshots
//! - `checks.rs`: is this the right server, and a state that can be backed up?
//! - `wal.rs`: the segments that the snapshot needs: waited for, or copied
//! - `run.rs`: the whole of it, in order · `basis.rs`: what it builds on · `take.rs`: copying, between start and stop ·
//!   `finish.rs`: the upper tree and the COMMIT

mod annex;
mod basis;
pub mod checks;
pub mod copy;
pub mod damage;
mod failure;
mod finish;
pub mod kept;
pub mod parent;
pub mod price;
pub mod run;
pub mod scan;
pub mod source;
mod take;
#[cfg(test)]
mod tests;
pub mod wal;

pub use failure::BackupError;
