//! What the stories of this folder share.

use std::path::{Path, PathBuf};

use pgcairn::host::access::{self, Need, Opened, Place};
use pgcairn::host::config::{RepositorySettings, RepositoryUrl};
use pgcairn::host::{HostError, StateDir};
use pgcairn::repo::log::{Forget, Kind};
use pgcairn::units::Quiet;

use crate::support::{Postgres, Repository, Server, Stop, TestDir, bytes_below, copy_tree};

/// Opens the repository as its host does.
pub fn opened(repository: &Repository) -> Opened {
    let settings = RepositorySettings::at(RepositoryUrl::Local(repository.path()), None);
    let state = StateDir::open_at(&repository.host.home().join(".local/state/pgcairn"), &Quiet).unwrap();
    let place =
        Place { watch: &pgcairn::store::s3::Watch::default(), repository: &settings, state: Some(&state), cache: None, progress: &Quiet };
    access::open(&place, Need::Write).unwrap()
}

/// Forgets a snapshot, or all of it but its window, as it says in the log.
pub fn forget(repository: &Repository, snapshot: &str, window: bool) {
    try_forget(repository, snapshot, window).unwrap();
}

/// The same; an error if it is no longer there.
pub fn try_forget(repository: &Repository, snapshot: &str, window: bool) -> Result<(), HostError> {
    let opened = opened(repository);
    let commit = opened.view().fold.commits_of(snapshot).map(|(number, _)| number).last();
    let commit = commit.unwrap_or(u64::MAX >> 12);
    access::append(&opened, &Kind::Forget(Forget { commit, window })).map(|_| ())
}

/// The ids of the snapshots, the oldest first.
#[track_caller]
pub fn snapshots(repository: &Repository) -> Vec<String> {
    let list = repository.run(["list", "--json"]).ok().json();
    list["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

/// How many entries the log has.
pub fn entries(repository: &Repository) -> usize {
    std::fs::read_dir(repository.path().join("log")).unwrap().count()
}

/// Bytes of packs.
pub fn packs(repository: &Repository) -> u64 {
    bytes_below(&repository.path().join("pack"))
}

/// Names of all archived segments.
pub fn segments(repository: &Repository) -> Vec<String> {
    fn walk(folder: &Path, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => walk(&path, names),
                _ => names.push(entry.file_name().into_string().unwrap()),
            }
        }
    }
    let mut names = Vec::new();
    walk(&repository.path().join("wal"), &mut names);
    names.retain(|name| name.len() == 24);
    names.sort();
    names
}

/// A prune, and one more, which must have nothing to do.
#[track_caller]
pub fn prune(repository: &Repository) -> serde_json::Value {
    let dry = repository.run(["prune", "--json", "--dry-run"]).ok().json();
    let did = repository.run(["prune", "--json"]).ok().json();
    if did["rewritten"]["snapshots"] == 0 {
        assert_eq!(dry["freed"], did["freed"], "{dry}\n{did}");
        assert_eq!(dry["packs"], did["packs"]);
    } else {
        // What emptying frees besides is told by itself; the nodes that are written anew are not foreseen.
        assert!(dry["freed"].as_u64() <= did["freed"].as_u64(), "{dry}\n{did}");
    }
    let (entries_before, bytes) = (entries(repository), bytes_below(&repository.path()));
    let again = repository.run(["prune", "--json"]).ok().json();
    assert_eq!(
        (again["freed"].as_u64(), entries(repository), bytes_below(&repository.path())),
        (Some(0), entries_before, bytes),
        "{again}"
    );
    did
}

/// A small cluster that is stopped: PostgreSQL's own relations are left out of it but for a few.
pub fn small_cluster(pg: &Postgres) -> (TestDir, PathBuf) {
    let folder = TestDir::new();
    let mut server = Server::build(pg).checksums(false).start();
    server.sql("postgres", "create table t as select i, md5(i::text) as t from generate_series(1, 2000) i");
    server.stop(Stop::Fast);
    let data = folder.join("data");
    copy_tree(server.data(), &data);
    for database in std::fs::read_dir(data.join("base")).unwrap() {
        let mut own: Vec<PathBuf> = std::fs::read_dir(database.unwrap().path()).unwrap().map(|e| e.unwrap().path()).collect();
        own.sort();
        let own_of_postgres = |path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            name.split(['_', '.']).next().unwrap().parse::<u32>().is_ok_and(|n| n < 16384)
        };
        own.iter().filter(|path| own_of_postgres(path)).skip(5).for_each(|path| std::fs::remove_file(path).unwrap());
    }
    // Made in advance, and no part of any backup.
    let wal: Vec<PathBuf> = std::fs::read_dir(data.join("pg_wal")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect();
    assert!(!wal.is_empty());
    (folder, data)
}

/// Incompressible bytes out of a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Restores a snapshot on a host of its own; its file `noise` must be this.
#[track_caller]
pub fn restores(repository: &Repository, snapshot: &str, cluster: &str, wanted: &[u8]) {
    let target = TestDir::new();
    let to = target.join("data");
    let (_, outcome) = repository.try_restore(&to, &[snapshot, "--cluster", cluster, "--no-recovery"]);
    outcome.ok();
    assert!(std::fs::read(to.join("noise")).unwrap() == wanted, "snapshot {snapshot} came back otherwise");
}
