//! Parts and files, with what is still to be done on them.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{Copy, FileJob, Shared};
use crate::backup::BackupError;
use crate::backup::source::SourceFile;
use crate::chunk::EXTENT;
use crate::codec;
use crate::crypt::ChunkRole;
use crate::repo::RepoError;
use crate::repo::structure::{
    Attributes, Child, ChunkRef, Extent, FileData, FileEntry, LEAF, Leaf, Needs, Part, StoredFile, TreeRef, encode_attributes,
    file_of_extents, file_of_leaves, put_part,
};
use crate::repo::write::{NewChunk, Quiet, is_of_one_pack};

/// Files smaller than this that are no relation forks lie in joint chunks.
const SMALL: u64 = 64 << 10;

/// Something to do.
pub(super) enum Task {
    /// Extents of a relation fork: leaf number `leaf`.
    Leaf { part: Arc<PartWork>, file: usize, leaf: usize },
    /// A file that is cut by content.
    Stream { part: Arc<PartWork>, file: usize },
    /// All small files of a part.
    Joint { part: Arc<PartWork> },
}

/// A part under work.
pub(super) struct PartWork {
    pub folder: usize,
    pub number: usize,
    pub files: Vec<FileWork>,
    pub joint: Mutex<Vec<ChunkRef>>,
    pub joint_needs: Mutex<Needs>,
    left: AtomicUsize,
}

/// How a file is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// It is a folder without files, or something else that has no bytes.
    Nothing,
    /// The parent's entry proves it unchanged.
    Inherit,
    /// In leaves of extents.
    Extents,
    /// As a stream cut by content.
    Stream,
    /// With other small files.
    Joint,
}

/// The state of a file's descriptor: files are not kept open until their part is done.
enum Opened {
    NotYet,
    Open(Arc<dyn SourceFile>),
    Gone,
    Done,
}

/// What came of a leaf.
pub(super) enum LeafResult {
    /// The file's only leaf: its extents.
    Only(Vec<Extent>, Needs),
    /// One of several, stored.
    Stored(Leaf),
}

impl LeafResult {
    fn len(&self) -> u64 {
        match self {
            LeafResult::Only(extents, _) => extents.iter().map(|e| u64::from(e.len())).sum(),
            LeafResult::Stored(leaf) => leaf.len,
        }
    }
}

/// A file under work.
pub(super) struct FileWork {
    pub job: FileJob,
    pub before: Option<StoredFile>,
    pub way: Way,
    opened: Mutex<Opened>,
    leaves_left: AtomicUsize,
    /// Damaged pages so far.
    pub wrong: AtomicU32,
    before_leaves: OnceLock<Vec<(u64, TreeRef)>>,
    pub leaves: Mutex<Vec<Option<LeafResult>>>,
    /// Of a stream or small file: length and data, or nothing if it has vanished.
    pub data: Mutex<Option<FileEntry>>,
}

impl PartWork {
    pub fn new(folder: usize, number: usize, files: Vec<FileWork>) -> Self {
        PartWork { folder, number, files, joint: Mutex::default(), joint_needs: Mutex::default(), left: AtomicUsize::new(0) }
    }

    /// One task is done; was it the last?
    pub fn one_less(&self) -> bool {
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl FileWork {
    pub fn new(job: FileJob, before: Option<StoredFile>, copy: &Copy<'_>) -> Self {
        let way = way_of(&job, before.as_ref(), copy);
        FileWork {
            leaves_left: AtomicUsize::new(if way == Way::Extents { leaves_of(&job) } else { 1 }),
            job,
            before,
            way,
            opened: Mutex::new(Opened::NotYet),
            wrong: AtomicU32::new(0),
            before_leaves: OnceLock::new(),
            leaves: Mutex::default(),
            data: Mutex::default(),
        }
    }

    /// The open file; `None` if it has vanished.
    pub fn open(&self, copy: &Copy<'_>) -> Result<Option<Arc<dyn SourceFile>>, BackupError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        match &*opened {
            Opened::Open(file) => return Ok(Some(Arc::clone(file))),
            Opened::Gone => return Ok(None),
            Opened::NotYet | Opened::Done => {}
        }
        match copy.source.open(&self.job.path) {
            Ok(file) => {
                let file: Arc<dyn SourceFile> = Arc::from(file);
                *opened = Opened::Open(Arc::clone(&file));
                Ok(Some(file))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                *opened = Opened::Gone;
                Ok(None)
            }
            Err(source) => Err(self.error(source)),
        }
    }

    /// A leaf, or all there is, was read: after the last one the file is closed.
    pub fn leaf_is_done(&self) {
        if self.leaves_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(*opened, Opened::Open(_)) {
                *opened = Opened::Done;
            }
        }
    }

    fn has_vanished(&self) -> bool {
        matches!(*self.opened.lock().unwrap_or_else(PoisonError::into_inner), Opened::Gone)
    }

    pub fn error(&self, source: io::Error) -> BackupError {
        BackupError::Io { what: format!("reading {}", self.job.path.display()), source }
    }

    /// The parent's leaves of this file.
    pub fn before_leaves(&self, copy: &Copy<'_>) -> Result<&[(u64, TreeRef)], BackupError> {
        if let Some(leaves) = self.before_leaves.get() {
            return Ok(leaves);
        }
        let leaves = match self.before.as_ref().map(|b| &b.entry) {
            Some(FileEntry { len, data: FileData::Tree { root, .. } }) => {
                unless_damaged(crate::repo::structure::leaves_below(copy.packs, *root, *len))?
            }
            _ => Vec::new(),
        };
        Ok(self.before_leaves.get_or_init(|| leaves))
    }

    pub fn leaf_count(&self) -> usize {
        leaves_of(&self.job)
    }
}

fn leaves_of(job: &FileJob) -> usize {
    job.attributes.size.div_ceil(LEAF as u64 * EXTENT as u64) as usize
}

/// Without what can't be read of the parent, all is read and found by id.
pub(super) fn unless_damaged<T: Default>(read: Result<T, RepoError>) -> Result<T, RepoError> {
    match read {
        Err(e) if is_of_one_pack(&e) => Ok(T::default()),
        other => other,
    }
}

fn way_of(job: &FileJob, before: Option<&StoredFile>, copy: &Copy<'_>) -> Way {
    if job.attributes.is_folder {
        return Way::Nothing;
    }
    let small = job.pages.is_none() && job.attributes.size < SMALL;
    if let (Some(parent), Some(before)) = (copy.parent, before)
        && parent.proves(&job.shown, &before.attributes, &job.attributes)
        && before.entry.len == job.attributes.size
        && can_inherit(&before.entry, copy)
    {
        return Way::Inherit;
    }
    if job.attributes.size == 0 {
        Way::Nothing
    } else if small {
        Way::Joint
    } else if job.pages.is_some() && !copy.cdc_for_all {
        Way::Extents
    } else {
        Way::Stream
    }
}

/// May this session name all that the parent's entry needs, and is none of it damaged? Joint slices are settled by
/// their part.
fn can_inherit(entry: &FileEntry, copy: &Copy<'_>) -> bool {
    match &entry.data {
        FileData::Single { needs, .. } | FileData::Tree { needs, .. } => {
            needs.0.keys().all(|p| copy.writer.may_name(*p) && !copy.damaged_packs.contains(p))
        }
        FileData::Empty | FileData::Zeros | FileData::Joint { .. } => true,
        FileData::Folder => false,
    }
}

/// Splits a part into tasks. Small files that are all unchanged, in the parent's joint chunks, need none.
pub(super) fn tasks_of(part: &Arc<PartWork>, copy: &Copy<'_>) -> Result<Vec<Task>, BackupError> {
    let mut tasks = Vec::new();
    let joint_are_read = !super::joint::inherit(part, copy)?;
    if joint_are_read {
        tasks.push(Task::Joint { part: Arc::clone(part) });
    }
    for (file, work) in part.files.iter().enumerate() {
        match work.way {
            Way::Extents => {
                let count = work.leaf_count();
                let mut leaves = work.leaves.lock().unwrap_or_else(PoisonError::into_inner);
                leaves.resize_with(count, || None);
                tasks.extend((0..count).map(|leaf| Task::Leaf { part: Arc::clone(part), file, leaf }));
            }
            Way::Stream => tasks.push(Task::Stream { part: Arc::clone(part), file }),
            // Counted when it is read.
            Way::Inherit if joint_are_read && super::joint::is_joint(work) => {}
            Way::Inherit => copy.progress.advance(work.job.attributes.size),
            Way::Nothing | Way::Joint => {}
        }
    }
    part.left.store(tasks.len(), Ordering::Release);
    Ok(tasks)
}

/// Stores a part whose files are done.
pub(super) fn store_part(shared: &Shared<'_>, part: &PartWork, needs: &mut Needs) -> Result<Child, BackupError> {
    let mut attributes: Vec<Attributes> = Vec::with_capacity(part.files.len());
    let mut entries = Vec::with_capacity(part.files.len());
    for work in &part.files {
        if let Some(entry) = entry_of(shared, work)? {
            if let (Some(kept), Way::Inherit, Some(_)) = (shared.copy.kept, work.way, &work.job.pages) {
                kept.carry(&work.job.shown, work.leaf_count());
            }
            match &entry.data {
                FileData::Single { needs: theirs, .. } | FileData::Tree { needs: theirs, .. } => needs.join(theirs),
                _ => {}
            }
            attributes.push(work.job.attributes.clone());
            entries.push(entry);
        }
    }
    needs.join(&part.joint_needs.lock().unwrap_or_else(PoisonError::into_inner));
    let joint = std::mem::take(&mut *part.joint.lock().unwrap_or_else(PoisonError::into_inner));
    let attributes = store_content(shared, &encode_attributes(&attributes), needs)?;
    Ok(put_part(shared.copy.writer, Part { attributes, joint, files: entries }, needs)?)
}

/// Stores a chunk of our own making, or finds it: one that changes with any file of its part.
pub(super) fn store_content(shared: &Shared<'_>, plain: &[u8], needs: &mut Needs) -> Result<ChunkRef, BackupError> {
    let writer = shared.copy.writer;
    let id = writer.sealing().chunk_id(ChunkRole::Content, plain);
    writer.is_of_tree(id);
    let stored = match writer.find(ChunkRole::Content, &id)? {
        Some(stored) => stored,
        None => {
            let frame = codec::encode_whole(plain, codec::DENSE)?;
            writer.put_quiet(ChunkRole::Content, NewChunk { id, plain, frame, reference: None }, Quiet::Days)?
        }
    };
    stored.add_to(needs);
    if let Some(kept) = shared.copy.kept {
        kept.keep_content(id.short(), plain);
    }
    Ok(ChunkRef { id: id.short(), place: stored.place, len: plain.len() as u32 })
}

/// The entry of a finished file; `None` if it has vanished.
fn entry_of(shared: &Shared<'_>, work: &FileWork) -> Result<Option<FileEntry>, BackupError> {
    match work.way {
        Way::Nothing if work.job.attributes.is_folder => Ok(Some(FileEntry { len: 0, data: FileData::Folder })),
        Way::Nothing => Ok(Some(FileEntry { len: 0, data: FileData::Empty })),
        Way::Inherit if !matches!(work.before.as_ref().map(|b| &b.entry.data), Some(FileData::Joint { .. })) => {
            Ok(work.before.as_ref().map(|b| b.entry.clone()))
        }
        Way::Stream | Way::Joint | Way::Inherit => Ok(work.data.lock().unwrap_or_else(PoisonError::into_inner).take()),
        Way::Extents => extents_entry(shared, work),
    }
}

fn extents_entry(shared: &Shared<'_>, work: &FileWork) -> Result<Option<FileEntry>, BackupError> {
    if work.has_vanished() {
        return Ok(None);
    }
    let leaves = std::mem::take(&mut *work.leaves.lock().unwrap_or_else(PoisonError::into_inner));
    // A file that was cut meanwhile ends where a leaf came out short: what was read behind it, after it had grown again, is
    // created anew by replay.
    let whole = LEAF as u64 * EXTENT as u64;
    let mut kept = Vec::with_capacity(leaves.len());
    for leaf in leaves {
        let leaf = leaf.ok_or(BackupError::Internal("a leaf was not copied"))?;
        let len = leaf.len();
        if len > 0 {
            kept.push(leaf);
        }
        if len < whole {
            break;
        }
    }
    let len = kept.iter().map(LeafResult::len).sum();
    let writer = shared.copy.writer;
    let data = if kept.len() == 1
        && let Some(LeafResult::Only(..)) = kept.first()
        && let Some(LeafResult::Only(extents, needs)) = kept.pop()
    {
        file_of_extents(writer, extents, needs)?
    } else {
        let stored = kept.into_iter().map(|leaf| match leaf {
            LeafResult::Stored(leaf) => Ok(leaf),
            LeafResult::Only(..) => Err(BackupError::Internal("a leaf of several was not stored")),
        });
        file_of_leaves(writer, stored.collect::<Result<_, _>>()?)?
    };
    Ok(Some(FileEntry { len, data }))
}
