//! Sessions over a repository in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::session::{OpenSession, end_dead_sessions};
use super::testing::{Flaky, Host};
use crate::host::HostError;
use crate::repo::PackRef;
use crate::repo::log::{
    Begin, Commit, CommitLists, Held, LogError, NewPacks, PackSet, Place, Root, SnapshotWal, Summary, WalMode, WalPosition, WalRange,
    entry_name,
};
use crate::repo::write::Uploaded;
use crate::store::{Backend, ObjectName};
use crate::units::{ChunkId, Digest16, Hash32, Lsn, PackId, Quiet, SegmentSize, SessionId, TimelineId, Timestamp};

const SYSTEM: u64 = 77;
const MACHINE: &str = "0123abcd";
const MIB: u64 = 1 << 20;

struct World {
    store: Arc<Flaky>,
    host: Host,
}

fn world() -> World {
    let store = Arc::new(Flaky::default());
    let host = Host::new(Arc::clone(&store) as _);
    World { store, host }
}

impl World {
    fn begin(&self) -> OpenSession {
        let begin = Begin {
            purpose: "backup".into(),
            cluster: Some("shop".into()),
            system_identifier: Some(SYSTEM),
            machine: MACHINE.into(),
            floor: Some(WalPosition { timeline: TimelineId(1), lsn: Lsn(0x300_0028) }),
            ..Begin::default()
        };
        OpenSession::begin(&self.host.opened, &self.host.state.locks(), begin).unwrap()
    }

    /// How many entries the log has.
    fn entries(&self) -> u64 {
        (0..).find(|n| self.store.inner.size(&ObjectName::new(entry_name(*n)).unwrap()).is_err()).unwrap()
    }

    fn is_open(&self, session: SessionId) -> bool {
        self.host.opened.refresh().unwrap();
        self.host.opened.view().fold.is_open(&session)
    }

    /// The packs in a session's list.
    fn listed(&self, session: SessionId) -> Vec<u8> {
        self.host.opened.refresh().unwrap();
        self.host.opened.view().fold.sessions[&session].packs.keys().map(|p| p.0[0]).collect()
    }
}

fn pack(session: &OpenSession, number: u8, size: u64) -> PackRef {
    PackRef { session: session.id(), id: PackId([number; 16]), hash: Hash32([number; 32]), size, tail: 1000 }
}

/// Tells of so many packs of this size; how many entries the log has after each.
fn tell(world: &World, session: &OpenSession, first: u8, count: u8, size: u64) -> Vec<u64> {
    let tell = |number| {
        session.told(Uploaded::Pack(&pack(session, number, size))).unwrap();
        world.entries()
    };
    (first..first + count).map(tell).collect()
}

/// A COMMIT that names packs of its session.
fn commit(session: &OpenSession, packs: &[u8], new: NewPacks) -> Commit {
    let (start, stop) = (Lsn(0x400_0028), Lsn(0x500_0100));
    let wal = SnapshotWal {
        timeline: TimelineId(1),
        start_lsn: start,
        stop_lsn: stop,
        segment_size: SegmentSize::DEFAULT,
        ranges: vec![WalRange { timeline: TimelineId(1), first: start, last: stop }],
        ancestry: Vec::new(),
        mode: WalMode::Archive,
    };
    Commit {
        session: session.id(),
        summary: Summary {
            id: "20231114T221320Z-0001".into(),
            kind: "physical".into(),
            cluster: "shop".into(),
            system_identifier: SYSTEM,
            started_at: Timestamp(1_700_000_000_000_000),
            finished_at: Timestamp(1_700_000_060_000_000),
            wal: Some(wal),
            pg_version: "18.1".into(),
            cluster_bytes: 1,
            read_bytes: 1,
            changed_bytes: 1,
            new_bytes: 1,
            files: 1,
            damaged_pages: 0,
            parent: None,
            labels: BTreeMap::new(),
        },
        root: Root {
            chunk: ChunkId([1; 32]),
            place: Place { pack: PackId([packs[0]; 16]), blob: 0, position: 0 },
            digest: Digest16([1; 16]),
        },
        lists: Held::Inline(CommitLists {
            new,
            set: packs.iter().map(|p| (session.id(), PackId([*p; 16]))).collect::<PackSet>(),
            less: PackSet::default(),
            ledger: Vec::new(),
        }),
        replaces: None,
    }
}

#[test]
fn progress_lists_packs_after_eight_mib_and_then_after_twice_as_many() {
    let world = world();
    let session = world.begin();
    assert_eq!(world.entries(), 2);
    // 7 MiB, and the eighth.
    assert_eq!(tell(&world, &session, 1, 7, MIB), [2; 7]);
    assert_eq!(tell(&world, &session, 8, 1, MIB), [3]);
    assert_eq!(world.listed(session.id()), (1..=8).collect::<Vec<_>>());
    // 16 MiB.
    assert_eq!(tell(&world, &session, 20, 4, 4 * MIB), [3, 3, 3, 4]);
    // 32 MiB: all but the last byte, and that.
    assert_eq!(tell(&world, &session, 30, 1, 32 * MIB - 1), [4]);
    assert!(!world.listed(session.id()).contains(&30));
    assert_eq!(tell(&world, &session, 31, 1, 1), [5]);
    // Never more than 2 GiB.
    assert_eq!(tell(&world, &session, 40, 1, 3 << 30), [6]);
    assert_eq!(tell(&world, &session, 41, 2, 1 << 30), [6, 7]);
    assert_eq!(tell(&world, &session, 43, 2, 1 << 30), [7, 8]);
    assert!(session.unlisted().is_empty());
    session.abort().unwrap();
}

#[test]
fn an_idle_session_says_nothing_before_it_is_time() {
    let world = world();
    let session = world.begin();
    session.told(Uploaded::Idle).unwrap();
    assert_eq!(world.entries(), 2);
}

#[test]
fn what_was_not_listed_is_listed_before_the_session_is_aborted() {
    for dropped in [false, true] {
        let world = world();
        let session = world.begin();
        let id = session.id();
        tell(&world, &session, 1, 2, MIB);
        assert_eq!(world.entries(), 2);
        if dropped {
            drop(session)
        } else {
            session.abort().unwrap()
        }
        assert_eq!(world.entries(), 4);
        assert!(!world.is_open(id));
        assert_eq!(world.listed(id), [1, 2]);
        // The next session may name them.
        let next = world.begin();
        let adopted = next.adopted(&[], None);
        assert_eq!(adopted.packs.len(), 2);
        assert_eq!(adopted.trusted.len(), 2);
        assert!(adopted.packs.values().all(|pack| pack.session == id));
    }
}

#[test]
fn packs_of_an_open_session_are_nobody_elses() {
    let world = world();
    let first = world.begin();
    tell(&world, &first, 1, 1, 9 * MIB);
    assert_eq!(world.listed(first.id()), [1]);
    let second = world.begin();
    assert!(second.adopted(&[], None).packs.is_empty());
}

#[test]
fn a_session_is_ended_by_its_commit_alone() {
    let world = world();
    let session = world.begin();
    let id = session.id();
    tell(&world, &session, 1, 2, MIB);
    let new = session.unlisted();
    let commit = commit(&session, &[1, 2], new);
    let head = session.commit(commit).unwrap();
    assert_eq!(head.number, 2);
    assert_eq!(world.entries(), 3);
    assert!(!world.is_open(id));
    assert_eq!(world.listed(id), [1, 2]);
}

#[test]
fn a_commit_whose_answer_was_lost_is_found_again() {
    // Nothing more is known than that it was offered three times and never heard of again; or less was lost.
    for calls in 1..=6 {
        let world = world();
        let session = world.begin();
        let id = session.id();
        tell(&world, &session, 1, 1, MIB);
        let commit = commit(&session, &[1], session.unlisted());
        world.store.lose_answers(2, calls);
        let head = session.commit(commit).unwrap();
        assert_eq!(head.number, 2, "{calls}");
        assert_eq!(Some(head), world.host.opened.head_of(2));
        assert_eq!(world.entries(), 3, "no ABORT follows it");
        assert!(!world.is_open(id));
        assert_eq!(world.host.opened.view().fold.commits.len(), 1);
    }
}

#[test]
fn a_commit_that_never_arrived_fails_and_the_session_is_aborted() {
    let world = world();
    let session = world.begin();
    let id = session.id();
    tell(&world, &session, 1, 1, MIB);
    let commit = commit(&session, &[1], session.unlisted());
    world.store.lose_requests(2, 6);
    let error = session.commit(commit).unwrap_err();
    assert!(matches!(error, HostError::Log(LogError::Unsure { number: 2, .. })), "{error:?}");
    assert!(!world.is_open(id));
    assert!(world.host.opened.view().fold.commits.is_empty());
    assert_eq!(world.listed(id), [1], "what was stored is listed for the next run");
}

#[test]
fn while_the_store_is_away_packs_are_kept_for_the_next_list() {
    let world = world();
    let session = world.begin();
    world.store.inner.set_unreachable(true);
    session.told(Uploaded::Pack(&pack(&session, 1, 9 * MIB))).unwrap();
    assert_eq!(session.unlisted().len(), 1);
    world.store.inner.set_unreachable(false);
    session.told(Uploaded::Pack(&pack(&session, 2, 9 * MIB))).unwrap();
    session.list_all().unwrap();
    assert_eq!(world.listed(session.id()), [1, 2]);
}

#[test]
fn a_session_that_others_have_ended_learns_of_it() {
    let world = world();
    let session = world.begin();
    let id = session.id();
    super::session::append(&world.host.opened, &crate::repo::log::Kind::Abort(crate::repo::log::Abort { session: id })).unwrap();
    assert!(session.told(Uploaded::Pack(&pack(&session, 1, 9 * MIB))).is_err());
    let commit = commit(&session, &[1], session.unlisted());
    assert!(session.commit(commit).is_err());
    assert!(world.host.opened.view().fold.commits.is_empty());
}

#[test]
fn a_session_that_could_not_be_aborted_is_ended_by_the_next_run() {
    let world = world();
    let session = world.begin();
    let (id, opened, locks) = (session.id(), &world.host.opened, world.host.state.locks());
    // A session whose process lives is left alone, and so is one of another machine.
    end_dead_sessions(opened, &locks, MACHINE, &Quiet).unwrap();
    assert!(world.is_open(id));
    world.store.inner.set_unreachable(true);
    drop(session);
    world.store.inner.set_unreachable(false);
    assert!(world.is_open(id));
    end_dead_sessions(opened, &locks, "another", &Quiet).unwrap();
    assert!(world.is_open(id));
    end_dead_sessions(opened, &locks, MACHINE, &Quiet).unwrap();
    assert!(!world.is_open(id));
}

/// Two sessions that list the same id: nobody does so but to put another pack in a pack's place.
#[test]
fn an_id_that_two_sessions_list_is_the_parents_or_nobodys() {
    let world = world();
    let ids: Vec<SessionId> = (0..2)
        .map(|_| {
            let session = world.begin();
            let id = session.id();
            tell(&world, &session, 1, 1, MIB);
            session.abort().unwrap();
            id
        })
        .collect();
    let session = world.begin();
    assert!(session.adopted(&[], None).packs.is_empty());
    for id in ids {
        let parent: PackSet = [(id, PackId([1; 16]))].into_iter().collect();
        assert_eq!(session.adopted(&[], Some(&parent)).packs[&PackId([1; 16])].session, id);
    }
}

/// A name of a listing that came damaged hides no slot.
#[test]
fn slots_are_found_whatever_bit_of_a_listing_is_flipped() {
    use crate::crypt::Root;
    use crate::crypt::slot::{Lock, Slot};
    use crate::store::memory::MemoryStore;
    use crate::store::troubled::Troubled;
    use crate::store::{Pace, SessionTag};

    let (memory, root) = (Arc::<MemoryStore>::default(), Root::random().unwrap());
    let names = ["key/00112233445566778899aabbccddeeff", "key/ffeeddccbbaa99887766554433221100"].map(|n| ObjectName::new(n).unwrap());
    for name in &names {
        let slot = Slot::seal(&root, &Lock::Clear).unwrap();
        let _ = memory.create(name, &[slot.as_bytes()], &SessionTag::new("test").unwrap()).unwrap();
    }
    let store = Troubled::paced(memory as _, Some(Pace::OF_A_DISK));
    for name in &names {
        for other in Troubled::flips(name) {
            store.list_once_as(name.clone(), other.clone());
            let (slots, others) = super::read_slots(store.as_ref(), root.repository).unwrap();
            let mut found: Vec<_> = slots.into_iter().map(|slot| slot.name).collect();
            found.sort();
            assert_eq!((found.as_slice(), others), (names.as_slice(), 0), "{name} is listed as {other:?}");
        }
    }
}

/// Nor does a slot that came damaged once, whichever bit of it.
#[test]
fn slots_open_whatever_bit_of_one_is_flipped_on_its_way() {
    use super::unlock::unlock;
    use crate::crypt::slot::{Lock, Slot, key_file_text};
    use crate::host::config::{RepositorySettings, RepositoryUrl, SecretSource};
    use crate::repo::format::Format;
    use crate::store::memory::MemoryStore;
    use crate::store::s3::Watch;
    use crate::store::troubled::Troubled;
    use crate::store::{Pace, SessionTag};

    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("key");
    let key = crate::crypt::Secret::random().unwrap();
    std::fs::write(&key_file, key_file_text(&key).as_bytes()).unwrap();
    std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for (lock, secret) in [(Lock::KeyFile(&key), Some(SecretSource::KeyFile(key_file.clone()))), (Lock::Clear, None)] {
        let (memory, root) = (Arc::<MemoryStore>::default(), crate::crypt::Root::random().unwrap());
        let name = ObjectName::new("key/00112233445566778899aabbccddeeff").unwrap();
        let slot = Slot::seal(&root, &lock).unwrap();
        let _ = memory.create(&name, &[slot.as_bytes()], &SessionTag::new("test").unwrap()).unwrap();
        let store = Troubled::paced(memory as _, Some(Pace::OF_A_DISK));
        let settings = RepositorySettings::at(RepositoryUrl::Local(folder.path().to_owned()), secret);
        let place = super::Place { repository: &settings, watch: &Watch::default(), state: None, cache: None, progress: &Quiet };
        let format = Format { repository: root.repository, domain: root.domain, read_only_features: 0 };
        for bit in 0..slot.as_bytes().len() * 8 {
            store.read_once_flipped(name.clone(), bit);
            let opened = unlock(&place, store.as_ref(), &format, "there", true);
            let opened = opened.unwrap_or_else(|e| panic!("bit {bit} of {:?}: {e}", slot.kind()));
            assert!(opened.content.expose() == root.content.expose(), "bit {bit}");
        }
    }
}
