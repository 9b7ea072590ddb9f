//! Clusters in a state that can't be backed up.

use crate::support::{Repository, Server, Stop, TestDir, copy_tree};

/// No entry of the log is written for a backup that is refused before it begins.
fn nothing_begun(repository: &Repository) {
    assert!(!repository.path().join("log/1").exists(), "a session was begun");
}

#[test]
fn what_is_no_whole_cluster_of_a_known_version_is_refused() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let mut server = Server::build(pg).conf("wal_level", "minimal").conf("max_wal_senders", "0").start();
        repository.try_backup(&server, &["--wal", "copy"]).code(1).says("wal_level is minimal").says("wal_level = replica");
        server.stop(Stop::Fast);
        let data = server.data().to_owned();
        let offline = || repository.run(["backup", "--json", "--offline", "--pgdata", data.to_str().unwrap()]);

        let version = data.join("PG_VERSION");
        std::fs::write(&version, "12\n").unwrap();
        offline().code(1).says("says version \"12\"").says("13 to 19");
        std::fs::write(&version, "18\n").unwrap();

        let control = data.join("global/pg_control");
        let original = std::fs::read(&control).unwrap();
        let known = u32::from_le_bytes(original[8..12].try_into().unwrap());
        std::fs::write(&control, with_control_version(&original, known + 100)).unwrap();
        let refused = offline().code(1).says(&(known + 100).to_string());
        assert!(refused.stderr.contains("pg_control"), "{}", refused.report());
        // Without a fitting checksum nothing in it is believed.
        let mut damaged = original.clone();
        damaged[8] ^= 1;
        std::fs::write(&control, &damaged).unwrap();
        offline().code(1).says("pg_control");
        std::fs::write(&control, &original[..100]).unwrap();
        offline().code(1).says("pg_control");
        std::fs::remove_file(&control).unwrap();
        offline().code(1).says("no data directory of PostgreSQL");
        nothing_begun(&repository);

        std::fs::write(&control, &original).unwrap();
        offline().ok();
    });
}

/// Another version in `pg_control`, with the checksum that fits.
fn with_control_version(original: &[u8], version: u32) -> Vec<u8> {
    let crc_at = |n: &usize| original[*n..*n + 4] == crc32c::crc32c(&original[..*n]).to_le_bytes();
    let crc = (12..512).find(crc_at).expect("a checksum behind the fields");
    let mut bytes = original.to_vec();
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..crc]);
    bytes[crc..crc + 4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn a_tablespace_that_is_not_mounted_is_refused() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let mut server = Server::build(pg).start();
        let (space, away) = (server.folder("space"), server.folder("").join("away"));
        server.sql("postgres", &format!("create tablespace far location '{}'", space.display()));
        server.sql("postgres", "create table t tablespace far as select generate_series(1, 100) i; checkpoint");
        let oid = server.sql("postgres", "select oid from pg_tablespace where spcname = 'far'");
        std::fs::rename(&space, &away).unwrap();
        std::fs::create_dir(&space).unwrap();
        let words = format!("tablespace {oid} can't be found");
        repository.try_backup(&server, &["--wal", "copy"]).code(1).says(&words).says("mounted");
        assert_eq!(server.sql("postgres", "select count(*) from pg_stat_activity where application_name like 'pgcairn%'"), "0");
        // As when its folder is not there at all.
        std::fs::remove_dir(&space).unwrap();
        repository.try_backup(&server, &["--wal", "copy"]).code(1).says(&oid);
        assert_eq!(repository.run(["list", "--json"]).ok().json()["snapshots"].as_array().unwrap().len(), 0);
        std::fs::rename(&away, &space).unwrap();
        repository.backup(&server, &["--wal", "copy"]);
        server.stop(Stop::Fast);
    });
}

/// A server that was set back, as by a snapshot of its volume, writes segments anew that the archive has otherwise.
#[test]
fn a_server_that_went_another_way_than_its_archive_is_refused() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let mut server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        server.sql("postgres", "create table t as select generate_series(1, 1000) i");
        server.stop(Stop::Fast);
        let back = TestDir::new();
        copy_tree(server.data(), &back.join("data"));
        server.start();
        for _ in 0..6 {
            let name = server.switch_wal();
            server.await_archived(&name);
        }
        server.stop(Stop::Fast);

        let mut server = Server::build(pg).host(&repository.host).over(&back.join("data"));
        server.start();
        server.sql("postgres", "create table u as select generate_series(1, 1000) i");
        server.switch_wal();
        repository.try_backup(&server, &["--wal-timeout", "60s"]).code(1).says("it has gone another way").says("--wal copy");
        assert_eq!(repository.run(["list", "--json"]).ok().json()["snapshots"].as_array().unwrap().len(), 0);
        repository.backup(&server, &["--wal", "copy"]);
    });
}

#[test]
fn data_behind_a_link_is_never_left_out_silently() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let mut server = Server::build(pg).start();
        server.stop(Stop::Fast);
        let elsewhere = TestDir::new();
        for name in ["base", "global", "pg_xact"] {
            let (there, away) = (server.data().join(name), elsewhere.join(name));
            copy_tree(&there, &away);
            std::fs::rename(&there, elsewhere.join("original")).unwrap();
            std::os::unix::fs::symlink(&away, &there).unwrap();
            let refused = repository.run(["backup", "--offline", "--pgdata", server.data().to_str().unwrap()]).code(1);
            assert!(refused.stderr.contains(name), "{}", refused.report());
            std::fs::remove_file(&there).unwrap();
            std::fs::rename(elsewhere.join("original"), &there).unwrap();
        }
        repository.run(["backup", "--offline", "--pgdata", server.data().to_str().unwrap()]).ok();
    });
}
