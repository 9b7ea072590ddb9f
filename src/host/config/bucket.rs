//! The keys of a repository in a bucket.

use std::path::PathBuf;

use super::error::ConfigError;

/// How a bucket is reached and used: the keys of `[repository.X]`, flags and variables of the same names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BucketKeys {
    /// `endpoint`: the service's URL.
    pub endpoint: Option<String>,
    /// `region`.
    pub region: Option<String>,
    /// `path-style`: the bucket stands in the path, not in the host's name.
    pub path_style: Option<bool>,
    /// `ca-file`: authorities in PEM that are trusted for the service.
    pub ca_file: Option<PathBuf>,
    /// `storage-class`, of packs.
    pub storage_class: Option<String>,
    /// `storage-class-small`, of everything else.
    pub small_storage_class: Option<String>,
    /// `server-side-encryption`.
    pub encryption: Option<String>,
    /// `kms-key`.
    pub kms_key: Option<String>,
    /// `single-writer`: no other process ever writes.
    pub single_writer: Option<bool>,
    /// `lock-days`: for how many days what a snapshot needs is locked against deletion.
    pub lock_days: Option<u32>,
    /// `egress-price`: dollars for a gigabyte that leaves the store.
    pub egress_price: Option<Price>,
}

/// A price, in millionths of a dollar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Price(pub u64);

impl Price {
    /// In dollars.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl BucketKeys {
    /// These keys, and those of `lower` where these are unset.
    pub(super) fn over(self, lower: &BucketKeys) -> BucketKeys {
        BucketKeys {
            endpoint: self.endpoint.or_else(|| lower.endpoint.clone()),
            region: self.region.or_else(|| lower.region.clone()),
            path_style: self.path_style.or(lower.path_style),
            ca_file: self.ca_file.or_else(|| lower.ca_file.clone()),
            storage_class: self.storage_class.or_else(|| lower.storage_class.clone()),
            small_storage_class: self.small_storage_class.or_else(|| lower.small_storage_class.clone()),
            encryption: self.encryption.or_else(|| lower.encryption.clone()),
            kms_key: self.kms_key.or_else(|| lower.kms_key.clone()),
            single_writer: self.single_writer.or(lower.single_writer),
            lock_days: self.lock_days.or(lower.lock_days),
            egress_price: self.egress_price.or(lower.egress_price),
        }
    }

    /// The keys that are set, with what they are set to, as flags take them.
    pub fn set(&self) -> Vec<(&'static str, std::ffi::OsString)> {
        let text = |name, value: &Option<String>| value.as_ref().map(|v| (name, v.into()));
        let flag = |name, value: Option<bool>| value.map(|v| (name, v.to_string().into()));
        let all = [
            text("endpoint", &self.endpoint),
            text("region", &self.region),
            flag("path-style", self.path_style),
            self.ca_file.as_ref().map(|file| ("ca-file", file.clone().into_os_string())),
            text("storage-class", &self.storage_class),
            text("storage-class-small", &self.small_storage_class),
            text("server-side-encryption", &self.encryption),
            text("kms-key", &self.kms_key),
            flag("single-writer", self.single_writer),
            self.lock_days.map(|days| ("lock-days", days.to_string().into())),
            self.egress_price.map(|price| ("egress-price", price.dollars().to_string().into())),
        ];
        all.into_iter().flatten().collect()
    }

    /// No key may be set for a repository in a folder.
    pub(super) fn must_be_empty(&self, place: &str) -> Result<(), ConfigError> {
        match self.set().first() {
            None => Ok(()),
            Some((name, _)) => Err(ConfigError::BadValue {
                place: format!("`{name}` in {place}"),
                problem: "it is for repositories in a bucket, s3://BUCKET/PREFIX".to_owned(),
            }),
        }
    }
}

/// A URL of a service.
pub fn read_endpoint(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let fine = rest.is_some_and(|rest| {
        let host = rest.trim_end_matches('/');
        !host.is_empty() && !host.contains(['@', '?', '#', ' ']) && host.chars().all(|c| c.is_ascii_graphic())
    });
    if fine { Ok(text.trim_end_matches('/').to_owned()) } else { Err(format!("expected https://HOST or http://HOST:PORT, found {text:?}")) }
}

/// A word that goes into a header.
pub fn read_word(text: &str) -> Result<String, String> {
    let fine = (1..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if fine { Ok(text.to_owned()) } else { Err(format!("expected a word of letters, digits and signs, found {text:?}")) }
}

/// A price in dollars.
pub fn read_price(text: &str) -> Result<Price, String> {
    let price: Option<f64> = text.trim().parse().ok().filter(|price| (0.0..=1000.0).contains(price));
    price
        .map(|price| Price((price * 1e6).round() as u64))
        .ok_or_else(|| format!("expected a price in dollars from 0 to 1000, found {text:?}"))
}

/// A number of days: Amazon allows 100 years.
pub fn read_days(text: &str) -> Result<u32, String> {
    let days = text.trim().parse().ok().filter(|days| (1..=36_500).contains(days));
    days.ok_or_else(|| format!("expected a number of days from 1 to 36500, found {text:?}"))
}
