//! How a backup reaches its server: the environment, a URL, a password file.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Outcome, Repository, Server};

#[test]
fn a_server_is_found_by_environment_url_and_password_file() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).tcp().start();
        server.sql("postgres", "create role saver superuser login password 'open sesame'; create database saver");
        // The socket stays open to the test itself.
        let rules = "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(server.data().join("pg_hba.conf"), rules).unwrap();
        server.set("log_connections", "on");
        let port = server.port().to_string();
        let backup = |more: &[&str], environment: &[(&str, &str)]| {
            let mut all = vec!["backup", "--json", "--wal", "copy"];
            all.extend(more);
            let mut command = repository.host.command(repository.arguments(all));
            command.envs(environment.iter().copied());
            Outcome::of(command)
        };
        let count = || repository.run(["list", "--json"]).ok().json()["snapshots"].as_array().unwrap().len();
        let entries = || std::fs::read_dir(repository.path().join("log")).unwrap().count();

        // PGHOST, PGPORT and PGUSER alone: the data directory is what the server says.
        let sockets = server.sockets().to_str().unwrap();
        backup(&[], &[("PGHOST", sockets), ("PGPORT", &port), ("PGUSER", "postgres")]).ok();
        backup(&["--dsn", &format!("postgresql://postgres@/postgres?host={sockets}&port={port}")], &[]).ok();
        assert_eq!(count(), 2);

        // A password: in a file, which others can't read.
        let url = format!("postgresql://saver@127.0.0.1:{port}/");
        let file = repository.host.home().join("passwords");
        let write = |password: &str, mode: u32| {
            std::fs::write(&file, format!("# comment\n127.0.0.1:1:*:*:other\n127.0.0.1:{port}:*:saver:{password}\n")).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let environment = [("PGPASSFILE", file.to_str().unwrap())];
        write("open sesame", 0o600);
        backup(&["--dsn", &url], &environment).ok();
        let words = format!("host=127.0.0.1 port={port} user=saver passfile='{}'", file.display());
        backup(&["--dsn", &words], &[]).ok();
        backup(&["--dsn", &url], &[("PGPASSWORD", "open sesame")]).ok();
        assert_eq!(count(), 5);

        // None, a wrong one, one that everybody can read, no such database: said clearly, and nothing begun.
        let before = entries();
        backup(&["--dsn", &url], &[]).code(1).says("password");
        write("open barley", 0o600);
        let refused = backup(&["--dsn", &url], &environment).code(1).says("password authentication failed for user \"saver\"");
        assert!(!refused.stderr.contains("barley") && !refused.stdout.contains("barley"), "{}", refused.report());
        write("open sesame", 0o644);
        backup(&["--dsn", &url], &environment).code(1).says("asks for the password of \"saver\"").says("mode 0644");
        backup(&["--dsn", &format!("{url}nowhere")], &[("PGPASSWORD", "open sesame")]).code(4).says("nowhere");
        assert_eq!((entries(), count()), (before, 5));
    });
}
