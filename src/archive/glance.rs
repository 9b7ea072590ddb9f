//! Single segments of an archive, looked at by themselves: for questions about a few of many. Folders are listed once for all
//! questions (twice, where names may come damaged), and of each segment that is asked for the front is read that says whether
//! it counts.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::BTreeMap;

use super::facts::SegmentRecord;
use super::failure::SiteError;
use super::list::{Entry, FrontCache, Looked, Reader};
use super::names::parse_listed;
use super::push::size_if_there;
use super::site::{Rights, Site};
use crate::pg::wal::WalFileName;
use crate::repo::wal::{FRONT, MAX_VARIANTS};
use crate::store::{ObjectName, StoreError};
use crate::units::SegmentName;

/// The objects of each name of a folder: variant and size, in order.
type Folder = BTreeMap<WalFileName, Vec<(u32, u64)>>;

/// What was seen of one archive, as of the first look.
#[derive(Default)]
pub struct Glance {
    rights: Option<Rights>,
    folders: BTreeMap<ObjectName, Folder>,
}

impl Glance {
    /// What is known of the segment; `None` if no object of its name counts.
    ///
    /// # Errors
    /// If store or log can't be read; not for a damaged object.
    pub fn segment(
        &mut self,
        site: &Site<'_>,
        system_identifier: u64,
        name: SegmentName,
        cache: &dyn FrontCache,
    ) -> Result<Option<SegmentRecord>, SiteError> {
        let rights = match &self.rights {
            Some(rights) => rights.clone(),
            None => self.rights.insert(site.at_tail(&site.tail.known())?).clone(),
        };
        let file = WalFileName::Segment(name);
        let folder = site.address(system_identifier, &file).folder()?;
        if !self.folders.contains_key(&folder) {
            self.folders.insert(folder.clone(), list(site, &folder)?);
        }
        let Some(objects) = self.folders.get(&folder).and_then(|objects| objects.get(&file)) else { return Ok(None) };
        let reader = Reader { site, system_identifier, rights, cache };
        Ok(reader.facts(&file, objects)?.and_then(|facts| facts.segment().cloned()))
    }
}

/// A single segment that is looked for again and again, without a listing: so its absence proves nothing.
///
/// # Errors
/// If store or log can't be read; not for a damaged object.
pub fn segment(site: &Site<'_>, system_identifier: u64, name: SegmentName) -> Result<Option<Entry<SegmentRecord>>, SiteError> {
    let file = WalFileName::Segment(name);
    let address = site.address(system_identifier, &file);
    let first = address.object(0)?;
    let read = site.backend.read_start(&first, FRONT).map_err(SiteError::from);
    let (size, front) = match read.and_then(|start| Ok((start.size, site.front_of(&first, &start)?))) {
        Err(SiteError::Store(e)) if e.is_absent() => return Ok(None),
        // A disk that can't read a sector: the next object may be readable.
        Err(SiteError::Store(StoreError::Short { .. } | StoreError::Io { .. } | StoreError::NotAFile { .. })) => (0, Vec::new()),
        other => other?,
    };
    let fetched = Fetched { front, object: first };
    let reader = Reader { site, system_identifier, rights: site.tail.known(), cache: &fetched };
    // Nearly always it is the one.
    if !fetched.front.is_empty()
        && let Looked::Counts(entry) = reader.look(&file, &[(0, size)])?
    {
        return Ok(entry.facts.segment().cloned().map(|record| entry.with(record)));
    }
    let mut objects = Vec::new();
    for variant in 0..MAX_VARIANTS {
        match size_if_there(*site, &address.object(variant)?)? {
            Some(size) => objects.push((variant, size)),
            None => break,
        }
    }
    match reader.look(&file, &objects)? {
        Looked::Counts(entry) => Ok(entry.facts.segment().cloned().map(|record| entry.with(record))),
        Looked::Void | Looked::Damaged { .. } => Ok(None),
    }
}

/// The front of one object, which was fetched.
struct Fetched {
    object: ObjectName,
    front: Vec<u8>,
}

impl FrontCache for Fetched {
    fn get(&self, object: &ObjectName, _: u64) -> Option<Vec<u8>> {
        (*object == self.object).then(|| self.front.clone())
    }

    fn put(&self, _: &ObjectName, _: u64, _: &[u8]) {}
}

fn list(site: &Site<'_>, folder: &ObjectName) -> Result<Folder, SiteError> {
    let mut found = Folder::new();
    site.list_twice(folder, &mut |listed| {
        if let Some(name) = parse_listed(&listed.name) {
            found.entry(name.file).or_default().push((name.variant, listed.size));
        }
        Ok(())
    })?;
    found.values_mut().for_each(|objects| objects.sort_unstable());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::Glance;
    use super::segment as segment_alone;
    use crate::archive::list::NoCache;
    use crate::archive::testing::{SYSTEM, World, segment};
    use crate::crypt::sign::SigningKey;

    #[test]
    fn only_what_counts_is_there() {
        let world = World::new();
        let name = |no: u64| format!("0000000100000000{no:08X}");
        for no in [3, 4, 5] {
            world.push(&name(no), &segment(1, no, 1)).unwrap();
        }
        // Rotten, planted, and a whole one behind a planted one.
        assert!(world.store.tamper(&world.object(&name(4), 0), |bytes| bytes[300] ^= 1));
        world.plant(&world.object(&name(6), 0), b"rubbish");
        world.plant(&world.object(&name(7), 0), b"rubbish");
        world.push(&name(7), &segment(1, 7, 1)).unwrap();
        // Pushed by a key whose right has ended before it.
        let thief = SigningKey::from_seed(&[9; 32]);
        world.enrol(&thief);
        world.append();
        world.refresh();
        world.push_as(&thief, &name(8), &segment(1, 8, 1)).unwrap();
        world.revoke(&thief, &name(2));
        world.append();
        let mut glance = Glance::default();
        let mut there = |no: u64| {
            let found = glance.segment(&world.site(), SYSTEM, name(no).parse().unwrap(), &NoCache).unwrap();
            found.is_some_and(|record| record.no.0 == no)
        };
        let expected = [true, false, true, false, true, false, false];
        assert_eq!([3, 4, 5, 6, 7, 8, 9].map(&mut there), expected);
        let alone = |no: u64| segment_alone(&world.site(), SYSTEM, name(no).parse().unwrap()).unwrap();
        assert_eq!([3, 4, 5, 6, 7, 8, 9].map(|no| alone(no).is_some()), expected);
        let content = crate::repo::wal::content_id(world.sealing(), &segment(1, 7, 1));
        assert_eq!(alone(7).map(|entry| (entry.content, entry.variant)), Some((content, 1)));
        world.store.set_unreachable(true);
        assert!(Glance::default().segment(&world.site(), SYSTEM, name(3).parse().unwrap(), &NoCache).is_err());
    }
}
