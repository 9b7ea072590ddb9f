//! The last segments of a key that is revoked: what it pushed before stays, all that it pushes later is void.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::BTreeMap;

use super::list::Archive;
use crate::repo::log::WalEnd;
use crate::units::{KeyId, SegmentName, TimelineId};

/// The last segment that counts and was pushed by this key, for each timeline on which one was; for a timeline of which it
/// pushed the history file alone, a name before all segments, so that the history goes on to count.
///
/// A partial segment is none: PostgreSQL reads what it holds from the next timeline's first segment, and its name must not
/// stay open for a whole one. Read after the revocation: who was let in before it has stored what it pushed.
pub fn wal_ends(archive: &Archive, key: KeyId) -> Vec<WalEnd> {
    let mut last: BTreeMap<TimelineId, SegmentName> = BTreeMap::new();
    let mut raise = |name: SegmentName| {
        let known = last.entry(name.timeline).or_insert(name);
        *known = (*known).max(name);
    };
    let histories = archive.histories.iter().filter(|(_, entry)| entry.signer == key);
    histories.for_each(|(timeline, _)| raise(SegmentName { timeline: *timeline, log: 0, seg: 0 }));
    archive.segments.values().filter(|entry| entry.signer == key).for_each(|entry| raise(entry.facts.name()));
    // Whose these are isn't kept; they are of long ago, and lie before what came later.
    archive.other_sizes.keys().for_each(|name| raise(*name));
    let (cluster, system_identifier) = (&archive.cluster, archive.system_identifier);
    last.into_values().map(|last| WalEnd { cluster: cluster.clone(), system_identifier, last }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::{SYSTEM, World, segment};
    use crate::archive::{Archive, NoCache};
    use crate::units::Cancel;

    #[test]
    fn what_was_pushed_stays_and_nothing_more_is_let_in() {
        let world = World::new();
        for no in 3..6u64 {
            world.push(&format!("0000000100000000{no:08X}"), &segment(1, no, 1)).unwrap();
        }
        world.push("00000002.history", b"1\t0/600100\tno recovery target specified\n").unwrap();
        world.push("000000010000000000000006.partial", &segment(1, 6, 1)).unwrap();
        let read = || Archive::read(&world.site(), SYSTEM, &NoCache, &Cancel::new()).unwrap();
        let ends = wal_ends(&read(), world.host.id());
        let names: Vec<String> = ends.iter().map(|end| end.last.to_string()).collect();
        assert_eq!(names, ["000000010000000000000005", "000000020000000000000000"]);
        assert!(ends.iter().all(|end| end.cluster == "shop" && end.system_identifier == SYSTEM));
        assert!(wal_ends(&read(), KeyId([9; 16])).is_empty());
    }
}
