//! Snapshots made by somebody who holds keys: any nodes, that name each other.

use std::sync::Arc;

use super::sealed::{root, store};
use super::{number, take};
use crate::codec;
use crate::crypt::ChunkRole;
use crate::repo::bytes::Malformed;
use crate::repo::pack::{NewBlob, PackBuilder, Packs, Place};
use crate::repo::structure::{ChunkRef, Extent, FileData, Needs, Node, Snapshot, TreeRef};
use crate::store::memory::MemoryStore;
use crate::units::{Digest16, ShortId};

/// What a node may name: something stored before it, its place and, of a node, its digest.
#[derive(Clone, Copy)]
struct There {
    id: ShortId,
    place: Place,
    digest: Digest16,
    len: u32,
}

/// The most nodes that one reading takes: it must have ended by itself before.
const MOST: usize = 3_000;

/// Nodes and chunks of content, each behind its length: what it names is one of those before it.
pub fn tree(mut data: &[u8]) {
    let root = root();
    let (sealing, opening) = (root.sealing(), root.opening());
    let mut builder = PackBuilder::new(&sealing).expect("random numbers");
    let (mut contents, mut nodes): (Vec<There>, Vec<There>) = (Vec::new(), Vec::new());
    let mut last = None;
    while data.len() > 2 && contents.len() + nodes.len() < 64 {
        let (what, len) = (number(&mut data, 1), number(&mut data, 2) as usize);
        let bytes = take(&mut data, len);
        let (role, bytes, digest) = match what & 1 {
            0 => (ChunkRole::Content, bytes.to_vec(), Digest16([0; 16])),
            _ => {
                let Ok(mut node) = Node::decode(bytes, &mut |_, _| Ok::<_, Malformed>(Needs::default())) else { continue };
                point(&mut node, &contents, &nodes);
                let Ok(bytes) = node.encode(usize::MAX, &mut |_| Err(())) else { continue };
                last = matches!(node, Node::Snapshot(_)).then_some(nodes.len()).or(last);
                (ChunkRole::Structure, bytes, node.digest())
            }
        };
        let id = sealing.chunk_id(role, &bytes);
        let len = bytes.len() as u32;
        let frame = codec::encode_whole(&bytes, 1).expect("it is short");
        let blob = NewBlob { role, kind: frame.kind.into(), frame: frame.bytes, chunks: vec![(id, len)], references: vec![] };
        let Ok(place) = builder.add(blob) else { return };
        let there = There { id: id.short(), place, digest, len };
        if role == ChunkRole::Content { contents.push(there) } else { nodes.push(there) }
    }
    let Some(top) = last.and_then(|at| nodes.get(at)).copied() else { return };
    let finished = builder.finish().expect("random numbers");
    let backend = Arc::new(MemoryStore::default());
    let packs = Packs::new(Arc::clone(&backend) as _, sealing);
    packs.add([store(&backend, finished.id, &finished.bytes, finished.tail)]);
    let Ok(snapshot) = Snapshot::open(&packs, &opening, top.id, top.place, top.digest) else { return };
    let mut read = 0;
    let Ok(folders) = snapshot.folders() else { return };
    for (_, child) in folders {
        let Ok(parts) = snapshot.parts(&child) else { continue };
        for part in parts {
            let Ok(files) = snapshot.files(&part) else { continue };
            assert!(files.is_sorted_by(|a, b| a.attributes.name < b.attributes.name));
            for file in files {
                read += 1;
                if read > MOST {
                    return;
                }
                let Ok(leaves) = snapshot.leaves(&file.entry) else { continue };
                assert!(leaves.is_empty() || leaves.iter().map(|(len, _)| len).sum::<u64>() == file.entry.len);
                for (_, leaf) in leaves.into_iter().take(50) {
                    let _ = snapshot.leaf(leaf);
                }
            }
        }
    }
}

/// Lets all that a node names be there: the number of the blob says which one.
fn point(node: &mut Node, contents: &[There], nodes: &[There]) {
    let pick = |from: &[There], place: &Place| from.get(place.blob as usize % from.len().max(1)).copied();
    let chunk = |c: &mut ChunkRef| {
        if let Some(there) = pick(contents, &c.place) {
            *c = ChunkRef { id: there.id, place: there.place, len: if c.len % 4 == 3 { c.len } else { there.len } };
        }
    };
    let tree = |t: &mut TreeRef| {
        if let Some(there) = pick(nodes, &t.place) {
            *t = TreeRef { level: t.level, id: there.id, place: there.place, digest: there.digest };
        }
    };
    match node {
        Node::Snapshot(snapshot) => {
            chunk(&mut snapshot.meta);
            point_children(&mut snapshot.folders, nodes);
        }
        Node::Branch(children) => point_children(children, nodes),
        Node::Part(part) => {
            chunk(&mut part.attributes);
            part.joint.iter_mut().for_each(chunk);
            for file in &mut part.files {
                match &mut file.data {
                    FileData::Tree { root, .. } => tree(root),
                    FileData::Single { id, place, .. } => {
                        if let Some(there) = pick(contents, place) {
                            (*id, *place) = (there.id, there.place);
                        }
                    }
                    _ => {}
                }
            }
        }
        Node::Stream { children, .. } => children.iter_mut().for_each(|(_, t)| tree(t)),
        Node::Leaf(extents) => {
            for extent in extents {
                if let Extent::Chunk(c) = extent {
                    chunk(c);
                }
            }
        }
        Node::Needs(_) => {}
    }
}

fn point_children(children: &mut [crate::repo::structure::Child], nodes: &[There]) {
    for child in children {
        if let Some(there) = nodes.get(child.place.blob as usize % nodes.len().max(1)) {
            (child.id, child.place, child.digest) = (there.id, there.place, there.digest);
        }
    }
}
