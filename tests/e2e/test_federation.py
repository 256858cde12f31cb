"""One federation of real processes: what is written at one level is seen at the others, and every refusal says why."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import struct_pb2

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.audit.v1 import audit_service_pb2
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.federation.v1 import federation_service_pb2
from souverix.fleet.v1 import fleet_service_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, reason_of, wait_until

SERVICES = (
    "souverix.fleet.v1.FleetService",
    "souverix.policy.v1.PolicyService",
    "souverix.command.v1.CommandService",
    "souverix.federation.v1.FederationService",
    "souverix.graph.v1.GraphService",
    "souverix.audit.v1.AuditService",
    "souverix.sync.v1.SyncService",
    "souverix.nodelink.v1.NodeLinkService",
    "grpc.health.v1.Health",
)


@pytest.fixture(scope="module")
def federation(
    tmp_path_factory: pytest.TempPathFactory, etcd_binary: Path
) -> Iterator[LocalFederation]:
    plans = [
        DomainPlan("global", kind="global", level="global"),
        DomainPlan("region-a", "global", kind="region", level="regional"),
        DomainPlan("edge-zone-a1", "region-a"),
    ]
    with LocalFederation(tmp_path_factory.mktemp("federation"), plans) as running:
        running.start_all()
        running.start_simulated_agents("edge-zone-a1", 3)
        yield running


@pytest.fixture(scope="module")
def top(federation: LocalFederation) -> Iterator[Clients]:
    with Clients(federation.address("global")) as clients:
        yield clients


@pytest.fixture(scope="module")
def region(federation: LocalFederation) -> Iterator[Clients]:
    with Clients(federation.address("region-a")) as clients:
        yield clients


@pytest.fixture(scope="module")
def zone(federation: LocalFederation) -> Iterator[Clients]:
    with Clients(federation.address("edge-zone-a1")) as clients:
        yield clients


def test_the_whole_tree_is_known_at_the_top(top: Clients) -> None:
    request = federation_service_pb2.GetTopologyRequest()

    def domains() -> dict[str, str]:
        response = top.federation.GetTopology(request, timeout=DEADLINE_S)
        return {d.domain: d.authority.master_of_record for d in response.domains}

    wait_until(lambda: "edge-zone-a1" in domains(), "the zone known at the top")
    assert domains() == {
        "global": "global-control",
        "region-a": "region-a-control",
        "edge-zone-a1": "edge-zone-a1-control",
    }


def test_a_write_at_the_edge_is_seen_at_every_level_above(
    top: Clients, region: Clients, zone: Clients
) -> None:
    zone.create_policy("edge-zone-a1", "seen-above", "v1")
    for level in (region, top):
        level.wait_for_policy("edge-zone-a1", "seen-above", "v1")


def test_a_write_at_the_top_is_seen_below(top: Clients, region: Clients, zone: Clients) -> None:
    top.create_policy("global", "seen-below", "v1")
    for level in (region, zone):
        level.wait_for_policy("global", "seen-below", "v1")


def test_a_write_elsewhere_is_made_by_the_master_of_record(top: Clients, zone: Clients) -> None:
    response = top.create_policy("edge-zone-a1", "forwarded", "v1")
    assert response.receipt.controller == "edge-zone-a1-control"
    assert not response.receipt.optimistic
    assert zone.policy_version("edge-zone-a1", "forwarded") == "v1"


def test_a_controller_speaks_for_its_users_only_within_its_own_subtree(zone: Clients) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        zone.create_policy("region-a", "out-of-reach", "v1")
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert reason_of(refused.value) == "DOMAIN_OUT_OF_REACH"


def test_the_receipt_names_the_level_at_which_the_write_is_durable(zone: Clients) -> None:
    response = zone.create_policy("edge-zone-a1", "durable", "v1", durable_at="global")
    assert list(response.receipt.durable_at) == ["edge-zone-a1", "region-a", "global"]


def test_a_repeated_request_is_executed_once(zone: Clients) -> None:
    first = zone.create_policy("edge-zone-a1", "once", "v1", request_id="request-1")
    again = zone.create_policy("edge-zone-a1", "once", "v1", request_id="request-1")
    assert again.receipt.repeated_request
    assert again.receipt.commit_offset == first.receipt.commit_offset
    assert again.policy.etag == first.policy.etag


def test_a_request_id_cannot_be_used_for_something_else(zone: Clients) -> None:
    zone.create_policy("edge-zone-a1", "taken-1", "v1", request_id="request-2")
    with pytest.raises(grpc.RpcError) as refused:
        zone.create_policy("edge-zone-a1", "taken-2", "v1", request_id="request-2")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(refused.value) == "REQUEST_ID_REUSED"


def test_a_write_under_an_old_etag_changes_nothing_and_is_audited(zone: Clients) -> None:
    old = zone.create_policy("edge-zone-a1", "contended", "v1").policy.etag
    zone.update_policy("edge-zone-a1", "contended", "v2", etag=old)
    with pytest.raises(grpc.RpcError) as refused:
        zone.update_policy("edge-zone-a1", "contended", "v3", etag=old)
    assert refused.value.code() is grpc.StatusCode.ABORTED
    assert reason_of(refused.value) == "ETAG_MISMATCH"
    assert zone.policy_version("edge-zone-a1", "contended") == "v2"
    request = audit_service_pb2.ListAuditEntriesRequest(principal=PRINCIPAL[0][1])
    reasons = {
        e.record.reason for e in zone.audit.ListAuditEntries(request, timeout=DEADLINE_S).entries
    }
    assert "ETAG_MISMATCH" in reasons


def test_an_unauthorised_write_of_an_unknown_domain_is_refused_with_the_cause(
    zone: Clients,
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        zone.create_policy("no-such-domain", "p", "v1")
    assert refused.value.code() in (
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    assert "no-such-domain" in (refused.value.details() or "")


def test_nodes_that_report_at_the_edge_are_seen_with_their_inventory_at_the_top(
    top: Clients,
) -> None:
    request = fleet_service_pb2.ListNodesRequest(domain="edge-zone-a1")

    def inventories() -> list[str]:
        nodes = top.fleet.ListNodes(request, timeout=DEADLINE_S).nodes
        return [n.id for n in nodes if n.inventory.memory_bytes > 0]

    wait_until(lambda: len(inventories()) == 3, "three nodes with inventories at the top")


@pytest.mark.parametrize(
    "semantics",
    [
        command_pb2.DELIVERY_SEMANTICS_AT_MOST_ONCE,
        command_pb2.DELIVERY_SEMANTICS_AT_LEAST_ONCE,
    ],
)
def test_a_command_from_the_top_reaches_the_nodes_and_its_results_come_back(
    top: Clients, semantics: command_pb2.DeliverySemantics
) -> None:
    nodes = fleet_service_pb2.ListNodesRequest(domain="edge-zone-a1")
    wait_until(
        lambda: len(top.fleet.ListNodes(nodes, timeout=DEADLINE_S).nodes) == 3,
        "three nodes at the top",
    )
    document = struct_pb2.Struct()
    document.update({"rate_limit": {"max_cps": 2000}})
    request = command_service_pb2.IssueCommandRequest(
        targets=command_pb2.Targets(domain="edge-zone-a1"),
        action=command_pb2.Action(apply_config=command_pb2.ApplyConfig(document=document)),
        semantics=semantics,
    )
    issued = top.commands.IssueCommand(request, timeout=DEADLINE_S, metadata=PRINCIPAL).command
    watch = command_service_pb2.WatchCommandRequest(name=issued.name)
    last = None
    for step in top.commands.WatchCommand(watch, timeout=DEADLINE_S):
        last = step.command
    assert last is not None
    assert last.done
    assert [d.state for d in last.deliveries] == [command_pb2.DELIVERY_STATE_SUCCEEDED] * 3


def test_every_service_is_listed_and_described_by_grpcurl(
    federation: LocalFederation, grpcurl_binary: Path
) -> None:
    address = federation.address("region-a")
    listed = _run(grpcurl_binary, "-plaintext", address, "list").split()
    assert set(SERVICES) <= set(listed)
    for service in SERVICES:
        described = _run(grpcurl_binary, "-plaintext", address, "describe", service)
        assert service in described


@pytest.mark.parametrize(
    ("method", "request_body", "expected"),
    [
        ("souverix.fleet.v1.FleetService/ListDomains", {}, "domains"),
        ("souverix.fleet.v1.FleetService/ListNodes", {"includeSubtree": True}, "nodes"),
        ("souverix.policy.v1.PolicyService/ListPolicies", {"includeSubtree": True}, "policies"),
        ("souverix.command.v1.CommandService/ListCommands", {}, "commands"),
        ("souverix.federation.v1.FederationService/GetStatus", {}, "controller"),
        ("souverix.federation.v1.FederationService/ListPeers", {}, "peers"),
        ("souverix.audit.v1.AuditService/ListAuditEntries", {}, "entries"),
        ("souverix.audit.v1.AuditService/VerifyAudit", {"allLanes": True}, "summary"),
        ("grpc.health.v1.Health/Check", {}, "status"),
        ("grpc.health.v1.Health/Check", {"service": "souverix.fleet.v1.FleetService"}, "status"),
    ],
)
def test_every_service_is_called_by_grpcurl(
    federation: LocalFederation,
    grpcurl_binary: Path,
    method: str,
    request_body: dict[str, object],
    expected: str,
) -> None:
    address = federation.address("region-a")
    body = json.dumps(request_body)
    printed = _run(grpcurl_binary, "-plaintext", "-d", body, address, method)
    assert f'"{expected}"' in printed


def test_services_are_listed_and_called_by_buf_curl_where_there_is_no_go(
    federation: LocalFederation, buf_binary: Path
) -> None:
    url = f"http://{federation.address('region-a')}"
    options = ("--protocol", "grpc", "--http2-prior-knowledge")
    listed = _run(buf_binary, "curl", *options, "--list-services", url).split()
    assert set(SERVICES) <= set(listed)
    method = "souverix.federation.v1.FederationService/GetStatus"
    printed = _run(buf_binary, "curl", *options, "--data", "{}", f"{url}/{method}")
    assert json.loads(printed)["controller"] == "region-a-control"


def test_the_audit_of_all_streams_verifies_at_every_level(
    top: Clients, region: Clients, zone: Clients
) -> None:
    for level in (top, region, zone):
        request = audit_service_pb2.VerifyAuditRequest(all_lanes=True)
        steps = list(level.audit.VerifyAudit(request, timeout=DEADLINE_S))
        summary = steps[-1].summary
        assert summary.events > 0
        assert summary.faulty_streams == 0, [s.stream for s in steps if s.HasField("stream")]


def test_garbage_is_refused_with_a_clean_status(federation: LocalFederation) -> None:
    with grpc.insecure_channel(federation.address("region-a")) as channel:
        call = channel.unary_unary(
            "/souverix.policy.v1.PolicyService/GetPolicy",
            request_serializer=lambda raw: raw,
            response_deserializer=lambda raw: raw,
        )
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\xff\xff\xff\xff", timeout=DEADLINE_S)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason_of(refused.value) == "MALFORMED"


def _run(program: Path, *arguments: str) -> str:
    finished = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
