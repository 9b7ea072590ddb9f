//! Snapshots for tests.

use std::collections::BTreeMap;

use crate::crypt::sign::SigningKey;
use crate::repo::log::{Fold, Key, LiveCommit, PackSet, Place, Root, SnapshotWal, Summary, WalMode, WalRange};
use crate::units::{ChunkId, Digest16, Lsn, PackId, SegmentSize, SessionId, TimelineId, Timestamp};

/// A summary without WAL.
pub fn snapshot(id: &str, cluster: &str) -> Summary {
    Summary {
        id: id.into(),
        kind: "physical".into(),
        cluster: cluster.into(),
        system_identifier: 7_301_234_567_890_123_456,
        started_at: Timestamp(1_000_000),
        finished_at: Timestamp(61_000_000),
        wal: None,
        pg_version: "18.1".into(),
        cluster_bytes: 1_100_000_000,
        read_bytes: 2,
        changed_bytes: 3,
        new_bytes: 4,
        files: 5,
        damaged_pages: 0,
        parent: None,
        labels: BTreeMap::new(),
    }
}

/// WAL of (timeline, first, last) ranges, in segments of 16 MiB.
pub fn wal(ranges: &[(u32, u64, u64)], mode: WalMode) -> SnapshotWal {
    let range =
        |(timeline, first, last): &(u32, u64, u64)| WalRange { timeline: TimelineId(*timeline), first: Lsn(*first), last: Lsn(*last) };
    let ranges: Vec<WalRange> = ranges.iter().map(range).collect();
    let (first, last) = (ranges[0], ranges[ranges.len() - 1]);
    SnapshotWal {
        timeline: first.timeline,
        start_lsn: first.first,
        stop_lsn: last.last,
        segment_size: SegmentSize::DEFAULT,
        ranges,
        ancestry: Vec::new(),
        mode,
    }
}

/// A fold with these live COMMITs.
pub fn fold_of(commits: impl IntoIterator<Item = (u64, Summary)>) -> Fold {
    let owner = SigningKey::from_seed(&[1; 32]);
    let mut fold = Fold::new(Key::owner(owner.public().clone()));
    for (number, summary) in commits {
        let place = Place { pack: PackId([0; 16]), blob: 0, position: 0 };
        let root = Root { chunk: ChunkId([0; 32]), place, digest: Digest16([0; 16]) };
        let (key, session) = (owner.id(), SessionId([0; 16]));
        let (set, need, replaces) = (PackSet::default(), None, None);
        fold.commits.insert(number, LiveCommit { key, session, summary, root, set, need, replaces, first: number, unread: Vec::new() });
    }
    fold
}
