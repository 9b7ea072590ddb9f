//! What may happen to a cluster between one backup and the next, on real servers: the next is the cluster as it is then, the one
//! before stays what it was. Rows of the list of faults that PostgreSQL's own ways can cause.

#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

use support::{Host, Outcome, Postgres, Repository, Server, Setup, Stop, TestDir, amcheck, verify_backup, wait_until};

/// A cluster with an archive and its first snapshot.
struct World<'a> {
    pg: &'a Postgres,
    repository: Repository,
    server: Server,
    first: String,
    before: String,
}

impl World<'_> {
    fn begin<'a>(pg: &'a Postgres, setup: impl FnOnce(Setup) -> Setup, fill: impl FnOnce(&Server)) -> World<'a> {
        let repository = Repository::init();
        let plain = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).conf("full_page_writes", "on");
        let server = setup(plain).start();
        fill(&server);
        let first = id(&repository.backup(&server, &[]));
        let before = dump(&server);
        World { pg, repository, server, first, before }
    }

    /// Takes the second snapshot and restores both: each is the cluster at its time.
    fn holds(&self) -> serde_json::Value {
        let second = self.repository.backup(&self.server, &[]);
        let after = dump(&self.server);
        self.is(&id(&second), &after);
        self.is(&self.first, &self.before);
        second
    }

    /// Restores a snapshot to where it is consistent, and compares all that a client can see.
    fn is(&self, snapshot: &str, expected: &str) {
        let target = TestDir::new();
        let (host, to) = (Host::new(), target.join("data"));
        let server = self.restored(&host, &target, &to, &[snapshot, "--target-immediate", "--target-action", "promote"]);
        assert!(dump(&server) == expected, "{snapshot} isn't what the cluster was: {}", difference(&dump(&server), expected));
        amcheck(&server);
    }

    fn restored(&self, host: &Host, target: &TestDir, to: &Path, arguments: &[&str]) -> Server {
        let (key, spaces) = (self.repository.key_file(), target.join("spaces"));
        let mut all = vec!["--key-file", key.to_str().unwrap(), "restore", "--to", to.to_str().unwrap()];
        all.extend(["--tablespace-root", spaces.to_str().unwrap()]);
        all.extend(arguments);
        self.repository.run_on(host, all).ok();
        verify_backup(self.pg, to);
        let mut server = Server::build(self.pg).host(host).over(to);
        server.start();
        wait_until("the end of recovery", || server.sql("postgres", "select pg_is_in_recovery()") == "f");
        server
    }
}

fn id(snapshot: &serde_json::Value) -> String {
    snapshot["id"].as_str().expect("an id").to_owned()
}

/// Everything in all databases, as text; where tablespaces lie is no part of it.
fn dump(server: &Server) -> String {
    let mut command = server.client("pg_dumpall", "postgres");
    command.args(["--no-sync", "--no-tablespaces"]);
    let text = Outcome::of(command).ok().stdout;
    // Newer minors put a random word around a dump.
    let kept =
        text.lines().filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict") && !l.starts_with("CREATE TABLESPACE"));
    kept.collect::<Vec<_>>().join("\n")
}

fn difference(found: &str, expected: &str) -> String {
    let at = found.lines().zip(expected.lines()).find(|(f, e)| f != e);
    format!("{at:?} of {} and {} lines", found.lines().count(), expected.lines().count())
}

fn table(server: &Server, name: &str, rows: u32) {
    server.sql("postgres", &format!("create table {name} as select i, md5(i::text) t from generate_series(1, {rows}) i"));
}

/// A table is truncated and grows again; another is only truncated at its end by vacuum.
fn truncated_and_grown_again(pg: &Postgres) {
    let world = World::begin(
        pg,
        |s| s,
        |server| {
            table(server, "t", 40_000);
            table(server, "tail", 40_000);
        },
    );
    world.server.sql("postgres", "truncate t; insert into t select i, repeat('x', 40) from generate_series(1, 50000) i");
    world.server.sql("postgres", "delete from tail where i > 100");
    world.server.sql("postgres", "vacuum tail");
    world.holds();
}

on_majors!(truncated_and_grown_again: pg15 15, pg18 18);

/// A table is dropped, and another gets its relfilenode.
fn a_relfilenode_is_used_again(pg: &Postgres) {
    let mut world = World::begin(
        pg,
        |s| s,
        |server| {
            (0..8).for_each(|i| table(server, &format!("other_{i}"), 10));
            table(server, "t", 20_000);
        },
    );
    let node: u32 = world.server.sql("postgres", "select pg_relation_filenode('t')").parse().expect("a number");
    world.server.sql("postgres", "drop table t");
    world.server.sql("postgres", "checkpoint");
    world.server.stop(Stop::Fast);
    let mut reset = pg.command("pg_resetwal");
    reset.args(["-o", &(node - 20).to_string()]).arg(world.server.data());
    Outcome::of(reset).ok();
    world.server.start();
    // Each truncation takes one number more: until it comes up.
    world.server.sql("postgres", "create table again(i int)");
    let its = || world.server.sql("postgres", "truncate again; select pg_relation_filenode('again')");
    assert!((0..60).any(|_| its() == node.to_string()), "the relfilenode {node} isn't given again, but {}", its());
    world.server.sql("postgres", "insert into again select generate_series(1, 100000)");
    world.holds();
}

on_majors!(a_relfilenode_is_used_again: pg15 15, pg18 18);

/// Databases are dropped and made anew under the same name, by both strategies where there are two.
fn databases_are_dropped_and_made(pg: &Postgres) {
    let fill = |server: &Server, rows: u32| {
        let ways: &[&str] = if pg.major >= 15 { &[" strategy file_copy", " strategy wal_log"] } else { &[""] };
        for (i, way) in ways.iter().enumerate() {
            server.sql("postgres", &format!("create database d{i}{way}"));
            server.sql(&format!("d{i}"), &format!("create table t as select generate_series(1, {rows}) i"));
        }
    };
    let world = World::begin(pg, |s| s, |server| fill(server, 5_000));
    for name in ["d0", "d1"] {
        world.server.sql("postgres", &format!("drop database if exists {name}"));
    }
    fill(&world.server, 6_000);
    world.server.sql("postgres", "create database of_d0 template d0");
    world.holds();
}

on_majors!(databases_are_dropped_and_made: pg14 14, pg15 15, pg18 18);

/// A table moves into a tablespace, one out of it; the tablespace's folder itself is moved while the server is down.
fn a_tablespace_is_moved(pg: &Postgres) {
    let mut world = World::begin(
        pg,
        |s| s,
        |server| {
            let folder = server.folder("one");
            server.sql("postgres", &format!("create tablespace one location '{}'", folder.display()));
            table(server, "inside", 20_000);
            server.sql("postgres", "alter table inside set tablespace one");
            table(server, "outside", 20_000);
        },
    );
    world.server.sql("postgres", "alter table inside set tablespace pg_default; alter table outside set tablespace one");
    let link = std::fs::read_dir(world.server.data().join("pg_tblspc")).unwrap().next().unwrap().unwrap().path();
    let old: PathBuf = std::fs::read_link(&link).unwrap();
    let new = old.with_file_name("moved");
    world.server.stop(Stop::Fast);
    std::fs::rename(&old, &new).unwrap();
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&new, &link).unwrap();
    world.server.start();
    let second = world.holds();
    let shown = world.repository.run(["show", &id(&second), "--json"]).ok().json();
    assert_eq!(shown["tablespaces"][0]["path"], new.to_str().unwrap());
}

on_majors!(a_tablespace_is_moved: pg15 15, pg18 18);

/// Logged tables become unlogged and the other way round; relations are rewritten under new relfilenodes.
fn relations_are_rewritten(pg: &Postgres) {
    let world = World::begin(
        pg,
        |s| s,
        |server| {
            for name in ["a", "b", "c"] {
                table(server, name, 10_000);
            }
            server.sql("postgres", "create index on a(i); create index on c(t); create unlogged table u(i int)");
        },
    );
    world
        .server
        .sql("postgres", "insert into u values (1); alter table a set unlogged; alter table a set logged; alter table u set logged");
    world.server.sql("postgres", "vacuum full b");
    world.server.sql("postgres", "cluster c using c_t_idx; reindex table a");
    world.holds();
}

on_majors!(relations_are_rewritten: pg15 15, pg18 18);

/// pg_checksums rewrites every page, and not one record of WAL says so.
fn checksums_are_switched_on(pg: &Postgres) {
    let mut world = World::begin(pg, |s| s.checksums(false), |server| table(server, "t", 20_000));
    world.server.stop(Stop::Fast);
    let mut enable = pg.command("pg_checksums");
    enable.args(["--enable", "-D"]).arg(world.server.data());
    Outcome::of(enable).ok();
    world.server.start();
    let second = world.holds();
    assert_eq!(second["damaged_pages"], 0, "{second}");
}

on_majors!(checksums_are_switched_on: pg15 15, pg18 18);

/// A page that was wrong before the first backup, and one that goes wrong after it: both are named, each time, and stored as they are.
fn pages_go_wrong(pg: &Postgres) {
    let repository = Repository::init();
    let mut server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
    table(&server, "t", 20_000);
    server.sql("postgres", "checkpoint");
    let file = server.data().join(server.sql("postgres", "select pg_relation_filepath('t')"));
    let hurt = |server: &mut Server, block: u64| {
        server.stop(Stop::Fast);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[(block * 8192 + 5000) as usize] ^= 0xff;
        std::fs::write(&file, bytes).unwrap();
        server.start();
    };
    hurt(&mut server, 3);
    let first = repository.try_backup(&server, &[]).code(3);
    assert_eq!(first.json()["damaged_pages"], 1, "{}", first.report());
    assert!(first.stderr.contains("block 3"), "{}", first.report());
    hurt(&mut server, 7);
    let second = repository.try_backup(&server, &[]).code(3);
    assert_eq!(second.json()["damaged_pages"], 2, "{}", second.report());
    assert!(second.stderr.contains("block 3") && second.stderr.contains("block 7"), "{}", second.report());
    server.stop(Stop::Fast);
    let target = TestDir::new();
    let to = target.join("data");
    repository.restore(&to, &[&id(&second.json()), "--no-recovery"]);
    let relative = file.strip_prefix(server.data()).unwrap();
    assert!(std::fs::read(to.join(relative)).unwrap() == std::fs::read(&file).unwrap(), "not stored as they are");
}

on_majors!(pages_go_wrong: pg15 15, pg18 18);

/// The archive is down when a backup stops: the snapshot waits for its WAL, says for which, and is restorable once it is there.
fn the_archive_is_down_at_the_stop(pg: &Postgres) {
    let world = World::begin(pg, |s| s, |server| table(server, "t", 1_000));
    let command = world.server.sql("postgres", "show archive_command");
    world.server.set("archive_command", "false");
    table(&world.server, "u", 1_000);
    let waiting = world.repository.try_backup(&world.server, &["--wal-timeout", "1s"]).code(3);
    let snapshot = waiting.json();
    assert!(snapshot["waits_for"].is_string(), "{}", waiting.report());
    let target = TestDir::new();
    let (_, refused) = world.repository.try_restore(&target.join("data"), &[&id(&snapshot)]);
    refused.code(1);
    assert!(!target.join("data").exists());
    // What came before can still be had.
    world.is(&world.first, &world.before);
    world.server.set("archive_command", &command);
    let last = world.server.switch_wal();
    world.server.await_archived(&last);
    let listed = world.repository.run(["list", "--json"]).ok().json();
    assert_eq!(listed["snapshots"][1]["waits_for"], serde_json::Value::Null, "{listed}");
    world.is(&id(&snapshot), &dump(&world.server));
}

on_majors!(the_archive_is_down_at_the_stop: pg15 15, pg18 18);
