//! The names of files that go through archive_command and restore_command.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::fmt;
use std::str::FromStr;

use crate::units::{Class, Explain, SegmentName, TimelineId};

/// A text that is no name of an archived file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of the names that PostgreSQL archives: a WAL segment, a history, backup or partial file")]
pub struct WalNameError(String);

impl Explain for WalNameError {
    fn class(&self) -> Class {
        Class::Usage
    }
}

/// What the server archives, by its name (access/xlog_internal.h).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WalFileName {
    /// `000000010000000000000003`: a whole segment.
    Segment(SegmentName),
    /// `00000002.history`: the ancestry of a timeline.
    History(TimelineId),
    /// `000000010000000000000003.00000028.backup`: a copy of a backup's label with its end; never needed.
    Backup {
        /// The segment in which the backup starts.
        segment: SegmentName,
        /// The offset of its start in that segment, in bytes.
        offset: u32,
    },
    /// `000000010000000000000003.partial`: the unfinished last segment of a timeline that ended. No segment: recovery
    /// never asks for it.
    Partial(SegmentName),
}

impl WalFileName {
    /// The timeline in the name.
    pub fn timeline(&self) -> TimelineId {
        match self {
            Self::Segment(name) | Self::Partial(name) | Self::Backup { segment: name, .. } => name.timeline,
            Self::History(timeline) => *timeline,
        }
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => f.pad(&name.to_string()),
            Self::Partial(name) => f.pad(&format!("{name}.partial")),
            Self::History(timeline) => f.pad(&timeline.history_name()),
            Self::Backup { segment, offset } => f.pad(&format!("{segment}.{offset:08X}.backup")),
        }
    }
}

/// Eight upper-case hex digits.
fn hex8(text: &str) -> Option<u32> {
    let fine = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    fine.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn read(text: &str) -> Option<WalFileName> {
    if let Some(timeline) = text.strip_suffix(".history") {
        return hex8(timeline).filter(|t| *t > 0).map(|t| WalFileName::History(TimelineId(t)));
    }
    if let Some(segment) = text.strip_suffix(".partial") {
        return segment.parse().ok().map(WalFileName::Partial);
    }
    if let Some(start) = text.strip_suffix(".backup") {
        let (segment, offset) = start.split_once('.')?;
        return Some(WalFileName::Backup { segment: segment.parse().ok()?, offset: hex8(offset)? });
    }
    text.parse().ok().map(WalFileName::Segment)
}

impl FromStr for WalFileName {
    type Err = WalNameError;

    fn from_str(text: &str) -> Result<Self, WalNameError> {
        read(text).ok_or_else(|| WalNameError(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_kinds_of_names_are_read_and_printed() {
        for text in
            ["000000010000000000000003", "000000010000000000000003.partial", "0000000A.history", "000000010000000000000016.00000028.backup"]
        {
            assert_eq!(text.parse::<WalFileName>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            ".history",
            "00000000.history",
            "0000000a.history",
            "00000001000000000000003",
            "000000010000000000000003.backup",
            "000000010000000000000003.28.backup",
            "000000010000000000000003.partial.partial",
            "../00000001.history",
            "é0000001.history",
            "RECOVERYXLOG",
        ] {
            assert!(bad.parse::<WalFileName>().is_err(), "{bad}");
        }
    }
}
