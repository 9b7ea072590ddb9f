use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::repo::structure::{Attributes, FileData, Part};
use crate::restore::crc::Crc;
use crate::restore::folders::join;
use crate::restore::testing::{As, TestFolder, TestSnapshot, file, folder};
use crate::store::observed::Observed;
use crate::units::{Class, Explain, Quiet};

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A file with zeros in it, longer than two leaves of 4 KiB extents.
fn long() -> Vec<u8> {
    let mut bytes = noise(1, 300_001);
    bytes[8192..40_000].fill(0);
    bytes[200_000..].fill(0);
    bytes
}

fn cluster() -> Vec<TestFolder> {
    let old = noise(9, 65_536);
    let mut new = old.clone();
    new[8192 * 3..8192 * 4].copy_from_slice(&noise(10, 8192));
    let mut small: Vec<_> = (0..100u64).map(|i| file(&format!("{i:03}"), noise(i, 8192), As::Single)).collect();
    small.push(file("patch", new, As::Patch(old)));
    let mut top = folder(
        "",
        vec![
            file("PG_VERSION", "18\n", As::Joint),
            file("postgresql.auto.conf", "port = 1\n", As::Joint),
            file("postgresql.conf", noise(2, 30_000), As::Joint),
            file("empty", "", As::Empty),
            file("odd\u{fc}", "x", As::Joint),
            file("long", long(), As::Tree(4096)),
            file("cdc", long(), As::Tree(1777)),
            file("standby.signal", "", As::Empty),
            file("user", "", As::Folder),
        ],
    );
    top.mode = 0o750;
    top.files[2].mode = 0o644;
    vec![
        top,
        folder("base", vec![]),
        folder("base/1", small),
        folder("pg_tblspc", vec![]),
        folder("pg_tblspc/16385/PG_18_1/5", vec![file("16386", vec![0; 1 << 20], As::Zeros), file("16387", noise(3, 100), As::Single)]),
        folder("pg_wal", vec![]),
        folder("pg_wal", vec![file("000000010000000000000001", long(), As::Tree(65536))]),
    ]
}

fn fate(path: &[u8]) -> Fate {
    match path {
        b"standby.signal" => Fate::Drop,
        b"postgresql.auto.conf" => Fate::Keep,
        _ => Fate::Write,
    }
}

fn write(stored: &TestSnapshot, target: &Path, spaces: &BTreeMap<u32, std::path::PathBuf>) -> Result<Written, RestoreError> {
    let folders = Folders::open(target, spaces, None)?;
    let writing = Writing {
        snapshot: &stored.open(),
        packs: &stored.packs,
        opening: &stored.opening,
        folders: &folders,
        fate: &fate,
        wanted_folders: &[b"pg_wal/archive_status".to_vec()],
        jobs: 3,
        progress: &Quiet,
        cancel: &Cancel::new(),
    };
    writing.run()
}

#[test]
fn files_come_back_byte_for_byte_with_their_checksums() {
    let cluster = cluster();
    let stored = TestSnapshot::store(&cluster, serde_json::Value::Null, |_, _| {});
    let scratch = tempfile::tempdir().unwrap();
    let (target, space) = (scratch.path().join("data"), scratch.path().join("space"));
    let written = write(&stored, &target, &[(16385, space.clone())].into()).unwrap();
    let mut expected = BTreeMap::new();
    for folder in &cluster {
        for file in &folder.files {
            let path = crate::restore::folders::join(&folder.path, &file.name);
            if fate(&path) == Fate::Write && !matches!(file.how, As::Folder) {
                expected.insert(path, file.clone());
            }
        }
    }
    let mut bytes = 0;
    for (path, file) in &expected {
        let relative = String::from_utf8(path.clone()).unwrap();
        let real = match relative.strip_prefix("pg_tblspc/16385/") {
            Some(inner) => space.join(inner),
            None => target.join(&relative),
        };
        assert!(fs::read(&real).unwrap() == file.bytes, "{relative}");
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, file.mode & 0o640, "{relative}");
        bytes += file.bytes.len() as u64;
    }
    let checksums: BTreeMap<_, _> = written.files.iter().map(|f| (f.path.clone(), f.crc)).collect();
    assert_eq!(checksums.len(), written.files.len());
    let right: BTreeMap<_, _> = expected.iter().map(|(path, f)| (path.clone(), Crc::of(&f.bytes))).collect();
    assert_eq!(checksums, right);
    assert_eq!(written.bytes, bytes);
    assert!(written.written_bytes < bytes - (1 << 20), "{}", written.written_bytes);
    // Zeros are holes.
    assert_eq!(fs::metadata(space.join("PG_18_1/5/16386")).unwrap().blocks(), 0);
    assert_eq!(written.kept[b"postgresql.auto.conf".as_slice()].bytes, b"port = 1\n");
    assert!(!target.join("standby.signal").exists() && !target.join("postgresql.auto.conf").exists());
    assert!(target.join("user").is_dir() && target.join("pg_wal/archive_status").is_dir());
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o750);
    assert_eq!(written.folders[0], b"");
    assert!(written.folders.contains(&b"user".to_vec()));
}

/// Changes what a manifest says.
type Lie = fn(&mut Vec<Attributes>, &mut Part);

#[test]
fn what_a_manifest_should_not_say_is_refused_and_leads_nowhere() {
    let one = |files: Vec<crate::restore::testing::TestFile>| vec![folder("", files)];
    let two = || vec![file("a", "1234", As::Single), file("b", "5678", As::Joint), file("c", long(), As::Tree(4096))];
    let nothing: Lie = |_, _| {};
    let cases: Vec<(&str, Vec<TestFolder>, Lie)> = vec![
        ("a name twice", one(vec![file("a", "1", As::Single), file("a", "2", As::Single)]), nothing),
        ("a name twice, small", one(vec![file("a", "1", As::Joint), file("a", "2", As::Joint)]), nothing),
        ("a file where a folder is", vec![folder("", vec![file("a", "1", As::Joint)]), folder("a", vec![])], nothing),
        ("a kept file twice", one(vec![file("postgresql.auto.conf", "1", As::Joint); 2]), nothing),
        ("above", vec![folder("", vec![]), folder("../x", vec![])], nothing),
        ("absolute", vec![folder("", vec![]), folder("/tmp/pgcairn-hostile", vec![])], nothing),
        ("a length too large", one(two()), |_, part| part.files.iter_mut().for_each(|f| f.len += 1)),
        ("a small file too long", one(vec![file("b", "5678", As::Joint)]), |_, part| part.files.iter_mut().for_each(|f| f.len = 5)),
        ("an offset in the lead", one(vec![file("b", "5678", As::Joint)]), |_, part| {
            for f in &mut part.files {
                f.data = FileData::Joint { chunk: 0, offset: 0 };
            }
        }),
        ("empty and long", one(vec![file("b", "", As::Empty)]), |_, part| part.files.iter_mut().for_each(|f| f.len = 5)),
        ("a folder that is a file", one(vec![file("b", "", As::Folder)]), |attributes, _| {
            attributes.iter_mut().for_each(|a| a.is_folder = false);
        }),
    ];
    for (what, folders, tweak) in cases {
        let stored = TestSnapshot::store(&folders, serde_json::Value::Null, tweak);
        let scratch = tempfile::tempdir().unwrap();
        let error = write(&stored, &scratch.path().join("data"), &BTreeMap::new()).expect_err(what);
        assert_eq!(error.class(), Class::Corrupt, "{what}: {error}");
        let beside: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(beside.iter().all(|n| n == "data"), "{what}: {beside:?}");
    }
    assert!(!Path::new("/tmp/pgcairn-hostile").exists());
}

#[test]
fn an_interruption_ends_it() {
    let stored = TestSnapshot::store(&cluster(), serde_json::Value::Null, |_, _| {});
    let scratch = tempfile::tempdir().unwrap();
    let folders = Folders::open(&scratch.path().join("data"), &BTreeMap::new(), None).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let snapshot = stored.open();
    let writing = Writing {
        snapshot: &snapshot,
        packs: &stored.packs,
        opening: &stored.opening,
        folders: &folders,
        fate: &fate,
        wanted_folders: &[],
        jobs: 2,
        progress: &Quiet,
        cancel: &cancel,
    };
    assert!(matches!(writing.run(), Err(RestoreError::Cancelled(_))));
}

#[test]
fn batches_are_bounded_and_never_empty() {
    use super::task::batch_of;
    assert_eq!(batch_of([100, 100].into_iter(), BATCH), 2);
    assert_eq!(batch_of([16 << 20, 100].into_iter(), BATCH), 1);
    assert_eq!(batch_of(std::iter::repeat_n(1 << 20, 32), BATCH), 8);
    assert_eq!(batch_of(std::iter::repeat_n(256 << 10, 32), BATCH), 32);
}

/// As a service is asked, in little.
fn small_pace() -> Pace {
    Pace { gap: 16 << 10, stretch: 256 << 10, block: 8 << 10, ..Pace::of_a_service(64) }
}

#[test]
fn one_long_file_is_read_by_many_requests_at_once_and_by_far_fewer_than_it_has_chunks() {
    let bytes = noise(4, 12 << 20);
    let store = Arc::new(Observed::new(small_pace()));
    let cluster = [folder("base/1", vec![file("16384", bytes.clone(), As::Tree(16 << 10))])];
    let stored = TestSnapshot::store_in(Arc::clone(&store) as _, &cluster, serde_json::Value::Null, |_, _| {});
    // Tables are padded, and may be as long as what is to be held.
    stored.ids.iter().for_each(|id| drop(stored.packs.table(*id).unwrap()));
    store.hold(128 << 10, 24);
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("data");
    write(&stored, &target, &BTreeMap::new()).unwrap();
    assert_eq!(fs::read(target.join("base/1/16384")).unwrap(), bytes);
    let seen = store.seen();
    assert!(seen.at_once >= 24, "{seen:?}");
    // 768 chunks in 24 leaves; 48 reads are the least.
    assert!(seen.reads < 100, "{seen:?}");
    assert!(seen.bytes < bytes.len() as u64 + (1 << 20), "{seen:?}");
}

/// A snapshot of several packs, whose tables nobody has read yet.
fn of_several_packs() -> (Arc<Observed>, TestSnapshot) {
    let store = Arc::new(Observed::new(Pace::of_a_service(64)));
    let cluster = [folder("base/1", vec![file("16384", noise(5, 40 << 20), As::Tree(64 << 10))])];
    let stored = TestSnapshot::store_in(Arc::clone(&store) as _, &cluster, serde_json::Value::Null, |_, _| {});
    assert!(stored.ids.len() >= 3, "{} packs", stored.ids.len());
    (store, stored)
}

#[test]
fn tables_of_all_packs_are_asked_for_at_once() {
    let (store, stored) = of_several_packs();
    let count = stored.ids.len();
    store.hold(0, count);
    stored.packs.all_tables_ahead();
    stored.ids.iter().for_each(|id| drop(stored.packs.table(*id).unwrap()));
    assert_eq!((store.seen().reads, store.seen().at_once), (count, count));
}

#[test]
fn a_table_that_many_want_is_read_once() {
    let (store, stored) = of_several_packs();
    store.hold(usize::MAX, 0);
    let barrier = std::sync::Barrier::new(16);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for id in &stored.ids {
                    barrier.wait();
                    stored.packs.table(*id).unwrap();
                }
            });
        }
    });
    assert_eq!(store.seen().reads, stored.ids.len());
}

#[test]
fn a_thousand_small_files_take_few_requests() {
    let files = |folder: u64| (0..100).map(|i| file(&format!("{i}"), noise(folder * 100 + i, 700), As::Single)).collect();
    let cluster: Vec<TestFolder> = (0..10).map(|i| folder(&format!("base/{i}"), files(i))).collect();
    let store = Arc::new(Observed::new(Pace::of_a_service(64)));
    let stored = TestSnapshot::store_in(Arc::clone(&store) as _, &cluster, serde_json::Value::Null, |_, _| {});
    store.hold(usize::MAX, 0);
    let scratch = tempfile::tempdir().unwrap();
    let written = write(&stored, &scratch.path().join("data"), &BTreeMap::new()).unwrap();
    assert_eq!(written.files.len(), 1000);
    assert!(store.seen().reads < 60, "{:?}", store.seen());
}

#[test]
fn what_a_service_holds_comes_back_as_from_a_disk() {
    let cluster = cluster();
    for pace in [small_pace(), Pace { reads: 2, stretch: 1, gap: 0, ..small_pace() }, Pace::of_a_service(64)] {
        let store = Arc::new(Observed::new(pace));
        let stored = TestSnapshot::store_in(store, &cluster, serde_json::Value::Null, |_, _| {});
        let scratch = tempfile::tempdir().unwrap();
        let (target, space) = (scratch.path().join("data"), scratch.path().join("space"));
        write(&stored, &target, &[(16385, space.clone())].into()).unwrap();
        let place = |path: &[u8]| match path.strip_prefix(b"pg_tblspc/16385/") {
            Some(inside) => space.join(std::ffi::OsStr::from_bytes(inside)),
            None => target.join(std::ffi::OsStr::from_bytes(path)),
        };
        for folder in &cluster {
            for f in folder.files.iter().filter(|f| !matches!(f.how, As::Folder)) {
                let path = join(&folder.path, &f.name);
                if fate(&path) == Fate::Write {
                    assert!(fs::read(place(&path)).unwrap() == f.bytes, "{}", f.name.escape_ascii());
                }
            }
        }
    }
}

#[test]
fn work_is_bounded_whatever_the_number_of_threads() {
    for jobs in [0, 1, 2, 8, 64, 500] {
        let disk = Size::of(jobs, Pace::OF_A_DISK);
        assert_eq!((disk.threads, disk.tasks, disk.batch), (jobs.max(1), 1, 0));
        assert!((1..=MOST_FILES).contains(&disk.files) && disk.files <= disk.threads);
        let service = Size::of(jobs, Pace::of_a_service(96));
        assert!(service.threads > jobs && service.tasks >= 1 && service.files == 1);
        let held = service.batch * service.threads as u64 * 2;
        assert!(held <= MEMORY || service.batch == BATCH, "{service:?}");
        assert!(service.tasks * (service.threads + 2) <= OPEN || service.tasks == 1, "{service:?}");
    }
}
