//! Tables and nodes of the structure, many at once before they are needed one by one.
//!
//! A tree is read node by node, and a node is a few hundred bytes: of a service that answers after 50 ms a restore would
//! wait longer for the tree than for the files. The nodes of a snapshot lie close together, in packs of their own: so they
//! are read in blocks with their neighbours, and whoever knows which nodes come next says so. That is a hint: whatever fails
//! here fails again, with an error, where the node is needed. Of a disk nothing is read ahead.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use super::read::KEPT_TABLES;
use super::{KeptRanges, Packs, Place, Row};
use crate::repo::{PackRef, RepoError};
use crate::store::at_once;
use crate::units::PackId;

/// Bytes of blocks that are kept.
const KEPT_BLOCKS: u64 = 32 << 20;
/// Bytes that are read ahead at once: well below what is kept, so that nothing is let go before it was needed.
const MOST_AHEAD: u64 = 12 << 20;
/// Tails of so many bytes are read ahead of all: in memory their tables take up to three times as much, and must stay there.
const TAILS_AHEAD: u64 = (KEPT_TABLES / 3) as u64;
/// Tables that are read ahead at once.
const MOST_TABLES: usize = 64;

/// Blocks of packs, the newest.
#[derive(Default)]
pub(super) struct Blocks {
    kept: HashMap<(PackId, u64), Arc<[u8]>>,
    order: VecDeque<(PackId, u64)>,
    bytes: u64,
}

impl Blocks {
    fn insert(&mut self, at: (PackId, u64), block: &[u8]) {
        self.bytes += block.len() as u64;
        if let Some(before) = self.kept.insert(at, block.into()) {
            self.bytes = self.bytes.saturating_sub(before.len() as u64);
        } else {
            self.order.push_back(at);
        }
        while self.bytes > KEPT_BLOCKS {
            let Some(oldest) = self.order.pop_front() else { return };
            let gone = self.kept.remove(&oldest).map_or(0, |block| block.len() as u64);
            self.bytes = self.bytes.saturating_sub(gone);
        }
    }
}

/// Neighbouring blocks, from a first to a last.
struct Stretch {
    pack: PackId,
    first: u64,
    last: u64,
}

impl Packs {
    /// Reads the tables of these packs that are not at hand, many at once.
    pub fn tables_ahead(&self, packs: impl IntoIterator<Item = PackId>) {
        if self.pace.reads <= 1 {
            return;
        }
        let packs: BTreeSet<PackId> = packs.into_iter().filter(|id| self.table_at_hand(*id).is_none()).take(MOST_TABLES * 4).collect();
        if packs.len() < 2 {
            return;
        }
        let packs: Vec<PackId> = packs.into_iter().take(MOST_TABLES).collect();
        let _: Result<(), ()> = at_once(&packs, self.pace.reads, |id| drop(self.table(*id)), &mut |_, ()| Ok(()));
    }

    /// Reads the tables of all packs that are known, for who is going to read all of them: many at once, and not one behind the
    /// other as the tree leads to them. Not where they are too many to be kept.
    pub fn all_tables_ahead(&self) {
        let known: Vec<PackRef> = self.directory.read().unwrap_or_else(PoisonError::into_inner).values().copied().collect();
        if known.iter().fold(0_u64, |sum, pack| sum.saturating_add(pack.tail.into())) <= TAILS_AHEAD {
            self.tables_ahead(known.iter().map(|pack| pack.id));
        }
    }

    /// Reads the nodes at these places, many at once: they will be asked for next.
    pub fn nodes_ahead(&self, places: impl IntoIterator<Item = Place>) {
        if self.pace.reads <= 1 || self.pace.block == 0 {
            return;
        }
        let places: Vec<Place> = places.into_iter().collect();
        self.tables_ahead(places.iter().map(|place| place.pack));
        let mut lacking = BTreeSet::new();
        for place in places {
            if lacking.len() as u64 * self.pace.block >= MOST_AHEAD {
                break;
            }
            let Some(table) = self.table_at_hand(place.pack) else { continue };
            let Some((row, _, _)) = table.find(place) else { continue };
            if self.is_kept(place.pack, row) {
                continue;
            }
            lacking.extend(self.lacking(place.pack, row));
        }
        let stretches = self.stretches(lacking);
        let _: Result<(), ()> = at_once(&stretches, self.pace.reads, |stretch| self.read_blocks(stretch), &mut |_, _| Ok(()));
    }

    /// Is it in this host's cache?
    fn is_kept(&self, pack: PackId, row: &Row) -> bool {
        let kept = |ranges: &Arc<dyn KeptRanges>| Some(ranges.get(self.name(pack).ok()?.as_str(), row.offset.into(), row.len).is_some());
        self.ranges.as_ref().and_then(kept).unwrap_or(false)
    }

    /// The sealed bytes of a small blob.
    pub(super) fn small(&self, pack: PackId, row: &Row) -> Result<Vec<u8>, RepoError> {
        if self.pace.block == 0 || u64::from(row.len) > 2 * self.pace.block {
            return Ok(self.backend.read_range(&self.name(pack)?, row.offset.into(), row.len as usize)?);
        }
        if let Some(bytes) = self.of_blocks(pack, row) {
            return Ok(bytes);
        }
        // Few, and one after the other: neighbours of one another.
        for stretch in self.stretches(self.lacking(pack, row).collect()) {
            self.read_blocks(&stretch)?;
        }
        match self.of_blocks(pack, row) {
            Some(bytes) => Ok(bytes),
            None => Ok(self.backend.read_range(&self.name(pack)?, row.offset.into(), row.len as usize)?),
        }
    }

    fn blocks_of(&self, row: &Row) -> std::ops::RangeInclusive<u64> {
        let (start, end) = (u64::from(row.offset), u64::from(row.offset) + u64::from(row.len.max(1)));
        let block = self.pace.block.max(1);
        start / block..=(end - 1) / block
    }

    /// The blocks of a blob that are not kept.
    fn lacking(&self, pack: PackId, row: &Row) -> impl Iterator<Item = (PackId, u64)> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let lacking: Vec<_> = self.blocks_of(row).map(|number| (pack, number)).filter(|at| !blocks.kept.contains_key(at)).collect();
        lacking.into_iter()
    }

    fn of_blocks(&self, pack: PackId, row: &Row) -> Option<Vec<u8>> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let range = self.blocks_of(row);
        let mut bytes = Vec::with_capacity(row.len as usize);
        for number in range {
            let (block, start) = (blocks.kept.get(&(pack, number))?, number * self.pace.block);
            let from = u64::from(row.offset).saturating_sub(start) as usize;
            let to = (u64::from(row.offset) + u64::from(row.len) - start).min(block.len() as u64) as usize;
            bytes.extend_from_slice(block.get(from..to)?);
        }
        (bytes.len() == row.len as usize).then_some(bytes)
    }

    /// What is read at once: blocks with little between them together.
    fn stretches(&self, blocks: BTreeSet<(PackId, u64)>) -> Vec<Stretch> {
        let (gap, most) = (self.pace.gap / self.pace.block.max(1) + 1, (self.pace.stretch / self.pace.block.max(1)).max(1));
        let mut stretches: Vec<Stretch> = Vec::new();
        for (pack, number) in blocks {
            match stretches.last_mut() {
                Some(last) if last.pack == pack && number - last.last <= gap && number - last.first < most => last.last = number,
                _ => stretches.push(Stretch { pack, first: number, last: number }),
            }
        }
        stretches
    }

    fn read_blocks(&self, stretch: &Stretch) -> Result<(), RepoError> {
        let Stretch { pack, first, last } = *stretch;
        let known = self.known(pack)?;
        let block = self.pace.block.max(1);
        let end = ((last + 1) * block).min(known.size.saturating_sub(known.tail.into()));
        let start = first * block;
        if start >= end {
            return Ok(());
        }
        let bytes = self.backend.read_range(&self.name(pack)?, start, (end - start) as usize)?;
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, bytes) in (first..).zip(bytes.chunks(block as usize)) {
            blocks.insert((pack, number), bytes);
        }
        Ok(())
    }
}
