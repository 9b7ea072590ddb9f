//! What SeaweedFS and rclone do.

use crate::support::s3::{self, Request, Role};

#[test]
fn objects_are_kept() {
    s3::ordinary(|s3| {
        let service = s3.seaweed();
        let bucket = service.bucket();
        assert_eq!(bucket.get("a/b"), None);
        bucket.put("a/b", "first");
        bucket.put("a/b c+%&", "second");
        assert_eq!(bucket.get("a/b").unwrap(), b"first");
        assert_eq!(bucket.list("a/"), ["a/b", "a/b c+%&"]);
        assert_eq!(bucket.get("a/b c+%&").unwrap(), b"second");
        let create = Request::put(bucket.path("a/b"), "third").if_absent();
        let refused = service.client(Role::Writer).send(&create).expect(412);
        assert_eq!(refused.code(), "PreconditionFailed");
        bucket.delete("a/b");
        assert_eq!(bucket.list(""), ["a/b c+%&"]);
    });
}
