//! A made-up cluster, a repository of it, and what its commands say of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgcairn::host::access::{self, Need, Opened, Place};
use pgcairn::host::config::{RepositorySettings, RepositoryUrl, SecretSource};
use pgcairn::host::{ProcessEnv, StateDir};
use pgcairn::units::Quiet;

use crate::support::{Host, Outcome, TestDir, copy_tree};

/// The cluster's name.
pub const CLUSTER: &str = "main";
/// Its identifier, as in its pg_control.
pub const SYSTEM: u64 = 7_712_166_481_423_901_919;
/// Archived segments of 1 MiB, of a real server.
pub const SEGMENTS: [&str; 2] = ["000000010000000000000018", "000000010000000000000019"];
/// A segment that nobody has archived yet.
pub const NEXT_SEGMENT: &str = "00000001000000000000001A";
/// An archived history file.
pub const HISTORY: &str = "00000002.history";

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pg/18").join(name);
    fs::read(&path).unwrap_or_else(|_| zstd::decode_all(&fs::read(path.with_added_extension("zst")).unwrap()[..]).unwrap())
}

/// Bytes of a WAL file of the cluster.
pub fn wal(name: &str) -> Vec<u8> {
    match name {
        HISTORY => b"1\t0/1D00000\tno recovery target specified\n".to_vec(),
        segment => fixture(segment),
    }
}

fn noise(name: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Pages that a server would take, of some generation.
pub fn pages(count: u32, generation: u32) -> Vec<u8> {
    (0..count)
        .flat_map(|n| {
            let mut page = noise(&format!("{n} {}", if n % 7 == 3 { generation } else { 0 }), 8192);
            page[..24].fill(0);
            page[12..14].copy_from_slice(&100u16.to_le_bytes());
            page[14..16].copy_from_slice(&200u16.to_le_bytes());
            page[16..18].copy_from_slice(&8192u16.to_le_bytes());
            page[18..20].copy_from_slice(&0x2004u16.to_le_bytes());
            let checksum = pgcairn::pg::checksum::page_checksum(&page, n).unwrap();
            page[8..10].copy_from_slice(&checksum.to_le_bytes());
            page
        })
        .collect()
}

/// pg_control of a stopped server, whose last checkpoint lies in the last segment of the fixtures.
fn control() -> Vec<u8> {
    let mut bytes = fixture("pg_control");
    for at in [32, 40] {
        bytes[at..at + 8].copy_from_slice(&0x1C0_0028u64.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes[..292]);
    bytes[292..296].copy_from_slice(&crc.to_le_bytes());
    bytes.resize(8192, 0);
    bytes
}

/// Files of a restore that are not the snapshot's own.
const WRITTEN_BY_RESTORE: [&str; 2] = ["backup_manifest", "postgresql.auto.conf"];

/// All files below a folder, but those that a restore makes or leaves out.
pub fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, at: &Path, all: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                if name != Path::new("pg_wal/archive_status") {
                    walk(root, &path, all);
                }
            } else if !WRITTEN_BY_RESTORE.iter().any(|w| name == Path::new(w)) {
                all.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(folder, folder, &mut all);
    all
}

/// A repository with an object of every kind, the host that made it, the cluster, and what its snapshots hold.
pub struct World {
    pub folder: TestDir,
    pub host: Host,
    /// Oldest first.
    pub snapshots: Vec<(String, BTreeMap<PathBuf, Vec<u8>>)>,
    /// As `backup` printed it last.
    pub head: String,
}

impl World {
    /// Nothing but a cluster and an empty repository.
    pub fn empty() -> World {
        let world = World { folder: TestDir::new(), host: Host::new(), snapshots: Vec::new(), head: String::new() };
        world.make_cluster();
        world.run(["init", "--key-file", world.key().to_str().unwrap()]).ok();
        world
    }

    /// With two snapshots, archived WAL, a long list in a body, and a leftover.
    pub fn new() -> World {
        let mut world = World::empty();
        world.backup();
        for name in SEGMENTS.iter().chain([&HISTORY]) {
            world.run(["archive-push", world.wal(name).to_str().unwrap()]).ok();
        }
        world.list_many_packs();
        fs::write(world.data().join("base/5/16384"), pages(80, 1)).unwrap();
        fs::write(world.data().join("postgresql.conf"), "port = 5433\n").unwrap();
        world.backup();
        let tag = format!("proc_{}_{}_1_1", "0".repeat(16), "0".repeat(16));
        fs::write(world.repository().join("tmp").join(format!("{tag}-{}", "a".repeat(32))), "half an object").unwrap();
        world
    }

    pub fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn key(&self) -> PathBuf {
        self.folder.join("key")
    }

    /// A file of the cluster's WAL, to be pushed.
    pub fn wal(&self, name: &str) -> PathBuf {
        let path = self.folder.folder("to-archive").join(name);
        if !path.exists() {
            fs::write(&path, wal(name)).unwrap();
        }
        path
    }

    fn make_cluster(&self) {
        let data = self.data();
        for folder in ["", "global", "base", "base/5", "pg_wal", "pg_tblspc", "own"] {
            fs::create_dir_all(data.join(folder)).unwrap();
        }
        let write = |name: &str, bytes: &[u8]| fs::write(data.join(name), bytes).unwrap();
        write("PG_VERSION", b"18\n");
        write("postgresql.conf", b"port = 5432\n");
        write("global/pg_control", &control());
        write("global/1262", &pages(1, 0));
        write("base/5/PG_VERSION", b"18\n");
        write("base/5/16384", &pages(80, 0));
        write("base/5/16385", &[0; 16384]);
        write("own/stream", &noise("stream", 300_000));
        write("own/empty", b"");
        // Where the WAL of a stopped server ends.
        write("pg_wal/00000001000000000000001C", &fixture("00000001000000000000001C"));
    }

    /// A backup of the cluster as it is now.
    pub fn backup(&mut self) {
        let made = self.run(self.backup_arguments()).ok().json();
        self.head = format!("{}:{}", made["log"]["number"], made["log"]["hash"].as_str().unwrap());
        self.snapshots.push((made["id"].as_str().unwrap().to_owned(), tree(&self.data())));
    }

    pub fn backup_arguments(&self) -> Vec<String> {
        ["backup", "--json", "--offline", "--pgdata", self.data().to_str().unwrap()].map(str::to_owned).to_vec()
    }

    /// Runs a command of this host on this repository.
    pub fn run<A: AsRef<str>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        self.run_on(&self.host, &self.repository(), arguments)
    }

    /// Runs a command of a host on a repository.
    pub fn run_on<A: AsRef<str>>(&self, host: &Host, repository: &Path, arguments: impl IntoIterator<Item = A>) -> Outcome {
        let mut all = vec!["--repo".to_owned(), repository.to_str().unwrap().to_owned()];
        all.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        host.pgcairn(all)
    }

    /// A restore of the newest snapshot by a host that has nothing but the key file; where to.
    pub fn restore_afresh(&self, repository: &Path, more: &[&str]) -> (Outcome, TestDir) {
        let (host, target) = (Host::new(), TestDir::new());
        let to = target.join("data");
        let mut all = vec!["--key-file", self.key().to_str().unwrap(), "restore", "--json", "--no-recovery", "--to", to.to_str().unwrap()]
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>();
        all.extend(more.iter().map(|m| (*m).to_owned()));
        (self.run_on(&host, repository, all), target)
    }

    /// The objects of the repository, by name, and unfinished files.
    pub fn objects(&self) -> Vec<String> {
        objects(&self.repository())
    }

    /// A copy of the repository.
    pub fn copy(&self, name: &str) -> PathBuf {
        let to = self.folder.join(name);
        copy_tree(&self.repository(), &to);
        to
    }

    /// Opens the repository as this host's program does, with the library.
    pub fn opened<R>(&self, use_it: impl FnOnce(&Arc<Opened>, &StateDir) -> R) -> R {
        open(&self.repository(), &self.key(), &self.host, use_it)
    }

    /// A session that lists so many packs that the list must lie in a body.
    fn list_many_packs(&self) {
        use pgcairn::repo::log::{Abort, Begin, Held, Kind, PackFacts, Progressed};
        use pgcairn::units::{Hash32, PackId};
        self.opened(|opened, _| {
            let key = opened.key().unwrap();
            let mut view = opened.view();
            let begin = Begin { purpose: "trial".into(), machine: "m1".into(), ..Begin::default() };
            let session = opened.log().append(&mut view, key, &Kind::Begin(begin)).unwrap().session();
            let packs = (0..200u8).map(|n| (PackId([n; 16]), PackFacts { hash: Hash32([n; 32]), size: 1 << 24, tail: 5000 })).collect();
            opened.log().append(&mut view, key, &Kind::Progress(Progressed { session, packs: Held::Inline(packs) })).unwrap();
            opened.log().append(&mut view, key, &Kind::Abort(Abort { session })).unwrap();
        });
    }
}

/// Opens a repository with a host's state.
pub fn open<R>(repository: &Path, key: &Path, host: &Host, use_it: impl FnOnce(&Arc<Opened>, &StateDir) -> R) -> R {
    let url = RepositoryUrl::parse(OsStr::new(repository), None).unwrap();
    let settings = RepositorySettings::at(url, Some(SecretSource::KeyFile(key.to_path_buf())));
    let state = StateDir::open(Some(&host.home().join(".local/state/pgcairn")), &ProcessEnv, &Quiet).unwrap();
    let place =
        Place { watch: &pgcairn::store::s3::Watch::default(), repository: &settings, state: Some(&state), cache: None, progress: &Quiet };
    use_it(&Arc::new(access::open(&place, Need::Write).unwrap()), &state)
}

pub fn objects(repository: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, all: &mut Vec<String>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, all);
            } else {
                all.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut all = Vec::new();
    walk(repository, repository, &mut all);
    all.sort();
    all
}

/// An error that a person can act on: told as JSON, with a class and a cure, no panic, no memory exhausted.
#[track_caller]
pub fn clean_error(outcome: &Outcome, case: &str) -> serde_json::Value {
    let report = || format!("{case}\n{}", outcome.report());
    assert!(!outcome.stderr.contains("panicked") && !outcome.stderr.contains("RUST_BACKTRACE"), "a panic: {}", report());
    assert!(outcome.status.code().is_some_and(|code| code != 0 && code != 101), "no clean error: {}", report());
    let error = outcome.json()["error"].clone();
    assert!(error.is_object(), "no error in JSON: {}", report());
    assert!(!error["what"].as_str().unwrap_or_default().is_empty(), "{}", report());
    error
}
