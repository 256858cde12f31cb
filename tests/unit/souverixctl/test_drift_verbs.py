"""Drift: what is asked, what is shown of domains and nodes, and how waivers are sent."""

from __future__ import annotations

import json
import time

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from souverix.fleet.v1 import drift_pb2 as drift
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import node_pb2 as node
from souverix.receipt.v1.receipt_pb2 import WriteReceipt
from souverixctl.errors import ExitCode
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import Fail, ScriptedController, ctl

RECEIPT = WriteReceipt(domain="a1", controller="a1-control", durable_at=["a1"])
HEAT = fleet.ListDomainDriftsResponse(
    domains=[
        drift.DomainDrift(
            domain="region-a",
            subtree=drift.DriftSums(
                node_count=7,
                drifting_node_count=2,
                unknown_node_count=1,
                objects_out_of_spec=3,
                severity=drift.DRIFT_SEVERITY_HIGH,
                score=9,
                highest_score=7,
                stale_by=Duration(seconds=900),
            ),
        ),
        drift.DomainDrift(domain="a1", parent="region-a", subtree=drift.DriftSums(node_count=4)),
    ],
)


def twin(id: str, score: float) -> node.Node:
    found = drift.Drift(
        state=drift.DRIFT_STATE_DRIFTING, score=score, objects_out_of_spec=1,
        severity=drift.DRIFT_SEVERITY_MEDIUM,
    )  # fmt: skip
    return node.Node(name=f"nodes/{id}", id=id, domain="a1", etag="e1", drift=found)


def detailed() -> node.Node:
    found = twin("n1", 4)
    found.drift.version_drifts.add(
        desired="1.4.7", actual="1.4.6", severity=drift.DRIFT_SEVERITY_MEDIUM,
        impact="missing_security_patch",
    )  # fmt: skip
    config = found.drift.config_drift
    config.objects = 3
    config.details.add(
        field="rate_limit.max_cps",
        desired=Value(number_value=2000),
        actual=Value(number_value=1500),
    )
    config.details.add(field="stir.mode", desired=Value(string_value="hard"))
    found.drift.policy_drift.CopyFrom(
        drift.PolicyDrift(
            policy_bundle="base", policy_version="v2.1", actual_version="v2.0",
            compliance_score=0.95, violations=1, stale_by=Duration(seconds=3600),
        )
    )  # fmt: skip
    found.drift.unknown_fields.append("target_version")
    waiver = drift.DriftWaiver(
        field="configuration.log",
        reason="debugging",
        principal="user:alice",
        expire_time=Timestamp(seconds=1_800_000_000),
    )
    found.drift.waived.add(
        waiver=waiver,
        configuration=drift.ConfigDifference(field="log", actual=Value(bool_value=True)),
    )
    return found


async def test_domains_are_shown_with_their_drifting_nodes_worst_first(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(fleet.ListDomainDriftsRequest, HEAT)
    controller.on(
        fleet.ListNodesRequest, fleet.ListNodesResponse(nodes=[twin("mild", 1), twin("grave", 9)])
    )
    address = await serve(controller)
    ran = await ctl("drift", "region-a", "--subtree", "--server", address)
    assert ran.exit_code == ExitCode.OK, ran.err
    lines = ran.out.splitlines()
    assert lines[1].split()[:11] == [
        "region-a", "7", "2", "1", "3", "0", "HIGH", "9", "7", "15m", "-",
    ]  # fmt: skip
    assert ran.out.index("grave") < ran.out.index("mild")
    (asked,) = controller.requests(fleet.ListDomainDriftsRequest)
    assert (asked.domain, asked.include_subtree) == ("region-a", True)
    (nodes,) = controller.requests(fleet.ListNodesRequest)
    assert (nodes.domain, nodes.include_subtree) == ("region-a", True)
    assert list(nodes.drift_states) == [drift.DRIFT_STATE_DRIFTING, drift.DRIFT_STATE_UNKNOWN]


async def test_without_a_target_the_root_is_shown_and_programs_get_one_document(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(fleet.ListDomainDriftsRequest, HEAT)
    controller.on(fleet.ListNodesRequest, fleet.ListNodesResponse(nodes=[twin("n1", 1)]))
    address = await serve(controller)
    ran = await ctl("--server", address, "drift", "-o", "json")
    printed = json.loads(ran.out)
    assert [each["domain"] for each in printed["domains"]] == ["region-a", "a1"]
    assert [each["id"] for each in printed["nodes"]] == ["n1"]
    assert controller.requests(fleet.ListDomainDriftsRequest)[0].domain == ""


async def test_a_node_is_shown_field_by_field(serve: Serve, controller: ScriptedController) -> None:
    controller.on(fleet.ListDomainDriftsRequest, Fail(grpc.StatusCode.NOT_FOUND))
    controller.on(fleet.GetNodeRequest, fleet.GetNodeResponse(node=detailed()))
    address = await serve(controller)
    ran = await ctl("drift", "n1", "--server", address)
    assert ran.exit_code == ExitCode.OK, ran.err
    rows = {line.split()[0]: line.split()[1:] for line in ran.out.splitlines() if line}
    assert rows["target_version"] != []
    assert rows["configuration.rate_limit.max_cps"][:2] == ["2000", "1500"]
    assert rows["configuration.stir.mode"][:2] == ["hard", "-"]
    assert "compliance 95%, 1 violations; declared 1h ago" in ran.out
    assert "waived until 2027-01-15T08:00:00Z by user:alice: debugging" in ran.out
    assert "missing_security_patch" in ran.out
    assert "UNKNOWN" in ran.out
    assert "1 more fields differ" in ran.err
    named = await ctl("drift", "nodes/n1", "-o", "json", "--server", address)
    assert json.loads(named.out)["node"]["drift"]["score"] == 4
    assert len(controller.requests(fleet.ListDomainDriftsRequest)) == 1


async def test_a_domain_named_as_one_is_not_looked_for_among_nodes(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(fleet.ListDomainDriftsRequest, Fail(grpc.StatusCode.NOT_FOUND))
    ran = await ctl("drift", "domains/gone", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.NOT_FOUND
    assert controller.requests(fleet.ListDomainDriftsRequest)[0].domain == "gone"


async def test_a_watch_shows_drift_as_it_comes_and_heals(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(fleet.ListDomainDriftsRequest, HEAT)
    bookmark = fleet.WatchBookmark(resume_token="t", initial_state_complete=True)
    removal = fleet.NodeRemoval(
        name="nodes/n2", cause=fleet.REMOVAL_CAUSE_NO_LONGER_MATCHES
    )  # fmt: skip
    controller.on(
        fleet.WatchNodesRequest,
        [
            fleet.WatchNodesResponse(existing=twin("n2", 3)),
            fleet.WatchNodesResponse(bookmark=bookmark),
            fleet.WatchNodesResponse(removed=removal),
            Fail(grpc.StatusCode.PERMISSION_DENIED, "enough"),
        ],
    )
    ran = await ctl("drift", "region-a", "--watch", "--server", await serve(controller))
    assert "existing" in ran.out
    assert "score 3" in ran.out
    assert "in spec" in ran.out
    (asked,) = controller.requests(fleet.WatchNodesRequest)
    assert (asked.domain, asked.include_subtree) == ("region-a", False)


async def test_a_watch_of_one_node_leaves_out_its_neighbours(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(fleet.GetNodeRequest, fleet.GetNodeResponse(node=twin("n1", 1)))
    controller.on(
        fleet.WatchNodesRequest,
        [
            fleet.WatchNodesResponse(existing=twin("other", 3)),
            fleet.WatchNodesResponse(changed=twin("n1", 5)),
            fleet.WatchNodesResponse(removed=fleet.NodeRemoval(name="nodes/other")),
            Fail(grpc.StatusCode.PERMISSION_DENIED, "enough"),
        ],
    )
    ran = await ctl("drift", "nodes/n1", "--watch", "--server", await serve(controller))
    assert "score 5" in ran.out
    assert "other" not in ran.out
    assert controller.requests(fleet.WatchNodesRequest)[0].domain == "a1"


async def test_a_waiver_is_sent_with_its_end(serve: Serve, controller: ScriptedController) -> None:
    controller.on(
        fleet.WaiveDriftRequest, fleet.WaiveDriftResponse(node=twin("n1", 0), receipt=RECEIPT)
    )
    address = await serve(controller)
    ran = await ctl(
        "drift", "waive", "n1", "configuration.log", "--reason", "debugging", "--for", "12h",
        "--any-value", "--etag", "e1", "--server", address,
    )  # fmt: skip
    assert ran.exit_code == ExitCode.OK, ran.err
    assert ran.out.startswith("configuration.log of n1 waived until 20")
    (sent,) = controller.requests(fleet.WaiveDriftRequest)
    assert (sent.name, sent.field, sent.reason) == ("nodes/n1", "configuration.log", "debugging")
    assert (sent.any_value, sent.etag) == (True, "e1")
    assert sent.request_id
    assert abs(sent.expire_time.seconds - time.time() - 12 * 3600) < 60


@pytest.mark.parametrize("given", [("--for", "0s"), ("--for", "soon"), ()])
async def test_a_waiver_without_a_usable_end_is_not_sent(given: tuple[str, ...]) -> None:
    ran = await ctl(
        "drift", "waive", "n1", "target_version", "--reason", "r", *given, "--server", "127.0.0.1:1"
    )
    assert ran.exit_code == ExitCode.USAGE


async def test_a_waiver_is_revoked(serve: Serve, controller: ScriptedController) -> None:
    controller.on(
        fleet.RevokeDriftWaiverRequest,
        fleet.RevokeDriftWaiverResponse(node=twin("n1", 2), receipt=RECEIPT),
    )
    address = await serve(controller)
    ran = await ctl("drift", "revoke", "n1", "target_version", "--server", address)
    assert ran.out.startswith("waiver of target_version of n1 revoked")
    (sent,) = controller.requests(fleet.RevokeDriftWaiverRequest)
    assert (sent.name, sent.field) == ("nodes/n1", "target_version")


async def test_nodes_are_listed_with_their_score_and_filtered_by_it(
    serve: Serve, controller: ScriptedController
) -> None:
    unknown = node.Node(id="n2", drift=drift.Drift(state=drift.DRIFT_STATE_UNKNOWN))
    controller.on(fleet.ListNodesRequest, fleet.ListNodesResponse(nodes=[twin("n1", 2.5), unknown]))
    address = await serve(controller)
    ran = await ctl(
        "get", "nodes", "--min-drift", "1.5", "--drift", "drifting", "--server", address
    )
    assert "2.5" in ran.out
    assert "?" in ran.out
    (sent,) = controller.requests(fleet.ListNodesRequest)
    assert sent.min_drift_score == 1.5
    assert list(sent.drift_states) == [drift.DRIFT_STATE_DRIFTING]
