//! `forget`: snapshots go, by a policy or by id.
//!
//! - `args.rs`: the policy as flags · `whole.rs`: what comes back, and what can be restored afterwards
//! - `answer.rs`: how that is shown

mod answer;
mod args;
mod whole;

use std::collections::{BTreeMap, BTreeSet};

use super::archived::Archived;
use super::clusters;
use super::context::{Context, Here};
use super::contract::Exit;
use super::failure::Failure;
use super::maintainer::Maintainer;
use crate::host::access::{Need, Opened};
use crate::look;
use crate::repo::log::{Fold, WalMode};
use crate::retain::{self, Carried, Carry, Flaw, NamedRefused, Plan, Policy, Subject};
use crate::units::{Cancel, Progress, SegmentName, Timestamp};

pub(super) use args::Args;

/// What a user wants of one cluster.
enum Wish {
    /// What the policy says.
    Policy(Policy),
    /// These go.
    Named { ids: BTreeSet<String>, min: u32 },
}

/// One cluster, and what is to become of it.
struct Cluster {
    name: String,
    wish: Wish,
    archived: InArchive,
    plan: Plan,
    /// The newest entry of the log that it was made of.
    planned_at: u64,
    carried: Option<Carried>,
}

/// What the archive has of the WAL of a cluster's snapshots.
#[derive(Default)]
struct InArchive {
    /// The snapshots about which it was asked.
    asked: BTreeSet<String>,
    /// The segment that a snapshot waits for.
    waits: BTreeMap<String, SegmentName>,
    /// Snapshots that hold their WAL themselves and whose WAL the archive has as well: any later point can be reached from
    /// them as from others.
    too: BTreeSet<String>,
}

impl Wish {
    fn plan(&self, subjects: &[Subject], now: Timestamp) -> Result<Plan, NamedRefused> {
        match self {
            Wish::Policy(policy) => Ok(retain::plan(subjects, policy, now)),
            Wish::Named { ids, min } => retain::plan_named(subjects, ids, *min, now),
        }
    }
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let configured = context.cluster_if_one()?;
    let need = if args.dry_run { Need::Read } else { Need::Write };
    let here = context.here(configured.as_ref(), need)?;
    let opened = context.open(&here, need)?;
    context.read_whole(&opened)?;
    let now = Timestamp::now();
    let wishes = if args.snapshots.is_empty() { by_policy(context, &opened)? } else { by_id(context, &opened, args)? };
    let mut planned = Vec::new();
    for (name, wish) in wishes {
        // Of one state of the log: asking the archive may read on in it, and what came meanwhile was not asked about.
        let (fold, planned_at) = {
            let view = opened.view();
            (view.fold.clone(), view.newest.number)
        };
        let archived = in_archive(&opened, &fold, &name, &context.cancel)?;
        let plan = wish.plan(&subjects(&fold, &name, &archived), now)?;
        planned.push(Cluster { name, wish, archived, plan, planned_at, carried: None });
    }
    // What comes back is known beforehand alone.
    let whole = whole::of(context, &opened, &planned, args.exact)?;
    if !args.dry_run {
        carry_out(context, &here, &opened, &mut planned, now)?;
    }
    answer::write(context, args.dry_run, &planned, &whole)?;
    let spared = planned.iter().filter_map(|c| c.carried.as_ref()).any(|c| !c.spared.is_empty());
    Ok(if spared { Exit::LOOK } else { Exit::DONE })
}

fn carry_out(context: &Context, here: &Here, opened: &Opened, planned: &mut [Cluster], now: Timestamp) -> Result<(), Failure> {
    let concerned: Vec<String> = planned.iter().filter(|c| !c.plan.is_empty()).map(|c| c.name.clone()).collect();
    if concerned.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = concerned.iter().map(String::as_str).collect();
    let maintainer = Maintainer::of(context, here, opened, &names)?;
    for cluster in planned {
        let again = |fold: &Fold| cluster.wish.plan(&subjects(fold, &cluster.name, &cluster.archived), now).ok();
        let carry = Carry { log: opened.log(), signer: maintainer.key(), again: &again, cancel: &context.cancel };
        let carried = retain::carry_out(&carry, &mut opened.view(), &cluster.plan, cluster.planned_at);
        opened.settle(&here.place(&context.reporter));
        let carried = carried?;
        for id in &carried.by_others {
            context.reporter.info(&format!("{id}: somebody else did the same meanwhile"));
        }
        for id in &carried.spared {
            context.reporter.warn(&format!("{id} stays as it is: the log was changed meanwhile; run it again"));
        }
        cluster.carried = Some(carried);
    }
    Ok(())
}

/// The chosen cluster, else all that the configuration lists, else all of the repository, each by its own policy.
fn by_policy(context: &Context, opened: &Opened) -> Result<Vec<(String, Wish)>, Failure> {
    let known: BTreeSet<String> = look::clusters(&opened.view().fold).into_iter().map(str::to_owned).collect();
    let chosen = context.settings.chosen_cluster();
    let listed = context.settings.listed_clusters();
    let names: Vec<String> = match &chosen {
        Some(name) if !known.contains(name) => return Err(clusters::unknown(name)),
        Some(name) => vec![name.clone()],
        None if listed.is_empty() => known.iter().cloned().collect(),
        None => known.iter().filter(|name| listed.contains(&name.as_str())).cloned().collect(),
    };
    let mut wishes = Vec::new();
    let mut without = Vec::new();
    for name in names {
        let retention = context.settings.cluster(Some(&name))?.retention;
        if retention.is_policy() { wishes.push((name, Wish::Policy(Policy::from(&retention)))) } else { without.push(name) }
    }
    if wishes.is_empty() && (!without.is_empty() || !context.settings.cluster_policy_is_set()) {
        return Err(Failure::usage(
            "nothing says what is to be forgotten: there is no policy, and no snapshot is named",
            "give a policy (--keep-last 7, --keep-daily 14, --keep-within 30d, ..., or the same keys in the configuration), or name snapshots",
        ));
    }
    for name in &without {
        context.reporter.info(&format!("cluster {name} has no policy: nothing of it is forgotten"));
    }
    if chosen.is_none() {
        for name in known.iter().filter(|name| !listed.is_empty() && !listed.contains(&name.as_str())) {
            context.reporter.info(&format!("cluster {name} is not in the configuration, and left alone: --cluster {name} is for it"));
        }
    }
    Ok(wishes)
}

/// The snapshots that are named, by cluster.
fn by_id(context: &Context, opened: &Opened, args: &Args) -> Result<Vec<(String, Wish)>, Failure> {
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    {
        let view = opened.view();
        for name in &args.snapshots {
            let listed = clusters::find(context, &view, name)?;
            named.entry(listed.commit.summary.cluster.clone()).or_default().insert(listed.id().to_owned());
        }
    }
    let wish = |(name, ids): (String, BTreeSet<String>)| {
        let min = context.settings.cluster(Some(&name))?.retention.min.unwrap_or(Policy::DEFAULT_MIN);
        Ok((name, Wish::Named { ids, min }))
    };
    named.into_iter().map(wish).collect()
}

/// Asks the archive for what the snapshots of a cluster need.
fn in_archive(opened: &Opened, fold: &Fold, cluster: &str, cancel: &Cancel) -> Result<InArchive, Failure> {
    let mut archived = Archived::of(opened, cancel);
    let mut found = InArchive::default();
    for listed in look::snapshots(fold, Some(cluster)) {
        found.asked.insert(listed.id().to_owned());
        let mut summary = listed.commit.summary.clone();
        let copied = summary.wal.as_ref().is_some_and(|wal| wal.mode == WalMode::Copy);
        // What it would wait for, if it didn't hold its WAL itself.
        summary.wal.iter_mut().for_each(|wal| wal.mode = WalMode::Archive);
        match archived.waits_for(&summary)? {
            None if copied => drop(found.too.insert(summary.id)),
            Some(segment) if !copied => drop(found.waits.insert(summary.id, segment)),
            _ => {}
        }
    }
    Ok(found)
}

fn subjects(fold: &Fold, cluster: &str, archived: &InArchive) -> Vec<Subject> {
    let one = |listed: look::Listed<'_>| {
        let mut subject = Subject::of(fold, listed.commit);
        subject.flaws.extend(archived.waits.get(listed.id()).map(|segment| Flaw::WaitsFor(*segment)));
        subject.flaws.extend((!archived.asked.contains(listed.id())).then_some(Flaw::NotAsked));
        if let Some(wal) = subject.wal.as_mut().filter(|_| archived.too.contains(listed.id())) {
            wal.copied = false;
        }
        subject
    };
    look::snapshots(fold, Some(cluster)).into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::log::testing::Scene;

    /// A snapshot that was stored while the archive was asked about the others pushes none of them out.
    #[test]
    fn what_came_meanwhile_is_not_counted_on() {
        let (scene, mut view) = Scene::new();
        scene.snapshot(&mut view, "s1", 1);
        scene.snapshot(&mut view, "s2", 2);
        let archived = InArchive { asked: ["s1".to_owned()].into(), ..InArchive::default() };
        let subjects = subjects(&view.fold, "shop", &archived);
        assert_eq!(subjects.iter().map(|s| s.flaws.as_slice()).collect::<Vec<_>>(), [&[][..], &[Flaw::NotAsked]]);
        let newest = Wish::Policy(Policy { last: 1, periods: Vec::new(), within: None, labels: Vec::new(), min: 1, pitr_window: None });
        let plan = newest.plan(&subjects, Timestamp::now()).unwrap();
        assert!(plan.decisions.iter().any(|d| d.id == "s1" && d.stays()), "{plan:?}");
        let named = Wish::Named { ids: ["s1".to_owned()].into(), min: 1 };
        assert!(matches!(named.plan(&subjects, Timestamp::now()), Err(NamedRefused::Min { left: 0, min: 1 })));
    }
}
