//! Timelines: history files, the tree that they make, and the way through it (access/transam/timeline.c).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::units::{Class, Explain, Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId};

/// One line of a history file: a timeline's ancestor, and where it was left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryEntry {
    /// The ancestor.
    pub parent: TimelineId,
    /// The first position that is no longer the ancestor's.
    pub switch: Lsn,
    /// Why, in the server's words; what is not UTF-8 is replaced.
    pub reason: String,
}

/// A history file: all ancestors of one timeline, oldest first.
///
/// Positions need not ascend: a recovery along timeline 2 that ends before 2 began is written as if 2 had been left there,
/// before its own beginning (`writeTimeLineHistory`). Nothing of 2 is then on the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct History {
    /// Whose ancestors they are.
    pub timeline: TimelineId,
    /// From the oldest to the parent.
    pub entries: Vec<HistoryEntry>,
}

/// Why bytes are no history file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A line that is neither empty nor a comment nor an entry.
    #[error("line {line} of the history of timeline {timeline} is not \"parent, LSN, reason\": {text:?}")]
    Line {
        /// Whose history.
        timeline: TimelineId,
        /// Its number, from 1.
        line: usize,
        /// Its beginning.
        text: String,
    },
    /// Ancestors whose numbers don't increase up to the timeline's own.
    #[error("line {line} of the history of timeline {timeline} is out of order")]
    Order {
        /// Whose history.
        timeline: TimelineId,
        /// Its number, from 1.
        line: usize,
    },
}

impl Explain for HistoryError {
    fn class(&self) -> Class {
        Class::Corrupt
    }
}

impl History {
    /// Reads a history file. Comments and empty lines are passed over, as the server does.
    ///
    /// # Errors
    /// The first line that the server would refuse, or positions that go back.
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<History, HistoryError> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for (line, text) in (1..).zip(bytes.split(|b| *b == b'\n')) {
            let text = text.trim_ascii();
            if text.is_empty() || text.starts_with(b"#") {
                continue;
            }
            let entry = read_entry(text).ok_or_else(|| HistoryError::Line {
                timeline,
                line,
                text: String::from_utf8_lossy(text).chars().take(80).collect(),
            })?;
            let ordered = entries.last().is_none_or(|last| last.parent < entry.parent);
            if !ordered || entry.parent >= timeline || entry.parent.0 == 0 {
                return Err(HistoryError::Order { timeline, line });
            }
            entries.push(entry);
        }
        Ok(History { timeline, entries })
    }

    /// As the server of a major up to 18 writes it. The archive keeps the bytes that it was given instead.
    pub fn print(&self) -> String {
        let mut out = String::new();
        for entry in &self.entries {
            // Writing to a string can't fail.
            let _ = writeln!(out, "{}\t{}\t{}", entry.parent, entry.switch, entry.reason);
        }
        out
    }

    /// The timeline that this one was split from.
    pub fn parent(&self) -> Option<&HistoryEntry> {
        self.entries.last()
    }
}

/// `1⇥0/17000000⇥reason`, the parts apart by any blanks.
fn read_entry(text: &[u8]) -> Option<HistoryEntry> {
    let text = String::from_utf8_lossy(text);
    let (parent, rest) = text.split_once(|c: char| c.is_ascii_whitespace())?;
    let rest = rest.trim_start();
    let (switch, reason) = rest.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((rest, ""));
    if !parent.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(HistoryEntry { parent: TimelineId(parent.parse().ok()?), switch: switch.parse().ok()?, reason: reason.trim_start().to_owned() })
}

/// A timeline's share of a way through WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Branch {
    /// Whose WAL it is.
    pub timeline: TimelineId,
    /// The first position that is its own; 0/0 for the oldest.
    pub begin: Lsn,
    /// The first position that is the next branch's; `None` for the youngest.
    pub end: Option<Lsn>,
}

/// A run of consecutive segments of one timeline, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentRun {
    /// The timeline in the segments' names.
    pub timeline: TimelineId,
    /// The first.
    pub first: SegmentNo,
    /// The last.
    pub last: SegmentNo,
}

impl SegmentRun {
    /// The segments' names, in order.
    pub fn names(self, size: SegmentSize) -> impl Iterator<Item = SegmentName> {
        (self.first.0..=self.last.0).map(move |no| SegmentName::new(self.timeline, SegmentNo(no), size))
    }
}

/// Why there is no way from one position to another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The start's timeline is no ancestor of the end's.
    #[error("timeline {to} does not descend from timeline {from}")]
    NoDescendant {
        /// Where the way should start.
        from: TimelineId,
        /// Where it should end.
        to: TimelineId,
    },
    /// The end's timeline was split off before the start.
    #[error("timeline {to} left timeline {from} at {switch}, before {start}")]
    LeftBefore {
        /// Where the way should start.
        from: TimelineId,
        /// Where it should end.
        to: TimelineId,
        /// Where `from` was left on the way to `to`.
        switch: Lsn,
        /// The position at which the way should start.
        start: Lsn,
    },
    /// The end lies before the start.
    #[error("{end} lies before {start}")]
    Backwards {
        /// The start.
        start: Lsn,
        /// The end.
        end: Lsn,
    },
}

impl Explain for PathError {
    fn class(&self) -> Class {
        Class::Refused
    }
}

/// All timelines of a cluster of which the history is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TimelineTree {
    histories: BTreeMap<TimelineId, History>,
}

impl FromIterator<History> for TimelineTree {
    fn from_iter<I: IntoIterator<Item = History>>(histories: I) -> Self {
        TimelineTree { histories: histories.into_iter().map(|h| (h.timeline, h)).collect() }
    }
}

impl TimelineTree {
    /// The history of a timeline. Timeline 1 has none, nor has the first timeline of a cluster made by pg_upgrade or
    /// `pg_resetwal -l`; of any other timeline a missing history means that its ancestors are unknown.
    pub fn history(&self, timeline: TimelineId) -> Option<&History> {
        self.histories.get(&timeline)
    }

    /// The timelines that have a history, in the order of numbers.
    pub fn timelines(&self) -> impl Iterator<Item = TimelineId> {
        self.histories.keys().copied()
    }

    /// A timeline's branches, the oldest ancestor first, itself last. Without a history it is taken to have no
    /// ancestors, as the server does (`readTimeLineHistory`).
    pub fn ancestry(&self, timeline: TimelineId) -> Vec<Branch> {
        let entries = self.history(timeline).map_or(&[][..], |h| &h.entries);
        // A branch ends at the latest where a younger one was left.
        let mut ends: Vec<Lsn> = entries.iter().map(|entry| entry.switch).collect();
        let mut youngest = Lsn(u64::MAX);
        for end in ends.iter_mut().rev() {
            youngest = youngest.min(*end);
            *end = youngest;
        }
        let mut begin = Lsn(0);
        let mut branches = Vec::with_capacity(entries.len() + 1);
        for (entry, end) in entries.iter().zip(ends) {
            branches.push(Branch { timeline: entry.parent, begin, end: Some(end) });
            begin = end;
        }
        branches.push(Branch { timeline, begin, end: None });
        branches
    }

    /// Whose WAL is the byte at `lsn`, on the way to `timeline` (`tliOfPointInHistory`)?
    pub fn owner(&self, timeline: TimelineId, lsn: Lsn) -> TimelineId {
        let branches = self.ancestry(timeline);
        branches.iter().find(|b| b.end.is_none_or(|end| lsn < end)).map_or(timeline, |b| b.timeline)
    }

    /// Is all WAL of `timeline` up to `lsn`, not included, on the way to `of`? With a backup's stop LSN: can the
    /// backup be recovered along timeline `of`?
    pub fn is_ancestor_at(&self, timeline: TimelineId, lsn: Lsn, of: TimelineId) -> bool {
        self.ancestry(of).iter().any(|b| b.timeline == timeline && b.end.is_none_or(|end| lsn <= end))
    }

    /// The timeline that `recovery_target_timeline = 'latest'` takes for a backup of timeline `start`: the server
    /// counts up from it while the next number's history file exists (`findNewestTimeLine`). It may be no descendant,
    /// and the server then refuses to start: ask [`TimelineTree::is_ancestor_at`].
    pub fn latest_from(start: TimelineId, mut exists: impl FnMut(TimelineId) -> bool) -> TimelineId {
        let mut newest = start;
        while let Some(next) = newest.0.checked_add(1).map(TimelineId) {
            if !exists(next) {
                break;
            }
            newest = next;
        }
        newest
    }

    /// The segments from the byte at `from` to the byte before `to`, by the timeline whose copy the server reads: at a
    /// switch the child owns the segment of the switch, since its copy holds both parts. Where the child has no such
    /// copy (its archive may begin later) the server falls back to the parent's.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn path(&self, from: (TimelineId, Lsn), to: (TimelineId, Lsn), size: SegmentSize) -> Result<Vec<SegmentRun>, PathError> {
        let ((from, start), (to, end)) = (from, to);
        if end < start {
            return Err(PathError::Backwards { start, end });
        }
        let mut branches = self.ancestry(to);
        let at = branches.iter().position(|b| b.timeline == from).ok_or(PathError::NoDescendant { from, to })?;
        branches.drain(..at);
        if let Some(switch) = branches.first().and_then(|b| b.end).filter(|switch| *switch < start) {
            return Err(PathError::LeftBefore { from, to, switch, start });
        }
        let mut runs: Vec<SegmentRun> = Vec::new();
        let mut next = size.segment_of(start);
        // At least the segment of the start, whose header recovery reads even if no record is needed.
        let last = size.segment_before(end).max(next);
        for branch in &branches {
            // A branch ends before the segment in which it was left.
            let behind = branch.end.map_or(last.next(), |end| size.segment_of(end).min(last.next()));
            if next < behind {
                runs.push(SegmentRun { timeline: branch.timeline, first: next, last: SegmentNo(behind.0 - 1) });
                next = behind;
            }
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T: fn(u32) -> TimelineId = TimelineId;

    /// 1 —(0/17000000)— 2 —(0/1B000108)— 4, and 1 —(0/B000108)— 3.
    fn tree() -> TimelineTree {
        [
            History::parse(T(2), b"1\t0/17000000\tno recovery target specified\n").unwrap(),
            History::parse(T(3), b"# a comment\n\n1\t0/B000108\tat restore point \"rp_after2\"\n").unwrap(),
            History::parse(T(4), b"1\t0/17000000\tno recovery target specified\n2 \t 0/1B000108\tx\n").unwrap(),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn histories_of_real_servers_are_read() {
        let fifteen = include_bytes!("../../tests/fixtures/pg/15/00000002.history");
        let nineteen = include_bytes!("../../tests/fixtures/pg/19/00000002.history");
        let (a, b) = (History::parse(T(2), fifteen).unwrap(), History::parse(T(2), nineteen).unwrap());
        assert_eq!(a, b);
        assert_eq!(a.print().as_bytes(), fifteen);
        let parent = a.parent().unwrap();
        assert_eq!((parent.parent, parent.switch, parent.reason.as_str()), (T(1), Lsn(0x180_0000), "no recovery target specified"));
    }

    #[test]
    fn histories_that_the_server_would_refuse_are_refused() {
        for bad in ["x", "1", "1\tx\ty", "1\t0/1 2/3\n\n2\tz\t", "-1\t0/1\t", "99999999999\t0/1\t"] {
            assert!(matches!(History::parse(T(9), bad.as_bytes()), Err(HistoryError::Line { .. })), "{bad}");
        }
        for bad in ["9\t0/1\t", "0\t0/1\t", "2\t0/1\t\n1\t0/2\t", "1\t0/1\t\n1\t0/2\t"] {
            assert!(matches!(History::parse(T(9), bad.as_bytes()), Err(HistoryError::Order { .. })), "{bad}");
        }
        assert!(History::parse(T(2), b"").unwrap().parent().is_none());
    }

    #[test]
    fn ancestry_follows_the_switches() {
        let tree = tree();
        for (timeline, lsn, of, expected) in [
            (1, 0x1700_0000, 2, true),
            (1, 0x1700_0001, 2, false),
            (1, 0xB00_0108, 3, true),
            (1, 0xB00_0109, 3, false),
            (2, 0x1800_0000, 4, true),
            (2, 0x1C00_0000, 4, false),
            (1, 0x1600_0000, 4, true),
            (2, 0x1800_0000, 3, false),
            (4, 0x1800_0000, 2, false),
            (3, 0xFFFF_FFFF, 3, true),
            (1, 5, 1, true),
        ] {
            assert_eq!(tree.is_ancestor_at(T(timeline), Lsn(lsn), T(of)), expected, "{timeline} {lsn:x} {of}");
        }
        assert_eq!(tree.owner(T(4), Lsn(0x16FF_FFFF)), T(1));
        assert_eq!(tree.owner(T(4), Lsn(0x1700_0000)), T(2));
        assert_eq!(tree.owner(T(4), Lsn(0x1B00_0108)), T(4));
    }

    /// As 15 and 18 write it after a recovery along timeline 2 that ended before 2 began.
    #[test]
    fn a_timeline_that_was_left_before_it_began_is_not_on_the_way() {
        let two = History::parse(T(2), b"1\t0/700100\tat LSN\n").unwrap();
        let three = History::parse(T(3), b"1\t0/700100\tat LSN\n2\t0/400200\tat LSN\n").unwrap();
        let tree: TimelineTree = [two, three].into_iter().collect();
        let ways: Vec<_> = tree.ancestry(T(3)).iter().map(|b| (b.timeline.0, b.begin.0, b.end.map(|e| e.0))).collect();
        assert_eq!(ways, [(1, 0, Some(0x40_0200)), (2, 0x40_0200, Some(0x40_0200)), (3, 0x40_0200, None)]);
        assert!(tree.is_ancestor_at(T(1), Lsn(0x40_0200), T(3)) && !tree.is_ancestor_at(T(1), Lsn(0x40_0201), T(3)));
        assert!(!tree.is_ancestor_at(T(2), Lsn(0x70_0200), T(3)));
        let size = SegmentSize::new(1 << 20).unwrap();
        let runs = tree.path((T(1), Lsn(0x20_0028)), (T(3), Lsn(0x60_0000)), size).unwrap();
        assert_eq!(runs.iter().map(|r| (r.timeline.0, r.first.0, r.last.0)).collect::<Vec<_>>(), [(1, 2, 3), (3, 4, 5)]);
    }

    #[test]
    fn latest_counts_up_to_the_first_number_without_a_history() {
        let have = |t: TimelineId| [2, 3, 5].contains(&t.0);
        assert_eq!(TimelineTree::latest_from(T(1), have), T(3));
        assert_eq!(TimelineTree::latest_from(T(4), have), T(5));
        assert_eq!(TimelineTree::latest_from(T(7), have), T(7));
        assert_eq!(TimelineTree::latest_from(T(u32::MAX), |_| true), T(u32::MAX));
    }

    #[test]
    fn the_child_owns_the_segment_of_the_switch() {
        let (tree, size) = (tree(), SegmentSize::DEFAULT);
        let path = |from: (u32, u64), to: (u32, u64)| {
            let runs = tree.path((T(from.0), Lsn(from.1)), (T(to.0), Lsn(to.1)), size)?;
            Ok(runs.iter().map(|r| (r.timeline.0, r.first.0, r.last.0)).collect::<Vec<_>>())
        };
        assert_eq!(path((1, 0x300_0028), (1, 0x500_0000)), Ok(vec![(1, 3, 4)]));
        assert_eq!(path((1, 0x300_0028), (1, 0x500_0001)), Ok(vec![(1, 3, 5)]));
        assert_eq!(path((1, 0x1500_0028), (2, 0x1800_0100)), Ok(vec![(1, 0x15, 0x16), (2, 0x17, 0x18)]));
        // The switch lies within segment B: timeline 3's copy of it is read.
        assert_eq!(path((1, 0xA00_0028), (3, 0xC00_0100)), Ok(vec![(1, 0xA, 0xA), (3, 0xB, 0xC)]));
        assert_eq!(path((1, 0xB00_0028), (3, 0xB00_0200)), Ok(vec![(3, 0xB, 0xB)]));
        assert_eq!(path((1, 0x1600_0028), (4, 0x1C00_0100)), Ok(vec![(1, 0x16, 0x16), (2, 0x17, 0x1A), (4, 0x1B, 0x1C)]));
        // An end that lies on an ancestor.
        assert_eq!(path((1, 0x300_0028), (4, 0x500_0000)), Ok(vec![(1, 3, 4)]));
        assert_eq!(path((1, 0x500_0000), (1, 0x500_0000)), Ok(vec![(1, 5, 5)]));
        assert_eq!(path((2, 0x1800_0000), (3, 0x1900_0000)), Err(PathError::NoDescendant { from: T(2), to: T(3) }));
        assert!(matches!(path((1, 0xC00_0028), (3, 0xD00_0000)), Err(PathError::LeftBefore { .. })));
        assert!(matches!(path((1, 2), (1, 1)), Err(PathError::Backwards { .. })));
    }

    proptest! {
        #[test]
        fn a_path_has_no_gap_and_no_overlap(
            switches in proptest::collection::vec(0u64..1 << 30, 0..5), start in 0u64..1 << 30, length in 0u64..1 << 28, shift in 20u32..26,
        ) {
            let mut switches = switches;
            switches.sort_unstable();
            let size = SegmentSize::new(1 << shift).unwrap();
            let entries = (1..).zip(&switches).map(|(t, s)| HistoryEntry { parent: T(t), switch: Lsn(*s), reason: String::new() }).collect();
            let to = T(switches.len() as u32 + 1);
            let tree: TimelineTree = [History { timeline: to, entries }].into_iter().collect();
            let from = tree.owner(to, Lsn(start));
            let runs = tree.path((from, Lsn(start)), (to, Lsn(start + length)), size).unwrap();
            let names: Vec<SegmentName> = runs.iter().flat_map(|r| r.names(size)).collect();
            prop_assert_eq!(names[0].no(size), Some(size.segment_of(Lsn(start))));
            for pair in names.windows(2) {
                prop_assert_eq!(pair[0].no(size).unwrap().next(), pair[1].no(size).unwrap());
                prop_assert!(pair[0].timeline <= pair[1].timeline);
            }
            let last = size.segment_before(Lsn(start + length)).max(size.segment_of(Lsn(start)));
            prop_assert_eq!(names.last().unwrap().no(size), Some(last));
        }

        #[test]
        fn histories_survive_printing(steps in proptest::collection::vec((1u32..1000, 0u64..1 << 40, "[a-z\"][ -~]{0,20}[a-z\"]"), 0..6)) {
            let (mut parent, mut switch) = (0, 0);
            let entries: Vec<HistoryEntry> = steps.into_iter().map(|(t, l, reason)| {
                parent += t;
                switch += l;
                HistoryEntry { parent: T(parent), switch: Lsn(switch), reason }
            }).collect();
            let history = History { timeline: T(parent + 1), entries };
            prop_assert_eq!(History::parse(history.timeline, history.print().as_bytes()), Ok(history));
        }
    }
}
