//! What of this room is given arbitrary bytes (`crate::fuzzing`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use serde_json::Value;

use super::entry::{self, Header, Said};
use super::fold::At;
use super::kind::{KeyOp, Kind, Role};
use super::*;
use crate::crypt::sign::SigningKey;
use crate::repo::json;
use crate::units::ids::hex;
use crate::units::{RepositoryId, Timestamp};

/// The bytes of an entry.
pub(crate) fn entry(data: &[u8]) {
    if let Ok(parts) = entry::split(data) {
        assert_eq!(parts.signed.len() + 64, data.len());
        let key = SigningKey::from_seed(&[1; 32]);
        let again = entry::encode(&Header { signer: key.id(), ..parts.header }, &parts.sealed, &key).expect("not too long");
        let again = entry::split(&again).expect("what was read is written so that it can be read");
        assert_eq!((again.sealed, again.header.number), (parts.sealed, parts.header.number));
    }
    let _ = body::split(data, &RepositoryId([0x11; 16]), 7);
}

/// What an entry says: canonical, or refused.
pub(crate) fn said(data: &[u8]) {
    let forms = [Some(data.to_vec()), serde_json::from_slice::<Value>(data).ok().and_then(|v| json::to_canonical(&v).ok())];
    for bytes in forms.into_iter().flatten() {
        if let Ok(Said::Known(at, kind)) = entry::decode_plain(&bytes) {
            assert_eq!(entry::encode_plain(at, &kind).ok().as_deref(), Some(bytes.as_slice()));
        }
    }
}

/// A line with an entry that names a body, and the list in it.
pub(crate) fn list(data: &[u8]) {
    let mut lines = data.splitn(2, |b| *b == b'\n');
    let (first, list) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let Ok(Said::Known(_, mut kind)) = entry::decode_plain(first) else { return };
    if body::named_by(&mut kind).is_some() && body::move_in(&mut kind, list).is_ok() {
        assert!(body::list(&mut kind).is_some_and(|l| l.as_deref() == Ok(list)));
    }
}

/// Objects in memory.
#[derive(Default)]
struct Objects(Mutex<BTreeMap<String, Vec<u8>>>);

impl LogStore for Objects {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreFailure> {
        self.0.lock().expect("nobody panics").insert(name.into(), bytes.to_vec());
        Ok(Created::Created)
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        Ok(self.0.lock().expect("nobody panics").get(name).map(|b| b.iter().copied().take(limit + 1).collect()))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        Ok(self.0.lock().expect("nobody panics").keys().filter(|n| n.starts_with(prefix)).cloned().collect())
    }
}

/// Seals nothing: who holds the table key can.
struct Clear;

impl Sealer for Clear {
    fn seal(&self, plain: &[u8], _: &[u8]) -> Result<Sealed, SealFailure> {
        Ok(Sealed { salt: [0; 32], nonce: [0; 24], ciphertext: [plain, &[0; TAG_LEN]].concat() })
    }

    fn open(&self, sealed: &Sealed, _: &[u8]) -> Result<Vec<u8>, SealFailure> {
        Ok(sealed.ciphertext[..sealed.ciphertext.len() - TAG_LEN].to_vec())
    }
}

/// `log/0` and then a line an entry: the letter of who signs, and what it says. In it `@3` stands for the id of the session
/// that entry 3 began, `#a` for the id of host a's key, padded with zeros in front to the length of an id.
pub(crate) fn log(owner: &SigningKey, repository: RepositoryId, hosts: &HashMap<u8, SigningKey>, data: &[u8]) {
    let (store, sealer) = (Objects::default(), Clear);
    let log = Log::new(&store, &sealer, repository, owner.public());
    let host = |letter: u8, roles: &[Role], clusters: Option<&str>| KeyOp::Host {
        public: hosts[&letter].public().clone(),
        name: "host".into(),
        roles: roles.iter().copied().collect(),
        clusters: clusters.map(|c| [c.to_owned()].into_iter().collect()),
    };
    let keys = vec![
        KeyOp::Owner { public: owner.public().clone() },
        KeyOp::Seal { algorithm: 1, public: hex(&[5; 32]) },
        host(b'a', &[Role::Writer, Role::Reader, Role::Maintainer], None),
        host(b'b', &[Role::Writer], Some("shop")),
    ];
    let mut view = log.create(owner, keys).expect("log/0");
    let mut sessions = vec![view.newest];
    for line in data.split(|b| *b == b'\n').take(40) {
        let Some((letter, text)) = line.split_first() else { continue };
        let signer = hosts.get(letter).unwrap_or(owner);
        let Ok(mut value) = serde_json::from_slice::<Value>(text) else { continue };
        fill_in(&mut value, &sessions, hosts);
        let Some(plain) = value.get("kind").is_some().then(|| serde_json::json!({"at": 1, "entry": value})) else { continue };
        let Ok(plain) = json::to_canonical(&plain) else { continue };
        let number = view.newest.number + 1;
        let header = Header { repository, number, before: view.newest.hash, signer: signer.id() };
        let Ok(sealed) = sealer.seal(&plain, &[]) else { continue };
        let Some(bytes) = entry::encode(&header, &sealed, signer) else { continue };
        log.take(&mut view, number, &bytes).expect("a store in memory");
        store.create(&entry_name(number), &bytes).expect("a store in memory");
        sessions.push(view.newest);
    }
    // Who reads it at once, and who goes on from what was kept, come to the same.
    let again = log.read().expect("the same entries");
    assert_eq!((&again.fold, again.newest), (&view.fold, view.newest));
    if let Some(kept) = log.keep(&view) {
        let resumed = log.resume(&kept).expect("a store in memory").expect("what was kept is taken");
        assert_eq!(resumed.fold, view.fold);
    }
    check(&view);
}

/// What holds of every fold.
fn check(view: &LogView) {
    let fold = &view.fold;
    for commit in fold.commits.values() {
        assert!(fold.sessions.get(&commit.session).is_some_and(|s| !s.open), "a live COMMIT of an open session");
        for (session, pack) in commit.set.iter() {
            assert!(fold.pack(session, pack).is_some() && fold.condemned_at(session, pack).is_none(), "a live COMMIT lacks a pack");
        }
    }
}

fn fill_in(value: &mut Value, sessions: &[Head], hosts: &HashMap<u8, SigningKey>) {
    let filled = |text: &str| -> Option<String> {
        if let Some(n) = text.strip_prefix('@') {
            return sessions.get(n.parse::<usize>().ok()?).map(|head| head.session().to_string());
        }
        let letter = text.strip_prefix('#')?.bytes().next()?;
        hosts.get(&letter).map(|key| key.id().to_string())
    };
    match value {
        Value::String(text) => {
            if let Some(id) = filled(text) {
                *text = id;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|v| fill_in(v, sessions, hosts)),
        Value::Object(map) => {
            for (key, mut value) in std::mem::take(map) {
                fill_in(&mut value, sessions, hosts);
                map.insert(filled(&key).unwrap_or(key), value);
            }
        }
        _ => {}
    }
}

/// A kept fold with a checksum that fits.
pub(crate) fn kept(owner: &SigningKey, repository: RepositoryId, data: &[u8]) {
    let (store, sealer) = (Objects::default(), Clear);
    let log = Log::new(&store, &sealer, repository, owner.public());
    let _ = log.resume(data);
    let kept = [blake3::hash(data).as_bytes().as_slice(), data].concat();
    let view =
        log.create(owner, vec![KeyOp::Owner { public: owner.public().clone() }, KeyOp::Seal { algorithm: 1, public: hex(&[5; 32]) }]);
    let _ = log.resume(&kept);
    // One that was taken can be gone on with.
    if let (Some(mut kept), Ok(_)) = (log.unpack_probe(&kept), view) {
        let at = At { number: 1, hash: Hash32([1; 32]), signer: owner.id(), time: Timestamp(1) };
        let abort = Kind::Abort(super::kind::Abort { session: SessionId([1; 16]) });
        let _ = kept.fold.step(&at, &abort);
    }
}
