//! Needs that lie in nodes of their own, in packs that are emptied.

use std::collections::HashMap;
use std::sync::Arc;

use super::run::{Setting, empty};
use crate::codec;
use crate::crypt::ChunkRole;
use crate::host::access::testing::Host;
use crate::host::access::{OpenSession, append};
use crate::repo::PackRef;
use crate::repo::log::{
    Abort, Begin, Commit, CommitLists, Forget, Held, Kind, PackFacts, PackSet, Packs as ListedPacks, Place as LogPlace, Progressed, Root,
    SnapshotWal, Summary, WalMode, WalPosition, WalRange,
};
use crate::repo::pack::{Packs, Place, pack_name};
use crate::repo::structure::{ChunkRef, Extent, FileData, FileEntry, Needs, Node, NodeSink, Part, put_part, put_snapshot};
use crate::repo::write::{ChunkWriter, Known, NewChunk, WriterSetup};
use crate::store::memory::MemoryStore;
use crate::units::{Cancel, ChunkId, Hash32, Lsn, PackId, Quiet, SegmentSize, SessionId, ShortId, TimelineId, Timestamp};

const MACHINE: &str = "m1";

#[derive(Clone, Default)]
struct Index(HashMap<ChunkId, Vec<Place>>);

impl Known for Index {
    fn places(&self, id: &ChunkId) -> Vec<Place> {
        self.0.get(id).cloned().unwrap_or_default()
    }
}

/// Packs that nobody has stored: a file needs more of them than its entry names.
fn many(host: &Host) -> (SessionId, Vec<PackId>) {
    let packs: Vec<PackId> = (0..70u8).map(|n| PackId([n; 16])).collect();
    let begin = Begin { purpose: "trial".into(), machine: MACHINE.into(), ..Begin::default() };
    let session = append(&host.opened, &Kind::Begin(begin)).unwrap().session();
    let listed = packs.iter().map(|id| (*id, PackFacts { hash: Hash32(id.0.repeat(2).try_into().unwrap()), size: 1, tail: 1 })).collect();
    append(&host.opened, &Kind::Progress(Progressed { session, packs: Held::Inline(listed) })).unwrap();
    append(&host.opened, &Kind::Abort(Abort { session })).unwrap();
    (session, packs)
}

/// A snapshot of one part with one file, which needs `many`; with `junk`, its pack is mostly nodes that nobody names.
fn snapshot(host: &Host, name: &str, (lists, many): &(SessionId, Vec<PackId>), known: &[PackRef], junk: bool) -> (u64, Vec<PackRef>) {
    let begin = Begin {
        purpose: "backup".into(),
        cluster: Some("shop".into()),
        system_identifier: Some(7),
        machine: MACHINE.into(),
        floor: Some(WalPosition { timeline: TimelineId(1), lsn: Lsn(0x300_0028) }),
        ..Begin::default()
    };
    let opened = &host.opened;
    let session = Arc::new(OpenSession::begin(opened, &host.state.locks(), begin).unwrap());
    let packs = Arc::new(Packs::new(Arc::clone(&opened.backend), opened.sealing.clone()));
    packs.add(known.iter().copied());
    let mut index = Index::default();
    for pack in known {
        for (blob, row) in packs.table(pack.id).unwrap().rows().iter().enumerate() {
            let place = Place { pack: pack.id, blob: blob as u32, position: 0 };
            row.chunks.iter().for_each(|(id, _)| index.0.entry(*id).or_default().push(place));
        }
    }
    let theirs = Arc::clone(&session);
    let setup = WriterSetup {
        backend: Arc::clone(&opened.backend),
        packs,
        sealing: opened.sealing.clone(),
        opening: opened.opening.clone(),
        session: session.id(),
        tag: session.tag(),
        nameable: known.iter().map(|p| p.id).collect(),
        trusted: known.iter().map(|p| p.id).collect(),
        known: Box::new(index),
        is_damaged: Box::new(|_| false),
    };
    let writer = ChunkWriter::start(setup, Box::new(move |what| theirs.told(what).map_err(|_| unreachable!()))).unwrap();
    let mut needs = Needs::default();
    let mut content = |plain: &[u8]| {
        let id = writer.sealing().chunk_id(ChunkRole::Content, plain);
        let stored = match writer.find(ChunkRole::Content, &id).unwrap() {
            Some(stored) => stored,
            None => {
                let frame = codec::encode_whole(plain, codec::DENSE).unwrap();
                writer.put(ChunkRole::Content, NewChunk { id, plain, frame, reference: None }).unwrap()
            }
        };
        stored.add_to(&mut needs);
        ChunkRef { id: id.short(), place: stored.place, len: plain.len() as u32 }
    };
    let (file, attributes, meta) = (content(b"the file"), content(name.as_bytes()), content(b"{}"));
    let mut of_file = Needs::default();
    many.iter().for_each(|pack| of_file.add(*pack, 1));
    of_file.add(file.place.pack, 100);
    needs.join(&of_file);
    let entry = FileEntry { len: 8, data: FileData::Single { id: file.id, place: file.place, needs: of_file } };
    let part = put_part(&writer, Part { attributes, joint: Vec::new(), files: vec![entry] }, &mut needs).unwrap();
    let (chunk, root) = put_snapshot(&writer, meta, vec![part], &mut needs).unwrap();
    if junk {
        let chunk = |n: u16| ShortId(blake3::hash(&n.to_le_bytes()).as_bytes()[..16].try_into().unwrap());
        let extents = (0..1000).map(|n| Extent::Chunk(ChunkRef { id: chunk(n), place: file.place, len: 8192 })).collect();
        writer.put_node(&Node::Leaf(extents)).unwrap();
    }
    writer.outside().into_iter().for_each(|pack| needs.add(pack, 0));
    let (own, _) = writer.finish().unwrap();
    let of = |pack: &PackId| {
        let of_own = own.iter().find(|p| p.id == *pack).map(|_| session.id());
        of_own.or_else(|| known.iter().find(|p| p.id == *pack).map(|p| p.session)).unwrap_or(*lists)
    };
    let set: PackSet = needs.0.keys().map(|pack| (of(pack), *pack)).collect();
    let (start, stop) = (Lsn(0x400_0028), Lsn(0x500_0100));
    let commit = Commit {
        session: session.id(),
        summary: Summary {
            id: name.into(),
            kind: "physical".into(),
            cluster: "shop".into(),
            system_identifier: 7,
            started_at: Timestamp(1_700_000_000_000_000),
            finished_at: Timestamp(1_700_000_060_000_000),
            wal: Some(SnapshotWal {
                timeline: TimelineId(1),
                start_lsn: start,
                stop_lsn: stop,
                segment_size: SegmentSize::DEFAULT,
                ranges: vec![WalRange { timeline: TimelineId(1), first: start, last: stop }],
                ancestry: Vec::new(),
                mode: WalMode::Copy,
            }),
            pg_version: "18.1".into(),
            cluster_bytes: 1,
            read_bytes: 1,
            changed_bytes: 1,
            new_bytes: 1,
            files: 1,
            damaged_pages: 0,
            parent: None,
            labels: Default::default(),
        },
        root: Root {
            chunk,
            place: LogPlace { pack: root.place.pack, blob: root.place.blob, position: root.place.position.into() },
            digest: root.digest,
        },
        lists: Held::Inline(CommitLists { new: session.unlisted(), set, less: PackSet::default(), ledger: Vec::new() }),
        replaces: None,
    };
    let head = Arc::into_inner(session).unwrap().commit(commit).unwrap();
    (head.number, own)
}

/// Reads the only live snapshot's part, and its file, out of the packs that its COMMIT names.
#[track_caller]
fn assert_whole(host: &Host) {
    let opened = &host.opened;
    let view = opened.view();
    let commit = view.fold.commits.values().next().unwrap();
    let packs = opened.packs_of(&view.fold, commit).unwrap();
    let read = |id, place, digest| super::nodes::read(&packs, id, place, digest, &mut |_| Ok(())).unwrap_or_else(|e| panic!("{e}"));
    let place = super::nodes::place_of(&commit.root).unwrap();
    let Node::Snapshot(root) = read(commit.root.chunk.short(), place, commit.root.digest) else { panic!("no root") };
    let Node::Part(part) = read(root.folders[0].id, root.folders[0].place, root.folders[0].digest) else { panic!("no part") };
    let FileData::Single { id, place, needs } = &part.files[0].data else { panic!("no chunk") };
    assert!(needs.0.keys().all(|pack| commit.set.iter().any(|(_, named)| named == pack)), "its needs are named");
    assert_eq!(packs.content(opened.opening.as_ref().unwrap(), *id, *place).unwrap().bytes(), b"the file");
}

#[test]
fn needs_in_a_pack_that_is_emptied_move_and_those_in_others_stay_named() {
    // In the pack that is emptied, and in one that stays.
    for emptied in [true, false] {
        let host = Host::new(Arc::new(MemoryStore::default()));
        let many = many(&host);
        let (first, old) = snapshot(&host, "20260101-000000-0001", &many, &[], emptied);
        let (_, new) = snapshot(&host, "20260102-000000-0002", &many, &old, !emptied);
        append(&host.opened, &Kind::Forget(Forget { commit: first, window: false })).unwrap();
        assert_whole(&host);
        let cancel = Cancel::new();
        let setting = Setting {
            opened: &host.opened,
            state: &host.state,
            machine: [1; 16],
            trust_writers: &[],
            sort_blobs: true,
            cancel: &cancel,
            progress: &Quiet,
        };
        let done = empty(&setting, Some(u64::MAX)).unwrap();
        let of = if emptied { &old } else { &new };
        assert!(of.iter().any(|p| done.emptied.contains(&(p.session, p.id))), "{emptied}: {done:?}");
        assert_whole(&host);
        // What is not named any more goes, and nothing is missing.
        let gone: Vec<PackRef> = {
            let view = host.opened.view();
            old.iter().chain(&new).filter(|p| !view.fold.is_named(&p.session, &p.id)).copied().collect()
        };
        assert!(!gone.is_empty());
        let set: PackSet = gone.iter().map(|p| (p.session, p.id)).collect();
        append(&host.opened, &Kind::Condemn(ListedPacks { packs: Held::Inline(set.clone()) })).unwrap();
        append(&host.opened, &Kind::Sweep(ListedPacks { packs: Held::Inline(set) })).unwrap();
        gone.iter().for_each(|p| host.opened.backend.delete(&pack_name(p.session, p).unwrap()).unwrap());
        assert_whole(&host);
    }
}
