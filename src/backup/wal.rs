//! The WAL that a snapshot needs: waited for in the archive, or copied.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::BackupError;
use super::copy::{Feed, FileJob};
use super::run::Setting;
use super::scan::Scan;
use super::source::FoundKind;
use crate::host::access::{OpenSession, Opened};
use crate::pg::timeline::History;
use crate::pg::wal::{SegmentFacts, SegmentHeader, check_segment};
use crate::repo::log::{Branch, ClusterId};
use crate::repo::wal::content_id;
use crate::repo::write::Uploaded;
use crate::units::{Class, Explain, Hash32, Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId};

/// How often it is looked whether anything has changed while the archive is waited for.
const LOOK: Duration = Duration::from_millis(250);
/// How soon the archive is asked for a segment that the server doesn't call archived: another command may have stored it.
const FIRST_ASKED: Duration = Duration::from_secs(2);
/// How long at most the archive is not asked: a service wants to be paid for each question.
const SELDOM_ASKED: Duration = Duration::from_secs(30);
/// Bytes of the largest segment.
const LARGEST: u64 = 1 << 30;
/// How often a wait says that it still waits.
const SAY: Duration = Duration::from_secs(30);

/// Asks the archive for a segment of a cluster: the keyed hash of the one that counts there, by the archive's own rule.
pub type AskArchive<'a> = dyn Fn(&ClusterId, SegmentName) -> Result<Option<Hash32>, ArchiveFailure> + Sync + 'a;

/// The archive can't be looked at.
#[derive(Debug)]
pub struct ArchiveFailure(pub Box<dyn Explain + Send + Sync>);

impl fmt::Display for ArchiveFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for ArchiveFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl Explain for ArchiveFailure {
    fn class(&self) -> Class {
        self.0.class()
    }

    fn cure(&self) -> Option<String> {
        self.0.cure()
    }
}

/// The segments from `start` to `stop`.
pub fn needed(timeline: TimelineId, start: Lsn, stop: Lsn, size: SegmentSize) -> Vec<SegmentName> {
    let (first, last) = (size.segment_of(start).0, size.segment_before(stop).0);
    (first..=last).map(|no| SegmentName::new(timeline, SegmentNo(no), size)).collect()
}

/// Waits until the archive holds all of `names`, validly signed; the first that is missing when time is up. What the
/// server still has in `pg_wal` must be what the archive has: one that was set back (a volume's snapshot, a copy started
/// without recovery) writes the same names anew, which the archive refuses.
///
/// # Errors
/// If the archive can't be looked at, or the wait was cancelled.
pub fn wait(
    setting: &Setting<'_>,
    session: &OpenSession,
    cluster: &ClusterId,
    names: &[SegmentName],
    (pg_wal, patience): (&Path, Duration),
) -> Result<Option<SegmentName>, BackupError> {
    let Setting { opened, archived, cancel, progress, .. } = *setting;
    let begun = Instant::now();
    let mut said = begun;
    let mut there: HashSet<SegmentName> = HashSet::new();
    let (mut pace, costs) = (Pace::default(), opened.backend.requests().is_some());
    loop {
        let last = begun.elapsed() >= patience;
        for name in names {
            if there.contains(name) {
                continue;
            }
            let ready = is_ready(pg_wal, *name);
            if costs && !pace.is_time(*name, ready, Instant::now()) && !last {
                break;
            }
            match archived(cluster, *name) {
                Ok(Some(content)) => {
                    pace.others_archive |= ready;
                    // Reading all would be much; where the lines differ, they do at the end, or the server says so.
                    let ends = names.first() == Some(name) || names.last() == Some(name);
                    if (ends || is_ready(pg_wal, *name)) && is_other(opened, pg_wal, *name, &content)? {
                        return Err(BackupError::refused(
                            format!("the archive holds another segment {name} than this server: it has gone another way since"),
                            "was it set back, or is it a copy of the one that archives here? Back it up under another --cluster, or with --wal copy",
                        ));
                    }
                    there.insert(*name);
                }
                Ok(None) => break,
                // Hours of work are not thrown away for a store that is away for a moment.
                Err(e) if e.class() == Class::Unreachable => {
                    progress.detail(&format!("the archive can't be looked at: {e}"));
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        let Some(missing) = names.iter().find(|n| !there.contains(n)) else { return Ok(None) };
        if last {
            return Ok(Some(*missing));
        }
        cancel.check()?;
        if said.elapsed() >= SAY {
            said = Instant::now();
            progress.info(&waits_for(*missing, is_ready(pg_wal, *missing)));
        }
        session.told(Uploaded::Idle)?;
        progress.advance(0);
        std::thread::sleep(LOOK.min(patience.saturating_sub(begun.elapsed())));
    }
}

/// What is said in the meantime: of a segment that the server has finished long ago, that archiving fails or lags.
fn waits_for(missing: SegmentName, ready: bool) -> String {
    let why = if ready { "; the server has finished it, and archive_command has not stored it: pgcairn check says why" } else { "" };
    format!("waiting for WAL segment {missing} to be archived (archive_command){why}")
}

/// When the archive of a service is asked for a segment: as soon as the server calls it archived, and else ever less often.
#[derive(Default)]
struct Pace {
    name: Option<SegmentName>,
    was_ready: bool,
    pause: Duration,
    next: Option<Instant>,
    /// A segment was there that the server doesn't call archived: it isn't the one that archives.
    others_archive: bool,
}

impl Pace {
    /// Shall it be asked now? `ready`: the server says that the segment is still to be archived.
    fn is_time(&mut self, name: SegmentName, ready: bool, now: Instant) -> bool {
        if self.name != Some(name) {
            let pause = if ready { FIRST_ASKED } else { LOOK };
            *self = Pace { name: Some(name), was_ready: ready, pause, next: Some(now + pause), ..*self };
            return !ready || self.others_archive;
        }
        let archived = self.was_ready && !ready;
        self.was_ready = ready;
        if archived {
            self.pause = LOOK;
        } else if self.next.is_some_and(|next| now < next) {
            return false;
        }
        self.pause = (self.pause * 2).min(SELDOM_ASKED);
        self.next = Some(now + self.pause);
        true
    }
}

/// Has the server not been told yet that it is archived?
fn is_ready(pg_wal: &Path, name: SegmentName) -> bool {
    pg_wal.join("archive_status").join(format!("{name}.ready")).exists()
}

/// Is the server's own segment, if it still has it, another?
fn is_other(opened: &Opened, pg_wal: &Path, name: SegmentName, content: &Hash32) -> Result<bool, BackupError> {
    let path = pg_wal.join(name.to_string());
    let failed = |source| BackupError::Io { what: format!("reading {}", path.display()), source };
    let mut file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(failed(e)),
    };
    let before = file.metadata().map_err(failed)?;
    let mut bytes = Vec::new();
    file.by_ref().take(LARGEST).read_to_end(&mut bytes).map_err(failed)?;
    if content_id(&opened.sealing, &bytes) == *content {
        return Ok(false);
    }
    // Recycled while it was read, it has lost its name, and holds whatever comes next.
    Ok(fs::metadata(&path).is_ok_and(|now| (now.dev(), now.ino()) == (before.dev(), before.ino())))
}

/// Feeds `pg_wal` with the segments from start to stop, and history files.
///
/// # Errors
/// If one is missing or not what its name says.
pub fn feed(scan: &Scan<'_>, feed: &mut Feed<'_, '_>, names: &[SegmentName], system_identifier: u64) -> Result<Fed, BackupError> {
    let folder = scan.root.join("pg_wal");
    let failed = |source| BackupError::Io { what: format!("reading {}", folder.display()), source };
    let list = scan.source.list(&folder).map_err(failed)?;
    let mut jobs: Vec<FileJob> = Vec::new();
    let mut found = HashSet::new();
    for file in list.iter().filter(|f| f.kind == FoundKind::File) {
        let Ok(text) = std::str::from_utf8(&file.name) else { continue };
        let wanted = text.parse::<SegmentName>().ok().filter(|name| names.contains(name));
        if let Some(name) = wanted {
            check(scan, &folder.join(text), name, file.stat.size, system_identifier)?;
            found.insert(name);
        }
        if wanted.is_some() || is_history(text) {
            jobs.push(scan.plain_job(&Path::new("pg_wal").join(text), folder.join(text), file));
        }
    }
    if let Some(missing) = names.iter().find(|n| !found.contains(n)) {
        return Err(BackupError::refused(
            format!("WAL segment {missing}, which the snapshot needs, was recycled by the server before it could be copied"),
            "give the role REPLICATION and the server a free slot (max_replication_slots), or archive WAL",
        ));
    }
    let fed = Fed { files: jobs.len() as u64, bytes: jobs.iter().map(|j| j.attributes.size).sum() };
    feed.folder(b"pg_wal", jobs)?;
    Ok(fed)
}

/// What was fed of `pg_wal`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fed {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Looks again at what was copied: a segment whose name and header still fit was not recycled while it was read, since no
/// file ever gets an older name again.
///
/// # Errors
/// If one is gone, or is another one now.
pub fn check_again(scan: &Scan<'_>, names: &[SegmentName], fed: Fed, copied: Fed, system_identifier: u64) -> Result<(), BackupError> {
    let recycled = |what: String| {
        BackupError::refused(
            format!("WAL that the snapshot needs was recycled by the server while it was copied: {what}"),
            "give the role REPLICATION and the server a free slot (max_replication_slots), or archive WAL",
        )
    };
    if fed != copied {
        return Err(recycled(format!("{} files of {} are whole", copied.files, fed.files)));
    }
    for name in names {
        let path = scan.root.join("pg_wal").join(name.to_string());
        let (_, stat) = scan.source.stat(&path).map_err(|e| recycled(format!("{name}: {e}")))?;
        check(scan, &path, *name, stat.size, system_identifier).map_err(|e| recycled(e.to_string()))?;
    }
    Ok(())
}

fn is_history(name: &str) -> bool {
    name.len() == 16 && name.ends_with(".history") && name.bytes().take(8).all(|b| b.is_ascii_hexdigit())
}

fn check(scan: &Scan<'_>, path: &Path, name: SegmentName, size: u64, system_identifier: u64) -> Result<(), BackupError> {
    let mut page = [0; 64];
    let read = scan.source.open(path).and_then(|f| f.read_at(&mut page, 0));
    read.map_err(|source| BackupError::Io { what: format!("reading {}", path.display()), source })?;
    check_segment(name, &page, size, Some(system_identifier))
        .map(|_| ())
        .map_err(|e| BackupError::Cluster { what: path.display().to_string(), why: e.to_string() })
}

/// Where the WAL of a stopped cluster ends.
///
/// # Errors
/// If the segment of its last checkpoint isn't there.
pub fn end_of_stopped(pgdata: &Path, timeline: TimelineId, checkpoint: Lsn, size: SegmentSize) -> Result<Lsn, BackupError> {
    let name = SegmentName::new(timeline, size.segment_of(checkpoint), size);
    let path = pgdata.join("pg_wal").join(name.to_string());
    let bytes = fs::read(&path).map_err(|source| BackupError::Io { what: format!("reading {}", path.display()), source })?;
    let header = SegmentHeader::parse(&bytes).map_err(|e| BackupError::Cluster { what: path.display().to_string(), why: e.to_string() })?;
    let end = SegmentFacts::of(&header, &bytes).valid_until;
    if end > checkpoint {
        Ok(end)
    } else {
        Err(BackupError::Cluster { what: path.display().to_string(), why: "it does not hold the last checkpoint".into() })
    }
}

/// The ancestry of a timeline, by its history file in `pg_wal`; empty for the first.
///
/// # Errors
/// If the file is damaged.
pub fn ancestry(pgdata: &Path, timeline: TimelineId) -> Result<Vec<Branch>, BackupError> {
    let path = pgdata.join("pg_wal").join(timeline.history_name());
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        // Timeline 1 has none; of a later one it may be in the archive alone.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(BackupError::Io { what: format!("reading {}", path.display()), source }),
    };
    let history =
        History::parse(timeline, &bytes).map_err(|e| BackupError::Cluster { what: path.display().to_string(), why: e.to_string() })?;
    Ok(history.entries.iter().rev().map(|e| Branch { timeline: e.parent, lsn: e.switch }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archiver_that_fails_is_suspected_while_it_is_waited_for() {
        let name: SegmentName = "000000010000000000000001".parse().unwrap();
        assert_eq!(waits_for(name, false), "waiting for WAL segment 000000010000000000000001 to be archived (archive_command)");
        assert!(waits_for(name, true).contains("pgcairn check says why"));
    }

    #[test]
    fn the_archive_is_asked_when_it_is_worth_it() {
        let name = |text: &str| text.parse::<SegmentName>().unwrap();
        let (first, second) = (name("000000010000000000000001"), name("000000010000000000000002"));
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut pace = Pace::default();
        // Not yet archived: not asked at first, then seldom; when the server says that it is, at once.
        let asked: Vec<u64> = (0..60_000).step_by(250).filter(|t| pace.is_time(first, true, at(*t))).collect();
        assert_eq!(asked, [2_000, 6_000, 14_000, 30_000]);
        assert!(pace.is_time(first, false, at(60_000)) && !pace.is_time(first, false, at(60_250)));
        // Archived already, or nobody knows: at once.
        assert!(pace.is_time(second, false, at(61_000)));
        assert!(!pace.is_time(second, false, at(61_100)) && pace.is_time(second, false, at(61_250)));
        let asked = (61_500..121_500).step_by(250).filter(|t| pace.is_time(second, false, at(*t))).count();
        assert!((4..=8).contains(&asked), "{asked}");
        // Others archive, of which this server is never told: what comes next is asked for at once.
        pace.others_archive = true;
        assert!(pace.is_time(first, true, at(130_000)) && !pace.is_time(first, true, at(130_250)));
    }
}
