//! Is this the right server for this data directory, and a state that can be backed up? Every refusal names its cure.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::BackupError;
use super::source::{FileSource, path_of};
use crate::pg::connection::{Connection, Facts};
use crate::pg::control_file::{ClusterState, ControlFile, ReadControlFileError};

/// How often a control file that doesn't fit its checksum is read again.
const TRIES: u32 = 20;

/// Reads `global/pg_control` until it is whole.
///
/// # Errors
/// If it can't be read, is damaged, or of a version that isn't known.
pub fn read_control(source: &dyn FileSource, pgdata: &Path) -> Result<(ControlFile, Vec<u8>), BackupError> {
    let path = path_of(pgdata, b"global/pg_control");
    let mut first = true;
    let read = || -> Result<Vec<u8>, io::Error> {
        if !std::mem::take(&mut first) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut bytes = vec![0; crate::pg::control_file::FILE_SIZE];
        let got = source.open(&path)?.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        Ok(bytes)
    };
    ControlFile::read_stable(TRIES, read).map_err(|e| match e {
        ReadControlFileError::Read(source) if source.kind() == io::ErrorKind::NotFound => {
            BackupError::refused(format!("{} is no data directory of PostgreSQL", pgdata.display()), "check --pgdata".to_string())
        }
        ReadControlFileError::Read(source) => BackupError::Io { what: format!("reading {}", path.display()), source },
        ReadControlFileError::Bad(e) => BackupError::Cluster { what: path.display().to_string(), why: e.to_string() },
    })
}

/// The major in the file PG_VERSION.
///
/// # Errors
/// If it can't be read, or is none that is supported.
pub fn read_major(pgdata: &Path) -> Result<u16, BackupError> {
    let path = pgdata.join("PG_VERSION");
    let text = fs::read_to_string(&path).map_err(|source| BackupError::Io { what: format!("reading {}", path.display()), source })?;
    match text.trim().parse::<u16>() {
        Ok(major) if (13..=19).contains(&major) => Ok(major),
        _ => Err(BackupError::refused(
            format!("{} says version {:?}", path.display(), text.trim()),
            "PostgreSQL 13 to 19 are supported; use a pgcairn that knows this version",
        )),
    }
}

/// Refuses a server that doesn't run on this data directory, or in a way that can't be backed up.
///
/// # Errors
/// A refusal, or what kept it from looking.
pub fn check_online(
    connection: &mut Connection,
    facts: &Facts,
    control: &ControlFile,
    pgdata: &Path,
    major: u16,
) -> Result<(), BackupError> {
    let here = pgdata.display();
    if facts.system_identifier != control.system_identifier {
        return Err(BackupError::refused(
            format!(
                "the server has system identifier {}, and the data directory {here} {}",
                facts.system_identifier, control.system_identifier
            ),
            "let --dsn and --pgdata name the same server",
        ));
    }
    if facts.version.major() != u32::from(major) {
        return Err(BackupError::refused(
            format!("the server is version {}, and the data directory {here} is of {major}", facts.version),
            "let --dsn and --pgdata name the same server",
        ));
    }
    check_postmaster(connection, pgdata)?;
    if let Some(theirs) = &facts.data_directory
        && !same_folder(theirs, pgdata)
    {
        return Err(BackupError::refused(
            format!("the server runs on {}, and not on {here}", theirs.display()),
            "let --dsn and --pgdata name the same server",
        ));
    }
    if facts.in_recovery {
        return Err(BackupError::refused("the server is a standby", "back up the primary: standbys are not supported yet"));
    }
    if control.state != ClusterState::InProduction {
        return Err(BackupError::refused(
            format!("the data directory {here} is in the state \"{}\"", control.state.words()),
            "wait until the server has finished starting",
        ));
    }
    if facts.wal_level == "minimal" {
        return Err(BackupError::refused("wal_level is minimal", "set wal_level = replica and restart the server"));
    }
    Ok(())
}

/// `postmaster.pid` says when the server started: no other server tells the same.
fn check_postmaster(connection: &mut Connection, pgdata: &Path) -> Result<(), BackupError> {
    let path = pgdata.join("postmaster.pid");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(BackupError::refused(
                format!("no server runs on {}", pgdata.display()),
                "let --dsn and --pgdata name the same server; a stopped one is backed up with --offline",
            ));
        }
        Err(source) => return Err(BackupError::Io { what: format!("reading {}", path.display()), source }),
    };
    let started = text.lines().nth(2).and_then(|line| line.trim().parse::<i64>().ok());
    let rows = connection.query(
        "asking when the server started",
        "SELECT floor(extract(epoch FROM pg_catalog.pg_postmaster_start_time()))::pg_catalog.int8",
    )?;
    let theirs: Option<i64> = rows.first().and_then(|row| row.try_get(0).ok());
    // The postmaster notes its time a moment before it writes the file.
    match (started, theirs) {
        (Some(ours), Some(theirs)) if (ours - theirs).abs() <= 1 => Ok(()),
        _ => Err(BackupError::refused(
            format!("the server that answers is not the one that runs on {}", pgdata.display()),
            "let --dsn and --pgdata name the same server",
        )),
    }
}

fn same_folder(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        // A folder that can't be seen (a container's path) proves nothing; the postmaster's time does.
        _ => true,
    }
}

/// Refuses a data directory that was not stopped cleanly.
///
/// # Errors
/// A refusal.
pub fn check_offline(control: &ControlFile, pgdata: &Path) -> Result<(), BackupError> {
    if pgdata.join("postmaster.pid").exists() {
        return Err(BackupError::refused(
            format!("a server runs on {}, or was killed: there is a postmaster.pid", pgdata.display()),
            "stop it with pg_ctl stop, or leave --offline out",
        ));
    }
    if control.state == ClusterState::ShutDownInRecovery {
        return Err(BackupError::refused(
            format!("{} is a stopped standby", pgdata.display()),
            "back up the primary: standbys are not supported yet",
        ));
    }
    if !control.state.is_shut_down() {
        return Err(BackupError::refused(
            format!("{} was not shut down cleanly: its state is \"{}\"", pgdata.display(), control.state.words()),
            "start and stop the server once, or leave --offline out",
        ));
    }
    Ok(())
}
