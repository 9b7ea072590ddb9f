use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use crate::host::config::RepositoryUrl;
use crate::host::env::FixedEnv;
use crate::units::{DomainId, Hash32, Quiet, SessionId};

fn state() -> (tempfile::TempDir, StateDir) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(Some(&dir.path().join("state")), &FixedEnv::empty(dir.path()), &Quiet).unwrap();
    (dir, state)
}

fn keys(repository: RepositoryId, reads: bool) -> HostKeys {
    HostKeys {
        repository,
        domain: DomainId([2; 16]),
        owner_key: [3; 32],
        signing_seed: Secret32::new([0xa1; 32]),
        ids: if reads { IdKeys::Domain(Secret32::new([0xa2; 32])) } else { IdKeys::Structure(Secret32::new([0xa2; 32])) },
        table_key: Secret32::new([0xa3; 32]),
        content_secrets: if reads { vec![Secret32::new([0xa4; 32]), Secret32::new([0xa5; 32])] } else { vec![] },
    }
}

fn head(number: u64, fill: u8) -> Head {
    Head { number, hash: Hash32([fill; 32]) }
}

#[test]
fn host_keys_are_kept_private_and_never_overwritten_unasked() {
    let (_dir, state) = state();
    let repository = state.repository(RepositoryId([1; 16]));
    assert_eq!(repository.host_keys().unwrap(), None);
    assert!(!repository.is_known());
    repository.create_host_keys(&keys(repository.id(), true)).unwrap();
    assert!(repository.is_known());
    assert_eq!(repository.host_keys().unwrap(), Some(keys(repository.id(), true)));
    assert!(matches!(repository.create_host_keys(&keys(repository.id(), false)), Err(StateError::HasKeys { .. })));
    repository.replace_host_keys(&keys(repository.id(), false)).unwrap();
    assert_eq!(repository.host_keys().unwrap(), Some(keys(repository.id(), false)));
    assert_eq!(repository.host_path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!format!("{:?}", keys(repository.id(), true)).contains("161"), "secrets are not shown");
    // A file of another repository, copied here.
    let other = state.repository(RepositoryId([9; 16]));
    std::fs::create_dir(&other.folder).unwrap();
    std::fs::copy(repository.host_path(), other.host_path()).unwrap();
    assert!(matches!(other.host_keys(), Err(StateError::Corrupt { .. })));
}

#[test]
fn host_keys_of_before_rotations_are_read() {
    let text = |more: &str| {
        let (id, word) = ("01".repeat(16), "a1".repeat(32));
        format!(
            r#"{{"version":1,"repository":"{id}","domain":"{id}","owner_key":"{word}","signing_seed":"{word}",{more},"table_key":"{word}","content_secret":"{word}"}}"#
        )
    };
    let read = |more: &str| HostKeys::decode(&checked::around(text(more).as_bytes()));
    let word = "a2".repeat(32);
    let keys = read(&format!(r#""id_key":"{word}""#)).unwrap();
    assert!(matches!(keys.ids, IdKeys::Domain(_)) && keys.content_secrets.len() == 1);
    assert_eq!(HostKeys::decode(&keys.encode()).unwrap(), keys);
    for bad in [r#""x":1"#.to_owned(), format!(r#""id_key":"{word}","structure_id_key":"{word}""#), r#""id_key":"00""#.to_owned()] {
        assert!(read(&bad).is_err(), "{bad}");
    }
}

#[test]
fn forgotten_keys_are_gone() {
    let (_dir, state) = state();
    let repository = state.repository(RepositoryId([1; 16]));
    repository.create_host_keys(&keys(repository.id(), true)).unwrap();
    repository.update(|seen| seen.advance(head(5, 5)).map_err(StateError::from)).unwrap();
    repository.forget().unwrap();
    repository.forget().unwrap();
    assert!(!repository.is_known() && repository.seen().unwrap().newest().is_none());
}

#[test]
fn the_newest_never_goes_back() {
    let (_dir, state) = state();
    let repository = state.repository(RepositoryId([1; 16]));
    let advance = |to: Head| repository.update(|seen| seen.advance(to).map_err(StateError::from));
    advance(head(5, 5)).unwrap();
    advance(head(3, 3)).unwrap();
    assert_eq!(repository.seen().unwrap().newest(), Some(head(5, 5)));
    assert!(matches!(advance(head(5, 6)), Err(StateError::Diverged(_))));
    assert_eq!(repository.seen().unwrap().newest(), Some(head(5, 5)), "a change that fails is not written");
    advance(head(6, 6)).unwrap();
    let before = repository.seen_path().metadata().unwrap().modified().unwrap();
    advance(head(6, 6)).unwrap();
    assert_eq!(repository.seen_path().metadata().unwrap().modified().unwrap(), before, "nothing new, nothing written");
}

#[test]
fn concurrent_updates_lose_nothing() {
    let (_dir, state) = state();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let repository = state.repository(RepositoryId([1; 16]));
            scope.spawn(move || {
                for i in 0..20 {
                    let number = i * 4 + thread;
                    repository
                        .update(|seen| {
                            seen.advance(head(number, 1))?;
                            seen.remember_key(number, &number.to_be_bytes())?;
                            Ok::<_, StateError>(())
                        })
                        .unwrap();
                    assert!(repository.seen().unwrap().newest().unwrap().number >= number, "read without the lock: whole, and never older");
                }
            });
        }
    });
    let seen = state.repository(RepositoryId([1; 16])).seen().unwrap();
    assert_eq!((seen.newest().unwrap().number, seen.keys().len()), (79, 80));
}

#[test]
fn the_small_file_secret_is_drawn_once() {
    let (_dir, state) = state();
    let secrets: Vec<_> = std::thread::scope(|scope| {
        let draw = |_| scope.spawn(|| state.repository(RepositoryId([1; 16])).small_file_secret().unwrap());
        let threads: Vec<_> = (0..4).map(draw).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(secrets.windows(2).all(|pair| pair[0] == pair[1]));
    assert_ne!(state.repository(RepositoryId([2; 16])).small_file_secret().unwrap(), secrets[0]);
}

#[test]
fn what_is_remembered_goes_forward() {
    let mut seen = Seen::default();
    seen.remember_begin("shop", 7, 70);
    seen.remember_begin("shop", 5, 50);
    assert_eq!(seen.cluster("shop"), Some(ClusterSeen { begin: 7, system_identifier: 70 }));
    seen.remember_begin("shop", 8, 80);
    assert_eq!(seen.cluster("shop").unwrap().system_identifier, 80);
    seen.remember_key(3, b"three").unwrap();
    seen.remember_key(1, b"one").unwrap();
    seen.remember_key(3, b"three").unwrap();
    assert!(seen.remember_key(3, b"other").is_err());
    assert_eq!(seen.keys().iter().map(|k| k.number).collect::<Vec<_>>(), [1, 3]);
    let session = SessionId([1; 16]);
    let sight = |entry, boot: &str, monotonic_ms| FirstSight { entry, boot: boot.into(), monotonic_ms };
    seen.remember_sight(session, sight(4, "a", 10));
    seen.remember_sight(session, sight(4, "a", 20));
    assert_eq!(seen.sight(session), Some(&sight(4, "a", 10)), "the first sight counts");
    seen.remember_sight(session, sight(4, "b", 5));
    assert_eq!(seen.sight(session), Some(&sight(4, "b", 5)), "another boot has another clock");
    seen.remember_sight(session, sight(6, "b", 30));
    assert_eq!(seen.sight(session), Some(&sight(6, "b", 30)), "it moved on");
    seen.keep_sights(|_| false);
    assert_eq!(seen.sight(session), None);
}

#[test]
fn a_damaged_file_is_named_and_left_alone() {
    let (_dir, state) = state();
    let repository = state.repository(RepositoryId([1; 16]));
    repository.create_host_keys(&keys(repository.id(), true)).unwrap();
    repository.small_file_secret().unwrap();
    repository.update(|seen| seen.remember_key(1, b"key").map_err(StateError::from)).unwrap();
    for path in [repository.host_path(), repository.seen_path()] {
        let good = std::fs::read(&path).unwrap();
        for damage in 0..good.len() + 3 {
            let mut bad = good.clone();
            match damage.checked_sub(good.len()) {
                None => bad[damage] ^= 1 << (damage % 8),
                Some(0) => bad.clear(),
                Some(1) => bad.truncate(good.len() / 2),
                Some(_) => bad.push(b'\n'),
            }
            std::fs::write(&path, &bad).unwrap();
            let error = match path.ends_with("host.json") {
                true => repository.host_keys().unwrap_err(),
                false => repository.update(|seen| seen.advance(head(9, 9)).map_err(StateError::from)).unwrap_err(),
            };
            assert!(matches!(&error, StateError::Corrupt { .. }) && error.to_string().contains(&*path.to_string_lossy()), "{error}");
            assert!(error.cure().is_some());
            assert_eq!(std::fs::read(&path).unwrap(), bad);
        }
        std::fs::write(&path, &good).unwrap();
    }
}

#[test]
fn a_url_is_pinned_to_its_repository() {
    let (_dir, state) = state();
    let url = RepositoryUrl::Local("/srv/repo".into());
    assert_eq!(state.pin(&url).unwrap(), None);
    let pin = Pin { repository: RepositoryId([1; 16]), owner_key: [7; 32] };
    state.remember_pin(&url, &pin).unwrap();
    state.remember_pin(&url, &pin).unwrap();
    assert_eq!(state.pin(&url).unwrap(), Some(pin.clone()));
    for other in [Pin { owner_key: [8; 32], ..pin.clone() }, Pin { repository: RepositoryId([2; 16]), ..pin.clone() }] {
        assert!(matches!(state.remember_pin(&url, &other), Err(StateError::OtherRepository { .. })));
    }
    assert_eq!(state.pin(&url).unwrap(), Some(pin));
    assert_eq!(state.pin(&RepositoryUrl::Local("/srv/other".into())).unwrap(), None);
    std::fs::write(state.pin_path(&url), b"{}").unwrap();
    assert!(matches!(state.pin(&url), Err(StateError::Corrupt { .. })));
}

#[test]
fn enrolment_is_one_at_a_time() {
    let (_dir, state) = state();
    let repository = state.repository(RepositoryId([1; 16]));
    let lock = repository.lock_enrolment().unwrap();
    assert!(matches!(FileLock::acquire(lock.path()), Err(LockError::Held { .. })));
    // The keys are kept while the enrolment's lock is held.
    repository.create_host_keys(&keys(repository.id(), true)).unwrap();
}

proptest! {
    #[test]
    fn seen_survives_the_disk(
        newest in proptest::option::of((any::<u64>(), any::<[u8; 32]>())),
        entries in proptest::collection::btree_map(any::<u64>(), proptest::collection::vec(any::<u8>(), 0..200), 0..5),
        clusters in proptest::collection::btree_map("[a-z0-9_-]{1,12}", (any::<u64>(), any::<u64>()), 0..4),
        sights in proptest::collection::btree_map(any::<[u8; 16]>(), (any::<u64>(), "\\PC{0,12}", any::<u64>()), 0..4),
        secret in any::<bool>(),
    ) {
        let mut seen = Seen::default();
        if let Some((number, hash)) = newest {
            seen.advance(Head { number, hash: Hash32(hash) }).unwrap();
        }
        for (number, bytes) in &entries {
            seen.remember_key(*number, bytes).unwrap();
        }
        for (name, (begin, system)) in &clusters {
            seen.remember_begin(name, *begin, *system);
        }
        for (session, (entry, boot, monotonic_ms)) in sights {
            seen.remember_sight(SessionId(session), FirstSight { entry, boot, monotonic_ms });
        }
        if secret {
            seen.small_file_secret_or_new().unwrap();
        }
        prop_assert_eq!(Seen::decode(&seen.encode()), Ok(seen));
    }
}
