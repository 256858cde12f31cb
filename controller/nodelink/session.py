"""One node's session: where it stands between its greeting and being live. Owns the transition table and which frames
are in place in which state; never reads a stream, writes a fact or tells time.

The session is the node's, not the stream's: a stream may carry one of them, or many.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple


class SessionState(enum.IntEnum):
    """Where a session stands; numbers are the wire's."""

    GREETED = 1
    CHALLENGED = 2
    ADMITTED = 3
    REPLAYING = 4
    RECONCILING = 5
    LIVE = 6
    QUARANTINED = 7
    DEFERRED = 8
    REFUSED = 9
    ENDED = 10


class Step(enum.Enum):
    """What moves a session on."""

    PLACE_FREE = "there is room for the node now"
    NO_PLACE = "too many return at once"
    NOT_WELCOME = "the agent is not this node's, or not to be served here"
    PROVED_LEVEL = "it proved its identity, and nothing waits at the node"
    PROVED_BEHIND = "it proved its identity, and a backlog waits at the node"
    PROVED_ISOLATED = "it proved its identity, and the node is isolated for what it brought back"
    TURN_CAME = "one of the places for replays is free"
    CHUNK_STAGED = "a chunk follows the chain"
    END_VERIFIED = "the last chunk is signed, and all that came leads there"
    VIOLATION = "what came is not what the agent recorded"
    MORE_WAITS = "this part is in effect; another waits at the node"
    IN_EFFECT = "all that waited is in effect"
    RELEASED = "an operator released the node"
    LOST = "the link is gone"


class Edge(NamedTuple):
    """Where a step leads, and why."""

    to: SessionState
    because: str


_S, _T = SessionState, Step

#: Every move there is. A step without an edge changes nothing.
TRANSITIONS: Final[Mapping[tuple[SessionState, Step], Edge]] = {
    (_S.GREETED, _T.PLACE_FREE): Edge(_S.CHALLENGED, "the node is known here and may come in"),
    (_S.GREETED, _T.NO_PLACE): Edge(
        _S.DEFERRED, "those who are in must not be harmed: a later time is kept for it"
    ),
    (_S.GREETED, _T.NOT_WELCOME): Edge(_S.REFUSED, "the goodbye says why, and what to do"),
    (_S.CHALLENGED, _T.PROVED_LEVEL): Edge(_S.LIVE, "there is nothing to reconcile"),
    (_S.CHALLENGED, _T.PROVED_BEHIND): Edge(
        _S.ADMITTED, "the lock is on: nothing is sent to the node before it is reconciled"
    ),
    (_S.CHALLENGED, _T.PROVED_ISOLATED): Edge(
        _S.QUARANTINED, "its backlog was refused, and nobody has decided since"
    ),
    (_S.CHALLENGED, _T.NOT_WELCOME): Edge(_S.REFUSED, "the goodbye says why, and what to do"),
    (_S.ADMITTED, _T.TURN_CAME): Edge(_S.REPLAYING, "first come, first served, so that all come"),
    (_S.REPLAYING, _T.CHUNK_STAGED): Edge(_S.REPLAYING, "kept without effect until the end"),
    (_S.REPLAYING, _T.END_VERIFIED): Edge(
        _S.RECONCILING, "all of it is the agent's and in order: it may take effect"
    ),
    (_S.REPLAYING, _T.VIOLATION): Edge(
        _S.QUARANTINED, "none of it takes effect, and an operator must look"
    ),
    (_S.RECONCILING, _T.MORE_WAITS): Edge(
        _S.ADMITTED, "a large backlog comes in parts, and takes turns with others'"
    ),
    (_S.RECONCILING, _T.IN_EFFECT): Edge(_S.LIVE, "the lock is off: commands may come"),
    (_S.QUARANTINED, _T.RELEASED): Edge(_S.ENDED, "the node returns anew, and is examined anew"),
    **{
        (state, _T.LOST): Edge(_S.ENDED, "what is staged is kept for a while, for the next link")
        for state in (_S.ADMITTED, _S.REPLAYING)
    },
    **{
        (state, _T.LOST): Edge(_S.ENDED, "the next link begins anew with what is durable")
        for state in (_S.GREETED, _S.CHALLENGED, _S.RECONCILING, _S.LIVE, _S.QUARANTINED)
    },
}

_ALWAYS = frozenset({"heartbeat", "goodbye"})

#: Frames in place once the node is linked. Any other breaks the protocol.
IN_PLACE: Final[Mapping[SessionState, frozenset[str]]] = {
    _S.ADMITTED: _ALWAYS,
    _S.REPLAYING: _ALWAYS | {"replay_chunk"},
    _S.RECONCILING: _ALWAYS | {"chunk"},
    _S.LIVE: _ALWAYS | {"report", "chunk", "result", "attestation"},
    # Chunks of a backlog that was refused meanwhile may still be on their way.
    _S.QUARANTINED: _ALWAYS | {"result", "replay_chunk", "attestation"},
}

#: States in which the lock is off. An isolated node is sent only what its lifecycle allows.
UNLOCKED: Final = frozenset({_S.LIVE, _S.QUARANTINED})

#: States that nothing leads out of.
OVER: Final = frozenset({_S.DEFERRED, _S.REFUSED, _S.ENDED})


class Session:
    """One node's session. `token` names it; the end of a replay is signed over it."""

    __slots__ = ("state", "token")

    def __init__(self, token: bytes) -> None:
        self.token = token
        self.state = SessionState.GREETED

    @property
    def is_unlocked(self) -> bool:
        """Tells whether commands may be sent."""
        return self.state in UNLOCKED

    def move(self, step: Step) -> bool:
        """Follows the table; False where it has no such edge, which changes nothing."""
        edge = TRANSITIONS.get((self.state, step))
        if edge is None:
            return False
        self.state = edge.to
        return True

    def takes(self, kind: str) -> bool:
        """Tells whether a frame of this kind is in place now."""
        return kind in IN_PLACE.get(self.state, frozenset())
