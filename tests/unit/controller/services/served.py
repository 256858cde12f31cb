"""A controller's fleet and policy services on a real gRPC server, over a real SQLite log in a temporary directory."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from controller.attention_duty import MarkEnding
from controller.attention_feed import AttentionFeed
from controller.attention_links import SeenLinks
from controller.config import AccessSection, ControllerConfig, ControllerSection, TrustSection
from controller.journal import Journal
from controller.judge import Judge
from controller.log.sqlite_log import SqliteLog
from controller.maintenance import MaintenanceExpiry
from controller.replica import Replica
from controller.sboms.live import LiveSboms
from controller.services.access import AccessService
from controller.services.attention import AttentionService
from controller.services.attestation import AttestationService
from controller.services.calls import CallInterceptor, RefusalAudit
from controller.services.fleet import FleetService
from controller.services.fleet_moves import LateWrites
from controller.services.graph import GraphService
from controller.services.policy import PolicyService
from controller.services.revocation import RevocationService
from controller.services.supply import SupplyService
from controller.signing import Ed25519Signer
from controller.sync.links import PeerView
from controller.tasks import end
from controller.values import ValueStore
from controller.writes import Caller
from federation.proposal import Proposal
from federation.receipt import Receipt
from souverix.attention.v1 import attention_service_pb2_grpc
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import fleet_service_pb2_grpc
from souverix.graph.v1 import graph_service_pb2_grpc
from souverix.policy.v1 import policy_service_pb2_grpc
from souverix.supply.v1 import supply_service_pb2_grpc
from souverix.trust.v1 import (
    access_service_pb2_grpc,
    attestation_service_pb2_grpc,
    revocation_service_pb2_grpc,
)
from tests.federation_fixture import ROOT, MemoryController, genesis_of, root_controller

DEADLINE_S = 20.0


@dataclass
class ScriptedForwarder:
    """Another controller that answers what the test says. Records what it was asked."""

    up: set[str] = field(default_factory=set)
    heard_ms: dict[str, int] = field(default_factory=dict)
    answer: bytes = b""
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)

    def link_up(self, controller: str) -> bool:
        return controller in self.up

    def last_heard_ms(self, controller: str) -> int | None:
        return self.heard_ms.get(controller)

    async def forward(self, controller: str, method: str, request: bytes, caller: Caller) -> bytes:
        self.asked.append((controller, method, request))
        return self.answer


@dataclass
class Served:
    """A running controller and stubs that call it."""

    replica: Replica
    fleet: Any
    policies: Any
    graph: Any
    attention: Any
    supply: Any
    access: Any
    attestation: Any
    revocations: Any
    values: ValueStore
    forwarder: ScriptedForwarder
    root_key: bytes
    #: Links to other controllers, as the attention queue sees them.
    peers: list[PeerView]


@contextlib.asynccontextmanager
async def served(
    directory: Path,
    signer: Ed25519Signer,
    root_key: bytes,
    controller: str,
    domain: str,
    access: AccessSection | None = None,
) -> AsyncIterator[Served]:
    """A controller that is master of its log, with an empty state."""
    config = ControllerConfig(
        ControllerSection(controller, domain, directory),
        TrustSection(directory / "key.pem", root_key.hex()),
        access=access or AccessSection(),
    )
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    forwarder = ScriptedForwarder()
    log = SqliteLog(directory / "log.sqlite", str(uuid.uuid4()))
    replica = Replica(config, log, signer, forwarder)
    replica.add_duty(LateWrites(replica).run)
    replica.add_duty(MaintenanceExpiry(replica).run)
    peers: list[PeerView] = []
    feed = AttentionFeed(replica, SeenLinks(replica, lambda: peers))
    replica.add_duty(MarkEnding(replica, feed).run)
    values = ValueStore(directory / "values")
    judge = Judge(replica, values)
    sboms = LiveSboms(replica, values, directory / "sboms.sqlite")
    replica.add_duty(sboms.lead)
    replica.add_duty(judge.run)
    master = asyncio.Event()

    async def tell(_: Journal) -> None:
        master.set()
        await asyncio.Event().wait()

    replica.add_duty(tell)
    lives = (replica.run(), feed.run(), sboms.run())
    tasks = [asyncio.create_task(life) for life in lives]
    server = grpc.aio.server(
        interceptors=[CallInterceptor(RefusalAudit(replica), gate=replica.gate)]
    )
    fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(FleetService(replica, values), server)
    policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(PolicyService(replica), server)
    graph = GraphService(replica, lambda: peers)
    graph_service_pb2_grpc.add_GraphServiceServicer_to_server(graph, server)
    attention_service_pb2_grpc.add_AttentionServiceServicer_to_server(
        AttentionService(replica, feed), server
    )
    supply_service_pb2_grpc.add_SupplyServiceServicer_to_server(
        SupplyService(replica, values, judge, sboms), server
    )
    access_service_pb2_grpc.add_AccessServiceServicer_to_server(AccessService(replica), server)
    attestation_service_pb2_grpc.add_AttestationServiceServicer_to_server(
        AttestationService(replica), server
    )
    revocation_service_pb2_grpc.add_RevocationServiceServicer_to_server(
        RevocationService(replica), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    try:
        async with asyncio.timeout(DEADLINE_S):
            await master.wait()
        yield Served(
            replica,
            fleet_service_pb2_grpc.FleetServiceStub(channel),
            policy_service_pb2_grpc.PolicyServiceStub(channel),
            graph_service_pb2_grpc.GraphServiceStub(channel),
            attention_service_pb2_grpc.AttentionServiceStub(channel),
            supply_service_pb2_grpc.SupplyServiceStub(channel),
            access_service_pb2_grpc.AccessServiceStub(channel),
            attestation_service_pb2_grpc.AttestationServiceStub(channel),
            revocation_service_pb2_grpc.RevocationServiceStub(channel),
            values,
            forwarder,
            root_key,
            peers,
        )
    finally:
        await channel.close()
        await server.stop(None)
        await end(*tasks)
        await log.close()


@contextlib.asynccontextmanager
async def root_served(
    directory: Path, access: AccessSection | None = None
) -> AsyncIterator[Served]:
    """The root's controller, "global-control", its genesis written."""
    root_signer, signer = Ed25519Signer.generate(), Ed25519Signer.generate()
    genesis = genesis_of(root_signer, "global-control", signer)
    async with served(
        directory, signer, root_signer.public_key, "global-control", ROOT, access
    ) as controller:
        await controller.replica.journal().submit(
            lambda proposal: proposal.write(
                ROOT, f"domains/{ROOT}", "genesis", genesis, principal="controller:global-control"
            )
        )
        yield controller


@contextlib.asynccontextmanager
async def zone_served(
    directory: Path, autonomy: authority_pb2.Autonomy, master: str = ""
) -> AsyncIterator[tuple[Served, MemoryController]]:
    """A zone's controller, "edge-a1-control", and its parent in memory, the zone's master if `master` says so."""
    root = root_controller()
    zone = MemoryController("edge-a1-control", "edge-a1", root.root_signer)
    root.declare("edge-a1", ROOT, zone, master=master, autonomy=autonomy)
    async with served(
        directory, zone.signer, root.root_signer.public_key, "edge-a1-control", "edge-a1"
    ) as controller:
        await hand_over(root, controller)
        yield controller, root


async def hand_over(sender: MemoryController, receiver: Served) -> None:
    """Gives a controller every run of another one's log, as sync does."""

    def take(proposal: Proposal, run: event_pb2.Run) -> Receipt:
        return proposal.receive(sender.name, run)

    for commit in sender.commits:
        for run in commit.runs:
            if run.stream.controller != receiver.replica.config.controller.id:
                await receiver.replica.journal().submit(partial(take, run=run))


async def refusal(call: Any) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo, str]:
    """The status, ErrorInfo and text a call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None, caught.value.details()
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return caught.value.code(), info, status.message
