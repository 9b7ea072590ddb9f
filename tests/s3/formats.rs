//! The object that says which repository this is, which a host keeps and doesn't ask for each time: whatever becomes of what it
//! keeps, or of the place, no command takes one repository for another.

use std::path::{Path, PathBuf};

use crate::support::s3::on;
use crate::support::s3::proxy::Operation;
use crate::world::{Cluster, World};

/// The kept format objects of the world's host.
fn kept(world: &World) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "format") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(world.repository.host.home(), &mut found);
    found
}

/// How often the format object was asked for meanwhile.
fn asked(world: &World, meanwhile: impl FnOnce()) -> usize {
    world.proxy.forget();
    meanwhile();
    world.proxy.records().iter().filter(|r| r.seen.operation == Operation::Get && r.seen.key == "pg/pgcairn").count()
}

#[test]
fn what_a_host_keeps_of_a_repository_never_opens_another() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 2);
        let (world, other) = (World::new(&service, "5s"), World::new(&service, "5s"));
        let data = world.data(&cluster, "data");
        let id = world.backup(&data).ok().json()["id"].as_str().unwrap().to_owned();
        world.run(&["list"]).ok();
        other.run(&["list"]).ok();
        let file = kept(&world).pop().expect("a kept one");
        let whole = std::fs::read(&file).unwrap();
        let list = || assert_eq!(world.snapshots(), std::slice::from_ref(&id));
        assert_eq!(asked(&world, list), 0, "it is kept to be asked for never");

        let theirs = std::fs::read(kept(&other).pop().unwrap()).unwrap();
        let mut flipped = whole.clone();
        flipped[20] ^= 1;
        let stale = [
            ("empty", vec![]),
            ("cut", whole[..30].to_vec()),
            ("garbage", vec![0xa5; 300]),
            ("a flipped bit", flipped),
            ("another's", theirs),
        ];
        for (what, bytes) in stale {
            std::fs::write(&file, &bytes).unwrap();
            assert_eq!(asked(&world, list), 1, "{what}");
            assert!(std::fs::read(&file).unwrap() == whole, "{what}: kept anew");
            assert_eq!(asked(&world, list), 0, "{what}");
        }

        // All is gone: there is no repository any more, whatever is remembered.
        let everything: Vec<(String, Vec<u8>)> =
            world.bucket.list("pg/").into_iter().map(|key| (key.clone(), world.bucket.get(&key).unwrap())).collect();
        let clear = || world.bucket.list("pg/").iter().for_each(|key| world.bucket.delete(key));
        clear();
        world.run(&["list"]).code(4).says("there is no repository");

        // Another one was made at this place: nothing is read of it, and nothing written to it.
        let stranger = world.repository.host.another();
        let key = world.folder.join("key");
        world.repository.run_on(&stranger, ["init", "--key-file", key.to_str().unwrap()]).ok();
        let made = world.bucket.list("pg/");
        let refused = |what: &str| {
            for arguments in [&["list"][..], &["prune"], &["verify"]] {
                let outcome = world.run(arguments);
                assert!(outcome.status.code() != Some(0), "{what}: {}", outcome.report());
                assert!(outcome.stderr.contains("is not the one that this host knows there"), "{what}: {}", outcome.report());
            }
            assert!(world.backup(&data).status.code() != Some(0), "{what}");
            assert!(world.push(&data, &cluster.wal[0]).status.code() != Some(0), "{what}");
            let (got, bytes) = world.get(cluster.name(0));
            assert!(got.status.code() > Some(125) && bytes.is_none(), "{what}: {}", got.report());
            assert_eq!(world.bucket.list("pg/"), made, "{what}: something was written to it");
        };
        refused("made anew");
        // The same with what would be kept of the new one.
        std::fs::write(&file, world.bucket.get("pg/pgcairn").unwrap()).unwrap();
        refused("made anew, and that is kept");
        std::fs::write(&file, &whole).unwrap();
        refused("made anew, and the old is kept");

        // The old one's object, put over the new one's log.
        world.bucket.put("pg/pgcairn", whole.clone());
        let outcome = world.run(&["list"]);
        assert!(outcome.status.code() != Some(0) && !outcome.stdout.contains(&id), "{}", outcome.report());

        clear();
        everything.iter().for_each(|(key, bytes)| drop(world.bucket.put(key, bytes.clone())));
        list();
        world.push(&data, &cluster.wal[0]).ok();
        world.is_whole();
    });
}
