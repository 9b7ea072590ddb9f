//! The keys that all three sources share, and how their values are read.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::bucket::BucketKeys;
use super::error::ConfigError;
use super::retention::RetentionKeys;
use super::secret::{Passphrase, SecretSource};
use crate::units::{KeyId, parse_duration};

/// How relation forks are cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Chunker {
    /// Page-aligned extents of 256 KiB.
    #[default]
    Extents,
    /// FastCDC for everything, to compare.
    Cdc,
}

impl std::str::FromStr for Chunker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "extents" => Ok(Chunker::Extents),
            "cdc" => Ok(Chunker::Cdc),
            _ => Err(format!("expected `extents` or `cdc`, found {text:?}")),
        }
    }
}

/// Where the WAL that a snapshot needs comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WalMode {
    /// From the WAL archive, waited for.
    #[default]
    Archive,
    /// Stored with the snapshot.
    Copy,
}

impl std::str::FromStr for WalMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "archive" => Ok(WalMode::Archive),
            "copy" => Ok(WalMode::Copy),
            _ => Err(format!("expected `archive` or `copy`, found {text:?}")),
        }
    }
}

/// The keys of all commands.
#[derive(Clone, Debug, Default)]
pub struct GlobalKeys {
    /// `repo`: a URL or path, or the name of a repository in the file.
    pub repo: Option<OsString>,
    /// `cluster`: its name.
    pub cluster: Option<String>,
    /// `json`: answers as JSON.
    pub json: Option<bool>,
    /// `quiet`: warnings and errors only.
    pub quiet: Option<bool>,
    /// `verbose`: details, too.
    pub verbose: Option<bool>,
    /// `no-progress`: neither bars nor periodic lines.
    pub no_progress: Option<bool>,
    /// `jobs`: threads for CPU work.
    pub jobs: Option<NonZeroUsize>,
    /// `state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `cache-dir`.
    pub cache_dir: Option<PathBuf>,
    /// `retry-time`: for how long what fails for a passing reason is tried again.
    pub retry_time: Option<Duration>,
}

/// The policy keys of a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterKeys {
    /// `pgdata`: the data directory.
    pub pgdata: Option<PathBuf>,
    /// `dsn`: libpq words or URL.
    pub dsn: Option<String>,
    /// `repositories`: names of repositories in the file.
    pub repositories: Option<Vec<String>>,
    /// `chunker`.
    pub chunker: Option<Chunker>,
    /// `trust-writers`: keys whose packs this host relies on besides its own.
    pub trust_writers: Option<Vec<KeyId>>,
    /// `wal`.
    pub wal: Option<WalMode>,
    /// `wal-timeout`.
    pub wal_timeout: Option<Duration>,
    /// `keep-*` and `pitr-window`.
    pub retention: RetentionKeys,
}

impl ClusterKeys {
    /// These keys, and those of `lower` where these are unset.
    pub(super) fn over(&self, lower: &ClusterKeys) -> ClusterKeys {
        ClusterKeys {
            pgdata: self.pgdata.as_ref().or(lower.pgdata.as_ref()).cloned(),
            dsn: self.dsn.as_ref().or(lower.dsn.as_ref()).cloned(),
            repositories: self.repositories.as_ref().or(lower.repositories.as_ref()).cloned(),
            chunker: self.chunker.or(lower.chunker),
            trust_writers: self.trust_writers.as_ref().or(lower.trust_writers.as_ref()).cloned(),
            wal: self.wal.or(lower.wal),
            wal_timeout: self.wal_timeout.or(lower.wal_timeout),
            retention: self.retention.over(&lower.retention),
        }
    }
}

/// The ways to a repository's key; one source may use one of them.
#[derive(Clone, Debug, Default)]
pub struct SecretKeys {
    /// `PGCAIRN_PASSPHRASE`, in the environment alone.
    pub passphrase: Option<Passphrase>,
    /// `passphrase-file`.
    pub passphrase_file: Option<PathBuf>,
    /// `passphrase-command`.
    pub passphrase_command: Option<String>,
    /// `key-file`.
    pub key_file: Option<PathBuf>,
    /// `key-command`.
    pub key_command: Option<String>,
}

impl SecretKeys {
    /// The one that is set, if any; `place` is where, for the message.
    ///
    /// # Errors
    /// If several are.
    pub fn source(&self, place: impl FnOnce() -> String) -> Result<Option<SecretSource>, ConfigError> {
        let mut set = Vec::new();
        if let Some(passphrase) = &self.passphrase {
            set.push(("PGCAIRN_PASSPHRASE", SecretSource::Passphrase(passphrase.clone())));
        }
        if let Some(path) = &self.passphrase_file {
            set.push(("passphrase-file", SecretSource::PassphraseFile(path.clone())));
        }
        if let Some(command) = &self.passphrase_command {
            set.push(("passphrase-command", SecretSource::PassphraseCommand(command.clone())));
        }
        if let Some(path) = &self.key_file {
            set.push(("key-file", SecretSource::KeyFile(path.clone())));
        }
        if let Some(command) = &self.key_command {
            set.push(("key-command", SecretSource::KeyCommand(command.clone())));
        }
        match set.len() {
            0 | 1 => Ok(set.pop().map(|(_, source)| source)),
            _ => Err(ConfigError::SeveralSecrets { place: place(), names: set.into_iter().map(|(name, _)| name).collect() }),
        }
    }
}

/// What the command line sets. Relative paths in it count from the working folder.
#[derive(Clone, Debug, Default)]
pub struct FlagOverrides {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Flags of all commands.
    pub global: GlobalKeys,
    /// Policy flags of the cluster.
    pub cluster: ClusterKeys,
    /// `--passphrase-file`, `--passphrase-command`, `--key-file`, `--key-command`.
    pub secret: SecretKeys,
    /// `--endpoint` and the like.
    pub bucket: BucketKeys,
}

/// Is it a name that clusters and repositories can have?
pub(super) fn check_name(what: &'static str, name: &str) -> Result<(), ConfigError> {
    let fine = (1..=64).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    if fine { Ok(()) } else { Err(ConfigError::BadName { what, name: name.chars().take(80).collect() }) }
}

pub(super) fn read_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(format!("expected `true` or `false`, found {text:?}")),
    }
}

pub(super) fn read_jobs(text: &str) -> Result<NonZeroUsize, String> {
    let jobs = text.trim().parse::<NonZeroUsize>().ok().filter(|jobs| jobs.get() <= 1024);
    jobs.ok_or_else(|| format!("expected a number of threads from 1 to 1024, found {text:?}"))
}

pub(super) fn read_duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("expected a duration such as `90s`, `10min` or `1h30m`, found {text:?}"))
}

pub(super) fn read_key_id(text: &str) -> Result<KeyId, String> {
    text.parse::<KeyId>().map_err(|e| e.to_string())
}
