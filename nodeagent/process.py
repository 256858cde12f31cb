"""Runs agents as a process: one for this host, or many simulated ones, until told to stop.

Owns signals, the state directory's opening and closing, and the choice of host. The agents themselves are alike.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from secrets import SystemRandom

from nodeagent.agent import Agent, NodeSettings
from nodeagent.clock import Clock
from nodeagent.errors import StateDirUnusable
from nodeagent.linux_host import LinuxHost
from nodeagent.statedir import StateDir
from nodeagent.synthetic_host import SyntheticHost
from nodeagent.waiting import first_set

START_SPREAD_S = 1.0
"""Simulated agents start spread over this, as a fleet's do, so that none finds the controller swamped."""


async def run_node(settings_of: Callable[[str | None], NodeSettings], state_dir: Path) -> None:
    """Be the agent of this host until SIGTERM or SIGINT.

    `settings_of` is given the node that the directory already belongs to (None: a new one), so that an agent
    starts from what it knows of itself. Raises OperatorMustAct, StateUnavailable.
    """
    state = StateDir.open(state_dir)
    try:
        known = state.nodes()
        settings = settings_of(known[0] if len(known) == 1 else None)
        if known and known != [settings.node]:
            raise StateDirUnusable(
                f"{state_dir} belongs to {', '.join(known[:3])}{'…' if len(known) > 3 else ''}, not to "
                f"{settings.node}: a node's backlog and ledger are its own; name another --state-dir"
            )
        agent = Agent(
            settings,
            state.database,
            state_dir / "config",
            LinuxHost(),
            Clock(),
            SystemRandom().random,
        )
        await agent.run(stop_on_signals())
    finally:
        state.close()


async def run_simulated(
    settings: NodeSettings, nodes: list[str], seed: int, state_dir: Path
) -> None:
    """Be the agents of many simulated nodes until SIGTERM or SIGINT.

    `settings` serve for all; a node's own software version is made up unless one is set. Raises StateDirUnusable,
    StateUnavailable.
    """
    state = StateDir.open(state_dir)
    chance = SystemRandom().random
    stop = stop_on_signals()
    try:
        async with asyncio.TaskGroup() as tasks:
            for node in nodes:
                host = SyntheticHost(node, seed)
                version = settings.software_version or host.software_version
                agent = Agent(
                    replace(settings, node=node, software_version=version),
                    state.database,
                    state_dir / "nodes" / node / "config",
                    host,
                    Clock(),
                    chance,
                )
                tasks.create_task(_start_later(agent, stop, START_SPREAD_S * chance()))
    finally:
        state.close()


async def _start_later(agent: Agent, stop: asyncio.Event, delay_s: float) -> None:
    await first_set(stop, timeout_s=delay_s)
    if not stop.is_set():
        await agent.run(stop)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
