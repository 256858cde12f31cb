"""What a sync session asks of its driver. Owns the effects' shapes; never carries one out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from federation.identifiers import StreamId
from federation.outbox import LogReading
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2


@dataclass(frozen=True, slots=True)
class Send:
    """Send a frame."""

    frame: sync_pb2.Frame


@dataclass(frozen=True, slots=True)
class Read:
    """Read commits, and answer with `Session.read`."""

    reading: LogReading


@dataclass(frozen=True, slots=True)
class Ingest:
    """Propose runs to the log, and answer with `Session.ingested`."""

    runs: Sequence[event_pb2.Run]
    size: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Events are known to be durable at a domain."""

    domain: str
    positions: Mapping[StreamId, int]


@dataclass(frozen=True, slots=True)
class Passed:
    """A frame that concerns the driver: forwards, chunks."""

    frame: sync_pb2.Frame


@dataclass(frozen=True, slots=True)
class Live:
    """Both sides know what the other holds; events flow from here on."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the session."""

    reason: int
    message: str
    retry_after_ms: int = 0


Effect = Send | Read | Ingest | Acknowledged | Passed | Live | Close
