//! A host that is writer only, over years: its repository is pruned by others, its packs are emptied, content keys rotate.

use std::fs;
use std::path::PathBuf;

use crate::support::{Host, Outcome, ordinary};
use crate::world::{World, tree};
use crate::write_only::write_only;

/// Pages of an extent; extents of the relation.
const PAGES: u32 = 32;
const EXTENTS: u32 = 32;

fn page(number: u32, generation: u32) -> Vec<u8> {
    let mut page = vec![0; 8192];
    blake3::Hasher::new().update(format!("{number} {generation}").as_bytes()).finalize_xof().fill(&mut page);
    page[..24].fill(0);
    for (at, value) in [(12, 100u16), (14, 200), (16, 8192), (18, 0x2004)] {
        page[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    let checksum = pgcairn::pg::checksum::page_checksum(&page, number).unwrap();
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
    page
}

struct Story {
    world: World,
    host: Host,
}

impl Story {
    fn file(&self) -> PathBuf {
        self.world.data().join("base/5/20000")
    }

    fn change(&self, pages: impl IntoIterator<Item = u32>, generation: u32) {
        let mut bytes = fs::read(self.file()).unwrap();
        for number in pages {
            bytes[number as usize * 8192..][..8192].copy_from_slice(&page(number, generation));
        }
        fs::write(self.file(), bytes).unwrap();
    }

    #[track_caller]
    fn backup(&mut self, more: &[&str]) -> serde_json::Value {
        let arguments = self.world.backup_arguments().into_iter().chain(more.iter().map(|m| (*m).to_owned()));
        let made = self.world.run_on(&self.host, &self.world.repository(), arguments).ok().json();
        self.world.snapshots.push((made["id"].as_str().unwrap().to_owned(), tree(&self.world.data())));
        made
    }

    #[track_caller]
    fn assert_whole(&self) {
        for number in 0..self.world.snapshots.len() {
            crate::restores(&self.world, &self.world.host, &[], number);
        }
        let verified = self.world.run(["verify", "--read-data", "--json"]).ok().json();
        assert_eq!(verified["ok"], true, "{verified}");
    }
}

/// Four snapshots of which the first two are forgotten: of the first one's pack, little is needed, a part of it by patches of
/// pages alone.
fn story() -> Story {
    let world = World::empty();
    let host = write_only(&world, "db1");
    let mut story = Story { world, host };
    fs::write(story.file(), (0..EXTENTS * PAGES).flat_map(|n| page(n, 0)).collect::<Vec<u8>>()).unwrap();
    story.backup(&[]);
    story.change((0..4).map(|extent| extent * PAGES), 1);
    story.backup(&[]);
    story.change(0..(EXTENTS - 6) * PAGES, 2);
    story.change((EXTENTS - 2..EXTENTS).map(|extent| extent * PAGES + 5), 3);
    let made = story.backup(&[]);
    assert!(made["new_bytes"].as_u64().unwrap() < u64::from((EXTENTS - 5) * PAGES) * 8192, "two extents are patches: {made}");
    story.change([3], 4);
    story.backup(&[]);
    for _ in 0..2 {
        let gone = story.world.snapshots.remove(0).0;
        story.world.run(["forget", &gone]).ok();
    }
    story
}

#[test]
fn a_maintainer_on_another_host_prunes_and_empties_packs_of_it() {
    ordinary(|| {
        let mut story = story();
        let grant = story.world.folder.join("janitor.grant");
        let grant = grant.to_str().unwrap().to_owned();
        crate::owner(&story.world, &["key", "add-host", "--role", "maintainer", "--name", "janitor", &grant]).ok();
        let janitor = Host::new();
        let run = |world: &World, host: &Host, arguments: &[&str]| -> Outcome { world.run_on(host, &world.repository(), arguments) };
        run(&story.world, &janitor, &["key", "accept", &grant]).ok();
        let pruned = run(&story.world, &janitor, &["prune", "--json", "--max-rewrite", "1GiB"]).ok().json();
        assert_eq!(pruned["rewritten"]["snapshots"], 2, "{pruned}");
        story.assert_whole();
        let (cache, saved) = (story.host.home().join(".cache"), story.world.folder.join("cache"));
        crate::support::copy_tree(&cache, &saved);
        // Stored anew by a key that isn't trusted here, they are not built upon; what is said names the cure, and it works.
        story.change([7], 5);
        let made = story.backup(&[]);
        let note = made["notes"][0].as_str().unwrap().to_owned();
        assert!(note.contains("was stored anew by key") && made["parent"].is_null(), "{made}");
        let key = note.split('"').nth(1).unwrap().to_owned();
        story.world.run(["forget", made["id"].as_str().unwrap()]).ok();
        story.world.snapshots.pop();
        fs::remove_dir_all(&cache).unwrap();
        crate::support::copy_tree(&saved, &cache);
        story.change([9], 6);
        let made = story.backup(&["--trust-writers", &key]);
        assert_eq!(made["notes"], serde_json::json!([]), "{made}");
        assert_eq!(made["parent"], story.world.snapshots[1].0.as_str(), "{made}");
        assert!(made["new_bytes"].as_u64().unwrap() < 60_000, "{made}");
        story.assert_whole();
    });
}

#[test]
fn after_a_rotation_it_goes_on_as_before() {
    ordinary(|| {
        let mut story = story();
        crate::owner(&story.world, &["key", "rotate"]).ok();
        story.change([5, 40], 7);
        let made = story.backup(&[]);
        assert_eq!(made["notes"], serde_json::json!([]));
        assert!(made["new_bytes"].as_u64().unwrap() < 60_000, "two pages: {made}");
        // New rights, and with them other keys: what it keeps stays good.
        let again = story.world.folder.join("again.grant");
        let again = again.to_str().unwrap();
        crate::owner(&story.world, &["key", "add-host", "--role", "writer", "--clusters", "main", "--name", "db1", again]).ok();
        if std::path::Path::new(again).exists() {
            story.world.run_on(&story.host, &story.world.repository(), ["key", "accept", again]).ok();
        }
        story.change([6, 41], 8);
        let made = story.backup(&[]);
        assert!(made["notes"] == serde_json::json!([]) && made["new_bytes"].as_u64().unwrap() < 60_000, "{made}");
        story.assert_whole();
        // Made a reader, too, it reads old pages itself, those of before its time included.
        let more = story.world.folder.join("more.grant");
        crate::owner(&story.world, &["key", "add-host", "--role", "reader", "--name", "db1", more.to_str().unwrap()]).ok();
        story.world.run_on(&story.host, &story.world.repository(), ["key", "accept", more.to_str().unwrap()]).ok();
        story.change([6, 41], 9);
        story.backup(&[]);
        crate::restores(&story.world, &story.host, &[], 2);
        story.assert_whole();
    });
}

#[test]
fn what_is_kept_goes_with_the_keys() {
    ordinary(|| {
        let story = story();
        let kept = || crate::support::bytes_below(&story.host.home().join(".cache/pgcairn"));
        assert!(kept() > u64::from(EXTENTS * PAGES) * 16);
        story.world.run_on(&story.host, &story.world.repository(), ["key", "forget-host", "--yes"]).ok();
        assert!(kept() < 1000, "{}", kept());
    });
}

/// The folder of the cache can't be written: nothing is kept, and every snapshot is whole.
#[test]
fn without_any_cache_all_is_read_and_the_snapshot_is_the_same() {
    ordinary(|| {
        let mut story = story();
        let cache = story.host.home().join(".cache");
        fs::remove_dir_all(&cache).unwrap();
        fs::write(&cache, "no folder").unwrap();
        for generation in 5..7 {
            story.change([3], generation);
            let made = story.backup(&[]);
            assert!(made["notes"][0].as_str().unwrap().contains("are not in the cache (there is no folder for it)"), "{made}");
            assert!(made["new_bytes"].as_u64().unwrap() < 400_000, "unchanged extents are found by their ids: {made}");
        }
        story.assert_whole();
    });
}
