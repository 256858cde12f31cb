"""`replay` and `reset-key`: what is asked for and what is shown."""

from __future__ import annotations

import json

from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import node_pb2
from souverix.nodelink.v1 import replay_service_pb2 as wire
from souverixctl.errors import ExitCode
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import ScriptedController, ctl


def running() -> wire.Replay:
    replay = wire.Replay(
        node="n1",
        domain="edge-zone-a1",
        state=wire.SESSION_STATE_REPLAYING,
        reports_total=200,
        reports_staged=50,
        rate_per_s=25.0,
    )
    replay.elapsed.FromSeconds(2)
    replay.eta.GetCurrentTime()
    replay.eta.seconds += 6
    return replay


async def test_returns_are_shown_with_their_progress(
    serve: Serve, controller: ScriptedController
) -> None:
    refused = wire.Replay(node="n2", state=wire.SESSION_STATE_QUARANTINED, reason="CHAIN_BROKEN")
    reply = wire.ListReplaysResponse(replays=[running(), refused], deferred_nodes=7)
    controller.on(wire.ListReplaysRequest, reply)
    ran = await ctl("replay", "--domain", "edge-zone-a1", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.OK
    for shown in ("REPLAYING", "50", "200", "25 %", "25/s", "QUARANTINED", "CHAIN_BROKEN"):
        assert shown in ran.out
    assert "7 more wait" in ran.err
    (request,) = controller.requests(wire.ListReplaysRequest)
    assert (request.domain, request.node) == ("edge-zone-a1", "")


async def test_returns_are_followed(serve: Serve, controller: ScriptedController) -> None:
    done = wire.Replay(node="n1", state=wire.SESSION_STATE_LIVE, reports_total=2, drift_objects=3)
    done.reports_applied = 2
    steps = [
        wire.WatchReplaysResponse(replays=[running()], deferred_nodes=1),
        wire.WatchReplaysResponse(replays=[done]),
    ]
    controller.on(wire.WatchReplaysRequest, steps, *[[]] * 20)
    address = await serve(controller)
    ran = await ctl("replay", "nodes/n1", "--watch", "--server", address)
    assert ran.exit_code != ExitCode.OK  # the scripted controller ends each watch
    lines = ran.out.splitlines()
    assert "REPLAYING" in lines[0]
    assert "50/200" in lines[0]
    assert "2/2" in lines[1]
    assert "drift 3" in lines[1]
    assert controller.requests(wire.WatchReplaysRequest)[0].node == "n1"


async def test_a_key_is_given_up_for_a_reason(serve: Serve, controller: ScriptedController) -> None:
    reply = fleet.ResetAgentKeyResponse(node=node_pb2.Node(id="n1", etag="e2"))
    controller.on(fleet.ResetAgentKeyRequest, reply)
    address = await serve(controller)
    ran = await ctl("reset-key", "n1", "--reason", "disk lost", "-o", "json", "--server", address)
    assert ran.exit_code == ExitCode.OK
    assert json.loads(ran.out)["node"]["id"] == "n1"
    (request,) = controller.requests(fleet.ResetAgentKeyRequest)
    assert (request.name, request.reason) == ("nodes/n1", "disk lost")
    assert request.request_id
    without = await ctl("reset-key", "n1", "--server", address)
    assert without.exit_code == ExitCode.USAGE
