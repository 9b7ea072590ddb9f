//! Restores that are killed: no server starts from what they leave, and `--delta` goes on.

use std::path::Path;

use crate::support::{self, Repository, Server, TestDir, verify_backup, wait_until};
use crate::{archived, backed_up, cut_off, delta, mark, marks, recover};

/// Runs a restore and kills it once its marker is there. Was it killed before it had ended?
fn killed(repository: &Repository, arguments: &[&str], to: &Path) -> bool {
    let mut child = repository.host.command(repository.arguments(arguments)).spawn().unwrap();
    let marker = to.join("pgcairn.restore");
    wait_until("the marker", || marker.exists() || child.try_wait().unwrap().is_some());
    // In the midst of it, not at its first step.
    wait_until("some files", || to.join("base").read_dir().is_ok_and(|base| base.count() > 2) || child.try_wait().unwrap().is_some());
    let _ = child.kill();
    let _ = child.wait();
    marker.exists()
}

fn starts(server: &mut Server) -> bool {
    server.try_start().is_ok()
}

#[test]
fn a_restore_into_an_empty_folder_goes_on() {
    support::on(18, |pg| {
        let (repository, server) = backed_up(pg, 5);
        mark(&server, 1);
        archived(&server);
        let target = TestDir::new();
        let to = target.join("data");
        let text = to.to_str().unwrap();
        assert!(killed(&repository, &["restore", "--to", text], &to), "it was too fast to be killed");
        assert!(!to.join("global/pg_control").exists());
        let plain = repository.run(["restore", "--to", text]);
        plain.code(1).says("has not ended").says("--delta");
        let mut restored = Server::build(pg).host(&repository.host).over_unfinished(&to);
        assert!(!starts(&mut restored));
        // Killed again, and then to its end.
        killed(&repository, &["restore", "--delta", "--to", text], &to);
        let answer = delta(&repository, &to, &[]).ok().json();
        assert!(answer["written_bytes"].as_u64().unwrap() < answer["bytes"].as_u64().unwrap(), "{answer}");
        assert!(!to.join("pgcairn.restore").exists());
        verify_backup(pg, &to);
        recover(&mut restored);
        assert_eq!((marks(&restored), restored.pgbench_sums()), ("1".into(), server.pgbench_sums()));
        support::amcheck(&restored);
    });
}

/// Over a crashed server's data directory: what its pg_wal alone held is not lost on the way.
#[test]
fn a_restore_in_place_goes_on_and_the_last_commit_is_there() {
    support::on(18, |pg| {
        let (repository, mut server) = backed_up(pg, 5);
        cut_off(&server);
        mark(&server, 1);
        let sums = server.pgbench_sums();
        server.crash();
        let data = server.data().to_owned();
        let text = data.to_str().unwrap();
        assert!(killed(&repository, &["restore", "--delta", "--to", text], &data), "it was too fast to be killed");
        assert!(!data.join("global/pg_control").exists());
        assert!(!starts(&mut server));
        // As if it were killed in the midst of pg_wal, too.
        for entry in std::fs::read_dir(data.join("pg_wal")).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        delta(&repository, &data, &[]).ok();
        // Killed just before the marker was removed: a marker beside a whole data directory is no obstacle.
        let id = server.control("system identifier");
        let marker = format!(r#"{{"version":1,"what":"","snapshot":"x","system_identifier":"{id}"}}"#);
        std::fs::write(data.join("pgcairn.restore"), marker).unwrap();
        delta(&repository, &data, &[]).ok();
        assert!(!data.join("pgcairn.restore").exists());
        recover(&mut server);
        assert_eq!((marks(&server), server.pgbench_sums()), ("1".into(), sums));
    });
}
