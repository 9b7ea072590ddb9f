"""Reads the vectors that the specification names (`tests/format`, `tests/fixtures`), and says what differs."""

import io
import json
import os

from . import entries, frames, keys, tree, wal
from .fold import Cluster, Fold, From, Void, Window
from .log import Log
from .packs import STRUCTURE, Chunks, Facts, Place
from .primitives import Refused, derive, digest, is_key, key_id, need, subkey, unseal, verifies
from .store import Store

# In the recorded logs WAL is counted in segments: a position is a segment, of one byte, and ranges name their last one.
SIZE = 1


def check_all(tests):
    """Yields the name of each group of vectors that was read, and how many there were."""
    checks = (keys_and_seals, slots, frames_of_all_kinds, packs, nodes, wal_objects, logs, bodies_of_all_kinds, recorded_logs, replaced_commits)
    for check in checks:
        yield check.__name__, check(tests)


def load(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return json.load(file)


def same(what, got, expected):
    need(got == expected, f"{what}: {got!r} instead of {expected!r}")


def refuses(what, call, *arguments):
    try:
        call(*arguments)
    except Refused:
        return
    raise Refused(f"{what}: it was accepted")


def root_of(tests):
    root = load(tests, "format/vectors-1/keys.json")["root"]
    fields = ("repository", "domain", "owner_seed", "content_secret", "id_key", "table_key", "owner_public", "content_public")
    return keys.Root(b"".join(bytes.fromhex(root[field]) for field in fields))


def keys_and_seals(tests):
    vectors, root = load(tests, "format/vectors-1/keys.json"), root_of(tests)
    id_key = bytes.fromhex(vectors["root"]["id_key"])
    derived = vectors["derived"]
    for name, context in (("content", "id content"), ("structure", "id structure"), ("wal", "id wal")):
        same(name, derive(id_key, f"pgcairn 1 {context}").hex(), derived[f"{name}_id_key"])
    same("cluster names", root.cluster_names.hex(), derived["cluster_names_key"])
    same("owner's key id", root.owner_id.hex(), vectors["root"]["owner_key_id"])
    same("content key id", key_id(root.content_public).hex(), vectors["root"]["content_key_id"])
    for group, make in (
        ("content_ids", lambda plain: root.chunk_id(1, plain)),
        ("structure_ids", lambda plain: root.chunk_id(2, plain)),
        ("wal_content_ids", root.wal_content_id),
    ):
        for one in vectors[group]:
            same(group, make(bytes.fromhex(one["plain"])).hex(), one["id"])
    for one in vectors["cluster_keys"]:
        same("cluster key", root.cluster_key(one["name"]).hex(), one["key"])
    for one in vectors["subkeys"]:
        same("subkey", subkey(bytes.fromhex(one["key"]), bytes.fromhex(one["salt"])).hex(), one["subkey"])
    sealed = {name: bytes.fromhex(value) for name, value in vectors["sealed"].items()}
    same("sealed", unseal(sealed["key"], sealed["nonce"], sealed["sealed"], sealed["associated"], "sealed"), sealed["plain"])
    envelope = bytes.fromhex(vectors["envelope"]["envelope"])
    same("envelope", root.open_envelope(envelope, "envelope").hex(), vectors["envelope"]["key"])
    signed = vectors["signature"]
    signature, context = bytes.fromhex(signed["signature"]), signed["context"].encode()
    signed_by_owner = verifies(root.owner_public, context, bytes.fromhex(signed["bytes"]), signature)
    signed_by_other = verifies(root.content_public, context, bytes.fromhex(signed["bytes"]), signature)
    same("signature", (signed_by_owner, signed_by_other), (True, False))
    same("format object", keys.Format(bytes.fromhex(vectors["format_object"])).domain, root.domain)
    small = ["00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"]
    same("keys", [is_key(bytes.fromhex(k)) for k in [root.owner_public.hex(), "ff" * 32, *small]], [True, *[False] * 5])
    return len(vectors)


def slots(tests):
    format_object = keys.Format(bytes.fromhex(load(tests, "format/vectors-1/keys.json")["format_object"]))
    all_slots = load(tests, "format/vectors-1/slots.json")
    for one in all_slots:
        if one["kind"] == "passphrase":
            secret, wrong = keys.Secret.passphrase(one["passphrase"].encode() + b"\n"), keys.Secret.passphrase(b"wrong")
        elif one["kind"] == "key file":
            secret, wrong = keys.Secret.key_file(one["key_file"].encode()), keys.Secret(keys.KEY_FILE, bytes(32))
        elif one["kind"] == "command":
            key_file, wrapped = one["key_file"].encode(), bytes.fromhex(one["wrapped"])
            secret = keys.Secret.command(lambda given, key_file=key_file, wrapped=wrapped: key_file if given == wrapped else b"")
            wrong = keys.Secret.command(lambda _: b"pgcairn-key-1:" + b"0" * 64)
        elif one["kind"] == "export":
            text = one["text"].encode()
            secrets = [secret.hex() for secret in keys.Secret.key_file(text).value.content_secrets]
            same("export", secrets, one["content_secrets"])
            refuses("a mistyped export", keys.Secret.key_file, text.replace(b"4", b"5"))
            continue
        else:
            secret, wrong = keys.Secret(keys.CLEAR), keys.Secret(keys.KEY_FILE, bytes(32))
        slot = bytes.fromhex(one["slot"])
        root = keys.open_slot(slot, secret, format_object)
        same(one["kind"], root and root.table_key, root_of(tests).table_key)
        same(one["kind"], keys.open_slot(slot, wrong, format_object), None)
        contents = one.get("content_secrets", [root_of(tests).content_secrets[-1].hex()])
        same(one["kind"], [secret.hex() for secret in root.content_secrets], contents)
        refuses("a slot that is too long", keys.open_slot, slot + b"\0", secret, format_object)
        if one["kind"] == "passphrase":
            below = slot[:12] + bytes(4) + slot[16:]
            refuses("costs below the bounds", keys.open_slot, below, secret, format_object)
    return len(all_slots)


def frames_of_all_kinds(tests):
    good, bad = load(tests, "fixtures/codec/frames.json"), load(tests, "fixtures/codec/refused.json")

    def reference(one):
        return None if one["reference"] is None else bytes.fromhex(one["reference"])

    for one in good:
        plain = bytes.fromhex(one["plain"])
        same(one["name"], frames.decode(one["kind"], bytes.fromhex(one["frame"]), len(plain), reference(one)), plain)
    for one in bad:
        refuses(one["name"], frames.decode, one["kind"], bytes.fromhex(one["frame"]), one["plain_len"], reference(one))
    return len(good) + len(bad)


class Memory:
    """A store of some objects."""

    def __init__(self, objects):
        self.objects = objects

    def open(self, name):
        data = self.objects.get(name)
        return None if data is None else (io.BytesIO(data), len(data))


def packs(tests):
    vector, root = load(tests, "format/vectors-1/pack.json"), root_of(tests)
    data, pack_id, session = (bytes.fromhex(h) for h in (vector["pack"], vector["id"], "ab" * 16))
    facts = Facts(bytes.fromhex(vector["hash"]), len(data), vector["tail"])
    store = Memory({f"pack/{session.hex()}/{vector['id']}-{vector['hash']}": data})
    chunks = Chunks(store, root, {pack_id: (session, facts)})
    pack = chunks.pack(pack_id)
    pack.check_whole()
    for row, said in zip(pack.rows, vector["rows"], strict=True):
        names = [row.offset, row.length, row.kind, row.role, row.nonce.hex(), row.hash.hex()]
        same("row", names, [said[name] for name in ("offset", "len", "kind", "role", "nonce", "hash")])
        same("chunks", [[chunk.hex(), length] for chunk, length in row.chunks], said["chunks"])
    for one in vector["chunks"]:
        row, plain = pack.rows[one["blob"]], bytes.fromhex(one["plain"])
        start, place = row.chunks[one["position"]][0][:16], Place(pack_id, one["blob"], one["position"])
        read = chunks.node(start, place) if row.role == STRUCTURE else chunks.content(start, place, len(plain))
        same("chunk", read, plain)
        # A place that doesn't serve is only a hint.
        same("chunk", chunks._chunk(row.role, start, Place(pack_id, 99, 0)), plain)
    for at in range(len(data)):
        refuses(f"pack with byte {at} changed", all_of, root, session, pack_id, facts, store, data, at)
    return len(vector["chunks"])


def all_of(root, session, pack_id, facts, store, data, at):
    changed = Memory({name: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for name in store.objects})
    chunks = Chunks(changed, root, {pack_id: (session, facts)})
    chunks.pack(pack_id).check_whole()


def nodes(tests):
    vectors, root = load(tests, "format/vectors-1/nodes.json"), root_of(tests)
    kinds = {"snapshot": 1, "branch": 2, "part": 3, "stream": 4, "leaf": 5, "needs": 6}
    for one in vectors["nodes"]:
        data, name = bytes.fromhex(one["bytes"]), one["name"]
        same(name, root.chunk_id(STRUCTURE, data).hex(), one["id"])
        hashed = bytes.fromhex(one["digest"])
        read_whole(kinds[name], data, hashed)
        refuses(f"{name}, longer", read_whole, kinds[name], data + b"\x00", hashed)
        refuses(f"{name}, cut", read_whole, kinds[name], data[:-1], hashed)
        if name != "needs":
            refuses(f"{name}, another digest", read_whole, kinds[name], data, bytes(16))
    data, said = bytes.fromhex(vectors["attributes"]["bytes"]), vectors["attributes"]["files"]
    read = tree.read_attributes(data, len(said), "attributes")
    same("attributes", [(a.name.hex(), a.folder, a.mtime) for a in read], [(f["name"], f["folder"], f["mtime"]) for f in said])
    joint = bytes.fromhex(vectors["joint"]["chunk"])
    for offset, plain in vectors["joint"]["files"]:
        same("joint chunk", joint[offset:].startswith(bytes.fromhex(plain)), True)
    return len(vectors["nodes"])


def read_whole(kind, data, hashed):
    """Any node by itself, by the functions that read a tree."""

    class One:
        def node(self, _start, _place):
            return data

    sub = tree.Sub(None, b"", None, hashed)
    if kind == tree.SNAPSHOT:
        tree.read_root(One(), b"", None, hashed, "vector")
    elif kind == tree.BRANCH:
        tree.read_branch(One(), sub, "vector")
    elif kind == tree.PART:
        tree.read_part(One(), sub, "vector")
    elif kind == tree.STREAM:
        length = sum(c.length for c in tree.read_stream(One(), sub, data[4 + 16 * data[2]], "vector"))
        need(length > 0, "a stream of nothing")
    elif kind == tree.LEAF:
        tree.read_leaf(One(), sub, "vector")
    else:
        tree.read_needs(One(), b"", None, "vector")


def wal_objects(tests):
    root = root_of(tests)
    for name in ("wal.json", "segment.json"):
        vector = load(tests, "format/vectors-1", name)
        data, cluster = bytes.fromhex(vector["object"]), Cluster(vector["cluster"], vector["system_identifier"])
        place = f"wal/{root.cluster_key(cluster.name).hex()}/{cluster.system_identifier}/{wal.folder_of(vector['name'])}/{vector['name']}"
        same("its place", place, vector["object_name"] if "object_name" in vector else vector["objects"][0])
        store = Memory({place: data})
        front = wal.Front(store, root, place)
        front.opens(vector["name"])
        need(front.is_signed(bytes.fromhex(vector["signer_public"]), cluster, vector["name"]), f"{name}: its signature")
        need(not front.is_signed(bytes.fromhex(vector["signer_public"]), cluster, vector["name"] + ".1"), f"{name}: signed for all names")
        plain = front.file(store)
        same("content", (front.content.hex(), front.facts), (vector["content"], vector["facts"]))
        if "plain" in vector:
            same(name, plain.hex(), vector["plain"])
            same("head", [front.entry, front.entry_hash.hex()], vector["head"])
        else:
            same(name, (len(plain), digest(plain).hex()), (vector["plain_len"], vector["plain_hash"]))
            wal.check_name(plain, vector["name"], cluster)
    return 2


def logs(tests):
    said, root = load(tests, "format/vectors-1/log.json"), root_of(tests)
    log = Log(Store(os.path.join(tests, "format/vectors-1")), root)
    same("kinds", [e.kind if e.verdict == "valid" else None for e in log.entries], said["entries"])
    same("head", [log.entries[-1].number, log.entries[-1].hash.hex()], said["head"])
    same("host", log.fold.keys[said["host_key_id"]].public.hex(), said["host_public"])
    session = log.fold.sessions[said["session"]]
    same("session", (len(session.packs), session.open), (said["packs"], False))
    return len(log.entries)


def bodies_of_all_kinds(tests):
    with open(os.path.join(tests, "fixtures/log/kinds.jsonl"), "rb") as file:
        lines = file.read().splitlines()
    for line in lines:
        _, kind, fields = entries.decode(line)
        name = entries.needs(kind)
        if name and fields[name][0] == "inline":
            entries.decode_list(kind, fields, fields[name][1])
        for change in fields["keys"] if kind == "KEY" else []:
            if change["op"] == "wal-end" and change["ends"][0] == "inline":
                entries.decode_ends(change["ends"][1])
        for other in (line + b" ", line.replace(b'{"at"', b'{ "at"'), line.replace(b'"at":1', b'"at":01', 1)):
            refuses(line[:60], entries.decode, other)
    return len(lines)


def recorded_logs(tests):
    with open(os.path.join(tests, "fixtures/log/traces.jsonl"), encoding="utf-8") as file:
        traces = [json.loads(line) for line in file]
    for i, trace in enumerate(traces):
        replay(f"recorded log {i}", trace)
    return len(traces)


def replaced_commits(tests):
    with open(os.path.join(tests, "fixtures/log/replaced.jsonl"), encoding="utf-8") as file:
        traces = [json.loads(line) for line in file]
    for i, trace in enumerate(traces):
        replay(f"replaced commits {i}", trace)
    return len(traces)


class Numbered:
    """A segment of a recorded log."""

    def __init__(self, number):
        self.value = number

    def number(self, _size):
        return self.value


def replay(what, trace):
    owner = bytes(32)
    fold = Fold(owner)
    for number, (event, verdict) in enumerate(zip(trace["events"], trace["verdicts"]), 1):
        try:
            kind, session, fields, lists = translated(event, fold)
            fold.apply(number, session, fold.owner_id, kind, fields, lists)
            got = "valid"
        except Void as error:
            got = str(error)
        same(f"{what}, event {number}", (got == "valid"), (verdict == "valid"))
    same(what, tables(fold), trace["fold"])


def packs_by_session(packs):
    by = {}
    for pack in packs:
        by.setdefault(pack.split(".")[0], []).append(pack)
    return by


def translated(event, fold):
    """A recorded event as an entry's fields and list. A snapshot's name stands for its live COMMIT."""
    kind, session = event["kind"], event.get("session")
    live = {s.summary["id"]: n for n, s in fold.live.items()}
    fields, lists = {"session": session}, None
    if kind == "BEGIN":
        floor = event.get("wal_floor")
        reads = live.get(event["reads"], -1) if "reads" in event else None
        fields = {"purpose": "test", "cluster": floor and floor[0], "system_identifier": "1", "reads": reads}
        fields["floor"] = floor and {"timeline": floor[1], "lsn": floor[2]}
    elif kind == "PROGRESS":
        # In the log PROGRESS lists packs of its own session alone: its map has no other.
        if any(pack.split(".")[0] != session for pack in event["packs"]):
            raise Void("R4: a pack of another session")
        lists = {pack: "facts" for pack in event["packs"]}
    elif kind == "COMMIT":
        start, opened = event["wal_start"], fold.sessions.get(session)
        own = opened.cluster if opened else None
        cluster = Cluster(start[0], "1") if start else own or Cluster("none", "1")
        if opened and opened.cluster is None:
            opened.cluster = cluster  # the recorded sessions say no cluster where they need no WAL
        ranges = [{"timeline": t, "first": a, "last": b + 1} for t, a, b in event["wal_window"]]
        ancestry = [{"timeline": t, "lsn": at} for t, at in event["ancestry"]]
        wal = start and {"timeline": start[1], "start_lsn": start[2], "segment_size": SIZE, "ranges": ranges, "ancestry": ancestry}
        summary = {"id": event["snapshot"], "cluster": cluster.name, "system_identifier": "1", "wal": wal}
        new = {pack: "facts" for pack in event["packs"] if pack.split(".")[0] == session}
        root = {"place": {"pack": event.get("root")}, "digest": "same"}
        fields |= {"summary": summary, "root": root, "replaces": event.get("replaces")}
        lists = {"new": new, "set": packs_by_session(event["packs"]), "less": packs_by_session(event.get("less", []))}
    elif kind == "FORGET":
        fields = {"commit": event.get("commit", live.get(event.get("snapshot"), -1)), "window": event["window"]}
    elif kind in ("CONDEMN", "SWEEP"):
        lists = packs_by_session(event["packs"])
    elif kind == "EXPIRE-WAL":
        fields = {"cluster": event["cluster"], "system_identifier": "1", "timeline": event["timeline"], "segment_size": SIZE}
        fields["ancestry"] = [{"timeline": t, "lsn": at} for t, at in event["ancestry"]]
        lists = {Numbered(number): ids for number, ids in event["objects"]}
    return kind, session, fields, lists


def tables(fold):
    """As the recorded logs have them."""

    def need_of(need):
        if isinstance(need, From):
            return {"from": [need.cluster.name, need.timeline, need.lsn]}
        if isinstance(need, Window):
            return {"cluster": need.cluster.name, "window": [[t, a, b - 1] for t, a, b in need.ranges]}
        return None

    def window_of(snapshot):
        wal = snapshot.summary["wal"]
        return [[r["timeline"], r["first"], r["last"] - 1] for r in wal["ranges"]] if wal else []

    sessions = {
        name: {"begin": s.begin, "open": s.open, "packs": sorted(s.packs), "needs": need_of(s.need)}
        for name, s in fold.sessions.items()
    }
    live = {
        s.summary["id"]: {"packs": sorted(pack for _, pack in s.packs), "needs": need_of(s.need), "window": window_of(s)}
        for s in fold.live.values()
    }
    condemned = {
        pack: {"at": at, "waits_for": sorted(n for n, s in fold.sessions.items() if s.open and s.begin < at)}
        for (_, pack), at in fold.condemned.items()
    }
    expired = [[c.name, t, row.number, [list(a) for a in row.ancestry]] for (c, t), row in sorted(fold.expired.items())]
    return {"sessions": sessions, "live": live, "condemned": condemned, "expired": expired}
