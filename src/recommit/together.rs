//! Packs weighed with those that hang together with them: a patch in one pack travels if the chunk that it refers to, in
//! another, does. If both packs are emptied it is copied once, as part of what is live in its own; if only the other is, it leaves
//! a dead blob behind.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::choose::{Limits, PackUse};

/// Bytes of live patches, by (pack with the chunks that they refer to, pack in which they lie): indices of packs.
pub type Drags = BTreeMap<(usize, usize), u64>;

/// The most packs with patches that are weighed together with the one to which these refer.
const MOST_TOGETHER: usize = 16;

/// What it means to empty some packs besides those that are chosen already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Weight {
    /// Bytes that are copied.
    pub cost: u64,
    /// Bytes that are won, and that are lost elsewhere.
    won: u64,
    lost: u64,
    /// Bytes of their blobs.
    blobs: u64,
}

impl Weight {
    /// Bytes by which the whole gets smaller.
    pub fn gain(&self) -> u64 {
        self.won.saturating_sub(self.lost)
    }

    fn is_worth(&self, limits: &Limits) -> bool {
        self.gain() > 0 && u128::from(self.cost) * 100 <= u128::from(self.blobs) * u128::from(limits.most_live)
    }

    /// The part that has to be written again, in millionths.
    fn share(&self) -> u64 {
        let share = u128::from(self.cost) * 1_000_000 / u128::from(self.blobs.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// Packs of which some are chosen.
pub(super) struct Together<'a> {
    packs: &'a [PackUse],
    limits: &'a Limits,
    /// Pack → packs with patches against it.
    patches: Vec<Vec<(usize, u64)>>,
    /// Pack → packs to which its patches refer.
    refers: Vec<Vec<(usize, u64)>>,
    chosen: Vec<bool>,
}

impl<'a> Together<'a> {
    pub fn new(packs: &'a [PackUse], drags: &Drags, limits: &'a Limits) -> Self {
        let none = vec![Vec::new(); packs.len()];
        let mut together = Together { packs, limits, patches: none.clone(), refers: none, chosen: vec![false; packs.len()] };
        for (&(of, from), bytes) in drags.iter().filter(|((of, from), _)| of != from) {
            if let (Some(patches), Some(refers)) = (together.patches.get_mut(of), together.refers.get_mut(from)) {
                patches.push((from, *bytes));
                refers.push((of, *bytes));
            }
        }
        // The largest first: of many, these are weighed together.
        together.patches.iter_mut().for_each(|from| from.sort_by_key(|(pack, bytes)| (Reverse(*bytes), *pack)));
        together
    }

    /// Chooses what is most dead, as long as it is worth it and the budget lasts; told of each group with its weight.
    pub fn choose(&mut self, mut budget: u64, take: &mut dyn FnMut(&[usize], &Weight)) {
        let mut heap: BinaryHeap<Reverse<(u64, usize)>> =
            (0..self.packs.len()).filter_map(|pack| self.best(pack).map(|(_, weight)| Reverse((weight.share(), pack)))).collect();
        while let Some(Reverse((share, pack))) = heap.pop() {
            let Some((group, weight)) = self.best(pack) else { continue };
            if weight.share() > share {
                // Others of its group were chosen meanwhile.
                heap.push(Reverse((weight.share(), pack)));
                continue;
            }
            let Some(left) = budget.checked_sub(weight.cost) else { continue };
            budget = left;
            take(&group, &weight);
            for one in &group {
                if let Some(chosen) = self.chosen.get_mut(*one) {
                    *chosen = true;
                }
            }
            // What hangs together with these costs less now.
            for near in group.iter().flat_map(|one| [&self.patches, &self.refers].map(|of| of.get(*one))).flatten().flatten() {
                heap.extend(self.best(near.0).map(|(_, weight)| Reverse((weight.share(), near.0))));
            }
        }
    }

    /// The pack alone if that is worth it, else with those that hold patches against it.
    fn best(&self, pack: usize) -> Option<(Vec<usize>, Weight)> {
        if !self.may_go(pack) {
            return None;
        }
        let worth = |group: Vec<usize>| {
            let weight = self.weigh(&group);
            weight.is_worth(self.limits).then_some((group, weight))
        };
        worth(vec![pack]).or_else(|| {
            let from = self.patches.get(pack).into_iter().flatten().map(|(from, _)| *from);
            let others: Vec<usize> = from.filter(|from| self.may_go(*from)).take(MOST_TOGETHER).collect();
            if others.is_empty() { None } else { worth(std::iter::once(pack).chain(others).collect()) }
        })
    }

    /// Is it dead enough, by itself, and not yet chosen?
    fn may_go(&self, pack: usize) -> bool {
        let dead_enough = |p: &PackUse| u128::from(p.live) * 100 <= u128::from(p.blobs) * u128::from(self.limits.most_live);
        self.packs.get(pack).is_some_and(|p| p.movable && dead_enough(p)) && self.chosen.get(pack) == Some(&false)
    }

    fn weigh(&self, group: &[usize]) -> Weight {
        let goes = |pack: &usize| group.contains(pack) || self.chosen.get(*pack) == Some(&true);
        let mut sum = Weight::default();
        for (number, pack) in group.iter().filter_map(|n| self.packs.get(*n).map(|pack| (*n, pack))) {
            let with_it = |of: &[Vec<(usize, u64)>], which: &dyn Fn(&usize) -> bool| -> u64 {
                of.get(number).into_iter().flatten().filter(|(other, _)| which(other)).map(|(_, bytes)| bytes).sum()
            };
            let outside = pack.drags.saturating_sub(with_it(&self.patches, &goes));
            // Patches in it that were counted with what is chosen already.
            let counted = with_it(&self.refers, &|other| self.chosen.get(*other) == Some(&true));
            sum.cost = sum.cost.saturating_add(pack.live).saturating_add(outside).saturating_sub(counted);
            sum.won = sum.won.saturating_add(pack.dead()).saturating_add(counted);
            sum.lost = sum.lost.saturating_add(outside).saturating_add(pack.above);
            sum.blobs = sum.blobs.saturating_add(pack.blobs);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::choose::choose;
    use super::*;
    use crate::units::{PackId, SessionId};
    use proptest::prelude::*;

    fn pack(blobs: u64, live: u64, drags: u64) -> PackUse {
        PackUse { session: SessionId([0; 16]), id: PackId([0; 16]), size: blobs, blobs, live, drags, above: 0, movable: true }
    }

    fn limits(max_rewrite: u64) -> Limits {
        Limits { max_rewrite, most_live: 70, least_gain: 1 }
    }

    #[test]
    fn packs_that_are_worth_it_only_together_go_together() {
        // Whole chunks, and two packs of patches against them.
        let mut packs = [pack(100, 40, 45), pack(100, 60, 0), pack(100, 69, 0)];
        let drags = Drags::from([((0, 1), 30), ((0, 2), 15)]);
        let choice = choose(&packs, &drags, &limits(1000));
        assert_eq!((choice.packs.as_slice(), choice.cost, choice.gain), ([0, 1, 2].as_slice(), 40 + 60 + 69, 60 + 40 + 31));
        // Each alone, as if the others stayed, leaves the first where it is.
        assert_eq!(choose(&packs, &Drags::new(), &limits(1000)).packs, [1, 2]);
        // Patches in a pack that has to stay count in full.
        packs[1].movable = false;
        let choice = choose(&packs, &drags, &limits(1000));
        assert_eq!((choice.packs.as_slice(), choice.cost, choice.gain), ([2, 0].as_slice(), 69 + 40 + 30, 31 + 60 - 30));
        // More alive than that, they stay, too, and so does what they refer to.
        packs = [pack(100, 40, 45), pack(100, 80, 0), pack(100, 80, 0)];
        assert_eq!(choose(&packs, &drags, &limits(1000)), super::super::choose::Choice::default());
    }

    #[test]
    fn a_group_is_found_where_no_pack_of_it_is_worth_it_alone() {
        // Both patch each other's chunks.
        let packs = [pack(100, 60, 25), pack(100, 60, 25)];
        let drags = Drags::from([((0, 1), 25), ((1, 0), 25)]);
        assert!(choose(&packs, &Drags::new(), &limits(1000)).packs.is_empty());
        let choice = choose(&packs, &drags, &limits(1000));
        assert_eq!((choice.packs.as_slice(), choice.cost, choice.gain), ([0, 1].as_slice(), 120, 80));
        assert!(choose(&packs, &drags, &limits(119)).packs.is_empty(), "nor in part, if the whole doesn't fit");
    }

    proptest! {
        #[test]
        fn what_is_said_of_a_choice_is_so(
            packs in prop::collection::vec((1u64..1000, 0u64..1000, 0u64..100, 0u64..200, any::<bool>()), 1..12),
            between in prop::collection::btree_map((0usize..12, 0usize..12), 1u64..300, 0..40),
            budget in 0u64..6000,
        ) {
            let mut packs: Vec<PackUse> = packs
                .into_iter()
                .map(|(blobs, live, drags, above, movable)| PackUse { above, movable, ..pack(blobs, live.min(blobs), drags) })
                .collect();
            // Patches are part of what is live in their packs.
            let (mut drags, mut left) = (Drags::new(), packs.iter().map(|p| p.live).collect::<Vec<_>>());
            let count = packs.len();
            for ((of, from), bytes) in between.into_iter().filter(|((of, from), _)| of != from && (*of).max(*from) < count) {
                let bytes = bytes.min(left[from]);
                if bytes > 0 {
                    (left[from], packs[of].drags) = (left[from] - bytes, packs[of].drags + bytes);
                    drags.insert((of, from), bytes);
                }
            }
            let choice = choose(&packs, &drags, &limits(budget));
            let goes = |n: &usize| choice.packs.contains(n);
            let once: std::collections::BTreeSet<_> = choice.packs.iter().collect();
            prop_assert_eq!(once.len(), choice.packs.len());
            prop_assert!(choice.packs.iter().all(|n| packs[*n].movable));
            let inside: u64 = drags.iter().filter(|((of, from), _)| goes(of) && goes(from)).map(|(_, bytes)| bytes).sum();
            let sum = |of: &dyn Fn(&PackUse) -> u64| choice.packs.iter().map(|n| of(&packs[*n])).sum::<u64>();
            let outside = sum(&|p| p.drags) - inside;
            prop_assert_eq!(choice.cost, sum(&|p| p.live) + outside);
            prop_assert!(choice.cost <= budget);
            prop_assert_eq!(choice.gain + outside + sum(&|p| p.above), sum(&PackUse::dead));
            prop_assert!(choice.packs.is_empty() || choice.gain > 0);
            prop_assert!(choice.cost * 100 <= 70 * sum(&|p| p.blobs));
        }
    }
}
