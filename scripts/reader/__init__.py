"""A second reader of pgcairn's repositories, written from format-spec.md alone.

It shares no code with the program: what both read alike, the specification says. It only reads, believes nothing
that it has not checked, and needs blake3, cryptography, PyNaCl and zstandard (scripts/reader-env installs them).

- primitives.py: what all else stands on: refusals, bounded byte strings, hashes, seals, envelopes, signatures
- keys.py: the format object, key slots, the root
- store.py: objects in a directory
- entries.py: canonical JSON, the kinds of entries
- fold.py: keys, rights and rules: which entries are valid, and what they leave
- log.py: entries as they lie: chain, signatures, bodies
- frames.py: stored, zstd, patch
- packs.py: tables, blobs, chunks
- tree.py: nodes, attributes, folders and files of a snapshot
- restore.py: a snapshot written into a folder
- wal.py: WAL objects, which of them count
"""
