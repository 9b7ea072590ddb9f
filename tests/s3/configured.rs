//! What the configuration file says of a bucket arrives in the headers of what is stored, and in no others.

use crate::at;
use crate::support::s3::proxy::{Operation, Proxy, Record};
use crate::support::s3::{Role, S3, on};
use crate::support::{Outcome, Repository};
use crate::world::Cluster;

/// Headers that say how an object shall be kept.
fn said(record: &Record) -> Vec<(String, String)> {
    let kept = |name: &str| ["storage-class", "server-side-encryption", "object-lock"].iter().any(|word| name.contains(word));
    let all = record.seen.head.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let mut all: Vec<_> = all.filter(|(name, _)| kept(name)).collect();
    all.sort();
    all
}

#[test]
fn storage_class_encryption_and_locks_go_with_what_is_stored() {
    on(18, |pg, s3: &S3| {
        let service = s3.seaweed();
        let bucket = service.locked_bucket();
        let proxy = Proxy::start(service.address());
        let cluster = Cluster::build(pg, 1);
        let url = format!("s3://{}/pg", bucket.name());
        let repository = Repository::not_yet_in_bucket(&url, at(&proxy.endpoint(), &service, Role::Admin));
        let text = format!(
            "[repository.r]\nurl = \"{url}\"\nstorage-class = \"STANDARD_IA\"\nstorage-class-small = \"STANDARD\"\n\
             server-side-encryption = \"AES256\"\nlock-days = 2\n[cluster.main]\npgdata = \"{}\"\nrepositories = [\"r\"]\n",
            cluster.data.display()
        );
        let folder = repository.host.home().join(".config/pgcairn");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.toml"), text).unwrap();
        let host = &repository.host;
        let key = repository.key_file();
        host.pgcairn(["init", "--key-file", key.to_str().unwrap()]).ok();
        host.pgcairn(["backup", "--offline"]).ok();
        let mut push = host.command(["archive-push", cluster.wal[0].to_str().unwrap()]);
        push.current_dir(&cluster.data);
        Outcome::of(push).ok();
        let to = host.home().join("got");
        host.pgcairn(["archive-get", cluster.name(0), to.to_str().unwrap()]).ok();
        host.pgcairn(["verify", "--read-data"]).ok();

        let mut kinds = std::collections::BTreeSet::new();
        for record in proxy.records() {
            let said = said(&record);
            let key = record.seen.key.strip_prefix("pg/").unwrap_or(&record.seen.key).to_owned();
            let kind = key.split('/').next().unwrap_or_default().to_owned();
            if !record.seen.operation.writes() {
                assert!(said.is_empty(), "{:?} of {key}: {said:?}", record.seen.operation);
                continue;
            }
            let value = |name: &str| said.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
            let class = if kind == "pack" { "STANDARD_IA" } else { "STANDARD" };
            assert_eq!(value("x-amz-storage-class"), Some(class), "{key}: {said:?}");
            assert_eq!(value("x-amz-server-side-encryption"), Some("AES256"), "{key}: {said:?}");
            // What init tries with is nobody's, and goes.
            let lock = if kind == "tmp" { None } else { Some("COMPLIANCE") };
            assert_eq!(value("x-amz-object-lock-mode"), lock, "{key}: {said:?}");
            assert_eq!(value("x-amz-object-lock-retain-until-date").is_some(), lock.is_some(), "{key}: {said:?}");
            assert_eq!(said.len(), if lock.is_some() { 4 } else { 2 }, "{key}: {said:?}");
            kinds.insert(kind);
        }
        for kind in ["pack", "log", "wal", "key"] {
            assert!(kinds.contains(kind), "{kind}: {kinds:?}");
        }
        assert!(proxy.counts().of_operation(Operation::Get) > 5);
    });
}
