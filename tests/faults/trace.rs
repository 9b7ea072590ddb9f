//! The shim: compiled here, put before the program, its trace read.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Outcome, temporary};

const SOURCE: &str = include_str!("shim.c");

/// The shim's library, compiled when it isn't there. Its place lies in this user's own folder: tests called by root run
/// as another user, who can't enter `target`.
pub fn library() -> PathBuf {
    let name = format!("shim-{}.so", &blake3::hash(SOURCE.as_bytes()).to_hex()[..16]);
    let path = temporary().join(name);
    if !path.exists() {
        let folder = tempfile::tempdir_in(temporary()).expect("a scratch folder");
        let (source, made) = (folder.path().join("shim.c"), folder.path().join("shim.so"));
        std::fs::write(&source, SOURCE).expect("shim.c");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&made).arg(&source).args(["-ldl", "-lpthread"]);
        Outcome::of(cc).ok();
        std::fs::rename(made, &path).expect("rename");
    }
    path
}

/// Kinds of steps, as the shim numbers them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Op {
    Create = 1,
    Length,
    Write,
    Fsync,
    Syncfs,
    Rename,
    Link,
    Unlink,
    Mkdir,
    Rmdir,
    Symlink,
    Mode,
    Zero,
    Killed,
}

const OPS: [Op; 14] = [
    Op::Create,
    Op::Length,
    Op::Write,
    Op::Fsync,
    Op::Syncfs,
    Op::Rename,
    Op::Link,
    Op::Unlink,
    Op::Mkdir,
    Op::Rmdir,
    Op::Symlink,
    Op::Mode,
    Op::Zero,
    Op::Killed,
];

impl Op {
    fn of(number: u64) -> Op {
        OPS[usize::try_from(number).expect("a kind") - 1]
    }
}

/// One step that a program did, or before which it was killed.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was done.
    pub op: Op,
    /// Counted from 1, in the order in which they happened.
    pub number: u64,
    /// Inode of the file or folder.
    pub ino: u64,
    /// Offset, length, mode or kind: see shim.c.
    pub at: u64,
    /// The path; for two, the first.
    pub path: PathBuf,
    /// The second path, or what a link contains.
    pub other: OsString,
    /// The bytes written.
    pub data: Vec<u8>,
}

impl Step {
    /// What a killed process was about to do.
    pub fn was_to_be(&self) -> Op {
        if self.op == Op::Killed { Op::of(self.at) } else { self.op }
    }

    /// Which kind of step at which kind of place: names that are random or numbers are all the same.
    pub fn place(&self, root: &Path) -> String {
        let path = if self.other.is_empty() || self.op == Op::Symlink || self.op == Op::Zero { &self.path } else { Path::new(&self.other) };
        let below = path.strip_prefix(root).unwrap_or(path);
        let mut names: Vec<String> = below.iter().map(general).collect();
        // Of a data directory only what we make counts by its name.
        if let Some(data) = names.iter().position(|name| name == "data") {
            let last = names.split_off(data + 1).pop();
            names.extend(last.map(|name| if OURS.iter().any(|ours| name.contains(ours)) { name } else { "*".to_owned() }));
        }
        format!("{:?} {}", self.was_to_be(), names.join("/")).to_lowercase()
    }
}

const OURS: [&str; 5] = ["pg_control", "backup_", "auto.conf", "signal", "pgcairn"];

/// `pack-9f3a…` and `pack-07c1…` are one kind of name.
fn general(name: &OsStr) -> String {
    let text = name.to_string_lossy();
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let (word, end) = match word.char_indices().next_back() {
            Some((at, c)) if !c.is_ascii_alphanumeric() => word.split_at(at),
            _ => (word, ""),
        };
        let hex = word.len() >= 8 && word.bytes().all(|b| b.is_ascii_hexdigit());
        let number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        out.push_str(if hex || number { "*" } else { word });
        out.push_str(end);
    }
    out
}

/// Reads a trace; one that was cut off by a kill ends with its last whole step.
pub fn read(path: &Path) -> Vec<Step> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let mut steps = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((head, after)) = rest.split_first_chunk::<40>() {
        let short = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().expect("4 bytes")) as usize;
        let long = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let (first, second, data) = (short(4), short(8), short(12));
        if after.len() < first + second + data {
            break;
        }
        let text = |from: usize, len: usize| OsString::from_vec(after[from..from + len].to_vec());
        steps.push(Step {
            op: Op::of(short(0) as u64),
            number: long(16),
            ino: long(24),
            at: long(32),
            path: text(0, first).into(),
            other: text(first, second),
            data: after[first + second..first + second + data].to_vec(),
        });
        rest = &after[first + second + data..];
    }
    steps
}

/// How a program is run under the shim.
#[derive(Clone, Debug, Default)]
pub struct Under {
    /// Where steps are seen.
    pub roots: Vec<PathBuf>,
    /// Where they are written down.
    pub trace: Option<PathBuf>,
    /// Before which step it is killed.
    pub kill: Option<u64>,
    /// Which calls fail: see shim.c.
    pub fail: String,
}

impl Under {
    /// Puts the shim before a command, whose process group dies with it.
    pub fn put(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt;
        let mut roots = OsString::new();
        for root in &self.roots {
            if !roots.is_empty() {
                roots.push(":");
            }
            roots.push(root);
        }
        assert!(self.roots.iter().all(|r| !r.as_os_str().as_bytes().contains(&b':')), "a root with a colon");
        command.env("LD_PRELOAD", library()).env("SHIM_UNSYNCED", "1").env("SHIM_ROOTS", roots).env("SHIM_FAIL", &self.fail);
        if let Some(trace) = &self.trace {
            let _ = std::fs::remove_file(trace);
            let _ = std::fs::remove_file(format!("{}.count", trace.display()));
            command.env("SHIM_TRACE", trace);
        }
        if let Some(kill) = self.kill {
            command.env("SHIM_KILL", kill.to_string());
        }
        command.process_group(0);
    }
}
