//! Another time for the program.

use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::{Outcome, temporary};

const SOURCE: &str = include_str!("clock.c");

/// Seconds of a day.
pub const DAY: i64 = 86_400;
/// 2030-01-01, a Tuesday, at midnight UTC, in seconds since 1970: the first day of the simulation.
pub const FIRST: i64 = 1_893_456_000;

/// When it is so many seconds past midnight of a day.
pub fn at(day: u32, seconds: i64) -> i64 {
    FIRST + i64::from(day) * DAY + seconds
}

/// Lets a command believe that it is `now`, in seconds since 1970.
pub fn set(command: &mut Command, now: i64) {
    let real = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock behind 1970").as_secs() as i64;
    command.env("LD_PRELOAD", library()).env("CLOCK_OFFSET", (now - real).to_string());
}

/// The shim, compiled when it isn't there.
fn library() -> PathBuf {
    let path = temporary().join(format!("clock-{}.so", &blake3::hash(SOURCE.as_bytes()).to_hex()[..16]));
    if !path.exists() {
        let folder = tempfile::tempdir_in(temporary()).expect("a scratch folder");
        let (source, made) = (folder.path().join("clock.c"), folder.path().join("clock.so"));
        std::fs::write(&source, SOURCE).expect("clock.c");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&made).arg(&source);
        Outcome::of(cc).ok();
        std::fs::rename(made, &path).expect("rename");
    }
    path
}
