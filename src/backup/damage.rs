//! Pages that are not what they should be.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};

pub use crate::pg::facts::DamagedPage;
use crate::units::Lsn;

/// Collects damage from all threads.
#[derive(Default)]
pub struct Damage {
    pages: Mutex<(Vec<DamagedPage>, u64)>,
    newest: Mutex<Newest>,
}

/// Pages that claim to be newest, until the stop LSN is known: those with the highest LSNs.
#[derive(Default)]
struct Newest {
    /// The one with the lowest LSN on top.
    claims: BinaryHeap<Reverse<Claim>>,
    /// The highest LSN that had no room.
    beside: Lsn,
}

struct Claim(Lsn, DamagedPage);

impl Ord for Claim {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Claim {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Claim {}

/// Damaged pages that are named; more are counted.
const NAMED: usize = 10_000;

impl Damage {
    /// A page is damaged.
    pub fn add(&self, page: DamagedPage) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.1 += 1;
        if pages.0.len() < NAMED {
            pages.0.push(page);
        }
    }

    /// A page has this LSN, which WAL will or won't reach.
    pub fn claims(&self, lsn: Lsn, page: impl FnOnce() -> DamagedPage) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.claims.len() < NAMED {
            newest.claims.push(Reverse(Claim(lsn, page())));
            return;
        }
        let lowest = newest.claims.peek().map_or(Lsn(0), |Reverse(Claim(lowest, _))| *lowest);
        newest.beside = newest.beside.max(lsn.min(lowest));
        if lowest < lsn {
            newest.claims.pop();
            newest.claims.push(Reverse(Claim(lsn, page())));
        }
    }

    /// All that was found, in order, and how many pages in all; `stop` is where the backup ends: no page can have an LSN beyond it.
    pub fn finish(self, stop: Option<Lsn>) -> (Vec<DamagedPage>, u64) {
        let (mut pages, mut count) = self.pages.into_inner().unwrap_or_else(PoisonError::into_inner);
        let newest = self.newest.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = stop {
            let beyond: Vec<DamagedPage> =
                newest.claims.into_iter().filter(|Reverse(claim)| claim.0 > stop).map(|Reverse(claim)| claim.1).collect();
            // Beside so many, how many more there are doesn't matter, but that not all are named.
            count += beyond.len() as u64 + u64::from(newest.beside > stop);
            pages.extend(beyond);
            pages.truncate(NAMED);
        }
        pages.sort_by(|a, b| (&a.path, a.block).cmp(&(&b.path, b.block)));
        (pages, count)
    }
}
