//! What lies in a data directory and not in the snapshot. A restore in place removes it: a file of a dropped table that
//! stays would be found again by its number, an old segment in pg_wal would be replayed.
//!
//! What stays: the server's log in `log` or `pg_log` where the snapshot has that folder empty (it tells what happened); links
//! that were there at the backup, too, since no snapshot holds them (a postgresql.conf that lies elsewhere); locks and the
//! marker of a restore, `lost+found`; and of a tablespace's folder everything but this cluster's own part. Any other link
//! is removed and never followed; what it leads to stays.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, openat};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::RestoreError;
use super::folders::{FOLDER, Folders, join, names, parent_of};
use super::marker::MARKER;
use super::write::Fate;
use crate::repo::structure::{FileData, Snapshot};
use crate::units::show;

/// The deepest tree that is removed: each level holds a descriptor.
const MAX_DEPTH: usize = 200;
/// Folders whose contents stay where the snapshot has nothing of them.
const LOGS: [&[u8]; 2] = [b"log", b"pg_log"];

/// The names that a snapshot has, folder by folder.
pub(super) struct Expected {
    folders: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    /// Links that the cluster had, as they are shown.
    links: BTreeSet<String>,
}

impl Expected {
    /// Of a snapshot, with the folders that are made in any case.
    ///
    /// # Errors
    /// If it can't be read, names something twice, or something that is no path.
    pub fn of<'p>(
        snapshot: &Snapshot<'_>,
        fate: &dyn Fn(&[u8]) -> Fate,
        made: impl Iterator<Item = &'p Vec<u8>>,
    ) -> Result<Self, RestoreError> {
        let mut folders: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> = made.map(|path| (path.clone(), BTreeSet::new())).collect();
        let mut within: Vec<Vec<u8>> = Vec::new();
        for (meta, child) in snapshot.folders()? {
            let mut files = BTreeSet::new();
            for part in snapshot.parts(&child)? {
                for file in snapshot.files(&part)? {
                    let path = join(&meta.path, &file.attributes.name);
                    names(&path)?;
                    if file.entry.data == FileData::Folder {
                        within.push(path);
                    } else if fate(&path) == Fate::Write && !files.insert(file.attributes.name) {
                        return Err(RestoreError::corrupt(&path, "the snapshot names it twice"));
                    }
                }
            }
            let known = folders.entry(meta.path.clone()).or_default();
            if let Some(twice) = files.iter().find(|name| known.contains(*name)) {
                return Err(RestoreError::corrupt(&join(&meta.path, twice), "the snapshot names it twice"));
            }
            known.extend(files);
        }
        for path in within {
            folders.entry(path).or_default();
        }
        let paths: Vec<Vec<u8>> = folders.keys().filter(|path| !path.is_empty()).cloned().collect();
        for path in paths {
            let parent = parent_of(&path);
            let name = path.get(if parent.is_empty() { 0 } else { parent.len() + 1 }..).unwrap_or_default().to_vec();
            folders.entry(parent.to_vec()).or_default().insert(name);
        }
        Ok(Expected { folders, links: BTreeSet::new() })
    }

    /// Links that a backup has left out stay: `left_out` is what it says of itself.
    #[must_use]
    pub fn with_links(mut self, left_out: &[String]) -> Self {
        self.links = left_out.iter().filter_map(|text| text.strip_suffix(" (a symbolic link)")).map(str::to_owned).collect();
        self
    }

    /// What lies in `folders` besides: paths, in order. Nothing is touched.
    ///
    /// # Errors
    /// If a folder can't be read, or a stranger is a mount point.
    pub fn find(&self, folders: &Folders) -> Result<Vec<Vec<u8>>, RestoreError> {
        let mut strangers = Vec::new();
        for (path, expected) in &self.folders {
            if LOGS.contains(&path.as_slice()) && expected.is_empty() {
                continue;
            }
            let folder = match folders.folder(path) {
                Ok(folder) => folder,
                // Not there yet, or something else in its place, which makes way for it.
                Err(RestoreError::Io { source, .. })
                    if matches!(source.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ELOOP | nix::libc::ENOTDIR)) =>
                {
                    continue;
                }
                Err(e) => return Err(e),
            };
            let reading = || format!("reading {}", folders.shown(path));
            for name in entries(folder.as_fd()).map_err(RestoreError::io(reading()))? {
                let inner = join(path, &name);
                let ours = !folders.is_tablespace(path) || folders.may_replace(&inner);
                // The link of a tablespace is made anew.
                let left_out = self.links.contains(&show(&inner)) && is_link(folder.as_fd(), &name);
                let stays = left_out || (expected.contains(&name) && !folders.is_tablespace(&inner)) || path.is_empty() && is_kept(&name);
                if !stays && ours {
                    check_mount(folder.as_fd(), &name).map_err(RestoreError::io(format!("removing {}", folders.shown(&inner))))?;
                    strangers.push(inner);
                }
            }
        }
        Ok(strangers)
    }
}

fn is_link(folder: BorrowedFd<'_>, name: &[u8]) -> bool {
    let kind = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| stat.st_mode & nix::libc::S_IFMT);
    kind == Ok(nix::libc::S_IFLNK)
}

/// Of the data directory itself.
fn is_kept(name: &[u8]) -> bool {
    name == MARKER.as_bytes() || name == b"lost+found" || name.ends_with(b".pgcairn-lock")
}

/// Removes strangers.
///
/// # Errors
/// The first that can't be removed.
pub(super) fn remove_all(folders: &Folders, strangers: &[Vec<u8>]) -> Result<(), RestoreError> {
    for path in strangers {
        let parent = parent_of(path);
        let name = path.get(if parent.is_empty() { 0 } else { parent.len() + 1 }..).unwrap_or_default();
        // Not through the tablespace's own folder: the link itself is meant.
        let folder = folders.folder(parent)?;
        remove(folder.as_fd(), name).map_err(RestoreError::io(format!("removing {}", folders.shown(path))))?;
    }
    Ok(())
}

/// The names in an open folder.
fn entries(folder: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::openat(folder, c".", FOLDER, Mode::empty())?.iter() {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_bytes().to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes a name with all that lies below it; that it isn't there is fine. Links are removed, not followed.
pub(super) fn remove(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    remove_below(folder, name, 0)
}

fn remove_below(folder: BorrowedFd<'_>, name: &[u8], depth: usize) -> io::Result<()> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => return Ok(()),
        Err(nix::Error::EISDIR | nix::Error::EPERM) => {}
        Err(e) => return Err(e.into()),
    }
    if depth >= MAX_DEPTH {
        return Err(io::Error::other("its folders are nested too deeply"));
    }
    check_mount(folder, name)?;
    let inner: OwnedFd = openat(folder, name, FOLDER, Mode::empty())?;
    for entry in entries(inner.as_fd())? {
        remove_below(inner.as_fd(), &entry, depth + 1)?;
    }
    match unlinkat(folder, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// What is mounted in a data directory is somebody's on purpose, and can't be removed anyway.
fn check_mount(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let there = match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(nix::Error::ENOENT) => return Ok(()),
        there => there?,
    };
    if there.st_dev == fstat(folder)?.st_dev {
        return Ok(());
    }
    Err(io::Error::other("it is a mount point, and the snapshot has no such folder: unmount it first"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::finish;
    use crate::restore::testing::{As, TestSnapshot, file, folder};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn put(root: &Path, paths: &[&str]) {
        for path in paths {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
    }

    fn shown(strangers: &[Vec<u8>]) -> Vec<String> {
        strangers.iter().map(|path| String::from_utf8(path.clone()).unwrap()).collect()
    }

    #[test]
    fn strangers_are_found_and_removed_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let (data, space, outside) = (scratch.path().join("data"), scratch.path().join("space"), scratch.path().join("outside"));
        put(&data, &["PG_VERSION", "mine.conf", "base/1/10", "base/1/11", "base/2/20", "global/pg_control", "log/server.log"]);
        put(&data, &["pgcairn.restore", ".pgcairn-lock", "lost+found/x", "pg_wal/000000010000000000000009", "deep/a/b/c", "base/1/sub/x"]);
        put(&space, &["PG_18_1/5/50", "PG_18_1/5/51", "PG_18_1/6/60", "PG_17_1/5/50", "other"]);
        put(&outside, &["x"]);
        for (to, name) in [(&space, "pg_tblspc/7"), (&outside, "pg_tblspc/8"), (&outside, "base/link"), (&outside, "kept.conf")] {
            fs::create_dir_all(data.join(name).parent().unwrap()).unwrap();
            symlink(to, data.join(name)).unwrap();
        }
        let stored = TestSnapshot::store(
            &[
                folder(
                    "",
                    vec![file("PG_VERSION", "18", As::Joint), file("backup_label", "dropped", As::Joint), file("deep", "", As::Empty)],
                ),
                folder("base/1", vec![file("10", "x", As::Joint)]),
                folder("log", vec![]),
                folder("pg_tblspc/7", vec![]),
                folder("pg_tblspc/7/PG_18_1/5", vec![file("50", "x", As::Joint)]),
            ],
            serde_json::Value::Null,
            |_, _| {},
        );
        let snapshot = stored.open();
        let made =
            ["", "base", "base/1", "global", "log", "pg_tblspc", "pg_tblspc/7", "pg_tblspc/7/PG_18_1", "pg_tblspc/7/PG_18_1/5", "pg_wal"];
        let made: Vec<Vec<u8>> = made.map(|path| path.as_bytes().to_vec()).into();
        let left_out = ["kept.conf (a symbolic link)", "base/1/11 (a symbolic link)", "pipe (a fifo)"].map(str::to_owned);
        let expected = Expected::of(&snapshot, &finish::fate, made.iter()).unwrap().with_links(&left_out);
        let folders = Folders::open(&data, &[(7, space.clone())].into(), None).unwrap().in_place("PG_18_1");
        let strangers = expected.find(&folders).unwrap();
        assert_eq!(
            shown(&strangers),
            [
                "mine.conf",
                "base/2",
                "base/link",
                "base/1/11",
                "base/1/sub",
                "global/pg_control",
                "pg_tblspc/7",
                "pg_tblspc/8",
                "pg_tblspc/7/PG_18_1/6",
                "pg_tblspc/7/PG_18_1/5/51",
                "pg_wal/000000010000000000000009",
            ]
        );
        remove_all(&folders, &strangers).unwrap();
        assert_eq!(expected.find(&folders).unwrap(), Vec::<Vec<u8>>::new());
        for there in ["log/server.log", "pgcairn.restore", ".pgcairn-lock", "lost+found/x", "base/1/10", "deep/a/b/c", "kept.conf"] {
            assert!(data.join(there).exists(), "{there}");
        }
        for there in ["PG_18_1/5/50", "PG_17_1/5/50", "other", "../outside/x"] {
            assert!(space.join(there).exists(), "{there}");
        }
        // A folder in place of a file makes way when the file is written.
        let top = folders.folder(b"").unwrap();
        let rights =
            super::super::folders::Rights { mode: 0o600, uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        assert_eq!(folders.open_or_create(top.as_fd(), b"deep", b"deep", rights).unwrap().before, 0);
        assert!(data.join("deep").is_file());
    }

    #[test]
    fn what_is_named_twice_is_no_plan() {
        let twice = [folder("base", vec![file("1", "x", As::Joint)]), folder("base", vec![file("1", "y", As::Joint)])];
        let stored = TestSnapshot::store(&twice, serde_json::Value::Null, |_, _| {});
        let made = [b"".to_vec(), b"base".to_vec()];
        assert!(matches!(Expected::of(&stored.open(), &finish::fate, made.iter()), Err(RestoreError::Corrupt { .. })));
    }

    #[test]
    fn trees_are_removed_whatever_lies_in_them() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        put(root, &["tree/a/b", "tree/c", "outside/x"]);
        symlink(root.join("outside"), root.join("tree/link")).unwrap();
        nix::unistd::mkfifo(&root.join("tree/pipe"), Mode::S_IRWXU).unwrap();
        let folder = fs::File::open(root).unwrap();
        remove(folder.as_fd(), b"tree").unwrap();
        remove(folder.as_fd(), b"tree").unwrap();
        assert!(!root.join("tree").exists() && root.join("outside/x").exists());
        let deep = root.join("d/".repeat(MAX_DEPTH + 5));
        fs::create_dir_all(&deep).unwrap();
        assert!(remove(folder.as_fd(), b"d").is_err(), "no endless descent");
    }
}
