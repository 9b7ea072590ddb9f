//! What a host that can't read keeps of its own snapshots: it stands in for the old pages, names and attributes, which others
//! read in the repository.
//!
//! Nothing here makes a snapshot another: a chunk of names is taken only if it has the id that the parent's tree names, hashes
//! only for the chunk whose id the parent's tree and the pack's table name. What isn't here, or damaged, costs bytes.

use std::fs::File;
use std::path::PathBuf;

use super::BackupError;
use crate::codec::Way;
use crate::host::access::Opened;
use crate::host::cache::Cache;
use crate::host::cache::kept::{About, ExtentHashes, KeptFile, KeptWriter, LeafHashes, Lookup, PageHasher, What, remove_others};
use crate::repo::RepoError;
use crate::repo::log::LiveCommit;
use crate::repo::pack::{Packs, Place, VerifiedChunk};
use crate::repo::structure::Contents;
use crate::units::{ChunkId, Digest16, Progress, RepositoryId, ShortId};

/// What is kept, of the snapshot before and of the one that is being made.
pub struct Kept {
    /// This host can read, and keeps hashes so that it needn't.
    reads: bool,
    before: Option<KeptFile>,
    now: Option<KeptWriter>,
    /// What is complete of this snapshot, until its COMMIT is there.
    done: Option<File>,
    /// Why there is nothing of the parent.
    lacks: Option<String>,
    hasher: PageHasher,
    place: KeptPlace,
    parent: Option<String>,
}

/// Where, and of what cluster.
#[derive(Clone, Debug)]
pub struct KeptPlace {
    /// The folder in the cache; `None` if there can't be one.
    pub folder: Option<PathBuf>,
    /// The repository.
    pub repository: RepositoryId,
    /// The cluster's name.
    pub cluster: String,
    /// Its page size, in bytes.
    pub page_size: u32,
}

impl KeptPlace {
    fn about<'a>(&'a self, snapshot: &'a str, digest: Digest16) -> About<'a> {
        About { repository: self.repository, cluster: &self.cluster, snapshot, digest, page_size: self.page_size }
    }
}

impl Kept {
    /// For a backup by this host; `None` if it reads, and old pages as well.
    ///
    /// # Errors
    /// If the state can't be read.
    pub fn of(
        opened: &Opened,
        cluster: &str,
        parent: Option<&LiveCommit>,
        page_size: u32,
        (way, progress): (Way, &dyn Progress),
    ) -> Result<Option<Self>, BackupError> {
        let reads = opened.opening.is_some();
        if reads && way == Way::AgainstOld {
            return Ok(None);
        }
        let repository = opened.format.repository;
        let folder = opened.cache_folder.as_ref().and_then(|c| Cache::of(c, repository)).map(|cache| cache.kept_folder(cluster));
        let place = KeptPlace { folder, repository, cluster: cluster.to_owned(), page_size };
        let parent = parent.map(|commit| (commit.summary.id.as_str(), commit.root.digest));
        Ok(Some(Kept { reads, ..Kept::open(place, &opened.joint_secret()?, parent, progress) }))
    }

    /// What is kept in a folder of a parent, by its id and content digest, and the beginning of what is to be kept.
    pub fn open(place: KeptPlace, secret: &[u8; 32], parent: Option<(&str, Digest16)>, progress: &dyn Progress) -> Self {
        let (mut before, mut lacks, mut now) = (None, None, None);
        match &place.folder {
            Some(folder) => {
                if let Some((snapshot, digest)) = parent {
                    match KeptFile::open(folder, secret, &place.about(snapshot, digest)) {
                        Ok(Some(file)) => before = Some(file),
                        Ok(None) => lacks = Some("there is no file of it".into()),
                        Err(e) => lacks = Some(e.to_string()),
                    }
                    // What backups left that were killed.
                    remove_others(folder, snapshot);
                }
                match KeptWriter::create(folder, secret) {
                    Ok(writer) => now = Some(writer),
                    Err(e) => progress.warn(&format!("{}: {e}: {NOT_KEPT}", folder.display())),
                }
            }
            None => lacks = Some("there is no folder for it".into()),
        }
        let hasher = PageHasher::derive(secret, place.page_size);
        Kept { reads: false, before, now, done: None, lacks, hasher, place, parent: parent.map(|(snapshot, _)| snapshot.to_owned()) }
    }

    /// Names and attributes of the parent, if they are known.
    pub fn contents(&self) -> Option<&dyn Contents> {
        self.before.as_ref().map(|file| file as &dyn Contents)
    }

    /// What the parent's leaf may be patched against; empty if that isn't known.
    pub fn leaf(&self, path: &str, leaf: usize) -> LeafHashes {
        let Some((before, number)) = self.before.as_ref().zip(u32::try_from(leaf).ok()) else { return LeafHashes::default() };
        let value = before.get(What::Leaf, path.as_bytes(), number).found();
        value.and_then(|value| LeafHashes::decode(&value, self.place.page_size as usize)).unwrap_or_default()
    }

    /// Keeps what a leaf may be patched against next time.
    pub fn keep_leaf(&self, path: &str, leaf: usize, hashes: &LeafHashes) {
        if let Some((now, number)) = self.now.as_ref().zip(u32::try_from(leaf).ok())
            && hashes.0.iter().any(Option::is_some)
        {
            now.put(What::Leaf, path.as_bytes(), number, &hashes.encode());
        }
    }

    /// Keeps what was kept of the leaves of an unchanged file.
    pub fn carry(&self, path: &str, leaves: usize) {
        let Some((before, now)) = self.before.as_ref().zip(self.now.as_ref()) else { return };
        for number in 0..u32::try_from(leaves).unwrap_or(u32::MAX) {
            if let Lookup::Found(value) = before.get(What::Leaf, path.as_bytes(), number) {
                now.put(What::Leaf, path.as_bytes(), number, &value);
            }
        }
    }

    /// Keeps a chunk of names and attributes, or the meta chunk.
    pub fn keep_content(&self, id: ShortId, bytes: &[u8]) {
        if let Some(now) = self.now.as_ref().filter(|_| !self.reads) {
            now.put(What::Content, &id.0, 0, bytes);
        }
    }

    /// Hashes of the pages of a chunk that is stored whole.
    pub fn hash(&self, id: &ChunkId, bytes: &[u8]) -> Option<ExtentHashes> {
        self.hasher.of(id, bytes)
    }

    /// The numbers of the pages of `new` that are not those of the chunk at the same place.
    pub fn changed(&self, new: &[u8], before: &ExtentHashes) -> Vec<u32> {
        self.hasher.changed(new, before)
    }

    /// Completes what is kept of this snapshot, before its COMMIT: until that is there, what is kept of the parent lies
    /// beside it.
    pub fn finish(&mut self, snapshot: &str, digest: Digest16, progress: &dyn Progress) {
        match self.now.take().map(|now| now.finish(&self.place.about(snapshot, digest))) {
            Some(Ok(file)) => self.done = Some(file),
            Some(Err(e)) => {
                let folder = self.place.folder.as_deref().unwrap_or_else(|| "".as_ref()).display();
                progress.warn(&format!("{folder}: {e}: {NOT_KEPT}"));
            }
            None => {}
        }
    }

    /// Its COMMIT is there: nothing else is built upon any more.
    pub fn settle(&self, snapshot: &str) {
        if let Some(folder) = &self.place.folder {
            remove_others(folder, snapshot);
        }
    }

    /// Why this backup stored more than it might have, in a line.
    pub fn note(&self) -> Option<String> {
        let parent = self.parent.as_ref()?;
        if self.reads {
            return self.lacks.as_ref().map(|why| {
                format!("page hashes of snapshot {parent} are not in the cache ({why}): the old pages of what changed were read, this once")
            });
        }
        if let Some(why) = &self.lacks {
            return Some(format!(
                "page hashes of snapshot {parent} are not in the cache ({why}): all files are read, and extents that changed are stored whole"
            ));
        }
        let damaged = self.before.as_ref().map_or(0, KeptFile::damaged);
        (damaged > 0).then(|| {
            format!(
                "{damaged} records of page hashes and names of snapshot {parent} are damaged in the cache: those files are read, and their changed extents are stored whole"
            )
        })
    }
}

/// What follows.
const NOT_KEPT: &str = "page hashes can't be kept, so the next backup reads all files and stores changed extents whole";

impl Contents for KeptFile {
    fn content(&self, packs: &Packs, id: ShortId, _: Place) -> Result<VerifiedChunk, RepoError> {
        match self.get(What::Content, &id.0, 0) {
            Lookup::Found(bytes) => packs.kept(id, bytes),
            lost => Err(RepoError::Corrupt {
                object: "the cache of this host's last snapshot".into(),
                why: if lost == Lookup::None { "a chunk of names is not in it" } else { "a chunk of names in it is damaged" }.into(),
            }),
        }
    }
}
