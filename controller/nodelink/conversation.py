"""One node's conversation: greeting, proof, return, and what it says once it is live. Owns the life of one session;
what frames mean is the intake's, the staging's, the dispatcher's.

It is the node's, not the stream's: frames come from any iterator and go to whoever iterates `frames`, be it a gRPC
stream of its own or a relay's that carries many.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator

from google.protobuf.duration_pb2 import Duration

from controller.bearer import current_bearer
from controller.journal import Journal
from controller.nodelink.agent_keys import draft_pin, is_vouched, pinned_key
from controller.nodelink.commits import commit
from controller.nodelink.greeting import Identified, NotWelcome, check_hello, waiting
from controller.nodelink.identification import Identification
from controller.nodelink.incidents import is_held
from controller.nodelink.link import NOT_MASTER_MESSAGE, End, Link, goodbye
from controller.nodelink.reception import BUSY_RETRY_S, Reception
from controller.nodelink.relay_call import RelayedCall
from controller.nodelink.reports import NodeMoved, ProtocolBroken, ReportIntake, highest_report
from controller.nodelink.returning import Return
from controller.nodelink.session import Session, SessionState, Step
from controller.nodelink.speaker import Speaker
from controller.twin.facts import Home
from controller.values import StoreFull, ValueStoreError
from federation.errors import InvalidWrite
from souverix.nodelink.v1 import nodelink_pb2

_log = logging.getLogger(__name__)

Request = nodelink_pb2.ConnectRequest
Response = nodelink_pb2.ConnectResponse

#: How long an agent may take to greet, and to prove itself: a stream that says nothing holds a place that another could
#: use.
GREETING_TIMEOUT_S = 10.0

#: Bytes of a nonce and of a session token: neither is ever drawn twice.
NONCE_BYTES = 32
TOKEN_BYTES = 16


class Conversation:
    """One session. `peer` is where the node's agent calls from; `relayed` its place in a relay's stream, if any."""

    def __init__(
        self,
        desk: Reception,
        requests: AsyncIterator[Request],
        peer: str,
        relayed: RelayedCall | None = None,
    ) -> None:
        self._relayed = relayed
        self._desk = desk
        self._requests = requests
        self._peer = peer
        self._session = Session(secrets.token_bytes(TOKEN_BYTES))
        self._link: Link | None = None
        self._return: Return | None = None
        #: Set where a relay stands in between, and TLS is on.
        self._speaker: Speaker | None = None
        self._reader: asyncio.Task[None] | None = None

    async def frames(self) -> AsyncGenerator[Response, None]:
        """What goes to the node, until the session is over."""
        try:
            journal = await self._desk.serving_journal()
            hello = await self._hello()
            relay = self._relayed.relay if self._relayed is not None else ""
            who = Identification(self._desk, journal, hello, self._peer, relay)
            home = await who.examine()
            nonce = secrets.token_bytes(NONCE_BYTES)
            yield self._challenge(home, nonce)
            agent = await who.prove(home, nonce, await self._proof())
            link, intake, back = await self._open(journal, agent, who)
        except NotWelcome as refusal:
            busy = refusal.reason == nodelink_pb2.LINK_END_BUSY
            self._session.move(Step.NO_PLACE if busy else Step.NOT_WELCOME)
            frame = goodbye(refusal.reason, str(refusal), refusal.retry_after_s)
            frame.fence.CopyFrom(self._desk.fence(0))
            yield frame
            return
        if self._relayed is not None:
            self._relayed.opened(link)
        self._reader = asyncio.create_task(self._serve(link, intake, journal, back))
        try:
            async for frame in link.frames():
                yield frame
        finally:
            self.close()

    def close(self) -> None:
        """The session is over; may be called more than once, and before it stood."""
        if self._reader is not None:
            self._reader.cancel()
        self._session.move(Step.LOST)
        link, desk = self._link, self._desk
        if link is None:
            return
        if self._return is not None:
            self._return.lost()
        if not desk.links.remove(link):
            return
        link.left(End("connection_lost", "the stream broke"))
        desk.dispatcher.link_closed(link)
        desk.connectivity.link_closed(link)
        desk.attesting.link_closed(link)
        ended = link.end_reason
        _log.info("link ended", extra={"node": link.node, "cause": ended.reason if ended else ""})

    # Greeting.

    async def _hello(self) -> nodelink_pb2.AgentHello:
        first = await self._next("greeting")
        if not first.HasField("hello"):
            message = "the first frame must be a greeting"
            raise NotWelcome(nodelink_pb2.LINK_END_PROTOCOL_ERROR, message)
        check_hello(first.hello)
        return first.hello

    async def _next(self, what: str) -> Request:
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                return await anext(self._requests)
        except TimeoutError as error:
            message = f"no {what} within {GREETING_TIMEOUT_S:g} s"
            raise NotWelcome(nodelink_pb2.LINK_END_PROTOCOL_ERROR, message) from error
        except StopAsyncIteration as error:
            message = f"the stream ended before the {what}"
            raise NotWelcome(nodelink_pb2.LINK_END_PROTOCOL_ERROR, message) from error

    async def _proof(self) -> nodelink_pb2.AgentProof:
        answer = await self._next("proof")
        if not answer.HasField("proof"):
            message = "a challenge is answered with a proof"
            raise NotWelcome(nodelink_pb2.LINK_END_PROTOCOL_ERROR, message)
        return answer.proof

    def _challenge(self, home: Home, nonce: bytes) -> Response:
        if not self._desk.replica.lease_valid():
            raise NotWelcome(nodelink_pb2.LINK_END_NOT_MASTER, NOT_MASTER_MESSAGE)
        self._session.move(Step.PLACE_FREE)
        frame = Response(challenge=nodelink_pb2.Challenge(nonce=nonce))
        frame.fence.CopyFrom(self._desk.fence(home.epoch))
        return frame

    async def _open(
        self, journal: Journal, agent: Identified, who: Identification
    ) -> tuple[Link, ReportIntake, Return]:
        desk, hello, home = self._desk, agent.hello, agent.home
        facts = desk.replica.state
        if not agent.is_known:
            await desk.enrolment.enrol(journal, hello, self._peer, agent.vouched)
        elif not pinned_key(facts, home.domain, hello.node) or (
            agent.vouched is not None
            and not is_vouched(facts, desk.replica.revocations, home.domain, hello.node)
        ):
            key = await commit(
                journal,
                lambda p: draft_pin(p, home.domain, hello.node, hello.public_key, agent.vouched),
            )
            if key != hello.public_key:
                await who.refuse_key(home, key, agent.vouched)
        now_s = time.monotonic()
        relay = self._relayed.relay if self._relayed is not None else ""
        desk.make_room(agent, self._peer, relay, now_s)
        if desk.journal is not journal:
            raise NotWelcome(nodelink_pb2.LINK_END_NOT_MASTER, NOT_MASTER_MESSAGE)
        highest = highest_report(facts, home.domain, hello.node, hello.source)
        left = waiting(hello, highest)
        if is_held(facts, home.domain, hello.node):
            self._session.move(Step.PROVED_ISOLATED)
        else:
            self._session.move(Step.PROVED_BEHIND if left else Step.PROVED_LEVEL)
        link = Link(
            hello.node,
            home.domain,
            hello.source,
            hello.run,
            self._session,
            desk.fence(home.epoch),
            now_s,
            desk.replica.lease_valid,
        )
        link.peer, link.relay, link.vouched = self._peer, relay, agent.vouched
        bearer = current_bearer()
        if agent.vouched is not None and bearer is not None:
            is_own = bearer.fingerprint == agent.vouched.fingerprint
            link.watched = None if is_own else agent.vouched
        link.backlog_reports = left
        desk.links.add(link)
        intake = ReportIntake(link, highest, desk.values, _wall_ms, self._durable)
        back = Return(desk, link, intake, journal, self._peer, hello.public_key)
        self._link, self._return = link, back
        if relay and agent.vouched is not None:
            self._speaker = Speaker(desk.verifier, hello.public_key, self._session.token)
        self._welcome(link, highest)
        _log.info("link opened", extra={"node": link.node, "agent": hello.agent_version})
        return link, intake, back

    def _welcome(self, link: Link, highest: int) -> None:
        desk = self._desk
        config = desk.replica.config
        welcome = nodelink_pb2.Welcome(
            domain=link.domain,
            heartbeat_interval=_duration(config.agents.heartbeat_interval_s),
            lease_ttl=_duration(config.log.lease_ttl_s),
            reports_acknowledged=highest,
            session_token=self._session.token,
            locked=self._session.state is not SessionState.LIVE,
            signed=self._speaker is not None,
        )
        link.send(Response(welcome=welcome))
        if self._session.state is SessionState.QUARANTINED:
            isolated = nodelink_pb2.Isolated(
                reason="BACKLOG_REFUSED",
                message="the backlog was refused before, and nobody has released the node since",
            )
            link.send(Response(isolated=isolated))
        desk.dispatcher.link_opened(link)
        desk.connectivity.link_opened(link)
        desk.attesting.link_opened(link)

    def _durable(self, reports: int) -> None:
        if self._link is not None:
            self._desk.connectivity.reports_durable(self._link, reports)
        if self._return is not None:
            self._return.durable(reports)

    # A standing link.

    async def _serve(
        self, link: Link, intake: ReportIntake, journal: Journal, back: Return
    ) -> None:
        """Reads the stream and commits its reports, until either ends; then the link has ended for a reason."""
        tasks = {
            asyncio.create_task(self._read(link, intake, journal, back)),
            asyncio.create_task(intake.run(journal)),
            asyncio.create_task(back.run()),
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

    async def _read(self, link: Link, intake: ReportIntake, journal: Journal, back: Return) -> None:
        desk = self._desk
        async for request in self._requests:
            if not link.is_open:
                return
            link.heard_s = time.monotonic()
            if link.contest is not None:
                await desk.heard_while_contested(link, journal)
            if self._speaker is not None:
                request = self._speaker.opened(request)
            kind = request.WhichOneof("kind") or ""
            if kind and not self._session.takes(kind):
                raise ProtocolBroken(f"a {kind} is out of place while {self._session.state.name}")
            match kind:
                case "heartbeat":
                    _take_heartbeat(link, request.heartbeat)
                    desk.connectivity.heard(link)
                case "report":
                    intake.offer(request.report)
                case "chunk":
                    await intake.take_chunk(request.chunk)
                case "result":
                    desk.dispatcher.answered(link, request.result)
                case "replay_chunk":
                    back.take(request.replay_chunk)
                case "attestation":
                    desk.attesting.answered(link, request.attestation, self._peer)
                case "goodbye":
                    link.left(End("agent_stopped", request.goodbye.reason[:200]))
                    return
        link.left(End("connection_lost", "the agent closed the stream"))


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
