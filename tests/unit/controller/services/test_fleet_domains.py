from __future__ import annotations

from pathlib import Path

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from tests.unit.controller.services.served import Served, refusal, zone_served


async def create(
    root: Served, domain: str, parent: str = "global", **fields: object
) -> domain_pb2.Domain:
    spec = domain_pb2.DomainSpec(parent=parent, **fields)  # type: ignore[arg-type]
    request = fleet.CreateDomainRequest(domain_id=domain, spec=spec)
    created: domain_pb2.Domain = (await root.fleet.CreateDomain(request)).domain
    return created


async def test_created_domain_stands_in_the_tree_under_its_parents_master(root: Served) -> None:
    request = fleet.CreateDomainRequest(
        domain_id="region-a",
        spec=domain_pb2.DomainSpec(parent="global", kind=domain_pb2.DOMAIN_KIND_REGION),
    )

    reply = await root.fleet.CreateDomain(request)

    assert list(reply.domain.path) == ["global", "region-a"]
    assert reply.domain.authority.master_of_record == "global-control"
    assert reply.domain.authority.level == authority_pb2.AUTHORITY_LEVEL_REGIONAL
    assert list(reply.domain.authority.term) == [1, 1]
    assert reply.domain.HasField("create_time")
    assert reply.receipt.domain == "region-a"
    top = (await root.fleet.GetDomain(fleet.GetDomainRequest(name="domains/global"))).domain
    assert list(top.children) == ["region-a"]


async def test_domain_id_is_never_used_again(root: Served) -> None:
    await create(root, "region-a")
    await root.fleet.DeleteDomain(fleet.DeleteDomainRequest(name="domains/region-a"))

    spec = domain_pb2.DomainSpec(parent="global")
    code, _, _ = await refusal(
        root.fleet.CreateDomain(fleet.CreateDomainRequest(domain_id="region-a", spec=spec))
    )

    assert code is grpc.StatusCode.ALREADY_EXISTS


async def test_domain_needs_a_parent_that_is_known(root: Served) -> None:
    for parent, wanted in (
        ("", grpc.StatusCode.INVALID_ARGUMENT),
        ("nowhere", grpc.StatusCode.FAILED_PRECONDITION),
    ):
        spec = domain_pb2.DomainSpec(parent=parent)
        code, _, _ = await refusal(
            root.fleet.CreateDomain(fleet.CreateDomainRequest(domain_id="d1", spec=spec))
        )
        assert code is wanted


async def test_validated_domain_is_shown_and_not_written(root: Served) -> None:
    reply = await root.fleet.CreateDomain(
        fleet.CreateDomainRequest(
            domain_id="d1",
            spec=domain_pb2.DomainSpec(parent="global", tags=["x"]),
            validate_only=True,
        )
    )

    assert reply.domain.spec.tags == ["x"]
    assert reply.domain.parent == "global"
    code, _, _ = await refusal(root.fleet.GetDomain(fleet.GetDomainRequest(name="domains/d1")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_parent_of_a_domain_cannot_be_changed(root: Served) -> None:
    await create(root, "a")
    await create(root, "b")

    code, info, _ = await refusal(
        root.fleet.UpdateDomain(
            fleet.UpdateDomainRequest(name="domains/b", spec=domain_pb2.DomainSpec(parent="a"))
        )
    )

    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "spec.parent")


async def test_update_replaces_all_but_the_parent(root: Served) -> None:
    created = await create(root, "a", display_name="A", tags=["x"])

    reply = await root.fleet.UpdateDomain(
        fleet.UpdateDomainRequest(
            name="domains/a",
            spec=domain_pb2.DomainSpec(display_name="B"),
            update_mask=FieldMask(paths=["*"]),
            etag=created.etag,
        )
    )

    assert reply.domain.spec == domain_pb2.DomainSpec(parent="global", display_name="B")
    assert reply.domain.etag != created.etag


async def test_domain_that_holds_something_is_not_deleted(root: Served) -> None:
    await create(root, "a")
    await create(root, "b", "a")
    delete_a = fleet.DeleteDomainRequest(name="domains/a")

    code, info, _ = await refusal(root.fleet.DeleteDomain(delete_a))
    assert (code, info.metadata["child"]) == (grpc.StatusCode.FAILED_PRECONDITION, "b")

    await root.fleet.DeleteDomain(fleet.DeleteDomainRequest(name="domains/b"))
    await root.fleet.CreateNode(fleet.CreateNodeRequest(node_id="n1", domain="a"))
    code, _, message = await refusal(root.fleet.DeleteDomain(delete_a))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "nodes" in message

    await root.fleet.DeleteNode(fleet.DeleteNodeRequest(name="nodes/n1"))
    await root.fleet.DeleteDomain(delete_a)
    listed = await root.fleet.ListDomains(fleet.ListDomainsRequest(include_subtree=True))
    assert [d.id for d in listed.domains] == ["global"]


async def test_root_is_not_deleted(root: Served) -> None:
    code, _, _ = await refusal(
        root.fleet.DeleteDomain(fleet.DeleteDomainRequest(name="domains/global"))
    )

    assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_list_shows_parents_before_children_and_pages(root: Served) -> None:
    await create(root, "region-b")
    await create(root, "region-a")
    await create(root, "edge-z", "region-a")
    request = fleet.ListDomainsRequest(include_subtree=True, page_size=2)

    first = await root.fleet.ListDomains(request)
    request.page_token = first.next_page_token
    second = await root.fleet.ListDomains(request)

    assert [d.id for d in first.domains] == ["global", "region-a"]
    assert [d.id for d in second.domains] == ["edge-z", "region-b"]
    assert second.next_page_token == ""


async def test_counts_follow_the_subtree(root: Served) -> None:
    await create(root, "region-a")
    await create(root, "edge-z", "region-a")
    await root.fleet.BatchCreateNodes(
        fleet.BatchCreateNodesRequest(
            items=[
                fleet.NodeCreation(node_id="n1", domain="region-a"),
                fleet.NodeCreation(node_id="n2", domain="edge-z"),
                fleet.NodeCreation(node_id="n3", domain="edge-z"),
            ]
        )
    )

    domain = (await root.fleet.GetDomain(fleet.GetDomainRequest(name="domains/region-a"))).domain

    assert (domain.node_count, domain.subtree_node_count) == (1, 3)
    assert [(p.phase, p.node_count) for p in domain.summary.phases] == [(1, 3)]


async def test_autonomy_never_creates_domains(tmp_path: Path) -> None:
    autonomy = authority_pb2.Autonomy(
        can_operate_isolated=True, can_modify_policies=True, can_deploy_versions=True
    )
    async with zone_served(tmp_path, autonomy, master="global-control") as (zone, _):
        spec = domain_pb2.DomainSpec(parent="edge-a1")

        code, info, _ = await refusal(
            zone.fleet.CreateDomain(fleet.CreateDomainRequest(domain_id="c1", spec=spec))
        )

        assert (code, info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_MASTER_OF_RECORD")


async def test_freshness_of_another_controllers_domain_is_its_last_word(tmp_path: Path) -> None:
    async with zone_served(tmp_path, authority_pb2.Autonomy()) as (zone, _):
        own = (await zone.fleet.GetDomain(fleet.GetDomainRequest(name="domains/edge-a1"))).domain
        above = (await zone.fleet.GetDomain(fleet.GetDomainRequest(name="domains/global"))).domain

        assert above.HasField("as_of_time")
        assert above.as_of_time.ToNanoseconds() < own.as_of_time.ToNanoseconds()
