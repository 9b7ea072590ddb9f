//! The folders that a restore writes to, opened once; everything else is reached from them, name by name, and no link is
//! ever followed. The paths come from a manifest: untrusted bytes; and in a folder that isn't empty anybody may have
//! put anything: links, hard links, pipes.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::{RestoreError, durable};
use crate::units::show;

/// The marker of a restore while it is written.
const UNFINISHED_MARKER: &str = "pgcairn.restore.pgcairn";
/// Names in a path.
const MOST_NAMES: usize = 64;
/// Bytes of a path.
const MOST_BYTES: usize = 4000;

/// The names in a path of a snapshot, once it is sure that they lead nowhere but down.
///
/// # Errors
/// [`RestoreError::Corrupt`] for a path that is absolute, has `.`, `..`, NUL or empty names, or is too long to be one.
pub fn names(path: &[u8]) -> Result<Vec<&[u8]>, RestoreError> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    let bad = |n: &&[u8]| n.is_empty() || *n == b"." || *n == b".." || n.len() > 255 || n.contains(&0);
    if path.len() > MOST_BYTES || names.len() > MOST_NAMES || names.iter().any(bad) {
        let beginning = path.get(..path.len().min(100)).unwrap_or_default();
        return Err(RestoreError::corrupt(beginning, "this is no path within a data directory"));
    }
    Ok(names)
}

/// Who owns what is written, and how it may be accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Permission bits as found.
    pub mode: u32,
    /// Owner as found.
    pub uid: u32,
    /// Group as found.
    pub gid: u32,
}

impl Rights {
    /// Of a folder: as found but at most 0750, and always usable for its owner.
    fn folder(self) -> Mode {
        Mode::from_bits_truncate((self.mode & 0o750 | 0o700) as nix::libc::mode_t)
    }

    /// Of a file: as found but at most 0640.
    fn file(self) -> Mode {
        Mode::from_bits_truncate((self.mode & 0o640) as nix::libc::mode_t)
    }
}

/// The data directory and the tablespaces' folders.
pub struct Folders {
    data: (PathBuf, OwnedFd),
    tablespaces: BTreeMap<Vec<u8>, (PathBuf, OwnedFd)>,
    /// Owners are kept: only root can.
    keep_owner: bool,
    /// What is there already is written over. Of a tablespace's folder only this one in it is ours.
    in_place: Option<Vec<u8>>,
}

/// How sure it must be that something outlives a power failure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Durable {
    Surely,
    IfItCanBe,
}

impl Durable {
    fn sync(self, file: &File) -> io::Result<()> {
        match file.sync_all() {
            Err(_) if self == Durable::IfItCanBe => Ok(()),
            result => result,
        }
    }
}

/// A file to write to.
pub struct Opened {
    /// Open for reading and writing.
    pub file: File,
    /// How long it was before; 0 for a new one.
    pub before: u64,
}

fn errno(what: impl Into<String>) -> impl FnOnce(nix::Error) -> RestoreError {
    let what = what.into();
    move |e| RestoreError::Io { what, source: io::Error::from(e) }
}

pub(super) const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Makes a folder with those above it, unless it is there, and opens it.
fn root(path: &Path, owner: Option<(u32, u32)>) -> Result<OwnedFd, RestoreError> {
    super::place::make_folders(path, owner)?;
    let opened = openat(nix::fcntl::AT_FDCWD, path, FOLDER, Mode::empty());
    opened.map_err(errno(format!("opening {}", path.display())))
}

impl Folders {
    /// Makes or opens the data directory and the folders of tablespaces (by oid). All must be absolute, without links.
    /// Those above them that are not there are given to `owner`.
    ///
    /// # Errors
    /// If one can't be made or opened.
    pub fn open(data: &Path, tablespaces: &BTreeMap<u32, PathBuf>, owner: Option<(u32, u32)>) -> Result<Folders, RestoreError> {
        let opened = tablespaces.iter().map(|(oid, path)| Ok((oid.to_string().into_bytes(), (path.clone(), root(path, owner)?))));
        Ok(Folders {
            data: (data.to_owned(), root(data, owner)?),
            tablespaces: opened.collect::<Result<_, RestoreError>>()?,
            keep_owner: nix::unistd::geteuid().is_root(),
            in_place: None,
        })
    }

    /// From here on what is there is written over, but of a tablespace's folder nothing outside `version_folder`.
    #[must_use]
    pub fn in_place(mut self, version_folder: &str) -> Folders {
        self.in_place = Some(version_folder.as_bytes().to_vec());
        self
    }

    /// Is what may lie at this path ours to replace?
    pub(super) fn may_replace(&self, path: &[u8]) -> bool {
        let Some(version_folder) = &self.in_place else { return false };
        let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        match names.as_slice() {
            [b"pg_tblspc", oid, below @ ..] if self.tablespaces.contains_key(*oid) => below.first() == Some(&version_folder.as_slice()),
            _ => true,
        }
    }

    /// Is this the folder of a tablespace that lies outside the data directory?
    pub(super) fn is_tablespace(&self, path: &[u8]) -> bool {
        path.strip_prefix(b"pg_tblspc/".as_slice()).is_some_and(|oid| self.tablespaces.contains_key(oid))
    }

    /// Where a path lies on this host, for messages.
    pub fn shown(&self, path: &[u8]) -> String {
        self.data.0.join(OsStr::from_bytes(path)).display().to_string()
    }

    /// The opened folders, each with a name for messages.
    pub fn roots(&self) -> impl Iterator<Item = (&Path, BorrowedFd<'_>)> {
        std::iter::once(&self.data).chain(self.tablespaces.values()).map(|(path, fd)| (path.as_path(), fd.as_fd()))
    }

    /// The opened folder below which a path lies, and the names from there.
    fn below_root<'n, 'p>(&self, names: &'n [&'p [u8]]) -> (BorrowedFd<'_>, &'n [&'p [u8]]) {
        if let [b"pg_tblspc", oid, below @ ..] = names
            && let Some((_, fd)) = self.tablespaces.get(*oid)
        {
            return (fd.as_fd(), below);
        }
        (self.data.1.as_fd(), names)
    }

    /// Opens a folder of the snapshot.
    ///
    /// # Errors
    /// If the path is none, or a name on the way is no folder.
    pub fn folder(&self, path: &[u8]) -> Result<OwnedFd, RestoreError> {
        let names = names(path)?;
        let (root, below) = self.below_root(&names);
        let what = || format!("opening {}", self.shown(path));
        let mut at = root.try_clone_to_owned().map_err(RestoreError::io(what()))?;
        for name in below {
            at = openat(&at, *name, FOLDER, Mode::empty()).map_err(errno(what()))?;
        }
        Ok(at)
    }

    /// Makes a folder whose parent is there; of a root only the rights are set.
    ///
    /// # Errors
    /// If the path is none, or it can't be made.
    pub fn make(&self, path: &[u8], rights: Rights) -> Result<(), RestoreError> {
        let parts = names(path)?;
        let (_, below) = self.below_root(&parts);
        if let Some(name) = below.last() {
            let parent = self.folder(parent_of(path))?;
            let mut made = mkdirat(&parent, *name, Mode::S_IRWXU);
            if made == Err(nix::Error::EEXIST) && self.may_replace(path) {
                made = match openat(&parent, *name, FOLDER, Mode::empty()) {
                    Ok(_) => Ok(()),
                    // A link to a folder elsewhere (pg_wal's) is cut; what it leads to stays as it is.
                    Err(nix::Error::ELOOP | nix::Error::ENOTDIR) => {
                        unlinkat(&parent, *name, UnlinkatFlags::NoRemoveDir).and_then(|()| mkdirat(&parent, *name, Mode::S_IRWXU))
                    }
                    Err(e) => Err(e),
                };
            }
            made.map_err(|e| self.cant_make(path, e))?;
        }
        let folder = self.folder(path)?;
        let what = || format!("setting the rights of {}", self.shown(path));
        self.own(folder.as_fd(), rights).map_err(RestoreError::io(what()))?;
        fchmod(&folder, rights.folder()).map_err(errno(what()))
    }

    fn cant_make(&self, path: &[u8], e: nix::Error) -> RestoreError {
        match e {
            nix::Error::EEXIST => {
                RestoreError::corrupt(path, "it is there already: the snapshot names it twice, or somebody else writes here")
            }
            e => RestoreError::Io { what: format!("making {}", self.shown(path)), source: io::Error::from(e) },
        }
    }

    /// Creates a file in an opened folder; `path` is the whole one, for messages.
    ///
    /// # Errors
    /// If something of that name is there, or it can't be made.
    pub fn create(&self, folder: BorrowedFd<'_>, name: &[u8], path: &[u8], rights: Rights) -> Result<File, RestoreError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| self.cant_make(path, e))?;
        let what = || format!("setting the rights of {}", self.shown(path));
        self.own(fd.as_fd(), rights).map_err(RestoreError::io(what()))?;
        fchmod(&fd, rights.file()).map_err(errno(what()))?;
        Ok(File::from(fd))
    }

    /// Creates a file, or opens the one that is there and may be written over: a plain file of this one name. Whatever
    /// else has the name is removed first: through a link, or a second name, something outside would be changed.
    ///
    /// # Errors
    /// If what is there may not be replaced, or it can't be made.
    pub fn open_or_create(&self, folder: BorrowedFd<'_>, name: &[u8], path: &[u8], rights: Rights) -> Result<Opened, RestoreError> {
        if self.may_replace(path)
            && let Some(file) = self.reopen(folder, name, path, rights)?
        {
            return Ok(file);
        }
        Ok(Opened { file: self.create(folder, name, path, rights)?, before: 0 })
    }

    fn reopen(&self, folder: BorrowedFd<'_>, name: &[u8], path: &[u8], rights: Rights) -> Result<Option<Opened>, RestoreError> {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let what = || format!("opening {}", self.shown(path));
        match openat(folder, name, flags, Mode::empty()) {
            Ok(fd) => {
                let file = File::from(fd);
                let m = file.metadata().map_err(RestoreError::io(what()))?;
                if m.is_file() && m.nlink() == 1 {
                    self.own(file.as_fd(), rights).map_err(RestoreError::io(what()))?;
                    fchmod(&file, rights.file()).map_err(errno(what()))?;
                    return Ok(Some(Opened { before: m.len(), file }));
                }
            }
            Err(nix::Error::ENOENT) => return Ok(None),
            Err(nix::Error::ELOOP | nix::Error::EISDIR | nix::Error::EACCES | nix::Error::ENXIO | nix::Error::EPERM) => {}
            Err(e) => return Err(errno(what())(e)),
        }
        super::strangers::remove(folder, name).map_err(RestoreError::io(format!("removing {}", self.shown(path))))?;
        Ok(None)
    }

    /// Puts a small file in a folder, whole or not at all, over what has its name: written beside it, durable, renamed,
    /// and the name made durable.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn replace(&self, folder: &[u8], name: &str, bytes: &[u8], rights: Rights) -> Result<(), RestoreError> {
        self.put(folder, name, bytes, rights, Durable::Surely)
    }

    /// As [`Folders::replace`], and it is there for all that look, too, where the disk can't make it durable: what undoes a
    /// step that failed for that very reason.
    ///
    /// # Errors
    /// Those of the operating system that keep it from being there.
    pub fn put_back(&self, folder: &[u8], name: &str, bytes: &[u8], rights: Rights) -> Result<(), RestoreError> {
        self.put(folder, name, bytes, rights, Durable::IfItCanBe)
    }

    fn put(&self, folder: &[u8], name: &str, bytes: &[u8], rights: Rights, durable: Durable) -> Result<(), RestoreError> {
        let path = join(folder, name.as_bytes());
        let beside = format!("{name}.pgcairn");
        let opened = self.folder(folder)?;
        let what = || format!("writing {}", self.shown(&path));
        super::strangers::remove(opened.as_fd(), beside.as_bytes()).map_err(RestoreError::io(what()))?;
        let mut file = self.create(opened.as_fd(), beside.as_bytes(), &path, rights)?;
        file.write_all(bytes).and_then(|()| durable.sync(&file)).map_err(RestoreError::io(what()))?;
        renameat(&opened, beside.as_str(), &opened, name).map_err(errno(what()))?;
        durable.sync(&File::from(opened)).map_err(RestoreError::io(what()))
    }

    /// Takes a file out of a folder, durably where that can be; that it isn't there is fine.
    ///
    /// # Errors
    /// Those of the operating system; if it is still there.
    pub fn take_away(&self, folder: &[u8], name: &str) -> Result<(), RestoreError> {
        let opened = self.folder(folder)?;
        let what = || format!("removing {}", self.shown(&join(folder, name.as_bytes())));
        match unlinkat(&opened, name, UnlinkatFlags::NoRemoveDir) {
            // A file system that is read-only by now refuses what isn't there, too.
            Err(_) if matches!(fstatat(&opened, name, AtFlags::AT_SYMLINK_NOFOLLOW), Err(nix::Error::ENOENT)) => Ok(()),
            Ok(()) => Durable::IfItCanBe.sync(&File::from(opened)).map_err(RestoreError::io(what())),
            Err(e) => Err(errno(what())(e)),
        }
    }

    /// Renames a file in a folder, durably; that it isn't there is fine.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn set_aside(&self, folder: &[u8], from: &str, to: &str) -> Result<(), RestoreError> {
        let what = || format!("renaming {from} to {to} in {}", self.shown(folder));
        let opened = match self.folder(folder) {
            Err(RestoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        match renameat(&opened, from, &opened, to) {
            Ok(()) | Err(nix::Error::ENOENT) => File::from(opened).sync_all().map_err(RestoreError::io(what())),
            Err(e) => Err(errno(what())(e)),
        }
    }

    /// Removes a file of the data directory, durably; that it isn't there is fine.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn remove_file(&self, name: &str) -> Result<(), RestoreError> {
        let (path, fd) = &self.data;
        let what = || format!("removing {}", path.join(name).display());
        match unlinkat(fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => {}
            Err(e) => return Err(errno(what())(e)),
        }
        nix::unistd::fsync(fd).map_err(errno(what()))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn link(&self, path: &[u8], leads_to: &Path) -> Result<(), RestoreError> {
        let name = names(path)?.pop().ok_or(RestoreError::Internal("a link without a name"))?;
        let parent = self.folder(parent_of(path))?;
        symlinkat(leads_to, &parent, name).map_err(|e| self.cant_make(path, e))
    }

    fn own(&self, fd: BorrowedFd<'_>, rights: Rights) -> io::Result<()> {
        if self.keep_owner { fchown(fd, Some(rights.uid), Some(rights.gid)) } else { Ok(()) }
    }

    /// Makes all that was written durable, contents and names: each file system once, then each folder named.
    ///
    /// # Errors
    /// Those of the operating system; after one nothing is sure.
    pub fn sync<'p>(&self, folders: impl Iterator<Item = &'p [u8]> + Clone) -> Result<(), RestoreError> {
        for (path, fd) in self.roots() {
            nix::unistd::syncfs(fd).map_err(errno(format!("syncing the file system of {}", path.display())))?;
        }
        if !durable::syncfs_tells() {
            self.sync_files(folders.clone())?;
        }
        self.sync_folders(folders)?;
        for (path, _) in self.roots() {
            if let Some(parent) = path.parent() {
                let what = format!("syncing {}", parent.display());
                File::open(parent).and_then(|f| f.sync_all()).map_err(RestoreError::io(what))?;
            }
        }
        Ok(())
    }
}

impl Folders {
    /// Makes the names in folders durable.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn sync_folders<'p>(&self, folders: impl Iterator<Item = &'p [u8]>) -> Result<(), RestoreError> {
        for path in folders {
            File::from(self.folder(path)?).sync_all().map_err(RestoreError::io(format!("syncing {}", self.shown(path))))?;
        }
        Ok(())
    }
}

/// The folder that a path's last name lies in.
pub fn parent_of(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    path.get(..end).unwrap_or_default()
}

/// A path of a folder and a name in it.
pub fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// A small file's bytes, at most `max` of them; a link in its place is not followed, and nothing but a file is waited for.
///
/// # Errors
/// Those of the operating system; `InvalidData` for what is no plain file.
pub(super) fn read_small(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no plain file"));
    }
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// An entry of a folder, unless it is empty or holds no more than a restore's own lock, and a marker that was not yet put
/// in its place.
///
/// # Errors
/// Those of the operating system; that it isn't there is none.
pub fn something_in(folder: &Path) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        if !name.as_bytes().ends_with(b".pgcairn-lock") && name != UNFINISHED_MARKER {
            return Ok(Some(show(name.as_bytes())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn hostile_paths_are_refused() {
        let long = [b'x'; 256];
        let deep = b"a/".repeat(64);
        let bad: [&[u8]; 14] =
            [b"/", b"/etc", b"..", b"../x", b"base/..", b"base/../../x", b"a//b", b"a/", b"./a", b"a/./b", b"a\0b", b".", &long, &deep];
        for path in bad {
            assert!(matches!(names(path), Err(RestoreError::Corrupt { .. })), "{:?}", show(path));
        }
        assert_eq!(names(b"").unwrap(), Vec::<&[u8]>::new());
        assert_eq!(names(b"base/1/..x").unwrap(), [b"base".as_slice(), b"1", b"..x"]);
        assert_eq!((parent_of(b"a/b/c"), parent_of(b"a"), parent_of(b"")), (b"a/b".as_slice(), b"".as_slice(), b"".as_slice()));
    }

    fn mine(mode: u32) -> Rights {
        Rights { mode, uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    #[test]
    fn links_are_never_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let (target, outside) = (scratch.path().join("target"), scratch.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        let folders = Folders::open(&target, &BTreeMap::new(), None).unwrap();
        symlink(&outside, target.join("base")).unwrap();
        symlink(outside.join("file"), target.join("file")).unwrap();
        assert!(folders.folder(b"base").is_err());
        assert!(folders.make(b"base/1", mine(0o700)).is_err());
        assert!(matches!(folders.make(b"base", mine(0o700)), Err(RestoreError::Corrupt { .. })));
        let top = folders.folder(b"").unwrap();
        assert!(matches!(folders.create(top.as_fd(), b"file", b"file", mine(0o600)), Err(RestoreError::Corrupt { .. })));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn tablespaces_lie_where_they_are_mapped_and_rights_are_capped() {
        let scratch = tempfile::tempdir().unwrap();
        let (target, space) = (scratch.path().join("a/target"), scratch.path().join("spaces/16385"));
        let folders = Folders::open(&target, &[(16385, space.clone())].into(), None).unwrap();
        folders.make(b"", mine(0o777)).unwrap();
        folders.make(b"pg_tblspc", mine(0o000)).unwrap();
        folders.make(b"pg_tblspc/16385", mine(0o700)).unwrap();
        folders.make(b"pg_tblspc/16385/PG_18", mine(0o755)).unwrap();
        // Of another oid, an in-place tablespace; and a name that only looks like the oid.
        folders.make(b"pg_tblspc/99", mine(0o700)).unwrap();
        folders.make(b"pg_tblspc/016385", mine(0o700)).unwrap();
        let inner = folders.folder(b"pg_tblspc/16385/PG_18").unwrap();
        drop(folders.create(inner.as_fd(), b"1", b"pg_tblspc/16385/PG_18/1", mine(0o666)).unwrap());
        folders.link(b"pg_tblspc/16385", &space).unwrap();
        let mode = |path: PathBuf| fs::symlink_metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(target.clone()), mode(target.join("pg_tblspc"))), (0o750, 0o700));
        assert_eq!((mode(space.join("PG_18")), mode(space.join("PG_18/1"))), (0o750, 0o640));
        assert!(target.join("pg_tblspc/16385/PG_18/1").is_file() && target.join("pg_tblspc/016385").is_dir());
        assert!(target.join("pg_tblspc/99").is_dir());
        folders.sync([b"".as_slice(), b"pg_tblspc/16385"].into_iter()).unwrap();
    }

    #[test]
    fn a_lock_alone_leaves_a_folder_empty() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(something_in(&scratch.path().join("absent")).unwrap(), None);
        fs::write(scratch.path().join("x.pgcairn-lock"), "").unwrap();
        fs::write(scratch.path().join(UNFINISHED_MARKER), "").unwrap();
        assert_eq!(something_in(scratch.path()).unwrap(), None);
        assert_eq!(UNFINISHED_MARKER, format!("{}.pgcairn", crate::restore::MARKER));
        fs::write(scratch.path().join("x"), "").unwrap();
        assert_eq!(something_in(scratch.path()).unwrap(), Some("x".into()));
    }
}
