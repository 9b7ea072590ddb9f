//! Settings: flags over environment over the configuration file.
//!
//! The three sources fill the same shapes ([`GlobalKeys`], [`ClusterKeys`], [`SecretKeys`]); [`Settings`] keeps them
//! apart and combines them when a command asks for its cluster and its repository. The environment alone is a complete
//! configuration. A key that isn't known is an error: a misspelt `passphrase-file` must not be passed over in silence.
//!
//! - `keys.rs`: the shapes, and how each value is read from text
//! - `file.rs`: the TOML file · `variables.rs`: `PGCAIRN_*`
//! - `retention.rs`: the keys of a retention policy
//! - `resolve.rs`: [`Settings`]: which cluster, which repository
//! - `bucket.rs`: [`BucketKeys`], the keys of a repository in a bucket
//! - `url.rs`: [`RepositoryUrl`] · `secret.rs`: [`SecretSource`] and the rules for passphrases
//! - `error.rs`: [`ConfigError`]

mod bucket;
mod error;
mod file;
mod keys;
mod resolve;
mod retention;
mod secret;
mod url;
mod variables;

pub use bucket::{BucketKeys, Price, read_days, read_endpoint, read_price, read_word};
pub use error::ConfigError;
pub use keys::{Chunker, ClusterKeys, FlagOverrides, GlobalKeys, SecretKeys, WalMode};
pub use resolve::{ClusterSettings, DEFAULT_CLUSTER, RepositorySettings, Settings};
pub use retention::{KeepLabel, RetentionKeys, read_count, read_span};
pub use secret::{KeyOperation, Passphrase, SecretError, SecretSource, run_key_command};
pub use url::RepositoryUrl;

/// Arbitrary text as a configuration file (`crate::fuzzing`).
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn probe(text: &str) {
    let _ = file::ConfigFile::parse(std::path::Path::new("/etc/pgcairn/config.toml"), text);
    let _ = (keys::read_bool(text), keys::read_jobs(text), keys::read_duration(text), keys::read_key_id(text));
    let _ = keys::check_name("cluster", text);
}
