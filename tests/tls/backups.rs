//! Backups over TLS, by a role that has no more rights than the document says.

use crate::support::{Outcome, Postgres, Repository, Server, TestDir};
use crate::{Secured, on_majors};

/// The SQL of docs/connection.md for this major.
fn rights(major: u32) -> String {
    let document = include_str!("../../docs/connection.md");
    let (_, rest) = document.split_once("```sql\n").unwrap();
    let (sql, _) = rest.split_once("```").unwrap();
    let (all, versions) = sql.split_once("-- PostgreSQL 15 and later:\n").unwrap();
    let (new, old) = versions.split_once("-- PostgreSQL 13 and 14:\n").unwrap();
    assert!(all.contains("CREATE ROLE pgcairn LOGIN PASSWORD '…';"), "{all}");
    format!("set password_encryption = 'scram-sha-256'; {}{}", all.replace('…', "sesame"), if major >= 15 { new } else { old })
}

fn a_role_with_few_rights_backs_up_over_tls(pg: &Postgres) {
    let repository = Repository::init();
    let command = repository.archive_command();
    let ca = crate::Wish::ca("the authority").self_signed();
    let pair = crate::Wish::new("localhost").dns("localhost").signed_by(&ca);
    let tls = Secured::with(pg, ca, &pair.pem(), &pair.key.serialize_pem(), "hostssl all pgcairn all scram-sha-256", |setup| {
        setup.host(&repository.host).archive(&command)
    });
    let server = &tls.server;
    server.sql("postgres", "create table t as select generate_series(1, 1000) as n");
    server.sql("postgres", &rights(pg.major));
    assert_eq!(server.sql("postgres", "select rolsuper or rolreplication from pg_roles where rolname = 'pgcairn'"), "f");

    // All of it from files in the home, as a service.
    let home = repository.host.home().to_owned();
    let put = |name: &str, text: &str| {
        let path = home.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        crate::write(&path, text, 0o600);
    };
    let port = server.port();
    put(".postgresql/root.crt", &tls.ca.pem());
    put(".pgpass", &format!("localhost:{port}:*:pgcairn:sesame\n"));
    let service = format!("[db]\nhost=localhost\nport={port}\nuser=pgcairn\nsslmode=verify-full\nchannel_binding=require\n");
    put(".pg_service.conf", &service);
    let backup = |more: &[&str], environment: &[(&str, &str)]| {
        let mut all = vec!["backup", "--json"];
        all.extend(more);
        let mut command = repository.host.command(repository.arguments(all));
        command.envs(environment.iter().copied());
        Outcome::of(command)
    };
    backup(&[], &[("PGSERVICE", "db")]).ok();
    server.sql("postgres", "insert into t select generate_series(1001, 2000)");
    backup(&["--dsn", "service=db"], &[]).ok();
    let status = repository.run(["archive", "status", "--json", "--dsn", "service=db"]).ok().json();
    assert!(status.get("lag").is_none_or(|lag| !lag.is_null()), "{status}");
    restored(pg, &repository, "2000");

    // WAL that is copied needs one right more.
    backup(&["--dsn", "service=db", "--wal", "copy"], &[]).ok().says("ALTER ROLE ... REPLICATION");
    server.sql("postgres", "alter role pgcairn replication");
    backup(&["--dsn", "service=db", "--wal", "copy"], &[]).ok();

    // Without the settings the folder has to be said; without the functions there is no backup.
    server.sql("postgres", "revoke pg_read_all_settings from pgcairn");
    backup(&["--dsn", "service=db"], &[]).says("--pgdata");
    backup(&["--dsn", "service=db", "--pgdata", server.data().to_str().unwrap()], &[]).ok();
    let function = if pg.major >= 15 { "pg_backup_start(text, boolean)" } else { "pg_start_backup(text, boolean, boolean)" };
    server.sql("postgres", &format!("revoke execute on function {function} from pgcairn"));
    let name = function.split('(').next().unwrap();
    let refused = backup(&["--dsn", "service=db", "--pgdata", server.data().to_str().unwrap()], &[]).code(1);
    refused
        .says(&format!("permission denied for function {name}"))
        .says(&format!("GRANT EXECUTE ON FUNCTION {}", function.replace("pg_catalog.", "")))
        .says("docs/connection.md");

    // The system's certificates; a server that can't be believed.
    let root = home.join(".postgresql/root.crt");
    let system = ["--dsn", "service=db sslrootcert=system user=postgres"];
    std::fs::rename(&root, home.join("authority.crt")).unwrap();
    backup(&system, &[("SSL_CERT_FILE", home.join("authority.crt").to_str().unwrap())]).code(1).says("no pg_hba.conf entry");
    put("stranger.crt", &crate::Wish::ca("the authority").self_signed().pem());
    backup(&system, &[("SSL_CERT_FILE", home.join("stranger.crt").to_str().unwrap())]).code(1).says("server certificate not trusted");
    backup(&["--dsn", "service=db"], &[]).code(2).says("root.crt does not exist").says("sslrootcert=system");
}

on_majors!(a_role_with_few_rights_backs_up_over_tls: pg13 13, pg15 15, pg18 18);

fn restored(pg: &Postgres, repository: &Repository, count: &str) {
    let target = TestDir::new();
    let to = target.join("data");
    repository.restore(&to, &[]);
    let mut server = Server::build(pg).host(&repository.host).over(&to);
    server.start();
    server.await_promotion();
    assert_eq!(server.sql("postgres", "select count(*) from t"), count);
}
