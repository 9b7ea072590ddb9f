//! How an object becomes durable. The order is what counts, and a test kills it after every step:
//!
//! 1. write `tmp/<session>-<random>`, created exclusively, and fsync it: its bytes are durable before any name shows them
//! 2. make the object's folder where it is missing, and fsync each folder that leads to it
//! 3. link the file to the object's name: fails if the name is taken, and never shows a part
//! 4. remove the name in `tmp`
//! 5. fsync the object's folder: the name is durable, and the caller may rely on it

use super::LocalStore;
use super::fs::{FileSystem, Kind};
use crate::store::name::UNFINISHED;
use crate::store::{Create, ObjectName, SessionTag, StoreError};
use crate::units::ids::hex;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Mode of files.
const FILE_MODE: u32 = 0o600;
/// Mode of folders.
pub(super) const FOLDER_MODE: u32 = 0o700;
/// How often a folder may vanish.
const PATIENCE: usize = 100;
/// How much is compared at once.
const COMPARE: usize = 256 << 10;

/// A file in `tmp` that loses its name there when this is dropped.
pub(super) struct Unfinished<'a, F: FileSystem> {
    fs: &'a F,
    pub(super) path: PathBuf,
}

impl<F: FileSystem> Drop for Unfinished<'_, F> {
    fn drop(&mut self) {
        // A name that stays is a leftover, found by its session later; no reason to fail now.
        let _ = self.fs.unlink(&self.path);
    }
}

impl<F: FileSystem> LocalStore<F> {
    pub(super) fn create_object(&self, name: &ObjectName, parts: &[&[u8]], session: &SessionTag) -> Result<Create, StoreError> {
        self.check_writable()?;
        let target = self.path_of(name);
        let folder = target.parent().unwrap_or(&self.root).to_owned();
        // Most repeated creates end here, without writing anything.
        match self.fs.stat(&target) {
            Ok(_) => return self.settle(name, &target, &folder, parts),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound) => {}
            Err(e) => return Err(StoreError::from_io(format!("looking at {}", target.display()), e)),
        }
        let unfinished = self.write_unfinished(parts, session)?;
        let mut linked = Err(io::Error::from(ErrorKind::NotFound));
        // A prune may remove an empty folder behind our back; each time it is made again.
        for _ in 0..PATIENCE {
            self.ensure_folder(&folder)?;
            linked = self.link_exclusively(&unfinished.path, &target);
            if !matches!(&linked, Err(e) if e.kind() == ErrorKind::NotFound) {
                break;
            }
            self.check_root()?;
            self.durable().clear();
        }
        match linked {
            Ok(true) => {
                drop(unfinished);
                self.fs.fsync_dir(&folder).map_err(|e| self.not_durable(&folder, e))?;
                Ok(Create::Created)
            }
            Ok(false) => self.settle(name, &target, &folder, parts),
            Err(e) => Err(StoreError::from_io(format!("linking {}", target.display()), e)),
        }
    }

    /// Nothing is written after a failed fsync, nor into a folder that has taken the place of ours.
    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        if self.failed.load(Ordering::SeqCst) {
            return Err(StoreError::NotDurableBefore { path: self.root.clone() });
        }
        self.check_root()
    }

    /// Step 1. The bytes are durable when this returns.
    pub(super) fn write_unfinished(&self, parts: &[&[u8]], session: &SessionTag) -> Result<Unfinished<'_, F>, StoreError> {
        let folder = self.root.join(UNFINISHED);
        self.ensure_folder(&folder)?;
        let path = folder.join(unfinished_name(session)?);
        let failed = |e| StoreError::from_io(format!("writing {}", path.display()), e);
        let mut file = self.fs.open_excl(&path, FILE_MODE).map_err(failed)?;
        let unfinished = Unfinished { fs: &self.fs, path: path.clone() };
        if let Some((uid, gid)) = self.owner {
            self.fs.chown_file(&file, uid, gid).map_err(failed)?;
        }
        for part in parts {
            self.fs.write_all(&mut file, part).map_err(failed)?;
        }
        self.fs.fsync(&file).map_err(|e| self.not_durable(&path, e))?;
        Ok(unfinished)
    }

    /// Step 2. When this returns, the entries of `folder` and of all above it, up to the root, are durable: also those
    /// that another process has just made, which may not have come to its fsync.
    pub(super) fn ensure_folder(&self, folder: &Path) -> Result<(), StoreError> {
        if folder == self.root || self.durable().contains(folder) {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(&self.root);
        self.ensure_folder(parent)?;
        self.make_folder(folder)?;
        self.fs.fsync_dir(parent).map_err(|e| self.not_durable(parent, e))?;
        self.durable().insert(folder.to_owned());
        Ok(())
    }

    fn make_folder(&self, folder: &Path) -> Result<(), StoreError> {
        let failed = |e| StoreError::from_io(format!("making the folder {}", folder.display()), e);
        match self.fs.mkdir(folder, FOLDER_MODE) {
            Ok(()) => match self.owner {
                Some((uid, gid)) => match self.fs.chown(folder, uid, gid) {
                    Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                    other => other.map_err(failed),
                },
                None => Ok(()),
            },
            Err(e) if e.kind() == ErrorKind::AlreadyExists => match self.fs.stat(folder) {
                Ok(stat) if stat.kind == Kind::Folder => Ok(()),
                Ok(_) => Err(StoreError::NotAFile { path: folder.to_owned() }),
                // It has just gone: who links into it finds out, and makes it again.
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                Err(e) => Err(failed(e)),
            },
            Err(e) if e.kind() == ErrorKind::NotFound => Err(self.check_root().err().unwrap_or_else(|| failed(e))),
            Err(e) => Err(failed(e)),
        }
    }

    /// Step 3. `false`: the name is taken by another file. Over NFS a link whose answer was lost is repeated and then
    /// finds itself, so the file's identity decides and not the error.
    pub(super) fn link_exclusively(&self, from: &Path, to: &Path) -> io::Result<bool> {
        match self.fs.link(from, to) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                let ours = self.fs.stat(from)?.identity();
                match self.fs.stat(to) {
                    Ok(there) => Ok(there.identity() == ours),
                    Err(_) => Ok(false),
                }
            }
            Err(e) => Err(e),
        }
    }

    /// The name is taken: by the same bytes? Then they are made durable here, since who wrote them may not have come so
    /// far.
    fn settle(&self, name: &ObjectName, target: &Path, folder: &Path, parts: &[&[u8]]) -> Result<Create, StoreError> {
        let gone = |e: io::Error| StoreError::from_io(format!("comparing {}", target.display()), e);
        let file = self.fs.open_read(target).map_err(gone)?;
        let stat = self.fs.stat_file(&file).map_err(gone)?;
        if stat.kind != Kind::File {
            return Err(StoreError::NotAFile { path: target.to_owned() });
        }
        if !self.holds(&file, stat.len, parts, name)? {
            return Ok(Create::Other);
        }
        self.fs.fsync(&file).map_err(|e| self.not_durable(target, e))?;
        self.ensure_folder(folder)?;
        self.fs.fsync_dir(folder).map_err(|e| self.not_durable(folder, e))?;
        Ok(Create::Same)
    }

    /// Does the file hold exactly these bytes?
    fn holds(&self, file: &F::File, len: u64, parts: &[&[u8]], name: &ObjectName) -> Result<bool, StoreError> {
        if parts.iter().map(|p| p.len() as u64).sum::<u64>() != len {
            return Ok(false);
        }
        let mut buffer = vec![0; COMPARE];
        let mut at = 0;
        for piece in parts.iter().flat_map(|p| p.chunks(COMPARE)) {
            let Some(there) = buffer.get_mut(..piece.len()) else { return Ok(false) };
            self.read_exactly(file, there, at, name)?;
            if there != piece {
                return Ok(false);
            }
            at += piece.len() as u64;
        }
        Ok(true)
    }
}

/// A name in `tmp` that nobody else takes.
fn unfinished_name(session: &SessionTag) -> Result<String, StoreError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|e| StoreError::from_io("drawing random bytes", io::Error::other(e.to_string())))?;
    Ok(format!("{session}-{}", hex(&random)))
}

#[cfg(test)]
mod tests {
    use super::super::fs::RealFs;
    use super::*;
    use crate::store::Backend;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    fn name(text: &str) -> ObjectName {
        ObjectName::new(text).unwrap()
    }

    fn tag() -> SessionTag {
        SessionTag::new("test").unwrap()
    }

    fn store(root: &Path) -> LocalStore<RealFs> {
        LocalStore::create(root).unwrap()
    }

    #[test]
    fn an_object_is_created_once() {
        let scratch = tempfile::tempdir().unwrap();
        let store = store(&scratch.path().join("r"));
        assert_eq!(store.create(&name("log/0"), &[b"ab", b"", b"c"], &tag()).unwrap(), Create::Created);
        assert_eq!(store.create(&name("log/0"), &[b"abc"], &tag()).unwrap(), Create::Same);
        for other in [&b"abd"[..], b"ab", b"abcd", b""] {
            assert_eq!(store.create(&name("log/0"), &[other], &tag()).unwrap(), Create::Other);
        }
        assert_eq!(store.read(&name("log/0"), 3).unwrap(), b"abc");
        assert_eq!(store.leftovers().unwrap(), []);
    }

    #[test]
    fn large_objects_are_compared_to_the_last_byte() {
        let scratch = tempfile::tempdir().unwrap();
        let store = store(scratch.path());
        let mut bytes = vec![7; 3 * COMPARE + 11];
        assert_eq!(store.create(&name("body/a"), &[&bytes], &tag()).unwrap(), Create::Created);
        let (head, tail) = bytes.split_at(COMPARE + 5);
        assert_eq!(store.create(&name("body/a"), &[head, tail], &tag()).unwrap(), Create::Same);
        *bytes.last_mut().unwrap() = 8;
        assert_eq!(store.create(&name("body/a"), &[&bytes], &tag()).unwrap(), Create::Other);
    }

    #[test]
    fn files_and_folders_are_private() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("a/b");
        let store = store(&root);
        let _ = store.create(&name("pack/s/x"), &[b"1"], &tag()).unwrap();
        let mode = |p: &str| std::fs::metadata(scratch.path().join(p)).unwrap().permissions().mode() & 0o7777;
        for folder in ["a", "a/b", "a/b/pack", "a/b/pack/s", "a/b/tmp"] {
            assert_eq!(mode(folder), 0o700, "{folder}");
        }
        assert_eq!(mode("a/b/pack/s/x"), 0o600);
    }

    #[test]
    fn folders_may_have_any_name() {
        let scratch = tempfile::tempdir().unwrap();
        for odd in [&b"with space"[..], "\u{fc}\u{1f4e6}".as_bytes(), b"odd\xff\x01\n\"bytes"] {
            let root = scratch.path().join(std::ffi::OsStr::from_bytes(odd));
            let store = store(&root);
            assert_eq!(store.create(&name("key/1"), &[b"k"], &tag()).unwrap(), Create::Created);
            assert_eq!(LocalStore::open(&root).unwrap().read(&name("key/1"), 1).unwrap(), b"k");
            assert!(store.describe().contains("the repository in"));
        }
    }

    #[test]
    fn a_folder_removed_meanwhile_is_made_again() {
        let scratch = tempfile::tempdir().unwrap();
        let store = store(scratch.path());
        let _ = store.create(&name("pack/s/x"), &[b"1"], &tag()).unwrap();
        std::fs::remove_dir_all(scratch.path().join("pack")).unwrap();
        assert_eq!(store.create(&name("pack/s/y"), &[b"2"], &tag()).unwrap(), Create::Created);
    }

    #[test]
    fn one_of_many_wins() {
        let scratch = tempfile::tempdir().unwrap();
        let store = store(scratch.path());
        let outcomes: Vec<Create> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8u8)
                .map(|i| {
                    let store = &store;
                    scope.spawn(move || store.create(&name("log/1"), &[&[i; 1000]], &tag()).unwrap())
                })
                .collect();
            racers.into_iter().map(|r| r.join().unwrap()).collect()
        });
        let won = outcomes.iter().position(|o| *o == Create::Created).unwrap();
        assert_eq!(outcomes.iter().filter(|o| **o == Create::Other).count(), 7, "{outcomes:?}");
        assert_eq!(store.read(&name("log/1"), 1000).unwrap(), vec![won as u8; 1000]);
    }

    #[test]
    fn what_is_no_file_is_no_object() {
        let scratch = tempfile::tempdir().unwrap();
        let store = store(scratch.path());
        std::fs::create_dir_all(scratch.path().join("log/0")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", scratch.path().join("log/1")).unwrap();
        for object in ["log/0", "log/1"] {
            assert!(store.create(&name(object), &[b"x"], &tag()).is_err());
            assert!(matches!(store.read(&name(object), 1 << 20), Err(StoreError::NotAFile { .. })), "{object}");
        }
    }

    #[test]
    fn nothing_is_written_into_a_folder_that_took_our_place() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("r");
        let store = store(&root);
        let _ = store.create(&name("log/0"), &[b"0"], &tag()).unwrap();
        std::fs::rename(&root, scratch.path().join("elsewhere")).unwrap();
        let check = |store: &LocalStore| {
            assert!(matches!(store.create(&name("log/1"), &[b"1"], &tag()), Err(StoreError::Replaced { .. })));
            assert!(matches!(store.read(&name("log/1"), 1), Err(StoreError::Replaced { .. })));
            assert!(matches!(store.delete(&name("log/1")), Err(StoreError::Replaced { .. })));
            assert!(matches!(store.list_sorted(Some(&name("log"))), Err(StoreError::Replaced { .. })));
        };
        check(&store);
        std::fs::create_dir(&root).unwrap();
        check(&store);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
    }
}
