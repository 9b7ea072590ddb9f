//! What SeaweedFS and rclone do: facts that the S3 backend and its tests stand on.

use std::path::Path;

use crate::support::certificates::Wish;
use crate::support::s3::sign::{Checksum, base64, sha256};
use crate::support::s3::{self, Bucket, Client, Keys, Request, Role};
use crate::support::{TestDir, wait_until};

#[test]
fn objects_are_kept() {
    s3::ordinary(|s3| {
        let service = s3.seaweed();
        let bucket = service.bucket();
        assert_eq!(bucket.get("a/b"), None);
        bucket.put("a/b", "first");
        bucket.put("a/b c+%&", "second");
        assert_eq!(bucket.get("a/b").unwrap(), b"first");
        assert_eq!(bucket.get("a/b c+%&").unwrap(), b"second");
        assert_eq!(bucket.list("a/"), ["a/b", "a/b c+%&"]);
        bucket.delete("a/b");
        assert_eq!(bucket.list(""), ["a/b c+%&"]);
        for (range, expected) in [("bytes=1-3", "eco"), ("bytes=4-99", "nd"), ("bytes=-2", "nd")] {
            let answer = bucket.admin().send(&Request::get(bucket.path("a/b c+%&")).header("range", range)).expect(206);
            assert_eq!(answer.text(), expected);
        }
        let beyond = bucket.admin().send(&Request::get(bucket.path("a/b c+%&")).header("range", "bytes=6-9")).expect(416);
        assert_eq!(beyond.code(), "InvalidRange");
    });
}

/// How many of so many creates at once say that they were the one.
fn winners(client: &Client, path: &str, creators: u8) -> usize {
    let create = |n: u8| client.send(&Request::put(path, vec![n; 1000]).if_absent());
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..creators).map(|n| scope.spawn(move || create(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 412)), "{answers:?}");
    answers.iter().filter(|answer| answer.status == 200).count()
}

#[test]
fn a_create_has_one_winner() {
    s3::ordinary(|s3| {
        let service = s3.seaweed();
        let writer = service.client(Role::Writer);
        // Few rounds: where creates meet, SeaweedFS waits for its own locks in whole seconds.
        for bucket in [service.bucket(), service.versioned_bucket(), service.locked_bucket()] {
            let path = bucket.path("race");
            assert_eq!(winners(&writer, &path, 16), 1);
            let again = writer.send(&Request::put(&path, "late").if_absent()).expect(412);
            assert_eq!(again.code(), "PreconditionFailed");
            // A deleted name is free again, with versions as well.
            bucket.delete("race");
            assert_eq!(winners(&writer, &path, 4), 1);
        }
    });
}

#[test]
fn rclone_has_many_winners() {
    s3::ordinary(|s3| {
        let service = s3.rclone();
        let bucket = service.bucket();
        let create = |text: &str| bucket.admin().send(&Request::put(bucket.path("a"), text).if_absent()).expect(200);
        create("first");
        create("second");
        assert_eq!(bucket.get("a").unwrap(), b"second");
        assert_eq!(bucket.admin().send(&Request::get(bucket.path("")).query("versions", "")).status, 501);
    });
}

#[test]
fn versions_outlive_what_is_put_over_them() {
    s3::ordinary(|s3| {
        let service = s3.seaweed();
        let bucket = service.versioned_bucket();
        let first = bucket.put("a", "first").expect("a version");
        let second = bucket.put("a", "junk").expect("a version");
        bucket.delete("a");
        assert_eq!(bucket.get("a"), None);
        assert_eq!(bucket.get_version("a", &first).unwrap(), b"first");
        let kinds: Vec<(bool, bool)> = bucket.versions("a").iter().map(|v| (v.latest, v.marker)).collect();
        assert_eq!(kinds[0], (true, true));
        assert_eq!(kinds.len(), 3);
        bucket.delete_version("a", &second).expect(204);
        assert!(!bucket.versions("").iter().any(|v| v.id == second));
        assert_eq!(bucket.get_version("a", &first).unwrap(), b"first");
    });
}

fn until(seconds: i64) -> String {
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn retention(bucket: &Bucket, key: &str, version: &str, seconds: i64) -> Request {
    let until = until(seconds);
    let xml = format!("<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>");
    Request::put(bucket.path(key), xml).query("retention", "").query("versionId", version)
}

#[test]
fn what_is_locked_stays() {
    s3::ordinary(|s3| {
        let service = s3.seaweed();
        let bucket = service.locked_bucket();
        let writer = service.client(Role::Writer);
        let create = Request::put(bucket.path("a"), "locked").if_absent();
        let create = create.header("x-amz-object-lock-mode", "COMPLIANCE").header("x-amz-object-lock-retain-until-date", &until(3600));
        let version = writer.send(&create).expect(200).header("x-amz-version-id").unwrap().to_owned();
        let before = bucket.locked_until("a", None).expect("a lock");
        for role in [Role::Writer, Role::Maintainer, Role::Admin] {
            let delete = Request::new("DELETE", bucket.path("a")).query("versionId", &version);
            let delete = delete.header("x-amz-bypass-governance-retention", "true");
            assert_eq!(service.client(role).send(&delete).expect(403).code(), "AccessDenied");
            service.client(role).send(&retention(&bucket, "a", &version, 60)).expect(403);
        }
        writer.send(&retention(&bucket, "a", &version, 7200)).expect(200);
        assert!(bucket.locked_until("a", Some(&version)).expect("a lock") > before);
        // Junk and a delete marker over it, and it is still there.
        writer.send(&Request::put(bucket.path("a"), "junk")).expect(200);
        bucket.delete("a");
        assert_eq!(bucket.get_version("a", &version).unwrap(), b"locked");
        // What isn't locked goes.
        let other = bucket.put("b", "free").expect("a version");
        assert_eq!(bucket.locked_until("b", None), None);
        bucket.delete_version("b", &other).expect(204);
        // Where a bucket knows no locks, asking for one is an error.
        let plain = service.bucket();
        let put = Request::put(plain.path("a"), "x").header("x-amz-object-lock-mode", "COMPLIANCE");
        writer.send(&put.header("x-amz-object-lock-retain-until-date", &until(3600))).expect(400);
    });
}

/// `body` as AWS's SDKs send streams: one chunk, and its checksum behind it.
fn with_trailer(path: String, body: &[u8], checksum: Checksum, value: &str) -> Request {
    let mut chunked = format!("{:x}\r\n", body.len()).into_bytes();
    chunked.extend(body);
    chunked.extend(format!("\r\n0\r\n{}:{value}\r\n\r\n", checksum.header()).into_bytes());
    let put = Request::put(path, chunked).claiming("STREAMING-UNSIGNED-PAYLOAD-TRAILER").header("content-encoding", "aws-chunked");
    put.header("x-amz-decoded-content-length", &body.len().to_string()).header("x-amz-trailer", checksum.header())
}

#[test]
fn damaged_uploads_are_refused() {
    s3::ordinary(|s3| {
        let service = s3.seaweed();
        let bucket = service.bucket();
        let writer = service.client(Role::Writer);
        for checksum in Checksum::ALL {
            let (right, wrong) = (checksum.of(b"hello"), checksum.of(b"hellO"));
            let name = checksum.header();
            let put = |value: &str| writer.send(&Request::put(bucket.path("a"), "hello").header(name, value));
            assert_eq!(put(&wrong).expect(400).code(), "BadDigest", "{name}");
            assert_eq!(bucket.get("a"), None, "{name}");
            put(&right).expect(200);
            let got = writer.send(&Request::get(bucket.path("a")).header("x-amz-checksum-mode", "ENABLED")).expect(200);
            assert_eq!(got.header(name), Some(right.as_str()));
            bucket.delete("a");

            writer.send(&with_trailer(bucket.path("a"), b"hello", checksum, &wrong)).expect(400);
            assert_eq!(bucket.get("a"), None, "{name}");
            writer.send(&with_trailer(bucket.path("a"), b"hello", checksum, &right)).expect(200);
            assert_eq!(bucket.get("a").unwrap(), b"hello");
            bucket.delete("a");
        }
        let md5 = Request::put(bucket.path("a"), "hello").header("content-md5", &base64(&[0; 16]));
        assert_eq!(writer.send(&md5).expect(400).code(), "BadDigest");
        assert_eq!(bucket.get("a"), None);
        // It does not look whether a body is the one that was signed: checksums have to be sent.
        writer.send(&Request::put(bucket.path("a"), "hello").claiming(&sha256(b"hellO"))).expect(200);
    });
}

#[test]
fn who_may_what() {
    s3::ordinary(|s3| {
        let service = s3.seaweed();
        let bucket = service.versioned_bucket();
        let version = bucket.put("a", "text").unwrap();
        let path = |key| bucket.path(key);
        for (role, request, status) in [
            (Role::Reader, Request::get(path("a")), 200),
            (Role::Reader, Request::get(path("a")).query("versionId", &version), 200),
            (Role::Reader, Request::get(path("")).query("list-type", "2"), 200),
            (Role::Reader, Request::get(path("")).query("versions", ""), 200),
            (Role::Reader, Request::put(path("b"), "x").if_absent(), 403),
            (Role::Reader, Request::new("DELETE", path("a")), 403),
            (Role::Writer, Request::put(path("b"), "x").if_absent(), 200),
            (Role::Writer, Request::get(path("b")), 200),
            (Role::Writer, Request::new("HEAD", path("none")), 404),
            (Role::Writer, Request::new("DELETE", path("b")), 403),
            (Role::Writer, Request::new("DELETE", path("a")).query("versionId", &version), 403),
            (Role::Writer, Request::put("/another-bucket", ""), 403),
            (Role::Maintainer, Request::new("DELETE", path("b")), 204),
            (Role::Maintainer, Request::new("DELETE", path("a")).query("versionId", &version), 204),
            (Role::Stranger, Request::get(path("a")), 403),
            (Role::Stranger, Request::get(path("")).query("list-type", "2"), 403),
        ] {
            let answer = service.client(role).send(&request);
            assert_eq!(answer.status, status, "{role:?} {} {} {:?}: {}", request.method, request.path, request.query, answer.text());
        }
        let refused = |client: &Client, request: &Request, code: &str| assert_eq!(client.send(request).expect(403).code(), code);
        let writer = service.client(Role::Writer);
        let get = Request::get(path("a"));
        let keys = service.keys(Role::Writer);
        refused(&writer.with_keys(Keys { secret: "wrong".into(), ..keys.clone() }), &get, "SignatureDoesNotMatch");
        refused(&writer.with_keys(Keys { access: "NOBODYKEY".into(), ..keys }), &get, "InvalidAccessKeyId");
        refused(&writer, &get.clone().unsigned(), "AccessDenied");
        refused(&writer, &get.at("20200101T000000Z"), "RequestTimeTooSkewed");
        assert_eq!(writer.send(&Request::get("/no-such-bucket/a")).expect(404).code(), "NoSuchBucket");
        // Signed for another address than the one it was sent to, as through a proxy.
        writer.send(&Request::put(path("c"), "x").host("s3.example:443")).expect(200);
    });
}

#[test]
fn other_policies_can_be_tried() {
    s3::ordinary(|s3| {
        let policy = r#"{"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::*/log/*"}]}"#;
        let service = s3.with_policies(&[(Role::Writer, policy)]);
        let bucket = service.bucket();
        let writer = service.client(Role::Writer);
        writer.send(&Request::put(bucket.path("log/1"), "x")).expect(200);
        writer.send(&Request::put(bucket.path("packs/1"), "x")).expect(403);
        writer.send(&Request::get(bucket.path("log/1"))).expect(403);
        service.client(Role::Maintainer).send(&Request::put(bucket.path("packs/1"), "x")).expect(200);
    });
}

#[test]
fn lists_are_whole_and_in_an_order_of_their_own() {
    s3::ordinary(|s3| {
        let service = s3.seaweed();
        let bucket = service.bucket();
        let mut expected = Vec::new();
        for n in 0..30 {
            bucket.put(&format!("l/{n:03}"), "x");
            expected.push(format!("l/{n:03}"));
            assert_eq!(bucket.list("l/"), expected);
        }
        bucket.delete("l/007");
        expected.remove(7);
        assert_eq!(bucket.list("l/"), expected);
        let page = Request::get(bucket.path("")).query("list-type", "2").query("prefix", "l/").query("max-keys", "10");
        let text = bucket.admin().send(&page).expect(200).text();
        assert!(text.contains("<IsTruncated>true</IsTruncated>") && text.contains("<KeyCount>10</KeyCount>"), "{text}");
        let text = bucket.admin().send(&page.query("start-after", "l/027")).expect(200).text();
        assert!(text.contains("<KeyCount>2</KeyCount>") && text.contains("<Key>l/028</Key>"), "{text}");
        // Folder by folder: AWS would have `a-` before `a/b`. Nobody may rely on either.
        for key in ["o/a", "o/a-", "o/a/b", "o/B"] {
            bucket.put(key, "x");
        }
        assert_eq!(bucket.list("o/"), ["o/B", "o/a", "o/a/b", "o/a-"]);
    });
}

#[test]
fn https_is_believed_by_its_own_authority_only() {
    s3::ordinary(|s3| {
        let service = s3.seaweed();
        let bucket = service.bucket();
        bucket.put("a", "text");
        let get = |ca: &Path| service.https_client(Role::Reader, ca).try_get(&bucket.path("a"));
        assert_eq!(get(&service.ca_file()).expect("an answer").expect(200).text(), "text");
        let folder = TestDir::new();
        Wish::ca("an authority of S3 tests").self_signed().write(folder.path(), "other");
        let refused = get(&folder.join("other.crt")).expect_err("a wrong authority");
        assert!(refused.to_string().contains("invalid peer certificate"), "{refused}");
    });
}

#[test]
fn a_service_ends_with_its_test() {
    s3::ordinary(|s3| {
        let service = s3.private();
        let pid = service.pid();
        let process = format!("/proc/{pid}");
        assert!(Path::new(&process).exists());
        drop(service);
        assert!(!Path::new(&process).exists(), "{process} is there");
        // Also when nobody is left to end it.
        let service = s3.rclone();
        let process = format!("/proc/{}", service.pid());
        service.kill_script();
        wait_until("the end of the service", || !Path::new(&process).exists());
    });
}
