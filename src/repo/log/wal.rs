//! What the log knows of WAL: positions, ancestries, and which segments something needs (rules R13, R14, R16).
//!
//! Positions are LSNs; whether one is needed is decided by segments, of the size that the judged entry names: a segment
//! is one object, and is needed as a whole.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units::{Lsn, SegmentNo, SegmentSize, TimelineId};

/// Whole numbers of 64 bits as decimal text: they exceed what a JSON number may hold.
pub mod decimal {
    use serde::{Deserialize, Deserializer, Serializer};

    /// As text.
    pub fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    /// From text; other spellings of the number are found when it is encoded again.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// [`decimal`] for what may be absent.
pub mod decimal_option {
    use serde::{Deserializer, Serializer};

    /// As text.
    pub fn serialize<S: Serializer>(value: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => s.collect_str(value),
            None => s.serialize_none(),
        }
    }

    /// From text.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        super::decimal::deserialize(d).map(Some)
    }
}

/// A cluster: its name and its system identifier. Timelines are numbered within it.
///
/// As text `shop/7301234567890123456`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId {
    /// The name that the user gave it.
    pub name: String,
    /// The server's own number (`pg_control_system()`).
    pub system_identifier: u64,
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.system_identifier)
    }
}

impl FromStr for ClusterId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, number) = text.split_once('/').ok_or("a cluster is written name/system identifier")?;
        let system_identifier = number.parse().map_err(|_| "a system identifier is a number")?;
        Ok(ClusterId { name: name.to_owned(), system_identifier })
    }
}

impl Serialize for ClusterId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClusterId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A position on a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalPosition {
    /// The timeline.
    pub timeline: TimelineId,
    /// The position.
    pub lsn: Lsn,
}

/// A range of WAL on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first byte.
    pub first: Lsn,
    /// Behind the last byte.
    pub last: Lsn,
}

/// One step of an ancestry: the timeline that was left, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// The ancestor.
    pub timeline: TimelineId,
    /// Where it was left (the switch point in the history file).
    pub lsn: Lsn,
}

/// How the WAL of a snapshot is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalMode {
    /// In the archive.
    Archive,
    /// In the snapshot itself.
    Copy,
}

/// A snapshot's WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotWal {
    /// The timeline on which it starts.
    pub timeline: TimelineId,
    /// The redo point from which it is recovered.
    pub start_lsn: Lsn,
    /// Where it is consistent.
    pub stop_lsn: Lsn,
    /// The size of the cluster's segments in bytes.
    pub segment_size: SegmentSize,
    /// From start to stop: more than one range where a standby followed a switch.
    pub ranges: Vec<WalRange>,
    /// The ancestry of the start's timeline, the parent first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestry: Vec<Branch>,
    /// Where this WAL is.
    pub mode: WalMode,
}

impl SnapshotWal {
    /// The start.
    pub fn start(&self) -> WalPosition {
        WalPosition { timeline: self.timeline, lsn: self.start_lsn }
    }

    /// What the types can't exclude.
    pub fn check(&self) -> Result<(), &'static str> {
        let Some((first, last)) = self.ranges.first().zip(self.ranges.last()) else { return Err("a snapshot without WAL ranges") };
        let whole = first.timeline == self.timeline && first.first == self.start_lsn && last.last == self.stop_lsn;
        if !whole || self.ranges.iter().any(|r| r.first >= r.last) {
            return Err("a snapshot's WAL ranges don't lead from its start to its stop");
        }
        let no_timeline = self.ranges.iter().map(|r| r.timeline).chain(self.ancestry.iter().map(|b| b.timeline)).any(|t| t.0 == 0);
        if no_timeline { Err("timeline 0") } else { Ok(()) }
    }
}

/// R13: the WAL that a COMMIT or an open session needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Need {
    /// Of this cluster.
    pub cluster: ClusterId,
    /// From here on, descendants that branch off behind it included.
    pub start: WalPosition,
    /// If not empty: these ranges and nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub window: Vec<WalRange>,
}

impl Need {
    /// Is segment `no`, of that size, on that timeline with that ancestry needed?
    pub fn covers(&self, cluster: &ClusterId, timeline: TimelineId, no: SegmentNo, size: SegmentSize, ancestry: &[Branch]) -> bool {
        if self.cluster != *cluster {
            return false;
        }
        if !self.window.is_empty() {
            let touches = |r: &WalRange| size.segment_of(r.first) <= no && no <= size.segment_before(r.last);
            return self.window.iter().any(|r| r.timeline == timeline && touches(r));
        }
        let start = size.segment_of(self.start.lsn);
        if self.start.timeline == timeline {
            return start <= no;
        }
        ancestry.iter().any(|b| b.timeline == self.start.timeline && start <= size.segment_of(b.lsn))
    }
}

/// R16: what was expired on a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expired {
    /// The first byte of the highest expired segment.
    pub highest: Lsn,
    /// The size of segments in the last EXPIRE-WAL.
    pub segment_size: SegmentSize,
    /// The timeline's ancestry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestry: Vec<Branch>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_go_by_segments() {
        let cluster = ClusterId { name: "shop".into(), system_identifier: u64::MAX };
        assert_eq!(cluster.to_string().parse(), Ok(cluster.clone()));
        let size = SegmentSize::new(1 << 20).unwrap();
        let at = |segment: u64, byte: u64| Lsn(segment << 20 | byte);
        let t = TimelineId;
        let mut need = Need { cluster: cluster.clone(), start: WalPosition { timeline: t(2), lsn: at(5, 40) }, window: vec![] };
        let covers =
            |need: &Need, timeline, segment, ancestry: &[Branch]| need.covers(&cluster, t(timeline), SegmentNo(segment), size, ancestry);
        let left = |segment| [Branch { timeline: t(2), lsn: at(segment, 8) }, Branch { timeline: t(1), lsn: at(9, 0) }];
        assert!(covers(&need, 2, 5, &[]) && covers(&need, 2, 900, &[]) && !covers(&need, 2, 4, &[]));
        assert!(covers(&need, 3, 1, &left(5)) && !covers(&need, 3, 9, &left(4)) && !covers(&need, 1, 9, &[]));
        // The stop lies on a boundary: the segment behind it isn't needed.
        need.window = vec![WalRange { timeline: t(2), first: at(5, 40), last: at(7, 0) }];
        assert!(covers(&need, 2, 5, &[]) && covers(&need, 2, 6, &[]) && !covers(&need, 2, 7, &[]) && !covers(&need, 3, 6, &left(6)));
        let other = ClusterId { name: "shop".into(), system_identifier: 1 };
        assert!(!need.covers(&other, t(2), SegmentNo(5), size, &[]));
    }
}
