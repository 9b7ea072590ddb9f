//! What is refused, and how it is said.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Repository, Server, TestDir};

#[test]
fn the_wrong_server_is_refused() {
    crate::support::on(18, |pg| {
        let server = Server::build(pg).start();
        let clone = Server::build(pg).start();
        let stranger = Server::build(pg).fresh().start();
        let repository = Repository::init();
        for other in [&clone, &stranger] {
            let data = other.data().to_str().unwrap().to_owned();
            let outcome = repository.run(["backup", "--wal", "copy", "--dsn", &server.dsn("postgres"), "--pgdata", &data]).code(1);
            assert!(outcome.stderr.contains("--dsn and --pgdata"), "{}", outcome.report());
        }
        repository.run(["backup", "--dsn", "host=/nowhere"]).code(1);
        repository.try_backup(&server, &[]).code(1).says("--wal copy").says("pgcairn check prints the lines");
        assert_eq!(repository.run(["list", "--json"]).ok().json()["snapshots"].as_array().unwrap().len(), 0);
        // Nothing of all this was even begun.
        assert!(!repository.path().join("log/1").exists());
    });
}

#[test]
fn another_cluster_under_the_same_name_is_refused_once() {
    crate::support::on(18, |pg| {
        let server = Server::build(pg).start();
        let stranger = Server::build(pg).fresh().start();
        let repository = Repository::init();
        repository.backup(&server, &["--wal", "copy"]);
        repository.try_backup(&stranger, &["--wal", "copy"]).code(1).says("--new-history");
        repository.backup(&stranger, &["--wal", "copy", "--new-history"]);
        repository.backup(&stranger, &["--wal", "copy"]);
        repository.try_backup(&server, &["--wal", "copy"]).code(1).says("--new-history");
        repository.backup(&server, &["--wal", "copy", "--cluster", "other"]);
    });
}

#[test]
fn a_restore_touches_nothing_that_is_there() {
    crate::support::on(18, |pg| {
        let server = Server::build(pg).start();
        let repository = Repository::init();
        repository.backup(&server, &["--wal", "copy"]);
        let target = TestDir::new();
        let to = target.folder("data");
        std::fs::write(to.join("mine"), "mine").unwrap();
        repository.try_restore(&to, &[]).1.code(1).says("not empty");
        assert_eq!(std::fs::read_to_string(to.join("mine")).unwrap(), "mine");
        assert_eq!(std::fs::read_dir(&to).unwrap().count(), 1);
        repository.try_restore(&target.join("x"), &["20200101"]).1.code(4);
        assert!(!target.join("x").exists());
        // A slip in the cluster's name is answered with the names that there are.
        let slip = repository.try_restore(&target.join("x"), &["--cluster", "mian"]).1.code(4);
        slip.says("there is no snapshot yet of cluster mian").says("choose with --cluster: main");

        // A place that can't be made is what is complained of, not what would lie beside it.
        if nix::unistd::geteuid().is_root() {
            return;
        }
        let closed = target.folder("closed");
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500)).unwrap();
        let refused = repository.try_restore(&closed.join("x"), &["--standby"]).1.code(1);
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        refused.says(&format!("{} can't be made", closed.join("x").display())).says("or check --to");
    });
}
