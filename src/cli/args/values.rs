//! How the values of flags are read.

use std::num::NonZeroUsize;

/// A number of threads.
pub fn jobs(text: &str) -> Result<NonZeroUsize, String> {
    let jobs = text.trim().parse::<NonZeroUsize>().ok().filter(|jobs| jobs.get() <= 1024);
    jobs.ok_or_else(|| "a number of threads from 1 to 1024 is expected".into())
}
