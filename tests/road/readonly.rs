//! A repository that can't be written: everything that only reads goes on, and says so.

use std::process::Command;

use crate::support::{Host, Outcome, Repository, Server, TestDir, verify_backup};

fn chmod(how: &str, repository: &Repository) {
    let mut chmod = Command::new("chmod");
    chmod.args(["-R", how]).arg(repository.path());
    Outcome::of(chmod).ok();
}

#[test]
fn what_only_reads_goes_on_with_a_read_only_repository() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        server.sql("postgres", "create table t as select generate_series(1, 1000) i");
        let id = repository.backup(&server, &[])["id"].as_str().unwrap().to_owned();
        let name = server.switch_wal();
        server.await_archived(&name);
        let entries = || std::fs::read_dir(repository.path().join("log")).unwrap().count();
        let before = entries();
        chmod("a-w", &repository);

        let target = TestDir::new();
        let dest = target.join("segment");
        let (to, there) = (target.join("own"), dest.to_str().unwrap());
        // The host that has always used it, one that has nothing but the key file.
        let stranger = Host::new();
        let key = repository.key_file().to_str().unwrap().to_owned();
        for host in [&repository.host, &stranger] {
            let look = |arguments: &[&str]| {
                let own = ["--key-file", key.as_str()];
                repository.run_on(host, own.iter().chain(arguments).copied()).ok()
            };
            assert_eq!(look(&["list", "--json"]).json()["snapshots"][0]["id"], id.as_str());
            assert_eq!(look(&["show", "latest", "--json"]).json()["id"], id.as_str());
            assert_eq!(look(&["archive", "status", "--json"]).json()["timelines"][0]["last"], name.as_str());
            look(&["archive-get", &name, there]);
            assert_eq!(std::fs::metadata(&dest).unwrap().len(), 1 << 20);
            std::fs::remove_file(&dest).unwrap();
        }
        let said = repository.run_on(&stranger, ["--key-file", &key, "list"]).ok();
        assert!(said.stderr.contains("no key of its own") && said.stderr.contains("nothing is written"), "{}", said.report());
        repository.run(["restore", "--to", to.to_str().unwrap()]).ok().says("can't be announced in the repository").says("goes on");
        verify_backup(pg, &to);
        let (_, said) = repository.restore(&target.join("foreign"), &[]);
        assert!(said.stderr.contains("nothing is written"), "{}", said.report());
        verify_backup(pg, &target.join("foreign"));

        repository.try_backup(&server, &[]).code(1).says("ermission denied");
        assert_eq!(server.sql("postgres", "select count(*) from pg_stat_activity where application_name like 'pgcairn%'"), "0");
        repository.run_on(&stranger, ["--key-file", &key, "backup", "--pgdata", "/nowhere", "--dsn", &server.dsn("postgres")]).code(1);
        server.set("archive_command", "false");
        let next = server.switch_wal();
        let path = server.data().join("pg_wal").join(&next);
        let push = || repository.run(["archive-push", path.to_str().unwrap()]);
        push().code(1).says("ermission denied");
        assert_eq!(entries(), before);

        // Nothing half-written stands in the way afterwards.
        chmod("u+w", &repository);
        push().ok();
        server.set("archive_command", &repository.archive_command());
        repository.backup(&server, &[]);
        assert_eq!(repository.run(["list", "--json"]).ok().json()["snapshots"].as_array().unwrap().len(), 2);
    });
}
