"""The part of a graph around a vertex: the same as a naive search finds, in one order, bounded, whatever the cycles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.graph.traversal import around
from controller.graph.vertices import Edge
from tests.unit.controller.graph.graphs import both_ways, edge, outwards

VERTICES = "abcdefgh"
EDGES = st.sets(
    st.builds(edge, st.sampled_from(VERTICES), st.sampled_from(VERTICES)).filter(
        lambda e: e.start != e.end
    ),
    max_size=24,
)


def naive_distances(edges: set[Edge], root: str, depth: int, *, directed: bool) -> dict[str, int]:
    distances = {root: 0}
    for step in range(1, depth + 1):
        for vertex in [v for v, d in distances.items() if d == step - 1]:
            for each in edges:
                if each.start == vertex:
                    distances.setdefault(each.end, step)
                elif each.end == vertex and not directed:
                    distances.setdefault(each.start, step)
    return distances


@given(edges=EDGES, depth=st.integers(0, 6), directed=st.booleans())
def test_it_finds_what_a_naive_search_finds(edges: set[Edge], depth: int, directed: bool) -> None:
    found = around("a", (outwards if directed else both_ways)(edges), depth)
    expected = naive_distances(edges, "a", depth, directed=directed)
    assert dict(zip(found.vertices, found.distances, strict=True)) == expected
    assert found.vertices == sorted(expected, key=lambda v: (expected[v], v))
    inner = {v for v, d in expected.items() if d < depth}
    told = [each for edges_ in found.edges for each in edges_]
    assert len(told) == len(set(told))
    assert set(told) == {e for e in edges if e.start in inner or (e.end in inner and not directed)}
    for place, edges_ in enumerate(found.edges):
        for each in edges_:
            assert place == max(found.vertices.index(each.start), found.vertices.index(each.end))
    assert not found.truncated


@given(edges=EDGES, limit=st.integers(1, 8))
def test_a_limit_cuts_and_says_so(edges: set[Edge], limit: int) -> None:
    whole = around("a", both_ways(edges), 8)
    part = around("a", both_ways(edges), 8, limit=limit)
    assert len(part.vertices) <= limit
    assert part.truncated == (len(whole.vertices) > limit)
    assert set(part.vertices) <= set(whole.vertices)


def test_what_is_not_shown_is_not_gone_through() -> None:
    edges = both_ways([edge("a", "b"), edge("b", "c")])
    assert around("a", edges, 5, lambda v: v != "b").vertices == ["a"]
