//! Hours, days, weeks, months and years, in UTC as in snapshots' ids: the same everywhere, and no hour is there twice.

use jiff::tz::TimeZone;

use crate::units::Timestamp;

/// A kind of period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week, from Monday on (ISO 8601).
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Period {
    /// `hourly`, …: as in `keep-hourly`.
    pub fn adverb(self) -> &'static str {
        match self {
            Period::Hour => "hourly",
            Period::Day => "daily",
            Period::Week => "weekly",
            Period::Month => "monthly",
            Period::Year => "yearly",
        }
    }

    /// The number of the period in which a time lies: a later period has a higher one.
    pub(super) fn number(self, time: Timestamp) -> i64 {
        const HOUR: i64 = 3_600_000_000;
        let day = time.0.div_euclid(24 * HOUR);
        match self {
            Period::Hour => time.0.div_euclid(HOUR),
            Period::Day => day,
            // 1970-01-01 was a Thursday.
            Period::Week => (day + 3).div_euclid(7),
            Period::Month => {
                let civil = civil(time);
                i64::from(civil.year()) * 12 + i64::from(civil.month())
            }
            Period::Year => civil(time).year().into(),
        }
    }

    /// What people call it: `2026-11-24 13h`, `2026-11-24`, `2026-W48`, `2026-11`, `2026`.
    pub(super) fn name(self, time: Timestamp) -> String {
        let civil = civil(time);
        match self {
            Period::Hour => civil.strftime("%Y-%m-%d %Hh").to_string(),
            Period::Day => civil.strftime("%Y-%m-%d").to_string(),
            Period::Week => civil.strftime("%G-W%V").to_string(),
            Period::Month => civil.strftime("%Y-%m").to_string(),
            Period::Year => civil.strftime("%Y").to_string(),
        }
    }
}

/// The calendar's date and time in UTC; what lies beyond the calendar is its last day: anybody may have written it.
fn civil(time: Timestamp) -> jiff::civil::DateTime {
    let beyond = if time.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    TimeZone::UTC.to_datetime(jiff::Timestamp::from_microsecond(time.0).unwrap_or(beyond))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn periods_have_names() {
        let names = |text: &str| {
            let time: Timestamp = text.parse().unwrap();
            [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year].map(|p| p.name(time)).join(", ")
        };
        assert_eq!(names("2026-11-24T13:59:59.9Z"), "2026-11-24 13h, 2026-11-24, 2026-W48, 2026-11, 2026");
        // The week of a year's end belongs to the year of its Thursday.
        assert_eq!(names("2027-01-01T00:00:00Z"), "2027-01-01 00h, 2027-01-01, 2026-W53, 2027-01, 2027");
        for extreme in [i64::MIN, i64::MAX] {
            for period in [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year] {
                assert!(!period.name(Timestamp(extreme)).is_empty());
                let _ = period.number(Timestamp(extreme));
            }
        }
    }

    proptest! {
        #[test]
        fn numbers_go_up_with_time_and_fit_the_names(a in -60_000_000_000_000_000i64..60_000_000_000_000_000, gap in 0i64..10_000_000_000_000) {
            let (a, b) = (Timestamp(a), Timestamp(a + gap));
            for period in [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year] {
                prop_assert!(period.number(a) <= period.number(b));
                prop_assert_eq!(period.number(a) == period.number(b), period.name(a) == period.name(b), "{:?}", period);
            }
        }
    }
}
