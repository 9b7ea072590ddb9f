//! `backup_manifest`: the list that pg_verifybackup checks a data directory against, and that an incremental backup of
//! 17 and later takes as its parent (backup/backup_manifest.c). Written while a restore writes.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use crate::units::ids::hex;
use crate::units::{Lsn, TimelineId, Timestamp};

/// WAL that the backup needs to be consistent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalRange {
    /// Whose WAL.
    pub timeline: TimelineId,
    /// From here on.
    pub start: Lsn,
    /// Up to here, not included.
    pub end: Lsn,
}

/// A manifest that is being written, a file at a time and in any order of files.
///
/// Listed are all files of the data directory, tablespaces as `pg_tblspc/<oid>/…`, `backup_label` and `tablespace_map`
/// too; not the manifest itself, nor anything in `pg_wal`.
pub struct ManifestWriter<W> {
    out: W,
    sum: Sha256,
    major: u16,
    files: u64,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins a manifest for a server of this major: version 1 up to 16, 2 from 17 on.
    ///
    /// # Errors
    /// What `out` returns, here as below.
    pub fn new(out: W, major: u16, system_identifier: u64) -> io::Result<Self> {
        let mut writer = ManifestWriter { out, sum: Sha256::new(), major, files: 0 };
        let version = if major >= 17 { 2 } else { 1 };
        writer.put(&format!("{{ \"PostgreSQL-Backup-Manifest-Version\": {version},\n"))?;
        if version >= 2 {
            writer.put(&format!("\"System-Identifier\": {system_identifier},\n"))?;
        }
        writer.put("\"Files\": [")?;
        Ok(writer)
    }

    /// Lists a file: its path relative to the data directory, size in bytes, time of modification, CRC-32C.
    ///
    /// # Errors
    /// See [`ManifestWriter::new`].
    pub fn file(&mut self, path: &[u8], size: u64, modified: Timestamp, crc: u32) -> io::Result<()> {
        let name = match std::str::from_utf8(path) {
            Ok(text) => format!("\"Path\": {}", json_string(text)),
            Err(_) => format!("\"Encoded-Path\": \"{}\"", hex(path)),
        };
        let before = if self.files == 0 { "\n" } else { ",\n" };
        self.files += 1;
        // The checksum's bytes as they lie in memory, not the number: as the server's little-endian machine prints it.
        let crc = hex(&crc.to_le_bytes());
        let modified = modified.manifest();
        self.put(&format!(
            "{before}{{ {name}, \"Size\": {size}, \"Last-Modified\": \"{modified}\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\" }}"
        ))
    }

    /// Ends the manifest; returns what it was written to.
    ///
    /// # Errors
    /// See [`ManifestWriter::new`].
    pub fn finish(mut self, ranges: &[WalRange]) -> io::Result<W> {
        self.put("\n],\n\"WAL-Ranges\": [\n")?;
        for (i, range) in ranges.iter().enumerate() {
            let before = if i == 0 { "" } else { ",\n" };
            let (start, end) = (self.lsn(range.start), self.lsn(range.end));
            self.put(&format!("{before}{{ \"Timeline\": {}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}", range.timeline))?;
        }
        self.put("\n],\n")?;
        let sum = hex(&self.sum.finalize());
        writeln!(self.out, "\"Manifest-Checksum\": \"{sum}\"}}")?;
        Ok(self.out)
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.sum.update(text.as_bytes());
        self.out.write_all(text.as_bytes())
    }

    /// As this major prints positions.
    fn lsn(&self, lsn: Lsn) -> String {
        if self.major >= 19 { format!("{:X}/{:08X}", lsn.0 >> 32, lsn.0 as u32) } else { lsn.to_string() }
    }
}

/// A JSON string as the server's `escape_json` makes it.
fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::fixtures;
    use proptest::prelude::*;

    /// A manifest that pg_basebackup wrote comes out byte for byte when its values are written again.
    #[test]
    fn manifests_of_real_servers_are_written_byte_for_byte() {
        for major in [15, 19] {
            let real = fixtures::text(major, "backup_manifest");
            let parsed: serde_json::Value = serde_json::from_str(&real).unwrap();
            let identifier = parsed.get("System-Identifier").map_or(0, |v| v.as_u64().unwrap());
            let mut writer = ManifestWriter::new(Vec::new(), major, identifier).unwrap();
            for file in parsed["Files"].as_array().unwrap() {
                let text = |key: &str| file[key].as_str().unwrap().to_owned();
                let modified: Timestamp = text("Last-Modified").parse().unwrap();
                let crc = u32::from_str_radix(&text("Checksum"), 16).unwrap().swap_bytes();
                writer.file(text("Path").as_bytes(), file["Size"].as_u64().unwrap(), modified, crc).unwrap();
            }
            let ranges: Vec<WalRange> = parsed["WAL-Ranges"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| WalRange {
                    timeline: TimelineId(r["Timeline"].as_u64().unwrap() as u32),
                    start: r["Start-LSN"].as_str().unwrap().parse().unwrap(),
                    end: r["End-LSN"].as_str().unwrap().parse().unwrap(),
                })
                .collect();
            assert_eq!(String::from_utf8(writer.finish(&ranges).unwrap()).unwrap(), real);
        }
    }

    #[test]
    fn the_checksum_is_that_of_the_files_bytes() {
        // PG_VERSION of the fixture's server: three bytes, listed as 8a744722.
        let mut writer = ManifestWriter::new(Vec::new(), 15, 1).unwrap();
        writer.file(b"PG_VERSION", 3, Timestamp(0), crc32c::crc32c(b"15\n")).unwrap();
        let text = String::from_utf8(writer.finish(&[]).unwrap()).unwrap();
        assert!(text.contains("\"Checksum\": \"8a744722\""), "{text}");
    }

    proptest! {
        #[test]
        fn any_path_makes_valid_json_with_the_path_in_it(path in proptest::collection::vec(1u8.., 1..30), text in "\\PC{0,10}[\"\\\\\n\r\t\u{1}\u{8}\u{c}\u{7f}]?") {
            for path in [path, text.into_bytes()] {
                let mut writer = ManifestWriter::new(Vec::new(), 18, u64::MAX).unwrap();
                writer.file(&path, 7, Timestamp(0), 1).unwrap();
                let bytes = writer.finish(&[WalRange { timeline: TimelineId(1), start: Lsn(1), end: Lsn(2) }]).unwrap();
                let parsed: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                let file = &parsed["Files"][0];
                match file["Path"].as_str() {
                    Some(text) => prop_assert_eq!(text.as_bytes(), &path[..]),
                    None => prop_assert_eq!(file["Encoded-Path"].as_str().unwrap(), hex(&path)),
                }
                prop_assert_eq!(parsed["System-Identifier"].as_u64(), Some(u64::MAX));
            }
        }
    }
}
