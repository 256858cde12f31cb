from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodeagent import commands as commands_module
from nodeagent.actions import MAX_PING_BYTES, Tools
from nodeagent.backlog import Backlog
from nodeagent.commands import Commands
from nodeagent.configuration import MAX_DOCUMENT_BYTES, ConfigurationStore
from nodeagent.identity import Identity
from nodeagent.ledger import MAX_OPEN, Ledger
from nodeagent.reporter import Reporter
from nodeagent.synthetic_host import SyntheticHost
from souverix.command.v1 import command_pb2
from souverix.fleet.v1 import node_pb2
from souverix.nodelink.v1 import nodelink_pb2
from tests.unit.nodeagent.made_up import NODE, SetClock, command, database
from tests.unit.nodeagent.scripted_controller import until

REJECTED = command_pb2.DELIVERY_STATE_REJECTED


class Desk:
    """Commands with all they need, and the ids of those that finished."""

    def __init__(self, path: Path) -> None:
        store = database(path)
        identity = Identity(store, NODE)
        clock = SetClock().clock()
        configuration = ConfigurationStore(path / "config", store, NODE)
        self.backlog = Backlog(store, identity)
        reporter = Reporter(
            SyntheticHost(NODE, 1),
            identity,
            self.backlog,
            configuration,
            software_version="",
            clock=clock,
            chance=lambda: 0.5,
            made=lambda: None,
        )
        self.finished: list[str] = []
        self.ledger = Ledger(store, NODE)
        tools = Tools(NODE, clock, configuration, reporter)
        self.commands = Commands(self.ledger, tools, self.finished.append)

    def reported(self) -> node_pb2.ActualState:
        """The newest report of the actual state."""
        reports = [self.backlog.next_after(number) for number in range(self.backlog.waiting)]
        states = [each.actual_state for each in reports if each and each.HasField("actual_state")]
        return states[-1]

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        work = asyncio.create_task(self.commands.run(stop))
        try:
            yield
        finally:
            stop.set()
            await work

    async def result_of(self, frame: nodelink_pb2.CommandFrame) -> nodelink_pb2.CommandResult:
        async with self.working():
            self.commands.receive(frame)
            await until(lambda: frame.command_id in self.finished)
        result = self.ledger.result(frame.command_id)
        assert result is not None
        return result


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def apply(document: dict[str, Any] | None, name: str = "") -> nodelink_pb2.CommandFrame:
    action = command_pb2.ApplyConfig(config_name=name)
    if document is not None:
        action.document.update(document)
        action.document.SetInParent()
    return command("c", apply_config=action)


def nested(depth: int) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for _ in range(depth - 1):
        document = {"in": document}
    return document


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (apply(None), "needs a document"),
        (apply({}, name="../passwd"), "config_name '../passwd' is not usable"),
        (apply({}, name=".hidden"), "is not usable"),
        (apply({"a": float("nan")}), "not finite"),
        (apply({"a": "x" * MAX_DOCUMENT_BYTES}), "split it"),
        (apply(nested(17)), "nests too deeply"),
        (command("c", ping=command_pb2.Ping(payload="x" * (MAX_PING_BYTES + 1))), "1024 bytes"),
        (
            command("c", apply_config=command_pb2.ApplyConfig(policy_bundle="x" * 129)),
            "at most 128 bytes",
        ),
        (command("c", expire_us=0), "needs an expire_time"),
    ],
    ids=[
        "no-document",
        "path",
        "hidden",
        "nan",
        "large",
        "deep",
        "long-ping",
        "long-policy",
        "no-expiry",
    ],
)
async def test_what_a_node_will_not_do_is_rejected_with_the_cause(
    desk: Desk, tmp_path: Path, frame: nodelink_pb2.CommandFrame, error: str
) -> None:
    result = await desk.result_of(frame)
    assert result.state == REJECTED
    assert error in result.error_message
    assert not (tmp_path / "config").exists()


async def test_the_deepest_allowed_document_is_kept(desk: Desk) -> None:
    result = await desk.result_of(apply(nested(16)))
    assert result.state == command_pb2.DELIVERY_STATE_SUCCEEDED, result.error_message


async def test_the_policy_a_document_comes_from_is_in_force_until_another_document_comes(
    desk: Desk,
) -> None:
    frame = apply({"a": 1})
    frame.action.apply_config.policy_bundle = "base"
    frame.action.apply_config.policy_version = "v2.1"
    result = await desk.result_of(frame)
    assert result.state == command_pb2.DELIVERY_STATE_SUCCEEDED, result.error_message
    assert (result.output["policy_bundle"], result.output["policy_version"]) == ("base", "v2.1")
    assert desk.reported().policy_bundle == "base"
    assert desk.reported().policy_version == "v2.1"

    only = command("p", apply_config=command_pb2.ApplyConfig(policy_bundle="night"))
    await desk.result_of(only)
    assert (desk.reported().policy_bundle, desk.reported().policy_version) == ("night", "")
    assert desk.reported().configuration["a"] == 1
    assert desk.reported().HasField("last_applied_time")

    await desk.result_of(command("d", apply_config=apply({"a": 2}).action.apply_config))
    assert desk.reported().policy_bundle == ""


async def test_a_node_that_nothing_governs_says_so(desk: Desk) -> None:
    action = command_pb2.ApplyDesiredState()
    result = await desk.result_of(command("c", apply_desired_state=action))
    assert result.state == REJECTED
    assert "nothing is declared for this node" in result.error_message


async def test_a_disk_that_refuses_fails_the_command(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("in the way")
    result = await desk.result_of(apply({"a": 1}))
    assert result.state == command_pb2.DELIVERY_STATE_FAILED
    assert "cannot be written" in result.error_message


def test_a_cancel_stops_what_waits_and_nothing_else(desk: Desk) -> None:
    for name in ("waits", "runs"):
        desk.commands.receive(command(name))
    desk.ledger.begin("runs")
    for name in ("waits", "runs", "unknown"):
        desk.commands.cancel(name)
    assert desk.finished == ["waits"]
    result = desk.ledger.result("waits")
    assert result is not None
    assert result.state == command_pb2.DELIVERY_STATE_CANCELLED
    assert desk.ledger.result("runs") is None


def test_a_repeat_of_what_still_waits_changes_nothing(desk: Desk) -> None:
    desk.commands.receive(command("c"))
    desk.commands.receive(command("c"))
    assert desk.ledger.open_commands() == 1
    assert desk.finished == []


def test_too_many_at_a_time_are_rejected(desk: Desk) -> None:
    for number in range(MAX_OPEN + 1):
        desk.commands.receive(command(f"c{number}"))
    assert desk.finished == [f"c{MAX_OPEN}"]
    result = desk.ledger.result(f"c{MAX_OPEN}")
    assert result is not None
    assert result.state == REJECTED


def test_a_command_without_usable_id_is_passed_over(desk: Desk) -> None:
    desk.commands.receive(command(""))
    desk.commands.receive(command("x" * (commands_module.MAX_COMMAND_ID_BYTES + 1)))
    assert desk.ledger.open_commands() == 0
