//! Locks: until a moment, nobody can delete or overwrite a version of an object, its owner's account included.

use super::{ObjectName, StoreError};

/// What a bucket is like, as far as locks go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BucketLocks {
    /// What is overwritten or deleted is kept as an older version.
    pub versioning: bool,
    /// Versions can be locked.
    pub object_lock: bool,
}

/// How long locks are, in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockSpan {
    /// For so long at least everything that a snapshot needs is locked when it has been taken: what is configured.
    pub least: u64,
    /// So long is a lock that is new, or was prolonged: a quarter more, so that not everything has to be prolonged each
    /// time.
    pub fresh: u64,
}

impl LockSpan {
    /// For a number of days.
    pub fn of(days: u32) -> Self {
        const DAY: u64 = 24 * 60 * 60;
        let (days, margin) = (u64::from(days), u64::from(days.div_ceil(4)));
        LockSpan { least: days * DAY, fresh: (days + margin) * DAY }
    }
}

/// The locks of a store where they are configured. Whatever it stores is locked from the beginning.
pub trait Locks: Send + Sync {
    /// For how many days.
    fn days(&self) -> u32;

    /// What the bucket is like.
    ///
    /// # Errors
    /// If it can't be asked.
    fn bucket(&self) -> Result<BucketLocks, StoreError>;

    /// What this process has stored, and until when it is locked, in seconds since 1970. Each once: they are forgotten.
    fn take_stored(&self) -> Vec<(ObjectName, u64)>;

    /// Until when an object is locked, in seconds since 1970; `None` if it isn't.
    ///
    /// # Errors
    /// If it isn't there, or can't be asked.
    fn locked_until(&self, name: &ObjectName) -> Result<Option<u64>, StoreError>;

    /// Locks an object until then, or prolongs its lock. No lock can be shortened.
    ///
    /// # Errors
    /// If it isn't there, or this may not be done.
    fn lock(&self, name: &ObjectName, until: u64) -> Result<(), StoreError>;
}
