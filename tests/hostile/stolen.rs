//! Somebody holds a writer's keys: they seal, sign and name chunks as the program would, and write what it never would.
//!
//! Who holds the keys of a cluster's writer can back up nonsense for that cluster. They can't touch another cluster, take a
//! right, end others' sessions, make a restore write outside its target or exhaust its memory, or get others to rely on what
//! they stored.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use pgcairn::codec;
use pgcairn::crypt::ChunkRole;
use pgcairn::crypt::sign::SigningKey;
use pgcairn::host::access::{OpenSession, Opened};
use pgcairn::repo::PackRef;
use pgcairn::repo::json::to_canonical;
use pgcairn::repo::log::{self, Begin, Commit, CommitLists, Held, KeyOp, Keys, Kind, PackFacts, PackSet, Progressed, Role};
use pgcairn::repo::pack::{NewBlob, PackBuilder, Packs, Place, pack_name};
use pgcairn::repo::structure::{
    Attributes, Child, ChildKind, ChunkRef, Extent, FileData, FileEntry, FolderMeta, Instance, Meta, Needs, Node, NodeSink, Part, Snapshot,
    TreeRef, encode_attributes, put_snapshot,
};
use pgcairn::repo::wal::{self, WalOrigin};
use pgcairn::repo::write::{ChunkWriter, Known, NewChunk, WriterSetup};
use pgcairn::store::{ObjectName, SessionTag};
use pgcairn::units::{ChunkId, Digest16, Hash32, PackId, SessionId, ShortId};
use serde_json::{Value, json};

use crate::support::{Outcome, TestDir, ordinary};
use crate::world::{CLUSTER, NEXT_SEGMENT, SEGMENTS, SYSTEM, World, clean_error, tree, wal};

/// The owner of a repository: opens the slot.
fn root(world: &World) -> pgcairn::crypt::Root {
    use pgcairn::crypt::slot::{Slot, Unlock, parse_key_file};
    let key = parse_key_file(&fs::read_to_string(world.key()).unwrap()).unwrap();
    let slot = world.objects().into_iter().find(|o| o.starts_with("key/")).unwrap();
    let slot = Slot::parse(&fs::read(world.repository().join(slot)).unwrap()).unwrap();
    slot.open(&Unlock::KeyFile(key)).unwrap().unwrap()
}

/// Enrols a key with these roles, for these clusters.
fn enrol(world: &World, seed: u8, roles: &[Role], clusters: Option<&[&str]>) -> SigningKey {
    let key = SigningKey::from_seed(&[seed; 32]);
    let clusters = clusters.map(|c| c.iter().map(|c| (*c).to_owned()).collect());
    let op = KeyOp::Host { public: key.public().clone(), name: format!("host {seed}"), roles: roles.iter().copied().collect(), clusters };
    world.opened(|opened, _| {
        opened.log().append(&mut opened.view(), &root(world).owner, &Kind::Key(Keys { keys: vec![op] })).unwrap();
    });
    key
}

/// Puts an entry at the log's end that says whatever it is told, signed by any key: no rule is asked.
fn force(opened: &Opened, key: &SigningKey, entry: &Value) -> (u64, SessionId) {
    opened.refresh().unwrap();
    let newest = opened.view().newest;
    let number = newest.number + 1;
    let repository = opened.format.repository;
    let plain = to_canonical(&json!({"at": 1_764_000_000_000_000u64, "entry": entry})).unwrap();
    let aad = [b"pgcairn 1 log entry\0".as_slice(), &repository.0, &number.to_le_bytes()].concat();
    let sealed = opened.sealing.seal_table(&aad, plain).unwrap();
    let mut bytes = [b"PGCNLOG\x01".as_slice(), &repository.0, &number.to_le_bytes(), &newest.hash.0, &key.id().0].concat();
    bytes.extend_from_slice(&sealed.salt);
    bytes.extend_from_slice(&sealed.nonce);
    bytes.extend_from_slice(&(sealed.bytes.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&sealed.bytes);
    let signature = key.sign(b"log entry", &[&bytes]);
    bytes.extend_from_slice(&signature);
    plant(opened, &log::entry_name(number), &bytes);
    (number, log::Head { number, hash: Hash32(*blake3::hash(&bytes).as_bytes()) }.session())
}

fn plant(opened: &Opened, name: &str, bytes: &[u8]) {
    let created = opened.backend.create(&ObjectName::new(name).unwrap(), &[bytes], &SessionTag::new("attack").unwrap()).unwrap();
    assert!(matches!(created, pgcairn::store::Create::Created), "{name} is taken");
}

/// The newest snapshot is what it was, by a host that knows nothing.
#[track_caller]
fn newest_is_whole(world: &World) {
    let (restored, target) = world.restore_afresh(&world.repository(), &[]);
    let restored = restored.ok();
    assert_eq!(restored.json()["snapshot"], world.snapshots.last().unwrap().0.as_str());
    assert!(tree(&target.join("data")) == world.snapshots.last().unwrap().1, "other bytes\n{}", restored.report());
}

#[test]
fn entries_without_the_right_are_void_whatever_they_say() {
    ordinary(|| {
        let mut world = World::new();
        let thief = enrol(&world, 40, &[Role::Writer], Some(&["other"]));
        let stranger = SigningKey::from_seed(&[41; 32]);
        let before = world.opened(|opened, _| opened.view().fold.clone());
        let (commit_number, live) = before.commits.iter().next_back().map(|(n, c)| (*n, c.clone())).unwrap();
        let packs: BTreeMap<String, Vec<String>> = live.set.iter().fold(BTreeMap::new(), |mut all, (s, p)| {
            all.entry(s.to_string()).or_insert_with(Vec::new).push(p.to_string());
            all
        });
        let segment = SEGMENTS[0];
        let ids = json!({segment: [wal_content(&world, segment)]});
        let host = before.keys.iter().map(|(id, _)| id.to_string()).next().unwrap();
        let public = pgcairn::units::ids::hex(stranger.public().as_bytes());
        let attempts: Vec<(&str, Value)> = vec![
            ("a sealing key of the thief's", json!({"kind": "KEY", "keys": [{"op": "seal", "algorithm": 1, "public": "ab".repeat(32)}]})),
            (
                "another host",
                json!({"kind": "KEY", "keys": [{"op": "host", "public": public, "name": "x", "roles": ["writer", "reader", "maintainer"]}]}),
            ),
            ("a revocation", json!({"kind": "KEY", "keys": [{"op": "revoke", "key": host}]})),
            ("a removal of a key slot", json!({"kind": "KEY", "keys": [{"op": "remove-slot", "slot": host}]})),
            (
                "a backup's BEGIN for another cluster",
                json!({"kind": "BEGIN", "purpose": "backup", "machine": "m", "cluster": CLUSTER, "system_identifier": SYSTEM.to_string()}),
            ),
            ("FORGET", json!({"kind": "FORGET", "commit": commit_number})),
            ("FORGET of the window", json!({"kind": "FORGET", "commit": commit_number, "window": true})),
            ("CONDEMN", json!({"kind": "CONDEMN", "packs": {"inline": packs}})),
            ("SWEEP", json!({"kind": "SWEEP", "packs": {"inline": packs}})),
            (
                "EXPIRE-WAL",
                json!({"kind": "EXPIRE-WAL", "cluster": CLUSTER, "system_identifier": SYSTEM.to_string(), "timeline": 1, "segment_size": 1 << 20, "objects": {"inline": ids}}),
            ),
            (
                "a gap of another cluster",
                json!({"kind": "NOTE", "note": "gap", "cluster": CLUSTER, "system_identifier": SYSTEM.to_string(), "from": segment, "to": segment, "reason": "x"}),
            ),
            (
                "an accepted fork of another cluster",
                json!({"kind": "NOTE", "note": "fork", "cluster": CLUSTER, "system_identifier": SYSTEM.to_string(), "timeline": 3, "state": "accepted", "reason": "x"}),
            ),
            ("a hold", json!({"kind": "NOTE", "note": "hold", "snapshot": live.summary.id, "reason": "x"})),
            (
                "damage",
                json!({"kind": "DAMAGED", "places": {"inline": packs.keys().map(|s| (s.clone(), json!({packs[s][0].clone(): "all"}))).collect::<serde_json::Map<_, _>>()}}),
            ),
        ];
        let mut voids = 0;
        world.opened(|opened, _| {
            for (what, entry) in &attempts {
                for key in [&thief, &stranger] {
                    let (number, _) = force(opened, key, entry);
                    opened.refresh().unwrap();
                    let view = opened.view();
                    assert!(view.fold.alarms.contains_key(&number), "{what} is not void");
                    voids += 1;
                }
            }
            // ABORT of, PROGRESS and COMMIT in a session that is another's.
            let begin = Begin { purpose: "trial".into(), machine: "m1".into(), ..Begin::default() };
            let session = opened.log().append(&mut opened.view(), opened.key().unwrap(), &Kind::Begin(begin)).unwrap().session();
            for entry in [
                json!({"kind": "ABORT", "session": session.to_string()}),
                json!({"kind": "PROGRESS", "session": session.to_string(), "packs": {"inline": {"ab".repeat(16): {"hash": "cd".repeat(32), "size": 9, "tail": 3}}}}),
            ] {
                let (number, _) = force(opened, &thief, &entry);
                opened.refresh().unwrap();
                assert!(opened.view().fold.alarms.contains_key(&number), "{entry}");
                assert!(opened.view().fold.is_open(&session));
                voids += 1;
            }
            opened.log().append(&mut opened.view(), opened.key().unwrap(), &Kind::Abort(log::Abort { session })).unwrap();
            // Nothing has changed but that.
            let after = opened.view().fold.clone();
            assert_eq!((after.keys, after.commits, after.condemned, after.holds), (before.keys, before.commits, before.condemned, before.holds));
        });
        println!("{voids} entries without right");
        newest_is_whole(&world);
        world.backup();
        newest_is_whole(&world);
    });
}

fn wal_content(world: &World, name: &str) -> String {
    world.opened(|opened, _| wal::content_id(&opened.sealing, &wal(name)).to_string())
}

#[test]
fn a_snapshot_of_another_cluster_is_void() {
    ordinary(|| {
        let world = World::new();
        let thief = enrol(&world, 42, &[Role::Writer], Some(&["other"]));
        world.opened(|opened, _| {
            // A session of their own cluster, which they may open; the COMMIT says another one.
            let begin = json!({"kind": "BEGIN", "purpose": "backup", "machine": "m", "cluster": "other", "system_identifier": "5", "floor": {"timeline": 1, "lsn": "0/28"}});
            let (_, session) = force(opened, &thief, &begin);
            opened.refresh().unwrap();
            let live = opened.view().fold.commits.values().next_back().unwrap().clone();
            for (cluster, system, id) in [
                (CLUSTER, SYSTEM, "20991231-235959-ffff".to_owned()),
                // Their own, under the name of a snapshot that is there.
                ("other", 5, live.summary.id.clone()),
            ] {
                let mut summary = live.summary.clone();
                (summary.cluster, summary.system_identifier, summary.id) = (cluster.into(), system, id);
                let lists = CommitLists { new: Default::default(), set: live.set.clone(), less: PackSet::default(), ledger: vec![] };
                let commit = Commit { session, summary, root: live.root, lists: Held::Inline(lists), replaces: None };
                let (number, _) = force(opened, &thief, &serde_json::to_value(Kind::Commit(Box::new(commit))).unwrap());
                opened.refresh().unwrap();
                assert!(opened.view().fold.alarms.contains_key(&number));
            }
        });
        let listed = world.run(["list", "--json"]).ok().json();
        assert_eq!(listed["snapshots"].as_array().unwrap().len(), world.snapshots.len());
        newest_is_whole(&world);
    });
}

struct Nothing;

impl Known for Nothing {
    fn places(&self, _: &ChunkId) -> Vec<Place> {
        Vec::new()
    }
}

/// Makes a snapshot for the cluster with the keys of its writer.
struct Forge {
    writer: ChunkWriter,
    needs: Mutex<Needs>,
}

impl Forge {
    fn content(&self, plain: &[u8]) -> ChunkRef {
        let id = self.writer.sealing().chunk_id(ChunkRole::Content, plain);
        let frame = codec::encode_whole(plain, 1).unwrap();
        let stored = self.writer.put(ChunkRole::Content, NewChunk { id, plain, frame, reference: None }).unwrap();
        stored.add_to(&mut self.needs.lock().unwrap());
        ChunkRef { id: id.short(), place: stored.place, len: plain.len() as u32 }
    }

    fn node(&self, node: &Node) -> (ChunkId, Place, Digest16) {
        let (id, place, bytes) = self.writer.put_node(node).unwrap();
        self.needs.lock().unwrap().add(place.pack, bytes.into());
        (id, place, node.digest())
    }

    fn child(&self, node: &Node, kind: ChildKind, files: u32, bytes: u64) -> Child {
        let (id, place, digest) = self.node(node);
        Child { kind, files, bytes, id: id.short(), place, digest }
    }

    fn tree(&self, node: &Node, level: u8) -> TreeRef {
        let (id, place, digest) = self.node(node);
        TreeRef { level, id: id.short(), place, digest }
    }

    /// A part with files of these names and data.
    fn part(&self, files: Vec<(&[u8], FileEntry)>, joint: Vec<ChunkRef>) -> Child {
        let attributes: Vec<Attributes> = files.iter().map(|(name, file)| attributes(name, file.data == FileData::Folder)).collect();
        let count = files.len() as u32;
        let part = Part {
            attributes: self.content(&encode_attributes(&attributes)),
            joint,
            files: files.into_iter().map(|(_, file)| file).collect(),
        };
        self.child(&Node::Part(part), ChildKind::Part, count, 0)
    }
}

fn attributes(name: &[u8], is_folder: bool) -> Attributes {
    Attributes {
        name: name.to_vec(),
        is_folder,
        instance: Instance { machine: [1; 16], device: 1, inode: 2 },
        mode: 0o4777,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: i64::MAX,
        ctime: 0,
        inode: 3,
    }
}

fn folder(path: &[u8]) -> FolderMeta {
    FolderMeta { path: path.to_vec(), mode: 0o4777, uid: 0, gid: 0 }
}

/// Commits what `make` made of folders, with the facts of the newest snapshot changed by `change`; its id.
fn forge(world: &World, change: impl FnOnce(&mut Value), make: impl FnOnce(&Forge) -> (Vec<FolderMeta>, Vec<Child>)) -> String {
    world.opened(|opened, state| {
        let (live, mut extra) = {
            let view = opened.view();
            let live = view.fold.commits.values().next_back().unwrap().clone();
            let packs = opened.packs_of(&view.fold, &live).unwrap();
            let place = Place { pack: live.root.place.pack, blob: live.root.place.blob, position: live.root.place.position as u16 };
            let snapshot = Snapshot::open(&packs, opened.reader().unwrap(), live.root.chunk.short(), place, live.root.digest).unwrap();
            (live.clone(), snapshot.meta().extra.clone())
        };
        change(&mut extra);
        let floor = live.summary.wal.as_ref().map(|w| log::WalPosition { timeline: w.timeline, lsn: w.start_lsn });
        let (cluster, system_identifier) = (Some(CLUSTER.into()), Some(SYSTEM));
        let begin = Begin { purpose: "backup".into(), cluster, system_identifier, machine: "m9".into(), floor, ..Begin::default() };
        let session = OpenSession::begin(opened, &state.locks(), begin).unwrap();
        let packs = Arc::new(Packs::new(Arc::clone(&opened.backend), opened.sealing.clone()));
        let setup = WriterSetup {
            backend: Arc::clone(&opened.backend),
            packs,
            sealing: opened.sealing.clone(),
            opening: opened.opening.clone(),
            session: session.id(),
            tag: session.tag(),
            nameable: Default::default(),
            trusted: Default::default(),
            known: Box::new(Nothing),
            is_damaged: Box::new(|_| false),
        };
        let writer = ChunkWriter::start(setup, Box::new(|_| Ok(()))).unwrap();
        let forge = Forge { writer, needs: Mutex::default() };
        let (folders, children) = make(&forge);
        let meta = forge.content(&serde_json::to_vec(&Meta { folders, annexes: Vec::new(), extra }).unwrap());
        // No more than 128 children fit into a root: who wants more makes branches.
        let (chunk, root) = put_snapshot(&forge.writer, meta, children, &mut forge.needs.lock().unwrap()).unwrap();
        let (packs, _) = forge.writer.finish().unwrap();
        let set: PackSet = packs.iter().map(|p| (p.session, p.id)).collect();
        let new = packs.iter().map(|p| (p.id, PackFacts { hash: p.hash, size: p.size, tail: p.tail })).collect();
        let mut summary = live.summary.clone();
        summary.id = format!("20991231-235959-{:04x}", session.number());
        summary.parent = None;
        let place = log::Place { pack: root.place.pack, blob: root.place.blob, position: root.place.position.into() };
        let root = log::Root { chunk, place, digest: root.digest };
        let lists = Held::Inline(CommitLists { new, set, less: PackSet::default(), ledger: vec![] });
        let id = summary.id.clone();
        let by = session.id();
        session.commit(Commit { session: by, summary, root, lists, replaces: None }).unwrap();
        id
    })
}

fn empty() -> FileEntry {
    FileEntry { len: 0, data: FileData::Empty }
}

/// Restores a forged snapshot with 2 GB of address space; it may fail, and nothing may be outside of the target.
fn restore_forged(world: &World, id: &str, case: &str) -> (Outcome, TestDir) {
    let target = TestDir::new();
    let inside = target.folder("a/b");
    fs::write(target.join("a/canary"), "canary").unwrap();
    let to = inside.join("data");
    let mut command = std::process::Command::new("/bin/sh");
    command.arg("-c").arg("ulimit -v 2000000; exec \"$0\" \"$@\"").arg(world.host.program());
    command.arg("--repo").arg(world.repository()).args(["restore", id, "--json", "--no-recovery", "--to"]).arg(&to);
    command.env_clear().envs(world.host.environment()).current_dir(world.host.home());
    let outcome = Outcome::of(command);
    assert!(outcome.status.code().is_some() && !outcome.stderr.contains("panicked"), "{case}\n{}", outcome.report());
    let mut outside: Vec<String> = crate::world::objects(target.path());
    outside.retain(|path| !path.starts_with("a/b/data/"));
    assert_eq!(outside, ["a/canary"], "{case}: written outside of the target\n{}", outcome.report());
    assert_eq!(fs::read_to_string(target.join("a/canary")).unwrap(), "canary");
    if !outcome.status.success() {
        let error = clean_error(&outcome, case);
        assert_ne!(error["class"], "usage", "{case}\n{}", outcome.report());
        assert!(!to.join("global/pg_control").exists(), "{case}: a data directory that could be started\n{}", outcome.report());
    }
    (outcome, target)
}

#[test]
fn names_that_lead_out_of_the_target_are_refused() {
    ordinary(|| {
        let world = World::new();
        let long = vec![b'x'; 300];
        let names: Vec<&[u8]> =
            vec![b"", b".", b"..", b"../out", b"a/../../out", b"/out", b"/", b"a/b", b"a\0b", b"\0", b"../../a/canary", &long];
        let mut attempts = 0;
        for name in &names {
            let id = forge(&world, |_| {}, |f| (vec![folder(b"")], vec![f.part(vec![(name, empty())], vec![])]));
            let (outcome, _) = restore_forged(&world, &id, &format!("a file called {:?}", String::from_utf8_lossy(name)));
            assert!(!outcome.status.success(), "{:?}\n{}", String::from_utf8_lossy(name), outcome.report());
            attempts += 1;
        }
        let deep = b"x/".repeat(3000);
        let paths: Vec<&[u8]> = vec![
            b"..",
            b"../out",
            b"/out",
            b"/",
            b"a/../../out",
            b"a//b",
            b"a/",
            b"./a",
            b"a\0b",
            b"pg_tblspc/../../out",
            b"pg_wal/../../out",
            &deep,
        ];
        for path in &paths {
            let id = forge(
                &world,
                |_| {},
                |f| {
                    let inside = f.part(vec![(b"file", empty())], vec![]);
                    (vec![folder(b""), folder(path)], vec![f.part(vec![], vec![]), inside])
                },
            );
            let (outcome, _) = restore_forged(&world, &id, &format!("a folder called {:?}", String::from_utf8_lossy(path)));
            assert!(!outcome.status.success(), "{:?}\n{}", String::from_utf8_lossy(path), outcome.report());
            attempts += 1;
        }
        // The same name twice; a file where a folder is; a folder in the place of a file.
        let twice = forge(
            &world,
            |_| {},
            |f| (vec![folder(b""), folder(b"")], vec![f.part(vec![(b"x", empty())], vec![]), f.part(vec![(b"x", empty())], vec![])]),
        );
        assert!(!restore_forged(&world, &twice, "the same file twice").0.status.success());
        let both = forge(
            &world,
            |_| {},
            |f| (vec![folder(b""), folder(b"x")], vec![f.part(vec![(b"x", empty())], vec![]), f.part(vec![], vec![])]),
        );
        assert!(!restore_forged(&world, &both, "a file and a folder").0.status.success());
        println!("{} names", attempts + 2);
        newest_survives(&world);
    });
}

/// The real snapshots are there and whole.
fn newest_survives(world: &World) {
    let (id, files) = world.snapshots.last().unwrap();
    let (restored, target) = world.restore_afresh(&world.repository(), &[id]);
    restored.ok();
    assert!(tree(&target.join("data")) == *files);
}

#[test]
fn a_tablespace_lies_where_it_lay_only_if_nothing_but_a_tablespace_is_in_it() {
    ordinary(|| {
        let world = World::new();
        let outside = TestDir::new();
        let place = outside.join("ssh");
        let spaces = json!([{"oid": 16385, "name": "fast", "path": place.to_str().unwrap()}]);
        let id = forge(
            &world,
            |extra| extra["tablespaces"] = spaces.clone(),
            |f| {
                let key = f.content(b"ssh-ed25519 AAAA attacker");
                let single =
                    FileEntry { len: key.len.into(), data: FileData::Single { id: key.id, place: key.place, needs: Needs::default() } };
                let folders = vec![folder(b""), folder(b"pg_tblspc"), folder(b"pg_tblspc/16385")];
                (folders, vec![f.part(vec![], vec![]), f.part(vec![], vec![]), f.part(vec![(b"authorized_keys", single)], vec![])])
            },
        );
        let (outcome, _target) = restore_forged(&world, &id, "a key among tablespaces");
        assert!(!outcome.status.success(), "{}", outcome.report());
        assert!(!place.join("authorized_keys").exists());
    });
}

/// Trees that would be larger in memory than anybody has it.
#[test]
fn trees_that_are_there_to_exhaust_memory_are_refused() {
    ordinary(|| {
        let world = World::new();
        type Make<'m> = Box<dyn Fn(&Forge) -> (Vec<FolderMeta>, Vec<Child>) + 'm>;
        let grown = |f: &Forge, mut child: Child, levels: usize, files: u32| {
            for _ in 0..levels {
                child = f.child(&Node::Branch(vec![child; 128]), ChildKind::Branch, files, 0);
            }
            child
        };
        let cases: Vec<(&str, Make<'_>)> = vec![
            (
                "a folder whose parts are one part, 128^5 times",
                Box::new(|f| {
                    let part = f.part(vec![(b"x", empty())], vec![]);
                    (vec![folder(b"")], vec![grown(f, part, 5, u32::MAX)])
                }),
            ),
            (
                "a branch with no parts, 128^7 times",
                Box::new(|f| {
                    let none = f.child(&Node::Branch(vec![]), ChildKind::Branch, 0, 0);
                    (vec![folder(b"")], vec![grown(f, none, 7, u32::MAX)])
                }),
            ),
            (
                "more folders than are named",
                Box::new(|f| {
                    let part = f.part(vec![(b"x", empty())], vec![]);
                    let folders = (0..20_000).map(|n| folder(format!("{n:05}").as_bytes())).collect();
                    let many = grown(f, part, 3, 1);
                    (folders, vec![many; 100])
                }),
            ),
            (
                "a file of 2^42 bytes in leaves of one byte",
                Box::new(|f| {
                    let leaf = f.tree(&Node::Leaf(vec![Extent::Zeros(1)]), 0);
                    let mut tree = leaf;
                    let mut len = 1u64;
                    for level in 1..=6 {
                        tree = f.tree(&Node::Stream { level, children: vec![(len, tree); 128] }, level);
                        len *= 128;
                    }
                    let file = FileEntry { len, data: FileData::Tree { root: tree, needs: Needs::default() } };
                    (vec![folder(b"")], vec![f.part(vec![(b"x", file)], vec![])])
                }),
            ),
            (
                "lengths that overflow",
                Box::new(|f| {
                    let leaf = f.tree(&Node::Leaf(vec![Extent::Zeros(u32::MAX)]), 0);
                    let tree = f.tree(&Node::Stream { level: 1, children: vec![(u64::MAX, leaf), (5, leaf)] }, 1);
                    let file = FileEntry { len: 4, data: FileData::Tree { root: tree, needs: Needs::default() } };
                    (vec![folder(b"")], vec![f.part(vec![(b"x", file)], vec![])])
                }),
            ),
            (
                "a chunk that is shorter than its extent",
                Box::new(|f| {
                    let chunk = ChunkRef { len: u32::MAX, ..f.content(b"short") };
                    let leaf = f.tree(&Node::Leaf(vec![Extent::Chunk(chunk)]), 0);
                    let file = FileEntry { len: u32::MAX.into(), data: FileData::Tree { root: leaf, needs: Needs::default() } };
                    (vec![folder(b"")], vec![f.part(vec![(b"x", file)], vec![])])
                }),
            ),
            (
                "a slice outside its joint chunk",
                Box::new(|f| {
                    let joint = f.content(&[7; 100]);
                    let file = FileEntry { len: 90, data: FileData::Joint { chunk: 0, offset: 20 } };
                    (vec![folder(b"")], vec![f.part(vec![(b"x", file)], vec![joint])])
                }),
            ),
            (
                "a joint chunk that isn't there",
                Box::new(|f| {
                    let file = FileEntry { len: 9, data: FileData::Joint { chunk: 3, offset: 20 } };
                    (vec![folder(b"")], vec![f.part(vec![(b"x", file)], vec![])])
                }),
            ),
            (
                "a stream of the wrong level",
                Box::new(|f| {
                    let leaf = f.tree(&Node::Leaf(vec![Extent::Zeros(9)]), 0);
                    let tree = f.tree(&Node::Stream { level: 2, children: vec![(9, leaf)] }, 1);
                    let file = FileEntry { len: 9, data: FileData::Tree { root: tree, needs: Needs::default() } };
                    (vec![folder(b"")], vec![f.part(vec![(b"x", file)], vec![])])
                }),
            ),
            (
                "a node in the place of content",
                Box::new(|f| {
                    let (id, place, _) = f.node(&Node::Leaf(vec![Extent::Zeros(9)]));
                    let file = FileEntry { len: 9, data: FileData::Single { id: id.short(), place, needs: Needs::default() } };
                    (vec![folder(b"")], vec![f.part(vec![(b"x", file)], vec![])])
                }),
            ),
            (
                "content in the place of a node",
                Box::new(|f| {
                    let chunk = f.content(b"content");
                    let root = TreeRef { level: 0, id: chunk.id, place: chunk.place, digest: Digest16([0; 16]) };
                    let file = FileEntry { len: 9, data: FileData::Tree { root, needs: Needs::default() } };
                    (vec![folder(b"")], vec![f.part(vec![(b"x", file)], vec![])])
                }),
            ),
            (
                "a pack that no list names",
                Box::new(|f| {
                    let place = Place { pack: PackId([0xAB; 16]), blob: 0, position: 0 };
                    let file = FileEntry { len: 9, data: FileData::Single { id: ShortId([1; 16]), place, needs: Needs::default() } };
                    (vec![folder(b"")], vec![f.part(vec![(b"x", file)], vec![])])
                }),
            ),
        ];
        for (what, make) in &cases {
            let id = forge(&world, |_| {}, |f| make(f));
            let (outcome, _) = restore_forged(&world, &id, what);
            assert!(!outcome.status.success(), "{what}\n{}", outcome.report());
        }
        println!("{} trees", cases.len());
        newest_survives(&world);
        // Neither listing nor the next backup is held up.
        world.run(["list", "--json"]).ok();
        world.run(world.backup_arguments()).ok();
    });
}

#[test]
fn facts_that_lie_are_refused_before_anything_is_written() {
    ordinary(|| {
        let world = World::new();
        type Change = Box<dyn Fn(&mut Value)>;
        let changes: Vec<(&str, Change)> = vec![
            ("no facts", Box::new(|e| *e = Value::Null)),
            ("a control file of another cluster", Box::new(|e| e["system_identifier"] = json!(5))),
            ("no control file", Box::new(|e| e["control_file"] = json!(""))),
            ("a control file that is not hex", Box::new(|e| e["control_file"] = json!("zz"))),
            ("a control file that is too long", Box::new(|e| e["control_file"] = json!("00".repeat(9000)))),
            (
                "a label that starts elsewhere",
                Box::new(|e| e["backup_label"] = json!("START WAL LOCATION: 0/9000028 (file 000000010000000000000090)\n")),
            ),
            ("no label of a running server", Box::new(|e| e["offline"] = json!(false))),
            (
                "a tablespace twice",
                Box::new(|e| {
                    e["tablespaces"] =
                        json!([{"oid": 1, "name": null, "path": "/nowhere/a"}, {"oid": 1, "name": null, "path": "/nowhere/b"}])
                }),
            ),
            ("a tablespace without a place", Box::new(|e| e["tablespaces"] = json!([{"oid": 1, "name": null, "path": "relative"}]))),
            ("a place with a zero byte", Box::new(|e| e["tablespaces"] = json!([{"oid": 1, "name": null, "path": "/a\0b"}]))),
        ];
        for (what, change) in &changes {
            let id = forge(&world, |extra| change(extra), |f| (vec![folder(b"")], vec![f.part(vec![(b"x", empty())], vec![])]));
            let (outcome, target) = restore_forged(&world, &id, what);
            assert!(!outcome.status.success(), "{what}\n{}", outcome.report());
            assert!(!target.join("a/b/data").exists(), "{what}: something was written\n{}", outcome.report());
        }
        println!("{} lies", changes.len());
    });
}

/// A pack whose table says that it holds a chunk, and which doesn't.
fn poison(opened: &Opened, session: SessionId, victims: &[Vec<u8>]) -> PackRef {
    let sealing = &opened.sealing;
    let mut builder = PackBuilder::new(sealing).unwrap();
    for (n, victim) in victims.iter().enumerate() {
        let id = sealing.chunk_id(ChunkRole::Content, victim);
        let garbage = vec![n as u8 + 1; victim.len()];
        let frame = codec::encode_whole(&garbage, 1).unwrap();
        let blob = NewBlob {
            role: ChunkRole::Content,
            kind: frame.kind.into(),
            frame: frame.bytes,
            chunks: vec![(id, victim.len() as u32)],
            references: vec![],
        };
        builder.add(blob).unwrap();
    }
    let finished = builder.finish().unwrap();
    let pack = PackRef { session, id: finished.id, hash: finished.hash, size: finished.bytes.len() as u64, tail: finished.tail };
    plant(opened, pack_name(session, &pack).unwrap().as_str(), &finished.bytes);
    pack
}

#[test]
fn nobody_dedups_against_garbage_that_a_bad_writer_has_stored() {
    ordinary(|| {
        for trusted in [false, true] {
            let mut world = World::empty();
            let thief = enrol(&world, 43, &[Role::Writer], None);
            let relation = fs::read(world.data().join("base/5/16384")).unwrap();
            let victims: Vec<Vec<u8>> = relation.chunks(256 << 10).map(<[u8]>::to_vec).collect();
            world.opened(|opened, _| {
                // As if for a clone of the cluster: others' packs nobody looks at.
                let begin = json!({"kind": "BEGIN", "purpose": "trial", "machine": "m", "cluster": "clone", "system_identifier": SYSTEM.to_string()});
                let (_, session) = force(opened, &thief, &begin);
                let pack = poison(opened, session, &victims);
                let packs = [(pack.id, PackFacts { hash: pack.hash, size: pack.size, tail: pack.tail })].into_iter().collect();
                let progress = Kind::Progress(Progressed { session, packs: Held::Inline(packs) });
                force(opened, &thief, &serde_json::to_value(progress).unwrap());
                force(opened, &thief, &json!({"kind": "ABORT", "session": session.to_string()}));
                opened.refresh().unwrap();
                assert!(opened.view().fold.pack(&session, &pack.id).is_some(), "it is in a list, and its session has ended");
            });
            if trusted {
                // Who names the thief in trust-writers gets what the thief stored: noticed when it is read, at the latest.
                let file = world.folder.join("config.toml");
                fs::write(&file, format!("[cluster.main]\ntrust-writers = [\"{}\"]\n", thief.id())).unwrap();
                let mut arguments = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
                arguments.extend(world.backup_arguments());
                world.run(arguments).ok();
                let (restored, target) = world.restore_afresh(&world.repository(), &[]);
                let error = clean_error(&restored, "trusted");
                assert_eq!(error["class"], "corrupt", "{}", restored.report());
                assert!(!target.join("data/global/pg_control").exists());
            } else {
                world.backup();
                newest_is_whole(&world);
            }
        }
    });
}

/// An object for a file of a cluster's archive, as that key's.
fn wal_object(opened: &Opened, key: &SigningKey, name: &str, bytes: &[u8], facts: Value) -> (String, Vec<u8>) {
    let address = wal::WalAddress { cluster: opened.sealing.cluster_key(CLUSTER), system_identifier: SYSTEM, name: name.into() };
    let newest = opened.view().newest;
    let origin =
        WalOrigin { repository: opened.format.repository, signer: key, head: (newest.number, newest.hash), address: &address, facts };
    let object = wal::encode(&opened.sealing, origin, bytes, 1).unwrap().concat();
    (address.object(0).unwrap().as_str().to_owned(), object)
}

#[test]
fn wal_of_a_key_without_the_right_is_void_and_the_real_file_takes_the_next_name() {
    ordinary(|| {
        let world = World::new();
        let other = enrol(&world, 44, &[Role::Writer], Some(&["other"]));
        let reader = enrol(&world, 45, &[Role::Reader, Role::Maintainer], None);
        let mut garbage = wal(NEXT_SEGMENT);
        garbage[9000] ^= 1;
        world.opened(|opened, _| {
            opened.refresh().unwrap();
            let (name, object) = wal_object(opened, &other, NEXT_SEGMENT, &garbage, Value::Null);
            plant(opened, &name, &object);
            let (_, object) = wal_object(opened, &reader, NEXT_SEGMENT, &garbage, Value::Null);
            plant(opened, &format!("{name}.1"), &object);
        });
        let to = world.folder.join("got");
        // Void, so it is as if it weren't there: missing, since the history file shows that the timeline went on.
        let got = world.run(["archive-get", "--json", NEXT_SEGMENT, to.to_str().unwrap()]);
        assert!(clean_error(&got, "void")["what"].as_str().unwrap().contains("missing from the archive"), "{}", got.report());
        world.run(["archive-push", world.wal(NEXT_SEGMENT).to_str().unwrap()]).ok();
        world.run(["archive-get", NEXT_SEGMENT, to.to_str().unwrap()]).ok();
        assert!(fs::read(&to).unwrap() == wal(NEXT_SEGMENT));
        assert!(world.objects().iter().any(|o| o.ends_with(&format!("{NEXT_SEGMENT}.2"))));
    });
}

#[test]
fn wal_of_the_clusters_own_thief_never_reaches_a_server_as_another_file() {
    ordinary(|| {
        let world = World::new();
        let thief = enrol(&world, 46, &[Role::Writer], None);
        let mut foreign = wal(NEXT_SEGMENT);
        foreign[24..32].copy_from_slice(&5u64.to_le_bytes());
        let attempts: Vec<(&str, &str, Vec<u8>)> = vec![
            ("no WAL", NEXT_SEGMENT, b"no WAL at all".to_vec()),
            ("another segment", NEXT_SEGMENT, wal(SEGMENTS[0])),
            ("another cluster's", NEXT_SEGMENT, foreign),
            ("half a segment", NEXT_SEGMENT, wal(NEXT_SEGMENT)[..1 << 19].to_vec()),
            ("a history that names a timeline above its own", "00000003.history", b"7\t0/3000000\tx\n".to_vec()),
            ("no history", "00000003.history", vec![0; 100]),
            ("a history of 900 MB", "00000003.history", vec![b' '; 900 << 20]),
        ];
        for (what, name, bytes) in &attempts {
            let copy = world.copy(&format!("with {what}"));
            world.opened(|opened, _| {
                let (object, bytes) = wal_object(opened, &thief, name, bytes, Value::Null);
                let path = copy.join(object);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            });
            let to = world.folder.join("got");
            let mut command = std::process::Command::new("/bin/sh");
            command.arg("-c").arg("ulimit -v 1500000; exec \"$0\" \"$@\"").arg(world.host.program()).arg("--repo").arg(&copy);
            command
                .args(["archive-get", "--json", name])
                .arg(&to)
                .env_clear()
                .envs(world.host.environment())
                .current_dir(world.host.home());
            let got = Outcome::of(command);
            assert!(got.status.code().is_some_and(|code| code > 125), "{what}\n{}", got.report());
            clean_error(&got, what);
            assert!(!to.exists(), "{what}");
            fs::remove_dir_all(Path::new(&copy)).unwrap();
        }
        println!("{} files", attempts.len());
    });
}
