"""Caps on the effective time of events whose stamps ran ahead. Owns what ancestors recorded; never a clock.

An ancestor that receives events stamped beyond honest skew writes one `Admission` into the events' domain. The
effective time of an event is the minimum of its stamp and all admissions: one replicated outcome, the same
everywhere (design §5).
"""

from __future__ import annotations

from federation.codec import Write
from federation.identifiers import Lane, Origin, StreamId
from souverix.federation.v1 import authority_pb2


class Admissions:
    """Recorded admissions, by the stream they speak of."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: dict[StreamId, list[tuple[int, int, int]]] = {}

    def put(self, domain: str, record: authority_pb2.Admission) -> StreamId:
        """Takes a record in; returns the stream whose events it caps."""
        stream = StreamId(domain, Origin(record.controller, record.incarnation), Lane(record.lane))
        entry = (record.first_sequence, record.last_sequence, record.received_stamp)
        ranges = self._ranges.setdefault(stream, [])
        if entry not in ranges:
            ranges.append(entry)
        return stream

    def effective_stamp(self, domain: str, lane: Lane, write: Write) -> int:
        """The write's stamp, capped by every admission that covers it."""
        if not self._ranges:
            return write.stamp
        ranges = self._ranges.get(StreamId(domain, write.origin, lane))
        if not ranges:
            return write.stamp
        return min(
            [write.stamp, *(cap for first, last, cap in ranges if first <= write.sequence <= last)]
        )
