//! Databases and relations, recorded by a backup of a running server.

use crate::support::{Postgres, Repository, Server, bytes_below};

crate::on_majors!(databases_are_recorded_and_cost_nothing_when_nothing_changes: pg15 15, pg18 18);

fn databases_are_recorded_and_cost_nothing_when_nothing_changes(pg: &Postgres) {
    let repository = Repository::init();
    let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).conf("autovacuum", "off").start();
    server.sql("postgres", "create database latin encoding 'LATIN1' template template0");
    server.sql("postgres", "create database bytes encoding 'SQL_ASCII' template template0");
    server.sql("latin", "create table \"größe\" as select 1 i");
    server.sql("bytes", "set client_encoding = sql_ascii; do $$ begin execute format('create table %I (i int)', 'x' || chr(255)); end $$");
    server.sql("postgres", "create table t (i int primary key, long text); create materialized view v as select 1 i");
    server.sql(
        "postgres",
        "do $$ begin for n in 1..300 loop execute format('create table many_%s (i int primary key)', n); end loop; end $$",
    );
    server.sql("postgres", "vacuum freeze; checkpoint");
    let first = repository.backup(&server, &[]);
    let show = repository.run(["show", first["id"].as_str().unwrap(), "--json"]).ok().json();
    let database = |name: &str| show["databases"].as_array().unwrap().iter().find(|d| d["name"] == name).unwrap().clone();
    for name in ["postgres", "latin", "bytes", "template1"] {
        assert_eq!(database(name)["unknown"], serde_json::Value::Null, "{show}");
        assert_eq!(database(name)["extensions"][0]["name"], "plpgsql", "{show}");
    }
    assert_eq!(database("template0")["unknown"], "no-connections");
    repository.run(["show", first["id"].as_str().unwrap()]).ok().prints("template0 (it takes no connections)").prints("plpgsql 1.0");

    repository.backup(&server, &[]);
    let before = bytes_below(&repository.path().join("pack"));
    repository.backup(&server, &[]);
    let stored = bytes_below(&repository.path().join("pack")) - before;
    assert!(stored < 10_000, "{stored} bytes for nothing");
}

#[test]
fn a_database_that_does_not_answer_holds_nothing_up() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        server.sql("postgres", "create database locked");
        // Nobody can so much as connect while this is held.
        let mut holder = server.client("psql", "locked");
        holder.args(["-c", "begin; lock table pg_class in access exclusive mode; select pg_sleep(3600)"]);
        let mut holder = holder.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let held = "select count(*) from pg_locks where mode = 'AccessExclusiveLock' and relation = 1259";
        crate::support::wait_until("the lock", || server.sql("postgres", held) == "1");
        let backup = repository.backup(&server, &[]);
        let show = repository.run(["show", backup["id"].as_str().unwrap(), "--json"]).ok().json();
        let unknown = |name: &str| show["databases"].as_array().unwrap().iter().find(|d| d["name"] == name).unwrap()["unknown"].clone();
        assert_eq!((unknown("locked"), unknown("postgres")), ("time-out".into(), serde_json::Value::Null), "{show}");
        let _ = holder.kill();
        let _ = holder.wait();
    });
}
