//! Whole backups of a stopped server's data directory, while others forget and prune what they build upon.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::relation::relation;
use super::world::Reader;
use crate::backup::run::{Options, Outcome, Setting, run};
use crate::backup::source::Disk;
use crate::host::access::testing::{Host, Meanwhile, Moment};
use crate::host::access::{Opened, append};
use crate::repo::PackRef;
use crate::repo::log::{Forget, Held, Kind, LiveCommit, PackSet, Packs as ListedPacks, WalMode};
use crate::repo::pack::{Packs, Place, pack_name};
use crate::repo::structure::Snapshot;
use crate::store::Backend;
use crate::store::memory::MemoryStore;
use crate::units::{Cancel, Quiet};

/// The relation's file, and its pages.
const FILE: &str = "base/5/16384";

/// A data directory as a stopped server leaves it.
fn cluster(data: &Path) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pg/18");
    for folder in ["global", "base/5", "pg_wal"] {
        fs::create_dir_all(data.join(folder)).unwrap();
    }
    let mut control = fs::read(fixtures.join("pg_control")).unwrap();
    // The last checkpoint: the one that a stopped server wrote into the fixture's last segment.
    for at in [32, 40] {
        control[at..at + 8].copy_from_slice(&0x1C0_0028u64.to_le_bytes());
    }
    let crc = crc32c::crc32c(&control[..292]);
    control[292..296].copy_from_slice(&crc.to_le_bytes());
    control.resize(8192, 0);
    let segment = zstd::decode_all(&fs::read(fixtures.join("00000001000000000000001C.zst")).unwrap()[..]).unwrap();
    for (name, bytes) in [
        ("PG_VERSION", b"18\n".as_slice()),
        ("global/pg_control", &control),
        (FILE, &relation(96, 1)),
        ("pg_wal/00000001000000000000001C", &segment),
    ] {
        fs::write(data.join(name), bytes).unwrap();
    }
}

struct World {
    store: Arc<dyn Backend>,
    meanwhile: Arc<Meanwhile>,
    host: Arc<Host>,
    data: tempfile::TempDir,
}

fn world() -> World {
    let store: Arc<dyn Backend> = Arc::new(MemoryStore::default());
    let meanwhile = Meanwhile::over(Arc::clone(&store));
    let host = Arc::new(Host::new(Arc::clone(&meanwhile) as _));
    let data = tempfile::tempdir().unwrap();
    cluster(data.path());
    World { store, meanwhile, host, data }
}

impl World {
    fn backup(&self) -> Outcome {
        let setting = Setting {
            opened: &self.host.opened,
            state: &self.host.state,
            machine: [7; 16],
            source: &Disk,
            archived: &|_, _| Ok(None),
            server: None,
            cancel: &Cancel::new(),
            progress: &Quiet,
        };
        let options = Options {
            cluster: "shop".into(),
            pgdata: Some(self.data.path().into()),
            labels: Default::default(),
            wal: WalMode::Copy,
            wal_timeout: Default::default(),
            fast: true,
            verify_unchanged: false,
            new_history: false,
            cdc_for_all: false,
            trust_writers: Vec::new(),
            sort_blobs: true,
            egress_price: 0.0,
            is_amazon: false,
            jobs: 2,
        };
        run(&setting, &options).unwrap_or_else(|e| panic!("{e}"))
    }

    fn next_entry(&self) -> u64 {
        self.host.opened.refresh().unwrap();
        self.host.opened.view().newest.number + 1
    }

    /// The only live snapshot's number and COMMIT.
    fn only(&self) -> (u64, LiveCommit) {
        self.host.opened.refresh().unwrap();
        let view = self.host.opened.view();
        assert_eq!(view.fold.commits.len(), 1);
        view.fold.commits.first_key_value().map(|(n, c)| (*n, c.clone())).unwrap()
    }

    /// The relation's bytes in the only live snapshot.
    fn stored(&self) -> Vec<u8> {
        let (_, commit) = self.only();
        let opened = &self.host.opened;
        let packs: Packs = opened.packs_of(&opened.view().fold, &commit).unwrap();
        let opening = opened.opening.as_ref().unwrap();
        let at = commit.root.place;
        let place = Place { pack: at.pack, blob: at.blob, position: at.position as u16 };
        let snapshot = Snapshot::open(&packs, opening, commit.root.chunk.short(), place, commit.root.digest).unwrap();
        let mut bytes = None;
        let reader = Reader { packs: &packs, opening, snapshot: &snapshot };
        reader.walk(&mut |path, file, reader| {
            if path == Path::new(FILE) {
                bytes = Some(reader.read(file));
            }
        });
        bytes.unwrap()
    }
}

/// How far somebody comes with what is forgotten.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
enum Until {
    Forgotten,
    Condemned,
    Swept,
}

/// Forgets a snapshot, and lets its packs go.
fn forget(opened: &Opened, commit: u64, until: Until) {
    let packs: Vec<PackRef> = {
        let view = opened.view();
        let refs = |(session, id): (&_, &_)| {
            let f = view.fold.pack(session, id).unwrap();
            PackRef { session: *session, id: *id, hash: f.hash, size: f.size, tail: f.tail }
        };
        view.fold.commits[&commit].set.iter().map(refs).collect()
    };
    let set: PackSet = packs.iter().map(|p| (p.session, p.id)).collect();
    let named = || ListedPacks { packs: Held::Inline(set.clone()) };
    append(opened, &Kind::Forget(Forget { commit, window: false })).unwrap();
    if until >= Until::Condemned {
        append(opened, &Kind::Condemn(named())).unwrap();
    }
    if until >= Until::Swept {
        append(opened, &Kind::Sweep(named())).unwrap();
        packs.iter().for_each(|pack| opened.backend.delete(&pack_name(pack.session, pack).unwrap()).unwrap());
    }
}

#[test]
fn a_parent_that_goes_right_before_begin_is_none() {
    for until in [Until::Forgotten, Until::Condemned, Until::Swept] {
        let world = world();
        let first = world.backup();
        let (number, _) = world.only();
        let (host, store) = (Arc::clone(&world.host), Arc::clone(&world.store));
        world.meanwhile.at_entry(Moment::BeforeCreate, world.next_entry(), move || forget(&host.again(store).unwrap(), number, until));
        let second = world.backup();
        assert!(world.meanwhile.is_over(), "{until:?}: the moment was missed");
        assert_ne!(second.summary.id, first.summary.id);
        assert_eq!(second.summary.parent, None, "{until:?}");
        // What was condemned before it began may be swept at any time: it names nothing of that.
        let (_, commit) = world.only();
        let named = commit.set.iter().filter(|(session, _)| **session != commit.session).count();
        assert_eq!(named > 0, until == Until::Forgotten, "{until:?}: {named} packs of others");
        assert_eq!(world.stored(), relation(96, 1), "{until:?}");
    }
}

#[test]
fn a_parent_that_goes_after_begin_is_one() {
    for until in [Until::Forgotten, Until::Condemned] {
        let world = world();
        let first = world.backup();
        let (number, _) = world.only();
        let (host, store) = (Arc::clone(&world.host), Arc::clone(&world.store));
        world.meanwhile.at_entry(Moment::AfterCreate, world.next_entry(), move || forget(&host.again(store).unwrap(), number, until));
        let second = world.backup();
        assert!(world.meanwhile.is_over(), "{until:?}: the moment was missed");
        let parent = second.summary.parent.as_ref();
        assert!(parent.is_none() || parent == Some(&first.summary.id));
        let (_, commit) = world.only();
        assert!(commit.set.iter().any(|(session, _)| *session != commit.session), "{until:?}: what is there is used");
        assert!(world.host.opened.view().fold.condemned.values().all(|packs| packs.is_empty()), "{until:?}: it lives on");
        assert_eq!(world.stored(), relation(96, 1), "{until:?}");
    }
}
