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

/// By the guide's own lines, on a host that has nothing but a key file: it is enrolled where it must push.
#[test]
fn another_host_pushes_as_well() {
    support::on(18, |pg| {
        const GUIDE: &str = include_str!("../../docs/restore-at-3am.md");
        let (repository, mut server) = backed_up(pg, 1);
        crate::cut_off(&server);
        crate::mark(&server, 1);
        server.crash();
        let blocks: Vec<&str> = GUIDE.split("```sh old\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert_eq!(blocks.len(), 2);
        let data = server.data().to_str().unwrap();
        let host = support::Host::new();
        let program = support::shell_quote(host.program().to_str().unwrap());
        let lines = blocks.concat().replace("/var/lib/postgresql/18/main", data).replace("pgcairn restore", &format!("{program} restore"));
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-e", "-c", &lines]).env_clear().envs(host.environment());
        shell.env("PGCAIRN_REPO", repository.path()).env("PGCAIRN_KEY_FILE", repository.key_file()).env("PGCAIRN_PGDATA", data);
        let outcome = support::Outcome::of(shell).ok();
        assert!(outcome.stderr.contains("were pushed") && outcome.stdout.contains("in place:"), "{}", outcome.report());
        crate::recover(&mut server);
        assert_eq!(crate::marks(&server), "1");
    });
}

/// From another container a server is not seen, and neither is its death: nobody guesses.
#[test]
fn what_can_not_be_seen_is_a_doubt() {
    support::on(18, |pg| {
        let (repository, mut server) = backed_up(pg, 1);
        let data = server.data().to_owned();
        let from_a_container = || {
            let line = repository.host.shell_line(repository.arguments(["restore", "--delta", "--to", data.to_str().unwrap()]));
            let mut command = std::process::Command::new("unshare");
            command.args(["--user", "--map-current-user", "--pid", "--fork", "--mount-proc", "--ipc", "sh", "-c"]);
            command.arg(format!("echo inside && {line}")).env_clear().envs(repository.host.environment());
            support::Outcome::of(command)
        };
        let control = fs::read(data.join("global/pg_control")).unwrap();
        for _ in ["alive", "dead"] {
            let outcome = from_a_container();
            if !outcome.stdout.contains("inside") {
                return support::skip(&format!("no containers can be made here: {}", outcome.stderr.trim()));
            }
            outcome.code(1).says("a server may run on").says("postmaster.pid");
            assert!(fs::read(data.join("global/pg_control")).unwrap() == control && !data.join("pgcairn.restore").exists());
            if server.runs() {
                server.crash();
            }
        }
        // Outside its death is proven; inside, the cure helps.
        repository.run(["restore", "--delta", "--dry-run", "--to", data.to_str().unwrap()]).ok();
        fs::remove_file(data.join("postmaster.pid")).unwrap();
        from_a_container().ok();
        crate::recover(&mut server);
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
