//! A cluster as Debian's `pg_createcluster` makes it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::started::{Started, picture};
use crate::support::{Outcome, Postgres, Repository, TestDir, skip, wait_until};

const BIN: &str = "/usr/lib/postgresql/15/bin";
const TOOL: &str = "/usr/bin/pg_createcluster";

/// A cluster of Debian's, in folders of the test: stopped when dropped.
struct Cluster<'p> {
    pg: &'p Postgres,
    folder: TestDir,
}

impl<'p> Cluster<'p> {
    fn new(pg: &'p Postgres) -> Self {
        let cluster = Cluster { pg, folder: TestDir::new() };
        fs::create_dir(cluster.folder.join("etc")).unwrap();
        fs::create_dir(cluster.folder.join("sockets")).unwrap();
        let at = |name: &str| cluster.folder.join(name).into_os_string();
        let mut all: Vec<OsString> = ["15", "story"].map(Into::into).into();
        for (flag, place) in [("-d", "data"), ("-l", "log"), ("-s", "sockets")] {
            all.extend([flag.into(), at(place)]);
        }
        all.extend(
            ["-p", "5432", "--", "-N", "-A", "trust", "-U", "postgres", "--no-locale", "-E", "UTF8", "--wal-segsize=1"].map(Into::into),
        );
        cluster.run(TOOL, &all).ok();
        cluster
    }

    fn run(&self, program: &str, arguments: &[OsString]) -> Outcome {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C").env("HOME", self.folder.path());
        command.env("PG_CLUSTER_CONF_ROOT", self.folder.join("etc")).stdin(Stdio::null());
        Outcome::of(command)
    }

    fn conf(&self) -> std::path::PathBuf {
        self.folder.join("etc/15/story")
    }

    fn add(&self, file: &str, text: &str) {
        let path = self.conf().join(file);
        let before = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, before + text).unwrap();
    }

    #[track_caller]
    fn start(&self, environment: &str) {
        self.add("environment", environment);
        self.run("/usr/bin/pg_ctlcluster", &["15", "story", "start"].map(Into::into)).ok();
    }

    fn sql(&self, query: &str) -> String {
        let mut psql = self.pg.command("psql");
        psql.args(["-X", "-A", "-t", "-q", "-h"]).arg(self.folder.join("sockets"));
        psql.args(["-p", "5432", "-U", "postgres", "-d", "postgres", "-c", query]);
        Outcome::of(psql).ok().stdout.trim().to_owned()
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let _ = self.run("/usr/bin/pg_ctlcluster", &["15", "story", "stop", "-m", "immediate"].map(Into::into));
    }
}

#[test]
fn a_cluster_of_debian_comes_back_with_its_configuration() {
    crate::support::on(15, |pg| {
        if !Path::new(TOOL).exists() || !Path::new(BIN).join("postgres").exists() {
            return skip("Debian's pg_createcluster and PostgreSQL 15 are not installed (postgresql-common, postgresql-15)");
        }
        let repository = Repository::init();
        let cluster = Cluster::new(pg);
        let archive = repository.archive_command().replace('\'', "''");
        cluster.add(
            "postgresql.conf",
            &format!("fsync = off\nlisten_addresses = ''\nexternal_pid_file = '{}'\n", cluster.folder.join("story.pid").display()),
        );
        cluster.add("conf.d/archive.conf", &format!("archive_mode = on\narchive_command = '{archive}'\nmax_connections = 117\n"));
        let environment: String = repository
            .host
            .environment()
            .iter()
            .filter(|(name, _)| *name != "LC_ALL")
            .map(|(name, value)| format!("{name} = '{}'\n", value.to_str().unwrap()))
            .collect();
        cluster.start(&environment);
        cluster.sql("create table t as select generate_series(1, 1000) i");
        let dsn = format!("host={} port=5432 user=postgres dbname=postgres", cluster.folder.join("sockets").display());
        // Neither the data directory nor a place of configuration is named: the server says all.
        let id = repository.run(["backup", "--json", "--dsn", &dsn]).ok().json()["id"].as_str().unwrap().to_owned();
        cluster.sql("insert into t values (0)");
        let segment = cluster.sql("select pg_walfile_name(pg_switch_wal())");
        wait_until("archiving", || cluster.sql("select last_archived_wal from pg_stat_archiver") >= segment);
        repository.run(["show", &id]).ok().prints(cluster.conf().join("pg_hba.conf").to_str().unwrap()).prints("plpgsql");
        let (etc, pid) = (picture(&cluster.folder.join("etc")), fs::read(cluster.folder.join("story.pid")).unwrap());

        let target = TestDir::new();
        let (to, sockets) = (target.join("data"), target.folder("s"));
        let socket = format!("unix_socket_directories={}", sockets.display());
        let (_host, restored) = repository.restore(&to, &["--json", "--recovery-option", &socket]);
        let command = restored.json()["start_command"].as_str().unwrap().to_owned();
        {
            // While the original runs: on the same port, with a socket elsewhere.
            let started = Started::by(pg, &command, &to, &sockets);
            assert_eq!(started.sql("select count(*) from t"), "1001");
            assert_eq!(started.sql("show max_connections"), "117");
            assert_eq!(started.sql("show cluster_name"), "15/story");
            for setting in ["config_file", "hba_file", "ident_file", "data_directory"] {
                let value = started.sql(&format!("show {setting}"));
                assert!(value.starts_with(to.to_str().unwrap()), "{setting} is {value}");
            }
            assert_eq!(started.sql("select count(*) from pg_file_settings where error is not null"), "0");
        }
        assert!(picture(&cluster.folder.join("etc")) == etc, "/etc was touched");
        assert_eq!(fs::read(cluster.folder.join("story.pid")).unwrap(), pid);
        assert_eq!(cluster.sql("select count(*) from t"), "1001");
    });
}
