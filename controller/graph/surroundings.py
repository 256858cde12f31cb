"""The edges of the whole fleet around any vertex: the declared ones, and those that follow from the tree, the
placements, the grants and the links. Owns the derivation, for one answer; stores nothing of it.

What follows is never more than the facts say: containment from authority records and placements, control from link
states and the tree, trust from key grants.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from heapq import nsmallest

from controller.graph.declared import DeclaredEdges
from controller.graph.traversal import MAX_VERTICES
from controller.graph.vertices import (
    CONTROLLERS,
    DOMAINS,
    NODES,
    TRUST_DOMAINS,
    Direction,
    Edge,
    EdgeType,
    VertexKind,
    id_of,
    named,
)
from controller.twin.domain import is_known
from controller.twin.facts import body_of
from controller.twin.node import NodeAt, find_node
from federation.identifiers import Key
from federation.state import State
from souverix.fleet.v1 import node_pb2

#: Nodes of one domain that one answer looks at, in the order of their ids.
MAX_NODES_LOOKED_AT = MAX_VERTICES


class Surroundings:
    """All edges of a state, for one answer."""

    def __init__(self, state: State, declared: DeclaredEdges) -> None:
        self._state = state
        self._declared = declared
        records = state.authority.records
        self._children: dict[str, list[str]] = {}
        self._served: dict[str, list[str]] = {}
        for domain, record in records.items():
            if record.parent:
                self._children.setdefault(record.parent, []).append(domain)
            if record.controller:
                self._served.setdefault(record.controller, []).append(domain)
        #: Nodes that were looked at: a walk asks for each several times.
        self._looked_at: dict[str, NodeAt | None] = {}
        #: A domain holds more nodes than one answer looks at.
        self.truncated = False

    # Vertices.

    def node(self, vertex: str) -> NodeAt | None:
        """The node of this name; None where it is deleted, or not known here."""
        if vertex not in self._looked_at:
            self._looked_at[vertex] = find_node(self._state, vertex)
        return self._looked_at[vertex]

    def exists(self, vertex: str) -> bool:
        """Tells whether there is such a vertex, as far as is known here."""
        collection, _, plain = vertex.partition("/")
        if collection == NODES:
            return self.node(vertex) is not None
        if collection == CONTROLLERS:
            return plain in self._served
        known = plain in self._state.authority.records and is_known(self._state, plain)
        if collection == TRUST_DOMAINS:
            return known and bool(self._state.authority.records[plain].controller)
        return known

    def kind_of(self, vertex: str) -> VertexKind:
        """What a vertex stands for."""
        collection = vertex.partition("/")[0]
        if collection == DOMAINS:
            return VertexKind.DOMAIN
        if collection == CONTROLLERS:
            return VertexKind.CONTROLLER
        if collection == TRUST_DOMAINS:
            return VertexKind.TRUST_DOMAIN
        return VertexKind.RELAY if self._is_relay(vertex) else VertexKind.NODE

    def domain_of(self, vertex: str) -> str:
        """The domain a vertex lives in; of a domain the one above it; empty where there is none, or it is not known."""
        collection, _, plain = vertex.partition("/")
        if collection == NODES:
            at = self.node(vertex)
            return at.home.domain if at is not None else ""
        if collection == CONTROLLERS:
            served = self._served.get(plain)
            return min(served) if served else ""
        record = self._state.authority.records.get(plain)
        return record.parent if record is not None and collection == DOMAINS else plain

    def speaker_of(self, domain: str) -> tuple[str, str]:
        """The nearest domain on the way up that has a controller, and that controller; empty where none is known."""
        records = self._state.authority.records
        at = domain
        for _ in range(len(records)):
            record = records.get(at)
            if record is None:
                break
            if record.controller:
                return at, record.controller
            at = record.parent
        return "", ""

    # Edges.

    def edges(
        self, vertex: str, types: Collection[EdgeType], direction: Direction
    ) -> Iterator[Edge]:
        """The edges of a vertex, in an order that is the same each time."""
        if direction is not Direction.IN:
            yield from self.out_of(vertex, types)
        if direction is not Direction.OUT:
            yield from self.into(vertex, types)

    def out_of(self, vertex: str, types: Collection[EdgeType]) -> Iterator[Edge]:
        """Edges that start from a vertex."""
        yield from _of_types(self._declared.out_of(vertex), types)
        collection, _, plain = vertex.partition("/")
        if EdgeType.CONTAINS in types and collection == DOMAINS:
            yield from self._contents(vertex, plain)
        if EdgeType.CONTROL in types:
            above = self._controlled_by(vertex, collection, plain)
            if above:
                yield Edge(vertex, above, EdgeType.CONTROL)
        if EdgeType.TRUST in types:
            vouching = self._trusting(collection, plain)
            if vouching:
                yield Edge(vertex, named(TRUST_DOMAINS, vouching), EdgeType.TRUST)

    def into(self, vertex: str, types: Collection[EdgeType]) -> Iterator[Edge]:
        """Edges that lead to a vertex."""
        yield from _of_types(self._declared.into(vertex), types)
        collection, _, plain = vertex.partition("/")
        if EdgeType.CONTAINS in types and collection != TRUST_DOMAINS:
            holders = self._served.get(plain, ()) if collection == CONTROLLERS else ()
            for holder in sorted(holders) or [self.domain_of(vertex)]:
                if holder:
                    yield Edge(named(DOMAINS, holder), vertex, EdgeType.CONTAINS)
        if EdgeType.CONTROL in types:
            for below in self._controls(vertex, collection, plain):
                yield Edge(below, vertex, EdgeType.CONTROL)
        if EdgeType.TRUST in types and collection == TRUST_DOMAINS:
            yield from self._trusted_by(vertex, plain)

    def _contents(self, vertex: str, domain: str) -> Iterator[Edge]:
        record = self._state.authority.records.get(domain)
        if record is not None and record.controller:
            yield Edge(vertex, named(CONTROLLERS, record.controller), EdgeType.CONTAINS)
        for child in self._domains_below(domain):
            yield Edge(vertex, named(DOMAINS, child), EdgeType.CONTAINS)
        for at in self.nodes_in(domain):
            yield Edge(vertex, at.subject, EdgeType.CONTAINS)

    def nodes_in(self, domain: str) -> Iterator[NodeAt]:
        """The nodes that live in a domain, by id, as many as are looked at."""
        subjects = nsmallest(MAX_NODES_LOOKED_AT + 1, self._state.subjects_of(domain, NODES))
        if len(subjects) > MAX_NODES_LOOKED_AT:
            self.truncated = True
            subjects.pop()
        for subject in subjects:
            at = self.node(subject)
            if at is not None and at.home.domain == domain:
                yield at

    def _domains_below(self, domain: str) -> list[str]:
        return sorted(d for d in self._children.get(domain, ()) if is_known(self._state, d))

    def relay_of(self, at: NodeAt) -> str:
        """Id of the relay a node was last reached through; empty: directly, or never."""
        link = body_of(self._state, Key(at.home.domain, at.subject, "link_state"))
        relay: str = link.relay if link is not None else ""
        return relay

    def _controlled_by(self, vertex: str, collection: str, plain: str) -> str:
        """What delivers to a node, or stands above a controller; empty for what nothing controls."""
        if collection == NODES:
            at = self.node(vertex)
            if at is None:
                return ""
            relay = self.relay_of(at)
            if relay and relay != plain:
                return named(NODES, relay)
            controller = self.speaker_of(at.home.domain)[1]
            return named(CONTROLLERS, controller) if controller else ""
        if collection == CONTROLLERS and plain in self._served:
            record = self._state.authority.records[min(self._served[plain])]
            above = self.speaker_of(record.parent)[1] if record.parent else ""
            return named(CONTROLLERS, above) if above and above != plain else ""
        return ""

    def _controls(self, vertex: str, collection: str, plain: str) -> Iterator[str]:
        """What is controlled by way of a controller, or of a relay."""
        if collection == CONTROLLERS:
            for domain in sorted(self._served.get(plain, ())):
                yield from self._controlled_within(domain, plain)
        elif collection == NODES and self._is_relay(vertex):
            at = self.node(vertex)
            if at is not None:
                serving = self.speaker_of(at.home.domain)[0]
                for each in self._nodes_served_by(serving):
                    if self.relay_of(each) == plain:
                        yield each.subject

    def _controlled_within(self, domain: str, controller: str) -> Iterator[str]:
        """Controllers right below a domain of this controller, then the nodes it delivers to directly."""
        for child in self._speakers_below(domain):
            below = self._state.authority.records[child].controller
            if below != controller:
                yield named(CONTROLLERS, below)
        for at in self._nodes_served_by(domain):
            if not self.relay_of(at):
                yield at.subject

    def _nodes_served_by(self, domain: str) -> Iterator[NodeAt]:
        """Nodes of a domain, and of those below it that have no controller of their own."""
        yield from self.nodes_in(domain)
        for child in self._domains_below(domain):
            if not self._state.authority.records[child].controller:
                yield from self._nodes_served_by(child)

    def _speakers_below(self, domain: str) -> Iterator[str]:
        """The nearest domains below one that have controllers of their own."""
        for child in self._domains_below(domain):
            if self._state.authority.records[child].controller:
                yield child
            else:
                yield from self._speakers_below(child)

    def _trusting(self, collection: str, plain: str) -> str:
        """The trust domain a domain belongs to, or that granted a trust domain its key."""
        if collection == DOMAINS:
            return self.speaker_of(plain)[0]
        if collection == TRUST_DOMAINS:
            record = self._state.authority.records.get(plain)
            return self.speaker_of(record.parent)[0] if record is not None and record.parent else ""
        return ""

    def _trusted_by(self, vertex: str, domain: str) -> Iterator[Edge]:
        yield Edge(named(DOMAINS, domain), vertex, EdgeType.TRUST)
        waiting = [domain]
        for at in waiting:
            for child in self._domains_below(at):
                if self._state.authority.records[child].controller:
                    yield Edge(named(TRUST_DOMAINS, child), vertex, EdgeType.TRUST)
                else:
                    yield Edge(named(DOMAINS, child), vertex, EdgeType.TRUST)
                    waiting.append(child)

    def _is_relay(self, vertex: str) -> bool:
        at = self.node(vertex)
        if at is None:
            return False
        spec = body_of(self._state, Key(at.home.domain, vertex, "node_spec"))
        return spec is not None and spec.kind == node_pb2.NODE_KIND_RELAY

    # What fails together.

    def within(self, vertex: str) -> set[str]:
        """A vertex and, of a domain, what of it others may rely on: its domains and controllers, and the nodes in it
        that declared edges lead to or that are relays.
        """
        if vertex.partition("/")[0] != DOMAINS:
            return {vertex}
        table = self._state.authority
        found = {vertex}
        for domain in table.subtree_of(id_of(vertex)):
            found.add(named(DOMAINS, domain))
            record = table.records.get(domain)
            if record is not None and record.controller:
                found.add(named(CONTROLLERS, record.controller))
        for end in self._declared.ends():
            if end.startswith(f"{NODES}/") and named(DOMAINS, self.domain_of(end)) in found:
                found.add(end)
        return found


def _of_types(edges: Iterable[Edge], types: Collection[EdgeType]) -> Iterator[Edge]:
    return (edge for edge in edges if edge.type in types)
