"""How far each stream is held and in effect. Owns the record of one stream; judges nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from federation.backlog import StreamIndex
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


@dataclass(slots=True)
class StreamState:
    """How far one stream is held and in effect."""

    received: int
    chain_hash: bytes
    applied: int = 0
    waiting: deque[ReceivedRun] = field(default_factory=deque)
    waiting_reason: str = ""
    quarantine_reason: str = ""
    quarantined_runs: int = 0
    index: StreamIndex = field(default_factory=StreamIndex)


@lru_cache(OWN_STREAMS_KEPT)
def own_stream(domain: str, origin: Origin, aspect: str) -> StreamId:
    """The stream in which an origin writes an aspect of a domain."""
    return StreamId(domain, origin, ASPECTS[aspect].lane)
