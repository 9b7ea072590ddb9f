//! Which snapshot, which timeline, and where recovery stops: asked of the library, with what log and archive know.

use super::args::Args;
use crate::archive::{Archive, Entry, GetContext, GetError, NoCache, SegmentRecord, fetch};
use crate::cli::clusters;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::tail::OpenedTail;
use crate::host::access::Opened;
use crate::look::{self, Listed, NameError, SnapshotName};
use crate::pg::recovery::TargetTimeline;
use crate::pg::wal::{self, Found, RestorePoint, Sought, TransactionEnds, WalFileName};
use crate::repo::log::{Fold, SnapshotWal, Summary, WalMode};
use crate::restore::target::{self, ArchivedSegment, Candidate, SearchError, TargetSettings};
use crate::units::{Cancel, Progress, SegmentName, SegmentSize, TimelineId};

/// What the wishes come to.
pub(super) struct Chosen<'a> {
    /// The snapshot.
    pub listed: Listed<'a>,
    /// What the server is told; none if it needs no archive, or the user tells it.
    pub settings: Option<TargetSettings>,
    /// The timeline that recovery follows, where that is decided.
    pub timeline: Option<TimelineId>,
    /// What was chosen and why.
    pub explanation: Vec<String>,
    /// What deserves a look.
    pub warnings: Vec<String>,
    /// A file to try restore_command with: the first segment that will be asked for, else one that is surely absent.
    pub probe: String,
}

/// Chooses; nothing is written.
pub(super) fn choose<'a>(context: &Context, args: &Args, opened: &Opened, fold: &'a Fold) -> Result<Chosen<'a>, Failure> {
    let (cluster, listed) = candidates(context, args, fold)?;
    let newest = listed.last().ok_or(NameError::None { cluster: Some(cluster.clone()) })?;
    let summary = &newest.commit.summary;
    let free = !args.has_target() && args.target_timeline.is_none();
    if args.standby || (args.no_recovery && free) {
        // Nothing is told that the archive could contradict: who asked for it sees to the WAL.
        return Ok(Chosen {
            listed: *newest,
            settings: None,
            timeline: None,
            explanation: vec![format!("snapshot {}", summary.id)],
            warnings: Vec::new(),
            probe: absent_name(),
        });
    }
    context.reporter.phase("reading the archive's metadata", None);
    let tail = OpenedTail::new(opened, &cluster);
    let archive = Archive::read(&tail.site(), summary.system_identifier, &NoCache, &context.cancel)?;
    let candidates = listed.iter().filter_map(|s| candidate(context, opened, s)).collect::<Vec<_>>();
    let size = archive.segment_size.or(summary.wal.as_ref().map(|w| w.segment_size)).unwrap_or(SegmentSize::DEFAULT);
    let known =
        target::Archive { segment_size: size, segments: archive.segments.values().map(archived).collect(), timelines: archive.tree() };
    let get = GetContext { site: tail.site(), opening: opened.reader()?, system_identifier: summary.system_identifier };
    let mut find = |names: &[SegmentName], sought: Sought<'_>| search(&get, names, sought, &context.cancel);
    let choice = target::choose(&known, &candidates, &args.wanted(), &mut find)?;
    let chosen = listed.iter().find(|s| s.id() == choice.snapshot).copied().unwrap_or(*newest);
    let first = chosen.commit.summary.wal.as_ref().map(first_segment);
    Ok(Chosen {
        listed: chosen,
        settings: choice.settings,
        timeline: Some(choice.timeline),
        explanation: choice.explanation,
        warnings: choice.warnings,
        probe: first.filter(|name| archive.has(*name)).map_or_else(absent_name, |name| name.to_string()),
    })
}

/// The history of a timeline that no server has come to.
fn absent_name() -> String {
    TimelineId(u32::MAX).history_name()
}

fn first_segment(wal: &SnapshotWal) -> SegmentName {
    SegmentName::new(wal.timeline, wal.segment_size.segment_of(wal.start_lsn), wal.segment_size)
}

/// The snapshots that may be taken, in the order of the log: the one that is named, else all of the cluster that have
/// the system identifier of the newest.
fn candidates<'a>(context: &Context, args: &Args, fold: &'a Fold) -> Result<(String, Vec<Listed<'a>>), Failure> {
    if let Some(name) = &args.snapshot {
        let one = clusters::find(context, fold, name)?;
        return Ok((one.commit.summary.cluster.clone(), vec![one]));
    }
    let cluster = clusters::one(context, fold)?;
    let all = look::snapshots(fold, Some(&cluster));
    let newest = look::resolve(&all, &SnapshotName::Latest(0), Some(&cluster))?;
    let history = newest.commit.summary.system_identifier;
    Ok((cluster, all.into_iter().filter(|s| s.commit.summary.system_identifier == history).collect()))
}

/// A snapshot as the choice sees it: when it was consistent only the snapshot itself says.
fn candidate(context: &Context, opened: &Opened, listed: &Listed<'_>) -> Option<Candidate> {
    let summary: &Summary = &listed.commit.summary;
    let wal = summary.wal.as_ref()?;
    let facts = match look::facts(opened, listed) {
        Ok(facts) => facts,
        Err(error) => {
            context.reporter.warn(&format!("snapshot {} can't be read and is passed over: {error}", summary.id));
            return None;
        }
    };
    Some(Candidate {
        id: summary.id.clone(),
        number: listed.number,
        start_timeline: wal.timeline,
        start_lsn: wal.start_lsn,
        stop_timeline: wal.ranges.last().map_or(wal.timeline, |r| r.timeline),
        stop_lsn: wal.stop_lsn,
        stopped_at: facts.stopped_at,
        wal_inside: wal.mode == WalMode::Copy,
    })
}

fn archived(entry: &Entry<SegmentRecord>) -> ArchivedSegment {
    let facts = &entry.facts;
    let point = |p: &crate::archive::RestorePointFact| RestorePoint { name: p.name.clone(), lsn: p.lsn, end_lsn: p.end_lsn, time: p.time };
    ArchivedSegment {
        timeline: facts.timeline,
        no: facts.no,
        last_record: facts.last_record,
        tail_record: facts.tail_record,
        continuation_ends: facts.continuation_ends,
        transactions: facts.transactions.map(|t| TransactionEnds {
            min_time: t.min_time,
            max_time: t.max_time,
            first_time: t.first_time,
            last_time: t.last_time,
            min_xid: t.min_xid,
            max_xid: t.max_xid,
            last_lsn: t.last_lsn,
        }),
        open_tail_may_hold_commit: facts.open_tail_may_hold_commit,
        restore_points: facts.restore_points.iter().map(point).collect(),
        restore_points_cut: facts.restore_points_cut,
        valid_until: facts.valid_until,
        fault: facts.fault.clone(),
    }
}

/// Reads segments of the archive and searches them.
fn search(get: &GetContext<'_>, names: &[SegmentName], sought: Sought<'_>, cancel: &Cancel) -> Result<Option<Found>, SearchError> {
    let segments = names.iter().map(|name| {
        let file = WalFileName::Segment(*name);
        if cancel.is_cancelled() {
            return Err(GetError::Undecided { name: file, why: "interrupted".into() });
        }
        match fetch(get, &file)? {
            Some(fetched) => Ok(fetched.bytes),
            None => Err(GetError::Undecided { name: file, why: "it was listed, and is gone".into() }),
        }
    });
    wal::find(segments, sought).map_err(SearchError::new)
}

/// `latest`, where nothing was said.
pub(super) fn timeline_words(timeline: TargetTimeline) -> String {
    match timeline {
        TargetTimeline::Latest => "latest".into(),
        TargetTimeline::Current => "current".into(),
        TargetTimeline::Number(number) => number.to_string(),
    }
}
