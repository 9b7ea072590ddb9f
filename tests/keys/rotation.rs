//! A new content key: what was written before and after, and who reads what.

use std::fs;

use crate::support::{Host, copy_tree, ordinary};
use crate::world::{NEXT_SEGMENT, SEGMENTS, World};
use crate::{file, owner, restore, restores, with};

fn change(world: &World, text: &str) {
    fs::write(world.data().join("postgresql.conf"), text).unwrap();
}

#[test]
fn old_and_new_snapshots_restore_and_an_old_slot_opens_only_the_old() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        world.run(["archive-push", world.wal(SEGMENTS[0]).to_str().unwrap()]).ok();
        let passphrase = file(&world, "p", "a passphrase\n");
        owner(&world, &["key", "add", "--test-kdf", "--passphrase-file", &passphrase]).ok();
        let paper = world.folder.join("paper");
        owner(&world, &["key", "export", paper.to_str().unwrap()]).ok();
        let kept = world.folder.join("kept");
        copy_tree(&world.repository().join("key"), &kept);
        let thief = crate::stolen(&world.host);

        owner(&world, &["key", "rotate"]).code(1).says("would then open no new content").says("--with-passphrase-file");
        assert_eq!(fs::read_dir(world.repository().join("key")).unwrap().count(), 2);
        let rotated = owner(&world, &["key", "rotate", "--with-passphrase-file", &passphrase, "--json"]).ok().json();
        assert_eq!((rotated["slots"].as_array().unwrap().len(), rotated["removed"].as_array().unwrap().len()), (2, 2), "{rotated}");
        change(&world, "port = 5433\n");
        world.backup();
        world.run(["archive-push", world.wal(SEGMENTS[1]).to_str().unwrap()]).ok();
        for (variable, value) in [("PGCAIRN_KEY_FILE", world.key().to_str().unwrap()), ("PGCAIRN_PASSPHRASE", "a passphrase")] {
            for number in [0, 1] {
                restores(&world, &Host::new(), &[(variable, value.as_ref())], number);
            }
        }
        restores(&world, &world.host, &[], 1);
        world.run(["verify"]).ok();
        world.run(["verify", "--read-data"]).ok();

        // A thief of the host's disk, and of an old slot with its key, read what was written before.
        let newest = world.snapshots[1].0.clone();
        restores(&world, &thief, &[], 0);
        restore(&world, &thief, &[], &newest).0.code(1).says("does not hold").says("key accept");
        let at = world.repository().join("key");
        let now = world.folder.join("now");
        fs::rename(&at, &now).unwrap();
        copy_tree(&kept, &at);
        let key = world.key();
        let by = [("PGCAIRN_KEY_FILE", key.as_os_str())];
        restores(&world, &Host::new(), &by, 0);
        restore(&world, &Host::new(), &by, &newest).0.code(1).says("does not hold");
        with(&world, &Host::new(), &by, &["key", "add", "--passphrase-file", &file(&world, "q", "new\n")])
            .code(1)
            .says("of before a rotation");
        let by_paper = [("PGCAIRN_KEY_FILE", paper.as_os_str())];
        restores(&world, &Host::new(), &by_paper, 0);
        restore(&world, &Host::new(), &by_paper, &newest).0.code(1).says("does not hold");
        with(&world, &Host::new(), &by_paper, &["key", "export", "-"]).code(1).says("of before a rotation");
        fs::remove_dir_all(&at).unwrap();
        fs::rename(&now, &at).unwrap();

        // Again and again: all of them are kept.
        for text in ["port = 1\n", "port = 2\n"] {
            owner(&world, &["key", "rotate", "--with-passphrase-file", &passphrase]).ok();
            change(&world, text);
            world.backup();
        }
        for number in 0..4 {
            restores(&world, &Host::new(), &[("PGCAIRN_PASSPHRASE", "a passphrase".as_ref())], number);
        }
        let list = world.run(["key", "list", "--json"]).ok().json();
        let keys = list["content_keys"].as_array().unwrap();
        assert_eq!((keys.len(), keys.iter().filter(|k| k["held"] == true).count()), (4, 4), "{list}");
        assert!(keys[3]["current"] == true && keys[0]["current"] == false);
    });
}

#[test]
fn hosts_of_before_archive_on_and_get_the_new_key() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let grant = world.folder.join("grant");
        owner(&world, &["key", "add-host", "--role", "writer,reader", "--name", "db2", grant.to_str().unwrap()]).ok();
        let (by_file, by_secret) = (Host::new(), Host::new());
        world.run_on(&by_file, &world.repository(), ["key", "accept", grant.to_str().unwrap()]).ok();
        let key = world.key();
        let with_key = [("PGCAIRN_KEY_FILE", key.as_os_str())];
        let backup = world.backup_arguments();
        let backup: Vec<&str> = backup.iter().map(String::as_str).collect();
        with(&world, &by_secret, &with_key, &backup).ok();
        owner(&world, &["key", "rotate"]).ok().prints("db2");
        // WAL goes on, sealed to the new key; a backup would be blind to itself.
        world.run_on(&by_file, &world.repository(), ["archive-push", world.wal(SEGMENTS[0]).to_str().unwrap()]).ok();
        world.run_on(&by_secret, &world.repository(), ["archive-push", world.wal(NEXT_SEGMENT).to_str().unwrap()]).ok();
        world.run_on(&by_file, &world.repository(), &backup).code(1).says("was rotated").says("key accept");
        world
            .run_on(&by_file, &world.repository(), ["key", "list"])
            .ok()
            .prints("not opened by this host")
            .prints("before the content key was rotated");
        let got = world.folder.join("got");
        world.run_on(&by_file, &world.repository(), ["archive-get", SEGMENTS[0], got.to_str().unwrap()]).says("does not hold");
        // By a file, and by the next use of a slot.
        let newer = world.folder.join("newer");
        owner(&world, &["key", "add-host", "--role", "reader", "--name", "db2", newer.to_str().unwrap()]).ok().prints("already");
        world.run_on(&by_file, &world.repository(), ["key", "accept", newer.to_str().unwrap()]).ok();
        world.run_on(&by_file, &world.repository(), &backup).ok();
        world.run_on(&by_file, &world.repository(), ["archive-get", SEGMENTS[0], got.to_str().unwrap()]).ok();
        with(&world, &by_secret, &with_key, &["list"]).ok().says("has got the new content key");
        world.run_on(&by_secret, &world.repository(), &backup).ok();
        restores(&world, &by_secret, &[], 0);
        // A wrong passphrase is no reason not to archive.
        owner(&world, &["key", "rotate"]).ok();
        let wrong = [("PGCAIRN_PASSPHRASE", "wrong".as_ref())];
        with(&world, &by_file, &wrong, &["archive-push", world.wal(SEGMENTS[1]).to_str().unwrap()]).ok().says("has not got the new one");
    });
}

#[test]
fn removed_and_rotated_a_passphrase_opens_nothing_new() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let leaked = file(&world, "leaked", "known to all\n");
        let added = owner(&world, &["key", "add", "--test-kdf", "--passphrase-file", &leaked, "--json"]).ok().json();
        let slot = added["slot"].as_str().unwrap();
        let bytes = fs::read(world.repository().join("key").join(slot)).unwrap();
        owner(&world, &["key", "remove", slot]).ok();
        owner(&world, &["key", "rotate"]).ok();
        change(&world, "port = 7\n");
        world.backup();
        // Put back by whoever kept it.
        fs::write(world.repository().join("key").join(slot), bytes).unwrap();
        let by = [("PGCAIRN_PASSPHRASE", "known to all".as_ref())];
        restores(&world, &Host::new(), &by, 0);
        restore(&world, &Host::new(), &by, &world.snapshots[1].0).0.code(1).says("does not hold");
        // And it is not carried along by a rotation, whether that is given its passphrase or not: the log knows that it was removed.
        let rotated = owner(&world, &["key", "rotate", "--with-passphrase-file", &leaked, "--json"]).ok().json();
        assert_eq!((rotated["slots"].as_array().unwrap().len(), &rotated["removed"][0]), (1, &added["slot"]), "{rotated}");
        with(&world, &Host::new(), &by, &["list"]).code(1).says("does not open this repository");
    });
}
