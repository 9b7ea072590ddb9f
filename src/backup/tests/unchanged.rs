//! Which files are taken from the parent without being opened.

use std::collections::HashSet;

use super::files::{Files, LONG_AGO};
use super::relation::{noise, page, put_page, relation};
use super::world::{How, ROOT, Snap, World, at};
use crate::backup::source::Stat;
use crate::repo::structure::Instance;
use crate::units::Timestamp;

/// One of each way of copying.
const FILES: [&str; 4] = ["base/5/16384", "base/5/16385", "base/5/large", "base/5/small"];

fn cluster() -> Files {
    let files = Files::cluster(ROOT.as_ref());
    files.file(at(FILES[0]), relation(70, 1));
    files.file(at(FILES[1]), vec![0; 20 * 8192]);
    files.file(at(FILES[2]), noise(2, 300_000));
    files.file(at(FILES[3]), noise(3, 3000));
    files
}

/// Changes all bytes, and nothing that `stat` says.
fn change_secretly(files: &Files) {
    files.change(at(FILES[0]), |b| b.copy_from_slice(&relation(70, 11)));
    files.change(at(FILES[1]), |b| put_page(b, 3, &page(3, super::relation::OLD, 1)));
    files.change(at(FILES[2]), |b| b.copy_from_slice(&noise(12, 300_000)));
    files.change(at(FILES[3]), |b| b.copy_from_slice(&noise(13, 3000)));
}

/// Takes the second backup; for each file, whether it was read.
fn second(world: &World, files: &Files, how: &How<'_>, before: &[Vec<u8>]) -> (Vec<bool>, Snap) {
    files.take_opened();
    let snap = world.backup(files, how).unwrap();
    let opened = files.take_opened();
    let stored = world.read(&snap);
    let read = FILES.iter().zip(before).map(|(name, before)| {
        let read = opened.contains(&at(name));
        let expected = if read { files.bytes(at(name)) } else { before.clone() };
        assert!(stored[std::path::Path::new(name)] == expected, "{name}");
        read
    });
    (read.collect(), snap)
}

/// Changes a tree and the way in which it is backed up.
type Change = fn(&Files, &mut How<'_>);

fn touch_all(files: &Files, change: fn(&mut Stat)) {
    FILES.iter().for_each(|name| files.touch(at(name), change));
}

#[test]
fn files_are_inherited_if_all_that_stat_says_is_the_same_and_old_enough() {
    let second_of = |ns: i64| Timestamp(LONG_AGO / 1000 + ns / 1000);
    assert_eq!(second_of(2_000_000_000).0 - second_of(0).0, 2_000_000);
    let cases: [(&str, bool, Change); 13] = [
        ("nothing changed", false, |_, _| {}),
        ("mode and owner changed", false, |f, _| touch_all(f, |s| (s.mode, s.uid, s.gid) = (0o640, 1, 2))),
        ("mtime is newer", true, |f, _| touch_all(f, |s| s.mtime += 1)),
        ("mtime is older", true, |f, _| touch_all(f, |s| s.mtime -= 1)),
        ("ctime", true, |f, _| touch_all(f, |s| s.ctime += 1)),
        ("inode", true, |f, _| touch_all(f, |s| s.inode += 100)),
        ("another machine", true, |_, how| how.instance = Instance { machine: [2; 16], ..how.instance }),
        ("another data directory", true, |_, how| how.instance = Instance { inode: 9, ..how.instance }),
        ("another file system", true, |_, how| how.instance = Instance { device: 9, ..how.instance }),
        ("2 s before the parent began", true, |_, how| how.parent_began = Timestamp(LONG_AGO / 1000 + 2_000_000)),
        ("more than 2 s before it", false, |_, how| how.parent_began = Timestamp(LONG_AGO / 1000 + 2_000_001)),
        ("asked to verify", true, |_, how| how.proves_unchanged = false),
        ("damaged then", true, |_, how| how.damaged_then = FILES.iter().map(|f| (*f).to_owned()).collect()),
    ];
    for (what, expected, change) in cases {
        let (world, files) = (World::new(), cluster());
        let before: Vec<Vec<u8>> = FILES.iter().map(|f| files.bytes(at(f))).collect();
        let first = world.backup(&files, &How::default()).unwrap();
        change_secretly(&files);
        let mut how = How::after(&first);
        change(&files, &mut how);
        let (read, snap) = second(&world, &files, &how, &before);
        assert_eq!(read, [expected; 4], "{what}");
        assert_eq!(snap.read > 0, expected, "{what}");
        if !expected {
            assert!(world.new_content(&snap).iter().all(|row| row.plain_len() < 2000), "{what}");
        }
    }
}

#[test]
fn a_file_of_another_size_is_read() {
    for longer in [true, false] {
        let (world, files) = (World::new(), cluster());
        let before: Vec<Vec<u8>> = FILES.iter().map(|f| files.bytes(at(f))).collect();
        let first = world.backup(&files, &How::default()).unwrap();
        for name in FILES {
            files.change(at(name), |b| b.resize(if longer { b.len() + 100 } else { b.len() - 100 }, 1));
        }
        assert_eq!(second(&world, &files, &How::after(&first), &before).0, [true; 4]);
    }
}

/// What was read was shorter or longer than `stat` had said: the parent has not that file.
#[test]
fn a_file_that_shrank_while_the_parent_was_taken_is_read() {
    let (world, files) = (World::new(), cluster());
    let whole = files.bytes(at(FILES[0]));
    let mut cut = false;
    files.script(at(FILES[0]), move |files, call| {
        if matches!(call, super::files::Call::Read(..)) && !std::mem::replace(&mut cut, true) {
            files.change(at(FILES[0]), |b| b.truncate(8192));
        }
        Ok(())
    });
    let first = world.backup(&files, &How::default()).unwrap();
    assert_eq!(world.read_one(&first, FILES[0]).unwrap(), whole[..8192]);
    // As if a clock had stood still.
    files.change(at(FILES[0]), |b| b.clone_from(&whole));
    let snap = world.backup(&files, &How::after(&first)).unwrap();
    assert!(world.read_one(&snap, FILES[0]).unwrap() == whole);
}

#[test]
fn only_the_file_that_was_damaged_is_read_again() {
    let (world, files) = (World::new(), cluster());
    let before: Vec<Vec<u8>> = FILES.iter().map(|f| files.bytes(at(f))).collect();
    let first = world.backup(&files, &How::default()).unwrap();
    let how = How { damaged_then: HashSet::from([FILES[0].to_owned()]), ..How::after(&first) };
    assert_eq!(second(&world, &files, &how, &before).0, [true, false, false, false]);
}

#[test]
fn what_lies_at_a_damaged_place_is_read_and_stored_anew() {
    let (world, files) = (World::new(), cluster());
    let first = world.backup(&files, &How::default()).unwrap();
    let (_, chunks) = world.stored(&first, FILES[0]);
    let joint = world.stored(&first, FILES[3]).0.joint[0].place;
    let how = How { damaged_places: HashSet::from([chunks[1].1.place, joint]), ..How::after(&first) };
    files.take_opened();
    let snap = world.backup(&files, &how).unwrap();
    let opened = files.take_opened();
    assert!(opened.contains(&at(FILES[0])) && opened.contains(&at(FILES[3])), "{opened:?}");
    let (_, again) = world.stored(&snap, FILES[0]);
    assert_eq!(again[0], chunks[0], "the other extent lies where it lay");
    assert!(again[1].1.id == chunks[1].1.id && again[1].1.place != chunks[1].1.place);
    assert_ne!(world.stored(&snap, FILES[3]).0.joint[0].place, joint);
    for (path, bytes) in world.read(&snap) {
        assert!(bytes == files.bytes(at(path.to_str().unwrap())));
    }
}

#[test]
fn a_file_that_is_new_beside_inherited_ones_is_read_alone() {
    let (world, files) = (World::new(), cluster());
    let first = world.backup(&files, &How::default()).unwrap();
    files.file(at("base/5/16386"), relation(2, 6));
    files.remove(at(FILES[2]));
    files.take_opened();
    let snap = world.backup(&files, &How::after(&first)).unwrap();
    assert_eq!(files.take_opened(), [at("base/5/16386")]);
    let stored = world.read(&snap);
    assert_eq!(stored.len(), 4);
    for (path, bytes) in stored {
        assert!(bytes == files.bytes(at(path.to_str().unwrap())));
    }
}
