"""A controller whose log was compacted and that was killed gives everything back: to clients, to an auditor, and to a
child that comes late.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.audit.v1 import audit_service_pb2
from souverix.federation.v1 import federation_service_pb2
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, wait_until

TOP, CHILD = "global", "region-a"
POLICIES = 200
POLICY_BYTES = 60_000


@pytest.fixture
def federation(tmp_path: Path, etcd_binary: Path) -> Iterator[LocalFederation]:
    plans = [
        DomainPlan(TOP, kind="global", level="global", log="embedded", log_budget_mib=1),
        DomainPlan(CHILD, parent=TOP, kind="region", level="regional", log="sqlite"),
    ]
    with LocalFederation(tmp_path, plans) as running:
        running.start_controller(TOP)
        running.wait_for_master(TOP)
        yield running


def storage(client: Clients) -> federation_service_pb2.LogStorage:
    request = federation_service_pb2.GetStatusRequest()
    held: federation_service_pb2.LogStorage = client.federation.GetStatus(
        request, timeout=DEADLINE_S
    ).log_storage
    return held


def write(client: Clients) -> None:
    """Policies that fill segments, for nothing in them repeats."""
    for number in range(POLICIES):
        spec = policy_pb2.PolicySpec(version=f"v{number}")
        spec.configuration.update({"filler": os.urandom(POLICY_BYTES // 2).hex()})
        client.policies.CreatePolicy(
            policy_service_pb2.CreatePolicyRequest(domain=TOP, policy_id=f"p{number}", spec=spec),
            timeout=DEADLINE_S,
            metadata=PRINCIPAL,
        )


def assert_whole(client: Clients) -> None:
    """Every policy is there, and the log proves itself from its first commit on."""
    assert client.policy_version(TOP, "p0") == "v0"
    assert client.policy_version(TOP, f"p{POLICIES - 1}") == f"v{POLICIES - 1}"
    request = audit_service_pb2.VerifyAuditRequest(all_lanes=True)
    *_, last = client.audit.VerifyAudit(request, timeout=DEADLINE_S)
    assert last.summary.faulty_streams == 0
    assert last.summary.events > 2 * POLICIES


def test_compacted_and_killed_controller_gives_everything_back(
    federation: LocalFederation,
) -> None:
    with Clients(federation.address(TOP)) as client:
        write(client)
        wait_until(lambda: storage(client).start_offset > POLICIES / 2, "a compacted log")
    federation.processes[f"{TOP}/r1"].kill()
    federation.start_controller(TOP)
    federation.wait_for_master(TOP)
    with Clients(federation.address(TOP)) as client:
        assert_whole(client)
        wait_until(lambda: storage(client).start_offset > POLICIES / 2, "a look at the disk")
        held = storage(client)
        assert held.archived_offset >= held.start_offset
        assert held.archive_bytes > POLICIES * POLICY_BYTES / 4

    federation.start_controller(CHILD)
    with Clients(federation.address(CHILD)) as late:
        federation.wait_for_master(CHILD)
        for number in (0, POLICIES // 2, POLICIES - 1):
            late.wait_for_policy(TOP, f"p{number}", f"v{number}")
