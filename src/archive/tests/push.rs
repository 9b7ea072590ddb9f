use crate::archive::testing::{SYSTEM, World, control_file, entry, fixture, segment, segment_of};
use crate::archive::{FileFacts, FileKind, GetError, PushError, SiteError};
use crate::crypt::sign::SigningKey;
use crate::pg::wal::SegmentError;
use crate::store::Backend;
use crate::units::{Class, Explain, Lsn, SegmentName, SegmentNo, SegmentSize, TimelineId};

const THIRD: &str = "000000010000000000000003";

#[test]
fn the_same_bytes_again_are_success_and_other_bytes_are_refused() {
    let world = World::new();
    let bytes = segment(1, 3, 1);
    let first = world.push(THIRD, &bytes).unwrap();
    assert!(!first.already_there && first.stored > 0 && first.plain == 1 << 20);
    let again = world.push(THIRD, &bytes).unwrap();
    assert!(again.already_there && again.stored == 0 && again.object == first.object);
    let mut other = bytes.clone();
    other[100_000] = 1;
    let error = world.push(THIRD, &other).unwrap_err();
    assert!(matches!(error, PushError::OtherBytes { own: true, .. }) && error.class() == Class::Refused, "{error}");
    assert_eq!(world.got(THIRD).unwrap().unwrap(), bytes);
    assert_eq!(world.store.list_sorted(None).unwrap().iter().filter(|o| o.name.as_str().starts_with("wal/")).count(), 1);
}

#[test]
fn another_host_may_push_the_same_bytes() {
    let world = World::new();
    let standby = SigningKey::from_seed(&[2; 32]);
    world.enrol(&standby);
    world.append();
    world.refresh();
    let bytes = segment(1, 3, 1);
    world.push(THIRD, &bytes).unwrap();
    assert!(world.push_as(&standby, THIRD, &bytes).unwrap().already_there);
    let mut other = bytes.clone();
    other[100_000] = 1;
    assert!(matches!(world.push_as(&standby, THIRD, &other), Err(PushError::OtherBytes { own: false, .. })));
    assert!(world.push_as(&standby, "000000010000000000000004", &segment(1, 4, 1)).unwrap().stored > 0);
}

#[test]
fn a_key_enrolled_meanwhile_is_known_before_its_object_is_called_void() {
    let world = World::new();
    let standby = SigningKey::from_seed(&[2; 32]);
    let before = {
        let kept = crate::archive::LogTail::known(&world);
        world.enrol(&standby);
        world.append();
        world.refresh();
        world.push_as(&standby, THIRD, &segment(1, 3, 1)).unwrap();
        kept
    };
    world.set_known(before.clone());
    assert!(world.push(THIRD, &segment(1, 3, 1)).unwrap().already_there);
    world.set_known(before);
    assert_eq!(world.got(THIRD).unwrap().unwrap(), segment(1, 3, 1));
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let world = World::new();
    let good = segment(1, 3, 1);
    let edited = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    type Wanted = fn(&PushError) -> bool;
    let table: [(&str, &str, Vec<u8>, Wanted); 14] = [
        ("short", THIRD, good[..1 << 19].to_vec(), |e| matches!(e, PushError::Segment { source: SegmentError::Length { .. }, .. })),
        ("empty", THIRD, vec![], |e| matches!(e, PushError::Segment { source: SegmentError::Short { .. }, .. })),
        ("magic", THIRD, edited(0, &[1, 2]), |e| matches!(e, PushError::Segment { source: SegmentError::Magic { .. }, .. })),
        ("another cluster", THIRD, segment_of(5, 1, 3, 1), |e| {
            matches!(e, PushError::Segment { source: SegmentError::Identifier { expected: SYSTEM, found: 5 }, .. })
        }),
        ("another position", "000000010000000000000004", good.clone(), |e| {
            matches!(e, PushError::Segment { source: SegmentError::Position { .. }, .. })
        }),
        ("a later timeline", THIRD, segment(2, 3, 1), |e| matches!(e, PushError::Segment { source: SegmentError::Timeline { .. }, .. })),
        ("a name for no such size", "0000000100000000FFFFFFFF", good.clone(), |e| matches!(e, PushError::Segment { .. })),
        ("a foreign partial", "000000010000000000000003.partial", segment_of(5, 1, 3, 1), |e| matches!(e, PushError::Segment { .. })),
        ("no history", "00000002.history", b"rubbish".to_vec(), |e| matches!(e, PushError::History { .. })),
        ("a long history", "00000002.history", vec![b'#'; (1 << 20) + 1], |e| matches!(e, PushError::Unfit { .. })),
        ("an odd name", "RECOVERYXLOG", good.clone(), |e| matches!(e, PushError::Name(_))),
        ("a variant's name", "000000010000000000000003.1", good.clone(), |e| matches!(e, PushError::Name(_))),
        ("lower case", "00000001000000000000000a", good.clone(), |e| matches!(e, PushError::Name(_))),
        ("a dot file", ".000000010000000000000003", good.clone(), |e| matches!(e, PushError::Name(_))),
    ];
    for (what, name, bytes, wanted) in table {
        let error = world.push(name, &bytes).unwrap_err();
        assert!(wanted(&error), "{what}: {error:?}");
    }
    std::fs::create_dir(world.path("0000000A.history")).unwrap();
    let ctx = |path: &std::path::Path| world.push_path(path);
    assert!(matches!(ctx(&world.path("0000000A.history")), Err(PushError::Unfit { .. })));
    assert!(matches!(ctx(&world.path("0000000B.history")), Err(PushError::Read { .. })));
    assert!(matches!(ctx(std::path::Path::new("/")), Err(PushError::NoName { .. })));
    assert!(world.store.list_sorted(None).unwrap().iter().all(|o| !o.name.as_str().starts_with("wal/")));
}

#[test]
fn segments_of_every_size_are_taken() {
    let world = World::new();
    for (mib, no, name) in
        [(1, 0x1003, "000000010000000100000003"), (4, 1023, "0000000100000000000003FF"), (64, 64, "000000010000000100000000")]
    {
        let pushed = world.push(name, &segment(1, no, mib)).unwrap();
        let record = pushed.facts.segment().unwrap().clone();
        assert_eq!((record.no, record.size), (SegmentNo(no), SegmentSize::new(mib << 20).unwrap()));
        assert_eq!(record.name(), name.parse::<SegmentName>().unwrap());
    }
}

#[test]
fn a_new_timelines_first_segment_has_the_old_number_in_its_header() {
    let world = World::new();
    let pushed = world.push("000000020000000000000003", &segment(1, 3, 1)).unwrap();
    let record = pushed.facts.segment().unwrap();
    assert_eq!((record.timeline, record.header_timeline), (TimelineId(2), TimelineId(1)));
}

#[test]
fn all_kinds_of_files_go_in_and_come_out() {
    let world = World::new();
    let label = b"START WAL LOCATION: 0/300028\n".to_vec();
    let history = b"1\t0/300000\tno recovery target specified\n".to_vec();
    for (name, bytes) in [
        ("00000002.history", history.clone()),
        ("000000010000000000000003.00000028.backup", label),
        ("000000010000000000000003.partial", segment(1, 3, 1)),
        (THIRD, segment(1, 3, 1)),
    ] {
        assert!(world.push(name, &bytes).unwrap().stored > 0);
        assert_eq!(world.got(name).unwrap().unwrap(), bytes, "{name}");
    }
    let pushed = world.push("00000002.history", &history).unwrap();
    let FileFacts { kind: FileKind::History(facts), .. } = pushed.facts else { panic!() };
    assert_eq!((facts.lines[0].parent, facts.lines[0].switch), (TimelineId(1), Lsn(0x30_0000)));
}

#[test]
fn facts_of_real_segments_tell_where_wal_ends_and_when() {
    let world = World::new();
    let identifier = control_file(world.folder.path(), None);
    *world.begun.lock().unwrap() = Some(identifier);
    world.refresh();
    let mut seen = false;
    for name in ["000000010000000000000018", "000000010000000000000019", "00000001000000000000001A"] {
        let pushed = world.push(name, &fixture(15, name)).unwrap();
        let record = pushed.facts.segment().unwrap();
        assert_eq!((record.major, &pushed.warnings), (15, &vec![]), "{name}: {record:?}");
        assert_eq!((&record.fault, record.valid_until), (&None, record.end()), "{name}");
        seen |= record.transactions.is_some() && record.last_record.is_some();
    }
    assert!(seen);
}

#[test]
fn before_the_first_backup_the_data_directory_says_whose_wal_it_is() {
    let world = World::new();
    *world.begun.lock().unwrap() = None;
    world.refresh();
    let error = world.push(THIRD, &segment(1, 3, 1)).unwrap_err();
    assert!(matches!(error, PushError::NoIdentifier { .. }), "{error}");
    control_file(world.folder.path(), Some(SYSTEM));
    world.push(THIRD, &segment(1, 3, 1)).unwrap();
    world.wait(60);
    world.push("00000002.history", b"").unwrap();
    assert!(matches!(world.push(THIRD, &segment_of(5, 1, 3, 1)), Err(PushError::Segment { .. })));
    std::fs::write(world.path("global/pg_control"), vec![0; 8192]).unwrap();
    assert!(matches!(world.push("00000003.history", b""), Err(PushError::ControlFile { .. })));
}

#[test]
fn a_history_of_another_clusters_data_directory_is_refused() {
    let world = World::new();
    control_file(world.folder.path(), Some(5));
    let error = world.push("00000002.history", b"").unwrap_err();
    assert!(matches!(error, PushError::ForeignDirectory { expected: SYSTEM, found: 5, .. }), "{error}");
    // A new BEGIN says that this is the cluster now; the host didn't know it yet.
    *world.begun.lock().unwrap() = Some(5);
    world.append();
    world.push("00000002.history", b"").unwrap();
    world.push(THIRD, &segment_of(5, 1, 3, 1)).unwrap();
    assert!(matches!(world.push(THIRD, &segment(1, 3, 1)), Err(PushError::Segment { .. })));
}

#[test]
fn void_objects_are_passed_over_under_the_next_free_name() {
    let world = World::new();
    let bytes = segment(1, 3, 1);
    world.plant(&world.object(THIRD, 0), b"rubbish");
    world.plant(&world.object(THIRD, 1), &[0; 9000]);
    let pushed = world.push(THIRD, &bytes).unwrap();
    assert_eq!((pushed.object.as_str(), pushed.warnings.len()), (world.object(THIRD, 2).as_str(), 3));
    assert!(world.push(THIRD, &bytes).unwrap().already_there);
    let mut other = bytes.clone();
    other[100_000] = 1;
    assert!(matches!(world.push(THIRD, &other), Err(PushError::OtherBytes { .. })));
    assert_eq!(world.got(THIRD).unwrap().unwrap(), bytes);
}

#[test]
fn objects_of_keys_without_the_right_are_void() {
    let world = World::new();
    let (stranger, narrow) = (SigningKey::from_seed(&[3; 32]), SigningKey::from_seed(&[4; 32]));
    world.enrol(&narrow);
    world.narrow(&narrow, &["other"]);
    world.append();
    world.refresh();
    for key in [&stranger, &narrow] {
        assert!(matches!(world.push_as(key, THIRD, &segment(1, 3, 1)), Err(PushError::NoRight { .. })));
    }
    assert!(world.store.size(&world.object(THIRD, 0)).is_err());
}

#[test]
fn a_right_that_ends_during_the_push_makes_it_fail() {
    let world = World::new();
    world.push(THIRD, &segment(1, 3, 1)).unwrap();
    world.revoke(&world.host, THIRD);
    world.append();
    let error = world.push("000000010000000000000004", &segment(1, 4, 1)).unwrap_err();
    assert!(matches!(error, PushError::NoRight { .. }) && error.class() == Class::Denied, "{error}");
    // What the revoked key stored behind its end is void for others, what lies before it counts.
    let heir = SigningKey::from_seed(&[5; 32]);
    world.enrol(&heir);
    world.append();
    assert!(world.push_as(&heir, THIRD, &segment(1, 3, 1)).unwrap().already_there);
    let pushed = world.push_as(&heir, "000000010000000000000004", &segment(1, 4, 1)).unwrap();
    assert_eq!(pushed.object, world.object("000000010000000000000004", 1).as_str());
    assert_eq!(world.got("000000010000000000000004").unwrap().unwrap(), segment(1, 4, 1));
}

#[test]
fn a_store_that_was_set_back_or_is_another_one_is_noticed() {
    let world = World::new();
    world.append();
    world.refresh();
    world.store.delete(&entry(1)).unwrap();
    let error = world.push(THIRD, &segment(1, 3, 1)).unwrap_err();
    assert!(matches!(error, PushError::Site(SiteError::SetBack { .. })) && error.class() == Class::Corrupt, "{error}");
    assert!(world.got(THIRD).is_err());
    world.plant(&entry(1), b"another history");
    for _ in 0..2 {
        let kept = crate::archive::LogTail::known(&world);
        let error = world.push("000000010000000000000004", &segment(1, 4, 1)).unwrap_err();
        assert!(matches!(error, PushError::Site(SiteError::SetBack { .. })), "{error}");
        world.set_known(kept.clone());
        assert!(matches!(world.got(THIRD), Err(GetError::Site(SiteError::SetBack { .. }))));
        // Nor do later entries make up for it.
        world.append();
        world.set_known(kept);
    }
    world.store.set_unreachable(true);
    let error = world.push(THIRD, &segment(1, 3, 1)).unwrap_err();
    assert_eq!(error.class(), Class::Unreachable, "{error}");
}

#[test]
fn an_object_that_names_an_unknown_entry_is_neither_void_nor_skipped() {
    let world = World::new();
    world.push(THIRD, &segment(1, 3, 1)).unwrap();
    let object = world.object(THIRD, 0);
    assert!(world.store.tamper(&object, |bytes| bytes[40] = 9));
    for error in [world.push(THIRD, &segment(1, 3, 1)).unwrap_err().to_string(), world.got(THIRD).unwrap_err().to_string()] {
        assert!(error.contains("log/9"), "{error}");
    }
    assert!(world.store.size(&world.object(THIRD, 1)).is_err());
}

#[test]
fn a_rotten_object_is_not_taken_for_the_file() {
    let world = World::new();
    let mut bytes = segment(1, 3, 1);
    bytes[500_000..500_100].copy_from_slice(&[7; 100]);
    world.push(THIRD, &bytes).unwrap();
    let object = world.object(THIRD, 0);
    assert!(world.store.tamper(&object, |bytes| *bytes.last_mut().unwrap() ^= 1));
    assert_eq!(world.got(THIRD).unwrap_err().class(), Class::Corrupt);
    let pushed = world.push(THIRD, &bytes).unwrap();
    assert_eq!((pushed.object.as_str(), pushed.already_there), (world.object(THIRD, 1).as_str(), false));
    assert!(world.push(THIRD, &bytes).unwrap().already_there);
    assert_eq!(world.got(THIRD).unwrap().unwrap(), bytes);
    // Other bytes stay refused: the first object that counts says what the file is.
    assert!(matches!(world.push(THIRD, &segment(1, 3, 1)), Err(PushError::OtherBytes { .. })));
}
