//! The names that objects and unfinished files can have.

use std::fmt;
use std::str::FromStr;

/// The folder of unfinished files; no object lies in it.
pub(super) const UNFINISHED: &str = "tmp";

/// A text that can't be what it should be: the name of an object, or the tag of a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} can't be {what}")]
pub struct BadName {
    text: String,
    what: &'static str,
}

fn bad(text: &str, what: &'static str) -> BadName {
    BadName { text: text.chars().take(80).collect(), what }
}

/// The name of an object: parts joined by `/`, as `log/17` or `pack/<session>/<id>-<hash>`.
///
/// At most 512 bytes; each part has 1 to 200 characters out of `A-Z a-z 0-9 . _ -` and doesn't start with a dot, so no
/// name leads out of its folder and each is the same on every file system and object store. The first part is not
/// `tmp`. The same type names a folder of objects.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    /// Longest name, in bytes.
    pub const MAX: usize = 512;

    /// Longest part of a name, in bytes.
    pub const MAX_PART: usize = 200;

    /// Checks a name.
    pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
        let text = text.into();
        let fine = text.len() <= Self::MAX && text.split('/').all(part_is_fine) && text.split('/').next() != Some(UNFINISHED);
        if fine { Ok(ObjectName(text)) } else { Err(bad(&text, "the name of an object")) }
    }

    /// The name of an object or folder within this folder.
    pub fn join(&self, below: &str) -> Result<Self, BadName> {
        Self::new(format!("{}/{below}", self.0))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

/// Can this be a part of a name?
pub(super) fn part_is_fine(part: &str) -> bool {
    (1..=ObjectName::MAX_PART).contains(&part.len())
        && !part.starts_with('.')
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ObjectName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::new(text)
    }
}

/// Whose unfinished files these are: the session's id in hex, or a word for what no session does (`init`, `push`).
///
/// 1 to 64 characters out of `A-Z a-z 0-9 _`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionTag(String);

impl SessionTag {
    /// Checks a tag.
    pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
        let text = text.into();
        let fine = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if fine { Ok(SessionTag(text)) } else { Err(bad(&text, "the tag of a session")) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whose file is this? `None` if no session of ours gave it this name.
    pub(super) fn of_unfinished(file_name: &str) -> Option<Self> {
        let (tag, random) = file_name.rsplit_once('-')?;
        let fine = random.len() == 32 && random.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        fine.then(|| SessionTag::new(tag).ok()).flatten()
    }
}

impl fmt::Display for SessionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<crate::units::SessionId> for SessionTag {
    fn from(id: crate::units::SessionId) -> Self {
        SessionTag(id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn names_of_our_objects_are_fine() {
        for name in [
            "pgcairn",
            "key/00112233445566778899aabbccddeeff",
            "log/0",
            "pack/00112233445566778899aabbccddeeff/0011-22",
            "wal/ab/7421/0000000100000000/000000010000000000000003.00000028.backup",
            "wal/ab/7421/history/00000002.history.2",
            "wal/ab/7421/0000000100000000/000000010000000000000003.partial",
        ] {
            assert_eq!(ObjectName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = format!("log/{}", "a".repeat(201));
        let longer = vec!["a".repeat(128); 4].join("/");
        for name in [
            "",
            "/",
            "/log",
            "log/",
            "log//1",
            "..",
            "log/../key",
            "./log",
            "log/.",
            "log/.hidden",
            "tmp",
            "tmp/x",
            "log/a b",
            "log/ä",
            "log\\1",
            "log/a\0",
            "log/a\n",
            &long,
            &longer,
        ] {
            assert!(ObjectName::new(name).is_err(), "{name:?}");
        }
        assert!(ObjectName::new("tmpx").is_ok() && ObjectName::new("log/tmp").is_ok());
    }

    #[test]
    fn unfinished_files_tell_whose_they_are() {
        let random = "0".repeat(32);
        assert_eq!(SessionTag::of_unfinished(&format!("push-{random}")), SessionTag::new("push").ok());
        for name in ["push", "push-", "-0", &format!("-{random}"), &format!("a-b-{random}"), &format!("push-{}", "g".repeat(32))] {
            assert_eq!(SessionTag::of_unfinished(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_name_stays_below_its_root(text in "[a-zA-Z0-9./_-]{0,40}") {
            if let Ok(name) = ObjectName::new(text) {
                let all_plain = Path::new(name.as_str()).components().all(|c| matches!(c, Component::Normal(_)));
                prop_assert!(all_plain);
                prop_assert_eq!(Path::new(name.as_str()).components().count(), name.as_str().split('/').count());
            }
        }
    }
}
