//! A tree of files in memory that does what it is told at the worst moment.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::backup::source::{FileSource, Found, FoundKind, SourceFile, Stat};

/// What is being asked of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    List,
    Open,
    /// So many bytes at this offset.
    Read(u64, usize),
}

/// Runs before each call on a path; may change the tree, or fail the call.
type Script = Box<dyn FnMut(&Files, Call) -> io::Result<()> + Send>;

/// The bytes of a file.
#[derive(Clone)]
enum Content {
    Bytes(Vec<u8>),
    /// So many bytes, made when they are read.
    Made(u64, fn(u64, &mut [u8])),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Made(len, _) => *len,
        }
    }
}

/// A file, whatever its names are.
struct Inode {
    content: Mutex<Content>,
    stat: Mutex<Stat>,
}

#[derive(Clone)]
enum Node {
    Folder(Stat),
    File(Arc<Inode>),
    Link(PathBuf, Stat),
    Special,
}

#[derive(Default)]
struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
    inodes: u64,
    calls: Vec<(PathBuf, Call)>,
    open: usize,
    most_open: usize,
}

/// See the module. Clones are the same tree.
#[derive(Clone, Default)]
pub struct Files {
    tree: Arc<Mutex<Tree>>,
    scripts: Arc<Mutex<HashMap<PathBuf, Arc<Mutex<Script>>>>>,
}

/// When files were changed that nobody touches: long before any backup.
pub const LONG_AGO: i64 = 1_600_000_000_000_000_000;

fn raw(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn absent() -> io::Error {
    raw(nix::libc::ENOENT)
}

impl Files {
    /// A data directory's usual folders below `root`, without files.
    pub fn cluster(root: &Path) -> Files {
        let files = Files::default();
        for folder in ["", "global", "base", "base/5", "pg_tblspc", "pg_wal", "pg_xact"] {
            files.folder(root.join(folder));
        }
        files
    }

    fn next_stat(&self, size: u64) -> Stat {
        let mut tree = self.tree.lock().unwrap();
        tree.inodes += 1;
        let inode = tree.inodes;
        Stat { size, mtime: LONG_AGO, ctime: LONG_AGO, inode, device: 1, mode: 0o600, uid: 26, gid: 27 }
    }

    fn put(&self, path: PathBuf, node: Node) {
        self.tree.lock().unwrap().nodes.insert(path, node);
    }

    pub fn folder(&self, path: impl Into<PathBuf>) {
        let stat = Stat { mode: 0o700, ..self.next_stat(0) };
        self.put(path.into(), Node::Folder(stat));
    }

    /// A new file, or another one in the place of the old.
    pub fn file(&self, path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) {
        self.new_file(path.into(), Content::Bytes(bytes.into()));
    }

    /// A file too large to be kept.
    pub fn made(&self, path: impl Into<PathBuf>, len: u64, make: fn(u64, &mut [u8])) {
        self.new_file(path.into(), Content::Made(len, make));
    }

    fn new_file(&self, path: PathBuf, content: Content) {
        let stat = Mutex::new(self.next_stat(content.len()));
        self.put(path, Node::File(Arc::new(Inode { content: Mutex::new(content), stat })));
    }

    pub fn link(&self, path: impl Into<PathBuf>, target: impl Into<PathBuf>) {
        let stat = self.next_stat(0);
        self.put(path.into(), Node::Link(target.into(), stat));
    }

    pub fn special(&self, path: impl Into<PathBuf>) {
        self.put(path.into(), Node::Special);
    }

    /// Removes a file, or a folder with all in it.
    pub fn remove(&self, path: impl AsRef<Path>) {
        let mut tree = self.tree.lock().unwrap();
        tree.nodes.retain(|p, _| !p.starts_with(path.as_ref()));
    }

    fn inode(&self, path: &Path) -> Arc<Inode> {
        match self.tree.lock().unwrap().nodes.get(path) {
            Some(Node::File(inode)) => Arc::clone(inode),
            _ => panic!("{} is no file", path.display()),
        }
    }

    /// Changes a file's bytes, and its size as far as they say it; its times stay.
    pub fn change(&self, path: impl AsRef<Path>, change: impl FnOnce(&mut Vec<u8>)) {
        let inode = self.inode(path.as_ref());
        let mut content = inode.content.lock().unwrap();
        let Content::Bytes(bytes) = &mut *content else { panic!("made files don't change") };
        change(bytes);
        inode.stat.lock().unwrap().size = bytes.len() as u64;
    }

    /// Changes what `stat` says.
    pub fn touch(&self, path: impl AsRef<Path>, change: impl FnOnce(&mut Stat)) {
        change(&mut self.inode(path.as_ref()).stat.lock().unwrap());
    }

    /// Changes a file's bytes as a server does: `stat` tells.
    pub fn write(&self, path: impl AsRef<Path>, change_bytes: impl FnOnce(&mut Vec<u8>)) {
        self.change(path.as_ref(), change_bytes);
        self.touch(path, |stat| {
            stat.mtime += 1_000_000;
            stat.ctime += 1_000_000;
        });
    }

    /// A file's bytes now.
    pub fn bytes(&self, path: impl AsRef<Path>) -> Vec<u8> {
        match &*self.inode(path.as_ref()).content.lock().unwrap() {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Made(..) => panic!("made files are too large to be had"),
        }
    }

    /// The paths of all files, in order.
    pub fn all_files(&self) -> Vec<PathBuf> {
        let tree = self.tree.lock().unwrap();
        tree.nodes.iter().filter(|(_, node)| matches!(node, Node::File(_))).map(|(path, _)| path.clone()).collect()
    }

    /// From now on `script` runs before each call on this very path.
    pub fn script(&self, path: impl Into<PathBuf>, script: impl FnMut(&Files, Call) -> io::Result<()> + Send + 'static) {
        self.scripts.lock().unwrap().insert(path.into(), Arc::new(Mutex::new(Box::new(script))));
    }

    /// The call fails with this error each time.
    pub fn fails(&self, path: impl Into<PathBuf>, which: fn(Call) -> bool, errno: i32) {
        self.script(path, move |_, call| if which(call) { Err(raw(errno)) } else { Ok(()) });
    }

    /// The paths that were opened, in order, and forgets all calls.
    pub fn take_opened(&self) -> Vec<PathBuf> {
        let calls = std::mem::take(&mut self.tree.lock().unwrap().calls);
        calls.into_iter().filter(|(_, call)| *call == Call::Open).map(|(path, _)| path).collect()
    }

    /// How many files were open at once at most.
    pub fn most_open(&self) -> usize {
        self.tree.lock().unwrap().most_open
    }

    fn called(&self, path: &Path, call: Call) -> io::Result<()> {
        self.tree.lock().unwrap().calls.push((path.to_owned(), call));
        let script = self.scripts.lock().unwrap().get(path).cloned();
        match script {
            Some(script) => (script.lock().unwrap())(self, call),
            None => Ok(()),
        }
    }

    /// The path with all links in it followed, but for one at its end.
    fn real(&self, path: &Path) -> io::Result<PathBuf> {
        let mut real = PathBuf::new();
        let mut names = path.components().peekable();
        while let Some(name) = names.next() {
            real.push(name);
            if names.peek().is_some() {
                real = self.followed(real)?;
            }
        }
        Ok(real)
    }

    fn followed(&self, mut path: PathBuf) -> io::Result<PathBuf> {
        for _ in 0..8 {
            let target = match self.tree.lock().unwrap().nodes.get(&path) {
                Some(Node::Link(target, _)) => target.clone(),
                _ => return Ok(path),
            };
            path = path.parent().unwrap().join(target);
        }
        Err(raw(nix::libc::ELOOP))
    }

    fn node(&self, path: &Path) -> io::Result<Node> {
        self.tree.lock().unwrap().nodes.get(path).cloned().ok_or_else(absent)
    }
}

fn described(node: &Node) -> (FoundKind, Stat) {
    match node {
        Node::Folder(stat) => (FoundKind::Folder, *stat),
        Node::File(inode) => (FoundKind::File, *inode.stat.lock().unwrap()),
        Node::Link(_, stat) => (FoundKind::Link, *stat),
        Node::Special => (FoundKind::Special, Stat::default()),
    }
}

impl FileSource for Files {
    fn list(&self, folder: &Path) -> io::Result<Vec<Found>> {
        self.called(folder, Call::List)?;
        let real = self.followed(self.real(folder)?)?;
        if !matches!(self.node(&real)?, Node::Folder(_)) {
            return Err(raw(nix::libc::ENOTDIR));
        }
        let tree = self.tree.lock().unwrap();
        let inside = tree.nodes.iter().filter(|(path, _)| path.parent() == Some(&real));
        let mut all: Vec<Found> = inside
            .map(|(path, node)| {
                let (kind, stat) = described(node);
                Found { name: path.file_name().unwrap().as_bytes().to_vec(), kind, stat }
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SourceFile>> {
        self.called(path, Call::Open)?;
        match self.node(&self.real(path)?)? {
            Node::File(inode) => {
                let mut tree = self.tree.lock().unwrap();
                tree.open += 1;
                tree.most_open = tree.most_open.max(tree.open);
                Ok(Box::new(OpenFile { files: self.clone(), path: path.to_owned(), inode }))
            }
            Node::Link(..) => Err(raw(nix::libc::ELOOP)),
            Node::Folder(_) => Err(raw(nix::libc::EISDIR)),
            Node::Special => Err(raw(nix::libc::ENXIO)),
        }
    }

    fn stat(&self, path: &Path) -> io::Result<(FoundKind, Stat)> {
        Ok(described(&self.node(&self.followed(self.real(path)?)?)?))
    }

    fn link(&self, path: &Path) -> io::Result<PathBuf> {
        match self.node(&self.real(path)?)? {
            Node::Link(target, _) => Ok(target),
            _ => Err(raw(nix::libc::EINVAL)),
        }
    }
}

/// An open file lives on when its name is removed.
struct OpenFile {
    files: Files,
    path: PathBuf,
    inode: Arc<Inode>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.files.tree.lock().unwrap().open -= 1;
    }
}

impl SourceFile for OpenFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.files.called(&self.path, Call::Read(offset, buffer.len()))?;
        let content = self.inode.content.lock().unwrap();
        let len = (content.len().saturating_sub(offset)).min(buffer.len() as u64) as usize;
        match &*content {
            Content::Bytes(bytes) if len > 0 => buffer[..len].copy_from_slice(&bytes[offset as usize..offset as usize + len]),
            Content::Bytes(_) => {}
            Content::Made(_, make) => make(offset, &mut buffer[..len]),
        }
        Ok(len)
    }

    fn done_with(&self, _: u64, _: u64) {}
}
