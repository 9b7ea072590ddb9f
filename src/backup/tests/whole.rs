//! Backups of a stopped cluster from their first look to their COMMIT.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::files::{Call, Files};
use super::relation::{OLD, PAGE, noise, page, put_page, relation};
use super::world::{Reader, Warnings};
use crate::backup::BackupError;
use crate::backup::run::{Options, Outcome, Setting, run};
use crate::host::access::testing::{Flaky, Host};
use crate::pg::facts::ClusterFacts;
use crate::repo::PackRef;
use crate::repo::log::{LiveCommit, WalMode};
use crate::repo::pack::{Place, pack_name};
use crate::repo::structure::Snapshot;
use crate::store::{Backend, ObjectName};
use crate::units::Cancel;
use crate::units::ids::unhex;

/// The segment that the fixture's control file names, by its checkpoint.
const SEGMENT: &str = "00000001000000000000001D";
const CONTROL: &str = "global/pg_control";

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/pg/15/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A control file of a cluster that was stopped.
fn control_file() -> Vec<u8> {
    let mut bytes = fixture("pg_control");
    bytes.resize(8192, 0);
    bytes
}

/// A segment of 1 MiB that holds the record of the shutdown, and nothing else.
fn last_segment() -> Vec<u8> {
    let start: u64 = 0x1D << 20;
    let mut bytes = Vec::new();
    bytes.extend(0xD110u16.to_le_bytes());
    bytes.extend(2u16.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(&control_file()[..8]);
    bytes.extend((1u32 << 20).to_le_bytes());
    bytes.extend(8192u32.to_le_bytes());
    let payload = [[255, 88].as_slice(), &[0; 88]].concat();
    let mut head = Vec::new();
    head.extend((24 + payload.len() as u32).to_le_bytes());
    head.extend([0; 4]);
    head.extend((start - 100).to_le_bytes());
    head.extend([0; 4]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&payload), &head);
    bytes.extend(head);
    bytes.extend(crc.to_le_bytes());
    bytes.extend(payload);
    bytes.resize(1 << 20, 0);
    bytes
}

/// A host, a repository, and a stopped cluster.
struct World {
    store: Arc<Flaky>,
    host: Host,
    files: Files,
    pgdata: tempfile::TempDir,
    warnings: Warnings,
}

impl World {
    fn new() -> World {
        let store = Arc::new(Flaky::default());
        let host = Host::new(Arc::clone(&store) as _);
        let pgdata = tempfile::tempdir().unwrap();
        let files = Files::cluster(pgdata.path());
        let world = World { store, host, files, pgdata, warnings: Warnings::default() };
        // What is read without the source.
        std::fs::create_dir(world.at("pg_wal")).unwrap();
        for (name, bytes) in
            [("PG_VERSION", b"15\n".to_vec()), ("postgresql.conf", Vec::new()), (&format!("pg_wal/{SEGMENT}"), last_segment())]
        {
            std::fs::write(world.at(name), &bytes).unwrap();
            world.files.file(world.at(name), bytes);
        }
        world.files.file(world.at(CONTROL), control_file());
        world.files.file(world.at("global/pg_filenode.map"), fixture("pg_filenode.map"));
        world.files.file(world.at("base/5/16384"), relation(70, 1));
        world.files.file(world.at("base/5/16385"), relation(3, 2));
        world.files.file(world.at("base/5/large"), noise(3, 300_000));
        world.files.file(world.at("pg_xact/0000"), noise(4, 8192));
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.pgdata.path().join(path)
    }

    fn backup(&self) -> Result<Outcome, BackupError> {
        self.backup_by(2)
    }

    /// With so many threads.
    fn backup_by(&self, jobs: usize) -> Result<Outcome, BackupError> {
        let options = Options {
            egress_price: 0.0,
            is_amazon: false,
            cluster: "shop".into(),
            pgdata: Some(self.pgdata.path().to_owned()),
            labels: BTreeMap::new(),
            wal: WalMode::Copy,
            wal_timeout: Duration::ZERO,
            fast: true,
            verify_unchanged: false,
            new_history: false,
            cdc_for_all: false,
            trust_writers: Vec::new(),
            sort_blobs: true,
            jobs,
        };
        let cancel = Cancel::new();
        let setting = Setting {
            opened: &self.host.opened,
            state: &self.host.state,
            machine: [1; 16],
            source: &self.files,
            archived: &|_, _| Ok(None),
            server: None,
            cancel: &cancel,
            progress: &self.warnings,
        };
        run(&setting, &options)
    }

    fn commit(&self, outcome: &Outcome) -> LiveCommit {
        self.host.opened.view().fold.commits[&outcome.head.number].clone()
    }

    /// Reads a snapshot out of the packs that its COMMIT names.
    fn read(&self, outcome: &Outcome) -> (BTreeMap<PathBuf, Vec<u8>>, ClusterFacts) {
        let commit = self.commit(outcome);
        let packs = self.host.opened.packs_of(&self.host.opened.view().fold, &commit).unwrap();
        let (root, opening) = (commit.root, self.host.opened.reader().unwrap());
        let place = Place { pack: root.place.pack, blob: root.place.blob, position: root.place.position as u16 };
        let snapshot = Snapshot::open(&packs, opening, root.chunk.short(), place, root.digest).unwrap();
        let mut all = BTreeMap::new();
        Reader { packs: &packs, opening, snapshot: &snapshot }.walk(&mut |path, file, reader| {
            all.insert(path, reader.read(file));
        });
        (all, serde_json::from_value(snapshot.meta().extra.clone()).unwrap())
    }

    /// What is in the snapshot is what is in the cluster, and pg_control beside it.
    fn assert_whole(&self, outcome: &Outcome) {
        let (stored, facts) = self.read(outcome);
        let mut control = unhex(&facts.control_file).unwrap();
        control.resize(8192, 0);
        assert!(control == control_file());
        let there: Vec<PathBuf> = stored.keys().map(|path| self.pgdata.path().join(path)).collect();
        let expected: Vec<PathBuf> = self.files.all_files().into_iter().filter(|path| *path != self.at(CONTROL)).collect();
        assert_eq!(there, expected);
        for (path, bytes) in stored {
            assert!(bytes == self.files.bytes(self.pgdata.path().join(&path)), "{}", path.display());
        }
        assert_eq!(outcome.summary.files, expected.len() as u64);
    }

    /// All packs of all sessions.
    fn packs(&self) -> Vec<PackRef> {
        let view = self.host.opened.view();
        let sessions = view.fold.sessions.iter();
        sessions
            .flat_map(|(session, s)| {
                let one = |(id, f): (&crate::units::PackId, &crate::repo::log::PackFacts)| PackRef {
                    session: *session,
                    id: *id,
                    hash: f.hash,
                    size: f.size,
                    tail: f.tail,
                };
                s.packs.iter().map(one).collect::<Vec<_>>()
            })
            .collect()
    }

    fn stored_packs(&self) -> BTreeSet<String> {
        let folder = ObjectName::new("pack").unwrap();
        self.store.list_sorted(Some(&folder)).unwrap().into_iter().map(|o| o.name.to_string()).collect()
    }

    fn open_sessions(&self) -> usize {
        self.host.opened.refresh().unwrap();
        self.host.opened.view().fold.sessions.values().filter(|s| s.open).count()
    }
}

#[test]
fn a_stopped_cluster_is_stored_whole_and_the_second_time_as_good_as_nothing() {
    let world = World::new();
    let first = world.backup().unwrap();
    world.assert_whole(&first);
    assert_eq!((first.summary.damaged_pages, first.summary.parent.clone()), (0, None));
    assert_eq!(world.open_sessions(), 0);
    world.files.take_opened();
    let second = world.backup().unwrap();
    world.assert_whole(&second);
    assert_eq!(second.summary.parent, Some(first.summary.id.clone()));
    let opened: BTreeSet<PathBuf> = world.files.take_opened().into_iter().collect();
    assert_eq!(opened, BTreeSet::from([world.at(CONTROL), world.at(&format!("pg_wal/{SEGMENT}"))]));
    assert!(second.summary.new_bytes < 30_000, "{}", second.summary.new_bytes);
    // Every object is in a list: nothing is left that nobody could find.
    let listed: BTreeSet<String> = world.packs().iter().map(|p| pack_name(p.session, p).unwrap().to_string()).collect();
    assert_eq!(world.stored_packs(), listed);
    assert_eq!(world.warnings.take(), [] as [String; 0]);
    world.assert_whole(&first);
}

#[test]
fn pg_control_is_read_first_and_after_all_files_of_the_cluster() {
    let world = World::new();
    world.backup().unwrap();
    let opened = world.files.take_opened();
    let last = |path: &str| opened.iter().rposition(|p| *p == world.at(path)).unwrap();
    assert_eq!(opened[0], world.at(CONTROL));
    let control = opened.iter().skip(1).position(|p| *p == world.at(CONTROL)).unwrap() + 1;
    for file in ["PG_VERSION", "base/5/16384", "base/5/16385", "base/5/large", "global/pg_filenode.map", "pg_xact/0000"] {
        assert!(last(file) < control, "{file}: {opened:?}");
    }
}

#[test]
fn a_torn_pg_control_is_read_until_it_is_whole() {
    let world = World::new();
    let (path, mut looks) = (world.at(CONTROL), 0u8);
    let of = path.clone();
    world.files.script(path, move |files, call| {
        if matches!(call, Call::Read(..)) {
            looks += 1;
            // Each look finds another half, every fourth a whole one.
            files.change(&of, |bytes| {
                *bytes = control_file();
                if !looks.is_multiple_of(4) {
                    bytes[40] = bytes[40].wrapping_add(looks);
                }
            });
        }
        Ok(())
    });
    let outcome = world.backup().unwrap();
    let (stored, facts) = world.read(&outcome);
    assert!(!stored.contains_key(Path::new(CONTROL)));
    let mut control = unhex(&facts.control_file).unwrap();
    control.resize(8192, 0);
    assert!(control == control_file());
}

#[test]
fn a_pg_control_that_stays_wrong_or_changes_ends_the_backup() {
    let world = World::new();
    world.files.change(world.at(CONTROL), |bytes| bytes[40] ^= 1);
    assert!(matches!(world.backup(), Err(BackupError::Cluster { .. })));
    // Started while its files were copied.
    let world = World::new();
    let control = world.at(CONTROL);
    world.files.script(world.at("base/5/16384"), move |files, _| {
        files.change(&control, |bytes| {
            *bytes = control_file();
            bytes[24] ^= 1;
            let crc = crc32c::crc32c(&bytes[..288]);
            bytes[288..292].copy_from_slice(&crc.to_le_bytes());
        });
        Ok(())
    });
    assert!(matches!(world.backup(), Err(BackupError::Refused { what, .. }) if what.contains("started")));
    assert_eq!(world.open_sessions(), 0);
    assert!(world.host.opened.view().fold.commits.is_empty());
}

#[test]
fn damage_is_reported_again_by_a_backup_that_finds_all_unchanged() {
    let world = World::new();
    world.files.change(world.at("base/5/16384"), |bytes| put_page(bytes, 40, &page(41, OLD, 1)));
    let first = world.backup().unwrap();
    world.files.take_opened();
    let second = world.backup().unwrap();
    let opened = world.files.take_opened();
    assert!(opened.contains(&world.at("base/5/16384")) && !opened.contains(&world.at("base/5/16385")));
    for outcome in [&first, &second] {
        let [damaged] = outcome.damaged.as_slice() else { panic!("{:?}", outcome.damaged) };
        assert_eq!((damaged.path.as_str(), damaged.block), ("base/5/16384", 40));
        assert_eq!(outcome.summary.damaged_pages, 1);
        assert_eq!(world.read(outcome).1.damaged, outcome.damaged);
        world.assert_whole(outcome);
    }
}

#[test]
fn what_a_failed_backup_has_stored_is_listed_and_used_by_the_next() {
    let world = World::new();
    // More than a pack.
    world.files.file(world.at("base/5/huge"), noise(9, 20 << 20));
    // The look at pg_control after all files fails.
    let control = world.at(CONTROL);
    let mut looks = 0;
    world.files.script(control, move |_, call| {
        looks += u32::from(call == Call::Open);
        if looks > 1 { Err(std::io::Error::from_raw_os_error(nix::libc::EIO)) } else { Ok(()) }
    });
    assert!(matches!(world.backup(), Err(BackupError::Io { .. })));
    assert_eq!(world.open_sessions(), 0);
    let listed: BTreeSet<String> = world.packs().iter().map(|p| pack_name(p.session, p).unwrap().to_string()).collect();
    assert!(!listed.is_empty());
    assert_eq!(world.stored_packs(), listed);
    world.files.script(world.at(CONTROL), |_, _| Ok(()));
    let outcome = world.backup().unwrap();
    world.assert_whole(&outcome);
    assert!(outcome.summary.new_bytes < 10 << 20, "{}", outcome.summary.new_bytes);
    assert!(world.commit(&outcome).set.iter().any(|(session, _)| *session != world.commit(&outcome).session));
}

#[test]
fn packs_that_are_gone_or_cut_off_are_stored_anew() {
    for cut in [false, true] {
        let world = World::new();
        world.backup().unwrap();
        let lost = world.packs();
        for pack in &lost {
            let name = pack_name(pack.session, pack).unwrap();
            if cut {
                assert!(world.store.inner.tamper(&name, |bytes| bytes.truncate(1000)));
            } else {
                world.store.delete(&name).unwrap();
            }
        }
        // The next backup, in a process of its own, knows no table.
        let outcome = world.backup().unwrap();
        world.assert_whole(&outcome);
        assert!(world.commit(&outcome).set.iter().all(|(_, pack)| !lost.iter().any(|l| l.id == *pack)));
        let warnings = world.warnings.take();
        assert!(warnings.iter().any(|w| w.contains("of 2 packs 2 are missing")), "{warnings:?}");
    }
}

#[test]
fn one_lost_pack_of_several_is_done_without() {
    for which in [0, 1] {
        let world = World::new();
        world.backup().unwrap();
        let mut packs = world.packs();
        // The larger one holds content.
        packs.sort_by_key(|p| p.size);
        world.store.delete(&pack_name(packs[which].session, &packs[which]).unwrap()).unwrap();
        let second = world.backup().unwrap();
        world.assert_whole(&second);
        assert!(!world.commit(&second).set.contains(&packs[which].session, &packs[which].id));
        let third = world.backup().unwrap();
        world.assert_whole(&third);
        assert!(third.summary.new_bytes < 30_000);
        assert_eq!(third.summary.parent, Some(second.summary.id.clone()));
    }
}

/// The parent can be read, and what a file of it needs is gone: `stat` alone must not make it part of the next snapshot.
#[test]
fn a_file_whose_pack_is_gone_is_not_inherited() {
    let world = World::new();
    world.backup().unwrap();
    let mut before = world.packs();
    before.sort_by_key(|p| p.size);
    let content = before.pop().unwrap();
    // Each part that has files gets attributes anew, so that the second snapshot tells of all files without the first's.
    for file in ["PG_VERSION", "base/5/16385", "base/5/large", "global/pg_filenode.map", "pg_xact/0000"] {
        world.files.write(world.at(file), |_| {});
    }
    world.backup().unwrap();
    world.store.delete(&pack_name(content.session, &content).unwrap()).unwrap();
    world.files.take_opened();
    let third = world.backup().unwrap();
    assert!(world.files.take_opened().contains(&world.at("base/5/16384")));
    world.assert_whole(&third);
    assert!(!world.commit(&third).set.contains(&content.session, &content.id));
}

/// Where more pages are damaged than a snapshot names, no file is known to be whole.
#[test]
fn beside_unnamed_damage_nothing_is_inherited() {
    let world = World::new();
    world.files.file(world.at("base/5/1"), vec![0x11; 10_000 * PAGE]);
    world.files.file(world.at("base/5/2"), vec![0x11; PAGE]);
    let first = world.backup_by(1).unwrap();
    assert_eq!((first.summary.damaged_pages, first.damaged.len()), (10_001, 10_000));
    assert!(first.damaged.iter().all(|page| page.path == "base/5/1"));
    world.files.remove(world.at("base/5/1"));
    let second = world.backup().unwrap();
    assert_eq!(second.summary.damaged_pages, 1);
    world.assert_whole(&second);
}

/// What was read behind a hole is stored and not needed: the packs that hold nothing else are listed all the same.
#[test]
fn packs_of_which_nothing_is_needed_in_the_end_are_listed() {
    let world = World::new();
    let file = world.at("base/5/16386");
    let mut bytes = noise(5, 48 << 20);
    for page in bytes.chunks_mut(PAGE) {
        page[..24].copy_from_slice(&super::relation::page(0, OLD, 1)[..24]);
    }
    world.files.change(world.at(CONTROL), |bytes| {
        bytes[252] = 0;
        let crc = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&crc.to_le_bytes());
    });
    world.files.file(&file, bytes.clone());
    let of = file.clone();
    world.files.script(file, move |files, call| {
        match call {
            Call::Read(0, _) => files.change(&of, Vec::clear),
            Call::Read(offset, _) if offset == 8 << 20 => files.change(&of, |b| b.clone_from(&bytes)),
            _ => {}
        }
        Ok(())
    });
    let outcome = world.backup_by(1).unwrap();
    assert_eq!(outcome.summary.damaged_pages, 0);
    assert_eq!(world.read(&outcome).0[Path::new("base/5/16386")], b"");
    let listed: BTreeSet<String> = world.packs().iter().map(|p| pack_name(p.session, p).unwrap().to_string()).collect();
    assert_eq!(world.stored_packs(), listed);
    assert!(world.commit(&outcome).set.iter().count() < listed.len());
}

#[test]
fn a_commit_whose_answer_was_lost_is_a_snapshot() {
    let world = World::new();
    // log/0 is the repository's, log/1 BEGIN.
    world.store.lose_answers(2, 6);
    let outcome = world.backup().unwrap();
    assert_eq!(outcome.head.number, 2);
    world.assert_whole(&outcome);
    assert_eq!(world.open_sessions(), 0);
}

#[test]
fn a_cluster_that_is_another_is_refused() {
    let world = World::new();
    world.backup().unwrap();
    world.files.change(world.at(CONTROL), |bytes| {
        bytes[0] ^= 1;
        let crc = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&crc.to_le_bytes());
    });
    assert!(matches!(world.backup(), Err(BackupError::Refused { what, .. }) if what.contains("system identifier")));
}
