"""A made-up fleet in one process: real agents of made-up hosts, each with its temper.

Owns which nodes there are, how they reach the controller, and what is told of them. The agents are the real thing:
protocol, backlog, ledger; only their hosts and their tempers are made up.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import SystemRandom

from nodeagent.agent import Agent, NodeSettings
from nodeagent.certificates import AgentCertificate, Vouch
from nodeagent.clock import Clock
from nodeagent.connection import Dialler
from nodeagent.errors import SettingsInvalid, StateUnavailable
from nodeagent.logs import EventLog
from nodeagent.process import stop_on_signals
from nodeagent.simulated_calls import SharedConnections, SimulatedRelay
from nodeagent.simulated_certificates import SimulatedCertificates
from nodeagent.simulated_operator import follow_versions, register
from nodeagent.simulated_stream import Tally, tempered
from nodeagent.simulated_temper import LABEL, SCENARIOS, Misbehaviour, Temper, temper_of
from nodeagent.statedir import Database, StateDir, in_memory
from nodeagent.synthetic_host import SyntheticHost
from nodeagent.waiting import first_set
from souverix.fleet.v1 import node_pb2
from trust.channels import ClientTls
from trust.files import TrustFiles

START_SPREAD_S = 1.0
"""Agents start spread over this, as a fleet's do, so that none finds the controller swamped."""

STARTS_PER_S = 500
"""Agents of a large fleet started a second: it takes as long as that to make them."""

PROGRESS_S = 2.0
"""Between two lines of progress."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """What an operator says of a made-up fleet. `relays` 0: a stream each. `state_dir` None: nothing is kept."""

    shared: NodeSettings
    nodes: Sequence[str]
    seed: int
    scenario: str
    relays: int
    state_dir: Path | None
    registers: bool
    tell: Callable[[str], None]
    #: Directory of a relay's certificate, by which all streams go; with relays, of one directory for each relay's id.
    tls: Path | None = None
    #: Directory of the authority that issues the nodes' certificates; with `tls`, and only there.
    authority: Path | None = None


class SimulatedNode:
    """One node of the fleet."""

    def __init__(
        self,
        settings: NodeSettings,
        seed: int,
        temper: Temper,
        database: Database,
        config_directory: Path,
        dialler: Dialler,
        vouch: Vouch | None,
    ) -> None:
        host = SyntheticHost(settings.node, seed)
        self.version = settings.software_version or host.software_version
        self.spec = node_pb2.NodeSpec()
        self.spec.CopyFrom(settings.spec)
        if temper.misbehaviour is not Misbehaviour.NONE:
            self.spec.labels[LABEL] = temper.misbehaviour.value
        self.temper = temper
        self._upgrading = False
        self.agent = Agent(
            replace(settings, spec=self.spec, software_version=self.version),
            database,
            config_directory,
            host,
            Clock(),
            SystemRandom().random,
            self._describe,
            dialler,
            vouch=vouch,
        )

    def _describe(self, state: node_pb2.ActualState) -> None:
        state.reported_version = self.version

    async def upgrade(self, version: str, stop: asyncio.Event) -> bool:
        """Brings a version into force after the node's time for it; False when it does not, or is at it."""
        if self.temper.upgrade_after_s is None or self._upgrading or version == self.version:
            return False
        self._upgrading = True
        try:
            await first_set(stop, timeout_s=self.temper.upgrade_after_s)
            self.version = version
            self.agent.report()
        finally:
            self._upgrading = False
        return True


async def run_fleet(settings: FleetSettings) -> None:
    """Be the agents of a made-up fleet until SIGTERM or SIGINT. Raises OperatorMustAct, StateUnavailable."""
    _allow_many_files()
    with tempfile.TemporaryDirectory(prefix="souverix-fleet-") as scratch:
        directory = settings.state_dir or Path(scratch)
        state = StateDir.open(directory) if settings.state_dir else None
        database = state.database if state is not None else in_memory()
        try:
            await Fleet(settings, database, directory).run(stop_on_signals())
        finally:
            if state is not None:
                state.close()
            else:
                database.close()


class Fleet:
    """A fleet on an open database."""

    def __init__(self, settings: FleetSettings, database: Database, directory: Path) -> None:
        self._settings = settings
        self._database = database
        self._directory = directory
        self._log = EventLog()
        self._tally = Tally()
        self._now_s = Clock().monotonic_s
        self._began_s = self._now_s()
        self._nodes: dict[str, SimulatedNode] = {}
        names = relay_names(settings.nodes, settings.relays)
        self._certificate = self._certificate_of(names[0] if names else "")
        authority = settings.authority
        self._certificates = SimulatedCertificates(authority) if authority is not None else None

    async def run(self, stop: asyncio.Event) -> None:
        """Lives until `stop` is set."""
        async with self._diallers(stop) as dialler_of:
            scenario = SCENARIOS[self._settings.scenario]
            for number, node in enumerate(self._settings.nodes):
                temper = temper_of(scenario, self._settings.seed, node)
                self._nodes[node] = SimulatedNode(
                    replace(self._settings.shared, node=node),
                    self._settings.seed,
                    temper,
                    self._database,
                    self._directory / "nodes" / node / "config",
                    tempered(dialler_of(number), temper, self._tally, self._age_s),
                    self._certificates.of(node) if self._certificates is not None else None,
                )
                if number % STARTS_PER_S == 0:
                    await asyncio.sleep(0)
            if self._settings.registers:
                specs = {node: simulated.spec for node, simulated in self._nodes.items()}
                await register(self._settings.shared.controllers, specs, self._log, self._tls())
            self._began_s = self._now_s()
            await self._live(stop)

    async def _live(self, stop: asyncio.Event) -> None:
        spread_s = max(START_SPREAD_S, len(self._nodes) / STARTS_PER_S)
        chance = SystemRandom().random
        telling = asyncio.create_task(self._tell_progress(stop))
        following = asyncio.create_task(self._follow(stop))
        try:
            async with asyncio.TaskGroup() as tasks:
                for node in self._nodes.values():
                    tasks.create_task(_start_later(node.agent, stop, spread_s * chance()))
        finally:
            for task in (telling, following):
                task.cancel()
            await asyncio.gather(telling, following, return_exceptions=True)

    def _age_s(self) -> float:
        return self._now_s() - self._began_s

    # Paths.

    def _certificate_of(self, relay: str) -> AgentCertificate | None:
        directory = self._settings.tls
        if directory is None:
            return None
        files = TrustFiles.in_directory(directory / relay if relay else directory)
        certificate = AgentCertificate(files, self._log)
        if relay and certificate.identity.name != relay:
            raise SettingsInvalid(f"tls: {files.certificate} is not of relay {relay}")
        return certificate

    def _tls(self) -> ClientTls | None:
        return self._certificate.to_controller() if self._certificate else None

    @asynccontextmanager
    async def _diallers(self, stop: asyncio.Event) -> AsyncIterator[Callable[[int], Dialler]]:
        """Which way the node of a number goes."""
        controllers = self._settings.shared.controllers
        if not self._settings.relays:
            shared = SharedConnections(len(self._settings.nodes), self._certificate)
            try:
                yield lambda number: shared.dial
            finally:
                await shared.close()
            return
        relays = [
            SimulatedRelay(
                name, controllers, Clock(), SystemRandom().random, self._certificate_of(name)
            )
            for name in relay_names(self._settings.nodes, self._settings.relays)
        ]
        ended = asyncio.Event()
        running = [asyncio.create_task(relay.run(ended)) for relay in relays]
        try:
            yield lambda number: relays[number % len(relays)].dial
        finally:
            ended.set()
            await asyncio.gather(*running)

    # Upgrades.

    async def _follow(self, stop: asyncio.Event) -> None:
        if not SCENARIOS[self._settings.scenario].upgrades:
            return
        async with asyncio.TaskGroup() as tasks:

            async def begin(node: str, version: str) -> None:
                tasks.create_task(self._upgrade(node, version, stop))

            nodes = frozenset(self._nodes)
            controllers = self._settings.shared.controllers
            await follow_versions(controllers, begin, nodes, self._log, self._tls)

    async def _upgrade(self, node: str, version: str, stop: asyncio.Event) -> None:
        try:
            self._tally.upgrades += await self._nodes[node].upgrade(version, stop)
        except StateUnavailable as error:
            self._log.error("report_not_kept", of=node, cause=error)

    # Progress.

    async def _tell_progress(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            before, since_s = self._tally.heartbeats, self._now_s()
            await first_set(stop, timeout_s=PROGRESS_S)
            lasted_s = max(self._now_s() - since_s, 1e-3)
            self._settings.tell(self._progress((self._tally.heartbeats - before) / lasted_s))

    def _progress(self, heartbeats_per_s: float) -> str:
        tally = self._tally
        age_s = self._age_s()
        cut_off = sum(node.temper.cut_until_s(age_s) is not None for node in self._nodes.values())
        words = [
            datetime.now(UTC).strftime("%H:%M:%S"),
            f"linked {tally.linked}/{len(self._nodes)}",
            f"{heartbeats_per_s:,.0f} heartbeats/s",
            f"{tally.reports} reports",
            f"{tally.commands} commands",
        ]
        more = {
            "cut off": cut_off,
            "upgraded": tally.upgrades,
            "misdeeds": tally.misdeeds,
            "sent away": tally.sent_away,
        }
        words += [f"{told} {count}" for told, count in more.items() if count]
        return "  ".join(words)


def relay_names(nodes: Sequence[str], relays: int) -> list[str]:
    """Ids of the relays of a fleet, after its first node."""
    stem = nodes[0].rstrip("0123456789").rstrip("-") or "simulated"
    return [f"{stem[:48]}-relay-{number}" for number in range(1, relays + 1)]


async def _start_later(agent: Agent, stop: asyncio.Event, delay_s: float) -> None:
    await first_set(stop, timeout_s=delay_s)
    if not stop.is_set():
        await agent.run(stop)


def _allow_many_files() -> None:
    """As many open files as the system allows: connections, and configurations that are applied."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
