//! The trees of live snapshots, node by node: ids and digests re-computed, each place looked up in its pack's table, with
//! the references of patches, and each pack in the COMMIT's set. Only content is not read, but names and attributes.

use std::collections::BTreeSet;
use std::sync::Arc;

use rayon::prelude::*;

use super::failure::{Damage, ScrubError, damage};
use super::memo::{NodeKey, PackNumber};
use super::places::Places;
use super::state::{State, Trees};
use crate::crypt::Opening;
use crate::pg::facts::ClusterFacts;
use crate::repo::RepoError;
use crate::repo::log::{LiveCommit, entry_name};
use crate::repo::pack::{Packs, Place};
use crate::repo::structure::{Child, ChunkRef, Extent, FileData, Snapshot, StoredFile, TreeRef, leaves_and_nodes, read_leaf};
use crate::units::{Digest16, ShortId, with_causes};

/// A walk with what opens content.
pub(super) struct TreeCheck<'a> {
    pub trees: Trees<'a>,
    pub opening: &'a Opening,
}

impl TreeCheck<'_> {
    /// Walks the tree of one COMMIT.
    pub fn run(&self, number: u64, commit: &LiveCommit) -> Result<(), ScrubError> {
        let (log, id) = (entry_name(number), commit.summary.id.as_str());
        let hit = |damage: &Damage| self.trees.findings.hit(damage, id, None);
        let Some((packs, place)) = self.trees.begin(commit, &log) else { return Ok(()) };
        let root = &commit.root;
        let snapshot = match Snapshot::open(&packs, self.opening, root.chunk.short(), place, root.digest) {
            Ok(snapshot) => snapshot,
            Err(e) => {
                hit(&damage_at(e, &packs, place, &log)?);
                return Ok(());
            }
        };
        if commit.summary.kind == "physical"
            && let Err(e) = serde_json::from_value::<ClusterFacts>(snapshot.meta().extra.clone())
        {
            hit(&Damage::new(&*log, format!("what the snapshot says of its cluster can't be read: {}", with_causes(&e))));
        }
        let set = self.trees.memo.set(&commit.set);
        let walk = Walk { check: self, packs: &packs, snapshot: &snapshot, set, id, log: &log };
        let all = snapshot.folders().and_then(|folders| Ok((folders, snapshot.annexes()?)));
        let (folders, annexes) = match all {
            Ok(all) => all,
            Err(e) => {
                hit(&damage_at(e, &packs, place, &log)?);
                return Ok(());
            }
        };
        folders.par_iter().try_for_each(|(meta, child)| walk.folder(&meta.path, child))?;
        // What lies beside the data directory: no path of it looks so.
        annexes.par_iter().try_for_each(|(name, child)| walk.folder(format!("({name})").as_bytes(), child))
    }
}

/// The object of a pack; the COMMIT's entry, if that doesn't name it.
fn object_of(packs: &Packs, place: Place, log: &str) -> String {
    packs.name(place.pack).map_or_else(|_| log.to_owned(), |name| name.to_string())
}

/// The damage that an error tells of, met at `place`.
pub(super) fn damage_at(e: RepoError, packs: &Packs, place: Place, log: &str) -> Result<Damage, RepoError> {
    match &e {
        RepoError::UnknownPack { pack } => Ok(Damage::new(log, format!("its tree needs pack {pack}, which it does not name"))),
        _ => damage(e, &object_of(packs, place, log)),
    }
}

/// One snapshot on the way.
struct Walk<'a> {
    check: &'a TreeCheck<'a>,
    packs: &'a Packs,
    snapshot: &'a Snapshot<'a>,
    /// The packs that the COMMIT names.
    set: BTreeSet<PackNumber>,
    id: &'a str,
    log: &'a str,
}

impl Walk<'_> {
    fn hit(&self, damage: &Damage, path: &[u8]) {
        self.check.trees.findings.hit(damage, self.id, Some(path));
    }

    fn damage(&self, e: RepoError, place: Place) -> Result<Damage, RepoError> {
        damage_at(e, self.packs, place, self.log)
    }

    /// A pack that is relied on.
    fn number(&self, place: Place) -> Result<PackNumber, RepoError> {
        Ok(self.check.trees.memo.number(self.packs.known(place.pack)?.session, place.pack))
    }

    fn key(&self, id: ShortId, place: Place, digest: Digest16) -> Result<NodeKey, RepoError> {
        Ok(NodeKey::of(self.packs.known(place.pack)?.session, place, id, digest))
    }

    /// A subtree that was found whole before: see [`State::take_known`].
    fn known(&self, id: ShortId, place: Place, digest: Digest16, state: &mut State) -> Result<bool, RepoError> {
        Ok(state.take_known(self.check.trees.memo, &self.key(id, place, digest)?, &self.set, self.log))
    }

    fn keep(&self, id: ShortId, place: Place, digest: Digest16, relies: &BTreeSet<PackNumber>) -> Result<(), RepoError> {
        self.check.trees.memo.keep(self.key(id, place, digest)?, relies);
        Ok(())
    }

    fn folder(&self, path: &[u8], child: &Child) -> Result<(), ScrubError> {
        let state = match self.folder_state(path, child) {
            Ok(state) => state,
            Err(e) => {
                let mut state = State::default();
                state.add(self.damage(e, child.place)?);
                state
            }
        };
        state.damage.values().for_each(|damage| self.hit(damage, &inside(path)));
        Ok(())
    }

    fn folder_state(&self, path: &[u8], child: &Child) -> Result<State, RepoError> {
        let mut state = State::default();
        if !path.is_empty() && path.split(|b| *b == b'/').any(|name| name.is_empty() || name == b"." || name == b".." || name.contains(&0))
        {
            state.add(Damage::new(object_of(self.packs, child.place, self.log), "it names a folder that is no path in a data directory"));
        }
        if self.known(child.id, child.place, child.digest, &mut state)? {
            self.check.trees.progress.advance(child.bytes);
            return Ok(state);
        }
        let mut branches = Vec::new();
        let mut unread = Vec::new();
        let parts = self.snapshot.parts_despite(child, &mut |branch| branches.push(branch.place), &mut |branch, e| {
            unread.push(self.damage(e, branch.place)?);
            Ok(())
        })?;
        for place in branches {
            state.relies.insert(self.number(place)?);
        }
        unread.into_iter().for_each(|damage| state.add(damage));
        let walked = parts.par_iter().map(|part| self.part(path, part)).collect::<Result<Vec<_>, RepoError>>()?;
        let whole = walked.iter().all(Option::is_some) && state.damage.is_empty();
        state.relies.extend(walked.into_iter().flatten().flatten());
        if whole {
            self.keep(child.id, child.place, child.digest, &state.relies)?;
        }
        Ok(state)
    }

    /// What a part relies on, if it is whole; else what is hit was told.
    fn part(&self, path: &[u8], child: &Child) -> Result<Option<BTreeSet<PackNumber>>, RepoError> {
        self.check.trees.cancel.check()?;
        let state = match self.part_state(path, child) {
            Ok(state) => state,
            Err(e) => {
                let mut state = State::default();
                state.add(self.damage(e, child.place)?);
                Some(state)
            }
        };
        self.check.trees.progress.advance(child.bytes);
        // None: of some files, which were told.
        let Some(state) = state else { return Ok(None) };
        state.damage.values().for_each(|damage| self.hit(damage, &inside(path)));
        Ok(state.damage.is_empty().then_some(state.relies))
    }

    fn part_state(&self, path: &[u8], child: &Child) -> Result<Option<State>, RepoError> {
        let mut state = State::default();
        if self.known(child.id, child.place, child.digest, &mut state)? {
            return Ok(Some(state));
        }
        let (attributes, files) = self.snapshot.part(child)?;
        state.relies.insert(self.number(child.place)?);
        state.relies.insert(self.number(attributes.place)?);
        let joint = files.first().map(|file| Arc::clone(&file.joint)).unwrap_or_default();
        let joint = joint.iter().map(|chunk| self.joint(chunk)).collect::<Result<Vec<_>, _>>()?;
        let walked = files.par_iter().map(|file| self.file(child, file, &joint)).collect::<Result<Vec<_>, RepoError>>()?;
        let mut whole = joint.iter().all(|joint| joint.damage.is_empty());
        for (file, walked) in files.iter().zip(walked) {
            whole &= walked.damage.is_empty();
            walked.damage.values().for_each(|damage| self.hit(damage, &join(path, &file.attributes.name)));
            state.relies.extend(walked.relies);
        }
        joint.into_iter().for_each(|joint| state.relies.extend(joint.relies));
        if whole {
            self.keep(child.id, child.place, child.digest, &state.relies)?;
        }
        Ok(whole.then_some(state))
    }

    fn joint(&self, chunk: &ChunkRef) -> Result<State, RepoError> {
        let mut state = State::default();
        self.chunk(chunk, &mut state)?;
        Ok(state)
    }

    fn file(&self, part: &Child, file: &StoredFile, joint: &[State]) -> Result<State, RepoError> {
        let mut state = State::default();
        let lies = |why: &str| Damage::new(object_of(self.packs, part.place, self.log), format!("an entry for a file is wrong: {why}"));
        let entry = &file.entry;
        if file.attributes.is_folder != (entry.data == FileData::Folder) {
            state.add(lies("its name is a folder's and its data are not, or the other way round"));
        }
        let needs = match &entry.data {
            FileData::Empty if entry.len != 0 => {
                state.add(lies("it is empty, and has a length"));
                return Ok(state);
            }
            FileData::Empty | FileData::Zeros | FileData::Folder => return Ok(state),
            FileData::Joint { chunk, offset } => {
                let index = usize::from(*chunk);
                match (joint.get(index), file.joint.get(index)) {
                    (Some(joint), Some(chunk)) => {
                        joint.damage.values().cloned().for_each(|damage| state.add(damage));
                        if u64::from(*offset).saturating_add(entry.len) > u64::from(chunk.len) || *offset < 16 {
                            state.add(lies("it lies outside the chunk that holds it"));
                        }
                    }
                    _ => state.add(lies("it lies in a chunk that the part hasn't")),
                }
                return Ok(state);
            }
            FileData::Single { id, place, needs } => {
                match u32::try_from(entry.len) {
                    Ok(len) => self.chunk(&ChunkRef { id: *id, place: *place, len }, &mut state)?,
                    Err(_) => state.add(lies("it is longer than a chunk")),
                }
                needs
            }
            FileData::Tree { root, needs } => {
                if let Err(e) = self.tree(*root, entry.len, &mut state) {
                    state.add(self.damage(e, root.place)?);
                }
                needs
            }
        };
        if state.damage.is_empty() {
            self.needs(part, needs, &mut state)?;
        }
        Ok(state)
    }

    /// A writer that inherits the file trusts its needs: they must name all that it relies on.
    fn needs(&self, part: &Child, needs: &crate::repo::structure::Needs, state: &mut State) -> Result<(), RepoError> {
        let mut named = BTreeSet::new();
        for pack in needs.0.keys() {
            let place = Place { pack: *pack, blob: 0, position: 0 };
            match self.number(place) {
                Ok(number) => _ = named.insert(number),
                Err(e) => state.add(self.damage(e, place)?),
            }
        }
        if let Some(left_out) = state.relies.iter().find(|number| !named.contains(number)) {
            let pack = self.check.trees.memo.pack(*left_out).map(|(_, pack)| pack.to_string()).unwrap_or_default();
            let why = format!("the needs of a file leave out pack {pack}, on which it relies");
            state.add(Damage::new(object_of(self.packs, part.place, self.log), why));
        }
        state.relies.extend(named);
        Ok(())
    }

    /// The tree of a long file.
    fn tree(&self, root: TreeRef, len: u64, state: &mut State) -> Result<(), RepoError> {
        if self.known(root.id, root.place, root.digest, state)? {
            return Ok(());
        }
        let mut nodes = Vec::new();
        let leaves = leaves_and_nodes(self.packs, root, len, &mut |place| nodes.push(place))?;
        for place in nodes {
            state.relies.insert(self.number(place)?);
        }
        if leaves.is_empty() {
            state.add(Damage::new(object_of(self.packs, root.place, self.log), "the tree of a file has no leaves"));
        }
        for (len, leaf) in leaves {
            self.check.trees.cancel.check()?;
            if let Err(e) = self.leaf(leaf, len, state) {
                state.add(self.damage(e, leaf.place)?);
            }
        }
        if state.damage.is_empty() {
            self.keep(root.id, root.place, root.digest, &state.relies)?;
        }
        Ok(())
    }

    fn leaf(&self, leaf: TreeRef, len: u64, state: &mut State) -> Result<(), RepoError> {
        if self.known(leaf.id, leaf.place, leaf.digest, state)? {
            return Ok(());
        }
        let extents = read_leaf(self.packs, leaf)?;
        let mut own = State::default();
        own.relies.insert(self.number(leaf.place)?);
        let sum = extents.iter().fold(0u64, |sum, e| sum.saturating_add(e.len().into()));
        if sum != len || extents.iter().any(Extent::is_empty) {
            own.add(Damage::new(object_of(self.packs, leaf.place, self.log), "a leaf has not the length that its tree says"));
        }
        for extent in &extents {
            if let Extent::Chunk(chunk) = extent {
                self.chunk(chunk, &mut own)?;
            }
        }
        if own.damage.is_empty() {
            self.keep(leaf.id, leaf.place, leaf.digest, &own.relies)?;
        }
        state.relies.extend(own.relies);
        own.damage.into_values().for_each(|damage| state.add(damage));
        Ok(())
    }

    /// A chunk of content is where it is said to be, and so is what it is a patch of.
    fn chunk(&self, chunk: &ChunkRef, state: &mut State) -> Result<(), RepoError> {
        let places = Places { packs: self.packs, bad: self.check.trees.bad, memo: self.check.trees.memo };
        if let Err(e) = places.chunk(chunk, &mut state.relies) {
            state.add(self.damage(e, chunk.place)?);
        }
        Ok(())
    }
}

/// All that is in a folder.
fn inside(path: &[u8]) -> Vec<u8> {
    [path, b"/"].concat()
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}
