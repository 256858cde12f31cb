"""Ways between two vertices, shortest first. Owns the search and its bound."""

from __future__ import annotations

from collections import deque

from controller.graph.traversal import EdgesOf
from controller.graph.vertices import Edge

#: Ways looked at before the search is given up: a tenth of a second.
MAX_STEPS = 20_000


def paths_between(
    start: str, end: str, edges_of: EdgesOf, depth: int, most: int, max_steps: int = MAX_STEPS
) -> tuple[list[tuple[Edge, ...]], bool]:
    """At most `most` ways of at most `depth` edges, none through a vertex twice, shortest first and of one length in
    the order of their edges; and whether the search was given up.
    """
    found: list[tuple[Edge, ...]] = []
    waiting: deque[tuple[str, tuple[Edge, ...], frozenset[str]]] = deque(
        [(start, (), frozenset((start,)))]
    )
    steps = 0
    while waiting:
        vertex, way, visited = waiting.popleft()
        if len(way) >= depth:
            continue
        for edge in edges_of(vertex):
            steps += 1
            if steps > max_steps:
                return found, True
            other = edge.other(vertex)
            if other in visited:
                continue
            longer = (*way, edge)
            if other == end:
                found.append(longer)
                if len(found) >= most:
                    return found, False
            else:
                waiting.append((other, longer, visited | {other}))
    return found, False
