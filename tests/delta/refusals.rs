//! What a restore in place doesn't touch.

use std::fs;

use crate::support::{self, Server, Stop, TestDir};
use crate::{backed_up, delta};

#[test]
fn other_folders_are_not_touched() {
    support::on(18, |pg| {
        let (repository, mut server) = backed_up(pg, 1);
        let scratch = TestDir::new();
        let other = Server::build(pg).fresh().create();
        let content = |server: &Server| fs::read(server.data().join("global/pg_control")).unwrap();
        let before = content(&other);
        delta(&repository, other.data(), &[]).code(1).says("another cluster");
        assert!(content(&other) == before && !other.data().join("pgcairn.restore").exists());

        let folder = scratch.folder("photos");
        fs::write(folder.join("one"), "x").unwrap();
        delta(&repository, &folder, &[]).code(1).says("is no data directory").says("one");
        repository.run(["restore", "--to", folder.to_str().unwrap()]).code(1).says("--delta");
        fs::write(folder.join("pgcairn.restore"), r#"{"version":1,"what":"","snapshot":"x","system_identifier":"7"}"#).unwrap();
        delta(&repository, &folder, &[]).code(1).says("another cluster");
        fs::write(folder.join("pgcairn.restore"), "rubbish").unwrap();
        delta(&repository, &folder, &[]).code(1).says("pgcairn.restore");
        assert!(folder.join("one").exists());

        // While its server runs, and while another restore is at work.
        delta(&repository, server.data(), &[]).code(1).says("a server runs").says("stop");
        server.stop(Stop::Fast);
        let lock = fs::File::create(server.data().with_file_name("data.pgcairn-lock")).unwrap();
        lock.lock().unwrap();
        delta(&repository, server.data(), &[]).code(1).says("data.pgcairn-lock");
        drop(lock);
        fs::remove_file(server.data().with_file_name("data.pgcairn-lock")).unwrap();
        // Of no use without --delta, and none of it into an empty folder that isn't one.
        repository.run(["restore", "--no-push", "--to", scratch.join("x").to_str().unwrap()]).code(2);
        server.start();
    });
}

/// Into an empty folder `--delta` is an ordinary restore.
#[test]
fn nothing_stands_there() {
    support::on(18, |pg| {
        let (repository, _server) = backed_up(pg, 1);
        let scratch = TestDir::new();
        for name in ["absent", "empty"] {
            let to = scratch.join(name);
            if name == "empty" {
                fs::create_dir(&to).unwrap();
            }
            let answer = delta(&repository, &to, &[]).ok().json();
            assert_eq!((answer["in_place"].as_bool(), answer["removed"].as_u64()), (Some(false), Some(0)), "{answer}");
            assert!(to.join("global/pg_control").exists() && !to.join("pgcairn.restore").exists());
        }
    });
}

/// A second host that has nothing but a key file is enrolled where it must push.
#[test]
fn another_host_pushes_as_well() {
    support::on(18, |pg| {
        let (repository, mut server) = backed_up(pg, 1);
        crate::cut_off(&server);
        crate::mark(&server, 1);
        server.crash();
        let (host, outcome) = repository.restore(server.data(), &["--delta", "--json"]);
        assert!(!outcome.json()["wal_pushed"].as_array().unwrap().is_empty(), "{}", outcome.report());
        crate::recover(&mut server);
        assert_eq!(crate::marks(&server), "1");
        drop(host);
    });
}

/// The key for restore_command lies there before pg_control does, and a half-written one of a restore that was killed is
/// no obstacle.
#[test]
fn the_key_is_there_before_a_server_can_start() {
    support::on(18, |pg| {
        use std::os::unix::fs::PermissionsExt;
        let (repository, _server) = backed_up(pg, 1);
        let scratch = TestDir::new();
        let to = scratch.join("data");
        let half = scratch.folder("data.pgcairn.new");
        fs::write(half.join("x"), "").unwrap();
        // A folder of that name that nobody can write to: the restore ends there.
        fs::set_permissions(&half, fs::Permissions::from_mode(0o500)).unwrap();
        let (host, outcome) = repository.try_restore(&to, &[]);
        outcome.code(1).says("data.pgcairn.new");
        assert!(to.join("pgcairn.restore").exists() && !to.join("global/pg_control").exists());
        drop(host);
        fs::set_permissions(&half, fs::Permissions::from_mode(0o700)).unwrap();
        let (host, _) = repository.restore(&to, &["--delta"]);
        assert!(scratch.join("data.pgcairn").is_dir() && !half.exists());
        let mut restored = Server::build(pg).over(&to);
        crate::recover(&mut restored);
        drop(host);
    });
}
