//! Reads `vectors-1/` by the public API, and where that hides a byte, by the tables of format-spec.md.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use pgcairn::archive::{FileFacts, FileKind, SegmentRecord};
use pgcairn::chunk::FilePlace;
use pgcairn::crypt::envelope::{self, Envelope};
use pgcairn::crypt::root_text::parse_root_text;
use pgcairn::crypt::sign::{PublicKey, key_id};
use pgcairn::crypt::slot::{Slot, Unlock, parse_key_file};
use pgcairn::crypt::{ChunkRole, ContentSecret, Opening, Secret, seal};
use pgcairn::pg::wal::{SegmentFacts, WalFileName, check_segment};
use pgcairn::repo::PackRef;
use pgcairn::repo::bytes::Malformed;
use pgcairn::repo::format::Format;
use pgcairn::repo::log::{Created, Log, LogStore, SealFailure, Sealed, Sealer, StoreFailure};
use pgcairn::repo::pack::{Packs, Place, pack_name};
use pgcairn::repo::structure::{FileData, Needs, Node, decode_attributes};
use pgcairn::repo::wal::{self, WalAddress, WalFront};
use pgcairn::store::{Backend, LocalStore, SessionTag};
use pgcairn::units::ids::{hex, unhex};
use pgcairn::units::{PackId, SessionId, Timestamp};
use serde_json::Value;
use zeroize::Zeroizing;

use super::known::{folder, root};

fn vectors(name: &str) -> Value {
    let path = folder().join("vectors-1").join(name);
    serde_json::from_str(&fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    unhex(text(value)).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

#[test]
fn keys_are_derived_as_they_were() {
    let v = vectors("keys.json");
    let (root, r) = (root(), &v["root"]);
    assert_eq!(hex(root.owner.seed()), text(&r["owner_seed"]));
    assert_eq!(hex(root.owner_public().as_bytes()), text(&r["owner_public"]));
    assert_eq!(root.owner.id().to_string(), text(&r["owner_key_id"]));
    assert_eq!(hex(&root.content.public().0), text(&r["content_public"]));
    assert_eq!(key_id(&bytes(&r["content_public"])).to_string(), text(&r["content_key_id"]));
    let format = Format { repository: root.repository, domain: root.domain, read_only_features: 0 };
    assert_eq!(Format::decode(&bytes(&v["format_object"])), Ok(format));
    assert_eq!(hex(&format.encode()), text(&v["format_object"]));

    let sealing = root.sealing();
    for (name, role, key) in
        [("content_ids", ChunkRole::Content, "content_id_key"), ("structure_ids", ChunkRole::Structure, "structure_id_key")]
    {
        for case in list(&v[name]) {
            let plain = bytes(&case["plain"]);
            assert_eq!(sealing.chunk_id(role, &plain).to_string(), text(&case["id"]));
            let by_hand = blake3::keyed_hash(&array(&v["derived"][key]), &plain);
            assert_eq!(hex(by_hand.as_bytes()), text(&case["id"]));
        }
    }
    for case in list(&v["wal_content_ids"]) {
        assert_eq!(wal::content_id(&sealing, &bytes(&case["plain"])).to_string(), text(&case["id"]));
    }
    for case in list(&v["cluster_keys"]) {
        assert_eq!(hex(&sealing.cluster_key(text(&case["name"]))), text(&case["key"]));
    }
    for case in list(&v["subkeys"]) {
        let subkey = seal::subkey(&Secret::new(array(&case["key"])), &array(&case["salt"]));
        assert_eq!(hex(subkey.expose()), text(&case["subkey"]));
    }
}

#[test]
fn sealed_bytes_envelopes_and_signatures_open() {
    let v = vectors("keys.json");
    let s = &v["sealed"];
    let opened = seal::open(&Secret::new(array(&s["key"])), &array(&s["nonce"]), &bytes(&s["associated"]), bytes(&s["sealed"]), "it");
    assert_eq!(opened.unwrap(), bytes(&s["plain"]));
    let envelope = Envelope(array::<{ envelope::LEN }>(&v["envelope"]["envelope"]));
    let content = ContentSecret::new(Secret::new(array(&v["root"]["content_secret"]))).unwrap();
    assert_eq!(envelope.open(root().domain, &content).unwrap().expose(), &array(&v["envelope"]["key"]));
    let s = &v["signature"];
    assert_eq!(s["context"], "log entry");
    root().owner_public().verify(b"log entry", &[&bytes(&s["bytes"])], &array(&s["signature"])).unwrap();
}

#[test]
fn every_kind_of_slot_opens() {
    let slots = vectors("slots.json");
    assert_eq!(list(&slots).len(), 6);
    for v in list(&slots) {
        let key = || parse_key_file(text(&v["key_file"])).unwrap();
        let unlock = match text(&v["kind"]) {
            "passphrase" => Unlock::Passphrase(Zeroizing::new(text(&v["passphrase"]).into())),
            "key file" => Unlock::KeyFile(key()),
            "command" => {
                let (key, wrapped) = (key(), bytes(&v["wrapped"]));
                Unlock::Command(Box::new(move |given| if given == wrapped { Ok(key.clone()) } else { panic!("{given:?}") }))
            }
            _ => Unlock::Clear,
        };
        let opened = match text(&v["kind"]) {
            "export" => parse_root_text(text(&v["text"])).unwrap(),
            _ => Slot::parse(&bytes(&v["slot"])).unwrap().open(&unlock).unwrap().unwrap(),
        };
        let root = root();
        let contents: Vec<String> = opened.contents().map(|content| hex(content.expose())).collect();
        match v["content_secrets"].as_array() {
            Some(all) => assert_eq!(contents, all.iter().map(text).collect::<Vec<_>>()),
            None => assert_eq!(contents, [hex(root.content.expose())]),
        }
        assert_eq!((opened.repository, opened.domain), (root.repository, root.domain));
        assert_eq!(opened.owner.seed(), root.owner.seed());
        assert_eq!((opened.id_key.expose(), opened.table_key.expose()), (root.id_key.expose(), root.table_key.expose()));
    }
}

#[test]
fn a_pack_is_read_from_its_end() {
    let v = vectors("pack.json");
    let (pack, id) = (bytes(&v["pack"]), text(&v["id"]).parse::<PackId>().unwrap());
    assert_eq!(blake3::hash(&pack).to_hex().as_str(), text(&v["hash"]));
    let (session, size) = (SessionId([0xee; 16]), pack.len() as u64);
    let known = PackRef { session, id, hash: text(&v["hash"]).parse().unwrap(), size, tail: v["tail"].as_u64().unwrap() as u32 };
    let scratch = tempfile::tempdir().unwrap();
    let store = LocalStore::create(scratch.path()).unwrap();
    let created = store.create(&pack_name(session, &known).unwrap(), &[&pack], &SessionTag::new("test").unwrap());
    assert_eq!(created.unwrap(), pgcairn::store::Create::Created);
    let packs = Packs::new(Arc::new(store), root().sealing());
    packs.add([known]);

    let table = packs.table(id).unwrap();
    assert_eq!(table.rows().len(), list(&v["rows"]).len());
    for (row, expected) in table.rows().iter().zip(list(&v["rows"])) {
        let numbers = [row.offset, row.len, row.kind.into(), row.role as u32].map(u64::from);
        let expected_numbers = ["offset", "len", "kind", "role"].map(|key| expected[key].as_u64().unwrap());
        assert_eq!(numbers, expected_numbers);
        assert_eq!(row.envelope.map(u64::from), expected["envelope"].as_u64());
        assert_eq!((row.nonce, row.hash), (array(&expected["nonce"]), array(&expected["hash"])));
        let chunks: Vec<Value> = row.chunks.iter().map(|(id, len)| serde_json::json!([id.to_string(), len])).collect();
        assert_eq!(chunks, *list(&expected["chunks"]));
        let references = row.references.iter().map(|r| {
            let place = r.place;
            serde_json::json!([r.id.to_string(), place.pack.to_string(), place.blob, place.position])
        });
        assert_eq!(references.collect::<Vec<_>>(), *list(&expected["references"]));
        let sealed = &pack[row.offset as usize..(row.offset + row.len) as usize];
        assert_eq!(blake3::hash(sealed).as_bytes()[..16], row.hash);
    }
    let opening: Opening = root().opening();
    for chunk in list(&v["chunks"]) {
        let number = |key: &str| chunk[key].as_u64().unwrap();
        let place = Place { pack: id, blob: number("blob") as u32, position: number("position") as u16 };
        let (row, chunk_id, _) = table.find(place).unwrap();
        let plain = match row.role {
            ChunkRole::Content => packs.content(&opening, chunk_id.short(), place).unwrap(),
            ChunkRole::Structure => packs.node(chunk_id.short(), place).unwrap(),
        };
        assert_eq!(hex(plain.bytes()), text(&chunk["plain"]));
    }
}

#[test]
fn nodes_say_what_they_said() {
    let v = vectors("nodes.json");
    let sealing = root().sealing();
    let outside = Needs((0..70u8).map(|p| (PackId([p; 16]), u64::from(p))).collect());
    let mut kinds = Vec::new();
    for case in list(&v["nodes"]) {
        let bytes = bytes(&case["bytes"]);
        let node = Node::decode(&bytes, &mut |id, place| {
            assert_eq!((id.0, place.pack.0, place.blob), ([20; 16], [6; 16], 2));
            Ok::<_, Malformed>(outside.clone())
        })
        .unwrap();
        assert_eq!(node.digest().to_string(), text(&case["digest"]), "{}", case["name"]);
        assert_eq!(sealing.chunk_id(ChunkRole::Structure, &bytes).to_string(), text(&case["id"]));
        let again = node
            .encode(64, &mut |_| Ok::<_, ()>((pgcairn::units::ShortId([20; 16]), Place { pack: PackId([6; 16]), blob: 2, position: 0 })));
        assert_eq!(again.unwrap(), bytes);
        if let Node::Part(part) = &node {
            let kinds: Vec<u8> = part
                .files
                .iter()
                .map(|file| match &file.data {
                    FileData::Empty => 0,
                    FileData::Joint { .. } => 1,
                    FileData::Zeros => 2,
                    FileData::Single { .. } => 3,
                    FileData::Tree { .. } => 4,
                    FileData::Folder => 5,
                })
                .collect();
            assert_eq!(kinds, [0, 1, 2, 3, 4, 4, 5]);
        }
        kinds.push(bytes[0]);
    }
    assert_eq!(kinds, [1, 2, 3, 4, 5, 6]);

    let attributes = decode_attributes(&bytes(&v["attributes"]["bytes"])).unwrap();
    assert_eq!(attributes.len(), 3);
    for (file, expected) in attributes.iter().zip(list(&v["attributes"]["files"])) {
        assert_eq!(hex(&file.name), text(&expected["name"]));
        assert_eq!(Some(file.is_folder), expected["folder"].as_bool());
        assert_eq!((Some(file.mtime), Some(file.ctime)), (expected["mtime"].as_i64(), expected["ctime"].as_i64()));
        assert_eq!((file.mode, file.uid, file.gid, file.inode, file.instance.device), (0o600, 999, 998, 1234, 2049));
    }
    let chunk = bytes(&v["joint"]["chunk"]);
    let lead = blake3::keyed_hash(&array(&v["joint"]["secret"]), &chunk[16..]);
    assert_eq!(chunk[..16], lead.as_bytes()[..16]);
    for file in list(&v["joint"]["files"]) {
        let expected = bytes(&file[1]);
        let place = FilePlace { chunk: 0, offset: file[0].as_u64().unwrap() as u32, len: expected.len() as u32 };
        assert_eq!(place.of(&chunk), Some(&expected[..]));
    }
}

#[test]
fn a_wal_object_is_proven_by_its_front_and_opens() {
    let v = vectors("wal.json");
    let (object, root) = (bytes(&v["object"]), root());
    let cluster = root.sealing().cluster_key(text(&v["cluster"]));
    let address = WalAddress { cluster, system_identifier: text(&v["system_identifier"]).parse().unwrap(), name: text(&v["name"]).into() };
    for (variant, name) in (0..).zip(list(&v["objects"])) {
        assert_eq!(address.object(variant).unwrap().as_str(), text(name));
    }
    let history = WalAddress { name: "00000002.history".into(), ..address.clone() };
    assert_eq!(history.object(0).unwrap().as_str(), text(&v["history_object"]));

    let name = address.object(0).unwrap();
    let front = WalFront::decode(&root.sealing(), root.repository, &address.name, &name, &object).unwrap();
    let signer = PublicKey::from_bytes(&array(&v["signer_public"])).unwrap();
    assert!(front.verify(&signer, &address));
    assert!(!front.verify(&signer, &WalAddress { system_identifier: 1, ..address.clone() }));
    assert!(!front.verify(&signer, &WalAddress { cluster: [0; 16], ..address.clone() }));
    assert!(!front.verify(root.owner_public(), &address));
    assert_eq!((Some(front.head.0), front.head.1.to_string().as_str()), (v["head"][0].as_u64(), text(&v["head"][1])));
    assert_eq!(front.meta.facts, v["facts"]);
    assert_eq!(front.meta.content.to_string(), text(&v["content"]));
    assert_eq!(front.object_len(), object.len() as u64);
    let plain = front.open(&root.opening(), &name, &object[front.parts_at() as usize..]).unwrap();
    assert_eq!(hex(&plain), text(&v["plain"]));
}

#[test]
fn a_segment_says_its_facts_without_being_read() {
    let v = vectors("segment.json");
    let (object, root) = (bytes(&v["object"]), root());
    let cluster = root.sealing().cluster_key(text(&v["cluster"]));
    let address = WalAddress { cluster, system_identifier: text(&v["system_identifier"]).parse().unwrap(), name: text(&v["name"]).into() };
    let name = address.object(0).unwrap();
    assert_eq!(name.as_str(), text(&v["object_name"]));
    let front = WalFront::decode(&root.sealing(), root.repository, &address.name, &name, &object).unwrap();
    assert!(front.verify(&PublicKey::from_bytes(&array(&v["signer_public"])).unwrap(), &address));
    assert_eq!((Some(front.meta.len), front.meta.content.to_string().as_str()), (v["plain_len"].as_u64(), text(&v["content"])));
    assert_eq!(front.meta.facts, v["facts"]);
    let plain = front.open(&root.opening(), &name, &object[front.parts_at() as usize..]).unwrap();
    assert_eq!(hex(blake3::hash(&plain).as_bytes()), text(&v["plain_hash"]));

    // What a push records of these bytes is what it recorded then.
    let file: WalFileName = text(&v["name"]).parse().unwrap();
    let facts = FileFacts::read(&v["facts"], address.system_identifier, &file, front.meta.len).unwrap();
    assert_eq!(facts.system_identifier, address.system_identifier);
    let WalFileName::Segment(segment) = file else { panic!() };
    let header = check_segment(segment, &plain, plain.len() as u64, Some(address.system_identifier)).unwrap();
    let record = SegmentRecord::new(segment, &header, SegmentFacts::of(&header, &plain));
    let pushed_at = Some(Timestamp(1_764_000_000_000_000));
    assert_eq!(facts, FileFacts { pushed_at, ..FileFacts::new(address.system_identifier, FileKind::Segment(record)) });
    let FileKind::Segment(record) = &facts.kind else { panic!() };
    assert!(record.transactions.is_some() && record.first_record.is_some(), "{record:?}");

    let mut kinds = vec![text(&v["facts"]["kind"])];
    for other in list(&v["other_kinds"]) {
        let (own, len) = (text(&other["name"]).parse::<WalFileName>().unwrap(), other["len"].as_u64().unwrap());
        let system = text(&other["facts"]["system_identifier"]).parse().unwrap();
        let facts = FileFacts::read(&other["facts"], system, &own, len).unwrap();
        assert_eq!(facts.to_value(), other["facts"], "{own}");
        assert!(FileFacts::read(&other["facts"], system, &file, front.meta.len).is_err(), "{own}");
        kinds.push(text(&other["facts"]["kind"]));
    }
    assert_eq!(kinds, ["segment", "partial", "history", "backup"]);
}

/// The objects of the log in `vectors-1/`.
struct Folder(PathBuf);

impl LogStore for Folder {
    fn create(&self, _: &str, _: &[u8]) -> Result<Created, StoreFailure> {
        unreachable!("nothing is appended")
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        Ok(fs::read(self.0.join(name)).ok().map(|bytes| bytes[..bytes.len().min(limit + 1)].to_vec()))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        let entries = fs::read_dir(self.0.join(prefix)).unwrap();
        Ok(entries.map(|e| format!("{prefix}{}", e.unwrap().file_name().to_str().unwrap())).collect())
    }
}

struct Table;

impl Sealer for Table {
    fn seal(&self, _: &[u8], _: &[u8]) -> Result<Sealed, SealFailure> {
        unreachable!("nothing is appended")
    }

    fn open(&self, sealed: &Sealed, aad: &[u8]) -> Result<Vec<u8>, SealFailure> {
        seal::open_salted(&root().table_key, &sealed.salt, &sealed.nonce, aad, sealed.ciphertext.clone(), "it")
            .map_err(|_| SealFailure::NotAuthentic)
    }
}

#[test]
fn a_log_is_read_and_judged() {
    let v = vectors("log.json");
    let (store, owner) = (Folder(folder().join("vectors-1")), PublicKey::from_bytes(&array(&v["owner_public"])).unwrap());
    let view = Log::new(&store, &Table, root().repository, &owner).read().unwrap();
    assert!(view.is_sound());
    assert_eq!((Some(view.newest.number), view.newest.hash.to_string().as_str()), (v["head"][0].as_u64(), text(&v["head"][1])));
    assert_eq!(view.fold.alarms.keys().copied().collect::<Vec<_>>(), [3]);
    let (id, session) = view.fold.sessions.first_key_value().unwrap();
    assert_eq!(id.to_string(), text(&v["session"]));
    assert!(!session.open && session.packs.len() as u64 == v["packs"].as_u64().unwrap());
    assert_eq!(session.key.to_string(), text(&v["host_key_id"]));

    // The same by hand, as format-spec.md has it.
    let mut before = [0; 32];
    for (number, kind) in (0u64..).zip(list(&v["entries"])) {
        let entry = fs::read(folder().join(format!("vectors-1/log/{number}"))).unwrap();
        if let Some(kind) = kind.as_str() {
            let (signed, signature) = entry.split_last_chunk::<64>().unwrap();
            let signer = if number == 0 { &owner } else { &PublicKey::from_bytes(&array(&v["host_public"])).unwrap() };
            signer.verify(b"log entry", &[signed], signature).unwrap();
            assert_eq!(signed[24..32], number.to_le_bytes());
            assert_eq!(signed[32..64], before);
            assert_eq!(signed[64..80], signer.id().0);
            let (salt, nonce) = (signed[80..112].try_into().unwrap(), signed[112..136].try_into().unwrap());
            let aad = [b"pgcairn 1 log entry\0".as_slice(), &root().repository.0, &number.to_le_bytes()].concat();
            let plain = seal::open_salted(&root().table_key, salt, nonce, &aad, signed[140..].to_vec(), "it").unwrap();
            let plain: Value = serde_json::from_slice(&plain).unwrap();
            assert_eq!(plain["entry"]["kind"], kind);
            assert_eq!(plain["entry"]["packs"]["body"].is_string(), number == 2);
        }
        before = *blake3::hash(&entry).as_bytes();
    }
    assert_eq!(hex(&before), text(&v["head"][1]));
}
