"""What all else stands on: refusals, bounded byte strings, hashes, seals, envelopes, signatures."""

import hashlib
import hmac
import struct

import nacl.bindings
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305


class Refused(Exception):
    """Something is not as the format says, or not there."""


class Unsupported(Refused):
    """Of a newer program: not readable by this one, but no damage."""


def need(condition, why):
    if not condition:
        raise Refused(why)


class Cursor:
    """Takes a byte string apart; never reads behind its end."""

    def __init__(self, data, what):
        self.data, self.at, self.what = data, 0, what

    def left(self):
        return len(self.data) - self.at

    def take(self, length):
        need(length <= self.left(), f"{self.what}: cut off")
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, form):
        form = "<" + form
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    u8 = lambda self: self.number("B")
    u16 = lambda self: self.number("H")
    u32 = lambda self: self.number("I")
    u64 = lambda self: self.number("Q")
    i64 = lambda self: self.number("q")

    def count(self, form, limit, size):
        """A number of things of at least `size` bytes each: compared with what is left before anything is made."""
        n = self.number(form)
        need(n <= limit and n * size <= self.left(), f"{self.what}: a count of {n}")
        return n

    def end(self):
        need(self.left() == 0, f"{self.what}: {self.left()} bytes behind its end")


# --- hashes ---


def digest(data):
    return blake3(data).digest()


def derive(key, context):
    return blake3(key, derive_key_context=context).digest()


def keyed(key, data):
    return blake3(data, key=key).digest()


def key_id(public):
    return digest(public)[:16]


def u16(n):
    return struct.pack("<H", n)


def u32(n):
    return struct.pack("<I", n)


def u64(n):
    return struct.pack("<Q", n)


# --- seals ---


def unseal(key, nonce, sealed, associated, what):
    """XChaCha20-Poly1305."""
    need(len(sealed) >= 16, f"{what}: shorter than its seal")
    try:
        opened = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(bytes(sealed), bytes(associated), bytes(nonce), key)
    except Exception as error:
        raise Refused(f"{what}: it doesn't open: changed, or sealed under another key") from error
    return opened


def subkey(key, salt):
    return keyed(derive(key, "pgcairn 1 subkey"), salt)


ENVELOPE = 129


def open_envelope(envelope, secret, domain, what):
    """The key in an envelope: HPKE (RFC 9180), base mode, single shot, X25519-HKDF-SHA256-ChaCha20Poly1305."""
    at = Cursor(envelope, what)
    algorithm = at.u8()
    if algorithm != 1:
        raise Unsupported(f"{what}: an envelope of algorithm {algorithm}")
    named, encapsulated, sealed, commitment = at.take(16), at.take(32), at.take(48), at.take(32)
    at.end()
    private = X25519PrivateKey.from_private_bytes(secret)
    public = private.public_key().public_bytes_raw()
    if named != key_id(public):
        raise Unsupported(f"{what}: sealed to the content key {named.hex()}, which isn't this repository's")
    info = b"pgcairn 1 envelope" + bytes([algorithm]) + domain + named
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(encapsulated))
        key, nonce = hpke_base_schedule(shared, encapsulated, public, info)
        opened = ChaCha20Poly1305(key).decrypt(nonce, sealed, b"")
    except (InvalidTag, ValueError) as error:
        raise Refused(f"{what}: its envelope doesn't open") from error
    need(derive(opened, "pgcairn 1 envelope commitment") == commitment, f"{what}: its envelope is committed to another key")
    return opened


def hpke_base_schedule(shared, encapsulated, public, info):
    """Key and first nonce of the recipient (RFC 9180, 4.1 and 5.1)."""
    kem = b"KEM" + (0x0020).to_bytes(2, "big")
    suite = b"HPKE" + b"".join(n.to_bytes(2, "big") for n in (0x0020, 0x0001, 0x0003))

    def extract(suite_id, salt, label, ikm):
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite_id + label + ikm, hashlib.sha256)

    def expand(suite_id, prk, label, info, length):
        # At most one block of SHA-256 is ever asked for.
        labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite_id + label + info
        return hmac.digest(prk, labeled + b"\x01", hashlib.sha256)[:length]

    secret = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", encapsulated + public, 32)
    mode_base = b"\x00"
    context = mode_base + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    key_secret = extract(suite, secret, b"secret", b"")
    return expand(suite, key_secret, b"key", context, 32), expand(suite, key_secret, b"base_nonce", context, 12)


# --- signatures ---

# Ed25519's field and curve, for the checks of keys alone.
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def is_key(public):
    """Is this the one encoding of a point on the curve that is not of small order?"""
    if len(public) != 32:
        return False
    y = int.from_bytes(public, "little") & (2**255 - 1)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    if y >= P or pow(square, (P - 1) // 2, P) != 1:
        return False  # x = 0 as well: the two points with that have order 1 and 2
    return not is_small(y)


def is_small(y):
    """Is the point of small order? Its double's y is (y² + x²) / (1 - d x² y²), and no other point's comes to 1."""
    for _ in range(3):
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        y = (y * y + square) * pow(1 - D * square * y * y, -1, P) % P
    return y == 1


def verifies(public, context, signed, signature):
    """Ed25519, strictly. libsodium refuses keys and R of small order, S that isn't reduced, and knows no cofactor."""
    if not is_key(public) or len(signature) != 64:
        return False
    message = b"pgcairn 1 " + context + b"\x00" + signed
    try:
        nacl.bindings.crypto_sign_open(bytes(signature) + message, public)
    except Exception:
        return False
    return True
