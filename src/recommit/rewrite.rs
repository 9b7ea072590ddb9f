//! A snapshot's tree with the places where things lie from now on. Only what names a pack that is emptied, or a damaged place,
//! is written anew, and what stands above it; every node is the same content, by its digest.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::carry::Carried;
use super::nodes::{self, MAX_DEPTH, wrong};
use super::writing::Writing;
use crate::crypt::ChunkRole;
use crate::repo::RepoError;
use crate::repo::log::{Fold, LiveCommit, Place as LogPlace, Root};
use crate::repo::pack::Place;
use crate::repo::structure::{Child, ChildKind, ChunkRef, Extent, FileData, FileEntry, Needs, Node, NodeSink, Part, SnapshotNode, TreeRef};
use crate::repo::write::{Stored, is_of_one_pack};
use crate::units::{Cancel, ChunkId, Digest16, PackId, SessionId, ShortId};

/// A node, by where it lay.
type Key = (SessionId, PackId, u32);

/// What became of subtrees under the snapshots before: those that several share are written once.
#[derive(Default)]
pub(super) struct Memo {
    /// Parts, with all packs that they need.
    parts: HashMap<Key, New<BTreeSet<PackId>>>,
    /// Trees of files.
    trees: HashMap<Key, New<Needs>>,
}

/// Id, place, and what the subtree needs.
type New<N> = (ShortId, Place, N);

/// One snapshot on the way.
pub(super) struct Rewrite<'a, 'w> {
    pub writing: &'a Writing,
    pub carried: &'a mut Carried<'w>,
    pub memo: &'a mut Memo,
    pub fold: &'a Fold,
    pub work: &'a super::plan::Work,
    pub trusts: &'a dyn Fn(&SessionId, &SessionId) -> bool,
    /// Packs that nodes are moved out of.
    pub touched: &'a HashSet<PackId>,
    pub cancel: &'a Cancel,
    /// The packs that the new tree needs.
    pub used: BTreeSet<PackId>,
}

/// A node that is stored.
struct Put {
    id: ShortId,
    place: Place,
    bytes: u32,
    /// All of it, if it was written anew.
    chunk: Option<ChunkId>,
}

impl Rewrite<'_, '_> {
    /// Rewrites the tree of a COMMIT; `used` has then every pack that it needs.
    pub fn root(&mut self, commit: &LiveCommit) -> Result<Root, RepoError> {
        let (root, place) = (commit.root, nodes::place_of(&commit.root)?);
        let (Node::Snapshot(old), at) = self.read(root.chunk.short(), place, root.digest)? else {
            return Err(wrong("its root is another kind of node"));
        };
        let mut used = BTreeSet::new();
        let meta = self.content(&old.meta, &mut used)?;
        let folders = old.folders.iter().map(|child| self.child(child, 0, &mut used)).collect::<Result<Vec<_>, _>>()?;
        let new = Node::Snapshot(SnapshotNode { meta, folders });
        // Of another snapshot's root nothing but its short id is known.
        let changed = new != Node::Snapshot(old) || at.1 != place;
        let put = self.put(&new, at, changed, root.digest)?;
        used.insert(put.place.pack);
        used.extend(self.writing.writer.outside());
        self.used = used;
        let Place { pack, blob, position } = put.place;
        let place = LogPlace { pack, blob, position: position.into() };
        Ok(Root { chunk: put.chunk.unwrap_or(root.chunk), place, digest: root.digest })
    }

    /// A node, and where it lies: if it can't be read, a whole one of the same content stands in for it.
    fn read(&self, id: ShortId, place: Place, digest: Digest16) -> Result<(Node, (ShortId, Place)), RepoError> {
        let at = |id, place| nodes::read(&self.writing.packs, id, place, digest, &mut |_| Ok(()));
        let error = match at(id, place) {
            Err(e) if is_of_one_pack(&e) => e,
            read => return read.map(|node| (node, (id, place))),
        };
        let lost = self.writing.session_of(place.pack)?;
        for node in self.work.live.nodes_of(&digest) {
            let (session, there) = (node.at.session, node.at.place);
            let is_that = self.writing.session_of(there.pack).is_ok_and(|known| known == session);
            if !is_that || !self.writing.may_name(there.pack) || !(self.trusts)(&session, &lost) {
                continue;
            }
            match at(node.id, there) {
                Err(e) if !is_of_one_pack(&e) => return Err(e),
                Err(_) => {}
                Ok(whole) => return Ok((whole, (node.id, there))),
            }
        }
        Err(error)
    }

    /// Stores a node, if it changed or has to go from where it is.
    fn put(&mut self, node: &Node, old: (ShortId, Place), changed: bool, digest: Digest16) -> Result<Put, RepoError> {
        let (id, place) = old;
        if !changed && !self.carried.empties(self.writing, place.pack) {
            let table = self.writing.packs.table(place.pack)?;
            let bytes = table.find(place).map_or(0, |(row, _, _)| row.len);
            return Ok(Put { id, place, bytes, chunk: None });
        }
        if node.digest() != digest {
            return Err(RepoError::internal("a node that was to get other places has another content"));
        }
        let (chunk, place, bytes) = self.writing.writer.put_node(node)?;
        self.writing.stored(place.pack);
        self.writing.writer.outside().into_iter().for_each(|pack| self.writing.stored(pack));
        Ok(Put { id: chunk.short(), place, bytes, chunk: Some(chunk) })
    }

    fn child(&mut self, child: &Child, depth: usize, used: &mut BTreeSet<PackId>) -> Result<Child, RepoError> {
        self.cancel.check()?;
        match child.kind {
            ChildKind::Part => self.part(child, used),
            ChildKind::Branch if depth < MAX_DEPTH => {
                let (Node::Branch(old), at) = self.read(child.id, child.place, child.digest)? else {
                    return Err(wrong("a branch is another kind of node"));
                };
                let new = old.iter().map(|below| self.child(below, depth + 1, used)).collect::<Result<Vec<_>, _>>()?;
                let changed = new != old;
                let put = self.put(&Node::Branch(new), at, changed, child.digest)?;
                used.insert(put.place.pack);
                Ok(Child { id: put.id, place: put.place, ..*child })
            }
            ChildKind::Branch => Err(wrong("a folder is nested too deeply")),
        }
    }

    fn part(&mut self, child: &Child, used: &mut BTreeSet<PackId>) -> Result<Child, RepoError> {
        let key = (self.writing.session_of(child.place.pack)?, child.place.pack, child.place.blob);
        if let Some((id, place, packs)) = self.memo.parts.get(&key).filter(|(_, _, packs)| self.may_name_all(packs.iter())) {
            used.extend(packs);
            return Ok(Child { id: *id, place: *place, ..*child });
        }
        let (Node::Part(old), at) = self.read(child.id, child.place, child.digest)? else {
            return Err(wrong("a part is another kind of node"));
        };
        let mut packs = BTreeSet::new();
        let attributes = self.content(&old.attributes, &mut packs)?;
        let joint = old.joint.iter().map(|chunk| self.content(chunk, &mut packs)).collect::<Result<Vec<_>, _>>()?;
        let files = old.files.iter().map(|file| self.file(file, &mut packs)).collect::<Result<Vec<_>, _>>()?;
        let new = Part { attributes, joint, files };
        let changed = new != old;
        let put = self.put(&Node::Part(new), at, changed, child.digest)?;
        packs.insert(put.place.pack);
        if put.chunk.is_some() {
            // Needs that were too many for their entry lie in one of these.
            packs.extend(self.writing.writer.outside());
        }
        used.extend(&packs);
        self.memo.parts.insert(key, (put.id, put.place, packs));
        Ok(Child { id: put.id, place: put.place, ..*child })
    }

    fn may_name_all<'p>(&self, mut packs: impl Iterator<Item = &'p PackId>) -> bool {
        packs.all(|pack| self.writing.may_name(*pack) && !self.carried.empties(self.writing, *pack))
    }

    fn file(&mut self, file: &FileEntry, used: &mut BTreeSet<PackId>) -> Result<FileEntry, RepoError> {
        let data = match &file.data {
            FileData::Single { id, place, needs } if self.touches(needs) => {
                let len = u32::try_from(file.len).map_err(|_| wrong("a file is longer than its chunk"))?;
                let mut new = Needs::default();
                let chunk = self.chunk(&ChunkRef { id: *id, place: *place, len }, needs, &mut new)?;
                FileData::Single { id: *id, place: chunk.place, needs: new }
            }
            FileData::Tree { root, needs } if self.touches(needs) => {
                let (root, needs) = self.whole_tree(root, needs)?;
                FileData::Tree { root, needs }
            }
            same => same.clone(),
        };
        if let FileData::Single { needs, .. } | FileData::Tree { needs, .. } = &data {
            used.extend(needs.0.keys());
        }
        Ok(FileEntry { len: file.len, data })
    }

    fn touches(&self, needs: &Needs) -> bool {
        needs.0.keys().any(|pack| self.touched.contains(pack))
    }

    fn whole_tree(&mut self, root: &TreeRef, before: &Needs) -> Result<(TreeRef, Needs), RepoError> {
        let key = (self.writing.session_of(root.place.pack)?, root.place.pack, root.place.blob);
        if let Some((id, place, needs)) = self.memo.trees.get(&key).filter(|(_, _, needs)| self.may_name_all(needs.0.keys())) {
            return Ok((TreeRef { id: *id, place: *place, ..*root }, needs.clone()));
        }
        let mut needs = Needs::default();
        let new = self.tree(root, before, &mut needs)?;
        self.memo.trees.insert(key, (new.id, new.place, needs.clone()));
        Ok((new, needs))
    }

    fn tree(&mut self, tree: &TreeRef, before: &Needs, needs: &mut Needs) -> Result<TreeRef, RepoError> {
        self.cancel.check()?;
        if usize::from(tree.level) > MAX_DEPTH {
            return Err(wrong("the tree of a file is too deep"));
        }
        let (old, at) = self.read(tree.id, tree.place, tree.digest)?;
        let new = match &old {
            Node::Leaf(extents) if tree.level == 0 => {
                let one = |extent: &Extent| match extent {
                    Extent::Chunk(chunk) => Ok(Extent::Chunk(self.chunk(chunk, before, needs)?)),
                    Extent::Zeros(len) => Ok(Extent::Zeros(*len)),
                };
                Node::Leaf(extents.iter().map(one).collect::<Result<Vec<_>, RepoError>>()?)
            }
            Node::Stream { level, children } if *level == tree.level => {
                if !children.iter().all(|(_, child)| u32::from(child.level) + 1 == u32::from(*level)) {
                    return Err(wrong("the tree of a file has another level than it says"));
                }
                let one = |(len, child): &(u64, TreeRef)| Ok((*len, self.tree(child, before, needs)?));
                Node::Stream { level: *level, children: children.iter().map(one).collect::<Result<Vec<_>, RepoError>>()? }
            }
            _ => return Err(wrong("a node of a file is another kind of node")),
        };
        let changed = new != old;
        let put = self.put(&new, at, changed, tree.digest)?;
        needs.add(put.place.pack, put.bytes.into());
        Ok(TreeRef { id: put.id, place: put.place, ..*tree })
    }

    /// A chunk of a part's or the snapshot's own.
    fn content(&mut self, chunk: &ChunkRef, used: &mut BTreeSet<PackId>) -> Result<ChunkRef, RepoError> {
        let mut needs = Needs::default();
        let new = self.chunk(chunk, &Needs::default(), &mut needs)?;
        used.extend(needs.0.keys());
        Ok(new)
    }

    /// Where a chunk lies from now on, and what it takes to read it. If that can't be known, since the pack is damaged, it
    /// stays, and so does all that the entry needed `before`.
    fn chunk(&mut self, chunk: &ChunkRef, before: &Needs, needs: &mut Needs) -> Result<ChunkRef, RepoError> {
        match self.place(chunk) {
            Ok(stored) => {
                stored.add_to(needs);
                Ok(ChunkRef { place: stored.place, ..*chunk })
            }
            Err(e) if is_of_one_pack(&e) => {
                needs.add(chunk.place.pack, 1);
                for (pack, bytes) in &before.0 {
                    if !needs.0.contains_key(pack) {
                        needs.add(*pack, *bytes);
                    }
                }
                Ok(*chunk)
            }
            Err(e) => Err(e),
        }
    }

    fn place(&mut self, chunk: &ChunkRef) -> Result<Stored, RepoError> {
        let place = chunk.place;
        if let Some(stored) = self.carried.get(self.writing, place)? {
            return Ok(stored);
        }
        if self.is_damaged(place)?
            && let Some(stored) = self.healed(chunk)?
        {
            return Ok(stored);
        }
        let packs = &self.writing.packs;
        let table = packs.table(place.pack)?;
        let (row, id, _) = table.find(place).ok_or_else(|| wrong("a node names a blob that its pack hasn't"))?;
        if id.short() != chunk.id || row.role != ChunkRole::Content {
            return Err(wrong("another chunk lies where this one is expected"));
        }
        let reference = match row.references.as_slice() {
            [] => None,
            [one] => Some(*one),
            _ => return Err(wrong("a blob has several references")),
        };
        if let Some(of) = reference
            && self.is_damaged(of.place)?
            && let Some(stored) = self.healed(chunk)?
        {
            return Ok(stored);
        }
        let goes =
            self.carried.empties(self.writing, place.pack) || reference.is_some_and(|of| self.carried.empties(self.writing, of.place.pack));
        if goes && let Some(stored) = self.carried.copy(self.writing, place)? {
            return Ok(stored);
        }
        let reference = match reference {
            Some(of) => {
                let table = packs.table(of.place.pack)?;
                let (whole, _, _) = table.find(of.place).ok_or_else(|| wrong("a patch refers to a blob that its pack hasn't"))?;
                Some((of, whole.len))
            }
            None => None,
        };
        Ok(Stored { place, bytes: row.len, reference })
    }

    fn is_damaged(&self, place: Place) -> Result<bool, RepoError> {
        Ok(self.fold.is_damaged(&self.writing.session_of(place.pack)?, &place.pack, place.blob))
    }

    /// The same chunk at another place, by a key that the snapshot relies on anyway, or this host.
    fn healed(&self, chunk: &ChunkRef) -> Result<Option<Stored>, RepoError> {
        let lost = self.writing.session_of(chunk.place.pack)?;
        for there in self.work.elsewhere().get(&chunk.id).into_iter().flatten() {
            let is_that = self.writing.session_of(there.place.pack).is_ok_and(|session| session == there.session);
            if !is_that || !(self.trusts)(&there.session, &lost) || self.carried.empties(self.writing, there.place.pack) {
                continue;
            }
            if let Some(stored) = self.writing.writer.stored_at(chunk.id, there.place)? {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }
}
