"""Questions about the fleet graph: what is around a vertex, how healthy its edges are, what fails with what."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.proposal import Proposal
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import (
    connectivity_pb2,
    domain_pb2,
    fleet_service_pb2,
    lifecycle_pb2,
    node_pb2,
)
from souverix.graph.v1 import graph_pb2
from souverix.graph.v1 import graph_service_pb2 as graph
from tests.federation_fixture import ROOT, controller_below
from tests.unit.controller.services.served import Served, hand_over, refusal, zone_served
from tests.unit.controller.services.test_graph_relationships import (
    CLUSTER,
    MEDIA,
    MEMBER,
    add_node,
    between,
    create,
    fleet_of,
)

BYPASS = node_pb2.RELATIONSHIP_TYPE_BYPASS
OK, DEGRADED = graph_pb2.EDGE_HEALTH_STATE_OK, graph_pb2.EDGE_HEALTH_STATE_DEGRADED
DOWN, UNKNOWN = graph_pb2.EDGE_HEALTH_STATE_DOWN, graph_pb2.EDGE_HEALTH_STATE_UNKNOWN


async def link(served: Served, node: str, domain: str, mode: str, relay: str = "") -> None:
    state = connectivity_pb2.LinkState(mode=f"CONNECTIVITY_MODE_{mode}", relay=relay)
    state.since.FromMilliseconds(1_700_000_000_000)
    await served.replica.journal().submit(
        lambda p: p.write(domain, f"nodes/{node}", "link_state", state, principal="controller:x")
    )


async def around(served: Served, root: str = "", **fields: Any) -> graph.GetGraphResponse:
    reply: graph.GetGraphResponse = await served.graph.GetGraph(
        graph.GetGraphRequest(root=root, **fields)
    )
    return reply


def edges_of(reply: graph.GetGraphResponse) -> set[tuple[str, str, str]]:
    return {
        (getattr(e, "from"), e.to, graph_pb2.EdgeType.Name(e.type).removeprefix("EDGE_TYPE_"))
        for e in reply.edges
    }


async def health(served: Served, edge: graph_pb2.Relationship) -> graph_pb2.EdgeHealth:
    got = await served.graph.GetRelationship(graph.GetRelationshipRequest(name=edge.name))
    found: graph_pb2.EdgeHealth = got.relationship.health
    return found


async def test_the_tree_its_controllers_nodes_and_trust_are_in_the_graph(root: Served) -> None:
    await fleet_of(root)
    reply = await around(root, depth=3)
    assert reply.vertices[0].name == "domains/global"
    kinds = {v.name: graph_pb2.VertexKind.Name(v.kind) for v in reply.vertices}
    assert kinds["controllers/global-control"] == "VERTEX_KIND_CONTROLLER"
    assert kinds["nodes/n1"] == "VERTEX_KIND_NODE"
    assert kinds["trust-domains/global"] == "VERTEX_KIND_TRUST_DOMAIN"
    assert {v.name: v.distance for v in reply.vertices}["nodes/n3"] == 2
    assert edges_of(reply) >= {
        ("domains/global", "domains/region-a", "CONTAINS"),
        ("domains/zone-1", "nodes/n1", "CONTAINS"),
        ("domains/global", "controllers/global-control", "CONTAINS"),
        ("nodes/n1", "controllers/global-control", "CONTROL"),
        ("domains/zone-1", "trust-domains/global", "TRUST"),
    }
    assert not reply.truncated
    assert reply.HasField("as_of_time")
    by_name = {v.name: v for v in reply.vertices}
    assert by_name["domains/cluster-x"].domain_kind == CLUSTER
    assert by_name["nodes/n1"].phase == lifecycle_pb2.LIFECYCLE_PHASE_PROVISIONING


async def test_declared_edges_join_it_and_filters_narrow_it(root: Served) -> None:
    await fleet_of(root)
    await create(root, between("n1", "n2"))
    await create(root, between("n2", "n3", MEDIA))
    member = node_pb2.Relationship(from_node="n3", to_domain="cluster-x", type=MEMBER)
    await create(root, member)
    declared = (
        graph_pb2.EDGE_TYPE_SIGNALING,
        graph_pb2.EDGE_TYPE_MEDIA,
        graph_pb2.EDGE_TYPE_MEMBER,
    )
    reply = await around(root, "nodes/n1", depth=3, edge_types=declared)
    assert [(v.name, v.distance) for v in reply.vertices] == [
        ("nodes/n1", 0),
        ("nodes/n2", 1),
        ("nodes/n3", 2),
        ("domains/cluster-x", 3),
    ]
    assert [e.relationship.split("/")[1] for e in reply.edges] == ["zone-1", "region-a", "region-a"]
    outwards = await around(
        root, "nodes/n2", edge_types=declared, direction=graph_pb2.EDGE_DIRECTION_OUT, depth=1
    )
    assert [v.name for v in outwards.vertices] == ["nodes/n2", "nodes/n3"]
    no_nodes = await around(
        root, "domains/region-a", depth=3, vertex_kinds=[graph_pb2.VERTEX_KIND_DOMAIN]
    )
    assert {v.kind for v in no_nodes.vertices} == {graph_pb2.VERTEX_KIND_DOMAIN}


async def test_pages_make_up_the_whole(root: Served) -> None:
    await fleet_of(root)
    await create(root, between("n1", "n3"))
    whole = await around(root, depth=5)
    vertices, edges, token = [], [], ""
    while True:
        page = await around(root, depth=5, page_size=2, page_token=token)
        assert len(page.vertices) <= 2
        vertices += list(page.vertices)
        edges += list(page.edges)
        token = page.next_page_token
        if not token:
            break
    assert vertices == list(whole.vertices)
    assert edges == list(whole.edges)
    code, _, _ = await refusal(around(root, depth=4, page_token=page.next_page_token or "x"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"root": "n1"}, "root"),
        ({"root": "policies/p1"}, "root"),
        ({"depth": 33}, "depth"),
        ({"edge_types": [0]}, "edge_types"),
        ({"edge_types": [99]}, "edge_types"),
        ({"vertex_kinds": [99]}, "vertex_kinds"),
        ({"direction": 9}, "direction"),
        ({"page_size": -1}, "page_size"),
    ],
)
async def test_what_cannot_be_asked_is_refused(
    root: Served, fields: dict[str, Any], field: str
) -> None:
    code, info, _ = await refusal(around(root, **fields))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_an_unknown_vertex_is_not_found(root: Served) -> None:
    for vertex in ("nodes/x", "domains/x", "controllers/x", "trust-domains/x"):
        code, info, _ = await refusal(around(root, vertex))
        assert (code, info.metadata["subject"]) == (grpc.StatusCode.NOT_FOUND, vertex)


async def test_health_follows_from_what_is_known_of_both_ends(root: Served) -> None:
    await fleet_of(root)
    edge = await create(root, between("n1", "n2"))
    never = await health(root, edge)
    assert (never.state, never.HasField("unknown_since")) == (UNKNOWN, False)
    await link(root, "n1", "zone-1", "LIVE")
    await link(root, "n2", "zone-1", "LIVE")
    assert (await health(root, edge)).state == OK
    await link(root, "n2", "zone-1", "DELAYED")
    slow = await health(root, edge)
    assert (slow.state, slow.reason) == (DEGRADED, "nodes/n2 is DELAYED")
    await link(root, "n1", "zone-1", "AUTONOMOUS")
    away = await health(root, edge)
    assert away.state == UNKNOWN
    assert away.unknown_since.ToMilliseconds() == 1_700_000_000_000
    await link(root, "n2", "zone-1", "DISCONNECTED")
    assert (await health(root, edge)).state == DOWN


async def test_a_nodes_own_report_and_its_isolation_count(root: Served) -> None:
    await fleet_of(root)
    edge = await create(root, between("n1", "n2"))
    for node in ("n1", "n2"):
        await link(root, node, "zone-1", "LIVE")

    async def report(value: int) -> None:
        actual = node_pb2.ActualState(runtime=node_pb2.RuntimeState(health=value))  # type: ignore[arg-type]
        await root.replica.journal().submit(
            lambda p: p.write("zone-1", "nodes/n1", "actual_state", actual, principal="x:y")
        )

    await report(node_pb2.RUNTIME_HEALTH_DEGRADED)
    assert (await health(root, edge)).state == DEGRADED
    await report(node_pb2.RUNTIME_HEALTH_FAILED)
    assert (await health(root, edge)).state == DOWN
    await report(node_pb2.RUNTIME_HEALTH_OK)
    assert (await health(root, edge)).state == OK
    quarantined = lifecycle_pb2.LifecycleState(phase=lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED)
    await root.replica.journal().submit(
        lambda p: p.write("zone-1", "nodes/n2", "lifecycle", quarantined, principal="user:a")
    )
    isolated = await health(root, edge)
    assert (isolated.state, isolated.reason) == (DOWN, "nodes/n2 is QUARANTINED")


async def test_an_edge_to_a_deleted_node_is_down_and_the_vertex_missing(root: Served) -> None:
    await fleet_of(root)
    await create(root, between("n1", "n2"))
    await root.fleet.DeleteNode(fleet_service_pb2.DeleteNodeRequest(name="nodes/n2"))
    reply = await around(root, "nodes/n1", depth=1, edge_types=[graph_pb2.EDGE_TYPE_SIGNALING])
    assert [(v.name, v.missing) for v in reply.vertices] == [
        ("nodes/n1", False),
        ("nodes/n2", True),
    ]
    (edge,) = reply.edges
    assert edge.health.state == DOWN
    assert "deleted" in edge.health.reason


async def test_a_node_behind_a_relay_is_controlled_by_way_of_it(root: Served) -> None:
    await fleet_of(root)
    await add_node(root, "relay-1", "zone-1", kind=node_pb2.NODE_KIND_RELAY)
    await link(root, "relay-1", "zone-1", "LIVE")
    await link(root, "n1", "zone-1", "LIVE", relay="relay-1")
    reply = await around(root, "nodes/relay-1", depth=1, edge_types=[graph_pb2.EDGE_TYPE_CONTROL])
    assert edges_of(reply) == {
        ("nodes/n1", "nodes/relay-1", "CONTROL"),
        ("nodes/relay-1", "controllers/global-control", "CONTROL"),
    }
    assert reply.vertices[0].kind == graph_pb2.VERTEX_KIND_RELAY
    impact = await root.graph.GetImpact(graph.GetImpactRequest(vertex="nodes/relay-1"))
    ((lost),) = impact.impacts
    assert (lost.vertex, lost.edge_type, lost.lost, lost.via) == (
        "nodes/n1",
        graph_pb2.EDGE_TYPE_CONTROL,
        True,
        "nodes/relay-1",
    )


async def test_impact_tells_who_loses_what_and_who_keeps_another_way(root: Served) -> None:
    await fleet_of(root)
    await add_node(root, "core", "zone-2")
    await create(root, between("n1", "core"))
    await create(root, between("n2", "core"))
    await create(root, between("n2", "n3"))
    await create(root, between("n3", "core", MEDIA))
    await create(root, between("n1", "n3", BYPASS))
    reply = await root.graph.GetImpact(graph.GetImpactRequest(vertex="nodes/core"))
    told = [
        (i.vertex, graph_pb2.EdgeType.Name(i.edge_type), i.lost, i.remaining, i.bypasses)
        for i in reply.impacts
    ]
    assert told == [
        ("nodes/n1", "EDGE_TYPE_SIGNALING", True, 0, 0),
        ("nodes/n2", "EDGE_TYPE_SIGNALING", False, 1, 0),
        ("nodes/n3", "EDGE_TYPE_MEDIA", True, 0, 0),
    ]
    only = graph.GetImpactRequest(
        vertex="nodes/core", edge_types=[graph_pb2.EDGE_TYPE_SIGNALING], page_size=1
    )
    first = await root.graph.GetImpact(only)
    assert [(i.vertex, i.bypasses) for i in first.impacts] == [("nodes/n1", 1)]
    only.page_token = first.next_page_token
    second = await root.graph.GetImpact(only)
    assert [i.vertex for i in second.impacts] == ["nodes/n2"]
    assert not second.next_page_token
    code, info, _ = await refusal(
        root.graph.GetImpact(
            graph.GetImpactRequest(vertex="nodes/core", edge_types=[graph_pb2.EDGE_TYPE_CONTAINS])
        )
    )
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "edge_types")


async def test_a_domain_fails_with_all_that_is_in_it(root: Served) -> None:
    await fleet_of(root)
    await create(root, between("n1", "n3"))
    await create(root, between("n1", "n2"))
    reply = await root.graph.GetImpact(graph.GetImpactRequest(vertex="domains/zone-2"))
    assert [(i.vertex, i.lost, i.remaining) for i in reply.impacts] == [("nodes/n1", False, 1)]
    whole = await root.graph.GetImpact(graph.GetImpactRequest(vertex="controllers/global-control"))
    assert {i.vertex for i in whole.impacts} == {"nodes/n1", "nodes/n2", "nodes/n3"}


async def test_paths_lead_along_what_flows_shortest_first(root: Served) -> None:
    await fleet_of(root)
    await create(root, between("n1", "n2"))
    await create(root, between("n2", "n3", MEDIA))
    await create(root, between("n1", "n3", BYPASS))
    request = graph.FindPathsRequest(
        **{"from": "nodes/n1"},  # type: ignore[arg-type]
        to="nodes/n3",
        direction=graph_pb2.EDGE_DIRECTION_OUT,
    )
    ways = (await root.graph.FindPaths(request)).paths
    assert [[e.to for e in way.edges] for way in ways] == [
        ["nodes/n3"],
        ["nodes/n2", "nodes/n3"],
    ]
    request.max_paths = 1
    assert len((await root.graph.FindPaths(request)).paths) == 1
    request.max_paths = 17
    code, info, _ = await refusal(root.graph.FindPaths(request))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "max_paths")


async def test_what_lies_beyond_a_broken_link_is_unknown_since(tmp_path: Path) -> None:
    async with zone_served(tmp_path, authority_pb2.Autonomy()) as (zone, top):

        def write(p: Proposal) -> None:
            for aspect, body in (
                ("existence", domain_pb2.Existence(exists=True)),
                ("placement", node_pb2.Placement(domain=ROOT, epoch=1)),
                ("node_spec", node_pb2.NodeSpec()),
            ):
                p.write(ROOT, "nodes/far", aspect, body, principal="user:a")
            live = connectivity_pb2.LinkState(mode=connectivity_pb2.CONNECTIVITY_MODE_LIVE)
            p.write(ROOT, "nodes/far", "link_state", live, principal="user:a")

        top.submit(write)
        controller_below(top, "edge-b1-control", "edge-b1")
        await hand_over(top, zone)
        zone.forwarder.up.add(top.name)
        reply = await around(zone, "domains/global", depth=2)
        states = {(getattr(e, "from"), e.to): e.health for e in reply.edges}
        session = ("controllers/edge-a1-control", "controllers/global-control")
        assert states[session].state == OK
        assert states["nodes/far", "controllers/global-control"].state == OK
        zone.forwarder.up.clear()
        zone.forwarder.heard_ms[top.name] = 1_900_000_000_000
        reply = await around(zone, "domains/global", depth=2)
        states = {(getattr(e, "from"), e.to): e.health for e in reply.edges}
        assert states[session].state == DOWN
        delivery = states["nodes/far", "controllers/global-control"]
        assert delivery.state == UNKNOWN
        assert delivery.unknown_since.ToMilliseconds() == 1_900_000_000_000
        other = states["controllers/edge-b1-control", "controllers/global-control"]
        assert other.state == UNKNOWN
        (far,) = (v for v in reply.vertices if v.name == "nodes/far")
        assert far.mode == connectivity_pb2.CONNECTIVITY_MODE_UNSPECIFIED
        assert far.HasField("unknown_since")


async def test_the_adjacency_follows_what_is_written_after_it_was_read(root: Served) -> None:
    await fleet_of(root)
    signaling = [graph_pb2.EDGE_TYPE_SIGNALING]
    assert not (await around(root, "nodes/n1", edge_types=signaling)).edges
    made = await asyncio.gather(
        create(root, between("n1", "n2")), create(root, between("n1", "n3"))
    )
    assert len((await around(root, "nodes/n1", edge_types=signaling)).edges) == 2
    await root.graph.DeleteRelationship(graph.DeleteRelationshipRequest(name=made[0].name))
    reply = await around(root, "nodes/n1", edge_types=signaling)
    assert [e.relationship for e in reply.edges] == [made[1].name]
