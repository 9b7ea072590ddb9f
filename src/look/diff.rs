//! What changed between two snapshots: by the content digests of subtrees, so that what is equal is not looked at, and by
//! chunk ids, so that no data are read but small files that lie together with others.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rayon::prelude::*;

use super::LookError;
use super::files::slice;
use super::tree::{Tree, join};
use crate::crypt::Opening;
use crate::repo::RepoError;
use crate::repo::pack::{Packs, VerifiedChunk};
use crate::repo::structure::{Child, Extent, FileData, StoredFile, TreeRef};
use crate::units::{Cancel, Digest16, ShortId};

/// A file that is not in both snapshots with the same bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// Below the data directory.
    pub path: Vec<u8>,
    /// Which relation it belongs to, where that is known.
    pub relation: Option<String>,
    /// Of a changed file: bytes in extents that differ, and what it lost at its end. Of another: its length.
    pub bytes: u64,
    /// Its length in the first snapshot; 0 if it is not there.
    pub before: u64,
    /// Its length in the second snapshot; 0 if it is not there.
    pub after: u64,
}

/// The differences, each list sorted by path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diff {
    /// In both, with other bytes.
    pub changed: Vec<Changed>,
    /// In the second alone.
    pub added: Vec<Changed>,
    /// In the first alone.
    pub removed: Vec<Changed>,
}

/// One snapshot, open.
pub struct Side<'a> {
    /// Its tree.
    pub tree: &'a Tree<'a>,
    /// Its packs.
    pub packs: &'a Packs,
    /// What opens content.
    pub opening: &'a Opening,
}

/// Compares the files of two snapshots. Files that differ only in their attributes are equal.
///
/// # Errors
/// If one of them can't be read where they differ.
pub fn diff(before: &Side<'_>, after: &Side<'_>, cancel: &Cancel) -> Result<Diff, LookError> {
    let folders: BTreeSet<&[u8]> = before.tree.folders().chain(after.tree.folders()).collect();
    let folders: Vec<&[u8]> = folders.into_iter().collect();
    let diffs = folders
        .par_iter()
        .map(|path| {
            cancel.check().map_err(RepoError::from)?;
            folder(before, after, path, cancel)
        })
        .collect::<Result<Vec<Diff>, LookError>>()?;
    let mut all = Diff::default();
    for diff in diffs {
        all.changed.extend(diff.changed);
        all.added.extend(diff.added);
        all.removed.extend(diff.removed);
    }
    for list in [&mut all.changed, &mut all.added, &mut all.removed] {
        list.sort_by(|a, b| a.path.cmp(&b.path));
    }
    Ok(all)
}

fn folder(before: &Side<'_>, after: &Side<'_>, path: &[u8], cancel: &Cancel) -> Result<Diff, LookError> {
    let digests = |side: &Side<'_>| side.tree.children(path).iter().map(|c| c.digest).collect::<Vec<_>>();
    let mut diff = Diff::default();
    let beside = |side: &Side<'_>| !side.tree.beside(path).is_empty();
    if digests(before) == digests(after) && !beside(before) && !beside(after) {
        return Ok(diff);
    }
    // Parts are divided by names alone: most of them are equal.
    let (old, new) = (parts(before, path)?, parts(after, path)?);
    let common: HashSet<Digest16> = {
        let old: HashSet<Digest16> = old.iter().map(|c| c.digest).collect();
        new.iter().map(|c| c.digest).filter(|digest| old.contains(digest)).collect()
    };
    let mut old = files(before, path, &old, &common)?;
    let new = files(after, path, &new, &common)?;
    let mut joints = Joints::default();
    for (name, file) in new {
        cancel.check().map_err(RepoError::from)?;
        let inner = join(path, &name);
        let relation = after.tree.relation(&inner);
        let after_len = file.entry.len;
        match old.remove(&name) {
            None => diff.added.push(Changed { path: inner, relation, bytes: after_len, before: 0, after: after_len }),
            Some(was) => {
                let bytes = compare((before, &was), (after, &file), &mut joints)?;
                if bytes > 0 || was.entry.len != after_len {
                    let relation = relation.or_else(|| before.tree.relation(&inner));
                    diff.changed.push(Changed { path: inner, relation, bytes, before: was.entry.len, after: after_len });
                }
            }
        }
    }
    for (name, file) in old {
        let inner = join(path, &name);
        let relation = before.tree.relation(&inner);
        diff.removed.push(Changed { path: inner, relation, bytes: file.entry.len, before: file.entry.len, after: 0 });
    }
    Ok(diff)
}

fn parts(side: &Side<'_>, path: &[u8]) -> Result<Vec<Child>, LookError> {
    let mut parts = Vec::new();
    for child in side.tree.children(path) {
        parts.extend(side.tree.snapshot.parts(child)?);
    }
    Ok(parts)
}

fn files(side: &Side<'_>, path: &[u8], parts: &[Child], common: &HashSet<Digest16>) -> Result<BTreeMap<Vec<u8>, StoredFile>, LookError> {
    let mut files: BTreeMap<_, _> = side.tree.beside(path).iter().map(|f| (f.attributes.name.clone(), f.clone())).collect();
    for part in parts.iter().filter(|part| !common.contains(&part.digest)) {
        let stored = side.tree.snapshot.files(part)?.into_iter().filter(|f| !f.attributes.is_folder);
        files.extend(stored.map(|f| (f.attributes.name.clone(), f)));
    }
    Ok(files)
}

/// The last joint chunk read of each side: the files of one lie behind each other.
#[derive(Default)]
struct Joints {
    chunks: [Option<(ShortId, VerifiedChunk)>; 2],
}

impl Joints {
    /// The bytes of a file that lies in a joint chunk.
    fn bytes(&mut self, which: usize, side: &Side<'_>, file: &StoredFile) -> Result<Option<Vec<u8>>, RepoError> {
        let FileData::Joint { chunk, offset } = &file.entry.data else { return Ok(None) };
        let wrong = || RepoError::Corrupt {
            object: super::show_path(&file.attributes.name),
            why: "it lies outside the chunk that holds it".into(),
        };
        let chunk = file.joint.get(usize::from(*chunk)).ok_or_else(wrong)?;
        let slot = self.chunks.get_mut(which).ok_or(RepoError::internal("a third side"))?;
        let kept = match slot.take().filter(|(id, _)| *id == chunk.id) {
            Some(kept) => kept,
            None => (chunk.id, side.packs.content(side.opening, chunk.id, chunk.place)?),
        };
        let (_, bytes) = slot.insert(kept);
        Ok(Some(slice(bytes.bytes(), *offset, file.entry.len).ok_or_else(wrong)?.to_vec()))
    }
}

/// How many bytes of two forms of a file differ.
fn compare(before: (&Side<'_>, &StoredFile), after: (&Side<'_>, &StoredFile), joints: &mut Joints) -> Result<u64, RepoError> {
    let (old, new) = (before.1, after.1);
    let lost = old.entry.len.saturating_sub(new.entry.len);
    match (&old.entry.data, &new.entry.data) {
        (FileData::Joint { .. }, FileData::Joint { .. }) if same_slice(old, new) => Ok(0),
        // What else lies in their chunk gives it another id: these alone are read.
        (FileData::Joint { .. }, FileData::Joint { .. }) => {
            let (a, b) = (joints.bytes(0, before.0, old)?, joints.bytes(1, after.0, new)?);
            Ok(if a == b { 0 } else { new.entry.len.max(lost) })
        }
        (FileData::Joint { .. }, _) | (_, FileData::Joint { .. }) => Ok(new.entry.len.max(lost)),
        (FileData::Tree { root: a, .. }, FileData::Tree { root: b, .. }) if a.digest == b.digest => Ok(lost),
        _ => {
            let same = shared_leaves(before, after)?;
            let (a, b) = (Extents::of(before, &same)?, Extents::of(after, &same)?);
            Ok(b.not_in(&a).saturating_add(lost))
        }
    }
}

fn same_slice(a: &StoredFile, b: &StoredFile) -> bool {
    let at = |file: &StoredFile| match &file.entry.data {
        FileData::Joint { chunk, offset } => file.joint.get(usize::from(*chunk)).map(|c| (c.id, *offset)),
        _ => None,
    };
    a.entry.len == b.entry.len && at(a).is_some() && at(a) == at(b)
}

/// The leaves of a file with where they begin.
fn leaves(of: (&Side<'_>, &StoredFile)) -> Result<Vec<(u64, u64, TreeRef)>, RepoError> {
    let mut at = 0u64;
    let leaves = of.0.tree.snapshot.leaves(&of.1.entry)?;
    Ok(leaves
        .into_iter()
        .map(|(len, leaf)| {
            let begin = at;
            at = at.saturating_add(len);
            (begin, len, leaf)
        })
        .collect())
}

/// Leaves that both files have at the same place with the same content.
fn shared_leaves(before: (&Side<'_>, &StoredFile), after: (&Side<'_>, &StoredFile)) -> Result<HashSet<(u64, u64, Digest16)>, RepoError> {
    let old: HashSet<_> = leaves(before)?.into_iter().map(|(at, len, leaf)| (at, len, leaf.digest)).collect();
    Ok(leaves(after)?.into_iter().map(|(at, len, leaf)| (at, len, leaf.digest)).filter(|leaf| old.contains(leaf)).collect())
}

/// A file as stretches: (from, length) → chunk, or none for zeros; without what both forms share.
struct Extents {
    at: BTreeMap<(u64, u64), Option<ShortId>>,
    ids: HashSet<ShortId>,
    /// Nothing but zeros.
    zeros: bool,
}

impl Extents {
    fn of(of: (&Side<'_>, &StoredFile), shared: &HashSet<(u64, u64, Digest16)>) -> Result<Self, RepoError> {
        let entry = &of.1.entry;
        let mut extents = Extents { at: BTreeMap::new(), ids: HashSet::new(), zeros: matches!(entry.data, FileData::Zeros) };
        match &entry.data {
            FileData::Zeros => _ = extents.at.insert((0, entry.len), None),
            FileData::Single { id, .. } => extents.add(0, entry.len, Some(*id)),
            FileData::Tree { .. } => {
                for (begin, len, leaf) in leaves(of)? {
                    if shared.contains(&(begin, len, leaf.digest)) {
                        continue;
                    }
                    let mut at = begin;
                    for extent in of.0.tree.snapshot.leaf(leaf)? {
                        let id = match &extent {
                            Extent::Zeros(_) => None,
                            Extent::Chunk(chunk) => Some(chunk.id),
                        };
                        extents.add(at, extent.len().into(), id);
                        at = at.saturating_add(extent.len().into());
                    }
                }
            }
            FileData::Empty | FileData::Folder | FileData::Joint { .. } => {}
        }
        Ok(extents)
    }

    fn add(&mut self, at: u64, len: u64, id: Option<ShortId>) {
        self.at.insert((at, len), id);
        self.ids.extend(id);
    }

    /// Bytes of the stretches that the other hasn't: at the same place, or, where stretches are cut by content and have
    /// moved, at all.
    fn not_in(&self, other: &Extents) -> u64 {
        let differs = |(place, id): &(&(u64, u64), &Option<ShortId>)| match (other.at.get(place), id) {
            (Some(there), id) => there != *id,
            (None, Some(id)) => !other.ids.contains(id),
            (None, None) => !(other.zeros || self.zeros && other.ids.is_empty()),
        };
        self.at.iter().filter(differs).map(|((_, len), _)| *len).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXTENT: u64 = 256 << 10;

    /// A file of extents: the id of each, 0 for zeros.
    fn extents(ids: &[u8]) -> Extents {
        let mut extents = Extents { at: BTreeMap::new(), ids: HashSet::new(), zeros: !ids.is_empty() && ids.iter().all(|id| *id == 0) };
        if extents.zeros {
            extents.at.insert((0, EXTENT * ids.len() as u64), None);
            return extents;
        }
        for (i, id) in ids.iter().enumerate() {
            extents.add(i as u64 * EXTENT, EXTENT, (*id != 0).then_some(ShortId([*id; 16])));
        }
        extents
    }

    #[test]
    fn bytes_that_differ_are_counted_by_extents() {
        for (before, after, differ) in [
            (vec![1, 2, 3], vec![1, 2, 3], 0),
            (vec![1, 2, 3], vec![1, 9, 3], 1),
            (vec![1, 2], vec![1, 2, 3], 1),
            (vec![1, 2, 3], vec![1, 2], 0), // what it lost is counted by lengths
            (vec![1, 2], vec![2, 1], 2),
            (vec![0, 0], vec![0, 5], 1),
            (vec![0, 5], vec![0, 0], 2),
            (vec![0, 0], vec![0, 0, 0], 0),
            (vec![1, 0], vec![0, 1], 2),
            (vec![], vec![1], 1),
        ] {
            assert_eq!(extents(&after).not_in(&extents(&before)), differ * EXTENT, "{before:?} {after:?}");
        }
        // Cut by content: what moved is the same.
        let (mut before, mut after) = (extents(&[]), extents(&[]));
        before.add(0, 100, Some(ShortId([1; 16])));
        before.add(100, 50, Some(ShortId([2; 16])));
        after.add(0, 7, Some(ShortId([3; 16])));
        after.add(7, 100, Some(ShortId([1; 16])));
        after.add(107, 50, Some(ShortId([2; 16])));
        assert_eq!(after.not_in(&before), 7);
    }

    proptest! {
        #[test]
        fn a_file_does_not_differ_from_itself(ids: Vec<u8>) {
            prop_assert_eq!(extents(&ids).not_in(&extents(&ids)), 0);
        }

        #[test]
        fn no_more_differs_than_there_is(a: Vec<u8>, b: Vec<u8>) {
            prop_assert!(extents(&b).not_in(&extents(&a)) <= EXTENT * b.len() as u64);
        }
    }
}
