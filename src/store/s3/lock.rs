//! Object lock, in mode COMPLIANCE: nobody can shorten it, who owns the account included. What is stored is locked with the
//! request that stores it; locks are prolonged one by one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{BucketVersioningStatus, ChecksumAlgorithm, ObjectLockEnabled};
use aws_sdk_s3::types::{ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode};

use super::S3Store;
use super::attempt::{Refusal, Size, understand};
use crate::store::{BucketLocks, LockSpan, Locks, ObjectName, RequestKind, StoreError};

/// What this process has locked.
#[derive(Default)]
pub(super) struct Stored(Mutex<HashMap<ObjectName, u64>>);

impl Stored {
    pub(super) fn note(&self, name: &ObjectName, until: Option<u64>) {
        if let Some(until) = until {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), until);
        }
    }
}

impl S3Store {
    /// Until when what is stored now is locked; whole seconds, as services keep it.
    pub(super) fn lock_from_now(&self) -> Option<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        self.settings.lock_days.map(|days| now.saturating_add(LockSpan::of(days).fresh))
    }
}

/// The request that stores an object locks it, too. (The checksum that goes with it is what Amazon demands for that.)
pub(super) fn locked(request: PutObjectFluentBuilder, until: Option<u64>) -> PutObjectFluentBuilder {
    let Some(until) = until else { return request };
    request.object_lock_mode(ObjectLockMode::Compliance).object_lock_retain_until_date(date(until))
}

fn date(seconds: u64) -> DateTime {
    DateTime::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
}

impl Locks for S3Store {
    fn days(&self) -> u32 {
        self.settings.lock_days.unwrap_or(0)
    }

    fn bucket(&self) -> Result<BucketLocks, StoreError> {
        let what = format!("asking for versioning and object lock of the bucket of {}", self.settings.place());
        let versioning = || {
            let request = self.client.get_bucket_versioning().bucket(&self.settings.bucket);
            let what = what.clone();
            async move {
                let answer = request.send().await.map_err(|e| understand(e, &what))?;
                Ok(answer.status() == Some(&BucketVersioningStatus::Enabled))
            }
        };
        let locks = || {
            let request = self.client.get_object_lock_configuration().bucket(&self.settings.bucket);
            let what = what.clone();
            async move {
                let answer = request.send().await.map_err(|e| understand(e, &what))?;
                let configured = answer.object_lock_configuration();
                Ok(configured.and_then(|c| c.object_lock_enabled()) == Some(&ObjectLockEnabled::Enabled))
            }
        };
        let failed = |refusal: Refusal| refusal.into_error(&what);
        let object_lock = match self.ask(RequestKind::Lock, &what, Size::Small, locks) {
            // A bucket without it answers 404.
            Err(Refusal::Absent) => false,
            other => other.map_err(failed)?,
        };
        Ok(BucketLocks { versioning: self.ask(RequestKind::Lock, &what, Size::Small, versioning).map_err(failed)?, object_lock })
    }

    fn take_stored(&self) -> Vec<(ObjectName, u64)> {
        std::mem::take(&mut *self.stored.0.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }

    fn locked_until(&self, name: &ObjectName) -> Result<Option<u64>, StoreError> {
        let what = format!("asking for the lock of {name} in {}", self.settings.place());
        let version = self.layers.chosen_of(name).map(|v| v.id().to_owned());
        let one = || {
            let request = self.client.get_object_retention().bucket(&self.settings.bucket).key(self.key(name.as_str()));
            let request = request.set_version_id(version.clone());
            let what = what.clone();
            async move {
                let retention = match request.send().await {
                    Ok(answer) => answer.retention,
                    Err(e) if e.raw_response().is_some() && says_unlocked(&e) => None,
                    Err(e) => return Err(understand(e, &what)),
                };
                let locked = retention.filter(|r| r.mode() == Some(&ObjectLockRetentionMode::Compliance));
                Ok(locked.and_then(|r| r.retain_until_date().and_then(|date| u64::try_from(date.secs()).ok())))
            }
        };
        match self.ask(RequestKind::Lock, &what, Size::Small, one) {
            Err(Refusal::Absent) => Err(self.absent(name)),
            other => other.map_err(|refusal| refusal.into_error(&what)),
        }
    }

    fn lock(&self, name: &ObjectName, until: u64) -> Result<(), StoreError> {
        let what = format!("locking {name} in {}", self.settings.place());
        let version = self.layers.chosen_of(name).map(|v| v.id().to_owned());
        let retention = ObjectLockRetention::builder().mode(ObjectLockRetentionMode::Compliance).retain_until_date(date(until)).build();
        let one = || {
            let request = self.client.put_object_retention().bucket(&self.settings.bucket).key(self.key(name.as_str()));
            let request =
                request.set_version_id(version.clone()).retention(retention.clone()).checksum_algorithm(ChecksumAlgorithm::Crc32C);
            let what = what.clone();
            async move { request.send().await.map(drop).map_err(|e| understand(e, &what)) }
        };
        match self.ask(RequestKind::Lock, &what, Size::Small, one) {
            Err(Refusal::Absent) => Err(self.absent(name)),
            other => other.map_err(|refusal| refusal.into_error(&what)),
        }
    }
}

/// The object is there, and has no lock.
fn says_unlocked<E: aws_sdk_s3::error::ProvideErrorMetadata>(error: &E) -> bool {
    error.code() == Some("NoSuchObjectLockConfiguration")
}
