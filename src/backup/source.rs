//! The files of a data directory, as a backup sees them. A trait, so that tests can let files vanish and pages tear at
//! the worst moment.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FoundKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A socket, fifo or device.
    Special,
}

/// A name with its attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The name within its folder.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: FoundKind,
    /// Attributes; of a link, the link's own.
    pub stat: Stat,
}

/// Attributes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stat {
    /// Bytes.
    pub size: u64,
    /// Last modification, ns since 1970.
    pub mtime: i64,
    /// Last change of the inode, ns since 1970.
    pub ctime: i64,
    /// Inode.
    pub inode: u64,
    /// Device.
    pub device: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl From<&fs::Metadata> for Stat {
    fn from(m: &fs::Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        Stat {
            size: m.size(),
            mtime: ns(m.mtime(), m.mtime_nsec()),
            ctime: ns(m.ctime(), m.ctime_nsec()),
            inode: m.ino(),
            device: m.dev(),
            mode: m.mode() & 0o7777,
            uid: m.uid(),
            gid: m.gid(),
        }
    }
}

/// An open file.
pub trait SourceFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// These bytes are not needed again: they must not push the server's own pages out of the cache.
    fn done_with(&self, offset: u64, len: u64);
}

/// A tree of files.
pub trait FileSource: Send + Sync {
    /// The names in a folder, sorted; those that vanish meanwhile are missing.
    ///
    /// # Errors
    /// If the folder can't be read.
    fn list(&self, folder: &Path) -> io::Result<Vec<Found>>;

    /// Opens a regular file; never follows a link at its end.
    ///
    /// # Errors
    /// Those of the operating system.
    fn open(&self, path: &Path) -> io::Result<Box<dyn SourceFile>>;

    /// Attributes of what a path leads to, links followed.
    ///
    /// # Errors
    /// Those of the operating system.
    fn stat(&self, path: &Path) -> io::Result<(FoundKind, Stat)>;

    /// Where a link leads.
    ///
    /// # Errors
    /// Those of the operating system.
    fn link(&self, path: &Path) -> io::Result<PathBuf>;
}

/// The file system of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

fn kind_of(m: &fs::Metadata) -> FoundKind {
    let kind = m.file_type();
    if kind.is_file() {
        FoundKind::File
    } else if kind.is_dir() {
        FoundKind::Folder
    } else if kind.is_symlink() {
        FoundKind::Link
    } else {
        FoundKind::Special
    }
}

impl FileSource for Disk {
    fn list(&self, folder: &Path) -> io::Result<Vec<Found>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(m) => all.push(Found { name: entry.file_name().into_vec(), kind: kind_of(&m), stat: Stat::from(&m) }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SourceFile>> {
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
        Ok(Box::new(DiskFile(File::options().read(true).custom_flags(flags).open(path)?)))
    }

    fn stat(&self, path: &Path) -> io::Result<(FoundKind, Stat)> {
        let m = fs::metadata(path)?;
        Ok((kind_of(&m), Stat::from(&m)))
    }

    fn link(&self, path: &Path) -> io::Result<PathBuf> {
        fs::read_link(path)
    }
}

struct DiskFile(File);

impl SourceFile for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn done_with(&self, offset: u64, len: u64) {
        let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        // Advice only: where it isn't taken, nothing is lost but cache.
        let _ = nix::fcntl::posix_fadvise(self.0.as_fd(), offset, len, advice);
    }
}

/// Bytes of a path below the data directory as a path of this host.
pub fn path_of(root: &Path, relative: &[u8]) -> PathBuf {
    if relative.is_empty() { root.to_owned() } else { root.join(std::ffi::OsStr::from_bytes(relative)) }
}
