//! All metadata of one cluster's archive: one listing, and one short read for each object that no cache knows.
//!
//! Names are immutable and so are objects: the front of a listed object of the same size is what it was. A cache is
//! believed no more than the store: what it gives is judged like what is read.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::facts::{FileFacts, FileKind, HistoryFacts, SegmentRecord};
use super::failure::SiteError;
use super::names::parse_listed;
use super::site::{Rights, Site};
use super::standing::Standing;
use crate::pg::timeline::TimelineTree;
use crate::pg::wal::WalFileName;
use crate::repo::wal::{WalAddress, WalFront};
use crate::store::{ObjectName, StoreError};
use crate::units::{Cancel, Hash32, KeyId, SegmentName, SegmentNo, SegmentSize, TimelineId, Timestamp};

/// Keeps fronts of objects, which never change.
pub trait FrontCache: Sync {
    /// The front of this object of that size, if it is kept.
    fn get(&self, object: &ObjectName, size: u64) -> Option<Vec<u8>>;

    /// Keeps a front. Called from several threads.
    fn put(&self, object: &ObjectName, size: u64, front: &[u8]);
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCache;

impl FrontCache for NoCache {
    fn get(&self, _: &ObjectName, _: u64) -> Option<Vec<u8>> {
        None
    }

    fn put(&self, _: &ObjectName, _: u64, _: &[u8]) {}
}

/// An object that counts, and what it says of its file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry<F> {
    /// The facts.
    pub facts: F,
    /// Which of the objects of that name it is; 0 but for void ones before it.
    pub variant: u32,
    /// Bytes stored.
    pub stored: u64,
    /// Keyed hash of the plain file.
    pub content: Hash32,
    /// Its plain length.
    pub plain: u64,
    /// Who pushed it.
    pub signer: KeyId,
    /// When, by that one's clock.
    pub pushed_at: Option<Timestamp>,
    /// The number of the newest entry of the log that the pusher had seen.
    pub head: u64,
}

impl<F> Entry<F> {
    /// The same, with other facts.
    pub(super) fn with<G>(self, facts: G) -> Entry<G> {
        let Entry { variant, stored, content, plain, signer, pushed_at, head, .. } = self;
        Entry { facts, variant, stored, content, plain, signer, pushed_at, head }
    }
}

/// A file of which no object counts and at least one may be the rotten form of one that did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedFile {
    /// Its name.
    pub file: WalFileName,
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub why: String,
    /// The number of the newest entry of the log that its pusher had seen, if the object still says that. It may be rotten, too.
    pub head: Option<u64>,
}

/// What one cluster's archive holds under one system identifier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Archive {
    /// The cluster's name.
    pub cluster: String,
    /// The system identifier.
    pub system_identifier: u64,
    /// The size of its segments; `None` if there are none.
    pub segment_size: Option<SegmentSize>,
    /// Whole segments.
    pub segments: BTreeMap<(TimelineId, SegmentNo), Entry<SegmentRecord>>,
    /// Segments of another size than the newest one's: left from before `pg_resetwal --wal-segsize`.
    pub other_sizes: BTreeMap<SegmentName, SegmentSize>,
    /// History files.
    pub histories: BTreeMap<TimelineId, Entry<HistoryFacts>>,
    /// Unfinished last segments of timelines.
    pub partials: BTreeMap<SegmentName, Entry<SegmentRecord>>,
    /// Backup-label files, and their stored sizes.
    pub backups: BTreeMap<WalFileName, u64>,
    /// Files that can't be used.
    pub damaged: Vec<DamagedFile>,
    /// Bytes stored, objects that don't count included.
    pub stored: u64,
}

impl Archive {
    /// One that holds nothing.
    pub fn empty(cluster: &str, system_identifier: u64) -> Self {
        Archive {
            cluster: cluster.to_owned(),
            system_identifier,
            segment_size: None,
            segments: BTreeMap::new(),
            other_sizes: BTreeMap::new(),
            histories: BTreeMap::new(),
            partials: BTreeMap::new(),
            backups: BTreeMap::new(),
            damaged: Vec::new(),
            stored: 0,
        }
    }

    /// Reads all of it. Files that vanish meanwhile were expired, and are left out.
    ///
    /// # Errors
    /// If store or log can't be read; not for a damaged object.
    pub fn read(site: &Site<'_>, system_identifier: u64, cache: &dyn FrontCache, cancel: &Cancel) -> Result<Archive, SiteError> {
        let rights = site.at_tail(&site.tail.known())?;
        let mut names: BTreeMap<WalFileName, Vec<(u32, u64)>> = BTreeMap::new();
        let mut stored = 0;
        site.list_twice(&site.root(system_identifier)?, &mut |listed| {
            if let Some(name) = parse_listed(&listed.name) {
                names.entry(name.file).or_default().push((name.variant, listed.size));
                stored += listed.size;
            }
            Ok(())
        })?;
        let reader = Reader { site, system_identifier, rights, cache };
        let names: Vec<_> = names.into_iter().collect();
        let looked: Vec<_> = names
            .into_par_iter()
            .map(|(file, mut objects)| -> Result<(WalFileName, Looked), SiteError> {
                cancel.check()?;
                objects.sort_unstable();
                Ok((file, reader.look(&file, &objects)?))
            })
            .collect::<Result<_, _>>()?;
        let mut archive = Archive { stored, ..Archive::empty(site.cluster, system_identifier) };
        looked.into_iter().for_each(|(file, looked)| archive.take(file, looked));
        archive.settle_sizes();
        Ok(archive)
    }

    fn take(&mut self, file: WalFileName, looked: Looked) {
        let entry = match looked {
            Looked::Counts(entry) => *entry,
            Looked::Void => return,
            Looked::Damaged { object, why, head } => return self.damaged.push(DamagedFile { file, object, why, head }),
        };
        match entry.facts.kind.clone() {
            FileKind::Segment(facts) => {
                self.segments.insert((facts.timeline, facts.no), entry.with(facts));
            }
            FileKind::Partial(facts) => {
                self.partials.insert(facts.name(), entry.with(facts));
            }
            FileKind::History(facts) => {
                self.histories.insert(facts.timeline, entry.with(facts));
            }
            FileKind::Backup(_) => {
                self.backups.insert(file, entry.stored);
            }
        }
    }

    /// The newest segment says how large segments are; numbers of another size mean something else.
    fn settle_sizes(&mut self) {
        self.segment_size = self.segments.values().max_by_key(|e| (e.facts.timeline, e.facts.start)).map(|e| e.facts.size);
        let Some(size) = self.segment_size else { return };
        let others = &mut self.other_sizes;
        self.segments.retain(|_, e| {
            let same = e.facts.size == size;
            if !same {
                others.insert(e.facts.name(), e.facts.size);
            }
            same
        });
    }

    /// The timelines as their archived histories tell.
    pub fn tree(&self) -> TimelineTree {
        self.histories.values().map(|entry| entry.facts.to_history()).collect()
    }

    /// Timelines that had a history file which is neither there nor damaged, and what shows it.
    ///
    /// A timeline's first segment begins as a copy of its parent's, with that one's number in its header; and a history
    /// that names ancestors of a timeline was made from that timeline's own. Other timelines without one are the first of
    /// their cluster, as after `pg_resetwal -l`, or can't be told from such.
    pub fn lost_histories(&self) -> BTreeMap<TimelineId, String> {
        let damaged = |t: TimelineId| self.damaged.iter().any(|d| d.file == WalFileName::History(t));
        let begun = self.segments.values().filter(|e| e.facts.is_of_child()).map(|e| (e.facts.timeline, e.facts.name().to_string()));
        let named = self.histories.values().flat_map(|e| e.facts.shows_histories_of().map(|t| (t, e.facts.timeline.history_name())));
        let mut lost = BTreeMap::new();
        for (timeline, shown_by) in begun.chain(named) {
            if !self.histories.contains_key(&timeline) && !damaged(timeline) {
                lost.entry(timeline).or_insert(shown_by);
            }
        }
        lost
    }

    /// Plain bytes of all segments, partial ones and histories that count.
    pub fn plain(&self) -> u64 {
        let segments = self.segments.values().map(|e| e.plain).chain(self.partials.values().map(|e| e.plain));
        segments.chain(self.histories.values().map(|e| e.plain)).fold(0, u64::saturating_add)
    }

    /// All files that count.
    pub fn files(&self) -> Vec<WalFileName> {
        let segments = self.segments.values().map(|e| WalFileName::Segment(e.facts.name()));
        let others = self.other_sizes.keys().map(|name| WalFileName::Segment(*name));
        let partials = self.partials.keys().map(|name| WalFileName::Partial(*name));
        let histories = self.histories.keys().map(|timeline| WalFileName::History(*timeline));
        segments.chain(others).chain(partials).chain(histories).chain(self.backups.keys().copied()).collect()
    }

    /// Is this segment there?
    pub fn has(&self, name: SegmentName) -> bool {
        let no = self.segment_size.and_then(|size| name.no(size));
        no.is_some_and(|no| self.segments.contains_key(&(name.timeline, no)))
    }
}

/// What became of a name.
pub(super) enum Looked {
    Counts(Box<Entry<FileFacts>>),
    Void,
    Damaged { object: String, why: String, head: Option<u64> },
}

/// Reads fronts, as of one entry of the log.
pub(super) struct Reader<'a> {
    pub site: &'a Site<'a>,
    pub system_identifier: u64,
    pub rights: Rights,
    pub cache: &'a dyn FrontCache,
}

impl Reader<'_> {
    /// What the first object of a name that counts says of its file; its objects by variant and size.
    pub fn facts(&self, file: &WalFileName, objects: &[(u32, u64)]) -> Result<Option<FileFacts>, SiteError> {
        match self.look(file, objects)? {
            Looked::Counts(entry) => Ok(Some(entry.facts)),
            Looked::Void | Looked::Damaged { .. } => Ok(None),
        }
    }

    /// The first object of a name that counts.
    pub fn look(&self, file: &WalFileName, objects: &[(u32, u64)]) -> Result<Looked, SiteError> {
        let address = self.site.address(self.system_identifier, file);
        let mut damaged = None;
        for (variant, size) in objects {
            let object = address.object(*variant)?;
            match self.judge(&address, file, &object, *size) {
                Ok(Standing::Valid(front)) => {
                    let head = Some(front.head.0);
                    match entry(&front, self.system_identifier, file, *variant, self.size(&front, &object, *size)?) {
                        Ok(entry) => return Ok(Looked::Counts(Box::new(entry))),
                        Err(why) => _ = damaged.get_or_insert(Looked::Damaged { object: object.to_string(), why: why.into(), head }),
                    }
                }
                Ok(Standing::NotEntitled) => {}
                Ok(Standing::Unproven { why, head }) => {
                    damaged.get_or_insert(Looked::Damaged { object: object.to_string(), why, head });
                }
                Err(SiteError::Store(e)) if e.is_absent() => {}
                // A disk that can't read a sector: the next object may be readable.
                Err(
                    e @ (SiteError::UnknownHead { .. }
                    | SiteError::Store(StoreError::Short { .. } | StoreError::Io { .. } | StoreError::NotAFile { .. })),
                ) => {
                    let head = if let SiteError::UnknownHead { number, .. } = &e { Some(*number) } else { None };
                    damaged.get_or_insert(Looked::Damaged { object: object.to_string(), why: e.to_string(), head });
                }
                Err(e) => return Err(e),
            }
        }
        Ok(damaged.unwrap_or(Looked::Void))
    }

    /// The object's length: as it was listed, or that of what lies beneath it.
    fn size(&self, front: &WalFront, object: &ObjectName, listed: u64) -> Result<u64, SiteError> {
        if front.object_len() == listed || !self.site.backend.rereads() {
            return Ok(listed);
        }
        Ok(self.site.backend.size(object)?)
    }

    fn judge(&self, address: &WalAddress, file: &WalFileName, object: &ObjectName, size: u64) -> Result<Standing, SiteError> {
        if let Some(front) = self.cache.get(object, size)
            && let valid @ Standing::Valid(_) = self.site.judge(&self.rights, address, file, object, &front)
        {
            return Ok(valid);
        }
        let front = self.site.read_front(object, size)?;
        let standing = self.site.judge(&self.rights, address, file, object, &front);
        if let Standing::Valid(decoded) = standing {
            let len = usize::try_from(decoded.parts_at()).unwrap_or(usize::MAX);
            self.cache.put(object, size, front.get(..len).unwrap_or(&front));
            return Ok(Standing::Valid(decoded));
        }
        self.site.settle(&mut self.rights.clone(), address, file, object, &front)
    }
}

fn entry(front: &WalFront, system_identifier: u64, file: &WalFileName, variant: u32, size: u64) -> Result<Entry<FileFacts>, &'static str> {
    if front.object_len() != size {
        return Err("it is shorter or longer than what was signed");
    }
    let facts = FileFacts::read(&front.meta.facts, system_identifier, file, front.meta.len)?;
    let pushed_at = facts.pushed_at;
    let WalFront { signer, head: (head, _), .. } = *front;
    Ok(Entry { facts, variant, stored: size, content: front.meta.content, plain: front.meta.len, signer, pushed_at, head })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::archive::testing::{SYSTEM, World, segment};
    use crate::units::Lsn;

    #[derive(Default)]
    struct Kept {
        fronts: Mutex<BTreeMap<(ObjectName, u64), Vec<u8>>>,
        puts: AtomicUsize,
    }

    impl FrontCache for Kept {
        fn get(&self, object: &ObjectName, size: u64) -> Option<Vec<u8>> {
            self.fronts.lock().unwrap().get(&(object.clone(), size)).cloned()
        }

        fn put(&self, object: &ObjectName, size: u64, front: &[u8]) {
            self.puts.fetch_add(1, Ordering::SeqCst);
            self.fronts.lock().unwrap().insert((object.clone(), size), front.to_vec());
        }
    }

    fn filled() -> World {
        let world = World::new();
        for no in 3..8u64 {
            world.push(&format!("0000000100000000{no:08X}"), &segment(1, no, 1)).unwrap();
        }
        world.push("00000002.history", b"1\t0/600100\tno recovery target specified\n").unwrap();
        world.push("000000010000000000000008.partial", &segment(1, 8, 1)).unwrap();
        world.push("000000010000000000000003.00000028.backup", b"START").unwrap();
        world
    }

    fn read(world: &World, cache: &dyn FrontCache) -> Archive {
        Archive::read(&world.site(), SYSTEM, cache, &Cancel::new()).unwrap()
    }

    #[test]
    fn all_metadata_are_read_and_kept() {
        let world = filled();
        let kept = Kept::default();
        let archive = read(&world, &kept);
        assert_eq!(archive.segments.keys().map(|(t, n)| (t.0, n.0)).collect::<Vec<_>>(), (3..8).map(|n| (1, n)).collect::<Vec<_>>());
        assert_eq!(archive.segment_size, SegmentSize::new(1 << 20));
        assert_eq!(archive.histories[&TimelineId(2)].facts.lines[0].switch, Lsn(0x60_0100));
        assert_eq!((archive.partials.len(), archive.backups.len(), archive.damaged.len()), (1, 1, 0));
        assert!(archive.has("000000010000000000000003".parse().unwrap()) && !archive.has("000000010000000000000008".parse().unwrap()));
        assert_eq!(kept.puts.swap(0, Ordering::SeqCst), 8);
        assert_eq!(read(&world, &kept), archive);
        assert_eq!(kept.puts.load(Ordering::SeqCst), 0);
        // A damaged cache is as good as none.
        kept.fronts.lock().unwrap().values_mut().for_each(|front| front[300] ^= 1);
        assert_eq!(read(&world, &kept), archive);
        assert_eq!(kept.puts.load(Ordering::SeqCst), 8);
        // What isn't listed any more isn't there, whatever a cache says.
        crate::store::Backend::delete(world.store.as_ref(), &world.object("000000010000000000000005", 0)).unwrap();
        assert_eq!(read(&world, &kept).segments.len(), 4);
        assert_eq!(Archive::read(&world.site(), 5, &kept, &Cancel::new()).unwrap(), Archive::empty("shop", 5));
    }

    #[test]
    fn damaged_and_void_objects_are_told_apart() {
        let world = filled();
        world.plant(&world.object("000000010000000000000009", 0), b"rubbish");
        world.plant(&world.object("000000010000000000000003", 1), b"rubbish");
        assert!(world.store.tamper(&world.object("000000010000000000000004", 0), |bytes| bytes[300] ^= 1));
        assert!(world.store.tamper(&world.object("000000010000000000000005", 0), |bytes| bytes.push(0)));
        assert!(world.store.tamper(&world.object("000000010000000000000006", 0), |bytes| bytes[40] = 77));
        let archive = read(&world, &NoCache);
        let damaged: Vec<String> = archive.damaged.iter().map(|d| d.file.to_string()).collect();
        let expected: Vec<String> = [4, 5, 6, 9].map(|no| format!("00000001000000000000000{no}")).to_vec();
        assert_eq!(damaged, expected);
        assert_eq!(archive.segments.keys().map(|(_, n)| n.0).collect::<Vec<_>>(), [3, 7]);
        world.revoke(&world.host, "000000010000000000000003");
        world.append();
        let archive = read(&world, &NoCache);
        assert_eq!(archive.segments.len(), 1);
        assert!(!archive.damaged.iter().any(|d| d.file.to_string().ends_with('7')));
    }

    #[test]
    fn a_history_that_must_have_been_there_is_lost() {
        let world = filled();
        let lost = |world: &World| read(world, &NoCache).lost_histories().into_iter().map(|(t, by)| (t.0, by)).collect::<Vec<_>>();
        // The first of timeline 3 as it began; of timeline 9 it can't be told.
        world.wait(60);
        world.push("000000030000000000000009", &segment(2, 9, 1)).unwrap();
        world.push("00000003000000000000000A", &segment(3, 10, 1)).unwrap();
        world.wait(60);
        world.push("00000009000000000000000A", &segment(9, 10, 1)).unwrap();
        assert_eq!(lost(&world), [(3, "000000030000000000000009".to_owned())]);
        world.wait(60);
        world.push("00000005.history", b"1\t0/600100\tx\n2\t0/900100\tx\n4\t0/A00000\tx\n").unwrap();
        assert_eq!(lost(&world), [(3, "000000030000000000000009".to_owned()), (4, "00000005.history".to_owned())]);
        world.push("00000003.history", b"1\t0/600100\tx\n2\t0/900100\tx\n").unwrap();
        assert_eq!(lost(&world), [(4, "00000005.history".to_owned())]);
        // Damage is told by itself.
        assert!(world.store.tamper(&world.object("00000003.history", 0), |bytes| bytes[300] ^= 1));
        assert_eq!(lost(&world), [(4, "00000005.history".to_owned())]);
    }

    #[test]
    fn segments_of_another_size_are_set_apart() {
        let world = filled();
        world.push("000000020000000000000003", &segment(1, 3, 2)).unwrap();
        let archive = read(&world, &NoCache);
        assert_eq!((archive.segments.len(), archive.other_sizes.len()), (1, 5));
    }

    /// When a damaged object was pushed is asked of what is left of it.
    #[test]
    fn a_damaged_object_says_which_head_its_pusher_had_seen() {
        let world = World::new();
        world.push("000000010000000000000003", &segment(1, 3, 1)).unwrap();
        for _ in 0..4 {
            world.append();
        }
        world.refresh();
        world.push("000000010000000000000004", &segment(1, 4, 1)).unwrap();
        let whole = read(&world, &NoCache);
        let heads: Vec<u64> = whole.segments.values().map(|entry| entry.head).collect();
        assert!(heads[0] < heads[1], "{heads:?}");
        type Damage = fn(&mut Vec<u8>);
        let damages: [(Damage, bool); 3] =
            [(|bytes| bytes[300] ^= 1, true), (|bytes| bytes.truncate(bytes.len() - 1), true), (|bytes| bytes.fill(0), false)];
        for (damage, told) in damages {
            for name in ["000000010000000000000003", "000000010000000000000004"] {
                assert!(world.store.tamper(&world.object(name, 0), damage));
            }
            let found: Vec<Option<u64>> = read(&world, &NoCache).damaged.iter().map(|damaged| damaged.head).collect();
            assert_eq!(found, heads.iter().map(|head| told.then_some(*head)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_unreachable_store_is_no_empty_archive() {
        let world = filled();
        world.store.set_unreachable(true);
        assert!(Archive::read(&world.site(), SYSTEM, &NoCache, &Cancel::new()).is_err());
    }
}
