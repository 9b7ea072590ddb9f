//! Several processes at once, killed ones, interrupted ones.

use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Host, Outcome, Repository, Server, Stop, TestDir, bytes_below, verify_backup, wait_until};

fn spawn(repository: &Repository, arguments: Vec<String>) -> Child {
    let mut command = repository.host.command(repository.arguments(arguments));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

fn packs(repository: &Repository) -> u64 {
    bytes_below(&repository.path().join("pack"))
}

#[test]
fn a_killed_backup_is_ended_and_what_it_stored_is_used() {
    crate::support::on(18, |pg| {
        let mut server = Server::build(pg).start();
        server.stop(Stop::Fast);
        let data = server.data().to_str().unwrap().to_owned();
        // Incompressible, so that packs fill soon.
        let mut noise = vec![0; 64 << 20];
        getrandom::fill(&mut noise).unwrap();
        std::fs::write(server.data().join("noise"), &noise).unwrap();
        let repository = Repository::init();
        let arguments: Vec<String> = ["backup", "--json", "--jobs", "1", "--offline", "--pgdata", &data].map(str::to_owned).into();
        let mut child = spawn(&repository, arguments.clone());
        // The second PROGRESS: log/0 KEY, 1 BEGIN, 2 and 3 PROGRESS.
        wait_until("packs to be listed", || repository.path().join("log/3").exists() || child.try_wait().unwrap().is_some());
        signal(&child, Signal::SIGKILL);
        assert!(!child.wait().unwrap().success(), "the backup was faster than its killer");
        let stored = packs(&repository);
        assert!(stored > 16 << 20);
        assert_eq!(repository.run(["list", "--json"]).ok().json()["snapshots"].as_array().unwrap().len(), 0);

        let backup = repository.run(&arguments).ok().says("had died").json();
        let listed = stored * 2 / 3;
        let whole = packs(&repository);
        assert!(backup["new_bytes"].as_u64().unwrap() + listed < whole, "what was stored was stored again: {backup}");
        assert_eq!(std::fs::read_dir(repository.path().join("tmp")).map_or(0, Iterator::count), 0);
        let target = TestDir::new();
        let to = target.join("data");
        repository.restore(&to, &[]);
        verify_backup(pg, &to);
        assert!(std::fs::read(to.join("noise")).unwrap() == noise);
    });
}

#[test]
fn an_interrupted_backup_leaves_backup_mode_and_no_snapshot() {
    crate::support::on(18, |pg| {
        let server = Server::build(pg).conf("archive_mode", "on").conf("archive_command", "false").start();
        server.pgbench_init(1);
        let repository = Repository::init();
        let active = |what: &str| {
            server.sql("postgres", &format!("select count(*) from pg_stat_activity where application_name like 'pgcairn%' and {what}"))
        };
        for at in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // While files are copied, in backup mode.
            let child = spawn(&repository, repository.backup_arguments(&server, &[]));
            wait_until("the start of the copy", || active("query like '%backup_start%' and state = 'idle'") == "1");
            interrupted(child, at, "while it copies");
            wait_until("the end of the session", || active("true") == "0");
            // While its WAL is waited for, which never arrives.
            let before = labels_to_archive(&server);
            let child = spawn(&repository, repository.backup_arguments(&server, &[]));
            wait_until("the end of the copy", || labels_to_archive(&server) > before && active("true") == "0");
            interrupted(child, at, "while it waits for WAL");
        }
        // While start blocks in a spread checkpoint.
        server.set("checkpoint_completion_target", "0.9");
        server.set("checkpoint_timeout", "1h");
        server.pgbench(&["-n", "-t", "500"]);
        let child = spawn(&repository, repository.backup_arguments(&server, &["--spread"]));
        wait_until("the start of the backup", || active("query like '%backup_start%' and state = 'active'") == "1");
        interrupted(child, Signal::SIGTERM, "while it starts");
        wait_until("the end of the session", || active("true") == "0");
        assert_eq!(repository.run(["list", "--json"]).ok().json()["snapshots"].as_array().unwrap().len(), 0);
    });
}

fn interrupted(child: Child, by: Signal, when: &str) {
    signal(&child, by);
    let outcome = child.wait_with_output().unwrap();
    assert_eq!(outcome.status.code(), Some(1), "{by} {when}: {}", String::from_utf8_lossy(&outcome.stderr));
}

/// How many backups have left backup mode: the history file of each one's label waits to be archived.
fn labels_to_archive(server: &Server) -> usize {
    let folder = std::fs::read_dir(server.data().join("pg_wal/archive_status")).unwrap();
    folder.flatten().filter(|e| e.file_name().to_string_lossy().contains(".backup")).count()
}

#[test]
fn what_did_not_arrive_in_time_is_committed_and_said() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive("false").start();
        server.pgbench_init(1);
        let outcome = repository.try_backup(&server, &["--wal-timeout", "1s"]).code(3);
        let backup = outcome.json();
        let segment = backup["waits_for"].as_str().unwrap().to_owned();
        assert!(outcome.stderr.contains(&segment) && outcome.stderr.contains("pgcairn check says why"), "{}", outcome.report());
        let list = || repository.run(["list", "--json"]).ok().json();
        assert_eq!(list()["snapshots"][0]["waits_for"], segment.as_str());
        let target = TestDir::new();
        repository.try_restore(&target.join("data"), &[]).1.code(1).says(&segment);
        assert!(!target.join("data").exists());
        repository.run(["show", "latest"]).ok().prints(&segment);
        // A restore that chooses nothing by the archive says it, too.
        repository.restore(&target.join("plain"), &["--no-recovery"]).1.says(&format!("waits for WAL segment {segment}"));
        // Archiving works again: restorable, without anything being rewritten.
        server.set("archive_command", &repository.archive_command());
        let last = server.switch_wal();
        server.await_archived(&last);
        assert_eq!(list()["snapshots"][0]["waits_for"], serde_json::Value::Null);
        repository.restore(&target.join("data"), &[]);
    });
}

#[test]
fn backups_pushes_and_looks_go_on_at_once() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        server.pgbench_init(2);
        let children: Vec<Child> = (0..3).map(|_| spawn(&repository, repository.backup_arguments(&server, &[]))).collect();
        for _ in 0..20 {
            server.sql("postgres", "update pgbench_branches set bbalance = bbalance");
            server.switch_wal();
            repository.run(["list"]).ok();
        }
        for child in children {
            let outcome = child.wait_with_output().unwrap();
            assert_eq!(outcome.status.code(), Some(0), "{}", String::from_utf8_lossy(&outcome.stderr));
        }
        let last = server.switch_wal();
        server.await_archived(&last);
        let list = repository.run(["list", "--json"]).ok().json();
        assert_eq!(list["snapshots"].as_array().unwrap().len(), 3);
        assert_eq!(repository.run(["archive", "status", "--json"]).ok().json()["timelines"][0]["gaps"].as_array().unwrap().len(), 0);
        for snapshot in list["snapshots"].as_array().unwrap() {
            let target = TestDir::new();
            repository.restore(&target.join("data"), &[snapshot["id"].as_str().unwrap()]);
            verify_backup(pg, &target.join("data"));
        }
    });
}

#[test]
fn another_host_enrols_itself_by_its_first_write() {
    crate::support::on(18, |pg| {
        let mut server = Server::build(pg).start();
        server.stop(Stop::Fast);
        let data = server.data().to_str().unwrap().to_owned();
        let repository = Repository::init();
        let key = repository.key_file().to_str().unwrap().to_owned();
        let entries = || std::fs::read_dir(repository.path().join("log")).unwrap().count();
        let other = Host::new();
        let run = |arguments: &[&str]| -> Outcome { repository.run_on(&other, arguments) };
        run(&["list"]).code(1).says("no key");
        let before = entries();
        run(&["--key-file", &key, "list"]).ok();
        assert_eq!(entries(), before, "a command that only reads has enrolled");
        run(&["--key-file", &key, "backup", "--offline", "--pgdata", &data]).ok();
        // Daily work needs no key file any more.
        run(&["backup", "--offline", "--pgdata", &data]).ok();
        run(&["list"]).ok();
        // The first host does not take the other's snapshot for a parent, and finds what it can open itself.
        let backup = repository.run(["backup", "--json", "--offline", "--pgdata", &data]).ok().json();
        assert_eq!(backup["parent"], serde_json::Value::Null);
        assert!(backup["changed_bytes"].as_u64().unwrap() < 1_000_000, "{backup}");
    });
}
