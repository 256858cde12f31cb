"""A node's life by calls: what is refused and why, what a transition leaves, maintenance that ends by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from souverix.fleet.v1 import fleet_service_pb2, lifecycle_pb2, node_pb2, supply_chain_pb2
from tests.federation_fixture import ROOT
from tests.unit.controller.services.served import Served, refusal, root_served

DEADLINE_S = 20.0
ALICE = (("souverix-principal", "user:alice"),)


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[Served]:
    """The root's controller with the node n1, just registered."""
    async with root_served(tmp_path) as served:
        hardware = supply_chain_pb2.HardwareIdentity(serial="HW-1")
        await served.fleet.CreateNode(
            fleet_service_pb2.CreateNodeRequest(
                node_id="n1", spec=node_pb2.NodeSpec(hardware=hardware, tags=["lab"])
            )
        )
        yield served


def asking(transition: str, **fields: Any) -> fleet_service_pb2.TransitionNodeRequest:
    return fleet_service_pb2.TransitionNodeRequest(
        name="nodes/n1", transition=f"LIFECYCLE_TRANSITION_{transition}", **fields
    )


async def move(controller: Served, *transitions: str, **fields: Any) -> Any:
    reply = None
    for transition in transitions:
        request = asking(transition, **fields)
        reply = await controller.fleet.TransitionNode(request, metadata=ALICE)
    return reply


async def timeline(controller: Served) -> list[Any]:
    request = fleet_service_pb2.ListLifecycleHistoryRequest(name="nodes/n1")
    return list((await controller.fleet.ListLifecycleHistory(request)).timeline.transitions)


async def test_a_node_is_enrolled_activated_and_quarantined_with_a_timeline(
    controller: Served,
) -> None:
    await move(controller, "ENROL", "ACTIVATE")
    reply = await move(
        controller, "QUARANTINE", reason="firmware differs", exit_condition="firmware 2.1.3"
    )
    assert reply.receipt.controller == "global-control"
    lifecycle = reply.node.lifecycle
    assert lifecycle.phase == lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED
    assert (lifecycle.decided_by, lifecycle.exit_condition) == ("user:alice", "firmware 2.1.3")
    phases = [entered.phase for entered in await timeline(controller)]
    assert phases == [
        lifecycle_pb2.LIFECYCLE_PHASE_PROVISIONING,
        lifecycle_pb2.LIFECYCLE_PHASE_ENROLLED,
        lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE,
        lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED,
    ]
    domain = fleet_service_pb2.GetDomainRequest(name=f"domains/{ROOT}")
    summary = (await controller.fleet.GetDomain(domain)).domain.summary
    assert [(p.phase, p.node_count) for p in summary.phases] == [(lifecycle.phase, 1)]


async def test_an_illegal_transition_is_refused_with_the_legal_ones(controller: Served) -> None:
    code, info, message = await refusal(controller.fleet.TransitionNode(asking("ACTIVATE")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert info.metadata["state"] == "PROVISIONING"
    assert "ENROL" in info.metadata["legal"].split(", ")
    assert "ENROL" in message
    assert len(await timeline(controller)) == 1


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (asking("UNSPECIFIED"), "transition"),
        (asking("QUARANTINE", reason="x"), "exit_condition"),
        (asking("ENROL", reason="x" * 2000), "reason"),
        (asking("ENTER_MAINTENANCE"), "expire_time"),
    ],
)
async def test_bad_input_is_refused_by_field(controller: Served, request_: Any, field: str) -> None:
    code, info, _ = await refusal(controller.fleet.TransitionNode(request_))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_etags_requests_and_validation_work_as_for_other_writes(controller: Served) -> None:
    stale = asking("ENROL", etag="stale")
    code, _, _ = await refusal(controller.fleet.TransitionNode(stale))
    assert code is grpc.StatusCode.ABORTED
    tried = await controller.fleet.TransitionNode(asking("ENROL", validate_only=True))
    assert tried.node.lifecycle.phase == lifecycle_pb2.LIFECYCLE_PHASE_ENROLLED
    assert not tried.HasField("receipt")
    first = await controller.fleet.TransitionNode(asking("ENROL", request_id="r1"))
    again = await controller.fleet.TransitionNode(asking("ENROL", request_id="r1"))
    assert again.receipt.repeated_request
    assert again.node.etag == first.node.etag
    unchanged = asking("ACTIVATE", etag=first.node.etag)
    assert (await controller.fleet.TransitionNode(unchanged)).node.etag != first.node.etag


async def test_maintenance_ends_by_itself(controller: Served) -> None:
    await move(controller, "ENROL", "ACTIVATE")
    request = asking("ENTER_MAINTENANCE", reason="new fan")
    request.expire_time.FromMilliseconds(time.time_ns() // 1_000_000 + 300)
    reply = await controller.fleet.TransitionNode(request)
    assert reply.node.lifecycle.state == "MAINTENANCE_SCHEDULED"
    async with asyncio.timeout(DEADLINE_S):
        while True:
            last = (await timeline(controller))[-1]
            if not last.state:
                break
            await asyncio.sleep(0.02)
    assert last.phase == lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE
    assert last.previous_state == "MAINTENANCE_SCHEDULED"
    assert last.decided_by == "controller:global-control"


async def test_replaced_hardware_leaves_the_twin_and_its_history(controller: Served) -> None:
    await move(controller, "ENROL")
    fresh = supply_chain_pb2.HardwareIdentity(serial="HW-2")
    reply = await move(controller, "REPLACE_HARDWARE", reason="broken", hardware=fresh)
    assert reply.node.spec.hardware.serial == "HW-2"
    assert list(reply.node.spec.tags) == ["lab"]
    entered = await timeline(controller)
    assert len(entered) == 3
    assert entered[-1].replaced_hardware.serial == "HW-1"
