//! A whole segment of a relation, made while it is read.

use super::files::{Call, Files};
use super::relation::{OLD, PAGE, page};
use super::world::{How, ROOT, World, at};

const GIB: u64 = 1 << 30;
/// Pages of a segment.
const SEGMENT: u32 = 131_072;
/// Every so many pages there is one that isn't zeros.
const EVERY: u32 = 4099;
/// The page that carries the checksum of its number within the file instead of the fork.
const WRONG: u32 = 3 * EVERY;

/// The page at this index of segment 1, if it isn't zeros.
fn page_at(index: u32) -> Option<Vec<u8>> {
    match index {
        WRONG => Some(page(index, OLD, u64::from(index))),
        _ if index.is_multiple_of(EVERY) || index == SEGMENT - 1 => Some(page(SEGMENT + index, OLD, u64::from(index))),
        _ => None,
    }
}

fn make(offset: u64, buffer: &mut [u8]) {
    assert!(offset.is_multiple_of(PAGE as u64));
    buffer.fill(0);
    for (i, to) in buffer.chunks_mut(PAGE).enumerate() {
        if let Some(page) = page_at((offset / PAGE as u64) as u32 + i as u32) {
            to.copy_from_slice(&page[..to.len()]);
        }
    }
}

#[test]
fn a_segment_of_one_gib_is_read_in_extents_and_checked_with_the_blocks_of_its_fork() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    files.made(at("base/5/16384.1"), GIB, make);
    files.script(at("base/5/16384.1"), |_, call| {
        assert!(!matches!(call, Call::Read(_, len) if len > crate::chunk::EXTENT as usize));
        Ok(())
    });
    let snap = world.backup(&files, &How::default()).unwrap();
    assert_eq!(snap.read, GIB);
    let named: Vec<_> = snap.damaged.iter().map(|p| (p.path.as_str(), p.fork.as_str(), p.block)).collect();
    assert_eq!(named, [("base/5/16384.1", "main", SEGMENT + WRONG)]);
    let mut found = Vec::new();
    let len = world.scan_one(&snap, "base/5/16384.1", &mut |offset, bytes| {
        let mut expected = vec![0; bytes.len()];
        make(offset, &mut expected);
        assert!(bytes == expected, "{offset}");
        found.push(offset);
    });
    assert_eq!(len, GIB);
    let extent = u64::from(crate::chunk::EXTENT);
    let mut expected: Vec<u64> =
        (0..SEGMENT).filter(|i| page_at(*i).is_some()).map(|i| u64::from(i) * PAGE as u64 / extent * extent).collect();
    expected.dedup();
    assert_eq!(found, expected);
}
