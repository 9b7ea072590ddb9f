//! Which relations the files of a snapshot belong to.

use super::{Listed, LookError};
use crate::host::access::Opened;
use crate::pg::relations::{
    ANNEX, DatabaseFact, DatabaseList, LIST, MAX_ALL, MAX_LIST, MAX_RELATIONS, RelationNames, RelationsError, relations_file,
};
use crate::repo::RepoError;
use crate::repo::log::Fold;
use crate::repo::pack::Place;
use crate::repo::structure::Snapshot;

/// The most files that are looked at: one a database, and two more.
const MOST_FILES: usize = 100_000;

/// What the backup noted of its databases and their relations; nothing at all in a snapshot of a stopped cluster.
///
/// # Errors
/// If it can't be read. Names are for people: whoever only shows them goes on without.
pub fn relation_names(snapshot: &Snapshot<'_>) -> Result<RelationNames, LookError> {
    let files = snapshot.annex(ANNEX, MOST_FILES)?;
    let find = |name: &str| files.iter().find(|f| f.attributes.name == name.as_bytes());
    let Some(list) = find(LIST) else { return Ok(RelationNames::default()) };
    let list = DatabaseList::parse(&snapshot.read_file(list, MAX_LIST)?).map_err(corrupt)?;
    let oids: Vec<u32> = std::iter::once(0).chain(list.databases.iter().filter(|d| d.unknown.is_none()).map(|d| d.oid)).collect();
    let mut names = RelationNames::new(list);
    let mut left = MAX_ALL;
    for oid in oids {
        let Some(file) = find(&relations_file(oid)) else { continue };
        let bytes = snapshot.read_file(file, MAX_RELATIONS.min(left))?;
        left = left.saturating_sub(bytes.len() as u64);
        names.add(oid, &bytes).map_err(corrupt)?;
    }
    Ok(names)
}

/// The databases as the backup found them; none where that was not recorded, or can't be read.
pub fn databases(opened: &Opened, fold: &Fold, listed: &Listed<'_>) -> Vec<DatabaseFact> {
    let root = &listed.commit.root;
    let read = || {
        let place = Place { pack: root.place.pack, blob: root.place.blob, position: u16::try_from(root.place.position).ok()? };
        let packs = opened.packs_of(fold, listed.commit).ok()?;
        let snapshot = Snapshot::open(&packs, opened.reader().ok()?, root.chunk.short(), place, root.digest).ok()?;
        let files = snapshot.annex(ANNEX, MOST_FILES).ok()?;
        let list = files.iter().find(|f| f.attributes.name == LIST.as_bytes())?;
        DatabaseList::parse(&snapshot.read_file(list, MAX_LIST).ok()?).ok()
    };
    read().unwrap_or_default().databases
}

fn corrupt(e: RelationsError) -> LookError {
    LookError::Repo(RepoError::Corrupt { object: format!("the annex {ANNEX}"), why: e.to_string() })
}
