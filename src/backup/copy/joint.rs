//! Small files of a part: one behind the other in joint chunks.

use std::sync::{Arc, PoisonError};

use super::work::{FileWork, PartWork, Way};
use super::{Copy, Shared};
use crate::backup::BackupError;
use crate::backup::damage::DamagedPage;
use crate::backup::source::SourceFile;
use crate::chunk::FolderChunks;
use crate::codec;
use crate::crypt::ChunkRole;
use crate::repo::structure::{ChunkRef, FileData, FileEntry, Needs};
use crate::repo::write::{NewChunk, Quiet};

/// Does it lie in the part's joint chunks?
pub(super) fn is_joint(work: &FileWork) -> bool {
    work.way == Way::Joint
        || work.way == Way::Inherit && matches!(work.before.as_ref().map(|b| &b.entry.data), Some(FileData::Joint { .. }))
}

/// Takes the parent's joint chunks if every small file of the part is unchanged and lies in those of one part of the
/// parent. Otherwise all small files of the part are read again.
pub(super) fn inherit(part: &PartWork, copy: &Copy<'_>) -> Result<bool, BackupError> {
    let small: Vec<&FileWork> = part.files.iter().filter(|w| is_joint(w)).collect();
    if small.is_empty() {
        return Ok(true);
    }
    let Some(first) = small.first().and_then(|w| w.before.as_ref()) else { return Ok(false) };
    let same_part = |w: &&FileWork| w.way == Way::Inherit && w.before.as_ref().is_some_and(|b| Arc::ptr_eq(&b.joint, &first.joint));
    if !small.iter().all(same_part) {
        return Ok(false);
    }
    let mut needs = Needs::default();
    for chunk in first.joint.iter() {
        match copy.writer.stored_at(chunk.id, chunk.place)? {
            Some(stored) => stored.add_to(&mut needs),
            None => return Ok(false),
        }
    }
    *part.joint.lock().unwrap_or_else(PoisonError::into_inner) = first.joint.to_vec();
    *part.joint_needs.lock().unwrap_or_else(PoisonError::into_inner) = needs;
    for work in small {
        *work.data.lock().unwrap_or_else(PoisonError::into_inner) = work.before.as_ref().map(|b| b.entry.clone());
    }
    Ok(true)
}

/// Reads all small files of a part and stores them.
pub(super) fn copy(shared: &Shared<'_>, part: &PartWork) -> Result<(), BackupError> {
    let copy = shared.copy;
    let mut chunks = FolderChunks::new(copy.joint_secret);
    let (mut slices, mut full) = (Vec::new(), Vec::new());
    for work in part.files.iter().filter(|w| is_joint(w)) {
        copy.cancel.check().map_err(BackupError::Cancelled)?;
        let Some(file) = work.open(copy)? else { continue };
        work.leaf_is_done();
        let bytes = read_whole(work, file.as_ref(), copy)?;
        let got = bytes.len();
        shared.has_read(got as u64);
        let (place, complete) = chunks.add(&bytes).map_err(|_| BackupError::Internal("a small file that isn't small"))?;
        full.extend(complete);
        slices.push((work, got as u64, place));
    }
    let (mut stored_chunks, mut needs) = (Vec::new(), Needs::default());
    full.extend(chunks.finish());
    // They change with any of their files.
    let quiet = if copy.parent.is_some() { Quiet::Days } else { Quiet::New };
    for plain in full {
        let id = copy.writer.sealing().chunk_id(ChunkRole::Content, &plain);
        let stored = match copy.writer.find(ChunkRole::Content, &id)? {
            Some(stored) => stored,
            None => {
                let frame = codec::encode_whole(&plain, codec::DENSE)?;
                copy.writer.put_quiet(ChunkRole::Content, NewChunk { id, plain: &plain, frame, reference: None }, quiet)?
            }
        };
        stored.add_to(&mut needs);
        stored_chunks.push(ChunkRef { id: id.short(), place: stored.place, len: plain.len() as u32 });
    }
    for (work, len, slice) in slices {
        let data = match slice {
            None => FileData::Empty,
            Some(place) => FileData::Joint { chunk: place.chunk as u16, offset: place.offset },
        };
        *work.data.lock().unwrap_or_else(PoisonError::into_inner) = Some(FileEntry { len, data });
    }
    *part.joint.lock().unwrap_or_else(PoisonError::into_inner) = stored_chunks;
    *part.joint_needs.lock().unwrap_or_else(PoisonError::into_inner) = needs;
    Ok(())
}

/// Reads a small file; one that has to fit itself is read again until it does.
fn read_whole(work: &FileWork, file: &dyn SourceFile, copy: &Copy<'_>) -> Result<Vec<u8>, BackupError> {
    let read = || {
        let mut bytes = vec![0; work.job.attributes.size as usize];
        let got = file.read_at(&mut bytes, 0).map_err(|e| work.error(e))?;
        bytes.truncate(got);
        Ok::<_, BackupError>(bytes)
    };
    let mut bytes = read()?;
    let Some(is_whole) = work.job.check else { return Ok(bytes) };
    for pause in super::pages::AGAIN {
        if is_whole(&bytes) {
            return Ok(bytes);
        }
        std::thread::sleep(pause);
        bytes = read()?;
    }
    if !is_whole(&bytes) {
        copy.damage.add(DamagedPage {
            path: work.job.shown.clone(),
            fork: "main".into(),
            block: 0,
            why: "its checksum is wrong, and stays wrong".into(),
        });
    }
    Ok(bytes)
}
