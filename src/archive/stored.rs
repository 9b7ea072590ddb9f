//! What is stored of an archive, object by object, whether it counts or not: for who decides what may go. One listing gives
//! all names; metadata are read of history files, and of the objects that are asked for.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::BTreeMap;

use super::facts::{FileFacts, FileKind, HistoryFacts};
use super::failure::SiteError;
use super::list::{FrontCache, Looked, Reader};
use super::names::parse_listed;
use super::site::Site;
use crate::pg::wal::WalFileName;
use crate::repo::wal::WalFront;
use crate::store::{ObjectName, StoreError, list_twice};
use crate::units::{Cancel, Hash32, SegmentSize, TimelineId};

/// An object, by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredObject {
    /// The object.
    pub object: ObjectName,
    /// The server's file.
    pub file: WalFileName,
    /// Bytes.
    pub size: u64,
}

/// All that is stored of an archive.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoredNames {
    /// All objects but those of history files.
    pub objects: Vec<StoredObject>,
    /// The history files that count.
    pub histories: BTreeMap<TimelineId, HistoryFacts>,
}

/// What an object holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ContentOf {
    /// A file with this content id; of a segment or a part of one, the size of segments.
    Is(Hash32, Option<SegmentSize>),
    /// It is no longer there.
    Gone,
    /// Its metadata can't be read.
    Unreadable,
}

/// Lists an archive.
///
/// # Errors
/// If store or log can't be read.
pub fn stored(site: &Site<'_>, system_identifier: u64, cache: &dyn FrontCache, cancel: &Cancel) -> Result<StoredNames, SiteError> {
    let rights = site.at_tail(&site.tail.known())?;
    let mut stored = StoredNames::default();
    let mut histories: BTreeMap<WalFileName, Vec<(u32, u64)>> = BTreeMap::new();
    // What one listing alone shows may be a name that came damaged: of a timeline that isn't, for example, which would let the
    // newest one seem to be left.
    for listed in list_twice(site.backend, &site.root(system_identifier)?)?.both {
        match parse_listed(&listed.name) {
            Some(name) if matches!(name.file, WalFileName::History(_)) => {
                histories.entry(name.file).or_default().push((name.variant, listed.size));
            }
            Some(name) => stored.objects.push(StoredObject { object: listed.name, file: name.file, size: listed.size }),
            None => {}
        }
    }
    stored.objects.sort_by(|a, b| (a.file, &a.object).cmp(&(b.file, &b.object)));
    let reader = Reader { site, system_identifier, rights, cache };
    for (file, mut objects) in histories {
        cancel.check()?;
        objects.sort_unstable();
        if let Looked::Counts(entry) = reader.look(&file, &objects)?
            && let FileKind::History(history) = entry.facts.kind
        {
            stored.histories.insert(history.timeline, history);
        }
    }
    Ok(stored)
}

/// Reads what an object holds, from a cache if one is given. It may be one that doesn't count: its metadata are sealed under
/// the table key all the same.
///
/// # Errors
/// If the store fails.
pub fn content_of(
    site: &Site<'_>,
    system_identifier: u64,
    object: &StoredObject,
    cache: Option<&dyn FrontCache>,
) -> Result<ContentOf, SiteError> {
    let decode = |front: &[u8]| WalFront::decode(site.sealing, site.repository, &object.file.to_string(), &object.object, front);
    if let Some(front) = cache.and_then(|cache| cache.get(&object.object, object.size))
        && let Ok(front) = decode(&front)
    {
        return Ok(content(&front, system_identifier, &object.file));
    }
    match site.read_front(&object.object, object.size) {
        Ok(front) => Ok(decode(&front).map_or(ContentOf::Unreadable, |front| content(&front, system_identifier, &object.file))),
        Err(SiteError::Store(e)) if e.is_absent() => Ok(ContentOf::Gone),
        Err(SiteError::Store(StoreError::Short { .. } | StoreError::Io { .. } | StoreError::NotAFile { .. })) => Ok(ContentOf::Unreadable),
        Err(e) => Err(e),
    }
}

fn content(front: &WalFront, system_identifier: u64, file: &WalFileName) -> ContentOf {
    let facts = FileFacts::read(&front.meta.facts, system_identifier, file, front.meta.len).map(|facts| facts.kind);
    let size = match facts {
        Ok(FileKind::Segment(record) | FileKind::Partial(record)) => Some(record.size),
        Ok(FileKind::History(_) | FileKind::Backup(_)) | Err(_) => None,
    };
    ContentOf::Is(front.meta.content, size)
}
