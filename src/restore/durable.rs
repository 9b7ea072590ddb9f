//! Making files durable one by one, where the operating system doesn't tell of all of them at once.
//!
//! Before Linux 5.8 `syncfs` doesn't report what could not be written (Linux commit 735e4ae5ba28; PostgreSQL warns of it at
//! `recovery_init_sync_method`). `fsync` of each file does, also of what was written back before, and costs little once all is.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::RestoreError;
use super::folders::{FOLDER, Folders};

/// The first version of Linux whose `syncfs` tells.
const TELLS: (u32, u32) = (5, 8);

/// Does `syncfs` report errors here? What isn't known doesn't.
pub(super) fn syncfs_tells() -> bool {
    fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|release| tells(&release))
}

fn tells(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= TELLS)
}

impl Folders {
    /// Makes the files in these folders durable, each by itself.
    ///
    /// # Errors
    /// Those of the operating system; after one nothing is sure.
    pub(super) fn sync_files<'p>(&self, folders: impl Iterator<Item = &'p [u8]>) -> Result<(), RestoreError> {
        for path in folders {
            self.sync_files_in(path).map_err(RestoreError::io(format!("syncing the files in {}", self.shown(path))))?;
        }
        Ok(())
    }

    fn sync_files_in(&self, path: &[u8]) -> io::Result<()> {
        let folder = self.folder(path).map_err(io::Error::other)?;
        let mut listed = Dir::from_fd(openat(&folder, ".", FOLDER, Mode::empty())?)?;
        for entry in listed.iter() {
            let entry = entry?;
            match fstatat(folder.as_fd(), entry.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG => {}
                Ok(_) | Err(Errno::ENOENT) => continue,
                Err(e) => return Err(e.into()),
            }
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            match openat(&folder, entry.file_name(), flags, Mode::empty()) {
                Ok(file) => File::from(file).sync_all()?,
                Err(Errno::ENOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn versions_that_tell_are_known() {
        for (release, expected) in [
            ("5.8.0", true),
            ("5.10.0-28-amd64\n", true),
            ("6.1", true),
            ("10.0.1", true),
            ("5.7.19", false),
            ("4.18.0-553.el8.x86_64", false),
            ("3.10.0", false),
            ("5", false),
            ("", false),
            ("Linux", false),
            ("99999999999.9", false),
        ] {
            assert_eq!(tells(release), expected, "{release:?}");
        }
    }

    #[test]
    fn files_are_synced_and_nothing_else_is_touched() {
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("data");
        fs::create_dir_all(target.join("base/1")).unwrap();
        fs::write(target.join("base/1/16384"), b"x").unwrap();
        std::os::unix::fs::symlink("/nowhere", target.join("base/link")).unwrap();
        nix::unistd::mkfifo(&target.join("base/pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        let folders = Folders::open(&target, &BTreeMap::new(), None).unwrap();
        folders.sync_files([b"".as_slice(), b"base", b"base/1"].into_iter()).unwrap();
        let error = folders.sync_files([b"gone".as_slice()].into_iter()).unwrap_err();
        assert!(error.to_string().contains("syncing the files in"), "{error}");
    }
}
