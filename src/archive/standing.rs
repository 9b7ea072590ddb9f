//! Does an object count?
//!
//! ```text
//! front reads, and the signature of a key that may write here is right     valid
//! … of a key that the log knows and that may not (revoked, other cluster)  void
//! no such signature: planted, or rotten                                    void for a pusher; a reader passes over it,
//!                                                                          and never takes it for an absence
//! no such signature, and it names an entry that the log doesn't have       neither: an alarm
//! ```
//! Nothing but "valid" is said before the log was read to the tail.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::failure::SiteError;
use super::site::{Rights, Site};
use crate::pg::wal::WalFileName;
use crate::repo::wal::{self, FRONT, WalAddress, WalFront};
use crate::store::{ObjectName, Start, StoreError, seen_through};
use crate::units::{Hash32, with_causes};

/// What an object proved to be.
#[derive(Debug)]
pub(super) enum Standing {
    /// It counts.
    Valid(Box<WalFront>),
    /// A key signed it that may not (or no longer) write this file here.
    NotEntitled,
    /// No key that the log knows signed these bytes.
    Unproven {
        /// Why not.
        why: String,
        /// The number of the newest entry of the log that its pusher had seen, as it says: proven by nothing.
        head: Option<u64>,
    },
}

/// What the front of an object says without keys: who signed, and the newest entry that its pusher had seen.
fn head_of(front: &[u8]) -> Option<(u64, Hash32)> {
    let number = front.get(40..48).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes)?;
    let hash = Hash32::from_slice(front.get(48..80)?)?;
    Some((number, hash))
}

impl Site<'_> {
    /// Reads the front of an object of that size. Its bytes prove nothing yet.
    pub(super) fn read_front(&self, object: &ObjectName, size: u64) -> Result<Vec<u8>, SiteError> {
        let first = usize::try_from(size.min(FRONT as u64)).unwrap_or(FRONT);
        let front = self.backend.read_range(object, 0, first)?;
        // What is no WAL object has no such length; judging it says so.
        match wal::front_len(&front) {
            Ok(len) if len > front.len() && len as u64 <= size => Ok(self.backend.read_range(object, 0, len)?),
            _ => Ok(front),
        }
    }

    /// As [`Site::read_front`], of an object whose first bytes were fetched.
    pub(super) fn front_of(&self, object: &ObjectName, start: &Start) -> Result<Vec<u8>, SiteError> {
        let first = start.bytes.get(..FRONT).unwrap_or(&start.bytes);
        match wal::front_len(first) {
            Ok(len) if len > first.len() && len as u64 <= start.size => match start.bytes.get(..len) {
                Some(front) => Ok(front.to_vec()),
                None => Ok(self.backend.read_range(object, 0, len)?),
            },
            _ => Ok(first.to_vec()),
        }
    }

    /// Judges by the rights known, without reading the log.
    pub(super) fn judge(&self, rights: &Rights, address: &WalAddress, file: &WalFileName, object: &ObjectName, front: &[u8]) -> Standing {
        let unproven = |why: String| Standing::Unproven { why, head: self.head_of_ours(front).map(|(number, _)| number) };
        let decoded = match WalFront::decode(self.sealing, self.repository, &address.name, object, front) {
            Ok(decoded) => decoded,
            Err(e) => return unproven(with_causes(&e)),
        };
        let Some(key) = rights.public(&decoded.signer) else {
            return unproven(format!("the log doesn't know the key {} that it names", decoded.signer));
        };
        if !decoded.verify(key, address) {
            return unproven(format!("the signature of key {} does not verify", decoded.signer));
        }
        if rights.counts(&decoded.signer, &self.cluster_id(address.system_identifier), file) {
            Standing::Valid(Box::new(decoded))
        } else {
            Standing::NotEntitled
        }
    }

    /// Judges for good: whatever isn't valid by the rights known is judged again at the tail of the log, `rights` being
    /// brought there.
    pub(super) fn settle(
        &self,
        rights: &mut Rights,
        address: &WalAddress,
        file: &WalFileName,
        object: &ObjectName,
        front: &[u8],
    ) -> Result<Standing, SiteError> {
        let first = self.judge(rights, address, file, object, front);
        if let Standing::Valid(_) = first {
            return Ok(first);
        }
        *rights = self.at_tail(rights)?;
        let settled = self.judge(rights, address, file, object, front);
        if let Standing::Unproven { .. } = &settled
            && let Some(beneath) = self.beneath(rights, address, file, object)?
        {
            return Ok(beneath);
        }
        if let Standing::Unproven { why, .. } = &settled
            && let Some(head) = self.head_of_ours(front)
            && !self.has_head(&head)?
        {
            return Err(SiteError::UnknownHead { object: object.to_string(), number: head.0, why: why.clone() });
        }
        Ok(settled)
    }

    /// Only a WAL object of this repository names an entry of this log.
    fn head_of_ours(&self, front: &[u8]) -> Option<(u64, Hash32)> {
        let ours = wal::front_len(front).is_ok() && front.get(8..24) == Some(self.repository.0.as_slice());
        head_of(front).filter(|_| ours)
    }
}

impl Site<'_> {
    /// What lies beneath an object that nobody vouches for, if somebody does for that. It is what is read from then on.
    fn beneath(
        &self,
        rights: &Rights,
        address: &WalAddress,
        file: &WalFileName,
        object: &ObjectName,
    ) -> Result<Option<Standing>, SiteError> {
        let unproven = || SiteError::Store(StoreError::Absent { store: self.backend.describe(), name: object.clone() });
        let again = || {
            let front = self.read_front(object, self.backend.size(object)?)?;
            match self.judge(rights, address, file, object, &front) {
                Standing::Unproven { .. } => Err(unproven()),
                other => Ok(Some(other)),
            }
        };
        if !self.backend.rereads() {
            return Ok(None);
        }
        let damaged = |e: &SiteError| matches!(e, SiteError::Store(StoreError::Absent { .. } | StoreError::Short { .. }));
        seen_through(self.backend, object, damaged, again).or_else(|e| if damaged(&e) { Ok(None) } else { Err(e) })
    }
}
