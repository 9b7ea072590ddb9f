//! What is written is read again.

use super::*;
use crate::repo::bytes::Malformed;
use proptest::collection::vec;
use proptest::prelude::*;

fn place() -> impl Strategy<Value = Place> {
    (0u8..5, any::<u32>(), any::<u16>()).prop_map(|(pack, blob, position)| Place { pack: PackId([pack; 16]), blob, position })
}

fn chunk() -> impl Strategy<Value = ChunkRef> {
    (any::<[u8; 16]>(), place(), any::<u32>()).prop_map(|(id, place, len)| ChunkRef { id: ShortId(id), place, len })
}

fn tree(level: u8) -> impl Strategy<Value = TreeRef> {
    (any::<[u8; 16]>(), place(), any::<[u8; 16]>()).prop_map(move |(id, place, digest)| TreeRef {
        level,
        id: ShortId(id),
        place,
        digest: Digest16(digest),
    })
}

fn needs() -> impl Strategy<Value = Needs> {
    prop::collection::btree_map(any::<[u8; 16]>().prop_map(PackId), 1u64.., 0..80).prop_map(Needs)
}

fn file() -> impl Strategy<Value = FileEntry> {
    let data = prop_oneof![
        Just(FileData::Empty),
        any::<u32>().prop_map(|offset| FileData::Joint { chunk: 0, offset }),
        Just(FileData::Zeros),
        (any::<[u8; 16]>(), place(), needs()).prop_map(|(id, place, needs)| FileData::Single { id: ShortId(id), place, needs }),
        (tree(1), needs()).prop_map(|(root, needs)| FileData::Tree { root, needs }),
        Just(FileData::Folder),
    ];
    (any::<u64>(), data).prop_map(|(len, data)| FileEntry { len, data })
}

fn child() -> impl Strategy<Value = Child> {
    (any::<bool>(), any::<u32>(), any::<u64>(), tree(0)).prop_map(|(part, files, bytes, t)| Child {
        kind: if part { ChildKind::Part } else { ChildKind::Branch },
        files,
        bytes,
        id: t.id,
        place: t.place,
        digest: t.digest,
    })
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        (chunk(), vec(child(), 0..10)).prop_map(|(meta, folders)| Node::Snapshot(SnapshotNode { meta, folders })),
        vec(child(), 0..10).prop_map(Node::Branch),
        (chunk(), vec(chunk(), 1..3), vec(file(), 0..10)).prop_map(|(attributes, joint, files)| Node::Part(Part {
            attributes,
            joint,
            files
        })),
        vec((any::<u64>(), tree(1)), 0..10).prop_map(|children| Node::Stream { level: 2, children }),
        vec(prop_oneof![any::<u32>().prop_map(Extent::Zeros), chunk().prop_map(Extent::Chunk)], 0..32).prop_map(Node::Leaf),
        needs().prop_map(Node::Needs),
    ]
}

fn encode(node: &Node, kept: &mut Vec<Needs>) -> Vec<u8> {
    node.encode(64, &mut |needs| {
        kept.push(needs.clone());
        Ok::<_, Malformed>((ShortId([0; 16]), Place { pack: OUTSIDE, blob: kept.len() as u32 - 1, position: 0 }))
    })
    .unwrap()
}

/// The pack in which [`encode`] pretends to keep needs.
const OUTSIDE: PackId = PackId([9; 16]);

fn without_outside(node: &Node) -> Node {
    let mut node = node.clone();
    if let Node::Part(part) = &mut node {
        for file in &mut part.files {
            if let FileData::Single { needs, .. } | FileData::Tree { needs, .. } = &mut file.data {
                needs.0.remove(&OUTSIDE);
            }
        }
    }
    node
}

proptest! {
    #[test]
    fn nodes_survive(node in node()) {
        let mut kept = Vec::new();
        let bytes = encode(&node, &mut kept);
        let back = Node::decode(&bytes, &mut |_, place| Ok::<_, Malformed>(kept[place.blob as usize].clone()));
        prop_assert_eq!(back.as_ref().map(without_outside), Ok(without_outside(&node)));
    }

    #[test]
    fn damaged_nodes_are_errors_and_never_panics(node in node(), at: prop::sample::Index, to: u8, cut: prop::sample::Index) {
        let mut bytes = encode(&node, &mut Vec::new());
        let at = at.index(bytes.len());
        bytes[at] = to;
        let none = &mut |_, _| Err(Malformed("none"));
        let _ = Node::decode::<Malformed>(&bytes, none);
        let _ = Node::decode::<Malformed>(&bytes[..cut.index(bytes.len())], none);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
        let _ = Node::decode::<Malformed>(&bytes, &mut |_, _| Err(Malformed("none")));
    }

    #[test]
    fn digests_ignore_places_and_needs(extents in vec(chunk(), 1..32), moved in place()) {
        let here = Node::Leaf(extents.iter().copied().map(Extent::Chunk).collect());
        let there = Node::Leaf(extents.iter().map(|c| Extent::Chunk(ChunkRef { place: moved, ..*c })).collect());
        prop_assert_eq!(here.digest(), there.digest());
        let other = Node::Leaf(extents.iter().map(|c| Extent::Chunk(ChunkRef { id: ShortId([0; 16]), ..*c })).collect());
        prop_assert_ne!(here.digest(), other.digest());
    }
}
