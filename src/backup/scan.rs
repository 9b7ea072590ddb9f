//! What of a data directory is copied: walks it folder by folder, in the order of names.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::BackupError;
use super::copy::{FileJob, Pages};
use super::source::{FileSource, Found, FoundKind, Stat};
use crate::pg::facts::TablespaceFact;
use crate::pg::filenode_map::check_filenode_map;
use crate::pg::layout::{DataDirectory, FileKind, FileVerdict, FolderVerdict, Fork};
use crate::repo::structure::{Attributes, FolderMeta, Instance};
use crate::units::ids::hex;
use crate::units::show;

/// What a walk found besides files to copy.
#[derive(Debug, Default)]
pub struct Scanned {
    /// The folders, in the order in which their files were fed.
    pub folders: Vec<FolderMeta>,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<TablespaceFact>,
    /// What was left out because it can't be stored.
    pub left_out: Vec<String>,
    /// Oids of tablespaces with a folder of this cluster's version in them.
    entered: HashSet<u32>,
    /// Oids of links in `pg_tblspc`.
    linked: Vec<u32>,
}

/// What a walk needs to know.
pub struct Scan<'a> {
    /// The files.
    pub source: &'a dyn FileSource,
    /// The data directory.
    pub root: &'a Path,
    /// What is copied and what not.
    pub layout: &'a DataDirectory,
    /// Who reads.
    pub instance: Instance,
    /// Pages of a relation's segment.
    pub relseg_size: u32,
    /// A server runs: recovery will empty unlogged relations. After a clean stop nothing is recovered, and their content
    /// counts.
    pub online: bool,
}

/// Takes the files of a folder; gets its path relative to the data directory.
pub type Take<'t> = dyn FnMut(&[u8], Vec<FileJob>) -> Result<(), BackupError> + 't;

impl Scan<'_> {
    /// Walks all but `pg_wal`'s contents.
    ///
    /// # Errors
    /// If a folder that is there can't be read, or `take` fails.
    pub fn walk(&self, take: &mut Take<'_>) -> Result<Scanned, BackupError> {
        let mut walk = Walk { scan: self, take, found: Scanned::default(), tablespace_folders: HashSet::new() };
        walk.note_tablespace_folders()?;
        let (_, stat) = self.source.stat(self.root).map_err(|e| failed(self.root, e))?;
        walk.folder(Path::new(""), self.root, stat)?;
        walk.check_tablespaces()?;
        Ok(walk.found)
    }

    /// The files of a folder as jobs, without going deeper: for `pg_wal`.
    pub fn plain_job(&self, relative: &Path, path: PathBuf, found: &Found) -> FileJob {
        self.job(relative, path, found, None, None)
    }

    fn job(&self, relative: &Path, path: PathBuf, found: &Found, pages: Option<Pages>, check: Option<fn(&[u8]) -> bool>) -> FileJob {
        let Stat { size, mtime, ctime, inode, mode, uid, gid, .. } = found.stat;
        let attributes =
            Attributes { name: found.name.clone(), is_folder: false, instance: self.instance, mode, uid, gid, size, mtime, ctime, inode };
        FileJob { attributes, path, shown: show(relative.as_os_str().as_bytes()), pages, check }
    }
}

struct Walk<'w, 't> {
    scan: &'w Scan<'w>,
    take: &'w mut Take<'t>,
    found: Scanned,
    /// Device and inode of folders that tablespaces lie in: one inside the data directory must not be read twice.
    tablespace_folders: HashSet<(u64, u64)>,
}

fn failed(path: &Path, source: io::Error) -> BackupError {
    BackupError::Io { what: format!("reading {}", path.display()), source }
}

impl Walk<'_, '_> {
    fn note_tablespace_folders(&mut self) -> Result<(), BackupError> {
        let links = self.scan.root.join("pg_tblspc");
        for found in self.list(&links)?.unwrap_or_default().iter().filter(|f| f.kind == FoundKind::Link) {
            if let Ok((_, stat)) = self.scan.source.stat(&links.join(OsStr::from_bytes(&found.name))) {
                self.tablespace_folders.insert((stat.device, stat.inode));
            }
        }
        Ok(())
    }

    /// `None` if the folder has vanished.
    fn list(&self, path: &Path) -> Result<Option<Vec<Found>>, BackupError> {
        match self.scan.source.list(path) {
            Ok(list) => Ok(Some(list)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(path, e)),
        }
    }

    /// A tablespace whose file system isn't mounted must not be missing silently. One that was dropped meanwhile may.
    fn check_tablespaces(&self) -> Result<(), BackupError> {
        let missing: Vec<u32> = self.found.linked.iter().filter(|oid| !self.found.entered.contains(oid)).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let links = self.list(&self.scan.root.join("pg_tblspc"))?.unwrap_or_default();
        let still = |oid: &&u32| links.iter().any(|f| f.name == oid.to_string().as_bytes());
        match missing.iter().find(still) {
            Some(oid) => Err(BackupError::refused(
                format!("tablespace {oid} can't be found: pg_tblspc/{oid} leads to no folder with this cluster's files"),
                "is its file system mounted? A backup without it would be worthless",
            )),
            None => Ok(()),
        }
    }

    fn keep_folder(&mut self, relative: &Path, stat: Stat) {
        let path = relative.as_os_str().as_bytes().to_vec();
        self.found.folders.push(FolderMeta { path, mode: stat.mode, uid: stat.uid, gid: stat.gid });
    }

    fn folder(&mut self, relative: &Path, path: &Path, stat: Stat) -> Result<(), BackupError> {
        let Some(list) = self.list(path)? else { return Ok(()) };
        let (mut jobs, mut below) = (Vec::new(), Vec::new());
        for found in list {
            let name = OsStr::from_bytes(&found.name);
            let (inner, real) = (relative.join(name), path.join(name));
            match found.kind {
                FoundKind::File => jobs.extend(self.file(path, &inner, real, &found)),
                FoundKind::Folder => below.push((inner, real, found.stat)),
                FoundKind::Link => self.link(relative, inner, real, &found, &mut below)?,
                FoundKind::Special => self.leave_out(&inner, "a socket, fifo or device"),
            }
        }
        self.keep_folder(relative, stat);
        (self.take)(relative.as_os_str().as_bytes(), jobs)?;
        for (inner, real, stat) in below {
            self.enter(&inner, &real, stat, relative)?;
        }
        Ok(())
    }

    fn enter(&mut self, inner: &Path, real: &Path, stat: Stat, parent: &Path) -> Result<(), BackupError> {
        let in_tablespace_links = parent == Path::new("pg_tblspc");
        if !in_tablespace_links && self.tablespace_folders.contains(&(stat.device, stat.inode)) {
            return Ok(());
        }
        match self.scan.layout.folder(inner) {
            FolderVerdict::Enter => {
                self.found.entered.extend(tablespace_of(inner));
                self.folder(inner, real, stat)
            }
            FolderVerdict::Empty(_, folders) => {
                for relative in std::iter::once(inner.to_owned()).chain(folders.iter().map(|f| inner.join(f))) {
                    self.keep_folder(&relative, stat);
                    (self.take)(relative.as_os_str().as_bytes(), Vec::new())?;
                }
                Ok(())
            }
            FolderVerdict::LeaveOut(_) => Ok(()),
        }
    }

    fn file(&mut self, folder: &Path, inner: &Path, real: PathBuf, found: &Found) -> Option<FileJob> {
        let has_init = |name: &str| self.scan.online && self.scan.source.stat(&folder.join(name)).is_ok();
        match self.scan.layout.file(inner, has_init) {
            FileVerdict::Copy(FileKind::Relation(relation)) => {
                let fork = match relation.fork {
                    Fork::Main => "main",
                    Fork::Fsm => "fsm",
                    Fork::Vm => "vm",
                    Fork::Init => "init",
                };
                let pages = relation.block(0, self.scan.relseg_size).map(|first_block| Pages { fork, first_block });
                Some(self.scan.job(inner, real, found, pages, None))
            }
            FileVerdict::Copy(FileKind::FilenodeMap) => {
                Some(self.scan.job(inner, real, found, None, Some(|bytes| check_filenode_map(bytes).is_ok())))
            }
            FileVerdict::Copy(FileKind::Plain) => Some(self.scan.job(inner, real, found, None, None)),
            // Read last of all, by whoever runs the backup.
            FileVerdict::Copy(FileKind::Control) | FileVerdict::LeaveOut(_) => None,
        }
    }

    fn link(
        &mut self,
        folder: &Path,
        inner: PathBuf,
        real: PathBuf,
        found: &Found,
        below: &mut Vec<(PathBuf, PathBuf, Stat)>,
    ) -> Result<(), BackupError> {
        let oid = std::str::from_utf8(&found.name).ok().and_then(|n| n.parse::<u32>().ok());
        let in_links = folder == Path::new("pg_tblspc");
        if let Some(oid) = oid.filter(|_| in_links) {
            self.found.linked.push(oid);
        }
        if is_vital(&inner) {
            return Err(BackupError::refused(
                format!("{} is a symbolic link, which PostgreSQL does not support there", show(inner.as_os_str().as_bytes())),
                "put what it leads to in its place: a backup without it would be worthless",
            ));
        }
        let leads_to = match self.scan.source.stat(&real) {
            Ok(there) => there,
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(nix::libc::ELOOP) => {
                self.leave_out(&inner, "a link to nothing");
                return Ok(());
            }
            Err(e) => return Err(failed(&real, e)),
        };
        match (oid, leads_to) {
            (Some(oid), (FoundKind::Folder, stat)) if in_links => {
                let target = match self.scan.source.link(&real) {
                    Ok(target) => target,
                    // Dropped just now.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                    Err(e) => return Err(failed(&real, e)),
                };
                self.found.tablespaces.push(tablespace(oid, target));
                below.push((inner, real, stat));
            }
            // A linked pg_wal, or another folder whose contents are left out, becomes a plain folder.
            (_, (FoundKind::Folder, stat)) if matches!(self.scan.layout.folder(&inner), FolderVerdict::Empty(..)) => {
                below.push((inner, real, Stat { mode: 0o700, ..stat }));
            }
            _ => self.leave_out(&inner, "a symbolic link"),
        }
        Ok(())
    }

    fn leave_out(&mut self, inner: &Path, why: &str) {
        self.found.left_out.push(format!("{} ({why})", show(inner.as_os_str().as_bytes())));
    }
}

/// Without it, or what lies below it, there is no cluster: left out, or followed where PostgreSQL would not expect it, it
/// would make a backup worthless.
fn is_vital(inner: &Path) -> bool {
    const VITAL: [&str; 8] = ["base", "global", "pg_commit_ts", "pg_logical", "pg_multixact", "pg_twophase", "pg_xact", "PG_VERSION"];
    let mut names = inner.iter();
    match names.next().and_then(OsStr::to_str) {
        // The links of tablespaces themselves are as they should be.
        Some("pg_tblspc") => names.count() != 1,
        Some(first) => VITAL.contains(&first),
        None => false,
    }
}

/// The oid of the tablespace of which this is a folder within.
fn tablespace_of(path: &Path) -> Option<u32> {
    let mut names = path.iter();
    let in_links = names.next() == Some(OsStr::new("pg_tblspc"));
    let oid = names.next().and_then(OsStr::to_str).and_then(|n| n.parse().ok());
    oid.filter(|_| in_links && names.next().is_some())
}

fn tablespace(oid: u32, target: PathBuf) -> TablespaceFact {
    let path_bytes = target.to_str().is_none().then(|| hex(target.as_os_str().as_bytes()));
    let path = target.to_str().map_or_else(|| show(&target.clone().into_os_string().into_vec()), str::to_owned);
    TablespaceFact { oid, name: None, path, path_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_where_a_cluster_keeps_its_data_are_refused() {
        let vital = ["base", "base/5", "base/5/1259", "global", "global/1260", "pg_xact", "pg_xact/0000", "PG_VERSION", "pg_tblspc"];
        let below = ["pg_tblspc/16385/PG_18_202506291", "pg_tblspc/16385/PG_18_202506291/5"];
        for path in vital.into_iter().chain(below) {
            assert!(is_vital(Path::new(path)), "{path}");
        }
        for path in ["pg_tblspc/16385", "pg_wal", "pg_stat_tmp", "log", "postgresql.conf", "baseline", "pg_replslot"] {
            assert!(!is_vital(Path::new(path)), "{path}");
        }
    }
}
