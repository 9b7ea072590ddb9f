//! Buckets with object lock: what a thief of credentials can do to a repository, and what becomes of it.

use std::collections::BTreeSet;

use crate::support::s3::proxy::Proxy;
use crate::support::s3::{Bucket, Request, Role, S3};
use crate::support::{Postgres, Repository, Server, Stop, TestDir, verify_backup, wait_until};
use crate::world::{Cluster, World, digest, noise};
use crate::{at, environment};

const PREFIX: &str = "pg/";

/// The moment so many days from now, as the service writes moments.
fn in_days(days: i64) -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Until when the newest version of each object is locked.
fn locks(bucket: &Bucket) -> Vec<(String, String)> {
    let keys = bucket.list(PREFIX).into_iter().filter(|key| !key.starts_with("pg/tmp/"));
    keys.map(|key| (key.clone(), bucket.locked_until(&key, None).unwrap_or_else(|| panic!("{key} isn't locked")))).collect()
}

/// How many requests about locks a command made, as `-v` tells.
fn lock_requests(said: &str) -> u32 {
    let kinds = said.lines().filter_map(|line| line.split_once(" requests (")?.1.split_once(')')).flat_map(|(kinds, _)| kinds.split(", "));
    kinds.filter_map(|kind| kind.strip_suffix(" lock")?.parse::<u32>().ok()).sum()
}

/// What somebody can do who has stolen credentials and wants to destroy: the keys that he tried it with.
fn vandalise(bucket: &Bucket, who: Role, service: &crate::support::s3::Service) -> BTreeSet<String> {
    let thief = service.client(who);
    let mut keys = BTreeSet::new();
    for (at, version) in bucket.versions(PREFIX).into_iter().enumerate() {
        let path = bucket.path(&version.key);
        // Nobody can take what is locked, whatever he may do besides.
        let delete = Request::new("DELETE", path.clone()).query("versionId", &version.id);
        let delete = delete.header("x-amz-bypass-governance-retention", "true");
        if !version.key.starts_with("pg/tmp/") {
            thief.send(&delete).expect(403);
        }
        if !keys.insert(version.key.clone()) {
            continue;
        }
        // Junk of the same length, of another, none at all; and over every other one a mark that it was deleted.
        let length = bucket.get(&version.key).map_or(0, |bytes| bytes.len());
        thief.send(&Request::put(path.clone(), vec![b'x'; [length, 7, 0][at % 3]])).expect(200);
        if at % 2 == 0 {
            bucket.delete(&version.key);
        }
    }
    keys
}

/// What somebody does who mends it: deletes what is newer than the oldest version.
fn mend(bucket: &Bucket) {
    let mut all = bucket.versions(PREFIX);
    while let Some(version) = all.pop() {
        // The last of a key is its oldest.
        all.iter()
            .filter(|newer| newer.key == version.key)
            .for_each(|newer| drop(bucket.delete_version(&newer.key, &newer.id).expect(204)));
        all.retain(|newer| newer.key != version.key);
    }
}

fn thief_destroys_nothing(pg: &Postgres, s3: &S3) {
    let service = s3.seaweed();
    let bucket = service.locked_bucket();
    let url = format!("s3://{}/pg", bucket.name());
    let mut variables = environment(&service, Role::Admin);
    variables.push(("PGCAIRN_LOCK_DAYS", "1".into()));
    let repository = Repository::in_bucket(&url, variables);
    let mut server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
    server.pgbench_init(1);
    let first = repository.backup(&server, &[]);
    let before = locks(&bucket);
    let day = in_days(1);
    assert!(before.iter().all(|(_, until)| *until > day), "for a day at least\n{before:?}");

    // What the second snapshot needs of the first one's is locked for as long as itself, and no more often than that.
    let longer = |days: &'static str| {
        let arguments = repository.backup_arguments(&server, &[]);
        let run = repository.run(["--lock-days", days, "-v"].iter().map(|a| (*a).to_owned()).chain(arguments)).ok();
        (run.json(), run.stderr)
    };
    let (second, said) = longer("10");
    assert_eq!(second["parent"], first["id"]);
    let prolonged = lock_requests(&said);
    assert!(prolonged > 8, "{said}");
    let days = in_days(10);
    let needed = ["pg/pgcairn", "pg/key/", "pg/log/", "pg/pack/"];
    let short: Vec<_> = locks(&bucket).into_iter().filter(|(_, until)| *until <= days).collect();
    let all = needed.iter().all(|n| bucket.list(PREFIX).iter().any(|key| key.starts_with(n)));
    assert!(all && !short.iter().any(|(key, _)| needed.iter().any(|n| key.starts_with(n))), "{short:?}");
    // Its WAL alone, which other processes stored, is asked for and prolonged.
    let (_, said) = longer("10");
    assert!(lock_requests(&said) < prolonged / 2, "{prolonged} before\n{said}");

    let sums = server.pgbench_sums();
    let segment = server.switch_wal();
    server.await_archived(&segment);
    server.stop(Stop::Fast);
    let keys = vandalise(&bucket, Role::Writer, &service);

    // A host that has nothing but the key file, and may look at versions.
    let target = TestDir::new();
    let to = target.join("data");
    let (host, outcome) = repository.try_restore(&to, &[]);
    let restored = outcome.ok();
    assert!(restored.stderr.contains("older versions"), "{}", restored.stderr);
    verify_backup(pg, &to);
    let mut copy = Server::build(pg).host(&host).over(&to);
    copy.start();
    wait_until("the end of recovery", || copy.sql("postgres", "select pg_is_in_recovery()") == "f");
    assert_eq!(copy.pgbench_sums(), sums, "all WAL was read, too");
    copy.stop(Stop::Fast);
    // The host that knows it better sees the same; and what was there can be listed, and put upon.
    let listed = repository.run(["list", "--json"]).ok().json();
    assert_eq!(listed["snapshots"].as_array().map(Vec::len), Some(3));

    let verified = repository.run(["verify", "--read-data", "--json"]).code(1).json();
    let named: BTreeSet<&str> = verified["errors"].as_array().unwrap().iter().filter_map(|e| e["object"].as_str()).collect();
    let told = |e: &serde_json::Value| e["problem"].as_str().is_some_and(|p| p.contains("older version"));
    assert!(verified["errors"].as_array().unwrap().iter().all(|e| told(e) && e["snapshots"] == serde_json::json!([])), "{verified:#}");
    let missed: Vec<_> = keys.iter().filter(|key| !key.starts_with("pg/tmp/") && !named.contains(&key[PREFIX.len()..])).collect();
    assert!(missed.is_empty(), "{missed:?} of {verified:#}");

    mend(&bucket);
    repository.run(["verify", "--read-data"]).ok();
}

#[test]
#[allow(clippy::redundant_closure)] // the test's name is the closure's
fn a_thief_of_a_writer_destroys_nothing_that_is_locked_pg18() {
    crate::support::s3::on(18, |pg, s3| thief_destroys_nothing(pg, s3));
}

#[test]
fn a_bucket_that_can_not_lock_is_refused() {
    crate::support::s3::ordinary(|s3: &S3| {
        let service = s3.seaweed();
        for bucket in [service.bucket(), service.versioned_bucket()] {
            let url = format!("s3://{}/pg", bucket.name());
            let place = Repository::not_yet_in_bucket(&url, at(service.endpoint(), &service, Role::Admin));
            let key = place.key_file();
            let init = ["--lock-days", "30", "init", "--key-file", key.to_str().unwrap()];
            place.run(init).code(1).says("without object lock or versioning").says("lock-days");
            assert_eq!(bucket.list("pg/"), Vec::<String>::new());
            place.run(&init[2..]).ok();
            let checked = place.run(["--lock-days", "30", "check", "--no-switch", "--json"]).json();
            let line = checked["lines"].as_array().unwrap().iter().find(|line| line["name"] == "object_lock").cloned();
            assert_eq!(line.unwrap_or_default()["state"], "error", "{checked:#}");
        }
        let bucket = service.locked_bucket();
        let place = Repository::not_yet_in_bucket(&format!("s3://{}/pg", bucket.name()), at(service.endpoint(), &service, Role::Admin));
        let key = place.key_file();
        place.run(["--lock-days", "1", "init", "--key-file", key.to_str().unwrap()]).ok().prints("--lock-days 1");
        let checked = place.run(["--lock-days", "1", "check", "--no-switch", "--json"]).json();
        assert!(checked["lines"].as_array().unwrap().iter().any(|l| l["name"] == "object_lock" && l["state"] == "ok"), "{checked:#}");
    });
}

/// The object that says which repository this is, put over another's: by whom it is known, and by whom it isn't.
#[test]
fn another_repository_that_is_put_over_this_one_is_seen_through() {
    crate::support::s3::ordinary(|s3: &S3| {
        let service = s3.seaweed();
        let bucket = service.versioned_bucket();
        let make = |prefix: &str| {
            Repository::in_bucket(&format!("s3://{}/{prefix}", bucket.name()), at(service.endpoint(), &service, Role::Admin))
        };
        let (ours, _theirs) = (make("pg"), make("other"));
        bucket.put("pg/pgcairn", bucket.get("other/pgcairn").unwrap());
        let key = ours.key_file();
        ours.run(["list"]).ok();
        ours.run_on(&ours.host.another(), ["--key-file", key.to_str().unwrap(), "list"]).ok().says("older versions");
    });
}

/// Delete markers over key slots, packs and WAL, of somebody who has more than a writer's rights, and a slot of his own.
#[test]
fn what_is_hidden_by_delete_markers_is_there_for_its_owner() {
    crate::support::s3::on(18, |pg, s3| {
        let service = s3.seaweed();
        let (proxy, bucket) = (Proxy::start(service.address()), service.versioned_bucket());
        let environment = at(&proxy.endpoint(), &service, Role::Admin);
        let repository = Repository::in_bucket(&format!("s3://{}/pg", bucket.name()), environment);
        let cluster = Cluster::build(pg, 2);
        let world = World { repository, proxy, bucket, folder: TestDir::new() };
        let data = world.data(&cluster, "data");
        let back_up = |seed| {
            std::fs::write(data.join("noise"), noise(seed, 200_000)).unwrap();
            world.backup(&data).ok()
        };
        let snapshots: Vec<_> = [1, 2].map(|seed| (back_up(seed).json()["id"].as_str().unwrap().to_owned(), digest(&data))).into();
        world.run(&["forget", "--keep-min", "0", &snapshots[0].0]).ok();
        cluster.wal.iter().for_each(|segment| drop(world.push(&data, segment).ok()));

        let bucket = &world.bucket;
        let slot = bucket.list("pg/key/").remove(0);
        let mut planted = bucket.get(&slot).unwrap();
        *planted.last_mut().unwrap() ^= 1;
        bucket.put("pg/key/00112233445566778899aabbccddeeff", planted);
        let hidden: Vec<String> = ["pg/key/", "pg/pack/", "pg/wal/"].iter().flat_map(|folder| bucket.list(folder)).collect();
        let hidden: Vec<String> = hidden.into_iter().filter(|key| !key.ends_with("ccddeeff")).collect();
        hidden.iter().for_each(|key| bucket.delete(key));

        // A new machine, and the owner's commands.
        let key = world.repository.key_file();
        let with_key = ["--key-file", key.to_str().unwrap()];
        let run = |words: &[&str]| world.repository.run_on(&world.repository.host.another(), [&with_key[..], words].concat());
        run(&["list"]).ok().says("was deleted");
        world.restores(&snapshots[1].0, &snapshots[1].1);
        world.run(&["key", "list"]).ok().says("deleted, and still there as older versions");
        let wrong = world.folder.join("wrong.key");
        let text = std::fs::read_to_string(&key).unwrap();
        let last = text.trim_end().chars().last().unwrap();
        let other = text.trim_end().strip_suffix(last).unwrap().to_owned() + if last == '0' { "1" } else { "0" };
        std::fs::write(&wrong, other).unwrap();
        world.repository.run_on(&world.repository.host.another(), ["--key-file", wrong.to_str().unwrap(), "list"]).code(1);

        // A prune takes what is not needed, and nothing that is hidden; a backup says what is the matter.
        world.run(&["prune", "--max-rewrite", "1000000000"]).ok();
        let verified = world.run(&["verify", "--read-data", "--json"]).code(1).json();
        let told = |e: &serde_json::Value| {
            e["problem"].as_str().is_some_and(|p| p.contains("older version")) && e["snapshots"] == serde_json::json!([])
        };
        assert!(verified["errors"].as_array().unwrap().iter().all(told), "{verified:#}");
        world.restores(&snapshots[1].0, &snapshots[1].1);
        back_up(3).says("the store keeps them as older versions");

        // The key's last segments are those that it pushed, though none of them is listed.
        let hosts = world.run(&["key", "list", "--json"]).ok().json();
        let host = hosts["hosts"][0]["key"].as_str().unwrap().to_owned();
        let removed = run(&["key", "remove-host", "--json", "--yes", &host]).ok().json();
        let ends = removed["accepted"].to_string();
        assert!(ends.contains(cluster.name(1)), "{removed:#}");
        mend(bucket);
        let to = world.folder.join("got");
        run(&["archive-get", cluster.name(1), to.to_str().unwrap()]).ok();
        assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&cluster.wal[1]).unwrap());
    });
}
