"""Writes on their way to the controller that makes them: this controller's callers' and its peers'. Owns the requests
under way and what may be passed on; decides nothing about a write, and never executes one in another's place.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Protocol

import grpc

from controller.access.bindings import is_member
from controller.errors import ForwardedStatus, ServiceError, status_of
from controller.replica import Replica
from controller.sync.driver import SessionDriver
from controller.writes import PRINCIPAL_PATTERN, Caller
from souverix.sync.v1 import sync_pb2
from telemetry.context import current, parse
from telemetry.spans import Kind
from trust.tokens import MAX_GROUPS

#: Hops a forwarded write may take: deeper trees of authority are not on record, and a loop must end.
MAX_HOPS = 8

#: Forwarded writes under way, of this controller's callers and of its peers': more than a controller has callers,
#: bounded for memory.
MAX_FORWARDS = 4096

#: Request or response of a forwarded write: a message of the largest size on the link, less its envelope.
MAX_FORWARD_BYTES = 3 * 1024 * 1024 + 512 * 1024

#: Of a method's name and of a domain's id, in what is said of a write that is refused.
MAX_METHOD = 128
MAX_ID = 63

#: Wait for the outcome of a forwarded write when the caller set no deadline.
FORWARD_TIMEOUT_S = 10.0


class Local(Protocol):
    """Executes a forwarded write on this controller."""

    async def execute(self, method: str, request: bytes, caller: Caller) -> bytes:
        """The serialised response. Raises what the method's handler raises."""

    async def note_refusal(self, method: str, caller: Caller, error: ServiceError) -> None:
        """Has it audited that a peer's write was refused before it was executed."""


class NextHop(Protocol):
    """Finds the session by which a controller is reached."""

    def __call__(self, controller: str) -> SessionDriver | None:
        """None while there is none."""


class Forwards:
    """The forwarded writes of one replica."""

    def __init__(self, replica: Replica, local: Local, next_hop: NextHop) -> None:
        self._replica = replica
        self._local = local
        self._next_hop = next_hop
        self._waiting: dict[int, tuple[SessionDriver, asyncio.Future[sync_pb2.ForwardReply]]] = {}
        self._next_number = 0
        #: Writes of peers that are executed here or passed on, by the session they came on.
        self._serving: Counter[SessionDriver] = Counter()

    @property
    def under_way(self) -> int:
        """Writes that were sent and not answered."""
        return len(self._waiting)

    def is_busy(self, driver: SessionDriver) -> bool:
        """Tells whether writes of either side are under way on a session."""
        return self._serving[driver] > 0 or any(on is driver for on, _ in self._waiting.values())

    def ended(self, driver: SessionDriver) -> None:
        """A session is over: writes that wait on it have an unknown outcome."""
        for number, (over, future) in list(self._waiting.items()):
            if over is driver and not future.done():
                future.set_exception(_outcome_unknown(driver.session.peer))
                del self._waiting[number]

    async def forward(self, controller: str, method: str, request: bytes, caller: Caller) -> bytes:
        """Has a write made by another controller; its serialised response.

        Raises `ForwardedStatus` with the other's status, `ServiceError` when it could not be sent or its outcome
        is unknown. It is never executed here instead.
        """
        own = self._replica.config.controller.id
        driver = self._next_hop(controller)
        if driver is None or len(self._waiting) >= MAX_FORWARDS:
            raise ServiceError(
                grpc.StatusCode.UNAVAILABLE,
                "LINK_DOWN",
                f"the write is {controller}'s to make and there is no link towards it now; nothing was changed",
                {"master": controller},
                retry_after_ms=1000,
            )
        if len(caller.via) >= MAX_HOPS or own in caller.via:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "FORWARD_LOOP",
                f"the write was passed on by {', '.join(caller.via)} and did not reach {controller}; the controllers "
                "disagree about the tree of authority",
            )
        if len(request) > MAX_FORWARD_BYTES:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "TOO_LARGE",
                f"the write is {controller}'s to make, and {len(request)} bytes are too many to pass on (at most "
                f"{MAX_FORWARD_BYTES}); split it, or ask {controller} itself",
                {"master": controller},
            )
        timeout_s = FORWARD_TIMEOUT_S if caller.remaining_s is None else caller.remaining_s
        self._next_number += 1
        number = self._next_number
        future: asyncio.Future[sync_pb2.ForwardReply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (driver, future)
        driver.send(
            sync_pb2.Frame(
                forward=sync_pb2.Forward(
                    id=number,
                    to_controller=controller,
                    method=method,
                    request=request,
                    principal=caller.principal,
                    issued_by=caller.issued_by,
                    groups=caller.groups,
                    via=[*caller.via, own],
                    timeout_ms=int(timeout_s * 1000),
                    traceparent=str(current() or ""),
                )
            )
        )
        try:
            reply = await asyncio.wait_for(future, timeout_s)
        except TimeoutError as error:
            raise _outcome_unknown(controller) from error
        finally:
            self._waiting.pop(number, None)
        if reply.status_code != 0:
            raise ForwardedStatus(reply.status_code, reply.status_message, reply.status_details)
        return reply.response

    async def serve(
        self, driver: SessionDriver, forward: sync_pb2.Forward, *, of_child: bool
    ) -> None:
        """Makes a peer's write here, or passes it on, and answers the peer."""
        caller = Caller(
            forward.principal,
            f"controller:{driver.session.peer}",
            forward.timeout_ms / 1000,
            tuple(forward.via),
            forward.issued_by,
            tuple(forward.groups),
        )
        parent = parse(forward.traceparent) if forward.traceparent else None
        with self._replica.telemetry.tracer.span("sync.forward", kind=Kind.SERVER, parent=parent):
            reply = await self._reply(driver, forward, caller, of_child=of_child)
        driver.send(sync_pb2.Frame(forward_reply=reply))

    async def _reply(
        self,
        driver: SessionDriver,
        forward: sync_pb2.Forward,
        caller: Caller,
        *,
        of_child: bool,
    ) -> sync_pb2.ForwardReply:
        reply = sync_pb2.ForwardReply(id=forward.id)
        self._serving[driver] += 1
        try:
            await self._check(driver, forward, caller, of_child=of_child)
            if forward.to_controller == self._replica.config.controller.id:
                response = await self._local.execute(forward.method, forward.request, caller)
                if len(response) > MAX_FORWARD_BYTES:
                    raise ServiceError(
                        grpc.StatusCode.RESOURCE_EXHAUSTED,
                        "RESPONSE_TOO_LARGE",
                        f"{forward.method} was executed by {forward.to_controller}, and its response of "
                        f"{len(response)} bytes is too large to pass on; read what was written",
                    )
                reply.response = response
            else:
                reply.response = await self.forward(
                    forward.to_controller, forward.method, forward.request, caller
                )
        except Exception as error:  # noqa: BLE001 every failure must reach the first controller as a status
            status = status_of(error)
            reply.status_code = status.code
            reply.status_message = status.message
            reply.status_details = status.SerializeToString()
        finally:
            self._serving[driver] -= 1
            if not self._serving[driver]:
                del self._serving[driver]
        return reply

    async def _check(
        self,
        driver: SessionDriver,
        forward: sync_pb2.Forward,
        caller: Caller,
        *,
        of_child: bool,
    ) -> None:
        """Refuses what is too much, and what a peer may not say. The latter is audited: the peer is broken, or not what
        it says.
        """
        if self._serving.total() > MAX_FORWARDS:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "OVERLOADED",
                f"{MAX_FORWARDS} forwarded writes are under way here already; retry later",
                retry_after_ms=1000,
            )
        untrue = self._untruth(driver, forward, of_child=of_child)
        if untrue is not None:
            # Nobody is named in the audit log on the word of a peer that is not believed.
            doubted = Caller(caller.source, caller.source)
            await self._local.note_refusal(forward.method[:MAX_METHOD], doubted, untrue)
            raise untrue

    def _untruth(
        self, driver: SessionDriver, forward: sync_pb2.Forward, *, of_child: bool
    ) -> ServiceError | None:
        """What is wrong with what a peer says of a write: whose word it is decides what may be written. A child speaks
        for itself and those below it, and for people whom the first of these knows by its own domain's word, or by
        that of one below.
        """
        table = self._replica.state.authority
        peer, below = driver.session.peer, driver.session.peer_domain
        if not _is_named(forward):
            return ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "PRINCIPAL_MALFORMED",
                f"{peer} passed on a write of somebody whose name, or whose groups, are none",
            )
        served = [table.domain_served_by(controller) for controller in forward.via]
        truthful = bool(forward.via) and forward.via[-1] == peer
        if of_child:
            truthful = truthful and all(d is not None and table.is_within(d, below) for d in served)
        if not truthful:
            return ServiceError(
                grpc.StatusCode.PERMISSION_DENIED,
                "FORWARD_UNTRUE",
                f"{peer} passed on a write as coming by way of {', '.join(forward.via) or 'nobody'}; it may speak for "
                "itself and the controllers below it",
            )
        vouching, taker = forward.issued_by, served[0] or ""
        unproved = not vouching and self._replica.config.tls is not None
        if of_child and (unproved or (vouching and not table.is_within(vouching, taker))):
            who = f"domain {vouching[:MAX_ID]}" if vouching else "nobody"
            return ServiceError(
                grpc.StatusCode.PERMISSION_DENIED,
                "FORWARD_UNTRUE",
                f"{forward.via[0]} passed on a write of {forward.principal}, for whom {who} "
                f"vouches; upwards it may speak for people of {taker} and below: call the controller that is above it "
                "itself",
            )
        return None

    def answered(self, driver: SessionDriver, reply: sync_pb2.ForwardReply) -> None:
        """A peer answers. An answer by another than the one that was asked counts for nothing."""
        waiting = self._waiting.get(reply.id)
        if waiting is not None and waiting[0] is driver and not waiting[1].done():
            waiting[1].set_result(reply)


def _is_named(forward: sync_pb2.Forward) -> bool:
    """Tells whether those it names could be: they go into the audit log."""
    return (
        PRINCIPAL_PATTERN.fullmatch(forward.principal) is not None
        and len(forward.groups) <= MAX_GROUPS
        and all(is_member(group) for group in forward.groups)
    )


def _outcome_unknown(controller: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        "OUTCOME_UNKNOWN",
        f"the write was sent to {controller} and no answer came; repeat it with the same request_id",
        {"master": controller},
        retry_after_ms=1000,
    )
