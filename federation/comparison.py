"""What two sides hold, compared at the start of a session. Owns digests a domain and positions a stream, in pages;
never sends them.

Digests come first, so that a level pair of controllers with ten thousand streams exchanges one digest a domain.
Audit streams travel one way only, so that they stand in no digest and always in the positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from federation.codec import stream_to_message
from federation.errors import PeerError
from federation.identifiers import Lane, StreamId
from federation.state import State
from souverix.sync.v1 import sync_pb2

T = TypeVar("T")

#: Positions in one frame: 1,000 of about 100 bytes stay far below gRPC's message limit.
POSITIONS_A_FRAME = 1000

#: Domains one session may name: more than any tree on record, less than a hostile peer needs to fill memory.
MAX_DOMAINS = 100_000


class Comparison:
    """One session's comparison, from this side's point of view."""

    __slots__ = ("_digests", "_equal", "_is_shared", "_positions", "_state", "_theirs")

    def __init__(self, state: State, is_shared: Callable[[str], bool]) -> None:
        self._state = state
        self._is_shared = is_shared
        self._digests: dict[str, bytes] = {}
        #: What the digests stand for: the log may grow before the peer's come.
        self._positions: dict[StreamId, int] = {}
        self._theirs: dict[str, bytes] = {}
        self._equal: frozenset[str] = frozenset()

    def digests(self) -> list[sync_pb2.HaveDigests]:
        """This side's digests, in pages; called once."""
        by_domain: dict[str, list[StreamId]] = {}
        for stream in self._state.streams:
            if stream.lane is not Lane.AUDIT and self._is_shared(stream.domain):
                by_domain.setdefault(stream.domain, []).append(stream)
        for domain, streams in by_domain.items():
            digest = hashlib.sha256()
            for stream in sorted(streams):
                held = self._state.streams[stream]
                self._positions[stream] = held.received
                origin = stream.origin
                digest.update(
                    f"{origin.controller}/{origin.incarnation}/{int(stream.lane)}/{held.received}/".encode()
                )
                digest.update(held.chain_hash)
            self._digests[domain] = digest.digest()
        entries = [
            sync_pb2.DomainDigest(domain=domain, digest=digest)
            for domain, digest in sorted(self._digests.items())
        ]
        pages = _pages(entries)
        return [sync_pb2.HaveDigests(digests=page, last=page is pages[-1]) for page in pages]

    def take_digests(self, have: sync_pb2.HaveDigests) -> bool:
        """Takes in a page of the peer's digests; True when it was the last. Raises `PeerError`."""
        if len(self._theirs) + len(have.digests) > MAX_DOMAINS:
            raise PeerError(f"more than {MAX_DOMAINS} domains were named")
        for entry in have.digests:
            self._theirs[entry.domain] = entry.digest
        if have.last:
            self._equal = frozenset(
                domain
                for domain, digest in self._digests.items()
                if self._theirs.get(domain) == digest
            )
        return have.last

    def equal_positions(self) -> Mapping[StreamId, int]:
        """Positions the peer holds too, known from equal digests."""
        return {s: n for s, n in self._positions.items() if s.domain in self._equal}

    def positions(self) -> list[sync_pb2.HavePositions]:
        """This side's positions where the digests differ, in pages."""
        entries = [
            sync_pb2.StreamPosition(
                stream=stream_to_message(stream), sequence=held.received, chain_hash=held.chain_hash
            )
            for stream, held in self._state.streams.items()
            if self._is_shared(stream.domain)
            and (stream.lane is Lane.AUDIT or stream.domain not in self._equal)
        ]
        pages = _pages(entries)
        return [sync_pb2.HavePositions(positions=page, last=page is pages[-1]) for page in pages]


def _pages(entries: Sequence[T]) -> list[Sequence[T]]:
    """At least one page, so that there is one to be the last."""
    return [
        entries[i : i + POSITIONS_A_FRAME] for i in range(0, len(entries), POSITIONS_A_FRAME)
    ] or [[]]
