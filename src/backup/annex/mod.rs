//! What a snapshot records beside the data directory: its annexes, each a few files that the backup makes or gathers.
//!
//! What enters: a server that answers, or what it said; what leaves: files, stored like any other. Nothing in here makes a
//! backup fail: what can't be had is missing in the annex, and that is said.
//!
//! - `names.rs`: databases, relations, extensions: which relation a file belongs to
//! - `configuration.rs`: configuration files that lie outside the data directory
//! - `memory.rs`: files in memory, as the copy reads them

mod configuration;
mod memory;
mod names;

use super::BackupError;
use super::copy::{Copied, Copy, FileJob};
use crate::repo::structure::{Attributes, Instance};
use memory::Memory;

pub(super) use configuration::{Configuration, gather};
pub(super) use names::Asking;

/// A few files that are stored together.
pub(super) struct Annex {
    /// Its name in the snapshot.
    pub name: &'static str,
    /// Its files.
    pub files: Vec<AnnexFile>,
}

/// A file of an annex.
pub(super) struct AnnexFile {
    /// Its name; no path.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Last modification, ns.
    pub mtime: i64,
}

impl AnnexFile {
    /// One that the backup itself has made: the same content gives the same chunks and nodes each time.
    pub fn made(name: String, bytes: Vec<u8>) -> Self {
        AnnexFile { name, bytes, mode: 0o600, owner: (0, 0), mtime: 0 }
    }
}

/// Stores annexes: one folder each, in this order.
///
/// # Errors
/// If they can't be stored.
pub(super) fn store(copy: &Copy<'_>, annexes: Vec<Annex>) -> Result<Copied, BackupError> {
    let mut memory = Memory::default();
    let mut folders = Vec::new();
    for Annex { name, mut files } in annexes {
        files.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        let jobs: Vec<FileJob> = files
            .into_iter()
            .map(|file| {
                let job = job(name, &file);
                memory.add(job.path.clone(), file.bytes);
                job
            })
            .collect();
        folders.push((name, jobs));
    }
    let copy = Copy { source: &memory, parent: None, ..*copy };
    copy.run(|feed| folders.into_iter().try_for_each(|(name, jobs)| feed.folder(name.as_bytes(), jobs)))
}

/// Attributes that are the same whoever reads: neither machine nor inode.
fn job(annex: &str, file: &AnnexFile) -> FileJob {
    let attributes = Attributes {
        name: file.name.clone().into_bytes(),
        is_folder: false,
        instance: Instance { machine: [0; 16], device: 0, inode: 0 },
        mode: file.mode,
        uid: file.owner.0,
        gid: file.owner.1,
        size: file.bytes.len() as u64,
        mtime: file.mtime,
        ctime: 0,
        inode: 0,
    };
    let shown = format!("{annex}/{}", file.name);
    FileJob { attributes, path: shown.clone().into(), shown, pages: None, check: None }
}
