//! Every major, and the ways in which its clusters are made: the road from first backup to a point in time, on each.

#[path = "../support/mod.rs"]
mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::{Load, Postgres, Repository, Server, Setup, Stop, TestDir, amcheck, copy_tree, full, skip, verify_backup, wait_until};

/// How a cluster is made.
#[derive(Clone, Copy, Debug)]
struct Made {
    segment_mb: u32,
    checksums: bool,
    /// Of ICU where the build has it (Debian's of 15 and 19 do), else 17's own provider, else as the C library says.
    provider: bool,
    group_access: bool,
}

const IN_FULL: &str = "a part of make test-full";

/// As most are.
const PLAIN: Made = Made { segment_mb: 16, checksums: true, provider: false, group_access: false };

impl Made {
    fn setup(self, pg: &Postgres) -> Setup {
        let mut setup = Server::build(pg).segment_mb(self.segment_mb).checksums(self.checksums);
        match pg.major {
            15.. if self.provider && has_icu(pg) => setup = setup.initdb("--locale-provider=icu").initdb("--icu-locale=en-US"),
            17.. if self.provider => setup = setup.initdb("--locale-provider=builtin").initdb("--builtin-locale=C.UTF-8"),
            _ => {}
        }
        if self.group_access {
            setup = setup.initdb("--allow-group-access");
        }
        setup
    }
}

/// Does this build know ICU?
fn has_icu(pg: &Postgres) -> bool {
    let mut command = pg.command("pg_config");
    command.arg("--configure");
    pg.has("pg_config") && support::Outcome::of(command).ok().stdout.contains("--with-icu")
}

/// Backups under load, a table by a collation of ICU's, segments pushed, a restore to a time and one to the end.
fn road(pg: &Postgres, made: Made) {
    let repository = Repository::init();
    let server = made.setup(pg).host(&repository.host).archive(&repository.archive_command()).start();
    server.pgbench_init(1);
    let collation = if made.provider && has_icu(pg) { "collate \"en-x-icu\"" } else { "" };
    server.sql(
        "postgres",
        &format!(
            "create table words(w text {collation} primary key); insert into words select md5(i::text) from generate_series(1, 2000) i"
        ),
    );
    let load = Load::start(&server, &["-c", "2"]);
    repository.backup(&server, &[]);
    server.sql("postgres", "delete from words where w < '8'; vacuum words");
    let second = repository.backup(&server, &[]);
    assert!(second["parent"].is_string(), "{second}");
    assert_eq!(second["damaged_pages"], 0, "{second}");
    load.stop();
    let words = server.sql("postgres", "select count(*), min(w), max(w) from words");
    let sums = server.pgbench_sums();
    let here = format!("{}+00", server.sql("postgres", "select clock_timestamp() at time zone 'UTC'"));
    server.sql("postgres", "drop table words");
    let last = server.switch_wal();
    server.await_archived(&last);

    let target = TestDir::new();
    let then = restored(pg, made, &repository, &target.join("then"), &["--target-time", &here, "--target-action", "promote"]);
    assert_eq!(then.sql("postgres", "select count(*), min(w), max(w) from words"), words);
    assert_eq!(then.pgbench_sums(), sums);
    amcheck(&then);
    drop(then);
    let end = restored(pg, made, &repository, &target.join("end"), &[]);
    assert_eq!(end.sql("postgres", "select to_regclass('words') is null"), "t");
    assert_eq!(end.pgbench_sums(), sums);
}

/// Restored by a host that has the key file alone, checked by PostgreSQL's own program, started, and open for writing.
fn restored(pg: &Postgres, made: Made, repository: &Repository, to: &Path, arguments: &[&str]) -> Server {
    let (host, _) = repository.restore(to, arguments);
    verify_backup(pg, to);
    let modes = if made.group_access { (0o750, 0o640) } else { (0o700, 0o600) };
    let mode = |name: &str| std::fs::metadata(to.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("global/pg_control")), modes, "{made:?}");
    let mut server = Server::build(pg).host(&host).over(to);
    server.start();
    wait_until("the end of recovery", || server.sql("postgres", "select pg_is_in_recovery()") == "f");
    let on = if made.checksums { "on" } else { "off" };
    assert_eq!(server.sql("postgres", "show data_checksums"), on);
    assert_eq!(server.sql("postgres", "show wal_segment_size"), format!("{}MB", made.segment_mb));
    std::mem::forget(host);
    server
}

fn as_most_are_made(pg: &Postgres) {
    road(pg, PLAIN);
}

on_majors!(as_most_are_made: pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18, pg19 19);

/// Everything otherwise than most have it, at once.
fn otherwise(pg: &Postgres) {
    if !matches!(pg.major, 15 | 18) && !full() {
        return skip(IN_FULL);
    }
    road(pg, Made { segment_mb: 64, checksums: false, provider: true, group_access: true });
}

on_majors!(otherwise: pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18, pg19 19);

/// One thing otherwise at a time.
fn each_otherwise(pg: &Postgres) {
    if !full() {
        return skip(IN_FULL);
    }
    road(pg, Made { segment_mb: 1, ..PLAIN });
    road(pg, Made { segment_mb: 64, ..PLAIN });
    road(pg, Made { checksums: false, ..PLAIN });
    road(pg, Made { provider: true, ..PLAIN });
    road(pg, Made { group_access: true, ..PLAIN });
}

on_majors!(each_otherwise: pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18, pg19 19);

/// A cluster of a machine with the other byte order is refused by name: its backup, and its WAL.
fn big_endian_is_refused(pg: &Postgres) {
    let repository = Repository::init();
    let mut server = PLAIN.setup(pg).start();
    server.sql("postgres", "create table t as select 1");
    server.stop(Stop::Fast);
    let folder = TestDir::new();
    let data = folder.join("data");
    copy_tree(server.data(), &data);
    // The one of the last checkpoint: those before it are recycled, under later names.
    let names = std::fs::read_dir(data.join("pg_wal")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let segment = names.filter(|n| n.len() == 24).min().expect("a segment");
    let swap = |name: &str, fields: &[(usize, usize)]| {
        let path = data.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, length) in fields {
            bytes[*at..at + length].reverse();
        }
        std::fs::write(&path, bytes).unwrap();
    };
    // system identifier, pg_control's version, the catalog's; xlp_magic, xlp_info.
    swap("global/pg_control", &[(0, 8), (8, 4), (12, 4)]);
    swap(&format!("pg_wal/{segment}"), &[(0, 2), (2, 2)]);
    let text = data.to_str().unwrap();
    repository.run(["--json", "backup", "--offline", "--pgdata", text]).code(1).says("big-endian");
    let wal = format!("{text}/pg_wal/{segment}");
    repository.run(["--json", "archive-push", "--pgdata", text, &wal]).code(1).says("big-endian");
    let whole = server.data().to_str().unwrap();
    repository.run(["--json", "archive-push", "--pgdata", whole, &wal]).code(1).says("big-endian");
}

on_majors!(big_endian_is_refused: pg15 15, pg18 18);
