"""Keys, rights and rules: which entries are valid, and what they leave."""

from collections import namedtuple

from .primitives import Refused, key_id

Cluster = namedtuple("Cluster", "name system_identifier")
# From a position on, or (of a forgotten snapshot with a window) ranges alone; positions in bytes.
From = namedtuple("From", "cluster timeline lsn")
Window = namedtuple("Window", "cluster ranges")
Expired = namedtuple("Expired", "number size ancestry")


class Void(Refused):
    """A signed entry that a rule, or a missing right, makes void."""


def rule(condition, why):
    if not condition:
        raise Void(why)


def needs_segment(need, cluster, timeline, number, size, ancestry):
    """Does this need keep segment `number` (of `size` bytes) of a timeline with this ancestry?"""
    if need is None or need.cluster != cluster:
        return False
    if isinstance(need, Window):
        start, end = number * size, (number + 1) * size
        return any(t == timeline and first < end and start < last for t, first, last in need.ranges)
    first = need.lsn // size
    if need.timeline == timeline and number >= first:
        return True
    return any(t == need.timeline and left // size >= first for t, left in ancestry)


class Key:
    def __init__(self, public, name, roles, clusters):
        self.public, self.name, self.roles, self.clusters = public, name, roles, clusters
        self.revoked, self.ends = None, None

    def is_for(self, cluster):
        return self.clusters is None or cluster in self.clusters

    def copy(self):
        other = Key(self.public, self.name, set(self.roles), self.clusters and set(self.clusters))
        other.revoked, other.ends = self.revoked, self.ends
        return other


class Session:
    def __init__(self, begin, key, cluster, need):
        self.begin, self.key, self.cluster, self.need = begin, key, cluster, need
        self.open, self.packs = True, {}


class Snapshot:
    """A live COMMIT."""

    def __init__(self, number, session, summary, root, packs, need):
        self.number, self.session, self.summary, self.root, self.packs, self.need = number, session, summary, root, packs, need


class Fold:
    """The tables that the valid entries so far leave. `owner` is the owner's public key."""

    def __init__(self, owner):
        self.owner, self.owner_id = owner, key_id(owner).hex()
        self.keys, self.sealed_to, self.removed_slots = {}, [], {}
        self.sessions, self.live, self.condemned, self.expired = {}, {}, {}, {}
        self.holds, self.notes, self.damaged, self.newest_begin = {}, [], {}, {}

    def public_of(self, key):
        """Of a key that signs here, be it revoked since; None of an unknown one."""
        if key == self.owner_id:
            return self.owner
        return self.keys[key].public if key in self.keys else None

    # --- rights ---

    def check_right(self, signer, kind, f):
        """May this key append such an entry now?"""
        if signer == self.owner_id:
            return
        key = self.keys[signer]
        rule(key.revoked is None, "its key was revoked")
        own = f.get("session") in self.sessions and self.sessions[f["session"]].key == signer

        def has(role, cluster=None):
            return role in key.roles and (cluster is None or key.is_for(cluster))

        if kind == "BEGIN":
            allowed = f["purpose"] != "backup" or has("writer", f["cluster"])
        elif kind == "PROGRESS":
            allowed = own or f["session"] not in self.sessions
        elif kind == "ABORT":
            allowed = own or has("maintainer") or f["session"] not in self.sessions
        elif kind == "COMMIT":
            cluster = f["summary"]["cluster"]
            allowed = (own or f["session"] not in self.sessions) and (
                has("writer", cluster) or (f["replaces"] is not None and has("maintainer", cluster))
            )
        elif kind == "FORGET":
            snapshot = self.live.get(f["commit"])
            allowed = has("maintainer", snapshot and snapshot.summary["cluster"])
        elif kind == "EXPIRE-WAL":
            allowed = has("maintainer", f["cluster"])
        elif kind in ("CONDEMN", "SWEEP"):
            allowed = has("maintainer")
        elif kind == "DAMAGED":
            allowed = has("maintainer") or has("reader")
        elif kind == "AUDIT":
            allowed = has("reader")
        elif kind == "NOTE":
            if f["note"] in ("gap", "fork"):
                allowed = has("writer", f["cluster"]) or has("maintainer", f["cluster"])
                allowed = allowed or (f["note"] == "gap" and has("reader", f["cluster"]))
            elif f["note"] == "evidence":
                of = next((c.summary["cluster"] for c in self.live.values() if c.summary["id"] == f["snapshot"]), None)
                allowed = has("reader", of) or has("maintainer", of)
            else:
                allowed = has("maintainer")
        else:
            allowed = False
        rule(allowed, f"its key has no right to a {kind}")

    # --- rules; each judges before it changes anything ---

    def apply(self, number, session_id, signer, kind, f, lists):
        """Judges an entry and takes it in. `session_id`: of the session that it opens, if it is a BEGIN."""
        self.check_right(signer, kind, f)
        if kind == "KEY":
            self.change_keys(number, f["keys"])
        elif kind == "BEGIN":
            self.begin(number, session_id, signer, f)
        elif kind == "PROGRESS":
            self.progress(f["session"], lists)
        elif kind == "COMMIT":
            self.commit(number, f, lists)
        elif kind == "ABORT":
            rule(self.is_open(f["session"]), "R6: the session isn't open")
            self.end(f["session"])
        elif kind == "FORGET":
            self.forget(f["commit"], f["window"])
        elif kind == "CONDEMN":
            self.condemn(number, lists)
        elif kind == "SWEEP":
            self.sweep(lists)
        elif kind == "EXPIRE-WAL":
            self.expire(f, lists)
        elif kind == "NOTE":
            self.note(number, f)
        elif kind == "DAMAGED":
            self.damage(lists)

    def is_open(self, session):
        return session in self.sessions and self.sessions[session].open

    def end(self, session):
        self.sessions[session].open, self.sessions[session].need = False, None

    def change_keys(self, number, changes):
        keys, sealed_to = {name: key.copy() for name, key in self.keys.items()}, list(self.sealed_to)
        removed_slots = dict(self.removed_slots)
        for i, change in enumerate(changes):
            op = change["op"]
            if op == "owner":
                rule(number == 0 and i == 0, "KEY: an owner elsewhere than first")
                rule(change["public"] == self.owner, "KEY: another owner")
            elif op == "seal":
                sealed_to.append(change["public"])
            elif op == "host":
                name = key_id(change["public"]).hex()
                roles, clusters = set(change["roles"]), change["clusters"] and set(change["clusters"])
                rule(name != self.owner_id, "KEY: the owner's key as a host's")
                if name in keys:
                    old = keys[name]
                    rule(old.revoked is None, "KEY: a host's key that was revoked")
                    rule(roles >= old.roles, "KEY: a host's role would be taken")
                    kept = clusters is None or (old.clusters is not None and clusters >= old.clusters)
                    rule(kept, "KEY: a host's cluster would be taken")
                keys[name] = Key(change["public"], change["name"], roles, clusters)
            elif op == "revoke":
                rule(change["key"] in keys and keys[change["key"]].revoked is None, "KEY: no such host's key to revoke")
                keys[change["key"]].revoked = number
            elif op == "remove-slot":
                removed_slots.setdefault(change["slot"], number)
            else:
                key = keys.get(change["key"])
                rule(key and key.revoked is not None and key.revoked < number, "KEY: an end of WAL of a key that no earlier entry revoked")
                rule(key.ends is None, "KEY: a second end of WAL")
                key.ends = {(e["cluster"], e["system_identifier"], e["last"].timeline): e["last"] for e in change["ends"]}
        if number == 0:
            rule(changes[0]["op"] == "owner" and sealed_to, "KEY: the first entry must name the owner and a key to seal to")
        self.keys, self.sealed_to, self.removed_slots = keys, sealed_to, removed_slots

    def begin(self, number, session, signer, f):
        rule(session not in self.sessions, "R3: the session is known")
        cluster = Cluster(f["cluster"], f["system_identifier"]) if f["cluster"] else None
        need = None
        if f["reads"] is not None:
            rule(f["reads"] in self.live, "R3: what it reads is not live")
            need = self.live[f["reads"]].need
        elif f["floor"]:
            need = From(cluster, f["floor"]["timeline"], f["floor"]["lsn"])
            for (of, timeline), row in self.expired.items():
                gone = needs_segment(need, of, timeline, row.number, row.size, row.ancestry)
                rule(not gone, "R16: WAL that it would need was expired")
        self.sessions[session] = Session(number, signer, cluster, need)
        if f["purpose"] == "backup":
            self.newest_begin[f["cluster"]] = f["system_identifier"]

    def progress(self, session, packs):
        rule(self.is_open(session), "R4: the session isn't open")
        self.check_facts(session, packs)
        self.sessions[session].packs.update(packs)

    def check_facts(self, session, packs):
        listed = self.sessions[session].packs
        rule(all(listed.get(pack, facts) == facts for pack, facts in packs.items()), "R4: other facts of a pack already")

    def commit(self, number, f, lists):
        session_id, summary, new = f["session"], f["summary"], lists["new"] or {}
        rule(self.is_open(session_id), "R5: the session isn't open")
        session = self.sessions[session_id]
        self.check_facts(session_id, new)
        packs = {(s, pack) for s, ids in lists["set"].items() for pack in ids}
        if f["replaces"] is not None:
            rule(f["replaces"] in self.live, "R5: what it replaces is not live")
            before = self.live[f["replaces"]].packs
            less = {(s, pack) for s, ids in (lists["less"] or {}).items() for pack in ids}
            rule(less <= before, "R5: it leaves out a pack that what it replaces doesn't name")
            rest = before - less
            rule(not {pack for _, pack in rest} & {pack for _, pack in packs}, "R5: a pack id stands twice in its set")
            packs |= rest
            rule(f["root"]["place"]["pack"] in {pack for _, pack in packs}, "R5: the root's pack is not in its set")
        for of, pack in packs:
            own = of == session_id and (pack in new or pack in session.packs)
            ended = of in self.sessions and not self.sessions[of].open and pack in self.sessions[of].packs
            condemned = self.condemned.get((of, pack))
            rule(own or (ended and (condemned is None or condemned > session.begin)), f"R5: it may not name pack {pack}")
        cluster = Cluster(summary["cluster"], summary["system_identifier"])
        wal = summary["wal"]
        need = From(cluster, wal["timeline"], wal["start_lsn"]) if wal else None
        same = [n for n, s in self.live.items() if s.summary["id"] == summary["id"] and n != f["replaces"]]
        rule(not same, "R5: another live COMMIT has the snapshot's id")
        if f["replaces"] is None:
            rule(session.cluster == cluster, "R5: the session's cluster is another one")
            if wal:
                segment, ancestry = wal["start_lsn"] // wal["segment_size"], positions(wal["ancestry"])
                kept = isinstance(session.need, From) and needs_segment(
                    session.need, cluster, wal["timeline"], segment, wal["segment_size"], ancestry
                )
                rule(kept, "R16: its session doesn't need the WAL where the snapshot starts")
        else:
            replaced = self.live[f["replaces"]]
            equal = replaced.root["digest"] == f["root"]["digest"] and replaced.summary == summary
            rule(equal, "R5: it is another snapshot than the one that it replaces")
            need = replaced.need
        session.packs.update(new)
        self.end(session_id)
        for pack in packs:
            self.condemned.pop(pack, None)
        self.live[number] = Snapshot(number, session_id, summary, f["root"], packs, need)

    def forget(self, commit, window):
        rule(commit in self.live, "R7: there is no such live COMMIT")
        snapshot = self.live[commit]
        if window:
            rule(isinstance(snapshot.need, From), "R13: it needs no more than its window already")
            ranges = [(r["timeline"], r["first"], r["last"]) for r in snapshot.summary["wal"]["ranges"]]
            snapshot.need = Window(snapshot.need.cluster, ranges)
            return
        name = snapshot.summary["id"]
        others = any(s.summary["id"] == name for n, s in self.live.items() if n != commit)
        rule(others or name not in self.holds, "R7: the snapshot is held")
        del self.live[commit]

    def condemn(self, number, lists):
        packs = [(s, pack) for s, ids in lists.items() for pack in ids]
        named = set().union(*(s.packs for s in self.live.values()))
        for pack in packs:
            rule(pack not in self.condemned, "R8: a pack is condemned already")
            rule(not self.is_open(pack[0]), "R8: the session of a pack is open")
            rule(pack not in named, "R8: a live COMMIT names a pack")
        self.condemned.update({pack: number for pack in packs})

    def sweep(self, lists):
        packs = [(s, pack) for s, ids in lists.items() for pack in ids]
        oldest = min((s.begin for s in self.sessions.values() if s.open), default=None)
        for pack in packs:
            rule(pack in self.condemned, "R9: a pack is not condemned")
            rule(oldest is None or oldest > self.condemned[pack], "R9: a session that was open at CONDEMN is still open")
        for session, pack in packs:
            del self.condemned[session, pack]
            self.damaged.pop((session, pack), None)
            if session in self.sessions:
                self.sessions[session].packs.pop(pack, None)

    def expire(self, f, objects):
        cluster, timeline = Cluster(f["cluster"], f["system_identifier"]), f["timeline"]
        size, ancestry = f["segment_size"], positions(f["ancestry"])
        numbers = [segment.number(size) for segment in objects]
        holders = [*self.live.values(), *(s for s in self.sessions.values() if s.open)]
        for holder in holders:
            for number in numbers:
                kept = needs_segment(holder.need, cluster, timeline, number, size, ancestry)
                rule(not kept, "R14: a live COMMIT or an open session needs an object")
        old = self.expired.get((cluster, timeline))
        highest = max(numbers)
        if old is None or old.number * old.size <= highest * size:
            self.expired[cluster, timeline] = Expired(highest, size, ancestry)
        else:
            self.expired[cluster, timeline] = Expired(old.number, old.size, ancestry)

    def note(self, number, f):
        if f["note"] == "hold":
            rule(any(s.summary["id"] == f["snapshot"] for s in self.live.values()), "hold: no live COMMIT has this id")
            self.holds[f["snapshot"]] = number
        elif f["note"] == "unhold":
            rule(f["snapshot"] in self.holds, "unhold: there is no hold")
            del self.holds[f["snapshot"]]
        self.notes.append((number, f))

    def damage(self, places):
        named = set().union(*(s.packs for s in self.live.values()))
        for session, packs in places.items():
            for pack, which in packs.items():
                listed = session in self.sessions and pack in self.sessions[session].packs
                if listed or (session, pack) in named:
                    self.damaged.setdefault((session, pack), []).append(which)


def positions(ancestry):
    return [(a["timeline"], a["lsn"]) for a in ancestry or []]
