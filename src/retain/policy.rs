//! A retention policy, and the reasons that it gives.

use std::fmt;
use std::time::Duration;

use super::calendar::Period;
use crate::host::config::{KeepLabel, RetentionKeys};
use crate::units::KeyId;

/// What is to be kept of one cluster. A snapshot stays if any rule keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// So many of the newest.
    pub last: u32,
    /// So many hours, days, weeks, months, years that have one, and of each of them the newest.
    pub periods: Vec<(Period, u32)>,
    /// All that are not older than the newest by more than this.
    pub within: Option<Duration>,
    /// All with one of these labels.
    pub labels: Vec<KeepLabel>,
    /// Never fewer good ones than this.
    pub min: u32,
    /// Any point of so long until now stays restorable; older snapshots keep just the WAL that makes them consistent.
    /// `None`: all that stay keep their WAL.
    pub pitr_window: Option<Duration>,
}

impl Policy {
    /// How many good snapshots stay where nothing is configured.
    pub const DEFAULT_MIN: u32 = 1;

    /// Is there a rule by which snapshots are chosen? Without one none is forgotten.
    pub fn chooses(&self) -> bool {
        self.last > 0 || self.periods.iter().any(|(_, n)| *n > 0) || self.within.is_some() || !self.labels.is_empty()
    }
}

impl From<&RetentionKeys> for Policy {
    fn from(keys: &RetentionKeys) -> Self {
        let periods = [
            (Period::Hour, keys.hourly),
            (Period::Day, keys.daily),
            (Period::Week, keys.weekly),
            (Period::Month, keys.monthly),
            (Period::Year, keys.yearly),
        ];
        Policy {
            last: keys.last.unwrap_or(0),
            periods: periods.into_iter().filter_map(|(period, n)| Some((period, n.filter(|n| *n > 0)?))).collect(),
            within: keys.within.filter(|span| !span.is_zero()),
            labels: keys.labels.clone().unwrap_or_default(),
            min: keys.min.unwrap_or(Self::DEFAULT_MIN),
            pitr_window: keys.pitr_window.filter(|span| !span.is_zero()),
        }
    }
}

/// A span for people: `14d`, `36h`, `90min`, `5s`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    for (unit, name) in [(86_400, "d"), (3600, "h"), (60, "min")] {
        if seconds >= unit && seconds.is_multiple_of(unit) {
            return format!("{}{name}", seconds / unit);
        }
    }
    format!("{seconds}s")
}

/// The policy as it is written: `keep-daily 14, pitr-window 7d`.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        parts.extend((self.last > 0).then(|| format!("keep-last {}", self.last)));
        parts.extend(self.periods.iter().map(|(period, n)| format!("keep-{} {n}", period.adverb())));
        parts.extend(self.within.map(|within| format!("keep-within {}", span(within))));
        parts.extend(self.labels.iter().map(|label| format!("keep-label {label}")));
        parts.push(format!("keep-min {}", self.min));
        parts.extend(self.pitr_window.map(|window| format!("pitr-window {}", span(window))));
        f.write_str(&parts.join(", "))
    }
}

/// Why a snapshot stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// One of the newest so many.
    Last(u32),
    /// The newest of an hour, day, … whose name this is.
    Period(Period, String),
    /// Not older than the newest by more than this.
    Within(Duration),
    /// It has this label.
    Label(KeepLabel),
    /// It would stay by this rule if the snapshots of that key, another host's, weren't there: for some days a single
    /// host can't push out what others stored.
    WithoutHost(Box<Rule>, KeyId),
    /// One of so many that always stay.
    Min(u32),
    /// The newest that a verify of all data or a rehearsal found good.
    Proven,
    /// The point-in-time window begins with it.
    WindowBase,
    /// Somebody holds it.
    Held(String),
    /// The policy has no rule by which snapshots would be chosen.
    NoRule,
    /// It was not named.
    NotNamed,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Last(n) => write!(f, "last {n}"),
            Rule::Period(period, name) => write!(f, "{} {name}", period.adverb()),
            Rule::Within(within) => write!(f, "within {}", span(*within)),
            Rule::Label(label) => write!(f, "label {label}"),
            Rule::WithoutHost(rule, key) => write!(f, "{rule}, not counting key {key}"),
            Rule::Min(n) => write!(f, "keep-min {n}"),
            Rule::Proven => f.write_str("last verified good"),
            Rule::WindowBase => f.write_str("pitr-window: base of the window"),
            Rule::Held(reason) => write!(f, "held: {reason}"),
            Rule::NoRule => f.write_str("no keep rule in the policy"),
            Rule::NotNamed => f.write_str("not named"),
        }
    }
}
