//! The rules that count: which of the newest, and of which hours, days, weeks, months and years.
//!
//! Who is newer is said by the order of the log. Times say only in which period a snapshot lies, and they come from its
//! writer: so a snapshot *counts* against others, takes the place of an earlier one in its period or makes an older
//! period one too many, only if its time fits its place in the log: not before any that stands before it there. Those
//! with times in the future of `now` are judged among themselves. So a clock that is set wrong, or a time that was made
//! up, keeps its own snapshot in a wrong period, and pushes out no other; what doesn't count can itself be pushed out.
//!
//! Nor does a snapshot that isn't good push out a good one: every rule is applied to all, and again to the good alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::calendar::Period;
use super::policy::{Policy, Rule};
use super::subject::Subject;
use crate::units::Timestamp;

/// One of the snapshots that are judged together, in the order of the log.
#[derive(Clone, Copy)]
pub(super) struct Placed<'a> {
    /// Its place among all of the cluster.
    pub at: usize,
    /// It.
    pub subject: &'a Subject,
    /// Its time lies in the future.
    pub future: bool,
    /// It may push out others by its time.
    pub counts: bool,
}

/// Says of each whether its time counts.
pub(super) fn place<'a>(subjects: impl IntoIterator<Item = (usize, &'a Subject)>, now: Timestamp) -> Vec<Placed<'a>> {
    let mut newest = [None; 2];
    let one = |(at, subject): (usize, &'a Subject)| {
        let future = subject.started_at > now || subject.finished_at > now;
        let [past, ahead] = &mut newest;
        let newest = if future { ahead } else { past };
        let counts = subject.finished_at >= subject.started_at && newest.is_none_or(|newest| subject.started_at >= newest);
        *newest = Some(newest.map_or(subject.started_at, |newest: Timestamp| newest.max(subject.started_at)));
        Placed { at, subject, future, counts }
    };
    subjects.into_iter().map(one).collect()
}

/// The rules of the policy that keep each, by its place among all.
pub(super) fn rules(placed: &[Placed<'_>], policy: &Policy, now: Timestamp) -> BTreeMap<usize, Vec<Rule>> {
    let mut kept: BTreeMap<usize, Vec<Rule>> = BTreeMap::new();
    let mut keep = |at: usize, rule: Rule| kept.entry(at).or_default().push(rule);
    last(placed, policy.last, &mut keep);
    for (period, count) in &policy.periods {
        periods(placed, *period, *count, &mut keep);
    }
    if let Some(within) = policy.within {
        // From the newest on, not from now: where no backups are taken any more, none goes.
        let newest = placed.iter().filter(|p| !p.future && p.counts && p.subject.is_good()).map(|p| p.subject.started_at).max();
        let span = i64::try_from(within.as_micros()).unwrap_or(i64::MAX);
        let from = Timestamp(newest.unwrap_or(now).min(now).0.saturating_sub(span));
        placed.iter().filter(|p| p.subject.started_at >= from).for_each(|p| keep(p.at, Rule::Within(within)));
    }
    for p in placed {
        for label in &policy.labels {
            let found = p.subject.labels.get(&label.key);
            if found.is_some_and(|found| label.value.as_ref().is_none_or(|value| value == found)) {
                keep(p.at, Rule::Label(label.clone()));
            }
        }
    }
    kept
}

/// The newest of all, and the newest good ones.
fn last(placed: &[Placed<'_>], count: u32, keep: &mut dyn FnMut(usize, Rule)) {
    let (mut all, mut good) = (0, 0);
    for p in placed.iter().rev() {
        if all < count || (p.subject.is_good() && good < count) {
            keep(p.at, Rule::Last(count));
        }
        all = all.saturating_add(1);
        good += u32::from(p.subject.is_good() && good < count);
    }
}

/// The newest of each of so many periods: of those that have a good one, the newest good one; and of those that have any,
/// the newest, unless a good one of the period stays (whose time fits).
fn periods(placed: &[Placed<'_>], period: Period, count: u32, keep: &mut dyn FnMut(usize, Rule)) {
    let mut with_good: BTreeSet<(bool, i64)> = BTreeSet::new();
    for only_good in [true, false] {
        // What stands behind in the log, of the past and of the future: the periods in which something counts.
        let mut behind = [BTreeSet::new(), BTreeSet::new()];
        for p in placed.iter().rev() {
            let [past, ahead] = &mut behind;
            let behind = if p.future { ahead } else { past };
            let (good, number) = (p.subject.is_good(), period.number(p.subject.started_at));
            let enough = || behind.range((Bound::Excluded(number), Bound::Unbounded)).take(count as usize).count() >= count as usize;
            let better = || !only_good && with_good.contains(&(p.future, number));
            if good == only_good && !behind.contains(&number) && !better() && !enough() {
                keep(p.at, Rule::Period(period, period.name(p.subject.started_at)));
                if good && p.counts {
                    with_good.insert((p.future, number));
                }
            }
            if p.counts && (good || !only_good) {
                behind.insert(number);
            }
        }
    }
}
