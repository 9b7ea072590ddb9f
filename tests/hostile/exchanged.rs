//! Objects in each other's place, another repository at the same place, yesterday's copy, two forks.

use std::fs;
use std::path::Path;

use crate::damage::{ALL, Case, Problems, What, kinds, side_by_side};
use crate::support::{Host, Outcome, copy_tree, ordinary};
use crate::world::{NEXT_SEGMENT, SEGMENTS, World, clean_error, tree};

fn swap(repository: &Path, one: &str, other: &str) {
    let path = |name: &str| repository.join(name);
    let aside = repository.with_extension("aside");
    fs::rename(path(one), &aside).unwrap();
    fs::rename(path(other), path(one)).unwrap();
    fs::rename(aside, path(other)).unwrap();
}

fn replace(to: &Path, from: &Path) {
    fs::remove_dir_all(to).unwrap();
    copy_tree(from, to);
}

#[test]
fn objects_in_each_others_place_are_noticed_and_never_mixed_up() {
    ordinary(|| {
        let world = World::new();
        let kinds = kinds(&world);
        let of = |what: What| kinds[&what].clone();
        let segments: Vec<String> = world.objects().into_iter().filter(|o| SEGMENTS.iter().any(|s| o.ends_with(s))).collect();
        let packs: Vec<String> = world.objects().into_iter().filter(|o| o.starts_with("pack/")).collect();
        let mut pairs = vec![
            (segments[0].clone(), segments[1].clone()),
            (of(What::History), segments[0].clone()),
            (of(What::Begin), of(What::Commit)),
            (of(What::Key), of(What::Commit)),
            (of(What::Progress), of(What::Abort)),
            ("log/2".into(), "log/7".into()),
            (of(What::ContentPack), of(What::Segment)),
            (of(What::Slot), of(What::Commit)),
            ("pgcairn".into(), of(What::Slot)),
            (of(What::Body), of(What::Progress)),
        ];
        // Each pack with the next one.
        pairs.extend(packs.windows(2).map(|w| (w[0].clone(), w[1].clone())));
        let problems = Problems::default();
        side_by_side(&pairs, |(one, other)| {
            let name = format!("{one} in the place of {other}");
            let case = Case::new(&world, &[one, other], name, |repository| swap(repository, one, other));
            for command in ALL {
                problems.judge(&case, command);
            }
        });
        problems.finish();
        println!("{} pairs, {} commands", pairs.len(), pairs.len() * ALL.len());
    });
}

/// Commands of somebody who lets a host look at another repository than it knows.
fn every_command(world: &World, host: &Host, repository: &Path) -> Vec<(String, Outcome)> {
    let to = world.folder.join("nowhere");
    let (to, wal) = (to.to_str().unwrap(), world.wal(NEXT_SEGMENT));
    let backup = world.backup_arguments();
    let lines: Vec<Vec<&str>> = vec![
        vec!["list", "--json"],
        vec!["show", "latest", "--json"],
        vec!["archive", "status", "--json"],
        vec!["restore", "--json", "--no-recovery", "--to", to],
        vec!["archive-get", "--json", SEGMENTS[0], to],
        vec!["archive-push", "--json", wal.to_str().unwrap()],
        backup.iter().map(String::as_str).collect(),
    ];
    lines.into_iter().map(|line| (line.join(" "), world.run_on(host, repository, &line))).collect()
}

#[test]
fn another_repository_at_the_same_place_is_refused_by_every_command() {
    ordinary(|| {
        let world = World::new();
        let other = World::empty();
        // Under the same key file, so that nothing but what the host remembers tells them apart.
        fs::remove_dir_all(other.repository()).unwrap();
        fs::copy(world.key(), other.key()).unwrap();
        let stranger = Host::new();
        other.run_on(&stranger, &other.repository(), ["init", "--key-file", other.key().to_str().unwrap()]).ok();
        replace(&world.repository(), &other.repository());
        let before = crate::world::objects(&world.repository());
        for key in [false, true] {
            for (line, outcome) in every_command(&world, &world.host, &world.repository()) {
                let error = clean_error(&outcome, &format!("{line}, with a key: {key}"));
                assert_eq!(error["class"], "refused", "{}", outcome.report());
                assert!(error["what"].as_str().unwrap().contains("is not the one that this host knows"), "{}", outcome.report());
                assert!(error["cure"].is_string(), "{}", outcome.report());
            }
        }
        assert_eq!(crate::world::objects(&world.repository()), before);
        assert!(!world.folder.join("nowhere").exists());
    });
}

#[test]
fn the_front_of_another_repository_opens_nothing_of_this_one() {
    ordinary(|| {
        let world = World::new();
        let other = World::empty();
        let slot = |w: &World| w.objects().into_iter().find(|o| o.starts_with("key/")).unwrap();
        let (ours, theirs) = (slot(&world), slot(&other));
        let host_knows = |what: &str, change: &dyn Fn(&Path)| {
            let case = Case::new(&world, &["pgcairn", &ours], what.to_owned(), change);
            for command in ALL {
                case.judge(command);
            }
        };
        let from = other.repository();
        host_knows("their format", &|repository| {
            let _ = fs::copy(from.join("pgcairn"), repository.join("pgcairn")).unwrap();
        });
        host_knows("their slot in ours", &|repository| {
            let _ = fs::copy(from.join(&theirs), repository.join(&ours)).unwrap();
        });
        host_knows("their slot beside ours", &|repository| {
            let _ = fs::copy(from.join(&theirs), repository.join(&theirs)).unwrap();
        });
        host_knows("format and slot", &|repository| {
            fs::copy(from.join("pgcairn"), repository.join("pgcairn")).unwrap();
            fs::remove_file(repository.join(&ours)).unwrap();
            fs::copy(from.join(&theirs), repository.join(&theirs)).unwrap();
        });
        host_knows("format, slot and the log's beginning", &|repository| {
            for name in ["pgcairn", "log/0"] {
                fs::copy(from.join(name), repository.join(name)).unwrap();
            }
            fs::remove_file(repository.join(&ours)).unwrap();
            fs::copy(from.join(&theirs), repository.join(&theirs)).unwrap();
        });
    });
}

#[test]
fn a_repository_that_was_set_back_is_refused_by_all_who_saw_more() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        world.run(["archive-push", world.wal(SEGMENTS[0]).to_str().unwrap()]).ok();
        let yesterday = world.copy("yesterday");
        fs::write(world.data().join("postgresql.conf"), "port = 5434\n").unwrap();
        world.backup();
        replace(&world.repository(), &yesterday);
        let before = world.objects();
        for (line, outcome) in every_command(&world, &world.host, &world.repository()) {
            let error = clean_error(&outcome, &line);
            assert_eq!(error["class"], "corrupt", "{}", outcome.report());
            assert!(error.to_string().contains("was set back"), "{}", outcome.report());
            assert!(error["cure"].is_string(), "{}", outcome.report());
        }
        // A push may have stored its object before it looked; nothing went, and the log was not appended to.
        let after = world.objects();
        assert!(before.iter().all(|o| after.contains(o)));
        assert_eq!(before.iter().filter(|o| o.starts_with("log/")).count(), after.iter().filter(|o| o.starts_with("log/")).count());

        // Who knows nothing is told by --expect, and else how old it is.
        let (refused, target) = world.restore_afresh(&world.repository(), &["--expect", &world.head]);
        clean_error(&refused.code(1).says("older"), "--expect");
        assert!(!target.join("data").exists());
        let (older, target) = world.restore_afresh(&world.repository(), &[]);
        let older = older.ok();
        assert!(tree(&target.join("data")) == world.snapshots[0].1);
        assert!(older.stderr.contains("newest entry") || older.stderr.contains("log"), "{}", older.report());
    });
}

#[test]
fn who_was_shown_one_fork_of_the_log_takes_nothing_of_the_other() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let fork = world.copy("fork");
        // One host is shown this one, another host that one: both append.
        world.backup();
        let second = Host::new();
        let mut arguments = vec!["--key-file".to_owned(), world.key().to_str().unwrap().to_owned()];
        arguments.extend(world.backup_arguments());
        world.run_on(&second, &fork, arguments).ok();
        let ours = world.copy("ours");
        let theirs = world.folder.join("theirs");
        copy_tree(&fork, &theirs);
        // Each is then shown the other's.
        replace(&world.repository(), &theirs);
        for (line, outcome) in every_command(&world, &world.host, &world.repository()) {
            let error = clean_error(&outcome, &line);
            assert_eq!(error["class"], "corrupt", "{}", outcome.report());
            assert!(
                error.to_string().contains("history was changed") || error.to_string().contains("was set back"),
                "{}",
                outcome.report()
            );
        }
        let shown = world.folder.join("fork");
        replace(&shown, &ours);
        for (line, outcome) in every_command(&world, &second, &shown) {
            let error = clean_error(&outcome, &line);
            assert_eq!(error["class"], "corrupt", "{}", outcome.report());
        }
        // And an entry of one at the end of the other.
        replace(&world.repository(), &ours);
        world.run(["list"]).ok();
        let newest = fs::read_dir(ours.join("log")).unwrap().count() - 1;
        fs::copy(theirs.join(format!("log/{newest}")), world.repository().join(format!("log/{newest}"))).unwrap();
        for (line, outcome) in every_command(&world, &world.host, &world.repository()) {
            let error = clean_error(&outcome, &line);
            assert_eq!(error["class"], "corrupt", "{}", outcome.report());
        }
    });
}
