//! Reading, listing and deleting objects, and what unfinished runs left behind.

use super::LocalStore;
use super::fs::{FileSystem, Kind};
use crate::store::name::{UNFINISHED, part_is_fine};
use crate::store::{Listed, ObjectName, SessionTag, StoreError};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

impl<F: FileSystem> LocalStore<F> {
    /// Opens an object; its length.
    pub(super) fn open_object(&self, name: &ObjectName) -> Result<(F::File, u64), StoreError> {
        let failed = |e| self.understand("opening", name, e);
        let file = self.fs.open_read(&self.path_of(name)).map_err(failed)?;
        let stat = self.fs.stat_file(&file).map_err(failed)?;
        match stat.kind {
            Kind::File => Ok((file, stat.len)),
            Kind::Folder | Kind::Other => Err(StoreError::NotAFile { path: self.path_of(name) }),
        }
    }

    /// Files keep when they were written; now is when a file is written now. On NFS both are the server's clock, which need
    /// not be this machine's. A file of later than now is as good as new.
    pub(super) fn age_of(&self, name: &ObjectName, session: &SessionTag) -> Result<Option<Duration>, StoreError> {
        let failed = |e| self.understand("looking at", name, e);
        let Some(written) = self.fs.modified(&self.path_of(name)).map_err(failed)? else { return Ok(None) };
        self.check_writable()?;
        let probe = self.write_unfinished(&[b"now"], session)?;
        let now = self.fs.modified(&probe.path).map_err(|e| StoreError::from_io(format!("looking at {}", probe.path.display()), e))?;
        Ok(now.map(|now| now.duration_since(written).unwrap_or_default()))
    }

    pub(super) fn read_object(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError> {
        let (file, size) = self.open_object(name)?;
        let len =
            usize::try_from(size).ok().filter(|_| size <= max).ok_or_else(|| StoreError::TooLarge { name: name.clone(), size, max })?;
        let mut bytes = vec![0; len];
        self.read_exactly(&file, &mut bytes, 0, name)?;
        Ok(bytes)
    }

    pub(super) fn read_part(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let (file, size) = self.open_object(name)?;
        // Before anything is allocated: the caller may have the length from the store itself.
        if offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(StoreError::Short { name: name.clone(), offset, len, size });
        }
        let mut bytes = vec![0; len];
        self.read_exactly(&file, &mut bytes, offset, name)?;
        Ok(bytes)
    }

    /// Fills `buffer` from `offset`. A file that ends earlier has been shortened since its length was asked for.
    pub(super) fn read_exactly(&self, file: &F::File, buffer: &mut [u8], offset: u64, name: &ObjectName) -> Result<(), StoreError> {
        let len = buffer.len();
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.fs.read_at(file, rest, offset.saturating_add(done as u64)) {
                Ok(0) => return Err(StoreError::Short { name: name.clone(), offset, len, size: offset.saturating_add(done as u64) }),
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(StoreError::from_io(format!("reading {}", self.path_of(name).display()), e)),
            }
        }
        Ok(())
    }

    pub(super) fn list_folder(
        &self,
        folder: Option<&ObjectName>,
        each: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut folders = vec![folder.map(|f| f.as_str().to_owned()).unwrap_or_default()];
        while let Some(folder) = folders.pop() {
            for (entry, kind) in self.entries(&folder)? {
                let Some(part) = entry.to_str().filter(|part| part_is_fine(part)) else { continue };
                let path = if folder.is_empty() { part.to_owned() } else { format!("{folder}/{part}") };
                let Ok(name) = ObjectName::new(path.as_str()) else { continue };
                match kind {
                    Kind::Folder => folders.push(path),
                    Kind::File => {
                        if let Some(size) = self.size_if_there(&name)? {
                            each(Listed { name, size })?;
                        }
                    }
                    // To pass over it could prove an absence that is none.
                    Kind::Other => return Err(StoreError::NotAFile { path: self.path_of(&name) }),
                }
            }
        }
        // What vanished while it was listed was deleted, if this is still the same folder.
        self.check_root()
    }

    fn entries(&self, folder: &str) -> Result<Vec<(std::ffi::OsString, Kind)>, StoreError> {
        let path = if folder.is_empty() { self.root.clone() } else { self.root.join(folder) };
        match self.fs.list(&path) {
            Ok(entries) => Ok(entries),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(StoreError::from_io(format!("listing {}", path.display()), e)),
        }
    }

    fn size_if_there(&self, name: &ObjectName) -> Result<Option<u64>, StoreError> {
        match self.fs.stat(&self.path_of(name)) {
            Ok(stat) => Ok(Some(stat.len)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.understand("looking at", name, e)),
        }
    }

    pub(super) fn delete_object(&self, name: &ObjectName) -> Result<(), StoreError> {
        // After a failed fsync, what allows the deletion may not be durable either.
        self.check_writable()?;
        self.unlink_if_there(self.path_of(name))
    }

    /// What was deleted from a folder stays deleted. A folder that is gone has nothing that could come back.
    pub(super) fn settle_folder(&self, folder: &ObjectName) -> Result<(), StoreError> {
        let path = self.path_of(folder);
        match self.fs.fsync_dir(&path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => self.check_root(),
            Err(e) => Err(self.not_durable(&path, e)),
        }
    }

    /// Removes empty folders below `pack`, one for each session, where `may_go` says so of their names; how many went. A
    /// writer that finds its folder gone makes it again.
    pub(super) fn remove_empty_folders(&self, may_go: &dyn Fn(&str) -> bool) -> Result<usize, StoreError> {
        const PACKS: &str = "pack";
        self.check_writable()?;
        let folders = self.entries(PACKS)?.into_iter().filter(|(_, kind)| *kind == Kind::Folder);
        let below = self.root.join(PACKS);
        let mut gone = 0;
        for (name, _) in folders.filter(|(name, _)| name.to_str().is_some_and(may_go)) {
            // Not empty, or not ours to remove: it stays, and does no harm.
            gone += usize::from(self.fs.rmdir(&below.join(name)).is_ok());
        }
        if gone > 0 {
            self.fs.fsync_dir(&below).map_err(|e| self.not_durable(&below, e))?;
        }
        Ok(gone)
    }

    fn unlink_if_there(&self, path: PathBuf) -> Result<(), StoreError> {
        match self.fs.unlink(&path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(StoreError::from_io(format!("removing {}", path.display()), e)),
        }
    }

    /// Unfinished files: whose they are, and where. Whether that session still runs is for the caller to know: age says
    /// nothing.
    pub(super) fn unfinished(&self) -> Result<Vec<(SessionTag, PathBuf)>, StoreError> {
        let folder = self.root.join(UNFINISHED);
        let ours = |(entry, kind): (std::ffi::OsString, Kind)| {
            let tag = entry.to_str().and_then(SessionTag::of_unfinished).filter(|_| kind == Kind::File)?;
            Some((tag, folder.join(entry)))
        };
        let mut found: Vec<_> = self.entries(UNFINISHED)?.into_iter().filter_map(ours).collect();
        found.sort();
        Ok(found)
    }

    /// Removes the unfinished files of one session, which must have ended; how many there were.
    pub(super) fn remove_unfinished(&self, of: &SessionTag) -> Result<usize, StoreError> {
        let theirs: Vec<_> = self.unfinished()?.into_iter().filter(|(tag, _)| tag == of).collect();
        for (_, path) in &theirs {
            self.unlink_if_there(path.clone())?;
        }
        Ok(theirs.len())
    }

    /// Entries of the repository's folder that no repository has, apart from those that file systems make themselves:
    /// `init` takes them for a sign that the wrong folder was named.
    pub fn strangers(&self) -> Result<Vec<PathBuf>, StoreError> {
        const OURS: [&str; 8] = ["pgcairn", "key", "log", "body", "pack", "wal", UNFINISHED, "lost+found"];
        let all = self.fs.list(&self.root).map_err(|e: io::Error| StoreError::from_io(format!("listing {}", self.root.display()), e))?;
        let mut strange: Vec<_> =
            all.into_iter().filter(|(entry, _)| !OURS.iter().any(|ours| entry == ours)).map(|(entry, _)| PathBuf::from(entry)).collect();
        strange.sort();
        Ok(strange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Backend;

    fn name(text: &str) -> ObjectName {
        ObjectName::new(text).unwrap()
    }

    fn filled() -> (tempfile::TempDir, LocalStore) {
        let scratch = tempfile::tempdir().unwrap();
        let store = LocalStore::create(scratch.path()).unwrap();
        let tag = SessionTag::new("test").unwrap();
        for (object, len) in [("pgcairn", 5), ("log/0", 0), ("log/1", 10), ("pack/s/a", 7), ("logs/0", 1)] {
            let _ = store.create(&name(object), &[&vec![b'x'; len]], &tag).unwrap();
        }
        (scratch, store)
    }

    #[test]
    fn lengths_are_bounded_before_reading() {
        let (_scratch, store) = filled();
        assert_eq!(store.read(&name("log/1"), 10).unwrap().len(), 10);
        assert!(matches!(store.read(&name("log/1"), 9), Err(StoreError::TooLarge { size: 10, max: 9, .. })));
        assert_eq!(store.read(&name("log/0"), 0).unwrap(), b"");
        assert_eq!(store.read_range(&name("log/1"), 8, 2).unwrap(), b"xx");
        assert_eq!(store.read_range(&name("log/1"), 10, 0).unwrap(), b"");
        for (offset, len) in [(8, 3), (11, 0), (u64::MAX, 1), (0, usize::MAX), (u64::MAX, usize::MAX)] {
            assert!(matches!(store.read_range(&name("log/1"), offset, len), Err(StoreError::Short { size: 10, .. })), "{offset} {len}");
        }
        assert_eq!(store.size(&name("log/1")).unwrap(), 10);
    }

    #[test]
    fn absence_is_a_kind_of_its_own() {
        let (scratch, store) = filled();
        for object in ["log/2", "nowhere/at/all"] {
            assert!(store.read(&name(object), 10).unwrap_err().is_absent());
            assert!(store.read_range(&name(object), 0, 0).unwrap_err().is_absent());
            assert!(store.size(&name(object)).unwrap_err().is_absent());
            store.delete(&name(object)).unwrap();
        }
        assert!(!store.read(&name("log/0/below"), 10).unwrap_err().is_absent());
        let mut longer = store;
        longer.root = scratch.path().join("gone");
        assert!(!longer.read(&name("log/2"), 10).unwrap_err().is_absent());
    }

    #[test]
    fn folders_are_listed_whole_and_alone() {
        let (scratch, store) = filled();
        std::fs::write(scratch.path().join("log/.nfs0001"), b"").unwrap();
        std::fs::write(scratch.path().join("tmp/test-0123"), b"").unwrap();
        let names = |folder: Option<&str>| -> Vec<String> {
            let folder = folder.map(name);
            store.list_sorted(folder.as_ref()).unwrap().into_iter().map(|l| format!("{} {}", l.name, l.size)).collect()
        };
        assert_eq!(names(Some("log")), ["log/0 0", "log/1 10"]);
        assert_eq!(names(Some("pack")), ["pack/s/a 7"]);
        assert_eq!(names(Some("wal")), [""; 0]);
        assert_eq!(names(None), ["log/0 0", "log/1 10", "logs/0 1", "pack/s/a 7", "pgcairn 5"]);
        std::os::unix::fs::symlink("1", scratch.path().join("log/2")).unwrap();
        assert!(matches!(store.list_sorted(Some(&name("log"))), Err(StoreError::NotAFile { .. })));
        assert!(store.strangers().unwrap().iter().map(|p| p.to_str().unwrap()).eq(["logs"]));
    }

    #[test]
    fn ages_are_told_by_the_stores_clock_alone() {
        let (scratch, store) = filled();
        let tag = SessionTag::new("test").unwrap();
        let age = |object: &str| store.age(&name(object), &tag);
        let file = std::fs::File::options().write(true).open(scratch.path().join("log/1")).unwrap();
        let now = file.metadata().unwrap().modified().unwrap();
        assert!(age("log/1").unwrap().unwrap() < Duration::from_secs(600));
        file.set_modified(now - Duration::from_secs(7200)).unwrap();
        assert!((Duration::from_secs(7000)..Duration::from_secs(9000)).contains(&age("log/1").unwrap().unwrap()));
        file.set_modified(now + Duration::from_secs(7200)).unwrap();
        assert_eq!(age("log/1").unwrap(), Some(Duration::ZERO));
        assert!(age("log/2").unwrap_err().is_absent());
        assert!(store.leftovers().unwrap().is_empty());
    }

    #[test]
    fn an_error_of_the_caller_ends_a_listing() {
        let (_scratch, store) = filled();
        let mut seen = 0;
        let outcome = store.list(None, &mut |object| {
            seen += 1;
            Err(StoreError::NotAFile { path: object.name.as_str().into() })
        });
        assert!(outcome.is_err());
        assert_eq!(seen, 1);
    }

    #[test]
    fn deleting_is_idempotent() {
        let (_scratch, store) = filled();
        store.delete(&name("log/1")).unwrap();
        store.delete(&name("log/1")).unwrap();
        assert!(store.size(&name("log/1")).unwrap_err().is_absent());
    }

    #[test]
    fn leftovers_are_known_by_their_session() {
        let (scratch, store) = filled();
        let random = "ab".repeat(16);
        for file in [format!("one-{random}"), format!("two-{random}"), "unknown".to_owned()] {
            std::fs::write(scratch.path().join("tmp").join(file), b"half").unwrap();
        }
        let tags: Vec<_> = store.leftovers().unwrap().into_iter().map(|(tag, _)| tag.to_string()).collect();
        assert_eq!(tags, ["one", "two"]);
        assert_eq!(store.remove_leftovers(&SessionTag::new("one").unwrap()).unwrap(), 1);
        assert_eq!(store.remove_leftovers(&SessionTag::new("one").unwrap()).unwrap(), 0);
        assert_eq!(store.leftovers().unwrap().len(), 1);
        assert!(scratch.path().join("tmp/unknown").exists());
    }
}
