"""Runs the agent of this host as a process, until told to stop.

Owns signals, the state directory's opening and closing, and the choice of host.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from secrets import SystemRandom

from nodeagent.agent import Agent, NodeSettings
from nodeagent.certificates import certificate_of
from nodeagent.clock import Clock
from nodeagent.connection import Dialler, dial, secured_dialler
from nodeagent.errors import StateDirUnusable
from nodeagent.linux_host import LinuxHost
from nodeagent.renewing import Renewer
from nodeagent.statedir import StateDir
from telemetry.started import OFF, Telemetry
from trust.files import TrustFiles
from trust.identity import Kind


async def run_node(
    settings_of: Callable[[str | None], NodeSettings],
    state_dir: Path,
    telemetry_of: Callable[[str], Telemetry] = lambda node: OFF,
    files: TrustFiles | None = None,
) -> None:
    """Be the agent of this host until SIGTERM or SIGINT.

    `settings_of` is given the node that the directory already belongs to (None: a new one), so that an agent
    starts from what it knows of itself; `telemetry_of` begins to tell of it. With `files` it dials by mutual TLS.
    Raises OperatorMustAct, StateUnavailable.
    """
    state = StateDir.open(state_dir)
    telemetry = OFF
    try:
        known = state.nodes()
        settings = settings_of(known[0] if len(known) == 1 else None)
        if known and known != [settings.node]:
            raise StateDirUnusable(
                f"{state_dir} belongs to {', '.join(known[:3])}{'…' if len(known) > 3 else ''}, not to "
                f"{settings.node}: a node's backlog and ledger are its own; name another --state-dir"
            )
        dialler: Dialler = dial
        chance = SystemRandom().random
        renewer = vouch = None
        if files is not None:
            certificate = certificate_of(files, settings.node, (Kind.NODE, Kind.RELAY))
            dialler, vouch = secured_dialler(certificate), certificate.vouch
            renewer = Renewer(
                certificate,
                certificate.to_nodes_service,
                settings.controllers,
                settings.enrolment,
                chance,
            )
        telemetry = telemetry_of(settings.node)
        agent = Agent(
            settings,
            state.database,
            state_dir / "config",
            LinuxHost(),
            Clock(),
            chance,
            dialler=dialler,
            telemetry=telemetry,
            vouch=vouch,
        )
        stop = stop_on_signals()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(agent.run(stop))
            if renewer is not None:
                tasks.create_task(renewer.run(stop))
    finally:
        state.close()
        await asyncio.to_thread(telemetry.stop)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
