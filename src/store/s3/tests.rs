//! What a service answers that no real one does at will: by a server of a few lines on loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::store::Create;

mod ranges;

/// A store at a server that answers the nth request so: status, headers beside the length, body. It is told the request's head,
/// lines that end with a line feed, names as they came. Where the headers say `Cut: n` no more than so many bytes of the body
/// come, and then the connection ends.
struct Scene {
    store: S3Store,
    asked: Arc<AtomicUsize>,
    _home: tempfile::TempDir,
}

fn scene(answer: impl Fn(usize, &str) -> (u16, String, Vec<u8>) + Send + Sync + 'static) -> Scene {
    scene_with(|_| {}, answer)
}

/// One that is asked again for so long.
fn scene_for(retry: Duration, answer: impl Fn(usize, &str) -> (u16, String, Vec<u8>) + Send + Sync + 'static) -> Scene {
    scene_with(|settings| settings.retry_time = retry, answer)
}

fn scene_with(set: impl FnOnce(&mut S3Settings), answer: impl Fn(usize, &str) -> (u16, String, Vec<u8>) + Send + Sync + 'static) -> Scene {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (asked, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (count, answer) = (Arc::clone(&count), Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut stream = stream;
                loop {
                    let (mut asked, mut length) = (String::new(), 0);
                    if reader.read_line(&mut asked).unwrap_or(0) == 0 {
                        return;
                    }
                    loop {
                        let mut line = String::new();
                        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                            break;
                        }
                        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                        asked.push_str(&format!("{}\n", line.trim_end()));
                    }
                    let mut body = vec![0; length];
                    if reader.read_exact(&mut body).is_err() {
                        return;
                    }
                    let (status, headers, body) = answer(count.fetch_add(1, Ordering::SeqCst), &asked);
                    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
                    let cut = headers.split_once("Cut: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
                    let sent = &body[..body.len().min(cut.unwrap_or(body.len()))];
                    if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent)).is_err() || cut.is_some() {
                        return;
                    }
                }
            });
        }
    });
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    let text = "[default]\naws_access_key_id = id\naws_secret_access_key = secret\n";
    std::fs::write(home.path().join(".aws/credentials"), text).unwrap();
    let mut settings = S3Settings::at("bucket", "pg").unwrap();
    settings.endpoint = Some(endpoint);
    settings.home = Some(home.path().to_owned());
    settings.retry_time = Duration::from_millis(400);
    set(&mut settings);
    Scene { store: S3Store::open(settings, Watch::default()).unwrap(), asked, _home: home }
}

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn error(code: &str) -> Vec<u8> {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>").into_bytes()
}

#[test]
fn only_the_services_own_word_says_that_nothing_is_there() {
    let absent = scene(|_, _| (404, String::new(), error("NoSuchKey")));
    assert!(absent.store.read(&name("log/1"), 100).unwrap_err().is_absent());
    for body in [Vec::new(), b"<html>default backend - 404</html>".to_vec(), error("")] {
        let balancer = scene(move |_, _| (404, String::new(), body.clone()));
        let answer = balancer.store.read(&name("log/1"), 100);
        assert!(matches!(answer, Err(StoreError::Unreachable { .. })), "{answer:?}");
        assert!(balancer.asked.load(Ordering::SeqCst) > 1, "it is asked again");
    }
}

#[test]
fn a_listing_that_does_not_say_how_to_go_on_is_no_end() {
    let page = |more: bool, token: &str| {
        let contents = "<Contents><Key>pg/log/1</Key><Size>3</Size></Contents>";
        let xml = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>{contents}{token}</ListBucketResult>");
        (200, String::new(), xml.into_bytes())
    };
    let whole = scene(move |_, _| page(false, ""));
    assert_eq!(whole.store.list_sorted(Some(&name("log"))).unwrap().len(), 1);
    let cut = scene(move |_, _| page(true, ""));
    assert!(matches!(cut.store.list_sorted(Some(&name("log"))), Err(StoreError::Unreachable { .. })));
    let circle = scene(move |_, _| page(true, "<NextContinuationToken>t</NextContinuationToken>"));
    assert!(circle.store.list_sorted(Some(&name("log"))).is_err());
}

#[test]
fn what_never_agrees_with_its_checksum_is_handed_on_as_it_lies_there() {
    let wrong = |_: usize, _: &str| (200, "x-amz-checksum-crc32c: AAAAAA==\r\n".to_owned(), b"rotten".to_vec());
    let rotten = scene(wrong);
    assert_eq!(rotten.store.read(&name("log/1"), 100).unwrap(), b"rotten");
    assert_eq!(rotten.asked.load(Ordering::SeqCst), 2);
    // Other bytes each time: the way there is bad.
    let line = scene(|n, _| (200, "x-amz-checksum-crc32c: AAAAAA==\r\n".to_owned(), format!("{n:06}").into_bytes()));
    assert!(matches!(line.store.read(&name("log/1"), 100), Err(StoreError::Unreachable { .. })));
}

#[test]
fn ours_becomes_another_s_only_when_it_was_read_twice() {
    let tag = SessionTag::new("tag").unwrap();
    let create = |answers: [&'static [u8]; 3]| {
        let scene = scene(move |n, first| {
            if first.starts_with("PUT") {
                (412, String::new(), error("PreconditionFailed"))
            } else {
                (200, String::new(), answers[n - 1].to_vec())
            }
        });
        scene.store.create(&name("log/1"), &[b"ours"], &tag).unwrap()
    };
    assert_eq!(create([b"ours", b"", b""]), Create::Same);
    assert_eq!(create([b"0urs", b"ours", b""]), Create::Same);
    assert_eq!(create([b"0urs", b"our5", b"ours"]), Create::Same);
    assert_eq!(create([b"them", b"them", b""]), Create::Other);
}

/// The value of a header; names in lower case.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let of = |line: &'a str| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
    head.lines().skip(1).find_map(of)
}

/// The service's clock is a day off, or two: it refuses what was signed for another time, and says its own.
#[test]
fn a_clock_that_is_days_off_is_corrected_by_the_service_s() {
    let tag = SessionTag::new("tag").unwrap();
    for ahead in [86_400, -2 * 86_400] {
        let refusals = Arc::new(AtomicUsize::new(0));
        let refused = Arc::clone(&refusals);
        let there = scene(move |_, head| {
            let now = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(ahead);
            let date = format!("Date: {}\r\n", now.strftime("%a, %d %b %Y %H:%M:%S GMT"));
            let signed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", header(head, "x-amz-date").unwrap()).unwrap();
            let signed = signed.in_tz("UTC").unwrap().timestamp();
            if (signed - now).abs() > jiff::SignedDuration::from_mins(15) {
                refused.fetch_add(1, Ordering::SeqCst);
                return (403, date, error("RequestTimeTooSkewed"));
            }
            (200, date, b"ours".to_vec())
        });
        assert_eq!(there.store.create(&name("log/1"), &[b"ours"], &tag).unwrap(), Create::Created);
        for _ in 0..3 {
            assert_eq!(there.store.read(&name("log/1"), 100).unwrap(), b"ours");
        }
        assert_eq!(refusals.load(Ordering::SeqCst), 1, "one refusal is enough for all that follows");
    }
    // One that refuses, and doesn't say what time it is.
    let dateless = scene(|_, _| (403, String::new(), error("RequestTimeTooSkewed")));
    let refused = dateless.store.read(&name("log/1"), 100).unwrap_err();
    assert!(matches!(refused, StoreError::Unreachable { .. }) && refused.to_string().contains("RequestTimeTooSkewed"), "{refused}");
}

#[test]
fn what_is_stored_says_how_it_shall_be_kept_and_what_is_asked_says_nothing() {
    let tag = SessionTag::new("tag").unwrap();
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let set = |settings: &mut S3Settings| {
        settings.storage_class = Some("GLACIER_IR".to_owned());
        settings.small_storage_class = Some("STANDARD_IA".to_owned());
        settings.encryption = Some("aws:kms".to_owned());
        settings.kms_key = Some("arn:aws:kms:eu-1:1:key/k".to_owned());
        settings.lock_days = Some(30);
    };
    let all = Arc::clone(&heads);
    let answer = move |_: usize, head: &str| {
        all.lock().unwrap().push(head.to_owned());
        let list = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>".to_vec();
        match header(head, "range") {
            _ if head.contains("list-type=2") => (200, String::new(), list),
            Some(_) => (206, "Content-Range: bytes 0-0/1\r\n".to_owned(), b"x".to_vec()),
            None => (200, String::new(), b"x".to_vec()),
        }
    };
    let scene = scene_with(set, answer.clone());
    let kept = |head: &str| -> Vec<(String, String)> {
        let of = |line: &str| line.split_once(':').map(|(n, value)| (n.to_ascii_lowercase(), value.trim().to_owned()));
        let is = |name: &str| ["storage-class", "encryption", "object-lock"].iter().any(|word| name.contains(word));
        head.lines().skip(1).filter_map(of).filter(|(name, _)| is(name)).collect()
    };
    let before = jiff::Timestamp::now();
    for (key, class) in [("pack/1", "GLACIER_IR"), ("log/1", "STANDARD_IA"), ("wal/1", "STANDARD_IA"), ("key/1", "STANDARD_IA")] {
        assert_eq!(scene.store.create(&name(key), &[b"x"], &tag).unwrap(), Create::Created);
        let head = heads.lock().unwrap().pop().unwrap();
        for (header_name, value) in [
            ("x-amz-storage-class", class),
            ("x-amz-server-side-encryption", "aws:kms"),
            ("x-amz-server-side-encryption-aws-kms-key-id", "arn:aws:kms:eu-1:1:key/k"),
            ("x-amz-object-lock-mode", "COMPLIANCE"),
            ("if-none-match", "*"),
        ] {
            assert_eq!(header(&head, header_name), Some(value), "{key}: {head}");
            let signed = header(&head, "authorization").unwrap();
            assert!(signed.contains(header_name), "it is signed, so that nobody takes it away: {signed}");
        }
        let until: jiff::Timestamp = header(&head, "x-amz-object-lock-retain-until-date").unwrap().parse().unwrap();
        assert!(until >= before + jiff::SignedDuration::from_hours(30 * 24), "{until}");
        assert_eq!(kept(&head).len(), 5, "{head}");
    }
    // Nothing of it goes with what isn't stored; a lock is prolonged by a body of its own.
    scene.store.read(&name("pack/1"), 100).unwrap();
    scene.store.read_range(&name("pack/1"), 0, 1).unwrap();
    scene.store.size(&name("log/1")).unwrap();
    scene.store.list(Some(&name("log")), &mut |_| Ok(())).unwrap();
    scene.store.delete(&name("log/1")).unwrap();
    scene.store.locks().unwrap().lock(&name("log/1"), 4_000_000_000).unwrap();
    let others = std::mem::take(&mut *heads.lock().unwrap());
    assert!(others.len() >= 6);
    for head in others {
        assert!(kept(&head).is_empty(), "{head}");
    }
    // What isn't configured isn't sent.
    let plain = scene_with(|_| {}, answer);
    assert_eq!(plain.store.create(&name("pack/1"), &[b"x"], &tag).unwrap(), Create::Created);
    assert!(kept(&heads.lock().unwrap().pop().unwrap()).is_empty());
}
