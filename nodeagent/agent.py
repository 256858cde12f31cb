"""One node's agent: its memory, its reporter, its commands, and the link that joins them to a controller.

Owns the wiring of one node, and what each effect of the link does to what is kept. Decides nothing of the
protocol (link), of commands (commands) or of reports (reporter).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nodeagent import AGENT_VERSION
from nodeagent.actions import Tools
from nodeagent.attester import KEY_FILE, Attester, SoftwareAttester
from nodeagent.attesting import Attesting
from nodeagent.backlog import Backlog
from nodeagent.certificates import Vouch
from nodeagent.clock import Clock, duration, timestamp
from nodeagent.commands import Commands
from nodeagent.configuration import ConfigurationStore
from nodeagent.connection import Connection, Dialler, dial
from nodeagent.dialling import DialPlan
from nodeagent.errors import NumberingBegunAnew
from nodeagent.identity import Identity
from nodeagent.inventory import Host
from nodeagent.ledger import Ledger
from nodeagent.link import Link, LinkState
from nodeagent.link_effects import (
    AttestationAsked,
    CancelArrived,
    CommandArrived,
    Dial,
    Effect,
    FrameRefused,
    Isolated,
    KeepFence,
    LinkLeft,
    LockReleased,
    ReportsAcknowledged,
    ResultAcknowledged,
    Send,
    SendAttestation,
    SendChunk,
    SendGoodbye,
    SendHeartbeat,
    SendHello,
    SendProof,
    SendReplayChunk,
    SendReport,
    SendResult,
    TurnCame,
    Welcomed,
)
from nodeagent.logs import EventLog
from nodeagent.proof import proof_message, said_message, voucher_message
from nodeagent.replay import Replay
from nodeagent.reporter import Reporter
from nodeagent.statedir import Database
from nodeagent.telemetry import add_gauges
from souverix.fleet.v1 import node_pb2
from souverix.nodelink.v1 import nodelink_pb2
from telemetry.started import OFF, Telemetry

RUN_BYTES = 8
"""Random bytes of the id of one run of the agent: no two runs of one node draw the same."""

_SIGNED = ("report", "result", "attestation")
"""Frames that take effect: by their signature a relay cannot make one up."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What an operator says of one node. `controllers` are addresses "HOST:PORT", tried in turn, and so are
    `enrolment`: listeners where an expired certificate is recovered.
    """

    node: str
    controllers: tuple[str, ...]
    spec: node_pb2.NodeSpec
    heartbeat_s: float
    report_interval_s: float
    software_version: str
    #: Files whose content the node attests, as paths.
    measured_files: tuple[str, ...] = ()
    enrolment: tuple[str, ...] = ()


class Agent:
    """One node's agent on an open state directory."""

    def __init__(
        self,
        settings: NodeSettings,
        database: Database,
        config_directory: Path,
        host: Host,
        clock: Clock,
        chance: Callable[[], float],
        describe: Callable[[node_pb2.ActualState], None] = lambda state: None,
        dialler: Dialler = dial,
        telemetry: Telemetry = OFF,
        attester: Attester | None = None,
        vouch: Vouch | None = None,
    ) -> None:
        """`vouch` is the word of the node's certificate; None where it has none."""
        node = settings.node
        self._vouch = vouch
        #: What frames are signed over on this link; None: they are not.
        self._sign_over: bytes | None = None
        self._settings = settings
        self._clock = clock
        self._log = EventLog(node)
        self._spec = _described(settings.spec, host)
        self._run = secrets.token_hex(RUN_BYTES)
        self._replay: Replay | None = None
        self._identity = Identity(database, node)
        self._backlog = Backlog(database, self._identity)
        self._ledger = Ledger(database, node)
        configuration = ConfigurationStore(config_directory, database, node)
        self._reporter = Reporter(
            host,
            self._identity,
            self._backlog,
            configuration,
            software_version=settings.software_version,
            clock=clock,
            chance=chance,
            made=self._something_to_send,
            describe=describe,
        )
        self._attesting = Attesting(
            attester or SoftwareAttester(config_directory.parent / KEY_FILE),
            host,
            self._identity,
            configuration,
            run=self._run,
            files=settings.measured_files,
            clock=clock,
            ready=self._attested,
        )
        tools = Tools(node, clock, configuration, self._reporter)
        self._commands = Commands(
            self._ledger, tools, finished=self._result_ready, tracer=telemetry.tracer
        )
        plan = DialPlan(settings.controllers, chance)
        self._link = Link(plan, self._identity.fence, settings.heartbeat_s)
        self._connection = Connection(self._link, self, clock, dialler)
        add_gauges(
            telemetry.meter,
            lambda: self._backlog.waiting,
            lambda: self._link.state is LinkState.LINKED,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Be this node's agent until `stop` is set. Needs no controller to start. Raises StateUnavailable."""
        self._commands.recover()
        self._log.info(
            "agent_started",
            version=AGENT_VERSION,
            source=self._identity.source,
            domain=self._identity.domain,
            fence=self._identity.fence,
            backlog=self._backlog.waiting,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._connection.run(stop))
            tasks.create_task(self._commands.run(stop))
            tasks.create_task(self._attesting.run(stop))
            tasks.create_task(self._reporter.run(stop, self._settings.report_interval_s))
        self._log.info("agent_stopped", backlog=self._backlog.waiting)

    def report(self) -> None:
        """Have the node's state reported now: something changed. Raises StateUnavailable."""
        self._reporter.report_actual_state()

    def apply(self, effect: Effect) -> None:
        """Carry out one effect of the link. Raises StateUnavailable, NumberingBegunAnew, ReplayRefused."""
        match effect:
            case KeepFence():
                self._identity.keep_fence(effect.fence)
                self._link.fence_kept(effect.fence)
                self._log.info("fence_met", fence=effect.fence)
            case Welcomed():
                self._welcomed(effect)
            case TurnCame():
                self._replay = Replay(self._backlog, self._identity, effect.token, effect.turn)
                self._log.info("replay_begins", waiting=self._backlog.waiting)
            case LockReleased():
                self._replay = None
                self._log.info("lock_released", backlog=self._backlog.waiting)
                self._announce_results()
            case Isolated():
                self._replay = None
                self._log.error("isolated", reason=effect.reason, cause=effect.message)
                self._announce_results()
            case ReportsAcknowledged():
                self._backlog.acknowledge(effect.sequence)
            case CommandArrived():
                self._commands.receive(effect.frame)
            case CancelArrived():
                self._commands.cancel(effect.command_id)
            case AttestationAsked():
                self._attesting.challenged(effect.controller, effect.nonce)
            case ResultAcknowledged():
                self._ledger.acknowledge(effect.command_id)
            case FrameRefused():
                self._identity.count_refused_frame()
                self._log.warning("frame_refused", fence=effect.offered, highest=effect.highest)
            case LinkLeft():
                self._replay = None
                tell = self._log.warning if effect.stood else self._log.info
                tell(
                    "link_left" if effect.stood else "dial_failed",
                    controller=effect.address,
                    cause=effect.trigger.value,
                    detail=effect.detail,
                )
            case Dial():
                self._log.info("dialling", controller=effect.address)

    def fetch(self, send: Send) -> nodelink_pb2.ConnectRequest | None:
        """The frame for a permission of the link, or None when there is none. Raises StateUnavailable."""
        request = nodelink_pb2.ConnectRequest()
        match send:
            case SendHello():
                request.hello.CopyFrom(self._hello())
            case SendProof():
                request.proof.CopyFrom(self._proof(send))
            case SendReplayChunk():
                if self._replay is None:
                    return None
                request.replay_chunk.CopyFrom(self._replay.next_chunk())
            case SendHeartbeat():
                request.heartbeat.ping_ms = send.ping_ms
                request.heartbeat.backlog_reports = self._backlog.waiting
                if send.rtt_s is not None:
                    request.heartbeat.rtt.CopyFrom(duration(send.rtt_s))
            case SendResult():
                result = self._ledger.result(send.command_id)
                if result is None:
                    return None
                request.result.CopyFrom(result)
            case SendAttestation():
                statement = self._attesting.statement(send.nonce)
                if statement is None:
                    return None
                request.attestation.CopyFrom(statement)
            case SendReport():
                report = self._backlog.next_after(send.after)
                if report is None:
                    return None
                request.report.CopyFrom(report)
            case SendChunk():
                data = self._backlog.chunk(send.digest)
                if data is None:
                    self._log.error("chunk_missing", digest=send.digest)
                    return None
                request.chunk.digest, request.chunk.data = send.digest, data
            case SendGoodbye():
                request.goodbye.reason = "the agent stops"
        return request

    def sealed(self, frame: nodelink_pb2.ConnectRequest) -> nodelink_pb2.ConnectRequest:
        """The frame as it is sent: signed where it takes effect, and the link passes through a relay."""
        if self._sign_over is None or frame.WhichOneof("kind") not in _SIGNED:
            return frame
        raw = frame.SerializeToString(deterministic=True)
        signature = self._identity.sign(said_message(self._sign_over, raw))
        return nodelink_pb2.ConnectRequest(
            signed=nodelink_pb2.SignedFrame(frame=raw, signature=signature)
        )

    def _proof(self, send: SendProof) -> nodelink_pb2.AgentProof:
        identity = self._identity
        words = (send.controller, self._settings.node, identity.source, self._run)
        proof = nodelink_pb2.AgentProof(signature=identity.sign(proof_message(*words, send.nonce)))
        if self._vouch is not None:
            message = voucher_message(*words, identity.public_key, send.nonce)
            proof.voucher.CopyFrom(self._vouch(message))
        return proof

    def _hello(self) -> nodelink_pb2.AgentHello:
        hello = nodelink_pb2.AgentHello(
            node=self._settings.node,
            agent_version=AGENT_VERSION,
            source=self._identity.source,
            spec=self._spec,
            backlog_reports=self._backlog.waiting,
            oldest_report=self._backlog.oldest,
            clock=timestamp(self._clock.wall_us()),
            public_key=self._identity.public_key,
            run=self._run,
        )
        if self._identity.fence is not None:
            hello.highest_fence.CopyFrom(self._identity.fence.to_message())
        return hello

    def _welcomed(self, welcome: Welcomed) -> None:
        self._sign_over = welcome.sign_over
        durable = welcome.reports_acknowledged
        if not self._backlog.acknowledged <= durable <= self._backlog.numbered:
            held = f"{self._backlog.acknowledged} to {self._backlog.numbered}"
            self._backlog.begin_anew()
            self._reporter.ask_for_all()
            self._log.error("numbering_began_anew", controller_has=durable, expected=held)
            raise NumberingBegunAnew(
                f"the controller has {durable} reports, we expected {held}: one of us was restored"
            )
        self._backlog.acknowledge(durable)
        self._identity.keep_domain(welcome.domain)
        self._log.info(
            "linked",
            domain=welcome.domain,
            backlog=self._backlog.waiting,
            results=self._announce_results(),
        )

    def _announce_results(self) -> int:
        """Has all results sent that the controller does not have, as soon as the link allows it; how many those are."""
        unacknowledged = self._ledger.unacknowledged()
        for command_id in unacknowledged:
            self._link.result_ready(command_id)
        return len(unacknowledged)

    def _something_to_send(self) -> None:
        self._connection.something_to_send()

    def _attested(self, nonce: bytes) -> None:
        self._link.attested(nonce)
        self._connection.something_to_send()

    def _result_ready(self, command_id: str) -> None:
        self._link.result_ready(command_id)
        self._connection.something_to_send()


def _described(spec: node_pb2.NodeSpec, host: Host) -> node_pb2.NodeSpec:
    """The operator's description, with the hardware as the host knows it."""
    described = node_pb2.NodeSpec()
    described.CopyFrom(spec)
    hardware = host.hardware()
    if hardware is not None:
        described.hardware.CopyFrom(hardware)
    return described
