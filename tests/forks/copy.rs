//! A copy that is promoted while its archive_command names the original.

use super::{Marks, archive_server, follows, live, marks};
use crate::on_majors;
use crate::support::{Host, Postgres, Repository, Server, Stop, TestDir, wait_until};

fn a_promoted_copy(pg: &Postgres) {
    let repository = Repository::init();
    let original = archive_server(pg, &repository);
    let rows = Marks::create(&original);
    repository.backup(&original, &[]);
    let target = TestDir::new();
    let standby_at = target.join("standby");
    let retry = ["--recovery-option", "wal_retrieve_retry_interval=100ms"];
    repository.run(["restore", "--to", standby_at.to_str().unwrap(), "--standby"].into_iter().chain(retry)).ok();
    let mut standby = Server::build(pg).host(&repository.host).over(&standby_at);
    standby.start();
    let one = rows.mark(1);
    rows.archived();
    rows.archived_marks(2..=4);
    follows(&standby, "1,2,3,4");

    // It can read the archive, and so takes a number that is free.
    let copy_at = target.join("copy");
    let to =
        ["restore", "--to", copy_at.to_str().unwrap(), "--archive-mode", "preserve", "--target-lsn", &one, "--target-action", "promote"];
    repository.run(to).ok().prints("archive accept-fork --timeline 2");
    let mut copy = Server::build(pg).host(&repository.host).over(&copy_at);
    copy.start();
    copy.await_promotion();
    let copied = Marks(&copy);
    copied.mark(11);
    copy.switch_wal();
    wait_until("the copy's archiver to be refused", || {
        copy.sql("postgres", "select failed_count > 0 and last_failed_wal = '00000002.history' from pg_stat_archiver") == "t"
    });
    assert!(copy.log().contains("accept-fork --timeline 2") && copy.log().contains("--cluster NEW"), "{}", copy.log_tail());
    assert_eq!(copy.sql("postgres", "select archived_count from pg_stat_archiver"), "0");
    // By hand, and its first segment alone.
    let push = |name: &str| {
        let path = copy_at.join("pg_wal").join(name);
        repository.run(["archive-push", path.to_str().unwrap()])
    };
    push("00000002.history").code(1).says("timeline 2 leaves timeline 1").says("is still being archived").says("accept-fork --timeline 2");
    let first = std::fs::read_dir(copy_at.join("pg_wal")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let first = first.filter(|name| name.len() == 24 && name.starts_with("00000002")).min().unwrap();
    push(&first).code(1).says("accept-fork");
    let dest = target.join("got");
    repository.run(["archive-get", "00000002.history", dest.to_str().unwrap()]).code(1);

    // Nothing has happened to the original: its standby starts anew, and a restore is the original.
    rows.archived_marks(5..=5);
    standby.restart();
    follows(&standby, "1,2,3,4,5");
    let said = latest(pg, &repository, &target, "before", "1,2,3,4,5");
    assert_eq!((&said["target"]["timeline"], &said["target"]["latest"]), (&1.into(), &true.into()), "{said}");
    assert_eq!(live(&repository.run(["archive", "status", "--json"]).ok().json()), [1]);
    standby.stop(Stop::Fast);

    // Accepted, once.
    let accept = |timeline: &str| repository.run(["archive", "accept-fork", "--timeline", timeline, "--reason", "it takes over"]);
    accept("1").code(2);
    accept("2").ok().prints("timeline 2 is cluster main's now");
    accept("2").ok().prints("was accepted before").prints("it takes over");
    copied.archived_marks(12..=13);
    // The original doesn't know that, and goes on.
    rows.archived_marks(6..=8);
    copied.archived_marks(14..=14);
    let status = repository.run(["archive", "status", "--json"]).code(3).json();
    assert_eq!(live(&status), [1, 2], "{status}");
    repository.run(["archive", "status"]).code(3).prints("LIVE LINES: timelines 1, 2");
    // `latest` is the copy now, and what else there is is said.
    let said = latest(pg, &repository, &target, "after", "1,11,12,13,14");
    assert_eq!((&said["target"]["timeline"], &said["target"]["latest"]), (&2.into(), &true.into()), "{said}");
    assert_eq!(said["target"]["other_timelines"][0]["timeline"], 1, "{said}");
    let standby = repository.run(["restore", "--standby", "--to", target.join("dry").to_str().unwrap(), "--dry-run"]).ok();
    standby.prints("the standby follows timeline 2: the latest in the archive");
    let dry = repository.run(["restore", "--to", target.join("dry").to_str().unwrap(), "--dry-run"]).ok();
    dry.prints("along timeline 2, from the snapshot's 1: the latest").prints("other lines in the archive, not followed: timeline 1");
}

on_majors!(a_promoted_copy: pg15 15, pg18 18);

/// Restores to the end, starts, and compares; the answer of the restore.
fn latest(pg: &Postgres, repository: &Repository, target: &TestDir, name: &str, wanted: &str) -> serde_json::Value {
    let (to, host, key) = (target.join(name), Host::new(), repository.key_file());
    let restore = ["--key-file", key.to_str().unwrap(), "restore", "--json", "--to", to.to_str().unwrap()];
    let said = repository.run_on(&host, restore).ok().json();
    let mut restored = Server::build(pg).host(&host).over(&to);
    restored.start();
    restored.await_promotion();
    assert_eq!(marks(&restored), wanted);
    said
}
