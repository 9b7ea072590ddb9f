//! Where state and cache lie.
//!
//! State: flag, `PGCAIRN_STATE_DIR` or `state-dir`, else `$XDG_STATE_HOME/pgcairn`, else `~/.local/state/pgcairn`; it
//! must be ours and 0700. Cache: the same with `cache`, `~/.cache/pgcairn`; one that can't be had is done without.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::env::Env;
pub use super::files::Owner;
use super::files::create_private_folder;
use crate::units::{Class, Explain, Progress, class_of_io};

/// Why there is no state folder.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// Neither configured nor derivable.
    #[error("there is no place for the state of this host: user {uid} has no home, and no state-dir is set")]
    NoHome {
        /// The user.
        uid: u32,
    },
    /// A folder can't be created or looked at.
    #[error("cannot use the state folder {}", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder belongs to somebody else.
    #[error("the state folder {} belongs to user {owner}, this is user {uid}", path.display())]
    OtherOwner {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are, or write for.
        uid: u32,
    },
    /// Others can enter the folder, and that can't be changed.
    #[error("the state folder {} holds keys, and its mode {mode:03o} lets others in", path.display())]
    TooOpen {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Why it can't be changed.
        source: io::Error,
    },
}

impl Explain for PathsError {
    fn class(&self) -> Class {
        match self {
            PathsError::NoHome { .. } => Class::Usage,
            PathsError::OtherOwner { .. } => Class::Denied,
            PathsError::TooOpen { .. } => Class::Refused,
            PathsError::Unusable { source, .. } => match class_of_io(source) {
                Class::Absent => Class::Failed,
                class => class,
            },
        }
    }

    fn cure(&self) -> Option<String> {
        Some(match self {
            PathsError::NoHome { .. } => "set PGCAIRN_STATE_DIR (or state-dir) to a folder that only this user can enter".into(),
            PathsError::Unusable { .. } => "set PGCAIRN_STATE_DIR (or state-dir) to a folder that this user can write".into(),
            PathsError::OtherOwner { .. } => {
                "run as that user (the server's), or name a folder that does not exist yet: it is created with the right owner and mode"
                    .into()
            }
            PathsError::TooOpen { path, .. } => format!("chmod 0700 {}", path.display()),
        })
    }
}

/// The user's home: `HOME` where it is this user's folder, else the one in the user database, else none.
pub fn home(env: &dyn Env) -> Option<PathBuf> {
    // `sudo -u postgres` keeps root's HOME: files of ours would land with, or be taken from, somebody else.
    let ours = |path: &PathBuf| path.is_absolute() && path.metadata().is_ok_and(|m| m.is_dir() && m.uid() == env.uid());
    env.filled("HOME").map(PathBuf::from).filter(ours).or_else(|| env.passwd_home().filter(|home| home.is_absolute()))
}

/// An XDG folder: the variable where it is absolute (the XDG specification ignores others), else below the home.
fn xdg(env: &dyn Env, variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = env.filled(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| home(env).map(|home| home.join(below_home))).map(|base| base.join("pgcairn"))
}

/// The folder of what this host can't rebuild: ours alone, 0700.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    owner: Option<Owner>,
}

impl StateDir {
    /// Where the state lies, whether it is there or not. `configured` is [`super::Settings::state_dir`].
    pub fn locate(configured: Option<&Path>, env: &dyn Env) -> Result<PathBuf, PathsError> {
        configured
            .map(Path::to_path_buf)
            .or_else(|| xdg(env, "XDG_STATE_HOME", ".local/state"))
            .ok_or(PathsError::NoHome { uid: env.uid() })
    }

    /// Opens the state folder, creating it where it is missing. A mode that lets others in is corrected and reported.
    pub fn open(configured: Option<&Path>, env: &dyn Env, progress: &dyn Progress) -> Result<Self, PathsError> {
        let path = Self::locate(configured, env)?;
        open_private(&path, env.uid(), None, progress)?;
        Ok(StateDir { path, owner: None })
    }

    /// Opens or creates this user's state folder at a given place.
    pub fn open_at(path: &Path, progress: &dyn Progress) -> Result<Self, PathsError> {
        open_private(path, nix::unistd::geteuid().as_raw(), None, progress)?;
        Ok(StateDir { path: path.to_path_buf(), owner: None })
    }

    /// Opens or creates a state folder that root writes for `owner`: all that is created in it is given to them.
    pub fn open_for(path: &Path, owner: Owner, progress: &dyn Progress) -> Result<Self, PathsError> {
        open_private(path, owner.uid, Some(owner), progress)?;
        Ok(StateDir { path: path.to_path_buf(), owner: Some(owner) })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whom files are given to, if not to ourselves.
    pub(super) fn owner(&self) -> Option<Owner> {
        self.owner
    }
}

fn open_private(path: &Path, uid: u32, owner: Option<Owner>, progress: &dyn Progress) -> Result<(), PathsError> {
    let unusable = |source| PathsError::Unusable { path: path.to_path_buf(), source };
    create_private_folder(path, owner).map_err(unusable)?;
    let found = path.metadata().map_err(unusable)?;
    if found.uid() != uid {
        return Err(PathsError::OtherOwner { path: path.to_path_buf(), owner: found.uid(), uid });
    }
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(|source| PathsError::TooOpen {
            path: path.to_path_buf(),
            mode,
            source,
        })?;
        progress.warn(&format!("the state folder {} was open to others (mode {mode:03o}): changed to 0700", path.display()));
    }
    Ok(())
}

/// The cache folder, created where it is missing; `None`, with a message, where it can't be had: a cache is done without.
pub fn cache_dir(configured: Option<&Path>, env: &dyn Env, progress: &dyn Progress) -> Option<PathBuf> {
    let Some(path) = configured.map(Path::to_path_buf).or_else(|| xdg(env, "XDG_CACHE_HOME", ".cache")) else {
        progress.detail("no cache: this user has no home, and no cache-dir is set");
        return None;
    };
    match usable_cache(&path, env.uid()) {
        Ok(()) => Some(path),
        Err(problem) => {
            let text = format!("working without a cache: {}: {problem}", path.display());
            if configured.is_some() {
                progress.warn(&text)
            } else {
                progress.detail(&text)
            }
            None
        }
    }
}

fn usable_cache(path: &Path, uid: u32) -> io::Result<()> {
    create_private_folder(path, None)?;
    let found = path.metadata()?;
    if found.uid() != uid {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it belongs to user {}", found.uid())));
    }
    if found.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o700))?;
    }
    access(path, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::super::env::FixedEnv;
    use super::*;
    use crate::units::Quiet;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn home_is_ours_or_looked_up() {
        let dir = tempfile::tempdir().unwrap();
        let passwd = dir.path().join("passwd-home");
        let mut env = FixedEnv::empty(dir.path());
        assert_eq!(home(&env), None, "an empty environment and a user that nobody knows");
        env.home = Some(passwd.clone());
        assert_eq!(home(&env).as_ref(), Some(&passwd));
        let env = env.with("HOME", dir.path());
        assert_eq!(home(&env).as_deref(), Some(dir.path()));
        for other in ["", "relative", "/does/not/exist"] {
            assert_eq!(home(&env.clone().with("HOME", other)).as_ref(), Some(&passwd), "{other}");
        }
        let mut env = env;
        env.uid = env.uid.wrapping_add(1);
        assert_eq!(home(&env).as_ref(), Some(&passwd), "another user's HOME");
    }

    #[test]
    fn state_follows_setting_then_xdg_then_home() {
        let dir = tempfile::tempdir().unwrap();
        let env = FixedEnv::empty(dir.path());
        assert!(matches!(StateDir::locate(None, &env), Err(PathsError::NoHome { .. })));
        let env = env.with("HOME", dir.path());
        assert_eq!(StateDir::locate(None, &env).unwrap(), dir.path().join(".local/state/pgcairn"));
        let env = env.with("XDG_STATE_HOME", "relative");
        assert_eq!(StateDir::locate(None, &env).unwrap(), dir.path().join(".local/state/pgcairn"));
        let env = env.with("XDG_STATE_HOME", "/xdg");
        assert_eq!(StateDir::locate(None, &env).unwrap(), Path::new("/xdg/pgcairn"));
        assert_eq!(StateDir::locate(Some(Path::new("/set")), &env).unwrap(), Path::new("/set"));
    }

    #[test]
    fn state_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let env = FixedEnv::empty(dir.path());
        let path = dir.path().join("deep/state");
        let state = StateDir::open(Some(&path), &env, &Quiet).unwrap();
        assert_eq!(mode(state.path()), 0o700);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        StateDir::open(Some(&path), &env, &Quiet).unwrap();
        assert_eq!(mode(&path), 0o700);
        let mut other = env.clone();
        other.uid += 1;
        let error = StateDir::open(Some(&path), &other, &Quiet).unwrap_err();
        assert!(matches!(error, PathsError::OtherOwner { .. }), "{error}");
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(StateDir::open(Some(&file), &env, &Quiet), Err(PathsError::Unusable { .. })));
    }

    #[test]
    fn a_cache_that_cannot_be_had_is_done_without() {
        let dir = tempfile::tempdir().unwrap();
        let env = FixedEnv::empty(dir.path());
        assert_eq!(cache_dir(None, &env, &Quiet), None);
        let path = dir.path().join("cache");
        assert_eq!(cache_dir(Some(&path), &env, &Quiet).as_ref(), Some(&path));
        assert_eq!(mode(&path), 0o700);
        let mut other = env.clone();
        other.uid += 1;
        assert_eq!(cache_dir(Some(&path), &other, &Quiet), None);
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert_eq!(cache_dir(Some(&file.join("below")), &env, &Quiet), None);
        let env = env.with("HOME", dir.path());
        assert_eq!(cache_dir(None, &env, &Quiet), Some(dir.path().join(".cache/pgcairn")));
    }
}
