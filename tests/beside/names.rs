//! Databases and relations, recorded by a backup of a running server.

use std::ffi::OsStr;

use pgcairn::host::access::{self, Need, Place};
use pgcairn::host::config::{RepositorySettings, RepositoryUrl, SecretSource};
use pgcairn::pg::relations::RelationNames;
use pgcairn::repo::structure::Snapshot;
use pgcairn::units::Quiet;

use crate::support::{Postgres, Repository, Server, bytes_below};

crate::on_majors!(databases_are_recorded_and_cost_nothing_when_nothing_changes: pg15 15, pg18 18);

fn databases_are_recorded_and_cost_nothing_when_nothing_changes(pg: &Postgres) {
    let repository = Repository::init();
    let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).conf("autovacuum", "off").start();
    server.sql("postgres", "create database latin encoding 'LATIN1' template template0");
    server.sql("postgres", "create database bytes encoding 'SQL_ASCII' template template0");
    server.sql("latin", "set client_encoding = 'UTF8'; create table \"größe\" as select 1 i");
    server.sql("bytes", "set client_encoding = sql_ascii; do $$ begin execute format('create table %I (i int)', 'x' || chr(255)); end $$");
    server.sql("postgres", "create table t (i int primary key, long text); create materialized view v as select 1 i");
    server.sql(
        "postgres",
        "do $$ begin for n in 1..300 loop execute format('create table many_%s (i int primary key)', n); end loop; end $$",
    );
    let space = server.folder("space");
    server.sql("postgres", &format!("create tablespace far location '{}'", space.display()));
    server.sql("postgres", "create table elsewhere (i int primary key) tablespace far; create database moved tablespace far");
    server.sql("moved", "create table of_the_database (i int); vacuum full pg_class");
    server.sql("postgres", "vacuum freeze; checkpoint");
    let first = repository.backup(&server, &[]);
    let names = names_of(&repository);
    let mut compared = 0;
    for database in ["postgres", "latin", "template1", "moved"] {
        compared += compare(&server, database, &names);
    }
    assert!(compared > 1500, "{compared}");
    let toast = server.sql("postgres", "select pg_relation_filepath(reltoastrelid) from pg_class where relname = 't'");
    assert_eq!(names.lookup(toast.as_bytes()).unwrap().to_string(), "postgres.public.t (toast)");
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

/// The names that the newest snapshot has, by the library.
fn names_of(repository: &Repository) -> RelationNames {
    let url = RepositoryUrl::parse(OsStr::new(&repository.path()), None).unwrap();
    let settings = RepositorySettings::at(url, Some(SecretSource::KeyFile(repository.key_file())));
    let opened = access::open(
        &Place { watch: &pgcairn::store::s3::Watch::default(), repository: &settings, state: None, cache: None, progress: &Quiet },
        Need::Read,
    )
    .unwrap();
    let view = opened.view();
    let (_, commit) = view.fold.commits.last_key_value().unwrap();
    let (root, place) = (commit.root, commit.root.place);
    let place = pgcairn::repo::pack::Place { pack: place.pack, blob: place.blob, position: place.position.try_into().unwrap() };
    let packs = opened.packs_of(&view.fold, commit).unwrap();
    let snapshot = Snapshot::open(&packs, opened.reader().unwrap(), root.chunk.short(), place, root.digest).unwrap();
    pgcairn::look::relation_names(&snapshot).unwrap()
}

/// Every relation of a database that has a file is found by that file's path; how many there are.
fn compare(server: &Server, database: &str, names: &RelationNames) -> usize {
    let query = "set client_encoding = 'UTF8'; select pg_relation_filepath(c.oid), n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = relnamespace \
                 where pg_relation_filepath(c.oid) is not null and relpersistence <> 't'";
    let all = server.sql(database, query);
    for line in all.lines() {
        let [path, schema, name] = line.split('|').collect::<Vec<_>>().try_into().unwrap();
        let found = names.lookup(path.as_bytes()).unwrap_or_else(|| panic!("{line} of {database} isn't known"));
        assert_eq!((found.schema, found.name), (schema, name), "{path}");
        assert_eq!(found.database.is_none(), path.starts_with("global/"), "{path}");
        assert!(found.database.is_none_or(|theirs| theirs == database), "{path}: {found:?}");
    }
    all.lines().count()
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
