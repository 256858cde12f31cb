"""Lifecycle, histories and overview: what is sent and what is shown."""

from __future__ import annotations

import json
import time

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from souverix.fleet.v1 import (
    connectivity_pb2,
    domain_pb2,
    drift_pb2,
    lifecycle_pb2,
    node_pb2,
    overview_pb2,
)
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.receipt.v1.receipt_pb2 import WriteReceipt
from souverixctl.errors import ExitCode
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import Fail, ScriptedController, ctl

LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE
AUTONOMOUS = connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS
RECEIPT = WriteReceipt(domain="a1", controller="a1-control", durable_at=["a1"])


def ago(seconds: int) -> Timestamp:
    return Timestamp(seconds=int(time.time()) - seconds)


def moved(phase: str, state: str = "") -> fleet.TransitionNodeResponse:
    entered = lifecycle_pb2.LifecycleState(phase=f"LIFECYCLE_PHASE_{phase}", state=state)
    node = node_pb2.Node(id="n1", etag="e2", lifecycle=entered)
    return fleet.TransitionNodeResponse(node=node, receipt=RECEIPT)


async def test_maintenance_is_entered_until_a_time(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(fleet.TransitionNodeRequest, moved("UPDATING", "MAINTENANCE_SCHEDULED"))
    ran = await ctl(
        "lifecycle", "n1", "enter-maintenance", "--until", "4h", "--reason", "new fan",
        "--server", await serve(controller),
    )  # fmt: skip
    assert "node n1 is UPDATING (MAINTENANCE_SCHEDULED)" in ran.out
    (request,) = controller.requests(fleet.TransitionNodeRequest)
    assert request.transition == lifecycle_pb2.LIFECYCLE_TRANSITION_ENTER_MAINTENANCE
    assert (request.name, request.reason) == ("nodes/n1", "new fan")
    assert 4 * 3600 - 60 < request.expire_time.seconds - time.time() <= 4 * 3600
    assert request.request_id


async def test_a_checklist_step_and_new_hardware_are_sent(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(fleet.TransitionNodeRequest, moved("PROVISIONING"))
    address = await serve(controller)
    await ctl(
        "lifecycle", "n1", "confirm-decommission-step", "--step", "data-exported",
        "--server", address,
    )  # fmt: skip
    await ctl("lifecycle", "n1", "replace-hardware", "--serial", "HW-2", "--server", address)
    step, hardware = controller.requests(fleet.TransitionNodeRequest)
    assert step.step == lifecycle_pb2.DECOMMISSION_STEP_DATA_EXPORTED
    assert not step.HasField("hardware")
    assert hardware.hardware.serial == "HW-2"


async def test_a_refusal_shows_the_legal_transitions(
    serve: Serve, controller: ScriptedController
) -> None:
    refused = Fail(
        grpc.StatusCode.FAILED_PRECONDITION,
        "ACTIVATE does not lead on from PROVISIONING",
        "FAILED_PRECONDITION",
        {"state": "PROVISIONING", "legal": "ENROL, REPLACE_HARDWARE"},
    )
    controller.on(fleet.TransitionNodeRequest, refused)
    ran = await ctl("lifecycle", "n1", "activate", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.CONFLICT
    assert "ENROL, REPLACE_HARDWARE" in ran.err
    unheard = await ctl("lifecycle", "n1", "resurrect", "--server", controller.address)
    assert unheard.exit_code == ExitCode.USAGE


async def test_histories_are_shown_oldest_first(
    serve: Serve, controller: ScriptedController
) -> None:
    lost = connectivity_pb2.LinkState(
        mode=AUTONOMOUS,
        previous_mode=LIVE,
        reason="connection_lost",
        evidence="no link for 10.2 s, limit 10 s",
        since=ago(60),
        backlog_messages=7,
    )
    lost.quality.rtt.FromMilliseconds(45)
    ledger = connectivity_pb2.ConnectivityLedger(
        node="n1", history=[connectivity_pb2.LinkState(mode=LIVE, since=ago(600)), lost]
    )
    controller.on(
        fleet.ListConnectivityHistoryRequest, fleet.ListConnectivityHistoryResponse(ledger=ledger)
    )
    entered = lifecycle_pb2.LifecycleState(
        phase=lifecycle_pb2.LIFECYCLE_PHASE_DECOMMISSIONING,
        previous_phase=lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE,
        state="DECOMMISSIONING_GRACEFUL",
        reason="old",
        decided_by="user:alice",
        completed_steps=[lifecycle_pb2.DECOMMISSION_STEP_AUDIT_CLOSED],
        last_transition_time=ago(5),
    )
    timeline = lifecycle_pb2.Timeline(node="n1", transitions=[entered])
    controller.on(
        fleet.ListLifecycleHistoryRequest, fleet.ListLifecycleHistoryResponse(timeline=timeline)
    )
    address = await serve(controller)
    both = (await ctl("history", "n1", "--server", address)).out
    for shown in ("connection_lost", "45ms", "limit 10 s", "user:alice", "1/4", "GRACEFUL"):
        assert shown in both
    ledger_only = (await ctl("history", "n1", "--connectivity", "--server", address)).out
    lines = ledger_only.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:3] == ["10m", "-", "LIVE"]
    assert "user:alice" not in ledger_only
    document = json.loads((await ctl("history", "n1", "-o", "json", "--server", address)).out)
    assert document["lifecycle"]["timeline"]["transitions"][0]["decidedBy"] == "user:alice"
    assert document["connectivity"]["ledger"]["history"][1]["reason"] == "connection_lost"
    alone = await ctl("history", "n1", "--lifecycle", "-o", "json", "--server", address)
    assert "timeline" in json.loads(alone.out)
    assert "LIVE" not in (await ctl("history", "n1", "--lifecycle", "--server", address)).out


async def test_the_overview_counts_by_mode_phase_and_drift(
    serve: Serve, controller: ScriptedController
) -> None:
    scope = overview_pb2.DomainOverview(
        domain="region-a",
        subtree_node_count=51,
        modes=[
            domain_pb2.ModeCount(node_count=3),
            domain_pb2.ModeCount(mode=LIVE, node_count=48),
        ],
        phases=[domain_pb2.PhaseCount(phase=lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE, node_count=51)],
        versions=overview_pb2.Distribution(
            values=[overview_pb2.ValueCount(value="1.4.7", node_count=40)]
        ),
        drift=drift_pb2.DriftSums(drifting_node_count=7, objects_out_of_spec=9),
        mode=AUTONOMOUS,
    )
    reply = fleet.ListDomainOverviewsResponse(overviews=[scope])
    reply.read_model.pending_node_count = 5
    controller.on(fleet.ListDomainOverviewsRequest, reply)
    ran = await ctl("overview", "region-a", "--server", await serve(controller))
    for shown in (
        "region-a",
        "AUTONOMOUS",
        "UNKNOWN 3, LIVE 48",
        "ACTIVE 51",
        "1.4.7 40",
        " 7 ",
        " 9 ",
    ):
        assert shown in ran.out
    assert "5 nodes have changed" in ran.err
    (request,) = controller.requests(fleet.ListDomainOverviewsRequest)
    assert (request.domain, request.include_subtree) == ("region-a", True)


async def test_a_node_whose_controller_is_cut_off_is_never_shown_as_live(
    serve: Serve, controller: ScriptedController
) -> None:
    known = connectivity_pb2.Connectivity(
        last_known=connectivity_pb2.LinkState(mode=LIVE, last_seen_time=ago(900)),
        unknown_since=ago(300),
    )
    node = node_pb2.Node(id="n1", connectivity=known)
    controller.on(fleet.ListNodesRequest, fleet.ListNodesResponse(nodes=[node]))
    ran = await ctl("get", "nodes", "--server", await serve(controller))
    assert "unknown 5m (was LIVE)" in ran.out
    assert "15m" in ran.out
