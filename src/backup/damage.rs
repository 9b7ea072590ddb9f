//! Pages that are not what they should be.

use std::sync::{Mutex, PoisonError};

pub use crate::pg::facts::DamagedPage;
use crate::units::Lsn;

/// Collects damage from all threads.
#[derive(Default)]
pub struct Damage {
    pages: Mutex<(Vec<DamagedPage>, u64)>,
    newest: Mutex<Vec<(Lsn, DamagedPage)>>,
}

/// Damaged pages that are named; more are counted.
const NAMED: usize = 10_000;
/// Pages that claim to be newest are remembered until the stop LSN is known.
const CLAIMS: usize = 32;

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
        if newest.len() < CLAIMS {
            newest.push((lsn, page()));
        } else if let Some(lowest) = newest.iter_mut().min_by_key(|(lsn, _)| *lsn).filter(|(lowest, _)| *lowest < lsn) {
            *lowest = (lsn, page());
        }
    }

    /// All that was found, in order, and how many pages in all; `stop` is where the backup ends: no page can have an LSN beyond it.
    pub fn finish(self, stop: Option<Lsn>) -> (Vec<DamagedPage>, u64) {
        let (mut pages, mut count) = self.pages.into_inner().unwrap_or_else(PoisonError::into_inner);
        let newest = self.newest.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = stop {
            let before = pages.len() as u64;
            pages.extend(newest.into_iter().filter(|(lsn, _)| *lsn > stop).map(|(_, page)| page));
            count += pages.len() as u64 - before;
        }
        pages.sort_by(|a, b| (&a.path, a.block).cmp(&(&b.path, b.block)));
        (pages, count)
    }
}
