//! What becomes of each file of a pg_wal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{LocalWal, read};
use crate::pg::wal::{SegmentFacts, WalFileName, check_segment};
use crate::restore::RestoreError;
use crate::restore::target::SearchError;
use crate::units::{Hash32, Lsn, SegmentName, SegmentSize, TimelineId, counted};

/// What the archive has of the cluster: files by name, each with the keyed hash of its content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Archived {
    /// Segments, histories and partial files.
    pub files: BTreeMap<WalFileName, Hash32>,
}

impl Archived {
    /// Has it anything of this timeline but partial files?
    fn knows(&self, timeline: TimelineId) -> bool {
        self.files.keys().any(|file| match file {
            WalFileName::Segment(name) => name.timeline == timeline,
            WalFileName::History(of) => *of == timeline,
            WalFileName::Partial(_) | WalFileName::Backup { .. } => false,
        })
    }
}

/// Fetches an archived segment.
pub type FetchArchived<'f> = dyn FnMut(SegmentName) -> Result<Option<Vec<u8>>, SearchError> + 'f;

/// A segment of the target that the archive lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalSegment {
    /// Its name.
    pub name: SegmentName,
    /// The size of segments.
    pub size: SegmentSize,
    /// What it holds.
    pub facts: SegmentFacts,
    /// Where it lies.
    pub path: PathBuf,
}

impl LocalSegment {
    /// An unfinished one that was saved; `None` if it is no longer what it was.
    pub fn read(path: &Path, name: SegmentName, system_identifier: u64) -> Option<LocalSegment> {
        let bytes = read(path).ok()?;
        let header = check_segment(name, &bytes, bytes.len() as u64, Some(system_identifier)).ok()?;
        let facts = SegmentFacts::of(&header, &bytes);
        let use_it = facts.valid_until > header.start();
        use_it.then(|| LocalSegment { name, size: header.segment_size, facts, path: path.to_owned() })
    }
}

/// What becomes of a pg_wal's files.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WalRescue {
    /// Whole segments that are to be pushed, in order.
    pub push: Vec<LocalSegment>,
    /// Files that are saved beside the target.
    pub save: Vec<PathBuf>,
    /// The unfinished last segment, in which the server was when it ended: saved, and used by recovery.
    pub tail: Option<LocalSegment>,
    /// Why something is saved and not pushed, a line each.
    pub notes: Vec<String>,
}

impl WalRescue {
    /// Nothing is pushed: all that would be is saved.
    pub fn without_push(&mut self) {
        self.save.extend(self.push.drain(..).map(|segment| segment.path));
        self.save.extend(self.tail.take().map(|tail| tail.path));
        self.save.sort_unstable();
    }

    /// Is there anything to do?
    pub fn is_empty(&self) -> bool {
        self.push.is_empty() && self.save.is_empty() && self.tail.is_none()
    }
}

/// Sorts the files of `local`. `content_id` makes the keyed hash of a file.
///
/// # Errors
/// If a file can't be read, or one of the archive not be fetched.
pub fn sort(
    local: &LocalWal,
    system_identifier: u64,
    archived: &Archived,
    content_id: &dyn Fn(&[u8]) -> Hash32,
    fetch: &mut FetchArchived<'_>,
) -> Result<WalRescue, RestoreError> {
    let Some(folder) = &local.folder else { return Ok(WalRescue::default()) };
    let mut sorting = Sorting { folder, system_identifier, archived, content_id, fetch, rescue: WalRescue::default() };
    let mut timelines: BTreeMap<TimelineId, Vec<SegmentName>> = BTreeMap::new();
    for file in &local.files {
        match file {
            WalFileName::Segment(name) => timelines.entry(name.timeline).or_default().push(*name),
            WalFileName::History(_) | WalFileName::Partial(_) | WalFileName::Backup { .. } => {}
        }
    }
    let newest = timelines.keys().next_back().copied();
    let mut foreign = BTreeSet::new();
    for (timeline, segments) in &timelines {
        if let Some(why) = sorting.foreign(*timeline, local)? {
            sorting
                .rescue
                .notes
                .push(format!("of timeline {timeline} {} not the archive's: {why}", counted(segments.len(), "segment is", "segments are")));
            sorting.rescue.save.extend(segments.iter().map(|name| folder.join(name.to_string())));
            foreign.insert(*timeline);
        } else {
            sorting.timeline(segments, newest == Some(*timeline))?;
        }
    }
    for file in &local.files {
        let lost = match file {
            WalFileName::History(of) => foreign.contains(of) || sorting.lacks(file)?,
            WalFileName::Partial(_) => sorting.lacks(file)?,
            WalFileName::Segment(_) | WalFileName::Backup { .. } => false,
        };
        if lost {
            sorting.rescue.save.push(folder.join(file.to_string()));
        }
    }
    Ok(sorting.rescue)
}

struct Sorting<'a, 'f> {
    folder: &'a Path,
    system_identifier: u64,
    archived: &'a Archived,
    content_id: &'a dyn Fn(&[u8]) -> Hash32,
    fetch: &'a mut FetchArchived<'f>,
    rescue: WalRescue,
}

impl Sorting<'_, '_> {
    fn lacks(&self, file: &WalFileName) -> Result<bool, RestoreError> {
        let bytes = read(&self.folder.join(file.to_string()))?;
        Ok(self.archived.files.get(file) != Some(&(self.content_id)(&bytes)))
    }

    /// Why a timeline's segments are not to be pushed. Two promotions can give the same number to two lines: the same
    /// history proves that it is one.
    fn foreign(&self, timeline: TimelineId, local: &LocalWal) -> Result<Option<&'static str>, RestoreError> {
        if !self.archived.knows(timeline) {
            return Ok(Some("it doesn't know this timeline"));
        }
        if timeline.0 == 1 {
            return Ok(None);
        }
        let history = WalFileName::History(timeline);
        match (local.files.contains(&history), self.archived.files.get(&history)) {
            (true, Some(_)) if !self.lacks(&history)? => Ok(None),
            (true, Some(_)) => Ok(Some("it knows another timeline of this number, with another history")),
            (true, None) => Ok(Some("it has no history of this timeline")),
            (false, _) => Ok(Some("there is no history file that would prove it to be the same timeline")),
        }
    }

    /// The segments of a timeline that the archive knows, in order.
    fn timeline(&mut self, segments: &[SegmentName], newest: bool) -> Result<(), RestoreError> {
        for (at, name) in segments.iter().enumerate() {
            let path = self.folder.join(name.to_string());
            let bytes = read(&path)?;
            let Ok(header) = check_segment(*name, &bytes, bytes.len() as u64, Some(self.system_identifier)) else {
                // Cut short, or another cluster's: no server would archive it, and nobody should lose it.
                self.rescue.notes.push(format!("{name} is no whole segment of this cluster"));
                self.rescue.save.push(path);
                continue;
            };
            let facts = SegmentFacts::of(&header, &bytes);
            let ended = match self.archived.files.get(&WalFileName::Segment(*name)) {
                Some(content) if *content == (self.content_id)(&bytes) => false,
                Some(_) if self.archive_goes_on(*name, &bytes, header.start(), facts.valid_until)? => false,
                Some(_) => {
                    self.rescue.notes.push(format!("{name} is another one than the archive's: this WAL has left the archive's line"));
                    true
                }
                None if facts.stop.is_none() => {
                    self.rescue.push.push(LocalSegment { name: *name, size: header.segment_size, facts, path });
                    continue;
                }
                None if newest && facts.valid_until > header.start() => {
                    self.rescue.tail = Some(LocalSegment { name: *name, size: header.segment_size, facts, path });
                    // What was written behind the end of WAL is of no use to a recovery.
                    self.save_rest(segments.get(at + 1..).unwrap_or_default());
                    return Ok(());
                }
                None => true,
            };
            if ended {
                self.save_rest(segments.get(at..).unwrap_or_default());
                return Ok(());
            }
        }
        Ok(())
    }

    fn save_rest(&mut self, names: &[SegmentName]) {
        self.rescue.save.extend(names.iter().map(|name| self.folder.join(name.to_string())));
    }

    /// Is the valid part of a segment that ends early the beginning of the archive's?
    fn archive_goes_on(&mut self, name: SegmentName, bytes: &[u8], start: Lsn, until: Lsn) -> Result<bool, RestoreError> {
        let valid = usize::try_from(until.0.saturating_sub(start.0)).unwrap_or(usize::MAX);
        let archived = (self.fetch)(name).map_err(|source| RestoreError::Archive { name: name.to_string(), source })?;
        Ok(archived.is_some_and(|archived| bytes.get(..valid).is_some_and(|valid| archived.starts_with(valid))))
    }
}
