//! `global/pg_control`: what a cluster is, in which state it is, and from where its WAL has to be replayed.
//!
//! The file has 8192 bytes, of which about the first 300 mean anything. Its layout is `ControlFileData`
//! (catalog/pg_control.h), one for each control version:
//!
//! ```text
//!                         1300, 1700, 1800   1905
//! system identifier   u64    0                  0
//! control version     u32    8                  8
//! catalog version     u32   12                 12
//! state               u32   16                 16
//! written at          i64   24                 24   seconds since 1970
//! checkpoint          u64   32                 32
//! redo                u64   40                 40   from here on a copy of the checkpoint record
//! timeline            u32   48                 48
//! full_page_writes     u8   56                 56
//! next xid            u64   64                 72
//! checkpoint time     i64  104                112   seconds since 1970
//! min recovery point  u64  136                144
//!   its timeline      u32  144                152
//! backup start        u64  152                160
//! backup end          u64  160                168
//! backup end required  u8  168                176
//! wal_level           u32  172                180
//! wal_log_hints        u8  176                184
//! max_connections     u32  180                188   then worker processes, WAL senders, prepared transactions, locks
//! track_commit_ts      u8  200                208
//! maxalign            u32  204                212
//! float format        f64  208                216   1234567.0
//! blcksz              u32  216                224
//! relseg_size         u32  220                228
//! xlog_blcksz         u32  224                236
//! xlog_seg_size       u32  228                240   then NAMEDATALEN, index keys, TOAST chunk, large-object chunk
//! float8 by value      u8  248                260
//! data checksums      u32  252                268
//! char signedness      u8  256 (1800)         272
//! CRC-32C             u32  288, 292 (1800)    308   over all bytes before it
//! ```
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::bytes::{f64_at, i64_at, u8_at, u32_at, u64_at};
use crate::units::{Class, Explain, Lsn, SegmentSize, TimelineId, Timestamp};

/// The size of the file, `PG_CONTROL_FILE_SIZE`.
pub const FILE_SIZE: usize = 8192;

/// Why bytes are no control file that can be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// The bytes end before the control file does.
    #[error("pg_control has only {len} bytes")]
    TooShort {
        /// How many bytes there are.
        len: usize,
    },
    /// Written by a server of the other byte order.
    #[error(
        "pg_control is big-endian (version {version} with its bytes swapped): the cluster belongs to a machine of the other byte order"
    )]
    ByteSwapped {
        /// The control version after swapping.
        version: u32,
    },
    /// A layout that this program doesn't know: another major, a beta, a fork.
    #[error("pg_control has version {version}, which is none of 1300 (13 to 16), 1700 (17), 1800 (18), 1905 (19)")]
    UnknownVersion {
        /// The control version as found.
        version: u32,
    },
    /// The checksum does not fit: read while the server wrote it, or damaged.
    #[error("pg_control is damaged or half-written: its CRC-32C is {stored:08x}, computed {computed:08x}")]
    Checksum {
        /// As stored in the file.
        stored: u32,
        /// As computed over its bytes.
        computed: u32,
    },
    /// The checksum fits and a value still can't be.
    #[error("pg_control holds an impossible value: {field} is {value}")]
    Insane {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

impl Explain for ControlFileError {
    fn class(&self) -> Class {
        match self {
            Self::ByteSwapped { .. } | Self::UnknownVersion { .. } => Class::Refused,
            Self::TooShort { .. } | Self::Checksum { .. } | Self::Insane { .. } => Class::Corrupt,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            Self::UnknownVersion { .. } => {
                Some("use a release of pgcairn that knows this major; betas and forks have layouts of their own".to_owned())
            }
            Self::ByteSwapped { .. } => Some("run pgcairn on a machine with the server's byte order".to_owned()),
            Self::TooShort { .. } | Self::Checksum { .. } | Self::Insane { .. } => None,
        }
    }
}

/// What the server last said of itself (`DBState`). Of a running server it is "in production" or "in archive recovery".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterState {
    /// 0: initdb or a start that never came far.
    StartingUp,
    /// 1: cleanly stopped.
    ShutDown,
    /// 2: a standby, cleanly stopped.
    ShutDownInRecovery,
    /// 3: the shutdown checkpoint is being written.
    ShuttingDown,
    /// 4: replaying after a crash.
    CrashRecovery,
    /// 5: replaying from an archive or a primary: a standby, or a restore.
    ArchiveRecovery,
    /// 6: a primary that runs, or that crashed.
    InProduction,
}

impl ClusterState {
    fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::StartingUp,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::CrashRecovery,
            5 => Self::ArchiveRecovery,
            6 => Self::InProduction,
            _ => return None,
        })
    }

    /// Cleanly stopped: the data directory can be copied without a server, and needs no WAL but its checkpoint.
    pub fn is_shut_down(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShutDownInRecovery)
    }

    /// In PostgreSQL's words (pg_controldata).
    pub fn words(self) -> &'static str {
        match self {
            Self::StartingUp => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::CrashRecovery => "in crash recovery",
            Self::ArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        }
    }
}

/// How much WAL the server writes (`wal_level`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WalLevel {
    /// 0: no backup is possible.
    Minimal,
    /// 1
    Replica,
    /// 2
    Logical,
}

/// Whether pages carry checksums (`data_checksum_version`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataChecksums {
    /// 0
    Off,
    /// 1
    On,
    /// A state that this program doesn't know: pages are stored as read and not verified, and a parent is no proof of
    /// "unchanged".
    Unknown(u32),
}

/// The control file's facts. All values are as found and inside the ranges that PostgreSQL can write.
#[derive(Clone, PartialEq, Debug)]
pub struct ControlFile {
    /// Drawn by initdb; the same in all physical copies of a cluster.
    pub system_identifier: u64,
    /// The layout of this file: 1300, 1700, 1800 or 1905.
    pub control_version: u32,
    /// `CATALOG_VERSION_NO`: with the major, what the data directory's format is.
    pub catalog_version: u32,
    /// The server's state when it last wrote this file.
    pub state: ClusterState,
    /// When this file was last written, by the server's clock, to the second.
    pub written_at: Timestamp,
    /// Where the latest checkpoint record starts.
    pub checkpoint: Lsn,
    /// Where replay starts after a crash.
    pub redo: Lsn,
    /// The timeline of the latest checkpoint.
    pub timeline: TimelineId,
    /// `full_page_writes` at the latest checkpoint.
    pub full_page_writes: bool,
    /// The next transaction id with its epoch in the high half.
    pub next_xid: u64,
    /// The time of the latest checkpoint, to the second.
    pub checkpoint_time: Timestamp,
    /// On a standby: how far replay has to go before the data is consistent. 0/0 on a primary.
    pub min_recovery_point: Lsn,
    /// The timeline of `min_recovery_point`, 0 on a primary.
    pub min_recovery_timeline: TimelineId,
    /// A restore that has not reached its end: the backup's start, else 0/0.
    pub backup_start: Lsn,
    /// A standby's backup being restored: its end, else 0/0.
    pub backup_end: Lsn,
    /// Does replay have to meet the end-of-backup record?
    pub backup_end_required: bool,
    /// `wal_level` of the running or last run server.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `max_connections`: a hot standby needs at least as much, as of the following four.
    pub max_connections: u32,
    /// `max_worker_processes`
    pub max_worker_processes: u32,
    /// `max_wal_senders`
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`
    pub max_locks_per_transaction: u32,
    /// `track_commit_timestamp`
    pub track_commit_timestamp: bool,
    /// The alignment of data, 8 on all 64-bit builds.
    pub maxalign: u32,
    /// Are floating-point numbers written as on this machine?
    pub float_format_ok: bool,
    /// The page size in bytes, a power of two from 1 KiB to 32 KiB.
    pub blcksz: u32,
    /// Pages in a relation's segment file.
    pub relseg_size: u32,
    /// The page size of WAL in bytes, a power of two from 1 KiB to 64 KiB.
    pub xlog_blcksz: u32,
    /// The size of WAL segments.
    pub segment_size: SegmentSize,
    /// `NAMEDATALEN`
    pub namedatalen: u32,
    /// `INDEX_MAX_KEYS`
    pub index_keys: u32,
    /// `TOAST_MAX_CHUNK_SIZE`
    pub toast_chunk: u32,
    /// `LOBLKSIZE`
    pub large_object_chunk: u32,
    /// Are 8-byte floats passed by value?
    pub float8_by_value: bool,
    /// `data_checksum_version` as found: see [`ControlFile::data_checksums`].
    pub data_checksum_version: u32,
    /// Is `char` signed where initdb ran? Known from 18 on.
    pub char_signed: Option<bool>,
}

/// Where the fields lie that moved between versions.
struct Offsets {
    crc: usize,
    next_xid: usize,
    checkpoint_time: usize,
    min_recovery_point: usize,
    maxalign: usize,
    xlog_blcksz: usize,
    float8_by_value: usize,
    data_checksums: usize,
    char_signed: Option<usize>,
}

impl Offsets {
    const V1300: Offsets = Offsets {
        crc: 288,
        next_xid: 64,
        checkpoint_time: 104,
        min_recovery_point: 136,
        maxalign: 204,
        xlog_blcksz: 224,
        float8_by_value: 248,
        data_checksums: 252,
        char_signed: None,
    };
    const V1800: Offsets = Offsets { crc: 292, char_signed: Some(256), ..Self::V1300 };
    const V1905: Offsets = Offsets {
        crc: 308,
        next_xid: 72,
        checkpoint_time: 112,
        min_recovery_point: 144,
        maxalign: 212,
        xlog_blcksz: 236,
        float8_by_value: 260,
        data_checksums: 268,
        char_signed: Some(272),
    };

    fn of(version: u32) -> Option<&'static Offsets> {
        Some(match version {
            1300 | 1700 => &Self::V1300,
            1800 => &Self::V1800,
            1905 => &Self::V1905,
            _ => return None,
        })
    }
}

/// Catalog versions of released majors; 19 is read from the control version, its catalog version may still move.
const CATALOG_VERSIONS: [(u32, u16); 6] =
    [(202007201, 13), (202107181, 14), (202209061, 15), (202307071, 16), (202406281, 17), (202506291, 18)];

impl ControlFile {
    /// Reads a control file's bytes: the whole file, or at least its first 316 bytes.
    ///
    /// # Errors
    /// See [`ControlFileError`]; a checksum that doesn't fit may be a read while the server wrote: read again.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlFileError> {
        let short = ControlFileError::TooShort { len: bytes.len() };
        let version = u32_at(bytes, 8).ok_or(short.clone())?;
        let offsets = match Offsets::of(version) {
            Some(offsets) => offsets,
            None if Offsets::of(version.swap_bytes()).is_some() => {
                return Err(ControlFileError::ByteSwapped { version: version.swap_bytes() });
            }
            None if version == 0 => return Err(ControlFileError::Insane { field: "its version", value: 0 }),
            None => return Err(ControlFileError::UnknownVersion { version }),
        };
        let (Some(covered), Some(stored)) = (bytes.get(..offsets.crc), u32_at(bytes, offsets.crc)) else { return Err(short) };
        let computed = crc32c::crc32c(covered);
        if computed != stored {
            return Err(ControlFileError::Checksum { stored, computed });
        }
        Fields { bytes }.read(version, offsets)
    }

    /// Reads the file by `read` until its checksum fits. The server rewrites it in place, so that a reader can see
    /// half of a change: `read` is called again while the bytes differ, up to `tries` times in all; bytes that are
    /// wrong and the same twice are damage. `read` may pause before it reads again. Returns the bytes that fit, too.
    ///
    /// # Errors
    /// What `read` returns, or what is wrong with the last bytes read.
    pub fn read_stable<E>(
        tries: u32,
        mut read: impl FnMut() -> Result<Vec<u8>, E>,
    ) -> Result<(ControlFile, Vec<u8>), ReadControlFileError<E>> {
        let mut before = read().map_err(ReadControlFileError::Read)?;
        let mut tried = 1;
        loop {
            let error = match ControlFile::parse(&before) {
                Ok(control) => return Ok((control, before)),
                Err(error) => error,
            };
            if tried >= tries || !matches!(error, ControlFileError::Checksum { .. } | ControlFileError::TooShort { .. }) {
                return Err(ReadControlFileError::Bad(error));
            }
            let again = read().map_err(ReadControlFileError::Read)?;
            if again == before {
                return Err(ReadControlFileError::Bad(error));
            }
            before = again;
            tried += 1;
        }
    }

    /// The major version, where the catalog version (or, for 17 to 19, the control version) tells it. `None` for a
    /// fork or a beta of 13 to 16.
    pub fn major(&self) -> Option<u16> {
        match self.control_version {
            1700 => Some(17),
            1800 => Some(18),
            1905 => Some(19),
            _ => CATALOG_VERSIONS.iter().find(|(catalog, _)| *catalog == self.catalog_version).map(|(_, major)| *major),
        }
    }

    /// Whether pages carry checksums.
    pub fn data_checksums(&self) -> DataChecksums {
        match self.data_checksum_version {
            0 => DataChecksums::Off,
            1 => DataChecksums::On,
            other => DataChecksums::Unknown(other),
        }
    }

    /// The values that are compiled into a server, by name: a server with other values refuses this data directory.
    pub fn build_values(&self) -> [(&'static str, u32); 11] {
        [
            ("control file version", self.control_version),
            ("catalog version", self.catalog_version),
            ("data alignment", self.maxalign),
            ("block size", self.blcksz),
            ("blocks per segment of large relation", self.relseg_size),
            ("WAL block size", self.xlog_blcksz),
            ("identifier length", self.namedatalen),
            ("columns in an index", self.index_keys),
            ("TOAST chunk size", self.toast_chunk),
            ("large-object chunk size", self.large_object_chunk),
            ("float8 by value", u32::from(self.float8_by_value)),
        ]
    }
}

/// Why no control file could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadControlFileError<E> {
    /// The reading itself failed.
    #[error(transparent)]
    Read(E),
    /// What was read is no control file.
    #[error(transparent)]
    Bad(ControlFileError),
}

/// Bytes whose checksum was right.
struct Fields<'a> {
    bytes: &'a [u8],
}

impl Fields<'_> {
    fn short(&self) -> ControlFileError {
        ControlFileError::TooShort { len: self.bytes.len() }
    }

    fn u32(&self, at: usize) -> Result<u32, ControlFileError> {
        u32_at(self.bytes, at).ok_or_else(|| self.short())
    }

    fn u64(&self, at: usize) -> Result<u64, ControlFileError> {
        u64_at(self.bytes, at).ok_or_else(|| self.short())
    }

    fn lsn(&self, at: usize) -> Result<Lsn, ControlFileError> {
        self.u64(at).map(Lsn)
    }

    fn flag(&self, at: usize) -> Result<bool, ControlFileError> {
        u8_at(self.bytes, at).map(|b| b != 0).ok_or_else(|| self.short())
    }

    /// `pg_time_t`: seconds since 1970.
    fn time(&self, at: usize) -> Result<Timestamp, ControlFileError> {
        i64_at(self.bytes, at).map(|s| Timestamp(s.saturating_mul(1_000_000))).ok_or_else(|| self.short())
    }

    /// A count that PostgreSQL holds in an `int`.
    fn count(&self, at: usize, field: &'static str) -> Result<u32, ControlFileError> {
        let value = self.u32(at)?;
        if i32::try_from(value).is_ok() { Ok(value) } else { Err(ControlFileError::Insane { field, value: value.into() }) }
    }

    /// A value of the build that is in `range`, and a power of two.
    fn power(&self, at: usize, field: &'static str, range: std::ops::RangeInclusive<u32>) -> Result<u32, ControlFileError> {
        let value = self.u32(at)?;
        if value.is_power_of_two() && range.contains(&value) {
            Ok(value)
        } else {
            Err(ControlFileError::Insane { field, value: value.into() })
        }
    }

    fn read(&self, control_version: u32, offsets: &Offsets) -> Result<ControlFile, ControlFileError> {
        let insane = |field, value: u32| ControlFileError::Insane { field, value: value.into() };
        let nonzero = |field, value: u64| if value == 0 { Err(ControlFileError::Insane { field, value }) } else { Ok(value) };
        let (mrp, align, xlog) = (offsets.min_recovery_point, offsets.maxalign, offsets.xlog_blcksz);
        let state = self.u32(16)?;
        let wal_level = self.u32(mrp + 36)?;
        let segment_size = self.u32(xlog + 4)?;
        let timeline = self.u32(48)?;
        nonzero("the timeline of its checkpoint", timeline.into())?;
        let relseg_size = self.count(align + 16, "relseg_size")?;
        nonzero("relseg_size", relseg_size.into())?;
        Ok(ControlFile {
            system_identifier: nonzero("system identifier", self.u64(0)?)?,
            control_version,
            catalog_version: self.u32(12)?,
            state: ClusterState::from_code(state).ok_or_else(|| insane("state", state))?,
            written_at: self.time(24)?,
            checkpoint: self.lsn(32)?,
            redo: self.lsn(40)?,
            timeline: TimelineId(timeline),
            full_page_writes: self.flag(56)?,
            next_xid: self.u64(offsets.next_xid)?,
            checkpoint_time: self.time(offsets.checkpoint_time)?,
            min_recovery_point: self.lsn(mrp)?,
            min_recovery_timeline: TimelineId(self.u32(mrp + 8)?),
            backup_start: self.lsn(mrp + 16)?,
            backup_end: self.lsn(mrp + 24)?,
            backup_end_required: self.flag(mrp + 32)?,
            wal_level: match wal_level {
                0 => WalLevel::Minimal,
                1 => WalLevel::Replica,
                2 => WalLevel::Logical,
                other => return Err(insane("wal_level", other)),
            },
            wal_log_hints: self.flag(mrp + 40)?,
            max_connections: self.count(mrp + 44, "max_connections")?,
            max_worker_processes: self.count(mrp + 48, "max_worker_processes")?,
            max_wal_senders: self.count(mrp + 52, "max_wal_senders")?,
            max_prepared_transactions: self.count(mrp + 56, "max_prepared_transactions")?,
            max_locks_per_transaction: self.count(mrp + 60, "max_locks_per_transaction")?,
            track_commit_timestamp: self.flag(mrp + 64)?,
            maxalign: self.u32(align)?,
            float_format_ok: f64_at(self.bytes, align + 4) == Some(1_234_567.0),
            blcksz: self.power(align + 12, "blcksz", 1 << 10..=1 << 15)?,
            relseg_size,
            xlog_blcksz: self.power(xlog, "xlog_blcksz", 1 << 10..=1 << 16)?,
            segment_size: SegmentSize::new(segment_size).ok_or_else(|| insane("WAL segment size", segment_size))?,
            namedatalen: self.u32(xlog + 8)?,
            index_keys: self.u32(xlog + 12)?,
            toast_chunk: self.u32(xlog + 16)?,
            large_object_chunk: self.u32(xlog + 20)?,
            float8_by_value: self.flag(offsets.float8_by_value)?,
            data_checksum_version: self.u32(offsets.data_checksums)?,
            char_signed: offsets.char_signed.map(|at| self.flag(at)).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::fixtures;
    use proptest::prelude::*;

    const MAJORS: [u16; 3] = [15, 18, 19];

    fn resealed(major: u16, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut bytes = fixtures::file(major, "pg_control");
        change(&mut bytes);
        let crc_at = if major == 19 {
            308
        } else if major == 18 {
            292
        } else {
            288
        };
        let crc = crc32c::crc32c(&bytes[..crc_at]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn seconds(text: &str) -> Timestamp {
        let time = jiff::fmt::strtime::parse("%a %b %e %H:%M:%S %Y", text).unwrap().to_datetime().unwrap();
        Timestamp(jiff::tz::TimeZone::UTC.to_timestamp(time).unwrap().as_microsecond())
    }

    /// Every line of pg_controldata (in UTC) that the parser has a field for.
    #[test]
    fn all_values_agree_with_pg_controldata() {
        let primaries = [14, 15, 17, 18, 19].map(|major| (major, ""));
        let standbys = MAJORS.map(|major| (major, "_standby"));
        for (major, role) in primaries.into_iter().chain(standbys) {
            let control = ControlFile::parse(&fixtures::file(major, &format!("pg_control{role}"))).unwrap();
            let text = fixtures::text(major, &format!("pg_controldata{role}.txt"));
            let told = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim).unwrap_or_else(|| panic!("{name}"));
            let lsn = |name: &str| told(name).parse::<Lsn>().unwrap();
            let number = |name: &str| told(name).parse::<u32>().unwrap();
            let on = |name: &str| ["on", "yes", "by value", "signed"].contains(&told(name));
            assert_eq!(control.control_version, number("pg_control version number:"));
            assert_eq!(control.catalog_version, number("Catalog version number:"));
            assert_eq!(control.system_identifier.to_string(), told("Database system identifier:"));
            assert_eq!(control.state.words(), told("Database cluster state:"));
            assert_eq!(control.written_at, seconds(told("pg_control last modified:")));
            assert_eq!(control.checkpoint, lsn("Latest checkpoint location:"));
            assert_eq!(control.redo, lsn("Latest checkpoint's REDO location:"));
            assert_eq!(control.timeline.0, number("Latest checkpoint's TimeLineID:"));
            assert_eq!(control.full_page_writes, on("Latest checkpoint's full_page_writes:"));
            assert_eq!(format!("{}:{}", control.next_xid >> 32, control.next_xid as u32), told("Latest checkpoint's NextXID:"));
            assert_eq!(control.checkpoint_time, seconds(told("Time of latest checkpoint:")));
            assert_eq!(control.min_recovery_point, lsn("Minimum recovery ending location:"));
            assert_eq!(control.min_recovery_timeline.0, number("Min recovery ending loc's timeline:"));
            assert_eq!(control.backup_start, lsn("Backup start location:"));
            assert_eq!(control.backup_end, lsn("Backup end location:"));
            assert_eq!(control.backup_end_required, on("End-of-backup record required:"));
            assert_eq!(format!("{:?}", control.wal_level).to_lowercase(), told("wal_level setting:"));
            assert_eq!(control.wal_log_hints, on("wal_log_hints setting:"));
            assert_eq!(control.max_connections, number("max_connections setting:"));
            assert_eq!(control.max_worker_processes, number("max_worker_processes setting:"));
            assert_eq!(control.max_wal_senders, number("max_wal_senders setting:"));
            assert_eq!(control.max_prepared_transactions, number("max_prepared_xacts setting:"));
            assert_eq!(control.max_locks_per_transaction, number("max_locks_per_xact setting:"));
            assert_eq!(control.track_commit_timestamp, on("track_commit_timestamp setting:"));
            assert_eq!(control.maxalign, number("Maximum data alignment:"));
            assert_eq!(control.blcksz, number("Database block size:"));
            assert_eq!(control.relseg_size, number("Blocks per segment of large relation:"));
            assert_eq!(control.xlog_blcksz, number("WAL block size:"));
            assert_eq!(control.segment_size.bytes(), number("Bytes per WAL segment:"));
            assert_eq!(control.namedatalen, number("Maximum length of identifiers:"));
            assert_eq!(control.index_keys, number("Maximum columns in an index:"));
            assert_eq!(control.toast_chunk, number("Maximum size of a TOAST chunk:"));
            assert_eq!(control.large_object_chunk, number("Size of a large-object chunk:"));
            assert_eq!(control.float8_by_value, on("Float8 argument passing:"));
            assert_eq!(control.data_checksum_version, number("Data page checksum version:"));
            assert_eq!(control.char_signed, (major >= 18).then(|| on("Default char data signedness:")));
            assert_eq!(control.min_recovery_point == Lsn(0), role.is_empty());
            assert!(control.float_format_ok);
            assert_eq!(control.major(), Some(major));
            assert_eq!(control.data_checksums(), DataChecksums::On);
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let bytes = fixtures::file(18, "pg_control");
        for (version, swapped) in [(1801u32, false), (1900, false), (1201, false), (1800u32.swap_bytes(), true)] {
            let mut other = bytes.clone();
            other[8..12].copy_from_slice(&version.to_le_bytes());
            let error = ControlFile::parse(&other).unwrap_err();
            let expected = match swapped {
                true => ControlFileError::ByteSwapped { version: 1800 },
                false => ControlFileError::UnknownVersion { version },
            };
            assert_eq!(error, expected);
            assert_eq!(error.class(), Class::Refused);
        }
        assert_eq!(ControlFile::parse(&[0; 8192]).unwrap_err().class(), Class::Corrupt);
        for len in [0, 8, 11, 12, 291, 295] {
            assert_eq!(ControlFile::parse(&bytes[..len]), Err(ControlFileError::TooShort { len }), "{len}");
        }
        assert!(ControlFile::parse(&bytes[..296]).is_ok());
    }

    #[test]
    fn impossible_values_are_no_control_file_even_with_the_right_checksum() {
        let field_at: [(usize, u32, &str); 8] = [
            (16, 7, "state"),
            (48, 0, "the timeline of its checkpoint"),
            (172, 3, "wal_level"),
            (180, u32::MAX, "max_connections"),
            (216, 8191, "blcksz"),
            (220, 0, "relseg_size"),
            (224, 1 << 17, "xlog_blcksz"),
            (228, 3 << 20, "WAL segment size"),
        ];
        for (at, value, field) in field_at {
            let bytes = resealed(15, |b| b[at..at + 4].copy_from_slice(&value.to_le_bytes()));
            assert_eq!(ControlFile::parse(&bytes), Err(ControlFileError::Insane { field, value: value.into() }));
        }
        let unknown = ControlFile::parse(&resealed(19, |b| b[268] = 3)).unwrap();
        assert_eq!(unknown.data_checksums(), DataChecksums::Unknown(3));
        let fork = ControlFile::parse(&resealed(15, |b| b[12] ^= 1)).unwrap();
        assert_eq!(fork.major(), None);
    }

    #[test]
    fn a_half_written_file_is_read_again_and_a_damaged_one_is_not_for_ever() {
        let good = fixtures::file(15, "pg_control");
        let mut torn = good.clone();
        torn[40] ^= 1;
        let run = |reads: Vec<Vec<u8>>| {
            let mut reads = reads.into_iter();
            let mut count = 0;
            let outcome = ControlFile::read_stable(5, || {
                count += 1;
                reads.next().ok_or("no more")
            });
            (outcome.map(|(_, bytes)| bytes == good).map_err(|e| e.to_string()), count)
        };
        assert_eq!(run(vec![torn.clone(), good.clone()]), (Ok(true), 2));
        let damaged = run(vec![torn.clone(), torn.clone()]);
        assert!(damaged.0.unwrap_err().contains("CRC-32C") && damaged.1 == 2);
        let always_torn = (0..9).map(|i| {
            let mut bytes = torn.clone();
            bytes[41] = i;
            bytes
        });
        assert_eq!(run(always_torn.collect()).1, 5);
        assert_eq!(run(vec![]).0, Err("no more".to_owned()));
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_passes(at in 0usize..292, bit in 0u8..8, major in proptest::sample::select(&MAJORS[..])) {
            let mut bytes = fixtures::file(major, "pg_control");
            let covered = if major == 19 { 308 } else if major == 18 { 292 } else { 288 };
            let at = at % covered;
            bytes[at] ^= 1 << bit;
            prop_assert!(ControlFile::parse(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = ControlFile::parse(&bytes);
        }
    }
}
