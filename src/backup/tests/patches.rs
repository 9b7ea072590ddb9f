//! What of a changed relation is stored: changed extents alone, as patches of whole chunks.

use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::files::Files;
use super::relation::{OLD, PAGE, noise, page, put_page, relation};
use super::world::{How, ROOT, Snap, World, at};
use crate::codec::FrameKind;
use crate::repo::pack::{Row, pack_name};
use crate::store::Pace;
use crate::store::observed::Observed;

pub const FILE: &str = "base/5/16384";
const EXTENT: usize = crate::chunk::EXTENT as usize;

/// Pages of an extent.
pub const PAGES: u32 = 32;

pub fn cluster(blocks: u32) -> Files {
    let files = Files::cluster(ROOT.as_ref());
    files.file(at(FILE), relation(blocks, 1));
    files
}

pub fn change(files: &Files, blocks: impl Iterator<Item = u32>, seed: u64) {
    files.write(at(FILE), |bytes| blocks.for_each(|block| put_page(bytes, block, &page(block, OLD, seed << 40 | u64::from(block)))));
}

/// The rows of extents that a backup stored.
pub fn extents(world: &World, snap: &Snap) -> Vec<Row> {
    world.new_content(snap).into_iter().filter(|row| row.plain_len() as usize == EXTENT).collect()
}

pub fn is_patch(row: &Row) -> bool {
    row.kind == u8::from(FrameKind::Patch)
}

/// Takes the next backup and reads it back.
pub fn next(world: &World, files: &Files, how: &How<'_>) -> Snap {
    let snap = world.backup(files, how).unwrap();
    assert!(world.read_one(&snap, FILE).unwrap() == files.bytes(at(FILE)));
    assert_eq!(snap.damaged, []);
    snap
}

#[test]
fn extents_of_zeros_store_nothing() {
    let (world, files) = (World::new(), cluster(4 * PAGES));
    files.change(at(FILE), |bytes| bytes[EXTENT..3 * EXTENT].fill(0));
    files.file(at("base/5/16385"), vec![0; 3 * EXTENT]);
    let snap = next(&world, &files, &How::default());
    assert_eq!(extents(&world, &snap).len(), 2);
    assert_eq!(world.stored(&snap, FILE).1.iter().map(|(at, _)| *at as usize / EXTENT).collect::<Vec<_>>(), [0, 3]);
    assert_eq!(world.read_one(&snap, "base/5/16385").unwrap(), vec![0; 3 * EXTENT]);
    // One that is filled, one that is emptied.
    files.write(at(FILE), |bytes| {
        put_page(bytes, PAGES, &page(PAGES, OLD, 5));
        bytes[3 * EXTENT..].fill(0);
    });
    let after = next(&world, &files, &How::after(&snap));
    assert_eq!(extents(&world, &after).len(), 1);
}

#[test]
fn the_same_extents_store_nothing_and_a_changed_page_is_a_patch() {
    let (world, files) = (World::new(), cluster(4 * PAGES));
    let first = next(&world, &files, &How::default());
    files.write(at(FILE), |_| {});
    let touched = next(&world, &files, &How::after(&first));
    assert_eq!(touched.read, 4 * EXTENT as u64);
    assert!(extents(&world, &touched).is_empty());

    change(&files, [PAGES + 3].into_iter(), 7);
    let changed = next(&world, &files, &How::after(&touched));
    let rows = extents(&world, &changed);
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    let (_, before) = world.stored(&first, FILE);
    assert!(is_patch(row));
    assert_eq!(row.references.iter().map(|r| (r.id.short(), r.place)).collect::<Vec<_>>(), [(before[1].1.id, before[1].1.place)]);
    assert!((row.len as usize) < 2 * PAGE, "{}", row.len);
    let (_, after) = world.stored(&changed, FILE);
    assert_eq!([0, 2, 3].map(|i| after[i]), [0, 2, 3].map(|i| before[i]));
    // The older one is still whole.
    assert!(world.read_one(&first, FILE).unwrap() == relation(4 * PAGES, 1));
}

#[test]
fn old_pages_are_fetched_together_where_answers_are_late() {
    // A leaf, in each extent of which a page changes; every second one has been a patch before.
    let blocks = 32 * PAGES;
    let store = Arc::new(Observed::new(Pace::of_a_service(64)));
    let (world, files) = (World::asking(Arc::clone(&store) as _), cluster(blocks));
    let first = next(&world, &files, &How::default());
    change(&files, (0..blocks).step_by(2 * PAGES as usize), 7);
    let second = next(&world, &files, &How::after(&first));
    change(&files, (3..blocks).step_by(PAGES as usize), 8);
    // An extent is of 256 KiB, as tables may be, and each thread would ask for one at a time. One read brings at most three.
    store.hold(400 << 10, 10);
    let third = world.backup(&files, &How::after(&second)).unwrap();
    assert!(store.seen().at_once >= 10, "{:?}", store.seen());
    assert!(world.read_one(&third, FILE).unwrap() == files.bytes(at(FILE)));
    let rows = extents(&world, &third);
    assert!(rows.len() == 32 && rows.iter().all(is_patch), "{rows:?}");
}

#[test]
fn patches_of_patched_extents_refer_to_the_same_whole_chunk() {
    let (world, files) = (World::new(), cluster(PAGES));
    let mut snap = next(&world, &files, &How::default());
    let whole = world.stored(&snap, FILE).1[0].1;
    for round in 1..=4 {
        change(&files, [round].into_iter(), 7);
        snap = next(&world, &files, &How::after(&snap));
        let row = world.row(world.stored(&snap, FILE).1[0].1.place);
        assert!(is_patch(&row), "{round}");
        assert_eq!(row.references.iter().map(|r| r.place).collect::<Vec<_>>(), [whole.place]);
    }
    // What came back is found where it was.
    files.write(at(FILE), |bytes| bytes.copy_from_slice(&relation(PAGES, 1)));
    snap = next(&world, &files, &How::after(&snap));
    assert!(extents(&world, &snap).is_empty());
    assert_eq!(world.stored(&snap, FILE).1[0].1, whole);
}

#[test]
fn a_patch_larger_than_a_third_is_stored_whole_and_is_the_next_reference() {
    let (world, files) = (World::new(), cluster(PAGES));
    let first = next(&world, &files, &How::default());
    change(&files, 0..10, 7);
    let patched = next(&world, &files, &How::after(&first));
    assert!(is_patch(&extents(&world, &patched)[0]));
    change(&files, 10..20, 7);
    let whole = next(&world, &files, &How::after(&patched));
    let rows = extents(&world, &whole);
    assert!(!is_patch(&rows[0]) && rows[0].references.is_empty());
    change(&files, 20..21, 7);
    let again = next(&world, &files, &How::after(&whole));
    let row = &extents(&world, &again)[0];
    assert!(is_patch(row));
    assert_eq!(row.references[0].place, world.stored(&whole, FILE).1[0].1.place);
}

#[test]
fn without_a_reference_that_can_be_relied_on_extents_are_stored_whole() {
    let (world, files) = (World::new(), cluster(PAGES));
    let first = next(&world, &files, &How::default());
    let reference = world.stored(&first, FILE).1[0].1.place;
    change(&files, 0..1, 7);
    let patched = next(&world, &files, &How::after(&first));
    let patch = world.stored(&patched, FILE).1[0].1.place;
    assert!(is_patch(&world.row(patch)));

    // The same bytes: the patch can't be relied on if its reference can't.
    let how = How { damaged_places: HashSet::from([reference]), ..How::after(&patched) };
    let anew = next(&world, &files, &how);
    assert!(!is_patch(&extents(&world, &anew)[0]));

    // Other bytes.
    change(&files, 1..2, 8);
    for how in [
        How { damaged_places: HashSet::from([reference]), ..How::after(&patched) },
        How { damaged_places: HashSet::from([patch]), ..How::after(&patched) },
    ] {
        files.write(at(FILE), |bytes| bytes[PAGE - 1] ^= 1);
        files.write(at(FILE), |bytes| {
            let sum = crate::pg::checksum::page_checksum(&bytes[..PAGE], 0).unwrap();
            bytes[8..10].copy_from_slice(&sum.to_le_bytes());
        });
        let snap = next(&world, &files, &how);
        assert!(extents(&world, &snap).iter().all(|row| !is_patch(row)));
    }
}

#[test]
fn a_host_that_can_not_read_stores_whole_extents() {
    let (world, files) = (World::new(), cluster(PAGES));
    let first = next(&world, &files, &How::default());
    change(&files, 0..1, 7);
    let snap = next(&world, &files, &How { may_read: false, ..How::after(&first) });
    assert!(extents(&world, &snap).iter().all(|row| !is_patch(row)));
    assert_eq!(extents(&world, &snap).len(), 1);
}

#[test]
fn a_reference_that_turns_out_to_be_damaged_is_said_and_done_without() {
    let (world, files) = (World::new(), cluster(PAGES));
    let first = next(&world, &files, &How::default());
    let reference = world.stored(&first, FILE).1[0].1.place;
    let (pack, offset) = (first.own.iter().find(|p| p.id == reference.pack).unwrap(), world.row(reference).offset);
    assert!(world.backend.tamper(&pack_name(pack.session, pack).unwrap(), |bytes| bytes[offset as usize + 100] ^= 1));
    change(&files, 0..1, 7);
    let snap = next(&world, &files, &How::after(&first));
    assert!(!is_patch(&extents(&world, &snap)[0]));
    assert!(snap.warnings.iter().any(|w| w.contains(FILE)), "{:?}", snap.warnings);
}

#[test]
fn a_relation_after_one_cut_by_content_is_stored_and_the_other_way_round() {
    let (world, files) = (World::new(), cluster(2 * PAGES));
    let by_content = How { cdc_for_all: true, ..How::default() };
    let first = next(&world, &files, &by_content);
    change(&files, 1..2, 7);
    let second = next(&world, &files, &How::after(&first));
    change(&files, 40..41, 8);
    next(&world, &files, &How { parent: Some(&second), ..by_content });
}

/// Something that happens to a cluster between two backups.
#[derive(Clone, Debug)]
pub enum Happens {
    Page(u32, u64),
    Extend(u32),
    Truncate(u32),
    Zero(u32),
    Small(u8),
    Large(u8),
    Vanish(u8),
}

pub fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0u32..100, 0u64..3).prop_map(|(block, seed)| Happens::Page(block, seed)),
        1 => (1u32..40).prop_map(Happens::Extend),
        1 => (1u32..40).prop_map(Happens::Truncate),
        1 => (0u32..4).prop_map(Happens::Zero),
        1 => (0u8..4).prop_map(Happens::Small),
        1 => (0u8..2).prop_map(Happens::Large),
        1 => (0u8..4).prop_map(Happens::Vanish),
    ]
}

pub fn happen(files: &Files, what: &Happens, round: u64) {
    let small = |n: u8| at(&format!("base/5/small{n}"));
    match *what {
        Happens::Page(block, seed) => files.write(at(FILE), |bytes| {
            if (block as usize + 1) * PAGE <= bytes.len() {
                put_page(bytes, block, &page(block, OLD, 1000 + seed));
            }
        }),
        Happens::Extend(blocks) => files.write(at(FILE), |bytes| {
            let end = (bytes.len() / PAGE) as u32;
            (end..end + blocks).for_each(|block| bytes.extend(page(block, OLD, round)));
        }),
        Happens::Truncate(blocks) => files.write(at(FILE), |bytes| bytes.truncate(bytes.len().saturating_sub(blocks as usize * PAGE))),
        Happens::Zero(extent) => files.write(at(FILE), |bytes| {
            let len = bytes.len();
            bytes[(extent as usize * EXTENT).min(len)..((extent as usize + 1) * EXTENT).min(len)].fill(0);
        }),
        Happens::Small(n) => files.file(small(n), noise(round, 100 * usize::from(n))),
        Happens::Large(n) => files.file(at(&format!("base/5/large{n}")), noise(u64::from(n), 200_000 + round as usize)),
        Happens::Vanish(n) => files.remove(small(n)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever happens between backups, each of them gives back what was there when it was taken.
    #[test]
    fn every_backup_of_a_row_gives_back_what_was_there(rounds in prop::collection::vec(prop::collection::vec(happens(), 0..5), 1..5)) {
        let (world, files) = (World::new(), cluster(70));
        let mut snaps: Vec<(Snap, std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>)> = Vec::new();
        for (round, all) in rounds.iter().enumerate() {
            all.iter().for_each(|what| happen(&files, what, round as u64));
            let how = snaps.last().map_or_else(How::default, |(snap, _)| How::after(snap));
            let snap = world.backup(&files, &how).unwrap();
            let stored = world.read(&snap);
            prop_assert_eq!(&stored.keys().map(|p| at(p.to_str().unwrap())).collect::<Vec<_>>(), &files.all_files());
            for (path, bytes) in &stored {
                prop_assert!(*bytes == files.bytes(at(path.to_str().unwrap())), "{}", path.display());
            }
            snaps.push((snap, stored));
        }
        for (snap, stored) in &snaps {
            prop_assert!(world.read(snap) == *stored);
        }
    }
}
