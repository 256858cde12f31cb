"""Ways between two vertices: shortest first, none through a vertex twice, and a bound on the search."""

from __future__ import annotations

from itertools import pairwise, permutations

from hypothesis import given
from hypothesis import strategies as st

from controller.graph.paths import paths_between
from controller.graph.vertices import Edge
from tests.unit.controller.graph.graphs import both_ways, edge, outwards

SMALL = st.sets(
    st.builds(edge, st.sampled_from("abcde"), st.sampled_from("abcde")).filter(
        lambda e: e.start != e.end
    ),
    max_size=12,
)


@given(edges=SMALL)
def test_all_simple_ways_are_found_shortest_first(edges: set[Edge]) -> None:
    found, given_up = paths_between("a", "e", outwards(edges), 8, 1_000)
    assert not given_up
    expected = {
        tuple(edge(one, other) for one, other in pairwise(way))
        for length in range(4)
        for between in permutations("bcd", length)
        for way in [("a", *between, "e")]
        if all(edge(one, other) in edges for one, other in pairwise(way))
    }
    assert set(found) == expected
    assert [len(way) for way in found] == sorted(len(way) for way in found)


def test_ways_lead_against_edges_where_that_is_asked_for() -> None:
    edges = {edge("b", "a"), edge("b", "c")}
    assert paths_between("a", "c", outwards(edges), 8, 3) == ([], False)
    assert paths_between("a", "c", both_ways(edges), 8, 3)[0] == [(edge("b", "a"), edge("b", "c"))]


def test_the_search_is_bounded_and_says_so() -> None:
    names = [f"v{i}" for i in range(12)]
    edges = {edge(one, other) for one in names for other in names if one != other}
    assert paths_between("v0", "nowhere", outwards(edges), 12, 3, max_steps=500) == ([], True)
    assert paths_between("v0", "v5", outwards(edges), 1, 3)[0] == [(edge("v0", "v5"),)]
