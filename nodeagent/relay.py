"""A relay as a process: its agents' side, its controller's side, what it keeps, and the agent of its own host.

Owns signals, files and wiring, and the order after a return: what was kept is offered to the controller before the node
it is of is carried there. Decides nothing about frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import SystemRandom

import grpc
import grpc.aio

from nodeagent import AGENT_VERSION
from nodeagent.agent import Agent, NodeSettings
from nodeagent.certificates import AgentCertificate, certificate_of
from nodeagent.clock import Clock, timestamp
from nodeagent.connection import dial, secured_dialler
from nodeagent.dialling import DialPlan
from nodeagent.errors import SettingsInvalid, StateDirUnusable, StateUnavailable
from nodeagent.linux_host import LinuxHost
from nodeagent.logs import EventLog
from nodeagent.process import stop_on_signals
from nodeagent.relay_renewal import RelayRenewal
from nodeagent.relay_server import RelayServer, Settled
from nodeagent.relay_store import RelayStore, open_database
from nodeagent.relay_upstream import Upstream
from nodeagent.renewing import Renewer
from nodeagent.statedir import StateDir
from nodeagent.telemetry import add_relay_gauges
from souverix.fleet.v1 import node_pb2
from souverix.nodelink.v1 import nodelink_pb2_grpc, relay_pb2
from souverix.trust.v1 import join_service_pb2_grpc
from telemetry.started import OFF, Telemetry
from trust.files import TrustFiles
from trust.identity import Kind

DEPOSITS_AT_ONCE = 4
"""Deposits under way, by the contract."""

STOP_GRACE_S = 1.0
"""How long agents' streams may take to end when the relay stops."""

MAX_MESSAGE_BYTES = 1024 * 1024
"""Largest frame of an agent, as agents have it."""

MAX_STREAMS_A_CONNECTION = 20_000
"""Streams of one connection: many nodes may share one, as made-up ones do."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What an operator says of a relay. `own` describes its own node; its `controllers` are dialled by the relay."""

    own: NodeSettings
    listen: str
    #: Where its certificate lies; None: everything goes in clear.
    files: TrustFiles | None = None


class Relay:
    """One relay on an open state directory."""

    def __init__(
        self,
        settings: RelaySettings,
        state: StateDir,
        store: RelayStore,
        telemetry: Telemetry = OFF,
    ) -> None:
        own = settings.own
        chance = SystemRandom().random
        clock = Clock()
        self._settings = settings
        self._store = store
        self._clock = clock
        self._log = EventLog(own.node)
        self._settled = Settled()
        self._bringing: asyncio.Task[None] | None = None
        certificate = None
        if settings.files is not None:
            certificate = certificate_of(settings.files, own.node, (Kind.RELAY,))
        self._certificate = certificate
        self.upstream = Upstream(
            own.node,
            store.source,
            DialPlan(own.controllers, chance),
            clock,
            self._changed,
            certificate,
        )
        self._server = RelayServer(
            own.node, self.upstream, store, clock, self._settled, certificate
        )
        self._agent = Agent(
            replace(own, controllers=(settings.listen,)),
            state.database,
            state.path / "config",
            LinuxHost(),
            clock,
            chance,
            self._describe,
            dialler=secured_dialler(certificate) if certificate else dial,
            telemetry=telemetry,
            vouch=certificate.vouch if certificate else None,
        )
        self._renewer = None
        if certificate is not None:
            self._renewer = Renewer(
                certificate, certificate.to_controller, own.controllers, own.enrolment, chance
            )
        add_relay_gauges(
            telemetry.meter,
            lambda: self._carried,
            lambda: store.kept_reports,
            lambda: store.kept_bytes,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Be the relay until `stop` is set. Raises SettingsInvalid, StateUnavailable."""
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", MAX_STREAMS_A_CONNECTION),
                ("grpc.so_reuseport", 0),
            ]
        )
        nodelink_pb2_grpc.add_NodeLinkServiceServicer_to_server(self._server, server)
        if self._certificate is not None:
            join_service_pb2_grpc.add_RenewalServiceServicer_to_server(
                RelayRenewal(self.upstream), server
            )
        _bind(server, self._settings.listen, self._certificate)
        await server.start()
        self._log.info("relay_started", version=AGENT_VERSION, kept=self._store.kept_reports)
        writing = asyncio.create_task(self._server.run())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.upstream.run(stop))
                tasks.create_task(self._agent.run(stop))
                if self._renewer is not None:
                    tasks.create_task(self._renewer.run(stop))
        finally:
            writing.cancel()
            if self._bringing is not None:
                self._bringing.cancel()
            await server.stop(STOP_GRACE_S)
            self._server.write()
            self._log.info("relay_stopped", kept=self._store.kept_reports)

    def _changed(self) -> None:
        """The session with the controller began or ended."""
        if self._bringing is not None:
            self._bringing.cancel()
            self._bringing = None
        if self.upstream.session is None:
            self._settled.begin(set())
            return
        self._server.write()
        try:
            self._store.expire(self._clock.wall_us())
            waiting = self._store.kept_for()
        except StateUnavailable as error:
            self._log.error("kept_unreadable", cause=error)
            return
        self._settled.begin({node for node, _ in waiting})
        self._bringing = asyncio.create_task(self._bring_all(waiting))
        self._server.controller_is_back()

    async def _bring_all(self, waiting: list[tuple[str, str]]) -> None:
        turns = asyncio.Semaphore(DEPOSITS_AT_ONCE)

        async def bring(node: str, source: str) -> None:
            try:
                async with turns:
                    await self._bring(node, source)
            except StateUnavailable as error:
                self._log.error("kept_unreadable", of=node, cause=error)
            finally:
                self._settled.done(node)

        await asyncio.gather(*(bring(node, source) for node, source in waiting))

    async def _bring(self, node: str, source: str) -> None:
        """Offers the controller what is kept of a node; what it does not take stays, for the next session."""
        batch = self._store.batch_of(node, source)
        if batch is None:
            return
        ack = await self.upstream.deposit(relay_pb2.Deposit(node=node, source=source, batch=batch))
        if ack is None:
            return
        self._store.arrived(node, source, ack.sequence)
        if ack.problem:
            self._log.warning("not_taken", of=node, cause=ack.problem)
        else:
            self._log.info("brought", of=node, reports=len(batch.reports), up_to=ack.sequence)

    @property
    def _carried(self) -> int:
        session = self.upstream.session
        return len(session) if session is not None else 0

    def _describe(self, state: node_pb2.ActualState) -> None:
        """What the relay says of itself in its own node's reports."""
        state.relay.nodes = self._carried
        state.relay.kept_reports = self._store.kept_reports
        state.relay.kept_bytes = self._store.kept_bytes
        oldest_us = self._store.oldest_us()
        if oldest_us is not None:
            state.relay.oldest_kept_time.CopyFrom(timestamp(oldest_us))


async def run_relay(
    settings: RelaySettings, state_dir: Path, telemetry_of: Callable[[], Telemetry] = lambda: OFF
) -> None:
    """Be a relay until SIGTERM or SIGINT; `telemetry_of` begins to tell of it. Raises OperatorMustAct,
    StateUnavailable.
    """
    state = StateDir.open(state_dir)
    telemetry = OFF
    try:
        known = state.nodes()
        if known and known != [settings.own.node]:
            raise StateDirUnusable(
                f"{state_dir} belongs to {known[0]}, not to {settings.own.node}; name another --state-dir"
            )
        database = open_database(state_dir / "relay.db")
        try:
            store = RelayStore(database, settings.own.node)
            telemetry = telemetry_of()
            await Relay(settings, state, store, telemetry).run(stop_on_signals())
        finally:
            database.close()
    finally:
        state.close()
        await asyncio.to_thread(telemetry.stop)


def _bind(server: grpc.aio.Server, address: str, certificate: AgentCertificate | None) -> None:
    """Takes a port; gRPC tells of a failure by an exception or by port 0, as its version has it."""
    try:
        if certificate is None:
            bound = server.add_insecure_port(address) != 0
        else:
            bound = server.add_secure_port(address, certificate.listener()) != 0
    except RuntimeError:
        bound = False
    if not bound:
        raise SettingsInvalid(f"listen {address} cannot be bound; is it in use?")
