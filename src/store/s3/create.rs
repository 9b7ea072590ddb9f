//! Create-if-absent, and how ambiguous answers are settled.
//!
//! A PUT whose answer was lost may have been carried out, or still be under way. So the same bytes are sent under the
//! same name again, as often as it takes; when the service then says that there is an object already, it is read and
//! compared. Whichever of the requests comes last, the name has one content for ever.

use std::future::Future;

use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::S3Store;
use super::attempt::{Patience, Refusal, Size, Trouble, stalled_after, understand};
use super::lock::locked;
use super::sending::Sending;
use crate::store::{Create, ObjectName, RequestKind, StoreError};

/// How often an object is read that seems to be another.
const READS: u32 = 5;

impl S3Store {
    pub(super) fn create_object(&self, name: &ObjectName, bytes: Bytes) -> Result<Create, StoreError> {
        let what = format!("storing {name} in {}", self.settings.place());
        let until = self.lock_from_now();
        let (mut patience, mut attempt) = (Patience::new(self, &what), 0);
        loop {
            if self.settings.single_writer
                && let Some(there) = self.compare(name, &bytes)?
            {
                return Ok(there);
            }
            let sent = self.ask_by(&mut patience, RequestKind::Put, Size::Sent(bytes.len() as u64), || {
                attempt += 1;
                self.put(name.as_str(), bytes.clone(), !self.settings.single_writer, until, attempt, &what)
            });
            match sent {
                Ok(()) => {
                    self.stored.note(name, until);
                    return Ok(Create::Created);
                }
                Err(Refusal::Condition) => match self.compare(name, &bytes)? {
                    Some(there) => return Ok(there),
                    // Deleted between the two, or the answer to the reading was an old one.
                    None => patience.wait("there is an object of this name, and none is found".to_owned(), false)?,
                },
                Err(other) => return Err(other.into_error(&what)),
            }
        }
    }

    /// One PUT, for the `attempt`th time.
    pub(super) fn put(
        &self,
        name: &str,
        bytes: Bytes,
        if_absent: bool,
        lock_until: Option<u64>,
        attempt: u32,
        what: &str,
    ) -> impl Future<Output = Result<(), Trouble>> + Send + 'static {
        let checksum = STANDARD.encode(crc32c::crc32c(&bytes).to_be_bytes());
        let request = self.client.put_object().bucket(&self.settings.bucket).key(self.key(name));
        let mut request = self.as_configured(request, name).checksum_crc32_c(checksum).content_length(bytes.len() as i64);
        if if_absent {
            request = request.if_none_match("*");
        }
        let stalled = stalled_after(self.silence(), bytes.len() as u64, attempt);
        let request = locked(request, lock_until).body(ByteStream::from(bytes.clone()));
        let (what, kept) = (what.to_owned(), self.layers.keeper());
        async move {
            let sending = Sending::new(bytes);
            let request = request.customize().interceptor(sending.clone()).send();
            let Some(answer) = sending.unless_stalled(stalled, request).await else {
                let why = format!("for {} s nothing of it went on, and no answer came", stalled.as_secs());
                return Err(Trouble::Passing { why, too_much: false });
            };
            let answer = answer.map_err(|e| understand(e, &what))?;
            kept.note(answer.version_id());
            Ok(())
        }
    }

    fn as_configured(&self, mut request: PutObjectFluentBuilder, name: &str) -> PutObjectFluentBuilder {
        let class = if name.starts_with("pack/") { &self.settings.storage_class } else { &self.settings.small_storage_class };
        if let Some(class) = class {
            request = request.storage_class(StorageClass::from(class.as_str()));
        }
        if let Some(encryption) = &self.settings.encryption {
            request = request.server_side_encryption(ServerSideEncryption::from(encryption.as_str()));
        }
        if let Some(key) = &self.settings.kms_key {
            request = request.ssekms_key_id(key);
        }
        request
    }

    /// Is what has this name the same? `None` if nothing has it.
    ///
    /// Others count as others once they were read twice: a bit that was flipped on the way must not make ours theirs.
    fn compare(&self, name: &ObjectName, bytes: &[u8]) -> Result<Option<Create>, StoreError> {
        let mut before: Option<Vec<u8>> = None;
        for _ in 0..READS {
            match self.read_whole(name, bytes.len() as u64) {
                Ok(there) if there == bytes => return Ok(Some(Create::Same)),
                Ok(there) if before.as_ref() == Some(&there) => return Ok(Some(Create::Other)),
                Ok(there) => before = Some(there),
                Err(StoreError::TooLarge { .. }) => return Ok(Some(Create::Other)),
                Err(e) if e.is_absent() => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        let source = std::io::Error::other("each time that it was read other bytes came");
        Err(StoreError::Unreachable { what: format!("comparing {name} in {} with what was stored", self.settings.place()), source })
    }
}
