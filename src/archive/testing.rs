//! A repository in memory with a log of made-up entries, hosts with keys, and segments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::failure::{PushError, TailFailure};
use super::push::{PushContext, Pushed, push};
use super::site::{GetContext, LogTail, Rights, Site};
use crate::crypt::sign::SigningKey;
use crate::crypt::{Opening, Root, Sealing};
use crate::repo::log::{Expired, Fork, Head, KeyTable, entry_name};
use crate::store::memory::MemoryStore;
use crate::store::{Backend, ObjectName, SessionTag};
use crate::units::{Hash32, TimelineId, Timestamp};

pub(super) const SYSTEM: u64 = 7_312_345_678_901_234_567;

/// An empty WAL segment: page headers and zeros, as `mib` MiB of a timeline.
pub(super) fn segment(timeline: u32, no: u64, mib: u32) -> Vec<u8> {
    segment_of(SYSTEM, timeline, no, mib)
}

pub(super) fn segment_of(system: u64, header_timeline: u32, no: u64, mib: u32) -> Vec<u8> {
    let size = mib << 20;
    let mut bytes = vec![0; size as usize];
    for (i, page) in bytes.chunks_mut(8192).enumerate() {
        let info: u16 = if i == 0 { 2 } else { 0 };
        page[0..2].copy_from_slice(&0xD116u16.to_le_bytes());
        page[2..4].copy_from_slice(&info.to_le_bytes());
        page[4..8].copy_from_slice(&header_timeline.to_le_bytes());
        page[8..16].copy_from_slice(&(no * u64::from(size) + 8192 * i as u64).to_le_bytes());
    }
    bytes[24..32].copy_from_slice(&system.to_le_bytes());
    bytes[32..36].copy_from_slice(&size.to_le_bytes());
    bytes[36..40].copy_from_slice(&8192u32.to_le_bytes());
    bytes
}

/// A host as the log knows it.
struct Enrolled {
    revoked: Option<u64>,
    wal_ends: Option<serde_json::Value>,
    clusters: Option<Vec<&'static str>>,
}

pub(super) struct World {
    pub store: Arc<MemoryStore>,
    pub opening: Opening,
    root: Root,
    hosts: Mutex<BTreeMap<String, (serde_json::Value, Enrolled)>>,
    known: Mutex<Rights>,
    pub begun: Mutex<Option<u64>>,
    /// Announced and accepted timelines, from the next entry on.
    pub forks: Mutex<Vec<(u64, Fork)>>,
    pub expired: Mutex<Vec<(u64, TimelineId, Expired)>>,
    /// What every pusher's clock shows.
    pub now: Mutex<Timestamp>,
    pub folder: tempfile::TempDir,
    pub host: SigningKey,
    /// The next one who asks has read to the tail just now.
    pub just_read: Mutex<bool>,
}

impl World {
    /// With one host enrolled as writer of all clusters, and a BEGIN of the cluster.
    pub fn new() -> Self {
        Self::in_store(MemoryStore::default())
    }

    /// The same in such a store.
    pub fn in_store(store: MemoryStore) -> Self {
        let root = Root::random().unwrap();
        let keys = serde_json::from_str(r#"{"signing":{},"sealing":[]}"#).unwrap();
        let head = Head { number: 0, hash: Hash32([0; 32]) };
        let world = World {
            store: Arc::new(store),
            opening: root.opening(),
            root,
            hosts: Mutex::default(),
            known: Mutex::new(Rights { head, keys, system_identifier: None, forks: Vec::new(), expired: Vec::new() }),
            begun: Mutex::new(Some(SYSTEM)),
            forks: Mutex::default(),
            expired: Mutex::default(),
            now: Mutex::new(Timestamp(1_700_000_000_000_000)),
            folder: tempfile::tempdir().unwrap(),
            host: SigningKey::from_seed(&[1; 32]),
            just_read: Mutex::default(),
        };
        let host = SigningKey::from_seed(&[1; 32]);
        world.enrol(&host);
        world.append();
        world.read_on_unchecked();
        world
    }

    pub fn sealing(&self) -> &Sealing {
        &self.opening.sealing
    }

    pub fn enrol(&self, key: &SigningKey) {
        let enrolled = Enrolled { revoked: None, wal_ends: None, clusters: None };
        self.hosts.lock().unwrap().insert(key.id().to_string(), (serde_json::to_value(key.public()).unwrap(), enrolled));
    }

    /// Only for these clusters.
    pub fn narrow(&self, key: &SigningKey, clusters: &[&'static str]) {
        self.hosts.lock().unwrap().get_mut(&key.id().to_string()).unwrap().1.clusters = Some(clusters.to_vec());
    }

    /// Ends the key's rights; its WAL counts up to `last` of its timeline.
    pub fn revoke(&self, key: &SigningKey, last: &str) {
        let end = serde_json::json!([{ "cluster": "shop", "system_identifier": SYSTEM.to_string(), "last": last }]);
        let mut hosts = self.hosts.lock().unwrap();
        let enrolled = &mut hosts.get_mut(&key.id().to_string()).unwrap().1;
        (enrolled.revoked, enrolled.wal_ends) = (Some(1), Some(end));
    }

    fn keys(&self) -> KeyTable {
        let signing: serde_json::Map<String, serde_json::Value> = self
            .hosts
            .lock()
            .unwrap()
            .iter()
            .map(|(id, (public, e))| {
                let key = serde_json::json!({
                    "public": public, "name": "host", "owner": false, "since": 1, "roles": ["writer"],
                    "clusters": e.clusters, "revoked": e.revoked, "wal_ends": e.wal_ends,
                });
                (id.clone(), key)
            })
            .collect();
        serde_json::from_value(serde_json::json!({ "signing": signing, "sealing": [] })).unwrap()
    }

    /// One more entry of the log.
    pub fn append(&self) -> Head {
        let number = (0..).find(|n| self.store.size(&entry(*n)).is_err()).unwrap();
        let bytes = format!("entry {number} of {}", self.root.repository);
        let _ = self.store.create(&entry(number), &[bytes.as_bytes()], &SessionTag::new("test").unwrap()).unwrap();
        Head { number, hash: Hash32(*blake3::hash(bytes.as_bytes()).as_bytes()) }
    }

    fn read_on_unchecked(&self) -> Rights {
        let mut head = None;
        for number in 0.. {
            let Ok(bytes) = self.store.read(&entry(number), 1 << 20) else { break };
            head = Some(Head { number, hash: Hash32(*blake3::hash(&bytes).as_bytes()) });
        }
        let (system_identifier, forks) = (*self.begun.lock().unwrap(), self.forks.lock().unwrap().clone());
        let rights =
            Rights { head: head.unwrap(), keys: self.keys(), system_identifier, forks, expired: self.expired.lock().unwrap().clone() };
        *self.known.lock().unwrap() = rights.clone();
        rights
    }

    /// As a host that has read no further.
    pub fn set_known(&self, rights: Rights) {
        *self.known.lock().unwrap() = rights;
    }

    /// Forgets and reads the log anew, as another host would.
    pub fn refresh(&self) {
        self.read_on_unchecked();
    }

    pub fn site(&self) -> Site<'_> {
        Site { backend: self.store.as_ref(), repository: self.root.repository, sealing: self.sealing(), cluster: "shop", tail: self }
    }

    pub fn get(&self) -> GetContext<'_> {
        GetContext { site: self.site(), opening: &self.opening, system_identifier: SYSTEM }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Pushes these bytes under this name with this key.
    pub fn push_as(&self, key: &SigningKey, name: &str, bytes: &[u8]) -> Result<Pushed, PushError> {
        std::fs::write(self.path(name), bytes).unwrap();
        self.push_path_as(key, &self.path(name))
    }

    fn push_path_as(&self, signer: &SigningKey, path: &Path) -> Result<Pushed, PushError> {
        let now = *self.now.lock().unwrap();
        push(&PushContext { site: self.site(), signer, pgdata: self.folder.path(), level: 1, now }, path)
    }

    pub fn push_path(&self, path: &Path) -> Result<Pushed, PushError> {
        self.push_path_as(&self.host, path)
    }

    /// Lets all clocks go on.
    pub fn wait(&self, minutes: i64) {
        self.now.lock().unwrap().0 += minutes * 60_000_000;
    }

    pub fn push(&self, name: &str, bytes: &[u8]) -> Result<Pushed, PushError> {
        self.push_as(&self.host, name, bytes)
    }

    /// The file as a restore gets it: `Ok(None)` if it is absent.
    pub fn got(&self, name: &str) -> Result<Option<Vec<u8>>, super::GetError> {
        let dest = self.path("RECOVERYXLOG");
        let _ = std::fs::remove_file(&dest);
        let got = super::get(&self.get(), name, &dest);
        let there: Vec<_> = std::fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!there.iter().any(|n| n.to_string_lossy().contains(".pgcairn-")), "{there:?}");
        match got? {
            super::Got::Absent => Ok(None),
            super::Got::Delivered { plain, .. } => {
                let bytes = std::fs::read(&dest).unwrap();
                assert_eq!(bytes.len() as u64, plain);
                Ok(Some(bytes))
            }
        }
    }

    /// The object of a file.
    pub fn object(&self, name: &str, variant: u32) -> ObjectName {
        self.site().address(SYSTEM, &name.parse().unwrap()).object(variant).unwrap()
    }

    pub fn plant(&self, object: &ObjectName, bytes: &[u8]) {
        let _ = self.store.create(object, &[bytes], &SessionTag::new("test").unwrap()).unwrap();
    }
}

impl LogTail for World {
    fn known(&self) -> Rights {
        self.known.lock().unwrap().clone()
    }

    /// Reads on from what is known, and looks at nothing before.
    fn just_read(&self) -> Option<Rights> {
        std::mem::take(&mut *self.just_read.lock().unwrap()).then(|| self.known())
    }

    fn read_on(&self) -> Result<Rights, TailFailure> {
        let known = self.known();
        match self.store.size(&entry(known.head.number + 1)) {
            Ok(_) => Ok(self.read_on_unchecked()),
            Err(e) if e.is_absent() => Ok(known),
            Err(e) => Err(TailFailure(Box::new(e))),
        }
    }
}

pub(super) fn entry(number: u64) -> ObjectName {
    ObjectName::new(entry_name(number)).unwrap()
}

/// A file of a real server; see `tests/fixtures/pg`.
pub(super) fn fixture(major: u16, name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/pg/{major}/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|_| zstd::decode_all(std::fs::File::open(format!("{path}.zst")).unwrap()).unwrap())
}

/// A data directory with a control file of that identifier.
pub(super) fn control_file(pgdata: &Path, identifier: Option<u64>) -> u64 {
    let mut bytes = fixture(15, "pg_control");
    if let Some(identifier) = identifier {
        bytes[..8].copy_from_slice(&identifier.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&crc.to_le_bytes());
    }
    std::fs::create_dir_all(pgdata.join("global")).unwrap();
    std::fs::write(pgdata.join("global/pg_control"), &bytes).unwrap();
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}
