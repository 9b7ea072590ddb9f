//! The archive as a server with defaults sees it: segments of 16 MiB, the lines that `init` prints, nothing in its
//! environment, and how far it is behind.

use super::{Marks, count};
use crate::support::{self, Outcome, Repository, Server, TestDir, wait_until};

#[test]
fn segments_of_16_mib_by_the_lines_of_init() {
    support::on(15, |pg| {
        let (repository, made) = Repository::made();
        // As the server reads it: '' is a quote, \\ a backslash.
        let line = made["postgresql_conf"][2].as_str().unwrap();
        let value = line.strip_prefix("archive_command = '").unwrap().strip_suffix('\'').unwrap();
        let command = value.replace("''", "'").replace(r"\\", r"\");
        let server = Server::build(pg).segment_mb(16).archive(&command).start();
        let marks = Marks::create(&server);
        server.pgbench_init(1);
        repository.backup(&server, &[]);
        let one = marks.mark(1);
        marks.archived();
        let status = |dsn: &str| repository.run(["archive", "status", "--json", "--dsn", dsn]).ok();
        let lag = status(&server.dsn("postgres")).json()["lag"].clone();
        assert_eq!(lag["segments"], 0, "{lag}");

        // Nobody takes them any more.
        server.set("archive_command", "false");
        let name = server.switch_wal();
        marks.mark(2);
        server.switch_wal();
        let lag = status(&server.dsn("postgres")).json()["lag"].clone();
        assert_eq!(lag["segments"], 2, "{lag}");
        assert!(lag["bytes"].as_u64().is_some_and(|bytes| (32 << 20..48 << 20).contains(&bytes)), "{lag}");
        let text = repository.run(["archive", "status", "--dsn", &server.dsn("postgres")]).ok();
        text.prints("behind the server: 2 whole segments");
        let unknown = status("host=/nowhere user=nobody");
        assert!(unknown.json().get("lag").is_none() && unknown.stderr.contains("is not known"), "{}", unknown.report());

        // By hand, from the data directory, without any environment: first what is missing, then the same again.
        let push = || {
            let mut env = std::process::Command::new("/usr/bin/env");
            env.args(["-i", "/bin/sh", "-c", &command.replace("%p", &format!("pg_wal/{name}")).replace("%%", "%")]);
            env.env("PGCAIRN_REPO", "/nowhere").current_dir(server.data());
            Outcome::of(env)
        };
        push().ok();
        push().ok();
        assert_eq!(status(&server.dsn("postgres")).json()["lag"]["segments"], 1);
        let target = TestDir::new();
        let dest = target.join("segment");
        repository.run(["archive-get", &name, dest.to_str().unwrap()]).ok();
        assert!(std::fs::read(&dest).unwrap() == std::fs::read(server.data().join("pg_wal").join(&name)).unwrap());
        server.set("archive_command", &command);
        wait_until("the archive to catch up", || status(&server.dsn("postgres")).json()["lag"]["segments"] == 0);

        let restored = super::recovered(pg, &repository, &target, "one", &["--target-lsn", &one.lsn]);
        assert_eq!((count(&restored), restored.pgbench_sums()), ("1".to_owned(), one.sums.clone()));
        assert_eq!(restored.sql("postgres", "show wal_segment_size"), "16MB");
        drop(restored);
        assert_eq!(count(&super::recovered(pg, &repository, &target, "latest", &[])), "2");
    });
}
