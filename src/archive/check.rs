//! Is the archive whole? Every object judged, those that are chosen read to their last byte, and the WAL that live
//! snapshots need looked for.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::failure::{GetError, SiteError};
use super::get::fetch;
use super::list::{Archive, NoCache};
use super::site::GetContext;
use super::status::{Known, Lines, SnapshotSpan, Status};
use crate::pg::wal::WalFileName;
use crate::repo::RepoError;
use crate::store::StoreError;
use crate::units::{Cancel, Progress, SegmentName, Timestamp, with_causes};

/// Missing segments of one snapshot that are named.
const MOST_MISSING: u64 = 1000;

/// What is wrong with an object of the archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalProblem {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// Snapshots that can't become consistent without it.
    pub snapshots: BTreeSet<String>,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WalChecked {
    /// Damage, and what is missing.
    pub problems: Vec<WalProblem>,
    /// What needs a look and is no damage.
    pub warnings: Vec<String>,
    /// Gaps among these.
    pub gaps: usize,
    /// Files of the archive that count, and those of them that were read whole.
    pub files: (usize, usize),
}

/// Chooses the files that are read.
pub type Choose<'c> = dyn Fn(Vec<WalFileName>) -> Vec<WalFileName> + 'c;

/// Checks one cluster's archive. `known` is what the log says of it.
///
/// # Errors
/// If store or log can't be read; not for damage.
pub fn check(
    ctx: &GetContext<'_>,
    known: &Known,
    choose: &Choose<'_>,
    jobs: usize,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<WalChecked, GetError> {
    progress.phase(&format!("looking at the WAL of {}", ctx.site.cluster), None);
    // No cache: what it holds of a front would be judged like the store's, but the store's is the question.
    let archive = Archive::read(&ctx.site, ctx.system_identifier, &NoCache, cancel)?;
    let check = Check { ctx, known, archive: &archive };
    let mut checked = WalChecked::default();
    for damaged in &archive.damaged {
        checked.problems.push(check.problem(&damaged.file, damaged.object.clone(), damaged.why.clone()));
    }
    let files = archive.files();
    let chosen = choose(files.clone());
    checked.files = (files.len(), chosen.len());
    if !chosen.is_empty() {
        let bytes = archive.segments.values().map(|e| e.stored).max().unwrap_or(0).saturating_mul(chosen.len() as u64);
        progress.phase(&format!("reading the WAL of {}", ctx.site.cluster), Some(bytes.min(archive.stored)));
        checked.problems.extend(check.read(&chosen, jobs, progress, cancel)?);
    }
    check.needed(&mut checked)?;
    check.histories(&mut checked)?;
    Ok(checked)
}

struct Check<'a> {
    ctx: &'a GetContext<'a>,
    known: &'a Known,
    archive: &'a Archive,
}

impl Check<'_> {
    fn problem(&self, file: &WalFileName, object: String, problem: String) -> WalProblem {
        let snapshots = match file {
            WalFileName::Segment(name) => self.needing(*name),
            _ => BTreeSet::new(),
        };
        WalProblem { object, problem, snapshots }
    }

    /// Snapshots that need this segment to be consistent.
    fn needing(&self, name: SegmentName) -> BTreeSet<String> {
        let needs = |span: &&SnapshotSpan| {
            let size = span.segment_size;
            let within = |no| {
                span.ranges
                    .iter()
                    .any(|r| r.timeline == name.timeline && size.segment_of(r.first) <= no && no <= size.segment_before(r.last))
            };
            !span.wal_copied && name.no(size).is_some_and(within)
        };
        self.known.snapshots.iter().filter(needs).map(|span| span.id.clone()).collect()
    }

    /// Reads files as a restore would, a few at a time.
    fn read(&self, files: &[WalFileName], jobs: usize, progress: &dyn Progress, cancel: &Cancel) -> Result<Vec<WalProblem>, GetError> {
        let (next, found, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(None));
        let work = || {
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let read = cancel.check().map_err(|e| GetError::Site(e.into())).and_then(|()| self.one(file, progress));
                match read {
                    Ok(problem) => found.lock().unwrap_or_else(PoisonError::into_inner).extend(problem),
                    Err(e) => {
                        next.store(files.len(), Ordering::Relaxed);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| (0..jobs.clamp(1, 4).min(files.len())).for_each(|_| _ = scope.spawn(work)));
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(e) => Err(e),
            None => Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn one(&self, file: &WalFileName, progress: &dyn Progress) -> Result<Option<WalProblem>, GetError> {
        let object = || Ok::<String, GetError>(self.ctx.site.address(self.ctx.system_identifier, file).object(0)?.to_string());
        match fetch(self.ctx, file) {
            Ok(fetched) => {
                // None: it was there a moment ago, and the archive proves that it may be gone.
                progress.advance(fetched.map_or(0, |f| f.bytes.len() as u64));
                Ok(None)
            }
            Err(GetError::Unusable { object, why } | GetError::Site(SiteError::UnknownHead { object, why, .. })) => {
                Ok(Some(self.problem(file, object, why)))
            }
            // A prune was faster.
            Err(GetError::Expired { .. }) => Ok(None),
            Err(e @ (GetError::Gap { .. } | GetError::Undecided { .. })) => Ok(Some(self.problem(file, object()?, with_causes(&e)))),
            Err(e @ (GetError::Segment { .. } | GetError::History { .. })) => Ok(Some(self.problem(file, object()?, with_causes(&e)))),
            Err(
                GetError::Site(SiteError::Store(e @ (StoreError::Io { .. } | StoreError::NotAFile { .. })))
                | GetError::Repo(RepoError::Store(e @ (StoreError::Io { .. } | StoreError::NotAFile { .. }))),
            ) => Ok(Some(self.problem(file, object()?, e.to_string()))),
            Err(e) => Err(e),
        }
    }

    /// From start to stop each live snapshot needs its WAL.
    fn needed(&self, checked: &mut WalChecked) -> Result<(), GetError> {
        let lines = Lines::new(self.archive);
        let mut missing: BTreeMap<SegmentName, BTreeSet<String>> = BTreeMap::new();
        for span in self.known.snapshots.iter().filter(|span| !span.wal_copied) {
            let Some(waiting) = lines.waits_for(span) else { continue };
            let gone: Vec<SegmentName> = missing_of(self.archive, span);
            if gone.is_empty() && waiting.segment.is_none() {
                let why = format!(
                    "snapshot {}: a segment that it needs holds valid WAL up to some point only; `pgcairn archive status` shows which",
                    span.id
                );
                let object = self.ctx.site.root(self.ctx.system_identifier)?.to_string();
                checked.problems.push(WalProblem { object, problem: why, snapshots: [span.id.clone()].into() });
            }
            for name in gone.iter().chain(waiting.segment.iter().filter(|_| gone.is_empty())) {
                missing.entry(*name).or_default().insert(span.id.clone());
            }
        }
        for (name, snapshots) in missing {
            let file = WalFileName::Segment(name);
            // Damaged: that was said.
            if self.archive.damaged.iter().any(|d| d.file == file) {
                continue;
            }
            let object = self.ctx.site.address(self.ctx.system_identifier, &file).object(0)?.to_string();
            match self.acknowledged(name) {
                Some(reason) => checked.warnings.push(format!(
                    "{object} is missing, which is acknowledged ({reason}): {} can't be restored to a consistent state",
                    snapshots.into_iter().collect::<Vec<_>>().join(", ")
                )),
                None => {
                    let behind = self.archive.segments.values().any(|e| e.facts.timeline == name.timeline && e.facts.name() > name);
                    let problem = if behind {
                        "it is missing, and later segments are there"
                    } else {
                        "it is not in the archive (yet?): does the server archive?"
                    };
                    checked.problems.push(WalProblem { object, problem: problem.into(), snapshots });
                }
            }
        }
        self.other_gaps(checked);
        Ok(())
    }

    /// Gaps that no snapshot needs to be consistent end its way, but damage nothing that is there.
    fn other_gaps(&self, checked: &mut WalChecked) {
        let status = Status::of(self.archive, self.known, Timestamp::now(), None);
        for gap in status.open_gaps() {
            let needed = checked.problems.iter().any(|p| p.object.ends_with(&gap.from.to_string()));
            if !needed {
                let missing = if gap.from == gap.to { format!("{} is", gap.from) } else { format!("{} to {} are", gap.from, gap.to) };
                checked.warnings.push(format!("{missing} missing: `pgcairn archive status` shows what can be reached"));
                checked.gaps += 1;
            }
        }
    }

    fn acknowledged(&self, name: SegmentName) -> Option<&str> {
        let covers = |a: &&super::status::Acknowledged| a.from.timeline == name.timeline && a.from <= name && name <= a.to;
        self.known.acknowledged.iter().find(covers).map(|a| a.reason.as_str())
    }

    fn histories(&self, checked: &mut WalChecked) -> Result<(), GetError> {
        for (timeline, shown_by) in self.archive.lost_histories() {
            let file = WalFileName::History(timeline);
            let object = self.ctx.site.address(self.ctx.system_identifier, &file).object(0)?.to_string();
            let problem = format!("it is missing, and {shown_by} shows that it was there");
            checked.problems.push(self.problem(&file, object, problem));
        }
        Ok(())
    }
}

/// The segments between a snapshot's start and stop that the archive hasn't.
fn missing_of(archive: &Archive, span: &SnapshotSpan) -> Vec<SegmentName> {
    let size = span.segment_size;
    let mut missing = Vec::new();
    for range in &span.ranges {
        let (first, last) = (size.segment_of(range.first), size.segment_before(range.last));
        let names = (first.0..=last.0.min(first.0.saturating_add(MOST_MISSING)))
            .map(|no| SegmentName::new(range.timeline, crate::units::SegmentNo(no), size));
        missing.extend(names.filter(|name| !archive.has(*name)));
    }
    missing
}
