//! WAL in the target's pg_wal that the archive doesn't have: the last minutes of somebody's data.
//!
//! Whole segments of a line that the archive knows are pushed by the caller, unless it was told not to. Everything else
//! that is lacking there is saved beside the target. The unfinished last segment, in which the server was when it ended,
//! is never pushed, under no name: the archive would refuse the whole one that another server of this line may still
//! finish, or the `.partial` that a standby archives when it is promoted. It is saved, and put into the restored pg_wal,
//! where recovery finds it behind the archive's last. (docs/decisions/011-restoring-in-place.md)
//!
//! - `sort.rs`: what becomes of which file (pure, but for reading them)
//! - `save.rs`: the folder beside the target

mod save;
mod sort;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use save::{name_for, save};
pub use sort::{Archived, FetchArchived, LocalSegment, WalRescue, sort};

use super::RestoreError;
use super::folders::read_small;
use crate::pg::wal::{SegmentError, SegmentHeader, WalFileName, check_segment};
use crate::units::SegmentName;

/// The longest file of WAL.
const MAX_FILE: u64 = 1 << 30;

/// The files of a pg_wal that may hold something.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LocalWal {
    /// The folder, links resolved; none if there is no pg_wal.
    pub folder: Option<PathBuf>,
    /// pg_wal is a link.
    pub is_link: bool,
    /// Segments, histories and partial files, each by its name, in order. Recycled and preallocated segments, which have
    /// no header of their own name, are none.
    pub files: Vec<WalFileName>,
    /// What shows that a file was written to since, by its name: of all files, those that hold nothing yet, too.
    stamps: BTreeMap<OsString, Stamp>,
}

/// What the file system says of a file, without its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    inode: u64,
    bytes: u64,
    /// Last modification, seconds and nanoseconds.
    modified: (i64, i64),
    /// Last change of content or attributes. Unlike the other, nobody can set it back.
    changed: (i64, i64),
}

impl Stamp {
    fn of(m: &Metadata) -> Stamp {
        Stamp { inode: m.ino(), bytes: m.len(), modified: (m.mtime(), m.mtime_nsec()), changed: (m.ctime(), m.ctime_nsec()) }
    }
}

impl LocalWal {
    /// Looks into the pg_wal of a data directory, behind its link if it is one.
    ///
    /// # Errors
    /// Those of the operating system: what can't be looked at may be what must not be lost.
    pub fn look(data: &Path) -> Result<LocalWal, RestoreError> {
        let path = data.join("pg_wal");
        let looking = || RestoreError::io(format!("looking into {}", path.display()));
        let is_link = match fs::symlink_metadata(&path) {
            Ok(m) => m.is_symlink(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(LocalWal::default()),
            Err(e) => return Err(looking()(e)),
        };
        let folder = match fs::canonicalize(&path) {
            // Its disk may not be mounted.
            Err(e) if is_link && e.kind() == io::ErrorKind::NotFound => {
                let to = fs::read_link(&path).map_err(looking())?;
                return Err(RestoreError::LostWal { link: path, to });
            }
            folder => folder.map_err(looking())?,
        };
        let (mut files, mut stamps) = (Vec::new(), BTreeMap::new());
        for entry in fs::read_dir(&folder).map_err(looking())? {
            let entry = entry.map_err(looking())?;
            let m = entry.metadata().map_err(looking())?;
            if !m.is_dir() {
                stamps.insert(entry.file_name(), Stamp::of(&m));
            }
            let name = std::str::from_utf8(entry.file_name().as_bytes()).ok().and_then(|name| name.parse::<WalFileName>().ok());
            let Some(name) = name.filter(|_| m.is_file()) else { continue };
            let counts = match name {
                WalFileName::Segment(segment) => is_its_own(&entry.path(), segment)?,
                WalFileName::History(_) | WalFileName::Partial(_) => true,
                // Copies of labels: nothing needs them.
                WalFileName::Backup { .. } => false,
            };
            if counts {
                files.push(name);
            }
        }
        files.sort_unstable();
        Ok(LocalWal { folder: Some(folder), is_link, files, stamps })
    }

    /// The first file that is not in `later` what it is here, or is in one of them alone; `None` if they are the same.
    pub(super) fn differs(&self, later: &LocalWal) -> Option<String> {
        let names = self.stamps.keys().chain(later.stamps.keys());
        let changed = names.filter(|name| self.stamps.get(*name) != later.stamps.get(*name)).min();
        let named = changed.map(|name| format!("pg_wal/{}", crate::units::show(name.as_bytes())));
        named.or_else(|| (self != later).then(|| "pg_wal".to_owned()))
    }
}

/// Has the file a header of the segment that its name says, of whatever cluster?
fn is_its_own(path: &Path, name: SegmentName) -> Result<bool, RestoreError> {
    let first = read_small(path, 40).map_err(RestoreError::io(format!("reading {}", path.display())))?;
    let Ok(header) = SegmentHeader::parse(&first) else { return Ok(false) };
    let whole = u64::from(header.segment_size.bytes());
    Ok(!matches!(check_segment(name, &first, whole, None), Err(SegmentError::Position { .. } | SegmentError::Name { .. })))
}

/// A file of WAL, whole.
fn read(path: &Path) -> Result<Vec<u8>, RestoreError> {
    read_small(path, MAX_FILE).map_err(RestoreError::io(format!("reading {}", path.display())))
}
