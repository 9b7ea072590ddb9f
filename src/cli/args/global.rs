//! The flags of all commands. Each has a key of the same name in the configuration file, and a variable.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::values;
use crate::host::config::{ClusterKeys, FlagOverrides, GlobalKeys, SecretKeys};

/// Flags of all commands.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of all commands")]
pub struct GlobalFlags {
    /// Configuration file [default: ~/.config/pgcairn/config.toml, else /etc/pgcairn/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Repository: a path, file:///path, or its name in the configuration file
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
            },
            cluster,
            secret: SecretKeys {
                passphrase: None,
                passphrase_file: self.passphrase_file.clone(),
                passphrase_command: self.passphrase_command.clone(),
                key_file: self.key_file.clone(),
                key_command: self.key_command.clone(),
            },
        }
    }
}
