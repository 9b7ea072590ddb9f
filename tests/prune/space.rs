//! What is forgotten goes from the disk, packs and WAL; what is kept restores.

use crate::support::{self, Outcome, Postgres, Repository, Server, TestDir, bytes_below, wait_until};
use crate::world::{entries, forget, packs, prune, segments, snapshots};

/// The segment in which a backup starts.
fn start_of(backup: &serde_json::Value) -> String {
    let lsn = backup["start_lsn"].as_str().unwrap_or_else(|| panic!("{backup}"));
    segment(lsn)
}

/// The segment of 1 MiB on timeline 1 that holds a position.
fn segment(lsn: &str) -> String {
    let (high, low) = lsn.split_once('/').unwrap();
    let (high, low) = (u32::from_str_radix(high, 16).unwrap(), u32::from_str_radix(low, 16).unwrap());
    format!("00000001{high:08X}{:08X}", low >> 20)
}

fn recovered(pg: &Postgres, repository: &Repository, arguments: &[&str]) -> (String, TestDir) {
    let target = TestDir::new();
    let to = target.join("data");
    let (host, _) = repository.restore(&to, arguments);
    support::verify_backup(pg, &to);
    let mut restored = Server::build(pg).host(&host).over(&to);
    restored.start();
    wait_until("the end of recovery", || restored.sql("postgres", "select pg_is_in_recovery()") == "f");
    (restored.sql("postgres", "select count(*) from marks"), target)
}

fn forgotten_snapshots_give_their_space_back(pg: &Postgres) {
    let repository = Repository::init();
    let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
    server.sql("postgres", "create table marks(i int); create table filler as select i, md5(i::text) from generate_series(1, 40000) i");
    let archived = || {
        let last = server.switch_wal();
        server.await_archived(&last);
    };
    let mark = |i: u32| {
        // A table that every snapshot has otherwise.
        server.sql("postgres", &format!("insert into marks values ({i}); drop table if exists big; create table big as select i, md5((i * {i})::text) from generate_series(1, 30000) i"));
        archived();
        server.sql("postgres", "select pg_current_wal_lsn()")
    };
    let mut backups = Vec::new();
    let mut moments = Vec::new();
    for i in 1..=4 {
        mark(10 * i);
        backups.push(repository.backup(&server, &[]));
        moments.push(mark(10 * i + 1));
    }
    mark(100);
    let id = |i: usize| backups[i]["id"].as_str().unwrap().to_owned();
    let before = prune(&repository);
    assert_eq!(before["packs"]["deleted"]["objects"], 0, "all snapshots are kept: {before}");
    // WAL before the first snapshot is of no use any more.
    assert_eq!(segments(&repository)[0], start_of(&backups[0]));

    // The first is forgotten: its packs go, and WAL exactly up to the second.
    let (packs_before, all_before) = (packs(&repository), bytes_below(&repository.path()));
    forget(&repository, &id(0), false);
    let stats = repository.run(["stats", "--json"]).ok().json();
    let did = prune(&repository);
    assert_eq!(stats["reclaimable"], did["packs"]["deleted"]["bytes"]);
    assert_eq!(packs_before - packs(&repository), did["packs"]["deleted"]["bytes"].as_u64().unwrap());
    assert!(bytes_below(&repository.path()) < all_before - 100_000);
    assert_eq!(segments(&repository)[0], start_of(&backups[1]));
    let stats = repository.run(["stats", "--json"]).ok().json();
    assert_eq!((&stats["reclaimable"], &stats["orphans"]), (&0.into(), &0.into()));
    let target = TestDir::new();
    repository.try_restore(&target.join("gone"), &[&id(0)]).1.code(4);

    // Of the second only the window stays, of the third all.
    forget(&repository, &id(1), true);
    prune(&repository);
    let (first, last) = (start_of(&backups[1]), segment(backups[1]["stop_lsn"].as_str().unwrap()));
    let left = segments(&repository);
    let expected: Vec<&String> = left.iter().filter(|s| (&first..=&last).contains(s) || **s >= start_of(&backups[2])).collect();
    assert_eq!(expected, left.iter().collect::<Vec<_>>());
    assert!(left.contains(&first) && left.contains(&last) && left.contains(&start_of(&backups[2])));
    assert!(!left.contains(&segment(&moments[1])));

    // Nothing of that is a gap, and nothing waits.
    let status = repository.run(["archive", "status", "--json"]).ok().json();
    assert_eq!((status["timelines"][0]["gaps"].as_array().unwrap().len(), status["waiting"].as_array().unwrap().len()), (0, 0), "{status}");
    let list = repository.run(["list", "--json"]).ok().json();
    assert!(list["snapshots"].as_array().unwrap().iter().all(|s| s["waits_for"].is_null()), "{list}");
    repository.run(["verify", "--read-data"]).ok();

    // As itself, and no further.
    assert_eq!(recovered(pg, &repository, &[&id(1), "--target-immediate", "--target-action", "promote"]).0, "3");
    let refused = |arguments: &[&str]| -> Outcome {
        let outcome = repository.try_restore(&target.join("refused"), arguments).1.code(1);
        assert!(!target.join("refused").exists());
        outcome
    };
    refused(&[&id(1), "--target-lsn", &moments[1]]).says("expired");
    refused(&[&id(1)]).says("--target-immediate");
    refused(&["--target-lsn", &moments[0]]);
    assert_eq!(recovered(pg, &repository, &[&id(2), "--target-lsn", &moments[2], "--target-action", "promote"]).0, "6");
    assert_eq!(recovered(pg, &repository, &[&id(2)]).0, "9");
    assert_eq!(recovered(pg, &repository, &[&id(3), "--target-immediate", "--target-action", "promote"]).0, "7");

    // What is gone is no end of WAL for a server that asks for it.
    let outcome = repository.run(["archive-get", &segment(&moments[0]), target.join("x").to_str().unwrap()]);
    assert!(outcome.status.code().is_some_and(|code| code > 125), "{}", outcome.report());
    assert!(outcome.stderr.contains("expired"), "{}", outcome.report());
    // A server that still has it may push it again; then it goes again.
    let pushed = server.data().join("pg_wal").join(segment(&moments[0]));
    if pushed.exists() {
        let mut push = repository.host.command(repository.arguments(["archive-push", pushed.to_str().unwrap()]));
        push.current_dir(server.data());
        Outcome::of(push).ok();
        assert!(segments(&repository).contains(&segment(&moments[0])));
        prune(&repository);
        assert!(!segments(&repository).contains(&segment(&moments[0])));
    }
    // The next backup and its restore.
    let next = repository.backup(&server, &[]);
    mark(200);
    assert_eq!(recovered(pg, &repository, &[next["id"].as_str().unwrap()]).0, "10");
    assert_eq!(snapshots(&repository).len(), 4);
}

crate::on_majors!(forgotten_snapshots_give_their_space_back: pg15 15, pg18 18);

#[test]
fn a_prune_says_what_it_would_do_and_changes_nothing() {
    support::on(18, |pg| {
        let (_folder, data) = crate::world::small_cluster(pg);
        let repository = Repository::init();
        let backup = |seed| {
            std::fs::write(data.join("noise"), crate::world::noise(seed, 300_000)).unwrap();
            repository.run(["backup", "--json", "--offline", "--pgdata", data.to_str().unwrap()]).ok().json()
        };
        // The first keeps what they have in common, so that the second's own pack is nobody else's.
        backup(1);
        let second = backup(2);
        backup(3);
        repository.run(["prune"]).ok().prints("nothing to free");
        forget(&repository, second["id"].as_str().unwrap(), false);
        let before = (entries(&repository), bytes_below(&repository.path()));
        repository.run(["prune", "--dry-run"]).ok().prints("would be freed");
        assert_eq!((entries(&repository), bytes_below(&repository.path())), before);
        let freed = packs(&repository);
        repository.run(["prune"]).ok().prints("freed");
        let freed = freed - packs(&repository);
        assert!(freed > 300_000 && bytes_below(&repository.path()) < before.1 - 250_000, "{freed}");
        // A host without the right.
        let other = support::Host::new();
        repository.run_on(&other, ["prune"]).code(1).says("no key");
        let key = repository.key_file();
        let key = key.to_str().unwrap();
        repository.run_on(&other, ["--key-file", key, "prune", "--dry-run"]).ok();
        repository.run_on(&other, ["--key-file", key, "prune"]).code(1).says("no maintainer");
        repository.run(["prune", "--max-rewrite", "lots"]).code(2);
    });
}
