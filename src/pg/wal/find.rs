//! A transaction's end or a restore point in a run of segments: targets become LSNs before a restore begins.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::header::{SegmentError, SegmentHeader};
use super::record::Meaning;
use super::walk::{Event, WalStop, Walk};
use crate::units::{Class, Explain, Lsn, Timestamp};

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sought<'a> {
    /// The end of a top-level transaction, committed or rolled back. Of an id with its epoch the low half counts, as
    /// in `recovery_target_xid`.
    Xid(u64),
    /// The first restore point of this name.
    Name(&'a str),
}

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Where the record starts: with this as `recovery_target_lsn`, inclusive, the server replays it and stops.
    pub start: Lsn,
    /// Where the record ends.
    pub end: Lsn,
    /// The record's time, by the server's clock.
    pub time: Timestamp,
    /// Of a transaction: did it commit? A restore point counts as committed.
    pub committed: bool,
}

/// Why a run of segments could not be searched to its end.
#[derive(Debug, thiserror::Error)]
pub enum FindError<E> {
    /// A segment could not be had.
    #[error(transparent)]
    Source(E),
    /// A file is no segment.
    #[error(transparent)]
    Segment(SegmentError),
    /// The segments don't follow each other.
    #[error("the segment after {expected} is missing: the next one starts at {found}")]
    Gap {
        /// Where the next segment should start.
        expected: Lsn,
        /// Where it starts.
        found: Lsn,
    },
    /// A segment of another cluster, major or segment size between the others.
    #[error("the segment at {at} is not of the same cluster as those before it")]
    Foreign {
        /// Where it starts.
        at: Lsn,
    },
    /// WAL is not valid although segments follow.
    #[error("WAL can't be read {0}")]
    Broken(WalStop),
}

impl<E: Explain> Explain for FindError<E> {
    fn class(&self) -> Class {
        match self {
            Self::Source(error) => error.class(),
            Self::Segment(error) => error.class(),
            Self::Gap { .. } => Class::Absent,
            Self::Foreign { .. } | Self::Broken(_) => Class::Corrupt,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            Self::Source(error) => error.cure(),
            Self::Segment(error) => error.cure(),
            Self::Gap { .. } | Self::Foreign { .. } | Self::Broken(_) => None,
        }
    }
}

/// Searches whole segments in the order of recovery, over switches of timeline, for the first record that matches.
/// Where the last segment is valid only in part, the search ends there: `None`.
///
/// # Errors
/// See [`FindError`].
pub fn find<B: AsRef<[u8]>, E>(segments: impl IntoIterator<Item = Result<B, E>>, what: Sought<'_>) -> Result<Option<Found>, FindError<E>> {
    let mut walk: Option<(Walk, SegmentHeader)> = None;
    let mut stopped: Option<WalStop> = None;
    for segment in segments {
        let segment = segment.map_err(FindError::Source)?;
        let bytes = segment.as_ref();
        if let Some(stop) = stopped {
            return Err(FindError::Broken(stop));
        }
        let header = SegmentHeader::parse(bytes).map_err(FindError::Segment)?;
        let (walk, _) = match &mut walk {
            Some((walk, first)) => {
                follows(walk, first, &header)?;
                (walk, first)
            }
            None => {
                let (walk, first) = walk.insert((Walk::new(&header), header));
                (walk, first)
            }
        };
        let length = header.segment_size.bytes();
        if bytes.len() as u64 != u64::from(length) {
            return Err(FindError::Segment(SegmentError::Length { expected: length, found: bytes.len() as u64 }));
        }
        let mut found = None;
        for page in bytes.chunks_exact(header.page_size as usize) {
            let walked = walk.page(page, &mut |event| found = found.take().or_else(|| matches(event, what)));
            if found.is_some() {
                return Ok(found);
            }
            if let Err(stop) = walked {
                stopped = Some(stop);
                break;
            }
        }
    }
    Ok(None)
}

/// Is this the segment that the walk needs next?
fn follows<E>(walk: &Walk, first: &SegmentHeader, next: &SegmentHeader) -> Result<(), FindError<E>> {
    if (next.major, next.system_identifier, next.segment_size, next.page_size)
        != (first.major, first.system_identifier, first.segment_size, first.page_size)
    {
        return Err(FindError::Foreign { at: next.start() });
    }
    if walk.next() != next.start() {
        return Err(FindError::Gap { expected: walk.next(), found: next.start() });
    }
    Ok(())
}

fn matches(event: Event<'_>, what: Sought<'_>) -> Option<Found> {
    let Event::Record(record) = event else { return None };
    let found = |time, committed| Found { start: record.start, end: record.end, time, committed };
    match (record.meaning(), what) {
        (Meaning::End(end), Sought::Xid(xid)) if end.xid != 0 && end.xid == xid as u32 => Some(found(end.time, end.committed)),
        (Meaning::RestorePoint { name, time }, Sought::Name(wanted)) if name == wanted => Some(found(time, true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::fixtures;
    use std::convert::Infallible;

    fn segments(major: u16, numbers: &[u64]) -> Vec<Result<Vec<u8>, Infallible>> {
        numbers.iter().map(|no| Ok(fixtures::file(major, &format!("0000000100000000000000{no:02X}")))).collect()
    }

    fn look(numbers: &[u64], what: Sought<'_>) -> Result<Option<Found>, String> {
        find(segments(15, numbers), what).map_err(|e| e.to_string())
    }

    const ALL: [u64; 5] = [0x18, 0x19, 0x1A, 0x1B, 0x1C];

    #[test]
    fn transactions_and_restore_points_are_found_where_pg_waldump_shows_them() {
        for (xid, start, committed) in [
            (742u64, 0x180_8828, true),
            (743, 0x180_89C8, true),  // COMMIT PREPARED
            (744, 0x180_8B70, false), // ROLLBACK PREPARED
            (745, 0x180_8C20, false),
            (746, 0x1A8_F4D0, true), // behind a record that fills a segment
            (1 << 32 | 748, 0x1B5_3378, true),
            (749, 0x1C0_0028, true), // the switch before it has the same xid
        ] {
            let found = look(&ALL, Sought::Xid(xid)).unwrap().unwrap();
            assert_eq!((found.start, found.committed), (Lsn(start), committed), "{xid}");
        }
        let found = look(&ALL, Sought::Name("after the flood")).unwrap().unwrap();
        assert_eq!((found.start, found.end), (Lsn(0x1B5_33A0), Lsn(0x1B5_3408)));
        assert_eq!(look(&ALL, Sought::Xid(742)).unwrap().unwrap().time.to_string(), "2026-11-25T18:00:06.724529Z");
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        // A subtransaction, a future one, none at all; a name that is only a beginning.
        for what in [Sought::Xid(747), Sought::Xid(751), Sought::Xid(0), Sought::Xid(1 << 32), Sought::Name("after"), Sought::Name("")] {
            assert_eq!(look(&ALL, what), Ok(None), "{what:?}");
        }
        assert_eq!(look(&[], Sought::Xid(742)), Ok(None));
        assert_eq!(look(&ALL[1..3], Sought::Xid(742)), Ok(None));
        assert!(look(&ALL[1..3], Sought::Xid(746)).unwrap().is_some());
    }

    #[test]
    fn gaps_foreign_segments_and_damage_are_not_taken_for_the_end() {
        let gap = "the segment after 0/1900000 is missing: the next one starts at 0/1A00000";
        assert_eq!(look(&[0x18, 0x1A], Sought::Xid(751)), Err(gap.to_owned()));
        let mut mixed = segments(15, &[0x18]);
        mixed.extend(segments(18, &[0x19]));
        assert!(matches!(find(mixed, Sought::Xid(751)), Err(FindError::Foreign { .. })));
        let mut damaged = segments(15, &ALL);
        if let Ok(bytes) = &mut damaged[3] {
            bytes[0x53_3A0 + 40] ^= 1;
        }
        let error = find(damaged, Sought::Xid(750)).unwrap_err();
        assert!(matches!(&error, FindError::Broken(stop) if stop.at == Lsn(0x1B5_33A0)), "{error}");
        // Nothing behind the damage: that is the end of WAL.
        let mut last = segments(15, &ALL);
        if let Ok(bytes) = &mut last[4] {
            bytes[0x100] ^= 1;
        }
        assert!(matches!(find(last, Sought::Xid(750)), Ok(None)));
        let mut short = segments(15, &ALL[..1]);
        if let Ok(bytes) = &mut short[0] {
            bytes.truncate(100_000);
        }
        assert!(matches!(find(short, Sought::Xid(751)), Err(FindError::Segment(SegmentError::Length { .. }))));
    }
}
