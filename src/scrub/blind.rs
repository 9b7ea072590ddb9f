//! The trees of live snapshots, as far as they can be walked without what opens content: every node, and each chunk where it is said
//! to be. Names, attributes, and what the files are called that damage hits stay unread.

use std::collections::BTreeSet;

use super::failure::{Damage, ScrubError};
use super::memo::{NodeKey, PackNumber};
use super::places::Places;
use super::state::{State, Trees};
use super::tree::damage_at;
use crate::repo::RepoError;
use crate::repo::log::{LiveCommit, entry_name};
use crate::repo::pack::Place;
use crate::repo::structure::{ChunkRef, Extent, FileData, Node, Part};
use crate::units::{Digest16, ShortId};

/// The most nodes above each other.
const MAX_DEPTH: usize = 24;

/// A walk without what opens content.
pub(super) struct BlindCheck<'a> {
    pub trees: Trees<'a>,
}

impl BlindCheck<'_> {
    /// Walks the tree of one COMMIT.
    pub fn run(&self, number: u64, commit: &LiveCommit) -> Result<(), ScrubError> {
        let (log, id) = (entry_name(number), commit.summary.id.as_str());
        let hit = |damage: &Damage| self.trees.findings.hit(damage, id, None);
        let Some((packs, place)) = self.trees.begin(commit, &log) else { return Ok(()) };
        let places = Places { packs: &packs, bad: self.trees.bad, memo: self.trees.memo };
        let walk = Walk { check: self, places, set: self.trees.memo.set(&commit.set), log: &log };
        let mut state = State::default();
        walk.node(commit.root.chunk.short(), place, commit.root.digest, 0, &mut state)?;
        state.damage.values().for_each(hit);
        self.trees.progress.advance(commit.summary.cluster_bytes);
        Ok(())
    }
}

/// One snapshot on the way.
struct Walk<'a> {
    check: &'a BlindCheck<'a>,
    places: Places<'a>,
    /// The packs that the COMMIT names.
    set: BTreeSet<PackNumber>,
    log: &'a str,
}

impl Walk<'_> {
    fn damage(&self, e: RepoError, place: Place) -> Result<Damage, RepoError> {
        damage_at(e, self.places.packs, place, self.log)
    }

    /// A node and all below it, unless that was found whole before.
    fn node(&self, id: ShortId, place: Place, digest: Digest16, depth: usize, state: &mut State) -> Result<(), RepoError> {
        self.check.trees.cancel.check()?;
        let session = match self.places.packs.known(place.pack) {
            Ok(pack) => pack.session,
            Err(e) => {
                state.add(self.damage(e, place)?);
                return Ok(());
            }
        };
        let key = NodeKey::of(session, place, id, digest);
        if state.take_known(self.check.trees.memo, &key, &self.set, self.log) {
            return Ok(());
        }
        let mut own = State::default();
        own.relies.insert(self.places.number(place)?);
        match self.read(id, place, digest, &mut own) {
            Ok(node) if depth < MAX_DEPTH => self.below(&node, depth + 1, &mut own)?,
            Ok(_) => own.add(Damage::new(self.log, "its tree is too deep")),
            Err(e) => own.add(self.damage(e, place)?),
        }
        if own.damage.is_empty() {
            self.check.trees.memo.keep(key, &own.relies);
        }
        state.relies.extend(own.relies);
        own.damage.into_values().for_each(|damage| state.add(damage));
        Ok(())
    }

    fn read(&self, id: ShortId, place: Place, digest: Digest16, state: &mut State) -> Result<Node, RepoError> {
        let packs = self.places.packs;
        let wrong = |why: &str| match packs.name(place.pack) {
            Ok(name) => RepoError::corrupt(&name, why),
            Err(e) => e,
        };
        let node = packs.node(id, place)?;
        let node = Node::decode(node.bytes(), &mut |id, place| {
            state.relies.insert(self.places.number(place)?);
            let needs = packs.node(id, place)?;
            match Node::decode(needs.bytes(), &mut |_, _| Err(wrong("needs within needs")))? {
                Node::Needs(needs) => Ok::<_, RepoError>(needs),
                _ => Err(wrong("needs are another kind of node")),
            }
        })?;
        if node.digest() == digest { Ok(node) } else { Err(wrong("a node has not the content digest that its parent names")) }
    }

    fn below(&self, node: &Node, depth: usize, state: &mut State) -> Result<(), RepoError> {
        match node {
            Node::Snapshot(root) => {
                self.chunk(&root.meta, state)?;
                root.folders.iter().try_for_each(|child| self.node(child.id, child.place, child.digest, depth, state))
            }
            Node::Branch(children) => children.iter().try_for_each(|child| self.node(child.id, child.place, child.digest, depth, state)),
            Node::Part(part) => self.part(part, depth, state),
            Node::Stream { children, .. } => {
                children.iter().try_for_each(|(_, tree)| self.node(tree.id, tree.place, tree.digest, depth, state))
            }
            Node::Leaf(extents) => extents.iter().try_for_each(|extent| match extent {
                Extent::Chunk(chunk) => self.chunk(chunk, state),
                Extent::Zeros(_) => Ok(()),
            }),
            Node::Needs(_) => Ok(()),
        }
    }

    fn part(&self, part: &Part, depth: usize, state: &mut State) -> Result<(), RepoError> {
        self.chunk(&part.attributes, state)?;
        part.joint.iter().try_for_each(|chunk| self.chunk(chunk, state))?;
        for file in &part.files {
            match &file.data {
                FileData::Single { id, place, .. } => match u32::try_from(file.len) {
                    Ok(len) => self.chunk(&ChunkRef { id: *id, place: *place, len }, state)?,
                    Err(_) => state.add(Damage::new(self.log, "a file is longer than the chunk that holds it")),
                },
                FileData::Tree { root, .. } => self.node(root.id, root.place, root.digest, depth, state)?,
                FileData::Empty | FileData::Zeros | FileData::Joint { .. } | FileData::Folder => {}
            }
        }
        Ok(())
    }

    fn chunk(&self, chunk: &ChunkRef, state: &mut State) -> Result<(), RepoError> {
        if let Err(e) = self.places.chunk(chunk, &mut state.relies) {
            state.add(self.damage(e, chunk.place)?);
        }
        Ok(())
    }
}
