//! What a request asks for, and what became of it.

use std::collections::BTreeMap;

use super::super::http::Head;
use super::Fault;

/// What is asked of the service; [`Operation::action`] has AWS's name for the right to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    Get,
    GetVersion,
    Head,
    /// PUT with `If-None-Match: *`.
    Create,
    /// PUT without: it overwrites.
    Put,
    Copy,
    Delete,
    DeleteVersion,
    DeleteMany,
    List,
    ListVersions,
    GetRetention,
    PutRetention,
    HeadBucket,
    CreateBucket,
    DeleteBucket,
    /// Facts about a bucket: versioning, object lock, location.
    GetBucket,
    PutBucket,
    /// Anything of an upload in parts.
    Parts,
    Other,
}

impl Operation {
    /// Does it remove anything?
    pub fn deletes(self) -> bool {
        matches!(self, Operation::Delete | Operation::DeleteVersion | Operation::DeleteMany | Operation::DeleteBucket)
    }

    /// Does it write an object?
    pub fn writes(self) -> bool {
        matches!(self, Operation::Create | Operation::Put | Operation::Copy | Operation::Parts)
    }

    /// The right that a policy must grant for it.
    pub fn action(self) -> &'static str {
        match self {
            Operation::Get | Operation::Head => "s3:GetObject",
            Operation::GetVersion => "s3:GetObjectVersion",
            Operation::Create | Operation::Put | Operation::Copy | Operation::Parts => "s3:PutObject",
            Operation::Delete | Operation::DeleteMany => "s3:DeleteObject",
            Operation::DeleteVersion => "s3:DeleteObjectVersion",
            Operation::List | Operation::HeadBucket => "s3:ListBucket",
            Operation::ListVersions => "s3:ListBucketVersions",
            Operation::GetRetention => "s3:GetObjectRetention",
            Operation::PutRetention => "s3:PutObjectRetention",
            Operation::CreateBucket => "s3:CreateBucket",
            Operation::DeleteBucket => "s3:DeleteBucket",
            Operation::GetBucket => "s3:GetBucket*",
            Operation::PutBucket => "s3:PutBucket*",
            Operation::Other => "s3:*",
        }
    }
}

/// A request, before anything becomes of it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub operation: Operation,
    /// The access key of the signature; empty where there is none.
    pub who: String,
    pub bucket: String,
    /// Decoded; of a list: its prefix.
    pub key: String,
    /// Decoded, in their order.
    pub query: Vec<(String, String)>,
    /// How often the same was asked before: by the same identity, of the same target, in the same range. 0 the first time.
    pub nth: u64,
    /// How many requests of this operation this identity has made before.
    pub index: u64,
    /// The body's length, if it was told.
    pub length: Option<u64>,
    pub head: Head,
}

impl Seen {
    /// What this head asks for; the first time.
    pub fn of(head: &Head) -> Seen {
        let mut words = head.start.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(name), decoded(value))
        };
        let query: Vec<(String, String)> = query.split('&').filter(|part| !part.is_empty()).map(pair).collect();
        let path = decoded(path.trim_start_matches('/'));
        let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        let operation = operation(method, key, &query, head);
        let prefix = query.iter().find(|(name, _)| name == "prefix").map(|(_, prefix)| prefix.clone());
        let key = if key.is_empty() { prefix.unwrap_or_default() } else { key.to_owned() };
        let credential = head.get("authorization").and_then(|v| v.split_once("Credential=")).map(|(_, rest)| rest);
        let who = credential.and_then(|rest| rest.split_once('/')).map(|(who, _)| who.to_owned()).unwrap_or_default();
        let length = head.get("content-length").and_then(|v| v.parse().ok());
        Seen { operation, who, bucket: bucket.to_owned(), key, query, nth: 0, index: 0, length, head: head.clone() }
    }

    /// One of nothing in particular, for tests of plans.
    pub fn example() -> Seen {
        Seen::of(&Head { start: "GET /bucket/key HTTP/1.1".to_owned(), headers: Vec::new() })
    }

    /// GET, PUT, ...
    pub fn method(&self) -> &str {
        self.head.start.split(' ').next().unwrap_or_default()
    }

    /// Path and query as they were sent.
    pub fn target(&self) -> &str {
        self.head.start.split(' ').nth(1).unwrap_or_default()
    }

    /// For when it was signed.
    pub(super) fn signed_at(&self) -> Option<jiff::Timestamp> {
        let time = self.head.get("x-amz-date")?;
        jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).ok()?.in_tz("UTC").ok().map(|at| at.timestamp())
    }

    /// What makes two requests the same one, asked again.
    pub(super) fn identity(&self) -> String {
        let range = self.head.get("range").unwrap_or_default();
        format!("{} {:?} {} {range}", self.who, self.operation, self.target())
    }
}

fn operation(method: &str, key: &str, query: &[(String, String)], head: &Head) -> Operation {
    let asks = |name: &str| query.iter().any(|(n, _)| n == name);
    if asks("uploads") || asks("uploadId") {
        return Operation::Parts;
    }
    let bucket_facts = ["versioning", "object-lock", "location", "policy", "acl", "encryption", "lifecycle", "tagging"];
    match (method, key.is_empty()) {
        ("GET", true) if asks("versions") => Operation::ListVersions,
        ("GET", true) if bucket_facts.iter().any(|fact| asks(fact)) => Operation::GetBucket,
        ("GET", true) => Operation::List,
        ("HEAD", true) => Operation::HeadBucket,
        ("PUT", true) if query.is_empty() => Operation::CreateBucket,
        ("PUT", true) => Operation::PutBucket,
        ("DELETE", true) => Operation::DeleteBucket,
        ("POST", true) if asks("delete") => Operation::DeleteMany,
        ("GET", false) if asks("retention") => Operation::GetRetention,
        ("PUT", false) if asks("retention") => Operation::PutRetention,
        ("GET", false) if asks("versionId") => Operation::GetVersion,
        ("GET", false) => Operation::Get,
        ("HEAD", false) => Operation::Head,
        ("PUT", false) if head.get("x-amz-copy-source").is_some() => Operation::Copy,
        ("PUT", false) if head.get("if-none-match").is_some() => Operation::Create,
        ("PUT", false) => Operation::Put,
        ("DELETE", false) if asks("versionId") => Operation::DeleteVersion,
        ("DELETE", false) => Operation::Delete,
        _ => Operation::Other,
    }
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|d| u8::from_str_radix(d, 16).ok());
        plain.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// A request, and what became of it.
#[derive(Debug, Clone)]
pub struct Record {
    pub seen: Seen,
    pub fault: Fault,
    /// What the client was answered; none where it was left without an answer.
    pub status: Option<u16>,
    /// What the service answered; none where it was not asked, or did not.
    pub served: Option<u16>,
    /// Bytes of the request's body that came from the client.
    pub up: u64,
    /// Bytes of the answer's body that were sent to the client.
    pub down: u64,
}

/// Requests in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// By identity and operation.
    pub by: BTreeMap<(String, Operation), u64>,
    pub up: u64,
    pub down: u64,
    /// How many met a fault.
    pub faults: u64,
}

impl Counts {
    pub(super) fn of<'a>(records: impl Iterator<Item = &'a Record>) -> Counts {
        let mut counts = Counts::default();
        for record in records {
            *counts.by.entry((record.seen.who.clone(), record.seen.operation)).or_default() += 1;
            counts.up += record.up;
            counts.down += record.down;
            counts.faults += u64::from(record.fault != Fault::None);
        }
        counts
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.by.values().sum()
    }

    /// Those of one kind, whoever asked.
    pub fn of_operation(&self, operation: Operation) -> u64 {
        self.by.iter().filter(|((_, o), _)| *o == operation).map(|(_, n)| n).sum()
    }

    /// Those of one identity, by its access key.
    pub fn of_identity(&self, who: &str) -> u64 {
        self.by.iter().filter(|((w, _), _)| w == who).map(|(_, n)| n).sum()
    }
}
