//! The program, run with a home of its own.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use super::TestDir;

/// A machine as the program sees it: a home where its configuration, state and cache lie, and nothing in its environment.
#[derive(Debug)]
pub struct Host {
    home: TestDir,
    more: Vec<(&'static str, OsString)>,
}

impl Host {
    /// A host on which the program has never run.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self::with(Vec::new())
    }

    /// As [`Host::new`], with these variables in the environment of all that runs there: credentials, for example.
    pub fn with(more: Vec<(&'static str, OsString)>) -> Self {
        Host { home: TestDir::new(), more }
    }

    /// Another host with the same variables.
    pub fn another(&self) -> Self {
        Self::with(self.more.clone())
    }

    /// Its home.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The program's path.
    pub fn program(&self) -> PathBuf {
        std::env::var_os("PGCAIRN_TEST_PROGRAM").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_pgcairn")), PathBuf::from)
    }

    /// The program's command, for what [`Host::pgcairn`] doesn't do: input, signals, other variables.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(self.program());
        command.args(arguments).env_clear().envs(self.environment()).current_dir(self.home());
        command.env("RUST_BACKTRACE", "1").stdin(Stdio::null());
        if let Some(profile) = std::env::var_os("LLVM_PROFILE_FILE") {
            command.env("LLVM_PROFILE_FILE", profile);
        }
        command
    }

    /// The variables that make a process this host's (a server's archive_command, for example).
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut all: Vec<(&'static str, OsString)> =
            vec![("HOME", self.home().into()), ("PATH", super::postgres::standard_path()), ("LC_ALL", "C.UTF-8".into())];
        all.extend(self.more.iter().cloned());
        all
    }

    /// Runs the program to its end.
    pub fn pgcairn<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        Outcome::of(self.command(arguments))
    }

    /// The program with arguments as one line for a shell, for archive_command and restore_command: `%p`, `%f` stay.
    pub fn shell_line<A: AsRef<str>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let program = self.program();
        let mut line = shell_quote(program.to_str().expect("a path in UTF-8"));
        for argument in arguments {
            line.push(' ');
            line.push_str(&shell_quote(argument.as_ref()));
        }
        line
    }
}

/// One word for a shell.
pub fn shell_quote(word: &str) -> String {
    let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"%/._-+=:,@".contains(&b));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    line: String,
}

impl Outcome {
    /// Runs any command to its end.
    #[track_caller]
    pub fn of(mut command: Command) -> Outcome {
        let line = format!("{command:?}");
        let ran = command.output().unwrap_or_else(|e| panic!("{line}: {e}"));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
        Outcome { status: ran.status, stdout: text(ran.stdout), stderr: text(ran.stderr), line }
    }

    /// It must have ended with 0.
    #[track_caller]
    pub fn ok(self) -> Outcome {
        self.code(0)
    }

    /// It must have ended with this exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Outcome {
        assert!(self.status.code() == Some(code), "exit code {code} was expected\n{}", self.report());
        self
    }

    /// It must have said this on standard error, or with `--json` in the error on standard output.
    #[track_caller]
    pub fn says(self, text: &str) -> Outcome {
        let error = serde_json::from_str::<serde_json::Value>(&self.stdout).ok().and_then(|answer| answer.get("error").cloned());
        let said = self.stderr.contains(text) || error.is_some_and(|e| e.to_string().contains(text));
        assert!(said, "{text:?} was expected of the error\n{}", self.report());
        self
    }

    /// It must have printed this on standard output.
    #[track_caller]
    pub fn prints(self, text: &str) -> Outcome {
        assert!(self.stdout.contains(text), "{text:?} was expected on standard output\n{}", self.report());
        self
    }

    /// Its standard output as one JSON value.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("standard output is no JSON: {e}\n{}", self.report()))
    }

    /// Its standard output as one JSON value a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}\n{}", self.report()));
        self.stdout.lines().map(parse).collect()
    }

    /// All that is known, for a failing test.
    pub fn report(&self) -> String {
        format!("{}\n{}\n--- stdout\n{}--- stderr\n{}---", self.line, self.status, self.stdout, self.stderr)
    }
}
