//! The nodes as values and as bytes.
//!
//! ```text
//! node     = kind u8 | version u8 (1) | number of packs u16 | pack ids × 16 | body
//! place    = index into the node's packs u16 | blob u32 | position u16
//! chunk    = id 16 | place | plain length u32
//! tree     = level u8 | id 16 | place | digest 16
//! needs    = count u16 (0xffff: a node of its own follows: id 16 | place) | count × (pack index u16, bytes u64)
//!
//! 1 snapshot: meta chunk | children
//! 2 branch:   children
//! 3 part:     attributes chunk | joint chunks: count u16 × chunk | files: count u16 × file
//! 4 stream:   level u8 | count u16 | count × (length u64 | id 16 | place | digest 16)
//! 5 leaf:     count u16 | count × (0 length u32 | 1 length u32, id 16, place)
//! 6 needs:    count u32 | count × (pack id 16, bytes u64)         (its pack list is empty)
//! children = count u16 | count × (kind u8 | files u32 | bytes u64 | id 16 | place | digest 16)
//! file     = kind u8 | length u64 | by kind: 0 empty · 1 joint chunk u16, offset u32 · 2 zeros · 3 id 16, place, needs ·
//!            4 tree, needs · 5 neither (a folder)
//! ```
//! Content digest of a node: first 16 bytes of BLAKE3 over a text of its kind and what it says of content (ids of chunks,
//! lengths, digests of children), never places, packs or needs.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::HashMap;

use super::{FANOUT, LEAF, MAX_NEEDS_NODE, MAX_NODE, Needs};
use crate::repo::bytes::{Malformed, Reader, Writer};
use crate::repo::pack::Place;
use crate::units::{Digest16, PackId, ShortId};

/// A chunk of content that a node names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRef {
    /// Its id.
    pub id: ShortId,
    /// Where it lies.
    pub place: Place,
    /// Its plain length.
    pub len: u32,
}

/// A stretch of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// So many zeros.
    Zeros(u32),
    /// A chunk.
    Chunk(ChunkRef),
}

impl Extent {
    /// Its length in bytes.
    pub fn len(&self) -> u32 {
        match self {
            Extent::Zeros(len) => *len,
            Extent::Chunk(chunk) => chunk.len,
        }
    }

    /// Has it no bytes?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The root of a file's tree: level 0 is a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeRef {
    /// How many levels of stream nodes stand above the leaves.
    pub level: u8,
    /// The node.
    pub id: ShortId,
    /// Where it lies.
    pub place: Place,
    /// Its content digest.
    pub digest: Digest16,
}

/// What a file's bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileData {
    /// It has none.
    Empty,
    /// A slice of one of the part's joint chunks.
    Joint {
        /// Which one.
        chunk: u16,
        /// From where.
        offset: u32,
    },
    /// Zeros from end to end.
    Zeros,
    /// One chunk.
    Single {
        /// Its id.
        id: ShortId,
        /// Where it lies.
        place: Place,
        /// What packs it needs.
        needs: Needs,
    },
    /// A tree of extents.
    Tree {
        /// Its root.
        root: TreeRef,
        /// What packs the subtree needs.
        needs: Needs,
    },
    /// A folder: no bytes.
    Folder,
}

/// A file of a part; name and attributes stand at the same index of the attributes chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileEntry {
    /// Length in bytes.
    pub len: u64,
    /// Its bytes.
    pub data: FileData,
}

/// At most [`FANOUT`] files of one folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Names and attributes.
    pub attributes: ChunkRef,
    /// Chunks of small files joined.
    pub joint: Vec<ChunkRef>,
    /// The files, in the order of their names.
    pub files: Vec<FileEntry>,
}

/// What a child is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ChildKind {
    /// A branch.
    Branch = 2,
    /// A part.
    Part = 3,
}

/// A child of a snapshot or branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Child {
    /// What it is.
    pub kind: ChildKind,
    /// Files below it.
    pub files: u32,
    /// Their bytes.
    pub bytes: u64,
    /// The node.
    pub id: ShortId,
    /// Where it lies.
    pub place: Place,
    /// Its content digest.
    pub digest: Digest16,
}

/// The root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotNode {
    /// What the snapshot is besides files; knows the paths of the folders.
    pub meta: ChunkRef,
    /// The folders, in the order of the meta chunk (branches above them if there are many).
    pub folders: Vec<Child>,
}

/// Stores needs in a node of their own.
pub type PutNeeds<'f, E> = dyn FnMut(&Needs) -> Result<(ShortId, Place), E> + 'f;

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// The root of a snapshot.
    Snapshot(SnapshotNode),
    /// A list of children.
    Branch(Vec<Child>),
    /// Files of one folder.
    Part(Part),
    /// Children of a long file: (length, subtree).
    Stream {
        /// Of this node; its children's is one less.
        level: u8,
        /// Lengths and subtrees.
        children: Vec<(u64, TreeRef)>,
    },
    /// Extents.
    Leaf(Vec<Extent>),
    /// Needs that were too many for their entry.
    Needs(Needs),
}

impl Node {
    /// As bytes. Needs of more than `inline` packs don't stand in their entry: `outside` gives the node that holds them.
    ///
    /// # Errors
    /// What `outside` returns.
    pub fn encode<E>(&self, inline: usize, outside: &mut PutNeeds<'_, E>) -> Result<Vec<u8>, E> {
        let mut out = Encoder { inline, body: Writer::default(), packs: Vec::new(), index: HashMap::new() };
        let kind = out.node(self, outside)?;
        let mut all = Writer(Vec::with_capacity(4 + 16 * out.packs.len() + out.body.0.len()));
        all.u8(kind).u8(1).u16(out.packs.len() as u16);
        for pack in &out.packs {
            all.bytes(&pack.0);
        }
        all.bytes(&out.body.0);
        Ok(all.0)
    }

    /// Reads a node. `outside` fetches needs that lie in a node of their own.
    ///
    /// # Errors
    /// What is wrong with it, or what `outside` returns.
    pub fn decode<E: From<Malformed>>(bytes: &[u8], outside: &mut dyn FnMut(ShortId, Place) -> Result<Needs, E>) -> Result<Node, E> {
        if bytes.len() > if bytes.first() == Some(&6) { MAX_NEEDS_NODE } else { MAX_NODE } {
            return Err(Malformed("a node is too large").into());
        }
        let mut from = Reader::new(bytes);
        let (kind, version, packs) = (from.u8()?, from.u8()?, from.u16()?);
        if version != 1 {
            return Err(Malformed("a node of an unknown version").into());
        }
        let count = from.count(packs.into(), 16)?;
        let packs = (0..count).map(|_| Ok(PackId(from.array()?))).collect::<Result<Vec<_>, Malformed>>()?;
        let mut decoder = Decoder { from, packs };
        let node = decoder.node(kind, outside)?;
        decoder.from.end()?;
        Ok(node)
    }

    /// The node's content digest.
    pub fn digest(&self) -> Digest16 {
        let mut h = Writer::default();
        match self {
            Node::Snapshot(s) => {
                h.bytes(b"pgcairn 1 snapshot").bytes(&s.meta.id.0);
                for c in &s.folders {
                    h.bytes(&c.digest.0);
                }
            }
            Node::Branch(children) => {
                h.bytes(b"pgcairn 1 branch");
                for c in children {
                    h.bytes(&c.digest.0);
                }
            }
            Node::Part(part) => digest_part(part, &mut h),
            Node::Stream { level, children } => {
                h.bytes(b"pgcairn 1 stream").u8(*level);
                for (len, tree) in children {
                    h.u64(*len).bytes(&tree.digest.0);
                }
            }
            Node::Leaf(extents) => {
                h.bytes(b"pgcairn 1 leaf");
                for extent in extents {
                    match extent {
                        Extent::Zeros(len) => {
                            h.u8(0).u32(*len);
                        }
                        Extent::Chunk(c) => {
                            h.u8(1).u32(c.len).bytes(&c.id.0);
                        }
                    }
                }
            }
            Node::Needs(_) => {
                h.bytes(b"pgcairn 1 needs");
            }
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(blake3::hash(&h.0).as_bytes().first_chunk::<16>().unwrap_or(&[0; 16]));
        Digest16(digest)
    }
}

fn digest_part(part: &Part, h: &mut Writer) {
    h.bytes(b"pgcairn 1 part").bytes(&part.attributes.id.0).u16(part.joint.len() as u16);
    for c in &part.joint {
        h.bytes(&c.id.0);
    }
    for file in &part.files {
        h.u64(file.len);
        match &file.data {
            FileData::Empty => {
                h.u8(0);
            }
            FileData::Joint { chunk, offset } => {
                h.u8(1).u16(*chunk).u32(*offset);
            }
            FileData::Zeros => {
                h.u8(2);
            }
            FileData::Single { id, .. } => {
                h.u8(3).bytes(&id.0);
            }
            FileData::Tree { root, .. } => {
                h.u8(4).bytes(&root.digest.0);
            }
            FileData::Folder => {
                h.u8(5);
            }
        }
    }
}

struct Encoder {
    inline: usize,
    body: Writer,
    packs: Vec<PackId>,
    index: HashMap<PackId, u16>,
}

impl Encoder {
    fn pack(&mut self, pack: PackId) -> u16 {
        *self.index.entry(pack).or_insert_with(|| {
            self.packs.push(pack);
            (self.packs.len() - 1) as u16
        })
    }

    fn place(&mut self, place: &Place) {
        let pack = self.pack(place.pack);
        self.body.u16(pack).u32(place.blob).u16(place.position);
    }

    fn chunk(&mut self, chunk: &ChunkRef) {
        self.body.bytes(&chunk.id.0);
        self.place(&chunk.place);
        self.body.u32(chunk.len);
    }

    fn tree(&mut self, tree: &TreeRef) {
        self.body.u8(tree.level).bytes(&tree.id.0);
        self.place(&tree.place);
        self.body.bytes(&tree.digest.0);
    }

    fn children(&mut self, children: &[Child]) {
        self.body.u16(children.len() as u16);
        for child in children {
            self.body.u8(child.kind as u8).u32(child.files).u64(child.bytes).bytes(&child.id.0);
            self.place(&child.place);
            self.body.bytes(&child.digest.0);
        }
    }

    fn needs<E>(&mut self, needs: &Needs, outside: &mut PutNeeds<'_, E>) -> Result<(), E> {
        // Packs of which nothing is needed but that a node of needs lies there are found again when it is read.
        let needs = &Needs(needs.0.iter().filter(|(_, bytes)| **bytes > 0).map(|(pack, bytes)| (*pack, *bytes)).collect());
        if needs.0.len() > self.inline {
            let (id, place) = outside(needs)?;
            self.body.u16(u16::MAX).bytes(&id.0);
            self.place(&place);
            return Ok(());
        }
        self.body.u16(needs.0.len() as u16);
        for (pack, bytes) in &needs.0 {
            let pack = self.pack(*pack);
            self.body.u16(pack).u64(*bytes);
        }
        Ok(())
    }

    fn node<E>(&mut self, node: &Node, outside: &mut PutNeeds<'_, E>) -> Result<u8, E> {
        match node {
            Node::Snapshot(s) => {
                self.chunk(&s.meta);
                self.children(&s.folders);
                Ok(1)
            }
            Node::Branch(children) => {
                self.children(children);
                Ok(2)
            }
            Node::Part(part) => {
                self.chunk(&part.attributes);
                self.body.u16(part.joint.len() as u16);
                part.joint.iter().for_each(|c| self.chunk(c));
                self.body.u16(part.files.len() as u16);
                for file in &part.files {
                    self.file(file, outside)?;
                }
                Ok(3)
            }
            Node::Stream { level, children } => {
                self.body.u8(*level).u16(children.len() as u16);
                for (len, tree) in children {
                    self.body.u64(*len).bytes(&tree.id.0);
                    self.place(&tree.place);
                    self.body.bytes(&tree.digest.0);
                }
                Ok(4)
            }
            Node::Leaf(extents) => {
                self.body.u16(extents.len() as u16);
                for extent in extents {
                    match extent {
                        Extent::Zeros(len) => {
                            self.body.u8(0).u32(*len);
                        }
                        Extent::Chunk(c) => {
                            self.body.u8(1).u32(c.len).bytes(&c.id.0);
                            self.place(&c.place);
                        }
                    }
                }
                Ok(5)
            }
            Node::Needs(needs) => {
                self.body.u32(needs.0.len() as u32);
                for (pack, bytes) in &needs.0 {
                    self.body.bytes(&pack.0).u64(*bytes);
                }
                Ok(6)
            }
        }
    }

    fn file<E>(&mut self, file: &FileEntry, outside: &mut PutNeeds<'_, E>) -> Result<(), E> {
        let kind = match &file.data {
            FileData::Empty => 0,
            FileData::Joint { .. } => 1,
            FileData::Zeros => 2,
            FileData::Single { .. } => 3,
            FileData::Tree { .. } => 4,
            FileData::Folder => 5,
        };
        self.body.u8(kind).u64(file.len);
        match &file.data {
            FileData::Joint { chunk, offset } => {
                self.body.u16(*chunk).u32(*offset);
            }
            FileData::Single { id, place, needs } => {
                self.body.bytes(&id.0);
                self.place(place);
                self.needs(needs, outside)?;
            }
            FileData::Tree { root, needs } => {
                self.tree(root);
                self.needs(needs, outside)?;
            }
            FileData::Empty | FileData::Zeros | FileData::Folder => {}
        }
        Ok(())
    }
}

struct Decoder<'a> {
    from: Reader<'a>,
    packs: Vec<PackId>,
}

impl Decoder<'_> {
    fn pack(&mut self) -> Result<PackId, Malformed> {
        let index = self.from.u16()?;
        self.packs.get(usize::from(index)).copied().ok_or(Malformed("a node names a pack that is not in its list"))
    }

    fn place(&mut self) -> Result<Place, Malformed> {
        Ok(Place { pack: self.pack()?, blob: self.from.u32()?, position: self.from.u16()? })
    }

    fn chunk(&mut self) -> Result<ChunkRef, Malformed> {
        Ok(ChunkRef { id: ShortId(self.from.array()?), place: self.place()?, len: self.from.u32()? })
    }

    fn count(&mut self, most: usize, each: usize) -> Result<usize, Malformed> {
        let count = usize::from(self.from.u16()?);
        if count > most {
            return Err(Malformed("a node has too many children"));
        }
        self.from.count(count, each)
    }

    fn children(&mut self) -> Result<Vec<Child>, Malformed> {
        let count = self.count(FANOUT, 53)?;
        (0..count)
            .map(|_| {
                let kind = match self.from.u8()? {
                    2 => ChildKind::Branch,
                    3 => ChildKind::Part,
                    _ => return Err(Malformed("a child of an unknown kind")),
                };
                let (files, bytes) = (self.from.u32()?, self.from.u64()?);
                let (id, place) = (ShortId(self.from.array()?), self.place()?);
                Ok(Child { kind, files, bytes, id, place, digest: Digest16(self.from.array()?) })
            })
            .collect()
    }

    fn needs<E: From<Malformed>>(&mut self, outside: &mut dyn FnMut(ShortId, Place) -> Result<Needs, E>) -> Result<Needs, E> {
        let count = self.from.u16()?;
        if count == u16::MAX {
            let (id, place) = (ShortId(self.from.array()?), self.place()?);
            let mut needs = outside(id, place)?;
            // The node that holds them is needed as well.
            needs.add(place.pack, 0);
            return Ok(needs);
        }
        let count = self.from.count(count.into(), 10)?;
        let mut needs = Needs::default();
        for _ in 0..count {
            let pack = self.pack()?;
            needs.add(pack, self.from.u64()?);
        }
        Ok(needs)
    }

    fn node<E: From<Malformed>>(&mut self, kind: u8, outside: &mut dyn FnMut(ShortId, Place) -> Result<Needs, E>) -> Result<Node, E> {
        match kind {
            1 => Ok(Node::Snapshot(SnapshotNode { meta: self.chunk()?, folders: self.children()? })),
            2 => Ok(Node::Branch(self.children()?)),
            3 => {
                let attributes = self.chunk()?;
                let count = self.count(FANOUT, 28)?;
                let joint = (0..count).map(|_| self.chunk()).collect::<Result<Vec<_>, _>>()?;
                let count = self.count(FANOUT, 9)?;
                let files = (0..count).map(|_| self.file(joint.len(), outside)).collect::<Result<Vec<_>, E>>()?;
                Ok(Node::Part(Part { attributes, joint, files }))
            }
            4 => {
                let level = self.from.u8()?;
                if !(1..=6).contains(&level) {
                    return Err(Malformed("a stream node of an impossible level").into());
                }
                let count = self.count(FANOUT, 48)?;
                let children = (0..count)
                    .map(|_| {
                        let (len, id) = (self.from.u64()?, ShortId(self.from.array()?));
                        let place = self.place()?;
                        Ok((len, TreeRef { level: level - 1, id, place, digest: Digest16(self.from.array()?) }))
                    })
                    .collect::<Result<Vec<_>, Malformed>>()?;
                Ok(Node::Stream { level, children })
            }
            5 => {
                let count = self.count(LEAF, 5)?;
                let extents = (0..count).map(|_| self.extent()).collect::<Result<Vec<_>, Malformed>>()?;
                Ok(Node::Leaf(extents))
            }
            6 => {
                let count = self.from.u32()? as usize;
                let count = self.from.count(count, 24)?;
                let mut needs = Needs::default();
                for _ in 0..count {
                    needs.add(PackId(self.from.array()?), self.from.u64()?);
                }
                Ok(Node::Needs(needs))
            }
            _ => Err(Malformed("a node of an unknown kind").into()),
        }
    }

    fn extent(&mut self) -> Result<Extent, Malformed> {
        match (self.from.u8()?, self.from.u32()?) {
            (0, len) => Ok(Extent::Zeros(len)),
            (1, len) => Ok(Extent::Chunk(ChunkRef { id: ShortId(self.from.array()?), place: self.place()?, len })),
            _ => Err(Malformed("an extent of an unknown kind")),
        }
    }

    fn file<E: From<Malformed>>(
        &mut self,
        joint: usize,
        outside: &mut dyn FnMut(ShortId, Place) -> Result<Needs, E>,
    ) -> Result<FileEntry, E> {
        let (kind, len) = (self.from.u8()?, self.from.u64()?);
        let data = match kind {
            0 => FileData::Empty,
            1 => {
                let (chunk, offset) = (self.from.u16()?, self.from.u32()?);
                if usize::from(chunk) >= joint {
                    return Err(Malformed("a file lies in a joint chunk that the part hasn't").into());
                }
                FileData::Joint { chunk, offset }
            }
            2 => FileData::Zeros,
            3 => {
                let (id, place) = (ShortId(self.from.array()?), self.place()?);
                FileData::Single { id, place, needs: self.needs(outside)? }
            }
            4 => {
                let (level, id) = (self.from.u8()?, ShortId(self.from.array()?));
                let place = self.place()?;
                let root = TreeRef { level, id, place, digest: Digest16(self.from.array()?) };
                FileData::Tree { root, needs: self.needs(outside)? }
            }
            5 => FileData::Folder,
            _ => return Err(Malformed("a file of an unknown kind").into()),
        };
        Ok(FileEntry { len, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
