//! Writes `vectors-1/` and `repository-1/` anew: `cargo test --test format -- --ignored --test-threads 1 write_`.
//! The machine's name goes into `log/0`: give it one that may be seen (`unshare --uts`, `hostname db1`).
//!
//! Sealing draws random numbers, so every run writes other bytes of the same meaning. As long as format 1 is a draft, that
//! is done whenever the format changes; once it is released, never again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use pgcairn::archive::{BackupFacts, FileFacts, FileKind, HistoryFacts, SegmentRecord};
use pgcairn::chunk::FolderChunks;
use pgcairn::codec::{self, FrameKind, Patching, Way};
use pgcairn::crypt::slot::{Kdf, Lock, Slot};
use pgcairn::crypt::{ChunkRole, ContentSecret, Root, Secret, seal};
use pgcairn::pg::timeline::History;
use pgcairn::pg::wal::{SegmentFacts, WalFileName, check_segment};
use pgcairn::repo::format::Format;
use pgcairn::repo::log::{
    Begin, Created, Held, KeyOp, Kind, Log, LogStore, PackFacts, Progressed, Role, SealFailure, Sealed, Sealer, StoreFailure,
};
use pgcairn::repo::pack::{NewBlob, PackBuilder, Place, Reference};
use pgcairn::repo::structure::{
    Attributes, Child, ChildKind, ChunkRef, Extent, FileData, FileEntry, Instance, Needs, Node, Part, SnapshotNode, TreeRef,
    encode_attributes,
};
use pgcairn::repo::wal::{self, WalAddress, WalOrigin};
use pgcairn::units::ids::hex;
use pgcairn::units::{Digest16, Hash32, PackId, ShortId, TimelineId, Timestamp};
use serde_json::{Value, json};

use super::known::{SEGMENT, folder, host, noise, pages, root, segment};

/// Objects of the log, in memory.
#[derive(Default)]
struct Objects(Mutex<BTreeMap<String, Vec<u8>>>);

impl LogStore for Objects {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreFailure> {
        let mut objects = self.0.lock().unwrap();
        if objects.contains_key(name) {
            return Ok(Created::Exists);
        }
        objects.insert(name.to_owned(), bytes.to_vec());
        Ok(Created::Created)
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreFailure> {
        Ok(self.0.lock().unwrap().get(name).map(|bytes| bytes[..bytes.len().min(limit + 1)].to_vec()))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        Ok(self.0.lock().unwrap().keys().filter(|name| name.starts_with(prefix)).cloned().collect())
    }
}

struct Table;

impl Sealer for Table {
    fn seal(&self, plain: &[u8], aad: &[u8]) -> Result<Sealed, SealFailure> {
        let sealed = root().sealing().seal_table(aad, plain.to_vec()).unwrap();
        Ok(Sealed { salt: sealed.salt, nonce: sealed.nonce, ciphertext: sealed.bytes })
    }

    fn open(&self, sealed: &Sealed, aad: &[u8]) -> Result<Vec<u8>, SealFailure> {
        seal::open_salted(&root().table_key, &sealed.salt, &sealed.nonce, aad, sealed.ciphertext.clone(), "it")
            .map_err(|_| SealFailure::NotAuthentic)
    }
}

fn write(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, serde_json::to_string_pretty(value).unwrap() + "\n").unwrap();
}

#[test]
#[ignore = "writes the vectors anew"]
fn write_vectors() {
    let to = folder().join("vectors-1");
    if to.is_dir() {
        for file in ["log", "body"] {
            let _ = fs::remove_dir_all(to.join(file));
        }
    }
    write(&to.join("keys.json"), &keys());
    write(&to.join("slots.json"), &slots());
    write(&to.join("pack.json"), &pack());
    write(&to.join("nodes.json"), &nodes());
    write(&to.join("wal.json"), &wal_object());
    write(&to.join("log.json"), &log(&to));
}

#[test]
#[ignore = "writes the vectors of a segment anew"]
fn write_segment() {
    write(&folder().join("vectors-1/segment.json"), &segment_object());
}

#[test]
#[ignore = "writes the vectors of slots anew"]
fn write_slots() {
    write(&folder().join("vectors-1/slots.json"), &slots());
}

fn keys() -> Value {
    let root = root();
    let (sealing, key) = (root.sealing(), Secret::new([0x99; 32]));
    let id = |role, plain: &[u8]| json!({"plain": hex(plain), "id": sealing.chunk_id(role, plain).to_string()});
    let mut sealed = b"what is sealed".to_vec();
    let nonce = seal::seal_in_place(&key, b"associated", &mut sealed).unwrap();
    let (object_key, envelope) = sealing.object_key().unwrap();
    json!({
        "root": {
            "repository": root.repository.to_string(), "domain": root.domain.to_string(), "owner_seed": hex(root.owner.seed()),
            "content_secret": hex(root.content.expose()), "id_key": hex(root.id_key.expose()), "table_key": hex(root.table_key.expose()),
            "owner_public": hex(root.owner_public().as_bytes()), "owner_key_id": root.owner.id().to_string(),
            "content_public": hex(&root.content.public().0), "content_key_id": root.content.public().id().to_string(),
        },
        "format_object": hex(&Format { repository: root.repository, domain: root.domain, read_only_features: 0 }.encode()),
        "derived": {
            "content_id_key": hex(root.id_key.derive("pgcairn 1 id content").expose()),
            "structure_id_key": hex(root.id_key.derive("pgcairn 1 id structure").expose()),
            "wal_id_key": hex(root.id_key.derive("pgcairn 1 id wal").expose()),
            "cluster_names_key": hex(root.table_key.derive("pgcairn 1 cluster names").expose()),
        },
        "content_ids": [id(ChunkRole::Content, b""), id(ChunkRole::Content, b"abc"), id(ChunkRole::Content, &noise("id", 3000))],
        "structure_ids": [id(ChunkRole::Structure, b"abc")],
        "wal_content_ids": [{"plain": hex(b"abc"), "id": wal::content_id(&sealing, b"abc").to_string()}],
        "cluster_keys": [
            {"name": "main", "key": hex(&sealing.cluster_key("main"))}, {"name": "shop_2", "key": hex(&sealing.cluster_key("shop_2"))}
        ],
        "subkeys": [{"key": hex(&[0x66; 32]), "salt": hex(&[0x88; 32]), "subkey": hex(seal::subkey(&root.table_key, &[0x88; 32]).expose())}],
        "sealed": {
            "key": hex(key.expose()), "nonce": hex(&nonce), "associated": hex(b"associated"), "plain": hex(b"what is sealed"),
            "sealed": hex(&sealed)
        },
        "envelope": {"envelope": hex(&envelope.0), "key": hex(object_key.expose())},
        "signature": {
            "context": "log entry", "bytes": hex(b"abc"), "signature": hex(&root.owner.sign(b"log entry", &[b"abc"]))
        },
    })
}

fn slots() -> Value {
    let root = root();
    let content = |fill: u8| ContentSecret::new(Secret::new([fill; 32])).unwrap();
    let rotated = Root { content: content(0x46), former: vec![root.content.clone(), content(0x45)], ..root.clone() };
    let seal = |root: &Root, lock: Lock<'_>| hex(Slot::seal(root, &lock).unwrap().as_bytes());
    let (passphrase, key) = ("correct horse bättery staple", Secret::new([0xab; 32]));
    let key_file = pgcairn::crypt::slot::key_file_text(&key).to_string();
    let wrapped = b"what a command made of it";
    json!([
        {"kind": "passphrase", "passphrase": passphrase, "slot": seal(&root, Lock::Passphrase(passphrase, Kdf::TEST))},
        {"kind": "key file", "key_file": key_file, "slot": seal(&root, Lock::KeyFile(&key))},
        {"kind": "clear", "slot": seal(&root, Lock::Clear)},
        {"kind": "command", "key_file": key_file, "wrapped": hex(wrapped), "slot": seal(&root, Lock::Wrapped { key: &key, wrapped })},
        {"kind": "key file", "key_file": key_file, "slot": seal(&rotated, Lock::KeyFile(&key)),
            "content_secrets": rotated.contents().map(|c| hex(c.expose())).collect::<Vec<_>>()},
        {"kind": "export", "text": *pgcairn::crypt::root_text::root_text(&rotated),
            "content_secrets": rotated.contents().map(|c| hex(c.expose())).collect::<Vec<_>>()},
    ])
}

fn pack() -> Value {
    let root = root();
    let sealing = root.sealing();
    let mut builder = PackBuilder::new(&sealing).unwrap();
    // Four pages of 512 bytes, of which the third changes.
    let old = pages(1, &[])[..2048].to_vec();
    let new = [&old[..1100], b"changed", &old[1107..]].concat();
    let (first, second) = (b"first of a group; ".repeat(20), b"second of a group; ".repeat(15));
    let id = |plain: &[u8]| sealing.chunk_id(ChunkRole::Content, plain);
    let len = |plain: &[u8]| plain.len() as u32;
    let content = |frame: codec::Frame, chunks: Vec<_>, references| NewBlob {
        role: ChunkRole::Content,
        kind: frame.kind.into(),
        frame: frame.bytes,
        chunks,
        references,
    };
    let stored = noise("stored", 100);
    let mut chunks = Vec::new();
    let mut add = |blob: NewBlob, plains: &[&[u8]]| {
        let place = builder.add(blob).unwrap();
        for (position, plain) in plains.iter().enumerate() {
            chunks.push(json!({"blob": place.blob, "position": position, "plain": hex(plain)}));
        }
        place
    };
    add(content(codec::encode_whole(&stored, codec::DENSE).unwrap(), vec![(id(&stored), len(&stored))], vec![]), &[&stored]);
    let whole = add(content(codec::encode_whole(&old, codec::DENSE).unwrap(), vec![(id(&old), len(&old))], vec![]), &[&old]);
    let group = codec::encode_whole(&[&first[..], &second].concat(), codec::DENSE).unwrap();
    add(content(group, vec![(id(&first), len(&first)), (id(&second), len(&second))], vec![]), &[&first, &second]);
    for (way, frame_kind) in [(Way::AgainstOld, FrameKind::Patch), (Way::Alone, FrameKind::Patch)] {
        let how = Patching { page_size: 512, way, level: codec::DENSE, whole_len: usize::MAX };
        let frame = codec::encode_patch(&new, &old, how).unwrap().unwrap();
        assert_eq!(frame.kind, frame_kind);
        add(content(frame, vec![(id(&new), len(&new))], vec![Reference { id: id(&old), place: whole }]), &[&new]);
    }
    let node = Node::Leaf(vec![Extent::Zeros(8192)]).encode(64, &mut |_| Err(())).unwrap();
    let frame = codec::encode_whole(&node, codec::DENSE).unwrap();
    let structure = NewBlob {
        role: ChunkRole::Structure,
        kind: frame.kind.into(),
        frame: frame.bytes,
        chunks: vec![(sealing.chunk_id(ChunkRole::Structure, &node), len(&node))],
        references: vec![],
    };
    add(structure, &[&node]);
    let finished = builder.finish().unwrap();
    let rows: Vec<Value> = finished
        .table
        .rows
        .iter()
        .map(|row| {
            json!({
                "offset": row.offset, "len": row.len, "kind": row.kind, "role": row.role as u8, "envelope": row.envelope,
                "nonce": hex(&row.nonce), "hash": hex(&row.hash),
                "chunks": row.chunks.iter().map(|(id, len)| json!([id.to_string(), len])).collect::<Vec<_>>(),
                "references": row.references.iter()
                    .map(|r| json!([r.id.to_string(), r.place.pack.to_string(), r.place.blob, r.place.position])).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "pack": hex(&finished.bytes), "id": finished.id.to_string(), "hash": finished.hash.to_string(), "tail": finished.tail,
        "rows": rows, "chunks": chunks,
    })
}

fn nodes() -> Value {
    let place = |pack: u8, blob| Place { pack: PackId([pack; 16]), blob, position: 0 };
    let chunk = |id: u8, pack, blob, len| ChunkRef { id: ShortId([id; 16]), place: place(pack, blob), len };
    let tree = |level, id: u8| TreeRef { level, id: ShortId([id; 16]), place: place(3, 9), digest: Digest16([id + 1; 16]) };
    let needs = |packs: &[u8]| Needs(packs.iter().map(|p| (PackId([*p; 16]), 1000 + u64::from(*p))).collect());
    let child =
        |kind, id: u8| Child { kind, files: 7, bytes: 70_000, id: ShortId([id; 16]), place: place(5, 1), digest: Digest16([id; 16]) };
    let file = |len, data| FileEntry { len, data };
    let files = vec![
        file(0, FileData::Empty),
        file(40, FileData::Joint { chunk: 0, offset: 16 }),
        file(1 << 30, FileData::Zeros),
        file(8192, FileData::Single { id: ShortId([8; 16]), place: Place { position: 3, ..place(1, 4) }, needs: needs(&[1, 2]) }),
        file(900_000, FileData::Tree { root: tree(0, 11), needs: needs(&[1, 3]) }),
        file(1 << 29, FileData::Tree { root: tree(1, 13), needs: Needs((0..70u8).map(|p| (PackId([p; 16]), u64::from(p))).collect()) }),
        file(0, FileData::Folder),
    ];
    let all = [
        (
            "snapshot",
            Node::Snapshot(SnapshotNode {
                meta: chunk(1, 1, 0, 300),
                folders: vec![child(ChildKind::Part, 2), child(ChildKind::Branch, 3)],
            }),
        ),
        ("branch", Node::Branch(vec![child(ChildKind::Branch, 4), child(ChildKind::Part, 5)])),
        ("part", Node::Part(Part { attributes: chunk(6, 1, 1, 200), joint: vec![chunk(7, 2, 0, 56)], files })),
        ("stream", Node::Stream { level: 1, children: vec![(8 << 20, tree(0, 15)), (300_000, tree(0, 17))] }),
        ("leaf", Node::Leaf(vec![Extent::Chunk(chunk(18, 1, 2, 262_144)), Extent::Zeros(262_144), Extent::Chunk(chunk(19, 2, 5, 100))])),
        ("needs", Node::Needs(needs(&[1, 2, 3]))),
    ];
    let sealing = root().sealing();
    let outside = (ShortId([20; 16]), place(6, 2));
    let nodes: Vec<Value> = all
        .iter()
        .map(|(name, node)| {
            let bytes = node.encode(64, &mut |_| Ok::<_, ()>(outside)).unwrap();
            let id = sealing.chunk_id(ChunkRole::Structure, &bytes);
            json!({"name": name, "bytes": hex(&bytes), "digest": node.digest().to_string(), "id": id.to_string()})
        })
        .collect();
    let instance = Instance { machine: [0xaa; 16], device: 2049, inode: 77 };
    let named = |name: &[u8], is_folder| Attributes {
        name: name.to_vec(),
        is_folder,
        instance,
        mode: 0o600,
        uid: 999,
        gid: 998,
        size: 8192,
        mtime: 1_764_000_000_123_456_789,
        ctime: -5,
        inode: 1234,
    };
    let files = [named(b"PG_VERSION", false), named(b"odd \xff\n name", false), named(b"pg_notify", true)];
    let mut joint = FolderChunks::new(&[0xcc; 32]);
    joint.add(b"18\n").unwrap();
    joint.add(b"port = 5432\n").unwrap();
    json!({
        "nodes": nodes,
        "attributes": {
            "bytes": hex(&encode_attributes(&files)),
            "files": files.iter().map(|f| json!({"name": hex(&f.name), "folder": f.is_folder, "mtime": f.mtime, "ctime": f.ctime})).collect::<Vec<_>>(),
        },
        "joint": {"secret": hex(&[0xcc; 32]), "chunk": hex(&joint.finish().unwrap()), "files": [[16, hex(b"18\n")], [19, hex(b"port = 5432\n")]]},
    })
}

fn wal_object() -> Value {
    let root = root();
    let plain = [b"history of a timeline; ".repeat(40), noise("wal", 500)].concat();
    let address = WalAddress {
        cluster: root.sealing().cluster_key("main"),
        system_identifier: u64::MAX - 5,
        name: "000000010000000A000000FF".into(),
    };
    let head = (7, Hash32([0xdd; 32]));
    let facts = json!({"example": [1, 2, 3]});
    let origin = WalOrigin { repository: root.repository, signer: &host(), head, address: &address, facts: facts.clone() };
    let object = wal::encode(&root.sealing(), origin, &plain, codec::DENSE).unwrap().concat();
    json!({
        "cluster": "main", "system_identifier": address.system_identifier.to_string(), "name": address.name,
        "objects": [address.object(0).unwrap().as_str(), address.object(1).unwrap().as_str()],
        "history_object": WalAddress { name: "00000002.history".into(), ..address.clone() }.object(0).unwrap().as_str(),
        "signer_public": hex(host().public().as_bytes()), "head": [head.0, head.1.to_string()],
        "object": hex(&object), "plain": hex(&plain), "content": wal::content_id(&root.sealing(), &plain).to_string(), "facts": facts,
    })
}

/// The object of a real segment with its facts, and the facts of a file of each other kind.
fn segment_object() -> Value {
    let (root, plain) = (root(), segment());
    let WalFileName::Segment(name) = SEGMENT.parse().unwrap() else { panic!() };
    let header = check_segment(name, &plain, plain.len() as u64, None).unwrap();
    let record = SegmentRecord::new(name, &header, SegmentFacts::of(&header, &plain));
    let identifier = header.system_identifier;
    let backup = FileKind::Backup(BackupFacts { segment: name, offset: 0x28 });
    let pushed_at = Some(Timestamp(1_764_000_000_000_000));
    let facts = |kind| FileFacts { pushed_at, ..FileFacts::new(identifier, kind) }.to_value();
    let history =
        History::parse(TimelineId(3), b"1\t0/3000000\tno recovery target specified\n2\t0/4000060\tat restore point \"x\"\n").unwrap();
    let others = [
        (format!("{SEGMENT}.partial"), 4096, facts(FileKind::Partial(record.clone()))),
        ("00000003.history".to_owned(), 80, facts(FileKind::History(HistoryFacts::new(&history)))),
        (format!("{SEGMENT}.00000028.backup"), 300, FileFacts::new(identifier, backup).to_value()),
    ];
    let facts = facts(FileKind::Segment(record));
    let address = WalAddress { cluster: root.sealing().cluster_key("main"), system_identifier: identifier, name: SEGMENT.to_owned() };
    let head = (7, Hash32([0xdd; 32]));
    let origin = WalOrigin { repository: root.repository, signer: &host(), head, address: &address, facts: facts.clone() };
    let object = wal::encode(&root.sealing(), origin, &plain, codec::DENSE).unwrap().concat();
    json!({
        "cluster": "main", "system_identifier": identifier.to_string(), "name": SEGMENT, "object_name": address.object(0).unwrap().as_str(),
        "signer_public": hex(host().public().as_bytes()), "object": hex(&object), "plain_len": plain.len(),
        "plain_hash": hex(blake3::hash(&plain).as_bytes()), "content": wal::content_id(&root.sealing(), &plain).to_string(), "facts": facts,
        "other_kinds": others.iter().map(|(name, len, facts)| json!({"name": name, "len": len, "facts": facts})).collect::<Vec<_>>(),
    })
}

/// KEY, BEGIN, PROGRESS with its list in a body, rubbish (void), ABORT.
fn log(to: &Path) -> Value {
    let (root, host, store) = (root(), host(), Objects::default());
    let owner = root.owner_public().clone();
    let log = Log::new(&store, &Table, root.repository, &owner);
    let roles = [Role::Writer, Role::Reader, Role::Maintainer].into_iter().collect();
    let first = vec![
        KeyOp::Owner { public: owner.clone() },
        KeyOp::Seal { algorithm: 1, public: hex(&root.content.public().0) },
        KeyOp::Host { public: host.public().clone(), name: "db1".into(), roles, clusters: None },
    ];
    let mut view = log.create(&root.owner, first).unwrap();
    let begin = Begin { purpose: "verify".into(), machine: "m1".into(), ..Begin::default() };
    let session = log.append(&mut view, &host, &Kind::Begin(begin)).unwrap().session();
    let packs = (0..120u8).map(|n| (PackId([n; 16]), PackFacts { hash: Hash32([n; 32]), size: 1 << 24, tail: 5000 })).collect();
    log.append(&mut view, &host, &Kind::Progress(Progressed { session, packs: Held::Inline(packs) })).unwrap();
    store.create("log/3", b"PGCNLOG\x01 and rubbish").unwrap();
    let head = log.append(&mut view, &host, &Kind::Abort(pgcairn::repo::log::Abort { session })).unwrap();
    let objects = store.0.lock().unwrap();
    for (name, bytes) in objects.iter() {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    json!({
        "owner_public": hex(owner.as_bytes()), "host_public": hex(host.public().as_bytes()), "host_key_id": host.id().to_string(),
        "entries": ["KEY", "BEGIN", "PROGRESS", null, "ABORT"], "session": session.to_string(), "packs": 120,
        "head": [head.number, head.hash.to_string()],
    })
}

#[test]
#[ignore = "writes the repository anew"]
fn write_repository() {
    let to = folder().join("repository-1");
    let _ = fs::remove_dir_all(&to);
    let scratch = tempfile::tempdir().unwrap();
    let key = scratch.path().join("key");
    fs::write(&key, pgcairn::crypt::slot::key_file_text(&Secret::new([0xab; 32])).as_bytes()).unwrap();
    super::repository::build(&scratch.path().join("repository"), &key, &scratch.path().join("state"));
    copy(&scratch.path().join("repository"), &to.join("objects"));
    fs::copy(&key, to.join("key")).unwrap();
}

/// Copies a folder; empty ones are left out.
pub fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (entry, path) = entry.map(|e| (e.file_name(), e.path())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(entry));
        } else {
            fs::create_dir_all(to).unwrap();
            fs::write(to.join(entry), fs::read(path).unwrap()).unwrap();
        }
    }
}
