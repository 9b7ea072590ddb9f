//! Services and settings that must be refused, and what is said of them.

use crate::support::s3::{Role, S3, ordinary};
use crate::support::{Repository, TestDir};
use crate::{at, environment};

/// rclone answers 200 to a create-only PUT of what is there: several writers could lose data.
#[test]
fn a_service_that_overwrites_is_refused_for_several_writers() {
    ordinary(|s3: &S3| {
        let service = s3.rclone();
        let bucket = service.bucket();
        let place = Repository::not_yet_in_bucket(&format!("s3://{}/pg", bucket.name()), environment(&service, Role::Admin));
        let key = place.key_file();
        let init = ["init", "--key-file", key.to_str().unwrap()];
        place.run(init).code(1).says("doesn't honour create-if-absent").says("single-writer = true");
        assert_eq!(bucket.list("pg/log/"), Vec::<String>::new());

        // Somebody who is alone may use it, and is told.
        let alone = ["--single-writer", "true"];
        let made = place.run(alone.iter().chain(&init)).ok();
        assert!(made.stderr.contains("must stay the only process that ever writes"), "{}", made.stderr);
        assert!(made.stdout.contains("--single-writer true"), "the archive_command says so, too\n{}", made.stdout);
        place.run(alone.iter().chain(&["list"])).ok();
        // A writer that wasn't told is refused at once.
        place.run(["prune"]).code(1).says("doesn't honour create-if-absent");
    });
}

#[test]
fn what_can_not_work_is_said_clearly() {
    ordinary(|s3: &S3| {
        let service = s3.seaweed();
        let bucket = service.bucket();
        let url = format!("s3://{}/pg", bucket.name());
        let of = |environment| Repository::not_yet_in_bucket(&url, environment);
        let place = of(environment(&service, Role::Admin));
        place.run(["list"]).code(4).says("there is no repository");

        let mut wrong = environment(&service, Role::Admin);
        wrong[1].1 = "not the secret".into();
        of(wrong).run(["list"]).code(1).says("403 SignatureDoesNotMatch").says("correct AWS_ACCESS_KEY_ID");
        of(environment(&service, Role::Stranger)).run(["list"]).code(1).says("403 AccessDenied");
        of(vec![("AWS_ENDPOINT_URL", service.endpoint().into()), ("AWS_EC2_METADATA_DISABLED", "true".into())])
            .run(["list"])
            .code(1)
            .says("AWS_ACCESS_KEY_ID");
        let missing = Repository::not_yet_in_bucket("s3://no-such-bucket/pg", environment(&service, Role::Admin));
        missing.run(["list"]).code(1).says("NoSuchBucket").says("make the bucket");

        let nobody = at("http://127.0.0.1:9", &service, Role::Admin);
        let late = of(nobody).run(["--retry-time", "2s", "list"]).code(1);
        assert!(late.stderr.contains("Connection refused") && late.stderr.contains("tried"), "{}", late.stderr);

        let text = TestDir::new();
        let ca = text.join("ca");
        std::fs::write(&ca, "no certificate").unwrap();
        place.run(["--ca-file", ca.to_str().unwrap(), "list"]).code(2).says("there is none in it");
        place.run(["--endpoint", "ftp://x", "list"]).code(2).says("expected https://HOST");
        place.host.pgcairn(["--repo", "s3://UPPER/x", "list"]).code(2).says("3 to 63 characters");
    });
}

#[test]
fn an_authority_of_ones_own_vouches_for_the_service() {
    ordinary(|s3: &S3| {
        let service = s3.seaweed();
        let bucket = service.bucket();
        let url = format!("s3://{}/pg", bucket.name());
        let place = Repository::not_yet_in_bucket(&url, at(service.https(), &service, Role::Admin));
        let (key, ca) = (place.key_file(), service.ca_file());
        let (key, ca) = (key.to_str().unwrap(), ca.to_str().unwrap());
        place.run(["init", "--key-file", key]).code(1).says("certificate").says("ca-file");
        place.run(["--ca-file", ca, "init", "--key-file", key]).ok().prints("--ca-file");
        place.run(["--ca-file", ca, "list"]).ok();
        let other = TestDir::new();
        let wrong = other.join("ca.crt");
        crate::support::certificates::Wish::ca("another authority").self_signed().write(other.path(), "ca");
        place.run(["--ca-file", wrong.to_str().unwrap(), "list"]).code(1).says("certificate");
    });
}
