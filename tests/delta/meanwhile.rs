//! Something that starts the server again and again (systemd, a cluster manager) doesn't know of a restore in place.

use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Postgres, Repository, amcheck, wait_until};
use crate::{archived, backed_up, cut_off, delta, mark, marks, recover};

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// The objects of the archive.
fn objects(folder: &Path) -> usize {
    let entries = || folder.read_dir().into_iter().flatten().flatten();
    entries().map(|entry| if entry.path().is_dir() { objects(&entry.path()) } else { 1 }).sum()
}

/// A restore in place that stands still (SIGSTOP) while it pushes.
fn pushing(repository: &Repository, data: &Path) -> Child {
    let before = objects(&repository.path().join("wal"));
    let mut command = repository.host.command(repository.arguments(["restore", "--delta", "--to", data.to_str().unwrap()]));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while objects(&repository.path().join("wal")) == before && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    signal(&child, Signal::SIGSTOP);
    let state = format!("/proc/{}/stat", child.id());
    wait_until("the restore to stand still", || std::fs::read_to_string(&state).is_ok_and(|s| s.contains(") T ") || s.contains(") Z ")));
    assert!(!data.join("pgcairn.restore").exists(), "it was too fast to be held");
    child
}

/// The server crashes, a restore looks at it and pushes its WAL; it is started again, commits, begins new segments and
/// dies once more, all before the restore takes the folder over.
fn a_server_that_was_started_meanwhile_loses_nothing(pg: &Postgres) {
    let (repository, mut server) = backed_up(pg, 1);
    mark(&server, 1);
    archived(&server);
    cut_off(&server);
    cut_off_more(&server);
    mark(&server, 2);
    let data = server.data().to_owned();
    server.crash();
    let child = pushing(&repository, &data);
    server.start();
    mark(&server, 3);
    server.switch_wal();
    mark(&server, 4);
    server.crash();
    signal(&child, Signal::SIGCONT);
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("a server ran on") && said.contains("run this again"), "{said}");
    // As it was: the server can be started, and is by whatever does that.
    assert!(!data.join("pgcairn.restore").exists() && data.join("global/pg_control").exists());
    server.start();
    assert_eq!(marks(&server), "1,2,3,4");
    mark(&server, 5);
    let sums = server.pgbench_sums();
    server.crash();
    delta(&repository, &data, &[]).ok();
    recover(&mut server);
    assert_eq!((marks(&server), server.pgbench_sums()), ("1,2,3,4,5".into(), sums));
    amcheck(&server);
}

/// So much WAL that pushing it takes a while.
fn cut_off_more(server: &crate::support::Server) {
    for i in 0..6 {
        server.switch_wal();
        server.sql("postgres", &format!("create table more{i} as select i, md5(i::text) from generate_series(1, 20000) i"));
    }
}

crate::on_majors!(a_server_that_was_started_meanwhile_loses_nothing: pg15 15, pg18 18);
