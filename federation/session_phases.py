"""The phases of a sync session: which frames are in place in each, and which step leads on, with the reason. Owns
both tables; never acts on them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple


class Phase(enum.Enum):
    """How far a session is."""

    GREETING = "greeting"
    COMPARING = "comparing"
    POSITIONING = "positioning"
    SYNCING = "syncing"
    CLOSED = "closed"


class Step(enum.Enum):
    """What moves a session from one phase to another."""

    ADMITTED = "admitted"
    COMPARED = "compared"
    POSITIONED = "positioned"
    LEVEL = "level"
    REFUSED = "refused"
    BROKEN = "broken"
    SILENT = "silent"
    DISMISSED = "dismissed"
    ENDED = "ended"


class Edge(NamedTuple):
    """Where a step leads, and why."""

    to: Phase
    because: str


#: Frames come in order, so that a peer's digests, positions and runs each follow the last of what came before.
#: phase -> frame kind -> why it is in place there. What is missing ends the session as a protocol error.
ALLOWED: Final[Mapping[Phase, Mapping[str, str]]] = {
    Phase.GREETING: {"hello": "each side greets first"},
    Phase.COMPARING: {
        "have_digests": "digests follow the greeting",
        "heartbeat": "comparing may take long",
    },
    Phase.POSITIONING: {
        "have_positions": "positions follow where digests differ",
        "heartbeat": "positions may take many frames",
    },
    Phase.SYNCING: {
        "runs": "events",
        "ack": "events are durable",
        "credit": "there is room for more",
        "forward": "a client's write for another controller",
        "forward_reply": "its outcome",
        "want_chunks": "large values named by events",
        "chunk": "their pieces",
        "heartbeat": "signs of life",
    },
    Phase.CLOSED: {},
}

#: Steps that end a session in any phase.
_ENDS: Final[Mapping[Step, str]] = {
    Step.BROKEN: "the peer sent what the protocol forbids, and nothing it sends can be relied on",
    Step.SILENT: "a peer that gives no sign of life is gone, and its connection holds a place",
    Step.DISMISSED: "the peer said goodbye",
    Step.ENDED: "the driver ends it: shutdown, lost mastership, a newer session of the same peer",
}

TRANSITIONS: Final[Mapping[tuple[Phase, Step], Edge]] = {
    (Phase.GREETING, Step.ADMITTED): Edge(
        Phase.COMPARING, "the peer is known, speaks a common version and may replay now"
    ),
    (Phase.GREETING, Step.REFUSED): Edge(
        Phase.CLOSED, "the peer is unknown, speaks no common version, or too many replay at once"
    ),
    (Phase.COMPARING, Step.COMPARED): Edge(
        Phase.POSITIONING, "all of the peer's digests came: it is known which domains differ"
    ),
    (Phase.POSITIONING, Step.POSITIONED): Edge(
        Phase.SYNCING, "all of the peer's positions came: it is known what it lacks"
    ),
    (Phase.SYNCING, Step.LEVEL): Edge(
        Phase.CLOSED, "both sides are level, and the mode keeps no session open"
    ),
    **{
        (phase, step): Edge(Phase.CLOSED, reason)
        for phase in Phase
        if phase is not Phase.CLOSED
        for step, reason in _ENDS.items()
    },
}
