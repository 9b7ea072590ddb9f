//! Tests: what a reader says of a log that was changed, cut, replaced or written to by strangers.

use super::testing::*;
use super::*;
use crate::units::RepositoryId;

/// A log of entries 0 to 5: two snapshots, and a note. Entry 2 and 4 are their COMMITs.
fn scene() -> (Scene, LogView) {
    let (scene, mut view) = Scene::new();
    scene.snapshot(&mut view, "s1", 1);
    scene.snapshot(&mut view, "s2", 2);
    scene.append(&mut view, evidence("fine"));
    (scene, view)
}

fn refuses(scene: &Scene, view: &mut LogView, number: u64) {
    for kind in [evidence("more"), Kind::Forget(Forget { commit: 2, window: false })] {
        match scene.log().append(view, &host(), &kind) {
            Err(LogError::Damaged(damage)) => assert_eq!(damage.number(), number),
            other => panic!("{other:?}"),
        }
    }
    assert!(view.may_delete().is_err() && scene.log().keep(view).is_none());
}

#[test]
fn an_untouched_log_reads_as_it_was_written() {
    let (scene, view) = scene();
    let again = scene.read();
    assert_eq!((&again.fold, again.newest), (&view.fold, view.newest));
    assert!(again.is_sound() && again.fold.alarms.is_empty() && again.may_delete().is_ok());
    assert_eq!(again.fold.commits.keys().collect::<Vec<_>>(), [&2, &4]);
    assert_eq!(view.newest.to_string().parse(), Ok(view.newest));
}

#[test]
fn a_flipped_bit_in_the_middle_is_damage_and_no_verdict() {
    let (scene, _) = scene();
    let entry = scene.store.get("log/2");
    for at in [0, 9, 25, 33, 65, 81, 113, 137, 141, entry.len() - 65, entry.len() - 1] {
        scene.store.flip("log/2", at);
        let mut view = scene.read();
        assert_eq!(view.damage, [Damage::Changed(2)], "byte {at}");
        assert!(view.fold.alarms.is_empty());
        // What comes behind is still there to be restored.
        assert_eq!(view.fold.commits.keys().collect::<Vec<_>>(), [&4]);
        refuses(&scene, &mut view, 2);
        scene.store.put("log/2", entry.clone());
    }
    for cut in [0, 7, 139, entry.len() - 1] {
        scene.store.put("log/2", entry[..cut].to_vec());
        assert_eq!(scene.read().damage, [Damage::Changed(2)], "cut at {cut}");
    }
    scene.store.put("log/2", vec![7; 1 << 20]);
    assert_eq!(scene.read().damage, [Damage::Changed(2)], "too long");
}

#[test]
fn a_commit_whose_begin_is_damaged_is_doubtful_not_lost() {
    let (scene, _) = scene();
    scene.store.flip("log/3", 200);
    let view = scene.read();
    assert_eq!(view.damage, [Damage::Changed(3)]);
    assert_eq!(view.doubtful.iter().map(|(n, c)| (*n, c.summary.id.as_str())).collect::<Vec<_>>(), [(4, "s2")]);
}

#[test]
fn a_missing_number_is_damage() {
    let (scene, view) = scene();
    let gone = scene.store.remove("log/3");
    let mut read = scene.read();
    assert_eq!(read.damage, [Damage::Absent { first: 3, last: 3 }]);
    assert_eq!(read.newest, view.newest);
    refuses(&scene, &mut read, 3);
    scene.store.put("log/3", gone);
    assert!(scene.read().is_sound());
    scene.store.put(&entry_name(u64::MAX), b"junk".to_vec());
    assert_eq!(scene.read().damage, [Damage::Absent { first: 6, last: u64::MAX - 1 }], "a far number costs nothing");
    scene.store.remove(&entry_name(u64::MAX));

    scene.store.remove("log/0");
    assert!(matches!(scene.log().read(), Err(LogError::First(_))));
    let empty = Scene { store: MemoryStore::default(), owner: owner().public().clone() };
    empty.store.put("log/x", vec![]);
    empty.store.put("log/007", vec![]);
    assert!(matches!(empty.log().read(), Err(LogError::NotThere)));
}

#[test]
fn an_unsigned_last_entry_is_void_and_stays_so_once_attested() {
    let (scene, mut view) = scene();
    scene.store.put("log/6", b"junk".to_vec());
    let read = scene.read();
    assert!(read.is_sound() && scene.alarm(&read, 6).contains("short"), "{:?}", read.fold.alarms);
    // A view that was kept while it was the last goes on from there.
    let kept = scene.log().keep(&read).unwrap();
    let head = scene.append(&mut view, evidence("behind junk"));
    assert_eq!(head.number, 7);
    let resumed = scene.log().resume(&kept).unwrap().unwrap();
    for read in [view, scene.read(), resumed] {
        assert!(read.is_sound() && read.newest == head && read.fold.alarms.len() == 1);
    }
    // Not if it changes afterwards: its successor names other bytes.
    scene.store.put("log/6", b"junk!".to_vec());
    assert_eq!(scene.read().damage, [Damage::Changed(6)]);
    assert!(matches!(scene.log().resume(&kept), Err(LogError::Changed { number: 6, .. })));
}

#[test]
fn two_unsigned_entries_in_a_row_are_damage() {
    let (scene, mut view) = scene();
    scene.store.put("log/6", b"junk".to_vec());
    scene.log().advance(&mut view).unwrap();
    assert!(view.is_sound());
    scene.store.put("log/7", b"junk".to_vec());
    scene.log().advance(&mut view).unwrap();
    assert_eq!((&view.damage, &scene.read().damage), (&vec![Damage::Changed(6)], &vec![Damage::Changed(6)]));
    refuses(&scene, &mut view, 6);
    assert!(view.fold.alarms.contains_key(&7) && !view.fold.alarms.contains_key(&6));
}

#[test]
fn a_junk_object_of_any_length_is_void_as_the_last() {
    let (scene, mut view) = scene();
    scene.store.put("log/6", vec![0; 10 << 20]);
    assert_eq!(scene.append(&mut view, evidence("behind it")).number, 7);
    let read = scene.read();
    assert!(read.is_sound() && read.fold == view.fold);
}

#[test]
fn a_forged_signer_is_void() {
    let (scene, mut view) = scene();
    let plain = entry::encode_plain(crate::units::Timestamp(1), &Kind::Forget(Forget { commit: 2, window: false })).unwrap();
    // A stranger's key.
    scene.force(&key(77), 6, view.newest.hash, &plain);
    scene.log().advance(&mut view).unwrap();
    assert!(scene.alarm(&view, 6).contains("doesn't know the key"));
    assert_eq!(signer_of(&view, 6), Some(key(77).id()));
    scene.append(&mut view, evidence("goes on"));
    // An enrolled key's id over a stranger's signature.
    let before = view.newest.hash;
    let header = entry::Header { repository: REPOSITORY, number: 8, before, signer: host().id() };
    let sealed = SEALER.seal(&plain, &header.associated_data()).unwrap();
    scene.store.put("log/8", entry::encode(&header, &sealed, &key(77)).unwrap());
    scene.log().advance(&mut view).unwrap();
    assert!(scene.alarm(&view, 8).contains("signature"));
    assert_eq!(view.fold.commits.len(), 2);
    scene.append(&mut view, evidence("goes on"));
    assert_eq!(scene.read().fold, view.fold);
}

#[test]
fn signed_entries_that_are_not_well_formed_are_void() {
    let forget = r#"{"at":1,"entry":{"commit":2,"kind":"FORGET"}}"#;
    for (plain, why) in [
        (r#"{"at":1,"entry":{"commit":2,"commit":2,"kind":"FORGET"}}"#.to_owned(), "canonical"),
        (r#"{"at":1,"at":1,"entry":{"commit":2,"kind":"FORGET"}}"#.to_owned(), "canonical"),
        (r#"{"at":1,"entry":{"kind":"FORGET","commit":2}}"#.to_owned(), "canonical"),
        (forget.replace(":2", ": 2"), "canonical"),
        (forget.replace(":2", ":2.0"), "canonical"),
        (forget.replace(r#""at":1,"#, ""), "time"),
        ("[]".into(), "entry"),
        ("".into(), "canonical"),
        (r#"{"at":1,"entry":{"commit":2,"kind":"FORGET","window":false}}"#.to_owned(), "encoder"),
        (r#"{"at":1,"entry":{"keys":[],"kind":"KEY"}}"#.to_owned(), "no keys"),
    ] {
        let (scene, mut view) = scene();
        let hash = scene.force(&host(), 6, view.newest.hash, plain.as_bytes());
        scene.log().advance(&mut view).unwrap();
        assert!(scene.alarm(&view, 6).contains(why), "{plain}: {:?}", view.fold.alarms);
        assert!(view.is_sound() && view.fold.commits.len() == 2 && view.newest.hash == hash);
        scene.append(&mut view, evidence("goes on"));
        assert_eq!(scene.read().fold, view.fold);
    }
}

#[test]
fn a_body_of_another_place_is_void() {
    let (scene, mut view) = scene();
    let plain = br#"{"at":1,"entry":{"commit":2,"kind":"FORGET"}}"#;
    let header = entry::Header { repository: REPOSITORY, number: 6, before: view.newest.hash, signer: host().id() };
    let elsewhere = entry::Header { number: 5, ..header };
    let sealed = SEALER.seal(plain, &elsewhere.associated_data()).unwrap();
    scene.store.put("log/6", entry::encode(&header, &sealed, &host()).unwrap());
    scene.log().advance(&mut view).unwrap();
    assert!(scene.alarm(&view, 6).contains("open"));
    assert_eq!(view.fold.commits.len(), 2);
}

#[test]
fn an_entry_of_another_repository_or_number_is_void() {
    let (scene, mut view) = scene();
    let other = RepositoryId([9; 16]);
    for (repository, number, why) in [(other, 6, "repository"), (REPOSITORY, 7, "number")] {
        let header = entry::Header { repository, number, before: view.newest.hash, signer: host().id() };
        let plain = br#"{"at":1,"entry":{"commit":2,"kind":"FORGET"}}"#;
        let sealed = SEALER.seal(plain, &header.associated_data()).unwrap();
        let at = view.newest.number + 1;
        scene.store.put(&entry_name(at), entry::encode(&header, &sealed, &host()).unwrap());
        scene.log().advance(&mut view).unwrap();
        assert!(scene.alarm(&view, at).contains(why), "{:?}", view.fold.alarms);
        scene.append(&mut view, evidence("goes on"));
    }
    assert!(scene.read().is_sound());
    // Another repository's whole log: not this owner's, or not this repository's.
    let stranger = Log::new(&scene.store, &SEALER, other, &scene.owner);
    assert!(matches!(stranger.read(), Err(LogError::First(_))));
    let other_owner = key(50);
    assert!(matches!(Log::new(&scene.store, &SEALER, REPOSITORY, other_owner.public()).read(), Err(LogError::First(_))));
    let other_table_key = ToySealer([4; 32]);
    assert!(matches!(Log::new(&scene.store, &other_table_key, REPOSITORY, &scene.owner).read(), Err(LogError::First(_))));
}

#[test]
fn a_wrong_predecessor_is_void() {
    let (scene, mut view) = scene();
    let plain = br#"{"at":1,"entry":{"commit":2,"kind":"FORGET"}}"#;
    scene.force(&host(), 6, Hash32([1; 32]), plain);
    scene.log().advance(&mut view).unwrap();
    assert!(scene.alarm(&view, 6).contains("predecessor") && view.fold.commits.len() == 2);
    scene.append(&mut view, evidence("goes on"));
    assert_eq!(scene.read().fold, view.fold);
}

#[test]
fn a_revoked_keys_entries_are_void_and_its_wal_ends_where_it_is_said() {
    let (scene, mut view) = scene();
    let log = scene.log();
    let id = host().id();
    let keys = |op| Kind::Key(Keys { keys: vec![op] });
    log.append(&mut view, &owner(), &keys(KeyOp::Revoke { key: id })).unwrap();
    assert!(matches!(log.append(&mut view, &host(), &evidence("no")), Err(LogError::Void { void: Void::Right(_), .. })));
    scene.force(&host(), 7, view.newest.hash, br#"{"at":1,"entry":{"commit":2,"kind":"FORGET"}}"#);
    log.advance(&mut view).unwrap();
    assert!(scene.alarm(&view, 7).contains("revoked"));
    // Nor can it stop the others with a kind that nobody knows.
    scene.force(&host(), 8, view.newest.hash, br#"{"at":1,"entry":{"kind":"STOP"}}"#);
    log.advance(&mut view).unwrap();
    assert!(view.is_sound() && view.fold.commits.len() == 2);

    let cluster = ClusterId { name: "shop".into(), system_identifier: 9 };
    let segment = |text: &str| text.parse::<crate::units::SegmentName>().unwrap();
    let (last, later, other) = ("000000020000000000000005", "000000020000000000000006", "000000030000000000000001");
    let counts = |view: &LogView, name| view.fold.keys.get(&id).unwrap().wal_counts(&cluster, &segment(name));
    assert!(counts(&view, later) && counts(&view, other));
    let end = WalEnd { cluster: "shop".into(), system_identifier: 9, last: segment(last) };
    log.append(&mut view, &owner(), &keys(KeyOp::WalEnd { key: id, ends: Held::Inline(vec![end]) })).unwrap();
    assert!(counts(&view, last) && !counts(&view, later) && !counts(&view, other));
    let again = keys(KeyOp::WalEnd { key: id, ends: Held::Inline(vec![]) });
    assert!(log.append(&mut view, &owner(), &again).is_err());
    assert!(log.append(&mut view, &owner(), &keys(enrol(&host(), &ALL, None))).is_err(), "it never comes back");
    assert_eq!(scene.read().fold, view.fold);
}

/// A host of many clusters, or of one with many timelines: what stays of its WAL is too long for an entry.
#[test]
fn any_number_of_last_segments_can_be_listed() {
    let (scene, mut view) = Scene::new();
    let (log, id) = (scene.log(), host().id());
    let keys = |op| Kind::Key(Keys { keys: vec![op] });
    log.append(&mut view, &owner(), &keys(KeyOp::Revoke { key: id })).unwrap();
    let end = |n: u32| WalEnd {
        cluster: format!("cluster-{}", n % 100),
        system_identifier: u64::from(n % 100),
        last: crate::units::SegmentName { timeline: crate::units::TimelineId(1 + n / 100), log: n, seg: 5 },
    };
    let ends: Vec<WalEnd> = (0..20_000).map(end).collect();
    let without = view.clone();
    let head = log.append(&mut view, &owner(), &keys(KeyOp::WalEnd { key: id, ends: Held::Inline(ends) })).unwrap();
    let names = scene.store.list("body/").unwrap();
    assert_eq!(names.len(), 1);
    let cluster = |n: u32| ClusterId { name: format!("cluster-{}", n % 100), system_identifier: u64::from(n % 100) };
    let fresh = scene.read();
    assert_eq!(fresh.fold, view.fold);
    for n in [0, 99, 100, 19_999] {
        let (last, key) = (end(n).last, fresh.fold.keys.get(&id).unwrap());
        assert!(key.wal_counts(&cluster(n), &last));
        assert!(!key.wal_counts(&cluster(n), &crate::units::SegmentName { seg: 6, ..last }));
        assert!(!key.wal_counts(&cluster(n), &crate::units::SegmentName { timeline: crate::units::TimelineId(999), ..last }));
    }
    // While the list can't be had, all counts, as before the entry; and nothing that relies on it is written.
    scene.store.remove(&names[0]);
    let mut lacking = without;
    log.advance(&mut lacking).unwrap();
    assert_eq!(lacking.missing.iter().map(|m| m.number).collect::<Vec<_>>(), [head.number]);
    assert!(lacking.may_delete().is_err());
    assert!(lacking.fold.keys.get(&id).unwrap().wal_counts(&cluster(0), &crate::units::SegmentName { seg: 6, ..end(0).last }));
}

#[test]
fn what_is_not_known_stops_writers_and_not_readers() {
    for (plain, stops) in [
        (r#"{"at":1,"entry":{"kind":"REPACK"}}"#, true),
        (r#"{"at":1,"entry":{"kind":"FORGET","commit":2,"why":"x"}}"#, true),
        (r#"{"at":1,"entry":{"kind":"REPACK","must":false}}"#, false),
    ] {
        let (scene, mut view) = scene();
        let canonical = crate::repo::json::to_canonical(&serde_json::from_str::<serde_json::Value>(plain).unwrap()).unwrap();
        scene.force(&host(), 6, view.newest.hash, &canonical);
        scene.log().advance(&mut view).unwrap();
        assert_eq!(view.fold.unknown.as_ref().map(|u| u.number), stops.then_some(6), "{plain}");
        let appended = scene.log().append(&mut view, &host(), &evidence("x"));
        assert_eq!(matches!(&appended, Err(LogError::Unknown(_))), stops, "{plain}: {appended:?}");
        assert!(appended.is_ok() != stops && view.may_delete().is_ok() != stops);
        assert_eq!(scene.read().fold.commits.len(), 2, "reading goes on");
        assert_eq!(scene.log().keep(&view).is_none(), stops);
    }
}

#[test]
fn a_log_that_went_back_is_noticed() {
    let (scene, view) = scene();
    let log = scene.log();
    let kept = log.keep(&view).unwrap();
    assert_eq!(log.resume(&kept).unwrap().unwrap().fold, view.fold);
    log.check_remembered(&view, &view.newest).unwrap();
    let elsewhere = Head { number: 3, hash: Hash32([0; 32]) };
    assert!(matches!(log.check_remembered(&view, &elsewhere), Err(LogError::Changed { number: 3, .. })));
    scene.store.remove("log/5");
    let shorter = scene.read();
    assert!(matches!(log.check_remembered(&shorter, &view.newest), Err(LogError::SetBack { newest: 4, .. })));
    assert!(matches!(log.resume(&kept), Err(LogError::SetBack { .. })));
    // Set back and written on: another history.
    let mut other = shorter;
    scene.append(&mut other, evidence("another history"));
    assert!(matches!(log.check_remembered(&other, &view.newest), Err(LogError::Changed { number: 5, .. })));
    // A cache that isn't ours or isn't whole is none.
    let mut flipped = kept.clone();
    flipped[100] ^= 1;
    let stranger = key(50);
    assert!(log.resume(&flipped).unwrap().is_none() && log.resume(b"").unwrap().is_none());
    assert!(Log::new(&scene.store, &SEALER, REPOSITORY, stranger.public()).resume(&kept).unwrap().is_none());
}

#[test]
fn long_lists_go_into_bodies() {
    let (scene, mut view) = scene();
    let session = scene.append(&mut view, Kind::Begin(begin("shop"))).session();
    let packs: NewPacks =
        (0..500u16).map(|n| (crate::units::PackId::from_slice(&[n.to_le_bytes(); 8].concat()).unwrap(), facts(1))).collect();
    let progress = scene.append(&mut view, Kind::Progress(Progressed { session, packs: Held::Inline(packs.clone()) }));
    assert!(scene.store.get(&entry_name(progress.number)).len() < 1000);
    let read = scene.read();
    assert_eq!((&read.fold, &read.fold.sessions[&session].packs), (&view.fold, &packs));

    let names = scene.store.list("body/").unwrap();
    let name = names.first().unwrap();
    // Gone or rotten: neither valid nor void; nothing may be decided beyond it, and sessions go on.
    let good = scene.store.get(name);
    let damages: [&dyn Fn(); 2] = [&|| scene.store.flip(name, 200), &|| drop(scene.store.remove(name))];
    for damage in damages {
        damage();
        let mut read = scene.read();
        assert_eq!(read.missing.iter().map(|m| m.number).collect::<Vec<_>>(), [progress.number]);
        assert!(read.damage.is_empty() && read.fold.alarms.is_empty() && read.may_delete().is_err());
        assert!(scene.log().keep(&read).is_none());
        let forget = Kind::Condemn(Packs { packs: Held::Inline([(session, crate::units::PackId([1; 16]))].into_iter().collect()) });
        assert!(matches!(scene.log().append(&mut read, &host(), &forget), Err(LogError::MissingBody(_))));
        assert!(scene.log().append(&mut read, &host(), &evidence("goes on")).is_ok());
        scene.store.put(name, good.clone());
        assert!(scene.read().is_sound());
    }
    // Another entry's body, rightly named, makes the entry void.
    let plain = format!(r#"{{"at":1,"entry":{{"kind":"PROGRESS","packs":{{"body":"{}"}},"session":"{session}"}}}}"#, &name[5..]);
    scene.log().advance(&mut view).unwrap();
    let number = view.newest.number + 1;
    scene.force(&host(), number, view.newest.hash, plain.as_bytes());
    scene.log().advance(&mut view).unwrap();
    assert!(scene.alarm(&view, number).contains("not of this entry"), "{:?}", view.fold.alarms);
}
