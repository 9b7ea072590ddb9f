"""WAL objects: which of several under one name counts, and the file in it."""

import json
import re

from . import frames
from .fold import Cluster
from .packs import BLOB_LIMIT
from .primitives import ENVELOPE, Cursor, Refused, digest, need, subkey, u32, u64, unseal, verifies

FILE_LIMIT, META_LIMIT, PART_LIMIT, PART_SEALED = 1 << 30, 1 << 20, 4 << 20, (4 << 20) + 1024
OBJECT_LIMIT = FILE_LIMIT + (16 << 20)
FRONT = 281
NAME = re.compile(r"[0-9A-F]{24}(\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history")
assert PART_SEALED < BLOB_LIMIT


def folder_of(name):
    if name.endswith(".history"):
        return "history"
    return name[:16] if len(name) >= 16 else "other"


class Front:
    """A WAL object without its parts: taken apart, signature and metadata not looked at yet."""

    def __init__(self, store, root, name):
        self.name, self.root = name, root
        opened = store.open(name)
        need(opened, f"{name}: not there")
        file, self.size = opened
        with file:
            need(self.size <= OBJECT_LIMIT, f"{name}: longer than a WAL object can be")
            at = Cursor(file.read(FRONT), name)
            need(at.take(8) == b"PGCNWAL\x01", f"{name}: its magic is wrong")
            need(at.take(16) == root.repository, f"{name}: of another repository")
            self.signer, self.entry, self.entry_hash = at.take(16), at.u64(), at.take(32)
            length = at.u32()
            need(at.take(12) == bytes(12), f"{name}: its reserved bytes aren't zero")
            need(length <= META_LIMIT and FRONT + length + 64 <= self.size, f"{name}: metadata of {length} bytes")
            self.envelope, self.salt, self.nonce = at.take(ENVELOPE), at.take(32), at.take(24)
            self.meta, self.signature = file.read(length), file.read(64)
            self.signed = at.data + self.meta
            need(len(self.meta) == length and len(self.signature) == 64, f"{name}: cut off")

    def opens(self, file_name):
        """The metadata."""
        associated = b"pgcairn 1 wal meta" + self.root.domain + file_name.encode()
        plain = unseal(subkey(self.root.table_key, self.salt), self.nonce, self.meta, associated, f"{self.name}: metadata")
        try:
            meta = json.loads(plain)
            need(set(meta) == {"content", "len", "parts", "parts_hash", "facts"}, f"{self.name}: metadata with other fields")
            self.content, self.parts_hash = bytes.fromhex(meta["content"]), bytes.fromhex(meta["parts_hash"])
            self.length, self.facts = int(meta["len"]), meta["facts"]
            self.parts = []
            for part in meta["parts"]:
                need(set(part) == {"plain", "stored", "kind", "nonce"}, f"{self.name}: a part with other fields")
                self.parts.append((int(part["plain"]), int(part["stored"]), int(part["kind"]), bytes.fromhex(part["nonce"])))
        except (ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
            raise Refused(f"{self.name}: metadata: {error!r}") from error
        need(len(self.content) == 32 and len(self.parts_hash) == 32, f"{self.name}: metadata with hashes of another length")
        need(0 <= self.length <= FILE_LIMIT, f"{self.name}: a file of {self.length} bytes")
        for plain, stored, kind, nonce in self.parts:
            bounds = 0 < plain <= PART_LIMIT and 16 <= stored <= PART_SEALED and 0 <= kind < 256 and len(nonce) == 24
            need(bounds, f"{self.name}: a part out of bounds")

    def is_signed(self, public, cluster, file_name):
        bound = self.root.cluster_key(cluster.name) + u64(int(cluster.system_identifier)) + file_name.encode()
        return verifies(public, b"wal object", self.signed + bound, self.signature)

    def file(self, store):
        """The plain file: parts, their hash, and the content id of the whole are right."""
        need(sum(plain for plain, *_ in self.parts) == self.length, f"{self.name}: its parts have another length")
        begin = FRONT + len(self.meta) + 64
        need(begin + sum(stored for _, stored, *_ in self.parts) == self.size, f"{self.name}: its parts end elsewhere than it does")
        opened = store.open(self.name)
        need(opened and opened[1] == self.size, f"{self.name}: another size than before")
        with opened[0] as source:
            source.seek(begin)
            stored = source.read(self.size - begin)
        need(len(stored) == self.size - begin, f"{self.name}: cut off")
        need(digest(stored) == self.parts_hash, f"{self.name}: its parts have another hash")
        key = self.root.open_envelope(self.envelope, self.name)
        at, plain = Cursor(stored, self.name), []
        for i, (length, sealed, kind, nonce) in enumerate(self.parts):
            bound = b"pgcairn 1 wal part" + self.root.domain + self.content + u32(i) + u32(len(self.parts))
            frame = unseal(key, nonce, at.take(sealed), bound + bytes([kind]) + u32(length), f"{self.name}: part {i}")
            plain.append(frames.decode(kind, frame, length))
        plain = b"".join(plain)
        need(self.root.wal_content_id(plain) == self.content, f"{self.name}: its content has another id")
        return plain


def may_write(fold, signer, cluster, file_name):
    """Did the log enrol this key as a writer of this file? A revoked one's files count up to its end of WAL, if there is one."""
    if signer == fold.owner_id:
        return True
    key = fold.keys.get(signer)
    if key is None or "writer" not in key.roles or not key.is_for(cluster.name):
        return False
    if key.ends is None:
        return True
    last = key.ends.get((cluster.name, cluster.system_identifier, int(file_name[:8], 16)))
    return last is not None and (file_name.endswith(".history") or file_name[:24] <= last.name)


class Archive:
    """The WAL archive of one cluster, judged by a log that was read to its end."""

    def __init__(self, store, log, cluster):
        self.store, self.log, self.cluster, self.alarms = store, log, cluster, []
        self.folder = f"wal/{log.root.cluster_key(cluster.name).hex()}/{cluster.system_identifier}"

    def objects(self, file_name):
        """The objects of a name in their order."""
        place = f"{self.folder}/{folder_of(file_name)}"
        found = []
        for name in self.store.list(place):
            match = re.fullmatch(re.escape(f"{place}/{file_name}") + r"(?:\.(0|[1-9][0-9]*))?", name)
            if match and match[1] != "0":
                found.append((int(match[1] or 0), name))
        return [name for _, name in sorted(found)]

    def judge(self, name, file_name):
        """("valid", front), or ("void", why), ("unproven", why), ("alarm", why)."""
        front = None
        try:
            front = Front(self.store, self.log.root, name)
            front.opens(file_name)
            public = self.log.fold.public_of(front.signer.hex())
            need(public and front.is_signed(public, self.cluster, file_name), f"{name}: no key that the log knows has signed it")
        except Refused as error:
            if front and not self.knows(front):
                return "alarm", f"{error}; and it names entry {front.entry} of the log, which isn't there"
            return "unproven", str(error)
        if not may_write(self.log.fold, front.signer.hex(), self.cluster, file_name):
            return "void", f"{name}: key {front.signer.hex()} may not write it"
        if not self.knows(front):
            self.alarms.append(f"{name} names entry {front.entry} of the log, which isn't there: was the log set back?")
        return "valid", front

    def knows(self, front):
        return any(e.number == front.entry and e.hash == front.entry_hash for e in self.log.entries)

    def file(self, file_name):
        """The file of this name: of the first object that counts and is whole."""
        need(NAME.fullmatch(file_name), f"{file_name!r} is no name of a file of WAL")
        content, others = None, []
        for name in self.objects(file_name):
            verdict, what = self.judge(name, file_name)
            if verdict == "alarm":
                raise Refused(what)
            if verdict != "valid":
                others.append((verdict, what))
                continue
            if content is not None and what.content != content:
                continue
            content = what.content
            try:
                plain = what.file(self.store)
            except Refused as error:
                others.append(("rotten", str(error)))
                continue
            check_name(plain, file_name, self.cluster)
            self.alarms += [f"{v}: {w}" for v, w in others]
            return plain
        if all(verdict == "void" for verdict, _ in others):
            raise Refused("; ".join([f"{file_name} is not in the archive", *(why for _, why in others)]))
        raise Refused("; ".join([f"{file_name} is damaged", *(f"{verdict}: {why}" for verdict, why in others)]))


def check_name(plain, file_name, cluster):
    """That a segment's first page, or a history's text, is what its name says."""
    timeline = int(file_name[:8], 16)
    if file_name.endswith(".history"):
        parents = []
        for line in plain.decode(errors="replace").splitlines():
            match = re.match(r"\s*([0-9]+)\s+[0-9A-F]{1,8}/[0-9A-F]{1,8}(\s|$)", line)
            if line.strip() and not line.lstrip().startswith("#"):
                need(match, f"{file_name}: a line that is none of a history")
                parents.append(int(match[1]))
        ascending = all(a < b for a, b in zip([0, *parents], [*parents, timeline]))
        need(ascending, f"{file_name}: its timelines don't lead to {timeline}")
    elif not file_name.endswith(".backup"):
        at = Cursor(plain[:40], f"{file_name}: its first page")
        at.u16()
        info, of, address, _rest, _pad = at.u16(), at.u32(), at.u64(), at.u32(), at.u32()
        system, size = at.u64(), at.u32()
        need(info & 2 and 1 << 20 <= size <= 1 << 30 and size.bit_count() == 1, f"{at.what} has no long header")
        need(file_name.endswith(".partial") or len(plain) == size, f"{file_name}: {len(plain)} bytes of a segment of {size}")
        start = (int(file_name[8:16], 16) << 32) + int(file_name[16:24], 16) * size
        need(address == start and 1 <= of <= timeline, f"{at.what} is of {address:#x} on timeline {of}")
        need(system == int(cluster.system_identifier), f"{at.what} is of the cluster {system}")


def only_cluster(log, name, system_identifier):
    """The cluster that is meant: the one named, or the only one of the log."""
    known = {s.cluster for s in log.fold.sessions.values() if s.cluster}
    known |= {Cluster(s.summary["cluster"], s.summary["system_identifier"]) for s in log.fold.live.values()}
    found = [c for c in known if name in (None, c.name) and system_identifier in (None, c.system_identifier)]
    if not found and name and system_identifier:
        return Cluster(name, system_identifier)
    text = ", ".join(f"{c.name} ({c.system_identifier})" for c in sorted(known)) or "none"
    need(len(found) == 1, f"name one cluster by --cluster and --system-identifier; the log knows {text}")
    return found[0]
