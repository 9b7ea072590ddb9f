"""The tree of a snapshot: nodes, attributes, the meta chunk, folders and files."""

import json
from collections import namedtuple

from .packs import Place
from .primitives import Cursor, Refused, Unsupported, digest, need, u16, u32, u64

NODE_LIMIT, NEEDS_LIMIT = 64 << 10, 1 << 20
SNAPSHOT, BRANCH, PART, STREAM, LEAF, NEEDS = 1, 2, 3, 4, 5, 6
EMPTY, SLICE, ZEROS, CHUNK, TREE, FOLDER = 0, 1, 2, 3, 4, 5
LEVELS_OF_FILES, LEVELS_OF_PARTS, LEVELS_OF_FOLDERS = 6, 8, 8
JOINT_HEAD = 16

Chunk = namedtuple("Chunk", "id place length")
Child = namedtuple("Child", "kind files bytes id place digest")
# `what` by kind: (joint chunk, offset), (id, place), (level, id, place, digest).
Data = namedtuple("Data", "kind length what needs")
Sub = namedtuple("Sub", "length id place digest")
Extent = namedtuple("Extent", "length id place")
Attributes = namedtuple("Attributes", "name folder mode uid gid size mtime")
File = namedtuple("File", "path name attributes data part")
Folder = namedtuple("Folder", "path mode uid gid child")
# Of files that lie outside of the tree.
NOT_OF_THE_TREE = {
    b"global/pg_control", b"backup_label", b"tablespace_map", b"backup_manifest", b"recovery.signal", b"standby.signal",
    b"postmaster.pid", b"postmaster.opts", b"pgcairn.restore",
}  # fmt: skip


class Node(Cursor):
    """A node's body, and the packs that its places name."""

    def __init__(self, data, kind, what):
        need(len(data) <= (NEEDS_LIMIT if kind == NEEDS else NODE_LIMIT), f"{what}: a node of {len(data)} bytes")
        super().__init__(data, what)
        found, version = self.u8(), self.u8()
        if version != 1:
            raise Unsupported(f"{what}: a node of version {version}")
        need(found == kind, f"{what}: a node of kind {found} instead of {kind}")
        self.packs = [self.take(16) for _ in range(self.count("H", 0xFFFF, 16))]

    def pack(self):
        index = self.u16()
        need(index < len(self.packs), f"{self.what}: pack {index} is not in its list")
        return self.packs[index]

    def place(self):
        return Place(self.pack(), self.u32(), self.u16())

    def chunk(self):
        return Chunk(self.take(16), self.place(), self.u32())

    def children(self):
        result = []
        for _ in range(self.count("H", 128, 53)):
            child = Child(self.u8(), self.u32(), self.u64(), self.take(16), self.place(), self.take(16))
            need(child.kind in (BRANCH, PART), f"{self.what}: a child of kind {child.kind}")
            result.append(child)
        return result

    def needs(self):
        """Pack ids to bytes, or where the needs node lies."""
        n = self.u16()
        if n == 0xFFFF:
            return (self.take(16), self.place())
        need(n * 10 <= self.left(), f"{self.what}: a count of {n}")
        return add_needs(self, ((self.pack(), self.u64()) for _ in range(n)))


def add_needs(node, items):
    needs = {}
    for pack, size in items:
        need(size > 0 and pack not in needs, f"{node.what}: needs name a pack twice, or nothing of it")
        needs[pack] = size
    return needs


def read_node(chunks, kind, start, place, what):
    return Node(chunks.node(start, place), kind, what)


def same_digest(expected, what, *parts):
    need(digest(b"".join(parts))[:16] == expected, f"{what}: its content digest is another one")


def check_path(path, what):
    """The names of a path below the data directory; none of the directory itself."""
    if not path:
        return []
    names = path.split(b"/")
    need(len(path) <= 4000 and len(names) <= 64, f"{what}: the path is too long")
    for name in names:
        check_name(name, what)
    return names


def check_name(name, what):
    good = name not in (b"", b".", b"..") and b"/" not in name and b"\x00" not in name and len(name) <= 255
    need(good, f"{what}: {name!r} is no name of a file")


def read_root(chunks, start, place, hashed, what):
    node = read_node(chunks, SNAPSHOT, start, place, what)
    meta, children = node.chunk(), node.children()
    node.end()
    same_digest(hashed, what, b"pgcairn 1 snapshot", meta.id, *(c.digest for c in children))
    return meta, children


def read_branch(chunks, child, what):
    node = read_node(chunks, BRANCH, child.id, child.place, f"{what}: a branch")
    children = node.children()
    node.end()
    need(children, f"{node.what} of nothing")
    same_digest(child.digest, node.what, b"pgcairn 1 branch", *(c.digest for c in children))
    return children


def read_part(chunks, child, what):
    """The chunk of attributes, joint chunks, and what is said of the content of each file."""
    node = read_node(chunks, PART, child.id, child.place, what)
    attributes = node.chunk()
    joint = [node.chunk() for _ in range(node.count("H", 128, 28))]
    bound = [b"pgcairn 1 part", attributes.id, u16(len(joint)), *(j.id for j in joint)]
    data = [read_data(node, bound, joint) for _ in range(node.count("H", 128, 9))]
    node.end()
    same_digest(child.digest, what, *bound)
    return attributes, joint, data


class Snapshot:
    """A COMMIT's tree."""

    def __init__(self, chunks, commit):
        self.chunks, self.commit, root = chunks, commit, commit.root
        self.name = commit.summary["id"]
        place = Place(bytes.fromhex(root["place"]["pack"]), root["place"]["blob"], root["place"]["position"])
        named, hashed = bytes.fromhex(root["chunk"]), bytes.fromhex(root["digest"])
        meta, children = read_root(chunks, named, place, hashed, f"snapshot {self.name}")
        self._read_meta(chunks.content(meta.id, meta.place, meta.length), children)

    def _read_meta(self, data, children):
        what = f"snapshot {self.name}: meta chunk"
        try:
            meta = json.loads(data)
            self.extra, listed = meta["extra"], meta["folders"]
            found = [(bytes.fromhex(f["path"]), permissions(f["mode"]), int(f["uid"]), int(f["gid"])) for f in listed]
            annexes = list(meta.get("annexes") or [])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise Refused(f"{what}: {error!r}") from error
        need(isinstance(self.extra, dict), f"{what}: its extra is no object")
        for path, *_ in found:
            check_path(path, what)
        need(all(isinstance(name, str) for name in annexes) and len(set(annexes)) == len(annexes), f"{what}: annexes without a name of their own")
        wanted = len(found) + len(annexes)
        need(found and found[0][0] == b"", f"{what}: the data directory isn't its first folder")
        level = 0
        while len(children) < wanted:
            level += 1
            need(level <= LEVELS_OF_FOLDERS and all(c.kind == BRANCH for c in children), f"{what}: it has more folders than the tree")
            below = []
            for child in children:
                below += read_branch(self.chunks, child, f"{what}: folders")
                need(len(below) <= wanted, f"{what}: it has fewer folders than the tree")
            children = below
        need(len(children) == wanted, f"{what}: it has fewer folders than the tree")
        self.folders = [Folder(*of, child) for of, child in zip(found, children)]
        # Files that are no part of the data directory.
        self.annexes = [Folder(name.encode(), 0, 0, 0, child) for name, child in zip(annexes, children[len(found):])]

    def parts(self, folder):
        """The parts of a folder, as they come: a tree that names one node many times fills no memory."""
        yield from self._parts_below(folder, folder.child, 0, [0] * (LEVELS_OF_PARTS + 1))

    def _parts_below(self, folder, child, depth, seen):
        what = show(folder.path)
        need(depth <= LEVELS_OF_PARTS, f"{what}: too many levels")
        seen[depth] += 1
        need(seen[depth] <= folder.child.files + 1, f"{what}: more nodes than files")
        if child.kind == PART:
            yield child
            return
        children = read_branch(self.chunks, child, what)
        # Only a folder without files has a part without any, so what is said below must come to what was said above.
        need(all(c.files for c in children), f"{what}: a part of no files beside others")
        sums = (sum(c.files for c in children), sum(c.bytes for c in children))
        need(sums == (child.files, child.bytes), f"{what}: a branch of {sums} files and bytes instead of {child.files, child.bytes}")
        for below in children:
            yield from self._parts_below(folder, below, depth + 1, seen)

    def files(self, folder):
        """The files of a folder, checked, as they come; none twice."""
        seen = set()
        for child in self.parts(folder):
            for file in Part(self, folder, child).files():
                need(file.name not in seen, f"{show(file.path)} stands twice in its folder")
                seen.add(file.name)
                yield file

    def all_files(self):
        for folder in self.folders:
            yield from self.files(folder)


def permissions(mode):
    if not isinstance(mode, int) or not 0 <= mode <= 0o7777:
        raise ValueError(f"a mode of {mode!r}")
    return mode


def show(path):
    return path.decode(errors="backslashreplace") or "the data directory"


class Part:
    """Up to 128 files of a folder."""

    def __init__(self, snapshot, folder, child):
        self.snapshot, self.folder = snapshot, folder
        self.what = f"snapshot {snapshot.name}: a part of {show(folder.path)}"
        self.attributes, self.joint, self.data = read_part(snapshot.chunks, child, self.what)
        counted = (len(self.data), sum(d.length for d in self.data))
        need(counted == (child.files, child.bytes), f"{self.what}: {counted} files and bytes instead of {child.files, child.bytes}")

    def files(self):
        chunk = self.attributes
        listed = read_attributes(self.snapshot.chunks.content(chunk.id, chunk.place, chunk.length), len(self.data), self.what)
        for attributes, data in zip(listed, self.data):
            path = self.folder.path + b"/" + attributes.name if self.folder.path else attributes.name
            check_path(path, self.what)
            need(attributes.folder == (data.kind == FOLDER), f"{show(path)}: a file to its part and a folder to its attributes, or the reverse")
            yield File(path, attributes.name, attributes, data, self)


def read_data(node, bound, joint):
    kind, length = node.u8(), node.u64()
    bound += [u64(length), bytes([kind])]
    what, needs = None, {}
    if kind in (EMPTY, FOLDER):
        need(length == 0, f"{node.what}: {length} bytes of an empty file or a folder")
    elif kind == SLICE:
        index, offset = node.u16(), node.u32()
        need(index < len(joint), f"{node.what}: joint chunk {index} is not there")
        need(JOINT_HEAD <= offset and offset + length <= joint[index].length, f"{node.what}: a slice outside of its chunk")
        bound += [u16(index), u32(offset)]
        what = (index, offset)
    elif kind == CHUNK:
        what = (node.take(16), node.place())
        bound.append(what[0])
        needs = node.needs()
    elif kind == TREE:
        what = (node.u8(), node.take(16), node.place(), node.take(16))
        need(what[0] <= LEVELS_OF_FILES, f"{node.what}: a tree of level {what[0]}")
        bound.append(what[3])
        needs = node.needs()
    elif kind != ZEROS:
        raise Refused(f"{node.what}: a file of kind {kind}")
    return Data(kind, length, what, needs)


def read_attributes(data, expected, what):
    at = Cursor(data, f"{what}: attributes")
    version = at.u8()
    if version != 1:
        raise Unsupported(f"{at.what} of version {version}")
    instances, count = at.u8(), at.u16()
    need(count == expected and count <= 128, f"{at.what} of {count} files instead of {expected}")
    for _ in range(instances):
        at.take(32)
    result = []
    for _ in range(count):
        name = at.take(at.u16())
        kind, instance = at.u8(), at.u8()
        mode, uid, gid, size = at.u32(), at.u32(), at.u32(), at.u64()
        mtime, _ctime, _inode = at.i64(), at.i64(), at.u64()
        check_name(name, at.what)
        need(kind in (0, 1) and instance < instances and mode <= 0o7777, f"{at.what}: type {kind}, instance {instance}, mode {mode:o}")
        need(not result or result[-1].name < name, f"{at.what}: names that don't ascend")
        result.append(Attributes(name, kind == 1, mode, uid, gid, size, mtime))
    at.end()
    return result


# --- the content of files ---


def content(chunks, file):
    """The content of a file, as (offset, bytes) in order; what is between are zeros. It has `file.data.length` bytes."""
    data, what = file.data, show(file.path)
    if data.kind == SLICE:
        index, offset = data.what
        joint = file.part.joint[index]
        yield 0, chunks.content(joint.id, joint.place, joint.length)[offset : offset + data.length]
    elif data.kind == CHUNK:
        yield 0, chunks.content(*data.what, data.length)
    elif data.kind == TREE:
        level, start, place, hashed = data.what
        at = 0
        budget = [data.length // 4096 + 1024] * (level + 1)
        for extent in extents(chunks, Sub(data.length, start, place, hashed), level, budget, what):
            if extent.id is not None:
                yield at, chunks.content(extent.id, extent.place, extent.length)
            at += extent.length
        need(at == data.length, f"{what}: {at} bytes instead of {data.length}")


def extents(chunks, sub, level, budget, what):
    """The extents of a subtree, each node checked before any of it is given out."""
    budget[level] -= 1
    need(budget[level] >= 0, f"{what}: more nodes in a level than its length needs")
    if level == 0:
        found = read_leaf(chunks, sub, f"{what}: a leaf")
    else:
        found = read_stream(chunks, sub, level, f"{what}: a stream node")
    need(sum(e.length for e in found) == sub.length, f"{what}: a node of another length")
    if level == 0:
        yield from found
    else:
        for child in found:
            yield from extents(chunks, child, level - 1, budget, what)


def read_stream(chunks, sub, level, what):
    node = read_node(chunks, STREAM, sub.id, sub.place, what)
    found = node.u8()
    need(found == level and 1 <= level <= LEVELS_OF_FILES, f"{what} of level {found} instead of {level}")
    children = [Sub(node.u64(), node.take(16), node.place(), node.take(16)) for _ in range(node.count("H", 128, 48))]
    node.end()
    need(all(c.length for c in children), f"{what} with a child of nothing")
    bound = (u64(c.length) + c.digest for c in children)
    same_digest(sub.digest, what, b"pgcairn 1 stream", bytes([level]), *bound)
    return children


def read_leaf(chunks, sub, what):
    node = read_node(chunks, LEAF, sub.id, sub.place, what)
    found, bound = [], [b"pgcairn 1 leaf"]
    for _ in range(node.count("H", 32, 5)):
        kind, length = node.u8(), node.u32()
        need(kind in (0, 1) and length > 0, f"{what}: an extent of kind {kind}, {length} bytes")
        start, place = (node.take(16), node.place()) if kind else (None, None)
        found.append(Extent(length, start, place))
        bound += [bytes([kind]), u32(length), start or b""]
    node.end()
    same_digest(sub.digest, what, *bound)
    return found


def read_needs(chunks, start, place, what):
    node = read_node(chunks, NEEDS, start, place, f"{what}: a needs node")
    need(not node.packs, f"{node.what} with a list of packs")
    needs = add_needs(node, ((node.take(16), node.u64()) for _ in range(node.count("I", NEEDS_LIMIT, 24))))
    node.end()
    return needs


def check_needs(chunks, needs, what):
    """That the packs of an entry's needs are in the COMMIT's set; that of a needs node, too."""
    packs = set(needs)
    if isinstance(needs, tuple):
        packs = {needs[1].pack, *read_needs(chunks, *needs, what)}
    for pack in packs:
        need(pack in chunks.named, f"{what}: its needs name pack {pack.hex()}, which is not in the COMMIT's set")
