//! Small files, joined.

use super::files::{Call, Files};
use super::relation::noise;
use super::world::{How, ROOT, Snap, World, at};
use crate::repo::structure::FileData;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/pg/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn cluster() -> Files {
    let files = Files::cluster(ROOT.as_ref());
    for i in 0..40 {
        files.file(at(&format!("pg_xact/{i:04X}")), noise(i, 1000 + i as usize));
    }
    files.file(at("pg_xact/empty"), b"");
    files
}

fn assert_whole(world: &World, files: &Files, snap: &Snap) {
    let stored = world.read(snap);
    assert_eq!(stored.keys().map(|p| at(p.to_str().unwrap())).collect::<Vec<_>>(), files.all_files());
    for (path, bytes) in stored {
        assert_eq!(bytes, files.bytes(at(path.to_str().unwrap())), "{}", path.display());
    }
}

#[test]
fn small_files_lie_in_joint_chunks_that_confirm_nothing_to_others() {
    let (world, files) = (World::new(), cluster());
    let snap = world.backup(&files, &How::default()).unwrap();
    assert_whole(&world, &files, &snap);
    let (file, _) = world.stored(&snap, "pg_xact/0003");
    assert!(matches!(file.entry.data, FileData::Joint { .. }));
    assert_eq!(world.stored(&snap, "pg_xact/empty").0.entry.data, FileData::Empty);
    let joint = world.chunk(&file.joint[0]);
    assert_eq!(joint[..16], blake3::keyed_hash(&How::default().secret, &joint[16..]).as_bytes()[..16]);
    // Another host, with another secret, names the same bytes otherwise.
    let other = world.backup(&files, &How { secret: [6; 32], ..How::default() }).unwrap();
    let theirs = world.stored(&other, "pg_xact/0003").0;
    assert_ne!(theirs.joint[0].id, file.joint[0].id);
    assert_eq!(world.chunk(&theirs.joint[0])[16..], joint[16..]);
    assert_whole(&world, &files, &other);
}

#[test]
fn unchanged_joint_files_are_inherited_without_an_open() {
    let (world, files) = (World::new(), cluster());
    let first = world.backup(&files, &How::default()).unwrap();
    files.take_opened();
    let snap = world.backup(&files, &How::after(&first)).unwrap();
    assert_eq!(files.take_opened(), [] as [std::path::PathBuf; 0]);
    assert_eq!(snap.root.digest, first.root.digest);
    assert_whole(&world, &files, &snap);
}

#[test]
fn if_one_changes_all_of_its_part_are_stored_together_again() {
    let (world, files) = (World::new(), cluster());
    let first = world.backup(&files, &How::default()).unwrap();
    let before = world.stored(&first, "pg_xact/0003").0;
    files.write(at("pg_xact/0003"), |bytes| bytes[0] ^= 1);
    files.take_opened();
    let snap = world.backup(&files, &How::after(&first)).unwrap();
    assert_whole(&world, &files, &snap);
    let opened = files.take_opened();
    let after = world.stored(&snap, "pg_xact/0003").0;
    assert_ne!(after.joint[0].id, before.joint[0].id);
    for i in 0..40 {
        let name = format!("pg_xact/{i:04X}");
        let (then, now) = (world.stored(&first, &name).0, world.stored(&snap, &name).0);
        let same_part = then.joint[0].id == before.joint[0].id;
        assert_eq!(opened.contains(&at(&name)), same_part, "{name}");
        assert_eq!(now.joint[0].id, if same_part { after.joint[0].id } else { then.joint[0].id }, "{name}");
    }
    assert!(opened.len() > 5);
    // What isn't inherited after all counts once.
    let all: usize = files.all_files().iter().map(|path| files.bytes(path).len()).sum();
    assert_eq!((snap.advanced, first.advanced), (all as u64, all as u64));
    // One that comes, one that goes.
    files.remove(at("pg_xact/0004"));
    files.file(at("pg_xact/0003a"), b"new");
    let snap = world.backup(&files, &How::after(&snap)).unwrap();
    assert_whole(&world, &files, &snap);
}

/// A snapshot that takes nothing but joint chunks from its parent names the pack in which they lie.
#[test]
fn inherited_joint_chunks_are_needed() {
    let (world, files) = (World::new(), Files::default());
    for (folder, changed) in [("", "a"), ("base", "a"), ("base/5", "16384")] {
        files.folder(at(folder));
        files.file(at(folder).join(changed), super::relation::relation(2, 1));
    }
    files.file(at("base/5/small"), b"unchanged".to_vec());
    let first = world.backup(&files, &How::default()).unwrap();
    for changed in ["a", "base/a", "base/5/16384"] {
        files.write(at(changed), |bytes| bytes.clone_from(&super::relation::relation(2, 2)));
    }
    files.take_opened();
    let snap = world.backup(&files, &How::after(&first)).unwrap();
    assert!(!files.take_opened().contains(&at("base/5/small")));
    let joint = world.stored(&snap, "base/5/small").0.joint[0].place.pack;
    assert!(first.own.iter().any(|pack| pack.id == joint));
    let only_joint = u64::from(world.row(world.stored(&snap, "base/5/small").0.joint[0].place).len);
    assert_eq!(snap.needs.0[&joint], only_joint);
    assert_whole(&world, &files, &snap);
}

#[test]
fn more_small_files_than_one_chunk_holds_lie_in_several() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    for i in 0..60 {
        files.file(at(&format!("pg_xact/{i:04X}")), noise(i, 65_000));
    }
    // The largest that is small, and the smallest that isn't.
    files.file(at("pg_xact/a"), noise(70, 65_535));
    files.file(at("pg_xact/b"), noise(71, 65_536));
    let snap = world.backup(&files, &How::default()).unwrap();
    assert_whole(&world, &files, &snap);
    assert!(["0000", "0014", "0028"].iter().any(|i| world.stored(&snap, &format!("pg_xact/{i}")).0.joint.len() > 1));
    assert!(matches!(world.stored(&snap, "pg_xact/a").0.entry.data, FileData::Joint { .. }));
    assert!(matches!(world.stored(&snap, "pg_xact/b").0.entry.data, FileData::Single { .. } | FileData::Tree { .. }));
    let again = world.backup(&files, &How::after(&snap)).unwrap();
    assert_eq!(again.root.digest, snap.root.digest);
    assert_whole(&world, &files, &again);
}

#[test]
fn a_filenode_map_is_read_again_until_it_is_whole() {
    let good = fixture("15/pg_filenode.map");
    let mut torn = good.clone();
    torn[20] ^= 1;
    for place in ["global/pg_filenode.map", "base/5/pg_filenode.map"] {
        let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
        files.file(at(place), torn.clone());
        let (mut reads, right) = (0, good.clone());
        files.script(at(place), move |files, call| {
            if matches!(call, Call::Read(..)) {
                reads += 1;
                if reads == 3 {
                    files.change(at(place), |bytes| bytes.clone_from(&right));
                }
            }
            Ok(())
        });
        let snap = world.backup(&files, &How::default()).unwrap();
        assert_eq!(world.read_one(&snap, place).unwrap(), good);
        assert_eq!(snap.damaged_pages, 0);
    }
}

#[test]
fn a_filenode_map_that_stays_torn_is_damage() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    let mut torn = fixture("18/pg_filenode.map");
    torn[20] ^= 1;
    files.file(at("global/pg_filenode.map"), torn.clone());
    let snap = world.backup(&files, &How::default()).unwrap();
    assert_eq!(world.read_one(&snap, "global/pg_filenode.map").unwrap(), torn);
    assert_eq!(snap.damaged_pages, 1);
    assert_eq!(snap.damaged[0].path, "global/pg_filenode.map");
}
