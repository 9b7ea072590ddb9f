//! What old pages cost, and what they are good for: is a changed extent stored as its changed pages *against their old
//! images*, or as the changed pages *alone*?
//!
//! Against old images a patch is several times smaller, and the old images must be read first: of every changed extent the
//! whole one that was stored, a request and some 60 KB. Pages alone need hashes of the old pages, which this host keeps in
//! its cache. So it is dollars and time for reading against dollars for storing. The figures: docs/s3-cost.md.

use std::time::Duration;

use crate::codec::Way;

/// Dollars for keeping a gigabyte for a month (S3 Standard, us-east-1, list price of November 2025).
const STORAGE: f64 = 0.023;
/// Dollars for a GET (the same list: 0.0004 for a thousand).
const GET: f64 = 0.000_000_4;
/// What it is worth that a backup ends an hour earlier, in dollars. Policy.
const HOUR: f64 = 1.0;
/// For how many months a patch is kept, about. Policy.
const MONTHS: f64 = 1.0;
/// Until something large was read, a service is taken for this fast, in bytes a second.
const USUAL_RATE: u64 = 50_000_000;
const GB: f64 = 1e9;

/// What reading costs in a repository.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Costs {
    /// From a request to its answer, as measured in this run.
    pub latency: Duration,
    /// Bytes a second, if it was measured.
    pub rate: Option<u64>,
    /// How many requests run at once.
    pub at_once: usize,
    /// Dollars for a request.
    pub request: f64,
    /// Dollars for a gigabyte that leaves the store.
    pub egress: f64,
}

impl Costs {
    /// A service that charges like Amazon, or one at an address of its own, which charges for what is configured alone.
    pub fn of_service(latency: Option<Duration>, rate: Option<u64>, at_once: usize, egress: f64, is_amazon: bool) -> Self {
        let latency = latency.unwrap_or(Duration::from_millis(20));
        Costs { latency, rate, at_once: at_once.max(1), request: if is_amazon { GET } else { 0.0 }, egress }
    }

    /// Dollars for reading so many bytes by one request, the time counted in.
    fn of_reading(&self, bytes: f64) -> (f64, f64) {
        let seconds = self.latency.as_secs_f64() / self.at_once as f64 + bytes / self.rate.unwrap_or(USUAL_RATE).max(1) as f64;
        (self.request + bytes / GB * self.egress, seconds / 3600.0 * HOUR)
    }
}

/// What there is to read and to save, for one changed extent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Facts {
    /// Bytes of the stored extent that would be read.
    pub reference: f64,
    /// Bytes by which the patch is smaller if it was.
    pub saved: f64,
}

impl Facts {
    /// As measured with pgbench and jsonb rows, 4 % of the pages changed in 36 % of the extents (docs/s3-cost.md).
    pub const USUAL: Facts = Facts { reference: 61_000.0, saved: 6_200.0 };
}

/// A codec for changed extents, and why it is that one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// How changed pages are stored.
    pub way: Way,
    /// Why, in a line.
    pub why: String,
}

impl Choice {
    /// A word for the codec.
    pub fn word(&self) -> &'static str {
        match self.way {
            Way::AgainstOld => "pages against their old images",
            Way::Alone => "pages alone",
        }
    }
}

/// Which codec costs less. `None` for costs: a local disk.
pub fn choose(costs: Option<&Costs>, facts: &Facts) -> Choice {
    let Some(costs) = costs else {
        return Choice { way: Way::AgainstOld, why: "old pages are read from a local disk, which costs next to nothing".into() };
    };
    let (dollars, time) = costs.of_reading(facts.reference);
    let kept = facts.saved / GB * STORAGE * MONTHS;
    let way = if dollars + time > kept { Way::Alone } else { Way::AgainstOld };
    let million = |dollars: f64| dollars * 1e6;
    let why = format!(
        "reading the old pages of a million changed extents would cost ${:.2}, and ${:.2} for the time (a request takes {:.1} ms, {} at once); \
         keeping what that saves, ${:.2} a month",
        million(dollars),
        million(time),
        costs.latency.as_secs_f64() * 1000.0,
        costs.at_once,
        million(kept)
    );
    Choice { way, why }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn costs(millis: u64, rate: u64, egress: f64, is_amazon: bool) -> Costs {
        Costs::of_service(Some(Duration::from_millis(millis)), Some(rate), 2, egress, is_amazon)
    }

    #[test]
    fn the_cheaper_codec_is_chosen() {
        let way = |costs: Option<&Costs>| choose(costs, &Facts::USUAL).way;
        assert_eq!(way(None), Way::AgainstOld);
        for (case, costs, expected) in [
            ("the same region: a request alone costs more than months of storage", costs(15, 90_000_000, 0.0, true), Way::Alone),
            ("out of the region", costs(15, 90_000_000, 0.09, true), Way::Alone),
            ("a service of one's own in the same room", costs(0, 2_000_000_000, 0.0, false), Way::AgainstOld),
            ("a service of one's own behind a slow line", costs(50, 10_000_000, 0.0, false), Way::Alone),
            ("a service of one's own whose traffic is paid for", costs(0, 2_000_000_000, 0.01, false), Way::Alone),
        ] {
            assert_eq!(way(Some(&costs)), expected, "{case}");
        }
    }

    #[test]
    fn the_reason_is_told() {
        let choice = choose(Some(&costs(15, 90_000_000, 0.09, true)), &Facts::USUAL);
        assert!(choice.why.contains("$5.89") && choice.why.contains("15.0 ms") && choice.why.contains("$0.14 a month"), "{}", choice.why);
    }

    proptest! {
        #[test]
        fn dearer_reading_never_makes_one_read(millis in 0u64..500, rate in 1u64..4_000_000_000, egress in 0.0f64..0.2, saved in 0.0f64..200_000.0) {
            let facts = Facts { saved, ..Facts::USUAL };
            let here = costs(millis, rate, egress, false);
            if choose(Some(&here), &facts).way == Way::Alone {
                for dearer in [costs(millis + 10, rate, egress, false), costs(millis, rate, egress + 0.01, false), costs(millis, rate, egress, true)] {
                    prop_assert_eq!(choose(Some(&dearer), &facts).way, Way::Alone);
                }
            }
        }
    }
}
