"""Received events whose large values are not here yet: their acknowledgement waits. Owns which events wait for which
chunks; never asks for a chunk.

An event that names a large value is acknowledged when its chunks are as durable (design §4). What is withheld is the
acknowledgement alone: the events are durable and have effect, and their credit went back.
"""

from __future__ import annotations

from collections.abc import Iterable

from federation.identifiers import Lane, StreamId

#: Chunks waited for in one session: at 128 KiB each, twice what a controller's store of large values holds.
MAX_CHUNKS = 65_536


class Withheld:
    """What one session waits for. `known` is False while nobody has compared what was received earlier with the chunks
    that are here.
    """

    __slots__ = ("_events", "_overflow", "_waiting", "known")

    def __init__(self, *, known: bool) -> None:
        self.known = known
        #: chunk -> events that wait for it.
        self._waiting: dict[str, set[tuple[StreamId, int]]] = {}
        #: stream -> number of the event -> chunks it waits for.
        self._events: dict[StreamId, dict[int, int]] = {}
        #: stream -> first event that found no room here: nothing from it on is acknowledged in this session.
        self._overflow: dict[StreamId, int] = {}

    def hold(self, stream: StreamId, sequence: int, digests: Iterable[str]) -> None:
        """Withholds an event, and all after it, until each of these chunks is settled."""
        for digest in digests:
            events = self._waiting.get(digest)
            if events is None:
                if len(self._waiting) >= MAX_CHUNKS:
                    first = self._overflow.get(stream, sequence)
                    self._overflow[stream] = min(first, sequence)
                    return
                events = self._waiting[digest] = set()
            if (stream, sequence) not in events:
                events.add((stream, sequence))
                held = self._events.setdefault(stream, {})
                held[sequence] = held.get(sequence, 0) + 1

    def settle(self, digest: str) -> set[StreamId]:
        """A chunk is here, or is not to be had. Returns the streams that can be acknowledged further."""
        gained = set()
        for stream, sequence in self._waiting.pop(digest, ()):
            held = self._events[stream]
            held[sequence] -= 1
            if held[sequence] == 0:
                del held[sequence]
                gained.add(stream)
            if not held:
                del self._events[stream]
        return gained

    def durable(self, stream: StreamId, received: int) -> int:
        """How far a stream that is received up to here can be acknowledged."""
        if stream.lane is not Lane.TELEMETRY:
            return received
        if not self.known:
            return 0
        first = received + 1
        for sequence in self._events.get(stream, ()):
            first = min(first, sequence)
        return min(first, self._overflow.get(stream, first)) - 1
