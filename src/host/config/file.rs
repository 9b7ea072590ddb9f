//! The configuration file: TOML, every key known, every value checked, paths absolute.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::{Table, Value};

use super::bucket::{BucketKeys, read_days, read_endpoint, read_price, read_word};
use super::error::ConfigError;
use super::keys::{ClusterKeys, GlobalKeys, SecretKeys, check_name, read_duration, read_jobs, read_key_id};
use super::retention::{RetentionKeys, read_count, read_span};
use super::url::absolute;
use crate::host::files::read_bounded;

/// The longest configuration file, in bytes.
const FILE_LIMIT: usize = 1 << 20;

/// One `[repository.X]`. The URL is read when the repository is chosen: one that can't be served hurts nobody else.
#[derive(Clone, Debug)]
pub(super) struct RepositorySection {
    pub(super) url: String,
    pub(super) secret: SecretKeys,
    pub(super) bucket: BucketKeys,
}

/// What stands in a configuration file.
#[derive(Clone, Debug)]
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) global: GlobalKeys,
    /// The policy of clusters that don't say otherwise.
    pub(super) retention: RetentionKeys,
    pub(super) repositories: BTreeMap<String, RepositorySection>,
    pub(super) clusters: BTreeMap<String, ClusterKeys>,
}

impl ConfigFile {
    /// Reads the file at an absolute path; `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { file: path.to_path_buf(), source };
        let bytes = match read_bounded(path, FILE_LIMIT) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            Err(e) => return Err(unreadable(e)),
        };
        let text = std::str::from_utf8(&bytes).map_err(|e| ConfigError::Syntax {
            file: path.to_path_buf(),
            line: line_of(&bytes, e.valid_up_to()),
            problem: "not UTF-8".into(),
        })?;
        Self::parse(path, text).map(Some)
    }

    /// Reads the text of the file at `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let table: Table = toml::from_str(text).map_err(|e| ConfigError::Syntax {
            file: path.to_path_buf(),
            line: line_of(text.as_bytes(), e.span().map_or(0, |span| span.start)),
            problem: e.message().to_owned(),
        })?;
        let mut top = Section { path, name: None, table, asked: Vec::new() };
        let repositories = top.named("repository")?.into_iter().map(repository_section).collect::<Result<_, _>>()?;
        // TOML has no room for `cluster = "x"` beside `[cluster.x]`: the text is for a file without such sections.
        let cluster = if top.table.get("cluster").is_some_and(Value::is_str) { top.text("cluster")? } else { None };
        cluster.iter().try_for_each(|name| check_name("cluster", name))?;
        let clusters = top.named("cluster")?;
        let global = GlobalKeys { cluster, ..top.global()? };
        let clusters = clusters.into_iter().map(cluster_section).collect::<Result<_, _>>()?;
        let retention = top.retention()?;
        top.finish()?;
        let file = ConfigFile { path: path.to_path_buf(), global, retention, repositories, clusters };
        file.check_references()?;
        Ok(file)
    }

    /// The folder that relative paths count from.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.path.parent()
    }

    /// Every repository that a cluster names is there.
    fn check_references(&self) -> Result<(), ConfigError> {
        for keys in self.clusters.values() {
            for name in keys.repositories.iter().flatten() {
                if !self.repositories.contains_key(name) {
                    return Err(ConfigError::NoSuch {
                        what: "repository",
                        name: name.clone(),
                        file: self.path.clone(),
                        known: self.repositories.keys().cloned().collect(),
                    });
                }
            }
        }
        Ok(())
    }
}

fn repository_section((name, mut section): (String, Section<'_>)) -> Result<(String, RepositorySection), ConfigError> {
    check_name("repository", &name)?;
    let url = section.text("url")?;
    let secret = SecretKeys {
        passphrase: None,
        passphrase_file: section.path("passphrase-file")?,
        passphrase_command: section.text("passphrase-command")?,
        key_file: section.path("key-file")?,
        key_command: section.text("key-command")?,
    };
    let bucket = section.bucket()?;
    section.finish()?;
    let url = url.ok_or_else(|| section.bad("url", "a repository needs one".into()))?;
    secret.source(|| section.place())?;
    if !url.starts_with("s3://") {
        bucket.must_be_empty(&section.place())?;
    }
    Ok((name, RepositorySection { url, secret, bucket }))
}

fn cluster_section((name, mut section): (String, Section<'_>)) -> Result<(String, ClusterKeys), ConfigError> {
    check_name("cluster", &name)?;
    let keys = ClusterKeys {
        pgdata: section.path("pgdata")?,
        dsn: section.text("dsn")?,
        repositories: section.list("repositories", |text| Ok(text.to_owned()))?,
        chunker: section.read("chunker", FromStr::from_str)?,
        trust_writers: section.list("trust-writers", read_key_id)?,
        wal: section.read("wal", FromStr::from_str)?,
        wal_timeout: section.read("wal-timeout", read_duration)?,
        retention: section.retention()?,
    };
    section.finish()?;
    Ok((name, keys))
}

/// A table that is being emptied: each key is taken out by name, and what is left is unknown.
struct Section<'a> {
    path: &'a Path,
    name: Option<String>,
    table: Table,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.table.remove(key)
    }

    fn place(&self) -> String {
        match &self.name {
            Some(name) => format!("[{name}] of {}", self.path.display()),
            None => self.path.display().to_string(),
        }
    }

    fn bad(&self, key: &str, problem: String) -> ConfigError {
        ConfigError::BadValue { place: format!("`{key}` in {}", self.place()), problem }
    }

    fn text(&mut self, key: &'static str) -> Result<Option<String>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Err(self.bad(key, "it is empty".into())),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.bad(key, format!("a text in quotes is expected, found {}", kind(&other)))),
        }
    }

    /// A value that is written as a text; whole numbers need no quotes.
    fn read<T>(&mut self, key: &'static str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        let text = match self.take(key) {
            None => return Ok(None),
            Some(Value::String(text)) => text,
            Some(Value::Integer(number)) => number.to_string(),
            Some(Value::Float(number)) => number.to_string(),
            Some(other) => return Err(self.bad(key, format!("a text or a number is expected, found {}", kind(&other)))),
        };
        read(&text).map(Some).map_err(|problem| self.bad(key, problem))
    }

    fn list<T>(&mut self, key: &'static str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<Vec<T>>, ConfigError> {
        let values = match self.take(key) {
            None => return Ok(None),
            Some(Value::Array(values)) => values,
            Some(other) => return Err(self.bad(key, format!("a list of texts is expected, found {}", kind(&other)))),
        };
        let item = |value: &Value| match value {
            Value::String(text) => read(text).map_err(|problem| self.bad(key, problem)),
            other => Err(self.bad(key, format!("a list of texts is expected, found {} in it", kind(other)))),
        };
        values.iter().map(item).collect::<Result<_, _>>().map(Some)
    }

    fn flag(&mut self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Boolean(value)) => Ok(Some(value)),
            Some(other) => Err(self.bad(key, format!("true or false is expected, found {}", kind(&other)))),
        }
    }

    fn path(&mut self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        let folder = self.path.parent();
        self.text(key)?.map(|text| absolute(Path::new(&text), folder)).transpose()
    }

    /// The tables `[key.NAME]`.
    fn named(&mut self, key: &'static str) -> Result<Vec<(String, Section<'a>)>, ConfigError> {
        self.asked.push(key);
        let table = match self.table.remove(key) {
            None => return Ok(Vec::new()),
            Some(Value::Table(table)) => table,
            Some(other) => return Err(self.bad(key, format!("sections [{key}.NAME] are expected, found {}", kind(&other)))),
        };
        let section = |(name, value): (String, Value)| match value {
            Value::Table(table) => {
                let full = format!("{key}.{name}");
                Ok((name, Section { path: self.path, name: Some(full), table, asked: Vec::new() }))
            }
            other => Err(self.bad(&name, format!("sections [{key}.NAME] are expected, found {}", kind(&other)))),
        };
        table.into_iter().map(section).collect()
    }

    /// The keys outside all sections.
    fn global(&mut self) -> Result<GlobalKeys, ConfigError> {
        Ok(GlobalKeys {
            repo: self.text("repo")?.map(OsString::from),
            cluster: None,
            json: self.flag("json")?,
            quiet: self.flag("quiet")?,
            verbose: self.flag("verbose")?,
            no_progress: self.flag("no-progress")?,
            jobs: self.read("jobs", read_jobs)?,
            state_dir: self.path("state-dir")?,
            cache_dir: self.path("cache-dir")?,
            retry_time: self.read("retry-time", read_duration)?,
        })
    }

    /// What is said of a bucket.
    fn bucket(&mut self) -> Result<BucketKeys, ConfigError> {
        Ok(BucketKeys {
            endpoint: self.read("endpoint", read_endpoint)?,
            region: self.read("region", read_word)?,
            path_style: self.flag("path-style")?,
            ca_file: self.path("ca-file")?,
            storage_class: self.read("storage-class", read_word)?,
            small_storage_class: self.read("storage-class-small", read_word)?,
            encryption: self.read("server-side-encryption", read_word)?,
            kms_key: self.read("kms-key", read_word)?,
            single_writer: self.flag("single-writer")?,
            lock_days: self.read("lock-days", read_days)?,
            egress_price: self.read("egress-price", read_price)?,
        })
    }

    /// `keep-*` and `pitr-window`.
    fn retention(&mut self) -> Result<RetentionKeys, ConfigError> {
        Ok(RetentionKeys {
            last: self.read("keep-last", read_count)?,
            hourly: self.read("keep-hourly", read_count)?,
            daily: self.read("keep-daily", read_count)?,
            weekly: self.read("keep-weekly", read_count)?,
            monthly: self.read("keep-monthly", read_count)?,
            yearly: self.read("keep-yearly", read_count)?,
            within: self.read("keep-within", read_span)?,
            labels: self.list("keep-label", FromStr::from_str)?,
            min: self.read("keep-min", read_count)?,
            pitr_window: self.read("pitr-window", read_span)?,
        })
    }

    /// An error if anything is left.
    fn finish(&self) -> Result<(), ConfigError> {
        let Some(key) = self.table.keys().next() else { return Ok(()) };
        let likeness = |known: &&&str| strsim::normalized_damerau_levenshtein(key, known);
        let nearest = self.asked.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        Err(ConfigError::UnknownKey {
            place: self.place(),
            key: key.clone(),
            nearest: nearest.filter(|known| likeness(known) >= 0.5).map(|known| (*known).to_owned()),
            known: self.asked.clone(),
            belongs: section_of(key).filter(|section| self.name.as_ref().is_none_or(|name| name.split('.').next() != Some(section))),
        })
    }
}

/// The kind of section that knows a key.
fn section_of(key: &str) -> Option<&'static str> {
    const OF_REPOSITORIES: [&str; 16] = [
        "url",
        "passphrase-file",
        "passphrase-command",
        "key-file",
        "key-command",
        "endpoint",
        "region",
        "path-style",
        "ca-file",
        "storage-class",
        "storage-class-small",
        "server-side-encryption",
        "kms-key",
        "single-writer",
        "lock-days",
        "egress-price",
    ];
    const OF_CLUSTERS: [&str; 7] = ["pgdata", "dsn", "repositories", "chunker", "trust-writers", "wal", "wal-timeout"];
    if OF_REPOSITORIES.contains(&key) { Some("repository") } else { OF_CLUSTERS.contains(&key).then_some("cluster") }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a time",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}

fn line_of(text: &[u8], offset: usize) -> usize {
    1 + text.iter().take(offset).filter(|b| **b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::config::keys::{Chunker, WalMode};
    use crate::units::Explain;
    use std::time::Duration;

    fn parse(text: &str) -> Result<ConfigFile, ConfigError> {
        ConfigFile::parse(Path::new("/etc/pgcairn/config.toml"), text)
    }

    #[test]
    fn all_keys_are_read() {
        let file = parse(
            r#"
            repo = "local"
            quiet = true
            verbose = false
            json = true
            no-progress = true
            jobs = 3
            state-dir = "state"
            cache-dir = "/var/cache/pgcairn"
            [repository.local]
            url = "../repo"
            passphrase-file = "pass"
            [repository.b]
            url = "/b"
            key-file = "/k"
            [repository.c]
            url = "/c"
            passphrase-command = "pass show x"
            [cluster.shop]
            pgdata = "data"
            dsn = "host=/run user=postgres"
            repositories = ["local"]
            chunker = "cdc"
            trust-writers = ["00112233445566778899aabbccddeeff"]
            wal = "copy"
            wal-timeout = "90s"
            [cluster.other]
            wal-timeout = 30
            keep-last = 2
            keep-daily = "14"
            keep-within = "36h"
            keep-label = ["why=release", "legal"]
            pitr-window = "14d"
            "#,
        )
        .unwrap();
        assert_eq!(file.global.jobs.unwrap().get(), 3);
        assert_eq!(file.global.state_dir.as_deref(), Some(Path::new("/etc/pgcairn/state")));
        assert_eq!(file.repositories["local"].secret.passphrase_file.as_deref(), Some(Path::new("/etc/pgcairn/pass")));
        let shop = &file.clusters["shop"];
        assert_eq!(shop.pgdata.as_deref(), Some(Path::new("/etc/pgcairn/data")));
        assert_eq!((shop.chunker, shop.wal, shop.wal_timeout), (Some(Chunker::Cdc), Some(WalMode::Copy), Some(Duration::from_secs(90))));
        assert_eq!(shop.trust_writers.as_ref().unwrap().len(), 1);
        let other = &file.clusters["other"];
        assert_eq!(other.wal_timeout, Some(Duration::from_secs(30)));
        assert_eq!((other.retention.last, other.retention.daily, other.retention.weekly), (Some(2), Some(14), None));
        assert_eq!(other.retention.labels.as_ref().unwrap()[1].to_string(), "legal");
        assert_eq!(other.retention.pitr_window, Some(Duration::from_secs(14 * 86_400)));
        assert!(!shop.retention.is_policy());
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        for (text, key, cure) in [
            ("jbos = 1", "jbos", "did you mean `jobs`?"),
            ("[cluster.a]\npg-data = '/d'", "pg-data", "did you mean `pgdata`?"),
            (
                "[repository.a]\nurl = '/r'\nnothing = 'x'",
                "nothing",
                "known here: url, passphrase-file, passphrase-command, key-file, key-command, endpoint, region",
            ),
            ("[cluster.a]\nkeep-dayly = 7", "keep-dayly", "did you mean `keep-daily`?"),
            ("pitr_window = '7d'", "pitr_window", "did you mean `pitr-window`?"),
            ("[repository.a]\nurl = '/r'\npassphrase = 'x'", "passphrase", "does not stand in the file"),
            ("[clusters.a]", "clusters", "did you mean `cluster`?"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(matches!(&error, ConfigError::UnknownKey { key: k, .. } if k == key), "{text}: {error}");
            assert!(error.cure().unwrap().contains(cure), "{text}: {:?}", error.cure());
        }
    }

    #[test]
    fn bad_values_say_where() {
        for (text, says) in [
            ("jobs = 0", "`jobs` in /etc/pgcairn/config.toml: expected a number of threads"),
            ("jobs = -1", "from 1 to 1024"),
            ("cluster = 'A'", "no name for a cluster"),
            ("cluster = 1", "sections [cluster.NAME] are expected"),
            ("quiet = 'yes'", "true or false is expected, found a text"),
            ("repo = ''", "it is empty"),
            ("repository = 1", "sections [repository.NAME] are expected"),
            ("[repository]\nurl = '/r'", "sections [repository.NAME] are expected"),
            ("[repository.a]\npassphrase-file = '/p'", "`url` in [repository.a]"),
            ("[repository.a]\nurl = '/r'\npassphrase-file = '/p'\nkey-file = '/k'", "several keys at once: passphrase-file, key-file"),
            ("[repository.A]\nurl = '/r'", "no name for a repository"),
            ("[cluster.'a b']", "no name for a cluster"),
            ("[cluster.a]\nrepositories = ['x']", "no repository `x`"),
            ("[cluster.a]\nrepositories = 'x'", "a list of texts is expected"),
            ("[cluster.a]\nwal = 'both'", "expected `archive` or `copy`"),
            ("[cluster.a]\nwal-timeout = 'soon'", "expected a duration"),
            ("keep-daily = -1", "expected a number of snapshots"),
            ("pitr-window = 14", "a time with its unit"),
            ("[cluster.a]\ntrust-writers = ['me']", "is not a key id"),
            ("\n\njobs = = 1", "line 3"),
            ("jobs = 1\njobs = 2", "line 2"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }
}
