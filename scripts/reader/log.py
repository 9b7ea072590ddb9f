"""The log as it lies in the store: which entries are signed, chained, well-formed; and the fold of those that are valid."""

import re

from . import entries
from .entries import Ignored, Malformed, Unknown
from .fold import Fold, Void
from .packs import Facts
from .primitives import Cursor, Refused, digest, need, subkey, u64, unseal, verifies

ENTRY_LIMIT, BODY_LIMIT, LIST_LIMIT = 16_603, 92 + 16 + (64 << 20), 64 << 20
PLAIN_LIMIT = 16_383


class Bodyless(Refused):
    """Neither valid nor void: what its body says isn't known."""


class Taken:
    """An entry taken apart; nothing of it is checked but its form."""

    def __init__(self, data, repository, number):
        what = f"log/{number}"
        need(len(data) <= ENTRY_LIMIT, f"{what}: too long")
        at = Cursor(data, what)
        need(at.take(8) == b"PGCNLOG\x01", f"{what}: its magic is wrong")
        need(at.take(16) == repository, f"{what}: of another repository")
        need(at.u64() == number, f"{what}: it bears another number")
        self.before, self.signer, self.salt, self.nonce = at.take(32), at.take(16), at.take(32), at.take(24)
        self.sealed = at.take(at.count("I", ENTRY_LIMIT, 1))
        need(len(self.sealed) >= 16, f"{what}: its body is too short")
        self.signed = data[: at.at]
        self.signature = at.take(64)
        at.end()


class Judged:
    """What became of a number: valid, void, ignored, unknown, bodyless or damaged, and why; with what is known of it."""

    def __init__(self, number, hashed):
        self.number, self.hash = number, hashed
        self.verdict, self.why = None, ""
        self.at = self.kind = self.fields = self.lists = self.signer = None


class Log:
    """Reads `log/` from its beginning to its end."""

    def __init__(self, store, root):
        self.store, self.root = store, root
        self.fold = Fold(root.owner_public)
        self.entries, self.alarms = [], []
        self.damaged = self.stopped = False
        self._read()

    def _read(self):
        found = (re.fullmatch("log/(0|[1-9][0-9]{0,19})", name) for name in self.store.list("log"))
        numbers = sorted(int(match[1]) for match in found if match and int(match[1]) < 1 << 64)
        need(numbers, "there is no log: an interrupted init, or no repository")
        need(numbers[0] == 0, "log/0 is not there")
        # A hole of any width is damage at its numbers; one entry of each run of missing numbers says so.
        objects = {}
        previous = None
        for number in numbers:
            objects[number] = self.store.find(f"log/{number}", ENTRY_LIMIT)
            if previous is not None and number != previous + 1:
                objects[previous + 1] = None
            previous = number
        self.objects, self.taken = objects, {}
        for number in sorted(objects):
            self.entries.append(self._judge(number))
            if number == 0:
                first = self.entries[0]
                need(first.verdict == "valid", f"log/0: this is not the owner's repository: {first.verdict}: {first.why}")
        self.objects = self.taken = None

    def hash(self, number):
        """Of all bytes; of an object that is too long, of the first byte more than an entry has."""
        data = self.objects.get(number)
        return digest(data) if data is not None else None

    def _signed(self, number):
        """The entry, if it is signed by a key that the entries before it enrolled."""
        data = self.objects.get(number)
        if data is None:
            return None
        if number not in self.taken:
            try:
                self.taken[number] = Taken(data, self.root.repository, number)
            except Refused:
                self.taken[number] = None
        entry = self.taken[number]
        if entry is None:
            return None
        public = self.fold.public_of(entry.signer.hex())
        if number == 0 and entry.signer != self.root.owner_id:
            return None
        return entry if public and verifies(public, b"log entry", entry.signed, entry.signature) else None

    def _judge(self, number):
        judged = Judged(number, self.hash(number))
        entry = self._signed(number)
        if entry is None:
            self._unsigned(number, judged)
        else:
            judged.signer = entry.signer.hex()
            self._apply(number, entry, judged)
        if judged.verdict not in ("valid", "ignored"):
            self.alarms.append(f"log/{number}: {judged.verdict}: {judged.why}")
        return judged

    def _unsigned(self, number, judged):
        there, behind = self.objects.get(number) is not None, self._signed(number + 1)
        if not there:
            judged.verdict, judged.why = "damaged", "not there, and later entries are"
        elif number + 1 not in self.objects:
            judged.verdict, judged.why = "void", "no key that was enrolled signed it"
        elif behind is not None and behind.before == judged.hash:
            judged.verdict, judged.why = "void", "no key that was enrolled signed it, and the next entry says the same"
        else:
            judged.verdict, judged.why = "damaged", "not signed, and the next entry is not signed or was made behind another one"
        self.damaged |= judged.verdict == "damaged"

    def _apply(self, number, entry, judged):
        try:
            if number == 0:
                chained = entry.before == bytes(32)
            else:
                before = self.entries[-1]
                known = before.number == number - 1 and before.verdict != "damaged"
                chained = not known or entry.before == before.hash
            if not chained:
                raise Void("it names another entry before it")
            signer = self.fold.keys.get(judged.signer)
            if signer and signer.revoked is not None:
                raise Void("its key was revoked")
            judged.at, judged.kind, judged.fields = entries.decode(self._open(number, entry))
            self._take_in(number, judged)
            judged.verdict = "valid"
        except Ignored as error:
            judged.verdict, judged.why = "ignored", str(error)
        except Unknown as error:
            judged.verdict, judged.why = "unknown", str(error)
            self.stopped = True
        except Bodyless as error:
            judged.verdict, judged.why = "bodyless", str(error)
        except Refused as error:
            judged.verdict, judged.why = "void", str(error)

    def _open(self, number, entry):
        associated = b"pgcairn 1 log entry\x00" + self.root.repository + u64(number)
        plain = unseal(subkey(self.root.table_key, entry.salt), entry.nonce, entry.sealed, associated, "its body")
        if len(plain) > PLAIN_LIMIT:
            raise Malformed("its body is too long")
        return plain

    def _take_in(self, number, judged):
        kind, fields = judged.kind, judged.fields
        if number == 0 and kind != "KEY":
            raise Void("the first entry is no KEY")
        name = entries.needs(kind)
        if name:
            judged.lists = self._held(number, judged, fields[name], lambda value: entries.decode_list(kind, fields, value))
        for change in fields["keys"] if kind == "KEY" else []:
            if change["op"] == "wal-end":
                change["ends"] = self._held(number, judged, change["ends"], entries.decode_ends)
        self.fold.apply(number, judged.hash[:16].hex(), judged.signer, kind, fields, judged.lists)

    def _held(self, number, judged, held, decode):
        where, what = held
        # Whether its key has the right is asked first: a missing body counts only of one that has.
        self.fold.check_right(judged.signer, judged.kind, judged.fields)
        value = what if where == "inline" else self._body(number, what)
        try:
            return decode(value)
        except Unknown as error:
            if where == "inline":
                raise
            raise Void(f"body/{what} holds no list of its kind: {error}") from error

    def _body(self, number, name):
        data = self.store.find(f"body/{name}", BODY_LIMIT)
        if data is None or digest(data).hex() != name:
            raise Bodyless(f"body/{name} is {'not there' if data is None else 'damaged'}")
        at = Cursor(data, f"body/{name}")
        need(at.take(8) == b"PGCNBDY\x01", f"body/{name}: its magic is wrong")
        need(at.take(16) == self.root.repository and at.u64() == number, f"body/{name}: another entry's")
        salt, nonce = at.take(32), at.take(24)
        sealed = at.take(at.count("I", BODY_LIMIT, 1))
        at.end()
        associated = b"pgcairn 1 log body\x00" + self.root.repository + u64(number)
        plain = unseal(subkey(self.root.table_key, salt), nonce, sealed, associated, f"body/{name}")
        if len(plain) > LIST_LIMIT:
            raise Malformed(f"body/{name}: its list is too long")
        return entries.parse(plain)

    # --- what is asked of it ---

    def snapshot(self, name):
        """A live COMMIT by its snapshot's id, its number, or `latest`; of several the newest."""
        live = sorted(self.fold.live.values(), key=lambda s: s.number)
        found = [s for s in live if name in ("latest", s.summary["id"], str(s.number))]
        need(found, f"there is no live snapshot {name}")
        return found[-1]

    def packs_of(self, snapshot):
        """Pack id to (session, facts) of all packs that a COMMIT names."""
        packs = {}
        for session, pack in snapshot.packs:
            listed = self.fold.sessions[session].packs[pack]
            facts = Facts(bytes.fromhex(listed["hash"]), listed["size"], listed["tail"])
            packs[bytes.fromhex(pack)] = (bytes.fromhex(session), facts)
        return packs
