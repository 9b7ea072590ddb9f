use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::units::ChunkId;

const SECRET: [u8; 32] = [7; 32];
const ABOUT: About<'_> = About {
    repository: RepositoryId([1; 16]),
    cluster: "shop",
    snapshot: "20261124-133000-7f3a",
    digest: Digest16([2; 16]),
    page_size: 8192,
};

fn written(folder: &Path, values: &[(&[u8], u32, &[u8])]) -> PathBuf {
    let writer = KeptWriter::create(folder, &SECRET).unwrap();
    for (name, number, value) in values {
        writer.put(What::Leaf, name, *number, value);
    }
    writer.finish(&ABOUT).unwrap();
    folder.join("20261124-133000-7f3a.kept")
}

#[test]
fn what_was_put_is_found_under_its_name_number_and_kind() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("kept/x");
    written(&folder, &[(b"base/1/2", 0, b"one"), (b"base/1/2", 1, b"two"), (b"base/1/22", 0, b""), (b"base/1/2", 1, b"two")]);
    let kept = KeptFile::open(&folder, &SECRET, &ABOUT).unwrap().unwrap();
    let get = |name: &[u8], number| kept.get(What::Leaf, name, number);
    assert_eq!(get(b"base/1/2", 0), Lookup::Found(b"one".to_vec()));
    assert_eq!(get(b"base/1/2", 1), Lookup::Found(b"two".to_vec()));
    assert_eq!(get(b"base/1/22", 0), Lookup::Found(Vec::new()));
    assert_eq!(get(b"base/1/2", 2), Lookup::None);
    assert_eq!(kept.get(What::Content, b"base/1/2", 0), Lookup::None);
    assert_eq!(kept.damaged(), 0);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing unfinished is left");
}

#[test]
fn it_is_for_one_snapshot_of_one_repository_and_one_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), &[(b"a", 0, b"one")]);
    fs::copy(&path, dir.path().join("other.kept")).unwrap();
    let others: [(&str, About<'_>); 5] = [
        ("digest", About { digest: Digest16([3; 16]), ..ABOUT }),
        ("cluster", About { cluster: "shop2", ..ABOUT }),
        ("repository", About { repository: RepositoryId([9; 16]), ..ABOUT }),
        ("page size", About { page_size: 4096, ..ABOUT }),
        ("snapshot", About { snapshot: "other", ..ABOUT }),
    ];
    for (what, about) in others {
        let e = KeptFile::open(dir.path(), &SECRET, &about).err().unwrap_or_else(|| panic!("another {what} was taken"));
        assert_eq!(e.kind(), std::io::ErrorKind::InvalidData);
    }
    assert!(KeptFile::open(dir.path(), &[8; 32], &ABOUT).is_err(), "another host's");
    assert!(KeptFile::open(dir.path(), &SECRET, &About { snapshot: "none", ..ABOUT }).unwrap().is_none());
    assert!(KeptFile::open(dir.path(), &SECRET, &ABOUT).unwrap().is_some());
}

#[test]
fn one_that_is_not_finished_leaves_nothing_and_others_go_when_one_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), &[]);
    let unfinished = KeptWriter::create(dir.path(), &SECRET).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    drop(unfinished);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let running = KeptWriter::create(dir.path(), &SECRET).unwrap();
    remove_others(dir.path(), ABOUT.snapshot);
    let other = About { snapshot: "20261124-140000-bbbb", ..ABOUT };
    let done = running.finish(&other).unwrap();
    remove_others(dir.path(), ABOUT.snapshot);
    assert!(KeptFile::open(dir.path(), &SECRET, &other).unwrap().is_some(), "another backup's that runs is left alone");
    drop(done);
    for name in ["20261123-133000-aaaa.kept", "0123.kept.new", "somebody-elses"] {
        fs::write(dir.path().join(name), b"x").unwrap();
    }
    remove_others(dir.path(), ABOUT.snapshot);
    let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["20261124-133000-7f3a.kept", "somebody-elses"]);
}

/// Every single flipped bit is found: by the index when the file is opened, or by a value's checksum when it is asked for.
#[test]
fn no_flipped_bit_and_no_cut_goes_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let values: [(&[u8], u32, &[u8]); 3] = [(b"a", 0, b"first value"), (b"b", 1, b"second"), (b"c", 2, &[9; 100])];
    let path = written(dir.path(), &values);
    let whole = fs::read(&path).unwrap();
    let good = |bytes: &[u8]| -> usize {
        fs::write(&path, bytes).unwrap();
        let Ok(Some(kept)) = KeptFile::open(dir.path(), &SECRET, &ABOUT) else { return 0 };
        values.iter().fold(0, |sum, (name, number, value)| match kept.get(What::Leaf, name, *number) {
            Lookup::Found(found) => {
                assert_eq!(found, *value, "a wrong value was given out");
                sum + 1
            }
            _ => sum,
        })
    };
    assert_eq!(good(&whole), 3);
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(good(&flipped) < 3, "bit {bit}");
    }
    for len in 0..whole.len() {
        assert_eq!(good(&whole[..len]), 0, "cut to {len}");
    }
}

fn page(byte: u8) -> [u8; 1024] {
    std::array::from_fn(|i| byte.wrapping_mul(31).wrapping_add((i / 100) as u8))
}

#[test]
fn changed_pages_are_those_that_a_patch_must_hold() {
    let hasher = PageHasher::derive(&SECRET, 1024);
    let id = ChunkId([5; 32]);
    let of = |bytes: &[u8]| [bytes].concat().chunks(1).flatten().copied().collect::<Vec<u8>>();
    let old = of([page(1), page(2), page(3)].as_flattened());
    let hashes = hasher.of(&id, &old).unwrap();
    assert_eq!((hashes.len, hashes.pages.len()), (3072, 3));
    let changed = |new: &[u8]| hasher.changed(new, &hashes);
    assert_eq!(changed(&old), [0u32; 0]);
    assert_eq!(changed([page(1), page(9), page(3)].as_flattened()), [1]);
    assert_eq!(changed([page(1), page(2), page(3), page(4)].as_flattened()), [3]);
    assert_eq!(changed(&old[..2048]), [0u32; 0]);
    assert_eq!(changed(&old[..2000]), [1], "the beginning of a page isn't known");
    assert_eq!(changed(&[]), [0u32; 0]);
    // The other way round: what was short is not the beginning of what is long.
    let short = hasher.of(&id, &old[..2000]).unwrap();
    assert_eq!(hasher.changed(&old, &short), [1, 2]);
    assert_eq!(hasher.changed(&old[..2000], &short), [0u32; 0]);
    assert!(hasher.of(&id, &vec![0; (256 << 10) + 1]).is_none());
    assert_ne!(PageHasher::derive(&[8; 32], 1024).of(&id, &old).unwrap(), hashes, "hashes are keyed");
}

proptest! {
    /// The law that a snapshot hangs on: a patch of the pages that changed by their hashes, read against the old bytes, gives
    /// the new ones.
    #[test]
    fn a_patch_by_hashes_reads_back(
        old in prop::collection::vec(0u8..4, 0..40).prop_map(|p| p.into_iter().flat_map(page).collect::<Vec<_>>()),
        new in prop::collection::vec(0u8..4, 0..40).prop_map(|p| p.into_iter().flat_map(page).collect::<Vec<_>>()),
        cut in 0usize..1024, cut_old in 0usize..1024,
    ) {
        let (old, new) = (&old[..old.len().saturating_sub(cut_old)], &new[..new.len().saturating_sub(cut)]);
        let hasher = PageHasher::derive(&SECRET, 1024);
        let hashes = hasher.of(&ChunkId([1; 32]), old).unwrap();
        let changed = hasher.changed(new, &hashes);
        // A page at the end that was cut is changed for hashes, and may not be for who sees it.
        prop_assert!(crate::codec::patch::changed_pages(new, old, 1024).iter().all(|page| changed.contains(page)));
        let how = crate::codec::Patching { page_size: 1024, way: crate::codec::Way::Alone, level: 3, whole_len: usize::MAX };
        let frame = crate::codec::encode_pages(new, &changed, how).unwrap().unwrap();
        let read = crate::codec::decode(frame.kind.into(), &frame.bytes, new.len() as u32, Some(old)).unwrap();
        prop_assert_eq!(read, new);
    }

    #[test]
    fn leaves_survive(extents in prop::collection::vec(prop::option::of((any::<[u8; 32]>(), 0u32..20_000)), 0..=32)) {
        let leaf = LeafHashes(extents.into_iter().map(|extent| extent.map(|(id, len)| ExtentHashes {
            id: ChunkId(id),
            len,
            pages: (0..len.div_ceil(4096)).map(|n| [n as u8 ^ id[0]; HASH]).collect(),
        })).collect());
        prop_assert_eq!(LeafHashes::decode(&leaf.encode(), 4096), Some(leaf));
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>, page_size in 0usize..5000) {
        if let Some(leaf) = LeafHashes::decode(&bytes, page_size) {
            prop_assert_eq!(leaf.encode(), bytes.clone());
        }
        probe(&bytes);
    }
}
