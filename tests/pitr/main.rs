//! Any point in time: the archive, and recovery to targets of every kind, on real servers.

#[path = "../support/mod.rs"]
mod support;

mod server;
mod standby;
mod stops;

use std::path::{Path, PathBuf};

use support::{Host, Outcome, Postgres, Repository, Server, TestDir, amcheck, verify_backup, wait_until};

/// Marks that are committed one after the other, with what is known of the moment between them.
struct Marks<'s> {
    server: &'s Server,
}

/// A moment after a mark.
#[derive(Clone, Debug)]
struct Moment {
    lsn: String,
    time: String,
    xid: String,
    sums: String,
}

impl Marks<'_> {
    fn create(server: &Server) -> Marks<'_> {
        server.sql("postgres", "create table marks(i int)");
        Marks { server }
    }

    /// Commits mark `i` and some more work.
    fn mark(&self, i: u32) -> Moment {
        self.server.pgbench(&["-n", "-c", "1", "-t", "20"]);
        let xid = self.server.sql("postgres", &format!("begin; insert into marks values ({i}); select pg_current_xact_id(); commit;"));
        let lsn = self.server.sql("postgres", "select pg_current_wal_lsn()");
        let time = self.server.sql("postgres", "select clock_timestamp() at time zone 'UTC'");
        Moment { lsn, time: format!("{time}+00"), xid, sums: self.server.pgbench_sums() }
    }

    /// Everything so far is in the archive.
    fn archived(&self) {
        let segment = self.server.switch_wal();
        self.server.await_archived(&segment);
    }
}

fn count(server: &Server) -> String {
    server.sql("postgres", "select count(*) from marks")
}

/// Restores with these arguments, starts the server, waits until it has promoted.
fn recovered(pg: &Postgres, repository: &Repository, target: &TestDir, name: &str, arguments: &[&str]) -> Server {
    let to = target.join(name);
    let mut all = vec!["--target-action", "promote"];
    all.extend(arguments);
    let (host, outcome) = repository.try_restore(&to, if arguments.is_empty() { &[] } else { &all });
    let outcome = outcome.ok();
    assert!(
        outcome.stderr.contains("archiv") || outcome.stdout.contains("archiv"),
        "nothing is said about archiving\n{}",
        outcome.report()
    );
    verify_backup(pg, &to);
    let mut restored = Server::build(pg).host(&host).over(&to);
    restored.start();
    wait_until("the end of recovery", || restored.sql("postgres", "select pg_is_in_recovery()") == "f");
    assert!(!to.join("steered").exists(), "the source's own recovery_end_command ran");
    std::mem::forget(host);
    restored
}

/// To name, LSN, xid, time, immediate, latest; inclusive and exclusive.
fn every_kind_of_target(pg: &Postgres) {
    let repository = Repository::init();
    // What the cluster's own configuration says of recovery must steer none of these.
    let server = Server::build(pg)
        .host(&repository.host)
        .archive(&repository.archive_command())
        .conf("recovery_target_xid", "3000000")
        .conf("recovery_end_command", "touch steered")
        .conf("archive_cleanup_command", "touch steered")
        .conf("recovery_min_apply_delay", "1h")
        .start();
    server.pgbench_init(1);
    let marks = Marks::create(&server);
    let zero = marks.mark(0);
    marks.archived();
    repository.backup(&server, &[]);
    let one = marks.mark(1);
    server.sql("postgres", "select pg_create_restore_point('after one')");
    let two = marks.mark(2);
    let three = marks.mark(3);
    marks.archived();
    let target = TestDir::new();
    let check = |name: &str, arguments: &[&str], wanted: &str, sums: Option<&str>| {
        let restored = recovered(pg, &repository, &target, name, arguments);
        assert_eq!(count(&restored), wanted, "{arguments:?}");
        if let Some(sums) = sums {
            assert_eq!(restored.pgbench_sums(), sums, "{arguments:?}");
        }
    };
    check("name", &["--target-name", "after one"], "2", Some(&one.sums));
    check("lsn", &["--target-lsn", &two.lsn], "3", Some(&two.sums));
    check("xid", &["--target-xid", &two.xid], "3", Some(&two.sums));
    check("xid-exclusive", &["--target-xid", &two.xid, "--target-exclusive"], "2", None);
    check("time", &["--target-time", &two.time], "3", Some(&two.sums));
    check("immediate", &["--target-immediate"], "1", None);
    check("latest", &[], "4", Some(&three.sums));
    let restored = recovered(pg, &repository, &target, "checked", &["--target-time", &one.time]);
    amcheck(&restored);

    // The key that lies beside a restored data directory reads, and signs nothing.
    let key = target.join("checked.pgcairn");
    let state = ["--state-dir", key.to_str().unwrap()];
    repository.run_on(&Host::new(), state.into_iter().chain(["list"])).ok();
    let (own, offline) = (target.join("immediate"), ["backup", "--offline", "--pgdata"]);
    let arguments = state.into_iter().chain(offline).chain([own.to_str().unwrap()]);
    repository.run_on(&Host::new(), arguments).code(1).says("never enrolled");

    let refused = |name: &str, arguments: &[&str]| -> Outcome {
        let (_, outcome) = repository.try_restore(&target.join(name), arguments);
        assert!(!target.join(name).exists(), "a refused restore has written");
        outcome
    };
    refused("early", &["--target-time", &zero.time]).code(1);
    refused("early-lsn", &["--target-lsn", &zero.lsn]).code(1);
    refused("late", &["--target-time", "2100-01-01 00:00:00Z"]).code(1);
    refused("late-lsn", &["--target-lsn", "FF/0"]).code(1);
    refused("unknown-xid", &["--target-xid", "2000000000"]).code(4);
    refused("unknown-name", &["--target-name", "never"]).code(4);
    refused("no-zone", &["--target-time", "2026-11-24 13:30:00"]).code(2).says("time zone");
    refused("two", &["--target-xid", "7", "--target-name", "x"]).code(2);
    refused("timeline", &["--target-timeline", "7"]).code(4).says("1");
}

on_majors!(every_kind_of_target: pg15 15, pg18 18);

/// A recovered server goes on on a new timeline, in the same archive; targets before and behind the switch are reached.
fn over_a_timeline_switch(pg: &Postgres) {
    let repository = Repository::init();
    let target = TestDir::new();
    let (one, to) = {
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        server.pgbench_init(1);
        let marks = Marks::create(&server);
        repository.backup(&server, &[]);
        let one = marks.mark(1);
        marks.mark(2);
        marks.archived();
        (one, target.join("promoted"))
    };
    repository
        .run([
            "restore",
            "--to",
            to.to_str().unwrap(),
            "--target-time",
            &one.time,
            "--target-action",
            "promote",
            "--archive-mode",
            "preserve",
        ])
        .ok();
    let mut promoted = Server::build(pg).host(&repository.host).over(&to);
    promoted.start();
    wait_until("the promotion", || promoted.sql("postgres", "select pg_is_in_recovery()") == "f");
    let marks = Marks { server: &promoted };
    let eleven = marks.mark(11);
    marks.mark(12);
    marks.archived();
    let status = repository.run(["archive", "status", "--json"]).ok().json();
    assert_eq!(status["timelines"][1]["parent"]["timeline"], 1, "{status}");
    let behind = recovered(pg, &repository, &target, "behind", &["--target-time", &eleven.time]);
    assert_eq!(behind.sql("postgres", "select string_agg(i::text, ',' order by i) from marks"), "1,11");
    assert_eq!(behind.pgbench_sums(), eleven.sums);
    drop(behind);
    let latest = recovered(pg, &repository, &target, "latest", &[]);
    assert_eq!(latest.sql("postgres", "select string_agg(i::text, ',' order by i) from marks"), "1,11,12");
    drop(latest);
    // The old line is still there, for who asks for it.
    let old = recovered(pg, &repository, &target, "old", &["--target-timeline", "1", "--target-lsn", &one.lsn]);
    assert_eq!(old.sql("postgres", "select string_agg(i::text, ',' order by i) from marks"), "1");
    // And the promoted server is backed up on its own timeline.
    let snapshot = repository.backup(&promoted, &[]);
    assert_eq!(snapshot["timeline"], 2);
    drop(old);
    let again = recovered(pg, &repository, &target, "again", &[]);
    assert_eq!(again.sql("postgres", "select string_agg(i::text, ',' order by i) from marks"), "1,11,12");
}

on_majors!(over_a_timeline_switch: pg15 15, pg18 18);

/// The objects of segments in the archive, by name.
fn segments(repository: &Repository) -> Vec<PathBuf> {
    fn walk(folder: &Path, all: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.metadata().unwrap().is_dir() {
                walk(&entry.path(), all);
            } else if entry.file_name().len() == 24 {
                all.push(entry.path());
            }
        }
    }
    let mut all = Vec::new();
    walk(&repository.path().join("wal"), &mut all);
    all.sort();
    all
}

/// A gap is an error, never the end of WAL; acknowledged, it no longer alarms, and stays visible.
#[test]
fn a_gap_is_never_taken_for_the_end() {
    support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        server.pgbench_init(1);
        let marks = Marks::create(&server);
        repository.backup(&server, &[]);
        let one = marks.mark(1);
        marks.archived();
        let before = segments(&repository);
        marks.mark(2);
        marks.archived();
        let two = marks.mark(3);
        marks.archived();
        repository.run(["archive", "status"]).ok();
        let lost = segments(&repository).into_iter().find(|s| !before.contains(s)).unwrap();
        let name = lost.file_name().unwrap().to_str().unwrap().to_owned();
        std::fs::remove_file(&lost).unwrap();

        let status = repository.run(["archive", "status", "--json"]).code(3).json();
        assert_eq!(status["timelines"][0]["gaps"][0]["from"], name.as_str(), "{status}");
        let target = TestDir::new();
        repository.try_restore(&target.join("x"), &[]).1.code(1).says(&name);
        repository.try_restore(&target.join("x"), &["--target-time", &two.time]).1.code(1).says(&name);
        let dest = target.join("segment");
        let got = repository.run(["archive-get", &name, dest.to_str().unwrap()]);
        assert!(got.status.code().unwrap() > 125, "{}", got.report());
        assert!(!dest.exists());
        let restored = recovered(pg, &repository, &target, "before", &["--target-lsn", &one.lsn]);
        assert_eq!(count(&restored), "1");
        drop(restored);
        // Whether a commit before this moment is in the lost segment nobody knows: the server would have to see a later one.
        repository.try_restore(&target.join("x"), &["--target-time", &one.time]).1.code(1).says(&name);

        repository.run(["archive", "acknowledge", "--timeline", "1", "--from", &name, "--to", &name, "--reason", "lost in a test"]).ok();
        let status = repository.run(["archive", "status", "--json"]).ok().json();
        assert_eq!(status["timelines"][0]["gaps"][0]["acknowledged"], "lost in a test");
        let got = repository.run(["archive-get", &name, dest.to_str().unwrap()]);
        assert!(got.status.code().unwrap() > 125, "{}", got.report());
        repository.backup(&server, &[]);
        let restored = recovered(pg, &repository, &target, "behind", &[]);
        assert_eq!(count(&restored), "3");
    });
}

/// The contract of archive_command: durable or not, the same or other bytes, an empty environment.
#[test]
fn pushes_keep_the_contract() {
    support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        let name = server.switch_wal();
        server.await_archived(&name);
        let target = TestDir::new();
        let dest = target.join("segment");
        let dest_text = dest.to_str().unwrap();
        let above = |outcome: Outcome| assert!(outcome.status.code().is_some_and(|c| c > 125), "{}", outcome.report());
        // Before the first backup the archive itself says whose WAL is meant; of an unknown cluster nothing is absent.
        repository.run(["archive-get", &name, dest_text]).ok();
        above(repository.run(["--cluster", "mian", "archive-get", "00000002.history", dest_text]));
        let identifier = server.sql("postgres", "select system_identifier from pg_control_system()");
        repository.run(["archive-get", "--system-identifier", &identifier, &name, dest_text]).ok();
        above(repository.run(["archive-get", "--system-identifier", "77", &name, dest_text]));
        repository.backup(&server, &[]);
        let objects = segments(&repository).len();
        repository.run(["archive-get", &name, dest_text]).ok();
        let original = std::fs::read(&dest).unwrap();
        // The same again is fine, other bytes are refused and change nothing.
        let copy = target.join(&name);
        std::fs::write(&copy, &original).unwrap();
        let push = |path: &Path| repository.run(["archive-push", path.to_str().unwrap()]);
        push(&copy).ok();
        let mut other = original.clone();
        other[100_000] ^= 1;
        std::fs::write(&copy, &other).unwrap();
        push(&copy).code(1).says("other bytes");
        assert_eq!(segments(&repository).len(), objects);
        // What doesn't fit its name, its length or the cluster.
        std::fs::write(&copy, &original[..original.len() / 2]).unwrap();
        push(&copy).code(1);
        let misnamed = target.join("000000010000000000000077");
        std::fs::write(&misnamed, &original).unwrap();
        push(&misnamed).code(1);
        std::fs::write(target.join("nonsense"), &original).unwrap();
        push(&target.join("nonsense")).code(2);
        push(&target.join("000000010000000000000099")).code(4);
        // Absence: of the next segment, of a history.
        repository.run(["archive-get", "0000000100000000000000F0", dest_text]).code(1);
        repository.run(["archive-get", "00000002.history", dest_text]).code(1);
        // Everything else is above 125.
        above(repository.run(["archive-get", &name]));
        above(repository.run(["archive-get", "--nonsense", &name, dest_text]));
        above(repository.host.pgcairn(["--repo", "/nowhere/at/all", "archive-get", &name, dest_text]));
        above(repository.host.pgcairn(["--config", "/nowhere.toml", "archive-get", &name, dest_text]));
        let stranger = support::Host::new();
        above(repository.run_on(&stranger, ["archive-get", &name, dest_text]));
        let object = segments(&repository).into_iter().find(|s| s.ends_with(&name)).unwrap();
        let mut bytes = std::fs::read(&object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&object, &bytes).unwrap();
        std::fs::remove_file(&dest).unwrap();
        above(repository.run(["archive-get", &name, dest_text]));
        assert!(!dest.exists());
        std::fs::rename(repository.path(), target.join("moved")).unwrap();
        above(repository.run(["archive-get", "0000000100000000000000F0", dest_text]));
        push(&copy).code(4);
    });
}
