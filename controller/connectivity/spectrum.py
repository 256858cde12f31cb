"""The connectivity spectrum of a node: its modes, and which evidence leads from one to another. Owns the table; never
measures, and never decides when evidence is there.

The modes and their order are the seeds' (seed 1 §3, seed 3's ledger): LIVE, DELAYED, EDGE_CACHED, AUTONOMOUS,
DISCONNECTED, RETURNING, REPLAYING. Evidence without an edge in a mode changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple


class Mode(enum.IntEnum):
    """A place on the spectrum; numbers are the wire's (`ConnectivityMode`)."""

    UNKNOWN = 0
    LIVE = 1
    DELAYED = 2
    EDGE_CACHED = 3
    AUTONOMOUS = 4
    DISCONNECTED = 5
    RETURNING = 6
    REPLAYING = 7


class Evidence(enum.Enum):
    """What moves a node on the spectrum."""

    LINKED = "a link stands, and nothing much waits at the node"
    LINKED_WITH_BACKLOG = "a link stands, and a backlog waits at the node"
    BACKLOG_ARRIVES = "the first report of the backlog has arrived"
    BACKLOG_REPLAYED = "all reports that waited are in effect"
    ROUND_TRIP_LONG = "round trips have been long for a while"
    ROUND_TRIP_SHORT = "round trips have been short for a while"
    VISITS = "the link ended again soon: the node comes by at intervals"
    STEADY = "the link has stood for a while"
    VISIT_OVERDUE = "the node did not come by when it should have"
    LOST = "no link has stood for a while"
    SILENT_TOO_LONG = "nothing was heard for longer than a node is trusted to work alone"
    STOPPED = "the agent said that it stops"


class Edge(NamedTuple):
    """Where evidence leads, the reason that is recorded (a stable word), and why."""

    to: Mode
    reason: str
    because: str


_M, _E = Mode, Evidence

_LOST = Edge(
    _M.AUTONOMOUS,
    "connection_lost",
    "a cut-off node works on by the policies it holds, and records",
)
_STOPPED = Edge(_M.DISCONNECTED, "agent_stopped", "the node itself said that nothing works on")
_BACK = Edge(
    _M.RETURNING, "connection_detected", "what waits must be replayed before the node is live again"
)
_REPLAYED = Edge(_M.LIVE, "replay_completed", "all that waited has arrived and is in effect")

#: Every move there is.
TRANSITIONS: Final[Mapping[tuple[Mode, Evidence], Edge]] = {
    (_M.UNKNOWN, _E.LINKED): Edge(_M.LIVE, "first_contact", "heard for the first time"),
    (_M.UNKNOWN, _E.LINKED_WITH_BACKLOG): _BACK,
    (_M.LIVE, _E.ROUND_TRIP_LONG): Edge(
        _M.DELAYED, "latency_high", "connected, but not in real time"
    ),
    (_M.DELAYED, _E.ROUND_TRIP_SHORT): Edge(_M.LIVE, "latency_normal", "in real time again"),
    (_M.EDGE_CACHED, _E.STEADY): Edge(
        _M.LIVE, "link_steady", "the node stays instead of coming by at intervals"
    ),
    (_M.EDGE_CACHED, _E.VISIT_OVERDUE): Edge(
        _M.AUTONOMOUS, "contact_overdue", "the node is away for longer than its interval explains"
    ),
    (_M.AUTONOMOUS, _E.LINKED): Edge(
        _M.LIVE, "connection_detected", "back, and there is nothing to replay"
    ),
    (_M.AUTONOMOUS, _E.SILENT_TOO_LONG): Edge(
        _M.DISCONNECTED, "silent_too_long", "nothing tells any more that the node is working"
    ),
    (_M.DISCONNECTED, _E.LINKED): Edge(
        _M.LIVE, "connection_detected", "back, and there is nothing to replay"
    ),
    (_M.RETURNING, _E.BACKLOG_ARRIVES): Edge(
        _M.REPLAYING, "replay_started", "the node uploads what it recorded while it was away"
    ),
    (_M.RETURNING, _E.BACKLOG_REPLAYED): _REPLAYED,
    (_M.REPLAYING, _E.BACKLOG_REPLAYED): _REPLAYED,
    **{
        (mode, _E.LINKED_WITH_BACKLOG): _BACK
        for mode in (_M.LIVE, _M.DELAYED, _M.AUTONOMOUS, _M.DISCONNECTED)
    },
    **{
        (mode, _E.VISITS): Edge(
            _M.EDGE_CACHED, "sync_interval_long", "it works from its cache and syncs at intervals"
        )
        for mode in (_M.LIVE, _M.DELAYED)
    },
    **{(mode, _E.LOST): _LOST for mode in (_M.LIVE, _M.DELAYED, _M.RETURNING, _M.REPLAYING)},
    **{
        (mode, _E.STOPPED): _STOPPED
        for mode in (
            _M.LIVE,
            _M.DELAYED,
            _M.EDGE_CACHED,
            _M.RETURNING,
            _M.REPLAYING,
        )
    },
}
