//! What was begun with this host's key out of this state folder: by it a second holder of the key is noticed.
//!
//! Each session has a lock file of a random name, and its BEGIN says that name. The name is kept here *before* the BEGIN is
//! written, so whatever ends this process, a BEGIN by this key whose name isn't here was written by somebody else who holds
//! it: from a copy of this folder, or from this folder before it was set back to an older state.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Names of sessions that never came into the log: more than these are forgotten, the oldest first.
const MOST_UNSEEN: usize = 1_000;

/// How often another machine is spoken of; one whose id changes with each start is no news then.
const MOVES: u32 = 2;

/// What was begun out of this folder.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnSessions {
    /// All BEGINs of this key up to this entry are accounted for.
    checked: Option<u64>,
    /// Lock names of later ones, as in their BEGINs.
    locks: VecDeque<String>,
    /// The machine of the newest one.
    machine: Option<String>,
    /// How often that was another one than before.
    moves: u32,
}

impl OwnSessions {
    /// Remembers a session that is about to begin.
    pub fn begins(&mut self, lock: &str) {
        self.locks.push_back(lock.to_owned());
        while self.locks.len() > MOST_UNSEEN {
            self.locks.pop_front();
        }
    }

    /// Was a session of this key begun out of this folder, or accounted for otherwise?
    pub fn knows(&self, begin: u64, lock: Option<&str>) -> bool {
        self.checked.is_some_and(|checked| begin <= checked) || lock.is_some_and(|lock| self.locks.iter().any(|known| known == lock))
    }

    /// All sessions up to the entry `newest` are accounted for; `seen` says which locks were among theirs.
    pub fn account(&mut self, newest: u64, seen: impl Fn(&str) -> bool) {
        self.checked = self.checked.max(Some(newest));
        self.locks.retain(|lock| !seen(lock));
    }

    /// Remembers on which machine this folder is used. The one before, if it was another, and that is worth a word.
    pub fn is_on(&mut self, machine: &str) -> Option<String> {
        if self.machine.as_deref() == Some(machine) {
            return None;
        }
        let before = self.machine.replace(machine.to_owned())?;
        self.moves = self.moves.saturating_add(1);
        (self.moves <= MOVES).then_some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_here_is_known_and_nothing_else() {
        let mut own = OwnSessions::default();
        assert!(!own.knows(3, None) && !own.knows(0, Some("a")));
        own.begins("a");
        own.begins("b");
        assert!(own.knows(5, Some("a")) && !own.knows(5, Some("c")) && !own.knows(5, None));
        own.account(5, |lock| lock == "a");
        // What is behind it needs a name; "b" may still come.
        assert!(own.knows(5, None) && own.knows(1, Some("c")) && !own.knows(6, Some("a")) && own.knows(6, Some("b")));
        own.account(3, |_| false);
        assert!(own.knows(5, None), "it goes forward alone");
        (0..MOST_UNSEEN).for_each(|n| own.begins(&n.to_string()));
        assert!(!own.knows(6, Some("b")) && own.knows(6, Some("0")) && own.knows(6, Some(&(MOST_UNSEEN - 1).to_string())));
    }

    #[test]
    fn another_machine_is_news_twice() {
        let mut own = OwnSessions::default();
        let said: Vec<Option<String>> = ["a", "a", "b", "b", "a", "c", "d"].iter().map(|machine| own.is_on(machine)).collect();
        assert_eq!(said, [None, None, Some("a".into()), None, Some("b".into()), None, None]);
    }
}
