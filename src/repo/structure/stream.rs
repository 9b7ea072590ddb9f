//! The tree of one file's extents. Leaves can be made in any order, by several threads; the tree above them at the end.

use super::{Extent, FANOUT, FileData, LEAF, Needs, Node, NodeSink, TreeRef};
use crate::repo::RepoError;

/// A stored leaf.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Bytes of the file that it covers.
    pub len: u64,
    /// The node.
    pub tree: TreeRef,
    /// What its extents and itself need.
    pub needs: Needs,
}

/// Stores a leaf of at most [`LEAF`] extents. `needs` is what the extents need.
///
/// # Errors
/// If it can't be stored.
pub fn put_leaf(sink: &dyn NodeSink, extents: Vec<Extent>, mut needs: Needs) -> Result<Leaf, RepoError> {
    debug_assert!(extents.len() <= LEAF);
    let len = extents.iter().map(|e| u64::from(e.len())).sum();
    let node = Node::Leaf(extents);
    let (id, place, stored) = sink.put_node(&node)?;
    needs.add(place.pack, stored.into());
    Ok(Leaf { len, tree: TreeRef { level: 0, id: id.short(), place, digest: node.digest() }, needs })
}

/// What a file's entry says of a file with these few extents.
///
/// # Errors
/// If a node can't be stored.
pub fn file_of_extents(sink: &dyn NodeSink, extents: Vec<Extent>, needs: Needs) -> Result<FileData, RepoError> {
    if extents.is_empty() {
        return Ok(FileData::Empty);
    }
    if extents.iter().all(|e| matches!(e, Extent::Zeros(_))) {
        return Ok(FileData::Zeros);
    }
    if let [Extent::Chunk(chunk)] = extents.as_slice() {
        return Ok(FileData::Single { id: chunk.id, place: chunk.place, needs });
    }
    file_of_leaves(sink, vec![put_leaf(sink, extents, needs)?])
}

/// What a file's entry says of a file with these leaves.
///
/// # Errors
/// If a node can't be stored.
pub fn file_of_leaves(sink: &dyn NodeSink, leaves: Vec<Leaf>) -> Result<FileData, RepoError> {
    let mut needs = Needs::default();
    leaves.iter().for_each(|leaf| needs.join(&leaf.needs));
    let mut row: Vec<(u64, TreeRef)> = leaves.into_iter().map(|leaf| (leaf.len, leaf.tree)).collect();
    let mut level = 0;
    while row.len() > 1 {
        level += 1;
        let mut above = Vec::with_capacity(row.len().div_ceil(FANOUT));
        for children in row.chunks(FANOUT) {
            let node = Node::Stream { level, children: children.to_vec() };
            let (id, place, stored) = sink.put_node(&node)?;
            needs.add(place.pack, stored.into());
            above.push((children.iter().map(|(len, _)| len).sum(), TreeRef { level, id: id.short(), place, digest: node.digest() }));
        }
        row = above;
    }
    Ok(match row.first() {
        Some((_, root)) => FileData::Tree { root: *root, needs },
        None => FileData::Empty,
    })
}
