"""The graph: what is asked, how it is drawn for people and for Graphviz, and how relationships are written."""

from __future__ import annotations

import json
import re
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from souverix.fleet.v1 import connectivity_pb2, domain_pb2
from souverix.fleet.v1 import node_pb2 as node
from souverix.graph.v1 import graph_pb2 as graph
from souverix.graph.v1 import graph_service_pb2 as service
from souverix.receipt.v1.receipt_pb2 import WriteReceipt
from souverixctl.errors import ExitCode
from souverixctl.graph_drawing import dot_lines, quoted
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import Fail, ScriptedController, ctl

RECEIPT = WriteReceipt(domain="a1", controller="a1-control", durable_at=["a1"])
HOSTILE = 'x"];\n"evil" -> "y\\'


def edge(start: str, end: str, kind: str, state: str = "", reason: str = "") -> graph.Edge:
    made = graph.Edge(to=end, type=f"EDGE_TYPE_{kind}")
    setattr(made, "from", start)
    if state:
        health = graph.EdgeHealth(state=f"EDGE_HEALTH_STATE_{state}", reason=reason)
        made.health.CopyFrom(health)
    return made


def answer() -> service.GetGraphResponse:
    return service.GetGraphResponse(
        vertices=[
            graph.Vertex(
                name="domains/a1",
                kind=graph.VERTEX_KIND_DOMAIN,
                domain_kind=domain_pb2.DOMAIN_KIND_EDGE_ZONE,
            ),
            graph.Vertex(
                name="nodes/n1",
                kind=graph.VERTEX_KIND_NODE,
                distance=1,
                display_name=HOSTILE,
                mode=connectivity_pb2.CONNECTIVITY_MODE_LIVE,
            ),
            graph.Vertex(
                name="nodes/n2", kind=graph.VERTEX_KIND_RELAY, distance=1, unknown_since=Timestamp()
            ),
        ],
        edges=[
            edge("domains/a1", "nodes/n1", "CONTAINS"),
            edge("domains/a1", "nodes/n2", "CONTAINS"),
            edge("nodes/n1", "nodes/n2", "SIGNALING", "DOWN", "nodes/n2 is DISCONNECTED"),
        ],
        as_of_time=Timestamp(seconds=1),
    )


async def test_the_tree_shows_each_vertex_once_and_edges_with_their_health(
    controller: ScriptedController, serve: Serve
) -> None:
    controller.on(service.GetGraphRequest, answer())
    ran = await ctl(
        "graph", "domains/a1", "--depth", "3", "--type", "signaling", "--kind", "node",
        "--direction", "out", "--server", await serve(controller),
    )  # fmt: skip
    assert ran.exit_code == ExitCode.OK
    lines = ran.out.splitlines()
    assert lines[0].startswith("domains/a1  EDGE_ZONE")
    assert sum("nodes/n1" in line for line in lines) == 1
    (signaling,) = (line for line in lines if "signaling" in line)
    assert "DOWN (nodes/n2 is DISCONNECTED) nodes/n2" in signaling
    assert any("nodes/n2" in line and "UNKNOWN" in line for line in lines)
    assert "as of" in ran.err
    (request,) = controller.requests(service.GetGraphRequest)
    assert (request.root, request.depth) == ("domains/a1", 3)
    assert list(request.edge_types) == [graph.EDGE_TYPE_SIGNALING]
    assert list(request.vertex_kinds) == [graph.VERTEX_KIND_NODE]
    assert request.direction == graph.EDGE_DIRECTION_OUT


async def test_a_bare_name_is_a_domain_first_and_then_a_node(
    controller: ScriptedController, serve: Serve
) -> None:
    missing = Fail(grpc.StatusCode.NOT_FOUND, reason="NOT_FOUND")
    controller.on(service.GetGraphRequest, missing, answer())
    ran = await ctl("graph", "n1", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.OK
    roots = [request.root for request in controller.requests(service.GetGraphRequest)]
    assert roots == ["domains/n1", "nodes/n1"]


async def test_pages_are_joined_up_to_the_limit(
    controller: ScriptedController, serve: Serve
) -> None:
    first, second = answer(), answer()
    del first.vertices[2:]
    del first.edges[1:]
    first.next_page_token = "t1"
    del second.vertices[:2]
    del second.edges[:1]
    second.truncated = True
    controller.on(service.GetGraphRequest, first, second)
    ran = await ctl("graph", "domains/a1", "-o", "json", "--server", await serve(controller))
    shown = json.loads(ran.out)
    assert [v["name"] for v in shown["vertices"]] == ["domains/a1", "nodes/n1", "nodes/n2"]
    assert len(shown["edges"]) == 3
    assert "not all" in ran.err
    assert controller.requests(service.GetGraphRequest)[1].page_token == "t1"


QUOTED = r'"(?:[^"\\]|\\.)*"'
ATTRIBUTES = rf"\[(?:\w+=(?:{QUOTED}|\w+))(?:, \w+=(?:{QUOTED}|\w+))*\]"
STATEMENT = re.compile(rf"  (?:rankdir=LR|{QUOTED}(?: -> {QUOTED})? {ATTRIBUTES});")


def test_dot_is_well_formed_whatever_names_hold() -> None:
    lines = list(dot_lines(answer()))
    assert lines[0] == "digraph fleet {"
    assert lines[-1] == "}"
    assert all(STATEMENT.fullmatch(line) for line in lines[1:-1]), lines
    assert sum(" -> " in re.sub(QUOTED, '""', line) for line in lines) == 3


@pytest.mark.parametrize("text", [HOSTILE, "\\", '"', "a\nb", "\x1b[31m", "", "\\n"])
def test_a_quotation_is_ended_by_nothing_in_it(text: str) -> None:
    assert re.fullmatch(QUOTED, quoted(text))
    assert all(character.isprintable() for character in quoted(text))


async def test_dot_is_printed_line_by_line(controller: ScriptedController, serve: Serve) -> None:
    controller.on(service.GetGraphRequest, answer())
    address = await serve(controller)
    ran = await ctl("graph", "domains/a1", "--format", "dot", "--server", address)
    assert ran.out.splitlines() == list(dot_lines(answer()))


def _step(**said: Any) -> service.WatchGraphResponse:
    return service.WatchGraphResponse(**said)


def _level(token: str) -> service.WatchGraphResponse:
    return _step(bookmark=service.GraphBookmark(resume_token=token))


async def test_a_watch_draws_the_graph_and_then_each_change(
    controller: ScriptedController, serve: Serve
) -> None:
    drawn, again = answer(), answer()
    healed = edge("nodes/n1", "nodes/n2", "SIGNALING", "OK")
    controller.on(service.GetGraphRequest, answer())
    controller.on(
        service.WatchGraphRequest,
        [
            *(_step(vertex=each) for each in drawn.vertices),
            *(_step(edge=each) for each in drawn.edges),
            _level("t1"),
            _step(edge=healed),
            _level("t2"),
        ],
        # It does not know the place: all anew, without the second node.
        [
            *(_step(vertex=each) for each in again.vertices[:2]),
            *(_step(edge=each) for each in again.edges[:1]),
            _level("t3"),
        ],
        Fail(grpc.StatusCode.PERMISSION_DENIED),
    )
    ran = await ctl("graph", "a1", "--watch", "--server", await serve(controller))
    lines = ran.out.splitlines()
    assert lines[0].startswith("domains/a1  EDGE_ZONE")
    assert [line for line in lines if line[0] in "+-~"] == [
        "~ nodes/n1 → nodes/n2  signaling DOWN → OK",
        "- domains/a1 → nodes/n2  contains",
        "- nodes/n1 → nodes/n2  signaling",
        "- nodes/n2  RELAY  UNKNOWN",
    ]
    asked = controller.requests(service.WatchGraphRequest)
    assert [(each.root, each.resume_token) for each in asked] == [
        ("domains/a1", ""),
        ("domains/a1", "t2"),
        ("domains/a1", "t3"),
    ]


async def test_a_drawing_for_graphviz_is_not_watched(
    controller: ScriptedController, serve: Serve
) -> None:
    ran = await ctl("graph", "--watch", "--format", "dot", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.USAGE


async def test_impact_names_what_is_lost(controller: ScriptedController, serve: Serve) -> None:
    impact = graph_impact()
    controller.on(service.GetImpactRequest, impact)
    ran = await ctl(
        "graph", "impact", "nodes/r1", "--type", "control", "--server", await serve(controller)
    )
    assert re.search(r"nodes/n1 +CONTROL +yes +1 +nodes/r1 +0 +2", ran.out)
    (request,) = controller.requests(service.GetImpactRequest)
    assert (request.vertex, list(request.edge_types)) == ("nodes/r1", [graph.EDGE_TYPE_CONTROL])


def graph_impact() -> service.GetImpactResponse:
    return service.GetImpactResponse(
        impacts=[
            service.Impact(
                vertex="nodes/n1", edge_type=graph.EDGE_TYPE_CONTROL, distance=1, via="nodes/r1",
                lost=True, bypasses=2,
            )
        ],
        as_of_time=Timestamp(seconds=1),
    )  # fmt: skip


async def test_paths_are_shown_edge_by_edge(controller: ScriptedController, serve: Serve) -> None:
    way = service.Path(edges=[edge("nodes/n1", "nodes/n2", "MEDIA", "OK")])
    controller.on(service.FindPathsRequest, service.FindPathsResponse(paths=[way]))
    ran = await ctl("graph", "paths", "n1", "n2", "--server", await serve(controller))
    assert "nodes/n1 → nodes/n2" in ran.out
    (request,) = controller.requests(service.FindPathsRequest)
    assert (getattr(request, "from"), request.to) == ("nodes/n1", "nodes/n2")


def declared() -> graph.Relationship:
    return graph.Relationship(
        name="domains/a1/relationships/r1",
        id="r1",
        domain="a1",
        etag="e1",
        spec=node.Relationship(
            from_node="n1", to_domain="c1", type=node.RELATIONSHIP_TYPE_MEMBER, tags=["t"]
        ),
    )


async def test_a_relationship_is_created_between_nodes_and_domains(
    controller: ScriptedController, serve: Serve
) -> None:
    controller.on(
        service.CreateRelationshipRequest,
        service.CreateRelationshipResponse(relationship=declared(), receipt=RECEIPT),
    )
    ran = await ctl(
        "create", "relationship", "nodes/n1", "domains/c1", "--type", "member", "--id", "r1",
        "--tag", "t", "--server", await serve(controller),
    )  # fmt: skip
    assert ran.exit_code == ExitCode.OK
    assert "relationship a1/r1 created" in ran.out
    (request,) = controller.requests(service.CreateRelationshipRequest)
    assert request.spec == declared().spec
    assert request.relationship_id == "r1"
    assert request.request_id


async def test_a_change_names_the_fields_it_changes(
    controller: ScriptedController, serve: Serve
) -> None:
    controller.on(
        service.UpdateRelationshipRequest,
        service.UpdateRelationshipResponse(relationship=declared(), receipt=RECEIPT),
    )
    address = await serve(controller)
    ran = await ctl(
        "set", "relationship", "a1/r1", "--description", "", "--etag", "e0", "--server", address
    )
    assert ran.exit_code == ExitCode.OK
    (request,) = controller.requests(service.UpdateRelationshipRequest)
    assert request.name == "domains/a1/relationships/r1"
    assert list(request.update_mask.paths) == ["description"]
    assert request.etag == "e0"
    ran = await ctl("set", "relationship", "a1/r1", "--server", address)
    assert ran.exit_code == ExitCode.USAGE
    ran = await ctl("set", "relationship", "r1", "--description", "x", "--server", address)
    assert ran.exit_code == ExitCode.USAGE


async def test_relationships_are_listed_watched_and_deleted(
    controller: ScriptedController, serve: Serve
) -> None:
    controller.on(
        service.ListRelationshipsRequest,
        service.ListRelationshipsResponse(relationships=[declared()]),
    )
    controller.on(
        service.WatchRelationshipsRequest,
        [
            service.WatchRelationshipsResponse(changed=declared()),
            service.WatchRelationshipsResponse(deleted="domains/a1/relationships/r1"),
            Fail(grpc.StatusCode.PERMISSION_DENIED),
        ],
    )
    controller.on(
        service.DeleteRelationshipRequest, service.DeleteRelationshipResponse(receipt=RECEIPT)
    )
    address = await serve(controller)
    ran = await ctl("get", "relationships", "--at", "n1", "--type", "member", "--server", address)
    assert re.search(r"a1/r1 +n1 +domains/c1 +MEMBER", ran.out)
    (request,) = controller.requests(service.ListRelationshipsRequest)
    assert (request.vertex, list(request.types)) == ("nodes/n1", [node.RELATIONSHIP_TYPE_MEMBER])
    ran = await ctl("watch", "relationships", "--server", address)
    assert "n1 → domains/c1" in ran.out
    assert "deleted" in ran.out
    ran = await ctl("delete", "relationship", "a1/r1", "--reason", "gone", "--server", address)
    assert ran.exit_code == ExitCode.OK
    (gone,) = controller.requests(service.DeleteRelationshipRequest)
    assert (gone.name, gone.reason) == ("domains/a1/relationships/r1", "gone")
