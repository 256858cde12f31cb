"""Declared edges: written by the rules of all writes, held by the nearest domain that holds both ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2, fleet_service_pb2, node_pb2
from souverix.graph.v1 import graph_pb2
from souverix.graph.v1 import graph_service_pb2 as graph
from tests.federation_fixture import ROOT
from tests.unit.controller.services.served import DEADLINE_S, Served, refusal, zone_served

SIGNALING = node_pb2.RELATIONSHIP_TYPE_SIGNALING
MEDIA = node_pb2.RELATIONSHIP_TYPE_MEDIA
MEMBER = node_pb2.RELATIONSHIP_TYPE_MEMBER
CLUSTER = domain_pb2.DOMAIN_KIND_CLUSTER


async def add_domain(served: Served, domain: str, parent: str = ROOT, **spec: Any) -> None:
    await served.fleet.CreateDomain(
        fleet_service_pb2.CreateDomainRequest(
            domain_id=domain, spec=domain_pb2.DomainSpec(parent=parent, **spec)
        )
    )


async def add_node(served: Served, node: str, domain: str, **spec: Any) -> None:
    await served.fleet.CreateNode(
        fleet_service_pb2.CreateNodeRequest(
            node_id=node, domain=domain, spec=node_pb2.NodeSpec(**spec)
        )
    )


async def fleet_of(served: Served) -> None:
    """global ── region-a ── zone-1 (n1, n2), zone-2 (n3); cluster-x (no nodes)."""
    await add_domain(served, "region-a")
    for zone in ("zone-1", "zone-2"):
        await add_domain(served, zone, "region-a")
    await add_domain(served, "cluster-x", "region-a", kind=CLUSTER)
    for node, zone in (("n1", "zone-1"), ("n2", "zone-1"), ("n3", "zone-2")):
        await add_node(served, node, zone)


def between(start: str, end: str, type_: int = SIGNALING, **more: Any) -> node_pb2.Relationship:
    return node_pb2.Relationship(from_node=start, to_node=end, type=type_, **more)  # type: ignore[arg-type]


async def create(
    served: Served, spec: node_pb2.Relationship, **fields: Any
) -> graph_pb2.Relationship:
    request = graph.CreateRelationshipRequest(spec=spec, **fields)
    created: graph_pb2.Relationship = (await served.graph.CreateRelationship(request)).relationship
    return created


@pytest.mark.parametrize(
    ("spec", "holder"),
    [
        (between("n1", "n2"), "zone-1"),
        (between("n1", "n3"), "region-a"),
        (node_pb2.Relationship(from_node="n1", to_domain="region-a", type=MEDIA), "region-a"),
        (node_pb2.Relationship(from_domain="global", to_domain="zone-1", type=MEDIA), "global"),
    ],
)
async def test_an_edge_is_held_by_the_nearest_domain_that_holds_both_ends(
    root: Served, spec: node_pb2.Relationship, holder: str
) -> None:
    await fleet_of(root)
    created = await create(root, spec)
    assert created.domain == holder
    assert created.name == f"domains/{holder}/relationships/{created.id}"
    assert created.spec == spec
    assert created.HasField("create_time")
    assert created.health.state == graph_pb2.EDGE_HEALTH_STATE_UNKNOWN or spec.from_domain
    got = await root.graph.GetRelationship(graph.GetRelationshipRequest(name=created.name))
    assert got.relationship == created


async def test_a_higher_domain_may_be_named_and_one_that_does_not_hold_both_is_refused(
    root: Served,
) -> None:
    await fleet_of(root)
    assert (await create(root, between("n1", "n2"), domain="global")).domain == "global"
    code, info, message = await refusal(create(root, between("n1", "n3"), domain="zone-1"))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "domain")
    assert "zone-2" in message


async def test_the_same_edge_is_declared_once_unless_it_is_given_another_id(root: Served) -> None:
    await fleet_of(root)
    first = await create(root, between("n1", "n2"))
    code, info, _ = await refusal(create(root, between("n1", "n2")))
    assert (code, info.metadata["subject"]) == (grpc.StatusCode.ALREADY_EXISTS, first.name)
    other = await create(root, between("n1", "n2"), relationship_id="backup")
    assert other.name == "domains/zone-1/relationships/backup"
    assert (await create(root, between("n1", "n2", MEDIA))).name != first.name


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (node_pb2.Relationship(to_node="n2", type=SIGNALING), "spec.from_node"),
        (node_pb2.Relationship(from_node="n1", type=SIGNALING), "spec.to_node"),
        (
            node_pb2.Relationship(from_node="n1", to_node="n2", to_domain="zone-1", type=MEDIA),
            "spec.to_node",
        ),
        (between("n1", "n2", 0), "spec.type"),
        (between("n1", "n2", 99), "spec.type"),
        (between("n1", "n1"), "spec"),
        (between("n1", "N 2"), "spec.to_node"),
        (between("n1", "n2", MEMBER), "spec.to_domain"),
        (node_pb2.Relationship(from_node="n1", to_domain="zone-2", type=MEMBER), "spec.to_domain"),
        (between("n1", "n2", description="x" * 5_000), "spec.description"),
        (between("n1", "n2", tags=[""]), "spec.tags[0]"),
    ],
)
async def test_what_is_no_edge_is_refused_naming_the_field(
    root: Served, spec: node_pb2.Relationship, field: str
) -> None:
    await fleet_of(root)
    code, info, _ = await refusal(create(root, spec))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_an_end_that_is_not_there_is_not_found(root: Served) -> None:
    await fleet_of(root)
    code, info, message = await refusal(create(root, between("n1", "n9")))
    assert (code, info.metadata["subject"]) == (grpc.StatusCode.NOT_FOUND, "nodes/n9")
    assert "name the domain" in message


async def test_membership_leads_to_a_cluster(root: Served) -> None:
    await fleet_of(root)
    spec = node_pb2.Relationship(from_node="n1", to_domain="cluster-x", type=MEMBER)
    created = await create(root, spec)
    assert created.domain == "region-a"
    assert not created.HasField("health")


async def test_an_update_keeps_the_ends_and_obeys_etag_and_mask(root: Served) -> None:
    await fleet_of(root)
    old = await create(root, between("n1", "n2", description="old", tags=["core"]))
    request = graph.UpdateRelationshipRequest(
        name=old.name, spec=node_pb2.Relationship(description="new"), etag=old.etag
    )
    new = (await root.graph.UpdateRelationship(request)).relationship
    assert (new.spec.description, list(new.spec.tags)) == ("new", ["core"])
    assert new.etag != old.etag
    code, info, _ = await refusal(root.graph.UpdateRelationship(request))
    assert (code, info.metadata["etag"]) == (grpc.StatusCode.ABORTED, new.etag)
    moved = graph.UpdateRelationshipRequest(
        name=old.name, spec=node_pb2.Relationship(to_node="n3"), etag=new.etag
    )
    code, _, message = await refusal(root.graph.UpdateRelationship(moved))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "never change" in message


async def test_a_deleted_edge_is_gone_and_its_id_free_again(root: Served) -> None:
    await fleet_of(root)
    made = await create(root, between("n1", "n2"))
    stale = graph.DeleteRelationshipRequest(name=made.name, etag="other")
    code, _, _ = await refusal(root.graph.DeleteRelationship(stale))
    assert code is grpc.StatusCode.ABORTED
    reply = await root.graph.DeleteRelationship(graph.DeleteRelationshipRequest(name=made.name))
    assert reply.receipt.domain == "zone-1"
    code, _, _ = await refusal(
        root.graph.GetRelationship(graph.GetRelationshipRequest(name=made.name))
    )
    assert code is grpc.StatusCode.NOT_FOUND
    assert (await create(root, between("n1", "n2"))).name == made.name


async def test_a_repeated_request_is_made_once_and_a_check_writes_nothing(root: Served) -> None:
    await fleet_of(root)
    before = root.replica.state.next_offset
    shown = await create(root, between("n1", "n2"), validate_only=True)
    assert shown.domain == "zone-1"
    assert root.replica.state.next_offset == before
    request = graph.CreateRelationshipRequest(spec=between("n1", "n2"), request_id="q-1")
    first = await root.graph.CreateRelationship(request)
    again = await root.graph.CreateRelationship(request)
    assert again.receipt.repeated_request
    assert first.relationship == again.relationship


async def test_every_write_is_audited(root: Served) -> None:
    await fleet_of(root)
    made = await create(root, between("n1", "n2"))
    await root.graph.DeleteRelationship(graph.DeleteRelationshipRequest(name=made.name))
    actions = [
        item.write.body().action
        for item in root.replica.state.audits
        if item.write.body().resource == made.name
    ]
    assert actions == [
        "souverix.graph.v1.GraphService/CreateRelationship",
        "souverix.graph.v1.GraphService/DeleteRelationship",
    ]


async def names(served: Served, **fields: Any) -> list[str]:
    request = graph.ListRelationshipsRequest(**fields)
    found = (await served.graph.ListRelationships(request)).relationships
    return [each.id for each in found]


async def test_lists_are_filtered_by_domain_vertex_type_and_tag_and_paged(root: Served) -> None:
    await fleet_of(root)
    await create(root, between("n1", "n2", tags=["a", "b"]), relationship_id="one")
    await create(root, between("n2", "n1", MEDIA), relationship_id="two")
    await create(root, between("n3", "n1", MEDIA, tags=["b"]), relationship_id="three")
    assert await names(root) == ["three", "one", "two"]
    assert await names(root, domain="zone-1") == ["one", "two"]
    assert await names(root, domain="region-a") == ["three"]
    assert await names(root, domain="region-a", include_subtree=True) == ["three", "one", "two"]
    assert await names(root, vertex="nodes/n3") == ["three"]
    assert await names(root, vertex="nodes/n2", domain="zone-1", types=[MEDIA]) == ["two"]
    assert await names(root, tags=["b"]) == ["three", "one"]
    assert await names(root, tags=["a", "b"]) == ["one"]
    paged, token = [], ""
    while True:
        request = graph.ListRelationshipsRequest(page_size=2, page_token=token)
        reply = await root.graph.ListRelationships(request)
        paged += [each.id for each in reply.relationships]
        token = reply.next_page_token
        if not token:
            break
    assert paged == ["three", "one", "two"]
    code, info, _ = await refusal(
        root.graph.ListRelationships(graph.ListRelationshipsRequest(vertex="controllers/x"))
    )
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "vertex")
    await root.graph.DeleteRelationship(
        graph.DeleteRelationshipRequest(name="domains/zone-1/relationships/two")
    )
    assert await names(root, vertex="nodes/n2") == ["one"]


async def test_a_watch_sends_what_is_there_then_changes_and_what_is_gone(root: Served) -> None:
    await fleet_of(root)
    await create(root, between("n1", "n2"), relationship_id="one")
    async with asyncio.timeout(DEADLINE_S):
        stream = root.graph.WatchRelationships(
            graph.WatchRelationshipsRequest(domain="zone-1", types=[SIGNALING])
        )
        replies = aiter(stream)
        assert (await anext(replies)).changed.id == "one"
        assert (await anext(replies)).bookmark
        await create(root, between("n2", "n1", MEDIA), relationship_id="two")
        await create(root, between("n2", "n1"), relationship_id="three")
        assert (await anext(replies)).changed.id == "three"
        await root.graph.DeleteRelationship(
            graph.DeleteRelationshipRequest(name="domains/zone-1/relationships/one")
        )
        gone = await anext(replies)
        assert gone.deleted == "domains/zone-1/relationships/one"
        stream.cancel()
        resumed = aiter(
            root.graph.WatchRelationships(
                graph.WatchRelationshipsRequest(
                    domain="zone-1", types=[SIGNALING], resume_token=gone.resume_token
                )
            )
        )
        assert (await anext(resumed)).deleted == gone.deleted
        assert (await anext(resumed)).bookmark


async def test_a_write_for_another_master_is_passed_on(tmp_path: Path) -> None:
    autonomy = authority_pb2.Autonomy()
    async with zone_served(tmp_path, autonomy, master="global-control") as (zone, _):
        zone.forwarder.up.add("global-control")
        answer = graph.CreateRelationshipResponse(
            relationship=graph_pb2.Relationship(name="domains/edge-a1/relationships/x")
        )
        zone.forwarder.answer = answer.SerializeToString()
        spec = node_pb2.Relationship(from_node="a", to_node="b", type=SIGNALING)
        request = graph.CreateRelationshipRequest(
            domain="edge-a1", relationship_id="x", spec=spec, request_id="q-1"
        )
        reply = await zone.graph.CreateRelationship(request)
        assert reply == answer
        ((controller, method, sent),) = zone.forwarder.asked
        assert controller == "global-control"
        assert method == "/souverix.graph.v1.GraphService/CreateRelationship"
        assert graph.CreateRelationshipRequest.FromString(sent) == request


async def test_without_link_or_autonomy_a_write_is_refused(tmp_path: Path) -> None:
    autonomy = authority_pb2.Autonomy()
    async with zone_served(tmp_path, autonomy, master="global-control") as (zone, _):
        spec = node_pb2.Relationship(from_node="a", to_node="b", type=SIGNALING)
        _, info, _ = await refusal(create(zone, spec, domain="edge-a1"))
        assert info.reason == "NOT_MASTER_OF_RECORD"
