//! `check`: each fault of a set-up is a line with a cure.

use crate::on_majors;
use crate::support::{Outcome, Postgres, Repository, Server, Stop};

fn check(repository: &Repository, server: &Server, more: &[&str]) -> Outcome {
    let dsn = server.dsn("postgres");
    let pgdata = server.data().to_str().unwrap();
    let arguments = ["check", "--dsn", &dsn, "--pgdata", pgdata, "--json"];
    repository.run(arguments.iter().copied().chain(more.iter().copied()))
}

/// State and text of the line of this name.
fn line(outcome: &Outcome, name: &str) -> (String, String) {
    let json = outcome.json();
    let lines = json["lines"].as_array().unwrap_or_else(|| panic!("{}", outcome.report()));
    let found = lines.iter().find(|line| line["name"] == name).unwrap_or_else(|| panic!("no line {name}\n{}", outcome.report()));
    assert_eq!(found["state"] == "ok", found["cure"].is_null(), "{found}");
    (found["state"].as_str().unwrap().to_owned(), found["text"].as_str().unwrap().to_owned())
}

fn says(outcome: &Outcome, name: &str, state: &str, text: &str) {
    let (found, said) = line(outcome, name);
    assert!(found == state && said.contains(text), "{name}: {found}: {said}\n{}", outcome.report());
}

/// A repository, and the archive_command that `init` printed: it works with an empty environment.
fn repository() -> (Repository, String) {
    let (repository, said) = Repository::made();
    let line = said["postgresql_conf"][2].as_str().unwrap().to_owned();
    let quoted = line.strip_prefix("archive_command = '").and_then(|line| line.strip_suffix('\'')).unwrap();
    (repository, quoted.replace("''", "'"))
}

fn a_sound_set_up(pg: &Postgres) {
    let (repository, command) = repository();
    let setup = Server::build(pg).host(&repository.host).archive(&command);
    let server = setup.conf("archive_timeout", "60s").conf("fsync", "on").start();
    let outcome = check(&repository, &server, &[]);
    for name in
        ["repository", "writable", "keys", "state", "server", "wal_level", "archive_mode", "archiver", "archive_command", "rights", "clock"]
    {
        assert_eq!(line(&outcome, name).0, "ok", "{name}\n{}", outcome.report());
    }
    says(&outcome, "switch", "ok", "was archived");
    // Room on this machine's disks is its own.
    let wrong: Vec<String> =
        outcome.json()["lines"].as_array().unwrap().iter().filter(|l| l["state"] != "ok").map(|l| l["name"].to_string()).collect();
    assert!(wrong.iter().all(|name| name.contains("room")), "{}", outcome.report());
    assert_eq!(outcome.json()["ok"], wrong.is_empty());
    // Twice, on a server that has nothing to write.
    says(&check(&repository, &server, &[]), "switch", "ok", "was archived");
    let text = repository.run(["check", "--dsn", &server.dsn("postgres"), "--no-switch", "--pgdata", server.data().to_str().unwrap()]);
    text.says("").prints("archive_command runs with an empty environment");
}

on_majors!(a_sound_set_up: pg13 13, pg15 15, pg17 17, pg18 18);

fn each_fault_is_found(pg: &Postgres) {
    let (repository, command) = repository();
    let (_other, elsewhere) = crate::check::repository();
    let mut server = Server::build(pg).host(&repository.host).checksums(false).start();
    let outcome = check(&repository, &server, &[]).code(1);
    says(&outcome, "archive_mode", "error", "archive_mode is off");
    says(&outcome, "data_checksums", "warning", "no checksums");

    for (command, more, text) in [
        // It needs the environment of whoever wrote it.
        (&format!("env -u HOME true; {}", repository.archive_command()), &["--no-switch"][..], "is no pgcairn or can't work"),
        (&"/bin/true".to_owned(), &["--no-switch"], "is no pgcairn"),
        (&"/nowhere/pgcairn archive-push %p".to_owned(), &["--no-switch"], "exit code 127"),
        (&command.replace("--cluster main ", "--cluster other "), &["--no-switch"], "as cluster other"),
        (&elsewhere, &["--no-switch"], "another repository"),
    ] {
        server.set("archive_mode", "on");
        server.set("archive_command", command);
        server.restart();
        let outcome = check(&repository, &server, more).code(1);
        says(&outcome, "archive_command", "error", text);
        says(&outcome, "archive_timeout", "warning", "archive_timeout is 0");
    }
    // A command that says that it archives, and doesn't; one that fails.
    server.set("archive_command", "true");
    server.restart();
    let outcome = check(&repository, &server, &["--timeout", "1s"]).code(1);
    says(&outcome, "switch", "error", "didn't arrive within 1 s");
    server.set("archive_command", "false");
    server.restart();
    let outcome = check(&repository, &server, &[]).code(1);
    says(&outcome, "switch", "error", "archive_command failed");
    let outcome = check(&repository, &server, &["--no-switch"]).code(1);
    says(&outcome, "archiver", "error", "nothing was archived since");

    // A role that may do nothing.
    server.sql("postgres", "create role weak login");
    let dsn = format!("{} user=weak", server.dsn("postgres"));
    let pgdata = server.data().to_str().unwrap().to_owned();
    let outcome = repository.run(["check", "--dsn", &dsn, "--pgdata", &pgdata, "--json"]).code(1);
    says(&outcome, "rights", "error", "may not take a backup");
    says(&outcome, "waiting", "warning", "is not known");

    // Another server's data directory; no server; no repository.
    let other = Server::build(pg).start();
    let outcome = repository
        .run(["check", "--dsn", &server.dsn("postgres"), "--pgdata", other.data().to_str().unwrap(), "--no-switch", "--json"])
        .code(1);
    says(&outcome, "server", "error", "system identifier");
    server.stop(Stop::Fast);
    says(&check(&repository, &server, &[]).code(1), "server", "error", "");
    std::fs::rename(repository.path(), repository.path().with_extension("away")).unwrap();
    let outcome = check(&repository, &server, &[]).code(1);
    says(&outcome, "repository", "error", "");
}

on_majors!(each_fault_is_found: pg15 15, pg18 18);
