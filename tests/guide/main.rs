//! The guides' commands, run as they stand there: only the places are a test's.

#[path = "../support/mod.rs"]
mod support;

use std::io::Write;
use std::process::Command;

use support::{Host, Outcome, Postgres, Repository, Server, Stop, TestDir};

const RESTORE_AT_3AM: &str = include_str!("../../docs/restore-at-3am.md");

/// The commands in a guide's blocks of this kind, in their order: `sh` is the road, `sh NAME` a way beside it.
fn commands(guide: &str, kind: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in guide.lines() {
        match line.strip_prefix("```") {
            Some(fence) => inside = !inside && fence == kind,
            None if inside => found.push(line.to_owned()),
            None => {}
        }
    }
    assert!(!found.is_empty(), "no block of kind {kind:?}");
    found
}

/// The old machine: a cluster with an archive, that is gone.
struct Gone {
    repository: Repository,
    places: Vec<(String, String)>,
    before_the_mistake: String,
    // The new machine's: its folders go last.
    machine: TestDir,
}

impl Gone {
    /// Its last commit is archived; then everything is removed, the host's state too.
    fn after_a_day(pg: &Postgres) -> Gone {
        let repository = Repository::init();
        let machine = TestDir::new();
        let sockets = machine.folder("run");
        let port = 6543; // the sockets lie in a folder of the test's own
        let mut server = Server::build(pg).host(&repository.host).archive(&on_the_path(&repository, &["archive-push", "%p"])).start();
        // The restored server reads them; this one has started without.
        let lines = format!("port = {port}\nunix_socket_directories = '{}'\nlisten_addresses = ''\n", sockets.display());
        let conf = std::fs::File::options().append(true).open(server.data().join("postgresql.conf"));
        conf.and_then(|mut f| f.write_all(lines.as_bytes())).expect("postgresql.conf");
        server.sql("postgres", "create table orders as select generate_series(1, 5000) id");
        repository.backup(&server, &[]);
        server.sql("postgres", "insert into orders select generate_series(5001, 6000)");
        let before_the_mistake = server.sql("postgres", "select clock_timestamp()");
        server.sql("postgres", "select pg_sleep(1.1)");
        server.sql("postgres", "delete from orders where id > 10");
        let last = server.switch_wal();
        server.await_archived(&last);
        server.stop(Stop::Immediate);
        std::fs::remove_dir_all(server.data()).unwrap();
        drop(server);
        let text = |path: std::path::PathBuf| path.to_str().expect("a path in UTF-8").to_owned();
        let bin = pg.program("pg_ctl").parent().unwrap().to_owned();
        let places = vec![
            // First: the others lie below it.
            ("/tmp/".to_owned(), format!("{}/", text(machine.folder("tmp")))),
            ("/usr/lib/postgresql/18/bin".to_owned(), text(bin)),
            ("/mnt/backup/pgcairn".to_owned(), text(repository.path())),
            ("/media/safe/pgcairn.key".to_owned(), text(repository.key_file())),
            ("/var/lib/postgresql/18".to_owned(), text(machine.folder("18"))),
            ("/var/run/postgresql".to_owned(), text(sockets)),
            ("psql -h".to_owned(), format!("psql -X -p {port} -h")),
            ("pg_amcheck -h".to_owned(), format!("pg_amcheck -p {port} -h")),
            ("user=postgres'".to_owned(), format!("user=postgres port={port}'")),
            ("5433".to_owned(), (port + 1).to_string()),
            ("2026-11-24 14:02:59+00".to_owned(), before_the_mistake.clone()),
        ];
        Gone { repository, places, before_the_mistake, machine }
    }

    /// Runs commands one after the other in one shell, as a person would; none may fail.
    fn run(&self, host: &Host, commands: &[String]) -> Outcome {
        let mut script = String::from("set -eux\n");
        for command in commands {
            let placed = self.places.iter().fold(command.clone(), |line, (from, to)| line.replace(from, to));
            script.push_str(&placed);
            script.push('\n');
        }
        let mut shell = Command::new("bash");
        let path = format!("{}:{}", host.program().parent().unwrap().display(), std::env::var("PATH").unwrap());
        shell.args(["-c", &script]).env_clear().envs(host.environment()).env("PATH", path).current_dir(host.home());
        Outcome::of(shell)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.machine.join(name)
    }
}

/// The archive_command as `init` prints it, with the program's full path.
fn on_the_path(repository: &Repository, arguments: &[&str]) -> String {
    repository.host.shell_line(repository.arguments(arguments))
}

/// From an empty machine to a running server that archives again.
fn restores_at_3am(pg: &Postgres) {
    let gone = Gone::after_a_day(pg);
    let host = Host::new();
    let said = gone.run(&host, &commands(RESTORE_AT_3AM, "sh")).ok();
    let data = gone.path("18").join("main");
    assert!(data.join("PG_VERSION").exists(), "{}", said.report());
    let mut moment = commands(RESTORE_AT_3AM, "sh");
    moment.truncate(4);
    moment.extend(commands(RESTORE_AT_3AM, "sh moment"));
    let counted = gone.run(&host, &moment).ok();
    assert!(counted.stdout.lines().any(|l| l == "6000"), "{}\n{}", gone.before_the_mistake, counted.report());
    for folder in ["main", "before"] {
        let mut stop = pg.command("pg_ctl");
        stop.args(["-w", "-m", "fast", "stop", "-D"]).arg(gone.path("18").join(folder));
        Outcome::of(stop).ok();
    }
    drop(gone.repository);
}

on_majors!(restores_at_3am: pg15 15, pg18 18);
