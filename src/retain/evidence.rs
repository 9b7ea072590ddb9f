//! What a verify says of a snapshot, in the words that stand in the log, and when it is proof.
//!
//! Proof is a rehearsal that went well, or a verify that read *all* data: one that read a share, or looked at objects
//! alone, says that nothing bad was seen, and no more. Later findings of less don't take back an earlier proof as long as
//! they are good: their words carry its number along.

use std::collections::BTreeMap;

use crate::repo::log::{Evidence, Fold};
use crate::units::Timestamp;

/// `what` of a verify.
const VERIFY: &str = "verify";
/// `what` of a rehearsal.
const REHEARSAL: &str = "rehearsal";
/// The words of a verify that read everything.
const ALL: &str = "read 100 %";
/// The words of a verify that read no payload.
const OBJECTS: &str = "objects only";
/// Between the words of a lesser verify and the number of the entry by which all was read.
const BEFORE: &str = "; read 100 % in log/";

/// What a verify found of one snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Nothing of it is damaged or missing.
    pub ok: bool,
    /// How much was read: `read 100 %`, `read 5 %`, `objects only`.
    pub share: String,
    /// What is wrong, if something is.
    pub damage: Option<String>,
}

impl Finding {
    /// May it stand in place of what the log says? What was found bad by reading isn't good again because nobody read: only
    /// a verify of all data takes that back; and none takes back what was found bad after it began, at this end of the log.
    pub fn replaces(&self, before: Option<&Evidence>, began: u64) -> bool {
        let Some(bad) = before.filter(|e| !e.ok && self.ok) else { return true };
        bad.number <= began && (bad.detail.starts_with(OBJECTS) || self.share.starts_with(ALL))
    }

    /// The words for the log, behind what the log says already.
    pub fn detail(&self, before: Option<&Evidence>) -> String {
        /// An entry takes 8192 bytes; who wants to know all asks verify.
        const MOST: usize = 1000;
        let mut words = self.share.clone();
        if let Some(damage) = &self.damage {
            words = format!("{words}: {damage}");
            let end = (0..=MOST.min(words.len())).rev().find(|at| words.is_char_boundary(*at)).unwrap_or(0);
            words.truncate(end);
        } else if !words.starts_with(ALL)
            && let Some(proof) = before.filter(|e| e.ok).and_then(read_in)
        {
            words = format!("{words}{BEFORE}{proof}");
        }
        words
    }
}

/// The entry by which a verify read all of it.
fn read_in(evidence: &Evidence) -> Option<u64> {
    if evidence.detail.starts_with(ALL) {
        return Some(evidence.number);
    }
    evidence.detail.rsplit_once(BEFORE)?.1.parse().ok()
}

/// Is this finding proof that the snapshot is good?
pub fn is_proof(what: &str, evidence: &Evidence) -> bool {
    evidence.ok && (what == REHEARSAL || what == VERIFY && read_in(evidence).is_some())
}

/// Did a verify read all of the snapshot after this entry, and find it good?
pub fn read_after(found: &BTreeMap<String, Evidence>, number: u64) -> bool {
    found.get(VERIFY).is_some_and(|evidence| evidence.ok && read_in(evidence).is_some_and(|read| read > number))
}

/// When a snapshot, finished then, was proven good, if it was: by a quick verify that only repeats an earlier proof, at an
/// unknown time between.
pub fn proven_at(what: &str, evidence: &Evidence, finished: Timestamp) -> Option<Timestamp> {
    let repeats = what == VERIFY && read_in(evidence) != Some(evidence.number);
    is_proof(what, evidence).then_some(if repeats { finished } else { evidence.at })
}

/// The newest finding about a snapshot, with what found it.
pub fn newest<'a>(fold: &'a Fold, snapshot: &str) -> Option<(&'a str, &'a Evidence)> {
    fold.evidence.get(snapshot)?.iter().map(|(what, evidence)| (what.as_str(), evidence)).max_by_key(|(_, e)| e.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(number: u64, ok: bool, detail: &str) -> Evidence {
        Evidence { number, at: Timestamp(0), ok, detail: detail.into() }
    }

    #[test]
    fn a_share_is_no_proof_and_takes_none_back() {
        let found =
            |share: &str, damage: Option<&str>| Finding { ok: damage.is_none(), share: share.into(), damage: damage.map(str::to_owned) };
        let full = evidence(7, true, &found(ALL, None).detail(None));
        let quick = evidence(9, true, &found("objects only", None).detail(Some(&full)));
        assert_eq!(quick.detail, "objects only; read 100 % in log/7");
        let share = evidence(11, true, &found("read 5 %", None).detail(Some(&quick)));
        assert_eq!(share.detail, "read 5 %; read 100 % in log/7");
        for proof in [&full, &quick, &share] {
            assert!(is_proof(VERIFY, proof), "{proof:?}");
        }
        let bad = evidence(12, false, &found("objects only", Some("pack/a: it is not there")).detail(Some(&share)));
        assert_eq!(bad.detail, "objects only: pack/a: it is not there");
        // What was found by reading is taken back by reading all, what was found without by either.
        let rotten = evidence(14, false, &found(ALL, Some("pack/a: blob 3")).detail(None));
        let replaces = |share: &str, before: &Evidence| found(share, None).replaces(Some(before), 20);
        assert!(!replaces("objects only", &rotten) && !replaces("read 5 %", &rotten) && replaces(ALL, &rotten));
        assert!(replaces("objects only", &bad) && found("objects only", Some("x")).replaces(Some(&rotten), 20));
        // What was found bad while it read stays; more damage is always told.
        assert!(!found(ALL, None).replaces(Some(&rotten), 13) && !found("objects only", None).replaces(Some(&bad), 11));
        assert!(found(ALL, Some("x")).replaces(Some(&rotten), 13) && found(ALL, None).replaces(Some(&full), 3));
        // Once it was bad, only reading all of it again is proof.
        let again = evidence(13, true, &found("objects only", None).detail(Some(&bad)));
        for none in [&bad, &again, &evidence(1, true, "read 5 %"), &evidence(1, false, ALL), &evidence(1, true, "")] {
            assert!(!is_proof(VERIFY, none), "{none:?}");
        }
        assert!(is_proof(REHEARSAL, &evidence(1, true, "started in 3 s")) && !is_proof("other", &full));
        assert_eq!(found(ALL, Some(&"é".repeat(5000))).detail(None).len(), 1000);
    }
}
