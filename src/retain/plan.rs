//! All rules together, and what no policy may break: holds, `keep-min`, the last one that was proven good.

use std::collections::{BTreeMap, BTreeSet};

use super::count::{self, Placed, place};
use super::policy::{Policy, Rule};
use super::subject::{Flaw, Subject};
use super::window::{Window, window};
use crate::units::{Class, Explain, KeyId, Timestamp};

/// For so long (µs) what one host stores doesn't push out what others have stored. Then somebody has noticed, or it is
/// what the cluster's snapshots are now: after a failover, for example.
const GRACE: i64 = 7 * 86_400_000_000;

/// The WAL that a snapshot keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wal {
    /// None: a dump has none, and what goes needs none.
    None,
    /// From its start on: it can be brought to any point behind.
    Full,
    /// From its start to its stop: it can be restored as itself.
    Window,
}

/// What is to become of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Its id.
    pub id: String,
    /// Its live COMMITs, the newest last.
    pub commits: Vec<u64>,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When it was finished.
    pub finished_at: Timestamp,
    /// Every rule that keeps it; none: it goes.
    pub keeps: Vec<Rule>,
    /// Why it isn't good, if it isn't.
    pub flaws: Vec<Flaw>,
    /// Something about its time that a person should know.
    pub odd_time: Option<&'static str>,
    /// What it keeps of the WAL.
    pub wal: Wal,
    /// It kept more until now.
    pub narrows: bool,
}

impl Decision {
    /// Does it stay?
    pub fn stays(&self) -> bool {
        !self.keeps.is_empty()
    }
}

/// What is to become of all snapshots of a cluster, in the order of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// One a snapshot.
    pub decisions: Vec<Decision>,
}

impl Plan {
    /// Those that go.
    pub fn going(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().filter(|d| !d.stays())
    }

    /// Those that stay.
    pub fn staying(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().filter(|d| d.stays())
    }

    /// Is there nothing to do?
    pub fn is_empty(&self) -> bool {
        self.decisions.iter().all(|d| d.stays() && !d.narrows)
    }

    /// Any point from here on can be restored, as far as the WAL is there: when the first good snapshot that keeps all its
    /// WAL was finished.
    pub fn reaches_back_to(&self) -> Option<&Decision> {
        self.staying().find(|d| d.wal == Wal::Full && d.flaws.is_empty())
    }
}

/// Why named snapshots may not be forgotten.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NamedRefused {
    /// It is held.
    #[error("snapshot {id} is held: {reason}")]
    Held {
        /// Its id.
        id: String,
        /// Why.
        reason: String,
    },
    /// Too few would be left.
    #[error("{left} good {} of the cluster would be left, and keep-min is {min}", if *left == 1 { "snapshot" } else { "snapshots" })]
    Min {
        /// How many would be left that are good.
        left: usize,
        /// How many there must be.
        min: u32,
    },
    /// It is the last that is known to be good.
    #[error("snapshot {id} is the last one of its cluster that a verify of all data or a rehearsal found good")]
    Proven {
        /// Its id.
        id: String,
    },
}

impl Explain for NamedRefused {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn cure(&self) -> Option<String> {
        Some(match self {
            NamedRefused::Held { id, .. } => format!("end the hold first, if it is no longer wanted: pgcairn hold remove {id}"),
            NamedRefused::Min { .. } => {
                "take and keep another backup first; --keep-min N says how many must stay, 0: none, for a cluster that is gone".into()
            }
            NamedRefused::Proven { .. } => "verify a newer one first: pgcairn verify --read-data".into(),
        })
    }
}

/// Decides by a policy. `subjects` are the live snapshots of one cluster, in the order of the log.
pub fn plan(subjects: &[Subject], policy: &Policy, now: Timestamp) -> Plan {
    let mut keeps: Vec<Vec<Rule>> = vec![Vec::new(); subjects.len()];
    let mut windows = Window::default();
    let kinds: BTreeSet<&str> = subjects.iter().map(|s| s.kind.as_str()).collect();
    for kind in kinds {
        let placed = place(of_kind(subjects, kind), now);
        if policy.chooses() {
            add(&mut keeps, count::rules(&placed, policy, now));
            let more = without_one_host(&placed, policy, now, &keeps);
            add(&mut keeps, more);
        } else {
            placed.iter().for_each(|p| keep(&mut keeps, p.at, Rule::NoRule));
        }
        add(&mut keeps, always(&placed, policy.min));
        if let Some(span) = policy.pitr_window {
            let found = window(&placed, span, now);
            found.bases.iter().for_each(|at| keep(&mut keeps, *at, Rule::WindowBase));
            windows.narrowed.extend(found.narrowed);
        }
    }
    decide(subjects, keeps, &windows.narrowed, now)
}

/// Decides that the snapshots of these ids go, and no others. Ids that aren't there are passed over.
///
/// With `min` 0 *all* snapshots of a cluster may go together, the last proven one too: the cluster is gone.
///
/// # Errors
/// If one of them must stay.
pub fn plan_named(subjects: &[Subject], ids: &BTreeSet<String>, min: u32, now: Timestamp) -> Result<Plan, NamedRefused> {
    let goes = |s: &Subject| ids.contains(&s.id);
    if let Some((id, reason)) = subjects.iter().filter(|s| goes(s)).find_map(|s| Some((s.id.clone(), s.held.clone()?))) {
        return Err(NamedRefused::Held { id, reason });
    }
    let kinds: BTreeSet<&str> = subjects.iter().filter(|s| goes(s)).map(|s| s.kind.as_str()).collect();
    for kind in kinds {
        let all: Vec<&Subject> = of_kind(subjects, kind).map(|(_, s)| s).collect();
        let left: Vec<&&Subject> = all.iter().filter(|s| !goes(s)).collect();
        let good = left.iter().filter(|s| s.is_good()).count();
        let loses_good = all.iter().any(|s| goes(s) && s.is_good());
        // A bad one may go, unless hardly any would be left.
        if (loses_good && good < min as usize) || left.len() < min as usize {
            return Err(NamedRefused::Min { left: good, min });
        }
        let all_go = left.is_empty();
        let proven = all.iter().rev().find(|s| s.proven).filter(|s| goes(s));
        if let Some(last) = proven.filter(|_| !all_go && !left.iter().any(|s| s.proven)) {
            return Err(NamedRefused::Proven { id: last.id.clone() });
        }
    }
    let keeps = subjects.iter().map(|s| if goes(s) { Vec::new() } else { vec![Rule::NotNamed] }).collect();
    Ok(decide(subjects, keeps, &BTreeSet::new(), now))
}

fn of_kind<'a>(subjects: &'a [Subject], kind: &'a str) -> impl Iterator<Item = (usize, &'a Subject)> {
    subjects.iter().enumerate().filter(move |(_, s)| s.kind == kind)
}

fn keep(keeps: &mut [Vec<Rule>], at: usize, rule: Rule) {
    if let Some(rules) = keeps.get_mut(at) {
        rules.push(rule);
    }
}

fn add(keeps: &mut [Vec<Rule>], more: BTreeMap<usize, Vec<Rule>>) {
    more.into_iter().for_each(|(at, rules)| rules.into_iter().for_each(|rule| keep(keeps, at, rule)));
}

/// What would stay without the snapshots of one key, of those that are no older than the grace.
fn without_one_host(placed: &[Placed<'_>], policy: &Policy, now: Timestamp, keeps: &[Vec<Rule>]) -> BTreeMap<usize, Vec<Rule>> {
    let keys: BTreeSet<KeyId> = placed.iter().map(|p| p.subject.key).collect();
    let mut kept: BTreeMap<usize, Vec<Rule>> = BTreeMap::new();
    if keys.len() < 2 {
        return kept;
    }
    let since = Timestamp(now.0.saturating_sub(GRACE));
    for key in keys {
        let others = placed.iter().filter(|p| p.subject.key != key).map(|p| (p.at, p.subject));
        for (at, mut rules) in count::rules(&place(others, now), policy, now) {
            let recent = placed.iter().any(|p| p.at == at && p.subject.finished_at >= since);
            let stays = keeps.get(at).is_some_and(|rules| !rules.is_empty()) || kept.contains_key(&at);
            if recent && !stays && !rules.is_empty() {
                kept.insert(at, vec![Rule::WithoutHost(Box::new(rules.remove(0)), key)]);
            }
        }
    }
    kept
}

/// What stays whatever a policy says.
fn always(placed: &[Placed<'_>], min: u32) -> BTreeMap<usize, Vec<Rule>> {
    let mut kept: BTreeMap<usize, Vec<Rule>> = BTreeMap::new();
    let mut keep = |at: usize, rule: Rule| kept.entry(at).or_default().push(rule);
    let good = placed.iter().rev().filter(|p| p.subject.is_good()).take(min as usize);
    let bad = placed.iter().rev().filter(|p| !p.subject.is_good());
    // Where there aren't as many good ones, others are better than nothing.
    good.chain(bad).take(min as usize).for_each(|p| keep(p.at, Rule::Min(min)));
    placed.iter().rev().find(|p| p.subject.proven).into_iter().for_each(|p| keep(p.at, Rule::Proven));
    placed.iter().for_each(|p| p.subject.held.iter().for_each(|reason| keep(p.at, Rule::Held(reason.clone()))));
    kept
}

fn decide(subjects: &[Subject], keeps: Vec<Vec<Rule>>, narrowed: &BTreeSet<usize>, now: Timestamp) -> Plan {
    let kinds: BTreeSet<&str> = subjects.iter().map(|s| s.kind.as_str()).collect();
    let odd = kinds.into_iter().flat_map(|kind| place(of_kind(subjects, kind), now)).filter_map(|p| {
        let odd = match (p.future, p.counts) {
            (true, _) => "its time lies in the future",
            (_, false) => "its time lies before that of an earlier one",
            _ => return None,
        };
        Some((p.at, odd))
    });
    let odd: BTreeMap<usize, &'static str> = odd.collect();
    let one = |((at, subject), keeps): ((usize, &Subject), Vec<Rule>)| {
        let is_window = subject.wal.as_ref().is_some_and(|wal| wal.window_only);
        let wal = match &subject.wal {
            Some(_) if keeps.is_empty() => Wal::None,
            Some(_) if is_window || narrowed.contains(&at) => Wal::Window,
            Some(_) => Wal::Full,
            None => Wal::None,
        };
        Decision {
            id: subject.id.clone(),
            commits: subject.commits.clone(),
            started_at: subject.started_at,
            finished_at: subject.finished_at,
            keeps,
            flaws: subject.flaws.clone(),
            odd_time: odd.get(&at).copied(),
            wal,
            narrows: wal == Wal::Window && !is_window,
        }
    };
    Plan { decisions: subjects.iter().enumerate().zip(keeps).map(one).collect() }
}
