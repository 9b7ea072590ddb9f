//! How large a snapshot's files are, folder by folder: as long as they are, or without their holes.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::RestoreError;
use crate::repo::structure::{Extent, FileData, FileEntry, Snapshot};

/// What a chunk takes at least that lies beside a hole, and so may be nearly all zeros itself.
const BLOCK: u64 = 4096;

/// Bytes by folder of the manifest.
#[derive(Clone, Debug, Default)]
pub(super) struct Sizes {
    folders: Vec<(Vec<u8>, u64)>,
    /// How many files.
    pub files: u64,
    /// Bytes of all.
    pub all: u64,
}

impl Sizes {
    /// Of the files as long as they are. Quick.
    pub fn of(snapshot: &Snapshot<'_>) -> Result<Sizes, RestoreError> {
        let mut sizes = Sizes::default();
        for (folder, child) in snapshot.folders()? {
            sizes.add(&folder.path, child.bytes);
            sizes.files += u64::from(child.files);
        }
        Ok(sizes)
    }

    /// Of the chunks, without stretches of zeros; and the least that it can be if chunks beside such stretches are nearly
    /// all zeros, too. Reads the whole manifest.
    pub fn without_holes(snapshot: &Snapshot<'_>) -> Result<(Sizes, Sizes), RestoreError> {
        let (mut data, mut least) = (Sizes::default(), Sizes::default());
        for (folder, child) in snapshot.folders()? {
            let (mut chunks, mut fewest) = (0u64, 0u64);
            for part in snapshot.parts(&child)? {
                for file in snapshot.files(&part)? {
                    let (some, few) = of_file(snapshot, &file.entry)?;
                    chunks = chunks.saturating_add(some);
                    fewest = fewest.saturating_add(few);
                }
            }
            data.add(&folder.path, chunks);
            least.add(&folder.path, fewest);
        }
        Ok((data, least))
    }

    fn add(&mut self, path: &[u8], bytes: u64) {
        self.folders.push((path.to_vec(), bytes));
        self.all = self.all.saturating_add(bytes);
    }

    /// Of a tablespace.
    pub fn tablespace(&self, oid: u32) -> u64 {
        let path = format!("pg_tblspc/{oid}").into_bytes();
        let inside = |p: &[u8]| p.strip_prefix(path.as_slice()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        self.folders.iter().filter(|(p, _)| inside(p)).map(|(_, bytes)| bytes).fold(0, |a, b| a.saturating_add(*b))
    }
}

fn of_file(snapshot: &Snapshot<'_>, file: &FileEntry) -> Result<(u64, u64), RestoreError> {
    match file.data {
        FileData::Empty | FileData::Folder | FileData::Zeros => return Ok((0, 0)),
        FileData::Single { .. } | FileData::Joint { .. } => return Ok((file.len, file.len)),
        FileData::Tree { .. } => {}
    }
    let (mut data, mut least) = (0u64, 0u64);
    let mut beside_hole = false;
    // What the chunk before counts for if no hole follows.
    let mut open = None::<(u64, u64)>;
    for (_, leaf) in snapshot.leaves(file)? {
        for extent in snapshot.leaf(leaf)? {
            let len = u64::from(extent.len());
            match extent {
                Extent::Zeros(_) => {
                    least = least.saturating_add(open.take().map_or(0, |(_, few)| few));
                    beside_hole = true;
                }
                Extent::Chunk(_) => {
                    least = least.saturating_add(open.take().map_or(0, |(some, _)| some));
                    data = data.saturating_add(len);
                    let few = len.min(BLOCK);
                    open = Some((if beside_hole { few } else { len }, few));
                    beside_hole = false;
                }
            }
        }
    }
    Ok((data, least.saturating_add(open.map_or(0, |(some, _)| some))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::testing::{As, TestSnapshot, file, folder};

    #[test]
    fn holes_take_no_room() {
        let extent = 8192;
        let mut sparse = vec![0; 40 * extent];
        sparse[10 * extent..12 * extent].fill(7);
        sparse[20 * extent..24 * extent].fill(7);
        let stored = TestSnapshot::store(
            &[
                folder("base/1", vec![file("1", sparse, As::Tree(extent)), file("2", vec![0; 99 * extent], As::Zeros)]),
                folder("pg_tblspc/5", vec![file("3", vec![1; 3 * extent], As::Tree(extent))]),
                folder("pg_tblspc/51", vec![file("4", vec![1; 100], As::Single)]),
            ],
            serde_json::Value::Null,
            |_, _| {},
        );
        let snapshot = stored.open();
        let long = Sizes::of(&snapshot).unwrap();
        assert_eq!((long.files, long.all, long.tablespace(5)), (4, 142 * extent as u64 + 100, 3 * extent as u64));
        let (data, least) = Sizes::without_holes(&snapshot).unwrap();
        assert_eq!((data.all, data.tablespace(5)), (9 * extent as u64 + 100, 3 * extent as u64));
        // The chunks at the ends of a run count for a block each.
        assert_eq!(least.all, 4 * BLOCK + (2 + 3) * extent as u64 + 100);
    }
}
