"""Puts a controller together: log, replica, links, services, server. The only place of composition; decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from controller.archive.archived_log import ArchivedLog
from controller.archive.compaction import Compaction
from controller.archive.directory import ArchiveDirectory
from controller.attention_duty import MarkEnding
from controller.attention_feed import AttentionFeed
from controller.attention_links import SeenLinks
from controller.bearer import Bearers
from controller.bootstrap import bootstrap
from controller.certificate_duty import CertificateDuty
from controller.config import ConfigError, ControllerConfig
from controller.duties import Duties
from controller.etcd.access import Access, Password, TlsFiles
from controller.journal import Journal
from controller.judge import Judge
from controller.key_rotation import KeyRotation
from controller.lifecycle_duty import LifecycleMoves
from controller.local_calls import LocalCalls
from controller.log.embedded import EmbeddedEtcd
from controller.log.etcd_log import EtcdLog
from controller.log.port import StoredLog
from controller.log.sqlite_log import SqliteLog
from controller.maintenance import MaintenanceExpiry
from controller.membership import Membership
from controller.nodelink.relay_service import RelayLinkService
from controller.nodelink.service import NodeLinkService
from controller.outdated import StateOutdated
from controller.own_files import load_bundle_key, load_signer, read_credentials, read_people
from controller.people import People
from controller.replica import Replica
from controller.revoked_bearers import RevokedBearers
from controller.sboms.live import LiveSboms
from controller.services.access import AccessService
from controller.services.attention import AttentionService
from controller.services.attestation import AttestationService
from controller.services.audit import AuditService
from controller.services.bundles import BundleService
from controller.services.calls import CallInterceptor, RefusalAudit
from controller.services.command import CommandService
from controller.services.federation import FederationService
from controller.services.fleet import FleetService
from controller.services.fleet_moves import LateWrites
from controller.services.graph import GraphService
from controller.services.policy import PolicyService
from controller.services.replays import ReplayService
from controller.services.revocation import RevocationService
from controller.services.supply import SupplyService
from controller.sync.dialer import Dialer
from controller.sync.links import Links
from controller.sync.peer_links import PeerLinkRecorder
from controller.sync.service import SyncService
from controller.tasks import end
from controller.telemetry.gauges import Gauges
from controller.values import ValueStore
from federation.bounds import Foreknown
from souverix.attention.v1 import attention_service_pb2, attention_service_pb2_grpc
from souverix.audit.v1 import audit_service_pb2, audit_service_pb2_grpc
from souverix.bundle.v1 import bundle_service_pb2, bundle_service_pb2_grpc
from souverix.command.v1 import command_service_pb2, command_service_pb2_grpc
from souverix.federation.v1 import federation_service_pb2, federation_service_pb2_grpc
from souverix.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from souverix.graph.v1 import graph_service_pb2, graph_service_pb2_grpc
from souverix.nodelink.v1 import (
    nodelink_pb2,
    nodelink_pb2_grpc,
    relay_pb2,
    relay_pb2_grpc,
    replay_service_pb2,
    replay_service_pb2_grpc,
)
from souverix.policy.v1 import policy_service_pb2, policy_service_pb2_grpc
from souverix.supply.v1 import supply_service_pb2, supply_service_pb2_grpc
from souverix.sync.v1 import sync_pb2, sync_pb2_grpc
from souverix.trust.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    attestation_service_pb2,
    attestation_service_pb2_grpc,
    enrolment_service_pb2,
    revocation_service_pb2,
    revocation_service_pb2_grpc,
)
from telemetry.started import Telemetry, TelemetryUnavailable, start
from trust.channels import ListenerTls
from trust.encryption_keys import EncryptionKey

_log = logging.getLogger(__name__)

#: Name in traces and metrics, unless it is configured.
SERVICE_NAME = "souverix-controller"

#: Largest message of any call: one event of the largest size, a page of resources, or a frame of joined runs.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

#: Streams of one connection: a relay or a simulator may carry many nodes.
MAX_STREAMS_A_CONNECTION = 10_000

#: Clients of ours ping every 10 s or more; gRPC's own limit of five minutes would end quiet watches.
MIN_PING_INTERVAL_MS = 5_000

#: Calls in progress are given this long when the process stops.
STOP_GRACE_S = 2.0


async def serve(config: ControllerConfig) -> None:
    """Runs one replica until SIGTERM or SIGINT. Raises `ConfigError`, `LogError`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    foreknown: Foreknown | None = None
    while not stop.is_set():
        try:
            async with running(config, foreknown):
                await stop.wait()
                _log.info("stopping")
        except StateOutdated as outdated:
            foreknown = outdated.foreknown
            body = asyncio.current_task()
            if body is not None:
                body.uncancel()


@contextlib.asynccontextmanager
async def running(
    config: ControllerConfig, foreknown: Foreknown | None = None
) -> AsyncIterator[Replica]:
    """A replica that lives and serves while the block runs. Raises what ended its life, if anything did. With
    `foreknown` it folds its log anew.
    """
    signer = load_signer(config.trust.signing_key)
    credentials = read_credentials(config)
    people = read_people(config)
    telling = _start_telemetry(config)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, telling.stop)
        log = await stack.enter_async_context(_open_log(config))
        links = Links()
        replica = Replica(config, log, signer, links, telling, credentials, foreknown)
        application = Application(
            config, replica, links, load_bundle_key(config.trust.bundle_key), people
        )
        life = asyncio.create_task(replica.run(), name="replica")
        serving = asyncio.create_task(application.serve_when_replayed(), name="serving")
        attention = asyncio.create_task(application.attention.run(), name="attention")
        sboms = asyncio.create_task(application.sboms.run(), name="sboms")
        budget_bytes = int(config.log.budget_mib * 1024 * 1024)
        compaction = asyncio.create_task(
            Compaction(replica, log, budget_bytes).run(), name="compaction"
        )
        body = asyncio.current_task()

        def end_body(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None and body is not None:
                body.cancel()

        gauging = asyncio.create_task(application.gauge(), name="gauges")
        tasks = [life, serving, attention, sboms, compaction]
        if application.certificates is not None:
            tasks.append(asyncio.create_task(application.certificates.run(), name="certificates"))
        renewal = application.membership.own_renewal
        if renewal is not None:
            tasks.append(asyncio.create_task(renewal.run(), name="own renewal"))
        if application.people is not None:
            tasks.append(asyncio.create_task(application.people.run(), name="people"))
        for task in tasks:
            task.add_done_callback(end_body)
        try:
            yield replica
        except asyncio.CancelledError:
            for task in tasks:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    task.result()
            raise
        finally:
            for task in tasks:
                task.remove_done_callback(end_body)
            await end(*tasks[1:], gauging)
            await application.stop()
            await end(life)


class Application:
    """The services of one replica and the server they stand on."""

    def __init__(
        self,
        config: ControllerConfig,
        replica: Replica,
        links: Links,
        bundle_key: EncryptionKey | None = None,
        people: People | None = None,
    ) -> None:
        self._bundle_key = bundle_key
        self._config = config
        self._replica = replica
        self._links = links
        self._refusals = refusals = RefusalAudit(replica)
        self._local = LocalCalls(refusals, replica.gate)
        self.values = ValueStore(
            Path(config.values_dir) if config.values_dir else config.controller.data_dir / "values"
        )
        links.attach(replica, self.values, self._local)
        data_dir = config.controller.data_dir
        self.sboms = LiveSboms(replica, self.values, data_dir / "sboms.sqlite")
        replica.add_duty(self.sboms.lead)
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        self._held = replica.credentials
        bearers = Bearers(self._held, replica.state) if self._held else None
        if bearers is not None:
            RevokedBearers(replica.revocations, replica.knocks).watch(bearers)
        self.bearers = bearers
        self._server = _server(
            CallInterceptor(refusals, replica.telemetry, bearers, gate=replica.gate)
        )
        self.people = people
        self._people_server = (
            _server(CallInterceptor(refusals, replica.telemetry, people, gate=replica.gate))
            if people
            else None
        )
        addresses = [a for a in (config.listen.address, config.listen.people_address) if a]
        self.certificates = (
            CertificateDuty(self._held, bearers, replica.changes, addresses)
            if self._held and bearers
            else None
        )
        self._admin: grpc.aio.Server | None = None
        self.membership = Membership(config, replica, bearers)
        self._sync = SyncService(replica, links)
        replica.add_duty(self._prepare)
        if config.parent is not None:
            replica.add_duty(Dialer(replica, links, config.parent).run, patient=True)
        replica.add_duty(self._end_sessions_after, patient=True)
        replica.add_duty(KeyRotation(replica).run, patient=True)
        replica.add_duty(Duties(replica).run)
        replica.add_duty(LateWrites(replica).run)
        replica.add_duty(MaintenanceExpiry(replica).run)
        replica.add_duty(LifecycleMoves(replica).run)
        replica.add_duty(PeerLinkRecorder(replica, links).run)
        self._add_services()

    async def gauge(self) -> None:
        """Looks at what is gauged, if anything is; until cancelled."""
        meter = self._replica.telemetry.meter
        if meter.is_on:
            interval_s = self._config.telemetry.interval_s
            nodes = self._nodes
            await Gauges(
                meter, self._replica, self._links, lambda: len(nodes.links), interval_s
            ).run()

    async def serve_when_replayed(self) -> None:
        """Begins to serve once the log was read: an answer from half a log would be wrong."""
        await self._replica.replayed()
        for server in self._servers:
            await server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if self._admin is not None:
            await self._admin.start()
        await self.membership.start()
        _log.info("serving", extra={"address": self._config.listen.address})

    async def stop(self) -> None:
        """Ends calls, sessions and the server."""
        await self._sync.end_sessions(sync_pb2.GOODBYE_REASON_SHUTDOWN, "the controller stops")
        self._relays.stop()
        self._nodes.stop()
        await self.membership.stop(STOP_GRACE_S)
        await asyncio.gather(*(server.stop(STOP_GRACE_S) for server in self._servers))
        if self._admin is not None:
            await self._admin.stop(STOP_GRACE_S)

    def _add_services(self) -> None:
        machines: Any = GenericRegistration([self._server])
        server: Any = GenericRegistration(self._servers)
        replica = self._replica
        sync_pb2_grpc.add_SyncServiceServicer_to_server(self._sync, machines)
        self._name(sync_pb2.DESCRIPTOR)
        fleet = FleetService(replica, self.values)
        fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(fleet, server)
        self._name(fleet_service_pb2.DESCRIPTOR, fleet)
        policies = PolicyService(replica)
        policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(policies, server)
        self._name(policy_service_pb2.DESCRIPTOR, policies)
        graph = GraphService(replica, self._links.peers)
        graph_service_pb2_grpc.add_GraphServiceServicer_to_server(graph, server)
        self._name(graph_service_pb2.DESCRIPTOR, graph)
        audit = AuditService(replica)
        audit_service_pb2_grpc.add_AuditServiceServicer_to_server(audit, server)
        self._name(audit_service_pb2.DESCRIPTOR, audit)
        judge = Judge(replica, self.values)
        replica.add_duty(judge.run)
        supply = SupplyService(replica, self.values, judge, self.sboms)
        supply_service_pb2_grpc.add_SupplyServiceServicer_to_server(supply, server)
        self._name(supply_service_pb2.DESCRIPTOR, supply)
        access = AccessService(replica)
        access_service_pb2_grpc.add_AccessServiceServicer_to_server(access, server)
        self._name(access_service_pb2.DESCRIPTOR, access)
        attestation = AttestationService(replica)
        attestation_service_pb2_grpc.add_AttestationServiceServicer_to_server(attestation, server)
        self._name(attestation_service_pb2.DESCRIPTOR, attestation)
        self._names += self.membership.add_services(server, machines)
        self._name(enrolment_service_pb2.DESCRIPTOR, self.membership.enrolment)
        revocation = RevocationService(replica)
        revocation_service_pb2_grpc.add_RevocationServiceServicer_to_server(revocation, server)
        self._name(revocation_service_pb2.DESCRIPTOR, revocation)
        commands = CommandService(replica)
        command_service_pb2_grpc.add_CommandServiceServicer_to_server(commands, server)
        self._name(command_service_pb2.DESCRIPTOR, commands)
        nodes = NodeLinkService(replica, self.values, self.bearers)
        nodelink_pb2_grpc.add_NodeLinkServiceServicer_to_server(nodes, machines)
        self._name(nodelink_pb2.DESCRIPTOR)
        self._nodes = nodes
        replays = ReplayService(replica, nodes.desk)
        replay_service_pb2_grpc.add_ReplayServiceServicer_to_server(replays, server)
        self._name(replay_service_pb2.DESCRIPTOR, replays)
        seen = SeenLinks(replica, self._links.peers)
        self.attention = AttentionFeed(replica, seen)
        replica.add_duty(MarkEnding(replica, self.attention).run)
        attention = AttentionService(replica, self.attention)
        attention_service_pb2_grpc.add_AttentionServiceServicer_to_server(attention, server)
        self._name(attention_service_pb2.DESCRIPTOR, attention)
        self._relays = RelayLinkService(replica, nodes)
        relay_pb2_grpc.add_RelayLinkServiceServicer_to_server(self._relays, machines)
        self._name(relay_pb2.DESCRIPTOR)
        federation = FederationService(replica, self._links, lambda: len(nodes.links))
        federation_service_pb2_grpc.add_FederationServiceServicer_to_server(federation, server)
        self._name(federation_service_pb2.DESCRIPTOR, federation)
        directory = self._config.controller.data_dir / "bundles"
        bundles = BundleService(
            replica, self._links, self.values, replica.signer, directory, self._bundle_key
        )
        bundle_service_pb2_grpc.add_BundleServiceServicer_to_server(bundles, server)
        self._name(bundle_service_pb2.DESCRIPTOR)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection.aio.ReflectionServicer(names), server
        )
        credentials = ListenerTls(self._held).credentials() if self._held else None
        _bind(self._server, "listen.address", self._config.listen.address, credentials)
        self.membership.bind(_bind)
        if self._people_server is not None and self._held is not None:
            shown = ListenerTls(self._held, demand_certificates=False).credentials()
            address = self._config.listen.people_address
            _bind(self._people_server, "listen.people_address", address, shown)
        if self._config.listen.admin_address:
            self._admin = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            channelz.add_channelz_servicer(self._admin)
            _bind(self._admin, "listen.admin_address", self._config.listen.admin_address)

    @property
    def _servers(self) -> list[grpc.aio.Server]:
        """What people call; machines have their streams at the first only."""
        return (
            [self._server] if self._people_server is None else [self._server, self._people_server]
        )

    def _name(self, file: Any, servicer: Any = None) -> None:
        """Takes a file's services into reflection and health, and makes them callable over links."""
        for service in file.services_by_name.values():
            self._names.append(service.full_name)
            if servicer is not None:
                self._local.add(service, servicer)

    async def _prepare(self, journal: Journal) -> None:
        await bootstrap(self._replica, journal)
        await asyncio.Event().wait()

    async def _end_sessions_after(self, journal: Journal) -> None:
        """Ends children's sessions when the mastership ends: their runs can be committed here no more."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._sync.end_sessions(
                sync_pb2.GOODBYE_REASON_NOT_MASTER, "this replica ceased to be the master"
            )


class GenericRegistration:
    """The servers as services see them when they are added: their methods are found by name, call by call.

    gRPC's asyncio server waits for each registered method separately, and sets up and takes down all these waits for
    every call: with 70 methods that is a quarter of what an empty call costs.
    """

    def __init__(self, servers: Sequence[grpc.aio.Server]) -> None:
        self._servers = servers

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """As of a server."""
        for server in self._servers:
            server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(
        self, service_name: str, handlers: Mapping[str, Any]
    ) -> None:
        """Nothing: generated code adds the same handlers as generic ones, too."""


def _start_telemetry(config: ControllerConfig) -> Telemetry:
    identity = config.controller
    resource = {
        "service.instance.id": f"{identity.id}/{identity.replica}",
        "souverix.controller": identity.id,
        "souverix.domain": identity.domain,
    }
    try:
        return start(config.telemetry, SERVICE_NAME, resource)
    except TelemetryUnavailable as error:
        raise ConfigError(str(error)) from error


def _server(interceptor: CallInterceptor) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=[interceptor],
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_concurrent_streams", MAX_STREAMS_A_CONNECTION),
            ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
            ("grpc.so_reuseport", 0),
        ],
    )


def _bind(
    server: grpc.aio.Server,
    setting: str,
    address: str,
    credentials: grpc.ServerCredentials | None = None,
) -> None:
    """Takes a port; gRPC tells of a failure by an exception or by port 0, as its version has it."""
    try:
        if credentials is None:
            bound = server.add_insecure_port(address) != 0
        else:
            bound = server.add_secure_port(address, credentials) != 0
    except RuntimeError:
        bound = False
    if not bound:
        raise ConfigError(f"{setting} {address} cannot be bound; is it in use?")


@contextlib.asynccontextmanager
async def _open_log(config: ControllerConfig) -> AsyncIterator[ArchivedLog]:
    """The log the configuration names, and its archive; an etcd of our own where it names none."""
    directory = config.controller.data_dir
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"controller.data_dir {directory} cannot be made: {error.strerror}"
        ) from error
    async with contextlib.AsyncExitStack() as stack:
        log: StoredLog
        if config.log.kind == "sqlite":
            log = SqliteLog(directory / "log.sqlite", uuid.uuid4().hex)
        elif config.log.endpoints:
            log = EtcdLog(_access(config), config.log.prefix)
        else:
            embedded = EmbeddedEtcd(config.log.etcd_binary, directory / "etcd")
            await stack.enter_async_context(embedded)
            log = EtcdLog(embedded.access, config.log.prefix, owns_etcd=True)
        stack.push_async_callback(log.close)
        archive = Path(config.log.archive_dir) if config.log.archive_dir else directory / "archive"
        yield ArchivedLog(log, ArchiveDirectory(archive))


def _access(config: ControllerConfig) -> Access:
    section = config.log.access
    tls = None
    if section.ca:
        tls = TlsFiles(
            Path(section.ca),
            Path(section.cert) if section.cert else None,
            Path(section.key) if section.key else None,
        )
    password = None
    if section.user:
        try:
            secret = Path(section.password_file).read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"log.access.password_file {section.password_file!r} cannot be read: {error.strerror}"
            ) from error
        password = Password(section.user, secret)
    return Access(config.log.endpoints, tls, password, section.allow_lossy_versions)
