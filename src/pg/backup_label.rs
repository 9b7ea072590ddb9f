//! What a backup's stop hands out: `backup_label`, without which a restore is silently wrong, and `tablespace_map`
//! (access/transam/xlogbackup.c, read by `read_backup_label` and `read_tablespace_map` in xlogrecovery.c).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::units::{Class, Explain, Lsn, SegmentName, SegmentSize, TimelineId};

/// Where a backup was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackupFrom {
    /// A primary (13 calls it `master`).
    Primary,
    /// A standby: consistent only from pg_control's minRecoveryPoint on.
    Standby,
}

/// A backup label. The bytes themselves are what has to be restored; this is what they say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupLabel {
    /// Where replay starts: the checkpoint's redo position.
    pub start: Lsn,
    /// The segment that holds `start`.
    pub segment: SegmentName,
    /// Where the checkpoint record starts: at or behind `start`.
    pub checkpoint: Lsn,
    /// Where the backup was taken.
    pub from: BackupFrom,
    /// When it began, in the server's words and zone.
    pub start_time: String,
    /// The label given at the start; what is not UTF-8 is replaced.
    pub label: String,
    /// The timeline at the start.
    pub timeline: TimelineId,
}

/// Why bytes are no backup label that can be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    /// A line is missing or is not what it has to be.
    #[error("backup_label has no valid line {0:?}")]
    Line(&'static str),
    /// The label of an incremental backup: no data directory.
    #[error("backup_label is that of an incremental backup, which is no data directory by itself")]
    Incremental,
    /// Not made by the backup functions of a running server.
    #[error("backup_label names the backup method {0:?}, not \"streamed\"")]
    Method(String),
    /// The checkpoint lies before the start.
    #[error("backup_label's checkpoint {checkpoint} lies before its start {start}")]
    Backwards {
        /// The start.
        start: Lsn,
        /// The checkpoint.
        checkpoint: Lsn,
    },
    /// The segment's name does not fit the start or the timeline.
    #[error("backup_label starts at {start} on timeline {timeline}, which does not lie in its segment {segment}")]
    Segment {
        /// The start.
        start: Lsn,
        /// The timeline.
        timeline: TimelineId,
        /// The name.
        segment: SegmentName,
    },
}

impl Explain for BackupLabelError {
    fn class(&self) -> Class {
        match self {
            Self::Incremental | Self::Method(_) => Class::Refused,
            Self::Line(_) | Self::Backwards { .. } | Self::Segment { .. } => Class::Corrupt,
        }
    }
}

impl BackupLabel {
    /// Reads a label and checks that it can be.
    ///
    /// # Errors
    /// See [`BackupLabelError`].
    pub fn parse(bytes: &[u8], size: SegmentSize) -> Result<BackupLabel, BackupLabelError> {
        let text = String::from_utf8_lossy(bytes);
        if text.lines().any(|line| line.starts_with("INCREMENTAL FROM")) {
            return Err(BackupLabelError::Incremental);
        }
        // In the server's order; the label itself may hold anything, and only what follows it is looked for.
        let mut lines = text.lines();
        let mut take = |key: &'static str| {
            let value = lines.next().and_then(|line| line.strip_prefix(key)?.strip_prefix(": "));
            value.ok_or(BackupLabelError::Line(key))
        };
        const START: &str = "START WAL LOCATION";
        let (start, file) = take(START)?.split_once(" (file ").ok_or(BackupLabelError::Line(START))?;
        let start: Lsn = start.parse().map_err(|_| BackupLabelError::Line(START))?;
        let segment: SegmentName = file.strip_suffix(')').and_then(|f| f.parse().ok()).ok_or(BackupLabelError::Line(START))?;
        const CHECKPOINT: &str = "CHECKPOINT LOCATION";
        let checkpoint: Lsn = take(CHECKPOINT)?.parse().map_err(|_| BackupLabelError::Line(CHECKPOINT))?;
        let method = take("BACKUP METHOD")?;
        if method != "streamed" {
            return Err(BackupLabelError::Method(method.chars().take(40).collect()));
        }
        let from = match take("BACKUP FROM")? {
            "primary" | "master" => BackupFrom::Primary,
            "standby" => BackupFrom::Standby,
            _ => return Err(BackupLabelError::Line("BACKUP FROM")),
        };
        let start_time = take("START TIME")?.to_owned();
        let label = take("LABEL")?.to_owned();
        const TIMELINE: &str = "START TIMELINE";
        let timeline = lines.filter_map(|line| line.strip_prefix(TIMELINE)?.strip_prefix(": ")).next_back();
        let timeline = timeline.and_then(|t| t.parse().ok()).filter(|t| *t > 0).map(TimelineId).ok_or(BackupLabelError::Line(TIMELINE))?;
        if checkpoint < start {
            return Err(BackupLabelError::Backwards { start, checkpoint });
        }
        if SegmentName::new(timeline, size.segment_of(start), size) != segment {
            return Err(BackupLabelError::Segment { start, timeline, segment });
        }
        Ok(BackupLabel { start, segment, checkpoint, from, start_time, label, timeline })
    }
}

/// A tablespace outside the data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MappedTablespace {
    /// Its oid: the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where it lies.
    pub path: PathBuf,
}

/// A line of a tablespace_map that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of tablespace_map is not \"oid path\": {text:?}")]
pub struct TablespaceMapError {
    line: usize,
    text: String,
}

impl Explain for TablespaceMapError {
    fn class(&self) -> Class {
        Class::Corrupt
    }
}

/// Reads a tablespace_map. A backslash stands before a newline, a carriage return or a backslash that belongs to a path.
///
/// # Errors
/// The first line that is none.
pub fn parse_tablespace_map(bytes: &[u8]) -> Result<Vec<MappedTablespace>, TablespaceMapError> {
    let mut map = Vec::new();
    for (line, text) in (1..).zip(unescaped_lines(bytes)) {
        let entry = read_mapped(&text);
        map.push(entry.ok_or_else(|| TablespaceMapError { line, text: String::from_utf8_lossy(&text).chars().take(80).collect() })?);
    }
    Ok(map)
}

/// The lines, without what escapes them. Empty ones are left out: the server meets them after `\r\n`.
fn unescaped_lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    let mut escaped = false;
    for byte in bytes {
        match byte {
            _ if escaped => {
                line.push(*byte);
                escaped = false;
            }
            b'\\' => escaped = true,
            b'\n' | b'\r' => lines.push(std::mem::take(&mut line)),
            _ => line.push(*byte),
        }
    }
    lines.push(line);
    lines.retain(|line| !line.is_empty());
    lines
}

fn read_mapped(line: &[u8]) -> Option<MappedTablespace> {
    let blank = line.iter().position(|b| *b == b' ')?;
    let (oid, path) = line.split_at(blank);
    let path = path.get(1..).filter(|p| !p.is_empty() && !p.contains(&0))?;
    let oid = std::str::from_utf8(oid).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?.parse().ok().filter(|o| *o > 0)?;
    Some(MappedTablespace { oid, path: PathBuf::from(OsString::from_vec(path.to_vec())) })
}

/// A tablespace_map for these tablespaces; empty for none, and then no file should be written.
pub fn print_tablespace_map(map: &[MappedTablespace]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in map {
        out.extend_from_slice(entry.oid.to_string().as_bytes());
        out.push(b' ');
        for byte in entry.path.as_os_str().as_bytes() {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                out.push(b'\\');
            }
            out.push(*byte);
        }
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::fixtures;
    use proptest::prelude::*;

    const MIB: fn() -> SegmentSize = || SegmentSize::new(1 << 20).unwrap();

    #[test]
    fn labels_of_real_servers_are_read() {
        for (major, checkpoint) in [(15, 0x160_0060), (19, 0x160_0080)] {
            let label = BackupLabel::parse(&fixtures::file(major, "backup_label"), MIB()).unwrap();
            assert_eq!((label.start, label.checkpoint, label.timeline), (Lsn(0x160_0028), Lsn(checkpoint), TimelineId(1)));
            assert_eq!((label.from, label.label.as_str()), (BackupFrom::Primary, "pg_basebackup base backup"));
            assert_eq!(label.segment.to_string(), "000000010000000000000016");
        }
    }

    #[test]
    fn a_label_that_can_not_be_restored_is_refused() {
        let good = fixtures::text(15, "backup_label");
        let with = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            BackupLabel::parse(good.replace(from, to).as_bytes(), MIB())
        };
        assert_eq!(with("primary", "master").unwrap().from, BackupFrom::Primary);
        assert_eq!(with("primary", "standby").unwrap().from, BackupFrom::Standby);
        assert_eq!(with("primary", "elsewhere"), Err(BackupLabelError::Line("BACKUP FROM")));
        assert_eq!(with("streamed", "pg_rewind"), Err(BackupLabelError::Method("pg_rewind".to_owned())));
        assert!(matches!(with("0/1600060", "0/1600020"), Err(BackupLabelError::Backwards { .. })));
        assert!(matches!(with("0/1600028", "0/1500028"), Err(BackupLabelError::Segment { .. })));
        assert!(matches!(with("START TIMELINE: 1", "START TIMELINE: 2"), Err(BackupLabelError::Segment { .. })));
        assert_eq!(with("START TIMELINE: 1", "START TIMELINE: 0"), Err(BackupLabelError::Line("START TIMELINE")));
        assert_eq!(with("START TIMELINE: 1\n", ""), Err(BackupLabelError::Line("START TIMELINE")));
        let incremental = format!("{good}INCREMENTAL FROM LSN: 0/1400028\nINCREMENTAL FROM TLI: 1\n");
        assert_eq!(BackupLabel::parse(incremental.as_bytes(), MIB()), Err(BackupLabelError::Incremental));
        assert!(matches!(BackupLabel::parse(good.as_bytes(), SegmentSize::DEFAULT), Err(BackupLabelError::Segment { .. })));
        // A label may hold anything, and what looks like a line in it is not the server's.
        let odd = with("pg_basebackup base backup", "a\nSTART TIMELINE: 7\nSTART WAL LOCATION: 0/0").unwrap();
        assert_eq!((odd.timeline, odd.start), (TimelineId(1), Lsn(0x160_0028)));
        for at in 0..good.len() - 1 {
            assert!(BackupLabel::parse(&good.as_bytes()[..at], MIB()).is_err(), "{at}");
        }
    }

    #[test]
    fn maps_are_read_as_the_server_writes_them() {
        let map = parse_tablespace_map(b"16400 /srv/ts one\n16401 /odd\\\nline\\\\end\n").unwrap();
        assert_eq!(map[0], MappedTablespace { oid: 16400, path: "/srv/ts one".into() });
        assert_eq!(map[1], MappedTablespace { oid: 16401, path: "/odd\nline\\end".into() });
        assert_eq!(parse_tablespace_map(b""), Ok(vec![]));
        for bad in ["x /a\n", "16400\n", "16400 \n", " /a\n", "0 /a\n", "-1 /a\n", "4294967296 /a\n", "1 /a\0b\n"] {
            assert!(parse_tablespace_map(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn maps_survive_printing(entries in proptest::collection::vec((1u32.., proptest::collection::vec(1u8.., 1..20)), 0..5)) {
            let map: Vec<MappedTablespace> = entries
                .into_iter()
                .map(|(oid, path)| MappedTablespace { oid, path: PathBuf::from(OsString::from_vec(path)) })
                .collect();
            prop_assert_eq!(parse_tablespace_map(&print_tablespace_map(&map)), Ok(map));
        }
    }
}
