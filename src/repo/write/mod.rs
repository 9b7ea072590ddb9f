//! Writing chunks: found where they are already, else framed, sealed, packed and stored.
//!
//! - `chunks.rs`: [`ChunkWriter`]: finds or stores chunks and nodes, by several threads at once
//! - `upload.rs`: the thread that stores finished packs, one after the other, and tells of each

mod chunks;
#[cfg(test)]
mod tests;
mod upload;

pub use chunks::{ChunkWriter, Known, NewChunk, Stored, Totals, WriterSetup, is_of_one_pack};
pub use upload::{OnStored, Uploaded};
