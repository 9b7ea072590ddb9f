//! What commands cost: their requests.

use crate::environment;
use crate::support::s3::{Role, S3};
use crate::support::{Outcome, Postgres, Repository, Server, TestDir, wait_until};

/// All requests of a command, by the line that `-v` ends with.
fn requests(outcome: &Outcome) -> u64 {
    let line = outcome.stderr.lines().find(|line| line.contains(" requests (")).unwrap_or_else(|| panic!("{}", outcome.report()));
    let count = line.split(" requests (").next().and_then(|before| before.split_whitespace().last());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

fn few_requests(pg: &Postgres, s3: &S3) {
    let service = s3.seaweed();
    let bucket = service.bucket();
    let repository = Repository::in_bucket(&format!("s3://{}/pg", bucket.name()), environment(&service, Role::Admin));
    let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
    server.pgbench_init(1);
    repository.backup(&server, &[]);
    for round in 0..3 {
        let backup = repository.run(["-v".to_owned()].into_iter().chain(repository.backup_arguments(&server, &[]))).ok();
        // One more for each further thousand packs, which are listed.
        assert!(requests(&backup) <= 12, "round {round}: {}", backup.report());
        let said = &backup.json()["requests"];
        assert_eq!(said["total"], requests(&backup), "{said}");
        assert!(said["received"].as_u64() > Some(0) && said["put"].as_u64() >= Some(3), "{said}");
    }

    // Segments that are pushed by hand, for the first time.
    server.set("archive_command", "false");
    let failed = "select failed_count > 0 from pg_stat_archiver";
    server.switch_wal();
    wait_until("the archiver to fail", || server.sql("postgres", failed) == "t");
    for _ in 0..2 {
        let segment = server.switch_wal();
        let path = server.data().join("pg_wal").join(&segment);
        let push = repository.run(["-v", "archive-push", path.to_str().unwrap()]).ok();
        assert!(requests(&push) <= 5, "{}", push.report());
        let folder = TestDir::new();
        let to = folder.join("segment");
        let get = repository.run(["-v", "archive-get", &segment, to.to_str().unwrap()]).ok();
        assert!(requests(&get) <= 3, "{}", get.report());
        assert!(std::fs::read(&to).unwrap() == std::fs::read(&path).unwrap());
        // The same again is success, whatever it costs.
        repository.run(["archive-push", path.to_str().unwrap()]).ok();
    }

    // Where traffic is paid for old pages aren't read; where it isn't, it depends on how fast the service is.
    server.set("archive_command", &repository.archive_command());
    for price in ["0", "0.09", "0.09"] {
        server.pgbench(&["-n", "-c", "1", "-t", "20"]);
        let backup = repository.run(["--egress-price".into(), price.into()].into_iter().chain(repository.backup_arguments(&server, &[])));
        let said = backup.ok().json();
        if price != "0" {
            assert_eq!(said["codec"]["name"], "pages-alone", "{said}");
        }
        assert!(said["codec"]["why"].as_str().is_some_and(|why| why.contains('$')), "{said}");
    }

    let stats = repository.run(["stats", "--json"]).ok().json();
    assert!(stats["requests"]["list"].as_u64() > Some(0), "{stats}");
    repository.run(["stats"]).ok().prints(" requests (");

    // Without the cache it costs more, and is the same.
    std::fs::remove_dir_all(repository.host.home().join(".cache")).unwrap();
    let again = repository.backup(&server, &[]);
    assert!(again["requests"]["get"].as_u64() > Some(12), "{again}");
    repository.run(["verify", "--read-data"]).ok();
}

#[test]
#[allow(clippy::redundant_closure)] // the test's name is the closure's
fn little_is_asked_for_an_unchanged_cluster_pg18() {
    crate::support::s3::on(18, |pg, s3| few_requests(pg, s3));
}
