//! Old pages that can't be had: what has changed is stored whole, or the backup fails; never is anything made of what wasn't read.

use std::collections::HashSet;
use std::sync::Arc;

use super::files::Files;
use super::patches::{FILE, PAGES, change, cluster, extents, is_patch};
use super::world::{How, Snap, World, at};
use crate::repo::pack::pack_name;
use crate::store::memory::MemoryStore;
use crate::store::troubled::{Failure, Troubled};
use crate::store::{ObjectName, Pace};
use crate::units::{Class, Explain, PackId};

/// A leaf of a relation, of which some extents were stored whole once more: in a pack of the second backup.
struct Story {
    store: Arc<MemoryStore>,
    troubled: Arc<Troubled>,
    world: World,
    files: Files,
    second: Snap,
    /// The pack of what was stored once more.
    pack: ObjectName,
    /// Extents whose old images lie there.
    there: usize,
}

const EXTENTS: u32 = 9;

/// Stored once more are so many extents.
fn story(pace: Pace, again: u32) -> Story {
    let store = Arc::<MemoryStore>::default();
    let troubled = Troubled::paced(Arc::clone(&store) as _, Some(pace));
    let (world, files) = (World::asking(Arc::clone(&troubled) as _), cluster(EXTENTS * PAGES));
    let first = world.backup(&files, &How::default()).unwrap();
    change(&files, (0..again).flat_map(|extent| 2 * extent * PAGES..(2 * extent + 1) * PAGES), 7);
    let second = world.backup(&files, &How::after(&first)).unwrap();
    let rows = extents(&world, &second);
    assert!(rows.len() == again as usize && !rows.iter().any(is_patch), "{rows:?}");
    let places: HashSet<PackId> = world.stored(&second, FILE).1.iter().map(|(_, chunk)| chunk.place.pack).collect();
    let pack = second.own.iter().find(|pack| places.contains(&pack.id)).unwrap();
    let pack = pack_name(pack.session, pack).unwrap();
    // A page of each extent.
    change(&files, (3..EXTENTS * PAGES).step_by(PAGES as usize), 8);
    Story { store, troubled, world, files, second, pack, there: again as usize }
}

impl Story {
    /// Its table and nodes are known; whoever reads an extent of it, which is far longer than these, fails so.
    fn lose_blobs(&self, failure: Failure) {
        let pack = self.pack.clone();
        self.troubled.fail_ranges(move |name, _, len| (*name == pack && len > 150_000).then_some(failure));
    }

    /// Each of its blobs is damaged.
    fn damage_blobs(&self) {
        let rows = extents(&self.world, &self.second);
        assert!(self.store.tamper(&self.pack, |bytes| rows.iter().for_each(|row| bytes[row.offset as usize + 50] ^= 1)));
    }

    /// What can't be read is stored whole, all else as a patch; and it comes back byte for byte out of what is left.
    fn does_without(&self, case: &str) {
        let third = self.world.backup(&self.files, &How::after(&self.second)).unwrap();
        let rows = extents(&self.world, &third);
        assert_eq!(rows.len(), EXTENTS as usize, "{case}");
        let whole: Vec<_> = rows.iter().filter(|row| !is_patch(row)).collect();
        assert_eq!(whole.len(), self.there, "{case}: {:?}", third.warnings);
        let lost = self.second.own.iter().map(|pack| pack.id).collect::<HashSet<_>>();
        assert!(rows.iter().flat_map(|row| &row.references).all(|of| !lost.contains(&of.place.pack)), "{case}");
        let said = third.warnings.iter().filter(|w| w.contains(FILE) && w.contains("storing the extent whole")).count();
        assert_eq!(said, self.there, "{case}: {:?}", third.warnings);
        assert!(self.world.read_one(&third, FILE).unwrap() == self.files.bytes(at(FILE)), "{case}");
    }
}

const PACES: [(&str, Pace); 2] =
    [("a disk", Pace::OF_A_DISK), ("a service", Pace { reads: 64, writes: 4, gap: 256 << 10, stretch: 1 << 20, block: 128 << 10 })];

#[test]
fn what_can_not_be_read_of_the_old_pages_is_stored_whole() {
    for (whose, pace) in PACES {
        // Several that are fetched together, and one alone.
        for again in [4, 1] {
            let lost = story(pace, again);
            lost.lose_blobs(Failure::Absent);
            lost.does_without(&format!("{whose}, {again} lost"));
            let damaged = story(pace, again);
            damaged.damage_blobs();
            damaged.does_without(&format!("{whose}, {again} damaged"));
        }
    }
}

#[test]
fn nothing_is_stored_on_a_guess_where_the_old_pages_can_not_be_asked_for() {
    let [disk, service] = PACES;
    for ((whose, pace), again, failure, class) in [
        (service, 4, Failure::Unreachable, Class::Unreachable),
        (service, 1, Failure::Unreachable, Class::Unreachable),
        (service, 4, Failure::Denied, Class::Denied),
        (disk, 1, Failure::Denied, Class::Denied),
    ] {
        let story = story(pace, again);
        story.lose_blobs(failure);
        let error = story.world.backup(&story.files, &How::after(&story.second)).err().unwrap_or_else(|| panic!("{whose}, {again}"));
        assert!(error.class() == class && error.to_string().contains(story.pack.as_str()), "{whose}, {again}: {error}");
        // It is there again: all are patches.
        story.troubled.calm();
        let third = story.world.backup(&story.files, &How::after(&story.second)).unwrap();
        assert!(extents(&story.world, &third).iter().all(is_patch), "{whose}, {again}");
        assert!(story.world.read_one(&third, FILE).unwrap() == story.files.bytes(at(FILE)));
    }
}

/// A reference that is another chunk than the one that is meant is none.
#[test]
fn an_old_image_that_lies_there_instead_of_another_is_not_taken_for_it() {
    for (whose, pace) in PACES {
        let story = story(pace, 4);
        // Two blobs change places: each is whole, and opens nowhere but where it was.
        let rows = extents(&story.world, &story.second);
        let (a, b) = (&rows[1], &rows[2]);
        let len = a.len.min(b.len) as usize;
        assert!(story.store.tamper(&story.pack, |bytes| {
            let at = |row: &crate::repo::pack::Row| row.offset as usize..row.offset as usize + len;
            let (old_a, old_b) = (bytes[at(a)].to_vec(), bytes[at(b)].to_vec());
            bytes[at(a)].copy_from_slice(&old_b);
            bytes[at(b)].copy_from_slice(&old_a);
        }));
        let third = story.world.backup(&story.files, &How::after(&story.second)).unwrap();
        let rows = extents(&story.world, &third);
        assert_eq!(rows.iter().filter(|row| !is_patch(row)).count(), 2, "{whose}: {:?}", third.warnings);
        assert!(story.world.read_one(&third, FILE).unwrap() == story.files.bytes(at(FILE)), "{whose}");
    }
}
