//! Which blobs live snapshots need: a bit for each blob of each pack that one of them names, by a walk over all nodes.
//!
//! A node's bit says that it was walked: each is read once, under however many snapshots it stands. Of content nothing is
//! read. What patches refer to comes from the tables, which are read once each afterwards, in the order of packs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::choose::PackUse;
use super::nodes::{self, MAX_DEPTH, wrong};
use super::together::Drags;
use crate::crypt::{ChunkRole, Sealing};
use crate::repo::log::{Fold, LiveCommit};
use crate::repo::pack::{LoadedTable, Packs, Place, Row};
use crate::repo::structure::{Child, ChildKind, ChunkRef, Extent, FileData, Needs, Node, Part, TreeRef};
use crate::repo::write::is_of_one_pack;
use crate::repo::{PackRef, RepoError};
use crate::store::Backend;
use crate::units::{Cancel, Digest16, PackId, Progress, SessionId, ShortId};

/// Bytes of the smallest row of a table: a pack hasn't more blobs than its tail has room for.
const ROW: u32 = 92;
/// Chunks at damaged places for which another place is looked for.
const MOST_WANTED: usize = 1 << 20;

/// A set of blob numbers.
#[derive(Clone, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// Puts it in; was it not there?
    fn set(&mut self, number: u32) -> bool {
        let (word, bit) = ((number / 64) as usize, 1u64 << (number % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        match self.0.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    pub fn get(&self, number: u32) -> bool {
        self.0.get((number / 64) as usize).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
}

/// A pack that live snapshots name.
pub(super) struct Named {
    pub pack: PackRef,
    /// Blobs that a live snapshot needs.
    pub live: Bits,
    /// Blobs that the newest snapshot of a cluster needs.
    pub current: Bits,
    /// Bytes of nodes in other packs that stand above something in this one: they have to be written anew with it.
    above: u64,
    movable: bool,
}

/// A place that may serve for another one of the same chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elsewhere {
    pub session: SessionId,
    pub place: Place,
}

/// A node that is whole, by its content digest: as good as any other of that digest.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeAt {
    pub id: ShortId,
    pub at: Elsewhere,
}

/// A node that can't be read, in a snapshot that names damaged packs.
struct Unread {
    commit: u64,
    digest: Digest16,
    /// The session whose pack it lies in.
    session: SessionId,
    error: RepoError,
}

/// What all live snapshots need.
#[derive(Default)]
pub(super) struct Live {
    pub packs: Vec<Named>,
    index: HashMap<(SessionId, PackId), usize>,
    by_id: HashMap<PackId, Vec<usize>>,
    /// Snapshots that can't be walked, and why.
    pub unreadable: BTreeMap<u64, RepoError>,
    /// Bytes of live patches against chunks in other packs.
    pub drags: Drags,
    /// Chunks that snapshots name at damaged places.
    wanted: HashSet<ShortId>,
    /// Packs of such places.
    pub damaged: BTreeSet<usize>,
    /// Where they were stored anew.
    pub elsewhere: HashMap<ShortId, Vec<Elsewhere>>,
    /// Whole nodes, where anything is damaged at all.
    nodes: HashMap<Digest16, Vec<NodeAt>>,
    unread: Vec<Unread>,
    /// Nodes that can't be read and have whole ones of the same content elsewhere.
    pub healed_nodes: usize,
}

/// What it takes to look.
pub(super) struct Look<'a> {
    pub backend: &'a Arc<dyn Backend>,
    pub sealing: &'a Sealing,
    pub fold: &'a Fold,
    pub cancel: &'a Cancel,
    pub progress: &'a dyn Progress,
}

impl Live {
    /// Walks all live snapshots. Packs of those for which `replaceable` says no are not to be emptied.
    ///
    /// # Errors
    /// If the store can't be reached: damage makes a snapshot unreadable.
    pub fn walk(look: &Look<'_>, replaceable: &dyn Fn(&LiveCommit) -> bool) -> Result<Live, RepoError> {
        let mut live = Live::default();
        let superseded = look.fold.superseded();
        let commits: Vec<_> = look.fold.commits.iter().filter(|(number, _)| !superseded.contains(number)).collect();
        let mut newest: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for (number, commit) in &commits {
            let at = newest.entry((commit.summary.cluster_id(), &commit.summary.kind)).or_default();
            *at = (*at).max((commit.first, **number));
        }
        let newest: BTreeSet<u64> = newest.into_values().map(|(_, number)| number).collect();
        look.progress.phase("walking snapshots", Some(commits.len() as u64));
        // The newest first: what they need is current, whoever else needs it.
        for is_newest in [true, false] {
            for (number, commit) in commits.iter().filter(|(number, _)| newest.contains(number) == is_newest) {
                look.cancel.check()?;
                live.one(look, **number, commit, is_newest, replaceable(commit))?;
                look.progress.advance(1);
            }
        }
        Ok(live)
    }

    fn one(&mut self, look: &Look<'_>, number: u64, commit: &LiveCommit, current: bool, replaceable: bool) -> Result<(), RepoError> {
        let packs = Packs::new(Arc::clone(look.backend), look.sealing.clone());
        let mut ids = HashMap::new();
        for (session, id) in commit.set.iter() {
            let Some(facts) = look.fold.pack(session, id) else { continue };
            let pack = PackRef { session: *session, id: *id, hash: facts.hash, size: facts.size, tail: facts.tail };
            packs.add([pack]);
            ids.insert(*id, self.number(pack));
        }
        let walked = nodes::place_of(&commit.root).and_then(|place| {
            let damaged = |(session, id): (&SessionId, &PackId)| look.fold.damaged.get(session).is_some_and(|packs| packs.contains_key(id));
            let in_doubt = commit.set.iter().any(damaged);
            let mut walk = Walk { live: &mut *self, look, packs: &packs, ids: &ids, current, number, in_doubt };
            walk.root(commit, place)
        });
        let unreadable = match walked {
            Ok(()) => false,
            Err(e) if is_of_one_pack(&e) => {
                self.unreadable.insert(number, e);
                true
            }
            Err(e) => return Err(e),
        };
        if unreadable || !replaceable {
            ids.values().for_each(|number| self.stays(*number));
        }
        Ok(())
    }

    fn stays(&mut self, number: usize) {
        if let Some(named) = self.packs.get_mut(number) {
            named.movable = false;
        }
    }

    /// Settles what becomes of nodes that can't be read: a whole one of the same content stands in for each, if `trusts` says so of
    /// its session and the lost one's; else the snapshot is unreadable.
    pub fn heal_nodes(&mut self, fold: &Fold, trusts: &dyn Fn(&SessionId, &SessionId) -> bool) {
        for unread in std::mem::take(&mut self.unread) {
            let Some(commit) = fold.commits.get(&unread.commit) else { continue };
            let all: Vec<usize> = commit.set.iter().filter_map(|(session, id)| self.index.get(&(*session, *id)).copied()).collect();
            let is_damaged = |n: &usize| {
                let pack = self.packs.get(*n).map(|named| named.pack);
                pack.is_some_and(|p| fold.damaged.get(&p.session).is_some_and(|packs| packs.contains_key(&p.id)))
            };
            if self.nodes.get(&unread.digest).into_iter().flatten().any(|node| trusts(&node.at.session, &unread.session)) {
                self.healed_nodes += 1;
                self.damaged.extend(all.into_iter().filter(is_damaged));
            } else {
                self.unreadable.entry(unread.commit).or_insert(unread.error);
                all.into_iter().for_each(|number| self.stays(number));
            }
        }
    }

    /// Whole nodes of this content.
    pub fn nodes_of(&self, digest: &Digest16) -> &[NodeAt] {
        self.nodes.get(digest).map(Vec::as_slice).unwrap_or_default()
    }

    fn number(&mut self, pack: PackRef) -> usize {
        *self.index.entry((pack.session, pack.id)).or_insert_with(|| {
            self.packs.push(Named { pack, live: Bits::default(), current: Bits::default(), above: 0, movable: true });
            let number = self.packs.len() - 1;
            self.by_id.entry(pack.id).or_default().push(number);
            number
        })
    }

    /// The pack of a session.
    pub fn of(&self, session: SessionId, id: PackId) -> Option<&Named> {
        self.packs.get(*self.index.get(&(session, id))?)
    }

    /// Reads all tables, adds what live patches refer to, and sums up.
    ///
    /// # Errors
    /// If the store can't be reached.
    pub fn weigh(&mut self, look: &Look<'_>) -> Result<Vec<PackUse>, RepoError> {
        look.progress.phase("reading tables", Some(self.packs.len() as u64));
        let mut order: Vec<usize> = (0..self.packs.len()).collect();
        order.sort_by_key(|n| self.packs.get(*n).map(|p| (p.pack.session, p.pack.id)));
        let (mut uses, mut dragged, mut again) = (BTreeMap::new(), HashMap::<usize, u64>::new(), BTreeSet::new());
        for number in order {
            look.cancel.check()?;
            let table = self.table(look, number)?;
            let (mut marks, mut moves) = (Vec::new(), Vec::new());
            if let (Some(table), Some(named)) = (&table, self.packs.get(number)) {
                for (blob, row) in table.rows().iter().enumerate().filter(|(blob, _)| named.live.get(*blob as u32)) {
                    for reference in &row.references {
                        marks.push((reference.place, named.current.get(blob as u32)));
                        moves.push((reference.place, row.len, row.chunks.first().map(|(id, _)| id.short())));
                    }
                }
            }
            for (place, current) in marks {
                for of in self.by_id.get(&place.pack).cloned().unwrap_or_default() {
                    if self.mark(of, place.blob, current).unwrap_or(false) && uses.contains_key(&of) {
                        again.insert(of);
                    }
                }
            }
            for (place, len, chunk) in moves {
                for of in self.by_id.get(&place.pack).cloned().unwrap_or_default() {
                    if of != number {
                        *self.drags.entry((of, number)).or_default() += u64::from(len);
                        *dragged.entry(of).or_default() += u64::from(len);
                    }
                    if self.is_damaged(look.fold, of, place.blob) {
                        self.damaged.insert(of);
                        self.want(chunk);
                    }
                }
            }
            uses.insert(number, self.sum(number, table.as_deref()));
            look.progress.advance(1);
        }
        for number in again {
            let table = self.table(look, number)?;
            uses.insert(number, self.sum(number, table.as_deref()));
        }
        for (number, bytes) in dragged {
            if let Some(of) = uses.get_mut(&number) {
                of.drags = bytes;
            }
        }
        // Damaged blobs that somebody needs can't be copied.
        for number in &self.damaged {
            if let Some(of) = uses.get_mut(number) {
                of.movable = false;
            }
        }
        // By their numbers: the choice's indices are ours.
        Ok(uses.into_values().collect())
    }

    fn table(&self, look: &Look<'_>, number: usize) -> Result<Option<Arc<LoadedTable>>, RepoError> {
        let Some(named) = self.packs.get(number) else { return Ok(None) };
        let packs = Packs::new(Arc::clone(look.backend), look.sealing.clone());
        packs.add([named.pack]);
        match packs.table(named.pack.id) {
            Ok(table) => Ok(Some(table)),
            Err(e) if is_of_one_pack(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn sum(&self, number: usize, table: Option<&LoadedTable>) -> PackUse {
        let none =
            PackUse { session: SessionId([0; 16]), id: PackId([0; 16]), size: 0, blobs: 0, live: 0, drags: 0, above: 0, movable: false };
        let Some(named) = self.packs.get(number) else { return none };
        let rows = || table.into_iter().flat_map(LoadedTable::rows).enumerate();
        let bytes = |(_, row): (usize, &Row)| u64::from(row.len);
        PackUse {
            session: named.pack.session,
            id: named.pack.id,
            size: named.pack.size,
            blobs: rows().map(bytes).sum(),
            live: rows().filter(|(blob, _)| named.live.get(*blob as u32)).map(bytes).sum(),
            drags: 0,
            above: named.above,
            movable: named.movable && table.is_some(),
        }
    }

    fn mark(&mut self, number: usize, blob: u32, current: bool) -> Option<bool> {
        let named = self.packs.get_mut(number)?;
        if blob >= named.pack.tail / ROW {
            return None;
        }
        if current {
            named.current.set(blob);
        }
        Some(named.live.set(blob))
    }

    fn is_damaged(&self, fold: &Fold, number: usize, blob: u32) -> bool {
        self.packs.get(number).is_some_and(|named| fold.is_damaged(&named.pack.session, &named.pack.id, blob))
    }

    fn want(&mut self, chunk: Option<ShortId>) {
        if self.wanted.len() < MOST_WANTED {
            self.wanted.extend(chunk);
        }
    }

    /// Looks in all tables for chunks that snapshots name at damaged places.
    ///
    /// # Errors
    /// If the store can't be reached.
    pub fn look_elsewhere(&mut self, look: &Look<'_>) -> Result<(), RepoError> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        for number in 0..self.packs.len() {
            look.cancel.check()?;
            let (Some(table), Some(named)) = (self.table(look, number)?, self.packs.get(number)) else { continue };
            let PackRef { session, id, .. } = named.pack;
            for (blob, row) in table.rows().iter().enumerate().filter(|(_, row)| row.role == ChunkRole::Content) {
                let damaged = |place: Place| {
                    let of = self.by_id.get(&place.pack).map(Vec::as_slice).unwrap_or_default();
                    of.is_empty() || of.iter().any(|n| self.is_damaged(look.fold, *n, place.blob))
                };
                if look.fold.is_damaged(&session, &id, blob as u32) || row.references.iter().any(|r| damaged(r.place)) {
                    continue;
                }
                for (position, (chunk, _)) in row.chunks.iter().enumerate().filter(|(_, (chunk, _))| self.wanted.contains(&chunk.short())) {
                    let place = Place { pack: id, blob: blob as u32, position: position as u16 };
                    self.elsewhere.entry(chunk.short()).or_default().push(Elsewhere { session, place });
                }
            }
        }
        Ok(())
    }
}

impl Live {
    /// How many chunks at damaged places are nowhere else.
    pub fn lost(&self) -> usize {
        self.wanted.len().saturating_sub(self.elsewhere.len())
    }
}

/// All packs that a part names.
fn packs_of(part: &Part) -> BTreeSet<PackId> {
    let mut packs: BTreeSet<PackId> = part.joint.iter().map(|chunk| chunk.place.pack).collect();
    packs.insert(part.attributes.place.pack);
    for file in &part.files {
        match &file.data {
            FileData::Single { place, needs, .. } => packs.extend(needs.0.keys().copied().chain([place.pack])),
            FileData::Tree { root, needs } => packs.extend(needs.0.keys().copied().chain([root.place.pack])),
            FileData::Empty | FileData::Zeros | FileData::Joint { .. } | FileData::Folder => {}
        }
    }
    packs
}

/// One snapshot on the way.
struct Walk<'a> {
    live: &'a mut Live,
    look: &'a Look<'a>,
    packs: &'a Packs,
    ids: &'a HashMap<PackId, usize>,
    current: bool,
    /// The COMMIT's.
    number: u64,
    /// It names packs in which something is damaged.
    in_doubt: bool,
}

impl Walk<'_> {
    /// Somebody needs this blob; did nobody before?
    fn mark(&mut self, place: Place) -> Result<bool, RepoError> {
        let number = *self.ids.get(&place.pack).ok_or(RepoError::UnknownPack { pack: place.pack })?;
        self.live.mark(number, place.blob, self.current).ok_or_else(|| wrong("a node names a blob that its pack has no room for"))
    }

    fn chunk(&mut self, chunk: &ChunkRef) -> Result<(), RepoError> {
        self.mark(chunk.place)?;
        if let Some(number) = self.ids.get(&chunk.place.pack).filter(|n| self.live.is_damaged(self.look.fold, **n, chunk.place.blob)) {
            self.live.damaged.insert(*number);
            self.live.want(Some(chunk.id));
        }
        Ok(())
    }

    /// Reads a node, unless it was walked before; with its length, and that of needs that have nodes of their own.
    fn node(&mut self, id: ShortId, place: Place, digest: Digest16) -> Result<Option<(Node, u64)>, RepoError> {
        if !self.mark(place)? {
            return Ok(None);
        }
        let mut outside = Vec::new();
        let read = nodes::read(self.packs, id, place, digest, &mut |place| {
            outside.push(place);
            Ok(())
        });
        let session = self.packs.known(place.pack)?.session;
        let node = match read {
            Err(error) if self.in_doubt && is_of_one_pack(&error) => {
                self.live.unread.push(Unread { commit: self.number, digest, session, error });
                return Ok(None);
            }
            read => read?,
        };
        if !self.look.fold.damaged.is_empty() && self.live.nodes.len() < MOST_WANTED {
            let node = NodeAt { id, at: Elsewhere { session, place } };
            self.live.nodes.entry(digest).or_default().push(node);
        }
        let mut len = self.len(place)?;
        for place in outside {
            self.mark(place)?;
            len = len.saturating_add(self.len(place)?);
        }
        Ok(Some((node, len)))
    }

    fn len(&self, place: Place) -> Result<u64, RepoError> {
        Ok(self.packs.table(place.pack)?.find(place).map_or(0, |(row, _, _)| row.len.into()))
    }

    /// A node of that length, in that pack, would be written anew if one of these packs were emptied.
    fn stands_above(&mut self, len: u64, pack: PackId, below: impl IntoIterator<Item = PackId>) {
        let others: BTreeSet<PackId> = below.into_iter().filter(|other| *other != pack).collect();
        for number in others.iter().filter_map(|other| self.ids.get(other)) {
            if let Some(named) = self.live.packs.get_mut(*number) {
                named.above = named.above.saturating_add(len);
            }
        }
    }

    fn root(&mut self, commit: &LiveCommit, place: Place) -> Result<(), RepoError> {
        match self.node(commit.root.chunk.short(), place, commit.root.digest)? {
            Some((Node::Snapshot(root), len)) => {
                self.stands_above(len, place.pack, self.ids.keys().copied());
                self.chunk(&root.meta)?;
                root.folders.iter().try_for_each(|child| self.child(child, 0))
            }
            Some(_) => Err(wrong("its root is another kind of node")),
            None => Ok(()),
        }
    }

    fn child(&mut self, child: &Child, depth: usize) -> Result<(), RepoError> {
        match (child.kind, self.node(child.id, child.place, child.digest)?) {
            (_, None) => Ok(()),
            (ChildKind::Branch, Some((Node::Branch(children), len))) if depth < MAX_DEPTH => {
                self.stands_above(len, child.place.pack, self.ids.keys().copied());
                children.iter().try_for_each(|child| self.child(child, depth + 1))
            }
            (ChildKind::Part, Some((Node::Part(part), len))) => {
                self.stands_above(len, child.place.pack, packs_of(&part));
                self.part(&part)
            }
            _ => Err(wrong("a child is another kind of node, or lies too deep")),
        }
    }

    fn part(&mut self, part: &Part) -> Result<(), RepoError> {
        self.look.cancel.check()?;
        self.chunk(&part.attributes)?;
        part.joint.iter().try_for_each(|chunk| self.chunk(chunk))?;
        for file in &part.files {
            match &file.data {
                FileData::Single { id, place, .. } => self.chunk(&ChunkRef { id: *id, place: *place, len: 0 })?,
                FileData::Tree { root, needs } => self.tree(root, needs)?,
                FileData::Empty | FileData::Zeros | FileData::Joint { .. } | FileData::Folder => {}
            }
        }
        Ok(())
    }

    fn tree(&mut self, tree: &TreeRef, needs: &Needs) -> Result<(), RepoError> {
        if usize::from(tree.level) > MAX_DEPTH {
            return Err(wrong("the tree of a file is too deep"));
        }
        match self.node(tree.id, tree.place, tree.digest)? {
            None => Ok(()),
            Some((Node::Leaf(extents), len)) if tree.level == 0 => {
                let chunks = || extents.iter().filter_map(|extent| if let Extent::Chunk(chunk) = extent { Some(chunk) } else { None });
                self.stands_above(len, tree.place.pack, chunks().map(|chunk| chunk.place.pack));
                chunks().try_for_each(|chunk| self.chunk(chunk))
            }
            Some((Node::Stream { level, children }, len)) if level == tree.level => {
                self.stands_above(len, tree.place.pack, needs.0.keys().copied());
                // The levels go down, so this ends.
                let below = |child: &TreeRef| u32::from(child.level) + 1 == u32::from(level);
                if !children.iter().all(|(_, child)| below(child)) {
                    return Err(wrong("the tree of a file has another level than it says"));
                }
                children.iter().try_for_each(|(_, child)| self.tree(child, needs))
            }
            Some(_) => Err(wrong("a node of a file is another kind of node")),
        }
    }
}
