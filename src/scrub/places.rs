//! A chunk of content is where it is said to be, and so is what it is a patch of: by the tables of packs alone.

use std::collections::BTreeSet;

use super::memo::{Memo, PackNumber};
use super::packs::BadBlobs;
use crate::crypt::ChunkRole;
use crate::repo::RepoError;
use crate::repo::pack::{Packs, Place};
use crate::repo::structure::ChunkRef;

/// Where chunks of one snapshot are looked for.
pub(super) struct Places<'a> {
    /// The packs that its COMMIT names.
    pub packs: &'a Packs,
    pub bad: &'a BadBlobs,
    pub memo: &'a Memo,
}

impl Places<'_> {
    /// A pack that is relied on.
    pub fn number(&self, place: Place) -> Result<PackNumber, RepoError> {
        Ok(self.memo.number(self.packs.known(place.pack)?.session, place.pack))
    }

    pub fn chunk(&self, chunk: &ChunkRef, relies: &mut BTreeSet<PackNumber>) -> Result<(), RepoError> {
        let place = chunk.place;
        relies.insert(self.number(place)?);
        let table = self.packs.table(place.pack)?;
        let wrong = |place: Place, why: &str| match self.packs.name(place.pack) {
            Ok(name) => RepoError::corrupt(&name, why),
            Err(e) => e,
        };
        let (row, id, len) = table.find(place).ok_or_else(|| wrong(place, "a node names a blob that it hasn't"))?;
        if id.short() != chunk.id || row.role != ChunkRole::Content || len != chunk.len {
            return Err(wrong(place, "another chunk lies where this one is expected"));
        }
        self.not_bad(place, &wrong)?;
        if row.references.len() > 1 {
            return Err(wrong(place, "a blob has several references"));
        }
        for reference in &row.references {
            let at = reference.place;
            relies.insert(self.number(at)?);
            let table = self.packs.table(at.pack)?;
            let (row, id, _) = table.find(at).ok_or_else(|| wrong(at, "a patch refers to a blob that it hasn't"))?;
            if id != reference.id || row.role != ChunkRole::Content || !row.references.is_empty() {
                return Err(wrong(at, "what a patch refers to is another chunk, or itself a patch"));
            }
            self.not_bad(at, &wrong)?;
        }
        Ok(())
    }

    fn not_bad(&self, place: Place, wrong: &dyn Fn(Place, &str) -> RepoError) -> Result<(), RepoError> {
        let session = self.packs.known(place.pack)?.session;
        if self.bad.contains(session, place) { Err(wrong(place, &format!("blob {} is damaged", place.blob))) } else { Ok(()) }
    }
}
