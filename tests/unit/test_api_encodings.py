"""Compressed bodies unfold to what they were made of, or to a problem, at a bounded cost."""

import gzip
import time
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from api.encodings import MAX_MEMBERS, MAX_WINDOW, decoded
from api.errors import Problem

LIMIT = 256 * 1024
Fold = Callable[[bytes], bytes]


def unsized(body: bytes) -> bytes:
    """Compress as a streaming client does, which does not know the size beforehand."""
    stream = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compressobj()
    return stream.compress(body) + stream.flush()


FOLDS: dict[str, tuple[str, Fold]] = {
    "gzip": ("gzip", gzip.compress),
    "zstd": ("zstd", zstandard.ZstdCompressor(write_checksum=True).compress),
    "zstd of unknown size": ("zstd", unsized),
}
EVERY = pytest.mark.parametrize(("encoding", "fold"), FOLDS.values(), ids=FOLDS)


def refused(body: bytes, encoding: str) -> Problem:
    with pytest.raises(Problem) as raised:
        decoded(body, encoding, LIMIT)
    return raised.value


@EVERY
@given(body=st.binary(max_size=500))
def test_a_body_unfolds_to_what_it_was_made_of(encoding: str, fold: Fold, body: bytes) -> None:
    assert decoded(fold(body), encoding, LIMIT) == body


@EVERY
def test_members_one_after_the_other_are_one_body(encoding: str, fold: Fold) -> None:
    assert decoded(fold(b'{"a":') + fold(b"1}"), encoding, LIMIT) == b'{"a":1}'


@EVERY
def test_the_bound_holds_for_what_it_unfolds_to(encoding: str, fold: Fold) -> None:
    assert len(decoded(fold(b" " * LIMIT), encoding, LIMIT)) == LIMIT
    assert (refused(fold(b" " * (LIMIT + 1)), encoding).status) == 413


@EVERY
def test_a_bomb_costs_a_bounded_amount_of_time_and_memory(encoding: str, fold: Fold) -> None:
    bomb = fold(b"\0" * 100_000_000)
    body = (bomb * (1024 * 1024 // len(bomb) + 1))[: 1024 * 1024]
    began = time.process_time()
    tracemalloc.start()

    status = refused(body, encoding).status

    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert status == 413
    assert time.process_time() - began < 0.5
    assert most < 8 * LIMIT + MAX_WINDOW


@EVERY
def test_a_body_cut_off_anywhere_is_no_shorter_body(encoding: str, fold: Fold) -> None:
    body = fold(b'{"type":"a","source":"b","data":1}' * 5)

    for length in range(len(body)):
        assert refused(body[:length], encoding).code == "malformed-encoding", length


@EVERY
@given(place=st.integers(0, 10_000), put=st.binary(min_size=1, max_size=3))
def test_a_damaged_body_is_a_problem_or_what_it_was(encoding: str, fold: Fold, place: int, put: bytes) -> None:
    whole = b'{"type":"a","source":"b","data":1}' * 5
    body = fold(whole)
    place %= len(body)
    try:
        unfolded = decoded(body[:place] + put + body[place + len(put) :], encoding, LIMIT)
    except Problem as problem:
        assert problem.status in {400, 413}  # noqa: PT017 - either outcome is right
        return

    assert unfolded == whole


@EVERY
def test_what_follows_a_body_is_a_problem(encoding: str, fold: Fold) -> None:
    assert refused(fold(b"{}") + b"junk", encoding).code == "malformed-encoding"


@EVERY
def test_many_empty_members_are_refused(encoding: str, fold: Fold) -> None:
    assert decoded(fold(b"") * MAX_MEMBERS, encoding, LIMIT) == b""
    assert refused(fold(b"") * 50_000, encoding).code == "malformed-encoding"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_plain_body_is_no_compressed_one(encoding: str) -> None:
    assert refused(b"{}", encoding).code == "malformed-encoding"


def test_raw_deflate_is_not_gzip() -> None:
    assert refused(zlib.compress(b"{}"), "gzip").status == 400


def test_a_window_beyond_the_bound_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    assert refused(stream.compress(b"{}") + stream.flush(), "zstd").code == "malformed-encoding"
