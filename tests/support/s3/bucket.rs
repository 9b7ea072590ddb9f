//! A bucket of a test, and what an administrator does to it behind the program's back.

use super::client::elements;
use super::{Answer, Client, Request};

/// What a bucket shall be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Versioned,
    Locked,
}

/// A bucket, empty at first; removed with the value, except when the test has failed.
#[derive(Debug)]
pub struct Bucket {
    name: String,
    admin: Client,
}

/// A version of an object, or a delete marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub key: String,
    pub id: String,
    pub latest: bool,
    /// A delete marker.
    pub marker: bool,
}

impl Bucket {
    #[track_caller]
    pub(super) fn create(admin: Client, kind: Kind) -> Bucket {
        let mut random = [0; 6];
        getrandom::fill(&mut random).expect("random bytes");
        let bucket = Bucket { name: format!("test-{}", super::sign::hex(&random)), admin };
        let mut create = Request::put(bucket.path(""), "");
        if kind == Kind::Locked {
            create = create.header("x-amz-bucket-object-lock-enabled", "true");
        }
        bucket.admin.send(&create).expect(200);
        if kind == Kind::Versioned {
            bucket.set_versioning(true);
        }
        bucket
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `/bucket/key`, the path of a request.
    pub fn path(&self, key: &str) -> String {
        if key.is_empty() { format!("/{}", self.name) } else { format!("/{}/{key}", self.name) }
    }

    /// Who does all this.
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    /// Keep all versions, or stop it.
    #[track_caller]
    pub fn set_versioning(&self, on: bool) {
        let status = if on { "Enabled" } else { "Suspended" };
        let xml = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
        self.admin.send(&Request::put(self.path(""), xml).query("versioning", "")).expect(200);
    }

    /// Writes an object, over what is there; its version, if the bucket keeps them.
    #[track_caller]
    pub fn put(&self, key: &str, body: impl Into<Vec<u8>>) -> Option<String> {
        let answer = self.admin.send(&Request::put(self.path(key), body)).expect(200);
        answer.header("x-amz-version-id").map(str::to_owned)
    }

    /// An object's bytes.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.admin.send(&Request::get(self.path(key)));
        if answer.status == 404 { None } else { Some(answer.expect(200).body) }
    }

    /// The bytes of one version.
    #[track_caller]
    pub fn get_version(&self, key: &str, version: &str) -> Option<Vec<u8>> {
        let answer = self.admin.send(&Request::get(self.path(key)).query("versionId", version));
        if answer.status == 404 { None } else { Some(answer.expect(200).body) }
    }

    /// Deletes an object (where versions are kept: puts a delete marker over it).
    #[track_caller]
    pub fn delete(&self, key: &str) {
        self.admin.send(&Request::new("DELETE", self.path(key))).expect(204);
    }

    /// Deletes one version for good, if the service allows it.
    #[track_caller]
    pub fn delete_version(&self, key: &str, version: &str) -> Answer {
        self.admin.send(&Request::new("DELETE", self.path(key)).query("versionId", version))
    }

    /// The keys that start so, in order.
    #[track_caller]
    pub fn list(&self, prefix: &str) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        loop {
            let mut page = Request::get(self.path("")).query("list-type", "2").query("prefix", prefix);
            if let Some(last) = all.last() {
                page = page.query("start-after", last);
            }
            let text = self.admin.send(&page).expect(200).text();
            let before = all.len();
            all.extend(elements(&text, "Contents").filter_map(|object| elements(&object, "Key").next()));
            if elements(&text, "IsTruncated").next().as_deref() != Some("true") || all.len() == before {
                return all;
            }
        }
    }

    /// All versions and delete markers of keys that start so, the latest of each key first. At most 1,000.
    #[track_caller]
    pub fn versions(&self, prefix: &str) -> Vec<Version> {
        let request = Request::get(self.path("")).query("versions", "").query("prefix", prefix);
        let text = self.admin.send(&request).expect(200).text();
        let of = |name: &str, marker: bool| {
            let parse = move |xml: String| {
                let field = |name: &str| elements(&xml, name).next().unwrap_or_default();
                Version { key: field("Key"), id: field("VersionId"), latest: field("IsLatest") == "true", marker }
            };
            elements(&text, name).map(parse).collect::<Vec<_>>()
        };
        let mut all = [of("Version", false), of("DeleteMarker", true)].concat();
        // Stable: the service lists a key's versions from the latest on.
        all.sort_by(|a, b| a.key.cmp(&b.key).then(b.latest.cmp(&a.latest)));
        all
    }

    /// Until when a version can't be deleted by anybody (mode COMPLIANCE), as the service writes it.
    #[track_caller]
    pub fn locked_until(&self, key: &str, version: Option<&str>) -> Option<String> {
        let mut request = Request::get(self.path(key)).query("retention", "");
        if let Some(version) = version {
            request = request.query("versionId", version);
        }
        let answer = self.admin.send(&request);
        if answer.status == 404 {
            return None;
        }
        let text = answer.expect(200).text();
        assert!(text.contains("<Mode>COMPLIANCE</Mode>"), "{text}");
        elements(&text, "RetainUntilDate").next()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Refused where something is locked: it goes with the service.
            let _ = self.admin.try_send(&Request::new("DELETE", self.path("")));
        }
    }
}
