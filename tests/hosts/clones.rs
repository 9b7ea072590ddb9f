//! Clones of a cluster: who shares packs with whom, and what is never shared.

use std::fs;
use std::path::Path;

use crate::small::{enrol, opened};
use crate::support::{Host, TestDir, ordinary};
use crate::world::{World, tree};

/// A backup of the world's data directory under a name of its own: the bytes that it added.
#[track_caller]
fn backup(world: &World, host: &Host, cluster: &str, trust: Option<&Host>) -> u64 {
    let mut arguments = world.backup_arguments();
    arguments.extend(["--cluster".to_owned(), cluster.to_owned()]);
    if let Some(trusted) = trust {
        arguments.extend(["--trust-writers".to_owned(), opened(world, trusted).key().unwrap().id().to_string()]);
    }
    world.run_on(host, &world.repository(), arguments).ok().json()["new_bytes"].as_u64().unwrap()
}

#[track_caller]
fn restores(world: &World, cluster: &str) {
    let (host, target) = (Host::new(), TestDir::new());
    let to = target.join("data");
    let (key, path) = (world.key(), to.to_str().unwrap().to_owned());
    let all = ["--key-file", key.to_str().unwrap(), "--cluster", cluster, "restore", "--no-recovery", "--to", &path];
    world.run_on(&host, &world.repository(), all).ok();
    assert!(tree(&to) == tree(&world.data()));
}

#[test]
fn the_second_of_two_clones_stores_next_to_nothing_where_it_may_rely_on_the_first() {
    ordinary(|| {
        let world = World::empty();
        let first = enrol(&world, "first", "writer,reader");
        let all = backup(&world, &first, "first", None);
        // By a trusted key's word, whether it reads or not.
        for (name, roles) in [("trusts", "writer,reader"), ("trusts-blindly", "writer")] {
            let host = enrol(&world, name, roles);
            let added = backup(&world, &host, name, Some(&first));
            assert!(added * 5 < all, "{name}: {added} of {all}");
            restores(&world, name);
        }
        // By an own look: of the same system identifier, by who reads.
        let looks = enrol(&world, "looks", "writer,reader");
        let added = backup(&world, &looks, "looks", None);
        assert!(added * 5 < all, "{added} of {all}");
        restores(&world, "looks");
        // Who can't look, and trusts nobody, has all of its own.
        let alone = enrol(&world, "alone", "writer");
        let added = backup(&world, &alone, "alone", None);
        assert!(added * 10 > all * 9, "{added} of {all}");
        restores(&world, "alone");
    });
}

const OTHER: u64 = 7_700_000_000_000_000_001;

/// Another system identifier, as after initdb.
fn becomes_another_cluster(data: &Path) {
    let file = data.join("global/pg_control");
    let mut bytes = fs::read(&file).unwrap();
    bytes[..8].copy_from_slice(&OTHER.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..292]);
    bytes[292..296].copy_from_slice(&crc.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    // The long header of a segment's first page (xlog_internal.h) has it, too.
    let segment = data.join("pg_wal/00000001000000000000001C");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[24..32].copy_from_slice(&OTHER.to_le_bytes());
    fs::write(&segment, bytes).unwrap();
}

#[test]
fn what_is_no_clone_shares_by_trust_alone() {
    ordinary(|| {
        let world = World::empty();
        let first = enrol(&world, "first", "writer,reader");
        let all = backup(&world, &first, "first", None);
        becomes_another_cluster(&world.data());
        let second = enrol(&world, "second", "writer,reader");
        let added = backup(&world, &second, "second", None);
        assert!(added * 10 > all * 9, "{added} of {all}");
        let third = enrol(&world, "third", "writer,reader");
        let added = backup(&world, &third, "third", Some(&first));
        assert!(added * 5 < all, "{added} of {all}");
        restores(&world, "third");
        // One's own packs are shared by all of one's clusters.
        let added = backup(&world, &second, "again", None);
        assert!(added * 5 < all, "{added} of {all}");
    });
}

#[test]
fn snapshots_of_clones_outlive_the_first_ones() {
    ordinary(|| {
        let world = World::empty();
        let (first, clone) = (enrol(&world, "first", "writer,reader"), enrol(&world, "clone", "writer,reader"));
        backup(&world, &first, "first", None);
        backup(&world, &clone, "clone", Some(&first));
        let list = world.run(["list", "--json", "--cluster", "first"]).ok().json();
        let id = list["snapshots"][0]["id"].as_str().unwrap().to_owned();
        let key = world.key();
        world.run(["--key-file", key.to_str().unwrap(), "forget", "--keep-min", "0", &id]).ok();
        world.run(["prune"]).ok();
        restores(&world, "clone");
        // The next backup builds on its own, whatever became of the others'.
        let added = backup(&world, &clone, "clone", None);
        assert!(added < 100_000, "{added}");
        restores(&world, "clone");
    });
}
