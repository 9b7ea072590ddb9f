//! Positions in PostgreSQL's write-ahead log and the names of its segments.

use std::fmt;
use std::str::FromStr;

/// A text that should have been an LSN, a timeline or a segment's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct ParseWalError {
    text: String,
    what: &'static str,
}

fn bad(text: &str, what: &'static str) -> ParseWalError {
    ParseWalError { text: text.chars().take(80).collect(), what }
}

/// A position in WAL, in bytes from its beginning (`XLogRecPtr` in access/xlogdefs.h).
///
/// Printed as PostgreSQL prints it up to 18, `0/3000028`; both halves are read as hex of any width up to eight digits,
/// since 19 pads the second (`0/00A00028`). Never compare the text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position `bytes` behind this one, or `None` past the end of the number space.
    pub fn checked_add(self, bytes: u64) -> Option<Lsn> {
        self.0.checked_add(bytes).map(Lsn)
    }

    /// The distance in bytes from `earlier` to this position; 0 if `earlier` is later.
    pub fn since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:X}/{:X}", self.0 >> 32, self.0 as u32))
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Lsn {
    type Err = ParseWalError;

    fn from_str(text: &str) -> Result<Self, ParseWalError> {
        let half = |t: &str| {
            let fine = (1..=8).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_hexdigit());
            fine.then(|| u64::from_str_radix(t, 16).ok()).flatten()
        };
        let (high, low) = text.split_once('/').ok_or_else(|| bad(text, "an LSN (such as 0/3000028)"))?;
        match (half(high), half(low)) {
            (Some(high), Some(low)) => Ok(Lsn(high << 32 | low)),
            _ => Err(bad(text, "an LSN (such as 0/3000028)")),
        }
    }
}

/// A timeline's number, from 1 (`TimeLineID`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// The name of this timeline's history file, `0000000N.history`.
    pub fn history_name(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timeline {}", self.0)
    }
}

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB (`IsValidWalSegSize`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(transparent)]
pub struct SegmentSize(u32);

impl<'de> serde::Deserialize<'de> for SegmentSize {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes = <u32 as serde::Deserialize>::deserialize(d)?;
        SegmentSize::new(bytes).ok_or_else(|| serde::de::Error::custom(format!("{bytes} is not the size of a WAL segment")))
    }
}

impl SegmentSize {
    /// 16 MiB, the size that initdb takes by default.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// `None` unless PostgreSQL can have segments of that size.
    pub fn new(bytes: u32) -> Option<Self> {
        (bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)).then_some(SegmentSize(bytes))
    }

    /// In bytes.
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// How many segments share the first 16 digits of their names (`XLogSegmentsPerXLogId`).
    fn per_log(self) -> u64 {
        (1u64 << 32) / u64::from(self.0)
    }

    /// The segment that holds the byte at `lsn`.
    pub fn segment_of(self, lsn: Lsn) -> SegmentNo {
        SegmentNo(lsn.0 / u64::from(self.0))
    }

    /// The segment that holds the byte before `lsn`: the last one needed to reach `lsn` (a boundary needs only the
    /// segment before it).
    pub fn segment_before(self, lsn: Lsn) -> SegmentNo {
        SegmentNo(lsn.0.saturating_sub(1) / u64::from(self.0))
    }

    /// The position of a segment's first byte.
    pub fn start_of(self, segment: SegmentNo) -> Lsn {
        Lsn(segment.0.saturating_mul(u64::from(self.0)))
    }

    /// The position behind a segment's last byte.
    pub fn end_of(self, segment: SegmentNo) -> Lsn {
        self.start_of(segment.next())
    }
}

/// The number of a segment, counted from the beginning of WAL in segments of its size (`XLogSegNo`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct SegmentNo(pub u64);

impl SegmentNo {
    /// The one behind it.
    pub fn next(self) -> SegmentNo {
        SegmentNo(self.0.saturating_add(1))
    }
}

/// The name of a segment file, 24 hex digits: timeline, and two halves whose meaning depends on the segment size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The timeline in the name; the header's may be lower in a timeline's first segment.
    pub timeline: TimelineId,
    /// Digits 9 to 16.
    pub log: u32,
    /// Digits 17 to 24.
    pub seg: u32,
}

impl SegmentName {
    /// The name of segment `no` on `timeline` (`XLogFileName`).
    pub fn new(timeline: TimelineId, no: SegmentNo, size: SegmentSize) -> Self {
        let per_log = size.per_log();
        SegmentName { timeline, log: (no.0 / per_log) as u32, seg: (no.0 % per_log) as u32 }
    }

    /// The segment's number, or `None` if no segment of that size has this name.
    pub fn no(self, size: SegmentSize) -> Option<SegmentNo> {
        let per_log = size.per_log();
        (u64::from(self.seg) < per_log).then(|| SegmentNo(u64::from(self.log) * per_log + u64::from(self.seg)))
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.seg))
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for SegmentName {
    type Err = ParseWalError;

    fn from_str(text: &str) -> Result<Self, ParseWalError> {
        let fine = text.len() == 24 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        let part = |range: std::ops::Range<usize>| text.get(range).and_then(|t| u32::from_str_radix(t, 16).ok()).filter(|_| fine);
        match (part(0..8), part(8..16), part(16..24)) {
            (Some(timeline), Some(log), Some(seg)) if timeline > 0 => Ok(SegmentName { timeline: TimelineId(timeline), log, seg }),
            _ => Err(bad(text, "the name of a WAL segment (24 upper-case hex digits)")),
        }
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
as_text!(Lsn);
as_text!(SegmentName);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lsns_of_every_major_are_read() {
        for (text, value) in [("0/3000028", 0x300_0028), ("0/00A00028", 0xA0_0028), ("16/b374d848", 0x16_B374_D848)] {
            assert_eq!(text.parse(), Ok(Lsn(value)), "{text}");
        }
        for bad in ["", "0", "/", "0/", "0/1/2", "0/123456789", "0/+1", "0x1/2", " 0/1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_follow_the_segment_size() {
        let size = |mib: u32| SegmentSize::new(mib << 20).unwrap();
        for (mib, lsn, name) in [
            (16, 0x300_0028, "000000010000000000000003"),
            (16, 0x1_0000_0000, "000000010000000100000000"),
            (1, 0x1_0030_0028, "000000010000000100000003"),
            (1024, 0x1_C000_0000, "000000010000000100000003"),
        ] {
            let no = size(mib).segment_of(Lsn(lsn));
            assert_eq!(SegmentName::new(TimelineId(1), no, size(mib)).to_string(), name);
        }
        assert_eq!("000000010000000000000004".parse::<SegmentName>().unwrap().no(size(1024)), None);
        assert_eq!(size(16).segment_before(Lsn(0x500_0000)), SegmentNo(4));
        assert_eq!(size(16).segment_of(Lsn(0x500_0000)), SegmentNo(5));
        assert!(SegmentSize::new(3 << 20).is_none() && SegmentSize::new(1 << 19).is_none() && SegmentSize::new(1 << 31).is_none());
        for bad in ["00000001000000000000000", "00000001000000000000000g", "00000001000000000000000a", "000000000000000000000001"] {
            assert!(bad.parse::<SegmentName>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn lsns_survive_printing(value: u64) {
            prop_assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }

        #[test]
        fn segment_arithmetic_holds(lsn in 0..u64::MAX >> 1, shift in 20u32..=30, timeline in 1u32..) {
            let size = SegmentSize::new(1 << shift).unwrap();
            let no = size.segment_of(Lsn(lsn));
            prop_assert!(size.start_of(no) <= Lsn(lsn) && Lsn(lsn) < size.end_of(no));
            let name = SegmentName::new(TimelineId(timeline), no, size);
            prop_assert_eq!(name.no(size), Some(no));
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }
    }
}
