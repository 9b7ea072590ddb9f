//! What can go wrong with a store, told apart by what follows from it.

use super::{BadName, ObjectName};
use crate::units::{ByteSize, Class, Explain, cure_of_io};
use std::io;
use std::path::PathBuf;

/// A store didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store was reached, is the one that was opened, and has no such object.
    #[error("{store} has no object {name}")]
    Absent {
        /// The store.
        store: String,
        /// The object.
        name: ObjectName,
    },
    /// There is no folder of a repository at this place: nothing was ever created here, or a disk isn't mounted.
    #[error("there is no folder {path}", path = .path.display())]
    NoFolder {
        /// Where it should be.
        path: PathBuf,
    },
    /// The folder is gone, or another one lies in its place.
    #[error("{path} is no longer the folder that was opened", path = .path.display())]
    Replaced {
        /// The repository's folder.
        path: PathBuf,
    },
    /// No answer.
    #[error("{what}: {source}")]
    Unreachable {
        /// What was done to what.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The operating system or the store refuses it to this user.
    #[error("{what}: {source}")]
    Denied {
        /// What was done to what.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The folder belongs to somebody else.
    #[error("{path} belongs to user {owner}, and this is user {user}", path = .path.display())]
    ForeignOwner {
        /// The repository's folder.
        path: PathBuf,
        /// The user id that owns it.
        owner: u32,
        /// The user id that asks.
        user: u32,
    },
    /// The disk is full, or the quota used up.
    #[error("{what}: {source}")]
    Full {
        /// What was done to what.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The object is longer than it can be.
    #[error("object {name} has {size}, and can't have more than {max}", size = ByteSize(*.size), max = ByteSize(*.max))]
    TooLarge {
        /// The object.
        name: ObjectName,
        /// Its length.
        size: u64,
        /// What was allowed.
        max: u64,
    },
    /// The object ends before what was asked for.
    #[error("object {name} ends at {size}, and {len} bytes at {offset} were expected")]
    Short {
        /// The object.
        name: ObjectName,
        /// Where the bytes should begin.
        offset: u64,
        /// How many were expected.
        len: usize,
        /// The object's length.
        size: u64,
    },
    /// Something that is neither a file nor a folder lies where objects lie.
    #[error("{path} is no regular file", path = .path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
    },
    /// A name that can't exist.
    #[error(transparent)]
    BadName(#[from] BadName),
    /// The file system has no hard links, by which an object gets its name without overwriting.
    #[error("the file system of {path} has no hard links: {source}", path = .path.display())]
    NoLinks {
        /// The repository's folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Of two that created the same name at once, not exactly one won.
    #[error("{store} doesn't honour create-if-absent: {winners} of {racers} who created one name at once were told that they had")]
    NotExclusive {
        /// The store.
        store: String,
        /// How many tried.
        racers: usize,
        /// How many were told that they had created it.
        winners: usize,
    },
    /// NFS, mounted so that the absence of a file is remembered.
    #[error("{path} lies on NFS ({mount}), mounted without lookupcache=none or lookupcache=positive", path = .path.display())]
    NegativeLookups {
        /// The repository's folder.
        path: PathBuf,
        /// The mount point.
        mount: String,
    },
    /// What was written could not be made durable. After a failed fsync the system may have dropped the data and report
    /// success the next time, so this is final for the whole run.
    #[error("{what} is not durable: {source}")]
    NotDurable {
        /// What was to be made durable.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// An fsync of this run has failed before; nothing more is written.
    #[error("an fsync in {path} has failed before in this run: nothing more is written to it", path = .path.display())]
    NotDurableBefore {
        /// The repository's folder.
        path: PathBuf,
    },
    /// The bucket isn't there.
    #[error("{what}: {source}")]
    NoBucket {
        /// What was done to what.
        what: String,
        /// What the service said.
        source: io::Error,
    },
    /// A setting of a store in a bucket can't be used.
    #[error("{what}: {source}")]
    S3Setting {
        /// What was done, and to what.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// No credentials for the service were found.
    #[error("{what}: {source}")]
    NoCredentials {
        /// What was done to what.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The service says that the credentials' time is over.
    #[error("{what}: {source}")]
    ExpiredCredentials {
        /// What was done to what.
        what: String,
        /// What the service said.
        source: io::Error,
    },
    /// The service doesn't know the access key, or the secret isn't that key's.
    #[error("{what}: {source}")]
    WrongCredentials {
        /// What was done to what.
        what: String,
        /// What the service said.
        source: io::Error,
    },
    /// The service's certificate isn't one that this host trusts.
    #[error("{what}: {source}")]
    NotTrusted {
        /// What was done to what.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The bucket can't lock objects, and `lock-days` is set.
    #[error("{store} lies in a bucket without object lock or versioning, and lock-days is set")]
    NoLocks {
        /// The store.
        store: String,
    },
    /// The service doesn't have what is needed.
    #[error("{what}: {source}")]
    NotOffered {
        /// What was done to what.
        what: String,
        /// What the service said.
        source: io::Error,
    },
    /// Asked to stop while a request was repeated.
    #[error("{what} was interrupted")]
    Interrupted {
        /// What was done to what.
        what: String,
    },
    /// Anything else that the operating system said.
    #[error("{what}: {source}")]
    Io {
        /// What was done to what.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

impl StoreError {
    /// Is it proven that the object isn't there?
    pub fn is_absent(&self) -> bool {
        matches!(self, StoreError::Absent { .. })
    }

    /// Sorts an I/O error, except for the absence of a file, which only the caller can understand.
    pub(super) fn from_io(what: impl Into<String>, source: io::Error) -> Self {
        use io::ErrorKind as K;
        let what = what.into();
        match source.kind() {
            K::PermissionDenied | K::ReadOnlyFilesystem => StoreError::Denied { what, source },
            K::StorageFull | K::QuotaExceeded => StoreError::Full { what, source },
            K::TimedOut
            | K::StaleNetworkFileHandle
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
            | K::NotConnected
            | K::ConnectionAborted
            | K::ConnectionRefused
            | K::ConnectionReset => StoreError::Unreachable { what, source },
            _ => StoreError::Io { what, source },
        }
    }
}

impl Explain for StoreError {
    fn class(&self) -> Class {
        use StoreError as E;
        match self {
            E::Absent { .. } => Class::Absent,
            E::NoFolder { .. } | E::Replaced { .. } | E::Unreachable { .. } | E::NoBucket { .. } => Class::Unreachable,
            E::Denied { .. }
            | E::ForeignOwner { .. }
            | E::NoCredentials { .. }
            | E::ExpiredCredentials { .. }
            | E::WrongCredentials { .. } => Class::Denied,
            E::TooLarge { .. } | E::Short { .. } | E::NotAFile { .. } => Class::Corrupt,
            E::NoLinks { .. }
            | E::NotExclusive { .. }
            | E::NegativeLookups { .. }
            | E::NotTrusted { .. }
            | E::NotOffered { .. }
            | E::NoLocks { .. } => Class::Refused,
            E::S3Setting { .. } => Class::Usage,
            E::Interrupted { .. } => Class::Failed,
            E::BadName(_) | E::Full { .. } | E::NotDurable { .. } | E::NotDurableBefore { .. } | E::Io { .. } => Class::Failed,
        }
    }

    fn cure(&self) -> Option<String> {
        use StoreError as E;
        match self {
            E::NoFolder { .. } | E::Replaced { .. } => Some("is its disk mounted?".to_owned()),
            E::TooLarge { .. } | E::Short { .. } => Some("bring the object back from a copy of the repository".to_owned()),
            E::NotAFile { .. } => {
                Some("find out who put it there and move it away; if an object lay there, bring it back from a copy".to_owned())
            }
            E::ForeignOwner { owner, .. } => Some(format!("run this as user {owner}, or as root")),
            E::Full { .. } => Some("make room on that disk; what was stored so far stays, and the next run continues from it".to_owned()),
            E::NoLinks { .. } => Some("put the repository on a file system with hard links (ext4, xfs, btrfs, zfs, NFS)".to_owned()),
            E::NotExclusive { .. } => Some(
                "two runs at once could lose data here: put the repository elsewhere (a service without If-None-Match can be used by one process \
                 alone, with single-writer = true)"
                    .to_owned(),
            ),
            E::NoBucket { .. } => Some("make the bucket, or correct its name, the endpoint or the region".to_owned()),
            E::S3Setting { .. } => Some("look at bucket, endpoint, region, path-style and ca-file in the configuration".to_owned()),
            E::NoCredentials { .. } => Some(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this instance a role; an archive_command has only what \
                 the server's environment and the home of its user hold"
                    .to_owned(),
            ),
            E::ExpiredCredentials { .. } => Some(
                "fetch new credentials: those with a session token end after hours. A role of the instance, of the container or of a web identity \
                 renews them by itself"
                    .to_owned(),
            ),
            E::WrongCredentials { .. } => Some(
                "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile in ~/.aws/credentials): key and secret belong together, and \
                 to the service at this address"
                    .to_owned(),
            ),
            E::NotTrusted { .. } => Some(
                "if the service's certificate is of an authority of your own, name that authority's file by ca-file; if not, somebody else may be \
                 answering"
                    .to_owned(),
            ),
            E::NotOffered { .. } => Some("use another service, or single-writer = true if one process alone ever writes".to_owned()),
            E::NegativeLookups { .. } => Some("mount it with the option lookupcache=positive".to_owned()),
            E::NotDurable { .. } | E::NotDurableBefore { .. } => {
                Some("look for disk errors in the system's log before the next run".to_owned())
            }
            E::NoLocks { .. } => Some(
                "turn on versioning and object lock (docs/s3.md has the commands), or leave lock-days away: nothing is locked then".to_owned(),
            ),
            // A service's answer, not the operating system's.
            E::Denied { source, .. } if source.raw_os_error().is_none() && source.kind() == io::ErrorKind::Other => Some(
                "give this credential the policy of its role in docs/s3.md; without s3:ListBucket S3 answers 403 for an object that is absent, too"
                    .to_owned(),
            ),
            E::Unreachable { source, .. } => cure_of_io(source)
                .or_else(|| Some("see whether the store answers at this address, and repeat this: what was stored so far stays".to_owned())),
            E::Denied { source, .. } | E::Io { source, .. } => cure_of_io(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn errors_of_the_system_are_told_apart() {
        for (errno, class) in [
            (Errno::EACCES, Class::Denied),
            (Errno::EPERM, Class::Denied),
            (Errno::EROFS, Class::Denied),
            (Errno::ESTALE, Class::Unreachable),
            (Errno::ETIMEDOUT, Class::Unreachable),
            (Errno::ENOTCONN, Class::Unreachable),
            (Errno::ENOSPC, Class::Failed),
            (Errno::EIO, Class::Failed),
            (Errno::ENOENT, Class::Failed),
        ] {
            let error = StoreError::from_io("x", io::Error::from_raw_os_error(errno as i32));
            assert_eq!(error.class(), class, "{error}");
            assert!(!error.is_absent());
        }
        for errno in [Errno::ENOSPC, Errno::EDQUOT] {
            assert!(matches!(StoreError::from_io("x", io::Error::from_raw_os_error(errno as i32)), StoreError::Full { .. }));
        }
    }
}
