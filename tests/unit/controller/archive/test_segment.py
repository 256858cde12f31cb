"""A segment's bytes either prove to be commits of the log, or are refused."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from controller.archive.segment import (
    HEADER_BYTES,
    decode_header,
    decode_segment,
    encode_segment,
    segment_of,
)
from controller.log.errors import LogCorrupt
from controller.log.port import CommitAt, hash_after

NONCE = bytes(range(16))
BEFORE = bytes(range(32))


def encoded(commits: list[CommitAt]) -> bytes:
    return encode_segment(segment_of(NONCE, BEFORE, commits), commits)


@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=40),
    st.integers(0, 2**63),
    st.integers(1),
)
def test_what_was_written_is_read(bodies: list[bytes], first: int, max_bytes: int) -> None:
    commits = [(first + number, body) for number, body in enumerate(bodies)]
    content = decode_segment(encoded(commits))
    assert content.segment == segment_of(NONCE, BEFORE, commits)
    assert (content.segment.first, content.segment.end) == (first, first + len(bodies))
    running = BEFORE
    for at, body in enumerate(bodies):
        assert content.hashes[at] == running
        running = hash_after(running, body)
    assert content.segment.hash_after == running
    page = content.from_offset(first, max_bytes)
    assert page == commits[: len(page)]
    assert page
    assert len(page) == 1 or sum(len(commit) for _, commit in page) <= max_bytes


@given(st.data())
def test_no_change_of_a_single_byte_goes_unnoticed(data: st.DataObject) -> None:
    commits = [(7 + number, b"commit %d" % number) for number in range(9)]
    whole = encoded(commits)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        content = decode_segment(bytes(changed))
    except LogCorrupt:
        return
    # What the chain does not cover is the log's nonce and the offset: these are in the file's name, too.
    assert content.segment != segment_of(NONCE, BEFORE, commits)


@pytest.mark.parametrize("kept", [0, 5, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 9, -1])
def test_what_is_cut_short_is_refused(kept: int) -> None:
    whole = encoded([(0, b"one" * 30), (1, b"two" * 30)])
    with pytest.raises(LogCorrupt):
        decode_segment(whole[:kept])


def test_what_would_fill_memory_is_refused() -> None:
    whole = encoded([(0, b"one")])
    bomb = zstandard.ZstdCompressor().compress(bytes(64 * 1024 * 1024))
    with pytest.raises(LogCorrupt, match="larger than any segment"):
        decode_segment(whole[:HEADER_BYTES] + bomb)


def test_other_files_are_no_segments() -> None:
    with pytest.raises(LogCorrupt, match="no segment"):
        decode_header(b"SQLite format 3\0" * 20)
