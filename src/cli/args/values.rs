//! How the values of flags are read.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::cli::failure::Failure;
use crate::units::{KeyId, parse_duration};

/// A number of threads.
pub fn jobs(text: &str) -> Result<NonZeroUsize, String> {
    let jobs = text.trim().parse::<NonZeroUsize>().ok().filter(|jobs| jobs.get() <= 1024);
    jobs.ok_or_else(|| "a number of threads from 1 to 1024 is expected".into())
}

/// `key=value`.
pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !text.chars().any(char::is_control) && key.len() <= 128 && value.len() <= 1024 => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("a label such as reason=release is expected".into()),
    }
}

/// A duration.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration such as 90s, 10min or 1h30m is expected".into())
}

/// A key's id.
pub fn key_id(text: &str) -> Result<KeyId, String> {
    text.parse().map_err(|e: crate::units::ParseIdError| e.to_string())
}

/// What root must not do by accident: files of the repository and the state would be root's.
pub(in crate::cli) fn refuse_root(command: &str, allowed: bool) -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() && !allowed {
        return Err(Failure::refused(
            format!("{command} is run by root"),
            format!(
                "run it as the operating system user of the server, such as postgres (--allow-root if you mean it: {command} --allow-root)"
            ),
        ));
    }
    Ok(())
}
