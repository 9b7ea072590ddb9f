//! What people write.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::host::config::{RepositoryUrl, probe};
use crate::look::SnapshotName;
use crate::pg::conninfo::{Conninfo, Surroundings};
use crate::repo::log::{ClusterId, Head};
use crate::store::{ObjectName, SessionTag};
use crate::units::{ByteSize, ChunkId, Lsn, SegmentName, Timestamp, parse_byte_size, parse_duration};

pub fn units(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(time) = text.parse::<Timestamp>() {
        let shown = time.to_string();
        assert_eq!(shown.parse::<Timestamp>().map_err(|e| format!("{text:?} -> {shown}: {e}")), Ok(time));
        let _ = (time.compact(), time.postgres(), time.for_people(), time.manifest());
    }
    if let Some(bytes) = parse_byte_size(text) {
        let _ = ByteSize(bytes).to_string();
    }
    let _ = parse_duration(text);
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse::<Lsn>().ok(), Some(lsn));
    }
    if let Ok(name) = text.parse::<SegmentName>() {
        assert_eq!(name.to_string(), text);
    }
    if let Ok(id) = text.parse::<ChunkId>() {
        assert_eq!(id.to_string(), text);
    }
}

pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = ObjectName::new(text) {
        assert_eq!(name.as_str(), text);
        assert!(!text.split('/').any(|part| part.is_empty() || part.starts_with('.')) && text.split('/').next() != Some("tmp"), "{text:?}");
        let _ = crate::archive::parse_listed(&name);
    }
    let _ = SessionTag::new(text);
    let Ok(_) = text.parse::<SnapshotName>();
    let _ = text.parse::<ClusterId>();
    if let Ok(head) = text.parse::<Head>() {
        assert_eq!(head.to_string().parse::<Head>(), Ok(head));
    }
    let _ = RepositoryUrl::parse(OsStr::from_bytes(data), None);
    let _ = (crate::crypt::slot::parse_key_file(text), crate::crypt::root_text::parse_root_text(text));
}

pub fn conninfo(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, file) = text.split_once('\u{1}').unwrap_or((text, ""));
    let around = Surroundings { user: Some("postgres".into()), ..Surroundings::default() };
    if let Ok(conninfo) = Conninfo::parse(text, &around) {
        let _ = format!("{conninfo:?}");
    }
    crate::pg::conninfo::probe_password_file(file);
}

pub fn configuration(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        probe(text);
    }
}
