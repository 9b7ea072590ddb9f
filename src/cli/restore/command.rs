//! The restore_command, and the key that it will find.
//!
//! The server runs it later, as its own user, with next to nothing in its environment. If the key that this run used
//! lies where that user will look (the state folder of an enrolled host), nothing more is needed; else a state folder is
//! written beside the target, for the target's owner alone, and named in the command.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use super::args::Args;
use crate::cli::context::{Context, Here};
use crate::cli::failure::Failure;
use crate::cli::own_command::OwnCommand;
use crate::host::StateDir;
use crate::host::access::Opened;
use crate::host::paths::Owner;
use crate::host::state::{Head, HostKeys, Pin, Secret32, StateError};
use crate::repo::log::LiveCommit;
use crate::units::Progress;

/// How WAL is fetched.
pub(super) struct GetCommand {
    line: OsString,
    /// Where a key is put, and for which repository.
    key: Option<PathBuf>,
    url: crate::host::config::RepositoryUrl,
    /// An earlier restore has put one there.
    present: bool,
}

impl GetCommand {
    /// Finds out what the server will run, before anything is written.
    pub fn find(context: &Context, here: &Here, opened: &Opened, args: &Args, commit: &LiveCommit) -> Result<Self, Failure> {
        let url = here.repository.url.clone();
        if let Some(line) = &args.restore_command {
            return Ok(GetCommand { line: line.into(), key: None, url, present: false });
        }
        let target = crate::restore::resolve(&args.to)?;
        // Root gives the files to another user, who will run the server; everybody else owns what he restores.
        let own = opened.signer.is_some() && here.state.is_some() && !nix::unistd::geteuid().is_root();
        let key = (!own).then(|| beside(&target));
        let command = match &key {
            Some(folder) => OwnCommand::find(context, here, &commit.summary.cluster)?.with_state(folder),
            None => OwnCommand::find(context, here, &commit.summary.cluster)?,
        };
        let identifier = commit.summary.system_identifier.to_string();
        let line = command.line(&["archive-get", "--system-identifier", &identifier, "%f", "\"%p\""]);
        Ok(GetCommand { line, key, url, present: false })
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

    /// Looks, before anything is written, whether a state folder can be made, and whether one of an earlier restore does or
    /// stands in the way.
    pub fn check(&mut self, context: &Context, opened: &Opened, target: &Path) -> Result<(), Failure> {
        let Some(folder) = &self.key else { return Ok(()) };
        let m = match std::fs::symlink_metadata(folder) {
            Ok(m) => m,
            Err(e) if e.kind() == ErrorKind::NotFound => return can_be_made(folder, target),
            Err(e) => return Err(Failure::io(format!("looking at {}", folder.display()), e)),
        };
        let refused = |why: &str| {
            Err(Failure::refused(
                format!("{} is there, {why}", folder.display()),
                format!("remove {} if it is of an earlier restore whose server has ended recovery", folder.display()),
            ))
        };
        // Root writes nothing into what others own: links may lie in it.
        let root = nix::unistd::geteuid().is_root();
        if !m.is_dir() {
            return refused("and is no folder");
        }
        let there = if root {
            StateDir::open_for(folder, Owner { uid: m.uid(), gid: m.gid() }, &context.reporter)
        } else {
            StateDir::open_at(folder, &context.reporter)
        };
        let Ok(state) = there else { return refused("and can't be used") };
        let pinned = state.pin(&self.url)?;
        if pinned.as_ref().is_some_and(|pin| pin.repository != opened.format.repository) {
            return refused("with the key of another repository");
        }
        self.present = pinned.is_some() && state.repository(opened.format.repository).host_keys()?.is_some();
        if root && !self.present { refused("and has no key of this repository") } else { Ok(()) }
    }

    /// Writes the state folder beside the target, for whoever owns the target. Under another name first: killed on the way,
    /// it leaves no folder that looks like one.
    pub fn place_key(&self, context: &Context, opened: &Opened, target: &Path) -> Result<(), Failure> {
        let Some(folder) = self.key.as_ref().filter(|_| !self.present) else { return Ok(()) };
        let unfinished = with_suffix(folder, ".new");
        match std::fs::remove_dir_all(&unfinished) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Failure::io(format!("removing {}", unfinished.display()), e)),
            _ => {}
        }
        let there = folder.symlink_metadata().is_ok();
        self.write_state(context, opened, target, if there { folder } else { &unfinished })?;
        if !there {
            let parent = folder.parent().unwrap_or(Path::new("/"));
            let renamed = std::fs::rename(&unfinished, folder).and_then(|()| std::fs::File::open(parent)?.sync_all());
            renamed.map_err(|e| Failure::io(format!("making {}", folder.display()), e))?;
        }
        context.reporter.info(&format!("a key for restore_command lies in {}: remove it when recovery has ended", folder.display()));
        Ok(())
    }

    fn write_state(&self, context: &Context, opened: &Opened, target: &Path, folder: &Path) -> Result<(), Failure> {
        let m = std::fs::metadata(target).map_err(|e| Failure::io(format!("looking at {}", target.display()), e))?;
        let here = nix::unistd::geteuid();
        if here.is_root() {
            // Fails if there is something by now, a link too.
            std::fs::DirBuilder::new().mode(0o700).create(folder).map_err(|e| Failure::io(format!("making {}", folder.display()), e))?;
            std::os::unix::fs::lchown(folder, Some(m.uid()), Some(m.gid()))
                .map_err(|e| Failure::io(format!("giving away {}", folder.display()), e))?;
        }
        let state = if m.uid() == here.as_raw() {
            StateDir::open_at(folder, &context.reporter)?
        } else {
            StateDir::open_for(folder, Owner { uid: m.uid(), gid: m.gid() }, &context.reporter)?
        };
        let repository = state.repository(opened.format.repository);
        if repository.host_keys()?.is_none() {
            // To read, this host's keys; to sign, none that any log knows: whoever gets hold of it appends nothing.
            let seed = crate::crypt::secret::random()?;
            repository.create_host_keys(&HostKeys { signing_seed: Secret32::new(seed), ..opened.keys.clone() })?;
        }
        let newest = opened.view().newest;
        repository.update(|seen| Ok::<(), StateError>(seen.advance(Head { number: newest.number, hash: newest.hash })?))?;
        state.remember_pin(&self.url, &Pin { repository: opened.format.repository, owner_key: *opened.owner.as_bytes() })?;
        Ok(())
    }
}

/// Is the nearest folder that is there writable? Where `target` can't be made either, that is what is said.
fn can_be_made(folder: &Path, target: &Path) -> Result<(), Failure> {
    let above = folder.ancestors().skip(1).find(|p| p.is_dir()).unwrap_or(Path::new("/"));
    nix::unistd::eaccess(above, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|e| {
        if target.symlink_metadata().is_err() {
            let (target, above) = (target.display(), above.display());
            return Failure::refused(
                format!("{target} can't be made: this user may not write to {above}: {e}"),
                format!(
                    "make {target} and {} (for restore_command's key) as root, for this user and with mode 0700; or check --to",
                    folder.display()
                ),
            );
        }
        Failure::refused(
            format!("restore_command needs a key, which would lie in {}, and {} can't be written: {e}", folder.display(), above.display()),
            format!("create {} yourself, for this user and with mode 0700, or give --restore-command", folder.display()),
        )
    })
}

/// `DIR.pgcairn`.
fn beside(target: &Path) -> PathBuf {
    with_suffix(target, ".pgcairn")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
