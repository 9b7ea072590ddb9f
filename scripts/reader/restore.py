"""A snapshot written into a folder, and read through without being written."""

import os
import re

from . import tree
from .packs import STRUCTURE
from .primitives import Refused, need

CONTROL_FILE = 8192


def find_file(snapshot, path):
    """A file of the tree by its path below the data directory."""
    folder = path.rpartition(b"/")[0]
    for one in snapshot.folders:
        if one.path == folder:
            for file in snapshot.files(one):
                if file.path == path:
                    return file
    raise Refused(f"snapshot {snapshot.name} has no file {tree.show(path)}")


def pieces(snapshot, path):
    """The content of any file that a restore would write, by path."""
    beside = beside_the_tree(snapshot)
    if path in beside:
        yield beside[path]
        return
    file = find_file(snapshot, path)
    need(not file.attributes.folder, f"{tree.show(path)} is a folder")
    at = 0
    for offset, data in tree.content(snapshot.chunks, file):
        yield from zeros(offset - at)
        yield data
        at = offset + len(data)
    yield from zeros(file.data.length - at)


def zeros(count):
    while count > 0:
        yield bytes(min(count, 1 << 20))
        count -= 1 << 20


def beside_the_tree(snapshot):
    """What is written besides the tree's files: `backup_label` and, last of all, `global/pg_control`."""
    extra, what = snapshot.extra, f"snapshot {snapshot.name}: extra"
    if "control_file" not in extra:
        return {}
    try:
        control = bytes.fromhex(extra["control_file"])
        label = extra["backup_label"]
        start, timeline, offline = extra["start_lsn"], extra["start_timeline"], extra["offline"]
    except (ValueError, TypeError, KeyError) as error:
        raise Refused(f"{what}: {error!r}") from error
    need(len(control) <= CONTROL_FILE, f"{what}: a pg_control of {len(control)} bytes")
    files = {}
    if label is not None:
        need(isinstance(label, str), f"{what}: backup_label is no text")
        said = re.match(r"START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) \(file ([0-9A-F]{24})\)\n", label)
        on = re.findall(r"^START TIMELINE: ([0-9]+)$", label, re.MULTILINE)
        need(said and said[1] == start, f"{what}: backup_label has another start")
        timelines = {int(said[2][:8], 16), int(on[-1]) if on else timeline}
        need(timelines == {timeline}, f"{what}: backup_label has another timeline")
        files[b"backup_label"] = label.encode()
    else:
        need(offline, f"{what}: no backup_label of a running cluster")
    files[b"global/pg_control"] = control.ljust(CONTROL_FILE, b"\x00")
    return files


class Restore:
    """Writes a snapshot's files below a new or empty folder."""

    def __init__(self, snapshot, target, tablespaces):
        """`tablespaces`: oid to the folder where its files go; all others stay in `pg_tblspc`."""
        self.snapshot, self.target, self.tablespaces = snapshot, os.path.abspath(target), tablespaces
        known = {str(t.get("oid")) for t in snapshot.extra.get("tablespaces") or []}
        for oid in tablespaces:
            need(oid in known, f"snapshot {snapshot.name} has no tablespace {oid}; it has {', '.join(sorted(known)) or 'none'}")
        self.beside = beside_the_tree(snapshot)
        self.folders, self.passed_over = {}, []

    def run(self):
        for folder in [self.target, *self.tablespaces.values()]:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            need(not os.listdir(folder), f"{folder}: not empty")
        for folder in self.snapshot.folders:
            self.folder(folder.path, folder.mode)
        for oid, place in self.tablespaces.items():
            os.symlink(os.path.abspath(place), os.path.join(self.target, "pg_tblspc", oid))
        for folder in self.snapshot.folders:
            for file in self.snapshot.files(folder):
                self.file(file)
        for path, data in self.beside.items():
            self.folder_of(path)
            with self.create(self.place(path)) as out:
                out.write(data)
        for path, mode in sorted(self.folders.items(), reverse=True):
            os.chmod(self.place(path), mode & 0o750 | 0o700)

    def place(self, path):
        """Where a checked path lies; the only links on the way are those to tablespaces, which are followed here."""
        names = tree.check_path(path, f"snapshot {self.snapshot.name}")
        if len(names) >= 2 and names[0] == b"pg_tblspc" and names[1].decode(errors="replace") in self.tablespaces:
            base = os.path.abspath(self.tablespaces[names[1].decode()])
            return os.path.join(os.fsencode(base), *names[2:])
        return os.path.join(os.fsencode(self.target), *names)

    def folder(self, path, mode):
        """Makes a folder, and those above it that nothing is said of, as the data directory; it may be there already."""
        self.folder_of(path)
        place = self.place(path)
        if path not in self.folders and not os.path.isdir(place):
            os.mkdir(place, 0o700)
        self.folders[path] = mode

    def folder_of(self, path):
        above = path.rpartition(b"/")[0]
        if path and above not in self.folders:
            self.folder(above, self.snapshot.folders[0].mode)

    def create(self, place):
        return os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb")

    def file(self, file):
        if file.path in tree.NOT_OF_THE_TREE:
            self.passed_over.append(file.path)
            return
        if file.attributes.folder:
            if file.path not in self.folders:
                self.folder(file.path, file.attributes.mode)
            return
        place = self.place(file.path)
        with self.create(place) as out:
            for offset, data in tree.content(self.snapshot.chunks, file):
                out.seek(offset)
                out.write(data)
            out.truncate(file.data.length)
        os.chmod(place, file.attributes.mode & 0o640)


class Check:
    """Reads all of the live snapshots, and all blobs of their packs; keeps what was wrong."""

    def __init__(self, report):
        self.report, self.faults = report, []
        self.whole, self.kinds = {}, {}
        self.blobs = self.files = self.bytes = 0

    def attempt(self, call, *arguments):
        try:
            return call(*arguments)
        except (Refused, OSError) as error:
            self.faults.append(str(error))
            self.report(str(error))
            return None

    def packs(self, chunks):
        """Every pack as anybody can check it, and every blob in it, opened, decoded, ids computed: once a pack."""
        for pack_id, (session, facts) in chunks.named.items():
            if self.whole.setdefault(pack_id, facts) is not facts:
                continue
            pack = self.attempt(chunks.pack, pack_id)
            if pack is None:
                continue
            self.attempt(pack.check_whole)
            for number, row in enumerate(pack.rows):
                if row.reference and row.reference[1].pack not in chunks.named:
                    # Not this snapshot's: another's, read with that one's files, or nobody's since its reference was moved.
                    continue
                self.attempt(chunks.blob, pack_id, number)
                self.blobs += 1
                name = "node" if row.role == STRUCTURE else {0: "stored", 1: "zstd", 2: "patch"}.get(row.kind, f"kind {row.kind}")
                self.kinds[name] = self.kinds.get(name, 0) + 1

    def snapshot(self, snapshot):
        self.attempt(beside_the_tree, snapshot)
        for folder in snapshot.folders:
            self.attempt(self.folder, snapshot, folder)
        for annex in snapshot.annexes:
            self.attempt(self.annex, snapshot, annex)

    def folder(self, snapshot, folder):
        for file in snapshot.files(folder):
            self.attempt(self.file, snapshot, file)

    def annex(self, snapshot, annex):
        for file in snapshot.files(annex):
            need(not file.attributes.folder, f"{tree.show(file.path)} is a folder in an annex")
            tree.check_needs(snapshot.chunks, file.data.needs, tree.show(file.path))
            for _ in tree.content(snapshot.chunks, file):
                pass

    def file(self, snapshot, file):
        tree.check_needs(snapshot.chunks, file.data.needs, tree.show(file.path))
        for _ in tree.content(snapshot.chunks, file):
            pass
        self.files += 1
        self.bytes += file.data.length
