//! Signatures, checksums, and what the proxy understands of a request.

use crate::support::s3::Keys;
use crate::support::s3::http::Head;
use crate::support::s3::proxy::{Operation, Seen};
use crate::support::s3::sign::{Checksum, Signed, base64, crc, hex, hmac_sha256, sha256};

#[test]
fn signatures_and_checksums_are_those_of_the_documents() {
    // AWS, "Signature Calculations for the Authorization Header", GET Object.
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let empty = sha256(b"");
    let signed = Signed {
        method: "GET",
        path: "/test.txt",
        query: &[],
        headers: &[
            header("host", "examplebucket.s3.amazonaws.com"),
            header("range", "bytes=0-9"),
            header("x-amz-content-sha256", &empty),
            header("x-amz-date", "20130524T000000Z"),
        ],
        payload: &empty,
        time: "20130524T000000Z",
        region: "us-east-1",
    };
    let access = "AKIAIOSFODNN7EXAMPLE".to_owned();
    let keys = Keys { access, secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned() };
    let expected = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
    assert!(signed.authorization(&keys).ends_with(expected), "{}", signed.authorization(&keys));

    assert_eq!(hex(&hmac_sha256(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"))[..8], *"60e43159");
    assert_eq!(crc(b"123456789", 0xedb8_8320, 32), 0xcbf4_3926);
    assert_eq!(crc(b"123456789", 0x9a6c_9329_ac4b_c9b5, 64), 0xae8b_1486_0a79_9888);
    assert_eq!(Checksum::Crc32c.of(b"123456789"), base64(&0xe306_9283_u32.to_be_bytes()));
    assert_eq!(["", "f", "fo", "foo", "foob"].map(|t| base64(t.as_bytes())), ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
}

#[test]
fn requests_are_understood() {
    let seen = |start: &str, headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Seen::of(&Head { start: start.to_owned(), headers })
    };
    let signed = [("Authorization", "AWS4-HMAC-SHA256 Credential=WRITERKEY/20130524/us-east-1/s3/aws4_request, SignedHeaders=host")];
    for (start, headers, operation, bucket, key) in [
        ("GET /b/a/c%2Bd HTTP/1.1", &signed[..], Operation::Get, "b", "a/c+d"),
        ("GET /b/a?versionId=1 HTTP/1.1", &[], Operation::GetVersion, "b", "a"),
        ("GET /b?list-type=2&prefix=log%2F HTTP/1.1", &[], Operation::List, "b", "log/"),
        ("GET /b/?list-type=2 HTTP/1.1", &[], Operation::List, "b", ""),
        ("GET /b?versions HTTP/1.1", &[], Operation::ListVersions, "b", ""),
        ("GET /b/?versioning HTTP/1.1", &[], Operation::GetBucket, "b", ""),
        ("PUT /b/a?x-id=PutObject HTTP/1.1", &[("if-none-match", "*")], Operation::Create, "b", "a"),
        ("PUT /b/a HTTP/1.1", &[], Operation::Put, "b", "a"),
        ("PUT /b/a?retention&versionId=3 HTTP/1.1", &[], Operation::PutRetention, "b", "a"),
        ("DELETE /b/a?versionId=3 HTTP/1.1", &[], Operation::DeleteVersion, "b", "a"),
        ("POST /b?delete HTTP/1.1", &[], Operation::DeleteMany, "b", ""),
        ("POST /b/a?uploads= HTTP/1.1", &[], Operation::Parts, "b", "a"),
        ("HEAD /b/a HTTP/1.1", &[], Operation::Head, "b", "a"),
        ("HEAD /b HTTP/1.1", &[], Operation::HeadBucket, "b", ""),
    ] {
        let seen = seen(start, headers);
        assert_eq!((seen.operation, &*seen.bucket, &*seen.key), (operation, bucket, key), "{start}");
        assert_eq!(seen.who, if headers.is_empty() || operation == Operation::Create { "" } else { "WRITERKEY" });
    }
}
