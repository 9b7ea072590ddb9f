//! A host that is writer only backs up a server that runs.

use std::path::Path;

use crate::on_majors;
use crate::support::{Host, Outcome, Postgres, Repository, Server, TestDir, amcheck, bytes_below, verify_backup, wait_until};

struct Story {
    repository: Repository,
    host: Host,
    server: Server,
    /// Snapshots, and the sums that they hold.
    taken: Vec<(String, String)>,
}

impl Story {
    /// A server whose host is writer only; the owner's host is another one.
    fn begin(pg: &Postgres) -> Story {
        let (repository, host) = (Repository::init(), Host::new());
        let folder = TestDir::new();
        let grant = folder.join("grant");
        let grant = grant.to_str().unwrap();
        let mut command = repository.host.command(repository.arguments(["key", "add-host", "--role", "writer", "--name", "db1", grant]));
        command.env("PGCAIRN_KEY_FILE", repository.key_file());
        Outcome::of(command).ok();
        repository.run_on(&host, ["key", "accept", grant]).ok();
        let archive = host.shell_line(repository.arguments(["archive-push", "%p"]));
        let server = Server::build(pg).host(&host).archive(&archive).conf("autovacuum", "off").start();
        Story { repository, host, server, taken: Vec::new() }
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Outcome {
        self.repository.run_on(&self.host, arguments)
    }

    #[track_caller]
    fn backup(&mut self, more: &[&str]) -> serde_json::Value {
        let made = self.repository.run_on(&self.host, self.repository.backup_arguments(&self.server, more)).ok().json();
        assert_eq!(made["notes"], serde_json::json!([]), "{made}");
        self.taken.push((made["id"].as_str().unwrap().to_owned(), self.server.pgbench_sums()));
        made
    }

    /// Restored by a host that has nothing but the key file; its server, started.
    #[track_caller]
    fn restored(&self, pg: &Postgres, folder: &Path, snapshot: &str, more: &[&str]) -> Server {
        let to = folder.join(snapshot);
        let (_, _) = self.repository.restore(&to, &[&[snapshot], more].concat());
        verify_backup(pg, &to);
        let mut server = Server::build(pg).over(&to);
        server.start();
        wait_until("the end of recovery", || server.sql("postgres", "select pg_is_in_recovery()") == "f");
        server
    }
}

fn chain(pg: &Postgres) {
    let mut story = Story::begin(pg);
    story.server.pgbench_init(3);
    story
        .server
        .sql("postgres", "create table j as select g id, jsonb_build_object('n', g, 'v', md5(g::text)) d from generate_series(1, 20000) g");
    story.server.sql("postgres", "vacuum freeze; checkpoint");
    let first = story.backup(&[]);
    for (round, more) in [&[][..], &["--wal", "copy"], &[], &["--verify-unchanged"]].into_iter().enumerate() {
        story.server.pgbench(&["-n", "-c", "1", "-t", "100", &format!("--random-seed={round}")]);
        match round {
            1 => drop(story.server.sql("postgres", "update j set d = d || '{\"x\": 1}' where id % 50 = 0; vacuum j")),
            2 => drop(story.server.sql("postgres", "create index on j (id); drop table pgbench_history; create table pgbench_history as select 1 tid, 1 bid, 1 aid, 0 delta, now() mtime, '' filler where false")),
            3 => drop(story.server.sql("postgres", "truncate pgbench_history; delete from j where id > 15000; vacuum j")),
            _ => {}
        }
        let stored = bytes_below(&story.repository.path().join("pack"));
        let made = story.backup(more);
        assert_eq!(made["new_bytes"].as_u64().unwrap(), bytes_below(&story.repository.path().join("pack")) - stored);
        if round == 0 {
            assert!(made["new_bytes"].as_u64().unwrap() * 4 < first["new_bytes"].as_u64().unwrap(), "{made} after {first}");
            assert!(made["read_bytes"].as_u64().unwrap() < made["cluster_bytes"].as_u64().unwrap(), "{made}");
        }
    }
    let segment = story.server.switch_wal();
    story.server.await_archived(&segment);
    // What a host sees that can't read.
    let listed = story.run(&["list", "--json"]).ok().json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), story.taken.len());
    story.run(&["show", "latest"]).ok().prints("can't be read by this host");
    let status = story.run(&["archive", "status", "--json"]).ok().json();
    assert!(!status.to_string().contains("\"gaps\":[{"), "{status}");
    let dsn = story.server.dsn("postgres");
    let checked = story.run(&["check", "--json", "--dsn", &dsn, "--pgdata", story.server.data().to_str().unwrap()]).json();
    let keys = checked["lines"].as_array().unwrap().iter().find(|line| line["name"] == "keys").unwrap().clone();
    assert!(keys["state"] == "ok" && keys["text"].as_str().unwrap().contains("opens no content"), "{keys}");
    // And one that can gets everything back.
    let folder = TestDir::new();
    for (snapshot, sums) in &story.taken {
        let server = story.restored(pg, folder.path(), snapshot, &["--target-immediate", "--target-action", "promote"]);
        amcheck(&server);
        assert_eq!(server.pgbench_sums(), *sums, "{snapshot}");
    }
    let latest = folder.folder("newest");
    let server = story.restored(pg, &latest, "latest", &[]);
    amcheck(&server);
    assert_eq!(server.pgbench_sums(), story.server.pgbench_sums());
    story.repository.run(["verify", "--read-data"]).ok();
}

on_majors!(chain: pg15 15, pg18 18);

/// The same cluster by a host that reads and by one that doesn't: the same bytes come back.
fn beside_a_reader(pg: &Postgres) {
    let mut story = Story::begin(pg);
    story.server.pgbench_init(1);
    story.backup(&[]);
    story.server.pgbench(&["-n", "-c", "1", "-t", "200", "--random-seed=3"]);
    story.server.stop(crate::support::Stop::Fast);
    let data = story.server.data().to_str().unwrap().to_owned();
    let offline = ["backup", "--json", "--offline", "--pgdata", &data];
    let by = |host: &Host| story.repository.run_on(host, offline).ok().json()["id"].as_str().unwrap().to_owned();
    let (blind, seeing) = (by(&story.host), by(&story.repository.host));
    let folder = TestDir::new();
    let trees: Vec<_> = [&blind, &seeing]
        .map(|snapshot| {
            let to = folder.join(snapshot);
            story.repository.restore(&to, &[snapshot, "--no-recovery"]);
            verify_backup(pg, &to);
            crate::world::tree(&to)
        })
        .into();
    assert!(trees[0] == trees[1] && trees[0].len() > 900, "{} and {} files", trees[0].len(), trees[1].len());
    let cluster = crate::world::tree(story.server.data());
    let differs =
        |name: &std::path::PathBuf| !name.starts_with("pg_wal") && trees[0].get(name).is_some_and(|restored| *restored != cluster[name]);
    assert_eq!(cluster.keys().filter(|name| differs(name)).collect::<Vec<_>>(), Vec::<&std::path::PathBuf>::new());
}

on_majors!(beside_a_reader: pg15 15, pg18 18);
