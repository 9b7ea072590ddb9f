//! This program as a command line that works with an empty environment, from any folder: for `archive_command` and
//! `restore_command`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::context::{Context, Here};
use super::failure::Failure;
use crate::host::config::{ConfigError, FlagOverrides, RepositorySettings};
use crate::host::{Env, ProcessEnv, Settings, StateDir};

/// This user, without any variable.
struct NoVariables;

impl Env for NoVariables {
    fn var(&self, _: &str) -> Option<OsString> {
        None
    }

    fn uid(&self) -> u32 {
        ProcessEnv.uid()
    }

    fn passwd_home(&self) -> Option<PathBuf> {
        ProcessEnv.passwd_home()
    }

    fn working_folder(&self) -> io::Result<PathBuf> {
        Ok(PathBuf::from("/"))
    }
}

/// The program and the flags that it needs where nobody has set anything.
pub(super) struct OwnCommand {
    words: Vec<OsString>,
}

impl OwnCommand {
    /// Finds out which flags it takes to come to the same repository, cluster and state: none but the cluster's name where
    /// the configuration file says it all.
    pub fn find(context: &Context, here: &Here, cluster: &str) -> Result<Self, Failure> {
        let mut words: Vec<OsString> = vec![program().map_err(|e| Failure::io("cannot find the path of this program", e))?.into()];
        let mut flags = FlagOverrides::default();
        let mut add = |name: &str, value: &OsStr| words.extend([OsString::from(name), value.to_owned()]);
        let mut without = Settings::load(&flags, &NoVariables);
        let found = without.as_ref().ok().and_then(|s| s.file.clone());
        if let Some(file) = context.settings.file.as_ref().filter(|file| Some(*file) != found.as_ref()) {
            add("--config", file.as_os_str());
            flags.config = Some(file.clone());
            without = Settings::load(&flags, &NoVariables);
        }
        let without = without?;
        // Only a cluster that the file chooses by name may be left out: what is merely the only one there, or `main` where
        // there is none, is another one, or none, as soon as somebody adds a section, and the server would archive there.
        if without.chosen_cluster().as_deref() != Some(cluster) {
            add("--cluster", cluster.as_ref());
        }
        let url = &here.repository.url;
        let bucket = &here.repository.bucket;
        let found: Result<RepositorySettings, ConfigError> = without.cluster(Some(cluster)).and_then(|c| without.repository(Some(&c)));
        if !found.is_ok_and(|found| found.url == *url && found.bucket == *bucket) {
            add("--repo", &url.text());
            for (name, value) in bucket.set() {
                add(&format!("--{name}"), &value);
            }
        }
        if let Some(state) = &here.state
            && StateDir::locate(without.state_dir.as_deref(), &NoVariables).ok().as_deref() != Some(state.path())
        {
            add("--state-dir", state.path().as_os_str());
        }
        if context.settings.cache_dir != without.cache_dir
            && let Some(cache) = &context.settings.cache_dir
        {
            add("--cache-dir", cache.as_os_str());
        }
        Ok(OwnCommand { words })
    }

    /// The same with the key of another state folder, and without a key file or passphrase.
    pub fn with_state(mut self, folder: &Path) -> Self {
        if let Some(at) = self.words.iter().position(|w| w == "--state-dir") {
            self.words.drain(at..(at + 2).min(self.words.len()));
        }
        self.words.extend([OsString::from("--state-dir"), folder.as_os_str().to_owned()]);
        self
    }

    /// As a line for a shell in a setting of the server: `%` doubled in our own words, `more` as it is.
    pub fn line(&self, more: &[&str]) -> OsString {
        let mut line = Vec::new();
        for word in &self.words {
            line.extend(shell_quoted(word).iter().flat_map(|b| if *b == b'%' { vec![b'%', b'%'] } else { vec![*b] }));
            line.push(b' ');
        }
        line.extend(more.join(" ").as_bytes());
        OsString::from_vec(line)
    }
}

/// One word for a POSIX shell.
fn shell_quoted(word: &OsStr) -> Vec<u8> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(b);
    if !word.is_empty() && word.as_bytes().iter().all(plain) {
        return word.as_bytes().to_vec();
    }
    let mut quoted = vec![b'\''];
    for b in word.as_bytes() {
        match b {
            b'\'' => quoted.extend(br"'\''"),
            b => quoted.push(*b),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// The absolute path of this program: as it was called where that is the same file, since links (`/usr/bin/pgcairn`)
/// outlive the file of one version.
fn program() -> io::Result<PathBuf> {
    let itself = std::env::current_exe()?;
    let is_it = |path: &Path| {
        let (a, b) = (path.metadata(), itself.metadata());
        a.is_ok_and(|a| b.is_ok_and(|b| (a.dev(), a.ino()) == (b.dev(), b.ino())))
    };
    let called = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let candidates: Vec<PathBuf> = if called.components().count() > 1 {
        std::path::absolute(&called).into_iter().collect()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(&called)).collect()
    };
    Ok(candidates.into_iter().find(|c| is_it(c)).unwrap_or(itself))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_quoted_and_percent_signs_doubled() {
        let command = OwnCommand { words: ["/usr/bin/pgcairn", "--repo", "/my repo/it's 100%"].map(OsString::from).to_vec() };
        assert_eq!(command.line(&["archive-push", "%p"]), r"/usr/bin/pgcairn --repo '/my repo/it'\''s 100%%' archive-push %p");
    }

    #[test]
    fn this_program_is_found() {
        let path = program().unwrap();
        assert!(path.is_absolute() && path.is_file());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_shell_reads_the_word_that_was_meant(bytes in prop::collection::vec(1u8.., 0..20)) {
            let mut script = b"printf %s ".to_vec();
            script.extend(shell_quoted(OsStr::from_bytes(&bytes)));
            let printed = std::process::Command::new("/bin/sh").arg("-c").arg(OsString::from_vec(script)).output().unwrap();
            prop_assert_eq!(printed.stdout, bytes);
        }
    }
}
