"""What fails with a vertex: everything that leads to it is affected, what has no other way has lost it."""

from __future__ import annotations

from hypothesis import given

from controller.graph.impact import Affected, affected_by
from controller.graph.vertices import Edge
from tests.unit.controller.graph.graphs import edge, inwards, outwards
from tests.unit.controller.graph.test_traversal import EDGES


def impact(edges: set[Edge], *failing: str, depth: int = 32) -> list[Affected]:
    found, truncated = affected_by(
        set(failing), inwards(edges), outwards(edges), lambda v: True, depth
    )
    assert not truncated
    return found


def naive_reverse(edges: set[Edge], failing: str) -> set[str]:
    reached = {failing}
    while grown := {e.start for e in edges if e.end in reached} - reached:
        reached |= grown
    return reached - {failing}


def naive_lost(edges: set[Edge], failing: str) -> set[str]:
    lost = {failing}
    starts = {e.start for e in edges}
    while grown := {v for v in starts - lost if all(e.end in lost for e in edges if e.start == v)}:
        lost |= grown
    return lost - {failing}


@given(edges=EDGES)
def test_affected_and_lost_are_what_naive_rules_say(edges: set[Edge]) -> None:
    found = impact(edges, "a")
    assert {each.vertex for each in found} == naive_reverse(edges, "a")
    assert {each.vertex for each in found if each.lost} == naive_lost(edges, "a")
    assert [(e.distance, e.vertex) for e in found] == sorted((e.distance, e.vertex) for e in found)
    by_name = {each.vertex: each.distance for each in found} | {"a": 0}
    for each in found:
        assert by_name[each.via] == each.distance - 1
        assert Edge(each.vertex, each.via, edge("a", "b").type) in edges


def test_two_that_only_rely_on_each_other_lose_nothing() -> None:
    found = impact({edge("b", "c"), edge("c", "b"), edge("b", "a")}, "a")
    assert [(each.vertex, each.lost) for each in found] == [("b", False), ("c", False)]


def test_another_way_is_counted() -> None:
    edges = {edge("n", "relay"), edge("n", "other"), edge("m", "n")}
    (n, m) = impact(edges, "relay")
    assert (n.vertex, n.lost, n.remaining, n.via) == ("n", False, 1, "relay")
    assert (m.vertex, m.lost, m.distance) == ("m", False, 2)
    (n, m) = impact(edges, "relay", "other")
    assert n.lost
    assert m.lost


def test_depth_and_limit_bound_it() -> None:
    chain = {edge(f"v{i + 1}", f"v{i}") for i in range(9)}
    assert len(impact(chain, "v0", depth=3)) == 3
    found, truncated = affected_by(
        {"v0"}, inwards(chain), outwards(chain), lambda v: True, 32, limit=4
    )
    assert (len(found), truncated) == (4, True)


def test_what_does_not_pass_a_loss_on_ends_it() -> None:
    chain = {edge("node", "child"), edge("child", "parent")}
    found, _ = affected_by({"parent"}, inwards(chain), outwards(chain), lambda v: v != "child", 32)
    assert [each.vertex for each in found] == ["child"]
