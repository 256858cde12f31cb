"""The fleet graph as it changes: drawn once, then change by change.

Owns what a change is to a reader. Knows nothing of how vertices and edges are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from souverix.graph.v1 import graph_pb2 as graph
from souverix.graph.v1 import graph_service_pb2 as service
from souverixctl.follow import follow
from souverixctl.graph_drawing import draw_tree, edge_line, vertex_line
from souverixctl.results import note_freshness
from souverixctl.session import Session

EdgeKey = tuple[str, str, int, str]


def watch_graph(session: Session, request: service.WatchGraphRequest) -> None:
    """Shows the graph that `request` asks for, then every change, until the reader stops. Raises Refused."""
    picture = _Picture()

    def request_from(token: str) -> service.WatchGraphRequest:
        picture.opened()
        request.resume_token = token
        return request

    replies = follow(
        session,
        request_from,
        service.WatchGraphResponse,
        lambda reply: reply.bookmark.resume_token,
        "the graph is shown anew",
    )
    for reply in replies:
        if not session.output.is_table:
            session.output.step(reply)
            continue
        for line in picture.take(reply):
            session.output.line(line)
        if picture.complete_now:
            session.output.show(draw_tree(picture.whole()))
            note_freshness(session, reply.bookmark)
        if reply.bookmark.truncated and not picture.warned:
            picture.warned = True
            session.output.warn(
                "this is not all: a watch shows the nearest 1,000 vertices; begin further down, or narrow it with"
                " --type, --kind or --depth"
            )


class _Picture:
    """What the reader sees."""

    def __init__(self) -> None:
        self._vertices: dict[str, graph.Vertex] = {}
        self._edges: dict[EdgeKey, graph.Edge] = {}
        #: What an earlier stream showed, and this one has not confirmed; None once its first step has come.
        self._doubtful: set[str | EdgeKey] | None = None
        self._drawn = False
        self.complete_now = False
        self.warned = False

    def opened(self) -> None:
        """A stream is opened: it goes on where the last one ended, or begins with all there is."""
        self._doubtful = None

    def whole(self) -> service.GetGraphResponse:
        """All that is seen, nearest first."""
        nearest = sorted(self._vertices.values(), key=lambda v: (v.distance, v.name))
        return service.GetGraphResponse(vertices=nearest, edges=self._edges.values())

    def take(self, step: service.WatchGraphResponse) -> Iterator[Text]:
        """Takes a step in; a line for each change of what was drawn."""
        kind = step.WhichOneof("step")
        if self._doubtful is None:
            self._doubtful = set() if kind == "bookmark" else {*self._vertices, *self._edges}
        self.complete_now = False
        if kind == "vertex":
            yield from self._put_vertex(step.vertex)
        elif kind == "edge":
            yield from self._put_edge(step.edge)
        elif kind == "removed_vertex":
            yield from self._drop(step.removed_vertex)
        elif kind == "removed_edge":
            yield from self._drop(_key_of(step.removed_edge))
        elif kind == "bookmark":
            for gone in sorted(self._doubtful, key=str):
                yield from self._drop(gone)
            self._doubtful.clear()
            self.complete_now, self._drawn = not self._drawn, True

    def _put_vertex(self, vertex: graph.Vertex) -> Iterator[Text]:
        before = self._vertices.get(vertex.name)
        self._vertices[vertex.name] = vertex
        self._confirm(vertex.name)
        if self._drawn and before != vertex:
            yield Text("~ " if before else "+ ").append_text(vertex_line(vertex))

    def _put_edge(self, edge: graph.Edge) -> Iterator[Text]:
        key = _key_of(edge)
        before = self._edges.get(key)
        self._edges[key] = edge
        self._confirm(key)
        if self._drawn and before != edge:
            yield Text("~ " if before else "+ ").append_text(edge_line(edge, before))

    def _drop(self, gone: str | EdgeKey) -> Iterator[Text]:
        if isinstance(gone, str):
            vertex = self._vertices.pop(gone, None)
            if vertex is not None:
                yield Text("- ").append_text(vertex_line(vertex))
        else:
            edge = self._edges.pop(gone, None)
            if edge is not None:
                edge.ClearField("health")
                yield Text("- ").append_text(edge_line(edge))

    def _confirm(self, seen: str | EdgeKey) -> None:
        if self._doubtful:
            self._doubtful.discard(seen)


def _key_of(edge: graph.Edge) -> EdgeKey:
    return (getattr(edge, "from"), edge.to, edge.type, edge.relationship)
