//! A cluster at work for a long time, with everything that happens to one: backups whole and killed, crashes, tables
//! rewritten, databases that come and go; and meanwhile restores to moments that were chosen at random.
//!
//! Minutes: `PGCAIRN_TEST_SOAK_MINUTES`, else 60 in the full form and 1 otherwise. Seed: `PGCAIRN_TEST_SEED`, else the clock's;
//! it is printed, and steers which step comes when (what the server does meanwhile it can't steer).

#[path = "../support/mod.rs"]
mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Load, Postgres, Repository, Server, TestDir, amcheck, full, verify_backup, wait_until};

/// Small numbers that follow from a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }
}

/// A moment at which nobody was writing, and what was there.
#[derive(Clone, Debug)]
struct Moment {
    time: String,
    lsn: String,
    xid: String,
    name: String,
    state: String,
}

/// What the soak has done so far.
#[derive(Debug, Default)]
struct Tally {
    backups: u32,
    killed_backups: u32,
    crashes: u32,
    rewrites: u32,
    databases: u32,
    restores: u32,
}

struct Soak<'a> {
    pg: &'a Postgres,
    repository: Repository,
    server: Server,
    load: Option<Load>,
    dice: Dice,
    moments: Vec<Moment>,
    tally: Tally,
}

impl Soak<'_> {
    fn begin(pg: &Postgres, seed: u64) -> Soak<'_> {
        let repository = Repository::init();
        let server = Server::build(pg)
            .host(&repository.host)
            .archive(&repository.archive_command())
            .conf("autovacuum_naptime", "2s")
            .conf("checkpoint_timeout", "30s")
            .conf("max_wal_size", "64MB")
            .start();
        server.pgbench_init(2);
        server.sql("postgres", "create table marks(i serial primary key, filler text)");
        repository.backup(&server, &[]);
        let mut soak = Soak { pg, repository, server, load: None, dice: Dice(seed | 1), moments: vec![], tally: Tally::default() };
        soak.mark();
        soak
    }

    fn work(&mut self) {
        if self.load.is_none() {
            // No more than a restore of some minutes' WAL can catch up with on a slow machine.
            self.load = Some(Load::start(&self.server, &["-c", "2", "--rate=150"]));
        }
    }

    /// The state of everything that is compared: sums, marks, which databases there are and what is in them.
    fn state(server: &Server) -> String {
        let names = server.sql("postgres", "select datname from pg_database where datname like 'extra%' order by 1");
        let inside = names.lines().map(|name| format!("{name}: {}", server.sql(name, "select count(*), sum(i) from t")));
        let marks = server.sql("postgres", "select count(*), max(i), md5(string_agg(filler, '' order by i)) from marks");
        format!("{}\n{marks}\n{}", server.pgbench_sums(), inside.collect::<Vec<_>>().join("\n"))
    }

    /// Stops the load, remembers the moment, and commits something behind it, so that it can be a target.
    fn mark(&mut self) {
        self.load = None;
        let sessions = "select count(*) from pg_stat_activity where application_name = 'pgbench'";
        wait_until("pgbench's sessions to end", || self.server.sql("postgres", sessions) == "0");
        let name = format!("moment {}", self.moments.len());
        let insert = "insert into marks(filler) select repeat(md5(random()::text), 20)";
        let xid = self.server.sql("postgres", &format!("begin; {insert}; select pg_current_xact_id(); commit"));
        let state = Self::state(&self.server);
        let lsn = self.server.sql("postgres", &format!("select pg_create_restore_point('{name}')"));
        let time = format!("{}+00", self.server.sql("postgres", "select clock_timestamp() at time zone 'UTC'"));
        self.server.sql("postgres", "create table if not exists behind(i int); insert into behind values (1)");
        self.moments.push(Moment { time, lsn, xid, name, state });
        self.work();
    }

    fn backup(&mut self) {
        self.tally.backups += 1;
        let copy = if self.dice.below(4) == 0 { ["--wal", "copy"].as_slice() } else { &[] };
        self.repository.backup(&self.server, copy);
    }

    /// A backup that is killed somewhere on its way.
    fn killed_backup(&mut self) {
        self.tally.killed_backups += 1;
        let arguments = self.repository.backup_arguments(&self.server, &[]);
        let mut command = self.repository.host.command(self.repository.arguments(arguments));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a backup");
        std::thread::sleep(Duration::from_millis(self.dice.below(1500)));
        let _ = child.kill();
        let _ = child.wait();
    }

    fn crash(&mut self) {
        self.tally.crashes += 1;
        self.server.crash();
        self.load = None;
        self.server.start();
        self.work();
    }

    fn rewrite(&mut self) {
        self.tally.rewrites += 1;
        let table = ["pgbench_accounts", "pgbench_tellers", "pgbench_branches", "marks"][self.dice.below(4) as usize];
        self.server.sql("postgres", &format!("vacuum full {table}"));
    }

    fn database(&mut self) {
        self.tally.databases += 1;
        let n = self.dice.below(3);
        if self.server.sql("postgres", &format!("select count(*) from pg_database where datname = 'extra{n}'")) == "1" {
            self.server.sql("postgres", &format!("drop database extra{n} with (force)"));
        } else {
            self.server.sql("postgres", &format!("create database extra{n}"));
            self.server.sql(&format!("extra{n}"), &format!("create table t as select generate_series(1, {}) i", 1000 + n));
        }
    }

    /// To a moment chosen at random, in a way chosen at random: everything is there, and nothing else.
    fn restore(&mut self) {
        let moment = self.moments[self.dice.below(self.moments.len() as u64) as usize].clone();
        let last = self.server.switch_wal();
        self.server.await_archived(&last);
        let way = match self.dice.below(4) {
            0 => ["--target-time", &moment.time],
            1 => ["--target-lsn", &moment.lsn],
            2 => ["--target-xid", &moment.xid],
            _ => ["--target-name", &moment.name],
        };
        let target = TestDir::new();
        let to = target.join("data");
        let (host, _) = self.repository.restore(&to, &["--target-action", "promote", way[0], way[1]]);
        verify_backup(self.pg, &to);
        let mut restored = Server::build(self.pg).host(&host).over(&to);
        restored.start();
        await_recovery(&restored);
        assert_eq!(Self::state(&restored), moment.state, "{way:?} of {moment:?}");
        if self.dice.below(3) == 0 {
            amcheck(&restored);
        }
        self.tally.restores += 1;
    }

    fn step(&mut self) {
        match self.dice.below(16) {
            0..3 => self.backup(),
            3 | 4 => self.killed_backup(),
            5 => self.crash(),
            6 | 7 => self.rewrite(),
            8 | 9 => self.database(),
            10..13 => self.mark(),
            _ => self.restore(),
        }
    }
}

/// However long it takes, as long as it goes on.
fn await_recovery(server: &Server) {
    const POSITION: &str = "select case when pg_is_in_recovery() then pg_last_wal_replay_lsn()::text end";
    let mut at = String::from("not begun");
    while !at.is_empty() {
        let before = std::mem::take(&mut at);
        wait_until("recovery to go on", || {
            at = server.sql("postgres", POSITION);
            at != before
        });
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// See the file.
fn everything_happens(pg: &Postgres) {
    let seed = number("PGCAIRN_TEST_SEED")
        .unwrap_or_else(|| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_micros() as u64));
    let minutes = number("PGCAIRN_TEST_SOAK_MINUTES").unwrap_or(if full() { 60 } else { 1 });
    eprintln!("seed {seed}, {minutes} minutes");
    let mut soak = Soak::begin(pg, seed);
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    while Instant::now() < until {
        soak.step();
    }
    // Whatever the dice gave: one backup, and one restore to a moment behind it.
    soak.backup();
    soak.mark();
    soak.restore();
    let status = soak.repository.run(["archive", "status", "--json"]).ok().json();
    assert_eq!(status["timelines"][0]["gaps"].as_array().map(Vec::len), Some(0), "{status}");
    eprintln!("seed {seed}: {:?}", soak.tally);
}

on_majors!(everything_happens: pg18 18);
