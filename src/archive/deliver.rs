//! Handing a file to the server: whole under its name, or not at all.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::crypt::secret;
use crate::units::ids::hex;

/// A temporary file that is removed unless it got its name.
struct Unfinished {
    path: PathBuf,
    done: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done {
            // What can't be removed stays under a name that no server looks at.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes `bytes` to `dest`, in place of what is there: a temporary name in the same folder, fsync, rename, fsync of the
/// folder.
pub(super) fn deliver(dest: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = dest.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
    let folder = match dest.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Another archive-get may still be running for the same destination, of a server that was killed.
    let random: [u8; 8] = secret::random().map_err(|e| io::Error::other(e.to_string()))?;
    let mut temporary = OsString::from(name);
    temporary.push(format!(".pgcairn-{}", hex(&random)));
    let mut unfinished = Unfinished { path: folder.join(temporary), done: false };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished.path)?;
    file.write_all(bytes)?;
    // Group access is a property of the cluster, and the folder shows it.
    if folder.metadata()?.permissions().mode() & 0o040 != 0 {
        file.set_permissions(Permissions::from_mode(0o640))?;
    }
    file.sync_all()?;
    std::fs::rename(&unfinished.path, dest)?;
    unfinished.done = true;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let dest = folder.path().join("RECOVERYXLOG");
        deliver(&dest, b"one").unwrap();
        deliver(&dest, b"two").unwrap();
        assert_eq!(std::fs::read(&dest).unwrap(), b"two");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o750)).unwrap();
        deliver(&dest, b"three").unwrap();
        assert_eq!(mode(&dest), 0o640);
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        deliver(&dest, b"four").unwrap();
        assert_eq!(mode(&dest), 0o600);
        // A folder in the way: the rename fails, and nothing stays behind.
        std::fs::create_dir(folder.path().join("taken")).unwrap();
        assert!(deliver(&folder.path().join("taken"), b"five").is_err());
        assert!(deliver(&folder.path().join("absent/x"), b"six").is_err());
        assert!(deliver(Path::new("/"), b"seven").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
