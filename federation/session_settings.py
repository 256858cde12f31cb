"""What a sync session is told at its start. Owns the settings and their defaults; never reads configuration."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

#: Silence after which a heartbeat is sent, unless the sync strategy says otherwise.
HEARTBEAT_MS = 5_000


class PeerRole(enum.Enum):
    """What the peer is to this controller."""

    PARENT = "parent"
    CHILD = "child"


class Admission(Protocol):
    """Bounds how many peers replay at once."""

    def try_admit(self, controller: str, backlog_events: int) -> int | None:
        """None: go on. A number: milliseconds after which to try again."""

    def replayed(self, controller: str) -> None:
        """The peer has brought its backlog: its place is free."""


class Unbounded:
    """Admits everyone; for the side that dials."""

    def try_admit(self, controller: str, backlog_events: int) -> int | None:
        """Always None."""
        return None

    def replayed(self, controller: str) -> None:
        """Holds no places."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a session is told at its start."""

    controller: str
    replica: str
    domain: str
    incarnation: int
    peer_role: PeerRole
    #: Peers that may be at the other end: controller -> domain it serves (empty domain: whatever it says).
    peers: Mapping[str, str]
    #: True in continuous mode. False: the session ends when both sides are level.
    keep_open: bool = True
    batch_events: int = 0
    heartbeat_ms: int = HEARTBEAT_MS
    #: Longest silence the peer keeps: its strategy may ask for less than the default, never for more.
    peer_heartbeat_ms: int = HEARTBEAT_MS
    subscriptions: tuple[str, ...] = ()
    #: Events this side thinks the other lacks; the dialled side admits replays by it.
    backlog_events: int = 0
    admission: Admission = field(default_factory=Unbounded)
    #: True where the driver keeps large values: telemetry is acknowledged as far as it says that they are here.
    keeps_values: bool = False
