//! Which relation a file belongs to, recorded by a backup of a running server.

use crate::support::{Repository, Server, bytes_below};

crate::on_majors!(relations_of_every_database_are_recorded: pg15 15, pg18 18);

fn relations_of_every_database_are_recorded(pg: &crate::support::Postgres) {
    let repository = Repository::init();
    let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
    server.sql("postgres", "create table t as select generate_series(1, 1000) i");
    repository.backup(&server, &[]);
    let before = bytes_below(&repository.path().join("pack"));
    let second = repository.backup(&server, &[]);
    let stored = bytes_below(&repository.path().join("pack")) - before;
    eprintln!("{stored} {second}");
    panic!();
}
