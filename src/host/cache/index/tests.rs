use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn row(n: u32) -> Row {
    let hash = *blake3::hash(&n.to_le_bytes()).as_bytes();
    let mut pack = [0; 16];
    pack[0] = (n % 7) as u8;
    Row {
        id: ChunkId(hash),
        pack: PackId(pack),
        blob: n,
        position: (n % 5) as u16,
        frame_kind: (n % 3) as u8,
        flags: (n % 2) as u8,
        plain_len: n.wrapping_mul(77),
    }
}

fn write(folder: &Path, rows: impl Iterator<Item = Row>) {
    let mut writer = IndexWriter::new();
    rows.for_each(|row| writer.add_pack(row.pack, [row]));
    writer.write(folder).unwrap();
}

fn opened(folder: &Path) -> ChunkIndex {
    let (index, warnings) = ChunkIndex::open(folder);
    assert_eq!(warnings, []);
    index
}

#[test]
fn rows_are_found_over_several_files() {
    let dir = tempfile::tempdir().unwrap();
    assert!(opened(dir.path()).is_empty());
    assert!(opened(&dir.path().join("none")).lookup(&row(1).id).is_empty());
    write(dir.path(), (0..1000).map(row));
    write(dir.path(), (500..1500).map(row));
    let elsewhere = Row { pack: PackId([0xee; 16]), ..row(3) };
    write(dir.path(), std::iter::once(elsewhere));
    let mut empty = IndexWriter::new();
    empty.add_pack(PackId([0xdd; 16]), []);
    empty.write(dir.path()).unwrap();
    let index = opened(dir.path());
    for n in (0..1500).filter(|n| *n != 3) {
        assert_eq!(index.lookup(&row(n).id), [row(n)], "{n}");
    }
    assert_eq!(index.lookup(&row(3).id), [elsewhere, row(3)], "newest first");
    assert!((1500..2000).all(|n| index.lookup(&row(n).id).is_empty()));
    assert_eq!(index.packs().len(), 9, "a pack without rows is covered, too");
    assert_eq!(index.files(), 4);
    assert_eq!(IndexWriter::new().write(dir.path()).unwrap(), None);
}

#[test]
fn many_files_are_merged_while_others_read() {
    let dir = tempfile::tempdir().unwrap();
    let index = {
        (0..8).for_each(|f| write(dir.path(), (f * 50..f * 50 + 100).map(row)));
        opened(dir.path())
    };
    assert_eq!(index.files(), 8);
    write(dir.path(), (1000..1001).map(row));
    let merged = opened(dir.path());
    assert_eq!((merged.files(), merged.len()), (1, 451));
    assert_eq!(merged.packs().len(), 7);
    for n in 0..450 {
        assert_eq!(merged.lookup(&row(n).id), [row(n)]);
        assert_eq!(index.lookup(&row(n).id), [row(n)], "what was opened before stays readable");
    }
    let gone = row(1).pack;
    assert!(merge(dir.path(), |pack| *pack != gone).unwrap());
    let index = opened(dir.path());
    assert!(!index.packs().contains(&gone));
    assert!((0..450).all(|n| index.lookup(&row(n).id).is_empty() == (row(n).pack == gone)));
}

#[test]
fn writers_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let folder = dir.path();
            scope.spawn(move || {
                for i in 0..10 {
                    let n = thread * 10 + i;
                    write(folder, std::iter::once(row(n)));
                    let (index, warnings) = ChunkIndex::open(folder);
                    assert!(warnings.is_empty());
                    assert_eq!(index.lookup(&row(n).id), [row(n)]);
                }
            });
        }
    });
    let index = opened(dir.path());
    assert!((0..40).all(|n| index.lookup(&row(n).id) == [row(n)]));
}

#[test]
fn a_damaged_file_is_discarded() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), (0..300).map(row));
    let path = file::list(dir.path()).pop().unwrap();
    let good = std::fs::read(&path).unwrap();
    for round in 0..130usize {
        let mut bad = good.clone();
        let spot = round * good.len() / 100;
        match round {
            0..100 => bad[spot] ^= 1 << (round % 8),
            100..120 => {
                let page = (round - 100) * 4096 % good.len() / 4096 * 4096;
                let end = (page + 4096).min(good.len());
                bad[page..end].fill(0);
            }
            120..125 => bad.truncate(good.len() * (round - 120) / 5),
            _ => bad.extend_from_slice(&good[..round - 100]),
        }
        std::fs::write(&path, &bad).unwrap();
        let (index, warnings) = ChunkIndex::open(dir.path());
        assert_eq!((index.files(), warnings.len()), (0, 1), "round {round}");
        assert!(!path.exists());
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(opened(dir.path()).len(), 300);
}

/// A whole file that was made with a right checksum over wrong contents: what a damaged page cache would show.
#[test]
fn a_damaged_row_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), (0..300).map(row));
    let path = file::list(dir.path()).pop().unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut passed_over = 0;
    for round in 0..200usize {
        let mut bad = good.clone();
        // Rows, pack list and fan-out; the counts at the end are checked against the length.
        let spot = 16 + round * (good.len() - 16 - 48) / 200;
        match round % 4 {
            0 => bad[spot..(spot + 100).min(good.len() - 48)].fill(0),
            _ => bad[spot] ^= 1 << (round % 8),
        }
        let body = bad.len() - 32;
        let hash = blake3::hash(&bad[..body]);
        bad[body..].copy_from_slice(hash.as_bytes());
        std::fs::write(&path, &bad).unwrap();
        let index = opened(dir.path());
        for n in 0..300 {
            let found = index.lookup(&row(n).id);
            assert!(found.is_empty() || found == [row(n)], "round {round}: {found:?}");
        }
        passed_over += index.damaged_rows();
        drop(index);
    }
    assert!(passed_over > 50, "{passed_over}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_rows_are_found_as_they_were(
        rows in proptest::collection::vec((0u8..4, 0u8..3, any::<u32>(), any::<u16>(), any::<u8>(), any::<u8>(), any::<u32>()), 0..60),
        files in 1usize..4,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let rows: Vec<Row> = rows.into_iter().map(|(id, pack, blob, position, frame_kind, flags, plain_len)| {
            // Few ids, so that many rows share one; their first bytes spread over the fan-out.
            Row { id: ChunkId([id * 85; 32]), pack: PackId([pack; 16]), blob, position, frame_kind, flags, plain_len }
        }).collect();
        for part in rows.chunks(rows.len().div_ceil(files).max(1)) {
            write(dir.path(), part.iter().copied());
        }
        let mut expected: HashMap<ChunkId, Vec<Row>> = HashMap::new();
        for row in &rows {
            expected.entry(row.id).or_default().push(*row);
        }
        for merged in [false, true] {
            if merged {
                prop_assert!(merge(dir.path(), |_| true).unwrap());
            }
            let index = opened(dir.path());
            for id in (0..4).map(|id| ChunkId([id * 85; 32])) {
                let mut found = index.lookup(&id);
                let mut expected = expected.get(&id).cloned().unwrap_or_default();
                found.sort();
                expected.sort();
                expected.dedup();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
