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
//! - `fault.rs` (tests): a file system that forgets what was not fsynced, and dies at a chosen step
//! - `memory.rs` (tests): a backend in memory for the layers above

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod failure;
#[cfg(test)]
pub(crate) mod fault;
pub mod local;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod memory;
mod name;

use std::time::Duration;

pub use failure::StoreError;
pub use local::LocalStore;
pub use name::{BadName, ObjectName, SessionTag};

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

    /// The whole object, if it is at most `max` bytes long; a longer one is [`StoreError::TooLarge`], before anything is
    /// allocated.
    fn read(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError>;

    /// Exactly `len` bytes from `offset`; [`StoreError::Short`] if the object ends earlier.
    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError>;

    /// The object's length in bytes.
    fn size(&self, name: &ObjectName) -> Result<u64, StoreError>;

    /// Calls `each` for every object whose name starts with `folder` and a `/` (`None`: for every object), in no
    /// particular order. A folder without objects gives nothing. Files whose names can't be objects are passed over.
    /// An error of `each` ends the listing and is returned.
    fn list(&self, folder: Option<&ObjectName>, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), StoreError>;

    /// Removes the object. One that is not there is no error. After a crash it may be there again, unless
    /// [`Backend::settle_deletions`] has returned before.
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError>;

    /// Makes durable that objects were deleted whose names are `folder`, a `/` and one more part. A store whose deletions are
    /// durable at once has nothing to do.
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
