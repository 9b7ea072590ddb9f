//! Scratch folders.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder below `$TMPDIR` (or /tmp) that is this user's alone and the same in all runs: `pgcairn-test-<uid>`.
pub fn temporary() -> PathBuf {
    let uid = nix::unistd::getuid().as_raw();
    let folder = std::env::temp_dir().join(format!("pgcairn-test-{uid}"));
    let _ = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    let meta = std::fs::symlink_metadata(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    assert!(meta.is_dir() && meta.uid() == uid && meta.mode() & 0o022 == 0, "{} isn't ours alone", folder.display());
    folder
}

/// A scratch folder (0700): removed when dropped, kept and named on stderr when the test has failed.
#[derive(Debug)]
pub struct TestDir {
    path: PathBuf,
}

impl TestDir {
    /// An empty folder.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let made = tempfile::Builder::new().prefix("t").rand_bytes(8).tempdir_in(temporary()).expect("a scratch folder");
        TestDir { path: made.keep().canonicalize().expect("a scratch folder") }
    }

    /// Its absolute path, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path below it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// A new folder below it.
    pub fn folder(&self, name: impl AsRef<Path>) -> PathBuf {
        let folder = self.join(name);
        std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        folder
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept: {}", self.path.display());
        } else {
            remove_tree(&self.path);
        }
    }
}

/// Removes a tree in which tests may have taken permissions away.
pub(super) fn remove_tree(path: &Path) {
    if std::fs::remove_dir_all(path).is_err() {
        let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(path).status();
        let _ = std::fs::remove_dir_all(path);
    }
}

/// Copies a tree with all attributes; `to` must not exist.
pub fn copy_tree(from: &Path, to: &Path) {
    let done = Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to).output().expect("cp");
    assert!(done.status.success(), "cp: {}", String::from_utf8_lossy(&done.stderr));
}

/// Copies a program to where everybody can run it.
pub(super) fn place_program(from: &Path, to: &Path) {
    // A hard link costs nothing; it needs the same file system and a mode that lets others in.
    let open = std::fs::metadata(from).is_ok_and(|m| m.mode() & 0o005 == 0o005);
    if open && std::fs::hard_link(from, to).is_ok() {
        return;
    }
    std::fs::copy(from, to).unwrap_or_else(|e| panic!("{} to {}: {e}", from.display(), to.display()));
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755)).expect("chmod");
}
