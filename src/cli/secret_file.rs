//! Files with secrets: 0600, whole or not at all, never over something that is there.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::context::Context;
use super::failure::Failure;
use crate::crypt::Secret;
use crate::crypt::slot::key_file_text;
use crate::units::Progress;

/// Writes a new key file unless there is one; an existing one is never touched.
pub(super) fn write_key_file(path: &Path, context: &Context) -> Result<(), Failure> {
    let secret = Secret::random()?;
    if write_new(path, key_file_text(&secret).as_bytes(), "the key file")? {
        context.reporter.info(&format!("a new key was written to {}", path.display()));
    }
    Ok(())
}

/// Removes what a command that was killed left behind: it opens nothing, or is the same file by another name. Its path, if
/// `path` has a file's name.
pub(super) fn remove_unfinished(path: &Path) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name()?);
    name.push(".pgcairn-unfinished");
    let unfinished = path.with_file_name(name);
    drop(std::fs::remove_file(&unfinished));
    Some(unfinished)
}

/// Writes a file that isn't there, durably; half a one never has the name. False: there is one by now.
pub(super) fn write_new(path: &Path, bytes: &[u8], what: &str) -> Result<bool, Failure> {
    let failed = |source| Failure::io(format!("cannot write {what} {}", path.display()), source);
    let unfinished = remove_unfinished(path).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    if path.symlink_metadata().is_ok() {
        return Ok(false);
    }
    let made = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match std::fs::hard_link(&unfinished, path) {
            // A stick with FAT has no links.
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
                std::fs::rename(&unfinished, path)
            }
            other => other,
        }
    };
    let made = made();
    drop(std::fs::remove_file(&unfinished));
    match made {
        // Another process was faster.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        other => other.map_err(failed)?,
    }
    // A secret that is not on disk must not be the only one to what is.
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
        drop(std::fs::remove_file(path));
        return Err(failed(error));
    }
    Ok(true)
}
