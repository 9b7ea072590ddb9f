//! Tests: who may append what, and what notes, holds, damage and replaced COMMITs do.

use std::collections::{BTreeMap, BTreeSet};

use super::testing::*;
use super::*;
use crate::crypt::sign::SigningKey;
use crate::units::{Digest16, Lsn, PackId, SegmentSize, TimelineId};

fn is_denied(result: Result<Head, LogError>) -> bool {
    match result {
        Ok(_) => false,
        Err(LogError::Void { void: Void::Right(_), .. }) => true,
        Err(other) => panic!("{other:?}"),
    }
}

fn gap(cluster: &str) -> Kind {
    Kind::Note(Note::Gap {
        cluster: cluster.into(),
        system_identifier: 1,
        from: "000000010000000000000003".parse().unwrap(),
        to: "000000010000000000000004".parse().unwrap(),
        reason: "disk lost".into(),
    })
}

fn hold(snapshot: &str) -> Kind {
    Kind::Note(Note::Hold { snapshot: snapshot.into(), reason: "court".into() })
}

fn expire(segment: &str) -> Kind {
    Kind::ExpireWal(ExpireWal {
        cluster: "shop".into(),
        system_identifier: u64::MAX - 5,
        timeline: TimelineId(1),
        segment_size: SegmentSize::DEFAULT,
        ancestry: vec![],
        objects: Held::Inline(BTreeMap::from([(segment.parse().unwrap(), BTreeSet::from([Hash32([1; 32])]))])),
    })
}

fn fork(timeline: u32, begins: Option<ForkPoint>) -> Kind {
    let state = if begins.is_some() { ForkState::Announced } else { ForkState::Accepted };
    let (cluster, timeline) = ("shop".into(), TimelineId(timeline));
    Kind::Note(Note::Fork { cluster, system_identifier: 1, timeline, state, begins, reason: "promoted clone".into() })
}

#[test]
fn each_role_may_do_its_own() {
    let (scene, mut view) = Scene::new();
    let (writer, reader, maintainer, narrow) = (key(11), key(12), key(13), key(14));
    let ops = vec![
        enrol(&writer, &[Role::Writer], None),
        enrol(&reader, &[Role::Reader], None),
        enrol(&maintainer, &[Role::Maintainer], None),
        enrol(&narrow, &[Role::Writer, Role::Reader], Some(&["crm"])),
    ];
    let log = scene.log();
    log.append(&mut view, &owner(), &Kind::Key(Keys { keys: ops })).unwrap();
    let s1 = scene.snapshot(&mut view, "s1", 1);
    let junk = || Packs { packs: Held::Inline([(SessionId([5; 16]), PackId([5; 16]))].into_iter().collect()) };
    let damaged = || {
        let places = BTreeMap::from([(SessionId([5; 16]), BTreeMap::from([(PackId([5; 16]), DamagedBlobs::All)]))]);
        Kind::Damaged(Damaged { places: Held::Inline(places) })
    };
    let restore = || Kind::Begin(Begin { purpose: "restore".into(), machine: "m".into(), reads: Some(s1), ..Begin::default() });
    let key_op = || Kind::Key(Keys { keys: vec![enrol(&key(99), &ALL, None)] });
    let keys: [&SigningKey; 4] = [&writer, &reader, &maintainer, &narrow];
    // kind, and whether writer, reader, maintainer and narrow may append it
    let cases: Vec<(Kind, [bool; 4])> = vec![
        (key_op(), [false; 4]),
        (Kind::Begin(begin("shop")), [true, false, false, false]),
        (Kind::Begin(begin("crm")), [true, false, false, true]),
        (restore(), [true; 4]),
        (gap("shop"), [true, true, true, false]),
        (gap("crm"), [true; 4]),
        (fork(2, None), [true, false, true, false]),
        (evidence("x"), [false, true, true, false]),
        (hold("s1"), [false, false, true, false]),
        (Kind::Forget(Forget { commit: s1, window: true }), [false, false, true, false]),
        (expire("000000010000000000000001"), [false, false, true, false]),
        (Kind::Condemn(junk()), [false, false, true, false]),
        (Kind::Sweep(junk()), [false, false, true, false]),
        (damaged(), [false, true, true, true]),
    ];
    // What stands behind the right is another test's: here only BEGINs stay open, and hold on to the sweep.
    for (kind, may) in &cases {
        for (key, may) in keys.iter().zip(may) {
            let denied = match log.append(&mut view, key, kind) {
                Err(LogError::Void { void: Void::Rule(_), .. }) => false,
                other => is_denied(other),
            };
            assert_eq!(denied, !may, "{kind:?} by {key:?}");
        }
    }
    // Sessions belong to their key; a maintainer may abort others'.
    let session = log.append(&mut view, &writer, &Kind::Begin(begin("shop"))).unwrap().session();
    let progress = Kind::Progress(Progressed { session, packs: Held::Inline(BTreeMap::from([(PackId([6; 16]), facts(6))])) });
    let abort = Kind::Abort(Abort { session });
    let commit = Kind::Commit(Box::new(commit(session, "s9", 9)));
    for kind in [&progress, &abort, &commit] {
        assert!(is_denied(log.append(&mut view, &reader, kind)) && is_denied(log.append(&mut view, &narrow, kind)));
    }
    log.append(&mut view, &writer, &progress).unwrap();
    assert!(is_denied(log.append(&mut view, &maintainer, &commit)));
    log.append(&mut view, &maintainer, &abort).unwrap();
    assert!(is_denied(log.append(&mut view, &key(98), &evidence("a stranger"))));
    assert_eq!(scene.read().fold, view.fold);
}

#[test]
fn rights_grow_and_never_shrink_by_enrolling() {
    let (scene, mut view) = Scene::new();
    let log = scene.log();
    let mut enrols = |roles: &[Role], clusters: Option<&[&str]>| {
        log.append(&mut view, &owner(), &Kind::Key(Keys { keys: vec![enrol(&key(11), roles, clusters)] })).is_ok()
    };
    assert!(enrols(&[Role::Writer], Some(&["a"])));
    assert!(enrols(&[Role::Writer, Role::Reader], Some(&["a", "b"])));
    assert!(!enrols(&[Role::Writer], Some(&["a", "b"])) && !enrols(&[Role::Writer, Role::Reader], Some(&["a"])));
    assert!(enrols(&ALL, None) && !enrols(&ALL, Some(&["a"])));
    for op in [
        KeyOp::Owner { public: owner().public().clone() },
        enrol(&owner(), &ALL, None),
        KeyOp::Revoke { key: owner().id() },
        KeyOp::Revoke { key: key(40).id() },
        KeyOp::WalEnd { key: host().id(), ends: Held::Inline(vec![]) },
    ] {
        assert!(log.append(&mut view, &owner(), &Kind::Key(Keys { keys: vec![op] })).is_err());
    }
    // Both halves of a revocation in one entry: the second isn't behind the first.
    let both = vec![KeyOp::Revoke { key: host().id() }, KeyOp::WalEnd { key: host().id(), ends: Held::Inline(vec![]) }];
    assert!(log.append(&mut view, &owner(), &Kind::Key(Keys { keys: both })).is_err());
}

#[test]
fn a_new_sealing_key_is_used_from_then_on() {
    let (scene, mut view) = Scene::new();
    let before = view.fold.keys.sealing_key().unwrap().id;
    let rotate = Kind::Key(Keys { keys: vec![KeyOp::Seal { algorithm: 2, public: "cd".repeat(1216) }] });
    scene.log().append(&mut view, &owner(), &rotate).unwrap();
    let now = scene.read().fold.keys.sealing_key().unwrap().clone();
    assert!(now.id != before && now.algorithm == 2 && now.number == 1);
}

#[test]
fn a_replacing_commit_is_the_same_snapshot_in_other_packs() {
    let (scene, mut view) = Scene::new();
    let old = scene.snapshot(&mut view, "s1", 1);
    scene.append(&mut view, hold("s1"));
    scene.append(&mut view, Kind::Forget(Forget { commit: old, window: true }));
    // WAL above its start was expired since: no new session could need it.
    scene.append(&mut view, expire("000000010000000000000006"));
    let prune = Kind::Begin(Begin { purpose: "prune".into(), machine: "m".into(), ..Begin::default() });
    let session = scene.append(&mut view, prune).session();
    let good = Commit { replaces: Some(old), ..commit(session, "s1", 2) };
    let other_digest = Commit { root: Root { digest: Digest16([9; 16]), ..good.root }, ..good.clone() };
    let mut other_summary = good.clone();
    other_summary.summary.files += 1;
    let of_nothing = Commit { replaces: Some(old + 1), ..good.clone() };
    for bad in [other_digest, other_summary, of_nothing, Commit { replaces: None, ..good.clone() }] {
        let refused = scene.log().append(&mut view, &host(), &Kind::Commit(Box::new(bad)));
        assert!(matches!(refused, Err(LogError::Void { void: Void::Rule(_), .. })), "{refused:?}");
    }
    let pack = |n: u8| PackId([n; 16]);
    let with = |change: &dyn Fn(&mut Commit, &mut CommitLists)| {
        let mut commit = good.clone();
        let Held::Inline(mut lists) = commit.lists.clone() else { unreachable!() };
        change(&mut commit, &mut lists);
        Commit { lists: Held::Inline(lists), ..commit }
    };
    let theirs = view.fold.commits[&old].session;
    type Change<'c> = &'c dyn Fn(&mut Commit, &mut CommitLists);
    let bad: [Change<'_>; 5] = [
        // Packs that the old one doesn't name; one that it does, once more; under another session's name; a root that is left out.
        &|_, lists| lists.less.insert(theirs, pack(9)),
        &|_, lists| lists.less.insert(session, pack(1)),
        &|_, lists| lists.set.insert(theirs, pack(1)),
        &|_, lists| lists.set.insert(session, pack(1)),
        &|commit, lists| {
            commit.root.place.pack = pack(1);
            lists.less.insert(theirs, pack(1));
        },
    ];
    for (n, change) in bad.into_iter().enumerate() {
        let refused = scene.log().append(&mut view, &host(), &Kind::Commit(Box::new(with(change))));
        assert!(matches!(refused, Err(LogError::Void { void: Void::Rule(_), .. })), "{n}: {refused:?}");
    }
    let of_itself = with(&|commit, lists| {
        commit.replaces = None;
        lists.less.insert(theirs, pack(1));
    });
    let refused = scene.log().append(&mut view, &host(), &Kind::Commit(Box::new(of_itself)));
    assert!(matches!(refused, Err(LogError::Form { .. })), "{refused:?}");
    // Its set is the old one's, and what it names besides; or that without what it leaves out.
    assert_eq!(view.fold.set_of(&good), Some([(theirs, pack(1)), (session, pack(2))].into_iter().collect()));
    let good = with(&|_, lists| lists.less.insert(theirs, pack(1)));
    let new = scene.append(&mut view, Kind::Commit(Box::new(good))).number;
    assert_eq!(view.fold.commits[&new].set, [(session, pack(2))].into_iter().collect());
    assert_eq!(scene.read().fold.commits[&new].set, view.fold.commits[&new].set);
    assert_eq!(view.fold.commits[&new].need, view.fold.commits[&old].need);
    assert_eq!(view.fold.commits[&new].need.as_ref().unwrap().window.len(), 1);
    // The held snapshot stays, one of its two COMMITs may go.
    scene.append(&mut view, Kind::Forget(Forget { commit: old, window: false }));
    let last = Kind::Forget(Forget { commit: new, window: false });
    assert!(matches!(
        scene.log().append(&mut view, &host(), &last),
        Err(LogError::Void { void: Void::Rule("R7 the snapshot is held"), .. })
    ));
    scene.append(&mut view, Kind::Note(Note::Unhold { snapshot: "s1".into() }));
    scene.append(&mut view, last);
    assert!(scene.read().fold.commits.is_empty());
}

#[test]
fn only_a_maintainer_replaces() {
    let (scene, mut view) = Scene::new();
    let writer = key(11);
    let ops = vec![enrol(&writer, &[Role::Writer], None)];
    scene.log().append(&mut view, &owner(), &Kind::Key(Keys { keys: ops })).unwrap();
    let old = scene.snapshot(&mut view, "s1", 1);
    let session = scene.log().append(&mut view, &writer, &Kind::Begin(begin("shop"))).unwrap().session();
    let replacing = Commit { replaces: Some(old), ..commit(session, "s1", 2) };
    assert!(is_denied(scene.log().append(&mut view, &writer, &Kind::Commit(Box::new(replacing)))));
}

#[test]
fn a_session_commits_its_own_cluster() {
    let (scene, mut view) = Scene::new();
    for (i, begun) in [begin("crm"), Begin { system_identifier: Some(1), ..begin("shop") }].into_iter().enumerate() {
        let session = scene.append(&mut view, Kind::Begin(begun)).session();
        let foreign = Kind::Commit(Box::new(commit(session, "s1", i as u8)));
        let refused = scene.log().append(&mut view, &host(), &foreign);
        assert!(matches!(refused, Err(LogError::Void { void: Void::Rule("R5 its session is of another cluster"), .. })), "{refused:?}");
    }
    assert_eq!(view.fold.clusters["shop"].system_identifier, 1);
    assert_eq!(view.fold.clusters["crm"].system_identifier, u64::MAX - 5);
}

#[test]
fn a_pack_has_one_hash_and_is_known_before_it_is_named() {
    let (scene, mut view) = Scene::new();
    let session = scene.append(&mut view, Kind::Begin(begin("shop"))).session();
    let listed = |n| Kind::Progress(Progressed { session, packs: Held::Inline(BTreeMap::from([(PackId([1; 16]), facts(n))])) });
    scene.append(&mut view, listed(1));
    scene.append(&mut view, listed(1));
    assert!(scene.log().append(&mut view, &host(), &listed(2)).is_err());
    let mut unlisted = commit(session, "s1", 1);
    let Held::Inline(lists) = &mut unlisted.lists else { unreachable!() };
    lists.new.clear();
    lists.set.insert(session, PackId([7; 16]));
    assert!(scene.log().append(&mut view, &host(), &Kind::Commit(Box::new(unlisted.clone()))).is_err());
    let Held::Inline(lists) = &mut unlisted.lists else { unreachable!() };
    lists.set = [(session, PackId([1; 16]))].into_iter().collect();
    scene.append(&mut view, Kind::Commit(Box::new(unlisted)));
    assert_eq!(view.fold.pack(&session, &PackId([1; 16])), Some(&facts(1)));
}

#[test]
fn damage_counts_for_known_packs_until_they_are_swept() {
    let (scene, mut view) = Scene::new();
    let old = scene.snapshot(&mut view, "s1", 1);
    let session = view.fold.commits[&old].session;
    let (pack, unknown) = (PackId([1; 16]), PackId([9; 16]));
    let damaged = |blobs: DamagedBlobs| {
        let packs = BTreeMap::from([(pack, blobs), (unknown, DamagedBlobs::All)]);
        Kind::Damaged(Damaged { places: Held::Inline(BTreeMap::from([(session, packs)])) })
    };
    let blobs = |numbers: &[u32]| DamagedBlobs::Blobs(numbers.iter().copied().collect());
    scene.append(&mut view, damaged(blobs(&[3])));
    scene.append(&mut view, damaged(blobs(&[5, 3])));
    assert_eq!(view.fold.damaged[&session], BTreeMap::from([(pack, blobs(&[3, 5]))]));
    scene.append(&mut view, damaged(DamagedBlobs::All));
    assert_eq!(view.fold.damaged[&session][&pack], DamagedBlobs::All);
    scene.append(&mut view, Kind::Forget(Forget { commit: old, window: false }));
    let packs = || Packs { packs: Held::Inline([(session, pack)].into_iter().collect()) };
    scene.append(&mut view, Kind::Condemn(packs()));
    scene.append(&mut view, Kind::Sweep(packs()));
    assert!(view.fold.damaged.is_empty() && view.fold.condemned.is_empty() && view.fold.pack(&session, &pack).is_none());
    assert_eq!(scene.read().fold, view.fold);
}

#[test]
fn notes_are_kept() {
    let (scene, mut view) = Scene::new();
    scene.snapshot(&mut view, "s1", 1);
    scene.append(&mut view, gap("shop"));
    scene.append(&mut view, evidence("first"));
    scene.append(&mut view, evidence("second"));
    scene.append(&mut view, fork(2, None));
    let at = |parent, from, to| Some(ForkPoint { parent: TimelineId(parent), from: Lsn(from), to: Lsn(to), key: Some(host().id()) });
    scene.append(&mut view, fork(3, at(2, 5, 9)));
    for bad in [at(3, 5, 9), at(0, 5, 9), at(2, 9, 5)] {
        assert!(matches!(scene.log().append(&mut view, &host(), &fork(3, bad)), Err(LogError::Form { .. })), "{bad:?}");
    }
    assert!(scene.log().append(&mut view, &host(), &hold("s2")).is_err());
    let fold = scene.read().fold;
    let cluster = ClusterId { name: "shop".into(), system_identifier: 1 };
    assert_eq!((fold.gaps[&cluster].len(), fold.forks[&cluster][0].timeline), (1, TimelineId(2)));
    assert_eq!(fold.forks[&cluster][1].begins, at(2, 5, 9));
    assert_eq!(fold.evidence["s1"]["verify"].detail, "second");
    assert_eq!(fold.ledgers.values().flatten().count(), 1);
    assert!(fold.newest_time.0 > 0);
}
