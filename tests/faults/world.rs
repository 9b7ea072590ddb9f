//! A machine with everything on it that the program writes to, in one folder: it can be set back, and looked through.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgcairn::host::StateDir;
use pgcairn::host::access::{self, Need, Place};
use pgcairn::host::config::{RepositorySettings, RepositoryUrl};
use pgcairn::repo::log::{Forget, Kind};
use pgcairn::units::Quiet;

use crate::disk::{self, Disk, Tree};
use crate::support::{Host, Outcome, Postgres, Server, Stop, TestDir, copy_tree, full};
use crate::trace::{self, Step, Under};

/// Two states of one small cluster that is stopped, and the WAL segments that it archived on the way: what all stories
/// are about. PostgreSQL's own relations are left out of it but for some, so that a backup takes a moment.
pub struct Cluster {
    /// The states, the older first.
    pub states: [PathBuf; 2],
    /// Archived WAL files, in order.
    pub wal: Vec<PathBuf>,
    _folder: TestDir,
}

impl Cluster {
    /// Made by a server.
    pub fn build(pg: &Postgres) -> Cluster {
        let folder = TestDir::new();
        let archive = folder.folder("archive");
        let command = format!("test ! -f {0}/%f && cp %p {0}/%f", archive.display());
        let mut server = Server::build(pg).archive(&command).start();
        let archived = |server: &Server| {
            let last = server.switch_wal();
            server.await_archived(&last);
        };
        server.sql("postgres", "create table t as select i, md5(i::text) as t from generate_series(1, 6000) i; create index on t(i)");
        archived(&server);
        server.stop(Stop::Fast);
        let states = [folder.join("first"), folder.join("second")];
        copy_tree(server.data(), &states[0]);
        server.start();
        server.sql("postgres", "update t set t = 'changed' where i % 97 = 0; create table u as select i from generate_series(1, 3000) i");
        archived(&server);
        server.sql("postgres", "insert into u select i from generate_series(1, 500) i");
        archived(&server);
        server.stop(Stop::Fast);
        copy_tree(server.data(), &states[1]);
        states.iter().for_each(|state| thin_out(state));
        let mut wal: Vec<PathBuf> = std::fs::read_dir(&archive).unwrap().map(|e| e.unwrap().path()).collect();
        wal.sort();
        assert!(wal.len() >= 3, "{wal:?}");
        Cluster { states, wal, _folder: folder }
    }
}

/// Leaves of PostgreSQL's own relations one in twenty, and none that is large.
fn thin_out(data: &Path) {
    for database in std::fs::read_dir(data.join("base")).unwrap() {
        let mut own: Vec<PathBuf> = std::fs::read_dir(database.unwrap().path()).unwrap().map(|e| e.unwrap().path()).collect();
        own.sort();
        let number = |path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            name.split(['_', '.']).next().unwrap().parse::<u32>().ok()
        };
        for (at, path) in own.iter().filter(|path| number(path).is_some_and(|n| n < 16384)).enumerate() {
            if at % 20 != 0 || std::fs::metadata(path).unwrap().len() > 100_000 {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
}

/// The machine.
pub struct World {
    folder: TestDir,
    program: PathBuf,
    looks: Cell<u32>,
}

impl World {
    /// With nothing on it.
    #[allow(clippy::new_without_default)]
    pub fn new() -> World {
        let world = World { folder: TestDir::new(), program: Host::new().program(), looks: Cell::new(0) };
        world.folder.folder("disk/home");
        world
    }

    /// Is this state looked at in every way? Each in the full form, and in the short form one in four, and the end: what
    /// must hold whatever was interrupted, and takes long to look at.
    pub fn at_length(&self, done: bool) -> bool {
        self.looks.set(self.looks.get() + 1);
        done || full() || self.looks.get().is_multiple_of(4)
    }

    /// The folder on which everything lies that the program writes.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// A path on that disk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.disk().join(name)
    }

    /// A folder that is no part of the disk.
    pub fn elsewhere(&self, name: &str) -> PathBuf {
        self.folder.folder(name)
    }

    /// A command of this machine's user, in a folder of theirs.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        self.command_of(&self.path("home"), arguments)
    }

    /// A command of a user with another home.
    pub fn command_of<A: AsRef<OsStr>>(&self, home: &Path, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("HOME", home).env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C.UTF-8");
        // What isn't written to a real disk in time is of no interest here.
        command.env("LD_PRELOAD", trace::library()).env("SHIM_UNSYNCED", "1").env("RUST_BACKTRACE", "0");
        command.arg("--repo").arg(self.path("repository")).args(arguments);
        command.current_dir(home).stdin(std::process::Stdio::null());
        command
    }

    /// Runs the program.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        Outcome::of(self.command(arguments))
    }

    /// `init` with a key file on the disk.
    pub fn init(&self) -> Outcome {
        self.run([OsStr::new("init"), OsStr::new("--key-file"), self.path("key").as_os_str()])
    }

    /// A backup of a stopped cluster; its arguments.
    pub fn backup_of(&self, data: &Path) -> Vec<String> {
        let data = data.to_str().expect("a path in UTF-8");
        ["--jobs", "1", "backup", "--json", "--offline", "--pgdata", data].map(str::to_owned).into()
    }

    /// Runs the program under the shim.
    pub fn under(&self, mut command: Command, kill: Option<u64>, fail: &str) -> (Outcome, Vec<Step>) {
        let trace = self.folder.join("trace");
        let under = Under { roots: vec![self.disk()], trace: Some(trace.clone()), kill, fail: fail.to_owned() };
        under.put(&mut command);
        let outcome = Outcome::of(command);
        (outcome, trace::read(&trace))
    }

    /// All that lies on the disk.
    pub fn scan(&self) -> Tree {
        disk::scan(&self.disk())
    }

    /// All that lies on the disk, as what is durable.
    pub fn durable(&self) -> Disk {
        Disk::of(&self.disk())
    }

    /// Makes the disk hold exactly this.
    pub fn set(&self, tree: &Tree) {
        disk::write(&self.disk(), tree);
    }

    /// The ids of the snapshots, the oldest first.
    #[track_caller]
    pub fn snapshots(&self) -> Vec<String> {
        let list = self.run(["list", "--json"]).ok().json();
        list["snapshots"].as_array().expect("snapshots").iter().map(|s| s["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Forgets a snapshot, as it says in the log.
    pub fn forget(&self, snapshot: &str) {
        let repository = RepositorySettings::at(RepositoryUrl::Local(self.path("repository")), None);
        let state = StateDir::open_at(&self.path("home/.local/state/pgcairn"), &Quiet).unwrap();
        let place = Place {
            watch: &pgcairn::store::s3::Watch::default(),
            repository: &repository,
            state: Some(&state),
            cache: None,
            progress: &Quiet,
        };
        let opened = access::open(&place, Need::Write).unwrap();
        let commit = opened.view().fold.commits_of(snapshot).map(|(number, _)| number).last().unwrap();
        access::append(&opened, &Kind::Forget(Forget { commit, window: false })).unwrap();
    }

    /// Restores a snapshot on a machine that has nothing but the key file; it must be what was backed up.
    #[track_caller]
    pub fn restores_as(&self, snapshot: &str, data: &Path) {
        let other = self.elsewhere("other");
        std::fs::remove_dir_all(&other).unwrap();
        std::fs::create_dir(&other).unwrap();
        let (to, key) = (other.join("data"), self.path("key"));
        let arguments = ["--key-file", key.to_str().unwrap(), "restore", snapshot, "--no-recovery", "--to", to.to_str().unwrap()];
        Outcome::of(self.command_of(&other, arguments)).ok();
        same_cluster(data, &to);
    }

    /// The archive must have these WAL files.
    #[track_caller]
    pub fn has_wal(&self, files: &[PathBuf]) {
        for file in files {
            let to = self.elsewhere("got").join("segment");
            let _ = std::fs::remove_file(&to);
            let name = file.file_name().unwrap().to_str().unwrap();
            self.run(["archive-get", name, to.to_str().unwrap()]).ok();
            assert!(std::fs::read(&to).unwrap() == std::fs::read(file).unwrap(), "{name} came back otherwise");
        }
    }

    /// After a backup nothing is left of what was interrupted: no unfinished files, no locks, no half a key; and
    /// all that the log lists is there and whole. (By the
    /// machine's id a leftover is known to be ours.)
    #[track_caller]
    pub fn is_sound(&self) {
        let left: Vec<PathBuf> = self
            .scan()
            .into_keys()
            .filter(|path| {
                let text = path.to_str().unwrap_or_default();
                (text.starts_with("repository/tmp/") && Path::new("/etc/machine-id").exists())
                    || text.contains("/locks/")
                    || text.ends_with(".pgcairn-unfinished")
            })
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        self.run(["verify"]).ok();
    }

    /// `archive-push` of a file, as the server of `data` runs it.
    pub fn push(&self, data: &Path, file: &Path) -> Command {
        let mut command = self.command([OsStr::new("archive-push"), file.as_os_str()]);
        command.current_dir(data);
        command
    }
}

/// Is a restored data directory what was backed up? Compared is all that a backup of a stopped cluster takes.
#[track_caller]
pub fn same_cluster(data: &Path, restored: &Path) {
    if let Some(difference) = difference(data, restored, data) {
        panic!("{} came back otherwise in {}: {difference}", data.display(), restored.display());
    }
}

/// In what a data directory isn't the same as another; its WAL may be that of a third.
pub fn difference(data: &Path, restored: &Path, wal: &Path) -> Option<String> {
    // Written by a restore, or by each start.
    const OWN: [&str; 8] = [
        "pg_wal",
        "backup_manifest",
        "postmaster.opts",
        "postgresql.auto.conf",
        "current_logfiles",
        ".pgcairn-lock",
        "pgcairn.restore",
        "pgcairn.restore.pgcairn",
    ];
    // Emptied by a start; WAL is looked at by itself.
    const EMPTIED: [&str; 4] = ["pg_subtrans/", "pg_notify/", "pg_stat_tmp/", "pg_wal/"];
    let files = |folder: &Path| -> BTreeMap<PathBuf, disk::Item> {
        let left_out = |path: &Path| {
            let text = path.to_str().unwrap_or_default();
            EMPTIED.iter().any(|p| text.starts_with(p)) || OWN.contains(&text) || text.ends_with("pg_internal.init")
        };
        disk::scan(folder).into_iter().filter(|(path, _)| !left_out(path)).collect()
    };
    if let Some(difference) = disk::first_difference(&files(data), &files(restored)) {
        return Some(difference);
    }
    let segments = |folder: &Path| -> Tree {
        let all = disk::scan(&folder.join("pg_wal")).into_iter();
        all.filter(|(path, item)| matches!(item, disk::Item::File(..)) && path.parent() == Some(Path::new(""))).collect()
    };
    // A stopped cluster needs its last segment; others were archived or are recycled.
    let (was, later, got) = (segments(data), segments(wal), segments(restored));
    let other = got.iter().find(|(path, item)| was.get(*path) != Some(*item) && later.get(*path) != Some(*item));
    match other {
        _ if got.is_empty() => Some("there is no WAL".to_owned()),
        Some((path, _)) => Some(format!("pg_wal/{} is another", path.display())),
        None => None,
    }
}
