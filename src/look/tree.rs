//! The files of a snapshot by their paths.

use std::collections::BTreeMap;

use super::snapshots::Listed;
use super::{LookError, relation_names};
use crate::crypt::Opening;
use crate::pg::config_files::{ANNEX, MAX_FILES};
use crate::pg::control_file::FILE_SIZE;
use crate::pg::facts::ClusterFacts;
use crate::pg::relations::RelationNames;
use crate::repo::RepoError;
use crate::repo::pack::{Packs, Place};
use crate::repo::structure::{Child, Snapshot, StoredFile};
use crate::units::ids::unhex;

/// Configuration files that lay outside the data directory are shown below this folder, by where they lay.
const CONFIGURATION: &[u8] = b"(configuration)";

/// Opens the tree of a snapshot; `packs` are those that its COMMIT names.
///
/// # Errors
/// If its root can't be read.
pub fn open_snapshot<'a>(packs: &'a Packs, opening: &'a Opening, listed: &Listed<'_>) -> Result<Snapshot<'a>, LookError> {
    let root = &listed.commit.root;
    let wrong = || RepoError::Corrupt { object: format!("log/{}", listed.number), why: "its root's position is too large".into() };
    let position = u16::try_from(root.place.position).map_err(|_| wrong())?;
    let place = Place { pack: root.place.pack, blob: root.place.blob, position };
    Ok(Snapshot::open(packs, opening, root.chunk.short(), place, root.digest)?)
}

/// What a snapshot says of its cluster.
pub(super) fn facts_in(snapshot: &Snapshot<'_>, id: &str) -> Result<ClusterFacts, LookError> {
    serde_json::from_value(snapshot.meta().extra.clone()).map_err(|source| LookError::Facts { snapshot: id.to_owned(), source })
}

/// The folders of a snapshot by path, and what is known of its relations.
pub struct Tree<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot<'a>,
    /// Its id.
    pub id: String,
    /// What its files are called in the databases.
    pub names: RelationNames,
    /// Why that is not known, if it could not be read.
    pub names_lost: Option<LookError>,
    folders: BTreeMap<Vec<u8>, Vec<Child>>,
    /// Files of annexes, by the folder in which they are shown.
    beside: BTreeMap<Vec<u8>, Vec<StoredFile>>,
    kept: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What lies at a path.
pub enum Found {
    /// A folder.
    Folder,
    /// A file.
    File(Box<StoredFile>),
    /// A file that a restore makes out of what it knows: `backup_label`, `global/pg_control`.
    Kept(Vec<u8>),
}

impl<'a> Tree<'a> {
    /// Reads the folders, not what is in them.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn of(snapshot: &'a Snapshot<'a>, id: &str) -> Result<Self, LookError> {
        let mut folders: BTreeMap<Vec<u8>, Vec<Child>> = BTreeMap::from([(Vec::new(), Vec::new())]);
        for (meta, child) in snapshot.folders()? {
            folders.entry(meta.path.clone()).or_default().push(child);
        }
        let facts = facts_in(snapshot, id).ok();
        let beside = facts.as_ref().map(|facts| configuration(snapshot, facts)).transpose()?.unwrap_or_default();
        beside.keys().for_each(|path| _ = folders.entry(path.clone()).or_default());
        let above: Vec<Vec<u8>> = folders.keys().flat_map(|path| parents(path).map(<[u8]>::to_vec).collect::<Vec<_>>()).collect();
        above.into_iter().for_each(|path| _ = folders.entry(path).or_default());
        let (names, names_lost) = match relation_names(snapshot) {
            Ok(names) => (names, None),
            Err(e) => (RelationNames::default(), Some(e)),
        };
        let kept = facts.as_ref().map(kept).unwrap_or_default();
        Ok(Tree { snapshot, id: id.to_owned(), names, names_lost, folders, beside, kept })
    }

    /// Is there such a folder?
    pub fn is_folder(&self, path: &[u8]) -> bool {
        self.folders.contains_key(path)
    }

    /// The paths of all folders, in the order of their bytes.
    pub fn folders(&self) -> impl Iterator<Item = &[u8]> {
        self.folders.keys().map(Vec::as_slice)
    }

    /// The subtrees of a folder: one, unless the snapshot names it twice.
    pub fn children(&self, path: &[u8]) -> &[Child] {
        self.folders.get(path).map(Vec::as_slice).unwrap_or_default()
    }

    /// Paths of the folders that lie directly in this one.
    pub fn folders_in<'s>(&'s self, path: &'s [u8]) -> impl Iterator<Item = &'s [u8]> {
        let directly = move |folder: &&[u8]| !folder.is_empty() && parent_of(folder) == path;
        self.folders().filter(directly)
    }

    /// The files that lie directly in a folder.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn files_in(&self, path: &[u8]) -> Result<Vec<StoredFile>, LookError> {
        let mut files = self.beside(path).to_vec();
        for child in self.children(path) {
            for part in self.snapshot.parts(child)? {
                files.extend(self.snapshot.files(&part)?.into_iter().filter(|f| !f.attributes.is_folder));
            }
        }
        Ok(files)
    }

    /// Files that are shown in a folder and lie beside the data directory.
    pub fn beside(&self, path: &[u8]) -> &[StoredFile] {
        self.beside.get(path).map(Vec::as_slice).unwrap_or_default()
    }

    /// Files that a restore makes, by path.
    pub fn kept(&self) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.kept
    }

    /// What lies at a path.
    ///
    /// # Errors
    /// [`LookError::NoPath`], or if the folder can't be read.
    pub fn find(&self, path: &[u8]) -> Result<Found, LookError> {
        if self.is_folder(path) {
            return Ok(Found::Folder);
        }
        if let Some(bytes) = self.kept.get(path) {
            return Ok(Found::Kept(bytes.clone()));
        }
        let name = name_of(path);
        let found = self.files_in(parent_of(path))?.into_iter().find(|f| f.attributes.name == name);
        found
            .map(|file| Found::File(Box::new(file)))
            .ok_or_else(|| LookError::NoPath { snapshot: self.id.clone(), path: super::show_path(path) })
    }

    /// What a file is called, if that was recorded.
    pub fn relation(&self, path: &[u8]) -> Option<String> {
        self.names.lookup(path).map(|relation| relation.to_string())
    }
}

/// The configuration files that lay outside the data directory, under their own names.
fn configuration(snapshot: &Snapshot<'_>, facts: &ClusterFacts) -> Result<BTreeMap<Vec<u8>, Vec<StoredFile>>, LookError> {
    let mut shown: BTreeMap<Vec<u8>, Vec<StoredFile>> = BTreeMap::new();
    let Some(configuration) = &facts.configuration else { return Ok(shown) };
    let stored = snapshot.annex(ANNEX, MAX_FILES)?;
    for file in &configuration.files {
        let Some(found) = stored.iter().find(|f| f.attributes.name == file.file.as_bytes()) else { continue };
        let lay = file.path_bytes.as_deref().and_then(unhex).unwrap_or_else(|| file.path.clone().into_bytes());
        let names: Vec<&[u8]> = lay.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b"." && *name != b"..").collect();
        let path = names.iter().fold(CONFIGURATION.to_vec(), |path, name| join(&path, name));
        let mut found = found.clone();
        found.attributes.name = name_of(&path).to_vec();
        shown.entry(parent_of(&path).to_vec()).or_default().push(found);
    }
    Ok(shown)
}

/// The files that a restore makes: neither is a file of the tree.
fn kept(facts: &ClusterFacts) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let label = facts.backup_label.as_ref().map(|text| (b"backup_label".to_vec(), text.clone().into_bytes()));
    let control = unhex(&facts.control_file).filter(|bytes| bytes.len() <= FILE_SIZE).map(|mut bytes| {
        bytes.resize(FILE_SIZE, 0);
        (b"global/pg_control".to_vec(), bytes)
    });
    label.into_iter().chain(control).collect()
}

/// The folder in which a path lies.
pub(super) fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').and_then(|at| path.get(..at)).unwrap_or_default()
}

/// The last name of a path.
pub(super) fn name_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').and_then(|at| path.get(at + 1..)).unwrap_or(path)
}

/// A file's or folder's path.
pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| (!path.is_empty()).then(|| parent_of(path))).skip(1)
}
