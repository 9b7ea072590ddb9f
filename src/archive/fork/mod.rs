//! May a new timeline begin in the archive?
//!
//! A copy of the cluster that is promoted while its archive_command still names the original pushes `0000000N.history` and
//! the segments of a timeline of its own. Every standby and every restore of the original then follows `latest` to the copy:
//! the original's standby doesn't start any more, and the next disaster recovery comes up as the copy. So the first file of
//! a timeline, history or segment, is refused if it leaves behind a line that is still pushed (`rule.rs`). A failover ends
//! the old line and passes; a restore in place was announced in the log; whatever else is meant is accepted there, once.
//!
//! What this costs: nothing for timeline 1; for a segment of another timeline one look whether the segment before it counts;
//! only where it isn't, and for a history, the archive is listed.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod rule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::facts::{FileFacts, FileKind};
use super::failure::{PushError, SiteError};
use super::list::{Looked, NoCache, Reader};
use super::names::{ArchivedName, parse_listed};
use super::site::{Rights, Site};
use super::standing::Standing;
use crate::pg::timeline::{History, HistoryEntry, TimelineTree};
use crate::pg::wal::WalFileName;
use crate::repo::wal::FRONT;
use crate::store::{SessionTag, StoreError};
use crate::units::{KeyId, Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId, Timestamp};
use rule::{LastPush, is_known};
pub(super) use rule::{Newest, TOLERATED, is_recent, left_behind};

/// The longest history file.
const MAX_HISTORY: u64 = 1 << 20;

/// A file that is about to be stored.
pub(super) struct Guard<'a> {
    pub site: Site<'a>,
    /// Who pushes it.
    pub signer: KeyId,
    /// By the pusher's clock.
    pub now: Timestamp,
    pub system_identifier: u64,
    pub name: WalFileName,
    /// Where it lies; its timeline's history may lie beside it.
    pub path: &'a Path,
    pub facts: &'a FileFacts,
    pub tag: &'a SessionTag,
}

/// Objects of one name: variant and size, in order.
type Objects = Vec<(u32, u64)>;

/// The archive by names.
#[derive(Default)]
struct Listing {
    segments: BTreeMap<TimelineId, BTreeMap<SegmentName, Objects>>,
    histories: BTreeMap<TimelineId, Objects>,
}

/// The newest segment of a timeline, and how to learn when it was pushed.
struct Line {
    newest: Newest,
    variant: u32,
    signed: Option<Timestamp>,
    /// An object of it counts; else it is a damaged one.
    counts: bool,
}

impl Guard<'_> {
    /// Can the file begin no timeline, whatever the archive holds?
    pub fn is_needless(&self) -> bool {
        match &self.facts.kind {
            FileKind::History(_) => false,
            FileKind::Segment(_) => self.name.timeline().0 <= 1,
            FileKind::Partial(_) | FileKind::Backup(_) => true,
        }
    }

    /// Where the file is the first segment of a timeline, and the archive has no history of it, the one beside the file: a
    /// server that was promoted with archiving off (as what `restore` has made is at first) never archives it, and without
    /// it nobody can recover along a timeline whose beginning the archive shows.
    ///
    /// # Errors
    /// [`PushError::Fork`] if the file would begin a timeline that isn't the cluster's.
    pub fn check(&self, rights: &mut Rights) -> Result<Option<PathBuf>, PushError> {
        let timeline = self.name.timeline();
        match &self.facts.kind {
            FileKind::History(_) => {}
            FileKind::Segment(record) if timeline.0 > 1 => {
                let before = record.no.0.checked_sub(1).map(|no| SegmentName::new(timeline, SegmentNo(no), record.size));
                if let Some(before) = before
                    && self.counts(rights, &WalFileName::Segment(before))?
                {
                    return Ok(None);
                }
            }
            FileKind::Segment(_) | FileKind::Partial(_) | FileKind::Backup(_) => return Ok(None),
        }
        let listing = self.list()?;
        let reader = Reader { site: &self.site, system_identifier: self.system_identifier, rights: rights.clone(), cache: &NoCache };
        let histories = histories(&reader, &listing)?;
        let left_out = if histories.contains_key(&timeline) { None } else { self.history_beside() };
        self.may_begin(rights, &reader, &listing, histories)?;
        Ok(left_out)
    }

    /// The history beside the first segment of a timeline. (Beside another segment it says nothing that anybody needs: it
    /// tells of WAL that was never in this archive.)
    fn history_beside(&self) -> Option<PathBuf> {
        let record = self.facts.segment()?;
        let timeline = self.name.timeline();
        let path = self.path.with_file_name(timeline.history_name());
        let switch = read_history(&path, timeline)?.parent()?.switch;
        (record.size.segment_of(switch) == record.no).then_some(path)
    }

    fn may_begin(
        &self,
        rights: &mut Rights,
        reader: &Reader<'_>,
        listing: &Listing,
        histories: BTreeMap<TimelineId, History>,
    ) -> Result<(), PushError> {
        let timeline = self.name.timeline();
        if self.began_before(reader, listing, histories.get(&timeline))? {
            return Ok(());
        }
        let new = self.new_history();
        if self.is_let_in(rights, &new) {
            return Ok(());
        }
        let size = self.facts.segment().map(|record| record.size);
        let lines = lines(reader, listing, size)?;
        let newest: Vec<Newest> = lines.values().map(|line| line.newest).collect();
        let tree: TimelineTree = histories.into_values().collect();
        for beside in left_behind(&new, &newest, &tree) {
            let Some(line) = lines.get(&beside.timeline) else { continue };
            if !self.last_push(line)?.is_recent(self.now) {
                continue;
            }
            // What was accepted meanwhile is not refused.
            *rights = self.site.at_tail(rights)?;
            if self.is_let_in(rights, &new) {
                return Ok(());
            }
            return Err(PushError::Fork {
                name: self.name,
                cluster: self.site.cluster.to_owned(),
                timeline,
                leaves: new.parent().map(|parent| (parent.parent, parent.switch)),
                line: beside.timeline,
                newest: beside.name(),
            });
        }
        Ok(())
    }

    fn is_let_in(&self, rights: &Rights, new: &History) -> bool {
        let here = |id: &u64| *id == self.system_identifier;
        rights.forks.iter().any(|(id, note)| here(id) && is_known(note, new, &self.signer))
    }

    /// Does the first object of a file count? Whoever can write to the store can put something under its name. What is void
    /// or damaged, and what comes behind it, is looked at in the listing.
    fn counts(&self, rights: &mut Rights, file: &WalFileName) -> Result<bool, SiteError> {
        let address = self.site.address(self.system_identifier, file);
        let object = address.object(0)?;
        let mut looked = || {
            let start = self.site.backend.read_start(&object, FRONT)?;
            let standing = self.site.settle(rights, &address, file, &object, &self.site.front_of(&object, &start)?)?;
            Ok(matches!(standing, Standing::Valid(front) if front.object_len() == start.size))
        };
        match looked() {
            Err(SiteError::Store(e)) if e.is_absent() => Ok(false),
            Err(
                SiteError::UnknownHead { .. }
                | SiteError::Store(StoreError::Short { .. } | StoreError::Io { .. } | StoreError::NotAFile { .. }),
            ) => Ok(false),
            looked => looked,
        }
    }

    fn list(&self) -> Result<Listing, PushError> {
        let mut listing = Listing::default();
        self.site.list_twice(&self.site.root(self.system_identifier)?, &mut |listed| {
            let Some(ArchivedName { file, variant }) = parse_listed(&listed.name) else { return Ok(()) };
            let object = (variant, listed.size);
            match file {
                WalFileName::Segment(name) => {
                    listing.segments.entry(name.timeline).or_default().entry(name).or_default().push(object);
                }
                WalFileName::History(timeline) => listing.histories.entry(timeline).or_default().push(object),
                WalFileName::Partial(_) | WalFileName::Backup { .. } => {}
            }
            Ok(())
        })?;
        let segments = listing.segments.values_mut().flat_map(BTreeMap::values_mut);
        segments.chain(listing.histories.values_mut()).for_each(|objects| objects.sort_unstable());
        Ok(listing)
    }

    /// Was the timeline let in before, by its history or a segment? A history comes later than a segment where it was lost
    /// and is brought back, or where a person pushes by hand.
    fn began_before(&self, reader: &Reader<'_>, listing: &Listing, history: Option<&History>) -> Result<bool, PushError> {
        let timeline = self.name.timeline();
        match (&self.facts.kind, history) {
            (FileKind::Segment(record), Some(history)) => match history.parent() {
                Some(parent) if record.no < record.size.segment_of(parent.switch) => {
                    Err(PushError::BeforeBeginning { name: record.name(), parent: parent.parent, switch: parent.switch })
                }
                _ => Ok(true),
            },
            _ => {
                for (name, objects) in listing.segments.get(&timeline).into_iter().flatten().rev() {
                    if let Looked::Counts(_) = reader.look(&WalFileName::Segment(*name), objects)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Where the new timeline comes from: by its own history; of a segment by the one that lies beside it in pg_wal, else by
    /// what its header shows.
    fn new_history(&self) -> History {
        let timeline = self.name.timeline();
        let record = match &self.facts.kind {
            FileKind::History(history) => return history.to_history(),
            FileKind::Segment(record) => Some(record),
            FileKind::Partial(_) | FileKind::Backup(_) => None,
        };
        if let Some(history) = read_history(&self.path.with_file_name(timeline.history_name()), timeline) {
            return history;
        }
        // The first segment began as a copy of the parent's: there the parent was left, somewhere behind the first byte.
        let copied = record.filter(|record| record.is_of_child());
        let entry =
            copied.map(|r| HistoryEntry { parent: r.header_timeline, switch: Lsn(r.start.0.saturating_add(1)), reason: String::new() });
        History { timeline, entries: entry.into_iter().collect() }
    }

    fn last_push(&self, line: &Line) -> Result<LastPush, PushError> {
        let object = self.site.address(self.system_identifier, &WalFileName::Segment(line.newest.name())).object(line.variant)?;
        let stored = match self.site.backend.age(&object, self.tag) {
            // Expired just now: so it wasn't new.
            Err(e) if e.is_absent() => None,
            other => other?,
        };
        Ok(LastPush { stored, signed: line.signed })
    }
}

/// The histories that count.
fn histories(reader: &Reader<'_>, listing: &Listing) -> Result<BTreeMap<TimelineId, History>, SiteError> {
    let mut found = BTreeMap::new();
    for (timeline, objects) in &listing.histories {
        if let Some(history) = reader.facts(&WalFileName::History(*timeline), objects)?.and_then(|facts| facts.history().cloned()) {
            found.insert(*timeline, history.to_history());
        }
    }
    Ok(found)
}

/// All timelines with segments; `size`: of segments, where none says it.
fn lines(reader: &Reader<'_>, listing: &Listing, size: Option<SegmentSize>) -> Result<BTreeMap<TimelineId, Line>, SiteError> {
    let mut lines = BTreeMap::new();
    let mut size = size;
    // The youngest first: it says how large segments are now.
    for (timeline, segments) in listing.segments.iter().rev() {
        if let Some(line) = newest(reader, *timeline, segments, size)? {
            size = size.or(line.counts.then_some(line.newest.size));
            lines.insert(*timeline, line);
        }
    }
    Ok(lines)
}

/// The newest segment of a timeline that counts, or that is damaged: somebody pushed that one, too.
fn newest(
    reader: &Reader<'_>,
    timeline: TimelineId,
    segments: &BTreeMap<SegmentName, Objects>,
    size: Option<SegmentSize>,
) -> Result<Option<Line>, SiteError> {
    for (name, objects) in segments.iter().rev() {
        match reader.look(&WalFileName::Segment(*name), objects)? {
            Looked::Counts(entry) => {
                let Some(record) = entry.facts.segment() else { continue };
                let newest = Newest { timeline, no: record.no, size: record.size };
                return Ok(Some(Line { newest, variant: entry.variant, signed: entry.pushed_at, counts: true }));
            }
            Looked::Damaged { .. } => {
                let size = size.unwrap_or(SegmentSize::DEFAULT);
                let Some(no) = name.no(size) else { continue };
                let variant = objects.first().map_or(0, |(variant, _)| *variant);
                return Ok(Some(Line { newest: Newest { timeline, no, size }, variant, signed: None, counts: false }));
            }
            Looked::Void => {}
        }
    }
    Ok(None)
}

/// A history file of a data directory, if there is one that can be read.
fn read_history(path: &Path, timeline: TimelineId) -> Option<History> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX_HISTORY).read_to_end(&mut bytes).ok()?;
    History::parse(timeline, &bytes).ok()
}
