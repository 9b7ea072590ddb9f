//! What this machine keeps and says: configuration, folders, state, cache, locks.
//!
//! In come the command line's overrides and the environment (through [`Env`], so that tests can have their own); out
//! go [`Settings`], the state folder with this host's keys, and a cache that may be deleted at any time. Nothing here
//! knows a backend or PostgreSQL. *State* can't be rebuilt and is checked, locked and replaced whole; *cache* is
//! never believed: what is damaged in it is dropped with a warning.
//!
//! - `access/`: a repository, opened for a command; sessions
//! - `owner/`: what the owner of a repository does: key slots, hosts and their rights, rotation
//! - `env.rs`: [`Env`], the environment as a value
//! - `config/`: the configuration file, environment variables and flags: [`Settings`]; passphrases
//! - `paths.rs`: where state and cache lie: [`StateDir`], [`cache_dir`]
//! - `state/`: host keys, what was seen of a repository, pins
//! - `cache/`: the catalog and the chunk index
//! - `machine.rs`: which machine and boot this is
//! - `lock.rs`: locks that prove a process alive or dead
//! - `files.rs`: replacing a file whole, reading one with a bound

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod access;
pub mod cache;
pub mod cache_file;
pub mod config;
mod env;
mod failure;
mod files;
pub mod lock;
pub mod machine;
pub mod owner;
pub mod paths;
pub mod state;

pub use config::{ConfigError, FlagOverrides, Settings};
#[cfg(test)]
pub use env::FixedEnv;
pub use env::{Env, ProcessEnv, service_variables, service_variables_of};
pub use failure::{HostError, RepositoryError};
pub use paths::{StateDir, cache_dir};
