//! Which segments the archive holds, by the names of its objects: enough to say what a snapshot waits for.

use std::collections::{BTreeMap, BTreeSet};

use crate::host::HostError;
use crate::host::access::Opened;
use crate::look;
use crate::repo::log::{ClusterId, Summary};
use crate::repo::wal::WalAddress;
use crate::units::SegmentName;

/// Folders of the archive that were listed, each once.
pub(super) struct Archived<'a> {
    opened: &'a Opened,
    folders: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Archived<'a> {
    /// Nothing is read yet.
    pub fn of(opened: &'a Opened) -> Self {
        Archived { opened, folders: BTreeMap::new() }
    }

    /// The segment that a snapshot waits for.
    pub fn waits_for(&mut self, summary: &Summary) -> Result<Option<SegmentName>, HostError> {
        look::waits_for(summary, |cluster, segment| self.holds(cluster, segment))
    }

    fn holds(&mut self, cluster: &ClusterId, segment: SegmentName) -> Result<bool, HostError> {
        let address = WalAddress {
            cluster: self.opened.sealing.cluster_key(&cluster.name),
            system_identifier: cluster.system_identifier,
            name: segment.to_string(),
        };
        let (folder, object) = (address.folder()?, address.object(0)?);
        if !self.folders.contains_key(folder.as_str()) {
            let names = self.opened.backend.list_sorted(Some(&folder))?.into_iter().map(|o| o.name.to_string()).collect();
            self.folders.insert(folder.to_string(), names);
        }
        Ok(self.folders.get(folder.as_str()).is_some_and(|names| names.contains(object.as_str())))
    }
}
