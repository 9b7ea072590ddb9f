//! What a snapshot waits for, by the archive's own judgement: an object that doesn't count is no segment.

use std::collections::BTreeMap;
use std::collections::btree_map;

use super::failure::Failure;
use super::fronts::CatalogFronts;
use super::tail::OpenedTail;
use crate::archive::status::{Lines, SnapshotSpan};
use crate::archive::{Archive, Glance, SiteError};
use crate::host::access::Opened;
use crate::look;
use crate::repo::log::{ClusterId, Summary};
use crate::units::{Cancel, SegmentName};

/// Archives that were looked at, each folder once.
pub(super) struct Archived<'a> {
    opened: &'a Opened,
    cancel: &'a Cancel,
    fronts: CatalogFronts,
    glances: BTreeMap<ClusterId, Glance>,
    whole: BTreeMap<ClusterId, Archive>,
}

impl<'a> Archived<'a> {
    /// Nothing is read yet. Later the log is looked at: the caller must hold no view of it.
    pub fn of(opened: &'a Opened, cancel: &'a Cancel) -> Self {
        Archived { opened, cancel, fronts: CatalogFronts::of(opened), glances: BTreeMap::new(), whole: BTreeMap::new() }
    }

    /// The segment that a snapshot waits for.
    pub fn waits_for(&mut self, summary: &Summary) -> Result<Option<SegmentName>, Failure> {
        let Some(missing) = look::waits_for(summary, |cluster, segment| self.holds(cluster, segment))? else { return Ok(None) };
        let Some(span) = SnapshotSpan::of(0, summary) else { return Ok(None) };
        // Nearly always it waits indeed. But a child's copy may stand in for it, or a fault lie behind the stop.
        let waiting = Lines::new(self.whole(summary.cluster_id())?).waits_for(&span);
        Ok(waiting.map(|waiting| waiting.segment.unwrap_or(missing)))
    }

    /// Is the segment there, valid to its end?
    fn holds(&mut self, cluster: &ClusterId, segment: SegmentName) -> Result<bool, SiteError> {
        self.cancel.check()?;
        let tail = OpenedTail::new(self.opened, &cluster.name)?;
        let glance = self.glances.entry(cluster.clone()).or_default();
        let found = glance.segment(&tail.site(), cluster.system_identifier, segment, &self.fronts)?;
        Ok(found.is_some_and(|record| record.fault.is_none()))
    }

    fn whole(&mut self, cluster: ClusterId) -> Result<&Archive, SiteError> {
        let tail = OpenedTail::new(self.opened, &cluster.name)?;
        let read = || Archive::read(&tail.site(), cluster.system_identifier, &self.fronts, self.cancel);
        Ok(match self.whole.entry(cluster.clone()) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(place) => place.insert(read()?),
        })
    }
}
