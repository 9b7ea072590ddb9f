"""The format object, key slots, and the root: all keys of a repository."""

import re

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from .primitives import Cursor, Refused, Unsupported, derive, digest, key_id, keyed, need, open_envelope, unseal

PASSPHRASE, KEY_FILE, CLEAR, COMMAND = 1, 2, 3, 4
MOST_FORMER, MOST_WRAPPED = 64, 16_384


class Format:
    """The object `pgcairn`."""

    def __init__(self, data):
        need(len(data) == 128, f"pgcairn: {len(data)} bytes instead of 128")
        at = Cursor(data, "pgcairn")
        need(at.take(16) == b"pgcairn store\r\n\x00", "pgcairn: this is no pgcairn repository")
        version = at.u32()
        need(digest(data[:96]) == data[96:], "pgcairn: its hash is wrong")
        if version != 1:
            raise Unsupported(f"pgcairn: format {version}; this reader knows format 1")
        at.take(4)
        self.compatible, self.read_only, self.incompatible = at.u64(), at.u64(), at.u64()
        if self.incompatible:
            raise Unsupported(f"pgcairn: incompatible features {self.incompatible:#x}")
        self.repository, self.domain = at.take(16), at.take(16)


class Root:
    """All keys, and what is derived from them."""

    def __init__(self, plain):
        at = Cursor(plain, "root")
        self.repository, self.domain = at.take(16), at.take(16)
        seed, newest, id_key, self.table_key = at.take(32), at.take(32), at.take(32), at.take(32)
        self.owner_public, self.content_public = at.take(32), at.take(32)
        rest = plain[224:]
        need(len(rest) % 32 == 0 and len(rest) <= 32 * MOST_FORMER, "root: its former content secrets are cut short, or too many")
        former = [rest[start : start + 32] for start in range(0, len(rest), 32)]
        self.content_secrets = [*former, newest]
        owner = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        publics = [X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw() for secret in self.content_secrets]
        self.contents = {key_id(public): secret for public, secret in zip(publics, self.content_secrets, strict=True)}
        content = publics[-1]
        need(owner == self.owner_public and content == self.content_public, "root: a public key isn't that of its secret")
        self.owner_id = key_id(self.owner_public)
        self.chunk_keys = {1: derive(id_key, "pgcairn 1 id content"), 2: derive(id_key, "pgcairn 1 id structure")}
        self.wal_key = derive(id_key, "pgcairn 1 id wal")
        self.cluster_names = derive(self.table_key, "pgcairn 1 cluster names")

    def open_envelope(self, envelope, what):
        """An object's own key: the envelope says to which of the content keys it is sealed."""
        secret = self.contents.get(envelope[1:17], self.content_secrets[-1])
        return open_envelope(envelope, secret, self.domain, what)

    def chunk_id(self, role, content):
        return keyed(self.chunk_keys[role], content)

    def wal_content_id(self, plain):
        return keyed(self.wal_key, plain)

    def cluster_key(self, name):
        return keyed(self.cluster_names, name.encode())[:16]


class Secret:
    """What opens a slot."""

    def __init__(self, kind, value=b""):
        self.kind, self.value = kind, value

    @staticmethod
    def passphrase(text):
        """The bytes of a passphrase file, which end before its one trailing line end."""
        text = text[:-2] if text.endswith(b"\r\n") else text.removesuffix(b"\n")
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise Refused("the passphrase is not UTF-8") from error
        return Secret(PASSPHRASE, text)

    @staticmethod
    def key_file(text):
        if root := exported(text):
            return Secret(None, root)
        match = re.fullmatch(rb"pgcairn-key-1:([0-9a-f]{64})[\r\n]*", text)
        need(match, "this is no key file")
        return Secret(KEY_FILE, bytes.fromhex(match[1].decode()))

    @staticmethod
    def command(unwrap):
        """`unwrap` makes a key file's text of a slot's wrapped key."""
        return Secret(COMMAND, unwrap)


def exported(text):
    """The root in the text of an export, or None if this is none."""
    lines = [line.strip() for line in text.splitlines()]
    digits = b"".join(b"".join(line.split()) for line in lines if not line.startswith(b"#")).lower()
    if not digits.startswith(b"pgcairn-root-1:"):
        return None
    try:
        data = bytes.fromhex(digits.removeprefix(b"pgcairn-root-1:").decode())
    except ValueError as error:
        raise Refused("export: this is no hex") from error
    need(len(data) > 8 and digest(data[:-8])[:8] == data[-8:], "export: its check digits are wrong")
    return Root(data[:-8])


def open_slot(data, secret, format_object):
    """The root in a slot, or None if the slot is another one's or opened by another secret."""
    need(len(data) >= 384, f"key slot: {len(data)} bytes, and 384 are the fewest")
    at = Cursor(data, "key slot")
    need(at.take(8) == b"PGCNKEY\x01", "key slot: its magic is wrong")
    kind, role, former = at.u8(), at.u8(), at.u16()
    memory, passes, lanes = at.u32(), at.u32(), at.u32()
    repository, _slot, salt, commitment = at.take(16), at.take(16), at.take(32), at.take(32)
    nonce = at.take(24)
    wrapped_length = memory if kind == COMMAND else 0
    need(former <= MOST_FORMER, f"key slot: {former} former content secrets are too many")
    need(kind != COMMAND or 1 <= memory <= MOST_WRAPPED, f"key slot: a wrapped key of {memory} bytes")
    length = 384 + 32 * former + wrapped_length
    need(len(data) == length, f"key slot: {len(data)} bytes instead of {length}")
    sealed, wrapped = at.take(240 + 32 * former), at.take(wrapped_length)
    if kind != secret.kind or role != 1 or repository != format_object.repository:
        return None
    if kind == PASSPHRASE:
        within = 65_536 <= memory <= 4_194_304 and 1 <= passes <= 16 and 1 <= lanes <= 16
        need(within, f"key slot: costs of {memory} KiB, {passes} passes, {lanes} lanes are out of bounds")
        kdf = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
        wrapping = kdf.derive(secret.value)
    elif kind == KEY_FILE:
        wrapping = keyed(derive(secret.value, "pgcairn 1 key file"), salt)
    elif kind == COMMAND:
        wrapping = keyed(derive(Secret.key_file(secret.value(wrapped)).value, "pgcairn 1 wrapped key"), salt)
    else:
        wrapping = derive(salt, "pgcairn 1 clear")
    if derive(wrapping, "pgcairn 1 slot commitment") != commitment:
        return None
    root = Root(unseal(wrapping, nonce, sealed, data[:120] + wrapped, "key slot"))
    need(root.repository == repository, "key slot: its root is another repository's")
    need(root.domain == format_object.domain, "key slot: its root is of another domain than the format object's")
    return root


def open_root(store, secret):
    """The root, from whichever slot of `key/` this secret opens."""
    format_object = Format(store.read("pgcairn", 128))
    if secret.kind is None:
        root = secret.value
        ours = (root.repository, root.domain) == (format_object.repository, format_object.domain)
        need(ours, "export: it is of another repository")
        return root
    refusals = []
    for name in store.list("key"):
        try:
            root = open_slot(store.read(name, 384 + 32 * MOST_FORMER + MOST_WRAPPED), secret, format_object)
        except Refused as error:
            refusals.append(f"{name}: {error}")
            continue
        if root:
            return root
    kind = {PASSPHRASE: "passphrase", KEY_FILE: "key file", CLEAR: "slot in clear", COMMAND: "command"}[secret.kind]
    raise Refused("; ".join([f"no slot opens by this {kind}" if secret.value else "there is no slot in clear", *refusals]))
