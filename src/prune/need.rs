//! Which WAL of a cluster may go: what R14 allows, less what this side keeps besides, so that no later backup is refused.
//!
//! R14 allows whatever no live COMMIT and no open session needs. Kept all the same is
//!
//! - all WAL of a cluster that has no snapshot under this system identifier: its first backup may be on its way, or have
//!   failed, and nobody has said that this WAL is of no use. Only when the cluster goes on under another identifier
//!   (`pg_upgrade`, `initdb`: `backup --new-history`) and has a snapshot there, WAL under the old one that no snapshot needs
//!   any more goes;
//! - from the newest snapshot's start on everything, even if only its window is to be kept: the next backup starts behind it,
//!   and its BEGIN would be void if WAL behind its floor had ever expired (R16);
//! - the highest timeline, as long as no snapshot leads to it, for the same reason;
//! - a timeline above 1 without its history file: its ancestry is not known (R14).

use std::collections::{BTreeMap, BTreeSet};

use crate::repo::log::{Branch, ClusterId, Fold, Need};
use crate::units::{SegmentNo, SegmentSize, SessionId, TimelineId};

/// Why WAL stays that nothing needs by R14.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// The cluster has no snapshot under this system identifier.
    NoSnapshot,
    /// The timeline's history file is missing, or can't be read.
    NoHistory,
    /// The timeline has more ancestors than are recorded of a history.
    LongHistory,
    /// This host's key may not let WAL of this cluster expire.
    NoRight,
    /// It is the newest timeline, and no snapshot leads to it yet.
    NotReached,
}

/// The ancestries, the parent first, of timelines whose history file counts; `None` in place of one that is cut short.
pub type Histories = BTreeMap<TimelineId, Option<Vec<Branch>>>;

/// What is needed of one cluster's WAL.
#[derive(Clone, Debug)]
pub struct Lines {
    cluster: ClusterId,
    needs: Vec<Need>,
    /// The cluster goes on under another system identifier.
    superseded: bool,
    /// Sizes of segments that its snapshots name.
    pub sizes: BTreeSet<SegmentSize>,
    /// That of the newest one.
    pub size: Option<SegmentSize>,
}

/// One timeline, and how it was come to.
#[derive(Clone, Debug)]
pub struct Way<'a> {
    lines: &'a Lines,
    timeline: TimelineId,
    /// The parent first.
    pub ancestry: Vec<Branch>,
}

impl Lines {
    /// By the fold, in which the sessions `ended` are to be taken for ended.
    ///
    /// # Errors
    /// Why all of it stays.
    pub fn of(fold: &Fold, cluster: &ClusterId, ended: &BTreeSet<SessionId>) -> Result<Lines, Kept> {
        let own = |need: &&Need| need.cluster == *cluster;
        let mut needs: Vec<Need> = fold.commits.values().filter_map(|c| c.need.as_ref()).filter(own).cloned().collect();
        // By the snapshot's place in the log: an old one that was stored anew is no newer for it.
        let whole = fold.commits.values().filter(|c| c.summary.cluster_id() == *cluster && c.need.is_some());
        let newest = whole.max_by_key(|c| c.first);
        let superseded = newest.is_none() && is_superseded(fold, cluster);
        match newest.and_then(|c| c.need.clone()) {
            Some(need) => needs.push(Need { window: Vec::new(), ..need }),
            None if superseded => {}
            None => return Err(Kept::NoSnapshot),
        }
        let open = fold.sessions.iter().filter(|(id, s)| s.open && !ended.contains(id));
        needs.extend(open.filter_map(|(_, s)| s.need.as_ref()).filter(own).cloned());
        let wal = fold.commits.values().filter(|c| c.summary.cluster_id() == *cluster).filter_map(|c| c.summary.wal.as_ref());
        let size = newest.and_then(|c| c.summary.wal.as_ref()).map(|wal| wal.segment_size);
        Ok(Lines { cluster: cluster.clone(), needs, superseded, sizes: wal.map(|wal| wal.segment_size).collect(), size })
    }

    /// One timeline of it. `histories` are the ancestries of timelines whose history file counts (`None`: it is cut short);
    /// `highest` is the highest timeline of which there is WAL.
    ///
    /// # Errors
    /// Why all of this timeline stays.
    pub fn way(&self, timeline: TimelineId, histories: &Histories, highest: TimelineId) -> Result<Way<'_>, Kept> {
        let ancestry = match histories.get(&timeline) {
            Some(Some(ancestry)) => ancestry.clone(),
            Some(None) => return Err(Kept::LongHistory),
            None if timeline == TimelineId(1) => Vec::new(),
            None => return Err(Kept::NoHistory),
        };
        let way = Way { lines: self, timeline, ancestry };
        // The end of a timeline, wherever it may be.
        let end = SegmentNo(u64::MAX);
        let reached =
            |need: &Need| need.window.is_empty() && need.covers(&self.cluster, timeline, end, SegmentSize::DEFAULT, &way.ancestry);
        if timeline == highest && !self.superseded && !self.needs.iter().any(reached) {
            return Err(Kept::NotReached);
        }
        Ok(way)
    }
}

/// Does the cluster go on under another system identifier, with a snapshot there?
fn is_superseded(fold: &Fold, cluster: &ClusterId) -> bool {
    let Some(newest) = fold.clusters.get(&cluster.name).map(|begin| begin.system_identifier) else { return false };
    let later = ClusterId { name: cluster.name.clone(), system_identifier: newest };
    newest != cluster.system_identifier && fold.commits.values().any(|c| c.summary.cluster_id() == later)
}

impl Way<'_> {
    /// Is the segment of this number, counted in this size, needed by anything?
    pub fn needs(&self, no: SegmentNo, size: SegmentSize) -> bool {
        self.lines.needs.iter().any(|need| need.covers(&self.lines.cluster, self.timeline, no, size, &self.ancestry))
    }
}
