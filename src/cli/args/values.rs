//! How the values of flags are read.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::units::parse_duration;

/// A number of threads.
pub fn jobs(text: &str) -> Result<NonZeroUsize, String> {
    let jobs = text.trim().parse::<NonZeroUsize>().ok().filter(|jobs| jobs.get() <= 1024);
    jobs.ok_or_else(|| "a number of threads from 1 to 1024 is expected".into())
}

/// The most that labels may have together, in bytes: they stand in one entry of the log, with all else.
pub const MAX_LABELS: usize = 4096;

/// A duration: `90s`, `10min`, `1h30m`, seconds without a unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration such as `90s`, `10min` or `1h30m` is expected".into())
}

/// A label: what the log would refuse is refused before hours of work.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is expected")?;
    if key.is_empty() || key.len() > 128 || value.len() > 1024 {
        return Err("a label has a name of 1 to 128 bytes and a value of at most 1024".into());
    }
    if text.chars().any(char::is_control) {
        return Err("a label has no control characters".into());
    }
    Ok((key.to_owned(), value.to_owned()))
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
