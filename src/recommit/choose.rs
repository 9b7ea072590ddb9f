//! Which packs are emptied: a pure choice.

use super::together::{Drags, Together};
use crate::units::{PackId, SessionId};

/// What is known of a pack that live snapshots name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackUse {
    /// The session that stored it.
    pub session: SessionId,
    /// Its id.
    pub id: PackId,
    /// Bytes of the object.
    pub size: u64,
    /// Bytes of its blobs, sealed.
    pub blobs: u64,
    /// Of these, bytes of blobs that a live snapshot needs: these are copied if it is emptied.
    pub live: u64,
    /// Bytes of live patches in other packs against chunks in this one: they have to travel with it.
    pub drags: u64,
    /// Bytes of nodes in other packs that would be written anew with it; of several packs' together some count more than once.
    pub above: u64,
    /// May it be emptied? Not if a snapshot that needs it can't be read, or not be replaced by this host.
    pub movable: bool,
}

impl PackUse {
    /// Bytes of blobs that nobody needs.
    pub fn dead(&self) -> u64 {
        self.blobs.saturating_sub(self.live)
    }

    /// Bytes that have to be written to free it.
    pub fn cost(&self) -> u64 {
        self.live.saturating_add(self.drags)
    }

    /// Bytes that are won: what is dead, less what is dragged along, or written anew above it, and stays where it was, dead.
    /// So whatever is chosen makes the whole smaller, and an end is reached.
    pub fn gain(&self) -> u64 {
        self.dead().saturating_sub(self.drags).saturating_sub(self.above)
    }
}

/// What bounds a choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// At most so many bytes are written anew.
    pub max_rewrite: u64,
    /// A pack of whose blobs more than this share is live, in percent, stays as it is.
    pub most_live: u8,
    /// Nothing is done for less than so many bytes altogether: every replaced snapshot costs entries and nodes.
    pub least_gain: u64,
}

/// Of packs that are more live than this nothing is copied (docs/decisions/014).
const MOST_LIVE: u8 = 70;
/// Part of all packs' bytes below which nothing is done.
const LEAST_GAIN: u64 = 1000;
/// To commit a snapshot again takes about 3 kB of log, and the log is kept for ever: a hundred times that is to be won for each ...
const GAIN_A_SNAPSHOT: u64 = 300_000;
/// ... but what is won need not be more than this part of all packs' bytes: small repositories are emptied, too.
const ENOUGH_GAIN: u64 = 20;

impl Limits {
    /// As `prune` takes them: by default 5 % of what all packs hold may be written anew. `snapshots`: how many are live.
    pub fn of(max_rewrite: Option<u64>, repository_bytes: u64, snapshots: u64) -> Limits {
        let max_rewrite = max_rewrite.unwrap_or(repository_bytes / 20);
        let pays = snapshots.saturating_mul(GAIN_A_SNAPSHOT).min(repository_bytes / ENOUGH_GAIN);
        Limits { max_rewrite, most_live: MOST_LIVE, least_gain: pays.max(repository_bytes / LEAST_GAIN) }
    }
}

/// The packs to be emptied.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Choice {
    /// Indices of packs, most dead first.
    pub packs: Vec<usize>,
    /// Bytes that have to be written to free them.
    pub cost: u64,
    /// Bytes that are won.
    pub gain: u64,
}

/// The packs to be emptied, most dead first. All that are chosen fit into the budget together; what is too large for what is
/// left of it is passed over for smaller ones. Packs that are worth it only together (`drags`) are chosen together.
pub fn choose(packs: &[PackUse], drags: &Drags, limits: &Limits) -> Choice {
    let mut choice = Choice::default();
    Together::new(packs, drags, limits).choose(limits.max_rewrite, &mut |group, weight| {
        choice.packs.extend(group);
        choice.cost = choice.cost.saturating_add(weight.cost);
        choice.gain = choice.gain.saturating_add(weight.gain());
    });
    if choice.gain < limits.least_gain.max(1) { Choice::default() } else { choice }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack(n: u8, blobs: u64, live: u64, drags: u64) -> PackUse {
        PackUse { session: SessionId([0; 16]), id: PackId([n; 16]), size: blobs + 500, blobs, live, drags, above: 0, movable: true }
    }

    fn limits(max_rewrite: u64) -> Limits {
        Limits { max_rewrite, most_live: 80, least_gain: 1 }
    }

    /// Of packs between which there are no patches but those that they say.
    fn choose(packs: &[PackUse], limits: &Limits) -> Vec<usize> {
        super::choose(packs, &Drags::new(), limits).packs
    }

    #[test]
    fn the_most_dead_come_first_and_within_the_budget() {
        let packs = [pack(0, 100, 100, 0), pack(1, 100, 10, 0), pack(2, 100, 60, 0), pack(3, 100, 0, 0), pack(4, 100, 81, 0)];
        assert_eq!(choose(&packs, &limits(1000)), [3, 1, 2], "whole and nearly whole packs stay");
        assert_eq!(choose(&packs, &limits(10)), [3, 1]);
        assert_eq!(choose(&packs, &limits(9)), [3]);
        assert_eq!(choose(&packs, &limits(0)), [3], "what nobody needs costs nothing");
        let packs = [pack(1, 1000, 300, 0), pack(2, 100, 50, 0)];
        assert_eq!(choose(&packs, &limits(100)), [1], "a large one that doesn't fit keeps no small one out");
        let mut kept = pack(1, 100, 0, 0);
        kept.movable = false;
        assert!(choose(&[kept], &limits(1000)).is_empty());
    }

    #[test]
    fn what_has_to_travel_along_counts() {
        assert!(choose(&[pack(1, 100, 10, 75)], &limits(1000)).is_empty());
        assert_eq!(choose(&[pack(1, 100, 10, 30)], &limits(1000)), [0]);
        assert!(choose(&[pack(1, 100, 10, 30)], &limits(39)).is_empty());
    }

    #[test]
    fn nodes_above_count_against_it() {
        let above = |above| PackUse { above, ..pack(1, 100, 40, 10) };
        assert_eq!((above(49).gain(), choose(&[above(49)], &limits(1000)).len()), (1, 1));
        assert!(choose(&[above(50)], &limits(1000)).is_empty(), "as much is left dead elsewhere");
    }

    #[test]
    fn nothing_is_done_for_next_to_nothing() {
        let floor = |least_gain| Limits { least_gain, ..limits(1000) };
        assert_eq!(choose(&[pack(1, 100, 50, 0), pack(2, 100, 50, 0)], &floor(100)).len(), 2);
        assert!(choose(&[pack(1, 100, 50, 0), pack(2, 100, 50, 0)], &floor(101)).is_empty());
        assert!(choose(&[], &floor(0)).is_empty());
        assert_eq!(Limits::of(None, 1 << 30, 1).max_rewrite, (1 << 30) / 20);
        assert_eq!(Limits::of(Some(7), 1 << 30, 1).max_rewrite, 7);
        // Of many snapshots in little, in more, and in much.
        assert_eq!(Limits::of(None, 1_000_000, 36).least_gain, 50_000);
        assert_eq!(Limits::of(None, 1_000_000_000, 36).least_gain, 36 * 300_000);
        assert_eq!(Limits::of(None, 1_000_000_000_000, 36).least_gain, 1_000_000_000);
    }

    proptest! {
        #[test]
        fn a_choice_keeps_its_bounds(
            packs in prop::collection::vec((any::<u8>(), 0u64..1000, 0u64..1000, 0u64..300, any::<bool>()), 0..40),
            budget in 0u64..5000,
        ) {
            let packs: Vec<PackUse> =
                packs.into_iter().map(|(n, b, l, d, movable)| PackUse { movable, ..pack(n, b, l.min(b), d) }).collect();
            let chosen = choose(&packs, &limits(budget));
            prop_assert!(chosen.iter().map(|i| packs[*i].cost()).sum::<u64>() <= budget);
            let mut once = chosen.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), chosen.len());
            let stays = |i: &usize| packs[*i].cost() as f64 / packs[*i].blobs as f64;
            prop_assert!(chosen.iter().all(|i| packs[*i].movable && packs[*i].gain() > 0 && stays(i) <= 0.8));
            prop_assert!(chosen.is_sorted_by(|a, b| stays(a) <= stays(b)));
            // More money chooses no less.
            let gain = |chosen: &[usize]| chosen.iter().map(|i| packs[*i].gain()).sum::<u64>();
            prop_assert!(gain(&choose(&packs, &limits(u64::MAX))) >= gain(&chosen));
        }
    }
}
