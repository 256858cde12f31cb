"""The declared edges as an adjacency, in memory. Owns the index; what an edge is, is the fact's.

A fleet of a million nodes declares some edges a node at most; containment and control are derived, never kept here.
About a kilobyte an edge.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.graph.vertices import TYPE_OF_RELATIONSHIP, Edge, ends_of
from controller.twin.facts import Facts, body_of, exists
from federation.identifiers import Key
from federation.state import State

#: Kind of the subjects that are edges.
RELATIONSHIPS = "relationships"


def relationship_name(domain: str, subject: str) -> str:
    """The resource name, "domains/{domain}/relationships/{id}"."""
    return f"domains/{domain}/{subject}"


def declared_edge(facts: Facts, domain: str, subject: str) -> Edge | None:
    """The edge as it is declared now; None where it does not exist, or is of a type not known here."""
    if not exists(facts, domain, subject):
        return None
    spec = body_of(facts, Key(domain, subject, "relationship"))
    if spec is None or spec.type not in TYPE_OF_RELATIONSHIP:
        return None
    start, end = ends_of(spec)
    return Edge(start, end, TYPE_OF_RELATIONSHIP[spec.type], relationship_name(domain, subject))


class DeclaredEdges:
    """All declared edges known here."""

    def __init__(self) -> None:
        self._edges: dict[str, Edge] = {}
        self._out: dict[str, set[Edge]] = {}
        self._into: dict[str, set[Edge]] = {}

    def __len__(self) -> int:
        return len(self._edges)

    def put(self, name: str, edge: Edge | None) -> None:
        """Takes in an edge as it is now; None: it is gone."""
        held = self._edges.pop(name, None)
        if held is not None:
            _drop(self._out, held.start, held)
            _drop(self._into, held.end, held)
        if edge is not None:
            self._edges[name] = edge
            self._out.setdefault(edge.start, set()).add(edge)
            self._into.setdefault(edge.end, set()).add(edge)

    def out_of(self, vertex: str) -> list[Edge]:
        """Edges that start from a vertex, in order."""
        return sorted(self._out.get(vertex, ()))

    def into(self, vertex: str) -> list[Edge]:
        """Edges that lead to a vertex, in order."""
        return sorted(self._into.get(vertex, ()))

    def ends(self) -> Iterator[str]:
        """Vertices that something is declared of to lead to."""
        return iter(self._into)


def read_all(state: State, edges: DeclaredEdges) -> None:
    """Takes in every edge of a state."""
    for domain, subject in state.subjects_everywhere(RELATIONSHIPS):
        edges.put(relationship_name(domain, subject), declared_edge(state, domain, subject))


def _drop(index: dict[str, set[Edge]], vertex: str, edge: Edge) -> None:
    left = index[vertex]
    left.discard(edge)
    if not left:
        del index[vertex]
