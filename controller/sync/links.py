"""The sync sessions that stand, and what goes over them beside events: forwarded writes, acknowledgements for the
levels below, large values. Owns the registry and the requests under way; decides nothing about a write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from controller.errors import ForwardedStatus, ServiceError, status_of
from controller.replica import Replica
from controller.sync.driver import SessionDriver
from controller.values import ValueStore, ValueStoreError
from controller.writes import Caller
from federation.backlog import SyncDebt
from federation.identifiers import Key, Lane, StreamId
from federation.session import PeerRole, Phase, Session
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import observation_pb2
from souverix.sync.v1 import sync_pb2

_log = logging.getLogger(__name__)

#: Hops a forwarded write may take: deeper trees of authority are not on record, and a loop must end.
MAX_HOPS = 8

#: Forwarded writes under way over one link: more than the callers of one controller, bounded for memory.
MAX_FORWARDS = 4096

#: Wait for the outcome of a forwarded write when the caller set no deadline.
FORWARD_TIMEOUT_S = 10.0

#: Digests asked for in one frame: their answers are at most 16 MiB, sent a frame each.
WANTED_A_FRAME = 64


class Local(Protocol):
    """Executes a forwarded write on this controller."""

    async def execute(self, method: str, request: bytes, caller: Caller) -> bytes:
        """The serialised response. Raises what the method's handler raises."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """A peer as operators see it; times in milliseconds since the epoch, None: never or not known."""

    controller: str
    domain: str
    role: PeerRole
    phase: Phase
    address: str
    last_seen_ms: int | None
    debt: SyncDebt | None
    skew_ms: int | None
    last_error: str
    next_attempt_ms: int | None
    last_level_ms: int | None


@dataclass(frozen=True, slots=True)
class _Past:
    last_seen_ms: int | None = None
    last_error: str = ""
    last_level_ms: int | None = None
    next_attempt_ms: int | None = None


class Links:
    """All sessions of one replica: at most one to the parent, at most one to each child."""

    def __init__(self) -> None:
        self.parent: SessionDriver | None = None
        self.children: dict[str, SessionDriver] = {}
        self._replica: Replica | None = None
        self._values: ValueStore | None = None
        self._local: Local | None = None
        self._forwards: dict[int, tuple[SessionDriver, asyncio.Future[sync_pb2.ForwardReply]]] = {}
        self._next_forward = 0
        self._past: dict[str, _Past] = {}
        #: By peer, the last session that exchanged events: it knows what the peer acknowledged, also when it is over.
        self._exchanged: dict[str, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Asks the dialer for a session now; set by the dialer.
        self.dial_now: Callable[[], None] = lambda: None

    def attach(self, replica: Replica, values: ValueStore, local: Local) -> None:
        """Completes the wiring: links are a part of the replica's write path, and use it themselves."""
        self._replica = replica
        self._values = values
        self._local = local

    # Sessions.

    def opened(self, driver: SessionDriver, role: PeerRole) -> None:
        """A session begins; an earlier one of the same child is ended."""
        if role is PeerRole.PARENT:
            self.parent = driver

    def ended(
        self, driver: SessionDriver, message: str, next_attempt_ms: int | None = None
    ) -> None:
        """A session is over; writes that wait on it have an unknown outcome."""
        if self.parent is driver:
            self.parent = None
        for controller, held in list(self.children.items()):
            if held is driver:
                del self.children[controller]
        peer = driver.session.peer
        if peer:
            earlier = self._past.get(peer, _Past())
            self._past[peer] = _Past(
                driver.last_seen_ms or earlier.last_seen_ms,
                message,
                driver.session.last_level_ms or earlier.last_level_ms,
                next_attempt_ms,
            )
        for number, (over, future) in list(self._forwards.items()):
            if over is driver and not future.done():
                future.set_exception(_outcome_unknown(peer))
                del self._forwards[number]

    def attempt_failed(self, controller: str, message: str, next_attempt_ms: int) -> None:
        """The parent could not be reached."""
        earlier = self._past.get(controller, _Past())
        self._past[controller] = _Past(
            earlier.last_seen_ms, message, earlier.last_level_ms, next_attempt_ms
        )

    # What sessions tell (driver.Observer).

    def live(self, driver: SessionDriver) -> None:
        """A session exchanges events: register a child, and tell it what is durable above."""
        replica = self._required_replica()
        self._exchanged[driver.session.peer] = driver.session
        if driver is self.parent:
            self._spawn(self._want_missing(driver, replica))
            return
        earlier = self.children.get(driver.session.peer)
        if earlier is not None and earlier is not driver:
            earlier.close(
                sync_pb2.GOODBYE_REASON_REPLACED, "a newer session of this peer took over"
            )
        self.children[driver.session.peer] = driver
        for domain, positions in replica.durability.vectors().items():
            driver.durable_above(domain, positions)
        self._spawn(self._want_missing(driver, replica))

    def acknowledged(
        self, driver: SessionDriver, domain: str, positions: Mapping[StreamId, int]
    ) -> None:
        """Takes in an acknowledgement from above and passes it down."""
        if driver is not self.parent:
            return
        replica = self._required_replica()
        self._spawn(replica.durability.advance(domain, positions))
        for child in self.children.values():
            child.durable_above(domain, positions)

    def passed(self, driver: SessionDriver, frame: sync_pb2.Frame) -> None:
        """Handles frames that are no part of syncing."""
        kind = frame.WhichOneof("kind")
        if kind == "forward":
            self._spawn(self._on_forward(driver, frame.forward))
        elif kind == "forward_reply":
            self._on_forward_reply(driver, frame.forward_reply)
        elif kind == "want_chunks":
            self._spawn(self._on_want_chunks(driver, frame.want_chunks))
        elif kind == "chunk":
            self._spawn(self._on_chunk(frame.chunk))

    def committed(self, driver: SessionDriver, runs: Sequence[event_pb2.Run]) -> None:
        """Asks the peer for large values that its observations name and that are not here."""
        telemetry = [run for run in runs if run.stream.lane == int(Lane.TELEMETRY)]
        if telemetry:
            self._spawn(self._want_named(driver, telemetry))

    # Views.

    def peers(self) -> list[PeerView]:
        """The parent, then the children by id."""
        replica = self._required_replica()
        config = replica.config
        views = []
        if config.parent is not None:
            views.append(
                self._view(
                    config.parent.controller,
                    "",
                    PeerRole.PARENT,
                    self.parent,
                    ",".join(config.parent.addresses),
                )
            )
        configured = {child.controller: child.domain for child in config.children}
        for controller in sorted(configured.keys() | self.children.keys()):
            driver = self.children.get(controller)
            domain = configured.get(controller) or (driver.session.peer_domain if driver else "")
            views.append(self._view(controller, domain, PeerRole.CHILD, driver, ""))
        return views

    async def sync_now(self, timeout_s: float) -> AsyncGenerator[PeerView, None]:
        """Opens a session with the parent in every mode, and tells how it goes until both sides are level or the
        time is over.
        """
        replica = self._required_replica()
        if replica.config.parent is None:
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        start_level = self._level_ms(replica.config.parent.controller)
        self.dial_now()
        while loop.time() < end:
            view = self.peers()[0]
            yield view
            driver = self.parent
            if driver is not None and driver.session.is_level and driver.session.peer_level:
                return
            if driver is None and self._level_ms(view.controller) != start_level:
                return
            await asyncio.sleep(0.1)

    def _level_ms(self, controller: str) -> int | None:
        return self._past.get(controller, _Past()).last_level_ms

    def _view(
        self,
        controller: str,
        domain: str,
        role: PeerRole,
        driver: SessionDriver | None,
        address: str,
    ) -> PeerView:
        past = self._past.get(controller, _Past())
        exchanged = self._exchanged.get(controller)
        debt = exchanged.debt(time.time_ns() // 1_000_000) if exchanged is not None else None
        if driver is None:
            return PeerView(
                controller,
                domain,
                role,
                Phase.CLOSED,
                address,
                past.last_seen_ms,
                debt,
                None,
                past.last_error,
                past.next_attempt_ms,
                past.last_level_ms,
            )
        session = driver.session
        return PeerView(
            controller,
            session.peer_domain or domain,
            role,
            session.phase,
            driver.address,
            driver.last_seen_ms or past.last_seen_ms,
            debt,
            session.skew_ms,
            past.last_error,
            None,
            session.last_level_ms or past.last_level_ms,
        )

    # Forwarding (writes.Forwarder).

    def link_up(self, controller: str) -> bool:
        """Tells whether the next hop towards a controller has a session now."""
        return self._next_hop(controller) is not None

    def last_heard_ms(self, controller: str) -> int | None:
        """When the next hop towards a controller was last heard, since the epoch; None: never by this process."""
        driver = self._next_hop(controller)
        if driver is not None:
            return driver.last_seen_ms or None
        table = self._required_replica().state.authority
        domain = table.domain_served_by(controller)
        heard = [
            past.last_seen_ms
            for peer, past in self._past.items()
            if past.last_seen_ms is not None and self._leads_to(peer, domain)
        ]
        return max(heard, default=None)

    async def forward(self, controller: str, method: str, request: bytes, caller: Caller) -> bytes:
        """Has a write made by another controller; its serialised response.

        Raises `ForwardedStatus` with the other's status, `ServiceError` when it could not be sent or its outcome
        is unknown. It is never executed here instead.
        """
        replica = self._required_replica()
        driver = self._next_hop(controller)
        if driver is None or len(self._forwards) >= MAX_FORWARDS:
            raise ServiceError(
                grpc.StatusCode.UNAVAILABLE,
                "LINK_DOWN",
                f"the write is {controller}'s to make and there is no link towards it now; nothing was changed",
                {"master": controller},
                retry_after_ms=1000,
            )
        if len(caller.via) >= MAX_HOPS or replica.config.controller.id in caller.via:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "FORWARD_LOOP",
                f"the write was passed on by {', '.join(caller.via)} and did not reach {controller}; the controllers "
                "disagree about the tree of authority",
            )
        timeout_s = FORWARD_TIMEOUT_S if caller.remaining_s is None else caller.remaining_s
        self._next_forward += 1
        number = self._next_forward
        future: asyncio.Future[sync_pb2.ForwardReply] = asyncio.get_running_loop().create_future()
        self._forwards[number] = (driver, future)
        driver.send(
            sync_pb2.Frame(
                forward=sync_pb2.Forward(
                    id=number,
                    to_controller=controller,
                    method=method,
                    request=request,
                    principal=caller.principal,
                    via=[*caller.via, replica.config.controller.id],
                    timeout_ms=int(timeout_s * 1000),
                )
            )
        )
        try:
            reply = await asyncio.wait_for(future, timeout_s)
        except TimeoutError as error:
            raise _outcome_unknown(controller) from error
        finally:
            self._forwards.pop(number, None)
        if reply.status_code != 0:
            raise ForwardedStatus(reply.status_code, reply.status_message, reply.status_details)
        return reply.response

    def _next_hop(self, controller: str) -> SessionDriver | None:
        replica = self._required_replica()
        table = replica.state.authority
        own = replica.config.controller.domain
        domain = table.domain_served_by(controller)
        if domain is None:
            return None
        if not table.is_within(domain, own):
            driver = self.parent
        else:
            driver = next(
                (
                    d
                    for d in self.children.values()
                    if table.is_within(domain, d.session.peer_domain)
                ),
                None,
            )
        return driver if driver is not None and driver.session.phase is Phase.SYNCING else None

    def _leads_to(self, peer: str, domain: str | None) -> bool:
        """Tells whether what goes to a domain goes by way of a peer."""
        replica = self._required_replica()
        table = replica.state.authority
        if domain is None:
            return False
        if not table.is_within(domain, replica.config.controller.domain):
            parent = replica.config.parent
            return parent is not None and peer == parent.controller
        served = table.domain_served_by(peer)
        return served is not None and table.is_within(domain, served)

    async def _on_forward(self, driver: SessionDriver, forward: sync_pb2.Forward) -> None:
        replica = self._required_replica()
        caller = Caller(
            forward.principal,
            f"controller:{driver.session.peer}",
            forward.timeout_ms / 1000,
            tuple(forward.via),
        )
        reply = sync_pb2.ForwardReply(id=forward.id)
        try:
            if forward.to_controller == replica.config.controller.id:
                if self._local is None:
                    raise RuntimeError("links are not attached")
                reply.response = await self._local.execute(forward.method, forward.request, caller)
            else:
                reply.response = await self.forward(
                    forward.to_controller, forward.method, forward.request, caller
                )
        except Exception as error:  # noqa: BLE001 every failure must reach the first controller as a status
            status = status_of(error)
            reply.status_code = status.code
            reply.status_message = status.message
            reply.status_details = status.SerializeToString()
        driver.send(sync_pb2.Frame(forward_reply=reply))

    def _on_forward_reply(self, driver: SessionDriver, reply: sync_pb2.ForwardReply) -> None:
        waiting = self._forwards.pop(reply.id, None)
        if waiting is not None and waiting[0] is driver and not waiting[1].done():
            waiting[1].set_result(reply)

    # Large values.

    async def _want_named(self, driver: SessionDriver, runs: Sequence[event_pb2.Run]) -> None:
        digests = []
        for run in runs:
            for raw in run.events:
                event = event_pb2.Event.FromString(raw)
                digests += _digests_of(event.inventory)
        await self._want(driver, digests)

    async def _want_missing(self, driver: SessionDriver, replica: Replica) -> None:
        """After a cut: whatever observations name and is not here."""
        if driver is self.parent:
            return
        digests = []
        for domain in replica.state.authority.subtree_of(driver.session.peer_domain):
            for subject in list(replica.state.subjects_of(domain, "nodes")):
                write = replica.state.winner(Key(domain, subject, "inventory"))
                if write is not None:
                    digests += _digests_of(write.body())
            await asyncio.sleep(0)
        await self._want(driver, digests)

    async def _want(self, driver: SessionDriver, digests: Sequence[str]) -> None:
        if self._values is None or not digests:
            return
        missing = await self._values.missing(list(dict.fromkeys(digests)))
        for at in range(0, len(missing), WANTED_A_FRAME):
            wanted = sync_pb2.WantChunks(digests=missing[at : at + WANTED_A_FRAME])
            driver.send(sync_pb2.Frame(want_chunks=wanted))

    async def _on_want_chunks(self, driver: SessionDriver, want: sync_pb2.WantChunks) -> None:
        if self._values is None:
            return
        for digest in want.digests[:WANTED_A_FRAME]:
            try:
                chunk = sync_pb2.Chunk(digest=digest, data=await self._values.get(digest))
            except (ValueStoreError, OSError):
                chunk = sync_pb2.Chunk(digest=digest, missing=True)
            driver.send(sync_pb2.Frame(chunk=chunk))

    async def _on_chunk(self, chunk: sync_pb2.Chunk) -> None:
        if self._values is None or chunk.missing:
            return
        try:
            await self._values.put(chunk.digest, chunk.data)
        except (ValueStoreError, OSError) as error:
            _log.warning(
                "a chunk was not stored", extra={"digest": chunk.digest, "error": str(error)}
            )

    def _required_replica(self) -> Replica:
        if self._replica is None:
            raise RuntimeError("links are not attached")
        return self._replica

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _digests_of(inventory: observation_pb2.Inventory) -> list[str]:
    """Digests of the chunks an inventory names; a value of one chunk is that chunk."""
    digests = []
    for value in inventory.large_values:
        digests += [chunk.digest for chunk in value.chunks] or [value.digest]
    return digests


def _outcome_unknown(controller: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        "OUTCOME_UNKNOWN",
        f"the write was sent to {controller} and no answer came; repeat it with the same request_id",
        {"master": controller},
        retry_after_ms=1000,
    )
