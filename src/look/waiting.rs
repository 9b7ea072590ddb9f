//! Which WAL a snapshot still waits for: computed from the archive each time, never stored.

use crate::repo::log::{ClusterId, Summary, WalMode};
use crate::units::{SegmentName, SegmentNo};

/// The segments without which the snapshot isn't consistent, from its start to its stop; none if it holds its own WAL.
///
/// Where a timeline was left, the segment of the switch is the next one's: its copy holds both parts, and the other may
/// never have been archived but as `.partial`.
pub fn segments_needed(summary: &Summary) -> impl Iterator<Item = SegmentName> + '_ {
    let wal = summary.wal.as_ref().filter(|wal| wal.mode == WalMode::Archive);
    wal.into_iter().flat_map(|wal| {
        let (size, count) = (wal.segment_size, wal.ranges.len());
        wal.ranges.iter().enumerate().flat_map(move |(i, range)| {
            let first = size.segment_of(range.first).0;
            let behind = if i + 1 < count { size.segment_of(range.last) } else { size.segment_before(range.last).next() };
            (first..behind.0).map(move |no| SegmentName::new(range.timeline, SegmentNo(no), size))
        })
    })
}

/// The first segment that the snapshot needs and the archive doesn't hold; `None` once it is restorable.
///
/// # Errors
/// Those of `archived`, which says whether the archive of a cluster holds a segment.
pub fn waits_for<E>(
    summary: &Summary,
    mut archived: impl FnMut(&ClusterId, SegmentName) -> Result<bool, E>,
) -> Result<Option<SegmentName>, E> {
    let cluster = summary.cluster_id();
    for segment in segments_needed(summary) {
        if !archived(&cluster, segment)? {
            return Ok(Some(segment));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::look::testing::{snapshot, wal};

    fn names(summary: &Summary) -> Vec<String> {
        segments_needed(summary).map(|s| s.to_string()).collect()
    }

    #[test]
    fn it_waits_for_the_first_that_is_missing() {
        let mut summary = snapshot("a", "main");
        summary.wal = Some(wal(&[(1, 0x300_0028, 0x500_0000)], WalMode::Archive));
        assert_eq!(names(&summary), ["000000010000000000000003", "000000010000000000000004"], "a boundary needs the one before it");
        let waits = |there: &[&str]| {
            let Ok(found) = waits_for(&summary, |_, s| Ok::<_, Infallible>(there.contains(&s.to_string().as_str())));
            found.map(|s| s.to_string())
        };
        assert_eq!(waits(&[]).as_deref(), Some("000000010000000000000003"));
        assert_eq!(waits(&["000000010000000000000003"]).as_deref(), Some("000000010000000000000004"));
        assert_eq!(waits(&["000000010000000000000003", "000000010000000000000004"]), None);
    }

    #[test]
    fn ranges_over_a_switch_are_all_needed_and_copied_ones_are_not() {
        let mut summary = snapshot("a", "main");
        summary.wal = Some(wal(&[(1, 0x200_0028, 0x300_1000), (2, 0x300_1000, 0x400_0100)], WalMode::Archive));
        let expected = ["000000010000000000000002", "000000020000000000000003", "000000020000000000000004"];
        assert_eq!(names(&summary), expected, "the segment of the switch is the child's");
        summary.wal = Some(wal(&[(1, 0x200_0028, 0x300_0000), (2, 0x300_0000, 0x400_0100)], WalMode::Archive));
        assert_eq!(names(&summary), expected, "the switch lies on a boundary");
        summary.wal = Some(wal(&[(1, 0x300_0028, 0x300_1000), (2, 0x300_1000, 0x300_2000)], WalMode::Archive));
        assert_eq!(names(&summary), ["000000020000000000000003"]);
        summary.wal = Some(wal(&[(1, 0x300_0028, 0x300_1000)], WalMode::Copy));
        assert_eq!(names(&summary), Vec::<String>::new());
        summary.wal = None;
        assert_eq!(names(&summary), Vec::<String>::new());
    }
}
