//! What lies on a disk, and what of it would be left after a power failure.
//!
//! The rules are the weakest that a program may rely on: an fsync of a file makes its bytes and length durable, not its
//! name; an fsync of a folder makes its names durable (what they name may still be empty), syncfs makes all durable.
//! Whatever else was done may be there or not, a later step without an earlier one, too. Only a rename is whole: the old
//! name or the new one.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::trace::{Op, Step};

/// What lies under a path.
#[derive(Clone, PartialEq, Eq)]
pub enum Item {
    /// A folder with its mode.
    Folder(u32),
    /// A file with mode and bytes.
    File(u32, Vec<u8>),
    /// A symbolic link.
    Link(OsString),
}

/// Paths below a root, folders before what is in them.
pub type Tree = BTreeMap<PathBuf, Item>;

/// Reads what lies below a folder.
pub fn scan(root: &Path) -> Tree {
    let mut tree = Tree::new();
    walk(root, &mut |path, meta| {
        let item = if meta.is_dir() {
            Item::Folder(meta.mode() & 0o7777)
        } else if meta.is_symlink() {
            Item::Link(std::fs::read_link(path).expect("a link").into())
        } else {
            Item::File(meta.mode() & 0o7777, std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        };
        tree.insert(path.strip_prefix(root).expect("below").to_owned(), item);
    });
    tree
}

fn walk(folder: &Path, each: &mut impl FnMut(&Path, &std::fs::Metadata)) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("an entry").path();
        let meta = std::fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        each(&path, &meta);
        if meta.is_dir() {
            walk(&path, each);
        }
    }
}

/// Makes a folder hold exactly this.
pub fn write(root: &Path, tree: &Tree) {
    for entry in std::fs::read_dir(root).expect("the root") {
        let path = entry.expect("an entry").path();
        let meta = std::fs::symlink_metadata(&path).expect("an entry");
        if meta.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    for (path, item) in tree {
        let path = root.join(path);
        let made = match item {
            Item::Folder(mode) => std::fs::DirBuilder::new().mode(*mode | 0o700).create(&path),
            Item::Link(target) => symlink(target, &path),
            Item::File(mode, bytes) => {
                let file = std::fs::File::options().write(true).create_new(true).mode(*mode).open(&path);
                file.and_then(|mut file| std::io::Write::write_all(&mut file, bytes))
            }
        };
        made.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if let Item::File(mode, _) | Item::Folder(mode) = item {
            let _ = std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode));
        }
    }
}

/// The first path at which two trees differ, for a message.
pub fn first_difference(left: &Tree, right: &Tree) -> Option<String> {
    let all: std::collections::BTreeSet<&PathBuf> = left.keys().chain(right.keys()).collect();
    let told = |item: Option<&Item>| match item {
        None => "nothing".to_owned(),
        Some(Item::Folder(mode)) => format!("a folder {mode:o}"),
        Some(Item::File(mode, bytes)) => format!("a file {mode:o} of {} bytes", bytes.len()),
        Some(Item::Link(target)) => format!("a link to {}", target.display()),
    };
    let path = all.into_iter().find(|path| left.get(*path) != right.get(*path))?;
    Some(format!("{}: {} and {}", path.display(), told(left.get(path)), told(right.get(path))))
}

/// What a power failure takes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// Nothing: what a killed process leaves.
    Nothing,
    /// All that isn't durable.
    All,
    /// The bytes that aren't durable; lengths and names stay.
    Bytes,
    /// The names that aren't durable.
    Names,
    /// Some of all that isn't durable, drawn with this seed.
    Some(u64),
}

enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
    Zero(u64, u64),
}

enum Node {
    Folder { now: BTreeMap<OsString, usize>, safe: BTreeMap<OsString, usize>, mode: u32 },
    File { now: Vec<u8>, safe: Vec<u8>, changes: Vec<Change>, mode: u32 },
    Link(OsString),
}

/// Names that appear and disappear together.
struct Renaming(Vec<(usize, OsString, Option<usize>)>);

/// A disk: what programs see, and what is durable.
pub struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    by_ino: HashMap<u64, usize>,
    pending: Vec<Renaming>,
}

impl Disk {
    /// All that lies below a folder now, and all of it durable.
    pub fn of(root: &Path) -> Disk {
        let mut disk = Disk { root: root.to_owned(), nodes: Vec::new(), by_ino: HashMap::new(), pending: Vec::new() };
        let top = std::fs::metadata(root).expect("the root");
        disk.add(top.ino(), Node::Folder { now: BTreeMap::new(), safe: BTreeMap::new(), mode: top.mode() & 0o7777 });
        walk(root, &mut |path, meta| {
            let known = (!meta.is_dir()).then(|| disk.by_ino.get(&meta.ino()).copied()).flatten();
            let node = known.unwrap_or_else(|| {
                let mode = meta.mode() & 0o7777;
                let node = if meta.is_dir() {
                    Node::Folder { now: BTreeMap::new(), safe: BTreeMap::new(), mode }
                } else if meta.is_symlink() {
                    Node::Link(std::fs::read_link(path).expect("a link").into())
                } else {
                    let bytes = std::fs::read(path).expect("a file");
                    Node::File { now: bytes.clone(), safe: bytes, changes: Vec::new(), mode }
                };
                disk.add(meta.ino(), node)
            });
            let (folder, name) = disk.slot(path);
            if let Node::Folder { now, safe, .. } = &mut disk.nodes[folder] {
                now.insert(name.clone(), node);
                safe.insert(name, node);
            }
        });
        disk
    }

    fn add(&mut self, ino: u64, node: Node) -> usize {
        self.nodes.push(node);
        self.by_ino.insert(ino, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let below = path.strip_prefix(&self.root).unwrap_or_else(|_| panic!("{} lies elsewhere", path.display()));
        below.iter().try_fold(0, |at, name| match &self.nodes[at] {
            Node::Folder { now, .. } => now.get(name).copied(),
            _ => None,
        })
    }

    /// The folder of a path, and the name in it.
    fn slot(&self, path: &Path) -> (usize, OsString) {
        let folder = self.find(path.parent().expect("below the root")).unwrap_or_else(|| panic!("{}: no folder", path.display()));
        (folder, path.file_name().expect("a name").to_owned())
    }

    /// Does what a program did.
    pub fn apply(&mut self, step: &Step) {
        let file = || *self.by_ino.get(&step.ino).unwrap_or_else(|| panic!("a file that nobody made: {step:?}"));
        match step.op {
            Op::Create => {
                let node = self.add(step.ino, Node::File { now: Vec::new(), safe: Vec::new(), changes: Vec::new(), mode: step.at as u32 });
                self.rename(vec![(&step.path, Some(node))]);
            }
            Op::Mkdir => {
                let node = self.add(step.ino, Node::Folder { now: BTreeMap::new(), safe: BTreeMap::new(), mode: step.at as u32 & 0o777 });
                self.rename(vec![(&step.path, Some(node))]);
            }
            Op::Symlink => {
                let node = self.add(step.ino, Node::Link(step.other.clone()));
                self.rename(vec![(&step.path, Some(node))]);
            }
            Op::Unlink | Op::Rmdir => self.rename(vec![(&step.path, None)]),
            Op::Link => self.rename(vec![(Path::new(&step.other), Some(file()))]),
            Op::Rename => {
                assert_eq!(step.at & 2, 0, "an exchange of names");
                let node = self.find(&step.path).unwrap_or_else(|| panic!("{}: not there", step.path.display()));
                self.rename(vec![(&step.path, None), (Path::new(&step.other), Some(node))]);
            }
            Op::Write => self.change(file(), Change::Write(step.at, step.data.clone())),
            Op::Length => self.change(file(), Change::Length(step.at)),
            Op::Zero => {
                let len = step.other.to_str().and_then(|n| n.parse().ok()).expect("a length");
                self.change(file(), Change::Zero(step.at, len));
            }
            Op::Mode => match &mut self.nodes[*self.by_ino.get(&step.ino).expect("known")] {
                Node::File { mode, .. } | Node::Folder { mode, .. } => *mode = step.at as u32,
                Node::Link(_) => {}
            },
            Op::Fsync => self.fsync(file()),
            Op::Syncfs => (0..self.nodes.len()).for_each(|node| self.fsync(node)),
            Op::Killed => {}
        }
    }

    fn change(&mut self, node: usize, change: Change) {
        let Node::File { now, changes, .. } = &mut self.nodes[node] else { panic!("a write to no file") };
        change.to(now);
        changes.push(change);
    }

    fn rename(&mut self, names: Vec<(&Path, Option<usize>)>) {
        let renaming: Vec<_> = names
            .into_iter()
            .map(|(path, node)| {
                let (folder, name) = self.slot(path);
                (folder, name, node)
            })
            .collect();
        for (folder, name, node) in &renaming {
            let Node::Folder { now, .. } = &mut self.nodes[*folder] else { panic!("no folder") };
            set(now, name, *node);
        }
        self.pending.push(Renaming(renaming));
    }

    fn fsync(&mut self, node: usize) {
        match &mut self.nodes[node] {
            Node::File { now, safe, changes, .. } => {
                safe.clone_from(now);
                changes.clear();
            }
            Node::Link(_) => {}
            Node::Folder { .. } => {
                // Whatever touches this folder, and what was done before to the same names elsewhere.
                let mut due: Vec<bool> = self.pending.iter().map(|r| r.0.iter().any(|(folder, ..)| *folder == node)).collect();
                for at in (0..due.len()).rev() {
                    let again = |earlier: &Renaming, later: &Renaming| {
                        earlier.0.iter().any(|(f, n, _)| later.0.iter().any(|(folder, name, _)| f == folder && n == name))
                    };
                    due[at] |= (at + 1..due.len()).any(|later| due[later] && again(&self.pending[at], &self.pending[later]));
                }
                let mut due = due.into_iter();
                let (safe, pending) = std::mem::take(&mut self.pending).into_iter().partition::<Vec<_>, _>(|_| due.next() == Some(true));
                self.pending = pending;
                for (folder, name, node) in safe.into_iter().flat_map(|r| r.0) {
                    let Node::Folder { safe, .. } = &mut self.nodes[folder] else { panic!("no folder") };
                    set(safe, &name, node);
                }
            }
        }
    }

    /// What is found after it.
    pub fn after(&self, loss: Loss) -> Tree {
        let mut draw = Draw(match loss {
            Loss::Some(seed) => seed,
            _ => 0,
        });
        // Rarely, half the time, or mostly.
        let often = 1 + 3 * (draw.next() % 3);
        let mut folders: HashMap<usize, BTreeMap<OsString, usize>> = HashMap::new();
        for (id, node) in self.nodes.iter().enumerate() {
            if let Node::Folder { now, safe, .. } = node {
                folders.insert(id, if matches!(loss, Loss::Nothing | Loss::Bytes) { now.clone() } else { safe.clone() });
            }
        }
        for renaming in &self.pending {
            if matches!(loss, Loss::Some(_)) && draw.next() % 8 < often {
                for (folder, name, node) in &renaming.0 {
                    set(folders.get_mut(folder).expect("a folder"), name, *node);
                }
            }
        }
        let mut bytes = HashMap::new();
        for (id, node) in self.nodes.iter().enumerate() {
            if let Node::File { now, safe, changes, .. } = node {
                let left = match loss {
                    Loss::Nothing | Loss::Names => now.clone(),
                    Loss::All => safe.clone(),
                    Loss::Bytes => lose(safe.clone(), changes, |_| (false, true)),
                    Loss::Some(_) => lose(safe.clone(), changes, |_| (draw.next() % 8 < often, draw.next().is_multiple_of(2))),
                };
                bytes.insert(id, left);
            }
        }
        let mut tree = Tree::new();
        self.gather(0, Path::new(""), &folders, &bytes, &mut tree);
        tree
    }

    fn gather(
        &self,
        folder: usize,
        path: &Path,
        folders: &HashMap<usize, BTreeMap<OsString, usize>>,
        bytes: &HashMap<usize, Vec<u8>>,
        tree: &mut Tree,
    ) {
        for (name, node) in &folders[&folder] {
            let path = path.join(name);
            let item = match &self.nodes[*node] {
                Node::Folder { mode, .. } => Item::Folder(*mode),
                Node::Link(target) => Item::Link(target.clone()),
                Node::File { mode, .. } => Item::File(*mode, bytes[node].clone()),
            };
            let below = matches!(item, Item::Folder(_));
            tree.insert(path.clone(), item);
            if below {
                self.gather(*node, &path, folders, bytes, tree);
            }
        }
    }
}

fn set(names: &mut BTreeMap<OsString, usize>, name: &OsStr, node: Option<usize>) {
    match node {
        Some(node) => names.insert(name.to_owned(), node),
        None => names.remove(name),
    };
}

/// Does some of the changes: `keep` says whether one is done, and else whether it leaves the length that it made.
fn lose(mut bytes: Vec<u8>, changes: &[Change], mut keep: impl FnMut(&Change) -> (bool, bool)) -> Vec<u8> {
    for change in changes {
        let (done, length) = keep(change);
        match change {
            _ if done => change.to(&mut bytes),
            Change::Write(at, data) if length => {
                let end = *at as usize + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
            }
            Change::Length(len) if length => bytes.resize(*len as usize, 0),
            _ => {}
        }
    }
    bytes
}

impl Change {
    fn to(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Length(len) => bytes.resize(*len as usize, 0),
            Change::Write(at, data) => {
                let (from, to) = (*at as usize, *at as usize + data.len());
                if bytes.len() < to {
                    bytes.resize(to, 0);
                }
                bytes[from..to].copy_from_slice(data);
            }
            Change::Zero(at, len) => {
                let end = bytes.len();
                let within = |n: u64| usize::try_from(n).unwrap_or(end).min(end);
                bytes[within(*at)..within(at.saturating_add(*len))].fill(0);
            }
        }
    }
}

/// SplitMix64: the same numbers for the same seed, on any machine.
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(op: Op, ino: u64, at: u64, path: &str, other: &str, data: &[u8]) -> Step {
        Step { op, number: 0, ino, at, path: Path::new("/d").join(path), other: other.into(), data: data.to_vec() }
    }

    fn empty() -> Disk {
        let top = Node::Folder { now: BTreeMap::new(), safe: BTreeMap::new(), mode: 0o700 };
        let mut disk = Disk { root: "/d".into(), nodes: Vec::new(), by_ino: HashMap::new(), pending: Vec::new() };
        disk.add(1, top);
        disk
    }

    fn shown(tree: &Tree) -> Vec<String> {
        let text = |(path, item): (&PathBuf, &Item)| match item {
            Item::File(_, bytes) => format!("{}={}", path.display(), String::from_utf8_lossy(bytes).replace('\0', "_")),
            _ => format!("{}/", path.display()),
        };
        tree.iter().map(text).collect()
    }

    #[test]
    fn only_what_was_fsynced_is_sure() {
        let mut disk = empty();
        disk.apply(&step(Op::Create, 2, 0o600, "a", "", b""));
        disk.apply(&step(Op::Write, 2, 0, "a", "", b"12"));
        disk.apply(&step(Op::Fsync, 2, 0, "a", "", b""));
        assert_eq!(shown(&disk.after(Loss::All)), [""; 0], "its name is not durable");
        disk.apply(&step(Op::Fsync, 1, 0, "", "", b""));
        disk.apply(&step(Op::Write, 2, 2, "a", "", b"34"));
        assert_eq!(shown(&disk.after(Loss::All)), ["a=12"]);
        assert_eq!(shown(&disk.after(Loss::Bytes)), ["a=12__"]);
        assert_eq!(shown(&disk.after(Loss::Nothing)), ["a=1234"]);
        // A rename is whole: never both names, never none.
        disk.apply(&step(Op::Fsync, 2, 0, "a", "", b""));
        disk.apply(&step(Op::Rename, 0, 0, "a", "/d/b", b""));
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            seen.insert(shown(&disk.after(Loss::Some(seed))));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [["a=1234"], ["b=1234"]]);
    }

    #[test]
    fn later_steps_may_survive_earlier_ones() {
        let mut disk = empty();
        for (ino, name) in [(2, "a"), (3, "b")] {
            disk.apply(&step(Op::Create, ino, 0o600, name, "", b""));
            disk.apply(&step(Op::Write, ino, 0, name, "", b"x"));
        }
        let seen: std::collections::BTreeSet<_> = (0..300).map(|seed| shown(&disk.after(Loss::Some(seed)))).collect();
        for state in [&["b=x"][..], &["a=x"], &["a=", "b=x"], &["a=_", "b="], &[]] {
            assert!(seen.contains(&state.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()), "{state:?} of {seen:?}");
        }
        disk.apply(&step(Op::Mkdir, 4, 0o700, "f", "", b""));
        disk.apply(&step(Op::Link, 2, 0, "a", "/d/f/a", b""));
        disk.apply(&step(Op::Fsync, 4, 0, "f", "", b""));
        assert_eq!(shown(&disk.after(Loss::All)), [""; 0], "in a folder that has no name yet");
        disk.apply(&step(Op::Syncfs, 4, 0, "f", "", b""));
        assert_eq!(shown(&disk.after(Loss::All)), ["a=x", "b=x", "f/", "f/a=x"]);
    }
}
