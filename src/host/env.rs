//! The environment of the process as a value: variables, user, home, working folder.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// What settings depend on besides flags and files. An archiver's environment may be empty, so nothing is taken for
/// granted.
pub trait Env {
    /// A variable's value, `None` if it isn't set.
    fn var(&self, name: &str) -> Option<OsString>;

    /// The effective user id.
    fn uid(&self) -> u32;

    /// The home that the user database names for [`Env::uid`].
    fn passwd_home(&self) -> Option<PathBuf>;

    /// The working folder.
    fn working_folder(&self) -> io::Result<PathBuf>;

    /// The configuration file of the machine.
    fn system_config(&self) -> PathBuf {
        PathBuf::from("/etc/pgcairn/config.toml")
    }

    /// A variable that is set and not empty: an empty one counts as not set.
    fn filled(&self, name: &str) -> Option<OsString> {
        self.var(name).filter(|value| !value.is_empty())
    }
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn uid(&self) -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn passwd_home(&self) -> Option<PathBuf> {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten()?;
        Some(user.dir).filter(|home| home.is_absolute())
    }

    fn working_folder(&self) -> io::Result<PathBuf> {
        std::env::current_dir()
    }
}

/// An environment made up by a test.
#[cfg(test)]
#[derive(Clone, Debug)]
pub struct FixedEnv {
    /// The variables.
    pub vars: std::collections::BTreeMap<String, OsString>,
    /// The user.
    pub uid: u32,
    /// The user's home in the user database.
    pub home: Option<PathBuf>,
    /// The working folder.
    pub folder: PathBuf,
    /// The machine's configuration file.
    pub system: PathBuf,
}

#[cfg(test)]
impl FixedEnv {
    /// No variables, this process's user, no home, working in `folder`.
    pub fn empty(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        let system = folder.join("etc/pgcairn/config.toml");
        FixedEnv { vars: Default::default(), uid: ProcessEnv.uid(), home: None, folder, system }
    }

    /// With one more variable.
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.vars.insert(name.into(), value.into());
        self
    }
}

#[cfg(test)]
impl Env for FixedEnv {
    fn var(&self, name: &str) -> Option<OsString> {
        self.vars.get(name).cloned()
    }

    fn uid(&self) -> u32 {
        self.uid
    }

    fn passwd_home(&self) -> Option<PathBuf> {
        self.home.clone()
    }

    fn working_folder(&self) -> io::Result<PathBuf> {
        Ok(self.folder.clone())
    }

    fn system_config(&self) -> PathBuf {
        self.system.clone()
    }
}
