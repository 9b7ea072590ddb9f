//! How the values of flags are read.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::units::{KeyId, parse_byte_size, parse_duration};

/// A number of threads.
pub fn jobs(text: &str) -> Result<NonZeroUsize, String> {
    let jobs = text.trim().parse::<NonZeroUsize>().ok().filter(|jobs| jobs.get() <= 1024);
    jobs.ok_or_else(|| "a number of threads from 1 to 1024 is expected".into())
}

/// The most that labels may have together, in bytes: they stand in one entry of the log, with all else.
pub const MAX_LABELS: usize = 4096;

/// Why something is so: a line that the log takes.
pub fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.len() > 2048 || text.chars().any(char::is_control) {
        return Err("a line of 1 to 2048 bytes is expected".into());
    }
    Ok(text.to_owned())
}

/// `key=value`: what the log would refuse is refused before hours of work.
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

/// A number of bytes.
pub fn byte_size(text: &str) -> Result<u64, String> {
    parse_byte_size(text).ok_or_else(|| "a size such as 500MB or 2GiB is expected".into())
}

/// The URL of a service.
pub fn endpoint(text: &str) -> Result<String, String> {
    crate::host::config::read_endpoint(text)
}

/// A word that goes into a header.
pub fn word(text: &str) -> Result<String, String> {
    crate::host::config::read_word(text)
}

/// A price in dollars.
pub fn price(text: &str) -> Result<crate::host::config::Price, String> {
    crate::host::config::read_price(text)
}

/// A number of days.
pub fn days(text: &str) -> Result<u32, String> {
    crate::host::config::read_days(text)
}

/// A key's id.
pub fn key_id(text: &str) -> Result<KeyId, String> {
    text.parse().map_err(|e: crate::units::ParseIdError| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_checked_before_anything_is_done() {
        let pair = |k: &str, v: &str| Ok((k.to_owned(), v.to_owned()));
        assert_eq!(label("why=a=b"), pair("why", "a=b"));
        assert_eq!(label("day="), pair("day", ""));
        for bad in ["", "x", "=y", "a=b\nc", &format!("a={}", "x".repeat(1025)), &format!("{}=a", "x".repeat(129))] {
            assert!(label(bad).is_err(), "{bad:?}");
        }
    }
}
