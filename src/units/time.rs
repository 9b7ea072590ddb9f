//! Instants: microseconds since 1970 inside, RFC 3339 outside.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use jiff::tz::{AmbiguousOffset, TimeZone};

/// Why a text is no time that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTimeError {
    /// No zone: the same text would mean different instants for the user, this host and the server.
    #[error("{text:?} names no time zone: in UTC it is {utc}, in this host's zone {local}")]
    NoZone {
        /// As given.
        text: String,
        /// The instant if UTC was meant.
        utc: String,
        /// The instant if this host's zone was meant.
        local: String,
    },
    /// The clock was set back over it: it was twice.
    #[error("{text:?} was twice, at offset {before} and, after the clock was set back, at {after}: give the offset that is meant")]
    Twice {
        /// As given.
        text: String,
        /// The offset before the clock was set.
        before: String,
        /// The offset after it.
        after: String,
    },
    /// The clock was set forward over it: it never was.
    #[error("{text:?} never was: there the clock was set forward, from offset {before} to {after}; give the offset that is meant")]
    Never {
        /// As given.
        text: String,
        /// The offset before the clock was set.
        before: String,
        /// The offset after it.
        after: String,
    },
    /// Not a time at all.
    #[error("{0:?} is not a time such as 2026-11-24T13:30:00Z or \"2026-11-24 13:30:00+01\"")]
    Malformed(String),
}

/// An instant, in microseconds since 1970-01-01 UTC (the precision of PostgreSQL's `timestamptz`).
///
/// Printed as RFC 3339 in UTC. Read from RFC 3339, and from PostgreSQL's spelling with an offset or a zone's name;
/// a text without a zone is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's clock starts (`POSTGRES_EPOCH_JDATE`).
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

impl Timestamp {
    /// The host's clock.
    pub fn now() -> Self {
        Self::from_system(SystemTime::now())
    }

    /// From the host's clock.
    pub fn from_system(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Timestamp(i64::try_from(after.as_micros()).unwrap_or(i64::MAX)),
            Err(before) => Timestamp(-i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX)),
        }
    }

    /// From PostgreSQL's `TimestampTz`: microseconds since 2000-01-01 UTC.
    pub fn from_postgres(micros: i64) -> Self {
        Timestamp(micros.saturating_add(POSTGRES_EPOCH))
    }

    /// Seconds from `earlier` to this; negative if `earlier` is later.
    pub fn seconds_since(self, earlier: Timestamp) -> f64 {
        (self.0.saturating_sub(earlier.0)) as f64 / 1e6
    }

    fn to_jiff(self) -> jiff::Timestamp {
        // What lies beyond is shown as the last time that can be: anybody may have written it.
        let beyond = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        // Not from_microsecond: that refuses the last second but for its beginning.
        let (second, micros) = (self.0.div_euclid(1_000_000), self.0.rem_euclid(1_000_000));
        i32::try_from(micros * 1000).ok().and_then(|nanos| jiff::Timestamp::new(second, nanos).ok()).unwrap_or(beyond)
    }

    /// `20261124-133000`, UTC: the beginning of a snapshot's id.
    pub fn compact(self) -> String {
        self.to_jiff().to_zoned_datetime(TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string()
    }

    /// `2026-11-24 13:30:00+00`, as PostgreSQL takes it in `recovery_target_time`, with microseconds where there are any.
    pub fn postgres(self) -> String {
        let zoned = self.to_jiff().to_zoned_datetime(TimeZone::UTC);
        let text = zoned.strftime("%Y-%m-%d %H:%M:%S%.f").to_string();
        format!("{text}+00")
    }

    /// `2026-11-24 13:30:00 UTC`, to the second, for people.
    pub fn for_people(self) -> String {
        self.to_jiff().to_zoned_datetime(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
    }

    /// `2026-11-24 13:30:00 GMT`: `Last-Modified` in a backup_manifest.
    pub fn manifest(self) -> String {
        self.to_jiff().to_zoned_datetime(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S GMT").to_string()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_jiff().to_string())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Self, ParseTimeError> {
        let malformed = || ParseTimeError::Malformed(text.chars().take(80).collect());
        let text_ = text.trim();
        let (date_time, zone) = split_zone(text_).ok_or_else(malformed)?;
        let civil: jiff::civil::DateTime = date_time.parse().map_err(|_| malformed())?;
        let instant = |zone: TimeZone| {
            let text = text_.to_owned();
            let zoned = zone.to_ambiguous_zoned_datetime(civil);
            match zoned.offset() {
                AmbiguousOffset::Unambiguous { .. } => {
                    zoned.unambiguous().map(|z| Timestamp(z.timestamp().as_microsecond())).map_err(|_| malformed())
                }
                AmbiguousOffset::Fold { before, after } => {
                    Err(ParseTimeError::Twice { text, before: before.to_string(), after: after.to_string() })
                }
                AmbiguousOffset::Gap { before, after } => {
                    Err(ParseTimeError::Never { text, before: before.to_string(), after: after.to_string() })
                }
            }
        };
        match zone {
            Some(zone) => instant(read_zone(zone).ok_or_else(malformed)?),
            None => Err(ParseTimeError::NoZone {
                text: text_.to_owned(),
                utc: instant(TimeZone::UTC)?.to_string(),
                local: instant(TimeZone::system()).map_or_else(|e| e.to_string(), |t| t.to_string()),
            }),
        }
    }
}

/// Date and time, and what stands behind them: `None` where nothing does.
fn split_zone(text: &str) -> Option<(&str, Option<&str>)> {
    if !text.is_ascii() || text.len() < 10 {
        return None;
    }
    let time_at = text.get(10..)?;
    let zone_at = time_at.char_indices().skip(1).find(|(_, c)| !(c.is_ascii_digit() || matches!(c, ':' | '.' | ','))).map(|(i, _)| 10 + i);
    match zone_at {
        Some(at) => {
            let (date_time, zone) = text.split_at(at);
            Some((date_time.trim_end(), Some(zone.trim())))
        }
        None => Some((text, None)),
    }
}

/// `Z`, `UTC`, `+01`, `-0330`, `+05:45`, `Europe/Berlin`.
fn read_zone(zone: &str) -> Option<TimeZone> {
    if zone.eq_ignore_ascii_case("z") || zone.eq_ignore_ascii_case("utc") || zone.eq_ignore_ascii_case("gmt") {
        return Some(TimeZone::UTC);
    }
    let Some(sign) = zone.strip_prefix('+').map(|_| 1).or_else(|| zone.strip_prefix('-').map(|_| -1)) else {
        return zone.contains('/').then(|| TimeZone::get(zone).ok()).flatten();
    };
    let digits: String = zone.get(1..)?.chars().filter(|c| *c != ':').collect();
    if !digits.bytes().all(|b| b.is_ascii_digit()) || !matches!(digits.len(), 1 | 2 | 4 | 6) {
        return None;
    }
    let part = |range: std::ops::Range<usize>| digits.get(range).and_then(|t| t.parse::<i32>().ok());
    let hours = if digits.len() == 1 { part(0..1)? } else { part(0..2)? };
    let (minutes, seconds) = (part(2..4).unwrap_or(0), part(4..6).unwrap_or(0));
    if hours > 15 || minutes > 59 || seconds > 59 {
        return None;
    }
    jiff::tz::Offset::from_seconds(sign * (hours * 3600 + minutes * 60 + seconds)).ok().map(TimeZone::fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_can_be_shown_and_read_again() {
        for text in
            ["9999-12-30 22:00:00.999998+00", "9999-12-30 22:00:00+00", "9999-12-30 21:59:59.999999+00", "1969-12-31 23:59:59.999999+00"]
        {
            let time: Timestamp = text.parse().unwrap();
            assert_eq!(time.to_string().parse::<Timestamp>(), Ok(time), "{text}");
        }
    }

    #[test]
    fn times_with_a_zone_are_read() {
        for (text, rfc) in [
            ("2026-11-24T13:30:00Z", "2026-11-24T13:30:00Z"),
            ("2026-11-24 13:30:00+01", "2026-11-24T12:30:00Z"),
            ("2026-11-24 13:30:00.25 -03:30", "2026-11-24T17:00:00.25Z"),
            ("2026-07-24 13:30:00 Europe/Berlin", "2026-07-24T11:30:00Z"),
            ("2026-11-24 13:30:00.123456 UTC", "2026-11-24T13:30:00.123456Z"),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), rfc, "{text}");
        }
    }

    #[test]
    fn times_beyond_all_calendars_are_shown_as_the_last_one() {
        for (time, shown) in [(i64::MAX, "9999-12-30T22:00:00.999999"), (i64::MIN, "-009999-01-02T01:59:59")] {
            assert!(Timestamp(time).to_string().starts_with(shown), "{}", Timestamp(time));
        }
        let last: Timestamp = "9999-12-30 22:00:00.999999Z".parse().unwrap();
        assert_eq!(last.to_string().parse(), Ok(last));
    }

    #[test]
    fn times_without_a_zone_are_refused_with_both_readings() {
        let error = "2026-11-24 13:30:00".parse::<Timestamp>().unwrap_err();
        assert!(matches!(&error, ParseTimeError::NoZone { utc, .. } if utc == "2026-11-24T13:30:00Z"), "{error}");
        for bad in ["", "yesterday", "2026-11-24 13:30:00 Nowhere/Land", "2026-13-01 00:00:00Z", "2026-11-24 13:30:00+99"] {
            assert!(matches!(bad.parse::<Timestamp>(), Err(ParseTimeError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn times_that_were_twice_or_never_are_refused_with_both_offsets() {
        let error = |text: &str| text.parse::<Timestamp>().unwrap_err();
        let offsets = || ("+02".to_owned(), "+01".to_owned());
        let text = "2026-10-25 02:30:00 Europe/Berlin".to_owned();
        let (before, after) = offsets();
        assert_eq!(error(&text), ParseTimeError::Twice { text: text.clone(), before, after });
        let text = "2026-03-29 02:30:00 Europe/Berlin".to_owned();
        let (after, before) = offsets();
        assert_eq!(error(&text), ParseTimeError::Never { text: text.clone(), before, after });
        assert!("2026-10-25 02:30:00+01".parse::<Timestamp>().is_ok());
    }

    #[test]
    fn postgres_time_starts_in_2000() {
        assert_eq!(Timestamp::from_postgres(0).to_string(), "2000-01-01T00:00:00Z");
        assert_eq!(Timestamp::from_postgres(1_500_000).postgres(), "2000-01-01 00:00:01.5+00");
        assert_eq!(Timestamp::from_postgres(0).compact(), "20000101-000000");
    }
}
