//! The nodes as values and as bytes.
//!
//! - `encode.rs`: values as bytes · `decode.rs`: bytes as values · `digest.rs`: what a node says of content
//!
//! ```text
//! node     = kind u8 | version u8 (1) | number of packs u16 | pack ids × 16 | body
//! place    = index into the node's packs u16 | blob u32 | position u16
//! chunk    = id 16 | place | plain length u32
//! tree     = level u8 | id 16 | place | digest 16
//! needs    = count u16 (0xffff: a node of its own follows: id 16 | place) | count × (pack index u16, bytes u64)
//!
//! 1 snapshot: meta chunk | children
//! 2 branch:   children
//! 3 part:     attributes chunk | joint chunks: count u16 × chunk | files: count u16 × file
//! 4 stream:   level u8 | count u16 | count × (length u64 | id 16 | place | digest 16)
//! 5 leaf:     count u16 | count × (0 length u32 | 1 length u32, id 16, place)
//! 6 needs:    count u32 | count × (pack id 16, bytes u64)         (its pack list is empty)
//! children = count u16 | count × (kind u8 | files u32 | bytes u64 | id 16 | place | digest 16)
//! file     = kind u8 | length u64 | by kind: 0 empty · 1 joint chunk u16, offset u32 · 2 zeros · 3 id 16, place, needs ·
//!            4 tree, needs · 5 neither (a folder)
//! ```
//! Content digest of a node: first 16 bytes of BLAKE3 over a text of its kind and what it says of content (ids of chunks,
//! lengths, digests of children), never places, packs or needs.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod decode;
mod digest;
mod encode;
#[cfg(test)]
mod tests;

use super::Needs;
use crate::repo::pack::Place;
use crate::units::{Digest16, PackId, ShortId};

/// A chunk of content that a node names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRef {
    /// Its id.
    pub id: ShortId,
    /// Where it lies.
    pub place: Place,
    /// Its plain length.
    pub len: u32,
}

/// A stretch of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// So many zeros.
    Zeros(u32),
    /// A chunk.
    Chunk(ChunkRef),
}

impl Extent {
    /// Its length in bytes.
    pub fn len(&self) -> u32 {
        match self {
            Extent::Zeros(len) => *len,
            Extent::Chunk(chunk) => chunk.len,
        }
    }

    /// Has it no bytes?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The root of a file's tree: level 0 is a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeRef {
    /// How many levels of stream nodes stand above the leaves.
    pub level: u8,
    /// The node.
    pub id: ShortId,
    /// Where it lies.
    pub place: Place,
    /// Its content digest.
    pub digest: Digest16,
}

/// What a file's bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileData {
    /// It has none.
    Empty,
    /// A slice of one of the part's joint chunks.
    Joint {
        /// Which one.
        chunk: u16,
        /// From where.
        offset: u32,
    },
    /// Zeros from end to end.
    Zeros,
    /// One chunk.
    Single {
        /// Its id.
        id: ShortId,
        /// Where it lies.
        place: Place,
        /// What packs it needs.
        needs: Needs,
    },
    /// A tree of extents.
    Tree {
        /// Its root.
        root: TreeRef,
        /// What packs the subtree needs.
        needs: Needs,
    },
    /// A folder: no bytes.
    Folder,
}

/// A file of a part; name and attributes stand at the same index of the attributes chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileEntry {
    /// Length in bytes.
    pub len: u64,
    /// Its bytes.
    pub data: FileData,
}

/// At most [`FANOUT`](super::FANOUT) files of one folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Names and attributes.
    pub attributes: ChunkRef,
    /// Chunks of small files joined.
    pub joint: Vec<ChunkRef>,
    /// The files, in the order of their names.
    pub files: Vec<FileEntry>,
}

/// What a child is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ChildKind {
    /// A branch.
    Branch = 2,
    /// A part.
    Part = 3,
}

/// A child of a snapshot or branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Child {
    /// What it is.
    pub kind: ChildKind,
    /// Files below it.
    pub files: u32,
    /// Their bytes.
    pub bytes: u64,
    /// The node.
    pub id: ShortId,
    /// Where it lies.
    pub place: Place,
    /// Its content digest.
    pub digest: Digest16,
}

/// The root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotNode {
    /// What the snapshot is besides files; knows the paths of the folders.
    pub meta: ChunkRef,
    /// The folders, in the order of the meta chunk (branches above them if there are many).
    pub folders: Vec<Child>,
}

/// Stores needs in a node of their own.
pub type PutNeeds<'f, E> = dyn FnMut(&Needs) -> Result<(ShortId, Place), E> + 'f;

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// The root of a snapshot.
    Snapshot(SnapshotNode),
    /// A list of children.
    Branch(Vec<Child>),
    /// Files of one folder.
    Part(Part),
    /// Children of a long file: (length, subtree).
    Stream {
        /// Of this node; its children's is one less.
        level: u8,
        /// Lengths and subtrees.
        children: Vec<(u64, TreeRef)>,
    },
    /// Extents.
    Leaf(Vec<Extent>),
    /// Needs that were too many for their entry.
    Needs(Needs),
}
