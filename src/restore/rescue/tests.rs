//! Folders of WAL as servers leave them, against archives that have more, less or something else.

use std::collections::BTreeMap;

use super::*;
use crate::pg::wal::build::WalBuilder;
use crate::units::{Class, Explain, Hash32, Timestamp};

const SYSTEM: u64 = 77;

fn id(bytes: &[u8]) -> Hash32 {
    Hash32(*blake3::hash(bytes).as_bytes())
}

/// The segments 5, 6, ... of 1 MiB: `whole` full ones, and one in which the server was.
fn wal(whole: usize) -> Vec<Vec<u8>> {
    let mut build = WalBuilder::new();
    for _ in 0..whole {
        build.commit(700, 1);
        build.fill_to(0);
    }
    build.commit(701, 2);
    build.segments()
}

/// The same on another timeline: in a header's timeline a segment may be older than its name.
fn name(timeline: u32, no: usize) -> String {
    format!("{timeline:08X}00000000{no:08X}")
}

struct Scene {
    scratch: tempfile::TempDir,
    archive: BTreeMap<String, Vec<u8>>,
    reachable: bool,
}

impl Scene {
    fn new() -> Scene {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("data/pg_wal/archive_status")).unwrap();
        Scene { scratch, archive: BTreeMap::new(), reachable: true }
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.data().join("pg_wal").join(name), bytes).unwrap();
    }

    fn try_sort(&self) -> Result<WalRescue, RestoreError> {
        let files = self.archive.iter().map(|(name, bytes)| (name.parse().unwrap(), id(bytes))).collect();
        let mut fetch = |name: SegmentName| {
            if self.reachable {
                Ok(self.archive.get(&name.to_string()).cloned())
            } else {
                Err(crate::restore::target::SearchError::new(RestoreError::Internal("unreachable")))
            }
        };
        sort(&LocalWal::look(&self.data())?, SYSTEM, &Archived { files }, &id, &mut fetch)
    }

    /// Pushed, saved, tail.
    fn sorted(&self) -> (Vec<String>, Vec<String>, Option<String>) {
        let rescue = self.try_sort().unwrap();
        let names = rescue.save.iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        (rescue.push.iter().map(|s| s.name.to_string()).collect(), names, rescue.tail.map(|tail| tail.name.to_string()))
    }
}

fn strings(names: &[String]) -> Vec<String> {
    names.to_vec()
}

#[test]
fn whole_segments_are_pushed_and_the_last_is_the_tail() {
    let mut scene = Scene::new();
    let wal = wal(3);
    for (at, bytes) in wal.iter().enumerate() {
        scene.put(&name(1, 5 + at), bytes);
    }
    // Recycled under a later name, preallocated, empty, and what is no WAL at all.
    scene.put(&name(1, 9), &wal[0]);
    scene.put(&name(1, 10), &vec![0; 1 << 20]);
    scene.put(&name(1, 11), b"");
    scene.put("xlogtemp.17", &wal[0]);
    scene.put(&format!("{}.00000028.backup", name(1, 5)), b"label");
    std::os::unix::fs::symlink("/etc/passwd", scene.data().join("pg_wal").join(name(1, 12))).unwrap();
    let tail = Some(name(1, 8));
    // An archive that knows nothing of the timeline takes nothing.
    assert_eq!(scene.sorted(), (vec![], strings(&[name(1, 5), name(1, 6), name(1, 7), name(1, 8)]), None));
    scene.archive.insert(name(1, 5), wal[0].clone());
    assert_eq!(scene.sorted(), (vec![name(1, 6), name(1, 7)], vec![], tail.clone()));
    scene.archive.insert(name(1, 6), wal[1].clone());
    scene.archive.insert(name(1, 7), wal[2].clone());
    assert_eq!(scene.sorted(), (vec![], vec![], tail));
    let found = scene.try_sort().unwrap().tail.unwrap();
    assert_eq!((found.facts.commits.unwrap().max_xid, found.size.bytes()), (701, 1 << 20));
    assert!(LocalSegment::read(&found.path, found.name, SYSTEM).is_some() && LocalSegment::read(&found.path, found.name, 1).is_none());
    // Another server went on in it: nothing is lost here.
    let mut longer = WalBuilder::new();
    for _ in 0..3 {
        longer.commit(700, 1);
        longer.fill_to(0);
    }
    longer.commit(701, 2);
    longer.commit(702, 3);
    scene.archive.insert(name(1, 8), longer.segments()[3].clone());
    assert_eq!(scene.sorted(), (vec![], vec![], None));
    // Told not to push.
    scene.archive.retain(|known, _| *known == name(1, 5));
    let mut rescue = scene.try_sort().unwrap();
    rescue.without_push();
    assert_eq!((rescue.push.len(), rescue.save.len(), rescue.tail), (0, 3, None));
}

#[test]
fn wal_that_left_the_archives_line_is_saved_and_never_pushed() {
    let mut scene = Scene::new();
    let (ours, mut theirs) = (wal(3), wal(3));
    for (at, bytes) in ours.iter().enumerate() {
        scene.put(&name(1, 5 + at), bytes);
    }
    scene.archive.insert(name(1, 5), ours[0].clone());
    theirs[1][500_000] ^= 1;
    scene.archive.insert(name(1, 6), theirs[1].clone());
    assert_eq!(scene.sorted(), (vec![], strings(&[name(1, 6), name(1, 7), name(1, 8)]), None));
    // Whether it did can't be told without the archive's bytes.
    scene.reachable = false;
    assert!(matches!(scene.try_sort(), Err(RestoreError::Archive { .. })));
}

#[test]
fn behind_an_unfinished_segment_nothing_is_pushed() {
    let mut scene = Scene::new();
    let mut wal = wal(3);
    wal[1].truncate(600_000);
    wal[1].resize(1 << 20, 0);
    for (at, bytes) in wal.iter().enumerate() {
        scene.put(&name(1, 5 + at), bytes);
    }
    scene.archive.insert(name(1, 5), wal[0].clone());
    assert_eq!(scene.sorted(), (vec![], vec![name(1, 7), name(1, 8)], Some(name(1, 6))));
    // One that is cut short, and one of another cluster, are nobody's to push.
    scene.put(&name(1, 6), &wal[1][..600_000]);
    let mut foreign = wal[2].clone();
    foreign[24] ^= 1;
    scene.put(&name(1, 7), &foreign);
    assert_eq!(scene.sorted(), (vec![], vec![name(1, 6), name(1, 7)], Some(name(1, 8))));
}

#[test]
fn a_timeline_is_the_archives_if_its_history_is() {
    let mut scene = Scene::new();
    let wal = wal(2);
    let history = b"1\t0/500028\tno recovery target specified\n";
    scene.put(&name(1, 5), &wal[0]);
    for (at, bytes) in wal.iter().enumerate() {
        scene.put(&name(2, 5 + at), bytes);
    }
    scene.put("00000002.history", history);
    scene.put(&format!("{}.partial", name(1, 5)), &wal[0]);
    scene.archive.insert(name(1, 5), wal[0].clone());
    let partial = format!("{}.partial", name(1, 5));
    let saved = |names: &[String]| (vec![], names.to_vec(), None);
    let all = strings(&[name(2, 5), name(2, 6), name(2, 7), "00000002.history".into(), partial.clone()]);
    // A copy that was promoted: its line is unknown.
    assert_eq!(scene.sorted(), saved(&all));
    // Or another line has the number.
    scene.archive.insert("00000002.history".into(), b"1\t0/500060\tno recovery target specified\n".to_vec());
    assert_eq!(scene.sorted(), saved(&all));
    assert!(scene.try_sort().unwrap().notes[0].contains("another history"));
    // The archive's own: all is as on the first timeline.
    scene.archive.insert("00000002.history".into(), history.to_vec());
    scene.archive.insert(partial, wal[0].clone());
    assert_eq!(scene.sorted(), (vec![name(2, 5), name(2, 6)], vec![], Some(name(2, 7))));
    // Without its history nothing proves it.
    fs::remove_file(scene.data().join("pg_wal/00000002.history")).unwrap();
    assert_eq!(scene.sorted(), (vec![], vec![name(2, 5), name(2, 6), name(2, 7)], None));
}

#[test]
fn the_end_of_an_older_timeline_is_saved() {
    let mut scene = Scene::new();
    let wal = wal(1);
    let history = b"1\t0/600028\tno recovery target specified\n";
    for (name, bytes) in [(name(1, 5), &wal[0]), (name(1, 6), &wal[1]), (name(2, 6), &wal[1])] {
        scene.put(&name, bytes);
    }
    scene.put("00000002.history", history);
    scene.archive.insert(name(1, 5), wal[0].clone());
    scene.archive.insert("00000002.history".into(), history.to_vec());
    assert_eq!(scene.sorted(), (vec![], vec![name(1, 6)], Some(name(2, 6))));
}

#[test]
fn what_lies_behind_a_link_is_looked_at_and_a_link_to_nowhere_is_refused() {
    let scene = Scene::new();
    let (path, elsewhere) = (scene.data().join("pg_wal"), scene.scratch.path().join("elsewhere"));
    fs::rename(&path, &elsewhere).unwrap();
    assert_eq!(LocalWal::look(&scene.data()).unwrap(), LocalWal::default());
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    scene.put(&name(1, 5), &wal(1)[0]);
    let found = LocalWal::look(&scene.data()).unwrap();
    assert!(found.is_link && found.files.len() == 1 && found.folder == Some(fs::canonicalize(&elsewhere).unwrap()));
    fs::remove_dir_all(&elsewhere).unwrap();
    let error = LocalWal::look(&scene.data()).unwrap_err();
    assert!(matches!(error, RestoreError::LostWal { .. }) && error.class() == Class::Refused && error.cure().is_some());
}

#[test]
fn files_are_saved_once() {
    let scene = Scene::new();
    scene.put("a", b"one");
    scene.put("b", b"two");
    let files: Vec<PathBuf> = ["a", "b"].map(|n| scene.data().join("pg_wal").join(n)).into();
    let now = Timestamp(1_764_000_000_000_000);
    let first = save(&scene.data(), &files, None, None, now).unwrap().unwrap();
    assert_eq!(first, scene.scratch.path().join("data.wal-saved-20251124-160000"));
    assert_eq!(fs::read(first.join("b")).unwrap(), b"two");
    assert_eq!(save(&scene.data(), &files, Some(&first), None, now).unwrap(), None);
    scene.put("b", b"three");
    let second = save(&scene.data(), &files, Some(&first), None, now).unwrap().unwrap();
    assert_eq!(second, scene.scratch.path().join("data.wal-saved-20251124-160000-2"));
    assert_eq!((second.join("a").exists(), fs::read(second.join("b")).unwrap()), (false, b"three".to_vec()));
    assert_eq!(save(&scene.data(), &[], None, None, now).unwrap(), None);
    assert!(save(&scene.data(), &[scene.data().join("absent")], None, None, now).is_err());
}
