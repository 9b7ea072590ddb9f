"""Frames: the forms in which the bytes of chunks are sealed."""

import zstandard

from .primitives import Cursor, Refused, Unsupported, need

PLAIN_LIMIT = 1 << 24
STORED, ZSTD, PATCH = 0, 1, 2


def decode(kind, frame, length, reference=None):
    """The plain form of a frame: exactly `length` bytes."""
    need(length <= PLAIN_LIMIT, f"a plain form of {length} bytes")
    if kind == STORED:
        need(len(frame) == length, "a stored frame of another length")
        return bytes(frame)
    if kind == ZSTD:
        return zstd(frame, length)
    if kind == PATCH:
        need(reference is not None, "a patch without its reference")
        return patch(frame, length, reference)
    raise Unsupported(f"frames of kind {kind} are of a newer program")


def zstd(frame, length, prefix=None):
    need(frame[:4] == b"\x28\xb5\x2f\xfd", "no zstd frame")
    try:
        stated = zstandard.get_frame_parameters(frame)
        # Of a frame that states no length this library says 2^64 - 1; of one that states 0, 0.
        need(stated.content_size == length and states_length(frame), "a zstd frame of another length, or of none")
        need(stated.dict_id == 0, "a zstd frame with a dictionary's id")
        raw = prefix and zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        decompressor = zstandard.ZstdDecompressor(dict_data=raw or None, max_window_size=1 << 31)
        if length == 0:
            # The library doesn't look at the blocks of a frame that states no bytes.
            whole = decompressor.decompressobj()
            plain = whole.decompress(frame)
            need(whole.eof and not whole.unused_data, "a zstd frame that is cut off, or bytes behind it")
        else:
            plain = decompressor.decompress(frame, read_across_frames=False, allow_extra_data=False)
    except (zstandard.ZstdError, ValueError) as error:
        raise Refused(f"a damaged zstd frame: {error}") from error
    need(len(plain) == length, "a zstd frame that yields another length than it states")
    return plain


def states_length(frame):
    """RFC 8878, 3.1.1.1: the descriptor's flags say whether a content size is there."""
    need(len(frame) > 4, "a zstd frame that is cut off")
    return frame[4] >> 6 != 0 or frame[4] >> 5 & 1 == 1


def patch(frame, length, reference):
    at = Cursor(frame, "patch")
    flags, shift = at.u8(), at.u8()
    need(flags & ~3 == 0, f"patch: unknown flags {flags:#x}")
    need(9 <= shift <= 16, f"patch: a page shift of {shift}")
    page = 1 << shift
    n = -(-length // page)
    listed = gaps(at, n) if flags & 2 else bitmap(at, n)

    def span(i):
        return i * page, min((i + 1) * page, length)

    prefix = None
    if flags & 1:
        prefix = bytes(8) + b"".join(reference[i * page : (i + 1) * page] for i in listed)
    stored = b""
    if listed:
        stored = zstd(at.take(at.left()), sum(end - start for start, end in map(span, listed)), prefix)
    at.end()

    plain = bytearray(length)
    taken, wanted = 0, set(listed)
    for i in range(n):
        start, end = span(i)
        if i in wanted:
            plain[start:end] = stored[taken : taken + end - start]
            taken += end - start
        else:
            need(end <= len(reference), "patch: its reference ends too early")
            plain[start:end] = reference[start:end]
    return bytes(plain)


def bitmap(at, n):
    bits = at.take(-(-n // 8))
    need(not bits or n % 8 == 0 or bits[-1] >> n % 8 == 0, "patch: a bit behind the last page")
    return [i for i in range(n) if bits[i // 8] >> i % 8 & 1]


def gaps(at, n):
    count = leb128(at)
    need(count <= n, "patch: more entries than pages")
    listed, page = [], 0
    for _ in range(count):
        page += leb128(at)
        need(page < n, "patch: an entry behind the last page")
        listed.append(page)
        page += 1
    return listed


def leb128(at):
    number = 0
    for shift in range(0, 35, 7):
        byte = at.u8()
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            need(number < 1 << 32 and (byte or not shift), "patch: a number in no shortest form")
            return number
    raise Refused("patch: a number that is too large")
