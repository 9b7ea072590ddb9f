//! A thief has everything that lies on the disk of a host that is writer only: state, cache, configuration. Nothing of the past
//! can be read with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use pgcairn::crypt::{ChunkRole, ContentSecret, Opening, Secret};
use pgcairn::host::access::Opened;
use pgcairn::repo::PackRef;
use pgcairn::repo::pack::{Packs, Place};
use pgcairn::repo::wal::WalFront;
use pgcairn::store::ObjectName;
use pgcairn::units::ids::unhex;

use crate::support::{Host, Outcome, ordinary};
use crate::world::{SEGMENTS, World, objects};
use crate::write_only::write_only;

/// What could be opened of what there is: blobs of content, nodes, WAL files, their metadata, bodies.
#[derive(Default, Debug, PartialEq, Eq)]
struct Opens {
    content: (usize, usize),
    nodes: (usize, usize),
    wal: (usize, usize),
    wal_facts: usize,
}

fn bump(counted: &mut (usize, usize), opened: bool) {
    counted.0 += usize::from(opened);
    counted.1 += 1;
}

/// Tries everything in the repository.
fn try_all(world: &World, opened: &Opened, opening: &Opening) -> Opens {
    let mut opens = Opens::default();
    opened.read_whole().unwrap();
    let packs = Packs::new(std::sync::Arc::clone(&opened.backend), opened.sealing.clone());
    let sessions = opened.view().fold.sessions.clone();
    let mut ids = Vec::new();
    for (session, s) in &sessions {
        for (id, f) in &s.packs {
            packs.add([PackRef { session: *session, id: *id, hash: f.hash, size: f.size, tail: f.tail }]);
            ids.push(*id);
        }
    }
    for pack in ids {
        let table = packs.table(pack).unwrap();
        for (blob, row) in table.rows().iter().enumerate() {
            let (chunk, _) = row.chunks[0];
            let place = Place { pack, blob: blob as u32, position: 0 };
            match row.role {
                ChunkRole::Structure => bump(&mut opens.nodes, packs.node(chunk.short(), place).is_ok()),
                ChunkRole::Content => {
                    let key = opening.open_envelope(table.envelope(row).unwrap());
                    let read = packs.content(opening, chunk.short(), place);
                    assert_eq!(key.is_ok(), read.is_ok());
                    bump(&mut opens.content, read.is_ok());
                }
            }
        }
    }
    for name in objects(&world.repository()).into_iter().filter(|name| name.starts_with("wal/")) {
        let bytes = fs::read(world.repository().join(&name)).unwrap();
        let (object, file) = (ObjectName::new(name.clone()).unwrap(), name.rsplit('/').next().unwrap());
        let front = WalFront::decode(&opened.sealing, opened.format.repository, file, &object, &bytes).unwrap();
        opens.wal_facts += 1;
        let parts = &bytes[front.parts_at() as usize..];
        bump(&mut opens.wal, front.open(opening, &object, parts).is_ok());
    }
    opens
}

/// Every 32 bytes that could be a key: in hex, or as they are at any place of a small file.
fn secrets(folder: &Path, found: &mut BTreeSet<[u8; 32]>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            secrets(&path, found);
            continue;
        }
        let bytes = fs::read(path).unwrap();
        for run in bytes.split(|b| !b.is_ascii_hexdigit()).filter(|run| run.len() == 64) {
            found.extend(unhex(std::str::from_utf8(run).unwrap()).and_then(|b| <[u8; 32]>::try_from(b).ok()));
        }
        if bytes.len() < 4096 {
            found.extend(bytes.windows(32).map(|window| <[u8; 32]>::try_from(window).unwrap()));
        }
    }
}

fn contents(secrets: impl IntoIterator<Item = [u8; 32]>) -> Vec<ContentSecret> {
    secrets.into_iter().filter_map(|s| ContentSecret::new(Secret::new(s)).ok()).collect()
}

#[test]
fn a_thief_of_a_write_only_host_reads_nothing_of_the_past() {
    ordinary(|| {
        let mut world = World::empty();
        let host = write_only(&world, "db1");
        fs::create_dir_all(host.home().join(".config/pgcairn")).unwrap();
        fs::write(host.home().join(".config/pgcairn/pgcairn.toml"), format!("[repository.local]\nurl = {:?}\n", world.repository()))
            .unwrap();
        let marked = [b"a secret of the past".as_slice(), &[7; 300]].concat();
        fs::write(world.data().join("own/secret"), &marked).unwrap();
        for generation in 0..3 {
            fs::write(world.data().join("base/5/16384"), crate::world::pages(80, generation)).unwrap();
            world.run_on(&host, &world.repository(), world.backup_arguments()).ok();
        }
        world.backup();
        world.run_on(&host, &world.repository(), ["archive-push", world.wal(SEGMENTS[0]).to_str().unwrap()]).ok();
        let thief = Host::new();
        crate::support::copy_tree(host.home(), &thief.home().join("stolen"));
        // By their commands.
        let stolen = thief.home().join("stolen");
        let snapshot = crate::with(&world, &host, &[], &["list", "--json"]).ok().json()["snapshots"][0]["id"].as_str().unwrap().to_owned();
        let mut command = thief.command(["--repo", world.repository().to_str().unwrap(), "cat", &snapshot, "own/secret"]);
        command.env("PGCAIRN_STATE_DIR", stolen.join(".local/state/pgcairn")).env("PGCAIRN_CACHE_DIR", stolen.join(".cache/pgcairn"));
        Outcome::of(command).code(1).says("can't read here");
        // By the library, with whatever on that disk could be a key.
        let mut found = BTreeSet::new();
        secrets(&stolen, &mut found);
        assert!(found.len() > 10, "{} candidates", found.len());
        let theirs = crate::hosts::opened(&world, &host, |opened| {
            assert!(opened.opening.is_none());
            try_all(&world, opened, &Opening::new(opened.sealing.clone(), contents(found.iter().copied())))
        });
        let owner = world.opened(|opened, _| try_all(&world, opened, opened.opening.as_ref().unwrap()));
        assert_eq!((theirs.content.0, theirs.wal.0), (0, 0), "a thief reads: {theirs:?}");
        // What is documented: structure, and facts of WAL files.
        assert_eq!((theirs.nodes.0, theirs.wal_facts), (theirs.nodes.1, owner.wal_facts));
        assert!(theirs.content.1 > 10 && theirs.nodes.1 > 10 && theirs.wal.1 == 1, "{theirs:?}");
        // The same attempts by who reads: they can succeed.
        assert_eq!((owner.content.0, owner.wal.0), (theirs.content.1, theirs.wal.1));
        let mut of_owner = BTreeSet::new();
        secrets(&world.host.home().join(".local"), &mut of_owner);
        let by_search = world.opened(|opened, _| try_all(&world, opened, &Opening::new(opened.sealing.clone(), contents(of_owner))));
        assert_eq!(by_search.content.0, by_search.content.1, "the search for keys finds one where there is one");
        // No content lies on that disk as it is.
        assert!(!crate::holds(&stolen, b"a secret of the past"));
        assert!(!crate::holds(&stolen, &crate::world::pages(1, 0)[200..300]));
    });
}
