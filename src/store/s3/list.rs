//! Listing and deleting.

use super::S3Store;
use super::attempt::{Refusal, Size, Trouble, understand};
use super::whole::Whole;
use crate::store::{Listed, ObjectName, RequestKind, StoreError};

/// One page of a listing.
struct Page {
    keys: Vec<(String, u64)>,
    next: Option<String>,
}

/// Nothing in these folders is deleted but slots, and WAL that the log lists as expired: a listing that shows what lies
/// beneath is hardly longer.
fn shows_versions(folder: &ObjectName) -> bool {
    ["log", "key", "wal"].contains(&folder.as_str().split('/').next().unwrap_or_default())
}

impl S3Store {
    pub(super) fn list_folder(
        &self,
        folder: Option<&ObjectName>,
        each: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if let Some(folder) = folder.filter(|folder| shows_versions(folder))
            && self.list_versions(folder, each)?
        {
            return Ok(());
        }
        let root = self.key("");
        let prefix = match folder {
            Some(folder) => format!("{root}{folder}/"),
            None => root.clone(),
        };
        let mut token = None;
        loop {
            let page = self.page(&prefix, token.as_deref())?;
            for (key, size) in page.keys {
                // Of a folder that was named, no other; names that can't be objects' are no business of ours.
                if !key.starts_with(&prefix) {
                    continue;
                }
                if let Some(Ok(name)) = key.strip_prefix(&root).map(ObjectName::new) {
                    each(Listed { name, size })?;
                }
            }
            match page.next {
                None => return Ok(()),
                Some(next) if Some(&next) == token.as_ref() => {
                    let source = std::io::Error::other("the service repeats a page of the listing");
                    return Err(StoreError::Io { what: format!("listing {prefix} in {}", self.settings.place()), source });
                }
                Some(next) => token = Some(next),
            }
        }
    }

    fn page(&self, prefix: &str, token: Option<&str>) -> Result<Page, StoreError> {
        let what = format!("listing {prefix}* in {}", self.settings.place());
        let one = || {
            let request = self.client.list_objects_v2().bucket(&self.settings.bucket).prefix(prefix);
            let request = request.set_continuation_token(token.map(str::to_owned));
            let what = what.clone();
            async move {
                let whole = Whole::default();
                let request = request.customize().interceptor(whole.clone());
                let answer = request.send().await.map_err(|e| understand(e, &what))?;
                whole.check()?;
                let object =
                    |o: &aws_sdk_s3::types::Object| Some((o.key()?.to_owned(), o.size().and_then(|n| u64::try_from(n).ok()).unwrap_or(0)));
                let keys = answer.contents().iter().filter_map(object).collect();
                let more = answer.is_truncated().unwrap_or(false);
                let next = answer.next_continuation_token().filter(|_| more).map(str::to_owned);
                // The rest must not be taken for nothing.
                if more && next.is_none() {
                    let why = "a page of a listing that says that there are more, and not how to go on".to_owned();
                    return Err(Trouble::Passing { why, too_much: false });
                }
                Ok(Page { keys, next })
            }
        };
        self.ask(RequestKind::List, &what, Size::Small, one).map_err(|refusal| refusal.into_error(&what))
    }

    pub(super) fn delete_object(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.delete_key(name.as_str())
    }

    /// Deletes what has a name, or doesn't.
    pub(super) fn delete_key(&self, name: &str) -> Result<(), StoreError> {
        let what = format!("deleting {name} in {}", self.settings.place());
        let one = || {
            let request = self.client.delete_object().bucket(&self.settings.bucket).key(self.key(name));
            let what = what.clone();
            async move { request.send().await.map(drop).map_err(|e| understand(e, &what)) }
        };
        match self.ask(RequestKind::Delete, &what, Size::Small, one) {
            Ok(()) | Err(Refusal::Absent) => Ok(()),
            Err(other) => Err(other.into_error(&what)),
        }
    }
}
