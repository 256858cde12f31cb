"""RelayLinkService: the relays' streams. Owns which relays are welcome and the life of each stream; what nodes behind
them say goes the way of any node's stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from google.protobuf.duration_pb2 import Duration

from controller.bearer import check_bearer
from controller.journal import Journal
from controller.nodelink.conversation import GREETING_TIMEOUT_S
from controller.nodelink.greeting import (
    UNWELCOME_RETRY_S,
    NotWelcome,
    check_names,
    find_home,
)
from controller.nodelink.link import goodbye
from controller.nodelink.relay_deposits import Deposits
from controller.nodelink.relay_heartbeats import RelayHeartbeats
from controller.nodelink.relay_stream import RelayStream
from controller.nodelink.reports import ProtocolBroken
from controller.nodelink.service import NodeLinkService
from controller.replica import Replica
from controller.twin.facts import body_of
from federation.identifiers import Key
from souverix.fleet.v1 import node_pb2
from souverix.nodelink.v1 import nodelink_pb2, relay_pb2, relay_pb2_grpc
from trust.identity import Kind

_log = logging.getLogger(__name__)

Request = relay_pb2.RelayLinkServiceConnectRequest
Response = relay_pb2.RelayLinkServiceConnectResponse

#: Nodes one relay may carry: a site or a satellite's footprint. One stream of 20,000 nodes at a heartbeat in 5 s is 20
#: messages a second; its loss is noticed for so many at once.
MAX_NODES_A_RELAY = 20_000

#: Relays at once: each may carry thousands of nodes.
MAX_RELAYS = 1_000

#: Deposits of one relay that may be committed at once.
MAX_DEPOSITS_AT_ONCE = 4

#: Heartbeats a relay may miss before another of its name may take its place.
MISSED_HEARTBEATS = 3

#: When a relay should try again where nothing is wrong with it.
BUSY_RETRY_S = 5.0


class RelayLinkService(relay_pb2_grpc.RelayLinkServiceServicer):
    """Serves relays beside `nodes`, which serves every node. `duty` is registered with the replica."""

    def __init__(self, replica: Replica, nodes: NodeLinkService) -> None:
        self._replica = replica
        self._nodes = nodes
        self._deposits = Deposits(nodes.desk, lambda: time.time_ns() // 1_000_000)
        self._heartbeat_s = replica.config.agents.heartbeat_interval_s
        self._streams: dict[str, RelayStream] = {}
        replica.add_duty(self.duty)

    async def duty(self, journal: Journal) -> None:
        """Ends the relays' streams with the mastership, and those that fall silent before."""
        try:
            while True:
                await asyncio.sleep(self._heartbeat_s)
                now_s = time.monotonic()
                for stream in list(self._streams.values()):
                    if now_s - stream.heard_s > MISSED_HEARTBEATS * self._heartbeat_s:
                        stream.end(nodelink_pb2.LINK_END_UNSPECIFIED, "no heartbeat came in time")
        finally:
            for stream in list(self._streams.values()):
                stream.end(
                    nodelink_pb2.LINK_END_NOT_MASTER,
                    "this replica ceased to be the master; try the controller's other addresses",
                )

    def stop(self) -> None:
        """The process stops: takes leave of all relays."""
        for stream in list(self._streams.values()):
            stream.end(nodelink_pb2.LINK_END_SHUTDOWN, "the controller's process stops")

    def carried(self) -> dict[str, int]:
        """How many nodes each linked relay carries."""
        return {relay: len(stream) for relay, stream in self._streams.items()}

    async def Connect(  # noqa: N802 the method's name in the contract
        self, request_iterator: AsyncIterator[Request], context: Any
    ) -> AsyncGenerator[Response, None]:
        """One relay's stream."""
        try:
            journal = await self._nodes.serving_journal()
            stream = self._open(await _first(request_iterator), context.peer())
        except NotWelcome as refusal:
            said = goodbye(refusal.reason, str(refusal), refusal.retry_after_s).goodbye
            yield Response(goodbye=said)
            return
        reader = asyncio.create_task(self._read(stream, journal, request_iterator))
        _log.info("relay linked", extra={"relay": stream.relay})
        try:
            async for message in stream.frames():
                yield message
        finally:
            reader.cancel()
            if self._streams.get(stream.relay) is stream:
                del self._streams[stream.relay]
            nodes = len(stream)
            await stream.stop()
            _log.info("relay left", extra={"relay": stream.relay, "nodes": nodes})

    # Greeting.

    def _open(self, hello: relay_pb2.RelayHello, peer: str) -> RelayStream:
        now_s = time.monotonic()
        self._check(hello)
        self._make_room(hello, now_s)
        stream = RelayStream(
            hello.relay,
            hello.source,
            peer,
            self._nodes,
            RelayHeartbeats(self._replica.connectivity),
            MAX_NODES_A_RELAY,
            now_s,
            self._replica.lease_valid,
        )
        self._streams[hello.relay] = stream
        welcome = relay_pb2.RelayWelcome(
            fence=self._nodes.fence(0),
            heartbeat_interval=_duration(self._heartbeat_s),
            lease_ttl=_duration(self._replica.config.log.lease_ttl_s),
            max_nodes=MAX_NODES_A_RELAY,
        )
        stream.answer(Response(welcome=welcome))
        return stream

    def _check(self, hello: relay_pb2.RelayHello) -> None:
        """Refuses what is no relay of this controller's."""
        check_names(hello.relay, hello.source, hello.relay_version)
        check_bearer(Kind.RELAY, hello.relay, self._replica.config.controller.domain)
        home = find_home(self._replica.state, self._replica.config.controller.id, hello.relay)
        if home is None:
            return
        spec = body_of(self._replica.state, Key(home.domain, f"nodes/{hello.relay}", "node_spec"))
        if spec is not None and spec.kind != node_pb2.NODE_KIND_RELAY:
            raise NotWelcome(
                nodelink_pb2.LINK_END_PROTOCOL_ERROR,
                f"{hello.relay} is described as {node_pb2.NodeKind.Name(spec.kind)}, which carries no nodes; name the "
                "relay's own node",
                UNWELCOME_RETRY_S,
            )

    def _make_room(self, hello: relay_pb2.RelayHello, now_s: float) -> None:
        """A relay that comes again takes the place of its earlier stream; another of its name must wait."""
        held = self._streams.get(hello.relay)
        if held is not None:
            silent_s = now_s - held.heard_s
            patience_s = MISSED_HEARTBEATS * self._heartbeat_s
            if held.source != hello.source and not held.is_over and silent_s <= patience_s:
                raise NotWelcome(
                    nodelink_pb2.LINK_END_DUPLICATE,
                    f"a relay {hello.relay} is linked already (last heard {silent_s:.1f} s ago); give one of them "
                    "another id, or wait until the other is silent",
                    max(1.0, patience_s - silent_s),
                )
            held.end(nodelink_pb2.LINK_END_DUPLICATE, "the relay has linked anew")
        elif len(self._streams) >= MAX_RELAYS:
            raise NotWelcome(
                nodelink_pb2.LINK_END_UNSPECIFIED,
                f"{len(self._streams)} relays are linked, as many as this controller may hold",
                BUSY_RETRY_S,
            )

    # A standing stream.

    async def _read(
        self, stream: RelayStream, journal: Journal, requests: AsyncIterator[Request]
    ) -> None:
        """Reads until the stream is over; then it has ended for a reason."""
        try:
            async with asyncio.TaskGroup() as deposits:
                with contextlib.suppress(StopAsyncIteration):
                    await self._take_all(stream, journal, requests, deposits)
            stream.left()
        except* ProtocolBroken as broken:
            cause = str(broken.exceptions[0])
            _log.warning(
                "a relay broke the protocol", extra={"relay": stream.relay, "error": cause}
            )
            stream.end(nodelink_pb2.LINK_END_PROTOCOL_ERROR, cause, UNWELCOME_RETRY_S)
        except* Exception as failed:  # noqa: BLE001 one relay's failure must not end the others
            _log.exception(
                "a relay's stream failed", extra={"relay": stream.relay}, exc_info=failed
            )
            message = "the controller failed on this stream; its log says more"
            stream.end(nodelink_pb2.LINK_END_UNSPECIFIED, message, BUSY_RETRY_S)

    async def _take_all(
        self,
        stream: RelayStream,
        journal: Journal,
        requests: AsyncIterator[Request],
        deposits: asyncio.TaskGroup,
    ) -> None:
        async for request in requests:
            if stream.is_over:
                return
            now_s = time.monotonic()
            stream.heard_s = now_s
            match request.WhichOneof("kind"):
                case "heartbeats":
                    stream.take_heartbeats(request.heartbeats, now_s)
                case "requests":
                    await stream.take_requests(request.requests)
                case "deposit":
                    if stream.deposits >= MAX_DEPOSITS_AT_ONCE:
                        raise ProtocolBroken(
                            f"more than {MAX_DEPOSITS_AT_ONCE} deposits are under way"
                        )
                    stream.deposits += 1
                    deposits.create_task(self._deposit(stream, journal, request.deposit))
                case "goodbye":
                    return
                case "hello":
                    raise ProtocolBroken("a second greeting on one stream")
                case _:
                    raise ProtocolBroken("a frame says nothing this version knows")

    async def _deposit(
        self, stream: RelayStream, journal: Journal, deposit: relay_pb2.Deposit
    ) -> None:
        try:
            ack = await self._deposits.take(
                stream.relay, stream.peer, journal, deposit, time.monotonic()
            )
        finally:
            stream.deposits -= 1
        stream.answer(Response(deposit=ack))


async def _first(requests: AsyncIterator[Request]) -> relay_pb2.RelayHello:
    """The greeting. Raises `NotWelcome`."""
    try:
        async with asyncio.timeout(GREETING_TIMEOUT_S):
            first = await anext(requests)
    except (TimeoutError, StopAsyncIteration) as error:
        message = f"no greeting came within {GREETING_TIMEOUT_S:g} s"
        raise NotWelcome(nodelink_pb2.LINK_END_PROTOCOL_ERROR, message) from error
    if not first.HasField("hello"):
        message = "the first frame must be a greeting"
        raise NotWelcome(nodelink_pb2.LINK_END_PROTOCOL_ERROR, message)
    return first.hello


def _duration(seconds: float) -> Duration:
    span = Duration()
    span.FromMilliseconds(int(seconds * 1000))
    return span
