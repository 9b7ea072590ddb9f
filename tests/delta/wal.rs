//! The last minutes: WAL in the target that the archive doesn't have.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Postgres, Server, Stop, TestDir, amcheck, verify_backup};
use crate::{archived, backed_up, cut_off, delta, mark, marks, recover};

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn saved(answer: &serde_json::Value) -> PathBuf {
    PathBuf::from(answer["wal_saved"].as_str().unwrap_or_else(|| panic!("{answer}")))
}

/// Load, crash, restore in place, start: the last commit is there.
fn the_last_commit_survives(pg: &Postgres) {
    let (repository, mut server) = backed_up(pg, 2);
    mark(&server, 1);
    archived(&server);
    cut_off(&server);
    mark(&server, 2);
    let sums = server.pgbench_sums();
    let data = server.data().to_owned();
    delta(&repository, &data, &[]).code(1).says("a server runs on");
    server.crash();
    assert!(data.join("postmaster.pid").exists(), "a crashed server leaves its lock file");
    // What was not there at the backup, a setting of the user's and a planted link.
    fs::write(data.join("stranger"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", data.join("base/link")).unwrap();

    let before = fs::read(data.join("global/pg_control")).unwrap();
    let planned = delta(&repository, &data, &["--dry-run"]).ok().json();
    let told = planned["explanation"].to_string();
    assert!(told.contains("pushed into the archive") && told.contains("the unfinished last segment"), "{planned}");
    assert!(planned["removed"].as_array().unwrap().iter().any(|path| path == "stranger"), "{planned}");
    assert!(data.join("stranger").exists() && fs::read(data.join("global/pg_control")).unwrap() == before);
    assert_eq!(repository.run(["archive", "status", "--json"]).ok().json()["timelines"][0]["gaps"].as_array().map(Vec::len), Some(0));

    let answer = delta(&repository, &data, &["--archive-mode", "preserve"]).ok().json();
    assert!(answer["wal_pushed"].as_array().unwrap().len() >= 2, "{answer}");
    assert!(answer["written_bytes"].as_u64().unwrap() < answer["bytes"].as_u64().unwrap() / 2, "{answer}");
    assert!(answer["removed"].as_u64().unwrap() >= 5, "{answer}");
    // The segment in which the server was: a copy beside it, and in pg_wal.
    let tail = names(&saved(&answer));
    assert_eq!(tail.len(), 1);
    assert!(data.join("pg_wal").join(&tail[0]).is_file());
    for gone in ["stranger", "base/link", "pgcairn.restore", "postmaster.pid", "global/pg_control.pgcairn-aside"] {
        assert!(data.join(gone).symlink_metadata().is_err(), "{gone}");
    }
    assert!(!data.with_extension("pgcairn-lock").exists());
    verify_backup(pg, &data);
    recover(&mut server);
    assert_eq!((marks(&server), server.pgbench_sums()), ("1,2".into(), sums));
    assert_eq!(server.sql("postgres", "select count(*) from filler2"), "20000");
    amcheck(&server);

    // It archives on, on a timeline of its own, and the segment that was not finished stands in nobody's way: what the
    // server itself archives of it at its promotion is the same.
    archived(&server);
    let status = repository.run(["archive", "status", "--json"]).ok().json();
    assert_eq!(status["timelines"][1]["parent"]["timeline"], 1, "{status}");
    let failed = server.sql("postgres", "select failed_count from pg_stat_archiver");
    assert_eq!(failed, "0", "{}", server.log_tail());
    let elsewhere = TestDir::new();
    let to = elsewhere.join("data");
    let (host, _) = repository.restore(&to, &[]);
    let mut copy = Server::build(pg).host(&host).over(&to);
    recover(&mut copy);
    assert_eq!((marks(&copy), copy.sql("postgres", "select count(*) from filler2")), ("1,2".into(), "20000".into()));
}

crate::on_majors!(the_last_commit_survives: pg15 15, pg18 18);

/// Told not to push, nothing is lost either: it lies beside the target.
fn without_a_push_it_is_moved_aside(pg: &Postgres) {
    let (repository, mut server) = backed_up(pg, 1);
    mark(&server, 1);
    archived(&server);
    cut_off(&server);
    mark(&server, 2);
    let data = server.data().to_owned();
    let wal = |name: &str| fs::read(data.join("pg_wal").join(name)).unwrap();
    server.crash();
    let status = || repository.run(["archive", "status", "--json"]).ok().json()["timelines"][0]["last"].clone();
    let last = status();
    let there = names(&data.join("pg_wal"));
    let contents: Vec<Vec<u8>> = there.iter().map(|n| if data.join("pg_wal").join(n).is_file() { wal(n) } else { Vec::new() }).collect();
    let answer = delta(&repository, &data, &["--no-push"]).ok().json();
    assert_eq!((answer["wal_pushed"].as_array().unwrap().len(), status()), (0, last));
    let kept = names(&saved(&answer));
    assert!(kept.len() >= 3, "{kept:?}");
    for name in &kept {
        let at = there.iter().position(|n| n == name).unwrap();
        assert!(fs::read(saved(&answer).join(name)).unwrap() == contents[at], "{name}");
        assert!(!data.join("pg_wal").join(name).exists(), "{name}");
    }
    recover(&mut server);
    assert_eq!(marks(&server), "1");
    // By hand, as the answer says; then the first restore is no more than an attempt.
    server.stop(Stop::Fast);
    for name in &kept[..kept.len() - 1] {
        repository.run(["archive-push", saved(&answer).join(name).to_str().unwrap()]).ok();
    }
    let again = delta(&repository, &data, &["--target-timeline", "1"]).ok().json();
    assert_ne!(again["wal_saved"], answer["wal_saved"], "{again}");
    recover(&mut server);
    assert_eq!(server.sql("postgres", "select count(*) from filler1"), "20000");
}

crate::on_majors!(without_a_push_it_is_moved_aside: pg15 15, pg18 18);

/// Archiving is off in what a restore has made, and is turned on later, as its last line says. The server never archives the
/// history of the timeline that it has begun meanwhile; its first segment takes it along.
fn archiving_that_is_turned_on_later_leaves_no_history_out(pg: &Postgres) {
    let (repository, mut server) = backed_up(pg, 1);
    mark(&server, 1);
    archived(&server);
    mark(&server, 2);
    let data = server.data().to_owned();
    server.crash();
    assert_eq!(delta(&repository, &data, &[]).ok().json()["archive_mode"], "off");
    recover(&mut server);
    server.sql("postgres", "alter system reset archive_mode");
    server.restart();
    mark(&server, 3);
    archived(&server);
    repository.backup(&server, &[]);
    let status = repository.run(["archive", "status", "--json"]).ok().json();
    assert_eq!((&status["timelines"][1]["parent"]["timeline"], &status["lost"]), (&1.into(), &serde_json::Value::Null), "{status}");
    let target = TestDir::new();
    repository.restore(&target.join("copy"), &[]);
    let mut copy = Server::build(pg).over(&target.join("copy"));
    recover(&mut copy);
    assert_eq!(marks(&copy), "1,2,3");
}

crate::on_majors!(archiving_that_is_turned_on_later_leaves_no_history_out: pg15 15, pg18 18);

/// A copy that was promoted has a timeline that the archive doesn't know: none of its WAL gets there.
fn a_promoted_copy_pushes_nothing(pg: &Postgres) {
    let (repository, server) = backed_up(pg, 1);
    mark(&server, 1);
    archived(&server);
    let elsewhere = TestDir::new();
    let to = elsewhere.join("copy");
    repository.run(["restore", "--to", to.to_str().unwrap()]).ok();
    let mut copy = Server::build(pg).host(&repository.host).over(&to);
    recover(&mut copy);
    copy.sql("postgres", "create table of_the_copy as select i, md5(i::text) from generate_series(1, 30000) i");
    mark(&copy, 77);
    copy.crash();
    mark(&server, 2);
    archived(&server);

    let status = || repository.run(["archive", "status", "--json"]).ok().json()["timelines"].clone();
    let before = status();
    let answer = delta(&repository, &to, &[]).ok().json();
    assert_eq!((status(), answer["wal_pushed"].as_array().unwrap().len()), (before, 0), "{answer}");
    let kept = names(&saved(&answer));
    assert!(kept.contains(&"00000002.history".to_owned()), "{kept:?}");
    assert!(kept.iter().filter(|name| name.starts_with("00000002") && name.len() == 24).count() >= 3, "{kept:?}");
    assert!(!names(&to.join("pg_wal")).iter().any(|name| name.starts_with("00000002")));
    recover(&mut copy);
    assert_eq!(marks(&copy), "1,2");
    assert!(copy.try_sql("postgres", "select from of_the_copy").is_err());
    // The original goes on, undisturbed.
    mark(&server, 3);
    archived(&server);
}

crate::on_majors!(a_promoted_copy_pushes_nothing: pg15 15, pg18 18);

/// The archive has other bytes under the name of a segment of ours: nothing is pushed and nothing lost. A repository
/// that can't be written to: refused, and the crashed server can still be started.
#[test]
fn what_can_not_be_pushed_is_not_touched() {
    crate::support::on(18, |pg| {
        use std::os::unix::fs::PermissionsExt;
        let (repository, mut server) = backed_up(pg, 1);
        mark(&server, 1);
        archived(&server);
        cut_off(&server);
        mark(&server, 2);
        let data = server.data().to_owned();
        server.crash();
        fn set(folder: &Path, mode: u32) {
            for entry in fs::read_dir(folder).unwrap().flatten().filter(|e| e.path().is_dir()) {
                set(&entry.path(), mode);
            }
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
        let control = fs::read(data.join("global/pg_control")).unwrap();
        set(&repository.path().join("wal"), 0o500);
        delta(&repository, &data, &[]).code(1).says("nothing was touched").says("--no-push");
        set(&repository.path().join("wal"), 0o700);
        assert!(fs::read(data.join("global/pg_control")).unwrap() == control && !data.join("pgcairn.restore").exists());
        server.start();
        assert_eq!(marks(&server), "1,2");
    });
}

/// pg_wal on a disk of its own, tablespaces, and a tablespace that the snapshot doesn't know.
#[test]
fn links_are_cut_and_what_they_lead_to_stays() {
    crate::support::on(18, |pg| {
        let (repository, mut server) = backed_up(pg, 1);
        let (space, later, wal) = (server.folder("space"), server.folder("later"), server.folder("elsewhere").join("wal"));
        let data = server.data().to_owned();
        server.stop(Stop::Fast);
        fs::rename(data.join("pg_wal"), &wal).unwrap();
        std::os::unix::fs::symlink(&wal, data.join("pg_wal")).unwrap();
        server.start();
        server.sql("postgres", &format!("create tablespace fast location '{}'", space.display()));
        server.sql("postgres", "create table in_fast tablespace fast as select i, md5(i::text) from generate_series(1, 50000) i");
        server.sql("postgres", "create table dropped tablespace fast as select 1");
        fs::write(space.join("mine"), "x").unwrap();
        fs::create_dir(space.join("PG_17_202406281")).unwrap();
        repository.backup(&server, &[]);
        server.sql("postgres", "update in_fast set i = -i where i % 100 = 0");
        server.sql("postgres", "drop table dropped");
        server.sql("postgres", &format!("create tablespace later location '{}'", later.display()));
        server.sql("postgres", "create table in_later tablespace later as select 1");
        cut_off(&server);
        mark(&server, 5);
        server.crash();

        let answer = delta(&repository, &data, &[]).ok().json();
        assert!(!answer["wal_pushed"].as_array().unwrap().is_empty(), "{answer}");
        assert!(data.join("pg_wal").symlink_metadata().unwrap().is_dir());
        assert!(names(&wal).len() > 3, "what the link led to stays");
        assert!(space.join("mine").exists() && space.join("PG_17_202406281").exists());
        assert!(!names(&data.join("pg_tblspc")).is_empty());
        // Replay makes the later tablespace again: its folder must have been left alone, and be emptied by hand.
        assert!(!names(&later).is_empty());
        for entry in fs::read_dir(&later).unwrap().flatten() {
            fs::remove_dir_all(entry.path()).unwrap();
        }
        recover(&mut server);
        assert_eq!(marks(&server), "5");
        assert_eq!(server.sql("postgres", "select count(*) filter (where i < 0), count(*) from in_fast"), "500|50000");
        amcheck(&server);
        // A copy of the data directory has links into the tablespaces of its original: they are not its own.
        server.stop(Stop::Fast);
        let copy = TestDir::new();
        crate::support::copy_tree(&data, &copy.join("data"));
        let refused = delta(&repository, &copy.join("data"), &[]);
        refused.code(1).says("--tablespace");
        assert!(!copy.join("data/pgcairn.restore").exists());
        delta(&repository, &copy.join("data"), &["--tablespace-root", copy.join("spaces").to_str().unwrap()]).ok();
        assert!(fs::read_dir(copy.join("spaces")).unwrap().count() >= 1);
    });
}
