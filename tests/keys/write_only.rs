//! A host that is writer only: it backs up, dedups, archives, and can't read a byte of the past.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::support::{Host, Outcome, TestDir, ordinary};
use crate::world::{World, tree};

/// A host enrolled as writer only.
pub(crate) fn write_only(world: &World, name: &str) -> Host {
    let grant = world.folder.join(format!("{name}.grant"));
    let grant = grant.to_str().unwrap();
    crate::owner(world, &["key", "add-host", "--role", "writer", "--name", name, grant]).ok();
    let host = Host::new();
    run(world, &host, &["key", "accept", grant]).ok();
    host
}

fn run(world: &World, host: &Host, arguments: &[&str]) -> Outcome {
    world.run_on(host, &world.repository(), arguments)
}

/// A backup by this host; what it said.
#[track_caller]
fn backup(world: &mut World, host: &Host) -> serde_json::Value {
    let made = world.run_on(host, &world.repository(), world.backup_arguments()).ok().json();
    world.snapshots.push((made["id"].as_str().unwrap().to_owned(), tree(&world.data())));
    made
}

/// Every snapshot comes back whole, read by the owner's host.
#[track_caller]
fn all_restore(world: &World) {
    for number in 0..world.snapshots.len() {
        crate::restores(world, &world.host, &[], number);
    }
}

/// The file with what the host keeps of its newest snapshot.
fn kept(host: &Host) -> PathBuf {
    let mut found = Vec::new();
    let mut folders = vec![host.home().join(".cache/pgcairn")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().unwrap().contains(".kept") {
                found.push(path);
            }
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// A relation of pages that a server would take; each generation changes one in seven.
fn relation(world: &World, generation: u32) {
    fs::write(world.data().join("base/5/16384"), crate::world::pages(80, generation)).unwrap();
}

fn small(world: &World, text: &str) {
    fs::write(world.data().join("postgresql.conf"), text).unwrap();
}

/// All files were last changed long ago: what is younger than the parent proves nothing.
fn age(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path);
        } else {
            let long_ago = SystemTime::now() - Duration::from_secs(3600);
            fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
    }
}

fn notes(made: &serde_json::Value) -> String {
    made["notes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect()
}

#[test]
fn changed_pages_are_stored_alone_and_come_back() {
    ordinary(|| {
        let mut world = World::empty();
        let host = write_only(&world, "db1");
        age(&world.data());
        let first = backup(&mut world, &host);
        let again = backup(&mut world, &host);
        let wal = 1 << 20;
        assert!(
            again["read_bytes"].as_u64().unwrap() <= wal && again["new_bytes"].as_u64().unwrap() < 10_000,
            "nothing has changed: {again}"
        );
        for generation in 1..4 {
            relation(&world, generation);
            small(&world, &format!("port = {generation}\n"));
            let made = backup(&mut world, &host);
            assert_eq!(notes(&made), "");
            // 12 of 80 pages have changed, of random bytes.
            let new = made["new_bytes"].as_u64().unwrap();
            assert!(new < 12 * 8192 + 60_000, "{made}");
            assert!(new < first["new_bytes"].as_u64().unwrap() / 3, "{made}");
        }
        all_restore(&world);
        run(&world, &world.host, &["verify", "--read-data"]).ok();
    });
}

#[test]
fn without_its_cache_more_is_stored_and_the_summary_says_why() {
    ordinary(|| {
        let mut world = World::empty();
        let host = write_only(&world, "db1");
        backup(&mut world, &host);
        relation(&world, 1);
        backup(&mut world, &host);
        fs::remove_dir_all(host.home().join(".cache")).unwrap();
        relation(&world, 2);
        let id = world.snapshots[1].0.clone();
        let made = backup(&mut world, &host);
        let note = format!(
            "page hashes of snapshot {id} are not in the cache (there is no file of it): all files are read, and extents that changed are stored whole"
        );
        assert_eq!(notes(&made), note);
        assert!(made["new_bytes"].as_u64().unwrap() > 80 * 8192, "{made}");
        // From then on increments are small again.
        relation(&world, 3);
        let made = backup(&mut world, &host);
        assert!(notes(&made).is_empty() && made["new_bytes"].as_u64().unwrap() < 12 * 8192 + 60_000, "{made}");
        // As text.
        fs::remove_dir_all(host.home().join(".cache")).unwrap();
        let mut arguments = world.backup_arguments();
        arguments.retain(|a| a != "--json");
        world.run_on(&host, &world.repository(), arguments).ok().prints("  page hashes of snapshot");
        all_restore(&world);
    });
}

#[test]
fn a_damaged_cache_never_makes_a_wrong_snapshot() {
    ordinary(|| {
        let mut world = World::empty();
        let host = write_only(&world, "db1");
        backup(&mut world, &host);
        let len = fs::read(kept(&host)).unwrap().len();
        let mut noted = 0;
        for round in 0..24u32 {
            let path = kept(&host);
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.len() * round as usize / 24;
            bytes[at] ^= 1 << (round % 8);
            fs::write(&path, bytes).unwrap();
            relation(&world, round + 1);
            small(&world, &format!("port = {round}\n"));
            let made = backup(&mut world, &host);
            noted += u32::from(!notes(&made).is_empty());
        }
        assert!(noted > 12, "{noted} of 24 were noticed, in {len} bytes");
        all_restore(&world);
    });
}

/// What is kept of another snapshot, put under the name of the parent's: an attack, or a cache that was copied back.
#[test]
fn hashes_of_another_snapshot_are_not_used() {
    ordinary(|| {
        let mut world = World::empty();
        let host = write_only(&world, "db1");
        backup(&mut world, &host);
        let old = fs::read(kept(&host)).unwrap();
        relation(&world, 1);
        backup(&mut world, &host);
        fs::write(kept(&host), old).unwrap();
        relation(&world, 0);
        let made = backup(&mut world, &host);
        assert!(notes(&made).contains("of another snapshot, or another host's"), "{made}");
        all_restore(&world);
    });
}

#[test]
fn what_reads_is_refused_with_reason_and_cure() {
    ordinary(|| {
        let mut world = World::empty();
        let host = write_only(&world, "db1");
        backup(&mut world, &host);
        let id = world.snapshots[0].0.clone();
        let target = TestDir::new();
        let to = target.join("data");
        for arguments in [
            &["restore", &id, "--no-recovery", "--to", to.to_str().unwrap()][..],
            &["cat", &id, "PG_VERSION"],
            &["ls", &id],
            &["diff", &id, &id],
        ] {
            let said = run(&world, &host, arguments).code(1).says("this host's key can't read here").says("opens content");
            said.says("on a host that reads").says("PGCAIRN_STATE_DIR");
        }
        run(&world, &host, &["list"]).ok().prints(&id);
        run(&world, &host, &["show", &id]).ok().prints(&id).prints("can't be read by this host");
        let shown = run(&world, &host, &["show", &id, "--json"]).ok().json();
        assert!(shown["id"] == id.as_str() && shown["data_directory"].is_null(), "{shown}");
        let status = run(&world, &host, &["status", "--json"]).json();
        let line = status["lines"].as_array().unwrap().iter().find(|line| line["name"] == "exposure").unwrap().clone();
        assert!(line["state"] == "ok" && line["text"].as_str().unwrap().contains("can read no content"), "{status}");
        // The cure works: with the key file, and a state folder of its own.
        let apart = TestDir::new();
        let mut command =
            host.command(["--repo", world.repository().to_str().unwrap(), "restore", &id, "--no-recovery", "--to", to.to_str().unwrap()]);
        command.env("PGCAIRN_STATE_DIR", apart.join("state")).env("PGCAIRN_KEY_FILE", world.key());
        Outcome::of(command).ok();
        assert!(tree(Path::new(&to)) == world.snapshots[0].1);
    });
}

/// It looks at what it can, says what it could not look at, and notes nothing.
#[test]
fn what_it_can_verify_it_does() {
    ordinary(|| {
        let mut world = World::empty();
        let host = write_only(&world, "db1");
        for generation in 0..2 {
            fs::write(world.data().join("base/5/16384"), crate::world::pages(80, generation)).unwrap();
            backup(&mut world, &host);
        }
        for name in crate::world::SEGMENTS {
            run(&world, &host, &["archive-push", world.wal(name).to_str().unwrap()]).ok();
        }
        let entries = || world.objects().iter().filter(|object| object.starts_with("log/")).count();
        let before = entries();
        for more in [&[][..], &["--read-data"]] {
            let arguments: Vec<&str> = ["verify", "--json"].iter().chain(more).copied().collect();
            let verified = run(&world, &host, &arguments).ok().json();
            assert!(verified["ok"] == true && verified["blind"] == true && verified["snapshots"] == 2, "{verified}");
            assert_eq!((verified["wal_files"].as_u64(), verified["wal_files_read"].as_u64()), (Some(2), Some(0)), "{verified}");
            let packs = verified["packs"].as_u64().unwrap();
            assert_eq!(verified["packs_read"].as_u64().unwrap(), if more.is_empty() { 0 } else { packs }, "{verified}");
            assert!(verified["warnings"].to_string().contains("were not looked at"), "{verified}");
        }
        run(&world, &host, &["verify"]).ok().prints("without a key to content");
        assert_eq!(entries(), before, "nothing is proven by that");
        let listed = run(&world, &host, &["list", "--json"]).ok().json();
        assert!(!listed.to_string().contains("read 100 %"), "{listed}");

        // Damage in each kind of object that it can judge: named, with the snapshots that it hits.
        let pristine = world.copy("pristine");
        let packs: Vec<String> = world.objects().into_iter().filter(|object| object.starts_with("pack/")).collect();
        let wal: Vec<String> = world.objects().into_iter().filter(|object| object.starts_with("wal/")).collect();
        for object in packs.iter().chain(&wal) {
            let path = world.repository().join(object);
            let whole = fs::read(&path).unwrap();
            for gone in [false, true] {
                if gone {
                    fs::remove_file(&path).unwrap();
                } else {
                    let mut bytes = whole.clone();
                    let at = if object.starts_with("wal/") { 10 } else { bytes.len() / 2 };
                    bytes[at] ^= 1;
                    fs::write(&path, bytes).unwrap();
                }
                let outcome = run(&world, &host, &["verify", "--read-data", "--json"]);
                // Of WAL that no snapshot needs, absence at the end of the archive is none.
                if object.starts_with("pack/") || !gone {
                    let verified = outcome.code(1).json();
                    let errors = verified["errors"].to_string();
                    assert!(errors.contains(object), "{object}: {verified}");
                    let hit = |n: usize| errors.contains(&world.snapshots[n].0);
                    assert!(object.starts_with("wal/") || hit(0) || hit(1), "{object}: {verified}");
                }
                fs::write(&path, &whole).unwrap();
            }
        }
        assert_eq!(entries(), before);
        assert!(tree(&pristine) == tree(&world.repository()));
    });
}
