"""What stands in the store: the bytes of a head and of a commit, the same in every adapter.

Owns these two encodings and the verification of the chain. Never talks to a store.

A stored commit is `hash before it ‖ commit bytes`, and the hash after it is the SHA-256 of that
whole value. So a chain can be verified from any offset on, and the hash before an offset is read
from that one value. A stored head is a format byte, the next offset (8 bytes, big-endian), the
hash and the nonce; it is compared byte by byte, which covers offset, chain and nonce in one
condition.
"""

from __future__ import annotations

import hashlib
import struct

from controller.log.errors import LogCorrupt
from controller.log.port import HASH_BYTES, NONCE_BYTES, CommitAt, Head

_HEAD = struct.Struct(f">BQ{HASH_BYTES}s{NONCE_BYTES}s")
_HEAD_FORMAT = 1


def encode_head(head: Head) -> bytes:
    """The stored form of a head."""
    return _HEAD.pack(_HEAD_FORMAT, head.next_offset, head.hash, head.nonce)


def decode_head(stored: bytes) -> Head:
    """The head from its stored form. Raises LogCorrupt."""
    if len(stored) != _HEAD.size or stored[0] != _HEAD_FORMAT:
        raise LogCorrupt(
            f"the log's head is unreadable ({len(stored)} bytes, expected {_HEAD.size} of format "
            f"{_HEAD_FORMAT}); was it written by a newer release, or is the prefix someone else's?"
        )
    _, next_offset, chain_hash, nonce = _HEAD.unpack(stored)
    return Head(next_offset, chain_hash, nonce)


def encode_commit(hash_before: bytes, commit: bytes) -> bytes:
    """The stored form of a commit."""
    return hash_before + commit


def hash_before_in(stored: bytes) -> bytes:
    """The hash that stood before a stored commit."""
    return stored[:HASH_BYTES]


class Chain:
    """Verifies stored commits as they come, in order, from a given offset on."""

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        self._hash: bytes | None = None

    def take(self, offset: int, stored: bytes) -> CommitAt:
        """The commit at `offset`.

        Raises LogCorrupt if it is not the next one or breaks the chain.
        """
        if offset != self.next_offset:
            raise LogCorrupt(f"commit {self.next_offset} is missing: found {offset} in its place")
        if len(stored) < HASH_BYTES:
            raise LogCorrupt(f"commit {offset} is unreadable: {len(stored)} bytes")
        if self._hash is not None and hash_before_in(stored) != self._hash:
            raise LogCorrupt(f"the chain breaks at commit {offset}: it follows another past")
        self.next_offset = offset + 1
        self._hash = hashlib.sha256(stored).digest()
        return offset, stored[HASH_BYTES:]
