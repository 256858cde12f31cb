"""A graph as people and Graphviz read it: a tree of text, and the DOT language.

Owns both forms. Never lets a name from the fleet end a quotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich.text import Text
from rich.tree import Tree

from souverix.graph.v1 import graph_pb2 as graph
from souverix.graph.v1 import graph_service_pb2 as service
from souverixctl.describe import field_word
from souverixctl.output import clean, styled
from souverixctl.results import coloured

_HEALTH_STYLES = {"OK": "green", "DEGRADED": "yellow", "DOWN": "red", "UNKNOWN": "magenta"}
_DOT_COLOURS = {"OK": "darkgreen", "DEGRADED": "orange", "DOWN": "red", "UNKNOWN": "gray"}
_DOT_SHAPES = {
    "DOMAIN": "folder", "CONTROLLER": "component", "NODE": "ellipse", "RELAY": "diamond", "TRUST_DOMAIN": "octagon",
}  # fmt: skip
_DOT_STYLES = {"CONTAINS": "dotted", "MEMBER": "dotted", "TRUST": "dotted", "BYPASS": "dashed"}


def start_of(edge: graph.Edge) -> str:
    """Where an edge starts; the field's name is a word of the language."""
    start: str = getattr(edge, "from")
    return start


def kind_words(vertex: graph.Vertex) -> list[str]:
    """What a vertex is and how it is: ["NODE", "LIVE"]."""
    domain_kind = field_word(vertex, "domain_kind")
    words = [domain_kind or field_word(vertex, "kind"), field_word(vertex, "mode")]
    if vertex.HasField("unknown_since"):
        words.append("UNKNOWN")
    health = field_word(vertex, "runtime_health")
    if health not in ("", "OK"):
        words.append(health)
    if vertex.missing:
        words.append("MISSING")
    return [each for each in words if each]


def health_word(edge: graph.Edge) -> str:
    """How an edge is; "" for one without health."""
    return field_word(edge.health, "state") if edge.HasField("health") else ""


def draw_tree(reply: service.GetGraphResponse) -> Tree:
    """The vertices as a tree: each below the one it was found by, with the edge that led there; other edges as lines.

    The reply holds at least its root.
    """
    vertices = {vertex.name: vertex for vertex in reply.vertices}
    above = _found_by(reply.edges, vertices)
    root = Tree(vertex_line(reply.vertices[0]))
    branches = {reply.vertices[0].name: root}
    for vertex in reply.vertices[1:]:
        edge = above[vertex.name]
        parent = start_of(edge) if edge.to == vertex.name else edge.to
        label = _edge_text(edge, outwards=edge.to == vertex.name).append(" ")
        branches[vertex.name] = branches[parent].add(label.append_text(vertex_line(vertex)))
    led = {id(edge) for edge in above.values()}
    for edge in reply.edges:
        branch = branches.get(start_of(edge))
        if id(edge) not in led and branch is not None:
            branch.add(_edge_text(edge, outwards=True).append(f" {clean(edge.to)}", style="dim"))
    return root


def _found_by(
    edges: Iterable[graph.Edge], vertices: Mapping[str, graph.Vertex]
) -> dict[str, graph.Edge]:
    """The first edge that leads to each vertex from one that is nearer."""
    found: dict[str, graph.Edge] = {}
    for edge in edges:
        for near, far in ((start_of(edge), edge.to), (edge.to, start_of(edge))):
            one, other = vertices.get(near), vertices.get(far)
            if one is not None and other is not None and one.distance == other.distance - 1:
                found.setdefault(far, edge)
    return found


def vertex_line(vertex: graph.Vertex) -> Text:
    """A vertex, and how it is."""
    text = styled(vertex.name, "bold")
    if vertex.display_name:
        text.append(f" {clean(vertex.display_name)}", style="dim")
    for each in kind_words(vertex):
        text.append("  ").append_text(coloured(each))
    return text


def _edge_text(edge: graph.Edge, *, outwards: bool) -> Text:
    arrow = "→" if outwards else "←"
    state = health_word(edge)
    text = Text(f"{arrow} {field_word(edge, 'type').lower()}", style="cyan")
    if state:
        text.append(f" {state}", style=_HEALTH_STYLES.get(state, ""))
    if edge.health.reason:
        text.append(f" ({clean(edge.health.reason)})", style="dim")
    return text


def edge_line(edge: graph.Edge, before: graph.Edge | None = None) -> Text:
    """An edge with both its ends, and how it is; beside how it was."""
    text = Text(f"{clean(start_of(edge))} → {clean(edge.to)}  ")
    text.append(field_word(edge, "type").lower(), style="cyan")
    was = health_word(before) if before is not None else ""
    state = health_word(edge)
    if was and was != state:
        text.append(f" {was} →", style="dim")
    if state:
        text.append(f" {state}", style=_HEALTH_STYLES.get(state, ""))
    if edge.health.reason:
        text.append(f" ({clean(edge.health.reason)})", style="dim")
    return text


def dot_lines(reply: service.GetGraphResponse) -> Iterator[str]:
    """The graph in the DOT language, for Graphviz: `… --format dot | dot -Tsvg`."""
    yield "digraph fleet {"
    yield "  rankdir=LR;"
    for vertex in reply.vertices:
        label = "\n".join(
            [vertex.display_name or vertex.name.partition("/")[2], *kind_words(vertex)]
        )
        shape = _DOT_SHAPES.get(field_word(vertex, "kind"), "box")
        yield f"  {quoted(vertex.name)} [label={quoted(label)}, shape={shape}];"
    for edge in reply.edges:
        kind = field_word(edge, "type")
        colour = _DOT_COLOURS.get(health_word(edge), "black")
        style = _DOT_STYLES.get(kind, "solid")
        yield (
            f"  {quoted(start_of(edge))} -> {quoted(edge.to)}"
            f" [label={quoted(kind.lower())}, color={colour}, style={style}];"
        )
    yield "}"


def quoted(text: str) -> str:
    """A quoted identifier of DOT: nothing within it ends it, and a line break is one of the label's."""
    lines = [clean(line) for line in text.split("\n")]
    escaped = [line.replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    return '"' + "\\n".join(escaped) + '"'
