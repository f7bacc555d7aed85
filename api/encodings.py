"""Content encodings of a body (RFC 9110, section 8.4.1): gzip (RFC 1952) and zstd (RFC 8878), unfolded to a bound.

Pure. A bomb costs what its bound allows: no more than `limit` bytes and one are ever made of it, and no more memory
than a window of 8 MiB, the most that RFC 9659 lets a zstd body ask for.
"""

import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Final

import zstandard

from api import errors

MAX_WINDOW: Final = 8 * 1024 * 1024
"""Bytes of a zstd window."""
MAX_MEMBERS: Final = 16
"""Members of a gzip body, frames of a zstd one: each costs a decompressor, and an empty one has but a few bytes."""
_GZIP: Final = 16 + zlib.MAX_WBITS


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """Return what a body in one of ENCODINGS unfolds to.

    Raises Problem 413 beyond `limit` bytes, and 400 when it is cut off, damaged, or followed by something else.
    """
    try:
        unfolded = ENCODINGS[encoding](body, limit + 1)
    except (zlib.error, zstandard.ZstdError, _MalformedError) as error:
        raise errors.malformed_encoding(encoding, str(error)) from error
    if len(unfolded) > limit:
        raise errors.too_large(f"The body unfolds to more than {limit} bytes: send less at once.")
    return unfolded


class _MalformedError(Exception):
    pass


def _gunzip(body: bytes, most: int) -> bytes:
    """Return up to `most` bytes of the members one after the other."""
    whole = b""
    for _ in range(MAX_MEMBERS):
        member = zlib.decompressobj(_GZIP)
        whole += member.decompress(body, most - len(whole))
        if len(whole) >= most:
            return whole
        if not member.eof:
            raise _MalformedError("it is cut off")
        body = member.unused_data
        if not body:
            return whole
    raise _MalformedError(f"it has more than {MAX_MEMBERS} members")


def _unzstd(body: bytes, most: int) -> bytes:
    """Return up to `most` bytes of the frames one after the other.

    Only a reader can be told to stop, and only an object tells whether a frame is whole: so the size is known first.
    """
    unzip = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    bounded = unzip.stream_reader(BytesIO(body), read_across_frames=True).read(most)
    if len(bounded) >= most:
        return bounded
    for _ in range(MAX_MEMBERS):
        frame = unzip.decompressobj()
        frame.decompress(body)
        if not frame.eof:
            raise _MalformedError("it is cut off")
        body = frame.unused_data
        if not body:
            return bounded
    raise _MalformedError(f"it has more than {MAX_MEMBERS} frames")


ENCODINGS: Final[Mapping[str, Callable[[bytes, int], bytes]]] = {"gzip": _gunzip, "zstd": _unzstd}
"""How a body is unfolded to at most so many bytes."""
