//! Why a target can't be reached.

use super::search::SearchError;
use crate::units::{Class, Explain, Lsn, SegmentName, TimelineId, Timestamp};

/// There is no way to the target; nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Nothing to restore from.
    #[error("there is no snapshot of this cluster")]
    NoSnapshot,
    /// It lies before all snapshots that could be taken.
    #[error("{target} lies before the first point that can be reached: {lsn} at {time}, the end of snapshot {snapshot}")]
    BeforeFirst {
        /// The target.
        target: String,
        /// The snapshot that is consistent first.
        snapshot: String,
        /// Where it is consistent.
        lsn: Lsn,
        /// When it was.
        time: Timestamp,
    },
    /// It lies behind all that is archived.
    #[error("{target} lies behind the archive's end on timeline {timeline}: {last}")]
    AfterLast {
        /// The target.
        target: String,
        /// The timeline.
        timeline: TimelineId,
        /// What the archive's last word is.
        last: String,
    },
    /// A segment is missing on the way, and later ones are there.
    #[error("WAL segment {missing} is missing on the way to {target}, and {later} behind it is there")]
    Gap {
        /// The target.
        target: String,
        /// The first that is missing.
        missing: SegmentName,
        /// The first behind it that is there.
        later: SegmentName,
        /// Up to here it goes.
        reach: Lsn,
        /// The last end of a transaction up to there.
        reach_time: Option<Timestamp>,
        /// The snapshot can be restored as itself: it holds its own WAL.
        as_itself: bool,
    },
    /// A segment is missing on the way because it has expired: of the snapshot only what makes it consistent was kept.
    #[error(
        "{target} can't be reached: WAL segment {missing} has expired, and nothing was kept of it but what snapshots need to be consistent"
    )]
    Expired {
        /// The target.
        target: String,
        /// The first that has.
        missing: SegmentName,
    },
    /// WAL on the way is damaged.
    #[error("WAL segment {segment} is damaged at {at}, on the way to {target}: {why}")]
    Damaged {
        /// The target.
        target: String,
        /// The segment.
        segment: SegmentName,
        /// Up to here it goes.
        at: Lsn,
        /// What is wrong.
        why: String,
        /// The segment is what was pushed: no copy of the repository has a better one.
        as_pushed: bool,
        /// The snapshot can be restored as itself: it holds its own WAL.
        as_itself: bool,
    },
    /// A timeline had a history file, and it can't be used.
    #[error("the history of timeline {timeline} can't be used, so where it leads is not known: {why}")]
    History {
        /// Whose history.
        timeline: TimelineId,
        /// What is wrong.
        why: String,
        /// Timelines that lead on from the snapshot and are known.
        choices: Vec<TimelineId>,
    },
    /// The snapshot's own WAL isn't archived yet.
    #[error("snapshot {snapshot} can't be restored yet: it waits for WAL segment {segment}")]
    WaitsForWal {
        /// The snapshot.
        snapshot: String,
        /// The first segment that is missing.
        segment: SegmentName,
        /// Is a later one there? Then the segment was lost rather than late.
        later: Option<SegmentName>,
    },
    /// The wanted timeline doesn't lead on from the snapshot.
    #[error("timeline {timeline} does not lead on from snapshot {snapshot} (timeline {own}, consistent at {stop})")]
    NoDescendant {
        /// The wanted timeline.
        timeline: TimelineId,
        /// The snapshot.
        snapshot: String,
        /// Its timeline.
        own: TimelineId,
        /// Where it is consistent.
        stop: Lsn,
        /// Timelines that lead on from it.
        choices: Vec<TimelineId>,
    },
    /// Nobody knows the wanted timeline.
    #[error("the archive has no history of timeline {timeline}")]
    UnknownTimeline {
        /// The wanted timeline.
        timeline: TimelineId,
        /// Those that it knows.
        known: Vec<TimelineId>,
    },
    /// A transaction or restore point that isn't in the archived WAL.
    #[error("{target} is not in the WAL that can be replayed, which reaches from {from} to {to} on timeline {timeline}")]
    Unknown {
        /// The target.
        target: String,
        /// Where the search began.
        from: Lsn,
        /// Where it ended.
        to: Lsn,
        /// The timeline.
        timeline: TimelineId,
    },
    /// A transaction id with an epoch that isn't known to be the right one.
    #[error(
        "WAL holds the low 32 bits of transaction {xid} alone, {low}, and its epoch is not known to be right behind snapshot {snapshot}"
    )]
    Epoch {
        /// As given.
        xid: u64,
        /// Its low 32 bits.
        low: u32,
        /// What an id with these bits is behind the snapshot, as far as is known.
        likely: Option<u64>,
        /// The snapshot.
        snapshot: String,
    },
    /// Excluding something from itself.
    #[error("{0} can't be exclusive: only a time, an LSN and a transaction can")]
    Exclusive(String),
    /// No record at all in the snapshot's WAL.
    #[error("the WAL of snapshot {snapshot} holds no complete record")]
    NoRecord {
        /// The snapshot.
        snapshot: String,
    },
    /// WAL had to be read, and couldn't be.
    #[error("{target} could not be looked up in the WAL")]
    Search {
        /// The target.
        target: String,
        /// Why.
        source: SearchError,
    },
}

impl TargetError {
    /// What is missing may have expired, as `has` says of a segment: then no gap is to be told of.
    pub fn unless_expired(self, has: impl Fn(SegmentName) -> bool) -> Self {
        match self {
            TargetError::Gap { target, missing, .. } if has(missing) => TargetError::Expired { target, missing },
            other => other,
        }
    }
}

impl Explain for TargetError {
    fn class(&self) -> Class {
        match self {
            TargetError::NoSnapshot | TargetError::UnknownTimeline { .. } | TargetError::Unknown { .. } => Class::Absent,
            TargetError::Exclusive(_) | TargetError::Epoch { .. } => Class::Usage,
            TargetError::Damaged { .. } | TargetError::History { .. } | TargetError::NoRecord { .. } => Class::Corrupt,
            TargetError::Search { source, .. } => source.class,
            TargetError::BeforeFirst { .. }
            | TargetError::AfterLast { .. }
            | TargetError::Gap { .. }
            | TargetError::Expired { .. }
            | TargetError::WaitsForWal { .. }
            | TargetError::NoDescendant { .. } => Class::Refused,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            TargetError::NoSnapshot => Some("take one with `pgcairn backup`".into()),
            TargetError::BeforeFirst { snapshot, .. } => {
                Some(format!("choose a later target, or the earliest that there is: restore {snapshot} --target-immediate"))
            }
            TargetError::AfterLast { .. } => Some("leave the target out: a restore without one goes to the end of the archive".into()),
            TargetError::Expired { .. } => Some(
                "restore the snapshot as itself with --target-immediate, or take a later snapshot (`pgcairn archive status` shows windows)"
                    .into(),
            ),
            TargetError::Gap { as_itself: true, .. } => Some("restore the snapshot as itself with --target-immediate".into()),
            TargetError::Gap { reach, reach_time, .. } => Some(match reach_time {
                Some(time) => format!("choose a target before {reach} or {time}, or a snapshot behind the gap"),
                None => format!("choose a target before {reach}, or a snapshot behind the gap"),
            }),
            TargetError::Damaged { as_itself: true, .. } => Some("restore the snapshot as itself with --target-immediate".into()),
            TargetError::Damaged { at, as_pushed, .. } => {
                let copy = if *as_pushed { "" } else { "bring the object back from a copy of the repository, " };
                Some(format!("{copy}choose a target before {at} (--target-lsn, --target-time), or a later snapshot"))
            }
            TargetError::History { timeline, choices, .. } => {
                let name = timeline.history_name();
                let back = format!("bring {name} back from a copy of the repository, or from a server's pg_wal and push it");
                Some(match choices.as_slice() {
                    [] => back,
                    choices => format!("{back}; or choose by --target-timeline: {}", list(choices)),
                })
            }
            TargetError::WaitsForWal { segment, later: None, .. } => {
                Some(format!("wait until the server has archived {segment}, or take an older snapshot"))
            }
            TargetError::WaitsForWal { .. } => Some("the segment was lost: take another snapshot".into()),
            TargetError::NoDescendant { choices, .. } => Some(format!("choose by --target-timeline: {}", list(choices))),
            TargetError::UnknownTimeline { known, .. } => Some(format!("choose by --target-timeline: {}", list(known))),
            TargetError::Unknown { target, .. } if target.starts_with("transaction") => {
                Some("only transactions that ended, by their top-level id, can be a target; take a time or an LSN instead".into())
            }
            TargetError::Unknown { .. } => Some("see `pgcairn archive status` for what is archived; take a time or an LSN instead".into()),
            TargetError::Epoch { low, likely: Some(likely), .. } => {
                Some(format!("if {likely} is meant, give that, or its low 32 bits: --target-xid {low}"))
            }
            TargetError::Epoch { low, .. } => Some(format!("give the low 32 bits: --target-xid {low}")),
            TargetError::Search { source, .. } => source.cure.clone(),
            TargetError::Exclusive(_) | TargetError::NoRecord { .. } => None,
        }
    }
}

pub(super) fn list(timelines: &[TimelineId]) -> String {
    timelines.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
