//! Stores and a sealer for tests, and a repository with an owner and some hosts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use super::*;
use crate::crypt::sign::{PublicKey, SigningKey};
use crate::units::{ChunkId, Digest16, KeyId, Lsn, PackId, RepositoryId, SegmentSize, TimelineId, Timestamp, class_of_io};

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String, pub Class);

impl Explain for Failed {
    fn class(&self) -> Class {
        self.1
    }
}

pub fn failure(text: &str) -> StoreFailure {
    StoreFailure(Box::new(Failed(text.to_owned(), Class::Unreachable)))
}

/// What a store does with one create besides what it should.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Written, and the answer is lost.
    AnswerLost,
    /// Not written, and the answer is lost.
    RequestLost,
    /// Written, but an fsync failed: what is read may be gone with the next crash.
    NotDurable,
    /// Refused, and nothing written: the disk is full.
    Full,
    /// Says that it created the object, and another's bytes are there.
    Liar,
}

/// Objects in memory.
#[derive(Default)]
pub struct MemoryStore {
    pub objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// The next creates go wrong like that, the last one first.
    pub faults: Mutex<Vec<Fault>>,
}

impl MemoryStore {
    pub fn get(&self, name: &str) -> Vec<u8> {
        self.objects.lock().unwrap()[name].clone()
    }

    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        self.objects.lock().unwrap().insert(name.to_owned(), bytes);
    }

    pub fn remove(&self, name: &str) -> Vec<u8> {
        self.objects.lock().unwrap().remove(name).unwrap()
    }

    pub fn flip(&self, name: &str, at: usize) {
        let mut objects = self.objects.lock().unwrap();
        objects.get_mut(name).unwrap()[at] ^= 1;
    }
}

impl LogStore for MemoryStore {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreFailure> {
        let fault = if name.starts_with("log/") { self.faults.lock().unwrap().pop() } else { None };
        let mut objects = self.objects.lock().unwrap();
        match fault {
            Some(Fault::RequestLost) => return Err(failure("request lost")),
            Some(Fault::NotDurable) => {
                objects.insert(name.to_owned(), bytes.to_vec());
                return Err(StoreFailure(Box::new(Failed("not durable".into(), Class::Failed))));
            }
            Some(Fault::Full) => return Err(StoreFailure(Box::new(Failed("no room".into(), Class::Failed)))),
            Some(Fault::Liar) => {
                objects.insert(name.to_owned(), b"another's".to_vec());
                return Ok(Created::Created);
            }
            _ => {}
        }
        if objects.contains_key(name) {
            return Ok(Created::Exists);
        }
        objects.insert(name.to_owned(), bytes.to_vec());
        if fault == Some(Fault::AnswerLost) { Err(failure("answer lost")) } else { Ok(Created::Created) }
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        Ok(self.objects.lock().unwrap().get(name).map(|bytes| bytes.iter().copied().take(limit + 1).collect()))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        Ok(self.objects.lock().unwrap().keys().filter(|name| name.starts_with(prefix)).cloned().collect())
    }
}

/// Objects in a folder: a file that is linked to its name once it is whole.
pub struct FolderStore(pub PathBuf);

impl LogStore for FolderStore {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreFailure> {
        let io = |e: std::io::Error| StoreFailure(Box::new(Failed(e.to_string(), class_of_io(&e))));
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).map_err(io)?;
        let mut unique = [0; 8];
        getrandom::fill(&mut unique).unwrap();
        let temporary = self.0.join(format!("tmp-{:x}", u64::from_le_bytes(unique)));
        std::fs::write(&temporary, bytes).map_err(io)?;
        let linked = std::fs::hard_link(&temporary, &path);
        std::fs::remove_file(&temporary).map_err(io)?;
        match linked {
            Ok(()) => Ok(Created::Created),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(Created::Exists),
            Err(e) => Err(io(e)),
        }
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        match std::fs::read(self.0.join(name)) {
            Ok(mut bytes) => {
                bytes.truncate(limit + 1);
                Ok(Some(bytes))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreFailure(Box::new(Failed(e.to_string(), class_of_io(&e))))),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        let entries = std::fs::read_dir(self.0.join(prefix)).into_iter().flatten();
        Ok(entries.map(|e| format!("{prefix}{}", e.unwrap().file_name().to_str().unwrap())).collect())
    }
}

/// Seals well enough for tests: a key stream and a tag from BLAKE3.
pub struct ToySealer(pub [u8; 32]);

impl ToySealer {
    fn crypt(&self, salt: &[u8; 32], nonce: &[u8; 24], text: &[u8]) -> Vec<u8> {
        let mut stream = vec![0; text.len()];
        blake3::Hasher::new_keyed(&self.0).update(salt).update(nonce).finalize_xof().fill(&mut stream);
        stream.iter().zip(text).map(|(s, t)| s ^ t).collect()
    }

    fn tag(&self, salt: &[u8; 32], nonce: &[u8; 24], text: &[u8], aad: &[u8]) -> [u8; 16] {
        let mut tag = [0; 16];
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(salt).update(nonce).update(&(aad.len() as u64).to_le_bytes()).update(aad).update(text);
        hasher.finalize_xof().fill(&mut tag);
        tag
    }
}

impl Sealer for ToySealer {
    fn seal(&self, plain: &[u8], aad: &[u8]) -> Result<Sealed, SealFailure> {
        let (mut salt, mut nonce) = ([0; 32], [0; 24]);
        getrandom::fill(&mut salt).unwrap();
        getrandom::fill(&mut nonce).unwrap();
        let mut ciphertext = self.crypt(&salt, &nonce, plain);
        ciphertext.extend(self.tag(&salt, &nonce, plain, aad));
        Ok(Sealed { salt, nonce, ciphertext })
    }

    fn open(&self, sealed: &Sealed, aad: &[u8]) -> Result<Vec<u8>, SealFailure> {
        let (text, tag) = sealed.ciphertext.split_last_chunk::<16>().ok_or(SealFailure::NotAuthentic)?;
        let plain = self.crypt(&sealed.salt, &sealed.nonce, text);
        if self.tag(&sealed.salt, &sealed.nonce, &plain, aad) == *tag { Ok(plain) } else { Err(SealFailure::NotAuthentic) }
    }
}

pub const SEALER: ToySealer = ToySealer([3; 32]);
pub const REPOSITORY: RepositoryId = RepositoryId([8; 16]);

/// The owner's key and a host's, by number.
pub fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

pub fn owner() -> SigningKey {
    key(1)
}

/// The host that `init` enrols with all roles.
pub fn host() -> SigningKey {
    key(2)
}

pub fn enrol(key: &SigningKey, roles: &[Role], clusters: Option<&[&str]>) -> KeyOp {
    KeyOp::Host {
        public: key.public().clone(),
        name: format!("host {}", key.id()),
        roles: roles.iter().copied().collect(),
        clusters: clusters.map(|names| names.iter().map(|&n| n.to_owned()).collect()),
    }
}

pub const ALL: [Role; 3] = [Role::Writer, Role::Reader, Role::Maintainer];

pub fn first_keys() -> Vec<KeyOp> {
    vec![
        KeyOp::Owner { public: owner().public().clone() },
        KeyOp::Seal { algorithm: 1, public: "ab".repeat(32) },
        enrol(&host(), &ALL, None),
    ]
}

/// The log of a store, for the owner above.
pub fn log_in<'a>(store: &'a dyn LogStore, owner: &'a PublicKey) -> Log<'a> {
    Log::new(store, &SEALER, REPOSITORY, owner)
}

pub fn begin(cluster: &str) -> Begin {
    Begin {
        purpose: "backup".into(),
        cluster: Some(cluster.into()),
        system_identifier: Some(u64::MAX - 5),
        machine: "0123abcd".into(),
        lock: Some("00ff".into()),
        floor: Some(WalPosition { timeline: TimelineId(1), lsn: Lsn(0x300_0028) }),
        ..Begin::default()
    }
}

pub fn facts(n: u8) -> PackFacts {
    PackFacts { hash: Hash32([n; 32]), size: 20 << 20, tail: 4000 }
}

/// A COMMIT of one pack.
pub fn commit(session: SessionId, snapshot: &str, pack: u8) -> Commit {
    let pack_id = PackId([pack; 16]);
    Commit {
        session,
        summary: Summary {
            id: snapshot.into(),
            kind: "physical".into(),
            cluster: "shop".into(),
            system_identifier: u64::MAX - 5,
            started_at: Timestamp(1_700_000_000_000_000),
            finished_at: Timestamp(1_700_000_060_000_000),
            wal: Some(SnapshotWal {
                timeline: TimelineId(1),
                start_lsn: Lsn(0x400_0028),
                stop_lsn: Lsn(0x500_0100),
                segment_size: SegmentSize::DEFAULT,
                ranges: vec![WalRange { timeline: TimelineId(1), first: Lsn(0x400_0028), last: Lsn(0x500_0100) }],
                ancestry: vec![],
                mode: WalMode::Archive,
            }),
            pg_version: "18.1".into(),
            cluster_bytes: 1 << 40,
            read_bytes: 1 << 40,
            changed_bytes: 1 << 30,
            new_bytes: 1 << 28,
            files: 2000,
            damaged_pages: 0,
            parent: None,
            labels: BTreeMap::from([("why".into(), "é \"quoted\"".into())]),
        },
        root: Root { chunk: ChunkId([1; 32]), place: Place { pack: pack_id, blob: 3, position: 0 }, digest: Digest16([2; 16]) },
        lists: Held::Inline(CommitLists {
            new: BTreeMap::from([(pack_id, facts(pack))]),
            set: [(session, pack_id)].into_iter().collect(),
            less: PackSet::default(),
            ledger: vec![LedgerRun {
                first: "000000010000000000000003".parse().unwrap(),
                last: "000000010000000000000004".parse().unwrap(),
                from_time: None,
                to_time: Some(Timestamp(5)),
            }],
        }),
        replaces: None,
    }
}

pub fn evidence(detail: &str) -> Kind {
    Kind::Note(Note::Evidence { snapshot: "s1".into(), what: "verify".into(), ok: true, detail: detail.into() })
}

/// A store with `log/0`, and a host that appends to it.
pub struct Scene {
    pub store: MemoryStore,
    pub owner: PublicKey,
}

impl Scene {
    pub fn new() -> (Scene, LogView) {
        let scene = Scene { store: MemoryStore::default(), owner: owner().public().clone() };
        let view = scene.log().create(&owner(), first_keys()).unwrap();
        (scene, view)
    }

    pub fn log(&self) -> Log<'_> {
        log_in(&self.store, &self.owner)
    }

    pub fn read(&self) -> LogView {
        self.log().read().unwrap()
    }

    /// Appends as the host of `init`.
    pub fn append(&self, view: &mut LogView, kind: Kind) -> Head {
        self.log().append(view, &host(), &kind).unwrap()
    }

    /// BEGIN and COMMIT; the number of the COMMIT.
    pub fn snapshot(&self, view: &mut LogView, snapshot: &str, pack: u8) -> u64 {
        let session = self.append(view, Kind::Begin(begin("shop"))).session();
        self.append(view, Kind::Commit(Box::new(commit(session, snapshot, pack)))).number
    }

    /// Writes an entry without asking whether it is allowed.
    pub fn force(&self, key: &SigningKey, number: u64, before: Hash32, plain: &[u8]) -> Hash32 {
        let header = entry::Header { repository: REPOSITORY, number, before, signer: key.id() };
        let sealed = SEALER.seal(plain, &header.associated_data()).unwrap();
        let bytes = entry::encode(&header, &sealed, key).unwrap();
        self.store.put(&entry_name(number), bytes.clone());
        read::hash(&bytes)
    }

    /// The reason why entry `number` is void.
    pub fn alarm(&self, view: &LogView, number: u64) -> String {
        view.fold.alarms.get(&number).map(|a| a.why.clone()).unwrap_or_default()
    }
}

pub fn signer_of(view: &LogView, number: u64) -> Option<KeyId> {
    view.fold.alarms[&number].signer
}
