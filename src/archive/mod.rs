//! The WAL archive: files taken from the server, handed back to it, and what they add up to.
//!
//! In come paths and names from archive_command and restore_command; out go WAL objects, whole files, and the answer to
//! "how far can this cluster be restored". Nothing here opens a catalog or derives a key from a passphrase: a push is one
//! process of many, and the caller brings keys and rights.
//!
//! - `facts.rs`: [`FileFacts`]: what is recorded of a file, so that nobody needs to read it again
//! - `names.rs`: names of objects that stand behind void ones
//! - `site.rs`: [`Site`]: one cluster's archive in one repository; [`LogTail`]: what it asks of the log
//! - `standing.rs`: does an object count? Valid, void, or neither as long as the log doesn't settle it
//! - `push.rs`: [`push`], the contract of archive_command · `take.rs`: reading and checking the file
//! - `fork/`: may a new timeline begin here? A promoted copy of the cluster would end the archive of its original
//! - `get.rs`: [`get`], the contract of restore_command · `absence.rs`: when a file is proven absent · `deliver.rs`
//! - `list.rs`: [`Archive`]: all metadata of one cluster's archive · `glance.rs`: [`Glance`], [`segment`]: those of single segments
//! - `stored.rs`: all objects of an archive by their names, and the content of single ones: for who prunes
//! - `status/`: gaps, live lines, restorable windows, computed from an [`Archive`]
//! - `check.rs`: is all of it whole, and is all there that snapshots need?
//! - `failure.rs`: what can go wrong

mod absence;
mod check;
mod deliver;
mod ends;
mod facts;
mod failure;
mod fork;
mod get;
mod glance;
mod list;
mod names;
mod push;
mod site;
mod standing;
pub mod status;
mod stored;
mod take;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use check::{Choose, WalChecked, WalProblem, check};
pub use ends::wal_ends;
pub use facts::{BackupFacts, FileFacts, FileKind, HistoryFacts, HistoryLine, RestorePointFact, SegmentRecord, Transactions};
pub use failure::{GetError, PushError, SiteError, TailFailure};
pub use get::{Fetched, Got, fetch, get};
pub use glance::{Glance, segment};
pub use list::{Archive, DamagedFile, Entry, FrontCache, NoCache};
pub use names::{ArchivedName, parse_listed};
pub use push::{PushContext, Pushed, push};
pub use site::{GetContext, LogTail, Rights, Site};
pub use stored::{ContentOf, StoredNames, StoredObject, content_of, stored};
