//! What snapshots need of packs that are lost: their tables can't say it any more, and the nodes of the trees still can. Nothing but
//! nodes is read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::packs::refs_of;
use crate::crypt::Sealing;
use crate::repo::RepoError;
use crate::repo::log::{Fold, LiveCommit};
use crate::repo::pack::{Packs, Place};
use crate::repo::structure::{ChunkRef, Extent, FileData, Needs, Node, Part};
use crate::repo::write::is_of_one_pack;
use crate::store::{Backend, StoreError};
use crate::units::{Cancel, PackId, SessionId, ShortId};

/// Chunks by the pack that is lost.
pub(super) type Needed = HashMap<(SessionId, PackId), HashSet<ShortId>>;

/// Chunks that are remembered.
const MOST: usize = 1 << 20;
/// Levels of nodes that are read.
const MAX_DEPTH: usize = 8;

/// The chunks that live snapshots need out of these packs, themselves or as what a patch refers to. What lies below nodes that
/// can't be read isn't among them.
///
/// # Errors
/// If the store can't be reached.
pub(super) fn needed_of(
    backend: &Arc<dyn Backend>,
    sealing: &Sealing,
    fold: &Fold,
    lost: &HashSet<(SessionId, PackId)>,
    cancel: &Cancel,
) -> Result<Needed, RepoError> {
    let (mut needed, mut seen) = (Needed::new(), HashSet::new());
    for commit in fold.commits.values() {
        let ids: HashMap<PackId, SessionId> =
            commit.set.iter().filter(|(session, id)| lost.contains(&(**session, **id))).map(|(session, id)| (*id, *session)).collect();
        if ids.is_empty() {
            continue;
        }
        let packs = Packs::new(Arc::clone(backend), sealing.clone());
        packs.add(refs_of(fold, &commit.set));
        let mut walk = Walk { packs: &packs, lost: &ids, needed: &mut needed, seen: &mut seen, cancel };
        walk.root(commit)?;
    }
    Ok(needed)
}

/// One snapshot on the way.
struct Walk<'a> {
    packs: &'a Packs,
    /// The lost packs, as the COMMIT means them.
    lost: &'a HashMap<PackId, SessionId>,
    needed: &'a mut Needed,
    /// Nodes that were read, under other snapshots too.
    seen: &'a mut HashSet<(SessionId, PackId, u32)>,
    cancel: &'a Cancel,
}

impl Walk<'_> {
    fn root(&mut self, commit: &LiveCommit) -> Result<(), RepoError> {
        let at = &commit.root.place;
        let Ok(position) = u16::try_from(at.position) else { return Ok(()) };
        let place = Place { pack: at.pack, blob: at.blob, position };
        self.node(commit.root.chunk.short(), place, 0)
    }

    /// Takes what a node names, and what lies below it.
    fn node(&mut self, id: ShortId, place: Place, depth: usize) -> Result<(), RepoError> {
        self.cancel.check()?;
        let Ok(pack) = self.packs.known(place.pack) else { return Ok(()) };
        if depth > 2 * MAX_DEPTH || !self.seen.insert((pack.session, pack.id, place.blob)) {
            return Ok(());
        }
        match self.read(id, place) {
            Ok(Node::Snapshot(root)) => {
                self.chunk(&root.meta)?;
                root.folders.iter().try_for_each(|child| self.node(child.id, child.place, depth + 1))
            }
            Ok(Node::Branch(children)) => children.iter().try_for_each(|child| self.node(child.id, child.place, depth + 1)),
            Ok(Node::Part(part)) => self.part(&part, depth),
            Ok(Node::Stream { children, .. }) => children.iter().try_for_each(|(_, tree)| self.node(tree.id, tree.place, depth + 1)),
            Ok(Node::Leaf(extents)) => extents.iter().try_for_each(|extent| match extent {
                Extent::Chunk(chunk) => self.chunk(chunk),
                Extent::Zeros(_) => Ok(()),
            }),
            Ok(Node::Needs(_)) => Ok(()),
            Err(e) => passed_over(e),
        }
    }

    fn read(&self, id: ShortId, place: Place) -> Result<Node, RepoError> {
        let node = self.packs.node(id, place)?;
        Node::decode(node.bytes(), &mut |id, place| {
            let needs = self.packs.node(id, place)?;
            match Node::decode(needs.bytes(), &mut |_, _| Err(RepoError::internal("needs within needs")))? {
                Node::Needs(needs) => Ok(needs),
                _ => Err(RepoError::Corrupt { object: "a snapshot".into(), why: "needs are another kind of node".into() }),
            }
        })
    }

    fn part(&mut self, part: &Part, depth: usize) -> Result<(), RepoError> {
        self.chunk(&part.attributes)?;
        part.joint.iter().try_for_each(|chunk| self.chunk(chunk))?;
        for file in &part.files {
            match &file.data {
                FileData::Single { id, place, needs } if self.concerns(needs) => {
                    self.chunk(&ChunkRef { id: *id, place: *place, len: 0 })?;
                }
                FileData::Tree { root, needs } if self.concerns(needs) => self.node(root.id, root.place, depth + 1)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn concerns(&self, needs: &Needs) -> bool {
        needs.0.keys().any(|pack| self.lost.contains_key(pack))
    }

    fn chunk(&mut self, chunk: &ChunkRef) -> Result<(), RepoError> {
        self.need(chunk.place.pack, chunk.id);
        if self.lost.contains_key(&chunk.place.pack) {
            return Ok(());
        }
        let table = match self.packs.table(chunk.place.pack) {
            Ok(table) => table,
            Err(e) => return passed_over(e),
        };
        let references = table.find(chunk.place).map(|(row, _, _)| row.references.as_slice()).unwrap_or_default();
        references.iter().for_each(|reference| self.need(reference.place.pack, chunk.id));
        Ok(())
    }

    fn need(&mut self, pack: PackId, chunk: ShortId) {
        if let Some(session) = self.lost.get(&pack) {
            let chunks = self.needed.entry((*session, pack)).or_default();
            if chunks.len() < MOST {
                chunks.insert(chunk);
            }
        }
    }
}

/// Damage was told before; only a store that can't be reached ends this.
fn passed_over(e: RepoError) -> Result<(), RepoError> {
    match e {
        e if is_of_one_pack(&e) => Ok(()),
        RepoError::Store(StoreError::Io { .. }) => Ok(()),
        e => Err(e),
    }
}
