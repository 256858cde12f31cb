"""The relay's stream to its controller: dials, greets, keeps one session up, and brings what the relay has kept.

Owns channel, stream and tasks. Decides nothing about frames: the session does. Must never answer a node itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from nodeagent import AGENT_VERSION
from nodeagent.certificates import AgentCertificate
from nodeagent.clock import Clock, span_s
from nodeagent.connection import CHANNEL_OPTIONS
from nodeagent.dialling import DialPlan
from nodeagent.link import STEADY_LINK_S
from nodeagent.logs import EventLog
from nodeagent.relay_session import RelaySession, RelaySessionBroken
from nodeagent.waiting import first_set
from souverix.nodelink.v1 import nodelink_pb2, relay_pb2, relay_pb2_grpc
from trust.channels import ClientTls, open_channel

GREETING_TIMEOUT_S = 10.0
"""How long a dialled address may take to connect and welcome the relay."""

GATHER_S = 0.02
"""Pause before what waits is sent, so that frames and heartbeats of many nodes share messages; little beside any
round trip worth a relay."""

DEPOSIT_TIMEOUT_S = 60.0
"""How long a deposit may take to be answered; its reports stay kept, and come again with the next session."""

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Largest message either way: a batch of 1 MiB and its last frame, which may be as large."""

_OPTIONS: Sequence[tuple[str, int]] = (
    *(option for option in CHANNEL_OPTIONS if not option[0].endswith("message_length")),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)


class Upstream:
    """The stream to the controller, kept up until told to stop. `changed` is called when a session begins or ends."""

    def __init__(
        self,
        relay: str,
        source: str,
        plan: DialPlan,
        clock: Clock,
        changed: Callable[[], None],
        certificate: AgentCertificate | None = None,
    ) -> None:
        self.session: RelaySession | None = None
        #: The connection to the controller, while one stands.
        self.channel: grpc.aio.Channel | None = None
        #: Monotonic time at which the present session began, or the last one ended.
        self.since_s = clock.monotonic_s()
        self._relay = relay
        self._source = source
        self._plan = plan
        self._now_s = clock.monotonic_s
        self._changed = changed
        self._certificate = certificate
        self._log = EventLog(relay)
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._deposits: asyncio.Queue[relay_pb2.Deposit] = asyncio.Queue()
        self._asked: dict[tuple[str, str], asyncio.Future[relay_pb2.DepositAck | None]] = {}

    def something_to_send(self) -> None:
        """A frame waits in the session."""
        self._wake.set()

    async def room(self) -> None:
        """Waits until the session takes further frames, or is over."""
        while (session := self.session) is not None and not session.has_room:
            self._room.clear()
            await self._room.wait()

    async def deposit(self, deposit: relay_pb2.Deposit) -> relay_pb2.DepositAck | None:
        """What became of reports that were kept; None when nobody said. One of a node and source at a time."""
        answer: asyncio.Future[relay_pb2.DepositAck | None]
        answer = asyncio.get_running_loop().create_future()
        if self.session is None:
            return None
        key = (deposit.node, deposit.source)
        self._asked[key] = answer
        self._deposits.put_nowait(deposit)
        self._wake.set()
        try:
            async with asyncio.timeout(DEPOSIT_TIMEOUT_S):
                return await answer
        except TimeoutError:
            return None
        finally:
            self._asked.pop(key, None)

    async def run(self, stop: asyncio.Event) -> None:
        """Dials, and dials again, until `stop` is set; then takes leave."""
        while not stop.is_set():
            dialling = self._plan.next()
            await first_set(stop, timeout_s=max(0.0, dialling.not_before_s - self._now_s()))
            if stop.is_set():
                return
            began_s = self._now_s()
            cause, retry_after_s = await self._stream(dialling.address, stop)
            self._log.info("upstream_left", controller=dialling.address, cause=cause)
            now_s = self._now_s()
            steady = now_s - began_s >= STEADY_LINK_S
            self._plan.ended(dialling.address, now_s, steady=steady, retry_after_s=retry_after_s)

    async def _stream(self, address: str, stop: asyncio.Event) -> tuple[str, float | None]:
        """One stream, until it is over: why, and when the controller wants to be asked again."""
        tls = self._certificate.to_controller() if self._certificate else None
        async with open_channel(address, _OPTIONS, tls) as channel:
            call = relay_pb2_grpc.RelayLinkServiceStub(channel).Connect()
            self.channel = channel
            try:
                return await self._converse(call, address, stop, tls)
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name} {error.details()}", None
            except RelaySessionBroken as error:
                return str(error), None
            except (TimeoutError, asyncio.InvalidStateError):
                return "no welcome in time", None
            finally:
                self.channel = None
                call.cancel()
                self._over()

    async def _converse(
        self, call: Any, address: str, stop: asyncio.Event, tls: ClientTls | None
    ) -> tuple[str, float | None]:
        hello = relay_pb2.RelayHello(
            relay=self._relay, source=self._source, relay_version=AGENT_VERSION
        )
        async with asyncio.timeout(GREETING_TIMEOUT_S):
            await call.write(relay_pb2.RelayLinkServiceConnectRequest(hello=hello))
            first = await call.read()
        if first is grpc.aio.EOF:
            return "the controller closed the stream", None
        if first.HasField("goodbye"):
            return _sent_away(first.goodbye)
        if not first.HasField("welcome"):
            raise RelaySessionBroken("what came first was no welcome")
        session = RelaySession(first.welcome, self._now_s())
        self.session, self.since_s = session, self._now_s()
        self._log.info("upstream_linked", controller=address)
        self._changed()
        reader = asyncio.create_task(self._read(call, session))
        writer = asyncio.create_task(self._write(call, session, stop))
        renewing = asyncio.create_task(self._until_renewed(tls, address))
        tasks = (reader, writer, renewing)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task for task in tasks if task.done()).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_renewed(self, tls: ClientTls | None, address: str) -> tuple[str, float | None]:
        """Ends the stream once a renewed certificate was taken on another connection."""
        if self._certificate is None or tls is None:
            await asyncio.Event().wait()
        else:
            await self._certificate.renewed(tls, address, _OPTIONS)
        return "the certificate was renewed", 0.0

    async def _read(self, call: Any, session: RelaySession) -> tuple[str, float | None]:
        while (response := await call.read()) is not grpc.aio.EOF:
            now_s = self._now_s()
            if session.is_silent(now_s):
                return "nothing was heard for a lease", None
            match response.WhichOneof("kind"):
                case "goodbye":
                    return _sent_away(response.goodbye)
                case "deposit":
                    session.heard_s = now_s
                    ack = response.deposit
                    asked = self._asked.get((ack.node, ack.source))
                    if asked is not None and not asked.done():
                        asked.set_result(ack)
                case _:
                    session.receive(response, now_s)
                    self._wake.set()
        return "the controller closed the stream", None

    async def _write(
        self, call: Any, session: RelaySession, stop: asyncio.Event
    ) -> tuple[str, float | None]:
        while True:
            self._wake.clear()
            now_s = self._now_s()
            if session.is_silent(now_s):
                return "nothing was heard for a lease", None
            if stop.is_set():
                goodbye = nodelink_pb2.AgentGoodbye(reason="the relay stops")
                await call.write(relay_pb2.RelayLinkServiceConnectRequest(goodbye=goodbye))
                await call.done_writing()
                return "the relay stops", None
            for message in session.messages(now_s):
                await call.write(message)
            self._room.set()
            while not self._deposits.empty():
                deposit = self._deposits.get_nowait()
                await call.write(relay_pb2.RelayLinkServiceConnectRequest(deposit=deposit))
            if not self._wake.is_set():
                wait_s = session.heartbeat_due_s() - self._now_s()
                await first_set(self._wake, stop, timeout_s=max(0.0, wait_s))
            await asyncio.sleep(GATHER_S)

    def _over(self) -> None:
        session, self.session = self.session, None
        if session is None:
            return
        self.since_s = self._now_s()
        session.end()
        self._room.set()
        while not self._deposits.empty():
            self._deposits.get_nowait()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result(None)
        self._changed()


def _sent_away(goodbye: nodelink_pb2.LinkGoodbye) -> tuple[str, float | None]:
    known = goodbye.reason in nodelink_pb2.LinkEnd.values()
    reason = nodelink_pb2.LinkEnd.Name(goodbye.reason) if known else str(goodbye.reason)
    retry_after_s = span_s(goodbye.retry_after) if goodbye.HasField("retry_after") else None
    return f"{reason} {goodbye.message}".rstrip(), retry_after_s
