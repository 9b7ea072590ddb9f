//! The log, as the archive asks for it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::archive::{LogTail, Rights, Site, SiteError, TailFailure};
use crate::host::access::Opened;

/// The log of an open repository, with an eye on one cluster.
pub(super) struct OpenedTail<'a> {
    opened: &'a Opened,
    cluster: &'a str,
    just_opened: AtomicBool,
}

impl<'a> OpenedTail<'a> {
    /// Of this cluster.
    ///
    /// # Errors
    /// If what was expired of its WAL can't be read.
    pub fn new(opened: &'a Opened, cluster: &'a str) -> Result<Self, SiteError> {
        OpenedTail::of(opened, cluster, false)
    }

    /// Of this cluster, for whoever has only just opened the repository: its log was read to the end for that.
    ///
    /// # Errors
    /// As for [`OpenedTail::new`].
    pub fn just_opened(opened: &'a Opened, cluster: &'a str) -> Result<Self, SiteError> {
        OpenedTail::of(opened, cluster, true)
    }

    fn of(opened: &'a Opened, cluster: &'a str, just_opened: bool) -> Result<Self, SiteError> {
        opened.know_wal(cluster).map_err(|e| TailFailure(Box::new(e)))?;
        Ok(OpenedTail { opened, cluster, just_opened: AtomicBool::new(just_opened) })
    }

    /// The cluster's archive.
    pub fn site(&'a self) -> Site<'a> {
        Site {
            backend: self.opened.backend.as_ref(),
            repository: self.opened.format.repository,
            sealing: &self.opened.sealing,
            cluster: self.cluster,
            tail: self,
        }
    }
}

impl LogTail for OpenedTail<'_> {
    fn known(&self) -> Rights {
        Rights::of(&self.opened.view(), self.cluster)
    }

    fn just_read(&self) -> Option<Rights> {
        self.just_opened.swap(false, Ordering::Relaxed).then(|| self.known())
    }

    fn read_on(&self) -> Result<Rights, TailFailure> {
        self.opened.refresh().map_err(|e| TailFailure(Box::new(e)))?;
        Ok(self.known())
    }
}
