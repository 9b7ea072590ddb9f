//! Which cluster, which repository: flags over environment over file.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bucket::BucketKeys;
use super::error::ConfigError;
use super::file::{ConfigFile, RepositorySection};
use super::keys::{Chunker, ClusterKeys, FlagOverrides, GlobalKeys, SecretKeys, WalMode, check_name};
use super::retention::RetentionKeys;
use super::secret::SecretSource;
use super::url::{RepositoryUrl, absolute};
use super::variables::Variables;
use crate::host::env::Env;
use crate::host::paths::home;
use crate::store::s3::{BadS3Setting, S3Settings};
use crate::units::KeyId;

/// The cluster's name where none is configured.
pub const DEFAULT_CLUSTER: &str = "main";

/// How long a backup waits for its WAL by default.
const WAL_TIMEOUT: Duration = Duration::from_secs(600);

/// All that is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file that was read, if any; absolute.
    pub file: Option<PathBuf>,
    /// Answers as JSON.
    pub json: bool,
    /// Warnings and errors only.
    pub quiet: bool,
    /// Details, too.
    pub verbose: bool,
    /// Neither bars nor periodic lines.
    pub no_progress: bool,
    /// Threads for CPU work.
    pub jobs: NonZeroUsize,
    /// The state folder, if configured; absolute.
    pub state_dir: Option<PathBuf>,
    /// The cache folder, if configured; absolute.
    pub cache_dir: Option<PathBuf>,
    /// For how long what fails for a passing reason is tried again.
    pub retry_time: Duration,
    folder: Option<PathBuf>,
    /// What variables of all programs for S3 say.
    aws: BucketKeys,
    home: Option<PathBuf>,
    flags: Layer,
    environment: Layer,
    config: Option<ConfigFile>,
}

/// Flags or environment.
#[derive(Clone, Debug)]
struct Layer {
    global: GlobalKeys,
    cluster: ClusterKeys,
    secret: SecretKeys,
    bucket: BucketKeys,
}

/// One cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterSettings {
    /// Its name in the repository.
    pub name: String,
    /// The data directory, absolute.
    pub pgdata: Option<PathBuf>,
    /// How to connect, in libpq's words; else `PGHOST` and so on hold.
    pub dsn: Option<String>,
    /// The repository that it goes to, by name.
    pub repository: Option<String>,
    /// How relation forks are cut.
    pub chunker: Chunker,
    /// Where the WAL of a backup comes from.
    pub wal: WalMode,
    /// How long a backup waits for its WAL in the archive.
    pub wal_timeout: Duration,
    /// Keys whose packs this host relies on besides its own.
    pub trust_writers: Vec<KeyId>,
    /// How long its snapshots are kept.
    pub retention: RetentionKeys,
}

/// One repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepositorySettings {
    /// Its name in the file, if it stands there.
    pub name: Option<String>,
    /// Where it lies.
    pub url: RepositoryUrl,
    /// Where its key comes from, if that is configured; hosts that are enrolled need none.
    pub secret: Option<SecretSource>,
    /// How its bucket is used, if it lies in one.
    pub bucket: BucketKeys,
    /// For how long what fails for a passing reason is tried again.
    pub retry_time: Duration,
    /// This user's home, where `HOME` doesn't say: for the credentials that lie there.
    pub home: Option<PathBuf>,
}

impl RepositorySettings {
    /// A place, a way to its key, and the defaults.
    pub fn at(url: RepositoryUrl, secret: Option<SecretSource>) -> Self {
        let (bucket, retry_time) = (BucketKeys::default(), S3Settings::RETRY_TIME);
        RepositorySettings { name: None, url, secret, bucket, retry_time, home: None }
    }

    /// The bucket, if it is one; else the folder.
    ///
    /// # Errors
    /// If it can't be one.
    pub fn in_bucket(&self) -> Result<Option<S3Settings>, BadS3Setting> {
        let RepositoryUrl::S3 { bucket, prefix, endpoint } = &self.url else { return Ok(None) };
        let keys = self.bucket.clone();
        Ok(Some(S3Settings {
            endpoint: endpoint.clone(),
            region: keys.region,
            path_style: keys.path_style,
            ca_file: keys.ca_file,
            storage_class: keys.storage_class,
            small_storage_class: keys.small_storage_class,
            encryption: keys.encryption,
            kms_key: keys.kms_key,
            single_writer: keys.single_writer.unwrap_or(false),
            lock_days: keys.lock_days,
            retry_time: self.retry_time,
            home: self.home.clone(),
            ..S3Settings::at(bucket, prefix)?
        }))
    }
}

impl Settings {
    /// Reads the configuration file (the first of `--config`, `PGCAIRN_CONFIG`, the user's, the machine's) and the
    /// environment. Nothing is created.
    pub fn load(flags: &FlagOverrides, env: &dyn Env) -> Result<Self, ConfigError> {
        let working = env.working_folder();
        let folder = working.as_deref().ok();
        let config = find_file(flags, env, folder)?;
        let variables = Variables { env, folder };
        let environment =
            Layer { global: variables.global()?, cluster: variables.cluster()?, secret: variables.secret()?, bucket: variables.bucket()? };
        let aws = variables.aws()?;
        let flags = flags_made_absolute(flags, folder)?;
        flags.secret.source(|| "the command line".into())?;
        environment.secret.source(|| "the environment".into()).map_err(ConfigError::of_variables)?;

        let none = GlobalKeys::default();
        let layers = [&flags.global, &environment.global, config.as_ref().map_or(&none, |c| &c.global)];
        let flag = |key: fn(&GlobalKeys) -> Option<bool>| layers.iter().find_map(|l| key(l)).unwrap_or(false);
        Ok(Settings {
            file: config.as_ref().map(|c| c.path.clone()),
            json: flag(|l| l.json),
            quiet: flag(|l| l.quiet),
            verbose: flag(|l| l.verbose),
            no_progress: flag(|l| l.no_progress),
            jobs: layers.iter().find_map(|l| l.jobs).unwrap_or_else(all_cores),
            state_dir: layers.iter().find_map(|l| l.state_dir.clone()),
            cache_dir: layers.iter().find_map(|l| l.cache_dir.clone()),
            retry_time: layers.iter().find_map(|l| l.retry_time).unwrap_or(S3Settings::RETRY_TIME),
            folder: folder.map(Path::to_path_buf),
            aws,
            home: if env.filled("HOME").is_none() { home(env) } else { None },
            flags,
            environment,
            config,
        })
    }

    /// The cluster that is named here, or by `--cluster`, `PGCAIRN_CLUSTER`, `cluster`; else the only one in the file,
    /// else `main`. A name that the file doesn't list is fine: it may be another host's cluster.
    pub fn cluster(&self, name: Option<&str>) -> Result<ClusterSettings, ConfigError> {
        let listed = self.config.as_ref().map(|c| &c.clusters).filter(|clusters| !clusters.is_empty());
        let chosen = name.map(str::to_owned).or_else(|| self.chosen_cluster());
        let name = match (chosen, listed) {
            (Some(name), _) => name,
            (None, None) => DEFAULT_CLUSTER.to_owned(),
            (None, Some(listed)) => only(listed.keys(), "cluster")?,
        };
        check_name("cluster", &name)?;
        let none = ClusterKeys::default();
        let section = listed.and_then(|clusters| clusters.get(&name)).unwrap_or(&none);
        let keys = self.flags.cluster.over(&self.environment.cluster).over(section);
        let top = self.config.as_ref().map(|c| c.retention.clone()).unwrap_or_default();
        let retention = keys.retention.over(&top);
        let repositories = keys.repositories.unwrap_or_default();
        if repositories.len() > 1 {
            return Err(ConfigError::SeveralRepositories { cluster: name, names: repositories });
        }
        Ok(ClusterSettings {
            name,
            pgdata: keys.pgdata,
            dsn: keys.dsn,
            repository: repositories.into_iter().next(),
            chunker: keys.chunker.unwrap_or_default(),
            wal: keys.wal.unwrap_or_default(),
            wal_timeout: keys.wal_timeout.unwrap_or(WAL_TIMEOUT),
            trust_writers: keys.trust_writers.unwrap_or_default(),
            retention,
        })
    }

    /// The cluster to write: as [`Settings::cluster`], but where the file lists clusters it must list this one, so that
    /// a misspelt name doesn't start a cluster of its own.
    pub fn cluster_to_write(&self, name: Option<&str>) -> Result<ClusterSettings, ConfigError> {
        let cluster = self.cluster(name)?;
        match &self.config {
            Some(config) if !config.clusters.is_empty() && !config.clusters.contains_key(&cluster.name) => Err(ConfigError::NoSuch {
                what: "cluster",
                name: cluster.name,
                file: config.path.clone(),
                known: config.clusters.keys().cloned().collect(),
            }),
            _ => Ok(cluster),
        }
    }

    /// Is a policy set for whatever cluster, outside the sections of the file?
    pub fn cluster_policy_is_set(&self) -> bool {
        let top = self.config.as_ref().is_some_and(|c| c.retention.is_policy());
        top || self.flags.cluster.retention.is_policy() || self.environment.cluster.retention.is_policy()
    }

    /// The clusters that the file lists; none where it lists none, and any name will do.
    pub fn listed_clusters(&self) -> Vec<&str> {
        self.config.iter().flat_map(|c| c.clusters.keys()).map(String::as_str).collect()
    }

    /// The clusters that the file lists and that are backed up to this repository, as far as the file says.
    pub fn clusters_of(&self, repository: &RepositorySettings) -> Vec<&str> {
        let Some(config) = &self.config else { return Vec::new() };
        let is_of = |keys: &ClusterKeys| match (&repository.name, keys.repositories.as_deref().unwrap_or_default()) {
            (Some(name), []) => config.repositories.len() == 1 && config.repositories.contains_key(name),
            (Some(name), named) => named.contains(name),
            // A repository that the file doesn't know: its clusters are meant only if it knows none.
            (None, named) => named.is_empty() && config.repositories.is_empty(),
        };
        config.clusters.iter().filter(|(_, keys)| is_of(keys)).map(|(name, _)| name.as_str()).collect()
    }

    /// The name set by `--cluster`, `PGCAIRN_CLUSTER` or `cluster`, if any: for commands that otherwise show all.
    pub fn chosen_cluster(&self) -> Option<String> {
        let config = self.config.as_ref().and_then(|c| c.global.cluster.as_ref());
        self.flags.global.cluster.as_ref().or(self.environment.global.cluster.as_ref()).or(config).cloned()
    }

    /// The repository: by `--repo`, `PGCAIRN_REPO`, the cluster's `repositories`, `repo`; else the only one in the file.
    /// `--repo` takes the name of one in the file, too, and finds its keys there also by its URL.
    pub fn repository(&self, cluster: Option<&ClusterSettings>) -> Result<RepositorySettings, ConfigError> {
        if let Some(text) = self.flags.global.repo.as_ref().or(self.environment.global.repo.as_ref()) {
            return self.repository_of(text, self.folder.as_deref());
        }
        let Some(config) = &self.config else { return Err(ConfigError::NoRepository) };
        if let Some(name) = cluster.and_then(|c| c.repository.as_deref()) {
            return self.repository_of(name.as_ref(), config.folder());
        }
        if let Some(text) = &config.global.repo {
            return self.repository_of(text, config.folder());
        }
        if config.repositories.is_empty() {
            return Err(ConfigError::NoRepository);
        }
        let name = only(config.repositories.keys(), "repository")?;
        self.repository_of(name.as_ref(), config.folder())
    }

    /// A name of the file, or a URL.
    fn repository_of(&self, text: &OsStr, base: Option<&Path>) -> Result<RepositorySettings, ConfigError> {
        let sections = self.config.iter().flat_map(|c| c.repositories.iter().map(move |(name, section)| (c.folder(), name, section)));
        let url_of = |section: &RepositorySection, folder| RepositoryUrl::parse(section.url.as_ref(), folder);
        if let Some((folder, name, section)) = sections.clone().find(|(_, name, _)| OsStr::new(name) == text) {
            return self.with_secret(Some((name, section)), url_of(section, folder)?);
        }
        let url = RepositoryUrl::parse(text, base)?;
        let same = sections.clone().find(|(folder, _, section)| url_of(section, *folder).is_ok_and(|u| u == url));
        self.with_secret(same.map(|(_, name, section)| (name, section)), url)
    }

    fn with_secret(&self, section: Option<(&String, &RepositorySection)>, url: RepositoryUrl) -> Result<RepositorySettings, ConfigError> {
        let of = |keys: &SecretKeys| keys.source(String::new);
        let mut secret = of(&self.flags.secret)?;
        if secret.is_none() {
            secret = of(&self.environment.secret)?;
        }
        if let (None, Some((_, section))) = (&secret, section) {
            secret = of(&section.secret)?;
        }
        let none = BucketKeys::default();
        let of_section = section.map_or(&none, |(_, section)| &section.bucket);
        let (flags, environment) = (self.flags.bucket.clone(), &self.environment.bucket);
        let bucket = if url.folder().is_none() { flags.over(environment).over(of_section).over(&self.aws) } else { none };
        let url = url.with_endpoint(bucket.endpoint.as_deref());
        let (name, retry_time, home) = (section.map(|(name, _)| name.clone()), self.retry_time, self.home.clone());
        Ok(RepositorySettings { name, url, secret, bucket, retry_time, home })
    }
}

/// The only name, or an error that lists them.
fn only<'a>(mut names: impl Iterator<Item = &'a String> + Clone, what: &'static str) -> Result<String, ConfigError> {
    let all = names.clone();
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name.clone()),
        _ => Err(ConfigError::Which { what, known: all.cloned().collect() }),
    }
}

/// The first configuration file there is; one that is named must be there.
fn find_file(flags: &FlagOverrides, env: &dyn Env, folder: Option<&Path>) -> Result<Option<ConfigFile>, ConfigError> {
    let named = flags.config.clone().or_else(|| env.filled("PGCAIRN_CONFIG").map(PathBuf::from));
    if let Some(named) = named {
        let path = absolute(&named, folder)?;
        let from = if flags.config.is_some() { "--config" } else { "PGCAIRN_CONFIG" };
        return ConfigFile::read(&path)?.ok_or_else(|| ConfigError::NoFile { file: path.clone(), from }).map(Some);
    }
    if let Some(home) = home(env)
        && let Some(file) = ConfigFile::read(&home.join(".config/pgcairn/config.toml"))?
    {
        return Ok(Some(file));
    }
    ConfigFile::read(&env.system_config())
}

fn flags_made_absolute(flags: &FlagOverrides, folder: Option<&Path>) -> Result<Layer, ConfigError> {
    let fix = |path: &mut Option<PathBuf>| -> Result<(), ConfigError> {
        if let Some(given) = path.take() {
            *path = Some(absolute(&given, folder)?);
        }
        Ok(())
    };
    let mut layer =
        Layer { global: flags.global.clone(), cluster: flags.cluster.clone(), secret: flags.secret.clone(), bucket: flags.bucket.clone() };
    fix(&mut layer.bucket.ca_file)?;
    fix(&mut layer.global.state_dir)?;
    fix(&mut layer.global.cache_dir)?;
    fix(&mut layer.cluster.pgdata)?;
    fix(&mut layer.secret.passphrase_file)?;
    fix(&mut layer.secret.key_file)?;
    Ok(layer)
}

fn all_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::env::FixedEnv;
    use crate::units::{Class, Explain};

    fn local(path: &str) -> RepositoryUrl {
        RepositoryUrl::Local(path.into())
    }

    /// A home with a configuration file in it.
    fn with_file(text: &str) -> (tempfile::TempDir, FixedEnv) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(".config/pgcairn");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.toml"), text).unwrap();
        let env = FixedEnv::empty(dir.path()).with("HOME", dir.path());
        (dir, env)
    }

    fn load(env: &FixedEnv) -> Settings {
        Settings::load(&FlagOverrides::default(), env).unwrap()
    }

    #[test]
    fn nothing_configured_is_the_cluster_main() {
        let settings = load(&FixedEnv::empty("/work-folder"));
        let main = settings.cluster_to_write(None).unwrap();
        assert_eq!((main.name.as_str(), main.wal, main.wal_timeout), ("main", WalMode::Archive, Duration::from_secs(600)));
        assert!(matches!(settings.repository(Some(&main)), Err(ConfigError::NoRepository)));
        assert!(!settings.json && !settings.quiet && settings.file.is_none() && settings.state_dir.is_none());
    }

    #[test]
    fn the_environment_alone_is_complete() {
        let env = FixedEnv::empty("/w")
            .with("PGCAIRN_REPO", "repo")
            .with("PGCAIRN_CLUSTER", "shop")
            .with("PGCAIRN_PGDATA", "/data")
            .with("PGCAIRN_DSN", "host=/run")
            .with("PGCAIRN_STATE_DIR", "/state")
            .with("PGCAIRN_CACHE_DIR", "cache")
            .with("PGCAIRN_PASSPHRASE", "word")
            .with("PGCAIRN_CHUNKER", "cdc")
            .with("PGCAIRN_WAL", "copy")
            .with("PGCAIRN_WAL_TIMEOUT", "2min")
            .with("PGCAIRN_JOBS", "2")
            .with("PGCAIRN_JSON", "1")
            .with("PGCAIRN_QUIET", "")
            .with("PGCAIRN_TRUST_WRITERS", "00112233445566778899aabbccddeeff,");
        let settings = load(&env);
        assert_eq!((settings.json, settings.quiet, settings.jobs.get()), (true, false, 2));
        assert_eq!(
            (settings.state_dir.as_deref(), settings.cache_dir.as_deref()),
            (Some(Path::new("/state")), Some(Path::new("/w/cache")))
        );
        let cluster = settings.cluster_to_write(None).unwrap();
        assert_eq!((cluster.name.as_str(), cluster.pgdata.as_deref()), ("shop", Some(Path::new("/data"))));
        assert_eq!((cluster.chunker, cluster.wal, cluster.wal_timeout), (Chunker::Cdc, WalMode::Copy, Duration::from_secs(120)));
        assert_eq!(cluster.trust_writers.len(), 1);
        let repository = settings.repository(Some(&cluster)).unwrap();
        assert_eq!((&repository.name, &repository.url), (&None, &local("/w/repo")));
        assert_eq!(repository.secret.unwrap().read_passphrase().unwrap().as_bytes(), b"word");
        for (name, value) in [("PGCAIRN_JOBS", "many"), ("PGCAIRN_WAL", "both"), ("PGCAIRN_JSON", "maybe"), ("PGCAIRN_KEY_FILE", "/k")] {
            let error = Settings::load(&FlagOverrides::default(), &env.clone().with(name, value)).unwrap_err();
            assert_eq!(error.class(), Class::Usage, "{error}");
            assert!(
                error.to_string().contains(if name.ends_with("FILE") { "PGCAIRN_PASSPHRASE, PGCAIRN_KEY_FILE" } else { name }),
                "{error}"
            );
        }
    }

    const TWO: &str = r#"
        verbose = true
        jobs = 4
        [repository.a]
        url = "a"
        passphrase-file = "pass-a"
        [repository.b]
        url = "/b"
        key-file = "/key-b"
        [repository.far]
        url = "s3://bucket/x"
        [cluster.one]
        pgdata = "/one"
        repositories = ["a"]
        [cluster.two]
        repositories = ["a", "b"]
        [cluster.three]
        repositories = ["far"]
        "#;

    #[test]
    fn flags_stand_over_environment_over_file() {
        let (dir, env) = with_file(TWO);
        let env = env.with("PGCAIRN_CLUSTER", "one").with("PGCAIRN_PGDATA", "/env").with("PGCAIRN_JOBS", "2");
        let mut flags = FlagOverrides::default();
        let settings = Settings::load(&flags, &env).unwrap();
        assert!(settings.verbose);
        assert_eq!(settings.jobs.get(), 2);
        let one = settings.cluster_to_write(None).unwrap();
        assert_eq!((one.name.as_str(), one.pgdata.as_deref()), ("one", Some(Path::new("/env"))));
        let folder = dir.path().join(".config/pgcairn");
        let a = settings.repository(Some(&one)).unwrap();
        assert_eq!(a.url, RepositoryUrl::Local(folder.join("a")), "a relative path counts from the file's folder");
        assert_eq!(a.secret, Some(SecretSource::PassphraseFile(folder.join("pass-a"))));

        flags.cluster.pgdata = Some("flag".into());
        flags.global.cluster = Some("new".into());
        flags.global.verbose = Some(false);
        flags.global.repo = Some("b".into());
        flags.secret.key_file = Some("k".into());
        let settings = Settings::load(&flags, &env).unwrap();
        assert!(!settings.verbose);
        assert_eq!(settings.cluster(None).unwrap().pgdata, Some(dir.path().join("flag")));
        let error = settings.cluster_to_write(None).unwrap_err();
        assert!(matches!(&error, ConfigError::NoSuch { known, .. } if known.len() == 3), "{error}");
        let b = settings.repository(None).unwrap();
        assert_eq!((b.name.as_deref(), &b.url), (Some("b"), &local("/b")));
        assert_eq!(b.secret, Some(SecretSource::KeyFile(dir.path().join("k"))));
        assert_eq!(settings.cluster(Some("one")).unwrap().name, "one");
    }

    #[test]
    fn what_is_not_one_must_be_chosen() {
        let (_dir, env) = with_file(TWO);
        let settings = load(&env);
        assert!(matches!(settings.cluster(None), Err(ConfigError::Which { what: "cluster", .. })));
        assert!(matches!(settings.repository(None), Err(ConfigError::Which { what: "repository", .. })));
        let error = settings.cluster(Some("two")).unwrap_err();
        assert!(error.to_string().contains("several repositories are not supported yet"), "{error}");
        let three = settings.cluster(Some("three")).unwrap();
        let far = settings.repository(Some(&three)).unwrap();
        assert_eq!(far.in_bucket().unwrap().map(|s| s.place()).as_deref(), Some("s3://bucket/x"));
        assert!(matches!(settings.cluster(Some("Shop")), Err(ConfigError::BadName { .. })));
        let by_url = load(&env.with("PGCAIRN_REPO", "file:///b")).repository(None).unwrap();
        assert_eq!(by_url.secret, Some(SecretSource::KeyFile("/key-b".into())), "the keys are found by the URL");
    }

    #[test]
    fn a_repository_has_the_clusters_that_name_it() {
        let (_dir, env) = with_file(TWO);
        let of = |repo: &str| {
            let settings = load(&env.clone().with("PGCAIRN_REPO", repo));
            let repository = settings.repository(None).unwrap();
            settings.clusters_of(&repository).join(" ")
        };
        assert_eq!((of("a"), of("b"), of("far"), of("/elsewhere")), ("one two".into(), "two".into(), "three".into(), String::new()));
        let of_all = |text: &str, repo: &str| {
            let (_dir, env) = with_file(text);
            let settings = load(&env.with("PGCAIRN_REPO", repo));
            let repository = settings.repository(None).unwrap();
            settings.clusters_of(&repository).join(" ")
        };
        assert_eq!(of_all("[repository.r]\nurl = '/r'\n[cluster.c]\n[cluster.d]\n", "r"), "c d");
        assert_eq!(of_all("[repository.r]\nurl = '/r'\n[cluster.c]\n", "/other"), "");
        assert_eq!(of_all("[cluster.c]\n", "/r"), "c");
    }

    #[test]
    fn one_of_each_needs_no_naming() {
        let (_dir, env) = with_file("[repository.r]\nurl = '/r'\n[cluster.c]\npgdata = '/d'\n");
        let settings = load(&env);
        let cluster = settings.cluster_to_write(None).unwrap();
        assert_eq!((cluster.name.as_str(), settings.repository(Some(&cluster)).unwrap().url), ("c", local("/r")));
        let (_dir, env) = with_file("repo = '../r'\ncluster = 'shop'\n");
        let settings = load(&env);
        assert_eq!(settings.cluster(None).unwrap().name, "shop");
        let url = settings.repository(None).unwrap().url;
        assert!(url.folder().unwrap().ends_with(".config/pgcairn/../r"), "{url:?}");
    }

    #[test]
    fn files_are_looked_up_in_order() {
        let (dir, mut env) = with_file("cluster = 'home'");
        let write = |name: &str, cluster: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, format!("cluster = '{cluster}'")).unwrap();
            path
        };
        env.system = write("etc/config.toml", "system");
        write("flag.toml", "flag");
        let variable = write("variable.toml", "variable");
        let name = |flags: &FlagOverrides, env: &FixedEnv| Settings::load(flags, env).unwrap().cluster(None).unwrap().name;
        let mut flags = FlagOverrides::default();
        assert_eq!(name(&flags, &env), "home");
        assert_eq!(name(&flags, &env.clone().with("PGCAIRN_CONFIG", variable.clone())), "variable");
        flags.config = Some("flag.toml".into());
        assert_eq!(name(&flags, &env.clone().with("PGCAIRN_CONFIG", variable)), "flag");
        assert_eq!(name(&FlagOverrides::default(), &env.clone().with("HOME", "/does/not/exist")), "system");
        flags.config = Some("missing.toml".into());
        let error = Settings::load(&flags, &env).unwrap_err();
        assert!(matches!(&error, ConfigError::NoFile { from: "--config", .. }) && error.class() == Class::Usage, "{error}");
        env.system = dir.path().to_path_buf();
        env.vars.clear();
        assert!(matches!(Settings::load(&FlagOverrides::default(), &env), Err(ConfigError::Unreadable { .. })), "a folder");
    }
}
