//! What this host has seen of a repository's log, and must not forget: by it a store that goes back is caught.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::checked;
use super::own::OwnSessions;
use super::secret::Secret32;
use crate::units::ids::{hex, unhex};
use crate::units::{Class, Explain, Hash32, SessionId};

/// An entry of the log by number and hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: Hash32,
}

/// A KEY entry as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyEntry {
    /// Its number in the log.
    pub number: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What is remembered of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSeen {
    /// The number of its newest BEGIN that was seen.
    pub begin: u64,
    /// The system identifier in that BEGIN: whose WAL may be pushed.
    pub system_identifier: u64,
}

/// When a foreign session was first seen to stand still.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstSight {
    /// The number of its newest entry then: a newer one starts the wait anew.
    pub entry: u64,
    /// The boot of this machine during which it was seen.
    pub boot: String,
    /// Milliseconds since that boot.
    pub monotonic_ms: u64,
}

/// The log has another entry where one was seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log entry {number} is not the one that this host has seen: {found} instead of {remembered}")]
pub struct Diverged {
    /// The entry's number.
    pub number: u64,
    /// The hash that was seen.
    pub remembered: Hash32,
    /// The hash found now.
    pub found: Hash32,
}

impl Explain for Diverged {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn cure(&self) -> Option<String> {
        Some("the store was set back or replaced: find out by whom before anything is written to it".into())
    }
}

/// What was seen of one repository. Everything in it only ever goes forward.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    newest: Option<Head>,
    keys: Vec<KeyEntry>,
    clusters: BTreeMap<String, ClusterSeen>,
    sights: BTreeMap<SessionId, FirstSight>,
    small_file_secret: Option<Secret32>,
    own: OwnSessions,
}

impl Seen {
    /// The longest file, in bytes.
    pub(super) const LIMIT: usize = 64 << 20;

    /// The newest entry seen.
    pub fn newest(&self) -> Option<Head> {
        self.newest
    }

    /// Remembers that `head` was seen, unless a newer one was; another hash at the same number is an error.
    pub fn advance(&mut self, head: Head) -> Result<(), Diverged> {
        match self.newest {
            Some(known) if known.number == head.number && known.hash != head.hash => {
                Err(Diverged { number: head.number, remembered: known.hash, found: head.hash })
            }
            Some(known) if known.number >= head.number => Ok(()),
            _ => {
                self.newest = Some(head);
                Ok(())
            }
        }
    }

    /// The KEY entries seen, in the order of the log.
    pub fn keys(&self) -> &[KeyEntry] {
        &self.keys
    }

    /// Remembers a KEY entry; other bytes under a number that was seen are an error.
    pub fn remember_key(&mut self, number: u64, bytes: &[u8]) -> Result<(), Diverged> {
        match self.keys.binary_search_by_key(&number, |key| key.number) {
            Err(at) => self.keys.insert(at, KeyEntry { number, bytes: bytes.to_vec() }),
            Ok(at) => {
                let hash = |bytes: &[u8]| Hash32(*blake3::hash(bytes).as_bytes());
                let known = self.keys.get(at).map_or(&[][..], |key| &key.bytes);
                if known != bytes {
                    return Err(Diverged { number, remembered: hash(known), found: hash(bytes) });
                }
            }
        }
        Ok(())
    }

    /// What is remembered of a cluster.
    pub fn cluster(&self, name: &str) -> Option<ClusterSeen> {
        self.clusters.get(name).copied()
    }

    /// Remembers the system identifier of a cluster's BEGIN, unless a newer one was seen.
    pub fn remember_begin(&mut self, cluster: &str, begin: u64, system_identifier: u64) {
        let seen = ClusterSeen { begin, system_identifier };
        let known = self.clusters.entry(cluster.to_owned()).or_insert(seen);
        if known.begin < begin {
            *known = seen;
        }
    }

    /// When a foreign session was first seen to stand still.
    pub fn sight(&self, session: SessionId) -> Option<&FirstSight> {
        self.sights.get(&session)
    }

    /// Remembers a first sight; one of the same entry and boot that is there already stays.
    pub fn remember_sight(&mut self, session: SessionId, sight: FirstSight) {
        let known = self.sights.get(&session);
        if known.is_none_or(|known| known.entry < sight.entry || (known.entry == sight.entry && known.boot != sight.boot)) {
            self.sights.insert(session, sight);
        }
    }

    /// Forgets the sights of all sessions but those that `open` says are open.
    pub fn keep_sights(&mut self, open: impl Fn(SessionId) -> bool) {
        self.sights.retain(|session, _| open(*session));
    }

    /// The secret of small-file chunks, if it was drawn.
    pub fn small_file_secret(&self) -> Option<&Secret32> {
        self.small_file_secret.as_ref()
    }

    /// What was begun with this host's key out of this folder.
    pub fn own(&self) -> &OwnSessions {
        &self.own
    }

    /// The same, to be changed.
    pub fn own_mut(&mut self) -> &mut OwnSessions {
        &mut self.own
    }

    pub(super) fn small_file_secret_or_new(&mut self) -> Result<Secret32, getrandom::Error> {
        match &self.small_file_secret {
            Some(secret) => Ok(secret.clone()),
            None => Ok(self.small_file_secret.insert(Secret32::random()?).clone()),
        }
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let secret = self.small_file_secret.as_ref().map(Secret32::to_hex);
        let form = OnDisk {
            version: 1,
            newest: self.newest,
            keys: self.keys.iter().map(|key| KeyOnDisk { number: key.number, bytes: hex(&key.bytes) }).collect(),
            clusters: self.clusters.clone(),
            sights: self.sights.iter().map(|(session, sight)| (session.to_string(), sight.clone())).collect(),
            small_file_secret: secret.as_ref().map(|text| text.as_str()),
            own: self.own.clone(),
        };
        let size = self.keys.iter().map(|key| key.bytes.len() * 2 + 64).sum::<usize>() + 300 * (self.clusters.len() + self.sights.len());
        checked::encode(&form, size)
    }

    pub(super) fn decode(file: &[u8]) -> Result<Self, String> {
        let form: OnDisk<'_> = checked::decode(file)?;
        if form.version != 1 {
            return Err(format!("it has version {}, and version 1 is known", form.version));
        }
        let key = |key: KeyOnDisk| Some(KeyEntry { number: key.number, bytes: unhex(&key.bytes)? });
        let keys = form.keys.into_iter().map(key).collect::<Option<Vec<_>>>().ok_or("a KEY entry is not in hex")?;
        if !keys.is_sorted_by(|a, b| a.number < b.number) {
            return Err("its KEY entries are not in order".into());
        }
        let sight = |(session, sight): (String, FirstSight)| {
            session.parse().map(|session| (session, sight)).map_err(|e: crate::units::ParseIdError| e.to_string())
        };
        Ok(Seen {
            newest: form.newest,
            keys,
            clusters: form.clusters,
            sights: form.sights.into_iter().map(sight).collect::<Result<_, String>>()?,
            small_file_secret: form.small_file_secret.map(Secret32::from_hex).transpose()?,
            own: form.own,
        })
    }
}

/// The form on disk. Unknown fields are refused: what they mean would be lost when the file is written again.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk<'a> {
    version: u32,
    newest: Option<Head>,
    keys: Vec<KeyOnDisk>,
    clusters: BTreeMap<String, ClusterSeen>,
    sights: BTreeMap<String, FirstSight>,
    #[serde(borrow)]
    small_file_secret: Option<&'a str>,
    #[serde(default)]
    own: OwnSessions,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyOnDisk {
    number: u64,
    bytes: String,
}
