//! From a plan to FORGET entries.

use super::plan::{Decision, Plan};
use crate::crypt::sign::SigningKey;
use crate::repo::log::{Fold, Forget, Kind, LiveCommit, Log, LogError, LogView};
use crate::units::{Cancel, Explain, counted};

/// What it takes.
pub struct Carry<'a> {
    /// The log.
    pub log: Log<'a>,
    /// Who signs: a maintainer, or the owner.
    pub signer: &'a SigningKey,
    /// Makes the plan again, of what the log adds up to by then; `None` if it can't be made any more.
    pub again: &'a dyn Fn(&Fold) -> Option<Plan>,
    /// Asked to stop?
    pub cancel: &'a Cancel,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// Ids of snapshots that are forgotten now.
    pub forgotten: Vec<String>,
    /// Ids of those that keep less WAL now.
    pub narrowed: Vec<String>,
    /// Ids of those that somebody else forgot, or narrowed, meanwhile.
    pub by_others: Vec<String>,
    /// Ids of those that the log no longer lets go: somebody else has changed it meanwhile.
    pub spared: Vec<String>,
}

/// The state of the log that a plan holds for.
struct Judged {
    /// Its newest entry.
    newest: u64,
    /// An entry of somebody else's was seen since the plan was made. From then on nothing of it holds unasked: that one
    /// decision survived doesn't say that the next one does.
    by_others: bool,
}

/// What came of a decision.
enum Done {
    Ours,
    ByOthers,
    Spared,
}

/// Appends what the plan says: first what keeps less WAL, then what goes, in the order of the log. `planned_at` is the
/// newest entry of the log that the plan was made of; the view may be newer by now.
///
/// Before each entry the plan is made again if anybody else has appended since, and the entry is left out if it is no
/// longer part of it. So two hosts that forget at once never leave less than the policy of each says.
///
/// # Errors
/// If an entry can't be appended; what was before it holds.
pub fn carry_out(carry: &Carry<'_>, view: &mut LogView, plan: &Plan, planned_at: u64) -> Result<Carried, CarryError> {
    let mut carried = Carried::default();
    let mut judged = Judged { newest: planned_at, by_others: false };
    let narrowing = plan.decisions.iter().filter(|d| d.narrows).map(|d| (d, true));
    let going = plan.going().map(|d| (d, false));
    for (decision, window) in narrowing.chain(going) {
        let done = append_all(carry, view, decision, window, &mut judged)
            .map_err(|source| CarryError::Log { done: carried.clone(), source: Box::new(source) })?;
        let ids = match (done, window) {
            (Done::Spared, _) => &mut carried.spared,
            (Done::ByOthers, _) => &mut carried.by_others,
            (Done::Ours, true) => &mut carried.narrowed,
            (Done::Ours, false) => &mut carried.forgotten,
        };
        ids.push(decision.id.clone());
        if carry.cancel.is_cancelled() {
            return Err(CarryError::Interrupted { done: carried });
        }
    }
    Ok(carried)
}

/// All COMMITs of a snapshot, those too by which a prune has replaced another since the plan was made: until none is left.
fn append_all(carry: &Carry<'_>, view: &mut LogView, decision: &Decision, window: bool, judged: &mut Judged) -> Result<Done, LogError> {
    let mut ours = false;
    loop {
        let Some(commit) = open_commit(&view.fold, &decision.id, window) else {
            return Ok(if ours { Done::Ours } else { Done::ByOthers });
        };
        let kind = Kind::Forget(Forget { commit, window });
        // In the end of a log that is newer than this view the snapshot may have other COMMITs.
        let mut others = false;
        let mut still = |view: &LogView| {
            judged.by_others |= view.newest.number != judged.newest;
            others = open_commit(&view.fold, &decision.id, window) != Some(commit);
            !others && (!judged.by_others || (carry.again)(&view.fold).is_some_and(|plan| is_part(&plan, &decision.id, window)))
        };
        match carry.log.append_if(view, carry.signer, &kind, &mut still)? {
            Some(head) => {
                judged.newest = head.number;
                ours = true;
            }
            None if others => {}
            None => return Ok(Done::Spared),
        }
    }
}

/// The first COMMIT of a snapshot that isn't forgotten yet, or of whose WAL all is kept.
fn open_commit(fold: &Fold, id: &str, window: bool) -> Option<u64> {
    fold.commits_of(id).find(|(_, commit)| !window || keeps_all_wal(commit)).map(|(number, _)| number)
}

fn keeps_all_wal(commit: &LiveCommit) -> bool {
    commit.need.as_ref().is_some_and(|need| need.window.is_empty())
}

fn is_part(plan: &Plan, id: &str, window: bool) -> bool {
    let found = plan.decisions.iter().find(|d| d.id == id);
    found.is_some_and(|d| if window { d.narrows } else { !d.stays() })
}

/// It could not be carried out to its end.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// The log.
    #[error("{} forgotten, and then it failed", counted(.done.forgotten.len(), "snapshot is", "snapshots are"))]
    Log {
        /// What holds.
        done: Carried,
        /// What failed.
        source: Box<LogError>,
    },
    /// A signal.
    #[error("interrupted after {} forgotten", counted(.done.forgotten.len(), "snapshot was", "snapshots were"))]
    Interrupted {
        /// What holds.
        done: Carried,
    },
}

impl Explain for CarryError {
    fn class(&self) -> crate::units::Class {
        match self {
            CarryError::Log { source, .. } => source.class(),
            CarryError::Interrupted { .. } => crate::units::Class::Failed,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            CarryError::Log { source, .. } => source.cure().or_else(|| Some("run it again: it goes on from there".into())),
            CarryError::Interrupted { .. } => Some("run it again: it goes on from there".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::repo::log::Commit;
    use crate::repo::log::testing::{Scene, begin, commit, host};
    use crate::retain::{Policy, Subject, plan, plan_named};
    use crate::units::Timestamp;

    const NOW: Timestamp = Timestamp(1_700_000_100_000_000);

    /// One a snapshot, in the order in which they came.
    fn subjects(fold: &Fold) -> Vec<Subject> {
        let by_first: BTreeMap<u64, &LiveCommit> = fold.commits.values().map(|commit| (commit.first, commit)).collect();
        by_first.into_values().map(|commit| Subject::of(fold, commit)).collect()
    }

    fn newest_one(fold: &Fold) -> Option<Plan> {
        let policy = Policy { last: 1, periods: Vec::new(), within: None, labels: Vec::new(), min: 1, pitr_window: None };
        Some(plan(&subjects(fold), &policy, NOW))
    }

    fn first_four(fold: &Fold) -> Option<Plan> {
        let ids: BTreeSet<String> = fold.commits.values().map(|c| c.summary.id.clone()).filter(|id| id != "s5").collect();
        plan_named(&subjects(fold), &ids, 1, NOW).ok()
    }

    /// Five snapshots; the numbers of their COMMITs.
    fn five() -> (Scene, LogView, Vec<u64>) {
        let (scene, mut view) = Scene::new();
        let commits = (1..=5).map(|n| scene.snapshot(&mut view, &format!("s{n}"), n)).collect();
        (scene, view, commits)
    }

    fn forget(scene: &Scene, view: &mut LogView, commit: u64) {
        scene.append(view, Kind::Forget(Forget { commit, window: false }));
    }

    fn carry(scene: &Scene, view: &mut LogView, again: fn(&Fold) -> Option<Plan>, plan: &Plan, planned_at: u64) -> Carried {
        let carry = Carry { log: scene.log(), signer: &host(), again: &again, cancel: &Cancel::default() };
        carry_out(&carry, view, plan, planned_at).unwrap()
    }

    fn left(scene: &Scene) -> Vec<String> {
        scene.read().fold.commits.values().map(|c| c.summary.id.clone()).collect()
    }

    #[test]
    fn alone_it_is_carried_out() {
        let (scene, mut view, _) = five();
        let (plan, at) = (newest_one(&view.fold).unwrap(), view.newest.number);
        let carried = carry(&scene, &mut view, |_| None, &plan, at);
        assert_eq!(carried, Carried { forgotten: ["s1", "s2", "s3", "s4"].map(str::to_owned).into(), ..Carried::default() });
        assert_eq!(left(&scene), ["s5"]);
    }

    /// That the first of a plan may still go doesn't say that the last may: what keeps it went meanwhile.
    #[test]
    fn each_decision_is_made_again_once_another_has_appended() {
        let (scene, mut view, commits) = five();
        let mut other = view.clone();
        let (plan, at) = (newest_one(&view.fold).unwrap(), view.newest.number);
        forget(&scene, &mut other, commits[4]);
        let carried = carry(&scene, &mut view, newest_one, &plan, at);
        assert_eq!((carried.forgotten.len(), carried.spared, left(&scene)), (3, vec!["s4".to_owned()], vec!["s4".to_owned()]));
    }

    /// The view has moved on between the plan and its first entry, by whatever read the log meanwhile.
    #[test]
    fn a_plan_of_an_older_view_is_made_again() {
        let (scene, mut view, commits) = five();
        let (plan, at) = (first_four(&view.fold).unwrap(), view.newest.number);
        forget(&scene, &mut view, commits[4]);
        let carried = carry(&scene, &mut view, first_four, &plan, at);
        assert_eq!((carried.forgotten.len(), carried.spared.len(), left(&scene).len()), (0, 4, 4));
    }

    /// A prune stores a snapshot anew, and forgets the COMMIT that it replaced: the snapshot goes all the same.
    #[test]
    fn what_was_committed_again_meanwhile_goes_with_all_its_commits() {
        for (seen, old_one_goes) in [(false, false), (false, true), (true, false), (true, true)] {
            let (scene, mut view, commits) = five();
            let (plan, at) = (newest_one(&view.fold).unwrap(), view.newest.number);
            let mut other = view.clone();
            let session = scene.append(&mut other, Kind::Begin(begin("shop"))).session();
            let anew = Commit { replaces: Some(commits[1]), ..commit(session, "s2", 9) };
            scene.append(&mut other, Kind::Commit(Box::new(anew)));
            if old_one_goes {
                forget(&scene, &mut other, commits[1]);
            }
            if seen {
                view = other;
            }
            let carried = carry(&scene, &mut view, newest_one, &plan, at);
            assert_eq!((carried.forgotten.len(), left(&scene)), (4, vec!["s5".to_owned()]), "{seen} {old_one_goes}");
        }
    }

    /// Somebody else did the same: nothing failed, and nothing was refused.
    #[test]
    fn what_another_forgot_is_gone() {
        for moved_on in [false, true] {
            let (scene, mut view, commits) = five();
            let mut other = view.clone();
            let (plan, at) = (newest_one(&view.fold).unwrap(), view.newest.number);
            commits[1..3].iter().for_each(|commit| forget(&scene, &mut other, *commit));
            if moved_on {
                view = other;
            }
            let carried = carry(&scene, &mut view, newest_one, &plan, at);
            assert_eq!((carried.forgotten, carried.by_others), (vec!["s1".into(), "s4".into()], vec!["s2".into(), "s3".into()]));
            assert_eq!((carried.spared.len(), left(&scene).len()), (0, 1));
        }
    }
}
