//! `init`: a new repository, and the lines for postgresql.conf.

use std::io::{self, Write};

use serde::Serialize;

use super::context::{Context, Here};
use super::contract::Exit;
use super::failure::Failure;
use super::output::{answered, json};
use super::own_command::OwnCommand;
use super::{postgresql_conf, secret_file};
use crate::crypt::slot::{Kdf, Lock, Unlock};
use crate::host::access::{self, Created, Need, NewRepository};
use crate::host::config::{ConfigError, SecretSource};

/// Arguments of `init`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Anyone who reads the repository reads the data
    #[arg(long)]
    no_encryption: bool,
    /// For tests: a passphrase that is cheap to guess (64 MiB, 1 pass)
    #[arg(long)]
    test_kdf: bool,
    /// This host may not forget snapshots nor reclaim space
    #[arg(long)]
    no_prune: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let clusters = clusters(context)?;
    let cluster = context.cluster_if_one()?;
    let here = context.here(cluster.as_ref(), Need::Write)?;
    let unlock = unlock(context, &here, args.no_encryption)?;
    let new = NewRepository { lock: lock(&unlock, args.test_kdf)?, maintainer: !args.no_prune };
    let created = access::create(&here.place(&context.reporter), &new)?;
    let mut settings = Vec::new();
    for name in &clusters {
        let command = OwnCommand::find(context, &here, name)?.line(&["archive-push", "%p"]);
        settings.push(ClusterLines { cluster: name, postgresql_conf: postgresql_conf::archiving(&command) });
    }
    let answer = Answer::new(&created, &here, &new, &settings);
    let out = &mut io::stdout().lock();
    answered(if context.settings.json { json::write(out, &answer) } else { answer.write_text(out, args.test_kdf) })?;
    Ok(Exit::DONE)
}

/// The clusters that the lines are for: the one that is meant, else all that are configured.
fn clusters(context: &Context) -> Result<Vec<String>, Failure> {
    match context.settings.cluster(None) {
        Ok(cluster) => Ok(vec![cluster.name]),
        Err(ConfigError::Which { known, .. }) => Ok(known),
        Err(error) => Err(error.into()),
    }
}

/// What will open the repository.
fn unlock(context: &Context, here: &Here, no_encryption: bool) -> Result<Unlock, Failure> {
    match (&here.repository.secret, no_encryption) {
        (None, true) => Ok(Unlock::Clear),
        (None, false) => Err(Failure::usage(
            "nothing says how the repository is to be encrypted",
            "choose one: --passphrase-file FILE (or PGCAIRN_PASSPHRASE, --passphrase-command), --key-file FILE (written if it is not there), or --no-encryption",
        )),
        (Some(source), true) => Err(Failure::usage(format!("--no-encryption was given, and {source}, too"), "leave one of them")),
        (Some(source), false) => {
            if let SecretSource::KeyFile(path) = source {
                secret_file::write_key_file(path, context)?;
            }
            Ok(access::unlock_with(source)?)
        }
    }
}

/// As a lock of the first slot.
fn lock(unlock: &Unlock, test_kdf: bool) -> Result<Lock<'_>, Failure> {
    match unlock {
        Unlock::Passphrase(passphrase) => Ok(Lock::Passphrase(passphrase, if test_kdf { Kdf::TEST } else { Kdf::STRONG })),
        Unlock::KeyFile(secret) => Ok(Lock::KeyFile(secret)),
        Unlock::Clear => Ok(Lock::Clear),
        Unlock::Command(_) => Err(Failure::usage(
            "a repository is not begun with a command that unwraps its key",
            "create it with --passphrase-file or --key-file, and then run `pgcairn key add --command`",
        )),
        Unlock::Root(_) => {
            Err(Failure::usage("this key file holds the keys of a repository that exists", "give --key-file a new name: it is written"))
        }
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    version: u32,
    repository: String,
    url: String,
    encryption: &'static str,
    owner_key: String,
    host_key: Option<String>,
    slot: &'a str,
    maintainer: bool,
    /// The lines of the one cluster that is meant; none where several are configured.
    postgresql_conf: &'a [String],
    clusters: &'a [ClusterLines<'a>],
}

#[derive(Serialize)]
struct ClusterLines<'a> {
    cluster: &'a str,
    postgresql_conf: [String; 3],
}

impl<'a> Answer<'a> {
    fn new(created: &'a Created, here: &Here, new: &NewRepository<'_>, clusters: &'a [ClusterLines<'a>]) -> Self {
        Answer {
            version: 1,
            repository: created.opened.format.repository.to_string(),
            url: here.repository.url.to_string(),
            encryption: match new.lock {
                Lock::Passphrase(..) => "passphrase",
                Lock::KeyFile(_) => "key-file",
                Lock::Clear => "none",
                Lock::Wrapped { .. } => "command",
            },
            owner_key: created.opened.owner.id().to_string(),
            host_key: created.opened.signer.as_ref().map(|key| key.id().to_string()),
            slot: &created.slot,
            maintainer: new.maintainer,
            postgresql_conf: match clusters {
                [one] => &one.postgresql_conf,
                _ => &[],
            },
            clusters,
        }
    }

    fn write_text(&self, out: &mut dyn Write, test_kdf: bool) -> io::Result<()> {
        writeln!(out, "created repository {} at {}", self.repository, self.url)?;
        writeln!(out, "owner's key  {}", self.owner_key)?;
        writeln!(
            out,
            "key slot     {} ({})",
            self.slot,
            match self.encryption {
                "passphrase" if test_kdf => "passphrase, cheap to guess: --test-kdf",
                "passphrase" => "passphrase",
                "key-file" => "key file",
                _ => "in clear",
            }
        )?;
        let roles = if self.maintainer { "writer, reader, maintainer" } else { "writer, reader" };
        writeln!(out, "this host    {} ({roles})", self.host_key.as_deref().unwrap_or("none"))?;
        writeln!(out)?;
        match self.encryption {
            "passphrase" => writeln!(
                out,
                "Keep the passphrase in a safe place as well: without it, and without this host's key, nothing can be restored."
            )?,
            "key-file" => writeln!(
                out,
                "Keep a copy of the key file in a safe place: without it, and without this host's key, nothing can be restored."
            )?,
            _ => writeln!(
                out,
                "Not encrypted: whoever can read the repository can read all data, and whoever can write it can change\nwhat is restored without being noticed."
            )?,
        }
        for lines in self.clusters {
            writeln!(out, "\nFor cluster {}, these lines belong into postgresql.conf; restart the server afterwards:\n", lines.cluster)?;
            writeln!(out, "{}", lines.postgresql_conf.join("\n"))?;
        }
        if !self.clusters.is_empty() {
            writeln!(out, "\nThen `pgcairn check` says whether all of it works; and before you need it, try a restore.")?;
        }
        out.flush()
    }
}
