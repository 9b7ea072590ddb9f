//! Packs are emptied, by who can read and who can't; what is damaged stays.

use std::fs;
use std::sync::Arc;

use pgcairn::host::access::{self, Need, Place};
use pgcairn::host::config::{RepositorySettings, RepositoryUrl, SecretSource};
use pgcairn::host::{ProcessEnv, StateDir};
use pgcairn::recommit::empty;
use pgcairn::units::{Cancel, Quiet};

use crate::story::{Story, setting};
use crate::support::ordinary;

#[test]
fn mostly_dead_packs_go_and_all_snapshots_stay() {
    ordinary(|| {
        let story = Story::new();
        let (before, old) = (story.digests(), story.packs_of_session(0)[0]);
        let planned = story.plan();
        assert!(planned.emptied.iter().any(|p| p.id == old.id), "{planned:?}");
        assert_eq!(planned.snapshots.len(), 2, "{planned:?}");
        let done = story.empty();
        assert!(done.emptied.contains(&(old.session, old.id)), "{done:?}");
        assert_eq!(done.replaced.len(), 2, "{done:?}");
        assert!(done.bad.is_empty() && done.skipped.is_empty(), "{done:?}");
        // Six of 32 extents of noise, 256 KiB each, the patches that go with two of them, and files of another MiB.
        assert!((6 << 18..11 << 18).contains(&done.copied.1), "{done:?}");
        assert_eq!(story.digests(), before, "ids, digests, and one COMMIT each");
        let stored = |path: &std::path::Path| -> u64 { crate::support::bytes_below(path) };
        let then = stored(&story.world.repository().join("pack"));
        assert!(story.sweep() >= 1);
        assert!(!story.path_of(&old).exists());
        assert!(stored(&story.world.repository().join("pack")) + (24 << 18) < then);
        story.assert_whole();
        // And again: nothing is left to do, and nothing is said.
        let head = story.head();
        assert!(story.plan().is_empty(), "{:?}", story.plan());
        assert_eq!(story.empty().replaced.len(), 0);
        assert_eq!(story.head(), head);
    });
}

#[test]
fn of_a_session_that_left_nothing_no_folder_stays() {
    ordinary(|| {
        let story = Story::new();
        let folder = |n: usize| story.path_of(&story.packs_of_session(n)[0]).parent().unwrap().to_owned();
        let (gone, stays) = (folder(1), folder(3));
        assert!(gone.exists() && stays.exists());
        story.world.run(["prune", "--max-rewrite", "1000000000"]).ok();
        assert!(!gone.exists() && stays.exists(), "{gone:?}");
        let empty = std::fs::read_dir(story.world.repository().join("pack")).unwrap().filter(|folder| {
            let folder = folder.as_ref().unwrap().path();
            std::fs::read_dir(folder).unwrap().next().is_none()
        });
        assert_eq!(empty.count(), 0);
        story.assert_whole();
    });
}

#[test]
fn the_next_backup_builds_on_the_newest_snapshot_as_before() {
    ordinary(|| {
        let mut story = Story::new();
        story.empty();
        story.sweep();
        let newest = story.world.snapshots.last().unwrap().0.clone();
        story.world.backup();
        let id = story.world.snapshots.last().unwrap().0.clone();
        let shown = story.world.run(["show", &id, "--json"]).ok().json();
        assert_eq!(shown["parent"].as_str(), Some(newest.as_str()), "{shown}");
        let bytes = shown["new_bytes"].as_u64().unwrap();
        assert!(bytes < 20_000, "nothing has changed, and {bytes} bytes were stored");
        story.assert_whole();
        let listed = story.world.run(["list", "--json"]).ok().json();
        let order: Vec<&str> = listed["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
        assert_eq!(order, story.world.snapshots.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>());
    });
}

#[test]
fn a_maintainer_that_cannot_read_does_it() {
    ordinary(|| {
        let story = Story::new();
        let old = story.packs_of_session(0)[0];
        let url = RepositoryUrl::parse(story.world.repository().as_os_str(), None).unwrap();
        let settings = RepositorySettings::at(url, Some(SecretSource::KeyFile(story.world.key())));
        let state = StateDir::open(Some(&story.world.host.home().join(".local/state/pgcairn")), &ProcessEnv, &Quiet).unwrap();
        let place = Place {
            watch: &pgcairn::store::s3::Watch::default(),
            repository: &settings,
            state: Some(&state),
            cache: None,
            progress: &Quiet,
        };
        let mut opened = access::open(&place, Need::Write).unwrap();
        opened.opening = None;
        let opened = Arc::new(opened);
        let done = empty(&setting(&opened, &state, &Quiet, &Cancel::new()), Some(u64::MAX)).unwrap();
        assert!(done.emptied.contains(&(old.session, old.id)), "{done:?}");
        drop(opened);
        story.sweep();
        story.assert_whole();
    });
}

#[test]
fn a_blob_that_is_not_what_it_was_is_named_and_not_copied() {
    ordinary(|| {
        let story = Story::new();
        let old = story.packs_of_session(0)[0];
        let path = story.path_of(&old);
        let mut bytes = fs::read(&path).unwrap();
        // Within the last extents, which are needed: the pack ends with what is small.
        let at = bytes.len() - (3 << 18);
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let pruned = story.world.run(["prune", "--json", "--max-rewrite", "1000000000"]).code(3).json();
        assert!(pruned["damaged"] == 1 && pruned["warnings"][0].as_str().unwrap().contains("is not what its table says"), "{pruned}");
        let done = story.empty();
        assert_eq!(done.bad.len(), 1, "{done:?}");
        assert!(path.ends_with(done.bad[0].object.rsplit('/').next().unwrap()), "{done:?}");
        assert!(done.bad[0].why.contains("hash"), "{done:?}");
        assert!(!done.emptied.contains(&(old.session, old.id)), "what is damaged stays, for a better copy of it to be brought back");
        story.sweep();
        assert!(path.exists());
        // Brought back, all is whole.
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        story.assert_whole();
    });
}

#[test]
fn a_budget_bounds_what_is_copied() {
    ordinary(|| {
        let story = Story::new();
        let old = story.packs_of_session(0)[0];
        let done = story.with(&Quiet, &Cancel::new(), |setting| empty(setting, Some(1 << 18)).unwrap());
        assert!(!done.emptied.contains(&(old.session, old.id)) && done.copied.1 <= 1 << 18, "{done:?}");
        story.sweep();
        story.assert_whole();
    });
}
