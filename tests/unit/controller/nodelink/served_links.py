"""A controller with commands and node links on a real gRPC server over a real SQLite log, and an agent by script."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from controller.bearer import Bearers
from controller.config import AgentsSection, ControllerConfig, ControllerSection, TrustSection
from controller.connectivity_settings import ConnectivitySection
from controller.log.sqlite_log import SqliteLog
from controller.nodelink.proof import (
    chain_next,
    chain_start,
    custody_message,
    end_message,
    proof_message,
    voucher_message,
)
from controller.nodelink.relay_service import RelayLinkService
from controller.nodelink.service import NodeLinkService
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
from souverix.trust.v1 import attestation_service_pb2_grpc, certificate_authority_pb2
from tests.certificates import CertificateTree
from tests.federation_fixture import ROOT, genesis_of
from tests.unit.controller.services.served import ScriptedForwarder
from trust.certificates import to_der
from trust.channels import ClientTls, ListenerTls, open_channel
from trust.files import Credentials, ReloadedCredentials
from trust.identity import Kind, dns_name_of
from trust.keys import sign_as_bearer

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
    #: None in clear.
    bearers: Bearers | None
    certificates: CertificateTree | None
    forwarder: ScriptedForwarder
    #: Channels of others than the operator, closed at the end.
    opened: list[grpc.aio.Channel] = field(default_factory=list)

    def leaf(self, kind: Kind, name: str, domain: str = ROOT, **validity: Any) -> Credentials:
        """A certificate of the tree."""
        assert self.certificates is not None
        return self.certificates.leaf(domain, kind, name, **validity).read()

    def channel_as(self, shown: Credentials | None) -> grpc.aio.Channel:
        """The operator's channel, or one by another certificate."""
        if shown is None:
            return self.channel
        self.opened.append(open_channel(self.address, (), client_tls(shown)))
        return self.opened[-1]

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

    async def state_authority(self, domain: str) -> None:
        """Says which authority of the tree may name a domain's members."""
        assert self.certificates is not None
        known = to_der(self.certificates.authorities[domain].certificate)
        fact = certificate_authority_pb2.CertificateAuthority(domain=domain, certificates=[known])
        await self.submit(
            lambda proposal: proposal.write(
                domain, f"domains/{domain}", "certificate_authority", fact, principal="user:test"
            )
        )

    def body(self, domain: str, subject: str, aspect: str) -> Any:
        winner = self.replica.state.winner(Key(domain, subject, aspect))
        return winner.body() if winner is not None else None


def client_tls(shown: Credentials) -> ClientTls:
    """How a bearer calls the root's controller."""
    return ClientTls.of(shown, dns_name_of((ROOT,), shown.identity.trust_domain))


_KEYS: dict[str, Ed25519Signer] = {}


def key_of(node: str) -> Ed25519Signer:
    """The key of a node's agent, the same each time."""
    return _KEYS.setdefault(node, Ed25519Signer.generate())


class Directory:
    """What one controller leaves on disk: served again, it is the same controller under its next master.

    With `certificates` it speaks TLS.
    """

    def __init__(
        self, path: Path, certificates: CertificateTree | None = None, **agents: Any
    ) -> None:
        self.path = path
        self.certificates = certificates
        #: By how much the clock by which certificates are judged is ahead.
        self.later = timedelta()
        self.signer = Ed25519Signer.generate()
        self.root_signer = Ed25519Signer.generate()
        self.agents = {"heartbeat_interval_s": 10.0, **agents}
        path.mkdir(parents=True, exist_ok=True)

    @contextlib.asynccontextmanager
    async def served(self, replica_name: str = "r1", *, wait: bool = True) -> AsyncIterator[Served]:
        """A replica that serves; with `wait`, once it is master and its genesis stands."""
        config = ControllerConfig(
            ControllerSection(CONTROLLER, ROOT, self.path / replica_name, replica_name),
            TrustSection(self.path / "key.pem", self.root_signer.public_key.hex()),
            agents=AgentsSection(**self.agents),
            connectivity=CONNECTIVITY,
        )
        log = SqliteLog(self.path / "log.sqlite", str(uuid.uuid4()))
        forwarder = ScriptedForwarder()
        replica = Replica(config, log, self.signer, forwarder)
        values = ValueStore(self.path / "values")
        held = bearers = None
        if self.certificates is not None:
            held = ReloadedCredentials(self.certificates.controller(ROOT))
            bearers = Bearers(held, replica.state, lambda: datetime.now(UTC) + self.later)
            RevokedBearers(replica.revocations, replica.knocks).watch(bearers)
        service = NodeLinkService(replica, values, bearers)
        relays = RelayLinkService(replica, service)
        server = grpc.aio.server(
            interceptors=[CallInterceptor(RefusalAudit(replica), proving=bearers)]
        )
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
        port = (
            server.add_insecure_port("127.0.0.1:0")
            if held is None
            else server.add_secure_port("127.0.0.1:0", ListenerTls(held).credentials())
        )
        life = asyncio.create_task(replica.run())
        await server.start()
        operator = None
        if self.certificates is not None:
            operator = client_tls(self.certificates.leaf(ROOT, Kind.USER, "operator").read())
        channel = open_channel(f"127.0.0.1:{port}", (), operator)
        commands = command_service_pb2_grpc.CommandServiceStub(channel)
        replays = replay_service_pb2_grpc.ReplayServiceStub(channel)
        attestation = attestation_service_pb2_grpc.AttestationServiceStub(channel)
        listening = contextlib.ExitStack()
        if bearers is not None:
            listening.enter_context(replica.changes.listen(bearers.note))
        controller = Served(
            replica,
            service,
            relays,
            commands,
            replays,
            attestation,
            channel,
            port,
            bearers,
            self.certificates,
            forwarder,
        )
        try:
            if wait:
                await until(lambda: replica.is_master and service.is_serving)
                await self._begin(controller)
            yield controller
        finally:
            relays.stop()
            service.stop()
            listening.close()
            for each in (channel, *controller.opened):
                await each.close()
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
        shown: Credentials | None = None,
        vouching: Credentials | None = None,
    ) -> None:
        """By TLS it shows one certificate, and the same vouches for its key, unless another does."""
        self.vouching = vouching or shown
        self.node = node
        self.source = source
        self.key = key or key_of(node)
        self.run = run or uuid.uuid4().hex
        self.token = b""
        stub = nodelink_pb2_grpc.NodeLinkServiceStub(controller.channel_as(shown))
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
        await self.say(proof=self.proof(answer))
        welcome = await self.hear()
        self.token = welcome.welcome.session_token if welcome is not None else b""
        return welcome

    def proof(self, challenge: nodelink_pb2.ConnectResponse) -> nodelink_pb2.AgentProof:
        words = (challenge.fence.controller, self.node, self.source, self.run)
        return proof_of(self.key, self.vouching, words, challenge.challenge.nonce)

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


def proof_of(
    key: Ed25519Signer, vouching: Credentials | None, words: tuple[str, str, str, str], nonce: bytes
) -> nodelink_pb2.AgentProof:
    """The answer to a challenge; `words` are controller, node, source and run."""
    proof = nodelink_pb2.AgentProof(signature=key.sign(proof_message(*words, nonce)))
    if vouching is not None:
        proof.voucher.certificate = to_der(vouching.leaf)
        message = voucher_message(*words, key.public_key, nonce)
        proof.voucher.signature = sign_as_bearer(vouching.key, message)
    return proof


def batch_of(
    node: str,
    source: str,
    *reports: nodelink_pb2.Report,
    key: Ed25519Signer | None = None,
    first: int | None = None,
) -> nodelink_pb2.ReplayChunk:
    """Reports as a node's agent hands them to a relay that keeps them."""
    first = reports[0].sequence if first is None else first
    head = chain_start(node, source, first)
    raws = [report.SerializeToString(deterministic=True) for report in reports]
    for raw in raws:
        head = chain_next(head, raw)
    signed = custody_message(first + len(raws) - 1, head)
    return nodelink_pb2.ReplayChunk(
        number=1,
        first_sequence=first,
        reports=raws,
        chain_hash=head,
        signature=(key or key_of(node)).sign(signed),
    )


class ScriptedRelay:
    """A relay's side of its stream, saying what a test has it say."""

    def __init__(
        self,
        controller: Served,
        relay: str = "relay-1",
        source: str = "rs1",
        shown: Credentials | None = None,
    ) -> None:
        self.relay = relay
        self.source = source
        stub = relay_pb2_grpc.RelayLinkServiceStub(controller.channel_as(shown))
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
        self,
        index: int,
        node: str,
        source: str = "",
        *,
        certificate: bytes = b"",
        key: Ed25519Signer | None = None,
        vouching: Credentials | None = None,
        **fields: Any,
    ) -> Any:
        """Greets for a node, and proves it when asked to; the answer to it."""
        key = key or key_of(node)
        fields = {"run": uuid.uuid4().hex, "source": source or f"s-{node}", **fields}
        hello = nodelink_pb2.AgentHello(node=node, public_key=key.public_key, **fields)
        await self.request(index, hello=hello)
        answer = (await self.hear_node(index)).response
        if not answer.HasField("challenge"):
            return answer
        words = (answer.fence.controller, node, hello.source, hello.run)
        proof = proof_of(key, vouching, words, answer.challenge.nonce)
        await self.request(index, proof=proof)
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
