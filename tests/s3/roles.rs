//! The policies in docs/s3.md are enough: each role's commands behind a proxy that refuses what its text doesn't allow.

use serde_json::Value;

use crate::at;
use crate::support::s3::proxy::{Operation, Proxy, Seen};
use crate::support::s3::{Role, S3};
use crate::support::{Postgres, Repository, Server, Stop, TestDir, wait_until};

/// A policy as it stands in the document.
#[derive(Debug, Clone)]
struct Policy(Vec<Value>);

impl Policy {
    /// Those of these code blocks, together.
    fn of(names: &[&str]) -> Policy {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/s3.md")).expect("the document");
        let block = |name: &&str| {
            let (_, rest) = text.split_once(&format!("```json {name}\n")).unwrap_or_else(|| panic!("no policy {name}"));
            let (json, _) = rest.split_once("```").expect("its end");
            let policy: Value = serde_json::from_str(json).expect("JSON");
            policy["Statement"].as_array().expect("statements").clone()
        };
        Policy(names.iter().flat_map(block).collect())
    }

    /// Is it allowed, as AWS judges it?
    fn allows(&self, seen: &Seen) -> bool {
        let granted = |action: &str| self.0.iter().any(|statement| grants(statement, action, seen));
        // Who locks what he stores must be allowed both.
        let locks = seen.head.get("x-amz-object-lock-mode").is_none() || granted("s3:PutObjectRetention");
        locks && granted(seen.operation.action())
    }
}

fn grants(statement: &Value, action: &str, seen: &Seen) -> bool {
    assert_eq!(statement["Effect"], "Allow");
    let named = match &statement["Action"] {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        one => vec![one.as_str().expect("an action")],
    };
    let matches = |granted: &&str| action.strip_suffix('*').map_or(*granted == action, |start| granted.starts_with(start));
    let on_objects = statement["Resource"] == "arn:aws:s3:::my-bucket/pg/*";
    assert!(on_objects || statement["Resource"] == "arn:aws:s3:::my-bucket");
    let condition = statement["Condition"].as_object().is_none_or(|all| {
        all.iter().all(|(operator, keys)| match operator.as_str() {
            "Null" => {
                assert_eq!(*keys, serde_json::json!({"s3:if-none-match": "false"}));
                seen.operation == Operation::Create
            }
            "NumericLessThanEquals" => keys["s3:object-lock-remaining-retention-days"].is_string(),
            other => panic!("{other}"),
        })
    });
    condition && (!on_objects || seen.key.starts_with("pg/")) && named.iter().any(matches)
}

/// What was refused since the last time.
fn refused(proxy: &Proxy) -> Vec<String> {
    let all = proxy.records().into_iter().filter(|record| record.status == Some(403));
    let all = all.map(|record| format!("{:?} {}", record.seen.operation, record.seen.key)).collect();
    proxy.forget();
    all
}

fn roles(pg: &Postgres, s3: &S3) {
    let service = s3.seaweed();
    let bucket = service.locked_bucket();
    let behind = |blocks: &'static [&'static str]| {
        let (proxy, policy) = (Proxy::start(service.address()), Policy::of(blocks));
        proxy.refuse(move |seen| !policy.allows(seen));
        proxy
    };
    let [writer, reader, maintainer] = [behind(&["writer", "lock"]), behind(&["reader"]), behind(&["maintainer", "lock"])];

    // Writer: init, archive, backup, check, and what looks.
    let mut variables = at(&writer.endpoint(), &service, Role::Admin);
    variables.push(("PGCAIRN_LOCK_DAYS", "1".into()));
    let repository = Repository::not_yet_in_bucket(&format!("s3://{}/pg", bucket.name()), variables);
    let key = repository.key_file();
    let key = key.to_str().unwrap();
    let made = repository.run(["init", "--key-file", key]).ok();
    assert!(made.stderr.contains("may not delete, as is right for a writer") && !made.stderr.contains("may overwrite"), "{}", made.stderr);
    // The trials of overwriting and deleting.
    let tried = refused(&writer);
    assert!(tried.len() == 2 && tried[0].starts_with("Put pg/tmp/") && tried[1].starts_with("Delete pg/tmp/"), "{tried:?}");
    let mut server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
    server.pgbench_init(1);
    repository.backup(&server, &[]);
    server.pgbench(&["-n", "-c", "1", "-t", "200"]);
    repository.backup(&server, &[]);
    for command in [&["list"][..], &["archive", "status"], &["stats"], &["verify", "--read-data"], &["show", "latest"]] {
        repository.run(command).ok();
    }
    let segment = server.switch_wal();
    server.await_archived(&segment);
    assert_eq!(refused(&writer), Vec::<String>::new());
    let checked = repository.run(["check", "--no-switch", "--json", "--dsn", &server.dsn("postgres")]).json();
    let of_store = ["repository", "writable", "object_lock", "keys"];
    let lines = checked["lines"].as_array().unwrap().iter().filter(|line| of_store.iter().any(|name| line["name"] == *name));
    assert_eq!(lines.filter(|line| line["state"] == "ok").count(), of_store.len(), "{checked:#}");
    let tried = refused(&writer);
    assert!(tried.iter().all(|t| t.contains(" pg/tmp/")), "{tried:?}");

    // Reader: a host with the key file, that writes nothing.
    let sums = server.pgbench_sums();
    let host = repository.host.another();
    let read = |command: &[&str]| {
        let endpoint = reader.endpoint();
        repository.run_on(&host, ["--endpoint", &endpoint, "--key-file", key].iter().chain(command)).ok()
    };
    for command in [&["list"][..], &["archive", "status"], &["verify", "--read-data"], &["show", "latest"], &["diff", "latest~1", "latest"]]
    {
        read(command);
    }
    let target = TestDir::new();
    let to = target.join("data");
    read(&["restore", "--to", to.to_str().unwrap()]);
    let mut copy = Server::build(pg).host(&host).over(&to);
    copy.start();
    wait_until("the end of recovery", || copy.sql("postgres", "select pg_is_in_recovery()") == "f");
    assert_eq!(copy.pgbench_sums(), sums);
    copy.stop(Stop::Fast);
    server.stop(Stop::Fast);
    let tried = refused(&reader);
    assert!(tried.iter().all(|t| t.starts_with("Create pg/log/")), "announcing the restore is tried\n{tried:?}");
    assert!(reader.counts().of_operation(Operation::Create) == 0);

    // A writer may not prune, whatever its key may; a maintainer may.
    let held = || bucket.list("pg/pack/").len() + bucket.list("pg/wal/").len();
    let before = held();
    repository.run(["--endpoint", &maintainer.endpoint(), "forget", "--keep-last", "1"]).ok();
    repository.run(["prune"]).code(1).says("403 AccessDenied").says("docs/s3.md");
    assert_eq!(held(), before);
    repository.run(["list"]).ok();
    for _ in 0..2 {
        repository.run(["--endpoint", &maintainer.endpoint(), "prune"]).ok();
    }
    assert_eq!(refused(&maintainer), Vec::<String>::new());
    assert!(held() < before, "{before}");
    repository.run(["verify", "--read-data"]).ok();
}

#[test]
#[allow(clippy::redundant_closure)] // the test's name is the closure's
fn the_policies_of_the_document_are_enough_pg18() {
    crate::support::s3::on(18, |pg, s3| roles(pg, s3));
}

/// Without s3:ListBucket S3 answers 403 where there is nothing.
#[test]
fn an_absence_that_is_answered_with_403_is_explained() {
    crate::support::s3::ordinary(|s3: &S3| {
        let service = s3.seaweed();
        let bucket = service.bucket();
        let proxy = Proxy::start(service.address());
        let repository = Repository::in_bucket(&format!("s3://{}/pg", bucket.name()), at(&proxy.endpoint(), &service, Role::Admin));
        proxy.refuse(|seen| seen.operation == Operation::List || (seen.operation == Operation::Get && seen.key == "pg/log/1"));
        repository.run(["list"]).code(1).says("403 AccessDenied").says("s3:ListBucket");
    });
}
