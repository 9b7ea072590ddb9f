//! What a re-commit would do: a value, made by reading alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::choose::{Limits, PackUse, choose};
use super::failure::RecommitError;
use super::live::{Elsewhere, Live, Look};
use super::run::Setting;
use crate::repo::PackRef;
use crate::repo::log::{Fold, LiveCommit, Role};
use crate::units::{Explain, KeyId, PackId, SessionId, ShortId};

/// A pack that is to be emptied.
pub type Emptied = PackUse;

/// A snapshot that is left as it is, with the packs that it needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// Its id.
    pub snapshot: String,
    /// Why.
    pub why: String,
    /// Because something of it is damaged or lacking, and not by a rule.
    pub damaged: bool,
}

/// Chunks and nodes of snapshots' at damaged places that were stored anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Healed {
    /// How many chunks get another place.
    pub chunks: usize,
    /// How many were nowhere found.
    pub lost: usize,
}

/// What is to be done.
pub struct Plan {
    /// Packs to be emptied, most dead first.
    pub emptied: Vec<Emptied>,
    /// Damage for which there is a cure.
    pub healed: Healed,
    /// The snapshots that are committed again: their ids, by the numbers of their COMMITs now.
    pub snapshots: BTreeMap<u64, String>,
    /// Snapshots that keep what they need where it is.
    pub skipped: Vec<Skipped>,
    /// All packs that live snapshots name, for whoever shows them.
    pub packs: Vec<PackUse>,
    /// Bytes of blobs that will be copied, and that will be freed.
    copies: u64,
    frees: u64,
    pub(super) work: Work,
}

/// What the run needs besides.
pub(super) struct Work {
    pub live: Live,
    /// Numbers of the packs to be emptied.
    pub chosen: Vec<usize>,
    /// Packs with damaged places that somebody needs and that are elsewhere.
    pub healing: BTreeSet<usize>,
}

impl Plan {
    /// Is there nothing to do?
    pub fn is_empty(&self) -> bool {
        self.emptied.is_empty() && self.healed.chunks == 0
    }

    /// Bytes of blobs that will be copied.
    pub fn copies(&self) -> u64 {
        self.copies
    }

    /// Bytes of dead blobs that will be freed, as soon as the emptied packs are deleted.
    pub fn frees(&self) -> u64 {
        self.frees
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("emptied", &self.emptied).field("healed", &self.healed).field("snapshots", &self.snapshots).finish()
    }
}

/// Looks at what live snapshots need, and chooses what is emptied and healed. Nothing is written. `max_rewrite` bounds the bytes
/// that are copied; by default 5 % of what all packs hold.
///
/// # Errors
/// If the store or the log can't be read. Damage is none: what a damaged snapshot needs stays where it is.
pub fn plan(setting: &Setting<'_>, max_rewrite: Option<u64>) -> Result<Plan, RecommitError> {
    let fold = setting.opened.view().fold.clone();
    let all: u64 = fold.sessions.values().flat_map(|s| s.packs.values()).map(|f| f.size).fold(0, u64::saturating_add);
    plan_by(setting, &fold, &Limits::of(max_rewrite, all, fold.commits.len() as u64))
}

/// As [`plan`], within other limits.
pub(super) fn plan_by(setting: &Setting<'_>, fold: &Fold, limits: &Limits) -> Result<Plan, RecommitError> {
    let look = Look {
        backend: &setting.opened.backend,
        sealing: &setting.opened.sealing,
        fold,
        cancel: setting.cancel,
        progress: setting.progress,
    };
    let own = setting.opened.signer.as_ref().map(|s| s.id());
    let may = |commit: &LiveCommit| may_replace(fold, own, commit);
    let mut live = Live::walk(&look, &may)?;
    live.heal_nodes(fold, &|there, lost| trusts(fold, own, setting.trust_writers, there, lost));
    let packs = live.weigh(&look)?;
    live.look_elsewhere(&look)?;
    let choice = choose(&packs, &live.drags, limits);
    let (chosen, copies, frees) = (choice.packs, choice.cost, choice.gain);
    let healing = if live.elsewhere.is_empty() && live.healed_nodes == 0 { BTreeSet::new() } else { live.damaged.clone() };
    let concerned: BTreeSet<(SessionId, PackId)> =
        chosen.iter().chain(&healing).filter_map(|n| live.packs.get(*n)).map(|named| (named.pack.session, named.pack.id)).collect();
    let superseded = fold.superseded();
    let (mut snapshots, mut skipped) = (BTreeMap::new(), Vec::new());
    for (number, commit) in fold.commits.iter().filter(|(number, _)| !superseded.contains(number)) {
        let named = commit.set.iter().any(|(session, pack)| concerned.contains(&(*session, *pack)));
        let why = match live.unreadable.get(number) {
            Some(e) => Some((said(e), true)),
            None if named && !may(commit) => Some(("this host's key is no maintainer of its cluster".into(), false)),
            None => None,
        };
        match why {
            Some((why, damaged)) => skipped.push(Skipped { snapshot: commit.summary.id.clone(), why, damaged }),
            None if named => drop(snapshots.insert(*number, commit.summary.id.clone())),
            None => {}
        }
    }
    let healed = Healed { chunks: live.elsewhere.len() + live.healed_nodes, lost: live.lost() };
    let emptied = chosen.iter().filter_map(|n| packs.get(*n).copied()).collect();
    Ok(Plan { emptied, healed, snapshots, skipped, packs, copies, frees, work: Work { live, chosen, healing } })
}

/// May what lies in a pack of the one session stand in for what was lost in one of the other? By our own key, one that is named, or the
/// same that the snapshot relies on anyway.
pub(super) fn trusts(fold: &Fold, own: Option<KeyId>, trust_writers: &[KeyId], there: &SessionId, lost: &SessionId) -> bool {
    let key = |session: &SessionId| fold.sessions.get(session).map(|s| s.key);
    key(there).is_some_and(|k| Some(k) == own || trust_writers.contains(&k) || Some(k) == key(lost))
}

/// May this key replace the COMMIT?
pub(super) fn may_replace(fold: &Fold, own: Option<KeyId>, commit: &LiveCommit) -> bool {
    own.and_then(|own| fold.keys.get(&own)).is_some_and(|key| key.is_active() && key.may(Role::Maintainer, Some(&commit.summary.cluster)))
}

/// An error with its causes, in one line.
pub(super) fn said(e: &dyn Explain) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Work {
    /// The packs to be emptied.
    pub fn emptied(&self) -> impl Iterator<Item = PackRef> {
        self.chosen.iter().filter_map(|n| self.live.packs.get(*n)).map(|named| named.pack)
    }

    /// Packs that nodes must be moved out of, wholly or where they are damaged.
    pub fn touched(&self) -> impl Iterator<Item = PackRef> {
        self.chosen.iter().chain(&self.healing).filter_map(|n| self.live.packs.get(*n)).map(|named| named.pack)
    }

    /// Where a chunk at a damaged place lies, too.
    pub fn elsewhere(&self) -> &HashMap<ShortId, Vec<Elsewhere>> {
        &self.live.elsewhere
    }
}
