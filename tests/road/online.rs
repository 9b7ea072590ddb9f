//! Backups of running clusters under load.

use crate::support::{Load, Postgres, Repository, Server, Stop, TestDir, amcheck, verify_backup, wait_until};

/// With its WAL in the snapshot, a backup under load restores without any archive, and all sums agree.
fn wal_copy_under_load_restores(pg: &Postgres) {
    let server = Server::build(pg).conf("checkpoint_timeout", "30s").conf("max_wal_senders", "4").start();
    server.pgbench_init(2);
    let repository = Repository::init();
    let load = Load::start(&server, &["-n", "-c", "2", "-T", "100"]);
    let first = repository.backup(&server, &["--wal", "copy"]);
    server.sql("postgres", "checkpoint");
    let second = repository.backup(&server, &["--wal", "copy", "--label", "day=2", "--label", "who=me"]);
    load.stop();
    assert_eq!(second["labels"]["day"], "2");
    assert_eq!(second["waits_for"], serde_json::Value::Null);
    for id in [&first["id"], &second["id"]] {
        let target = TestDir::new();
        let to = target.join("data");
        repository.restore(&to, &[id.as_str().unwrap()]);
        verify_backup(pg, &to);
        let mut restored = Server::build(pg).over(&to);
        restored.start();
        wait_until("the end of recovery", || restored.sql("postgres", "select pg_is_in_recovery()") == "f");
        consistent(&restored);
        amcheck(&restored);
        restored.stop(Stop::Fast);
    }
}

crate::on_majors!(wal_copy_under_load_restores: pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18, pg19 19);

/// pgbench's sums are equal in any consistent state.
fn consistent(server: &Server) {
    let sums = server.pgbench_sums();
    let numbers: Vec<&str> = sums.split('|').collect();
    assert!(numbers[0] == numbers[1] && numbers[1] == numbers[2] && numbers[2] == numbers[3], "{sums}");
}

/// Tablespaces, unlogged and temporary tables, a thousand small ones, odd names, databases that come and go meanwhile.
fn all_kinds_of_files(pg: &Postgres) {
    let repository = Repository::init();
    let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
    let space = server.folder("space one");
    server.sql("postgres", &format!("create tablespace one location '{}'", space.display()));
    server.sql("postgres", "create table in_one(i int) tablespace one; insert into in_one select generate_series(1, 1000)");
    server.sql("postgres", "create unlogged table fleeting as select generate_series(1, 1000) i");
    server.sql("postgres", "do $$ begin for i in 1..1000 loop execute format('create table small_%s(i int)', i); end loop; end $$");
    server.sql("postgres", "create table big as select i, repeat('x', 500) t from generate_series(1, 30000) i");
    server.pgbench_init(1);
    std::os::unix::net::UnixListener::bind(server.data().join("a.socket")).unwrap();
    let load = Load::start(&server, &["-n", "-c", "1", "-T", "100"]);
    let churn = server.client("psql", "postgres");
    let mut churn = churning(churn);
    let snapshot = repository.backup(&server, &[]);
    let _ = churn.kill();
    let _ = churn.wait();
    load.stop();
    let shown = repository.run(["show", snapshot["id"].as_str().unwrap(), "--json"]).ok().json();
    assert_eq!(shown["tablespaces"][0]["name"], "one");

    let target = TestDir::new();
    let to = target.join("data");
    let spaces = target.join("spaces");
    repository.restore(&to, &["--tablespace-root", spaces.to_str().unwrap()]);
    verify_backup(pg, &to);
    let mut restored = Server::build(pg).over(&to);
    restored.start();
    wait_until("the end of recovery", || restored.sql("postgres", "select pg_is_in_recovery()") == "f");
    consistent(&restored);
    assert_eq!(restored.sql("postgres", "select count(*) from in_one"), "1000");
    assert_eq!(restored.sql("postgres", "select count(*) from fleeting"), "0");
    assert_eq!(restored.sql("postgres", "select count(*) from big"), "30000");
    assert_eq!(restored.sql("postgres", "select count(*) from pg_class where relname like 'small\\_%'"), "1000");
    let place = restored.sql("postgres", "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'one'");
    assert!(place.starts_with(spaces.to_str().unwrap()), "{place}");
    amcheck(&restored);
}

crate::on_majors!(all_kinds_of_files: pg15 15, pg18 18);

/// Databases and tables are created and dropped in a loop.
fn churning(mut psql: std::process::Command) -> std::process::Child {
    use std::io::Write;
    psql.args(["-XAtq", "-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut child = psql.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::thread::spawn(move || {
        for i in 0..10_000 {
            let line = format!(
                "create database d{i};\ndrop database d{i};\ncreate table come_{i} as select generate_series(1, 5000);\ndrop table come_{i};\n\
                 create temporary table temp_{i} as select 1;\nvacuum big;\n"
            );
            if input.write_all(line.as_bytes()).is_err() {
                break;
            }
        }
    });
    child
}

/// A page that stays wrong is reported with its place, recorded, and the snapshot is kept.
#[test]
fn a_damaged_page_is_named_and_the_snapshot_kept() {
    crate::support::on(18, |pg| {
        let mut server = Server::build(pg).start();
        server.sql("postgres", "create table t as select i, repeat('x', 100) x from generate_series(1, 10000) i; checkpoint");
        let path = server.sql("postgres", "select pg_relation_filepath('t')");
        server.stop(Stop::Fast);
        let file = server.data().join(&path);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[5 * 8192 + 4000] ^= 0x40;
        std::fs::write(&file, &bytes).unwrap();
        server.start();
        let repository = Repository::init();
        let outcome = repository.try_backup(&server, &["--wal", "copy"]).code(3).says(&path);
        let backup = outcome.json();
        assert_eq!(backup["damaged_pages"], 1);
        assert!(outcome.stderr.contains("block 5") && outcome.stderr.contains("main"), "{}", outcome.report());
        assert_eq!(repository.run(["list", "--json"]).ok().json()["snapshots"][0]["damaged_pages"], 1);
        // Stored as read.
        let target = TestDir::new();
        let to = target.join("data");
        repository.restore(&to, &[]);
        assert_eq!(std::fs::read(to.join(&path)).unwrap()[5 * 8192 + 4000], bytes[5 * 8192 + 4000]);
    });
}
