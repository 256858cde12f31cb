"""GraphService: the fleet graph. Owns the calls, and what lists and watches of declared edges show."""

# The methods bear the contract's names.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from typing import Any

from controller.graph.declared import RELATIONSHIPS, declared_edge, relationship_name
from controller.graph.relationship import (
    RELATIONSHIP_ASPECTS,
    compose_relationship,
    fill_health,
)
from controller.graph.vertices import DOMAINS, NODES, ends_of
from controller.replica import Replica
from controller.services.fleet_queries import MAX_FILTER_VALUES
from controller.services.fleet_watches import log_of
from controller.services.graph_index import GraphIndex
from controller.services.graph_reads import GraphReads
from controller.services.graph_relationships import (
    RelationshipWrites,
    named,
    required_relationship,
)
from controller.services.graph_watches import GraphWatch
from controller.services.paging import cut, page_of
from controller.services.scopes import Scope
from controller.services.watching import Watch, reply_of
from controller.sync.links import PeerView
from controller.twin.facts import exists
from federation.errors import InvalidWrite
from federation.identifiers import Key, is_valid_id
from federation.session_phases import Phase
from federation.state import Applied
from souverix.fleet.v1 import node_pb2
from souverix.graph.v1 import graph_pb2, graph_service_pb2_grpc
from souverix.graph.v1 import graph_service_pb2 as graph

#: A peer with a session that is behind by this much is catching up; less is traffic on its way.
CATCHING_UP_AFTER_MS = 10_000


class GraphService(graph_service_pb2_grpc.GraphServiceServicer):
    """The service of one replica. `peers` tells of its own links."""

    def __init__(self, replica: Replica, peers: Callable[[], Sequence[PeerView]]) -> None:
        self._replica = replica
        self._peers = peers
        self._index = GraphIndex(replica)
        self._writes = RelationshipWrites(replica)

    async def CreateRelationship(
        self, request: Any, context: Any
    ) -> graph.CreateRelationshipResponse:
        """Declares an edge."""
        reply = await self._writes.create(request, context)
        self._judge(reply.relationship)
        return reply

    async def UpdateRelationship(
        self, request: Any, context: Any
    ) -> graph.UpdateRelationshipResponse:
        """Changes a declared edge."""
        reply = await self._writes.update(request, context)
        self._judge(reply.relationship)
        return reply

    async def DeleteRelationship(
        self, request: Any, context: Any
    ) -> graph.DeleteRelationshipResponse:
        """Takes a declared edge away."""
        return await self._writes.delete(request, context)

    async def GetRelationship(self, request: Any, context: Any) -> graph.GetRelationshipResponse:
        """Returns one declared edge."""
        found = required_relationship(self._replica.state, *named(request.name))
        self._judge(found)
        return graph.GetRelationshipResponse(relationship=found)

    async def ListRelationships(
        self, request: Any, context: Any
    ) -> graph.ListRelationshipsResponse:
        """Returns a page of declared edges."""
        page = page_of(request)
        view = RelationshipView(self._replica, self._index, request)
        found, token = cut(view.present(), page, _name_of)
        reads = self._reads()
        for shown in found:
            self._judge(shown, reads)
        return graph.ListRelationshipsResponse(relationships=found, next_page_token=token)

    async def WatchRelationships(
        self, request: Any, context: Any
    ) -> AsyncIterator[graph.WatchRelationshipsResponse]:
        """Follows declared edges."""
        replica = self._replica
        view = RelationshipView(replica, self._index, request)
        watch = Watch(replica.state, replica.changes, view, request, log_of(replica))
        async for step in watch.steps(request.resume_token):
            if step.resource is not None:
                self._judge(step.resource)
            yield reply_of(step, graph.WatchRelationshipsResponse)

    async def GetGraph(self, request: Any, context: Any) -> graph.GetGraphResponse:
        """Returns the part of the graph around a vertex."""
        return self._reads().surroundings_of(request)

    async def WatchGraph(
        self, request: Any, context: Any
    ) -> AsyncIterator[graph.WatchGraphResponse]:
        """Follows the part of the graph around a vertex."""
        async for step in GraphWatch(self._reads, self._sign, request).steps(request.resume_token):
            yield step

    async def GetImpact(self, request: Any, context: Any) -> graph.GetImpactResponse:
        """Returns what relies on a vertex."""
        return self._reads().impact(request)

    async def FindPaths(self, request: Any, context: Any) -> graph.FindPathsResponse:
        """Returns ways between two vertices."""
        return self._reads().paths(request)

    def _reads(self) -> GraphReads:
        return GraphReads(self._replica, self._index.edges(), self._catching_up)

    def _sign(self) -> Hashable:
        """Another one when a commit came, or a session here changed."""
        sessions = frozenset((view.controller, view.phase) for view in self._peers())
        return self._replica.state.next_offset, sessions, self._catching_up()

    def _judge(self, shown: graph_pb2.Relationship, reads: GraphReads | None = None) -> None:
        """Fills in the health of an edge; a reply of another controller or a preview has none until then."""
        edge = declared_edge(self._replica.state, shown.domain, f"{RELATIONSHIPS}/{shown.id}")
        condition = (reads or self._reads()).judge.condition_of(edge) if edge is not None else None
        if condition is not None:
            fill_health(shown.health, condition)

    def _catching_up(self) -> frozenset[str]:
        return frozenset(
            view.controller
            for view in self._peers()
            if view.phase is Phase.SYNCING
            and view.debt is not None
            and view.debt.behind_ms >= CATCHING_UP_AFTER_MS
        )


class RelationshipView:
    """The declared edges of a list or a watch; an item is an edge's name. Raises `InvalidWrite`, `NotFound`."""

    def __init__(self, replica: Replica, index: GraphIndex, request: Any) -> None:
        self._state = replica.state
        self._index = index
        self._scope = Scope(self._state, request)
        self._vertex: str = request.vertex
        self._tags = frozenset(request.tags)
        self._types = frozenset(request.types)
        collection, _, plain = self._vertex.partition("/")
        if self._vertex and (collection not in (DOMAINS, NODES) or not is_valid_id(plain)):
            raise InvalidWrite(
                f'vertex {self._vertex[:160]!r} is not of the form "nodes/{{id}}" or "domains/{{id}}"',
                field="vertex",
            )
        for field in ("types", "tags"):
            if len(getattr(request, field)) > MAX_FILTER_VALUES:
                raise InvalidWrite(
                    f"{field} holds more than {MAX_FILTER_VALUES} values", field=field
                )

    def items(self) -> list[str]:
        """Names of all edges ever known in the scope, in order."""
        return sorted(
            relationship_name(domain, subject)
            for domain in self._scope.domains()
            for subject in self._state.subjects_of(domain, RELATIONSHIPS)
        )

    def present(self) -> Iterator[graph_pb2.Relationship]:
        """The edges that exist and fit, in order."""
        for name in self._at_vertex() if self._vertex else self.items():
            shown = self.show(name)
            if shown is not None:
                yield shown

    def _at_vertex(self) -> list[str]:
        """Names of the edges that stand at the vertex asked for, found by the adjacency."""
        edges = self._index.edges()
        found = (*edges.out_of(self._vertex), *edges.into(self._vertex))
        return sorted(
            {e.relationship for e in found if self._scope.holds(named(e.relationship)[0])}
        )

    def touched(self, applied: Applied) -> Iterator[str]:
        """Edges of which a commit wrote something."""
        for key in applied.keys:
            if key.subject.startswith(f"{RELATIONSHIPS}/") and self._scope.holds(key.domain):
                yield relationship_name(key.domain, key.subject)

    def keys(self, item: str) -> Iterator[Key]:
        """What the edge is made of."""
        domain, subject = named(item)
        return (Key(domain, subject, aspect) for aspect in RELATIONSHIP_ASPECTS)

    def show(self, item: str) -> graph_pb2.Relationship | None:
        """The edge; None when it does not exist, or does not fit."""
        domain, subject = named(item)
        if not exists(self._state, domain, subject):
            return None
        shown = compose_relationship(self._state, domain, subject)
        return shown if shown is not None and self._fits(shown.spec) else None

    def _fits(self, spec: node_pb2.Relationship) -> bool:
        return (
            (not self._types or spec.type in self._types)
            and self._tags <= set(spec.tags)
            and (not self._vertex or self._vertex in ends_of(spec))
        )


def _name_of(shown: graph_pb2.Relationship) -> str:
    return shown.name
