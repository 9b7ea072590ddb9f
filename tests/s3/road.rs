//! The whole road: init, archive, backup, restore to a point in time, verify, forget, prune.

use crate::environment;
use crate::support::s3::{Role, S3};
use crate::support::{self, Load, Postgres, Repository, Server, Stop, TestDir, verify_backup, wait_until};

fn whole_road(pg: &Postgres, s3: &S3) {
    let service = s3.seaweed();
    let bucket = service.bucket();
    let repository = Repository::in_bucket(&format!("s3://{}/pg/main", bucket.name()), environment(&service, Role::Admin));
    let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
    server.pgbench_init(1);
    server.sql("postgres", "create table marks(i int)");
    let load = Load::start(&server, &["-n", "-c", "2", "-T", "100"]);
    let first = repository.backup(&server, &[]);
    server.sql("postgres", "insert into marks values (1)");
    let second = repository.backup(&server, &[]);
    load.stop();
    assert_eq!(second["parent"], first["id"]);
    server.sql("postgres", "insert into marks values (2); select pg_create_restore_point('before the mistake')");
    let sums = server.pgbench_sums();
    server.sql("postgres", "drop table marks");
    let segment = server.switch_wal();
    server.await_archived(&segment);

    // To a moment, by a host that has the key file and credentials alone; its WAL comes from the bucket while it recovers.
    let target = TestDir::new();
    let to = target.join("data");
    let (host, outcome) = repository.try_restore(&to, &["--target-name", "before the mistake", "--target-action", "promote"]);
    outcome.ok();
    verify_backup(pg, &to);
    let mut restored = Server::build(pg).host(&host).over(&to);
    restored.start();
    wait_until("the end of recovery", || restored.sql("postgres", "select pg_is_in_recovery()") == "f");
    assert_eq!(restored.sql("postgres", "select count(*) from marks"), "2");
    assert_eq!(restored.pgbench_sums(), sums);
    restored.stop(Stop::Fast);

    // In place: what differs is written, no more.
    server.pgbench(&["-n", "-c", "1", "-t", "50"]);
    let status = repository.run(["archive", "status", "--json"]).ok().json();
    assert_eq!(status["timelines"][0]["gaps"].as_array().map(Vec::len), Some(0), "{status}");
    let verified = repository.run(["verify", "--read-data", "--json"]).ok().json();
    assert_eq!(verified["ok"], true, "{verified}");

    // Space comes back, and what is kept restores.
    let held = || bucket.list("pg/main/pack/").len();
    let before = held();
    for _ in 0..2 {
        server.pgbench(&["-n", "-c", "1", "-t", "200"]);
        repository.backup(&server, &[]);
    }
    repository.run(["forget", "--keep-last", "1"]).ok();
    repository.run(["prune"]).ok();
    repository.run(["prune"]).ok();
    assert!(held() < before + 8, "{before} packs, then {}", held());
    // The newest, and the one that verify found good.
    assert_eq!(repository.run(["list", "--json"]).ok().json()["snapshots"].as_array().map(Vec::len), Some(2));
    let sums = server.pgbench_sums();
    let segment = server.switch_wal();
    server.await_archived(&segment);
    let to = target.join("later");
    let (host, outcome) = repository.try_restore(&to, &[]);
    outcome.ok();
    let mut restored = Server::build(pg).host(&host).over(&to);
    restored.start();
    wait_until("the end of recovery", || restored.sql("postgres", "select pg_is_in_recovery()") == "f");
    assert_eq!(restored.pgbench_sums(), sums);
    repository.run(["verify", "--read-data"]).ok();

    // Nothing lies beside what the format describes.
    for key in bucket.list("pg/main/") {
        let known = ["pgcairn", "key/", "log/", "body/", "pack/", "wal/"];
        assert!(known.iter().any(|k| key["pg/main/".len()..].starts_with(k)), "{key}");
    }
}

/// One test a major; without `make test-full` 15 and 18 stand for the others.
macro_rules! on_majors_with_s3 {
    ($($name:ident $major:literal),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                if !matches!($major, 15 | 18) && !support::full() {
                    return support::skip("a part of make test-full");
                }
                support::s3::on($major, |pg, s3| whole_road(pg, s3));
            }
        )+
    };
}

on_majors_with_s3!(
    whole_road_pg13 13, whole_road_pg14 14, whole_road_pg15 15, whole_road_pg16 16, whole_road_pg17 17, whole_road_pg18 18,
    whole_road_pg19 19,
);
