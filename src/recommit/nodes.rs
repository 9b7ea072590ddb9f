//! Reading structure nodes with the table key and the id key alone.

use crate::repo::RepoError;
use crate::repo::bytes::Malformed;
use crate::repo::log::Root;
use crate::repo::pack::{Packs, Place};
use crate::repo::structure::{Needs, Node};
use crate::units::{Digest16, ShortId};

/// The most levels of branches, or of stream nodes above leaves, that are read.
pub(super) const MAX_DEPTH: usize = 8;

/// Where the root of a snapshot lies.
///
/// # Errors
/// If no place looks so.
pub(super) fn place_of(root: &Root) -> Result<Place, RepoError> {
    let position = u16::try_from(root.place.position).map_err(|_| wrong("its root's position is too large"))?;
    Ok(Place { pack: root.place.pack, blob: root.place.blob, position })
}

/// Reads a node: its id and its content digest are those that its parent says. `needs_node` is told where needs lie that
/// have a node of their own.
///
/// # Errors
/// If it can't be read, or is another one.
pub(super) fn read(
    packs: &Packs,
    id: ShortId,
    place: Place,
    digest: Digest16,
    needs_node: &mut dyn FnMut(Place) -> Result<(), RepoError>,
) -> Result<Node, RepoError> {
    let chunk = packs.node(id, place)?;
    let node = Node::decode(chunk.bytes(), &mut |id, place| {
        needs_node(place)?;
        let chunk = packs.node(id, place)?;
        match Node::decode(chunk.bytes(), &mut |_, _| Err(RepoError::from(Malformed("needs within needs"))))? {
            Node::Needs(needs) => Ok::<Needs, RepoError>(needs),
            _ => Err(wrong("needs are another kind of node")),
        }
    })?;
    if node.digest() != digest {
        return Err(wrong("a node has not the content digest that its parent names"));
    }
    Ok(node)
}

/// A tree that isn't what it must be.
pub(super) fn wrong(why: &str) -> RepoError {
    RepoError::Corrupt { object: "a snapshot".into(), why: why.into() }
}
