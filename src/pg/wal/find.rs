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
