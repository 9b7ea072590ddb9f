//! A file system in memory that forgets what was not fsynced, dies at a chosen step, and has other vices on request.
//!
//! After a crash a file has the bytes of its last fsync, or only a part of what was written; each name that was made or
//! removed since its folder's last fsync may be there or not, whichever the test chooses. That is what POSIX allows.

use super::local::fs::{FileSystem, Kind, Stat};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const ROOT: u64 = 1;

#[derive(Clone)]
struct Inode {
    kind: Kind,
    uid: u32,
    data: Vec<u8>,
    synced_data: Vec<u8>,
    entries: BTreeMap<OsString, u64>,
    synced_entries: BTreeMap<OsString, u64>,
}

struct State {
    inodes: BTreeMap<u64, Inode>,
    user: u32,
    steps: usize,
    crash_at: Option<usize>,
    fsync_fails: bool,
    full: bool,
    overwriting: bool,
    without_links: bool,
    /// Between these steps the folder is removed whenever it is empty.
    vanishes: Option<(std::ops::Range<usize>, PathBuf)>,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct ForgetfulFs(Arc<Mutex<State>>);

impl ForgetfulFs {
    /// With a durable folder `/r` of `user`, who is also the one who calls.
    pub fn new(user: u32) -> Self {
        let folder = Inode {
            kind: Kind::Folder,
            uid: user,
            data: Vec::new(),
            synced_data: Vec::new(),
            entries: BTreeMap::new(),
            synced_entries: BTreeMap::new(),
        };
        let mut root = folder.clone();
        root.entries.insert("r".into(), 2);
        root.synced_entries = root.entries.clone();
        let inodes = BTreeMap::from([(ROOT, root), (2, folder)]);
        Self::with(inodes, user)
    }

    fn with(inodes: BTreeMap<u64, Inode>, user: u32) -> Self {
        let (fsync_fails, full, overwriting, without_links) = (false, false, false, false);
        let (steps, crash_at, vanishes) = (0, None, None);
        let state = State { inodes, user, steps, crash_at, fsync_fails, full, overwriting, without_links, vanishes };
        ForgetfulFs(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Before each of these steps somebody else removes the folder, if it is empty.
    pub fn remove_folder(&self, steps: std::ops::Range<usize>, folder: &str) {
        self.state().vanishes = Some((steps, folder.into()));
    }

    pub fn become_user(&self, user: u32) {
        self.state().user = user;
    }

    pub fn overwrite_on_link(&self) {
        self.state().overwriting = true;
    }

    pub fn refuse_links(&self) {
        self.state().without_links = true;
    }

    pub fn fill_disk(&self) {
        self.state().full = true;
    }

    /// The next fsync fails; as on Linux, the one after it succeeds and has saved nothing.
    pub fn fail_next_fsync(&self) {
        self.state().fsync_fails = true;
    }

    /// Steps taken so far.
    pub fn steps(&self) -> usize {
        self.state().steps
    }

    /// Dies before step number `step`, counted from 0: nothing works after that.
    pub fn crash_at(&self, step: usize) {
        self.state().crash_at = Some(step);
    }

    /// Only the process had died: what it did is there, durable or not.
    pub fn go_on(&self) {
        self.state().crash_at = None;
    }

    /// The file system after a power failure; `survives` decides for everything that was not made durable.
    pub fn reboot(&self, mut survives: impl FnMut() -> bool) -> Self {
        let state = self.state();
        let mut inodes = state.inodes.clone();
        for inode in inodes.values_mut() {
            if inode.data != inode.synced_data {
                let half = inode.data.len() / 2;
                if !survives() {
                    inode.data.truncate(half);
                }
            }
            let mut entries = inode.synced_entries.clone();
            let changed: Vec<OsString> = inode
                .entries
                .keys()
                .chain(inode.synced_entries.keys())
                .filter(|name| inode.entries.get(*name) != inode.synced_entries.get(*name))
                .cloned()
                .collect();
            for name in changed {
                if survives() {
                    match inode.entries.get(&name) {
                        Some(ino) => entries.insert(name, *ino),
                        None => entries.remove(&name),
                    };
                }
            }
            inode.entries = entries;
            inode.synced_entries = inode.entries.clone();
            inode.synced_data = inode.data.clone();
        }
        Self::with(inodes, state.user)
    }

    fn step(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.crash_at.is_some_and(|at| state.steps >= at) {
            return Err(io::Error::other("the machine is off"));
        }
        if let Some((_, folder)) = state.vanishes.clone().filter(|(steps, _)| steps.contains(&state.steps)) {
            let _ = state.rmdir(&folder);
        }
        state.steps += 1;
        Ok(state)
    }
}

fn error(kind: ErrorKind) -> io::Error {
    io::Error::from(kind)
}

impl State {
    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut ino = ROOT;
        for component in path.components() {
            if let Component::Normal(name) = component {
                let inode = &self.inodes[&ino];
                if inode.kind != Kind::Folder {
                    return Err(error(ErrorKind::NotADirectory));
                }
                ino = *inode.entries.get(name).ok_or_else(|| error(ErrorKind::NotFound))?;
            }
        }
        Ok(ino)
    }

    fn parent<'p>(&mut self, path: &'p Path) -> io::Result<(&mut Inode, &'p OsStr)> {
        let ino = self.find(path.parent().unwrap())?;
        Ok((self.inodes.get_mut(&ino).unwrap(), path.file_name().unwrap()))
    }

    fn make(&mut self, path: &Path, kind: Kind) -> io::Result<u64> {
        let ino = 1 + *self.inodes.keys().next_back().unwrap();
        let uid = self.user;
        let (folder, name) = self.parent(path)?;
        if folder.entries.contains_key(name) {
            return Err(error(ErrorKind::AlreadyExists));
        }
        folder.entries.insert(name.to_owned(), ino);
        let inode =
            Inode { kind, uid, data: Vec::new(), synced_data: Vec::new(), entries: BTreeMap::new(), synced_entries: BTreeMap::new() };
        self.inodes.insert(ino, inode);
        Ok(ino)
    }

    fn rmdir(&mut self, path: &Path) -> io::Result<()> {
        let inode = &self.inodes[&self.find(path)?];
        match inode.kind {
            Kind::Folder if inode.entries.is_empty() => {
                let (folder, name) = self.parent(path)?;
                folder.entries.remove(name);
                Ok(())
            }
            Kind::Folder => Err(error(ErrorKind::DirectoryNotEmpty)),
            Kind::File | Kind::Other => Err(error(ErrorKind::NotADirectory)),
        }
    }

    fn stat(&self, ino: u64) -> Stat {
        let inode = &self.inodes[&ino];
        Stat { kind: inode.kind, len: inode.data.len() as u64, dev: 1, ino, uid: inode.uid, gid: inode.uid }
    }

    fn fsync(&mut self, ino: u64) -> io::Result<()> {
        if std::mem::take(&mut self.fsync_fails) {
            return Err(io::Error::other("I/O error"));
        }
        let inode = self.inodes.get_mut(&ino).unwrap();
        inode.synced_data = inode.data.clone();
        inode.synced_entries = inode.entries.clone();
        Ok(())
    }
}

impl FileSystem for ForgetfulFs {
    type File = u64;

    fn user(&self) -> u32 {
        self.state().user
    }

    fn open_excl(&self, path: &Path, _mode: u32) -> io::Result<u64> {
        self.step()?.make(path, Kind::File)
    }

    fn open_read(&self, path: &Path) -> io::Result<u64> {
        self.step()?.find(path)
    }

    fn write_all(&self, file: &mut u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.step()?;
        if state.full {
            return Err(error(ErrorKind::StorageFull));
        }
        state.inodes.get_mut(file).unwrap().data.extend_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, file: &u64, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.step()?;
        let rest = state.inodes[file].data.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn stat_file(&self, file: &u64) -> io::Result<Stat> {
        Ok(self.step()?.stat(*file))
    }

    fn chown_file(&self, file: &u64, uid: u32, _gid: u32) -> io::Result<()> {
        self.step()?.inodes.get_mut(file).unwrap().uid = uid;
        Ok(())
    }

    fn fsync(&self, file: &u64) -> io::Result<()> {
        self.step()?.fsync(*file)
    }

    fn fsync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        let ino = state.find(path)?;
        state.fsync(ino)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        if state.without_links {
            return Err(error(ErrorKind::PermissionDenied));
        }
        let ino = state.find(from)?;
        let overwriting = state.overwriting;
        let (folder, name) = state.parent(to)?;
        if folder.entries.contains_key(name) && !overwriting {
            return Err(error(ErrorKind::AlreadyExists));
        }
        folder.entries.insert(name.to_owned(), ino);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        let (folder, name) = state.parent(path)?;
        folder.entries.remove(name).map(|_| ()).ok_or_else(|| error(ErrorKind::NotFound))
    }

    fn mkdir(&self, path: &Path, _mode: u32) -> io::Result<()> {
        self.step()?.make(path, Kind::Folder).map(|_| ())
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        self.step()?.rmdir(path)
    }

    fn chown(&self, path: &Path, uid: u32, _gid: u32) -> io::Result<()> {
        let mut state = self.step()?;
        let ino = state.find(path)?;
        state.inodes.get_mut(&ino).unwrap().uid = uid;
        Ok(())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let state = self.step()?;
        let ino = state.find(path)?;
        Ok(state.stat(ino))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Kind)>> {
        let state = self.step()?;
        let ino = state.find(path)?;
        Ok(state.inodes[&ino].entries.iter().map(|(name, ino)| (name.clone(), state.inodes[ino].kind)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Backend, Create, LocalStore, ObjectName, SessionTag, StoreError};
    use super::*;
    use proptest::prelude::*;

    const BYTES: &[u8] = b"an object of some length";

    fn create(fs: &ForgetfulFs, bytes: &[u8]) -> Result<Create, StoreError> {
        let store = LocalStore::on(fs.clone(), "/r".into())?;
        store.create(&ObjectName::new("pack/s/x").unwrap(), &[bytes], &SessionTag::new("one").unwrap())
    }

    fn read(fs: &ForgetfulFs) -> Option<Vec<u8>> {
        let store = LocalStore::on(fs.clone(), "/r".into()).unwrap();
        match store.read(&ObjectName::new("pack/s/x").unwrap(), 1000) {
            Ok(bytes) => Some(bytes),
            Err(e) => {
                assert!(e.is_absent(), "{e}");
                None
            }
        }
    }

    /// Steps of one undisturbed create.
    fn steps() -> usize {
        let fs = ForgetfulFs::new(1000);
        assert_eq!(create(&fs, BYTES).unwrap(), Create::Created);
        fs.steps()
    }

    #[test]
    fn the_double_forgets() {
        let fs = ForgetfulFs::new(1000);
        let mut file = fs.open_excl(Path::new("/r/a"), 0o600).unwrap();
        fs.write_all(&mut file, b"1234").unwrap();
        assert!(fs.reboot(|| false).open_read(Path::new("/r/a")).is_err());
        fs.fsync_dir(Path::new("/r")).unwrap();
        assert_eq!(fs.reboot(|| false).stat(Path::new("/r/a")).unwrap().len, 2);
        fs.fsync(&file).unwrap();
        assert_eq!(fs.reboot(|| false).stat(Path::new("/r/a")).unwrap().len, 4);
    }

    #[test]
    fn what_create_returned_survives_and_nothing_is_half() {
        for step in 0..=steps() {
            for survives in [false, true] {
                let fs = ForgetfulFs::new(1000);
                fs.crash_at(step);
                let outcome = create(&fs, BYTES);
                let there = read(&fs.reboot(|| survives));
                assert!(there.is_none() || there.as_deref() == Some(BYTES), "step {step}: {there:?}");
                assert!(outcome.is_err() || there.is_some(), "step {step}: lost");
            }
        }
        assert!(steps() > 10);
    }

    #[test]
    fn what_another_process_left_unfinished_is_made_durable() {
        for step in 0..=steps() {
            let fs = ForgetfulFs::new(1000);
            fs.crash_at(step);
            let _ = create(&fs, BYTES);
            fs.go_on();
            assert!(matches!(create(&fs, BYTES).unwrap(), Create::Created | Create::Same));
            assert_eq!(read(&fs.reboot(|| false)).as_deref(), Some(BYTES), "step {step}");
        }
    }

    /// A prune removes the writer's folder, once or again and again, at any step: the object is there in the end, durably.
    #[test]
    fn a_folder_that_vanishes_is_made_again() {
        for from in 0..=2 * steps() {
            for times in [1, 2, 20] {
                let fs = ForgetfulFs::new(1000);
                let store = LocalStore::on(fs.clone(), "/r".into()).unwrap();
                let tag = SessionTag::new("one").unwrap();
                let name = |text| ObjectName::new(text).unwrap();
                // So that the folder is known to be durable.
                let _ = store.create(&name("pack/s/before"), &[b"0"], &tag).unwrap();
                store.delete(&name("pack/s/before")).unwrap();
                fs.remove_folder(fs.steps() + from..fs.steps() + from + times, "/r/pack/s");
                let created = store.create(&name("pack/s/x"), &[BYTES], &tag);
                assert_eq!(created.unwrap_or_else(|e| panic!("{from} {times}: {e}")), Create::Created);
                assert_eq!(read(&fs.reboot(|| false)).as_deref(), Some(BYTES), "{from} {times}");
            }
        }
    }

    #[test]
    fn what_was_deleted_stays_away_once_that_is_settled() {
        let fs = ForgetfulFs::new(1000);
        let _ = create(&fs, BYTES).unwrap();
        let store = LocalStore::on(fs.clone(), "/r".into()).unwrap();
        store.delete(&ObjectName::new("pack/s/x").unwrap()).unwrap();
        assert_eq!(read(&fs.reboot(|| false)).as_deref(), Some(BYTES), "the double doesn't forget a deletion");
        store.settle_deletions(&ObjectName::new("pack/s").unwrap()).unwrap();
        assert_eq!(read(&fs.reboot(|| false)), None);
        // Its folder goes, durably, but for those that may not, or are not empty.
        let tag = SessionTag::new("one").unwrap();
        for object in ["pack/full/x", "pack/open/x"] {
            let _ = store.create(&ObjectName::new(object).unwrap(), &[BYTES], &tag).unwrap();
        }
        store.delete(&ObjectName::new("pack/open/x").unwrap()).unwrap();
        assert_eq!(store.remove_empty_pack_folders(&|session| session != "open").unwrap(), 1);
        let after = fs.reboot(|| false);
        let left: Vec<_> = after.list(Path::new("/r/pack")).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(left, ["full", "open"]);
        store.settle_deletions(&ObjectName::new("pack/s").unwrap()).unwrap();
        fs.fail_next_fsync();
        assert!(store.settle_deletions(&ObjectName::new("pack/open").unwrap()).is_err());
    }

    #[test]
    fn a_failed_fsync_is_final() {
        let fs = ForgetfulFs::new(1000);
        let store = LocalStore::on(fs.clone(), "/r".into()).unwrap();
        let tag = SessionTag::new("one").unwrap();
        let name = |text| ObjectName::new(text).unwrap();
        let _ = store.create(&name("log/0"), &[b"0"], &tag).unwrap();
        fs.fail_next_fsync();
        assert!(matches!(store.create(&name("log/1"), &[b"1"], &tag), Err(StoreError::NotDurable { .. })));
        for object in ["log/0", "log/1", "log/2"] {
            assert!(matches!(store.create(&name(object), &[b"0"], &tag), Err(StoreError::NotDurableBefore { .. })));
        }
        assert_eq!(store.read(&name("log/0"), 1).unwrap(), b"0");
        assert!(store.size(&name("log/1")).unwrap_err().is_absent());
    }

    #[test]
    fn a_full_disk_leaves_nothing_behind() {
        let fs = ForgetfulFs::new(1000);
        fs.fill_disk();
        assert!(matches!(create(&fs, BYTES), Err(StoreError::Full { .. })));
        assert_eq!(LocalStore::on(fs.clone(), "/r".into()).unwrap().leftovers().unwrap(), []);
        assert_eq!(read(&fs), None);
    }

    proptest! {
        /// Crashes, crashes again while it is repeated, and so on: never a part, never lost once it was acknowledged.
        #[test]
        fn repeated_crashes_lose_nothing(crashes in prop::collection::vec((0usize..40, prop::collection::vec(any::<bool>(), 1..9)), 1..6)) {
            let mut fs = ForgetfulFs::new(1000);
            let mut acknowledged = false;
            for (step, luck) in crashes {
                fs.crash_at(step);
                match create(&fs, BYTES) {
                    Ok(Create::Other) => prop_assert!(false, "other bytes"),
                    Ok(outcome) => {
                        prop_assert!(!acknowledged || outcome == Create::Same);
                        acknowledged = true;
                    }
                    Err(_) => {}
                }
                let mut luck = luck.iter().cycle();
                fs = fs.reboot(|| *luck.next().unwrap());
                let there = read(&fs);
                prop_assert!(there.is_none() || there.as_deref() == Some(BYTES));
                prop_assert!(!acknowledged || there.is_some());
                // Reading took steps of its own, and the next crash is counted from there.
                fs = fs.reboot(|| true);
            }
        }
    }
}
