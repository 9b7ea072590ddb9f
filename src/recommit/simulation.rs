//! What sorting and re-commit are worth: extents that change at very different rates, a backup a day, old ones forgotten. The real
//! choice and the real classes decide; what is simulated is what is stored where.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::choose::{Limits, PackUse, choose};
use super::together::Drags;
use crate::repo::write::Quiet;
use crate::units::{PackId, SessionId};

const DAY: i64 = 86_400_000_000;
/// Extents of the cluster.
const EXTENTS: usize = 1000;
/// Blobs of a pack, each one byte "large".
const PACK: usize = 10;

/// A blob: which extent's, stored (first) on which day.
type Blob = (usize, u32);

#[derive(Default)]
struct Store {
    /// Pack → its blobs; and the day it was stored, by a prune or not.
    packs: BTreeMap<u64, (Vec<Blob>, u32, bool)>,
    place: HashMap<Blob, u64>,
    next: u64,
    written: u64,
}

impl Store {
    fn class(&self, blob: &Blob, day: u32) -> Quiet {
        let (_, stored, pruned) = &self.packs[&self.place[blob]];
        let by_age = Quiet::of_age(i64::from(day - stored) * DAY);
        if *pruned { by_age.max(Quiet::Week) } else { by_age }
    }

    fn store(&mut self, blobs: Vec<(Blob, Quiet)>, day: u32, pruned: bool, sorted: bool) {
        let mut open: BTreeMap<Option<Quiet>, Vec<Blob>> = BTreeMap::new();
        for (blob, quiet) in blobs {
            let pack = open.entry(sorted.then_some(quiet)).or_default();
            pack.push(blob);
            if pack.len() == PACK {
                let full = std::mem::take(pack);
                self.close(full, day, pruned);
            }
        }
        open.into_values().filter(|pack| !pack.is_empty()).for_each(|pack| self.close(pack, day, pruned));
    }

    fn close(&mut self, pack: Vec<Blob>, day: u32, pruned: bool) {
        self.written += pack.len() as u64;
        pack.iter().for_each(|blob| _ = self.place.insert(*blob, self.next));
        self.packs.insert(self.next, (pack, day, pruned));
        self.next += 1;
    }
}

/// Days whose snapshots are kept: so many dailies, and every seventh and thirtieth day for longer where `gfs` says so.
fn kept(today: u32, gfs: bool) -> BTreeSet<u32> {
    let dailies = (0..14).filter_map(|back| today.checked_sub(back));
    let of = |every: u32, count: u32| (0..=today).rev().filter(move |day| gfs && day % every == 0).take(count as usize);
    dailies.chain(of(7, 8)).chain(of(30, 12)).collect()
}

/// Runs 240 days; the mean and the worst of stored / needed over the second half, and what was written in all.
fn run(sorted: bool, recommits: Option<u8>, gfs: bool) -> (f64, f64, u64) {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut chance = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as f64 / (1u64 << 53) as f64
    };
    // A heavy tail: a few change daily, most once in months.
    let rates: Vec<f64> = (0..EXTENTS).map(|_| 0.9 * chance().powi(12)).collect();
    let (mut store, mut snapshots) = (Store::default(), BTreeMap::<u32, Vec<Blob>>::new());
    let mut now: Vec<Blob> = (0..EXTENTS).map(|extent| (extent, 0)).collect();
    store.store(now.iter().map(|blob| (*blob, Quiet::New)).collect(), 0, false, sorted);
    snapshots.insert(0, now.clone());
    let (mut sum, mut worst, mut days) = (0.0, 0.0f64, 0);
    for day in 1..=240 {
        let changed: Vec<usize> = (0..EXTENTS).filter(|extent| chance() < rates[*extent]).collect();
        let blobs = changed.iter().map(|extent| ((*extent, day), store.class(&now[*extent], day))).collect();
        store.store(blobs, day, false, sorted);
        changed.iter().for_each(|extent| now[*extent] = (*extent, day));
        snapshots.insert(day, now.clone());
        let keep = kept(day, gfs);
        snapshots.retain(|day, _| keep.contains(day));
        let live: BTreeSet<Blob> = snapshots.values().flatten().copied().collect();
        let current: BTreeSet<Blob> = now.iter().copied().collect();
        store.packs.retain(|_, (blobs, _, _)| blobs.iter().any(|blob| live.contains(blob)));
        if let Some(most_live) = recommits {
            again(&mut store, &live, &current, (day, most_live), sorted);
        }
        if day > 120 {
            let stored: usize = store.packs.values().map(|(blobs, _, _)| blobs.len()).sum();
            let ratio = stored as f64 / live.len() as f64;
            (sum, worst, days) = (sum + ratio, worst.max(ratio), days + 1);
        }
    }
    (sum / f64::from(days), worst, store.written)
}

fn again(store: &mut Store, live: &BTreeSet<Blob>, current: &BTreeSet<Blob>, (day, most_live): (u32, u8), sorted: bool) {
    let uses: Vec<PackUse> = store
        .packs
        .iter()
        .map(|(id, (blobs, _, _))| {
            let (bytes, live) = (blobs.len() as u64, blobs.iter().filter(|blob| live.contains(*blob)).count() as u64);
            let pack = PackId(u128::from(*id).to_be_bytes());
            PackUse { session: SessionId([0; 16]), id: pack, size: bytes, blobs: bytes, live, drags: 0, above: 0, movable: true }
        })
        .collect();
    let all = uses.iter().map(|p| p.size).sum();
    let ids: Vec<u64> = store.packs.keys().copied().collect();
    let mut moved = Vec::new();
    for index in choose(&uses, &Drags::new(), &Limits { most_live, ..Limits::of(None, all, 0) }).packs {
        let blobs = store.packs[&ids[index]].0.clone();
        for blob in blobs.iter().filter(|blob| live.contains(*blob)) {
            moved.push((*blob, if current.contains(blob) { store.class(blob, day) } else { Quiet::Days }));
        }
    }
    let gone: BTreeSet<u64> = moved.iter().map(|(blob, _)| store.place[blob]).collect();
    store.store(moved, day, true, sorted);
    gone.iter().for_each(|id| _ = store.packs.remove(id));
}

#[test]
fn sorting_and_committing_again_keep_what_is_stored_near_what_is_needed() {
    let as_prune_does = Some(Limits::of(None, 0, 0).most_live);
    let mut all = BTreeMap::new();
    for (gfs, sorted, recommits) in [false, true].into_iter().flat_map(|gfs| {
        [false, true].into_iter().flat_map(move |sorted| [None, as_prune_does].map(move |recommits| (gfs, sorted, recommits)))
    }) {
        let (mean, worst, written) = run(sorted, recommits, gfs);
        println!("gfs {gfs:5} sorted {sorted:5} most live {recommits:?}: mean {mean:.2} worst {worst:.2} written {written}");
        all.insert((gfs, sorted, recommits.is_some()), (mean, worst));
    }
    for gfs in [false, true] {
        assert!(all[&(gfs, true, false)].0 < all[&(gfs, false, false)].0, "sorting alone pays");
        assert!(all[&(gfs, true, true)].0 < all[&(gfs, true, false)].0, "committing again pays");
        assert!(all[&(gfs, true, true)].1 < 1.3, "and both together keep the bound");
    }
}

#[test]
#[ignore = "figures for docs/decisions/014"]
fn thresholds() {
    for (gfs, sorted) in [(false, false), (false, true), (true, false), (true, true)] {
        for most_live in [50, 60, 70, 80, 90] {
            let (mean, worst, written) = run(sorted, Some(most_live), gfs);
            println!("gfs {gfs:5} sorted {sorted:5} most live {most_live}: mean {mean:.2} worst {worst:.2} written {written}");
        }
    }
}
