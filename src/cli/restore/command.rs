//! The restore_command, and the key that it will find.
//!
//! The server runs it later, as its own user, with next to nothing in its environment. If the key that this run used
//! lies where that user will look (the state folder of an enrolled host), nothing more is needed; else a state folder is
//! written beside the target, for the target's owner alone, and named in the command.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::args::Args;
use crate::cli::context::{Context, Here};
use crate::cli::failure::Failure;
use crate::cli::own_command::OwnCommand;
use crate::host::StateDir;
use crate::host::access::Opened;
use crate::host::paths::Owner;
use crate::host::state::Pin;
use crate::repo::log::LiveCommit;
use crate::units::Progress;

/// How WAL is fetched.
pub(super) struct GetCommand {
    line: OsString,
    /// Where a key is put, and for which repository.
    key: Option<PathBuf>,
    url: crate::host::config::RepositoryUrl,
}

impl GetCommand {
    /// Finds out what the server will run, before anything is written.
    pub fn find(context: &Context, here: &Here, opened: &Opened, args: &Args, commit: &LiveCommit) -> Result<Self, Failure> {
        let url = here.repository.url.clone();
        if let Some(line) = &args.restore_command {
            return Ok(GetCommand { line: line.into(), key: None, url });
        }
        let target = crate::restore::resolve(&args.to)?;
        let own = opened.signer.is_some() && here.state.is_some() && !is_for_another(commit, opened);
        let key = (!own).then(|| beside(&target));
        let command = match &key {
            Some(folder) => OwnCommand::find(context, here, &commit.summary.cluster)?.with_state(folder),
            None => OwnCommand::find(context, here, &commit.summary.cluster)?,
        };
        let identifier = commit.summary.system_identifier.to_string();
        let line = command.line(&["archive-get", "--system-identifier", &identifier, "%f", "\"%p\""]);
        Ok(GetCommand { line, key, url })
    }

    /// As a setting's value.
    pub fn line(&self) -> Result<String, Failure> {
        self.line.clone().into_string().map_err(|line| {
            let line = String::from_utf8_lossy(&line.into_vec()).into_owned();
            Failure::usage(
                format!("restore_command would hold a path that is no UTF-8: {line}"),
                "name the repository by another path, or give --restore-command",
            )
        })
    }

    /// Where the key is put, if it is.
    pub fn key_folder(&self) -> Option<&Path> {
        self.key.as_deref()
    }

    /// The server fetches no WAL: no key is put anywhere.
    pub fn is_not_needed(&mut self) {
        self.key = None;
    }

    /// Looks, before anything is written, whether a state folder of an earlier restore stands in the way.
    pub fn check(&self, context: &Context, opened: &Opened) -> Result<(), Failure> {
        let Some(folder) = self.key.as_ref().filter(|f| f.exists()) else { return Ok(()) };
        let other = match StateDir::open_at(folder, &context.reporter) {
            Ok(state) => state.pin(&self.url)?.is_some_and(|pin| pin.repository != opened.format.repository),
            // Somebody else's: whoever it is, it is not from a restore by this user.
            Err(_) => !nix::unistd::geteuid().is_root(),
        };
        if other {
            return Err(Failure::refused(
                format!("{} is there, with the key of another repository: an earlier restore has left it", folder.display()),
                format!("remove {} if its server has ended recovery", folder.display()),
            ));
        }
        Ok(())
    }

    /// Writes the state folder beside the target, for whoever owns the target.
    pub fn place_key(&mut self, context: &Context, opened: &Opened, target: &Path) -> Result<(), Failure> {
        let Some(folder) = &self.key else { return Ok(()) };
        let m = std::fs::metadata(target).map_err(|e| Failure::io(format!("looking at {}", target.display()), e))?;
        let here = nix::unistd::geteuid().as_raw();
        let state = if m.uid() == here {
            StateDir::open_at(folder, &context.reporter)?
        } else {
            StateDir::open_for(folder, Owner { uid: m.uid(), gid: m.gid() }, &context.reporter)?
        };
        let repository = state.repository(opened.format.repository);
        if repository.host_keys()?.is_none() {
            repository.create_host_keys(&opened.keys)?;
        }
        state.remember_pin(&self.url, &Pin { repository: opened.format.repository, owner_key: *opened.owner.as_bytes() })?;
        context.reporter.info(&format!("a key for restore_command lies in {}: remove it when recovery has ended", folder.display()));
        Ok(())
    }
}

/// Will another user run the server than the one who restores?
fn is_for_another(_commit: &LiveCommit, _opened: &Opened) -> bool {
    // Only root gives files to others; everybody else owns what he restores.
    nix::unistd::geteuid().is_root()
}

/// `DIR.pgcairn`.
fn beside(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".pgcairn");
    PathBuf::from(name)
}
