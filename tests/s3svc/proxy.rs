//! The proxy: faithful when nothing is asked of it, and each fault as a client sees it and as the service is left.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::support::s3::proxy::{Fault, Operation, Proxy, Seen, seeded};
use crate::support::s3::sign::Checksum;
use crate::support::s3::{self, Answer, Bucket, Client, Request, Role, Service};
use crate::support::wait_until;

/// A bucket behind a proxy, seen by a writer.
struct Behind {
    proxy: Proxy,
    bucket: Bucket,
    writer: Client,
    service: Service,
}

impl Behind {
    fn new(s3: &s3::S3) -> Behind {
        let service = s3.seaweed();
        let proxy = Proxy::start(service.address());
        let writer = service.client(Role::Writer).at(&proxy.endpoint());
        Behind { bucket: service.bucket(), proxy, writer, service }
    }

    fn create(&self, key: &str, body: &[u8]) -> std::io::Result<Answer> {
        let create = Request::put(self.bucket.path(key), body).if_absent();
        self.writer.try_send(&create.header(Checksum::Crc32c.header(), &Checksum::Crc32c.of(body)))
    }

    fn get(&self, key: &str) -> std::io::Result<Answer> {
        self.writer.try_get(&self.bucket.path(key))
    }

    fn list(&self) -> std::io::Result<Answer> {
        self.writer.try_send(&Request::get(self.bucket.path("")).query("list-type", "2"))
    }

    fn meets(&self, fault: Fault) {
        self.proxy.plan(move |_| fault.clone());
    }
}

/// Bytes that differ everywhere.
fn bytes(length: usize) -> Vec<u8> {
    (0..length as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn faithful_when_nothing_is_asked() {
    s3::ordinary(|s3| {
        let it = Behind::new(s3);
        let large = bytes(20 << 20);
        let mut connection = it.writer.connect().unwrap();
        let path = |key| it.bucket.path(key);
        let put = |key, body: &[u8]| Request::put(path(key), body).if_absent();
        assert_eq!(connection.send(&put("large", &large)).unwrap().status, 200);
        assert_eq!(connection.send(&put("empty", b"")).unwrap().status, 200);
        assert_eq!(connection.send(&put("empty", b"")).unwrap().code(), "PreconditionFailed");
        assert_eq!(connection.send(&Request::get(path("large"))).unwrap().body, large);
        let part = connection.send(&Request::get(path("large")).header("range", "bytes=1000-1099")).unwrap();
        assert_eq!((part.status, &part.body[..]), (206, &large[1000..1100]));
        let head = connection.send(&Request::new("HEAD", path("large"))).unwrap();
        assert_eq!(head.header("content-length"), Some("20971520"));
        assert_eq!(connection.send(&Request::get(path("none"))).unwrap().code(), "NoSuchKey");
        let listed = connection.send(&Request::get(path("")).query("list-type", "2")).unwrap().text();
        assert!(listed.contains("<Key>empty</Key>") && listed.contains("<Key>large</Key>"), "{listed}");
        assert_eq!(connection.send(&Request::new("DELETE", path("empty"))).unwrap().status, 403);

        let counts = it.proxy.counts();
        let of = |operation| counts.of_operation(operation);
        assert_eq!([Operation::Create, Operation::Get, Operation::Head, Operation::List, Operation::Delete].map(of), [3, 3, 1, 1, 1]);
        assert_eq!((counts.total(), counts.faults), (9, 0));
        let writer = it.service.keys(Role::Writer).access;
        assert_eq!((counts.of_identity(&writer), counts.of_identity("ADMINKEY")), (9, 0));
        assert_eq!(counts.up, 20 << 20);
        assert!(counts.down > 20 << 20);
        let records = it.proxy.records();
        assert!(records.iter().all(|r| r.status.is_some() && r.status == r.served), "{records:?}");
        it.proxy.forget();
        assert_eq!(it.proxy.counts().total(), 0);
    });
}

/// Reads up to the end of an answer's head.
fn answer_head(from: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && from.read(&mut byte).unwrap() == 1 {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn bodies_of_all_kinds_pass() {
    s3::ordinary(|s3| {
        let it = Behind::new(s3);
        let body = bytes(3 << 20);
        let connect = || TcpStream::connect(it.proxy.endpoint().strip_prefix("http://").unwrap()).unwrap();

        // A body that waits for leave.
        let waits = Request::put(it.bucket.path("leave"), &body[..]).if_absent().header_beside("expect", "100-continue");
        for fault in [Fault::None, Fault::Twice] {
            it.proxy.plan(move |_| fault.clone());
            let (head, sent) = it.writer.bytes(&waits);
            let mut stream = connect();
            stream.write_all(&head).unwrap();
            // SeaweedFS may refuse it before it has seen the body, as it should.
            let first = answer_head(&mut stream);
            if first.starts_with("HTTP/1.1 100 ") {
                stream.write_all(&sent).unwrap();
                let answer = answer_head(&mut stream);
                assert!(answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.1 412 "), "{answer}");
            } else {
                assert!(first.starts_with("HTTP/1.1 412 "), "{first}");
            }
        }
        it.proxy.calm();
        assert_eq!(it.bucket.get("leave").unwrap(), body);

        // HTTP's chunks, and AWS's within a body.
        let mut chunks = Vec::new();
        for part in body.chunks(100_000) {
            chunks.extend(format!("{:x}\r\n", part.len()).into_bytes());
            chunks.extend(part);
            chunks.extend(b"\r\n");
        }
        chunks.extend(b"0\r\n\r\n");
        let chunked =
            Request::put(it.bucket.path("chunked"), chunks).claiming("UNSIGNED-PAYLOAD").header_beside("transfer-encoding", "chunked");
        it.writer.send(&chunked.header("x-amz-decoded-content-length", &body.len().to_string())).expect(200);
        assert_eq!(it.bucket.get("chunked").unwrap(), body);

        let mut aws = format!("{:x}\r\n", body.len()).into_bytes();
        aws.extend(&body);
        aws.extend(format!("\r\n0\r\n{}:{}\r\n\r\n", Checksum::Crc32.header(), Checksum::Crc32.of(&body)).into_bytes());
        let trailed = Request::put(it.bucket.path("trailed"), aws).claiming("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        let trailed = trailed.header("content-encoding", "aws-chunked").header("x-amz-trailer", Checksum::Crc32.header());
        it.writer.send(&trailed.header("x-amz-decoded-content-length", &body.len().to_string())).expect(200);
        assert_eq!(it.bucket.get("trailed").unwrap(), body);
    });
}

#[test]
fn a_create_meets_each_fault() {
    s3::ordinary(|s3| {
        let it = Behind::new(s3);
        let body = bytes(300_000);
        // What the client is told (none: the connection broke), and whether the service has it.
        let pause = Duration::from_millis(1);
        let all = [
            (Fault::Delay(pause), Some(200), true),
            (Fault::DelayAnswer(pause), Some(200), true),
            (Fault::ResetBefore, None, false),
            (Fault::ResetInRequest(0), None, false),
            (Fault::ResetInRequest(150_000), None, false),
            (Fault::ResetInRequest(299_999), None, false),
            (Fault::ResetAfterRequest, None, true),
            (Fault::CloseAfterRequest, None, true),
            (Fault::ResetInAnswer(7), None, true),
            (Fault::CutAnswer(7), None, true),
            (Fault::Error(503, "SlowDown"), Some(503), false),
            (Fault::Error(500, "InternalError"), Some(500), false),
            (Fault::ErrorAfter(500, "InternalError"), Some(500), true),
            (Fault::Twice, Some(412), true),
            (Fault::FlipRequest(123_456), Some(400), false),
        ];
        for (n, (fault, told, there)) in all.iter().enumerate() {
            let key = format!("{n}");
            it.meets(fault.clone());
            let answer = it.create(&key, &body);
            assert_eq!(answer.as_ref().ok().map(|a| a.status), *told, "{fault:?}: {answer:?}");
            if let Some(Ok(answer)) = told.is_some_and(|status| status >= 400).then_some(answer) {
                let codes = ["SlowDown", "InternalError", "PreconditionFailed", "BadDigest"];
                assert!(codes.contains(&answer.code().as_str()), "{fault:?}: {}", answer.text());
            }
            let found = it.bucket.get(&key);
            assert_eq!(found.is_some(), *there, "{fault:?}");
            assert!(found.is_none_or(|found| found == body), "{fault:?}");
            // The same again in calm weather: the proxy, and the service, are as before.
            it.proxy.calm();
            let status = it.create(&key, &body).unwrap().status;
            assert_eq!(status, if *there { 412 } else { 200 }, "{fault:?}");
        }
        assert_eq!(it.proxy.counts().faults, all.len() as u64);
    });
}

#[test]
fn a_get_meets_each_fault() {
    s3::ordinary(|s3| {
        let it = Behind::new(s3);
        let body = bytes(300_000);
        it.bucket.put("a", &body[..]);
        for (fault, told) in [
            (Fault::Delay(Duration::from_millis(1)), Some(200)),
            (Fault::ResetBefore, None),
            (Fault::ResetAfterRequest, None),
            (Fault::CloseAfterRequest, None),
            (Fault::ResetInAnswer(0), None),
            (Fault::ResetInAnswer(150_000), None),
            (Fault::CutAnswer(0), None),
            (Fault::CutAnswer(150_000), None),
            (Fault::CutAnswer(299_999), None),
            (Fault::Error(503, "SlowDown"), Some(503)),
            (Fault::ErrorAfter(500, "InternalError"), Some(500)),
            (Fault::Twice, Some(200)),
        ] {
            it.meets(fault.clone());
            let answer = it.get("a");
            assert_eq!(answer.as_ref().ok().map(|a| a.status), told, "{fault:?}");
            let Ok(answer) = answer else { continue };
            assert_eq!(answer.status == 200, answer.body == body, "{fault:?}");
        }
        // What arrived before the end of the connection did arrive: a client can go on from there.
        it.meets(Fault::CutAnswer(150_000));
        let (head, _) = it.writer.bytes(&Request::get(it.bucket.path("a")));
        let mut stream = TcpStream::connect(it.proxy.endpoint().strip_prefix("http://").unwrap()).unwrap();
        stream.write_all(&head).unwrap();
        let told = answer_head(&mut stream);
        assert!(told.to_ascii_lowercase().contains("content-length: 300000"), "{told}");
        let mut arrived = Vec::new();
        stream.read_to_end(&mut arrived).unwrap();
        assert_eq!(arrived, body[..150_000]);

        it.meets(Fault::FlipAnswer(123_456));
        let wrong = it.get("a").unwrap().body;
        let differing: Vec<usize> = (0..body.len()).filter(|at| wrong[*at] != body[*at]).collect();
        assert_eq!(differing, [123_456]);
        let last = it.proxy.records().pop().unwrap();
        assert_eq!((last.status, last.served, last.down), (Some(200), Some(200), 300_000));
    });
}

#[test]
fn an_answer_may_never_come() {
    s3::ordinary(|s3| {
        let it = Behind::new(s3);
        it.meets(Fault::Hang);
        let (head, body) = it.writer.bytes(&Request::put(it.bucket.path("a"), "x"));
        let mut stream = TcpStream::connect(it.proxy.endpoint().strip_prefix("http://").unwrap()).unwrap();
        stream.write_all(&[head, body].concat()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let error = stream.read(&mut [0]).expect_err("no answer");
        assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{error}");
        assert_eq!(it.bucket.get("a"), None);
        // It ends with the proxy at the latest.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        drop(it.proxy);
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    });
}

#[test]
fn a_request_may_come_later() {
    s3::ordinary(|s3| {
        let it = Behind::new(s3);
        it.meets(Fault::Later(Duration::from_millis(500)));
        assert!(it.create("a", b"late").is_err());
        wait_until("the late request to be served", || it.bucket.get("a").is_some());
        assert_eq!(it.bucket.get("a").unwrap(), b"late");
    });
}

#[test]
fn lists_may_be_stale() {
    s3::ordinary(|s3| {
        let it = Behind::new(s3);
        let keys = || {
            let text = it.list().unwrap().expect(200).text();
            ["a", "b", "c"].into_iter().filter(|key| text.contains(&format!("<Key>{key}</Key>"))).collect::<String>()
        };
        it.create("a", b"x").unwrap().expect(200);
        assert_eq!(keys(), "a");
        it.bucket.put("b", "written elsewhere");
        it.create("c", b"x").unwrap().expect(200);
        assert_eq!(keys(), "abc");
        it.meets(Fault::Stale);
        assert_eq!(keys(), "a");
        it.meets(Fault::StaleBy(Duration::from_secs(3600)));
        assert_eq!(keys(), "b");
        it.meets(Fault::StaleBy(Duration::ZERO));
        assert_eq!(keys(), "abc");
        it.meets(Fault::CutAnswer(10));
        assert!(it.list().is_err());
    });
}

#[test]
fn identities_are_refused() {
    s3::ordinary(|s3| {
        let it = Behind::new(s3);
        let writer = it.service.keys(Role::Writer).access;
        // What AWS does by the condition `s3:if-none-match`: writers create, and overwrite nothing.
        it.proxy.refuse(move |seen| seen.who == writer && (seen.operation == Operation::Put || seen.key.starts_with("locks/")));
        it.create("a", b"x").unwrap().expect(200);
        let put = |role: Role, key: &str| {
            let client = it.service.client(role).at(&it.proxy.endpoint());
            client.send(&Request::put(it.bucket.path(key), "y"))
        };
        assert_eq!(put(Role::Writer, "a").expect(403).code(), "AccessDenied");
        assert_eq!(it.create("locks/1", b"x").unwrap().expect(403).code(), "AccessDenied");
        put(Role::Maintainer, "a").expect(200);
        assert_eq!(it.bucket.get("a").unwrap(), b"y");
        // What was used, for a policy that grants no more.
        let used: std::collections::BTreeSet<_> =
            it.proxy.records().iter().map(|r| (r.seen.who.clone(), r.seen.operation.action(), r.seen.key.clone())).collect();
        assert!(used.contains(&("WRITERKEY".into(), "s3:PutObject", "a".into())), "{used:?}");
        let refused: Vec<_> = it.proxy.records().into_iter().filter(|r| r.status == Some(403)).collect();
        assert!(refused.len() == 2 && refused.iter().all(|r| r.served.is_none()), "{refused:?}");
    });
}

#[test]
fn distance_is_the_same_for_all_that_is_asked_at_once() {
    s3::ordinary(|s3| {
        let it = Behind::new(s3);
        it.bucket.put("a", "x");
        let distance = Duration::from_millis(300);
        it.proxy.latency(distance, Duration::from_millis(20));
        // Nobody goes on before all are there: one after the other they would wait for ever.
        let all = Barrier::new(20);
        it.proxy.plan(move |_| {
            all.wait();
            Fault::None
        });
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| it.get("a").unwrap().expect(200));
            }
        });
        assert!(begun.elapsed() >= distance);
    });
}

#[test]
fn clocks_differ() {
    s3::ordinary(|s3| {
        let it = Behind::new(s3);
        it.bucket.put("a", "x");
        let get = Request::get(it.bucket.path("a"));
        it.proxy.clock(jiff::SignedDuration::from_mins(8));
        let refused = it.writer.send(&get).expect(403);
        assert_eq!(refused.code(), "RequestTimeTooSkewed");
        let told = jiff::fmt::rfc2822::parse(refused.header("date").unwrap()).unwrap().timestamp();
        assert!((told - jiff::Timestamp::now()).abs() > jiff::SignedDuration::from_mins(7), "{told}");
        // A client that sets its clock by that is served.
        it.writer.send(&get.at(&told.strftime("%Y%m%dT%H%M%SZ").to_string())).expect(200);
    });
}

#[test]
fn idle_connections_die() {
    s3::ordinary(|s3| {
        let it = Behind::new(s3);
        it.bucket.put("a", "x");
        let get = Request::get(it.bucket.path("a"));
        let mut connection = it.writer.connect().unwrap();
        assert_eq!(connection.send(&get).unwrap().status, 200);
        wait_until("an idle connection to be dropped", || {
            it.proxy.drop_idle_connections();
            connection.send(&get).is_err()
        });
        it.get("a").unwrap().expect(200);
    });
}

#[test]
fn a_service_may_be_gone() {
    s3::ordinary(|s3| {
        let it = Behind::new(s3);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let proxy = Proxy::start(&address.to_string());
        let client = it.writer.at(&proxy.endpoint());
        assert!(client.try_get("/bucket/a").is_err());
        let records = proxy.records();
        assert!(records.len() == 1 && records[0].status.is_none(), "{records:?}");
    });
}

#[test]
fn a_seed_is_a_story() {
    s3::ordinary(|s3| {
        let story = |seed: u64| {
            let it = Behind::new(s3);
            it.proxy.seeded(seed, 500);
            for n in 0..40 {
                let _ = it.create(&format!("{n}"), &bytes(1000));
                let _ = it.get(&format!("{n}"));
            }
            let mut met: Vec<_> = it.proxy.records().iter().map(|r| (r.seen.operation, r.seen.index, format!("{:?}", r.fault))).collect();
            met.sort();
            met
        };
        let first = story(1);
        assert_eq!(first.len(), 80);
        assert_eq!(first, story(1));
        assert_ne!(first, story(2));
        let met = first.iter().filter(|(_, _, fault)| fault != "None").count();
        assert!((20..=60).contains(&met), "{met} of 80");
    });
}

#[test]
fn seeds_know_all_faults() {
    let seen = |operation, index| Seen { operation, index, ..Seen::example() };
    for (operation, least) in [(Operation::Create, 13), (Operation::Get, 11), (Operation::List, 13), (Operation::Head, 10)] {
        let name = |fault: &Fault| format!("{fault:?}").split('(').next().unwrap().to_owned();
        let faults: std::collections::BTreeSet<String> = (0..2000).map(|index| name(&seeded(7, 1000, &seen(operation, index)))).collect();
        assert_eq!(faults.len(), least, "{operation:?}: {faults:?}");
        assert!(!faults.contains("None"));
        assert!((0..100).all(|index| seeded(7, 0, &seen(operation, index)) == Fault::None));
    }
}
