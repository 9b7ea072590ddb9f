//! The keys of a retention policy: `keep-*` and `pitr-window`, at the top, in `[cluster.X]`, as variables and as flags.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::units::parse_duration;

/// A label that snapshots are kept by: `key=value`, or `key` with whatever value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeepLabel {
    /// The label's name.
    pub key: String,
    /// Its value; `None`: any.
    pub value: Option<String>,
}

impl FromStr for KeepLabel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value.to_owned())));
        if key.is_empty() || text.chars().any(char::is_control) {
            return Err(format!("expected a label such as `why=release`, or its name alone, found {text:?}"));
        }
        Ok(KeepLabel { key: key.to_owned(), value })
    }
}

impl fmt::Display for KeepLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

/// What one source says of the policy. A number of 0 takes back what a lower source says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RetentionKeys {
    /// `keep-last`.
    pub last: Option<u32>,
    /// `keep-hourly`.
    pub hourly: Option<u32>,
    /// `keep-daily`.
    pub daily: Option<u32>,
    /// `keep-weekly`.
    pub weekly: Option<u32>,
    /// `keep-monthly`.
    pub monthly: Option<u32>,
    /// `keep-yearly`.
    pub yearly: Option<u32>,
    /// `keep-within`.
    pub within: Option<Duration>,
    /// `keep-label`.
    pub labels: Option<Vec<KeepLabel>>,
    /// `keep-min`.
    pub min: Option<u32>,
    /// `pitr-window`.
    pub pitr_window: Option<Duration>,
}

impl RetentionKeys {
    /// These keys, and those of `lower` where these are unset.
    pub(super) fn over(&self, lower: &RetentionKeys) -> RetentionKeys {
        RetentionKeys {
            last: self.last.or(lower.last),
            hourly: self.hourly.or(lower.hourly),
            daily: self.daily.or(lower.daily),
            weekly: self.weekly.or(lower.weekly),
            monthly: self.monthly.or(lower.monthly),
            yearly: self.yearly.or(lower.yearly),
            within: self.within.or(lower.within),
            labels: self.labels.as_ref().or(lower.labels.as_ref()).cloned(),
            min: self.min.or(lower.min),
            pitr_window: self.pitr_window.or(lower.pitr_window),
        }
    }

    /// Is there anything but `keep-min`, which by itself asks for nothing?
    pub fn is_policy(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        let spans = [self.within, self.pitr_window];
        counts.iter().flatten().any(|n| *n > 0)
            || spans.iter().flatten().any(|span| !span.is_zero())
            || self.labels.as_ref().is_some_and(|labels| !labels.is_empty())
    }
}

/// A number of snapshots.
pub fn read_count(text: &str) -> Result<u32, String> {
    text.trim().parse().map_err(|_| format!("expected a number of snapshots, found {text:?}"))
}

/// A span such as `14d`. It must have a unit: who writes `14` means days, and a bare number is seconds elsewhere.
pub fn read_span(text: &str) -> Result<Duration, String> {
    let bare = text.trim().bytes().all(|b| b.is_ascii_digit()) && text.trim() != "0";
    parse_duration(text)
        .filter(|_| !bare)
        .ok_or_else(|| format!("expected a time with its unit such as `14d`, `2w` or `36h`, found {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units_and_labels_have_names() {
        assert_eq!(read_span("14d"), Ok(Duration::from_secs(14 * 86_400)));
        assert_eq!((read_span("2 w"), read_span("0")), (Ok(Duration::from_secs(14 * 86_400)), Ok(Duration::ZERO)));
        for bad in ["14", "", "x", "-1d", "14 days"] {
            assert!(read_span(bad).unwrap_err().contains("14d"), "{bad}");
        }
        let label = |text: &str| text.parse::<KeepLabel>().map(|l| (l.key, l.value));
        assert_eq!(label("why=a=b"), Ok(("why".into(), Some("a=b".into()))));
        assert_eq!(label("why"), Ok(("why".into(), None)));
        assert!(label("=x").is_err() && label("").is_err());
        assert!(read_count("-1").is_err() && read_count("7") == Ok(7));
    }

    #[test]
    fn a_lower_source_fills_what_is_unset() {
        let upper = RetentionKeys { daily: Some(0), last: Some(2), ..RetentionKeys::default() };
        let lower = RetentionKeys { daily: Some(14), weekly: Some(8), ..RetentionKeys::default() };
        let both = upper.over(&lower);
        assert_eq!((both.last, both.daily, both.weekly), (Some(2), Some(0), Some(8)));
        assert!(both.is_policy() && !RetentionKeys { min: Some(3), daily: Some(0), ..RetentionKeys::default() }.is_policy());
    }
}
