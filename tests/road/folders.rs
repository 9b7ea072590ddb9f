//! Folders that lie elsewhere, or whose contents mean nothing to a copy.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::support::{Postgres, Repository, Server, Stop, TestDir, verify_backup, wait_until};

/// A WAL folder behind a link, logs and statistics under absolute paths: they come back as plain folders.
fn linked_and_absolute_folders_come_back_plain(pg: &Postgres) {
    let repository = Repository::init();
    let mut server = Server::build(pg).conf("logging_collector", "on").create();
    let data = server.data().to_owned();
    let wal = server.folder("").join("wal disk");
    std::fs::rename(data.join("pg_wal"), &wal).unwrap();
    std::os::unix::fs::symlink(&wal, data.join("pg_wal")).unwrap();
    let mut conf = std::fs::File::options().append(true).open(data.join("postgresql.conf")).unwrap();
    writeln!(conf, "log_directory = '{}'", data.join("own log").display()).unwrap();
    if pg.major < 15 {
        std::fs::create_dir(data.join("own stats")).unwrap();
        writeln!(conf, "stats_temp_directory = '{}'", data.join("own stats").display()).unwrap();
    }
    std::os::unix::fs::symlink("/nowhere/at/all", data.join("dangling")).unwrap();
    server.start();
    server.sql("postgres", "create table t as select generate_series(1, 1000) i");
    // A session with a temporary table, open during the backup.
    let mut psql = server.client("psql", "postgres");
    let mut session = psql.args(["-XAtq", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = session.stdin.take().unwrap();
    input.write_all(b"create temporary table fleeting as select generate_series(1, 1000) i;\n").unwrap();
    wait_until("the temporary table", || !temporary_relations(&data.join("base")).is_empty());
    assert!(std::fs::read_dir(data.join("own log")).unwrap().count() > 0);

    let backup = repository.try_backup(&server, &["--wal", "copy"]).ok();
    assert!(backup.stderr.contains("dangling"), "what is not stored is not named\n{}", backup.report());
    let shown = repository.run(["show", "latest", "--json"]).ok().json();
    assert!(shown["left_out"].to_string().contains("dangling"), "{shown}");
    assert!(!temporary_relations(&data.join("base")).is_empty(), "the temporary table went too early");
    drop(input);
    let _ = session.wait();
    server.stop(Stop::Fast);

    let target = TestDir::new();
    let to = target.join("data");
    repository.restore(&to, &[]);
    verify_backup(pg, &to);
    let plain = |name: &str| std::fs::symlink_metadata(to.join(name)).unwrap_or_else(|e| panic!("{name}: {e}")).is_dir();
    assert!(plain("pg_wal") && plain("pg_wal/archive_status") && plain("own log"));
    assert_eq!(std::fs::read_dir(to.join("own log")).unwrap().count(), 0);
    if pg.major < 15 {
        assert!(plain("own stats"));
        assert_eq!(std::fs::read_dir(to.join("own stats")).unwrap().count(), 0);
    }
    assert!(std::fs::symlink_metadata(to.join("dangling")).is_err());
    assert_eq!(temporary_relations(&to.join("base")), Vec::<String>::new());
    let mut restored = Server::build(pg).over(&to);
    restored.start();
    restored.await_promotion();
    assert_eq!(restored.sql("postgres", "select count(*) from t"), "1000");
}

crate::on_majors!(linked_and_absolute_folders_come_back_plain: pg14 14, pg18 18);

/// Names of files such as `t3_16400` below a folder.
fn temporary_relations(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            all.extend(temporary_relations(&entry.path()));
        } else if name.strip_prefix('t').is_some_and(|rest| rest.contains('_') && rest.starts_with(|c: char| c.is_ascii_digit())) {
            all.push(name);
        }
    }
    all
}
