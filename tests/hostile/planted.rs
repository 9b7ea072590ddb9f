//! Somebody can write to the store, and holds no key: plants objects, in folders that are read and in names that will be
//! needed, and things that are no objects. What has to work works; what can't says why; nothing waits, nothing is followed.

use std::fs::{self, File};
use std::path::Path;

use pgcairn::repo::format::Format;

use crate::damage::{ALL, Case, Command, What, kinds, side_by_side};
use crate::support::{Host, ordinary};
use crate::world::{NEXT_SEGMENT, SEGMENTS, World, clean_error, tree, wal};

/// Runs every command; all must answer as if nothing had been planted.
fn all_is_well(world: &World, name: &str, plant: impl FnOnce(&Path)) {
    let case = Case::new(world, &[name], name.to_owned(), plant);
    for command in ALL {
        assert!(case.judge(command), "{name}: {command:?}");
    }
}

/// Runs every command; each answers rightly or says what is wrong and names one of these.
fn nothing_goes_wrong(world: &World, named: &[&str], plant: impl FnOnce(&Path)) -> Vec<(Command, bool)> {
    let case = Case::new(world, named, format!("{named:?}"), plant);
    ALL.into_iter().map(|command| (command, case.judge(command))).collect()
}

fn holds(answers: &[(Command, bool)], command: Command) -> bool {
    answers.iter().any(|(c, right)| *c == command && *right)
}

#[test]
fn junk_among_the_key_slots_locks_nobody_out() {
    ordinary(|| {
        let world = World::new();
        all_is_well(&world, "key", |repository| {
            for n in 0..50 {
                fs::write(repository.join(format!("key/{n:032x}")), "junk").unwrap();
            }
            // Of the right length and magic, and of no kind that is known.
            let slot = world.objects().into_iter().find(|o| o.starts_with("key/")).unwrap();
            let mut bytes = fs::read(repository.join(slot)).unwrap();
            bytes[200] ^= 1;
            for n in 50..60 {
                fs::write(repository.join(format!("key/{n:032x}")), &bytes).unwrap();
            }
            bytes[8] = 9;
            fs::write(repository.join(format!("key/{:032x}", 60)), &bytes).unwrap();
            File::create(repository.join(format!("key/{:032x}", 61))).unwrap().set_len(10 << 30).unwrap();
        });
    });
}

#[test]
fn a_slot_in_clear_that_was_planted_opens_nothing() {
    ordinary(|| {
        let world = World::new();
        // The attacker's own repository, in clear, all of it put in place.
        let theirs = World::empty();
        fs::remove_dir_all(theirs.repository()).unwrap();
        let attacker = Host::new();
        theirs.run_on(&attacker, &theirs.repository(), ["init", "--no-encryption"]).ok();
        let slot = theirs.objects().into_iter().find(|o| o.starts_with("key/")).unwrap();
        // Beside ours: of another repository, passed over.
        all_is_well(&world, "clear", |repository| {
            let _ = fs::copy(theirs.repository().join(&slot), repository.join(&slot)).unwrap();
        });
        // Made to say that it is of ours: another root, whose owner began another log.
        let format = Format::decode(&fs::read(world.repository().join("pgcairn")).unwrap()).unwrap();
        let mut bytes = fs::read(theirs.repository().join(&slot)).unwrap();
        bytes[24..40].copy_from_slice(&format.repository.0);
        let case = Case::new(&world, &["pgcairn"], "clear slot of ours".into(), |repository| {
            fs::write(repository.join(&slot), &bytes).unwrap();
        });
        for command in ALL {
            assert!(case.judge(command), "{command:?}");
        }
        let fresh = Host::new();
        let to = case.repository().with_extension("to");
        let outcome = case.run(&fresh, &["restore", "--json", "--no-recovery", "--to", to.to_str().unwrap()]);
        clean_error(&outcome, "without a key");
        assert!(!to.exists());
        // All of it replaced: who gives a key is not served without one.
        let (outcome, target) = world.restore_afresh(&theirs.repository(), &[]);
        clean_error(&outcome, "their repository");
        assert!(!target.join("data").exists());
    });
}

#[test]
fn entries_that_nobody_entitled_signed_are_void_and_stop_nobody() {
    ordinary(|| {
        let world = World::new();
        let newest = fs::read_dir(world.repository().join("log")).unwrap().count() - 1;
        let next = format!("log/{}", newest + 1);
        let copy = |from: usize| fs::read(world.repository().join(format!("log/{from}"))).unwrap();
        let mut renumbered = copy(newest);
        renumbered[24..32].copy_from_slice(&(newest as u64 + 1).to_le_bytes());
        let before = *blake3::hash(&copy(newest)).as_bytes();
        renumbered[32..64].copy_from_slice(&before);
        let forged = {
            let key = pgcairn::crypt::sign::SigningKey::from_seed(&[9; 32]);
            let mut bytes = renumbered[..renumbered.len() - 64].to_vec();
            bytes[64..80].copy_from_slice(&key.id().0);
            let signature = key.sign(b"log entry", &[&bytes]);
            [bytes, signature.to_vec()].concat()
        };
        let planted: Vec<(&str, Vec<u8>)> = vec![
            ("nothing", vec![]),
            ("junk", b"junk".to_vec()),
            ("an old entry again", copy(2)),
            ("renumbered", renumbered),
            ("signed by a key that nobody enrolled", forged),
            ("too long", vec![7; 20_000]),
        ];
        side_by_side(&planted, |(what, bytes)| {
            let case = Case::new(&world, &[&next], (*what).to_owned(), |repository| fs::write(repository.join(&next), bytes).unwrap());
            for command in ALL {
                assert!(case.judge(command), "{what}: {command:?}");
            }
        });
    });
}

#[test]
fn entries_with_high_numbers_are_damage_and_cost_nothing() {
    ordinary(|| {
        let world = World::new();
        let newest = fs::read_dir(world.repository().join("log")).unwrap().count() as u64 - 1;
        let gap = format!("log/{}", newest + 1);
        let numbers = [newest + 2, newest + 1_000_000, u64::MAX - 1, u64::MAX];
        side_by_side(&numbers, |number| {
            let answers = nothing_goes_wrong(&world, &[&gap, &format!("log/{number}")], |repository| {
                fs::copy(repository.join("log/1"), repository.join(format!("log/{number}"))).unwrap();
            });
            // Restores go on.
            for command in [Command::Restore, Command::RestoreAfresh, Command::List, Command::Show] {
                assert!(holds(&answers, command), "{number}: {command:?}");
            }
        });
        // Names that no entry has are passed over.
        all_is_well(&world, "other names", |repository| {
            for name in ["log/00", "log/+1", "log/-1", "log/18446744073709551616", "log/x", "log/1.1", "body/x", "pack/x", "wal/x"] {
                fs::write(repository.join(name), "junk").unwrap();
            }
        });
    });
}

#[test]
fn planted_packs_are_in_no_list_and_are_not_adopted() {
    ordinary(|| {
        let mut world = World::new();
        let kinds = kinds(&world);
        let packs: Vec<String> = world.objects().into_iter().filter(|o| o.starts_with("pack/")).collect();
        let repository = world.repository();
        for (n, pack) in packs.iter().enumerate() {
            let bytes = fs::read(repository.join(pack)).unwrap();
            let file = pack.rsplit('/').next().unwrap();
            // The same pack in another session's folder; other bytes under its id; a new one in an ended session's folder.
            let folders = [format!("pack/{:032x}", n + 1), pack.rsplit_once('/').unwrap().0.to_owned()];
            fs::create_dir_all(repository.join(&folders[0])).unwrap();
            fs::write(repository.join(&folders[0]).join(file), &bytes).unwrap();
            let hash = blake3::hash(b"garbage").to_hex();
            let id = file.split('-').next().unwrap();
            fs::write(repository.join(&folders[1]).join(format!("{id}-{hash}")), "garbage").unwrap();
            fs::write(repository.join(&folders[1]).join(format!("{:032x}-{hash}", n + 1)), "garbage").unwrap();
        }
        assert!(kinds.contains_key(&What::ContentPack));
        fs::write(world.data().join("postgresql.conf"), "port = 5435\n").unwrap();
        world.backup();
        let (restored, target) = world.restore_afresh(&repository, &[]);
        restored.ok();
        assert!(tree(&target.join("data")) == world.snapshots.last().unwrap().1);
        // What the COMMIT names was there before, or is its own.
        world.opened(|opened, _| {
            let view = opened.view();
            let (_, newest) = view.fold.commits.iter().next_back().unwrap();
            for (session, pack) in newest.set.iter() {
                let name = format!("pack/{session}/{pack}-");
                assert!(packs.iter().any(|p| p.starts_with(&name)) || *session == newest.session, "{name}");
            }
        });
    });
}

/// The object of a WAL file.
fn object_of(world: &World, name: &str) -> String {
    let known = world.objects().into_iter().find(|o| o.ends_with(SEGMENTS[0])).unwrap();
    known.replace(SEGMENTS[0], name)
}

#[test]
fn a_name_that_was_taken_in_advance_costs_the_push_a_number() {
    ordinary(|| {
        let world = World::new();
        let object = object_of(&world, NEXT_SEGMENT);
        let other = fs::read(world.repository().join(object_of(&world, SEGMENTS[0]))).unwrap();
        let mut alarm = other.clone();
        alarm[40..48].copy_from_slice(&9_999u64.to_le_bytes());
        // Junk, the object of another name, a cut one: all without a signature for this name.
        let junk: [(&str, Vec<u8>); 4] =
            [("nothing", vec![]), ("junk", b"junk".to_vec()), ("another's", other.clone()), ("cut", other[..290].to_vec())];
        side_by_side(&junk, |(what, bytes)| {
            let case = Case::new(&world, &[&object], (*what).to_owned(), |repository| fs::write(repository.join(&object), bytes).unwrap());
            let segment = world.wal(NEXT_SEGMENT);
            case.run(&case.host, &["archive-push", segment.to_str().unwrap()]).ok();
            assert!(case.repository().join(format!("{object}.1")).exists(), "{what}");
            let to = case.repository().with_extension("got");
            case.run(&case.host, &["archive-get", NEXT_SEGMENT, to.to_str().unwrap()]).ok();
            assert!(fs::read(&to).unwrap() == wal(NEXT_SEGMENT), "{what}");
            for command in ALL.into_iter().filter(|c| *c != Command::Status) {
                assert!(case.judge(command), "{what}: {command:?}");
            }
        });
        // Before the push: it is not said to be absent, since nobody knows what it was.
        let case = Case::new(&world, &[&object], "before".into(), |repository| fs::write(repository.join(&object), "junk").unwrap());
        let to = case.repository().with_extension("got");
        let got = case.run(&case.host, &["archive-get", "--json", NEXT_SEGMENT, to.to_str().unwrap()]);
        assert!(got.status.code().unwrap() > 125, "{}", got.report());
        assert!(clean_error(&got, "before").to_string().contains(NEXT_SEGMENT), "{}", got.report());
        // An object that names an entry which the log doesn't have is an alarm: both stop.
        let case = Case::new(&world, &[&object], "alarm".into(), |repository| fs::write(repository.join(&object), &alarm).unwrap());
        let segment = world.wal(NEXT_SEGMENT);
        let pushed = case.run(&case.host, &["archive-push", "--json", segment.to_str().unwrap()]);
        assert!((1..=125).contains(&pushed.status.code().unwrap()), "{}", pushed.report());
        assert!(clean_error(&pushed, "alarm").to_string().contains("9999"), "{}", pushed.report());
        let got = case.run(&case.host, &["archive-get", "--json", NEXT_SEGMENT, to.to_str().unwrap()]);
        assert!(got.status.code().unwrap() > 125, "{}", got.report());
        // A hundred names are tried.
        let case = Case::new(&world, &[&object], "hundred".into(), |repository| {
            fs::write(repository.join(&object), "junk").unwrap();
            for n in 1..150 {
                fs::write(repository.join(format!("{object}.{n}")), "junk").unwrap();
            }
        });
        let pushed = case.run(&case.host, &["archive-push", "--json", segment.to_str().unwrap()]);
        assert!((1..=125).contains(&pushed.status.code().unwrap()), "{}", pushed.report());
        assert!(clean_error(&pushed, "hundred")["cure"].is_string(), "{}", pushed.report());
    });
}

#[test]
fn what_is_no_file_is_neither_followed_nor_waited_for() {
    ordinary(|| {
        let world = World::new();
        let newest = fs::read_dir(world.repository().join("log")).unwrap().count();
        let secret = world.folder.join("secret");
        fs::write(&secret, "secret").unwrap();
        let next_wal = object_of(&world, NEXT_SEGMENT);
        let places = [format!("log/{newest}"), "key/link".into(), next_wal, "tmp/link".into(), "pgcairn2".into()];
        let cases: Vec<(String, bool)> = places.iter().flat_map(|p| [(p.clone(), false), (p.clone(), true)]).collect();
        side_by_side(&cases, |(place, fifo)| {
            nothing_goes_wrong(&world, &[place], |repository| {
                let path = repository.join(place);
                if *fifo {
                    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
                } else {
                    std::os::unix::fs::symlink(&secret, &path).unwrap();
                }
            });
        });
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    });
}

#[test]
fn feature_bits_of_a_newer_program_stop_writers_or_all() {
    ordinary(|| {
        let world = World::new();
        let with = |at: usize| {
            let mut bytes = fs::read(world.repository().join("pgcairn")).unwrap();
            bytes[at] |= 1;
            let hash = *blake3::hash(&bytes[..96]).as_bytes();
            bytes[96..].copy_from_slice(&hash);
            bytes
        };
        let judged = |at: usize| nothing_goes_wrong(&world, &["pgcairn"], |r| fs::write(r.join("pgcairn"), with(at)).unwrap());
        let compatible = judged(24);
        assert!(ALL.into_iter().all(|c| holds(&compatible, c)));
        let read_only = judged(32);
        assert!(holds(&read_only, Command::Restore) && holds(&read_only, Command::GetSegment));
        assert!(!holds(&read_only, Command::Backup) && !holds(&read_only, Command::Push));
        let incompatible = judged(40);
        assert!(!holds(&incompatible, Command::Restore) && !holds(&incompatible, Command::List));
    });
}
