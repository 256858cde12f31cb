"""The fleet graph: around a vertex, what fails with it, and ways between two.

Owns how the graph is asked for and shown. Declared edges are relationships.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click
import grpc
from google.protobuf.message import Message
from rich.text import Text

from souverix.graph.v1 import graph_pb2 as graph
from souverix.graph.v1 import graph_service_pb2 as service
from souverixctl import options
from souverixctl.describe import enum_word, field_word
from souverixctl.errors import BadInput, Refused
from souverixctl.graph_drawing import dot_lines, draw_tree, health_word, start_of
from souverixctl.graph_watching import watch_graph
from souverixctl.output import Cell, styled
from souverixctl.pages import MAX_PAGE_SIZE, fetch_pages
from souverixctl.results import coloured, note_freshness, present
from souverixctl.session import SHOW, Session, ShowingVerbs, pass_session

IMPACT_COLUMNS = ("VERTEX", "LOSES", "LOST", "DISTANCE", "VIA", "REMAINING", "BYPASSES")
#: Edges from end to end at most, as controllers take them.
MAX_DEPTH = 32

COLLECTIONS = ("domains", "controllers", "nodes", "trust-domains")

_EDGE_TYPES = [name.removeprefix("EDGE_TYPE_") for name in graph.EdgeType.keys()[1:]]
_VERTEX_KINDS = [name.removeprefix("VERTEX_KIND_") for name in graph.VertexKind.keys()[1:]]
_DIRECTIONS = ["OUT", "IN", "BOTH"]

group = ShowingVerbs(
    "graph",
    help="The fleet graph: domains, controllers, nodes, relays, and what leads from one to another.\n\n"
    "souverixctl graph [VERTEX] shows what is around one. A vertex is nodes/NAME, domains/NAME,"
    " controllers/NAME or trust-domains/NAME; a bare name is looked for among the domains, then among the"
    " nodes. One called like a verb below needs `show`.\n\n"
    "\b\nsouverixctl graph region-a --depth 2\nsouverixctl graph impact a1-relay-1",
)


def type_option(function: options.Function) -> options.Function:
    """Adds --type, edge types by their words."""
    return click.option(
        "--type",
        "types",
        multiple=True,
        type=click.Choice(_EDGE_TYPES, case_sensitive=False),
        help="Only edges of this type. Repeatable: any of them.",
    )(function)


def direction_option(function: options.Function) -> options.Function:
    """Adds --direction."""
    return click.option(
        "--direction",
        type=click.Choice(_DIRECTIONS, case_sensitive=False),
        default="BOTH",
        show_default=True,
        help="Which way edges are followed.",
    )(function)


def depth_option(default: int, help: str) -> Callable[[options.Function], options.Function]:
    """Adds --depth, a count of edges."""

    def decorate(function: options.Function) -> options.Function:
        return click.option(
            "--depth",
            type=click.IntRange(1, MAX_DEPTH),
            default=default,
            show_default=True,
            metavar="N",
            help=help,
        )(function)

    return decorate


def edge_types(words: Sequence[str]) -> list[Any]:
    """Edge types as the contract's values."""
    return [graph.EdgeType.Value(f"EDGE_TYPE_{each.upper()}") for each in words]


def _kinds(words: Sequence[str]) -> list[Any]:
    return [graph.VertexKind.Value(f"VERTEX_KIND_{each.upper()}") for each in words]


def _direction(word: str) -> Any:
    return graph.EdgeDirection.Value(f"EDGE_DIRECTION_{word.upper()}")


def ask(session: Session, vertex: str, call: Callable[[str], Message]) -> Any:
    """The answer for a vertex; a bare name is tried as a domain, then as a node."""
    if not vertex or vertex.partition("/")[0] in COLLECTIONS:
        return call(vertex)
    try:
        return call(f"domains/{vertex}")
    except Refused as refused:
        if refused.code is not grpc.StatusCode.NOT_FOUND:
            raise
        return call(f"nodes/{vertex}")


@group.command(SHOW, short_help="Show the graph around a vertex (the default).")
@click.argument("vertex", metavar="[VERTEX]", default="")
@depth_option(2, "Most edges between the vertex and what is shown.")
@type_option
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(_VERTEX_KINDS, case_sensitive=False),
    help="Only vertices of this kind, and through them. Repeatable: any of them.",
)
@direction_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["tree", "dot", "json"]),
    default="tree",
    show_default=True,
    help="How to draw it: for people, for Graphviz, or as -o json.",
)
@click.option("--watch", is_flag=True, help="Show every change after that, until interrupted.")
@options.limit_option
@pass_session
def show(
    session: Session,
    vertex: str,
    depth: int,
    types: Sequence[str],
    kinds: Sequence[str],
    direction: str,
    form: str,
    watch: bool,
    limit: int,
) -> None:
    """Show what is around a vertex, with the health of each edge. Default: the controller's own domain.

    \b
    souverixctl graph edge-zone-a1 --depth 1
    souverixctl graph a1-gw-1 --type signaling --type media --direction out
    souverixctl graph region-a --kind domain --kind controller --watch
    souverixctl graph region-a --kind domain --kind controller --format dot > fleet.dot
    """
    if watch and form == "dot":
        raise BadInput("a drawing for Graphviz does not change", "leave --format dot out to watch")
    request = service.GetGraphRequest(
        depth=depth,
        edge_types=edge_types(types),
        vertex_kinds=_kinds(kinds),
        direction=_direction(direction),
    )

    def call(root: str) -> Message:
        request.root = root
        return _fetch(session, request, limit)

    if watch:
        _watch(session, request, vertex)
        return
    reply = ask(session, vertex, call)
    if form == "json" and session.output.is_table:
        session.output.message(reply)
    elif form == "dot" and session.output.is_table:
        for line in dot_lines(reply):
            session.output.line(Text(line))
    else:
        present(session, reply, lambda: session.output.show(draw_tree(reply)))
    if reply.truncated:
        session.output.warn(
            "this is not all: the controller answers with 10,000 vertices at most; begin further down, or narrow it"
            " with --type, --kind or --depth"
        )
    if form == "tree":
        note_freshness(session, reply)


def _watch(session: Session, asked: service.GetGraphRequest, vertex: str) -> None:
    def look(root: str) -> Message:
        glance = service.GetGraphRequest(root=root, depth=1, page_size=1)
        return session.connection.call(glance, service.GetGraphResponse)

    root = ask(session, vertex, look).vertices[0].name
    request = service.WatchGraphRequest(
        root=root,
        depth=asked.depth,
        edge_types=asked.edge_types,
        vertex_kinds=asked.vertex_kinds,
        direction=asked.direction,
    )
    watch_graph(session, request)


def _fetch(
    session: Session, request: service.GetGraphRequest, limit: int
) -> service.GetGraphResponse:
    """Vertices up to `limit` (0: all) with their edges, page by page."""
    whole = service.GetGraphResponse()
    while True:
        left = MAX_PAGE_SIZE if limit == 0 else min(MAX_PAGE_SIZE, limit - len(whole.vertices))
        request.page_size = left
        page = session.connection.call(request, service.GetGraphResponse)
        request.page_token = page.next_page_token
        whole.vertices.extend(page.vertices)
        whole.edges.extend(page.edges)
        whole.truncated = whole.truncated or page.truncated
        if page.HasField("as_of_time") and not whole.HasField("as_of_time"):
            whole.as_of_time.CopyFrom(page.as_of_time)
        if not page.next_page_token:
            return whole
        if 0 < limit <= len(whole.vertices):
            whole.next_page_token = page.next_page_token
            session.output.note(
                f"there are more than these {len(whole.vertices)}: --limit 0 fetches all"
            )
            return whole


@group.command("impact", short_help="Show what relies on a vertex.")
@click.argument("vertex", metavar="VERTEX")
@click.option(
    "--type",
    "types",
    multiple=True,
    type=click.Choice(["SIGNALING", "MEDIA", "CONTROL"], case_sensitive=False),
    help="Only what is lost of this. Repeatable. Default: all three.",
)
@depth_option(32, "Most edges between the vertex and what it affects.")
@options.limit_option
@pass_session
def impact(session: Session, vertex: str, types: Sequence[str], depth: int, limit: int) -> None:
    """Show who loses what if a vertex fails: all that relies on it, directly and by way of others.

    LOST: no other edge of that type remains. A domain fails with all that is in it.

    \b
    souverixctl graph impact a1-relay-1
    souverixctl graph impact domains/edge-zone-a1 --type signaling
    """
    request = service.GetImpactRequest(edge_types=edge_types(types), depth=depth)

    def call(name: str) -> Message:
        request.vertex = name
        return fetch_pages(session, request, service.GetImpactResponse, "impacts", limit)

    reply = ask(session, vertex, call)
    rows: list[list[Cell]] = [
        [
            each.vertex,
            field_word(each, "edge_type"),
            styled("yes", "red") if each.lost else "no",
            str(each.distance),
            each.via,
            str(each.remaining),
            str(each.bypasses),
        ]
        for each in reply.impacts
    ]
    present(
        session, reply, lambda: session.output.table(IMPACT_COLUMNS, rows, "nothing relies on it")
    )
    if reply.truncated:
        session.output.warn("this is not all: the controller answers with 10,000 vertices at most")
    note_freshness(session, reply)


@group.command("paths", short_help="Show the ways between two vertices.")
@click.argument("start", metavar="FROM")
@click.argument("end", metavar="TO")
@type_option
@direction_option
@depth_option(8, "Most edges in a way.")
@click.option(
    "--most",
    type=click.IntRange(1, 16),
    default=3,
    show_default=True,
    metavar="N",
    help="Most ways to show.",
)
@pass_session
def paths(
    session: Session,
    start: str,
    end: str,
    types: Sequence[str],
    direction: str,
    depth: int,
    most: int,
) -> None:
    """Show the shortest ways between two vertices, with the health of each edge. Bare names are nodes.

    Without --type along signalling, media, control and bypass.

    \b
    souverixctl graph paths a1-gw-1 a1-core-1
    """
    request = service.FindPathsRequest(
        to=_as_node(end),
        edge_types=edge_types(types),
        direction=_direction(direction),
        depth=depth,
        max_paths=most,
    )
    setattr(request, "from", _as_node(start))
    reply = session.connection.call(request, service.FindPathsResponse)

    def show_ways() -> None:
        for number, way in enumerate(reply.paths, 1):
            session.output.line(styled(f"{number}.", "bold"), styled(_as_node(start)))
            for edge in way.edges:
                kind = enum_word(edge.DESCRIPTOR.fields_by_name["type"].enum_type, edge.type)
                session.output.line(
                    "  ",
                    styled(f"{start_of(edge)} → {edge.to}"),
                    styled(kind.lower(), "cyan"),
                    coloured(health_word(edge)),
                )
        if not reply.paths:
            session.output.note(f"no way of at most {depth} edges")

    present(session, reply, show_ways)
    if reply.truncated:
        session.output.warn("the search was given up at its bound: there may be other ways")


def _as_node(name: str) -> str:
    return name if name.partition("/")[0] in COLLECTIONS else f"nodes/{name}"
