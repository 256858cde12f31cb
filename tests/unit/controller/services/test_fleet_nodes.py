from __future__ import annotations

from pathlib import Path

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from controller.twin.configuration_hash import configuration_hash
from federation.identifiers import Key
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import lifecycle_pb2, node_pb2
from tests.unit.controller.services.served import Served, hand_over, refusal, zone_served


async def create(root: Served, node_id: str = "n1", **fields: object) -> node_pb2.Node:
    reply = await root.fleet.CreateNode(fleet.CreateNodeRequest(node_id=node_id, **fields))  # type: ignore[arg-type]
    node: node_pb2.Node = reply.node
    return node


async def test_created_node_is_shown_with_its_facts(root: Served) -> None:
    reply = await root.fleet.CreateNode(
        fleet.CreateNodeRequest(
            node_id="n1",
            spec=node_pb2.NodeSpec(display_name="one", tags=["a"]),
            desired_state=node_pb2.DesiredState(target_version="v1"),
        )
    )

    node = reply.node
    assert (node.name, node.id, node.domain, node.placement_epoch) == (
        "nodes/n1",
        "n1",
        "global",
        1,
    )
    assert node.spec.display_name == "one"
    assert node.desired_state.target_version == "v1"
    assert node.lifecycle.phase == lifecycle_pb2.LIFECYCLE_PHASE_PROVISIONING
    assert node.authority.master_of_record == "global-control"
    assert node.HasField("create_time")
    assert node.HasField("as_of_time")
    assert not node.HasField("connectivity")
    assert reply.receipt.controller == "global-control"
    assert list(reply.receipt.durable_at) == ["global"]
    assert (await root.fleet.GetNode(fleet.GetNodeRequest(name="nodes/n1"))).node.etag == node.etag


async def test_id_is_never_used_again(root: Served) -> None:
    await create(root)
    await root.fleet.DeleteNode(fleet.DeleteNodeRequest(name="nodes/n1"))

    code, info, _ = await refusal(root.fleet.CreateNode(fleet.CreateNodeRequest(node_id="n1")))

    assert (code, info.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")


async def test_server_makes_an_id_and_the_same_again_for_a_repeat(root: Served) -> None:
    request = fleet.CreateNodeRequest(request_id="r-1")

    first = await root.fleet.CreateNode(request)
    second = await root.fleet.CreateNode(request)

    assert first.node.id == second.node.id
    assert second.receipt.repeated_request
    assert second.receipt.commit_offset == first.receipt.commit_offset


async def test_validate_only_shows_the_node_as_it_would_be_and_writes_nothing(root: Served) -> None:
    before = root.replica.state.next_offset

    reply = await root.fleet.CreateNode(
        fleet.CreateNodeRequest(
            node_id="n1", spec=node_pb2.NodeSpec(region="north"), validate_only=True
        )
    )

    assert reply.node.spec.region == "north"
    assert not reply.HasField("receipt")
    assert root.replica.state.next_offset == before
    code, _, _ = await refusal(root.fleet.GetNode(fleet.GetNodeRequest(name="nodes/n1")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_bad_field_is_named(root: Served) -> None:
    for request, field in (
        (fleet.CreateNodeRequest(node_id="N_1"), "node_id"),
        (fleet.CreateNodeRequest(domain="a/b"), "domain"),
        (fleet.CreateNodeRequest(spec=node_pb2.NodeSpec(tags=["", "a"])), "spec.tags[0]"),
        (
            fleet.CreateNodeRequest(
                desired_state=node_pb2.DesiredState(
                    constraints=node_pb2.Constraints(min_battery_pct=101)
                )
            ),
            "desired_state.constraints.min_battery_pct",
        ),
        (
            fleet.CreateNodeRequest(desired_state=node_pb2.DesiredState(config_name="x" * 70_000)),
            "desired_state",
        ),
    ):
        code, info, message = await refusal(root.fleet.CreateNode(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert info.metadata["field"] == field
        assert field in message


async def test_update_changes_what_the_mask_names(root: Served) -> None:
    await create(root, spec=node_pb2.NodeSpec(display_name="one", region="north", tags=["a"]))

    reply = await root.fleet.UpdateNode(
        fleet.UpdateNodeRequest(
            name="nodes/n1",
            spec=node_pb2.NodeSpec(display_name="two", zone="z1"),
            update_mask=FieldMask(paths=["display_name", "tags"]),
        )
    )

    assert reply.node.spec == node_pb2.NodeSpec(display_name="two", region="north")


async def test_update_without_mask_changes_the_fields_that_are_set(root: Served) -> None:
    await create(root, spec=node_pb2.NodeSpec(display_name="one", tags=["a"]))

    reply = await root.fleet.UpdateNode(
        fleet.UpdateNodeRequest(name="nodes/n1", spec=node_pb2.NodeSpec(tags=["b"]))
    )

    assert reply.node.spec == node_pb2.NodeSpec(display_name="one", tags=["b"])


async def test_stale_etag_is_refused_and_the_present_one_named(root: Served) -> None:
    old = await create(root)
    new = await root.fleet.SetDesiredState(
        fleet.SetDesiredStateRequest(
            name="nodes/n1", desired_state=node_pb2.DesiredState(target_version="v2"), etag=old.etag
        )
    )

    code, info, _ = await refusal(
        root.fleet.UpdateNode(fleet.UpdateNodeRequest(name="nodes/n1", etag=old.etag))
    )

    assert (code, info.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert info.metadata["etag"] == new.node.etag != old.etag


async def test_configuration_gets_its_hash(root: Served) -> None:
    await create(root)
    desired = node_pb2.DesiredState(config_name="c1")
    desired.configuration.update({"b": 1, "a": [True, None, "ü"]})

    reply = await root.fleet.SetDesiredState(
        fleet.SetDesiredStateRequest(name="nodes/n1", desired_state=desired)
    )

    assert reply.node.desired_state.config_hash == configuration_hash(desired.configuration)
    assert reply.node.authority.HasField("last_authoritative_update_time")


async def test_empty_desired_state_declares_nothing_any_more(root: Served) -> None:
    await create(root, desired_state=node_pb2.DesiredState(target_version="v1"))

    reply = await root.fleet.SetDesiredState(fleet.SetDesiredStateRequest(name="nodes/n1"))

    assert not reply.node.HasField("desired_state")


async def test_request_id_of_another_request_is_refused(root: Served) -> None:
    await create(root, "n1", request_id="r-1")

    code, info, _ = await refusal(
        root.fleet.CreateNode(fleet.CreateNodeRequest(node_id="n2", request_id="r-1"))
    )

    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_repeated_deletion_is_the_earlier_outcome(root: Served) -> None:
    await create(root)
    request = fleet.DeleteNodeRequest(name="nodes/n1", request_id="r-2")

    await root.fleet.DeleteNode(request)
    again = await root.fleet.DeleteNode(request)

    assert again.receipt.repeated_request
    code, _, _ = await refusal(root.fleet.DeleteNode(fleet.DeleteNodeRequest(name="nodes/n1")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_durability_at_an_unknown_level_is_refused(root: Served) -> None:
    code, _, message = await refusal(
        root.fleet.CreateNode(fleet.CreateNodeRequest(node_id="n1", durable_at="edge-a1"))
    )

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "durable_at" in message


async def test_read_mask_leaves_out_the_rest(root: Served) -> None:
    await create(root, spec=node_pb2.NodeSpec(region="north"))

    reply = await root.fleet.GetNode(
        fleet.GetNodeRequest(name="nodes/n1", read_mask=FieldMask(paths=["spec.region", "id"]))
    )

    assert reply.node == node_pb2.Node(id="n1", spec=node_pb2.NodeSpec(region="north"))
    code, info, _ = await refusal(
        root.fleet.GetNode(
            fleet.GetNodeRequest(name="nodes/n1", read_mask=FieldMask(paths=["nonsense"]))
        )
    )
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "read_mask")


async def test_moved_node_lives_in_its_new_domain_with_the_next_epoch(root: Served) -> None:
    for domain in ("edge-a1", "edge-a2"):
        creation = fleet.CreateDomainRequest(domain_id=domain)
        creation.spec.parent = "global"
        await root.fleet.CreateDomain(creation)
    node = await create(root, domain="edge-a1", spec=node_pb2.NodeSpec(region="north"))
    request = fleet.MoveNodeRequest(
        name="nodes/n1", domain="edge-a2", etag=node.etag, request_id="m-1"
    )

    preview = await root.fleet.MoveNode(
        fleet.MoveNodeRequest(name="nodes/n1", domain="edge-a2", validate_only=True)
    )
    moved = await root.fleet.MoveNode(request)
    again = await root.fleet.MoveNode(request)

    assert (preview.node.domain, preview.node.placement_epoch) == ("edge-a2", 2)
    assert (moved.node.domain, moved.node.placement_epoch) == ("edge-a2", 2)
    assert moved.node.spec.region == "north"
    assert again.receipt.repeated_request
    listed = await root.fleet.ListNodes(fleet.ListNodesRequest(domain="edge-a1"))
    assert not listed.nodes
    code, info, _ = await refusal(
        root.fleet.MoveNode(fleet.MoveNodeRequest(name="nodes/n1", domain="edge-a2"))
    )
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "domain")


async def test_autonomy_is_asked_for_what_is_written(tmp_path: Path) -> None:
    autonomy = authority_pb2.Autonomy(can_operate_isolated=True, can_modify_policies=True)
    async with zone_served(tmp_path, autonomy, master="global-control") as (zone, _):
        config = node_pb2.DesiredState()
        config.configuration.update({"a": 1})
        both = node_pb2.DesiredState(target_version="v2")
        both.configuration.update({"a": 1})
        await create(zone)

        allowed = await zone.fleet.SetDesiredState(
            fleet.SetDesiredStateRequest(name="nodes/n1", desired_state=config)
        )

        assert allowed.receipt.optimistic
        assert allowed.node.optimistic
        assert not allowed.node.authority.HasField("last_authoritative_update_time")
        for desired in (node_pb2.DesiredState(target_version="v2"), both):
            code, info, _ = await refusal(
                zone.fleet.SetDesiredState(
                    fleet.SetDesiredStateRequest(name="nodes/n1", desired_state=desired)
                )
            )
            assert (code, info.reason) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "NOT_MASTER_OF_RECORD",
            )
            assert info.metadata["permission"] == "can_deploy_versions"


async def test_write_is_forwarded_to_the_master_with_the_id_filled_in(tmp_path: Path) -> None:
    autonomy = authority_pb2.Autonomy()
    async with zone_served(tmp_path, autonomy, master="global-control") as (zone, _):
        zone.forwarder.up.add("global-control")
        zone.forwarder.answer = fleet.CreateNodeResponse(
            node=node_pb2.Node(id="there")
        ).SerializeToString()

        reply = await zone.fleet.CreateNode(fleet.CreateNodeRequest())

        assert reply.node.id == "there"
        [(controller, method, sent)] = zone.forwarder.asked
        assert (controller, method) == (
            "global-control",
            "/souverix.fleet.v1.FleetService/CreateNode",
        )
        request = fleet.CreateNodeRequest.FromString(sent)
        assert request.domain == "edge-a1"
        assert request.node_id.startswith("n-")


async def test_conflicting_values_are_named_in_the_node(tmp_path: Path) -> None:
    autonomy = authority_pb2.Autonomy(
        can_operate_isolated=True, can_modify_policies=True, can_deploy_versions=True
    )
    async with zone_served(tmp_path, autonomy) as (zone, root):
        await create(zone)
        root.submit(
            lambda p: p.write(
                "edge-a1",
                "nodes/n1",
                "node_spec",
                node_pb2.NodeSpec(region="south"),
                principal="user:x",
            )
        )
        await hand_over(root, zone)

        node = (await zone.fleet.GetNode(fleet.GetNodeRequest(name="nodes/n1"))).node

        assert list(node.conflicted_aspects) == ["node_spec"]
        assert len(zone.replica.state.siblings(Key("edge-a1", "nodes/n1", "node_spec"))) == 2
