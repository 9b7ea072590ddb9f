//! What a node says of content, and nothing of where that lies, in 16 bytes.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::*;
use crate::repo::bytes::Writer;

impl Node {
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
