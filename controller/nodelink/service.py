"""NodeLinkService: the agents' streams. Owns the life of each stream and of all of them together under one mastership;
what a frame means is the intake's, the dispatcher's and the deliverer's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from google.protobuf.duration_pb2 import Duration

from controller.command.targets import delivering_controller
from controller.journal import Journal
from controller.log.errors import LogError
from controller.nodelink.connectivity import ConnectivityRecorder
from controller.nodelink.dispatch import Dispatcher
from controller.nodelink.duplicates import SecondAgents
from controller.nodelink.greeting import (
    ENROLMENTS_BURST,
    ENROLMENTS_PER_S,
    Enrolment,
    NotWelcome,
    check_hello,
    find_home,
)
from controller.nodelink.link import NOT_MASTER_MESSAGE, End, Link, goodbye
from controller.nodelink.links import Links
from controller.nodelink.rate import TokenBucket
from controller.nodelink.relay_call import RelayedCall
from controller.nodelink.reports import NodeMoved, ProtocolBroken, ReportIntake, highest_report
from controller.replica import Replica
from controller.twin.facts import Home, exists, home_of
from controller.values import StoreFull, ValueStore, ValueStoreError
from federation.errors import InvalidWrite
from federation.state import Applied
from souverix.nodelink.v1 import nodelink_pb2, nodelink_pb2_grpc

_log = logging.getLogger(__name__)

Request = nodelink_pb2.ConnectRequest
Response = nodelink_pb2.ConnectResponse

#: How long an agent may take to greet: a stream that says nothing holds a place that another could use.
GREETING_TIMEOUT_S = 10.0

#: How long the answer "who is master" is good for: agents that lost their master ask all at once.
MASTER_KNOWN_S = 1.0

#: How long a link must have stood before its agent may come by another path: agents dial anew within seconds, and two
#: copies of one agent, which would take the link from each other, do so slowly enough to do no harm.
MIN_HAND_OVER_S = 5.0

#: When an agent should ask again where nothing is wrong with it.
BUSY_RETRY_S = 5.0


class NodeLinkService(nodelink_pb2_grpc.NodeLinkServiceServicer):
    """Serves `Connect`. `duty` is registered with the replica: links stand only while it runs."""

    def __init__(self, replica: Replica, values: ValueStore) -> None:
        agents = replica.config.agents
        self._replica = replica
        self._values = values
        self._controller = replica.config.controller.id
        self.links = Links(agents.max_links, agents.heartbeat_interval_s)
        self.second_agents = SecondAgents(self.links.silence_limit_s)
        self._dispatcher = Dispatcher(replica, self.links)
        self._connectivity = ConnectivityRecorder(replica, self.links)
        self._enrolment = Enrolment(
            agents.enrolment == "open",
            TokenBucket(ENROLMENTS_PER_S, ENROLMENTS_BURST, time.monotonic()),
            replica.state.authority,
        )
        self._journal: Journal | None = None
        self._master: tuple[float, str] = (float("-inf"), "")
        replica.add_duty(self.duty)

    async def duty(self, journal: Journal) -> None:
        """Serves agents until the mastership ends, which ends all links."""
        self._journal = journal
        try:
            with self._replica.changes.listen(self._note):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._dispatcher.run(journal))
                    tasks.create_task(self._connectivity.run(journal))
                    tasks.create_task(self._sweep())
        finally:
            self._journal = None
            self.links.end_all(nodelink_pb2.LINK_END_NOT_MASTER, NOT_MASTER_MESSAGE, "master_lost")

    @property
    def is_serving(self) -> bool:
        """Tells whether agents are welcome: this replica is the master, and its duty runs."""
        return self._journal is not None and self._replica.is_master

    def stop(self) -> None:
        """The process stops: takes leave of all agents."""
        self._journal = None
        self.links.end_all(
            nodelink_pb2.LINK_END_SHUTDOWN, "the controller's process stops", "controller_stopped"
        )

    async def Connect(  # noqa: N802 the method's name in the contract
        self, request_iterator: AsyncIterator[Request], context: Any
    ) -> AsyncGenerator[Response, None]:
        """One agent's stream."""
        try:
            link, intake, journal = await self._greet(request_iterator, context)
        except NotWelcome as refusal:
            frame = goodbye(refusal.reason, str(refusal), refusal.retry_after_s)
            frame.fence.CopyFrom(self.fence(0))
            yield frame
            return
        if isinstance(context, RelayedCall):
            context.opened(link)
        reader = asyncio.create_task(self._serve(link, intake, journal, request_iterator))
        context.add_done_callback(lambda _: self._close(link, reader))
        try:
            async for frame in link.frames():
                yield frame
        finally:
            self._close(link, reader)

    # Greeting.

    async def serving_journal(self) -> Journal:
        """The journal, while this replica is master and serves. Raises `NotWelcome`."""
        journal = self._journal
        if journal is None or not self.is_serving:
            master = await self._master_address()
            raise NotWelcome(
                nodelink_pb2.LINK_END_NOT_MASTER,
                f"replica {self._replica.config.controller.replica} is not the master of {self._controller}"
                + (f"; {master} is" if master else ""),
            )
        return journal

    async def _greet(
        self, requests: AsyncIterator[Request], context: Any
    ) -> tuple[Link, ReportIntake, Journal]:
        journal = await self.serving_journal()
        relay = context.relay if isinstance(context, RelayedCall) else ""
        hello = await _first(requests)
        home = find_home(self._replica.state, self._controller, hello.node)
        now_s = time.monotonic()
        if home is None:
            home = await self._enrolment.enrol(journal, hello, context.peer(), now_s)
        self._make_room(hello, relay, context.peer(), now_s)
        link, intake = self._open(journal, hello, home, relay, now_s)
        return link, intake, journal

    def _make_room(
        self, hello: nodelink_pb2.AgentHello, relay: str, caller: str, now_s: float
    ) -> None:
        """Refuses a second link of a node while the first lives, and any link when there are too many.

        An agent that comes by another path has left the first: it keeps one stream at a time, and nobody else has its
        source.
        """
        node = hello.node
        held = self.links.get(node)
        if held is not None:
            if self._is_handed_over(held, hello.source, relay, now_s):
                _hand_over(held, relay)
            elif self.links.is_alive(held, now_s):
                self.second_agents.refused(node, relay or caller, now_s)
                wait_s = self.links.silence_limit_s - (now_s - held.heard_s)
                raise NotWelcome(
                    nodelink_pb2.LINK_END_DUPLICATE,
                    f"an agent of {node} is linked already (last heard {now_s - held.heard_s:.1f} s ago); stop the "
                    "other, or wait until it is silent",
                    max(1.0, wait_s),
                )
            held.end(
                nodelink_pb2.LINK_END_DUPLICATE,
                "another link of this node has taken over",
                End("replaced", "silent when another link came", is_news=False),
            )
            self.links.remove(held)
            self._dispatcher.link_closed(held)
        if self.links.is_full:
            raise NotWelcome(
                nodelink_pb2.LINK_END_UNSPECIFIED,
                f"{len(self.links)} nodes are linked, as many as this controller may hold (agents.max_links)",
                BUSY_RETRY_S,
            )

    def _is_handed_over(self, held: Link, source: str, relay: str, now_s: float) -> bool:
        """Tells whether the greeting is of the agent that holds the link, by another path.

        Two copies of one agent would take the link from each other without end: it is given once in a while only.
        """
        stood_s = now_s - held.opened_s
        return held.source == source and held.relay != relay and stood_s >= MIN_HAND_OVER_S

    def _open(
        self,
        journal: Journal,
        hello: nodelink_pb2.AgentHello,
        home: Home,
        relay: str,
        now_s: float,
    ) -> tuple[Link, ReportIntake]:
        if self._journal is not journal:
            raise NotWelcome(nodelink_pb2.LINK_END_NOT_MASTER, NOT_MASTER_MESSAGE)
        link = Link(
            hello.node,
            home.domain,
            hello.source,
            self.fence(home.epoch),
            now_s,
            self._replica.lease_valid,
        )
        link.relay = relay
        highest = highest_report(self._replica.state, home.domain, hello.node, hello.source)
        link.backlog_reports = _waiting(hello, highest)
        self.links.add(link)
        agents = self._replica.config.agents
        welcome = nodelink_pb2.Welcome(
            domain=home.domain,
            heartbeat_interval=_duration(agents.heartbeat_interval_s),
            lease_ttl=_duration(self._replica.config.log.lease_ttl_s),
            reports_acknowledged=highest,
        )
        link.send(Response(welcome=welcome))
        self._dispatcher.link_opened(link)
        self._connectivity.link_opened(link)
        _log.info("link opened", extra={"node": link.node, "agent": hello.agent_version})
        intake = ReportIntake(
            link,
            highest,
            self._values,
            _wall_ms,
            lambda reports: self._connectivity.reports_durable(link, reports),
        )
        return link, intake

    # A standing link.

    async def _serve(
        self,
        link: Link,
        intake: ReportIntake,
        journal: Journal,
        requests: AsyncIterator[Request],
    ) -> None:
        """Reads the stream and commits its reports, until either ends; then the link has ended for a reason."""
        tasks = {
            asyncio.create_task(self._read(link, intake, requests)),
            asyncio.create_task(intake.run(journal)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except (ProtocolBroken, InvalidWrite) as error:
            _end(link, nodelink_pb2.LINK_END_PROTOCOL_ERROR, "protocol_broken", str(error))
        except NodeMoved as error:
            _end(link, nodelink_pb2.LINK_END_MOVED, "moved", str(error))
        except (StoreFull, OSError) as error:
            message = f"large values cannot be kept now ({error}); an operator must make room"
            _end(link, nodelink_pb2.LINK_END_UNSPECIFIED, "values_not_kept", message, BUSY_RETRY_S)
        except ValueStoreError as error:
            _end(link, nodelink_pb2.LINK_END_PROTOCOL_ERROR, "protocol_broken", str(error))
        except Exception as error:  # noqa: BLE001 one link's failure must not end the others
            _log.exception("a link failed", extra={"node": link.node}, exc_info=error)
            message = "the controller failed on this link; its log says more"
            _end(link, nodelink_pb2.LINK_END_UNSPECIFIED, "controller_failed", message)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(
        self, link: Link, intake: ReportIntake, requests: AsyncIterator[Request]
    ) -> None:
        async for request in requests:
            if not link.is_open:
                return
            link.heard_s = time.monotonic()
            match request.WhichOneof("kind"):
                case "heartbeat":
                    _take_heartbeat(link, request.heartbeat)
                    self._connectivity.heard(link)
                case "report":
                    intake.offer(request.report)
                case "chunk":
                    await intake.take_chunk(request.chunk)
                case "result":
                    self._dispatcher.answered(link, request.result)
                case "goodbye":
                    link.left(End("agent_stopped", request.goodbye.reason[:200]))
                    return
                case "hello":
                    raise ProtocolBroken("a second greeting on one stream")
        link.left(End("connection_lost", "the agent closed the stream"))

    def _close(self, link: Link, reader: asyncio.Task[None]) -> None:
        """The stream is over; may be called more than once."""
        reader.cancel()
        if not self.links.remove(link):
            return
        link.left(End("connection_lost", "the stream broke"))
        self._dispatcher.link_closed(link)
        self._connectivity.link_closed(link)
        ended = link.end_reason
        _log.info("link ended", extra={"node": link.node, "cause": ended.reason if ended else ""})

    # All links.

    async def _sweep(self) -> None:
        while True:
            self.links.sweep(time.monotonic())
            await asyncio.sleep(self._replica.config.agents.heartbeat_interval_s)

    def _note(self, applied: Applied) -> None:
        """Ends the links of nodes that a commit moved, deleted, or gave to another controller."""
        table = self._replica.state.authority
        if applied.authority_changed:
            self.links.end_all(
                nodelink_pb2.LINK_END_MOVED,
                "another controller delivers to the node's domain now",
                "moved",
                lambda link: delivering_controller(table, link.domain) != self._controller,
            )
        for key in applied.keys:
            if key.aspect not in ("placement", "existence"):
                continue
            link = self.links.get(key.subject.removeprefix("nodes/"))
            if link is None or not key.subject.startswith("nodes/"):
                continue
            home = home_of(self._replica.state, key.subject)
            if (
                home is None
                or home.domain != link.domain
                or home.epoch != link.fence.placement_epoch
            ):
                where = home.domain if home else "nowhere"
                _end(
                    link, nodelink_pb2.LINK_END_MOVED, "moved", f"{link.node} lives in {where} now"
                )
            elif not exists(self._replica.state, home.domain, key.subject):
                message = f"{link.node} was deleted"
                _end(link, nodelink_pb2.LINK_END_UNKNOWN_NODE, "deleted", message)

    async def _master_address(self) -> str:
        """The master as "replica@address"; empty while it is not known."""
        known_s, master = self._master
        now_s = time.monotonic()
        if now_s - known_s > MASTER_KNOWN_S:
            with contextlib.suppress(LogError):
                master = await self._replica.log.current_master() or ""
            self._master = (now_s, master)
        return master

    def fence(self, placement_epoch: int) -> nodelink_pb2.Fence:
        """The fence of this mastership."""
        journal = self._journal
        return nodelink_pb2.Fence(
            placement_epoch=placement_epoch,
            controller=self._controller,
            incarnation=self._replica.incarnation,
            fencing_token=journal.fencing_token if journal is not None else 0,
        )


async def _first(requests: AsyncIterator[Request]) -> nodelink_pb2.AgentHello:
    """The greeting. Raises `NotWelcome`."""
    try:
        async with asyncio.timeout(GREETING_TIMEOUT_S):
            first = await anext(requests)
    except TimeoutError as error:
        message = f"no greeting within {GREETING_TIMEOUT_S:g} s"
        raise NotWelcome(nodelink_pb2.LINK_END_PROTOCOL_ERROR, message) from error
    except StopAsyncIteration as error:
        message = "the stream ended before the greeting"
        raise NotWelcome(nodelink_pb2.LINK_END_PROTOCOL_ERROR, message) from error
    if not first.HasField("hello"):
        message = "the first frame must be a greeting"
        raise NotWelcome(nodelink_pb2.LINK_END_PROTOCOL_ERROR, message)
    check_hello(first.hello)
    return first.hello


def _hand_over(held: Link, relay: str) -> None:
    """Tells the older path that the node has left it."""
    path = f"relay {relay}" if relay else "a stream of its own"
    held.end(
        nodelink_pb2.LINK_END_HANDED_OVER,
        f"{held.node} comes through {path} now",
        End("handed_over", f"the node came through {path}", is_news=False),
    )


def _waiting(hello: nodelink_pb2.AgentHello, highest: int) -> int:
    """Reports that wait at the node and are not durable here: some may be whose acknowledgement was lost."""
    if not hello.oldest_report:
        return int(hello.backlog_reports)
    last = hello.oldest_report + hello.backlog_reports - 1
    return int(max(0, min(hello.backlog_reports, last - highest)))


def _take_heartbeat(link: Link, heartbeat: nodelink_pb2.AgentHeartbeat) -> None:
    link.backlog_reports = heartbeat.backlog_reports
    if heartbeat.HasField("rtt"):
        link.rtt_s = heartbeat.rtt.seconds + heartbeat.rtt.nanos / 1e9
    ack = nodelink_pb2.HeartbeatAck(ping_ms=heartbeat.ping_ms)
    link.send(Response(heartbeat_ack=ack))


def _end(
    link: Link,
    reason: nodelink_pb2.LinkEnd,
    why: str,
    message: str,
    retry_after_s: float = 0,
) -> None:
    link.end(reason, message, End(why, message), retry_after_s)


def _duration(seconds: float) -> Duration:
    span = Duration()
    span.FromMilliseconds(int(seconds * 1000))
    return span


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
