//! PostgreSQL's programs, of one major.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The programs of one PostgreSQL.
#[derive(Debug, Clone)]
pub struct Postgres {
    /// 13 to 19.
    pub major: u32,
    bin: PathBuf,
    /// The folder of a newer major for the client programs that `bin` lacks (13 comes as a server alone).
    tools: Option<PathBuf>,
}

const TOOLS: &str = "PGCAIRN_TEST_PGTOOLS";

impl Postgres {
    /// A PostgreSQL of this major, or the reason why there is none here.
    pub fn find(major: u32) -> Result<Postgres, String> {
        let bin = bin_folder(major)?;
        let tools = if bin.join("psql").exists() {
            None
        } else if let Some(named) = std::env::var_os(TOOLS) {
            Some(PathBuf::from(named))
        } else {
            Some([14, 15, 16, 17, 18].into_iter().find_map(|m| bin_folder(m).ok()).ok_or("client programs can't be had")?)
        };
        Ok(Postgres { major, bin, tools })
    }

    /// The path of one of its programs, by name; of a newer major's where it has none.
    pub fn program(&self, name: &str) -> PathBuf {
        let own = self.bin.join(name);
        let other = self.tools.as_ref().map(|tools| tools.join(name)).filter(|path| path.exists());
        if own.exists() { own } else { other.unwrap_or(own) }
    }

    /// Has it this program, itself?
    pub fn has(&self, name: &str) -> bool {
        self.bin.join(name).exists()
    }

    /// A command for one of its programs with an environment that is the same everywhere.
    pub fn command(&self, name: &str) -> Command {
        let program = self.program(name);
        let mut command = Command::new(&program);
        command.env_clear().env("PATH", standard_path()).env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
        // A relocated libpq: else walreceiver and the clients load the system's.
        if let Some(lib) = own_libraries(&program) {
            command.env("LD_LIBRARY_PATH", lib);
        }
        command
    }

    /// What a second run of a test needs to find the same.
    pub(super) fn environment(&self) -> Vec<(String, PathBuf)> {
        let mut all = vec![(variable(self.major), self.bin.clone())];
        all.extend(self.tools.clone().map(|tools| (TOOLS.to_owned(), tools)));
        all
    }
}

fn variable(major: u32) -> String {
    format!("PGCAIRN_TEST_PG{major}")
}

/// `PATH` of the commands that tests run.
pub(super) fn standard_path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into())
}

fn own_libraries(program: &Path) -> Option<PathBuf> {
    let lib = program.parent()?.parent()?.join("lib");
    lib.join("libpq.so.5").exists().then_some(lib)
}

fn bin_folder(major: u32) -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgres");
    // As an ordinary user that can't enter this folder, the first run has already found it.
    if let Some(named) = std::env::var_os(variable(major)).filter(|_| std::env::var_os("PGCAIRN_TEST_PROOF").is_some()) {
        return Ok(PathBuf::from(named));
    }
    let ran = Command::new(&script).arg(major.to_string()).stdin(Stdio::null()).output();
    let ran = ran.map_err(|e| format!("PostgreSQL {major} can't be had: {}: {e}", script.display()))?;
    let answer = String::from_utf8_lossy(&ran.stdout);
    match (ran.status.success(), answer.lines().last()) {
        (true, Some(folder)) => Ok(PathBuf::from(folder)),
        _ => {
            let reason = String::from_utf8_lossy(&ran.stderr);
            Err(reason.lines().last().map_or_else(|| format!("PostgreSQL {major} can't be had: {}", ran.status), str::to_owned))
        }
    }
}
