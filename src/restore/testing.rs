//! Small snapshots made by hand, in memory.

use std::collections::HashSet;
use std::sync::Arc;

use crate::codec;
use crate::crypt::{ChunkRole, Opening, Root};
use crate::repo::pack::{Packs, Place, Reference};
use crate::repo::structure::{
    Attributes, Child, ChunkRef, Extent, FileData, FileEntry, FolderMeta, Instance, LEAF, Leaf, Meta, Needs, Part, Snapshot,
    encode_attributes, file_of_extents, file_of_leaves, put_folder, put_leaf, put_part, put_snapshot,
};
use crate::repo::write::{ChunkWriter, Known, NewChunk, WriterSetup};
use crate::store::memory::MemoryStore;
use crate::store::{Backend, SessionTag};
use crate::units::{ChunkId, PackId, SessionId};

struct Nothing;

impl Known for Nothing {
    fn places(&self, _: &ChunkId) -> Vec<Place> {
        Vec::new()
    }
}

/// How a file's bytes are stored.
#[derive(Clone, Debug)]
pub enum As {
    Empty,
    Zeros,
    Joint,
    Single,
    /// In extents of so many bytes; zeros become flags.
    Tree(usize),
    /// As one chunk, a patch of the content's reference.
    Patch(Vec<u8>),
    Folder,
}

#[derive(Clone, Debug)]
pub struct TestFile {
    pub name: Vec<u8>,
    pub bytes: Vec<u8>,
    pub how: As,
    pub mode: u32,
}

pub fn file(name: &str, bytes: impl Into<Vec<u8>>, how: As) -> TestFile {
    TestFile { name: name.into(), bytes: bytes.into(), how, mode: 0o600 }
}

#[derive(Clone, Debug)]
pub struct TestFolder {
    pub path: Vec<u8>,
    pub mode: u32,
    pub files: Vec<TestFile>,
}

pub fn folder(path: &str, mut files: Vec<TestFile>) -> TestFolder {
    files.sort_by(|a, b| a.name.cmp(&b.name));
    TestFolder { path: path.into(), mode: 0o700, files }
}

/// A stored snapshot with what it takes to read it.
pub struct TestSnapshot {
    pub packs: Arc<Packs>,
    pub opening: Opening,
    pub root: Child,
    /// All packs.
    pub ids: Vec<PackId>,
}

impl TestSnapshot {
    pub fn open(&self) -> Snapshot<'_> {
        Snapshot::open(&self.packs, &self.opening, self.root.id, self.root.place, self.root.digest).unwrap()
    }

    /// Folders called `annex:NAME` are annexes, and have to be the last. `tweak` may make the entries of each folder lie.
    pub fn store(folders: &[TestFolder], extra: serde_json::Value, tweak: impl Fn(&mut Vec<Attributes>, &mut Part)) -> TestSnapshot {
        TestSnapshot::store_in(Arc::new(MemoryStore::default()), folders, extra, tweak)
    }

    /// As [`TestSnapshot::store`], in a store of the caller's.
    pub fn store_in(
        backend: Arc<dyn Backend>,
        folders: &[TestFolder],
        extra: serde_json::Value,
        tweak: impl Fn(&mut Vec<Attributes>, &mut Part),
    ) -> TestSnapshot {
        let root = Root::random().unwrap();
        let packs = Arc::new(Packs::new(Arc::clone(&backend), root.sealing()));
        let setup = WriterSetup {
            backend: Arc::clone(&backend),
            packs: Arc::clone(&packs),
            sealing: root.sealing(),
            opening: Some(root.opening()),
            session: SessionId([1; 16]),
            tag: SessionTag::new("test").unwrap(),
            nameable: HashSet::new(),
            trusted: HashSet::new(),
            known: Box::new(Nothing),
            is_damaged: Box::new(|_| false),
        };
        let writer = ChunkWriter::start(setup, Box::new(|_| Ok(()))).unwrap();
        let (mut children, mut metas, mut needs) = (Vec::new(), Vec::new(), Needs::default());
        let mut annexes = Vec::new();
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        for folder in folders {
            let parts = folder.files.chunks(5).map(|files| part(&writer, files, &tweak)).collect::<Vec<_>>();
            let parts = if parts.is_empty() { vec![part(&writer, &[], &tweak)] } else { parts };
            children.push(put_folder(&writer, parts, &mut needs).unwrap());
            if let Some(name) = folder.path.strip_prefix(b"annex:") {
                annexes.push(String::from_utf8(name.to_vec()).unwrap());
                continue;
            }
            metas.push(FolderMeta { path: folder.path.clone(), mode: folder.mode, uid, gid });
        }
        let meta = serde_json::to_vec(&Meta { folders: metas, annexes, extra }).unwrap();
        let meta = content(&writer, &meta);
        let top = put_snapshot(&writer, meta, children, &mut needs).unwrap();
        let (stored, _) = writer.finish().unwrap();
        // As another run finds it: nothing of it is in memory.
        let cold = Packs::new(backend, root.sealing());
        let ids = stored.iter().map(|pack| pack.id).collect();
        cold.add(stored);
        TestSnapshot { packs: Arc::new(cold), opening: root.opening(), root: top.1, ids }
    }
}

fn content(writer: &ChunkWriter, plain: &[u8]) -> ChunkRef {
    let id = writer.sealing().chunk_id(ChunkRole::Content, plain);
    let frame = codec::encode_whole(plain, 3).unwrap();
    let place = match writer.find(ChunkRole::Content, &id).unwrap() {
        Some(stored) => stored.place,
        None => writer.put(ChunkRole::Content, NewChunk { id, plain, frame, reference: None }).unwrap().place,
    };
    ChunkRef { id: id.short(), place, len: plain.len() as u32 }
}

fn patched(writer: &ChunkWriter, plain: &[u8], reference: &[u8]) -> ChunkRef {
    let whole = content(writer, reference);
    let long = writer.sealing().chunk_id(ChunkRole::Content, reference);
    let how = codec::Patching { page_size: 8192, way: codec::Way::AgainstOld, level: 3, whole_len: plain.len() };
    let frame = codec::encode_patch(plain, reference, how).unwrap().unwrap();
    let id = writer.sealing().chunk_id(ChunkRole::Content, plain);
    let reference = Some((Reference { id: long, place: whole.place }, 1, reference));
    let stored = writer.put(ChunkRole::Content, NewChunk { id, plain, frame, reference }).unwrap();
    ChunkRef { id: id.short(), place: stored.place, len: plain.len() as u32 }
}

fn part(writer: &ChunkWriter, files: &[TestFile], tweak: &impl Fn(&mut Vec<Attributes>, &mut Part)) -> Child {
    let mut joint = vec![7u8; 16];
    let mut attributes = Vec::new();
    let mut entries = Vec::new();
    for file in files {
        attributes.push(Attributes {
            name: file.name.clone(),
            is_folder: matches!(file.how, As::Folder),
            instance: Instance { machine: [0; 16], device: 1, inode: 2 },
            mode: file.mode,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            size: file.bytes.len() as u64,
            mtime: 1_600_000_000_000_000_000,
            ctime: 0,
            inode: 3,
        });
        let data = match &file.how {
            As::Empty => FileData::Empty,
            As::Zeros => FileData::Zeros,
            As::Folder => FileData::Folder,
            As::Joint => {
                let offset = joint.len() as u32;
                joint.extend_from_slice(&file.bytes);
                FileData::Joint { chunk: 0, offset }
            }
            As::Single => file_of_extents(writer, vec![Extent::Chunk(content(writer, &file.bytes))], Needs::default()).unwrap(),
            As::Patch(reference) => {
                file_of_extents(writer, vec![Extent::Chunk(patched(writer, &file.bytes, reference))], Needs::default()).unwrap()
            }
            As::Tree(size) => tree(writer, &file.bytes, *size),
        };
        entries.push(FileEntry { len: file.bytes.len() as u64, data });
    }
    let joint = if joint.len() > 16 { vec![content(writer, &joint)] } else { Vec::new() };
    let mut part = Part { attributes: content(writer, b""), joint, files: entries };
    tweak(&mut attributes, &mut part);
    part.attributes = content(writer, &encode_attributes(&attributes));
    put_part(writer, part, &mut Needs::default()).unwrap()
}

fn tree(writer: &ChunkWriter, bytes: &[u8], size: usize) -> FileData {
    let extents: Vec<Extent> = bytes
        .chunks(size)
        .map(|e| if e.iter().all(|b| *b == 0) { Extent::Zeros(e.len() as u32) } else { Extent::Chunk(content(writer, e)) })
        .collect();
    let leaves: Vec<Leaf> = extents.chunks(LEAF).map(|some| put_leaf(writer, some.to_vec(), Needs::default()).unwrap()).collect();
    file_of_leaves(writer, leaves).unwrap()
}
