"""Questions about the fleet graph: around a vertex, what relies on it, ways between two. Owns what a request may ask
and how an answer is cut into pages; answers from what is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from controller.connectivity.spectrum import Mode
from controller.graph.declared import DeclaredEdges
from controller.graph.health import EdgeJudge
from controller.graph.impact import Affected, affected_by
from controller.graph.paths import paths_between
from controller.graph.relationship import fill_health
from controller.graph.surroundings import Surroundings
from controller.graph.traversal import MAX_VERTICES, Around, around
from controller.graph.vertices import (
    COLLECTIONS,
    CONTROLLERS,
    DOMAINS,
    NODES,
    Direction,
    Edge,
    EdgeType,
    VertexKind,
    id_of,
    named,
)
from controller.replica import Replica
from controller.services.fleet_rules import freshness_of
from controller.services.paging import Page, page_of
from controller.twin.connectivity import controller_mode, mode_now
from controller.twin.facts import body_of, timestamp
from controller.twin.freshness import Freshness
from federation.errors import InvalidWrite, NotFound
from federation.identifiers import Key, is_valid_id
from federation.state import State
from souverix.graph.v1 import graph_pb2
from souverix.graph.v1 import graph_service_pb2 as graph

#: Most edges between the root of a question and what it finds: deeper than any tree of domains.
MAX_DEPTH = 32
DEFAULT_DEPTH = 2
DEFAULT_PATH_DEPTH = 8

MAX_PATHS = 16
DEFAULT_PATHS = 3

#: What can be lost, and what a way may lead along unless it is said.
LOSABLE = (EdgeType.SIGNALING, EdgeType.MEDIA, EdgeType.CONTROL)
FLOWING = (*LOSABLE, EdgeType.BYPASS)

CatchingUp = Callable[[], frozenset[str]]


class Look(NamedTuple):
    """What a watch sees at one time."""

    vertices: dict[str, graph_pb2.Vertex]
    edges: dict[Edge, graph_pb2.Edge]
    bookmark: graph.GraphBookmark


class GraphReads:
    """Answers for one request. `catching_up` names controllers whose sessions here are not level."""

    def __init__(self, replica: Replica, declared: DeclaredEdges, catching_up: CatchingUp) -> None:
        self._state: State = replica.state
        self._own_domain = replica.config.controller.domain
        self._freshness: Freshness = freshness_of(replica)
        self._surroundings = Surroundings(replica.state, declared)
        self.judge = EdgeJudge(replica.state, self._surroundings, self._freshness, catching_up())

    def surroundings_of(self, request: Any) -> graph.GetGraphResponse:
        """As `GraphService.GetGraph`."""
        page = page_of(request)
        first = _first_of(page)
        found, truncated = self._around(request)
        end = first + page.size
        reply = graph.GetGraphResponse(truncated=truncated)
        shown = found.vertices[first:end]
        for vertex, distance in zip(shown, found.distances[first:end], strict=True):
            self._fill_vertex(reply.vertices.add(distance=distance), vertex)
        for edges in found.edges[first:end]:
            for edge in edges:
                self._fill_edge(reply.edges.add(), edge)
        if end < len(found.vertices):
            reply.next_page_token = page.token(str(end))
        self._fill_as_of(reply, shown)
        return reply

    def look(self, request: Any, most_vertices: int, most_edges: int) -> Look:
        """The nearest part of what `GraphService.GetGraph` returns, for a watch."""
        found, truncated = self._around(request, most_vertices)
        edges = [edge for layer in found.edges for edge in layer]
        look = Look({}, {}, graph.GraphBookmark(truncated=truncated or len(edges) > most_edges))
        for vertex, distance in zip(found.vertices, found.distances, strict=True):
            message = graph_pb2.Vertex(distance=distance)
            self._fill_vertex(message, vertex)
            look.vertices[vertex] = message
        for edge in edges[:most_edges]:
            drawn = graph_pb2.Edge()
            self._fill_edge(drawn, edge)
            look.edges[edge] = drawn
        self._fill_as_of(look.bookmark, found.vertices)
        return look

    def _around(self, request: Any, limit: int = MAX_VERTICES) -> tuple[Around, bool]:
        """What is around the root a request names, and whether there is more."""
        root = request.root or named(DOMAINS, self._own_domain)
        self._require(root, "root")
        depth = _bounded(request.depth, DEFAULT_DEPTH, MAX_DEPTH, "depth")
        types = _types(request.edge_types, tuple(EdgeType))
        kinds = _kinds(request.vertex_kinds)
        direction = _direction(request.direction)
        surroundings = self._surroundings

        def shows(vertex: str) -> bool:
            return len(kinds) == len(VertexKind) or surroundings.kind_of(vertex) in kinds

        found = around(root, lambda v: surroundings.edges(v, types, direction), depth, shows, limit)
        return found, found.truncated or surroundings.truncated

    def impact(self, request: Any) -> graph.GetImpactResponse:
        """As `GraphService.GetImpact`."""
        page = page_of(request)
        first = _first_of(page)
        self._require(request.vertex, "vertex")
        depth = _bounded(request.depth, MAX_DEPTH, MAX_DEPTH, "depth")
        types = _types(request.edge_types, LOSABLE, LOSABLE)
        failing = self._surroundings.within(request.vertex)
        impacts: list[tuple[EdgeType, Affected]] = []
        truncated = False
        for type_ in types:
            affected, cut = self._affected(failing, type_, depth, MAX_VERTICES - len(impacts))
            truncated = truncated or cut
            impacts += [(type_, each) for each in affected]
        touched = {each.vertex for _, each in impacts} | failing
        end = first + page.size
        reply = graph.GetImpactResponse(truncated=truncated or self._surroundings.truncated)
        shown = impacts[first:end]
        for type_, each in shown:
            reply.impacts.add(
                vertex=each.vertex,
                edge_type=graph_pb2.EdgeType.Name(type_),
                distance=each.distance,
                via=each.via,
                lost=each.lost,
                remaining=each.remaining,
                bypasses=sum(
                    1
                    for edge in self._surroundings.out_of(each.vertex, (EdgeType.BYPASS,))
                    if edge.end not in touched
                ),
            )
        if end < len(impacts):
            reply.next_page_token = page.token(str(end))
        self._fill_as_of(reply, [request.vertex, *(each.vertex for _, each in shown)])
        return reply

    def paths(self, request: Any) -> graph.FindPathsResponse:
        """As `GraphService.FindPaths`."""
        start, end = getattr(request, "from"), request.to
        self._require(start, "from")
        self._require(end, "to")
        depth = _bounded(request.depth, DEFAULT_PATH_DEPTH, MAX_DEPTH, "depth")
        most = _bounded(request.max_paths, DEFAULT_PATHS, MAX_PATHS, "max_paths")
        types = _types(request.edge_types, FLOWING)
        direction = _direction(request.direction)
        found, given_up = paths_between(
            start, end, lambda v: self._surroundings.edges(v, types, direction), depth, most
        )
        reply = graph.FindPathsResponse(truncated=given_up or self._surroundings.truncated)
        for way in found:
            path = reply.paths.add()
            for edge in way:
                self._fill_edge(path.edges.add(), edge)
        return reply

    def _affected(
        self, failing: set[str], type_: EdgeType, depth: int, limit: int
    ) -> tuple[list[Affected], bool]:
        surroundings = self._surroundings
        return affected_by(
            failing,
            lambda v: surroundings.into(v, (type_,)),
            lambda v: surroundings.out_of(v, (type_,)),
            # A controller goes on alone: what it controls keeps it, whatever it lost itself.
            lambda v: not v.startswith(f"{CONTROLLERS}/"),
            depth,
            limit,
        )

    def _require(self, vertex: str, field: str) -> None:
        collection, _, plain = vertex.partition("/")
        if collection not in COLLECTIONS or not is_valid_id(plain):
            raise InvalidWrite(
                f"{field} {vertex[:160]!r} names no vertex; write one of "
                + ", ".join(f'"{each}/{{id}}"' for each in COLLECTIONS),
                field=field,
            )
        if not self._surroundings.exists(vertex):
            raise NotFound(
                f"{vertex} is deleted, or not known here; ask the controller of a domain above",
                subject=vertex,
            )

    def _fill_vertex(self, message: graph_pb2.Vertex, vertex: str) -> None:
        surroundings = self._surroundings
        message.name = vertex
        message.kind = graph_pb2.VertexKind.Name(surroundings.kind_of(vertex))  # type: ignore[assignment]
        message.missing = not surroundings.exists(vertex)
        message.domain = surroundings.domain_of(vertex)
        collection = vertex.partition("/")[0]
        if message.missing:
            return
        if collection == NODES:
            self._fill_node(message, vertex)
        elif collection == CONTROLLERS:
            message.mode = controller_mode(message.domain, self._freshness)
        elif collection == DOMAINS:
            spec = body_of(self._state, Key(id_of(vertex), vertex, "domain_spec"))
            if spec is not None:
                message.display_name = spec.display_name
                message.domain_kind = spec.kind
        lives_in = id_of(vertex) if collection == DOMAINS else message.domain
        since_ms = self._freshness.unknown_since_ms(lives_in)
        if since_ms is not None:
            message.unknown_since.CopyFrom(timestamp(since_ms))

    def _fill_node(self, message: graph_pb2.Vertex, vertex: str) -> None:
        domain = message.domain
        mode = mode_now(self._state, domain, vertex, self._freshness)
        if int(mode) in set(map(int, Mode)):
            message.mode = mode
        spec = body_of(self._state, Key(domain, vertex, "node_spec"))
        if spec is not None:
            message.display_name = spec.display_name
        report = body_of(self._state, Key(domain, vertex, "actual_state"))
        if report is not None:
            message.runtime_health = report.runtime.health
        lifecycle = body_of(self._state, Key(domain, vertex, "lifecycle"))
        if lifecycle is not None:
            message.phase = lifecycle.phase

    def _fill_edge(self, message: graph_pb2.Edge, edge: Edge) -> None:
        setattr(message, "from", edge.start)
        message.to = edge.end
        message.type = graph_pb2.EdgeType.Name(edge.type)  # type: ignore[assignment]
        message.relationship = edge.relationship
        condition = self.judge.condition_of(edge)
        if condition is not None:
            fill_health(message.health, condition)

    def _fill_as_of(self, reply: Any, vertices: Iterable[str]) -> None:
        surroundings = self._surroundings
        domains = {
            id_of(v) if v.startswith(f"{DOMAINS}/") else surroundings.domain_of(v) for v in vertices
        }
        oldest = self._freshness.oldest(domain for domain in domains if domain)
        if oldest is not None:
            reply.as_of_time.CopyFrom(oldest)


def _first_of(page: Page) -> int:
    """The number at which a page begins: an answer is made anew for each of its pages. Raises `InvalidWrite`."""
    if page.after and not (page.after.isdecimal() and page.after.isascii()):
        raise InvalidWrite(
            "page_token is not one this service made; begin again without it", field="page_token"
        )
    return min(int(page.after or 0), len(LOSABLE) * MAX_VERTICES)


def _bounded(given: int, default: int, most: int, field: str) -> int:
    if given > most:
        raise InvalidWrite(f"{field} is {given}; at most {most} is allowed", field=field)
    return given or default


def _types(
    given: Sequence[int],
    default: tuple[EdgeType, ...],
    allowed: Sequence[EdgeType] = tuple(EdgeType),
) -> tuple[EdgeType, ...]:
    for number in given:
        if number not in set(allowed):
            names = ", ".join(f"EDGE_TYPE_{each.name}" for each in allowed)
            raise InvalidWrite(
                f"edge_types holds {number}, which cannot be asked for here; {names} can",
                field="edge_types",
            )
    return tuple(sorted({EdgeType(number) for number in given})) or default


def _kinds(given: Sequence[int]) -> frozenset[VertexKind]:
    for number in given:
        if number not in set(VertexKind):
            raise InvalidWrite(
                f"vertex_kinds holds {number}, which is no kind", field="vertex_kinds"
            )
    return frozenset(VertexKind(number) for number in given) or frozenset(VertexKind)


def _direction(given: int) -> Direction:
    if not given:
        return Direction.BOTH
    if given not in set(Direction):
        raise InvalidWrite(f"direction {given} is none", field="direction")
    return Direction(given)
