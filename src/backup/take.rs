//! Copying the files, in backup mode if there is a server, and what is read before and after.

use std::collections::BTreeMap;
use std::path::Path;

use super::annex::{self, Annex, Asking, Configuration};
use super::basis::{Basis, open_parent};
use super::copy::{Copied, Copy};
use super::damage::Damage;
use super::run::{Found, Options, Setting};
use super::scan::{Scan, Scanned};
use super::{BackupError, checks, wal};
use crate::pg::backup_api::{BackupSession, BackupStop, temporary_slot};
use crate::pg::backup_label::BackupLabel;
use crate::pg::connection::Connection;
use crate::pg::control_file::{ControlFile, DataChecksums};
use crate::pg::facts::TablespaceFact;
use crate::pg::layout::DataDirectory;
use crate::repo::log::{Branch, WalMode};
use crate::repo::write::ChunkWriter;
use crate::units::{Explain, Lsn, TimelineId, Timestamp};

/// What the copy of the files came to.
pub(super) struct Taken {
    pub copied: Copied,
    /// Names of the annexes, whose nodes stand behind the folders'.
    pub annexes: Vec<String>,
    /// What is known of the configuration; its files are in an annex.
    pub configuration: Configuration,
    pub scanned: Scanned,
    pub control: Vec<u8>,
    pub timeline: TimelineId,
    pub ancestry: Vec<Branch>,
    pub start: Lsn,
    pub stop: Lsn,
    pub started_at: Timestamp,
    pub stopped_at: Timestamp,
    pub label: Option<String>,
    pub tablespace_map: Option<String>,
}

/// Copies all files, in backup mode if there is a server.
pub(super) fn take(
    setting: &Setting<'_>,
    options: &Options,
    found: &mut Found,
    id: &str,
    basis: &Basis<'_>,
    writer: &ChunkWriter,
    damage: &Damage,
) -> Result<Taken, BackupError> {
    let parent_bytes = basis.parent.map(|c| c.summary.cluster_bytes);
    let parent = open_parent(setting, options, basis.packs, basis.parent, basis.kept, found)?;
    let mut configuration = annex::gather(found.server.as_mut().map(|(c, _)| c), &found.pgdata, setting.progress);
    // Asked while the rest goes on: the names are worth no waiting.
    let asking = found.server.as_mut().zip(setting.server).and_then(|((c, _), conninfo)| Asking::begin(c, conninfo, setting.progress));
    let (layout, mode) = start_backup(setting, options, found, id, &configuration.settings)?;
    let start = mode.as_ref().map_or(found.control.redo, BackupSession::start_lsn);
    let started_at = mode.as_ref().map_or(found.control.written_at, BackupSession::start_time);
    let joint_secret = setting.opened.joint_secret()?;
    let quiet = |pack| basis.ages.of_pack(basis.packs, pack);
    let copy = Copy {
        source: setting.source,
        writer,
        packs: basis.packs,
        opening: setting.opened.opening.as_ref(),
        kept: basis.kept,
        way: basis.way,
        parent: parent.as_ref(),
        damaged_packs: &basis.damaged.packs,
        quiet: &quiet,
        joint_secret: &joint_secret,
        instance: found.instance,
        page_size: found.control.blcksz,
        checksums: found.control.data_checksums() == DataChecksums::On,
        start_lsn: if mode.is_some() { start } else { Lsn(u64::MAX) },
        cdc_for_all: options.cdc_for_all,
        damage,
        cancel: setting.cancel,
        progress: setting.progress,
        jobs: options.jobs,
    };
    let scan = Scan {
        source: setting.source,
        root: &found.pgdata,
        layout: &layout,
        instance: found.instance,
        relseg_size: found.control.relseg_size,
        online: mode.is_some(),
    };
    let total = match parent_bytes {
        Some(bytes) => Some(bytes),
        None => Some(size_of(&scan)?),
    };
    setting.progress.phase("copying", total);
    let mut scanned = Scanned::default();
    let mut copied = copy.run(|feed| {
        scanned = scan.walk(&mut |path, files| if path == b"pg_wal" { Ok(()) } else { feed.folder(path, files) })?;
        Ok(())
    })?;
    // pg_control last of all files, and before the stop.
    let (control, control_bytes) = checks::read_control(setting.source, &found.pgdata)?;
    if mode.is_some() && control.redo < start {
        return Err(BackupError::refused(
            format!("{} does not show the checkpoint that the server has just made", found.pgdata.join("global/pg_control").display()),
            "let --dsn and --pgdata name the same server",
        ));
    }
    let stopped = stop_backup(setting, found, mode, &control, &mut scanned)?;
    let mut annexes: Vec<Annex> = configuration.annex.take().into_iter().collect();
    annexes.extend(asking.map(|asking| asking.end(setting.cancel, setting.progress)));
    let stop = match &stopped {
        Some((stop, _)) => stop.stop_lsn,
        None => wal::end_of_stopped(&found.pgdata, found.control.timeline, found.control.checkpoint, found.control.segment_size)?,
    };
    let stopped_at = stopped.as_ref().map_or(found.control.written_at, |(s, _)| s.stop_time);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| BackupError::Internal("a backup_label that is no text"));
    let timeline = match &stopped {
        Some((stop, _)) => label_of(stop, &control, start)?,
        None => control.timeline,
    };
    found.control = control;
    let span = Span { timeline, start, stop, offline: setting.server.is_none() };
    take_wal(&copy, &scan, &mut scanned, &mut copied, options, found, &span)?;
    let names = store_annexes(&copy, annexes, &mut copied)?;
    let (label, map) = match stopped {
        Some((BackupStop { label, tablespace_map, .. }, _)) => (Some(text(label)?), tablespace_map),
        None => (None, Vec::new()),
    };
    let tablespace_map = if map.is_empty() { None } else { Some(String::from_utf8_lossy(&map).into_owned()) };
    let ancestry = wal::ancestry(&found.pgdata, timeline)?;
    Ok(Taken {
        copied,
        annexes: names,
        configuration,
        scanned,
        control: control_bytes,
        timeline,
        ancestry,
        start,
        stop,
        started_at,
        stopped_at,
        label,
        tablespace_map,
    })
}

/// What is copied, and the server in backup mode, if there is one.
fn start_backup(
    setting: &Setting<'_>,
    options: &Options,
    found: &mut Found,
    id: &str,
    settings: &BTreeMap<String, String>,
) -> Result<(DataDirectory, Option<BackupSession>), BackupError> {
    let mut layout = DataDirectory::new(found.major, found.control.catalog_version);
    // An absolute path may lie inside. Of a stopped cluster, and where the role may not see it, the default is assumed.
    let inside = |folder: &str| Path::new(folder).strip_prefix(&found.pgdata).unwrap_or(Path::new(folder)).to_owned();
    layout = layout.without_log(&inside(settings.get("log_directory").map_or("log", String::as_str)));
    if let Some(folder) = settings.get("stats_temp_directory") {
        layout = layout.without_stats(&inside(folder));
    }
    let Some((mut connection, _)) = found.server.take() else { return Ok((layout, None)) };
    if options.wal == WalMode::Copy
        && let Err(e) = temporary_slot(&mut connection)
    {
        let cure = e.cure().map(|cure| format!(" ({cure})")).unwrap_or_default();
        setting.progress.warn(&format!("WAL is not held back by a replication slot, so a busy server may recycle it too early: {e}{cure}"));
    }
    setting.progress.phase("starting the backup (checkpoint)", None);
    Ok((layout, Some(BackupSession::start(connection, &format!("pgcairn {id}"), options.fast)?)))
}

/// Stores what is recorded beside the data directory. It counts for nothing but the packs that it needs.
fn store_annexes(copy: &Copy<'_>, annexes: Vec<Annex>, copied: &mut Copied) -> Result<Vec<String>, BackupError> {
    let names = annexes.iter().map(|a| a.name.to_owned()).collect();
    let stored = annex::store(copy, annexes)?;
    copied.folders.extend(stored.folders);
    copied.needs.join(&stored.needs);
    Ok(names)
}

/// Ends backup mode; of a stopped cluster, sees that it was not started meanwhile.
fn stop_backup(
    setting: &Setting<'_>,
    found: &Found,
    mode: Option<BackupSession>,
    control: &ControlFile,
    scanned: &mut Scanned,
) -> Result<Option<(BackupStop, Connection)>, BackupError> {
    let Some(mode) = mode else {
        let same = checks::read_control(setting.source, &found.pgdata)?.0 == found.control;
        if !same || found.pgdata.join("postmaster.pid").exists() {
            return Err(BackupError::refused("the cluster was started during the backup", "leave --offline out"));
        }
        return Ok(None);
    };
    setting.progress.phase("stopping the backup", None);
    let (stop, mut connection) = mode.stop()?;
    if connection.is_in_recovery()? || control.system_identifier != found.control.system_identifier {
        return Err(BackupError::refused("the server was replaced or set back during the backup", "take another backup"));
    }
    name_tablespaces(&mut connection, &mut scanned.tablespaces);
    Ok(Some((stop, connection)))
}

/// The WAL that the snapshot needs.
struct Span {
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
    offline: bool,
}

/// The timeline of the start, by the server's own label, which must be about this backup.
fn label_of(stop: &BackupStop, control: &ControlFile, start: Lsn) -> Result<TimelineId, BackupError> {
    let label = BackupLabel::parse(&stop.label, control.segment_size)
        .map_err(|e| BackupError::Cluster { what: "the server's backup_label".into(), why: e.to_string() })?;
    if label.start != start {
        return Err(BackupError::Cluster { what: "the server's backup_label".into(), why: "it is about another backup".into() });
    }
    Ok(label.timeline)
}

/// The WAL of the snapshot itself, if it is kept with it. The folder `pg_wal` comes last in any case.
fn take_wal(
    copy: &Copy<'_>,
    scan: &Scan<'_>,
    scanned: &mut Scanned,
    copied: &mut Copied,
    options: &Options,
    found: &Found,
    span: &Span,
) -> Result<(), BackupError> {
    let at = scanned.folders.iter().position(|f| f.path == b"pg_wal");
    let Some(at) = at else {
        return Err(BackupError::Cluster { what: found.pgdata.display().to_string(), why: "it has no pg_wal".into() });
    };
    let folder = scanned.folders.remove(at);
    scanned.folders.push(folder);
    let names = wal::needed(span.timeline, span.start, span.stop, found.control.segment_size);
    let own = span.offline || options.wal == WalMode::Copy;
    let mut fed = wal::Fed::default();
    let more = copy.run(|feed| {
        if own {
            fed = wal::feed(scan, feed, &names, found.control.system_identifier)?;
            Ok(())
        } else {
            feed.folder(b"pg_wal", Vec::new())
        }
    })?;
    if own {
        let copied = wal::Fed { files: more.files, bytes: more.bytes };
        wal::check_again(scan, &names, fed, copied, found.control.system_identifier)?;
    }
    copied.folders.extend(more.folders);
    copied.needs.join(&more.needs);
    copied.bytes += more.bytes;
    copied.read += more.read;
    copied.files += more.files;
    Ok(())
}

fn size_of(scan: &Scan<'_>) -> Result<u64, BackupError> {
    let mut bytes = 0;
    scan.walk(&mut |_, files| {
        bytes += files.iter().map(|f| f.attributes.size).sum::<u64>();
        Ok(())
    })?;
    Ok(bytes)
}

/// Names are for people: a snapshot is good without.
fn name_tablespaces(connection: &mut Connection, tablespaces: &mut [TablespaceFact]) {
    if tablespaces.is_empty() {
        return;
    }
    let Ok(rows) = connection.query("asking for tablespaces", "SELECT oid, spcname::pg_catalog.text FROM pg_catalog.pg_tablespace") else {
        return;
    };
    for row in rows {
        if let (Ok(oid), Ok(name)) = (row.try_get::<_, u32>(0), row.try_get::<_, String>(1))
            && let Some(tablespace) = tablespaces.iter_mut().find(|t| t.oid == oid)
        {
            tablespace.name = Some(name);
        }
    }
}
