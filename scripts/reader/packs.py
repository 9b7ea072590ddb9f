"""Packs: their tables, the blobs in them, and chunks out of these."""

from collections import OrderedDict, namedtuple

from . import frames
from .primitives import ENVELOPE, Cursor, Refused, Unsupported, digest, need, subkey, u16, u32, unseal

CONTENT, STRUCTURE = 1, 2
NO_ENVELOPE = 0xFFFF
PACK_LIMIT, TAIL_LIMIT, BLOB_LIMIT = 1 << 30, 64 << 20, 17 << 20
CACHE = 192 << 20

# `size` and `tail` in bytes.
Facts = namedtuple("Facts", "hash size tail")
# Where a chunk lies: the pack's id, the blob's number, the chunk's number in the blob.
Place = namedtuple("Place", "pack blob position")
Row = namedtuple("Row", "offset length kind role envelope nonce hash chunks reference")


class Pack:
    """One pack, read from its end. What the log says of it is believed, and nothing else."""

    def __init__(self, store, root, session, pack_id, facts):
        self.store, self.root, self.id, self.facts = store, root, pack_id, facts
        self.name = f"pack/{session.hex()}/{pack_id.hex()}-{facts.hash.hex()}"
        need(facts.size <= PACK_LIMIT and facts.tail <= min(TAIL_LIMIT, facts.size), f"{self.name}: the log states a size out of bounds")
        self.keys = {}
        tail = Cursor(self.read(facts.size - facts.tail, facts.tail), self.name)
        self._take_apart(tail)

    def read(self, offset, length):
        opened = self.store.open(self.name)
        need(opened, f"{self.name}: not there")
        with opened[0] as file:
            need(opened[1] == self.facts.size, f"{self.name}: {opened[1]} bytes instead of {self.facts.size}")
            file.seek(offset)
            data = file.read(length)
        need(len(data) == length, f"{self.name}: cut off")
        return data

    def _take_apart(self, tail):
        need(tail.left() >= 24 + 16 + 64, f"{self.name}: its tail is too short")
        trailer = Cursor(tail.data[-32:], self.name)
        table_length, envelopes, zero = trailer.u32(), trailer.u16(), trailer.u16()
        named, magic = trailer.take(16), trailer.take(8)
        need(magic == b"PGCNEND\x01" and zero == 0 and named == self.id, f"{self.name}: its trailer is wrong")
        need(24 + table_length + ENVELOPE * envelopes + 64 == tail.left(), f"{self.name}: its tail has another length")
        nonce, sealed = tail.take(24), tail.take(table_length)
        self.envelopes = [tail.take(ENVELOPE) for _ in range(envelopes)]
        self.structure_key = subkey(self.root.table_key, tail.take(32))
        associated = b"pgcairn 1 table" + self.root.domain + self.id
        table = unseal(self.structure_key, nonce, sealed, associated, f"{self.name}: table")
        self.rows = read_table(table, self)

    def check_whole(self):
        """As anybody can, without a key."""
        data = self.read(0, self.facts.size)
        need(digest(data) == self.facts.hash, f"{self.name}: its bytes have another hash")
        need(data[:40] == b"PGCNPCK\x01" + self.root.domain + self.id, f"{self.name}: its header is wrong")

    def row(self, number):
        need(number < len(self.rows), f"{self.name}: it has no blob {number}")
        return self.rows[number]

    def blob(self, number, reference=None):
        """The plain form of a blob; `reference` gives the bytes of a chunk by its id and place."""
        row, what = self.row(number), f"{self.name}: blob {number}"
        sealed = self.read(row.offset, row.length)
        need(digest(sealed)[:16] == row.hash, f"{what}: its bytes have another hash")
        bound = b"pgcairn 1 blob" + self.root.domain + bytes([row.role, row.kind])
        if row.role == CONTENT:
            key, named = self._content_key(row.envelope), self.envelopes[row.envelope][1:17]
        else:
            key, named = self.structure_key, bytes(16)
        bound += named + u16(len(row.chunks)) + b"".join(chunk + u32(length) for chunk, length in row.chunks)
        bound += (u16(1) + row.reference[0]) if row.reference else u16(0)
        frame = unseal(key, row.nonce, sealed, bound, what)
        image = None
        if row.reference:
            need(row.kind >= frames.PATCH, f"{what}: a reference, and no patch")
            image = reference(*row.reference)
        try:
            plain = frames.decode(row.kind, frame, sum(length for _, length in row.chunks), image)
        except Unsupported:
            raise
        except Refused as error:
            raise Refused(f"{what}: {error}") from error
        at = 0
        for chunk, length in row.chunks:
            need(self.root.chunk_id(row.role, plain[at : at + length]) == chunk, f"{what}: a chunk has another id")
            at += length
        return plain

    def _content_key(self, number):
        if number not in self.keys:
            what = f"{self.name}: envelope {number}"
            self.keys[number] = self.root.open_envelope(self.envelopes[number], what)
        return self.keys[number]


def read_table(table, pack):
    at = Cursor(table, f"{pack.name}: table")
    behind = pack.facts.size - pack.facts.tail
    rows = []
    for _ in range(at.count("I", len(table) // 92, 92)):
        offset, length, kind, role, envelope = at.u32(), at.u32(), at.u8(), at.u8(), at.u16()
        c, r = at.u16(), at.u16()
        nonce, hashed = at.take(24), at.take(16)
        need(c >= 1 and c * 36 + r * 54 <= at.left(), f"{at.what}: a row with {c} chunks and {r} references")
        need(40 <= offset and offset + length <= behind, f"{at.what}: a blob lies outside of the blobs")
        need(16 <= length <= BLOB_LIMIT, f"{at.what}: a blob of {length} bytes")
        if role not in (CONTENT, STRUCTURE):
            raise Unsupported(f"{at.what}: chunks of role {role}")
        if r > 1:
            raise Unsupported(f"{at.what}: a blob with {r} references")
        named = envelope < len(pack.envelopes) if role == CONTENT else envelope == NO_ENVELOPE
        need(named, f"{at.what}: envelope {envelope} of role {role}")
        need(role == CONTENT or (c == 1 and r == 0), f"{at.what}: structure with {c} chunks, {r} references")
        chunks = [(at.take(32), at.u32()) for _ in range(c)]
        need(sum(length for _, length in chunks) <= frames.PLAIN_LIMIT, f"{at.what}: a blob too long to be decoded")
        reference = (at.take(32), Place(at.take(16), at.u32(), at.u16())) if r else None
        rows.append(Row(offset, length, kind, role, envelope, nonce, hashed, chunks, reference))
    need(not at.take(at.left()).strip(b"\x00"), f"{at.what}: its padding isn't zero")
    return rows


class Chunks:
    """The chunks of one snapshot: of the packs that its COMMIT names."""

    def __init__(self, store, root, packs):
        """`packs`: pack id to (session id, Facts)."""
        self.store, self.root, self.named = store, root, packs
        self.packs, self.cache, self.cached = {}, OrderedDict(), 0
        self.elsewhere = None

    def pack(self, pack_id):
        if pack_id not in self.packs:
            need(pack_id in self.named, f"pack {pack_id.hex()} is not in the set of the snapshot's COMMIT")
            session, facts = self.named[pack_id]
            self.packs[pack_id] = Pack(self.store, self.root, session, pack_id, facts)
        return self.packs[pack_id]

    def content(self, start, place, length):
        """A chunk of content, by the start of its id, or all of it, and its plain length."""
        data = self._chunk(CONTENT, start, place)
        need(len(data) == length, f"chunk {start.hex()}: {len(data)} bytes instead of {length}")
        return data

    def node(self, start, place):
        return self._chunk(STRUCTURE, start, place)

    def _chunk(self, role, start, place, patches=True):
        """A place is a hint: other places of the same id serve as well."""
        first = None
        try:
            return self._at(role, start, place, patches)
        except Refused as error:
            first = error
        for other in self._places(role, start):
            try:
                return self._at(role, start, other, patches)
            except Refused:
                pass
        raise first

    def _at(self, role, start, place, patches):
        pack = self.pack(place.pack)
        row, what = pack.row(place.blob), f"{pack.name}: blob {place.blob}"
        need(row.role == role, f"{what}: its role is {row.role}")
        need(place.position < len(row.chunks), f"{what}: it has no chunk {place.position}")
        need(patches or not row.reference, f"{what}: a reference that is itself a patch")
        need(row.chunks[place.position][0].startswith(start), f"{what}: chunk {start.hex()} isn't there")
        before = sum(length for _, length in row.chunks[: place.position])
        return self.blob(place.pack, place.blob)[before : before + row.chunks[place.position][1]]

    def blob(self, pack_id, number):
        key = (pack_id, number)
        if key in self.cache:
            self.cache.move_to_end(key)
            return self.cache[key]
        plain = self.pack(pack_id).blob(number, lambda chunk, place: self._chunk(CONTENT, chunk, place, patches=False))
        self.cache[key] = plain
        self.cached += len(plain)
        while self.cached > CACHE and len(self.cache) > 1:
            self.cached -= len(self.cache.popitem(last=False)[1])
        return plain

    def _places(self, role, start):
        """All places of the snapshot's packs where this chunk lies: looked for only when its own doesn't serve."""
        if self.elsewhere is None:
            self.elsewhere = {}
            for pack_id in self.named:
                try:
                    rows = self.pack(pack_id).rows
                except Refused:
                    continue
                for number, row in enumerate(rows):
                    for position, (chunk, _) in enumerate(row.chunks):
                        self.elsewhere.setdefault((row.role, chunk[:16]), []).append(Place(pack_id, number, position))
        return self.elsewhere.get((role, start[:16]), [])
