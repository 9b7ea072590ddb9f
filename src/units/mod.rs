//! The words that all layers speak: positions in WAL, names of segments, ids, sizes, times, progress.
//!
//! Nothing here reads or writes anything. Every type parses and prints itself in the one form that users, the log and
//! the repository's names have in common, so that no other layer formats an LSN or an id by hand.
//!
//! - `wal.rs`: [`Lsn`], [`TimelineId`], [`SegmentSize`], [`SegmentNo`], [`SegmentName`]
//! - `ids.rs`: fixed-size ids and hashes in hex
//! - `time.rs`: [`Timestamp`] (an instant), and how users write one
//! - `size.rs`: [`ByteSize`] for people, `parse_duration` · `counted.rs`: [`counted`], one gap or two gaps
//! - `failure.rs`: [`Class`] of a failure and [`Explain`], which every layer's error type implements
//! - `paths.rs`: [`show`]: paths of any bytes
//! - `progress.rs`: [`Progress`] (how the library reports) and [`Cancel`] (how it is asked to stop)

mod counted;
mod failure;
pub mod ids;
mod paths;
mod progress;
mod size;
mod time;
mod wal;

pub use counted::counted;
pub use failure::{Class, Explain, class_of_io, cure_of_io, with_causes};
pub use ids::{ChunkId, Digest16, DomainId, Hash32, KeyId, PackId, ParseIdError, RepositoryId, SessionId, ShortId, SlotId};
pub use paths::show;
pub use progress::{Cancel, Cancelled, Event, Level, Progress, Quiet};
pub use size::{ByteSize, parse_byte_size, parse_duration};
pub use time::{ParseTimeError, Timestamp};
pub use wal::{Lsn, ParseWalError, SegmentName, SegmentNo, SegmentSize, TimelineId};
