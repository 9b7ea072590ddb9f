//! Which packs may be condemned, and which swept: by the fold and what is stored, and nothing else.

use std::collections::HashSet;

use super::listing::Listing;
use crate::repo::log::{Fold, PackSet};
use crate::units::{PackId, SessionId};

/// What may be done with packs now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackPlan {
    /// No live COMMIT names them, their session has ended, and nobody has condemned them (R8): those in lists, and what is
    /// stored and in no list, as after a kill before a PROGRESS, or between a SWEEP and its deletions.
    pub condemn: PackSet,
    /// Of these, how many are in no list.
    pub orphans: PackSet,
    /// Condemned, and every session that was open then has ended (R9).
    pub sweep: PackSet,
    /// Condemned, and waiting for a session.
    pub waiting: PackSet,
}

/// Makes the plan. `listing` must be older than the fold.
pub fn plan(fold: &Fold, listing: &Listing) -> PackPlan {
    let live: HashSet<(SessionId, PackId)> = fold.commits.values().flat_map(|c| c.set.iter()).map(|(s, p)| (*s, *p)).collect();
    let free = |session: &SessionId, pack: &PackId| !live.contains(&(*session, *pack)) && fold.condemned_at(session, pack).is_none();
    let mut plan = PackPlan::default();
    for (id, session) in fold.sessions.iter().filter(|(_, s)| !s.open) {
        session.packs.keys().filter(|pack| free(id, pack)).for_each(|pack| plan.condemn.insert(*id, *pack));
    }
    for (session, pack) in listing.packs() {
        if !fold.is_open(&session) && free(&session, &pack) && fold.pack(&session, &pack).is_none() {
            plan.condemn.insert(session, pack);
            plan.orphans.insert(session, pack);
        }
    }
    // The oldest open session is waited for by all that was condemned behind its BEGIN.
    let oldest = fold.sessions.values().filter(|s| s.open).map(|s| s.begin).min();
    for (session, packs) in &fold.condemned {
        for (pack, at) in packs {
            let waits = oldest.is_some_and(|begin| begin < *at);
            if waits { &mut plan.waiting } else { &mut plan.sweep }.insert(*session, *pack);
        }
    }
    plan
}

/// Lists of at most `most` packs.
pub(super) fn batches(set: &PackSet, most: usize) -> Vec<PackSet> {
    let all: Vec<(SessionId, PackId)> = set.iter().map(|(s, p)| (*s, *p)).collect();
    all.chunks(most.max(1)).map(|some| some.iter().copied().collect()).collect()
}
