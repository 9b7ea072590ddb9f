//! One cluster's archive in one repository, and what it asks of the log.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::failure::{SiteError, TailFailure};
use super::names::parse_listed;
use crate::crypt::sign::PublicKey;
use crate::crypt::{Opening, Sealing};
use crate::pg::wal::WalFileName;
use crate::repo::log::{ClusterId, ENTRY_LIMIT, Expired, Fork, Head, KeyTable, LogView, Role, entry_name};
use crate::repo::wal::WalAddress;
use crate::store::{Backend, Listed, ObjectName, StoreError, list_twice, seen_through};
use crate::units::{Hash32, KeyId, RepositoryId, SegmentName, TimelineId};

/// How often the log may grow under our eyes before it is given up.
const PATIENCE: u32 = 8;

/// Who may do what as of an entry of the log, as far as a cluster's archive is concerned.
#[derive(Clone, Debug)]
pub struct Rights {
    /// The newest entry that was read.
    pub head: Head,
    /// Keys and their rights.
    pub keys: KeyTable,
    /// The system identifier in the newest BEGIN of the cluster; `None` before the first.
    pub system_identifier: Option<u64>,
    /// Timelines of the cluster that were announced or accepted, each with the system identifier that is meant.
    pub forks: Vec<(u64, Fork)>,
    /// What of its WAL was expired, by system identifier and timeline.
    pub expired: Vec<(u64, TimelineId, Expired)>,
}

impl Rights {
    /// As a view of the log says.
    pub fn of(view: &LogView, cluster: &str) -> Self {
        let forks = view.fold.forks.iter().filter(|(id, _)| id.name == cluster);
        let expired = view.fold.expired.iter().filter(|(id, _)| id.name == cluster);
        Rights {
            head: view.newest,
            keys: view.fold.keys.clone(),
            system_identifier: view.fold.clusters.get(cluster).map(|begin| begin.system_identifier),
            forks: forks.flat_map(|(id, forks)| forks.iter().map(|fork| (id.system_identifier, fork.clone()))).collect(),
            expired: expired.flat_map(|(id, rows)| rows.iter().map(|(t, row)| (id.system_identifier, *t, row.clone()))).collect(),
        }
    }

    /// The key, if the log knows it, be it revoked.
    pub(super) fn public(&self, id: &KeyId) -> Option<&PublicKey> {
        self.keys.get(id).map(|key| &key.public)
    }

    /// Does a file that this key signed count?
    pub(super) fn counts(&self, id: &KeyId, cluster: &ClusterId, file: &WalFileName) -> bool {
        self.keys.get(id).is_some_and(|key| match file {
            WalFileName::History(timeline) => key.history_counts(cluster, *timeline),
            WalFileName::Segment(name) | WalFileName::Partial(name) | WalFileName::Backup { segment: name, .. } => {
                key.wal_counts(cluster, name)
            }
        })
    }

    /// Was this segment, or one behind it on its timeline, expired? Then that it isn't there says nothing of what was written.
    pub(super) fn is_expired(&self, system_identifier: u64, name: SegmentName) -> bool {
        let row = self.expired.iter().find(|(system, timeline, _)| *system == system_identifier && *timeline == name.timeline);
        row.is_some_and(|(_, _, row)| name.no(row.segment_size).is_some_and(|no| no <= row.segment_size.segment_of(row.highest)))
    }

    /// Does the log say that this object, of this cluster, may be gone? A history file never, any other file if WAL of its
    /// timeline up to it was expired.
    fn may_be_gone(&self, cluster_key: [u8; 16], object: &ObjectName, file: &WalFileName) -> bool {
        let own = format!("wal/{}/", crate::units::ids::hex(&cluster_key));
        let system = object.as_str().strip_prefix(&own).and_then(|rest| rest.split('/').next()?.parse::<u64>().ok());
        match (system, file) {
            (Some(_), WalFileName::History(_)) => false,
            (Some(system), WalFileName::Segment(name) | WalFileName::Partial(name) | WalFileName::Backup { segment: name, .. }) => {
                self.is_expired(system, *name)
            }
            (None, _) => true,
        }
    }

    /// May this key write for the cluster now?
    pub(super) fn may_write(&self, id: &KeyId, cluster: &str) -> bool {
        self.keys.get(id).is_some_and(|key| key.may(Role::Writer, Some(cluster)))
    }
}

/// The log as the archive needs it: the caller has read it up to some entry, and can read on.
pub trait LogTail: Sync {
    /// What is known without reading: as of the newest entry that this host remembers or has just read.
    fn known(&self) -> Rights;

    /// What was read to the tail a moment ago, for the question that is asked now: once, and not again for a later one.
    fn just_read(&self) -> Option<Rights> {
        None
    }

    /// Reads to the tail.
    ///
    /// # Errors
    /// If the log can't be read, or can't be trusted.
    fn read_on(&self) -> Result<Rights, TailFailure>;
}

/// One cluster's archive in one repository.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// Where objects lie.
    pub backend: &'a dyn Backend,
    /// The repository.
    pub repository: RepositoryId,
    /// What it takes to write and to read metadata.
    pub sealing: &'a Sealing,
    /// The cluster's name.
    pub cluster: &'a str,
    /// The log.
    pub tail: &'a dyn LogTail,
}

/// What a get works with.
#[derive(Clone, Copy)]
pub struct GetContext<'a> {
    /// The archive. The caller knows from the log that there is such a cluster: an archive without a single file is
    /// simply empty.
    pub site: Site<'a>,
    /// What opens content.
    pub opening: &'a Opening,
    /// Whose WAL is wanted.
    pub system_identifier: u64,
}

impl Site<'_> {
    /// The address of a file.
    pub fn address(&self, system_identifier: u64, file: &WalFileName) -> WalAddress {
        WalAddress { cluster: self.sealing.cluster_key(self.cluster), system_identifier, name: file.to_string() }
    }

    /// The folder of all files of one system identifier.
    ///
    /// # Errors
    /// Never for names that came from a cluster.
    pub fn root(&self, system_identifier: u64) -> Result<ObjectName, StoreError> {
        WalAddress::root(&self.sealing.cluster_key(self.cluster), system_identifier)
    }

    pub(super) fn cluster_id(&self, system_identifier: u64) -> ClusterId {
        ClusterId { name: self.cluster.to_owned(), system_identifier }
    }

    /// Is the newest entry known still the newest, and the same? If not, what is, read to the tail. So an unmounted or
    /// set-back store is noticed, and a right that has ended.
    pub(super) fn at_tail(&self, known: &Rights) -> Result<Rights, SiteError> {
        let mut rights = known.clone();
        for _ in 0..PATIENCE {
            let same = self.is_entry(rights.head.number, rights.head.hash)?;
            if same && !self.has_entry(rights.head.number.saturating_add(1))? {
                return Ok(rights);
            }
            let newer = self.tail.read_on()?;
            let back =
                newer.head.number < rights.head.number || (newer.head.number == rights.head.number && newer.head.hash != rights.head.hash);
            // Later entries don't excuse it.
            if back || (!same && !self.is_entry(rights.head.number, rights.head.hash)?) {
                return Err(SiteError::SetBack { remembered: rights.head, found: newer.head });
            }
            rights = newer;
        }
        Err(SiteError::Busy)
    }

    /// Has the log, read to the tail, this entry? An object that names one which it hasn't was written before the store
    /// was set back, or never by us.
    pub(super) fn has_head(&self, head: &(u64, Hash32)) -> Result<bool, SiteError> {
        self.is_entry(head.0, head.1)
    }

    /// Has the entry of this number this hash, or had it before something was put over it?
    fn is_entry(&self, number: u64, hash: Hash32) -> Result<bool, SiteError> {
        let name = entry(number)?;
        let other = || StoreError::Absent { store: self.backend.describe(), name: name.clone() };
        let wanted = || if self.hash_of_entry(&name)? == Some(hash) { Ok(true) } else { Err(SiteError::Store(other())) };
        match seen_through(self.backend, &name, is_absent, wanted) {
            Err(SiteError::Store(e)) if e.is_absent() => Ok(false),
            other => other,
        }
    }

    /// Calls `each` for every object of a folder of WAL. Those that were deleted while their contents were kept are among
    /// them: whoever calls it can't tell from a listing what may be gone. What the log lists as expired is gone.
    pub(super) fn list(&self, folder: &ObjectName, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), SiteError> {
        self.backend.list(Some(folder), each)?;
        self.deleted(folder, each)
    }

    /// As [`Site::list`], of who concludes from what is not among it: all that one of two listings shows. What a name that
    /// came damaged stands for isn't there.
    pub(super) fn list_twice(&self, folder: &ObjectName, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), SiteError> {
        list_twice(self.backend, folder)?.either.into_iter().try_for_each(&mut *each)?;
        self.deleted(folder, each)
    }

    /// What was deleted, and may not be gone.
    fn deleted(&self, folder: &ObjectName, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), SiteError> {
        let mut rights = None;
        for covered in self.backend.covered(folder)?.into_iter().filter(|covered| covered.deleted) {
            let Some(archived) = parse_listed(&covered.name) else { continue };
            let rights = rights.get_or_insert_with(|| self.tail.known());
            if rights.may_be_gone(self.sealing.cluster_key(self.cluster), &covered.name, &archived.file) {
                continue;
            }
            self.backend.choose(&covered.name, Some(&covered.oldest));
            each(Listed { name: covered.name, size: covered.size })?;
        }
        Ok(())
    }

    fn hash_of_entry(&self, name: &ObjectName) -> Result<Option<Hash32>, SiteError> {
        let bytes = match self.backend.read(name, ENTRY_LIMIT as u64) {
            // A void entry; of it the log hashes as much as this, too.
            Err(StoreError::TooLarge { .. }) => self.backend.read_range(name, 0, ENTRY_LIMIT + 1)?,
            Err(e) if e.is_absent() => return Ok(None),
            other => other?,
        };
        Ok(Some(Hash32(*blake3::hash(&bytes).as_bytes())))
    }

    fn has_entry(&self, number: u64) -> Result<bool, SiteError> {
        match self.backend.size(&entry(number)?) {
            Ok(_) => Ok(true),
            Err(e) if e.is_absent() => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

fn is_absent(error: &SiteError) -> bool {
    matches!(error, SiteError::Store(e) if e.is_absent())
}

fn entry(number: u64) -> Result<ObjectName, SiteError> {
    Ok(ObjectName::new(entry_name(number)).map_err(StoreError::from)?)
}
