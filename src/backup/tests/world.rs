//! A repository in memory, copies into it, and restores out of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::files::{Files, LONG_AGO};
use crate::backup::BackupError;
use crate::backup::copy::{Copied, Copy};
use crate::backup::damage::{Damage, DamagedPage};
use crate::backup::kept::{Kept, KeptPlace};
use crate::backup::parent::Parent;
use crate::backup::scan::{Scan, Scanned};
use crate::backup::source::path_of;
use crate::codec::Way;
use crate::crypt::{ChunkRole, Root};
use crate::pg::layout::DataDirectory;
use crate::repo::PackRef;
use crate::repo::pack::{Packs, Place, Row};
use crate::repo::structure::{Child, ChunkRef, Contents, Extent, FileData, Instance, Meta, Needs, Snapshot, StoredFile, put_snapshot};
use crate::repo::write::{ChunkWriter, Known, NewChunk, WriterSetup};
use crate::store::memory::MemoryStore;
use crate::store::{Backend, SessionTag};
use crate::units::{Cancel, ChunkId, Event, Level, Lsn, PackId, Progress, RepositoryId, SessionId, Timestamp};

/// The data directory.
pub const ROOT: &str = "/data";
/// Where backups start, and where they stop.
pub const START: Lsn = Lsn(0x5000_0000);
pub const STOP: Lsn = Lsn(0x6000_0000);
/// When parents began.
pub const BEGAN: Timestamp = Timestamp(LONG_AGO / 1000 + 3_600_000_000);

pub fn at(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// How a backup is taken.
#[derive(Clone)]
pub struct How<'a> {
    pub parent: Option<&'a Snap>,
    pub parent_began: Timestamp,
    pub proves_unchanged: bool,
    pub damaged_then: HashSet<String>,
    pub instance: Instance,
    pub online: bool,
    pub checksums: bool,
    pub cdc_for_all: bool,
    pub relseg_size: u32,
    pub jobs: usize,
    pub may_read: bool,
    /// Where a host that can't read keeps what it knows.
    pub kept: Option<PathBuf>,
    pub way: Way,
    /// Places that the log lists as damaged.
    pub damaged_places: HashSet<Place>,
    /// Packs that may not be named.
    pub lost: HashSet<PackId>,
    pub secret: [u8; 32],
    pub cancel: Cancel,
}

impl Default for How<'_> {
    fn default() -> Self {
        How {
            parent: None,
            parent_began: BEGAN,
            proves_unchanged: true,
            damaged_then: HashSet::new(),
            instance: Instance { machine: [1; 16], device: 1, inode: 2 },
            online: true,
            checksums: true,
            cdc_for_all: false,
            relseg_size: 131_072,
            jobs: 2,
            may_read: true,
            kept: None,
            way: Way::AgainstOld,
            damaged_places: HashSet::new(),
            lost: HashSet::new(),
            secret: [5; 32],
            cancel: Cancel::new(),
        }
    }
}

impl<'a> How<'a> {
    pub fn after(parent: &'a Snap) -> Self {
        How { parent: Some(parent), ..How::default() }
    }
}

/// What came of a backup.
pub struct Snap {
    pub name: String,
    /// Why it is larger than it might be.
    pub note: Option<String>,
    pub root: Child,
    /// Packs that it stored.
    pub own: Vec<PackRef>,
    pub needs: Needs,
    pub damaged: Vec<DamagedPage>,
    pub damaged_pages: u64,
    pub scanned: Scanned,
    pub read: u64,
    pub warnings: Vec<String>,
    /// Bytes that it said were done.
    pub advanced: u64,
}

/// Keeps warnings, and counts what is done.
#[derive(Default)]
pub struct Warnings(Mutex<Vec<String>>, AtomicU64);

impl Warnings {
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Progress for Warnings {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Message(Level::Warning, text) => self.0.lock().unwrap().push(text.into()),
            Event::Advance(bytes) => drop(self.1.fetch_add(bytes, Ordering::Relaxed)),
            _ => {}
        }
    }
}

struct Index(HashMap<ChunkId, Vec<Place>>);

impl Known for Index {
    fn places(&self, id: &ChunkId) -> Vec<Place> {
        self.0.get(id).cloned().unwrap_or_default()
    }
}

/// Where a chunk lies, for every row of a table.
fn places_of(packs: &Packs, pack: PackId) -> Vec<(ChunkId, Place)> {
    let table = packs.table(pack).unwrap();
    let chunks = |(blob, row): (usize, &Row)| {
        let place = move |position| Place { pack, blob: blob as u32, position };
        row.chunks.iter().enumerate().map(move |(p, (id, _))| (*id, place(p as u16))).collect::<Vec<_>>()
    };
    table.rows().iter().enumerate().flat_map(chunks).collect()
}

pub struct World {
    pub root: Root,
    pub backend: Arc<MemoryStore>,
    /// Where packs are read and stored: mostly the same.
    asked: Arc<dyn Backend>,
    all: Mutex<Vec<PackRef>>,
    sessions: Mutex<u8>,
}

impl World {
    pub fn new() -> Self {
        let backend = Arc::<MemoryStore>::default();
        World { asked: Arc::clone(&backend) as _, backend, ..World::asking(Arc::<MemoryStore>::default()) }
    }

    /// In a store that is another's to look into.
    pub fn asking(asked: Arc<dyn Backend>) -> Self {
        World { root: Root::random().unwrap(), backend: Arc::default(), asked, all: Mutex::default(), sessions: Mutex::new(0) }
    }

    /// Reads packs, these alone.
    fn packs(&self, which: impl Fn(&PackRef) -> bool) -> Packs {
        let packs = Packs::new(Arc::clone(&self.asked), self.root.sealing());
        packs.add(self.all.lock().unwrap().iter().filter(|p| which(p)).copied());
        packs
    }

    /// Scans, copies and stores a snapshot, as a backup does.
    pub fn backup(&self, files: &Files, how: &How<'_>) -> Result<Snap, BackupError> {
        let session = {
            let mut sessions = self.sessions.lock().unwrap();
            *sessions += 1;
            SessionId([*sessions; 16])
        };
        let packs = Arc::new(self.packs(|p| !how.lost.contains(&p.id)));
        let nameable: HashSet<PackId> = self.all.lock().unwrap().iter().map(|p| p.id).filter(|id| !how.lost.contains(id)).collect();
        let mut index: HashMap<ChunkId, Vec<Place>> = HashMap::new();
        for (id, place) in nameable.iter().flat_map(|pack| places_of(&packs, *pack)) {
            index.entry(id).or_default().push(place);
        }
        let damaged_places = how.damaged_places.clone();
        let setup = WriterSetup {
            backend: Arc::clone(&self.asked),
            packs: Arc::clone(&packs),
            sealing: self.root.sealing(),
            opening: how.may_read.then(|| self.root.opening()),
            session,
            tag: SessionTag::new("test").unwrap(),
            trusted: nameable.clone(),
            nameable,
            known: Box::new(Index(index)),
            is_damaged: Box::new(move |place| damaged_places.contains(&place)),
        };
        let writer = ChunkWriter::start(setup, Box::new(|_| Ok(())))?;
        let (opening, damage, warnings) = (self.root.opening(), Damage::default(), Warnings::default());
        let place = how.kept.as_ref().map(|folder| KeptPlace {
            folder: Some(folder.clone()),
            repository: RepositoryId([7; 16]),
            cluster: "shop".into(),
            page_size: 8192,
        });
        let before = how.parent.map(|snap| (snap.name.as_str(), snap.root.digest));
        let kept = place.map(|place| Kept::open(place, &how.secret, before, &warnings));
        // A host that can't read has names out of what it keeps, or not at all.
        let contents = match &kept {
            Some(kept) if !how.may_read => kept.contents(),
            _ => Some(&opening as &dyn Contents),
        };
        let parent = how.parent.zip(contents).and_then(|(snap, contents)| {
            let child = snap.root;
            let snapshot = Snapshot::open(&packs, contents, child.id, child.place, child.digest);
            // As a backup does: a parent whose names a host has not kept whole is none.
            let snapshot = if how.may_read { Some(snapshot.unwrap()) } else { snapshot.ok() };
            snapshot.map(|s| Parent::new(s, how.parent_began, how.proves_unchanged, how.damaged_then.clone()).unwrap())
        });
        let damaged_packs = how.damaged_places.iter().map(|p| p.pack).collect();
        let copy = Copy {
            source: files,
            writer: &writer,
            packs: &packs,
            opening: how.may_read.then_some(&opening),
            kept: kept.as_ref(),
            way: how.way,
            parent: parent.as_ref(),
            damaged_packs: &damaged_packs,
            quiet: &|_| crate::repo::write::Quiet::Days,
            joint_secret: &how.secret,
            instance: how.instance,
            page_size: 8192,
            checksums: how.checksums,
            start_lsn: if how.online { START } else { Lsn(u64::MAX) },
            cdc_for_all: how.cdc_for_all,
            damage: &damage,
            cancel: &how.cancel,
            progress: &warnings,
            jobs: how.jobs,
        };
        let layout = DataDirectory::new(15, 202_209_061);
        let scan = Scan {
            source: files,
            root: Path::new(ROOT),
            layout: &layout,
            instance: how.instance,
            relseg_size: how.relseg_size,
            online: how.online,
        };
        let mut scanned = Scanned::default();
        let copied = copy.run(|feed| {
            scanned = scan.walk(&mut |path, files| feed.folder(path, files))?;
            Ok(())
        })?;
        let (damaged, damaged_pages) = damage.finish(how.online.then_some(STOP));
        let Copied { folders, mut needs, read, .. } = copied;
        let meta = Meta { folders: scanned.folders.clone(), extra: serde_json::Value::Null, ..Meta::default() };
        let names = serde_json::to_vec(&meta).unwrap();
        let meta = put_meta(&writer, &names, &mut needs);
        let (_, root) = put_snapshot(&writer, meta, folders, &mut needs)?;
        writer.outside().into_iter().for_each(|pack| needs.add(pack, 0));
        let (own, _) = writer.finish()?;
        self.all.lock().unwrap().extend(&own);
        let name = session.to_string();
        drop(parent);
        let mut kept = kept;
        if let Some(kept) = &mut kept {
            kept.keep_content(meta.id, &names);
            kept.finish(&name, root.digest, &warnings);
            kept.settle(&name);
        }
        Ok(Snap {
            name,
            note: kept.as_ref().and_then(Kept::note),
            root,
            own,
            needs,
            damaged,
            damaged_pages,
            scanned,
            read,
            warnings: warnings.take(),
            advanced: warnings.1.into_inner(),
        })
    }

    /// Calls `each` with every file of a snapshot, read out of the packs that the snapshot says it needs.
    fn walk(&self, snap: &Snap, each: &mut dyn FnMut(PathBuf, &StoredFile, &Reader<'_>)) {
        let (packs, opening) = (self.packs(|p| snap.needs.0.contains_key(&p.id)), self.root.opening());
        let snapshot = Snapshot::open(&packs, &opening, snap.root.id, snap.root.place, snap.root.digest).unwrap();
        Reader { packs: &packs, opening: &opening, snapshot: &snapshot }.walk(each);
    }

    /// All files with their bytes, by their path below the data directory.
    pub fn read(&self, snap: &Snap) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        self.walk(snap, &mut |path, file, reader| drop(all.insert(path, reader.read(file))));
        all
    }

    /// The bytes of one file; `None` if the snapshot hasn't it.
    pub fn read_one(&self, snap: &Snap, path: &str) -> Option<Vec<u8>> {
        self.read(snap).remove(Path::new(path))
    }

    /// The extents of a file that are chunks, each with its bytes' offset, and the file's entry.
    pub fn stored(&self, snap: &Snap, path: &str) -> (StoredFile, Vec<(u64, ChunkRef)>) {
        let mut found = None;
        self.walk(snap, &mut |there, file, reader| {
            if there == Path::new(path) {
                found = Some((file.clone(), reader.chunks(file)));
            }
        });
        found.unwrap_or_else(|| panic!("no file {path}"))
    }

    /// Goes through a file's bytes without keeping them: calls `each` with offsets; zeros are passed over. Its length.
    pub fn scan_one(&self, snap: &Snap, path: &str, each: &mut dyn FnMut(u64, &[u8])) -> u64 {
        let mut len = None;
        self.walk(snap, &mut |there, file, reader| {
            if there == Path::new(path) {
                len = Some(file.entry.len);
                for (offset, chunk) in reader.chunks(file) {
                    each(offset, &reader.chunk(&chunk));
                }
            }
        });
        len.unwrap()
    }

    /// The row of a blob.
    pub fn row(&self, place: Place) -> Row {
        self.packs(|_| true).table(place.pack).unwrap().rows()[place.blob as usize].clone()
    }

    /// All rows of content that a backup stored.
    pub fn new_content(&self, snap: &Snap) -> Vec<Row> {
        let packs = self.packs(|_| true);
        let rows = snap.own.iter().flat_map(|pack| packs.table(pack.id).unwrap().rows().to_vec());
        rows.filter(|row| row.role == ChunkRole::Content).collect()
    }

    /// A chunk's plain bytes.
    pub fn chunk(&self, chunk: &ChunkRef) -> Vec<u8> {
        self.packs(|_| true).content(&self.root.opening(), chunk.id, chunk.place).unwrap().bytes().to_vec()
    }
}

fn put_meta(writer: &ChunkWriter, plain: &[u8], needs: &mut Needs) -> ChunkRef {
    let id = writer.sealing().chunk_id(ChunkRole::Content, plain);
    let frame = crate::codec::encode_whole(plain, crate::codec::DENSE).unwrap();
    let stored = writer.put(ChunkRole::Content, NewChunk { id, plain, frame, reference: None }).unwrap();
    stored.add_to(needs);
    ChunkRef { id: id.short(), place: stored.place, len: plain.len() as u32 }
}

/// Reads files of a snapshot.
pub struct Reader<'r> {
    pub packs: &'r Packs,
    pub opening: &'r crate::crypt::Opening,
    pub snapshot: &'r Snapshot<'r>,
}

impl Reader<'_> {
    /// Calls `each` with every file.
    pub fn walk(&self, each: &mut dyn FnMut(PathBuf, &StoredFile, &Reader<'_>)) {
        for (folder, child) in self.snapshot.folders().unwrap() {
            for part in self.snapshot.parts(&child).unwrap() {
                for file in self.snapshot.files(&part).unwrap() {
                    let path = path_of(Path::new(""), &folder.path);
                    each(path_of(&path, &file.attributes.name), &file, self);
                }
            }
        }
    }

    fn chunk(&self, chunk: &ChunkRef) -> Vec<u8> {
        let bytes = self.packs.content(self.opening, chunk.id, chunk.place).unwrap().bytes().to_vec();
        assert_eq!(bytes.len(), chunk.len as usize);
        bytes
    }

    /// The chunks of a file with their offsets; what lies between them is zeros.
    fn chunks(&self, file: &StoredFile) -> Vec<(u64, ChunkRef)> {
        match &file.entry.data {
            FileData::Empty | FileData::Zeros | FileData::Joint { .. } | FileData::Folder => Vec::new(),
            FileData::Single { id, place, .. } => {
                vec![(0, ChunkRef { id: *id, place: *place, len: file.entry.len.try_into().unwrap() })]
            }
            FileData::Tree { .. } => {
                let (mut offset, mut all) = (0, Vec::new());
                for (len, leaf) in self.snapshot.leaves(&file.entry).unwrap() {
                    let end = offset + len;
                    for extent in self.snapshot.leaf(leaf).unwrap() {
                        if let Extent::Chunk(chunk) = extent {
                            all.push((offset, chunk));
                        }
                        offset += u64::from(extent.len());
                    }
                    assert_eq!(offset, end);
                }
                assert_eq!(offset, file.entry.len);
                all
            }
        }
    }

    /// A file's bytes.
    pub fn read(&self, file: &StoredFile) -> Vec<u8> {
        let len = file.entry.len as usize;
        if let FileData::Joint { chunk, offset } = file.entry.data {
            let joint = self.chunk(&file.joint[usize::from(chunk)]);
            return joint[offset as usize..offset as usize + len].to_vec();
        }
        let mut bytes = vec![0; len];
        for (offset, chunk) in self.chunks(file) {
            bytes[offset as usize..][..chunk.len as usize].copy_from_slice(&self.chunk(&chunk));
        }
        bytes
    }
}
