//! The laws of retention, and attempts to break its safety rules.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::host::config::KeepLabel;
use crate::repo::log::Branch;
use crate::units::{KeyId, Lsn, TimelineId, Timestamp};

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

/// The `n`-th snapshot of the log, taken at a time by the host whose key has this number.
fn subject(n: usize, host: u8, at: Timestamp) -> Subject {
    Subject {
        id: format!("s{n}"),
        commits: vec![n as u64 * 10],
        kind: "physical".into(),
        key: KeyId([host; 16]),
        started_at: at,
        finished_at: Timestamp(at.0 + 60_000_000),
        labels: BTreeMap::new(),
        flaws: Vec::new(),
        proven: false,
        held: None,
        wal: Some(SubjectWal {
            system_identifier: 7,
            timeline: TimelineId(1),
            ancestry: Vec::new(),
            stop_lsn: Lsn((n as u64 + 1) << 24),
            copied: false,
            window_only: false,
        }),
    }
}

/// One a day at 01:00, the last one on this day.
fn daily(count: usize, last: &str) -> Vec<Subject> {
    let last = time(&format!("{last}T01:00:00Z"));
    (0..count).map(|n| subject(n, 1, Timestamp(last.0 - (count - 1 - n) as i64 * DAY))).collect()
}

fn policy() -> Policy {
    Policy { last: 0, periods: Vec::new(), within: None, labels: Vec::new(), min: 1, pitr_window: None }
}

fn gfs() -> Policy {
    Policy { periods: vec![(Period::Day, 14), (Period::Week, 8), (Period::Month, 12), (Period::Year, 5)], ..policy() }
}

fn kept(plan: &Plan) -> Vec<&str> {
    plan.staying().map(|d| d.id.as_str()).collect()
}

fn reasons(plan: &Plan, id: &str) -> Vec<String> {
    plan.decisions.iter().find(|d| d.id == id).unwrap().keeps.iter().map(ToString::to_string).collect()
}

const DAMAGED: Flaw = Flaw::DamagedPages(3);

#[test]
fn grandfather_father_son_as_people_write_it() {
    // Three years of daily snapshots, forgotten each day as they come.
    let all = daily(3 * 365, "2026-11-24");
    let mut live: Vec<Subject> = Vec::new();
    for snapshot in &all {
        live.push(snapshot.clone());
        let plan = plan(&live, &gfs(), Timestamp(snapshot.started_at.0 + 2 * HOUR));
        let stay: BTreeSet<String> = plan.staying().map(|d| d.id.clone()).collect();
        live.retain(|s| stay.contains(&s.id));
    }
    let now = time("2026-11-24T03:00:00Z");
    let at_once = plan(&all, &gfs(), now);
    let day_by_day = plan(&live, &gfs(), now);
    assert_eq!(kept(&at_once), kept(&day_by_day), "whether it is run each day or once makes no difference");
    let count = |adverb: &str| {
        let of = |d: &Decision| d.keeps.iter().any(|rule| rule.to_string().starts_with(adverb));
        at_once.staying().filter(|d| of(d)).count()
    };
    assert_eq!((count("daily"), count("weekly"), count("monthly"), count("yearly")), (14, 8, 12, 4));
    // The newest of each: Sundays, the last of months, the last of years.
    let days_of: Vec<String> = at_once.staying().map(|d| d.started_at.compact()[..8].to_owned()).collect();
    let expected = [
        "20231231", "20241231", "20251231", "20260131", "20260228", "20260331", "20260430", "20260531", "20260630", "20260731", "20260831",
        "20260930", "20261011", "20261018", "20261025", "20261031", "20261101", "20261108", "20261111",
    ];
    assert_eq!(days_of[..expected.len()], expected);
    assert_eq!(reasons(&at_once, "s1094"), ["daily 2026-11-24", "weekly 2026-W48", "monthly 2026-11", "yearly 2026", "keep-min 1"]);
}

#[test]
fn each_rule_keeps_what_it_says() {
    let mut all = daily(10, "2026-11-24");
    all[2].labels.insert("why".into(), "release".into());
    all[3].labels.insert("why".into(), "whim".into());
    // Two more on the last day.
    all.push(subject(10, 1, time("2026-11-24T02:10:00Z")));
    all.push(subject(11, 1, time("2026-11-24T02:50:00Z")));
    let now = time("2026-11-25T00:00:00Z");
    let label = |text: &str| text.parse::<KeepLabel>().unwrap();
    for (policy, expected) in [
        (Policy { last: 3, ..policy() }, vec!["s9", "s10", "s11"]),
        (Policy { last: 99, ..policy() }, all.iter().map(|s| s.id.as_str()).collect()),
        (Policy { periods: vec![(Period::Hour, 2)], ..policy() }, vec!["s9", "s11"]),
        (Policy { periods: vec![(Period::Day, 3)], ..policy() }, vec!["s7", "s8", "s11"]),
        (Policy { within: Some(days(2)), ..policy() }, vec!["s8", "s9", "s10", "s11"]),
        (Policy { labels: vec![label("why=release")], ..policy() }, vec!["s2", "s11"]),
        (Policy { labels: vec![label("why")], ..policy() }, vec!["s2", "s3", "s11"]),
        (Policy { labels: vec![label("other")], min: 2, ..policy() }, vec!["s10", "s11"]),
        (Policy { labels: vec![label("other")], min: 0, ..policy() }, vec![]),
    ] {
        assert_eq!(kept(&plan(&all, &policy, now)), expected, "{policy}");
    }
    let plan = plan(&all, &Policy { min: 0, ..policy() }, now);
    assert!(plan.is_empty(), "a policy that chooses nothing forgets nothing");
    assert_eq!(reasons(&plan, "s0"), ["no keep rule in the policy"]);
}

#[test]
fn what_is_not_good_is_not_counted_on() {
    let now = time("2026-11-25T00:00:00Z");
    let mut all = daily(20, "2026-11-24");
    all[15..].iter_mut().for_each(|s| s.flaws = vec![DAMAGED]);
    let stays = |policy: Policy| plan(&all, &policy, now).staying().map(|d| d.id.clone()).collect::<Vec<_>>();
    // A cluster whose disk rots for five days: the good ones stay beside the newest.
    assert_eq!(stays(Policy { last: 2, ..policy() }), ["s13", "s14", "s18", "s19"]);
    assert_eq!(stays(Policy { periods: vec![(Period::Day, 2)], ..policy() }), ["s13", "s14", "s18", "s19"]);
    assert_eq!(stays(Policy { labels: vec!["x".parse().unwrap()], min: 2, ..policy() }), ["s13", "s14"]);
    // On one day the good one is better than a damaged one that is newer.
    let mut day = daily(3, "2026-11-24");
    day.push(subject(3, 1, time("2026-11-24T09:00:00Z")));
    day[3].flaws = vec![DAMAGED];
    assert_eq!(kept(&plan(&day, &Policy { periods: vec![(Period::Day, 1)], min: 0, ..policy() }, now)), ["s2"]);
    // Where nothing is good, something is better than nothing.
    all.iter_mut().for_each(|s| s.flaws = vec![DAMAGED]);
    assert_eq!(kept(&plan(&all, &Policy { labels: vec!["x".parse().unwrap()], min: 2, ..policy() }, now)), ["s18", "s19"]);
}

#[test]
fn the_last_proven_one_and_what_is_held_stay() {
    let now = time("2026-11-25T00:00:00Z");
    let mut all = daily(9, "2026-11-24");
    (all[1].proven, all[3].proven) = (true, true);
    all[0].held = Some("lawsuit".into());
    let plan = plan(&all, &Policy { last: 2, ..policy() }, now);
    assert_eq!(kept(&plan), ["s0", "s3", "s7", "s8"]);
    assert_eq!((reasons(&plan, "s0"), reasons(&plan, "s3")), (vec!["held: lawsuit".into()], vec!["last verified good".into()]));
    assert_eq!(reasons(&plan, "s8"), ["last 2", "keep-min 1"]);
}

#[test]
fn dumps_are_kept_by_themselves() {
    let now = time("2026-11-25T00:00:00Z");
    let mut all = daily(6, "2026-11-24");
    for i in [3, 4, 5] {
        (all[i].kind, all[i].wal) = ("dump".into(), None);
    }
    assert_eq!(kept(&plan(&all, &Policy { last: 1, ..policy() }, now)), ["s2", "s5"]);
    assert!(plan_named(&all, &["s3", "s4", "s5"].map(str::to_owned).into(), 1, now).is_err());
}

#[test]
fn a_burst_of_another_host_pushes_out_nothing_for_a_week() {
    let all = daily(10, "2026-11-24");
    let (start, mut burst) = (time("2026-11-24T05:00:00Z"), all.clone());
    burst.extend((10..60).map(|n| subject(n, 2, Timestamp(start.0 + (n as i64) * 60_000_000))));
    let soon = time("2026-11-24T09:00:00Z");
    for policy in [Policy { last: 3, ..policy() }, Policy { periods: vec![(Period::Day, 3)], ..policy() }] {
        let before = plan(&all, &policy, soon);
        let with = plan(&burst, &policy, soon);
        assert!(kept(&before).iter().all(|id| kept(&with).contains(id)), "{policy}: {:?}", kept(&with));
        assert!(kept(&with).len() <= 2 * kept(&before).len(), "{:?}", kept(&with));
    }
    let last = Policy { last: 3, ..policy() };
    assert_eq!(reasons(&plan(&burst, &last, soon), "s7"), [format!("last 3, not counting key {}", KeyId([2; 16]))]);
    // After a failover the old primary's go as others do.
    assert_eq!(kept(&plan(&burst, &last, time("2026-12-03T00:00:00Z"))), ["s57", "s58", "s59"]);
    // A burst of the host itself fills one day, not the others.
    burst[10..].iter_mut().for_each(|s| s.key = KeyId([1; 16]));
    assert_eq!(kept(&plan(&burst, &Policy { periods: vec![(Period::Day, 3)], ..policy() }, soon)), ["s7", "s8", "s59"]);
}

#[test]
fn invented_times_push_out_nothing() {
    let now = time("2026-11-24T09:00:00Z");
    let all = daily(30, "2026-11-24");
    let by_time = [
        gfs(),
        Policy { periods: vec![(Period::Hour, 24)], ..policy() },
        Policy { periods: vec![(Period::Day, 7)], ..policy() },
        Policy { within: Some(days(10)), ..policy() },
        Policy { within: Some(days(10)), pitr_window: Some(days(4)), ..policy() },
    ];
    type Junk = fn(usize, Timestamp) -> Timestamp;
    let past: Junk = |n, _| Timestamp(time("2001-01-01T00:00:00Z").0 + n as i64 * DAY);
    let future: Junk = |n, now| Timestamp(now.0 + n as i64 * DAY);
    // The same days as the good ones, a little later: to take the place of each.
    let same: Junk = |n, now| Timestamp(now.0 - DAY * n as i64 + 10 * HOUR);
    let same_in_order: Junk = |n, now| Timestamp(now.0 - DAY * (80 - n) as i64 + 10 * HOUR);
    for (what, junk) in [("past", past), ("future", future), ("same", same), ("same, in order", same_in_order)] {
        for host in [1, 2] {
            for policy in &by_time {
                let before = plan(&all, policy, now);
                let mut with = all.clone();
                with.extend((30..80).map(|n| subject(n, host, junk(n, now))));
                let after = plan(&with, policy, now);
                let lost: Vec<_> = before
                    .staying()
                    .filter(|d| !kept(&after).contains(&d.id.as_str()) && !reasons(&before, &d.id).contains(&"keep-min 1".into()))
                    .collect();
                assert!(lost.is_empty(), "{what}, host {host}, {policy}: {lost:?}");
                for (one, other) in before.decisions.iter().zip(&after.decisions) {
                    assert!(one.narrows || !other.narrows, "{what}, {policy}: {other:?}");
                }
            }
        }
    }
}

#[test]
fn a_clock_that_is_set_back_forgets_nothing_that_a_right_one_keeps() {
    let all = daily(60, "2026-11-24");
    let right = plan(&all, &gfs(), time("2026-11-24T09:00:00Z"));
    // Everything lies in the future: the rules hold among themselves.
    assert_eq!(kept(&plan(&all, &gfs(), time("1970-01-01T00:00:00Z"))), kept(&right));
    assert_eq!(kept(&plan(&all, &gfs(), time("2090-01-01T00:00:00Z"))), kept(&right));
    let within = Policy { within: Some(days(10)), ..policy() };
    assert_eq!(kept(&plan(&all, &within, time("2090-01-01T00:00:00Z"))).len(), 11, "counted from the newest, not from now");
}

#[test]
fn the_window_begins_with_the_newest_that_is_old_enough() {
    let now = time("2026-11-24T09:00:00Z");
    let mut all = daily(30, "2026-11-24");
    let windowed = Policy { last: 3, pitr_window: Some(days(7)), ..policy() };
    let decided = plan(&all, &windowed, now);
    // 2026-11-17T01:01 is the newest that was finished by 2026-11-17T09:00.
    assert_eq!(kept(&decided), ["s22", "s27", "s28", "s29"]);
    assert_eq!(reasons(&decided, "s22"), ["pitr-window: base of the window"]);
    assert_eq!(decided.reaches_back_to().unwrap().id, "s22");
    let windows = |plan: &Plan| plan.staying().filter(|d| d.wal == Wal::Window).map(|d| d.id.clone()).collect::<Vec<_>>();
    assert!(windows(&decided).is_empty());
    let decided = plan(&all, &Policy { pitr_window: Some(days(7)), ..gfs() }, now);
    assert!(windows(&decided).iter().all(|id| id[1..].parse::<usize>().unwrap() < 22) && windows(&decided).len() > 7, "{decided:?}");
    assert!(decided.staying().filter(|d| d.wal == Wal::Window).all(|d| d.narrows));
    // Alone it narrows, and forgets nothing.
    let decided = plan(&all, &Policy { pitr_window: Some(days(7)), ..policy() }, now);
    assert_eq!((decided.going().count(), windows(&decided).len()), (0, 22));
    // What is damaged, has no WAL any more, or brings its own, is no base.
    all[22].flaws = vec![DAMAGED];
    all[21].wal.as_mut().unwrap().window_only = true;
    all[20].wal.as_mut().unwrap().copied = true;
    assert!(kept(&plan(&all, &windowed, now)).contains(&"s19"));
    // Nothing is old enough: all that stays keeps its WAL.
    let decided = plan(&all[25..], &windowed, now);
    assert!(decided.decisions.iter().all(|d| !d.narrows));
    // No window: all keep it.
    assert!(plan(&all, &gfs(), now).decisions.iter().all(|d| !d.narrows));
}

#[test]
fn a_line_that_left_an_older_snapshot_keeps_its_base() {
    let now = time("2026-11-24T09:00:00Z");
    let mut all = daily(30, "2026-11-24");
    let left = |timeline: u32, at: u64| Branch { timeline: TimelineId(timeline), lsn: Lsn(at << 24) };
    // s10 to s21 went on on timeline 2, which was given up: timeline 3 left timeline 1 behind s9.
    for (n, s) in all.iter_mut().enumerate().skip(10) {
        let wal = s.wal.as_mut().unwrap();
        (wal.timeline, wal.ancestry) = (TimelineId(if n < 25 { 2 } else { 3 }), vec![left(1, 11)]);
    }
    let decided = plan(&all, &Policy { last: 2, pitr_window: Some(days(7)), ..policy() }, now);
    assert_eq!(kept(&decided), ["s9", "s22", "s28", "s29"]);
    assert!(decided.staying().all(|d| d.wal == Wal::Full));
    // Once the new line has a base of its own, the old ones need no more.
    let decided = plan(&all, &Policy { last: 20, pitr_window: Some(days(2)), ..policy() }, now);
    assert!(decided.staying().all(|d| (d.wal == Wal::Window) == (d.id[1..].parse::<usize>().unwrap() < 27)), "{decided:?}");
}

#[test]
fn by_id_nothing_goes_below_what_must_stay() {
    let now = time("2026-11-25T00:00:00Z");
    let mut all = daily(5, "2026-11-24");
    all[1].flaws = vec![DAMAGED];
    let named = |all: &[Subject], ids: &[&str], min| plan_named(all, &ids.iter().map(|id| (*id).to_owned()).collect(), min, now);
    let plan = named(&all, &["s0", "s1", "gone"], 1).unwrap();
    assert_eq!((kept(&plan), reasons(&plan, "s2")), (vec!["s2", "s3", "s4"], vec!["not named".into()]));
    // s1 is left, and isn't good.
    let refused = named(&all, &["s0", "s2", "s3", "s4"], 1).unwrap_err();
    assert_eq!(refused, NamedRefused::Min { left: 0, min: 1 });
    assert!(named(&all, &["s1"], 4).is_ok() && named(&all, &["s0"], 4).is_err() && named(&all, &["s1"], 5).is_err());
    all[2].proven = true;
    assert_eq!(named(&all, &["s2"], 1).unwrap_err(), NamedRefused::Proven { id: "s2".into() });
    all[0].proven = true;
    assert!(named(&all, &["s2"], 1).is_ok());
    assert!(named(&all, &["s0", "s2"], 0).is_err());
    assert!(named(&all, &["s0", "s1", "s2", "s3", "s4"], 1).is_err());
    assert!(named(&all, &["s0", "s1", "s2", "s3", "s4"], 0).is_ok(), "a cluster that is gone");
    all[3].held = Some("why".into());
    assert!(matches!(named(&all, &["s3"], 0), Err(NamedRefused::Held { .. })));
}

fn arbitrary_subjects() -> impl Strategy<Value = Vec<Subject>> {
    // Minutes in 40 days around `now`, mostly in order, some wild.
    let one = (0i64..1440, prop_oneof![8 => Just(0i64), 1 => -60i64..60, 1 => -20_000i64..20_000], 0u8..3, 0u8..20, any::<bool>());
    proptest::collection::vec(one, 1..40).prop_map(|all| {
        let mut at = time("2026-10-20T00:00:00Z").0;
        let each = all.into_iter().enumerate().map(|(n, (step, off, host, luck, dump))| {
            at += step * 60_000_000;
            let mut s = subject(n, host, Timestamp(at + off * DAY / 1440));
            s.flaws.extend((luck < 4).then_some(DAMAGED));
            s.proven = luck == 5;
            s.held = (luck == 6).then(|| "held".into());
            s.labels.extend((luck == 7).then(|| ("why".to_owned(), "x".to_owned())));
            if luck == 8 && dump {
                (s.kind, s.wal) = ("dump".into(), None);
            }
            s
        });
        each.collect()
    })
}

fn arbitrary_policy() -> impl Strategy<Value = Policy> {
    let period = prop_oneof![Just(Period::Hour), Just(Period::Day), Just(Period::Week), Just(Period::Month), Just(Period::Year)];
    let periods = proptest::collection::vec((period, 1u32..6), 0..3);
    let span = || proptest::option::of((1u64..20).prop_map(days));
    (0u32..4, periods, span(), any::<bool>(), 0u32..4, span()).prop_map(|(last, periods, within, label, min, pitr_window)| Policy {
        last,
        periods,
        within,
        labels: if label { vec!["why=x".parse().unwrap()] } else { vec![] },
        min,
        pitr_window,
    })
}

const NOW: &str = "2026-11-20T12:00:00Z";

fn set(plan: &Plan) -> BTreeSet<String> {
    plan.staying().map(|d| d.id.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever the policy: enough good ones, all that is held, the last proven one.
    #[test]
    fn what_must_stay_stays(all in arbitrary_subjects(), policy in arbitrary_policy()) {
        let stays = set(&plan(&all, &policy, time(NOW)));
        for kind in ["physical", "dump"] {
            let good: Vec<_> = all.iter().filter(|s| s.kind == kind && s.is_good()).collect();
            let left = good.iter().filter(|s| stays.contains(&s.id)).count();
            prop_assert!(left >= good.len().min(policy.min as usize));
            if let Some(last) = all.iter().rev().find(|s| s.kind == kind && s.proven) {
                prop_assert!(stays.contains(&last.id));
            }
        }
        prop_assert!(all.iter().filter(|s| s.held.is_some()).all(|s| stays.contains(&s.id)));
    }

    /// Another rule, or more of one, never forgets more; nor does it narrow more, unless it is the window's.
    #[test]
    fn more_rules_keep_more(all in arbitrary_subjects(), a in arbitrary_policy(), b in arbitrary_policy()) {
        let both = Policy {
            last: a.last.max(b.last),
            periods: a.periods.iter().chain(&b.periods).cloned().collect(),
            within: a.within.max(b.within),
            labels: a.labels.iter().chain(&b.labels).cloned().collect(),
            min: a.min.max(b.min),
            pitr_window: a.pitr_window.max(b.pitr_window),
        };
        if a.chooses() {
            let (less, more) = (set(&plan(&all, &Policy { pitr_window: None, ..a }, time(NOW))), set(&plan(&all, &both, time(NOW))));
            prop_assert!(less.is_subset(&more), "{:?}", less.difference(&more).collect::<Vec<_>>());
        }
    }

    /// Carried out in part it goes on: what goes still goes when others have gone. (Of damaged ones, and
    /// of several hosts', more may stay then.)
    #[test]
    fn half_of_it_done_is_half_of_it(mut all in arbitrary_subjects(), policy in arbitrary_policy(), which in any::<u64>()) {
        all.iter_mut().for_each(|s| (s.flaws, s.key) = (Vec::new(), KeyId([1; 16])));
        let first = plan(&all, &policy, time(NOW));
        let goes: BTreeSet<String> = first.going().map(|d| d.id.clone()).collect();
        let half: Vec<Subject> = all.iter().enumerate().filter(|(n, s)| !(goes.contains(&s.id) && which >> (n % 64) & 1 == 1)).map(|(_, s)| s.clone()).collect();
        let second = plan(&half, &policy, time(NOW));
        // A snapshot can become the window's base when one whose time stood against it has gone: then it is spared.
        for d in second.staying().filter(|d| d.keeps != [Rule::WindowBase]) {
            prop_assert!(!goes.contains(&d.id), "{} stays now: {:?}", d.id, d.keeps);
        }
        let narrowed: BTreeSet<&str> = first.decisions.iter().filter(|d| d.narrows).map(|d| d.id.as_str()).collect();
        prop_assert!(narrowed.iter().all(|id| second.staying().all(|d| d.id != *id || d.narrows)));
    }

    /// What others store never pushes out by a time that doesn't fit: before all, or in the future.
    #[test]
    fn times_that_do_not_fit_push_out_nothing(all in arbitrary_subjects(), policy in arbitrary_policy(), ahead in any::<bool>(), host in 0u8..4, count in 1usize..10) {
        let now = time(NOW);
        let policy = Policy { last: 0, min: 0, ..policy };
        let before = plan(&all, &policy, now);
        let mut with = all.clone();
        let first = all.iter().map(|s| s.started_at.0).min().unwrap().min(now.0);
        let last = all.iter().map(|s| s.finished_at.0).max().unwrap().max(now.0);
        with.extend((0..count).map(|n| {
            let at = if ahead { last + n as i64 * DAY + DAY * 400 } else { first - DAY * 400 + n as i64 * DAY };
            subject(1000 + n, host, Timestamp(at))
        }));
        let after = plan(&with, &policy, now);
        let future = |d: &&Decision| d.started_at > now || d.finished_at > now;
        for d in before.staying().filter(|d| !(ahead && future(d) || matches!(d.keeps[..], [Rule::WithoutHost(..)]))) {
            prop_assert!(set(&after).contains(&d.id), "{d:?}");
        }
        for (one, other) in before.decisions.iter().zip(&after.decisions) {
            prop_assert!(one.narrows || !other.narrows);
        }
    }

    /// By id: a plan that is made leaves enough, touches nothing else, and no held one.
    #[test]
    fn named_ones_go_alone(all in arbitrary_subjects(), which in any::<u64>(), min in 0u32..4) {
        let ids: BTreeSet<String> = all.iter().enumerate().filter(|(n, _)| which >> (n % 64) & 1 == 1).map(|(_, s)| s.id.clone()).collect();
        if let Ok(plan) = plan_named(&all, &ids, min, time(NOW)) {
            let stays = set(&plan);
            prop_assert!(all.iter().all(|s| stays.contains(&s.id) != ids.contains(&s.id)));
            prop_assert!(all.iter().filter(|s| ids.contains(&s.id)).all(|s| s.held.is_none()));
            for kind in ["physical", "dump"] {
                let touched = all.iter().any(|s| s.kind == kind && ids.contains(&s.id) && s.is_good());
                let good = all.iter().filter(|s| s.kind == kind && s.is_good() && stays.contains(&s.id)).count();
                prop_assert!(!touched || good >= min as usize);
            }
        }
    }
}
