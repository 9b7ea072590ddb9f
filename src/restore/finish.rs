//! What makes written files a data directory, in the order in which an interruption does no harm: the label and the links,
//! settings and signal, everything durable, the manifest, and pg_control last, without which no server starts. Then the
//! marker goes.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use super::RestoreError;
use super::configuration::{self, ConfigFiles};
use super::crc::Crc;
use super::folders::{Folders, Rights, join, parent_of};
use super::marker::{MARKER, Marker};
use super::plan::RestorePlan;
use super::write::{Fate, Written, WrittenFile};
use crate::pg::backup_manifest::ManifestWriter;
use crate::pg::config_files::without_settings;
use crate::pg::recovery::edit_auto_conf;
use crate::units::{SegmentName, Timestamp};

const AUTO_CONF: &[u8] = b"postgresql.auto.conf";

/// Folders that a server needs and a snapshot may hold nothing of.
const FOLDERS: [&str; 12] = [
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_wal/archive_status",
];

/// Folders that are made whether the snapshot has them or not.
pub(super) fn wanted_folders(plan: &RestorePlan) -> Vec<Vec<u8>> {
    let summaries = (plan.facts.major >= 17).then_some("pg_wal/summaries");
    let spaces = plan.tablespaces.iter().map(|t| format!("pg_tblspc/{}", t.oid));
    FOLDERS.into_iter().chain(summaries).map(str::to_owned).chain(spaces).map(String::into_bytes).collect()
}

/// What becomes of a file of the snapshot: some are written by us, and a foreign one must not get in between.
pub(super) fn fate(path: &[u8]) -> Fate {
    match path {
        AUTO_CONF => Fate::Keep,
        b"pgcairn.restore" | b"backup_label" | b"tablespace_map" | b"backup_manifest" | b"recovery.signal" | b"standby.signal"
        | b"postmaster.pid" | b"postmaster.opts" | b"global/pg_control" => Fate::Drop,
        _ => Fate::Write,
    }
}

/// As [`fate`]; copies of configuration files stand in the place of others.
pub(super) fn fate_in(plan: &RestorePlan, path: &[u8]) -> Fate {
    if plan.configuration.as_ref().is_some_and(|c| c.replaces(path)) { Fate::Drop } else { fate(path) }
}

/// The last steps of a restore.
pub(super) struct Finish<'a> {
    pub plan: &'a RestorePlan,
    pub folders: Folders,
    pub written: Written,
    /// Rights of files that we make: the data directory's owner's, readable for the group if that is.
    pub rights: Rights,
}

/// Rights of a new file in a data directory with these.
pub(super) fn rights_of_new(top: Rights) -> Rights {
    Rights { mode: if top.mode & 0o050 == 0 { 0o600 } else { 0o640 }, ..top }
}

impl Finish<'_> {
    /// Everything but the manifest and pg_control, made durable.
    pub fn settle(&mut self) -> Result<(), RestoreError> {
        if let Some(label) = &self.plan.facts.backup_label {
            self.listed(b"backup_label", label.as_bytes(), self.rights)?;
        }
        for space in &self.plan.tablespaces {
            self.folders.link(format!("pg_tblspc/{}", space.oid).as_bytes(), &space.place)?;
        }
        self.configuration()?;
        self.auto_conf()?;
        if let Some(signal) = self.plan.signal {
            self.create(signal.as_bytes(), b"", self.rights)?;
        }
        self.mark_done()?;
        self.tail()?;
        self.folders.sync(self.written.folders.iter().map(Vec::as_slice))
    }

    /// Copies of configuration files that lay outside.
    fn configuration(&mut self) -> Result<(), RestoreError> {
        let plan = self.plan;
        let Some(configuration) = &plan.configuration else { return Ok(()) };
        if configuration.place == ConfigFiles::Beside {
            return configuration::write_beside(configuration, self.rights, plan.owner);
        }
        let mode = if self.rights.mode & 0o040 == 0 { 0o700 } else { 0o750 };
        for folder in &configuration.folders {
            self.folders.make(folder, Rights { mode, ..self.rights })?;
            self.written.folders.push(folder.clone());
        }
        configuration.files.iter().try_for_each(|(path, bytes)| self.listed(path, bytes, self.rights))
    }

    fn auto_conf(&mut self) -> Result<(), RestoreError> {
        let kept = self.written.kept.remove(AUTO_CONF);
        let rights = kept.as_ref().map_or(self.rights, |k| k.rights);
        let mut before = kept.map(|k| k.bytes).unwrap_or_default();
        if let Some(configuration) = &self.plan.configuration {
            before = without_settings(&before, &configuration.without);
        }
        let settings = self.plan.settings.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let comment = if self.plan.settings.is_empty() { "" } else { "Written by pgcairn at restore" };
        let conf = edit_auto_conf(&before, comment, settings).map_err(RestoreError::Recovery)?;
        self.listed(AUTO_CONF, &conf, rights)
    }

    /// Segments that came with the snapshot and lie before its stop are archived by the original, or were never to be: as
    /// pg_basebackup does, they are marked, or the restored server would push them. The segment of the stop is not: the
    /// server may write on in it, and nothing of a cluster that was stopped is marked.
    fn mark_done(&self) -> Result<(), RestoreError> {
        let facts = &self.plan.facts;
        if facts.offline {
            return Ok(());
        }
        let stop = facts.segment_size.segment_of(facts.stop_lsn);
        for file in &self.written.files {
            let name = file.path.strip_prefix(b"pg_wal/".as_slice()).and_then(|name| std::str::from_utf8(name).ok());
            let segment = name.and_then(|name| name.parse::<SegmentName>().ok());
            if let Some(name) = segment.filter(|s| s.no(facts.segment_size).is_some_and(|no| no < stop)) {
                self.create(format!("pg_wal/archive_status/{name}.done").as_bytes(), b"", self.rights)?;
            }
        }
        Ok(())
    }

    /// The unfinished last segment of the target's own WAL, which recovery reads when the archive has no more. What the
    /// snapshot holds under its name is part of the snapshot, and stays.
    fn tail(&self) -> Result<(), RestoreError> {
        let Some((name, saved)) = &self.plan.tail else { return Ok(()) };
        let path = format!("pg_wal/{name}").into_bytes();
        if self.written.files.iter().any(|f| f.path == path) {
            return Ok(());
        }
        let folder = self.folders.folder(b"pg_wal")?;
        let what = || RestoreError::io(format!("copying {} to {}", saved.display(), self.folders.shown(&path)));
        let mut from = File::open(saved).map_err(what())?;
        let mut to = self.folders.create(folder.as_fd(), name.to_string().as_bytes(), &path, self.rights)?;
        io::copy(&mut from, &mut to).and_then(|_| to.sync_all()).map_err(what())
    }

    /// The manifest, then pg_control by rename, then the marker goes. Where one of the two fails, both are undone.
    pub fn complete(mut self) -> Result<(), RestoreError> {
        let control = &self.plan.control_bytes;
        self.written.files.push(WrittenFile { path: b"global/pg_control".to_vec(), mtime: now(), crc: Crc::of(control) });
        self.manifest()?;
        let placed = self.folders.replace(b"global", "pg_control", control, self.rights);
        placed.and_then(|()| self.folders.remove_file(MARKER)).map_err(|failed| self.take_back(failed))
    }

    /// After a failure of the last steps their names may be there, and nobody knows what of them is durable, or whether such
    /// a disk still holds the rest. As after any other failure no server shall start from it, and a restore can go on: the
    /// marker is put back, and pg_control taken away.
    fn take_back(&self, failed: RestoreError) -> RestoreError {
        if !matches!(Marker::read(&self.plan.target), Ok(Some(_))) {
            // Where that fails, too, nothing can go on from here, and the next restore says so.
            let _ = self.folders.put_back(b"", MARKER, &Marker::of(self.plan).encode(), self.rights);
        }
        match self.folders.take_away(b"global", "pg_control") {
            Ok(()) => failed,
            Err(still_there) => {
                let why = still_there.source().map_or_else(|| still_there.to_string(), ToString::to_string);
                let control = self.plan.target.join("global/pg_control");
                RestoreError::Startable { control, why, source: Box::new(failed) }
            }
        }
    }

    fn manifest(&mut self) -> Result<(), RestoreError> {
        let plan = self.plan;
        let what = || RestoreError::io("making backup_manifest");
        let files = &mut self.written.files;
        files.retain(|f| !f.path.starts_with(b"pg_wal/"));
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut manifest = ManifestWriter::new(Vec::new(), plan.facts.major, plan.facts.system_identifier).map_err(what())?;
        for file in files.iter() {
            let modified = Timestamp(file.mtime.div_euclid(1000));
            manifest.file(&file.path, file.crc.len, modified, file.crc.value).map_err(what())?;
        }
        let bytes = manifest.finish(&plan.wal_ranges).map_err(what())?;
        self.create(b"backup_manifest", &bytes, self.rights)?;
        self.sync_folder(b"")
    }

    /// Creates a file that stands in the manifest.
    fn listed(&mut self, path: &[u8], bytes: &[u8], rights: Rights) -> Result<(), RestoreError> {
        self.create(path, bytes, rights)?;
        self.written.files.push(WrittenFile { path: path.to_vec(), mtime: now(), crc: Crc::of(bytes) });
        Ok(())
    }

    /// Creates a file with this content, durable but for its name.
    fn create(&self, path: &[u8], bytes: &[u8], rights: Rights) -> Result<(), RestoreError> {
        let folder = parent_of(path);
        let name = path.get(if folder.is_empty() { 0 } else { folder.len() + 1 }..).unwrap_or_default();
        debug_assert_eq!(join(folder, name), path);
        let opened = self.folders.folder(folder)?;
        let mut file = self.folders.create(opened.as_fd(), name, path, rights)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(RestoreError::io(format!("writing {}", self.folders.shown(path))))
    }

    fn sync_folder(&self, path: &[u8]) -> Result<(), RestoreError> {
        self.folders.sync_folders(std::iter::once(path))
    }
}

fn now() -> i64 {
    Timestamp::now().0.saturating_mul(1000)
}
