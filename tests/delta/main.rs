//! Restores in place, on real servers: over a data directory whose server crashed, over what an interrupted restore left,
//! and what stands against it.

#[path = "../support/mod.rs"]
mod support;

mod holes;
mod interrupted;
mod meanwhile;
mod refusals;
mod wal;

use std::path::Path;

use support::{Outcome, Postgres, Repository, Server};

/// A server that archives, with pgbench's tables, a table of marks, and a backup.
fn backed_up(pg: &Postgres, scale: u32) -> (Repository, Server) {
    let repository = Repository::init();
    let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
    server.pgbench_init(scale);
    server.sql("postgres", "create table marks(i int)");
    repository.backup(&server, &[]);
    (repository, server)
}

/// Commits a mark, after some work.
fn mark(server: &Server, i: u32) {
    server.pgbench(&["-n", "-c", "1", "-t", "30"]);
    server.sql("postgres", &format!("insert into marks values ({i})"));
}

/// Everything so far is in the archive.
fn archived(server: &Server) {
    let segment = server.switch_wal();
    server.await_archived(&segment);
}

/// Nobody takes its WAL any more: some whole segments and one that is not finished are its own alone.
fn cut_off(server: &Server) {
    server.set("archive_command", "false");
    for i in 0..3 {
        server.sql("postgres", &format!("create table filler{i} as select i, md5(i::text) from generate_series(1, 20000) i"));
    }
}

fn marks(server: &Server) -> String {
    server.sql("postgres", "select coalesce(string_agg(i::text, ',' order by i), '') from marks")
}

/// `restore --delta` by the host that made the repository.
fn delta(repository: &Repository, to: &Path, more: &[&str]) -> Outcome {
    let mut all = vec!["restore", "--json", "--delta", "--to", to.to_str().unwrap()];
    all.extend(more);
    repository.run(all)
}

/// Starts a restored server, and waits until it takes writes.
fn recover(server: &mut Server) {
    server.start();
    server.await_promotion();
}
