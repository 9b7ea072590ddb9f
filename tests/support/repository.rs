//! A repository and the host that uses it: the commands that stories are made of.

use std::path::{Path, PathBuf};

use super::{Host, Outcome, Server, TestDir};

/// A repository in a folder of its own, with a host that made it.
#[derive(Debug)]
pub struct Repository {
    /// The host that made it: its home holds state and cache.
    pub host: Host,
    folder: TestDir,
    /// Its URL, if it lies in a bucket.
    url: Option<String>,
}

impl Repository {
    /// Made by `pgcairn init`, opened by a key file outside the host's home.
    #[track_caller]
    pub fn init() -> Repository {
        Self::made().0
    }

    /// As [`Repository::init`], with what that says, as JSON: the lines for postgresql.conf, for example.
    #[track_caller]
    pub fn made() -> (Repository, serde_json::Value) {
        Self { host: Host::new(), folder: TestDir::new(), url: None }.make()
    }

    /// Made in a bucket by a host with these variables.
    #[track_caller]
    pub fn in_bucket(url: &str, environment: Vec<(&'static str, std::ffi::OsString)>) -> Repository {
        Self::not_yet_in_bucket(url, environment).make().0
    }

    /// A place in a bucket, and a host that may make a repository there.
    pub fn not_yet_in_bucket(url: &str, environment: Vec<(&'static str, std::ffi::OsString)>) -> Repository {
        Self { host: Host::with(environment), folder: TestDir::new(), url: Some(url.to_owned()) }
    }

    #[track_caller]
    fn make(self) -> (Repository, serde_json::Value) {
        let key = self.key_file();
        let made = self.run(["init", "--json", "--key-file", key.to_str().expect("a path in UTF-8")]).ok().json();
        (self, made)
    }

    /// Where it lies, as `--repo` takes it.
    pub fn url(&self) -> String {
        self.url.clone().unwrap_or_else(|| self.path().to_str().expect("a path in UTF-8").to_owned())
    }

    /// The repository's folder, if it lies in one.
    pub fn path(&self) -> PathBuf {
        self.folder.join("repository")
    }

    /// The key file that opens it.
    pub fn key_file(&self) -> PathBuf {
        self.folder.join("key")
    }

    /// Runs the program with `--repo` on its own host.
    pub fn run<A: AsRef<str>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        self.run_on(&self.host, arguments)
    }

    /// Runs the program with `--repo` on another host.
    pub fn run_on<A: AsRef<str>>(&self, host: &Host, arguments: impl IntoIterator<Item = A>) -> Outcome {
        host.pgcairn(self.arguments(arguments))
    }

    /// The arguments with `--repo` before them.
    pub fn arguments<A: AsRef<str>>(&self, arguments: impl IntoIterator<Item = A>) -> Vec<String> {
        let mut all = vec!["--repo".to_owned(), self.url()];
        all.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        all
    }

    /// A backup of a running server, as JSON; `more` are further arguments.
    #[track_caller]
    pub fn backup(&self, server: &Server, more: &[&str]) -> serde_json::Value {
        self.try_backup(server, more).ok().json()
    }

    /// A backup of a running server, however it ends.
    pub fn try_backup(&self, server: &Server, more: &[&str]) -> Outcome {
        self.run(self.backup_arguments(server, more))
    }

    /// The arguments of a backup of a running server.
    pub fn backup_arguments(&self, server: &Server, more: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = vec!["backup".into(), "--json".into(), "--dsn".into(), server.dsn("postgres")];
        all.extend(["--pgdata".to_owned(), server.data().to_str().expect("a path in UTF-8").to_owned()]);
        all.extend(more.iter().map(|m| (*m).to_owned()));
        all
    }

    /// The archive_command of a server whose WAL goes here.
    pub fn archive_command(&self) -> String {
        self.host.shell_line(self.arguments(["archive-push", "%p"]))
    }

    /// A restore by a host that has nothing but the key file; `more` are further arguments.
    #[track_caller]
    pub fn restore(&self, to: &Path, more: &[&str]) -> (Host, Outcome) {
        let (host, outcome) = self.try_restore(to, more);
        (host, outcome.ok())
    }

    /// A restore by a host that has nothing but the key file, however it ends.
    pub fn try_restore(&self, to: &Path, more: &[&str]) -> (Host, Outcome) {
        let host = self.host.another();
        let key = self.key_file();
        let mut all = vec!["--key-file", key.to_str().expect("a path in UTF-8"), "restore", "--to", to.to_str().expect("a path in UTF-8")];
        all.extend(more);
        let outcome = self.run_on(&host, all);
        (host, outcome)
    }
}

/// Bytes of all files below a folder.
pub fn bytes_below(folder: &Path) -> u64 {
    std::fs::read_dir(folder).map_or(0, |entries| {
        entries
            .flatten()
            .map(|e| match e.metadata() {
                Ok(m) if m.is_dir() => bytes_below(&e.path()),
                Ok(m) => m.len(),
                Err(_) => 0,
            })
            .sum()
    })
}

/// PostgreSQL's own checks of a stopped, restored data directory: files against the manifest (13 and later).
#[track_caller]
pub fn verify_backup(postgres: &super::Postgres, data: &Path) {
    if postgres.has("pg_verifybackup") {
        let mut command = postgres.command("pg_verifybackup");
        command.arg("-n").arg(data);
        Outcome::of(command).ok();
    }
}

/// PostgreSQL's own check of a running server: heaps and indexes.
#[track_caller]
pub fn amcheck(server: &Server) {
    if server.postgres().has("pg_amcheck") && server.postgres().major >= 14 {
        let has = server.sql("postgres", "select count(*) from pg_available_extensions where name = 'amcheck'");
        if has == "1" {
            server.sql("postgres", "create extension if not exists amcheck");
            let mut command = server.client("pg_amcheck", "postgres");
            command.args(["--heapallindexed", "postgres"]);
            Outcome::of(command).ok();
        }
    }
}
