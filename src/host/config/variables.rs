//! `PGCAIRN_*`: the keys of the file as environment variables. An empty variable counts as not set.

use std::ffi::OsString;
use std::path::Path;
use std::str::FromStr;

use super::bucket::{BucketKeys, read_days, read_endpoint, read_price, read_word};
use super::error::ConfigError;
use super::keys::{ClusterKeys, GlobalKeys, SecretKeys, read_bool, read_duration, read_jobs, read_key_id};
use super::retention::{KeepLabel, RetentionKeys, read_count, read_span};
use super::secret::Passphrase;
use super::url::absolute;
use crate::host::env::Env;

/// Reads variables; relative paths count from `folder`.
pub(super) struct Variables<'a> {
    pub(super) env: &'a dyn Env,
    pub(super) folder: Option<&'a Path>,
}

impl Variables<'_> {
    pub(super) fn global(&self) -> Result<GlobalKeys, ConfigError> {
        Ok(GlobalKeys {
            repo: self.env.filled("PGCAIRN_REPO"),
            cluster: self.text("PGCAIRN_CLUSTER")?,
            json: self.read("PGCAIRN_JSON", read_bool)?,
            quiet: self.read("PGCAIRN_QUIET", read_bool)?,
            verbose: self.read("PGCAIRN_VERBOSE", read_bool)?,
            no_progress: self.read("PGCAIRN_NO_PROGRESS", read_bool)?,
            jobs: self.read("PGCAIRN_JOBS", read_jobs)?,
            state_dir: self.path("PGCAIRN_STATE_DIR")?,
            cache_dir: self.path("PGCAIRN_CACHE_DIR")?,
            retry_time: self.read("PGCAIRN_RETRY_TIME", read_duration)?,
        })
    }

    /// What is said of a bucket, by variables of ours.
    pub(super) fn bucket(&self) -> Result<BucketKeys, ConfigError> {
        Ok(BucketKeys {
            endpoint: self.read("PGCAIRN_ENDPOINT", read_endpoint)?,
            region: self.read("PGCAIRN_REGION", read_word)?,
            path_style: self.read("PGCAIRN_PATH_STYLE", read_bool)?,
            ca_file: self.path("PGCAIRN_CA_FILE")?,
            storage_class: self.read("PGCAIRN_STORAGE_CLASS", read_word)?,
            small_storage_class: self.read("PGCAIRN_STORAGE_CLASS_SMALL", read_word)?,
            encryption: self.read("PGCAIRN_SERVER_SIDE_ENCRYPTION", read_word)?,
            kms_key: self.read("PGCAIRN_KMS_KEY", read_word)?,
            single_writer: self.read("PGCAIRN_SINGLE_WRITER", read_bool)?,
            lock_days: self.read("PGCAIRN_LOCK_DAYS", read_days)?,
            egress_price: self.read("PGCAIRN_EGRESS_PRICE", read_price)?,
        })
    }

    /// What is said of it by variables that all programs for S3 read. (Region and credentials are the client's to look up.)
    pub(super) fn aws(&self) -> Result<BucketKeys, ConfigError> {
        let endpoint = match self.read("AWS_ENDPOINT_URL_S3", read_endpoint)? {
            None => self.read("AWS_ENDPOINT_URL", read_endpoint)?,
            set => set,
        };
        Ok(BucketKeys { endpoint, ca_file: self.path("AWS_CA_BUNDLE")?, ..BucketKeys::default() })
    }

    /// Everything but `repositories`, which names sections of the file.
    pub(super) fn cluster(&self) -> Result<ClusterKeys, ConfigError> {
        let key_ids = |text: &str| text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(read_key_id).collect();
        Ok(ClusterKeys {
            pgdata: self.path("PGCAIRN_PGDATA")?,
            dsn: self.text("PGCAIRN_DSN")?,
            repositories: None,
            chunker: self.read("PGCAIRN_CHUNKER", FromStr::from_str)?,
            trust_writers: self.read("PGCAIRN_TRUST_WRITERS", key_ids)?,
            wal: self.read("PGCAIRN_WAL", FromStr::from_str)?,
            wal_timeout: self.read("PGCAIRN_WAL_TIMEOUT", read_duration)?,
            retention: self.retention()?,
        })
    }

    fn retention(&self) -> Result<RetentionKeys, ConfigError> {
        let labels = |text: &str| text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(KeepLabel::from_str).collect();
        Ok(RetentionKeys {
            last: self.read("PGCAIRN_KEEP_LAST", read_count)?,
            hourly: self.read("PGCAIRN_KEEP_HOURLY", read_count)?,
            daily: self.read("PGCAIRN_KEEP_DAILY", read_count)?,
            weekly: self.read("PGCAIRN_KEEP_WEEKLY", read_count)?,
            monthly: self.read("PGCAIRN_KEEP_MONTHLY", read_count)?,
            yearly: self.read("PGCAIRN_KEEP_YEARLY", read_count)?,
            within: self.read("PGCAIRN_KEEP_WITHIN", read_span)?,
            labels: self.read("PGCAIRN_KEEP_LABEL", labels)?,
            min: self.read("PGCAIRN_KEEP_MIN", read_count)?,
            pitr_window: self.read("PGCAIRN_PITR_WINDOW", read_span)?,
        })
    }

    pub(super) fn secret(&self) -> Result<SecretKeys, ConfigError> {
        Ok(SecretKeys {
            // Set and empty is a broken secret mount, not "no passphrase": it is refused when it is used.
            passphrase: self.env.var("PGCAIRN_PASSPHRASE").map(Passphrase::unchecked),
            passphrase_file: self.path("PGCAIRN_PASSPHRASE_FILE")?,
            passphrase_command: self.text("PGCAIRN_PASSPHRASE_COMMAND")?,
            key_file: self.path("PGCAIRN_KEY_FILE")?,
            key_command: self.text("PGCAIRN_KEY_COMMAND")?,
        })
    }

    fn text(&self, name: &str) -> Result<Option<String>, ConfigError> {
        let text = |value: OsString| value.into_string().map_err(|_| bad(name, "not UTF-8".into()));
        self.env.filled(name).map(text).transpose()
    }

    fn read<T>(&self, name: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        self.text(name)?.map(|text| read(&text).map_err(|problem| bad(name, problem))).transpose()
    }

    fn path(&self, name: &str) -> Result<Option<std::path::PathBuf>, ConfigError> {
        self.env.filled(name).map(|value| absolute(Path::new(&value), self.folder)).transpose()
    }
}

fn bad(name: &str, problem: String) -> ConfigError {
    ConfigError::BadValue { place: format!("environment variable {name}"), problem }
}
