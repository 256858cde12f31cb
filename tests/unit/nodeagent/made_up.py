"""Agents, hosts and clocks for tests of the node agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from nodeagent.agent import Agent, NodeSettings
from nodeagent.clock import Clock
from nodeagent.statedir import Database, StateDir
from nodeagent.synthetic_host import SyntheticHost
from souverix.command.v1 import command_pb2
from souverix.fleet.v1 import node_pb2, observation_pb2
from souverix.nodelink.v1 import nodelink_pb2

NODE = "edge-7"
NOW_US = 1_800_000_000_000_000
LATER_US = NOW_US + 60_000_000


@dataclass
class SetClock:
    """A clock that tests set."""

    monotonic_s: float = 100.0
    wall_us: int = NOW_US

    def clock(self) -> Clock:
        return Clock(monotonic_s=lambda: self.monotonic_s, wall_us=lambda: self.wall_us)


def database(path: Path) -> Database:
    return StateDir.open(path).database


def settings(*addresses: str) -> NodeSettings:
    return NodeSettings(
        node=NODE,
        controllers=addresses,
        spec=node_pb2.NodeSpec(kind=node_pb2.NODE_KIND_EDGE, tags=["lab"]),
        heartbeat_s=0.2,
        report_interval_s=3600.0,
        software_version="souverix-rempart-1.4.7",
    )


@asynccontextmanager
async def running_agent(
    path: Path,
    *addresses: str,
    report_interval_s: float = 3600.0,
    host: SyntheticHost | None = None,
    measured_files: tuple[str, ...] = (),
) -> AsyncIterator[Agent]:
    """An agent of NODE on the state directory `path`, stopped cleanly at the end; by default its host booted anew."""
    state = StateDir.open(path)
    stop = asyncio.Event()
    chosen = replace(
        settings(*addresses),
        report_interval_s=report_interval_s,
        measured_files=measured_files,
    )
    agent = Agent(
        chosen,
        state.database,
        path / "config",
        host or SyntheticHost(NODE, 1),
        Clock(),
        lambda: 0.0,
    )
    running = asyncio.create_task(agent.run(stop))
    try:
        yield agent
    finally:
        stop.set()
        try:
            async with asyncio.timeout(10):
                await running
        finally:
            state.close()


def command(
    command_id: str, *, at_most_once: bool = False, expire_us: int = LATER_US, **action: Any
) -> nodelink_pb2.CommandFrame:
    """A command frame; a ping unless another action is named."""
    expire_time = Timestamp()
    expire_time.FromMicroseconds(expire_us)
    semantics = (
        command_pb2.DELIVERY_SEMANTICS_AT_MOST_ONCE
        if at_most_once
        else command_pb2.DELIVERY_SEMANTICS_AT_LEAST_ONCE
    )
    return nodelink_pb2.CommandFrame(
        command_id=command_id,
        action=command_pb2.Action(**(action or {"ping": command_pb2.Ping(payload="hello")})),
        semantics=semantics,
        expire_time=expire_time,
        attempt=1,
    )


def state_report(version: str) -> nodelink_pb2.Report:
    return nodelink_pb2.Report(actual_state=node_pb2.ActualState(reported_version=version))


def inventory_report(hostname: str) -> nodelink_pb2.Report:
    return nodelink_pb2.Report(inventory=observation_pb2.Inventory(hostname=hostname))
