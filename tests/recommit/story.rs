//! The cluster that changes, the repository of it, and what a prune does besides.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use pgcairn::host::StateDir;
use pgcairn::host::access::{Opened, end_dead_sessions};
use pgcairn::recommit::{Done, Plan, Setting, empty, plan};
use pgcairn::repo::log::{Forget, Head, Held, Kind, PackSet, Packs};
use pgcairn::repo::pack::pack_name;
use pgcairn::repo::{PackRef, RepoError};
use pgcairn::store::ObjectName;
use pgcairn::units::ids::hex;
use pgcairn::units::{Cancel, Digest16, Progress, Quiet};

use crate::support::TestDir;
use crate::world::{World, tree};

/// This machine, as far as sessions know.
pub const MACHINE: [u8; 16] = [7; 16];
/// The relation that changes.
const FILE: &str = "base/5/20000";
/// Pages of an extent.
pub const PAGES: u32 = 32;
/// Extents of the relation.
pub const EXTENTS: u32 = 32;

/// A page that a server would take.
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

/// A repository in which things have happened.
pub struct Story {
    pub world: World,
}

impl Story {
    /// Four snapshots, of which the first two are forgotten. Of the first one's pack, the last six extents are needed: four as
    /// they are, two by patches.
    pub fn new() -> Story {
        let mut story = Story { world: World::empty() };
        story.fill();
        story.world.backup();
        (0..4).for_each(|extent| story.change(extent * PAGES, 1));
        story.world.backup();
        story.rewrite(0..EXTENTS - 6, 2);
        (EXTENTS - 2..EXTENTS).for_each(|extent| story.change(extent * PAGES + 5, 3));
        story.world.backup();
        story.change(3, 4);
        fs::write(story.world.data().join("postgresql.conf"), "port = 5434\n").unwrap();
        story.world.backup();
        for _ in 0..2 {
            let gone = story.world.snapshots.remove(0).0;
            story.forget(&gone);
        }
        story
    }

    /// The relation as it is at first.
    pub fn fill(&self) {
        let bytes: Vec<u8> = (0..EXTENTS * PAGES).flat_map(|n| page(n, 0)).collect();
        fs::write(self.world.data().join(FILE), bytes).unwrap();
    }

    /// One page becomes another.
    pub fn change(&self, number: u32, generation: u32) {
        let path = self.world.data().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes[number as usize * 8192..][..8192].copy_from_slice(&page(number, generation));
        fs::write(path, bytes).unwrap();
    }

    /// Whole extents become others.
    pub fn rewrite(&self, extents: std::ops::Range<u32>, generation: u32) {
        let path = self.world.data().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        for number in extents.start * PAGES..extents.end * PAGES {
            bytes[number as usize * 8192..][..8192].copy_from_slice(&page(number, generation));
        }
        fs::write(path, bytes).unwrap();
    }

    /// Forgets a snapshot.
    pub fn forget(&self, snapshot: &str) {
        self.world.opened(|opened, _| {
            let mut view = opened.view();
            let commit = view.fold.commits_of(snapshot).next().unwrap().0;
            opened.log().append(&mut view, opened.key().unwrap(), &Kind::Forget(Forget { commit, window: false })).unwrap();
        });
    }

    /// Empties packs with all the budget there is.
    pub fn empty(&self) -> Done {
        self.with(&Quiet, &Cancel::new(), |setting| empty(setting, Some(u64::MAX)).unwrap())
    }

    pub fn plan(&self) -> Plan {
        self.with(&Quiet, &Cancel::new(), |setting| plan(setting, Some(u64::MAX)).unwrap())
    }

    /// What a maintainer of this host works with.
    pub fn with<R>(&self, progress: &dyn Progress, cancel: &Cancel, then: impl FnOnce(&Setting<'_>) -> R) -> R {
        self.world.opened(|opened, state| then(&setting(opened, state, progress, cancel)))
    }

    /// The newest entry of the log.
    pub fn head(&self) -> Head {
        self.world.opened(|opened, _| {
            let view = opened.view();
            Head { number: view.newest.number, hash: view.newest.hash }
        })
    }

    /// Snapshot id → content digest, and how many COMMITs it has.
    pub fn digests(&self) -> BTreeMap<String, (Digest16, usize)> {
        self.world.opened(|opened, _| {
            let view = opened.view();
            let one =
                |c: &pgcairn::repo::log::LiveCommit| (c.summary.id.clone(), (c.root.digest, view.fold.commits_of(&c.summary.id).count()));
            view.fold.commits.values().map(one).collect()
        })
    }

    /// Frees what no snapshot names, as `prune` does; how many packs went.
    pub fn sweep(&self) -> usize {
        self.world.opened(|opened, state| {
            end_dead_sessions(opened, &state.locks(), &hex(&MACHINE), &Quiet).unwrap();
            sweep(opened)
        })
    }

    /// Every snapshot is what the cluster was, for a host that has nothing but the key file; and verify finds nothing.
    #[track_caller]
    pub fn assert_whole(&self) {
        for (id, expected) in &self.world.snapshots {
            let (_, restored) = self.restore(id);
            assert!(restored == *expected, "snapshot {id} is another one: {:?}", differing(&restored, expected));
        }
        let verified = self.world.run(["verify", "--read-data", "--json"]).ok().json();
        assert_eq!(verified["snapshots"].as_u64(), Some(self.world.snapshots.len() as u64));
    }

    /// A restore of a snapshot, and what it gave.
    #[track_caller]
    pub fn restore(&self, id: &str) -> (TestDir, BTreeMap<PathBuf, Vec<u8>>) {
        let (outcome, folder) = self.world.restore_afresh(&self.world.repository(), &[id]);
        outcome.ok();
        let restored = tree(&folder.join("data"));
        (folder, restored)
    }

    /// The packs that a session stored, largest first.
    pub fn packs_of_session(&self, which: usize) -> Vec<PackRef> {
        self.world.opened(|opened, _| {
            let view = opened.view();
            let mut sessions: Vec<_> = view.fold.sessions.iter().collect();
            sessions.sort_by_key(|(_, s)| s.begin);
            let (session, s) = sessions[which];
            let one = |(id, f): (&pgcairn::units::PackId, &pgcairn::repo::log::PackFacts)| PackRef {
                session: *session,
                id: *id,
                hash: f.hash,
                size: f.size,
                tail: f.tail,
            };
            let mut packs: Vec<PackRef> = s.packs.iter().map(one).collect();
            packs.sort_by_key(|p| std::cmp::Reverse(p.size));
            packs
        })
    }

    /// Where a pack's object lies.
    pub fn path_of(&self, pack: &PackRef) -> PathBuf {
        self.world.repository().join(pack_name(pack.session, pack).unwrap().as_str())
    }
}

pub fn setting<'a>(opened: &'a Arc<Opened>, state: &'a StateDir, progress: &'a dyn Progress, cancel: &'a Cancel) -> Setting<'a> {
    Setting { opened, state, machine: MACHINE, trust_writers: &[], sort_blobs: true, cancel, progress }
}

fn sweep(opened: &Opened) -> usize {
    let named = |set: &PackSet| Kind::Condemn(Packs { packs: Held::Inline(set.clone()) });
    let mut view = opened.view();
    let key = opened.key().unwrap();
    let fold = &view.fold;
    let ended = fold.sessions.iter().filter(|(_, s)| !s.open);
    let all = ended.flat_map(|(session, s)| s.packs.iter().map(move |(id, f)| (*session, *id, *f)));
    let dead: Vec<_> = all.filter(|(session, id, _)| !fold.is_named(session, id)).collect();
    let set: PackSet = dead.iter().map(|(session, id, _)| (*session, *id)).collect();
    let fresh: PackSet =
        dead.iter().filter(|(session, id, _)| fold.condemned_at(session, id).is_none()).map(|(session, id, _)| (*session, *id)).collect();
    if !fresh.is_empty() {
        opened.log().append(&mut view, key, &named(&fresh)).unwrap();
    }
    if dead.is_empty() {
        return 0;
    }
    opened.log().append(&mut view, key, &Kind::Sweep(Packs { packs: Held::Inline(set) })).unwrap();
    for (session, id, f) in &dead {
        let pack = PackRef { session: *session, id: *id, hash: f.hash, size: f.size, tail: f.tail };
        let name: Result<ObjectName, RepoError> = pack_name(*session, &pack);
        opened.backend.delete(&name.unwrap()).unwrap();
    }
    dead.len()
}

fn differing(a: &BTreeMap<PathBuf, Vec<u8>>, b: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<PathBuf> {
    a.keys().chain(b.keys()).filter(|path| a.get(*path) != b.get(*path)).cloned().collect()
}
