//! Storing parts, folders and the snapshot: the upper half of the tree.

use super::{Child, ChildKind, ChunkRef, FANOUT, Needs, Node, NodeSink, Part, SnapshotNode};
use crate::repo::RepoError;
use crate::units::ChunkId;

/// Names of a folder in parts: boundaries depend on names alone, so that a file that comes or goes changes one part.
/// `names` must be sorted; the returned numbers are the lengths of the parts.
pub fn split<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<usize> {
    let mut parts = Vec::new();
    let mut len = 0;
    for name in names {
        len += 1;
        if len == FANOUT || blake3::hash(name).as_bytes()[0] & 63 == 0 {
            parts.push(len);
            len = 0;
        }
    }
    if len > 0 {
        parts.push(len);
    }
    parts
}

/// Stores a part; `needs` gets what the part itself needs: its node, its attributes and joint chunks are to be added by
/// the caller who knows their stored lengths.
///
/// # Errors
/// If it can't be stored.
pub fn put_part(sink: &dyn NodeSink, part: Part, needs: &mut Needs) -> Result<Child, RepoError> {
    let files = part.files.len() as u32;
    let bytes = part.files.iter().map(|f| f.len).fold(0, u64::saturating_add);
    let node = Node::Part(part);
    let (id, place, stored) = sink.put_node(&node)?;
    needs.add(place.pack, stored.into());
    Ok(Child { kind: ChildKind::Part, files, bytes, id: id.short(), place, digest: node.digest() })
}

/// Stores what is above the parts of a folder: nothing if there is one part.
///
/// # Errors
/// If a node can't be stored.
pub fn put_folder(sink: &dyn NodeSink, parts: Vec<Child>, needs: &mut Needs) -> Result<Child, RepoError> {
    match parts.as_slice() {
        [part] => Ok(*part),
        _ => {
            let mut row = gather(sink, parts, FANOUT, needs)?;
            if row.len() == 1 && row.first().is_some_and(|c| c.kind == ChildKind::Branch) {
                return row.pop().ok_or(RepoError::internal("a folder without a node"));
            }
            put_branch(sink, row, needs)
        }
    }
}

/// Stores the root of a snapshot. Returns its entry-like description: id, place and digest stand in a COMMIT.
///
/// # Errors
/// If a node can't be stored.
pub fn put_snapshot(sink: &dyn NodeSink, meta: ChunkRef, folders: Vec<Child>, needs: &mut Needs) -> Result<(ChunkId, Child), RepoError> {
    let (files, bytes) = sums(&folders);
    let folders = gather(sink, folders, FANOUT, needs)?;
    let node = Node::Snapshot(SnapshotNode { meta, folders });
    let (id, place, stored) = sink.put_node(&node)?;
    needs.add(place.pack, stored.into());
    Ok((id, Child { kind: ChildKind::Branch, files, bytes, id: id.short(), place, digest: node.digest() }))
}

fn sums(children: &[Child]) -> (u32, u64) {
    children.iter().fold((0, 0), |(f, b): (u32, u64), c| (f.saturating_add(c.files), b.saturating_add(c.bytes)))
}

/// Branches above `row` until at most `most` children are left.
fn gather(sink: &dyn NodeSink, mut row: Vec<Child>, most: usize, needs: &mut Needs) -> Result<Vec<Child>, RepoError> {
    while row.len() > most {
        row = row.chunks(FANOUT).map(|some| put_branch(sink, some.to_vec(), needs)).collect::<Result<_, _>>()?;
    }
    Ok(row)
}

fn put_branch(sink: &dyn NodeSink, children: Vec<Child>, needs: &mut Needs) -> Result<Child, RepoError> {
    let (files, bytes) = sums(&children);
    let node = Node::Branch(children);
    let (id, place, stored) = sink.put_node(&node)?;
    needs.add(place.pack, stored.into());
    Ok(Child { kind: ChildKind::Branch, files, bytes, id: id.short(), place, digest: node.digest() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_depend_on_names_alone() {
        let names: Vec<Vec<u8>> = (0..5000u32).map(|i| format!("{:08}", i * 7).into_bytes()).collect();
        let ends = |names: &[Vec<u8>]| {
            let mut at = 0;
            split(names.iter().map(Vec::as_slice))
                .iter()
                .map(|len| {
                    at += len;
                    names[at - 1].clone()
                })
                .collect::<Vec<_>>()
        };
        let before = ends(&names);
        assert!(before.len() > 40 && before.len() < 200, "{}", before.len());
        let mut fewer = names.clone();
        fewer.remove(2500);
        let after = ends(&fewer);
        let changed = before.iter().filter(|e| !after.contains(e)).count();
        assert!(changed <= 3, "{changed} boundaries moved");
        assert!(split(names.iter().map(Vec::as_slice)).iter().all(|len| *len <= FANOUT));
    }
}
