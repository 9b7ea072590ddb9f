//! A cluster that is restored to an earlier point in its own data directory, and goes on archiving.

use super::{Marks, archive_server, live, marks};
use crate::on_majors;
use crate::support::{Outcome, Postgres, Repository, Server, Stop, TestDir};

/// Says where the cluster lies, as a user's configuration does.
fn configure(repository: &Repository, server: &Server) {
    let folder = repository.host.home().join(".config/pgcairn");
    std::fs::create_dir_all(&folder).unwrap();
    let (url, pgdata) = (repository.path(), server.data());
    let text = format!("[repository.local]\nurl = {url:?}\n\n[cluster.main]\npgdata = {pgdata:?}\nrepositories = [\"local\"]\n");
    std::fs::write(folder.join("config.toml"), text).unwrap();
}

/// Stops the server, and restores into its own place.
fn back_to(repository: &Repository, server: &mut Server, lsn: &str, more: &[&str]) -> Outcome {
    server.stop(Stop::Fast);
    std::fs::remove_dir_all(server.data()).unwrap();
    let to = server.data().to_str().unwrap();
    let all = ["restore", "--to", to, "--target-lsn", lsn, "--target-action", "promote"];
    repository.host.pgcairn(all.iter().chain(more)).ok()
}

fn a_restore_in_place(pg: &Postgres) {
    let repository = Repository::init();
    let mut server = archive_server(pg, &repository);
    configure(&repository, &server);
    let rows = Marks::create(&server);
    repository.backup(&server, &[]);
    let one = rows.mark(1);
    rows.archived();
    let two = rows.mark(2);
    rows.archived();
    rows.archived_marks(3..=6);

    back_to(&repository, &mut server, &two, &[]).prints("its new timeline, 2, is announced in the repository");
    server.start();
    server.await_promotion();
    assert_eq!(marks(&server), "1,2");
    let rows = Marks(&server);
    rows.archived_marks(21..=24);
    let status = repository.run(["archive", "status", "--json"]).ok().json();
    assert_eq!(live(&status), [2], "{status}");

    // Back before the switch, along the latest timeline all the same.
    let said = back_to(&repository, &mut server, &one, &["--json"]).json();
    assert_eq!((&said["announced"]["timeline"], &said["target"]["timeline"]), (&3.into(), &2.into()), "{said}");
    server.start();
    server.await_promotion();
    assert_eq!(marks(&server), "1");
    Marks(&server).archived_marks(31..=34);
    let status = repository.run(["archive", "status", "--json"]).ok().json();
    assert_eq!(live(&status), [3], "{status}");
    // All the way from the first snapshot, and from one behind the switches.
    repository.backup(&server, &[]);
    let target = TestDir::new();
    let snapshots = repository.run(["list", "--json"]).ok().json()["snapshots"].clone();
    for (name, snapshot) in [("first", &snapshots[0]), ("last", &snapshots[1])] {
        let (host, _) = repository.restore(&target.join(name), &[snapshot["id"].as_str().unwrap()]);
        let mut copy = Server::build(pg).host(&host).over(&target.join(name));
        copy.start();
        copy.await_promotion();
        assert_eq!(marks(&copy), "1,31,32,33,34", "{name}");
    }
}

on_majors!(a_restore_in_place: pg15 15, pg18 18);
