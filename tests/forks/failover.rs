//! A real failover: the old line ends at or near the switch.

use super::{Marks, archive_server, follows, live};
use crate::on_majors;
use crate::support::{Postgres, Repository, Server, Stop, TestDir, wait_until};

fn a_failover(pg: &Postgres) {
    let repository = Repository::init();
    let mut primary = archive_server(pg, &repository);
    let rows = Marks::create(&primary);
    repository.backup(&primary, &[]);
    let target = TestDir::new();
    let to = target.join("standby");
    let retry = ["--recovery-option", "wal_retrieve_retry_interval=100ms"];
    repository.run(["restore", "--to", to.to_str().unwrap(), "--standby"].into_iter().chain(retry)).ok();
    let mut standby = Server::build(pg).host(&repository.host).over(&to);
    standby.start();
    standby.set("primary_conninfo", &primary.dsn("postgres"));
    wait_until("streaming", || primary.sql("postgres", "select count(*) from pg_stat_replication where state = 'streaming'") == "1");
    rows.archived_marks(1..=3);
    rows.mark(4);
    follows(&standby, "1,2,3,4");
    // What the primary writes now nobody gets, and it is lost in the middle of a segment.
    standby.set("primary_conninfo", "");
    wait_until("the end of streaming", || primary.sql("postgres", "select count(*) from pg_stat_replication") == "0");
    rows.mark(5);
    let unfinished = primary.sql("postgres", "select pg_walfile_name(pg_current_wal_insert_lsn())");
    primary.stop(Stop::Immediate);
    standby.sql("postgres", "select pg_promote()");
    standby.await_promotion();
    let promoted = Marks(&standby);
    promoted.archived_marks(6..=7);
    let archived = |name: &str| repository.run(["archive-get", name, target.join("got").to_str().unwrap()]).ok();
    archived("00000002.history");
    archived(&format!("{unfinished}.partial"));

    // The old primary comes back for a moment, and archives what it had: its last segment, and one more.
    primary.start();
    let old = Marks(&primary);
    assert_eq!(old.archived(), unfinished);
    let another = old.archived();
    archived(&unfinished);
    archived(&another);
    primary.stop(Stop::Fast);
    promoted.archived_marks(8..=8);
    let status = repository.run(["archive", "status", "--json"]).ok().json();
    assert_eq!(live(&status), [2], "{status}");
    assert!(status["timelines"][1]["last_pushed_at"].is_string(), "{status}");
    repository.backup(&standby, &[]);
}

on_majors!(a_failover: pg15 15, pg18 18);
