//! A small host beside large ones: what it reads, and what it keeps, doesn't depend on what they have stored.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use pgcairn::host::access::{self, Need, Opened, Place};
use pgcairn::host::config::{RepositorySettings, RepositoryUrl};
use pgcairn::host::{ProcessEnv, StateDir};
use pgcairn::repo::log::{
    Begin, Commit, CommitLists, Held, Kind, NewPacks, PackFacts, PackSet, Place as LogPlace, Progressed, Root, Summary,
};
use pgcairn::units::{ChunkId, Digest16, Hash32, PackId, Quiet, SessionId, Timestamp};

use crate::support::{Host, Outcome, TestDir, ordinary};
use crate::world::{NEXT_SEGMENT, SEGMENTS, World, tree};

/// A host that the owner enrolled.
#[track_caller]
pub fn enrol(world: &World, name: &str, roles: &str) -> Host {
    let (grant, key) = (world.folder.join(format!("{name}.grant")), world.key());
    let (grant, key) = (grant.to_str().unwrap(), key.to_str().unwrap());
    world.run(["--key-file", key, "key", "add-host", "--role", roles, "--name", name, grant]).ok();
    let host = Host::new();
    world.run_on(&host, &world.repository(), ["key", "accept", grant]).ok();
    host
}

/// The repository as a host's library sees it.
pub fn opened(world: &World, host: &Host) -> Arc<Opened> {
    let settings = RepositorySettings::at(RepositoryUrl::Local(world.repository()), None);
    let state = StateDir::open(Some(&host.home().join(".local/state/pgcairn")), &ProcessEnv, &Quiet).unwrap();
    let place =
        Place { watch: &pgcairn::store::s3::Watch::default(), repository: &settings, state: Some(&state), cache: None, progress: &Quiet };
    Arc::new(access::open(&place, Need::Write).unwrap())
}

/// How much the others have.
#[derive(Clone, Copy)]
struct Tenants {
    clusters: u32,
    snapshots: u32,
    /// New packs of each snapshot; it relies on those of the ones before, too.
    packs: u32,
}

impl Tenants {
    /// Writes what their hosts would: sessions and COMMITs. The packs themselves nobody reads.
    fn write(self, opened: &Opened) {
        let mut number = 0u32;
        for cluster in 0..self.clusters {
            let mut set = PackSet::default();
            for snapshot in 0..self.snapshots {
                let begin = Begin {
                    purpose: "backup".into(),
                    cluster: Some(format!("large-{cluster}")),
                    system_identifier: Some(1_000 + u64::from(cluster)),
                    machine: "00".repeat(16),
                    ..Begin::default()
                };
                let session = access::append(opened, &Kind::Begin(begin)).unwrap().session();
                let new: NewPacks = (0..self.packs).map(|n| (pack(number + n), facts())).collect();
                number += self.packs;
                new.keys().for_each(|pack| set.insert(session, *pack));
                access::append(opened, &Kind::Progress(Progressed { session, packs: Held::Inline(new) })).unwrap();
                let lists = CommitLists { new: NewPacks::new(), set: set.clone(), less: PackSet::default(), ledger: Vec::new() };
                let commit = snapshot_of(session, cluster, snapshot, lists);
                access::append(opened, &Kind::Commit(Box::new(commit))).unwrap();
            }
        }
    }
}

fn pack(n: u32) -> PackId {
    PackId(*blake3::hash(&n.to_le_bytes()).as_bytes().first_chunk().unwrap())
}

fn facts() -> PackFacts {
    PackFacts { hash: Hash32([7; 32]), size: 32 << 20, tail: 40_000 }
}

fn snapshot_of(session: SessionId, cluster: u32, snapshot: u32, lists: CommitLists) -> Commit {
    let time = Timestamp::now();
    let summary = Summary {
        id: format!("20260101-000000-{cluster:02x}{snapshot:02x}"),
        kind: "dump".into(),
        cluster: format!("large-{cluster}"),
        system_identifier: 1_000 + u64::from(cluster),
        started_at: time,
        finished_at: time,
        wal: None,
        pg_version: "18".into(),
        cluster_bytes: 1 << 40,
        read_bytes: 1 << 40,
        changed_bytes: 1 << 34,
        new_bytes: 1 << 33,
        files: 2_000,
        damaged_pages: 0,
        parent: None,
        labels: BTreeMap::new(),
    };
    let place = LogPlace { pack: *lists.set.iter().next().unwrap().1, blob: 0, position: 0 };
    let root = Root { chunk: ChunkId([1; 32]), place, digest: Digest16([2; 16]) };
    Commit { session, summary, root, lists: Held::Inline(lists), replaces: None }
}

/// A command's peak of memory (VmHWM, bytes), as the kernel says it just before it ends.
fn run(world: &World, host: &Host, arguments: &[String]) -> (Outcome, u64) {
    let mut all = vec!["--repo".to_owned(), world.repository().to_str().unwrap().to_owned(), "--cluster".to_owned(), "small".to_owned()];
    all.extend(arguments.iter().cloned());
    let mut command = host.command(&all);
    let (out, err) = (TestDir::new(), TestDir::new());
    let (out, err) = (out.join("out"), err.join("err"));
    let mut child = command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap()).spawn().unwrap();
    let mut peak = 0;
    let status = loop {
        if let Ok(text) = fs::read_to_string(format!("/proc/{}/status", child.id())) {
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            peak = peak.max(line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10);
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    let text = format!("{}\n{}", fs::read_to_string(&out).unwrap(), fs::read_to_string(&err).unwrap());
    assert!(status.success(), "{arguments:?}: {status}\n{text}");
    let mut done = Command::new("cat");
    done.arg(&out).stdin(Stdio::null());
    (Outcome::of(done), peak)
}

/// The daily work of a small host, by name; each ends well, and what is restored is what was there.
fn daily(world: &World, host: &Host, segment: &str) -> Vec<(&'static str, u64)> {
    let text = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let target = TestDir::new();
    let (wal, to, got) = (world.wal(segment), target.join("data"), target.join("got"));
    let (to, got) = (to.to_str().unwrap(), got.to_str().unwrap());
    let done = vec![
        ("archive-push", run(world, host, &text(&["archive-push", wal.to_str().unwrap()])).1),
        ("backup", run(world, host, &world.backup_arguments()).1),
        ("archive-get", run(world, host, &text(&["archive-get", segment, got])).1),
        ("list", run(world, host, &text(&["list"])).1),
        ("restore", run(world, host, &text(&["restore", "--no-recovery", "--to", to])).1),
    ];
    assert!(fs::read(got).unwrap() == fs::read(&wal).unwrap());
    assert!(tree(Path::new(to)) == tree(&world.data()));
    done
}

fn forget_cache(host: &Host) {
    fs::remove_dir_all(host.home().join(".cache")).unwrap();
}

fn kept(host: &Host, name: &str) -> u64 {
    let folder = fs::read_dir(host.home().join(".cache/pgcairn")).unwrap().flatten().map(|e| e.path()).find(|p| p.is_dir()).unwrap();
    fs::metadata(folder.join(name)).map_or(0, |m| m.len())
}

#[test]
fn a_small_host_does_its_work_without_a_single_list_of_the_others() {
    ordinary(|| {
        let world = World::empty();
        let (small, large) = (enrol(&world, "small", "writer,reader"), enrol(&world, "large", "writer,reader"));
        run(&world, &small, &world.backup_arguments());
        let alone = daily(&world, &small, SEGMENTS[0]);
        Tenants { clusters: 20, snapshots: 3, packs: 400 }.write(&opened(&world, &large));
        let bodies = world.repository().join("body");
        assert!(fs::read_dir(&bodies).unwrap().count() >= 100, "their lists lie in bodies");
        let away = world.folder.join("away");
        fs::rename(&bodies, &away).unwrap();

        let beside = daily(&world, &small, SEGMENTS[1]);
        forget_cache(&small);
        let afresh = daily(&world, &small, NEXT_SEGMENT);
        for later in [&beside, &afresh] {
            for ((command, before), (_, after)) in alone.iter().zip(later) {
                assert!(*after <= before + (24 << 20), "{command}: {before} bytes of memory alone, {after} beside others");
            }
        }
        // A host that knows nothing restores the small cluster; nobody restores a large one.
        let afresh = |cluster: &str| {
            let (host, target) = (Host::new(), TestDir::new());
            let to = target.join("data");
            let (key, to) = (world.key(), to.to_str().unwrap().to_owned());
            let all = ["--key-file", key.to_str().unwrap(), "--cluster", cluster, "restore", "--no-recovery", "--to", &to];
            world.run_on(&host, &world.repository(), all)
        };
        afresh("small").ok();
        afresh("large-7").code(1).says("body/");
        // Who needs them says so; a host that is no maintainer, too.
        world.run(["prune", "--dry-run"]).code(1).says("body/");
        world.run_on(&small, &world.repository(), ["stats"]).ok().says("body/");
        fs::rename(&away, &bodies).unwrap();
        // Of their packs none is there.
        world.run(["prune", "--dry-run"]).code(3).prints("keeps its packs as they are");
        assert!(kept(&small, "log") * 8 < kept(&world.host, "log"), "{} {}", kept(&small, "log"), kept(&world.host, "log"));
        daily(&world, &small, SEGMENTS[0]);
    });
}

/// The table of docs/benchmarks.md, "Many hosts":
/// `cargo nextest run --test hosts --run-ignored only --no-capture what_a_small_host_costs`.
#[test]
#[ignore = "figures"]
fn what_a_small_host_costs_beside_large_ones() {
    ordinary(|| {
        let world = World::empty();
        let (small, large) = (enrol(&world, "small", "writer,reader"), enrol(&world, "large", "writer,reader"));
        run(&world, &small, &world.backup_arguments());
        let text = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let wal: Vec<PathBuf> = SEGMENTS.iter().chain([&NEXT_SEGMENT]).map(|name| world.wal(name)).collect();
        let mut table = String::from("| | command | peak memory |\n|---|---|---|\n");
        let measure = |what: &str, host: &Host, segment: &Path, table: &mut String| {
            let target = TestDir::new();
            let to = target.join("data");
            let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
            for (command, arguments) in [
                ("archive-push", text(&["archive-push", segment.to_str().unwrap()])),
                ("archive-get", text(&["archive-get", &name, target.join("got").to_str().unwrap()])),
                ("backup", world.backup_arguments()),
                ("list", text(&["list"])),
                ("restore", text(&["restore", "--no-recovery", "--to", to.to_str().unwrap()])),
            ] {
                let first = command == "archive-push";
                let (_, peak) = run(&world, host, &arguments);
                let label = if first { what } else { "" };
                table.push_str(&format!("| {label} | `{command}` | {:.0} MB |\n", peak as f64 / 1e6));
            }
        };
        measure("alone", &small, &wal[0], &mut table);
        Tenants { clusters: 50, snapshots: 3, packs: 400 }.write(&opened(&world, &large));
        measure("beside 50 others", &small, &wal[1], &mut table);
        forget_cache(&small);
        measure("the same, without a cache", &small, &wal[2], &mut table);
        measure("a maintainer", &world.host, &wal[2], &mut table);
        let entries = fs::read_dir(world.repository().join("log")).unwrap().count();
        let bodies: Vec<u64> =
            fs::read_dir(world.repository().join("body")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        println!("{table}");
        println!("{entries} entries, {} bodies of {:.1} MB", bodies.len(), bodies.iter().sum::<u64>() as f64 / 1e6);
        println!("kept of the log: small {} bytes, maintainer {} bytes", kept(&small, "log"), kept(&world.host, "log"));
    });
}
