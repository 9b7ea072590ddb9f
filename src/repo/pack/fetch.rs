//! Many chunks of content, with what they are patches of: which bytes are read at once.
//!
//! Wanted blobs are sorted by pack and offset, and neighbours become one read; the reads run as many at once as the store
//! likes, and what comes is opened in the caller's thread, in any order. First the references are read and held, then what
//! is a patch of them. In memory are the references, and the sealed bytes that have come and wait: the caller bounds both
//! by how much it asks for.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{LoadedTable, Packs, Place, Row, VerifiedChunk};
use crate::crypt::{ChunkRole, Opening};
use crate::repo::RepoError;
use crate::store::{ObjectName, at_once};
use crate::units::ShortId;

/// Plain bytes of references that are held at once.
const MOST_REFERENCES: u64 = 32 << 20;

/// Chunks that are held, by place.
pub type Held = HashMap<Place, VerifiedChunk>;

/// Takes a chunk: its number among the wanted, and the chunk.
type Each<'e> = dyn FnMut(usize, &VerifiedChunk) -> Result<(), RepoError> + 'e;

/// Wanted blobs of a pack that one read brings.
struct Run {
    table: Arc<LoadedTable>,
    name: ObjectName,
    /// Which of the wanted, in the order of their places.
    wanted: Vec<usize>,
    start: u64,
    end: u64,
}

impl Packs {
    /// One chunk of content.
    ///
    /// # Errors
    /// If it isn't there or not what `id` names.
    pub fn content(&self, opening: &Opening, id: ShortId, place: Place) -> Result<VerifiedChunk, RepoError> {
        let mut found = None;
        self.contents(opening, &[(id, place)], &mut |_, chunk| {
            found = Some(chunk.clone());
            Ok(())
        })?;
        found.ok_or_else(|| RepoError::Corrupt { object: format!("pack {}", place.pack), why: "a chunk was not found".into() })
    }

    /// Many chunks of content, neighbours fetched together; `each` gets the number of the wanted one and its bytes, in
    /// any order.
    ///
    /// # Errors
    /// If one of them isn't there or not what its id names; or what `each` returned.
    pub fn contents(&self, opening: &Opening, wanted: &[(ShortId, Place)], each: &mut Each<'_>) -> Result<(), RepoError> {
        let mut done = 0;
        while let Some(rest) = wanted.get(done..).filter(|rest| !rest.is_empty()) {
            let (count, references) = self.references_of(rest)?;
            let held = self.hold(opening, &references)?;
            self.fetch(opening, rest.get(..count).unwrap_or_default(), &held, &mut |at, chunk| each(done + at, chunk))?;
            done += count;
        }
        Ok(())
    }

    /// Chunks that are stored whole.
    ///
    /// # Errors
    /// As [`Packs::contents`]; a patch among them is one, too.
    pub fn hold(&self, opening: &Opening, wanted: &[(ShortId, Place)]) -> Result<Held, RepoError> {
        let mut held = Held::new();
        self.fetch(opening, wanted, &Held::new(), &mut |at, chunk| {
            if let Some((_, place)) = wanted.get(at) {
                held.insert(*place, chunk.clone());
            }
            Ok(())
        })?;
        Ok(held)
    }

    /// How many of `wanted` can be read at once, at least one: their patches' references must be held meanwhile; and these
    /// whole chunks, each once.
    fn references_of(&self, wanted: &[(ShortId, Place)]) -> Result<(usize, Vec<(ShortId, Place)>), RepoError> {
        self.tables_ahead(wanted.iter().map(|(_, place)| place.pack));
        self.tables_ahead(wanted.iter().filter_map(|(_, place)| {
            let table = self.table_at_hand(place.pack)?;
            let (row, _, _) = table.find(*place)?;
            row.references.first().map(|one| one.place.pack)
        }));
        let (mut references, mut bytes) = (BTreeMap::new(), 0u64);
        for (count, (_, place)) in wanted.iter().enumerate() {
            let table = self.table(place.pack)?;
            // A blob with several is refused when it is opened: nobody needs to fetch them.
            let Some((Row { references: named, .. }, _, _)) = table.find(*place) else { continue };
            let [one] = named.as_slice() else { continue };
            if references.contains_key(&one.place) {
                continue;
            }
            let len = self.table(one.place.pack)?.find(one.place).map_or(0, |(row, _, _)| row.plain_len());
            bytes = bytes.saturating_add(len.into());
            if count > 0 && bytes > MOST_REFERENCES {
                return Ok((count, references.into_iter().map(|(place, id)| (id, place)).collect()));
            }
            references.insert(one.place, one.id.short());
        }
        Ok((wanted.len(), references.into_iter().map(|(place, id)| (id, place)).collect()))
    }

    fn fetch(&self, opening: &Opening, wanted: &[(ShortId, Place)], held: &Held, each: &mut Each<'_>) -> Result<(), RepoError> {
        let runs = self.runs(wanted)?;
        let read = |run: &Run| {
            self.seen_through(&run.name, || Ok(self.backend.read_range(&run.name, run.start, (run.end - run.start) as usize)?))
        };
        at_once(&runs, self.pace.reads, read, &mut |at, bytes| match runs.get(at) {
            Some(run) => self.open_run(opening, run, wanted, &bytes?, held, each),
            None => Ok(()),
        })
    }

    /// What is read for these chunks: neighbours together.
    fn runs(&self, wanted: &[(ShortId, Place)]) -> Result<Vec<Run>, RepoError> {
        let mut order: Vec<(Place, usize)> = wanted.iter().enumerate().map(|(at, (_, place))| (*place, at)).collect();
        order.sort_unstable();
        let mut runs: Vec<Run> = Vec::new();
        let mut of = None;
        for (place, at) in order {
            let table = match of.take() {
                Some((pack, table)) if pack == place.pack => table,
                _ => self.table(place.pack)?,
            };
            let name = || self.name(place.pack);
            let Some((row, _, _)) = table.find(place) else {
                return Err(RepoError::corrupt(&name()?, "a node names a blob that it hasn't"));
            };
            let (start, end) = (u64::from(row.offset), u64::from(row.offset) + u64::from(row.len));
            match runs.last_mut().filter(|run| Arc::ptr_eq(&run.table, &table)) {
                Some(run)
                    if start >= run.start
                        && start <= run.end.saturating_add(self.pace.gap)
                        && (end <= run.end || end - run.start <= self.pace.stretch) =>
                {
                    run.end = run.end.max(end);
                    run.wanted.push(at);
                }
                _ => runs.push(Run { table: Arc::clone(&table), name: name()?, wanted: vec![at], start, end }),
            }
            of = Some((place.pack, table));
        }
        Ok(runs)
    }

    fn open_run(
        &self,
        opening: &Opening,
        run: &Run,
        wanted: &[(ShortId, Place)],
        bytes: &[u8],
        held: &Held,
        each: &mut Each<'_>,
    ) -> Result<(), RepoError> {
        let Run { table, name, .. } = run;
        let mut last: Option<(u32, Vec<u8>)> = None;
        for (at, i) in run.wanted.iter().enumerate() {
            let Some((id, place)) = wanted.get(*i) else { continue };
            let (row, found, len) = table.find(*place).ok_or_else(|| RepoError::corrupt(name, "a node names a blob that it hasn't"))?;
            if found.short() != *id || row.role != ChunkRole::Content {
                return Err(RepoError::corrupt(name, "another chunk lies where this one is expected"));
            }
            if last.as_ref().is_none_or(|(blob, _)| *blob != place.blob) {
                let from = (u64::from(row.offset) - run.start) as usize;
                let sealed = bytes.get(from..from + row.len as usize).unwrap_or_default();
                let plain = match self.open_blob(opening, table, row, sealed, held, name) {
                    // By itself, and from beneath whatever lies over it.
                    Err(e) if e.is_damage() && self.backend.rereads() => self.seen_through(name, || {
                        let sealed = self.backend.read_range(name, row.offset.into(), row.len as usize)?;
                        self.open_blob(opening, table, row, &sealed, held, name)
                    })?,
                    other => other?,
                };
                last = Some((place.blob, plain));
            }
            // Not copied where nobody else needs the blob.
            let whole = row.chunks.len() == 1
                && run.wanted.get(at + 1).and_then(|next| wanted.get(*next)).is_none_or(|(_, next)| next.blob != place.blob);
            let part = if whole {
                last.take().map(|(_, plain)| plain).unwrap_or_default()
            } else {
                let plain = last.as_ref().map(|(_, plain)| plain.as_slice()).unwrap_or_default();
                let before: u64 = row.chunks.iter().take(place.position.into()).map(|(_, len)| u64::from(*len)).sum();
                plain.get(before as usize..(before + u64::from(len)) as usize).unwrap_or_default().to_vec()
            };
            each(*i, &self.checked(name, ChunkRole::Content, found, part)?)?;
        }
        Ok(())
    }
}
