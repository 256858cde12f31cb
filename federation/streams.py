"""How far each stream is held and in effect. Owns the record of one stream; judges nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from federation.backlog import StreamIndex
from federation.chain import extend
from federation.codec import ASPECTS, Write
from federation.identifiers import Origin, StreamId
from souverix.event.v1 import event_pb2

#: Names of streams a controller writes, kept from one event to the next: its domains by their lanes.
OWN_STREAMS_KEPT = 4_096


class ReceivedRun(NamedTuple):
    """A run on its way to effect: its seal, its events, and whether the seal was checked at receipt."""

    seal: event_pb2.Seal
    writes: Sequence[Write | None]
    verified: bool
    #: Of a run that waits: the chain hash before its first event, and its events' bytes.
    follows: bytes = b""
    events: Sequence[bytes] = ()

    @property
    def first_sequence(self) -> int:
        """Number of its first event."""
        return self.seal.sequence - len(self.writes) + 1

    def kept(self, events: Sequence[bytes], follows: bytes) -> ReceivedRun:
        """The run with what is needed to judge it again, and in parts."""
        return self._replace(events=tuple(events), follows=follows)


class RefusedRun(NamedTuple):
    """A run that was refused at receipt; its bytes are in the log."""

    reason: str
    peer: str
    offset: int
    time_ms: int
    first_sequence: int
    last_sequence: int
    size_bytes: int
    #: Somebody decided that nothing is to be done about it.
    discarded: bool


@dataclass(slots=True)
class StreamState:
    """How far one stream is held and in effect."""

    received: int
    chain_hash: bytes
    applied: int = 0
    waiting: deque[ReceivedRun] = field(default_factory=deque)
    waiting_reason: str = ""
    quarantine_reason: str = ""
    index: StreamIndex = field(default_factory=StreamIndex)
    #: Which key sealed what is in effect: (first event, key id; empty: a decision stands for it), in order.
    keys: list[tuple[int, str]] = field(default_factory=list)
    #: Events that were passed over by decisions: (first, last), in order.
    skipped: list[tuple[int, int]] = field(default_factory=list)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of events that wait."""
        return sum(sum(map(len, run.events)) for run in self.waiting)

    def note_key(self, key_id: str) -> None:
        """Takes note of the key that stands for what comes into effect next."""
        if not self.keys or self.keys[-1][1] != key_id:
            self.keys.append((self.applied + 1, key_id))

    def key_ranges(self) -> Iterator[tuple[int, int, str]]:
        """What is in effect, by the keys that sealed it: (first, last, key id), without what a decision stands for."""
        ends = [first - 1 for first, _ in self.keys[1:]] + [self.applied]
        for (first, key_id), last in zip(self.keys, ends, strict=True):
            if key_id and first <= last:
                yield first, min(last, self.applied), key_id

    def pass_over(self, last: int) -> None:
        """Leaves events up to one without effect."""
        self.skipped.append((self.applied + 1, last))
        self.applied = last

    def has_skipped(self, sequence: int) -> bool:
        """Tells whether an event was passed over."""
        return any(first <= sequence <= last for first, last in self.skipped)

    def chain_hash_at(self, sequence: int) -> bytes | None:
        """Chain hash after an event that waits, or the last one held; None: it is not to be had from memory."""
        if sequence == self.received:
            return self.chain_hash
        for run in self.waiting:
            if run.seal.sequence == sequence:
                return run.seal.chain_hash
            if run.first_sequence <= sequence < run.seal.sequence and run.follows:
                return extend(run.follows, run.events[: sequence - run.first_sequence + 1])
        return None

    def is_at(self, sequence: int, chain_hash: bytes) -> bool:
        """Tells whether the stream is known to have this chain hash after an event, or does not reach it."""
        return sequence > self.received or self.chain_hash_at(sequence) == chain_hash


@lru_cache(OWN_STREAMS_KEPT)
def own_stream(domain: str, origin: Origin, aspect: str) -> StreamId:
    """The stream in which an origin writes an aspect of a domain."""
    return StreamId(domain, origin, ASPECTS[aspect].lane)
