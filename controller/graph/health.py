"""How an edge is, as far as is known now. Owns what follows from what; computed when it is read, never stored.

What a controller has not heard of it does not know: the time since when comes from the spectrum of nodes and from the
links between controllers (docs/connectivity.md).
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from controller.connectivity.spectrum import Mode
from controller.graph.surroundings import Surroundings
from controller.graph.vertices import CONTROLLERS, NODES, Edge, EdgeType, id_of
from controller.twin.facts import body_of
from controller.twin.freshness import Freshness
from controller.twin.hops import Hop
from federation.identifiers import Key
from federation.state import State
from souverix.fleet.v1 import lifecycle_pb2, node_pb2


class Health(enum.IntEnum):
    """Numbers are the wire's (`souverix.graph.v1.EdgeHealthState`)."""

    OK = 1
    DEGRADED = 2
    DOWN = 3
    UNKNOWN = 4


class Condition(NamedTuple):
    """How a vertex or an edge is; `since_ms` for what is unknown, milliseconds since the epoch."""

    health: Health
    reason: str = ""
    since_ms: int | None = None


FINE = Condition(Health.OK)

#: What is certain counts before what is not, what is worse before what is better.
_RANK = {Health.OK: 0, Health.DEGRADED: 1, Health.UNKNOWN: 2, Health.DOWN: 3}

#: Nodes in these phases take no part in the work of others.
_OUT_OF_WORK = {
    lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED: "QUARANTINED",
    lifecycle_pb2.LIFECYCLE_PHASE_RETIRED: "RETIRED",
}

#: A link to the node stands in these modes, and is not as it should be.
_POORLY_LINKED = (Mode.DELAYED, Mode.EDGE_CACHED, Mode.RETURNING, Mode.REPLAYING)

#: Edges that something flows along.
WITH_HEALTH = (EdgeType.SIGNALING, EdgeType.MEDIA, EdgeType.CONTROL, EdgeType.BYPASS)


class EdgeJudge:
    """Judges edges for one answer. `catching_up` names controllers whose sessions here are not level."""

    def __init__(
        self,
        state: State,
        surroundings: Surroundings,
        freshness: Freshness,
        catching_up: frozenset[str] = frozenset(),
    ) -> None:
        self._state = state
        self._surroundings = surroundings
        self._freshness = freshness
        self._catching_up = catching_up

    def condition_of(self, edge: Edge) -> Condition | None:
        """How an edge is; None for one that nothing flows along."""
        if edge.type not in WITH_HEALTH:
            return None
        if edge.relationship:
            return worst(self._end(edge.start), self._end(edge.end))
        if edge.start.startswith(f"{CONTROLLERS}/"):
            return self._session(id_of(edge.start), id_of(edge.end))
        return self._delivery(edge.start)

    # What a node or a domain contributes to a declared edge.

    def _end(self, vertex: str) -> Condition:
        if not self._surroundings.exists(vertex):
            return Condition(Health.DOWN, f"{vertex} is deleted, or not known here")
        if not vertex.startswith(f"{NODES}/"):
            return self._reached(vertex, id_of(vertex)) or FINE
        domain = self._surroundings.domain_of(vertex)
        phase = body_of(self._state, Key(domain, vertex, "lifecycle"))
        if phase is not None and phase.phase in _OUT_OF_WORK:
            return Condition(Health.DOWN, f"{vertex} is {_OUT_OF_WORK[phase.phase]}")
        return self._reached(vertex, domain) or self._heard(vertex, domain)

    def _heard(self, vertex: str, domain: str) -> Condition:
        """A node that is cut off from its controller may do its work towards others: that is not known."""
        mode, since_ms = self._mode(vertex, domain)
        if mode is Mode.DISCONNECTED:
            return Condition(Health.DOWN, f"{vertex} is DISCONNECTED")
        if mode in (Mode.AUTONOMOUS, Mode.UNKNOWN):
            return Condition(Health.UNKNOWN, f"{vertex} is not heard of", since_ms)
        report = body_of(self._state, Key(domain, vertex, "actual_state"))
        health = report.runtime.health if report is not None else 0
        if health == node_pb2.RUNTIME_HEALTH_FAILED:
            return Condition(Health.DOWN, f"{vertex} reports FAILED")
        if health == node_pb2.RUNTIME_HEALTH_DEGRADED:
            return Condition(Health.DEGRADED, f"{vertex} reports DEGRADED")
        if mode in _POORLY_LINKED:
            return Condition(Health.DEGRADED, f"{vertex} is {mode.name}")
        return FINE

    # Derived edges.

    def _delivery(self, node: str) -> Condition:
        """From a node to the relay or controller it is reached by."""
        domain = self._surroundings.domain_of(node)
        cut_off = self._reached(node, domain)
        if cut_off is not None:
            return cut_off
        mode, since_ms = self._mode(node, domain)
        if mode is Mode.UNKNOWN:
            return Condition(Health.UNKNOWN, f"{node} was never heard of", since_ms)
        if mode in (Mode.AUTONOMOUS, Mode.DISCONNECTED):
            return Condition(Health.DOWN, f"{node} is {mode.name}")
        if mode in _POORLY_LINKED:
            return Condition(Health.DEGRADED, f"{node} is {mode.name}")
        return FINE

    def _session(self, child: str, parent: str) -> Condition:
        """Between a controller and the one above, by the end of it that is nearer to here."""
        me = self._state.controller
        domain = self._surroundings.domain_of(f"{CONTROLLERS}/{child}")
        above = self._surroundings.domain_of(f"{CONTROLLERS}/{parent}")
        below_here = self._state.authority.is_within(above, self._freshness.own_domain)
        near, far = (parent, child) if below_here else (child, parent)
        if near != me:
            reached = self._reached(f"{CONTROLLERS}/{near}", above if below_here else domain)
            if reached is not None:
                return reached
        since_ms = self._freshness.link_down_since_ms(Hop(near, far, domain))
        if since_ms is not None:
            return Condition(Health.DOWN, f"{near} has no session with {far}", since_ms)
        if near == me and far in self._catching_up:
            return Condition(Health.DEGRADED, f"the session with {far} is not level")
        return FINE

    def _reached(self, vertex: str, domain: str) -> Condition | None:
        """None where the domain's controller can be reached from here."""
        since_ms = self._freshness.unknown_since_ms(domain)
        if since_ms is None:
            return None
        return Condition(
            Health.UNKNOWN, f"the controller of {vertex} cannot be reached from here", since_ms
        )

    def _mode(self, vertex: str, domain: str) -> tuple[Mode, int | None]:
        link = body_of(self._state, Key(domain, vertex, "link_state"))
        if link is None or link.mode not in set(Mode):
            return Mode.UNKNOWN, None
        since = link.last_seen_time if link.HasField("last_seen_time") else link.since
        return Mode(link.mode), since.ToMilliseconds() or None


def worst(one: Condition, other: Condition) -> Condition:
    """What two ends make of an edge; of two unknown ones the one that is unknown for longer."""
    if one.health is other.health is Health.UNKNOWN:
        times = [c.since_ms for c in (one, other) if c.since_ms is not None]
        return Condition(Health.UNKNOWN, one.reason, min(times, default=None))
    return max(one, other, key=lambda condition: _RANK[condition.health])
