//! The flags of all commands. Each has a key of the same name in the configuration file, and a variable.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values;
use crate::host::config::{BucketKeys, ClusterKeys, FlagOverrides, GlobalKeys, Price, SecretKeys};

/// Flags of all commands.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of all commands")]
pub struct GlobalFlags {
    /// Configuration file [default: ~/.config/pgcairn/config.toml, else /etc/pgcairn/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Repository: a path, file:///path, s3://bucket/prefix, or its name in the configuration file
    #[arg(long, global = true, value_name = "URL")]
    repo: Option<OsString>,
    /// Cluster, by the name that you gave it [default: the only one configured, else main]
    #[arg(long, global = true, value_name = "NAME")]
    cluster: Option<String>,
    /// Answer as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Warnings and errors only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Details, too
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Neither bars nor periodic lines
    #[arg(long, global = true)]
    no_progress: bool,
    /// Threads for compression, hashing and encryption [default: one a core]
    #[arg(long, global = true, value_name = "N", value_parser = values::jobs)]
    jobs: Option<NonZeroUsize>,
    /// Folder of what this host must not lose: its keys, what it saw [default: ~/.local/state/pgcairn]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Folder of what may be deleted at any time [default: ~/.cache/pgcairn]
    #[arg(long, global = true, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// File with the passphrase, one line
    #[arg(long, global = true, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Command of the shell that prints the passphrase
    #[arg(long, global = true, value_name = "COMMAND")]
    passphrase_command: Option<String>,
    /// Key file, as `init` writes it, or what `key export` wrote
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Command of the shell that unwraps a slot's key: see `key add --command`
    #[arg(long, global = true, value_name = "COMMAND")]
    key_command: Option<String>,
    /// For how long what fails for a passing reason is tried again [default: 10min]
    #[arg(long, global = true, value_name = "DURATION", value_parser = values::duration)]
    retry_time: Option<Duration>,
    #[command(flatten)]
    bucket: BucketFlags,
}

/// Flags of repositories in a bucket.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of repositories in a bucket (s3://BUCKET/PREFIX)")]
pub struct BucketFlags {
    /// URL of an S3-compatible service [default: AWS_ENDPOINT_URL, else Amazon's of the region]
    #[arg(long, global = true, value_name = "URL", value_parser = values::endpoint)]
    endpoint: Option<String>,
    /// Region [default: AWS_REGION, the profile's, the instance's]
    #[arg(long, global = true, value_name = "NAME", value_parser = values::word)]
    region: Option<String>,
    /// Name the bucket in the path, not in the host's name [default: true with an endpoint]
    #[arg(long, global = true, value_name = "BOOL", hide_short_help = true)]
    path_style: Option<bool>,
    /// Authorities (PEM) that are trusted for the service, and no others
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    ca_file: Option<PathBuf>,
    /// Storage class of packs
    #[arg(long, global = true, value_name = "CLASS", value_parser = values::word, hide_short_help = true)]
    storage_class: Option<String>,
    /// Storage class of everything else
    #[arg(long, global = true, value_name = "CLASS", value_parser = values::word, hide_short_help = true)]
    storage_class_small: Option<String>,
    /// What the service shall encrypt with: AES256, aws:kms, aws:kms:dsse
    #[arg(long, global = true, value_name = "KIND", value_parser = values::word, hide_short_help = true)]
    server_side_encryption: Option<String>,
    /// Key of the service's for aws:kms
    #[arg(long, global = true, value_name = "KEY", value_parser = values::word, hide_short_help = true)]
    kms_key: Option<String>,
    /// This is the only process that ever writes: for services that ignore If-None-Match
    #[arg(long, global = true, value_name = "BOOL", hide_short_help = true)]
    single_writer: Option<bool>,
    /// Lock what a snapshot needs against deletion for so many days (object lock)
    #[arg(long, global = true, value_name = "DAYS", value_parser = values::days, hide_short_help = true)]
    lock_days: Option<u32>,
    /// Dollars for a gigabyte that leaves the store: backups read old pages where that is worth it
    #[arg(long, global = true, value_name = "DOLLARS", value_parser = values::price, hide_short_help = true)]
    egress_price: Option<Price>,
}

impl BucketFlags {
    fn keys(&self) -> BucketKeys {
        BucketKeys {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            ca_file: self.ca_file.clone(),
            storage_class: self.storage_class.clone(),
            small_storage_class: self.storage_class_small.clone(),
            encryption: self.server_side_encryption.clone(),
            kms_key: self.kms_key.clone(),
            single_writer: self.single_writer,
            lock_days: self.lock_days,
            egress_price: self.egress_price,
        }
    }
}

impl GlobalFlags {
    /// Takes out what would open a repository: `key add` means by these flags what shall open it.
    pub(in crate::cli) fn take_secret(&mut self) -> SecretKeys {
        SecretKeys {
            passphrase: None,
            passphrase_file: self.passphrase_file.take(),
            passphrase_command: self.passphrase_command.take(),
            key_file: self.key_file.take(),
            key_command: None,
        }
    }

    /// What they set, with a command's policy flags.
    pub fn overrides(&self, cluster: ClusterKeys) -> FlagOverrides {
        let set = |flag: bool| flag.then_some(true);
        FlagOverrides {
            config: self.config.clone(),
            global: GlobalKeys {
                repo: self.repo.clone(),
                cluster: self.cluster.clone(),
                json: set(self.json),
                quiet: set(self.quiet),
                verbose: set(self.verbose),
                no_progress: set(self.no_progress),
                jobs: self.jobs,
                state_dir: self.state_dir.clone(),
                cache_dir: self.cache_dir.clone(),
                retry_time: self.retry_time,
            },
            cluster,
            secret: SecretKeys {
                passphrase: None,
                passphrase_file: self.passphrase_file.clone(),
                passphrase_command: self.passphrase_command.clone(),
                key_file: self.key_file.clone(),
                key_command: self.key_command.clone(),
            },
            bucket: self.bucket.keys(),
        }
    }
}
