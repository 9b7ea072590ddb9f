//! `key`: what opens the repository, and which hosts may do what in it.
//!
//! - `list.rs`: slots, hosts, content keys, and this host among them
//! - `slots.rs`: `add`, `remove`, `export`, `rotate`
//! - `hosts.rs`: `add-host`, `accept`, `remove-host`, `claim-host`, `forget-host`

mod hosts;
mod list;
mod slots;

use std::path::PathBuf;

use super::args::GlobalFlags;
use super::context::{Context, Here};
use super::contract::Exit;
use super::failure::Failure;
use crate::host::access::{Need, Opened};
use crate::host::config::SecretSource;
use crate::host::owner::{self, Owner};

/// The subcommands of `key`.
#[derive(clap::Subcommand, Debug)]
pub(in crate::cli) enum Command {
    /// List key slots, hosts and content keys
    List,
    /// Add a key slot: another passphrase, key file or command that opens the repository
    Add(slots::AddArgs),
    /// Remove a key slot
    Remove(slots::RemoveArgs),
    /// Write all keys to a file, for the safe: it opens the repository even if no key slot is left
    Export(slots::ExportArgs),
    /// Seal what is written from now on to a new key
    Rotate(With),
    /// Enrol a host, or give one more rights or the newest keys: writes a file for it
    AddHost(hosts::AddArgs),
    /// Take the keys that the owner granted this host in a file
    Accept(hosts::AcceptArgs),
    /// End a host's rights: what it appends later is void
    RemoveHost(hosts::RemoveArgs),
    /// Say that no other host has this host's key, after its machine was set back or moved
    ClaimHost(hosts::ClaimArgs),
    /// Remove this host's own keys, and what it knows of the repository
    ForgetHost(hosts::ForgetArgs),
}

/// What opens key slots besides the settings of all commands.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct With {
    /// A passphrase file that opens a key slot, besides what is configured (more than once: several)
    #[arg(long, value_name = "FILE")]
    with_passphrase_file: Vec<PathBuf>,
    /// A key file that opens a key slot, besides what is configured
    #[arg(long, value_name = "FILE")]
    with_key_file: Vec<PathBuf>,
    /// A command that unwraps a slot's key, besides what is configured
    #[arg(long, value_name = "COMMAND")]
    with_key_command: Vec<String>,
}

impl With {
    fn sources(&self) -> Vec<SecretSource> {
        let passphrases = self.with_passphrase_file.iter().cloned().map(SecretSource::PassphraseFile);
        let files = self.with_key_file.iter().cloned().map(SecretSource::KeyFile);
        passphrases.chain(files).chain(self.with_key_command.iter().cloned().map(SecretSource::KeyCommand)).collect()
    }
}

impl Command {
    /// The flags of all commands that name a passphrase or key file name, for `key add`, the new one.
    pub(super) fn take_new_secret(&mut self, global: &mut GlobalFlags) {
        if let Command::Add(args) = self {
            args.new = global.take_secret();
        }
    }
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::List => list::run(context),
        Command::Add(args) => slots::add(context, args),
        Command::Remove(args) => slots::remove(context, args),
        Command::Export(args) => slots::export(context, args),
        Command::Rotate(with) => slots::rotate(context, with),
        Command::AddHost(args) => hosts::add(context, args),
        Command::Accept(args) => hosts::accept(context, args),
        Command::RemoveHost(args) => hosts::remove(context, args),
        Command::ClaimHost(args) => hosts::claim(context, args),
        Command::ForgetHost(args) => hosts::forget(context, args),
    }
}

/// The repository's place.
fn here(context: &Context, need: Need) -> Result<Here, Failure> {
    let cluster = context.cluster_if_one()?;
    context.here(cluster.as_ref(), need)
}

/// Opens the repository as its owner.
fn as_owner(context: &Context, with: &With) -> Result<(Here, Opened, Owner), Failure> {
    let mut here = here(context, Need::Read)?;
    let mut more = with.sources();
    if here.repository.secret.is_none() && !more.is_empty() {
        here.repository.secret = Some(more.remove(0));
    }
    let (opened, owner) = owner::open_as_owner(&here.place(&context.reporter), &more)?;
    Ok((here, opened, owner))
}
