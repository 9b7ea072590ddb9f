//! What of a snapshot matters to retention.

use std::collections::BTreeMap;
use std::fmt;

use super::evidence;
use crate::repo::log::{Branch, Fold, LiveCommit, PackSet, WalMode};
use crate::units::{KeyId, Lsn, SegmentName, TimelineId, Timestamp};

/// Why a snapshot isn't good: it isn't counted on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// So many pages had wrong checksums when it was taken.
    DamagedPages(u64),
    /// The newest verify or rehearsal of it found it bad.
    FoundBad {
        /// Which.
        what: String,
        /// What it said.
        detail: String,
    },
    /// It relies on packs in which damage was found.
    DamagedPlaces,
    /// It can't be restored before this segment is in the archive.
    WaitsFor(SegmentName),
    /// It came after the archive had been asked about the others: whether its WAL is there isn't known.
    NotAsked,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::DamagedPages(1) => f.write_str("1 damaged page"),
            Flaw::DamagedPages(n) => write!(f, "{n} damaged pages"),
            Flaw::FoundBad { what, detail } => write!(f, "{what} found it bad ({detail})"),
            Flaw::DamagedPlaces => f.write_str("packs that it relies on are damaged"),
            Flaw::WaitsFor(segment) => write!(f, "it waits for {segment}"),
            Flaw::NotAsked => f.write_str("it is new, and the archive was not asked for its WAL"),
        }
    }
}

/// The WAL of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubjectWal {
    /// The cluster's own number.
    pub system_identifier: u64,
    /// The timeline on which it starts.
    pub timeline: TimelineId,
    /// That one's ancestry, the parent first.
    pub ancestry: Vec<Branch>,
    /// Where it stops.
    pub stop_lsn: Lsn,
    /// It holds the WAL from start to stop itself, and whether the archive has that as well isn't known: so the archive may
    /// not lead on from it.
    pub copied: bool,
    /// It keeps no more than from start to stop already.
    pub window_only: bool,
}

/// A snapshot as retention sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// Its id.
    pub id: String,
    /// Its live COMMITs: two while one replaces the other, the newest last.
    pub commits: Vec<u64>,
    /// `physical` or `dump`: each kind is kept by itself.
    pub kind: String,
    /// Whose key signed it.
    pub key: KeyId,
    /// When it was begun, by its writer's clock.
    pub started_at: Timestamp,
    /// When it was finished.
    pub finished_at: Timestamp,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Why it isn't good; none: it is.
    pub flaws: Vec<Flaw>,
    /// A verify of all data or a rehearsal found it good.
    pub proven: bool,
    /// Why it is held, if it is.
    pub held: Option<String>,
    /// Its WAL; a dump has none.
    pub wal: Option<SubjectWal>,
}

impl Subject {
    /// Out of the log. What it waits for is the archive's to say.
    pub fn of(fold: &Fold, commit: &LiveCommit) -> Self {
        let summary = &commit.summary;
        let evidence = fold.evidence.get(&summary.id);
        let mut flaws = Vec::new();
        flaws.extend((summary.damaged_pages > 0).then_some(Flaw::DamagedPages(summary.damaged_pages)));
        flaws.extend(
            evidence
                .into_iter()
                .flatten()
                .filter(|(_, e)| !e.ok)
                .map(|(what, e)| Flaw::FoundBad { what: what.clone(), detail: e.detail.clone() }),
        );
        // What was brought back since is whole again; the log's list of it stays.
        let read_since = evidence.is_some_and(|found| evidence::read_after(found, fold.damaged_in));
        flaws.extend((!read_since && relies_on_damage(fold, &commit.set)).then_some(Flaw::DamagedPlaces));
        let proven = flaws.is_empty() && evidence.into_iter().flatten().any(|(what, e)| evidence::is_proof(what, e));
        let wal = summary.wal.as_ref().map(|wal| SubjectWal {
            system_identifier: summary.system_identifier,
            timeline: wal.timeline,
            ancestry: wal.ancestry.clone(),
            stop_lsn: wal.stop_lsn,
            copied: wal.mode == WalMode::Copy,
            window_only: commit.need.as_ref().is_none_or(|need| !need.window.is_empty()),
        });
        Subject {
            id: summary.id.clone(),
            commits: fold.commits_of(&summary.id).map(|(number, _)| number).collect(),
            kind: summary.kind.clone(),
            key: commit.key,
            started_at: summary.started_at,
            finished_at: summary.finished_at,
            labels: summary.labels.clone(),
            flaws,
            proven,
            held: fold.holds.get(&summary.id).map(|hold| hold.reason.clone()),
            wal,
        }
    }

    /// Can it be counted on?
    pub fn is_good(&self) -> bool {
        self.flaws.is_empty()
    }
}

fn relies_on_damage(fold: &Fold, set: &PackSet) -> bool {
    fold.damaged.iter().any(|(session, packs)| packs.keys().any(|pack| set.contains(session, pack)))
}
