//! Second and later backups.

use crate::support::{Repository, Server, Stop, TestDir, bytes_below, verify_backup, wait_until};

#[test]
fn increments_store_changed_pages_alone() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).conf("autovacuum", "off").start();
        server.pgbench_init(5);
        server.sql("postgres", "vacuum freeze; checkpoint");
        let first = repository.backup(&server, &[]);
        server.pgbench(&["-n", "-c", "1", "-t", "200", "--random-seed=7"]);
        let before = bytes_below(&repository.path().join("pack"));
        let second = repository.backup(&server, &[]);
        let stored = bytes_below(&repository.path().join("pack")) - before;
        assert_eq!(second["new_bytes"].as_u64().unwrap(), stored);
        assert!(stored * 20 < first["new_bytes"].as_u64().unwrap(), "{stored} of {first}");
        assert!(second["read_bytes"].as_u64().unwrap() <= second["cluster_bytes"].as_u64().unwrap());
        // All is read when asked for, and the answer is the same.
        let third = repository.backup(&server, &["--verify-unchanged"]);
        assert_eq!(third["read_bytes"], third["cluster_bytes"]);
        // Patches of several generations come back, on a host that never saw them.
        for round in 0..3 {
            server.pgbench(&["-n", "-c", "1", "-t", "100", &format!("--random-seed={round}")]);
            repository.backup(&server, &[]);
        }
        let sums = server.pgbench_sums();
        let target = TestDir::new();
        let to = target.join("data");
        let segment = server.switch_wal();
        server.await_archived(&segment);
        repository.restore(&to, &[]);
        verify_backup(pg, &to);
        let mut restored = Server::build(pg).over(&to);
        restored.start();
        wait_until("the end of recovery", || restored.sql("postgres", "select pg_is_in_recovery()") == "f");
        assert_eq!(restored.pgbench_sums(), sums);
        crate::support::amcheck(&restored);
    });
}

#[test]
fn a_lost_or_damaged_cache_changes_nothing() {
    crate::support::on(18, |pg| {
        let mut server = Server::build(pg).start();
        server.pgbench_init(1);
        server.stop(Stop::Fast);
        let data = server.data().to_str().unwrap().to_owned();
        let repository = Repository::init();
        let backup = || repository.run(["backup", "--json", "--offline", "--pgdata", &data]).ok().json();
        backup();
        let cache = repository.host.home().join(".cache");
        assert!(cache.exists());
        std::fs::remove_dir_all(&cache).unwrap();
        assert!(backup()["new_bytes"].as_u64().unwrap() < 30_000);
        damage(&cache);
        assert!(backup()["new_bytes"].as_u64().unwrap() < 30_000);
        let target = TestDir::new();
        let to = target.join("data");
        repository.restore(&to, &[]);
        verify_backup(pg, &to);
    });
}

/// Flips a byte in the middle of every file.
fn damage(folder: &std::path::Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.metadata().unwrap().is_dir() {
            damage(&entry.path());
        } else {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 0xff;
                std::fs::write(entry.path(), bytes).unwrap();
            }
        }
    }
}

#[test]
fn another_chunker_gives_the_same_files() {
    crate::support::on(18, |pg| {
        let mut server = Server::build(pg).start();
        server.pgbench_init(1);
        server.stop(Stop::Fast);
        let data = server.data().to_str().unwrap().to_owned();
        let repository = Repository::init();
        repository.run(["backup", "--offline", "--pgdata", &data]).ok();
        repository.run(["backup", "--offline", "--chunker", "cdc", "--verify-unchanged", "--pgdata", &data]).ok();
        let target = TestDir::new();
        let to = target.join("data");
        repository.restore(&to, &[]);
        verify_backup(pg, &to);
    });
}
