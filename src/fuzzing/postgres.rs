//! Files of a data directory, and WAL.

use std::path::Path;

use super::{number, take};
use crate::archive::{FileFacts, FileKind, SegmentRecord};
use crate::pg::backup_label::{BackupLabel, parse_tablespace_map};
use crate::pg::control_file::ControlFile;
use crate::pg::filenode_map::check_filenode_map;
use crate::pg::layout::{DataDirectory, RelationFile, is_temporary_relation};
use crate::pg::page::check_page;
use crate::pg::recovery::{edit_auto_conf, quote_setting, strip_recovery_settings};
use crate::pg::timeline::History;
use crate::pg::wal::build::WalBuilder;
use crate::pg::wal::{SegmentFacts, SegmentHeader, Sought, WalFileName, check_segment, find};
use crate::units::{Lsn, SegmentSize, TimelineId};

/// With a checksum that fits, as if the server had written it.
pub fn control_file(data: &[u8]) {
    let _ = ControlFile::parse(data);
    for crc_at in [288, 292, 296, 300, 304] {
        let mut bytes = data.to_vec();
        if bytes.len() >= crc_at + 4 {
            let crc = crc32c::crc32c(&bytes[..crc_at]);
            bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
            if let Ok(control) = ControlFile::parse(&bytes) {
                let _ = (format!("{control:?}"), control.data_checksums());
            }
        }
    }
}

pub fn page(mut data: &[u8]) {
    let (block, start, on) = (number(&mut data, 4) as u32, Lsn(number(&mut data, 8)), number(&mut data, 1) & 1 == 1);
    let _ = check_page(data, block, start, on);
}

pub fn filenode_map(data: &[u8]) {
    let _ = check_filenode_map(data);
    let mut bytes = data.to_vec();
    for (len, crc_at) in [(512, 504), (524, 520)] {
        bytes.resize(len, 0);
        let crc = crc32c::crc32c(&bytes[..crc_at]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        let _ = check_filenode_map(&bytes);
    }
}

pub fn backup_label(data: &[u8]) {
    for size in [1 << 20, 16 << 20, 1 << 30] {
        let _ = BackupLabel::parse(data, SegmentSize::new(size).expect("a size"));
    }
}

pub fn tablespace_map(data: &[u8]) {
    let _ = parse_tablespace_map(data);
}

pub fn history(mut data: &[u8]) {
    let timeline = TimelineId(number(&mut data, 4) as u32);
    if let Ok(history) = History::parse(timeline, data) {
        let again = History::parse(timeline, history.print().as_bytes()).expect("what was read is written so that it can be read");
        assert_eq!((again.timeline, again.entries.len()), (history.timeline, history.entries.len()));
    }
}

/// However it is edited, nothing of what must go stays, and a second time changes nothing.
pub fn auto_conf(data: &[u8]) {
    let once = strip_recovery_settings(data);
    assert_eq!(strip_recovery_settings(&once), once);
    let value = &data[..data.len().min(40)];
    if let Ok(quoted) = quote_setting(value) {
        assert!(!quoted.contains(&b'\n'));
        let edited = edit_auto_conf(data, "by hand", [("x.y", value)]).expect("the value can be quoted");
        assert!(edited.ends_with(&[b"x.y = ".as_slice(), &quoted, b"\n"].concat()));
    }
}

pub fn file_names(data: &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    if let Some(relation) = RelationFile::parse(data) {
        assert_eq!(relation.to_string().as_bytes(), data);
        let _ = relation.block(u64::from(relation.segment), 131_072);
    }
    let _ = is_temporary_relation(data);
    let path = Path::new(std::ffi::OsStr::from_bytes(data));
    let layout = DataDirectory::new(18, 202_506_291);
    let _ = (layout.folder(path), layout.file(path, |_| data.len().is_multiple_of(2)));
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(name) = text.parse::<WalFileName>()
    {
        assert_eq!(name.to_string(), text);
    }
}

/// Bytes behind a good header.
pub fn wal_bytes(data: &[u8]) {
    let _ = SegmentHeader::parse(data);
    let mut bytes = WalBuilder::new().segments().pop().unwrap_or_default();
    let mut builder = WalBuilder::new();
    builder.page_header(0, 0);
    let header = builder.segments().pop().unwrap_or_default();
    bytes.resize(header.len(), 0);
    bytes[..40].copy_from_slice(&header[..40]);
    let len = data.len().min(bytes.len() - 20);
    bytes[20..20 + len].copy_from_slice(&data[..len]);
    walked(&[bytes]);
}

/// Records with lengths and checksums that fit, over pages and segments; then a few bytes are changed.
pub fn wal_records(mut data: &[u8]) {
    let mut builder = WalBuilder::new();
    let changes = number(&mut data, 1) % 4;
    let spots: Vec<(usize, u8)> = (0..changes).map(|_| (number(&mut data, 3) as usize, number(&mut data, 1) as u8)).collect();
    while !data.is_empty() {
        let (what, info, xid) = (number(&mut data, 1) as u8, number(&mut data, 1) as u8, number(&mut data, 4) as u32);
        let len = number(&mut data, 2) as usize;
        let payload = match what & 0xC0 {
            // Long ones, that cost the fuzzer nothing.
            0xC0 => vec![info; len * 4],
            _ => take(&mut data, len % 512).to_vec(),
        };
        match what & 0x3F {
            57 => drop(builder.commit(xid, i64::from(xid) << 20)),
            58 => drop(builder.restore_point(&String::from_utf8_lossy(&payload[..payload.len().min(60)]), i64::from(xid))),
            59 => builder.lose(builder.at() - u64::from(len as u32 % 64).min((builder.at() - builder.start()) / 8) * 8),
            60 => drop(builder.switch(xid)),
            61 => builder.fill_to((len as u64 % 1000) * 8),
            62 => builder.set_prev(Lsn(u64::from(xid))),
            what => drop(builder.record(what % 24, info, xid, &payload)),
        }
        if builder.at() > 8 << 20 {
            break;
        }
    }
    let mut segments = builder.segments();
    for (at, byte) in spots {
        if let Some(spot) = segments.first_mut().and_then(|s| s.get_mut(at)) {
            *spot ^= byte;
        }
    }
    walked(&segments);
}

fn walked(segments: &[Vec<u8>]) {
    for segment in segments {
        let Ok(header) = SegmentHeader::parse(segment) else { continue };
        let facts = SegmentFacts::of(&header, segment);
        let name = crate::units::SegmentName::new(header.timeline(), header.segment_size.segment_of(header.start()), header.segment_size);
        if check_segment(name, segment, segment.len() as u64, None).is_ok() {
            // What is pushed must be believed when it is read.
            let value = FileFacts::new(header.system_identifier, FileKind::Segment(SegmentRecord::new(name, &header, facts))).to_value();
            let read = FileFacts::read(&value, header.system_identifier, &WalFileName::Segment(name), segment.len() as u64);
            assert!(read.is_ok(), "{read:?}: {value}");
        }
    }
    for what in [Sought::Xid(7), Sought::Name("x")] {
        let _ = find::<_, std::convert::Infallible>(segments.iter().map(Ok), what);
    }
}
