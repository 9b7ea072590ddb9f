//! Is a set-up sound, and is a cluster safe? What `check` and `status` say, line by line.
//!
//! In come facts of a server, of this host, of a repository; out go [`Line`]s: ok, warning or error, with a reason and a cure. The
//! verdicts are pure functions; what has to be asked or tried for them stands beside them.
//!
//! - `line.rs`: [`Line`] · `server.rs`: settings, archiver, slots, rights of the role
//! - `archiving.rs`: archive_command as the archiver runs it, and a WAL switch · `place.rs`: this host: folders, room, clocks
//! - `overview.rs`: a cluster at a glance

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod archiving;
mod line;
pub mod overview;
pub mod place;
pub mod server;

pub use line::{Line, State, sort_by_trouble, worst};
