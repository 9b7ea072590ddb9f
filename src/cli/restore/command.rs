//! The restore_command, and the key that its user needs.

use std::path::{Path, PathBuf};

use super::args::Args;
use crate::cli::context::{Context, Here};
use crate::cli::failure::Failure;
use crate::cli::own_command::OwnCommand;
use crate::host::StateDir;
use crate::host::access::Opened;
use crate::host::paths::Owner;
use crate::repo::log::Summary;
use crate::repo::structure::Snapshot;
use crate::restore::{self, Recovery};
use crate::units::Progress;

/// Who will run the restored server.
pub(super) struct Reader {
    /// Another user than this one: root restores for them.
    pub other: Option<Owner>,
    /// The folder for their state.
    pub state: PathBuf,
}

impl Reader {
    /// The owner of the data directory in the snapshot, where root restores and so keeps owners.
    pub fn of(to: &Path, snapshot: &Snapshot<'_>) -> Result<Self, Failure> {
        let mut state = restore::resolve(to)?.into_os_string();
        state.push(".pgcairn");
        let top = snapshot.meta().folders.iter().find(|f| f.path.is_empty());
        let owner = top.map(|t| Owner { uid: t.uid, gid: t.gid });
        let other = owner.filter(|o| nix::unistd::geteuid().is_root() && o.uid != 0);
        Ok(Reader { other, state: state.into() })
    }
}

/// What is written into restore_command.
pub(super) struct FetchCommand {
    line: String,
    /// The folder to which this host's keys are copied for another user.
    state: Option<PathBuf>,
    cure: String,
}

impl FetchCommand {
    /// The user's own, or this program with all that it needs where nothing is set.
    pub fn find(context: &Context, args: &Args, here: &Here, opened: &Opened, summary: &Summary, reader: &Reader) -> Result<Self, Failure> {
        if let Some(line) = &args.restore_command {
            return Ok(FetchCommand { line: line.clone(), state: None, cure: String::new() });
        }
        // Keys can be handed on where this host has its own.
        let state = reader.other.and(opened.signer.as_ref()).map(|_| reader.state.clone());
        let own = OwnCommand::find(context, here, &summary.cluster)?;
        let own = match &state {
            Some(folder) => own.with_state(folder),
            None => own,
        };
        let own = if opened.signer.is_none() { own.with_secret(here) } else { own };
        let identifier = summary.system_identifier.to_string();
        let line = own.line(&["archive-get", "--system-identifier", &identifier, "%f", "\"%p\""]);
        let line = line.into_string().map_err(|odd| {
            Failure::refused(
                format!("restore_command would not be UTF-8: {}", odd.to_string_lossy()),
                "use paths in UTF-8, or give --restore-command",
            )
        })?;
        Ok(FetchCommand { line, state, cure: cure(here) })
    }

    /// As it is written.
    pub fn line(&self) -> String {
        self.line.clone()
    }

    /// Does the server run it?
    pub fn is_used_by(&self, recovery: &Recovery) -> bool {
        matches!(recovery, Recovery::Target { .. } | Recovery::Standby { .. })
    }

    /// What to do if it doesn't work.
    pub fn cure(&self) -> &str {
        &self.cure
    }

    /// Copies this host's keys to where the server's user finds them.
    pub fn give_key(&self, context: &Context, opened: &Opened, reader: &Reader) -> Result<(), Failure> {
        let (Some(folder), Some(owner), Some(own)) = (&self.state, reader.other, &opened.state) else { return Ok(()) };
        let Some(keys) = own.host_keys()? else { return Ok(()) };
        let theirs = StateDir::open_for(folder, owner, &context.reporter)?.repository(own.id());
        match theirs.host_keys()? {
            Some(known) if known == keys => {}
            Some(_) => theirs.replace_host_keys(&keys)?,
            None => theirs.create_host_keys(&keys)?,
        }
        context.reporter.info(&format!(
            "user {} reads the archive with this host's key, which was copied to {}: remove it once the server is up",
            owner.uid,
            folder.display()
        ));
        Ok(())
    }
}

fn cure(here: &Here) -> String {
    format!(
        "the server's user needs to read the repository {} and a key to it: a passphrase or key file that it can read, named by \
         --passphrase-file or --key-file in restore_command (postgresql.auto.conf), or one command of its own that writes",
        here.repository.url
    )
}
