"""The agent against a real gRPC server: links, outages, fences, commands across restarts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import Struct

from nodeagent.agent import Agent
from nodeagent.ledger import INTERRUPTED, EntryState, Ledger
from nodeagent.statedir import StateDir
from nodeagent.synthetic_host import SyntheticHost
from souverix.command.v1 import command_pb2
from souverix.fleet.v1 import node_pb2
from souverix.nodelink.v1 import nodelink_pb2
from tests.unit.nodeagent.made_up import NODE, command, running_agent
from tests.unit.nodeagent.scripted_controller import (
    ScriptedController,
    fence,
    serving,
    until,
)

SUCCEEDED = command_pb2.DELIVERY_STATE_SUCCEEDED


def in_a_minute_us() -> int:
    return time.time_ns() // 1000 + 60_000_000


def nothing_waits(controller: ScriptedController, heard: int) -> bool:
    """Tells whether a heartbeat after the first `heard` said that every report was acknowledged."""
    return any(heartbeat.backlog_reports == 0 for heartbeat in controller.heartbeats[heard:])


def ping(command_id: str, **options: bool) -> nodelink_pb2.CommandFrame:
    return command(command_id, expire_us=in_a_minute_us(), **options)


async def test_says_who_it_is_reports_and_says_goodbye(tmp_path: Path) -> None:
    async with serving(ScriptedController()) as controller:
        async with running_agent(tmp_path, controller.address):
            await until(lambda: len(controller.reports) >= 2 and len(controller.heartbeats) >= 2)
        await until(lambda: controller.goodbyes)
    hello = controller.hellos[0]
    assert (hello.node, list(hello.spec.tags), len(hello.source)) == (NODE, ["lab"], 32)
    assert hello.spec.hardware.serial.startswith("SX")
    assert not hello.HasField("highest_fence")
    assert [report.sequence for report in controller.reports] == [1, 2]
    assert controller.reports[0].inventory.hostname == NODE
    assert controller.reports[1].actual_state.reported_version == "souverix-rempart-1.4.7"
    assert controller.heartbeats[-1].HasField("rtt")


async def test_uploads_the_package_list_when_it_is_wanted(tmp_path: Path) -> None:
    controller = ScriptedController()
    controller.script.wants_values = True
    async with serving(controller), running_agent(tmp_path, controller.address):
        controller.script.acknowledges_reports = False
        await until(lambda: len(controller.chunks) == 2)
    value, sbom = controller.reports[0].inventory.large_values
    assert json.loads(controller.chunks[sbom.digest])["bomFormat"] == "CycloneDX"
    packages = json.loads(controller.chunks[value.digest])
    assert value.size_bytes == len(controller.chunks[value.digest])
    assert {"name", "version", "architecture"} == set(packages["debian"][0])


async def test_carries_out_each_action(tmp_path: Path) -> None:
    document = Struct()
    document.update({"mode": "strict", "limits": [1, 2.5]})
    async with (
        serving(ScriptedController()) as controller,
        running_agent(tmp_path, controller.address),
    ):
        await until(lambda: len(controller.reports) == 2 and NODE in controller.open_streams)
        actions: dict[str, dict[str, Any]] = {
            "look": {"refresh_inventory": command_pb2.RefreshInventory()},
            "apply": {"apply_config": command_pb2.ApplyConfig(document=document)},
            "ping": {"ping": command_pb2.Ping(payload="täst")},
            "new": {},
        }
        for command_id, action in actions.items():
            frame = command(command_id, expire_us=in_a_minute_us(), **action)
            if command_id == "new":
                frame.ClearField("action")
            await controller.send(NODE, command=frame)
        await until(lambda: len(controller.results) == 4 and len(controller.reports) == 4)
    results = {result.command_id: result for result in controller.results}
    assert [results[name].state for name in ("look", "apply", "ping")] == [SUCCEEDED] * 3
    assert results["new"].state == command_pb2.DELIVERY_STATE_REJECTED
    assert results["ping"].output["payload"] == "täst"
    assert results["look"].output["hostname"] == NODE
    assert controller.reports[2].HasField("inventory")
    applied = controller.reports[3].actual_state
    assert applied.configuration == document
    assert (applied.config_name, applied.config_hash) == (
        "default",
        results["apply"].output["config_hash"],
    )
    # No frame of the link says which policy a document came from, so none is claimed.
    assert (applied.policy_bundle, applied.policy_version) == ("", "")
    assert (tmp_path / "config/default.json").read_text() == '{"limits":[1,2.5],"mode":"strict"}'


async def test_a_repeated_command_is_answered_from_the_ledger(tmp_path: Path) -> None:
    async with serving(ScriptedController()) as controller:
        async with running_agent(tmp_path, controller.address):
            await until(lambda: NODE in controller.open_streams)
            await controller.send(NODE, command=ping("c1"))
            await until(lambda: len(controller.results) == 1)
            await controller.send(NODE, command=ping("c1"))
            await until(lambda: len(controller.results) == 2)
        async with running_agent(tmp_path, controller.address):
            await until(lambda: NODE in controller.open_streams)
            await controller.send(NODE, command=ping("c1"))
            await until(lambda: len(controller.results) == 3)
    assert controller.results[0] == controller.results[1] == controller.results[2]


async def test_results_are_sent_again_until_acknowledged(tmp_path: Path) -> None:
    controller = ScriptedController()
    controller.script.acknowledges_results = False
    async with serving(controller), running_agent(tmp_path, controller.address):
        await until(lambda: NODE in controller.open_streams)
        await controller.send(NODE, command=ping("c1"))
        await until(lambda: len(controller.results) == 1)
    controller.script.acknowledges_results = True
    async with serving(controller), running_agent(tmp_path, controller.address) as agent:
        await until(lambda: len(controller.results) == 2)
        await until(lambda: not agent._ledger.unacknowledged())
    async with serving(controller), running_agent(tmp_path, controller.address):
        await until(lambda: len(controller.heartbeats) > 0 and NODE in controller.open_streams)
        await controller.send(NODE, command=ping("c2"))
        await until(lambda: len(controller.results) == 3)
    assert [result.command_id for result in controller.results] == ["c1", "c1", "c2"]


async def test_what_a_restart_interrupted_fails_or_runs_again(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path)
    ledger = Ledger(state.database, NODE)
    for command_id, at_most_once in (("once", True), ("again", False)):
        ledger.record(ping(command_id, at_most_once=at_most_once), 1, in_a_minute_us())
        assert ledger.begin(command_id)
    ledger.record(ping("waiting", at_most_once=True), 1, in_a_minute_us())
    state.close()
    async with (
        serving(ScriptedController()) as controller,
        running_agent(tmp_path, controller.address),
    ):
        await until(lambda: len(controller.results) == 3)
    results = {result.command_id: result for result in controller.results}
    assert results["once"].state == command_pb2.DELIVERY_STATE_FAILED
    assert results["once"].error_message == INTERRUPTED
    assert results["again"].state == SUCCEEDED
    assert results["waiting"].state == SUCCEEDED


async def test_an_expired_command_is_not_begun(tmp_path: Path) -> None:
    async with (
        serving(ScriptedController()) as controller,
        running_agent(tmp_path, controller.address),
    ):
        await until(lambda: NODE in controller.open_streams)
        await controller.send(NODE, command=command("late", expire_us=time.time_ns() // 1000 - 1))
        await until(lambda: controller.results)
    assert controller.results[0].state == command_pb2.DELIVERY_STATE_EXPIRED


async def test_reports_of_an_outage_arrive_in_order(tmp_path: Path) -> None:
    controller = ScriptedController()
    async with serving(controller):
        pass
    async with running_agent(tmp_path, controller.address, report_interval_s=0.02) as agent:
        await until(lambda: agent._backlog.waiting >= 40)
        async with serving(controller):
            await until(lambda: len(controller.reports) >= 70)
    sequences = [report.sequence for report in controller.reports]
    assert sequences == list(range(1, len(sequences) + 1))
    times = [report.time.ToMicroseconds() for report in controller.reports]
    assert times == sorted(times)
    assert controller.hellos[0].backlog_reports >= 40
    assert controller.hellos[0].oldest_report == 1


async def test_numbering_goes_on_after_a_restart(tmp_path: Path) -> None:
    host = SyntheticHost(NODE, 1)
    async with serving(ScriptedController()) as controller:
        async with running_agent(tmp_path, controller.address, host=host):
            await until(lambda: len(controller.reports) == 2)
            heard = len(controller.heartbeats)
            await until(lambda: nothing_waits(controller, heard))
        controller.script.acknowledges_reports = False
        async with running_agent(tmp_path, controller.address, host=host):
            await until(lambda: len(controller.reports) == 3)
        controller.script.acknowledges_reports = True
        async with running_agent(tmp_path, controller.address, host=host):
            await until(lambda: len(controller.reports) == 5)
    assert [report.sequence for report in controller.reports] == [1, 2, 3, 3, 4]
    assert len({hello.source for hello in controller.hellos}) == 1
    assert controller.hellos[1].highest_fence == fence()


async def test_a_lower_fence_is_left_and_counted_and_its_command_not_run(tmp_path: Path) -> None:
    async with serving(ScriptedController()) as controller:
        controller.script.fence = fence(token=7)
        async with running_agent(tmp_path, controller.address):
            await until(lambda: NODE in controller.open_streams)
            controller.script.fence = fence(token=6)
            await controller.send(NODE, command=ping("stale"))
            await until(lambda: len(controller.hellos) >= 3)
    state = StateDir.open(tmp_path)
    refused = state.database.number("SELECT frames_refused FROM node")
    known = Ledger(state.database, NODE).knows("stale")
    state.close()
    assert refused >= 2
    assert not known
    assert controller.hellos[-1].highest_fence.fencing_token == 7


async def test_a_successor_on_another_address_is_found_and_the_old_master_refused(
    tmp_path: Path,
) -> None:
    old, new = ScriptedController(), ScriptedController()
    new.script.fence = fence(token=9)
    async with serving(old), serving(new):
        async with running_agent(tmp_path, old.address, new.address):
            await until(lambda: NODE in old.open_streams)
            goodbye = nodelink_pb2.LinkGoodbye(reason=nodelink_pb2.LINK_END_NOT_MASTER)
            old.script.instead_of_welcome = goodbye
            await old.send(NODE, goodbye=goodbye)
            await until(lambda: NODE in new.open_streams)
        old.script.instead_of_welcome = None
        async with running_agent(tmp_path, old.address):
            await until(lambda: len(old.hellos) >= 3)
            assert not old.reports[3:]
    assert old.hellos[-1].highest_fence.fencing_token == 9


async def test_a_silent_stream_is_left(tmp_path: Path) -> None:
    controller = ScriptedController()
    controller.script.lease_ttl_s = 0.4
    async with serving(controller), running_agent(tmp_path, controller.address):
        await until(lambda: len(controller.heartbeats) >= 3)
        assert len(controller.hellos) == 1
        controller.script.answers_heartbeats = False
        await until(lambda: len(controller.hellos) >= 2 and controller.ended_streams >= 1)


async def test_begins_anew_when_the_controller_lost_reports(tmp_path: Path) -> None:
    async with serving(ScriptedController()) as controller:
        async with running_agent(tmp_path, controller.address):
            await until(lambda: len(controller.reports) == 2)
        controller.script.reports_acknowledged = 0
        async with running_agent(tmp_path, controller.address):
            await until(lambda: len(controller.hellos) >= 3 and len(controller.reports) >= 4)
    assert controller.hellos[1].source != controller.hellos[2].source
    again = controller.reports[2:]
    assert [report.sequence for report in again][:2] == [1, 2]
    assert any(report.HasField("inventory") for report in again)


async def test_keeps_its_configuration_when_no_controller_answers(tmp_path: Path) -> None:
    document = Struct()
    document.update({"a": 1})
    controller = ScriptedController()
    async with serving(controller), running_agent(tmp_path, controller.address):
        await until(lambda: NODE in controller.open_streams)
        action = command_pb2.ApplyConfig(config_name="night", document=document)
        frame = command("c", expire_us=in_a_minute_us(), apply_config=action)
        await controller.send(NODE, command=frame)
        await until(lambda: controller.results)
    async with running_agent(tmp_path, controller.address) as agent:
        # Reports from before may wait still.
        await until(lambda: last_state(agent).config_name == "night")
        reported = last_state(agent)
    assert reported.configuration == document
    assert reported.runtime.health == node_pb2.RUNTIME_HEALTH_OK


def last_state(agent: Agent) -> node_pb2.ActualState:
    """The last state that waits to be reported; an empty one when none does."""
    last, sequence = node_pb2.ActualState(), agent._backlog.acknowledged
    while (report := agent._backlog.next_after(sequence)) is not None:
        sequence = report.sequence
        if report.HasField("actual_state"):
            last = report.actual_state
    return last


async def test_a_cancel_is_granted_while_the_command_waits(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path)
    ledger = Ledger(state.database, NODE)
    ledger.record(ping("c"), 1, in_a_minute_us())
    cancelled = nodelink_pb2.CommandResult(
        command_id="c", state=command_pb2.DELIVERY_STATE_CANCELLED
    )
    assert ledger.finish("c", EntryState.PENDING, cancelled)
    assert ledger.next_pending() is None
    state.close()
    async with (
        serving(ScriptedController()) as controller,
        running_agent(tmp_path, controller.address),
    ):
        await until(lambda: controller.results)
    assert controller.results == [cancelled]
