//! The servers that all other tests stand on: each major starts, answers, crashes, recovers and stops.

mod support;

use support::{Load, Postgres, Server, Stop};

fn serves(pg: &Postgres) {
    let mut server = Server::build(pg).start();
    let version: u32 = server.sql("postgres", "show server_version_num").parse().unwrap();
    assert_eq!(version / 10000, pg.major);
    assert_eq!(server.sql("postgres", "select current_setting('wal_segment_size'), current_setting('data_checksums')"), "1MB|on");

    server.pgbench_init(1);
    let mut load = Load::start(&server, &["-c", "2"]);
    assert!(load.runs());
    server.crash();
    load.stop();
    assert!(!server.runs());

    server.start();
    let sums = server.pgbench_sums();
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(sums[..4].iter().all(|sum| *sum == sums[0]), "{sums:?}");
    assert_ne!(sums[4], "0");
    assert!(server.try_sql("postgres", "select 1/0").is_err());

    server.stop(Stop::Fast);
    assert!(!server.data().join("postmaster.pid").exists());
    assert!(server.log().contains("database system is shut down"));
}

on_majors!(serves: pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18, pg19 19);

#[test]
fn an_ordinary_user_runs_the_tests() {
    support::ordinary(|| {
        assert!(!nix::unistd::getuid().is_root());
        let host = support::Host::new();
        assert!(host.program().exists());
        assert!(std::env::var_os("HOME").is_some());
        let folder = support::TestDir::new();
        std::fs::write(folder.join("file"), "written").unwrap();
    });
}

#[test]
fn servers_have_options() {
    support::on(15, |pg| {
        let archive = support::TestDir::new();
        let copy = format!("cp %p {}/%f", archive.path().display());
        let mut server = Server::build(pg).fresh().checksums(false).segment_mb(2).archive(&copy).tcp().start();
        assert_eq!(server.sql("postgres", "select current_setting('wal_segment_size'), current_setting('data_checksums')"), "2MB|off");
        let name = server.switch_wal();
        server.await_archived(&name);
        assert_eq!(std::fs::metadata(archive.join(&name)).unwrap().len(), 2 << 20);
        server.set("work_mem", "8MB");
        assert_eq!(server.sql("postgres", "show work_mem"), "8MB");
        server.stop(Stop::Immediate);
        let mut again = Server::build(pg).over(server.data());
        again.start();
        assert_eq!(again.sql("postgres", "show work_mem"), "8MB");
    });
}

#[test]
fn failures_of_the_second_run_are_failures() {
    let run = || support::ordinary(|| panic!("on purpose"));
    if std::env::var_os("PGCAIRN_TEST_PROOF").is_some() {
        run();
    }
    let panic = std::panic::catch_unwind(run).expect_err("a failure");
    let message = panic.downcast::<String>().map_or_else(|other| (*other.downcast::<&str>().unwrap()).to_owned(), |text| *text);
    assert!(message.contains("failed as user") || message == "on purpose", "{message}");
}
