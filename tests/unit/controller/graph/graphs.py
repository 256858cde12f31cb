"""Graphs for tests, made of pairs of letters."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from controller.graph.vertices import Edge, EdgeType

EdgesOf = Callable[[str], list[Edge]]


def edge(start: str, end: str) -> Edge:
    return Edge(start, end, EdgeType.SIGNALING)


def both_ways(edges: Iterable[Edge]) -> EdgesOf:
    held = sorted(set(edges))
    return lambda vertex: [e for e in held if vertex in (e.start, e.end)]


def outwards(edges: Iterable[Edge]) -> EdgesOf:
    held = sorted(set(edges))
    return lambda vertex: [e for e in held if e.start == vertex]


def inwards(edges: Iterable[Edge]) -> EdgesOf:
    held = sorted(set(edges))
    return lambda vertex: [e for e in held if e.end == vertex]
