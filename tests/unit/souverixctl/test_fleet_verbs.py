"""Nodes, domains, desired state, policies, observations: what is sent and what is shown."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from souverix.fleet.v1 import domain_pb2 as domain
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import node_pb2 as node
from souverix.fleet.v1 import observation_pb2 as observation
from souverix.policy.v1 import policy_pb2 as policy
from souverix.policy.v1 import policy_service_pb2 as policies
from souverix.receipt.v1.receipt_pb2 import WriteReceipt
from souverixctl.errors import ExitCode
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import Fail, ScriptedController, ctl

RECEIPT = WriteReceipt(domain="a1", controller="a1-control", durable_at=["a1", "global"])
NODE = node.Node(name="nodes/n1", id="n1", domain="a1", etag="e2")


async def test_pages_are_joined_and_filters_are_sent(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(
        fleet.ListNodesRequest,
        fleet.ListNodesResponse(nodes=[node.Node(id="n1")], next_page_token="t1"),
        fleet.ListNodesResponse(nodes=[node.Node(id="n2")]),
    )
    ran = await ctl(
        "get", "nodes", "--domain", "a", "--subtree", "--tag", "lab", "--mode", "live",
        "--phase", "ACTIVE", "-o", "json", "--server", await serve(controller),
    )  # fmt: skip
    assert [each["id"] for each in json.loads(ran.out)["nodes"]] == ["n1", "n2"]
    assert "nextPageToken" not in json.loads(ran.out)
    first, second = controller.requests(fleet.ListNodesRequest)
    assert (first.page_token, second.page_token) == ("", "t1")
    assert MessageToDict(first)["modes"] == ["CONNECTIVITY_MODE_LIVE"]
    assert MessageToDict(first)["phases"] == ["LIFECYCLE_PHASE_ACTIVE"]
    assert (first.domain, first.include_subtree, list(first.tags)) == ("a", True, ["lab"])


async def test_a_limit_stops_and_says_that_there_is_more(
    serve: Serve, controller: ScriptedController
) -> None:
    reply = fleet.ListNodesResponse(nodes=[node.Node(id="n1")], next_page_token="t1")
    controller.on(fleet.ListNodesRequest, reply)
    address = await serve(controller)
    ran = await ctl("get", "nodes", "--limit", "1", "-o", "json", "--server", address)
    assert json.loads(ran.out)["nextPageToken"] == "t1"
    assert "there are more" in ran.err
    assert controller.calls[0].request.page_size == 1


async def test_a_controller_that_repeats_tokens_does_not_trap_the_reader(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(fleet.ListNodesRequest, fleet.ListNodesResponse(next_page_token="t1"))
    ran = await ctl("get", "nodes", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.FAILED
    assert "repeats a page token" in ran.err


async def test_a_node_is_created_from_a_file_with_flags_on_top(
    serve: Serve, controller: ScriptedController, tmp_path: Path
) -> None:
    controller.on(fleet.CreateNodeRequest, fleet.CreateNodeResponse(node=NODE, receipt=RECEIPT))
    file = tmp_path / "node.yaml"
    file.write_text(
        "id: n1\ndomain: a1\nspec: {kind: NODE_KIND_EDGE, zone: north, labels: {a: '1'}, tags: [x]}\n"
        "desiredState: {targetVersion: 2.1.0}\n"
    )
    ran = await ctl(
        "create", "node", "-f", str(file), "--zone", "south", "--label", "b=2", "--tag", "lab",
        "--wait-durable", "global", "--server", await serve(controller),
    )  # fmt: skip
    assert ran.exit_code == ExitCode.OK, ran.err
    assert ran.out.startswith("node n1 created in a1")
    assert "durable at a1, global" in ran.out
    (sent,) = controller.requests(fleet.CreateNodeRequest)
    assert (sent.node_id, sent.domain, sent.durable_at) == ("n1", "a1", "global")
    assert sent.spec.zone == "south"
    assert sent.spec.kind == node.NODE_KIND_EDGE
    assert list(sent.spec.tags) == ["lab"]
    assert sent.spec.labels["b"] == "2"
    assert sent.desired_state.target_version == "2.1.0"


async def test_set_node_names_the_fields_it_changes(
    serve: Serve, controller: ScriptedController, tmp_path: Path
) -> None:
    controller.on(fleet.UpdateNodeRequest, fleet.UpdateNodeResponse(node=NODE, receipt=RECEIPT))
    address = await serve(controller)
    await ctl("set", "node", "n1", "--zone", "north", "--etag", "e1", "--server", address)
    file = tmp_path / "node.json"
    file.write_text(json.dumps({"node": {"id": "n1", "etag": "e9", "spec": {"zone": "west"}}}))
    await ctl("set", "node", "n1", "-f", str(file), "--server", address)
    flags, whole = controller.requests(fleet.UpdateNodeRequest)
    assert (flags.name, list(flags.update_mask.paths), flags.etag) == ("nodes/n1", ["zone"], "e1")
    assert (list(whole.update_mask.paths), whole.etag, whole.spec.zone) == (["*"], "e9", "west")
    nothing = await ctl("set", "node", "n1", "--server", address)
    assert nothing.exit_code == ExitCode.USAGE


async def test_set_domain_names_the_fields_it_changes(
    serve: Serve, controller: ScriptedController, tmp_path: Path
) -> None:
    held = domain.Domain(id="a3")
    controller.on(
        fleet.UpdateDomainRequest, fleet.UpdateDomainResponse(domain=held, receipt=RECEIPT)
    )
    address = await serve(controller)
    ran = await ctl(
        "set", "domain", "a3", "--kind", "edge_zone", "--label", "a=1", "--etag", "e1",
        "--request-id", "r1", "--server", address,
    )  # fmt: skip
    assert ran.out.startswith("domain a3 changed")
    file = tmp_path / "domain.yaml"
    file.write_text("domain: {id: a3, etag: e9, spec: {displayName: Zone A3}}")
    await ctl("set", "domain", "domains/a3", "-f", str(file), "--server", address)
    flags, whole = controller.requests(fleet.UpdateDomainRequest)
    assert (flags.name, flags.etag, flags.request_id) == ("domains/a3", "e1", "r1")
    assert sorted(flags.update_mask.paths) == ["kind", "labels"]
    assert (flags.spec.kind, flags.spec.labels["a"]) == (domain.DOMAIN_KIND_EDGE_ZONE, "1")
    assert (whole.name, list(whole.update_mask.paths), whole.etag) == ("domains/a3", ["*"], "e9")
    assert whole.spec.display_name == "Zone A3"
    both = await ctl("set", "domain", "a3", "--tag", "x", "-f", str(file), "--server", address)
    assert both.exit_code == ExitCode.USAGE
    assert len(controller.requests(fleet.UpdateDomainRequest)) == 2


async def test_desired_state_keeps_what_is_not_named_and_guards_it_by_etag(
    serve: Serve, controller: ScriptedController
) -> None:
    held = node.Node(id="n1", etag="e1")
    held.desired_state.policy_bundle = "base"
    held.desired_state.config_hash = "sha256:00"
    held.desired_state.configuration.update({"stir": {"mode": "observe", "level": 3}})
    controller.on(fleet.GetNodeRequest, fleet.GetNodeResponse(node=held))
    controller.on(
        fleet.SetDesiredStateRequest, fleet.SetDesiredStateResponse(node=NODE, receipt=RECEIPT)
    )
    address = await serve(controller)
    ran = await ctl(
        "set", "desired-state", "n1", "--version", "2.1.0", "--config", "stir.mode=enforce",
        "--requires-online", "--server", address,
    )  # fmt: skip
    assert ran.exit_code == ExitCode.OK, ran.err
    (sent,) = controller.requests(fleet.SetDesiredStateRequest)
    assert MessageToDict(sent.desired_state) == {
        "policyBundle": "base",
        "targetVersion": "2.1.0",
        "configuration": {"stir": {"mode": "enforce", "level": 3.0}},
        "constraints": {"requiresOnline": True},
    }
    assert sent.etag == "e1"


async def test_desired_state_replaced_by_nothing_is_declared_no_more(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(
        fleet.SetDesiredStateRequest, fleet.SetDesiredStateResponse(node=NODE, receipt=RECEIPT)
    )
    address = await serve(controller)
    ran = await ctl("set", "desired-state", "n1", "--replace", "--server", address)
    assert ran.exit_code == ExitCode.OK, ran.err
    (sent,) = controller.requests(fleet.SetDesiredStateRequest)
    assert not sent.HasField("desired_state")


async def test_desired_state_without_anything_to_declare_is_refused(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(fleet.GetNodeRequest, fleet.GetNodeResponse(node=NODE))
    ran = await ctl("set", "desired-state", "n1", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.USAGE
    assert controller.requests(fleet.SetDesiredStateRequest) == []


async def test_a_node_is_moved_and_deleted_with_a_reason(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(fleet.MoveNodeRequest, fleet.MoveNodeResponse(node=NODE, receipt=RECEIPT))
    controller.on(fleet.DeleteNodeRequest, fleet.DeleteNodeResponse(receipt=RECEIPT))
    address = await serve(controller)
    moved = await ctl(
        "move", "node", "n1", "--to", "a1", "--reason", "rewired", "--server", address
    )
    gone = await ctl("delete", "node", "nodes/n1", "--reason", "scrapped", "--server", address)
    assert "moved to a1" in moved.out
    assert gone.exit_code == ExitCode.OK
    assert controller.requests(fleet.MoveNodeRequest)[0].reason == "rewired"
    assert controller.requests(fleet.DeleteNodeRequest)[0].name == "nodes/n1"


async def test_optimistic_and_repeated_writes_are_said_so(
    serve: Serve, controller: ScriptedController
) -> None:
    receipt = WriteReceipt(
        domain="a1", controller="a1-control", optimistic=True, repeated_request=True
    )
    controller.on(fleet.DeleteNodeRequest, fleet.DeleteNodeResponse(receipt=receipt))
    ran = await ctl("delete", "node", "n1", "--server", await serve(controller))
    assert "under its autonomy" in ran.err
    assert "carried out before" in ran.err


async def test_validate_only_says_that_nothing_was_written(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(fleet.DeleteNodeRequest, fleet.DeleteNodeResponse())
    ran = await ctl("delete", "node", "n1", "--validate-only", "--server", await serve(controller))
    assert "nothing was written" in ran.out
    assert controller.requests(fleet.DeleteNodeRequest)[0].validate_only


async def test_a_domain_needs_an_id_and_a_parent(
    serve: Serve, controller: ScriptedController
) -> None:
    made = domain.Domain(id="a3", etag="e")
    controller.on(
        fleet.CreateDomainRequest, fleet.CreateDomainResponse(domain=made, receipt=RECEIPT)
    )
    address = await serve(controller)
    no_parent = await ctl("create", "domain", "a3", "--server", address)
    assert no_parent.exit_code == ExitCode.USAGE
    assert "no parent" in no_parent.err
    ran = await ctl(
        "create", "domain", "a3", "--parent", "region-a", "--kind", "edge_zone", "--server", address
    )
    assert ran.exit_code == ExitCode.OK
    (sent,) = controller.requests(fleet.CreateDomainRequest)
    assert (sent.spec.parent, sent.spec.kind) == ("region-a", domain.DOMAIN_KIND_EDGE_ZONE)


async def test_set_policy_keeps_what_flags_do_not_name(
    serve: Serve, controller: ScriptedController
) -> None:
    held = policy.Policy(
        id="p1", domain="a1", etag="e1", spec=policy.PolicySpec(version="v1", enforced=True)
    )
    controller.on(policies.GetPolicyRequest, policies.GetPolicyResponse(policy=held))
    controller.on(
        policies.UpdatePolicyRequest, policies.UpdatePolicyResponse(policy=held, receipt=RECEIPT)
    )
    address = await serve(controller)
    ran = await ctl("set", "policy", "a1/p1", "--target-version", "2", "--server", address)
    assert ran.exit_code == ExitCode.OK, ran.err
    (sent,) = controller.requests(policies.UpdatePolicyRequest)
    assert sent.name == "domains/a1/policies/p1"
    assert MessageToDict(sent.spec) == {"version": "v1", "enforced": True, "targetVersion": "2"}
    assert sent.etag == "e1"
    nothing = await ctl("set", "policy", "a1/p1", "--server", address)
    assert nothing.exit_code == ExitCode.USAGE


async def test_what_get_printed_can_be_edited_and_set(
    serve: Serve, controller: ScriptedController, tmp_path: Path
) -> None:
    held = policy.Policy(
        name="domains/a1/policies/p1",
        id="p1",
        domain="a1",
        etag="e1",
        spec=policy.PolicySpec(version="v1", tags=["lab"]),
    )
    held.spec.configuration.update({"a": {"b": [1, "x", None]}})
    controller.on(policies.GetPolicyRequest, policies.GetPolicyResponse(policy=held))
    controller.on(
        policies.UpdatePolicyRequest, policies.UpdatePolicyResponse(policy=held, receipt=RECEIPT)
    )
    address = await serve(controller)
    printed = await ctl("get", "policy", "a1/p1", "-o", "yaml", "--server", address)
    file = tmp_path / "p1.yaml"
    file.write_text(printed.out)
    ran = await ctl("set", "policy", "a1/p1", "-f", str(file), "--server", address)
    assert ran.exit_code == ExitCode.OK, ran.err
    (sent,) = controller.requests(policies.UpdatePolicyRequest)
    assert sent.spec == held.spec
    assert sent.etag == "e1"


@pytest.mark.parametrize("name", ["p1", "a/b/c", "/p1", "a1/", "domains/a1/p/p1"])
async def test_a_name_that_is_no_policys_is_refused(name: str) -> None:
    ran = await ctl("get", "policy", name, "--server", "127.0.0.1:1")
    assert ran.exit_code == ExitCode.USAGE
    assert "DOMAIN/ID" in ran.err


async def test_observations_are_listed(serve: Serve, controller: ScriptedController) -> None:
    seen = observation.Observation(id="o1", node="n1", type="inventory", replayed=True)
    seen.inventory.kernel = "Linux"
    controller.on(
        fleet.ListObservationsRequest, fleet.ListObservationsResponse(observations=[seen])
    )
    ran = await ctl("get", "observations", "n1", "--server", await serve(controller))
    assert "inventory" in ran.out
    assert "replayed" in ran.out


CONTENT = b"a" * 1000 + b"b" * 500
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


def piece(offset: int, data: bytes) -> fleet.DownloadLargeValueResponse:
    return fleet.DownloadLargeValueResponse(offset=offset, data=data, size_bytes=len(CONTENT))


async def test_a_broken_download_goes_on_where_it_ended(
    serve: Serve, controller: ScriptedController, tmp_path: Path
) -> None:
    held = node.Node(id="n1")
    held.inventory.large_values.add(name="packages", digest=DIGEST, size_bytes=len(CONTENT))
    controller.on(fleet.GetNodeRequest, fleet.GetNodeResponse(node=held))
    controller.on(
        fleet.DownloadLargeValueRequest,
        [piece(0, CONTENT[:1000]), Fail(grpc.StatusCode.UNAVAILABLE)],
        [piece(1000, CONTENT[1000:])],
    )
    target = tmp_path / "packages"
    address = await serve(controller)
    ran = await ctl("values", "download", "n1", "--to", str(target), "--server", address)
    assert ran.exit_code == ExitCode.OK, ran.err
    assert target.read_bytes() == CONTENT
    offsets = [each.offset for each in controller.requests(fleet.DownloadLargeValueRequest)]
    assert offsets == [0, 1000]
    again = await ctl("values", "download", DIGEST, "--to", str(target), "--server", address)
    assert again.exit_code == ExitCode.USAGE
    assert target.read_bytes() == CONTENT


async def test_bytes_that_do_not_match_the_digest_are_not_handed_out(
    serve: Serve, controller: ScriptedController, tmp_path: Path
) -> None:
    controller.on(fleet.DownloadLargeValueRequest, [piece(0, b"x" * len(CONTENT))])
    target = tmp_path / "value"
    address = await serve(controller)
    to_file = await ctl("values", "download", DIGEST, "--to", str(target), "--server", address)
    to_stdout = await ctl("values", "download", DIGEST, "--server", address)
    assert to_file.exit_code == to_stdout.exit_code == ExitCode.NOT_INTACT
    assert os.listdir(tmp_path) == []
    assert to_stdout.out == ""
