//! What both walks of trees share: what they stand on, where they begin, what is found on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::failure::Damage;
use super::findings::Findings;
use super::memo::{Memo, NodeKey, PackNumber};
use super::packs::{BadBlobs, refs_of};
use crate::crypt::Sealing;
use crate::repo::log::{Fold, LiveCommit};
use crate::repo::pack::{Packs, Place};
use crate::store::Backend;
use crate::units::{Cancel, Progress};

/// What it takes to walk trees.
#[derive(Clone, Copy)]
pub(super) struct Trees<'a> {
    pub backend: &'a Arc<dyn Backend>,
    pub sealing: &'a Sealing,
    pub fold: &'a Fold,
    pub findings: &'a Findings,
    pub bad: &'a BadBlobs,
    pub memo: &'a Memo,
    pub progress: &'a dyn Progress,
    pub cancel: &'a Cancel,
}

impl Trees<'_> {
    /// The packs of a COMMIT, and the place of its root; what is wrong with these is told. `None`: there is nowhere to begin.
    pub fn begin(&self, commit: &LiveCommit, log: &str) -> Option<(Packs, Place)> {
        let hit = |damage: &Damage| self.findings.hit(damage, &commit.summary.id, None);
        for (session, pack) in commit.set.iter().filter(|(session, pack)| self.fold.pack(session, pack).is_none()) {
            hit(&Damage::new(log, format!("it names pack {pack} of session {session}, which the log does not list")));
        }
        let packs = Packs::new(Arc::clone(self.backend), self.sealing.clone());
        packs.add(refs_of(self.fold, &commit.set));
        let at = &commit.root.place;
        let Ok(position) = u16::try_from(at.position) else {
            hit(&Damage::new(log, "its root's position is too large"));
            return None;
        };
        Some((packs, Place { pack: at.pack, blob: at.blob, position }))
    }
}

/// What a subtree relies on, and what is wrong with it, by object.
#[derive(Default)]
pub(super) struct State {
    pub relies: BTreeSet<PackNumber>,
    pub damage: BTreeMap<String, Damage>,
}

impl State {
    pub fn add(&mut self, damage: Damage) {
        self.damage.entry(damage.object.clone()).or_insert(damage);
    }

    /// A subtree that was found whole before, under another COMMIT perhaps: does this one, with this set, name its packs, too?
    pub fn take_known(&mut self, memo: &Memo, key: &NodeKey, set: &BTreeSet<PackNumber>, log: &str) -> bool {
        let Some(relies) = memo.get(key) else { return false };
        for number in relies.iter().filter(|number| !set.contains(number)) {
            let pack = memo.pack(*number).map(|(_, pack)| pack.to_string()).unwrap_or_default();
            self.add(Damage::new(log, format!("its tree needs pack {pack}, which it does not name")));
        }
        self.relies.extend(relies.iter().copied());
        true
    }
}
