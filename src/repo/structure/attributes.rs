//! What a part's content chunk holds: the names and attributes of its files.
//!
//! ```text
//! attributes = version u8 (1) | instances u8 | count u16 | instances × (machine 16, device u64, inode u64) | files
//! file       = name length u16, name | type u8 | instance u8 | mode u32 | uid u32 | gid u32 | size u64
//!            | mtime i64 | ctime i64 | inode u64
//! ```
//! Times are in nanoseconds since 1970, of the file system that was read. Type: 0 file, 1 folder.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::FANOUT;
use crate::repo::bytes::{Malformed, Reader, Writer};

/// Who read a file: only there do inode and ctime mean anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Instance {
    /// The machine's id.
    pub machine: [u8; 16],
    /// Device of the data directory.
    pub device: u64,
    /// Inode of the data directory.
    pub inode: u64,
}

/// A file's name and attributes, taken before it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Its name within the folder, any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// Is it a folder?
    pub is_folder: bool,
    /// Who read it.
    pub instance: Instance,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size by stat, in bytes.
    pub size: u64,
    /// Last modification, ns.
    pub mtime: i64,
    /// Last change of the inode, ns.
    pub ctime: i64,
    /// Inode.
    pub inode: u64,
}

/// As bytes.
pub fn encode_attributes(files: &[Attributes]) -> Vec<u8> {
    let mut instances: Vec<Instance> = Vec::new();
    let numbers: Vec<u8> = files
        .iter()
        .map(|f| {
            let at = instances.iter().position(|i| *i == f.instance).unwrap_or_else(|| {
                instances.push(f.instance);
                instances.len() - 1
            });
            at as u8
        })
        .collect();
    let mut out = Writer::default();
    out.u8(1).u8(instances.len() as u8).u16(files.len() as u16);
    for i in &instances {
        out.bytes(&i.machine).u64(i.device).u64(i.inode);
    }
    for (f, instance) in files.iter().zip(numbers) {
        out.u16(f.name.len() as u16).bytes(&f.name).u8(f.is_folder.into()).u8(instance);
        out.u32(f.mode).u32(f.uid).u32(f.gid).u64(f.size).i64(f.mtime).i64(f.ctime).u64(f.inode);
    }
    out.0
}

/// Reads what [`encode_attributes`] wrote. Names that could leave the folder are refused here already.
///
/// # Errors
/// What is wrong with it.
pub fn decode_attributes(bytes: &[u8]) -> Result<Vec<Attributes>, Malformed> {
    let mut from = Reader::new(bytes);
    let (version, instances, count) = (from.u8()?, from.u8()?, from.u16()?);
    if version != 1 || usize::from(count) > FANOUT {
        return Err(Malformed("attributes of an unknown version, or of too many files"));
    }
    let instances = from.count(instances.into(), 32)?;
    let instances = (0..instances)
        .map(|_| Ok(Instance { machine: from.array()?, device: from.u64()?, inode: from.u64()? }))
        .collect::<Result<Vec<_>, Malformed>>()?;
    let mut files = Vec::with_capacity(count.into());
    for _ in 0..count {
        let len = from.u16()?;
        let name = from.bytes(len.into())?.to_vec();
        if name.is_empty() || name == b"." || name == b".." || name.iter().any(|b| matches!(b, b'/' | 0)) {
            return Err(Malformed("a file's name is no name"));
        }
        let (kind, instance) = (from.u8()?, from.u8()?);
        let instance = *instances.get(usize::from(instance)).ok_or(Malformed("a file names no instance"))?;
        let is_folder = match kind {
            0 => false,
            1 => true,
            _ => return Err(Malformed("a file of an unknown type")),
        };
        files.push(Attributes {
            name,
            is_folder,
            instance,
            mode: from.u32()?,
            uid: from.u32()?,
            gid: from.u32()?,
            size: from.u64()?,
            mtime: from.i64()?,
            ctime: from.i64()?,
            inode: from.u64()?,
        });
    }
    from.end()?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attributes() -> impl Strategy<Value = Attributes> {
        let name = prop::collection::vec(any::<u8>().prop_filter("no name", |b| !matches!(b, 0 | b'/' | b'.')), 1..20);
        (name, any::<bool>(), 0u8..3, any::<(u32, u32, u32, u64, i64, i64, u64)>()).prop_map(
            |(name, is_folder, i, (mode, uid, gid, size, mtime, ctime, inode))| Attributes {
                name,
                is_folder,
                instance: Instance { machine: [i; 16], device: i.into(), inode: 7 },
                mode,
                uid,
                gid,
                size,
                mtime,
                ctime,
                inode,
            },
        )
    }

    proptest! {
        #[test]
        fn attributes_survive(files in prop::collection::vec(attributes(), 0..20)) {
            prop_assert_eq!(decode_attributes(&encode_attributes(&files)), Ok(files));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = decode_attributes(&bytes);
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in [b"..".as_slice(), b".", b"a/b", b"a\0", b""] {
            let file = Attributes {
                name: name.to_vec(),
                is_folder: false,
                instance: Instance { machine: [0; 16], device: 0, inode: 0 },
                mode: 0,
                uid: 0,
                gid: 0,
                size: 0,
                mtime: 0,
                ctime: 0,
                inode: 0,
            };
            assert!(decode_attributes(&encode_attributes(&[file])).is_err(), "{name:?}");
        }
    }
}
