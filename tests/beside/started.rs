//! A restored server that is started as `restore` says, in a shell.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Outcome, Postgres, TestDir, wait_until};

/// The server of a restored data directory; stopped when dropped.
pub struct Started<'p> {
    pg: &'p Postgres,
    data: PathBuf,
    sockets: PathBuf,
    log: TestDir,
}

impl<'p> Started<'p> {
    /// Runs the command. The server must have been told to put its socket into `sockets`, on port 5432.
    #[track_caller]
    pub fn by(pg: &'p Postgres, command: &str, data: &Path, sockets: &Path) -> Self {
        let started = Started { pg, data: data.to_owned(), sockets: sockets.to_owned(), log: TestDir::new() };
        let log = started.log.join("log");
        // Into a file: the server would hold a pipe open.
        let ran = started.shell(&format!("{command} >{} 2>&1", log.display()));
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(ran.status.success(), "{command}\n{}", said());
        wait_until("the end of recovery", || started.sql("select pg_is_in_recovery()") == "f");
        started
    }

    fn shell(&self, line: &str) -> std::process::Output {
        let bin = self.pg.program("pg_ctl").parent().expect("a folder").to_owned();
        let mut shell = self.pg.command("pg_ctl");
        let libraries = shell.get_envs().find(|(name, _)| *name == "LD_LIBRARY_PATH").and_then(|(_, v)| v.map(ToOwned::to_owned));
        shell = Command::new("/bin/sh");
        shell.env_clear().env("PATH", format!("{}:/usr/bin:/bin", bin.display())).env("LC_ALL", "C").env("TZ", "UTC");
        if let Some(libraries) = libraries {
            shell.env("LD_LIBRARY_PATH", libraries);
        }
        shell.arg("-c").arg(line).current_dir("/").stdin(Stdio::null()).output().expect("a shell")
    }

    /// One value.
    #[track_caller]
    pub fn sql(&self, query: &str) -> String {
        let mut psql = self.pg.command("psql");
        psql.args(["-X", "-A", "-t", "-q", "-h"]).arg(&self.sockets).args(["-p", "5432", "-U", "postgres", "-d", "postgres", "-c", query]);
        Outcome::of(psql).ok().stdout.trim().to_owned()
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        let mut stop = self.pg.command("pg_ctl");
        stop.arg("-D").arg(&self.data).args(["-m", "immediate", "-w", "stop"]);
        let _ = stop.output();
    }
}

/// Every file below a folder with its content and time of change: to see that nothing was touched.
pub fn picture(folder: &Path) -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let (path, m) = (entry.path(), entry.metadata().expect("metadata"));
        let content = if m.is_file() { std::fs::read(&path).expect("a file") } else { Vec::new() };
        if m.is_dir() {
            all.extend(picture(&path));
        }
        all.push((path, content, m.modified().expect("a time")));
    }
    all.sort();
    all
}
