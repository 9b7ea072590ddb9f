//! What a command stands on: settings, this host's state and cache, the repository.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use super::args::GlobalFlags;
use super::failure::Failure;
use super::output::progress::{Reporter, Shown};
use crate::host::access::{self, Need, Opened, Place};
use crate::host::config::{ClusterKeys, ClusterSettings, ConfigError, RepositorySettings};
use crate::host::{ProcessEnv, Settings, StateDir, cache_dir};
use crate::store::s3::Watch;
use crate::units::{Cancel, Explain, Progress};

/// The surroundings of a command.
pub(super) struct Context {
    /// What is configured.
    pub settings: Settings,
    /// Where progress and messages go.
    pub reporter: Arc<Reporter>,
    /// Set by a signal.
    pub cancel: Cancel,
}

/// A repository's place, with what this host has to do with it.
pub(super) struct Here {
    /// URL and key sources.
    pub repository: RepositorySettings,
    /// The state folder; none where it can't be had, and the command only looks.
    pub state: Option<StateDir>,
    /// The folder of caches.
    pub cache: Option<PathBuf>,
    /// Who is told while the store is asked again, and may end that.
    pub watch: Watch,
}

impl Here {
    /// As the library takes it.
    pub fn place<'a>(&'a self, progress: &'a dyn Progress) -> Place<'a> {
        Place { repository: &self.repository, watch: &self.watch, state: self.state.as_ref(), cache: self.cache.clone(), progress }
    }

    /// The state folder of who writes.
    pub fn state_to_write(&self) -> Result<&StateDir, Failure> {
        self.state.as_ref().ok_or_else(|| Failure::refused("this host has no state folder", "set PGCAIRN_STATE_DIR"))
    }
}

impl Context {
    /// Reads configuration and environment. Nothing is created.
    pub fn load(flags: &GlobalFlags, cluster: ClusterKeys, cancel: Cancel) -> Result<Self, Failure> {
        let settings = Settings::load(&flags.overrides(cluster), &ProcessEnv)?;
        limit_threads(settings.jobs);
        let shown = Shown { quiet: settings.quiet, verbose: settings.verbose, no_progress: settings.no_progress };
        let reporter = Arc::new(Reporter::on_stderr(shown));
        if let Some(file) = &settings.file {
            reporter.detail(&format!("configuration: {}", file.display()));
        }
        Ok(Context { settings, reporter, cancel })
    }

    /// The repository of a cluster, or the one that needs no naming.
    pub fn here(&self, cluster: Option<&ClusterSettings>, need: Need) -> Result<Here, Failure> {
        let repository = self.settings.repository(cluster)?;
        let state = self.state(need)?;
        let cache = cache_dir(self.settings.cache_dir.as_deref(), &ProcessEnv, &self.reporter);
        Ok(Here { repository, state, cache, watch: self.watch() })
    }

    /// What is said while a store is asked again goes where all messages go.
    pub fn watch(&self) -> Watch {
        let (notice, summary) = (Arc::clone(&self.reporter), Arc::clone(&self.reporter));
        Watch {
            notice: Arc::new(move |text| notice.info(text)),
            summary: Arc::new(move |text| summary.detail(text)),
            cancel: self.cancel.clone(),
        }
    }

    /// The state folder. Who only looks does without it where it can't be had.
    fn state(&self, need: Need) -> Result<Option<StateDir>, Failure> {
        match StateDir::open(self.settings.state_dir.as_deref(), &ProcessEnv, &self.reporter) {
            Ok(state) => {
                self.reporter.detail(&format!("state: {}", state.path().display()));
                Ok(Some(state))
            }
            Err(error) if need == Need::Read => {
                self.reporter.warn(&format!("{error}: nothing is known of the repository but what it says itself"));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the repository.
    pub fn open(&self, here: &Here, need: Need) -> Result<Opened, Failure> {
        let place = here.place(&self.reporter);
        if let Some(state) = &here.state {
            self.reporter.detail(&format!("pin: {}", state.pin_path(&here.repository.url).display()));
        }
        let opened = access::open(&place, need)?;
        if opened.signer.is_none() {
            self.reporter.info("this host has no key of its own for this repository: the slot's is used, and nothing is written to it");
        }
        Ok(opened)
    }

    /// Reads the lists of everybody, and says where they aren't whole.
    pub fn read_whole(&self, opened: &Opened) -> Result<(), Failure> {
        if opened.view().is_whole() {
            return Ok(());
        }
        opened.read_whole()?;
        if let Some(doubt) = opened.view().doubt() {
            let cure = doubt.cure().map(|cure| format!("; {cure}")).unwrap_or_default();
            self.reporter.warn(&format!("{doubt}: there may be more than what is seen{cure}"));
        }
        Ok(())
    }

    /// Files of root's in the repository or the data directory would lock the server's user out.
    pub fn refuse_root(&self, command: &str, allowed: bool) -> Result<(), Failure> {
        if !nix::unistd::geteuid().is_root() || allowed {
            return Ok(());
        }
        Err(Failure::refused(
            format!("{command} is not run as root: files of root's would lock the server's user out"),
            format!("run it as the server's user, for example `sudo -u postgres pgcairn {command} ...`, or say --allow-root"),
        ))
    }

    /// Opens the repository of whoever only looks.
    pub fn open_to_look(&self) -> Result<Opened, Failure> {
        let cluster = self.cluster_if_one()?;
        let here = self.here(cluster.as_ref(), Need::Read)?;
        self.open(&here, Need::Read)
    }

    /// The cluster, unless several are configured and none is chosen: then only the repository matters.
    pub fn cluster_if_one(&self) -> Result<Option<ClusterSettings>, Failure> {
        match self.settings.cluster(None) {
            Ok(cluster) => Ok(Some(cluster)),
            Err(ConfigError::Which { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// `--jobs` holds for the work that rayon spreads, too.
fn limit_threads(jobs: NonZeroUsize) {
    if std::thread::available_parallelism().ok() != Some(jobs) {
        // An error says that the threads are there already: then they are as many as cores.
        drop(rayon::ThreadPoolBuilder::new().num_threads(jobs.get()).build_global());
    }
}
