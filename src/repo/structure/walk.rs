//! Reading a snapshot: folder by folder, file by file, extent by extent.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::sync::Arc;

use super::{
    Attributes, Child, ChildKind, ChunkRef, Extent, FileData, FileEntry, Needs, Node, Part, SnapshotNode, TreeRef, decode_attributes,
};
use crate::crypt::Opening;
use crate::repo::RepoError;
use crate::repo::bytes::Malformed;
use crate::repo::pack::{Packs, Place, VerifiedChunk};
use crate::units::{Digest16, ShortId, show};

/// The deepest tree that is read: above that, a hostile structure loops or lies.
const MAX_DEPTH: usize = 8;

/// The most parts that a folder may have, whatever it says of its files: at least as many files.
const MAX_PARTS: usize = 1 << 20;
/// The most nodes in one level of a file's tree, whatever it says of its length: 16 TiB in leaves of 8 MiB.
const MAX_LEAVES: u64 = 1 << 21;

/// A folder of a snapshot, as the meta chunk names it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct FolderMeta {
    /// Path below the data directory, `/` between names, empty for the data directory itself; hex of the bytes.
    #[serde(with = "hex_bytes")]
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What the meta chunk holds.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Meta {
    /// The folders, in the order of the tree.
    pub folders: Vec<FolderMeta>,
    /// Names of the annexes, which stand behind the folders: files that are kept beside the data directory's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub annexes: Vec<String>,
    /// What the layer above wants to know at restore.
    pub extra: serde_json::Value,
}

mod hex_bytes {
    use crate::units::ids::{hex, unhex};

    pub fn serialize<S: serde::Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex(bytes))
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(d)?;
        unhex(&text).ok_or_else(|| serde::de::Error::custom("not hex"))
    }
}

/// A file of a snapshot.
#[derive(Clone, Debug)]
pub struct StoredFile {
    /// Name and attributes.
    pub attributes: Attributes,
    /// Length and data.
    pub entry: FileEntry,
    /// The joint chunks of its part.
    pub joint: Arc<[ChunkRef]>,
}

/// Where the content that a tree itself is read by comes from: names, attributes, the meta chunk.
pub trait Contents: Send + Sync {
    /// The chunk `id`, which lies at `place`.
    ///
    /// # Errors
    /// If it can't be had, or isn't what `id` names.
    fn content(&self, packs: &Packs, id: ShortId, place: Place) -> Result<VerifiedChunk, RepoError>;

    /// Many chunks, in their order.
    ///
    /// # Errors
    /// If one of them can't be had.
    fn contents(&self, packs: &Packs, wanted: &[(ShortId, Place)]) -> Result<Vec<VerifiedChunk>, RepoError> {
        wanted.iter().map(|(id, place)| self.content(packs, *id, *place)).collect()
    }
}

impl Contents for Opening {
    fn content(&self, packs: &Packs, id: ShortId, place: Place) -> Result<VerifiedChunk, RepoError> {
        packs.tree_content(self, id, place)
    }

    fn contents(&self, packs: &Packs, wanted: &[(ShortId, Place)]) -> Result<Vec<VerifiedChunk>, RepoError> {
        let mut found = vec![None; wanted.len()];
        packs.contents(self, wanted, &mut |at, chunk| {
            if let Some(slot) = found.get_mut(at) {
                *slot = Some(chunk.clone());
            }
            Ok(())
        })?;
        found.into_iter().map(|chunk| chunk.ok_or(RepoError::internal("a chunk was wanted and did not come"))).collect()
    }
}

/// A snapshot that is read.
pub struct Snapshot<'a> {
    packs: &'a Packs,
    contents: &'a dyn Contents,
    root: SnapshotNode,
    meta: Meta,
}

impl<'a> Snapshot<'a> {
    /// Reads the root and the meta chunk.
    ///
    /// # Errors
    /// If they aren't there or not what they should be.
    pub fn open(packs: &'a Packs, contents: &'a dyn Contents, id: ShortId, place: Place, digest: Digest16) -> Result<Self, RepoError> {
        let Node::Snapshot(root) = read_node(packs, id, place, digest)? else {
            return Err(corrupt("a snapshot", "its root is another kind of node"));
        };
        let chunk = contents.content(packs, root.meta.id, root.meta.place)?;
        let meta = serde_json::from_slice(chunk.bytes()).map_err(|e| corrupt("a snapshot's meta chunk", &e.to_string()))?;
        Ok(Snapshot { packs, contents, root, meta })
    }

    /// What the meta chunk says.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Where the meta chunk lies.
    pub fn meta_chunk(&self) -> ChunkRef {
        self.root.meta
    }

    /// The folders with their subtrees, in order.
    ///
    /// # Errors
    /// If a node can't be read, or there are more or fewer than the meta chunk names.
    pub fn folders(&self) -> Result<Vec<(&FolderMeta, Child)>, RepoError> {
        // Zipped with the shorter list: what stands behind the folders are annexes.
        Ok(self.meta.folders.iter().zip(self.row()?).collect())
    }

    /// The annexes with their subtrees, in order: each a folder without folders.
    ///
    /// # Errors
    /// As [`Snapshot::folders`].
    pub fn annexes(&self) -> Result<Vec<(&str, Child)>, RepoError> {
        let row = self.row()?.into_iter().skip(self.meta.folders.len());
        Ok(self.meta.annexes.iter().map(String::as_str).zip(row).collect())
    }

    /// The files of the annex of this name, by the order of their names; none if there is no such annex.
    ///
    /// # Errors
    /// If its nodes can't be read, or it has more than `most` files.
    pub fn annex(&self, name: &str, most: usize) -> Result<Vec<StoredFile>, RepoError> {
        let mut files = Vec::new();
        let Some((_, child)) = self.annexes()?.into_iter().find(|(theirs, _)| *theirs == name) else { return Ok(files) };
        for part in self.parts(&child)? {
            files.extend(self.files(&part)?);
            if files.len() > most {
                return Err(corrupt(&format!("the annex {name}"), "it has too many files"));
            }
        }
        Ok(files)
    }

    /// Everything that hangs on the root: folders, then annexes.
    fn row(&self) -> Result<Vec<Child>, RepoError> {
        let mut row = self.root.folders.clone();
        let wanted = self.meta.folders.len().saturating_add(self.meta.annexes.len());
        for _ in 0..MAX_DEPTH {
            if row.len() >= wanted {
                break;
            }
            let mut below = Vec::new();
            self.packs.nodes_ahead(row.iter().map(|child| child.place));
            for child in row {
                below.extend(self.branch(&child)?);
                // One node can stand for a hundred: a tree is read no further than its folders are named.
                if below.len() > self.meta.folders.len() {
                    return Err(corrupt("a snapshot", "it has more folders than it names"));
                }
            }
            row = below;
        }
        if row.len() != wanted {
            return Err(corrupt("a snapshot", "it has not the folders that it names"));
        }
        Ok(row)
    }

    fn branch(&self, child: &Child) -> Result<Vec<Child>, RepoError> {
        match read_node(self.packs, child.id, child.place, child.digest)? {
            Node::Branch(children) => Ok(children),
            _ => Err(corrupt("a snapshot", "a branch is another kind of node")),
        }
    }

    /// The parts of a folder, in order.
    ///
    /// # Errors
    /// If a node can't be read.
    pub fn parts(&self, folder: &Child) -> Result<Vec<Child>, RepoError> {
        self.parts_despite(folder, &mut |_| {}, &mut |_, e| Err(e))
    }

    /// The parts of a folder, in order, without those below branches that can't be read: these are told to `bad`, which
    /// may go on. All branches are told to `passed`.
    ///
    /// # Errors
    /// What `bad` returned, or that the folder isn't what it must be.
    pub fn parts_despite(
        &self,
        folder: &Child,
        passed: &mut dyn FnMut(&Child),
        bad: &mut dyn FnMut(&Child, RepoError) -> Result<(), RepoError>,
    ) -> Result<Vec<Child>, RepoError> {
        let mut row = vec![*folder];
        for _ in 0..MAX_DEPTH {
            if row.iter().all(|c| c.kind == ChildKind::Part) {
                return Ok(row);
            }
            let mut below = Vec::new();
            self.packs.nodes_ahead(row.iter().filter(|child| child.kind != ChildKind::Part).map(|child| child.place));
            for child in row {
                if child.kind == ChildKind::Part {
                    below.push(child);
                    continue;
                }
                passed(&child);
                match self.branch(&child) {
                    Ok(children) => below.extend(children),
                    Err(e) => bad(&child, e)?,
                }
                // Every part holds a file, but the one of an empty folder: a tree that says otherwise is there to exhaust us.
                if below.len() > (folder.files as usize).saturating_add(1).min(MAX_PARTS) {
                    return Err(corrupt("a snapshot", "a folder has more parts than files"));
                }
            }
            row = below;
        }
        Err(corrupt("a snapshot", "a folder is nested too deeply"))
    }

    /// The files of a part, in order.
    ///
    /// # Errors
    /// If node or attributes can't be read or don't fit each other.
    pub fn files(&self, part: &Child) -> Result<Vec<StoredFile>, RepoError> {
        Ok(self.part(part)?.1)
    }

    /// The files of several parts, read together: of each part in order.
    ///
    /// # Errors
    /// As [`Snapshot::files`].
    pub fn files_of(&self, parts: &[Child]) -> Result<Vec<Vec<StoredFile>>, RepoError> {
        self.packs.nodes_ahead(parts.iter().map(|part| part.place));
        let nodes: Vec<Part> = parts.iter().map(|part| self.part_node(part)).collect::<Result<_, _>>()?;
        let wanted: Vec<_> = nodes.iter().map(|node| (node.attributes.id, node.attributes.place)).collect();
        let chunks = self.contents.contents(self.packs, &wanted)?;
        let files: Vec<_> = nodes.into_iter().zip(&chunks).map(|(node, chunk)| files_in(node, chunk)).collect::<Result<_, _>>()?;
        self.trees_ahead(files.iter().flatten());
        Ok(files)
    }

    /// Reads the roots of the trees of these files, many at once: they will be asked for next.
    fn trees_ahead<'f>(&self, files: impl Iterator<Item = &'f StoredFile>) {
        self.packs.nodes_ahead(files.filter_map(|file| match &file.entry.data {
            FileData::Tree { root, .. } => Some(root.place),
            _ => None,
        }));
    }

    /// A part: where its attributes chunk lies, and its files.
    ///
    /// # Errors
    /// As [`Snapshot::files`].
    pub fn part(&self, part: &Child) -> Result<(ChunkRef, Vec<StoredFile>), RepoError> {
        let node = self.part_node(part)?;
        let attributes = node.attributes;
        let chunk = self.contents.content(self.packs, attributes.id, attributes.place)?;
        Ok((attributes, files_in(node, &chunk)?))
    }

    fn part_node(&self, part: &Child) -> Result<Part, RepoError> {
        match read_node(self.packs, part.id, part.place, part.digest)? {
            Node::Part(node) => Ok(node),
            _ => Err(corrupt("a snapshot", "a part is another kind of node")),
        }
    }

    /// The leaves of a file, in order: (bytes covered, leaf). A file without a tree has none.
    ///
    /// # Errors
    /// If a node can't be read, or the lengths don't add up to the file's.
    pub fn leaves(&self, file: &FileEntry) -> Result<Vec<(u64, TreeRef)>, RepoError> {
        let FileData::Tree { root, .. } = &file.data else { return Ok(Vec::new()) };
        leaves_below(self.packs, *root, file.len)
    }

    /// A whole file in memory, of at most `most` bytes.
    ///
    /// # Errors
    /// If it can't be read, is longer, or its parts don't add up to its length.
    pub fn read_file(&self, file: &StoredFile, most: u64) -> Result<Vec<u8>, RepoError> {
        let wrong = |why: &str| corrupt(&format!("the file {}", show(&file.attributes.name)), why);
        let len = file.entry.len;
        if len > most {
            return Err(wrong("it is longer than such a file can be"));
        }
        let content = |id, place| self.contents.content(self.packs, id, place);
        let bytes = match &file.entry.data {
            FileData::Empty | FileData::Folder => Vec::new(),
            FileData::Zeros => vec![0; len as usize],
            FileData::Single { id, place, .. } => content(*id, *place)?.bytes().to_vec(),
            FileData::Joint { chunk, offset } => {
                let chunk = file.joint.get(usize::from(*chunk)).ok_or_else(|| wrong("its joint chunk isn't there"))?;
                let chunk = content(chunk.id, chunk.place)?;
                let start = *offset as usize;
                let slice = start.checked_add(len as usize).and_then(|end| chunk.bytes().get(start..end));
                slice.ok_or_else(|| wrong("it goes beyond its joint chunk"))?.to_vec()
            }
            FileData::Tree { .. } => {
                let mut bytes = Vec::new();
                for (_, leaf) in self.leaves(&file.entry)? {
                    for extent in self.leaf(leaf)? {
                        match extent {
                            _ if bytes.len() as u64 + u64::from(extent.len()) > len => {
                                return Err(wrong("it is longer than its entry says"));
                            }
                            Extent::Zeros(zeros) => bytes.resize(bytes.len() + zeros as usize, 0),
                            Extent::Chunk(chunk) => bytes.extend_from_slice(content(chunk.id, chunk.place)?.bytes()),
                        }
                    }
                }
                bytes
            }
        };
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(wrong("it has not the length that its entry says")) }
    }

    /// The extents of a leaf.
    ///
    /// # Errors
    /// If the node can't be read.
    pub fn leaf(&self, leaf: TreeRef) -> Result<Vec<Extent>, RepoError> {
        read_leaf(self.packs, leaf)
    }
}

/// The files of a part, with the names and attributes that its chunk holds.
fn files_in(node: Part, chunk: &VerifiedChunk) -> Result<Vec<StoredFile>, RepoError> {
    let attributes = decode_attributes(chunk.bytes()).map_err(|e| corrupt("the attributes of a part", e.0))?;
    if attributes.len() != node.files.len() {
        return Err(corrupt("a part", "it has not as many files as names"));
    }
    if !attributes.is_sorted_by(|a, b| a.name < b.name) {
        return Err(corrupt("a part", "its names are not in order"));
    }
    let joint: Arc<[ChunkRef]> = node.joint.into();
    let one = |(attributes, entry)| StoredFile { attributes, entry, joint: Arc::clone(&joint) };
    Ok(attributes.into_iter().zip(node.files).map(one).collect())
}

/// The leaves below `root`, which must cover `len` bytes.
///
/// # Errors
/// If a node can't be read, or the lengths don't add up.
pub fn leaves_below(packs: &Packs, root: TreeRef, len: u64) -> Result<Vec<(u64, TreeRef)>, RepoError> {
    leaves_and_nodes(packs, root, len, &mut |_| {})
}

/// The leaves below `root`, which must cover `len` bytes; `node` is told where each stream node above them lies.
///
/// # Errors
/// If a node can't be read, or the lengths don't add up.
pub fn leaves_and_nodes(packs: &Packs, root: TreeRef, len: u64, node: &mut dyn FnMut(Place)) -> Result<Vec<(u64, TreeRef)>, RepoError> {
    // Leaves of a few bytes each: nobody writes such a tree but to exhaust us.
    let most = (len / 4096 + 1024).min(MAX_LEAVES);
    let mut row = vec![(len, root)];
    while row.iter().any(|(_, tree)| tree.level > 0) {
        let mut below = Vec::new();
        packs.nodes_ahead(row.iter().map(|(_, tree)| tree.place));
        for (len, tree) in row {
            node(tree.place);
            let Node::Stream { level, children } = read_node(packs, tree.id, tree.place, tree.digest)? else {
                return Err(corrupt("a file", "a stream node is another kind of node"));
            };
            let sum = children.iter().try_fold(0u64, |sum, (len, _)| sum.checked_add(*len));
            if level != tree.level || sum != Some(len) || children.iter().any(|(len, _)| *len == 0) {
                return Err(corrupt("a file", "its tree doesn't cover its length"));
            }
            below.extend(children);
            if below.len() as u64 > most {
                return Err(corrupt("a file", "its tree has more leaves than its length has room for"));
            }
        }
        row = below;
    }
    Ok(row)
}

/// The extents of a leaf.
///
/// # Errors
/// If the node can't be read.
pub fn read_leaf(packs: &Packs, leaf: TreeRef) -> Result<Vec<Extent>, RepoError> {
    match read_node(packs, leaf.id, leaf.place, leaf.digest)? {
        Node::Leaf(extents) => Ok(extents),
        _ => Err(corrupt("a file", "a leaf is another kind of node")),
    }
}

/// Reads a node, and checks that its content is what its parent says: another COMMIT of the same content (a replacing
/// one) names other places, never another content.
fn read_node(packs: &Packs, id: ShortId, place: Place, digest: Digest16) -> Result<Node, RepoError> {
    let chunk = packs.node(id, place)?;
    let node = Node::decode(chunk.bytes(), &mut |id, place| {
        let chunk = packs.node(id, place)?;
        match Node::decode(chunk.bytes(), &mut |_, _| Err(RepoError::from(Malformed("needs within needs"))))? {
            Node::Needs(needs) => Ok::<Needs, RepoError>(needs),
            _ => Err(corrupt("a part", "needs are another kind of node")),
        }
    })?;
    if node.digest() != digest {
        return Err(corrupt("a snapshot", "a node has not the content digest that its parent names"));
    }
    Ok(node)
}

fn corrupt(what: &str, why: &str) -> RepoError {
    RepoError::Corrupt { object: what.into(), why: why.into() }
}
