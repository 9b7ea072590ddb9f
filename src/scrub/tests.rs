//! Verifying repositories in memory: whole ones, damaged ones, and ones that a writer has lied about.

mod at_once;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::{Counting, Finding, Percent, ScrubError, Setup, Share, verify};
use crate::codec;
use crate::crypt::ChunkRole;
use crate::host::access::OpenSession;
use crate::host::access::testing::Host;
use crate::repo::format;
use crate::repo::log::{Begin, Commit, CommitLists, Held, PackFacts, PackSet, Place as LogPlace, Root, Summary};
use crate::repo::pack::{Packs, Place, Reference};
use crate::repo::structure::{
    Attributes, ChunkRef, Extent, FileData, FileEntry, FolderMeta, Instance, LEAF, Leaf, Meta, Needs, Part, encode_attributes,
    file_of_leaves, put_folder, put_leaf, put_part, put_snapshot,
};
use crate::repo::write::{ChunkWriter, Known, NewChunk, Stored, WriterSetup};
use crate::store::memory::MemoryStore;
use crate::store::{Backend, ObjectName};
use crate::units::{Cancel, ChunkId, Class, Explain, Quiet, RepositoryId, Timestamp};

struct Nothing;

impl Known for Nothing {
    fn places(&self, _: &ChunkId) -> Vec<Place> {
        Vec::new()
    }
}

struct World {
    store: Arc<MemoryStore>,
    host: Host,
}

/// What a writer may lie about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lie {
    None,
    /// The COMMIT names only the packs of its own session.
    Set,
    /// A file's needs leave out the pack of what a patch refers to.
    Needs,
    /// A file's chunk lies where another one does.
    Place,
    /// A file is longer than the chunk that holds it.
    Length,
}

impl World {
    fn new() -> World {
        let store = Arc::new(MemoryStore::default());
        let host = Host::new(Arc::clone(&store) as _);
        store.put_over(&format::NAME.parse().unwrap(), &host.opened.format.encode());
        World { store, host }
    }

    /// Stores a snapshot: `base/1` a long file of pages, `base/2` a single chunk, `conf` a small file. The long file's
    /// first page is `first`; the others are those of the snapshot before, if there is one, where they lie.
    fn snapshot(&self, id: &str, first: u8, lie: Lie) -> u64 {
        let opened = &self.host.opened;
        opened.refresh().unwrap();
        let begin = Begin {
            purpose: "backup".into(),
            cluster: Some("shop".into()),
            system_identifier: Some(77),
            machine: "m".into(),
            ..Begin::default()
        };
        let session = OpenSession::begin(opened, &self.host.state.locks(), begin).unwrap();
        let adopted = session.adopted(&[], None);
        let packs = Arc::new(Packs::new(Arc::clone(&opened.backend), opened.sealing.clone()));
        packs.add(adopted.packs.values().copied());
        let writer = ChunkWriter::start(
            WriterSetup {
                backend: Arc::clone(&opened.backend),
                packs: Arc::clone(&packs),
                sealing: opened.sealing.clone(),
                opening: opened.opening.clone(),
                session: session.id(),
                tag: session.tag(),
                nameable: adopted.packs.keys().copied().collect(),
                trusted: adopted.trusted.clone(),
                known: Box::new(Before(Arc::clone(&packs), adopted.packs.keys().copied().collect())),
                is_damaged: Box::new(|_| false),
            },
            Box::new(|_| Ok(())),
        )
        .unwrap();
        let root = self.tree(&writer, first, lie);
        let (new, set) = {
            let (finished, _) = writer.finish().unwrap();
            let new: BTreeMap<_, _> = finished.iter().map(|p| (p.id, PackFacts { hash: p.hash, size: p.size, tail: p.tail })).collect();
            let mut set: PackSet = new.keys().map(|id| (session.id(), *id)).collect();
            if lie != Lie::Set {
                adopted.packs.values().for_each(|p| set.insert(p.session, p.id));
            }
            (new, set)
        };
        let place = LogPlace { pack: root.1.pack, blob: root.1.blob, position: 0 };
        let commit = Commit {
            session: session.id(),
            summary: Summary {
                id: id.into(),
                kind: "dump".into(),
                cluster: "shop".into(),
                system_identifier: 77,
                started_at: Timestamp(1),
                finished_at: Timestamp(2),
                wal: None,
                pg_version: "18".into(),
                cluster_bytes: 1,
                read_bytes: 1,
                changed_bytes: 1,
                new_bytes: 1,
                files: 3,
                damaged_pages: 0,
                parent: None,
                labels: BTreeMap::new(),
            },
            root: Root { chunk: root.0, place, digest: root.2 },
            lists: Held::Inline(CommitLists { new, set, less: PackSet::default(), ledger: Vec::new() }),
            replaces: None,
        };
        session.commit(commit).unwrap().number
    }

    fn tree(&self, writer: &ChunkWriter, first: u8, lie: Lie) -> (ChunkId, Place, crate::units::Digest16) {
        let mut all = Needs::default();
        let pages: Vec<Vec<u8>> = (0..40u8).map(|i| page(if i == 0 { first } else { i })).collect();
        let old = content(writer, &page(100));
        let mut extents: Vec<(Extent, Stored)> = pages.iter().map(|p| chunk(content(writer, p), p.len())).collect();
        // One page is a patch of another one, of the first snapshot perhaps.
        let stored = patch(writer, &patched_of(&page(100), first), &page(100), &old);
        extents[1] = chunk(stored, 8192);
        let leaves: Vec<Leaf> = extents
            .chunks(LEAF)
            .map(|some| {
                let mut needs = Needs::default();
                some.iter().for_each(|(_, stored)| stored.add_to(&mut needs));
                put_leaf(writer, some.iter().map(|(extent, _)| *extent).collect(), needs).unwrap()
            })
            .collect();
        let mut long = file_of_leaves(writer, leaves).unwrap();
        if let (FileData::Tree { needs, .. }, true) = (&mut long, lie == Lie::Needs) {
            needs.0.remove(&old.1.place.pack);
        }
        let single = content(writer, b"a single chunk of some bytes");
        let mut needs = Needs::default();
        single.1.add_to(&mut needs);
        let place = if lie == Lie::Place { old.1.place } else { single.1.place };
        let len = if lie == Lie::Length { 29 } else { 28 };
        let files = vec![
            FileEntry { len: 40 * 8192, data: long },
            FileEntry { len, data: FileData::Single { id: single.0.short(), place, needs } },
        ];
        let base = self.part(writer, &["1", "2"], files, Vec::new(), &mut all);
        let joint = content(writer, b"0123456789abcdefsome settings");
        let chunk = ChunkRef { id: joint.0.short(), place: joint.1.place, len: 29 };
        let conf = vec![FileEntry { len: 13, data: FileData::Joint { chunk: 0, offset: 16 } }];
        let top = self.part(writer, &["conf"], conf, vec![chunk], &mut all);
        let folder = |path: &str| FolderMeta { path: path.into(), mode: 0o700, uid: 0, gid: 0 };
        let meta = Meta { folders: vec![folder(""), folder("base")], extra: serde_json::json!({ "first": first }), ..Meta::default() };
        let json = serde_json::to_vec(&meta).unwrap();
        let meta = content(writer, &json);
        let meta = ChunkRef { id: meta.0.short(), place: meta.1.place, len: json.len() as u32 };
        let folders = [top, base].map(|part| put_folder(writer, vec![part], &mut all).unwrap());
        let (id, root) = put_snapshot(writer, meta, folders.to_vec(), &mut all).unwrap();
        (id, root.place, root.digest)
    }

    fn part(
        &self,
        writer: &ChunkWriter,
        names: &[&str],
        files: Vec<FileEntry>,
        joint: Vec<ChunkRef>,
        needs: &mut Needs,
    ) -> crate::repo::structure::Child {
        let attributes = |name: &&str| Attributes {
            name: name.as_bytes().to_vec(),
            is_folder: false,
            instance: Instance { machine: [0; 16], device: 1, inode: 2 },
            mode: 0o600,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            ctime: 0,
            inode: 3,
        };
        let bytes = encode_attributes(&names.iter().map(attributes).collect::<Vec<_>>());
        let stored = content(writer, &bytes);
        let attributes = ChunkRef { id: stored.0.short(), place: stored.1.place, len: bytes.len() as u32 };
        put_part(writer, Part { attributes, joint, files }, needs).unwrap()
    }

    fn verify(&self, read: Share) -> Result<(Vec<Finding>, Vec<String>, u64), ScrubError> {
        let store = Arc::new(Counting::new(Arc::clone(&self.store) as _));
        let cancel = Cancel::new();
        let setup = Setup { opened: &self.host.opened, store: Arc::clone(&store), unlock: None, read, progress: &Quiet, cancel: &cancel };
        let report = verify(&setup)?;
        // There is no slot in this world.
        let findings = report.findings.take().into_iter().filter(|f| f.object != "key/").collect();
        Ok((findings, report.warnings, store.bytes_read()))
    }

    fn packs(&self) -> Vec<ObjectName> {
        let folder = ObjectName::new("pack").unwrap();
        self.store.list_sorted(Some(&folder)).unwrap().into_iter().map(|l| l.name).collect()
    }
}

/// All that is listed in the packs before this session.
struct Before(Arc<Packs>, HashSet<crate::units::PackId>);

impl Known for Before {
    fn places(&self, id: &ChunkId) -> Vec<Place> {
        for pack in &self.1 {
            let table = self.0.table(*pack).unwrap();
            for (blob, row) in table.rows().iter().enumerate() {
                if row.chunks[0].0 == *id {
                    return vec![Place { pack: *pack, blob: blob as u32, position: 0 }];
                }
            }
        }
        Nothing.places(id)
    }
}

const ALL: Share = Share::Some(Percent::ALL, 0);

fn page(i: u8) -> Vec<u8> {
    let mut state = u32::from(i) + 1;
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 24) as u8
    };
    (0..8192).map(|_| next(&mut state)).collect()
}

fn patched_of(page: &[u8], first: u8) -> Vec<u8> {
    let mut patched = page.to_vec();
    patched[5] = first;
    patched
}

type Put = (ChunkId, Stored);

fn content(writer: &ChunkWriter, plain: &[u8]) -> Put {
    let id = writer.sealing().chunk_id(ChunkRole::Content, plain);
    let frame = codec::encode_whole(plain, 3).unwrap();
    let stored = match writer.find(ChunkRole::Content, &id).unwrap() {
        Some(stored) => stored,
        None => writer.put(ChunkRole::Content, NewChunk { id, plain, frame, reference: None }).unwrap(),
    };
    (id, stored)
}

fn patch(writer: &ChunkWriter, plain: &[u8], old: &[u8], whole: &Put) -> Put {
    let how = codec::Patching { page_size: 512, way: codec::Way::AgainstOld, level: 3, whole_len: plain.len() };
    let frame = codec::encode_patch(plain, old, how).unwrap().expect("a patch");
    let id = writer.sealing().chunk_id(ChunkRole::Content, plain);
    let reference = Some((Reference { id: whole.0, place: whole.1.place }, whole.1.bytes, old));
    (id, writer.put(ChunkRole::Content, NewChunk { id, plain, frame, reference }).unwrap())
}

fn chunk(put: Put, len: usize) -> (Extent, Stored) {
    (Extent::Chunk(ChunkRef { id: put.0.short(), place: put.1.place, len: len as u32 }), put.1)
}

fn files(finding: &Finding) -> BTreeSet<&str> {
    finding.files.iter().map(|f| std::str::from_utf8(f).unwrap()).collect()
}

#[test]
fn what_is_whole_is_called_whole() {
    let world = World::new();
    world.snapshot("one", 0, Lie::None);
    let (findings, warnings, once) = world.verify(Share::None).unwrap();
    assert_eq!((findings.as_slice(), warnings.as_slice()), (&[][..], &[][..]));
    world.snapshot("two", 50, Lie::None);
    world.snapshot("three", 50, Lie::None);
    let (findings, warnings, thrice) = world.verify(Share::None).unwrap();
    assert_eq!((findings.as_slice(), warnings.as_slice()), (&[][..], &[][..]));
    let (findings, _, all) = world.verify(ALL).unwrap();
    assert!(findings.is_empty(), "{findings:?}");
    let stored: u64 = world.packs().iter().map(|p| world.store.size(p).unwrap()).sum();
    assert!(once < thrice && thrice < all && all >= stored, "{once} {thrice} {all}");
}

#[test]
fn a_damaged_bit_is_found_wherever_it_is() {
    let world = World::new();
    world.snapshot("one", 0, Lie::None);
    world.snapshot("two", 50, Lie::None);
    for pack in world.packs() {
        let size = world.store.size(&pack).unwrap() as usize;
        for at in (0..size).step_by(size / 9 + 1).chain([size - 1, size - 40, size - 70]) {
            world.store.tamper(&pack, |bytes| bytes[at] ^= 4);
            let (findings, _, _) = world.verify(ALL).unwrap();
            let [found] = findings.as_slice() else { panic!("{pack} at {at}: {findings:?}") };
            assert_eq!(found.object, pack.as_str());
            // Padding, for example, hits nobody.
            let whole = found.problem.contains("all blobs in it are whole");
            assert!(found.problem.contains("hash") && found.snapshots.is_empty() == whole, "{found:?}");
            world.store.tamper(&pack, |bytes| bytes[at] ^= 4);
        }
        let bytes = world.store.read(&pack, 1 << 30).unwrap();
        for change in [(|b: &mut Vec<u8>| b.truncate(b.len() / 2)) as fn(&mut Vec<u8>), |b| b.clear(), |b| b.push(0), |b| b.fill(0)] {
            world.store.tamper(&pack, change);
            let (findings, _, _) = world.verify(Share::None).unwrap();
            assert!(matches!(findings.as_slice(), [found] if found.object == pack.as_str()), "{findings:?}");
            world.store.tamper(&pack, |b| *b = bytes.clone());
        }
    }
    assert!(world.verify(ALL).unwrap().0.is_empty());
}

#[test]
fn what_a_damaged_blob_hits_is_named() {
    let world = World::new();
    world.snapshot("one", 0, Lie::None);
    world.snapshot("two", 50, Lie::None);
    let opened = &world.host.opened;
    let fold = opened.view().fold.clone();
    let commit = fold.commits.values().next_back().unwrap();
    let packs = opened.packs_of(&fold, commit).unwrap();
    let id_of = |plain: &[u8]| opened.sealing.chunk_id(ChunkRole::Content, plain);
    let both: BTreeSet<String> = ["one", "two"].map(str::to_owned).into();
    for (plain, hit, snapshots) in [
        (page(100), vec!["base/1"], both.clone()), // what a patch refers to, in another pack for the second
        (page(20), vec!["base/1"], both.clone()),
        (page(50), vec!["base/1"], ["two".to_owned()].into()),
        (b"a single chunk of some bytes".to_vec(), vec!["base/2"], both.clone()),
        (b"0123456789abcdefsome settings".to_vec(), vec!["conf"], both),
    ] {
        let mut damaged = None;
        for (session, pack) in commit.set.iter() {
            let table = packs.table(*pack).unwrap();
            if let Some(row) = table.rows().iter().find(|row| row.chunks[0].0 == id_of(&plain)) {
                damaged = Some((packs.name(*pack).unwrap(), row.offset as usize));
                assert_eq!(packs.known(*pack).unwrap().session, *session);
            }
        }
        let (name, at) = damaged.unwrap();
        world.store.tamper(&name, |bytes| bytes[at] ^= 1);
        assert!(world.verify(Share::None).unwrap().0.is_empty(), "payload is not read");
        let (findings, _, _) = world.verify(ALL).unwrap();
        let [found] = findings.as_slice() else { panic!("{findings:?}") };
        assert_eq!((found.object.as_str(), files(found)), (name.as_str(), hit.into_iter().collect()), "{found:?}");
        assert!(found.snapshots.is_superset(&snapshots), "{found:?}");
        assert!(found.problem.contains("blob "), "{found:?}");
        world.store.tamper(&name, |bytes| bytes[at] ^= 1);
    }
}

#[test]
fn who_kept_the_format_object_looks_at_it_as_well() {
    let world = World::new();
    world.snapshot("one", 0, Lie::None);
    assert!(world.verify(ALL).unwrap().0.is_empty());
    let name: ObjectName = format::NAME.parse().unwrap();
    let ours = world.host.opened.format;
    let other = format::Format { repository: RepositoryId([9; 16]), ..ours }.encode().to_vec();
    let mut flipped = ours.encode().to_vec();
    flipped[20] ^= 1;
    for (bytes, problem) in [(other, "another repository"), (flipped, "checksum"), (Vec::new(), "not that of a repository")] {
        world.store.tamper(&name, |there| *there = bytes);
        let (findings, _, _) = world.verify(Share::None).unwrap();
        assert!(findings.len() == 1 && findings[0].object == "pgcairn" && findings[0].problem.contains(problem), "{findings:?}");
    }
    world.store.delete(&name).unwrap();
    assert_eq!(world.verify(Share::None).unwrap().0[0].problem, "it is not there");
}

#[test]
fn lies_of_writers_are_found() {
    for (lie, object, problem, hit) in [
        (Lie::Set, "log/", "which it does not name", "base/1"),
        (Lie::Needs, "pack/", "leave out pack", "base/1"),
        (Lie::Place, "pack/", "another chunk lies where this one is expected", "base/2"),
        (Lie::Length, "pack/", "another chunk lies where this one is expected", "base/2"),
    ] {
        let world = World::new();
        world.snapshot("one", 0, Lie::None);
        let number = world.snapshot("two", 50, lie);
        let (findings, _, _) = world.verify(Share::None).unwrap();
        assert!(!findings.is_empty(), "{lie:?}");
        for found in &findings {
            assert!(found.object.starts_with(object) && found.problem.contains(problem), "{lie:?}: {found:?}");
            assert_eq!(found.snapshots, ["two".to_owned()].into(), "{lie:?}: {found:?}");
            assert!(object != "log/" || found.object == format!("log/{number}"), "{found:?}");
        }
        // With a pack missing from the set, more than the one file may not be found.
        let all: BTreeSet<&str> = findings.iter().flat_map(files).collect();
        assert!(all.iter().any(|file| *file == hit || file.ends_with('/')) || lie == Lie::Set, "{lie:?}: {all:?}");
    }
}

#[test]
fn a_store_that_does_not_answer_is_no_damage() {
    let world = World::new();
    world.snapshot("one", 0, Lie::None);
    world.store.set_unreachable(true);
    assert_eq!(world.verify(ALL).unwrap_err().class(), Class::Unreachable);
    world.store.set_unreachable(false);
    assert!(world.verify(ALL).unwrap().0.is_empty());
    let cancel = Cancel::new();
    cancel.cancel();
    let store = Arc::new(Counting::new(Arc::clone(&world.store) as _));
    let setup = Setup { opened: &world.host.opened, store, unlock: None, read: ALL, progress: &Quiet, cancel: &cancel };
    assert!(verify(&setup).is_err());
}

#[test]
fn lost_packs_that_nobody_needs_are_named_too() {
    let world = World::new();
    world.snapshot("one", 0, Lie::None);
    let begin = Begin { purpose: "restore".into(), machine: "m".into(), ..Begin::default() };
    let session = OpenSession::begin(&world.host.opened, &world.host.state.locks(), begin).unwrap();
    let pack = crate::repo::PackRef {
        session: session.id(),
        id: crate::units::PackId([9; 16]),
        hash: crate::units::Hash32([9; 32]),
        size: 1000,
        tail: 100,
    };
    session.told(crate::repo::write::Uploaded::Pack(&pack)).unwrap();
    session.abort().unwrap();
    let (findings, _, _) = world.verify(Share::None).unwrap();
    let [found] = findings.as_slice() else { panic!("{findings:?}") };
    assert!(found.object.ends_with(&format!("{}-{}", pack.id, pack.hash)) && found.snapshots.is_empty(), "{found:?}");
}
