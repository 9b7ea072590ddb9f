//! The environment of the process as a value: variables, user, home, working folder.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

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
/// The variables by which clients of S3-compatible services are told what to do: `AWS_*` and those of proxies.
pub fn service_variables(all: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
    let fits = |name: &str| name.starts_with("AWS_") || PROXIES.contains(&name.to_ascii_uppercase().as_str());
    all.filter(|(name, _)| name.to_str().is_some_and(fits)).collect()
}

/// The same of another process, as it began; none where this user may not look (proc(5), `environ`).
pub fn service_variables_of(pid: u32) -> Vec<(OsString, OsString)> {
    let bytes = super::files::read_bounded(Path::new(&format!("/proc/{pid}/environ")), 4 << 20).ok().flatten().unwrap_or_default();
    let pair = |word: &[u8]| {
        let at = word.iter().position(|b| *b == b'=')?;
        let (name, value) = (word.get(..at)?, word.get(at + 1..)?);
        Some((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value).to_owned()))
    };
    service_variables(bytes.split(|b| *b == 0).filter_map(pair))
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
