//! Sessions with real servers: opening them, what they tell, and backup mode.

mod support;

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use pgcairn::pg::backup_api::{BackupSession, temporary_slot};
use pgcairn::pg::connection::{ConnectOptions, Connection, PgConnError};
use pgcairn::pg::conninfo::{Conninfo, Surroundings};
use pgcairn::units::{Cancel, Class, Explain, SegmentSize};
use support::{Postgres, Server, Stop, TestDir, wait_until};

fn conninfo(text: &str) -> Conninfo {
    Conninfo::parse(text, &Surroundings { user: Some("nobody".to_owned()), ..Surroundings::default() }).unwrap()
}

fn open(text: &str) -> Result<Connection, PgConnError> {
    Connection::open(&conninfo(text), &ConnectOptions::default())
}

fn backs_up(pg: &Postgres) {
    let server = Server::build(pg).conf("statement_timeout", "50").conf("lock_timeout", "50").start();
    let mut connection = open(&server.dsn("postgres")).unwrap();
    assert_eq!(connection.version().major(), pg.major);

    let facts = connection.facts().unwrap();
    assert_eq!(facts.data_directory.as_deref(), Some(server.data()));
    assert_eq!((facts.wal_level.as_str(), facts.archive_mode.as_str(), facts.archive_command.as_deref()), ("replica", "off", None));
    assert_eq!((facts.block_size, facts.wal_segment_size), (8192, SegmentSize::new(1 << 20).unwrap()));
    assert!(facts.data_checksums && facts.full_page_writes && !facts.in_recovery);
    let control = std::fs::read(server.data().join("global/pg_control")).unwrap();
    assert_eq!(facts.system_identifier.to_ne_bytes(), control[..8]);
    assert_eq!(connection.setting("statement_timeout").unwrap().as_deref(), Some("0"));
    assert_eq!(connection.setting("application_name").unwrap().as_deref(), Some("pgcairn"));
    assert_eq!(connection.setting("no.such_setting").unwrap(), None);
    let archiver = connection.archiver().unwrap();
    assert_eq!((archiver.last_archived, archiver.last_failed, archiver.failed_count), (None, None, 0));
    connection.check().unwrap();

    let space = server.folder("a space\\");
    server.sql("postgres", &format!("create tablespace odd location '{}'", space.display()));
    let slot = temporary_slot(&mut connection).unwrap();
    assert_eq!(server.sql("postgres", "select slot_name, temporary from pg_replication_slots"), format!("{}|t", slot.name));
    let before = connection.current_lsn().unwrap().unwrap();
    let begun = connection.clock().unwrap();

    let mut session = BackupSession::start(connection, "a test\nof labels", true).unwrap();
    assert!(session.start_lsn() >= slot.restart_lsn && session.start_lsn() >= before);
    assert!(session.start_time() >= begun);
    session.connection().check().unwrap();
    server.sql("postgres", "create table t as select generate_series(1, 10000)");
    let (start_lsn, start_time) = (session.start_lsn(), session.start_time());
    let (stop, mut connection) = session.stop().unwrap();
    assert!(stop.stop_lsn > start_lsn && stop.stop_time >= start_time);
    let label = String::from_utf8(stop.label).unwrap();
    assert!(label.starts_with("START WAL LOCATION: ") && label.contains("LABEL: a test of labels\n"), "{label}");
    let map = String::from_utf8(stop.tablespace_map).unwrap();
    let escaped = space.to_str().unwrap().replace('\\', r"\\");
    assert!(map.trim_end().ends_with(&escaped) || map.trim_end().ends_with(space.to_str().unwrap()), "{map}");
    assert_eq!(server.sql("postgres", "select count(*) from pg_replication_slots"), "1");
    connection.check().unwrap();
    connection.close();
    wait_until("the slot to go with its session", || server.sql("postgres", "select count(*) from pg_replication_slots") == "0");
}

on_majors!(backs_up: pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18, pg19 19);

/// A checkpoint that is spread over an hour, with enough to write that it takes long.
fn slow_server(pg: &Postgres) -> Server {
    let setup = Server::build(pg).conf("checkpoint_timeout", "1h").conf("checkpoint_completion_target", "1.0").conf("max_wal_size", "10GB");
    let server = setup.start();
    server.sql("postgres", "create table t as select generate_series(1, 100000)");
    server
}

fn ends_while_start_blocks(pg: &Postgres) {
    let server = slow_server(pg);
    let cancel = Cancel::new();
    let options = ConnectOptions { cancel: cancel.clone(), ..ConnectOptions::default() };
    let connection = Connection::open(&conninfo(&server.dsn("postgres")), &options).unwrap();
    let error = std::thread::scope(|scope| {
        let start = scope.spawn(|| BackupSession::start(connection, "slow", false));
        let waiting =
            "select count(*) from pg_stat_activity where application_name = 'pgcairn' and state = 'active' and wait_event is not null";
        wait_until("the start to wait", || start.is_finished() || server.sql("postgres", waiting) == "1");
        cancel.cancel();
        start.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, PgConnError::Interrupted { .. }), "{error:?}");
    wait_until("the session's end", || {
        server.sql("postgres", "select count(*) from pg_stat_activity where application_name = 'pgcairn'") == "0"
    });
    assert!(server.log().contains("canceling statement due to user request"), "{}", server.log_tail());
    // Another backup starts and stops as if nothing had been.
    let session = BackupSession::start(open(&server.dsn("postgres")).unwrap(), "next", true).unwrap();
    session.stop().unwrap();
}

on_majors!(ends_while_start_blocks: pg13 13, pg15 15, pg18 18);

#[test]
fn labels_and_maps_are_bytes_in_any_encoding() {
    support::on(18, |pg| {
        let server = Server::build(pg).initdb("--encoding=LATIN1").start();
        let space = server.folder("").join(std::ffi::OsStr::from_bytes(b"\xfcber"));
        std::fs::create_dir(&space).unwrap();
        let folder = space.parent().unwrap().to_str().unwrap();
        server.sql("postgres", &format!("set client_encoding = utf8; create tablespace odd location '{folder}/über'"));
        let session = BackupSession::start(open(&server.dsn("postgres")).unwrap(), "x", true).unwrap();
        let (stop, mut connection) = session.stop().unwrap();
        assert!(stop.tablespace_map.ends_with(b"/\xfcber\n"), "{:?}", stop.tablespace_map);
        assert_eq!(connection.setting("client_encoding").unwrap().as_deref(), Some("UTF8"));
    });
}

#[test]
fn a_dropped_session_ends_backup_mode() {
    support::on(15, |pg| {
        let server = Server::build(pg).start();
        drop(BackupSession::start(open(&server.dsn("postgres")).unwrap(), "dropped", true).unwrap());
        wait_until("the server's word", || server.log().contains("aborting backup due to backend exiting"));
        // A session that the server kills is lost, and no label comes of it.
        let session = BackupSession::start(open(&server.dsn("postgres")).unwrap(), "killed", true).unwrap();
        server.sql("postgres", "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgcairn'");
        let error = session.stop().unwrap_err();
        assert!(matches!(error, PgConnError::Lost { .. }), "{error:?}");
        assert_eq!(error.class(), Class::Unreachable);
    });
}

#[test]
fn failures_are_told_apart() {
    support::on(18, |pg| {
        let mut server = Server::build(pg).tcp().conf("max_wal_senders", "0").conf("wal_level", "minimal").start();
        server.sql("postgres", "create role weak login; create role locked login password 'right'");
        let hba = "local all all trust\nhost all locked 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n";
        std::fs::write(server.data().join("pg_hba.conf"), hba).unwrap();
        server.restart();
        let tcp = format!("host=localhost hostaddr=127.0.0.1 port={} dbname=postgres", server.port());
        let socket = format!("host={} port={}", server.sockets().display(), server.port());

        let cases = [
            (format!("{tcp} user=locked"), Class::Denied, "asks for the password"),
            (format!("{tcp} user=locked password=wrong"), Class::Denied, "password authentication failed"),
            (format!("{tcp} user=weak"), Class::Denied, "no encryption"),
            (format!("{socket} user=ghost"), Class::Denied, "\"ghost\" does not exist"),
            (format!("{socket} user=postgres dbname=nowhere"), Class::Absent, "no database \"nowhere\""),
            (format!("host={} port=1", server.sockets().display()), Class::Unreachable, "No such file"),
            (format!("host={s},{s} port=1,2", s = server.sockets().display()), Class::Unreachable, ".s.PGSQL.2: No such file"),
            ("host=127.0.0.1 port=1".to_owned(), Class::Unreachable, "refused"),
            (format!("{socket} user=postgres target_session_attrs=standby"), Class::Unreachable, "target_session_attrs=standby"),
        ];
        for (text, class, words) in cases {
            let error = open(&text).expect_err(&text);
            assert!(error.class() == class && error.to_string().contains(words), "{text}: {error:?}");
            assert!(!format!("{error:?} {error} {:?}", error.cure()).contains("wrong"), "{error:?}");
        }
        for fine in [
            format!("{tcp} user=locked password=right"),
            format!("{tcp} user=postgres target_session_attrs=read-write"),
            format!(
                "host=/nowhere,{s} port={p} user=postgres target_session_attrs=prefer-standby",
                s = server.sockets().display(),
                p = server.port()
            ),
        ] {
            open(&fine).unwrap();
        }

        let folder = TestDir::new();
        let file = folder.join("passwords");
        std::fs::write(&file, "localhost:*:*:locked:right\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        open(&format!("{tcp} user=locked passfile={}", file.display())).unwrap();

        let mut weak = open(&format!("{socket} user=weak dbname=postgres")).unwrap();
        assert_eq!(weak.facts().unwrap().data_directory, None);
        let error = BackupSession::start(weak, "x", true).unwrap_err();
        assert_eq!(error.class(), Class::Denied, "{error:?}");
        let error = BackupSession::start(open(&server.dsn("postgres")).unwrap(), "x", true).unwrap_err();
        assert!(error.class() == Class::Refused && error.cure().is_some_and(|cure| cure.contains("wal_level")), "{error:?}");

        let mut lost = open(&server.dsn("postgres")).unwrap();
        server.stop(Stop::Immediate);
        assert_eq!(lost.check().unwrap_err().class(), Class::Unreachable);
        assert!(matches!(lost.check().unwrap_err(), PgConnError::Lost { .. }));
    });
}

#[test]
fn a_server_that_hangs_holds_nobody() {
    // Takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!("host=127.0.0.1 port={}", silent.local_addr().unwrap().port());
    let error = open(&format!("{text} connect_timeout=1")).unwrap_err();
    assert!(matches!(error, PgConnError::NotReached { .. }), "{error:?}");
    let cancel = Cancel::new();
    let options = ConnectOptions { cancel: cancel.clone(), ..ConnectOptions::default() };
    let waiting = std::thread::spawn(move || Connection::open(&conninfo(&format!("{text} connect_timeout=0")), &options));
    let _connections = [silent.accept().unwrap(), silent.accept().unwrap()];
    cancel.cancel();
    assert!(matches!(waiting.join().unwrap(), Err(PgConnError::Interrupted { .. })));
}
