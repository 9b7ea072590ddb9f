//! What can go wrong with the archive. A restore takes absence for the end of WAL, so absence is no error here and no
//! error is ever an absence.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::pg::control_file::ControlFileError;
use crate::pg::timeline::HistoryError;
use crate::pg::wal::{SegmentError, WalFileName, WalNameError};
use crate::repo::RepoError;
use crate::repo::log::Head;
use crate::store::StoreError;
use crate::units::{Cancelled, Class, Explain, Lsn, SegmentName, TimelineId, class_of_io};

/// Why the caller could not read the log on.
#[derive(Debug)]
pub struct TailFailure(pub Box<dyn Explain + Send + Sync>);

impl fmt::Display for TailFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for TailFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl Explain for TailFailure {
    fn class(&self) -> Class {
        self.0.class()
    }

    fn cure(&self) -> Option<String> {
        self.0.cure()
    }
}

/// The archive's place, or the log that it relies on, isn't as it must be.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Tail(#[from] TailFailure),
    /// The log ends before, or differs from, what this host has seen.
    #[error("log/{} is gone or another one than this host has seen, and the log ends at {}: the repository was set back", remembered.number, found.number)]
    SetBack {
        /// What was seen.
        remembered: Head,
        /// What is there.
        found: Head,
    },
    /// An object bears no signature that counts, and names an entry of the log that isn't there.
    #[error(
        "{object} is not what a host of this repository stored ({why}), or the log was set back: it names log/{number}, which is not there or another one"
    )]
    UnknownHead {
        /// The object.
        object: String,
        /// The entry's number.
        number: u64,
        /// What is wrong with the object.
        why: String,
    },
    /// The log grew all the time.
    #[error("the log was appended to again and again meanwhile")]
    Busy,
    /// It was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Explain for SiteError {
    fn class(&self) -> Class {
        match self {
            SiteError::Store(e) => e.class(),
            SiteError::Tail(e) => e.class(),
            SiteError::SetBack { .. } | SiteError::UnknownHead { .. } => Class::Corrupt,
            SiteError::Busy => Class::Conflict,
            SiteError::Cancelled(_) => Class::Failed,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            SiteError::Store(e) => e.cure(),
            SiteError::Tail(e) => e.cure(),
            SiteError::SetBack { .. } => {
                Some("find out who restored or replaced the repository, and whether its disk is the right one".into())
            }
            SiteError::UnknownHead { object, .. } => {
                Some(format!("find out whether the repository was set back; if {object} is rubbish, move it out of the repository"))
            }
            SiteError::Busy | SiteError::Cancelled(_) => None,
        }
    }
}

fn left(leaves: &Option<(TimelineId, Lsn)>) -> String {
    match leaves {
        Some((parent, lsn)) => format!("leaves timeline {parent} at {lsn}"),
        None => "comes from nowhere that the archive knows".into(),
    }
}

/// A file was not archived, or not for sure.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The path has no name that is archived.
    #[error(transparent)]
    Name(#[from] WalNameError),
    /// The path names no file.
    #[error("{} names no file", path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// The file can't be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither segment nor history can be like that.
    #[error("{} is {what}", path.display())]
    Unfit {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// The segment's header doesn't fit its name, its length or the cluster.
    #[error("{} is not archived", path.display())]
    Segment {
        /// The path.
        path: PathBuf,
        /// Why.
        source: SegmentError,
    },
    /// A history file that no server could read.
    #[error("{} is not archived", path.display())]
    History {
        /// The path.
        path: PathBuf,
        /// Why.
        source: HistoryError,
    },
    /// The data directory belongs to another cluster than the one backed up under this name.
    #[error("the data directory {} has system identifier {found}, and cluster {cluster} has {expected}", pgdata.display())]
    ForeignDirectory {
        /// The data directory.
        pgdata: PathBuf,
        /// The cluster's name.
        cluster: String,
        /// What its newest backup says.
        expected: u64,
        /// What the data directory says.
        found: u64,
    },
    /// Nothing says which cluster the file belongs to.
    #[error("cluster {cluster} has no backup yet, and {} can't be read to learn its system identifier", path.display())]
    NoIdentifier {
        /// The cluster's name.
        cluster: String,
        /// The control file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The control file is damaged.
    #[error("cannot learn the system identifier from {}", path.display())]
    ControlFile {
        /// The control file.
        path: PathBuf,
        /// Why.
        source: ControlFileError,
    },
    /// The archive has another file of that name.
    #[error("the archive holds other bytes under the name {name}{}", if *own { ", pushed with this host's own key" } else { "" })]
    OtherBytes {
        /// The file's name.
        name: WalFileName,
        /// The object that holds them.
        object: String,
        /// This host's key signed them: another machine works with a copy of it, or this one was set back.
        own: bool,
    },
    /// It would begin a timeline beside a line that is still archived: a copy of the cluster was promoted.
    #[error("{name} is not archived: timeline {timeline} {}, and timeline {line} is still being archived, up to {newest}", left(leaves))]
    Fork {
        /// The file's name.
        name: WalFileName,
        /// The cluster's name.
        cluster: String,
        /// The timeline that would begin.
        timeline: TimelineId,
        /// Which timeline it leaves, and where, if that is known.
        leaves: Option<(TimelineId, Lsn)>,
        /// The line that is still archived.
        line: TimelineId,
        /// Its newest segment.
        newest: SegmentName,
    },
    /// A segment of another timeline of the same number than the archive's.
    #[error("{name} is not archived: by the archive's history timeline {} leaves timeline {parent} at {switch}, behind it", name.timeline)]
    BeforeBeginning {
        /// The segment's name.
        name: SegmentName,
        /// The parent of the archive's timeline.
        parent: TimelineId,
        /// Where that one was left.
        switch: Lsn,
    },
    /// This host's key may not write for this cluster, or no longer.
    #[error("this host's key has no right to write for cluster {cluster}")]
    NoRight {
        /// The cluster's name.
        cluster: String,
    },
    /// So many void objects under one name that something else is wrong.
    #[error("there are {count} void objects under the name {name}")]
    Variants {
        /// The file's name.
        name: WalFileName,
        /// How many.
        count: u32,
    },
    /// Store or log.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The object could not be made.
    #[error(transparent)]
    Repo(#[from] RepoError),
}

impl From<StoreError> for PushError {
    fn from(e: StoreError) -> Self {
        PushError::Site(e.into())
    }
}

impl Explain for PushError {
    fn class(&self) -> Class {
        match self {
            PushError::Name(e) => e.class(),
            PushError::NoName { .. } => Class::Usage,
            PushError::Read { source, .. } => class_of_io(source),
            PushError::Unfit { .. } | PushError::OtherBytes { .. } | PushError::Variants { .. } => Class::Refused,
            PushError::Fork { .. } | PushError::BeforeBeginning { .. } => Class::Refused,
            PushError::Segment { source, .. } => source.class(),
            PushError::History { source, .. } => source.class(),
            PushError::ForeignDirectory { .. } | PushError::NoIdentifier { .. } => Class::Refused,
            PushError::ControlFile { .. } => Class::Corrupt,
            PushError::NoRight { .. } => Class::Denied,
            PushError::Site(e) => e.class(),
            PushError::Repo(e) => e.class(),
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            PushError::Segment { source, .. } => source.cure(),
            PushError::ForeignDirectory { cluster, .. } => Some(format!(
                "does a copy of {cluster} still have its archive_command? After pg_upgrade or initdb, take a backup with --new-history first"
            )),
            PushError::NoIdentifier { .. } => {
                Some("run this in the data directory, as archive_command does, or name it by --pgdata".into())
            }
            PushError::OtherBytes { name, own: true, .. } => Some(format!(
                "was this machine copied, and the copy's server archives, too? Enrol the copy by itself (there `pgcairn key forget-host --yes`), with a \
                 --cluster of its own; or was it set back? Find out which one is the right {name}; the first stays and nothing is overwritten"
            )),
            PushError::OtherBytes { name, .. } => Some(format!(
                "two servers archive under one name: find out which one is the right {name}; the first stays and nothing is overwritten"
            )),
            PushError::Fork { cluster, timeline, .. } => Some(format!(
                "if this is a promoted copy of {cluster}, archive it under a name of its own (--cluster NEW in its archive_command) or not at all; \
                 if it takes over from {cluster}, stop the other server and say once: pgcairn archive accept-fork --timeline {timeline} --reason TEXT"
            )),
            PushError::BeforeBeginning { name, .. } => Some(format!(
                "two servers have a timeline {} of their own: archive the copy under another --cluster; the first stays and nothing is overwritten",
                name.timeline
            )),
            PushError::Variants { name, .. } => {
                Some(format!("somebody fills the archive with objects that do not count: find out who, and move those of {name} away"))
            }
            PushError::NoRight { .. } => Some("key list shows who has which right; key add-host gives it".into()),
            PushError::Site(e) => e.cure(),
            PushError::Repo(e) => e.cure(),
            _ => None,
        }
    }
}

/// A file was not handed out. None of these says that the archive doesn't have it.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// No server asks for such a name.
    #[error(transparent)]
    Name(#[from] WalNameError),
    /// The file is missing, and what can't be there without it is: to call it absent would end a recovery too early.
    #[error("{name} is missing from the archive, and {later} behind it is there")]
    Gap {
        /// The missing segment, or history.
        name: WalFileName,
        /// What lies behind it.
        later: String,
    },
    /// It was there once, perhaps, and a prune has let it go: that it is missing is no end of WAL.
    #[error("{name} has expired: no snapshot that is kept needs it, and a prune has removed it")]
    Expired {
        /// The segment.
        name: WalFileName,
    },
    /// The archive has the file, and no whole, signed object of it.
    #[error("{object} can't be used: {why}")]
    Unusable {
        /// The object.
        object: String,
        /// What is wrong with it.
        why: String,
    },
    /// The bytes are what was pushed, and not what the name says.
    #[error("{name} in the archive is not what its name says")]
    Segment {
        /// The file's name.
        name: WalFileName,
        /// What is wrong.
        source: SegmentError,
    },
    /// A history file that no server could read.
    #[error("{name} in the archive is no history file")]
    History {
        /// The file's name.
        name: WalFileName,
        /// What is wrong.
        source: HistoryError,
    },
    /// Nothing can be decided with segments of unknown or mixed size.
    #[error("it can't be told whether {name} is missing or was never written: {why}")]
    Undecided {
        /// The file's name.
        name: WalFileName,
        /// Why.
        why: String,
    },
    /// The destination can't be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Store or log.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The object can't be opened.
    #[error(transparent)]
    Repo(#[from] RepoError),
}

impl From<StoreError> for GetError {
    fn from(e: StoreError) -> Self {
        GetError::Site(e.into())
    }
}

impl Explain for GetError {
    fn class(&self) -> Class {
        match self {
            GetError::Name(e) => e.class(),
            GetError::Gap { .. } | GetError::Expired { .. } => Class::Refused,
            GetError::Unusable { .. } | GetError::History { .. } | GetError::Segment { .. } | GetError::Undecided { .. } => Class::Corrupt,
            GetError::Write { source, .. } => match class_of_io(source) {
                Class::Absent => Class::Failed,
                class => class,
            },
            // An object that vanishes between two looks is no absence: it was there.
            GetError::Site(e) => not_absent(e.class()),
            GetError::Repo(e) => not_absent(e.class()),
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            GetError::Gap { name: name @ WalFileName::History(_), .. } => {
                Some(format!("bring {name} back from a server's pg_wal or a copy of the repository, and push it"))
            }
            GetError::Gap { .. } => {
                Some("bring the segment back from the server or a copy, or restore from a snapshot behind the gap".into())
            }
            GetError::Expired { .. } => Some(
                "whoever asks for it is older than all that can be restored: restore a snapshot of `pgcairn list` anew, or a kept one with --target-immediate"
                    .into(),
            ),
            GetError::Unusable { .. } => Some("bring the object back from a copy of the repository".into()),
            GetError::Segment { name, .. } | GetError::History { name, .. } => Some(format!(
                "find out who pushed {name}: what a key of this cluster's archived there is something else, and stands in the way of the right file"
            )),
            GetError::Site(e) => e.cure(),
            GetError::Repo(e) => e.cure(),
            _ => None,
        }
    }
}

fn not_absent(class: Class) -> Class {
    if class == Class::Absent { Class::Failed } else { class }
}
