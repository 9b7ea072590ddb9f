//! Write-ahead log as bytes: what a file's name says, what its header says, and which records it holds.
//!
//! - `name.rs`: [`WalFileName`], the names that come through archive_command
//! - `header.rs`: [`check_segment`]: is the file what its name says?
//! - `record.rs`: a record's header, and what ends of transactions and restore points say
//! - `walk.rs`: from pages to records, with all lengths bounded and all checksums verified
//! - `scan.rs`: [`SegmentScan`]: the facts about one segment that the archive keeps
//! - `find.rs`: [`find`]: a transaction's end or a restore point in a run of segments

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod build;
mod find;
mod header;
mod name;
mod record;
mod scan;
mod walk;

pub use find::{FindError, Found, Sought, find};
pub use header::{LONG_HEADER, SHORT_HEADER, SegmentError, SegmentHeader, WalPageHeader, check_segment, major_of_magic};
pub use name::{WalFileName, WalNameError};
pub use record::{RecordHeader, TransactionEnd};
pub use scan::{RestorePoint, SegmentFacts, SegmentScan, TransactionEnds};
pub use walk::{WalFault, WalStop};
