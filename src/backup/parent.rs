//! The snapshot before this one: what of it proves that a file has not changed.

use std::collections::{HashMap, HashSet};

use crate::repo::RepoError;
use crate::repo::structure::{Attributes, Child, Snapshot, StoredFile};
use crate::units::Timestamp;

/// The parent of a backup.
pub struct Parent<'a> {
    snapshot: Snapshot<'a>,
    folders: HashMap<Vec<u8>, Child>,
    started_at: Timestamp,
    proves_unchanged: bool,
    damaged: HashSet<String>,
}

/// Files of one folder of the parent, by name.
pub type ParentFolder = HashMap<Vec<u8>, StoredFile>;

/// A file that was changed within this time before the parent began may have been changed again with the same time
/// stamp.
const MARGIN_NS: i64 = 2_000_000_000;

impl<'a> Parent<'a> {
    /// Over an opened snapshot. `started_at` is when it began, by the clock of the host that read it;
    /// `proves_unchanged` is false where attributes prove nothing (asked to verify, or checksums were switched).
    /// `damaged` are files in which pages were damaged then: they are read and reported again.
    ///
    /// # Errors
    /// If its folders can't be read.
    pub fn new(snapshot: Snapshot<'a>, started_at: Timestamp, proves_unchanged: bool, damaged: HashSet<String>) -> Result<Self, RepoError> {
        let folders = snapshot.folders()?.into_iter().map(|(meta, child)| (meta.path.clone(), child)).collect();
        Ok(Parent { snapshot, folders, started_at, proves_unchanged, damaged })
    }

    /// The files of a folder; none if the parent hasn't it.
    ///
    /// # Errors
    /// If its nodes can't be read.
    pub fn folder(&self, path: &[u8]) -> Result<ParentFolder, RepoError> {
        let mut files = HashMap::new();
        if let Some(folder) = self.folders.get(path) {
            for part in self.snapshot.parts(folder)? {
                for file in self.snapshot.files(&part)? {
                    files.insert(file.attributes.name.clone(), file);
                }
            }
        }
        Ok(files)
    }

    /// Does the parent's file prove that this one has not changed since? Size and times are those of `stat`, taken before
    /// either was read.
    pub fn proves(&self, shown: &str, then: &Attributes, now: &Attributes) -> bool {
        let began = self.started_at.0.saturating_mul(1000);
        self.proves_unchanged && !self.damaged.contains(shown) && is_same(then, now) && now.mtime < began.saturating_sub(MARGIN_NS)
    }
}

fn is_same(then: &Attributes, now: &Attributes) -> bool {
    then.instance == now.instance
        && then.size == now.size
        && then.mtime == now.mtime
        && then.ctime == now.ctime
        && then.inode == now.inode
        && then.is_folder == now.is_folder
}
