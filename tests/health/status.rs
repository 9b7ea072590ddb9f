//! `status`: all clusters at a glance, and an exit code that a timer understands.

use crate::on_majors;
use crate::support::{Outcome, Postgres, Repository, Server};

fn states(outcome: &Outcome) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    outcome.json()["lines"].as_array().unwrap().iter().map(|line| (text(&line["name"]), text(&line["state"]))).collect()
}

fn state(outcome: &Outcome, name: &str) -> String {
    states(outcome).into_iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}\n{}", outcome.report())).1
}

fn a_cluster_over_time(pg: &Postgres) {
    let repository = Repository::init();
    let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
    let dsn = server.dsn("postgres");
    let status = |more: &[&str]| repository.run(["status", "--dsn", &dsn].iter().copied().chain(more.iter().copied()));
    let outcome = status(&["--json"]).code(3);
    assert_eq!((state(&outcome, "backup"), outcome.json()["ok"].as_bool()), ("error".into(), Some(false)));
    status(&["--nagios"]).code(2).prints("PGCAIRN CRITICAL - main: there is no snapshot");

    repository.backup(&server, &[]);
    let outcome = status(&["--json"]).ok();
    assert_eq!((state(&outcome, "backup"), state(&outcome, "proof")), ("ok".into(), "ok".into()));
    assert_eq!([state(&outcome, "archive"), state(&outcome, "lag"), state(&outcome, "window")], ["ok", "ok", "ok"]);
    let json = outcome.json();
    let cluster = &json["clusters"][0];
    assert_eq!((cluster["cluster"].as_str(), cluster["snapshots"].as_u64()), (Some("main"), Some(1)));
    assert!(cluster["archive"]["lag_bytes"].is_u64() && cluster["last_good"]["age_seconds"].is_i64(), "{json}");

    // Older than it may be.
    let outcome = status(&["--json", "--max-age", "0s"]).code(3);
    assert_ne!(state(&outcome, "backup"), "ok");

    // A gap.
    let first = server.switch_wal();
    server.await_archived(&first);
    server.sql("postgres", "create table t(i int)");
    let second = server.switch_wal();
    server.await_archived(&second);
    let object = walk(&repository.path().join("wal")).into_iter().find(|path| path.ends_with(&first)).expect("its object");
    std::fs::remove_file(object).unwrap();
    let outcome = status(&["--json"]).code(3);
    assert_eq!((state(&outcome, "archive"), states(&outcome)[0].0.as_str()), ("error".into(), "archive"));
    status(&["--nagios"]).code(2).prints("main: 1 gap in the archive").prints("'main_gaps'=1");
    status(&[]).code(3).prints("ERROR    main: archive");
    repository.run(["verify"]).ok().prints(&format!("{first} is missing")).prints("all else is there");

    // It is known: no alarm, and not forgotten either.
    repository.run(["archive", "acknowledge", "--timeline", "1", "--from", &first, "--to", &first, "--reason", "lost"]).ok();
    let outcome = status(&["--json"]).ok();
    let archive = &outcome.json()["clusters"][0]["archive"];
    assert_eq!((archive["gaps"].as_u64(), archive["known_gaps"].as_u64()), (Some(0), Some(1)), "{archive}");
    status(&[]).ok().prints("the archive has 1 gap, which is acknowledged");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

on_majors!(a_cluster_over_time: pg15 15, pg18 18);

#[test]
fn what_cannot_be_asked_is_unknown() {
    let host = crate::support::Host::new();
    host.pgcairn(["--repo", "/nowhere/at/all", "status", "--nagios"]).code(3).prints("PGCAIRN UNKNOWN");
    host.pgcairn(["--repo", "/nowhere/at/all", "status"]).code(4);
}
