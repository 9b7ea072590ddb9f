//! Backups of stopped clusters.

use crate::support::{Postgres, Repository, Server, Stop, TestDir, verify_backup};

fn fill(server: &Server) {
    server.sql("postgres", "create table t as select i, md5(i::text) as t from generate_series(1, 20000) i; create index on t(t)");
    server.sql("postgres", "create table empty(); create database other");
    server.sql("other", "create table o as select 'here'::text as w");
}

/// A stopped cluster comes back on a host that has nothing but repository and key file.
fn stopped_cluster_comes_back(pg: &Postgres) {
    let mut server = Server::build(pg).start();
    fill(&server);
    server.stop(Stop::Fast);
    let repository = Repository::init();
    let data = server.data().to_str().unwrap().to_owned();
    let first = repository.run(["backup", "--json", "--offline", "--pgdata", &data]).ok().json();
    assert_eq!(first["kind"], "physical");
    assert!(first["files"].as_u64().unwrap() > 500 && first["new_bytes"].as_u64().unwrap() > 0);
    assert_eq!(first["read_bytes"], first["cluster_bytes"]);

    // Nothing has changed: nothing is read, next to nothing is stored.
    let second = repository.run(["backup", "--json", "--offline", "--pgdata", &data]).ok().json();
    assert_eq!(second["parent"], first["id"]);
    assert!(second["new_bytes"].as_u64().unwrap() < 30_000, "{second}");

    let target = TestDir::new();
    let to = target.join("data");
    repository.restore(&to, &[]);
    verify_backup(pg, &to);
    let mut restored = Server::build(pg).over(&to);
    restored.start();
    crate::support::wait_until("the end of recovery", || restored.sql("postgres", "select pg_is_in_recovery()") == "f");
    assert_eq!(restored.sql("postgres", "select count(*), sum(length(t)) from t"), "20000|640000");
    assert_eq!(restored.sql("other", "select w from o"), "here");
    crate::support::amcheck(&restored);
}

crate::on_majors!(stopped_cluster_comes_back: pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18, pg19 19);

#[test]
fn a_running_or_killed_cluster_is_refused() {
    crate::support::on(18, |pg| {
        let mut server = Server::build(pg).start();
        let repository = Repository::init();
        let data = server.data().to_str().unwrap().to_owned();
        repository.run(["backup", "--offline", "--pgdata", &data]).code(1).says("postmaster.pid");
        server.crash();
        let _ = std::fs::remove_file(server.data().join("postmaster.pid"));
        repository.run(["backup", "--offline", "--pgdata", &data]).code(1).says("not shut down cleanly");
        assert_eq!(repository.run(["list", "--json"]).ok().json()["snapshots"].as_array().unwrap().len(), 0);
    });
}

/// PostgreSQL cuts relations into files of 1 GiB. All but the ends of this one is a hole, to it pages that are new.
#[test]
fn a_relation_of_two_segments_comes_back() {
    crate::support::on(18, |pg| {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let mut server = Server::build(pg).checksums(false).start();
        server.sql("postgres", "create table t as select i from generate_series(1, 100) i");
        let path = server.sql("postgres", "select pg_relation_filepath('t')");
        server.stop(Stop::Fast);
        let first = std::fs::File::options().read(true).write(true).open(server.data().join(&path)).unwrap();
        let mut page = [0; 8192];
        first.read_exact_at(&mut page, 0).unwrap();
        first.write_all_at(&page, (1 << 30) - 8192).unwrap();
        std::fs::write(server.data().join(format!("{path}.1")), page).unwrap();
        let count = "set max_parallel_workers_per_gather = 0; select count(*) from t";
        server.start();
        assert_eq!(server.sql("postgres", count), "300");
        server.stop(Stop::Fast);
        let repository = Repository::init();
        repository.run(["backup", "--offline", "--pgdata", server.data().to_str().unwrap()]).ok();
        let target = TestDir::new();
        let to = target.join("data");
        repository.restore(&to, &[]);
        let restored = std::fs::metadata(to.join(&path)).unwrap();
        assert_eq!(restored.len(), 1 << 30);
        assert!(restored.blocks() * 512 < 1 << 20, "the hole was filled");
        let mut restored = Server::build(pg).over(&to);
        restored.start();
        assert_eq!(restored.sql("postgres", count), "300");
    });
}

#[test]
fn every_file_comes_back_byte_for_byte() {
    crate::support::on(18, |pg| {
        use std::os::unix::ffi::OsStrExt;
        let mut server = Server::build(pg).start();
        fill(&server);
        server.stop(Stop::Fast);
        let data = server.data().to_owned();
        // Sizes around the borders of extents, joint chunks and streams; odd names; holes.
        let own = data.join("own");
        std::fs::create_dir(&own).unwrap();
        for (i, len) in [0usize, 1, 4095, 65535, 65536, 65537, 262144, 300000, 3_000_000].into_iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|b| ((b as u64 * (i as u64 + 7)) >> 5) as u8).collect();
            std::fs::write(own.join(format!("f{i}")), bytes).unwrap();
        }
        std::fs::write(own.join(std::ffi::OsStr::from_bytes(b"odd \xff\n name")), b"odd").unwrap();
        let hole = std::fs::File::create(own.join("hole")).unwrap();
        hole.set_len(20 << 20).unwrap();
        for i in 0..1500 {
            std::fs::write(own.join(format!("small{i}")), format!("number {i}")).unwrap();
        }
        let repository = Repository::init();
        repository.run(["backup", "--offline", "--pgdata", data.to_str().unwrap()]).ok();
        let target = TestDir::new();
        let to = target.join("data");
        repository.restore(&to, &["--no-recovery"]);
        let mut compare = std::process::Command::new("diff");
        compare.args([
            "-r",
            "--no-dereference",
            "-x",
            "backup_manifest",
            "-x",
            "postmaster.opts",
            "-x",
            "pg_wal",
            "-x",
            "log",
            "-x",
            "pg_internal.init",
            // Folders whose contents are left out.
            "-x",
            "pg_subtrans",
            "-x",
            "pg_notify",
        ]);
        compare.args(["-x", "postgresql.auto.conf", "-x", "current_logfiles"]).arg(&data).arg(&to);
        let outcome = crate::support::Outcome::of(compare);
        assert!(outcome.stdout.is_empty(), "{}", outcome.report());
        for empty in ["pg_subtrans", "pg_notify"] {
            assert_eq!(std::fs::read_dir(to.join(empty)).unwrap().count(), 0, "{empty}");
        }
    });
}
