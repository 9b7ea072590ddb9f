//! Where a restore writes, and when it writes nothing.

use std::path::Path;
use std::process::{Child, Stdio};

use crate::support::{Outcome, Repository, Server, Stop, TestDir, verify_backup};

/// All paths below a folder.
fn paths_below(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        all.push(entry.path().display().to_string());
        if entry.metadata().unwrap().is_dir() {
            all.extend(paths_below(&entry.path()));
        }
    }
    all.sort();
    all
}

#[test]
fn a_restore_goes_where_it_is_told_or_nowhere() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let mut server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        let spaces = server.folder("spaces");
        let create = |name: &str| {
            std::fs::create_dir(spaces.join(name)).unwrap();
            server.sql("postgres", &format!("create tablespace {name} location '{}'", spaces.join(name).display()));
            server.sql("postgres", &format!("create table in_{name} tablespace {name} as select generate_series(1, 500) i"));
            server.sql("postgres", &format!("select oid from pg_tablespace where spcname = '{name}'"))
        };
        let (fast, slow) = (create("fast"), create("slow"));
        let backup = repository.backup(&server, &[]);
        let last = server.switch_wal();
        server.await_archived(&last);
        let target = TestDir::new();
        let to = target.join("data");
        let (fast_to, slow_to) = (target.join("new/fast"), target.join("new/slow"));
        let (by_name, by_oid) = (format!("fast={}", fast_to.display()), format!("{slow}={}", slow_to.display()));
        let moved = ["--tablespace", by_name.as_str(), "--tablespace", by_oid.as_str()];
        let restore = |more: &[&str]| {
            let mut all = vec!["restore", "--to", to.to_str().unwrap()];
            all.extend(more);
            repository.run(all)
        };
        let untouched = || assert_eq!(paths_below(target.path()), Vec::<String>::new());

        // The original places are the running server's.
        restore(&[]).code(1).says("tablespace fast").says("original place").says("--tablespace fast=DIR");
        untouched();
        restore(&moved[..2]).code(1).says("tablespace slow").says("original place");
        restore(&["--tablespace", "swift=/x"]).code(2).says("no tablespace swift").says("fast, slow");
        let inside = format!("fast={}", to.join("base").display());
        restore(&[&moved[2..], &["--tablespace", &inside]].concat()).code(1).says("within each other");
        untouched();

        // What would be done, and nothing done.
        let planned = restore(&[&moved[..], &["--dry-run"]].concat()).ok();
        let (data, place) = (to.display().to_string(), fast_to.display().to_string());
        planned.prints(&data).prints(&format!("fast -> {place}")).prints("restore_command").prints(backup["id"].as_str().unwrap());
        let planned = restore(&[&moved[..], &["--dry-run", "--json"]].concat()).ok().json();
        assert_eq!((&planned["dry_run"], &planned["snapshot"], &planned["to"]), (&true.into(), &backup["id"], &data.into()));
        untouched();

        // How old the repository may be: what was the newest entry then, and now; another hash; an entry that isn't there.
        let (number, hash) = (backup["log"]["number"].as_u64().unwrap(), backup["log"]["hash"].as_str().unwrap());
        let expect = |head: &str| restore(&[&moved[..], &["--dry-run", "--expect", head]].concat());
        let newest = repository.backup(&server, &[]);
        assert!(newest["log"]["number"].as_u64().unwrap() > number);
        expect(&format!("{number}:{hash}")).ok();
        expect(&format!("{}:{}", newest["log"]["number"], newest["log"]["hash"].as_str().unwrap())).ok();
        let wrong = format!("{}{}", if hash.starts_with('0') { "1" } else { "0" }, &hash[1..]);
        expect(&format!("{number}:{wrong}")).code(1);
        expect(&format!("{}:{hash}", number + 100)).code(1).says("older");
        expect("nonsense").code(2);
        untouched();

        // A second writer to the same place.
        let lock_path = target.join("data.pgcairn-lock");
        let lock = std::fs::File::create(&lock_path).unwrap();
        lock.lock().unwrap();
        restore(&moved).code(1).says("data.pgcairn-lock is held by another process");
        drop(lock);
        std::fs::remove_file(&lock_path).unwrap();
        assert!(!to.exists() && !fast_to.exists());

        let done = restore(&[&moved[..], &["--recovery-option", "work_mem=5MB", "--json"]].concat()).ok().json();
        assert_eq!(done["archive_mode"], "off");
        verify_backup(pg, &to);
        assert!(!lock_path.exists());
        restore(&moved).code(1).says("not empty");
        server.stop(Stop::Fast);
        let mut restored = Server::build(pg).host(&repository.host).over(&to);
        restored.start();
        restored.await_promotion();
        let place = |oid: &str| restored.sql("postgres", &format!("select pg_tablespace_location({oid})"));
        assert_eq!((place(&fast), place(&slow)), (fast_to.display().to_string(), slow_to.display().to_string()));
        assert_eq!(restored.sql("postgres", "select count(*) from in_fast join in_slow using (i)"), "500");
        assert_eq!(restored.sql("postgres", "show work_mem"), "5MB");
        assert_eq!(restored.sql("postgres", "show archive_mode"), "off");
    });
}

/// It has written its first files.
fn restore_that_has_begun(repository: &Repository, to: &Path) -> Child {
    let arguments = repository.arguments(["--jobs", "1", "restore", "--to", to.to_str().unwrap()]);
    let mut command = repository.host.command(&arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !to.join("base/1").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the restore ended before it began");
        std::thread::yield_now();
    }
    child
}

#[test]
fn a_restore_that_is_interrupted_says_how_to_go_on() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).start();
        server.pgbench_init(2);
        repository.backup(&server, &["--wal", "copy"]);
        let target = TestDir::new();
        let to = target.join("data");
        let child = restore_that_has_begun(&repository, &to);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), nix::sys::signal::Signal::SIGINT).unwrap();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("interrupted") && said.contains("the same command with --delta goes on"), "{said}");
        repository.run(["restore", "--delta", "--to", to.to_str().unwrap()]).ok();
        verify_backup(pg, &to);
    });
}

#[test]
fn a_restore_that_was_killed_does_not_start() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).start();
        server.pgbench_init(2);
        repository.backup(&server, &["--wal", "copy"]);
        let target = TestDir::new();
        let to = target.join("data");
        let mut child = restore_that_has_begun(&repository, &to);
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "the restore was faster than its killer");
        assert!(!to.join("global/pg_control").exists());
        let mut broken = Server::build(pg).over(&to);
        assert!(broken.try_start().is_err(), "a server started on half a data directory");

        // It is neither taken for empty nor gone on with; its lock holds nobody up.
        repository.run(["restore", "--to", to.to_str().unwrap()]).code(1).says("not empty");
        std::fs::remove_dir_all(&to).unwrap();
        repository.run(["restore", "--to", to.to_str().unwrap()]).ok().says("left behind by a restore that was killed");
        verify_backup(pg, &to);
        assert!(!target.join("data.pgcairn-lock").exists());
    });
}

#[test]
fn a_restore_command_is_tried_before_success_is_said() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        repository.backup(&server, &[]);
        let last = server.switch_wal();
        server.await_archived(&last);
        let target = TestDir::new();
        let with = |name: &str, command: &str| -> Outcome {
            let to = target.join(name);
            let outcome = repository.run(["restore", "--json", "--to", to.to_str().unwrap(), "--restore-command", command]);
            assert!(to.join("global/pg_control").exists() && to.join("PG_VERSION").exists(), "the files are not there");
            let conf = std::fs::read_to_string(to.join("postgresql.auto.conf")).unwrap();
            assert!(conf.contains(&format!("restore_command = '{command}'")), "{conf}");
            outcome
        };
        let failed = with("breaks", "echo no such bucket >&2; exit 200").code(1);
        assert_eq!(failed.json()["error"]["class"], "refused");
        failed.says("all files are restored").says("restore_command does not work").says("exit 200").says("no such bucket");
        // It says that the segment is not there, which the snapshot can't do without.
        with("finds nothing", "exit 1").code(1).says("all files are restored").says("were not in the archive, which it is)");
        with("lies", "true").code(1).says("brought nothing");
        // What helps is room, no key.
        let full = with("full", "echo cannot write: No space left on device >&2; exit 193").code(1);
        assert!(!full.stderr.contains("key file"), "{}", full.report());
        full.says("make room there").says("Nothing has to be restored again");
    });
}
