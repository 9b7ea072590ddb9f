//! The answer of `archive status`, in the form that scripts rely on (cli.md, "JSON").
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use serde::Serialize;

use super::gaps::{self, Gap};
use super::live::live;
use super::{Blocked, Known, Lines, SnapshotSpan};
use crate::archive::{Archive, DamagedFile};
use crate::pg::wal::WalFileName;
use crate::units::{Lsn, SegmentName, SegmentSize, TimelineId, Timestamp};

/// All of it. Fields are added, never changed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Status {
    /// 1.
    pub version: u32,
    /// The cluster's name.
    pub cluster: String,
    /// Its timelines, in the order of numbers.
    pub timelines: Vec<TimelineStatus>,
    /// What can be restored, by snapshot in the order of the log, then timeline.
    pub restorable: Vec<Window>,
    /// Snapshots that can't be restored yet, or no longer.
    pub waiting: Vec<Waiting>,
    /// Files that can't be used.
    pub damaged: Vec<DamagedStatus>,
    /// History files that are missing although they were archived.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostStatus>,
    /// How far the archive is behind the server; absent if the server wasn't asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// The size of its segments; none without segments.
    #[serde(skip)]
    pub segment_size: Option<SegmentSize>,
}

/// One timeline.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TimelineStatus {
    /// Its number.
    pub timeline: TimelineId,
    /// From which it was split; `null` if it wasn't, or its history isn't archived.
    pub parent: Option<ParentStatus>,
    /// The first archived segment.
    pub first: Option<SegmentName>,
    /// The last.
    pub last: Option<SegmentName>,
    /// How many there are.
    pub segments: usize,
    /// Is it still written?
    pub live: bool,
    /// When its newest segment was pushed, by the pusher's clock.
    #[serde(serialize_with = "text_or_null", skip_serializing_if = "Option::is_none")]
    pub last_pushed_at: Option<Timestamp>,
    /// What is missing.
    pub gaps: Vec<GapStatus>,
    /// Segments at which replay will stop, though they are what was pushed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultStatus>,
}

/// Where a timeline begins.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ParentStatus {
    /// The parent.
    pub timeline: TimelineId,
    /// Where it was left.
    pub switch_lsn: Lsn,
}

/// Missing segments.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct GapStatus {
    /// The first.
    pub from: SegmentName,
    /// The last.
    pub to: SegmentName,
    /// The reason, if somebody acknowledged it.
    pub acknowledged: Option<String>,
    /// The first snapshot behind the gap: to be restored instead of those before it. `null`: one should be taken.
    pub next_snapshot: Option<String>,
}

/// A segment whose WAL is not valid to its end.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FaultStatus {
    /// Its name.
    pub segment: SegmentName,
    /// Up to here it is.
    pub valid_until: Lsn,
    /// The reason, if somebody acknowledged it.
    pub acknowledged: Option<String>,
}

/// What can be reached from a snapshot along a timeline.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Window {
    /// The timeline.
    pub timeline: TimelineId,
    /// The snapshot.
    pub snapshot: String,
    /// From its stop …
    pub from_lsn: Lsn,
    /// … to behind the last byte of WAL.
    pub to_lsn: Lsn,
    /// From its stop …
    #[serde(serialize_with = "text")]
    pub from_time: Timestamp,
    /// … to before the last end of a transaction archived; `null` if none ended behind the stop.
    #[serde(serialize_with = "text_or_null")]
    pub to_time: Option<Timestamp>,
}

/// A snapshot that can't be restored.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Waiting {
    /// Its id.
    pub snapshot: String,
    /// The first segment that it needs and the archive doesn't have; `null` if one is there and has a fault.
    pub segment: Option<SegmentName>,
}

/// A file that can't be used.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DamagedStatus {
    /// The server's name of it.
    pub file: String,
    /// The object.
    pub object: String,
    /// What is wrong.
    pub problem: String,
    /// The reason, if it is a segment and somebody acknowledged it.
    pub acknowledged: Option<String>,
}

/// A history file that is missing: a whole timeline can't be followed without it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LostStatus {
    /// The server's name of it.
    pub file: String,
    /// The file that can't be there without it.
    pub shown_by: String,
}

/// How far the archive is behind the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Lag {
    /// Bytes of WAL that are not archived.
    pub bytes: u64,
    /// Whole segments that could be and are not.
    pub segments: u64,
}

fn text<S: serde::Serializer>(time: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(time)
}

fn text_or_null<S: serde::Serializer>(time: &Option<Timestamp>, s: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => s.collect_str(time),
        None => s.serialize_none(),
    }
}

impl Status {
    /// Of an archive, at the time `now` by this host's clock; `server` is where the server writes, if it was asked.
    pub fn of(archive: &Archive, known: &Known, now: Timestamp, server: Option<(TimelineId, Lsn)>) -> Self {
        let lines = Lines::new(archive);
        let mut snapshots: Vec<&SnapshotSpan> =
            known.snapshots.iter().filter(|s| s.system_identifier == archive.system_identifier).collect();
        snapshots.sort_by_key(|s| s.order);
        let damaged = archive.damaged.iter();
        Status {
            version: 1,
            cluster: archive.cluster.clone(),
            timelines: timelines(&lines, known, now, &snapshots),
            restorable: snapshots.iter().flat_map(|s| lines.windows(s)).collect(),
            waiting: snapshots.iter().filter_map(|s| lines.waits_for(s)).collect(),
            damaged: damaged.map(|d| damaged_status(d, known)).collect(),
            lost: archive.lost_histories().into_iter().map(|(t, shown_by)| LostStatus { file: t.history_name(), shown_by }).collect(),
            lag: server.and_then(|(timeline, lsn)| lag(&lines, timeline, lsn)),
            segment_size: archive.segment_size,
        }
    }

    /// Gaps that nobody acknowledged.
    pub fn open_gaps(&self) -> impl Iterator<Item = &GapStatus> {
        self.timelines.iter().flat_map(|t| &t.gaps).filter(|gap| gap.acknowledged.is_none())
    }

    /// Live timelines: two are an alarm.
    pub fn live(&self) -> impl Iterator<Item = TimelineId> {
        self.timelines.iter().filter(|t| t.live).map(|t| t.timeline)
    }

    /// Is there anything that needs a look?
    pub fn alarms(&self) -> bool {
        let faults = self.timelines.iter().flat_map(|t| &t.faults).any(|fault| fault.acknowledged.is_none());
        let damaged = self.damaged.iter().any(|damaged| damaged.acknowledged.is_none());
        self.open_gaps().next().is_some() || faults || damaged || self.live().count() > 1 || !self.lost.is_empty()
    }

    /// Is there something to acknowledge in each of these segments of one timeline: is it missing or damaged, or has it a
    /// fault?
    pub fn is_amiss(&self, from: SegmentName, to: SegmentName) -> bool {
        let Some((size, timeline)) = self.segment_size.zip(self.timelines.iter().find(|t| t.timeline == from.timeline)) else {
            return false;
        };
        let damaged = |name: &SegmentName| self.damaged.iter().any(|d| d.file == name.to_string());
        let mut at = from;
        while at <= to {
            let gap = timeline.gaps.iter().find(|gap| gap.from <= at && at <= gap.to);
            let single = || timeline.faults.iter().any(|fault| fault.segment == at) || damaged(&at);
            let last = match gap {
                Some(gap) => gap.to,
                None if single() => at,
                None => return false,
            };
            let Some(next) = last.no(size) else { return false };
            at = SegmentName::new(from.timeline, next.next(), size);
        }
        true
    }
}

impl Lines<'_> {
    /// The windows of a snapshot: one for its own timeline, and one for each that descends from it and is reached.
    pub fn windows(&self, snapshot: &SnapshotSpan) -> Vec<Window> {
        let own = snapshot.stop_timeline();
        let window = |timeline| {
            let reach = self.reach(snapshot, timeline).ok()?;
            let there = timeline == own || reach.runs.last().is_some_and(|run| run.timeline == timeline);
            there.then(|| Window {
                timeline,
                snapshot: snapshot.id.clone(),
                from_lsn: reach.from_lsn,
                to_lsn: reach.to_lsn,
                from_time: reach.from_time,
                to_time: reach.to_time,
            })
        };
        self.timelines_of(snapshot).into_iter().filter_map(window).collect()
    }

    /// What a snapshot waits for; `None` if it can be recovered along some timeline.
    pub fn waits_for(&self, snapshot: &SnapshotSpan) -> Option<Waiting> {
        if self.timelines_of(snapshot).into_iter().any(|timeline| self.reach(snapshot, timeline).is_ok()) {
            return None;
        }
        let segment = match self.reach(snapshot, snapshot.stop_timeline()) {
            Err(Blocked::Missing(segment)) => Some(segment),
            _ => None,
        };
        Some(Waiting { snapshot: snapshot.id.clone(), segment })
    }
}

/// Of a damaged segment somebody may know; a history that can't be read cuts off its whole timeline.
fn damaged_status(damaged: &DamagedFile, known: &Known) -> DamagedStatus {
    let segment = match damaged.file {
        WalFileName::Segment(name) | WalFileName::Partial(name) => Some(name),
        WalFileName::History(_) | WalFileName::Backup { .. } => None,
    };
    DamagedStatus {
        file: damaged.file.to_string(),
        object: damaged.object.clone(),
        problem: damaged.why.clone(),
        acknowledged: segment.and_then(|name| known.acknowledged(name, damaged.head)),
    }
}

fn timelines(lines: &Lines<'_>, known: &Known, now: Timestamp, snapshots: &[&SnapshotSpan]) -> Vec<TimelineStatus> {
    let mut gaps = gaps::gaps(lines, known);
    let live = live(lines, known, now);
    // A timeline of which everything is missing has neither segments nor, perhaps, a history.
    let all = lines.timelines().into_iter().chain(gaps.keys().copied()).collect::<std::collections::BTreeSet<_>>();
    all.into_iter()
        .map(|timeline| {
            let size = lines.archive.segment_size;
            let name = |no| size.map(|size| SegmentName::new(timeline, no, size));
            let line = lines.line(timeline);
            let parent = lines.tree.history(timeline).and_then(|h| h.parent());
            let gaps = gaps.remove(&timeline).unwrap_or_default();
            let faults = line.into_iter().flat_map(|l| l.faults()).filter_map(|(no, valid_until)| Some((name(no)?, valid_until)));
            TimelineStatus {
                timeline,
                parent: parent.map(|p| ParentStatus { timeline: p.parent, switch_lsn: p.switch }),
                first: line.and_then(|l| l.first()).and_then(name),
                last: line.and_then(|l| l.last()).and_then(name),
                segments: line.map_or(0, |l| l.len()),
                live: live.contains(&timeline),
                last_pushed_at: lines.last_push(timeline),
                gaps: gaps.into_iter().filter_map(|gap| gap_status(lines, timeline, gap, snapshots)).collect(),
                faults: faults
                    .filter(|(segment, valid_until)| live.contains(&timeline) || !is_where_it_was_left(lines, *segment, *valid_until))
                    .filter_map(|(segment, valid_until)| {
                        let entry = segment.no(size?).and_then(|no| lines.archive.segments.get(&(timeline, no)));
                        Some(FaultStatus { segment, valid_until, acknowledged: known.acknowledged(segment, entry.map(|e| e.head)) })
                    })
                    .collect(),
            }
        })
        .collect()
}

/// Is it the last segment of a line that was left in it, and whole up to there? A server that was restored in place archives
/// the unfinished last segment of the old timeline by its whole name where archiving was off as it was promoted: nothing on
/// the way to what came of it is missing.
fn is_where_it_was_left(lines: &Lines<'_>, segment: SegmentName, valid_until: Lsn) -> bool {
    let (timeline, Some(size)) = (segment.timeline, lines.archive.segment_size) else { return false };
    let no = segment.no(size);
    let is_last = no.is_some() && lines.line(timeline).and_then(|line| line.last()) == no;
    let children = lines.timelines().into_iter().filter_map(|child| lines.tree.history(child).and_then(|history| history.parent()));
    let left = |switch: Lsn| switch <= valid_until && Some(size.segment_of(switch)) == no;
    is_last && children.into_iter().any(|parent| parent.parent == timeline && left(parent.switch))
}

fn gap_status(lines: &Lines<'_>, timeline: TimelineId, gap: Gap, snapshots: &[&SnapshotSpan]) -> Option<GapStatus> {
    let size = lines.archive.segment_size?;
    let behind = size.end_of(gap.to);
    let next = snapshots.iter().find(|s| s.start_lsn >= behind && lines.descends(s.timeline, timeline));
    Some(GapStatus {
        from: SegmentName::new(timeline, gap.from, size),
        to: SegmentName::new(timeline, gap.to, size),
        acknowledged: gap.acknowledged,
        next_snapshot: next.map(|s| s.id.clone()),
    })
}

/// The last archived segment on the way to the server's timeline, against its position.
fn lag(lines: &Lines<'_>, timeline: TimelineId, lsn: Lsn) -> Option<Lag> {
    let size = lines.archive.segment_size?;
    let last = lines.tree.ancestry(timeline).into_iter().rev().find_map(|branch| {
        let line = lines.line(branch.timeline)?;
        branch.end.map_or(line.last(), |end| line.before(size.segment_of(end)))
    })?;
    let behind = lsn.since(size.end_of(last));
    Some(Lag { bytes: behind, segments: behind / u64::from(size.bytes()) })
}
