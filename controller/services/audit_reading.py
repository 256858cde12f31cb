"""Audit entries newest first: from memory where they are at hand, further back from the log itself. Owns their order
and the place in it that a page token holds.

The order is that of the log: later commits first, within a commit by stream, within a stream later events first. It
does not depend on when a stream's events came into effect, so that pages neither repeat nor lose entries.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import AsyncGenerator, Iterator
from typing import NamedTuple

from controller.replica import Replica
from controller.twin.facts import timestamp
from federation.clock import wall_ms_of
from federation.codec import stream_from_message
from federation.errors import InvalidWrite
from federation.identifiers import Lane, Origin, StreamId
from federation.state import State
from federation.streams import StreamState
from souverix.audit.v1 import audit_service_pb2
from souverix.event.v1 import event_pb2


class Place(NamedTuple):
    """One audit event's place in the order."""

    offset: int
    stream: StreamId
    sequence: int

    def text(self) -> str:
        """For a page token."""
        origin = self.stream.origin
        return (
            f"{self.offset}/{self.sequence}/{origin.incarnation}/{origin.controller}"
            f"/{self.stream.domain}"
        )


def place_of(text: str) -> Place:
    """The place a token holds. Raises `InvalidWrite`."""
    parts = text.split("/")
    try:
        offset, sequence, incarnation = (int(part) for part in parts[:3])
        controller, domain = parts[3:]
    except ValueError as error:
        raise InvalidWrite(
            "page_token is not one this service made; begin again without it", field="page_token"
        ) from error
    return Place(offset, StreamId(domain, Origin(controller, incarnation), Lane.AUDIT), sequence)


def entry_of(
    stream: StreamId, sequence: int, event: event_pb2.Event
) -> audit_service_pb2.AuditEntry:
    """An audit event as clients see it."""
    return audit_service_pb2.AuditEntry(
        domain=stream.domain,
        controller=stream.origin.controller,
        incarnation=stream.origin.incarnation,
        sequence=sequence,
        time=timestamp(wall_ms_of(event.stamp)),
        record=event.audit,
    )


class AuditReading:
    """One reading, of one domain's audit streams or (empty) of all held here."""

    def __init__(self, replica: Replica, domain: str) -> None:
        self.commits_read = 0
        self._replica = replica
        self._domain = domain
        self._newest = reversed(list(replica.state.audits))
        self._found: dict[tuple[StreamId, int], bytes] = {}
        self._commit: event_pb2.Commit | None = None

    async def entries(
        self, after: Place | None
    ) -> AsyncGenerator[tuple[Place, audit_service_pb2.AuditEntry | None], None]:
        """Entries in effect, after a place; None stands for an event that this version cannot read.

        Raises `LogError`.
        """
        for place in _newest_first(self._replica.state, self._domain, after):
            raw = self._at_hand(place) or await self._from_log(place)
            event = event_pb2.Event.FromString(raw)
            readable = event.WhichOneof("body") == "audit"
            yield place, entry_of(place.stream, place.sequence, event) if readable else None

    def _at_hand(self, place: Place) -> bytes | None:
        wanted = (place.stream, place.sequence)
        while wanted not in self._found:
            item = next(self._newest, None)
            if item is None:
                return None
            self._found[(item.stream, item.write.sequence)] = item.write.raw
        return self._found[wanted]

    async def _from_log(self, place: Place) -> bytes:
        if self._commit is None or self._commit.offset != place.offset:
            self._commit = (await self._replica.read_commits(place.offset, 1))[0]
            self.commits_read += 1
        for run in self._commit.runs:
            at = place.sequence - run.first_sequence
            if 0 <= at < len(run.events) and stream_from_message(run.stream) == place.stream:
                return run.events[at]
        return b""


def _newest_first(state: State, domain: str, after: Place | None) -> Iterator[Place]:
    """Places of audit events in effect. Positions only grow, so that it may run while the log does."""
    streams = {
        stream: held
        for stream, held in state.streams.items()
        if stream.lane is Lane.AUDIT and (not domain or stream.domain == domain)
    }
    heads: list[tuple[int, StreamId, int]] = []
    for stream, held in streams.items():
        last = held.applied if after is None else _last_after(stream, held, after)
        if last > 0:
            heads.append((-_offset_of(held, last), stream, -last))
    heapq.heapify(heads)
    while heads:
        offset, stream, last = heads[0]
        yield Place(-offset, stream, -last)
        if last == -1:
            heapq.heappop(heads)
        else:
            before = _offset_of(streams[stream], -last - 1)
            heapq.heapreplace(heads, (-before, stream, last + 1))


def _last_after(stream: StreamId, held: StreamState, after: Place) -> int:
    """Number of a stream's newest event that comes after a place in the order; 0 when there is none."""
    if stream == after.stream:
        return min(after.sequence - 1, held.applied)
    bound = after.offset + 1 if stream > after.stream else after.offset
    return bisect_left(
        range(1, held.applied + 1), bound, key=lambda sequence: _offset_of(held, sequence)
    )


def _offset_of(held: StreamState, sequence: int) -> int:
    offset = held.index.offset_of(sequence)
    assert offset is not None, "what is in effect was received"  # noqa: S101 an invariant of the state
    return offset
