"""The part of a graph around one vertex, breadth first. Owns order and bounds; knows nothing of what the edges are.

Vertices come nearest first, of one distance by name, so that an answer is the same wherever it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from controller.graph.vertices import Edge

#: Vertices in one answer: more than anybody draws, few enough to be composed within a second.
MAX_VERTICES = 10_000

#: Edges of a vertex, both ways or one way as the question has it.
EdgesOf = Callable[[str], Iterable[Edge]]


@dataclass(slots=True)
class Around:
    """What was found. `edges[i]` are those whose later vertex is `vertices[i]`."""

    vertices: list[str]
    distances: list[int]
    edges: list[list[Edge]]
    truncated: bool = False
    places: dict[str, int] = field(default_factory=dict)


def around(
    root: str,
    edges_of: EdgesOf,
    depth: int,
    shows: Callable[[str], bool] = lambda vertex: True,
    limit: int = MAX_VERTICES,
) -> Around:
    """Everything within `depth` edges of the root, through vertices that `shows` lets in. A cycle ends the walk where
    it closes, and its closing edge is told once.
    """
    found = Around([root], [0], [[]], places={root: 0})
    told: set[Edge] = set()
    layer = [root]
    for distance in range(1, depth + 1):
        fresh: dict[str, None] = {}
        met: list[Edge] = []
        for vertex in layer:
            for edge in edges_of(vertex):
                if edge in told:
                    continue
                other = edge.other(vertex)
                if other not in found.places and other not in fresh:
                    if not shows(other):
                        continue
                    if len(found.vertices) + len(fresh) >= limit:
                        found.truncated = True
                        continue
                    fresh[other] = None
                told.add(edge)
                met.append(edge)
        layer = sorted(fresh)
        for vertex in layer:
            found.places[vertex] = len(found.vertices)
            found.vertices.append(vertex)
            found.distances.append(distance)
            found.edges.append([])
        for edge in sorted(met):
            later = max(found.places[edge.start], found.places[edge.end])
            found.edges[later].append(edge)
        if not layer:
            break
    return found
