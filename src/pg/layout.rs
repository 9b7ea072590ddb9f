//! What a data directory holds, and what of it a backup takes: the rules of pg_basebackup (backup/basebackup.c), by
//! path alone. Nothing is listed or opened here.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Folders whose contents are left out wherever a folder has such a name, `excludeDirContents`.
const EMPTIED_FOLDERS: [&[u8]; 7] =
    [b"pg_dynshmem", b"pg_notify", b"pg_replslot", b"pg_serial", b"pg_snapshots", b"pg_stat_tmp", b"pg_subtrans"];

/// Files that are left out in every folder, `excludeFiles`. `pg_internal.init` is a beginning, not a whole name.
const LEFT_OUT_FILES: [&[u8]; 7] = [
    b"postgresql.auto.conf.tmp",
    b"current_logfiles.tmp",
    b"postmaster.pid",
    b"postmaster.opts",
    b"backup_label",
    b"tablespace_map",
    b"backup_manifest",
];

/// A fork of a relation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fork {
    /// The relation's rows or index entries.
    Main,
    /// The free space map.
    Fsm,
    /// The visibility map.
    Vm,
    /// What an unlogged relation becomes after a crash.
    Init,
}

impl Fork {
    fn suffix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Fsm => "_fsm",
            Self::Vm => "_vm",
            Self::Init => "_init",
        }
    }

    fn from_suffix(suffix: &[u8]) -> Option<Self> {
        match suffix {
            b"fsm" => Some(Self::Fsm),
            b"vm" => Some(Self::Vm),
            b"init" => Some(Self::Init),
            _ => None,
        }
    }
}

/// A file of a relation: `<relfilenode>[_fsm|_vm|_init][.<segment>]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelationFile {
    /// The number in the name; not the relation's oid.
    pub relfilenode: u32,
    /// Which fork.
    pub fork: Fork,
    /// 0 for the file without a number, then from 1.
    pub segment: u32,
}

/// Decimal digits as the server prints numbers: no sign, no leading zero, not zero.
fn number(text: &[u8]) -> Option<u32> {
    let fine = text.first().is_some_and(|b| *b != b'0') && text.len() <= 10 && text.iter().all(u8::is_ascii_digit);
    fine.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

fn split_once(text: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = text.splitn(2, |b| *b == at);
    (parts.next().unwrap_or_default(), parts.next())
}

impl RelationFile {
    /// Reads a file's name (`parse_filename_for_nontemp_relation`); `None` if no relation's file is called so.
    pub fn parse(name: &[u8]) -> Option<Self> {
        let (stem, segment) = split_once(name, b'.');
        let (relfilenode, fork) = split_once(stem, b'_');
        Some(RelationFile {
            relfilenode: number(relfilenode)?,
            fork: fork.map_or(Some(Fork::Main), Fork::from_suffix)?,
            segment: segment.map_or(Some(0), number)?,
        })
    }

    /// The number, within its fork, of the page that lies at `index` in this file: what checksums, WAL and summaries
    /// name. `None` past what a fork can have. `relseg_size` is the control file's.
    pub fn block(&self, index: u64, relseg_size: u32) -> Option<u32> {
        let block = u64::from(self.segment).checked_mul(u64::from(relseg_size))?.checked_add(index)?;
        // InvalidBlockNumber is the last.
        u32::try_from(block).ok().filter(|b| *b != u32::MAX)
    }

    /// The name of the init fork that makes this relation unlogged.
    pub fn init_name(&self) -> String {
        format!("{}_init", self.relfilenode)
    }
}

impl fmt::Display for RelationFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.relfilenode, self.fork.suffix())?;
        if self.segment > 0 { write!(f, ".{}", self.segment) } else { Ok(()) }
    }
}

/// Is this the file of a temporary relation: `t<backend>_<relfilenode>[_fork][.segment]` (`looks_like_temp_rel_name`)?
pub fn is_temporary_relation(name: &[u8]) -> bool {
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let Some(rest) = name.strip_prefix(b"t") else { return false };
    let (backend, Some(rest)) = split_once(rest, b'_') else { return false };
    let (stem, segment) = split_once(rest, b'.');
    let (relfilenode, fork) = split_once(stem, b'_');
    digits(backend) && digits(relfilenode) && fork.is_none_or(|f| Fork::from_suffix(f).is_some()) && segment.is_none_or(digits)
}

/// Why something is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Means nothing to another server: caches, process files, what PostgreSQL makes anew.
    Transient,
    /// A temporary file or relation.
    Temporary,
    /// An unlogged relation's content: recovery makes it from the init fork.
    Unlogged,
    /// The server's log.
    Log,
    /// WAL comes from the archive.
    Wal,
    /// A tablespace's folder of another major or catalog version.
    OtherVersion,
}

/// What to do with a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FolderVerdict {
    /// Keep it and go in.
    Enter,
    /// Keep it, with nothing in it but these empty folders. Even if it is a symbolic link, a plain folder is kept.
    Empty(Why, &'static [&'static str]),
    /// As if it weren't there.
    LeaveOut(Why),
}

/// What to do with a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileVerdict {
    /// Copy it.
    Copy(FileKind),
    /// As if it weren't there.
    LeaveOut(Why),
}

/// What kind of file it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// Pages: checked, and cut into extents.
    Relation(RelationFile),
    /// `global/pg_control`: read safely, and last.
    Control,
    /// A `pg_filenode.map`: read whole, and checked.
    FilenodeMap,
    /// Anything else: copied as it is.
    Plain,
}

/// A data directory as far as paths tell: the version, and where its owner put logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataDirectory {
    major: u16,
    version_folder: String,
    log_folder: Option<PathBuf>,
    stats_folder: Option<PathBuf>,
}

impl DataDirectory {
    /// Of a cluster of this major and catalog version.
    pub fn new(major: u16, catalog_version: u32) -> Self {
        DataDirectory { major, version_folder: format!("PG_{major}_{catalog_version}"), log_folder: None, stats_folder: None }
    }

    /// Leave the contents of `log_directory` out: `folder` is relative to the data directory. A folder outside it, or
    /// the data directory itself, changes nothing.
    #[must_use]
    pub fn without_log(mut self, folder: &Path) -> Self {
        self.log_folder = plain_relative(folder);
        self
    }

    /// Leave the contents of `stats_temp_directory` (13 and 14) out, if it lies in the data directory.
    #[must_use]
    pub fn without_stats(mut self, folder: &Path) -> Self {
        self.stats_folder = plain_relative(folder);
        self
    }

    /// The folder in each tablespace that is this cluster's: `PG_15_202209061`.
    pub fn version_folder(&self) -> &str {
        &self.version_folder
    }

    /// Judges a folder, or a symbolic link that stands for one, by its path relative to the data directory. The
    /// content of tablespaces has paths that begin with `pg_tblspc/<oid>/`.
    pub fn folder(&self, path: &Path) -> FolderVerdict {
        let name = path.file_name().map_or(&b""[..], OsStrExt::as_bytes);
        if self.is_in_tablespace_root(path) && name != self.version_folder.as_bytes() {
            return FolderVerdict::LeaveOut(Why::OtherVersion);
        }
        if name.starts_with(b"pgsql_tmp") {
            return FolderVerdict::LeaveOut(Why::Temporary);
        }
        if name.starts_with(b"pg_internal.init") || LEFT_OUT_FILES.contains(&name) {
            return FolderVerdict::LeaveOut(Why::Transient);
        }
        if EMPTIED_FOLDERS.contains(&name) || self.stats_folder.as_deref() == Some(path) {
            return FolderVerdict::Empty(Why::Transient, &[]);
        }
        if path == Path::new("pg_wal") {
            return FolderVerdict::Empty(Why::Wal, if self.major >= 17 { &["archive_status", "summaries"] } else { &["archive_status"] });
        }
        if self.log_folder.as_deref() == Some(path) {
            return FolderVerdict::Empty(Why::Log, &[]);
        }
        FolderVerdict::Enter
    }

    /// Judges a plain file by its path relative to the data directory. `has_init` is asked whether the same folder
    /// holds a file of that name, the init fork of a relation: look when asked, not before.
    pub fn file(&self, path: &Path, has_init: impl FnOnce(&str) -> bool) -> FileVerdict {
        let name = path.file_name().map_or(&b""[..], OsStrExt::as_bytes);
        if name.starts_with(b"pgsql_tmp") {
            return FileVerdict::LeaveOut(Why::Temporary);
        }
        if name.starts_with(b"pg_internal.init") || LEFT_OUT_FILES.contains(&name) {
            return FileVerdict::LeaveOut(Why::Transient);
        }
        if self.is_in_tablespace_root(path) {
            return FileVerdict::LeaveOut(Why::OtherVersion);
        }
        let place = self.relations_in(path.parent().unwrap_or(Path::new("")));
        if place == Some(Place::Database) && is_temporary_relation(name) {
            return FileVerdict::LeaveOut(Why::Temporary);
        }
        if place == Some(Place::Global) && name == b"pg_control" {
            return FileVerdict::Copy(FileKind::Control);
        }
        if place.is_some() && name == b"pg_filenode.map" {
            return FileVerdict::Copy(FileKind::FilenodeMap);
        }
        let Some(relation) = RelationFile::parse(name).filter(|_| place.is_some()) else { return FileVerdict::Copy(FileKind::Plain) };
        if relation.fork != Fork::Init && has_init(&relation.init_name()) {
            return FileVerdict::LeaveOut(Why::Unlogged);
        }
        FileVerdict::Copy(FileKind::Relation(relation))
    }

    /// `pg_tblspc/<oid>/<something>`: beside what this version of the cluster has there.
    fn is_in_tablespace_root(&self, path: &Path) -> bool {
        let parts = parts(path);
        matches!(parts.as_slice(), [b"pg_tblspc", oid, _] if number(oid).is_some())
    }

    /// Does the folder hold relation files?
    fn relations_in(&self, folder: &Path) -> Option<Place> {
        let parts = parts(folder);
        match parts.as_slice() {
            [b"global"] => Some(Place::Global),
            [b"base", database] if number(database).is_some() => Some(Place::Database),
            [b"pg_tblspc", oid, version, database]
                if number(oid).is_some() && *version == self.version_folder.as_bytes() && number(database).is_some() =>
            {
                Some(Place::Database)
            }
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Global,
    Database,
}

/// The names in a relative path; empty if it is anything else.
fn parts(path: &Path) -> Vec<&[u8]> {
    let names = path.components().map(|part| match part {
        Component::Normal(name) => Some(name.as_bytes()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
    });
    names.collect::<Option<Vec<_>>>().unwrap_or_default()
}

/// The path as [`DataDirectory::folder`] will see it, if it lies below the data directory.
fn plain_relative(path: &Path) -> Option<PathBuf> {
    let path: PathBuf = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
    (!parts(&path).is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fifteen() -> DataDirectory {
        DataDirectory::new(15, 202209061).without_log(Path::new("./log")).without_stats(Path::new("run/stats"))
    }

    #[test]
    fn folders_are_judged_as_by_pg_basebackup() {
        use FolderVerdict::{Empty, Enter, LeaveOut};
        for (path, verdict) in [
            ("base", Enter),
            ("base/5", Enter),
            ("pg_xact", Enter),
            ("pg_logical/snapshots", Enter),
            ("pg_wal", Empty(Why::Wal, &["archive_status"])),
            ("mine/pg_wal", Enter),
            ("pg_replslot", Empty(Why::Transient, &[])),
            ("mine/pg_stat_tmp", Empty(Why::Transient, &[])),
            ("run/stats", Empty(Why::Transient, &[])),
            ("log", Empty(Why::Log, &[])),
            ("mine/log", Enter),
            ("base/pgsql_tmp", LeaveOut(Why::Temporary)),
            ("base/5/pgsql_tmp123.0.fileset", LeaveOut(Why::Temporary)),
            ("pg_tblspc", Enter),
            ("pg_tblspc/16400", Enter),
            ("pg_tblspc/16400/PG_15_202209061", Enter),
            ("pg_tblspc/16400/PG_14_202107181", LeaveOut(Why::OtherVersion)),
            ("pg_tblspc/16400/lost+found", LeaveOut(Why::OtherVersion)),
            ("pg_tblspc/16400/PG_15_202209061/5", Enter),
        ] {
            assert_eq!(fifteen().folder(Path::new(path)), verdict, "{path}");
        }
        assert_eq!(DataDirectory::new(18, 202506291).folder(Path::new("pg_wal")), Empty(Why::Wal, &["archive_status", "summaries"]));
        let nowhere = DataDirectory::new(15, 202209061).without_log(Path::new("/var/log")).without_log(Path::new("."));
        assert_eq!(nowhere, DataDirectory::new(15, 202209061));
    }

    #[test]
    fn files_are_judged_as_by_pg_basebackup() {
        use FileVerdict::{Copy, LeaveOut};
        let relation = |relfilenode, fork, segment| Copy(FileKind::Relation(RelationFile { relfilenode, fork, segment }));
        for (path, verdict) in [
            ("PG_VERSION", Copy(FileKind::Plain)),
            ("postmaster.pid", LeaveOut(Why::Transient)),
            ("postmaster.pid.bak", Copy(FileKind::Plain)),
            ("mine/postmaster.opts", LeaveOut(Why::Transient)),
            ("backup_label", LeaveOut(Why::Transient)),
            ("backup_label.old", Copy(FileKind::Plain)),
            ("tablespace_map.old", Copy(FileKind::Plain)),
            ("backup_manifest", LeaveOut(Why::Transient)),
            ("current_logfiles", Copy(FileKind::Plain)),
            ("postgresql.auto.conf", Copy(FileKind::Plain)),
            ("postgresql.auto.conf.tmp", LeaveOut(Why::Transient)),
            ("global/pg_control", Copy(FileKind::Control)),
            ("mine/pg_control", Copy(FileKind::Plain)),
            ("global/pg_filenode.map", Copy(FileKind::FilenodeMap)),
            ("base/5/pg_filenode.map", Copy(FileKind::FilenodeMap)),
            ("global/pg_internal.init", LeaveOut(Why::Transient)),
            ("base/5/pg_internal.init.4711", LeaveOut(Why::Transient)),
            ("base/5/PG_VERSION", Copy(FileKind::Plain)),
            ("global/1262", relation(1262, Fork::Main, 0)),
            ("base/5/2619_fsm", relation(2619, Fork::Fsm, 0)),
            ("base/5/16384.1", relation(16384, Fork::Main, 1)),
            ("base/5/16390", LeaveOut(Why::Unlogged)),
            ("base/5/16390.1", LeaveOut(Why::Unlogged)),
            ("base/5/16390_vm", LeaveOut(Why::Unlogged)),
            ("base/5/16390_init", relation(16390, Fork::Init, 0)),
            ("base/5/t3_16391", LeaveOut(Why::Temporary)),
            ("base/5/t3_16391_fsm.2", LeaveOut(Why::Temporary)),
            ("base/5/t3_16391_old", Copy(FileKind::Plain)),
            ("mine/t3_16391", Copy(FileKind::Plain)),
            ("base/5/16384.bak", Copy(FileKind::Plain)),
            ("base/pgsql_tmp/pgsql_tmp77.0", LeaveOut(Why::Temporary)),
            ("pg_xact/0000", Copy(FileKind::Plain)),
            ("mine/16384", Copy(FileKind::Plain)),
            ("pg_tblspc/16400/PG_15_202209061/5/16401_vm.3", relation(16401, Fork::Vm, 3)),
            ("pg_tblspc/16400/PG_15_202209061/5/t1_16401", LeaveOut(Why::Temporary)),
            ("pg_tblspc/16400/notes.txt", LeaveOut(Why::OtherVersion)),
        ] {
            assert_eq!(fifteen().file(Path::new(path), |init| init == "16390_init"), verdict, "{path}");
        }
    }

    #[test]
    fn only_the_servers_own_spelling_is_a_relation() {
        for bad in [
            "",
            "0",
            "01",
            "1_",
            "1_main",
            "1_fsm_vm",
            "1.",
            "1.0",
            "1.01",
            "1.1.1",
            "1_fsm.x",
            "x1",
            "+1",
            "4294967296",
            "99999999999",
            "_init",
            "1 ",
            "1\u{e9}",
        ] {
            assert_eq!(RelationFile::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(RelationFile::parse(b"4294967295_init.9").map(|r| r.to_string()).as_deref(), Some("4294967295_init.9"));
        for bad in ["t", "t3", "t3_", "t_1", "tx_1", "t3_1_", "t3_1.", "t3_1.x", "u3_1"] {
            assert!(!is_temporary_relation(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn blocks_count_over_segments_and_end_before_the_invalid_number() {
        let file = |segment| RelationFile { relfilenode: 1, fork: Fork::Main, segment };
        assert_eq!(file(0).block(7, 131_072), Some(7));
        assert_eq!(file(3).block(7, 131_072), Some(393_223));
        assert_eq!(file(32_767).block(131_070, 131_072), Some(u32::MAX - 1));
        assert_eq!(file(32_767).block(131_071, 131_072), None);
        assert_eq!(file(u32::MAX).block(u64::MAX, u32::MAX), None);
    }

    proptest! {
        #[test]
        fn relation_names_survive_printing(relfilenode in 1u32.., fork in 0usize..4, segment: u32) {
            let fork = [Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init][fork];
            let file = RelationFile { relfilenode, fork, segment };
            prop_assert_eq!(RelationFile::parse(file.to_string().as_bytes()), Some(file));
        }

        #[test]
        fn any_name_is_judged_without_a_panic(name in proptest::collection::vec(1u8.., 0..20)) {
            let path = Path::new("base/5").join(std::ffi::OsStr::from_bytes(&name));
            let _ = (fifteen().file(&path, |_| true), fifteen().folder(&path));
        }
    }
}
