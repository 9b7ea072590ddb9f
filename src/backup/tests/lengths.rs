//! Files that grow and shrink while they are read.

use super::files::{Call, Files};
use super::relation::{PAGE, noise, relation};
use super::world::{How, ROOT, Snap, World, at};
use crate::repo::structure::FileData;

const EXTENT: usize = crate::chunk::EXTENT as usize;
const LEAF: usize = EXTENT * crate::repo::structure::LEAF;

/// Backs one file up, of which `meanwhile` is told before each read, first to last; its stored bytes.
fn copied(
    name: &str,
    bytes: Vec<u8>,
    cdc_for_all: bool,
    mut meanwhile: impl FnMut(&Files, u64) + Send + 'static,
) -> (World, Snap, Vec<u8>) {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    files.file(at(name), bytes);
    files.script(at(name), move |files, call| {
        if let Call::Read(offset, _) = call {
            meanwhile(files, offset);
        }
        Ok(())
    });
    // Whole leaves in their order: one thread.
    let how = How { cdc_for_all, jobs: 1, checksums: false, ..How::default() };
    let snap = world.backup(&files, &how).unwrap();
    let stored = world.read_one(&snap, name).unwrap();
    (world, snap, stored)
}

#[test]
fn a_file_that_grows_ends_at_the_size_that_was_seen_first() {
    let relation = relation(40, 1);
    let (large, small) = (noise(2, 300_000), noise(3, 3000));
    for (name, bytes, cdc) in [
        ("base/5/1", relation.clone(), false),
        ("base/5/1", relation, true),
        ("base/5/large", large, false),
        ("base/5/small", small, false),
    ] {
        let (_, _, stored) = copied(name, bytes.clone(), cdc, move |files, _| files.change(at(name), |b| b.extend(noise(9, 3 * PAGE))));
        assert_eq!(stored, bytes, "{name} {cdc}");
    }
}

#[test]
fn of_a_file_that_shrinks_the_true_length_is_stored() {
    let relation = relation(100, 1);
    let large = noise(2, 900_000);
    for (name, bytes, cdc) in [("base/5/1", relation.clone(), false), ("base/5/1", relation, true), ("base/5/large", large, false)] {
        // In the middle of a page, at a page, at an extent, to nothing.
        for left in [EXTENT + 3 * PAGE + 100, EXTENT + PAGE, EXTENT, 0] {
            let (_, snap, stored) = copied(name, bytes.clone(), cdc, move |files, offset| {
                if offset == EXTENT as u64 || left == 0 {
                    files.change(at(name), |b| b.truncate(left));
                }
            });
            assert_eq!(stored, bytes[..left], "{name} {cdc} {left}");
            assert_eq!(snap.root.bytes, left as u64);
        }
    }
    let (world, snap, stored) = copied("base/5/small", noise(3, 3000), false, |files, _| files.change(at("base/5/small"), Vec::clear));
    assert_eq!(stored, b"");
    assert_eq!(world.stored(&snap, "base/5/small").0.entry.data, FileData::Empty);
}

/// Twenty pages in each of four leaves, zeros between them.
fn leaves() -> Vec<u8> {
    let mut bytes = vec![0; 3 * LEAF + 40 * PAGE];
    for leaf in 0..4 {
        bytes[leaf * LEAF..leaf * LEAF + 20 * PAGE].copy_from_slice(&relation(20, leaf as u64));
    }
    bytes
}

#[test]
fn a_file_of_several_leaves_is_whole() {
    let (world, snap, stored) = copied("base/5/1", leaves(), false, |_, _| {});
    assert_eq!(stored, leaves());
    assert!(matches!(world.stored(&snap, "base/5/1").0.entry.data, FileData::Tree { root, .. } if root.level == 1));
}

/// What was cut and written anew between two leaves must not be joined behind a hole.
#[test]
fn a_file_that_shrinks_and_grows_again_between_two_leaves_is_cut_at_the_short_place() {
    // How much is left, before which read it is cut off, and before which read the file is as long as before.
    let cases = [
        (EXTENT + PAGE + 17, EXTENT, LEAF),
        (EXTENT, EXTENT, LEAF),
        (LEAF + EXTENT, LEAF + EXTENT, 2 * LEAF),
        (LEAF, LEAF, 2 * LEAF),
        (LEAF, LEAF, 3 * LEAF),
        (0, 0, LEAF),
    ];
    for (left, cut, again) in cases {
        let (_, snap, stored) = copied("base/5/1", leaves(), false, move |files, offset| {
            files.change(at("base/5/1"), |bytes| {
                if offset == cut as u64 {
                    bytes.truncate(left);
                } else if offset == again as u64 {
                    bytes.resize(leaves().len(), 0xEE);
                }
            });
        });
        assert_eq!(stored.len(), left, "{left} {cut} {again}");
        assert!(stored == leaves()[..left]);
        assert_eq!(snap.root.bytes, left as u64);
    }
}

#[test]
fn a_stream_that_shrinks_and_grows_again_is_cut_at_the_short_place() {
    let (left, bytes) = (EXTENT + 5000, noise(2, 900_000));
    let mut reads = 0;
    let (_, _, stored) = copied("base/5/large", bytes.clone(), false, move |files, _| {
        reads += 1;
        files.change(at("base/5/large"), |b| if reads == 2 { b.truncate(left) } else { b.resize(900_000, 0xEE) });
    });
    assert!(stored == bytes[..left]);
}

#[test]
fn an_odd_tail_is_stored_as_it_is() {
    for more in [1, 100, PAGE - 1] {
        let mut bytes = relation(33, 1);
        bytes.extend(noise(7, more));
        let (_, snap, stored) = copied("base/5/1", bytes.clone(), false, |_, _| {});
        assert_eq!(stored, bytes);
        assert_eq!(snap.damaged, []);
    }
}
