//! The manifest of a snapshot: a tree of small nodes, each a chunk of role structure.
//!
//! ```text
//! snapshot ── folders ── parts of a folder (at most 128 files) ── per file: nothing, zeros, a slice of a joint chunk,
//!                                                                 one chunk, or a tree of leaves (32 extents each)
//! ```
//! Names and attributes lie in content chunks, so that a node tells nothing but ids, places, lengths. Equal content gives
//! equal nodes with equal ids, and an unchanged subtree costs the entry that names it.
//!
//! - `node.rs`: the nodes as values and bytes, their content digests
//! - `attributes.rs`: what a part's content chunk holds: names, modes, times
//! - `needs.rs`: which packs a subtree needs, and how many bytes of each
//! - `stream.rs`: the tree of one long file, built as its extents come, read from left to right
//! - `build.rs`: parts, folders, snapshot
//! - `walk.rs`: reading a snapshot

mod attributes;
mod build;
mod needs;
mod node;
mod stream;
mod walk;

pub use attributes::{Attributes, Instance, decode_attributes, encode_attributes};
pub use build::{put_folder, put_part, put_snapshot, split};
pub use needs::Needs;
pub use node::{Child, ChildKind, ChunkRef, Extent, FileData, FileEntry, Node, Part, SnapshotNode, TreeRef};
pub use stream::{Leaf, file_of_extents, file_of_leaves, put_leaf};
pub use walk::{Contents, FolderMeta, Meta, Snapshot, StoredFile, leaves_and_nodes, leaves_below, read_leaf};

use super::RepoError;
use super::pack::Place;
use crate::units::ChunkId;

/// Where new nodes go.
pub trait NodeSink {
    /// Stores a node, or finds that it is there already; its place.
    ///
    /// # Errors
    /// Whatever keeps it from being stored.
    fn put_node(&self, node: &Node) -> Result<(ChunkId, Place, u32), RepoError>;
}

/// Extents in a leaf.
pub const LEAF: usize = 32;
/// Children of any node, files of a part.
pub const FANOUT: usize = 128;
/// The largest node that is read.
pub const MAX_NODE: usize = 64 << 10;
/// The largest node of needs that is read: 40,000 packs.
pub const MAX_NEEDS_NODE: usize = 1 << 20;
