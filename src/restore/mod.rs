//! From the repository into a data directory.
pub mod crc;
mod failure;
pub mod folders;
pub mod target;
#[cfg(test)]
mod testing;
pub mod write;

pub use failure::{RestoreError, show};
