//! EXPIRE-WAL, and the deletion of what it lists: cluster by cluster, timeline by timeline.
//!
//! Names alone say what is needed; only of what is to go the metadata are read, for its content id. `.partial` and `.backup`
//! files go with the segment whose name they bear.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::failure::PruneError;
use super::need::{Histories, Kept, Lines, Way};
use super::packs::entry;
use super::report::{KeptWal, Report};
use super::run::Setting;
use crate::pg::wal::WalFileName;
use crate::repo::log::{ClusterId, ExpireWal, Held, Kind, Role};
use crate::store::{ObjectName, at_once};
use crate::units::{Hash32, SegmentName, SegmentSize, SessionId, TimelineId, counted};

/// Objects of one entry: 2 MB of a body.
const MOST: usize = 20_000;
/// How often the log may grow so that what was to expire is needed.
const PATIENCE: u32 = 100;

/// One object of an archive, by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The object.
    pub object: ObjectName,
    /// The server's file.
    pub file: WalFileName,
    /// Bytes.
    pub size: u64,
}

/// What an object proves to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// A file with this content id; of a segment, its size.
    Is(Hash32, Option<SegmentSize>),
    /// It is no longer there.
    Gone,
    /// Its metadata can't be read.
    Unreadable,
}

/// The archive of a cluster under one system identifier.
pub trait WalArchive: Sync {
    /// Whose it is.
    fn cluster(&self) -> &ClusterId;

    /// All segments, partial and backup-label files, and the ancestries (the parent first) of timelines whose history file
    /// counts; `None` in place of one that is cut short.
    ///
    /// # Errors
    /// If it can't be listed.
    fn list(&self) -> Result<(Vec<Stored>, Histories), PruneError>;

    /// What an object holds; `fresh`: as the store has it now, whatever a cache says.
    ///
    /// # Errors
    /// If the store fails.
    fn content(&self, object: &Stored, fresh: bool) -> Result<Content, PruneError>;
}

/// An object that goes.
struct Going<'a> {
    stored: &'a Stored,
    segment: SegmentName,
    content: Hash32,
}

/// What goes of one timeline, by the size of its segments.
type Leaving<'a> = BTreeMap<SegmentSize, Vec<Going<'a>>>;

/// Expires what nothing needs of one archive.
pub(super) fn expire(
    setting: &Setting<'_>,
    archive: &dyn WalArchive,
    ended: &BTreeSet<SessionId>,
    dry_run: bool,
    report: &mut Report,
) -> Result<(), PruneError> {
    let cluster = archive.cluster();
    if !dry_run && !maintains(setting, cluster) {
        report.kept.push(KeptWal { cluster: cluster.clone(), timeline: None, why: Kept::NoRight });
        return Ok(());
    }
    setting.progress.phase(&format!("listing the WAL of {}", cluster.name), None);
    let (objects, histories) = archive.list()?;
    let mut timelines: BTreeMap<TimelineId, Vec<Stored>> = BTreeMap::new();
    for object in objects {
        if !matches!(object.file, WalFileName::History(_)) {
            timelines.entry(object.file.timeline()).or_default().push(object);
        }
    }
    let Some(highest) = timelines.keys().next_back().copied() else { return Ok(()) };
    for (timeline, objects) in &timelines {
        for round in 0.. {
            setting.cancel.check()?;
            let lines = Lines::of(&setting.opened.view().fold, cluster, ended);
            let kept = |timeline, why| KeptWal { cluster: cluster.clone(), timeline, why };
            let lines = match lines {
                Ok(lines) => lines,
                Err(why) => {
                    report.kept.push(kept(None, why));
                    return Ok(());
                }
            };
            let way = match lines.way(*timeline, &histories, highest) {
                Ok(way) => way,
                Err(why) => {
                    report.kept.push(kept(Some(*timeline), why));
                    break;
                }
            };
            let (leaving, unreadable) = leaving(setting, archive, &lines, &way, objects)?;
            let done = of_timeline(setting, archive, *timeline, &way, &leaving, dry_run, report)?;
            if unreadable > 0 && done {
                report.damaged += unreadable;
                report.warnings.push(format!(
                    "{} of WAL of {} on timeline {timeline}, needed by nothing, can't be read and so stay there (pgcairn verify says what is wrong)",
                    counted(unreadable, "object", "objects"),
                    cluster.name
                ));
            }
            if done || round >= PATIENCE {
                break;
            }
        }
    }
    Ok(())
}

/// Has this host's key the right to let its WAL expire? A maintainer's may be for some clusters alone.
fn maintains(setting: &Setting<'_>, cluster: &ClusterId) -> bool {
    let view = setting.opened.view();
    let key = setting.opened.signer.as_ref().and_then(|signer| view.fold.keys.get(&signer.id()));
    key.is_some_and(|key| key.may(Role::Maintainer, Some(&cluster.name)))
}

/// What of these objects nothing needs; how many of them can't be told by their metadata.
fn leaving<'a>(
    setting: &Setting<'_>,
    archive: &dyn WalArchive,
    lines: &Lines,
    way: &Way<'_>,
    objects: &'a [Stored],
) -> Result<(Leaving<'a>, u64), PruneError> {
    // By each size that may be meant; with none known nothing is needed, as by then there is no snapshot.
    let useless = |object: &&Stored| {
        let name = segment_of(&object.file);
        lines.sizes.iter().all(|size| name.and_then(|name| name.no(*size)).is_none_or(|no| !way.needs(no, *size)))
    };
    let candidates: Vec<&Stored> = objects.iter().filter(useless).collect();
    setting.progress.phase("reading what WAL is to expire", None);
    let read = candidates
        .par_iter()
        .map(|object| {
            setting.cancel.check()?;
            archive.content(object, false)
        })
        .collect::<Result<Vec<_>, PruneError>>()?;
    // A label says nothing of sizes: it lies in a segment like the others.
    let usual = lines.size.or_else(|| {
        read.iter().find_map(|content| match content {
            Content::Is(_, size) => *size,
            Content::Gone | Content::Unreadable => None,
        })
    });
    let (mut leaving, mut unreadable) = (Leaving::new(), 0);
    for (stored, content) in candidates.into_iter().zip(read) {
        let (content, size) = match content {
            Content::Gone => continue,
            Content::Unreadable => {
                unreadable += 1;
                continue;
            }
            Content::Is(content, size) => (content, size.or(usual.filter(|_| matches!(stored.file, WalFileName::Backup { .. })))),
        };
        let Some((segment, size)) = segment_of(&stored.file).zip(size) else {
            unreadable += 1;
            continue;
        };
        match segment.no(size) {
            Some(no) if way.needs(no, size) => {}
            Some(_) => leaving.entry(size).or_default().push(Going { stored, segment, content }),
            None => unreadable += 1,
        }
    }
    Ok((leaving, unreadable))
}

/// Expires and deletes; `false`: something of it is needed by now.
fn of_timeline(
    setting: &Setting<'_>,
    archive: &dyn WalArchive,
    timeline: TimelineId,
    way: &Way<'_>,
    leaving: &Leaving<'_>,
    dry_run: bool,
    report: &mut Report,
) -> Result<bool, PruneError> {
    let cluster = archive.cluster();
    for (size, going) in leaving {
        for batch in going.chunks(MOST) {
            if !dry_run {
                let mut objects: BTreeMap<SegmentName, BTreeSet<Hash32>> = BTreeMap::new();
                batch.iter().for_each(|going| _ = objects.entry(going.segment).or_default().insert(going.content));
                let expire = ExpireWal {
                    cluster: cluster.name.clone(),
                    system_identifier: cluster.system_identifier,
                    timeline,
                    segment_size: *size,
                    ancestry: way.ancestry.clone(),
                    objects: Held::Inline(objects),
                };
                if !entry(setting, Kind::ExpireWal(expire))? {
                    return Ok(false);
                }
                setting.opened.view().may_delete()?;
            }
            setting.progress.phase("deleting WAL", Some(batch.iter().map(|going| going.stored.size).sum()));
            let line = report.wal.entry((cluster.clone(), timeline)).or_default();
            let backend = setting.opened.backend.as_ref();
            let mut folders = BTreeSet::new();
            let delete = |going: &Going<'_>| {
                setting.cancel.check()?;
                // By the time that it is deleted another file may have been pushed under its name.
                match dry_run {
                    true => Ok::<_, PruneError>(true),
                    false => match archive.content(going.stored, true)? {
                        Content::Is(content, _) if content == going.content => Ok(backend.delete(&going.stored.object).map(|()| true)?),
                        _ => Ok(false),
                    },
                }
            };
            at_once(batch, backend.pace().reads, delete, &mut |at, gone| {
                let (true, Some(going)) = (gone?, batch.get(at)) else { return Ok(()) };
                line.amount.add(going.stored.size);
                line.first = Some(line.first.map_or(going.segment, |first| first.min(going.segment)));
                line.last = Some(line.last.map_or(going.segment, |last| last.max(going.segment)));
                setting.progress.advance(going.stored.size);
                if !dry_run {
                    folders.extend(going.stored.object.as_str().rsplit_once('/').map(|(folder, _)| folder));
                }
                Ok::<(), PruneError>(())
            })?;
            for folder in folders {
                let folder = ObjectName::new(folder).map_err(crate::store::StoreError::from)?;
                backend.settle_deletions(&folder)?;
            }
        }
    }
    Ok(true)
}

/// The segment with which a file goes.
fn segment_of(file: &WalFileName) -> Option<SegmentName> {
    match file {
        WalFileName::Segment(name) | WalFileName::Partial(name) | WalFileName::Backup { segment: name, .. } => Some(*name),
        WalFileName::History(_) => None,
    }
}
