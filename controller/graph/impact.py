"""What fails with a vertex: who relies on it, directly and by way of others, and who keeps other ways. Owns the rules;
safe against cycles and bounded.

Two questions in one pass over the edges of one type, against their direction:

- *affected*: some way of this type leads to what fails;
- *lost*: every edge of this type leads to what fails, or to a vertex that lost this. It is the least set of that kind,
  so that vertices that only rely on each other keep what they have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from controller.graph.traversal import MAX_VERTICES
from controller.graph.vertices import Edge


@dataclass(frozen=True, slots=True)
class Affected:
    """One vertex that relies on what fails."""

    vertex: str
    distance: int
    #: Next vertex on the shortest way, the first by name of several.
    via: str
    lost: bool
    #: Edges of the type that remain.
    remaining: int


def affected_by(
    failing: Collection[str],
    into: Callable[[str], Iterable[Edge]],
    out_of: Callable[[str], Iterable[Edge]],
    passes_on: Callable[[str], bool],
    depth: int,
    limit: int = MAX_VERTICES,
) -> tuple[list[Affected], bool]:
    """The vertices that the failure of `failing` affects, nearest first, then by name; and whether the limit cut them
    short. `into` and `out_of` give edges of one type only. A vertex that does not pass a loss on is affected itself,
    and nobody by way of it.
    """
    distance = dict.fromkeys(failing, 0)
    via: dict[str, str] = {}
    order: list[str] = []
    truncated = False
    layer = sorted(failing)
    for step in range(1, depth + 1):
        fresh: dict[str, str] = {}
        for vertex in layer:
            if vertex not in failing and not passes_on(vertex):
                continue
            for edge in into(vertex):
                start = edge.start
                if start in distance:
                    continue
                if start in fresh:
                    fresh[start] = min(fresh[start], vertex)
                elif len(order) + len(fresh) < limit:
                    fresh[start] = vertex
                else:
                    truncated = True
        layer = sorted(fresh)
        for start in layer:
            distance[start] = step
            via[start] = fresh[start]
        order.extend(layer)
        if not layer:
            break
    remaining = _remaining(failing, order, out_of, passes_on)
    found = [Affected(v, distance[v], via[v], remaining[v] == 0, remaining[v]) for v in order]
    return found, truncated


def _remaining(
    failing: Collection[str],
    order: list[str],
    out_of: Callable[[str], Iterable[Edge]],
    passes_on: Callable[[str], bool],
) -> dict[str, int]:
    """How many edges are left to each affected vertex once all losses have been passed on."""
    remaining: dict[str, int] = {}
    relying: dict[str, list[str]] = {}
    for vertex in order:
        ends = [edge.end for edge in out_of(vertex)]
        remaining[vertex] = len(ends)
        for end in ends:
            relying.setdefault(end, []).append(vertex)
    gone = list(failing)
    for vertex in gone:
        for start in relying.get(vertex, ()):
            remaining[start] -= 1
            if remaining[start] == 0 and start not in failing and passes_on(start):
                gone.append(start)
    return remaining
