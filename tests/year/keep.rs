//! What a policy of 14 daily, 8 weekly, 12 monthly and 5 yearly with a window of 14 days keeps, of one snapshot a day: worked
//! out the simple way, to be compared.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;

/// The policy, as the configuration says it.
pub const POLICY: &str = "keep-daily = 14\nkeep-weekly = 8\nkeep-monthly = 12\nkeep-yearly = 5\npitr-window = '14d'\n";
/// Days of the window.
const WINDOW: u32 = 14;

/// The date of a day of the simulation.
pub fn date(day: u32) -> Date {
    Date::constant(2030, 1, 1).saturating_add(jiff::Span::new().days(i64::from(day)))
}

/// Of the days whose snapshots are there, those that stay after `today`.
pub fn kept(there: &BTreeSet<u32>, today: u32) -> BTreeSet<u32> {
    let newest = |period: &dyn Fn(Date) -> (i32, i32), count: usize| -> Vec<u32> {
        let last: BTreeMap<(i32, i32), u32> = there.iter().map(|day| (period(date(*day)), *day)).collect();
        last.into_values().rev().take(count).collect()
    };
    let day = |d: Date| (i32::from(d.year()), i32::from(d.day_of_year()));
    let week = |d: Date| (i32::from(d.iso_week_date().year()), i32::from(d.iso_week_date().week()));
    let month = |d: Date| (i32::from(d.year()), i32::from(d.month()));
    let year = |d: Date| (i32::from(d.year()), 0);
    let all = [newest(&day, 14), newest(&week, 8), newest(&month, 12), newest(&year, 5)];
    all.into_iter().flatten().chain(base(there, today)).collect()
}

/// The day with whose snapshot the window begins.
pub fn base(there: &BTreeSet<u32>, today: u32) -> Option<u32> {
    there.iter().rev().find(|day| **day + WINDOW <= today).copied()
}

/// Segments that are needed: from the window's first snapshot on all, of each older one that in which it stops. `starts`: the
/// segments in which the snapshots of the days start and stop.
pub fn segments(kept: &BTreeSet<u32>, today: u32, starts: &BTreeMap<u32, u64>, archived: impl Iterator<Item = u64>) -> BTreeSet<u64> {
    let from = base(kept, today).or(kept.first().copied()).map_or(0, |day| starts[&day]);
    let own: BTreeSet<u64> = kept.iter().map(|day| starts[day]).collect();
    archived.filter(|no| *no >= from || own.contains(no)).collect()
}
