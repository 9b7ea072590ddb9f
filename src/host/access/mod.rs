//! A repository, opened for a command: its store, its keys as far as this host has them, its log read to the end.
//!
//! - `open.rs`: from a URL and what this host remembers to an [`Opened`]
//! - `opened.rs`: [`Opened`]: the log, and what this host may do
//! - `stored.rs`: [`Place`]: the store at a URL, and the object that says what lies there
//! - `create.rs`: `init`
//! - `elsewhere.rs`: is this host's key used by another one, too?
//! - `enrol.rs`: a KEY entry for this host
//! - `index.rs`: [`KnownChunks`]: where chunks lie already
//! - `locking.rs`: [`lock_snapshot`]: what a snapshot needs is locked against deletion
//! - `log_store.rs`: the log over a backend, under the table key
//! - `unlock.rs`: from what opens a slot to the root
//! - `session.rs`: [`OpenSession`]: BEGIN, PROGRESS, COMMIT or ABORT

mod create;
mod elsewhere;
mod enrol;
mod index;
#[cfg(test)]
mod kept_format;
mod locking;
mod log_store;
mod open;
mod opened;
#[cfg(test)]
mod races;
mod session;
mod stored;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod unlock;

pub use create::{Created, NewRepository, create};
pub use elsewhere::Elsewhere;
pub(in crate::host) use enrol::content_secrets;
pub use index::KnownChunks;
pub use locking::{Locked, lock_snapshot};
pub use log_store::process_tag;
pub use open::open;
pub(in crate::host) use open::{open_with, remember_pin};
pub use opened::Opened;
pub use session::{Adopted, OpenSession, append, append_if, clear_locks, end_dead_sessions, leftovers, remove_leftovers};
pub use stored::{Need, Place, repository_at};
pub use unlock::{StoredSlot, owner_key, unlock_with};
pub(in crate::host) use unlock::{buried_slots, opened_beneath, otherwise_now, read_slots, unwrap_key};
