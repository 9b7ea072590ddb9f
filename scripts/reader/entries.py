"""Canonical JSON, and the kinds of entries."""

import json
import re

from .primitives import Refused, is_key

LARGEST = 2**53 - 1


class Malformed(Refused):
    """Not well-formed: makes an entry void."""


class Unknown(Refused):
    """Perhaps of a newer program: an unknown must-understand entry."""


def fits(condition, why):
    if not condition:
        raise Malformed(why)


def known(condition, why):
    if not condition:
        raise Unknown(why)


# --- canonical JSON ---


def parse(data):
    """The value, if these bytes are its one spelling."""

    def pairs(items):
        value = dict(items)
        fits(len(value) == len(items), "a key stands twice")
        return value

    def number(text):
        fits(len(text) <= 16, "a number beyond 2^53")
        return int(text)

    def no(text):
        raise Malformed(f"{text} in the log")

    try:
        value = json.loads(bytes(data).decode(), object_pairs_hook=pairs, parse_int=number, parse_float=no, parse_constant=no)
        same = encode(value) == bytes(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not canonical JSON: {error}") from error
    fits(same, "another spelling than the canonical one")
    return value


def encode(value, level=0):
    if value is True or value is False:
        return b"true" if value else b"false"
    if isinstance(value, int):
        fits(0 <= value <= LARGEST, "a number beyond 2^53")
        return str(value).encode()
    if isinstance(value, str):
        return ('"' + re.sub(r'["\\\x00-\x1f]', spell, value) + '"').encode()
    fits(value is not None and level < 32, "null, or too many levels")
    if isinstance(value, list):
        return b"[" + b",".join(encode(v, level + 1) for v in value) + b"]"
    # Python compares strings by code points, which is the order of their UTF-8 bytes.
    return b"{" + b",".join(encode(k) + b":" + encode(value[k], level + 1) for k in sorted(value)) + b"}"


def spell(match):
    character = match[0]
    return "\\" + character if character in '"\\' else f"\\u{ord(character):04x}"


# --- values: each takes a JSON value and gives it back, checked ---


def text(value):
    known(isinstance(value, str), f"{value!r} is no text")
    return value


def number(value):
    known(isinstance(value, int) and not isinstance(value, bool), f"{value!r} is no number")
    return value


def boolean(value):
    known(isinstance(value, bool), f"{value!r} is neither true nor false")
    return value


def spelt(pattern, what):
    compiled = re.compile(pattern)

    def of(value):
        fits(compiled.fullmatch(text(value)), f"{value!r} is no {what}")
        return value

    return of


one_id = spelt("[0-9a-f]{32}", "id")
one_hash = spelt("[0-9a-f]{64}", "hash")
word = spelt("[!-~]{1,64}", "word")
cluster_name = spelt("[a-z0-9_-]{1,64}", "name of a cluster")
lock_name = spelt("(?:[0-9a-f]{2}){1,32}", "name of a lock")


def decimal(value):
    fits(re.fullmatch("0|[1-9][0-9]{0,19}", text(value)) and int(value) < 1 << 64, f"{value!r} is no 64-bit number")
    return value


def lsn(value):
    match = re.fullmatch("(0|[1-9A-F][0-9A-F]{0,7})/(0|[1-9A-F][0-9A-F]{0,7})", text(value))
    fits(match, f"{value!r} is no LSN")
    return int(match[1], 16) << 32 | int(match[2], 16)


def timeline(value):
    fits(1 <= number(value) < 1 << 32, f"{value} is no timeline")
    return value


def u(bits):
    def of(value):
        fits(number(value) < 1 << bits, f"{value} has more than {bits} bits")
        return value

    return of


class Segment:
    """A segment's name: a timeline, and a place that only a segment size makes a number."""

    def __init__(self, name):
        fits(re.fullmatch("[0-9A-F]{24}", text(name)), f"{name!r} is no segment")
        self.name, self.timeline = name, timeline(int(name[:8], 16))
        self.high, self.low = int(name[8:16], 16), int(name[16:], 16)

    def number(self, size):
        per_file = (1 << 32) // size
        fits(self.low < per_file, f"{self.name} is no segment of {size} bytes")
        return self.high * per_file + self.low


def segment_size(value):
    fits(number(value).bit_count() == 1 and 1 << 20 <= value <= 1 << 30, f"{value} is no size of segments")
    return value


def plain_text(least, most):
    def of(value):
        size = len(text(value).encode())
        fits(least <= size <= most, f"a text of {size} bytes")
        fits(not re.search("[\x00-\x1f\x7f-\x9f]", value), "control characters in a text")
        return value

    return of


reason = plain_text(0, 2048)


def public_key(value):
    fits(is_key(bytes.fromhex(one_hash(value))), f"{value} is no public key in canonical encoding")
    return bytes.fromhex(value)


def array(of):
    def of_all(value):
        known(isinstance(value, list), f"{value!r} is no array")
        return [of(v) for v in value]

    return of_all


def sorted_set(of, order=None):
    def of_all(value):
        items = array(of)(value)
        keys = [order.index(v) if order else v for v in value]
        fits(items and all(a < b for a, b in zip(keys, keys[1:])), "a set that is empty, unsorted or says something twice")
        return items

    return of_all


def mapping(key, of, least=1):
    def of_all(value):
        known(isinstance(value, dict), f"{value!r} is no map")
        fits(len(value) >= least, "an empty map")
        return {key(k): of(v) for k, v in value.items()}

    return of_all


def record(**fields):
    """An object with these fields and no others. A tuple is an optional field."""

    def of_all(value):
        known(isinstance(value, dict), f"{value!r} is no object")
        names = {name.removesuffix("_"): of for name, of in fields.items()}
        known(set(value) <= set(names), f"unknown fields {sorted(set(value) - set(names))}")
        result = {}
        for name, of in names.items():
            if name in value:
                result[name] = (of[0] if isinstance(of, tuple) else of)(value[name])
            else:
                known(isinstance(of, tuple), f"the field {name} is missing")
                result[name] = None
        return result

    return of_all


def one_of(*words):
    def of(value):
        known(text(value) in words, f"{value!r} is unknown")
        return value

    return of


def only_true(value):
    fits(boolean(value), "a false that should be left out")
    return True


# --- kinds ---

count = number
pack_facts = record(hash=one_hash, size=count, tail=count)
new_packs = mapping(one_id, pack_facts)
pack_sets = mapping(one_id, sorted_set(one_id))
ancestry = array(record(timeline=timeline, lsn=lsn))
position = record(timeline=timeline, lsn=lsn)


def some(of):
    """Where what is empty is left out."""

    def of_all(value):
        items = of(value)
        fits(items, "an empty list that should be left out")
        return items

    return of_all


def run(value):
    found = record(first=Segment, last=Segment, from_time=(count,), to_time=(count,))(value)
    fits(found["first"].timeline == found["last"].timeline and found["first"].name <= found["last"].name, "a run that is none")
    return found


LISTS = {
    "PROGRESS": new_packs,
    "COMMIT": record(new=(new_packs,), set=pack_sets, less=(some(pack_sets),), ledger=(some(array(run)),)),
    "CONDEMN": pack_sets,
    "SWEEP": pack_sets,
    "AUDIT": pack_sets,
    "EXPIRE-WAL": mapping(Segment, sorted_set(one_hash)),
    "DAMAGED": mapping(one_id, mapping(one_id, lambda v: v if v == "all" else record(blobs=sorted_set(u(32)))(v))),
}


def held(value):
    """The value where it is inline (checked later, with what else the entry says), or the name of its body."""
    known(isinstance(value, dict) and len(value) == 1, "a list that is neither here nor in a body")
    (where, what), = value.items()
    known(where in ("inline", "body"), f"a list in {where!r}")
    return ("inline", what) if where == "inline" else ("body", one_hash(what))


label = mapping(plain_text(1, 128), plain_text(0, 1024))


def wal_of(value):
    wal = record(
        timeline=timeline,
        start_lsn=lsn,
        stop_lsn=lsn,
        segment_size=segment_size,
        ranges=array(record(timeline=timeline, first=lsn, last=lsn)),
        ancestry=(some(ancestry),),
        mode=one_of("archive", "copy"),
    )(value)
    ranges = wal["ranges"]
    fits(ranges and all(r["first"] < r["last"] for r in ranges), "ranges of WAL without a byte")
    starts = ranges[0]["timeline"] == wal["timeline"] and ranges[0]["first"] == wal["start_lsn"]
    fits(starts and ranges[-1]["last"] == wal["stop_lsn"], "ranges of WAL that aren't from the start to the stop")
    return wal


summary = record(
    id=word,
    type=word,
    cluster=cluster_name,
    system_identifier=decimal,
    started_at=count,
    finished_at=count,
    wal=(wal_of,),
    pg_version=word,
    cluster_bytes=count,
    read_bytes=count,
    changed_bytes=count,
    new_bytes=count,
    files=count,
    damaged_pages=count,
    parent=(word,),
    labels=(label,),
)

ends = record(cluster=cluster_name, system_identifier=decimal, last=Segment)
CHANGES = {
    "owner": record(op=text, public=public_key),
    "seal": record(op=text, algorithm=u(32), public=spelt("(?:[0-9a-f]{2}){1,4096}", "key")),
    "host": record(
        op=text,
        public=public_key,
        name=plain_text(1, 256),
        roles=sorted_set(one_of("writer", "reader", "maintainer"), order=["writer", "reader", "maintainer"]),
        clusters=(sorted_set(cluster_name),),
    ),
    "revoke": record(op=text, key=one_id),
    "wal-end": record(op=text, key=one_id, ends=held),
    "remove-slot": record(op=text, slot=one_id),
}


def change(value):
    known(isinstance(value, dict) and value.get("op") in CHANGES, "a change of keys of unknown op")
    return CHANGES[value["op"]](value)


NOTES = {
    "gap": dict(cluster=cluster_name, system_identifier=decimal, from_=Segment, to=Segment, reason=reason),
    "fork": dict(
        cluster=cluster_name,
        system_identifier=decimal,
        timeline=timeline,
        state=one_of("announced", "accepted"),
        reason=reason,
        begins=(record(parent=timeline, from_=lsn, to=lsn, key=(one_id,)),),
    ),
    "hold": dict(snapshot=word, reason=reason),
    "unhold": dict(snapshot=word),
    "evidence": dict(snapshot=word, what=word, ok=boolean, detail=text),
}

KINDS = {
    "KEY": dict(keys=some(array(change))),
    "BEGIN": dict(
        purpose=word,
        cluster=(cluster_name,),
        system_identifier=(decimal,),
        machine=word,
        lock=(lock_name,),
        parent=(count,),
        floor=(position,),
        reads=(count,),
    ),
    "PROGRESS": dict(session=one_id, packs=held),
    "COMMIT": dict(
        session=one_id,
        summary=summary,
        root=record(chunk=one_hash, place=record(pack=one_id, blob=u(32), position=u(32)), digest=one_id),
        lists=held,
        replaces=(count,),
    ),
    "ABORT": dict(session=one_id),
    "FORGET": dict(commit=count, window=(only_true,)),
    "CONDEMN": dict(packs=held),
    "SWEEP": dict(packs=held),
    "AUDIT": dict(packs=held),
    "EXPIRE-WAL": dict(
        cluster=cluster_name,
        system_identifier=decimal,
        timeline=timeline,
        segment_size=segment_size,
        ancestry=(some(ancestry),),
        objects=held,
    ),
    "DAMAGED": dict(places=held),
}
HELD = {"PROGRESS": "packs", "COMMIT": "lists", "EXPIRE-WAL": "objects", "DAMAGED": "places"}


class Ignored(Refused):
    """Of an unknown kind, and says of itself that it need not be understood."""


def decode(body):
    """Of an entry's plain body: when, its kind, its fields. A held list is still as it lies."""
    top = parse(body)
    known(isinstance(top, dict) and set(top) == {"at", "entry"} and isinstance(top["entry"], dict), "no entry")
    at, entry = number(top["at"]), dict(top["entry"])
    kind = text(entry.pop("kind", None))
    if kind not in KINDS and kind != "NOTE":
        if entry.get("must") is False:
            raise Ignored(f"of the unknown kind {kind!r}")
        raise Unknown(f"of the unknown kind {kind!r}")
    if kind == "NOTE":
        note = entry.get("note")
        known(isinstance(note, str) and note in NOTES, f"a note of the unknown kind {note!r}")
        fields = record(note=text, **NOTES[note])(entry)
    else:
        fields = record(**KINDS[kind])(entry)
    check(kind, fields)
    return at, kind, fields


def check(kind, fields):
    """What the tables say of several fields together."""
    if kind == "BEGIN":
        fits((fields["cluster"] is None) == (fields["system_identifier"] is None), "a cluster without its identifier, or the reverse")
        fits(fields["purpose"] != "backup" or fields["cluster"], "a backup of no cluster")
        fits(not fields["floor"] or (fields["cluster"] and fields["reads"] is None), "a floor without a cluster, or with what is read")
    elif kind == "KEY":
        fits(sum(one["op"] == "wal-end" for one in fields["keys"]) <= 1, "two lists of ends of WAL")
    elif kind == "NOTE" and fields["note"] == "gap":
        fits(fields["from"].timeline == fields["to"].timeline, "a gap across timelines")
        fits(fields["from"].name <= fields["to"].name, "a gap that ends before it begins")
    elif kind == "NOTE" and fields["note"] == "fork":
        begins = fields["begins"]
        fits((fields["state"] == "announced") == (begins is not None), "a beginning that isn't announced, or the reverse")
        within = not begins or (begins["parent"] < fields["timeline"] and begins["from"] <= begins["to"])
        fits(within, "a timeline that begins before the one that it leaves, or at no LSN")
    elif kind == "NOTE" and fields["note"] == "evidence":
        fits(len(fields["detail"].encode()) <= 8192, "a detail of more than 8192 bytes")


def decode_list(kind, fields, value):
    """A held list, checked with what else its entry says."""
    found = LISTS[kind](value)
    if kind == "COMMIT":
        named = [pack for packs in found["set"].values() for pack in packs]
        fits(len(set(named)) == len(named), "a pack id stands twice in the set")
        replaces = fields["replaces"] is not None
        fits(replaces or found["less"] is None, "packs are left out of a set that isn't another's")
        # Where another is replaced, it may be in that one's set: R5.
        fits(replaces or fields["root"]["place"]["pack"] in named, "the root's pack is not in the set")
        own = found["set"].get(fields["session"], [])
        fits(all(pack in own for pack in found["new"] or {}), "a new pack is not in the set")
    elif kind == "EXPIRE-WAL":
        for segment in found:
            fits(segment.timeline == fields["timeline"], "a segment of another timeline")
            segment.number(fields["segment_size"])
    return found


def decode_ends(value):
    """The held list of a wal-end."""
    found = array(ends)(value)
    named = [(e["cluster"], e["system_identifier"], e["last"].timeline) for e in found]
    fits(len(set(named)) == len(named), "two ends of WAL of one timeline")
    return found


def needs(kind):
    return HELD.get(kind, "packs" if kind in LISTS else None)
