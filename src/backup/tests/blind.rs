//! What a host stores that can't read, by what it keeps in its cache.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::patches::{FILE, PAGES, change, cluster, extents, happen, happens, is_patch, next};
use super::relation::PAGE;
use super::world::{How, Snap, World, at};
use crate::codec::{PatchOutline, Way};
use crate::repo::pack::pack_name;

fn blind<'a>(cache: &TempDir, parent: Option<&'a Snap>) -> How<'a> {
    How { may_read: false, kept: Some(cache.path().join("kept")), parent, ..How::default() }
}

/// The one file that is kept.
fn kept(cache: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> = fs::read_dir(cache.join("kept")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

#[test]
fn changed_pages_alone_refer_to_the_whole_chunk_of_many_generations_ago() {
    let (cache, world, files) = (TempDir::new().unwrap(), World::new(), cluster(4 * PAGES));
    let first = next(&world, &files, &blind(&cache, None));
    let whole = world.stored(&first, FILE).1[1].1;
    let mut snaps = vec![first];
    for round in 0..5 {
        change(&files, [PAGES + 3 + round].into_iter(), 7);
        let snap = next(&world, &files, &blind(&cache, snaps.last()));
        assert_eq!(snap.note, None);
        let rows = extents(&world, &snap);
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert!(is_patch(row), "round {round}");
        assert_eq!(row.references.iter().map(|r| r.place).collect::<Vec<_>>(), [whole.place]);
        // As many pages as have changed since that, about their own size: they are noise.
        assert!((row.len as usize) < (round as usize + 1) * PAGE + 200, "{}", row.len);
        snaps.push(snap);
    }
    assert_eq!(PatchOutline::read(&[0, 13, 0, 0, 0, 0], 32 * PAGE).unwrap().way, Way::Alone);
}

#[test]
fn who_can_read_spares_old_pages_of_which_it_keeps_hashes() {
    let (cache, world, files) = (TempDir::new().unwrap(), World::new(), cluster(4 * PAGES));
    let how = |way, parent| How { may_read: true, way, ..blind(&cache, parent) };
    // Nothing is kept of the first: its old pages are read for the second, this once.
    let first = next(&world, &files, &How { kept: None, ..how(Way::AgainstOld, None) });
    let reference = world.stored(&first, FILE).1[1].1.place;
    let (pack, offset) = (first.own.iter().find(|p| p.id == reference.pack).unwrap(), world.row(reference).offset);
    let spoil = || assert!(world.backend.tamper(&pack_name(pack.session, pack).unwrap(), |bytes| bytes[offset as usize + 100] ^= 1));
    change(&files, [PAGES + 3].into_iter(), 7);
    let second = next(&world, &files, &how(Way::Alone, Some(&first)));
    assert!(extents(&world, &second).iter().all(is_patch));
    // Where they can't be read it makes no difference any more.
    spoil();
    change(&files, [PAGES + 4].into_iter(), 7);
    let third = world.backup(&files, &how(Way::Alone, Some(&second))).unwrap();
    spoil();
    assert_eq!(third.warnings, Vec::<String>::new());
    let rows = extents(&world, &third);
    assert!(rows.len() == 1 && is_patch(&rows[0]), "{rows:?}");
    assert!(world.read_one(&third, FILE).unwrap() == files.bytes(at(FILE)));
    // And back: old images again.
    change(&files, [PAGES + 5].into_iter(), 7);
    let fourth = next(&world, &files, &how(Way::AgainstOld, Some(&third)));
    assert!(extents(&world, &fourth).iter().all(is_patch));
}

#[test]
fn an_unchanged_file_is_not_read_and_its_hashes_are_carried_along() {
    let (cache, world, files) = (TempDir::new().unwrap(), World::new(), cluster(40));
    let mut snap = next(&world, &files, &blind(&cache, None));
    for _ in 0..3 {
        snap = next(&world, &files, &blind(&cache, Some(&snap)));
        assert_eq!(snap.read, 0);
    }
    change(&files, [35].into_iter(), 7);
    let after = next(&world, &files, &blind(&cache, Some(&snap)));
    let rows = world.new_content(&after);
    assert!(rows.iter().any(|row| is_patch(row) && row.plain_len() as usize == 8 * PAGE), "{rows:?}");
}

#[test]
fn what_can_not_be_relied_on_is_no_reference() {
    let (cache, world, files) = (TempDir::new().unwrap(), World::new(), cluster(PAGES));
    let first = next(&world, &files, &blind(&cache, None));
    let place = world.stored(&first, FILE).1[0].1.place;
    change(&files, 0..1, 7);
    let saved = fs::read(kept(cache.path())).unwrap();
    let how = How { damaged_places: HashSet::from([place]), ..blind(&cache, Some(&first)) };
    assert!(extents(&world, &next(&world, &files, &how)).iter().all(|row| !is_patch(row)));
    // Whole again, and with what was kept of the first.
    fs::remove_file(kept(cache.path())).unwrap();
    fs::write(cache.path().join("kept").join(format!("{}.kept", first.name)), saved).unwrap();
    change(&files, 1..2, 8);
    assert!(extents(&world, &next(&world, &files, &blind(&cache, Some(&first)))).iter().all(is_patch));
}

#[test]
fn a_lost_cache_stores_changed_extents_whole_and_is_filled_again() {
    let (cache, world, files) = (TempDir::new().unwrap(), World::new(), cluster(3 * PAGES));
    let first = next(&world, &files, &blind(&cache, None));
    assert_eq!(first.note, None, "there is nothing to miss");
    fs::remove_file(kept(cache.path())).unwrap();
    change(&files, [2].into_iter(), 7);
    let second = next(&world, &files, &blind(&cache, Some(&first)));
    assert!(second.note.as_ref().unwrap().contains(&format!("of snapshot {} are not in the cache (there is no file of it)", first.name)));
    let rows = extents(&world, &second);
    assert!(rows.len() == 1 && !is_patch(&rows[0]), "unchanged extents are found by their ids: {rows:?}");
    change(&files, [40].into_iter(), 8);
    let third = next(&world, &files, &blind(&cache, Some(&second)));
    assert!(third.note.is_none() && extents(&world, &third).iter().all(is_patch));
}

#[test]
fn hashes_of_another_snapshot_or_host_are_not_used() {
    let (cache, world, files) = (TempDir::new().unwrap(), World::new(), cluster(PAGES));
    let first = next(&world, &files, &blind(&cache, None));
    let of_first = fs::read(kept(cache.path())).unwrap();
    change(&files, [2].into_iter(), 7);
    let second = next(&world, &files, &blind(&cache, Some(&first)));
    fs::write(kept(cache.path()), of_first).unwrap();
    change(&files, [3].into_iter(), 7);
    let third = next(&world, &files, &blind(&cache, Some(&second)));
    assert!(third.note.as_ref().unwrap().contains("of another snapshot"));
    assert!(extents(&world, &third).iter().all(|row| !is_patch(row)));
}

/// What happens to the cache between two backups.
#[derive(Clone, Debug)]
enum Cache {
    Stays,
    Lost,
    Bit(prop::sample::Index),
    Cut(prop::sample::Index),
}

fn caches() -> impl Strategy<Value = Cache> {
    prop_oneof![
        4 => Just(Cache::Stays),
        1 => Just(Cache::Lost),
        3 => any::<prop::sample::Index>().prop_map(Cache::Bit),
        1 => any::<prop::sample::Index>().prop_map(Cache::Cut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens to the cluster and to the cache, each backup gives back what was there when it was taken.
    #[test]
    fn every_backup_gives_back_what_was_there(rounds in prop::collection::vec((prop::collection::vec(happens(), 0..5), caches()), 1..6)) {
        let (cache, world, files) = (TempDir::new().unwrap(), World::new(), cluster(70));
        let mut snaps: Vec<Snap> = Vec::new();
        let mut contents = Vec::new();
        for (round, (all, lost)) in rounds.iter().enumerate() {
            all.iter().for_each(|what| happen(&files, what, round as u64));
            if let Some(path) = (!snaps.is_empty()).then(|| kept(cache.path())) {
                let mut bytes = fs::read(&path).unwrap();
                match lost {
                    Cache::Stays => {}
                    Cache::Lost => fs::remove_file(&path).unwrap(),
                    Cache::Cut(at) => fs::write(&path, &bytes[..at.index(bytes.len())]).unwrap(),
                    Cache::Bit(at) => {
                        let at = at.index(bytes.len() * 8);
                        bytes[at / 8] ^= 1 << (at % 8);
                        fs::write(&path, bytes).unwrap();
                    }
                }
            }
            let snap = world.backup(&files, &blind(&cache, snaps.last())).unwrap();
            let stored = world.read(&snap);
            prop_assert_eq!(&stored.keys().map(|p| at(p.to_str().unwrap())).collect::<Vec<_>>(), &files.all_files());
            for (path, bytes) in &stored {
                prop_assert!(*bytes == files.bytes(at(path.to_str().unwrap())), "{}", path.display());
            }
            contents.push(stored);
            snaps.push(snap);
        }
        for (snap, stored) in snaps.iter().zip(&contents) {
            prop_assert!(world.read(snap) == *stored);
        }
    }
}
