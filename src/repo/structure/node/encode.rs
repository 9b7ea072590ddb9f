//! Nodes as bytes.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::HashMap;

use super::*;
use crate::repo::bytes::Writer;

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
