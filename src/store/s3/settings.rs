//! Where a bucket is, and how it is to be used.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::units::Cancel;

/// A setting that can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?}: {problem}")]
pub struct BadS3Setting {
    what: &'static str,
    text: String,
    problem: &'static str,
}

/// What is configured of a repository in a bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// What the names of all objects begin with, without the `/` that follows; empty: the whole bucket is the repository's.
    pub prefix: String,
    /// The service's URL; `None`: what the AWS variables and profile say, else Amazon's of the region.
    pub endpoint: Option<String>,
    /// The region; `None`: what the AWS variables, profile or instance say.
    pub region: Option<String>,
    /// Is the bucket named in the path, not in the host's name? `None`: wherever an endpoint is set.
    pub path_style: Option<bool>,
    /// Certificates of authorities in PEM that are trusted for the service, and no others.
    pub ca_file: Option<PathBuf>,
    /// The storage class of packs.
    pub storage_class: Option<String>,
    /// The storage class of everything else.
    pub small_storage_class: Option<String>,
    /// How the service is to encrypt what lies there: `AES256`, `aws:kms`, `aws:kms:dsse`.
    pub encryption: Option<String>,
    /// The key for `aws:kms`.
    pub kms_key: Option<String>,
    /// This is the only process that ever writes: a service that ignores `If-None-Match` will do.
    pub single_writer: bool,
    /// For how many days what a snapshot needs is locked against deletion.
    pub lock_days: Option<u32>,
    /// For how long a request that fails for a passing reason is repeated.
    pub retry_time: Duration,
    /// The most requests at once.
    pub most_requests: usize,
    /// The home in which `.aws` is looked for, where the environment names none.
    pub home: Option<PathBuf>,
}

impl S3Settings {
    /// How long a request is repeated by default.
    pub const RETRY_TIME: Duration = Duration::from_secs(600);

    /// The most requests at once, by default: enough for the bandwidth of any machine, few enough for the descriptors of
    /// any.
    pub const MOST_REQUESTS: usize = 96;

    /// The defaults at a place.
    ///
    /// # Errors
    /// If bucket or prefix can't be.
    pub fn at(bucket: &str, prefix: &str) -> Result<Self, BadS3Setting> {
        check_bucket(bucket)?;
        check_prefix(prefix)?;
        Ok(S3Settings {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: None,
            region: None,
            path_style: None,
            ca_file: None,
            storage_class: None,
            small_storage_class: None,
            encryption: None,
            kms_key: None,
            single_writer: false,
            lock_days: None,
            retry_time: Self::RETRY_TIME,
            most_requests: Self::MOST_REQUESTS,
            home: None,
        })
    }

    /// The place for people, without anything secret.
    pub fn place(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        let at = self.endpoint.as_ref().map(|e| format!(" at {e}")).unwrap_or_default();
        format!("s3://{}{slash}{}{at}", self.bucket, self.prefix)
    }
}

/// The rules that all services share (Amazon's are stricter, and say so themselves).
fn check_bucket(bucket: &str) -> Result<(), BadS3Setting> {
    let fine = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
        && !bucket.starts_with(['.', '-'])
        && !bucket.ends_with(['.', '-']);
    let problem = "3 to 63 characters are expected, out of a-z, 0-9, `.` and `-`, the first and last a letter or digit";
    if fine { Ok(()) } else { Err(bad("the bucket", bucket, problem)) }
}

/// What is the same on every service and in every tool: no part is empty, `.` or `..`.
fn check_prefix(prefix: &str) -> Result<(), BadS3Setting> {
    let part =
        |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!-_.*'()=+@,:".contains(&b));
    let fine = prefix.is_empty() || (prefix.len() <= 400 && prefix.split('/').all(part));
    let problem = "parts of letters, digits and `!-_.*'()=+@,:` are expected, with one `/` between, at most 400 characters";
    if fine { Ok(()) } else { Err(bad("the prefix", prefix, problem)) }
}

fn bad(what: &'static str, text: &str, problem: &'static str) -> BadS3Setting {
    BadS3Setting { what, text: text.chars().take(80).collect(), problem }
}

/// Who is told while a request is repeated, and may end that.
#[derive(Clone)]
pub struct Watch {
    /// Told what the service answers, and that it is asked again.
    pub notice: Arc<dyn Fn(&str) + Send + Sync>,
    /// Told at the end how many requests it took.
    pub summary: Arc<dyn Fn(&str) + Send + Sync>,
    /// Asked to stop?
    pub cancel: Cancel,
}

impl Default for Watch {
    fn default() -> Self {
        Watch { notice: Arc::new(|_| {}), summary: Arc::new(|_| {}), cancel: Cancel::new() }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod own_tests {
    use super::*;

    #[test]
    fn places_that_can_not_be_are_refused() {
        for (bucket, prefix) in [("my-bucket", ""), ("abc", "pg"), ("a.b.c", "pg/main=1"), (&"b".repeat(63), &"p".repeat(400))] {
            assert!(S3Settings::at(bucket, prefix).is_ok(), "{bucket} {prefix}");
        }
        for (bucket, prefix) in [
            ("", ""),
            ("ab", ""),
            ("Bucket", ""),
            ("a/b", ""),
            ("-abc", ""),
            ("abc.", ""),
            ("abc", "/"),
            ("abc", "a//b"),
            ("abc", "a/../b"),
            ("abc", "a/"),
            ("abc", "a b"),
            ("abc", "a?b"),
            ("abc", &"p".repeat(401)),
            (&"b".repeat(64), ""),
        ] {
            assert!(S3Settings::at(bucket, prefix).is_err(), "{bucket} {prefix}");
        }
    }
}
