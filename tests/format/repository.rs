//! A whole repository: made by this program once, opened and read back by every later one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use pgcairn::chunk::{EXTENT, FilePlace, FolderChunks, is_zero};
use pgcairn::codec::{self, Patching, Way};
use pgcairn::crypt::slot::Lock;
use pgcairn::crypt::{ChunkRole, Opening};
use pgcairn::host::access::{self, Need, NewRepository, OpenSession, Opened, Place};
use pgcairn::host::config::{RepositorySettings, RepositoryUrl, SecretSource};
use pgcairn::host::{ProcessEnv, StateDir};
use pgcairn::pg::facts::{ClusterFacts, ConfigFile, ConfigFolder, ConfigRole, ConfigurationFacts, MissingFile};
use pgcairn::repo::log::{Begin, Commit, CommitLists, Held, PackSet, Root, SnapshotWal, Summary, WalMode, WalPosition, WalRange};
use pgcairn::repo::pack::{Packs, Reference};
use pgcairn::repo::structure::{
    Attributes, ChunkRef, Extent, FileData, FileEntry, FolderMeta, Instance, Meta, Needs, Part, Snapshot, encode_attributes,
    file_of_extents, file_of_leaves, put_folder, put_leaf, put_part, put_snapshot,
};
use pgcairn::repo::write::{ChunkWriter, Known, NewChunk, WriterSetup};
use pgcairn::units::{ChunkId, Lsn, Quiet, SegmentSize, TimelineId, Timestamp};

use super::generate::copy;
use super::known::{folder, noise, pages};

/// The snapshot's folders with their files.
fn files() -> BTreeMap<&'static str, BTreeMap<&'static str, Vec<u8>>> {
    let relation = [pages(32, &[3, 17]), vec![0; EXTENT as usize], pages(5, &[])].concat();
    BTreeMap::from([
        ("", BTreeMap::from([("PG_VERSION", b"18\n".to_vec()), ("empty", vec![]), ("postgresql.conf", b"port = 5432\n".to_vec())])),
        ("base/5", BTreeMap::from([("16384", relation), ("16385", vec![0; 3 * 8192]), ("16386", pages(2, &[]))])),
        ("pg_dump", BTreeMap::from([("stream", noise("stream", 9000))])),
    ])
}

/// What is kept beside the data directory.
fn annexes() -> BTreeMap<&'static str, BTreeMap<&'static str, Vec<u8>>> {
    let list = br#"{"databases":[{"oid":1,"name":"template1","unknown":"time-out","extensions":[]},{"oid":5,"name":"postgres","unknown":null,"extensions":[{"name":"plpgsql","version":"1.0"}]}]}"#;
    let relations = b"[1663,16384,\"r\",\"public\",\"orders\"]\n[1663,16385,\"t\",\"pg_toast\",\"pg_toast_16384\",\"public.orders\"]\n";
    let shared = b"[1664,1262,\"r\",\"pg_catalog\",\"pg_database\"]\n";
    BTreeMap::from([
        ("configuration", BTreeMap::from([("0000", b"include_dir = 'conf.d'\n".to_vec()), ("0001", b"local all all peer\n".to_vec())])),
        (
            "databases",
            BTreeMap::from([("databases", list.to_vec()), ("relations-0", shared.to_vec()), ("relations-5", relations.to_vec())]),
        ),
    ])
}

/// Nothing is known from before.
struct Nothing;

impl Known for Nothing {
    fn places(&self, _: &ChunkId) -> Vec<pgcairn::repo::pack::Place> {
        Vec::new()
    }
}

fn open_place<R>(repository: &Path, key: &Path, state: &Path, use_it: impl FnOnce(&Place<'_>) -> R) -> R {
    let url = RepositoryUrl::parse(OsStr::new(repository), None).unwrap();
    let settings = RepositorySettings::at(url, Some(SecretSource::KeyFile(key.to_path_buf())));
    let state = StateDir::open(Some(state), &ProcessEnv, &Quiet).unwrap();
    use_it(&Place {
        watch: &pgcairn::store::s3::Watch::default(),
        repository: &settings,
        state: Some(&state),
        cache: None,
        progress: &Quiet,
    })
}

/// Makes the repository: `init` with a key file, one snapshot by one session.
pub fn build(repository: &Path, key: &Path, state: &Path) {
    let text = std::fs::read_to_string(key).unwrap();
    let key_file = pgcairn::crypt::slot::parse_key_file(&text).unwrap();
    open_place(repository, key, state, |place| {
        let created = access::create(place, &NewRepository { lock: Lock::KeyFile(&key_file), maintainer: true }).unwrap();
        let opened = Arc::new(created.opened);
        let floor = Some(WalPosition { timeline: TimelineId(1), lsn: Lsn(0x300_0028) });
        let (cluster, system_identifier) = (Some("main".into()), Some(7_400_000_000_000_000_001));
        let begin = Begin { purpose: "backup".into(), cluster, system_identifier, machine: "m1".into(), floor, ..Begin::default() };
        let session = OpenSession::begin(&opened, &place.state.unwrap().locks(), begin).unwrap();
        let commit = write(&opened, &session);
        session.commit(commit).unwrap();
    });
}

fn write(opened: &Opened, session: &OpenSession) -> Commit {
    let setup = WriterSetup {
        backend: Arc::clone(&opened.backend),
        packs: Arc::new(Packs::new(Arc::clone(&opened.backend), opened.sealing.clone())),
        sealing: opened.sealing.clone(),
        opening: opened.opening.clone(),
        session: session.id(),
        tag: session.tag(),
        nameable: Default::default(),
        trusted: Default::default(),
        known: Box::new(Nothing),
        is_damaged: Box::new(|_| false),
    };
    let stored = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&stored);
    let writer = ChunkWriter::start(
        setup,
        Box::new(move |what| {
            if let pgcairn::repo::write::Uploaded::Pack(pack) = what {
                told.lock().unwrap().push(*pack);
            }
            Ok(())
        }),
    )
    .unwrap();
    let mut needs = Needs::default();
    let (mut folders, mut metas) = (Vec::new(), Vec::new());
    for (path, files) in files() {
        folders.push(put_one(&writer, &files, &mut needs));
        metas.push(FolderMeta { path: path.into(), mode: 0o700, uid: 999, gid: 999 });
    }
    let mut names = Vec::new();
    for (name, files) in annexes() {
        folders.push(put_one(&writer, &files, &mut needs));
        names.push(name.to_owned());
    }
    let meta = Meta { folders: metas, annexes: names, extra: serde_json::to_value(facts()).unwrap() };
    let meta = put(&writer, &serde_json::to_vec(&meta).unwrap(), &mut needs);
    let (chunk, root) = put_snapshot(&writer, meta, folders, &mut needs).unwrap();
    let (packs, totals) = writer.finish().unwrap();
    assert_eq!(stored.lock().unwrap().len(), packs.len());
    let set: PackSet = packs.iter().map(|p| (p.session, p.id)).collect();
    assert!(needs.0.keys().all(|pack| set.contains(&session.id(), pack)));
    let new = packs.iter().map(|p| (p.id, pgcairn::repo::log::PackFacts { hash: p.hash, size: p.size, tail: p.tail })).collect();
    let place = pgcairn::repo::log::Place { pack: root.place.pack, blob: root.place.blob, position: root.place.position.into() };
    Commit {
        session: session.id(),
        summary: summary(totals.packs),
        root: Root { chunk, place, digest: root.digest },
        lists: Held::Inline(CommitLists { new, set, less: PackSet::default(), ledger: vec![] }),
        replaces: None,
    }
}

fn put(writer: &ChunkWriter, plain: &[u8], needs: &mut Needs) -> ChunkRef {
    let id = writer.sealing().chunk_id(ChunkRole::Content, plain);
    let frame = codec::encode_whole(plain, codec::DENSE).unwrap();
    let stored = writer.put(ChunkRole::Content, NewChunk { id, plain, frame, reference: None }).unwrap();
    stored.add_to(needs);
    ChunkRef { id: id.short(), place: stored.place, len: plain.len() as u32 }
}

/// As `put`; the first extent of the relation becomes a patch.
fn put_extent(writer: &ChunkWriter, plain: &[u8], needs: &mut Needs) -> ChunkRef {
    let old = pages(32, &[]);
    if plain.len() != old.len() {
        return put(writer, plain, needs);
    }
    let whole_id = writer.sealing().chunk_id(ChunkRole::Content, &old);
    let frame = codec::encode_whole(&old, codec::DENSE).unwrap();
    let whole = writer.put(ChunkRole::Content, NewChunk { id: whole_id, plain: &old, frame, reference: None }).unwrap();
    let how = Patching { page_size: 8192, way: Way::AgainstOld, level: codec::DENSE, whole_len: usize::MAX };
    let frame = codec::encode_patch(plain, &old, how).unwrap().unwrap();
    let reference = Some((Reference { id: whole_id, place: whole.place }, whole.bytes, old.as_slice()));
    let id = writer.sealing().chunk_id(ChunkRole::Content, plain);
    let stored = writer.put(ChunkRole::Content, NewChunk { id, plain, frame, reference }).unwrap();
    stored.add_to(needs);
    ChunkRef { id: id.short(), place: stored.place, len: plain.len() as u32 }
}

fn put_one(writer: &ChunkWriter, files: &BTreeMap<&str, Vec<u8>>, needs: &mut Needs) -> pgcairn::repo::structure::Child {
    let mut joint = FolderChunks::new(&[0xcc; 32]);
    let (mut attributes, mut entries) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let mut own = Needs::default();
        let data = if let Some(relation) = name.strip_prefix("16") {
            let extents: Vec<Extent> = bytes
                .chunks(EXTENT as usize)
                .map(|e| if is_zero(e) { Extent::Zeros(e.len() as u32) } else { Extent::Chunk(put_extent(writer, e, &mut own)) })
                .collect();
            if relation == "384" {
                // Two leaves, so that there is a stream node.
                let (first, second) = extents.split_at(2);
                let first = put_leaf(writer, first.to_vec(), own).unwrap();
                let second = put_leaf(writer, second.to_vec(), Needs::default()).unwrap();
                file_of_leaves(writer, vec![first, second]).unwrap()
            } else {
                file_of_extents(writer, extents, own).unwrap()
            }
        } else if *name == "stream" {
            let extents = bytes.chunks(4000).map(|e| Extent::Chunk(put(writer, e, &mut own))).collect();
            file_of_extents(writer, extents, own).unwrap()
        } else {
            match joint.add(bytes).unwrap().0 {
                Some(place) => FileData::Joint { chunk: place.chunk as u16, offset: place.offset },
                None => FileData::Empty,
            }
        };
        if let FileData::Single { needs: theirs, .. } | FileData::Tree { needs: theirs, .. } = &data {
            needs.join(theirs);
        }
        entries.push(FileEntry { len: bytes.len() as u64, data });
        attributes.push(Attributes {
            name: name.as_bytes().to_vec(),
            is_folder: false,
            instance: Instance { machine: [0xaa; 16], device: 2049, inode: 2 },
            mode: 0o600,
            uid: 999,
            gid: 999,
            size: bytes.len() as u64,
            mtime: 1_764_000_000_000_000_000,
            ctime: 1_764_000_000_000_000_001,
            inode: 100,
        });
    }
    let joint = joint.finish().map(|chunk| put(writer, &chunk, needs)).into_iter().collect();
    let attributes = put(writer, &encode_attributes(&attributes), needs);
    let part = put_part(writer, Part { attributes, joint, files: entries }, needs).unwrap();
    put_folder(writer, vec![part], needs).unwrap()
}

fn summary(new_bytes: u64) -> Summary {
    let bytes = files().values().flat_map(BTreeMap::values).map(|f| f.len() as u64).sum();
    let (start_lsn, stop_lsn) = (Lsn(0x300_0028), Lsn(0x300_0120));
    let timeline = TimelineId(1);
    Summary {
        id: "20251124-160000-7f3a".into(),
        kind: "physical".into(),
        cluster: "main".into(),
        system_identifier: 7_400_000_000_000_000_001,
        started_at: Timestamp(1_764_000_000_000_000),
        finished_at: Timestamp(1_764_000_001_000_000),
        wal: Some(SnapshotWal {
            timeline,
            start_lsn,
            stop_lsn,
            segment_size: SegmentSize::DEFAULT,
            ranges: vec![WalRange { timeline, first: start_lsn, last: stop_lsn }],
            ancestry: vec![],
            mode: WalMode::Archive,
        }),
        pg_version: "18.1".into(),
        cluster_bytes: bytes,
        read_bytes: bytes,
        changed_bytes: bytes,
        new_bytes,
        files: 7,
        damaged_pages: 0,
        parent: None,
        labels: BTreeMap::from([("why".into(), "tests/format".into())]),
    }
}

fn facts() -> ClusterFacts {
    ClusterFacts {
        pg_version: "18.1".into(),
        major: 18,
        system_identifier: 7_400_000_000_000_000_001,
        catalog_version: 202_506_291,
        segment_size: SegmentSize::DEFAULT,
        block_size: 8192,
        control_file: "0102".into(),
        backup_label: Some("START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n".into()),
        tablespace_map: None,
        tablespaces: vec![],
        start_lsn: Lsn(0x300_0028),
        stop_lsn: Lsn(0x300_0120),
        start_timeline: TimelineId(1),
        stop_timeline: TimelineId(1),
        started_at: Timestamp(1_764_000_000_000_000),
        stopped_at: Timestamp(1_764_000_001_000_000),
        offline: false,
        from_standby: false,
        wal_copied: false,
        data_directory: "/var/lib/postgresql/18/main".into(),
        architecture: "x86_64".into(),
        left_out: vec!["postmaster.sock".into()],
        damaged: vec![],
        settings: BTreeMap::from([("max_connections".into(), "100".into())]),
        configuration: Some(ConfigurationFacts {
            files: vec![
                config_file("0000", "/etc/postgresql/18/main/postgresql.conf", ConfigRole::Config),
                config_file("0001", "/etc/postgresql/18/main/pg_hba.conf", ConfigRole::Hba),
            ],
            folders: vec![ConfigFolder { path: "/etc/postgresql/18/main/conf.d".into(), path_bytes: None }],
            missing: vec![MissingFile { path: "/etc/postgresql/18/main/pg_ident.conf".into(), why: "it is not there".into() }],
        }),
    }
}

fn config_file(file: &str, path: &str, role: ConfigRole) -> ConfigFile {
    ConfigFile { file: file.into(), path: path.into(), path_bytes: None, role, top: true, names: false }
}

/// Opens the repository on a host that has never seen it and compares all that it holds.
fn check(repository: &Path, key: &Path, state: &Path, need: Need) {
    open_place(repository, key, state, |place| {
        let opened = access::open(place, need).unwrap();
        let view = opened.view();
        assert!(view.is_sound() && view.fold.alarms.is_empty());
        let (_, commit) = view.fold.commits.first_key_value().unwrap();
        let expected = Summary { new_bytes: commit.summary.new_bytes, ..summary(0) };
        assert_eq!((view.fold.commits.len(), &commit.summary), (1, &expected));
        let (chunk, place) = (commit.root.chunk, commit.root.place);
        let place = pgcairn::repo::pack::Place { pack: place.pack, blob: place.blob, position: place.position.try_into().unwrap() };
        let packs = opened.packs_of(&view.fold, commit).unwrap();
        let snapshot = Snapshot::open(&packs, opened.reader().unwrap(), chunk.short(), place, commit.root.digest).unwrap();
        assert_eq!(serde_json::from_value::<ClusterFacts>(snapshot.meta().extra.clone()).unwrap(), facts());
        let mut found: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
        for (folder, child) in snapshot.folders().unwrap() {
            let found = found.entry(String::from_utf8(folder.path.clone()).unwrap()).or_default();
            for part in snapshot.parts(&child).unwrap() {
                for file in snapshot.files(&part).unwrap() {
                    let bytes = read_file(&packs, opened.reader().unwrap(), &snapshot, &file.entry, &file.joint);
                    found.insert(String::from_utf8(file.attributes.name).unwrap(), bytes);
                }
            }
        }
        for (name, files) in annexes() {
            let stored = snapshot.annex(name, 3).unwrap();
            let read: BTreeMap<String, Vec<u8>> = stored
                .iter()
                .map(|f| (String::from_utf8(f.attributes.name.clone()).unwrap(), snapshot.read_file(f, f.entry.len).unwrap()))
                .collect();
            assert!(read.len() == files.len() && files.iter().all(|(file, bytes)| read[*file] == *bytes), "{name}");
            assert!(snapshot.annex(name, 1).is_err() && snapshot.read_file(&stored[0], stored[0].entry.len - 1).is_err());
        }
        assert!(snapshot.annex("other", 0).unwrap().is_empty());
        let names = pgcairn::look::relation_names(&snapshot).unwrap();
        assert_eq!(names.lookup(b"base/5/16385.1").unwrap().to_string(), "postgres.public.orders (toast)");
        assert_eq!((names.len(), names.databases().len()), (3, 2));
        let expected = files();
        assert_eq!(found.len(), expected.len());
        for (folder, files) in expected {
            let got = &found[folder];
            assert!(files.len() == got.len() && files.iter().all(|(name, bytes)| got[*name] == *bytes), "{folder:?}");
        }
    });
}

fn read_file(packs: &Packs, opening: &Opening, snapshot: &Snapshot<'_>, entry: &FileEntry, joint: &[ChunkRef]) -> Vec<u8> {
    let chunk = |id, place| packs.content(opening, id, place).unwrap().bytes().to_vec();
    let bytes = match &entry.data {
        FileData::Empty | FileData::Folder => Vec::new(),
        FileData::Zeros => vec![0; entry.len as usize],
        FileData::Joint { chunk: number, offset } => {
            let of = joint[usize::from(*number)];
            let place = FilePlace { chunk: 0, offset: *offset, len: entry.len as u32 };
            place.of(&chunk(of.id, of.place)).unwrap().to_vec()
        }
        FileData::Single { id, place, .. } => chunk(*id, *place),
        FileData::Tree { .. } => {
            let mut bytes = Vec::new();
            for (_, leaf) in snapshot.leaves(entry).unwrap() {
                for extent in snapshot.leaf(leaf).unwrap() {
                    match extent {
                        Extent::Zeros(len) => bytes.resize(bytes.len() + len as usize, 0),
                        Extent::Chunk(c) => bytes.extend(chunk(c.id, c.place)),
                    }
                }
            }
            bytes
        }
    };
    assert_eq!(bytes.len() as u64, entry.len);
    bytes
}

#[test]
fn a_new_repository_reads_back() {
    let scratch = tempfile::tempdir().unwrap();
    let (repository, key) = (scratch.path().join("repository"), folder().join("repository-1/key"));
    build(&repository, &key, &scratch.path().join("state"));
    check(&repository, &key, &scratch.path().join("state"), Need::Write);
    check(&repository, &key, &scratch.path().join("another"), Need::Read);
}

#[test]
fn the_repository_of_format_1_reads_back() {
    let scratch = tempfile::tempdir().unwrap();
    let (repository, key) = (scratch.path().join("repository"), folder().join("repository-1/key"));
    copy(&folder().join("repository-1/objects"), &repository);
    check(&repository, &key, &scratch.path().join("state"), Need::Read);
    // A host that only looked is not enrolled; one that writes is.
    check(&repository, &key, &scratch.path().join("state"), Need::Write);
}
