//! Replacing a small file whole, and reading one with a bound.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::Path;

use zeroize::Zeroizing;

/// User and group that files are given to, where root writes for another user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Creates a folder and what is missing above it, each 0700. That it is there already is fine.
pub(super) fn create_private_folder(path: &Path, owner: Option<Owner>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_private_folder(parent, owner)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(e) => return Err(e),
    }
    if let Some(owner) = owner {
        fchown(File::open(path)?, Some(owner.uid), Some(owner.gid))?;
    }
    // A parent of another user (0711) can be entered and not opened: then its own file system has to do.
    match parent.map(File::open) {
        Some(Ok(folder)) => folder.sync_all(),
        _ => Ok(()),
    }
}

/// Puts `bytes` under `path`, 0600, whole or not at all: temporary file, fsync, rename, fsync of the folder.
///
/// The temporary name is fixed, so the caller must hold the folder's lock.
pub(super) fn replace(path: &Path, bytes: &[u8], owner: Option<Owner>) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let temporary = folder.join(name);
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    if let Some(owner) = owner {
        fchown(&file, Some(owner.uid), Some(owner.gid))?;
    }
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// Reads a file of at most `limit` bytes. `None` if it isn't there; `InvalidData` if it is longer.
pub(super) fn read_bounded(path: &Path, limit: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    match File::open(path) {
        Ok(file) => read_to_limit(file, limit).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads to the end, at most `limit` bytes; the buffers are zeroized, those outgrown on the way, too.
pub(super) fn read_to_limit(mut source: impl Read, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let mut block = Zeroizing::new([0u8; 4096]);
    loop {
        let n = match source.read(&mut block[..]) {
            Ok(0) => return Ok(bytes),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if bytes.len() + n > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {limit} bytes")));
        }
        if bytes.capacity() - bytes.len() < n {
            let mut larger = Zeroizing::new(Vec::with_capacity((bytes.capacity() * 2).max(8192)));
            larger.extend_from_slice(&bytes);
            bytes = larger;
        }
        bytes.extend_from_slice(block.get(..n).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c.json");
        create_private_folder(path.parent().unwrap(), None).unwrap();
        for bytes in [b"one".as_slice(), b"another"] {
            // A leftover of a killed process is no obstacle, whatever its mode.
            std::fs::write(path.with_file_name("c.json.new"), b"half").unwrap();
            std::fs::set_permissions(path.with_file_name("c.json.new"), PermissionsExt::from_mode(0o444)).unwrap();
            replace(&path, bytes, None).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn reading_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(read_bounded(&path, 10).unwrap(), None);
        std::fs::write(&path, vec![7; 20_000]).unwrap();
        assert_eq!(read_bounded(&path, 20_000).unwrap().unwrap().len(), 20_000);
        assert_eq!(read_bounded(&path, 19_999).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
