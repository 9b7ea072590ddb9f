//! Storing and finding chunks over a store in memory.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::*;
use crate::codec::{self, FrameKind, Patching, Way};
use crate::crypt::{ChunkRole, Opening, Root};
use crate::repo::pack::{KeptRanges, Packs, Place, Reference, Row, pack_name};
use crate::repo::structure::{FileData, FileEntry, MAX_NODE, Needs, Node, NodeSink, Part};
use crate::repo::{PackRef, RepoError};
use crate::store::memory::MemoryStore;
use crate::store::observed::Observed;
use crate::store::{Pace, SessionTag};
use crate::units::{ChunkId, PackId, SessionId};

struct World {
    root: Root,
    backend: Arc<MemoryStore>,
}

/// Where things lie, rightly or not.
#[derive(Clone, Default)]
struct Index(HashMap<ChunkId, Vec<Place>>);

impl Known for Index {
    fn places(&self, id: &ChunkId) -> Vec<Place> {
        self.0.get(id).cloned().unwrap_or_default()
    }
}

/// What a writer may rely on.
#[derive(Default)]
struct May {
    name: Vec<PackRef>,
    untrusted: bool,
    /// It can't read.
    blind: bool,
    index: Index,
    damaged: HashSet<Place>,
}

fn world() -> World {
    World { root: Root::random().unwrap(), backend: Arc::default() }
}

impl World {
    fn packs(&self, known: &[PackRef]) -> Arc<Packs> {
        let packs = Packs::new(Arc::clone(&self.backend) as _, self.root.sealing());
        packs.add(known.iter().copied());
        Arc::new(packs)
    }

    fn setup(&self, may: May) -> WriterSetup {
        let nameable: HashSet<PackId> = may.name.iter().map(|p| p.id).collect();
        WriterSetup {
            backend: Arc::clone(&self.backend) as _,
            packs: self.packs(&may.name),
            sealing: self.root.sealing(),
            opening: (!may.blind).then(|| self.root.opening()),
            session: SessionId([1; 16]),
            tag: SessionTag::new("test").unwrap(),
            trusted: if may.untrusted { HashSet::new() } else { nameable.clone() },
            nameable,
            known: Box::new(may.index),
            is_damaged: Box::new(move |place| may.damaged.contains(&place)),
        }
    }

    fn writer(&self, may: May) -> ChunkWriter {
        ChunkWriter::start(self.setup(may), Box::new(|_| Ok(()))).unwrap()
    }

    fn id(&self, plain: &[u8]) -> ChunkId {
        self.root.sealing().chunk_id(ChunkRole::Content, plain)
    }

    fn opening(&self) -> Opening {
        self.root.opening()
    }

    fn rows(&self, packs: &[PackRef]) -> Vec<Row> {
        let known = self.packs(packs);
        packs.iter().flat_map(|p| known.table(p.id).unwrap().rows().to_vec()).collect()
    }

    /// Flips a bit of a blob.
    fn tamper(&self, packs: &[PackRef], place: Place) {
        let pack = packs.iter().find(|p| p.id == place.pack).unwrap();
        let offset = self.packs(packs).table(pack.id).unwrap().rows()[place.blob as usize].offset as usize;
        assert!(self.backend.tamper(&pack_name(pack.session, pack).unwrap(), |bytes| bytes[offset] ^= 1));
    }
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn put(writer: &ChunkWriter, plain: &[u8]) -> Stored {
    put_framed(writer, plain, plain).unwrap()
}

/// Stores `plain` in the frame of other bytes.
fn put_framed(writer: &ChunkWriter, plain: &[u8], framed: &[u8]) -> Result<Stored, RepoError> {
    let id = writer.sealing().chunk_id(ChunkRole::Content, plain);
    let frame = codec::encode_whole(framed, 3).unwrap();
    writer.put(ChunkRole::Content, NewChunk { id, plain, frame, reference: None })
}

/// Stores `plain` as a patch of `whole` that was made of `made_of` against `against`.
fn put_patch(writer: &ChunkWriter, plain: &[u8], made_of: &[u8], whole: &Stored, whole_plain: &[u8]) -> Result<Stored, RepoError> {
    let how = Patching { page_size: 8192, way: Way::AgainstOld, level: 3, whole_len: plain.len() };
    let frame = codec::encode_patch(made_of, whole_plain, how).unwrap().unwrap();
    let sealing = writer.sealing();
    let id = sealing.chunk_id(ChunkRole::Content, plain);
    let reference = Reference { id: sealing.chunk_id(ChunkRole::Content, whole_plain), place: whole.place };
    writer.put(ChunkRole::Content, NewChunk { id, plain, frame, reference: Some((reference, whole.bytes, whole_plain)) })
}

/// Two extents of which the second differs in one page.
fn versions() -> (Vec<u8>, Vec<u8>) {
    let old = noise(1, 256 << 10);
    let mut new = old.clone();
    new[8192..8200].copy_from_slice(b"changed!");
    (old, new)
}

/// A repository with a whole chunk, a patch of it, and another chunk; with the index of all.
fn stored(world: &World) -> (Vec<PackRef>, [Stored; 3], Index) {
    let (old, new) = versions();
    let writer = world.writer(May::default());
    let whole = put(&writer, &old);
    let patch = put_patch(&writer, &new, &new, &whole, &old).unwrap();
    let other = put(&writer, b"other");
    let (packs, _) = writer.finish().unwrap();
    let mut index = Index::default();
    for (plain, stored) in [(&old, whole), (&new, patch), (&b"other".to_vec(), other)] {
        index.0.insert(world.id(plain), vec![stored.place]);
    }
    (packs, [whole, patch, other], index)
}

#[test]
fn chunks_are_found_again_in_this_session_and_the_next() {
    let world = world();
    let (packs, [whole, patch, _], index) = stored(&world);
    let (old, new) = versions();
    let writer = world.writer(May { name: packs.clone(), index, ..May::default() });
    assert_eq!(writer.find(ChunkRole::Content, &world.id(&old)).unwrap(), Some(whole));
    assert_eq!(writer.find(ChunkRole::Content, &world.id(&new)).unwrap(), Some(patch));
    assert_eq!(patch.reference.map(|(r, bytes)| (r.place, bytes)), Some((whole.place, whole.bytes)));
    assert_eq!(writer.find(ChunkRole::Content, &world.id(b"new")).unwrap(), None);
    assert_eq!(writer.find(ChunkRole::Structure, &world.id(&old)).unwrap(), None, "a page can't pose as a node");
    let fresh = put(&writer, b"new");
    assert_eq!(writer.find(ChunkRole::Content, &world.id(b"new")).unwrap(), Some(fresh));
    let (own, totals) = writer.finish().unwrap();
    assert_eq!((own.len(), totals.plain), (1, 3));
    let read = world.packs(&packs);
    assert_eq!(read.content(&world.opening(), world.id(&new).short(), patch.place).unwrap().bytes(), new);
}

#[test]
fn a_frame_that_decodes_to_other_bytes_is_taken_out_of_the_pack_again() {
    let world = world();
    let writer = world.writer(May::default());
    let plain = noise(2, 5000);
    let error = put_framed(&writer, &plain, &noise(3, 5000)).unwrap_err();
    assert!(matches!(&error, RepoError::Corrupt { why, .. } if why.contains("other bytes")), "{error:?}");
    assert!(matches!(put_framed(&world.writer(May::default()), &plain, b"shorter").unwrap_err(), RepoError::Codec { .. }));
    assert_eq!(writer.find(ChunkRole::Content, &world.id(&plain)).unwrap(), None);
    // What comes behind it takes its place.
    let good = put(&writer, b"good");
    assert_eq!(good.place.blob, 0);
    let (old, new) = versions();
    let whole = put(&writer, &old);
    let mut another = new.clone();
    another[0] ^= 1;
    let error = put_patch(&writer, &new, &another, &whole, &old).unwrap_err();
    assert!(matches!(error, RepoError::Corrupt { .. }), "{error:?}");
    let patch = put_patch(&writer, &new, &new, &whole, &old).unwrap();
    let (packs, totals) = writer.finish().unwrap();
    assert_eq!(totals.plain, 4 + 2 * (256 << 10));
    let rows = world.rows(&packs);
    assert_eq!(rows.iter().map(|row| row.chunks[0].0).collect::<Vec<_>>(), [world.id(b"good"), world.id(&old), world.id(&new)]);
    assert_eq!(
        rows.iter().map(|row| row.kind).collect::<Vec<_>>(),
        [u8::from(FrameKind::Stored), u8::from(FrameKind::Stored), u8::from(FrameKind::Patch)]
    );
    let read = world.packs(&packs);
    for (plain, place) in [(b"good".as_slice(), good.place), (&old, whole.place), (&new, patch.place)] {
        assert_eq!(read.content(&world.opening(), world.id(plain).short(), place).unwrap().bytes(), plain);
    }
}

#[test]
fn a_pack_of_which_nothing_is_left_is_not_stored() {
    let world = world();
    let writer = world.writer(May::default());
    assert!(put_framed(&writer, b"one thing", b"another").is_err());
    let (packs, totals) = writer.finish().unwrap();
    assert_eq!((packs.len(), totals), (0, Totals::default()));
}

#[test]
fn of_plain_frames_every_sixty_fourth_is_decoded_again_and_every_patch() {
    let world = world();
    let writer = world.writer(May::default());
    let (old, new) = versions();
    let whole = put(&writer, &old);
    for round in 1..=130u32 {
        let wrong = put_framed(&writer, &round.to_le_bytes(), b"abcd");
        assert_eq!(wrong.is_err(), round % 64 == 0, "{round}");
    }
    for _ in 0..3 {
        assert!(put_patch(&writer, &new, &old, &whole, &old).is_err());
    }
}

#[test]
fn a_damaged_place_is_no_target_and_neither_is_a_patch_of_it() {
    let (old, new) = versions();
    for (damaged, found) in [(0, [false, false]), (1, [true, false]), (2, [true, true])] {
        let world = world();
        let (packs, places, index) = stored(&world);
        let damaged = HashSet::from([places[damaged].place]);
        let writer = world.writer(May { name: packs, index, damaged, ..May::default() });
        for ((plain, place), found) in [&old, &new].into_iter().zip(&places).zip(found) {
            assert_eq!(writer.find(ChunkRole::Content, &world.id(plain)).unwrap().is_some(), found);
            assert_eq!(writer.stored_at(world.id(plain).short(), place.place).unwrap().is_some(), found);
        }
    }
}

#[test]
fn another_place_is_taken_where_the_first_is_damaged() {
    let world = world();
    let (mut packs, [_, _, first], mut index) = stored(&world);
    let writer = world.writer(May::default());
    let second = put(&writer, b"other");
    packs.extend(writer.finish().unwrap().0);
    index.0.insert(world.id(b"other"), vec![first.place, second.place]);
    let writer = world.writer(May { name: packs, index, damaged: HashSet::from([first.place]), ..May::default() });
    assert_eq!(writer.find(ChunkRole::Content, &world.id(b"other")).unwrap(), Some(second));
}

#[test]
fn patches_of_many_large_chunks_are_read_a_few_at_a_time_and_all_come() {
    let world = world();
    let writer = world.writer(May::default());
    // 48 MiB of references in all, longer ones than our encoder patches; two patches share one.
    let olds: Vec<Vec<u8>> = (0..12u8).map(|n| [vec![n; 4 << 20], noise(n, 64)].concat()).collect();
    let wholes: Vec<Stored> = olds.iter().map(|old| put(&writer, old)).collect();
    let mut wanted = Vec::new();
    for (n, (old, whole)) in olds.iter().zip(&wholes).chain([(&olds[0], &wholes[0])]).enumerate() {
        // Pages of 512 bytes, none of them changed.
        let new = old[..8192 - n * 512].to_vec();
        let frame = codec::Frame { kind: FrameKind::Patch, bytes: [[0, 9].as_slice(), &[0; 2][..(16 - n).div_ceil(8)]].concat() };
        let reference = Some((Reference { id: world.id(old), place: whole.place }, whole.bytes, old.as_slice()));
        let stored = writer.put(ChunkRole::Content, NewChunk { id: world.id(&new), plain: &new, frame, reference }).unwrap();
        wanted.push((world.id(&new).short(), stored.place, new));
    }
    let (packs, _) = writer.finish().unwrap();
    let asked: Vec<_> = wanted.iter().map(|(id, place, _)| (*id, *place)).collect();
    let mut seen = BTreeSet::new();
    let read = world.packs(&packs).contents(&world.opening(), &asked, &mut |at, chunk| {
        assert!(chunk.bytes() == wanted[at].2);
        assert!(seen.insert(at), "{at} came twice");
        Ok(())
    });
    read.unwrap();
    assert_eq!(seen.len(), wanted.len());
}

#[test]
fn a_blob_of_many_references_is_refused_before_they_are_read() {
    let world = world();
    let sealing = world.root.sealing();
    let mut builder = crate::repo::pack::PackBuilder::new(&sealing).unwrap();
    let reference = |n: u8| Reference { id: ChunkId([n; 32]), place: Place { pack: PackId([n; 16]), blob: 0, position: 0 } };
    let blob = crate::repo::pack::NewBlob {
        role: ChunkRole::Content,
        kind: FrameKind::Patch.into(),
        frame: vec![1, 9, 0],
        chunks: vec![(world.id(b"x"), 1)],
        references: (0..200).map(reference).collect(),
    };
    let place = builder.add(blob).unwrap();
    let finished = builder.finish().unwrap();
    let pack = PackRef {
        session: SessionId([1; 16]),
        id: finished.id,
        hash: finished.hash,
        size: finished.bytes.len() as u64,
        tail: finished.tail,
    };
    let name = pack_name(pack.session, &pack).unwrap();
    let _ = crate::store::Backend::create(&*world.backend, &name, &[&finished.bytes], &SessionTag::new("test").unwrap()).unwrap();
    // None of the packs that it names is known: they aren't asked for.
    let read = world.packs(&[pack]).content(&world.opening(), world.id(b"x").short(), place);
    assert!(matches!(&read, Err(RepoError::Corrupt { why, .. }) if why.contains("several references")), "{:?}", read.err());
}

#[test]
fn a_place_where_another_chunk_lies_is_not_relied_on() {
    let world = world();
    let (packs, [whole, patch, other], index) = stored(&world);
    let (old, new) = versions();
    let writer = world.writer(May { name: packs, index, ..May::default() });
    for (plain, wrong) in [(&old[..], patch), (&old[..], other), (&new[..], whole), (b"other", whole), (b"unknown", other)] {
        assert_eq!(writer.stored_at(world.id(plain).short(), wrong.place).unwrap(), None);
    }
    assert!(writer.stored_at(world.id(&new).short(), patch.place).unwrap().is_some());
}

#[test]
fn packs_that_may_not_be_named_are_not_relied_on() {
    let world = world();
    let (packs, [whole, patch, _], index) = stored(&world);
    let (old, _) = versions();
    let writer = world.writer(May { index, ..May::default() });
    assert_eq!(writer.find(ChunkRole::Content, &world.id(&old)).unwrap(), None);
    assert_eq!(writer.stored_at(world.id(&old).short(), whole.place).unwrap(), None);
    assert!(!writer.may_name(patch.place.pack));
    // The patch's pack may be named, its reference's not.
    let lone = world.writer(May { name: packs.clone(), ..May::default() });
    let (old, new) = versions();
    let foreign = put_patch(&lone, &new, &new, &whole, &old).unwrap();
    let (more, _) = lone.finish().unwrap();
    let writer = world.writer(May { name: more, ..May::default() });
    assert_eq!(writer.stored_at(world.id(&new).short(), foreign.place).unwrap(), None);
}

#[test]
fn an_index_that_lies_is_passed_over() {
    let world = world();
    let (packs, [whole, patch, other], mut index) = stored(&world);
    let gone = Place { pack: PackId([9; 16]), ..whole.place };
    let beyond = Place { blob: 1000, ..whole.place };
    let position = Place { position: 1, ..whole.place };
    index.0.insert(world.id(b"other"), vec![whole.place, patch.place, gone, beyond, position]);
    let writer = world.writer(May { name: packs.clone(), index: index.clone(), ..May::default() });
    assert_eq!(writer.find(ChunkRole::Content, &world.id(b"other")).unwrap(), None);
    index.0.get_mut(&world.id(b"other")).unwrap().push(other.place);
    let writer = world.writer(May { name: packs, index, ..May::default() });
    assert_eq!(writer.find(ChunkRole::Content, &world.id(b"other")).unwrap(), Some(other));
}

#[test]
fn a_pack_that_is_gone_or_cut_off_is_stored_anew_and_a_store_that_is_away_is_an_error() {
    let (old, _) = versions();
    for cut in [false, true] {
        let world = world();
        let (packs, [whole, ..], index) = stored(&world);
        let name = pack_name(packs[0].session, &packs[0]).unwrap();
        if cut {
            assert!(world.backend.tamper(&name, |bytes| bytes.truncate(bytes.len() - 1)));
        } else {
            crate::store::Backend::delete(&*world.backend, &name).unwrap();
        }
        let writer = world.writer(May { name: packs, index, ..May::default() });
        let found = writer.find(ChunkRole::Content, &world.id(&old));
        assert_eq!(found.unwrap(), None);
        assert_eq!(writer.stored_at(world.id(&old).short(), whole.place).unwrap(), None);
    }
    let world = world();
    let (packs, [whole, ..], index) = stored(&world);
    let writer = world.writer(May { name: packs, index, ..May::default() });
    world.backend.set_unreachable(true);
    assert!(writer.find(ChunkRole::Content, &world.id(&old)).is_err());
    assert!(writer.stored_at(world.id(&old).short(), whole.place).is_err());
}

#[test]
fn what_an_untrusted_host_has_stored_is_opened_and_hashed_before_it_is_relied_on() {
    let (old, new) = versions();
    let look = |untrusted, blind, tampered: Option<usize>| {
        let world = world();
        let (packs, places, index) = stored(&world);
        if let Some(at) = tampered {
            world.tamper(&packs, places[at].place);
        }
        let writer = world.writer(May { name: packs, untrusted, blind, index, ..May::default() });
        [&old, &new].map(|plain| writer.find(ChunkRole::Content, &world.id(plain)).unwrap().is_some())
    };
    assert_eq!(look(true, false, None), [true, true]);
    assert_eq!(look(true, true, None), [false, false], "who can't read can't look");
    assert_eq!(look(true, false, Some(0)), [false, false]);
    assert_eq!(look(true, false, Some(1)), [true, false]);
    // Trust needs no look.
    assert_eq!(look(false, true, Some(0)), [true, true]);
}

#[test]
fn packs_are_closed_at_their_size_and_told_of_one_by_one() {
    let world = world();
    let told = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&told);
    let tell = move |what: Uploaded<'_>| {
        if let Uploaded::Pack(pack) = what {
            theirs.lock().unwrap().push(*pack);
        }
        Ok(())
    };
    let writer = ChunkWriter::start(world.setup(May::default()), Box::new(tell)).unwrap();
    let mut places = Vec::new();
    for seed in 0..40 {
        let plain = noise(seed, 1 << 20);
        places.push((put(&writer, &plain).place, plain));
    }
    let (packs, totals) = writer.finish().unwrap();
    assert_eq!(*told.lock().unwrap(), packs);
    assert_eq!(packs.len(), 3);
    assert_eq!(totals.packs, packs.iter().map(|p| p.size).sum::<u64>());
    assert!(packs[..2].iter().all(|p| p.size >= 16 << 20 && p.size < 18 << 20));
    let read = world.packs(&packs);
    for (place, plain) in places {
        assert!(read.content(&world.opening(), world.id(&plain).short(), place).unwrap().bytes() == plain);
    }
}

#[test]
fn a_service_stores_several_packs_at_once_and_each_is_told() {
    let world = world();
    let store = Arc::new(Observed::new(Pace::of_a_service(64)));
    let start = |tell: OnStored| {
        let packs = Arc::new(Packs::new(Arc::clone(&store) as _, world.root.sealing()));
        ChunkWriter::start(WriterSetup { backend: Arc::clone(&store) as _, packs, ..world.setup(May::default()) }, tell).unwrap()
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&told);
    let writer = start(Box::new(move |what| {
        if let Uploaded::Pack(pack) = what {
            theirs.lock().unwrap().push(pack.id);
        }
        Ok(())
    }));
    store.hold(8 << 20, 2);
    for seed in 0..36 {
        put(&writer, &noise(seed, 1 << 20));
    }
    let (packs, _) = writer.finish().unwrap();
    assert!(store.seen().at_once >= 2 && packs.len() == 3, "{:?} {packs:?}", store.seen());
    let ids: BTreeSet<PackId> = packs.iter().map(|pack| pack.id).collect();
    assert!(told.lock().unwrap().len() == 3 && ids == told.lock().unwrap().iter().copied().collect());

    // One that fails ends them all, and nothing hangs.
    let writer = start(Box::new(|what| match what {
        Uploaded::Pack(_) => Err(RepoError::internal("told")),
        Uploaded::Idle => Ok(()),
    }));
    let ended = (100..200).map(|seed| noise(seed, 1 << 20)).find_map(|plain| put_framed(&writer, &plain, &plain).err());
    assert!(matches!(ended.unwrap_or_else(|| writer.finish().unwrap_err()), RepoError::Internal("told")));
}

/// Ranges by object and offset.
#[derive(Default)]
struct Ranges(Mutex<HashMap<(String, u64), Vec<u8>>>);

impl KeptRanges for Ranges {
    fn get(&self, object: &str, offset: u64, len: u32) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(&(object.to_owned(), offset)).filter(|bytes| bytes.len() == len as usize).cloned()
    }

    fn put(&self, object: &str, offset: u64, bytes: &[u8]) {
        self.0.lock().unwrap().insert((object.to_owned(), offset), bytes.to_vec());
    }
}

#[test]
fn what_is_kept_counts_only_if_it_is_what_it_must_be() {
    let world = world();
    let writer = world.writer(May::default());
    put(&writer, &noise(1, 100_000));
    let (packs, _) = writer.finish().unwrap();
    let (pack, ranges) = (packs[0], Arc::new(Ranges::default()));
    let name = pack_name(pack.session, &pack).unwrap();
    let table = || {
        let reader = Packs::new(Arc::clone(&world.backend) as _, world.root.sealing()).with_kept(Some(Arc::clone(&ranges) as _));
        reader.add([pack]);
        reader.table(pack.id).map(|table| table.rows().len())
    };
    let flip_store = || assert!(world.backend.tamper(&name, |bytes| bytes[pack.size as usize - pack.tail as usize + 40] ^= 1));
    let flip_kept = || ranges.0.lock().unwrap().values_mut().for_each(|bytes| bytes[40] ^= 1);
    assert_eq!((table().unwrap(), ranges.0.lock().unwrap().len()), (1, 1));
    // The store isn't asked.
    flip_store();
    assert_eq!(table().unwrap(), 1);
    // Neither is right.
    flip_kept();
    assert!(matches!(table(), Err(RepoError::Crypt { .. } | RepoError::Corrupt { .. })));
    // What is kept is wrong: the store is asked, and that is kept instead.
    flip_store();
    assert_eq!(table().unwrap(), 1);
    flip_store();
    assert_eq!(table().unwrap(), 1);
}

#[test]
fn who_is_told_can_end_it_and_a_store_that_fails_ends_it() {
    let world = world();
    let told = |_: Uploaded<'_>| Err(RepoError::internal("told"));
    let writer = ChunkWriter::start(world.setup(May::default()), Box::new(told)).unwrap();
    put(&writer, b"one");
    assert!(matches!(writer.finish(), Err(RepoError::Internal("told"))));
    let writer = world.writer(May::default());
    put(&writer, b"one");
    world.backend.set_unreachable(true);
    assert!(matches!(writer.finish(), Err(RepoError::Store(_))));
}

/// A node whose needs are too many keeps them in nodes of their own, and names the pack in which those lie.
#[test]
fn needs_that_are_too_many_lie_outside_of_their_node() {
    let world = world();
    let writer = world.writer(May::default());
    let content = put(&writer, b"attributes");
    let attributes =
        crate::repo::structure::ChunkRef { id: world.id(b"attributes").short(), place: content.place, len: b"attributes".len() as u32 };
    let needs = |file: u8| Needs((0..60u8).map(|n| (PackId([n; 16]), u64::from(file) + 1)).collect());
    let file = |n| FileEntry { len: 1, data: FileData::Single { id: world.id(&[n]).short(), place: content.place, needs: needs(n) } };
    let node = Node::Part(Part { attributes, joint: Vec::new(), files: (0..128).map(file).collect() });
    let (id, place, _) = writer.put_node(&node).unwrap();
    assert_eq!(writer.outside(), BTreeSet::from([place.pack]));
    let (packs, _) = writer.finish().unwrap();
    let read = world.packs(&packs);
    let chunk = read.node(id.short(), place).unwrap();
    assert!(chunk.bytes().len() <= MAX_NODE);
    let back = Node::decode(chunk.bytes(), &mut |id, place| {
        let chunk = read.node(id, place)?;
        match Node::decode(chunk.bytes(), &mut |_, _| Err(RepoError::internal("needs within needs")))? {
            Node::Needs(needs) => Ok::<_, RepoError>(needs),
            _ => Err(RepoError::internal("another node")),
        }
    })
    .unwrap();
    let (Node::Part(part), Node::Part(before)) = (back, node) else { panic!("another node") };
    for (there, here) in part.files.iter().zip(&before.files) {
        let (FileData::Single { needs: there, .. }, FileData::Single { needs: here, .. }) = (&there.data, &here.data) else { panic!() };
        for (pack, bytes) in &here.0 {
            assert_eq!(there.0.get(pack), Some(bytes));
        }
    }
}

/// A patch made without its reference, of these pages, and the frame of those.
fn put_pages(
    world: &World,
    writer: &ChunkWriter,
    new: &[u8],
    whole: (&[u8], Stored),
    pages: &[u32],
    framed: &[u32],
) -> Result<Stored, RepoError> {
    let how = Patching { page_size: 512, way: Way::Alone, level: 3, whole_len: usize::MAX };
    let frame = codec::encode_pages(new, framed, how).unwrap().unwrap();
    let reference = (Reference { id: world.id(whole.0), place: whole.1.place }, whole.1.bytes);
    writer.put_pages(NewPages { id: world.id(new), plain: new, frame, reference, pages, page_size: 512 }, Quiet::New)
}

#[test]
fn pages_alone_are_checked_and_read_back() {
    let world = world();
    let writer = world.writer(May { blind: true, ..May::default() });
    let old = noise(1, 5000);
    let whole = put(&writer, &old);
    let mut new = old.clone();
    new[600] ^= 1;
    new[4999] ^= 1;
    let stored = put_pages(&world, &writer, &new, (&old, whole), &[1, 9], &[1, 9]).unwrap();
    assert_eq!(stored.reference.map(|(r, bytes)| (r.place, bytes)), Some((whole.place, whole.bytes)));
    // Found again, within the session.
    assert_eq!(writer.find(ChunkRole::Content, &world.id(&new)).unwrap(), Some(stored));
    let mut needs = Needs::default();
    stored.add_to(&mut needs);
    assert_eq!(needs.0.values().sum::<u64>(), u64::from(stored.bytes) + u64::from(whole.bytes));
    // Not the pages that it says.
    for framed in [&[1][..], &[1, 8], &[0, 1, 9]] {
        let wrong = put_pages(&world, &writer, &new[..4998], (&old, whole), &[1, 9], framed);
        assert!(matches!(wrong, Err(RepoError::Corrupt { .. })), "{framed:?}: {wrong:?}");
    }
    // Not their bytes: memory that lies.
    let how = Patching { page_size: 512, way: Way::Alone, level: 3, whole_len: usize::MAX };
    let frame = codec::encode_pages(&old, &[1, 9], how).unwrap().unwrap();
    let reference = (Reference { id: world.id(&old), place: whole.place }, whole.bytes);
    let patch = NewPages { id: world.id(&new), plain: &new, frame, reference, pages: &[1, 9], page_size: 512 };
    assert!(matches!(writer.put_pages(patch, Quiet::New), Err(RepoError::Corrupt { .. })));
    // Another kind of frame, and one that needs old images.
    let patch = NewPages {
        id: world.id(&new),
        plain: &new,
        frame: codec::encode_whole(&new, 3).unwrap(),
        reference,
        pages: &[1, 9],
        page_size: 512,
    };
    assert!(writer.put_pages(patch, Quiet::New).is_err());
    let against = Patching { way: Way::AgainstOld, ..how };
    let frame = codec::encode_patch(&new, &old, against).unwrap().unwrap();
    let patch = NewPages { id: world.id(&new), plain: &new, frame, reference, pages: &[1, 9], page_size: 512 };
    assert!(writer.put_pages(patch, Quiet::New).is_err());
    let (packs, totals) = writer.finish().unwrap();
    assert_eq!((world.rows(&packs).len(), totals.plain), (2, 10_000), "what was refused is not in the pack");
    let read = world.packs(&packs).content(&world.opening(), world.id(&new).short(), stored.place).unwrap();
    assert!(read.bytes() == new);
}

#[test]
fn an_envelope_that_came_with_a_flipped_bit_is_read_again() {
    let world = World { backend: Arc::new(MemoryStore::with_versions()), ..world() };
    let writer = world.writer(May::default());
    let stored = put(&writer, b"content");
    let (packs, _) = writer.finish().unwrap();
    let name = pack_name(packs[0].session, &packs[0]).unwrap();
    // The last one lies before salt and trailer; its first bytes say which kind and whose it is.
    for at in [1, 20, 100] {
        let flip = |bytes: &mut Vec<u8>| {
            let envelope = bytes.len() - 64 - crate::crypt::envelope::LEN;
            bytes[envelope + at] ^= 1;
        };
        let known = world.packs(&packs);
        assert!(world.backend.tamper(&name, flip));
        let table = known.table(stored.place.pack).unwrap();
        let row = &table.rows()[stored.place.blob as usize];
        let came = table.envelope(row).unwrap().0;
        assert!(world.backend.tamper(&name, flip));
        let copied = known.envelope_to_copy(&table, row).unwrap().unwrap();
        assert!(copied.0 != came, "{at}: it would be lost where it is copied to");
        let id = world.id(b"content");
        assert_eq!(known.content(&world.opening(), id.short(), stored.place).unwrap().bytes(), b"content", "{at}");
    }
}
