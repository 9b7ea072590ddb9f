//! Writing chunks: found where they are already, else framed, sealed, packed and stored.
//!
//! - `chunks.rs`: [`ChunkWriter`]: finds or stores chunks and nodes, by several threads at once
//! - `quiet.rs`: [`Quiet`], by which blobs are sorted into packs
//! - `upload.rs`: the thread that stores finished packs, one after the other, and tells of each

mod chunks;
mod quiet;
#[cfg(test)]
mod tests;
mod upload;

pub use chunks::{ChunkWriter, Known, NewChunk, NewPages, Stored, Totals, WriterSetup, is_of_one_pack};
pub use quiet::Quiet;
pub use upload::{OnStored, Uploaded};
