//! Which packs a subtree needs, and how many stored bytes of each.

use std::collections::BTreeMap;

use crate::units::PackId;

/// Stored bytes needed, by pack: those of its chunks, of the chunks that patches refer to, and of its nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Needs(pub BTreeMap<PackId, u64>);

impl Needs {
    /// Adds bytes of one pack.
    pub fn add(&mut self, pack: PackId, bytes: u64) {
        let sum = self.0.entry(pack).or_default();
        *sum = sum.saturating_add(bytes);
    }

    /// Adds all that another subtree needs.
    pub fn join(&mut self, other: &Needs) {
        for (pack, bytes) in &other.0 {
            self.add(*pack, *bytes);
        }
    }
}
