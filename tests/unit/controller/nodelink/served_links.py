"""A controller with commands and node links on a real gRPC server over a real SQLite log, and an agent by script."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from controller.bearer import Bearers
from controller.config import AgentsSection, ControllerConfig, ControllerSection, TrustSection
from controller.connectivity_settings import ConnectivitySection
from controller.log.sqlite_log import SqliteLog
from controller.nodelink.proof import chain_next, chain_start, end_message, proof_message
from controller.nodelink.relay_service import RelayLinkService
from controller.nodelink.service import NodeLinkService
from controller.nodelink.vouched import VouchedBearers
from controller.replica import Replica
from controller.revoked_bearers import RevokedBearers
from controller.services.attestation import AttestationService
from controller.services.calls import CallInterceptor, RefusalAudit
from controller.services.command import CommandService
from controller.services.replays import ReplayService
from controller.signing import Ed25519Signer
from controller.values import ValueStore
from federation.domains import DomainDeclaration, declare_domain
from federation.identifiers import Key
from federation.proposal import Proposal
from federation.state import Applied
from souverix.command.v1 import command_service_pb2_grpc
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2, node_pb2
from souverix.nodelink.v1 import (
    nodelink_pb2,
    nodelink_pb2_grpc,
    relay_pb2,
    relay_pb2_grpc,
    replay_service_pb2_grpc,
)
from souverix.trust.v1 import attestation_service_pb2_grpc
from tests.federation_fixture import ROOT, genesis_of
from tests.unit.controller.services.served import ScriptedForwarder
from trust.channels import ClientTls, ListenerTls, open_channel
from trust.files import Credentials, ReloadedCredentials
from trust.identity import nodes_name_of

DEADLINE_S = 20.0
CONTROLLER = "global-control"

#: Short, so that what is lost is recorded at the next sweep.
CONNECTIVITY = ConnectivitySection(autonomous_after_s=0.05)


@dataclass
class Served:
    """A running controller and stubs that call it."""

    replica: Replica
    service: NodeLinkService
    relays: RelayLinkService
    commands: Any
    replays: Any
    attestation: Any
    channel: grpc.aio.Channel
    port: int

    @contextlib.asynccontextmanager
    async def as_seen_by(self, shown: Credentials) -> AsyncIterator[Served]:
        """The same, over a connection by somebody's certificate."""
        tls = ClientTls.of(shown, nodes_name_of(shown.controller_name()))
        async with open_channel(self.address, (), tls) as channel:
            yield replace(self, channel=channel)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def submit(self, decide: Callable[[Proposal], Any]) -> Any:
        return (await self.replica.journal().submit(decide)).value

    async def create_node(self, node: str, domain: str = ROOT, epoch: int = 1) -> None:
        def decide(proposal: Proposal) -> None:
            for aspect, body in (
                ("existence", domain_pb2.Existence(exists=True)),
                ("placement", node_pb2.Placement(domain=domain, epoch=epoch)),
                ("node_spec", node_pb2.NodeSpec()),
            ):
                proposal.write(domain, f"nodes/{node}", aspect, body, principal="user:test")

        await self.submit(decide)

    async def declare(self, domain: str, parent: str = ROOT, controller: str = "") -> None:
        declaration = DomainDeclaration(
            domain=domain,
            spec=domain_pb2.DomainSpec(parent=parent),
            master_of_record=CONTROLLER,
            level=authority_pb2.AUTHORITY_LEVEL_LOCAL,
            controller=controller,
            public_key=Ed25519Signer.generate().public_key if controller else b"",
        )
        await self.submit(
            lambda proposal: declare_domain(
                lambda d, s, a, body: proposal.write(d, s, a, body, principal="user:test"),
                declaration,
                self.replica.state.authority.term_of(parent),
                time.time_ns() // 1_000_000,
            )
        )

    def body(self, domain: str, subject: str, aspect: str) -> Any:
        winner = self.replica.state.winner(Key(domain, subject, aspect))
        return winner.body() if winner is not None else None


_KEYS: dict[str, Ed25519Signer] = {}


def key_of(node: str) -> Ed25519Signer:
    """The key of a node's agent, the same each time."""
    return _KEYS.setdefault(node, Ed25519Signer.generate())


class Directory:
    """What one controller leaves on disk: served again, it is the same controller under its next master."""

    def __init__(self, path: Path, **agents: Any) -> None:
        self.path = path
        self.signer = Ed25519Signer.generate()
        self.root_signer = Ed25519Signer.generate()
        self.agents = {"heartbeat_interval_s": 10.0, **agents}
        path.mkdir(parents=True, exist_ok=True)

    @contextlib.asynccontextmanager
    async def served(
        self,
        replica_name: str = "r1",
        *,
        wait: bool = True,
        credentials: ReloadedCredentials | None = None,
    ) -> AsyncIterator[Served]:
        """A replica that serves; with `wait`, once it is master and its genesis stands. With credentials by mutual TLS,
        and its channel is none's: see `Served.as_seen_by`.
        """
        config = ControllerConfig(
            ControllerSection(CONTROLLER, ROOT, self.path / replica_name, replica_name),
            TrustSection(self.path / "key.pem", self.root_signer.public_key.hex()),
            agents=AgentsSection(**self.agents),
            connectivity=CONNECTIVITY,
        )
        log = SqliteLog(self.path / "log.sqlite", str(uuid.uuid4()))
        replica = Replica(config, log, self.signer, ScriptedForwarder())
        values = ValueStore(self.path / "values")
        service = NodeLinkService(replica, values)
        refusals = RefusalAudit(replica)
        bearers = Bearers(credentials, replica.state) if credentials else None
        if bearers is not None:
            RevokedBearers(replica.revocations, replica.knocks).watch(bearers)
        relays = RelayLinkService(replica, values, service, VouchedBearers(bearers, refusals))
        server = grpc.aio.server(interceptors=[CallInterceptor(refusals, proving=bearers)])
        nodelink_pb2_grpc.add_NodeLinkServiceServicer_to_server(service, server)
        relay_pb2_grpc.add_RelayLinkServiceServicer_to_server(relays, server)
        command_service_pb2_grpc.add_CommandServiceServicer_to_server(
            CommandService(replica), server
        )
        replay_service_pb2_grpc.add_ReplayServiceServicer_to_server(
            ReplayService(replica, service.desk), server
        )
        attestation_service_pb2_grpc.add_AttestationServiceServicer_to_server(
            AttestationService(replica), server
        )
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", ListenerTls(credentials).credentials())
        life = asyncio.create_task(replica.run())
        await server.start()
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        commands = command_service_pb2_grpc.CommandServiceStub(channel)
        replays = replay_service_pb2_grpc.ReplayServiceStub(channel)
        attestation = attestation_service_pb2_grpc.AttestationServiceStub(channel)
        controller = Served(replica, service, relays, commands, replays, attestation, channel, port)
        try:
            with replica.changes.listen(bearers.note if bearers else _passed_over):
                if wait:
                    await until(lambda: replica.is_master and service.is_serving)
                    await self._begin(controller)
                yield controller
        finally:
            relays.stop()
            service.stop()
            await channel.close()
            await server.stop(None)
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            await log.close()

    async def _begin(self, controller: Served) -> None:
        if ROOT not in controller.replica.state.authority.records:
            genesis = genesis_of(self.root_signer, CONTROLLER, self.signer)
            await controller.submit(
                lambda proposal: proposal.write(
                    ROOT, f"domains/{ROOT}", "genesis", genesis, principal="controller:test"
                )
            )


def _passed_over(applied: Applied) -> None:
    """Without TLS nobody bears a certificate."""


class ScriptedAgent:
    """An agent's side of one stream, saying what a test has it say."""

    def __init__(
        self,
        controller: Served,
        node: str = "n1",
        source: str = "s1",
        *,
        key: Ed25519Signer | None = None,
        run: str = "",
    ) -> None:
        self.node = node
        self.source = source
        self.key = key or key_of(node)
        self.run = run or uuid.uuid4().hex
        self.token = b""
        stub = nodelink_pb2_grpc.NodeLinkServiceStub(controller.channel)
        self.call = stub.Connect()

    async def say(self, **frame: Any) -> None:
        await self.call.write(nodelink_pb2.ConnectRequest(**frame))

    def hello(self, **fields: Any) -> nodelink_pb2.AgentHello:
        fields = {"source": self.source, "run": self.run, **fields}
        fields.setdefault("public_key", self.key.public_key)
        return nodelink_pb2.AgentHello(node=self.node, **fields)

    async def greet(self, **fields: Any) -> Any:
        """Says hello, and proves it when asked to; the answer."""
        await self.say(hello=self.hello(**fields))
        answer = await self.hear()
        if answer is None or not answer.HasField("challenge"):
            return answer
        await self.say(proof=nodelink_pb2.AgentProof(signature=self.proof(answer)))
        welcome = await self.hear()
        self.token = welcome.welcome.session_token if welcome is not None else b""
        return welcome

    def proof(self, challenge: nodelink_pb2.ConnectResponse) -> bytes:
        nonce = challenge.challenge.nonce
        controller = challenge.fence.controller
        return self.key.sign(proof_message(controller, self.node, self.source, self.run, nonce))

    async def replay(self, first: int, *reports: nodelink_pb2.Report) -> None:
        """Takes its turn, and replays all in one chunk."""
        await self.hear("replay_turn")
        await self.say(replay_chunk=self.chunk(first, *reports))

    def chunk(self, first: int, *reports: nodelink_pb2.Report) -> nodelink_pb2.ReplayChunk:
        """A replay in one signed chunk, the reports numbered from `first`."""
        head = chain_start(self.node, self.source, first)
        raws = []
        for sequence, report in enumerate(reports, first):
            report.sequence = sequence
            raws.append(report.SerializeToString())
            head = chain_next(head, raws[-1])
        signed = end_message(self.token, first + len(raws) - 1, 0, head)
        return nodelink_pb2.ReplayChunk(
            number=1,
            first_sequence=first,
            reports=raws,
            chain_hash=head,
            signature=self.key.sign(signed),
        )

    async def report(self, sequence: int, **body: Any) -> None:
        await self.say(report=nodelink_pb2.Report(sequence=sequence, **body))

    async def report_version(self, sequence: int, version: str) -> None:
        await self.report(sequence, actual_state=node_pb2.ActualState(reported_version=version))

    async def hear(self, kind: str = "") -> Any:
        """The next frame; with `kind`, the next of that kind."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                frame = await self.call.read()
                if frame is grpc.aio.EOF:
                    return None
                if not kind or frame.WhichOneof("kind") == kind:
                    return frame

    async def hears_nothing_for(self, seconds: float) -> bool:
        """Tells whether no frame but answers to heartbeats comes for a while. Ends the stream."""
        try:
            async with asyncio.timeout(seconds):
                frame = await self.call.read()
        except TimeoutError:
            return True
        return frame is grpc.aio.EOF

    def vanish(self) -> None:
        self.call.cancel()


class ScriptedRelay:
    """A relay's side of its stream, saying what a test has it say."""

    def __init__(self, controller: Served, relay: str = "relay-1", source: str = "rs1") -> None:
        self.relay = relay
        self.source = source
        stub = relay_pb2_grpc.RelayLinkServiceStub(controller.channel)
        self.call = stub.Connect()
        self.waiting: list[relay_pb2.RelayedResponse] = []

    async def say(self, **frame: Any) -> None:
        await self.call.write(relay_pb2.RelayLinkServiceConnectRequest(**frame))

    async def greet(self) -> Any:
        """Says hello; the answer."""
        await self.say(hello=relay_pb2.RelayHello(relay=self.relay, source=self.source))
        return await self.hear()

    async def request(self, index: int, **frame: Any) -> None:
        """Says what one node says."""
        await self.requests((index, nodelink_pb2.ConnectRequest(**frame)))

    async def requests(self, *frames: tuple[int, nodelink_pb2.ConnectRequest]) -> None:
        """Says what several nodes say, in one batch."""
        batch = relay_pb2.RequestBatch()
        for index, request in frames:
            batch.requests.add(node=index, request=request)
        await self.say(requests=batch)

    async def bring(
        self, index: int, node: str, source: str = "", certificate: bytes = b"", **fields: Any
    ) -> Any:
        """Greets for a node, and proves it when asked to; the answer to it. `certificate` is what the node showed."""
        key = key_of(node)
        fields = {"run": uuid.uuid4().hex, "source": source or f"s-{node}", **fields}
        hello = nodelink_pb2.AgentHello(node=node, public_key=key.public_key, **fields)
        batch = relay_pb2.RequestBatch()
        greeting = nodelink_pb2.ConnectRequest(hello=hello)
        batch.requests.add(node=index, request=greeting, certificate=certificate)
        await self.say(requests=batch)
        answer = (await self.hear_node(index)).response
        if not answer.HasField("challenge"):
            return answer
        nonce, controller = answer.challenge.nonce, answer.fence.controller
        signed = proof_message(controller, node, hello.source, hello.run, nonce)
        await self.request(index, proof=nodelink_pb2.AgentProof(signature=key.sign(signed)))
        return (await self.hear_node(index)).response

    async def close(self, index: int) -> None:
        """Says that a node is gone."""
        batch = relay_pb2.RequestBatch()
        batch.requests.add(node=index, closed=relay_pb2.StreamClosed())
        await self.say(requests=batch)

    async def hear(self) -> Any:
        """The next message; None at the end of the stream."""
        async with asyncio.timeout(DEADLINE_S):
            message = await self.call.read()
            return None if message is grpc.aio.EOF else message

    async def hear_node(self, index: int) -> relay_pb2.RelayedResponse:
        """The next frame for one node; those for others are kept."""
        while True:
            for frame in self.waiting:
                if frame.node == index:
                    self.waiting.remove(frame)
                    return frame
            message = await self.hear()
            assert message is not None, "the stream ended"
            assert message.WhichOneof("kind") != "goodbye", message
            self.waiting += message.responses.responses

    async def hear_kind(self, kind: str) -> Any:
        """The next message of a kind; frames for nodes are kept."""
        while True:
            message = await self.hear()
            assert message is not None, "the stream ended"
            self.waiting += message.responses.responses
            if message.WhichOneof("kind") == kind:
                return getattr(message, kind)

    def vanish(self) -> None:
        self.call.cancel()


async def until(condition: Callable[[], Any]) -> Any:
    """The first true value of a condition; fails when there is none in time."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            value = condition()
            if value:
                return value
            await asyncio.sleep(0.01)
