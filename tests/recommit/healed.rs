//! Damage that a later backup has stored anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use pgcairn::repo::log::{Damaged, DamagedBlobs, Held, Kind};

use crate::story::{EXTENTS, PAGES, Story};
use crate::support::ordinary;

/// Says that a pack is damaged, all of it or blobs.
fn damaged(story: &Story, pack: &pgcairn::repo::PackRef, blobs: DamagedBlobs) {
    story.world.opened(|opened, _| {
        let places = BTreeMap::from([(pack.session, BTreeMap::from([(pack.id, blobs)]))]);
        let mut view = opened.view();
        opened.log().append(&mut view, opened.key().unwrap(), &Kind::Damaged(Damaged { places: Held::Inline(places) })).unwrap();
    });
}

#[test]
fn older_snapshots_get_the_places_where_lost_blobs_were_stored_anew() {
    ordinary(|| {
        let mut story = Story { world: crate::world::World::empty() };
        story.fill();
        story.world.backup();
        let old = story.packs_of_session(0)[0];
        // The pack is gone, and the log says so.
        fs::remove_file(story.path_of(&old)).unwrap();
        damaged(&story, &old, DamagedBlobs::All);
        // The cluster hasn't changed: all that lay there is read again, and stored.
        story.world.backup();
        let done = story.empty();
        assert!(done.healed > 0 && done.replaced.contains(&story.world.snapshots[0].0), "{done:?}");
        story.sweep();
        assert!(story.plan().is_empty());
        story.assert_whole();
    });
}

#[test]
fn a_damaged_blob_is_read_again_in_a_file_that_has_not_changed() {
    ordinary(|| {
        let mut story = Story { world: crate::world::World::empty() };
        story.fill();
        story.world.backup();
        let old = story.packs_of_session(0)[0];
        let path = story.path_of(&old);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let number = story.world.opened(|opened, _| {
            let packs = pgcairn::repo::pack::Packs::new(std::sync::Arc::clone(&opened.backend), opened.sealing.clone());
            packs.add([old]);
            let table = packs.table(old.id).unwrap();
            let there = |row: &pgcairn::repo::pack::Row| (row.offset as usize..(row.offset + row.len) as usize).contains(&at);
            table.rows().iter().position(there).unwrap() as u32
        });
        damaged(&story, &old, DamagedBlobs::Blobs(BTreeSet::from([number])));
        story.world.backup();
        let second = story.world.snapshots[1].0.clone();
        let shown = story.world.run(["show", &second, "--json"]).ok().json();
        let new = shown["new_bytes"].as_u64().unwrap();
        assert!((1 << 18..2 << 18).contains(&new), "one extent is stored anew, and little else: {new}");
        let (_, restored) = story.restore(&second);
        assert!(restored == story.world.snapshots[1].1);
        let done = story.empty();
        assert_eq!((done.healed, done.replaced.len()), (1, 1), "{done:?}");
        // Nobody needs what is damaged any more; once the pack has mostly died it goes.
        for (id, expected) in &story.world.snapshots {
            assert!(story.restore(id).1 == *expected, "{id}");
        }
        assert!(story.plan().is_empty(), "{:?}", story.plan());
    });
}

#[test]
fn verify_tells_the_log_and_the_next_backup_and_a_prune_heal() {
    ordinary(|| {
        let mut story = Story { world: crate::world::World::empty() };
        story.fill();
        story.world.backup();
        let old = story.packs_of_session(0)[0];
        let path = story.path_of(&old);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let verify = || {
            let verified = story.world.run(["verify", "--read-data", "--json"]).json();
            (verified["errors"].as_array().unwrap().clone(), verified["warnings"].to_string())
        };
        // DAMAGED, and a note of what was found.
        let head = story.head().number;
        let (errors, warnings) = verify();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(warnings.contains("read twice") && story.head().number == head + 2, "{warnings}");
        let (_, warnings) = verify();
        assert!(!warnings.contains("read twice") && story.head().number == head + 2, "it is told once: {warnings}");
        story.world.backup();
        let (first, second) = (story.world.snapshots[0].0.clone(), story.world.snapshots[1].0.clone());
        let problem = |story: &Story| {
            let verified = story.world.run(["verify", "--read-data", "--json"]).json();
            (verified["errors"][0]["problem"].as_str().unwrap().to_owned(), verified["errors"][0]["snapshots"].to_string())
        };
        let (said, hit) = problem(&story);
        assert!(said.contains(&format!("healed by snapshot {second}")) && hit.contains(&first) && !hit.contains(&second), "{said} {hit}");
        assert!(story.empty().replaced.contains(&first));
        let (_, hit) = problem(&story);
        assert_eq!(hit, "[]", "nothing is hit any more");
        for (id, expected) in &story.world.snapshots {
            assert!(story.restore(id).1 == *expected, "{id}");
        }
    });
}

/// A pack that is gone altogether: verify tells the log; what the next backup has stored of it anew is named.
#[test]
fn a_lost_pack_is_healed_by_name() {
    ordinary(|| {
        let mut story = Story { world: crate::world::World::empty() };
        story.fill();
        story.world.backup();
        let old = story.packs_of_session(0)[0];
        fs::remove_file(story.path_of(&old)).unwrap();
        let problem = |story: &Story| {
            let verified = story.world.run(["verify", "--json"]).json();
            let name = story.path_of(&old);
            let of_it = |e: &&serde_json::Value| name.ends_with(e["object"].as_str().unwrap());
            let error = verified["errors"].as_array().unwrap().iter().find(of_it).cloned();
            error.map(|e| (e["problem"].as_str().unwrap().to_owned(), e["snapshots"].to_string()))
        };
        let (said, hit) = problem(&story).unwrap();
        assert!(said.contains("not there") && !said.contains("healed"), "{said}");
        assert!(hit.contains(&story.world.snapshots[0].0));
        // Of some extents nothing is left in the cluster.
        (0..EXTENTS).step_by(4).for_each(|extent| story.change(extent * PAGES + 7, 9));
        story.world.backup();
        let second = story.world.snapshots[1].0.clone();
        let (said, hit) = problem(&story).unwrap();
        assert!(said.contains(&format!("are healed by snapshot {second}")) && said.contains(" are nowhere else"), "{said}");
        assert!(!hit.contains(&second), "{hit}");
        // It comes back as it was.
        story.fill();
        story.world.backup();
        let (said, _) = problem(&story).unwrap();
        let third = &story.world.snapshots[2].0;
        assert!(said.contains("; all ") && said.contains(&format!("are healed by snapshot {second} and {third}")), "{said}");
        story.world.run(["prune", "--max-rewrite", "0"]).ok();
        assert_eq!(problem(&story), None, "the pack is out of the log, or nobody is hit");
        story.assert_whole();
    });
}

/// All nodes of the first snapshot but its root are damaged: a plain verify tells the log, the next backup of the same cluster
/// stores them anew, and a prune lets the first snapshot use those, by what they say of content.
#[test]
fn damaged_nodes_of_an_older_snapshot_are_healed() {
    ordinary(|| {
        let mut story = Story { world: crate::world::World::empty() };
        story.fill();
        story.world.backup();
        let (pack, blobs, bytes) = story.world.opened(|opened, _| {
            let view = opened.view();
            let commit = view.fold.commits.values().next().unwrap();
            let packs = opened.packs_of(&view.fold, commit).unwrap();
            let root = commit.root.place;
            let pack = packs.known(root.pack).unwrap();
            let path = story.path_of(&pack);
            let mut bytes = fs::read(&path).unwrap();
            let table = packs.table(pack.id).unwrap();
            let mut blobs = 0;
            for (blob, row) in table.rows().iter().enumerate() {
                assert_eq!(row.role, pgcairn::crypt::ChunkRole::Structure);
                if blob as u32 != root.blob {
                    bytes[row.offset as usize + 3] ^= 1;
                    blobs += 1;
                }
            }
            (pack, blobs, bytes)
        });
        assert!(blobs > 5, "{blobs} nodes");
        fs::write(story.path_of(&pack), bytes).unwrap();
        let first = story.world.snapshots[0].0.clone();
        let (outcome, _folder) = story.world.restore_afresh(&story.world.repository(), &[&first]);
        outcome.code(1);
        let verified = story.world.run(["verify", "--json"]).json();
        assert!(verified["warnings"].to_string().contains("read twice and damaged both times, in 1 pack:"), "{verified}");
        let told = story.world.opened(|opened, _| {
            let view = opened.view();
            let of_it = &view.fold.damaged[&pack.session][&pack.id];
            match of_it {
                DamagedBlobs::All => usize::MAX,
                DamagedBlobs::Blobs(numbers) => numbers.len(),
            }
        });
        assert_eq!(told, blobs, "each of them is listed");
        // Until the cluster was backed up again, nothing can be done, and nothing is lost.
        let report = story.world.run(["prune", "--json"]).code(3).json();
        assert_eq!(report["rewritten"]["snapshots"], 0, "{report}");
        story.world.backup();
        let report = story.world.run(["prune", "--json"]).ok().json();
        assert!(report["rewritten"]["snapshots"] == 1 && report["rewritten"]["healed_chunks"].as_u64() > Some(0), "{report}");
        for (id, expected) in &story.world.snapshots {
            assert!(story.restore(id).1 == *expected, "{id}");
        }
        let again = story.world.run(["prune", "--json"]).ok().json();
        assert_eq!(again["rewritten"]["snapshots"], 0, "{again}");
        story.assert_whole();
    });
}
