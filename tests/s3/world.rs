//! What the stories of faults share: a small cluster that is stopped, and a repository that is reached through a proxy.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::at;
use crate::support::s3::proxy::Proxy;
use crate::support::s3::{Bucket, Role, Service};
use crate::support::{Host, Outcome, Postgres, Repository, Server, Stop, TestDir, copy_tree};

/// Numbers of a seed: SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    /// From 0 to below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// The seed from which all others of a test are drawn: 1, unless `PGCAIRN_TEST_SEED` says otherwise.
pub fn first_seed() -> u64 {
    let seed = std::env::var("PGCAIRN_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("PGCAIRN_TEST_SEED={seed}");
    seed
}

/// Incompressible bytes out of a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A small cluster that is stopped, and WAL that it went on to write: segments of 1 MB, all behind that stop. Most of PostgreSQL's
/// own relations are left out of it, so that a backup takes a moment.
pub struct Cluster {
    pub data: PathBuf,
    /// Archived WAL files, in order.
    pub wal: Vec<PathBuf>,
    _folder: TestDir,
}

impl Cluster {
    /// Made by a server; so many segments.
    pub fn build(pg: &Postgres, segments: usize) -> Cluster {
        let folder = TestDir::new();
        let archive = folder.folder("archive");
        let command = format!("test ! -f {0}/%f && cp %p {0}/%f", archive.display());
        let mut server = Server::build(pg).archive(&command).start();
        server.sql("postgres", "create table t as select i, md5(i::text) as t from generate_series(1, 3000) i");
        let last = server.switch_wal();
        server.await_archived(&last);
        server.stop(Stop::Fast);
        let data = folder.join("data");
        copy_tree(server.data(), &data);
        thin_out(&data);
        server.start();
        let mut last = last;
        for number in 0..segments {
            server.sql("postgres", &format!("insert into t select i, md5(i::text) from generate_series(1, 500) i where {number} >= 0"));
            last = server.switch_wal();
        }
        server.await_archived(&last);
        server.stop(Stop::Fast);
        let mut wal: Vec<PathBuf> = files(&archive);
        wal.sort();
        let wal = wal.split_off(wal.len() - segments);
        Cluster { data, wal, _folder: folder }
    }

    /// The name of a segment.
    pub fn name(&self, segment: usize) -> &str {
        self.wal[segment].file_name().unwrap().to_str().unwrap()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect()
}

fn thin_out(data: &Path) {
    for database in files(&data.join("base")) {
        let mut own = files(&database);
        own.sort();
        let of_postgres = |path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            name.split(['_', '.']).next().unwrap().parse::<u32>().is_ok_and(|n| n < 16384)
        };
        own.iter().filter(|path| of_postgres(path)).skip(3).for_each(|path| std::fs::remove_file(path).unwrap());
    }
}

/// All that a backup of a stopped cluster takes, hashed: the same before it and after a restore.
pub fn digest(data: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    // Written by a restore, or of no account after a stop.
    const OWN: [&str; 9] = [
        "pg_wal",
        "pg_stat_tmp",
        "pg_subtrans",
        "pg_notify",
        "backup_manifest",
        "postmaster.opts",
        "postgresql.auto.conf",
        "current_logfiles",
        ".pgcairn-lock",
    ];
    fn walk(root: &Path, folder: &Path, all: &mut BTreeMap<PathBuf, blake3::Hash>) {
        for path in files(folder) {
            let below = path.strip_prefix(root).unwrap().to_owned();
            let ends = |with| below.to_str().is_some_and(|path| path.ends_with(with));
            if OWN.iter().any(|own| below == Path::new(own)) || ends("pg_internal.init") || ends(".pgcairn") || ends("pgcairn.restore") {
                continue;
            }
            if path.is_dir() {
                walk(root, &path, all);
            } else {
                all.insert(below, blake3::hash(&std::fs::read(&path).unwrap()));
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(data, data, &mut all);
    all
}

/// In what two of them differ.
pub fn differ(left: &BTreeMap<PathBuf, blake3::Hash>, right: &BTreeMap<PathBuf, blake3::Hash>) -> Vec<PathBuf> {
    left.keys().chain(right.keys()).filter(|path| left.get(*path) != right.get(*path)).cloned().collect()
}

/// A repository in a bucket of its own, reached through a proxy of its own, and data directories to back up.
pub struct World {
    pub repository: Repository,
    pub proxy: Proxy,
    pub bucket: Bucket,
    pub folder: TestDir,
}

impl World {
    /// A place; nothing is there yet. What fails for a passing reason is tried for `retry`.
    pub fn before_init(service: &Service, retry: &str) -> World {
        let (proxy, bucket) = (Proxy::start(service.address()), service.bucket());
        let mut environment = at(&proxy.endpoint(), service, Role::Admin);
        environment.push(("PGCAIRN_RETRY_TIME", OsString::from(retry)));
        let repository = Repository::not_yet_in_bucket(&format!("s3://{}/pg", bucket.name()), environment);
        World { repository, proxy, bucket, folder: TestDir::new() }
    }

    /// With a repository, made without a fault.
    #[track_caller]
    pub fn new(service: &Service, retry: &str) -> World {
        let world = Self::before_init(service, retry);
        world.init().ok();
        world
    }

    pub fn init(&self) -> Outcome {
        let key = self.repository.key_file();
        self.run(&["init", "--json", "--key-file", key.to_str().unwrap()])
    }

    /// A data directory of the cluster's; it is made on demand.
    pub fn data(&self, cluster: &Cluster, name: &str) -> PathBuf {
        let data = self.folder.join(name);
        if !data.exists() {
            copy_tree(&cluster.data, &data);
        }
        data
    }

    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.repository.run(arguments)
    }

    /// The command of the repository's host.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.repository.host.command(self.repository.arguments(arguments))
    }

    /// A backup of a stopped cluster.
    pub fn backup(&self, data: &Path) -> Outcome {
        self.run(&["--jobs", "1", "backup", "--json", "--offline", "--pgdata", data.to_str().unwrap()])
    }

    /// The same by another host, which reads in the log what it didn't write.
    pub fn backup_by(&self, host: &Host, data: &Path) -> Outcome {
        let (key, data) = (self.repository.key_file(), data.to_str().unwrap());
        let words = ["--key-file", key.to_str().unwrap(), "--jobs", "1", "backup", "--json", "--offline", "--pgdata", data];
        self.repository.run_on(host, words)
    }

    /// As the server of `data` calls it.
    pub fn push(&self, data: &Path, segment: &Path) -> Outcome {
        let mut command = self.command(&["archive-push", segment.to_str().unwrap()]);
        command.current_dir(data);
        Outcome::of(command)
    }

    /// What came of an archive-get, and the bytes, if a file is there.
    pub fn get(&self, name: &str) -> (Outcome, Option<Vec<u8>>) {
        let to = self.folder.join("got");
        let _ = std::fs::remove_file(&to);
        let outcome = self.run(&["archive-get", name, to.to_str().unwrap()]);
        (outcome, std::fs::read(&to).ok())
    }

    /// A restore by a host that has the key file alone, and what lies in the target then.
    pub fn restore(&self, snapshot: &str) -> (Outcome, BTreeMap<PathBuf, blake3::Hash>) {
        let target = TestDir::new();
        let to = target.join("data");
        let (_, outcome) = self.repository.try_restore(&to, &[snapshot, "--no-recovery"]);
        let found = if to.is_dir() { digest(&to) } else { BTreeMap::new() };
        (outcome, found)
    }

    /// It must come back as this.
    #[track_caller]
    pub fn restores(&self, snapshot: &str, wanted: &BTreeMap<PathBuf, blake3::Hash>) {
        let (outcome, found) = self.restore(snapshot);
        outcome.ok();
        let other = differ(wanted, &found);
        assert!(other.is_empty(), "{snapshot} came back otherwise: {other:?}");
    }

    /// The ids of the snapshots; no entry of the log is void.
    #[track_caller]
    pub fn snapshots(&self) -> Vec<String> {
        let list = self.run(&["-v", "list", "--json"]).ok().json();
        assert_eq!(list["alarms"].as_array().map_or(0, Vec::len), 0, "{list}");
        list["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
    }

    /// All that the log and the snapshots name is there and whole.
    #[track_caller]
    pub fn is_whole(&self) {
        let verified = self.run(&["verify", "--read-data", "--json"]).ok().json();
        assert_eq!(verified["ok"], true, "{verified}");
    }
}
