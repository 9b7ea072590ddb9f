//! From a plan to FORGET entries.

use super::plan::{Decision, Plan};
use crate::crypt::sign::SigningKey;
use crate::host::access::Opened;
use crate::repo::log::{Fold, Forget, Kind, LogError, LogView};
use crate::units::{Cancel, Explain, counted};

/// What it takes.
pub struct Carry<'a> {
    /// The repository.
    pub opened: &'a Opened,
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
    /// Ids of those that the log no longer lets go: somebody else has changed it meanwhile.
    pub spared: Vec<String>,
}

/// Appends what the plan says: first what keeps less WAL, then what goes, in the order of the log.
///
/// Before each entry the plan is made again if anybody else has appended meanwhile, and the entry is left out if it is no
/// longer part of it. So two hosts that forget at once never leave less than the policy of each says.
///
/// # Errors
/// If an entry can't be appended; what was before it holds.
pub fn carry_out(carry: &Carry<'_>, plan: &Plan) -> Result<Carried, CarryError> {
    let mut carried = Carried::default();
    let mut judged = carry.opened.view().newest.number;
    let narrowing = plan.decisions.iter().filter(|d| d.narrows).map(|d| (d, true));
    let going = plan.going().map(|d| (d, false));
    for (decision, window) in narrowing.chain(going) {
        let done = append_all(carry, decision, window, &mut judged)
            .map_err(|source| CarryError::Log { done: carried.clone(), source: Box::new(source) })?;
        let ids = match (done, window) {
            (false, _) => &mut carried.spared,
            (true, true) => &mut carried.narrowed,
            (true, false) => &mut carried.forgotten,
        };
        ids.push(decision.id.clone());
        if carry.cancel.is_cancelled() {
            return Err(CarryError::Interrupted { done: carried });
        }
    }
    Ok(carried)
}

/// All COMMITs of a snapshot; `false` if the log speaks against it.
fn append_all(carry: &Carry<'_>, decision: &Decision, window: bool, judged: &mut u64) -> Result<bool, LogError> {
    for commit in &decision.commits {
        let mut view = carry.opened.view();
        let narrow = |fold: &Fold| fold.commits.get(commit).is_some_and(|c| c.need.as_ref().is_some_and(|need| need.window.is_empty()));
        if window && !narrow(&view.fold) {
            continue;
        }
        let kind = Kind::Forget(Forget { commit: *commit, window });
        let before = *judged;
        let mut still = |view: &LogView| {
            view.newest.number == before || (carry.again)(&view.fold).is_some_and(|plan| is_part(&plan, &decision.id, *commit, window))
        };
        match carry.opened.log().append_if(&mut view, carry.signer, &kind, &mut still)? {
            Some(head) => *judged = head.number,
            None => return Ok(false),
        }
    }
    Ok(true)
}

fn is_part(plan: &Plan, id: &str, commit: u64, window: bool) -> bool {
    let found = plan.decisions.iter().find(|d| d.id == id && d.commits.contains(&commit));
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
