//! Which snapshot reaches what is wanted, and what the server has to be told.

use std::collections::BTreeMap;

use super::args::Args;
use crate::archive::{self, Archive, GetContext, SegmentRecord};
use crate::cli::archived::Archived;
use crate::cli::clusters;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::fronts::CatalogFronts;
use crate::cli::tail::OpenedTail;
use crate::host::access::Opened;
use crate::look::{self, Listed, SnapshotName};
use crate::pg::control_file::{ControlFile, FILE_SIZE};
use crate::pg::facts::ClusterFacts;
use crate::pg::timeline::TimelineTree;
use crate::pg::wal::{FindError, Found, RestorePoint, Sought, TransactionEnds, WalFileName, find};
use crate::repo::log::{ClusterId, Fold, LiveCommit, WalMode};
use crate::restore::rescue::LocalSegment;
use crate::restore::target::{self, ArchivedSegment, Candidate, RecoveryChoice, SearchError, Target, TargetSettings, Wanted};
use crate::units::ids::unhex;
use crate::units::{Class, Explain, Progress, SegmentName, SegmentNo, SegmentSize, TimelineId};

/// What was chosen.
pub(super) struct Reached {
    /// The COMMIT's number.
    pub number: u64,
    /// The snapshot.
    pub commit: LiveCommit,
    /// The choice; none with `--no-recovery` and `--standby`.
    choice: Option<RecoveryChoice>,
    /// The WAL that the snapshot waits for, where nothing was chosen by what is archived.
    waits_for: Option<SegmentName>,
    /// What a standby will follow.
    follows: Option<Follows>,
}

/// What `latest` is to a standby, which asks the archive itself.
struct Follows {
    timeline: TimelineId,
    /// The snapshot's own.
    own: TimelineId,
    /// It leads on from the snapshot.
    leads_on: bool,
}

impl Reached {
    /// What the server is told.
    pub fn settings(&self) -> Option<&TargetSettings> {
        self.choice.as_ref().and_then(|c| c.settings.as_ref())
    }

    /// The timeline that recovery follows.
    pub fn timeline(&self) -> Option<TimelineId> {
        self.choice.as_ref().map(|c| c.timeline)
    }

    /// Will recovery read the target's own last segment, which lies on `timeline`? Where nothing was chosen the server
    /// follows the newest timeline that it finds.
    pub fn reads(&self, timeline: TimelineId, newest: Option<TimelineId>) -> bool {
        match &self.choice {
            Some(choice) => choice.settings.is_some() && choice.timeline == timeline,
            None => newest == Some(timeline),
        }
    }

    /// All of the choice.
    pub fn choice(&self) -> Option<&RecoveryChoice> {
        self.choice.as_ref()
    }

    /// Why, in lines.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("snapshot {} of {}", self.commit.summary.id, self.commit.summary.started_at.for_people())];
        lines.extend(self.choice.iter().flat_map(|c| c.explanation.iter().cloned()));
        lines.extend(self.follows.as_ref().map(|f| format!("the standby follows timeline {}: the latest in the archive", f.timeline)));
        lines
    }

    /// What deserves a look.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.choice.as_ref().map(|c| c.warnings.clone()).unwrap_or_default();
        warnings.extend(self.follows.as_ref().filter(|f| !f.leads_on).map(|f| {
            format!(
                "timeline {} does not lead on from the snapshot, and no server follows it from there: set recovery_target_timeline, to {} for example",
                f.timeline, f.own
            )
        }));
        warnings.extend(self.waits_for.map(|segment| {
            format!("snapshot {} waits for WAL segment {segment}: no server gets consistent without it", self.commit.summary.id)
        }));
        warnings
    }
}

/// The cluster that is meant.
pub(super) fn cluster_of(context: &Context, opened: &Opened, args: &Args) -> Result<ClusterId, Failure> {
    match candidates(context, opened, args)?.last() {
        Some((_, newest)) => Ok(newest.summary.cluster_id()),
        None => Err(look::NameError::none_of(&opened.view().fold, context.settings.chosen_cluster()).into()),
    }
}

/// Chooses: the named snapshot, or the newest of the cluster that reaches the target. `own` are segments of the
/// folder that is restored in place, which recovery will have besides the archive's.
pub(super) fn reach(context: &Context, opened: &Opened, args: &Args, wanted: &Wanted, own: &[&LocalSegment]) -> Result<Reached, Failure> {
    let mut all = candidates(context, opened, args)?;
    if all.len() > 1 && matches!(wanted.target, Target::Time(_) | Target::Xid(_)) {
        // Each is looked into: what it takes to find its packs is read at once.
        opened.know_commits(&all.iter().map(|(number, _)| *number).collect())?;
        all = candidates(context, opened, args)?;
    }
    let Some((_, newest)) = all.last() else {
        return Err(look::NameError::none_of(&opened.view().fold, context.settings.chosen_cluster()).into());
    };
    let cluster = newest.summary.cluster_id();
    // After pg_upgrade or initdb the older snapshots are another history: only by name are they meant.
    let same: Vec<&(u64, LiveCommit)> = all.iter().filter(|(_, c)| c.summary.cluster_id() == cluster).collect();
    if args.no_recovery || args.standby {
        let (number, commit) = same.last().copied().ok_or(look::NameError::None { cluster: None, others: Vec::new() })?.clone();
        let waits_for = match Archived::of(opened, &context.cancel).waits_for(&commit.summary) {
            Ok(waits_for) => waits_for,
            // It is no need of this restore.
            Err(failure) => {
                context.reporter.warn(&format!("whether its WAL is archived is not known: {}", failure.describe().what));
                None
            }
        };
        let follows = if args.standby { follows(context, opened, &commit)? } else { None };
        return Ok(Reached { number, commit, choice: None, waits_for, follows });
    }
    let log = OpenedTail::new(opened, &cluster.name)?;
    let site = log.site();
    let archive = Archive::read(&site, cluster.system_identifier, &CatalogFronts::of(opened), &context.cancel)?;
    let size = archive.segment_size.or_else(|| same.iter().find_map(|(_, c)| c.summary.wal.as_ref().map(|w| w.segment_size)));
    let mut known = known(&archive, size.unwrap_or(SegmentSize::DEFAULT));
    known.segments.extend(own.iter().filter(|own| own.size == known.segment_size).map(|own| own_segment(own)));
    let candidates: Vec<Candidate> =
        same.iter().filter_map(|(number, commit)| candidate(opened, *number, commit, &wanted.target)).collect();
    let get = GetContext { site, opening: opened.reader()?, system_identifier: cluster.system_identifier };
    let mut search = |names: &[SegmentName], sought: Sought<'_>| search(&get, own, names, sought);
    let expired = |name: SegmentName| has_expired(&opened.view().fold, &cluster, name);
    let mut choice = target::choose(&known, &candidates, wanted, &mut search).map_err(|e| e.unless_expired(expired))?;
    if let Some((settings, ahead)) = choice.settings.as_mut().zip(choice.read_ahead) {
        settings.gap_behind |= !is_whole(&get, ahead, known.segment_size);
    }
    let chosen = same.iter().find(|(_, c)| c.summary.id == choice.snapshot).copied().cloned();
    let (number, commit) = chosen.ok_or(look::NameError::None { cluster: Some(cluster.name), others: Vec::new() })?;
    Ok(Reached { number, commit, choice: Some(choice), waits_for: None, follows: None })
}

/// Did the segment expire, or one behind it on its timeline?
fn has_expired(fold: &Fold, cluster: &ClusterId, name: SegmentName) -> bool {
    let row = fold.expired.get(cluster).and_then(|timelines| timelines.get(&name.timeline));
    row.is_some_and(|row| name.no(row.segment_size).is_some_and(|no| no <= row.segment_size.segment_of(row.highest)))
}

/// What a standby of this snapshot takes for the latest timeline.
fn follows(context: &Context, opened: &Opened, commit: &LiveCommit) -> Result<Option<Follows>, Failure> {
    let Some(wal) = &commit.summary.wal else { return Ok(None) };
    let cluster = commit.summary.cluster_id();
    let tail = OpenedTail::new(opened, &cluster.name)?;
    let tree = Archive::read(&tail.site(), cluster.system_identifier, &CatalogFronts::of(opened), &context.cancel)?.tree();
    let own = wal.ranges.last().map_or(wal.timeline, |range| range.timeline);
    let timeline = TimelineTree::latest_from(own, |timeline| tree.history(timeline).is_some());
    Ok(Some(Follows { timeline, own, leads_on: tree.is_ancestor_at(own, wal.stop_lsn, timeline) }))
}

/// Segments are read to look whether they are whole up to this size; reading larger ones would take as long as replay gains.
const LARGEST_LOOK: u32 = 64 << 20;

/// Can this segment be had? It isn't needed; but the server may read it ahead, and would end at one that is damaged.
fn is_whole(get: &GetContext<'_>, name: SegmentName, size: SegmentSize) -> bool {
    size.bytes() <= LARGEST_LOOK && matches!(archive::fetch(get, &WalFileName::Segment(name)), Ok(Some(_)))
}

/// The snapshots that may be taken, in the order of the log.
fn candidates(context: &Context, opened: &Opened, args: &Args) -> Result<Vec<(u64, LiveCommit)>, Failure> {
    let view = opened.view();
    let named = match &args.snapshot {
        Some(name) => Some(clusters::find(context, &view, name)?),
        None => None,
    };
    if let Some(listed) = named {
        return Ok(vec![(listed.number, listed.commit.clone())]);
    }
    let cluster = clusters::one(context, &view.fold)?;
    // The error of an empty list is that of a name.
    clusters::find(context, &view, &SnapshotName::Latest(0))?;
    let all = look::snapshots(&view.fold, Some(&cluster));
    Ok(all.into_iter().map(|listed| (listed.number, listed.commit.clone())).collect())
}

/// A snapshot as the choice takes it. When it was consistent, by the database's clock, stands in the snapshot itself: it
/// is read where a time is wanted; the COMMIT's own time is later, and so never wrong. So does the epoch of transaction
/// ids, where one is given.
fn candidate(opened: &Opened, number: u64, commit: &LiveCommit, target: &Target) -> Option<Candidate> {
    let wal = commit.summary.wal.as_ref()?;
    let facts = || {
        let view = opened.view();
        look::facts(opened, &view.fold, &Listed { number, commit }).ok()
    };
    let (stopped_at, next_xid) = match target {
        Target::Time(_) => (facts().map(|f| f.stopped_at), None),
        Target::Xid(xid) if *xid > u64::from(u32::MAX) => (None, facts().and_then(|f| next_xid(&f))),
        _ => (None, None),
    };
    Some(Candidate {
        id: commit.summary.id.clone(),
        number,
        start_timeline: wal.timeline,
        start_lsn: wal.start_lsn,
        stop_timeline: wal.ranges.last().map_or(wal.timeline, |r| r.timeline),
        stop_lsn: wal.stop_lsn,
        stopped_at: stopped_at.unwrap_or(commit.summary.finished_at),
        wal_inside: wal.mode == WalMode::Copy,
        next_xid,
    })
}

/// The next transaction id in the snapshot's pg_control.
fn next_xid(facts: &ClusterFacts) -> Option<u64> {
    let mut bytes = unhex(&facts.control_file).filter(|bytes| bytes.len() <= FILE_SIZE)?;
    bytes.resize(FILE_SIZE, 0);
    ControlFile::parse(&bytes).ok().map(|control| control.next_xid)
}

/// The archive as the choice takes it: what can't be used is no absence.
fn known(archive: &Archive, segment_size: SegmentSize) -> target::Archive {
    let mut known = target::Archive {
        segment_size,
        segments: archive.segments.values().map(|entry| segment(&entry.facts)).collect(),
        timelines: archive.tree(),
        unusable: BTreeMap::new(),
        unusable_histories: BTreeMap::new(),
    };
    for (timeline, shown_by) in archive.lost_histories() {
        known.unusable_histories.insert(timeline, format!("it is missing, and {shown_by} shows that it was there"));
    }
    for damaged in &archive.damaged {
        let why = format!("{}: {}", damaged.object, damaged.why);
        match damaged.file {
            WalFileName::Segment(name) => drop(known.unusable.insert(name, why)),
            WalFileName::History(timeline) => drop(known.unusable_histories.insert(timeline, why)),
            WalFileName::Partial(_) | WalFileName::Backup { .. } => {}
        }
    }
    known
}

fn segment(r: &SegmentRecord) -> ArchivedSegment {
    ArchivedSegment {
        timeline: r.timeline,
        no: r.no,
        last_record: r.last_record,
        tail_record: r.tail_record,
        continuation_ends: r.continuation_ends,
        transactions: r.transactions.map(|t| TransactionEnds {
            min_time: t.min_time,
            max_time: t.max_time,
            first_time: t.first_time,
            last_time: t.last_time,
            min_xid: t.min_xid,
            max_xid: t.max_xid,
            last_lsn: t.last_lsn,
        }),
        open_tail_may_hold_commit: r.open_tail_may_hold_commit,
        restore_points: r
            .restore_points
            .iter()
            .map(|p| RestorePoint { name: p.name.clone(), lsn: p.lsn, end_lsn: p.end_lsn, time: p.time })
            .collect(),
        restore_points_cut: r.restore_points_cut,
        valid_until: r.valid_until,
        fault: r.fault.clone(),
        unfinished: false,
    }
}

/// A segment of the target's own, as if it were archived.
fn own_segment(own: &LocalSegment) -> ArchivedSegment {
    let facts = &own.facts;
    ArchivedSegment {
        timeline: own.name.timeline,
        no: own.name.no(own.size).unwrap_or(SegmentNo(0)),
        last_record: facts.last_record,
        tail_record: facts.tail_record,
        continuation_ends: facts.continuation_ends,
        transactions: facts.commits,
        open_tail_may_hold_commit: facts.open_tail_may_hold_commit,
        restore_points: facts.restore_points.clone(),
        restore_points_cut: false,
        valid_until: facts.valid_until,
        fault: None,
        unfinished: facts.stop.is_some(),
    }
}

/// WAL that was to be searched is not what it was.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unsearchable(String);

impl Explain for Unsearchable {
    fn class(&self) -> Class {
        Class::Corrupt
    }
}

/// Reads WAL out of the archive, or of the target where it has more, and looks for a transaction's end or a restore point.
fn search(get: &GetContext<'_>, own: &[&LocalSegment], names: &[SegmentName], sought: Sought<'_>) -> Result<Option<Found>, SearchError> {
    let own = |name: &SegmentName| own.iter().find(|own| own.name == *name).map(|own| std::fs::read(&own.path));
    let segments = names.iter().map(|name| match own(name) {
        Some(Ok(bytes)) => Ok(bytes),
        Some(Err(e)) => Err(SearchError::new(Unsearchable(format!("WAL segment {name} can't be read: {e}")))),
        None => fetched(get, name),
    });
    find(segments, sought).map_err(|e| match e {
        FindError::Source(e) => e,
        other => SearchError::new(Unsearchable(other.to_string())),
    })
}

fn fetched(get: &GetContext<'_>, name: &SegmentName) -> Result<Vec<u8>, SearchError> {
    match archive::fetch(get, &WalFileName::Segment(*name)) {
        Ok(Some(fetched)) => Ok(fetched.bytes),
        Ok(None) => Err(SearchError::new(Unsearchable(format!("WAL segment {name} is not in the archive")))),
        Err(e) => Err(SearchError::new(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{DamagedFile, Entry, HistoryFacts, HistoryLine};
    use crate::units::{Hash32, KeyId, Lsn};

    #[test]
    fn damaged_files_of_the_archive_reach_the_choice() {
        let mut archive = Archive::empty("shop", 7);
        for file in ["00000001000000000000000C", "00000002.history", "00000001000000000000000D.partial"] {
            let file = file.parse().unwrap();
            archive.damaged.push(DamagedFile { file, object: "wal/x".into(), why: "rotten".into(), head: None });
        }
        let line = |parent| HistoryLine { parent: TimelineId(parent), switch: Lsn(5), reason: String::new() };
        let facts = HistoryFacts { timeline: TimelineId(4), lines: vec![line(1), line(3)] };
        let entry =
            Entry { facts, variant: 0, stored: 1, content: Hash32([0; 32]), plain: 1, signer: KeyId([0; 16]), pushed_at: None, head: 0 };
        archive.histories.insert(TimelineId(4), entry);
        let known = known(&archive, SegmentSize::DEFAULT);
        assert_eq!(known.unusable.into_iter().collect::<Vec<_>>(), [("00000001000000000000000C".parse().unwrap(), "wal/x: rotten".into())]);
        let lost = "it is missing, and 00000004.history shows that it was there";
        let histories = [(TimelineId(2), "wal/x: rotten".into()), (TimelineId(3), lost.into())];
        assert_eq!(known.unusable_histories.into_iter().collect::<Vec<_>>(), histories);
    }
}
