"""Watches of the fleet graph: what they begin with, which changes they tell, how they are gone on with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from controller.services import graph_watches
from souverix.graph.v1 import graph_pb2
from souverix.graph.v1 import graph_service_pb2 as graph
from tests.unit.controller.services.served import Served, refusal
from tests.unit.controller.services.test_graph_reads import link
from tests.unit.controller.services.test_graph_relationships import between, create, fleet_of

Steps = AsyncIterator[graph.WatchGraphResponse]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_watches, "LOOK_INTERVAL_S", 0.01)


def watching(served: Served, token: str = "", **fields: Any) -> Steps:
    request = graph.WatchGraphRequest(**{"root": "nodes/n1", "resume_token": token, **fields})
    stream: Steps = served.graph.WatchGraph(request, timeout=20)
    return stream


async def until_bookmark(steps: Steps) -> list[graph.WatchGraphResponse]:
    told = []
    async for step in steps:
        told.append(step)
        if step.HasField("bookmark"):
            break
    return told


def edges_in(steps: list[graph.WatchGraphResponse]) -> dict[str, int]:
    return {
        graph_pb2.EdgeType.Name(s.edge.type).removeprefix("EDGE_TYPE_"): s.edge.health.state
        for s in steps
        if s.HasField("edge")
    }


async def test_a_change_of_health_is_told_though_no_edge_was_written(root: Served) -> None:
    await fleet_of(root)
    await create(root, between("n1", "n2"))
    for node in ("n1", "n2"):
        await link(root, node, "zone-1", "LIVE")
    steps = watching(root, depth=1)
    first = await until_bookmark(steps)
    assert first[0].vertex.name == "nodes/n1"
    assert edges_in(first)["SIGNALING"] == graph_pb2.EDGE_HEALTH_STATE_OK
    await link(root, "n2", "zone-1", "DISCONNECTED")
    told = await until_bookmark(steps)
    assert [s.vertex.name for s in told if s.HasField("vertex")] == ["nodes/n2"]
    assert edges_in(told) == {"SIGNALING": graph_pb2.EDGE_HEALTH_STATE_DOWN}
    assert told[-2].edge.health.reason == "nodes/n2 is DISCONNECTED"


async def test_what_goes_is_told_edges_before_their_vertices(root: Served) -> None:
    await fleet_of(root)
    edge = await create(root, between("n1", "n2"))
    steps = watching(root, depth=1, edge_types=[graph_pb2.EDGE_TYPE_SIGNALING])
    first = await until_bookmark(steps)
    assert len(first) == 4
    await root.graph.DeleteRelationship(graph.DeleteRelationshipRequest(name=edge.name))
    told = await until_bookmark(steps)
    assert [s.WhichOneof("step") for s in told] == ["removed_edge", "removed_vertex", "bookmark"]
    assert told[0].removed_edge.relationship == edge.name
    assert not told[0].removed_edge.HasField("health")
    assert told[1].removed_vertex == "nodes/n2"


async def test_a_watch_goes_on_with_a_bookmark_where_nothing_has_changed_and_anew_where_it_has(
    root: Served,
) -> None:
    await fleet_of(root)
    await create(root, between("n1", "n2"))
    first = await until_bookmark(watching(root))
    token = first[-1].bookmark.resume_token
    again = await until_bookmark(watching(root, token))
    assert [s.WhichOneof("step") for s in again] == ["bookmark"]
    assert again[0].bookmark.resume_token == token
    await link(root, "n2", "zone-1", "DELAYED")
    anew = await until_bookmark(watching(root, token))
    assert len(anew) == len(first)
    assert anew[-1].bookmark.resume_token != token


async def test_tokens_of_others_are_refused(root: Served) -> None:
    await fleet_of(root)
    first = await until_bookmark(watching(root))
    token = first[-1].bookmark.resume_token
    code, info, _ = await refusal(until_bookmark(watching(root, token, depth=3)))
    assert (code, info.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED")
    code, info, _ = await refusal(until_bookmark(watching(root, "bogus")))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "resume_token")
    code, _, _ = await refusal(until_bookmark(watching(root, root="nodes/nobody")))
    assert code == grpc.StatusCode.NOT_FOUND


async def test_a_large_graph_is_cut_and_says_so(
    root: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_watches, "MAX_WATCHED_VERTICES", 2)
    await fleet_of(root)
    first = await until_bookmark(watching(root, depth=3))
    assert sum(s.HasField("vertex") for s in first) == 2
    assert first[-1].bookmark.truncated
    assert first[-1].bookmark.HasField("as_of_time")
