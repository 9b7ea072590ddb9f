//! Where chunks lie: the host's index over the tables of packs that may be relied on.

use std::collections::HashMap;
use std::sync::Arc;

use super::session::Adopted;
use crate::host::cache::Cache;
use crate::host::cache::index::{ChunkIndex, IndexWriter, Row};
use crate::repo::RepoError;
use crate::repo::pack::{LoadedTable, Packs, Place};
use crate::repo::write::{Known, is_of_one_pack};
use crate::store::at_once;
use crate::units::{ChunkId, PackId, Progress};

/// Rows that are gathered before an index file is written.
const BATCH: usize = 1 << 20;

/// Files of the index, and what they lack (where the cache can't be written: everything).
pub struct KnownChunks {
    files: Option<ChunkIndex>,
    more: HashMap<ChunkId, Vec<Place>>,
}

impl KnownChunks {
    /// Brings the index up to date with the packs that a session may name: their tables are read, of packs that it lacks
    /// alone. A pack whose table can't be read is passed over with a warning: its chunks are stored anew.
    ///
    /// # Errors
    /// If the store can't be reached.
    pub fn over(cache: Option<&Cache>, packs: &Packs, adopted: &Adopted, progress: &dyn Progress) -> Result<Self, RepoError> {
        let mut known = KnownChunks { files: None, more: HashMap::new() };
        let indexed = cache.map(|cache| {
            let (index, warnings) = cache.index();
            for warning in warnings {
                progress.warn(&format!("{warning}"));
            }
            index.packs()
        });
        let mut missing: Vec<PackId> =
            adopted.packs.keys().filter(|id| indexed.as_ref().is_none_or(|i| !i.contains(id))).copied().collect();
        missing.sort();
        if !missing.is_empty() {
            known.add(cache, packs, &missing, progress)?;
        }
        known.files = cache.map(|cache| cache.index().0);
        Ok(known)
    }

    fn add(&mut self, cache: Option<&Cache>, packs: &Packs, missing: &[PackId], progress: &dyn Progress) -> Result<(), RepoError> {
        let mut writer = IndexWriter::new();
        at_once(missing, packs.pace().reads, |id| packs.table(*id), &mut |at, table: Result<_, RepoError>| {
            let Some(id) = missing.get(at) else { return Ok(()) };
            let table: Arc<LoadedTable> = match table {
                Ok(table) => table,
                Err(e) if !is_of_one_pack(&e) => return Err(e),
                Err(e) => {
                    progress.warn(&format!("pack {id} is passed over, its chunks are stored anew: {e}"));
                    return Ok(());
                }
            };
            let mut rows = Vec::new();
            for (blob, row) in table.rows().iter().enumerate() {
                for (position, (chunk, len)) in row.chunks.iter().enumerate() {
                    rows.push(Row {
                        id: *chunk,
                        pack: *id,
                        blob: blob as u32,
                        position: position as u16,
                        frame_kind: row.kind,
                        flags: row.role as u8,
                        plain_len: *len,
                    });
                }
            }
            match cache {
                Some(cache) => {
                    writer.add_pack(*id, rows);
                    if writer.len() >= BATCH {
                        write(std::mem::replace(&mut writer, IndexWriter::new()), cache, progress);
                    }
                }
                None => {
                    for row in rows {
                        let place = Place { pack: row.pack, blob: row.blob, position: row.position };
                        self.more.entry(row.id).or_default().push(place);
                    }
                }
            }
            Ok(())
        })?;
        if let Some(cache) = cache {
            write(writer, cache, progress);
        }
        Ok(())
    }
}

fn write(writer: IndexWriter, cache: &Cache, progress: &dyn Progress) {
    if let Err(e) = writer.write(&cache.index_folder()) {
        progress.warn(&format!("the chunk index can't be kept, so what was stored before may be stored again: {e}"));
    }
}

impl Known for KnownChunks {
    fn places(&self, id: &ChunkId) -> Vec<Place> {
        let mut places = self.more.get(id).cloned().unwrap_or_default();
        if let Some(files) = &self.files {
            places.extend(files.lookup(id).into_iter().map(|r| Place { pack: r.pack, blob: r.blob, position: r.position }));
        }
        places
    }
}
