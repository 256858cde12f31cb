"""Drift from end to end: real controllers and a real agent of a simulated host. It appears, is seen at every level, is
waived, counts again, and heals when the node applies what is desired of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.fleet.v1 import drift_pb2, node_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, reason_of, wait_until
from tests.e2e.test_cli import Ctl

ZONE = "edge-zone-a1"
NODE = f"{ZONE}-n1"
SILENT = "silent-1"

UNKNOWN = drift_pb2.DRIFT_STATE_UNKNOWN
IN_SPEC = drift_pb2.DRIFT_STATE_IN_SPEC
DRIFTING = drift_pb2.DRIFT_STATE_DRIFTING


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    plans = [
        DomainPlan("global", kind="global", level="global", log="sqlite"),
        DomainPlan(ZONE, "global", log="sqlite"),
    ]
    with LocalFederation(tmp_path_factory.mktemp("federation"), plans) as running:
        running.start_all()
        running.start_simulated_agents(ZONE, 1)
        yield running


@pytest.fixture(scope="module")
def top(federation: LocalFederation) -> Iterator[Clients]:
    with Clients(federation.address("global")) as clients:
        wait_until(lambda: has_reported(clients), "the node's report at the top")
        yield clients


@pytest.fixture(scope="module")
def zone(federation: LocalFederation, top: Clients) -> Iterator[Clients]:
    with Clients(federation.address(ZONE)) as clients:
        yield clients


def has_reported(clients: Clients) -> bool:
    try:
        return node(clients).HasField("actual_state")
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return False


def node(clients: Clients, name: str = NODE) -> node_pb2.Node:
    request = fleet.GetNodeRequest(name=f"nodes/{name}")
    found: node_pb2.Node = clients.fleet.GetNode(request, timeout=DEADLINE_S).node
    return found


def wait_for_state(clients: Clients, state: int, what: str) -> drift_pb2.Drift:
    wait_until(lambda: node(clients).drift.state == state, what)
    return node(clients).drift


def heat(clients: Clients) -> drift_pb2.DriftSums:
    """The sums of the zone, as a controller sees them."""
    request = fleet.ListDomainDriftsRequest(domain=ZONE)
    reply = clients.fleet.ListDomainDrifts(request, timeout=DEADLINE_S)
    sums: drift_pb2.DriftSums = reply.domains[0].own
    return sums


def bring_into_force(clients: Clients) -> None:
    """Has the node take what governs it."""
    action = command_pb2.Action(apply_desired_state=command_pb2.ApplyDesiredState())
    issue = command_service_pb2.IssueCommandRequest(
        action=action, targets=command_pb2.Targets(nodes=[NODE])
    )
    clients.commands.IssueCommand(issue, timeout=DEADLINE_S, metadata=PRINCIPAL)


def in_force(clients: Clients) -> str:
    """Version of the policy that the node reports."""
    got = clients.fleet.GetNode(fleet.GetNodeRequest(name=f"nodes/{NODE}"), timeout=DEADLINE_S)
    return str(got.node.actual_state.policy_version)


def test_drift_appears_is_waived_counts_again_and_heals(
    federation: LocalFederation, top: Clients, zone: Clients
) -> None:
    assert node(zone).drift.state == IN_SPEC
    zone.fleet.CreateNode(
        fleet.CreateNodeRequest(node_id=SILENT, domain=ZONE), timeout=DEADLINE_S, metadata=PRINCIPAL
    )
    assert node(zone, SILENT).drift.state == UNKNOWN

    policy = policy_pb2.PolicySpec(version="policy-v2.1")
    document: dict[str, Any] = {
        "stir": {"enforcement_mode": "hard"},
        "rate_limit": {"max_cps": 2000},
    }
    policy.configuration.update(document)
    request = policy_service_pb2.CreatePolicyRequest(domain="global", policy_id="base", spec=policy)
    top.policies.CreatePolicy(request, timeout=DEADLINE_S, metadata=PRINCIPAL)

    there = wait_for_state(zone, DRIFTING, "drift at the zone, from a policy of the root")
    assert [each.field for each in there.config_drift.details] == [
        "rate_limit.max_cps",
        "stir.enforcement_mode",
    ]
    assert (there.policy_drift.violations, there.policy_drift.compliance_score) == (2, 0.0)
    assert there.score == 4.0
    assert there.HasField("stale_by")
    for clients in (top, zone):
        wait_until(lambda c=clients: heat(c).node_count == 2, "both nodes")  # type: ignore[misc]
        sums = heat(clients)
        assert (sums.drifting_node_count, sums.unknown_node_count) == (1, 1)
        assert sums.objects_out_of_spec == 2

    waiver = fleet.WaiveDriftRequest(
        name=f"nodes/{NODE}",
        field="configuration.stir",
        any_value=True,
        reason="not before the audit",
        expire_time=Timestamp(seconds=int(time.time()) + 3600),
        request_id="waive-1",
    )
    waived = top.fleet.WaiveDrift(waiver, timeout=DEADLINE_S, metadata=PRINCIPAL)
    assert waived.receipt.controller == f"{ZONE}-control"
    assert (waived.node.drift.objects_out_of_spec, waived.node.drift.waived_objects) == (1, 1)
    wait_until(lambda: node(top).drift.waived_objects == 1, "the waiver at the top")
    assert node(top).drift.waived[0].waiver.principal == "user:tester"

    revoked = fleet.RevokeDriftWaiverRequest(name=f"nodes/{NODE}", field="configuration.stir")
    zone.fleet.RevokeDriftWaiver(revoked, timeout=DEADLINE_S, metadata=PRINCIPAL)
    assert node(zone).drift.objects_out_of_spec == 2
    with pytest.raises(grpc.RpcError) as caught:
        zone.fleet.RevokeDriftWaiver(revoked, timeout=DEADLINE_S, metadata=PRINCIPAL)
    assert reason_of(caught.value) == "NOT_FOUND"

    action = command_pb2.Action(apply_config=command_pb2.ApplyConfig(config_name="v2"))
    # Spelled otherwise, and the same: numbers as text, and a field that is null.
    spelled: dict[str, Any] = {
        "stir": {"enforcement_mode": "hard", "url": None},
        "rate_limit": {"max_cps": "2000"},
    }
    action.apply_config.document.update(spelled)
    issue = command_service_pb2.IssueCommandRequest(action=action)
    issue.targets.nodes.append(NODE)
    top.commands.IssueCommand(issue, timeout=DEADLINE_S, metadata=PRINCIPAL)
    for clients in (zone, top):
        healed = wait_for_state(clients, IN_SPEC, "the drift healed")
        assert healed.score == 0
        assert not healed.HasField("policy_drift")
    assert heat(top).drifting_node_count == 0

    bring_into_force(top)
    for clients in (zone, top):
        wait_until(lambda c=clients: in_force(c) == "policy-v2.1", "the policy in force")  # type: ignore[misc]
    policy.version = "policy-v2.2"
    update = policy_service_pb2.UpdatePolicyRequest(
        name="domains/global/policies/base", spec=policy
    )
    top.policies.UpdatePolicy(update, timeout=DEADLINE_S, metadata=PRINCIPAL)
    stale = wait_for_state(zone, DRIFTING, "another version of the policy").policy_drift
    assert (stale.policy_version, stale.actual_version) == ("policy-v2.2", "policy-v2.1")
    assert (stale.actual_policy_bundle, stale.compliance_score) == ("base", 1.0)
    assert stale.HasField("stale_by")
    bring_into_force(top)
    wait_for_state(top, IN_SPEC, "the new version in force")
    assert in_force(top) == "policy-v2.2"


def test_the_command_line_shows_waives_and_revokes(
    federation: LocalFederation, top: Clients, zone: Clients
) -> None:
    ctl = Ctl(federation.server(ZONE))
    ctl("set", "desired-state", NODE, "--version", "souverix-rempart-9.0.0")
    shown = ctl("drift", NODE).out
    assert "target_version" in shown
    assert "missing_major_release" in shown
    assert "DRIFTING" in ctl("drift", ZONE).out
    printed = ctl("drift", "-o", "json").json
    assert ZONE in [each["domain"] for each in printed["domains"]]
    ctl("drift", "waive", NODE, "target_version", "--reason", "no parts", "--for", "1h")
    assert "no parts" in ctl("drift", NODE).out
    assert ctl("get", "nodes", "--min-drift", "1", "-o", "json").json.get("nodes", []) == []
    ctl("drift", "revoke", NODE, "target_version")
    watch = ctl.start("drift", ZONE, "--watch", "-o", "json")
    try:
        assert watch.stdout is not None
        steps = map(json.loads, watch.stdout)
        existing = {step["existing"]["id"] for step in (next(steps), next(steps))}
        assert existing == {NODE, SILENT}
        ctl("set", "desired-state", NODE, "--replace")
        assert any(step.get("removed", {}).get("name") == f"nodes/{NODE}" for step in steps)
    finally:
        watch.terminate()
        watch.wait()
        assert watch.stdout is not None
        watch.stdout.close()
    ctl("drift", "waive", NODE, "target_version", "--reason", "r", "--for", "1h", code=4)
    ctl("drift", "nowhere", code=3)
