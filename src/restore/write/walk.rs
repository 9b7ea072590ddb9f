//! The manifest, read once from left to right and cut into tasks.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::task::{LongFile, OpenFolder, SmallFile, Task, slice_of};
use super::turns::Turns;
use super::{BATCH, Fate, Kept, Shared};
use crate::repo::structure::{Child, Extent, FileData, LEAF, Snapshot, StoredFile};
use crate::restore::RestoreError;
use crate::restore::folders::{Rights, join, names, parent_of};
use crate::units::ShortId;

/// The largest file that is kept back.
const MOST_KEPT: u64 = 16 << 20;

pub(super) struct Walk<'s, 'a> {
    shared: &'s Shared<'a>,
    queue: SyncSender<Vec<Task>>,
    /// Tasks that will be done together, and their bytes.
    batch: (Vec<Task>, u64),
    /// Leaves of long files that wait for their turn.
    turns: Turns<Task>,
    walked: Walked,
}

/// What the walk found besides files to write.
#[derive(Default)]
pub(super) struct Walked {
    pub kept: BTreeMap<Vec<u8>, Kept>,
    pub folders: Vec<Vec<u8>>,
}

/// All folders to make, by path, parents before what lies in them: those that the snapshot names (one that it names twice,
/// once), those above them, those wanted.
///
/// # Errors
/// If one is no path within a data directory.
pub(in crate::restore) fn folders_of(snapshot: &Snapshot<'_>, wanted: &[Vec<u8>]) -> Result<BTreeMap<Vec<u8>, Rights>, RestoreError> {
    let mut folders: BTreeMap<Vec<u8>, Rights> = BTreeMap::new();
    for folder in &snapshot.meta().folders {
        in_tablespace(&names(&folder.path)?, true).map_err(|why| RestoreError::corrupt(&folder.path, why))?;
        folders.entry(folder.path.clone()).or_insert(Rights { mode: folder.mode, uid: folder.uid, gid: folder.gid });
    }
    // What nobody described gets the rights of the data directory.
    let nobody = Rights { mode: 0o700, uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
    let own = folders.get(&Vec::new()).copied().unwrap_or(nobody);
    let named: Vec<Vec<u8>> = folders.keys().cloned().chain(wanted.iter().cloned()).chain([Vec::new()]).collect();
    for path in named {
        let mut at = path.as_slice();
        folders.entry(at.to_vec()).or_insert(own);
        while !at.is_empty() {
            at = parent_of(at);
            folders.entry(at.to_vec()).or_insert(own);
        }
    }
    Ok(folders)
}

/// In a tablespace's folder lies nothing but folders of clusters, `PG_<major>_<catalog version>`. A tablespace is restored to
/// where it lay, and whoever could write a backup could name any place: they shall put no file of theirs into it.
fn in_tablespace(names: &[&[u8]], is_folder: bool) -> Result<(), &'static str> {
    match names {
        [b"pg_tblspc", oid, inside, rest @ ..] if oid.iter().all(u8::is_ascii_digit) => {
            let fine = inside.starts_with(b"PG_") && (is_folder || !rest.is_empty());
            if fine { Ok(()) } else { Err("no tablespace has such a thing in its folder") }
        }
        _ => Ok(()),
    }
}

impl<'s, 'a> Walk<'s, 'a> {
    pub fn new(shared: &'s Shared<'a>, queue: SyncSender<Vec<Task>>) -> Self {
        Walk { shared, queue, batch: Default::default(), turns: Turns::default(), walked: Walked::default() }
    }

    pub fn run(mut self) -> Result<Walked, RestoreError> {
        let writing = self.shared.writing;
        let snapshot = writing.snapshot;
        let mut made = folders_of(snapshot, writing.wanted_folders)?;
        for (path, rights) in &made {
            writing.folders.make(path, *rights)?;
        }
        let mut parts: Vec<(&[u8], Child)> = Vec::new();
        for (meta, child) in snapshot.folders()? {
            for part in snapshot.parts(&child)? {
                parts.push((&meta.path, part));
                if parts.len() >= writing.packs.pace().reads {
                    self.parts(std::mem::take(&mut parts), &mut made)?;
                }
            }
        }
        self.parts(parts, &mut made)?;
        self.leaves(0)?;
        self.flush()?;
        self.walked.folders = made.into_keys().collect();
        Ok(self.walked)
    }

    /// Parts of folders, read together.
    fn parts(&mut self, parts: Vec<(&[u8], Child)>, made: &mut BTreeMap<Vec<u8>, Rights>) -> Result<(), RestoreError> {
        let writing = self.shared.writing;
        let children: Vec<Child> = parts.iter().map(|(_, part)| *part).collect();
        for ((path, _), files) in parts.iter().zip(writing.snapshot.files_of(&children)?) {
            writing.cancel.check()?;
            self.part(path, files, made)?;
        }
        Ok(())
    }

    fn part(&mut self, path: &[u8], files: Vec<StoredFile>, made: &mut BTreeMap<Vec<u8>, Rights>) -> Result<(), RestoreError> {
        let writing = self.shared.writing;
        let folder = Arc::new(OpenFolder { fd: writing.folders.folder(path)?, path: path.to_vec() });
        let (mut joint, mut joint_chunks) = (Vec::new(), None);
        let (mut singles, mut bytes) = (Vec::new(), 0u64);
        for stored in files {
            let inner = join(path, &stored.attributes.name);
            in_tablespace(&names(&inner)?, stored.attributes.is_folder).map_err(|why| RestoreError::corrupt(&inner, why))?;
            if stored.attributes.is_folder != (stored.entry.data == FileData::Folder) {
                return Err(RestoreError::corrupt(&inner, "its name is a folder's and its data are not, or the other way round"));
            }
            match if stored.attributes.is_folder { Fate::Write } else { (writing.fate)(&inner) } {
                Fate::Write => {}
                Fate::Drop => continue,
                Fate::Keep => {
                    self.keep(inner, stored)?;
                    continue;
                }
            }
            let file = SmallFile::new(stored.attributes, stored.entry.len);
            match stored.entry.data {
                FileData::Folder if made.contains_key(&inner) => {}
                FileData::Folder => {
                    writing.folders.make(&inner, file.rights)?;
                    made.insert(inner, file.rights);
                }
                FileData::Empty if file.len != 0 => return Err(RestoreError::corrupt(&inner, "it is empty, and has a length")),
                FileData::Empty | FileData::Zeros => file.write_zeros(self.shared, &folder)?,
                FileData::Joint { chunk, offset } => {
                    joint_chunks = Some(stored.joint);
                    joint.push((file, chunk, offset));
                }
                FileData::Single { id, place, .. } => {
                    bytes = bytes.saturating_add(file.len);
                    if singles.len() == LEAF || bytes > BATCH {
                        self.send(Task::Singles { folder: Arc::clone(&folder), files: std::mem::take(&mut singles) })?;
                        bytes = file.len;
                    }
                    singles.push((file, id, place));
                }
                FileData::Tree { .. } => self.long(&folder, file, &stored.entry)?,
            }
        }
        if !singles.is_empty() {
            self.send(Task::Singles { folder: Arc::clone(&folder), files: singles })?;
        }
        match joint_chunks {
            Some(chunks) => self.send(Task::Joint { folder, chunks, files: joint }),
            None => Ok(()),
        }
    }

    fn long(&mut self, folder: &OpenFolder, small: SmallFile, entry: &crate::repo::structure::FileEntry) -> Result<(), RestoreError> {
        let leaves = self.shared.writing.snapshot.leaves(entry)?;
        if leaves.is_empty() {
            return Err(RestoreError::corrupt(&join(&folder.path, &small.name), "its tree has no leaves"));
        }
        let file = Arc::new(LongFile::create(self.shared, folder, small, leaves.len())?);
        let mut offset = 0u64;
        let mut of_file = VecDeque::with_capacity(leaves.len());
        for (number, (len, tree)) in leaves.into_iter().enumerate() {
            of_file.push_back(Task::Leaf { file: Arc::clone(&file), number, offset, len, tree });
            offset = offset.saturating_add(len);
        }
        self.turns.add(of_file);
        self.leaves(self.shared.size.files - 1)
    }

    /// Sends leaves of long files in turn, until no more files than these wait.
    fn leaves(&mut self, files: usize) -> Result<(), RestoreError> {
        while self.turns.files() > files
            && let Some(leaf) = self.turns.next()
        {
            self.send(leaf)?;
        }
        Ok(())
    }

    fn send(&mut self, task: Task) -> Result<(), RestoreError> {
        let size = self.shared.size;
        let bytes = task.bytes();
        if self.batch.1.saturating_add(bytes) > size.batch {
            self.flush()?;
        }
        self.batch.0.push(task);
        self.batch.1 = self.batch.1.saturating_add(bytes);
        if self.batch.0.len() >= size.tasks { self.flush() } else { Ok(()) }
    }

    /// Hands over what was collected.
    fn flush(&mut self) -> Result<(), RestoreError> {
        let (tasks, _) = std::mem::take(&mut self.batch);
        if tasks.is_empty() {
            return Ok(());
        }
        // Every worker that ends early has left its error before it let go of the queue; that one is reported.
        self.queue.send(tasks).map_err(|_| RestoreError::Internal("the threads that write have ended"))
    }

    fn keep(&mut self, path: Vec<u8>, stored: StoredFile) -> Result<(), RestoreError> {
        let rights = Rights { mode: stored.attributes.mode, uid: stored.attributes.uid, gid: stored.attributes.gid };
        let bytes = content_of(self.shared, &path, &stored)?;
        if self.walked.kept.insert(path.clone(), Kept { bytes, rights }).is_some() {
            return Err(RestoreError::corrupt(&path, "the snapshot names it twice"));
        }
        Ok(())
    }
}

/// The whole content of one file of moderate size.
fn content_of(shared: &Shared<'_>, path: &[u8], stored: &StoredFile) -> Result<Vec<u8>, RestoreError> {
    let writing = shared.writing;
    let len = stored.entry.len;
    if len > MOST_KEPT {
        return Err(RestoreError::corrupt(path, format!("{len} bytes are too many for such a file")));
    }
    let fetch = |id: ShortId, place| writing.packs.content(writing.opening, id, place);
    let bytes = match &stored.entry.data {
        FileData::Empty | FileData::Folder => Vec::new(),
        FileData::Zeros => vec![0; len as usize],
        FileData::Single { id, place, .. } => fetch(*id, *place)?.bytes().to_vec(),
        FileData::Joint { chunk, offset } => {
            let outside = || RestoreError::corrupt(path, "it lies outside the chunk that holds it");
            let chunk = stored.joint.get(usize::from(*chunk)).ok_or_else(outside)?;
            slice_of(fetch(chunk.id, chunk.place)?.bytes(), *offset, len).ok_or_else(outside)?.to_vec()
        }
        FileData::Tree { .. } => {
            let mut bytes = Vec::new();
            for (_, tree) in writing.snapshot.leaves(&stored.entry)? {
                for extent in writing.snapshot.leaf(tree)? {
                    if bytes.len() as u64 + u64::from(extent.len()) > len {
                        return Err(RestoreError::corrupt(path, "it is longer than its length"));
                    }
                    match extent {
                        Extent::Zeros(zeros) => bytes.resize(bytes.len() + zeros as usize, 0),
                        Extent::Chunk(chunk) => bytes.extend_from_slice(fetch(chunk.id, chunk.place)?.bytes()),
                    }
                }
            }
            bytes
        }
    };
    if bytes.len() as u64 != len {
        return Err(RestoreError::corrupt(path, format!("it should have {len} bytes, and has {}", bytes.len())));
    }
    Ok(bytes)
}
