//! What a push records of a file: the facts that gaps, windows, retention and targets are computed from, so that none of
//! them has to read WAL. They lie in the object's metadata, under the table key and the pusher's signature.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use serde::{Deserialize, Serialize};

use crate::pg::timeline::{History, HistoryEntry};
use crate::pg::wal::{SegmentFacts, SegmentHeader, WalFileName};
use crate::units::{Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId, Timestamp};

/// A whole number of 64 bits as decimal text: it exceeds what a JSON number may hold.
mod decimal {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The version that is written.
const VERSION: u32 = 1;
/// Restore points kept of one segment; those behind are cut off, and it is said.
const MAX_RESTORE_POINTS: usize = 1000;
/// Ancestors kept of one history; of more, the newest.
const MAX_HISTORY: usize = 2000;
/// Characters kept of a reason in a history.
const MAX_REASON: usize = 120;

/// What is recorded of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileFacts {
    /// 1. A later version adds fields and changes none.
    pub version: u32,
    /// The cluster that wrote the file, as decimal text.
    #[serde(with = "decimal")]
    pub system_identifier: u64,
    /// When it was pushed, by the pusher's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed_at: Option<Timestamp>,
    /// What it is.
    #[serde(flatten)]
    pub kind: FileKind,
}

/// The kinds of files, and what is known of each.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum FileKind {
    /// A whole segment.
    Segment(SegmentRecord),
    /// The unfinished last segment of a timeline.
    Partial(SegmentRecord),
    /// The ancestry of a timeline.
    History(HistoryFacts),
    /// A copy of a backup's label.
    Backup(BackupFacts),
}

/// Of a segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// The timeline in its name.
    pub timeline: TimelineId,
    /// Its number.
    pub no: SegmentNo,
    /// Its size.
    pub size: SegmentSize,
    /// Its first byte.
    pub start: Lsn,
    /// The major version that wrote it.
    pub major: u16,
    /// The timeline in its header: lower than the name's in a timeline's first segment.
    pub header_timeline: TimelineId,
    /// The first record that starts in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_record: Option<Lsn>,
    /// The last record that starts and ends in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_record: Option<Lsn>,
    /// The record that its end cuts off: whole once the next segment is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_record: Option<Lsn>,
    /// Does it begin with the rest of a record?
    #[serde(default)]
    pub continued_in: bool,
    /// Where that rest ends, if it ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuation_ends: Option<Lsn>,
    /// Was it left early, by a switch of segments?
    #[serde(default)]
    pub switch: bool,
    /// The transactions that end in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transactions: Option<Transactions>,
    /// Can the record that its end cuts off end a transaction? Then its time is in no segment's facts.
    #[serde(default)]
    pub open_tail_may_hold_commit: bool,
    /// Its restore points, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restore_points: Vec<RestorePointFact>,
    /// There are more restore points than are listed.
    #[serde(default)]
    pub restore_points_cut: bool,
    /// Up to here its WAL is valid: its end, unless `fault` says why not.
    pub valid_until: Lsn,
    /// Why replay will stop at `valid_until`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// Ends of transactions, commits and aborts, in a segment; times by the server's clock, µs since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transactions {
    /// The earliest.
    pub min_time: Timestamp,
    /// The latest.
    pub max_time: Timestamp,
    /// The first in the order of LSNs.
    pub first_time: Timestamp,
    /// The last in the order of LSNs.
    pub last_time: Timestamp,
    /// The oldest transaction id.
    pub min_xid: u32,
    /// The youngest.
    pub max_xid: u32,
    /// Where the last of them starts.
    pub last_lsn: Lsn,
}

/// A restore point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RestorePointFact {
    /// Its name.
    pub name: String,
    /// Where its record starts.
    pub lsn: Lsn,
    /// Where its record ends.
    pub end_lsn: Lsn,
    /// When it was made.
    pub time: Timestamp,
}

/// Of a history file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HistoryFacts {
    /// Whose ancestry it is.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first.
    pub lines: Vec<HistoryLine>,
}

/// A line of a history file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HistoryLine {
    /// The ancestor.
    pub parent: TimelineId,
    /// Where it was left.
    pub switch: Lsn,
    /// Why; the beginning of it.
    pub reason: String,
}

/// Of a backup-label file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupFacts {
    /// The segment in which the backup starts.
    pub segment: SegmentName,
    /// The offset of its start in that segment.
    pub offset: u32,
}

impl FileFacts {
    /// The facts about a file of this cluster.
    pub fn new(system_identifier: u64, kind: FileKind) -> Self {
        FileFacts { version: VERSION, system_identifier, pushed_at: None, kind }
    }

    /// For the metadata of an object.
    pub fn to_value(&self) -> serde_json::Value {
        // A struct of numbers and texts can't fail.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Reads the facts that came with the file `name` of `len` plain bytes, of this cluster, and checks that they are about
    /// it: a key that may write could have signed anything.
    ///
    /// # Errors
    /// What doesn't fit.
    pub fn read(value: &serde_json::Value, system_identifier: u64, name: &WalFileName, len: u64) -> Result<Self, &'static str> {
        let facts = FileFacts::deserialize(value).map_err(|_| "the facts about it are malformed")?;
        if facts.system_identifier != system_identifier {
            return Err("the facts about it are those of another cluster's file");
        }
        let fits = match (&facts.kind, name) {
            (FileKind::Segment(record), WalFileName::Segment(name)) => record.is_of(*name) && len == u64::from(record.size.bytes()),
            (FileKind::Partial(record), WalFileName::Partial(name)) => record.is_of(*name),
            (FileKind::History(history), WalFileName::History(timeline)) => history.timeline == *timeline && history.is_ordered(),
            (FileKind::Backup(backup), WalFileName::Backup { segment, offset }) => backup.segment == *segment && backup.offset == *offset,
            _ => false,
        };
        if fits { Ok(facts) } else { Err("the facts about it are those of another file") }
    }

    /// Of a segment, if it is one.
    pub fn segment(&self) -> Option<&SegmentRecord> {
        match &self.kind {
            FileKind::Segment(record) => Some(record),
            _ => None,
        }
    }

    /// Of a history file, if it is one.
    pub fn history(&self) -> Option<&HistoryFacts> {
        match &self.kind {
            FileKind::History(history) => Some(history),
            _ => None,
        }
    }
}

impl SegmentRecord {
    /// From a checked header and a scan.
    pub fn new(name: SegmentName, header: &SegmentHeader, scan: SegmentFacts) -> Self {
        let size = header.segment_size;
        let restore_points_cut = scan.restore_points.len() > MAX_RESTORE_POINTS;
        let point = |p: crate::pg::wal::RestorePoint| RestorePointFact { name: p.name, lsn: p.lsn, end_lsn: p.end_lsn, time: p.time };
        SegmentRecord {
            timeline: name.timeline,
            no: size.segment_of(header.start()),
            size,
            start: header.start(),
            major: header.major,
            header_timeline: header.timeline(),
            first_record: scan.first_record,
            last_record: scan.last_record,
            tail_record: scan.tail_record,
            continued_in: scan.continued_in,
            continuation_ends: scan.continuation_ends,
            switch: scan.switch,
            transactions: scan.commits.map(|t| Transactions {
                min_time: t.min_time,
                max_time: t.max_time,
                first_time: t.first_time,
                last_time: t.last_time,
                min_xid: t.min_xid,
                max_xid: t.max_xid,
                last_lsn: t.last_lsn,
            }),
            open_tail_may_hold_commit: scan.open_tail_may_hold_commit,
            restore_points: scan.restore_points.into_iter().take(MAX_RESTORE_POINTS).map(point).collect(),
            restore_points_cut,
            valid_until: scan.valid_until,
            fault: scan.stop.map(|stop| stop.to_string()),
        }
    }

    /// Its name.
    pub fn name(&self) -> SegmentName {
        SegmentName::new(self.timeline, self.no, self.size)
    }

    /// Did it begin as a copy of another timeline's segment? So does the first of a timeline that left another one within
    /// a segment; that timeline has a history.
    pub fn is_of_child(&self) -> bool {
        self.header_timeline < self.timeline
    }

    /// Behind its last byte.
    pub fn end(&self) -> Lsn {
        self.size.end_of(self.no)
    }

    /// Are these the facts of the segment of that name, and possible?
    fn is_of(&self, name: SegmentName) -> bool {
        name.timeline == self.timeline
            && name.no(self.size) == Some(self.no)
            && self.size.start_of(self.no) == self.start
            && (self.start..=self.end()).contains(&self.valid_until)
            && self.header_timeline <= self.timeline
    }
}

impl HistoryFacts {
    /// Of a parsed file.
    pub fn new(history: &History) -> Self {
        let skip = history.entries.len().saturating_sub(MAX_HISTORY);
        let line = |e: &HistoryEntry| HistoryLine {
            parent: e.parent,
            switch: e.switch,
            reason: e.reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect(),
        };
        HistoryFacts { timeline: history.timeline, lines: history.entries.iter().skip(skip).map(line).collect() }
    }

    /// As the timeline tree takes it.
    pub fn to_history(&self) -> History {
        let entry = |l: &HistoryLine| HistoryEntry { parent: l.parent, switch: l.switch, reason: l.reason.clone() };
        History { timeline: self.timeline, entries: self.lines.iter().map(entry).collect() }
    }

    /// Are there more ancestors than are kept of a history?
    pub fn is_cut(&self) -> bool {
        self.lines.len() >= MAX_HISTORY
    }

    /// The timelines of which there was a history when this one was made: those whose ancestors it names.
    pub fn shows_histories_of(&self) -> impl Iterator<Item = TimelineId> {
        self.lines.iter().skip(1).map(|line| line.parent)
    }

    /// The same laws as those of the file.
    fn is_ordered(&self) -> bool {
        let rising = self.lines.is_sorted_by(|a, b| a.parent < b.parent);
        rising && self.lines.len() <= MAX_HISTORY && self.lines.iter().all(|l| l.parent.0 > 0 && l.parent < self.timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing;

    fn name(text: &str) -> WalFileName {
        text.parse().unwrap()
    }

    #[test]
    fn facts_survive_and_are_about_one_file() {
        let bytes = testing::segment(1, 3, 1);
        let WalFileName::Segment(segment) = name("000000010000000000000003") else { panic!() };
        let header = crate::pg::wal::check_segment(segment, &bytes, bytes.len() as u64, None).unwrap();
        let record = SegmentRecord::new(segment, &header, SegmentFacts::of(&header, &bytes));
        assert_eq!((record.no, record.start, record.name()), (SegmentNo(3), Lsn(3 << 20), segment));
        let history = History::parse(TimelineId(3), b"1\t0/300000\tone\n2\t0/400000\ttwo\n").unwrap();
        let all = [
            ("000000010000000000000003", FileKind::Segment(record.clone()), bytes.len() as u64),
            ("000000010000000000000003.partial", FileKind::Partial(record), 5),
            ("00000003.history", FileKind::History(HistoryFacts::new(&history)), 30),
            ("000000010000000000000003.00000028.backup", FileKind::Backup(BackupFacts { segment, offset: 0x28 }), 300),
        ];
        for (own, kind, len) in &all {
            let facts = FileFacts::new(u64::MAX, kind.clone());
            let mut value = facts.to_value();
            assert_eq!(FileFacts::read(&value, u64::MAX, &name(own), *len).unwrap(), facts, "{own}");
            value.as_object_mut().unwrap().insert("later".into(), 1.into());
            assert_eq!(FileFacts::read(&value, u64::MAX, &name(own), *len).unwrap(), facts, "{own}");
            for (other, _, _) in all.iter().filter(|(other, _, _)| other != own) {
                assert!(FileFacts::read(&value, u64::MAX, &name(other), *len).is_err(), "{own} {other}");
            }
        }
        let facts = FileFacts::new(7, all[0].1.clone()).to_value();
        assert!(FileFacts::read(&facts, 7, &name(all[0].0), all[0].2).is_ok());
        assert!(FileFacts::read(&facts, 8, &name(all[0].0), all[0].2).is_err());
        assert!(FileFacts::read(&facts, 7, &name("000000010000000000000004"), 1 << 20).is_err());
        assert!(FileFacts::read(&facts, 7, &name("000000020000000000000003"), 1 << 20).is_err());
        assert!(FileFacts::read(&facts, 7, &name("000000010000000000000003"), 2 << 20).is_err());
        assert!(FileFacts::read(&serde_json::Value::Null, 7, &name("00000003.history"), 1).is_err());
        let lines = HistoryFacts::new(&history);
        assert_eq!(lines.to_history(), history);
        let backwards = HistoryFacts { lines: lines.lines.into_iter().rev().collect(), ..HistoryFacts::new(&history) };
        let facts = FileFacts::new(7, FileKind::History(backwards)).to_value();
        assert!(FileFacts::read(&facts, 7, &name("00000003.history"), 1).is_err());
    }
}
