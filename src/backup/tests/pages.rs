//! Pages that are torn, broken, newer than they may be.

use super::files::{Call, Files};
use super::relation::{OLD, PAGE, noise, page, put_page, relation};
use super::world::{How, ROOT, START, STOP, Snap, World, at};
use crate::backup::damage::{Damage, DamagedPage};
use crate::units::Lsn;

const FILE: &str = "base/5/16384";

/// A page whose second half was not written yet: its checksum is wrong.
fn torn(block: u32) -> Vec<u8> {
    let mut page = page(block, OLD, 99);
    page[PAGE / 2..].copy_from_slice(&noise(7, PAGE / 2));
    page
}

/// A relation of 40 pages with these in it.
fn with(pages: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = relation(40, 1);
    pages.iter().for_each(|(block, page)| put_page(&mut bytes, *block, page));
    bytes
}

fn backup(bytes: Vec<u8>, how: &How<'_>) -> (Vec<u8>, Snap) {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    files.file(at(FILE), bytes);
    let snap = world.backup(&files, how).unwrap();
    (world.read_one(&snap, FILE).unwrap(), snap)
}

fn both_ways() -> [How<'static>; 2] {
    [How::default(), How { cdc_for_all: true, ..How::default() }]
}

fn blocks(snap: &Snap) -> Vec<u32> {
    snap.damaged.iter().map(|page| page.block).collect()
}

#[test]
fn a_torn_page_is_read_again_and_stored_right() {
    // At the second, at the third, at the last look.
    for looks in [1, 2, 5] {
        for how in both_ways() {
            let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
            files.file(at(FILE), with(&[(35, torn(35))]));
            let mut looked = 0;
            files.script(at(FILE), move |files, call| {
                if call == Call::Read(35 * PAGE as u64, PAGE) {
                    looked += 1;
                    if looked == looks {
                        files.change(at(FILE), |bytes| put_page(bytes, 35, &page(35, OLD, 3)));
                    }
                }
                Ok(())
            });
            let snap = world.backup(&files, &how).unwrap();
            assert_eq!((snap.damaged.as_slice(), snap.damaged_pages), (&[][..], 0), "{looks}");
            assert_eq!(world.read_one(&snap, FILE).unwrap(), with(&[(35, page(35, OLD, 3))]));
        }
    }
}

#[test]
fn a_torn_page_that_is_newer_at_the_second_look_is_stored_as_it_is_then() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    files.file(at(FILE), with(&[(3, torn(3))]));
    let mut newer = page(3, START, 4);
    newer[100] ^= 1;
    let expected = with(&[(3, newer.clone())]);
    files.script(at(FILE), move |files, call| {
        if call == Call::Read(3 * PAGE as u64, PAGE) {
            files.change(at(FILE), |bytes| put_page(bytes, 3, &newer));
        }
        Ok(())
    });
    let snap = world.backup(&files, &How::default()).unwrap();
    assert_eq!(snap.damaged_pages, 0);
    assert_eq!(world.read_one(&snap, FILE).unwrap(), expected);
}

#[test]
fn a_page_that_stays_wrong_is_stored_as_it_is_and_reported() {
    for how in both_ways() {
        let bytes = with(&[(2, torn(2)), (39, torn(39))]);
        let (stored, snap) = backup(bytes.clone(), &how);
        assert!(stored == bytes);
        assert_eq!(snap.damaged_pages, 2);
        let [first, second] = snap.damaged.as_slice() else { panic!("{:?}", snap.damaged) };
        assert_eq!((first.path.as_str(), first.fork.as_str(), first.block, second.block), (FILE, "main", 2, 39));
        assert!(first.why.contains("checksum"), "{}", first.why);
    }
}

#[test]
fn damage_names_fork_and_block_within_the_fork() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    let shifted: Vec<u8> = (0..4).flat_map(|i| page(64 + i, OLD, 5)).collect();
    files.file(at("base/5/16384.2"), [&shifted[..2 * PAGE], &torn(66), &shifted[3 * PAGE..]].concat());
    files.file(at("global/1262_fsm"), [page(0, OLD, 6), torn(1)].concat());
    files.file(at("base/5/16384_vm"), torn(0));
    let snap = world.backup(&files, &How { relseg_size: 32, ..How::default() }).unwrap();
    let named: Vec<_> = snap.damaged.iter().map(|p| (p.path.as_str(), p.fork.as_str(), p.block)).collect();
    assert_eq!(named, [("base/5/16384.2", "main", 66), ("base/5/16384_vm", "vm", 0), ("global/1262_fsm", "fsm", 1)]);
}

#[test]
fn a_page_of_another_block_is_damage() {
    let (_, snap) = backup(with(&[(7, page(8, OLD, 1))]), &How::default());
    assert_eq!(blocks(&snap), [7]);
}

#[test]
fn without_checksums_only_impossible_headers_are_damage() {
    let mut header = page(4, OLD, 1);
    header[12..14].copy_from_slice(&9000u16.to_le_bytes());
    let (_, snap) = backup(with(&[(3, torn(3)), (4, header)]), &How { checksums: false, ..How::default() });
    assert_eq!(blocks(&snap), [4]);
}

#[test]
fn a_page_as_new_as_the_start_passes_and_one_beyond_the_stop_is_reported() {
    let wrong = |block, lsn| {
        let mut page = page(block, lsn, 1);
        page[100] ^= 1;
        (block, page)
    };
    let before = Lsn(START.0 - 1);
    let bytes = with(&[wrong(1, START), wrong(2, STOP), (3, page(3, Lsn(STOP.0 + 1), 1)), wrong(4, before), (5, page(5, before, 1))]);
    for how in both_ways() {
        let (stored, snap) = backup(bytes.clone(), &how);
        assert!(stored == bytes);
        assert_eq!(blocks(&snap), [3, 4]);
        assert!(snap.damaged[0].why.contains("0/60000001"), "{}", snap.damaged[0].why);
    }
    // Of a stopped cluster no page is rewritten by WAL.
    let (_, snap) = backup(bytes, &How { online: false, ..How::default() });
    assert_eq!(blocks(&snap), [1, 2, 4]);
}

#[test]
fn a_new_page_is_empty_or_odd() {
    let mut odd = vec![0; PAGE];
    odd[PAGE - 1] = 1;
    let bytes = with(&[(1, vec![0; PAGE]), (2, odd)]);
    let (stored, snap) = backup(bytes.clone(), &How::default());
    assert!(stored == bytes);
    assert_eq!(blocks(&snap), [2]);
    assert!(snap.damaged[0].why.contains("new"), "{}", snap.damaged[0].why);
}

/// Whatever many pages lie beyond the end of WAL, none is lost: files with unnamed damage would pass as whole next time.
#[test]
fn every_page_beyond_the_stop_is_counted() {
    let beyond: Vec<_> = (0..40).map(|block| (block, page(block, Lsn(STOP.0 + 1 + u64::from(block)), 1))).collect();
    let (_, snap) = backup(with(&beyond), &How::default());
    assert_eq!((snap.damaged_pages, snap.damaged.len()), (40, 40));
}

fn damaged(block: u32) -> DamagedPage {
    DamagedPage { path: FILE.into(), fork: "main".into(), block, why: "test".into() }
}

#[test]
fn ten_thousand_damaged_pages_are_named_and_all_are_counted() {
    let damage = Damage::default();
    (0..10_500).rev().for_each(|block| damage.add(damaged(block)));
    let (pages, count) = damage.finish(None);
    assert_eq!((pages.len(), count), (10_000, 10_500));
    assert!(pages.is_sorted_by_key(|page| page.block));
}

#[test]
fn of_pages_beyond_the_stop_ten_thousand_are_named_and_it_is_told_if_there_were_more() {
    for (beyond, newer, named, least, most) in
        [(3, 20_000, 3, 3, 3), (10_000, 5, 10_000, 10_000, 10_000), (10_001, 0, 10_000, 10_001, 10_001)]
    {
        let damage = Damage::default();
        for block in 0..newer {
            damage.claims(STOP, || damaged(block));
        }
        for block in 0..beyond {
            damage.claims(Lsn(STOP.0 + 1 + u64::from(block)), || damaged(block));
        }
        let (pages, count) = damage.finish(Some(STOP));
        assert_eq!(pages.len(), named, "{beyond} {newer}");
        assert!((least..=most).contains(&count), "{beyond} {newer}: {count}");
    }
    let damage = Damage::default();
    (0..10_500).for_each(|block| damage.add(damaged(block)));
    damage.claims(Lsn(u64::MAX), || damaged(7));
    let (pages, count) = damage.finish(Some(STOP));
    assert_eq!((pages.len(), count), (10_000, 10_501));
}

/// A file that is garbage from end to end must not take a third of a second for each of its pages.
#[test]
fn where_plenty_of_a_file_is_wrong_each_further_page_is_read_again_once() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    let mut bytes = vec![0; 1026 * PAGE];
    (0..17).chain([1024, 1025]).for_each(|block| put_page(&mut bytes, block, &torn(block)));
    files.file(at(FILE), bytes);
    let looked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let looks = std::sync::Arc::clone(&looked);
    files.script(at(FILE), move |_, call| {
        if let Call::Read(offset, PAGE) = call {
            looks.lock().unwrap().push(offset / PAGE as u64);
        }
        Ok(())
    });
    let snap = world.backup(&files, &How { jobs: 1, ..How::default() }).unwrap();
    assert_eq!(snap.damaged_pages, 19);
    let times = |block: u64| looked.lock().unwrap().iter().filter(|b| **b == block).count();
    assert_eq!([0, 15, 16, 1024, 1025].map(times), [5, 5, 1, 1, 1]);
}
