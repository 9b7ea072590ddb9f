//! What is asked of a server.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use tokio_postgres::types::FromSql;

use super::{Connection, PgConnError};
use crate::units::{Lsn, SegmentSize, Timestamp};

/// `server_version_num`: 180006 is 18.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// 18 for 18.6.
    pub fn major(self) -> u32 {
        self.0 / 10_000
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.0 % 10_000)
    }
}

/// A server as a backup has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its version.
    pub version: ServerVersion,
    /// The same as the server spells it: `19rc1 (Debian ...)`.
    pub version_text: String,
    /// The system identifier of its cluster, as in `pg_control`.
    pub system_identifier: u64,
    /// Is it a standby, or otherwise in recovery?
    pub in_recovery: bool,
    /// Its data directory; `None` where the role may not know it (`pg_read_all_settings`). So are the next three.
    pub data_directory: Option<PathBuf>,
    /// The main configuration file.
    pub config_file: Option<PathBuf>,
    /// `pg_hba.conf`.
    pub hba_file: Option<PathBuf>,
    /// `pg_ident.conf`.
    pub ident_file: Option<PathBuf>,
    /// `minimal`, `replica` or `logical`.
    pub wal_level: String,
    /// `off`, `on` or `always`.
    pub archive_mode: String,
    /// The command, if archiving is on and there is one.
    pub archive_command: Option<String>,
    /// The archiving module, if there is one (15+).
    pub archive_library: Option<String>,
    /// Of this cluster's WAL.
    pub wal_segment_size: SegmentSize,
    /// Are full-page images written outside of backups as well?
    pub full_page_writes: bool,
    /// Have pages checksums? Only `on` counts.
    pub data_checksums: bool,
    /// Bytes a page.
    pub block_size: u32,
}

/// How archiving goes (`pg_stat_archiver`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archiver {
    /// The file archived last.
    pub last_archived: Option<(String, Timestamp)>,
    /// The file that failed last; it is of the past if a later one, or itself, was archived since.
    pub last_failed: Option<(String, Timestamp)>,
    /// Failures since the statistics were reset.
    pub failed_count: i64,
}

const FACTS: &str = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('server_version', 'data_directory', \
     'config_file', 'hba_file', 'ident_file', 'wal_level', 'archive_mode', 'archive_command', 'archive_library', \
     'wal_segment_size', 'full_page_writes', 'data_checksums', 'block_size')";

impl Connection {
    /// The value of one column of a query's one row.
    fn one<T: for<'a> FromSql<'a>>(&mut self, during: &'static str, sql: &'static str) -> Result<T, PgConnError> {
        let row = self.run(during, move |client| client.query_one(sql, &[]))?;
        row.try_get(0).map_err(|error| PgConnError::answer(during, &error))
    }

    /// Everything about the server that a backup has to know.
    pub fn facts(&mut self) -> Result<Facts, PgConnError> {
        const DURING: &str = "asking for the server's settings";
        let mut settings = HashMap::new();
        for row in self.query(DURING, FACTS)? {
            let get = |i| row.try_get::<_, Option<String>>(i).map_err(|error| PgConnError::answer(DURING, &error));
            settings.insert(get(0)?.unwrap_or_default(), get(1)?.unwrap_or_default());
        }
        let path = |name: &str| settings.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name: &str| settings.get(name).cloned().ok_or_else(|| PgConnError::unexpected(DURING, &format!("no setting {name}")));
        let number = |name: &str| {
            let value = text(name)?;
            value.parse::<u32>().map_err(|_| PgConnError::unexpected(DURING, &format!("{name} = {value}")))
        };
        let segment = number("wal_segment_size")?;
        let archiving = text("archive_mode")? != "off";
        Ok(Facts {
            version: self.version(),
            version_text: text("server_version")?,
            system_identifier: self.system_identifier()?,
            in_recovery: self.is_in_recovery()?,
            data_directory: path("data_directory"),
            config_file: path("config_file"),
            hba_file: path("hba_file"),
            ident_file: path("ident_file"),
            wal_level: text("wal_level")?,
            archive_mode: text("archive_mode")?,
            archive_command: settings.get("archive_command").filter(|command| archiving && !command.is_empty()).cloned(),
            archive_library: settings.get("archive_library").filter(|library| !library.is_empty()).cloned(),
            wal_segment_size: SegmentSize::new(segment)
                .ok_or_else(|| PgConnError::unexpected(DURING, &format!("wal_segment_size = {segment}")))?,
            full_page_writes: text("full_page_writes")? == "on",
            data_checksums: text("data_checksums")? == "on",
            block_size: number("block_size")?,
        })
    }

    /// The cluster's system identifier.
    pub fn system_identifier(&mut self) -> Result<u64, PgConnError> {
        // A bigint in SQL, an unsigned number in pg_control.
        let sql = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
        self.one::<i64>("asking for the system identifier", sql).map(i64::cast_unsigned)
    }

    /// Is the server in recovery (a standby, or restoring)?
    pub fn is_in_recovery(&mut self) -> Result<bool, PgConnError> {
        self.one("asking whether it recovers", "SELECT pg_catalog.pg_is_in_recovery()")
    }

    /// Up to where WAL is written, or replayed on a standby (`None` there before the first record).
    pub fn current_lsn(&mut self) -> Result<Option<Lsn>, PgConnError> {
        const DURING: &str = "asking for the position in WAL";
        let sql = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                   ELSE pg_catalog.pg_current_wal_lsn() END::pg_catalog.text";
        let text: Option<String> = self.one(DURING, sql)?;
        text.map(|text| text.parse().map_err(|_| PgConnError::unexpected(DURING, &text))).transpose()
    }

    /// The server's clock.
    pub fn clock(&mut self) -> Result<Timestamp, PgConnError> {
        let sql = "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8";
        self.one("asking for the time", sql).map(Timestamp)
    }

    /// A setting's value as `SHOW` prints it; `None` where there is no such setting, or where the role may not see it
    /// (`pg_read_all_settings`).
    pub fn setting(&mut self, name: &str) -> Result<Option<String>, PgConnError> {
        const DURING: &str = "asking for a setting";
        let name = name.to_owned();
        let sql = "SELECT pg_catalog.current_setting($1, true)";
        match self.run(DURING, move |client| client.query_one(sql, &[&name])) {
            Ok(row) => row.try_get(0).map_err(|error| PgConnError::answer(DURING, &error)),
            Err(PgConnError::NoRight { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How archiving goes.
    pub fn archiver(&mut self) -> Result<Archiver, PgConnError> {
        const DURING: &str = "asking how archiving goes";
        let sql = "SELECT last_archived_wal, (extract(epoch FROM last_archived_time) * 1000000)::pg_catalog.int8, last_failed_wal, \
                   (extract(epoch FROM last_failed_time) * 1000000)::pg_catalog.int8, failed_count FROM pg_catalog.pg_stat_archiver";
        let row = self.run(DURING, move |client| client.query_one(sql, &[]))?;
        let read = || -> Result<Archiver, tokio_postgres::Error> {
            let file = |name: usize, time: usize| -> Result<Option<(String, Timestamp)>, tokio_postgres::Error> {
                let (name, time) = (row.try_get::<_, Option<String>>(name)?, row.try_get::<_, Option<i64>>(time)?);
                Ok(name.zip(time.map(Timestamp)))
            };
            Ok(Archiver { last_archived: file(0, 1)?, last_failed: file(2, 3)?, failed_count: row.try_get(4)? })
        };
        read().map_err(|error| PgConnError::answer(DURING, &error))
    }
}
