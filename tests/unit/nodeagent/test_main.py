"""The command, as a real process: starting, stopping, status, simulated fleets."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from click.testing import CliRunner

from nodeagent.main import main
from tests.unit.nodeagent.made_up import command
from tests.unit.nodeagent.scripted_controller import ScriptedController, serving, until

STOP_WITHIN_S = 15


@asynccontextmanager
async def souverix_node(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nodeagent.main", *arguments, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def stopped(process: asyncio.subprocess.Process) -> str:
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(STOP_WITHIN_S):
        _, log = await process.communicate()
    assert process.returncode == 0, log
    return log.decode()


async def test_reports_this_host_and_stops_cleanly(tmp_path: Path) -> None:
    state_dir = str(tmp_path / "state")
    async with serving(ScriptedController()) as controller:
        arguments = ["--controller", controller.address, "--state-dir", state_dir]
        async with souverix_node("run", "--node", "edge-7", *arguments) as process:
            await until(lambda: len(controller.reports) == 2)
            log = await stopped(process)
        await until(lambda: controller.goodbyes)
        async with souverix_node("run", *arguments) as process:
            await until(lambda: len(controller.hellos) == 2)
            await stopped(process)
    assert [hello.node for hello in controller.hellos] == ["edge-7", "edge-7"]
    assert controller.reports[0].inventory.memory_bytes > 0
    events = [line.split()[2] for line in log.splitlines()]
    assert events[0] == "agent_started"
    assert events[-1] == "agent_stopped"
    assert {"dialling", "fence_met", "linked"} <= set(events)


async def test_a_killed_agent_answers_a_repeated_command_from_its_ledger(tmp_path: Path) -> None:
    frame = command("c", expire_us=time.time_ns() // 1000 + 60_000_000, at_most_once=True)
    arguments = ["run", "--node", "edge-7", "--state-dir", str(tmp_path)]
    async with serving(ScriptedController()) as controller:
        controller.script.acknowledges_results = False
        arguments += ["--controller", controller.address]
        async with souverix_node(*arguments) as process:
            await until(lambda: "edge-7" in controller.open_streams)
            await controller.send("edge-7", command=frame)
            await until(lambda: controller.results)
            process.kill()
            await process.wait()
        await until(lambda: not controller.open_streams)
        async with souverix_node(*arguments):
            await until(lambda: len(controller.results) == 2)
            await controller.send("edge-7", command=frame)
            await until(lambda: len(controller.results) == 3)
    assert controller.results[0] == controller.results[1] == controller.results[2]
    assert len({hello.source for hello in controller.hellos}) == 1


async def test_status_tells_what_a_running_agent_knows(tmp_path: Path) -> None:
    async with serving(ScriptedController()) as controller:
        arguments = ("--controller", controller.address, "--state-dir", str(tmp_path))
        async with souverix_node("run", "--node", "edge-7", *arguments):
            await until(lambda: len(controller.reports) == 2)
            told = CliRunner().invoke(main, ["status", "--state-dir", str(tmp_path), "--json"])
            shown = CliRunner().invoke(main, ["status", "--state-dir", str(tmp_path)])
    (node,) = json.loads(told.stdout)
    assert (node["node"], node["domain"], node["fence"]) == (
        "edge-7",
        "edge-zone-a1",
        "1/zone-a1/1/1",
    )
    assert node["backlog"]["numbered"] == 2
    assert shown.exit_code == 0
    assert shown.stdout.startswith("edge-7\n")


async def test_a_simulated_fleet_has_a_stream_for_each_node(tmp_path: Path) -> None:
    async with serving(ScriptedController()) as controller:
        async with souverix_node(
            *("simulate", "--count", "12", "--prefix", "edge-a1-", "--seed", "3"),
            *("--controller", controller.address, "--state-dir", str(tmp_path)),
        ) as process:
            await until(lambda: len(controller.open_streams) == 12)
            await until(lambda: len(controller.reports) == 24)
            await stopped(process)
        await until(lambda: len(controller.goodbyes) == 12)
    assert {hello.node for hello in controller.hellos} == {f"edge-a1-{n:02}" for n in range(1, 13)}
    assert len({hello.source for hello in controller.hellos}) == 12
    assert {report.sequence for report in controller.reports} == {1, 2}


def test_wrong_settings_end_with_a_cause_and_code_2(tmp_path: Path) -> None:
    state_dir = str(tmp_path / "state")
    runs = {
        "give it a certificate": ["--node", "a", "--controller", "10.0.0.1:1"],
        "Add --node ID": ["--controller", "127.0.0.1:1"],
        "no controller is named": ["--node", "a"],
        "a label is NAME=VALUE": ["--node", "a", "--controller", "127.0.0.1:1", "--label", "x"],
    }
    for cause, arguments in runs.items():
        result = CliRunner().invoke(main, ["run", "--state-dir", state_dir, *arguments])
        assert result.exit_code == 2
        assert cause in result.stderr


async def test_a_directory_of_another_node_is_refused(tmp_path: Path) -> None:
    async with serving(ScriptedController()) as controller:
        arguments = ("--controller", controller.address, "--state-dir", str(tmp_path))
        async with souverix_node("run", "--node", "edge-7", *arguments) as process:
            await until(lambda: controller.hellos)
            await stopped(process)
        async with souverix_node("run", "--node", "edge-8", *arguments) as process:
            _, log = await process.communicate()
    assert process.returncode == 2
    assert b"belongs to edge-7, not to edge-8" in log
