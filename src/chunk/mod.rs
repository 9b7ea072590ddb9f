//! Where a stream is cut into chunks, so that what stays the same is stored once.
//!
//! In come lengths, streams or small files; out come ranges and bytes. Ids are not made here. Which of the three is used
//! for which file is decided by whoever reads the cluster.
//!
//! - `extents.rs`: forks of relations: every 256 KiB, since their pages change in place
//! - `cdc.rs`: what shifts (dumps, logs, unknown files): FastCDC, in bounded memory
//! - `folder.rs`: files under 64 KiB, joined a folder at a time; the only form that readers must know
//!
//! All sizes here are policy, except the longest folder chunk and its first 16 bytes (format-spec.md, "Where a stream is
//! cut"): a manifest names the chunks of a file, however it was cut.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod cdc;
pub mod extents;
pub mod folder;

pub use cdc::{Cdc, CdcSizes};
pub use extents::{EXTENT, Extent, extents, is_zero};
pub use folder::{FilePlace, FolderChunks, SMALL_FILE};
