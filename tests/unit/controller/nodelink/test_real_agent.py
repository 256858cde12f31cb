"""The project's own agent against the controller's side: reports, commands, changes of master."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import Struct

from controller.nodelink.reports import chunks_of
from souverix.command.v1 import command_pb2
from souverix.fleet.v1 import connectivity_pb2
from tests.federation_fixture import ROOT
from tests.unit.controller.nodelink.served_links import Directory, Served, until
from tests.unit.controller.nodelink.test_commands_served import (
    AT_MOST_ONCE,
    SUCCEEDED,
    issue,
    reached,
    read,
)
from tests.unit.nodeagent.made_up import NODE, running_agent

LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE


def fact(controller: Served, aspect: str) -> Any:
    return controller.body(ROOT, f"nodes/{NODE}", aspect)


async def test_an_agent_enrols_reports_itself_and_carries_out_commands(tmp_path: Path) -> None:
    document = Struct()
    document.update({"mode": "strict"})
    apply = command_pb2.Action(apply_config=command_pb2.ApplyConfig(document=document))
    directory = Directory(tmp_path / "controller", enrolment="open")
    async with (
        directory.served() as served,
        running_agent(tmp_path / "agent", served.address),
    ):
        await until(lambda: fact(served, "actual_state") is not None)
        assert fact(served, "node_spec").tags == ["lab"]
        assert fact(served, "inventory").hostname == NODE
        chunks = chunks_of(fact(served, "inventory"))
        assert chunks
        assert await served.service.desk.values.missing(chunks) == []
        await until(lambda: fact(served, "link_state").mode == LIVE)

        ping = await issue(served, NODE, semantics=AT_MOST_ONCE)
        assert (await reached(served, ping.name, SUCCEEDED, NODE)).attempts == 1
        config = await issue(served, NODE, action=apply)
        await reached(served, config.name, SUCCEEDED, NODE)
        await until(lambda: fact(served, "actual_state").configuration == document)
        assert (await read(served, config.name)).done
        await until(lambda: served.service.links.heard(NODE).rtt_s is not None)  # type: ignore[union-attr]


async def test_an_agent_follows_its_controller_to_the_next_master(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "controller", enrolment="open")
    async with (
        directory.served("r1") as first,
        directory.served("r2", wait=False) as second,
        running_agent(tmp_path / "agent", first.address, second.address),
    ):
        await until(lambda: fact(first, "actual_state") is not None)
        before = await issue(first, NODE)
        await reached(first, before.name, SUCCEEDED, NODE)
        first.service.stop()
        first.replica.lease_valid = lambda: False  # type: ignore[method-assign]
        lease = first.replica._lease
        assert lease is not None
        first.replica.log.campaign = _never  # type: ignore[method-assign]
        await lease.release()
        await until(lambda: second.service.is_serving)
        await until(lambda: second.service.links.get(NODE) is not None)
        assert second.replica.journal().fencing_token > 1
        after = await issue(second, NODE)
        await reached(second, after.name, SUCCEEDED, NODE)
        assert (await read(second, before.name)).deliveries[0].attempts == 1


async def _never(candidate: str, ttl_s: float) -> Any:
    await asyncio.Event().wait()
