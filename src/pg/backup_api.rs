//! The server's backup mode: started and stopped on one connection, which has to live in between; when it ends the
//! server ends the backup (PostgreSQL's documentation, "Making a Base Backup Using the Low Level API").
//!
//! Up to 14 the functions are `pg_start_backup` and `pg_stop_backup` with their non-exclusive mode, from 15 on
//! `pg_backup_start` and `pg_backup_stop`. Which ones there are is asked by name, not guessed from the version.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::connection::{Connection, PgConnError};
use crate::units::{Lsn, Timestamp};

/// The longest label: `backup_label` is a line a value, and the server takes no more than MAXPGPATH.
pub const LABEL_MAX: usize = 1024;

/// Which functions the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    /// `pg_start_backup`, up to 14.
    Old,
    /// `pg_backup_start`, from 15 on.
    New,
}

/// A server in backup mode. Dropped without [`BackupSession::stop`], its connection is closed, which ends the mode; no
/// label comes of it.
#[derive(Debug)]
pub struct BackupSession {
    connection: Connection,
    api: Api,
    start_lsn: Lsn,
    start_time: Timestamp,
}

/// What the server gives at the end of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStop {
    /// WAL is needed up to here; on a segment's boundary, the segment before is the last.
    pub stop_lsn: Lsn,
    /// `backup_label`, byte for byte.
    pub label: Vec<u8>,
    /// `tablespace_map`, byte for byte; empty without tablespaces.
    pub tablespace_map: Vec<u8>,
    /// The server's clock right after the stop.
    pub stop_time: Timestamp,
}

/// A temporary physical replication slot: it keeps the server from recycling WAL, and goes with its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemporarySlot {
    /// Its name.
    pub name: String,
    /// WAL from here on is kept.
    pub restart_lsn: Lsn,
}

const STARTING: &str = "starting the backup";
const STOPPING: &str = "stopping the backup";

impl BackupSession {
    /// Starts backup mode: waits for a checkpoint, at once (`fast`) or spread over the usual time. `label` comes into
    /// `backup_label`; control characters in it become spaces, and it is cut at [`LABEL_MAX`] bytes.
    ///
    /// Interruptible by the connection's cancel flag, as everything here: then backup mode has ended with its session.
    pub fn start(mut connection: Connection, label: &str, fast: bool) -> Result<BackupSession, PgConnError> {
        let api = find_api(&mut connection)?;
        let sql = match api {
            Api::Old => "SELECT lsn::pg_catalog.text, now FROM pg_catalog.pg_start_backup($1, $2, false) AS lsn",
            Api::New => "SELECT lsn::pg_catalog.text, now FROM pg_catalog.pg_backup_start($1, $2) AS lsn",
        };
        let sql = with_clock(sql);
        let label = clean_label(label);
        let row = connection.run(STARTING, move |client| client.query_one(&sql, &[&label, &fast]))?;
        let (start_lsn, start_time) = (lsn_at(&row, 0, STARTING)?, time_at(&row, 1, STARTING)?);
        Ok(BackupSession { connection, api, start_lsn, start_time })
    }

    /// The redo position of the backup's checkpoint: replay begins here.
    pub fn start_lsn(&self) -> Lsn {
        self.start_lsn
    }

    /// The server's clock right after the start.
    pub fn start_time(&self) -> Timestamp {
        self.start_time
    }

    /// The connection, for questions in between. It must not be closed.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Stops backup mode, without waiting for the archive. The connection, with its temporary slots, comes back.
    pub fn stop(mut self) -> Result<(BackupStop, Connection), PgConnError> {
        self.take_bytes_as_they_are()?;
        let sql = match self.api {
            Api::Old => "SELECT lsn::pg_catalog.text, labelfile, spcmapfile, now FROM pg_catalog.pg_stop_backup(false, false)",
            Api::New => "SELECT lsn::pg_catalog.text, labelfile, spcmapfile, now FROM pg_catalog.pg_backup_stop(false)",
        };
        let sql = with_clock(sql);
        let row = self.connection.run(STOPPING, move |client| client.query_one(&sql, &[]))?;
        let stop = BackupStop {
            stop_lsn: lsn_at(&row, 0, STOPPING)?,
            label: bytes_at(&row, 1)?,
            tablespace_map: bytes_at(&row, 2)?,
            stop_time: time_at(&row, 3, STOPPING)?,
        };
        self.connection.run(STOPPING, |client| client.batch_execute("SET client_encoding = 'UTF8'"))?;
        Ok((stop, self.connection))
    }

    /// A tablespace's path is bytes, not text: in a database that isn't in UTF-8 the server would convert them for us,
    /// or fail to. With SQL_ASCII on our side it never does.
    fn take_bytes_as_they_are(&mut self) -> Result<(), PgConnError> {
        let encoding = self.connection.setting("server_encoding")?;
        if encoding.as_deref() != Some("UTF8") {
            self.connection.run(STOPPING, |client| client.batch_execute("SET client_encoding = 'SQL_ASCII'"))?;
        }
        Ok(())
    }
}

/// Makes a temporary slot, reserved at once, that lives as long as this connection: to be made before the backup is
/// started, so that WAL from its start on is still there at its end. Needs the role's REPLICATION attribute and a free
/// slot (`max_replication_slots`).
pub fn temporary_slot(connection: &mut Connection) -> Result<TemporarySlot, PgConnError> {
    const DURING: &str = "making a temporary replication slot";
    // The process id makes the name unique among the sessions of now, and a temporary slot doesn't outlive its own.
    let sql = "SELECT slot_name::pg_catalog.text, lsn::pg_catalog.text FROM \
               pg_catalog.pg_create_physical_replication_slot(('pgcairn_' || pg_catalog.pg_backend_pid())::pg_catalog.name, true, true)";
    let row = connection.run(DURING, move |client| client.query_one(sql, &[]))?;
    let name = row.try_get(0).map_err(|error| PgConnError::answer(DURING, &error))?;
    Ok(TemporarySlot { name, restart_lsn: lsn_at(&row, 1, DURING)? })
}

fn find_api(connection: &mut Connection) -> Result<Api, PgConnError> {
    let sql = "SELECT pg_catalog.to_regprocedure('pg_catalog.pg_backup_start(text,boolean)') IS NOT NULL, \
                      pg_catalog.to_regprocedure('pg_catalog.pg_start_backup(text,boolean,boolean)') IS NOT NULL";
    let row = connection.run(STARTING, move |client| client.query_one(sql, &[]))?;
    let has = |i: usize| row.try_get::<_, bool>(i).map_err(|error| PgConnError::answer(STARTING, &error));
    match (has(0)?, has(1)?) {
        (true, _) => Ok(Api::New),
        (false, true) => Ok(Api::Old),
        (false, false) => Err(PgConnError::unexpected(STARTING, "it has neither pg_backup_start nor pg_start_backup")),
    }
}

/// The server's clock in place of `now`: a function in FROM is evaluated before the row's columns are.
fn with_clock(sql: &str) -> String {
    sql.replace("now", "(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8")
}

fn clean_label(label: &str) -> String {
    let mut clean: String = label.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while clean.len() > LABEL_MAX {
        clean.pop();
    }
    clean
}

fn lsn_at(row: &Row, column: usize, during: &'static str) -> Result<Lsn, PgConnError> {
    let text: &str = row.try_get(column).map_err(|error| PgConnError::answer(during, &error))?;
    text.parse().map_err(|_| PgConnError::unexpected(during, text))
}

fn time_at(row: &Row, column: usize, during: &'static str) -> Result<Timestamp, PgConnError> {
    row.try_get(column).map(Timestamp).map_err(|error| PgConnError::answer(during, &error))
}

fn bytes_at(row: &Row, column: usize) -> Result<Vec<u8>, PgConnError> {
    // NULL where there is nothing: pg_stop_backup's columns in exclusive mode.
    let bytes: Option<TextBytes> = row.try_get(column).map_err(|error| PgConnError::answer(STOPPING, &error))?;
    Ok(bytes.map(|bytes| bytes.0).unwrap_or_default())
}

/// A text's bytes, in whatever encoding.
struct TextBytes(Vec<u8>);

impl<'a> FromSql<'a> for TextBytes {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(TextBytes(raw.to_vec()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stay_on_their_line() {
        assert_eq!(clean_label("pgcairn 20261124-133000 main"), "pgcairn 20261124-133000 main");
        assert_eq!(clean_label("a\nSTART TIMELINE: 7\r\0"), "a START TIMELINE: 7  ");
        assert!(clean_label(&"ü".repeat(LABEL_MAX)).len() <= LABEL_MAX);
    }
}
