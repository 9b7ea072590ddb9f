//! Taking a file from the server: read once, whole, and checked against name, header and cluster before anything is
//! stored.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::facts::{BackupFacts, FileFacts, FileKind, HistoryFacts, SegmentRecord};
use super::failure::PushError;
use crate::pg::ControlFile;
use crate::pg::control_file::ReadControlFileError;
use crate::pg::timeline::History;
use crate::pg::wal::{SegmentError, SegmentFacts, SegmentHeader, WalFileName, check_segment};
use crate::repo::wal::MAX_FILE;
use crate::units::SegmentName;

/// The longest history or backup-label file.
const MAX_TEXT: u64 = 1 << 20;
/// How often a control file that the server is rewriting is read.
const CONTROL_TRIES: u32 = 10;
/// The length of pg_control.
const CONTROL_LEN: u64 = 8192;

/// How long such a file can be, in bytes.
pub(super) fn longest(name: &WalFileName) -> u64 {
    match name {
        WalFileName::Segment(_) | WalFileName::Partial(_) => MAX_FILE,
        WalFileName::History(_) | WalFileName::Backup { .. } => MAX_TEXT,
    }
}

/// Reads the whole file, at most as long as such a file can be.
pub(super) fn read_file(path: &Path, name: &WalFileName) -> Result<Vec<u8>, PushError> {
    let failed = |source| PushError::Read { path: path.to_path_buf(), source };
    let unfit = |what: String| PushError::Unfit { path: path.to_path_buf(), what };
    let max = longest(name);
    let file = File::open(path).map_err(failed)?;
    let stat = file.metadata().map_err(failed)?;
    if !stat.is_file() {
        return Err(unfit("no regular file".into()));
    }
    let len = usize::try_from(stat.len()).ok().filter(|_| stat.len() <= max);
    let len = len.ok_or_else(|| unfit(format!("{} bytes long, more than any such file", stat.len())))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    // A file that the server hands out is finished; one that still grows or shrinks isn't what it says.
    if file.metadata().map_err(failed)?.len() != stat.len() {
        return Err(unfit("being written to while it is read".into()));
    }
    Ok(bytes)
}

/// A file that may be archived.
pub(super) struct Taken {
    pub facts: FileFacts,
    /// What a person should hear of it, though it is archived.
    pub warning: Option<String>,
}

/// Checks the file and gathers its facts.
pub(super) fn check(path: &Path, name: &WalFileName, bytes: &[u8], system_identifier: u64) -> Result<Taken, PushError> {
    let mut warning = None;
    let kind = match name {
        WalFileName::Segment(segment) => {
            let (header, scan) = segment_facts(*segment, bytes, system_identifier).map_err(|e| refused(path, e))?;
            warning = scan.stop.map(|stop| format!("{name} holds WAL only up to {}: replay will stop there ({stop})", scan.valid_until));
            FileKind::Segment(SegmentRecord::new(*segment, &header, scan))
        }
        WalFileName::Partial(segment) => {
            let (header, scan) = segment_facts(*segment, bytes, system_identifier).map_err(|e| refused(path, e))?;
            FileKind::Partial(SegmentRecord::new(*segment, &header, scan))
        }
        WalFileName::History(timeline) => {
            let history = History::parse(*timeline, bytes).map_err(|source| PushError::History { path: path.to_path_buf(), source })?;
            FileKind::History(HistoryFacts::new(&history))
        }
        WalFileName::Backup { segment, offset } => FileKind::Backup(BackupFacts { segment: *segment, offset: *offset }),
    };
    Ok(Taken { facts: FileFacts::new(system_identifier, kind), warning })
}

fn segment_facts(name: SegmentName, bytes: &[u8], system_identifier: u64) -> Result<(SegmentHeader, SegmentFacts), SegmentError> {
    let header = check_segment(name, bytes, bytes.len() as u64, Some(system_identifier))?;
    let scan = SegmentFacts::of(&header, bytes);
    Ok((header, scan))
}

fn refused(path: &Path, source: SegmentError) -> PushError {
    PushError::Segment { path: path.to_path_buf(), source }
}

/// Where a data directory keeps its control file.
pub(super) fn control_path(pgdata: &Path) -> PathBuf {
    pgdata.join("global/pg_control")
}

/// The system identifier of a data directory; the inner error: its control file can't be read.
pub(super) fn identifier_of(pgdata: &Path) -> Result<Result<u64, io::Error>, PushError> {
    let path = control_path(pgdata);
    let read = || -> io::Result<Vec<u8>> {
        let file = File::open(&path)?;
        let len = file.metadata()?.len().min(CONTROL_LEN);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    match ControlFile::read_stable(CONTROL_TRIES, read) {
        Ok((control, _)) => Ok(Ok(control.system_identifier)),
        Err(ReadControlFileError::Read(source)) => Ok(Err(source)),
        Err(ReadControlFileError::Bad(source)) => Err(PushError::ControlFile { path, source }),
    }
}
