//! Timelines that begin in an archive: those of promoted copies, of failovers and of restores in place, on real servers.

#[path = "../support/mod.rs"]
mod support;

mod copy;
mod failover;
mod in_place;

use serde_json::Value;
use support::{Repository, Server, wait_until};

/// Marks that are committed one after the other; each ends its WAL segment, which is then archived.
struct Marks<'s>(&'s Server);

impl Marks<'_> {
    fn create(server: &Server) -> Marks<'_> {
        server.sql("postgres", "create table marks(i int)");
        Marks(server)
    }

    /// Commits a mark; the position behind it.
    fn mark(&self, i: u32) -> String {
        self.0.sql("postgres", &format!("insert into marks values ({i})"));
        self.0.sql("postgres", "select pg_current_wal_lsn()")
    }

    /// Everything so far is in the archive.
    fn archived(&self) -> String {
        let segment = self.0.switch_wal();
        self.0.await_archived(&segment);
        segment
    }

    /// Marks of which each has a segment of its own.
    fn archived_marks(&self, marks: impl IntoIterator<Item = u32>) {
        for i in marks {
            self.mark(i);
            self.archived();
        }
    }
}

fn marks(server: &Server) -> String {
    server.sql("postgres", "select string_agg(i::text, ',' order by i) from marks")
}

fn follows(standby: &Server, wanted: &str) {
    wait_until(&format!("marks {wanted} on the standby"), || {
        standby.try_sql("postgres", "select string_agg(i::text, ',' order by i) from marks").is_ok_and(|found| found == wanted)
    });
}

/// The timelines that are live.
fn live(status: &Value) -> Vec<u64> {
    let timelines = status["timelines"].as_array().unwrap().iter();
    timelines.filter(|t| t["live"] == true).map(|t| t["timeline"].as_u64().unwrap()).collect()
}

fn archive_server(pg: &support::Postgres, repository: &Repository) -> Server {
    Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start()
}
