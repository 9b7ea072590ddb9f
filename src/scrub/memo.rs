//! What was walked before and found whole: snapshots share most of their trees. Of each subtree the packs are kept that
//! it relies on, since the next COMMIT must name them, too.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::repo::log::PackSet;
use crate::repo::pack::Place;
use crate::units::{Digest16, PackId, SessionId, ShortId};

/// A pack, as a small number.
pub(super) type PackNumber = u32;

/// Packs that a subtree relies on.
pub(super) type Packs = Arc<[PackNumber]>;

/// A node, wherever a COMMIT finds it: 16 bytes of hash over session, place, id and digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct NodeKey([u8; 16]);

impl NodeKey {
    pub fn of(session: SessionId, place: Place, id: ShortId, digest: Digest16) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&session.0).update(&place.pack.0).update(&place.blob.to_le_bytes()).update(&place.position.to_le_bytes());
        hasher.update(&id.0).update(&digest.0);
        NodeKey(*hasher.finalize().as_bytes().first_chunk().unwrap_or(&[0; 16]))
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Memo {
    numbers: Mutex<Numbers>,
    whole: Mutex<HashMap<NodeKey, Packs>>,
}

#[derive(Default)]
struct Numbers {
    by_pack: HashMap<(SessionId, PackId), PackNumber>,
    packs: Vec<(SessionId, PackId)>,
}

impl Memo {
    /// The number of a pack.
    pub fn number(&self, session: SessionId, pack: PackId) -> PackNumber {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let next = numbers.packs.len() as PackNumber;
        let number = *numbers.by_pack.entry((session, pack)).or_insert(next);
        if number == next {
            numbers.packs.push((session, pack));
        }
        number
    }

    /// The packs of a set.
    pub fn set(&self, set: &PackSet) -> BTreeSet<PackNumber> {
        set.iter().map(|(session, pack)| self.number(*session, *pack)).collect()
    }

    /// Which pack that number is.
    pub fn pack(&self, number: PackNumber) -> Option<(SessionId, PackId)> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).packs.get(number as usize).copied()
    }

    /// What this subtree relies on, if it was found whole.
    pub fn get(&self, key: &NodeKey) -> Option<Packs> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// This subtree is whole, and relies on these packs.
    pub fn keep(&self, key: NodeKey, packs: &BTreeSet<PackNumber>) {
        let packs: Packs = packs.iter().copied().collect();
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).insert(key, packs);
    }
}
