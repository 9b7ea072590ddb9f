//! Which repository lies at a URL: remembered at the first use, so that a store can't pass another one off.

use serde::{Deserialize, Serialize};

use super::{StateError, checked, lock_folder, read, write};
use crate::host::config::RepositoryUrl;
use crate::host::paths::StateDir;
use crate::units::{Hash32, RepositoryId};

/// What is known of a URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    /// The repository's id.
    pub repository: RepositoryId,
    /// Its owner's public key (Ed25519).
    pub owner_key: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    version: u32,
    url: String,
    repository: RepositoryId,
    owner_key: Hash32,
}

/// The longest file, in bytes.
const LIMIT: usize = 65_536;

impl StateDir {
    /// The pin of a URL, if there is one.
    pub fn pin(&self, url: &RepositoryUrl) -> Result<Option<Pin>, StateError> {
        let path = self.pin_path(url);
        let Some(bytes) = read(&path, LIMIT)? else { return Ok(None) };
        let form: OnDisk = checked::decode(&bytes).map_err(|problem| StateError::Corrupt { path: path.clone(), problem })?;
        if form.version != 1 || form.url != url.to_string() {
            return Err(StateError::Corrupt { path, problem: "it is of another URL or version".into() });
        }
        Ok(Some(Pin { repository: form.repository, owner_key: form.owner_key.0 }))
    }

    /// Remembers what lies at a URL; an error if something else was remembered.
    pub fn remember_pin(&self, url: &RepositoryUrl, pin: &Pin) -> Result<(), StateError> {
        let path = self.pin_path(url);
        let _lock = lock_folder(&self.path().join("pins"), self.owner())?;
        match self.pin(url)? {
            Some(known) if known == *pin => Ok(()),
            Some(known) => Err(StateError::OtherRepository { url: url.to_string(), known: known.repository, found: pin.repository, path }),
            None => {
                let form = OnDisk { version: 1, url: url.to_string(), repository: pin.repository, owner_key: Hash32(pin.owner_key) };
                write(&path, &checked::encode(&form, 0), self.owner())
            }
        }
    }

    /// Forgets what lies at a URL.
    ///
    /// # Errors
    /// If the file can't be removed.
    pub fn forget_pin(&self, url: &RepositoryUrl) -> Result<(), StateError> {
        let path = self.pin_path(url);
        let _lock = lock_folder(&self.path().join("pins"), self.owner())?;
        let _ = std::fs::remove_file(path.with_extension("format"));
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| StateError::Io { verb: "write", path, source }),
        }
    }

    /// Has this host proved that the store at a URL lets nobody overwrite?
    pub fn is_proved(&self, url: &RepositoryUrl) -> bool {
        self.pin_path(url).with_extension("proved").is_file()
    }

    /// Remembers that it has.
    pub fn remember_proved(&self, url: &RepositoryUrl) -> Result<(), StateError> {
        let _lock = lock_folder(&self.path().join("pins"), self.owner())?;
        write(&self.pin_path(url).with_extension("proved"), b"create-if-absent holds here\n", self.owner())
    }

    /// The format object that was read at a URL, if it is kept: it never changes. It proves nothing of what lies there now.
    pub fn kept_format(&self, url: &RepositoryUrl) -> Option<Vec<u8>> {
        read(&self.pin_path(url).with_extension("format"), LIMIT).ok().flatten().map(|bytes| bytes.to_vec())
    }

    /// Keeps the format object of a URL.
    pub fn keep_format(&self, url: &RepositoryUrl, bytes: &[u8]) -> Result<(), StateError> {
        let _lock = lock_folder(&self.path().join("pins"), self.owner())?;
        write(&self.pin_path(url).with_extension("format"), bytes, self.owner())
    }

    /// The file of a URL's pin: what to remove when another repository is meant.
    pub fn pin_path(&self, url: &RepositoryUrl) -> std::path::PathBuf {
        self.path().join("pins").join(format!("{}.json", blake3::hash(&url.identity()).to_hex()))
    }
}

/// Arbitrary bytes as a pin's file (`crate::fuzzing`).
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn probe(file: &[u8]) {
    let _ = checked::decode::<OnDisk>(file);
}
