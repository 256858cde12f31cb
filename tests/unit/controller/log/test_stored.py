from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.log.errors import LogCorrupt
from controller.log.port import EMPTY_HASH, HASH_BYTES, NONCE_BYTES, Head
from controller.log.stored import Chain, decode_head, encode_commit, encode_head, hash_before_in

NONCE = bytes(range(NONCE_BYTES))


@given(
    st.integers(0, 2**64 - 1),
    st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES),
    st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES),
)
def test_a_head_is_read_as_it_was_stored(offset: int, chain_hash: bytes, nonce: bytes) -> None:
    head = Head(offset, chain_hash, nonce)
    assert decode_head(encode_head(head)) == head


@pytest.mark.parametrize(
    "stored", [b"", b"\x01", bytes(57), encode_head(Head(0, EMPTY_HASH, NONCE))[:-1]]
)
def test_an_unreadable_head_is_refused(stored: bytes) -> None:
    with pytest.raises(LogCorrupt, match="head is unreadable"):
        decode_head(stored)


@given(st.lists(st.binary(max_size=50), max_size=8), st.integers(0, 8))
def test_a_chain_is_verified_from_any_offset_on(commits: list[bytes], first: int) -> None:
    head = Head(0, EMPTY_HASH, NONCE)
    stored = []
    for commit in commits:
        stored.append(encode_commit(head.hash, commit))
        head = head.after(commit)
        assert hashlib.sha256(stored[-1]).digest() == head.hash
    chain = Chain(first)
    taken = [chain.take(offset, stored[offset]) for offset in range(first, len(commits))]
    assert taken == list(enumerate(commits))[first:]


def test_a_commit_that_follows_another_past_is_refused() -> None:
    chain = Chain(0)
    chain.take(0, encode_commit(EMPTY_HASH, b"one"))
    with pytest.raises(LogCorrupt, match="chain breaks at commit 1"):
        chain.take(1, encode_commit(EMPTY_HASH, b"two"))


def test_a_gap_is_refused() -> None:
    with pytest.raises(LogCorrupt, match="commit 3 is missing: found 4"):
        Chain(3).take(4, encode_commit(EMPTY_HASH, b"one"))


def test_a_truncated_commit_is_refused() -> None:
    with pytest.raises(LogCorrupt, match="commit 0 is unreadable"):
        Chain(0).take(0, b"short")


def test_the_hash_before_a_commit_stands_with_it() -> None:
    before = hashlib.sha256(b"past").digest()
    assert hash_before_in(encode_commit(before, b"one")) == before
