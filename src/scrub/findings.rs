//! What is wrong, by object; filled from several threads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::failure::Damage;

/// Different problems of one object that are told.
const MOST_PROBLEMS: usize = 8;

/// An object that is not what it must be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Finding {
    /// Its name.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// The snapshots that it hits.
    pub snapshots: BTreeSet<String>,
    /// The files of these snapshots that can't be restored from here, as bytes; a folder of which nothing is known ends
    /// in `/`.
    pub files: BTreeSet<Vec<u8>>,
}

#[derive(Default)]
struct Found {
    problems: Vec<String>,
    more: usize,
    snapshots: BTreeSet<String>,
    files: BTreeSet<Vec<u8>>,
}

impl Found {
    fn problem(&mut self, text: &str) {
        if self.problems.iter().any(|p| p == text) {
            return;
        }
        if self.problems.len() < MOST_PROBLEMS { self.problems.push(text.to_owned()) } else { self.more += 1 }
    }

    fn words(&self) -> String {
        let all = self.problems.join("; ");
        if self.more == 0 { all } else { format!("{all}; and {} more", self.more) }
    }
}

/// Collects them.
#[derive(Default)]
pub struct Findings(Mutex<BTreeMap<String, Found>>);

impl Findings {
    /// Something is wrong with an object.
    pub fn note(&self, object: &str, problem: &str) {
        self.with(object, |found| found.problem(problem));
    }

    /// A snapshot relies on the object.
    pub fn hit_snapshot(&self, object: &str, snapshot: &str) {
        self.with(object, |found| _ = found.snapshots.insert(snapshot.to_owned()));
    }

    /// Because of this damage a snapshot is not whole: of a file, if it is one's. What is known of the object already
    /// says more than what a walk stumbles over.
    pub(super) fn hit(&self, damage: &Damage, snapshot: &str, file: Option<&[u8]>) {
        self.with(&damage.object, |found| {
            if found.problems.is_empty() {
                found.problem(&damage.problem);
            }
            found.snapshots.insert(snapshot.to_owned());
            found.files.extend(file.map(<[u8]>::to_vec));
        });
    }

    /// Is anything said of this object?
    pub(super) fn has(&self, object: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(object)
    }

    /// Forgets what was said of these objects: they were there no longer to be looked at.
    pub(super) fn forget(&self, gone: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|object, _| !gone(object));
    }

    fn with(&self, object: &str, change: impl FnOnce(&mut Found)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(object.to_owned()).or_default());
    }

    /// All of them, by object.
    pub fn take(self) -> Vec<Finding> {
        let all = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let one = |(object, found): (String, Found)| {
            let problem = found.words();
            Finding { object, problem, snapshots: found.snapshots, files: found.files }
        };
        all.into_iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_found_once() {
        let findings = Findings::default();
        findings.note("pack/b", "cut short");
        findings.note("pack/b", "cut short");
        findings.hit(&Damage::new("pack/b", "a node is gone"), "s1", Some(b"base/1/2"));
        findings.hit(&Damage::new("pack/a", "a node is gone"), "s2", None);
        for blob in 0..10 {
            findings.note("pack/c", &format!("blob {blob}"));
        }
        let found = findings.take();
        assert_eq!(found.iter().map(|f| f.object.as_str()).collect::<Vec<_>>(), ["pack/a", "pack/b", "pack/c"]);
        assert_eq!((found[0].problem.as_str(), found[0].files.len(), found[0].snapshots.len()), ("a node is gone", 0, 1));
        assert_eq!(found[1].problem, "cut short");
        assert!(found[1].files.contains(b"base/1/2".as_slice()) && found[1].snapshots.contains("s1"));
        assert!(found[2].problem.ends_with("blob 7; and 2 more"), "{}", found[2].problem);
    }
}
