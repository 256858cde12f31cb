"""Caps on the effective time of events whose stamps ran ahead. Owns what ancestors recorded, and what they still have
to; never a clock.

An ancestor that receives events stamped beyond honest skew writes one `Admission` into the events' domain, in the
commit that receives them. Where it does not know yet whose events they are, it owes the admission until it does: what
was received too early is remembered with the time of its receipt. The effective time of an event is the minimum of
its stamp and all admissions: one replicated outcome, the same everywhere (design §5).
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.authority import AuthorityTable
from federation.clock import MAX_AHEAD_MS, stamp_of
from federation.codec import Write
from federation.identifiers import Key, Lane, Origin, StreamId
from souverix.federation.v1 import authority_pb2

#: Runs of one stream that wait for an admission; later ones count as received with the last of these.
MAX_UNADMITTED_A_STREAM = 1000


def admission_key(domain: str, record: authority_pb2.Admission) -> Key:
    """The key an admission is written under."""
    origin = f"{record.controller}.{record.incarnation}.{record.lane}.{record.first_sequence}"
    return Key(domain, f"admissions/{origin}", "admission")


def admission_of(
    stream: StreamId, ahead: Sequence[int], chain_hash: bytes, received_stamp: int
) -> authority_pb2.Admission:
    """The admission of a run's events that are ahead, by their numbers in order."""
    return authority_pb2.Admission(
        controller=stream.origin.controller,
        incarnation=stream.origin.incarnation,
        lane=int(stream.lane),
        first_sequence=ahead[0],
        last_sequence=ahead[-1],
        chain_hash=chain_hash,
        received_stamp=received_stamp,
    )


def stands_above(
    table: AuthorityTable, own_domain: str, served: str | None, stream: StreamId
) -> bool:
    """Tells whether the controller of `own_domain` may cap a stream whose origin serves `served`: its domain holds the
    events' and is above the origin's.
    """
    return (
        served is not None
        and served != own_domain
        and table.is_within(served, own_domain)
        and table.is_within(stream.domain, own_domain)
    )


class Admissions:
    """Recorded admissions, by the stream they speak of, and what waits for one."""

    __slots__ = ("ranges", "unadmitted")

    def __init__(self) -> None:
        #: (first, last, stamp) of what was recorded.
        self.ranges: dict[StreamId, list[tuple[int, int, int]]] = {}
        #: Received ahead of time and not capped yet; whether that is this controller's to do may not be known yet.
        self.unadmitted: dict[StreamId, list[authority_pb2.Admission]] = {}

    def put(self, domain: str, record: authority_pb2.Admission) -> StreamId:
        """Takes a record in; returns the stream whose events it caps."""
        stream = StreamId(domain, Origin(record.controller, record.incarnation), Lane(record.lane))
        entry = (record.first_sequence, record.last_sequence, record.received_stamp)
        ranges = self.ranges.setdefault(stream, [])
        if entry not in ranges:
            ranges.append(entry)
        self._settle(stream, *entry)
        return stream

    def note_ahead(
        self,
        stream: StreamId,
        chain_hash: bytes,
        writes: Sequence[Write | None],
        time_ms: int,
        clock: int,
    ) -> None:
        """Events came in a commit of this time and clock; those that were ahead of both wait for an admission."""
        limit = max(clock, stamp_of(time_ms + MAX_AHEAD_MS))
        ahead = [write[1] for write in writes if write is not None and write[2] > limit]
        if not ahead:
            return
        received_stamp = max(clock, stamp_of(time_ms))
        waiting = self.unadmitted.setdefault(stream, [])
        if len(waiting) < MAX_UNADMITTED_A_STREAM:
            waiting.append(admission_of(stream, ahead, chain_hash, received_stamp))
        else:
            waiting[-1].last_sequence = ahead[-1]
            waiting[-1].received_stamp = received_stamp

    def effective_stamp(self, domain: str, lane: Lane, write: Write) -> int:
        """The write's stamp, capped by every admission that covers it."""
        if not self.ranges:
            return write.stamp
        ranges = self.ranges.get(StreamId(domain, write.origin, lane))
        if not ranges:
            return write.stamp
        return min(
            [write.stamp, *(cap for first, last, cap in ranges if first <= write.sequence <= last)]
        )

    def _settle(self, stream: StreamId, first: int, last: int, cap: int) -> None:
        """Drops what waited for an admission like this one, or could only have been higher."""
        waiting = self.unadmitted.get(stream)
        if waiting is None:
            return
        left = [
            record
            for record in waiting
            if not (
                first <= record.first_sequence
                and record.last_sequence <= last
                and cap <= record.received_stamp
            )
        ]
        if left:
            self.unadmitted[stream] = left
        else:
            del self.unadmitted[stream]
