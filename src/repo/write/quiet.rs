//! How long what is stored will probably be needed, as far as that can be told: blobs that will die together shall lie
//! together, so that packs die whole (docs/decisions/014).

use crate::repo::log::{Fold, Session};
use crate::units::{SessionId, Timestamp};

/// How quiet the place of a blob had been before the blob came: what changed a day after it changed last will probably
/// change again tomorrow, what was quiet for months probably won't.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Quiet {
    /// Nothing is known: it is new.
    New = 0,
    /// It had been there for two days at most; or nothing but older snapshots needs the blob any more.
    Days = 1,
    /// Ten days at most.
    Week = 2,
    /// Longer.
    Long = 3,
}

/// µs of a day.
const DAY: i64 = 86_400_000_000;

impl Quiet {
    /// How many there are.
    pub const COUNT: usize = 4;

    /// By how long the blob that lay there before, or that is to be copied, has been there, in µs: ages below zero (two
    /// clocks) count as none. A margin of a day covers backups that don't come at the same hour.
    pub fn of_age(age: i64) -> Quiet {
        if age <= 2 * DAY {
            Quiet::Days
        } else if age <= 10 * DAY {
            Quiet::Week
        } else {
            Quiet::Long
        }
    }

    /// Of a blob that this session has stored, now that it is `now`. What a prune has copied is older than its pack: it
    /// had outlived most of what lay beside it.
    pub fn of_session(session: &Session, now: Timestamp) -> Quiet {
        let by_age = Quiet::of_age(now.0.saturating_sub(session.begun_at.0));
        if session.purpose == "prune" { by_age.max(Quiet::Week) } else { by_age }
    }

    /// The same by the session's id, "now" being when the newest entry of the log was written.
    pub fn in_fold(fold: &Fold, session: &SessionId) -> Quiet {
        fold.sessions.get(session).map_or(Quiet::New, |s| Quiet::of_session(s, fold.newest_time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_classes() {
        let cases = [(i64::MIN, Quiet::Days), (-1, Quiet::Days), (0, Quiet::Days), (2 * DAY, Quiet::Days), (2 * DAY + 1, Quiet::Week)];
        let more = [(10 * DAY, Quiet::Week), (10 * DAY + 1, Quiet::Long), (i64::MAX, Quiet::Long)];
        for (age, class) in cases.into_iter().chain(more) {
            assert_eq!(Quiet::of_age(age), class, "{age}");
        }
        assert_eq!(Quiet::Long as usize + 1, Quiet::COUNT);
    }

    proptest::proptest! {
        #[test]
        fn what_is_older_is_no_less_quiet(a: i64, b: i64) {
            proptest::prop_assert!(Quiet::of_age(a.min(b)) <= Quiet::of_age(a.max(b)));
        }
    }
}
