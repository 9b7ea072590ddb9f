//! The few calls to the operating system that a directory store makes, so that tests can put a file system below it
//! that forgets what was not fsynced.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

/// What lies under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, pipe, device or socket.
    Other,
}

/// What is known about a file or folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes.
    pub len: u64,
    /// The device it lies on.
    pub dev: u64,
    /// Its number there.
    pub ino: u64,
    /// The user it belongs to.
    pub uid: u32,
    /// The group it belongs to.
    pub gid: u32,
}

impl Stat {
    /// Device and inode: the same for two names of one file.
    pub fn identity(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

/// The calls. None follows a symbolic link in the last part of a path; none retries what failed.
pub trait FileSystem: Send + Sync + 'static {
    /// An open file.
    type File: Send;

    /// The effective user id of this process.
    fn user(&self) -> u32;
    /// Creates a file that isn't there, to write.
    fn open_excl(&self, path: &Path, mode: u32) -> io::Result<Self::File>;
    /// Opens what is there, to read; doesn't wait for a pipe's writer.
    fn open_read(&self, path: &Path) -> io::Result<Self::File>;
    /// Appends all bytes.
    fn write_all(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;
    /// Reads at most `buffer.len()` bytes from `offset`; 0 at the end (pread).
    fn read_at(&self, file: &Self::File, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// What is known about an open file.
    fn stat_file(&self, file: &Self::File) -> io::Result<Stat>;
    /// Gives an open file to a user and group.
    fn chown_file(&self, file: &Self::File, uid: u32, gid: u32) -> io::Result<()>;
    /// Makes a file's bytes durable.
    fn fsync(&self, file: &Self::File) -> io::Result<()>;
    /// Makes a folder's entries durable.
    fn fsync_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives a file a second name; fails with `AlreadyExists` if that is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder.
    fn mkdir(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Removes a folder, if it is empty.
    fn rmdir(&self, path: &Path) -> io::Result<()>;
    /// Gives a folder to a user and group.
    fn chown(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()>;
    /// What is known about what lies under a name.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// When the bytes under a name were last written, by the file system's clock; `None` if it doesn't say.
    fn modified(&self, path: &Path) -> io::Result<Option<SystemTime>> {
        let _ = path;
        Ok(None)
    }
    /// The entries of a folder.
    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Kind)>>;
}

/// The operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

fn kind(of: fs::FileType) -> Kind {
    if of.is_file() {
        Kind::File
    } else if of.is_dir() {
        Kind::Folder
    } else {
        Kind::Other
    }
}

fn stat(of: &fs::Metadata) -> Stat {
    Stat { kind: kind(of.file_type()), len: of.len(), dev: of.dev(), ino: of.ino(), uid: of.uid(), gid: of.gid() }
}

impl FileSystem for RealFs {
    type File = fs::File;

    fn user(&self) -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn open_excl(&self, path: &Path, mode: u32) -> io::Result<fs::File> {
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
    }

    fn open_read(&self, path: &Path) -> io::Result<fs::File> {
        fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)
    }

    fn write_all(&self, file: &mut fs::File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn read_at(&self, file: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        file.read_at(buffer, offset)
    }

    fn stat_file(&self, file: &fs::File) -> io::Result<Stat> {
        file.metadata().map(|m| stat(&m))
    }

    fn chown_file(&self, file: &fs::File, uid: u32, gid: u32) -> io::Result<()> {
        std::os::unix::fs::fchown(file, Some(uid), Some(gid))
    }

    fn fsync(&self, file: &fs::File) -> io::Result<()> {
        file.sync_all()
    }

    fn fsync_dir(&self, path: &Path) -> io::Result<()> {
        fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECTORY).open(path)?.sync_all()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn mkdir(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::DirBuilder::new().mode(mode).create(path)
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn chown(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        fs::symlink_metadata(path).map(|m| stat(&m))
    }

    fn modified(&self, path: &Path) -> io::Result<Option<SystemTime>> {
        fs::symlink_metadata(path)?.modified().map(Some)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Kind)>> {
        fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                Ok((entry.file_name(), kind(entry.file_type()?)))
            })
            .collect()
    }
}
