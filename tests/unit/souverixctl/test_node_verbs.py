"""One node in full, and lists by filter: what is sent and what is shown."""

from __future__ import annotations

import json
import re
import time

import pytest

from souverix.fleet.v1 import drift_pb2, history_pb2, node_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverixctl.errors import ExitCode
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import ScriptedController, ctl


@pytest.fixture
def known(controller: ScriptedController) -> ScriptedController:
    """A controller that knows one node, with two events."""
    twin = node_pb2.Node(id="n1", name="nodes/n1", domain="edge-a1")
    twin.effective_desired_state.desired_state.target_version = "1.4.7"
    twin.effective_desired_state.decided_by["target_version"] = "domains/global/policies/base"
    twin.actual_state.reported_version = "1.4.6"
    twin.drift.state = drift_pb2.DRIFT_STATE_DRIFTING
    twin.drift.version_drifts.add(desired="1.4.7", actual="1.4.6", impact="missing_security_patch")
    controller.on(fleet.GetNodeRequest, fleet.GetNodeResponse(node=twin))
    event = history_pb2.NodeEvent(
        aspect="actual_state",
        principal="node:n1",
        controller="edge-a1-control",
        standing=history_pb2.EVENT_STANDING_SUPERSEDED,
        optimistic=True,
    )
    event.document["reported_version"] = "1.4.6"
    controller.on(
        fleet.ListNodeEventsRequest,
        fleet.ListNodeEventsResponse(events=[event], next_page_token="more"),
    )
    return controller


async def test_a_node_is_shown_desired_beside_actual_with_its_timeline(
    serve: Serve, known: ScriptedController
) -> None:
    address = await serve(known)
    ran = await ctl("node", "n1", "--server", address)
    for shown in (
        "1.4.7 by domains/global/policies/base", "1.4.6", "differs", "missing_security_patch",
        "superseded, optimistic", "reported_version=1.4.6", "edge-a1-control",
    ):  # fmt: skip
        assert shown in ran.out
    assert "earlier events" in ran.err
    document = json.loads((await ctl("node", "n1", "-o", "json", "--server", address)).out)
    assert document["node"]["id"] == "n1"
    assert document["events"][0]["aspect"] == "actual_state"


async def test_a_past_time_is_written_out_or_as_long_ago(
    serve: Serve, known: ScriptedController
) -> None:
    address = await serve(known)
    await ctl("node", "n1", "--as-of", "2026-02-27T03:45:00Z", "--server", address)
    await ctl("node", "n1", "--as-of", "2h", "--server", address)
    written, ago = known.requests(fleet.GetNodeRequest)
    assert written.as_of_time.ToJsonString() == "2026-02-27T03:45:00Z"
    assert abs(time.time() - 7200 - ago.as_of_time.seconds) < 60
    assert known.requests(fleet.ListNodeEventsRequest)[0].end_time == written.as_of_time
    for wrong in (["--as-of", "yesterday"], ["--as-of", "2h", "--watch"]):
        assert (await ctl("node", "n1", *wrong, "--server", address)).exit_code == ExitCode.USAGE


async def test_reports_stay_out_of_the_timeline_unless_asked_for(
    serve: Serve, known: ScriptedController
) -> None:
    address = await serve(known)
    await ctl("node", "n1", "--server", address)
    await ctl("node", "n1", "--reports", "--server", address)
    short, whole = known.requests(fleet.ListNodeEventsRequest)
    assert "actual_state" not in short.aspects
    assert "link_state" in short.aspects
    assert not whole.aspects


async def test_the_policy_in_force_is_shown_beside_the_one_to_follow(
    serve: Serve, controller: ScriptedController
) -> None:
    twin = node_pb2.Node(name="nodes/n1", id="n1")
    twin.actual_state.policy_bundle, twin.actual_state.policy_version = "base", "v2.0"
    twin.effective_desired_state.desired_state.policy_bundle = "base"
    level = fleet.GetNodeResponse(node=twin)
    stale = fleet.GetNodeResponse(node=twin)
    stale.node.drift.policy_drift.policy_bundle = "base"
    stale.node.drift.policy_drift.policy_version = "v2.1"
    controller.on(fleet.GetNodeRequest, level, stale)
    controller.on(fleet.ListNodeEventsRequest, fleet.ListNodeEventsResponse())
    address = await serve(controller)
    same = await ctl("node", "n1", "--server", address)
    assert re.search(r"policy +base +base v2.0 +-", same.out)
    differs = await ctl("node", "n1", "--server", address)
    assert re.search(r"policy +base v2.1 +base v2.0 +differs", differs.out)


async def test_why_shows_the_events_behind_a_value(
    serve: Serve, controller: ScriptedController
) -> None:
    reply = fleet.ExplainNodeResponse(field="lifecycle.phase")
    reply.value.string_value = "LIFECYCLE_PHASE_ACTIVE"
    step = reply.chain.add(
        role=history_pb2.EXPLANATION_ROLE_DECIDES, source="nodes/n1", note="taken into service"
    )
    step.event.principal = "user:alice"
    controller.on(fleet.ExplainNodeRequest, reply)
    ran = await ctl("node", "n1", "--why", "phase", "--server", await serve(controller))
    for shown in (
        "lifecycle.phase: LIFECYCLE_PHASE_ACTIVE",
        "decides",
        "user:alice",
        "taken into service",
    ):
        assert shown in ran.out
    (request,) = controller.requests(fleet.ExplainNodeRequest)
    assert (request.name, request.field) == ("nodes/n1", "phase")


async def test_lists_take_filters_and_orders(serve: Serve, controller: ScriptedController) -> None:
    reply = fleet.ListNodesResponse(nodes=[node_pb2.Node(id="n1")])
    reply.read_model.pending_node_count = 3
    controller.on(fleet.ListNodesRequest, reply)
    address = await serve(controller)
    ran = await ctl(
        "nodes", "--subtree", "--filter", "version < 1.4.7", "--order-by", "score desc",
        "--server", address,
    )  # fmt: skip
    assert "n1" in ran.out
    assert "3 nodes have changed" in ran.err
    (request,) = controller.requests(fleet.ListNodesRequest)
    assert (request.filter, request.order_by) == ("version < 1.4.7", "score desc")
    assert request.include_subtree
