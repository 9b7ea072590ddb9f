//! Settings: flags over environment over the configuration file.
//!
//! The three sources fill the same shapes ([`GlobalKeys`], [`ClusterKeys`], [`SecretKeys`]); [`Settings`] keeps them
//! apart and combines them when a command asks for its cluster and its repository. The environment alone is a complete
//! configuration. A key that isn't known is an error: a misspelt `passphrase-file` must not be passed over in silence.
//!
//! - `keys.rs`: the shapes, and how each value is read from text
//! - `file.rs`: the TOML file · `variables.rs`: `PGCAIRN_*`
//! - `resolve.rs`: [`Settings`]: which cluster, which repository
//! - `url.rs`: [`RepositoryUrl`] · `secret.rs`: [`SecretSource`] and the rules for passphrases
//! - `error.rs`: [`ConfigError`]

mod error;
mod file;
mod keys;
mod resolve;
mod secret;
mod url;
mod variables;

pub use error::ConfigError;
pub use keys::{Chunker, ClusterKeys, FlagOverrides, GlobalKeys, SecretKeys, WalMode};
pub use resolve::{ClusterSettings, DEFAULT_CLUSTER, RepositorySettings, Settings};
pub use secret::{Passphrase, SecretError, SecretSource};
pub use url::RepositoryUrl;
