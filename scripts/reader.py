#!/usr/bin/env python3
"""Reads a pgcairn repository by format-spec.md alone, without pgcairn: a second reader of the format.

reader.py REPO (--passphrase-file F | --key-file F | --key-command C) COMMAND

Without a passphrase or a key file a slot in clear is opened, if there is one. scripts/reader-env prints a Python that has
what this needs. Exit code 0: all is well; 1: refused, damaged or not there, and standard error says what.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys

from reader import keys, tree, vectors, wal
from reader.log import Log
from reader.packs import Chunks
from reader.primitives import Refused, need
from reader.restore import Check, Restore, pieces
from reader.store import Store


def say(text):
    print(f"reader.py: {text}", file=sys.stderr)


def arguments():
    parser = argparse.ArgumentParser(description="Reads a pgcairn repository by its specification alone.")
    parser.add_argument("repository", help="the repository's folder (of `vectors`: the folder tests/)")
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("--passphrase-file", metavar="F")
    secret.add_argument("--key-file", metavar="F", help="a key file, or what `pgcairn key export` wrote")
    secret.add_argument("--key-command", metavar="COMMAND", help="unwraps a slot's key")
    parser.add_argument("--owner", metavar="HEX", help="the owner's public key, as it was remembered elsewhere")
    parser.add_argument("--expect", metavar="N:HASH", help="an entry of the log, as it was remembered elsewhere")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("log", help="reads and checks the whole log")
    commands.add_parser("list", help="live snapshots")
    cat = commands.add_parser("cat", help="one file of a snapshot to standard output")
    cat.add_argument("snapshot")
    cat.add_argument("path")
    restore = commands.add_parser("restore", help="all of a snapshot into a new folder")
    restore.add_argument("snapshot")
    restore.add_argument("folder")
    restore.add_argument("--tablespace", metavar="OID=DIR", action="append", default=[])
    one_wal = commands.add_parser("wal", help="one file of a cluster's WAL archive")
    one_wal.add_argument("name")
    one_wal.add_argument("out")
    one_wal.add_argument("--cluster")
    one_wal.add_argument("--system-identifier")
    commands.add_parser("check", help="opens all that the live snapshots are made of")
    commands.add_parser("vectors", help="reads the vectors that the specification names")
    return parser.parse_args()


def secret_of(options):
    if options.passphrase_file:
        with open(options.passphrase_file, "rb") as file:
            return keys.Secret.passphrase(file.read(1 << 20))
    if options.key_file:
        with open(options.key_file, "rb") as file:
            return keys.Secret.key_file(file.read(1 << 16))
    if options.key_command:
        shell = ["/bin/sh", "-c", options.key_command]
        environment = {**os.environ, "PGCAIRN_KEY_OPERATION": "unwrap"}
        return keys.Secret.command(
            lambda wrapped: subprocess.run(shell, input=wrapped, env=environment, stdout=subprocess.PIPE, check=True).stdout
        )
    return keys.Secret(keys.CLEAR)


class Repository:
    """An opened repository, its log read to the end."""

    def __init__(self, options):
        self.store = Store(options.repository)
        secret = secret_of(options)
        self.root = keys.open_root(self.store, secret)
        if options.owner:
            need(self.root.owner_public.hex() == options.owner, "the repository has another owner than the one that was remembered")
        elif secret.kind == keys.CLEAR:
            say("opened in clear: nothing in this repository is secret or authentic; --owner compares its owner")
        self.log = Log(self.store, self.root)
        for alarm in self.log.alarms:
            say(alarm)
        if options.expect:
            self.check_expected(*options.expect.split(":", 1))

    def check_expected(self, number, hashed):
        there = [e for e in self.log.entries if str(e.number) == number and e.hash and e.hash.hex() == hashed]
        need(there, f"entry {number} isn't the one that was remembered: the log was set back, or is another one")

    def chunks(self, commit):
        return Chunks(self.store, self.root, self.log.packs_of(commit))

    def snapshot(self, name):
        commit = self.log.snapshot(name)
        return tree.Snapshot(self.chunks(commit), commit)


def time_of(microseconds):
    try:
        at = datetime.datetime.fromtimestamp(microseconds // 1_000_000, datetime.timezone.utc)
        return at.strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError, TypeError):
        return "-"


def show_log(repository, _options):
    fold = repository.log.fold
    for e in repository.log.entries:
        name = "owner" if e.signer == fold.owner_id else fold.keys[e.signer].name if e.signer in fold.keys else "-"
        print(e.number, e.hash.hex() if e.hash else "-", e.verdict, e.kind or "-", time_of(e.at), name, said_of(e), e.why, sep="\t")
    return not repository.log.damaged


def said_of(entry):
    f = entry.fields or {}
    if entry.kind == "COMMIT":
        return f["summary"]["id"]
    if entry.kind == "BEGIN":
        return " ".join(filter(None, [f["purpose"], f["cluster"], entry.hash[:16].hex()]))
    if entry.kind == "KEY":
        return ", ".join(change["op"] for change in f["keys"])
    return f.get("session") or f.get("note") or str(f.get("commit") or f.get("cluster") or "")


def show_list(repository, _options):
    for commit in sorted(repository.log.fold.live.values(), key=lambda c: c.number):
        s = commit.summary
        facts = {name: s[name] for name in ("id", "type", "cluster", "system_identifier", "files", "cluster_bytes", "parent") if s[name]}
        print(json.dumps({"commit": commit.number, **facts, "finished_at": time_of(s["finished_at"])}))
    return True


def cat(repository, options):
    snapshot = repository.snapshot(options.snapshot)
    for piece in pieces(snapshot, os.fsencode(options.path)):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
    return True


def restore(repository, options):
    spaces = dict(one.split("=", 1) for one in options.tablespace if "=" in one)
    need(len(spaces) == len(options.tablespace), "--tablespace takes OID=DIR, each once")
    job = Restore(repository.snapshot(options.snapshot), options.folder, spaces)
    job.run()
    for path in job.passed_over:
        say(f"{tree.show(path)} is no file of a snapshot's tree: not written")
    if job.snapshot.extra.get("wal_copied") is False:
        say(f"WAL from {job.snapshot.extra.get('start_lsn')} on is in the archive: {sys.argv[0]} … wal %f %p")
    return True


def one_wal(repository, options):
    cluster = wal.only_cluster(repository.log, options.cluster, options.system_identifier)
    archive = wal.Archive(repository.store, repository.log, cluster)
    plain = archive.file(options.name)
    for alarm in archive.alarms:
        say(alarm)
    with open(options.out, "xb") as out:
        out.write(plain)
    return True


def check(repository, _options):
    found = Check(say)
    for commit in repository.log.fold.live.values():
        chunks = repository.chunks(commit)
        found.packs(chunks)
        snapshot = found.attempt(tree.Snapshot, chunks, commit)
        if snapshot:
            found.snapshot(snapshot)
    counts = {"snapshots": len(repository.log.fold.live), "packs": len(found.whole), "blobs": found.blobs, "kinds": found.kinds}
    print(json.dumps({**counts, "files": found.files, "bytes": found.bytes, "faults": len(found.faults)}))
    return not found.faults and not repository.log.damaged


def main():
    options = arguments()
    try:
        if options.command == "vectors":
            for name, count in vectors.check_all(options.repository):
                print(name, count, sep="\t")
            return 0
        command = {"log": show_log, "list": show_list, "cat": cat, "restore": restore, "wal": one_wal, "check": check}
        return 0 if command[options.command](Repository(options), options) else 1
    except (Refused, OSError) as error:
        say(error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
