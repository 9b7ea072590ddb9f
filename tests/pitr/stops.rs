//! What the server does at its target, and on which side of it it stops.

use super::{Marks, count, recovered};
use crate::support::{self, Repository, Server, Stop, TestDir, wait_until};

/// Restores with these arguments; the server is not started.
fn restored(pg: &support::Postgres, repository: &Repository, target: &TestDir, name: &str, arguments: &[&str]) -> Server {
    let to = target.join(name);
    let all = ["restore", "--to", to.to_str().unwrap()];
    repository.run(all.iter().chain(arguments).copied()).ok();
    support::verify_backup(pg, &to);
    Server::build(pg).host(&repository.host).over(&to)
}

#[test]
fn a_server_stops_where_and_how_it_is_told() {
    support::on(18, |pg| {
        let repository = Repository::init();
        let setup = Server::build(pg).host(&repository.host).archive(&repository.archive_command());
        let server = setup.conf("track_commit_timestamp", "on").start();
        server.pgbench_init(1);
        let marks = Marks::create(&server);
        repository.backup(&server, &[]);
        let one = marks.mark(1);
        // Where the commit of mark 2 begins, and when it was exactly.
        let before = server.sql("postgres", "begin; insert into marks values (2); select pg_current_wal_insert_lsn(); commit");
        let xid = server.sql("postgres", "select max(xmin::text::bigint) from marks");
        let exactly = server.sql("postgres", &format!("select pg_xact_commit_timestamp('{xid}') at time zone 'UTC'")) + "+00";
        let behind = server.sql("postgres", "select pg_current_wal_insert_lsn()");
        let three = marks.mark(3);
        marks.archived();
        let target = TestDir::new();

        // On one side or the other.
        for (name, arguments, wanted) in [
            ("time", &["--target-time", exactly.as_str()][..], "2"),
            ("time-exclusive", &["--target-time", &exactly, "--target-exclusive"], "1"),
            ("lsn-exclusive", &["--target-lsn", &before, "--target-exclusive"], "1"),
            ("lsn-behind", &["--target-lsn", &behind, "--target-exclusive"], "2"),
        ] {
            assert_eq!(count(&recovered(pg, &repository, &target, name, arguments)), wanted, "{arguments:?}");
        }

        // Pause: it can be looked at, and goes on when told to. It is a copy that keeps its archiving.
        let mut paused = restored(pg, &repository, &target, "pause", &["--target-lsn", &one.lsn, "--archive-mode", "preserve"]);
        paused.start();
        wait_until("the pause", || paused.sql("postgres", "select pg_get_wal_replay_pause_state()") == "paused");
        assert_eq!(paused.sql("postgres", "select pg_is_in_recovery()"), "t");
        assert_eq!((count(&paused), paused.pgbench_sums()), ("1".to_owned(), one.sums.clone()));
        assert!(paused.try_sql("postgres", "insert into marks values (77)").is_err());
        assert_eq!(paused.sql("postgres", "show archive_mode"), "on");
        paused.set("archive_command", "false");
        paused.sql("postgres", "select pg_wal_replay_resume()");
        paused.await_promotion();
        paused.sql("postgres", "insert into marks values (77)");
        paused.stop(Stop::Immediate);

        // Shut down: the target is reached, and it would stop there again.
        let off = ["--target-xid", three.xid.as_str(), "--target-action", "shutdown", "--archive-mode", "off"];
        let mut ended = restored(pg, &repository, &target, "shutdown", &off);
        if ended.try_start().is_ok() {
            ended.await_end();
        }
        assert!(ended.log().contains("shutdown at recovery target"), "{}", ended.log_tail());
        assert!(target.join("shutdown/recovery.signal").exists());
        let conf = target.join("shutdown/postgresql.auto.conf");
        let text = std::fs::read_to_string(&conf).unwrap();
        std::fs::write(&conf, text.replace("'shutdown'", "'promote'")).unwrap();
        ended.start();
        ended.await_promotion();
        assert_eq!((count(&ended), ended.pgbench_sums()), ("3".to_owned(), three.sums));
        assert_eq!(ended.sql("postgres", "show archive_mode"), "off");
    });
}

/// From 15 on the server reads ahead of what it replays: a segment that is listed as whole, and is rotten inside, lies right
/// behind the target and isn't needed.
#[test]
fn what_is_rotten_right_behind_the_target_is_not_read_ahead() {
    support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        server.pgbench_init(1);
        let marks = Marks::create(&server);
        repository.backup(&server, &[]);
        let one = marks.mark(1);
        marks.archived();
        let two = marks.mark(2);
        marks.archived();
        let before = super::segments(&repository);
        marks.mark(3);
        marks.archived();
        let rotten = super::segments(&repository).into_iter().find(|path| !before.contains(path)).unwrap();
        let mut bytes = std::fs::read(&rotten).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&rotten, &bytes).unwrap();
        let target = TestDir::new();
        // The time is left behind by mark 2.
        for (arguments, wanted) in [(["--target-lsn", two.lsn.as_str()], "2"), (["--target-time", one.time.as_str()], "1")] {
            let told = ["--target-action", "promote"].into_iter().chain(arguments).collect::<Vec<_>>();
            let mut stopped = restored(pg, &repository, &target, wanted, &told);
            let conf = std::fs::read_to_string(target.join(wanted).join("postgresql.auto.conf")).unwrap();
            assert!(conf.contains("recovery_prefetch = 'off'"), "{conf}");
            stopped.start();
            stopped.await_promotion();
            assert_eq!(count(&stopped), wanted);
        }
    });
}
