//! Bytes as nodes: whatever they are, they come from outside.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::super::{FANOUT, LEAF, MAX_NEEDS_NODE, MAX_NODE};
use super::*;
use crate::repo::bytes::{Malformed, Reader};

impl Node {
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
