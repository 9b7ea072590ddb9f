//! Whose folder it is, and what is proved about it before anything is trusted to it.

use super::create::FOLDER_MODE;
use super::fs::{FileSystem, Kind, RealFs};
use super::{LocalStore, mounts};
use crate::store::name::UNFINISHED;
use crate::store::{Backend, SessionTag, StoreError};
use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Barrier, Mutex};

/// How many try at once to create one name, when it is proved that only one can.
const RACERS: usize = 8;

impl LocalStore<RealFs> {
    /// Opens the folder of a repository; writes nothing.
    ///
    /// Refused are a folder that belongs to another user, unless root asks (what root makes in it then belongs to that
    /// user), and NFS that remembers absent names.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let root = match std::fs::canonicalize(path) {
            Ok(root) => root,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(StoreError::NoFolder { path: path.to_owned() }),
            Err(e) => return Err(StoreError::from_io(format!("opening {}", path.display()), e)),
        };
        // Where there is no /proc there is no Linux NFS either.
        if let Some(mount) = std::fs::read("/proc/self/mounts").ok().and_then(|text| mounts::remembers_absence(&text, &root)) {
            return Err(StoreError::NegativeLookups { path: root, mount: mount.display().to_string() });
        }
        Self::on(RealFs, root)
    }

    /// Makes the folder, and those that lead to it, where they are missing; opens it.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let absolute = std::path::absolute(path).map_err(|e| StoreError::from_io(format!("making {}", path.display()), e))?;
        make_durably(&RealFs, &absolute)?;
        Self::open(&absolute)
    }
}

/// Makes a folder and those above it that are missing, and makes their entries durable.
fn make_durably<F: FileSystem>(fs: &F, path: &Path) -> Result<(), StoreError> {
    let failed = |e| StoreError::from_io(format!("making the folder {}", path.display()), e);
    let Some(parent) = path.parent() else { return Ok(()) };
    match fs.mkdir(path, FOLDER_MODE) {
        Ok(()) => fs.fsync_dir(parent).map_err(|source| StoreError::NotDurable { what: path.display().to_string(), source }),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            make_durably(fs, parent)?;
            match fs.mkdir(path, FOLDER_MODE) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(failed(e)),
                _ => fs.fsync_dir(parent).map_err(|source| StoreError::NotDurable { what: path.display().to_string(), source }),
            }
        }
        Err(e) => Err(failed(e)),
    }
}

impl<F: FileSystem> LocalStore<F> {
    /// A store in `root`, an absolute path without symbolic links, on the given file system.
    pub fn on(fs: F, root: PathBuf) -> Result<Self, StoreError> {
        let stat = match fs.stat(&root) {
            Ok(stat) => stat,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(StoreError::NoFolder { path: root }),
            Err(e) => return Err(StoreError::from_io(format!("opening {}", root.display()), e)),
        };
        if stat.kind != Kind::Folder {
            return Err(StoreError::from_io(format!("opening {}", root.display()), io::Error::from(ErrorKind::NotADirectory)));
        }
        let user = fs.user();
        let owner = match user {
            _ if stat.uid == user => None,
            0 => Some((stat.uid, stat.gid)),
            _ => return Err(StoreError::ForeignOwner { path: root, owner: stat.uid, user }),
        };
        let (identity, durable, failed) = (stat.identity(), Mutex::new(HashSet::new()), AtomicBool::new(false));
        Ok(LocalStore { fs, root, identity, owner, durable, failed })
    }

    /// Proves by trying that the file system has hard links, and that of several that create one name at once exactly
    /// one is told that it did. `init` demands it; it writes a few files of a few bytes, marked with `tag`, and removes
    /// them.
    pub(super) fn prove_exclusive(&self, tag: &SessionTag) -> Result<(), StoreError> {
        let target = self.write_unfinished(&[], tag)?;
        // The name is free now and stays ours: it is as random as any.
        self.fs.unlink(&target.path).map_err(|e| StoreError::from_io(format!("removing {}", target.path.display()), e))?;
        let barrier = Barrier::new(RACERS);
        let race = |number: u8| {
            // Every racer comes to the barrier, whatever happened to it before: the others would wait for ever.
            let file = self.write_unfinished(&[&[number]], tag);
            barrier.wait();
            let file = file?;
            match self.link_exclusively(&file.path, &target.path) {
                Ok(won) => Ok(won.then_some(number)),
                Err(source) => Err(StoreError::NoLinks { path: self.root.clone(), source }),
            }
        };
        let outcomes: Vec<Result<Option<u8>, StoreError>> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS as u8).map(|number| scope.spawn(move || race(number))).collect();
            let panicked = || Err(StoreError::from_io("proving create-if-absent", io::Error::other("a thread ended early")));
            racers.into_iter().map(|r| r.join().unwrap_or_else(|_| panicked())).collect()
        });
        let mut winners = Vec::new();
        for outcome in outcomes {
            winners.extend(outcome?);
        }
        let there = self.fs.open_read(&target.path).and_then(|file| {
            let mut byte = [0];
            self.fs.read_at(&file, &mut byte, 0).map(|n| (n == 1).then_some(byte))
        });
        match (winners.as_slice(), there) {
            ([winner], Ok(Some([byte]))) if *winner == byte => Ok(()),
            (_, Err(e)) => Err(StoreError::from_io(format!("reading back a file in {}", self.root.join(UNFINISHED).display()), e)),
            _ => Err(StoreError::NotExclusive { store: self.describe(), racers: RACERS, winners: winners.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectName;
    use crate::store::fault::ForgetfulFs;

    fn tag() -> SessionTag {
        SessionTag::new("test").unwrap()
    }

    #[test]
    fn a_real_folder_passes_the_proof_and_stays_clean() {
        let scratch = tempfile::tempdir().unwrap();
        let store = LocalStore::create(&scratch.path().join("a/b/c")).unwrap();
        store.prove(&tag()).unwrap();
        assert_eq!(store.leftovers().unwrap(), []);
        assert_eq!(store.list_sorted(None).unwrap(), []);
    }

    #[test]
    fn a_file_system_that_overwrites_or_has_no_links_is_refused() {
        let fs = ForgetfulFs::new(1000);
        fs.overwrite_on_link();
        let store = LocalStore::on(fs, "/r".into()).unwrap();
        assert!(matches!(store.prove(&tag()), Err(StoreError::NotExclusive { .. })));
        let fs = ForgetfulFs::new(1000);
        fs.refuse_links();
        let store = LocalStore::on(fs, "/r".into()).unwrap();
        assert!(matches!(store.prove(&tag()), Err(StoreError::NoLinks { .. })));
        assert!(LocalStore::on(ForgetfulFs::new(1000), "/r".into()).unwrap().prove(&tag()).is_ok());
    }

    #[test]
    fn what_is_not_there_is_not_made_by_opening() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(matches!(LocalStore::open(&scratch.path().join("r")), Err(StoreError::NoFolder { .. })));
        std::fs::write(scratch.path().join("file"), b"").unwrap();
        assert!(LocalStore::open(&scratch.path().join("file")).is_err());
        assert!(LocalStore::create(&scratch.path().join("file")).is_err());
        assert!(LocalStore::create(&scratch.path().join("file/below")).is_err());
    }

    #[test]
    fn a_repository_may_lie_behind_a_symbolic_link() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", scratch.path().join("link")).unwrap();
        let store = LocalStore::open(&scratch.path().join("link")).unwrap();
        assert!(store.root().ends_with("real"));
    }

    #[test]
    fn only_the_owner_and_root_work_in_a_folder() {
        let object = ObjectName::new("pack/s/x").unwrap();
        let tag = tag();
        for (user, theirs) in [(1000, 1000), (0, 1000)] {
            let fs = ForgetfulFs::new(1000);
            fs.become_user(user);
            let store = LocalStore::on(fs, "/r".into()).unwrap();
            let _ = store.create(&object, &[b"1"], &tag).unwrap();
            for path in ["/r/tmp", "/r/pack", "/r/pack/s", "/r/pack/s/x"] {
                assert_eq!(store.fs.stat(Path::new(path)).unwrap().uid, theirs, "{path} by {user}");
            }
        }
        let fs = ForgetfulFs::new(1000);
        fs.become_user(1001);
        assert!(matches!(LocalStore::on(fs, "/r".into()), Err(StoreError::ForeignOwner { owner: 1000, user: 1001, .. })));
    }
}
