//! The live snapshots, in the order of the log.

use std::collections::{BTreeMap, BTreeSet};

use crate::repo::log::{Fold, LiveCommit};

/// A live snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The number of its newest live COMMIT.
    pub number: u64,
    /// That COMMIT.
    pub commit: &'a LiveCommit,
}

impl Listed<'_> {
    /// The snapshot's id.
    pub fn id(&self) -> &str {
        &self.commit.summary.id
    }
}

/// The live snapshots of a cluster, or of all: newest last, by the order of the log and not by any clock.
///
/// A COMMIT that replaces another keeps that one's place in the order: storing a snapshot anew doesn't make it newer.
pub fn snapshots<'a>(fold: &'a Fold, cluster: Option<&str>) -> Vec<Listed<'a>> {
    let mut newest: BTreeMap<&str, Listed<'a>> = BTreeMap::new();
    for (number, commit) in &fold.commits {
        if cluster.is_some_and(|name| name != commit.summary.cluster) {
            continue;
        }
        newest.insert(&commit.summary.id, Listed { number: *number, commit });
    }
    let mut all: Vec<_> = newest.into_values().collect();
    all.sort_by_key(|listed| (listed.commit.first, listed.number));
    all
}

/// The names of the clusters that have live snapshots, in order.
pub fn clusters(fold: &Fold) -> BTreeSet<&str> {
    fold.commits.values().map(|c| c.summary.cluster.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::testing::{fold_of, snapshot};

    #[test]
    fn snapshots_are_in_the_order_of_the_log() {
        // By its clock the second was taken before the first.
        let fold = fold_of([(5, snapshot("20260102-000000-aaaa", "shop")), (9, snapshot("20260101-000000-bbbb", "main"))]);
        let ids = |cluster| snapshots(&fold, cluster).iter().map(|s| (s.number, s.id().to_owned())).collect::<Vec<_>>();
        assert_eq!(ids(None), [(5, "20260102-000000-aaaa".to_owned()), (9, "20260101-000000-bbbb".to_owned())]);
        assert_eq!(ids(Some("main")), [(9, "20260101-000000-bbbb".to_owned())]);
        assert!(ids(Some("other")).is_empty());
        assert_eq!(clusters(&fold).into_iter().collect::<Vec<_>>(), ["main", "shop"]);
    }

    #[test]
    fn a_replaced_snapshot_keeps_its_place() {
        let mut fold = fold_of([(5, snapshot("a", "main")), (7, snapshot("b", "main")), (9, snapshot("a", "main"))]);
        let replacing = fold.commits.get_mut(&9).unwrap();
        (replacing.replaces, replacing.first) = (Some(5), 5);
        let ids = |fold: &Fold| snapshots(fold, None).iter().map(|s| (s.number, s.id().to_owned())).collect::<Vec<_>>();
        let expected = [(9, "a".to_owned()), (7, "b".to_owned())];
        assert_eq!(ids(&fold), expected, "while both are live");
        fold.commits.remove(&5);
        assert_eq!(ids(&fold), expected, "once the replaced one is forgotten");
        let mut third = fold.commits[&9].clone();
        third.replaces = Some(9);
        fold.commits.insert(11, third);
        fold.commits.remove(&9);
        assert_eq!(ids(&fold), [(11, "a".to_owned()), (7, "b".to_owned())], "a second time, with the first forgotten");
    }
}
