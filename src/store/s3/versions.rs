//! What lies beneath: older versions of objects, and those that were deleted while their contents were kept.
//!
//! Whether the bucket keeps versions is learnt from the answers to what is read anyway. Where it does, the folders in which
//! nothing that counts is deleted without the log saying so are listed with their versions: for the same price that shows
//! what was put over their objects.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::primitives::DateTime;

use super::S3Store;
use super::attempt::{Size, understand};
use super::whole::Whole;
use crate::store::{Covered, Listed, MOST_VERSIONS, ObjectName, RequestKind, StoreError, Version};

/// What is known of versions.
#[derive(Default)]
pub(super) struct Layers {
    keeper: Keeper,
    /// This credential may not list versions, or the service can't.
    refused: AtomicBool,
    /// The versions that are read instead of the newest.
    chosen: RwLock<HashMap<ObjectName, Version>>,
    /// What the last listing of a folder showed.
    listed: Mutex<HashMap<String, Vec<Covered>>>,
}

/// Does the bucket keep versions?
#[derive(Clone, Default)]
pub(super) struct Keeper(Arc<AtomicBool>);

impl Keeper {
    /// An answer names this version.
    pub(super) fn note(&self, version: Option<&str>) {
        // What was stored before the bucket kept versions is called `null`.
        if version.is_some_and(|id| id != "null") {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

impl Layers {
    pub(super) fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }

    /// The version of an object that is to be read.
    pub(super) fn chosen_of(&self, name: &ObjectName) -> Option<Version> {
        self.chosen.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(super) fn choose(&self, name: &ObjectName, version: Option<&Version>) {
        let mut chosen = self.chosen.write().unwrap_or_else(PoisonError::into_inner);
        match version {
            Some(version) => _ = chosen.insert(name.clone(), version.clone()),
            None => _ = chosen.remove(name),
        }
    }

    pub(super) fn all_chosen(&self) -> Vec<ObjectName> {
        let mut all: Vec<_> = self.chosen.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        all.sort();
        all
    }

    fn can_list(&self) -> bool {
        self.keeper.0.load(Ordering::Relaxed) && !self.refused.load(Ordering::Relaxed)
    }
}

/// The versions of one key.
#[derive(Default)]
struct Group {
    /// The size of the newest content, if the key isn't deleted.
    newest: Option<u64>,
    /// When it was stored, which, and its size, for the oldest content.
    oldest: Option<(i128, String, u64)>,
    contents: u32,
}

/// One page of a listing of versions.
struct Page {
    groups: Vec<(String, Group)>,
    next: Option<(String, Option<String>)>,
}

impl S3Store {
    /// The contents that an object has had, the oldest first.
    pub(super) fn versions_of(&self, name: &ObjectName) -> Result<Vec<Version>, StoreError> {
        let what = format!("looking for older versions of {name} in {}", self.settings.place());
        let key = self.key(name.as_str());
        let mut found: Vec<(i128, String)> = Vec::new();
        let mut from = None;
        loop {
            let answer = self.versions_page(&key, from, &what)?;
            self.layers.keeper.0.fetch_or(!answer.versions().is_empty(), Ordering::Relaxed);
            let own = answer.versions().iter().filter(|version| version.key() == Some(&key));
            let own = own.filter_map(|version| Some((nanos(version.last_modified()), version.version_id()?.to_owned())));
            // They come newest first, and those of one second stay in that order: somebody may have put thousands over it.
            let mut older: Vec<_> = own.collect();
            older.reverse();
            older.append(&mut found);
            found = older;
            found.sort_by_key(|(when, _)| *when);
            found.truncate(MOST_VERSIONS);
            // Keys come in order: of those that go on as this one does it is the first.
            from = next_of(&answer).filter(|(next, _)| *next == key);
            if from.is_none() {
                return Ok(found.into_iter().map(|(_, id)| Version::new(id)).collect());
            }
        }
    }

    /// Lists a folder with its versions, if that can be done; `false`: it is to be listed without.
    pub(super) fn list_versions(
        &self,
        folder: &ObjectName,
        each: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        if !self.layers.can_list() {
            return Ok(false);
        }
        let root = self.key("");
        let prefix = format!("{root}{folder}/");
        let what = format!("listing {prefix}* with versions in {}", self.settings.place());
        let (mut covered, mut open, mut from) = (Vec::new(), BTreeMap::<String, Group>::new(), None);
        loop {
            let page = match self.versions_page(&prefix, from.clone(), &what) {
                Ok(answer) => Page { next: next_of(&answer), groups: groups_of(&answer) },
                // Nothing was told yet. (Of a request that they don't have, some services get the signature wrong.)
                Err(
                    StoreError::Denied { .. } | StoreError::WrongCredentials { .. } | StoreError::NotOffered { .. } | StoreError::Io { .. },
                ) if from.is_none() => {
                    self.layers.refused.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                Err(e) => return Err(e),
            };
            for (key, group) in page.groups {
                open.entry(key).or_default().join(group);
            }
            // The versions of the last key may go on.
            let rest = page.next.as_ref().map(|(next, _)| open.split_off(next.as_str())).unwrap_or_default();
            for (key, group) in std::mem::replace(&mut open, rest) {
                let Some(Ok(name)) = key.strip_prefix(&root).filter(|_| key.starts_with(&prefix)).map(ObjectName::new) else { continue };
                if let Some(beneath) = group.covered(&name) {
                    covered.push(beneath);
                }
                if let Some(size) = group.newest {
                    each(Listed { name, size })?;
                }
            }
            match page.next {
                None => break,
                next if next == from => {
                    let source = std::io::Error::other("the service repeats a page of the listing");
                    return Err(StoreError::Io { what, source });
                }
                next => from = next,
            }
        }
        self.layers.listed.lock().unwrap_or_else(PoisonError::into_inner).insert(prefix, covered);
        Ok(true)
    }

    /// See [`crate::store::Backend::covered`].
    pub(super) fn covered_in(&self, folder: &ObjectName) -> Result<Vec<Covered>, StoreError> {
        let prefix = format!("{}{folder}/", self.key(""));
        let listed = || self.layers.listed.lock().unwrap_or_else(PoisonError::into_inner).remove(&prefix);
        if let Some(covered) = listed() {
            return Ok(covered);
        }
        self.list_versions(folder, &mut |_| Ok(()))?;
        Ok(listed().unwrap_or_default())
    }

    fn versions_page(
        &self,
        prefix: &str,
        from: Option<(String, Option<String>)>,
        what: &str,
    ) -> Result<ListObjectVersionsOutput, StoreError> {
        let one = || {
            let request = self.client.list_object_versions().bucket(&self.settings.bucket).prefix(prefix);
            let (key, version) = from.clone().map_or((None, None), |(key, version)| (Some(key), version));
            let request = request.set_key_marker(key).set_version_id_marker(version);
            let what = what.to_owned();
            async move {
                let whole = Whole::default();
                let answer = request.customize().interceptor(whole.clone()).send().await.map_err(|e| understand(e, &what))?;
                whole.check().map(|()| answer)
            }
        };
        self.ask(RequestKind::List, what, Size::Small, one).map_err(|refusal| refusal.into_error(what))
    }
}

impl Group {
    /// More of the same key, older.
    fn join(&mut self, older: Group) {
        self.newest = self.newest.or(older.newest);
        self.contents = self.contents.saturating_add(older.contents);
        if let Some(oldest) = older.oldest {
            self.take(oldest);
        }
    }

    /// One that comes later in the listing is older, if it isn't younger.
    fn take(&mut self, content: (i128, String, u64)) {
        if self.oldest.as_ref().is_none_or(|(when, ..)| content.0 <= *when) {
            self.oldest = Some(content);
        }
    }

    fn covered(&self, name: &ObjectName) -> Option<Covered> {
        let (since, id, size) = self.oldest.as_ref()?;
        let deleted = self.newest.is_none();
        let oldest = || Version::new(id.clone());
        (deleted || self.contents > 1).then(|| Covered { name: name.clone(), oldest: oldest(), size: *size, since: *since, deleted })
    }
}

fn groups_of(answer: &ListObjectVersionsOutput) -> Vec<(String, Group)> {
    let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
    for version in answer.versions() {
        let (Some(key), Some(id)) = (version.key(), version.version_id()) else { continue };
        let size = version.size().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let group = groups.entry(key).or_default();
        if version.is_latest() == Some(true) {
            group.newest = Some(size);
        }
        group.contents += 1;
        group.take((nanos(version.last_modified()), id.to_owned(), size));
    }
    groups.into_iter().map(|(key, group)| (key.to_owned(), group)).collect()
}

fn next_of(answer: &ListObjectVersionsOutput) -> Option<(String, Option<String>)> {
    let more = answer.is_truncated().unwrap_or(false);
    let key = answer.next_key_marker().filter(|_| more)?;
    Some((key.to_owned(), answer.next_version_id_marker().map(str::to_owned)))
}

fn nanos(time: Option<&DateTime>) -> i128 {
    time.map_or(0, DateTime::as_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(newest: Option<u64>, contents: &[(i128, &str, u64)]) -> Group {
        let mut group = Group { newest, contents: contents.len() as u32, oldest: None };
        contents.iter().for_each(|(when, id, size)| group.take((*when, (*id).to_owned(), *size)));
        group
    }

    #[test]
    fn what_is_covered_is_told_by_its_versions() {
        let name = ObjectName::new("log/1").unwrap();
        let told = |group: Group| group.covered(&name).map(|c| (c.oldest.id().to_owned(), c.size, c.deleted));
        assert_eq!(told(group(Some(3), &[(5, "a", 3)])), None);
        assert_eq!(told(group(None, &[])), None, "a mark of deletion over nothing");
        assert_eq!(told(group(None, &[(5, "a", 3)])), Some(("a".into(), 3, true)));
        // The listing begins with the newest; of one second the last is the oldest.
        assert_eq!(told(group(Some(9), &[(6, "c", 9), (5, "b", 8), (5, "a", 3)])), Some(("a".into(), 3, false)));
        assert_eq!(told(group(Some(9), &[(5, "a", 3), (6, "c", 9)])), Some(("a".into(), 3, false)));
        let mut over_pages = group(Some(9), &[(6, "c", 9)]);
        over_pages.join(group(None, &[(5, "a", 3)]));
        assert_eq!(told(over_pages), Some(("a".into(), 3, false)));
    }
}
