//! `verify`: what is whole is called whole, and every kind of damage is named, with the snapshots and files that it hits.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::on_majors;
use crate::support::{Host, Outcome, Postgres, Repository, Server, TestDir, bytes_below, verify_backup};

/// Two snapshots of a small cluster with a tablespace, the second mostly patches of the first.
struct World {
    repository: Repository,
    server: Server,
    snapshots: [String; 2],
}

impl World {
    fn new(pg: &Postgres) -> World {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        let space = server.folder("space");
        server.sql("postgres", &format!("create tablespace far location '{}'", space.display()));
        server.sql("postgres", "create table t as select i, md5(i::text) v from generate_series(1, 60000) i");
        server.sql("postgres", "create table far tablespace far as select i from generate_series(1, 5000) i");
        let backup = || repository.backup(&server, &[])["id"].as_str().unwrap().to_owned();
        let first = backup();
        server.sql("postgres", "update t set v = 'changed' where i % 4000 = 0");
        let second = backup();
        for _ in 0..3 {
            server.sql("postgres", "insert into t select 0, 'more'");
            let name = server.switch_wal();
            server.await_archived(&name);
        }
        World { repository, server, snapshots: [first, second] }
    }

    fn verify(&self, more: &[&str]) -> Outcome {
        self.verify_on(&self.repository.host, more)
    }

    fn verify_on(&self, host: &Host, more: &[&str]) -> Outcome {
        let key = self.repository.key_file();
        let own = ["--key-file", key.to_str().unwrap(), "verify", "--json"];
        self.repository.run_on(host, own.iter().chain(more).copied())
    }

    fn objects(&self, folder: &str) -> Vec<String> {
        let root = self.repository.path();
        let mut found = Vec::new();
        let mut folders = vec![root.join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.retain(|name| !name.starts_with("tmp/"));
        found.sort();
        found
    }

    fn path(&self, object: &str) -> PathBuf {
        self.repository.path().join(object)
    }

    /// The packs of the session that stored a snapshot, by the order of sessions in the log.
    fn packs_by_session(&self) -> [Vec<String>; 2] {
        let show = |id: &str| self.repository.run(["show", id, "--json"]).ok().json()["commit"].as_u64().unwrap();
        let commits = self.snapshots.each_ref().map(|id| show(id));
        let written = |name: &String| std::fs::metadata(self.path(name)).unwrap().modified().unwrap();
        let first_ends = std::fs::metadata(self.path(&format!("log/{}", commits[0]))).unwrap().modified().unwrap();
        let (first, second) = self.objects("pack").into_iter().partition(|name| written(name) <= first_ends);
        [first, second]
    }
}

/// An object that is put back when this is dropped.
struct Damaged {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Damaged {
    fn of(world: &World, object: &str, change: impl FnOnce(&Path, &mut Vec<u8>)) -> Self {
        let path = world.path(object);
        let bytes = std::fs::read(&path).unwrap();
        let mut changed = bytes.clone();
        change(&path, &mut changed);
        if path.exists() {
            std::fs::write(&path, changed).unwrap();
        }
        Damaged { path, bytes }
    }

    fn flipped(world: &World, object: &str, at: usize) -> Self {
        Self::of(world, object, |_, bytes| bytes[at] ^= 1)
    }

    fn missing(world: &World, object: &str) -> Self {
        Self::of(world, object, |path, _| std::fs::remove_file(path).unwrap())
    }

    fn shortened(world: &World, object: &str) -> Self {
        Self::of(world, object, |_, bytes| bytes.truncate(bytes.len() - 1))
    }
}

impl Drop for Damaged {
    fn drop(&mut self) {
        std::fs::write(&self.path, &self.bytes).unwrap();
    }
}

fn texts(value: &Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

/// The error about this object; there must be no other than those that begin like `also`.
#[track_caller]
fn error_about(outcome: Outcome, object: &str, also: &[&str]) -> Value {
    let outcome = outcome.code(1);
    let answer = outcome.json();
    assert_eq!(answer["ok"], false, "{}", outcome.report());
    let errors = answer["errors"].as_array().unwrap_or_else(|| panic!("{}", outcome.report()));
    let strange = errors.iter().find(|e| e["object"] != object && !also.iter().any(|also| e["object"].as_str().unwrap().starts_with(also)));
    assert!(strange.is_none(), "about {object}: {}", outcome.report());
    errors.iter().find(|e| e["object"] == object).unwrap_or_else(|| panic!("nothing about {object}: {}", outcome.report())).clone()
}

fn clean_is_called_clean(pg: &Postgres) {
    let world = World::new(pg);
    let objects = world.objects("").len();
    let quick = world.verify(&[]).ok().json();
    assert_eq!((&quick["version"], &quick["ok"], &quick["errors"]), (&1.into(), &true.into(), &Value::Array(vec![])), "{quick}");
    assert_eq!((&quick["warnings"], &quick["snapshots"]), (&Value::Array(vec![]), &2.into()), "{quick}");
    assert_eq!(quick["objects"], objects, "{quick}");
    assert_eq!((&quick["packs"], &quick["packs_read"]), (&world.objects("pack").len().into(), &0.into()), "{quick}");
    assert_eq!((&quick["wal_files"], &quick["wal_files_read"]), (&world.objects("wal").len().into(), &0.into()), "{quick}");
    let stored = bytes_below(&world.repository.path());
    assert!(quick["bytes_read"].as_u64().unwrap() < stored / 2, "{quick}");

    let full = world.verify(&["--read-data"]).ok().json();
    assert_eq!((&full["ok"], &full["packs_read"], &full["wal_files_read"]), (&true.into(), &full["packs"], &full["wal_files"]), "{full}");
    assert!(full["bytes_read"].as_u64().unwrap() > stored * 9 / 10, "{full}");
    // A share: at least one of each, drawn anew; the same with the same seed.
    let share = world.verify(&["--read-data=1%"]).ok().json();
    assert_eq!((&share["packs_read"], &share["wal_files_read"]), (&1.into(), &1.into()), "{share}");
    let seed = share["seed"].as_u64().unwrap().to_string();
    let again = world.verify(&["--read-data=1", "--seed", &seed]).ok().json();
    assert_eq!((&again["seed"], &again["packs_read"]), (&share["seed"], &1.into()), "{again}");
    for bad in ["--read-data=0", "--read-data=101", "--read-data=x"] {
        world.verify(&[bad]).code(2);
    }

    // A host that has nothing but the key file enrols nobody; people get a few lines.
    let entries = world.objects("log").len();
    world.verify_on(&Host::new(), &["--read-data"]).ok();
    assert_eq!(world.objects("log").len(), entries);
    world.repository.run(["verify", "--read-data"]).ok().prints("2 snapshots").prints("all is there, and all of it is whole");
    world.repository.run(["verify"]).ok().prints("all is there; what was read is whole");

    // What nobody listed is no damage; what nobody knows is named.
    let orphan = world.path("pack").join("0".repeat(32));
    std::fs::create_dir(&orphan).unwrap();
    std::fs::write(orphan.join(format!("{}-{}", "1".repeat(32), "2".repeat(64))), b"half").unwrap();
    std::fs::write(world.path("log/notes"), b"x").unwrap();
    let unfinished = world.path("tmp").join(format!("prove-{}", "3".repeat(32)));
    std::fs::write(&unfinished, b"half").unwrap();
    let noted = world.verify(&[]).ok().json();
    assert_eq!((&noted["orphans"]["objects"], &noted["orphans"]["bytes"]), (&1.into(), &4.into()), "{noted}");
    assert!(noted["warnings"][0].as_str().unwrap().contains("log/notes"), "{noted}");
    assert_eq!(noted["leftovers"], 1, "{noted}");
    std::fs::remove_file(unfinished).unwrap();
    std::fs::remove_dir_all(orphan).unwrap();
    std::fs::remove_file(world.path("log/notes")).unwrap();

    // A store that is away is not damaged.
    let (here, away) = (world.repository.path(), world.repository.path().with_extension("away"));
    std::fs::rename(&here, &away).unwrap();
    let gone = world.verify(&[]).json();
    assert!(gone.get("ok").is_none() && gone["error"]["class"] != "corrupt", "{gone}");
    std::fs::rename(&away, &here).unwrap();
}

on_majors!(clean_is_called_clean: pg15 15, pg18 18);

fn damaged_packs_are_named_with_what_they_hit(pg: &Postgres) {
    let world = World::new(pg);
    let [first, second] = world.packs_by_session();
    assert!(!first.is_empty() && !second.is_empty(), "{first:?} {second:?}");
    let both: BTreeSet<String> = world.snapshots.iter().cloned().collect();
    let only_second: BTreeSet<String> = [world.snapshots[1].clone()].into();
    let table = world.server.sql("postgres", "select pg_relation_filepath('t')");
    let largest = |packs: &[String]| packs.iter().max_by_key(|p| std::fs::metadata(world.path(p)).unwrap().len()).unwrap().clone();

    let mut hit = BTreeSet::new();
    for pack in &first {
        // Gone, cut short, its table damaged: found without reading data.
        let size = std::fs::metadata(world.path(pack)).unwrap().len() as usize;
        for (what, damaged) in [
            ("missing", Damaged::missing as fn(&World, &str) -> Damaged),
            ("short", Damaged::shortened),
            ("table", |world, pack| Damaged::of(world, pack, |_, bytes| *bytes.iter_mut().rev().nth(200).unwrap() ^= 1)),
            ("trailer", |world, pack| Damaged::of(world, pack, |_, bytes| *bytes.last_mut().unwrap() ^= 1)),
        ] {
            let damaged = damaged(&world, pack);
            let error = error_about(world.verify(&[]), pack, &[]);
            // What only a patch's whole chunk is good for may be the second's alone.
            assert!(
                texts(&error["snapshots"]).contains(&world.snapshots[1]) || texts(&error["snapshots"]).contains(&world.snapshots[0]),
                "{what}: {error}"
            );
            assert!(!texts(&error["files"]).is_empty(), "{what}: {error}");
            hit.extend(texts(&error["files"]));
            if what == "table" {
                let full = error_about(world.verify(&["--read-data"]), pack, &[]);
                assert_eq!(texts(&full["files"]), texts(&error["files"]), "{what}");
            }
            drop(damaged);
        }
        // A bit anywhere: found by reading.
        for at in [0, size / 3, size / 2] {
            let damaged = Damaged::flipped(&world, pack, at);
            let error = error_about(world.verify(&["--read-data"]), pack, &[]);
            assert!(error["problem"].as_str().unwrap().contains("hash"), "{error}");
            // In its header it hits nobody.
            assert_eq!(texts(&error["snapshots"]).is_empty(), at == 0, "{error}");
            drop(damaged);
        }
    }
    assert!(hit.contains(&table), "{table} is in {hit:?}");
    assert!(hit.iter().any(|path| path.starts_with("pg_tblspc/")), "{hit:?}");

    // The second snapshot's own packs hit it alone, and the first can be restored meanwhile; the other way round it says
    // so for both.
    let target = TestDir::new();
    for (number, pack) in second.iter().enumerate() {
        let damaged = Damaged::missing(&world, pack);
        let error = error_about(world.verify(&[]), pack, &[]);
        assert_eq!((texts(&error["snapshots"]), &error["problem"]), (only_second.clone(), &"it is not there".into()), "{error}");
        let to = target.join(format!("first{number}"));
        let spaces = target.join(format!("spaces{number}"));
        let more = [world.snapshots[0].as_str(), "--tablespace-root", spaces.to_str().unwrap(), "--target-immediate"];
        world.repository.restore(&to, &more);
        verify_backup(pg, &to);
        let failed = [world.snapshots[1].as_str(), "--tablespace-root", target.join("none").to_str().unwrap(), "--target-immediate"]
            .map(str::to_owned);
        let failed: Vec<&str> = failed.iter().map(String::as_str).collect();
        let (_, outcome) = world.repository.try_restore(&target.join(format!("second{number}")), &failed);
        outcome.code(1).says("pgcairn verify");
        drop(damaged);
    }
    // People see what is hit, few of many.
    let damaged = Damaged::missing(&world, &largest(&first));
    let said = world.repository.run(["verify"]).code(1).prints("damaged  pack/").prints("it is not there").prints("more files");
    // The rest is counted all the same.
    let stats = world.repository.run(["stats", "--json"]).ok().json();
    assert!(!stats["warnings"].as_array().unwrap().is_empty() && stats["stored"]["wal"].as_u64() > Some(0), "{stats}");
    assert!(both.iter().all(|id| said.stdout.contains(id)) && said.stdout.lines().count() < 40, "{}", said.report());
    drop(damaged);
    world.verify(&["--read-data"]).ok();
}

on_majors!(damaged_packs_are_named_with_what_they_hit: pg15 15, pg18 18);

#[test]
fn damage_in_log_slots_and_wal_is_named() {
    crate::support::on(18, |pg| {
        let world = World::new(pg);
        let key = &world.objects("key")[0];
        for at in [0, 8, 30, 90, 200, 383] {
            let damaged = Damaged::flipped(&world, key, at);
            let outcome = world.verify(&[]).code(1);
            let errors = outcome.json()["errors"].clone();
            assert!(
                errors.as_array().is_some_and(|e| !e.is_empty() && e.iter().all(|e| e["object"].as_str().unwrap().starts_with("key/"))),
                "{}",
                outcome.report()
            );
            drop(damaged);
        }
        // The log: in the middle on the host that knows it; at its end, and on a host that has never seen it.
        let count = world.objects("log").len();
        let entry = |n: usize| format!("log/{n}");
        for number in 1..count {
            let flipped = Damaged::flipped(&world, &entry(number), 150);
            let stranger = Host::new();
            error_about(world.verify_on(&stranger, &[]), &entry(number), &["log/"]);
            world.verify(&["--read-data"]).code(1);
            drop(flipped);
            if number + 1 < count {
                let missing = Damaged::missing(&world, &entry(number));
                error_about(world.verify_on(&Host::new(), &[]), &entry(number), &["log/"]);
                drop(missing);
            }
        }
        for damaged in [Damaged::flipped(&world, "log/0", 100), Damaged::flipped(&world, "pgcairn", 50)] {
            let outcome = world.verify_on(&Host::new(), &[]).code(1);
            assert_eq!(outcome.json()["error"]["class"], "corrupt", "{}", outcome.report());
            drop(damaged);
        }

        // WAL: its front at once, its parts when they are read; missing where snapshots need it, and behind.
        let show = |id: &str| world.repository.run(["show", id, "--json"]).ok().json()["wal"].clone();
        let needed = show(&world.snapshots[1])["first"].as_str().unwrap().to_owned();
        let segments: Vec<String> = world.objects("wal").into_iter().filter(|name| name.rsplit('/').next().unwrap().len() == 24).collect();
        let needed = segments.iter().find(|name| name.ends_with(&needed)).unwrap().clone();
        let second: BTreeSet<String> = [world.snapshots[1].clone()].into();
        for at in [0, 20, 60, 300] {
            let damaged = Damaged::flipped(&world, &needed, at);
            let error = error_about(world.verify(&[]), &needed, &[]);
            assert_eq!(texts(&error["snapshots"]), second, "{error}");
            drop(damaged);
        }
        let size = std::fs::metadata(world.path(&needed)).unwrap().len() as usize;
        let damaged = Damaged::flipped(&world, &needed, size - 100);
        world.verify(&[]).ok();
        let error = error_about(world.verify(&["--read-data"]), &needed, &[]);
        assert_eq!(texts(&error["snapshots"]), second, "{error}");
        drop(damaged);
        let damaged = Damaged::missing(&world, &needed);
        let error = error_about(world.verify(&[]), &needed, &[]);
        assert_eq!(
            (texts(&error["snapshots"]), &error["problem"]),
            (second, &"it is missing, and later segments are there".into()),
            "{error}"
        );
        drop(damaged);
        // What can't be read for want of rights says nothing about what is there.
        let mut chmod = std::process::Command::new("chmod");
        chmod.arg("0").arg(world.path(&needed));
        Outcome::of(chmod).ok();
        let denied = world.verify(&[]).code(1).json();
        assert_eq!(denied["error"]["class"], "denied", "{denied}");
        let mut chmod = std::process::Command::new("chmod");
        chmod.arg("600").arg(world.path(&needed));
        Outcome::of(chmod).ok();
        // A gap that no snapshot needs to be consistent ends a recovery, and damages nothing.
        let behind = &segments[segments.len() - 2];
        if !show(&world.snapshots[1])["last"].as_str().is_some_and(|last| behind.ends_with(last)) {
            let damaged = Damaged::missing(&world, behind);
            let noted = world.verify(&[]).ok().json();
            assert!(noted["warnings"][0].as_str().unwrap().contains("archive status"), "{noted}");
            drop(damaged);
        }
        let last = segments.last().unwrap();
        let damaged = Damaged::shortened(&world, last);
        error_about(world.verify(&[]), last, &[]);
        drop(damaged);
        world.verify(&["--read-data"]).ok();
    });
}
