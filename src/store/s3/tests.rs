//! What a service answers that no real one does at will: by a server of a few lines on loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::store::Create;

mod ranges;

/// A store at a server that answers the nth request, of which it is given the head, so: status, headers beside the length, body.
/// Where the headers say `Cut: n` no more than so many bytes of that come, and then the connection ends.
struct Scene {
    store: S3Store,
    asked: Arc<AtomicUsize>,
    _home: tempfile::TempDir,
}

fn scene(answer: impl Fn(usize, &str) -> (u16, String, Vec<u8>) + Send + Sync + 'static) -> Scene {
    scene_for(Duration::from_millis(400), answer)
}

/// One that is asked again for so long.
fn scene_for(retry: Duration, answer: impl Fn(usize, &str) -> (u16, String, Vec<u8>) + Send + Sync + 'static) -> Scene {
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
                    let (mut first, mut length) = (String::new(), 0);
                    if reader.read_line(&mut first).unwrap_or(0) == 0 {
                        return;
                    }
                    loop {
                        let mut line = String::new();
                        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                            break;
                        }
                        first.push_str(&line.to_ascii_lowercase());
                        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                    }
                    let mut body = vec![0; length];
                    if reader.read_exact(&mut body).is_err() {
                        return;
                    }
                    let (status, headers, body) = answer(count.fetch_add(1, Ordering::SeqCst), &first);
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
    settings.retry_time = retry;
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
