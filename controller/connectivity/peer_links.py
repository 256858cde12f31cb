"""Links between controllers, as one end sees the other: up or down, and which evidence leads from one to the other.
Owns the table and the hysteresis; never opens a session, and writes nothing.

A controller two hops away cannot see whether a link below its child stands. So each end of a link records the link's
transitions, and what it records travels like every other fact (docs/connectivity.md). Where nothing was ever recorded a
link counts as up, so that a federation that runs writes nothing of this.

Times are monotonic seconds, given as arguments; None is "never".
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from controller.nodelink.rate import TokenBucket

#: Transitions of one link recorded at once, and in the long run: a link that flaps is told of at the rate of a node's.
RECORDS_BURST = 6
RECORDS_PER_S = 1 / 30


class PeerLinkState(enum.IntEnum):
    """Numbers are the wire's (`souverix.federation.v1.PeerLinkState`)."""

    UP = 1
    DOWN = 2


class PeerEvidence(enum.Enum):
    """What moves a link."""

    LOST = "no session has stood for a while"
    VISITED = "the peer came by, and has been gone again for a while"
    LEVEL = "a session stands, and what waited has arrived"


class PeerEdge(NamedTuple):
    """Where evidence leads, the reason that is recorded (a stable word), and why."""

    to: PeerLinkState
    reason: str
    because: str


#: Every move there is.
TRANSITIONS: Final[Mapping[tuple[PeerLinkState, PeerEvidence], PeerEdge]] = {
    (PeerLinkState.UP, PeerEvidence.LOST): PeerEdge(
        PeerLinkState.DOWN, "connection_lost", "what happens beyond the link is unknown from now on"
    ),
    (PeerLinkState.DOWN, PeerEvidence.VISITED): PeerEdge(
        PeerLinkState.DOWN, "visit_over", "what is beyond was known for the time of the visit"
    ),
    (PeerLinkState.DOWN, PeerEvidence.LEVEL): PeerEdge(
        PeerLinkState.UP, "connection_detected", "what is beyond the link is known again"
    ),
}


@dataclass(frozen=True, slots=True)
class Contact:
    """What there is of a peer now."""

    #: When it was last heard by this process; None: never.
    heard_s: float | None
    #: Whether what waited when the session began has arrived; None: no session stands.
    level: bool | None


@dataclass(frozen=True, slots=True)
class PeerChange:
    """A link changed; `heard_s` is when the peer was last heard."""

    peer: str
    state: PeerLinkState
    reason: str
    evidence: str
    heard_s: float


@dataclass(slots=True)
class _Peer:
    state: PeerLinkState
    #: When the peer was last heard; None: never, so that there is nothing to lose.
    heard_s: float | None
    #: When it was last heard before the latest record.
    told_s: float | None
    rate: TokenBucket
    absent_from_s: float | None = None
    linked_from_s: float | None = None


class PeerLinks:
    """All links of one controller."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}

    def known(self, peer: str, state: PeerLinkState, heard_s: float | None, now_s: float) -> None:
        """Takes in a peer as it was recorded, and when it was last heard by then."""
        told_s = heard_s if state is PeerLinkState.DOWN else None
        self._peers[peer] = _Peer(state, heard_s, told_s, _rate(now_s))

    def __contains__(self, peer: str) -> bool:
        return peer in self._peers

    def look(self, peer: str, contact: Contact, limit_s: float, now_s: float) -> PeerChange | None:
        """What became of one link since it was looked at last; None: nothing that is told now. `limit_s`: how long a
        link may be gone without being down.

        Absence counts from the look that found it: a process that was held up itself finds out first whether its
        sessions still stand.
        """
        held = self._peers.get(peer)
        if held is None:
            held = self._peers[peer] = _Peer(PeerLinkState.UP, None, None, _rate(now_s))
        evidence, words = _evidence(held, contact, limit_s, now_s)
        edge = TRANSITIONS.get((held.state, evidence)) if evidence is not None else None
        if edge is None or held.heard_s is None or not held.rate.take(now_s):
            return None
        held.state = edge.to
        held.told_s = held.heard_s
        return PeerChange(peer, edge.to, edge.reason, words, held.heard_s)


def _evidence(
    held: _Peer, contact: Contact, limit_s: float, now_s: float
) -> tuple[PeerEvidence | None, str]:
    """What the present contact is evidence of, and the measurement behind it."""
    if contact.heard_s is not None:
        held.heard_s = contact.heard_s
    if contact.level is not None:
        held.absent_from_s = None
        if held.linked_from_s is None:
            held.linked_from_s = now_s
        stood_s = now_s - held.linked_from_s
        # On a link that is never idle both sides may not be level at one moment for long.
        if contact.level or stood_s >= limit_s:
            return PeerEvidence.LEVEL, f"a session has stood for {stood_s:.1f} s"
        return None, ""
    held.linked_from_s = None
    if held.absent_from_s is None:
        held.absent_from_s = now_s
    absent_s = now_s - held.absent_from_s
    if absent_s < limit_s:
        return None, ""
    words = f"no session for {absent_s:.1f} s, limit {limit_s:g} s"
    if held.state is PeerLinkState.UP:
        return PeerEvidence.LOST, words
    if held.told_s is None or (held.heard_s is not None and held.heard_s > held.told_s):
        return PeerEvidence.VISITED, words
    return None, ""


def _rate(now_s: float) -> TokenBucket:
    return TokenBucket(RECORDS_PER_S, RECORDS_BURST, now_s)
