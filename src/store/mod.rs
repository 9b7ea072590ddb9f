//! Where objects lie: named byte strings that are created once, read in ranges, listed and deleted, never overwritten.
//!
//! In come an [`ObjectName`] and bytes; out come bytes, sizes and names. Nothing here knows what an object means, and
//! nothing that comes out is trusted by the layers above: lengths are bounded by whoever asks. The layout is specified
//! in format-spec.md, "Where objects lie".
//!
//! - `name.rs`: [`ObjectName`], the names that can exist, and [`SessionTag`], the mark on unfinished files
//! - `failure.rs`: [`StoreError`]: absent, unreachable, denied, full and damaged are told apart here and nowhere later
//! - `local/`: [`LocalStore`], a directory: `create.rs` (the order of steps that makes an object durable), `read.rs`,
//!   `open.rs` (whose folder it is, and what is proved about it), `mounts.rs` (NFS), `fs.rs` (the file-system seam)
//! - `again.rs`: [`list_twice`]: nothing is concluded from what one listing lacks; [`agreed`]
//! - `beneath.rs`: [`seen_through`]: older versions are read before an object is called damaged
//! - `lock.rs`: [`Locks`]: what nobody can delete, and until when
//! - `s3/`: [`S3Store`], a bucket of an S3-compatible service · `requests.rs`: [`Requests`], how many it was sent
//! - `pace.rs`: [`Pace`], how a store is asked best, and asking for several things at once
//! - `fault.rs` (tests): a file system that forgets what was not fsynced, and dies at a chosen step
//! - `memory.rs` (tests): a backend in memory for the layers above · `observed.rs` (tests): one that counts what runs at once
//! - `troubled.rs` (tests): one that fails, or lists otherwise, where a test wants it

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod again;
mod beneath;
mod failure;
#[cfg(test)]
pub(crate) mod fault;
pub mod local;
mod lock;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod memory;
mod name;
#[cfg(test)]
pub(crate) mod observed;
mod pace;
mod requests;
pub mod s3;
#[cfg(test)]
pub(crate) mod troubled;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use again::{Twice, agreed, list_twice};
pub use beneath::seen_through;
pub use failure::StoreError;
pub use local::LocalStore;
pub use lock::{BucketLocks, LockSpan, Locks};
pub use name::{BadName, ObjectName, SessionTag};
pub use pace::{Pace, at_once};
pub use requests::{RequestKind, Requests};
pub use s3::S3Store;

/// How an attempt to create an object ended, if it did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Create {
    /// The object is there now, durably, and this call put it there.
    Created,
    /// An object with exactly these bytes was there already; it is durable now. An attempt whose outcome was unknown
    /// (a lost answer of the store, a crash) ends here when it is repeated.
    Same,
    /// An object with *other* bytes has this name. Nothing was written.
    Other,
}

/// One object of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name.
    pub name: ObjectName,
    /// Its length in bytes.
    pub size: u64,
}

/// The most versions of an object that are looked at.
pub const MOST_VERSIONS: usize = 16;

/// An object whose newest content is not its only one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Covered {
    /// Its name.
    pub name: ObjectName,
    /// Its oldest content.
    pub oldest: Version,
    /// The length of that in bytes.
    pub size: u64,
    /// When that was stored, by the store's clock, in ns since 1970; 0 where it doesn't say.
    pub since: i128,
    /// It was deleted: no listing shows it.
    pub deleted: bool,
}

/// The beginning of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// Its first bytes: as many as were asked for, or all that there are.
    pub bytes: Vec<u8>,
    /// The whole object's length in bytes.
    pub size: u64,
}

/// One of several contents that an object has had, where a store keeps them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version(String);

impl Version {
    /// The store's own name for it.
    pub fn new(id: impl Into<String>) -> Self {
        Version(id.into())
    }

    /// The store's own name for it.
    pub fn id(&self) -> &str {
        &self.0
    }
}

/// A store of objects. Blocking; calls may come from several threads at once.
///
/// [`StoreError::Absent`] is returned only where the store itself said that it has no such object, never for a store
/// that can't be reached, can't be read, or is not the one that was opened.
pub trait Backend: Send + Sync {
    /// Stores the concatenation of `parts` under `name`, if nothing has that name. On return it is durable.
    ///
    /// Ambiguous outcomes are settled inside, by reading back and comparing. `session` marks what is unfinished, so that
    /// a later run can tell whose it is. After an error the object may or may not be there, but never in part.
    fn create(&self, name: &ObjectName, parts: &[&[u8]], session: &SessionTag) -> Result<Create, StoreError>;

    /// As [`Backend::create`], of large bytes that are to be in memory once: a store that hands them on to other threads
    /// makes no copy.
    ///
    /// # Errors
    /// As there.
    fn create_shared(&self, name: &ObjectName, bytes: &Arc<Vec<u8>>, session: &SessionTag) -> Result<Create, StoreError> {
        self.create(name, &[bytes.as_slice()], session)
    }

    /// The whole object, if it is at most `max` bytes long; a longer one is [`StoreError::TooLarge`], before anything is
    /// allocated.
    fn read(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError>;

    /// Exactly `len` bytes from `offset`; [`StoreError::Short`] if the object ends earlier.
    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError>;

    /// The object's length, and its first bytes, at most `most`: of what is short everything, by one request.
    fn read_start(&self, name: &ObjectName, most: usize) -> Result<Start, StoreError> {
        let size = self.size(name)?;
        let len = usize::try_from(size).map_or(most, |size| size.min(most));
        Ok(Start { bytes: self.read_range(name, 0, len)?, size })
    }

    /// The object's length in bytes.
    fn size(&self, name: &ObjectName) -> Result<u64, StoreError>;

    /// Calls `each` for every object whose name starts with `folder` and a `/` (`None`: for every object), in no
    /// particular order. A folder without objects gives nothing. Files whose names can't be objects are passed over.
    /// An error of `each` ends the listing and is returned.
    fn list(&self, folder: Option<&ObjectName>, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), StoreError>;

    /// Removes the object. One that is not there is no error. After a crash it may be there again, unless
    /// [`Backend::settle_deletions`] has returned before.
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError>;

    /// Makes durable that objects were deleted whose names are `folder`, a `/` and one more part; and that others of the folder
    /// are there, whoever has created them. A store where both is durable at once has nothing to do.
    fn settle_deletions(&self, folder: &ObjectName) -> Result<(), StoreError> {
        let _ = folder;
        Ok(())
    }

    /// How long the object has been there, by the store's own clock at both ends: no other clock has a part in it. `None`
    /// where the store doesn't say. Whoever can write to the store can make it say anything. `session` marks what is
    /// unfinished meanwhile.
    fn age(&self, name: &ObjectName, session: &SessionTag) -> Result<Option<Duration>, StoreError> {
        let _ = (name, session);
        Ok(None)
    }

    /// Proves by trying that of several that create one name at once exactly one is told that it did; what a user should
    /// know of it besides. `init` demands it. What it writes, marked with `session`, it removes where it may.
    ///
    /// # Errors
    /// [`StoreError::NotExclusive`] where it isn't so.
    fn prove(&self, session: &SessionTag) -> Result<Vec<String>, StoreError>;

    /// As [`Backend::prove`], of a store that was proved by others, with the least trouble: by the object `name`, which
    /// is there and has these bytes. Whoever writes to it for the first time demands it.
    ///
    /// # Errors
    /// As there.
    fn prove_at(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), StoreError> {
        let _ = (name, bytes);
        Ok(())
    }

    /// May another reading give something else: is the way to it long, or does it keep older contents?
    fn rereads(&self) -> bool {
        false
    }

    /// Is what another one has created durable as soon as it can be read? Else whoever relies on such an object creates it
    /// again with the same bytes first.
    fn durable_once_read(&self) -> bool {
        false
    }

    /// The contents that an object has had, the oldest first, at most [`MOST_VERSIONS`] of them, where the store keeps
    /// them: since nothing is overwritten or written again by us, the oldest is the one that was meant. None where it
    /// doesn't keep them.
    fn versions(&self, name: &ObjectName) -> Result<Vec<Version>, StoreError> {
        let _ = name;
        Ok(Vec::new())
    }

    /// Objects of a folder that have had several contents, or were deleted while their contents were kept, and their oldest
    /// ones. Costs nothing directly behind a [`Backend::list`] of that folder, nor where nothing is kept.
    fn covered(&self, folder: &ObjectName) -> Result<Vec<Covered>, StoreError> {
        let _ = folder;
        Ok(Vec::new())
    }

    /// From now on whoever reads this object is given this version of it; `None`: the newest again.
    fn choose(&self, name: &ObjectName, version: Option<&Version>) {
        let _ = (name, version);
    }

    /// The objects of which an older version is read now.
    fn chosen(&self) -> Vec<ObjectName> {
        Vec::new()
    }

    /// What is asked from now on ends a session: a store that a signal makes give up goes on for so long, once, and then does.
    fn part(&self, time: Duration) {
        let _ = time;
    }

    /// Locks against deletion, where they are configured.
    fn locks(&self) -> Option<&dyn Locks> {
        None
    }

    /// What runs that died have left unfinished, and whose it is. None where a store has nothing unfinished.
    fn leftovers(&self) -> Result<Vec<(SessionTag, PathBuf)>, StoreError> {
        Ok(Vec::new())
    }

    /// Removes what was left unfinished under this mark; how much it was.
    fn remove_leftovers(&self, of: &SessionTag) -> Result<usize, StoreError> {
        let _ = of;
        Ok(0)
    }

    /// Removes empty folders `pack/<session>` of sessions that may go, where a store has folders; how many.
    fn remove_empty_pack_folders(&self, may_go: &dyn Fn(&str) -> bool) -> Result<usize, StoreError> {
        let _ = may_go;
        Ok(0)
    }

    /// The folder, if this is one.
    fn folder(&self) -> Option<&std::path::Path> {
        None
    }

    /// How it is asked best.
    fn pace(&self) -> Pace {
        Pace::OF_A_DISK
    }

    /// What was asked of it so far, if it is a service that counts.
    fn requests(&self) -> Option<Requests> {
        None
    }

    /// What to call this store in a message.
    fn describe(&self) -> String;

    /// All objects of a folder, sorted by name.
    fn list_sorted(&self, folder: Option<&ObjectName>) -> Result<Vec<Listed>, StoreError> {
        let mut all = Vec::new();
        self.list(folder, &mut |object| {
            all.push(object);
            Ok(())
        })?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }
}
