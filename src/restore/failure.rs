//! What can go wrong with a restore.

use std::io;
use std::path::PathBuf;

use super::target::SearchError;
use crate::pg::recovery::RecoveryError;
use crate::repo::RepoError;
use crate::units::{ByteSize, Cancelled, Class, Explain, class_of_io, cure_of_io, show};

/// A data directory was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The repository.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// This host's files.
    #[error("{what}")]
    Io {
        /// What was done with which file.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// One of the last steps failed, and what lets a server start could not be taken away again.
    #[error("{} is in its place although the restore failed, and can't be taken away again ({why})", control.display())]
    Startable {
        /// pg_control.
        control: PathBuf,
        /// Why it is still there.
        why: String,
        /// The step that failed.
        source: Box<RestoreError>,
    },
    /// The folder holds something already.
    #[error("{} is not empty: it holds {found}", folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
        /// One of its entries.
        found: String,
    },
    /// The folder holds a restore that was interrupted.
    #[error("{} is not empty: it holds a restore of snapshot {snapshot} that has not ended", folder.display())]
    Unfinished {
        /// The folder.
        folder: PathBuf,
        /// What was restored.
        snapshot: String,
    },
    /// A restore in place, and the folder is neither a data directory nor an unfinished restore.
    #[error("{} is no data directory: it has no global/pg_control, and holds {found}", folder.display())]
    NoDataDirectory {
        /// The folder.
        folder: PathBuf,
        /// One of its entries.
        found: String,
    },
    /// A restore in place, and the folder's pg_control can't be read.
    #[error("it can't be told whose data directory {} is: its global/pg_control is damaged ({why})", folder.display())]
    BadControl {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A restore in place, and the folder is another cluster's.
    #[error("{} is the data directory of another cluster: its system identifier is {found}, not {expected}", folder.display())]
    ForeignCluster {
        /// The folder.
        folder: PathBuf,
        /// That of the snapshot.
        expected: u64,
        /// That of the folder.
        found: u64,
    },
    /// What an interrupted restore says of itself can't be read.
    #[error("{} is not what a restore writes", path.display())]
    BadMarker {
        /// The file.
        path: PathBuf,
    },
    /// A restore in place, and the folder is not what it was when it was looked at.
    #[error("{} has changed since it was looked at", folder.display())]
    Changed {
        /// The folder.
        folder: PathBuf,
    },
    /// A restore in place, and a server has run on the folder since it was looked at: it may have written WAL that is
    /// neither in the archive nor saved.
    #[error("a server ran on {} after it was looked at: {what} has changed, and may hold what nobody else has", folder.display())]
    ServerRan {
        /// The folder.
        folder: PathBuf,
        /// A file that shows it, relative to the data directory.
        what: String,
    },
    /// A server runs on the folder.
    #[error("a server runs on {}: {how}", folder.display())]
    ServerRuns {
        /// The folder.
        folder: PathBuf,
        /// How that was seen.
        how: String,
    },
    /// It can't be proven that no server runs on the folder.
    #[error("a server may run on {}: {why}", folder.display())]
    ServerMayRun {
        /// The folder.
        folder: PathBuf,
        /// Why that can't be settled.
        why: String,
    },
    /// A tablespace's folder that isn't empty, and that is not proven to be this data directory's.
    #[error("{} is not empty, and {} doesn't say that it is its own", place.display(), folder.display())]
    ForeignTablespace {
        /// The tablespace's folder.
        place: PathBuf,
        /// The data directory.
        folder: PathBuf,
    },
    /// pg_wal is a link to nothing.
    #[error("{} is a link to {}, which is not there: nobody knows which WAL lies there", link.display(), to.display())]
    LostWal {
        /// pg_wal.
        link: PathBuf,
        /// Where it leads.
        to: PathBuf,
    },
    /// A segment of the archive could not be compared.
    #[error("WAL segment {name} can't be compared with the archive's")]
    Archive {
        /// The segment.
        name: String,
        /// Why.
        source: SearchError,
    },
    /// The place is taken by something that is no folder.
    #[error("{} is no folder", path.display())]
    NoFolder {
        /// The place.
        path: PathBuf,
    },
    /// The folder is another user's, and only root may give files away.
    #[error("{} belongs to user {owner}, and this is user {me}", folder.display())]
    ForeignFolder {
        /// The folder.
        folder: PathBuf,
        /// Its owner's number.
        owner: u32,
        /// The number of the user that runs the restore.
        me: u32,
    },
    /// Two folders that a restore writes to lie within each other.
    #[error("{} and {} lie within each other", first.display(), second.display())]
    Overlap {
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A tablespace without a mapping whose original place can't be taken.
    #[error("tablespace {name} (oid {oid}) can't be restored to its original place {}", place.display())]
    TablespaceOccupied {
        /// Its oid.
        oid: u32,
        /// Its name, or the oid again.
        name: String,
        /// The original place.
        place: PathBuf,
        /// What stands against it.
        source: Box<RestoreError>,
    },
    /// A mapping of a tablespace that the snapshot hasn't.
    #[error("the snapshot has no tablespace {wanted}")]
    UnknownTablespace {
        /// As given.
        wanted: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// A tablespace's place is no absolute path that a link can lead to.
    #[error("{what} can't be the place of a tablespace: {why}")]
    BadPlace {
        /// As given or found.
        what: String,
        /// Why.
        why: &'static str,
    },
    /// Configuration files that lay outside the data directory can't go where they should.
    #[error("the configuration files that lay outside the data directory can't be restored to {}", folder.display())]
    ConfigPlace {
        /// Their folder.
        folder: PathBuf,
        /// What stands against it.
        source: Box<RestoreError>,
    },
    /// It doesn't fit.
    #[error("{} are needed on the file system of {}, and {} are free", ByteSize(*needed), folder.display(), ByteSize(*free))]
    NoSpace {
        /// A folder on that file system.
        folder: PathBuf,
        /// Bytes that would be written there.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The snapshot is not what its facts say, or names paths that can't be.
    #[error("the snapshot is damaged: {path}: {why}")]
    Corrupt {
        /// The file or folder, relative to the data directory.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A snapshot of something that this version can't restore.
    #[error("this snapshot can't be restored: {0}")]
    Unknown(String),
    /// The server can't be told what it should be.
    #[error(transparent)]
    Recovery(RecoveryError),
    /// No setting has such a name.
    #[error("{0:?} is not the name of a setting")]
    BadSetting(String),
    /// It was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A rule of ours doesn't hold.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl RestoreError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> RestoreError {
        let what = what.into();
        move |source| RestoreError::Io { what, source }
    }

    pub(super) fn corrupt(path: &[u8], why: impl Into<String>) -> Self {
        RestoreError::Corrupt { path: show(path), why: why.into() }
    }
}

impl Explain for RestoreError {
    fn class(&self) -> Class {
        match self {
            RestoreError::Repo(e) => e.class(),
            RestoreError::Recovery(e) => e.class(),
            // A missing folder of this host is no absent snapshot.
            RestoreError::Io { source, .. } => match class_of_io(source) {
                Class::Absent => Class::Failed,
                class => class,
            },
            RestoreError::Archive { source, .. } => source.class,
            RestoreError::Startable { source, .. } => source.class(),
            RestoreError::NotEmpty { .. }
            | RestoreError::Unfinished { .. }
            | RestoreError::NoDataDirectory { .. }
            | RestoreError::BadControl { .. }
            | RestoreError::ForeignCluster { .. }
            | RestoreError::BadMarker { .. }
            | RestoreError::Changed { .. }
            | RestoreError::ServerRan { .. }
            | RestoreError::ServerRuns { .. }
            | RestoreError::ServerMayRun { .. }
            | RestoreError::ForeignTablespace { .. }
            | RestoreError::LostWal { .. }
            | RestoreError::NoFolder { .. }
            | RestoreError::ForeignFolder { .. }
            | RestoreError::Overlap { .. }
            | RestoreError::TablespaceOccupied { .. }
            | RestoreError::ConfigPlace { .. }
            | RestoreError::NoSpace { .. }
            | RestoreError::Unknown(_) => Class::Refused,
            RestoreError::UnknownTablespace { .. } | RestoreError::BadPlace { .. } | RestoreError::BadSetting(_) => Class::Usage,
            RestoreError::Corrupt { .. } => Class::Corrupt,
            RestoreError::Cancelled(_) | RestoreError::Internal(_) => Class::Failed,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            RestoreError::Repo(e) => e.cure(),
            RestoreError::Io { source, .. } => cure_of_io(source).or_else(|| {
                let of_disk = source.raw_os_error() == Some(nix::libc::EIO);
                of_disk.then(|| "look for disk errors in the system's log; on that disk go on with --delta, or restore to another one".into())
            }),
            RestoreError::Startable { control, .. } => Some(format!(
                "start no server from it: nobody knows what of it is durable; look for disk errors in the system's log, remove {}, and go on with --delta, or restore to another disk",
                control.display()
            )),
            RestoreError::NotEmpty { .. } => Some(
                "name a folder that is empty or not there yet; over a data directory of this cluster whose server is stopped, --delta".into(),
            ),
            RestoreError::NoFolder { .. } => Some("name a folder that is empty or not there yet".into()),
            RestoreError::Unfinished { .. } => Some("go on with --delta, or empty the folder".into()),
            RestoreError::Cancelled(_) => Some("no server can start from what is there; the same command with --delta goes on".into()),
            RestoreError::NoDataDirectory { .. } => Some("check --to; what lies there must be moved away by hand".into()),
            RestoreError::BadControl { .. } => Some(
                "move the folder away, keep its pg_wal, and restore to the empty place; whole segments of that pg_wal can be pushed by pgcairn archive-push"
                    .into(),
            ),
            RestoreError::ForeignCluster { .. } => Some("check --to, and --cluster".into()),
            RestoreError::BadMarker { path } => {
                Some(format!("a newer pgcairn may have written it; else remove {} if the folder is sure to be this cluster's", path.display()))
            }
            RestoreError::Changed { .. } => Some("find out who else works there, and repeat this".into()),
            RestoreError::ServerRan { .. } => Some(
                "stop what starts the server by itself (its systemd unit, a cluster manager), and run this again: what it wrote is then pushed or saved, too"
                    .into(),
            ),
            RestoreError::ServerRuns { folder, .. } => Some(format!("stop it first: pg_ctl -D {} stop", folder.display())),
            RestoreError::ServerMayRun { folder, .. } => Some(format!(
                "make sure that no server runs on it, in no container and on no other machine; then remove {} and repeat this",
                folder.join("postmaster.pid").display()
            )),
            RestoreError::ForeignTablespace { .. } => Some("name the tablespace's folder by --tablespace OID=DIR, or move what is there away".into()),
            RestoreError::LostWal { link, .. } => {
                Some(format!("mount what it leads to; if that is lost, remove {} and repeat this", link.display()))
            }
            RestoreError::Archive { source, .. } => source.cure.clone(),
            RestoreError::ForeignFolder { .. } => Some("run the restore as the folder's owner, or as root".into()),
            RestoreError::Overlap { .. } => Some("give every tablespace a folder of its own, outside the data directory".into()),
            RestoreError::TablespaceOccupied { name, .. } => {
                Some(format!("put it elsewhere by --tablespace {name}=DIR, or all tablespaces by --tablespace-root DIR"))
            }
            RestoreError::ConfigPlace { folder, .. } => Some(format!(
                "make room for {}, or put them elsewhere by --config-files beside (DIR.config) or inside (into the data directory)",
                folder.display()
            )),
            RestoreError::UnknownTablespace { known, .. } if known.is_empty() => {
                Some("it has no tablespaces: leave --tablespace out".into())
            }
            RestoreError::UnknownTablespace { known, .. } => Some(format!("it has {}", known.join(", "))),
            RestoreError::BadPlace { .. } => Some("name another place: --to, --tablespace OID=DIR, --tablespace-root DIR".into()),
            RestoreError::NoSpace { .. } => Some("make room, or restore to another file system".into()),
            RestoreError::Corrupt { .. } => Some("try another snapshot, and `pgcairn verify` to learn what else is damaged".into()),
            RestoreError::Unknown(_) => Some("use a newer version of pgcairn".into()),
            _ => None,
        }
    }
}
